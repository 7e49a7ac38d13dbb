//! Against real servers (`redis-server`, which `tests/run` installs), on both drivers of the reactor.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::client::Names;
use crate::limits;
use crate::reactor::{Config, Driver, block_on};
use crate::transport::TlsClients;
use crate::transport::pool::Pools;
use crate::transport::trust::Trust;

/// A server, ended when it is dropped.
struct Server {
    child: Child,
    port: u16,
    dir: std::path::PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Server {
    /// Starts one on a free port.
    fn start(args: &[&str]) -> Server {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = std::env::temp_dir().join(format!("ringway-redis-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("redis.conf");
        std::fs::write(&file, args.join("\n")).unwrap();
        let sentinel = args.iter().any(|arg| arg.starts_with("sentinel"));
        let child = Command::new("redis-server")
            .arg(&file)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "127.0.0.2", "--save", ""])
            .arg("--dir")
            .arg(&dir)
            .args(sentinel.then_some("--sentinel"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server starts");
        let server = Server { child, port, dir };
        let until = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }
}

fn outbound() -> Rc<Outbound> {
    let tls = Rc::new(TlsClients::new(Trust::Anyone));
    Rc::new(Outbound::new(Names::new(|_| true), Rc::new(Pools::new()), tls))
}

fn client(conf: Value) -> Rc<Client> {
    let outbound = outbound();
    outbound.redis.get(Conf::of(&conf).unwrap().unwrap(), &outbound)
}

fn on_both(test: impl AsyncFn()) {
    for driver in [Driver::Auto, Driver::Epoll] {
        block_on(Config { driver, ..Config::default() }, |_| test()).unwrap();
    }
}

fn single(port: u16) -> Value {
    json!({"policy": "redis", "redis_host": "127.0.0.1", "redis_port": port, "redis_timeout": 2000})
}

fn incr() -> Script {
    Script::new("return redis.call('INCR', KEYS[1])")
}

#[test]
fn a_script_is_sent_once_and_commands_share_a_connection() {
    let server = Server::start(&[]);
    on_both(async || {
        let client = client(single(server.port));
        client.command(b"", &[b"FLUSHALL"]).await.unwrap();
        client.command(b"", &[b"SCRIPT", b"FLUSH"]).await.unwrap();
        client.eval(&incr(), &[b"other"], &[]).await.unwrap();
        let reads = async || {
            let told = client.command(b"", &[b"INFO", b"stats"]).await.unwrap();
            let field = told.text().unwrap().lines().find_map(|l| l.strip_prefix("total_reads_processed:"));
            field.unwrap().trim().parse::<u32>().unwrap()
        };
        let before = reads().await;
        let done = Rc::new(std::cell::Cell::new(0));
        for _ in 0..500 {
            let (client, done) = (client.clone(), done.clone());
            reactor::spawn(async move {
                client.eval(&incr(), &[b"k"], &[]).await.unwrap();
                done.set(done.get() + 1);
            });
        }
        while done.get() < 500 {
            reactor::sleep(1).await;
        }
        // what is asked in one turn leaves in a few sends, not in one for each
        let needed = reads().await - before;
        assert!(needed < 50, "{needed} reads for 500 commands");
        assert_eq!(client.command(b"k", &[b"GET", b"k"]).await.unwrap().number(), Some(500.0));
        let clients = client.command(b"", &[b"CLIENT", b"LIST"]).await.unwrap();
        assert_eq!(clients.text().unwrap().lines().count(), 1);
    });
}

#[test]
fn a_server_that_never_answers_is_asked_no_more_than_so_often_at_once() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    on_both(async || {
        let mut conf = single(port);
        conf["redis_timeout"] = json!(60_000);
        let client = client(conf);
        let busy = Rc::new(std::cell::Cell::new(0));
        for _ in 0..limits::REDIS_WAITING + 3 {
            let (client, busy) = (client.clone(), busy.clone());
            reactor::spawn(async move {
                if matches!(client.command(b"", &[b"GET", b"k"]).await, Err(Error::Busy)) {
                    busy.set(busy.get() + 1);
                }
            });
        }
        let until_ms = reactor::now_ms() + 10_000;
        while busy.get() < 3 && reactor::now_ms() < until_ms {
            reactor::sleep(1).await;
        }
        assert_eq!(busy.get(), 3, "those who find no room are told at once");
    });
}

#[test]
fn logs_in_and_selects_a_database() {
    let server = Server::start(&["requirepass secret", "user tom on >tiger ~* +@all"]);
    on_both(async || {
        let asked = async |more: Value| {
            let mut conf = single(server.port);
            conf.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let outcome = client(conf).command(b"", &[b"CLIENT", b"INFO"]).await;
            outcome.map(|info| {
                let word = |name: &str| {
                    info.text()?.split(' ').find_map(|w| w.strip_prefix(name)).map(str::to_owned)
                };
                (word("user=").unwrap(), word("db=").unwrap())
            })
        };
        let default = asked(json!({"redis_password": "secret", "redis_database": 3})).await;
        assert_eq!(default, Ok(("default".into(), "3".into())));
        let tom = asked(json!({"redis_username": "tom", "redis_password": "tiger"})).await;
        assert_eq!(tom, Ok(("tom".into(), "0".into())));
        for (wrong, error) in [
            (json!({"redis_password": "wrong"}), "WRONGPASS"),
            (json!({}), "NOAUTH"),
            (json!({"redis_password": "secret", "redis_database": 999}), "ERR DB index"),
        ] {
            match asked(wrong.clone()).await {
                Err(Error::Server(text)) => assert!(text.starts_with(error), "{wrong}: {text}"),
                other => panic!("{wrong}: {other:?}"),
            }
        }
    });
}

#[test]
fn an_absent_server_and_a_slow_one_are_errors_in_time() {
    let mut server = Server::start(&[]);
    on_both(async || {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut conf = single(silent.local_addr().unwrap().port());
        conf["redis_timeout"] = json!(50);
        let slow = client(conf);
        let began = reactor::now_ms();
        let first = slow.command(b"k", &[b"GET", b"k"]);
        assert_eq!(first.await, Err(Error::Timeout));
        assert!(reactor::now_ms() - began < 1000);
        drop(silent);
        let absent = client(single(1)).command(b"k", &[b"GET", b"k"]).await;
        assert!(matches!(absent, Err(Error::Closed(_))), "{absent:?}");
    });
    let _ = server.child.kill();
}

#[test]
fn what_nobody_waits_for_any_more_is_not_sent_once_the_connection_is_open() {
    on_both(async || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
        let (given_up, wait) = std::sync::mpsc::channel();
        let server = std::thread::spawn(move || {
            let mut link = listener.accept().unwrap().0;
            assert_ne!(link.read(&mut [0; 100]).unwrap(), 0, "it logs in");
            wait.recv().unwrap();
            link.write_all(b"+OK\r\n").unwrap();
            let mut more = String::new();
            link.read_to_string(&mut more).map(|_| more)
        });
        let login = Login { password: Some("p".into()), ..Login::default() };
        let link = Link::open(address, login, Times::of(10_000, 100), outbound());
        let asked = link.ask(b"*1\r\n$4\r\nPING\r\n", reactor::now_ms() + 200).await;
        assert_eq!(asked, Err(Error::Timeout));
        given_up.send(()).unwrap();
        while !server.is_finished() {
            reactor::sleep(1).await;
        }
        assert_eq!(server.join().unwrap().unwrap(), "");
    });
}

#[test]
fn a_server_that_came_back_is_asked_again() {
    let server = Server::start(&[]);
    on_both(async || {
        let client = client(single(server.port));
        assert_eq!(client.command(b"", &[b"PING"]).await, Ok(Reply::Simple("PONG".into())));
        let other = self::client(single(server.port));
        other.command(b"", &[b"CLIENT", b"KILL", b"TYPE", b"normal", b"SKIPME", b"yes"]).await.unwrap();
        assert_eq!(client.command(b"", &[b"PING"]).await, Ok(Reply::Simple("PONG".into())));
    });
}

#[test]
fn a_cluster_is_followed_where_its_slots_are() {
    let cluster = |_: usize| Server::start(&["cluster-enabled yes", "cluster-node-timeout 2000"]);
    let servers: Vec<Server> = (0..3).map(cluster).collect();
    let nodes: Vec<String> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
    let made = Command::new("redis-cli")
        .args(["--cluster", "create"])
        .args(&nodes)
        .args(["--cluster-replicas", "0", "--cluster-yes"])
        .output();
    assert!(made.is_ok_and(|made| made.status.success()), "the cluster cannot be made");
    on_both(async || {
        // the last node alone: it tells of the others
        let conf =
            json!({"policy": "redis-cluster", "redis_cluster_nodes": &nodes[2..], "redis_cluster_name": "c"});
        let client = client(conf);
        let until_ms = reactor::now_ms() + 10_000;
        for key in 0..100u32 {
            let key = key.to_string().into_bytes();
            loop {
                match client.eval(&incr(), &[&key], &[]).await {
                    Ok(reply) => break assert!(reply.number().is_some()),
                    // it takes the nodes a moment to agree
                    Err(Error::Server(error)) if error.starts_with("CLUSTERDOWN") => {}
                    Err(error) => panic!("{error}"),
                }
                assert!(reactor::now_ms() < until_ms, "the cluster does not come up");
                reactor::sleep(50).await;
            }
        }
        assert_eq!(client.links.borrow().len(), 3);
        // a map that is wrong is put right by the nodes
        let wrong = Address { host: "127.0.0.1".into(), port: servers[0].port };
        for slot in 0..16_384 {
            client.slots.borrow_mut().as_mut().unwrap().moved(slot, wrong.clone());
        }
        for key in 0..100u32 {
            let key = key.to_string().into_bytes();
            client.eval(&incr(), &[&key], &[]).await.unwrap();
        }
    });
}

#[test]
fn sentinels_name_the_master() {
    let master = Server::start(&[]);
    let monitor = format!("sentinel monitor mymaster 127.0.0.1 {} 1", master.port);
    let sentinel = Server::start(&[&monitor]);
    on_both(async || {
        let place = |port: u16| json!({"host": "127.0.0.1", "port": port});
        let conf = |name: &str| {
            json!({"policy": "redis-sentinel", "redis_master_name": name,
                "redis_sentinels": [place(1), place(sentinel.port)]})
        };
        let known = client(conf("mymaster"));
        assert!(known.eval(&incr(), &[b"k"], &[]).await.unwrap().number().is_some());
        assert_eq!(known.master.borrow().as_ref().unwrap().port, master.port);
        let unknown = client(conf("other")).eval(&incr(), &[b"k"], &[]).await;
        assert_eq!(unknown, Err(Error::Server("the sentinels know no server of other".into())));
    });
}

/// A sentinel that knows replicas at `places`, for so many who ask; it names all of them healthy.
fn sentinel_of(places: &[(&str, u16)], asked: usize) -> u16 {
    let healthy = |(ip, port): &(&str, u16)| {
        let port = port.to_string();
        let fields = ["ip", ip, "port", &port, "flags", "slave", "master-link-status", "ok"];
        let fields = fields.map(|field| format!("${}\r\n{field}\r\n", field.len()));
        format!("*8\r\n{}", fields.concat())
    };
    let reply = format!("*{}\r\n{}", places.len(), places.iter().map(healthy).collect::<String>());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for link in listener.incoming().take(asked) {
            let mut link = link.unwrap();
            assert_ne!(link.read(&mut [0; 100]).unwrap(), 0);
            link.write_all(reply.as_bytes()).unwrap();
        }
    });
    port
}

/// lua-resty-redis-connector, connector.lua `connect_via_sentinel`
#[test]
fn each_healthy_replica_is_tried_those_on_this_machine_first() {
    let (near, far) = (Server::start(&[]), Server::start(&[]));
    for (places, reached) in [
        (vec![("127.0.0.2", far.port), ("127.0.0.1", near.port)], Ok(near.port)),
        (vec![("127.0.0.2", far.port), ("127.0.0.1", 1)], Ok(far.port)),
        (vec![("127.0.0.2", 1), ("127.0.0.2", far.port)], Ok(far.port)),
        (vec![("127.0.0.2", 1), ("127.0.0.1", 1)], Err(Error::Closed("no hosts available".into()))),
    ] {
        let sentinel = sentinel_of(&places, 2);
        on_both(async || {
            let client =
                client(json!({"policy": "redis-sentinel", "redis_master_name": "m", "redis_role": "slave",
                "redis_sentinels": [{"host": "127.0.0.1", "port": sentinel}]}));
            let served = client.command(b"k", &[b"CONFIG", b"GET", b"port"]).await;
            let port = served.map(|reply| reply.items()[1].text().unwrap().parse().unwrap());
            assert_eq!(port, reached, "{places:?}");
        });
    }
}

#[test]
fn replicas_that_are_down_or_alone_are_passed_over() {
    let replica = |port: &str, flags: &str, link: &str| {
        let fields = ["ip", "127.0.0.1", "port", port, "flags", flags, "master-link-status", link];
        Reply::Array(fields.map(|field| Reply::Bulk(field.into())).into())
    };
    for (port, flags, link, found) in [
        ("7000", "slave", "ok", Some(7000)),
        ("7000", "s_down,slave,disconnected", "ok", None),
        ("7000", "s_down,slave", "ok", None),
        ("7000", "slave,disconnected", "ok", None),
        ("7000", "slave", "err", None),
        ("70000", "slave", "ok", None),
        ("-1", "slave", "ok", None),
    ] {
        let address = replica_address(&replica(port, flags, link));
        assert_eq!(address.map(|address| address.port), found, "{port} {flags} {link}");
    }
}

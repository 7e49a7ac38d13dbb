//! Redis with `multiplex`: commands of many clients over few connections to redis-server, and none of them sees another.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use common::streams::{self, listening};
use common::*;
use serde_json::{Value, json};

/// A gateway with one core and a route to `upstream`.
fn gateway(driver: &'static str, upstream: Value) -> Gateway {
    let rest = "xrpc: {protocols: [{name: redis}]}\nstream_plugins: [syslog, prometheus]\n";
    let gateway = listening(driver).workers(1).rest(rest).start();
    let protocol = json!({"name": "redis", "conf": {"multiplex": true}, "metric": {"enable": true}});
    gateway.put("/stream_routes/1", &json!({"upstream": upstream, "protocol": protocol}));
    gateway
}

/// On both drivers, with redis-server behind the gateway and the gateway's port.
fn with_redis(test: impl Fn(&Redis, &Gateway, u16)) {
    on_both_drivers(|driver| {
        let redis = Redis::start();
        let gateway = gateway(driver, redis.upstream());
        test(&redis, &gateway, gateway.ports.proxied);
    });
}

/// A client that sees every byte.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(port: u16) -> Client {
        let stream = streams::connect(port);
        stream.set_nodelay(true).unwrap();
        Client(BufReader::new(stream))
    }

    /// What it does not read waits in the gateway, and not here.
    fn holds_little(&self) {
        socket2::SockRef::from(self.0.get_ref()).set_recv_buffer_size(64 << 10).unwrap();
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    /// Sends lines, and expects these.
    #[track_caller]
    fn says(&mut self, commands: &str, replies: &str) {
        self.send(format!("{commands}\r\n").as_bytes());
        self.hears(replies);
    }

    #[track_caller]
    fn hears(&mut self, replies: &str) {
        for expected in replies.split(' ').filter(|_| !replies.is_empty()) {
            assert_eq!(self.line(), expected.replace('_', " "), "of {replies}");
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        if let Err(error) = self.0.read_line(&mut line) {
            return format!("{error}");
        }
        line.trim_end().to_owned()
    }
}

/// Connections that redis-server has, but for the one that asks.
fn connections(redis: &Redis) -> usize {
    redis_cli(redis.port, &["client", "list"]).lines().count() - 1
}

#[test]
fn many_clients_share_few_connections() {
    with_redis(|redis, gateway, port| {
        let mut clients: Vec<Client> = (0..100).map(|_| Client::connect(port)).collect();
        for round in 0..3 {
            for (n, client) in clients.iter_mut().enumerate() {
                client.send(
                    format!("SET k{n} {n}-{round}\r\nGET k{n}\r\nCLIENT SETINFO lib-name x\r\n").as_bytes(),
                );
            }
            for (n, client) in clients.iter_mut().enumerate() {
                client.hears(&format!("+OK ${} {n}-{round}", format!("{n}-{round}").len()));
                let said = client.line();
                assert!(
                    said == "+OK" || said.starts_with("-ERR"),
                    "Redis before 7.2 does not know it: {said}"
                );
            }
        }
        assert_eq!(connections(redis), 2);
        drop(clients);
        let metrics = get(gateway.ports.metrics, "/apisix/prometheus/metrics").text();
        assert!(
            metrics.contains("apisix_redis_commands_total{route=\"1\",command=\"get\"} 300"),
            "{metrics}"
        );
    });
}

#[test]
fn real_clients_see_no_difference() {
    with_redis(|_, gateway, port| {
        assert_eq!(redis_cli(port, &["set", "a", "1"]), "OK");
        assert_eq!(redis_cli(port, &["-n", "3", "get", "a"]), "", "another database");
        assert_eq!(redis_cli(port, &["-3", "get", "a"]), "1");
        python("redis_dialogue.py", &[&port]);
        for pipeline in ["1", "16"] {
            let done = Command::new("redis-benchmark")
                .args(["-p", &port.to_string(), "-q", "-n", "3000", "-c", "50", "-P", pipeline])
                .args(["-t", "ping,set,get,lrange_100,mset"])
                .output()
                .unwrap();
            let told = String::from_utf8_lossy(&done.stdout).into_owned();
            assert!(done.status.success() && told.contains("MSET"), "{told}");
        }
        assert!(gateway.peak_kib() < 250 << 10, "{} KiB", gateway.peak_kib());
    });
}

#[test]
fn what_one_leaves_behind_another_does_not_meet() {
    with_redis(|_, _, port| {
        let (mut a, mut b) = (Client::connect(port), Client::connect(port));
        a.says("SET x 1\r\nMULTI\r\nSET x 2", "+OK +OK +QUEUED");
        b.says("GET x", "$1 1");
        // on each shared connection
        for _ in 0..4 {
            Client::connect(port).says("GET x", "$1 1");
        }
        a.says("EXEC\r\nGET x", "*1 +OK $1 2");
        a.says("WATCH x", "+OK");
        b.says("SET x 3", "+OK");
        a.says("MULTI\r\nGET x\r\nEXEC", "+OK +QUEUED *-1");
        a.says("SELECT 5\r\nSET x five", "+OK +OK");
        b.says("GET x\r\nSELECT 0", "$1 3 +OK");
        a.says("GET x\r\nRESET\r\nGET x", "$4 five +RESET $1 3");
        a.says("HELLO 3", "%7");
        b.says("CONFIG GET maxmemory", "*2 $9 maxmemory $1 0");
        a.says("RESET", "$6 server $5 redis $7 version");
        // blocked, and others go on
        let mut c = Client::connect(port);
        c.says("SET y 1\r\nBLPOP queue 0\r\nGET y", "+OK");
        b.says("PING\r\nRPUSH queue job", "+PONG :1");
        c.hears("*2 $5 queue $3 job $1 1");
        // subscribed, and back
        c.says("SUBSCRIBE news\r\nPING", "*3 $9 subscribe $4 news :1 *2 $4 pong $0");
        c.line();
        b.says("PUBLISH news hi", ":1");
        c.hears("*3 $7 message $4 news $2 hi");
        c.says("UNSUBSCRIBE news\r\nGET y", "*3 $11 unsubscribe $4 news :0 $1 1");
        b.says("MONITOR", "+OK");
        c.says("GET y", "$1 1");
        assert!(b.line().ends_with("\"GET\" \"y\""));
        c.says("WAIT 0 0", "-ERR_WAIT_is_not_served_where_clients_share_connections");
        c.says("EXEC\r\nGET y", "-ERR_EXEC_without_MULTI $1 1");
        c.says("GET y\r\nQUIT", "$1 1 +OK ");
        assert_eq!(c.line(), "", "closed");
        // what is no Redis is told so after the answers to what was
        let mut bad = Client::connect(port);
        bad.says("GET y\r\n*1\r\n:1", "$1 1 -ERR_Protocol_error:_expected_'$',_got_':' ");
        // a client that says that it is done gets all its answers
        let mut done = Client::connect(port);
        done.send(b"GET y\r\nINCR n\r\n");
        done.0.get_ref().shutdown(Shutdown::Write).unwrap();
        done.hears("$1 1 :1 ");
    });
}

#[test]
fn what_redis_reads_as_a_command_with_state_does_not_share() {
    with_redis(|_, _, port| {
        // on each shared connection
        let mut others: Vec<Client> = (0..8).map(|_| Client::connect(port)).collect();
        others[0].says("SET x 1\r\nXGROUP CREATE s streams $ MKSTREAM", "+OK +OK");
        for spelling in ["\"MULTI\"", "'multi'", "\"\\x4dULTI\"", "\x0bMULTI", "mu\"lti\""] {
            let mut a = Client::connect(port);
            a.says(spelling, "+OK");
            a.says("SET x 2", "+QUEUED");
            others.iter_mut().for_each(|other| other.says("GET x", "$1 1"));
            a.says("DISCARD", "+OK");
        }
        let mut a = Client::connect(port);
        a.send(b"XREADGROUP GROUP streams c BLOCK 0 STREAMS s >\r\n");
        others.iter_mut().for_each(|other| other.says("GET x", "$1 1"));
        others[0].says("XADD s 1-1 f v", "$3 1-1");
        a.hears("*1 *2 $1 s");
        // a line that redis-server takes for nothing has no answer
        for other in &mut others {
            other.says("\x0b\r\n\x0c \r\nECHO mine", "$4 mine");
        }
    });
}

#[test]
fn what_redis_closes_a_connection_for_harms_its_sender_alone() {
    with_redis(|redis, _, port| {
        let ids = || -> Vec<String> {
            let list = redis_cli(redis.port, &["client", "list"]);
            list.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
        };
        let mut b = Client::connect(port);
        b.says("SET x 1", "+OK");
        let all = ids();
        assert_eq!(all.len(), 2, "the shared one, and the one that asks: {all:?}");
        for bytes in [
            &b"*01\r\n$4\r\nPING\r\n"[..],
            b"*-0\r\n",
            b"*1\n$4\nPING\r\n",
            b"*1\r\n$04\r\nPING\r\n",
            b"GET \"a\r\n",
            b"SET k it's\r\n",
            b"GET a\0\r\n",
            b"POST / HTTP/1.1\r\nhost: x\r\n\r\n",
            b"host: x\r\n",
            b"*1\r\n$4\r\nPOST\r\n",
        ] {
            let mut a = Client::connect(port);
            a.send(b"GET x\r\n");
            a.hears("$1 1");
            a.send(bytes);
            // whatever it is told, it comes to an end
            let _ = a.0.read_to_end(&mut Vec::new());
            b.says("GET x", "$1 1");
            assert!(ids().contains(&all[0]), "{}", bytes.escape_ascii());
        }
    });
}

#[test]
fn big_values_pass_and_slow_clients_are_cut_off() {
    with_redis(|_, gateway, port| {
        let big = vec![b'v'; 16 << 20];
        let mut writer = Client::connect(port);
        writer.send(format!("*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n${}\r\n", big.len()).as_bytes());
        let mut other = Client::connect(port);
        other.says("SET small 1", "+OK");
        writer.send(&big);
        writer.send(b"\r\n");
        writer.hears("+OK");
        let mut reader = Client::connect(port);
        reader.says("GET big", &format!("${}", big.len()));
        let mut read = vec![0; big.len() + 2];
        reader.0.read_exact(&mut read).unwrap();
        assert!(read[..big.len()] == big && read.ends_with(b"\r\n"));
        // one that reads nothing is cut off; all others are served
        let mut slow: Vec<Client> = (0..4).map(|_| Client::connect(port)).collect();
        for client in &mut slow {
            client.send(&b"GET big\r\n".repeat(2));
        }
        let mut others: Vec<Client> = (0..8).map(|_| Client::connect(port)).collect();
        for client in &mut others {
            client.says("GET small", "$1 1");
        }
        gateway.read_until("logs/error.log", "takes its answers too slowly");
        let heard = slow.iter_mut().map(|client| {
            let mut all = Vec::new();
            let _ = client.0.get_ref().shutdown(Shutdown::Write);
            let _ = client.0.read_to_end(&mut all);
            all.len()
        });
        assert!(heard.collect::<Vec<_>>().iter().any(|bytes| *bytes < 2 * big.len()));
        reader.says("GET small", "$1 1");
        assert!(gateway.peak_kib() < 250 << 10, "{} KiB", gateway.peak_kib());
    });
}

#[test]
fn who_leaves_takes_his_answers_with_him() {
    with_redis(|redis, _, port| {
        let mut stays = Client::connect(port);
        stays.says(&format!("SET long {}", "x".repeat(5000)), "+OK");
        for round in 0..20 {
            let mut leaves = Client::connect(port);
            leaves.send(&b"GET long\r\nINCR left\r\n".repeat(1 + round * 5));
            if round % 2 == 0 {
                let _ = leaves.line();
            }
            drop(leaves);
            stays.says(
                &format!("ECHO round-{round}"),
                &format!("${} round-{round}", 6 + round.to_string().len()),
            );
        }
        // on a busy host one that leaves may hold up a connection for a moment; none is left behind for each
        assert!(connections(redis) <= 8);
    });
}

/// A server that reads commands line by line, and answers `+1`, `+2`, … until it is told `die`: then it closes, without an
/// answer to that. It counts lines.
fn mortal() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let count = counted.clone();
            std::thread::spawn(move || {
                let mut to = stream.try_clone().unwrap();
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let n = count.fetch_add(1, Ordering::SeqCst) + 1;
                    match &*line {
                        "die" => return,
                        "half" => {
                            let _ = to.write_all(b"$100\r\nhalf");
                            return;
                        }
                        "hang" => {}
                        _ => drop(to.write_all(format!("+{n}\r\n").as_bytes())),
                    }
                }
            });
        }
    });
    (port, count)
}

#[test]
fn a_connection_that_dies_is_told_and_nothing_is_sent_twice() {
    on_both_drivers(|driver| {
        let (server, count) = mortal();
        let upstream = json!({"type": "none", "nodes": {format!("127.0.0.1:{server}"): 1}, "timeout": {"connect": 5, "send": 1, "read": 1}});
        let gateway = gateway(driver, upstream);
        let port = gateway.ports.proxied;
        let mut client = Client::connect(port);
        client.says("one", "+1");
        let lost = "-ERR_the_connection_to_the_server_was_lost,_the_command_may_have_been_carried_out";
        client.says("two\r\ndie\r\nthree", &format!("+2 {lost} {lost}"));
        let sent = count.load(Ordering::SeqCst);
        client.says("again", &format!("+{}", sent + 1));
        // half an answer cannot be mended
        client.says("half", "$100");
        assert_eq!(client.line(), "half", "and the end");
        assert_eq!(client.line(), "");
        // a server that says nothing any more
        let mut waits = Client::connect(port);
        let began = Instant::now();
        waits.says("hang", lost);
        assert!(began.elapsed().as_millis() >= 900, "{:?}", began.elapsed());
        let sent = count.load(Ordering::SeqCst);
        waits.says("on", &format!("+{}", sent + 1));
    });
}

/// A server that answers as many lines as there are pieces in `says` with each of them, in one write.
fn scripted(says: &'static [(usize, &'static str)]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut to = stream.try_clone().unwrap();
            let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
            for (heard, said) in says {
                if lines.by_ref().take(*heard).count() == *heard {
                    let _ = to.write_all(said.as_bytes());
                }
            }
            // until the other side ends it
            lines.for_each(drop);
        }
    });
    port
}

#[test]
fn answers_before_bytes_that_are_none_come_to_their_clients() {
    let lost = "-ERR_the_connection_to_the_server_was_lost,_the_command_may_have_been_carried_out";
    for (says, commands, replies) in [
        (
            &[(4, "+1\r\n$1\r\n2\r\nHTTP/1.1 400\r\n")][..],
            "a\r\nb\r\nc\r\nd",
            format!("+1 $1 2 {lost} {lost}"),
        ),
        // nothing of the third was told yet
        (&[(3, "+1\r\n+2\r\n*2\r\n+3\r\nHTTP/1.1 400\r\n")], "a\r\nb\r\nc", format!("+1 +2 {lost}")),
    ] {
        on_both_drivers(|driver| {
            let upstream = json!({"type": "none", "nodes": {format!("127.0.0.1:{}", scripted(says)): 1}});
            let gateway = gateway(driver, upstream);
            Client::connect(gateway.ports.proxied).says(commands, &replies);
        });
    }
    // half of the second is told: no other word comes behind that
    on_both_drivers(|driver| {
        let server = scripted(&[(2, "+1\r\nHT"), (1, "TP/1.1 400\r\n")]);
        let gateway = gateway(driver, json!({"type": "none", "nodes": {format!("127.0.0.1:{server}"): 1}}));
        let mut client = Client::connect(gateway.ports.proxied);
        client.says("a\r\nb", "+1");
        let mut half = [0; 2];
        client.0.read_exact(&mut half).unwrap();
        assert_eq!(&half, b"HT");
        client.send(b"c\r\n");
        client.hears(" ");
    });
}

/// What a client of the dialogue below says and hears, with a model of what Redis knows of its keys.
struct Talk {
    client: Client,
    id: usize,
    counter: i64,
    value: Option<String>,
}

impl Talk {
    /// One command, or a few that belong together: bytes, and the reply to them.
    fn next(&mut self, random: &mut fastrand::Rng) -> (String, String) {
        let id = self.id;
        let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
        let get = self.value.as_deref().map_or("$-1\r\n".to_owned(), bulk);
        match random.u8(0..10) {
            0..=2 => {
                self.counter += 1;
                (format!("INCR n{id}\r\n"), format!(":{}\r\n", self.counter))
            }
            3 => {
                let value = "v".repeat(random.usize(1..40_000));
                let command = format!("*3\r\n$3\r\nSET\r\n{}{}", bulk(&format!("k{id}")), bulk(&value));
                self.value = Some(value);
                (command, "+OK\r\n".to_owned())
            }
            4 | 5 => (format!("GET k{id}\r\n"), get),
            6 => {
                self.counter += 1;
                let transaction = format!("MULTI\r\nINCR n{id}\r\nGET k{id}\r\nEXEC\r\n");
                (transaction, format!("+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:{}\r\n{get}", self.counter))
            }
            7 => (
                format!("RPUSH q{id} x\r\nBLPOP q{id} 0\r\n"),
                format!(":1\r\n*2\r\n{}{}", bulk(&format!("q{id}")), bulk("x")),
            ),
            8 => (format!("WATCH k{id}\r\nUNWATCH\r\nNOSUCH\r\n"), "+OK\r\n+OK\r\n-ERR unknown".to_owned()),
            _ => (format!("SELECT 1\r\nINCR other{id}\r\nRESET\r\n"), "+OK\r\n:".to_owned()),
        }
    }
}

#[test]
fn twenty_dialogues_cut_anywhere() {
    with_redis(|_, _, port| {
        let mut random = fastrand::Rng::with_seed(23);
        let mut talks: Vec<Talk> =
            (0..20).map(|id| Talk { client: Client::connect(port), id, counter: 0, value: None }).collect();
        for _ in 0..30 {
            let mut said = Vec::new();
            for talk in &mut talks {
                let exchanges: Vec<_> = (0..random.usize(1..8)).map(|_| talk.next(&mut random)).collect();
                let bytes: String = exchanges.iter().map(|(command, _)| command.as_str()).collect();
                said.push((bytes, exchanges));
            }
            // all at the same time, in pieces
            let mut at = vec![0; talks.len()];
            while said.iter().zip(&at).any(|((bytes, _), at)| *at < bytes.len()) {
                for ((talk, (bytes, _)), at) in talks.iter_mut().zip(&said).zip(&mut at) {
                    let most = if random.bool() { 40 } else { 9000 };
                    let here = random.usize(1..most).min(bytes.len() - *at);
                    talk.client.send(&bytes.as_bytes()[*at..*at + here]);
                    *at += here;
                }
            }
            for (talk, (_, exchanges)) in talks.iter_mut().zip(said) {
                for (command, reply) in exchanges {
                    let mut heard = vec![0; reply.len()];
                    talk.client.0.read_exact(&mut heard).unwrap();
                    assert_eq!(
                        String::from_utf8_lossy(&heard),
                        reply,
                        "{}",
                        &command[..command.len().min(80)]
                    );
                    if !reply.ends_with("\r\n") {
                        talk.client.line();
                        if command.contains("RESET") {
                            assert_eq!(talk.client.line(), "+RESET");
                        }
                    }
                }
            }
        }
    });
}

const FLOOD: usize = 32 << 20;

/// A server that answers `GET big` with a value of so many bytes, and anything else with `+small`. It counts the bytes of values
/// that it has got rid of, and connections.
fn flooding() -> (u16, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sent, connections) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, counted) = (sent.clone(), connections.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::SeqCst);
            let sent = count.clone();
            std::thread::spawn(move || {
                let mut to = stream.try_clone().unwrap();
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if line != "GET big" {
                        let _ = to.write_all(b"+small\r\n");
                        continue;
                    }
                    let _ = to.write_all(format!("${FLOOD}\r\n").as_bytes());
                    for _ in 0..FLOOD >> 16 {
                        if to.write_all(&[b'v'; 1 << 16]).is_err() {
                            return;
                        }
                        sent.fetch_add(1 << 16, Ordering::SeqCst);
                    }
                    let _ = to.write_all(b"\r\n");
                }
            });
        }
    });
    (port, sent, connections)
}

/// Waits until a count has grown beyond `from`, and stands still for a moment.
#[track_caller]
fn stands_still(count: &AtomicUsize, from: usize) {
    let mut last = (from, Instant::now());
    eventually("it stands still", || {
        let now = count.load(Ordering::SeqCst);
        if now != last.0 {
            last = (now, Instant::now());
        }
        now > from && last.1.elapsed().as_millis() > 60
    });
}

const TOO_SLOW: &str = "takes its answers too slowly";

#[test]
fn clients_that_do_not_read_hold_up_nobody_who_comes_later() {
    on_both_drivers(|driver| {
        let (server, sent, _) = flooding();
        let nodes = json!({format!("127.0.0.1:{server}"): 1});
        let gateway = gateway(driver, json!({"type": "none", "nodes": nodes}));
        let port = gateway.ports.proxied;
        let mut clients: Vec<Client> = (0..4).map(|_| Client::connect(port)).collect();
        // one on each connection, and two that have been there before
        clients.iter_mut().for_each(|client| client.says("GET small", "+small"));
        for slow in &mut clients[..2] {
            slow.holds_little();
            slow.send(b"GET big\r\n");
        }
        stands_still(&sent, 0);
        clients[2..].iter_mut().for_each(|known| known.says("GET small", "+small"));
        (0..4).for_each(|_| Client::connect(port).says("GET small", "+small"));
        assert!(!gateway.read("logs/error.log").contains(TOO_SLOW), "they had to wait");
        eventually("both are cut off", || gateway.read("logs/error.log").matches(TOO_SLOW).count() == 2);
        for slow in &mut clients[..2] {
            let mut heard = Vec::new();
            let end = slow.0.read_to_end(&mut heard).map_err(|error| error.kind());
            assert!(matches!(end, Ok(_) | Err(std::io::ErrorKind::ConnectionReset)), "{end:?}");
            assert!(heard.len() < FLOOD, "{}", heard.len());
        }
    });
}

#[test]
fn a_client_that_was_slow_once_has_a_connection_of_its_own() {
    on_both_drivers(|driver| {
        let (server, sent, connections) = flooding();
        let nodes = json!({format!("127.0.0.1:{server}"): 1});
        let gateway = gateway(driver, json!({"type": "none", "nodes": nodes}));
        let (mut slow, mut other) =
            (Client::connect(gateway.ports.proxied), Client::connect(gateway.ports.proxied));
        slow.says("GET small", "+small");
        other.says("GET small", "+small");
        slow.holds_little();
        let mut value = vec![0; FLOOD + 2];
        for round in 1..=3 {
            slow.send(b"GET big\r\n");
            stands_still(&sent, (round - 1) * FLOOD);
            if round > 1 {
                // longer than those who share may take
                std::thread::sleep(std::time::Duration::from_millis(1200));
                other.says("GET small", "+small");
            }
            slow.hears(&format!("${FLOOD}"));
            slow.0.read_exact(&mut value).unwrap();
            assert!(value[..FLOOD].iter().all(|byte| *byte == b'v') && value.ends_with(b"\r\n"));
        }
        assert_eq!(connections.load(Ordering::SeqCst), 3, "two that are shared, and its own");
        assert!(!gateway.read("logs/error.log").contains(TOO_SLOW));
    });
}

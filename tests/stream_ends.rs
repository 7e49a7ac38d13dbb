//! When sessions of layer 4 end, on TCP and UDP, and what is written down of them.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use common::streams::{Echo, connect, listening, listening_udp, said};
use common::*;
use serde_json::{Value, json};

/// A gateway with one core, one listener and Prometheus; access log lines have this format.
fn gateway(driver: &'static str, format: &str) -> Gateway {
    listening(driver)
        .nginx(&format!(
            "stream: {{enable_access_log: true, access_log_buffer: 1, access_log_format: \"{format}\"}}\n"
        ))
        .rest("stream_plugins: [prometheus, ip-restriction]\n")
        .workers(1)
        .start()
}

fn address(listener: &TcpListener) -> String {
    listener.local_addr().unwrap().to_string()
}

/// One node; sessions rest for a time as long as this, s.
fn resting(node: &str, send: f64, read: f64) -> Value {
    json!({"upstream": {"nodes": {node: 1}, "timeout": {"connect": 5, "send": send, "read": read}}})
}

/// A session by way of `port` to a server that a test plays itself: both its ends.
fn session(port: u16, server: &TcpListener) -> (TcpStream, TcpStream) {
    let client = connect(port);
    let (served, _) = server.accept().unwrap();
    served.set_read_timeout(Some(PATIENCE)).unwrap();
    (client, served)
}

/// How long it takes until the other side has ended.
#[track_caller]
fn ends(stream: &mut TcpStream) -> Duration {
    let began = Instant::now();
    let _ = stream.read_to_end(&mut Vec::new());
    assert!(began.elapsed() < PATIENCE, "it goes on");
    began.elapsed()
}

const PAUSE: Duration = Duration::from_millis(200);

#[test]
fn a_client_may_go_on_behind_the_end_of_its_upstream_but_not_rest() {
    on_both_drivers(|driver| {
        let (gateway, server) = (gateway(driver, ""), TcpListener::bind("127.0.0.1:0").unwrap());
        gateway.put("/stream_routes/1", &resting(&address(&server), 0.6, 0.6));
        let bye = || {
            let (mut client, mut served) = session(gateway.ports.proxied, &server);
            served.write_all(b"bye").unwrap();
            served.shutdown(Shutdown::Write).unwrap();
            let mut said = String::new();
            client.read_to_string(&mut said).unwrap();
            assert_eq!(said, "bye");
            (client, served)
        };
        let (_silent, mut served) = bye();
        let rested = ends(&mut served);
        assert!(rested > Duration::from_millis(500), "{rested:?}");
        let (mut client, mut served) = bye();
        for _ in 0..5 {
            std::thread::sleep(PAUSE);
            client.write_all(b"x").unwrap();
            served.read_exact(&mut [0]).unwrap();
        }
        let rested = ends(&mut served);
        assert!(rested > Duration::from_millis(500), "{rested:?}");
    });
}

#[test]
fn a_client_that_only_listens_is_not_cut_off() {
    on_both_drivers(|driver| {
        let (gateway, server) = (gateway(driver, ""), TcpListener::bind("127.0.0.1:0").unwrap());
        gateway.put("/stream_routes/1", &resting(&address(&server), 0.6, 0.6));
        let (mut client, mut served) = session(gateway.ports.proxied, &server);
        for _ in 0..5 {
            std::thread::sleep(PAUSE);
            served.write_all(b"x").unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
    });
}

#[test]
fn a_side_that_takes_nothing_ends_its_session() {
    on_both_drivers(|driver| {
        let (gateway, server) = (gateway(driver, ""), TcpListener::bind("127.0.0.1:0").unwrap());
        gateway.put("/stream_routes/1", &resting(&address(&server), 0.5, 0.5));
        for takes in ["server", "client"] {
            let (client, served) = session(gateway.ports.proxied, &server);
            let (_idle, mut speaks) = if takes == "server" { (client, served) } else { (served, client) };
            speaks.set_write_timeout(Some(PATIENCE)).unwrap();
            let began = Instant::now();
            while speaks.write_all(&[b'x'; 64 << 10]).is_ok() {}
            assert!(began.elapsed() < PATIENCE, "the {takes} speaks on");
        }
    });
}

#[test]
fn the_longer_of_send_and_read_is_how_long_a_session_may_rest() {
    on_both_drivers(|driver| {
        let (gateway, server) = (gateway(driver, ""), TcpListener::bind("127.0.0.1:0").unwrap());
        for (send, read) in [(0.3, 1.2), (1.2, 0.3)] {
            gateway.put("/stream_routes/1", &resting(&address(&server), send, read));
            let (mut client, _served) = session(gateway.ports.proxied, &server);
            let rested = ends(&mut client);
            assert!(rested > Duration::from_millis(1100), "{rested:?} with {send} and {read}");
        }
    });
}

/// Without `timeout` the snippet's directives hold.
#[test]
fn what_the_snippet_says_of_times_is_obeyed() {
    on_both_drivers(|driver| {
        let (udp, (_socket, deaf, _waiting)) = (free_port(), deaf());
        let gateway = Setup::new(driver, Source::Embedded)
            .apisix(&format!(
                "proxy_mode: http&stream\nstream_proxy: {{tcp: [\"127.0.0.1:$PROXIED\"], udp: [\"127.0.0.1:{udp}\"]}}\n"
            ))
            .nginx(
                "stream_configuration_snippet: 'proxy_timeout 500ms; proxy_connect_timeout 300ms;'\n\
                 stream: {enable_access_log: true, access_log_buffer: 1, access_log_format: \"$protocol $status.\"}\n",
            )
            .start();
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        gateway.put("/stream_routes/1", &json!({"upstream": {"nodes": {address(&server): 1}}}));
        let (mut client, _served) = session(gateway.ports.proxied, &server);
        assert!(ends(&mut client) > Duration::from_millis(400));
        let node = format!("127.0.0.1:{deaf}");
        gateway.put("/stream_routes/1", &json!({"upstream": {"nodes": {node.clone(): 1}}}));
        assert!(ends(&mut connect(gateway.ports.proxied)) > Duration::from_millis(250));
        gateway.read_until("logs/access_stream.log", "TCP 502.");
        let (server, node) = receiver();
        gateway.put("/stream_routes/1", &json!({"upstream": {"nodes": {node: 1}}}));
        pass(&client_of(udp), &server);
        gateway.read_until("logs/access_stream.log", "UDP 200.");
    });
}

#[test]
fn a_node_that_cannot_be_reached_in_time_is_passed_over_and_out() {
    on_both_drivers(|driver| {
        let (gateway, echo, (_socket, deaf, _waiting)) = (gateway(driver, ""), Echo::start("A"), deaf());
        let nodes = json!([{"host": "127.0.0.1", "port": deaf, "weight": 1, "priority": 1},
                           {"host": "127.0.0.1", "port": echo.port, "weight": 1}]);
        let rarely = json!({"type": "tcp", "healthy": {"interval": 3600}, "unhealthy": {"interval": 3600}});
        let passive = json!({"type": "tcp", "unhealthy": {"tcp_failures": 0, "timeouts": 1}});
        let timeout = json!({"connect": 0.5, "send": 60, "read": 60});
        let checks = json!({"active": rarely, "passive": passive});
        let upstream = json!({"type": "roundrobin", "nodes": nodes, "timeout": timeout, "checks": checks});
        gateway.put("/stream_routes/1", &json!({"upstream": upstream}));
        let took = || {
            let began = Instant::now();
            assert_eq!(said(gateway.ports.proxied, "x"), "Axbye");
            began.elapsed()
        };
        assert!(took() > Duration::from_millis(400));
        eventually("it is asked no more", || took() < Duration::from_millis(400));
    });
}

/// Who is met by a session that stays, and the session.
fn held(port: u16) -> (u8, TcpStream) {
    let (mut stream, mut name) = (connect(port), [0]);
    stream.read_exact(&mut name).unwrap();
    (name[0], stream)
}

#[test]
fn least_conn_knows_the_sessions_of_each_node() {
    on_both_drivers(|driver| {
        let (gateway, a, late) = (gateway(driver, ""), Echo::start("A"), free_port());
        let port = gateway.ports.proxied;
        let b = Echo::start("B");
        let least_conn = |nodes: [u16; 2]| {
            let nodes: Value = nodes.iter().map(|port| (format!("127.0.0.1:{port}"), json!(1))).collect();
            gateway.put("/stream_routes/1", &json!({"upstream": {"type": "least_conn", "nodes": nodes}}));
        };
        least_conn([a.port, b.port]);
        let (busy, _stays) = held(port);
        for _ in 0..5 {
            assert_ne!(said(port, "").as_bytes()[0], busy, "it has a session already");
        }
        // tries that failed are no sessions
        let idle = if busy == b'A' { b.port } else { a.port };
        least_conn([idle, late]);
        for _ in 0..6 {
            assert_ne!(said(port, ""), "");
        }
        let _late = Echo::on("L", late);
        let sessions: Vec<_> = (0..4).map(|_| held(port)).collect();
        let met: Vec<_> = sessions.iter().map(|(name, _)| *name as char).collect();
        assert_eq!(met.iter().filter(|name| **name == 'L').count(), 2, "{met:?}");
    });
}

fn counted(gateway: &Gateway, code: u16) -> u64 {
    let metrics = get(gateway.ports.metrics, "/apisix/prometheus/metrics").text();
    let series = format!("apisix_stream_status{{code=\"{code}\",");
    let line = metrics.lines().find(|line| line.starts_with(&series));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

/// apisix/plugins/prometheus/exporter.lua, STREAM_REASON_TO_CODE
#[test]
fn who_has_broken_a_session_is_counted() {
    on_both_drivers(|driver| {
        let format = "$status $bytes_received $upstream_bytes_sent $upstream_bytes_received $upstream_first_byte_time \
                      $session_time.";
        let (gateway, server) = (gateway(driver, format), TcpListener::bind("127.0.0.1:0").unwrap());
        let mut route = resting(&address(&server), 1.0, 1.0);
        route["plugins"] = json!({"prometheus": {}});
        gateway.put("/stream_routes/1", &route);
        let begin = || {
            let (mut client, mut served) = session(gateway.ports.proxied, &server);
            client.write_all(b"hello").unwrap();
            served.read_exact(&mut [0; 5]).unwrap();
            served.write_all(b"hi").unwrap();
            client.read_exact(&mut [0; 2]).unwrap();
            (client, served)
        };
        let reset = |stream: TcpStream| {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        };
        let (client, _served) = begin();
        reset(client);
        eventually("the client", || counted(&gateway, 400) == 1);
        let (_client, served) = begin();
        reset(served);
        eventually("the server", || counted(&gateway, 502) == 1);
        let (_client, _served) = begin();
        eventually("nobody has spoken", || counted(&gateway, 502) == 2);
        let (client, mut served) = begin();
        drop(client);
        ends(&mut served);
        drop(served);
        eventually("both are done", || counted(&gateway, 200) == 1);
        assert_eq!(counted(&gateway, 400), 1);
        // whoever it was, nginx calls it 200; a port that is looked for elsewhere leaves a line, too
        let log = || gateway.read("logs/access_stream.log");
        eventually("four lines", || log().matches("200 5 5 2 ").count() == 4);
        let lines = log();
        let times = lines.lines().filter(|line| line.starts_with("200 ")).map(|line| {
            let mut times =
                line.trim_end_matches('.').split(' ').skip(4).map(|time| time.parse::<f64>().unwrap());
            (times.next().unwrap(), times.next().unwrap())
        });
        let times: Vec<_> = times.collect();
        assert!(times.iter().all(|(first_byte, _)| *first_byte < 0.9), "{times:?}");
        assert!(times[2].1 > 0.9, "{times:?}");
    });
}

/// A server of datagrams, and its address.
fn receiver() -> (UdpSocket, String) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}

/// A client of the gateway's port of datagrams.
fn client_of(udp: u16) -> UdpSocket {
    let (client, _) = receiver();
    client.connect(("127.0.0.1", udp)).unwrap();
    client
}

/// Sends a datagram, and says from which session it came.
#[track_caller]
fn pass(client: &UdpSocket, server: &UdpSocket) -> SocketAddr {
    client.send(b"x").unwrap();
    server.recv_from(&mut [0; 16]).unwrap().1
}

#[test]
fn a_session_of_datagrams_lasts_while_either_side_speaks() {
    on_both_drivers(|driver| {
        let udp = free_port();
        let (gateway, (server, node)) = (listening_udp(driver, udp).start(), receiver());
        gateway.put("/stream_routes/1", &resting(&node, 0.6, 0.6));
        let client = client_of(udp);
        let session = pass(&client, &server);
        for _ in 0..5 {
            std::thread::sleep(PAUSE);
            assert_eq!(pass(&client, &server), session, "the client speaks");
        }
        for _ in 0..5 {
            std::thread::sleep(PAUSE);
            server.send_to(b"y", session).unwrap();
            assert_eq!(client.recv(&mut [0; 16]).unwrap(), 1, "the server speaks");
        }
        gateway.read_until("logs/access_stream.log", " UDP 200 5 6 ");
        // the next one begins another session
        assert_ne!(pass(&client, &server), session);
        for (send, read) in [(0.2, 1.5), (1.5, 0.2)] {
            gateway.put("/stream_routes/1", &resting(&node, send, read));
            let client = client_of(udp);
            let session = pass(&client, &server);
            std::thread::sleep(3 * PAUSE);
            assert_eq!(pass(&client, &server), session, "with {send} and {read}");
        }
    });
}

#[test]
fn sessions_of_datagrams_end_with_their_core_and_are_logged() {
    on_both_drivers(|driver| {
        let udp = free_port();
        let (gateway, (server, node)) = (listening_udp(driver, udp).start(), receiver());
        gateway.put("/stream_routes/1", &json!({"upstream": {"nodes": {node: 1}}}));
        let client = client_of(udp);
        let session = pass(&client, &server);
        gateway.signal("HUP");
        gateway.read_until("logs/access_stream.log", " UDP 200 0 1 ");
        assert_ne!(pass(&client, &server), session, "the new cores serve it");
    });
}

#[test]
fn least_conn_knows_the_sessions_of_datagrams() {
    on_both_drivers(|driver| {
        let udp = free_port();
        let format = "$protocol $upstream_addr $upstream_bytes_received.";
        let gateway = Setup::new(driver, Source::Embedded)
            .apisix(&format!("proxy_mode: http&stream\nstream_proxy: {{udp: [\"127.0.0.1:{udp}\"]}}\n"))
            .nginx(&format!(
                "stream: {{enable_access_log: true, access_log_buffer: 1, access_log_format: \"{format}\"}}\n"
            ))
            .workers(1)
            .start();
        let (a, b) = (streams::mirror("A"), streams::mirror("B"));
        let nodes = json!({format!("127.0.0.1:{a}"): 1, format!("127.0.0.1:{b}"): 1});
        let timeout = json!({"connect": 1, "send": 0.5, "read": 0.5});
        let upstream = json!({"type": "least_conn", "nodes": nodes, "timeout": timeout});
        gateway.put("/stream_routes/1", &json!({"upstream": upstream}));
        let ask = |client: &UdpSocket| {
            let mut answer = [0; 16];
            client.send(b"x").unwrap();
            assert_eq!(client.recv(&mut answer).unwrap(), 2);
            answer[0]
        };
        let stays = client_of(udp);
        let busy = ask(&stays);
        for round in 1..=3 {
            assert_ne!(ask(&client_of(udp)), busy, "it has a session already");
            eventually("the session has ended", || {
                assert_eq!(ask(&stays), busy);
                gateway.read("logs/access_stream.log").matches(" 2.\n").count() == round
            });
        }
    });
}

#[test]
fn datagrams_meet_plugins_and_checks_as_connections_do() {
    on_both_drivers(|driver| {
        let udp = free_port();
        let gateway = listening_udp(driver, udp)
            .rest("stream_plugins: [prometheus, ip-restriction]\n")
            .workers(1)
            .start();
        let (server, node) = receiver();
        let route = |nodes: Value, plugins: Value, more: Value| {
            let rarely =
                json!({"type": "tcp", "healthy": {"interval": 3600}, "unhealthy": {"interval": 3600}});
            let passive = json!({"type": "tcp", "unhealthy": {"tcp_failures": 1}});
            let checks = json!({"active": rarely, "passive": passive});
            let mut route = json!({"upstream": {"type": "roundrobin", "nodes": nodes, "checks": checks}, "plugins": plugins});
            route.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            gateway.put("/stream_routes/1", &route);
        };
        let client = client_of(udp);
        route(json!({node.clone(): 1}), json!({"ip-restriction": {"blacklist": ["127.0.0.1"]}}), json!({}));
        client.send(b"refused").unwrap();
        gateway.read_until("logs/access_stream.log", " UDP 403 0 7 ");
        // one that is not heard of is out once that was learnt, and those that were about to ask it are counted
        let dead = format!("127.0.0.1:{}", receiver().0.local_addr().unwrap().port());
        route(json!({node: 1, dead: 1000}), json!({"prometheus": {}}), json!({}));
        let (mut passed, mut datagram) = (0, [0; 16]);
        server.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        eventually("the dead node is asked no more", || {
            let new = client_of(udp);
            (0..2).for_each(|_| drop(new.send(b"x")));
            let came = server.recv(&mut datagram).is_ok() && server.recv(&mut datagram).is_ok();
            passed = if came { passed + 1 } else { 0 };
            passed == 5
        });
        eventually("who has broken it", || counted(&gateway, 502) > 0);
        // a session that lasts is counted meanwhile
        let (listener, client) = (format!("127.0.0.1:{udp}"), client_of(udp));
        let series = format!(
            "apisix_stream_bandwidth{{listen_addr=\"{listener}\",type=\"egress\",side=\"downstream\"}} "
        );
        client.send(b"x").unwrap();
        let session = loop {
            if let Ok((1, session)) = server.recv_from(&mut datagram) {
                break session;
            }
        };
        eventually("its answers", || {
            server.send_to(b"answer", session).unwrap();
            let metrics = get(gateway.ports.metrics, "/apisix/prometheus/metrics").text();
            let line = metrics.lines().find_map(|line| line.strip_prefix(&series));
            line.is_some_and(|bytes| bytes.parse::<u64>().unwrap() > 0)
        });
    });
}

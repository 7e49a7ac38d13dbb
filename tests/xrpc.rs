//! xRPC: Redis with its own programs and a client of another language; delays, loggers and metrics by command; bytes that
//! are none of the protocol; and a second protocol, written for tests, that routes calls to subordinate routes.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use common::streams::{connect, listening};
use common::*;
use serde_json::{Value, json};

/// A gateway with the Admin API, the protocols, and a listener on `ports.proxied`.
fn gateway(driver: &'static str) -> Gateway {
    let rest = "xrpc: {protocols: [{name: redis}, {name: pingpong}]}\nstream_plugins: [syslog, prometheus]\n";
    listening(driver).rest(rest).start()
}

/// Sends bytes and reads until there are as many as expected, or the end.
fn ask_for(stream: &mut TcpStream, bytes: &[u8], length: usize) -> Vec<u8> {
    stream.write_all(bytes).unwrap();
    let mut answer = vec![0; length];
    let mut read = 0;
    while read < length {
        match stream.read(&mut answer[read..]) {
            Ok(more @ 1..) => read += more,
            _ => break,
        }
    }
    answer.truncate(read);
    answer
}

#[test]
fn redis_is_served_as_if_nobody_stood_between() {
    on_both_drivers(|driver| {
        let (gateway, redis) = (gateway(driver), Redis::start());
        let port = gateway.ports.proxied;
        // everything is looked at: with a logger and metrics
        let logger = json!([{"name": "syslog", "filter": [["rpc_time", ">", 100]], "conf": {"host": "127.0.0.1", "port": 1, "sock_type": "udp"}}]);
        for protocol in
            [json!({"name": "redis"}), json!({"name": "redis", "logger": logger, "metric": {"enable": true}})]
        {
            gateway.put("/stream_routes/1", &json!({"upstream": redis.upstream(), "protocol": protocol}));
            assert_eq!(redis_cli(port, &["set", "a", "1"]), "OK");
            assert_eq!(redis_cli(port, &["get", "a"]), "1");
            python("redis_dialogue.py", &[&port]);
            let benchmark = Command::new("redis-benchmark")
                .args([
                    "-p",
                    &port.to_string(),
                    "-q",
                    "-n",
                    "2000",
                    "-c",
                    "20",
                    "-P",
                    "4",
                    "-t",
                    "ping,set,get,lrange_100,mset",
                ])
                .output()
                .unwrap();
            let told = String::from_utf8_lossy(&benchmark.stdout).into_owned();
            assert!(benchmark.status.success() && told.contains("MSET"), "{told}");
        }
        assert!(gateway.peak_kib() < 250 << 10, "{} KiB", gateway.peak_kib());
        let metrics = get(gateway.ports.metrics, "/apisix/prometheus/metrics").text();
        assert!(
            metrics.contains("apisix_redis_commands_total{route=\"1\",command=\"hmget\"} 2"),
            "{metrics}"
        );
        assert!(metrics.contains(
            "apisix_redis_commands_latency_seconds_bucket{route=\"1\",command=\"get\",le=\"0.001\"}"
        ));
    });
}

#[test]
fn commands_are_delayed_and_logged() {
    on_both_drivers(|driver| {
        let (gateway, redis) = (gateway(driver), Redis::start());
        let log = UdpSocket::bind("127.0.0.1:0").unwrap();
        log.set_read_timeout(Some(PATIENCE)).unwrap();
        // the first example of this feature, its JSON repaired, with shorter delays
        let protocol = json!({
            "name": "redis",
            "conf": {"faults": [{"commands": ["get", "ping"], "delay": 2}, {"commands": ["SET"], "key": "slow", "delay": 1.5}]},
            "logger": [{
                "name": "syslog",
                "filter": [["rpc_time", ">=", 1]],
                "conf": {"host": "127.0.0.1", "port": log.local_addr().unwrap().port(), "sock_type": "udp", "batch_max_size": 1, "flush_limit": 1}
            }]
        });
        gateway.put("/stream_routes/1", &json!({"upstream": redis.upstream(), "protocol": protocol}));
        let port = gateway.ports.proxied;
        let timed = |arguments: &[&str]| {
            let began = Instant::now();
            let said = redis_cli(port, arguments);
            (said, began.elapsed())
        };
        assert!(timed(&["set", "a", "1"]).1 < Duration::from_millis(1500));
        let (said, took) = timed(&["ping"]);
        assert!(said == "PONG" && took > Duration::from_millis(1900), "{said} {took:?}");
        let (said, took) = timed(&["set", "slow", "1"]);
        assert!(said == "OK" && took > Duration::from_millis(1400), "{said} {took:?}");
        let line = || {
            let mut message = [0; 4096];
            let length = log.recv(&mut message).unwrap();
            let text = String::from_utf8_lossy(&message[..length]).into_owned();
            serde_json::from_str::<Value>(&text[text.find('{').unwrap()..]).unwrap()
        };
        let ping = line();
        assert_eq!((&ping["redis_cmd_line"], &ping["route_id"]), (&json!("ping"), &json!("1")));
        assert!(ping["rpc_time"].as_str().unwrap() >= "1.9", "{ping}");
        assert_eq!(line()["redis_cmd_line"], "set slow 1", "the quick one is not logged");
    });
}

#[test]
fn what_is_no_redis_is_told_so_and_harms_nobody() {
    on_both_drivers(|driver| {
        let (gateway, redis) = (gateway(driver), Redis::start());
        gateway
            .put("/stream_routes/1", &json!({"upstream": redis.upstream(), "protocol": {"name": "redis"}}));
        let port = gateway.ports.proxied;
        let mut good = connect(port);
        assert_eq!(ask_for(&mut good, b"*1\r\n$4\r\nPING\r\n", 7), b"+PONG\r\n");
        for (bytes, why) in [
            (&b"*1\r\n*1\r\n*1\r\n"[..], "expected '$', got '*'"),
            (b"*100000000\r\n", "invalid multibulk length"),
            (b"*2\r\n$3\r\nGET\r\n$-5\r\n", "invalid bulk length"),
            (&[b'x'; 100_000], "too big inline request"),
        ] {
            let mut bad = connect(port);
            let _ = bad.write_all(bytes);
            let mut answer = Vec::new();
            let _ = bad.read_to_end(&mut answer);
            assert_eq!(String::from_utf8_lossy(&answer), format!("-ERR Protocol error: {why}\r\n"));
        }
        // a value that never ends costs nothing
        let mut slow = connect(port);
        slow.write_all(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$400000000\r\n").unwrap();
        for _ in 0..200 {
            slow.write_all(&[b'v'; 64 << 10]).unwrap();
        }
        assert_eq!(ask_for(&mut good, b"PING\r\n", 7), b"+PONG\r\n");
        assert!(gateway.peak_kib() < 200 << 10, "{} KiB", gateway.peak_kib());
    });
}

#[test]
fn protocols_are_checked_by_the_admin_api() {
    on_both_drivers(|driver| {
        let gateway = gateway(driver);
        let refused = |protocol: Value| {
            let object =
                json!({"upstream": {"type": "none", "nodes": {"127.0.0.1:6379": 1}}, "protocol": protocol});
            let response = gateway.admin("PUT", "/stream_routes/1", &object.to_string());
            (response.status, response.json()["error_msg"].as_str().unwrap_or_default().to_owned())
        };
        assert_eq!(refused(json!({"name": "dubbo"})), (400, "unknown protocol [dubbo]".to_owned()));
        let (status, why) = refused(json!({"name": "redis", "conf": {"faults": []}}));
        assert_eq!(status, 400);
        assert!(
            why.contains("property \"faults\" validation failed: expect array to have at least 1 items"),
            "{why}"
        );
    });
}

/// A ping-pong upstream that sends every message back, and counts them.
fn pong() -> (u16, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = count.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let count = counted.clone();
            std::thread::spawn(move || {
                let (mut from, mut to) = (stream.try_clone().unwrap(), stream);
                let mut head = [0; 10];
                while from.read_exact(&mut head).is_ok() {
                    let named = if head[2] == 4 { 4 } else { 0 };
                    let length = u32::from_be_bytes([head[6], head[7], head[8], head[9]]) as usize + named;
                    let mut body = vec![0; length];
                    from.read_exact(&mut body).unwrap();
                    count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    let _ = to.write_all(&[&head[..], &body].concat());
                }
            });
        }
    });
    (port, count)
}

/// One message of the ping-pong protocol.
fn message(kind: u8, number: u16, service: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![b'p', b'p', kind, (number >> 8) as u8, number as u8, 0];
    bytes.extend((body.len() as u32).to_be_bytes());
    if kind == 4 {
        let mut name = [0; 4];
        name[..service.len()].copy_from_slice(service.as_bytes());
        bytes.extend(name);
    }
    bytes.extend(body);
    bytes
}

#[test]
fn another_protocol_routes_its_calls() {
    use std::sync::atomic::Ordering::SeqCst;
    on_both_drivers(|driver| {
        let gateway = gateway(driver);
        let ((own, at_own), (a, at_a), (b, at_b)) = (pong(), pong(), pong());
        let upstream = |port: u16| json!({"type": "roundrobin", "nodes": {format!("127.0.0.1:{port}"): 1}});
        gateway
            .put("/stream_routes/1", &json!({"upstream": upstream(own), "protocol": {"name": "pingpong"}}));
        for (id, service, port) in [("2", "a", a), ("3", "b", b)] {
            let protocol = json!({"name": "pingpong", "superior_id": "1", "conf": {"service": service}});
            gateway.put(
                &format!("/stream_routes/{id}"),
                &json!({"upstream": upstream(port), "protocol": protocol}),
            );
        }
        let mut client = connect(gateway.ports.proxied);
        let heartbeat = message(1, 0, "", b"");
        assert_eq!(ask_for(&mut client, &heartbeat, 10), heartbeat, "answered without an upstream");
        let large = vec![b'x'; 1 << 20];
        let calls = [
            message(2, 1, "", b"unary"),
            message(4, 2, "a", &large),
            message(4, 3, "b", b"for b"),
            message(4, 4, "none", b"for nobody"),
            message(3, 5, "", &large),
        ];
        let mut sender = client.try_clone().unwrap();
        let sent = calls.concat();
        let writer = std::thread::spawn(move || sender.write_all(&sent).unwrap());
        let mut answers: Vec<Vec<u8>> = Vec::new();
        while answers.len() < calls.len() {
            let mut head = vec![0; 10];
            client.read_exact(&mut head).unwrap();
            let named = if head[2] == 4 { 4 } else { 0 };
            let length = u32::from_be_bytes([head[6], head[7], head[8], head[9]]) as usize + named;
            head.resize(10 + length, 0);
            client.read_exact(&mut head[10..]).unwrap();
            answers.push(head);
        }
        writer.join().unwrap();
        answers.sort_by_key(|answer| answer[4]);
        assert!(answers == calls, "each call has its answer, whole");
        assert_eq!((at_own.load(SeqCst), at_a.load(SeqCst), at_b.load(SeqCst)), (3, 1, 1));
        gateway.delete("/stream_routes/3");
        let call = message(4, 6, "b", b"again");
        assert_eq!(ask_for(&mut client, &call, call.len()), call);
        assert_eq!((at_own.load(SeqCst), at_b.load(SeqCst)), (4, 1), "its route is gone");
        let _ = client.write_all(b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(client.read(&mut [0]).unwrap_or(0), 0, "closed");
        let _ = client.shutdown(Shutdown::Both);
    });
}

/// Each session has its line, and what was under way when it ended is told to the loggers.
#[test]
fn how_a_session_ended_is_logged() {
    on_both_drivers(|driver| {
        let format = "stream: {enable_access_log: true, access_log_buffer: 1, access_log_format: \
                      '$status $bytes_received $bytes_sent $upstream_bytes_sent $upstream_bytes_received.'}\n";
        let rest = "xrpc: {protocols: [{name: redis}]}\nstream_plugins: [syslog]\n";
        let (gateway, redis) = (listening(driver).nginx(format).rest(rest).start(), Redis::start());
        let log = UdpSocket::bind("127.0.0.1:0").unwrap();
        log.set_read_timeout(Some(PATIENCE)).unwrap();
        let sink = json!({"host": "127.0.0.1", "port": log.local_addr().unwrap().port(), "sock_type": "udp",
            "batch_max_size": 1, "flush_limit": 1});
        let logger =
            json!([{"name": "syslog", "filter": [["redis_cmd_line", "==", "get never"]], "conf": sink}]);
        let to = |upstream: Value| {
            let protocol = json!({"name": "redis", "logger": logger});
            gateway.put("/stream_routes/1", &json!({"upstream": upstream, "protocol": protocol}));
        };
        let port = gateway.ports.proxied;
        to(redis.upstream());
        let mut good = connect(port);
        assert_eq!(ask_for(&mut good, b"PING\r\n", 7), b"+PONG\r\n");
        drop(good);
        gateway.read_until("logs/access_stream.log", "200 6 7 6 7.\n");
        let mut bad = connect(port);
        ask_for(&mut bad, b"*1\r\n*1\r\n", 1000);
        drop(bad);
        gateway.read_until("logs/access_stream.log", "400 8 ");
        // an upstream that takes a call, and breaks off
        let broken = Upstream::start(|conn| {
            let _ = conn.stream.read(&mut [0; 100]);
            socket2::SockRef::from(&conn.stream).set_linger(Some(Duration::ZERO)).unwrap();
        });
        to(json!({"type": "none", "nodes": {format!("127.0.0.1:{}", broken.port): 1}}));
        let mut asks = connect(port);
        assert_eq!(ask_for(&mut asks, b"GET never\r\n", 1), b"");
        gateway.read_until("logs/access_stream.log", "200 11 0 11 0.\n");
        let mut message = [0; 4096];
        let length = log.recv(&mut message).unwrap();
        assert!(String::from_utf8_lossy(&message[..length]).contains("get never"));
    });
}

#[test]
fn a_client_that_never_says_anything_is_given_up() {
    on_both_drivers(|driver| {
        let rest = "xrpc: {protocols: [{name: redis}]}\nnginx_config: {stream_configuration_snippet: 'proxy_timeout 1s;'}\n";
        let (gateway, redis) = (listening(driver).rest(rest).start(), Redis::start());
        gateway
            .put("/stream_routes/1", &json!({"upstream": redis.upstream(), "protocol": {"name": "redis"}}));
        let began = Instant::now();
        let mut silent = connect(gateway.ports.proxied);
        silent.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(silent.read(&mut [0]).unwrap(), 0);
        assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
        // one that has a connection to the server has that one's clock
        let mut speaks = connect(gateway.ports.proxied);
        assert_eq!(ask_for(&mut speaks, b"PING\r\n", 7), b"+PONG\r\n");
    });
}

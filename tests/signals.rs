//! Start and end of the process.

mod common;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use common::*;

#[test]
fn quit_lets_requests_end() {
    on_both_drivers(|driver| {
        let (upstream, gate) = Upstream::held("late");
        let mut gateway = Gateway::to(driver, upstream.port);
        let mut client = gateway.connect();
        let mut idle = gateway.connect();
        idle.send("GET /apisix/nginx_status HTTP/1.1\r\nHost: a\r\n\r\n").response();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        upstream.wait_for(1);
        gateway.signal("QUIT");
        idle.closed();
        assert!(gateway.is_running(), "a request is under way");
        eventually("no new connection", || {
            std::net::TcpStream::connect(("127.0.0.1", gateway.port())).is_err()
        });
        gate.open();
        let answer = client.response();
        assert_eq!((answer.text().as_str(), answer.header("connection")), ("late", Some("close")));
        client.closed();
        drop(client);
        assert!(gateway.wait(Duration::from_secs(5)).success());
    });
}

/// They have connected and asked while the gateway could not look.
#[test]
fn who_waits_at_the_door_is_served_before_the_end() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering_unseen(ok("hi"));
        let mut gateway = Gateway::to(driver, upstream.port);
        gateway.signal("STOP");
        let mut clients: Vec<Client> = (0..50).map(|_| gateway.connect()).collect();
        for client in &mut clients {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        }
        gateway.signal("QUIT");
        gateway.signal("CONT");
        for client in &mut clients {
            assert_eq!(client.response().status, 200);
        }
        drop(clients);
        assert!(gateway.wait(Duration::from_secs(5)).success());
    });
}

#[test]
fn term_ends_within_ten_seconds() {
    on_both_drivers(|driver| {
        let (upstream, _never) = Upstream::held("late");
        for signal in ["TERM", "INT"] {
            let mut gateway = Gateway::to(driver, upstream.port);
            gateway.signal(signal);
            assert!(gateway.wait(Duration::from_secs(3)).success(), "nothing to wait for");
        }
        let mut gateway = Gateway::to(driver, upstream.port);
        let mut client = gateway.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        upstream.wait_for(1);
        gateway.signal("TERM");
        let began = Instant::now();
        assert!(gateway.wait(Duration::from_secs(12)).success());
        assert!(began.elapsed() < Duration::from_secs(11));
    });
}

#[test]
fn usr1_opens_the_logs_anew() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let gateway = Gateway::to(driver, upstream.port);
        gateway.get("/before");
        gateway.read_until("logs/access.log", "/before");
        std::fs::rename(gateway.path("logs/access.log"), gateway.path("logs/access.log.1")).unwrap();
        gateway.signal("USR1");
        eventually("a new access log", || gateway.path("logs/access.log").exists());
        gateway.get("/after");
        gateway.read_until("logs/access.log", "/after");
        assert!(!gateway.read("logs/access.log.1").contains("/after"));
    });
}

/// The log is a pipe that takes nothing, until the gateway has nothing left to do but to wait for it.
#[test]
fn the_last_lines_are_in_the_access_log_when_the_process_has_ended() {
    on_both_drivers(|driver| {
        let path = std::env::temp_dir().join(format!("ringway-{}-{driver}.log", std::process::id()));
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let mut full =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        while full.write(&[b'\n'; 4096]).is_ok_and(|bytes| bytes > 0) {}
        let upstream = Upstream::answering(ok("hi"));
        let mut gateway = Setup::new(driver, Source::Yaml(everything_to(upstream.port)))
            .http(&format!("access_log: {}", path.display()))
            .start();
        assert_eq!(gateway.get("/last").status, 200);
        let mut log = File::open(&path).unwrap();
        drop(full);
        std::fs::remove_file(&path).unwrap();
        gateway.signal("TERM");
        eventually("the end of all other threads", || !gateway.is_running() || waits_alone(gateway.pid()));
        let mut text = String::new();
        log.read_to_string(&mut text).unwrap();
        assert!(text.contains("\"GET /last HTTP/1.1\" 200 "), "{}", text.trim());
        assert!(gateway.wait(PATIENCE).success());
    });
}

/// Are the cores and control gone, and does the first thread sleep?
fn waits_alone(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    let stats: Vec<String> =
        threads.flatten().flat_map(|thread| std::fs::read_to_string(thread.path().join("stat"))).collect();
    let sleeps = stats.iter().any(|stat| stat.starts_with(&format!("{pid} ")) && stat.contains(") S "));
    sleeps && !stats.iter().any(|stat| stat.contains("(core-") || stat.contains("(control)"))
}

#[test]
fn a_port_in_use_is_named_at_the_start() {
    let upstream = Upstream::mirror();
    let gateway = Gateway::to(drivers()[0], upstream.port);
    let second = Command::new(env!("CARGO_BIN_EXE_ringway"))
        .args(["run", "-c"])
        .arg(gateway.path("conf/config.yaml"))
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    let named =
        text.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
    let config = gateway.read("conf/config.yaml");
    assert!(text.contains("Address already in use"), "{text}");
    assert!(named.is_some_and(|port| port.len() > 3 && config.contains(port)), "{text}");
    assert_eq!(gateway.get("/").status, 200, "the first one is unharmed");
}

#[test]
fn the_banner_says_where_it_listens() {
    for driver in drivers() {
        let gateway = Setup::new(driver, Source::Embedded).start();
        eventually("the whole banner", || gateway.banner().contains("curl "));
        let banner = gateway.banner();
        for port in [gateway.ports.port, gateway.ports.admin, gateway.ports.control, gateway.ports.metrics] {
            assert!(banner.contains(&format!("127.0.0.1:{port}")), "{port}: {banner}");
        }
        assert!(banner.contains(driver), "{banner}");
        assert!(banner.contains(KEY), "{banner}");
    }
}

/// The line that the banner shows is a command that works.
#[test]
fn the_first_command_works() {
    let gateway = Setup::new(drivers()[0], Source::Embedded).start();
    eventually("the whole banner", || gateway.banner().contains("curl "));
    let banner = gateway.banner();
    let line = banner.lines().find(|line| line.trim().starts_with("curl ")).unwrap();
    let target = line.split("/apisix/admin").nth(1).unwrap().split(' ').next().unwrap();
    let body = line.split("-d '").nth(1).unwrap().trim_end_matches('\'');
    let answer = gateway.admin("PUT", target, body);
    assert_eq!(answer.status, 201, "{answer}");
}

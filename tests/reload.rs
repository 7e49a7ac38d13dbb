//! HUP: the configuration is read again, and nobody notices but for what has changed.

mod common;

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::*;

/// Replaces a text in the gateway's config.yaml, and reloads.
fn change(gateway: &Gateway, from: &str, to: &str) {
    let text = gateway.read("conf/config.yaml");
    assert!(text.contains(from), "{text}");
    // in one step: a reload that is under way must not find half of the file
    std::fs::write(gateway.path("conf/new.yaml"), text.replace(from, to)).unwrap();
    std::fs::rename(gateway.path("conf/new.yaml"), gateway.path("conf/config.yaml")).unwrap();
    gateway.signal("HUP");
}

#[test]
fn new_options_count_for_new_connections() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering_unseen(ok("hi"));
        let gateway = Setup::new(driver, Source::Yaml(everything_to(upstream.port)))
            .apisix("enable_server_tokens: true\n")
            .start();
        let server = |answer: &Response| answer.header("server").map(str::to_owned);
        assert_eq!(server(&gateway.get("/")), Some("APISIX/3.18.0".into()));
        let mut old = gateway.connect();
        old.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").response();
        change(&gateway, "enable_server_tokens: true", "enable_server_tokens: false");
        eventually("the new configuration", || server(&gateway.get("/")) == Some("APISIX".into()));
        // An idle connection of before may send one more request, and is told to go.
        let last = old.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").response();
        assert_eq!((last.status, last.header("connection")), (200, Some("close")));
        old.closed();
    });
}

#[test]
fn no_request_is_lost() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering_unseen(ok("hi"));
        let gateway = Gateway::to(driver, upstream.port);
        let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for keep_alive in [true, false, true] {
                let (gateway, stop, answered) = (&gateway, &stop, &answered);
                scope.spawn(move || {
                    let mut client = gateway.connect();
                    while !stop.load(Ordering::Relaxed) {
                        let answer = client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").response();
                        assert_eq!(answer.status, 200);
                        answered.fetch_add(1, Ordering::Relaxed);
                        if !keep_alive || answer.header("connection") == Some("close") {
                            client = gateway.connect();
                        }
                    }
                });
            }
            for _ in 0..5 {
                gateway.signal("HUP");
                let before = answered.load(Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(200));
                eventually("requests go on", || answered.load(Ordering::Relaxed) > before + 10);
            }
            stop.store(true, Ordering::Relaxed);
        });
    });
}

/// nginx: old workers end by the configuration with which they began.
#[test]
fn requests_under_way_have_the_time_of_the_configuration_that_they_came_under() {
    on_both_drivers(|driver| {
        for (before, after, answered) in [("1s", "240s", false), ("0", "1ms", true)] {
            let (upstream, gate) = Upstream::held("at last");
            let gateway = Setup::new(driver, Source::Yaml(everything_to(upstream.port)))
                .nginx(&format!("worker_shutdown_timeout: {before}\n"))
                .workers(1)
                .start();
            let (mut waits, mut other) = (gateway.connect(), gateway.connect());
            waits.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            upstream.wait_for(1);
            let timeout = |time: &str| format!("worker_shutdown_timeout: {time}");
            change(&gateway, &timeout(before), &timeout(after));
            if !answered {
                waits.closed();
                continue;
            }
            eventually("its core is told to end", || {
                let answer = other.send("GET /apisix/nginx_status HTTP/1.1\r\nHost: a\r\n\r\n").response();
                answer.header("connection") == Some("close")
            });
            eventually("the others have taken over", || cores(&gateway) == 2);
            gate.open();
            assert_eq!(waits.response().text(), "at last");
        }
    });
}

#[test]
fn what_cannot_be_read_changes_nothing() {
    let upstream = Upstream::answering_unseen(ok("hi"));
    let mut gateway = Gateway::to("epoll", upstream.port);
    change(&gateway, "apisix:", "apisix: [");
    eventually("the error is logged", || gateway.logs().contains("the configuration is not reloaded"));
    assert_eq!(gateway.get("/").status, 200);
    gateway.signal("QUIT");
    assert!(gateway.wait(Duration::from_secs(5)).success());
}

/// Whatever new cores lack, those that did start end again, and the old ones go on.
#[test]
fn cores_that_cannot_all_start_leave_none_behind() {
    let upstream = Upstream::answering_unseen(ok("hi"));
    let gateway = Gateway::to("epoll", upstream.port);
    let pid = gateway.pid();
    assert_eq!(cores(&gateway), 2);
    let said = |text: &str| gateway.read("logs/error.log").matches(text).count();
    for more in (0..).take_while(|_| said("the configuration is reloaded") == 0) {
        let most = limit_for(pid, more);
        let limits = [format!("--pid={pid}"), format!("--nofile={most}:")];
        assert!(Command::new("prlimit").args(limits).status().unwrap().success());
        let tried = said("the configuration is ");
        gateway.signal("HUP");
        eventually("the reload is tried", || said("the configuration is ") > tried);
        eventually("new cores end where not all could start, else the old ones", || cores(&gateway) == 2);
    }
    // cores start side by side: which of them finds nothing left is up to the host
    for why in ["a socket cannot be shared", " cannot start"] {
        assert_ne!(said(why), 0, "{why}: {}", gateway.logs());
    }
    assert_eq!(gateway.get("/").status, 200);
}

/// Threads of cores, of all generations.
fn cores(gateway: &Gateway) -> usize {
    let threads = std::fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap();
    let name = |thread: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(thread.unwrap().path().join("comm")).unwrap_or_default()
    };
    threads.map(name).filter(|name| name.starts_with("core-")).count()
}

#[test]
fn admin_keys_change_and_ports_do_not() {
    let gateway = Setup::new("epoll", Source::Embedded).start();
    let admin = gateway.ports.admin;
    let status = |key: &str| {
        let mut client = Client::connect(admin);
        let head = format!("GET /apisix/admin/routes HTTP/1.1\r\nHost: a\r\nX-API-KEY: {key}\r\n\r\n");
        client.send(&head).response().status
    };
    assert_eq!((status(KEY), status("other")), (200, 401));
    change(&gateway, KEY, "other");
    eventually("the new key", || status("other") == 200);
    assert_eq!(status(KEY), 401);
    change(&gateway, &format!("port: {admin}"), &format!("port: {}", free_port()));
    eventually("the warning", || gateway.logs().contains("changes that need a restart, not a reload"));
    assert_eq!(status("other"), 200);
}

#[test]
fn the_admin_api_is_in_the_access_log_of_the_new_configuration() {
    let gateway = Setup::new("epoll", Source::Embedded).http("access_log: logs/one.log").start();
    let asked = |path: &str, file: &str| {
        gateway.admin("GET", path, "");
        gateway.read(file).contains(&format!("GET /apisix/admin{path} "))
    };
    eventually("a line in the first log", || asked("/routes", "logs/one.log"));
    change(&gateway, "logs/one.log", "logs/two.log");
    eventually("a line in the second", || asked("/services", "logs/two.log"));
}

/// A reload says so in the error log, where that has lines of its level.
#[test]
fn the_level_of_the_error_log_changes() {
    let gateway =
        Setup::new("epoll", Source::Yaml("routes: []".into())).apisix("enable_server_tokens: true\n").start();
    change(&gateway, "error_log_level: info", "error_log_level: error");
    change(&gateway, "enable_server_tokens: true", "enable_server_tokens: false");
    eventually("the new configuration", || gateway.get("/").header("server") == Some("APISIX"));
    change(&gateway, "error_log_level: error", "error_log_level: info");
    let log = gateway.read_until("logs/error.log", "the configuration is reloaded");
    assert_eq!(log.matches("the configuration is reloaded").count(), 1, "{log}");
}

#[test]
fn the_access_log_of_the_new_configuration_is_rotated() {
    let upstream = Upstream::answering_unseen(ok("hi"));
    let gateway = Setup::new("epoll", Source::Yaml(everything_to(upstream.port)))
        .http("access_log: logs/one.log")
        .rest("plugins: [log-rotate]\n")
        .start();
    let rotated = |name: &str| {
        gateway.get("/");
        let files = std::fs::read_dir(gateway.path("logs")).unwrap();
        files.flatten().any(|file| file.file_name().to_string_lossy().ends_with(&format!("__{name}")))
    };
    change(&gateway, "plugin_attr:\n", "plugin_attr:\n  log-rotate: {interval: 1}\n");
    eventually("the first log is rotated", || rotated("one.log"));
    change(&gateway, "logs/one.log", "logs/two.log");
    eventually("the second log is rotated", || rotated("two.log"));
}

/// apisix.yaml has no list of its own here, so that of config.yaml decides which of its routes are right.
#[test]
fn the_list_of_plugins_judges_the_routes_of_a_file() {
    let upstream = Upstream::answering_unseen(ok("hi"));
    let nodes = format!("upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}}}", upstream.port);
    let routes = format!(
        "routes:\n\
         - {{uri: /open, {nodes}}}\n\
         - {{uri: /guarded, plugins: {{key-auth: {{}}}}, {nodes}}}\n\
         - {{uri: /limited, plugins: {{limit-count: {{count: 1, time_window: 60}}}}, {nodes}}}"
    );
    let gateway = Setup::new("epoll", Source::Yaml(routes)).rest("plugins: [key-auth]\n").start();
    let statuses = || ["/open", "/guarded", "/limited"].map(|target| gateway.get(target).status);
    assert_eq!(statuses(), [200, 401, 404]);
    change(&gateway, "plugins: [key-auth]", "plugins: [limit-count]");
    let mut seen = Vec::new();
    eventually("the other list", || {
        seen.push(statuses());
        seen.last() == Some(&[200, 404, 503]) || seen.last() == Some(&[200, 404, 200])
    });
    assert!(seen.iter().all(|[open, guarded, _]| *open == 200 && *guarded != 200), "{seen:?}");
}

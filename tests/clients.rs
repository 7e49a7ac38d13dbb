//! The programs that operators point at APISIX, pointed at the gateway: the Python package of the Admin API, and
//! Prometheus.

mod common;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use common::*;
use serde_json::{Value, json};

/// Creates, reads, lists, changes and deletes all that the package knows (tests/clients/admin_api.py).
fn apisix_client_is_content(gateway: &Gateway) {
    let upstream = Upstream::mirror();
    let [admin, proxy] = [gateway.ports.admin, gateway.port()].map(|port| format!("http://127.0.0.1:{port}"));
    python("admin_api.py", &[&admin, &proxy, &KEY, &upstream.port]);
}

#[test]
fn apisix_client_on_the_embedded_store() {
    on_both_drivers(|driver| apisix_client_is_content(&Setup::new(driver, Source::Embedded).start()));
}

#[test]
fn apisix_client_on_etcd() {
    on_both_drivers(|driver| {
        let etcd = Etcd::start();
        apisix_client_is_content(&Setup::new(driver, Source::Etcd(etcd.port)).start());
    });
}

/// A gateway that has served requests of which Prometheus should know: 200 seven times, 404 twice.
fn counted(driver: &'static str) -> Gateway {
    let upstream = Upstream::answering(ok("served"));
    let nodes = json!({format!("127.0.0.1:{}", upstream.port): 1});
    let upstream = json!({"type": "roundrobin", "nodes": nodes});
    let names = json!({"prometheus": {"prefer_name": true}});
    // a name whose characters the text format must escape
    let route =
        json!({"id": "r", "name": "a \"quoted\\ name", "uri": "/a", "plugins": names, "upstream": upstream});
    let rest = json!({"id": "all", "uri": "/*", "plugins": {"prometheus": {}, "mocking": {"response_status": 404, "response_example": "no"}}});
    let objects = format!("routes:\n- {route}\n- {rest}\n");
    let gateway = Gateway::with_yaml(driver, &objects);
    for (target, times, status) in [("/a", 7, 200), ("/b", 2, 404)] {
        for _ in 0..times {
            assert_eq!(gateway.get(target).status, status);
        }
    }
    gateway
}

/// What `promtool` finds wrong with a page of metrics.
fn promtool(page: &[u8]) -> Output {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed (tests/run does it)");
    promtool.stdin.take().unwrap().write_all(page).unwrap();
    promtool.wait_with_output().unwrap()
}

#[test]
fn promtool_finds_nothing_but_apisix_s_names() {
    on_both_drivers(|driver| {
        let gateway = counted(driver);
        let page = get(gateway.ports.metrics, "/apisix/prometheus/metrics");
        assert_eq!(page.status, 200, "{page}");
        assert_eq!(page.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        let found = String::from_utf8(promtool(&page.body).stderr).unwrap();
        let mut names: Vec<&str> = found.lines().filter_map(|line| line.split(' ').next()).collect();
        names.sort_unstable();
        // of these APISIX's dashboards and alerts know the names, which say too much or too little
        assert_eq!(
            names,
            ["apisix_bandwidth", "apisix_http_requests_total", "apisix_http_status"],
            "{found}\n{page}"
        );
    });
}

/// A Prometheus that scrapes one target every 200 ms.
struct Prometheus {
    port: u16,
    folder: PathBuf,
    child: Child,
}

impl Prometheus {
    fn start(target: u16) -> Prometheus {
        let port = free_port();
        let folder = std::env::temp_dir().join(format!("ringway-prometheus-{}-{port}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let config = format!(
            "global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}\n\
             scrape_configs:\n- job_name: apisix\n  metrics_path: /apisix/prometheus/metrics\n  \
             static_configs: [{{targets: [\"127.0.0.1:{target}\"]}}]\n"
        );
        fs::write(folder.join("prometheus.yml"), config).unwrap();
        let log = fs::File::create(folder.join("log")).unwrap();
        let child = Command::new("prometheus")
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .current_dir(&folder)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("prometheus is installed (tests/run does it)");
        let prometheus = Prometheus { port, folder, child };
        eventually("Prometheus", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        prometheus
    }

    /// The value of an expression that gives one, as soon as there is one.
    fn query(&self, expression: &str) -> Option<f64> {
        let escaped: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = get(self.port, &format!("/api/v1/query?query={escaped}"));
        if answer.status != 200 {
            return None; // it is starting
        }
        let found: Value = answer.json();
        found["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.folder.join("log")).unwrap_or_default());
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn prometheus_scrapes_and_answers() {
    on_both_drivers(|driver| {
        let gateway = counted(driver);
        let prometheus = Prometheus::start(gateway.ports.metrics);
        for (expression, value) in [
            ("up{job=\"apisix\"}", 1.0),
            (r#"apisix_http_status{code="200", route="a \"quoted\\ name", node="127.0.0.1"}"#, 7.0),
            (r#"sum(apisix_http_status{code="404", route="all"})"#, 2.0),
            (r#"sum(apisix_http_latency_count{type="request"})"#, 9.0),
            (r#"sum(apisix_http_latency_bucket{type="request", le="+Inf"})"#, 9.0),
            (r#"apisix_bandwidth{type="egress", route="all"} > bool 100"#, 1.0),
            ("apisix_http_requests_total", 9.0),
        ] {
            eventually(expression, || prometheus.query(expression) == Some(value));
        }
    });
}

//! Probes against servers of the test's own, on tokio's paused clock where no socket is involved.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::transport::trust::{Trust, client_config};

fn tls() -> ProbeTls {
    let unverified = client_config(&Trust::Anyone, None, &[]).unwrap();
    ProbeTls { verified: Arc::clone(&unverified), unverified }
}

/// A server whose status can be changed and which counts its requests.
struct Server {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    requests: Arc<AtomicUsize>,
}

async fn server() -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (status, requests) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicUsize::new(0)));
    let (answer, count) = (Arc::clone(&status), Arc::clone(&requests));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            count.fetch_add(1, Ordering::Relaxed);
            let head = format!("HTTP/1.1 {} x\r\n\r\n", answer.load(Ordering::Relaxed));
            let _ = stream.write_all(head.as_bytes()).await;
        }
    });
    Server { address, status, requests }
}

fn target(address: SocketAddr) -> TargetAddress {
    let ip: Arc<str> = address.ip().to_string().into();
    TargetAddress { ip: Arc::clone(&ip), port: address.port(), hostname: Arc::clone(&ip), host_header: ip }
}

struct Running {
    orders: mpsc::Sender<Order>,
    deltas: mpsc::UnboundedReceiver<HealthDelta>,
}

impl Running {
    fn start() -> Self {
        let (orders, receiver) = mpsc::channel(64);
        let (sender, deltas) = mpsc::unbounded_channel();
        tokio::spawn(run(receiver, tls(), move |delta| sender.send(delta).unwrap()));
        Running { orders, deltas }
    }

    async fn watch(&self, checks: &Value, targets: &[SocketAddr]) {
        let checks = Arc::new(Checks::parse(checks).unwrap());
        let targets = targets.iter().map(|&address| target(address)).collect();
        self.orders.send(Order::Watch { upstream: "/upstreams/1".into(), checks, targets }).await.unwrap();
    }

    async fn observed(&self, address: SocketAddr, report: Report) {
        let ip = address.ip().to_string().into();
        let upstream = "/upstreams/1".into();
        self.orders.send(Order::Observed { upstream, ip, port: address.port(), report }).await.unwrap();
    }

    async fn list(&self) -> Vec<Checker> {
        let (answer, list) = oneshot::channel();
        self.orders.send(Order::List(answer)).await.unwrap();
        list.await.unwrap()
    }

    async fn status(&mut self) -> Status {
        tokio::time::timeout(Duration::from_secs(10), self.deltas.recv()).await.unwrap().unwrap().status
    }
}

fn quick_checks() -> Value {
    json!({"active": {
        "http_path": "/status",
        "healthy": {"interval": 1, "successes": 2},
        "unhealthy": {"interval": 1, "http_failures": 1, "tcp_failures": 1}
    }})
}

#[tokio::test]
async fn a_node_goes_out_and_comes_back() {
    let server = server().await;
    let mut probes = Running::start();
    probes.watch(&quick_checks(), &[server.address]).await;
    assert_eq!(probes.status().await, Status::Healthy);
    server.status.store(500, Ordering::Relaxed);
    assert_eq!(probes.status().await, Status::Unhealthy);
    server.status.store(200, Ordering::Relaxed);
    assert_eq!(probes.status().await, Status::MostlyUnhealthy);
    assert_eq!(probes.status().await, Status::Healthy);
    assert!(server.requests.load(Ordering::Relaxed) <= 4, "one probe an interval");
}

#[tokio::test]
async fn a_refused_connection_and_a_hanging_server_are_told_apart() {
    let refused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let checks = Checks::parse(&json!({"active": {"timeout": 0.05}})).unwrap();
    assert_eq!(check::check(&checks, &target(refused), &tls()).await, Report::TcpFailure);
    let hanging = target(hanging.local_addr().unwrap());
    assert_eq!(check::check(&checks, &hanging, &tls()).await, Report::Timeout);
    let tcp = Checks::parse(&json!({"active": {"type": "tcp"}})).unwrap();
    assert_eq!(check::check(&tcp, &hanging, &tls()).await, Report::Connected);
}

#[tokio::test]
async fn an_https_probe_of_a_server_without_tls_is_a_tcp_failure() {
    let server = server().await;
    let checks = Checks::parse(&json!({"active": {"type": "https", "https_verify_certificate": false}}));
    assert_eq!(check::check(&checks.unwrap(), &target(server.address), &tls()).await, Report::TcpFailure);
}

#[tokio::test]
async fn passive_reports_count_and_the_control_api_shows_them() {
    let server = server().await;
    let mut probes = Running::start();
    let checks = json!({"active": {}, "passive": {"unhealthy": {"http_failures": 2}}});
    probes.watch(&checks, &[server.address]).await;
    probes.observed(server.address, Report::Http(500)).await;
    probes.observed(server.address, Report::Http(500)).await;
    let told = [probes.status().await, probes.status().await, probes.status().await];
    assert_eq!(told, [Status::Healthy, Status::MostlyHealthy, Status::Unhealthy]);
    let list = probes.list().await;
    let port = server.address.port();
    assert_eq!(
        list[0].nodes_json(),
        json!([{"ip": "127.0.0.1", "port": port, "hostname": "127.0.0.1", "status": "unhealthy",
            "counter": {"success": 0, "http_failure": 2, "tcp_failure": 0, "timeout_failure": 0}}])
    );
}

#[tokio::test(start_paused = true)]
async fn states_outlive_a_change_and_a_short_absence_but_not_a_long_one() {
    let node: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let other: SocketAddr = "127.0.0.1:2".parse().unwrap();
    let mut probes = Running::start();
    let checks = json!({"active": {}, "passive": {"unhealthy": {"tcp_failures": 1}}});
    probes.watch(&checks, &[node]).await;
    probes.observed(node, Report::TcpFailure).await;
    assert_eq!((probes.status().await, probes.status().await), (Status::Healthy, Status::Unhealthy));

    // another core asks, with one more node: it is told of the new one, and last of the bad one
    probes.watch(&checks, &[node, other]).await;
    let mut told = async || probes.deltas.recv().await.map(|told| (told.port, told.status, told.version));
    assert_eq!(told().await, Some((2, Status::Healthy, 3)));
    assert_eq!(told().await, Some((1, Status::Unhealthy, 4)));

    probes.orders.send(Order::Forget { upstream: "/upstreams/1".into() }).await.unwrap();
    assert!(probes.list().await.is_empty());
    tokio::time::sleep(Duration::from_secs(9)).await;
    probes.watch(&checks, &[node]).await;
    assert_eq!(probes.status().await, Status::Unhealthy);

    probes.orders.send(Order::Forget { upstream: "/upstreams/1".into() }).await.unwrap();
    tokio::time::sleep(Duration::from_secs(11)).await;
    probes.watch(&checks, &[node]).await;
    assert_eq!(probes.list().await[0].nodes[0].1, Target::default());
}

/// What cores hold against a node of before must go: no later success of the new target is a change.
#[tokio::test(start_paused = true)]
async fn a_node_that_comes_back_is_told_to_be_healthy() {
    let [node, other]: [SocketAddr; 2] = ["127.0.0.1:1", "127.0.0.1:2"].map(|text| text.parse().unwrap());
    let mut probes = Running::start();
    let checks = json!({"active": {}, "passive": {"unhealthy": {"tcp_failures": 1}}});
    probes.watch(&checks, &[other, node]).await;
    probes.observed(node, Report::TcpFailure).await;
    let told = [probes.status().await, probes.status().await, probes.status().await];
    assert_eq!(told, [Status::Healthy, Status::Healthy, Status::Unhealthy]);
    probes.watch(&checks, &[other]).await;
    probes.watch(&checks, &[other, node]).await;
    let told = probes.deltas.recv().await.unwrap();
    assert_eq!((told.port, told.status), (1, Status::Healthy));
}

#[tokio::test]
async fn probes_end_with_their_upstream() {
    let server = server().await;
    let probes = Running::start();
    probes.watch(&quick_checks(), &[server.address]).await;
    probes.orders.send(Order::Forget { upstream: "/upstreams/1".into() }).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1300)).await;
    assert_eq!(server.requests.load(Ordering::Relaxed), 0);
}

/// What never ends its first line is no answer, and is not gathered.
#[tokio::test]
async fn a_status_line_without_end_is_a_failure_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            while stream.write_all(&[b'x'; 1000]).await.is_ok() {}
        }
    });
    let mut checks = quick_checks();
    checks["active"]["timeout"] = json!(60);
    checks["active"]["unhealthy"]["http_statuses"] = json!([0, 500]);
    let mut probes = Running::start();
    probes.watch(&checks, &[address]).await;
    assert_eq!(probes.status().await, Status::Healthy);
    assert_eq!(probes.status().await, Status::Unhealthy, "long before the time that a probe has");
}

#[tokio::test]
async fn probes_beyond_the_bound_of_the_process_are_late_not_lost() {
    const UPSTREAMS: usize = 40;
    const NODES: usize = 10; // as many as `concurrency` lets an upstream probe at once
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (open, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now_open, most_open) = (Arc::clone(&open), Arc::clone(&peak));
    let probed: Arc<Mutex<HashSet<SocketAddr>>> = Arc::default();
    let met = Arc::clone(&probed);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            most_open.fetch_max(now_open.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            met.lock().unwrap().insert(stream.local_addr().unwrap());
            let (now_open, most_open) = (Arc::clone(&now_open), Arc::clone(&most_open));
            tokio::spawn(async move {
                // none is let go before as many are here as may come; then there is time for one too many
                while most_open.load(Ordering::Relaxed) < limits::PROBES_IN_FLIGHT {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
                now_open.fetch_sub(1, Ordering::Relaxed);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            });
        }
    });
    let probes = Running::start();
    let checks = json!({"active": {"timeout": 60, "healthy": {"interval": 1}, "unhealthy": {"interval": 1}}});
    let checks = Arc::new(Checks::parse(&checks).unwrap());
    for number in 0..UPSTREAMS {
        let address = |node| SocketAddr::from(([127, 0, 1 + number as u8, 1 + node as u8], port));
        let targets = (0..NODES).map(|node| target(address(node))).collect();
        let upstream = format!("/upstreams/{number}").into();
        let watch = Order::Watch { upstream, checks: Arc::clone(&checks), targets };
        probes.orders.send(watch).await.unwrap();
    }
    for _ in 0..200 {
        if probed.lock().unwrap().len() == UPSTREAMS * NODES {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(probed.lock().unwrap().len(), UPSTREAMS * NODES);
    assert_eq!(peak.load(Ordering::Relaxed), limits::PROBES_IN_FLIGHT);
}

/// Holds each connection for a while and keeps the largest number that it held at once.
async fn serve_slowly(listener: TcpListener, open: Arc<AtomicUsize>, peak: Arc<AtomicUsize>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        peak.fetch_max(open.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(40)).await;
        open.fetch_sub(1, Ordering::Relaxed);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
    }
}

#[tokio::test]
async fn no_more_probes_of_an_upstream_run_at_once_than_allowed() {
    let (open, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut targets = Vec::new();
    for _ in 0..6 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        targets.push(listener.local_addr().unwrap());
        tokio::spawn(serve_slowly(listener, Arc::clone(&open), Arc::clone(&peak)));
    }
    let probes = Running::start();
    probes.watch(&json!({"active": {"concurrency": 2, "healthy": {"interval": 1}}}), &targets).await;
    tokio::time::sleep(Duration::from_millis(1300)).await;
    assert_eq!(peak.load(Ordering::Relaxed), 2);
}

//! The same promises, kept by the embedded store and by a real etcd.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::etcd_tls::Tls;
use super::*;

/// A directory of its own, removed at the end.
pub(crate) struct TempDir(pub PathBuf);

impl TempDir {
    pub(crate) fn new() -> TempDir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ringway-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A real etcd on free ports, killed at the end.
pub(crate) struct RealEtcd {
    child: Child,
    directory: TempDir,
    port: u16,
    peer_port: u16,
}

impl RealEtcd {
    pub(crate) fn start() -> RealEtcd {
        let directory = TempDir::new();
        let (port, peer_port) = (free_port(), free_port());
        let child = spawn_etcd(&directory.0, port, peer_port, &[]);
        RealEtcd { child, directory, port, peer_port }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.child = spawn_etcd(&self.directory.0, self.port, self.peer_port, &[]);
    }

    fn wipe(&self) {
        std::fs::remove_dir_all(&self.directory.0).unwrap();
        std::fs::create_dir_all(&self.directory.0).unwrap();
    }

    pub(crate) fn options(&self) -> etcd::Options {
        options_of(self.url())
    }
}

/// What a test asks of the etcd at `host`.
fn options_of(host: String) -> etcd::Options {
    etcd::Options {
        hosts: vec![host],
        prefix: "/apisix".into(),
        user: None,
        tls: Tls::default(),
        timeout_ms: 3_000,
        watch_timeout_ms: 500,
        resync_delay_ms: 100,
        startup_retry: 100,
        snapshot: None,
    }
}

impl Drop for RealEtcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn spawn_etcd(directory: &Path, port: u16, peer_port: u16, more: &[&str]) -> Child {
    let scheme = if more.contains(&"--cert-file") { "https" } else { "http" };
    let client = format!("{scheme}://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    let child = Command::new("etcd")
        .arg("--data-dir")
        .arg(directory.join("data"))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd (Debian package etcd-server) must be installed");
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "etcd did not start");
        std::thread::sleep(Duration::from_millis(50));
    }
    child
}

/// Runs a test's body as the control thread would.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn next(events: &mut mpsc::Receiver<Event>) -> Event {
    tokio::time::timeout(Duration::from_secs(20), events.recv()).await.expect("an event").expect("a store")
}

/// The next snapshot's keys and values.
async fn next_snapshot(events: &mut mpsc::Receiver<Event>) -> Vec<(String, Bytes)> {
    loop {
        if let Event::Snapshot { entries, .. } = next(events).await {
            return entries.into_iter().map(|e| (e.key.into(), e.value)).collect();
        }
    }
}

async fn next_change(events: &mut mpsc::Receiver<Event>) -> Change {
    match next(events).await {
        Event::Changes { mut changes, .. } if changes.len() == 1 => changes.remove(0),
        other => panic!("expected one change, got {other:?}"),
    }
}

/// What both stores promise.
async fn keeps_its_promises(store: Store) {
    assert_eq!(store.get("/routes/1").await.unwrap(), None);
    assert!(store.list("/routes").await.unwrap().entries.is_empty());

    let mut events = store.watch().await.unwrap();
    assert!(next_snapshot(&mut events).await.is_empty());
    let created = store.put("/routes/1", bytes("{\"a\":1}"), None, None).await.unwrap();
    assert!(!created.existed);
    assert_eq!(next_change(&mut events).await.value, Some(bytes("{\"a\":1}")));

    let replaced = store.put("/routes/1", bytes("{\"a\":2}"), None, None).await.unwrap();
    assert!(replaced.existed);
    assert!(replaced.revision > created.revision);
    let entry = store.get("/routes/1").await.unwrap().unwrap();
    assert_eq!(entry.value, bytes("{\"a\":2}"));
    assert_eq!((entry.create_revision, entry.mod_revision), (created.revision, replaced.revision));
    let change = next_change(&mut events).await;
    assert_eq!((change.create_revision, change.mod_revision), (created.revision, replaced.revision));
    assert_eq!(change.value, Some(bytes("{\"a\":2}")));

    // Compare and swap: a stale revision loses, the current one wins, 0 means "must not exist".
    let stale = store.put("/routes/1", bytes("{}"), Some(created.revision), None).await;
    assert_eq!(stale, Err(Error::Conflict));
    let swapped = store.put("/routes/1", bytes("{\"a\":3}"), Some(replaced.revision), None).await.unwrap();
    assert!(swapped.existed);
    assert_eq!(next_change(&mut events).await.value, Some(bytes("{\"a\":3}")));
    assert_eq!(store.put("/routes/1", bytes("{}"), Some(0), None).await, Err(Error::Conflict));

    // A directory is its keys, not its namesakes, and not its placeholder.
    store.put("/routes2/1", bytes("{}"), None, None).await.unwrap();
    store.put("/routes/", Bytes::from_static(INIT_DIR), None, None).await.unwrap();
    store.put("/routes/10", bytes("{}"), None, None).await.unwrap();
    let keys: Vec<_> =
        store.list("/routes").await.unwrap().entries.into_iter().map(|e| e.key.into_string()).collect();
    assert_eq!(keys, ["/routes/1", "/routes/10"]);
    for key in ["/routes2/1", "/routes/", "/routes/10"] {
        assert_eq!(&*next_change(&mut events).await.key, key);
    }

    assert!(!store.delete("/routes/9").await.unwrap().existed);
    assert!(store.delete("/routes/1").await.unwrap().existed);
    let gone = next_change(&mut events).await;
    assert_eq!((&*gone.key, gone.value), ("/routes/1", None));
    assert_eq!(store.get("/routes/1").await.unwrap(), None);
    assert!(store.delete_dir("/routes2").await.unwrap().existed);
    assert_eq!(&*next_change(&mut events).await.key, "/routes2/1");

    // A lease for longer than clocks count is one for a long time.
    store.put("/upstreams/1", bytes("{}"), None, Some(i64::MAX)).await.unwrap();
    assert!(next_change(&mut events).await.value.is_some());
    assert!(store.get("/upstreams/1").await.unwrap().is_some());

    // A leased key goes away by itself, and the watcher is told.
    store.put("/upstreams/1", bytes("{}"), None, Some(1)).await.unwrap();
    assert!(next_change(&mut events).await.value.is_some());
    assert_eq!(next_change(&mut events).await.value, None);
    assert_eq!(store.get("/upstreams/1").await.unwrap(), None);
}

#[test]
fn the_embedded_store_keeps_its_promises() {
    let directory = TempDir::new();
    block_on(async {
        let store = Embedded::open(&directory.0, "/apisix").unwrap();
        keeps_its_promises(Store::Embedded(store)).await;
    });
}

#[test]
fn etcd_keeps_its_promises() {
    let etcd = RealEtcd::start();
    block_on(async {
        let store = Etcd::connect(etcd.options()).await.unwrap();
        keeps_its_promises(Store::Etcd(store)).await;
    });
}

#[test]
fn what_the_embedded_store_acknowledged_is_there_after_a_kill() {
    let directory = TempDir::new();
    let copy = TempDir::new();
    block_on(async {
        let store = Store::Embedded(Embedded::open(&directory.0, "/apisix").unwrap());
        let written = store.put("/routes/1", bytes("{\"a\":1}"), None, None).await.unwrap();
        // The file as a kill would leave it: copied while the store still has it open.
        std::fs::copy(directory.0.join(embedded::FILE), copy.0.join(embedded::FILE)).unwrap();
        let after = Store::Embedded(Embedded::open(&copy.0, "/apisix").unwrap());
        let entry = after.get("/routes/1").await.unwrap().unwrap();
        assert_eq!((entry.value, entry.mod_revision), (bytes("{\"a\":1}"), written.revision));
        let next = after.put("/routes/2", bytes("{}"), None, None).await.unwrap();
        assert_eq!(next.revision, written.revision + 1);
    });
}

#[test]
fn a_lease_outlives_a_restart_but_not_its_time() {
    let directory = TempDir::new();
    block_on(async {
        let store = Store::Embedded(Embedded::open(&directory.0, "/apisix").unwrap());
        store.put("/routes/1", bytes("{}"), None, Some(1)).await.unwrap();
        drop(store);
        let store = loop {
            // The old thread ends in its own time; until then the file is in use.
            match Embedded::open(&directory.0, "/apisix") {
                Ok(store) => break Store::Embedded(store),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        let mut events = store.watch().await.unwrap();
        if !next_snapshot(&mut events).await.is_empty() {
            assert_eq!(next_change(&mut events).await.value, None);
        }
        assert_eq!(store.get("/routes/1").await.unwrap(), None);
    });
}

#[test]
fn who_has_objects_by_itself_says_so() {
    let directory = TempDir::new();
    assert!(Store::Embedded(Embedded::open(&directory.0.join("db"), "/apisix").unwrap()).brings_objects());
    let file = directory.0.join("apisix.yaml");
    std::fs::write(&file, "routes: []\n").unwrap();
    assert!(!Store::File(File::open(file.clone())).brings_objects(), "it is being written");
    std::fs::write(&file, "routes: []\n#END\n").unwrap();
    assert!(Store::File(File::open(file)).brings_objects());
    assert!(!Store::Standalone(Standalone::default()).brings_objects());
}

#[test]
fn a_damaged_file_is_named_and_not_served() {
    let directory = TempDir::new();
    let file = directory.0.join(embedded::FILE);
    std::fs::write(&file, b"this is no database, and long enough to be looked at".repeat(400)).unwrap();
    let error = Embedded::open(&directory.0, "/apisix").err().unwrap().to_string();
    assert!(error.contains("cannot open the store") && error.contains(embedded::FILE), "{error}");
}

#[test]
fn concurrent_writers_share_revisions_without_gaps() {
    const WRITERS: i64 = 1000; // more than the store's queue holds: the rest wait in line
    let directory = TempDir::new();
    block_on(async {
        let store = Store::Embedded(Embedded::open(&directory.0, "/apisix").unwrap());
        let writes: Vec<_> = (0..WRITERS)
            .map(|n| {
                let store = store.clone();
                tokio::spawn(async move {
                    store.put(&format!("/routes/{n}"), bytes("{}"), None, None).await.unwrap().revision
                })
            })
            .collect();
        let mut revisions = Vec::new();
        for write in writes {
            revisions.push(write.await.unwrap());
        }
        revisions.sort_unstable();
        assert_eq!(revisions, (1..=WRITERS).collect::<Vec<i64>>());
    });
}

#[test]
fn the_watch_survives_loss_return_and_compaction_of_etcd() {
    let mut etcd = RealEtcd::start();
    block_on(async {
        let store = Store::Etcd(Etcd::connect(etcd.options()).await.unwrap());
        let mut events = store.watch().await.unwrap();
        assert!(next_snapshot(&mut events).await.is_empty());
        store.put("/routes/1", bytes("{\"a\":1}"), None, None).await.unwrap();
        next_change(&mut events).await;

        etcd.kill();
        assert!(matches!(store.get("/routes/1").await, Err(Error::Unavailable(_))));
        assert!(!store.health().reachable);
        etcd.start_again();
        assert_eq!(next_snapshot(&mut events).await, [("/routes/1".into(), bytes("{\"a\":1}"))]);

        // Changes made while the connection is down, and compacted away.
        etcd.kill();
        etcd.start_again();
        let mut other = etcd_client::Client::connect([etcd.url()], None).await.unwrap();
        let put = other.put("/apisix/routes/2", "{\"b\":1}", None).await.unwrap();
        other.compact(put.header().unwrap().revision(), None).await.unwrap();
        let mut routes = Vec::new();
        while routes.len() < 2 {
            match next(&mut events).await {
                Event::Snapshot { entries, .. } => routes = entries.into_iter().map(|e| e.key).collect(),
                Event::Changes { changes, .. } => routes.extend(changes.into_iter().map(|c| c.key)),
            }
        }
        assert_eq!(routes, ["/routes/1".into(), "/routes/2".into()]);
        assert!(store.health().reachable);
    });
}

/// Its host has lost power, say: no reset comes, and the answer to a request does not either.
#[tokio::test(start_paused = true)]
async fn an_etcd_that_vanished_is_found_out_by_pings() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        drop(listener);
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let _asked = connection.accept().await.unwrap().unwrap();
        std::future::pending::<()>().await; // nothing is read any more
    });
    let began = tokio::time::Instant::now();
    let options = etcd::Options {
        timeout_ms: 3_600_000,
        watch_timeout_ms: 3_600_000,
        startup_retry: 1,
        ..options_of(host)
    };
    let error = Etcd::connect(options).await.err().unwrap().to_string();
    let took_s = began.elapsed().as_secs();
    assert!((1..=2 * crate::limits::ETCD_PING_S + 1).contains(&took_s), "{took_s} s: {error}");
}

#[test]
fn writers_wait_for_a_reader_that_stands_still() {
    const WRITES: usize = crate::limits::WATCH_QUEUE + 20;
    let directory = TempDir::new();
    block_on(async {
        let store = Store::Embedded(Embedded::open(&directory.0, "/apisix").unwrap());
        let mut events = store.watch().await.unwrap();
        let writer = tokio::spawn(async move {
            for n in 0..WRITES {
                store.put(&format!("/routes/{n}"), bytes("{}"), None, None).await.unwrap();
            }
        });
        while events.len() < crate::limits::WATCH_QUEUE {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(events.len() == crate::limits::WATCH_QUEUE && !writer.is_finished());
        assert!(next_snapshot(&mut events).await.is_empty());
        for n in 0..WRITES {
            assert_eq!(*next_change(&mut events).await.key, *format!("/routes/{n}"));
        }
        writer.await.unwrap();
    });
}

#[test]
fn leases_have_a_longest_time() {
    let directory = TempDir::new();
    block_on(async {
        let store = Store::Embedded(Embedded::open(&directory.0, "/apisix").unwrap());
        for ttl_s in [crate::limits::TTL_S + 1, i64::MAX] {
            store.put("/routes/1", bytes("{}"), None, Some(ttl_s)).await.unwrap();
            assert!(store.get("/routes/1").await.unwrap().is_some(), "{ttl_s}");
        }
        drop(store);
        let disk = loop {
            // the old thread ends in its own time; until then the file is in use
            match disk::Disk::open(&directory.0.join(embedded::FILE)) {
                Ok(disk) => break disk,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        let now_ms = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
        let most_ms = crate::limits::TTL_S as u64 * 1000;
        let until: Vec<u64> = disk.leases().unwrap().into_iter().map(|(at_ms, _)| at_ms).collect();
        assert_eq!(until.len(), 1);
        assert!((now_ms + most_ms - 60_000..=now_ms + most_ms).contains(&until[0]), "{until:?}");
    });
}

#[test]
fn a_wiped_etcd_empties_the_gateway() {
    let mut etcd = RealEtcd::start();
    block_on(async {
        let store = Store::Etcd(Etcd::connect(etcd.options()).await.unwrap());
        let mut events = store.watch().await.unwrap();
        next_snapshot(&mut events).await;
        store.put("/routes/1", bytes("{}"), None, None).await.unwrap();
        next_change(&mut events).await;
        etcd.kill();
        etcd.wipe();
        etcd.start_again();
        assert!(next_snapshot(&mut events).await.is_empty());
        store.put("/routes/2", bytes("{}"), None, None).await.unwrap();
        assert_eq!(&*next_change(&mut events).await.key, "/routes/2");
    });
}

#[test]
fn a_start_without_etcd_uses_the_last_snapshot() {
    let mut etcd = RealEtcd::start();
    let directory = TempDir::new();
    let options = etcd::Options {
        snapshot: Some(directory.0.join("snapshot.redb")),
        startup_retry: 1,
        ..etcd.options()
    };
    block_on(async {
        let warm = etcd::Options { startup_retry: 100, ..options.clone() };
        let store = Store::Etcd(Etcd::connect(warm).await.unwrap());
        let mut events = store.watch().await.unwrap();
        next_snapshot(&mut events).await;
        store.put("/routes/1", bytes("{\"a\":1}"), None, None).await.unwrap();
        next_change(&mut events).await;
        store.put("/routes/2", bytes("{}"), None, None).await.unwrap();
        next_change(&mut events).await;
        store.delete("/routes/2").await.unwrap();
        next_change(&mut events).await;
    });
    etcd.kill();
    block_on(async {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut events = loop {
            // The snapshot's thread may still be writing: ask again until the file is free and complete.
            assert!(Instant::now() < deadline);
            let Ok(store) = Etcd::connect(options.clone()).await else { continue };
            assert_eq!(store.health(), Health { reachable: false, from_snapshot: true });
            let mut events = Store::Etcd(store).watch().await.unwrap();
            assert_eq!(next_snapshot(&mut events).await, [("/routes/1".into(), bytes("{\"a\":1}"))]);
            break events;
        };
        etcd.start_again();
        assert_eq!(next_snapshot(&mut events).await.len(), 1);
    });
}

#[test]
fn the_second_host_serves_when_the_first_is_down() {
    let etcd = RealEtcd::start();
    let dead = format!("http://127.0.0.1:{}", free_port());
    block_on(async {
        let options = etcd::Options { hosts: vec![dead, etcd.url()], startup_retry: 100, ..etcd.options() };
        let store = Store::Etcd(Etcd::connect(options).await.unwrap());
        store.put("/routes/1", bytes("{}"), None, None).await.unwrap();
        assert!(store.get("/routes/1").await.unwrap().is_some());
    });
}

#[test]
fn a_write_is_for_a_host_that_is_there() {
    let (mut first, second) = (RealEtcd::start(), RealEtcd::start());
    block_on(async {
        let options = etcd::Options { hosts: vec![first.url(), second.url()], ..first.options() };
        let store = Store::Etcd(Etcd::connect(options).await.unwrap());
        store.put("/routes/1", bytes("{}"), None, None).await.unwrap();
        first.kill();
        store.put("/routes/2", bytes("{}"), None, None).await.expect("it is not lost on the one that died");
        let other = Store::Etcd(Etcd::connect(second.options()).await.unwrap());
        let written = [other.get("/routes/1").await.unwrap(), other.get("/routes/2").await.unwrap()];
        assert_eq!(written.map(|entry| entry.is_some()), [false, true]);
    });
}

#[test]
fn placeholders_are_written_once_and_never_listed() {
    let etcd = RealEtcd::start();
    block_on(async {
        let store = Store::Etcd(Etcd::connect(etcd.options()).await.unwrap());
        store.init_directories().await.unwrap();
        for dir in DIRECTORIES {
            let placeholder = store.get(&format!("{dir}/")).await.unwrap();
            assert_eq!(placeholder.map(|entry| entry.value), Some(Bytes::from_static(INIT_DIR)), "{dir}");
        }
        let first = store.get("/routes/").await.unwrap().unwrap();
        store.init_directories().await.unwrap();
        assert_eq!(store.get("/routes/").await.unwrap().unwrap().mod_revision, first.mod_revision);
        assert!(store.list("/routes").await.unwrap().entries.is_empty());
    });
}

/// t/cli/test_etcd.sh
#[test]
fn users_and_passwords() {
    let etcd = RealEtcd::start();
    block_on(async {
        let mut root = etcd_client::Client::connect([etcd.url()], None).await.unwrap();
        root.user_add("root", "secret", None).await.unwrap();
        root.user_grant_role("root", "root").await.unwrap();
        let with = |password: &str| etcd::Options {
            user: Some(("root".into(), password.into())),
            startup_retry: 1,
            ..etcd.options()
        };
        let why = refusal(with("secret")).await;
        assert!(why.ends_with("authentication is not enabled"), "{why}");
        root.auth_enable().await.unwrap();
        let store = Store::Etcd(Etcd::connect(with("secret")).await.unwrap());
        let mut events = store.watch().await.unwrap();
        assert!(next_snapshot(&mut events).await.is_empty());
        store.put("/routes/1", bytes("{}"), None, None).await.unwrap();
        next_change(&mut events).await;
        store.init_directories().await.unwrap();
        assert!(store.get("/ssls/").await.unwrap().is_some());
        for (refused, why) in [
            (with("wrong"), "authentication failed, invalid user ID or password"),
            (etcd::Options { user: None, ..with("") }, "user name is empty"),
        ] {
            let said = refusal(refused).await;
            assert!(said.ends_with(why), "{said}");
        }
    });
}

/// Why a start with these options is refused.
async fn refusal(options: etcd::Options) -> String {
    match Etcd::connect(options).await {
        Err(Error::Open(why)) => why,
        other => panic!("{:?}", other.map(drop)),
    }
}

/// t/cli/test_etcd.sh, test_etcd_healthcheck.sh
#[test]
fn a_host_that_is_not_there_is_named_with_the_reason() {
    let dead = format!("http://127.0.0.1:{}", free_port());
    let options = etcd::Options { startup_retry: 1, ..options_of(dead.clone()) };
    let why = block_on(refusal(options));
    assert_eq!(
        why,
        format!("no etcd of [\"{dead}\"] answers: tcp connect error: Connection refused (os error 111)")
    );
}

/// apisix/cli/etcd.lua `init`: the first try is one of them, and each host has its own.
#[test]
fn a_start_without_an_answer_is_tried_again_as_often_as_config_yaml_says() {
    let silent = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = std::thread::spawn(move || {
            let mut tries = 0;
            while listener.accept().unwrap().0.peek(&mut [0]).is_ok_and(|bytes| bytes > 0) {
                tries += 1;
            }
            tries
        });
        (port, serving)
    };
    for startup_retry in [0, 1, 3] {
        let servers = [silent(), silent()];
        let hosts = servers.iter().map(|(port, _)| format!("http://127.0.0.1:{port}")).collect();
        block_on(refusal(etcd::Options { startup_retry, hosts, ..options_of(String::new()) }));
        for (port, serving) in servers {
            // one that says nothing ends the count
            drop(std::net::TcpStream::connect(("127.0.0.1", port)).unwrap());
            assert_eq!(serving.join().unwrap(), startup_retry);
        }
    }
}

/// t/cli/test_etcd.sh
#[test]
fn an_etcd_with_an_address_of_ipv6() {
    let (directory, port, peer_port) = (TempDir::new(), free_port(), free_port());
    let (v4, v6) = (format!("http://127.0.0.1:{port}"), format!("http://[::1]:{}", free_port()));
    let both = format!("{v4},{v6}");
    let child = spawn_etcd(
        &directory.0,
        port,
        peer_port,
        &["--listen-client-urls", &both, "--advertise-client-urls", &v4],
    );
    let etcd = RealEtcd { child, directory, port, peer_port };
    block_on(async {
        let options = etcd::Options { hosts: vec![v6], ..etcd.options() };
        let store = Store::Etcd(Etcd::connect(options).await.unwrap());
        store.put("/routes/1", bytes("{}"), None, None).await.unwrap();
        assert!(store.get("/routes/1").await.unwrap().is_some());
    });
}

/// t/cli/test_etcd_tls.sh and test_etcd_mtls.sh
#[test]
fn tls_is_verified_unless_switched_off() {
    let directory = TempDir::new();
    let path = |name: &str| directory.0.join(name).to_str().unwrap().to_owned();
    let (key, certificate) = (path("key.pem"), path("cert.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=etcd.test"])
        .args(["-addext", "subjectAltName=DNS:etcd.test", "-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", &key, "-out", &certificate])
        .stderr(Stdio::null())
        .status()
        .expect("openssl must be installed");
    assert!(made.success());
    let etcd = {
        let directory = TempDir::new();
        let (port, peer_port) = (free_port(), free_port());
        let tls = [
            "--cert-file",
            &*certificate,
            "--key-file",
            &key,
            "--client-cert-auth",
            "--trusted-ca-file",
            &certificate,
        ];
        let child = spawn_etcd(&directory.0, port, peer_port, &tls);
        RealEtcd { child, directory, port, peer_port }
    };
    let good = Tls {
        identity: Some((certificate.clone().into(), key.clone().into())),
        verify: true,
        sni: Some("etcd.test".into()),
        trusted: Some(certificate.clone().into()),
    };
    let both = format!("system, {certificate}");
    let table = [
        (good.clone(), 100, Ok(())),
        (Tls { trusted: Some(both.into()), ..good.clone() }, 100, Ok(())),
        (Tls { verify: false, trusted: None, sni: None, ..good.clone() }, 100, Ok(())),
        (Tls { sni: None, ..good.clone() }, 1, Err("certificate not valid for name \"127.0.0.1\"")),
        // nobody vouches for it
        (Tls { trusted: None, ..good.clone() }, 1, Err("invalid peer certificate: ")),
        // we do not say who we are; what is said of that depends on who closes first
        (Tls { identity: None, ..good.clone() }, 1, Err("")),
        (Tls { identity: None, verify: false, ..good.clone() }, 1, Err("")),
    ];
    for (tls, startup_retry, outcome) in table {
        let hosts = vec![format!("https://127.0.0.1:{}", etcd.port)];
        let options = etcd::Options { hosts, tls: tls.clone(), startup_retry, ..etcd.options() };
        match outcome {
            Ok(()) => drop(block_on(Etcd::connect(options)).unwrap()),
            Err(why) => {
                let said = block_on(refusal(options));
                assert!(said.contains(why), "{tls:?} gave {said}");
            }
        }
    }
}

//! The gateway as a user runs it: the built binary, a folder with `conf/`, a banner, signals.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Client, Response, eventually, free_port};

/// The admin key of every gateway that has an Admin API.
pub const KEY: &str = "edd1c9f034335f136f87ad84b625c8f1";

/// Where the gateway takes its objects from.
#[derive(Clone)]
pub enum Source {
    /// `conf/apisix.yaml` with this text; `#END` is added.
    Yaml(String),
    /// The embedded store and the Admin API.
    Embedded,
    /// etcd on this port, with the Admin API.
    Etcd(u16),
    /// etcd with TLS on this port, and more of `deployment.etcd`: `tls: {…}, user: …`.
    SecuredEtcd(u16, String),
}

/// What a gateway is started with.
#[derive(Clone)]
pub struct Setup {
    driver: &'static str,
    source: Source,
    apisix: String,
    http: String,
    nginx: String,
    rest: String,
    deployment: String,
    variables: Vec<(&'static str, &'static str)>,
    workers: usize,
}

impl Setup {
    /// On `driver`, with objects from `source`.
    pub fn new(driver: &'static str, source: Source) -> Self {
        let empty = String::new;
        Setup {
            driver,
            source,
            apisix: empty(),
            http: empty(),
            nginx: empty(),
            rest: empty(),
            deployment: empty(),
            variables: Vec::new(),
            workers: 2,
        }
    }

    /// More lines of the section `apisix`.
    pub fn apisix(mut self, lines: &str) -> Self {
        self.apisix.push_str(&indented(lines, 2));
        self
    }

    /// More lines of the section `nginx_config.http`.
    pub fn http(mut self, lines: &str) -> Self {
        self.http.push_str(&indented(lines, 4));
        self
    }

    /// More lines of the section `nginx_config`.
    pub fn nginx(mut self, lines: &str) -> Self {
        self.nginx.push_str(&indented(lines, 2));
        self
    }

    /// More sections of their own.
    pub fn rest(mut self, lines: &str) -> Self {
        self.rest.push_str(&indented(lines, 0));
        self
    }

    /// In place of the section `deployment` that the source asks for.
    pub fn deployment(mut self, lines: &str) -> Self {
        self.deployment = indented(lines, 2);
        self
    }

    /// A variable of its environment.
    pub fn variable(mut self, name: &'static str, value: &'static str) -> Self {
        self.variables.push((name, value));
        self
    }

    /// Cores; two if nothing is said.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Starts it and waits for its banner.
    pub fn start(self) -> Gateway {
        let mut gateway = self.settled();
        gateway.start_again();
        gateway
    }

    /// Starts it in vain; what it says of that, on standard error or in its log.
    pub fn refused(self) -> String {
        let mut gateway = self.settled();
        let status = gateway.try_start().expect_err("the gateway has started");
        assert_eq!(status.code(), Some(1), "{}", gateway.logs());
        gateway.read("stderr") + &gateway.read("logs/error.log")
    }

    /// With its folder, not started yet.
    fn settled(self) -> Gateway {
        let folder = Folder::new();
        let port = free_port();
        let (admin, control, metrics, proxied) = (free_port(), free_port(), free_port(), free_port());
        let ports = Ports { port, admin, control, metrics, proxied };
        fs::create_dir_all(folder.0.join("conf")).unwrap();
        fs::create_dir_all(folder.0.join("logs")).unwrap();
        fs::write(folder.0.join("conf/config.yaml"), self.config(&ports)).unwrap();
        if let Source::Yaml(text) = &self.source {
            fs::write(folder.0.join("conf/apisix.yaml"), format!("{text}\n#END\n")).unwrap();
        }
        Gateway {
            ports,
            driver: self.driver,
            variables: self.variables,
            folder,
            running: None,
            stdout: Arc::default(),
            starts: 0,
        }
    }

    fn config(&self, ports: &Ports) -> String {
        let Ports { port, admin, control, metrics, .. } = ports;
        let mut text = String::new();
        let is_yaml = matches!(self.source, Source::Yaml(_));
        let _ = write!(
            text,
            "apisix:\n  node_listen: [{{ip: 127.0.0.1, port: {port}}}]\n  enable_admin: {}\n  \
             control: {{ip: 127.0.0.1, port: {control}}}\n{}{}\
             nginx_config:\n  worker_processes: {}\n  error_log_level: info\n  http:\n    \
             access_log_buffer: 1\n{}{}\
             plugin_attr:\n  prometheus:\n    export_addr: {{ip: 127.0.0.1, port: {metrics}}}\n\
             deployment:\n",
            !is_yaml,
            if self.apisix.contains("  ssl: ") { "" } else { "  ssl: {enable: false}\n" },
            self.apisix.replace("$PROXIED", &ports.proxied.to_string()),
            self.workers,
            self.http,
            self.nginx,
        );
        if !self.deployment.is_empty() {
            return text
                + &self.deployment.replace("$ADMIN", &admin.to_string()).replace("$PORT", &port.to_string())
                + &self.rest;
        }
        let provider = match &self.source {
            Source::Yaml(_) => {
                text.push_str("  role: data_plane\n  role_data_plane: {config_provider: yaml}\n");
                text.push_str(&self.rest);
                return text;
            }
            Source::Embedded => "embedded",
            Source::Etcd(_) | Source::SecuredEtcd(..) => "etcd",
        };
        let _ = write!(
            text,
            "  role: traditional\n  role_traditional: {{config_provider: {provider}}}\n  admin:\n    \
             admin_key: [{{name: admin, key: {KEY}, role: admin}}]\n    \
             admin_listen: {{ip: 127.0.0.1, port: {admin}}}\n"
        );
        let etcd = match &self.source {
            Source::Etcd(etcd) => format!("host: [\"http://127.0.0.1:{etcd}\"]"),
            Source::SecuredEtcd(etcd, more) => format!("host: [\"https://127.0.0.1:{etcd}\"], {more}"),
            _ => String::new(),
        };
        if !etcd.is_empty() {
            let _ = writeln!(text, "  etcd: {{{etcd}, prefix: /apisix, timeout: 5}}");
        }
        text.push_str(&self.rest);
        text
    }
}

/// Lines as deep as their section.
fn indented(lines: &str, depth: usize) -> String {
    lines.lines().map(|line| format!("{:depth$}{line}\n", "")).collect()
}

/// Where a gateway listens.
pub struct Ports {
    pub port: u16,
    pub admin: u16,
    pub control: u16,
    pub metrics: u16,
    pub proxied: u16,
}

/// A folder of this test's own, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ringway-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running gateway. It is killed when dropped; if the test has failed, its logs are shown.
pub struct Gateway {
    pub ports: Ports,
    driver: &'static str,
    variables: Vec<(&'static str, &'static str)>,
    folder: Folder,
    running: Option<Child>,
    stdout: Arc<Mutex<String>>,
    starts: u32,
}

/// How long a gateway may take to come up: on a host with thirty programs for two cores it needs more than [`PATIENCE`](super::PATIENCE).
const START: Duration = Duration::from_secs(60);

impl Gateway {
    /// With these routes (and other objects), on two cores.
    pub fn with_yaml(driver: &'static str, objects: &str) -> Gateway {
        Setup::new(driver, Source::Yaml(objects.into())).start()
    }

    /// One route that takes everything to one upstream.
    pub fn to(driver: &'static str, upstream: u16) -> Gateway {
        Gateway::with_yaml(driver, &everything_to(upstream))
    }

    /// Starts a gateway that was stopped, in its old folder, and waits for its banner.
    pub fn start_again(&mut self) {
        if let Err(status) = self.try_start() {
            panic!("the gateway ended at its start: {status}\n{}", self.logs());
        }
    }

    fn try_start(&mut self) -> Result<(), ExitStatus> {
        self.starts += 1;
        let stderr =
            fs::File::options().create(true).append(true).open(self.folder.0.join("stderr")).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_ringway"))
            .args(["run", "-c", "conf/config.yaml"])
            .current_dir(&self.folder.0)
            .env("RINGWAY_REACTOR", self.driver)
            .envs(self.variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        self.stdout.lock().unwrap().clear();
        let up = follow(child.stdout.take().unwrap(), self.stdout.clone());
        match up.recv_timeout(START) {
            Ok(()) => {
                self.running = Some(child);
                Ok(())
            }
            Err(RecvTimeoutError::Timeout) => {
                let _ = child.kill();
                let _ = child.wait();
                panic!("no banner within {START:?}\n{}", self.logs());
            }
            Err(RecvTimeoutError::Disconnected) => Err(child.wait().unwrap()),
        }
    }

    pub fn port(&self) -> u16 {
        self.ports.port
    }

    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("the gateway runs").id()
    }

    pub fn is_running(&mut self) -> bool {
        self.running.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.ports.port)
    }

    /// One request on a connection of its own.
    #[track_caller]
    pub fn get(&self, target: &str) -> Response {
        super::get(self.ports.port, target)
    }

    /// What the gateway has printed.
    pub fn banner(&self) -> String {
        self.stdout.lock().unwrap().clone()
    }

    pub fn path(&self, inside: &str) -> PathBuf {
        self.folder.0.join(inside)
    }

    pub fn read(&self, inside: &str) -> String {
        fs::read_to_string(self.path(inside)).unwrap_or_default()
    }

    /// Waits until the file holds the text, and returns all of it.
    #[track_caller]
    pub fn read_until(&self, inside: &str, text: &str) -> String {
        eventually(&format!("{text:?} in {inside}"), || self.read(inside).contains(text));
        self.read(inside)
    }

    /// Writes `conf/apisix.yaml` anew, whole at once.
    pub fn rewrite_yaml(&self, objects: &str) {
        fs::write(self.path("conf/new"), format!("{objects}\n#END\n")).unwrap();
        fs::rename(self.path("conf/new"), self.path("conf/apisix.yaml")).unwrap();
    }

    /// Sends a signal, by its name.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// What is sent meanwhile comes to it at once: all its threads are stopped until then (proc_pid_stat(5), the state
    /// behind the name).
    #[track_caller]
    pub fn at_once(&self, send: impl FnOnce()) {
        let tasks = format!("/proc/{}/task", self.pid());
        self.signal("STOP");
        eventually("the gateway stands still", || {
            let states = std::fs::read_dir(&tasks).unwrap().map(|thread| {
                let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
                stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T"))
            });
            states.fold(true, |all, stopped| all & stopped)
        });
        send();
        self.signal("CONT");
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let began = Instant::now();
        let child = self.running.as_mut().expect("the gateway runs");
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                self.running = None;
                return status;
            }
            assert!(began.elapsed() < patience, "the gateway did not end within {patience:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// As a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Calls the Admin API with the key.
    #[track_caller]
    pub fn admin(&self, method: &str, path: &str, body: &str) -> Response {
        let text = format!(
            "{method} /apisix/admin{path} HTTP/1.1\r\nHost: a\r\nX-API-KEY: {KEY}\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        super::ask(self.ports.admin, text.as_bytes())
    }

    /// Creates or replaces an object; it is live on all cores when this returns.
    #[track_caller]
    pub fn put(&self, path: &str, object: &Value) -> Response {
        let response = self.admin("PUT", &format!("{path}?wait=5000"), &object.to_string());
        assert!(matches!(response.status, 200 | 201), "PUT {path} {object}: {response}");
        response
    }

    /// Deletes an object; it is gone on all cores when this returns.
    #[track_caller]
    pub fn delete(&self, path: &str) {
        let response = self.admin("DELETE", &format!("{path}?wait=5000"), "");
        assert_eq!(response.status, 200, "DELETE {path}: {response}");
    }

    /// The most memory that the process ever had, KiB.
    pub fn peak_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse().unwrap()
    }

    pub fn logs(&self) -> String {
        let mut text = format!("-- stdout\n{}", self.stdout.lock().unwrap());
        for file in ["stderr", "logs/error.log", "logs/access.log", "conf/config.yaml", "conf/apisix.yaml"] {
            let inside = self.read(file);
            let tail = inside.len().saturating_sub(8 << 10);
            let tail = (tail..=inside.len()).find(|at| inside.is_char_boundary(*at)).unwrap();
            let _ = write!(text, "-- {file}\n{}", &inside[tail..]);
        }
        text
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let ended = self.running.as_mut().and_then(|child| child.try_wait().ok().flatten());
        self.kill();
        if std::thread::panicking() {
            eprintln!("the gateway on {} (ended by itself: {ended:?})\n{}", self.driver, self.logs());
        }
    }
}

/// One route that takes everything to one upstream.
pub fn everything_to(upstream: u16) -> String {
    format!(
        "routes:\n- id: 1\n  uri: /*\n  upstream: {{type: roundrobin, nodes: {{\"127.0.0.1:{upstream}\": 1}}}}"
    )
}

/// Keeps what a process prints. The answer comes with the line of the banner, or never.
fn follow(stdout: std::process::ChildStdout, kept: Arc<Mutex<String>>) -> Receiver<()> {
    let (up, is_up) = channel();
    std::thread::spawn(move || {
        let mut up = Some(up);
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let said = line.starts_with("ringway ") && line.ends_with(" is up");
            kept.lock().unwrap().push_str(&(line + "\n"));
            if said && let Some(up) = up.take() {
                let _ = up.send(());
            }
        }
    });
    is_up
}

/// The drivers that this host allows: io_uring may be refused to containers.
pub fn drivers() -> &'static [&'static str] {
    static ALLOWED: OnceLock<&'static [&'static str]> = OnceLock::new();
    ALLOWED.get_or_init(|| {
        let gateway = Setup::new("auto", Source::Yaml("routes: []".into())).workers(1).start();
        eventually("the line of the reactor", || gateway.banner().contains("reactor"));
        match gateway.banner().contains("reactor   io_uring") {
            true => &["io_uring", "epoll"],
            false => {
                println!("this host refuses io_uring: tested on epoll alone\n{}", gateway.banner());
                &["epoll"]
            }
        }
    })
}

/// The limit of descriptors that leaves a process `more` of them.
pub fn limit_for(pid: u32, more: usize) -> usize {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let open: Vec<usize> =
        open.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok()).collect();
    (0..).filter(|number| !open.contains(number)).nth(more).unwrap()
}

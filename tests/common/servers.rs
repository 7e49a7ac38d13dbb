//! Real servers on free ports, in folders of their own.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::{Response, ask, eventually, free_port};

fn folder(name: &str, port: u16) -> PathBuf {
    let path = std::env::temp_dir().join(format!("ringway-{name}-{}-{port}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

#[track_caller]
fn wait_for(port: u16) {
    eventually(&format!("a server on port {port}"), || {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
    });
}

/// nginx as an upstream: plain and, with the certificate of the unit tests, TLS.
pub struct Nginx {
    pub port: u16,
    pub tls_port: u16,
    folder: PathBuf,
    child: Child,
}

impl Nginx {
    /// `/` tells what it got in fields `Got-…`; `locations` adds to that.
    pub fn start(locations: &str) -> Nginx {
        let (port, tls_port) = (free_port(), free_port());
        let folder = folder("nginx", port);
        let certs = concat!(env!("CARGO_MANIFEST_DIR"), "/src/transport/tests");
        fs::create_dir_all(folder.join("html")).unwrap();
        let dir = folder.display();
        let text = format!(
            "daemon off; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log;\n\
             events {{}}\n\
             http {{\n\
               access_log off; client_max_body_size 0; keepalive_requests 100000;\n\
               client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;\n\
               uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n\
               server {{\n\
                 listen 127.0.0.1:{port}; listen 127.0.0.1:{tls_port} ssl http2;\n\
                 ssl_certificate {certs}/server.pem; ssl_certificate_key {certs}/server.key.pem;\n\
                 root {dir}/html;\n\
                 location / {{\n\
                   add_header Got-Host $http_host always; add_header Got-Uri $request_uri always;\n\
                   add_header Got-Sni $ssl_server_name always; add_header Got-Protocol $ssl_protocol always;\n\
                   add_header Got-Version $server_protocol always; add_header Got-Connection $connection always;\n\
                   return 200 'hello from nginx\\n';\n\
                 }}\n\
                 {locations}\n\
               }}\n\
             }}\n"
        );
        fs::write(folder.join("nginx.conf"), text).unwrap();
        let child = Command::new("nginx")
            .args(["-c", &format!("{dir}/nginx.conf"), "-p", &format!("{dir}")])
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx is installed (tests/run does it)");
        let nginx = Nginx { port, tls_port, folder, child };
        wait_for(port);
        nginx
    }

    /// Puts a file below the root.
    pub fn file(&self, name: &str, bytes: &[u8]) {
        let path = self.folder.join("html").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // TERM, so that the master ends its worker
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The certificates of the unit tests, as etcd takes them.
const TLS: [&str; 7] = [
    "--cert-file",
    concat!(env!("CARGO_MANIFEST_DIR"), "/src/transport/tests/server.pem"),
    "--key-file",
    concat!(env!("CARGO_MANIFEST_DIR"), "/src/transport/tests/server.key.pem"),
    "--client-cert-auth",
    "--trusted-ca-file",
    concat!(env!("CARGO_MANIFEST_DIR"), "/src/transport/tests/ca.pem"),
];

/// While etcd starts it may refuse, reset or say 503.
fn is_healthy(port: u16) -> io::Result<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.starts_with("HTTP/1.1 200 "))
}

fn wait_for_leader(health: u16) {
    eventually("etcd's leader", || is_healthy(health).unwrap_or(false));
}

/// One etcd, alone or a member of a cluster.
pub struct Etcd {
    pub port: u16,
    peer: u16,
    /// The peers of all members, as `--initial-cluster` has them.
    cluster: String,
    folder: PathBuf,
    child: Option<Child>,
    /// Over TLS alone, and for clients with a certificate.
    secured: bool,
}

impl Etcd {
    pub fn start() -> Etcd {
        let mut etcd = Etcd::member();
        etcd.cluster = etcd.as_peer();
        etcd.start_again();
        etcd
    }

    /// Three that are one: they can do without any of them, but not without two.
    pub fn cluster() -> [Etcd; 3] {
        let mut members = [Etcd::member(), Etcd::member(), Etcd::member()];
        let cluster = members.each_ref().map(Etcd::as_peer).join(",");
        members.iter_mut().for_each(|member| member.cluster.clone_from(&cluster));
        Etcd::start_all_again(&mut members);
        members
    }

    /// One alone would wait for its leader in vain.
    pub fn start_all_again(members: &mut [Etcd]) {
        let health: Vec<u16> = members.iter_mut().map(Etcd::spawn).collect();
        health.into_iter().for_each(wait_for_leader);
    }

    fn member() -> Etcd {
        let (port, cluster) = (free_port(), String::new());
        Etcd { port, peer: free_port(), cluster, folder: folder("etcd", port), child: None, secured: false }
    }

    fn as_peer(&self) -> String {
        format!("etcd{}=http://127.0.0.1:{}", self.port, self.peer)
    }

    /// After [`Etcd::kill`], with what it had on disk.
    pub fn start_again(&mut self) {
        let health = self.spawn();
        wait_for(self.port);
        wait_for_leader(health);
    }

    /// Starts it; the port where it says whether it has a leader is returned.
    fn spawn(&mut self) -> u16 {
        let scheme = if self.secured { "https" } else { "http" };
        let (client, peer) =
            (format!("{scheme}://127.0.0.1:{}", self.port), format!("http://127.0.0.1:{}", self.peer));
        let health = free_port();
        let log = fs::File::create(self.folder.join("log")).unwrap();
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(self.folder.join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--name", &format!("etcd{}", self.port), "--initial-cluster", &self.cluster])
            .args(["--listen-metrics-urls", &format!("http://127.0.0.1:{health}")])
            .args(if self.secured { &TLS[..] } else { &[] })
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("etcd is installed (tests/run does it)");
        self.child = Some(child);
        health
    }

    /// From now on it talks TLS, to clients with a certificate, and to those that know the password of `root`.
    pub fn secure(&mut self, password: &str) {
        self.call("/v3/auth/user/add", &json!({"name": "root", "password": password}));
        self.call("/v3/auth/role/add", &json!({"name": "root"}));
        self.call("/v3/auth/user/grant", &json!({"user": "root", "role": "root"}));
        self.call("/v3/auth/enable", &json!({}));
        self.kill(false);
        self.secured = true;
        self.start_again();
    }

    /// From now on it asks for passwords: that of `root`, who may do everything, and that of `reader`, who may read
    /// what is below `/apisix`. Both have this one.
    pub fn guard(&self, password: &str) {
        let range = |text: &str| BASE64_STANDARD.encode(text);
        let below = json!({"permType": "READ", "key": range("/apisix"), "range_end": range("/apisiy")});
        for (name, role) in [("root", "root"), ("reader", "readers")] {
            self.call("/v3/auth/user/add", &json!({"name": name, "password": password}));
            self.call("/v3/auth/role/add", &json!({"name": role}));
            self.call("/v3/auth/user/grant", &json!({"user": name, "role": role}));
        }
        self.call("/v3/auth/role/grant", &json!({"name": "readers", "perm": below}));
        self.call("/v3/auth/enable", &json!({}));
    }

    /// Kills it, and with `wipe` loses all it knew.
    pub fn kill(&mut self, wipe: bool) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if wipe {
            fs::remove_dir_all(self.folder.join("data")).unwrap();
        }
    }

    fn try_call(&self, path: &str, body: &Value) -> Response {
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        ask(self.port, (head + &body).as_bytes())
    }

    #[track_caller]
    fn call(&self, path: &str, body: &Value) -> Value {
        let response = self.try_call(path, body);
        assert_eq!(response.status, 200, "{path}: {response}");
        response.json()
    }

    /// It answers reads: it and the members that it can reach have a leader.
    pub fn serves(&self) -> bool {
        self.try_call("/v3/kv/range", &json!({"key": BASE64_STANDARD.encode("/")})).status == 200
    }

    /// Puts a value as it is, as `etcdctl put` does.
    #[track_caller]
    pub fn put(&self, key: &str, value: &str) {
        let (key, value) = (BASE64_STANDARD.encode(key), BASE64_STANDARD.encode(value));
        self.call("/v3/kv/put", &json!({"key": key, "value": value}));
    }

    #[track_caller]
    pub fn delete(&self, key: &str) {
        self.call("/v3/kv/deleterange", &json!({"key": BASE64_STANDARD.encode(key)}));
    }

    /// The value of a key.
    #[track_caller]
    pub fn get(&self, key: &str) -> Option<String> {
        let found = self.call("/v3/kv/range", &json!({"key": BASE64_STANDARD.encode(key)}));
        let value = BASE64_STANDARD.decode(found["kvs"][0]["value"].as_str()?).unwrap();
        Some(String::from_utf8(value).unwrap())
    }

    /// The revision with which a key was written last.
    #[track_caller]
    pub fn revision_of(&self, key: &str) -> u64 {
        let found = self.call("/v3/kv/range", &json!({"key": BASE64_STANDARD.encode(key)}));
        found["kvs"][0]["mod_revision"].as_str().unwrap().parse().unwrap()
    }

    /// Forgets all revisions but the newest.
    #[track_caller]
    pub fn compact(&self) {
        let found = self.call("/v3/kv/range", &json!({"key": "eA=="}));
        let revision = found["header"]["revision"].clone();
        self.call("/v3/kv/compaction", &json!({"revision": revision, "physical": true}));
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill(false);
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A name server that says what it is told: one address for every name.
pub fn name_server(address: Arc<Mutex<[u8; 4]>>) -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            // the question as it came, up to its type and class (RFC 1035 section 4)
            let name = question[12..length].iter().position(|byte| *byte == 0).unwrap();
            let mut answer = question[..12 + name + 5].to_vec();
            let is_a = question[12 + name + 2] == 1;
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, is_a.into(), 0, 0, 0, 0]);
            if is_a {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]); // its time to live: a second
                answer.extend(*address.lock().unwrap());
            }
            let _ = socket.send_to(&answer, from);
        }
    });
    port
}

/// redis-server, ended with the test.
pub struct Redis {
    pub port: u16,
    child: Child,
}

impl Redis {
    /// Without a file, on a free port.
    pub fn start() -> Redis {
        let port = free_port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir", "/tmp"])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (tests/run does it)");
        let redis = Redis { port, child };
        wait_for(port);
        redis
    }

    /// An upstream with it alone.
    pub fn upstream(&self) -> Value {
        json!({"type": "none", "nodes": {format!("127.0.0.1:{}", self.port): 1}})
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What redis-cli says.
pub fn redis_cli(port: u16, arguments: &[&str]) -> String {
    let output = Command::new("redis-cli").args(["-p", &port.to_string()]).args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

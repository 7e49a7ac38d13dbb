//! Apache Kafka itself, and producers that know nothing of us.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use super::{free_port, python};

/// Which of the releases that `tests/run` gathers.
pub const KAFKA_3: &str = "3.9";
/// The newer one, which knows fewer old versions of calls.
pub const KAFKA_4: &str = "4.1";

const CERTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/transport/tests");

/// A Java machine may need its time on a busy host.
const START: Duration = Duration::from_secs(60);

/// One broker. Logins: PLAIN `admin` with `admin-secret`, SCRAM-SHA-256 `u256` with `p256`, SCRAM-SHA-512 `u512` with
/// `p512`. Its certificate is the one of the unit tests.
pub struct Kafka {
    /// Without TLS or login.
    pub port: u16,
    /// With a login.
    pub sasl_port: u16,
    /// With TLS.
    pub tls_port: u16,
    /// With both.
    pub sasl_tls_port: u16,
    /// With TLS, for clients that show a certificate of our authority.
    pub mtls_port: u16,
    release: &'static str,
    /// The first is the controller, too.
    node: u32,
    controller: u16,
    folder: PathBuf,
    broker: Mutex<Option<Child>>,
}

impl Kafka {
    /// One that several tests share while they run.
    pub fn shared() -> Arc<Kafka> {
        static SHARED: Mutex<Weak<Kafka>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        shared.upgrade().unwrap_or_else(|| {
            let kafka = Arc::new(Kafka::start());
            *shared = Arc::downgrade(&kafka);
            kafka
        })
    }

    /// One of its own, for a test that kills it.
    pub fn start() -> Kafka {
        Kafka::of(KAFKA_3)
    }

    /// Of this release.
    pub fn of(release: &'static str) -> Kafka {
        Kafka::node(release, 1, free_port())
    }

    /// Another one of the same cluster, with this number.
    pub fn join(&self, node: u32) -> Kafka {
        Kafka::node(self.release, node, self.controller)
    }

    fn node(release: &'static str, node: u32, controller: u16) -> Kafka {
        let port = free_port();
        let name = format!("ringway-kafka-{}-{port}", std::process::id());
        let kafka = Kafka {
            port,
            sasl_port: free_port(),
            tls_port: free_port(),
            sasl_tls_port: free_port(),
            mtls_port: free_port(),
            release,
            node,
            controller,
            folder: std::env::temp_dir().join(name),
            broker: Mutex::new(None),
        };
        let _ = fs::remove_dir_all(&kafka.folder);
        fs::create_dir_all(&kafka.folder).unwrap();
        let read = |name: &str| fs::read_to_string(format!("{CERTS}/{name}")).unwrap();
        let store = read("server.key.pem") + &read("server.pem") + &read("ca.pem");
        fs::write(kafka.folder.join("ks.pem"), store).unwrap();
        fs::write(kafka.folder.join("server.properties"), kafka.properties()).unwrap();
        let scram = |n: &str| format!("SCRAM-SHA-{n}=[name=u{n},password=p{n}]");
        let mut format = kafka.java("kafka.tools.StorageTool", 128);
        format.args(["format", "-t", "AAAAAAAAAAAAAAAAAAAAAA", "-c"]);
        format.arg(kafka.folder.join("server.properties"));
        if node == 1 {
            format.args(["--add-scram", &scram("256"), "--add-scram", &scram("512")]);
        }
        let formatted = format.output().expect("Java is installed (tests/run does it)");
        assert!(formatted.status.success(), "{}", String::from_utf8_lossy(&formatted.stderr));
        kafka.start_again();
        kafka
    }

    /// After [`Kafka::kill`], with what it had on disk.
    pub fn start_again(&self) {
        let log = fs::File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let child = self
            .java("kafka.Kafka", 256)
            .arg(self.folder.join("server.properties"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("Java is installed (tests/run does it)");
        *self.broker.lock().unwrap() = Some(child);
        let began = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            let log = || fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(began.elapsed() < START, "Kafka did not start: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// As a power cut would.
    pub fn kill(&self) {
        if let Some(mut child) = self.broker.lock().unwrap().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn java(&self, class: &str, mebibytes: u32) -> Command {
        let jars = format!("{}/kafka-{}/lib/*", env!("CARGO_TARGET_TMPDIR"), self.release);
        let mut java = Command::new("java");
        java.args([
            &format!("-Xmx{mebibytes}m"),
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            "-cp",
            &jars,
        ])
        .arg(class)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
        java
    }

    fn properties(&self) -> String {
        let Kafka { port, sasl_port, tls_port, sasl_tls_port, mtls_port, node, controller, folder, .. } =
            self;
        let (roles, listens) = match node {
            1 => ("broker,controller", format!("CONTROLLER://127.0.0.1:{controller},")),
            _ => ("broker", String::new()),
        };
        let folder = folder.display();
        let mut text = format!(
            "process.roles={roles}\nnode.id={node}\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             controller.listener.names=CONTROLLER\n\
             listeners={listens}PLAINTEXT://127.0.0.1:{port},\
             SASL://127.0.0.1:{sasl_port},SSL://127.0.0.1:{tls_port},SASLSSL://127.0.0.1:{sasl_tls_port},\
             MTLS://127.0.0.1:{mtls_port}\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT,\
             SSL:SSL,SASLSSL:SASL_SSL,MTLS:SSL\n\
             listener.name.mtls.ssl.client.auth=required\n\
             inter.broker.listener.name=PLAINTEXT\nlog.dirs={folder}/data\n\
             offsets.topic.replication.factor=1\noffsets.topic.num.partitions=1\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             group.initial.rebalance.delay.ms=0\n\
             broker.session.timeout.ms=2000\nbroker.heartbeat.interval.ms=300\nauto.create.topics.enable=true\n\
             sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
             ssl.keystore.type=PEM\nssl.keystore.location={folder}/ks.pem\n\
             ssl.truststore.type=PEM\nssl.truststore.location={CERTS}/ca.pem\n"
        );
        let module = "org.apache.kafka.common.security";
        for listener in ["sasl", "saslssl"] {
            let jaas = |mechanism: &str, login: &str| {
                format!("listener.name.{listener}.{mechanism}.sasl.jaas.config={module}.{login}\n")
            };
            text += &jaas("plain", "plain.PlainLoginModule required user_admin=\"admin-secret\";");
            text += &jaas("scram-sha-256", "scram.ScramLoginModule required;");
            text += &jaas("scram-sha-512", "scram.ScramLoginModule required;");
        }
        text
    }

    /// Makes a topic, by librdkafka.
    #[track_caller]
    pub fn create(&self, topic: &str, partitions: u32) {
        python("kafka.py", &[&self.address(), &"create", &topic, &partitions]);
    }

    /// The same with one partition on three nodes; the second one leads it while it lives.
    #[track_caller]
    pub fn create_led_by_the_second(&self, topic: &str) {
        python("kafka.py", &[&self.address(), &"create", &topic, &1, &2, &3, &1]);
    }

    /// Produces `prefix1`, `prefix2`, … to a partition, by librdkafka, and waits until they are there.
    #[track_caller]
    pub fn produce(&self, topic: &str, partition: u32, prefix: &str, count: u32) {
        python("kafka.py", &[&self.address(), &"produce", &topic, &partition, &prefix, &count]);
    }

    /// The same in one transaction, and waits until that is committed.
    #[track_caller]
    pub fn transact(&self, topic: &str, partition: u32, prefix: &str, count: u32) {
        python("kafka.py", &[&self.address(), &"transact", &topic, &partition, &prefix, &count]);
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

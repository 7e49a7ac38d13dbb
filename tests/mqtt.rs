//! MQTT: mosquitto and its clients through a stream route that knows them by their ids.

mod common;

use std::process::{Child, Command, Stdio};

use common::streams::listening;
use common::*;
use serde_json::json;

/// A broker, ended with the test.
struct Mosquitto {
    port: u16,
    child: Child,
    conf: std::path::PathBuf,
}

impl Mosquitto {
    fn start() -> Mosquitto {
        let port = free_port();
        let conf = std::env::temp_dir().join(format!("ringway-mosquitto-{}-{port}", std::process::id()));
        std::fs::write(&conf, format!("listener {port} 127.0.0.1\nallow_anonymous true\n")).unwrap();
        let child = Command::new("mosquitto")
            .arg("-c")
            .arg(&conf)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto is installed (tests/run does it)");
        let broker = Mosquitto { port, child, conf };
        eventually("mosquitto", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        broker
    }

    /// Keeps `payload` for `topic`.
    fn retain(&self, topic: &str, payload: &str) {
        let done = client("mosquitto_pub", self.port, "keeper", "mqttv311")
            .args(["-r", "-q", "1", "-t", topic, "-m", payload])
            .status();
        assert!(done.unwrap().success());
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.conf);
    }
}

fn client(program: &str, port: u16, id: &str, version: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-i", id, "-V", version]);
    command
}

/// The retained message of `who`: which broker serves this client. Empty where none does.
fn met(port: u16, id: &str, version: &str) -> String {
    let heard = client("mosquitto_sub", port, id, version)
        .args(["-t", "who", "-C", "1", "-W", "5"])
        .stderr(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&heard.stdout).trim_end().to_owned()
}

#[test]
fn a_client_s_id_chooses_its_broker() {
    on_both_drivers(|driver| {
        let gateway = listening(driver).rest("stream_plugins: [mqtt-proxy]\n").start();
        let port = gateway.ports.proxied;
        let brokers = [Mosquitto::start(), Mosquitto::start()];
        for (broker, name) in brokers.iter().zip(["A", "B"]) {
            broker.retain("who", name);
        }
        let nodes: serde_json::Map<_, _> =
            brokers.iter().map(|broker| (format!("127.0.0.1:{}", broker.port), json!(1))).collect();
        let route = |level: u8| {
            let upstream = json!({"type": "chash", "key": "mqtt_client_id", "nodes": nodes});
            let plugins = json!({"mqtt-proxy": {"protocol_name": "MQTT", "protocol_level": level}});
            gateway.put("/stream_routes/1", &json!({"upstream": upstream, "plugins": plugins}));
        };
        for (level, version) in [(4, "mqttv311"), (5, "mqttv5")] {
            route(level);
            let of = |n: usize| met(port, &format!("client-{n}"), version);
            // where each goes depends on the brokers' ports: of so many, some go to either
            let first: Vec<String> = (0..20).map(of).collect();
            assert!(first.contains(&"A".into()) && first.contains(&"B".into()), "{version}: {first:?}");
            assert_eq!((0..20).map(of).collect::<Vec<_>>(), first, "{version}: each has its own");
        }
        assert_eq!(met(port, "client-1", "mqttv311"), "", "the route wants MQTT 5");

        // what one client publishes another gets, by the same broker
        route(4);
        let id = |n: usize| format!("client-{n}");
        let here = (0..64).map(id).filter(|id| met(port, id, "mqttv311") == "A");
        let here: Vec<String> = here.take(2).collect();
        let [one, other] = &here[..] else { panic!("{here:?}") };
        let listening = client("mosquitto_sub", port, one, "mqttv311")
            .args(["-t", "news", "-C", "1", "-W", "10"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let published = client("mosquitto_pub", port, other, "mqttv311")
            .args(["-q", "1", "-r", "-t", "news", "-m", "hello"])
            .status();
        assert!(published.unwrap().success());
        let heard = listening.wait_with_output().unwrap();
        assert_eq!(heard.stdout, b"hello\n");
    });
}

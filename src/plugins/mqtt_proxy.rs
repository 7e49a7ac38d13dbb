//! `mqtt-proxy`: lets in who speaks MQTT, and tells the client by its id, so that an upstream of type `chash` keeps each
//! client on one broker (apisix/stream/plugins/mqtt-proxy.lua).
//!
//! ```json
//! {
//!   "server_port": 9100,
//!   "plugins": {
//!     "mqtt-proxy": { "protocol_name": "MQTT", "protocol_level": 4 }
//!   },
//!   "upstream": { "type": "chash", "key": "mqtt_client_id", "nodes": { "127.0.0.1:1883": 1 } }
//! }
//! ```
//!
//! The first packet must be a CONNECT of that name and level (4: 3.1.1, 5: 5.0); else the session is closed. Its client
//! id is the variable `mqtt_client_id`; a client without one is told by its address. Nothing is taken from the bytes.
//!
//! Phase: access, which on stream routes is the preread.
//!
//! Known differences: a CONNECT longer than 64 KiB is refused (nginx's preread buffer has 16 KiB).

use std::rc::Rc;

use serde_json::Value;

use crate::exchange::{Client, Exchange, Reply};
use crate::limits;
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, Spec, Step};
use crate::reactor::{self, Chunk};
use crate::transport::Stream;

/// What the registry knows.
pub const SPEC: Spec = Spec {
    schema: r#"{
        "type": "object",
        "properties": {
            "protocol_name": {"type": "string", "default": "MQTT"},
            "protocol_level": {"type": "integer"}
        },
        "required": ["protocol_level"]
    }"#,
    name: "mqtt-proxy",
    priority: 1000,
    build,
    ..Spec::PLAIN
};

struct MqttProxy {
    protocol_name: Box<str>,
    protocol_level: i64,
}

/// What is looked at of a CONNECT packet (MQTT 5.0 section 3.1).
#[derive(Debug, PartialEq)]
struct Connect<'a> {
    protocol: &'a [u8],
    level: u8,
    client_id: &'a [u8],
}

fn build(conf: &Value, _: &Build) -> Built {
    Ok(Rc::new(MqttProxy {
        protocol_name: conf["protocol_name"].as_str().unwrap_or("MQTT").into(),
        protocol_level: conf["protocol_level"].as_i64().unwrap_or_default(),
    }))
}

impl Plugin for MqttProxy {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Access])
    }

    fn access<'a>(&'a self, ex: &'a mut Exchange, host: &'a Host) -> Step<'a> {
        let Client::Raw(stream) = ex.client.clone() else { return Step::Next };
        Step::Wait(Box::pin(async move {
            let deadline_ms = reactor::now_ms() + host.config.streams.preread_timeout_ms;
            let outcome = match read(&stream, deadline_ms).await {
                Ok(packet) => self.accept(&packet, ex),
                Err(error) => Err(error),
            };
            outcome.err().map(|error| {
                log::error!("{error}");
                Reply::page(503)
            })
        }))
    }
}

impl MqttProxy {
    fn accept(&self, packet: &[u8], ex: &mut Exchange) -> Result<(), String> {
        let connect = parse(packet).ok_or("failed to parse mqtt request")?;
        if connect.protocol != self.protocol_name.as_bytes() {
            let got = String::from_utf8_lossy(connect.protocol);
            return Err(format!("expect protocol name: {}, but got {got}", self.protocol_name));
        }
        if i64::from(connect.level) != self.protocol_level {
            return Err(format!("expect protocol level: {}, but got {}", self.protocol_level, connect.level));
        }
        log::info!("mqtt client id: {}", String::from_utf8_lossy(connect.client_id));
        if !connect.client_id.is_empty() {
            ex.set_var("mqtt_client_id", connect.client_id.to_vec());
        }
        Ok(())
    }
}

/// The whole first packet, which stays in the stream.
async fn read(stream: &Stream, deadline_ms: u64) -> Result<Vec<u8>, String> {
    stream.set_recv_deadline(Some(deadline_ms));
    let mut gathered: Vec<u8> = Vec::new();
    let outcome = loop {
        match length(&gathered) {
            Err(error) => break Err(error),
            Ok(Some(length)) if length > limits::MQTT_CONNECT => {
                break Err(format!("failed to read the Connect Command: {length} bytes"));
            }
            Ok(Some(length)) if gathered.len() >= length => break Ok(gathered[..length].to_vec()),
            Ok(_) => {}
        }
        match stream.recv().await {
            Ok(chunk) if chunk.is_empty() => break Err("failed to read the msg header: closed".to_owned()),
            Ok(chunk) => gathered.extend_from_slice(&chunk),
            Err(error) => break Err(format!("failed to read the msg header: {error}")),
        }
    };
    stream.unrecv(Chunk::from_vec(gathered));
    stream.set_recv_deadline(None);
    outcome
}

/// The length of the packet that `bytes` begin, header and all; `None` until that is known.
fn length(bytes: &[u8]) -> Result<Option<usize>, String> {
    let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
    if !(16..=32).contains(&first) {
        return Err(format!(
            "failed to parse the msg header: Received unexpected MQTT packet type+flags: {first}"
        ));
    }
    match variable_int(rest) {
        Some((remaining, used)) => Ok(Some(1 + used + remaining)),
        None if rest.len() >= 4 => Err("failed to parse the msg header: no length".to_owned()),
        None => Ok(None),
    }
}

/// A Variable Byte Integer (section 1.5.5) and how many bytes it takes.
fn variable_int(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 127) << (7 * at);
        if byte & 128 == 0 {
            return Some((value, at + 1));
        }
    }
    None
}

fn parse(packet: &[u8]) -> Option<Connect<'_>> {
    let (_, used) = variable_int(packet.get(1..)?)?;
    let mut rest = packet.get(1 + used..)?;
    let protocol = take_text(&mut rest)?;
    let (&level, after) = rest.split_first()?;
    // flags and keep-alive
    rest = after.get(3..)?;
    if level == 5 {
        let (properties, used) = variable_int(rest)?;
        rest = rest.get(used + properties..)?;
    }
    let client_id = take_text(&mut rest)?;
    Some(Connect { protocol, level, client_id })
}

/// Two bytes of length, and so many of text.
fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<2>()?;
    let (text, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    *rest = after;
    Some(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::kit::test;

    const V311: &[u8] = b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03foo";
    const V5: &[u8] = b"\x10\x13\x00\x04MQTT\x05\x02\x00\x3c\x03\x21\x00\x14\x00\x03bar";

    #[test]
    fn connect_packets_of_both_versions() {
        let of = |level, client_id| Some(Connect { protocol: b"MQTT", level, client_id });
        assert_eq!(parse(V311), of(4, b"foo"));
        assert_eq!(parse(V5), of(5, b"bar"));
        for end in 0..V5.len() {
            assert_eq!(parse(&V5[..end]), None, "{end}");
        }
        assert_eq!(length(V311), Ok(Some(V311.len())));
        assert_eq!((length(b""), length(b"\x10"), length(b"\x10\x80")), (Ok(None), Ok(None), Ok(None)));
        assert!(length(b"\x00\x01").is_err() && length(b"\x10\xff\xff\xff\xff\x01").is_err());
    }

    #[test]
    fn name_and_level_must_be_those_of_the_configuration() {
        let proxy = |level| MqttProxy { protocol_name: "MQTT".into(), protocol_level: level };
        let mut ex = test::exchange("GET / HTTP/1.1\nHost: a");
        assert_eq!(proxy(5).accept(V311, &mut ex), Err("expect protocol level: 5, but got 4".to_owned()));
        let other = MqttProxy { protocol_name: "MQIsdp".into(), protocol_level: 4 };
        assert_eq!(other.accept(V311, &mut ex), Err("expect protocol name: MQIsdp, but got MQTT".to_owned()));
        assert_eq!(proxy(4).accept(V311, &mut ex), Ok(()));
        use crate::exchange::Vars;
        assert_eq!(ex.var("mqtt_client_id").as_deref(), Some(&b"foo"[..]));
    }

    #[test]
    fn the_level_is_required() {
        let registry = crate::plugins::stream::registry();
        let said = registry.get(SPEC.name).unwrap().check(&mut json!({}), crate::plugin::SchemaType::Plain);
        assert_eq!(said, Err("property \"protocol_level\" is required".to_owned()));
    }
}

//! A protocol for tests alone (t/xrpc of APISIX has one like it): heads of fixed length, many calls at a time on one
//! connection, told apart by their numbers, heartbeats that are answered here, and calls for a named service, which go to
//! the subordinate route that has this `service` in its `protocol.conf`.
//!
//! A head: `pp`, the type (1 heartbeat, 2 unary, 3 stream, 4 unary for a service), the call's number (2 bytes), a byte
//! without a meaning, the length of the body (4 bytes). With type 4 four bytes of the service's name follow it.

use std::rc::Rc;

use crate::live::streams::Subordinate;
use crate::stream::xrpc::{Broken, Call, Calls, Pass, Protocol, Session, Spec, To, Verdict, Wants};

/// The protocol.
pub const SPEC: Spec = Spec {
    name: "pingpong",
    schema: r#"{
        "type": "object",
        "properties": {
            "service": {"type": "string"},
            "faults": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "properties": {"header_type": {"type": "string"}, "delay": {"type": "number"}},
                    "required": ["header_type"]
                }
            }
        }
    }"#,
    build: |conf| {
        let faults = conf["faults"].as_array().into_iter().flatten();
        let delays = faults.filter_map(|fault| {
            let kind = ["heartbeat", "unary", "stream", "unary_dynamic_upstream"]
                .iter()
                .position(|name| fault["header_type"] == **name)?;
            Some((kind as u8 + 1, (fault["delay"].as_f64()? * 1000.0) as u32))
        });
        Ok(Rc::new(PingPong { delays: delays.collect() }))
    },
};

const HEAD: usize = 10;
/// Bytes of a service's name.
const SERVICE: usize = 4;
const HEARTBEAT: u8 = 1;
const FOR_SERVICE: u8 = 4;

struct PingPong {
    /// By type, ms.
    delays: Rc<[(u8, u32)]>,
}

impl Protocol for PingPong {
    fn open(&self, _: Wants) -> Box<dyn Session> {
        Box::new(Connection { delays: self.delays.clone(), body: 0, to: To::Own, bodies: Vec::new() })
    }
}

struct Connection {
    delays: Rc<[(u8, u32)]>,
    /// Bytes of the client's message that have not come.
    body: usize,
    /// Where they go.
    to: To,
    /// Bytes of each upstream's message that have not come, and its call.
    bodies: Vec<(usize, u64)>,
}

/// What a head says.
struct Head {
    kind: u8,
    id: u64,
    /// Its own length.
    bytes: usize,
    body: usize,
}

/// `None`: it has not come whole.
fn head(bytes: &[u8]) -> Result<Option<Head>, Broken> {
    let seen = bytes.len().min(2);
    if bytes[..seen] != b"pp"[..seen] {
        return Broken::because(format!("invalid magic number: {}", bytes[..seen].escape_ascii()));
    }
    let Some(&[_, _, kind, high, low, _, a, b, c, d]) = bytes.first_chunk::<HEAD>() else { return Ok(None) };
    let named = if kind == FOR_SERVICE { SERVICE } else { 0 };
    let (id, body) = (u64::from(u16::from_be_bytes([high, low])), u32::from_be_bytes([a, b, c, d]) as usize);
    Ok((bytes.len() >= HEAD + named).then_some(Head { kind, id, bytes: HEAD + named, body }))
}

/// Sends it back.
fn heartbeat(bytes: &[u8]) -> Verdict {
    Verdict::Answer { bytes: HEAD, answer: bytes[..HEAD].to_vec(), last: false }
}

impl Session for Connection {
    fn client_bytes(
        &mut self,
        bytes: &[u8],
        calls: &mut Calls,
        routes: &[Subordinate],
    ) -> Result<Verdict, Broken> {
        if self.body > 0 {
            let here = self.body.min(bytes.len());
            self.body -= here;
            return Ok(Verdict::Pass(Pass { bytes: here, whole: self.body == 0, to: self.to, late: None }));
        }
        let Some(Head { kind, id, bytes: head_bytes, body }) = head(bytes)? else { return Ok(Verdict::More) };
        if kind == HEARTBEAT {
            return Ok(heartbeat(bytes));
        }
        self.to = To::Own;
        if kind == FOR_SERVICE {
            let service = &bytes[HEAD..head_bytes];
            let service = service.split(|byte| *byte == 0).next().unwrap_or_default();
            let is_meant =
                |route: &Subordinate| route.conf["service"].as_str().map(str::as_bytes) == Some(service);
            self.to = routes.iter().position(is_meant).map_or(To::Own, To::Route);
        }
        if !calls.has(id) {
            let mut call = Call::new(id, &[kind], calls.now);
            call.vars.push(("rpc_len", (head_bytes + body).to_string().into_bytes()));
            calls.begin(call);
        }
        let whole = head_bytes + body;
        let here = whole.min(bytes.len());
        self.body = whole - here;
        let late = self.delays.iter().find(|(of, _)| *of == kind).map(|(_, late_ms)| (0, *late_ms));
        Ok(Verdict::Pass(Pass { bytes: here, whole: self.body == 0, to: self.to, late }))
    }

    fn upstream_bytes(&mut self, link: usize, bytes: &[u8], calls: &mut Calls) -> Result<Verdict, Broken> {
        self.bodies.resize(self.bodies.len().max(link + 1), (0, 0));
        let mut head_bytes = 0;
        if self.bodies[link].0 == 0 {
            let Some(head) = head(bytes)? else { return Ok(Verdict::More) };
            if head.kind == HEARTBEAT {
                return Ok(heartbeat(bytes));
            }
            head_bytes = head.bytes;
            self.bodies[link] = (head.body, head.id);
        }
        let (left, id) = &mut self.bodies[link];
        let here = (*left).min(bytes.len() - head_bytes);
        *left -= here;
        if *left == 0 {
            calls.end(*id);
        }
        Ok(Verdict::Pass(Pass { bytes: head_bytes + here, whole: *left == 0, ..Pass::default() }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn no_bytes_panic() {
        let mut random = fastrand::Rng::with_seed(17);
        let built = (SPEC.build)(&serde_json::json!({}));
        let pingpong = built.unwrap_or_else(|error| panic!("{error}"));
        for _ in 0..2_000 {
            let wants = Wants { calls: true, variables: true };
            let (mut session, mut calls) = (pingpong.open(wants), Calls::new(wants, Instant::now()));
            let letters = b"pp\0\x01\x02\x03\x04";
            let bytes: Vec<u8> =
                (0..random.usize(0..60)).map(|_| letters[random.usize(..letters.len())]).collect();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                match session.client_bytes(rest, &mut calls, &[]) {
                    Ok(Verdict::Pass(Pass { bytes, .. }) | Verdict::Answer { bytes, .. }) => {
                        assert!(bytes > 0 && bytes <= rest.len(), "it goes on");
                        rest = &rest[bytes..];
                    }
                    Ok(Verdict::More | Verdict::Settle) | Err(_) => break,
                }
            }
            let _ = session.upstream_bytes(0, b"pp", &mut calls);
        }
    }
}

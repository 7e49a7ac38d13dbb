//! Redis, RESP2 and RESP3 (apisix/stream/xrpc/protocols/redis, docs/en/latest/xrpc/redis.md): delays of commands by name
//! and key, loggers with `$redis_cmd` and `$redis_cmd_line`, metrics by command. One connection for each client, to which
//! every byte goes as it came: transactions, blocking commands, subscriptions, MONITOR and replication are the server's
//! affair. Where nobody asks for calls, replies are not looked at. With `multiplex` commands of many clients share
//! connections, and those that need one of their client's own ([`pins`]) get it while they need it.
//!
//! The crate `redis-protocol` makes frames of whole messages. Here values of 512 MB pass by without being held, which
//! takes the decoders of [`command`] and [`reply`].

mod command;
mod faults;
mod inline;
mod keys;
mod pins;
mod reply;
mod shared;

use std::collections::VecDeque;
use std::rc::Rc;

use self::command::{Arguments, Command};
use self::faults::Faults;
use self::pins::{Need, Pins};
use self::reply::Reply;
use crate::limits;
use crate::live::streams::Subordinate;
use crate::stream::xrpc::{Answers, Broken, Call, Calls, Pass, Protocol, Session, Spec, Verdict, Wants};
use crate::telemetry::families::{REDIS_COMMANDS, REDIS_LATENCY};
use crate::telemetry::metrics::CoreMetrics;

/// The protocol.
pub const SPEC: Spec = Spec {
    name: "redis",
    schema: r#"{
        "type": "object",
        "properties": {
            "faults": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "properties": {
                        "commands": {"type": "array", "minItems": 1, "items": {"type": "string"}},
                        "key": {"type": "string", "minLength": 1},
                        "delay": {"type": "number", "description": "additional delay in seconds"}
                    },
                    "required": ["commands", "delay"]
                }
            },
            "multiplex": {
                "type": "boolean",
                "description": "commands of many clients share connections"
            }
        }
    }"#,
    build: |conf| {
        let multiplex = conf["multiplex"] == true;
        Ok(Rc::new(Redis { faults: Rc::new(Faults::new(conf)), multiplex }))
    },
};

/// One route's.
struct Redis {
    faults: Rc<Faults>,
    multiplex: bool,
}

impl Protocol for Redis {
    fn open(&self, mut wants: Wants) -> Box<dyn Session> {
        // to know when a connection of its own is needed no more
        wants.calls |= self.multiplex;
        let gather = Gather { faults: self.faults.clone(), wants, ..Gather::default() };
        Box::new(Connection { gather, multiplex: self.multiplex, ..Connection::default() })
    }

    fn shares(&self) -> Option<Box<dyn Answers>> {
        self.multiplex.then(|| Box::new(reply::Decoder::default()) as Box<dyn Answers>)
    }

    fn count(&self, metrics: &mut CoreMetrics, route: &[u8], call: &Call, seconds: f64) {
        // a client makes up as many names as it likes
        let name: &[u8] = if keys::is_known(&call.name) { &call.name } else { b"other" };
        metrics.count(REDIS_COMMANDS, &[route, name], 1);
        if let Some(series) = metrics.series(REDIS_LATENCY, &[route, name]) {
            metrics.observe(series, seconds);
        }
    }
}

/// What is gathered of the command that is being read.
#[derive(Default)]
struct Gather {
    faults: Rc<Faults>,
    wants: Wants,
    /// `$redis_cmd_line`
    line: Vec<u8>,
    /// The delay that one of its keys brings, ms.
    late_ms: Option<u32>,
    /// It is CLIENT REPLY.
    is_reply: bool,
    /// The argument of that.
    reply: Option<Muted>,
    /// The connection that it needs.
    need: Need,
}

/// CLIENT REPLY.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Muted {
    /// Replies come.
    #[default]
    On,
    /// None comes.
    Off,
    /// The next one does not come.
    Skip,
}

impl Arguments for Gather {
    fn keep(&mut self, command: &Command) -> usize {
        let fault = self.faults.keep(&command.name, command.index, command.count);
        let logged = if self.wants.variables { limits::REDIS_LOGGED_VALUE } else { 0 };
        let mode = if *command.name == *b"client" { limits::REDIS_NAME } else { 0 };
        fault.max(logged).max(mode).max(self.need.keep())
    }

    fn argument(&mut self, command: &Command) {
        let Command { name, count, index, kept, length } = command;
        if *index == 1 {
            (self.late_ms, self.reply, self.is_reply) = (None, None, false);
            self.line.clear();
            self.need = Need::of(name);
        } else {
            self.need.argument(*index, kept);
        }
        if self.wants.variables {
            self.log(*index, if *index == 1 { name } else { kept }, *length);
        }
        if *index > 1 && !self.faults.is_empty() && kept.len() as u64 == *length {
            self.late_ms = self.late_ms.or_else(|| self.faults.of_key(name, *index, *count, kept));
        }
        if *index == 2 {
            self.is_reply = **name == *b"client" && kept.eq_ignore_ascii_case(b"reply");
        }
        if *index == 3 && self.is_reply {
            self.reply = match kept.to_ascii_lowercase().as_slice() {
                b"off" => Some(Muted::Off),
                b"skip" => Some(Muted::Skip),
                b"on" => Some(Muted::On),
                _ => None,
            };
        }
    }
}

impl Gather {
    fn log(&mut self, index: u64, kept: &[u8], length: u64) {
        if self.line.len() >= limits::REDIS_LOGGED_LINE {
            return;
        }
        if index > 1 {
            self.line.push(b' ');
        }
        self.line.extend_from_slice(&kept[..kept.len().min(limits::REDIS_LOGGED_VALUE)]);
        if length > limits::REDIS_LOGGED_VALUE as u64 {
            self.line.extend_from_slice(format!("...({length} bytes)").as_bytes());
        }
    }
}

/// A reply that is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    /// One reply.
    One,
    /// The reply after which a monitor's lines come.
    Monitor,
    /// So many confirmations of this verb.
    Confirmations(Verb, u32),
    /// One reply, after which state of the connection is gone.
    Release,
    /// The same for all of it: RESET.
    Reset,
    /// The reply to HELLO, in the version of RESP that is spoken from then on.
    Hello,
}

/// A command of subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Verb {
    /// Channels, patterns, shard channels.
    kind: usize,
    ends: bool,
}

impl Verb {
    fn of(name: &[u8]) -> Option<Verb> {
        let (kind, ends) = match name {
            b"subscribe" => (0, false),
            b"psubscribe" => (1, false),
            b"ssubscribe" => (2, false),
            b"unsubscribe" => (0, true),
            b"punsubscribe" => (1, true),
            b"sunsubscribe" => (2, true),
            _ => return None,
        };
        Some(Verb { kind, ends })
    }
}

/// One client with its connection.
#[derive(Default)]
struct Connection {
    commands: command::Decoder,
    replies: reply::Decoder,
    gather: Gather,
    sequence: u64,
    /// What each call under way waits for, in their order.
    awaited: VecDeque<Awaited>,
    muted: Muted,
    monitors: bool,
    /// RESP3 is spoken: what is pushed says so, and arrays are replies.
    resp3: bool,
    /// Subscriptions: channels, patterns, shard channels.
    subscribed: [u32; 3],
    /// Replication: what follows is no dialogue.
    opaque: bool,
    /// What was found behind whole commands, to be told when those are gone.
    broken: Option<Broken>,
    /// Commands may share a connection.
    multiplex: bool,
    /// They do not at present.
    apart: bool,
    /// Why.
    pins: Pins,
}

impl Session for Connection {
    fn client_bytes(
        &mut self,
        bytes: &[u8],
        calls: &mut Calls,
        _: &[Subordinate],
    ) -> Result<Verdict, Broken> {
        if let Some(broken) = self.broken.take() {
            return Err(broken);
        }
        if self.multiplex && self.may_share(calls) {
            return self.shared_bytes(bytes, calls);
        }
        self.own_bytes(bytes, calls)
    }

    fn upstream_bytes(&mut self, _: usize, bytes: &[u8], calls: &mut Calls) -> Result<Verdict, Broken> {
        if self.opaque || !self.gather.wants.calls {
            return Ok(Pass::whole(bytes.len()));
        }
        let mut at = 0;
        while let Some(reply) = self.replies.read(bytes, &mut at)? {
            self.reply_read(&reply, calls);
        }
        let whole = self.replies.is_between();
        Ok(Verdict::Pass(Pass { bytes: bytes.len(), whole, ..Pass::default() }))
    }

    fn refusal(&self, Broken(why): &Broken) -> Vec<u8> {
        format!("-ERR Protocol error: {why}\r\n").into_bytes()
    }
}

impl Connection {
    /// Bytes for a connection of the client's own.
    fn own_bytes(&mut self, bytes: &[u8], calls: &mut Calls) -> Result<Verdict, Broken> {
        let (mut at, mut begin) = (0, 0);
        while !self.opaque && calls.len() < limits::RPC_CALLS {
            match self.commands.read(bytes, &mut at, &mut self.gather) {
                Ok(true) => {}
                Ok(false) => break,
                Err(broken) if begin == 0 => return Err(broken),
                Err(broken) => {
                    self.broken = Some(broken);
                    return Ok(Pass::whole(begin));
                }
            }
            self.command_read(calls);
            if let Some(late_ms) = self.late_ms() {
                let late = Some((begin, late_ms));
                return Ok(Verdict::Pass(Pass { bytes: at, whole: true, late, ..Pass::default() }));
            }
            begin = at;
        }
        let bytes = if self.opaque { bytes.len() } else { at };
        Ok(Verdict::Pass(Pass { bytes, whole: self.commands.is_between(), ..Pass::default() }))
    }

    /// The delay of the command that was read, ms.
    fn late_ms(&self) -> Option<u32> {
        self.gather.late_ms.or_else(|| self.gather.faults.of_any(&self.commands.command.name))
    }

    /// A whole command is on its way.
    fn command_read(&mut self, calls: &mut Calls) {
        let Command { name, count, .. } = &self.commands.command;
        self.opaque = matches!(&name[..], b"sync" | b"psync");
        self.pins.sent(self.gather.need);
        if self.gather.need == Need::Reset && self.muted == Muted::Off {
            self.muted = Muted::On;
        }
        let (asked, before) = (self.gather.reply, self.muted);
        let silent = match (asked, before) {
            (Some(Muted::On), _) => {
                self.muted = Muted::On;
                false
            }
            (_, Muted::Off) => true,
            (_, Muted::Skip) => {
                self.muted = Muted::On;
                true
            }
            (Some(mode), Muted::On) => {
                self.muted = mode;
                true
            }
            (None, Muted::On) => false,
        };
        if !self.gather.wants.calls {
            return;
        }
        self.sequence += 1;
        let mut call = Call::new(self.sequence, name, calls.now);
        if self.gather.wants.variables {
            call.vars.push(("redis_cmd", name.to_vec()));
            call.vars.push(("redis_cmd_line", std::mem::take(&mut self.gather.line)));
        }
        calls.begin(call);
        if silent || self.opaque {
            return calls.end(self.sequence);
        }
        self.awaited.push_back(match Verb::of(name) {
            Some(verb) => {
                let named = u32::try_from(count - 1).unwrap_or(u32::MAX);
                let all = if verb.ends { self.subscribed[verb.kind] } else { 1 };
                Awaited::Confirmations(verb, if named > 0 { named } else { all.max(1) })
            }
            None if **name == *b"monitor" => Awaited::Monitor,
            None if **name == *b"hello" => Awaited::Hello,
            None if self.gather.need == Need::Reset => Awaited::Reset,
            None if self.gather.need.releases() => Awaited::Release,
            None => Awaited::One,
        });
    }

    /// A whole reply, or a message that nobody asked for.
    fn reply_read(&mut self, reply: &Reply, calls: &mut Calls) {
        // whose HELLO was not answered (CLIENT REPLY OFF), or in a transaction
        self.resp3 |= reply.kind == b'>';
        let verb = Verb::of(&reply.text).filter(|_| matches!(reply.kind, b'*' | b'>'));
        if let Some(verb) = verb
            && (reply.kind == b'>' || self.subscribes())
        {
            return self.confirmed(verb, reply.number, calls);
        }
        let is_message = matches!(&reply.text[..], b"message" | b"pmessage" | b"smessage");
        let is_line = reply.kind == b'+' && reply.text.first().is_some_and(u8::is_ascii_digit);
        if reply.kind == b'>' || (is_message && self.subscribes()) || (is_line && self.monitors) {
            return;
        }
        let is_error = reply.kind == b'-';
        match self.awaited.pop_front() {
            Some(Awaited::Monitor) => self.monitors = !is_error,
            Some(Awaited::Hello) => self.resp3 = if is_error { self.resp3 } else { reply.kind == b'%' },
            Some(Awaited::Reset) if !is_error => {
                (self.monitors, self.resp3, self.subscribed) = (false, false, [0; 3]);
            }
            Some(Awaited::Reset | Awaited::Release)
                if is_error && self.apart && !reply.text.starts_with(b"EXECABORT") =>
            {
                self.pins.stays();
            }
            _ => {}
        }
        calls.end_oldest();
    }

    /// Arrays may be pushed.
    fn subscribes(&self) -> bool {
        let confirms = matches!(self.awaited.front(), Some(Awaited::Confirmations(..)));
        !self.resp3 && (confirms || self.subscribed != [0; 3])
    }

    /// One more confirmation; `total` is what the server says of subscriptions now.
    fn confirmed(&mut self, verb: Verb, total: i64, calls: &mut Calls) {
        let others = if verb.kind == 2 { 0 } else { self.subscribed[1 - verb.kind] };
        self.subscribed[verb.kind] = u32::try_from(total).unwrap_or(0).saturating_sub(others);
        if let Some(Awaited::Confirmations(asked, left)) = self.awaited.front_mut()
            && *asked == verb
        {
            *left -= 1;
            if *left == 0 {
                self.awaited.pop_front();
                calls.end_oldest();
            }
        }
    }
}

#[cfg(test)]
mod tests;

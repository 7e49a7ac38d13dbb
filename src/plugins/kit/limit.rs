//! What limiters share: whose requests are counted together, numbers that may be variables, and the refusal.

use std::rc::Rc;

use serde_json::Value;

use super::version::conf_version;
use crate::client::redis::{self, Client};
use crate::exchange::{Exchange, Reply, Vars};
use crate::expr::{Template, number};
use crate::model::schema::number_text;
use crate::plugin::{Build, Step};

/// A whole number, or text that becomes one for each request.
pub enum Number {
    /// As it stands.
    Fixed(u64),
    /// Text with variables.
    Text(Template),
}

impl Number {
    /// Reads it from a configuration that was checked.
    pub fn of(value: &Value) -> Number {
        match value.as_str() {
            Some(text) => Number::Text(Template::compile(text)),
            None => Number::Fixed(value.as_f64().unwrap_or(1.0) as u64),
        }
    }

    /// Its value for this request, at least `least`. The errors are those of the log of APISIX.
    pub fn value(&self, ex: &Exchange, least: u64) -> Result<u64, String> {
        let template = match self {
            Number::Fixed(value) => return Ok(*value),
            Number::Text(template) => template,
        };
        let mut text = Vec::new();
        template.render(ex, &mut text);
        let value = number::parse(&text).ok_or("resolved value is not a number")?;
        let refused = |why| Err(format!("resolved value {why}, got: {}", number_text(value)));
        if least == 0 && value < 0.0 {
            return refused("must be a non-negative number");
        }
        if least > 0 && value <= 0.0 {
            return refused("must be a positive number");
        }
        if value != value.floor() {
            return refused("must be an integer");
        }
        if value > 9_007_199_254_740_991.0 {
            return refused("exceeds safe integer range (2^53-1)");
        }
        Ok(value as u64)
    }
}

/// Whose requests are counted together.
pub enum Key {
    /// The client's address.
    RemoteAddr,
    /// A variable's value.
    Var(Box<str>),
    /// Text with variables.
    Combination(Template),
    /// All requests.
    Constant(Box<str>),
    /// Of one of `rules`: where none of its variables has a value, the rule does not apply.
    OfRule(Template),
}

impl Key {
    /// By `key_type` and `key`.
    pub fn of(conf: &Value) -> Key {
        let key = conf["key"].as_str().unwrap_or("remote_addr");
        match conf["key_type"].as_str() {
            Some("var_combination") => Key::Combination(Template::compile(key)),
            Some("constant") => Key::Constant(key.into()),
            _ if key == "remote_addr" => Key::RemoteAddr,
            _ => Key::Var(key.into()),
        }
    }

    /// Of one of `rules`.
    pub fn of_rule(rule: &Value) -> Key {
        Key::OfRule(Template::compile(rule["key"].as_str().unwrap_or_default()))
    }

    /// Does the rule of this key apply to the request?
    pub fn applies(&self, ex: &Exchange) -> bool {
        let Key::OfRule(template) = self else { return true };
        template.resolves(ex)
    }

    /// Appends the key of this request; the client's address where it has none.
    pub fn append(&self, ex: &Exchange, out: &mut Vec<u8>) {
        let begin = out.len();
        let found = match self {
            Key::RemoteAddr => false,
            Key::Var(name) => ex.var(name).map(|value| out.extend_from_slice(&value)).is_some(),
            Key::Combination(template) | Key::OfRule(template) => template.render(ex, out) > 0,
            Key::Constant(text) => {
                out.extend_from_slice(text.as_bytes());
                true
            }
        };
        if !found {
            out.truncate(begin);
            ex.write_remote_addr(out);
        }
    }
}

/// What goes around the key of a request, so that a configuration has counters of its own while it stays as it is
/// where it is (`gen_limit_key` of APISIX's limiters).
pub struct Scope {
    before: Box<[u8]>,
    /// An action of a workflow: the number of its rule.
    behind: Box<[u8]>,
}

impl Scope {
    /// Of a configuration, or of its `group`, which several share.
    pub fn of(conf: &Value, build: &Build) -> Scope {
        let before = match conf["group"].as_str() {
            Some(group) => format!("{group}:"),
            None => format!("{}:{}:", build.parent, conf_version(conf)),
        };
        let behind = conf.get(VID).map_or(String::new(), |vid| format!(":{vid}"));
        Scope { before: before.into_bytes().into(), behind: behind.into_bytes().into() }
    }

    /// Writes the whole key of a request.
    pub fn write(&self, key: &Key, ex: &Exchange, out: &mut Vec<u8>) {
        out.clear();
        // with an address and a plugin's mark behind it, all at once
        out.reserve(self.before.len() + self.behind.len() + 64);
        out.extend_from_slice(&self.before);
        key.append(ex, out);
        out.extend_from_slice(&self.behind);
    }
}

/// The field by which a workflow tells the actions of its rules apart.
pub const VID: &str = "_vid";

/// `rejected_code`, `rejected_msg` and `allow_degradation`.
pub struct Refusal {
    code: u16,
    message: Option<Box<str>>,
    allow_degradation: bool,
}

impl Refusal {
    /// Of a configuration.
    pub fn of(conf: &Value) -> Refusal {
        Refusal {
            code: conf["rejected_code"].as_u64().map_or(503, |code| code as u16),
            message: conf["rejected_msg"].as_str().map(Box::from),
            allow_degradation: conf["allow_degradation"] == true,
        }
    }

    /// The request is over the limit.
    pub fn reply(&self) -> Reply {
        match &self.message {
            Some(text) => Reply::error_msg(self.code, text),
            None => Reply::page(self.code),
        }
    }

    /// The limiter itself does not work: `None` lets the request go on.
    pub fn failed(&self, reply: Reply) -> Option<Reply> {
        (!self.allow_degradation).then_some(reply)
    }
}

/// A step that answers or goes on.
pub fn step(reply: Option<Reply>) -> Step<'static> {
    reply.map_or(Step::Next, Step::Reply)
}

/// The Redis of `policy`; `None` where it is `local`.
pub fn redis_of(conf: &Value, build: &Build) -> Result<Option<Rc<Client>>, String> {
    let outbound = &build.host.outbound;
    Ok(redis::Conf::of(conf)?.map(|conf| outbound.redis.get(conf, outbound)))
}

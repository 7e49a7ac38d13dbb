//! Faults that a route injects: delays of commands, of all or of those with a key (apisix/stream/xrpc/protocols/redis).

use ahash::AHashMap;
use serde_json::Value;

use super::keys::is_key;

/// The delays of one command, ms.
#[derive(Debug, Default)]
struct Rules {
    any_ms: Option<u32>,
    of_key: AHashMap<Box<[u8]>, u32>,
}

/// All faults of a route, by command.
#[derive(Debug, Default)]
pub struct Faults {
    of: AHashMap<Box<[u8]>, Rules>,
    /// The longest key that any of them names, bytes.
    longest: usize,
}

impl Faults {
    /// Reads `faults` of a checked configuration. Of two for the same command and key the last one counts.
    pub fn new(conf: &Value) -> Faults {
        let mut faults = Faults::default();
        for fault in conf["faults"].as_array().into_iter().flatten() {
            let delay_ms = (fault["delay"].as_f64().unwrap_or(0.0).max(0.0) * 1000.0) as u32;
            for command in fault["commands"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                let command = command.to_ascii_lowercase().into_bytes();
                let has_keys = super::keys::has_keys(&command);
                let rules = faults.of.entry(command.into()).or_default();
                match fault["key"].as_str().filter(|_| has_keys) {
                    Some(key) => {
                        faults.longest = faults.longest.max(key.len());
                        rules.of_key.insert(key.as_bytes().into(), delay_ms);
                    }
                    None => rules.any_ms = Some(delay_ms),
                }
            }
        }
        faults
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Bytes of argument `index` of `count` that a fault may depend on: enough to tell its keys from others.
    pub fn keep(&self, command: &[u8], index: u64, count: u64) -> usize {
        let by_key = self.of.get(command).is_some_and(|rules| !rules.of_key.is_empty());
        if by_key && is_key(command, index, count) { self.longest + 1 } else { 0 }
    }

    /// The delay of a command that has this argument, ms, where that is a key with a fault of its own.
    pub fn of_key(&self, command: &[u8], index: u64, count: u64, argument: &[u8]) -> Option<u32> {
        let rules = self.of.get(command).filter(|_| is_key(command, index, count))?;
        rules.of_key.get(argument).copied()
    }

    /// The delay of any call of a command, ms.
    pub fn of_any(&self, command: &[u8]) -> Option<u32> {
        self.of.get(command)?.any_ms
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn delays_by_command_and_key() {
        let faults = Faults::new(&json!({"faults": [
            {"delay": 5, "key": "x", "commands": ["GET", "MGET"]},
            {"delay": 0.01, "commands": ["GET"]},
            {"delay": 1, "key": "x", "commands": ["ping"]},
        ]}));
        assert_eq!(faults.of_key(b"get", 2, 2, b"x"), Some(5000));
        assert_eq!(faults.of_key(b"get", 2, 2, b"y"), None);
        assert_eq!(faults.of_key(b"mget", 3, 3, b"x"), Some(5000));
        assert_eq!(
            (faults.of_any(b"get"), faults.of_any(b"mget"), faults.of_any(b"set")),
            (Some(10), None, None)
        );
        assert_eq!(faults.of_any(b"ping"), Some(1000), "a command without keys");
        assert_eq!(
            (faults.keep(b"get", 2, 2), faults.keep(b"get", 3, 3), faults.keep(b"set", 2, 3)),
            (2, 0, 0)
        );
    }
}

//! What happened on the way upstream, try by try: `$upstream_addr`, `$upstream_status` and the times.

use std::net::SocketAddr;

use smallvec::SmallVec;

/// One try.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The peer.
    pub addr: SocketAddr,
    /// Its index among the upstream's nodes.
    pub node: usize,
    /// Its status, or 502 or 504 where it gave none; 0 while unknown.
    pub status: u16,
    /// Until connected, ms; `None` where no connection was made.
    pub connect_ms: Option<u32>,
    /// Until the answer's head, ms.
    pub header_ms: Option<u32>,
    /// Until the answer's end, ms.
    pub response_ms: Option<u32>,
    /// Bytes read from it.
    pub bytes: u64,
    /// Of these, the body's.
    pub body_bytes: u64,
    /// When it began, ms of this core's clock.
    pub began_ms: u64,
}

/// All tries of an exchange; the last is the one that counts.
#[derive(Default, Debug)]
pub struct UpstreamRecord {
    /// In order.
    pub attempts: SmallVec<[Attempt; 1]>,
}

impl UpstreamRecord {
    /// Begins a try.
    pub fn begin(&mut self, addr: SocketAddr, node: usize, now_ms: u64) {
        self.attempts.push(Attempt {
            addr,
            node,
            status: 0,
            connect_ms: None,
            header_ms: None,
            response_ms: None,
            bytes: 0,
            body_bytes: 0,
            began_ms: now_ms,
        });
    }

    /// The try under way.
    pub fn current(&mut self) -> Option<&mut Attempt> {
        self.attempts.last_mut()
    }

    /// Time spent with upstreams, all tries together, ms; `None` where none was tried or known to end.
    pub fn response_ms(&self) -> Option<u64> {
        let times = self.attempts.iter().filter_map(|attempt| attempt.response_ms);
        times.map(u64::from).reduce(|sum, ms| sum + ms)
    }

    /// Joins one field of all tries as nginx prints them: `a, b, c`; `-` where a try has no value.
    pub fn join(&self, mut field: impl FnMut(&Attempt, &mut Vec<u8>) -> bool) -> Option<Vec<u8>> {
        if self.attempts.is_empty() {
            return None;
        }
        let mut text = Vec::new();
        for (i, attempt) in self.attempts.iter().enumerate() {
            if i > 0 {
                text.extend_from_slice(b", ");
            }
            if !field(attempt, &mut text) {
                text.push(b'-');
            }
        }
        Some(text)
    }
}

/// What the last limiter said, for `$rate_limiting_info`; its buffer is kept from exchange to exchange.
#[derive(Default)]
pub struct RateLimit {
    /// The limiter's key, and behind it what only the counter needs.
    pub key: Vec<u8>,
    /// So many bytes of it are the key; 0 while no limiter ran.
    pub shown: usize,
    /// Allowed in a window.
    pub limit: u64,
    /// Left in this one.
    pub remaining: i64,
    /// Until it ends, s.
    pub reset_s: u64,
}

impl RateLimit {
    /// Forgets the limiter's word, keeps the key's memory.
    pub fn reset(&mut self) {
        self.key.clear();
        self.shown = 0;
        self.limit = 0;
        self.remaining = 0;
        self.reset_s = 0;
    }

    /// As `core.utils.set_var_rate_limiting_info` writes it; empty where no limiter ran.
    pub fn info(&self) -> Vec<u8> {
        if self.shown == 0 {
            return Vec::new();
        }
        let key = String::from_utf8_lossy(&self.key[..self.shown]);
        format!(
            "{{\"rate_limiting_key\":\"{key}\",\"rate_limiting_limit\":{},\
             \"rate_limiting_remaining\":{},\"rate_limiting_reset\":{}}}",
            self.limit, self.remaining, self.reset_s
        )
        .into_bytes()
    }
}

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
            began_ms: now_ms,
        });
    }

    /// The try under way.
    pub fn current(&mut self) -> Option<&mut Attempt> {
        self.attempts.last_mut()
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

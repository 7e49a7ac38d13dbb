//! The calls of one session: those under way, in the order in which they began, and what is known of each.

use std::collections::VecDeque;
use std::time::Instant;

use smallvec::SmallVec;

use super::Wants;

/// One call.
#[derive(Debug)]
pub struct Call {
    /// By which the protocol finds it again.
    pub id: u64,
    /// What it is called in metrics: a command, a method.
    pub name: SmallVec<[u8; 16]>,
    /// Its variables, beside `rpc_time`.
    pub vars: SmallVec<[(&'static str, Vec<u8>); 0]>,
    began: Instant,
}

impl Call {
    /// A call that begins `now`.
    pub fn new(id: u64, name: &[u8], now: Instant) -> Call {
        Call { id, name: SmallVec::from_slice(name), vars: SmallVec::new(), began: now }
    }

    /// How long it has taken.
    pub fn seconds(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.began).as_secs_f64()
    }
}

/// Those of a session.
#[derive(Debug)]
pub struct Calls {
    /// What the route wants to know.
    pub wants: Wants,
    /// The time of this turn.
    pub now: Instant,
    open: VecDeque<Call>,
    ended: Vec<Call>,
    begun: u64,
}

impl Calls {
    /// None yet.
    pub fn new(wants: Wants, now: Instant) -> Calls {
        Calls { wants, now, open: VecDeque::new(), ended: Vec::new(), begun: 0 }
    }

    /// A call has begun.
    pub fn begin(&mut self, call: Call) {
        self.begun += 1;
        self.open.push_back(call);
    }

    /// How many have begun in all.
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// The oldest call under way.
    pub fn oldest(&mut self) -> Option<&mut Call> {
        self.open.front_mut()
    }

    /// The oldest call has ended.
    pub fn end_oldest(&mut self) {
        self.ended.extend(self.open.pop_front());
    }

    /// The call of this id has ended; there may be none. It is looked for among the youngest first: what gets no answer has
    /// ended as it began, whatever waits before it.
    pub fn end(&mut self, id: u64) {
        if let Some(at) = self.open.iter().rposition(|call| call.id == id) {
            self.ended.extend(self.open.remove(at));
        }
    }

    /// Is a call of this id under way?
    pub fn has(&self, id: u64) -> bool {
        self.open.iter().any(|call| call.id == id)
    }

    /// How many are under way.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// None is under way.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Those that have ended since this was asked last.
    pub fn take_ended(&mut self) -> Vec<Call> {
        std::mem::take(&mut self.ended)
    }

    /// The session is over: what is under way never ends.
    pub fn abandon(&mut self) -> Vec<Call> {
        self.ended.extend(self.open.drain(..));
        self.take_ended()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_end_in_their_order_or_by_their_ids() {
        let now = Instant::now();
        let mut calls = Calls::new(Wants::default(), now);
        for id in 1..=4 {
            calls.begin(Call::new(id, b"x", now));
        }
        calls.end_oldest();
        calls.end(3);
        calls.end(9);
        assert!(calls.has(2) && !calls.has(3));
        assert_eq!(calls.take_ended().iter().map(|call| call.id).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(calls.abandon().iter().map(|call| call.id).collect::<Vec<_>>(), [2, 4]);
        assert!(calls.is_empty() && calls.take_ended().is_empty());
        calls.end_oldest();
    }
}

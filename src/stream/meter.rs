//! What a session of layer 4 adds to the metrics of its listener: that it is there, and its bytes, each second while they
//! move: a session may last for days.

use std::cell::Cell;
use std::rc::Rc;

use super::Listened;
use crate::exchange::Exchange;
use crate::gate::Core;
use crate::limits;
use crate::reactor;
use crate::telemetry::families::{STREAM_ACTIVE, STREAM_BANDWIDTH};
use crate::telemetry::metrics::SeriesId;

/// Bytes of a session so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// From the client.
    pub received: u64,
    /// To the client.
    pub sent: u64,
    /// To the upstream.
    pub sent_up: u64,
    /// From the upstream.
    pub came: u64,
}

impl Moved {
    /// Of a pump, which passes on what it gets.
    pub fn pumped(up: u64, down: u64) -> Moved {
        Moved { received: up, sent: down, sent_up: up, came: down }
    }

    /// Of a session that has ended.
    pub fn of(ex: &Exchange) -> Moved {
        let session = ex.session.as_deref();
        Moved {
            received: session.map_or(0, |session| session.received),
            sent: ex.resp.bytes,
            sent_up: session.map_or(0, |session| session.upstream_sent),
            came: ex.upstream.attempts.last().map_or(0, |attempt| attempt.bytes),
        }
    }

    fn numbers(self) -> [u64; 4] {
        [self.received, self.sent, self.sent_up, self.came]
    }
}

/// One session's.
pub struct Meter {
    core: Rc<Core>,
    series: Option<Series>,
    told: Cell<[u64; 4]>,
    next_ms: Cell<u64>,
}

struct Series {
    active: Option<SeriesId>,
    /// In the order of [`Moved::numbers`].
    bytes: [Option<SeriesId>; 4],
}

impl Meter {
    /// A session begins. Nothing is counted unless the operator has the metrics of layer 4.
    pub fn new(core: &Rc<Core>, listened: Listened) -> Meter {
        let counts = core.live.borrow().enables_stream_plugin("prometheus");
        let series = counts.then(|| {
            let mut metrics = core.host.metrics.borrow_mut();
            let listener = listened.address.to_string();
            let active = metrics.series(STREAM_ACTIVE, &[listener.as_bytes()]);
            active.into_iter().for_each(|active| metrics.add(active, 1));
            let bytes = [
                ("ingress", "downstream"),
                ("egress", "downstream"),
                ("egress", "upstream"),
                ("ingress", "upstream"),
            ]
            .map(|(kind, side)| {
                let labels = [listener.as_bytes(), kind.as_bytes(), side.as_bytes()];
                metrics.series(STREAM_BANDWIDTH, &labels)
            });
            Series { active, bytes }
        });
        Meter { core: core.clone(), series, told: Cell::default(), next_ms: Cell::new(0) }
    }

    /// Bytes have moved; they are told now and then.
    pub fn moved(&self, so_far: Moved) {
        let now_ms = reactor::now_ms();
        if now_ms >= self.next_ms.get() {
            self.next_ms.set(now_ms + limits::STREAM_METER_MS);
            self.tell(so_far);
        }
    }

    /// All bytes of a session that has ended.
    pub fn tell(&self, so_far: Moved) {
        let Some(series) = &self.series else { return };
        let metrics = self.core.host.metrics.borrow();
        let now = so_far.numbers();
        for ((id, now), before) in series.bytes.iter().zip(now).zip(self.told.replace(now)) {
            id.iter().for_each(|id| metrics.add(*id, now.saturating_sub(before)));
        }
    }
}

/// It is there no more, however it ended.
impl Drop for Meter {
    fn drop(&mut self) {
        let active = self.series.as_ref().and_then(|series| series.active);
        active.into_iter().for_each(|active| self.core.host.metrics.borrow().take_one(active));
    }
}

//! What the sessions of a route add to its metrics: that they are there, their subscriptions, and messages.

use std::rc::Rc;

use crate::exchange::Exchange;
use crate::plugin::Host;
use crate::telemetry::families::{PUBSUB_MESSAGES, PUBSUB_SESSIONS, PUBSUB_SUBSCRIPTIONS};
use crate::telemetry::metrics::SeriesId;

/// One session's.
pub struct Meter {
    host: Rc<Host>,
    sessions: Option<SeriesId>,
    subscriptions: Option<SeriesId>,
    fetched: Option<SeriesId>,
    pushed: Option<SeriesId>,
}

impl Meter {
    /// A session of the route of `ex` begins; it ends when this is dropped.
    pub fn new(host: &Rc<Host>, ex: &Exchange) -> Meter {
        let route = ex.matched.as_ref().and_then(|matched| matched.route_id.as_ref());
        let route = route.map(ToString::to_string).unwrap_or_default();
        let route = route.as_bytes();
        let mut metrics = host.metrics.borrow_mut();
        let meter = Meter {
            host: host.clone(),
            sessions: metrics.series(PUBSUB_SESSIONS, &[route]),
            subscriptions: metrics.series(PUBSUB_SUBSCRIPTIONS, &[route]),
            fetched: metrics.series(PUBSUB_MESSAGES, &[route, b"fetch"]),
            pushed: metrics.series(PUBSUB_MESSAGES, &[route, b"push"]),
        };
        drop(metrics);
        meter.add(meter.sessions, 1);
        meter
    }

    /// A subscription is there as long as this is.
    pub fn subscription(&self) -> Subscribed<'_> {
        self.add(self.subscriptions, 1);
        Subscribed(self)
    }

    /// A fetch command has brought so many messages.
    pub fn fetched(&self, messages: usize) {
        self.add(self.fetched, messages);
    }

    /// A subscription has brought so many messages.
    pub fn pushed(&self, messages: usize) {
        self.add(self.pushed, messages);
    }

    fn add(&self, series: Option<SeriesId>, n: usize) {
        if let Some(series) = series {
            self.host.metrics.borrow().add(series, n as u64);
        }
    }

    fn take_one(&self, series: Option<SeriesId>) {
        if let Some(series) = series {
            self.host.metrics.borrow().take_one(series);
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.take_one(self.sessions);
    }
}

/// A subscription that counts.
pub struct Subscribed<'a>(&'a Meter);

impl Drop for Subscribed<'_> {
    fn drop(&mut self) {
        self.0.take_one(self.0.subscriptions);
    }
}

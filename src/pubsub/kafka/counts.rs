//! What the Kafka thread counts: a page of metrics of its own, beside those of the cores.

use std::cell::RefCell;
use std::sync::Arc;

use crate::telemetry::families::PUBSUB_FETCHES;
use crate::telemetry::metrics::{CoreMetrics, Metrics};

/// The thread's page.
pub struct Counts {
    metrics: Arc<Metrics>,
    page: RefCell<CoreMetrics>,
}

impl Counts {
    /// Nothing yet.
    pub fn new(metrics: Arc<Metrics>) -> Counts {
        Counts { page: RefCell::new(metrics.core()), metrics }
    }

    /// A broker has answered a fetch of this topic.
    pub fn fetched(&self, topic: &str) {
        let page = &mut *self.page.borrow_mut();
        if !Arc::ptr_eq(page.shape(), &self.metrics.shape()) {
            // a reload has changed what is counted; the thread outlives it
            *page = self.metrics.core();
        }
        page.tick(self.metrics.now_ms());
        page.count(PUBSUB_FETCHES, &[b"kafka", topic.as_bytes()], 1);
    }
}

#[cfg(test)]
impl Default for Counts {
    /// A page that nobody shows.
    fn default() -> Self {
        use crate::telemetry::metrics::Shape;
        Counts::new(Metrics::new(Shape::new("apisix_", None, None)))
    }
}

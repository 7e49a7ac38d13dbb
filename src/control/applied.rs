//! Which revision each core has applied: written by the cores, read by the Admin API for `?wait=` and by the
//! Control API.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// One counter a core, each on its own cache line.
pub struct Applied(Box<[Line]>);

#[repr(align(64))]
struct Line(AtomicI64);

/// A core that has received no configuration yet.
pub const NOTHING: i64 = -1;

impl Applied {
    /// All cores at [`NOTHING`].
    pub fn new(cores: usize) -> Applied {
        Applied((0..cores).map(|_| Line(AtomicI64::new(NOTHING))).collect())
    }

    /// A core has applied everything up to `revision`.
    pub fn set(&self, core: usize, revision: i64) {
        self.0[core].0.store(revision, Ordering::Release);
    }

    /// The revision of each core.
    pub fn all(&self) -> Vec<i64> {
        self.0.iter().map(|line| line.0.load(Ordering::Acquire)).collect()
    }

    /// Returns when every core has applied `revision`; never, if one does not.
    pub async fn reached(&self, revision: i64) {
        // Cores apply a batch within microseconds of reading it, and must not be made to tell anybody.
        let mut pause_us = 50;
        while self.all().into_iter().any(|applied| applied < revision) {
            tokio::time::sleep(Duration::from_micros(pause_us)).await;
            pause_us = (pause_us * 2).min(1_000);
        }
    }
}

//! The fixed numbers of a core: it alone writes them, anybody reads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number with one writer.
#[derive(Debug, Default)]
pub struct Tally(AtomicU64);

impl Tally {
    /// Adds; only the owning core may.
    pub fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Relaxed);
    }

    /// Subtracts, down to 0; only the owning core may.
    pub fn sub(&self, n: u64) {
        self.0.store(self.get().saturating_sub(n), Relaxed);
    }

    /// Sets; only the owning core may.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The value; anybody may ask.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Tallies {
    /// Connections that wait for a request. One that has many at a time makes it too small.
    pub fn waiting(&self) -> u64 {
        let busy = [&self.reading, &self.writing, &self.sessions].map(Tally::get).iter().sum();
        self.active.get().saturating_sub(busy)
    }
}

/// What every core counts, with nginx's names (stub_status).
#[derive(Debug, Default)]
pub struct Tallies {
    /// Connections accepted.
    pub accepted: Tally,
    /// Connections served: those accepted that met no limit.
    pub handled: Tally,
    /// Open client connections.
    pub active: Tally,
    /// Requests whose head has come in part.
    pub reading: Tally,
    /// Requests that are worked on, or answered.
    pub writing: Tally,
    /// Sessions of layer 4.
    pub sessions: Tally,
    /// Requests, from the first byte on.
    pub requests: Tally,
    /// Exchanges, connections and other tasks that ended by a panic.
    pub panics: Tally,
    /// TLS handshakes with clients to the end: 1.2 full, 1.2 resumed, 1.3 full, 1.3 resumed.
    pub tls_handshakes: [Tally; 4],
    /// TLS handshakes that failed: no certificate for the name, a client's certificate that is not believed, and so on.
    pub tls_failures: Tally,
    /// HTTP/2 connections of clients.
    pub h2_connections: Tally,
    /// Streams on them.
    pub h2_streams: Tally,
    /// Of these, reset by their client before the answer's end.
    pub h2_resets: Tally,
    /// HTTP/2 connections closed because their client sent too much that costs and brings nothing.
    pub h2_floods: Tally,
    /// HTTP/3 connections of clients.
    pub h3_connections: Tally,
    /// Requests on them.
    pub h3_streams: Tally,
    /// Of these, reset by their client before the answer's end.
    pub h3_resets: Tally,
    /// HTTP/3 connections closed for what their client did.
    pub h3_violations: Tally,
    /// QUIC connections that were turned away.
    pub quic_refused: Tally,
    /// QUIC clients that had to prove their address first.
    pub quic_retries: Tally,
    /// Datagrams passed on to the core that has their connection.
    pub quic_passed: Tally,
    /// Datagrams that were not sent or passed on for want of room.
    pub quic_dropped: Tally,
    /// Messages to control that found its queue full.
    pub dropped_messages: Tally,
    /// Series that [`METRIC_SERIES`](crate::limits::METRIC_SERIES) refused.
    pub refused_series: Tally,
}

//! Logs and metrics: what the cores write without waiting, and what control reads.

//! The control thread: configuration sources, Admin API, Control API, metrics, probes, DNS.

//! A byte stream to a peer: plain TCP or TLS over it, one interface.

pub mod trust;

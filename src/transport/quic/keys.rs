//! Secrets that all cores share: a datagram may reach another core than the one that its connection lives on.

use std::sync::Arc;

use aws_lc_rs::{hkdf, hmac, rand};

/// The secrets of a process.
pub struct QuicKeys {
    /// Of stateless resets: whoever gets a datagram of a connection that is gone can say so.
    pub reset: hmac::Key,
    /// Of connection IDs.
    pub ids: Arc<hmac::Key>,
    /// Of tokens by which clients prove their address.
    pub token: hkdf::Prk,
}

impl QuicKeys {
    /// # Errors
    /// The host has no randomness.
    pub fn new() -> Result<QuicKeys, String> {
        let secret = || {
            let mut secret = [0; 32];
            rand::fill(&mut secret).map_err(|_| "no randomness for QUIC".to_owned())?;
            Ok::<_, String>(secret)
        };
        let reset = hmac::Key::new(hmac::HMAC_SHA256, &secret()?);
        let token = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&secret()?);
        let ids = Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &secret()?));
        Ok(QuicKeys { reset, ids, token })
    }
}

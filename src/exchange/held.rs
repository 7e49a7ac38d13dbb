//! The part of a request's body that is kept, so that it can be sent again to another node.

use super::{Body, BodyError};

/// What is kept of a request's body.
pub struct Held {
    /// The bytes that were taken from the client and are still here.
    pub bytes: Vec<u8>,
    /// All that was taken from the client so far is in `bytes`.
    pub whole: bool,
    /// The body has ended.
    pub ended: bool,
}

impl Default for Held {
    /// Nothing was taken yet.
    fn default() -> Held {
        Held { bytes: Vec::new(), whole: true, ended: false }
    }
}

impl Held {
    /// Takes the body up to its end, or until `most` bytes are here: a body that ends by then has a known length.
    ///
    /// # Errors
    /// The body broke off.
    pub async fn fill(&mut self, body: &mut Body, most: usize) -> Result<(), BodyError> {
        self.ended |= matches!(body, Body::Empty);
        while !self.ended && self.whole && self.bytes.len() < most {
            match body.piece().await? {
                Some(piece) => self.bytes.extend_from_slice(&piece),
                None => self.ended = true,
            }
            self.ended |= body.is_done();
        }
        Ok(())
    }
}

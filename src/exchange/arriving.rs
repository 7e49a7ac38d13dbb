//! What is kept of a body while it arrives on a stream, of HTTP/2 or HTTP/3.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::BodyError;
use crate::limits;
use crate::reactor::{self, Chunk, Sleep};
use crate::wire::Name;
use crate::wire::headers::Headers;
use crate::wire::http::chunked::may_be_trailer;

/// How much has come, how much may, and until when.
pub struct Arriving {
    /// All has come, trailers and all.
    pub(super) done: bool,
    /// What `Content-Length` has promised and is still to come.
    left: Option<u64>,
    /// Time between two reads, ms; 0 is none.
    timeout_ms: u32,
    timer: Option<Sleep>,
    trailers: Option<Headers>,
    /// What was read ahead, to be read again.
    pub(super) again: Option<Chunk>,
    /// Longest body accepted; 0 is any.
    pub max_bytes: u64,
    /// Bytes of body so far.
    pub bytes: u64,
}

impl Arriving {
    /// Behind a head that has announced `length`, if it did.
    pub(super) fn new(length: Option<u64>, timeout_ms: u32) -> Arriving {
        Arriving {
            done: false,
            left: length,
            timeout_ms,
            timer: None,
            trailers: None,
            again: None,
            max_bytes: 0,
            bytes: 0,
        }
    }

    pub(super) fn known_length(&self) -> Option<u64> {
        let again = self.again.as_ref().map_or(0, |again| again.len() as u64);
        if self.done { Some(again) } else { self.left.map(|left| again + left) }
    }

    pub(super) fn trailers(&self) -> Option<&Headers> {
        self.trailers.as_ref()
    }

    /// What was promised has not come.
    pub(super) fn is_short(&self) -> bool {
        self.left.is_some_and(|left| left > 0)
    }

    /// A piece has come. `Malformed`: it is more than was promised.
    pub(super) fn count(&mut self, length: usize) -> Result<(), BodyError> {
        self.timer = None;
        let length = length as u64;
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(length).ok_or(BodyError::Malformed)?;
        }
        self.bytes += length;
        if self.max_bytes != 0 && self.bytes > self.max_bytes {
            return Err(BodyError::TooLarge);
        }
        Ok(())
    }

    /// Trailer fields have come. Those are dropped that would change how the message is read (RFC 9110 section 6.5.1).
    pub(super) fn take_trailers<'a>(
        &mut self,
        fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<(), BodyError> {
        let mut trailers = Headers::default();
        let mut bytes = 0;
        for (name, value) in fields {
            bytes += name.len() + value.len();
            if bytes > limits::TRAILERS {
                return Err(BodyError::Malformed);
            }
            if may_be_trailer(Name::of(name)) {
                trailers.add(name, value);
            }
        }
        self.trailers = Some(trailers);
        Ok(())
    }

    /// Nothing has come: ready when that was so for too long.
    pub(super) fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        if self.timeout_ms == 0 {
            return Poll::Pending;
        }
        let timeout_ms = u64::from(self.timeout_ms);
        let timer = self.timer.get_or_insert_with(|| reactor::sleep_until(reactor::now_ms() + timeout_ms));
        ready!(Pin::new(timer).poll(cx));
        Poll::Ready(BodyError::Timeout)
    }
}

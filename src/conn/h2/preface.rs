//! HTTP/2 by prior knowledge: a client may begin with its preface on a plain connection (RFC 9113 section 3.3).

use crate::reactor::Chunk;
use crate::transport::Stream;
use crate::wire::frames::PREFACE;

/// What the first bytes of a connection are.
pub enum Found {
    /// The preface, which is in the stream again.
    Http2,
    /// Something else: these bytes.
    Http1(Chunk),
    /// The client left before it could be known, or took too long.
    Nothing,
}

/// Could these first bytes be the preface, or its beginning? Nearly all other requests say no by their first byte.
pub fn may_begin(first: &[u8]) -> bool {
    let compared = first.len().min(PREFACE.len());
    first[..compared] == PREFACE[..compared]
}

/// Reads until it is clear. `first` may be the preface, or its beginning. The stream's receive deadline holds.
pub async fn look(stream: &Stream, first: Chunk) -> Found {
    let mut gathered = first;
    while gathered.len() < PREFACE.len() {
        let Some(more) = stream.recv().await.ok().filter(|more| !more.is_empty()) else {
            return Found::Nothing;
        };
        gathered = Chunk::from_vec([&*gathered, &*more].concat());
        if !may_begin(&gathered) {
            return Found::Http1(gathered);
        }
    }
    stream.unrecv(gathered);
    Found::Http2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_preface_and_its_beginnings() {
        for first in ["P", "PRI", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore"]
        {
            assert!(may_begin(first.as_bytes()), "{first}");
        }
        for first in ["GET / HTTP/1.1", "POST", "PR / HTTP/1.1", "PRI * HTTP/1.1\r\n\r\n"] {
            assert!(!may_begin(first.as_bytes()), "{first}");
        }
    }
}

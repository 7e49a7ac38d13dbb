//! HTTP/1.1 for both roles, sans-io (RFC 9110, RFC 9112), as strict as nginx or stricter: what could be read in two ways is refused.

pub mod assemble;
pub(super) mod bytes;
pub mod chunked;
pub mod date;
pub mod error_page;
mod fields;
pub mod framing;
pub mod head;
pub mod host;
pub mod method;
mod scan;
pub mod write;

pub use chunked::{BodyDecoder, Decoded, Sender};
pub use framing::{Framing, request_framing, request_keep_alive, response_framing, response_keep_alive};
pub use head::{RequestHead, RequestLimits, ResponseHead, parse_request, parse_response};
pub use host::Host;
pub use method::Method;

/// How far a head was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Call again with the same bytes and more behind them.
    Partial,
    /// The head is whole and took this many bytes of the input.
    Done(usize),
}

/// A request that gets an error page and a closed connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reject {
    /// The status on the wire: 400, 405, 413, 414, 501 or 505.
    pub status: u16,
    /// The built-in page, where it is not the status's own (494: header block too large, sent as 400).
    pub page: u16,
    /// For the error log.
    pub reason: &'static str,
}

impl Reject {
    /// A reject whose page is its status's.
    pub const fn new(status: u16, reason: &'static str) -> Reject {
        Reject { status, page: status, reason }
    }

    /// 400.
    pub const fn bad(reason: &'static str) -> Reject {
        Reject::new(400, reason)
    }

    /// nginx's internal status 494: sent as 400 with a page of its own.
    pub const HEAD_TOO_LARGE: Reject =
        Reject { status: 400, page: 494, reason: "request header or cookie too large" };
}

/// An answer from an upstream that cannot be passed on: the client gets 502, the upstream connection is closed,
/// nothing is retried (nginx's `invalid_header`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadUpstream {
    /// For the error log.
    pub reason: &'static str,
}

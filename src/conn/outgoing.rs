//! An answer on its way to a stream of a client, of HTTP/2 or HTTP/3: which fields its head has, what is announced of its
//! body, the body piece by piece.

use std::task::{Context, Poll};

use smallvec::SmallVec;

use super::Gate;
use crate::exchange::{BodyPiece, Exchange, Source};
use crate::reactor::Chunk;
use crate::wire::Name;
use crate::wire::http::Method;

/// How a stream has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::conn) enum Ended {
    /// The answer was given to its end, or broken off by us.
    Answered,
    /// The client wanted it no more.
    Reset,
}

/// Why an answer was not written to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::conn) enum Cut {
    /// The client wants no more of it, or is gone.
    Gone,
    /// It does not read.
    Timeout,
    /// The body broke off, or is not as long as was announced: the client must not take it for whole.
    Body,
}

impl Cut {
    /// What it means for the stream, which has been reset.
    pub fn ended(self, ex: &Exchange) -> Ended {
        match self {
            Cut::Gone => Ended::Reset,
            Cut::Timeout => {
                log::info!("client timed out, connection {}", ex.facts.serial);
                Ended::Reset
            }
            Cut::Body => {
                log::error!("an answer was cut off, connection {}", ex.facts.serial);
                Ended::Answered
            }
        }
    }
}

/// The body of an answer: what was said of it, and what is still to come.
pub(in crate::conn) struct Outgoing {
    /// None may follow the head: HEAD, 204, 304.
    pub forbidden: bool,
    /// `Content-Length` as it will be sent.
    pub length: Option<SmallVec<[u8; 20]>>,
    filtered: bool,
    left: Option<u64>,
}

impl Outgoing {
    /// Of `ex.resp`.
    pub fn new<G: Gate>(gate: &G, ex: &Exchange) -> Outgoing {
        let filtered = gate.filters_body(ex);
        let forbidden =
            ex.req.head.method == Method::Head || matches!(ex.resp.head.status, 100..=199 | 204 | 304);
        // what a plugin says has no length in APISIX, a built-in page has
        let said = ex.resp.source == Source::Gateway;
        let known = ex.resp.body.known_length().filter(|_| !forbidden && !filtered && !said);
        let length = match known {
            Some(length) => Some(itoa::Buffer::new().format(length).as_bytes().into()),
            None => ex.resp.head.headers.get(Name::ContentLength).map(SmallVec::from_slice),
        };
        let left = length.as_deref().and_then(|length| std::str::from_utf8(length).ok()?.parse().ok());
        Outgoing { forbidden, length, filtered, left }
    }

    /// Nothing follows the head.
    pub fn is_empty(&self, ex: &Exchange) -> bool {
        let body = &ex.resp.body;
        self.forbidden || (!self.filtered && body.is_done() && body.trailers().is_none())
    }

    /// The next piece as it is to be sent, unless the client goes first: then `poll_gone` is ready.
    pub async fn next<G: Gate>(
        &mut self,
        gate: &G,
        ex: &mut Exchange,
        mut poll_gone: impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Result<BodyPiece, Cut> {
        let data = std::future::poll_fn(|cx| match ex.resp.body.poll_piece(cx) {
            Poll::Ready(piece) => Poll::Ready(piece.map_err(|_| Cut::Body)),
            Poll::Pending => poll_gone(cx).map(|()| Err(Cut::Gone)),
        })
        .await?;
        let mut piece = BodyPiece { last: ex.resp.body.is_done(), data: data.unwrap_or_else(Chunk::empty) };
        if self.filtered {
            gate.filter_body(ex, &mut piece);
        }
        let length = piece.data.len() as u64;
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(length).ok_or(Cut::Body)?;
            if piece.last && *left > 0 {
                return Err(Cut::Body);
            }
        }
        ex.resp.body_bytes += length;
        ex.resp.bytes += length;
        Ok(piece)
    }
}

/// Gives `add` the fields of an answer's head. Fields of one connection are ours (RFC 9113 section 8.2.2, RFC 9114
/// section 4.2).
pub(in crate::conn) fn fields(ex: &Exchange, length: Option<&[u8]>, mut add: impl FnMut(Name, &[u8], &[u8])) {
    let headers = &ex.resp.head.headers;
    // as over HTTP/1.1: an upstream's answer has the upstream's date, or none
    if ex.resp.source == Source::Gateway && !headers.has(Name::Date) {
        add(Name::Date, b"date", &crate::telemetry::clock::date());
    }
    if let Some(value) = headers.get(Name::ContentType) {
        add(Name::ContentType, b"content-type", value);
    }
    if let Some(length) = length {
        add(Name::ContentLength, b"content-length", length);
    }
    for (name, value, id) in headers.iter() {
        match id {
            Name::ContentType | Name::ContentLength | Name::Connection | Name::KeepAlive => {}
            Name::TransferEncoding | Name::ProxyConnection | Name::Upgrade => {}
            _ => add(id, name, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::h1::tests::exchange;
    use crate::transport::tests::on_both;

    #[test]
    fn an_answer_of_ours_has_one_date_and_no_field_of_a_connection() {
        on_both(async || {
            let mut ex = exchange();
            for name in [
                "Connection",
                "Keep-Alive",
                "Transfer-Encoding",
                "Proxy-Connection",
                "Upgrade",
                "Content-Length",
            ] {
                ex.resp.head.headers.add(name.as_bytes(), b"x");
            }
            for (name, value) in [("X-A", "1"), ("Content-Type", "t"), ("X-A", "2")] {
                ex.resp.head.headers.add(name.as_bytes(), value.as_bytes());
            }
            let written = |ex: &Exchange| {
                let mut names = Vec::new();
                fields(ex, Some(b"5"), |id, name, value| {
                    assert_eq!(id, Name::of(name));
                    let (name, value) =
                        (name.to_ascii_lowercase(), if id == Name::Date { &b"now"[..] } else { value });
                    names.push([&name[..], b": ", value].concat());
                });
                names.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect::<Vec<_>>()
            };
            let others = ["content-type: t", "content-length: 5", "x-a: 1", "x-a: 2"];
            assert_eq!(written(&ex), [&["date: now"][..], &others].concat());
            ex.resp.head.headers.add(b"Date", b"of a plugin");
            assert_eq!(written(&ex), [&others[..], &["date: now"]].concat());
            ex.resp.head.headers.remove(Name::Date);
            ex.resp.source = Source::Upstream;
            assert_eq!(written(&ex), others, "an upstream has its own date, or none");
        });
    }
}

//! The content coding of an answer on its way out (RFC 9110 section 8.4): behind all body filters, which see the
//! body as it was.

use super::{BodyPiece, Exchange};
use crate::wire::Name;
use crate::wire::headers::Headers;
use crate::wire::http::Method;

/// Something that encodes a body piece by piece. A plugin puts one into [`Exchange::encoder`]; it is used if
/// the answer turns out to be one that may be encoded.
pub trait Encoder {
    /// Its name in `Content-Encoding`.
    fn coding(&self) -> &'static str;

    /// Encodes one piece; the last one carries the end of the encoded body.
    fn encode(&mut self, piece: &mut BodyPiece);
}

impl Exchange {
    /// Settles whether the answer is encoded, and says so in its head. Only answers that nginx's gzip filter
    /// takes are: 200, 403 and 404 with a body that has no coding yet, for clients that accept this one.
    pub fn settle_encoding(&mut self) {
        let Some(encoder) = &self.encoder else { return };
        let coding = encoder.coding();
        let headers = &mut self.resp.head.headers;
        let fits = matches!(self.resp.head.status, 200 | 403 | 404)
            && self.req.head.method != Method::Head
            && !headers.has(Name::ContentEncoding)
            && accepts(&self.req.head.headers, coding);
        if !fits {
            self.encoder = None;
            return;
        }
        headers.remove(Name::ContentLength);
        headers.remove_named(b"Accept-Ranges");
        if let Some(tag) = headers.get(Name::Etag).filter(|tag| !tag.starts_with(b"W/")) {
            let weak = [b"W/", tag].concat(); // other bytes than the upstream's: RFC 9110 section 8.8.1
            headers.set(b"ETag", &weak);
        }
        headers.set(b"Content-Encoding", coding.as_bytes());
    }
}

/// Does `Accept-Encoding` name the coding with a weight above 0? (nginx `ngx_http_gzip_accept_encoding`)
fn accepts(headers: &Headers, coding: &str) -> bool {
    headers.all(Name::AcceptEncoding).flat_map(|line| line.split(|b| *b == b',')).any(|item| {
        let mut parts = item.split(|b| *b == b';').map(<[u8]>::trim_ascii);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(coding.as_bytes()));
        let zero = parts.any(|part| {
            let weight = part.strip_prefix(b"q=").or(part.strip_prefix(b"Q="));
            weight.is_some_and(|weight| weight.iter().all(|b| matches!(b, b'0' | b'.')))
        });
        named && !zero
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_of_zero_is_a_no() {
        for (value, accepted) in [
            ("gzip", true),
            ("br, GZip;q=0.5", true),
            ("gzip;q=1.0, br", true),
            ("gzip;q=0", false),
            ("gzip; q=0.000", false),
            ("gzipped", false),
            ("*", false),
            ("", false),
        ] {
            let mut headers = Headers::default();
            headers.add(b"Accept-Encoding", value.as_bytes());
            assert_eq!(accepts(&headers, "gzip"), accepted, "{value}");
        }
        assert!(!accepts(&Headers::default(), "gzip"));
    }
}

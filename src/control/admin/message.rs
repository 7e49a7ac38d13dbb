//! A request to the Admin API and its answer, whichever listener they came by.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use hyper::{HeaderMap, Method};
use serde_json::{Value, json};

/// A request, its body read.
pub struct AdminRequest {
    /// The method.
    pub method: Method,
    /// The request target: path and query.
    pub target: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; [`crate::limits::ADMIN_BODY_BYTES`] and one more byte tell that it was too long.
    pub body: Bytes,
    /// Who asks.
    pub peer: IpAddr,
    /// The name that the client asked for in its TLS handshake.
    pub server_name: Option<Arc<str>>,
}

impl AdminRequest {
    /// The target's path, still encoded.
    pub fn path(&self) -> &str {
        self.target.split_once('?').map_or(&self.target, |(path, _)| path)
    }

    /// The query's arguments.
    pub fn args(&self) -> Args {
        Args::parse(self.target.split_once('?').map_or("", |(_, query)| query))
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct AdminResponse {
    /// The status code.
    pub status: u16,
    /// Headers beside content-length and date.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Bytes,
}

impl AdminResponse {
    /// A status alone.
    pub fn empty(status: u16) -> AdminResponse {
        AdminResponse { status, ..AdminResponse::default() }
    }

    /// JSON, with the newline that APISIX puts behind every body made from a table.
    pub fn json(status: u16, value: &Value) -> AdminResponse {
        let mut body = value.to_string();
        body.push('\n');
        AdminResponse { status, headers: Vec::new(), body: body.into() }
    }

    /// Text as it is.
    pub fn text(status: u16, body: impl Into<Bytes>) -> AdminResponse {
        AdminResponse { status, headers: Vec::new(), body: body.into() }
    }

    /// `{"error_msg": ...}`
    pub fn error(status: u16, message: impl Into<String>) -> AdminResponse {
        AdminResponse::json(status, &json!({"error_msg": message.into()}))
    }

    /// Adds or replaces a header.
    pub fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.headers.retain(|(old, _)| !old.eq_ignore_ascii_case(name));
        self.headers.push((name, value.into()));
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }
}

/// Decoded arguments in the order they came; of equal names the first counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args(Vec<(String, String)>);

impl Args {
    /// Reads `a=1&b=2`, `%XX` and `+` decoded.
    pub fn parse(query: &str) -> Args {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Args(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name, true), decode(value, true))
                })
                .collect(),
        )
    }

    /// The first argument of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| &**value)
    }

    /// All arguments.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
}

/// Decodes `%XX`, and `+` where it stands for a blank. What is no escape stays.
pub fn decode(text: &str, plus: bool) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escape = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (byte, escape.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(value)) => {
                decoded.push(value);
                at += 3;
                continue;
            }
            (b'+', _) if plus => decoded.push(b' '),
            _ => decoded.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_decoded() {
        let args = Args::parse("a=1&filter=service_id%3D1%26x%3D2&b&c=x+y&a=2&bad=%zz%4");
        assert_eq!(args.get("a"), Some("1"));
        assert_eq!(args.get("filter"), Some("service_id=1&x=2"));
        assert_eq!(args.get("b"), Some(""));
        assert_eq!(args.get("c"), Some("x y"));
        assert_eq!(args.get("bad"), Some("%zz%4"));
        assert_eq!(args.get("none"), None);
    }
}

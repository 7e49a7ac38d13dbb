//! An answer made by the gateway (APISIX core/response.lua `exit`).

use serde_json::Value;

use super::{Body, Exchange, Source};
use crate::wire::Name;
use crate::wire::http::error_page;

/// An answer of a plugin or of the gateway itself. Headers are set on the exchange before.
#[derive(Debug, PartialEq, Default)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub body: ReplyBody,
}

/// What an answer says.
#[derive(Debug, PartialEq, Default)]
pub enum ReplyBody {
    /// The built-in HTML page of an error status, else nothing.
    #[default]
    None,
    /// These bytes, as they are.
    Text(Vec<u8>),
    /// JSON with a newline at its end, as APISIX prints tables.
    Json(Value),
    /// The same of a table with this one field: most refusals.
    Field(&'static str, Box<str>),
}

impl Reply {
    /// The built-in page of `status`.
    pub fn page(status: u16) -> Self {
        Reply { status, body: ReplyBody::None }
    }

    /// `{"message": text}`: the style of auth plugins and restrictions.
    pub fn message(status: u16, text: &str) -> Self {
        Reply { status, body: ReplyBody::Field("message", text.into()) }
    }

    /// `{"error_msg": text}`: the style of the core and of limiters.
    pub fn error_msg(status: u16, text: &str) -> Self {
        Reply { status, body: ReplyBody::Field("error_msg", text.into()) }
    }

    /// Makes this the answer of `ex`. Content types as nginx gives them: HTML for built-in pages, else
    /// by the request path's extension, else `text/plain`; a plugin's own type stays.
    pub fn apply(self, ex: &mut Exchange) {
        ex.resp.source = Source::Gateway;
        // nginx's own numbers, for the pages; a client gets what RFC 9110 knows
        ex.resp.head.status = if matches!(self.status, 494..=497) { 400 } else { self.status };
        let body = match self.body {
            ReplyBody::Text(text) => Some(text),
            ReplyBody::Json(value) => Some(format!("{value}\n").into_bytes()),
            ReplyBody::Field(name, text) => {
                Some(format!("{{\"{name}\":{}}}\n", Value::from(&*text)).into_bytes())
            }
            ReplyBody::None => None,
        };
        let page = body.is_none().then(|| error_page::page(self.status)).flatten();
        let content_type: &[u8] = if page.is_some() { error_page::CONTENT_TYPE } else { default_type(ex) };
        // what plugins set before there was an answer: theirs for a body of theirs, not for a page
        let has_type = ex.resp.head.headers.has(Name::ContentType) || ex.resp.early.has(Name::ContentType);
        if page.is_some() {
            ex.resp.early.remove(Name::ContentType);
        }
        if page.is_some() || (body.is_some() && !has_type) {
            ex.resp.head.headers.set(b"Content-Type", content_type);
        }
        if let Some(page) = page {
            ex.resp.head.headers.put(Name::ContentLength, page.len().to_string().as_bytes());
        }
        ex.resp.body = match (body, page) {
            (Some(text), _) => Body::from_vec(text),
            (None, Some(page)) => Body::from_static(page),
            (None, None) => Body::Empty,
        };
    }
}

/// nginx's `default_type` with `charset utf-8`, and its mime.types for what an API path may end in.
fn default_type(ex: &Exchange) -> &'static [u8] {
    let name = ex.req.path.rsplit(|b| *b == b'/').next().unwrap_or_default();
    match name.iter().rposition(|b| *b == b'.').map(|dot| name[dot + 1..].to_ascii_lowercase()).as_deref() {
        Some(b"html" | b"htm" | b"shtml") => b"text/html; charset=utf-8",
        Some(b"css") => b"text/css",
        Some(b"xml") => b"text/xml; charset=utf-8",
        Some(b"gif") => b"image/gif",
        Some(b"jpeg" | b"jpg") => b"image/jpeg",
        Some(b"js") => b"application/javascript; charset=utf-8",
        Some(b"json") => b"application/json",
        Some(b"png") => b"image/png",
        Some(b"svg" | b"svgz") => b"image/svg+xml",
        Some(b"ico") => b"image/x-icon",
        Some(b"pdf") => b"application/pdf",
        Some(b"zip") => b"application/zip",
        Some(b"woff2") => b"font/woff2",
        Some(b"bin" | b"exe" | b"dll" | b"iso" | b"img") => b"application/octet-stream",
        _ => b"text/plain; charset=utf-8",
    }
}

//! A session of layer 4: an exchange without a request, from the accept of its connection to its end. Plugins that
//! serve both worlds meet it as they meet any exchange; its variables are those of nginx's stream module.

use std::borrow::Cow;
use std::net::SocketAddr;

use super::Exchange;
use super::vars::{Value, seconds, text};

/// What is known of a session beside what every exchange has.
#[derive(Debug, Default)]
pub struct Session {
    /// `TCP` or `UDP`: `$protocol`.
    pub protocol: &'static str,
    /// The listener's address as written, which metrics name.
    pub listener: Option<SocketAddr>,
    /// After it had been proxied one side failed: 400 the client, 502 the upstream. `$status` says 200 all the same.
    pub broken: Option<u16>,
    /// `$bytes_received`: from the client.
    pub received: u64,
    /// `$upstream_bytes_sent`
    pub upstream_sent: u64,
    /// `$upstream_first_byte_time`, ms.
    pub first_byte_ms: Option<u32>,
}

impl Exchange {
    /// ngx_stream_variables.c, ngx_stream_upstream.c, ngx_stream_log_module.c.
    pub(super) fn session_var(&self, session: &Session, name: &str) -> Value<'_> {
        let last = self.upstream.attempts.last();
        match name {
            "protocol" => Some(Cow::Borrowed(session.protocol.as_bytes())),
            "status" => text(format!("{:03}", self.resp.head.status)),
            "bytes_sent" => text(self.resp.bytes),
            "bytes_received" => text(session.received),
            "session_time" => text(seconds(crate::reactor::now_ms().saturating_sub(self.started_ms))),
            "upstream_bytes_sent" => last.and_then(|_| text(session.upstream_sent)),
            "upstream_first_byte_time" => session.first_byte_ms.and_then(|ms| text(seconds(u64::from(ms)))),
            "upstream_session_time" => last?.response_ms.and_then(|ms| text(seconds(u64::from(ms)))),
            _ => None,
        }
    }
}

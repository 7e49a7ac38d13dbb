//! Variables by their nginx and APISIX names (nginx ngx_http_variables.c, APISIX core/ctx.lua).

use std::borrow::Cow;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use super::{ClientVerify, Exchange, Source};
use crate::transport::x509;
use crate::wire::http::write::{http_date, number};
use crate::wire::uri;

/// Something that has `$variables`: an exchange, or a table in a test.
pub trait Vars {
    /// The value of `$name` (without the `$`), or `None` where nginx would have no value.
    fn var(&self, name: &str) -> Option<Cow<'_, [u8]>>;

    /// The JSON value of `$name` where it is more than text: of `post_arg.*`. `None` where it has none; a member
    /// that is there as `null` is `Value::Null`.
    fn json_var(&self, name: &str) -> Option<Cow<'_, serde_json::Value>> {
        self.var(name).map(|text| Cow::Owned(serde_json::Value::from(String::from_utf8_lossy(&text))))
    }
}

impl Vars for Exchange {
    fn var(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        if let Some((_, value)) = self.set_vars.iter().find(|(n, _)| &**n == name) {
            return Some(Cow::Borrowed(value));
        }
        if let Some(session) = &self.session {
            return self
                .session_var(session, name)
                .or_else(|| self.connection_var(name))
                .or_else(|| self.matched_var(name))
                .or_else(|| self.upstream_var(name))
                .or_else(|| self.time_var(name));
        }
        if let Some(key) = name.strip_prefix("http_") {
            return self.header_var(key);
        }
        self.request_var(name)
            .or_else(|| self.connection_var(name))
            .or_else(|| self.matched_var(name))
            .or_else(|| self.response_var(name))
            .or_else(|| self.upstream_var(name))
            .or_else(|| self.time_var(name))
            .or_else(|| self.family_var(name))
            .or_else(|| self.body_var(name))
    }

    fn json_var(&self, name: &str) -> Option<Cow<'_, serde_json::Value>> {
        self.body_member(name.strip_prefix("post_arg.")?)
    }
}

/// What a variable function gives.
pub(super) type Value<'a> = Option<Cow<'a, [u8]>>;

pub(super) fn text<'a>(value: impl ToString) -> Value<'a> {
    Some(Cow::Owned(value.to_string().into_bytes()))
}

/// Seconds with three decimals, as nginx prints times.
pub(super) fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

/// An address and its port.
fn write_addr(addr: SocketAddr, out: &mut Vec<u8>) {
    let SocketAddr::V4(v4) = addr else { return drop(write!(out, "{addr}")) }; // a Vec takes all
    write_ip(IpAddr::V4(*v4.ip()), out);
    out.push(b':');
    number(out, v4.port().into());
}

/// The longest text of an address of version 4, bytes.
pub(super) const IPV4_TEXT: usize = b"255.255.255.255".len();

/// An address. Those of version 4 are in most requests and log entries, so they go without the formatter.
pub(super) fn write_ip(ip: IpAddr, out: &mut Vec<u8>) {
    let IpAddr::V4(v4) = ip else { return drop(write!(out, "{ip}")) }; // a Vec takes all
    let [first, rest @ ..] = v4.octets();
    number(out, first.into());
    for octet in rest {
        out.push(b'.');
        number(out, octet.into());
    }
}

impl Exchange {
    fn request_var(&self, name: &str) -> Value<'_> {
        let head = &self.req.head;
        Some(match name {
            "uri" | "document_uri" => Cow::Borrowed(&self.req.path),
            "args" | "query_string" => Cow::Borrowed(self.req.args.as_deref()?),
            "is_args" => {
                Cow::Borrowed(if self.req.args.as_ref().is_some_and(|a| !a.is_empty()) { b"?" } else { b"" })
            }
            "request_uri" => {
                let args = self.req.args.as_ref().map_or(0, Vec::len);
                let mut uri = Vec::with_capacity(self.req.path.len() + b"?".len() + args);
                self.write_request_uri(&mut uri);
                Cow::Owned(uri)
            }
            "real_request_uri" => Cow::Borrowed(head.target()),
            "method" | "request_method" => {
                Cow::Borrowed(self.out.method.as_deref().unwrap_or(head.method_text()))
            }
            "host" => Cow::Borrowed(&self.req.host),
            "scheme" => Cow::Borrowed(self.facts.scheme.as_bytes()),
            "https" => Cow::Borrowed(if self.facts.scheme == "https" { b"on" } else { b"" }),
            "server_protocol" => Cow::Borrowed(self.protocol()),
            "http2" => Cow::Borrowed(match (head.version, self.facts.scheme) {
                (20, "https") => b"h2",
                (20, _) => b"h2c",
                _ => b"".as_slice(),
            }),
            "http3" => Cow::Borrowed(if head.version == 30 { b"h3" } else { b"" }),
            "connection_requests" => return text(self.nth),
            "request" | "request_line" => Cow::Borrowed(head.line()),
            "request_length" => return text(self.request_length()),
            "content_length" => return self.header(b"content-length"),
            "content_type" => return self.header(b"content-type"),
            "request_id" | "apisix_request_id" => Cow::Borrowed(self.request_id().as_bytes()),
            "request_type" => Cow::Borrowed(b"traditional_http"),
            // what APISIX's template sets for requests that go to no language model
            "llm_time_to_first_token"
            | "llm_prompt_tokens"
            | "llm_completion_tokens"
            | "llm_total_tokens"
            | "llm_tool_count"
            | "llm_cache_read_input_tokens"
            | "llm_cache_creation_input_tokens"
            | "llm_reasoning_tokens" => Cow::Borrowed(b"0"),
            "llm_stream" | "llm_has_tool_calls" => Cow::Borrowed(b"false"),
            "remote_user" => Cow::Owned(self.basic_user()?),
            // where the gate took it from the request, it has set the variable
            "original_x_forwarded_for" => return self.header(b"x-forwarded-for"),
            "proxy_add_x_forwarded_for" => {
                let mut chain = self.header(b"x-forwarded-for").map_or_else(Vec::new, Cow::into_owned);
                if !chain.is_empty() {
                    chain.extend_from_slice(b", ");
                }
                write_ip(self.remote_addr, &mut chain);
                Cow::Owned(chain)
            }
            "var_x_forwarded_proto" => Cow::Borrowed(self.facts.scheme.as_bytes()),
            _ => return None,
        })
    }

    fn connection_var(&self, name: &str) -> Value<'_> {
        match name {
            "remote_addr" if self.remote_addr == self.facts.peer.ip() => {
                Some(Cow::Borrowed(&self.facts.peer_text))
            }
            "remote_addr" => {
                let mut text = Vec::with_capacity("255.255.255.255".len());
                write_ip(self.remote_addr, &mut text);
                Some(Cow::Owned(text))
            }
            // nginx has none for an address that came without one
            "remote_port" if self.remote_port == 0 => Some(Cow::Borrowed(b"")),
            "remote_port" => text(self.remote_port),
            "realip_remote_addr" => text(self.facts.peer.ip()),
            "realip_remote_port" => text(self.facts.peer.port()),
            "binary_remote_addr" => Some(Cow::Owned(match self.remote_addr {
                std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
                std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
            })),
            "proxy_protocol_addr" => self.facts.proxy_protocol.and_then(|a| text(a.ip())),
            "proxy_protocol_port" => self.facts.proxy_protocol.and_then(|a| text(a.port())),
            name if name.starts_with("ssl_") => self.tls_var(name),
            "server_addr" => text(self.facts.local.ip()),
            "server_port" => text(self.facts.local.port()),
            "server_name" => Some(Cow::Borrowed(b"_")),
            "hostname" => Some(Cow::Borrowed(crate::telemetry::hostname().as_bytes())),
            "connection" => text(self.facts.serial),
            "pipe" => Some(Cow::Borrowed(b".")),
            "pid" => text(std::process::id()),
            "nginx_version" => Some(Cow::Borrowed(b"1.27.1")),
            _ => None,
        }
    }

    fn tls_var(&self, name: &str) -> Value<'_> {
        let tls = self.facts.tls.as_deref()?;
        Some(Cow::Borrowed(match name {
            "ssl_protocol" => tls.agreed.version.as_bytes(),
            "ssl_cipher" => tls.agreed.cipher.as_bytes(),
            "ssl_server_name" => tls.sni.as_deref()?.as_bytes(),
            "ssl_session_reused" => {
                if tls.agreed.resumed {
                    b"r"
                } else {
                    b"."
                }
            }
            "ssl_client_verify" => match tls.client {
                ClientVerify::None => b"NONE",
                ClientVerify::Success => b"SUCCESS",
                ClientVerify::Failed => b"FAILED",
            },
            name => {
                let der = tls.client_certificate.as_deref()?;
                let unix_s = crate::telemetry::clock::unix_s().cast_signed();
                let value = x509::variable(der, name.strip_prefix("ssl_client_")?, unix_s)?;
                return Some(Cow::Owned(value.into_bytes()));
            }
        }))
    }

    fn matched_var(&self, name: &str) -> Value<'_> {
        let matched = self.matched.as_deref();
        let known = self.consumer.as_ref();
        Some(Cow::Borrowed(match name {
            "route_id" => matched?.route_id.as_deref()?.as_bytes(),
            "route_name" => matched?.route_name.as_deref()?.as_bytes(),
            "service_id" => matched?.service_id.as_deref()?.as_bytes(),
            "service_name" => matched?.service_name.as_deref()?.as_bytes(),
            "matched_uri" => matched?.matched_uri.as_deref()?.as_bytes(),
            "matched_host" => matched?.matched_host.as_deref()?.as_bytes(),
            "consumer_name" => known?.consumer.value.username.as_bytes(),
            "consumer_group_id" => known?.consumer.value.group_id.as_deref()?.as_bytes(),
            _ => return None,
        }))
    }

    fn response_var(&self, name: &str) -> Value<'_> {
        match name {
            "status" => text(self.status()),
            "body_bytes_sent" => text(self.resp.body_bytes),
            "bytes_sent" => text(self.resp.bytes),
            "request_completion" => {
                // an answer that its upstream broke off is over, too, as in nginx
                let whole = self.resp.answered && !self.resp.left && self.resp.body.is_done();
                Some(Cow::Borrowed(if whole { b"OK" } else { b"" }))
            }
            "rate_limiting_info" => Some(Cow::Owned(self.rate_limit.info())),
            _ => None,
        }
    }

    fn upstream_var(&self, name: &str) -> Value<'_> {
        let attempts = &self.upstream.attempts;
        let put = |value: Option<u32>, out: &mut Vec<u8>| {
            value.map(|ms| out.extend_from_slice(seconds(u64::from(ms)).as_bytes())).is_some()
        };
        let joined = match name {
            "upstream_addr" => self.upstream.join(|a, out| {
                write_addr(a.addr, out);
                true
            }),
            "upstream_status" => self.upstream.join(|a, out| {
                if a.status != 0 {
                    out.extend_from_slice(a.status.to_string().as_bytes());
                }
                a.status != 0
            }),
            "upstream_connect_time" => self.upstream.join(|a, out| put(a.connect_ms, out)),
            "upstream_header_time" => self.upstream.join(|a, out| put(a.header_ms, out)),
            "upstream_response_time" | "apisix_upstream_response_time" => {
                self.upstream.join(|a, out| put(a.response_ms, out))
            }
            "upstream_bytes_received" => self.upstream.join(|a, out| {
                out.extend_from_slice(a.bytes.to_string().as_bytes());
                true
            }),
            "upstream_response_length" => self.upstream.join(|a, out| {
                number(out, a.body_bytes);
                true
            }),
            "balancer_ip" => return attempts.last().and_then(|a| text(a.addr.ip())),
            "balancer_port" => return attempts.last().and_then(|a| text(a.addr.port())),
            "upstream_scheme" => return Some(Cow::Borrowed(self.out.scheme.unwrap_or("http").as_bytes())),
            "upstream_host" => {
                return Some(Cow::Borrowed(self.out.host.as_deref().unwrap_or(&self.req.http_host)));
            }
            "upstream_unresolved_host" => {
                return Some(Cow::Borrowed(self.out.node_host.as_deref()?.as_bytes()));
            }
            "upstream_uri" => return Some(Cow::Borrowed(self.out.uri.as_deref().unwrap_or_default())),
            "response_source" => return Some(Cow::Borrowed(self.response_source().as_bytes())),
            _ => None,
        };
        joined.map(Cow::Owned)
    }

    fn time_var(&self, name: &str) -> Value<'_> {
        let now = jiff::Timestamp::now;
        match name {
            "request_time" => text(seconds(crate::reactor::now_ms().saturating_sub(self.started_ms))),
            "msec" => text(seconds(now().as_millisecond() as u64)),
            "time_iso8601" => {
                text(now().to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S%:z"))
            }
            "time_local" => {
                text(now().to_zoned(jiff::tz::TimeZone::system()).strftime("%d/%b/%Y:%H:%M:%S %z"))
            }
            "date_gmt" => Some(Cow::Owned(http_date(now().as_second() as u64).to_vec())),
            _ => None,
        }
    }

    /// Variables whose name carries a key: `arg_*`, `cookie_*`, …
    fn family_var(&self, name: &str) -> Value<'_> {
        if let Some(key) = name.strip_prefix("arg_") {
            let pair = uri::args(self.req.args.as_deref()?)
                .find(|(name, _)| uri::decode_component(name) == key.as_bytes())?;
            return pair.1.map(uri::decode_component);
        }
        if let Some(key) = name.strip_prefix("cookie_") {
            return self.cookie(key.as_bytes());
        }
        if let Some(key) = name.strip_prefix("uri_param_") {
            let (_, value) = self.params.iter().find(|(n, _)| &**n == key)?;
            return Some(Cow::Borrowed(value));
        }
        if let Some(key) = name.strip_prefix("sent_http_") {
            return self.sent_var(key);
        }
        if let Some(key) = name.strip_prefix("upstream_http_") {
            let from_upstream = self.resp.source == Source::Upstream;
            let key = key.replace('_', "-");
            return self
                .resp
                .head
                .headers
                .get_named(key.as_bytes())
                .filter(|_| from_upstream)
                .map(Cow::Borrowed);
        }
        None
    }

    /// `sent_http_KEY`. What the head says of the connection and of framing was never a header that one gave it.
    fn sent_var(&self, key: &str) -> Value<'_> {
        match key {
            "connection" => Some(Cow::Borrowed(self.resp.connection().as_bytes())),
            "transfer_encoding" => self.resp.transfer_encoding().map(|coding| coding.as_bytes().into()),
            "keep_alive" => None,
            key => {
                let key = key.replace('_', "-");
                self.resp.head.headers.get_named(key.as_bytes()).map(Cow::Borrowed)
            }
        }
    }

    /// `http_KEY`, the variables that are asked for most. As in nginx, `_` stands for `-` and for itself.
    fn header_var(&self, key: &str) -> Value<'_> {
        if key == "host" && !self.req.http_host.is_empty() {
            return Some(Cow::Borrowed(&self.req.http_host));
        }
        let same = |a: &u8, b: &u8| a.eq_ignore_ascii_case(b) || matches!((a, b), (b'-', b'_'));
        let named =
            |name: &[u8]| name.len() == key.len() && name.iter().zip(key.as_bytes()).all(|(a, b)| same(a, b));
        let mut fields = self.req.head.headers.iter();
        let (name, first, _) = fields.find(|(name, _, _)| named(name))?;
        let others = fields.filter(|(other, _, _)| other.eq_ignore_ascii_case(name));
        Some(joined(name, first, others.map(|(_, value, _)| value)))
    }

    /// All values of a request header, joined as nginx joins them.
    pub fn header(&self, name: &[u8]) -> Value<'_> {
        let mut values = self.req.head.headers.all_named(name);
        Some(joined(name, values.next()?, values))
    }

    /// The value of a cookie (RFC 6265 section 5.4 pairs, case-sensitive names).
    pub fn cookie(&self, key: &[u8]) -> Value<'_> {
        for (name, line, _) in self.req.head.headers.iter() {
            if !name.eq_ignore_ascii_case(b"cookie") {
                continue;
            }
            for pair in line.split(|b| *b == b';') {
                let pair = pair.trim_ascii();
                let Some(eq) = memchr::memchr(b'=', pair) else { continue };
                if pair[..eq].trim_ascii_end() == key {
                    let value = pair[eq + 1..].trim_ascii_start();
                    let bare = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\""));
                    return Some(Cow::Borrowed(bare.unwrap_or(value)));
                }
            }
        }
        None
    }

    /// Appends the normalized path and the arguments: `$request_uri`.
    pub fn write_request_uri(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.req.path);
        if let Some(args) = self.req.args.as_deref().filter(|args| !args.is_empty()) {
            out.push(b'?');
            out.extend_from_slice(args);
        }
    }

    fn protocol(&self) -> &'static [u8] {
        match self.req.head.version {
            10 => b"HTTP/1.0",
            20 => b"HTTP/2.0",
            30 => b"HTTP/3.0",
            _ => b"HTTP/1.1",
        }
    }

    /// Bytes of the request, head and body: `$request_length`.
    pub fn request_length(&self) -> u64 {
        self.req.head_bytes as u64 + self.req.body.arrived_bytes()
    }

    /// The answer's status, 499 where the client left before it: `$status`.
    pub fn status(&self) -> u16 {
        if self.resp.client_gone { 499 } else { self.resp.head.status }
    }

    /// Who made the answer: `upstream`, `apisix` before it was asked, `nginx` where it gave none
    /// (core/response.lua `get_response_source`).
    pub fn response_source(&self) -> &'static str {
        match self.resp.source {
            Source::Upstream => "upstream",
            Source::Gateway if !self.upstream.attempts.is_empty() => "nginx",
            Source::Gateway => "apisix",
        }
    }

    /// 32 hex digits, random, the same for the whole exchange.
    pub fn request_id(&self) -> &str {
        self.request_id.get_or_init(|| format!("{:032x}", fastrand::u128(..)))
    }

    fn basic_user(&self) -> Option<Vec<u8>> {
        use base64::Engine;
        let value = self.req.head.headers.get_named(b"authorization")?;
        let (scheme, token) = value.split_at_checked(6)?;
        if !scheme.eq_ignore_ascii_case(b"basic ") {
            return None;
        }
        let decoded = base64::engine::general_purpose::STANDARD.decode(token.trim_ascii()).ok()?;
        let colon = memchr::memchr(b':', &decoded)?;
        Some(decoded[..colon].to_vec())
    }
}

/// Values of one header, as nginx joins them.
fn joined<'a>(name: &[u8], first: &'a [u8], mut others: impl Iterator<Item = &'a [u8]>) -> Cow<'a, [u8]> {
    let Some(second) = others.next() else { return Cow::Borrowed(first) };
    let separator: &[u8] = if name.eq_ignore_ascii_case(b"cookie") { b"; " } else { b", " };
    let mut joined = [first, separator, second].concat();
    for value in others {
        joined.extend_from_slice(separator);
        joined.extend_from_slice(value);
    }
    Cow::Owned(joined)
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::exchange::{Body, Client, Facts};

    #[test]
    fn a_variable_that_is_set_again_has_its_last_value() {
        let at = |port| ([127, 0, 0, 1], port).into();
        let mut ex = Exchange::new(Rc::new(Facts::new(at(40_000), at(9080), "http", 1)), Client::None, 0);
        ex.set_var("a", "first");
        ex.set_var("b", "other");
        ex.set_var("a".to_owned(), "last");
        let values = ["a", "b", "c"].map(|name| ex.var(name).map(Cow::into_owned));
        assert_eq!(values, [Some(b"last".to_vec()), Some(b"other".to_vec()), None]);
    }

    #[test]
    fn a_request_is_not_complete_before_its_answer_is() {
        let at = |port| ([127, 0, 0, 1], port).into();
        let mut ex = Exchange::new(Rc::new(Facts::new(at(40_000), at(9080), "http", 1)), Client::None, 0);
        let complete = |ex: &Exchange| ex.var("request_completion").unwrap() == b"OK".as_slice();
        assert!(!complete(&ex), "nothing is answered");
        ex.resp.answered = true;
        ex.resp.body = Body::from_static(b"half");
        assert!(!complete(&ex), "there is more to come");
        ex.resp.body = Body::Empty;
        assert!(complete(&ex));
        ex.resp.left = true;
        assert!(!complete(&ex));
    }

    #[test]
    fn addresses_are_written_as_the_formatter_writes_them() {
        for text in ["127.0.0.1:80", "0.0.0.0:0", "255.1.20.199:65535", "[::1]:8080", "[fe80::1%3]:1"] {
            let mut out = Vec::new();
            write_addr(text.parse().unwrap(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }
}

//! The Admin API's lines in the access log: who asked what. In APISIX its server writes them by the same format as the
//! proxy, and those of the Control and status API write none (apisix/cli/ngx_tpl.lua).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use hyper::{HeaderMap, Method};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::message::{self, AdminRequest, AdminResponse};
use crate::config::AccessLog;
use crate::telemetry::file::LogFile;
use crate::telemetry::format::{Escape, LogFormat};

/// Where lines go, and what they are made of.
pub struct AccessLines {
    file: LogFile,
    format: LogFormat<Box<str>>,
}

/// A request, as far as a line tells of it.
pub struct Asked {
    method: Method,
    target: String,
    headers: HeaderMap,
    peer: String,
    server_name: Option<Arc<str>>,
    at: Timestamp,
    began: Instant,
}

impl Asked {
    /// To be called when the request is there. An admin key in its query is left out.
    pub fn of(request: &AdminRequest) -> Asked {
        Asked {
            method: request.method.clone(),
            target: without_key(&request.target),
            headers: request.headers.clone(),
            peer: request.peer.to_string(),
            server_name: request.server_name.clone(),
            at: Timestamp::now(),
            began: Instant::now(),
        }
    }
}

/// The target with every `api_key` argument's value taken out.
fn without_key(target: &str) -> String {
    let Some((path, query)) = target.split_once('?') else { return target.to_owned() };
    let shown = query.split('&').map(|argument| match argument.split_once('=') {
        Some((name, _)) if message::decode(name, true) == "api_key" => "api_key=***",
        _ => argument,
    });
    format!("{path}?{}", shown.collect::<Vec<_>>().join("&"))
}

impl AccessLines {
    /// As the proxy's are configured.
    pub fn new(file: LogFile, conf: &AccessLog) -> AccessLines {
        let escape = Escape::named(&conf.escape).unwrap_or(Escape::Default);
        AccessLines { file, format: LogFormat::compile(&conf.format, escape, |name| Box::from(name)) }
    }

    /// Writes one line.
    pub fn write(&self, asked: &Asked, answer: &AdminResponse) {
        let mut line = Vec::new();
        self.format.write(&mut line, |name, out| {
            let value = variable(name, asked, answer);
            out.extend_from_slice(value.as_deref().unwrap_or_default().as_bytes());
            value.is_some()
        });
        line.push(b'\n');
        self.file.write(line); // a full queue drops the line, and counts it
    }
}

/// The variables that have a meaning where nothing is proxied.
fn variable<'a>(name: &str, asked: &'a Asked, answer: &AdminResponse) -> Option<Cow<'a, str>> {
    let header =
        |name: &str| asked.headers.get(name).and_then(|value| value.to_str().ok()).map(Cow::Borrowed);
    let (path, args) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
    Some(match name {
        "remote_addr" | "realip_remote_addr" => Cow::Borrowed(asked.peer.as_str()),
        "time_local" => {
            Cow::Owned(asked.at.to_zoned(TimeZone::system()).strftime("%d/%b/%Y:%H:%M:%S %z").to_string())
        }
        "time_iso8601" => {
            Cow::Owned(asked.at.to_zoned(TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string())
        }
        "msec" => {
            let ms = asked.at.as_millisecond();
            Cow::Owned(format!("{}.{:03}", ms / 1000, ms % 1000))
        }
        "request" => Cow::Owned(format!("{} {} HTTP/1.1", asked.method, asked.target)),
        "request_method" => Cow::Borrowed(asked.method.as_str()),
        "request_uri" | "real_request_uri" => Cow::Borrowed(asked.target.as_str()),
        "uri" | "document_uri" => Cow::Borrowed(path),
        "args" | "query_string" if !args.is_empty() => Cow::Borrowed(args),
        "server_protocol" => Cow::Borrowed("HTTP/1.1"),
        "status" => Cow::Owned(answer.status.to_string()),
        "body_bytes_sent" => Cow::Owned(answer.body.len().to_string()),
        "request_time" => Cow::Owned(format!("{:.3}", asked.began.elapsed().as_secs_f64())),
        "host" | "upstream_host" => return header("host"),
        "ssl_server_name" => return asked.server_name.as_deref().map(Cow::Borrowed),
        // what the template sets for this server
        "upstream_scheme" => Cow::Borrowed("http"),
        "upstream_uri" | "request_line" => Cow::Borrowed(""),
        "request_id" | "apisix_request_id" => Cow::Owned(uuid::Uuid::new_v4().simple().to_string()),
        _ => return header(&name.strip_prefix("http_")?.replace('_', "-")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_who_asked_what_and_never_the_key() {
        let mut headers = HeaderMap::new();
        headers.insert("host", "localhost:9180".parse().unwrap());
        headers.insert("user-agent", "curl".parse().unwrap());
        let asked = Asked::of(&AdminRequest {
            method: Method::PUT,
            target: "/apisix/admin/routes/1?api_key=s3cret&ttl=5".into(),
            headers,
            body: Default::default(),
            peer: "127.0.0.1".parse().unwrap(),
            server_name: None,
        });
        let answer = AdminResponse::text(201, "four");
        let shown = |name: &str| variable(name, &asked, &answer).map(Cow::into_owned);
        for (name, value) in [
            ("remote_addr", "127.0.0.1"),
            ("request", "PUT /apisix/admin/routes/1?api_key=***&ttl=5 HTTP/1.1"),
            ("uri", "/apisix/admin/routes/1"),
            ("args", "api_key=***&ttl=5"),
            ("status", "201"),
            ("body_bytes_sent", "4"),
            ("http_host", "localhost:9180"),
            ("http_user_agent", "curl"),
            ("upstream_scheme", "http"),
            ("upstream_host", "localhost:9180"),
            ("upstream_uri", ""),
        ] {
            assert_eq!(shown(name).as_deref(), Some(value), "{name}");
        }
        for name in ["remote_user", "upstream_addr", "upstream_status", "http_referer", "ssl_server_name"] {
            assert_eq!(shown(name), None, "{name}");
        }
    }
}

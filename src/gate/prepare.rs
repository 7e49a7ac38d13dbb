//! Before routing: what the request is taken to be (APISIX init.lua `http_access_phase`, ngx_tpl.lua).

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use super::Core;
use crate::config::RealIpSource;
use crate::exchange::{BodyError, Exchange, ReadBody, Reply, ReplyBody};
use crate::limits;
use crate::mail::{AdminAnswer, AdminCall, ToControl};
use crate::wire::Name;
use crate::wire::uri::{self, Uri};

/// Normalizes path and host, finds the client's address, and sets the forwarding headers.
pub fn request(core: &Core, ex: &mut Exchange) -> Result<(), Reply> {
    set_host(ex);
    real_ip(core, ex);
    forwarded(core, ex);
    set_path(core, ex)
}

fn set_host(ex: &mut Exchange) {
    let req = &mut ex.req;
    if let Some(host) = req.head.headers.get(Name::Host) {
        req.http_host.extend_from_slice(host);
    }
    match req.head.host() {
        Some(host) => {
            req.host.extend_from_slice(host.name);
            req.host.make_ascii_lowercase();
        }
        // HTTP/1.0: nginx's $host is then the name of the server, and that is `_` (ngx_tpl.lua)
        None => req.host.extend_from_slice(b"_"),
    }
}

/// The path that routes, variables and plugins see: decoded, dot segments resolved, `//` merged.
fn set_path(core: &Core, ex: &mut Exchange) -> Result<(), Reply> {
    let req = &mut ex.req;
    let target = req.head.path();
    let parsed = Uri::parse(target, &mut req.path).map_err(|reject| Reply::page(reject.status))?;
    req.args = parsed.args(target).map(<[u8]>::to_vec);
    if parsed.is_clean() {
        req.path.extend_from_slice(parsed.path(target, &[]));
    }
    if core.config.delete_uri_tail_slash && req.path.ends_with(b"/") {
        req.path.pop();
    }
    if core.config.normalize_uri_like_servlet && memchr::memchr(b';', &req.path).is_some() {
        let servlet = servlet_path(&req.path).map_err(|reason| {
            log::error!("failed to normalize: {reason}");
            Reply::page(400)
        })?;
        // a decoded `?` or blank would end the path for the upstream, and what routes and plugins have judged were another
        ex.out.uri = Some(uri::encode(&req.path).into_owned());
        req.path = servlet;
    }
    Ok(())
}

/// Cuts the parameters behind `;` from each segment, and refuses what would become a dot segment by it.
fn servlet_path(path: &[u8]) -> Result<Vec<u8>, &'static str> {
    let segments: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
    let mut out = Vec::with_capacity(path.len());
    for (i, segment) in segments.iter().enumerate() {
        if i > 0 {
            out.push(b'/');
        }
        let Some(at) = memchr::memchr(b';', segment) else {
            out.extend_from_slice(segment);
            continue;
        };
        let bare = &segment[..at];
        match bare.to_ascii_lowercase().as_slice() {
            b"." | b".." => return Err("dot segment with parameter"),
            b"" if i + 1 < segments.len() => return Err("empty segment with parameters"),
            b"%2e" | b"%2e%2e" => return Err("encoded dot segment"),
            _ => out.extend_from_slice(bare),
        }
    }
    Ok(out)
}

/// `real_ip_header` from `real_ip_from`: nginx's realip module.
fn real_ip(core: &Core, ex: &mut Exchange) {
    let real_ip = &core.config.http.real_ip;
    if !core.real_ip_from.contains(ex.facts.peer.ip()) {
        return;
    }
    let header = match &real_ip.source {
        RealIpSource::ProxyProtocol => {
            if let Some(source) = ex.facts.proxy_protocol {
                ex.remote_addr = source.ip();
                ex.remote_port = source.port();
            }
            return;
        }
        RealIpSource::Header(name) => name.as_bytes(),
    };
    if core.real_ip_name != Name::Other && !ex.req.head.headers.has(core.real_ip_name) {
        return;
    }
    let Some(value) = ex.header(header) else { return };
    let mut found = None;
    for item in value.rsplit(|b| *b == b',') {
        let Some((ip, port)) = address(item.trim_ascii()) else { break };
        found = Some((ip, port));
        if !(real_ip.recursive && core.real_ip_from.contains(ip)) {
            break;
        }
    }
    if let Some((ip, port)) = found {
        ex.remote_addr = ip;
        ex.remote_port = port.unwrap_or(0);
    }
}

/// `1.2.3.4`, `1.2.3.4:5`, `::1`, `[::1]:5`
fn address(text: &[u8]) -> Option<(IpAddr, Option<u16>)> {
    let text = std::str::from_utf8(text).ok()?;
    if let Ok(ip) = text.parse() {
        return Some((ip, None));
    }
    let with_port: std::net::SocketAddr = text.parse().ok()?;
    Some((with_port.ip(), Some(with_port.port())))
}

/// X-Forwarded-Proto, -Host and -Port say what was seen here, unless a trusted peer said it before;
/// `Forwarded` goes (APISIX init.lua `handle_trusted_x_forwarded_headers`).
fn forwarded(core: &Core, ex: &mut Exchange) {
    let trusted = core.trusted.as_ref().map(|nets| nets.contains(ex.facts.peer.ip()));
    let port = ex.req.head.host().and_then(|host| host.port).unwrap_or(ex.facts.local.port());
    let headers = &mut ex.req.head.headers;
    let keeps = |headers: &crate::wire::headers::Headers, name: Name| {
        trusted == Some(true) && headers.get(name).is_some_and(|value| !value.is_empty())
    };
    if !keeps(headers, Name::XForwardedProto) {
        headers.put(Name::XForwardedProto, ex.facts.scheme.as_bytes());
    }
    if !keeps(headers, Name::XForwardedPort) {
        let mut text = itoa::Buffer::new();
        headers.put(Name::XForwardedPort, text.format(port).as_bytes());
    }
    if !keeps(headers, Name::XForwardedHost) {
        let (sent, host) = (&ex.req.http_host, &ex.req.host);
        headers.put(Name::XForwardedHost, if sent.is_empty() { host } else { sent });
    }
    if trusted != Some(true) && headers.has(Name::Forwarded) {
        headers.remove(Name::Forwarded);
    }
    if trusted == Some(false)
        && let Some(sent) = ex.header(b"x-forwarded-for").map(Cow::into_owned)
    {
        ex.req.head.headers.remove(Name::XForwardedFor);
        ex.set_var("original_x_forwarded_for", sent);
    }
}

/// Reads the body ahead of everything, for conditions that look into it.
pub async fn read_body(core: &Core, ex: &mut Exchange) -> Result<(), Reply> {
    let most = match core.config.max_post_args_readable_bytes {
        0 => usize::MAX, // client_max_body_size holds all the same
        most => usize::try_from(most).unwrap_or(usize::MAX),
    };
    let read = ex.req.body.read_ahead(most).await;
    let read = read.map_err(|error| client_body_error(ex, error))?;
    if read.is_none() {
        log::warn!("the request's body is longer than {most} bytes: conditions do not look into it");
    }
    ex.body_read = Some(Box::new(ReadBody::new(read.unwrap_or_default(), core.config.graphql_max_bytes)));
    Ok(())
}

/// The client's body ended before its end: it left (499), was too slow (408), or sent nonsense.
pub fn client_body_error(ex: &mut Exchange, error: BodyError) -> Reply {
    ex.close_client = true;
    match error {
        BodyError::Closed => {
            ex.resp.client_gone = true;
            Reply::page(499)
        }
        BodyError::Timeout => Reply::page(408),
        BodyError::Malformed => Reply::page(400),
        BodyError::TooLarge => Reply::page(413),
    }
}

/// Paths that the gateway answers itself, before routing.
pub async fn own_endpoint(core: &Core, ex: &mut Exchange) -> Result<(), Reply> {
    if !ex.req.path.starts_with(b"/apisix/") {
        return Ok(());
    }
    if ex.req.path == b"/apisix/nginx_status" {
        return Err(nginx_status(core, ex));
    }
    let admin = core.config.admin.as_ref().filter(|admin| admin.on_node_port);
    if admin.is_some_and(|admin| admin.listen.port() == ex.facts.local.port())
        && (ex.req.path == b"/apisix/admin" || ex.req.path.starts_with(b"/apisix/admin/"))
    {
        return Err(Box::pin(admin_call(core, ex)).await);
    }
    Ok(())
}

/// nginx's stub_status, for 127.0.0.0/24 alone.
fn nginx_status(core: &Core, ex: &mut Exchange) -> Reply {
    let IpAddr::V4(ip) = ex.remote_addr else { return Reply::page(403) };
    if ip.octets()[..3] != [127, 0, 0] {
        return Reply::page(403);
    }
    let text = core.host.metrics.borrow().stub_status();
    ex.resp.head.headers.set(b"Content-Type", b"text/plain");
    ex.resp.head.headers.put(Name::ContentLength, text.len().to_string().as_bytes());
    Reply { status: 200, body: ReplyBody::Text(text.into_bytes()) }
}

/// The Admin API on a proxy port: the call goes to control and its answer comes back by mail.
async fn admin_call(core: &Core, ex: &mut Exchange) -> Reply {
    let mut body = Vec::new();
    loop {
        match ex.req.body.piece().await {
            Ok(Some(piece)) => body.extend_from_slice(&piece),
            Ok(None) => break,
            Err(error) => return client_body_error(ex, error),
        }
        if body.len() > limits::ADMIN_BODY_BYTES {
            ex.close_client = true; // so much as tells the Admin API that it was too long
            break;
        }
    }
    let (answer, answered) = tokio::sync::oneshot::channel::<AdminAnswer>();
    let headers = ex.req.head.headers.iter();
    let call = AdminCall {
        method: String::from_utf8_lossy(ex.req.head.method_text()).into_owned(),
        target: String::from_utf8_lossy(ex.req.head.path()).into_owned(),
        headers: headers
            .map(|(n, v, _)| {
                (String::from_utf8_lossy(n).into_owned(), String::from_utf8_lossy(v).into_owned())
            })
            .collect(),
        body: Arc::from(body),
        peer: ex.remote_addr,
        answer,
    };
    if !core.tell_control(ToControl::Admin(Box::new(call))) {
        return Reply::page(503);
    }
    let Ok(answer) = answered.await else { return Reply::page(503) };
    for (name, value) in &answer.headers {
        ex.resp.head.headers.add(name.as_bytes(), value.as_bytes());
    }
    Reply { status: answer.status, body: ReplyBody::Text(answer.body) }
}

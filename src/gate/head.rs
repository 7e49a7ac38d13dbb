//! The head of the answer before it leaves (APISIX init.lua `http_header_filter_phase`, ngx_tpl.lua).

use std::net::SocketAddr;

use smallvec::SmallVec;

use super::{Core, taking_part};
use crate::exchange::{Body, Exchange, Source, Vars};
use crate::live::Plan;
use crate::plugin::Phase;
use crate::wire::Name;

/// Header filter: what the gateway sets, then global rules, then the route's plugins.
pub fn filter(core: &Core, ex: &mut Exchange) {
    ex.merge_early_headers();
    ex.resp.head.headers.put(Name::Server, core.server_header);
    upstream_status(core, ex);
    alternative(core, ex);
    charset(core, ex);
    grpc_status(ex);
    let (global, plan) = taking_part(ex, Phase::HeaderFilter);
    if let Some(global) = global {
        global.header_filter(ex, &core.host);
    }
    if let Some(plan) = plan {
        plan.chain.header_filter(ex, &core.host);
    }
    executed_plugins(ex);
    add_headers(core, ex);
    no_content(ex);
    ex.settle_encoding();
}

/// A 204 says nothing of a body; over HTTP/1 an upstream's own, whose reason is still there, passes as it came
/// (ngx_http_header_filter_module.c, ngx_http_v2_filter_module.c).
fn no_content(ex: &mut Exchange) {
    let head = &mut ex.resp.head;
    if head.status != 204 || (ex.req.head.version < 20 && !head.reason().is_empty()) {
        return;
    }
    for name in [Name::ContentType, Name::ContentLength, Name::LastModified] {
        head.headers.remove(name);
    }
}

/// `Apisix-Plugins`, in the basic debug mode.
fn executed_plugins(ex: &mut Exchange) {
    if ex.trace.is_none() {
        return;
    }
    if let Some(plan) = ex.plan.clone().and_then(|plan| plan.downcast::<Plan>().ok()) {
        plan.chain.foretell(ex);
    }
    if let Some(trace) = &mut ex.trace {
        let ran = trace.tell();
        ex.resp.head.headers.set(b"Apisix-Plugins", ran.as_bytes());
    }
}

/// `X-APISIX-Upstream-Status`: all tries' statuses, if the last is a 5xx or the option asks for it always.
fn upstream_status(core: &Core, ex: &mut Exchange) {
    let Some(last) = ex.upstream.attempts.last() else { return };
    if !core.config.show_upstream_status_in_response_header && !(500..600).contains(&last.status) {
        return;
    }
    if let Some(statuses) = ex.var("upstream_status") {
        let statuses = statuses.into_owned();
        ex.resp.head.headers.set(b"X-APISIX-Upstream-Status", &statuses);
    }
}

/// What the gateway refuses has a status that gRPC's clients understand, beside that of HTTP, and no body, of which
/// they would make a message (gRPC's PROTOCOL-HTTP2.md, Trailers-Only; http-grpc-status-mapping.md).
fn grpc_status(ex: &mut Exchange) {
    if ex.resp.source == Source::Upstream || ex.resp.head.status < 400 || ex.req.head.version < 20 {
        return;
    }
    let asked = ex.req.head.headers.get(Name::ContentType);
    if !asked.is_some_and(|value| value.starts_with(b"application/grpc")) {
        return;
    }
    let code: &[u8] = match ex.resp.head.status {
        400 => b"13",                   // INTERNAL
        401 => b"16",                   // UNAUTHENTICATED
        403 => b"7",                    // PERMISSION_DENIED
        404 => b"12",                   // UNIMPLEMENTED
        429 | 502 | 503 | 504 => b"14", // UNAVAILABLE
        _ => b"2",                      // UNKNOWN
    };
    let message = format!("HTTP status {}", ex.resp.head.status);
    let headers = &mut ex.resp.head.headers;
    headers.put(Name::ContentType, b"application/grpc");
    headers.remove(Name::ContentLength);
    headers.set(b"grpc-status", code);
    headers.set(b"grpc-message", message.as_bytes());
    ex.resp.body = Body::Empty;
}

/// `Alt-Svc` (RFC 7838): who came by TCP to an address that also serves HTTP/3 may come by that. nginx leaves it to
/// `add_header`; whoever sets it, an upstream or a plugin, is right.
fn alternative(core: &Core, ex: &mut Exchange) {
    let local = ex.facts.local;
    if ex.facts.tls.is_none() || ex.req.head.version == 30 || ex.resp.head.headers.has(Name::AltSvc) {
        return;
    }
    let served =
        |at: &SocketAddr| at.port() == local.port() && (at.ip() == local.ip() || at.ip().is_unspecified());
    if core.config.listen.http3.iter().any(served) {
        let mut value = SmallVec::<[u8; 32]>::from_slice(b"h3=\":");
        value.extend_from_slice(itoa::Buffer::new().format(local.port()).as_bytes());
        value.extend_from_slice(b"\"; ma=86400");
        ex.resp.head.headers.put(Name::AltSvc, &value);
    }
}

/// nginx's charset filter: `; charset=utf-8` behind the text types that have none.
fn charset(core: &Core, ex: &mut Exchange) {
    let Some(charset) = &core.charset else { return };
    let Some(value) = ex.resp.head.headers.get(Name::ContentType) else { return };
    const TEXT: [&[u8]; 6] = [
        b"text/html",
        b"text/xml",
        b"text/plain",
        b"text/vnd.wap.wml",
        b"application/javascript",
        b"application/rss+xml",
    ];
    // a value with parameters is longer than all of these, or not one of them
    if value.len() <= 24 && TEXT.iter().any(|known| value.eq_ignore_ascii_case(known)) {
        ex.resp.head.headers.lengthen(Name::ContentType, charset);
    }
}

/// `add_header` of the configuration snippets.
fn add_headers(core: &Core, ex: &mut Exchange) {
    for (name, template, always) in &core.add_headers {
        let fits = matches!(ex.resp.head.status, 200 | 201 | 204 | 206 | 301 | 302 | 303 | 304 | 307 | 308);
        if !fits && !always {
            continue;
        }
        let mut value = Vec::new();
        template.render(ex, &mut value);
        if !value.is_empty() {
            ex.resp.head.headers.add(name, &value);
        }
    }
}

//! The client role: a request on a stream of an upstream's connection, and the head of its answer.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri};

use super::fields::Fields;
use super::upload;
use crate::conn::h1::client::{NoAnswer, forwarded_for};
use crate::conn::trailers;
use crate::exchange::h2::{Call, Data, H2Body, Open, Upload};
use crate::exchange::{Body, BodyError, Exchange, Side, Source};
use crate::reactor::{self, Chunk};
use crate::wire::Name;
use crate::wire::headers::Names;

/// What an upstream that speaks HTTP/2 is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// gRPC without TLS.
    Grpc,
    /// gRPC.
    Grpcs,
    /// Anything.
    Https,
}

/// What a request's body is when its head is sent.
pub struct Begun<'a> {
    /// Its first bytes.
    pub bytes: &'a [u8],
    /// They are all of it.
    pub ended: bool,
    /// They are all that was taken of it so far: if the request is not answered it may be sent again.
    pub again: bool,
}

/// A request that is not answered yet.
pub struct Asked {
    response: ResponseFuture,
    /// Where the body has ended nothing more is sent, but the stream is reset by dropping it.
    _stream: Option<SendStream<Data>>,
    upload: Option<Rc<Upload>>,
    open: Open,
}

/// Why there is no answer.
pub enum Missed {
    /// The upstream's fault. `unseen`: it says that it has not looked at the request, which may be sent again.
    Upstream(NoAnswer, bool),
    /// The client's body broke off.
    Body(BodyError),
}

/// Sends the head, what there is of the body, and goes on with the rest while the answer is awaited.
pub async fn ask(
    (sender, open): (SendRequest<Data>, Open),
    ex: &mut Exchange,
    kind: Kind,
    begun: Begun<'_>,
    send_ms: u32,
) -> Result<Asked, Missed> {
    let head = head(ex, kind, &begun)
        .ok_or(Missed::Upstream(NoAnswer::Invalid("no valid :authority or :path"), false))?;
    let mut sender = sender.ready().await.map_err(unsent)?;
    let may_have_trailers = !begun.ended || ex.req.body.trailers().is_some();
    let kept = if may_have_trailers { trailers::kept_from_upstream(ex) } else { Names::default() };
    let trailers = trailers::without(&kept, &ex.req.body).next().is_some();
    let bare = begun.ended && begun.bytes.is_empty() && !trailers;
    let (response, mut stream) = sender.send_request(head, bare).map_err(unsent)?;
    if bare {
        return Ok(Asked { response, _stream: Some(stream), upload: None, open });
    }
    if !begun.bytes.is_empty() {
        let data = Data(Chunk::from_vec(begun.bytes.to_vec()));
        stream.send_data(data, begun.ended && !trailers).map_err(missed)?;
    }
    if begun.ended {
        if trailers {
            upload::end(&mut stream, &ex.req.body, &kept);
        }
        return Ok(Asked { response, _stream: Some(stream), upload: None, open });
    }
    let again = begun.again.then(Vec::new);
    let running = Rc::new(Upload::new(std::mem::take(&mut ex.req.body), again));
    upload::begin(&running, stream, kept, send_ms);
    Ok(Asked { response, _stream: None, upload: Some(running), open })
}

/// Waits for the head of the answer and makes it `ex.resp`. Interim answers are left out.
pub async fn answer(asked: Asked, ex: &mut Exchange, read_ms: u32) -> Result<(), Missed> {
    let Asked { mut response, _stream, upload, open } = asked;
    // from now on the exchange ends the upload, whatever comes
    ex.call = Some(Call { upload: upload.clone(), open });
    let mut timer = reactor::sleep_until(reactor::now_ms() + u64::from(read_ms));
    let answered = std::future::poll_fn(|cx| {
        if let Poll::Ready(answered) = Pin::new(&mut response).poll(cx) {
            return Poll::Ready(answered.map_err(missed));
        }
        if ex.client.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(Missed::Upstream(NoAnswer::ClientGone, false)));
        }
        Pin::new(&mut timer).poll(cx).map(|()| Err(Missed::Upstream(NoAnswer::Timeout, false)))
    })
    .await;
    let response = match answered {
        Ok(response) => response,
        Err(missed) => {
            let Some(upload) = &upload else { return Err(missed) };
            if upload.is_late() {
                return Err(Missed::Upstream(NoAnswer::Timeout, false));
            }
            return Err(upload.failure().map_or(missed, Missed::Body));
        }
    };
    if let Some(upload) = upload {
        upload.forget();
    }
    let (parts, body) = response.into_parts();
    let fields = parts.headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
    ex.resp.head.assemble(parts.status.as_u16(), fields);
    ex.resp.source = Source::Upstream;
    ex.resp.answered = true;
    if !body.is_end_stream() {
        let length = ex.resp.head.headers.get(Name::ContentLength);
        let length = length.and_then(|length| std::str::from_utf8(length).ok()?.parse().ok());
        ex.resp.body = Body::H2(Box::new(H2Body::new(body, length, Side::Upstream, read_ms)));
    }
    Ok(())
}

/// The head as it goes upstream: what the `grpc_set_header` or `proxy_set_header` lines of APISIX's template make of it,
/// then the client's own fields (ngx_tpl.lua). `None`: HTTP/2 cannot carry its host or path.
fn head(ex: &Exchange, kind: Kind, begun: &Begun<'_>) -> Option<Request<()>> {
    let head = &ex.req.head;
    let mut parts = http::uri::Parts::default();
    // one buffer for all values, so long that it need not grow: the text of the client's head counts the names, too, which
    // are not copied into it, and their bytes with 128 more are room for the fields that the gateway adds
    let mut fields = Fields::with_room(head.headers.len(), head.headers.text().len() + 128);
    let host = ex.out.host.as_deref().unwrap_or(&ex.req.http_host);
    // a client of HTTP/1.0 may have named none, so neither do we (RFC 9113 section 8.3.1)
    if !host.is_empty() {
        parts.scheme = Some(if kind == Kind::Grpc { Scheme::HTTP } else { Scheme::HTTPS });
        parts.authority = Some(Authority::from_maybe_shared(fields.text(host)).ok()?);
    }
    let path = ex.out.uri.as_deref().unwrap_or(head.path());
    parts.path_and_query = Some(PathAndQuery::from_maybe_shared(fields.text(path)).ok()?);
    let grpc = kind != Kind::Https;
    if grpc {
        fields.add(Name::ContentType, b"", b"application/grpc");
        fields.add(Name::Te, b"", b"trailers");
    } else {
        let mut address = Vec::new();
        ex.write_remote_addr(&mut address);
        fields.add(Name::XRealIp, b"", &address);
        fields.add(Name::XForwardedFor, b"", &forwarded_for(ex));
        if let Some(length) = length(ex, begun) {
            fields.add(Name::ContentLength, b"", itoa::Buffer::new().format(length).as_bytes());
        }
    }
    for (name, value, id) in head.headers.iter() {
        match id {
            Name::ContentType if grpc => {}
            Name::XRealIp | Name::XForwardedFor if !grpc => {}
            Name::Host | Name::Te | Name::Expect => {}
            Name::Connection | Name::KeepAlive | Name::ProxyConnection => {}
            Name::TransferEncoding | Name::Upgrade | Name::Http2Settings => {}
            // a plugin may have changed the body
            Name::ContentLength => {}
            _ => fields.add(id, name, value),
        }
    }
    let mut request = Request::new(()); // of HTTP/1.1, for which the crate wants no host
    *request.method_mut() =
        Method::from_bytes(ex.out.method.as_deref().unwrap_or(head.method_text())).ok()?;
    *request.uri_mut() = Uri::from_parts(parts).ok()?;
    *request.headers_mut() = fields.map();
    Some(request)
}

/// The length of the body, where it has one that is known.
fn length(ex: &Exchange, begun: &Begun<'_>) -> Option<u64> {
    let held = begun.bytes.len() as u64;
    match begun.ended {
        true => (held > 0 || ex.req.head.headers.has(Name::ContentLength)).then_some(held),
        false => ex.req.body.known_length().map(|left| held + left),
    }
}

/// The connection opens no stream: nothing was sent.
fn unsent(error: h2::Error) -> Missed {
    Missed::Upstream(NoAnswer::Broken(io::Error::other(error)), true)
}

/// What went wrong, and whether the upstream has seen the request. It has not if it refuses the stream, or goes away and names one
/// that was before it as the last, whatever its reason (RFC 9113 sections 6.8 and 8.7).
fn missed(error: h2::Error) -> Missed {
    let unseen = error.reason() == Some(Reason::REFUSED_STREAM) || (error.is_go_away() && error.is_remote());
    Missed::Upstream(NoAnswer::Broken(io::Error::other(error)), unseen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::h1::tests::exchange;

    #[test]
    fn a_head_has_what_the_template_sets_and_of_the_clients_fields_those_of_no_connection() {
        let mut ex = exchange();
        let headers = &mut ex.req.head.headers;
        for name in ["Host", "Expect", "Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding"] {
            headers.add(name.as_bytes(), b"x");
        }
        for name in ["Upgrade", "HTTP2-Settings", "TE", "X-Real-IP", "X-Forwarded-For"] {
            headers.add(name.as_bytes(), b"1.1.1.1");
        }
        for (name, value) in
            [("Content-Type", "text/plain"), ("Content-Length", "9"), ("X-A", "1"), ("X-A", "2")]
        {
            headers.add(name.as_bytes(), value.as_bytes());
        }
        ex.out.method = Some(Box::from(&b"POST"[..]));
        ex.out.uri = Some(b"/path".to_vec());
        ex.remote_addr = [9, 8, 7, 6].into(); // as `real_ip_header` says
        let grpc = [
            "content-type: application/grpc",
            "te: trailers",
            "x-a: 1",
            "x-a: 2",
            "x-forwarded-for: 1.1.1.1",
            "x-real-ip: 1.1.1.1",
        ];
        let https = [
            "content-length: 4",
            "content-type: text/plain",
            "x-a: 1",
            "x-a: 2",
            "x-forwarded-for: 1.1.1.1, 9.8.7.6",
            "x-real-ip: 9.8.7.6",
        ];
        for (kind, host, uri, fields) in [
            (Kind::Grpc, "a.test", "http://a.test/path", grpc),
            (Kind::Grpcs, "a.test", "https://a.test/path", grpc),
            (Kind::Https, "a.test:1", "https://a.test:1/path", https),
            (Kind::Https, "", "/path", https),
        ] {
            ex.out.host = Some(host.into());
            let request = head(&ex, kind, &Begun { bytes: b"body", ended: true, again: true }).unwrap();
            assert_eq!(
                (request.method(), request.uri().to_string().as_str()),
                (&Method::POST, uri),
                "{kind:?}"
            );
            let field = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
                format!("{name}: {}", value.to_str().unwrap())
            };
            let mut got: Vec<String> = request.headers().iter().map(field).collect();
            got.sort();
            assert_eq!(got, fields, "{kind:?}");
        }
        ex.out.host = Some(b"no host".to_vec());
        assert!(head(&ex, Kind::Https, &Begun { bytes: b"", ended: true, again: true }).is_none());
    }
}

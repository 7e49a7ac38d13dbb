//! From a request to a WebSocket (RFC 6455 section 4.2), with the checks and words of lua-resty-websocket, which APISIX
//! uses. An extended CONNECT of HTTP/2 is the same request by then.

use crate::exchange::{Exchange, Reply};
use crate::wire::Name;
use crate::wire::headers::Headers;
use crate::wire::websocket::accept_key;

/// Makes `101 Switching Protocols` the answer of `ex`, or says why not: 400 (apisix/pubsub/kafka.lua).
pub fn accept(ex: &mut Exchange) -> Result<(), Reply> {
    let version = if ex.req.connects { 11 } else { ex.req.head.version };
    let key = check(version, ex.req_headers()).map_err(|reason| {
        log::error!("failed to initialize pubsub module, err: {reason}");
        Reply::page(400)
    })?;
    let protocols = ex.req_headers().get_named(b"sec-websocket-protocol").map(<[u8]>::to_vec);
    let head = &mut ex.resp.head;
    head.clear();
    head.status = 101;
    if let Some(protocols) = protocols {
        head.headers.set(b"Sec-WebSocket-Protocol", &protocols);
    }
    head.headers.put(Name::Upgrade, b"websocket");
    head.headers.put(Name::SecWebsocketAccept, key.as_bytes());
    ex.resp.upgrade = true;
    Ok(())
}

/// The answer to the client's key.
fn check(version: u8, headers: &Headers) -> Result<String, String> {
    if version != 11 {
        return Err("bad http version".into());
    }
    let shown = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    match headers.get(Name::Upgrade) {
        Some(value) if value.eq_ignore_ascii_case(b"websocket") => {}
        value => {
            return Err(format!("bad \"upgrade\" request header: {}", value.map_or("nil".into(), shown)));
        }
    }
    let asks = |value: &[u8]| value.to_ascii_lowercase().windows(7).any(|part| part == b"upgrade");
    if !headers.get(Name::Connection).is_some_and(asks) {
        return Err("bad \"connection\" request header".into());
    }
    let key = headers.get(Name::SecWebsocketKey).ok_or("bad \"sec-websocket-key\" request header")?;
    if headers.get(Name::SecWebsocketVersion) != Some(b"13") {
        return Err("bad \"sec-websocket-version\" request header".into());
    }
    Ok(accept_key(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: [(&str, &str); 4] = [
        ("Upgrade", "WebSocket"),
        ("Connection", "keep-alive, Upgrade"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
    ];

    /// What is said to a request with `name` changed.
    fn said(version: u8, name: &str, value: Option<&str>) -> Result<String, String> {
        let mut headers = Headers::default();
        for (known, usual) in HEAD {
            match (known == name, value) {
                (false, _) => headers.add(known.as_bytes(), usual.as_bytes()),
                (true, Some(value)) => headers.add(known.as_bytes(), value.as_bytes()),
                (true, None) => false,
            };
        }
        check(version, &headers)
    }

    #[test]
    fn the_words_are_lua_resty_websocket_s() {
        assert_eq!(said(11, "", None).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let connection = "bad \"connection\" request header";
        for (name, value, expected) in [
            ("Upgrade", None, "bad \"upgrade\" request header: nil"),
            ("Upgrade", Some("h2c"), "bad \"upgrade\" request header: h2c"),
            ("Connection", None, connection),
            ("Connection", Some("close"), connection),
            ("Sec-WebSocket-Key", None, "bad \"sec-websocket-key\" request header"),
            ("Sec-WebSocket-Version", None, "bad \"sec-websocket-version\" request header"),
            ("Sec-WebSocket-Version", Some("8"), "bad \"sec-websocket-version\" request header"),
        ] {
            assert_eq!(said(11, name, value).unwrap_err(), expected, "{name}: {value:?}");
        }
        assert_eq!(said(10, "", None).unwrap_err(), "bad http version");
    }
}

//! One HTTP call of the control thread, on a connection of its own: secrets, OCSP.

use std::sync::Arc;

use http_body_util::{BodyExt, Limited};
use hyper::Request;
use hyper::body::{Body, Bytes};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::model::address::{split_address, without_brackets};
use crate::transport::trust;

/// Status and body of the answer, which is read up to `most` bytes. Whoever calls has a limit of time around it.
///
/// # Errors
/// What went wrong with the connection, TLS or HTTP.
pub async fn call<B>(
    place: &Place<'_>,
    request: Request<B>,
    tls: &Arc<ClientConfig>,
    most: usize,
) -> Result<(u16, Bytes), String>
where
    B: Body<Data = Bytes, Error = std::convert::Infallible> + Send + 'static,
{
    let stream = TcpStream::connect((place.host, place.port)).await.map_err(|error| error.to_string())?;
    if !place.is_tls {
        return exchange(stream, request, most).await;
    }
    let name = trust::server_name(place.host).ok_or("its uri names no server")?;
    let stream = TlsConnector::from(tls.clone()).connect(name, stream).await;
    exchange(stream.map_err(|error| error.to_string())?, request, most).await
}

async fn exchange<S, B>(stream: S, request: Request<B>, most: usize) -> Result<(u16, Bytes), String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    B: Body<Data = Bytes, Error = std::convert::Infallible> + Send + 'static,
{
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    tokio::spawn(connection); // ends with its sender
    let answer = sender.send_request(request).await.map_err(text)?;
    let status = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), most).collect().await;
    Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
}

/// Where a server is.
#[derive(Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// `https`
    pub is_tls: bool,
    /// As in the URI, for the Host header.
    pub authority: &'a str,
    /// Without the brackets of an IPv6 address.
    pub host: &'a str,
    /// As written, or the scheme's.
    pub port: u16,
    /// With its arguments; empty where there is none.
    pub path: &'a str,
}

impl Place<'_> {
    /// Where `uri` points; `None` if it is not one of http or https.
    pub fn of(uri: &str) -> Option<Place<'_>> {
        let (scheme, rest) = uri.split_once("://")?;
        let is_tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = split_address(authority);
        let port = match port {
            Some(port) => port.parse().ok()?,
            None if is_tls => 443,
            None => 80,
        };
        let host = without_brackets(host);
        (!host.is_empty()).then_some(Place { is_tls, authority, host, port, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let place = Place::of("http://127.0.0.1:8200").unwrap();
        assert_eq!((place.is_tls, place.host, place.port, place.path), (false, "127.0.0.1", 8200, ""));
        let place = Place::of("https://[::1]/mock").unwrap();
        assert_eq!((place.is_tls, place.host, place.port, place.path), (true, "::1", 443, "/mock"));
        assert_eq!(place.authority, "[::1]");
        for bad in ["vault:8200", "ftp://a", "http://", "http://a:port"] {
            assert_eq!(Place::of(bad), None, "{bad}");
        }
    }
}

//! One active probe: connect, and for http and https send a request and read the status line
//! (lua-resty-healthcheck, `run_single_check`).

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::limits;
use crate::transport::trust;
use crate::upstream::health::{Checks, ProbeType, Report, TargetAddress};

/// TLS of https probes, with and without a look at the certificate.
#[derive(Clone)]
pub struct ProbeTls {
    /// For `https_verify_certificate: true`.
    pub verified: Arc<ClientConfig>,
    /// For `https_verify_certificate: false`.
    pub unverified: Arc<ClientConfig>,
}

/// Probes `target` once. Takes at most three times the configured timeout: to connect, to shake hands and
/// to get an answer.
pub async fn check(checks: &Checks, target: &TargetAddress, tls: &ProbeTls) -> Report {
    let active = &checks.active;
    // A timeout of 0 or of nonsense would make every node time out.
    let limit = Duration::try_from_secs_f64(active.timeout).unwrap_or(Duration::from_secs(1));
    let Ok(ip) = target.ip.parse::<IpAddr>() else { return Report::TcpFailure };
    let stream = match timeout(limit, TcpStream::connect((ip, target.port))).await {
        Err(_) => return Report::Timeout,
        Ok(Err(_)) => return Report::TcpFailure,
        Ok(Ok(stream)) => stream,
    };
    match active.kind {
        ProbeType::Tcp => Report::Connected,
        ProbeType::Http => answer(stream, &request(checks, target), limit).await,
        ProbeType::Https => {
            let verify = active.https_verify_certificate;
            let config = if verify { &tls.verified } else { &tls.unverified };
            let Some(name) = trust::server_name(&target.host_header) else { return Report::TcpFailure };
            let handshake = TlsConnector::from(Arc::clone(config)).connect(name, stream);
            match timeout(limit, handshake).await {
                Ok(Ok(stream)) => answer(stream, &request(checks, target), limit).await,
                failed => {
                    let reason = match failed {
                        Ok(Err(error)) => error.to_string(),
                        _ => "timeout".to_owned(),
                    };
                    log::error!(
                        "failed SSL handshake with '{} ({}:{})', using server name (sni) '{}': {reason}",
                        target.hostname,
                        target.ip,
                        target.port,
                        target.host_header
                    );
                    Report::TcpFailure
                }
            }
        }
    }
}

/// The request's bytes.
fn request(checks: &Checks, target: &TargetAddress) -> Vec<u8> {
    let active = &checks.active;
    let mut head = format!("{} {} HTTP/1.1\r\nConnection: close\r\n", active.http_method, active.http_path);
    for line in &active.req_headers {
        head.push_str(line);
        head.push_str("\r\n");
    }
    if !active.http_req_body.is_empty() {
        head.push_str(&format!("Content-Length: {}\r\n", active.http_req_body.len()));
    }
    head.push_str(&format!("Host: {}\r\n\r\n{}", target.host_header, active.http_req_body));
    head.into_bytes()
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, request: &[u8], limit: Duration) -> Report {
    match timeout(limit, exchange(stream, request)).await {
        Err(_) => Report::Timeout,
        Ok(Err(_)) => Report::TcpFailure,
        Ok(Ok(line)) => Report::Http(status(&line).unwrap_or(0)),
    }
}

/// Sends the request and reads up to the end of the first line.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(request).await?;
    stream.flush().await?;
    let mut line = Vec::new();
    let mut chunk = [0; 512];
    while line.len() < limits::PROBE_STATUS_LINE {
        let read = stream.read(&mut chunk).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.extend_from_slice(&chunk[..read]);
        if let Some(end) = memchr::memchr(b'\n', &line) {
            line.truncate(end);
            return Ok(line);
        }
    }
    Ok(line)
}

/// The status of `HTTP/x.y nnn …`.
fn status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/")?;
    let text = std::str::from_utf8(rest).ok()?;
    let (version, rest) = text.split_once([' ', '\t'])?;
    let (major, minor) = version.split_once('.')?;
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(major) || !digits(minor) {
        return None;
    }
    let rest = rest.trim_start();
    let end = rest.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_status_line_is_read_as_apisix_reads_it() {
        for (line, expected) in [
            ("HTTP/1.1 200 OK\r", Some(200)),
            ("HTTP/1.0 503\r", Some(503)),
            ("HTTP/2.0   404 x", Some(404)),
            ("HTTP/1 200 OK", None),
            ("SSH-2.0-OpenSSH", None),
            ("HTTP/1.1 abc", None),
            ("HTTP/1.1 99999999", None),
        ] {
            assert_eq!(status(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn the_request_carries_what_the_operator_wrote() {
        let checks = Checks::parse(&json!({"active": {
            "http_method": "POST", "http_path": "/s?x=1", "http_req_body": "hi",
            "req_headers": ["User-Agent: probe", "X: 1"]
        }}))
        .unwrap();
        let target = TargetAddress {
            ip: "127.0.0.1".into(),
            port: 80,
            hostname: "127.0.0.1".into(),
            host_header: "a.example".into(),
        };
        assert_eq!(
            String::from_utf8(request(&checks, &target)).unwrap(),
            "POST /s?x=1 HTTP/1.1\r\nConnection: close\r\nUser-Agent: probe\r\nX: 1\r\n\
             Content-Length: 2\r\nHost: a.example\r\n\r\nhi"
        );
    }
}

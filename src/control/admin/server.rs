//! The HTTP server under the Admin, Control, status and metrics APIs: HTTP/1.1 with keep-alive on the control
//! thread, bounded in connections, bodies and time.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, SERVER};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::message::{AdminRequest, AdminResponse};
use super::tls::AdminAcceptor;
use crate::limits;

/// How a listener is served.
#[derive(Clone)]
pub struct Service {
    /// `Server` of every answer.
    pub name: &'static str,
    /// The largest body that is read, bytes.
    pub body_bytes: usize,
    /// TLS, where it is served.
    pub tls: Option<AdminAcceptor>,
}

impl Service {
    /// With the limits of the Admin API.
    pub fn new(name: &'static str) -> Service {
        Service { name, body_bytes: limits::ADMIN_BODY_BYTES, tls: None }
    }
}

/// Serves `handle` on a listener, for ever. A connection too many waits to be accepted.
pub async fn serve<H, F>(listener: TcpListener, slots: Arc<Semaphore>, service: Service, handle: H)
where
    H: Fn(AdminRequest) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = AdminResponse> + Send + 'static,
{
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors: the next try would fail as fast.
                log::error!("the admin server cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (service, handle) = (service.clone(), handle.clone());
        tokio::spawn(async move {
            let result = match &service.tls {
                None => {
                    let peer = Peer { ip: peer.ip(), server_name: None, is_known: true };
                    talk(stream, &peer, &service, handle).await
                }
                Some(tls) => secured(stream, peer.ip(), &service, tls, handle).await,
            };
            if let Err(error) = result {
                log::debug!("an admin connection from {peer} ended: {error}");
            }
            drop(slot);
        });
    }
}

/// Who is at the other end of a connection.
struct Peer {
    ip: IpAddr,
    /// The name asked for, over TLS.
    server_name: Option<Arc<str>>,
    /// Has shown a certificate, where one is needed.
    is_known: bool,
}

/// One connection over TLS.
async fn secured<H, F>(
    stream: TcpStream,
    ip: IpAddr,
    service: &Service,
    tls: &AdminAcceptor,
    handle: H,
) -> Result<(), String>
where
    H: Fn(AdminRequest) -> F + Clone,
    F: Future<Output = AdminResponse>,
{
    let patience = Duration::from_millis(limits::ADMIN_PATIENCE_MS);
    let handshake = tokio::time::timeout(patience, tls.acceptor.accept(stream)).await;
    let stream = handshake.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    let session = stream.get_ref().1;
    let peer = Peer {
        ip,
        server_name: session.server_name().map(Arc::from),
        is_known: !tls.needs_certificate || session.peer_certificates().is_some(),
    };
    talk(stream, &peer, service, handle).await
}

/// The requests of one connection. A peer that is not known gets 400.
async fn talk<S, H, F>(stream: S, peer: &Peer, service: &Service, handle: H) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(AdminRequest) -> F + Clone,
    F: Future<Output = AdminResponse>,
{
    let respond = service_fn(|request| {
        let handle = handle.clone();
        async move {
            Ok::<_, Infallible>(match peer.is_known {
                true => respond(request, peer, service, handle).await,
                false => encode(super::page(400), service),
            })
        }
    });
    hyper::server::conn::http1::Builder::new()
        .title_case_headers(true)
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(limits::ADMIN_PATIENCE_MS))
        .serve_connection(TokioIo::new(stream), respond)
        .await
        .map_err(|error| error.to_string())
}

async fn respond<H, F>(
    request: Request<Incoming>,
    peer: &Peer,
    service: &Service,
    handle: H,
) -> Response<Full<Bytes>>
where
    H: Fn(AdminRequest) -> F,
    F: Future<Output = AdminResponse>,
{
    let (head, body) = request.into_parts();
    let patience = Duration::from_millis(limits::ADMIN_PATIENCE_MS);
    let body = match tokio::time::timeout(patience, read(body, service.body_bytes + 1)).await {
        Ok(Some(body)) => body,
        Ok(None) => return encode(AdminResponse::empty(400), service),
        Err(_) => return encode(AdminResponse::empty(408), service),
    };
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let (method, headers, server_name) = (head.method, head.headers, peer.server_name.clone());
    let request = AdminRequest { method, target, headers, body, peer: peer.ip, server_name };
    encode(handle(request).await, service)
}

/// One byte more than allowed is kept, so that the API can say what was wrong. As much again is read and
/// dropped: a client that is still sending would not see an answer that comes before its end.
async fn read(mut body: Incoming, most: usize) -> Option<Bytes> {
    let mut kept = BytesMut::new();
    let mut seen = 0;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            seen += data.len();
            kept.extend_from_slice(&data[..data.len().min(most - kept.len())]);
        }
        if seen > 2 * most {
            break;
        }
    }
    Some(kept.freeze())
}

fn encode(answer: AdminResponse, service: &Service) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(SERVER, HeaderValue::from_static(service.name));
    for (name, value) in answer.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), value.parse()) {
            headers.insert(name, value);
        }
    }
    headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::config::AdminTls;
    use crate::control::store::tests::block_on;

    /// What a server that echoes method, target and body's size answers to these bytes.
    async fn talk(bytes: &[u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(
            listener,
            Arc::new(Semaphore::new(4)),
            Service::new("APISIX"),
            |request| async move {
                let text = format!("{} {} {}", request.method, request.target, request.body.len());
                AdminResponse::text(200, text)
            },
        ));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        server.abort();
        answer
    }

    #[test]
    fn requests_follow_each_other_on_one_connection() {
        let answer = block_on(talk(
            b"PUT /a?b=c HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}GET /d HTTP/1.1\r\nHost: x\r\n\
              Connection: close\r\n\r\n",
        ));
        assert!(answer.contains("PUT /a?b=c 2") && answer.contains("GET /d 0"), "{answer}");
        assert!(answer.contains("Server: APISIX\r\n"), "{answer}");
    }

    /// On a clock that jumps to the next deadline: what a client gets that sends this and then nothing, and when.
    async fn wait_for(bytes: &[u8]) -> (String, Duration) {
        let (mut client, server) = tokio::io::duplex(4096);
        let service = Service::new("APISIX");
        tokio::spawn(async move {
            let peer = Peer { ip: [127, 0, 0, 1].into(), server_name: None, is_known: true };
            let answer = |_| async { AdminResponse::empty(200) };
            let _ = super::talk(server, &peer, &service, answer).await;
        });
        client.write_all(bytes).await.unwrap();
        let (mut answer, began) = (String::new(), tokio::time::Instant::now());
        client.read_to_string(&mut answer).await.unwrap();
        (answer, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_is_not_waited_for_without_end() {
        let patience = Duration::from_millis(limits::ADMIN_PATIENCE_MS);
        for (sent, answer) in [
            ("", ""),
            ("GET / HTTP/1.1\r\nHost: x\r\n", ""),
            ("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf", "HTTP/1.1 408 "),
        ] {
            let (got, took) = wait_for(sent.as_bytes()).await;
            assert!(got.starts_with(answer), "{sent:?} got {got:?}");
            assert!(took >= patience && took < 3 * patience, "{sent:?}: {took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_handshake_that_does_not_go_on_is_not_waited_for_without_end() {
        let pem = |name: &str| format!("{}/src/transport/tests/{name}", env!("CARGO_MANIFEST_DIR")).into();
        let files = AdminTls { cert: pem("server.pem"), key: pem("server.key.pem"), client_ca: None };
        let tls = super::super::tls::acceptor(&files).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let (service, began) = (Service::new("APISIX"), tokio::time::Instant::now());
        let answer = |_| async { AdminResponse::empty(200) };
        assert!(secured(stream, peer.ip(), &service, &tls, answer).await.is_err());
        let patience = Duration::from_millis(limits::ADMIN_PATIENCE_MS);
        assert!(began.elapsed() >= patience && began.elapsed() < 2 * patience, "{:?}", began.elapsed());
    }

    #[test]
    fn a_body_that_breaks_off_is_refused() {
        let answer =
            block_on(talk(b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n"));
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }

    #[test]
    fn a_body_beyond_the_limit_is_not_kept() {
        let mut request = format!(
            "PUT / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            limits::ADMIN_BODY_BYTES + 10
        )
        .into_bytes();
        request.resize(request.len() + limits::ADMIN_BODY_BYTES + 10, b'x');
        let answer = block_on(talk(&request));
        assert!(answer.ends_with(&format!("PUT / {}", limits::ADMIN_BODY_BYTES + 1)), "{answer}");
    }
}

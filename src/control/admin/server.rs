//! The HTTP server under the Admin, Control, status and metrics APIs: HTTP/1.1 with keep-alive on the control
//! thread, bounded in connections, bodies and time.

use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, SERVER};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::message::{AdminRequest, AdminResponse};
use crate::limits;

/// Binds an address.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|e| format!("cannot listen on {address}: {e}"))
}

/// Serves `handle` on a listener, for ever. A connection too many waits to be accepted.
pub async fn serve<H, F>(listener: TcpListener, slots: Arc<Semaphore>, handle: H)
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
        let handle = handle.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let handle = handle.clone();
                async move { Ok::<_, Infallible>(respond(request, peer.ip(), handle).await) }
            });
            let result = hyper::server::conn::http1::Builder::new()
                .title_case_headers(true)
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_millis(limits::ADMIN_PATIENCE_MS))
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = result {
                log::debug!("an admin connection from {peer} ended: {error}");
            }
            drop(slot);
        });
    }
}

async fn respond<H, F>(request: Request<Incoming>, peer: IpAddr, handle: H) -> Response<Full<Bytes>>
where
    H: Fn(AdminRequest) -> F,
    F: Future<Output = AdminResponse>,
{
    let (head, body) = request.into_parts();
    // One byte more than allowed is read, so that the API can say what was wrong.
    let body = Limited::new(body, limits::ADMIN_BODY_BYTES + 1).collect();
    let body = match tokio::time::timeout(Duration::from_millis(limits::ADMIN_PATIENCE_MS), body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Bytes::from(vec![0; limits::ADMIN_BODY_BYTES + 1])
        }
        Ok(Err(_)) => return encode(AdminResponse::empty(400)),
        Err(_) => return encode(AdminResponse::empty(408)),
    };
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let request = AdminRequest { method: head.method, target, headers: head.headers, body, peer };
    encode(handle(request).await)
}

fn encode(answer: AdminResponse) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(SERVER, HeaderValue::from_static(super::SERVER));
    for (name, value) in answer.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), value.parse()) {
            headers.insert(name, value);
        }
    }
    headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

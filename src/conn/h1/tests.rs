//! What depends on the order in which two peers are heard, each on both drivers.

use std::future::poll_fn;
use std::io::{ErrorKind, Write};
use std::net::{TcpListener, TcpStream as Blocking};
use std::rc::Rc;
use std::task::Poll;

use super::answer;
use crate::conn::{Gate, Settings, Switched, h2, h3};
use crate::exchange::body::H1Body;
use crate::exchange::{Body, BodyPiece, Client, Exchange, Facts, Side, Source};
use crate::reactor::{self, TcpStream};
use crate::transport::Stream;
use crate::transport::tests::on_both;
use crate::wire::http::Framing;
use crate::wire::http::head::RequestLimits;

/// A connection of ours, and its other end in the test's hands.
pub(super) async fn pair() -> (Rc<Stream>, Blocking) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = TcpStream::connect(listener.local_addr().unwrap(), 1000).await.unwrap();
    (Rc::new(Stream::Plain(tcp)), listener.accept().unwrap().0)
}

/// A request of HTTP/1.1 that has been read.
pub(in crate::conn) fn exchange() -> Exchange {
    let at = |port| ([127, 0, 0, 1], port).into();
    let mut ex = Exchange::new(Rc::new(Facts::new(at(40_000), at(9080), "http", 1)), Client::None, 0);
    ex.req.head.version = 11;
    ex
}

/// No plugins, no draining.
pub(super) struct Plain(Settings);

impl Plain {
    pub(super) fn new() -> Self {
        Plain(Settings {
            keepalive_ms: 1000,
            keepalive_requests: 1000,
            header_ms: 1000,
            body_ms: 1000,
            send_ms: 1000,
            max_body_bytes: 0,
            head: RequestLimits::default(),
            http2: false,
        })
    }
}

impl Gate for Plain {
    fn take(&self, facts: &Rc<Facts>, client: Client) -> Box<Exchange> {
        Box::new(Exchange::new(facts.clone(), client, 0))
    }
    fn give_back(&self, _: Box<Exchange>) {}
    fn reads(&self, _: bool) {}
    fn settings(&self) -> &Settings {
        &self.0
    }
    async fn handle(&self, _: &mut Exchange) {}
    fn refuse(&self, _: &mut Exchange, _: u16) {}
    fn filter_body(&self, _: &mut Exchange, _: &mut BodyPiece) {}
    fn filters_body(&self, _: &Exchange) -> bool {
        false
    }
    async fn switched(&self, _: &mut Exchange, _: Switched) {}
    fn finish(&self, _: &mut Exchange) {}
    fn panicked(&self) {}
    fn saw(&self, _: h2::Event) {}
    fn saw_h3(&self, _: h3::Event) {}
    fn is_draining(&self) -> bool {
        false
    }
    fn closes_idle(&self) -> bool {
        false
    }
}

/// The client is still there, so only the failed send tells.
#[test]
fn an_answer_ends_when_its_client_cannot_be_written_to() {
    on_both(async || {
        let (client, _far) = pair().await;
        let (upstream, mut feeder) = pair().await;
        let mut ex = exchange();
        ex.resp.head.status = 200;
        ex.resp.source = Source::Upstream;
        let body = H1Body::new(upstream, Framing::Chunked, None, Side::Upstream, 10_000);
        ex.resp.body = Body::H1(body);
        client.shutdown_write();
        feeder.write_all(b"1\r\na\r\n").unwrap();
        let failed = client.clone();
        reactor::spawn(async move {
            poll_fn(|cx| match failed.sent() {
                Err(_) => Poll::Ready(()),
                Ok(()) => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            })
            .await;
            feeder.write_all(b"1\r\nb\r\n1\r\nc\r\n0\r\n\r\n").unwrap();
        });
        let written = answer::write(&Plain::new(), &client, &mut ex, true).await;
        assert_eq!(written.unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert!(ex.resp.body_bytes < 3, "the rest of the body is left where it is");
    });
}

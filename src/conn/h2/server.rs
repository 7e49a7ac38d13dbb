//! The life of a client's connection: its streams begin here, each as a task of its own, and its end is decided here:
//! idle too long, served enough, the gateway drains, or the client misbehaves.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::Reason;
use h2::server::{Builder, Connection, Handshake};

use super::duplex::{Duplex, Wire};
use super::{Event, stream};
use crate::conn::deadline::Deadline;
use crate::conn::streams::Streams;
use crate::conn::{Gate, Settings, linger};
use crate::exchange::Facts;
use crate::exchange::h2::Data;
use crate::limits;
use crate::reactor;
use crate::transport::Stream;
use crate::wire::frames::{Fault, FrameWatch};

/// Serves `stream`, whose next bytes are a client's preface, until its client leaves, misbehaves, or the gateway drains.
pub async fn serve<G: Gate>(gate: Rc<G>, stream: Rc<Stream>, facts: Rc<Facts>) {
    gate.saw(Event::Connection);
    let wire = Wire::new(FrameWatch::of_client(reactor::now_ms()));
    let duplex = Duplex::new(stream.clone(), wire.clone(), gate.settings().send_ms);
    let streams = Streams::new(reactor::now_ms());
    let mut serving = Serving {
        handshake: Some(Box::new(builder(gate.settings()).handshake(duplex))),
        h2: None,
        goodbye: None,
        deadline: Deadline::default(),
        streams: streams.clone(),
        wire,
        gate: gate.clone(),
        facts,
    };
    let end = std::future::poll_fn(|cx| serving.poll(cx)).await;
    drop(serving); // streams that are still open hear that their client is gone
    std::future::poll_fn(|cx| streams.poll_none(cx)).await;
    if end == End::Linger {
        linger(&*gate, &stream, None).await;
    }
}

/// Every limit of h2 is set: its defaults are for peers that are trusted more.
fn builder(settings: &Settings) -> Builder {
    let mut builder = Builder::new();
    // a field counts 32 bytes more than it has (RFC 9113 section 6.5.2); what is above our own limit, but not
    // above this, gets nginx's page
    let header_list = settings.head.head_bytes.saturating_mul(2).min(u32::MAX as usize) as u32;
    builder
        .initial_window_size(limits::H2_STREAM_WINDOW)
        .initial_connection_window_size(limits::H2_CONNECTION_WINDOW)
        .max_frame_size(limits::H2_FRAME)
        .max_header_list_size(header_list)
        .header_table_size(limits::H2_HEADER_TABLE)
        .max_concurrent_streams(limits::H2_STREAMS)
        .max_send_buffer_size(limits::H2_SEND_BUFFER)
        .enable_connect_protocol()
        .max_concurrent_reset_streams(limits::H2_REMEMBERED_RESETS)
        .reset_stream_duration(Duration::from_millis(limits::H2_REMEMBERED_MS))
        .max_pending_accept_reset_streams(limits::H2_PENDING_RESETS)
        .max_local_error_reset_streams(Some(limits::H2_OWN_RESETS))
        .data_frame_budget(limits::H2_SMALL_PIECES);
    builder
}

/// How a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// There is no peer any more.
    Broken,
    /// The client may still be sending: our last frames must reach it.
    Linger,
}

struct Serving<G> {
    /// In a box: it is as large as a connection, and gone when that has begun.
    handshake: Option<Box<Handshake<Duplex, Data>>>,
    h2: Option<Connection<Duplex, Data>>,
    /// No more streams will begin: since when, and whether those under way go on.
    goodbye: Option<(u64, bool)>,
    deadline: Deadline,
    streams: Rc<Streams>,
    wire: Rc<Wire>,
    gate: Rc<G>,
    facts: Rc<Facts>,
}

impl<G: Gate> Serving<G> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            if self.h2.is_none() {
                match self.poll_handshake(cx) {
                    Poll::Ready(true) => {}
                    Poll::Ready(false) => return Poll::Ready(End::Linger),
                    Poll::Pending => return self.poll_overdue(cx),
                }
            }
            if self.gate.is_draining() {
                self.say_goodbye();
            }
            let Some(h2) = &mut self.h2 else { return Poll::Ready(End::Broken) };
            match h2.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.begin(request, respond);
                    continue;
                }
                Poll::Ready(Some(Err(error))) => {
                    // some floods the h2 crate sees itself: resets, header blocks, empty data
                    if error.is_library() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM) {
                        log::warn!("HTTP/2 connection of {} closed: {error}", self.facts.peer);
                        self.gate.saw(Event::Flood);
                    } else {
                        log::info!("HTTP/2 connection of {} ended: {error}", self.facts.peer);
                    }
                    return Poll::Ready(if error.is_io() { End::Broken } else { End::Linger });
                }
                // behind its GOAWAY, or before it has heard of ours, a client may still send: a reset would take our last
                // frames from it; one that is gone needs no waiting
                Poll::Ready(None) => return Poll::Ready(End::Linger),
                Poll::Pending => {}
            }
            if self.goodbye.is_none_or(|(_, they_go_on)| they_go_on)
                && let Some(fault) = self.fault()
            {
                self.end_with(fault);
                continue;
            }
            return self.poll_overdue(cx);
        }
    }

    /// Ready with false when the client spoke no HTTP/2.
    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let Some(handshake) = &mut self.handshake else { return Poll::Ready(false) };
        let shaken = ready!(Pin::new(&mut **handshake).poll(cx));
        self.handshake = None;
        match shaken {
            Ok(h2) => self.h2 = Some(h2),
            Err(error) => log::info!("HTTP/2 connection of {} not begun: {error}", self.facts.peer),
        }
        Poll::Ready(self.h2.is_some())
    }

    /// A stream begins.
    fn begin(&mut self, request: http::Request<h2::RecvStream>, respond: h2::server::SendResponse<Data>) {
        self.gate.saw(Event::Stream);
        let open = self.streams.begin();
        reactor::spawn(stream::serve(self.gate.clone(), self.facts.clone(), request, respond, open));
        if self.streams.begun() >= self.gate.settings().keepalive_requests {
            self.say_goodbye();
        }
    }

    /// What is wrong with what the client sends, beside what the h2 crate sees.
    fn fault(&self) -> Option<Fault> {
        self.wire.fault().or(self.streams.are_reset_too_often().then_some(Fault::Flood("resets")))
    }

    fn end_with(&mut self, fault: Fault) {
        let peer = self.facts.peer;
        match fault {
            Fault::Flood(what) => {
                log::warn!("HTTP/2 connection of {peer} closed: a flood of {what}");
                self.gate.saw(Event::Flood);
                self.break_off(Reason::ENHANCE_YOUR_CALM);
            }
            Fault::Size { .. } => {
                log::info!("HTTP/2 connection of {peer} ended: a frame of a wrong size");
                self.break_off(Reason::FRAME_SIZE_ERROR);
            }
        }
    }

    /// GOAWAY: the streams under way go on, and those that come until the client has heard of it.
    fn say_goodbye(&mut self) {
        if self.goodbye.is_none()
            && let Some(h2) = &mut self.h2
        {
            h2.graceful_shutdown();
            self.goodbye = Some((reactor::now_ms(), true));
        }
    }

    /// GOAWAY and the end.
    fn break_off(&mut self, reason: Reason) {
        if let Some(h2) = &mut self.h2 {
            h2.abrupt_shutdown(reason);
        }
        self.goodbye = Some((reactor::now_ms(), false));
    }

    /// Looks at the times; ready when the connection is to be dropped as it is.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let _ = self.streams.poll_none(cx);
            self.deadline.at_ms = self.deadline_ms();
            ready!(self.deadline.poll(cx));
            if self.goodbye.is_some() || self.h2.is_none() {
                return Poll::Ready(End::Linger);
            }
            self.break_off(Reason::NO_ERROR);
            cx.waker().wake_by_ref();
        }
    }

    /// When the connection ends if nothing happens.
    fn deadline_ms(&self) -> Option<u64> {
        let settings = self.gate.settings();
        match (self.goodbye, self.wire.block_since_ms()) {
            (None, Some(since_ms)) => Some(since_ms + u64::from(settings.header_ms)),
            (goodbye, _) => self.streams.deadline_ms(goodbye.map(|(since_ms, _)| since_ms), settings),
        }
    }
}

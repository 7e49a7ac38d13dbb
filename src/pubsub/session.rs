//! The loop of one client: commands in, answers and pushed messages out (apisix/core/pubsub.lua `wait`).
//!
//! Commands are answered one after the other, in their order. While one is under way no further bytes are taken from
//! the client, and while the client takes no bytes nothing is read or fetched for it: that is the back-pressure.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use prost::Message as _;

use super::meter::{Meter, Subscribed};
use super::subscription::Subscription;
use super::{Pending, Reply, System};
use crate::conn::Switched;
use crate::limits;
use crate::mail::messaging::{Cut, Outcome};
use crate::reactor::{self, Chunk};
use crate::wire::pubsub::{Answer, Command, Error, Offset, Request, Response, fetched};
use crate::wire::websocket::{
    CloseCode, Control, Data, FRAME_HEAD, Fault, Frame, OpCode, Reader, close_frame, frame, frame_head,
};

/// One client.
struct Session<'a> {
    client: &'a Switched,
    system: &'a System,
    meter: &'a Meter,
    reader: Reader,
    /// The command under way, and its sequence.
    pending: Option<(i64, Pending)>,
    /// Each with the sequence of its command.
    subscriptions: Vec<(i64, Subscription, Subscribed<'a>)>,
    /// Where the search for a subscription with messages begins: none of them comes before its turn.
    turn: usize,
    /// When the client was last heard, ms.
    heard_ms: u64,
    /// When it is asked whether it is there, ms.
    ping_ms: u64,
    /// Bytes sent.
    sent: u64,
    /// Frames sent since the client had last taken all.
    queued: usize,
}

/// What a session waits for.
enum Event {
    /// The client sent something.
    Bytes(Chunk),
    /// The client will send no more, but may still read.
    End,
    /// The client has left.
    Gone,
    /// Nothing came from it for a while.
    Silence,
    /// The command under way has its outcome.
    Done(i64, Outcome<Reply>),
    /// The subscription at this place has messages, or is over.
    Push(usize, Outcome<Cut>),
    /// The gateway ends.
    Drain,
}

/// How a session ends.
enum End {
    /// With a close frame that says why.
    Goodbye(Option<CloseCode>),
    /// The connection is broken.
    Gone,
}

/// Serves the client of a WebSocket until it leaves, or `draining` says that it must. `send_ms` is how long it may take
/// no bytes. Gives the number of bytes sent.
pub async fn run(
    system: &System,
    client: &Switched,
    send_ms: u32,
    meter: &Meter,
    draining: &dyn Fn() -> bool,
) -> u64 {
    let now_ms = reactor::now_ms();
    let mut session = Session {
        client,
        system,
        meter,
        reader: Reader::new(limits::PUBSUB_MESSAGE),
        pending: None,
        subscriptions: Vec::new(),
        turn: 0,
        heard_ms: now_ms,
        ping_ms: now_ms + limits::PUBSUB_PING_MS,
        sent: 0,
        queued: 0,
    };
    let end = loop {
        if let Err(end) = session.turn(send_ms, draining).await {
            break end;
        }
    };
    if let End::Goodbye(code) = end {
        Box::pin(session.goodbye(code)).await;
    }
    session.sent
}

impl Session<'_> {
    /// Answers what has come, then waits for one more thing.
    async fn turn(&mut self, send_ms: u32, draining: &dyn Fn() -> bool) -> Result<(), End> {
        while self.pending.is_none() {
            self.make_room(send_ms).await?;
            match self.reader.read() {
                Ok(Some(frame)) => self.frame(frame)?,
                Ok(None) => break,
                Err(Fault { code, reason }) => {
                    log::warn!("fatal error in pubsub websocket server, err: {reason}");
                    return Err(End::Goodbye(Some(code)));
                }
            }
        }
        self.make_room(send_ms).await?;
        self.client.set_recv_deadline(Some(self.ping_ms));
        match poll_fn(|cx| self.poll_event(cx, draining)).await {
            Event::Bytes(chunk) => {
                self.heard_ms = reactor::now_ms();
                self.ping_ms = self.heard_ms + limits::PUBSUB_PING_MS;
                self.reader.push(&chunk);
            }
            Event::Done(sequence, outcome) => self.done(sequence, outcome),
            Event::Push(at, outcome) => self.push(at, outcome),
            Event::Silence => self.ask_for_life()?,
            Event::End => return Err(End::Goodbye(None)),
            Event::Gone => return Err(End::Gone),
            Event::Drain => return Err(End::Goodbye(Some(CloseCode::Away))),
        }
        Ok(())
    }

    /// Where much waits for the client, it takes that first.
    async fn make_room(&mut self, send_ms: u32) -> Result<(), End> {
        if !has_room(self.client.queued_bytes(), self.queued) {
            self.client.flush_moving(send_ms).await.map_err(|_| End::Gone)?;
        }
        if self.client.queued_bytes() == 0 {
            self.queued = 0;
        }
        Ok(())
    }

    fn poll_event(&mut self, cx: &mut Context<'_>, draining: &dyn Fn() -> bool) -> Poll<Event> {
        match &mut self.pending {
            // each has an end, soon: whether the client is still there is seen then
            Some((sequence, pending)) => {
                if let Poll::Ready(outcome) = pending.as_mut().poll(cx) {
                    let sequence = *sequence;
                    self.pending = None;
                    return Poll::Ready(Event::Done(sequence, outcome));
                }
            }
            None if draining() => return Poll::Ready(Event::Drain),
            None => match self.client.poll_recv(cx) {
                Poll::Ready(Ok(chunk)) if chunk.is_empty() => return Poll::Ready(Event::End),
                Poll::Ready(Ok(chunk)) => return Poll::Ready(Event::Bytes(chunk)),
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {
                    return Poll::Ready(Event::Silence);
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Event::Gone),
                Poll::Pending => {}
            },
        }
        for n in 0..self.subscriptions.len() {
            let at = (self.turn + n) % self.subscriptions.len();
            if let Poll::Ready(outcome) = self.subscriptions[at].1.poll_next(cx) {
                self.turn = at + 1;
                return Poll::Ready(Event::Push(at, outcome));
            }
        }
        Poll::Pending
    }

    /// One frame of the client.
    fn frame(&mut self, got: Frame) -> Result<(), End> {
        match got {
            Frame::Binary(bytes) => self.message(&bytes),
            Frame::Text(text) => {
                let text = String::from_utf8_lossy(&text[..text.len().min(100)]).into_owned();
                log::warn!("pubsub server receive non-binary data, type: text, data: {text}");
            }
            Frame::Ping(payload) => self.send(frame(OpCode::Control(Control::Pong), &payload), None),
            Frame::Pong => {}
            Frame::Close(code) => return Err(End::Goodbye(code)),
        }
        Ok(())
    }

    /// One command.
    fn message(&mut self, bytes: &[u8]) {
        let Ok(request) = Request::decode(bytes) else {
            log::warn!("pubsub server receives undecodable data");
            return self.error(0, "wrong command");
        };
        let sequence = request.sequence;
        let Some(command) = request.command else {
            return log::warn!("pubsub server receives empty command");
        };
        match command {
            Command::Ping(ping) => self.answer(sequence, Answer::Pong(ping)),
            Command::Credit(credit) => match self.place_of(credit.subscription) {
                Some(at) => {
                    self.subscriptions[at].1.give_credit(u64::try_from(credit.messages).unwrap_or(0));
                }
                None => self.error(sequence, "unknown subscription"),
            },
            Command::Unsubscribe(unsubscribe) => match self.place_of(unsubscribe.subscription) {
                Some(at) => {
                    let (_, subscription, _) = self.subscriptions.swap_remove(at);
                    self.answer(sequence, Answer::Unsubscribe(Offset { offset: subscription.next }));
                }
                None => self.error(sequence, "unknown subscription"),
            },
            command => self.begin(sequence, command),
        }
    }

    /// Hands a command to the messaging system.
    fn begin(&mut self, sequence: i64, command: Command) {
        let name = command.name();
        if matches!(command, Command::KafkaSubscribe(_)) {
            if self.place_of(sequence).is_some() {
                return self.error(sequence, "a subscription has this sequence already");
            }
            if self.subscriptions.len() >= limits::PUBSUB_SUBSCRIPTIONS {
                return self.error(sequence, "too many subscriptions");
            }
        }
        match self.system.begin(command) {
            Some(pending) => self.pending = Some((sequence, pending)),
            None => {
                log::warn!("pubsub callback handler not registered for the command, command: {name}");
                self.error(sequence, "unknown command");
            }
        }
    }

    /// Where the subscription of this sequence is.
    fn place_of(&self, subscription: i64) -> Option<usize> {
        self.subscriptions.iter().position(|(sequence, ..)| *sequence == subscription)
    }

    fn done(&mut self, sequence: i64, outcome: Outcome<Reply>) {
        match outcome {
            Ok(Reply::Answer(answer)) => self.answer(sequence, answer),
            Ok(Reply::Batch(batch)) => {
                let whole = batch.cut(batch.from, usize::MAX, usize::MAX);
                self.meter.fetched(whole.count);
                self.messages(sequence, whole.bytes);
            }
            Ok(Reply::Subscribed(subscription)) => {
                self.answer(sequence, Answer::KafkaSubscribe(Offset { offset: subscription.next }));
                self.subscriptions.push((sequence, *subscription, self.meter.subscription()));
            }
            Err(reason) => self.error(sequence, &reason),
        }
    }

    fn push(&mut self, at: usize, outcome: Outcome<Cut>) {
        let sequence = self.subscriptions[at].0;
        match outcome {
            Ok(cut) => {
                self.meter.pushed(cut.count);
                self.messages(sequence, cut.bytes);
            }
            Err(reason) => {
                self.subscriptions.swap_remove(at);
                self.error(sequence, &reason);
            }
        }
    }

    /// A client that says nothing is asked, and given up when it does not answer.
    fn ask_for_life(&mut self) -> Result<(), End> {
        let now_ms = reactor::now_ms();
        if now_ms >= self.heard_ms + limits::PUBSUB_SILENCE_MS {
            return Err(End::Goodbye(Some(CloseCode::Away)));
        }
        self.ping_ms = now_ms + limits::PUBSUB_PING_MS;
        self.send(frame(OpCode::Control(Control::Ping), b""), None);
        Ok(())
    }

    fn error(&mut self, sequence: i64, message: &str) {
        self.answer(sequence, Answer::Error(Error { code: 0, message: message.to_owned() }));
    }

    fn answer(&mut self, sequence: i64, answer: Answer) {
        let response = Response { sequence, answer: Some(answer) };
        self.send(frame(OpCode::Data(Data::Binary), &response.encode_to_vec()), None);
    }

    /// Messages as they lie in a batch, without a copy.
    fn messages(&mut self, sequence: i64, messages: Bytes) {
        let mut head = Vec::with_capacity(20);
        fetched(sequence, messages.len(), &mut head);
        let copied = if messages.len() > limits::COPY_BODY { 0 } else { messages.len() };
        let mut out = Vec::with_capacity(FRAME_HEAD + head.len() + copied);
        frame_head(OpCode::Data(Data::Binary), head.len() + messages.len(), &mut out);
        out.extend_from_slice(&head);
        self.send(out, Some(messages));
    }

    /// `head` is no larger than it must be: what waits for a client is counted by its bytes, not by the memory for them.
    fn send(&mut self, mut head: Vec<u8>, body: Option<Bytes>) {
        self.queued += 1;
        self.sent += (head.len() + body.as_ref().map_or(0, Bytes::len)) as u64;
        match body {
            Some(body) if body.len() > limits::COPY_BODY => self.client.send_with(head, body),
            body => {
                head.extend_from_slice(body.as_deref().unwrap_or_default());
                self.client.send_with(head, Bytes::new());
            }
        }
    }

    /// Says why it is over, and waits a little until the client has read it and closed: what it still sends would else
    /// be answered with a reset, which destroys the goodbye.
    async fn goodbye(&mut self, code: Option<CloseCode>) {
        self.send(close_frame(code), None);
        if self.client.flush_moving(limits::PUBSUB_GOODBYE_MS).await.is_err() {
            return;
        }
        self.client.shutdown_write();
        let until_ms = reactor::now_ms() + u64::from(limits::PUBSUB_GOODBYE_MS);
        self.client.set_recv_deadline(Some(until_ms));
        while let Ok(chunk) = self.client.recv().await {
            if chunk.is_empty() || reactor::now_ms() >= until_ms {
                return;
            }
        }
    }
}

/// May more be sent to a client for whom so many bytes wait, of so many frames?
fn has_room(queued_bytes: usize, frames: usize) -> bool {
    queued_bytes == 0 || (queued_bytes < limits::QUEUED_BYTES && frames < limits::PUBSUB_QUEUED_FRAMES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_a_client_has_a_bound_in_bytes_and_one_in_frames() {
        assert!(has_room(0, 1_000_000), "it has taken them all");
        assert!(has_room(1000, 10));
        assert!(!has_room(1000, 1000));
        assert!(!has_room(1_000_000, 1));
    }
}

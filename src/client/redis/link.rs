//! One connection to one Redis server, which all requests of the core share: commands are written as they come and
//! their replies come back in that order, so that a turn of the core sends all of its commands at once.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::conf::{Address, Login};
use super::{Error, Times};
use crate::client::Outbound;
use crate::limits;
use crate::reactor::{self, Out};
use crate::transport::{Secure, Stream, Target, connect, trust};
use crate::wire::resp::{Reply, read_reply, write_command};

/// A connection; it opens by itself, and when it has failed it stays so.
pub struct Link {
    /// Open, and logged in.
    stream: RefCell<Option<Rc<Stream>>>,
    /// Commands that wait for the connection.
    queued: RefCell<Vec<u8>>,
    waiting: RefCell<VecDeque<Rc<Waiter>>>,
    failed: Cell<bool>,
    /// It has answered at least once.
    served: Cell<bool>,
}

/// Somebody who waits for a reply.
#[derive(Default)]
struct Waiter {
    reply: RefCell<Option<Result<Reply, Error>>>,
    waker: RefCell<Option<Waker>>,
}

impl Waiter {
    fn answer(&self, reply: Result<Reply, Error>) {
        *self.reply.borrow_mut() = Some(reply);
        self.waker.take().into_iter().for_each(Waker::wake);
    }
}

impl Link {
    /// Begins to connect.
    pub fn open(address: Address, login: Login, times: Times, outbound: Rc<Outbound>) -> Rc<Link> {
        let link = Rc::new(Link {
            stream: RefCell::default(),
            queued: RefCell::default(),
            waiting: RefCell::default(),
            failed: Cell::new(false),
            served: Cell::new(false),
        });
        let own = link.clone();
        reactor::spawn(async move {
            let ended = own.serve(&address, &login, times, &outbound).await;
            own.fail(&ended.err().unwrap_or_else(|| Error::Closed("closed".into())));
        });
        link
    }

    /// Nobody should ask it any more.
    pub fn has_failed(&self) -> bool {
        self.failed.get()
    }

    /// It has answered before: if it fails now, the server may still be well.
    pub fn has_served(&self) -> bool {
        self.served.get()
    }

    /// Sends a command that is written already, and waits for its reply until `until_ms` of the core's clock. A server
    /// that is late is given up with all who wait for it: their replies would come after this one.
    pub async fn ask(&self, command: &[u8], until_ms: u64) -> Result<Reply, Error> {
        if self.failed.get() {
            return Err(Error::Closed("closed".into()));
        }
        if self.waiting.borrow().len() >= limits::REDIS_WAITING {
            return Err(Error::Busy);
        }
        let waiter = Rc::new(Waiter::default());
        self.waiting.borrow_mut().push_back(waiter.clone());
        match &*self.stream.borrow() {
            Some(stream) => {
                let mut out = reactor::take_buffer();
                out.extend_from_slice(command);
                stream.send(Out::from(out));
            }
            None => self.queued.borrow_mut().extend_from_slice(command),
        }
        let mut late = pin!(reactor::sleep_until(until_ms));
        poll_fn(|cx| {
            if let Some(reply) = waiter.reply.take() {
                return Poll::Ready(reply);
            }
            if late.as_mut().poll(cx).is_ready() {
                self.fail(&Error::Timeout);
                return Poll::Ready(Err(Error::Timeout));
            }
            *waiter.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn fail(&self, error: &Error) {
        self.failed.set(true);
        if let Some(stream) = self.stream.take() {
            // wakes the reader, which sees that it is over
            stream.set_recv_deadline(Some(0));
        }
        for waiter in self.waiting.take() {
            waiter.answer(Err(error.clone()));
        }
    }

    /// Connects, logs in and passes replies on, until the connection ends or nobody has used it for a while.
    async fn serve(
        &self,
        to: &Address,
        login: &Login,
        times: Times,
        outbound: &Outbound,
    ) -> Result<(), Error> {
        let stream = Rc::new(open(to, login, times, outbound).await?);
        let mut bytes = Received::default();
        let until_ms = reactor::now_ms() + u64::from(times.read_ms);
        for command in login.commands() {
            stream.send(Out::from(command));
            stream.set_recv_deadline(Some(until_ms));
            if let Reply::Error(error) = next_reply(&stream, &mut bytes).await? {
                return Err(Error::Server(error));
            }
        }
        stream.send(Out::from(self.queued.take()));
        *self.stream.borrow_mut() = Some(stream.clone());
        while !self.failed.get() {
            stream.set_recv_deadline(Some(reactor::now_ms() + u64::from(times.keepalive_ms)));
            let reply = match next_reply(&stream, &mut bytes).await {
                // each who asks has a deadline of its own
                Err(Error::Timeout) if !self.waiting.borrow().is_empty() && !self.failed.get() => continue,
                reply => reply?,
            };
            self.served.set(true);
            let Some(waiter) = self.waiting.borrow_mut().pop_front() else {
                return Err(Error::Closed("a reply that nobody asked for".into()));
            };
            waiter.answer(Ok(reply));
        }
        Ok(())
    }
}

async fn open(to: &Address, login: &Login, times: Times, outbound: &Outbound) -> Result<Stream, Error> {
    let until_ms = reactor::now_ms() + u64::from(times.connect_ms);
    let addresses = outbound.names.resolve(&to.host, until_ms).await;
    let Some(ip) = fastrand::choice(addresses) else {
        return Err(Error::Closed(format!("{} has no address", to.host)));
    };
    let tls = match login.tls {
        Some(verify) => {
            let client = outbound.tls.get(verify, None, &[]).map_err(Error::from)?;
            Some(Secure { client, name: trust::server_name(&to.host) })
        }
        None => None,
    };
    Ok(connect(&Target { address: (ip, to.port).into(), tls }, times.connect_ms).await?)
}

/// What has come. Replies come many at once, so those that were read are cut off together.
#[derive(Default)]
struct Received {
    bytes: Vec<u8>,
    /// So many bytes were read.
    read: usize,
}

async fn next_reply(stream: &Stream, received: &mut Received) -> Result<Reply, Error> {
    loop {
        let unread = &received.bytes[received.read..];
        let reply = read_reply(unread).map_err(|_| Error::Closed("no Redis reply".into()))?;
        if let Some((reply, length)) = reply {
            received.read += length;
            return Ok(reply);
        }
        received.bytes.drain(..received.read);
        received.read = 0;
        let chunk = stream.recv().await?;
        if chunk.is_empty() {
            return Err(Error::Closed("closed".into()));
        }
        received.bytes.extend_from_slice(&chunk);
    }
}

impl Login {
    /// What is said before everything else.
    fn commands(&self) -> Vec<Vec<u8>> {
        let command = |parts: &[&[u8]]| {
            let mut out = Vec::new();
            write_command(&mut out, parts.iter().copied());
            out
        };
        let mut commands = Vec::new();
        match (self.username.as_deref(), self.password.as_deref().filter(|password| !password.is_empty())) {
            (Some(name), Some(password)) => {
                commands.push(command(&[b"AUTH", name.as_bytes(), password.as_bytes()]));
            }
            (None, Some(password)) => commands.push(command(&[b"AUTH", password.as_bytes()])),
            (_, None) => {}
        }
        if self.database != 0 {
            commands.push(command(&[b"SELECT", self.database.to_string().as_bytes()]));
        }
        commands
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Error::Timeout,
            _ => Error::Closed(error.to_string()),
        }
    }
}

//! How a session ends: who ended it, what its client is still told, and what is written down of it.

use std::io;

use super::Shared;
use crate::limits;
use crate::reactor::{self, Chunk};
use crate::stream::xrpc::Broken;
use crate::stream::xrpc::link::send;
use crate::stream::{NO_UPSTREAM, Refused};
use crate::transport::Stream;

/// How a session ended.
pub(super) enum End {
    /// The client is done, and its end has been sent on.
    ClientDone,
    /// The protocol has said its last word.
    Goodbye,
    /// An upstream has closed.
    UpstreamDone,
    Client(io::Error),
    Upstream(io::Error),
    ClientBroken(Broken),
    UpstreamBroken(Broken),
    /// No upstream for a call.
    Unreached(Refused),
}

impl Shared<'_> {
    /// Says why it ended, tells a client whose bytes were broken, and logs what never ended.
    pub(super) async fn close(self, end: End) -> Result<(), Refused> {
        let outcome = self.tell(end).await;
        self.log_unfinished();
        self.add_up();
        outcome
    }

    async fn tell(&self, end: End) -> Result<(), Refused> {
        match end {
            End::ClientDone => {}
            End::Goodbye | End::UpstreamDone => self.client.shutdown_write(),
            End::Client(error) => log::info!("a session ended with its client: {error}"),
            End::Upstream(error) => {
                log::error!("failed to handle upstream: {error}");
                if let Some(session) = &mut self.ex.borrow_mut().session {
                    session.broken = Some(NO_UPSTREAM.0);
                }
            }
            End::UpstreamBroken(Broken(why)) => {
                log::error!("failed to handle upstream: {why}");
                return Err(NO_UPSTREAM);
            }
            End::Unreached(refused) => return Err(refused),
            End::ClientBroken(broken) => {
                log::error!("failed to read request: {}", broken.0);
                let refusal = self.session.borrow().refusal(&broken);
                say_goodbye(self.client, refusal).await;
                return Err(Refused(400));
            }
        }
        Ok(())
    }

    fn log_unfinished(&self) {
        let unfinished = self.calls.borrow_mut().abandon();
        let now = reactor::now();
        for call in &unfinished {
            log::info!("RPC is not finished, id: {}", call.id);
            self.log(call, call.seconds(now));
        }
    }

    /// Adds the bytes of both ways to what the access log says.
    fn add_up(self) {
        let (up, down) = (self.up_bytes.get(), self.down_bytes.get());
        let ex = self.ex.into_inner();
        if let Some(session) = &mut ex.session {
            session.received += up;
            session.upstream_sent += up;
        }
        if let Some(attempt) = ex.upstream.current() {
            attempt.bytes += down;
        }
        ex.resp.bytes += down;
    }
}

/// A last word, which no reset destroys.
async fn say_goodbye(client: &Stream, word: Vec<u8>) {
    if !word.is_empty() && send(client, Chunk::from_vec(word), limits::LINGER_IDLE_MS).await.is_ok() {
        client.linger(None).await;
    }
}

//! The streams beside the requests: ours, on which we say what we take and when we go; the client's, on which it says
//! the same.

use std::rc::Rc;
use std::task::{Context, Poll};

use crate::limits;
use crate::reactor::Chunk;
use crate::transport::quic::{Connection, Dir, StreamId, Unread};
use crate::wire::h3::Code;
use crate::wire::h3::control::{Next, Peer, UniStream, goaway, preamble};

/// The control stream of ours and the unidirectional streams of a client.
pub(super) struct Control {
    connection: Rc<Connection>,
    ours: Option<StreamId>,
    /// What our stream had no room for.
    unsent: Chunk,
    streams: Vec<(StreamId, UniStream)>,
    peer: Peer,
}

impl Control {
    /// Says what we take.
    pub fn new(connection: Rc<Connection>, field_bytes: usize) -> Control {
        let ours = connection.open_uni();
        let unsent = Chunk::from_vec(preamble(field_bytes));
        Control { connection, ours, unsent, streams: Vec::new(), peer: Peer::default() }
    }

    /// Says that requests from stream `id` on will not be looked at.
    pub fn say_goodbye(&mut self, id: StreamId) {
        let said = [&*self.unsent, &goaway(u64::from(id))].concat();
        self.unsent = Chunk::from_vec(said);
    }

    /// Reads what the client says. An error ends the connection.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Result<(), Code> {
        self.write(cx)?;
        while let Poll::Ready(Some(id)) = self.connection.poll_accept(Dir::Uni, cx) {
            self.streams.push((id, UniStream::new()));
        }
        let Control { connection, streams, peer, .. } = self;
        let mut failed = Ok(());
        streams.retain_mut(|(id, stream)| match read(connection, *id, stream, peer, cx) {
            Ok(open) => open,
            Err(code) => {
                failed = Err(code);
                false
            }
        });
        failed
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), Code> {
        // the client allows at least this one (RFC 9114 section 6.2)
        let ours = self.ours.ok_or(Code::StreamCreationError)?;
        while !self.unsent.is_empty() {
            match self.connection.poll_write(ours, &self.unsent, cx) {
                Poll::Ready(Ok(written)) => self.unsent.advance(written),
                Poll::Ready(Err(_)) => return Err(Code::ClosedCriticalStream),
                Poll::Pending => break,
            }
        }
        Ok(())
    }
}

/// Reads what has come of a stream. False: nothing more is read of it.
fn read(
    connection: &Connection,
    id: StreamId,
    stream: &mut UniStream,
    peer: &mut Peer,
    cx: &mut Context<'_>,
) -> Result<bool, Code> {
    loop {
        match connection.poll_read(id, limits::H3_READ, cx) {
            Poll::Pending => return Ok(true),
            Poll::Ready(Ok(Some(bytes))) => {
                if stream.take(bytes, peer)? == Next::Stop {
                    connection.stop(id, Code::StreamCreationError as u64);
                    connection.forget(id);
                    return Ok(false);
                }
            }
            Poll::Ready(Ok(None) | Err(Unread::Reset)) => {
                connection.forget(id);
                return stream.end().map(|()| false);
            }
            Poll::Ready(Err(Unread::Lost)) => return Ok(false),
        }
    }
}

//! The way back to the client while its request is under way.

use std::rc::Rc;
use std::task::{Context, Poll};

use super::h2::Responder;
use super::h3;
use crate::transport::Stream;

/// The client's end of an exchange, by HTTP version.
#[derive(Clone)]
pub enum Client {
    /// Nobody: an exchange made in a test.
    None,
    /// HTTP/1.1: the whole connection.
    H1(Rc<Stream>),
    /// HTTP/2: one stream of it.
    H2(Rc<Responder>),
    /// HTTP/3: the same.
    H3(Rc<h3::Stream>),
    /// Layer 4: the connection, whose first bytes a plugin may look at.
    Raw(Rc<Stream>),
}

impl Client {
    /// Ready when the client has closed or reset its connection: nobody waits for the answer (499).
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Client::None => Poll::Pending,
            Client::H1(stream) | Client::Raw(stream) => stream.poll_closed(cx),
            Client::H2(responder) => responder.poll_gone(cx),
            Client::H3(stream) => stream.poll_gone(cx),
        }
    }
}

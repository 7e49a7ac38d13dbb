//! The shared connections of one route on one core, by node: who comes gets the one with the fewest sessions, and opens one
//! while there are few.

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::Protocol;
use super::lane::Lane;
use crate::limits;
use crate::transport::{Stream, Target};

/// All of a route.
pub struct Lanes {
    protocol: Rc<dyn Protocol>,
    nodes: RefCell<Vec<Node>>,
}

/// What connections are shared by: the node's address, and the name that TLS asks it for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The node.
    pub address: SocketAddr,
    /// The name, if TLS is spoken.
    pub name: Option<String>,
}

impl Place {
    /// Where `target` is.
    pub fn of(target: &Target) -> Place {
        let name = target.tls.as_ref().map(|tls| format!("{:?}", tls.name));
        Place { address: target.address, name }
    }
}

struct Node {
    place: Place,
    lanes: Vec<Rc<Lane>>,
    /// So many are being opened.
    opening: usize,
    /// Sessions that wait for one of those.
    waiting: Vec<Waker>,
}

/// What a session finds.
pub enum Found<'a> {
    /// A lane.
    Lane(Rc<Lane>),
    /// None yet, or too few: it shall open one.
    Open(Opening<'a>),
    /// All are held up by slow clients.
    Full,
}

/// A lane that is being opened.
pub struct Opening<'a> {
    lanes: &'a Lanes,
    place: Place,
}

impl Lanes {
    /// None yet.
    pub fn new(protocol: Rc<dyn Protocol>) -> Lanes {
        Lanes { protocol, nodes: RefCell::default() }
    }

    /// A lane to this place. Waits while the first one is being opened by somebody else.
    pub async fn find(&self, place: &Place) -> Found<'_> {
        poll_fn(|cx| {
            let nodes = &mut *self.nodes.borrow_mut();
            nodes.iter_mut().for_each(|node| node.lanes.retain(|lane| !lane.is_over()));
            nodes.retain(|node| !node.lanes.is_empty() || node.opening > 0 || node.place == *place);
            let at = nodes.iter().position(|node| node.place == *place).unwrap_or_else(|| {
                nodes.push(Node { place: place.clone(), lanes: Vec::new(), opening: 0, waiting: Vec::new() });
                nodes.len() - 1
            });
            let node = &mut nodes[at];
            let best = node.lanes.iter().filter(|lane| !lane.is_held_up()).min_by_key(|lane| lane.sessions());
            let all = node.lanes.len() + node.opening;
            let most =
                if best.is_none() && node.opening == 0 { limits::LANES_HELD_UP } else { limits::LANES };
            if all < most {
                node.opening += 1;
                return Poll::Ready(Found::Open(Opening { lanes: self, place: place.clone() }));
            }
            if let Some(lane) = best {
                return Poll::Ready(Found::Lane(lane.clone()));
            }
            if node.opening == 0 {
                return Poll::Ready(Found::Full);
            }
            node.waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl Opening<'_> {
    /// The connection is there. `None`: the protocol shares none.
    pub fn opened(self, stream: Rc<Stream>, idle_ms: u64) -> Option<Rc<Lane>> {
        let lane = Lane::open(stream, idle_ms, self.lanes.protocol.shares()?);
        let nodes = &mut *self.lanes.nodes.borrow_mut();
        if let Some(node) = nodes.iter_mut().find(|node| node.place == self.place) {
            node.lanes.push(lane.clone());
        }
        Some(lane)
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let nodes = &mut *self.lanes.nodes.borrow_mut();
        if let Some(node) = nodes.iter_mut().find(|node| node.place == self.place) {
            node.opening -= 1;
            node.waiting.drain(..).for_each(Waker::wake);
        }
    }
}

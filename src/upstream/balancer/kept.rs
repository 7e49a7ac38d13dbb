//! State of nodes that survives a rebuild of their upstream, found again by address.

use std::cell::Cell;
use std::rc::Rc;

use ahash::AHashMap;

use super::Peer;

/// One cell a node. Requests in flight hold the old balancer, new ones the new; both see the same cells.
pub struct Kept<T> {
    cells: Box<[Rc<Cell<T>>]>,
    addresses: Box<[(Box<str>, u16)]>,
}

impl<T: Default> Kept<T> {
    /// Cells for `peers`: those of `previous` where the address was there before, fresh ones elsewhere.
    pub fn carry(peers: &[Peer], previous: Option<&Kept<T>>) -> Self {
        let mut old: AHashMap<(&str, u16), &Rc<Cell<T>>> = AHashMap::new();
        if let Some(previous) = previous {
            let addresses = previous.addresses.iter().map(|(host, port)| (&**host, *port));
            old.extend(addresses.zip(previous.cells.iter()));
        }
        let cells = peers.iter().map(|peer| match old.get(&(&*peer.host, peer.port)) {
            Some(cell) => Rc::clone(cell),
            None => Rc::default(),
        });
        Kept {
            cells: cells.collect(),
            addresses: peers.iter().map(|peer| (peer.host.clone(), peer.port)).collect(),
        }
    }

    /// The cells, by node index.
    pub fn cells(&self) -> &[Rc<Cell<T>>] {
        &self.cells
    }
}

//! Connection IDs: which core has the connection, and of which start of the cores, stands at their beginning. So the
//! kernel can steer datagrams ([`crate::reactor::steer`]), and a core that gets another's can pass it on. A keyed tag tells our
//! IDs from those that clients make up for their first datagrams.

use std::sync::Arc;

use aws_lc_rs::{hmac, rand};
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};

/// Core, generation, six random bytes, four of the tag.
const LENGTH: usize = 12;
const TAG_AT: usize = 8;

/// Where the destination's ID is in a datagram with a long header, and before it its length (RFC 8999 section 5.1); with
/// a short one it follows the first byte.
pub const LONG_AT: usize = 6;
/// See [`LONG_AT`].
pub const SHORT_AT: usize = 1;
const LONG_HEADER: u8 = 0x80;

/// Who has a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The core's index, the low byte of it.
    pub core: u8,
    /// Which start of the cores, the low byte of it: each reload makes new ones.
    pub generation: u8,
}

/// Makes and reads connection IDs.
#[derive(Clone)]
pub struct ConnectionIds {
    key: Arc<hmac::Key>,
    own: Owner,
}

impl ConnectionIds {
    /// Those of this core; all cores share the key.
    pub fn new(key: Arc<hmac::Key>, own: Owner) -> ConnectionIds {
        ConnectionIds { key, own }
    }

    /// Who else has the connection of this datagram; `None`: we, or nobody.
    pub fn stranger(&self, datagram: &[u8]) -> Option<Owner> {
        let id = match datagram.first()? & LONG_HEADER {
            0 => datagram.get(SHORT_AT..SHORT_AT + LENGTH)?,
            _ if datagram.get(LONG_AT - 1) == Some(&(LENGTH as u8)) => {
                datagram.get(LONG_AT..LONG_AT + LENGTH)?
            }
            _ => return None,
        };
        let owner = Owner { core: id[0], generation: id[1] };
        (owner != self.own && self.is_ours(id)).then_some(owner)
    }

    fn is_ours(&self, id: &[u8]) -> bool {
        id.len() == LENGTH && self.tag(&id[..TAG_AT]) == id[TAG_AT..]
    }

    fn tag(&self, head: &[u8]) -> [u8; LENGTH - TAG_AT] {
        let mut tag = [0; LENGTH - TAG_AT];
        tag.copy_from_slice(&hmac::sign(&self.key, head).as_ref()[..LENGTH - TAG_AT]);
        tag
    }
}

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; LENGTH];
        id[0] = self.own.core;
        id[1] = self.own.generation;
        if rand::fill(&mut id[2..TAG_AT]).is_err() {
            fastrand::fill(&mut id[2..TAG_AT]); // a guessed ID is worth nothing without the keys
        }
        let tag = self.tag(&id[..TAG_AT]);
        id[TAG_AT..].copy_from_slice(&tag);
        ConnectionId::new(&id)
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        if self.is_ours(id) { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        LENGTH
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(core: u8, generation: u8) -> ConnectionIds {
        let key = Arc::new(hmac::Key::new(hmac::HMAC_SHA256, b"key"));
        ConnectionIds::new(key, Owner { core, generation })
    }

    #[test]
    fn a_datagram_names_the_owner_of_its_connection() {
        let id = ids(1, 7).generate_cid();
        let short = [&[0x40], &*id, b"rest"].concat();
        let long = [&[0xe0, 0, 0, 0, 1, LENGTH as u8], &*id, b"rest"].concat();
        let owner = Some(Owner { core: 1, generation: 7 });
        for datagram in [&short, &long] {
            assert_eq!(ids(0, 7).stranger(datagram), owner);
            assert_eq!(ids(1, 8).stranger(datagram), owner);
            assert_eq!(ids(1, 7).stranger(datagram), None, "our own");
            let mut made_up = datagram.clone();
            let last = made_up.len() - 5;
            made_up[last] ^= 1;
            assert_eq!(ids(0, 7).stranger(&made_up), None, "the tag is wrong");
            for end in 0..datagram.len() - 4 {
                assert_eq!(ids(0, 7).stranger(&datagram[..end]), None);
            }
        }
        assert!(ids(0, 0).validate(&id).is_ok(), "the key counts, not the core");
        assert!(ids(0, 0).validate(&ConnectionId::new(&[0; LENGTH])).is_err());
        assert!(ids(0, 0).validate(&ConnectionId::new(&[0; 8])).is_err());
        assert_ne!(ids(1, 7).generate_cid(), ids(1, 7).generate_cid());
    }
}

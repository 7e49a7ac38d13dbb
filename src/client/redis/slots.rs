//! Which node of a Redis cluster has a key (redis.io/docs/reference/cluster-spec).

use super::conf::Address;
use super::port_of;
use crate::limits;
use crate::wire::resp::Reply;

/// Slots of every cluster.
const SLOTS: usize = 16_384;

/// Which node has which slot.
pub struct Slots {
    nodes: Vec<Address>,
    /// Index of the node; `u16::MAX` where none is known.
    node_of: Box<[u16]>,
}

impl Slots {
    /// From the reply to `CLUSTER SLOTS`; the node that was asked stands for those that do not tell their address.
    pub fn of(reply: &Reply, asked: &Address) -> Slots {
        let mut slots = Slots { nodes: Vec::new(), node_of: vec![u16::MAX; SLOTS].into() };
        for range in reply.items() {
            let [first, last, master, ..] = range.items() else { continue };
            let slot = |of: &Reply| of.number().filter(|slot| *slot >= 0.0).map(|slot| slot as usize); // saturates
            let (Some(first), Some(last)) = (slot(first), slot(last)) else { continue };
            let [host, port, ..] = master.items() else { continue };
            let host = host.text().filter(|host| !host.is_empty()).unwrap_or(&asked.host);
            let Some(port) = port.number().map_or(Some(asked.port), |_| port_of(port)) else { continue };
            let Some(node) = slots.index(Address { host: host.into(), port }) else { continue };
            slots
                .node_of
                .get_mut(first..last.saturating_add(1).min(SLOTS))
                .into_iter()
                .for_each(|range| range.fill(node));
        }
        slots
    }

    /// `None`: there are too many to remember another.
    fn index(&mut self, address: Address) -> Option<u16> {
        let known = self.nodes.iter().position(|node| *node == address);
        if known.is_none() && self.nodes.len() < limits::REDIS_NODES {
            self.nodes.push(address);
            return u16::try_from(self.nodes.len() - 1).ok();
        }
        known.and_then(|at| u16::try_from(at).ok())
    }

    /// The node of a slot.
    pub fn node(&self, slot: u16) -> Option<&Address> {
        self.nodes.get(*self.node_of.get(usize::from(slot))? as usize)
    }

    /// A node has said that a slot is elsewhere.
    pub fn moved(&mut self, slot: u16, to: Address) {
        if let (Some(node), Some(place)) = (self.index(to), self.node_of.get_mut(usize::from(slot))) {
            *place = node;
        }
    }
}

/// The slot of a key: of what stands between its first braces, if anything does.
pub fn slot_of(key: &[u8]) -> u16 {
    let tag = memchr::memchr(b'{', key).and_then(|open| {
        let inner = &key[open + 1..];
        memchr::memchr(b'}', inner).filter(|length| *length > 0).map(|length| &inner[..length])
    });
    crc16(tag.unwrap_or(key)) % SLOTS as u16
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(
            crc ^ u16::from(*byte) << 8,
            |crc, _| {
                if crc & 0x8000 != 0 { crc << 1 ^ 0x1021 } else { crc << 1 }
            },
        )
    })
}

/// `MOVED 3999 127.0.0.1:6381` or `ASK …`: the slot and the node.
pub fn redirection(error: &str) -> Option<(bool, u16, Address)> {
    let mut words = error.split(' ');
    let moved = match words.next()? {
        "MOVED" => true,
        "ASK" => false,
        _ => return None,
    };
    let slot = words.next()?.parse().ok()?;
    let (host, port) = words.next()?.rsplit_once(':')?;
    Some((moved, slot, Address { host: host.into(), port: port.parse().ok()? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_keys() {
        // CLUSTER KEYSLOT of a real server
        for (key, slot) in [("123456789", 12739), ("foo", 12182), ("{user1000}.following", 3443), ("", 0)] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
        assert_eq!(slot_of(b"{user1000}.followers"), slot_of(b"user1000"));
        assert_eq!(slot_of(b"foo{}{bar}"), crc16(b"foo{}{bar}") % 16_384);
    }

    #[test]
    fn a_map_with_numbers_that_are_none_is_read_as_far_as_it_makes_sense() {
        let asked = Address { host: "asked".into(), port: 9 };
        let range = |first, last, port| {
            let node = vec![Reply::Bulk(b"a".to_vec()), Reply::Integer(port)];
            Reply::Array(vec![Reply::Integer(first), Reply::Integer(last), Reply::Array(node)])
        };
        let ranges = [(0, -1, 1), (-5, 7, 1), (i64::MIN, i64::MAX, 1), (8, i64::MAX, 2), (3, 4, 70_000)];
        let ranges = ranges.map(|(first, last, port)| range(first, last, port));
        let slots = Slots::of(&Reply::Array(ranges.into()), &asked);
        assert_eq!(slots.node(0), None);
        assert_eq!(slots.node(3), None, "there is no port 70000");
        assert_eq!(slots.node(16_383), Some(&Address { host: "a".into(), port: 2 }));
    }

    #[test]
    fn a_server_that_always_names_others_is_not_remembered_without_end() {
        let at = |port| Address { host: "a".into(), port };
        let mut slots = Slots::of(&Reply::Array(Vec::new()), &at(1));
        for n in 0..2 * limits::REDIS_NODES {
            slots.moved(0, Address { host: n.to_string().into(), port: 1 });
        }
        assert!(slots.nodes.len() <= limits::REDIS_NODES, "{}", slots.nodes.len());
    }

    #[test]
    fn the_map_and_its_changes() {
        let address = |host: &str, port| Address { host: host.into(), port };
        let node = |host: &str, port| {
            Reply::Array(vec![Reply::Bulk(host.into()), Reply::Integer(port), Reply::Bulk(b"id".to_vec())])
        };
        let range = |first, last, node| Reply::Array(vec![Reply::Integer(first), Reply::Integer(last), node]);
        let without_port = Reply::Array(vec![Reply::Bulk(b"b".to_vec()), Reply::Null]);
        let ranges =
            [range(0, 99, node("a", 1)), range(100, 100, without_port), range(101, 16_383, node("", 2))];
        let reply = Reply::Array(ranges.into_iter().chain([Reply::Null]).collect());
        let mut slots = Slots::of(&reply, &address("asked", 9));
        assert_eq!(slots.node(100), Some(&address("b", 9)));
        assert_eq!(slots.node(99), Some(&address("a", 1)));
        assert_eq!(slots.node(16_383), Some(&address("asked", 2)));
        let (moved, slot, to) = redirection("MOVED 99 ::1:7").unwrap();
        assert!(moved);
        slots.moved(slot, to);
        assert_eq!(slots.node(99), Some(&address("::1", 7)));
        assert!(!redirection("ASK 99 b:7").unwrap().0);
        assert_eq!(redirection("ERR MOVED"), None);
    }
}

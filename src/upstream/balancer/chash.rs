//! Consistent hashing on the ring of lua-resty-balancer's chash.lua and chash.c, so that keys stay with
//! their nodes when a gateway moves from APISIX.
//!
//! A node's id is its `host:port` with each `:` replaced by NUL. It gets 160 points per unit of weight,
//! where the unit is the weights' greatest common divisor (apisix/balancer/chash.lua). Point `n` is the
//! CRC-32 of the id followed by point `n − 1` in little endian, beginning with 0. A key belongs to the first
//! point that is not below the key's CRC-32, past the last point to the first. A node that may not be used
//! is skipped on the full ring, so other keys keep their nodes.

use crate::limits;

use super::roundrobin::greatest_common_divisor;
use super::{Member, Peer};

/// Points per unit of weight.
const POINTS: u64 = 160;

#[derive(Clone, Copy)]
struct Point {
    hash: u32,
    /// Place in the upstream's nodes.
    node: u32,
}

/// One priority level of a consistent-hash upstream.
pub struct Chash {
    /// By hash.
    ring: Box<[Point]>,
    /// How many different nodes are on the ring: the search ends when it has seen them all.
    nodes: usize,
}

impl Chash {
    /// Builds the ring. If all weights are 0 it is empty and nothing is ever picked (APISIX answers 5xx).
    pub fn new(members: &[Member], peers: &[Peer]) -> Self {
        let gcd = members.iter().fold(0, |gcd, m| greatest_common_divisor(gcd, m.weight)).max(1);
        let units: u64 = members.iter().map(|m| u64::from(m.weight / gcd)).sum();
        // Weights that are large and without a common divisor are thinned out to the bound.
        let thin = (units * POINTS).div_ceil(limits::CHASH_POINTS).max(1);
        let mut ring = Vec::with_capacity((units * POINTS / thin) as usize);
        for member in members.iter().filter(|m| m.weight > 0) {
            let id = crc32fast::hash(&id(&peers[member.node]));
            let points = (u64::from(member.weight / gcd) * POINTS / thin).max(1);
            let mut hash = 0_u32;
            for _ in 0..points {
                let mut crc = crc32fast::Hasher::new_with_initial(id);
                crc.update(&hash.to_le_bytes());
                hash = crc.finalize();
                ring.push(Point { hash, node: member.node as u32 });
            }
        }
        ring.sort_by_key(|point| point.hash);
        let nodes = members.iter().filter(|m| m.weight > 0).count();
        Chash { ring: ring.into(), nodes }
    }

    /// The open node that `key` belongs to.
    pub fn pick(&self, key: &[u8], open: impl Fn(usize) -> bool) -> Option<usize> {
        let hash = crc32fast::hash(key);
        let start = self.ring.partition_point(|point| point.hash < hash);
        let (before, after) = self.ring.split_at(start);
        let mut walk = after.iter().chain(before).map(|point| point.node as usize);
        let first = walk.next()?;
        if open(first) {
            return Some(first);
        }
        if self.nodes == 1 {
            return None;
        }
        walk.find(|&node| open(node))
    }
}

/// What identifies a node on the ring.
fn id(peer: &Peer) -> Vec<u8> {
    let host = if peer.host.contains(':') { format!("[{}]", peer.host) } else { peer.host.to_string() };
    format!("{host}:{}", peer.port).replace(':', "\0").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of lua-resty-balancer's own C code for the ring and the walk from each key on.
    struct Known {
        nodes: &'static [(&'static str, u16, u32)],
        points: usize,
        /// FNV-1a over (hash, node) of every point in ring order.
        ring: u64,
        /// For each of `KEYS` the nodes in the order in which a walk meets them.
        walks: &'static [&'static [usize]],
        /// How many of `key-0` … `key-9999` each node gets.
        shares: &'static [usize],
    }

    const KEYS: [&str; 12] = [
        "",
        "127.0.0.1",
        "127.0.0.2",
        "10.0.0.1",
        "192.168.1.77",
        "jack",
        "/hello?id=1",
        "session-abc123",
        "你好",
        "a",
        "b",
        "c",
    ];

    const KNOWN: [Known; 3] = [
        Known {
            nodes: &[("127.0.0.1", 1980, 1), ("127.0.0.1", 1981, 1), ("127.0.0.1", 1982, 1)],
            points: 480,
            ring: 0xc1e3_a69d_e576_202f,
            walks: &[
                &[2, 0, 1],
                &[2, 0, 1],
                &[1, 0, 2],
                &[2, 0, 1],
                &[1, 0, 2],
                &[1, 0, 2],
                &[2, 1, 0],
                &[1, 0, 2],
                &[2, 1, 0],
                &[1, 0, 2],
                &[1, 2, 0],
                &[0, 2, 1],
            ],
            shares: &[3098, 3469, 3433],
        },
        Known {
            nodes: &[("10.1.0.1", 80, 30), ("10.1.0.2", 80, 20), ("10.1.0.3", 8080, 0), ("10.1.0.4", 80, 10)],
            points: 960,
            ring: 0x6a15_7fd3_22fa_027c,
            walks: &[
                &[0, 1, 3],
                &[0, 1, 3],
                &[3, 0, 1],
                &[0, 1, 3],
                &[3, 0, 1],
                &[3, 0, 1],
                &[1, 0, 3],
                &[1, 3, 0],
                &[0, 1, 3],
                &[0, 3, 1],
                &[3, 0, 1],
                &[0, 1, 3],
            ],
            shares: &[5116, 3328, 0, 1556],
        },
        Known {
            nodes: &[("::1", 1980, 1), ("foo.com", 443, 1)],
            points: 320,
            ring: 0x66f3_5f2a_0f77_8ee1,
            walks: &[
                &[0, 1],
                &[1, 0],
                &[1, 0],
                &[0, 1],
                &[1, 0],
                &[0, 1],
                &[1, 0],
                &[1, 0],
                &[0, 1],
                &[0, 1],
                &[0, 1],
                &[1, 0],
            ],
            shares: &[5312, 4688],
        },
    ];

    fn ring(nodes: &[(&str, u16, u32)]) -> Chash {
        let peers: Vec<Peer> = nodes
            .iter()
            .map(|&(host, port, weight)| Peer { host: host.into(), port, weight, priority: 0 })
            .collect();
        let members: Vec<Member> =
            peers.iter().enumerate().map(|(node, p)| Member { node, weight: p.weight }).collect();
        Chash::new(&members, &peers)
    }

    #[test]
    fn the_ring_is_that_of_lua_resty_chash() {
        for known in &KNOWN {
            let chash = ring(known.nodes);
            assert_eq!(chash.ring.len(), known.points);
            let fnv = chash.ring.iter().fold(1_469_598_103_934_665_603_u64, |fnv, point| {
                let fnv = (fnv ^ u64::from(point.hash)).wrapping_mul(0x100_0000_01b3);
                (fnv ^ u64::from(point.node)).wrapping_mul(0x100_0000_01b3)
            });
            assert_eq!(fnv, known.ring, "{:?}", known.nodes);
        }
    }

    #[test]
    fn keys_meet_the_nodes_in_the_order_of_lua_resty_chash() {
        for known in &KNOWN {
            let chash = ring(known.nodes);
            for (key, walk) in KEYS.iter().zip(known.walks) {
                let mut seen: Vec<usize> = Vec::new();
                while let Some(node) = chash.pick(key.as_bytes(), |node| !seen.contains(&node)) {
                    seen.push(node);
                }
                assert_eq!(seen, *walk, "key {key:?} of {:?}", known.nodes);
            }
        }
    }

    #[test]
    fn keys_are_shared_out_as_by_lua_resty_chash() {
        for known in &KNOWN {
            let chash = ring(known.nodes);
            let mut shares = vec![0; known.nodes.len()];
            for n in 0..10_000 {
                shares[chash.pick(format!("key-{n}").as_bytes(), |_| true).unwrap()] += 1;
            }
            assert_eq!(shares, known.shares);
        }
    }

    #[test]
    fn a_node_that_is_out_moves_only_its_own_keys() {
        let chash = ring(KNOWN[0].nodes);
        for n in 0..1000 {
            let key = format!("key-{n}");
            let before = chash.pick(key.as_bytes(), |_| true);
            let without = chash.pick(key.as_bytes(), |node| node != 1);
            assert!(before == without || before == Some(1));
        }
    }

    #[test]
    fn huge_weights_stay_within_the_bound_and_zero_weights_pick_none() {
        let chash = ring(&[("10.0.0.1", 80, 4_000_000_000), ("10.0.0.2", 80, 1)]);
        assert!(chash.ring.len() as u64 <= limits::CHASH_POINTS + 2);
        assert!(chash.ring.iter().any(|point| point.node == 1), "the light node keeps a point");
        assert_eq!(ring(&[("10.0.0.1", 80, 0), ("10.0.0.2", 80, 0)]).pick(b"k", |_| true), None);
    }
}

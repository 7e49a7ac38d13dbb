//! What every algorithm owes its user: shares by weight, no tried node, health, priorities, the single node.

use super::*;

const ALL: [Balance; 5] =
    [Balance::RoundRobin, Balance::Chash, Balance::LeastConn, Balance::Ewma, Balance::Random];

fn peers(weights: &[u32]) -> Vec<Peer> {
    let peer = |(n, &weight): (usize, &u32)| Peer {
        host: format!("10.0.0.{n}").into(),
        port: 80,
        weight,
        priority: 0,
    };
    weights.iter().enumerate().map(peer).collect()
}

fn set(nodes: &[usize]) -> NodeSet {
    let mut set = NodeSet::new();
    for &node in nodes {
        set.insert(node);
    }
    set
}

/// A balancer with the picks of one request after another.
struct Bench {
    balancer: Balancer,
    rng: fastrand::Rng,
    now_ms: u64,
    key: u32,
}

impl Bench {
    fn new(balance: Balance, peers: &[Peer]) -> Self {
        let mut rng = fastrand::Rng::with_seed(7);
        Bench { balancer: Balancer::new(balance, peers, None, &mut rng), rng, now_ms: 1000, key: 0 }
    }

    fn pick(&mut self, tried: &[usize], unhealthy: &[usize]) -> Option<usize> {
        self.key += 1;
        let (tried, unhealthy) = (set(tried), set(unhealthy));
        let key = self.key.to_string();
        let pick = Pick { key: key.as_bytes(), tried: &tried, unhealthy: &unhealthy, now_ms: self.now_ms };
        self.balancer.pick(&pick, &mut self.rng)
    }

    fn counts(&mut self, picks: usize, nodes: usize, unhealthy: &[usize]) -> Vec<usize> {
        let mut counts = vec![0; nodes];
        for _ in 0..picks {
            counts[self.pick(&[], unhealthy).unwrap()] += 1;
        }
        counts
    }
}

#[test]
fn roundrobin_gives_each_node_its_weight_in_every_cycle() {
    for weights in [&[1, 1, 1][..], &[4, 2], &[5, 3, 2], &[100, 1], &[3, 0, 1], &[0, 0], &[12, 9, 6, 3]] {
        let gcd = weights.iter().fold(0, |gcd, &w| roundrobin::greatest_common_divisor(gcd, w)).max(1);
        let expected: Vec<usize> = if weights.iter().all(|&w| w == 0) {
            vec![1; weights.len()]
        } else {
            weights.iter().map(|&w| (w / gcd) as usize).collect()
        };
        let cycle = expected.iter().sum();
        let mut bench = Bench::new(Balance::RoundRobin, &peers(weights));
        let _ = bench.counts(cycle, weights.len(), &[]); // the first is cut by the random start
        for _ in 0..3 {
            assert_eq!(bench.counts(cycle, weights.len(), &[]), expected, "{weights:?}");
        }
    }
}

#[test]
fn roundrobin_has_the_order_of_lua_resty_roundrobin() {
    let mut bench = Bench::new(Balance::RoundRobin, &peers(&[4, 2, 1]));
    let order: Vec<usize> = (0..21).map(|_| bench.pick(&[], &[]).unwrap()).collect();
    // thresholds 4, 3, 2, 1: a | a | a b | a b c
    let cycle = [0, 0, 0, 1, 0, 1, 2];
    assert!((0..7).any(|start| (0..14).all(|n| order[7 + n] == cycle[(start + n) % 7])), "{order:?}");
}

#[test]
fn roundrobin_starts_anywhere() {
    let mut starts: Vec<usize> = (0..50)
        .map(|seed| {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut balancer = Balancer::new(Balance::RoundRobin, &peers(&[1, 1, 1]), None, &mut rng);
            let none = NodeSet::new();
            balancer.pick(&Pick { key: b"", tried: &none, unhealthy: &none, now_ms: 0 }, &mut rng).unwrap()
        })
        .collect();
    starts.sort_unstable();
    starts.dedup();
    assert_eq!(starts, [0, 1, 2]);
}

#[test]
fn roundrobin_shares_by_weight_among_the_healthy_too() {
    let mut bench = Bench::new(Balance::RoundRobin, &peers(&[4, 2, 1]));
    let _ = bench.counts(6, 3, &[2]);
    assert_eq!(bench.counts(60, 3, &[2]), [40, 20, 0]);
    assert_eq!(bench.counts(10, 3, &[0, 1]), [0, 0, 10]);
}

#[test]
fn random_follows_the_weights() {
    let counts = Bench::new(Balance::Random, &peers(&[3, 1, 0])).counts(40_000, 3, &[]);
    assert!((29_000..31_000).contains(&counts[0]) && counts[2] == 0, "{counts:?}");
    let counts = Bench::new(Balance::Random, &peers(&[0, 0])).counts(1000, 2, &[]);
    assert!(counts[0] > 400 && counts[1] > 400, "{counts:?}");
}

#[test]
fn least_conn_prefers_the_idle_and_counts_survive_a_rebuild() {
    let three = peers(&[1, 1, 1]);
    let mut bench = Bench::new(Balance::LeastConn, &three);
    for node in [0, 0, 1] {
        bench.balancer.started(node);
    }
    assert_eq!(bench.pick(&[], &[]), Some(2));

    // node 0 leaves, a new one comes; 10.0.0.1 keeps its one connection
    let changed = vec![three[1].clone(), Peer { host: "10.0.0.9".into(), ..three[0].clone() }];
    let rebuilt = Balancer::new(Balance::LeastConn, &changed, Some(&bench.balancer), &mut bench.rng);
    let old = std::mem::replace(&mut bench.balancer, rebuilt);
    assert_eq!((bench.pick(&[], &[]), bench.pick(&[], &[])), (Some(1), Some(1)));
    // the request that started on the old balancer ends there, and is seen here
    old.finished(1, None, 0);
    bench.balancer.started(1);
    assert_eq!(bench.pick(&[], &[]), Some(0));
}

#[test]
fn least_conn_weighs_connections() {
    let mut bench = Bench::new(Balance::LeastConn, &peers(&[3, 1, 0]));
    let mut counts = [0; 3];
    for _ in 0..40 {
        let node = bench.pick(&[], &[]).unwrap();
        bench.balancer.started(node);
        counts[node] += 1;
    }
    assert_eq!(counts, [30, 10, 0]);
    assert_eq!(bench.pick(&[0, 1], &[]), Some(2), "weight 0 is the last resort");
}

#[test]
fn ewma_avoids_the_slow_node_until_the_memory_of_it_fades() {
    let mut bench = Bench::new(Balance::Ewma, &peers(&[1, 1]));
    bench.balancer.finished(0, Some(500), bench.now_ms);
    bench.balancer.finished(1, Some(10), bench.now_ms);
    assert_eq!(bench.counts(50, 2, &[]), [0, 50]);
    bench.balancer.finished(1, None, bench.now_ms); // a failure is not a latency
    bench.now_ms += 60_000;
    bench.balancer.finished(1, Some(10), bench.now_ms);
    assert_eq!(bench.counts(50, 2, &[]), [50, 0], "500 ms a minute ago is 1.2 ms now");
}

#[test]
fn a_tried_node_is_never_picked_again_and_all_tried_is_none() {
    for balance in ALL {
        let mut bench = Bench::new(balance, &peers(&[1, 2, 1]));
        for _ in 0..30 {
            let first = bench.pick(&[], &[]).unwrap();
            let second = bench.pick(&[first], &[]).unwrap();
            let third = bench.pick(&[first, second], &[]).unwrap();
            let mut seen = [first, second, third];
            seen.sort_unstable();
            assert_eq!(seen, [0, 1, 2], "{balance:?}");
            assert_eq!(bench.pick(&[0, 1, 2], &[]), None, "{balance:?}");
        }
    }
}

#[test]
fn unhealthy_nodes_are_skipped_until_all_are_unhealthy() {
    for balance in ALL {
        let mut bench = Bench::new(balance, &peers(&[1, 1, 1]));
        for _ in 0..30 {
            assert_eq!(bench.pick(&[], &[0, 2]), Some(1), "{balance:?}");
        }
        assert_eq!(bench.pick(&[1], &[0, 2]), None, "{balance:?}: no healthy node is left to try");
        assert!(bench.pick(&[], &[0, 1, 2]).is_some(), "{balance:?}");
    }
}

/// Neither is a node without weight a place to retry on, nor is it kept out when it is all that is healthy.
#[test]
fn without_weight_a_node_serves_when_those_with_weight_are_unhealthy() {
    for balance in [Balance::RoundRobin, Balance::LeastConn, Balance::Ewma, Balance::Random] {
        let mut nodes = peers(&[1, 0, 2, 0, 1]);
        nodes[4].priority = -1;
        let mut bench = Bench::new(balance, &nodes);
        for _ in 0..20 {
            assert!(matches!(bench.pick(&[], &[0, 2]), Some(1 | 3)), "{balance:?}");
            assert_eq!(bench.pick(&[1], &[0, 2]), Some(3), "{balance:?}");
            assert_eq!(bench.pick(&[1, 3], &[0, 2]), Some(4), "{balance:?}");
            assert_eq!(bench.pick(&[], &[0]), Some(2), "{balance:?}");
            if balance != Balance::LeastConn {
                assert_eq!(bench.pick(&[2], &[0]), Some(4), "{balance:?}");
            }
        }
    }
    let mut chash = Bench::new(Balance::Chash, &peers(&[1, 0]));
    assert_eq!(chash.pick(&[], &[0]), None, "it is not on the ring");
}

#[test]
fn a_single_node_serves_whatever_its_weight_health_and_tries() {
    for balance in ALL {
        let mut bench = Bench::new(balance, &peers(&[0]));
        assert_eq!(bench.pick(&[0], &[0]), Some(0), "{balance:?}");
    }
}

#[test]
fn lower_priorities_wait_until_the_higher_are_tried_or_out() {
    for balance in ALL {
        let mut nodes = peers(&[1, 1, 1, 1]);
        (nodes[0].priority, nodes[2].priority, nodes[3].priority) = (-1, 5, 5);
        let mut bench = Bench::new(balance, &nodes);
        for _ in 0..20 {
            assert!(matches!(bench.pick(&[], &[]), Some(2 | 3)), "{balance:?}");
            assert_eq!(bench.pick(&[], &[2]), Some(3), "{balance:?}");
            assert_eq!(bench.pick(&[2, 3], &[]), Some(1), "{balance:?}");
            assert_eq!(bench.pick(&[2], &[3]), Some(1), "{balance:?}");
            assert_eq!(bench.pick(&[1, 2, 3], &[]), Some(0), "{balance:?}");
        }
    }
}

#[test]
fn no_nodes_and_no_balancer_pick_nothing() {
    for balance in ALL {
        assert_eq!(Bench::new(balance, &[]).pick(&[], &[]), None);
    }
    assert_eq!(Bench::new(Balance::None, &peers(&[1])).pick(&[], &[]), None);
}

//! The router at 100,000 routes: time of a match, of a change, and bytes per route.
//!
//! `cargo bench --bench router [-- <routes>]`. Requests are prepared in batches outside the clock, as a
//! request's own bytes are in the cache when it is routed; figures are percentiles
//! over batches; the 10th is the one that a busy machine disturbs least. The bound in the design: 250 bytes a route a core.

use std::alloc::{GlobalAlloc, Layout};
use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use ringway::exchange::Vars;
use ringway::live::router::{Entry, Matcher, Mode, Params, Router};
use ringway::model::{Methods, Route};
use ringway::reactor::Allocator;

struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);
static CALLS: AtomicU64 = AtomicU64::new(0);

/// What the gateway allocates with: its pages are large ones, which a walk through 100,000 routes notices.
const GATEWAYS: Allocator = Allocator;

// SAFETY: each call goes to the gateway's allocator unchanged; the counters touch no memory of theirs.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size(), Relaxed);
        CALLS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { GATEWAYS.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Relaxed);
        // SAFETY: `block` came from `alloc` above, thus from the gateway's allocator, with this layout.
        unsafe { GATEWAYS.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct NoVars;
impl Vars for NoVars {
    fn var(&self, _name: &str) -> Option<Cow<'_, [u8]>> {
        None
    }
}

/// A route and a request that takes it.
struct Sample {
    hosts: Vec<Box<str>>,
    uris: Vec<Box<str>>,
    host: String,
    path: String,
}

/// Of ten routes of a host: 4 prefixes, 3 exact, 2 with parameters (or prefixes in the middle of words), and
/// the host's `/*`; one host in 20 is a wildcard, one in 20 has no host.
fn sample(index: usize, mode: Mode, random: &mut fastrand::Rng) -> Sample {
    let (group, kind) = (index / 10, index % 10);
    let host = format!("shop-{group}.example.com");
    let base = if mode == Mode::HostUri { String::new() } else { format!("/shop-{group}") };
    let word = ["orders", "users", "items", "carts", "payments"][kind % 5];
    let id = random.u32(1..1_000_000);
    let (uri, path) = match kind {
        0 => (format!("{base}/*"), format!("{base}/landing/{id}")),
        1..=4 => (
            format!("{base}/api/v{}/{word}/*", kind % 2),
            format!("{base}/api/v{}/{word}/{id}/lines", kind % 2),
        ),
        5..=7 => (format!("{base}/pages/{word}.html"), format!("{base}/pages/{word}.html")),
        _ if mode == Mode::UriWithParameter => {
            (format!("{base}/{word}/:id/part-{kind}/:part"), format!("{base}/{word}/{id}/part-{kind}/7"))
        }
        _ => (format!("{base}/assets/{word}-*"), format!("{base}/assets/{word}-{id}.js")),
    };
    let (hosts, host) = match group % 20 {
        _ if mode != Mode::HostUri => (vec![], host),
        0 => (vec![format!("*.{host}").into()], format!("eu.{host}")),
        1 => (vec![], host),
        _ => (vec![host.as_str().into()], host),
    };
    // Routes without a host need a URI of their own.
    let unique = |text: String| {
        if group % 20 == 1 && mode == Mode::HostUri { format!("/g{group}{text}") } else { text }
    };
    Sample { hosts, uris: vec![unique(uri).into()], host, path: unique(path) }
}

/// Indices with probability in proportion to 1/rank.
fn zipf(count: usize, random: &mut fastrand::Rng) -> impl FnMut(&mut fastrand::Rng) -> usize + use<> {
    let mut order: Vec<usize> = (0..count).collect();
    random.shuffle(&mut order);
    let mut sum = 0.0;
    let reach: Vec<f64> = (1..=count)
        .map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        })
        .collect();
    move |random| order[reach.partition_point(|&reach| reach < random.f64() * sum).min(count - 1)]
}

struct Measured {
    p10: f64,
    median: f64,
    p99: f64,
}

fn of_batches(mut nanos: Vec<f64>) -> Measured {
    nanos.sort_by(f64::total_cmp);
    Measured {
        p10: nanos[nanos.len() / 10],
        median: nanos[nanos.len() / 2],
        p99: nanos[nanos.len() * 99 / 100],
    }
}

fn matches(
    router: &Router,
    matchers: &[Matcher],
    samples: &[Sample],
    random: &mut fastrand::Rng,
    mut pick: impl FnMut(&mut fastrand::Rng) -> usize,
) -> Measured {
    const BATCH: usize = 32;
    const BATCHES: usize = 4_000;
    let (client, get) = (IpAddr::V4(Ipv4Addr::LOCALHOST), Methods(1));
    // All requests in the order of their coming, read once: of the samples themselves nothing is touched.
    let (mut text, mut requests) = (Vec::new(), Vec::new());
    for _ in 0..BATCHES * BATCH {
        let at = pick(random);
        text.extend_from_slice(samples[at].host.as_bytes());
        text.extend_from_slice(samples[at].path.as_bytes());
        requests.push((at as u32, samples[at].host.len() as u16, samples[at].path.len() as u16));
    }
    let (mut params, mut nanos, mut text) = (Params::default(), Vec::new(), &text[..]);
    for (round, batch) in requests.chunks_exact(BATCH).enumerate() {
        let length = batch.iter().map(|(_, host, path)| (host + path) as usize).sum();
        let mut hot = [0u8; 16 * 1024];
        hot[..length].copy_from_slice(&text[..length]);
        text = &text[length..];
        let (mut rest, calls) = (&hot[..length], CALLS.load(Relaxed));
        let start = Instant::now();
        for &(at, host, path) in batch {
            let (host, after) = rest.split_at(host as usize);
            let (path, after) = after.split_at(path as usize);
            rest = after;
            let found = router.find(host, path, &mut params, |route| {
                matchers[route as usize].accepts(get, host, client, &NoVars)
            });
            assert_eq!(found, Some(at));
        }
        let elapsed = start.elapsed();
        assert_eq!(CALLS.load(Relaxed), calls, "a match allocates");
        if round >= BATCHES / 4 {
            nanos.push(elapsed.as_nanos() as f64 / BATCH as f64);
        }
    }
    of_batches(nanos)
}

/// Removes and inserts routes at random in the full table.
fn changes(router: &mut Router, samples: &[Sample], random: &mut fastrand::Rng) -> Measured {
    let mut nanos = Vec::new();
    for _ in 0..20_000 {
        let at = random.usize(..samples.len());
        let Sample { hosts, uris, .. } = &samples[at];
        let start = Instant::now();
        router.remove(at as u32, hosts, uris);
        router.insert(at as u32, Entry { hosts, uris, priority: 0, order: at as u64 });
        nanos.push(start.elapsed().as_nanos() as f64);
    }
    of_batches(nanos)
}

fn main() {
    let count = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(100_000);
    println!("{count} routes; ns: 10th percentile/median (99th) over batches of 32");
    for mode in [Mode::HostUri, Mode::Uri, Mode::UriWithParameter] {
        let mut random = fastrand::Rng::with_seed(1);
        let samples: Vec<Sample> = (0..count).map(|index| sample(index, mode, &mut random)).collect();
        let before = BYTES.load(Relaxed);
        let mut router = Router::new(mode);
        let mut order: Vec<usize> = (0..count).collect();
        random.shuffle(&mut order);
        let start = Instant::now();
        for at in order {
            let Sample { hosts, uris, .. } = &samples[at];
            router.insert(at as u32, Entry { hosts, uris, priority: 0, order: at as u64 });
        }
        let built = start.elapsed().as_nanos() as f64 / count as f64;
        // `order` was counted and is gone again.
        let bytes = (BYTES.load(Relaxed) - before) as f64 / count as f64;
        let matcher = || Matcher::compile(&Route { methods: Methods(1), ..Route::default() }, &[], mode);
        let matchers: Vec<Matcher> = (0..count).map(|_| matcher().unwrap_or_default()).collect();
        let zipf = zipf(count, &mut random);
        let zipf = matches(&router, &matchers, &samples, &mut random, zipf);
        let uniform = matches(&router, &matchers, &samples, &mut random, |random| random.usize(..count));
        let changed = changes(&mut router, &samples, &mut random);
        println!(
            "{mode:?}: match zipf {:.0}/{:.0} ({:.0}), uniform {:.0}/{:.0} ({:.0}); insert {built:.0} while building; remove and insert \
             {:.0} ({:.0}); {:.0} bytes a route + {} for its matcher",
            zipf.p10,
            zipf.median,
            zipf.p99,
            uniform.p10,
            uniform.median,
            uniform.p99,
            changed.median,
            changed.p99,
            bytes,
            size_of::<Matcher>(),
        );
    }
}

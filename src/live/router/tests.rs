use std::collections::HashMap;

use super::*;

fn boxed(texts: &[&str]) -> Vec<Box<str>> {
    texts.iter().map(|text| Box::from(*text)).collect()
}

/// A router of `(hosts, uris, priority)`, in this order.
fn router(mode: Mode, routes: &[(&[&str], &[&str], i64)]) -> Router {
    let mut router = Router::new(mode);
    for (index, (hosts, uris, priority)) in routes.iter().enumerate() {
        let (hosts, uris) = (boxed(hosts), boxed(uris));
        let entry = Entry { hosts: &hosts, uris: &uris, priority: *priority, order: index as u64 };
        router.insert(index as u32, entry);
    }
    router
}

/// All candidates in the order in which they are offered.
fn offered(router: &Router, host: &str, path: &str) -> Vec<RouteIx> {
    let mut seen = Vec::new();
    router.find(host.as_bytes(), path.as_bytes(), &mut Params::default(), |route| {
        seen.push(route);
        false
    });
    seen
}

#[test]
fn exact_then_longest_prefix_then_shorter() {
    let router = router(
        Mode::HostUri,
        &[(&[], &["/*"], 100), (&[], &["/foo/*"], 0), (&[], &["/foo/bar"], -5), (&[], &["/foo*"], 3)],
    );
    assert_eq!(offered(&router, "x", "/foo/bar"), [2, 1, 3, 0]);
    assert_eq!(offered(&router, "x", "/foo"), [3, 0]);
    assert_eq!(offered(&router, "x", "/foo/bar/"), [1, 3, 0]);
    assert_eq!(offered(&router, "x", "/fo"), [0]);
    assert!(offered(&router, "x", "*").is_empty());
}

#[test]
fn priority_then_order_in_one_uri() {
    let uri: &[&str] = &["/a/*"];
    let router =
        router(Mode::Uri, &[(&[], uri, 0), (&[], uri, 7), (&[], uri, 0), (&[], uri, 7), (&[], uri, -1)]);
    assert_eq!(offered(&router, "", "/a/b"), [1, 3, 0, 2, 4]);
}

#[test]
fn the_longer_uri_before_the_earlier() {
    let router = router(
        Mode::UriWithParameter,
        &[(&[], &["/a/*"], 0), (&[], &["/a/:name"], 0), (&[], &["/a/:n/x"], 0), (&[], &["/a/b"], 0)],
    );
    assert_eq!(offered(&router, "", "/a/b"), [3, 1, 0]);
    assert_eq!(offered(&router, "", "/a/b/x"), [2, 0]);
}

#[test]
fn hosts_before_uris() {
    let router = router(
        Mode::HostUri,
        &[
            (&[], &["/foo"], 100),
            (&["*.foo.com"], &["/foo"], 50),
            (&["*.com"], &["/foo"], 70),
            (&["a.foo.com", "b.foo.com"], &["/*"], 0),
            (&["*.foo.com"], &["/*"], 0),
        ],
    );
    assert_eq!(offered(&router, "a.foo.com", "/foo"), [3, 1, 4, 2, 0]);
    assert_eq!(offered(&router, "x.y.foo.com", "/foo"), [1, 4, 2, 0]);
    assert_eq!(offered(&router, "foo.com", "/foo"), [2, 0]);
    assert_eq!(offered(&router, "b.foo.com", "/bar"), [3, 4]);
    assert_eq!(offered(&router, "", "/foo"), [0]);
}

#[test]
fn a_colon_is_a_parameter_in_one_mode_only() {
    let uris: &[&str] = &["/user/:id"];
    assert!(offered(&router(Mode::HostUri, &[(&[], uris, 0)]), "", "/user/1").is_empty());
    assert_eq!(offered(&router(Mode::Uri, &[(&[], uris, 0)]), "", "/user/:id"), [0]);
    let router = router(Mode::UriWithParameter, &[(&[], uris, 0)]);
    let mut params = Params::default();
    assert_eq!(router.find(b"", b"/user/42", &mut params, |_| true), Some(0));
    assert_eq!(params.get("id", b"/user/42"), Some(&b"42"[..]));
    assert_eq!(params.matched_uri(&boxed(&["/x", "/user/:id"]), b"/user/42"), Some("/user/:id"));
    assert_eq!(router.find(b"", b"/none", &mut params, |_| true), None);
    assert_eq!(params.get("id", b"/none"), None);
}

/// One route of the reference.
struct Plain {
    hosts: Vec<Box<str>>,
    uris: Vec<Box<str>>,
    priority: i64,
    order: u64,
}

/// Whether what follows the literal prefix of a URI matches the rest of a path, by trying everything. Once
/// there is a prefix, `:name` is a parameter in all modes (lib/resty/radixtree.lua).
fn rest_matches(rest: &[u8], path: &[u8], at_start: bool) -> bool {
    let until_slash = |text: &[u8]| text.iter().position(|&b| b == b'/').unwrap_or(text.len());
    let name = until_slash(rest);
    match rest {
        [] => path.is_empty(),
        [b'*', ..] if at_start => {
            (0..=path.len()).any(|taken| rest_matches(&rest[name..], &path[taken..], false))
        }
        [b':', ..] if at_start => {
            let taken = until_slash(path);
            taken > 0 && rest_matches(&rest[name..], &path[taken..], false)
        }
        [byte, rest @ ..] => path.first() == Some(byte) && rest_matches(rest, &path[1..], *byte == b'/'),
    }
}

fn uri_matches(uri: &str, special: Option<usize>, path: &str) -> bool {
    let Some(at) = special else { return uri == path };
    let (prefix, rest) = uri.split_at(at);
    let Some(path) = path.strip_prefix(prefix) else { return false };
    let at_start = prefix.ends_with('/');
    let named = rest.contains("/:") || rest.contains("/*") || at_start;
    !named || rest_matches(rest.as_bytes(), path.as_bytes(), at_start)
}

/// The naive reading of the rules: every pair of host and URI that matches, sorted.
fn reference(routes: &HashMap<u32, Plain>, mode: Mode, host: &str, path: &str) -> Vec<RouteIx> {
    let parameters = mode == Mode::UriWithParameter;
    let mut found = Vec::new();
    for (&route, plain) in routes {
        let by_host = mode == Mode::HostUri && !plain.hosts.is_empty();
        let hosts = if by_host { plain.hosts.clone() } else { vec!["*".into()] };
        for known in &hosts {
            let (matches, wild) = match known.strip_prefix('*') {
                Some(end) => (host.ends_with(end), true),
                None => (**known == *host, false),
            };
            for (index, uri) in plain.uris.iter().enumerate() {
                let special = if parameters && uri.contains(':') { uri.find(':') } else { uri.find('*') };
                if !matches || !uri_matches(uri, special, path) {
                    continue;
                }
                let by_uri = (special.is_some(), Reverse(special.unwrap_or(0)));
                let by_rank = (Reverse(plain.priority), Reverse(uri.len()), plain.order, index);
                found.push(((!by_host, wild, Reverse(known.len())), by_uri, by_rank, route));
            }
        }
    }
    found.sort();
    found.into_iter().map(|(.., route)| route).collect()
}

/// Random routes come and go, and at each step random requests see the same candidates in the same order.
#[test]
fn agrees_with_the_reference() {
    let hosts = ["a.com", "b.com", "x.a.com", "*.com", "*.a.com", "*a.com", "*.x.a.com"];
    let segments = ["a", "b", "ab", "*", "*n", ":id", ":x", "", "a:b"];
    for (seed, mode) in [(1, Mode::HostUri), (2, Mode::Uri), (3, Mode::UriWithParameter)] {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut router, mut routes, mut compared) = (Router::new(mode), HashMap::new(), 0);
        for step in 0..3_000u64 {
            let route = random.u32(0..60);
            if let Some(Plain { hosts, uris, .. }) = routes.remove(&route) {
                router.remove(route, &hosts, &uris);
            } else {
                let uris = some(&mut random, 3, |random| random_uri(random, &segments));
                let hosts =
                    if random.bool() { some(&mut random, 2, |r| hosts[r.usize(..7)].into()) } else { vec![] };
                let (priority, order) = (random.i64(-1..2), step);
                router.insert(route, Entry { hosts: &hosts, uris: &uris, priority, order });
                routes.insert(route, Plain { hosts, uris, priority, order });
            }
            for _ in 0..3 {
                let host =
                    ["a.com", "b.com", "x.a.com", "y.x.a.com", "xa.com", "c.org", ""][random.usize(..7)];
                let path = random_uri(&mut random, &["a", "b", "ab", "c", "", ":id"]);
                let expected = reference(&routes, mode, host, &path);
                assert_eq!(offered(&router, host, &path), expected, "{mode:?} {host} {path} at {step}");
                compared += usize::from(expected.len() > 1);
            }
        }
        assert!(compared > 1_000, "only {compared} requests had candidates to put in order");
        for (route, plain) in routes {
            router.remove(route, &plain.hosts, &plain.uris);
        }
        assert!(router.hosts.is_empty() && router.lists.is_empty() && router.patterns.is_empty());
        assert!(
            router.any_host.is_empty() && router.wildcards.is_empty() && router.wildcard_roots.is_empty()
        );
    }
}

/// 1 to `most` different texts, as the schema asks.
fn some(
    random: &mut fastrand::Rng,
    most: usize,
    mut one: impl FnMut(&mut fastrand::Rng) -> Box<str>,
) -> Vec<Box<str>> {
    let mut texts: Vec<Box<str>> = (0..random.usize(1..=most)).map(|_| one(random)).collect();
    texts.sort();
    texts.dedup();
    texts
}

fn random_uri(random: &mut fastrand::Rng, segments: &[&str]) -> Box<str> {
    let mut uri = String::new();
    for _ in 0..random.usize(1..5) {
        uri.push('/');
        uri.push_str(segments[random.usize(..segments.len())]);
    }
    if random.u32(0..6) == 0 && segments.contains(&"*") && !uri.contains(['*', ':']) {
        uri.push('*');
    }
    uri.into()
}

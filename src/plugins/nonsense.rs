//! Nonsense from clients, by seed, through every plugin: none panics, and no answer gives a secret away.
//!
//! `RINGWAY_FUZZ_SEED` repeats a run that failed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use fastrand::Rng;
use serde_json::{Value, json};

use super::kit::test;
use super::{ALL, tests};
use crate::exchange::{Body, BodyPiece, Exchange, Reply, ReplyBody};
use crate::plugin::chain::Item;
use crate::plugin::meta::Meta;
use crate::plugin::{Build, Chain, Host, Phase, Plugin, SchemaType, Spec};
use crate::reactor::{self, Chunk};
use crate::wire::headers::Headers;

/// In every consumer, wherever it has one.
const SECRET: &str = "s3cret-of-anna-that-nobody-else-may-see";

/// Requests for each configuration.
const REQUESTS: u32 = 150;

/// These write to files, threads or other servers; what they write is tested beside them.
const OUTWARD: [&str; 7] =
    ["file-logger", "forward-auth", "http-logger", "proxy-mirror", "syslog", "tcp-logger", "udp-logger"];

/// Headers that some plugin reads.
const NAMES: [&str; 30] = [
    "accept-encoding",
    "access-control-request-headers",
    "access-control-request-method",
    "access-control-request-private-network",
    "apikey",
    "apisix-csrf-token",
    "authorization",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "digest",
    "expect",
    "forwarded",
    "host",
    "jwt-assertion",
    "origin",
    "range",
    "referer",
    "user-agent",
    "x-api-key",
    "x-api-version",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-hmac-algorithm",
    "x-real-ip",
    "x-release",
    "x-request-id",
    "x-tag",
];

#[test]
fn no_plugin_panics_and_no_answer_has_a_secret() {
    let seed = std::env::var("RINGWAY_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    reactor::block_on(reactor::Config::default(), |_| async move {
        let mut rng = Rng::with_seed(seed);
        let host = host();
        for spec in ALL.iter().filter(|spec| !OUTWARD.contains(&spec.name)) {
            for conf in configurations(spec) {
                let build = Build { host: &host, parent: "/apisix/routes/1", metadata: None };
                let plugin = test::build_in(spec, &build, conf.clone());
                let chain = chain(spec, plugin.unwrap_or_else(|error| panic!("{conf}: {error}")));
                for _ in 0..REQUESTS {
                    let mut ex = request(&mut rng);
                    let said =
                        format!("{} of seed {seed}, {conf}: {}", spec.name, lines(&ex.req.head.headers));
                    let run = catch_unwind(AssertUnwindSafe(|| run(&chain, &mut ex, &host, &mut rng)));
                    let answer = run.unwrap_or_else(|_| panic!("{said}"));
                    assert!(!answer.contains(SECRET), "{said}\n{answer}");
                }
            }
        }
    })
    .unwrap();
}

/// With a consumer that every auth plugin knows.
fn host() -> Rc<Host> {
    let host = test::host();
    let plugins = json!({
        "key-auth": { "key": SECRET },
        "basic-auth": { "username": "anna", "password": SECRET },
        "jwt-auth": { "key": "anna", "secret": SECRET, "algorithm": "HS256" },
        "hmac-auth": { "key_id": "anna", "secret_key": SECRET }
    });
    host.consumers.put(&test::consumer("anna", plugins, json!({ "role": "none" })));
    host
}

/// Those of its page, and an empty one, if it may be.
fn configurations(spec: &'static Spec) -> Vec<Value> {
    let of_page = tests::examples(spec.name).into_iter().filter_map(|example| {
        let object: Value = serde_json::from_str(&example).ok()?;
        object.get("username").is_none().then(|| object["plugins"].get(spec.name).cloned())?
    });
    let empty =
        Some(json!({})).filter(|conf| test::check(spec, SchemaType::Plain, conf.clone()) == "accepted");
    of_page.chain(empty).collect()
}

fn chain(spec: &'static Spec, plugin: Rc<dyn Plugin>) -> Chain {
    let meta = Rc::new(Meta::default());
    Chain::new(vec![Item { spec, plugin, meta, reads_body: false, from_consumer: false }], 0)
}

/// All phases. The answer as text: the plugin's own, or the upstream's as the plugin left it.
fn run(chain: &Chain, ex: &mut Exchange, host: &Host, rng: &mut Rng) -> String {
    let mut body = None;
    for phase in [Phase::Rewrite, Phase::Access, Phase::BeforeProxy] {
        let mut step = pin!(chain.run(phase, ex, host));
        match step.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(None) => {}
            Poll::Ready(Some(Reply { body: answer, .. })) => {
                body = Some(answer);
                break;
            }
            Poll::Pending => return String::new(), // the client leaves meanwhile
        }
    }
    test::answer(ex, rng.u16(200..600), &[("Content-Type", "text/html"), ("Content-Length", "12")]);
    ex.resp.head.headers.add(name(rng), &value(rng));
    chain.header_filter(ex, host);
    let mut piece = BodyPiece { data: Chunk::from_vec(value(rng)), last: rng.bool() };
    chain.body_filter(ex, &mut piece);
    chain.log(ex, host, None);
    let mut text = lines(&ex.resp.head.headers);
    match body {
        Some(ReplyBody::Text(bytes)) => text.push_str(&String::from_utf8_lossy(&bytes)),
        Some(ReplyBody::Json(json)) => text.push_str(&json.to_string()),
        Some(ReplyBody::Field(_, said)) => text.push_str(&said),
        _ => text.push_str(&String::from_utf8_lossy(&piece.data)),
    }
    text
}

fn lines(headers: &Headers) -> String {
    let line = |(name, value, _): (&[u8], &[u8], _)| [name, b": ".as_slice(), value, b"\n"].concat();
    String::from_utf8_lossy(&headers.iter().map(line).collect::<Vec<_>>().concat()).into_owned()
}

fn request(rng: &mut Rng) -> Exchange {
    let method = rng.choice(["GET", "POST", "OPTIONS", "PUT", "BREW"]).unwrap_or("GET");
    let args = (0..rng.usize(0..40)).map(|_| rng.choice(b"a&=%2;[]+.jwt?").map_or('a', |b| char::from(*b)));
    let args: String = args.collect();
    let mut ex = test::exchange(&format!("{method} /a/{}?{args} HTTP/1.1\nHost: a", rng.u8(..)));
    for _ in 0..rng.usize(0..6) {
        let value = value(rng);
        ex.req.head.headers.add(name(rng), value.trim_ascii());
    }
    ex.req.body = Body::from_vec(value(rng));
    ex
}

fn name(rng: &mut Rng) -> &'static [u8] {
    rng.choice(NAMES).unwrap_or("cookie").as_bytes()
}

/// Something like what belongs there, cut, doubled, of any bytes, or much too long.
fn value(rng: &mut Rng) -> Vec<u8> {
    let like = [
        "Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJrZXkiOiJhbm5hIiwiZXhwIjoxfQ.c2lnbmVk",
        "eyJhbGciOiJub25lIn0.eyJrZXkiOiJhbm5hIiwibmJmIjo5OTk5OTk5OTk5OTk5fQ.",
        "Basic YW5uYTp3cm9uZw==",
        "Signature keyId=\"anna\",algorithm=\"hmac-sha256\",headers=\"@request-target date\",signature=\"AA==\"",
        "anna",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "SHA-256=AA==",
        "https://a.com:99999/../[::1]?%",
        "1.2.3.4, ::ffff:1.2.3.4, 256.1.1.1, [::1]:80",
        "apisix-csrf-token=eyJyYW5kb20iOjEsImV4cGlyZXMiOjE3MDAwMDAwMDAsInNpZ24iOiJ4In0=; a=b; =",
        "gzip;q=0.5, br;q=x, *;q=",
        "{\"a\": [1e999, \"\\ud800\", {}], \"a\": null}",
        "a=1&a=%zz&b[]=\u{fc}",
        "-99999999999999999999",
    ];
    let mut value = rng.choice(like).unwrap_or("").as_bytes().to_vec();
    for _ in 0..rng.usize(0..3) {
        let at = rng.usize(..value.len().max(1));
        match rng.u8(..5) {
            0 => value.truncate(at),
            1 => value.extend_from_within(at.min(value.len())..),
            2 => value.extend((0..rng.usize(0..40)).map(|_| rng.u8(0x80..))),
            3 => value = value.repeat(rng.usize(1..200)),
            _ => value.iter_mut().skip(at).take(1).for_each(|byte| *byte = rng.u8(0x21..0x7f)),
        }
    }
    value
}

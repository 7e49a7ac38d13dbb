//! For tests of plugins: an exchange from the text of a request, a core's host, a compiled plugin.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Names, Outbound};
use crate::exchange::{BodyPiece, Client, Exchange, Facts, Reply, Source};
use crate::model::{Consumer, Stored};
use crate::plugin::chain::Item;
use crate::plugin::consumers::Consumers;
use crate::plugin::counters::Tables;
use crate::plugin::meta::Meta;
use crate::plugin::registry::Entry;
use crate::plugin::shared::Shared;
use crate::plugin::{Build, Chain, Host, Phase, Plugin, Registry, SchemaType, Spec};
use crate::plugins;
use crate::reactor::Chunk;
use crate::telemetry::metrics::{Metrics, Shape};
use crate::transport::TlsClients;
use crate::transport::pool::Pools;
use crate::transport::trust::Trust;
use crate::wire::headers::Headers;
use crate::wire::http::{Progress, RequestLimits, parse_request};
use crate::wire::uri::Uri;

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

thread_local! {
    static PASSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Lets time go on, for this test alone.
pub fn pass(time: Duration) {
    PASSED.set(PASSED.get() + time);
}

/// The time of [`host`].
pub fn now() -> Instant {
    *BEGAN + PASSED.get()
}

/// The wall clock of [`host`].
pub fn unix_s() -> u64 {
    1_700_000_000 + PASSED.get().as_secs()
}

/// A core's host with nothing in it.
pub fn host() -> Rc<Host> {
    let loaded = crate::config::load_text("", &|_| None).unwrap_or_else(|_| panic!("the defaults"));
    let (pools, tls) = (Rc::new(Pools::new()), Rc::new(TlsClients::new(Trust::Anyone)));
    Rc::new(Host {
        consumers: Consumers::new(Arc::new(plugins::registry())),
        counters: Tables::new(64, now()),
        metrics: RefCell::new(Metrics::new(Shape::new("apisix_", None, None)).core()),
        pools: pools.clone(),
        tls: tls.clone(),
        metadata: RefCell::default(),
        control: tokio::sync::mpsc::channel(1).0,
        attr: RefCell::new(loaded.config.plugin_attr.clone().into()),
        config: Arc::new(loaded.config),
        outbound: Rc::new(Outbound::new(Names::new(|_| true), pools, tls)),
        enabled: RefCell::default(),
        upstreams: RefCell::default(),
        now,
        unix_s,
        shared: Shared::default(),
    })
}

/// The exchange of a request from 127.0.0.1, as it is when its route has been found. Lines of `text` may end
/// in a bare LF; the empty line is added.
pub fn exchange(text: &str) -> Exchange {
    let peer = SocketAddr::from(([127, 0, 0, 1], 40_000));
    let local = SocketAddr::from(([127, 0, 0, 1], 9080));
    let facts = Facts::new(peer, local, "http", 1);
    let mut ex = Exchange::new(Rc::new(facts), Client::None, 0);
    let text = format!("{}\n\n", text.trim()).replace('\n', "\r\n");
    let limits = RequestLimits {
        line_bytes: 8192,
        head_bytes: 32_768,
        ignore_invalid_headers: true,
        underscores_in_headers: true,
    };
    let parsed = parse_request(text.as_bytes(), &limits, &mut ex.req.head);
    assert!(matches!(parsed, Ok(Progress::Done(_))), "{parsed:?}");
    let req = &mut ex.req;
    let target = req.head.path().to_vec();
    let uri = Uri::parse(&target, &mut req.path).unwrap_or_else(|_| panic!("{text}"));
    req.args = uri.args(&target).map(<[u8]>::to_vec);
    if uri.is_clean() {
        req.path.extend_from_slice(uri.path(&target, &[]));
    }
    if let Some(host) = req.head.host() {
        req.host.extend_from_slice(host.name);
        req.http_host.extend_from_slice(host.name);
    }
    ex
}

/// The same, from another address.
pub fn exchange_from(address: &str, text: &str) -> Exchange {
    let mut ex = exchange(text);
    ex.remote_addr = address.parse::<IpAddr>().unwrap_or_else(|e| panic!("{address}: {e}"));
    ex
}

/// What the Admin API says to this configuration: `accepted`, or the error.
pub fn check(spec: &'static Spec, kind: SchemaType, mut conf: Value) -> String {
    match entry(spec).check(&mut conf, kind) {
        Ok(()) => "accepted".to_owned(),
        Err(error) => error,
    }
}

/// A plugin of route 1, compiled from a configuration that must be right.
pub fn build(spec: &'static Spec, host: &Rc<Host>, conf: Value) -> Rc<dyn Plugin> {
    build_in(spec, &Build { host, parent: "/apisix/routes/1", metadata: None }, conf)
        .unwrap_or_else(|error| panic!("{}: {error}", spec.name))
}

/// The same for another object.
pub fn build_in(spec: &'static Spec, build: &Build, mut conf: Value) -> Result<Rc<dyn Plugin>, String> {
    entry(spec).check(&mut conf, SchemaType::Plain)?;
    (spec.build)(&conf, build)
}

fn entry(spec: &'static Spec) -> &'static Entry {
    static REGISTRY: LazyLock<Registry> = LazyLock::new(plugins::registry);
    REGISTRY.get(spec.name).unwrap_or_else(|| panic!("{} is not registered", spec.name))
}

/// Runs one phase of one plugin. It must not wait.
pub fn run(plugin: &Rc<dyn Plugin>, phase: Phase, ex: &mut Exchange, host: &Host) -> Option<Reply> {
    let spec = plugins::ALL[0]; // only its name is used, to log a refusal
    let item = Item {
        spec,
        plugin: plugin.clone(),
        meta: Rc::new(Meta::default()),
        reads_body: false,
        from_consumer: false,
    };
    let chain = Chain::new(vec![item], 0);
    let mut phase = std::pin::pin!(chain.run(phase, ex, host));
    match phase.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(reply) => reply,
        std::task::Poll::Pending => panic!("the plugin waits"),
    }
}

/// A consumer of this name, with these plugins and labels.
pub fn consumer(username: &str, plugins: Value, labels: Value) -> Arc<Stored<Consumer>> {
    stored(username, None, plugins, labels)
}

/// A credential of a consumer.
pub fn credential(username: &str, id: &str, plugins: Value) -> Arc<Stored<Consumer>> {
    stored(username, Some(id), plugins, json!({}))
}

fn stored(username: &str, credential: Option<&str>, plugins: Value, labels: Value) -> Arc<Stored<Consumer>> {
    let id = credential.map_or(username.to_owned(), |id| format!("{username}/credentials/{id}"));
    let value = Consumer {
        username: username.into(),
        credential_id: credential.map(Into::into),
        group_id: None,
        plugins: plugins.as_object().cloned().unwrap_or_default(),
        labels: labels.as_object().cloned().map(Box::new),
    };
    Arc::new(Stored { id: id.into(), create_revision: 1, modify_revision: 1, value })
}

/// Gives `ex` an upstream's answer with these headers; its body is for [`filtered`].
pub fn answer(ex: &mut Exchange, status: u16, headers: &[(&str, &str)]) {
    ex.resp.source = Source::Upstream;
    ex.resp.answered = true;
    ex.resp.head.status = status;
    for (name, value) in headers {
        ex.resp.head.headers.add(name.as_bytes(), value.as_bytes());
    }
}

/// Sends pieces of a body through the plugin's body filter and gives what comes out, up to its last piece.
pub fn filtered(plugin: &Rc<dyn Plugin>, ex: &mut Exchange, pieces: &[&[u8]]) -> String {
    let mut out = Vec::new();
    for (i, data) in pieces.iter().enumerate() {
        let mut piece = BodyPiece { data: Chunk::from_vec(data.to_vec()), last: i + 1 == pieces.len() };
        plugin.body_filter(ex, &mut piece, 0);
        out.extend_from_slice(&piece.data);
        if piece.last {
            break;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Answers every request that comes to a port of 127.0.0.1 and 127.0.0.2, and counts connections.
pub fn serve_two_addresses() -> (u16, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let (port, listeners) = std::iter::repeat_with(|| {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        let second = TcpListener::bind(("127.0.0.2", port)).ok()?;
        Some((port, [first, second]))
    })
    .find_map(|pair| pair)
    .unwrap();
    for listener in listeners {
        let counted = connections.clone();
        std::thread::spawn(move || listener.incoming().flatten().for_each(|peer| answer_all(peer, &counted)));
    }
    (port, connections)
}

fn answer_all(mut peer: TcpStream, counted: &AtomicUsize) {
    counted.fetch_add(1, Ordering::AcqRel);
    std::thread::spawn(move || {
        while peer.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {
            let _ = peer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
}

/// The values of a header, in order, joined by `|`; `-` for none.
pub fn values(headers: &Headers, name: &str) -> String {
    let values: Vec<_> = headers.all_named(name.as_bytes()).map(String::from_utf8_lossy).collect();
    if values.is_empty() { "-".into() } else { values.join("|") }
}

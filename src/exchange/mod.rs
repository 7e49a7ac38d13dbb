//! One request and its answer, whatever the HTTP version.
//!
//! An [`Exchange`] is taken from a per-core store when a head has arrived and given back after the log
//! phase; its buffers keep their capacity, so a plain request allocates nothing for it.

pub mod arriving;
pub mod body;
pub mod body_vars;
pub mod choice;
pub mod client;
pub mod encoder;
pub mod h2;
pub mod h3;
pub mod held;
pub mod known;
pub mod record;
pub mod reply;
pub mod session;
pub mod trace;
pub mod vars;
pub mod verdicts;

use std::any::Any;
use std::borrow::Cow;
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

pub use body::{Body, BodyError, BodyPiece, Side};
pub use body_vars::ReadBody;
pub use choice::{OwnUpstream, UpstreamChoice};
pub use client::Client;
pub use encoder::Encoder;
pub use held::Held;
pub use known::Known;
pub use record::{Attempt, RateLimit, UpstreamRecord};
pub use reply::{Reply, ReplyBody};
pub use session::Session;
pub use trace::Trace;
pub use vars::Vars;
pub use verdicts::Verdicts;

use crate::mail::messaging::Login;
use crate::transport::Agreed;
use crate::transport::pool::Lease;
use crate::wire::headers::Headers;
use crate::wire::http::{Method, RequestHead, ResponseHead};

/// What is the same for all requests of a connection.
pub struct Facts {
    /// The peer of the TCP connection.
    pub peer: SocketAddr,
    /// Its address as text.
    pub peer_text: Box<[u8]>,
    /// Our end of it.
    pub local: SocketAddr,
    /// The source that a PROXY header named.
    pub proxy_protocol: Option<SocketAddr>,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// What the TLS handshake gave.
    pub tls: Option<Box<TlsFacts>>,
    /// `$connection`: counts the connections of this core.
    pub serial: u64,
    /// Requests that came on it so far.
    pub requests: Cell<u32>,
}

/// What the TLS handshake of a connection gave.
pub struct TlsFacts {
    /// The name that the client asked for, lower case; else `fallback_sni`.
    pub sni: Option<Box<str>>,
    /// Version, cipher, resumption.
    pub agreed: Agreed,
    /// Whether the client showed who it is.
    pub client: ClientVerify,
    /// The certificate that it showed, DER.
    pub client_certificate: Option<Box<[u8]>>,
}

/// What became of the client's certificate: `$ssl_client_verify`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientVerify {
    /// It showed none, or was not asked.
    None,
    /// It leads to the authority of the ssl object.
    Success,
    /// It does not.
    Failed,
}

impl Facts {
    /// A connection without PROXY header or TLS.
    pub fn new(peer: SocketAddr, local: SocketAddr, scheme: &'static str, serial: u64) -> Self {
        let mut peer_text = Vec::with_capacity(vars::IPV4_TEXT);
        vars::write_ip(peer.ip(), &mut peer_text);
        let peer_text = peer_text.into();
        Facts {
            peer,
            peer_text,
            local,
            proxy_protocol: None,
            scheme,
            tls: None,
            serial,
            requests: Cell::new(0),
        }
    }
}

/// The request as it came and as it is seen.
#[derive(Default)]
pub struct Request {
    /// Method, target, version and headers, in the client's order and case.
    pub head: RequestHead,
    /// The normalized path: `$uri`.
    pub path: Vec<u8>,
    /// The arguments, without `?`: `$args`. `None` where the target has no `?`.
    pub args: Option<Vec<u8>>,
    /// `Host` as sent, or the authority of an absolute target.
    pub http_host: Vec<u8>,
    /// The host without its port, lower case: `$host`. `_` where the request has none.
    pub host: Vec<u8>,
    /// The client's body.
    pub body: Body,
    /// Bytes of its head: the first part of `$request_length`.
    pub head_bytes: usize,
    /// It came as an extended CONNECT (RFC 8441): it has no body, and every success but a switch of protocols would
    /// be misunderstood.
    pub connects: bool,
}

/// Where an answer comes from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Source {
    /// Made here.
    #[default]
    Gateway,
    /// An upstream's.
    Upstream,
}

/// The answer.
#[derive(Default)]
pub struct Response {
    /// Status and headers.
    pub head: ResponseHead,
    /// Headers that plugins set before there is an answer.
    pub early: Headers,
    /// `head` is the answer's: headers are set there from now on.
    pub answered: bool,
    /// Its body.
    pub body: Body,
    /// Who made it.
    pub source: Source,
    /// Bytes of body handed to the client: `$body_bytes_sent`.
    pub body_bytes: u64,
    /// Bytes in all: `$bytes_sent`.
    pub bytes: u64,
    /// The client left before the answer: 499.
    pub client_gone: bool,
    /// It left before the end of its answer.
    pub left: bool,
    /// The connection becomes a tunnel after this head (101).
    pub upgrade: bool,
    /// It ends with the answer.
    pub closes: bool,
    /// The body goes in chunks.
    pub chunked: bool,
}

impl Response {
    fn reset(&mut self) {
        self.head.clear();
        self.early.clear();
        self.answered = false;
        self.body = Body::Empty;
        self.source = Source::Gateway;
        self.body_bytes = 0;
        self.bytes = 0;
        self.client_gone = false;
        self.left = false;
        self.upgrade = false;
        self.closes = false;
        self.chunked = false;
    }

    /// What the head says of the connection, as nginx has it, of a stream of HTTP/2 or HTTP/3, too.
    pub fn connection(&self) -> &'static str {
        match (self.upgrade, self.closes) {
            (true, _) => "upgrade",
            (false, true) => "close",
            (false, false) => "keep-alive",
        }
    }

    /// The same of its framing.
    pub fn transfer_encoding(&self) -> Option<&'static str> {
        self.chunked.then_some("chunked")
    }
}

/// What the router found, by name: for variables, logs and plugins.
#[derive(Default, Clone)]
pub struct Matched {
    /// `$route_id`
    pub route_id: Option<Arc<str>>,
    /// `$route_name`
    pub route_name: Option<Box<str>>,
    /// `$service_id`
    pub service_id: Option<Arc<str>>,
    /// `$service_name`
    pub service_name: Option<Box<str>>,
    /// The route's path pattern that matched.
    pub matched_uri: Option<Box<str>>,
    /// The host pattern that matched.
    pub matched_host: Option<Box<str>>,
}

/// Parameters of a path with their values; empty for most routes.
pub type PathParams = SmallVec<[(Box<str>, Box<[u8]>); 0]>;

/// What the request becomes on its way upstream; plugins write it.
#[derive(Default)]
pub struct Outgoing {
    /// Path and arguments in place of the client's target.
    pub uri: Option<Vec<u8>>,
    /// The `Host` header in place of the client's.
    pub host: Option<Vec<u8>>,
    /// The method in place of the client's.
    pub method: Option<Box<[u8]>>,
    /// The scheme in place of the upstream's.
    pub scheme: Option<&'static str>,
    /// The upstream in place of the route's.
    pub upstream: Option<UpstreamChoice>,
    /// The host of the node that was picked, as the operator wrote it.
    pub node_host: Option<Rc<str>>,
    /// How much of the body is collected before any is sent, bytes; [`crate::limits::REPLAY_BODY`] if `None`.
    pub held_bytes: Option<usize>,
    /// Who we are to a messaging system.
    pub login: Option<Rc<Login>>,
}

/// One request and its answer.
pub struct Exchange {
    /// Its connection.
    pub facts: Rc<Facts>,
    /// The way back to the client: to see that it left.
    pub client: Client,
    /// The client's address as far as it is believed (`real_ip_*`): `$remote_addr`.
    pub remote_addr: IpAddr,
    /// `$remote_port`
    pub remote_port: u16,
    /// The request.
    pub req: Request,
    /// The answer.
    pub resp: Response,
    /// The request on its way upstream.
    pub out: Outgoing,
    /// What the router found.
    pub matched: Option<Rc<Matched>>,
    /// What the path's parameters captured, `uri_param_*`.
    pub params: PathParams,
    /// Who asks, once an auth plugin knows.
    pub consumer: Option<Rc<Known>>,
    /// The upstream tries.
    pub upstream: UpstreamRecord,
    /// The last limiter's word.
    pub rate_limit: RateLimit,
    /// When its first byte came: ms of this core's clock.
    pub started_ms: u64,
    /// When its answer had left, for the log phase: ms of this core's clock.
    pub ended_ms: u64,
    /// State of plugins between phases, by number: body filters and such.
    pub slots: SmallVec<[Option<Box<dyn Any>>; 0]>,
    /// Encodes the answer's body on its way out.
    pub encoder: Option<Box<dyn Encoder>>,
    /// What the filters of its plugins have said.
    pub verdicts: Verdicts,
    /// Plugins that run no more: a workflow has run them as its action.
    pub skipped: SmallVec<[&'static str; 0]>,
    /// What plugins hold until the log phase; each is given back when it is dropped.
    pub held: SmallVec<[Box<dyn Any>; 0]>,
    /// Variables that plugins set.
    pub set_vars: SmallVec<[(Cow<'static, str>, Vec<u8>); 0]>,
    /// `$request_id`, made when asked for.
    pub request_id: std::cell::OnceCell<String>,
    /// The request's body, if it was read ahead.
    pub body_read: Option<Box<ReadBody>>,
    /// A variable was asked for that looks into the body, which has not been read.
    pub wants_body: Cell<bool>,
    /// The plugins that ran, in the basic debug mode.
    pub trace: Option<Box<Trace>>,
    /// The upstream request was handed to the kernel at least once.
    pub proxied: bool,
    /// The upstream connection while the answer is read from it.
    pub lease: Option<Lease>,
    /// The request on a stream of an upstream's HTTP/2 connection, in place of a lease.
    pub call: Option<h2::Call>,
    /// The balancer counts it on the node of its last try.
    pub counted: bool,
    /// Both messages will have ended where they said: the connection may be kept.
    pub keep_upstream: bool,
    /// Which request of its connection it is, from 1 on: `$connection_requests`.
    pub nth: u32,
    /// The client's connection cannot be used again, whatever its request said.
    pub close_client: bool,
    /// The plan that the exchange began with (`live::Plan`, which this room does not know).
    pub plan: Option<Rc<dyn Any>>,
    /// The global rules it began with (`plugin::Chain`).
    pub global: Option<Rc<dyn Any>>,
    /// The phases in which any plugin of either takes part (`plugin::Phases`).
    pub phases: u8,
    /// The upstream it went to (`live::LiveUpstream`).
    pub live_upstream: Option<Rc<dyn Any>>,
    /// On layer 4: there is no request, only a session.
    pub session: Option<Box<Session>>,
}

impl Exchange {
    /// A fresh exchange for a connection.
    pub fn new(facts: Rc<Facts>, client: Client, now_ms: u64) -> Self {
        let peer = facts.proxy_protocol.unwrap_or(facts.peer);
        Exchange {
            remote_addr: facts.peer.ip(),
            remote_port: peer.port(),
            facts,
            client,
            req: Request::default(),
            resp: Response::default(),
            out: Outgoing::default(),
            matched: None,
            params: SmallVec::new(),
            consumer: None,
            upstream: UpstreamRecord::default(),
            rate_limit: RateLimit::default(),
            nth: 0,
            started_ms: now_ms,
            ended_ms: now_ms,
            slots: SmallVec::new(),
            encoder: None,
            verdicts: Verdicts::default(),
            skipped: SmallVec::new(),
            held: SmallVec::new(),
            set_vars: SmallVec::new(),
            request_id: std::cell::OnceCell::new(),
            body_read: None,
            wants_body: Cell::new(false),
            trace: None,
            proxied: false,
            lease: None,
            call: None,
            counted: false,
            keep_upstream: false,
            close_client: false,
            plan: None,
            global: None,
            phases: 0,
            live_upstream: None,
            session: None,
        }
    }

    /// Makes a used exchange fresh in its place, keeping the capacity of its buffers.
    pub fn reset(&mut self, facts: Rc<Facts>, client: Client, now_ms: u64) {
        // A field that is missing here is an error of the compiler: nothing may pass from one client to another.
        let Exchange {
            facts: _,
            client: _,
            remote_addr: _,
            remote_port: _,
            req: _,
            resp: _,
            out: _,
            matched: _,
            params: _,
            consumer: _,
            upstream: _,
            rate_limit: _,
            started_ms: _,
            ended_ms: _,
            slots: _,
            encoder: _,
            verdicts: _,
            skipped: _,
            held: _,
            set_vars: _,
            request_id: _,
            body_read: _,
            wants_body: _,
            trace: _,
            proxied: _,
            lease: _,
            call: _,
            counted: _,
            keep_upstream: _,
            nth: _,
            close_client: _,
            plan: _,
            global: _,
            phases: _,
            live_upstream: _,
            session: _,
        } = &*self;
        self.remote_addr = facts.peer.ip();
        self.remote_port = facts.proxy_protocol.unwrap_or(facts.peer).port();
        self.facts = facts;
        self.client = client;
        self.req.head.clear();
        self.req.path.clear();
        self.req.args = None;
        self.req.http_host.clear();
        self.req.host.clear();
        self.req.body = Body::Empty;
        self.req.head_bytes = 0;
        self.req.connects = false;
        self.resp.reset();
        self.out = Outgoing::default();
        self.matched = None;
        self.params.clear();
        self.consumer = None;
        self.upstream.attempts.clear();
        self.rate_limit.reset();
        self.started_ms = now_ms;
        self.ended_ms = now_ms;
        self.slots.clear();
        self.encoder = None;
        self.verdicts.clear();
        self.skipped.clear();
        self.held.clear();
        self.set_vars.clear();
        self.request_id.take();
        self.body_read = None;
        self.wants_body.set(false);
        self.trace = None;
        self.proxied = false;
        self.lease = None;
        self.call = None;
        self.counted = false;
        self.keep_upstream = false;
        self.nth = 0;
        self.close_client = false;
        self.plan = None;
        self.global = None;
        self.phases = 0;
        self.live_upstream = None;
        self.session = None;
    }

    /// Gives the request other arguments: variables, plugins and the upstream see these from now on.
    /// `None` is a target without `?`. An upstream path that a plugin has written before stays
    /// (nginx: `$upstream_uri` beats the request's own).
    pub fn set_args(&mut self, args: Option<Vec<u8>>) {
        if self.out.uri.is_none() {
            let mut uri = crate::wire::uri::encode(&self.req.path).into_owned();
            if let Some(args) = &args {
                uri.push(b'?');
                uri.extend_from_slice(args);
            }
            self.out.uri = Some(uri);
        }
        self.req.args = args;
    }

    /// Appends the client's address as text. Most often it is the connection's peer, whose text is made once.
    pub fn write_remote_addr(&self, out: &mut Vec<u8>) {
        match self.remote_addr == self.facts.peer.ip() {
            true => out.extend_from_slice(&self.facts.peer_text),
            false => vars::write_ip(self.remote_addr, out),
        }
    }

    /// The method of the request as it goes upstream.
    pub fn out_method(&self) -> Method {
        self.out.method.as_deref().map_or(self.req.head.method, Method::of)
    }

    /// Request headers.
    pub fn req_headers(&self) -> &Headers {
        &self.req.head.headers
    }

    /// Headers of the answer. Before there is one: those that are added to it, whoever makes it.
    pub fn resp_headers(&mut self) -> &mut Headers {
        if self.resp.answered { &mut self.resp.head.headers } else { &mut self.resp.early }
    }

    /// Adds a header to the answer. As in nginx there is one `Content-Type`: the last.
    pub fn add_resp_header(&mut self, name: &[u8], value: &[u8]) {
        let headers = self.resp_headers();
        match name.eq_ignore_ascii_case(b"content-type") {
            true => headers.set(name, value),
            false => headers.add(name, value),
        };
    }

    /// Puts the headers that plugins set before the answer came behind its own.
    pub fn merge_early_headers(&mut self) {
        self.resp.answered = true;
        let Response { head, early, .. } = &mut self.resp;
        head.headers.append(early);
    }

    /// Sets `$name` for the rest of the exchange.
    pub fn set_var(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Vec<u8>>) {
        let (name, value) = (name.into(), value.into());
        match self.set_vars.iter_mut().find(|(n, _)| *n == name) {
            Some((_, old)) => *old = value,
            None => self.set_vars.push((name, value)),
        }
    }

    /// The state that a plugin keeps under its number, made when first asked for.
    pub fn slot<T: Any>(&mut self, number: u16, new: impl FnOnce() -> T) -> &mut T {
        let at = number as usize;
        if self.slots.len() <= at {
            self.slots.resize_with(at + 1, || None);
        }
        let slot = &mut self.slots[at];
        if !slot.as_ref().is_some_and(|state| state.is::<T>()) {
            *slot = Some(Box::new(new()));
        }
        slot.as_mut().and_then(|state| state.downcast_mut()).unwrap_or_else(|| unreachable!("just made"))
    }
}

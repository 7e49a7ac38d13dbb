//! Redis for limiters: scripts on one server, on a cluster, or on the server that sentinels name.
//!
//! A core has one connection to each server, on which all of its requests' commands are pipelined: see [`link`]. A
//! script is one round trip; the first on a server that does not know it yet is two.

pub mod conf;
mod link;
mod slots;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use ahash::AHashMap;
use aws_lc_rs::digest;

pub use conf::Conf;
use conf::{Address, Login, Topology};
use link::Link;
use slots::{Slots, redirection, slot_of};

use super::Outbound;
use crate::reactor;
use crate::wire::hex;
use crate::wire::resp::{Reply, write_command};

/// Timeouts, ms.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Times {
    /// Until connected.
    pub connect_ms: u32,
    /// For a reply.
    pub read_ms: u32,
    /// How long a connection is kept that nobody uses.
    pub keepalive_ms: u32,
}

impl Times {
    fn of(timeout_ms: u32, keepalive_ms: u32) -> Times {
        Times { connect_ms: timeout_ms, read_ms: timeout_ms, keepalive_ms }
    }
}

/// Why there is no reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Error {
    /// No connection, or it ended.
    Closed(String),
    /// No reply in time.
    Timeout,
    /// Too many wait already.
    Busy,
    /// The server's own words.
    Server(String),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Closed(reason) | Error::Server(reason) => f.write_str(reason),
            Error::Timeout => f.write_str("timeout"),
            Error::Busy => f.write_str("too many commands wait for their replies"),
        }
    }
}

/// A Lua script, and its SHA-1 by which servers know it.
pub struct Script {
    text: &'static str,
    sha: String,
}

impl Script {
    /// Computes the digest.
    pub fn new(text: &'static str) -> Script {
        let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
        Script { text, sha: hex::lower(digest.as_ref()) }
    }
}

/// The clients of a core: equal configurations share one, while somebody holds it.
#[derive(Default)]
pub struct Clients(RefCell<AHashMap<Conf, Weak<Client>>>);

impl Clients {
    /// The client of a configuration.
    pub fn get(&self, conf: Conf, outbound: &Rc<Outbound>) -> Rc<Client> {
        let mut clients = self.0.borrow_mut();
        if let Some(client) = clients.get(&conf).and_then(Weak::upgrade) {
            return client;
        }
        clients.retain(|_, client| client.strong_count() > 0);
        let client = Rc::new(Client {
            conf: conf.clone(),
            outbound: outbound.clone(),
            links: RefCell::default(),
            master: RefCell::default(),
            slots: RefCell::default(),
        });
        clients.insert(conf, Rc::downgrade(&client));
        client
    }
}

/// Redis as one core uses it.
pub struct Client {
    conf: Conf,
    outbound: Rc<Outbound>,
    links: RefCell<AHashMap<Address, Rc<Link>>>,
    /// Whom the sentinels named.
    master: RefCell<Option<Address>>,
    slots: RefCell<Option<Slots>>,
}

/// Redirections that one command follows.
const REDIRECTIONS: u32 = 5;

impl Client {
    /// Keys of one script may lie on different servers.
    pub fn is_cluster(&self) -> bool {
        matches!(self.conf.topology, Topology::Cluster(_))
    }

    /// Runs a script over `keys`, which lie on one server.
    pub async fn eval(&self, script: &Script, keys: &[&[u8]], args: &[&[u8]]) -> Result<Reply, Error> {
        let mut count = itoa::Buffer::new();
        let count = count.format(keys.len()).as_bytes();
        let key = keys.first().copied().unwrap_or_default();
        let run = async |verb: &[u8], script: &str| {
            let begin = [verb, script.as_bytes(), count];
            let mut command = reactor::take_buffer();
            write_command(&mut command, begin.iter().chain(keys).chain(args).copied());
            let outcome = self.send(key, &command).await;
            reactor::give_buffer(command);
            outcome
        };
        match run(b"EVALSHA", &script.sha).await {
            Err(Error::Server(error)) if error.starts_with("NOSCRIPT") => run(b"EVAL", script.text).await,
            outcome => outcome,
        }
    }

    /// Runs a command on the server of `key`.
    pub async fn command(&self, key: &[u8], parts: &[&[u8]]) -> Result<Reply, Error> {
        let mut command = reactor::take_buffer();
        write_command(&mut command, parts.iter().copied());
        let outcome = self.send(key, &command).await;
        reactor::give_buffer(command);
        outcome
    }

    async fn send(&self, key: &[u8], command: &[u8]) -> Result<Reply, Error> {
        let mut to = self.place(key).await?;
        let mut again = false;
        let mut asking = false;
        for _ in 0..REDIRECTIONS {
            let link = self.link(&to, &self.conf.login);
            let served = link.has_served();
            let outcome = match asking {
                true => {
                    let mut both = Vec::new();
                    write_command(&mut both, [&b"ASKING"[..]]);
                    let first = self.ask(&link, &both);
                    let second = self.ask(&link, command);
                    first.await.and(second.await)
                }
                false => self.ask(&link, command).await,
            };
            asking = false;
            match outcome {
                Ok(Reply::Error(error)) => match redirection(&error).filter(|_| self.is_cluster()) {
                    Some((moved, slot, mut node)) => {
                        if node.host.is_empty() {
                            node.host.clone_from(&to.host);
                        }
                        if let Some(slots) = self.slots.borrow_mut().as_mut().filter(|_| moved) {
                            slots.moved(slot, node.clone());
                        }
                        (to, asking) = (node, !moved);
                    }
                    None if error.starts_with("READONLY") && self.master.take().is_some() && !again => {
                        again = true;
                        to = self.place(key).await?;
                    }
                    None => return Err(Error::Server(error)),
                },
                // an idle connection was closed meanwhile, or the master has changed
                Err(Error::Closed(_)) if served && !again => {
                    again = true;
                    self.master.take();
                    self.slots.take();
                    to = self.place(key).await?;
                }
                Err(error) => {
                    self.master.take();
                    self.slots.take();
                    return Err(error);
                }
                Ok(reply) => return Ok(reply),
            }
        }
        Err(Error::Server("too many redirections".into()))
    }

    async fn ask(&self, link: &Link, command: &[u8]) -> Result<Reply, Error> {
        let times = self.conf.times;
        let connect_ms = if link.has_served() { 0 } else { times.connect_ms };
        link.ask(command, reactor::now_ms() + u64::from(times.read_ms) + u64::from(connect_ms)).await
    }

    /// The connection to a server.
    fn link(&self, to: &Address, login: &Login) -> Rc<Link> {
        let mut links = self.links.borrow_mut();
        if let Some(link) = links.get(to).filter(|link| !link.has_failed()) {
            return link.clone();
        }
        links.retain(|_, link| !link.has_failed());
        let link = Link::open(to.clone(), login.clone(), self.conf.times, self.outbound.clone());
        links.insert(to.clone(), link.clone());
        link
    }

    /// The server of a key.
    async fn place(&self, key: &[u8]) -> Result<Address, Error> {
        match &self.conf.topology {
            Topology::Single(address) => Ok(address.clone()),
            Topology::Cluster(nodes) => {
                if self.slots.borrow().is_none() {
                    let slots = self.read_slots(nodes).await?;
                    self.slots.replace(Some(slots));
                }
                let slots = self.slots.borrow();
                let node = slots.as_ref().and_then(|slots| slots.node(slot_of(key)));
                node.cloned().ok_or_else(|| Error::Server("CLUSTERDOWN Hash slot not served".into()))
            }
            Topology::Sentinel { sentinels, master, replica, login } => {
                if let Some(known) = &*self.master.borrow() {
                    return Ok(known.clone());
                }
                let found = self.ask_sentinels(sentinels, master, *replica, login).await?;
                let found = if *replica { self.first_that_answers(found).await? } else { found[0].clone() };
                self.master.replace(Some(found.clone()));
                Ok(found)
            }
        }
    }

    async fn read_slots(&self, nodes: &[Address]) -> Result<Slots, Error> {
        let mut command = Vec::new();
        write_command(&mut command, [&b"CLUSTER"[..], b"SLOTS"]);
        let mut error = Error::Closed("no node of the cluster is known".into());
        for node in nodes {
            match self.ask(&self.link(node, &self.conf.login), &command).await {
                Ok(Reply::Error(text)) => error = Error::Server(text),
                Ok(reply) => return Ok(Slots::of(&reply, node)),
                Err(failed) => error = failed,
            }
        }
        Err(error)
    }

    async fn ask_sentinels(
        &self,
        sentinels: &[Address],
        master: &str,
        replica: bool,
        login: &Login,
    ) -> Result<Vec<Address>, Error> {
        let mut command = Vec::new();
        let what: &[u8] = if replica { b"replicas" } else { b"get-master-addr-by-name" };
        write_command(&mut command, [b"SENTINEL", what, master.as_bytes()]);
        let mut error = Error::Closed("no sentinel is known".into());
        for sentinel in sentinels {
            let reply = self.ask(&self.link(sentinel, login), &command).await;
            let found = match &reply {
                Ok(reply) if replica => healthy_replicas(reply),
                Ok(reply) => master_address(reply).into_iter().collect(),
                Err(_) => Vec::new(),
            };
            match reply {
                _ if !found.is_empty() => return Ok(found),
                Ok(Reply::Error(text)) => error = Error::Server(text),
                Ok(_) if replica => error = Error::Server("no slaves available".into()),
                Ok(_) => error = Error::Server(format!("the sentinels know no server of {master}")),
                Err(failed) => error = failed,
            }
        }
        Err(error)
    }

    /// The first server that can be reached and lets us in (connector.lua `try_hosts`).
    async fn first_that_answers(&self, servers: Vec<Address>) -> Result<Address, Error> {
        let mut ping = Vec::new();
        write_command(&mut ping, [&b"PING"[..]]);
        for server in servers {
            match self.ask(&self.link(&server, &self.conf.login), &ping).await {
                Ok(_) => return Ok(server),
                Err(error) => log::warn!("redis replica {}:{}: {error}", server.host, server.port),
            }
        }
        Err(Error::Closed("no hosts available".into()))
    }
}

fn master_address(reply: &Reply) -> Option<Address> {
    let (host, port) = reply.items().first().zip(reply.items().get(1))?;
    Some(Address { host: host.text()?.into(), port: port_of(port)? })
}

/// Those on this machine come first (connector.lua `connect_via_sentinel`).
fn healthy_replicas(reply: &Reply) -> Vec<Address> {
    let mut found: Vec<Address> = reply.items().iter().filter_map(replica_address).collect();
    found.sort_by_key(|replica| &*replica.host != "127.0.0.1");
    found
}

/// The address among the fields that a sentinel tells of a replica, unless it is down or has lost its master
/// (lua-resty-redis-connector, sentinel.lua `get_slaves`).
fn replica_address(fields: &Reply) -> Option<Address> {
    let field = |name: &str| {
        fields.items().chunks_exact(2).find(|pair| pair[0].text() == Some(name)).map(|pair| &pair[1])
    };
    let flags = field("flags").and_then(Reply::text).unwrap_or_default();
    let is_down = flags.contains("s_down") || flags.contains("disconnected");
    if is_down || field("master-link-status")?.text() != Some("ok") {
        return None;
    }
    Some(Address { host: field("ip")?.text()?.into(), port: port_of(field("port")?)? })
}

/// `None`: there is no such port.
fn port_of(reply: &Reply) -> Option<u16> {
    let port = reply.number()?;
    Some(port as u16).filter(|whole| f64::from(*whole) == port)
}

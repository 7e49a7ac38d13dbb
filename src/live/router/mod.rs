//! Which route a request takes: APISIX's three HTTP routers over one structure.
//!
//! Order of candidates (apisix/http/router/*.lua, lib/resty/radixtree.lua):
//!
//! 1. `radixtree_host_uri` only: routes of the host itself, then of the longest `*` host that ends it, then
//!    of shorter ones, then routes without hosts. The other modes have one table; [`Matcher`] checks hosts.
//! 2. Of one table: routes whose URI equals the path, then those with the longest prefix of it, then shorter.
//! 3. Of one URI or prefix: higher priority, then the longer URI as written, then the order of routes.
//!
//! A candidate that refuses the request leaves it to the next, through all three levels.
//!
//! Hosts are in a hash table, `*` hosts in a radix tree of reversed names, and each has a radix tree of paths;
//! all trees live in one [`Forest`]. A match allocates
//! nothing (unless more than 16 prefixes of one path are routes), a change touches the route's own nodes.

mod forest;
mod hosts;
mod matcher;
mod pattern;

use std::cmp::Reverse;
use std::collections::HashSet;
use std::rc::Rc;

use slab::Slab;
use smallvec::SmallVec;

use forest::{Forest, Root, Slot};
use hosts::Hosts;
pub use matcher::{Matcher, matched_host};
pub use pattern::Params;
use pattern::Pattern;

/// Index of a route in its core's table: dense, below 2³¹.
pub type RouteIx = u32;

/// `apisix.router.http` in config.yaml.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// `radixtree_host_uri`: host before URI.
    #[default]
    HostUri,
    /// `radixtree_uri`: URI only, hosts are a condition.
    Uri,
    /// `radixtree_uri_with_parameter`: as `Uri`, and `:name` in a URI is a parameter.
    UriWithParameter,
}

/// What the router needs of a route.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its hosts, or its service's; `*.foo.com` covers any depth. Ignored except in [`Mode::HostUri`].
    pub hosts: &'a [Box<str>],
    /// Its URIs.
    pub uris: &'a [Box<str>],
    /// Higher first.
    pub priority: i64,
    /// Place among the routes: lower first where priority and length are equal. APISIX lists routes by key
    /// as first read, and later ones as they come; an edited route keeps its place.
    pub order: u64,
}

/// One core's table of routes.
#[derive(Debug)]
pub struct Router {
    mode: Mode,
    forest: Forest,
    hosts: Hosts,
    /// By the reversed rest of a `*` host: index in `wildcard_roots`.
    wildcards: Root,
    wildcard_roots: Slab<Root>,
    /// Routes without hosts, or all routes.
    any_host: Root,
    /// Where one URI has several candidates, or one with a pattern; in order.
    lists: Slab<Candidates>,
    /// Equal patterns are kept once.
    patterns: HashSet<Rc<Pattern>>,
    ranks: Vec<Rank>,
}

/// One lies in the list itself: a URI with parameters is mostly the only one with its literal prefix.
type Candidates = SmallVec<[Candidate; 1]>;

#[derive(Clone, Debug)]
struct Candidate {
    route: RouteIx,
    /// Bytes of the URI after its literal prefix.
    rest: u32,
    pattern: Option<Rc<Pattern>>,
}

/// By route.
#[derive(Clone, Copy, Debug, Default)]
struct Rank {
    priority: i64,
    order: u64,
}

/// A value in a tree of paths: a lone route, or with this bit a list. A lone route has no pattern, and its
/// URI ends with the key and at most a `*`.
const LIST: u32 = 1 << 31;

/// Where one URI of a route is kept.
struct Key<'a> {
    literal: &'a [u8],
    slot: Slot,
    rest: u32,
}

impl<'a> Key<'a> {
    fn of(uri: &'a str, mode: Mode) -> Key<'a> {
        let parameter = if mode == Mode::UriWithParameter { uri.find(':') } else { None };
        match parameter.or_else(|| uri.find('*')) {
            Some(at) => {
                Key { literal: &uri.as_bytes()[..at], slot: Slot::Prefix, rest: (uri.len() - at) as u32 }
            }
            None => Key { literal: uri.as_bytes(), slot: Slot::Exact, rest: 0 },
        }
    }

    fn lone_rest(&self) -> u32 {
        u32::from(self.slot == Slot::Prefix)
    }
}

/// Which of the tables a host's routes are in.
enum Table {
    Any,
    Host(Box<[u8]>),
    /// The reversed rest.
    Wildcard(Box<[u8]>),
}

impl Router {
    /// A router without routes.
    pub fn new(mode: Mode) -> Router {
        Router {
            mode,
            forest: Forest::default(),
            hosts: Hosts::default(),
            wildcards: Root::EMPTY,
            wildcard_roots: Slab::new(),
            any_host: Root::EMPTY,
            lists: Slab::new(),
            patterns: HashSet::new(),
            ranks: Vec::new(),
        }
    }

    /// Adds a route. To change one, remove it as it was first.
    pub fn insert(&mut self, route: RouteIx, entry: Entry) {
        debug_assert!(route < LIST);
        if self.ranks.len() <= route as usize {
            self.ranks.resize(route as usize + 1, Rank::default());
        }
        self.ranks[route as usize] = Rank { priority: entry.priority, order: entry.order };
        for table in self.tables(entry.hosts) {
            let mut root = self.root(&table);
            for uri in entry.uris {
                self.insert_uri(&mut root, route, uri);
            }
            self.set_root(table, root);
        }
    }

    /// Removes a route that was inserted with these hosts and URIs.
    pub fn remove(&mut self, route: RouteIx, hosts: &[Box<str>], uris: &[Box<str>]) {
        for table in self.tables(hosts) {
            let mut root = self.root(&table);
            for uri in uris {
                self.remove_uri(&mut root, route, uri);
            }
            self.set_root(table, root);
        }
    }

    /// The route for a request: candidates are offered in order, and the first that `accept`s is taken.
    /// `host` is lower case and without port; `path` is the normalized URI without query; `params` gets what
    /// the URI's parameters captured.
    pub fn find(
        &self,
        host: &[u8],
        path: &[u8],
        params: &mut Params,
        mut accept: impl FnMut(RouteIx) -> bool,
    ) -> Option<RouteIx> {
        if self.mode == Mode::HostUri {
            if let Some(root) = self.hosts.get(host)
                && let Some(route) = self.find_path(root, path, params, &mut accept)
            {
                return Some(route);
            }
            if !self.wildcards.is_empty()
                && let Some(route) = self.find_wildcard(host, path, params, &mut accept)
            {
                return Some(route);
            }
        }
        let found = self.find_path(self.any_host, path, params, &mut accept);
        if found.is_none() {
            params.clear();
        }
        found
    }

    fn find_wildcard(
        &self,
        host: &[u8],
        path: &[u8],
        params: &mut Params,
        accept: &mut impl FnMut(RouteIx) -> bool,
    ) -> Option<RouteIx> {
        let reversed: SmallVec<[u8; 256]> = host.iter().rev().copied().collect();
        let mut found: SmallVec<[u32; 16]> = SmallVec::new();
        self.forest.walk(self.wildcards, &reversed, |index, _| found.push(index));
        let mut roots = found.iter().rev().map(|&index| self.wildcard_roots[index as usize]);
        roots.find_map(|root| self.find_path(root, path, params, accept))
    }

    fn find_path(
        &self,
        root: Root,
        path: &[u8],
        params: &mut Params,
        accept: &mut impl FnMut(RouteIx) -> bool,
    ) -> Option<RouteIx> {
        let mut prefixes: SmallVec<[(u32, u32); 16]> = SmallVec::new();
        let exact = self.forest.walk(root, path, |value, length| prefixes.push((value, length as u32)));
        if let Some(value) = exact {
            let lone = std::slice::from_ref(&value).iter().filter(|value| **value & LIST == 0).copied();
            let listed = self.list(value).iter().map(|candidate| candidate.route);
            if let Some(route) = lone.chain(listed).find(|&route| accept(route)) {
                params.set_exact(path.len());
                return Some(route);
            }
        }
        for (value, length) in prefixes.into_iter().rev() {
            let length = length as usize;
            if value & LIST == 0 && accept(value) {
                params.set_prefix(length, 1);
                return Some(value);
            }
            for candidate in self.list(value) {
                let fits = match &candidate.pattern {
                    Some(pattern) => params.set_pattern(pattern, path, length, candidate.rest),
                    None => {
                        params.set_prefix(length, candidate.rest);
                        true
                    }
                };
                if fits && accept(candidate.route) {
                    return Some(candidate.route);
                }
            }
        }
        None
    }

    fn insert_uri(&mut self, root: &mut Root, route: RouteIx, uri: &str) {
        let key = Key::of(uri, self.mode);
        let pattern = Pattern::parse(uri, key.literal.len()).map(|pattern| self.shared(pattern));
        let new = Candidate { route, rest: key.rest, pattern };
        let before = self.forest.get(*root, key.literal, key.slot);
        if before.is_none() && new.pattern.is_none() && key.rest == key.lone_rest() {
            self.forest.set(root, key.literal, key.slot, route);
            return;
        }
        if let Some(value) = before.filter(|value| value & LIST != 0) {
            let list = &mut self.lists[(value & !LIST) as usize];
            let at = list.partition_point(|known| place(&self.ranks, known) <= place(&self.ranks, &new));
            list.insert(at, new);
            return;
        }
        let lone = before.map(|route| Candidate { route, rest: key.lone_rest(), pattern: None });
        let mut list: Candidates = lone.into_iter().chain([new]).collect();
        list.sort_by_key(|candidate| place(&self.ranks, candidate));
        let value = LIST | self.lists.insert(list) as u32;
        self.forest.set(root, key.literal, key.slot, value);
    }

    fn remove_uri(&mut self, root: &mut Root, route: RouteIx, uri: &str) {
        let key = Key::of(uri, self.mode);
        match self.forest.get(*root, key.literal, key.slot) {
            Some(value) if value & LIST != 0 => {
                let index = (value & !LIST) as usize;
                let list = &mut self.lists[index];
                // By its place; there may be several of one rank, and of one route.
                let rank = &self.ranks[route as usize];
                let wanted = (Reverse(rank.priority), Reverse(key.rest), rank.order);
                let start = list.partition_point(|known| place(&self.ranks, known) < wanted);
                let Some(offset) = list[start..].iter().position(|known| known.route == route) else {
                    return;
                };
                let removed = list.remove(start + offset);
                if list.is_empty() {
                    self.lists.remove(index);
                    self.forest.clear(root, key.literal, key.slot);
                }
                self.forget(removed);
            }
            Some(value) if value == route => {
                self.forest.clear(root, key.literal, key.slot);
            }
            _ => {}
        }
    }

    /// The candidates of a value, none for a lone route.
    fn list(&self, value: u32) -> &[Candidate] {
        if value & LIST == 0 { &[] } else { &self.lists[(value & !LIST) as usize] }
    }

    /// The pattern that equals `pattern` and is already known, or itself from now on.
    fn shared(&mut self, pattern: Pattern) -> Rc<Pattern> {
        if let Some(known) = self.patterns.get(&pattern) {
            return known.clone();
        }
        let new = Rc::new(pattern);
        self.patterns.insert(new.clone());
        new
    }

    /// Drops a candidate's pattern from the shared ones if no other has it.
    fn forget(&mut self, candidate: Candidate) {
        if let Some(pattern) = candidate.pattern
            && Rc::strong_count(&pattern) == 2
        {
            self.patterns.remove(&pattern);
        }
    }

    fn tables(&self, hosts: &[Box<str>]) -> Vec<Table> {
        if self.mode != Mode::HostUri || hosts.is_empty() {
            return vec![Table::Any];
        }
        let table = |host: &str| match host.to_ascii_lowercase().strip_prefix('*') {
            Some(rest) => Table::Wildcard(rest.bytes().rev().collect()),
            None => Table::Host(host.to_ascii_lowercase().into_bytes().into()),
        };
        hosts.iter().map(|host| table(host)).collect()
    }

    fn root(&self, table: &Table) -> Root {
        match table {
            Table::Any => self.any_host,
            Table::Host(host) => self.hosts.get(host).unwrap_or(Root::EMPTY),
            Table::Wildcard(rest) => {
                let index = self.forest.get(self.wildcards, rest, Slot::Prefix);
                index.map_or(Root::EMPTY, |index| self.wildcard_roots[index as usize])
            }
        }
    }

    /// Notes a table's root after a change; a table without routes goes.
    fn set_root(&mut self, table: Table, root: Root) {
        match table {
            Table::Any => self.any_host = root,
            Table::Host(host) => self.hosts.set(host, root),
            Table::Wildcard(rest) => match self.forest.get(self.wildcards, &rest, Slot::Prefix) {
                Some(index) if root.is_empty() => {
                    self.wildcard_roots.remove(index as usize);
                    self.forest.clear(&mut self.wildcards, &rest, Slot::Prefix);
                }
                Some(index) => self.wildcard_roots[index as usize] = root,
                None if root.is_empty() => {}
                None => {
                    let index = self.wildcard_roots.insert(root) as u32;
                    self.forest.set(&mut self.wildcards, &rest, Slot::Prefix, index);
                }
            },
        }
    }
}

/// What candidates of one URI are sorted by.
fn place(ranks: &[Rank], candidate: &Candidate) -> (Reverse<i64>, Reverse<u32>, u64) {
    let rank = &ranks[candidate.route as usize];
    (Reverse(rank.priority), Reverse(candidate.rest), rank.order)
}

#[cfg(test)]
mod tests;

//! What a route asks of a request besides its host and URI: methods, client address, `vars`.

use std::net::IpAddr;

use crate::exchange::Vars;
use crate::expr::{Expr, IpNets};
use crate::model::{Methods, Route};

use super::Mode;

/// A route's conditions, compiled. 16 bytes for a route that has none but methods.
#[derive(Debug, Default)]
pub struct Matcher {
    methods: Methods,
    more: Option<Box<Conditions>>,
}

#[derive(Debug)]
struct Conditions {
    /// Only in the modes whose tree holds no hosts.
    hosts: Box<[Box<str>]>,
    remote_addrs: Option<IpNets>,
    vars: Expr,
}

impl Matcher {
    /// Compiles the conditions of `route`; `hosts` are its own or those of its service, lower case. The
    /// error is about `vars`, worded by lua-resty-expr.
    pub fn compile(route: &Route, hosts: &[Box<str>], mode: Mode) -> Result<Matcher, String> {
        let hosts = if mode == Mode::HostUri { &[] } else { hosts };
        let vars = route.vars.as_ref().map(|vars| Expr::compile(vars)).transpose()?;
        if hosts.is_empty() && route.remote_addrs.is_empty() && vars.is_none() {
            return Ok(Matcher { methods: route.methods, more: None });
        }
        let remote_addrs = (!route.remote_addrs.is_empty()).then(|| IpNets::new(&route.remote_addrs));
        let more = Conditions { hosts: hosts.into(), remote_addrs, vars: vars.unwrap_or_default() };
        Ok(Matcher { methods: route.methods, more: Some(Box::new(more)) })
    }

    /// Whether a request may take the route. `method` is its bit, empty for a method that has none; `host`
    /// is lower case without port.
    pub fn accepts(&self, method: Methods, host: &[u8], client: IpAddr, vars: &(impl Vars + ?Sized)) -> bool {
        if self.methods.0 != 0 && self.methods.0 & method.0 == 0 {
            return false;
        }
        let Some(more) = &self.more else { return true };
        more.remote_addrs.as_ref().is_none_or(|nets| nets.contains(client))
            && (more.hosts.is_empty() || more.hosts.iter().any(|known| host_matches(known, host, vars)))
            && more.vars.eval(vars)
    }
}

/// A host with a colon is compared with the `Host` header as sent (lib/resty/radixtree.lua).
fn host_matches(known: &str, host: &[u8], vars: &(impl Vars + ?Sized)) -> bool {
    if !known.contains(':') {
        return covers(known, host);
    }
    match vars.var("http_host") {
        Some(sent) => covers(known, &sent),
        None => covers(known, host),
    }
}

/// Whether `known`, a host or `*` and the end of one, covers `host`.
fn covers(known: &str, host: &[u8]) -> bool {
    match known.strip_prefix('*') {
        Some(suffix) => host.ends_with(suffix.as_bytes()),
        None => host == known.as_bytes(),
    }
}

/// Which of a route's `hosts` a request for `host` matched: the one that is equal, else the longest with a
/// `*` (metric label `matched_host`).
pub fn matched_host<'h>(hosts: &'h [Box<str>], host: &[u8]) -> Option<&'h str> {
    let matching = hosts.iter().filter(|known| covers(known, host));
    matching.max_by_key(|known| (!known.starts_with('*'), known.len())).map(|known| &**known)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use serde_json::json;

    use super::*;
    use crate::expr::ip::parse_net;

    struct Table(&'static [(&'static str, &'static str)]);
    impl Vars for Table {
        fn var(&self, name: &str) -> Option<Cow<'_, [u8]>> {
            self.0.iter().find(|(key, _)| *key == name).map(|(_, value)| Cow::Borrowed(value.as_bytes()))
        }
    }

    #[test]
    fn every_condition_counts() {
        let route = Route {
            methods: Methods(0b11),
            remote_addrs: vec![parse_net("10.0.0.0/8").unwrap()],
            vars: Some(Box::new(json!([["arg_v", "==", "2"]]))),
            ..Route::default()
        };
        let hosts = ["*.foo.com".into(), "bar.com:81".into()];
        let matcher = Matcher::compile(&route, &hosts, Mode::Uri).unwrap();
        let (inside, outside) = ("10.1.1.1".parse().unwrap(), "11.1.1.1".parse().unwrap());
        let vars = Table(&[("arg_v", "2"), ("http_host", "bar.com:81")]);
        assert!(matcher.accepts(Methods(1), b"a.foo.com", inside, &vars));
        assert!(matcher.accepts(Methods(1), b"bar.com", inside, &vars));
        assert!(!matcher.accepts(Methods(1), b"foo.com", inside, &Table(&[("arg_v", "2")])));
        assert!(!matcher.accepts(Methods(4), b"a.foo.com", inside, &vars));
        assert!(!matcher.accepts(Methods(0), b"a.foo.com", inside, &vars));
        assert!(!matcher.accepts(Methods(1), b"a.foo.com", outside, &vars));
        assert!(!matcher.accepts(Methods(1), b"a.foo.com", inside, &Table(&[])));
    }

    #[test]
    fn no_conditions_accept_all() {
        let matcher = Matcher::compile(&Route::default(), &["foo.com".into()], Mode::HostUri).unwrap();
        assert!(matcher.more.is_none(), "the tree holds the hosts");
        assert!(matcher.accepts(Methods(0), b"", "::1".parse().unwrap(), &Table(&[])));
    }

    #[test]
    fn names_the_matched_host() {
        let hosts = ["*.com".into(), "*.foo.com".into(), "a.foo.com".into()];
        assert_eq!(matched_host(&hosts, b"a.foo.com"), Some("a.foo.com"));
        assert_eq!(matched_host(&hosts, b"b.foo.com"), Some("*.foo.com"));
        assert_eq!(matched_host(&hosts, b"org"), None);
    }
}

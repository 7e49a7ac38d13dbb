//! One question to `/etc/hosts` and the name servers.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{Hosts, TokioResolver};

use crate::config::Config;

/// `apisix.dns_resolver` and its neighbours.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// `dns_resolver`; empty means those of `/etc/resolv.conf`.
    pub nameservers: Vec<SocketAddr>,
    /// `dns_resolver_valid`: instead of the records' TTL.
    pub valid: Option<Duration>,
    /// `enable_ipv6`: whether AAAA is asked for.
    pub enable_ipv6: bool,
    /// `enable_resolv_search_opt`: whether the search list of `/etc/resolv.conf` is used.
    pub search: bool,
}

impl From<&Config> for DnsConfig {
    fn from(config: &Config) -> DnsConfig {
        DnsConfig {
            nameservers: config.dns.resolvers.clone(),
            valid: config.dns.valid_ms.map(Duration::from_millis),
            enable_ipv6: config.enable_ipv6,
            search: config.dns.search,
        }
    }
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// A records.
    V4,
    /// AAAA records.
    V6,
}

/// What came of a question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// At least one address.
    Addresses {
        /// In rising order.
        addresses: Arc<[IpAddr]>,
        /// The type of the records.
        family: Family,
        /// How long they hold.
        ttl: Duration,
    },
    /// The name servers say that there is none.
    NoSuchName,
    /// No usable answer.
    Failed(String),
}

/// One try at one name server (`timeout` in apisix/core/dns/client.lua).
const TIMEOUT: Duration = Duration::from_secs(2);

/// Tries after the first. APISIX has 5; with stale addresses to serve meanwhile, and a new question a
/// second after a failure, fewer do.
const RETRIES: usize = 2;

/// `/etc/hosts` is read once, as in APISIX: what it says holds for long.
const HOSTS_TTL: Duration = Duration::from_secs(24 * 3600);

/// `/etc/hosts` and the name servers.
pub struct Lookup {
    hosts: Hosts,
    resolver: TokioResolver,
    config: DnsConfig,
}

impl Lookup {
    /// Reads `/etc/hosts` and `/etc/resolv.conf`.
    pub fn new(config: DnsConfig) -> Result<Lookup, NetError> {
        let hosts = Hosts::from_system().unwrap_or_else(|error| {
            log::warn!("/etc/hosts: {error}");
            Hosts::default()
        });
        Lookup::with_hosts(config, hosts)
    }

    /// With a hosts table of one's own.
    pub fn with_hosts(config: DnsConfig, hosts: Hosts) -> Result<Lookup, NetError> {
        let (system, mut options) = read_system_conf().unwrap_or_else(|error| {
            log::warn!("/etc/resolv.conf: {error}");
            (ResolverConfig::default(), ResolverOpts::default())
        });
        let (domain, search, mut servers) = system.into_parts();
        if !config.nameservers.is_empty() {
            servers = config.nameservers.iter().copied().map(name_server).collect();
        }
        let resolver_config = if config.search {
            ResolverConfig::from_parts(domain, search, servers)
        } else {
            ResolverConfig::from_parts(None, Vec::new(), servers)
        };
        options.timeout = TIMEOUT;
        options.attempts = RETRIES;
        options.use_hosts_file = ResolveHosts::Never; // it is asked before
        options.cache_size = 0; // the names are the cache
        let builder = TokioResolver::builder_with_config(resolver_config, TokioRuntimeProvider::default());
        let resolver = builder.with_options(options).build()?;
        Ok(Lookup { hosts, resolver, config })
    }

    /// Resolves `name`, asking for `first` before the other family.
    pub async fn resolve(&self, name: &str, first: Family) -> Answer {
        if let Some(addresses) = self.in_hosts(name) {
            return addresses;
        }
        let mut order = vec![first];
        order.extend([Family::V4, Family::V6].into_iter().filter(|&family| family != first));
        order.retain(|&family| family == Family::V4 || self.config.enable_ipv6);
        let mut outcome = Answer::NoSuchName;
        for family in order {
            match self.ask(name, family).await {
                Answer::NoSuchName => {}
                Answer::Failed(error) => outcome = Answer::Failed(error),
                found @ Answer::Addresses { .. } => return found,
            }
        }
        outcome
    }

    /// The first address of the hosts table, IPv4 before IPv6.
    fn in_hosts(&self, name: &str) -> Option<Answer> {
        let name = Name::from_utf8(name).ok()?;
        let families = [Family::V4, Family::V6];
        families.into_iter().filter(|&f| f == Family::V4 || self.config.enable_ipv6).find_map(|family| {
            let found = self.hosts.lookup_static_host(&Query::query(name.clone(), family.record_type()))?;
            let address = found.answers().iter().find_map(|record| record.data.ip_addr())?;
            Some(Answer::Addresses { addresses: Arc::new([address]), family, ttl: HOSTS_TTL })
        })
    }

    async fn ask(&self, name: &str, family: Family) -> Answer {
        match self.resolver.lookup(name, family.record_type()).await {
            Err(error) if error.is_no_records_found() => Answer::NoSuchName,
            Err(error) => Answer::Failed(error.to_string()),
            Ok(found) => {
                let mut addresses: Vec<IpAddr> =
                    found.answers().iter().filter_map(|record| record.data.ip_addr()).collect();
                if addresses.is_empty() {
                    return Answer::NoSuchName;
                }
                addresses.sort_unstable();
                addresses.dedup();
                // A CNAME on the way may hold for less long than the address behind it.
                let ttl = found.answers().iter().map(|record| record.ttl).min().unwrap_or(0);
                let ttl = self.config.valid.unwrap_or(Duration::from_secs(u64::from(ttl)));
                Answer::Addresses { addresses: addresses.into(), family, ttl }
            }
        }
    }
}

impl Family {
    fn record_type(self) -> RecordType {
        match self {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        }
    }
}

/// A name server asked by UDP, and by TCP where an answer does not fit.
fn name_server(address: SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = address.port();
    }
    NameServerConfig::new(address.ip(), true, connections)
}

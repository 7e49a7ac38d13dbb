//! Where Redis is and how it is spoken to, as limiters' configurations say it (apisix/utils/redis-schema.lua).

use std::rc::Rc;

use serde_json::Value;

use super::Times;
use crate::model::address::{split_address, without_brackets};

/// One way of using one Redis. Equal ones share connections.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Conf {
    /// Where the keys are.
    pub topology: Topology,
    /// How connections begin.
    pub login: Login,
    /// Timeouts.
    pub times: Times,
}

/// A server.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Address {
    /// Name or address; copied for each command, so it is shared.
    pub host: Rc<str>,
    /// Its port.
    pub port: u16,
}

/// How a connection begins.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Login {
    /// TLS, and whether its certificate is verified.
    pub tls: Option<bool>,
    /// The ACL user, if there is one.
    pub username: Option<Box<str>>,
    /// The password; empty is none.
    pub password: Option<Box<str>>,
    /// Which database.
    pub database: u32,
}

/// Where the keys are.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Topology {
    /// On one server.
    Single(Address),
    /// On a cluster, of which some nodes are known.
    Cluster(Vec<Address>),
    /// On a server that sentinels know.
    Sentinel {
        /// The sentinels.
        sentinels: Vec<Address>,
        /// The name of the group of servers.
        master: Box<str>,
        /// `redis_role: slave`
        replica: bool,
        /// How connections to sentinels begin.
        login: Login,
    },
}

impl Conf {
    /// By the `redis_*` options of a configuration that was checked. `Ok(None)`: its policy is local.
    ///
    /// # Errors
    /// A port that is none.
    pub fn of(conf: &Value) -> Result<Option<Conf>, String> {
        let text = |field: &str| conf[field].as_str().map(Box::from);
        let number = |field: &str, default: u32| {
            conf[field].as_f64().map_or(default, |number| number as u32) // saturates
        };
        let tls = |on: &str, verify: &str| (conf[on] == true).then(|| conf[verify] == true);
        let password = text("redis_password");
        Ok(Some(match conf["policy"].as_str() {
            Some("redis") => {
                let port = number("redis_port", 6379);
                let port = u16::try_from(port).map_err(|_| format!("invalid port {port}"))?;
                Conf {
                    topology: Topology::Single(Address {
                        host: without_brackets(conf["redis_host"].as_str().unwrap_or_default()).into(),
                        port,
                    }),
                    login: Login {
                        tls: tls("redis_ssl", "redis_ssl_verify"),
                        username: text("redis_username"),
                        password,
                        database: number("redis_database", 0),
                    },
                    times: Times::of(
                        number("redis_timeout", 1000),
                        number("redis_keepalive_timeout", 10_000),
                    ),
                }
            }
            Some("redis-cluster") => {
                let nodes = conf["redis_cluster_nodes"].as_array().into_iter().flatten();
                let nodes = nodes.filter_map(Value::as_str).map(|node| {
                    let (host, port) = split_address(node);
                    let port = port.map_or(Ok(6379), str::parse);
                    let host = without_brackets(host).into();
                    Ok(Address { host, port: port.map_err(|_| format!("failed to parse address: {node}"))? })
                });
                Conf {
                    topology: Topology::Cluster(nodes.collect::<Result<_, String>>()?),
                    login: Login {
                        tls: tls("redis_cluster_ssl", "redis_cluster_ssl_verify"),
                        password,
                        ..Login::default()
                    },
                    times: Times::of(
                        number("redis_timeout", 1000),
                        number("redis_keepalive_timeout", 10_000),
                    ),
                }
            }
            Some("redis-sentinel") => {
                let sentinels = conf["redis_sentinels"].as_array().into_iter().flatten();
                let sentinel = |place: &Value| {
                    let port = u16::try_from(place["port"].as_u64()?).ok()?;
                    Some(Address { host: without_brackets(place["host"].as_str()?).into(), port })
                };
                Conf {
                    topology: Topology::Sentinel {
                        sentinels: sentinels.filter_map(sentinel).collect(),
                        master: text("redis_master_name").unwrap_or_default(),
                        replica: conf["redis_role"] == "slave",
                        login: Login {
                            username: text("sentinel_username"),
                            password: text("sentinel_password"),
                            ..Login::default()
                        },
                    },
                    login: Login {
                        tls: None,
                        username: text("redis_username"),
                        password,
                        database: number("redis_database", 0),
                    },
                    times: Times {
                        connect_ms: number("redis_connect_timeout", 1000),
                        read_ms: number("redis_read_timeout", 1000),
                        keepalive_ms: number("redis_keepalive_timeout", 60_000),
                    },
                }
            }
            _ => return Ok(None),
        }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn policies() {
        assert_eq!(Conf::of(&json!({"policy": "local"})), Ok(None));
        let single = json!({"policy": "redis", "redis_host": "r", "redis_ssl": true, "redis_database": 2,
            "redis_password": "p", "redis_timeout": 7});
        let conf = Conf::of(&single).unwrap().unwrap();
        assert_eq!(conf.topology, Topology::Single(Address { host: "r".into(), port: 6379 }));
        assert_eq!((conf.login.tls, conf.login.database), (Some(false), 2));
        assert_eq!(conf.times, Times { connect_ms: 7, read_ms: 7, keepalive_ms: 10_000 });
        let nodes =
            |nodes: Value| Conf::of(&json!({"policy": "redis-cluster", "redis_cluster_nodes": nodes}));
        let address = |host: &str, port| Address { host: host.into(), port };
        assert_eq!(
            nodes(json!(["10.0.0.1:5000", "[::1]:5001", "r"])).unwrap().unwrap().topology,
            Topology::Cluster(vec![address("10.0.0.1", 5000), address("::1", 5001), address("r", 6379)])
        );
        assert_eq!(nodes(json!(["r:x"])), Err("failed to parse address: r:x".to_owned()));
        let hosts = json!({"policy": "redis", "redis_host": "[::1]"});
        assert_eq!(Conf::of(&hosts).unwrap().unwrap().topology, Topology::Single(address("::1", 6379)));
        let sentinel = json!({"policy": "redis-sentinel", "redis_sentinels": [{"host": "[::2]", "port": 26379}],
            "redis_master_name": "m", "redis_role": "slave", "sentinel_password": "q"});
        let Topology::Sentinel { sentinels, master, replica, login } =
            Conf::of(&sentinel).unwrap().unwrap().topology
        else {
            panic!()
        };
        assert_eq!((sentinels, &*master, replica), (vec![address("::2", 26379)], "m", true));
        assert_eq!(login.password.as_deref(), Some("q"));
    }
}

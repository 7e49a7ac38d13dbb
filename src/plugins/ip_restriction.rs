//! `ip-restriction`: lets requests in by the client's address (apisix/plugins/ip-restriction).
//!
//! ```json
//! {
//!   "uri": "/internal/*",
//!   "plugins": {
//!     "ip-restriction": {
//!       "whitelist": ["10.0.0.0/8", "2001:db8::/32"],
//!       "message": "Do you belong here?"
//!     }
//!   }
//! }
//! ```
//!
//! `whitelist` lets in those addresses and networks alone, `blacklist` all but those; a configuration has one of the two.
//! The others get `response_code` with `message`.
//!
//! Phases: access. The address is `$remote_addr`, after `real_ip_*` of config.yaml.
//!
//! Known differences: none.

use std::rc::Rc;

use serde_json::Value;

use crate::exchange::{Exchange, Reply};
use crate::expr::IpNets;
use crate::expr::ip::parse_net;
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, SchemaType, Spec, Step};

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "ip-restriction",
    priority: 3000,
    schema: include_str!("ip_restriction.schema.json"),
    check,
    build,
    ..Spec::PLAIN
};

/// The two lists; the schema lets only one of them be there.
const LISTS: [&str; 2] = ["whitelist", "blacklist"];

/// The schema's pattern takes more IPv6 networks than there are.
fn check(conf: &Value, _: SchemaType) -> Result<(), String> {
    for net in LISTS.iter().flat_map(|list| nets(conf, list)) {
        parse_net(net).map_err(|_| format!("invalid ip address: {net}"))?;
    }
    Ok(())
}

fn nets<'a>(conf: &'a Value, list: &str) -> impl Iterator<Item = &'a str> {
    conf[list].as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn build(conf: &Value, _: &Build) -> Built {
    let only_these = conf.get("whitelist").is_some();
    let list = if only_these { "whitelist" } else { "blacklist" };
    Ok(Rc::new(IpRestriction {
        nets: IpNets::parse(nets(conf, list))?,
        only_these,
        status: conf["response_code"].as_u64().map_or(403, |code| code as u16),
        message: conf["message"].as_str().unwrap_or_default().into(),
    }))
}

struct IpRestriction {
    nets: IpNets,
    /// The networks are those allowed, not those refused.
    only_these: bool,
    status: u16,
    message: Box<str>,
}

impl Plugin for IpRestriction {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Access])
    }

    fn access<'a>(&'a self, ex: &'a mut Exchange, _: &'a Host) -> Step<'a> {
        match self.nets.contains(ex.remote_addr) == self.only_these {
            true => Step::Next,
            false => Step::Reply(Reply::message(self.status, &self.message)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::kit::test;

    #[test]
    fn checks_configurations_as_apisix() {
        for (conf, outcome) in [
            (json!({"whitelist": ["10.255.254.0/24", "::1", "fe80::/10", "1.2.3.4"]}), "accepted"),
            (json!({"blacklist": ["10.0.0.0/8"], "response_code": 404, "message": "no"}), "accepted"),
            (json!({}), "value should match only one schema, but matches none"),
            (
                json!({"whitelist": ["172.17.40.0/24"], "blacklist": ["10.255.0.0/16"]}),
                "value should match only one schema, but matches both schemas 1 and 2",
            ),
            (
                json!({"blacklist": []}),
                "property \"blacklist\" validation failed: expect array to have at least 1 items",
            ),
            (
                json!({"whitelist": ["10.255.256.0/24", "192.168.0.0/16"]}),
                "property \"whitelist\" validation failed: failed to validate item 1: \
                 object matches none of the required",
            ),
            (
                json!({"whitelist": ["1.1.1.1", "10.255.254.0/38"]}),
                "property \"whitelist\" validation failed: failed to validate item 2: \
                 object matches none of the required",
            ),
            (json!({"whitelist": ["::1/129"]}), "invalid ip address: ::1/129"),
            (json!({"blacklist": [":/8"]}), "invalid ip address: :/8"),
            (
                json!({"whitelist": ["::1"], "response_code": 401}),
                "property \"response_code\" validation failed: expected 401 to be at least 403",
            ),
            (
                json!({"whitelist": ["::1"], "message": ""}),
                "property \"message\" validation failed: string too short, expected at least 1, got 0",
            ),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), outcome, "{conf}");
        }
    }

    #[test]
    fn restricts() {
        let host = test::host();
        let nets = ["127.0.0.0/24", "113.74.26.106"];
        let white = test::build(&SPEC, &host, json!({"whitelist": nets}));
        let black =
            test::build(&SPEC, &host, json!({"blacklist": nets, "response_code": 404, "message": "gone"}));
        for (address, listed) in
            [("127.0.0.9", true), ("113.74.26.106", true), ("114.114.114.114", false), ("2001:db8::2", false)]
        {
            let mut ex = test::exchange_from(address, "GET /hello HTTP/1.1\nHost: a");
            let by_white = test::run(&white, Phase::Access, &mut ex, &host);
            let by_black = test::run(&black, Phase::Access, &mut ex, &host);
            let no = Reply::message(403, "Your IP address is not allowed");
            assert_eq!(by_white, (!listed).then_some(no), "{address}");
            assert_eq!(by_black, listed.then_some(Reply::message(404, "gone")), "{address}");
        }
    }
}

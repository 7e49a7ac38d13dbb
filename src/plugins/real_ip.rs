//! `real-ip`: takes the client's address from a variable, most often a header that a proxy in front has set
//! (apisix/plugins/real-ip.lua).
//!
//! ```json
//! {
//!   "uri": "/*",
//!   "plugins": {
//!     "real-ip": {
//!       "source": "http_x_forwarded_for",
//!       "trusted_addresses": ["127.0.0.0/24", "10.0.0.0/8"],
//!       "recursive": true
//!     }
//!   }
//! }
//! ```
//!
//! `source` is the name of a variable (`http_x_real_ip`, `arg_ip`, …). Of `http_x_forwarded_for` the last
//! address counts, with `recursive` the last that is not trusted itself. `trusted_addresses` limits whom the
//! plugin believes; without it everybody is believed.
//!
//! Phases: rewrite, before nearly every other plugin. `$remote_addr` and `$remote_port` change,
//! `$realip_remote_addr` and `$realip_remote_port` keep the connection's.
//!
//! Known differences: none.

use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;

use serde_json::Value;

use crate::exchange::{Exchange, Vars};
use crate::expr::IpNets;
use crate::expr::ip::{parse_address, parse_net};
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, SchemaType, Spec, Step};
use crate::wire::Name;

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "real-ip",
    priority: 23000,
    schema: include_str!("real_ip.schema.json"),
    check,
    build,
    ..Spec::PLAIN
};

fn trusted(conf: &Value) -> impl Iterator<Item = &str> {
    conf["trusted_addresses"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// The schema's pattern takes more IPv6 networks than there are.
fn check(conf: &Value, _: SchemaType) -> Result<(), String> {
    for net in trusted(conf) {
        parse_net(net).map_err(|_| format!("invalid ip address: {net}"))?;
    }
    Ok(())
}

fn build(conf: &Value, _: &Build) -> Built {
    let nets = conf.get("trusted_addresses").map(|_| IpNets::parse(trusted(conf))).transpose()?;
    Ok(Rc::new(RealIp {
        source: conf["source"].as_str().unwrap_or_default().into(),
        trusted: nets,
        recursive: conf["recursive"] == true,
    }))
}

struct RealIp {
    source: Box<str>,
    trusted: Option<IpNets>,
    recursive: bool,
}

impl Plugin for RealIp {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Rewrite])
    }

    fn rewrite<'a>(&'a self, ex: &'a mut Exchange, _: &'a Host) -> Step<'a> {
        if self.trusted.as_ref().is_some_and(|nets| !nets.contains(ex.remote_addr)) {
            return Step::Next;
        }
        let Some(text) = self.address_text(ex) else {
            log::warn!("missing real address");
            return Step::Next;
        };
        match split(&text) {
            Some((address, port)) => {
                ex.remote_addr = address;
                ex.remote_port = port.unwrap_or(0);
            }
            None => log::warn!("bad address: {}", String::from_utf8_lossy(&text)),
        }
        Step::Next
    }
}

impl RealIp {
    fn address_text<'a>(&self, ex: &'a Exchange) -> Option<Cow<'a, [u8]>> {
        if *self.source != *"http_x_forwarded_for" {
            return ex.var(&self.source);
        }
        let last_line = ex.req_headers().all(Name::XForwardedFor).last()?;
        let mut from_last = last_line.rsplit(|b| *b == b',').map(<[u8]>::trim_ascii);
        let first = last_line.split(|b| *b == b',').next().map(<[u8]>::trim_ascii);
        match &self.trusted {
            Some(nets) if self.recursive => {
                let foreign = |text: &&[u8]| !parse_address(text).is_some_and(|ip| nets.contains(ip));
                from_last.find(foreign).or(first).map(Cow::Borrowed)
            }
            _ => from_last.next().map(Cow::Borrowed),
        }
    }
}

/// `1.2.3.4`, `1.2.3.4:5`, `::1`, `[::1]`, `[::1]:5`; a port is above 0.
fn split(text: &[u8]) -> Option<(IpAddr, Option<u16>)> {
    if let Some(address) = parse_address(text) {
        return Some((address, None));
    }
    let colon = memchr::memrchr(b':', text)?;
    let port: u16 = std::str::from_utf8(&text[colon + 1..]).ok()?.parse().ok().filter(|port| *port > 0)?;
    let address = parse_address(&text[..colon]).filter(|ip| ip.is_ipv4() || text.starts_with(b"["))?;
    Some((address, Some(port)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::kit::test;

    #[test]
    fn accepts_and_refuses_with_the_texts_of_apisix() {
        for (conf, said) in [
            (json!({ "source": "http_xff", "trusted_addresses": ["127.0.0.1", "fe80::/10"] }), "accepted"),
            (json!({}), r#"property "source" is required"#),
            (
                json!({ "source": "" }),
                r#"property "source" validation failed: string too short, expected at least 1, got 0"#,
            ),
            (
                json!({ "source": "a", "trusted_addresses": ["127.0.0.1/33"] }),
                r#"property "trusted_addresses" validation failed: failed to validate item 1: object matches none of the required"#,
            ),
            (json!({ "source": "a", "trusted_addresses": ["::1/129"] }), "invalid ip address: ::1/129"),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), said, "{conf}");
        }
    }

    /// `$remote_addr $remote_port` as this configuration takes them from these headers. An address without a port has none,
    /// as in nginx.
    fn seen(conf: Value, headers: &str) -> String {
        let host = test::host();
        let plugin = test::build(&SPEC, &host, conf);
        let mut ex = test::exchange(&format!("GET /?ip=9.9.9.9 HTTP/1.1\nHost: a\n{headers}"));
        assert_eq!(test::run(&plugin, Phase::Rewrite, &mut ex, &host), None);
        let [addr, port] = ["remote_addr", "remote_port"].map(|name| ex.var(name).unwrap());
        format!("{} {}", String::from_utf8_lossy(&addr), String::from_utf8_lossy(&port))
    }

    #[test]
    fn addresses_of_every_form() {
        let unchanged = "127.0.0.1 40000";
        for (value, expected) in [
            ("1.1.1.1", "1.1.1.1 "),
            ("1.1.1.1:80", "1.1.1.1 80"),
            ("::2", "::2 "),
            ("[::2]", "::2 "),
            ("[::2]:80", "::2 80"),
            ("1.1.1.1.1", unchanged),
            ("1.1.1.1:65536", unchanged),
            ("1.1.1.1:0", unchanged),
            ("a:80", unchanged),
        ] {
            assert_eq!(seen(json!({ "source": "http_xff" }), &format!("XFF: {value}")), expected, "{value}");
        }
        assert_eq!(seen(json!({ "source": "http_xff" }), "X-A: b"), unchanged);
        assert_eq!(seen(json!({ "source": "arg_ip" }), "X-A: b"), "9.9.9.9 ");
    }

    #[test]
    fn whom_it_believes() {
        let conf = |trusted: &str, recursive: bool| json!({ "source": "http_x_forwarded_for", "trusted_addresses": [trusted], "recursive": recursive });
        let chain = "X-Forwarded-For: 5.5.5.5, 1.1.1.1,  192.128.1.1,127.0.0.1";
        for (conf, expected) in [
            (json!({ "source": "http_x_forwarded_for" }), "127.0.0.1 "),
            (conf("192.128.0.0/16", true), "127.0.0.1 40000"),
            (conf("127.0.0.0/8", false), "127.0.0.1 "),
            (conf("127.0.0.0/8", true), "192.128.1.1 "),
            (conf("0.0.0.0/0", true), "5.5.5.5 "),
        ] {
            assert_eq!(seen(conf.clone(), chain), expected, "{conf}");
        }
        let lines = "X-Forwarded-For: 1.1.1.1\nX-Forwarded-For: 2.2.2.2";
        assert_eq!(seen(json!({ "source": "http_x_forwarded_for" }), lines), "2.2.2.2 ");
    }
}

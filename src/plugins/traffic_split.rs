//! `traffic-split`: sends a share of a route's requests to other upstreams, by weight or by what they are.
//!
//! ```json
//! {
//!   "uri": "/shop/*",
//!   "plugins": {
//!     "traffic-split": {
//!       "rules": [
//!         {
//!           "match": [{ "vars": [["http_x-release", "==", "canary"]] }],
//!           "weighted_upstreams": [
//!             { "upstream_id": "canary", "weight": 1 }
//!           ]
//!         },
//!         {
//!           "weighted_upstreams": [
//!             { "upstream": { "type": "roundrobin", "nodes": { "10.0.0.9:8080": 1 } }, "weight": 1 },
//!             { "weight": 9 }
//!           ]
//!         }
//!       ]
//!     }
//!   },
//!   "upstream": { "type": "roundrobin", "nodes": { "10.0.0.1:8080": 1 } }
//! }
//! ```
//!
//! The first rule that matches decides: one without `match`, or with an entry of `match` whose `vars` hold. Its
//! upstreams are taken in turn by weight; an entry with a weight alone stands for the route's own upstream.
//!
//! Phase: access (apisix/plugins/traffic-split.lua). As in APISIX, an upstream written in the plugin takes part with
//! its nodes, type, hash key, host, scheme and timeouts alone: health checks and retries need an upstream object.
//!
//! Known differences: an entry of `match` without `vars` holds (a Lua error in APISIX).

use std::cell::RefCell;
use std::rc::Rc;

use serde_json::{Map, Value, json};

use crate::exchange::{Exchange, OwnUpstream, Reply, ReplyBody, UpstreamChoice};
use crate::expr::Expr;
use crate::model::{Balance, Id, check, parse};
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, SchemaType, Spec, Step};
use crate::upstream::{Balancer, NodeSet, Peer, Pick};

/// The plugin.
pub const SPEC: Spec = Spec {
    name: "traffic-split",
    priority: 966,
    schema: include_str!("traffic_split.schema.json"),
    check,
    build,
    ..Spec::PLAIN
};

/// The fields of an upstream that the plugin takes over.
const TAKEN: [&str; 9] =
    ["name", "type", "hash_on", "pass_host", "upstream_host", "key", "nodes", "timeout", "scheme"];

struct TrafficSplit {
    rules: Vec<Rule>,
}

struct Rule {
    /// `None`: every request. Else one of these must hold.
    conditions: Option<Vec<Expr>>,
    /// Upstream objects that must be there when the rule is looked at.
    objects: Vec<Id>,
    choices: Vec<Choice>,
    turns: RefCell<(Balancer, fastrand::Rng)>,
}

enum Choice {
    /// The route's own upstream.
    Route,
    Other(UpstreamChoice),
    /// An upstream that cannot be used, and why.
    Broken(String),
}

fn check(conf: &Value, _: SchemaType) -> Result<(), String> {
    for rule in list(conf, "rules") {
        for entry in list(rule, "match") {
            if let Some(vars) = entry.get("vars") {
                Expr::compile(vars)
                    .map_err(|error| format!("failed to validate the 'vars' expression: {error}"))?;
            }
        }
    }
    Ok(())
}

fn list<'a>(conf: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    conf.get(field).and_then(Value::as_array).into_iter().flatten()
}

fn build(conf: &Value, build: &Build) -> Built {
    let numbered = list(conf, "rules").enumerate();
    let rules = numbered.map(|(at, rule)| Rule::build(rule, &format!("{}#{}", build.parent, at + 1)));
    Ok(Rc::new(TrafficSplit { rules: rules.collect::<Result<_, String>>()? }))
}

impl Rule {
    fn build(rule: &Value, key: &str) -> Result<Rule, String> {
        let conditions = match rule.get("match") {
            None => None,
            Some(_) => {
                let always = json!([]);
                let vars = list(rule, "match").map(|entry| entry.get("vars").unwrap_or(&always));
                Some(vars.map(Expr::compile).collect::<Result<_, String>>()?)
            }
        };
        // who stands twice (the same object, or the route) counts once, with the last weight
        let mut weights: Map<String, Value> = Map::new();
        let mut choices: Vec<(String, Choice)> = Vec::new();
        let mut objects = Vec::new();
        for (at, entry) in list(rule, "weighted_upstreams").enumerate() {
            let (name, choice) = choice(entry, &format!("{key}_{}", at + 1));
            if let Choice::Other(UpstreamChoice::Object(id)) = &choice {
                objects.push(id.clone());
            }
            weights.insert(name.clone(), entry.get("weight").cloned().unwrap_or(json!(1)));
            if choices.iter().all(|(known, _)| *known != name) {
                choices.push((name, choice));
            }
        }
        let peers: Vec<Peer> = choices
            .iter()
            .map(|(name, _)| Peer {
                host: name.as_str().into(),
                port: 0,
                weight: weights[name].as_f64().map_or(1, |weight| weight as u32),
                priority: 0,
            })
            .collect();
        let mut rng = fastrand::Rng::new();
        let balancer = Balancer::new(Balance::RoundRobin, &peers, None, &mut rng);
        Ok(Rule {
            conditions,
            objects,
            choices: choices.into_iter().map(|(_, choice)| choice).collect(),
            turns: RefCell::new((balancer, rng)),
        })
    }

    fn next(&self) -> Option<&Choice> {
        let (balancer, rng) = &mut *self.turns.borrow_mut();
        let none = NodeSet::new();
        let turn = balancer.pick(&Pick { key: b"", tried: &none, unhealthy: &none, now_ms: 0 }, rng)?;
        self.choices.get(turn)
    }
}

/// One of `weighted_upstreams`, and a name that tells it from the others.
fn choice(entry: &Value, key: &str) -> (String, Choice) {
    let id = entry.get("upstream_id").map(|id| match id {
        Value::String(text) => text.clone(),
        number => number.to_string(),
    });
    if let Some(id) = id {
        let choice = Choice::Other(UpstreamChoice::Object(id.as_str().into()));
        return (format!("object {id}"), choice);
    }
    let Some(Value::Object(written)) = entry.get("upstream") else {
        return ("route".to_owned(), Choice::Route);
    };
    let taken = written.iter().filter(|(name, _)| TAKEN.contains(&name.as_str()));
    let conf = Value::Object(taken.map(|(name, value)| (name.clone(), value.clone())).collect());
    let choice = match check::check_upstream_in_data_plane(&conf) {
        Ok(()) => Choice::Other(UpstreamChoice::Own(Rc::new(OwnUpstream::new(key, parse::upstream(conf))))),
        Err(error) => Choice::Broken(error),
    };
    (format!("own {key}"), choice)
}

impl Plugin for TrafficSplit {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Access])
    }

    fn access<'a>(&'a self, ex: &'a mut Exchange, host: &'a Host) -> Step<'a> {
        match self.choose(ex, host) {
            Ok(None) => {}
            Ok(Some(Choice::Route)) => ex.out.upstream = None,
            Ok(Some(Choice::Other(upstream))) => ex.out.upstream = Some(upstream.clone()),
            Ok(Some(Choice::Broken(error))) => return failed(error.clone()),
            Err(error) => return failed(error),
        }
        Step::Next
    }
}

fn failed(error: String) -> Step<'static> {
    log::error!("{error}");
    Step::Reply(Reply { status: 500, body: ReplyBody::Text(error.into_bytes()) })
}

impl TrafficSplit {
    fn choose(&self, ex: &Exchange, host: &Host) -> Result<Option<&Choice>, String> {
        // an empty `match` says what the rule before it said, as in APISIX
        let mut passed = true;
        for rule in &self.rules {
            let known = host.upstreams.borrow();
            if let Some(missing) = rule.objects.iter().find(|id| !known.contains(*id)) {
                return Err(format!("failed to fetch upstream info by upstream id: {missing}"));
            }
            match &rule.conditions {
                None => passed = true,
                Some(conditions) if conditions.is_empty() => {}
                Some(conditions) => passed = conditions.iter().any(|condition| condition.eval(ex)),
            }
            if passed {
                return Ok(rule.next());
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::kit::test;

    /// Where ten requests go.
    fn chosen(plugin: &Rc<dyn Plugin>, host: &Host, target: &str) -> Vec<String> {
        let mut seen: Vec<String> = (0..10)
            .map(|_| {
                let mut ex = test::exchange(&format!("GET {target} HTTP/1.1\nHost: a.com"));
                if let Some(reply) = test::run(plugin, Phase::Access, &mut ex, host) {
                    let ReplyBody::Text(text) = reply.body else { panic!("{reply:?}") };
                    return format!("{} {}", reply.status, String::from_utf8(text).unwrap());
                }
                match &ex.out.upstream {
                    None => "route".to_owned(),
                    Some(UpstreamChoice::Object(id)) => id.to_string(),
                    Some(UpstreamChoice::Own(own)) => {
                        format!("{}:{}", own.conf.nodes[0].host, own.conf.nodes[0].port.unwrap_or(0))
                    }
                }
            })
            .collect();
        seen.sort();
        seen
    }

    fn shares(seen: &[String]) -> Vec<(&str, usize)> {
        let mut names: Vec<&str> = seen.iter().map(String::as_str).collect();
        names.dedup();
        names.iter().map(|name| (*name, seen.iter().filter(|s| s == name).count())).collect()
    }

    #[test]
    fn refuses_with_the_texts_of_apisix() {
        for (conf, error) in [
            (
                json!({"rules": [{"match": [{"vars": [["arg_name", 123, "jack"]]}]}]}),
                "failed to validate the 'vars' expression: invalid operator '123'",
            ),
            (
                json!({"rules": [{"weighted_upstreams": [{"weight": -1}]}]}),
                "property \"rules\" validation failed: failed to validate item 1: property \
                 \"weighted_upstreams\" validation failed: failed to validate item 1: property \"weight\" \
                 validation failed: expected -1 to be at least 0",
            ),
            (
                json!({"rules": [{"weighted_upstreams": [{"upstream": {"nodes": {"a:1": -1}}}]}]}),
                "property \"rules\" validation failed: failed to validate item 1: property \
                 \"weighted_upstreams\" validation failed: failed to validate item 1: property \"upstream\" \
                 validation failed: property \"nodes\" validation failed: object matches none of the required",
            ),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), error, "{conf}");
        }
        assert_eq!(test::check(&SPEC, SchemaType::Plain, json!({})), "accepted");
    }

    #[test]
    fn shares_are_exact_over_a_cycle() {
        let host = test::host();
        host.upstreams.borrow_mut().extend(["u1".into(), "7".into()]);
        let conf = json!({"rules": [{"weighted_upstreams": [
            {"upstream": {"type": "roundrobin", "nodes": {"127.0.0.1:1981": 1}}, "weight": 2},
            {"upstream_id": "u1", "weight": 1},
            {"upstream_id": 7, "weight": 3},
            {"weight": 4},
            {"upstream_id": 8, "weight": 0},
        ]}]});
        let plugin = test::build(&SPEC, &host, conf.clone());
        assert_eq!(
            chosen(&plugin, &host, "/")[0],
            "500 failed to fetch upstream info by upstream id: 8",
            "an object of weight 0 must be there, too"
        );
        host.upstreams.borrow_mut().insert("8".into());
        let seen = chosen(&plugin, &host, "/");
        assert_eq!(shares(&seen), [("127.0.0.1:1981", 2), ("7", 3), ("route", 4), ("u1", 1)]);
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let host = test::host();
        host.upstreams.borrow_mut().extend(["u1".into(), "u2".into()]);
        let jack = json!([["arg_name", "==", "jack"], ["arg_age", ">", "16"]]);
        let conf = json!({"rules": [
            {"match": [{"vars": jack}, {"vars": [["arg_vip", "==", "1"]]}],
             "weighted_upstreams": [{"upstream_id": "u1"}]},
            {"match": [{"vars": [["arg_name", "==", "rose"]]}], "weighted_upstreams": [{"upstream_id": "u2"}]},
            {"match": [], "weighted_upstreams": [{"upstream_id": "u1"}]},
        ]});
        let plugin = test::build(&SPEC, &host, conf);
        for (target, expected) in [
            ("/?name=jack&age=17", "u1"),
            ("/?name=jack&age=15", "route"),
            ("/?vip=1", "u1"),
            ("/?name=rose", "u2"),
            ("/", "route"),
        ] {
            assert_eq!(shares(&chosen(&plugin, &host, target)), [(expected, 10)], "{target}");
        }
    }

    #[test]
    fn the_last_weight_of_an_upstream_counts() {
        let host = test::host();
        host.upstreams.borrow_mut().insert("u1".into());
        let conf = json!({"rules": [{"weighted_upstreams": [
            {"weight": 9}, {"upstream_id": "u1", "weight": 9}, {"upstream_id": "u1", "weight": 1}, {"weight": 4},
        ]}]});
        let plugin = test::build(&SPEC, &host, conf);
        assert_eq!(shares(&chosen(&plugin, &host, "/")), [("route", 8), ("u1", 2)]);
    }

    #[test]
    fn an_upstream_that_cannot_be_used_is_an_error_of_its_share_alone() {
        let host = test::host();
        let broken = json!({"type": "roundrobin", "nodes": {"a.com:80": 1}, "pass_host": "rewrite"});
        let conf = json!({"rules": [{"weighted_upstreams": [{"upstream": broken}, {"weight": 1}]}]});
        let plugin = test::build(&SPEC, &host, conf);
        let refused = "500 `upstream_host` can't be empty when `pass_host` is `rewrite`";
        assert_eq!(shares(&chosen(&plugin, &host, "/")), [(refused, 5), ("route", 5)]);
    }
}

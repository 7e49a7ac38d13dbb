//! `workflow`: what to do with a request, by what it is: answer it, or put it under a limit of its own.
//!
//! ```json
//! {
//!   "uri": "/*",
//!   "plugins": {
//!     "workflow": {
//!       "rules": [
//!         {
//!           "case": [["uri", "==", "/internal"]],
//!           "actions": [["return", { "code": 403 }]]
//!         },
//!         {
//!           "case": ["OR", ["arg_env", "==", "test"], ["http_x-test", "==", "1"]],
//!           "actions": [["limit-count", { "count": 5, "time_window": 60, "rejected_code": 429 }]]
//!         },
//!         {
//!           "actions": [["limit-conn", { "conn": 9, "burst": 0, "default_conn_delay": 0.1, "key": "remote_addr" }]]
//!         }
//!       ]
//!     }
//!   }
//! }
//! ```
//!
//! Phase: access (apisix/plugins/workflow.lua). The first rule whose `case` holds, or that has none, decides; its first
//! action is taken: `return`, `limit-count` or `limit-conn`. That plugin of the route itself does not run then.
//!
//! Known differences: a `case` that cannot be read is refused (in APISIX it is taken as if it always held).

use std::rc::Rc;
use std::sync::LazyLock;

use serde_json::Value;

use super::kit::limit::VID;
use super::{limit_conn, limit_count};
use crate::exchange::{Exchange, Reply};
use crate::expr::Expr;
use crate::model::schema::Schema;
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, Registry, SchemaType, Spec, Step};

/// The plugin.
pub const SPEC: Spec = Spec {
    name: "workflow",
    priority: 1006,
    schema: include_str!("workflow.schema.json"),
    check,
    build,
    ..Spec::PLAIN
};

/// The plugins that may be an action.
static ACTIONS: LazyLock<Registry> =
    LazyLock::new(|| Registry::new(&[&limit_count::SPEC, &limit_conn::SPEC]));

static RETURN: LazyLock<Schema> = LazyLock::new(|| {
    let schema = serde_json::json!({
        "type": "object",
        "properties": { "code": { "type": "integer", "minimum": 100, "maximum": 599 } },
        "required": ["code"],
    });
    Schema::compile(schema).unwrap_or_else(|_| Schema::refuse_all()) // a constant: the tests compile it
});

struct Workflow {
    rules: Vec<Rule>,
}

struct Rule {
    case: Option<Expr>,
    action: Action,
}

enum Action {
    Return(u16),
    /// The plugin's name, and what it became.
    Plugin(&'static str, Rc<dyn Plugin>),
    /// `actions` is empty.
    Nothing,
}

fn check(conf: &Value, kind: SchemaType) -> Result<(), String> {
    for (at, rule) in rules(conf) {
        if let Some(case) = rule.get("case") {
            Expr::compile(case)
                .map_err(|error| format!("failed to validate the 'case' expression: {error}"))?;
        }
        for action in rule["actions"].as_array().into_iter().flatten() {
            checked(action, at, kind)?;
        }
    }
    Ok(())
}

/// The rules, numbered from 1.
fn rules(conf: &Value) -> impl Iterator<Item = (usize, &Value)> {
    (1..).zip(conf["rules"].as_array().into_iter().flatten())
}

/// An action's name, and its configuration with its defaults and the number of its rule.
fn checked(action: &Value, rule: usize, kind: SchemaType) -> Result<(&str, Value), String> {
    let name = match &action[0] {
        Value::String(name) => name.as_str(),
        other => return Err(format!("unsupported action: {other}")),
    };
    let mut conf = action[1].clone();
    if let Some(fields) = conf.as_object_mut() {
        fields.insert(VID.to_owned(), rule.into());
    }
    let outcome = match ACTIONS.get(name) {
        Some(entry) => entry.check(&mut conf, kind),
        None if name == "return" => RETURN.validate(&mut conf),
        None => return Err(format!("unsupported action: {name}")),
    };
    outcome.map_err(|error| format!("failed to validate the '{name}' action: {error}"))?;
    Ok((name, conf))
}

fn build(conf: &Value, build: &Build) -> Built {
    let rules = rules(conf).map(|(at, rule)| {
        let case = rule.get("case").map(Expr::compile).transpose()?;
        let Some(action) = rule["actions"].get(0) else { return Ok(Rule { case, action: Action::Nothing }) };
        let (name, conf) = checked(action, at, SchemaType::Plain)?;
        let action = match ACTIONS.get(name) {
            Some(entry) => Action::Plugin(entry.spec.name, (entry.spec.build)(&conf, build)?),
            None => Action::Return(conf["code"].as_f64().unwrap_or(500.0) as u16),
        };
        Ok(Rule { case, action })
    });
    Ok(Rc::new(Workflow { rules: rules.collect::<Result<_, String>>()? }))
}

impl Plugin for Workflow {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Access])
    }

    fn access<'a>(&'a self, ex: &'a mut Exchange, host: &'a Host) -> Step<'a> {
        let holds = |rule: &&Rule| rule.case.as_ref().is_none_or(|case| case.eval(ex));
        match self.rules.iter().find(holds).map(|rule| &rule.action) {
            Some(Action::Return(code)) => Step::Reply(Reply::error_msg(*code, "rejected by workflow")),
            Some(Action::Plugin(name, plugin)) => {
                ex.skipped.push(name);
                plugin.access(ex, host)
            }
            Some(Action::Nothing) | None => Step::Next,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::kit::test;

    fn limit(count: u32) -> Value {
        json!({"count": count, "time_window": 60, "key": "remote_addr", "rejected_code": 429})
    }

    #[test]
    fn refuses_with_the_texts_of_apisix() {
        let with = |rule: Value| json!({"rules": [rule]});
        for (conf, error) in [
            (json!({}), "property \"rules\" is required".to_owned()),
            (
                with(json!({"case": [["uri", "==", "/"]]})),
                "property \"rules\" validation failed: failed to validate item 1: property \"actions\" is required"
                    .into(),
            ),
            (
                with(json!({"case": [], "actions": [["return", {"code": 403}]]})),
                "property \"rules\" validation failed: failed to validate item 1: property \"case\" validation \
                 failed: expect array to have at least 1 items"
                    .into(),
            ),
            (with(json!({"actions": [["fake", {}]]})), "unsupported action: fake".into()),
            (
                with(json!({"actions": [["return", {}]]})),
                "failed to validate the 'return' action: property \"code\" is required".into(),
            ),
            (
                with(json!({"actions": [["return", {"code": 600}]]})),
                "failed to validate the 'return' action: property \"code\" validation failed: expected 600 to be \
                 at most 599"
                    .into(),
            ),
            (
                with(json!({"actions": [["limit-count", {"count": 1, "time_window": 1, "group": "g"}]]})),
                "failed to validate the 'limit-count' action: group is not supported".into(),
            ),
            (
                with(json!({"case": [["uri", "=", "/"]], "actions": [["return", {"code": 403}]]})),
                "failed to validate the 'case' expression: invalid operator '='".into(),
            ),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), error, "{conf}");
        }
    }

    #[test]
    fn the_first_case_that_holds_decides() {
        let host = test::host();
        let conf = json!({"rules": [
            {"case": [["uri", "==", "/a"]], "actions": [["return", {"code": 403}], ["return", {"code": 404}]]},
            {"case": [["arg_x", "==", "1"]], "actions": [["limit-count", limit(1)]]},
            {"case": ["OR", ["arg_y", "==", "1"], ["arg_y", "==", "2"]], "actions": [["limit-count", limit(1)]]},
            {"case": [["arg_z", "==", "1"]], "actions": []},
        ]});
        let plugin = test::build(&SPEC, &host, conf);
        let ask = |target: &str| {
            let mut ex = test::exchange(&format!("GET {target} HTTP/1.1\nHost: a"));
            let reply = test::run(&plugin, Phase::Access, &mut ex, &host);
            (reply.map_or(200, |reply| reply.status), ex.skipped.contains(&"limit-count"))
        };
        assert_eq!([ask("/a?x=1"), ask("/?x=1"), ask("/?x=1")], [(403, false), (200, true), (429, true)]);
        assert_eq!([ask("/?y=2"), ask("/?y=1")], [(200, true), (429, true)], "each rule counts for itself");
        assert_eq!([ask("/?z=1"), ask("/")], [(200, false), (200, false)]);
    }

    #[test]
    fn a_rule_without_a_case_takes_all() {
        let host = test::host();
        let plugin = test::build(&SPEC, &host, json!({"rules": [{"actions": [["return", {"code": 403}]]}]}));
        let mut ex = test::exchange("GET / HTTP/1.1\nHost: a");
        let reply = test::run(&plugin, Phase::Access, &mut ex, &host);
        assert_eq!(reply, Some(Reply::error_msg(403, "rejected by workflow")));
    }
}

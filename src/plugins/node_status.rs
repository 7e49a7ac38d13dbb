//! `node-status`: how many connections this node has, at `/apisix/status` (apisix/plugins/node-status.lua).
//!
//! The plugin does nothing on a route of its own. Once it is in `plugins` of config.yaml, a route with
//! `public-api` serves its page:
//!
//! ```json
//! {
//!   "uri": "/apisix/status",
//!   "plugins": { "public-api": {}, "node-status": {} }
//! }
//! ```
//!
//! The page is `{"id", "status": {"active", "accepted", "handled", "total", "reading", "writing", "waiting"}}`,
//! the numbers as text, those of all cores together. `id` is `apisix.id`, or what `conf/apisix.uid` holds.
//!
//! Phases: none.
//!
//! Known differences: `waiting` is too small while connections of HTTP/2 or HTTP/3 have several requests at a time.

use serde_json::{Map, Value, json};

use super::kit::off_route;
use crate::exchange::{Reply, ReplyBody};
use crate::plugin::{Host, Spec};

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "node-status",
    priority: 1000,
    schema: r#"{"type": "object"}"#,
    build: off_route::build,
    ..Spec::PLAIN
};

/// Where its page is.
pub const URI: &str = "/apisix/status";

/// The numbers of nginx's page, in their order there.
const NUMBERS: [&str; 7] = ["active", "accepted", "handled", "total", "reading", "writing", "waiting"];

/// The page.
pub fn page(host: &Host) -> Reply {
    let text = host.metrics.borrow().stub_status();
    let numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let status: Map<String, Value> =
        NUMBERS.iter().zip(numbers).map(|(name, number)| ((*name).to_owned(), number.into())).collect();
    let page = json!({ "id": crate::telemetry::node_id(), "status": status });
    Reply { status: 200, body: ReplyBody::Text(page.to_string().into_bytes()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::kit::test;

    #[test]
    fn the_page_has_every_number_as_text() {
        let host = test::host();
        host.metrics.borrow().tallies().accepted.add(3);
        host.metrics.borrow().tallies().requests.add(12);
        let Reply { status: 200, body: ReplyBody::Text(page) } = page(&host) else { panic!("no page") };
        let page: Value = serde_json::from_slice(&page).unwrap();
        let expected = json!({ "active": "0", "accepted": "3", "handled": "0", "total": "12", "reading": "0",
            "writing": "0", "waiting": "0" });
        assert_eq!(page["status"], expected);
        assert!(page["id"].is_string());
    }
}

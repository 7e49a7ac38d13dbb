//! When a failed try is repeated, and what the client gets when it is not.
//!
//! The rules are nginx's `proxy_next_upstream`, whose default is `error timeout`, with its tries and timeout,
//! and APISIX's `retries` and `retry_timeout` (apisix/balancer.lua): an error or a timeout before an answer
//! came leads to the next node, a status only if it is listed (`http_503`). POST, LOCK and PATCH are not
//! repeated once a byte of them was sent, unless `non_idempotent` is set.

use crate::config::Proxy;
use crate::limits;
use crate::model::Upstream;

/// Why a try brought no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// No connection, or one that broke before a whole answer head.
    Error,
    /// Connecting, sending or waiting for the answer's head took too long.
    Timeout,
    /// The answer's head was no HTTP.
    InvalidHead,
    /// An answer whose status is listed in `proxy_next_upstream`.
    Status(u16),
}

/// A failed try as the decision sees it.
#[derive(Clone, Copy, Debug)]
pub struct Try {
    /// What went wrong.
    pub failure: Failure,
    /// The connection came out of the keep-alive pool: its end says nothing about the node.
    pub reused: bool,
    /// Bytes of the request were sent on it.
    pub sent: bool,
    /// The method is POST, LOCK or PATCH.
    pub non_idempotent: bool,
    /// The whole body so far is still held and can be sent again.
    pub replayable: bool,
    /// The node has said that it has not looked at the request, or its connection took no more.
    pub unseen: bool,
}

/// What to do after a failed try.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// The same node once more on another connection. The node does not count as tried.
    SameNode,
    /// Another node; if none is left, 502.
    NextNode,
    /// Answer the client with this status.
    GiveUp(u16),
    /// The client gets the answer that came, whatever its status.
    Pass,
}

/// The tries that one request has left.
#[derive(Clone, Debug)]
pub struct Retries<'a> {
    rules: &'a Proxy,
    left: u32,
    unseen_left: u32,
    /// APISIX's: past it the answer is 502.
    deadline_ms: Option<u64>,
    /// nginx's: past it the answer is what the last failure asks for.
    next_deadline_ms: Option<u64>,
}

/// No node can be picked, at first or for a retry.
pub const NO_NODE_TO_TRY: u16 = 502;
/// The upstream has no nodes at all (none written, or no name resolved).
pub const NO_VALID_NODE: u16 = 503;

impl<'a> Retries<'a> {
    /// For a request that begins now on an upstream that has `nodes` nodes after resolution. `rules` are the
    /// `proxy_next_upstream*` directives of the configuration's snippets.
    pub fn new(upstream: &Upstream, rules: &'a Proxy, nodes: usize, now_ms: u64) -> Self {
        let all_nodes = || nodes.saturating_sub(1).try_into().unwrap_or(u32::MAX);
        let mut left = upstream.retries.unwrap_or_else(all_nodes);
        if let Some(most) = rules.next_upstream_tries.checked_sub(1) {
            left = left.min(most);
        }
        let retry_ms = u64::from(upstream.retry_timeout_ms);
        let next_ms = rules.next_upstream_timeout_ms;
        Retries {
            rules,
            left,
            unseen_left: limits::UNSEEN_TRIES,
            deadline_ms: (left > 0 && retry_ms > 0).then(|| now_ms + retry_ms),
            next_deadline_ms: (next_ms > 0).then(|| now_ms + next_ms),
        }
    }

    /// Decides after a failed try. Never call it once a byte of an answer went to the client.
    pub fn after(&mut self, failed: Try, now_ms: u64) -> Decision {
        let on = &self.rules.next_upstream;
        let (listed, status) = match failed.failure {
            Failure::Timeout => (on.timeout, 504),
            Failure::Error => (on.error, 502),
            Failure::InvalidHead => (on.invalid_header, 502),
            Failure::Status(status) => (on.statuses.contains(&status), status),
        };
        let once = failed.sent && (!failed.replayable || (failed.non_idempotent && !on.non_idempotent));
        // nginx gives a try back when a kept connection turns out closed
        let stale = failed.reused && failed.failure == Failure::Error;
        let unseen = failed.unseen && self.unseen_left > 0;
        self.unseen_left -= u32::from(unseen);
        let late = self.next_deadline_ms.is_some_and(|deadline_ms| deadline_ms <= now_ms);
        if !listed || once || late || (self.left == 0 && !stale && !unseen) {
            return match failed.failure {
                Failure::Status(_) => Decision::Pass,
                _ => Decision::GiveUp(status),
            };
        }
        if self.deadline_ms.is_some_and(|deadline_ms| deadline_ms < now_ms) {
            return Decision::GiveUp(502);
        }
        if stale || unseen {
            return Decision::SameNode;
        }
        self.left -= 1;
        Decision::NextNode
    }
}

#[cfg(test)]
mod tests {
    use super::Decision::{GiveUp, NextNode, Pass, SameNode};
    use super::Failure::{Error, InvalidHead, Status, Timeout};
    use super::*;
    use crate::config::NextUpstream;

    const NGINX: Proxy = Proxy::NGINX;

    fn retries(retries: Option<u32>, retry_timeout_ms: u32, nodes: usize) -> Retries<'static> {
        let upstream = Upstream { retries, retry_timeout_ms, ..Upstream::default() };
        Retries::new(&upstream, const { &NGINX }, nodes, 1000)
    }

    const CONNECT: Try = Try {
        failure: Error,
        reused: false,
        sent: false,
        non_idempotent: false,
        replayable: true,
        unseen: false,
    };

    #[test]
    fn the_default_is_one_try_a_node() {
        let mut three = retries(None, 0, 3);
        assert_eq!(three.after(CONNECT, 0), NextNode);
        assert_eq!(three.after(Try { failure: Timeout, ..CONNECT }, 0), NextNode);
        assert_eq!(three.after(CONNECT, 0), GiveUp(502));
        assert_eq!(retries(None, 0, 1).after(CONNECT, 0), GiveUp(502));
        assert_eq!(retries(Some(0), 0, 5).after(CONNECT, 0), GiveUp(502));
        assert_eq!(retries(Some(1), 0, 1).after(CONNECT, 0), NextNode);
    }

    #[test]
    fn what_failed_decides_the_retry_and_the_status() {
        let sent = Try { sent: true, ..CONNECT };
        let post = Try { non_idempotent: true, ..CONNECT };
        let table = [
            ("connect refused", CONNECT, NextNode, GiveUp(502)),
            ("connect timeout", Try { failure: Timeout, ..CONNECT }, NextNode, GiveUp(504)),
            ("closed after the request", sent, NextNode, GiveUp(502)),
            ("no answer in time", Try { failure: Timeout, ..sent }, NextNode, GiveUp(504)),
            ("no HTTP", Try { failure: InvalidHead, ..sent }, GiveUp(502), GiveUp(502)),
            ("POST, nothing sent", post, NextNode, GiveUp(502)),
            ("POST, sent", Try { sent: true, ..post }, GiveUp(502), GiveUp(502)),
            ("POST, sent, timeout", Try { sent: true, failure: Timeout, ..post }, GiveUp(504), GiveUp(504)),
            ("body gone", Try { replayable: false, ..sent }, GiveUp(502), GiveUp(502)),
            ("body gone, nothing sent", Try { replayable: false, ..CONNECT }, NextNode, GiveUp(502)),
            ("stale keep-alive", Try { reused: true, ..sent }, SameNode, SameNode),
            ("stale, POST", Try { reused: true, sent: true, ..post }, GiveUp(502), GiveUp(502)),
            ("reused, timeout", Try { reused: true, failure: Timeout, ..sent }, NextNode, GiveUp(504)),
        ];
        for (name, failed, with_retries, without) in table {
            assert_eq!(retries(Some(2), 0, 3).after(failed, 0), with_retries, "{name}");
            assert_eq!(retries(Some(0), 0, 3).after(failed, 0), without, "{name}, no retries");
        }
    }

    #[test]
    fn a_listed_status_leads_on_while_there_are_tries() {
        let next_upstream = NextUpstream { statuses: vec![500, 503], ..NGINX.next_upstream };
        let listed = Proxy { next_upstream, ..NGINX };
        let upstream = Upstream { retry_timeout_ms: 200, ..Upstream::default() };
        let answered = |status| Try { failure: Status(status), sent: true, reused: true, ..CONNECT };
        let post = Try { non_idempotent: true, ..answered(503) };
        for (failed, now_ms, decision) in [
            (answered(503), 0, NextNode),
            (answered(404), 0, Pass),
            (post, 0, Pass),
            (Try { replayable: false, ..answered(500) }, 0, Pass),
            (answered(500), 201, GiveUp(502)),
        ] {
            let mut retries = Retries::new(&upstream, &listed, 3, 0);
            assert_eq!(retries.after(failed, now_ms), decision, "{failed:?} after {now_ms} ms");
        }
        let mut retries = Retries::new(&upstream, &listed, 2, 0);
        let decisions = [500, 503].map(|status| retries.after(answered(status), 0));
        assert_eq!(decisions, [NextNode, Pass], "the last answer is the client's");
        let next_upstream = NextUpstream { non_idempotent: true, ..listed.next_upstream.clone() };
        let too = Proxy { next_upstream, ..NGINX };
        assert_eq!(Retries::new(&upstream, &too, 3, 0).after(post, 0), NextNode);
    }

    #[test]
    fn after_the_deadline_it_is_502_even_for_a_timeout() {
        let slow = Try { failure: Timeout, ..CONNECT };
        let mut limited = retries(Some(5), 200, 3);
        assert_eq!(limited.after(slow, 1200), NextNode);
        assert_eq!(limited.after(slow, 1201), GiveUp(502));
        assert_eq!(retries(Some(0), 200, 3).after(slow, 9000), GiveUp(504), "no retries, no deadline");
    }

    #[test]
    fn a_stale_connection_costs_no_try() {
        let mut one = retries(Some(1), 0, 2);
        assert_eq!(one.after(Try { reused: true, sent: true, ..CONNECT }, 0), SameNode);
        assert_eq!(one.after(CONNECT, 0), NextNode);
        assert_eq!(one.after(CONNECT, 0), GiveUp(502));
    }

    #[test]
    fn what_no_node_has_looked_at_costs_no_try_for_some_time() {
        let unseen = Try { unseen: true, non_idempotent: true, ..CONNECT };
        let mut one = retries(None, 0, 1);
        for _ in 0..limits::UNSEEN_TRIES {
            assert_eq!(one.after(unseen, 0), SameNode);
        }
        assert_eq!(one.after(unseen, 0), GiveUp(502), "a node that refuses all is one that fails");
        let gone = Try { sent: true, replayable: false, ..unseen };
        assert_eq!(retries(None, 0, 1).after(gone, 0), GiveUp(502), "its body is gone");
    }

    #[test]
    fn the_directives_of_snippets_narrow_and_widen_the_rules() {
        let upstream = Upstream::default();
        let on = |error, invalid_header, non_idempotent| Proxy {
            next_upstream: NextUpstream { error, invalid_header, non_idempotent, ..NGINX.next_upstream },
            ..NGINX
        };
        let post_sent = Try { sent: true, non_idempotent: true, ..CONNECT };
        let bad_head = Try { failure: InvalidHead, sent: true, ..CONNECT };
        for (proxy, failed, decision) in [
            (on(false, false, false), CONNECT, GiveUp(502)),
            (on(true, true, false), bad_head, NextNode),
            (on(true, false, true), post_sent, NextNode),
        ] {
            assert_eq!(Retries::new(&upstream, &proxy, 3, 0).after(failed, 0), decision, "{failed:?}");
        }
        let few = Proxy { next_upstream_tries: 2, ..NGINX };
        let mut two = Retries::new(&upstream, &few, 9, 0);
        assert_eq!((two.after(CONNECT, 0), two.after(CONNECT, 0)), (NextNode, GiveUp(502)));
        let brief = Proxy { next_upstream_timeout_ms: 100, ..NGINX };
        let slow = Try { failure: Timeout, ..CONNECT };
        assert_eq!(Retries::new(&upstream, &brief, 9, 0).after(slow, 100), GiveUp(504));
    }
}

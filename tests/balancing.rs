//! Balancers that look at what nodes do, retries that end, and health checks that learn from requests.

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::*;
use serde_json::{Value, json};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const BROKEN: &str = "HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n";

/// A gateway on one core, whose route goes to this upstream; `$0`, `$1` … are the ports of `servers`.
fn with(driver: &'static str, servers: &[&Upstream], upstream: &str) -> Gateway {
    let mut upstream = upstream.to_string();
    for (n, server) in servers.iter().enumerate() {
        upstream = upstream.replace(&format!("${n}"), &server.port.to_string());
    }
    let routes = format!("routes:\n- {{id: 1, uri: /*, upstream: {upstream}}}");
    let setup = Setup::new(driver, Source::Yaml(routes)).workers(1);
    setup.apisix("show_upstream_status_in_response_header: true").start()
}

#[test]
fn least_conn_leaves_a_busy_node_alone() {
    on_both_drivers(|driver| {
        let ((busy, gate), idle) = (Upstream::held("held"), Upstream::answering(ok("idle")));
        let nodes = "{type: least_conn, nodes: {\"127.0.0.1:$0\": 1, \"127.0.0.1:$1\": 1}}";
        let gateway = with(driver, &[&busy, &idle], nodes);
        let mut waiting = Vec::new();
        for sent in 1..=12 {
            let mut client = gateway.connect();
            client.send(GET);
            eventually("the request is at a node", || busy.requests().len() + idle.requests().len() == sent);
            match busy.requests().len() > waiting.len() {
                true => waiting.push(client),
                false => assert_eq!(client.response().text(), "idle"),
            }
        }
        assert_eq!(waiting.len(), 1, "one request is in flight there, none at the other");
        gate.open();
        assert_eq!(waiting.remove(0).response().text(), "held");
        let mut client = gateway.connect();
        let nodes = (0..4).map(|_| client.send(GET).response().text());
        assert!(nodes.collect::<Vec<_>>().contains(&"held".to_string()), "it is idle again");
    });
}

/// Two nodes that take requests and never answer.
fn least_conn_to_silence(driver: &'static str) -> (Gateway, Upstream, Upstream) {
    let (first, second) = (Upstream::silent(), Upstream::silent());
    let nodes = "{type: least_conn, nodes: {\"127.0.0.1:$0\": 1, \"127.0.0.1:$1\": 1}}";
    (with(driver, &[&first, &second], nodes), first, second)
}

/// A client that leaves frees its place, or its node would get less and less.
#[test]
fn least_conn_forgets_who_has_left() {
    on_both_drivers(|driver| {
        let (gateway, first, second) = least_conn_to_silence(driver);
        let sent = || first.requests().len() + second.requests().len();
        let leave = || {
            let (before, mut client) = (sent(), gateway.connect());
            client.send(GET);
            eventually("it is at a node", || sent() > before);
            drop(client);
        };
        let mut open = gateway.connect();
        open.send(GET);
        eventually("one request stays open", || sent() == 1);
        let (busy, idle) = if first.requests().is_empty() { (&second, &first) } else { (&first, &second) };
        for left in 1..=4 {
            leave();
            gateway.read_until("logs/access.log", " 499 ");
            eventually("its line", || gateway.read("logs/access.log").matches(" 499 ").count() == left);
        }
        assert_eq!((busy.requests().len(), idle.requests().len()), (1, 4));
    });
}

/// Who has left is forgotten once, or its node would get more and more.
#[test]
fn least_conn_forgets_who_has_left_once() {
    on_both_drivers(|driver| {
        let (gateway, first, second) = least_conn_to_silence(driver);
        let sent = || (first.requests().len(), second.requests().len());
        let open = || {
            let ((a, b), mut client) = (sent(), gateway.connect());
            client.send(GET);
            eventually("it is at a node", || sent() != (a, b));
            client
        };
        let _stay: Vec<Client> = (0..4).map(|_| open()).collect();
        assert_eq!(sent(), (2, 2));
        for left in 1..=4 {
            drop(open());
            eventually("its line", || gateway.read("logs/access.log").matches(" 499 ").count() == left);
        }
        let (a, b) = sent();
        let _more = [open(), open()];
        assert_eq!(sent(), (a + 1, b + 1));
    });
}

/// What is in flight counts on when the upstream is changed meanwhile.
#[test]
fn a_change_does_not_forget_what_is_in_flight() {
    on_both_drivers(|driver| {
        let ((busy, gate), idle) = (Upstream::held("held"), Upstream::answering(ok("idle")));
        let gateway = Setup::new(driver, Source::Embedded).workers(1).start();
        let put = |desc: &str| {
            let nodes = json!({format!("127.0.0.1:{}", busy.port): 1, format!("127.0.0.1:{}", idle.port): 1});
            let upstream = json!({"type": "least_conn", "nodes": nodes, "desc": desc});
            gateway.put("/routes/1", &json!({"uri": "/*", "upstream": upstream}));
        };
        put("before");
        let mut waiting = gateway.connect();
        while busy.requests().is_empty() {
            let before = idle.requests().len();
            waiting = gateway.connect();
            waiting.send(GET);
            eventually("it is at a node", || !busy.requests().is_empty() || idle.requests().len() > before);
        }
        for desc in ["after", "and again"] {
            put(desc);
            for _ in 0..4 {
                assert_eq!(gateway.get("/").text(), "idle", "{desc}");
            }
        }
        gate.open();
        assert_eq!(waiting.response().text(), "held");
    });
}

#[test]
fn chash_can_hash_what_the_body_says() {
    on_both_drivers(|driver| {
        let servers: Vec<Upstream> = (0..4).map(|n| Upstream::answering(ok(&n.to_string()))).collect();
        let servers: Vec<&Upstream> = servers.iter().collect();
        for (hash_on, key) in [("vars", "post_arg.user"), ("vars_combinations", "$host-${post_arg.user}")] {
            let nodes = format!(
                "{{type: chash, hash_on: {hash_on}, key: \"{key}\", nodes: {{\"127.0.0.1:$0\": 1, \
                 \"127.0.0.1:$1\": 1, \"127.0.0.1:$2\": 1, \"127.0.0.1:$3\": 1}}}}"
            );
            let gateway = with(driver, &servers, &nodes);
            let place = |user: u32| {
                let body = format!("{{\"user\": \"u{user}\"}}");
                let post = format!(
                    "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                let node = ask(gateway.port(), post.as_bytes()).text();
                let seen = servers[node.parse::<usize>().unwrap()].last();
                assert_eq!(seen.body, body.as_bytes(), "what was read is passed on");
                node
            };
            let first: Vec<String> = (0..12).map(place).collect();
            assert!(first.iter().any(|node| *node != first[0]), "12 users on one of 4 nodes: {hash_on}");
            assert_eq!((0..12).map(place).collect::<Vec<_>>(), first);
        }
    });
}

#[test]
fn ewma_prefers_the_faster_node() {
    on_both_drivers(|driver| {
        let slow = Upstream::start(|conn| {
            while conn.request().is_some() {
                std::thread::sleep(Duration::from_millis(400));
                if conn.send(ok("slow")).is_err() {
                    return;
                }
            }
        });
        let fast = Upstream::answering(ok("fast"));
        let nodes = "{type: ewma, nodes: {\"127.0.0.1:$0\": 1, \"127.0.0.1:$1\": 1}}";
        let gateway = with(driver, &[&slow, &fast], nodes);
        let mut client = gateway.connect();
        for _ in 0..40 {
            assert_eq!(client.send(GET).response().status, 200);
        }
        let slow = slow.requests().len();
        assert!(slow <= 2, "{slow} of 40 requests went to the slow node");
    });
}

/// How long a node lets a client wait in vain is how fast it is (APISIX's ewma.lua takes it so, too). It would else look
/// like the fastest of all.
#[test]
fn ewma_turns_from_a_node_that_does_not_answer() {
    on_both_drivers(|driver| {
        let mute = Upstream::silent();
        let quick = Upstream::answering(ok("quick"));
        let nodes = "{type: ewma, retries: 0, timeout: {connect: 1, send: 1, read: 0.3}, \
                     nodes: {\"127.0.0.1:$0\": 1, \"127.0.0.1:$1\": 1}}";
        let gateway = with(driver, &[&mute, &quick], nodes);
        let statuses: Vec<u16> = (0..20).map(|_| gateway.get("/").status).collect();
        let in_vain = statuses.iter().filter(|status| **status == 504).count();
        assert_eq!((in_vain, mute.requests().len()), (1, 1), "{statuses:?}");
    });
}

/// The same where no timeout ends the wait, but the client.
#[test]
fn ewma_turns_from_a_node_that_clients_leave() {
    on_both_drivers(|driver| {
        let mute = Upstream::silent();
        let quick = Upstream::answering(ok("quick"));
        let nodes = "{type: ewma, nodes: {\"127.0.0.1:$0\": 1, \"127.0.0.1:$1\": 1}}";
        let gateway = with(driver, &[&mute, &quick], nodes);
        let mut client = gateway.connect();
        for sent in 1.. {
            client.send(GET);
            eventually("it is at a node", || mute.requests().len() + quick.requests().len() == sent);
            if !mute.requests().is_empty() {
                break;
            }
            client.response();
        }
        std::thread::sleep(Duration::from_millis(300)); // so long it waits
        drop(client);
        gateway.read_until("logs/access.log", " 499 ");
        for _ in 0..20 {
            assert_eq!(gateway.get("/").text(), "quick");
        }
    });
}

#[test]
fn retries_end_with_retry_timeout() {
    on_both_drivers(|driver| {
        let mute = || {
            Upstream::start(|conn| {
                conn.request();
                conn.drain();
            })
        };
        let servers = [mute(), mute(), mute(), mute()];
        let nodes = "nodes: {\"127.0.0.1:$0\": 1, \"127.0.0.1:$1\": 1, \"127.0.0.1:$2\": 1, \"127.0.0.1:$3\": 1}, \
                     timeout: {connect: 1, send: 1, read: 0.3}";
        let servers: Vec<&Upstream> = servers.iter().collect();
        let tries = || servers.iter().map(|server| server.requests().len()).sum::<usize>();

        let gateway = with(driver, &servers, &format!("{{retries: 3, retry_timeout: 0.5, {nodes}}}"));
        let began = Instant::now();
        let answer = gateway.get("/");
        assert_eq!((answer.status, tries()), (502, 2), "a third try would begin too late: {answer}");
        assert!(began.elapsed() < Duration::from_millis(1100), "{:?}", began.elapsed());

        let gateway = with(driver, &servers, &format!("{{retries: 3, {nodes}}}"));
        let answer = gateway.get("/");
        assert_eq!((answer.status, tries()), (504, 2 + 4), "{answer}");
    });
}

#[test]
fn a_listed_status_leads_to_the_next_node() {
    on_both_drivers(|driver| {
        let sick = Upstream::answering("HTTP/1.1 503 Sick\r\nContent-Length: 4\r\nX-Sick: yes\r\n\r\nsick");
        let well = Upstream::answering(ok("well"));
        let routes = |first: &Upstream, second: &Upstream| {
            let [first, second] = [first, second].map(|server| server.port);
            format!(
                "routes:\n- {{id: 1, uri: /*, upstream: {{nodes: [{{host: 127.0.0.1, port: {first}, weight: 1, priority: 1}}, \
                 {{host: 127.0.0.1, port: {second}, weight: 1, priority: 0}}]}}}}"
            )
        };
        let start = |routes: String, listed: &str| {
            let snippet = format!("http_configuration_snippet: \"proxy_next_upstream {listed};\"");
            let setup = Setup::new(driver, Source::Yaml(routes)).nginx(&snippet);
            setup.apisix("show_upstream_status_in_response_header: true").start()
        };
        let put = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
        let post = put.replace("PUT", "POST");

        let gateway = start(routes(&sick, &well), "error timeout http_503");
        let answer = ask(gateway.port(), put.as_bytes());
        assert_eq!((answer.status, answer.text().as_str()), (200, "well"), "{answer}");
        assert_eq!(answer.header("x-apisix-upstream-status"), Some("503, 200"));
        assert_eq!(answer.header("x-sick"), None, "nothing is left of the first answer: {answer}");
        assert_eq!((sick.last().body, well.last().body), (b"body".to_vec(), b"body".to_vec()));
        let answer = ask(gateway.port(), post.as_bytes());
        assert_eq!((answer.status, answer.text().as_str()), (503, "sick"), "a POST may have had its effect");
        // more than is kept for another try
        let large = "x".repeat(200_000);
        let answer = ask(
            gateway.port(),
            format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{large}", large.len()).as_bytes(),
        );
        assert_eq!(answer.status, 503, "{answer}");

        let gateway = start(routes(&sick, &well), "http_503 non_idempotent");
        assert_eq!(ask(gateway.port(), post.as_bytes()).text(), "well");

        let gateway = start(routes(&sick, &sick), "http_500 http_503");
        let answer = gateway.get("/");
        assert_eq!((answer.status, answer.text().as_str()), (503, "sick"), "the last answer is the client's");
        assert_eq!(answer.header("x-apisix-upstream-status"), Some("503, 503"));

        let gateway = start(routes(&sick, &well), "error http_500");
        assert_eq!(gateway.get("/").text(), "sick", "503 is not listed");
    });
}

/// The checks of the one upstream, as the Control API shows them: port → (status, counters).
fn checks(gateway: &Gateway) -> HashMap<u64, (String, Value)> {
    let shown = get(gateway.ports.control, "/v1/healthcheck/routes/1").json();
    let nodes = shown["nodes"].as_array().cloned().unwrap_or_default();
    let nodes = nodes.iter().map(|node| {
        (node["port"].as_u64().unwrap(), (node["status"].as_str().unwrap().into(), node["counter"].clone()))
    });
    nodes.collect()
}

#[test]
fn passive_checks_take_a_node_out_and_a_node_without_weight_serves_instead() {
    on_both_drivers(|driver| {
        let broken = Arc::new(AtomicBool::new(true));
        let is_broken = broken.clone();
        let first = Upstream::start(move |conn| {
            while conn.request().is_some() {
                let broken = is_broken.load(Ordering::SeqCst);
                if conn.send(if broken { BROKEN.into() } else { ok("first") }).is_err() {
                    return;
                }
            }
        });
        let spare = Upstream::answering(ok("spare"));
        let gateway = with(
            driver,
            &[&first, &spare],
            "{nodes: {\"127.0.0.1:$0\": 1, \"127.0.0.1:$1\": 0}, checks: {active: {http_path: /status, \
             healthy: {interval: 60}, unhealthy: {interval: 1}}, passive: {healthy: {successes: 3}, \
             unhealthy: {http_failures: 3}}}}",
        );
        let port = u64::from(first.port);
        let state = |name: &str| {
            eventually(name, || checks(&gateway).get(&port).is_some_and(|(status, _)| status == name));
        };
        // the first request starts the checks
        assert_eq!(gateway.get("/").status, 500);
        state("mostly_healthy");
        // successes forget failures, and enough of them make the node healthy again
        broken.store(false, Ordering::SeqCst);
        for _ in 0..3 {
            assert_eq!(gateway.get("/").text(), "first");
        }
        state("healthy");
        broken.store(true, Ordering::SeqCst);
        assert_eq!([gateway.get("/").status, gateway.get("/").status], [500, 500]);
        state("mostly_healthy");
        assert_eq!(gateway.get("/").status, 500);
        state("unhealthy");
        eventually("the core knows", || gateway.get("/").text() == "spare");
        assert!((0..10).all(|_| gateway.get("/").text() == "spare"));
        // only a probe can bring it back, for no request goes there
        broken.store(false, Ordering::SeqCst);
        state("healthy");
        eventually("the core knows", || gateway.get("/").text() == "first");
        assert!((0..10).all(|_| gateway.get("/").text() == "first"), "weight 0 gets nothing again");
    });
}

#[test]
fn passive_checks_count_failed_tries_that_led_elsewhere() {
    on_both_drivers(|driver| {
        let serving = Upstream::answering(ok("served"));
        let refusing = free_port();
        let checks_of = |nodes: &str| {
            format!(
                "{{retries: 1, nodes: {{{nodes}}}, checks: {{active: {{healthy: {{interval: 60}}, \
                 unhealthy: {{interval: 60}}}}, passive: {{unhealthy: {{tcp_failures: 1}}}}}}}}"
            )
        };
        let two = checks_of(&format!("\"127.0.0.1:{refusing}\": 1, \"127.0.0.1:$0\": 1"));
        let gateway = with(driver, &[&serving], &two);
        eventually("the refusing node is tried no more", || {
            let answers = (0..4).map(|_| gateway.get("/"));
            answers.filter(|answer| answer.header("x-apisix-upstream-status") == Some("200")).count() == 4
        });
        let (status, counter) = &checks(&gateway)[&u64::from(refusing)];
        assert_eq!((status.as_str(), &counter["tcp_failure"]), ("unhealthy", &json!(1)));

        // the last try is judged by its status alone, and 502 is not in the list
        let one = checks_of(&format!("\"127.0.0.1:{refusing}\": 1")).replace("retries: 1", "retries: 0");
        let gateway = with(driver, &[], &one);
        for _ in 0..3 {
            assert_eq!(gateway.get("/").status, 502);
        }
        eventually("the checks run", || !checks(&gateway).is_empty());
        let (status, counter) = &checks(&gateway)[&u64::from(refusing)];
        assert_eq!((status.as_str(), &counter["tcp_failure"]), ("healthy", &json!(0)));
    });
}

/// What a try that led to another node tells of its own (ngx_http_upstream.c, apisix/balancer.lua `pick_server`); and what
/// a client tells that leaves.
#[test]
fn passive_checks_count_each_failure_as_what_it_was() {
    on_both_drivers(|driver| {
        let refusing = Upstream::answering("HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n");
        let late = Upstream::answering("HTTP/1.1 504 Late\r\nContent-Length: 0\r\n\r\n");
        let (silent, well) = (Upstream::silent(), Upstream::answering(ok("well")));
        let counted = |first: &Upstream, off: bool, leaves: bool| {
            let objects = format!(
                "routes:\n- {{id: 1, uri: /*, upstream: {{nodes: [{{host: 127.0.0.1, port: {}, weight: 1, priority: 1}}, \
                 {{host: 127.0.0.1, port: {}, weight: 1}}], timeout: {{connect: 5, send: 5, read: {}}}, checks: {{active: \
                 {{healthy: {{interval: 60}}, unhealthy: {{interval: 60}}}}, passive: {{unhealthy: {{http_statuses: \
                 [403, 499], http_failures: 1, tcp_failures: 1, timeouts: 1}}}}}}}}}}",
                first.port,
                well.port,
                if leaves { 60.0 } else { 0.3 }
            );
            let gateway = Setup::new(driver, Source::Yaml(objects))
                .apisix(&format!("disable_upstream_healthcheck: {off}\n"))
                .nginx(
                    "http_configuration_snippet: \"proxy_next_upstream error timeout http_403 http_504;\"\n",
                )
                .start();
            if leaves {
                let asked = first.requests().len();
                let mut client = gateway.connect();
                client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                first.wait_for(asked + 1);
            } else {
                assert_eq!(gateway.get("/").text(), "well");
            }
            if off {
                assert!((0..3).all(|_| gateway.get("/").header("x-apisix-upstream-status").is_none()));
                return (first.requests().len().to_string(), json!(checks(&gateway).len()));
            }
            let node = || checks(&gateway).get(&u64::from(first.port)).cloned();
            eventually("it is out", || node().is_some_and(|(status, _)| status == "unhealthy"));
            node().unwrap()
        };
        let counts = |http: u32, tcp: u32, timeout: u32| {
            let counter =
                json!({"success": 0, "http_failure": http, "tcp_failure": tcp, "timeout_failure": timeout});
            ("unhealthy".to_owned(), counter)
        };
        assert_eq!(counted(&refusing, false, false), counts(1, 0, 0));
        assert_eq!(counted(&late, false, false), counts(0, 0, 1));
        assert_eq!(counted(&silent, false, false), counts(0, 0, 1));
        assert_eq!(counted(&silent, false, true), counts(1, 0, 0), "499");
        // one of before, and four
        assert_eq!(counted(&refusing, true, false), ("5".to_owned(), json!(0)));
    });
}

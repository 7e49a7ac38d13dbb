//! limit-count over all cores: the limit is the node's, not each core's.

mod common;

use std::collections::HashMap;
use std::thread;

use common::*;

/// A gateway whose one route allows `count` requests a minute.
fn limited(driver: &'static str, upstream: &Upstream, count: u32, rest: &str) -> Gateway {
    let objects = format!(
        "routes:\n- id: 1\n  uri: /*\n  plugins:\n    limit-count: {{count: {count}, time_window: 60, key: http_x_user{rest}}}\n  \
         upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}}}",
        upstream.port
    );
    Setup::new(driver, Source::Yaml(objects)).workers(4).start()
}

#[test]
fn a_limit_is_exact_over_all_cores() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering(ok("passed"));
        let gateway = limited(driver, &upstream, 500, "");
        // 16 connections land on several cores and ask for far more than the limit
        let threads: Vec<_> = (0..16)
            .map(|_| {
                let mut client = gateway.connect();
                thread::spawn(move || {
                    let mut statuses: HashMap<u16, u32> = HashMap::new();
                    for _ in 0..100 {
                        let answer =
                            client.send("GET / HTTP/1.1\r\nHost: a\r\nX-User: joe\r\n\r\n").response();
                        *statuses.entry(answer.status).or_default() += 1;
                    }
                    statuses
                })
            })
            .collect();
        let mut statuses: HashMap<u16, u32> = HashMap::new();
        for thread in threads {
            for (status, times) in thread.join().unwrap() {
                *statuses.entry(status).or_default() += times;
            }
        }
        assert_eq!(statuses, HashMap::from([(200, 500), (503, 1100)]));
        assert_eq!(upstream.requests().len(), 500);
    });
}

#[test]
fn keys_do_not_touch_each_other() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering(ok("passed"));
        let gateway = limited(driver, &upstream, 2, ", rejected_code: 429");
        let ask = |user: &str| request(gateway.port(), "GET", "/", &format!("Host: a\r\nX-User: {user}\r\n"));
        for (user, remaining) in [("a", "1"), ("b", "1"), ("a", "0"), ("b", "0")] {
            let answer = ask(user);
            assert_eq!(
                (answer.status, answer.header("x-ratelimit-remaining")),
                (200, Some(remaining)),
                "{user}"
            );
            assert_eq!(answer.header("x-ratelimit-limit"), Some("2"));
        }
        let answer = ask("a");
        assert_eq!((answer.status, answer.header("x-ratelimit-remaining")), (429, Some("0")));
        assert_eq!(ask("c").status, 200);
    });
}

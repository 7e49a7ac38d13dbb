use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::*;
use crate::exchange::Vars;
use crate::plugin::SchemaType;
use crate::plugin::counters::Counters;
use crate::plugins::kit::test;

#[test]
fn checks_configurations_as_apisix() {
    let one_of = "value should match only one schema, but matches none";
    let both = "count/time_window and rules cannot be specified at the same time";
    let rule = |key: &str| json!({"count": 1, "time_window": 1, "key": key});
    for (conf, outcome) in [
        (json!({"count": 2, "time_window": 60}), "accepted".to_owned()),
        (json!({"count": "$http_count", "time_window": "60"}), "accepted".into()),
        (json!({"rules": [rule("$a"), rule("$b")], "policy": "local"}), "accepted".into()),
        (json!({"time_window": 60}), one_of.into()),
        (json!({}), one_of.into()),
        (
            json!({"count": -100, "time_window": 60}),
            format!("property \"count\" validation failed: {one_of}"),
        ),
        (
            json!({"count": 1, "time_window": 0}),
            format!("property \"time_window\" validation failed: {one_of}"),
        ),
        (
            json!({"count": 1, "time_window": 1, "rejected_msg": true}),
            "property \"rejected_msg\" validation failed: wrong type: expected string, got boolean".into(),
        ),
        (
            json!({"count": 1, "time_window": 1, "rejected_msg": ""}),
            "property \"rejected_msg\" validation failed: string too short, expected at least 1, got 0"
                .into(),
        ),
        (json!({"count": 1, "time_window": 1, "rules": [rule("$a")]}), both.into()),
        (json!({"count": 1, "rules": [rule("$a")]}), both.into()),
        (
            json!({"group": "a", "rules": [rule("$a")]}),
            "group and rules cannot be specified at the same time".into(),
        ),
        (
            json!({"rules": [rule("${http_company}"), rule("$b"), rule("${http_company}")]}),
            "duplicate key '${http_company}' in rules".into(),
        ),
        (json!({"count": 1, "time_window": 1, "policy": "redis"}), "then clause did not match".into()),
        (
            json!({"count": 1, "time_window": 1, "policy": "redis-cluster", "redis_cluster_name": "c"}),
            "else clause did not match".into(),
        ),
        (json!({"count": 1, "time_window": 1, "policy": "redis", "redis_host": "r1"}), "accepted".into()),
        (
            json!({"count": 1, "time_window": 9, "policy": "redis", "redis_host": "r1", "sync_interval": 0.01}),
            "sync_interval should not be smaller than 0.1".into(),
        ),
        (
            json!({"count": 1, "time_window": 9, "policy": "redis", "redis_host": "r1", "sync_interval": 9}),
            "sync_interval should be smaller than time_window".into(),
        ),
    ] {
        assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), outcome, "{conf}");
    }
    assert_eq!(test::check(&SPEC, SchemaType::Metadata, json!({"limit_header": "L"})), "accepted");
}

/// The schema that the Admin API shows is APISIX's; which error counts follows from it.
#[test]
fn a_count_beside_rules_is_the_first_thing_wrong() {
    let schema: Value = serde_json::from_str(SPEC.schema).unwrap();
    assert_eq!(schema["oneOf"], json!([{"required": ["count", "time_window"]}, {"required": ["rules"]}]));
    let both = "count/time_window and rules cannot be specified at the same time";
    let rules = json!([{"count": 1, "time_window": 1, "key": "$a"}]);
    for conf in [
        json!({"count": 1, "time_window": 1, "rules": rules, "policy": "redis"}),
        json!({"count": 0, "time_window": 1, "rules": rules}),
        json!({"time_window": 0, "rules": rules}),
        json!({"count": 1, "time_window": 1, "rules": [{"count": -1, "time_window": 1, "key": "$a"}]}),
        json!({"count": 1, "rules": rules, "group": "g"}),
        json!({"count": 1, "time_window": 1, "rules": []}),
    ] {
        assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), both, "{conf}");
    }
    for (conf, why) in [
        (json!({"count": 1, "rules": rules, "policy": "redis"}), "then clause did not match"),
        (
            json!({"count": false, "rules": rules}),
            "property \"count\" validation failed: value should match only one schema, but matches none",
        ),
        (
            json!({"count": 1, "rules": 1}),
            "property \"rules\" validation failed: wrong type: expected array, got number",
        ),
    ] {
        assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), why, "{conf}");
    }
}

/// init.lua `check_schema`: the properties of the schema and those of the policy.
#[test]
fn a_group_differs_in_no_option_that_its_policy_knows() {
    let local = json!({"count": 1, "time_window": 60});
    let redis = json!({"count": 1, "time_window": 60, "policy": "redis", "redis_host": "r1"});
    let cluster = json!({"count": 1, "time_window": 60, "policy": "redis-cluster", "redis_cluster_name": "c",
        "redis_cluster_nodes": ["r1"]});
    let sentinel = json!({"count": 1, "time_window": 60, "policy": "redis-sentinel", "redis_master_name": "m",
        "redis_sentinels": [{"host": "r1", "port": 1}]});
    for (number, (conf, option, agrees)) in [
        (&local, json!({"redis_host": "r2"}), true),
        (&local, json!({"sentinel_password": "p"}), true),
        (&local, json!({"key": "uri"}), false),
        (&redis, json!({"redis_host": "r2"}), false),
        (&redis, json!({"redis_keepalive_pool": 7}), false),
        (&redis, json!({"redis_cluster_name": "c"}), true),
        (&cluster, json!({"redis_cluster_name": "d"}), false),
        (&cluster, json!({"redis_host": "r2"}), true),
        (&cluster, json!({"redis_database": 2}), true),
        (&sentinel, json!({"redis_master_name": "n"}), false),
        (&sentinel, json!({"sentinel_password": "p"}), false),
        (&sentinel, json!({"redis_ssl": true}), true),
    ]
    .into_iter()
    .enumerate()
    {
        let mut conf = conf.clone();
        conf["group"] = json!(format!("of options {number}"));
        assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), "accepted", "{conf}");
        conf.as_object_mut().unwrap().extend(option.as_object().unwrap().clone());
        let outcome = if agrees { "accepted" } else { "group conf mismatched" };
        assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), outcome, "{conf}");
    }
}

#[test]
fn a_group_has_one_configuration() {
    let conf = |count: u32| json!({"count": count, "time_window": 60, "group": "of this test"});
    assert_eq!(test::check(&SPEC, SchemaType::Plain, conf(1)), "accepted");
    assert_eq!(test::check(&SPEC, SchemaType::Plain, conf(1)), "accepted");
    assert_eq!(test::check(&SPEC, SchemaType::Plain, conf(2)), "group conf mismatched");
    let mut written_otherwise = conf(1);
    written_otherwise["time_window"] = json!(60.0);
    assert_eq!(test::check(&SPEC, SchemaType::Plain, written_otherwise), "accepted");
    let mut disabled = conf(1);
    disabled["_meta"] = json!({"disable": true});
    assert_eq!(test::check(&SPEC, SchemaType::Plain, disabled), "accepted");
}

/// What a client sees of one request: the status (200 is "goes on"), and limit, remaining and reset.
fn ask(plugin: &Rc<dyn Plugin>, host: &Host, headers: &str) -> String {
    let mut ex = test::exchange(&format!("GET /hello HTTP/1.1\nHost: a\n{headers}"));
    let status = test::run(plugin, Phase::Access, &mut ex, host).map_or(200, |reply| reply.status);
    let mut seen = status.to_string();
    for (_, value, _) in ex.resp_headers().iter() {
        seen.push(' ');
        seen.push_str(&String::from_utf8_lossy(value));
    }
    seen
}

#[test]
fn counts_down_refuses_and_begins_anew() {
    let host = test::host();
    let plugin = test::build(&SPEC, &host, json!({"count": 2, "time_window": 60, "rejected_msg": "slow"}));
    assert_eq!(ask(&plugin, &host, ""), "200 2 1 60");
    test::pass(Duration::from_millis(30));
    assert_eq!(ask(&plugin, &host, ""), "200 2 0 59.97");
    test::pass(Duration::from_millis(370));
    let mut ex = test::exchange("GET / HTTP/1.1\nHost: a");
    let reply = test::run(&plugin, Phase::Access, &mut ex, &host);
    assert_eq!(reply, Some(Reply::error_msg(503, "slow")));
    assert_eq!(ex.resp_headers().get_named(b"X-RateLimit-Remaining"), Some(&b"0"[..]));
    assert_eq!(ex.resp_headers().get_named(b"X-RateLimit-Reset"), Some(&b"59.6"[..]));
    test::pass(Duration::from_secs(60));
    assert_eq!(ask(&plugin, &host, ""), "200 2 1 60");
}

#[test]
fn tells_the_access_log() {
    let host = test::host();
    let plugin = test::build(&SPEC, &host, json!({"count": 2, "time_window": 60}));
    let mut ex = test::exchange("GET / HTTP/1.1\nHost: a");
    assert_eq!(ex.var("rate_limiting_info").as_deref(), Some(&b""[..]));
    assert_eq!(test::run(&plugin, Phase::Access, &mut ex, &host), None);
    let info = String::from_utf8(ex.var("rate_limiting_info").unwrap().into_owned()).unwrap();
    let info: Value = serde_json::from_str(&info).unwrap();
    let key = info["rate_limiting_key"].as_str().unwrap();
    assert!(key.starts_with("/apisix/routes/1:") && key.ends_with(":127.0.0.1"), "{key}");
    let numbers = ["limit", "remaining", "reset"].map(|name| info[format!("rate_limiting_{name}")].clone());
    assert_eq!(numbers, [json!(2), json!(1), json!(60)]);
}

#[test]
fn counts_by_key() {
    let host = test::host();
    let by = |key_type: &str, key: &str| {
        let conf = json!({"count": 9, "time_window": 60, "key_type": key_type, "key": key});
        test::build(&SPEC, &host, conf)
    };
    let remaining = |plugin: &Rc<dyn Plugin>, headers: &str| {
        let seen = ask(plugin, &host, headers);
        seen.split(' ').nth(2).unwrap().to_owned()
    };
    let var = by("var", "http_a");
    assert_eq!(["a: 1", "a: 1", "a: 2", "", ""].map(|h| remaining(&var, h)), ["8", "7", "8", "8", "7"]);
    assert_eq!(remaining(&var, "a: 127.0.0.1"), "6", "without the variable the key is the address");
    let pair = by("var_combination", "$http_a-$http_b");
    let asked = ["a: 1", "a: 1\nb: 1", "a: 1", "", "c: 1"].map(|h| remaining(&pair, h));
    assert_eq!(asked, ["8", "8", "7", "8", "7"]);
    let constant = by("constant", "http_a");
    assert_eq!(["a: 1", "a: 2"].map(|h| remaining(&constant, h)), ["8", "7"]);
}

#[test]
fn an_edit_counts_anew_and_nothing_else_does() {
    let host = test::host();
    let on = |parent: &str, conf: Value| {
        let plugin = test::build_in(&SPEC, &Build { host: &host, parent, metadata: None }, conf).unwrap();
        ask(&plugin, &host, "")
    };
    let conf = json!({"count": 5, "time_window": 60});
    assert_eq!(on("/apisix/routes/1", conf.clone()), "200 5 4 60");
    assert_eq!(on("/apisix/routes/1", conf.clone()), "200 5 3 60", "built again, not edited");
    assert_eq!(on("/apisix/routes/2", conf.clone()), "200 5 4 60");
    let edited = json!({"count": 5, "time_window": 60, "rejected_code": 429});
    assert_eq!(on("/apisix/routes/1", edited), "200 5 4 60");
    let group = json!({"count": 5, "time_window": 60, "group": "services/1#640140621"});
    assert_eq!(on("/apisix/routes/1", group.clone()), "200 5 4 60");
    assert_eq!(on("/apisix/routes/2", group), "200 5 3 60");
}

#[test]
fn numbers_may_come_with_the_request() {
    let host = test::host();
    let conf = json!({"count": "${http_count ?? 2}", "time_window": "${http_window ?? 5}"});
    let plugin = test::build(&SPEC, &host, conf);
    assert_eq!(ask(&plugin, &host, "count: 3"), "200 3 2 5");
    assert_eq!(ask(&plugin, &host, ""), "200 2 0 5");
    assert_eq!(ask(&plugin, &host, "count: 5"), "200 5 2 5");
    for wrong in
        ["count: 0", "count: -1", "count: 1.5", "count: x", "count: 1e300", "window: 0", "window: nan"]
    {
        assert_eq!(ask(&plugin, &host, wrong), "500", "{wrong}");
    }
}

#[test]
fn rules_apply_where_their_key_does() {
    let host = test::host();
    let conf = json!({"rules": [
        {"key": "${http_user}", "count": "${http_quota ?? 1}", "time_window": 10},
        {"key": "${http_team}", "count": 2, "time_window": 60, "header_prefix": "team"},
        {"key": "constant", "count": 1, "time_window": 1},
    ]});
    let plugin = test::build(&SPEC, &host, conf.clone());
    assert_eq!(ask(&plugin, &host, ""), "500", "no rule applies");
    assert_eq!(ask(&plugin, &host, "user: jack"), "200 1 0 10");
    assert_eq!(ask(&plugin, &host, "user: jack"), "503 1 0 10");
    assert_eq!(ask(&plugin, &host, "team: a\nuser: anna"), "200 1 0 10 2 1 60");
    assert_eq!(ask(&plugin, &host, "team: a"), "200 2 0 60");
    assert_eq!(ask(&plugin, &host, "team: a\nuser: tom\nquota: 2"), "503 2 1 10 2 0 60");
    assert_eq!(
        ask(&plugin, &host, "user: tom\nquota: 0"),
        "500",
        "a wrong number does not switch a rule off"
    );
    let mut ex = test::exchange("GET / HTTP/1.1\nHost: a\nuser: x\nteam: x");
    test::run(&plugin, Phase::Access, &mut ex, &host);
    let names: Vec<_> =
        ex.resp_headers().iter().map(|(n, _, _)| String::from_utf8_lossy(n).into_owned()).collect();
    assert_eq!((&*names[0], &*names[5]), ("X-1-RateLimit-Limit", "X-team-RateLimit-Reset"), "{names:?}");
    let mut lenient = conf;
    lenient["allow_degradation"] = json!(true);
    assert_eq!(ask(&test::build(&SPEC, &host, lenient), &host, ""), "200");
}

#[test]
fn headers_are_named_by_the_metadata_or_not_shown() {
    let host = test::host();
    let metadata = json!({"limit_header": "APISIX-QUOTA"});
    let build = Build { host: &host, parent: "/apisix/routes/1", metadata: Some(&metadata) };
    let plugin = test::build_in(&SPEC, &build, json!({"count": 1, "time_window": 1})).unwrap();
    let mut ex = test::exchange("GET / HTTP/1.1\nHost: a");
    assert_eq!(test::run(&plugin, Phase::Access, &mut ex, &host), None);
    assert_eq!(ex.resp_headers().get_named(b"apisix-quota"), Some(&b"1"[..]));
    assert_eq!(ex.resp_headers().get_named(b"x-ratelimit-remaining"), Some(&b"0"[..]));
    let silent =
        json!({"count": 1, "time_window": 60, "show_limit_quota_header": false, "rejected_code": 429});
    let plugin = test::build(&SPEC, &host, silent);
    assert_eq!(ask(&plugin, &host, ""), "200");
    assert_eq!(ask(&plugin, &host, ""), "429");
}

#[test]
fn slides() {
    let host = test::host();
    let conf = json!({"count": 2, "time_window": 3600, "window_type": "sliding"});
    let plugin = test::build(&SPEC, &host, conf);
    let asked = [(); 3].map(|()| ask(&plugin, &host, "")[..7].to_owned());
    assert_eq!(asked, ["200 2 1", "200 2 0", "503 2 0"]);
    test::pass(Duration::from_secs(2 * 3600));
    assert!(ask(&plugin, &host, "").starts_with("200 2 1"), "two windows later nothing is left of it");
}

#[test]
fn fails_closed() {
    let mut host = test::host();
    Rc::get_mut(&mut host).unwrap().counters.limit_count = Arc::new(Counters::new(1, Instant::now()));
    let conf = json!({"count": 9, "time_window": 60, "key": "http_a"});
    let plugin = test::build(&SPEC, &host, conf.clone());
    let asked: Vec<_> = (0..9).map(|i| ask(&plugin, &host, &format!("a: {i}"))).collect();
    assert_eq!((&*asked[7], &*asked[8]), ("200 9 8 60", "500"));
    let mut lenient = conf;
    lenient["allow_degradation"] = json!(true);
    assert_eq!(ask(&test::build(&SPEC, &host, lenient), &host, "a: 10"), "200");
}

/// A Redis that says to each command what `script` says, and counts commands. Gives its port.
fn redis_server(script: fn(usize) -> &'static str) -> (u16, Arc<std::sync::atomic::AtomicUsize>) {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let seen = asked.clone();
    std::thread::spawn(move || {
        let Ok((mut peer, _)) = listener.accept() else { return };
        let mut buffer = [0; 4096];
        while let Ok(1..) = peer.read(&mut buffer) {
            let number = seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let _ = peer.write_all(script(number).as_bytes());
        }
    });
    (port, asked)
}

fn on_redis(port: u16, more: Value) -> Value {
    let mut conf = json!({"count": 5, "time_window": 60, "policy": "redis", "redis_host": "127.0.0.1",
        "redis_port": port, "redis_timeout": 500});
    conf.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    conf
}

async fn ask_waiting(plugin: &Rc<dyn Plugin>, host: &Host) -> String {
    let mut ex = test::exchange("GET / HTTP/1.1\nHost: a");
    let reply = match plugin.access(&mut ex, host) {
        Step::Wait(future) => future.await,
        Step::Reply(reply) => Some(reply),
        Step::Next => None,
    };
    let status = reply.map_or(200, |reply| reply.status);
    format!("{status} {}", test::values(ex.resp_headers(), "X-RateLimit-Remaining"))
}

#[test]
fn counts_on_redis_and_fails_as_allow_degradation_says() {
    let (port, asked) = redis_server(|at| match at {
        0 => "-NOSCRIPT no\r\n",
        1 => "*2\r\n:5\r\n:60000\r\n",
        2 => "*2\r\n:6\r\n:59990\r\n",
        _ => "-ERR out of memory\r\n",
    });
    crate::reactor::block_on(Default::default(), |_| async move {
        let host = test::host();
        let plugin = test::build(&SPEC, &host, on_redis(port, json!({})));
        assert_eq!(ask_waiting(&plugin, &host).await, "200 0");
        assert_eq!(ask_waiting(&plugin, &host).await, "503 0");
        assert_eq!(ask_waiting(&plugin, &host).await, "500 -");
        let lenient = test::build(&SPEC, &host, on_redis(port, json!({"allow_degradation": true})));
        assert_eq!(ask_waiting(&lenient, &host).await, "200 -");
        assert_eq!(
            asked.load(std::sync::atomic::Ordering::SeqCst),
            5,
            "one round trip each, but for the script"
        );
    })
    .unwrap();
}

#[test]
fn redis_is_told_later() {
    // 3 of 5 are left; what the second telling says holds from then on
    let (port, asked) = redis_server(|at| match at {
        0 => "*2\r\n:2\r\n:60000\r\n",
        _ => "*2\r\n:5\r\n:60000\r\n",
    });
    crate::reactor::block_on(Default::default(), |_| async move {
        let host = test::host();
        let plugin = test::build(&SPEC, &host, on_redis(port, json!({"sync_interval": 0.1})));
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(ask_waiting(&plugin, &host).await);
        }
        assert_eq!(seen, ["200 2", "200 1", "200 0", "503 0"]);
        assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 1);
        crate::reactor::sleep(150).await;
        assert_eq!(ask_waiting(&plugin, &host).await, "503 0");
        assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 2);
    })
    .unwrap();
}

#[test]
fn without_redis_a_delayed_limit_is_the_nodes_own() {
    crate::reactor::block_on(Default::default(), |_| async move {
        let host = test::host();
        let plugin = test::build(&SPEC, &host, on_redis(1, json!({"sync_interval": 30, "count": 2})));
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.push(ask_waiting(&plugin, &host).await);
        }
        assert_eq!(seen, ["200 1", "200 0", "503 0"]);
    })
    .unwrap();
}

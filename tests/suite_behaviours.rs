//! Behaviours that APISIX's own test suite showed to be missing, one test for each.

mod common;

use common::*;

const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";
const JSON: &str = "Content-Type: application/json\r\n";

fn post(client: &mut Client, fields: &str, body: &str) -> Response {
    let length = body.len();
    client.send(format!("POST /a HTTP/1.1\r\nHost: x\r\n{fields}Content-Length: {length}\r\n\r\n"));
    // Apart from its head: the gateway must wait for it.
    std::thread::sleep(std::time::Duration::from_millis(20));
    client.send(body).response()
}

#[test]
fn a_route_that_the_body_rules_out_leaves_nothing_behind() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering_unseen(ok("served"));
        let route = |id: &str, uri: &str, vars: &str, priority: u32| {
            format!(
                "- {{id: {id}, uri: \"{uri}\", vars: [{vars}], priority: {priority}, \
                 upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}, type: roundrobin}}}}\n",
                upstream.port
            )
        };
        let routes = [
            route("named", "/p/:name", r#"["post_arg_a", "~=", "no"]"#, 10),
            route("rest", "/p/*", r#"["post_arg_b", "==", "yes"]"#, 1),
        ];
        let gateway = Setup::new(driver, Source::Yaml(format!("routes:\n{}", routes.concat())))
            .workers(1)
            .apisix("router: {http: radixtree_uri_with_parameter}")
            .http("access_log_format: \"$status route $route_id name $uri_param_name.\"")
            .start();
        for body in ["a=yes", "a=no&b=yes", "a=no"] {
            let text = format!(
                "POST /p/jack HTTP/1.1\r\nHost: a\r\n{FORM}Content-Length: {}\r\n\r\n{body}",
                body.len()
            );
            ask(gateway.port(), text.as_bytes());
        }
        let log = gateway.read_until("logs/access.log", "404 ");
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines[..2], ["200 route named name jack.", "200 route rest name -."]);
        assert_eq!(lines[2], "404 route - name -.");
    });
}

/// t/node/vars.t, t/router/graphql.t: conditions look into the body, which then goes upstream as it came.
#[test]
fn conditions_look_into_bodies() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let port = upstream.port;
        let route = |vars: &str| {
            format!(
                "- {{uri: /a, vars: [{vars}], upstream: {{nodes: {{\"127.0.0.1:{port}\": 1}}, type: roundrobin}}}}\n"
            )
        };
        let vars = [
            r#"["post_arg_k", "==", "form v"]"#,
            r#"["post_arg.a.b", "==", "deep"]"#,
            r#"["post_arg.parts[*].type", "has", "image"]"#,
            r#"["post_arg.admin", "==", true], ["post_arg.age", "in", [5]]"#,
            r#"["graphql_root_fields", "has", "owner"], ["graphql_operation", "==", "query"]"#,
        ];
        let routes: String = vars.into_iter().map(route).collect();
        let gateway = Gateway::with_yaml(driver, &format!("routes:\n{routes}"));
        let mut client = gateway.connect();
        for (fields, body, status) in [
            (FORM, "k=form+v&k=other", 200),
            (FORM, "k=other", 404),
            (JSON, r#"{"a":{"b":"deep"}}"#, 200),
            (JSON, r#"{"a":["b"]}"#, 404),
            (JSON, r#"{"parts":[{"type":"text"},{"type":"image"}]}"#, 200),
            (JSON, r#"{"parts":[{"type":"text"}]}"#, 404),
            (JSON, r#"{"admin":true,"age":5}"#, 200),
            (JSON, r#"{"admin":"true","age":"5"}"#, 404),
            (JSON, r#"{"query":"query{owner{name}}"}"#, 200),
            ("", "{ repo owner { name } }", 200),
            ("", "mutation { owner }", 404),
            ("", "query {", 404),
        ] {
            // All on one connection: what was read ahead must not be taken for the next head.
            let answer = post(&mut client, fields, body);
            assert_eq!(answer.status, status, "{body}: {answer}");
            if status == 200 {
                assert_eq!(String::from_utf8_lossy(&upstream.last().body), body);
            }
        }
        assert_eq!(gateway.get("/a?query=query%7Bowner%7D").status, 200);
    });
}

/// The same where no condition of a route has read the body before.
#[test]
fn filters_of_plugins_look_into_bodies() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let plugin = |filter: &str, name: &str| {
            format!(
                "{{response-rewrite: {{headers: {{set: {{{name}: \"yes\"}}}}, _meta: {{filter: [{filter}]}}}}}}"
            )
        };
        let yaml = format!(
            "routes:\n- {{id: 1, uri: /a, plugins: {}, upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}}}}}\n\
             global_rules:\n- {{id: 1, plugins: {}}}",
            plugin(r#"["post_arg.user", "==", "jack"]"#, "X-Route"),
            upstream.port,
            plugin(r#"["graphql_operation", "==", "mutation"]"#, "X-Global"),
        );
        let gateway = Gateway::with_yaml(driver, &yaml);
        let mut client = gateway.connect();
        for (body, route, global) in [
            (r#"{"user": "jack"}"#, Some("yes"), None),
            (r#"{"user": "rose"}"#, None, None),
            (r#"{"user": "jack", "query": "mutation { a }"}"#, Some("yes"), Some("yes")),
        ] {
            let answer = post(&mut client, JSON, body);
            assert_eq!((answer.header("x-route"), answer.header("x-global")), (route, global), "{body}");
            assert_eq!(String::from_utf8_lossy(&upstream.last().body), body);
        }
    });
}

/// t/router/radixtree-uri-with-parameter-encoded-slash.t
#[test]
fn an_encoded_slash_is_part_of_a_parameter() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let yaml = format!(
            "routes:\n- {{uri: \"/v1/:id/list\", upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}, type: roundrobin}}}}",
            upstream.port
        );
        let setup = Setup::new(driver, Source::Yaml(yaml));
        let setup =
            setup.apisix("router: {http: radixtree_uri_with_parameter}\nmatch_uri_encoded_slash: true");
        let gateway = setup.start();
        assert_eq!(gateway.get("/v1/a%2fb/list").status, 200);
        assert_eq!(upstream.last().target, "/v1/a%2fb/list");
        for missed in ["/v1/a/b/list", "/v1/a%2f..%2fb/x", "/v1/a%2fb/../c/d/list"] {
            assert_eq!(gateway.get(missed).status, 404, "{missed}");
        }
    });
}

/// t/node/merge-route.t, TEST 16: `Connection` passes on a route with `enable_websocket`.
#[test]
fn a_websocket_route_passes_connection_on() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let yaml = format!(
            "routes:\n- {{uri: /a, enable_websocket: true, upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}, type: roundrobin}}}}",
            upstream.port
        );
        let gateway = Gateway::with_yaml(driver, &yaml);
        let answer = request(gateway.port(), "GET", "/a", "Host: x\r\nConnection: close\r\n");
        assert_eq!(answer.status, 200);
        assert_eq!(upstream.last().header("connection"), Some("close"));
    });
}

/// t/core/trusted-addresses.t, TEST 17 and 19: who is not trusted cannot forge the chain, but what he sent can be logged.
#[test]
fn the_chain_that_an_untrusted_client_sent_can_be_read() {
    on_both_drivers(|driver| {
        for (trusted, upstream_sees) in
            [("trusted_addresses: [10.0.0.0/8]", "127.0.0.1"), ("", "9.9.9.9, 127.0.0.1")]
        {
            let upstream = Upstream::mirror();
            let yaml = format!(
                "routes:\n- {{uri: /a, plugins: {{response-rewrite: {{headers: {{set: {{X-Sent: \"$original_x_forwarded_for\", \
                 X-Now: \"$http_x_forwarded_for\"}}}}}}}}, upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}, type: roundrobin}}}}",
                upstream.port
            );
            let gateway = Setup::new(driver, Source::Yaml(yaml)).apisix(trusted).start();
            let answer = request(gateway.port(), "GET", "/a", "Host: x\r\nX-Forwarded-For: 9.9.9.9\r\n");
            assert_eq!(answer.header("x-sent"), Some("9.9.9.9"), "{trusted}");
            let now = answer.header("x-now").filter(|now| !now.is_empty());
            assert_eq!(now, trusted.is_empty().then_some("9.9.9.9"), "{trusted}");
            assert_eq!(upstream.last().header("x-forwarded-for"), Some(upstream_sees), "{trusted}");
        }
    });
}

/// t/control/healthcheck.t: probes run from the first request on, even if it was there before the gateway.
#[test]
fn health_checks_run_from_the_first_request_on() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering(ok("here"));
        let yaml = format!(
            "routes:\n- id: 1\n  uri: /a\n  service_id: 1\nservices:\n- id: 1\n  upstream: {{nodes: \
             {{\"127.0.0.1:{}\": 1}}, type: roundrobin, checks: {{active: {{http_path: /, healthy: \
             {{interval: 1}}, unhealthy: {{interval: 1}}}}}}}}",
            upstream.port
        );
        let gateway = Gateway::with_yaml(driver, &yaml);
        assert_eq!(gateway.get("/a").status, 200);
        eventually("the service's node is shown", || {
            get(gateway.ports.control, "/v1/healthcheck").json()[0]["nodes"][0]["status"] == "healthy"
        });
        let none = Gateway::with_yaml(driver, "routes: []");
        assert_eq!(get(none.ports.control, "/v1/healthcheck").text(), "{}\n");
    });
}

/// t/debug/debug-mode.t
#[test]
fn the_basic_debug_mode_names_the_plugins_that_ran() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let nodes = format!("upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}}}", upstream.port);
        let yaml = format!(
            "routes:\n- {{id: 1, uri: /bare, {nodes}}}\n- {{id: 2, uri: /two, {nodes}, plugins: {{limit-count: \
             {{count: 100, time_window: 60, key: remote_addr}}, limit-conn: {{conn: 9, burst: 0, \
             default_conn_delay: 0.1, key: remote_addr}}, ip-restriction: {{whitelist: [127.0.0.0/8]}}, \
             response-rewrite: {{status_code: 203, body: b}}}}}}"
        );
        let gateway = Gateway::with_yaml(driver, &yaml);
        let switch = |enable: bool| {
            let text = format!(
                "basic:\n  enable: {enable}\nhttp_filter:\n  enable: false\nhook_conf:\n  enable: false\n#END\n"
            );
            std::fs::write(gateway.path("conf/new"), text).unwrap();
            std::fs::rename(gateway.path("conf/new"), gateway.path("conf/debug.yaml")).unwrap();
        };
        let shown = |target: &str| gateway.get(target).header("apisix-plugins").map(str::to_string);
        assert_eq!(shown("/two"), None);
        switch(true);
        eventually("the mode is on", || shown("/bare").is_some());
        // each core has its own message
        eventually("on every core", || (0..8).all(|_| shown("/bare").as_deref() == Some("no plugin")));
        assert_eq!(
            shown("/two").as_deref(),
            Some(
                "ip-restriction#access, limit-conn#access, limit-count#access, response-rewrite#header_filter, \
                 response-rewrite#body_filter, limit-conn#log"
            )
        );
        assert_eq!(shown("/none").as_deref(), Some("no plugin"));
        gateway.read_until("logs/error.log", "loaded plugin and sort by priority: 3000 name: ip-restriction");
        switch(false);
        eventually("the mode is off", || (0..8).all(|_| shown("/two").is_none()));
    });
}

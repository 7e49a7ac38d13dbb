//! Which route a request meets (apisix/http/route.lua, radixtree_host_uri unless said otherwise).

mod common;

use common::*;

/// Routes whose upstream tells their name: each is a scripted server of its own.
struct Table {
    gateway: Gateway,
    _upstreams: Vec<Upstream>,
}

impl Table {
    /// Each route is a name and the rest of its object in YAML's flow form.
    fn new(driver: &'static str, apisix: &str, routes: &[(&str, &str)]) -> Table {
        let mut text = "routes:\n".to_string();
        let mut upstreams = Vec::new();
        for (name, rest) in routes {
            let answer = ok(name);
            let upstream = Upstream::answering(answer);
            text += &format!(
                "- {{id: {name}, {rest}, upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}}}}}\n",
                upstream.port
            );
            upstreams.push(upstream);
        }
        let gateway = Setup::new(driver, Source::Yaml(text)).apisix(apisix).start();
        Table { gateway, _upstreams: upstreams }
    }

    /// The name of the route that takes it, or `404`.
    #[track_caller]
    fn takes(&self, method: &str, target: &str, fields: &str) -> String {
        let host = if fields.to_lowercase().contains("host:") { "" } else { "Host: other\r\n" };
        let answer = request(self.gateway.port(), method, target, &format!("{host}{fields}"));
        match answer.status {
            200 => answer.text(),
            status => status.to_string(),
        }
    }

    #[track_caller]
    fn get(&self, target: &str) -> String {
        self.takes("GET", target, "")
    }
}

#[test]
fn what_no_route_takes_is_not_found() {
    on_both_drivers(|driver| {
        let gateway = Gateway::with_yaml(driver, "routes: []");
        let answer = gateway.get("/none");
        assert_eq!(answer.status, 404);
        assert_eq!(answer.text(), "{\"error_msg\":\"404 Route Not Found\"}\n");
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(answer.header("server"), Some("APISIX/3.18.0"));
    });
}

#[test]
fn global_rules_run_for_what_no_route_takes() {
    on_both_drivers(|driver| {
        let plugins = "{fault-injection: {abort: {http_status: 418, vars: [[[\"arg_abort\", \"==\", \"yes\"]]]}}, \
                       limit-count: {count: 1, time_window: 60, key: remote_addr}}";
        let gateway = Gateway::with_yaml(
            driver,
            &format!("routes: []\nglobal_rules:\n- {{id: 1, plugins: {plugins}}}"),
        );
        assert_eq!(gateway.get("/none?abort=yes").status, 418, "in the rewrite phase");
        assert_eq!(gateway.get("/none").status, 404);
        assert_eq!(gateway.get("/none").status, 503, "in the access phase");
    });
}

/// Their answer filters and loggers, too.
#[test]
fn global_rules_filter_and_log_what_no_route_takes() {
    on_both_drivers(|driver| {
        let plugins = "{response-rewrite: {headers: {set: {X-Rule: ran}}, body: filtered}, file-logger: {path: logs/told.log}}";
        let rules = format!("routes: []\nglobal_rules:\n- {{id: 1, plugins: {plugins}}}");
        let gateway = Gateway::with_yaml(driver, &rules);
        let answer = gateway.get("/none");
        assert_eq!((answer.status, answer.header("x-rule")), (404, Some("ran")), "{answer}");
        assert_eq!(answer.text(), "filtered");
        gateway.read_until("logs/told.log", "\"/none\"");
    });
}

/// In each phase what global rules have runs before the route's own, whatever the priorities, and once.
#[test]
fn global_rules_run_before_the_routes_plugins_and_once() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering(ok("served"));
        let first = "_meta: {priority: 20000}";
        let told = |who: &str| {
            format!(
                "response-rewrite: {{headers: {{add: [\"X-Ran: {who}\"]}}, filters: [{{regex: \"$\", replace: \" {who}\"}}]}}"
            )
        };
        let plugins = |who: &str, meta: &str| {
            format!(
                "{{fault-injection: {{abort: {{http_status: 418, body: {who}, vars: [[[arg_rewrite, ==, \"1\"]]]}}, {meta}}}, \
                 ua-restriction: {{denylist: [access], message: {who}, bypass_missing: true, {meta}}}, {}}}",
                told(who)
            )
        };
        let objects = format!(
            "global_rules:\n- {{id: 1, plugins: {}}}\nconsumers:\n- {{username: ann, plugins: {{key-auth: {{key: ann}}}}}}\n\
             routes:\n- {{uri: /*, plugins: {}, upstream: {{nodes: {{\"127.0.0.1:{port}\": 1}}}}}}\n\
             - {{uri: /known, plugins: {{key-auth: {{}}, {}}}, upstream: {{nodes: {{\"127.0.0.1:{port}\": 1}}}}}}",
            plugins("global", "_meta: {}"),
            plugins("route", first),
            told("route"),
            port = upstream.port
        );
        let gateway = Gateway::with_yaml(driver, &objects);
        let get = |target: &str, fields: &str| {
            request(gateway.port(), "GET", target, &format!("Host: gateway.test\r\n{fields}"))
        };
        assert_eq!(get("/?rewrite=1", "").text(), "global global route");
        let refused = get("/", "User-Agent: access\r\n");
        assert!(refused.status == 403 && refused.text().contains("\"global\""), "{refused}");
        for (target, fields) in [("/", ""), ("/known", "apikey: ann\r\n")] {
            let answer = get(target, fields);
            assert_eq!(answer.all("x-ran"), ["global", "route"], "{answer}");
            assert_eq!(answer.text(), "served global route");
        }
    });
}

/// `max_post_args_readable_size`, in MB; 0 is no bound.
#[test]
fn conditions_look_into_bodies_up_to_a_bound() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering_unseen(ok("met"));
        let routes = format!(
            "routes:\n- {{uri: /*, vars: [[post_arg.name, ==, json]], upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}}}}}",
            upstream.port
        );
        for (bound, status) in [(1, 404), (0, 200)] {
            let option = format!("max_post_args_readable_size: {bound}");
            let gateway = Setup::new(driver, Source::Yaml(routes.clone())).apisix(&option).start();
            let post = |more: usize| {
                let body = format!("{{\"name\": \"json\", \"more\": \"{}\"}}", "x".repeat(more));
                let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length:";
                ask(gateway.port(), format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).status
            };
            assert_eq!((post(1000), post(1 << 20)), (200, status), "{bound} MB");
        }
    });
}

/// `delete_uri_tail_slash`: routes do not see the slash; the upstream does.
#[test]
fn a_slash_at_the_end_of_a_path_need_not_count() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let routes =
            format!("routes:\n- {{uri: /foo, upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}}}}}", upstream.port);
        for (counts, status) in [("true", 200), ("false", 404)] {
            let option = format!("delete_uri_tail_slash: {counts}");
            let gateway = Setup::new(driver, Source::Yaml(routes.clone())).apisix(&option).start();
            assert_eq!(gateway.get("/foo").status, 200);
            for target in ["/foo/", "/foo//", "/foo/?a=/"] {
                assert_eq!(gateway.get(target).status, status, "{target}");
            }
            assert_eq!(gateway.get("/foo/bar/").status, 404);
        }
        assert_eq!(upstream.last().target, "/foo");
        assert!(upstream.requests().iter().any(|request| request.target == "/foo/?a=/"));
    });
}

/// `normalize_uri_like_servlet`: routes see the path as a servlet does, so that nobody gets past them by parameters of its
/// segments; the upstream gets these.
#[test]
fn parameters_of_segments_need_not_count() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let routes = format!(
            "routes:\n- {{uri: /foo/bar, upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}}}}}\n\
             - {{uri: /any/*, upstream: {{nodes: {{\"127.0.0.1:{0}\": 1}}}}}}",
            upstream.port
        );
        let plain = Gateway::with_yaml(driver, &routes);
        let like =
            Setup::new(driver, Source::Yaml(routes)).apisix("normalize_uri_like_servlet: true").start();
        assert_eq!((plain.get("/foo;a=b/bar").status, plain.get("/any/..;/x").status), (404, 200));
        for (target, seen) in [
            ("/foo/bar", "/foo/bar"),
            ("/foo;a=b/bar;c", "/foo;a=b/bar;c"),
            ("/any/;x", "/any/;x"),
            ("/any/a%0Db;x", "/any/a%0Db;x"),
            ("/foo%2Fbar;x", "/foo/bar;x"),
            ("/any/%3Fprobe;x", "/any/%3Fprobe;x"),
            ("/any/a%20HTTP/1.1%0d%0a;%25", "/any/a%20HTTP/1.1%0D%0A;%25"),
        ] {
            assert_eq!(like.get(target).status, 200, "{target}");
            assert_eq!(upstream.last().target, seen);
        }
        for target in
            ["/any/.;/x", "/any/..;a/x", "/any/;/x", "/any/%252e;/x", "/any/%252E%252e;x/x", "/foo;/..;/any"]
        {
            assert_eq!(like.get(target).status, 400, "{target}");
        }
        assert_eq!(like.get("/foo/baz;").status, 404);
    });
}

#[test]
fn exact_paths_beat_prefixes_and_longer_prefixes_shorter() {
    on_both_drivers(|driver| {
        let table = Table::new(
            driver,
            "",
            &[
                ("root", "uri: /*"),
                ("foo", "uri: /foo*"),
                ("foobar", "uri: /foo/bar*"),
                ("exact", "uri: /foo/bar/baz"),
                ("two", "uris: [/one, /two/*]"),
                ("loud", "uri: /foo/*, priority: -1"),
            ],
        );
        for (target, name) in [
            ("/", "root"),
            ("/fo", "root"),
            ("/foo", "foo"),
            ("/food", "foo"),
            ("/foo/ba", "loud"),
            ("/foo/bar", "foobar"),
            ("/foo/bar/baz/", "foobar"),
            ("/foo/bar/baz", "exact"),
            ("/foo/bar/baz?x", "exact"),
            ("/one", "two"),
            ("/one/", "root"),
            ("/two/", "two"),
            ("/two/a/b", "two"),
            ("/two", "root"),
        ] {
            assert_eq!(table.get(target), name, "{target}");
        }
    });
}

/// Neither their order in the file nor that of their ids would lead to the right one.
#[test]
fn priority_decides_between_equal_paths() {
    on_both_drivers(|driver| {
        let table = Table::new(
            driver,
            "",
            &[("a", "uri: /p"), ("c", "uri: /p, priority: 10"), ("b", "uri: /p, priority: 5")],
        );
        assert_eq!(table.get("/p"), "c");
    });
}

#[test]
fn methods_narrow() {
    on_both_drivers(|driver| {
        let table = Table::new(
            driver,
            "",
            &[
                ("reads", "uri: /m, methods: [GET, HEAD]"),
                ("writes", "uri: /m, methods: [POST]"),
                ("purges", "uri: /n, methods: [PURGE]"),
            ],
        );
        assert_eq!(table.takes("GET", "/m", ""), "reads");
        assert_eq!(table.takes("POST", "/m", ""), "writes");
        assert_eq!(table.takes("DELETE", "/m", ""), "404");
        assert_eq!(table.takes("PURGE", "/n", ""), "purges");
        assert_eq!(table.takes("GET", "/n", ""), "404");
    });
}

#[test]
fn hosts_narrow_and_the_exact_one_wins() {
    on_both_drivers(|driver| {
        let table = Table::new(
            driver,
            "",
            &[
                ("any", "uri: /h"),
                ("exact", "uri: /h, host: www.example.com"),
                ("wild", "uri: /h, host: \"*.example.com\""),
                ("several", "uri: /h, hosts: [one.test, \"*.two.test\"]"),
                ("only", "uri: /only, host: www.example.com"),
            ],
        );
        for (host, name) in [
            ("www.example.com", "exact"),
            ("WWW.Example.COM", "exact"),
            ("www.example.com:8080", "exact"),
            ("api.example.com", "wild"),
            ("a.b.example.com", "wild"),
            ("example.com", "any"),
            ("badexample.com", "any"),
            ("one.test", "several"),
            ("x.two.test", "several"),
            ("two.test", "any"),
            ("127.0.0.1", "any"),
        ] {
            assert_eq!(table.takes("GET", "/h", &format!("Host: {host}\r\n")), name, "{host}");
        }
        assert_eq!(table.takes("GET", "/only", "Host: other.example.com\r\n"), "404");
    });
}

#[test]
fn a_host_without_that_path_falls_back() {
    on_both_drivers(|driver| {
        let table = Table::new(driver, "", &[("host", "uri: /a, host: x.test"), ("any", "uri: /b")]);
        assert_eq!(table.takes("GET", "/a", "Host: x.test\r\n"), "host");
        assert_eq!(table.takes("GET", "/b", "Host: x.test\r\n"), "any");
    });
}

#[test]
fn remote_addresses_narrow() {
    on_both_drivers(|driver| {
        let table = Table::new(
            driver,
            "",
            &[
                ("local", "uri: /r, remote_addr: 127.0.0.1, priority: 1"),
                ("net", "uri: /r, remote_addrs: [\"10.0.0.0/8\", \"fd00::/8\"]"),
            ],
        );
        assert_eq!(table.get("/r"), "local");
        assert_eq!(table.takes("GET", "/r", "X-Real-IP: 10.20.30.40\r\n"), "net");
        assert_eq!(table.takes("GET", "/r", "X-Real-IP: fd12::1\r\n"), "net");
        assert_eq!(table.takes("GET", "/r", "X-Real-IP: 11.0.0.1\r\n"), "404");
    });
}

#[test]
fn vars_narrow() {
    on_both_drivers(|driver| {
        let table = Table::new(
            driver,
            "",
            &[
                ("arg", "uri: /v, vars: [[arg_name, \"==\", json]], priority: 9"),
                ("big", "uri: /v, vars: [[arg_age, \">\", 18]], priority: 8"),
                ("header", "uri: /v, vars: [[http_x_tenant, in, [a, b]]], priority: 7"),
                ("cookie", "uri: /v, vars: [[cookie_sid, \"~~\", \"^u[0-9]+$\"]], priority: 6"),
                (
                    "either",
                    "uri: /v, vars: [OR, [arg_p, \"==\", \"1\"], [arg_q, \"==\", \"1\"]], priority: 5",
                ),
                ("not", "uri: /w, vars: [[arg_x, \"!\", \"==\", \"1\"]]"),
            ],
        );
        assert_eq!(table.get("/v?name=json"), "arg");
        assert_eq!(table.get("/v?age=19"), "big");
        assert_eq!(table.get("/v?age=18"), "404");
        assert_eq!(table.takes("GET", "/v", "X-Tenant: b\r\n"), "header");
        assert_eq!(table.takes("GET", "/v", "Cookie: a=b; sid=u42\r\n"), "cookie");
        assert_eq!(table.takes("GET", "/v", "Cookie: sid=x42\r\n"), "404");
        assert_eq!(table.get("/v?q=1"), "either");
        assert_eq!(table.get("/w"), "not");
        assert_eq!(table.get("/w?x=1"), "404");
    });
}

#[test]
fn a_route_switched_off_takes_nothing() {
    on_both_drivers(|driver| {
        let table = Table::new(driver, "", &[("off", "uri: /s, status: 0, priority: 9"), ("on", "uri: /s")]);
        assert_eq!(table.get("/s"), "on");
    });
}

/// What is matched is the normalised path (the raw one goes upstream: tests/http1.rs).
#[test]
fn the_normalised_path_is_matched() {
    on_both_drivers(|driver| {
        let table = Table::new(driver, "", &[("admin", "uri: /admin/*"), ("hello", "uri: /hello")]);
        for target in
            ["/hello", "/x/../hello", "//hello", "/./hello", "/%68ello", "/hello?a=/../b", "/hello#frag"]
        {
            assert_eq!(table.get(target), "hello", "{target}");
        }
        for target in ["/x/..//admin/a", "/%61dmin/", "/admin/../admin/b", "/admin%2fx"] {
            assert_eq!(table.get(target), "admin", "{target}");
        }
        assert_eq!(table.get("/admin/../other"), "404");
        assert_eq!(table.get("/HELLO"), "404");
    });
}

#[test]
fn the_router_with_parameters() {
    on_both_drivers(|driver| {
        let table = Table::new(
            driver,
            "router: {http: radixtree_uri_with_parameter}",
            &[
                ("user", "uri: \"/user/:name\""),
                ("posts", "uri: \"/user/:name/posts/:id\""),
                ("files", "uri: \"/files/*path\""),
                ("exact", "uri: /user/admin"),
            ],
        );
        assert_eq!(table.get("/user/joe"), "user");
        assert_eq!(table.get("/user/joe/posts/7"), "posts");
        assert_eq!(table.get("/user/joe/other"), "404");
        assert_eq!(table.get("/user/"), "404");
        assert_eq!(table.get("/files/a/b/c"), "files");
        assert_eq!(table.get("/user/admin"), "exact");
    });
}

#[test]
fn the_router_by_uri_compares_hosts_after_the_path() {
    on_both_drivers(|driver| {
        let table = Table::new(
            driver,
            "router: {http: radixtree_uri}",
            &[
                ("host", "uri: /a/*, host: x.test"),
                ("longer", "uri: /a/b*"),
                ("wild", "uri: /c, host: \"*.y.test\""),
            ],
        );
        assert_eq!(table.takes("GET", "/a/bc", "Host: x.test\r\n"), "longer", "the path counts first here");
        assert_eq!(table.takes("GET", "/a/c", "Host: x.test\r\n"), "host");
        assert_eq!(table.takes("GET", "/a/c", "Host: z.test\r\n"), "404");
        assert_eq!(table.takes("GET", "/c", "Host: q.y.test\r\n"), "wild");
    });
}

#[test]
fn a_service_lends_hosts_and_upstream() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering(ok("service"));
        let gateway = Gateway::with_yaml(
            driver,
            &format!(
                "services:\n- id: s\n  hosts: [svc.test]\n  upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}}}\n\
                 routes:\n- {{id: 1, uri: /s, service_id: s}}\n- {{id: 2, uri: /t, service_id: missing}}",
                upstream.port
            ),
        );
        let ask =
            |target: &str, host: &str| request(gateway.port(), "GET", target, &format!("Host: {host}\r\n"));
        assert_eq!(ask("/s", "svc.test").text(), "service");
        assert_eq!(ask("/s", "other.test").status, 404);
        assert_eq!(ask("/t", "svc.test").status, 404, "an unknown service is a 404");
    });
}

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

//! TLS towards clients: certificates by name, versions, resumption, client certificates. The clients are OpenSSL's.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};

use common::*;
use ringway::transport::trust::{self, Trust};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use serde_json::json;

/// A gateway with the Admin API, TLS on `ports.proxied`, and a route that takes everything to `upstream`.
fn gateway(driver: &'static str, ssl: &str, upstream: u16) -> Gateway {
    let listen = format!("ssl: {{enable: true, listen: [{{ip: 127.0.0.1, port: $PROXIED}}]{ssl}}}\n");
    let gateway = Setup::new(driver, Source::Embedded).apisix(&listen).start();
    let route = json!({"uri": "/*", "upstream": {"type": "roundrobin", "nodes": {format!("127.0.0.1:{upstream}"): 1}}});
    gateway.put("/routes/1", &route);
    gateway
}

/// `curl https://NAME/…` with the gateway's address in place of the name's.
fn curl(gateway: &Gateway, url: &str, more: &[&str]) -> Output {
    let instead = format!("::127.0.0.1:{}", gateway.ports.proxied);
    let mut curl = Command::new("curl");
    curl.args(["-s", "-S", "-m", "20", "--connect-to", &instead, url]).args(more);
    curl.output().unwrap()
}

/// What OpenSSL's client says of a connection on which it sends `request`.
fn s_client(gateway: &Gateway, more: &[&str], request: &str) -> String {
    let to = format!("127.0.0.1:{}", gateway.ports.proxied);
    let mut client = Command::new("openssl")
        .args(["s_client", "-connect", &to, "-ign_eof"])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = client.stdin.take().unwrap().write_all(request.as_bytes());
    let output = client.wait_with_output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A client that keeps its connection, whatever certificate it was shown.
struct Stays(StreamOwned<ClientConnection, TcpStream>);

impl Stays {
    fn connect(gateway: &Gateway, name: &'static str) -> Stays {
        Stays::behind(b"", gateway.ports.proxied, name)
    }

    /// On this port, with these bytes before the handshake.
    fn behind(header: &[u8], port: u16, name: &'static str) -> Stays {
        let config = trust::client_config(&Trust::Anyone, None, &[]).unwrap();
        let name = ServerName::try_from(name).unwrap();
        let mut tcp = TcpStream::connect(("127.0.0.1", port)).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp.write_all(header).unwrap();
        Stays(StreamOwned::new(ClientConnection::new(config, name).unwrap(), tcp))
    }

    /// The head of the answer to one more request, of which no body is awaited.
    fn ask(&mut self, host: &str) -> String {
        self.0.write_all(format!("HEAD / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut piece = [0; 1000];
            let n = self.0.read(&mut piece).unwrap();
            assert!(n > 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..n]);
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// One more request.
    fn get(&mut self) -> String {
        self.0.write_all(b"GET / HTTP/1.1\r\nHost: a.x.test\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nhi") {
            let mut piece = [0; 1000];
            let n = self.0.read(&mut piece).unwrap();
            assert!(n > 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..n]);
        }
        String::from_utf8_lossy(&answer[answer.len() - 2..]).into_owned()
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a.x.test\r\nConnection: close\r\n\r\n";

fn body(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_certificate_is_chosen_by_name() {
    on_both_drivers(|driver| {
        let pki = Pki::new(&format!("names-{driver}"));
        pki.make("own", "ec", "DNS:a.x.test", None).make("wild", "ec", "DNS:*.x.test", None);
        let upstream = Upstream::answering_unseen(ok("hi"));
        let gateway = gateway(driver, "", upstream.port);
        gateway.put("/ssls/own", &pki.ssl("own", &["a.x.test"]));
        gateway.put("/ssls/wild", &pki.ssl("wild", &["*.x.test"]));
        for (name, authority, trusted) in [
            ("a.x.test", "own", true),
            ("A.X.Test", "own", true),
            ("b.x.test", "wild", true),
            ("b.x.test", "own", false),
        ] {
            let got = curl(
                &gateway,
                &format!("https://{name}/"),
                &["--cacert", &pki.path(&format!("{authority}.pem"))],
            );
            assert_eq!(body(&got) == "hi", trusted, "{name} {authority} {got:?}");
        }
        // no certificate for the name, and no name
        for refused in [&["-servername", "a.b.x.test"][..], &["-noservername"]] {
            let said = s_client(&gateway, refused, GET);
            assert!(said.contains("unrecognized name"), "{said}");
        }
    });
}

/// A client that gives an address as the server's name (t/node/upstream-websocket.t, TEST 9) is served by the object that
/// has it, and by no other.
#[test]
fn an_address_may_stand_in_place_of_a_name() {
    on_both_drivers(|driver| {
        let pki = Pki::new(&format!("address-{driver}"));
        pki.make("own", "ec", "IP:127.0.0.1", None);
        let upstream = Upstream::answering_unseen(ok("hi"));
        let gateway = gateway(driver, "", upstream.port);
        gateway.put("/ssls/own", &pki.ssl("own", &["127.0.0.1"]));
        let said = s_client(&gateway, &["-servername", "127.0.0.1"], GET);
        assert!(said.contains("HTTP/1.1 200 OK") && said.contains("CN = own"), "{said}");
        for refused in [&["-servername", "127.0.0.2"][..], &["-noservername"]] {
            let said = s_client(&gateway, refused, GET);
            assert!(said.contains("unrecognized name"), "{said}");
        }
    });
}

#[test]
fn a_client_without_a_name_is_served_as_fallback_sni() {
    let pki = Pki::new("fallback");
    pki.make("own", "ec", "DNS:a.x.test", None);
    let upstream = Upstream::answering_unseen(ok("hi"));
    let gateway = gateway("io_uring", ", fallback_sni: A.x.test", upstream.port);
    gateway.put("/ssls/own", &pki.ssl("own", &["a.x.test"]));
    let said = s_client(&gateway, &["-noservername"], GET);
    assert!(said.contains("HTTP/1.1 200 OK") && said.contains("CN = own"), "{said}");
}

#[test]
fn certificates_change_under_connections_that_stay() {
    let pki = Pki::new("change");
    pki.make("old", "ec", "DNS:a.x.test", None).make("new", "ec", "DNS:a.x.test", None);
    let upstream = Upstream::answering_unseen(ok("hi"));
    let gateway = gateway("io_uring", "", upstream.port);
    gateway.put("/ssls/1", &pki.ssl("old", &["a.x.test"]));
    let mut stays = Stays::connect(&gateway, "a.x.test");
    assert_eq!(stays.get(), "hi");
    gateway.put("/ssls/1", &pki.ssl("new", &["a.x.test"]));
    assert_eq!(stays.get(), "hi");
    let new = curl(&gateway, "https://a.x.test/", &["--cacert", &pki.path("new.pem")]);
    assert_eq!(body(&new), "hi", "{new:?}");
    gateway.delete("/ssls/1");
    assert_eq!(stays.get(), "hi");
    let said = s_client(&gateway, &["-servername", "a.x.test"], GET);
    assert!(said.contains("unrecognized name"), "{said}");
}

#[test]
fn one_name_has_rsa_and_ecdsa() {
    let pki = Pki::new("kinds");
    pki.make("rsa", "rsa", "DNS:a.x.test", None).make("ec", "ec", "DNS:a.x.test", None);
    let upstream = Upstream::answering_unseen(ok("hi"));
    let gateway = gateway("io_uring", "", upstream.port);
    let mut ssl = pki.ssl("rsa", &["a.x.test"]);
    ssl["certs"] = json!([pki.read("ec.pem")]);
    ssl["keys"] = json!([pki.read("ec.key")]);
    gateway.put("/ssls/1", &ssl);
    for (algorithms, subject) in [
        ("ecdsa_secp256r1_sha256:rsa_pss_rsae_sha256", "CN = ec"),
        ("rsa_pss_rsae_sha256", "CN = rsa"),
        ("ecdsa_secp256r1_sha256", "CN = ec"),
    ] {
        let said = s_client(&gateway, &["-servername", "a.x.test", "-sigalgs", algorithms], GET);
        assert!(said.contains(subject) && said.contains("200 OK"), "{algorithms} {said}");
    }
}

#[test]
fn versions_are_those_of_the_configuration_or_of_the_object() {
    let pki = Pki::new("versions");
    pki.make("own", "ec", "DNS:*.x.test", None);
    let upstream = Upstream::answering_unseen(ok("hi"));
    let gateway = gateway("io_uring", ", ssl_protocols: TLSv1.3", upstream.port);
    gateway.put("/ssls/1", &pki.ssl("own", &["a.x.test"]));
    let mut older = pki.ssl("own", &["b.x.test"]);
    older["ssl_protocols"] = json!(["TLSv1.1", "TLSv1.2"]);
    gateway.put("/ssls/2", &older);
    for (name, version, served) in [
        ("a.x.test", "-tls1_3", true),
        ("a.x.test", "-tls1_2", false),
        ("b.x.test", "-tls1_2", true),
        ("b.x.test", "-tls1_3", false),
        ("b.x.test", "-tls1_1", false),
    ] {
        let said = s_client(&gateway, &["-servername", name, version], GET);
        assert_eq!(said.contains("200 OK"), served, "{name} {version} {said}");
    }
}

#[test]
fn clients_show_who_they_are() {
    on_both_drivers(|driver| {
        let pki = Pki::new(&format!("mtls-{driver}"));
        pki.make("own", "ec", "DNS:*.x.test", None).make("ca", "ec", "DNS:ca", None);
        pki.make("client", "ec", "DNS:client", Some("ca")).make("other", "ec", "DNS:other", None);
        let upstream = Upstream::answering_unseen(ok("hi"));
        let gateway = gateway(driver, "", upstream.port);
        let mut asking = pki.ssl("own", &["a.x.test"]);
        asking["client"] = json!({"ca": pki.read("ca.pem")});
        gateway.put("/ssls/asking", &asking);
        asking["snis"] = json!(["skip.x.test"]);
        asking["client"]["skip_mtls_uri_regex"] = json!(["^/none", "^/open"]);
        gateway.put("/ssls/skipping", &asking);
        gateway.put("/ssls/open", &pki.ssl("own", &["open.x.test"]));
        let authority = pki.path("own.pem");
        let status = |url: &str, certificate: Option<&str>, more: &[&str]| {
            let mut args = vec!["--cacert", &authority, "-o", "/dev/null", "-w", "%{http_code}"];
            let (cert, key) = (
                pki.path(&format!("{}.pem", certificate.unwrap_or_default())),
                pki.path(&format!("{}.key", certificate.unwrap_or_default())),
            );
            if certificate.is_some() {
                args.extend(["--cert", &cert, "--key", &key]);
            }
            args.extend(more);
            body(&curl(&gateway, url, &args))
        };
        assert_eq!(status("https://a.x.test/", Some("client"), &[]), "200");
        assert_eq!(status("https://a.x.test/", None, &[]), "000", "the handshake fails");
        assert_eq!(status("https://a.x.test/", Some("other"), &[]), "000");
        assert_eq!(status("https://open.x.test/", None, &[]), "200");
        // what it showed is told to the upstream
        gateway.put(
            "/global_rules/1",
            &json!({"plugins": {"response-rewrite": {"headers": {"set": {"X-Who": "$ssl_client_verify $ssl_client_s_dn"}}}}}),
        );
        let (cert, key) = (pki.path("client.pem"), pki.path("client.key"));
        let told = ["--cacert", &authority, "--cert", &cert, "--key", &key, "-D", "-"];
        let head = body(&curl(&gateway, "https://a.x.test/", &told));
        assert!(head.contains("x-who: SUCCESS CN=client\r\n"), "{head}");
        // judged by the path
        assert_eq!(status("https://skip.x.test/open/x", None, &[]), "200");
        assert_eq!(status("https://skip.x.test/open/x", Some("other"), &[]), "200");
        assert_eq!(status("https://skip.x.test/closed", None, &[]), "400");
        assert_eq!(status("https://skip.x.test/closed", Some("other"), &[]), "400");
        assert_eq!(status("https://skip.x.test/closed", Some("client"), &[]), "200");
        // as it is routed, and as it is written
        assert_eq!(status("https://skip.x.test/open/../closed", None, &["--path-as-is"]), "400");
        assert_eq!(status("https://skip.x.test/OPEN/x", None, &[]), "400");
        // a handshake under one name, a request to another
        assert_eq!(status("https://open.x.test/", None, &["-H", "Host: a.x.test"]), "400");
        assert_eq!(status("https://open.x.test/", None, &["-H", "Host: skip.x.test"]), "400");
        assert_eq!(status("https://a.x.test/", Some("client"), &["-H", "Host: open.x.test"]), "200");
        // over HTTP/1.1 and for a WebSocket as over HTTP/2
        let host = ["--http1.1", "-H", "Host: a.x.test"];
        assert_eq!(status("https://open.x.test/", None, &host), "400");
        let upgrade = ["-H", "Connection: Upgrade", "-H", "Upgrade: websocket"];
        assert_eq!(status("https://open.x.test/", None, &[&host[..], &upgrade].concat()), "400");
        // a connection from before its host asked for certificates
        let mut stays = Stays::connect(&gateway, "open.x.test");
        assert!(stays.ask("open.x.test").starts_with("HTTP/1.1 200"));
        asking["snis"] = json!(["open.x.test"]);
        asking["client"] = json!({"ca": pki.read("ca.pem")});
        gateway.put("/ssls/open", &asking);
        assert!(stays.ask("open.x.test").starts_with("HTTP/1.1 400"));
    });
}

/// As OpenSSL counts `SSL_set_verify_depth`: neither the client's own certificate nor the root.
#[test]
fn as_many_authorities_as_the_object_says_may_stand_between_client_and_root() {
    let pki = Pki::new("depth");
    pki.make("own", "ec", "DNS:a.x.test", None).make("root", "ec", "DNS:root", None);
    pki.make_authority("first", "root").make_authority("second", "first");
    for (client, by) in [("direct", "root"), ("near", "first"), ("far", "second")] {
        pki.make(client, "ec", "DNS:client", Some(by));
    }
    let upstream = Upstream::answering_unseen(ok("hi"));
    let gateway = gateway(drivers()[0], "", upstream.port);
    let is_let_in = |client: &str, sent: &[&str]| {
        let chain: String =
            [&[client], sent].concat().iter().map(|name| pki.read(&format!("{name}.pem"))).collect();
        std::fs::write(pki.path("chain.pem"), chain).unwrap();
        let (cert, key) = (pki.path("chain.pem"), pki.path(&format!("{client}.key")));
        let args = ["-k", "-o", "/dev/null", "-w", "%{http_code}", "--cert", &cert, "--key", &key];
        body(&curl(&gateway, "https://a.x.test/", &args)) == "200"
    };
    for (depth, let_in) in
        [(Some(0), [true, false, false]), (None, [true, true, false]), (Some(2), [true, true, true])]
    {
        let mut asking = pki.ssl("own", &["a.x.test"]);
        asking["client"] = json!({"ca": pki.read("root.pem")});
        if let Some(depth) = depth {
            asking["client"]["depth"] = json!(depth);
        }
        gateway.put("/ssls/1", &asking);
        for root in [&[][..], &["root"], &["own", "root"]] {
            let chains = [("direct", vec![]), ("near", vec!["first"]), ("far", vec!["second", "first"])];
            let got = chains.map(|(client, sent)| is_let_in(client, &[&sent, root].concat()));
            assert_eq!(got, let_in, "depth {depth:?}, and {root:?} is sent, too");
        }
    }
}

#[test]
fn openssl_shows_its_certificate_or_is_refused() {
    let pki = Pki::new("s-client-mtls");
    pki.make("own", "ec", "DNS:a.x.test", None).make("ca", "ec", "DNS:ca", None);
    pki.make("client", "ec", "DNS:client", Some("ca")).make("other", "ec", "DNS:other", None);
    let upstream = Upstream::answering_unseen(ok("hi"));
    let gateway = gateway("io_uring", "", upstream.port);
    let mut asking = pki.ssl("own", &["a.x.test"]);
    asking["client"] = json!({"ca": pki.read("ca.pem")});
    gateway.put("/ssls/1", &asking);
    // rustls has the alert of RFC 8446 section 6.2 for TLS 1.2, too
    for version in ["-tls1_2", "-tls1_3"] {
        for (shown, told) in
            [(Some("client"), "200 OK"), (None, "alert certificate required"), (Some("other"), "alert")]
        {
            let (cert, key) = (
                pki.path(&format!("{}.pem", shown.unwrap_or_default())),
                pki.path(&format!("{}.key", shown.unwrap_or_default())),
            );
            let mut args = vec!["-servername", "a.x.test", version];
            if shown.is_some() {
                args.extend(["-cert", &cert, "-key", &key]);
            }
            let said = s_client(&gateway, &args, GET);
            assert!(said.contains("Acceptable client certificate CA names"), "{said}");
            assert!(
                said.contains(told) && (told == "200 OK" || !said.contains("200 OK")),
                "{version}: {said}"
            );
        }
    }
}

/// docs/en/latest/tutorials/client-to-apisix-mtls.md and http3.md make theirs with `openssl x509 -req`.
#[test]
fn certificates_of_version_1_are_served_and_believed() {
    let pki = Pki::new("version-1");
    pki.make_version_1("ca", None).make_version_1("own", Some("ca")).make_version_1("client", Some("ca"));
    pki.make_version_1("other", None).make("self", "ec", "DNS:self", None);
    pki.make_with("authority", "ec", "DNS:b", None, &["-addext", "keyUsage=critical,keyCertSign"]);
    let (ca, ca_key) = (pki.path("self.pem"), pki.path("self.key"));
    let unheard_of = ["-CA", &ca, "-CAkey", &ca_key, "-addext", "1.2.3.4=critical,DER:0500"];
    pki.make_with("demanding", "ec", "DNS:c", None, &unheard_of);
    pki.make_with("issued", "ec", "DNS:d", None, &unheard_of[..4]);
    let upstream = Upstream::answering_unseen(ok("hi"));
    let gateway = gateway("io_uring", "", upstream.port);
    let mut asking = pki.ssl("own", &["a.x.test"]);
    gateway.put("/ssls/1", &asking);
    assert!(s_client(&gateway, &["-servername", "a.x.test"], GET).contains("200 OK"));
    let believed = ["ca.pem", "self.pem", "authority.pem"].map(|file| pki.read(file)).concat();
    asking["client"] = json!({ "ca": believed });
    gateway.put("/ssls/1", &asking);
    for version in ["-tls1_2", "-tls1_3"] {
        // one that signs itself, as `openssl req -x509` makes it, is an authority's
        let good = ["client", "self", "issued"].map(|shown| (shown, true));
        let bad = ["other", "authority", "demanding"].map(|shown| (shown, false));
        for (shown, served) in [good, bad].concat() {
            let (cert, key) = (pki.path(&format!("{shown}.pem")), pki.path(&format!("{shown}.key")));
            let args = ["-servername", "a.x.test", version, "-cert", &cert, "-key", &key];
            let said = s_client(&gateway, &args, GET);
            assert_eq!(said.contains("200 OK"), served, "{shown} {version} {said}");
        }
    }
}

#[test]
fn a_session_goes_on_only_under_its_policy() {
    for tickets in ["", ", ssl_session_tickets: true"] {
        let pki = Pki::new(&format!("sessions{}", tickets.len()));
        pki.make("own", "ec", "DNS:*.x.test", None).make("ca", "ec", "DNS:ca", None);
        let upstream = Upstream::answering_unseen(ok("hi"));
        let gateway = gateway("io_uring", tickets, upstream.port);
        gateway.put("/ssls/1", &pki.ssl("own", &["a.x.test"]));
        for version in ["-tls1_2", "-tls1_3"] {
            let session = pki.path(&format!("session{version}"));
            let name = ["-servername", "a.x.test", version];
            let first = s_client(&gateway, &[&name[..], &["-sess_out", &session]].concat(), GET);
            assert!(first.contains("New, ") && first.contains("200 OK"), "{first}");
            let again = s_client(&gateway, &[&name[..], &["-sess_in", &session]].concat(), GET);
            assert!(again.contains("Reused, ") && again.contains("200 OK"), "{tickets} {again}");
            let counted = format!(
                "apisix_tls_handshakes_total{{version=\"TLSv{}\",resumed=\"yes\"}} 1",
                &version[4..].replace('_', ".")
            );
            let metrics = get(gateway.ports.metrics, "/apisix/prometheus/metrics").text();
            assert!(metrics.contains(&counted), "{counted} {metrics}");
            // another name has another policy
            gateway.put("/ssls/2", &pki.ssl("own", &["b.x.test"]));
            let other = ["-servername", "b.x.test", version, "-sess_in", &session];
            let said = s_client(&gateway, &other, GET);
            assert!(!said.contains("Reused, "), "{said}");
        }
        // from now on clients must show a certificate: no earlier session goes on, or leads around it
        let mut asking = pki.ssl("own", &["a.x.test"]);
        asking["client"] = json!({"ca": pki.read("ca.pem")});
        gateway.put("/ssls/1", &asking);
        for version in ["-tls1_2", "-tls1_3"] {
            let session = pki.path(&format!("session{version}"));
            let said = s_client(&gateway, &["-servername", "a.x.test", version, "-sess_in", &session], GET);
            assert!(!said.contains("Reused, ") && !said.contains("200 OK"), "{said}");
        }
    }
}

#[test]
fn long_bodies_pass_both_ways() {
    on_both_drivers(|driver| {
        let pki = Pki::new(&format!("long-{driver}"));
        pki.make("own", "ec", "DNS:a.x.test", None);
        let long = "0123456789abcdef".repeat(200_000);
        let upstream = Upstream::answering_unseen(ok(&long));
        let gateway = gateway(driver, "", upstream.port);
        gateway.put("/ssls/own", &pki.ssl("own", &["a.x.test"]));
        std::fs::write(pki.path("long"), &long).unwrap();
        let authority = pki.path("own.pem");
        let data = format!("@{}", pki.path("long"));
        for more in [&["--cacert", &authority][..], &["--cacert", &authority, "--data-binary", &data]] {
            let got = curl(&gateway, "https://a.x.test/", more);
            assert_eq!(got.stdout.len(), long.len(), "{}", String::from_utf8_lossy(&got.stderr));
            assert!(body(&got) == long);
        }
    });
}

/// t/cli/test_main.sh
#[test]
fn the_proxy_header_comes_before_tls() {
    on_both_drivers(|driver| {
        let pki = Pki::new(&format!("proxied-{driver}"));
        pki.make("own", "ec", "DNS:a.x.test", None);
        let (upstream, port) = (Upstream::answering(ok("hi")), free_port());
        let proxied = format!(
            "ssl: {{enable: true, listen: [{{ip: 127.0.0.1, port: $PROXIED}}]}}\nproxy_protocol: {{listen_https_port: {port}}}"
        );
        let setup = Setup::new(driver, Source::Embedded).apisix(&proxied);
        let gateway = setup.http("real_ip_header: proxy_protocol").start();
        let nodes = json!({format!("127.0.0.1:{}", upstream.port): 1});
        gateway.put("/routes/1", &json!({"uri": "/*", "upstream": {"type": "roundrobin", "nodes": nodes}}));
        gateway.put("/ssls/own", &pki.ssl("own", &["a.x.test"]));
        let mut client = Stays::behind(b"PROXY TCP4 10.9.8.7 10.0.0.1 5678 443\r\n", port, "a.x.test");
        assert_eq!(client.get(), "hi");
        assert_eq!(upstream.last().header("x-real-ip"), Some("10.9.8.7"));
        assert_eq!(Stays::connect(&gateway, "a.x.test").get(), "hi", "the other port wants none");
        assert_eq!(upstream.last().header("x-real-ip"), Some("127.0.0.1"));
        let mut without = Client::connect(port);
        without.send(GET);
        without.closed();
    });
}

#[test]
fn what_is_no_tls_ends_its_own_connection_only() {
    let pki = Pki::new("garbage");
    pki.make("own", "ec", "DNS:a.x.test", None);
    let upstream = Upstream::answering_unseen(ok("hi"));
    let gateway = gateway("io_uring", "", upstream.port);
    gateway.put("/ssls/own", &pki.ssl("own", &["a.x.test"]));
    let mut stays = Stays::connect(&gateway, "a.x.test");
    for garbage in
        [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], &[22, 3, 1, 0, 5, 1, 0, 0, 1, 0], &[0xff; 70_000]]
    {
        let mut client = Client::connect(gateway.ports.proxied);
        let _ = client.try_send(garbage);
        client.rest();
        assert_eq!(stays.get(), "hi");
    }
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let pki = Pki::new("mismatch");
    pki.make("own", "ec", "DNS:a.x.test", None).make("other", "ec", "DNS:a.x.test", None);
    let upstream = Upstream::answering_unseen(ok("hi"));
    let gateway = gateway("io_uring", "", upstream.port);
    let mut ssl = pki.ssl("own", &["a.x.test"]);
    ssl["key"] = json!(pki.read("other.key"));
    let refused = gateway.admin("PUT", "/ssls/1", &ssl.to_string());
    assert_eq!(
        (refused.status, refused.text().contains("the key is not that of the certificate")),
        (400, true)
    );
}

#[test]
fn the_protocol_is_chosen_by_alpn() {
    on_both_drivers(|driver| {
        let pki = Pki::new(&format!("alpn-{driver}"));
        pki.make("own", "ec", "DNS:a.x.test", None);
        let long = "0123456789abcdef".repeat(20_000);
        let upstream = Upstream::answering_unseen(ok(&long));
        let gateway = gateway(driver, "", upstream.port);
        gateway.put("/ssls/own", &pki.ssl("own", &["a.x.test"]));
        let authority = pki.path("own.pem");
        for (asked, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
            let told = ["--cacert", &authority, asked, "-w", " %{http_version} %{http_code}"];
            let got = body(&curl(&gateway, "https://a.x.test/", &told));
            assert!(got.starts_with(&long) && got.ends_with(&format!(" {version} 200")), "{asked}");
        }
    });
}

#[test]
fn variables_tell_of_the_handshake() {
    let pki = Pki::new("variables");
    pki.make("own", "ec", "DNS:a.x.test", None);
    let upstream = Upstream::answering_unseen(ok("hi"));
    let gateway = gateway("io_uring", "", upstream.port);
    gateway.put("/ssls/own", &pki.ssl("own", &["a.x.test"]));
    let shown =
        "$scheme $https $ssl_protocol $ssl_cipher $ssl_server_name $ssl_session_reused $ssl_client_verify";
    gateway.put(
        "/global_rules/1",
        &json!({"plugins": {"response-rewrite": {"headers": {"set": {"X-Tls": shown}}}}}),
    );
    let got = curl(
        &gateway,
        "https://a.x.test/",
        &["--cacert", &pki.path("own.pem"), "-D", "-", "-o", "/dev/null"],
    );
    let head = body(&got);
    let want = "x-tls: https on TLSv1.3 TLS_AES_256_GCM_SHA384 a.x.test . NONE";
    assert!(head.contains(want), "{head}");
}

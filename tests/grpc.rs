//! gRPC, by the client and server of grpcio: all kinds of call, to upstreams with and without TLS.

mod common;

use common::*;

/// The calls of `grpc_calls.py` over an upstream of `scheme`; `tls` is the upstream's option, `server` what the server is
/// given of certificates.
fn calls(driver: &'static str, scheme: &str, tls: &str, server: &[&dyn ToString]) {
    let port = free_port();
    let objects = format!(
        "routes:\n- id: 1\n  uri: /test.Calls/*\n  \
         upstream: {{type: roundrobin, scheme: {scheme}{tls}, nodes: {{\"127.0.0.1:{port}\": 1}}}}\n\
         - {{id: 2, uri: /test.Refused/*, plugins: {{ip-restriction: {{blacklist: [127.0.0.1]}}}}, upstream_id: 1}}\n\
         upstreams:\n- {{id: 1, scheme: {scheme}, nodes: {{\"127.0.0.1:{port}\": 1}}}}"
    );
    let gateway = Gateway::with_yaml(driver, &objects);
    let mut arguments: Vec<&dyn ToString> = vec![&gateway.ports.port, &port];
    arguments.extend(server);
    python("grpc_calls.py", &arguments);
}

#[test]
fn calls_of_all_kinds() {
    on_both_drivers(|driver| calls(driver, "grpc", "", &[]));
}

#[test]
fn calls_of_all_kinds_over_tls() {
    on_both_drivers(|driver| {
        let pki = Pki::new(&format!("grpcs-{driver}"));
        pki.make("server", "ec", "DNS:localhost", None);
        calls(driver, "grpcs", "", &[&pki.path("server.pem"), &pki.path("server.key")]);
    });
}

#[test]
fn an_upstream_may_want_to_know_who_calls() {
    on_both_drivers(|driver| {
        let pki = Pki::new(&format!("grpcs-client-{driver}"));
        pki.make("server", "ec", "DNS:localhost", None);
        pki.make("ca", "ec", "DNS:ca", None).make("client", "ec", "DNS:client", Some("ca"));
        let (cert, key) = (pki.read("client.pem"), pki.read("client.key"));
        let tls = format!(", tls: {{client_cert: {cert:?}, client_key: {key:?}}}");
        let server: [&dyn ToString; 3] =
            [&pki.path("server.pem"), &pki.path("server.key"), &pki.path("ca.pem")];
        calls(driver, "grpcs", &tls, &server);
    });
}

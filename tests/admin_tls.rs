//! The Admin API over TLS (`https_admin`), with and without client certificates.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use common::*;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::json;

const PEMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/transport/tests");

fn certificates(name: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(format!("{PEMS}/{name}")).unwrap().map(Result::unwrap).collect()
}

/// The status line of `GET /apisix/admin/routes`, or the error of the connection.
fn routes(port: u16, with_certificate: bool) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates("ca.pem"));
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = if with_certificate {
        let key = PrivateKeyDer::from_pem_file(format!("{PEMS}/client.key.pem")).unwrap();
        builder.with_client_auth_cert(certificates("client.pem"), key).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    let name = ServerName::try_from("localhost").unwrap();
    let tls = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(tls, TcpStream::connect(("127.0.0.1", port))?);
    let head = "GET /apisix/admin/routes HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    write!(stream, "{head}X-API-KEY: {KEY}\r\n\r\n")?;
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer)
        && answer.is_empty()
    {
        return Err(error);
    }
    let answer = String::from_utf8_lossy(&answer);
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

fn gateway(client_ca: bool) -> Gateway {
    serving(Setup::new("epoll", Source::Embedded), client_ca)
}

fn serving(setup: Setup, client_ca: bool) -> Gateway {
    let ca = if client_ca { format!(", admin_ssl_ca_cert: {PEMS}/ca.pem") } else { String::new() };
    let lines = format!(
        "    https_admin: true\n    admin_api_mtls: {{admin_ssl_cert: {PEMS}/server.pem, admin_ssl_cert_key: \
         {PEMS}/server.key.pem{ca}}}\n"
    );
    setup.rest(&lines).start()
}

#[test]
fn https_needs_no_client_certificate_by_itself() {
    let gateway = gateway(false);
    assert_eq!(routes(gateway.ports.admin, false).unwrap(), "HTTP/1.1 200 OK");
}

#[test]
fn with_an_authority_clients_need_a_certificate() {
    let gateway = gateway(true);
    assert_eq!(routes(gateway.ports.admin, true).unwrap(), "HTTP/1.1 200 OK");
    assert_eq!(routes(gateway.ports.admin, false).unwrap(), "HTTP/1.1 400 Bad Request");
}

/// What `openssl x509 -req` makes without extensions serves on either side, and towards an upstream.
#[test]
fn certificates_of_version_1_protect_the_admin_api() {
    let pki = Pki::new("admin-version-1");
    pki.make_version_1("ca", None).make_version_1("own", Some("ca")).make_version_1("client", Some("ca"));
    pki.make_version_1("other", None);
    let lines = format!(
        "    https_admin: true\n    admin_api_mtls: {{admin_ssl_cert: {}, admin_ssl_cert_key: {}, \
         admin_ssl_ca_cert: {}}}\n",
        pki.path("own.pem"),
        pki.path("own.key"),
        pki.path("ca.pem"),
    );
    let protected = Setup::new("epoll", Source::Embedded).rest(&lines).start();
    let gateway = Setup::new("epoll", Source::Embedded).start();
    let node = format!("127.0.0.1:{}", protected.ports.admin);
    let key = format!("Host: a\r\nX-API-KEY: {KEY}\r\n");
    for (shown, status) in [("client", 200), ("other", 502)] {
        let (cert, private) = (pki.read(&format!("{shown}.pem")), pki.read(&format!("{shown}.key")));
        let tls = json!({"client_cert": cert, "client_key": private});
        let upstream = json!({"scheme": "https", "type": "roundrobin", "nodes": {&node: 1}, "tls": tls});
        gateway.put("/routes/1", &json!({"uri": "/*", "upstream": upstream}));
        let found = request(gateway.port(), "GET", "/apisix/admin/routes", &key).status;
        assert_eq!(found, status, "{shown}");
    }
}

/// The upstream is an Admin API that wants a certificate: what it answers tells which one it was shown.
#[test]
fn an_upstream_is_shown_the_certificate_of_an_ssl_object() {
    let upstream = gateway(true);
    let gateway = Setup::new("epoll", Source::Embedded).start();
    let pem = |name: &str| std::fs::read_to_string(format!("{PEMS}/{name}")).unwrap();
    let certificate = json!({"type": "client", "cert": pem("client.pem"), "key": pem("client.key.pem")});
    gateway.put("/ssls/c", &certificate);
    let node = format!("127.0.0.1:{}", upstream.ports.admin);
    let tls = json!({"client_cert_id": "c"});
    let upstream = json!({"scheme": "https", "type": "roundrobin", "nodes": {node: 1}, "tls": tls});
    gateway.put("/routes/1", &json!({"uri": "/*", "upstream": upstream}));
    let key = format!("Host: a\r\nX-API-KEY: {KEY}\r\n");
    let status = || request(gateway.port(), "GET", "/apisix/admin/routes", &key).status;
    assert_eq!(status(), 200);
    let stored = gateway.admin("GET", "/ssls/c", "").json();
    assert!(stored["value"].get("key").is_none(), "private keys are not shown");
    gateway.delete("/ssls/c");
    assert_eq!(status(), 502);
    gateway.put("/ssls/c", &certificate);
    assert_eq!(status(), 200);
}

/// t/cli/test_access_log.sh: the proxy's line tells of the upstream, the Admin API's of its client.
#[test]
fn the_access_log_tells_of_tls_on_either_side() {
    let format = "access_log_format: '\"$upstream_scheme://$upstream_host\" $ssl_server_name'";
    let gateway = serving(Setup::new("epoll", Source::Embedded).http(format), false);
    let node = format!("localhost:{}", gateway.ports.admin);
    let over_tls = Setup::new("epoll", Source::Embedded).http(format).start();
    let upstream = json!({"scheme": "https", "type": "roundrobin", "nodes": {&node: 1}, "pass_host": "node"});
    over_tls.put("/routes/1", &json!({"uri": "/*", "upstream": upstream}));
    let key = format!("Host: a\r\nX-API-KEY: {KEY}\r\n");
    assert_eq!(request(over_tls.port(), "GET", "/apisix/admin/routes", &key).status, 200);
    over_tls.read_until("logs/access.log", &format!("\"https://{node}\" -\n"));
    gateway.read_until("logs/access.log", &format!("\"http://{node}\" localhost\n"));
}

//! OCSP stapling and the days that certificates have left. The authority, its responses and the client are OpenSSL's.

mod common;

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use common::*;
use serde_json::{Value, json};

/// An authority that answers at a port of its own.
struct Authority {
    pki: Arc<Pki>,
    responder: Upstream,
}

impl Authority {
    /// `signer` signs what it says: `ca`, or `delegate`, whom it has allowed to.
    fn new(name: &str, signer: &'static str) -> Authority {
        let pki = Arc::new(Pki::new(name));
        pki.make("ca", "ec", "DNS:ca", None);
        let allowed = ["-addext", "extendedKeyUsage=OCSPSigning"];
        pki.make_with("delegate", "ec", "DNS:delegate", Some("ca"), &allowed);
        fs::write(pki.path("index.txt"), "").unwrap();
        let of = pki.clone();
        let responder = Upstream::start(move |conn| {
            while let Some(request) = conn.request() {
                let name = format!("{}-{}", conn.number, fastrand::u64(..));
                let (asked, said) = (of.path(&format!("{name}.req")), of.path(&format!("{name}.der")));
                fs::write(&asked, &request.body).unwrap();
                let mut openssl = Command::new("openssl");
                openssl.args(["ocsp", "-index", &of.path("index.txt"), "-CA", &of.path("ca.pem")]);
                openssl.args(["-rsigner", &of.path(&format!("{signer}.pem"))]);
                openssl.args(["-rkey", &of.path(&format!("{signer}.key")), "-ndays", "1"]);
                let made = openssl.args(["-reqin", &asked, "-respout", &said]).output().unwrap();
                assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
                let body = fs::read(&said).unwrap();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                if conn.send([head.as_bytes(), &body].concat()).is_err() {
                    return;
                }
            }
        });
        Authority { pki, responder }
    }

    /// An ssl object for `name`; `status` is V (valid) or R (revoked).
    fn ssl(&self, name: &str, status: char, options: &Value) -> Value {
        let Authority { pki, responder } = self;
        let access = format!("authorityInfoAccess=OCSP;URI:http://127.0.0.1:{}/ask", responder.port);
        pki.make_with(name, "ec", &format!("DNS:{name}.test"), Some("ca"), &["-addext", &access]);
        let serial = Command::new("openssl")
            .args(["x509", "-noout", "-serial", "-in", &pki.path(&format!("{name}.pem"))])
            .output()
            .unwrap();
        let serial = String::from_utf8(serial.stdout).unwrap().trim().replace("serial=", "");
        let revoked = if status == 'R' { "250101000000Z" } else { "" };
        let line = format!("{status}\t350101000000Z\t{revoked}\t{serial}\tunknown\t/CN={name}\n");
        fs::OpenOptions::new()
            .append(true)
            .open(pki.path("index.txt"))
            .unwrap()
            .write_all(line.as_bytes())
            .unwrap();
        let mut ssl = pki.ssl(name, &[&format!("{name}.test")]);
        ssl["cert"] = json!(pki.read(&format!("{name}.pem")) + &pki.read("ca.pem"));
        ssl["ocsp_stapling"] = options.clone();
        ssl
    }
}

fn gateway(driver: &'static str) -> Gateway {
    let listen = "ssl: {enable: true, listen: [{ip: 127.0.0.1, port: $PROXIED}]}\n";
    Setup::new(driver, Source::Embedded).apisix(listen).start()
}

/// What OpenSSL's client, which asks for a status, is shown at `name`.test.
fn shown(gateway: &Gateway, name: &str, version: &str) -> String {
    let to = format!("127.0.0.1:{}", gateway.ports.proxied);
    let client = Command::new("openssl")
        .args(["s_client", "-connect", &to, "-servername", &format!("{name}.test"), "-status", version])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&client.stdout).into_owned()
}

fn certificates(gateway: &Gateway) -> Value {
    get(gateway.ports.control, "/v1/ringway/certificates").json()
}

const GOOD: &str = "Cert Status: good";

#[test]
fn the_word_of_the_authority_comes_with_the_certificate() {
    for signer in ["ca", "delegate"] {
        on_both_drivers(|driver| {
            let authority = Authority::new(&format!("ocsp-{signer}-{driver}"), signer);
            let gateway = gateway(driver);
            let enabled = json!({"enabled": true});
            gateway.put("/ssls/good", &authority.ssl("good", 'V', &enabled));
            gateway.put("/ssls/off", &authority.ssl("off", 'V', &json!({"enabled": false})));
            eventually("a staple", || shown(&gateway, "good", "-tls1_3").contains(GOOD));
            assert!(shown(&gateway, "good", "-tls1_2").contains(GOOD));
            for _ in 0..5 {
                assert!(shown(&gateway, "good", "-tls1_3").contains("OCSP Response Status: successful"));
            }
            assert_eq!(authority.responder.requests().len(), 1, "one question for all handshakes");
            let asked = authority.responder.last();
            assert_eq!((asked.method.as_str(), asked.target.as_str()), ("POST", "/ask"));
            assert_eq!(asked.header("content-type"), Some("application/ocsp-request"));
            assert!(shown(&gateway, "off", "-tls1_3").contains("OCSP response: no response sent"));
        });
    }
}

#[test]
fn what_the_authority_does_not_call_good_is_not_shown() {
    on_both_drivers(|driver| {
        let authority = Authority::new(&format!("ocsp-revoked-{driver}"), "ca");
        let gateway = gateway(driver);
        gateway.put("/ssls/revoked", &authority.ssl("revoked", 'R', &json!({"enabled": true})));
        gateway.read_until("logs/error.log", "certificate status \"revoked\" in the OCSP response");
        assert!(shown(&gateway, "revoked", "-tls1_3").contains("OCSP response: no response sent"));
        let blind = json!({"enabled": true, "skip_verify": true});
        gateway.put("/ssls/blind", &authority.ssl("blind", 'R', &blind));
        eventually("a staple", || shown(&gateway, "blind", "-tls1_3").contains("Cert Status: revoked"));
        // one without an issuer, and a responder that is gone
        let mut alone = authority.ssl("alone", 'V', &json!({"enabled": true}));
        alone["cert"] = json!(authority.pki.read("alone.pem"));
        gateway.put("/ssls/alone", &alone);
        gateway.read_until("logs/error.log", "no issuer certificate in the chain");
        let nowhere = format!("authorityInfoAccess=OCSP;URI:http://127.0.0.1:{}/", free_port());
        let pki = &authority.pki;
        pki.make_with("lost", "ec", "DNS:lost.test", Some("ca"), &["-addext", &nowhere]);
        let mut lost = pki.ssl("lost", &["lost.test"]);
        lost["cert"] = json!(pki.read("lost.pem") + &pki.read("ca.pem"));
        lost["ocsp_stapling"] = json!({"enabled": true});
        gateway.put("/ssls/lost", &lost);
        gateway.read_until("logs/error.log", "ocsp responder query failed");
        assert!(
            shown(&gateway, "lost", "-tls1_3").contains("OCSP response: no response sent"),
            "it is served"
        );
        let told = certificates(&gateway);
        let list = told["list"].as_array().unwrap();
        assert_eq!((told["total"].as_u64(), list.len()), (Some(4), 4), "{told}");
        let of = |id: &str| list.iter().find(|one| one["id"] == id).unwrap();
        assert_eq!(of("blind")["stapled"], true);
        assert_eq!(
            (&of("revoked")["stapled"], &of("revoked")["sni"]),
            (&json!(false), &json!("revoked.test"))
        );
        assert!(of("lost")["not_stapled_because"].as_str().unwrap().contains("query failed"), "{told}");
        let metrics = get(gateway.ports.metrics, "/apisix/prometheus/metrics").text();
        assert!(metrics.contains("apisix_ssl_ocsp_certificates{stapled=\"yes\"} 1\n"), "{metrics}");
        assert!(metrics.contains("apisix_ssl_ocsp_certificates{stapled=\"no\"} 3\n"), "{metrics}");
    });
}

#[test]
fn an_expired_certificate_is_served_and_said_so() {
    on_both_drivers(|driver| {
        let pki = Pki::new(&format!("expired-{driver}"));
        pki.make("own", "ec", "DNS:own.test", None);
        pki.make("old", "ec", "DNS:old.test", None);
        let (pem, key) = (pki.path("old.pem"), pki.path("old.key"));
        let days = ["-days", "-1"]; // yesterday
        let mut openssl = Command::new("openssl");
        openssl.args(["x509", "-in", &pem, "-signkey", &key, "-out", &pem]).args(days);
        assert!(openssl.output().unwrap().status.success());
        let gateway = gateway(driver);
        gateway.put("/ssls/own", &pki.ssl("own", &["own.test"]));
        gateway.put("/ssls/old", &pki.ssl("old", &["old.test"]));
        gateway.read_until("logs/error.log", "a certificate of ssl old (old.test) has expired");
        assert!(shown(&gateway, "old", "-tls1_3").contains("CN = old"));
        let days = |id: &str| {
            let metrics = get(gateway.ports.metrics, "/apisix/prometheus/metrics").text();
            let series =
                format!("apisix_ssl_certificate_days_left{{ssl_id=\"{id}\",sni=\"{id}.test\",index=\"0\"}} ");
            metrics.lines().find_map(|line| line.strip_prefix(&*series)?.parse::<f64>().ok())
        };
        assert!(days("own").is_some_and(|days| (29.9..=30.0).contains(&days)), "{:?}", days("own"));
        assert!(days("old").is_some_and(|days| days < 0.0), "{:?}", days("old"));
        assert_eq!(certificates(&gateway)["list"][0]["id"], "old", "the first to expire comes first");
        gateway.delete("/ssls/old");
        eventually("no series of a deleted object", || days("old").is_none());
    });
}

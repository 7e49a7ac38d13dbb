//! Certificates, made by OpenSSL.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

/// Keys and certificates of one test, made by OpenSSL.
pub struct Pki(PathBuf);

impl Pki {
    pub fn new(name: &str) -> Pki {
        let folder = std::env::temp_dir().join(format!("ringway-pki-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        Pki(folder)
    }

    pub fn path(&self, file: &str) -> String {
        self.0.join(file).display().to_string()
    }

    pub fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.0.join(file)).unwrap()
    }

    /// `name.pem` and `name.key` for these names; `by` is `name` of an authority, else it signs itself.
    pub fn make(&self, name: &str, kind: &str, names: &str, by: Option<&str>) -> &Pki {
        self.make_with(name, kind, names, by, &[])
    }

    /// The same, with more of what `openssl req` takes.
    pub fn make_with(&self, name: &str, kind: &str, names: &str, by: Option<&str>, more: &[&str]) -> &Pki {
        let key: &[&str] = match kind {
            "rsa" => &["-newkey", "rsa:2048"],
            _ => &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
        };
        let subject = format!("/CN={name}");
        let alternative = format!("subjectAltName={names}");
        let (pem, private) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-nodes", "-days", "30", "-subj", &subject, "-addext", &alternative]);
        openssl.args(key).args(["-out", &pem, "-keyout", &private]);
        if let Some(by) = by {
            openssl.args([
                "-CA",
                &self.path(&format!("{by}.pem")),
                "-CAkey",
                &self.path(&format!("{by}.key")),
            ]);
            openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        }
        let made = openssl.args(more).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        self
    }

    /// An authority that `by` has signed.
    pub fn make_authority(&self, name: &str, by: &str) -> &Pki {
        let (pem, key) = (self.path(&format!("{by}.pem")), self.path(&format!("{by}.key")));
        self.make_with(name, "ec", &format!("DNS:{name}"), None, &["-CA", &pem, "-CAkey", &key])
    }

    /// As in APISIX's tutorials: a request, signed without extensions. What comes out is of X.509 version 1.
    pub fn make_version_1(&self, name: &str, by: Option<&str>) -> &Pki {
        let [pem, key, request] = ["pem", "key", "csr"].map(|kind| self.path(&format!("{name}.{kind}")));
        let subject = format!("/CN={name}");
        let (ca, ca_key) =
            (by.map(|by| self.path(&format!("{by}.pem"))), by.map(|by| self.path(&format!("{by}.key"))));
        let signer = match (&ca, &ca_key) {
            (Some(ca), Some(ca_key)) => vec!["-CA", ca, "-CAkey", ca_key, "-CAcreateserial"],
            _ => vec!["-signkey", &key],
        };
        let asks = [
            "req", "-new", "-nodes", "-newkey", "rsa:2048", "-subj", &subject, "-keyout", &key, "-out",
            &request,
        ];
        let signs = ["x509", "-req", "-days", "30", "-sha256", "-in", &request, "-out", &pem];
        for args in [asks.to_vec(), [&signs[..], &signer].concat()] {
            let made = Command::new("openssl").args(args).output().unwrap();
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        }
        self
    }

    /// An ssl object with this pair.
    pub fn ssl(&self, name: &str, snis: &[&str]) -> Value {
        let (cert, key) = (self.read(&format!("{name}.pem")), self.read(&format!("{name}.key")));
        json!({"cert": cert, "key": key, "snis": snis})
    }
}

impl Drop for Pki {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

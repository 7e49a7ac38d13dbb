//! Secrets that all cores share, for a datagram may reach another core than the one that its connection lives on; and that
//! outlive the process, so that the next one can tell clients of this one that their connections are gone (RFC 9000
//! section 10.3).

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::{hkdf, hmac, rand};

/// Bytes of the secret that all others are made from.
const SECRET: usize = 32;

/// The secrets of a node.
pub struct QuicKeys {
    /// Of stateless resets: whoever gets a datagram of a connection that is gone can say so.
    pub reset: hmac::Key,
    /// Of connection IDs.
    pub ids: Arc<hmac::Key>,
    /// Of tokens by which clients prove their address.
    pub token: hkdf::Prk,
}

impl QuicKeys {
    /// Those of the secret in this file, which is made where it is missing. A file that cannot be used is left as it is:
    /// then, and where none can be written, the keys are those of this process alone, and the log says so.
    ///
    /// # Errors
    /// The host has no randomness.
    pub fn kept(path: &Path) -> Result<QuicKeys, String> {
        let mut fresh = [0; SECRET];
        rand::fill(&mut fresh).map_err(|_| "no randomness for QUIC".to_owned())?;
        let kept = match read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => write(path, &fresh).map(|()| fresh),
            read => read,
        };
        let secret = kept.unwrap_or_else(|error| {
            log::warn!(
                "the secret of HTTP/3 is not kept in {}: {error}; clients will wait in vain after a restart",
                path.display()
            );
            fresh
        });
        Ok(QuicKeys::of(&secret))
    }

    fn of(secret: &[u8; SECRET]) -> QuicKeys {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let part = |what: &[u8]| hmac::sign(&secret, what);
        QuicKeys {
            reset: hmac::Key::new(hmac::HMAC_SHA256, part(b"stateless reset").as_ref()),
            ids: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, part(b"connection IDs").as_ref())),
            token: hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(part(b"retry tokens").as_ref()),
        }
    }
}

fn read(path: &Path) -> io::Result<[u8; SECRET]> {
    let mut bytes = Vec::with_capacity(SECRET + 1);
    File::open(path)?.take(SECRET as u64 + 1).read_to_end(&mut bytes)?;
    bytes.try_into().map_err(|_| io::Error::other(format!("it has not {SECRET} bytes")))
}

/// Only the owner may read it, and it is there whole or not at all.
fn write(path: &Path, secret: &[u8; SECRET]) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new); // of a process that was killed right here
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(secret)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    /// A directory that no other test uses, without anything in it.
    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("ringway-quic-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    /// The token that a client would have to believe.
    fn token(keys: &QuicKeys) -> Vec<u8> {
        hmac::sign(&keys.reset, b"a connection").as_ref().to_vec()
    }

    #[test]
    fn the_next_process_has_the_keys_of_this_one() {
        let directory = scratch("kept");
        let path = directory.join("data/quic.key");
        let first = token(&QuicKeys::kept(&path).unwrap());
        assert_eq!(token(&QuicKeys::kept(&path).unwrap()), first);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let inside: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(inside.len(), 1, "{inside:?}");
        fs::remove_file(&path).unwrap();
        assert_ne!(token(&QuicKeys::kept(&path).unwrap()), first, "another secret");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_used_stays_and_the_keys_are_random() {
        let directory = scratch("unusable");
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("quic.key");
        for bytes in [&[7; SECRET - 1][..], &[7; SECRET + 1], b""] {
            fs::write(&path, bytes).unwrap();
            let first = token(&QuicKeys::kept(&path).unwrap());
            assert_ne!(token(&QuicKeys::kept(&path).unwrap()), first);
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
        // neither read nor written: its directory is a file
        let nowhere = path.join("quic.key");
        let first = token(&QuicKeys::kept(&nowhere).unwrap());
        assert_ne!(token(&QuicKeys::kept(&nowhere).unwrap()), first);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn each_key_is_its_own() {
        let keys = QuicKeys::of(&[7; SECRET]);
        let sign = |key: &hmac::Key| hmac::sign(key, b"x").as_ref().to_vec();
        assert_ne!(sign(&keys.reset), sign(&keys.ids));
        assert_ne!(sign(&keys.reset), sign(&QuicKeys::of(&[8; SECRET]).reset));
    }
}

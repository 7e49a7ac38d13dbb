//! Secrets at rest, as APISIX stores them (`apisix.data_encryption`; apisix/core/data_encryption.lua,
//! apisix/plugin.lua `process_encrypt_field`, apisix/ssl.lua): AES-CBC in base64, the key serving as its own
//! initialisation vector. The first key of the ring encrypts, every key is tried to decrypt, and what cannot
//! be decrypted is taken as it is: it was written before encryption was switched on.
//!
//! Equal secrets give equal ciphertexts under this scheme. It is the format that APISIX nodes on the same
//! etcd read and write; it keeps secrets out of sight, not from an attacker with the key ring.

use aws_lc_rs::cipher::{
    AES_128, AES_256, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey,
    PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::model::schema::is_secret_ref;

/// How a PEM file begins: a private key that is not encrypted.
const PEM: &str = "---";
/// What is shown of a secret.
const HIDDEN: &str = "******";

/// The key ring. An empty one leaves everything as it is.
#[derive(Clone, Default)]
pub struct Keyring {
    keys: Vec<Vec<u8>>,
}

impl Keyring {
    /// Keys of 16 bytes (AES-128) or 32 (AES-256); others are reported and left out.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> Keyring {
        let usable = |key: &&str| {
            let usable = matches!(key.len(), 16 | 32);
            if !usable {
                log::error!(
                    "ignored data_encryption keyring entry: expected a 16 byte (AES-128) or 32 byte (AES-256) \
                     key, got {} bytes",
                    key.len()
                );
            }
            usable
        };
        Keyring { keys: keys.into_iter().filter(usable).map(|key| key.as_bytes().to_vec()).collect() }
    }

    /// `None` if the ring is empty.
    pub fn encrypt(&self, text: &str) -> Option<String> {
        let key = self.keys.first()?;
        let mut bytes = text.as_bytes().to_vec();
        let cipher = PaddedBlockEncryptingKey::cbc_pkcs7(bind(key)?).ok()?;
        cipher.less_safe_encrypt(&mut bytes, EncryptionContext::Iv128(vector(key)?)).ok()?;
        Some(STANDARD.encode(bytes))
    }

    /// `None` if it is no ciphertext of any key of the ring.
    pub fn decrypt(&self, text: &str) -> Option<String> {
        let bytes = STANDARD.decode(text).ok()?;
        self.keys.iter().find_map(|key| {
            let mut bytes = bytes.clone();
            let cipher = PaddedBlockDecryptingKey::cbc_pkcs7(bind(key)?).ok()?;
            let plain = cipher.decrypt(&mut bytes, DecryptionContext::Iv128(vector(key)?)).ok()?;
            String::from_utf8(plain.to_vec()).ok()
        })
    }

    /// Encrypts the named fields of a plugin's configuration in place.
    pub fn encrypt_fields(&self, conf: &mut Value, fields: &[&str]) {
        for field in fields {
            each_leaf(conf, field, &|text| self.encrypt(text));
        }
    }

    /// Decrypts the named fields of a plugin's configuration in place.
    pub fn decrypt_fields(&self, conf: &mut Value, fields: &[&str]) {
        for field in fields {
            each_leaf(conf, field, &|text| self.decrypt(text));
        }
    }

    /// Encrypts a private key that is still in PEM form.
    pub fn encrypt_private_key(&self, key: &mut Value) {
        if let Value::String(text) = key
            && text.starts_with(PEM)
            && let Some(encrypted) = self.encrypt(text)
        {
            *text = encrypted;
        }
    }

    /// The PEM form of a stored private key.
    pub fn decrypt_private_key(&self, key: &mut Value) {
        if let Value::String(text) = key
            && !text.starts_with(PEM)
            && let Some(decrypted) = self.decrypt(text)
        {
            *text = decrypted;
        }
    }
}

/// Puts asterisks in the place of the named fields, but for references, which are none of the secrets themselves.
pub fn hide_fields(conf: &mut Value, fields: &[&str]) {
    for field in fields {
        each_leaf(conf, field, &|text| (!is_secret_ref(text)).then(|| HIDDEN.to_owned()));
    }
}

fn bind(key: &[u8]) -> Option<UnboundCipherKey> {
    let algorithm = if key.len() == 16 { &AES_128 } else { &AES_256 };
    UnboundCipherKey::new(algorithm, key).ok()
}

/// A block is 16 bytes, so of a longer key only its beginning can be the vector.
fn vector(key: &[u8]) -> Option<FixedLength<16>> {
    Some(FixedLength::from(*key.first_chunk::<16>()?))
}

/// Applies `change` to every string at a dotted path: arrays on the way are walked, and the end may be a
/// string, an array of strings or a map of strings.
fn each_leaf(conf: &mut Value, path: &str, change: &dyn Fn(&str) -> Option<String>) {
    let (step, rest) = match path.split_once('.') {
        Some((step, rest)) => (step, Some(rest)),
        None => (path, None),
    };
    let Some(value) = conf.get_mut(step) else { return };
    match (rest, value) {
        (Some(rest), Value::Array(items)) => items.iter_mut().for_each(|item| each_leaf(item, rest, change)),
        (Some(rest), inner) => each_leaf(inner, rest, change),
        (None, Value::Array(items)) => items.iter_mut().for_each(|item| change_string(item, change)),
        (None, Value::Object(map)) => map.values_mut().for_each(|item| change_string(item, change)),
        (None, leaf) => change_string(leaf, change),
    }
}

fn change_string(value: &mut Value, change: &dyn Fn(&str) -> Option<String>) {
    if let Value::String(text) = value
        && let Some(changed) = change(text)
    {
        *text = changed;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// APISIX's default ring.
    fn ring() -> Keyring {
        Keyring::new(["qeddd145sfvddff3", "edd1c9f0985e76a2"])
    }

    #[test]
    fn ciphertexts_are_those_of_apisix() {
        // From apisix's t/node/data_encrypt.t: `bar` under edd1c9f0985e76a2.
        let one = Keyring::new(["edd1c9f0985e76a2"]);
        assert_eq!(one.encrypt("bar").as_deref(), Some("77+NmbYqNfN+oLm0aX5akg=="));
        assert_eq!(ring().encrypt("bar").as_deref(), Some("+kOEVUuRc5rC5ZwvvAMLwg=="));
        assert_eq!(ring().decrypt("77+NmbYqNfN+oLm0aX5akg==").as_deref(), Some("bar"));
    }

    #[test]
    fn every_key_decrypts_and_plain_text_stays() {
        let old = Keyring::new(["edd1c9f0985e76a2"]).encrypt("secret").unwrap();
        assert_eq!(ring().decrypt(&old).as_deref(), Some("secret"));
        assert_eq!(ring().decrypt("never encrypted"), None);
        let long = Keyring::new(["0123456789abcdef0123456789abcdef"]);
        assert_eq!(long.decrypt(&long.encrypt("x").unwrap()).as_deref(), Some("x"));
        assert_eq!(Keyring::new(["short"]).encrypt("x"), None);
    }

    #[test]
    fn fields_are_found_through_arrays_and_maps() {
        let plain =
            json!({"key": "a", "n": 1, "in": [{"secret": "b"}, {"x": 1}], "map": {"k": "c"}, "list": ["d"]});
        let fields = ["key", "n", "in.secret", "map", "list", "absent.deep"];
        let mut conf = plain.clone();
        ring().encrypt_fields(&mut conf, &fields);
        for pointer in ["/key", "/in/0/secret", "/map/k", "/list/0"] {
            assert!(conf.pointer(pointer).unwrap().as_str().unwrap().len() > 20, "{pointer}");
        }
        assert_eq!(conf["n"], 1);
        ring().decrypt_fields(&mut conf, &fields);
        assert_eq!(conf, plain);
    }

    #[test]
    fn private_keys_are_encrypted_once() {
        let mut key = json!("-----BEGIN PRIVATE KEY-----\nx\n");
        ring().encrypt_private_key(&mut key);
        let once = key.clone();
        ring().encrypt_private_key(&mut key);
        assert_eq!(key, once);
        ring().decrypt_private_key(&mut key);
        assert_eq!(key, "-----BEGIN PRIVATE KEY-----\nx\n");
    }
}

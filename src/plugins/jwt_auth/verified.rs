//! Tokens that one core has verified: a client sends the same one many times, and a signature costs far
//! more than all the rest of the plugin.

use std::cell::RefCell;
use std::rc::Rc;

use ahash::AHashMap;

use super::token::Token;
use crate::limits;
use crate::plugin::consumers::Credential;

/// A token and the credential whose key it was verified with.
#[derive(Clone)]
pub struct Verified {
    /// The token.
    pub token: Rc<Token>,
    /// Good for this very credential alone: one that changes is another.
    pub credential: Rc<Credential>,
}

/// The verified tokens of a core, in two generations: when the young one is full it becomes the old one, and
/// the old one is forgotten. What is asked for stays.
#[derive(Default)]
pub struct VerifiedTokens {
    generations: RefCell<[AHashMap<Box<[u8]>, Verified>; 2]>,
}

impl VerifiedTokens {
    /// The token of this text, if it was verified before.
    pub fn get(&self, text: &[u8]) -> Option<Verified> {
        let mut generations = self.generations.borrow_mut();
        if let Some(found) = generations[0].get(text) {
            return Some(found.clone());
        }
        let (text, found) = generations[1].remove_entry(text)?;
        add(&mut generations, text, found.clone());
        Some(found)
    }

    /// Remembers a token. Long ones are not worth it.
    pub fn put(&self, text: &[u8], verified: Verified) {
        if text.len() <= limits::JWT_CACHED_BYTES {
            add(&mut self.generations.borrow_mut(), text.into(), verified);
        }
    }
}

fn add(generations: &mut [AHashMap<Box<[u8]>, Verified>; 2], text: Box<[u8]>, verified: Verified) {
    if generations[0].len() >= limits::JWT_CACHED {
        generations.swap(0, 1);
        generations[0].clear();
    }
    generations[0].insert(text, verified);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn remembers_what_is_asked_for_and_stays_bounded() {
        let tokens = VerifiedTokens::default();
        let token = Rc::new(Token::parse(b"e30.e30.").ok().unwrap());
        let verified = Verified { token, credential: Rc::new(Credential::new(json!({}))) };
        tokens.put(b"often", verified.clone());
        for n in 0..3 * limits::JWT_CACHED {
            tokens.put(n.to_string().as_bytes(), verified.clone());
            assert!(tokens.get(b"often").is_some(), "forgotten after {n}");
        }
        assert!(tokens.get(b"0").is_none());
        let kept: usize = tokens.generations.borrow().iter().map(|tokens| tokens.len()).sum();
        assert!(kept <= 2 * limits::JWT_CACHED);

        let long = vec![b'a'; limits::JWT_CACHED_BYTES + 1];
        tokens.put(&long, verified);
        assert!(tokens.get(&long).is_none());
    }
}

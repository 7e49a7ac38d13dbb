//! Resumed TLS sessions: kept by this process, or by the client in a ticket. All cores share them.
//!
//! rustls asks for a client's certificate only in a full handshake, and a resumption compares no policy. So a
//! session belongs to the policy (certificate, client verification, versions) under which it was made: it cannot
//! be resumed under another one, nor after a change of its own.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::{aead, hmac, rand};
use rustls::server::{ProducesTickets, StoresServerSessions};

use crate::limits;

/// A hash of everything that decides whom a handshake lets in.
pub type Policy = [u8; 32];

/// Sessions of all policies, bounded: the oldest make room.
#[derive(Debug)]
pub struct Sessions {
    shards: Vec<Mutex<Shard>>,
}

impl Sessions {
    /// Room for [`limits::TLS_SESSIONS`] of them.
    pub fn new() -> Sessions {
        let each = limits::TLS_SESSIONS / limits::TLS_SESSION_SHARDS;
        Sessions { shards: (0..limits::TLS_SESSION_SHARDS).map(|_| Mutex::new(Shard::new(each))).collect() }
    }

    /// Does something with the part that keeps the session of an id. Ids are random: their first byte spreads them.
    fn with_shard<T>(&self, id: &[u8], act: impl FnOnce(&mut Shard) -> T) -> T {
        let at = usize::from(id.first().copied().unwrap_or(0)) % self.shards.len();
        // nothing is half done in a shard where something panics
        act(&mut self.shards[at].lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Default for Sessions {
    fn default() -> Self {
        Sessions::new()
    }
}

/// The policy of a session and its id.
type Key = Box<[u8]>;

/// A part of the sessions: a ring of places, each new session in the next one. Nothing is searched for: rustls's own
/// cache looks through all its keys for each one that is taken, and a session is taken when it is resumed.
struct Shard {
    /// The key stands here too, for who takes the place has to know it.
    places: Vec<Option<(Key, Vec<u8>)>>,
    next: usize,
    by_key: HashMap<Key, usize>,
    most: usize,
}

impl Shard {
    fn new(most: usize) -> Shard {
        Shard { places: Vec::new(), next: 0, by_key: HashMap::new(), most }
    }

    fn put(&mut self, key: Key, session: Vec<u8>) {
        self.take(&key);
        match self.places.get_mut(self.next) {
            Some(place) => {
                if let Some((oldest, _)) = place.take() {
                    self.by_key.remove(&oldest);
                }
                *place = Some((key.clone(), session));
            }
            None => self.places.push(Some((key.clone(), session))),
        }
        self.by_key.insert(key, self.next);
        self.next = (self.next + 1) % self.most;
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let place = self.places[*self.by_key.get(key)?].as_ref();
        place.map(|(_, session)| session.clone())
    }

    fn take(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        let place = self.places[self.by_key.remove(key)?].take();
        place.map(|(_, session)| session)
    }
}

/// Sessions are secrets: how many there are is all that is said.
impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sessions", self.by_key.len())
    }
}

/// The sessions of one policy.
#[derive(Debug)]
pub struct PolicySessions {
    /// All sessions.
    pub all: Arc<Sessions>,
    /// Whose these are.
    pub policy: Policy,
}

impl PolicySessions {
    fn key(&self, id: &[u8]) -> Key {
        [&self.policy[..], id].concat().into()
    }
}

impl StoresServerSessions for PolicySessions {
    fn put(&self, id: Vec<u8>, session: Vec<u8>) -> bool {
        self.all.with_shard(&id, |shard| shard.put(self.key(&id), session));
        true
    }

    fn get(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.all.with_shard(id, |shard| shard.get(&self.key(id)))
    }

    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.all.with_shard(id, |shard| shard.take(&self.key(id)))
    }

    fn can_cache(&self) -> bool {
        true
    }
}

/// Seals tickets of one policy (`ssl_session_tickets`). The key of a period comes from a secret of the process, the
/// policy and the number of the period: every core computes it by itself, and none is ever written down.
#[derive(Debug)]
pub struct Tickets {
    /// The secret of the process.
    pub secret: Arc<hmac::Key>,
    /// Whose tickets these are.
    pub policy: Policy,
    /// Seconds since 1970.
    pub unix_s: fn() -> u64,
}

/// A ticket: the number of its period, a nonce, the sealed session with its tag.
const PERIOD_BYTES: usize = 8;

impl Tickets {
    fn key(&self, period: u64) -> Option<aead::LessSafeKey> {
        let mut context = hmac::Context::with_key(&self.secret);
        context.update(&self.policy);
        context.update(&period.to_be_bytes());
        let key = context.sign();
        aead::UnboundKey::new(&aead::AES_256_GCM, key.as_ref()).ok().map(aead::LessSafeKey::new)
    }

    fn period(&self) -> u64 {
        (self.unix_s)() / limits::TLS_TICKET_KEY_S
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    /// A ticket opens in the period after its own too.
    fn lifetime(&self) -> u32 {
        u32::try_from(limits::TLS_TICKET_KEY_S).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let period = self.period();
        let mut nonce = [0; aead::NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        let number = period.to_be_bytes();
        let aad = aead::Aad::from(number);
        self.key(period)?
            .seal_in_place_append_tag(aead::Nonce::assume_unique_for_key(nonce), aad, &mut sealed)
            .ok()?;
        Some([&number[..], &nonce, &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (number, rest) = ticket.split_first_chunk::<PERIOD_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<{ aead::NONCE_LEN }>()?;
        let period = u64::from_be_bytes(*number);
        let now = self.period();
        if period != now && period.checked_add(1) != Some(now) {
            return None;
        }
        let mut sealed = sealed.to_vec();
        let nonce = aead::Nonce::assume_unique_for_key(*nonce);
        let plain = self.key(period)?.open_in_place(nonce, aead::Aad::from(*number), &mut sealed).ok()?;
        Some(plain.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_found_under_its_own_policy_only() {
        let all = Arc::new(Sessions::new());
        let [one, other] = [1, 2].map(|n| PolicySessions { all: all.clone(), policy: [n; 32] });
        assert!(one.put(b"id".to_vec(), b"session".to_vec()));
        assert_eq!(other.get(b"id"), None);
        assert_eq!(other.take(b"id"), None);
        assert_eq!(one.get(b"id").as_deref(), Some(&b"session"[..]));
        assert_eq!(one.take(b"id").as_deref(), Some(&b"session"[..]));
        assert_eq!(one.get(b"id"), None);
    }

    #[test]
    fn sessions_are_bounded() {
        let all = Arc::new(Sessions::new());
        let one = PolicySessions { all, policy: [0; 32] };
        let ids: Vec<Vec<u8>> =
            (0..2 * limits::TLS_SESSIONS as u32).map(|n| n.to_be_bytes().to_vec()).collect();
        // the first byte spreads them: here the last one comes first
        let ids: Vec<Vec<u8>> = ids.into_iter().map(|id| id.into_iter().rev().collect()).collect();
        for id in &ids {
            one.put(id.clone(), vec![0]);
        }
        // the last bytes of a number are spread evenly, so each shard is full
        let (old, new) = ids.split_at(limits::TLS_SESSIONS);
        assert_eq!(old.iter().filter(|id| one.get(id).is_some()).count(), 0, "the oldest make room");
        assert_eq!(new.iter().filter(|id| one.get(id).is_none()).count(), 0, "the others stay");
    }

    #[test]
    fn a_session_that_was_taken_or_put_again_leaves_the_others_alone() {
        let mut shard = Shard::new(3);
        let key = |n: u8| -> Key { Box::new([n]) };
        for (n, session) in [(1, 10), (2, 20), (2, 21), (3, 30)] {
            shard.put(key(n), vec![session]);
        }
        assert_eq!(shard.take(&[3]), Some(vec![30]));
        assert_eq!(shard.take(&[3]), None);
        shard.put(key(4), vec![40]); // in the place of 2 as it was first, which is free
        assert_eq!([1, 2, 4].map(|n| shard.get(&[n])), [None, Some(vec![21]), Some(vec![40])]);
        (5..100).for_each(|n| shard.put(key(n), vec![n]));
        assert_eq!((shard.by_key.len(), shard.places.len()), (3, 3));
        assert_eq!([96, 97, 98, 99].map(|n| shard.get(&[n]).is_some()), [false, true, true, true]);
    }

    fn at<const S: u64>() -> u64 {
        S
    }

    fn tickets(secret: &[u8], policy: u8, unix_s: fn() -> u64) -> Tickets {
        Tickets { secret: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, secret)), policy: [policy; 32], unix_s }
    }

    #[test]
    fn a_ticket_opens_for_its_policy_until_its_key_is_gone() {
        const DAY: u64 = limits::TLS_TICKET_KEY_S;
        let ticket = tickets(b"secret", 1, at::<{ 10 * DAY }>).encrypt(b"session").unwrap();
        let opened = |secret: &[u8], policy, unix_s| tickets(secret, policy, unix_s).decrypt(&ticket);
        assert_eq!(opened(b"secret", 1, at::<{ 10 * DAY + 5 }>).as_deref(), Some(&b"session"[..]));
        assert_eq!(opened(b"secret", 1, at::<{ 11 * DAY }>).as_deref(), Some(&b"session"[..]));
        assert_eq!(opened(b"secret", 1, at::<{ 12 * DAY }>), None, "its key has been rotated out");
        assert_eq!(opened(b"secret", 1, at::<{ 9 * DAY }>), None, "it comes from the future");
        assert_eq!(opened(b"secret", 2, at::<{ 10 * DAY }>), None, "another policy");
        assert_eq!(opened(b"other", 1, at::<{ 10 * DAY }>), None, "another process");
    }

    #[test]
    fn a_broken_ticket_is_no_ticket() {
        let tickets = tickets(b"secret", 1, at::<0>);
        let ticket = tickets.encrypt(b"session").unwrap();
        for end in 0..ticket.len() {
            assert_eq!(tickets.decrypt(&ticket[..end]), None);
            let mut broken = ticket.clone();
            broken[end] ^= 1;
            assert_eq!(tickets.decrypt(&broken), None);
        }
    }
}

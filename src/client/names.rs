//! Addresses of names, as control resolved them for this core.
//!
//! Names in upstream objects are resolved because control sees the objects. Names that only a plugin knows are
//! asked for by the core that meets them first; from then on control keeps them fresh like the others, as long as
//! the process runs.

use std::cell::RefCell;
use std::net::IpAddr;

use ahash::{AHashMap, AHashSet};
use smallvec::SmallVec;

use crate::{limits, reactor};

/// Addresses of one name; none where it does not exist.
pub type Addresses = SmallVec<[IpAddr; 2]>;

/// What one core knows of names.
pub struct Names {
    known: RefCell<AHashMap<Box<str>, Addresses>>,
    asked: RefCell<AHashSet<Box<str>>>,
    /// Tells control that a name is wanted; false if its queue is full.
    ask: Box<dyn Fn(&str) -> bool>,
}

impl Names {
    /// Knows nothing yet. `ask` tells control that a name is wanted, and says whether that was possible.
    pub fn new(ask: impl Fn(&str) -> bool + 'static) -> Self {
        Names { known: RefCell::default(), asked: RefCell::default(), ask: Box::new(ask) }
    }

    /// What is known of a name.
    pub fn get(&self, name: &str) -> Option<Addresses> {
        self.known.borrow().get(name).cloned()
    }

    /// Control's answer.
    pub fn put(&self, name: &str, addresses: &[IpAddr]) {
        self.known.borrow_mut().insert(name.into(), addresses.into());
    }

    /// Asks for a name that no upstream object has. Addresses are not asked for, nor what was asked before.
    pub fn want(&self, host: &str) {
        if host.parse::<IpAddr>().is_ok() || self.asked.borrow().contains(host) {
            return;
        }
        if (self.ask)(host) {
            self.asked.borrow_mut().insert(host.into());
        }
    }

    /// The addresses of a host: its own if it is one, else those of its name, which is waited for until
    /// `until_ms` of the core's clock. Empty: there is none.
    pub async fn resolve(&self, host: &str, until_ms: u64) -> Addresses {
        if let Ok(ip) = host.parse() {
            return SmallVec::from_elem(ip, 1);
        }
        loop {
            if let Some(addresses) = self.get(host) {
                return addresses;
            }
            self.want(host);
            if reactor::now_ms() >= until_ms {
                return Addresses::new();
            }
            reactor::sleep(limits::NAME_TICK_MS).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[test]
    fn a_name_is_asked_for_once_and_an_address_never() {
        let asked = Rc::new(RefCell::new(Vec::new()));
        let heard = asked.clone();
        let names = Names::new(move |name| {
            heard.borrow_mut().push(name.to_owned());
            heard.borrow().len() > 1 // the first time the queue is full
        });
        for host in ["a.com", "127.0.0.1", "a.com", "a.com", "::1"] {
            names.want(host);
        }
        assert_eq!(*asked.borrow(), ["a.com", "a.com"]);
        assert_eq!(names.get("a.com"), None);
        names.put("a.com", &[IpAddr::from([10, 0, 0, 1])]);
        assert_eq!(names.get("a.com").unwrap().as_slice(), [IpAddr::from([10, 0, 0, 1])]);
    }
}

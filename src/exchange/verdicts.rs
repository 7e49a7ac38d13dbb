//! What the `_meta.filter`s of an exchange's plugins have said: each is asked once (APISIX plugin.lua `meta_filter`), for
//! what it looks at may be changed by its own plugin.

use smallvec::SmallVec;

use crate::limits;

/// Verdicts by the number of a plugin's state ([`super::Exchange::slots`]). Nothing is allocated while neither chain of
/// the exchange has more than 64 plugins.
#[derive(Debug, Default)]
pub struct Verdicts(SmallVec<[Asked; 2]>);

/// 64 plugins of one chain. Those of the route's are at even places, those of the global rules' at odd ones.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    asked: u64,
    holds: u64,
}

impl Verdicts {
    /// What the filter of this plugin has said, if it was asked.
    pub fn get(&self, slot: u16) -> Option<bool> {
        let (at, bit) = place(slot);
        let asked = self.0.get(at).filter(|asked| asked.asked & bit != 0)?;
        Some(asked.holds & bit != 0)
    }

    /// Keeps what it has said.
    pub fn set(&mut self, slot: u16, holds: bool) {
        let (at, bit) = place(slot);
        if self.0.len() <= at {
            self.0.resize(at + 1, Asked::default());
        }
        self.0[at].asked |= bit;
        if holds {
            self.0[at].holds |= bit;
        }
    }

    /// A consumer is found, and its plugins join the route's: their filters are asked anew, even where it brings none
    /// (plugin.lua `merge_consumer_route` gives the configuration another version).
    pub fn forget_route(&mut self) {
        self.0.iter_mut().step_by(2).for_each(|asked| *asked = Asked::default());
    }

    /// For another request.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

fn place(slot: u16) -> (usize, u64) {
    let at = slot % limits::GLOBAL_SLOTS;
    let chain = u16::from(slot >= limits::GLOBAL_SLOTS);
    (usize::from(at / 64 * 2 + chain), 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_has_the_route_asked_anew_but_not_the_global_rules() {
        let mut verdicts = Verdicts::default();
        let slots = [0, 63, 64, 255].map(|at| [at, limits::GLOBAL_SLOTS + at]).concat();
        for (n, slot) in slots.iter().enumerate() {
            assert_eq!(verdicts.get(*slot), None, "{slot}");
            verdicts.set(*slot, n % 3 == 0);
        }
        for (n, slot) in slots.iter().enumerate() {
            assert_eq!(verdicts.get(*slot), Some(n % 3 == 0), "{slot}");
        }
        verdicts.forget_route();
        for (n, slot) in slots.iter().enumerate() {
            let kept = (*slot >= limits::GLOBAL_SLOTS).then_some(n % 3 == 0);
            assert_eq!(verdicts.get(*slot), kept, "{slot}");
        }
        verdicts.clear();
        assert_eq!(slots.iter().find_map(|slot| verdicts.get(*slot)), None);
    }

    #[test]
    fn chains_of_64_plugins_allocate_nothing() {
        let mut verdicts = Verdicts::default();
        verdicts.set(63, true);
        verdicts.set(limits::GLOBAL_SLOTS + 63, true);
        assert!(!verdicts.0.spilled());
    }
}

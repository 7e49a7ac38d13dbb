//! A hierarchical timer wheel with ticks of one millisecond. Pure: the time is an argument.
//!
//! Six levels of 64 slots; level `n` has slots of 64^n ms, so that an insertion, a removal and a step are O(1)
//! and an entry moves down at most five times in its life (Varghese & Lauck, "Hashed and Hierarchical Timing
//! Wheels", 1987). The place of an entry follows from the highest bit in which its time differs from now.

const LEVELS: usize = 6;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// The furthest placement: 63 slots of the top level, two years. A later entry is put there and placed again
/// when that slot begins. (Not 64: the slot that we are in must not stand for the next round too.)
const HORIZON_MS: u64 = (SLOTS as u64 - 1) << (SLOT_BITS * (LEVELS as u32 - 1));
const NONE: u32 = u32::MAX;

/// Names one entry; stale after the entry fired or was removed, and then harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    index: u32,
    generation: u32,
}

struct Entry<T> {
    at_ms: u64,
    value: Option<T>, // None: free
    generation: u32,
    place: (u8, u8),
    prev: u32,
    next: u32, // of a free entry: the next free one
}

/// Values with the times at which they are due.
pub struct Wheel<T> {
    entries: Vec<Entry<T>>,
    free: u32,
    heads: [[u32; SLOTS]; LEVELS],
    occupied: [u64; LEVELS],
    now_ms: u64,
    len: usize,
}

impl<T> Default for Wheel<T> {
    fn default() -> Self {
        Wheel {
            entries: Vec::new(),
            free: NONE,
            heads: [[NONE; SLOTS]; LEVELS],
            occupied: [0; LEVELS],
            now_ms: 0,
            len: 0,
        }
    }
}

impl<T> Wheel<T> {
    /// Entries that have neither fired nor been removed.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when nothing is pending.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a value that is due at `at_ms`; a time that has passed is due one millisecond after the last
    /// [`Wheel::expire`].
    pub fn insert(&mut self, at_ms: u64, value: T) -> Key {
        let index = if self.free == NONE {
            self.entries.push(Entry {
                at_ms,
                value: Some(value),
                generation: 0,
                place: (0, 0),
                prev: NONE,
                next: NONE,
            });
            (self.entries.len() - 1) as u32
        } else {
            let index = self.free;
            let entry = &mut self.entries[index as usize];
            self.free = entry.next;
            entry.at_ms = at_ms;
            entry.value = Some(value);
            index
        };
        self.len += 1;
        self.link(index);
        Key { index, generation: self.entries[index as usize].generation }
    }

    /// Takes an entry out before its time.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let entry = self.entries.get(key.index as usize)?;
        if entry.generation != key.generation || entry.value.is_none() {
            return None;
        }
        self.unlink(key.index);
        self.release(key.index)
    }

    /// The value of a pending entry.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.index as usize)?;
        if entry.generation == key.generation { entry.value.as_mut() } else { None }
    }

    /// The time at which [`Wheel::expire`] has something to do: never later than the first entry's time,
    /// sometimes earlier (when entries must move down a level).
    pub fn next_ms(&self) -> Option<u64> {
        self.next_slot().map(|(_, _, at_ms)| at_ms)
    }

    /// Moves on to `now_ms` and hands over all that has become due by then. `due` may not touch the wheel.
    pub fn expire(&mut self, now_ms: u64, mut due: impl FnMut(T)) {
        while let Some((level, slot, at_ms)) = self.next_slot() {
            if at_ms > now_ms {
                break;
            }
            self.now_ms = self.now_ms.max(at_ms);
            let mut index = std::mem::replace(&mut self.heads[level][slot], NONE);
            self.occupied[level] &= !(1 << slot);
            while index != NONE {
                let entry = &self.entries[index as usize];
                let next = entry.next;
                if entry.at_ms <= self.now_ms {
                    if let Some(value) = self.release(index) {
                        due(value);
                    }
                } else {
                    self.link(index);
                }
                index = next;
            }
        }
        self.now_ms = self.now_ms.max(now_ms);
    }

    /// The first occupied slot and the time at which it begins.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        // Lower levels are always due before higher ones, because a placement shares all higher digits with now.
        let level = self.occupied.iter().position(|bits| *bits != 0)?;
        let shift = SLOT_BITS * level as u32;
        let here = (self.now_ms >> shift) as u32 & (SLOTS as u32 - 1);
        let ahead = self.occupied[level].rotate_right(here).trailing_zeros();
        let slot = (here + ahead) as usize % SLOTS;
        let begin = ((self.now_ms >> shift) + u64::from(ahead)) << shift;
        Some((level, slot, begin))
    }

    fn link(&mut self, index: u32) {
        let entry = &self.entries[index as usize];
        let at_ms = entry.at_ms.clamp(self.now_ms + 1, self.now_ms + HORIZON_MS);
        let differing = (self.now_ms ^ at_ms) | (SLOTS as u64 - 1);
        let level = ((63 - differing.leading_zeros()) / SLOT_BITS).min(LEVELS as u32 - 1);
        let slot = (at_ms >> (SLOT_BITS * level)) as usize % SLOTS;
        let level = level as usize;
        let head = std::mem::replace(&mut self.heads[level][slot], index);
        self.occupied[level] |= 1 << slot;
        if head != NONE {
            self.entries[head as usize].prev = index;
        }
        let entry = &mut self.entries[index as usize];
        entry.place = (level as u8, slot as u8);
        entry.prev = NONE;
        entry.next = head;
    }

    fn unlink(&mut self, index: u32) {
        let Entry { prev, next, place: (level, slot), .. } = self.entries[index as usize];
        let (level, slot) = (level as usize, slot as usize);
        if next != NONE {
            self.entries[next as usize].prev = prev;
        }
        if prev != NONE {
            self.entries[prev as usize].next = next;
        } else {
            self.heads[level][slot] = next;
            if next == NONE {
                self.occupied[level] &= !(1 << slot);
            }
        }
    }

    fn release(&mut self, index: u32) -> Option<T> {
        let entry = &mut self.entries[index as usize];
        entry.generation = entry.generation.wrapping_add(1);
        entry.next = self.free;
        self.free = index;
        self.len -= 1;
        entry.value.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expired(wheel: &mut Wheel<u64>, now_ms: u64) -> Vec<u64> {
        let mut due = Vec::new();
        wheel.expire(now_ms, |value| due.push(value));
        due
    }

    #[test]
    fn fires_at_its_millisecond_and_never_before() {
        for at_ms in
            [1, 63, 64, 65, 4095, 4096, 4097, 262_143, 262_144, 1 << 30, (1 << 36) + 5, (1 << 40) + 5]
        {
            let mut wheel = Wheel::default();
            wheel.insert(at_ms, at_ms);
            assert!(expired(&mut wheel, at_ms - 1).is_empty());
            assert_eq!(expired(&mut wheel, at_ms), [at_ms]);
            assert!(wheel.is_empty());
        }
    }

    #[test]
    fn sleeping_until_next_ms_reaches_every_entry() {
        let mut wheel = Wheel::default();
        let mut random = fastrand::Rng::with_seed(7);
        let mut expected = Vec::new();
        for _ in 0..5000 {
            let at_ms = 1 + (random.u64(..) >> random.u32(28..62));
            wheel.insert(at_ms, at_ms);
            expected.push(at_ms);
        }
        expected.sort_unstable();
        let (mut fired, mut steps) = (Vec::new(), 0);
        while let Some(next) = wheel.next_ms() {
            wheel.expire(next, |at_ms| {
                assert_eq!(at_ms, next, "an entry fired at another time than its own");
                fired.push(at_ms);
            });
            steps += 1;
        }
        assert_eq!(fired, expected);
        assert!(steps < 5000 * LEVELS, "{steps} steps");
    }

    #[test]
    fn a_removed_entry_does_not_fire_and_its_key_is_stale() {
        let mut wheel = Wheel::default();
        let keys: Vec<Key> = (1..=10).map(|at_ms| wheel.insert(100, at_ms)).collect();
        assert_eq!(wheel.remove(keys[0]), Some(1));
        assert_eq!(wheel.remove(keys[9]), Some(10));
        assert_eq!(wheel.remove(keys[4]), Some(5));
        assert_eq!(wheel.remove(keys[4]), None);
        let again = wheel.insert(100, 11);
        assert_eq!(wheel.get_mut(keys[4]), None);
        assert_eq!(wheel.get_mut(again), Some(&mut 11));
        let mut due = expired(&mut wheel, 100);
        due.sort_unstable();
        assert_eq!(due, [2, 3, 4, 6, 7, 8, 9, 11]);
        assert_eq!(wheel.remove(again), None);
    }

    #[test]
    fn a_past_time_is_due_at_the_next_tick() {
        let mut wheel = Wheel::default();
        assert!(expired(&mut wheel, 1000).is_empty());
        wheel.insert(10, 1);
        assert_eq!(wheel.next_ms(), Some(1001));
        assert_eq!(expired(&mut wheel, 1001), [1]);
    }
}

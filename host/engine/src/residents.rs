//! What a lane holds in memory of its keys, in front of the store.
//!
//! An entry may leave once the store has it as it is: it has not changed since a barrier, and that epoch is
//! committed. Which ones leave is decided by a hand that goes around: one that was used since it last came
//! by gets a second chance. That it came counts for no use, nor what follows in the same epoch: keys that
//! come once in a long while don't drive out those that come often. What leaves changes no result: it is read
//! back when it is asked for.

use hashbrown::HashTable;
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use crate::key::group_of_hash;
use crate::state::Epoch;

/// A key's place in memory. A place is used again once its key is gone.
pub(crate) type Place = u32;

/// A bound that is none: nothing ever leaves.
pub(crate) const UNBOUNDED: usize = usize::MAX;

/// What every resident key has.
#[derive(Default)]
pub(crate) struct Head {
    /// Most keys are short: in place they cost no other look at the memory.
    pub key: SmallVec<[u8; 16]>,
    pub group: u16,
    /// Whether a barrier is to store it.
    dirty: bool,
    /// Whether it was used since the hand came by, in a later epoch than the one it came in.
    used: bool,
    /// Whether it is a key at all; else the place is free.
    is_here: bool,
    /// What it was counted with when it was last looked at.
    bytes: u32,
    /// The epoch that stored it last.
    epoch: Epoch,
}

/// A resident key with what belongs to it.
pub(crate) trait Resident: Default {
    fn head(&self) -> &Head;
    fn head_mut(&mut self) -> &mut Head;
    /// What it takes beside itself and its key, in bytes.
    fn heap_bytes(&self) -> usize;
    /// Whether it may leave, as far as it knows itself.
    fn may_leave(&self) -> bool;
}

/// The keys of a lane that are in memory.
pub(crate) struct Residents<T> {
    key_groups: u16,
    index: HashTable<Place>,
    entries: Vec<T>,
    free: Vec<Place>,
    dirty: Vec<Place>,
    /// About what the dirty ones will be in a delta.
    dirty_bytes: usize,
    bytes: usize,
    bytes_max: usize,
    hand: usize,
    /// How many came since room was last made.
    came: usize,
    committed: Epoch,
}

/// What an entry costs beside itself: its place in the index.
const INDEX_BYTES: usize = 8;
/// What the allocator adds to a key, on average.
const ALLOCATION_BYTES: usize = 12;
/// What a change costs in a delta beside its key and value.
pub(crate) const CHANGE_BYTES: usize = 64;
/// How many keys are read back at a start, before they are asked for.
const RESTORED_MAX: usize = 65_536;
/// How many entries the hand looks at for each that came: with two it would make as much room as was taken,
/// where all are used.
const LOOKS: usize = 4;

impl<T: Resident> Residents<T> {
    /// None yet, and at most about so many bytes of them.
    pub fn new(key_groups: u16, bytes_max: usize) -> Self {
        Self {
            key_groups,
            index: HashTable::new(),
            entries: Vec::new(),
            free: Vec::new(),
            dirty: Vec::new(),
            dirty_bytes: 0,
            bytes: 0,
            bytes_max,
            hand: 0,
            came: 0,
            committed: 0,
        }
    }

    pub fn at(&self, place: Place) -> &T {
        &self.entries[place as usize]
    }

    pub fn at_mut(&mut self, place: Place) -> &mut T {
        &mut self.entries[place as usize]
    }

    /// The key's place, if it is here; `hint` is where it was.
    pub fn find(&self, key: &[u8], hint: Option<Place>) -> Option<Place> {
        // The empty key may also be that of a place that is free.
        if let Some(place) = hint.filter(|p| !key.is_empty() && *self.at(*p).head().key == *key) {
            return Some(place);
        }
        self.index.find(xxh3_64(key), |p| *self.at(*p).head().key == *key).copied()
    }

    /// The key's place, made where it has none; `hint` is where it was.
    pub fn place(&mut self, key: &[u8], hint: Option<Place>) -> Place {
        if let Some(place) = self.find(key, hint) {
            return place;
        }
        let hash = xxh3_64(key);
        let mut entry = T::default();
        let group = group_of_hash(hash, self.key_groups);
        *entry.head_mut() = Head { key: SmallVec::from_slice(key), group, is_here: true, ..Head::default() };
        let place = match self.free.pop() {
            Some(place) => {
                self.entries[place as usize] = entry;
                place
            }
            None => {
                self.entries.push(entry);
                // A lane with 2^32 keys has long been out of memory.
                Place::try_from(self.entries.len() - 1).unwrap_or(Place::MAX)
            }
        };
        let entries = &self.entries;
        self.index.insert_unique(hash, place, |p| xxh3_64(&entries[*p as usize].head().key));
        self.came += 1;
        self.count(place);
        place
    }

    /// The group of a key, here or not.
    pub fn group(&self, key: &[u8]) -> u16 {
        group_of_hash(xxh3_64(key), self.key_groups)
    }

    /// Notes that a key has changed, by so many bytes of value.
    pub fn mark_dirty(&mut self, place: Place, value_bytes: usize) {
        let head = self.entries[place as usize].head_mut();
        if !head.dirty {
            head.used = head.epoch > 0;
            head.dirty = true;
            self.dirty_bytes += head.key.len() + value_bytes + CHANGE_BYTES;
            self.dirty.push(place);
        }
    }

    /// The keys that have changed since the last call, which this epoch stores.
    pub fn take_dirty(&mut self, epoch: Epoch) -> Vec<Place> {
        self.dirty_bytes = 0;
        let mut dirty = std::mem::take(&mut self.dirty);
        // A place may stand here for a key that is gone.
        dirty.retain(|place| {
            let head = self.entries[*place as usize].head_mut();
            head.epoch = if head.dirty { epoch } else { head.epoch };
            std::mem::take(&mut head.dirty)
        });
        dirty.iter().for_each(|place| self.count(*place));
        dirty
    }

    /// About what a delta of now would hold, in bytes.
    pub fn dirty_bytes(&self) -> usize {
        self.dirty_bytes
    }

    /// Counts again what a key takes.
    pub fn count(&mut self, place: Place) {
        if self.bytes_max == UNBOUNDED {
            return;
        }
        let entry = &mut self.entries[place as usize];
        let key = &entry.head().key;
        let key_bytes = if key.spilled() { key.len() + ALLOCATION_BYTES } else { 0 };
        let now = size_of::<T>() + INDEX_BYTES + key_bytes + entry.heap_bytes();
        let now = u32::try_from(now).unwrap_or(u32::MAX);
        let before = std::mem::replace(&mut entry.head_mut().bytes, now);
        self.bytes = (self.bytes + now as usize).saturating_sub(before as usize);
    }

    /// Forgets a key.
    pub fn remove(&mut self, place: Place) -> T {
        let hash = xxh3_64(&self.at(place).head().key);
        if let Ok(entry) = self.index.find_entry(hash, |p| *p == place) {
            entry.remove();
            self.free.push(place);
        }
        let entry = std::mem::take(&mut self.entries[place as usize]);
        self.bytes = self.bytes.saturating_sub(entry.head().bytes as usize);
        entry
    }

    /// An epoch is in the store.
    pub fn committed(&mut self, epoch: Epoch) {
        self.committed = epoch;
    }

    /// Whether keys may leave at all.
    pub fn is_bounded(&self) -> bool {
        self.bytes_max != UNBOUNDED
    }

    /// Whether one more may be read back at a start: not so many that the first message waits long for them,
    /// and with room left for what is new.
    pub fn may_restore(&self) -> bool {
        !self.is_bounded() || (self.bytes < self.bytes_max / 2 && self.index.len() < RESTORED_MAX)
    }

    /// All that are here.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().filter(|entry| entry.head().is_here)
    }

    /// Has keys leave until the rest are within the bound, as far as they may; looks at a number of keys that
    /// follows from how many have come.
    pub fn make_room(&mut self, mut left: impl FnMut(T)) {
        let mut looks = LOOKS * (std::mem::take(&mut self.came) + 1);
        while looks > 0 && self.bytes > self.bytes_max && !self.index.is_empty() {
            self.hand = if self.hand + 1 < self.entries.len() { self.hand + 1 } else { 0 };
            let entry = &mut self.entries[self.hand];
            let may_leave = entry.may_leave();
            let head = entry.head_mut();
            if !head.is_here {
                // Of these there are no more than once had to wait for their commit.
                continue;
            }
            looks -= 1;
            if head.dirty || head.epoch > self.committed || !may_leave {
                continue;
            }
            if std::mem::take(&mut head.used) {
                continue;
            }
            left(self.remove(Place::try_from(self.hand).unwrap_or(Place::MAX)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Number {
        head: Head,
        value: Vec<u8>,
        pinned: bool,
    }

    impl Resident for Number {
        fn head(&self) -> &Head {
            &self.head
        }
        fn head_mut(&mut self) -> &mut Head {
            &mut self.head
        }
        fn heap_bytes(&self) -> usize {
            self.value.len()
        }
        fn may_leave(&self) -> bool {
            !self.pinned
        }
    }

    const EACH: usize = size_of::<Number>() + INDEX_BYTES;

    fn of(n: u64) -> [u8; 8] {
        n.to_be_bytes()
    }

    /// Puts a key in, stored by this epoch.
    fn put(residents: &mut Residents<Number>, n: u64, epoch: Epoch) -> Place {
        let place = residents.place(&of(n), None);
        residents.mark_dirty(place, 0);
        assert_eq!(residents.take_dirty(epoch), [place]);
        place
    }

    #[test]
    fn what_is_not_committed_stays_and_all_else_leaves_until_there_is_room() {
        let mut residents = Residents::<Number>::new(8, 10 * EACH);
        let mut left = Vec::new();
        for n in 1..100 {
            put(&mut residents, n, n);
            residents.make_room(|gone| left.push(gone.head.key));
        }
        assert!(left.is_empty(), "nothing is committed");
        residents.committed(80);
        for n in 100..200 {
            put(&mut residents, n, n);
            residents.make_room(|gone| left.push(gone.head.key));
        }
        assert_eq!(left.len(), 80, "all of the epochs 1 to 80, and no other");
        assert!((1..=80).all(|n| residents.find(&of(n), None).is_none()));
        assert!((81..200).all(|n| residents.find(&of(n), None).is_some()));
        assert_eq!(residents.bytes, 119 * EACH);
        residents.committed(200);
        for n in 200..1_000 {
            put(&mut residents, n, n);
            residents.committed(n);
            residents.make_room(|gone| left.push(gone.head.key));
        }
        assert!(residents.bytes <= 10 * EACH, "{} bytes", residents.bytes);
        assert_eq!(left.len() + residents.index.len(), 999, "each is here or has left");
        assert!(residents.entries.len() < 250, "{} places", residents.entries.len());
    }

    #[test]
    fn what_is_used_or_pinned_stays() {
        let mut residents = Residents::<Number>::new(8, 10 * EACH);
        let pinned = put(&mut residents, 0, 1);
        residents.at_mut(pinned).pinned = true;
        for n in 2..1_000 {
            put(&mut residents, n, n);
            put(&mut residents, 1, n);
            residents.committed(n);
            residents.make_room(|gone| assert_ne!(*gone.head.key, of(1), "used since the hand came by"));
        }
        assert_eq!(residents.find(&of(0), None), Some(pinned));
    }

    #[test]
    fn a_place_of_a_key_that_is_gone_is_stored_by_nobody() {
        let mut residents = Residents::<Number>::new(8, 10 * EACH);
        let place = residents.place(b"a", None);
        residents.mark_dirty(place, 0);
        assert_eq!(*residents.remove(place).head.key, *b"a");
        assert_eq!(residents.place(b"b", Some(place)), place, "it is used again");
        assert!(residents.take_dirty(1).is_empty());
        assert_eq!(residents.find(b"a", Some(place)), None);
    }
}

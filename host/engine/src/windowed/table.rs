//! The open windows of a lane, or what they are put together of: by key, and by the ends at which
//! something is due.

use std::collections::{BTreeMap, HashSet};

use hashbrown::HashTable;
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use super::runs::Run;
use super::stored;
use crate::key::key_group;
use crate::state::{Change, Delta, StateKind, StateStore, StoreError, group_prefix, window_key};

/// A key's place in the table. A place is used again once its key has nothing left.
pub(super) type Place = u32;

/// No end at all.
pub(super) const NEVER: i64 = i64::MAX;
/// Not in the store.
pub(super) const NOT_STORED: i64 = i64::MIN;

/// A stretch of one key with an accumulator of its own: a pane, or a session.
#[derive(Debug, Clone, Default)]
pub(super) struct Part {
    /// Where it begins: the pane's start, the session's first message.
    pub start: i64,
    /// Where it ends: the pane's end, the session's last message and the gap.
    pub end: i64,
    /// What its messages fold to.
    pub accumulator: Vec<u8>,
    /// How many messages were folded in.
    pub count: u32,
    /// Which of the accumulators under way is its own, counted from 1.
    pub held: u32,
    /// Whether the store doesn't have it as it is.
    pub dirty: bool,
    /// Of a session: the end at which it is due; its true end may be later by now.
    pub due: i64,
    /// The end under which the store has, or will have, it.
    pub stored_end: i64,
    /// What windows need that go out before they close.
    pub changes: Option<Box<Changes>>,
}

/// When a part changed, and what went out of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// The stamp of its first message.
    pub born: i64,
    /// The stamp of its last message.
    pub touched: i64,
    /// Of a session: the windows that went out for it and are not taken back.
    pub shown: Vec<Shown>,
}

/// A window that went out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown {
    pub start: i64,
    pub end: i64,
    pub revision: u32,
}

/// Everything of one key.
#[derive(Default)]
pub(super) struct Keyed {
    pub key: Box<[u8]>,
    /// By start; none overlaps another.
    pub parts: SmallVec<[Part; 1]>,
    /// The earliest end at which the key's windows are due, where one registration serves all.
    pub due: i64,
    /// Merged parts, kept from window to window.
    pub run: Option<Box<Run>>,
    /// Whether a message of it is being folded.
    pub in_segment: bool,
    /// Whether it has changed since the last tick.
    pub changed: bool,
    dirty: bool,
}

impl Keyed {
    /// The place of the part that begins there, or where it would be.
    pub fn find(&self, start: i64) -> Result<usize, usize> {
        match self.parts.last() {
            Some(last) if last.start == start => Ok(self.parts.len() - 1),
            Some(last) if last.start < start => Err(self.parts.len()),
            _ => self.parts.binary_search_by_key(&start, |p| p.start),
        }
    }

    /// The parts that begin in [start, end).
    pub fn within(&self, start: i64, end: i64) -> &[Part] {
        let from = self.parts.partition_point(|p| p.start < start);
        let to = self.parts.partition_point(|p| p.start < end);
        &self.parts[from..to.max(from)]
    }
}

/// All keys of a lane.
pub(super) struct Table {
    stage: u16,
    key_groups: u16,
    /// Whether a part's end may change, and another part have that end then.
    ends_move: bool,
    index: HashTable<Place>,
    keys: Vec<Keyed>,
    free: Vec<Place>,
    /// Keys by the ends at which they are to be looked at; one may stand there in vain, or twice.
    due: BTreeMap<i64, Vec<Place>>,
    dirty: Vec<Place>,
    deleted: Vec<Vec<u8>>,
    parts: usize,
}

impl Table {
    pub fn new(stage: u16, key_groups: u16, ends_move: bool) -> Self {
        Self {
            stage,
            key_groups,
            ends_move,
            index: HashTable::new(),
            keys: Vec::new(),
            free: Vec::new(),
            due: BTreeMap::new(),
            dirty: Vec::new(),
            deleted: Vec::new(),
            parts: 0,
        }
    }

    /// The key's place, if it has one; `hint` is where it was.
    pub fn find(&self, key: &[u8], hint: Option<Place>) -> Option<Place> {
        // The empty key may also be that of a place that is free.
        if let Some(place) = hint.filter(|p| !key.is_empty() && *self.at(*p).key == *key) {
            return Some(place);
        }
        self.index.find(xxh3_64(key), |p| *self.at(*p).key == *key).copied()
    }

    /// Some number of the key's newest part, so that all of it is at hand.
    pub fn newest(&self, place: Place) -> u64 {
        let newest = self.at(place).parts.last();
        newest.map_or(0, |p| u64::from(p.held) + u64::from(p.accumulator.first().copied().unwrap_or(0)))
    }

    /// The key's place, made where it has none; `hint` is where it was.
    pub fn place(&mut self, key: &[u8], hint: Option<Place>) -> Place {
        if let Some(place) = self.find(key, hint) {
            return place;
        }
        let hash = xxh3_64(key);
        let keyed = Keyed { key: key.into(), due: NEVER, ..Keyed::default() };
        let place = match self.free.pop() {
            Some(place) => {
                self.keys[place as usize] = keyed;
                place
            }
            None => {
                self.keys.push(keyed);
                // A lane with 2^32 keys has long been out of memory.
                Place::try_from(self.keys.len() - 1).unwrap_or(Place::MAX)
            }
        };
        let keys = &self.keys;
        self.index.insert_unique(hash, place, |p| xxh3_64(&keys[*p as usize].key));
        place
    }

    pub fn at(&self, place: Place) -> &Keyed {
        &self.keys[place as usize]
    }

    pub fn at_mut(&mut self, place: Place) -> &mut Keyed {
        &mut self.keys[place as usize]
    }

    pub fn part(&mut self, place: Place, part: usize) -> &mut Part {
        &mut self.keys[place as usize].parts[part]
    }

    pub fn insert(&mut self, place: Place, at: usize, part: Part) {
        self.parts += 1;
        self.at_mut(place).parts.insert(at, part);
    }

    /// Takes a part away, from the store too.
    pub fn remove(&mut self, place: Place, at: usize) -> Part {
        self.parts -= 1;
        let part = self.at_mut(place).parts.remove(at);
        if part.stored_end != NOT_STORED {
            self.delete_stored(place, part.stored_end);
        }
        part
    }

    fn delete_stored(&mut self, place: Place, end: i64) {
        let key = &self.at(place).key;
        let stored = window_key(self.stage, key_group(key, self.key_groups), end, key);
        self.deleted.push(stored);
    }

    /// Forgets a key that has nothing left.
    pub fn tidy(&mut self, place: Place) {
        let keyed = &self.keys[place as usize];
        if !keyed.parts.is_empty() {
            return;
        }
        let hash = xxh3_64(&keyed.key);
        if let Ok(entry) = self.index.find_entry(hash, |p| *p == place) {
            entry.remove();
            self.keys[place as usize] = Keyed::default();
            self.free.push(place);
        }
    }

    /// Has the key looked at when that end is over.
    pub fn register(&mut self, end: i64, place: Place) {
        self.due.entry(end).or_default().push(place);
    }

    /// The earliest end at which something is due.
    pub fn first_due(&self) -> i64 {
        self.due.first_key_value().map_or(NEVER, |(end, _)| *end)
    }

    /// The keys that are due at the earliest end, each once, by key.
    pub fn take_due(&mut self) -> Vec<Place> {
        let Some((_, places)) = self.due.pop_first() else { return Vec::new() };
        self.sorted(places)
    }

    /// Each place once, by key; those with nothing left are gone.
    pub fn sorted(&self, places: Vec<Place>) -> Vec<Place> {
        // The first bytes beside the place: most comparisons need no look at the key itself.
        let mut by_key: Vec<(u64, Place)> = places
            .into_iter()
            .filter(|p| !self.at(*p).parts.is_empty())
            .map(|p| (first_bytes(&self.at(p).key), p))
            .collect();
        by_key.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| self.at(a.1).key.cmp(&self.at(b.1).key)));
        by_key.dedup();
        by_key.into_iter().map(|(_, place)| place).collect()
    }

    /// Notes that a part is to be stored.
    pub fn mark_dirty(&mut self, place: Place, part: usize) {
        let keyed = &mut self.keys[place as usize];
        keyed.parts[part].dirty = true;
        if !keyed.dirty {
            keyed.dirty = true;
            self.dirty.push(place);
        }
    }

    /// How many panes or sessions are open.
    pub fn len(&self) -> usize {
        self.parts
    }

    /// What has changed since the last call.
    pub fn take_delta(&mut self, delta: &mut Delta) {
        let mut written = Vec::new();
        for place in std::mem::take(&mut self.dirty) {
            let (stage, group) = (self.stage, key_group(&self.at(place).key, self.key_groups));
            let keyed = &mut self.keys[place as usize];
            keyed.dirty = false;
            for part in keyed.parts.iter_mut().filter(|p| p.dirty) {
                part.dirty = false;
                if part.stored_end != NOT_STORED && part.stored_end != part.end {
                    self.deleted.push(window_key(stage, group, part.stored_end, &keyed.key));
                }
                part.stored_end = part.end;
                let key = window_key(stage, group, part.end, &keyed.key);
                written.push(Change { key, value: Some(stored::write(part)), share: None });
            }
        }
        let mut deleted = std::mem::take(&mut self.deleted);
        if self.ends_move {
            // What is written to an end that another part left counts.
            let kept: HashSet<&[u8]> = written.iter().map(|c| c.key.as_slice()).collect();
            deleted.retain(|key| !kept.contains(key.as_slice()));
            deleted.sort_unstable();
            deleted.dedup();
        }
        delta.changes.extend(deleted.into_iter().map(|key| Change { key, value: None, share: None }));
        delta.changes.append(&mut written);
    }

    /// Reads a key group back; `each` is told of every part.
    pub fn restore(
        &mut self,
        store: &dyn StateStore,
        group: u16,
        stage_name: &str,
        mut each: impl FnMut(&mut Self, Place, usize),
    ) -> Result<(), StoreError> {
        let prefix = group_prefix(StateKind::Window, self.stage, group);
        let mut damage = None;
        store.scan(&prefix, &mut |stored, value| {
            let found = stored.get(prefix.len()..).and_then(|s| s.split_first_chunk::<8>());
            let Some((end, key)) = found else {
                damage = Some("a window's key is too short");
                return;
            };
            let Some(part) = stored::read(i64::from_be_bytes(*end), value) else {
                damage = Some("a window's value can't be read");
                return;
            };
            let place = self.place(key, None);
            let at = self.at(place).find(part.start).unwrap_or_else(|at| at);
            self.insert(place, at, part);
            each(self, place, at);
        })?;
        let what = || format!("the state of the stage `{stage_name}`");
        damage.map_or(Ok(()), |cause| Err(StoreError::Corrupt { what: what(), cause: cause.to_owned() }))
    }
}

/// The first eight bytes of a key, as a number that sorts alike.
fn first_bytes(key: &[u8]) -> u64 {
    let mut first = [0; 8];
    let n = key.len().min(8);
    first[..n].copy_from_slice(&key[..n]);
    u64::from_be_bytes(first)
}

//! The open windows of a lane, or what they are put together of: by key, and by the ends at which
//! something is due.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};
use std::iter::Peekable;
use std::ops::{ControlFlow, Range};
use std::vec::IntoIter;

use smallvec::SmallVec;

use super::evicted::{Due, Evicted, StoredPart};
use super::runs::Run;
use super::stored;
use crate::residents::{CHANGE_BYTES, Head, Resident, Residents};
use crate::state::{Change, Delta, Epoch, StateKind, StateStore, StoreError, group_prefix, window_key};
use crate::stored_key::PREFIX_BYTES;

pub(super) use crate::residents::Place;

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
pub(super) struct Keyed {
    head: Head,
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
}

impl Default for Keyed {
    fn default() -> Self {
        let (head, parts) = (Head::default(), SmallVec::new());
        Self { head, parts, due: NEVER, run: None, in_segment: false, changed: false }
    }
}

impl Resident for Keyed {
    fn head(&self) -> &Head {
        &self.head
    }
    fn head_mut(&mut self) -> &mut Head {
        &mut self.head
    }
    fn heap_bytes(&self) -> usize {
        let parts = if self.parts.spilled() { self.parts.capacity() * size_of::<Part>() } else { 0 };
        let of = |part: &Part| {
            part.accumulator.capacity() + part.changes.as_ref().map_or(0, |_| size_of::<Changes>())
        };
        parts + self.parts.iter().map(of).sum::<usize>()
    }
    fn may_leave(&self) -> bool {
        !self.in_segment && !self.changed
    }
}

impl Keyed {
    pub fn key(&self) -> &[u8] {
        &self.head.key
    }

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

/// What is due at an end.
pub(super) struct Closing {
    pub end: i64,
    /// The keys in memory, in the order in which they go out.
    pub places: Peekable<IntoIter<Place>>,
    /// Whether an earlier epoch had some of it.
    pub is_begun: bool,
    /// The last key that it had, where up to that one the store may still have what is gone.
    pub last: Option<Vec<u8>>,
}

/// The keys of a lane.
pub(super) struct Table {
    stage: u16,
    /// Whether a part's end may change, and another part have that end then.
    ends_move: bool,
    keys: Residents<Keyed>,
    /// Keys by the ends at which they are to be looked at; one may stand there in vain, or twice.
    due: BTreeMap<i64, Vec<Place>>,
    evicted: Evicted,
    /// What is left of an end for a later epoch. Until then no key leaves memory: its place stands here.
    put_off: Option<Closing>,
    deleted: Vec<Vec<u8>>,
    deleted_bytes: usize,
    /// How many parts were added since the last barrier, less those removed.
    opened: i64,
}

impl Table {
    /// A table of the key groups `groups` out of `key_groups`, with at most about so many bytes in memory.
    pub fn new(
        stage: u16,
        (groups, key_groups): (Range<u16>, u16),
        ends_move: bool,
        bytes_max: usize,
    ) -> Self {
        Self {
            stage,
            ends_move,
            keys: Residents::new(key_groups, bytes_max),
            due: BTreeMap::new(),
            evicted: Evicted::new(groups),
            put_off: None,
            deleted: Vec::new(),
            deleted_bytes: 0,
            opened: 0,
        }
    }

    /// The key's place, if it has one; `hint` is where it was.
    pub fn find(&self, key: &[u8], hint: Option<Place>) -> Option<Place> {
        self.keys.find(key, hint)
    }

    /// Some number of the key's newest part, so that all of it is at hand.
    pub fn newest(&self, place: Place) -> u64 {
        let newest = self.at(place).parts.last();
        newest.map_or(0, |p| u64::from(p.held) + u64::from(p.accumulator.first().copied().unwrap_or(0)))
    }

    /// The key's place, made where it has none; `hint` is where it was.
    pub fn place(&mut self, key: &[u8], hint: Option<Place>) -> Place {
        self.keys.place(key, hint)
    }

    pub fn at(&self, place: Place) -> &Keyed {
        self.keys.at(place)
    }

    pub fn at_mut(&mut self, place: Place) -> &mut Keyed {
        self.keys.at_mut(place)
    }

    pub fn part(&mut self, place: Place, part: usize) -> &mut Part {
        &mut self.at_mut(place).parts[part]
    }

    pub fn insert(&mut self, place: Place, at: usize, part: Part) {
        self.opened += 1;
        self.put_back(place, at, part);
    }

    /// As [`Table::insert`], of a part that was there before.
    fn put_back(&mut self, place: Place, at: usize, part: Part) {
        self.at_mut(place).parts.insert(at, part);
        self.keys.count(place);
    }

    /// Takes a part away, from the store too.
    pub fn remove(&mut self, place: Place, at: usize) -> Part {
        self.opened -= 1;
        let part = self.at_mut(place).parts.remove(at);
        if part.stored_end != NOT_STORED {
            let Head { key, group, .. } = self.at(place).head();
            let stored = window_key(self.stage, *group, part.stored_end, key);
            self.deleted_bytes += stored.len() + CHANGE_BYTES;
            self.deleted.push(stored);
        }
        part
    }

    /// Forgets a key that has nothing left.
    pub fn tidy(&mut self, place: Place) {
        if self.at(place).parts.is_empty() {
            self.keys.remove(place);
        }
    }

    /// Has the key looked at when that end is over.
    pub fn register(&mut self, end: i64, place: Place) {
        let keys = &self.keys;
        let places = self.due.entry(end).or_default();
        if places.len() == places.capacity() && keys.is_bounded() {
            // Before it grows: keys that left and came back stand here more than once.
            places.retain(|place| keys.at(*place).due == end);
            places.sort_unstable();
            places.dedup();
        }
        places.push(place);
    }

    /// The earliest end at which something is due.
    pub fn first_due(&self) -> i64 {
        let in_memory = self.due.first_key_value().map_or(NEVER, |(end, _)| *end);
        let put_off = self.put_off.as_ref().map_or(NEVER, |closing| closing.end);
        in_memory.min(put_off).min(self.evicted.first())
    }

    /// What is due at the earliest end: the keys in memory each once and by key, or what was put off.
    pub fn take_due(&mut self) -> Closing {
        let end = self.first_due();
        if let Some(closing) = self.put_off.take_if(|closing| closing.end == end) {
            return closing;
        }
        let places = self.due.remove(&end).unwrap_or_default();
        Closing { end, places: self.sorted(places).into_iter().peekable(), is_begun: false, last: None }
    }

    /// Leaves the rest of an end for a later epoch.
    pub fn put_off(&mut self, closing: Closing) {
        debug_assert!(self.put_off.is_none(), "what was put off comes first");
        self.put_off = Some(Closing { is_begun: true, ..closing });
    }

    /// Each place once, by key; those with nothing left are gone.
    pub fn sorted(&self, places: Vec<Place>) -> Vec<Place> {
        // The first bytes beside the place: most comparisons need no look at the key itself.
        let mut by_key: Vec<(u64, Place)> = places
            .into_iter()
            .filter(|p| !self.at(*p).parts.is_empty())
            .map(|p| (first_bytes(self.at(p).key()), p))
            .collect();
        by_key
            .sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| self.at(a.1).key().cmp(self.at(b.1).key())));
        by_key.dedup();
        by_key.into_iter().map(|(_, place)| place).collect()
    }

    /// Notes that a part is to be stored.
    pub fn mark_dirty(&mut self, place: Place, part: usize) {
        let part = &mut self.keys.at_mut(place).parts[part];
        part.dirty = true;
        let value_bytes = part.accumulator.len();
        self.keys.mark_dirty(place, value_bytes);
    }

    /// How many more parts there are than at the last call.
    pub fn take_opened(&mut self) -> i64 {
        std::mem::take(&mut self.opened)
    }

    /// About what a delta of now would hold, in bytes.
    pub fn changed_bytes(&self) -> usize {
        self.keys.dirty_bytes() + self.deleted_bytes
    }

    /// What has changed since the last call, which this epoch stores.
    pub fn take_delta(&mut self, epoch: Epoch, delta: &mut Delta) {
        let mut written = Vec::new();
        for place in self.keys.take_dirty(epoch) {
            let Keyed { head, parts, .. } = self.keys.at_mut(place);
            for part in parts.iter_mut().filter(|p| p.dirty) {
                part.dirty = false;
                if part.stored_end != NOT_STORED && part.stored_end != part.end {
                    self.deleted.push(window_key(self.stage, head.group, part.stored_end, &head.key));
                }
                part.stored_end = part.end;
                let key = window_key(self.stage, head.group, part.end, &head.key);
                written.push(Change { key, value: Some(stored::write(part)), share: None });
            }
        }
        self.deleted_bytes = 0;
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

    /// An epoch is in the store.
    pub fn committed(&mut self, epoch: Epoch) {
        self.keys.committed(epoch);
    }

    /// Has keys leave where the table is above its bound.
    pub fn make_room(&mut self) {
        if self.put_off.is_some() {
            return;
        }
        let evicted = &mut self.evicted;
        self.keys.make_room(|gone| {
            gone.parts.iter().for_each(|part| evicted.add(gone.head.group, part.end));
        });
    }

    /// Whether parts may be in the store alone.
    pub fn lacks_parts(&self) -> bool {
        !self.evicted.is_empty()
    }

    /// The stored key of a part, if it may be in the store while it isn't here.
    pub fn evicted_key(&self, key: &[u8], end: i64) -> Option<Vec<u8>> {
        let group = self.keys.group(key);
        self.evicted.may_hold(group, end).then(|| window_key(self.stage, group, end, key))
    }

    /// Brings parts back that left, those of them that are in the store; `each` is told of every one.
    pub fn bring_back(
        &mut self,
        store: &dyn StateStore,
        stored_keys: &[Vec<u8>],
        mut each: impl FnMut(&mut Self, Place, usize),
    ) -> Result<(), StoreError> {
        for (stored_key, value) in stored_keys.iter().zip(store.get_many(stored_keys)?) {
            let (Some(value), Some((end, key))) = (value, split_key(stored_key)) else { continue };
            let part = stored::read(end, &value).ok_or_else(|| stored::damaged(self.stage))?;
            let (place, at) = self.put_stored(key, part);
            each(self, place, at);
        }
        Ok(())
    }

    /// The next keys that are due at an end, up to so many, by key: those in memory among `places`, and those
    /// that `stored` brings back.
    pub fn take_due_of_both(
        &mut self,
        places: &mut Peekable<IntoIter<Place>>,
        stored: &mut Due<'_>,
        most: usize,
    ) -> Result<Vec<Place>, StoreError> {
        let mut taken = Vec::new();
        while taken.len() < most {
            let order = match (places.peek(), stored.key()) {
                (Some(here), Some(there)) => self.at(*here).key().cmp(there),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            if order != Ordering::Less {
                let there = stored.take()?;
                // What is in memory is what counts: it may be newer.
                if let Some(StoredPart { key, part }) = there.filter(|_| order == Ordering::Greater) {
                    let end = part.end;
                    let (place, _) = self.put_stored(&key, part);
                    self.at_mut(place).due = end;
                    taken.push(place);
                }
            }
            if order != Ordering::Greater {
                taken.extend(places.next());
            }
        }
        Ok(taken)
    }

    /// The stored parts with this end, behind the last key that is gone.
    pub fn stored_due<'a>(
        &self,
        store: &'a dyn StateStore,
        end: i64,
        last: Option<&[u8]>,
    ) -> Result<Due<'a>, StoreError> {
        Due::open(store, self.stage, &self.evicted, end, last)
    }

    /// All parts with ends up to this one are closed.
    pub fn closed(&mut self, store: &dyn StateStore, end: i64) -> Result<(), StoreError> {
        if self.evicted.first() <= end { self.evicted.close(store, self.stage, end) } else { Ok(()) }
    }

    fn put_stored(&mut self, key: &[u8], part: Part) -> (Place, usize) {
        let place = self.place(key, None);
        let at = self.at(place).find(part.start).unwrap_or_else(|at| at);
        self.put_back(place, at, part);
        (place, at)
    }

    /// Reads a key group back, as far as there is room; `each` is told of every part.
    pub fn restore(
        &mut self,
        store: &dyn StateStore,
        group: u16,
        stage_name: &str,
        mut each: impl FnMut(&mut Self, Place, usize),
    ) -> Result<(), StoreError> {
        let prefix = group_prefix(StateKind::Window, self.stage, group);
        let (mut damage, mut is_whole) = (None, true);
        let is_bounded = self.keys.is_bounded();
        let mut visit = |stored: &[u8], value: &[u8]| {
            if !self.keys.may_restore() {
                is_whole = false;
                return ControlFlow::Break(());
            }
            let Some((end, key)) = split_key(stored) else {
                damage = Some("a window's key is too short");
                return ControlFlow::Break(());
            };
            let Some(part) = stored::read(end, value) else {
                damage = Some("a window's value can't be read");
                return ControlFlow::Break(());
            };
            let (place, at) = self.put_stored(key, part);
            each(self, place, at);
            ControlFlow::Continue(())
        };
        if is_bounded {
            store.entries(&prefix, None, &mut visit)?;
        } else {
            store.scan(&prefix, &mut |stored, value| {
                let _ = visit(stored, value);
            })?;
        }
        if let Some(cause) = damage {
            let what = format!("the state of the stage `{stage_name}`");
            return Err(StoreError::Corrupt { what, cause: cause.to_owned() });
        }
        if is_whole { Ok(()) } else { self.evicted.add_stored(store, self.stage, group) }
    }

    /// How many parts are in memory.
    pub fn parts(&self) -> usize {
        self.keys.iter().map(|keyed| keyed.parts.len()).sum()
    }
}

/// The end and the key in a part's stored key.
fn split_key(stored: &[u8]) -> Option<(i64, &[u8])> {
    let (end, key) = stored.get(PREFIX_BYTES..)?.split_first_chunk::<8>()?;
    Some((i64::from_be_bytes(*end), key))
}

/// The first eight bytes of a key, as a number that sorts alike.
fn first_bytes(key: &[u8]) -> u64 {
    let mut first = [0; 8];
    let n = key.len().min(8);
    first[..n].copy_from_slice(&key[..n]);
    u64::from_be_bytes(first)
}

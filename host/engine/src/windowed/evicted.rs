//! Parts that are in the store alone: where they may be, and how they come back when their end is over.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::{ControlFlow, Range};

use super::stored;
use super::table::{NEVER, Part};
use crate::state::{StateKind, StateStore, StoreError, group_prefix, window_key};
use crate::stored_key::PREFIX_BYTES;

/// How many entries, and bytes of values, are read at once of a key group whose windows close.
const PAGE_ENTRIES_MAX: usize = 256;
const PAGE_BYTES_MAX: usize = 64 << 10;
/// Between an end and most of the keys behind it: a bound for them that needs no other entry.
const BEHIND_KEYS: [u8; 8] = [0xff; 8];

/// By key group: between which ends the store may hold parts that are not in memory. A few numbers, however
/// many parts there are; that an end lies between says nothing more than that one must look.
pub(super) struct Evicted {
    first_group: u16,
    groups: Vec<Option<(i64, i64)>>,
    /// The earliest of their ends.
    first: i64,
}

impl Evicted {
    /// None, of these key groups.
    pub fn new(groups: Range<u16>) -> Self {
        Self { first_group: groups.start, groups: vec![None; groups.len()], first: NEVER }
    }

    pub fn is_empty(&self) -> bool {
        self.first == NEVER
    }

    /// The earliest end of which there may be a part.
    pub fn first(&self) -> i64 {
        self.first
    }

    /// Whether there may be a part with this end.
    pub fn may_hold(&self, group: u16, end: i64) -> bool {
        let ends = self.groups.get(usize::from(group.wrapping_sub(self.first_group))).copied().flatten();
        ends.is_some_and(|(from, to)| (from..=to).contains(&end))
    }

    /// A part with this end has left.
    pub fn add(&mut self, group: u16, end: i64) {
        let ends = &mut self.groups[usize::from(group - self.first_group)];
        let (from, to) = ends.unwrap_or((end, end));
        *ends = Some((from.min(end), to.max(end)));
        self.first = self.first.min(end);
    }

    /// The groups that may have a part with this end.
    fn holding(&self, end: i64) -> Vec<u16> {
        let groups = (self.first_group..).take(self.groups.len());
        groups.filter(|group| self.may_hold(*group, end)).collect()
    }

    fn ends(&self, group: u16) -> Option<(i64, i64)> {
        self.groups[usize::from(group - self.first_group)]
    }

    fn set(&mut self, group: u16, ends: Option<(i64, i64)>) {
        self.groups[usize::from(group - self.first_group)] = ends;
        self.first = self.groups.iter().flatten().map(|(from, _)| *from).min().unwrap_or(NEVER);
    }

    /// Not all of a group's parts were read back, which are those of the store.
    pub fn add_stored(&mut self, store: &dyn StateStore, stage: u16, group: u16) -> Result<(), StoreError> {
        let Some(last) = store.last_key(&group_prefix(StateKind::Window, stage, group))? else {
            return Ok(());
        };
        // Negative ends come behind all others in the store.
        let to = end_of(&last).filter(|end| *end >= 0).unwrap_or(NEVER - 1);
        let from = first_stored(store, stage, group, i64::MIN)?;
        self.set(group, from.map(|from| (from, to)));
        Ok(())
    }

    /// All parts with ends up to this one are closed.
    pub fn close(&mut self, store: &dyn StateStore, stage: u16, end: i64) -> Result<(), StoreError> {
        for group in self.holding(end) {
            let Some((_, to)) = self.ends(group) else { continue };
            let from = if to > end { first_stored(store, stage, group, end + 1)? } else { None };
            self.set(group, from.filter(|from| *from <= to).map(|from| (from, to)));
        }
        Ok(())
    }
}

/// The earliest end at or behind this one that the store has a part of.
fn first_stored(
    store: &dyn StateStore,
    stage: u16,
    group: u16,
    from: i64,
) -> Result<Option<i64>, StoreError> {
    let prefix = group_prefix(StateKind::Window, stage, group);
    let behind = |end: i64| {
        // The first key of an end may be the empty one, so what is before it is the end before.
        let before = end.checked_sub(1)?;
        Some([prefix.as_slice(), &before.to_be_bytes(), &BEHIND_KEYS].concat())
    };
    let first = |after: Option<Vec<u8>>, from: i64| {
        let mut found = None;
        store.entries(&prefix, after.as_deref(), &mut |stored, _| {
            found = end_of(stored);
            if found.is_some_and(|end| end < from) {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        Ok(found.filter(|end| *end >= from))
    };
    if from < 0 {
        // In the store the negative ends come behind all others.
        let after = behind(from).unwrap_or_else(|| [prefix.as_slice(), &i64::MAX.to_be_bytes()].concat());
        if let Some(end) = first(Some(after), from)? {
            return Ok(Some(end));
        }
        return first(None, 0);
    }
    first(if from == 0 { None } else { behind(from) }, from)
}

fn end_of(stored: &[u8]) -> Option<i64> {
    let end = stored.get(PREFIX_BYTES..)?.first_chunk()?;
    Some(i64::from_be_bytes(*end))
}

/// A part that is in the store.
pub(super) struct StoredPart {
    pub key: Vec<u8>,
    pub part: Part,
}

/// The stored parts with one end of a lane's key groups, by key.
pub(super) struct Due<'a> {
    store: &'a dyn StateStore,
    stage: u16,
    end: i64,
    pages: Vec<Page>,
    /// The first key of each page.
    heap: BinaryHeap<Reverse<(Vec<u8>, usize)>>,
}

/// The next stored parts of one key group.
struct Page {
    group: u16,
    parts: VecDeque<StoredPart>,
    /// The last key that was read; none once nothing is behind it.
    last: Option<Vec<u8>>,
}

impl<'a> Due<'a> {
    pub fn open(
        store: &'a dyn StateStore,
        stage: u16,
        evicted: &Evicted,
        end: i64,
        last: Option<&[u8]>,
    ) -> Result<Self, StoreError> {
        let mut due = Self { store, stage, end, pages: Vec::new(), heap: BinaryHeap::new() };
        for (n, group) in evicted.holding(end).into_iter().enumerate() {
            let last = last.map(|key| window_key(stage, group, end, key));
            due.pages.push(Page { group, parts: VecDeque::new(), last });
            due.read(n)?;
        }
        Ok(due)
    }

    /// The key that comes next.
    pub fn key(&self) -> Option<&[u8]> {
        self.heap.peek().map(|Reverse((key, _))| key.as_slice())
    }

    /// Takes the part that comes next.
    pub fn take(&mut self) -> Result<Option<StoredPart>, StoreError> {
        let Some(Reverse((_, n))) = self.heap.pop() else { return Ok(None) };
        let taken = self.pages[n].parts.pop_front();
        match self.pages[n].parts.front() {
            Some(next) => self.heap.push(Reverse((next.key.clone(), n))),
            None if self.pages[n].last.is_some() => self.read(n)?,
            None => {}
        }
        Ok(taken)
    }

    /// Reads the next page of a group.
    fn read(&mut self, n: usize) -> Result<(), StoreError> {
        let page = &mut self.pages[n];
        let (mut bytes, mut damage, end) = (0, false, self.end);
        let prefix = window_key(self.stage, page.group, end, b"");
        let after = page.last.take();
        self.store.entries(&prefix, after.as_deref(), &mut |stored_key, value| {
            let Some(part) = stored::read(end, value) else {
                damage = true;
                return ControlFlow::Break(());
            };
            page.parts.push_back(StoredPart { key: stored_key[prefix.len()..].to_vec(), part });
            bytes += value.len();
            if page.parts.len() < PAGE_ENTRIES_MAX && bytes < PAGE_BYTES_MAX {
                return ControlFlow::Continue(());
            }
            page.last = Some(stored_key.to_vec());
            ControlFlow::Break(())
        })?;
        if damage {
            return Err(stored::damaged(self.stage));
        }
        if let Some(next) = page.parts.front() {
            self.heap.push(Reverse((next.key.clone(), n)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_store::Entries;

    fn ends(ends: &[(u16, i64, &[u8])]) -> Entries {
        let value = stored::write(&Part { start: 0, end: 0, ..Part::default() });
        let entry = |(group, end, key): &(u16, i64, &[u8])| (window_key(3, *group, *end, key), value.clone());
        Entries { all: ends.iter().map(entry).collect(), ..Entries::default() }
    }

    #[test]
    fn ends_are_found_in_their_order_whatever_their_sign() {
        let odd = [0xff; 20];
        let store = ends(&[
            (0, 900, b"x"),
            (1, -20, b"a"),
            (1, -20, &odd),
            (1, -1, b""),
            (1, 0, b""),
            (1, 40, b"b"),
            (1, 40, &odd),
            (1, 70, b""),
            (2, 5, b"y"),
        ]);
        let mut found = Vec::new();
        let mut from = i64::MIN;
        while let Some(end) = first_stored(&store, 3, 1, from).expect("a store that answers") {
            found.push(end);
            from = end + 1;
        }
        assert_eq!(found, [-20, -1, 0, 40, 70]);
    }

    #[test]
    fn what_is_due_comes_by_key_from_all_groups_and_then_the_next_end_is_known() {
        let names: Vec<String> = (0..2_000).map(|n| format!("{n:04}")).collect();
        let mut all: Vec<(u16, i64, &[u8])> = Vec::new();
        for (n, name) in (0u16..).zip(&names) {
            all.push((4 + n % 3, 60, name.as_bytes()));
        }
        all.extend([(4, 50, b"before".as_slice()), (5, 90, b"behind"), (7, 60, b"another lane's")]);
        let store = ends(&all);
        let mut evicted = Evicted::new(4..7);
        for group in 4..7 {
            evicted.add_stored(&store, 3, group).expect("a store that answers");
        }
        assert_eq!(evicted.first(), 50);
        evicted.close(&store, 3, 50).expect("a store that answers");
        assert_eq!(evicted.first(), 60);
        assert!(evicted.may_hold(4, 60) && !evicted.may_hold(4, 61) && !evicted.may_hold(7, 60));
        let mut due = Due::open(&store, 3, &evicted, 60, None).expect("a store that answers");
        let mut found = Vec::new();
        while let Some(key) = due.key().map(<[u8]>::to_vec) {
            let taken = due.take().expect("a store that answers").expect("what was shown");
            assert_eq!((&taken.key, taken.part.end), (&key, 60));
            found.push(key);
        }
        assert_eq!(found, names.iter().map(|n| n.as_bytes().to_vec()).collect::<Vec<_>>());
        evicted.close(&store, 3, 60).expect("a store that answers");
        assert_eq!(evicted.first(), 90);
        assert!(evicted.may_hold(5, 90) && !evicted.may_hold(4, 90));
        evicted.close(&store, 3, 90).expect("a store that answers");
        assert!(evicted.is_empty());
        evicted.add(6, 10);
        evicted.add(6, 30);
        assert!(evicted.may_hold(6, 20) && evicted.first() == 10);
    }
}

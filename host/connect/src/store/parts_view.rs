//! Several stores as one, as their commits left them.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use wasmill_engine::state::{Checkpoint, Epoch, StateView, StoreError, VisitEntry};

/// How many entries are read from a store at once.
const READ_MAX: usize = 256;

/// Views of stores that have each a part of the keys.
pub struct PartsView(Vec<Box<dyn StateView>>);

impl PartsView {
    /// Of these.
    #[must_use]
    pub fn new(views: Vec<Box<dyn StateView>>) -> Self {
        Self(views)
    }
}

/// What stores are called together.
#[must_use]
pub fn name_of_parts(mut names: impl ExactSizeIterator<Item = String>) -> String {
    let first = names.next().unwrap_or_else(|| "nothing".to_owned());
    match names.len() {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// The checkpoint of all parts: what each has taken in, and the earliest stream time.
pub(super) fn whole(
    parts: impl Iterator<Item = Result<Option<Checkpoint>, StoreError>>,
) -> Result<Option<Checkpoint>, StoreError> {
    let mut whole: Option<Checkpoint> = None;
    for part in parts {
        let Some(part) = part? else { continue };
        match &mut whole {
            None => whole = Some(Checkpoint { sinks: Vec::new(), generation: 0, ..part }),
            Some(whole) => {
                whole.epoch = whole.epoch.max(part.epoch);
                whole.stream_time = whole.stream_time.min(part.stream_time);
                whole.positions.extend(part.positions);
                // One of another shape is refused as the whole is.
                if whole.shape != part.shape {
                    whole.shape = part.shape;
                }
            }
        }
    }
    Ok(whole)
}

/// A store's next entries.
struct Cursor<'a> {
    view: &'a dyn StateView,
    read: VecDeque<(Vec<u8>, Vec<u8>)>,
    /// Behind what the next ones are; none once there are no more.
    after: Option<Option<Vec<u8>>>,
}

impl Cursor<'_> {
    /// Reads on where nothing is left of what was read.
    fn fill(&mut self, prefix: &[u8]) -> Result<(), StoreError> {
        let Some(after) = self.after.as_ref().filter(|_| self.read.is_empty()) else { return Ok(()) };
        let read = &mut self.read;
        self.view.entries(prefix, after.as_deref(), &mut |key, value| {
            read.push_back((key.to_vec(), value.to_vec()));
            if read.len() < READ_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        self.after = self.read.back().map(|(key, _)| Some(key.clone()));
        Ok(())
    }
}

impl StateView for PartsView {
    fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        whole(self.0.iter().map(|view| view.checkpoint()))
    }

    fn generation(&self) -> u64 {
        0
    }

    fn foretold(&self) -> Result<Option<(Epoch, Vec<u8>)>, StoreError> {
        Ok(None)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.iter().find_map(|view| view.get(key).transpose()).transpose()
    }

    fn entries(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        visit: &mut VisitEntry<'_>,
    ) -> Result<(), StoreError> {
        let after = after.map(<[u8]>::to_vec);
        let cursor = |view| Cursor { view, read: VecDeque::new(), after: Some(after.clone()) };
        let mut cursors: Vec<Cursor<'_>> = self.0.iter().map(|view| cursor(&**view)).collect();
        loop {
            for cursor in &mut cursors {
                cursor.fill(prefix)?;
            }
            let next = cursors.iter_mut().filter(|cursor| !cursor.read.is_empty());
            let next = next.min_by(|a, b| a.read[0].0.cmp(&b.read[0].0));
            let Some((key, value)) = next.and_then(|cursor| cursor.read.pop_front()) else { return Ok(()) };
            if visit(&key, &value).is_break() {
                return Ok(());
            }
        }
    }

    fn disk_bytes(&self) -> Option<u64> {
        self.0.iter().map(|view| view.disk_bytes()).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use wasmill_engine::state::{Change, Delta, StateStore};
    use wasmill_engine::time::START;

    use super::super::DiskStore;
    use super::*;

    fn part(folder: &Path, keys: impl Iterator<Item = u32>) -> Box<dyn StateView> {
        let store = DiskStore::open(folder).expect("it is made");
        let change = |n: u32| Change {
            key: format!("k{n:05}").into_bytes(),
            value: Some(n.to_string().into_bytes()),
            share: None,
        };
        let checkpoint = Checkpoint {
            epoch: 1,
            generation: 0,
            positions: Vec::new(),
            stream_time: START,
            sinks: Vec::new(),
            counts: BTreeMap::new(),
            shape: String::new(),
            ..Checkpoint::default()
        };
        store.commit(&Delta { changes: keys.map(change).collect() }, &checkpoint).expect("it is taken");
        store.view().expect("it is read").expect("it can be looked at")
    }

    #[test]
    fn entries_come_in_the_keys_order_and_behind_one_of_them() {
        let all = 2_000;
        let folder = tempfile::tempdir().expect("a folder");
        let part = |of| part(&folder.path().join(format!("p{of}")), (0..all).filter(|n| n * 7 % 3 == of));
        let view = PartsView::new((0..3).map(part).collect());
        for after in [None, Some(0), Some(1_234), Some(all)] {
            let behind = after.map(|n| format!("k{n:05}").into_bytes());
            let mut found = Vec::new();
            let visit = &mut |key: &[u8], _: &[u8]| {
                found.push(String::from_utf8_lossy(key).into_owned());
                ControlFlow::Continue(())
            };
            view.entries(b"k", behind.as_deref(), visit).expect("they are read");
            let wanted: Vec<String> = (after.map_or(0, |n| n + 1)..all).map(|n| format!("k{n:05}")).collect();
            assert_eq!(found, wanted, "behind {after:?}");
        }
        assert_eq!(view.get(b"k00017").expect("it is read"), Some(b"17".to_vec()));
        assert_eq!(view.get(b"other").expect("it is read"), None);
    }
}

//! What a process has in hand of a group's entries, and what their offsets are.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use wasmill_engine::output::Sequences;

use super::entry::EntryId;
use crate::ConnectorError;
use crate::redis_link::SharedLink;

/// How many entries one command acknowledges.
const ACKS_AT_ONCE: usize = 1_000;
/// No partition is this process's yet.
const NO_PARTITION: u32 = u32::MAX;

/// What a source in queue mode has delivered and not acknowledged: a handle for who acknowledges entries together
/// with what is written of them. It can be had before the source has joined; it acknowledges nothing by itself.
#[derive(Clone)]
pub struct RedisAcks(Arc<InHand>);

struct InHand {
    stream: String,
    group: String,
    partition: AtomicU32,
    /// Whether a store acknowledges.
    by_store: AtomicBool,
    delivered: RwLock<Delivered>,
    lost: AtomicU64,
    /// The offset behind the last entry of the stream, as far as it is known.
    extent: AtomicU64,
}

#[derive(Default)]
struct Delivered {
    /// The offset of the first one that is in hand.
    first: u64,
    /// Their ids as numbers, in the order of their offsets.
    ids: VecDeque<u64>,
    /// The same, and those that were acknowledged since the last question.
    known: HashSet<u64>,
    acknowledged: Vec<u64>,
}

impl RedisAcks {
    pub(super) fn new(stream: &str, group: &str) -> Self {
        Self(Arc::new(InHand {
            stream: stream.to_owned(),
            group: group.to_owned(),
            partition: AtomicU32::new(NO_PARTITION),
            by_store: AtomicBool::new(false),
            delivered: RwLock::default(),
            lost: AtomicU64::new(0),
            extent: AtomicU64::new(0),
        }))
    }

    fn read(&self) -> RwLockReadGuard<'_, Delivered> {
        self.0.delivered.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Delivered> {
        self.0.delivered.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn stream(&self) -> &str {
        &self.0.stream
    }

    pub(super) fn group(&self) -> &str {
        &self.0.group
    }

    /// The partition that the entries are of, once the source has joined.
    pub(super) fn partition(&self) -> Option<u32> {
        Some(self.0.partition.load(Ordering::Relaxed)).filter(|n| *n != NO_PARTITION)
    }

    pub(super) fn set_partition(&self, partition: u32) {
        self.0.partition.store(partition, Ordering::Relaxed);
    }

    /// From now on a store acknowledges.
    pub(super) fn give_to_store(&self) {
        self.0.by_store.store(true, Ordering::Relaxed);
    }

    pub(super) fn by_store(&self) -> bool {
        self.0.by_store.load(Ordering::Relaxed)
    }

    pub(super) fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    pub(super) fn lose(&self, messages: u64) {
        self.0.lost.fetch_add(messages, Ordering::Relaxed);
    }

    pub(super) fn extent(&self) -> u64 {
        self.0.extent.load(Ordering::Relaxed)
    }

    /// So many are in the stream that nobody got yet.
    pub(super) fn set_lag(&self, lag: u64) {
        let delivered = self.read();
        self.0.extent.store(delivered.first + delivered.ids.len() as u64 + lag, Ordering::Relaxed);
    }

    /// A question begins: what was acknowledged before it can't be in its answer.
    pub(super) fn begin_question(&self) {
        let mut delivered = self.write();
        for id in std::mem::take(&mut delivered.acknowledged) {
            delivered.known.remove(&id);
        }
    }

    /// Takes an entry in hand; answers its offset, or none where it is in hand already.
    pub(super) fn take(&self, id: u64) -> Option<u64> {
        let mut delivered = self.write();
        if !delivered.known.insert(id) {
            return None;
        }
        delivered.ids.push_back(id);
        Some(delivered.first + delivered.ids.len() as u64 - 1)
    }

    /// Whether an entry is in hand.
    pub(super) fn has(&self, id: u64) -> bool {
        self.read().known.contains(&id)
    }

    /// The entries before an offset that are not acknowledged, at most so many: the first one's offset, and
    /// their ids.
    pub(super) fn before(&self, offset: u64, entries_max: usize) -> (u64, Vec<EntryId>) {
        let delivered = self.read();
        let n =
            usize::try_from(offset.saturating_sub(delivered.first)).unwrap_or(usize::MAX).min(entries_max);
        (delivered.first, delivered.ids.iter().take(n).map(|id| EntryId::of_offset(*id)).collect())
    }

    /// The first so many entries are acknowledged.
    pub(super) fn done(&self, entries: usize) {
        let mut delivered = self.write();
        let entries = entries.min(delivered.ids.len());
        let gone: Vec<u64> = delivered.ids.drain(..entries).collect();
        delivered.first += entries as u64;
        delivered.acknowledged.extend(gone);
    }

    /// Acknowledges all entries before an offset.
    pub(super) async fn acknowledge(&self, link: &SharedLink, offset: u64) -> Result<(), ConnectorError> {
        loop {
            let (_, ids) = self.before(offset, ACKS_AT_ONCE);
            if ids.is_empty() {
                return Ok(());
            }
            let entries = ids.len();
            let mut command = redis::cmd("XACK");
            command.arg(self.stream()).arg(self.group()).arg(ids);
            link.ask("cannot acknowledge entries", move |c| command.exec(c)).await?;
            self.done(entries);
        }
    }
}

impl Sequences for RedisAcks {
    fn of(&self, _: u32, offset: u64) -> u64 {
        let delivered = self.read();
        let at = offset.checked_sub(delivered.first).and_then(|at| usize::try_from(at).ok());
        // Nothing is asked of what is committed; were it, its number must be no entry's.
        at.and_then(|at| delivered.ids.get(at)).copied().unwrap_or(offset | 1 << 63)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_in_hand_is_not_taken_twice() {
        let acks = RedisAcks::new("s", "g");
        assert_eq!([7, 9, 7, 8].map(|id| acks.take(id)), [Some(0), Some(1), None, Some(2)]);
        assert_eq!([0, 1, 2].map(|offset| acks.of(0, offset)), [7, 9, 8]);
        acks.begin_question();
        acks.done(2);
        // It may be in the answer to a question from before it was acknowledged.
        assert_eq!(acks.take(9), None);
        acks.begin_question();
        assert_eq!(acks.take(9), Some(3));
        assert_eq!(acks.before(3, 10), (2, vec![EntryId::of_offset(8)]));
        acks.set_lag(5);
        assert_eq!(acks.extent(), 9);
    }
}

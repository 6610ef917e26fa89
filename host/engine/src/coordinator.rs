//! The coordinator: puts prepared batches in order, stamps and merges them, hands them to the lanes by
//! key, and says what an epoch is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::edition::{Editions, Plugins};
use crate::exchange::Exchange;
use crate::lane::{Counts, KeyedSpec, LaneInput};
use crate::output::{Outbox, Routes};
use crate::position::{PartitionId, Position, Progress};
use crate::prefix::Prepared;
use crate::shape;
use crate::state::{Checkpoint, Epoch};
use crate::time::{END, START};
use crate::topology::{Order, Topology, Via};
use crate::virtual_log::{Letters, Queue, Reached, Run, VirtualLog};

/// The coordinator's part of an epoch.
#[derive(Debug)]
pub struct Barrier {
    /// Which epoch ends here.
    pub epoch: Epoch,
    /// How far each partition is.
    pub positions: Vec<(PartitionId, Position)>,
    /// Stream time that windows have closed by.
    pub stream_time: i64,
    /// What left before the lanes.
    pub out: Outbox,
    /// What was counted before the lanes.
    pub counts: Counts,
    /// Facts that the epoch's outputs depend on.
    pub foretell: Option<Vec<u8>>,
    /// Which plugins do what comes.
    pub plugins: Plugins,
}

/// What an epoch's outputs depend on and its messages don't tell.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Facts {
    /// The interleaving, in arrival order.
    runs: Vec<Run>,
    /// How far the epoch came: before a replay is there, nobody is called idle, nor comes back.
    reached: Vec<Reached>,
}

/// Why a pipeline can't go on from its checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// The state is of another shape.
    #[error("{}", shape::refusal(stored, now))]
    Shape {
        /// The shape stored.
        stored: String,
        /// Today's.
        now: String,
    },
    /// A partition's log is another one.
    #[error(
        "{partition} is not the log that was read before (its start has changed: {stored} then, {now} now); run `wasmill reset` to read it from its start"
    )]
    Incarnation {
        /// The partition's name.
        partition: String,
        /// The incarnation stored.
        stored: String,
        /// Today's.
        now: String,
    },
    /// A partition with a position is gone.
    #[error("{partition} was read before and is gone; put it back, or run `wasmill reset`")]
    Gone {
        /// The partition.
        partition: String,
    },
    /// Facts were foretold that can't be read.
    #[error("the facts foretold for epoch {epoch} can't be read: {cause}")]
    Facts {
        /// Which epoch's.
        epoch: Epoch,
        /// Why.
        cause: String,
    },
}

/// A partition as the connectors found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundPartition {
    /// Which.
    pub id: PartitionId,
    /// What people call it.
    pub name: String,
    /// Which log it is.
    pub incarnation: String,
    /// The offset to read first where nothing is committed.
    pub begin: u64,
}

/// The coordinator.
pub struct Coordinator {
    has_lanes: bool,
    lanes: usize,
    /// Which of the lanes are here; the others' keys are other processes'.
    here: Option<BTreeSet<usize>>,
    batch_messages_max: usize,
    key_groups: u16,
    /// Whether outputs depend on facts that the messages don't tell.
    foretells: bool,
    routes: Arc<Routes>,
    epoch: Epoch,
    log: VirtualLog,
    starts: BTreeMap<PartitionId, Position>,
    pending: BTreeMap<PartitionId, Pending>,
    idle_asked: BTreeSet<PartitionId>,
    /// Partitions that leave at the next barrier.
    leaving: BTreeSet<PartitionId>,
    /// Whether each partition's stream time goes by itself alone, wherever the others are.
    apart: bool,
    /// Whether partitions come and go: then nothing is ever finished.
    shared: bool,
    /// Whether anything happened since the last barrier.
    touched: bool,
    released_bytes: usize,
    sent_stream_time: i64,
    editions: Editions,
    /// Whether nothing was read that is not here already.
    settles: bool,
    /// Bytes of results that wait for those of batches before them.
    ahead_bytes: usize,
}

#[derive(Default)]
struct Pending {
    next: u64,
    /// Results by the number of their raw batch, its parts in order.
    results: BTreeMap<u64, VecDeque<Prepared>>,
    /// Raw batches in all, once the reader has come to the end.
    end: Option<u64>,
    /// Results of a partition that comes back from being idle; they wait for a barrier.
    held: Vec<Prepared>,
    /// Whether the rest of the next raw batch is still to come.
    in_parts: bool,
}

impl Coordinator {
    /// A coordinator that goes on from a checkpoint and, where there are some, from foretold facts.
    ///
    /// # Errors
    /// When the checkpoint does not fit the topology or the partitions found.
    pub fn new(
        topology: &Topology,
        routes: &Arc<Routes>,
        lanes: usize,
        batch_messages_max: usize,
        found: &[FoundPartition],
        checkpoint: Option<&Checkpoint>,
        foretold: Option<(Epoch, &[u8])>,
    ) -> Result<Self, ResumeError> {
        let shape = topology.shape();
        if let Some(c) = checkpoint.filter(|c| c.shape != shape) {
            return Err(ResumeError::Shape { stored: c.shape.clone(), now: shape });
        }
        let closing = checkpoint.map_or(START, |c| c.stream_time);
        let mut stored: BTreeMap<PartitionId, Position> =
            checkpoint.map(|c| c.positions.iter().cloned().collect()).unwrap_or_default();
        // Behind the end of everything there are no windows left to be late for; but what had expired has.
        let least = || stored.values().map(|p| p.stream_time).min().unwrap_or(START);
        let floor = if closing == END { least() } else { closing };
        let mut starts = BTreeMap::new();
        for partition in found {
            let position = match stored.remove(&partition.id) {
                Some(p) if p.incarnation != partition.incarnation => {
                    return Err(ResumeError::Incarnation {
                        partition: partition.name.clone(),
                        stored: p.incarnation,
                        now: partition.incarnation.clone(),
                    });
                }
                Some(p) => p,
                None => beginning(partition, floor),
            };
            starts.insert(partition.id, position);
        }
        if let Some((id, _)) = stored.first_key_value() {
            return Err(ResumeError::Gone { partition: routes.partition_name(*id) });
        }
        let epoch = checkpoint.map_or(1, |c| c.epoch + 1);
        let facts = match foretold {
            Some((of, facts)) if of == epoch => serde_json::from_slice(facts)
                .map_err(|e| ResumeError::Facts { epoch, cause: e.to_string() })?,
            _ => Facts::default(),
        };
        let positions = starts.iter().map(|(id, p)| (*id, p.clone())).collect();
        let has_lanes = topology.has_lanes();
        // Without lanes each partition is a log of its own: nothing waits for another.
        let order = if has_lanes { topology.order } else { Order::Arrival };
        let letters = topology.replay().map(|source| Letters {
            source,
            // Without lanes nothing depends on where they are; between processes everything does anyway.
            wait: has_lanes && !topology.shared,
            has_windows: topology.keyed.iter().any(|stage| matches!(stage, KeyedSpec::Window(_))),
        });
        Ok(Self {
            has_lanes,
            lanes,
            here: None,
            batch_messages_max: batch_messages_max.max(1),
            key_groups: topology.key_groups,
            // Several processes' totals depend on one another anyway: no process's facts would repeat them.
            // Letters wait for a barrier: before a replay is where its epoch was, none may come in.
            foretells: has_lanes
                && !topology.shared
                && (order == Order::Arrival || topology.idle_marks || letters.is_some()),
            routes: Arc::clone(routes),
            epoch,
            log: VirtualLog::new(order, closing, positions, facts.runs, facts.reached, letters),
            pending: starts.keys().map(|id| (*id, Pending::default())).collect(),
            starts,
            idle_asked: BTreeSet::new(),
            leaving: BTreeSet::new(),
            apart: topology.via == Via::BeforeTopic,
            shared: topology.shared,
            touched: false,
            released_bytes: 0,
            sent_stream_time: START,
            editions: Editions::new(checkpoint.map(|c| c.plugins.clone()).unwrap_or_default()),
            settles: false,
            ahead_bytes: 0,
        })
    }

    /// Which plugins do what comes.
    #[must_use]
    pub fn plugins(&self) -> &Plugins {
        self.editions.plugins()
    }

    /// The number of the edition that does a message, and up to which offset it does those behind; none: all of them.
    #[must_use]
    pub fn edition_at(&self, partition: PartitionId, offset: u64) -> (u64, Option<u64>) {
        self.editions.at(partition, offset)
    }

    /// Whether an edition has messages to come.
    #[must_use]
    pub fn has_edition(&self, number: u64) -> bool {
        self.editions.has(number)
    }

    /// The run before broke off, and what came of messages before these offsets may have been seen without being
    /// committed. They are done again as they were: before them no other plugins take over.
    pub fn doubt(&mut self, mut ends: BTreeMap<PartitionId, u64>) {
        ends.retain(|id, end| self.starts.get(id).is_some_and(|position| position.offset < *end));
        self.editions.doubt(ends);
    }

    /// Whether messages of a run that broke off are not done again yet. Until then other plugins may take over in the
    /// stages before the key_by alone, where each does the messages behind.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.editions.is_in_doubt()
    }

    /// Which plugins there are, where nothing was committed of it yet.
    pub fn begin_with(&mut self, plugins: Plugins) {
        self.editions = Editions::new(plugins);
    }

    /// Other plugins take over at the barrier that comes next, which must be drawn before anything else is released.
    /// `edges` tells how far each partition was read, for the stages before the key_by: what is behind is the new
    /// ones'. Answers the number of their edition.
    pub fn swap(&mut self, plugins: Plugins, edges: &BTreeMap<PartitionId, u64>) -> u64 {
        self.touched = true;
        self.editions.swap(plugins, edges)
    }

    /// Of the lanes only these are here.
    pub fn keep_lanes(&mut self, here: impl IntoIterator<Item = usize>) {
        self.here = Some(here.into_iter().collect());
    }

    /// Where each partition is to be read from, and whether it had ended before.
    pub fn starts(&self) -> impl Iterator<Item = (PartitionId, &Position)> {
        self.starts.iter().map(|(id, p)| (*id, p))
    }

    /// The epoch that is open.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Takes a partition in that has become this process's; its raw batches count from `sequence`. Without
    /// a position it begins at its beginning.
    pub fn assign(&mut self, partition: &FoundPartition, position: Option<Position>, sequence: u64) {
        let id = partition.id;
        let closing = self.log.closing();
        let floor = match () {
            () if self.apart => START,
            () if closing == END => self.log.settled(),
            () => closing,
        };
        let position = position.unwrap_or_else(|| beginning(partition, floor));
        self.log.add(id, position.clone());
        self.starts.insert(id, position);
        self.pending.insert(id, Pending { next: sequence, ..Pending::default() });
    }

    /// A partition is about to be another process's: the next barrier has its position for the last time.
    pub fn leave(&mut self, partition: PartitionId) {
        if self.pending.contains_key(&partition) {
            self.leaving.insert(partition);
        }
    }

    /// The partitions that leave at the next barrier.
    #[must_use]
    pub fn leaving(&self) -> Vec<PartitionId> {
        self.leaving.iter().copied().collect()
    }

    /// A partition is another process's already: what is not in an epoch yet is dropped, its position too.
    pub fn lose(&mut self, partition: PartitionId) {
        self.leaving.remove(&partition);
        self.idle_asked.remove(&partition);
        if let Some(pending) = self.pending.remove(&partition) {
            self.ahead_bytes -= pending.results.values().flatten().map(|p| p.held_bytes).sum::<usize>();
        }
        self.starts.remove(&partition);
        self.log.remove(partition);
        self.editions.forget(partition);
    }

    /// Takes a prepared batch; batches of a partition may come in any order. Answers whether it is wanted:
    /// not if its partition has left since it was read.
    pub fn accept(&mut self, prepared: Prepared) -> bool {
        let partition = prepared.partition;
        let Some(pending) = self.pending.get_mut(&partition) else { return false };
        if prepared.sequence < pending.next {
            return false;
        }
        self.ahead_bytes += prepared.held_bytes;
        pending.results.entry(prepared.sequence).or_default().push_back(prepared);
        self.take_pending(partition);
        true
    }

    /// The reader has come to the end, after so many raw batches.
    pub fn end(&mut self, partition: PartitionId, batches: u64) {
        if let Some(pending) = self.pending.get_mut(&partition) {
            pending.end = Some(batches);
            self.take_pending(partition);
        }
    }

    fn take_pending(&mut self, partition: PartitionId) {
        let Some(pending) = self.pending.get_mut(&partition) else { return };
        let mut ready = Vec::new();
        while let Some(parts) = pending.results.remove(&pending.next) {
            for prepared in parts {
                pending.in_parts = prepared.is_part;
                pending.next += u64::from(!prepared.is_part);
                self.ahead_bytes -= prepared.held_bytes;
                ready.push(prepared);
            }
        }
        let ended = pending.end == Some(pending.next);
        let idle = self.log.queue(partition).is_some_and(|q| q.progress == Progress::Idle && !q.aside);
        if idle && (!ready.is_empty() || !pending.held.is_empty()) {
            pending.held.extend(ready);
            return; // `barrier` brings it back
        }
        if !ready.is_empty() {
            self.idle_asked.remove(&partition);
        }
        for prepared in ready {
            self.push(prepared);
        }
        if ended {
            self.log.set_progress(partition, Progress::Ended);
            self.touched = true;
        }
    }

    fn push(&mut self, prepared: Prepared) {
        self.touched = true;
        self.log.push(prepared.batch, prepared.out, prepared.held_bytes);
    }

    /// A partition was quiet for the idle timeout: stream time goes on without it, from the next barrier.
    pub fn idle(&mut self, partition: PartitionId) {
        let quiet = self.log.queue(partition).is_some_and(|q| q.is_empty() && q.progress == Progress::Live);
        if quiet && self.pending.get(&partition).is_some_and(|p| p.results.is_empty() && !p.in_parts) {
            self.idle_asked.insert(partition);
        }
    }

    /// Whether a fact waits for a barrier of its own.
    #[must_use]
    pub fn wants_barrier(&self) -> bool {
        !self.idle_asked.is_empty()
            || self.log.letters_wait()
            || !self.leaving.is_empty()
            || self.pending.values().any(|p| !p.held.is_empty())
    }

    /// Whether an epoch may end here: not while a replay follows a logged interleaving.
    #[must_use]
    pub fn can_barrier(&self) -> bool {
        !self.log.is_replaying()
    }

    /// Whether an epoch that ended here would hold anything.
    #[must_use]
    pub fn is_touched(&self) -> bool {
        self.touched || self.has_news()
    }

    /// Whether stream time has gone on since the lanes last heard of it.
    fn has_news(&self) -> bool {
        self.has_lanes && self.log.closing() > self.sent_stream_time
    }

    /// The bytes of all results that are not released.
    #[must_use]
    pub fn prepared_bytes(&self) -> usize {
        self.log.waiting_bytes() + self.ahead_bytes
    }

    /// Whether a partition can't go on without this one of its raw batches, and nothing of it waits to be released.
    #[must_use]
    pub fn lacks(&self, partition: PartitionId, sequence: u64) -> bool {
        let is_next = self.pending.get(&partition).is_none_or(|pending| pending.next == sequence);
        is_next && self.log.queue(partition).is_none_or(Queue::is_empty)
    }

    /// The raw bytes that wait to be released.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.log.waiting_bytes()
    }

    /// The raw bytes of batches that are wholly released since the last call: their readers may read as much.
    pub fn take_freed(&mut self) -> Vec<(PartitionId, usize)> {
        self.log.take_freed()
    }

    /// The bytes released, and those that left before the lanes, since the last barrier.
    #[must_use]
    pub fn epoch_bytes(&self) -> usize {
        self.released_bytes + self.log.beside_bytes()
    }

    /// Stream time that windows have closed by.
    #[must_use]
    pub fn stream_time(&self) -> i64 {
        self.log.closing()
    }

    /// The live partitions that hold stream time while nothing of them is ready, least first.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<(PartitionId, i64)> {
        self.log.waiting_for()
    }

    /// Releases about `bytes_max` bytes in order. Answers an input for each lane that has something to do, by its
    /// place among those that are here.
    pub fn release(&mut self, bytes_max: usize) -> Vec<(usize, LaneInput)> {
        let mut exchange = Exchange::new(self.lanes, self.key_groups, self.batch_messages_max);
        let has_lanes = self.has_lanes;
        let released_bytes = self.log.release(bytes_max, |released| {
            if has_lanes {
                exchange.take(released);
            }
        });
        self.released_bytes += released_bytes;
        self.touched |= released_bytes > 0;
        if !has_lanes {
            return Vec::new();
        }
        let (stream_time, settled) = (self.log.closing(), self.log.settled());
        let advanced = stream_time > self.sent_stream_time;
        self.sent_stream_time = stream_time;
        self.touched |= advanced;
        exchange
            .lanes
            .into_iter()
            .enumerate()
            .filter(|(lane, batches)| {
                debug_assert!(batches.is_empty() || self.is_here(*lane), "a key of another process's");
                (advanced || !batches.is_empty()) && self.is_here(*lane)
            })
            .map(|(lane, batches)| (self.place_of(lane), LaneInput { batches, stream_time, settled }))
            .collect()
    }

    /// Which of the lanes that are here one is.
    fn place_of(&self, lane: usize) -> usize {
        self.here.as_ref().map_or(lane, |here| here.range(..lane).count())
    }

    fn is_here(&self, lane: usize) -> bool {
        self.here.as_ref().is_none_or(|here| here.contains(&lane))
    }

    /// Nothing is read any more, and all that was is here: where the next barrier leaves nothing of it behind, it says
    /// so ([`Plugins::settled`]).
    pub fn settle(&mut self) {
        self.settles = true;
    }

    fn has_unreleased(&self) -> bool {
        let waits = |(id, pending): (&PartitionId, &Pending)| {
            pending.in_parts
                || !pending.results.is_empty()
                || !pending.held.is_empty()
                || self.log.queue(*id).is_some_and(|queue| !queue.is_empty())
        };
        self.pending.iter().any(waits)
    }

    /// Ends the epoch: everything released so far belongs to it.
    ///
    /// # Panics
    /// While a replay is following a logged interleaving; see [`Coordinator::can_barrier`].
    pub fn barrier(&mut self) -> Barrier {
        assert!(self.can_barrier(), "a replayed interleaving is one epoch");
        let (mut positions, beside, runs) = self.log.barrier();
        let left = beside.passed;
        let mut out = Outbox::new(&self.routes);
        for part in beside.out {
            out.append(part);
        }
        let counts = Counts {
            read: left.read,
            dropped: left.dropped + out.unrouted + out.unrouted_beside,
            clamped: left.clamped,
            dead: left.dead,
            written: if self.has_lanes { 0 } else { left.released.saturating_sub(out.unrouted) },
            ..Counts::default()
        };
        let stream_time = self.log.closing();
        // Facts take effect at the barrier: they are in its positions, and what depends on them is in
        // the next epoch.
        let asked = std::mem::take(&mut self.idle_asked);
        let back: Vec<PartitionId> =
            self.pending.iter().filter(|(_, p)| !p.held.is_empty()).map(|(id, _)| *id).collect();
        for id in &asked {
            self.log.set_progress(*id, Progress::Idle);
        }
        for id in &back {
            self.log.set_progress(*id, Progress::Live);
        }
        for (id, position) in &mut positions {
            if asked.contains(id) {
                position.progress = Progress::Idle;
            }
            if back.contains(id) {
                position.progress = Progress::Live;
                position.stream_time = position.stream_time.max(stream_time);
            }
        }
        self.touched = false;
        self.released_bytes = 0;
        let epoch = self.epoch;
        self.epoch += 1;
        for id in back {
            let held = self.pending.get_mut(&id).map(|p| std::mem::take(&mut p.held)).unwrap_or_default();
            for prepared in held {
                self.push(prepared);
            }
            self.take_pending(id);
        }
        self.touched |= !asked.is_empty();
        for id in std::mem::take(&mut self.leaving) {
            self.lose(id);
        }
        let foretell = self.foretells.then(|| {
            let reached = positions.iter().map(|(id, p)| (*id, p.offset, p.index)).collect();
            serde_json::to_vec(&Facts { runs, reached }).unwrap_or_default()
        });
        self.editions.prune(&positions);
        let settled =
            std::mem::take(&mut self.settles) && !self.has_unreleased() && !self.editions.is_in_doubt();
        let plugins = Plugins { settled, ..self.editions.plugins().clone() };
        Barrier { epoch, positions, stream_time, out, counts, foretell, plugins }
    }

    /// Whether every partition has ended and everything of it is released.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        !self.shared
            && !self.has_news()
            && self
                .pending
                .keys()
                .all(|id| self.log.queue(*id).is_some_and(|q| q.is_empty() && q.progress == Progress::Ended))
    }
}

/// Where a partition is read from that has no position; no stamp of it is below `stream_time`.
fn beginning(partition: &FoundPartition, stream_time: i64) -> Position {
    Position {
        incarnation: partition.incarnation.clone(),
        offset: partition.begin,
        index: 0,
        stream_time,
        progress: Progress::Live,
    }
}

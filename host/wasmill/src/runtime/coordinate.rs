//! The coordinator's thread: the one place where a pipeline's parts meet.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use wasmill_engine::commit::{Collector, Commit};
use wasmill_engine::coordinator::{Coordinator, FoundPartition};
use wasmill_engine::input::RawBatch;
use wasmill_engine::lane::LaneEpoch;
use wasmill_engine::position::{PartitionId, Position};
use wasmill_engine::prefix::{Prepared, Work};
use wasmill_engine::state::{Epoch, Merged};

use super::observe::Observed;
use super::readers::Credit;
use super::steps::{SmallSteps, Steps};
use super::swapping::{Edition, Proposal, Swapping};
use super::workers::{Job, LaneWork, Waiting};

/// What the coordinator is told.
pub(super) enum Event {
    /// A reader has read.
    Raw(RawBatch),
    /// A partition has ended.
    End(PartitionId),
    /// A reader has stopped because it was told to.
    ReaderStopped,
    /// A worker has run the prefix, and left this for later.
    Prepared(Box<Prepared>, Option<Box<Job>>),
    /// A worker has not, for too much waits already.
    Returned(Box<Job>),
    /// A lane has taken in so many bytes and made so many of them, and so many wait in it for the next barrier.
    LaneDone { lane: usize, bytes: usize, made_bytes: usize, waiting_bytes: usize },
    /// A lane has handed its part of an epoch over.
    LaneEpoch { lane: usize, epoch: Epoch, part: LaneEpoch },
    /// A lane has fired what it owed, as much as an epoch may have.
    LaneWentOn { lane: usize, waiting_bytes: usize },
    /// A partition's source is away: that it is quiet says nothing.
    Away(PartitionId),
    /// A partition has become this process's; its reader follows.
    Assigned { found: FoundPartition, position: Option<Position>, credit: Arc<Credit> },
    /// Partitions are about to be another process's, once `release` is dropped; their readers have ended.
    Left { partitions: Vec<PartitionId>, release: oneshot::Sender<()> },
    /// Partitions are another process's; their readers have ended.
    Lost(Vec<PartitionId>),
    /// An epoch is committed; of the keys that other processes share the store made this.
    Committed(Epoch, Merged),
    /// Other plugins are to take over.
    Swap(Box<Proposal>),
    /// A lane has migrated its accumulators, or read back what came of it.
    LaneSwapped(Result<(), String>),
    /// Stop reading, drain, end.
    Stop,
    /// It can't go on.
    Failed(String),
    /// A lane has made too much of what it was given at once.
    Overgrown(String),
    /// What it was begun with is no longer so, as where another process has taken over what this one would
    /// have committed: begin again from what is stored.
    Fenced(String),
    /// Another process has this one's place.
    Replaced(String),
}

/// How many epochs may be ended and not committed: one commits while the next one's outputs wait.
const EPOCHS_IN_FLIGHT_MAX: usize = 2;
/// How long nothing may happen before it is looked whether a partition has become quiet.
const QUIET_LOOK: Duration = Duration::from_millis(100);
/// How many events are taken before anything is decided.
const EVENTS_AT_ONCE: usize = 64;

/// Bounds and times of one run.
pub(super) struct Bounds {
    pub epoch_interval: Duration,
    pub epoch_bytes_max: usize,
    pub lane_queue_bytes_max: usize,
    /// How many batches the workers have at once.
    pub jobs_at_once: usize,
    /// Whether lanes are given little at once, and next when that is done.
    pub small_steps: Option<SmallSteps>,
    pub shutdown_timeout: Duration,
    pub idle_timeout: Option<Duration>,
}

/// Why a run ended before its end.
#[derive(Debug)]
pub(super) enum Halt {
    /// It can't go on: why, for people.
    Failed(String),
    /// It must begin again from what is stored: why.
    Fenced(String),
    /// The same, in smaller steps: why.
    Overgrown(String),
    /// Another process has its place: it ends, whatever it has. Who.
    Replaced(String),
}

impl From<String> for Halt {
    fn from(text: String) -> Self {
        Self::Failed(text)
    }
}

impl From<Halt> for Event {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Failed(text) => Self::Failed(text),
            Halt::Fenced(text) => Self::Fenced(text),
            Halt::Overgrown(text) => Self::Overgrown(text),
            Halt::Replaced(text) => Self::Replaced(text),
        }
    }
}

impl std::fmt::Display for Halt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Failed(text) | Self::Fenced(text) | Self::Overgrown(text) | Self::Replaced(text)) = self;
        f.write_str(text)
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// All sources have ended and everything is committed.
    Finished,
    /// It was told to stop, and what was taken in is committed.
    Stopped,
}

/// The coordinator's thread.
pub(super) struct Coordinate {
    pub coordinator: Coordinator,
    pub collector: Collector,
    pub events: Receiver<Event>,
    pub jobs: Sender<Job>,
    pub waiting: Waiting,
    pub lanes: Vec<Sender<LaneWork>>,
    pub commits: UnboundedSender<Commit>,
    pub credits: BTreeMap<PartitionId, Arc<Credit>>,
    /// Whether the store has the positions, or a transaction: what was lost may not be committed then, not
    /// even what is on its way.
    pub exact: bool,
    /// Whether the run ends with partitions that leave: no epoch may come behind their last one.
    pub ends_with_leaving: bool,
    /// How many tasks follow the groups of shared sources; each ends as a reader does.
    pub members: usize,
    pub bounds: Bounds,
    pub observed: Arc<Observed>,
    /// The editions that have messages to come, by number.
    pub editions: BTreeMap<u64, Arc<Edition>>,
    /// Whether the last checkpoint of a run that ends in order says that nothing is behind it.
    pub settles: bool,
}

/// What is on its way.
pub(super) struct Flow {
    sequences: BTreeMap<PartitionId, u64>,
    /// How far each partition was read: the offset that comes next.
    pub edges: BTreeMap<PartitionId, u64>,
    readers: usize,
    /// Batches on their way through the prefix: those that wait for a worker, in order, and how many the workers have.
    waiting_jobs: VecDeque<Job>,
    worked_on: usize,
    lane_bytes: usize,
    pub lane_inputs: usize,
    pub lane_waiting: Vec<usize>,
    /// Which lanes had windows left over at their last barrier: these are in the open epoch.
    pub lane_owes: Vec<bool>,
    pub epochs: usize,
    steps: Steps,
    epoch_since: Instant,
    /// When each partition was last heard of.
    heard: BTreeMap<PartitionId, Instant>,
    /// How many batches of each partition the workers have.
    unprepared: BTreeMap<PartitionId, usize>,
    stopping_since: Option<Instant>,
    /// Whether the last epoch of this run has ended.
    pub is_over: bool,
    /// Whether the last epoch has ended with nothing behind it.
    settled: bool,
    pub swapping: Option<Swapping>,
    /// Partitions on their way to other processes: let go of when this epoch is committed, which is none
    /// until its barrier.
    releases: Vec<(Option<Epoch>, oneshot::Sender<()>)>,
}

impl Flow {
    fn has_jobs(&self) -> bool {
        self.worked_on > 0 || !self.waiting_jobs.is_empty()
    }
}

impl Coordinate {
    /// Runs the pipeline to its end.
    ///
    /// # Errors
    /// Why it could not go on, for people.
    pub fn run(mut self) -> Result<Ended, Halt> {
        let mut flow = Flow {
            sequences: self.credits.keys().map(|id| (*id, 0)).collect(),
            edges: self.coordinator.starts().map(|(id, position)| (id, position.offset)).collect(),
            readers: self.credits.len() + self.members,
            waiting_jobs: VecDeque::new(),
            worked_on: 0,
            lane_bytes: 0,
            lane_inputs: 0,
            lane_waiting: vec![0; self.lanes.len()],
            lane_owes: vec![false; self.lanes.len()],
            epochs: 0,
            steps: Steps::new(self.bounds.small_steps),
            epoch_since: Instant::now(),
            heard: self.credits.keys().map(|id| (*id, Instant::now())).collect(),
            unprepared: BTreeMap::new(),
            stopping_since: None,
            is_over: false,
            settled: false,
            swapping: None,
            releases: Vec::new(),
        };
        loop {
            match self.events.recv_timeout(self.patience(&flow)) {
                Ok(event) => self.take(event, &mut flow)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Halt::Failed("all other parts are gone".to_owned()));
                }
            }
            for _ in 0..EVENTS_AT_ONCE {
                let Ok(event) = self.events.try_recv() else { break };
                self.take(event, &mut flow)?;
            }
            self.call_idle(&flow);
            self.hand_to_workers(&mut flow);
            self.release(&mut flow);
            self.go_on_swapping(&mut flow);
            self.end_epoch_if_due(&mut flow);
            self.give_credit_back(&flow);
            self.observed.flow(
                self.coordinator.stream_time(),
                self.coordinator.waiting_bytes() + flow.lane_bytes,
                self.coordinator.waiting_for(),
            );
            if let Some(ended) = self.has_ended(&mut flow)? {
                return Ok(ended);
            }
            if let Some(since) = flow.stopping_since
                && since.elapsed() > self.bounds.shutdown_timeout
            {
                return Err(Halt::Failed(format!(
                    "could not drain within {} s: {} epochs wait for their sinks. What is not committed is read again at the next start; a longer time is set by `shutdown_timeout`",
                    self.bounds.shutdown_timeout.as_secs(),
                    flow.epochs,
                )));
            }
        }
    }

    /// How long to wait for an event: until the epoch's end, if anything is in it. Where others must be
    /// committed before it, that comes as an event.
    fn patience(&self, flow: &Flow) -> Duration {
        if flow.epochs >= EPOCHS_IN_FLIGHT_MAX || !self.is_touched(flow) {
            return QUIET_LOOK;
        }
        let due = flow.epoch_since + self.bounds.epoch_interval;
        due.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
    }

    /// Whether the open epoch has anything to commit.
    fn is_touched(&self, flow: &Flow) -> bool {
        self.coordinator.is_touched()
            || flow.lane_waiting.iter().any(|n| *n > 0)
            || flow.lane_owes.contains(&true)
    }

    fn take(&mut self, event: Event, flow: &mut Flow) -> Result<(), Halt> {
        match event {
            Event::Raw(raw) => {
                self.observed.read(raw.records.len(), raw.data.len());
                flow.heard.insert(raw.partition, Instant::now());
                self.queue(raw, flow);
            }
            Event::Prepared(prepared, rest) => {
                flow.worked_on -= 1;
                flow.heard.insert(prepared.partition, Instant::now());
                let (partition, more) = (prepared.partition, prepared.held_bytes - prepared.raw_bytes);
                let is_wanted = self.coordinator.accept(*prepared);
                if is_wanted && let Some(credit) = self.credits.get(&partition) {
                    credit.take(more);
                }
                match rest.filter(|_| is_wanted) {
                    // It is the next that its partition needs.
                    Some(rest) => flow.waiting_jobs.push_front(*rest),
                    None => {
                        if let Some(n) = flow.unprepared.get_mut(&partition) {
                            *n -= 1;
                        }
                    }
                }
            }
            Event::Returned(job) => {
                flow.worked_on -= 1;
                flow.waiting_jobs.push_front(*job);
            }
            Event::End(partition) => {
                flow.readers -= 1;
                let batches = flow.sequences.get(&partition).copied().unwrap_or_default();
                self.coordinator.end(partition, batches);
            }
            Event::ReaderStopped => flow.readers -= 1,
            Event::LaneDone { lane, bytes, made_bytes, waiting_bytes } => {
                flow.lane_bytes -= bytes;
                flow.lane_inputs -= 1;
                flow.steps.made(made_bytes);
                flow.lane_waiting[lane] = waiting_bytes;
            }
            Event::Away(partition) => {
                flow.heard.remove(&partition);
            }
            Event::LaneWentOn { lane, waiting_bytes } => flow.lane_waiting[lane] = waiting_bytes,
            Event::LaneEpoch { lane, epoch, part } => {
                // What it had waiting is in the part.
                flow.lane_waiting[lane] = 0;
                flow.lane_owes[lane] = part.owes;
                let commit = self.collector.lane(epoch, part);
                self.hand_over(commit);
            }
            Event::Committed(epoch, merged) => {
                let merged = Arc::new(merged);
                flow.epochs -= 1;
                flow.releases.retain(|(of, _)| of.is_none_or(|of| of > epoch));
                for lane in &self.lanes {
                    let _ = lane.send(LaneWork::Committed(epoch, Arc::clone(&merged)));
                }
                if let Some(swapping) = &mut flow.swapping {
                    swapping.committed(epoch, &self.lanes);
                }
            }
            Event::Swap(proposal) => match &flow.swapping {
                Some(_) => Swapping::new(*proposal).refuse("another swap is not done yet"),
                None => flow.swapping = Some(Swapping::new(*proposal)),
            },
            Event::LaneSwapped(result) => {
                if let Some(swapping) = &mut flow.swapping {
                    swapping.lane_done(result);
                }
            }
            Event::Stop => flow.stopping_since = flow.stopping_since.or_else(|| Some(Instant::now())),
            Event::Assigned { found, position, credit } => {
                flow.readers += 1;
                flow.heard.insert(found.id, Instant::now());
                self.credits.insert(found.id, credit);
                let sequence = *flow.sequences.entry(found.id).or_default();
                flow.edges.insert(found.id, position.as_ref().map_or(found.begin, |p| p.offset));
                self.coordinator.assign(&found, position, sequence);
            }
            Event::Left { partitions, release } => {
                partitions.iter().for_each(|p| self.coordinator.leave(*p));
                // One that is not taken in any more is let go of by dropping `release` here.
                if self.coordinator.wants_barrier() {
                    flow.releases.push((None, release));
                }
            }
            Event::Lost(partitions) if self.exact => {
                return Err(Halt::Fenced(format!(
                    "{} partitions were lost to other processes",
                    partitions.len()
                )));
            }
            Event::Lost(partitions) => {
                for partition in partitions {
                    self.coordinator.lose(partition);
                    self.forget(partition, flow);
                }
            }
            Event::Failed(text) => return Err(Halt::Failed(text)),
            Event::Fenced(text) => return Err(Halt::Fenced(text)),
            Event::Overgrown(text) => return Err(Halt::Overgrown(text)),
            Event::Replaced(text) => return Err(Halt::Replaced(text)),
        }
        Ok(())
    }

    /// Has a batch wait to be decoded and put through the prefix: each record by the plugins that do it.
    fn queue(&mut self, raw: RawBatch, flow: &mut Flow) {
        let partition = raw.partition;
        flow.edges.insert(partition, raw.next);
        let mut rest = Some(raw);
        while let Some(mut raw) = rest.take() {
            let first = raw.records.first().map_or(raw.next, |record| record.offset);
            let (number, until) = self.coordinator.edition_at(partition, first);
            if let Some(until) = until.filter(|until| raw.records.last().is_some_and(|r| r.offset >= *until))
            {
                let taken = raw.held_bytes();
                let (front, back) = raw.split_at(until);
                if let Some(credit) = self.credits.get(&partition) {
                    // Both have the bytes, and both give them back.
                    credit.take(front.held_bytes() + back.held_bytes() - taken);
                }
                (raw, rest) = (front, Some(back));
            }
            let Some(edition) = self.editions.get(&number) else {
                unreachable!("an edition is kept as long as it has messages to come")
            };
            *flow.unprepared.entry(partition).or_default() += 1;
            let sequence = flow.sequences.entry(partition).or_default();
            let work = Work::new(raw, *sequence);
            flow.waiting_jobs.push_back(Job { work, edition: Arc::clone(edition), is_needed: false });
            *sequence += 1;
        }
    }

    /// Gives the workers as much as they need. While much waits for the lanes, for what plugins make of messages may be
    /// large, only what nothing goes on without.
    fn hand_to_workers(&mut self, flow: &mut Flow) {
        self.waiting.set(self.coordinator.prepared_bytes());
        while flow.worked_on < self.bounds.jobs_at_once {
            let is_lacked = |job: &Job| self.coordinator.lacks(job.work.partition(), job.work.sequence());
            let is_needed = self.waiting.are_too_many();
            let next = match is_needed {
                true => flow.waiting_jobs.iter().position(is_lacked),
                false => Some(0),
            };
            let Some(job) = next.and_then(|next| flow.waiting_jobs.remove(next)) else { return };
            flow.worked_on += 1;
            // Workers go away only after the coordinator, or with an event that says why.
            let _ = self.jobs.send(Job { is_needed, ..job });
        }
    }

    /// A partition is not this process's any more.
    fn forget(&mut self, partition: PartitionId, flow: &mut Flow) {
        self.credits.remove(&partition);
        flow.edges.remove(&partition);
        flow.heard.remove(&partition);
        self.observed.left(partition);
    }

    /// The bytes of the open epoch, here and in the lanes.
    fn epoch_bytes(&self, flow: &Flow) -> usize {
        self.coordinator.epoch_bytes() + flow.lane_waiting.iter().sum::<usize>()
    }

    /// Hands messages on as long as nothing behind is full. A slow sink holds its epochs up, then the
    /// open epoch fills, then nothing is released, then the readers' credit runs out.
    fn release(&mut self, flow: &mut Flow) {
        if flow.swapping.as_ref().is_some_and(Swapping::holds) {
            return;
        }
        while flow.lane_bytes < self.bounds.lane_queue_bytes_max
            // A replay must come to where its epoch was, however many bytes that takes today.
            && (!self.coordinator.can_barrier() || self.epoch_bytes(flow) < self.bounds.epoch_bytes_max)
        {
            let before = self.coordinator.epoch_bytes();
            let Some(bytes) = flow.steps.next(flow.lane_inputs) else { return };
            let inputs = self.coordinator.release(bytes);
            let done = inputs.is_empty() && self.coordinator.epoch_bytes() == before;
            for (lane, input) in inputs {
                let bytes = input.batches.iter().map(|b| b.frame.size_bytes()).sum();
                flow.lane_bytes += bytes;
                flow.lane_inputs += 1;
                let _ = self.lanes[lane].send(LaneWork::Input(input, bytes));
            }
            if done {
                return;
            }
        }
    }

    /// Partitions that hold stream time and have been quiet for too long don't hold it any longer.
    fn call_idle(&mut self, flow: &Flow) {
        let Some(timeout) = self.bounds.idle_timeout else { return };
        for (partition, _) in self.coordinator.waiting_for() {
            let at_hand = flow.unprepared.get(&partition).is_some_and(|n| *n > 0);
            if !at_hand && flow.heard.get(&partition).is_some_and(|heard| heard.elapsed() >= timeout) {
                self.coordinator.idle(partition);
            }
        }
    }

    /// Whether an epoch may end now.
    pub(super) fn can_end_epoch(&self, flow: &Flow) -> bool {
        flow.epochs < EPOCHS_IN_FLIGHT_MAX && self.coordinator.can_barrier()
    }

    fn end_epoch_if_due(&mut self, flow: &mut Flow) {
        if flow.is_over || !self.can_end_epoch(flow) || flow.swapping.as_ref().is_some_and(Swapping::holds) {
            return;
        }
        let touched = self.is_touched(flow);
        let full = self.epoch_bytes(flow) >= self.bounds.epoch_bytes_max;
        let ending = flow.readers == 0 && !flow.has_jobs();
        let due = full || ending || flow.epoch_since.elapsed() >= self.bounds.epoch_interval;
        if self.coordinator.wants_barrier() || (touched && due) {
            self.end_epoch(flow);
        } else if flow.epoch_since.elapsed() >= self.bounds.epoch_interval {
            flow.epoch_since = Instant::now();
        }
    }

    /// Ends the open epoch; answers its number.
    pub(super) fn end_epoch(&mut self, flow: &mut Flow) -> Epoch {
        let leaving = self.coordinator.leaving();
        flow.is_over = self.ends_with_leaving && !leaving.is_empty();
        flow.settled = flow.readers == 0 && !flow.has_jobs();
        if flow.settled {
            self.coordinator.settle();
        }
        let barrier = self.coordinator.barrier();
        flow.settled &= barrier.plugins.settled;
        leaving.into_iter().for_each(|partition| self.forget(partition, flow));
        let epoch = barrier.epoch;
        for (of, _) in flow.releases.iter_mut().filter(|(of, _)| of.is_none()) {
            *of = Some(epoch);
        }
        flow.epochs += 1;
        flow.epoch_since = Instant::now();
        flow.lane_waiting.fill(0);
        for lane in &self.lanes {
            let _ = lane.send(LaneWork::Barrier(epoch));
        }
        let commit = self.collector.barrier(barrier);
        self.hand_over(commit);
        if self.editions.len() > 1 {
            let coordinator = &self.coordinator;
            self.editions.retain(|number, _| coordinator.has_edition(*number));
        }
        epoch
    }

    fn hand_over(&self, commit: Option<Commit>) {
        if let Some(commit) = commit {
            // A committer that is gone has said why, by an event of its own.
            let _ = self.commits.send(commit);
        }
    }

    fn give_credit_back(&mut self, flow: &Flow) {
        // What left before the lanes waits for its commit too: no more is read while that is too much.
        if self.epoch_bytes(flow) >= self.bounds.epoch_bytes_max && self.coordinator.can_barrier() {
            return;
        }
        for (partition, bytes) in self.coordinator.take_freed() {
            if let Some(credit) = self.credits.get(&partition) {
                credit.give_back(bytes);
            }
        }
    }

    fn has_ended(&mut self, flow: &mut Flow) -> Result<Option<Ended>, Halt> {
        let drained = flow.readers == 0 && !flow.has_jobs() && flow.lane_inputs == 0 && flow.epochs == 0;
        let touched = self.is_touched(flow);
        if drained && !self.coordinator.can_barrier() {
            // Half a replay can't be committed; stopped here, it is done again at the next start.
            return match flow.stopping_since {
                Some(_) => Ok(Some(Ended::Stopped)),
                None => Err(Halt::Failed("the sources end before the point that an epoch had reached whose results may be out: they are not what they were. `wasmill reset` starts anew".to_owned())),
            };
        }
        if !drained || touched {
            return Ok(None);
        }
        let ended = match self.coordinator.is_finished() {
            true => Some(Ended::Finished),
            false => flow.stopping_since.map(|_| Ended::Stopped),
        };
        match &flow.swapping {
            Some(swapping) if !swapping.is_only_asked() => return Ok(None),
            _ => {}
        }
        if ended.is_some() && self.settles && !flow.settled && !flow.is_over && self.coordinator.can_barrier()
        {
            self.end_epoch(flow);
            // One that can't say so says nothing: there is no second.
            flow.settled = true;
            return Ok(None);
        }
        Ok(ended)
    }
}

//! A lane: the stateful part of a pipeline for a range of key groups, single-threaded.

use std::sync::{Arc, Mutex};

use crate::batch::Batch;
use crate::guest::Overgrown;
use crate::key::groups_of;
use crate::output::{Outbox, Routes};
use crate::plugin_state::{CACHE_BYTES_MAX, PluginState};
use crate::residents::UNBOUNDED;
use crate::running::{Running, RunningSpec};
use crate::stage::{Firing, Origins, Stage, StageSpec};
use crate::state::{Change, Delta, Epoch, StateStore, StoreError};
use crate::swap;
use crate::time::START;
use crate::windowed::{WindowSpec, Windowed};

/// As bytes of a lane's cache: all state is in memory.
pub const EVERYTHING: usize = UNBOUNDED;

/// A stage behind the key_by.
#[derive(Clone)]
pub enum KeyedSpec {
    /// A transform or filter.
    Stage(Arc<StageSpec>),
    /// A windowed aggregate.
    Window(WindowSpec),
    /// A running aggregate.
    Running(RunningSpec),
}

impl KeyedSpec {
    /// Whether it keeps state by the messages' keys.
    #[must_use]
    pub fn keeps_state(&self) -> bool {
        match self {
            Self::Stage(spec) => spec.plugin.info().needs_state,
            Self::Window(_) | Self::Running(_) => true,
        }
    }
}

/// What a part of a pipeline counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Messages read from sources.
    pub read: u64,
    /// Messages dropped because a plugin asked for it.
    pub dropped: u64,
    /// Messages that came too late for their windows, whatever became of them.
    pub late: u64,
    /// Dead letters.
    pub dead: u64,
    /// Messages out of the last stage.
    pub written: u64,
    /// Windows that fired.
    pub fired: u64,
    /// Messages whose event time was too far ahead, and which were given another.
    pub clamped: u64,
}

impl Counts {
    /// Adds another count to this one.
    pub fn add(&mut self, other: Self) {
        self.read += other.read;
        self.dropped += other.dropped;
        self.late += other.late;
        self.dead += other.dead;
        self.written += other.written;
        self.fired += other.fired;
        self.clamped += other.clamped;
    }
}

/// Messages of a lane's keys, in the virtual log's order, and the stream time behind them.
#[derive(Debug, Clone)]
pub struct LaneInput {
    /// The messages, their rows stamped; none has more than a plugin may be given at once.
    pub batches: Vec<Batch>,
    /// Stream time behind them: windows that are over at it fire.
    pub stream_time: i64,
    /// No message behind them has a smaller stamp, not even one that a later run reads of a partition that had
    /// ended or is new: what has expired by then has expired for good.
    pub settled: i64,
}

/// What a lane hands over at a barrier.
#[derive(Debug, Clone, Default)]
pub struct LaneEpoch {
    /// What leaves.
    pub out: Outbox,
    /// What changed in its state.
    pub delta: Delta,
    /// What it counted.
    pub counts: Counts,
    /// How many more windows are open than at the barrier before; of overlapping ones, panes.
    pub opened_windows: i64,
    /// Whether windows that are over fire behind the barrier, as of [`Lane::owes`].
    pub owes: bool,
}

enum LaneStage {
    Stage(Stage),
    Window(Box<Windowed>),
    Running(Box<Running>),
}

/// A lane.
pub struct Lane {
    stages: Vec<LaneStage>,
    routes: Arc<Routes>,
    out: Outbox,
    counts: Counts,
    /// [`LaneInput::stream_time`] and [`LaneInput::settled`] of the last input.
    sent: (i64, i64),
    /// What is settled for the windows that have fired: as of the last input once nothing is owed.
    settled: i64,
    /// How much may wait for a barrier before windows that are over wait for it too.
    epoch_bytes_max: usize,
    /// Whether windows that are over have not fired yet.
    owes: bool,
    made: Made,
    /// How much more waits for the barrier since the last input.
    left_bytes: usize,
    /// What other plugins have made of its accumulators, for the next barrier.
    migrated: Vec<Change>,
}

/// How a lane was made.
#[derive(Clone)]
struct Made {
    store: Arc<dyn StateStore>,
    key_groups: u16,
    place: (usize, usize),
    bounds: LaneBounds,
    clocks: Clocks,
}

/// What bounds a lane's memory.
#[derive(Debug, Clone, Copy)]
pub struct LaneBounds {
    /// About how much is in memory of the state that is in the store, beside what changed since the last commit.
    pub cache_bytes: usize,
    /// About how much of an epoch windows that are over may make before they wait for the next one.
    pub epoch_bytes: usize,
    /// How much it does at once.
    pub step: Step,
}

/// How much a lane does before it is looked what has come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// What is given to it, however large what plugins make of that is.
    Unbounded,
    /// The same, until what they make of it is too large, in all: then it ends as [`Overgrown`] says.
    Bounded,
    /// As `Bounded`, and windows fire one by one; messages are to be given in few.
    Small,
}

/// How much plugins may make in one step of a lane, beside what waited for the barrier already.
pub(crate) const GROWN_BYTES_MAX: usize = 256 << 20;

/// Ends a step in which too much was made.
///
/// # Panics
/// Always, with [`Overgrown`].
pub(crate) fn overgrown(at: &str) -> ! {
    let why = format!("{at}: more than {GROWN_BYTES_MAX} bytes were made of what a lane was given at once");
    // Whoever catches it says it: no panic hook does.
    std::panic::resume_unwind(Box::new(Overgrown(why)))
}

/// Who stores how far windowed stages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clocks {
    /// The lane of key group 0 for all, which are as far as it at each barrier.
    Common,
    /// Each lane for itself: lanes come and go.
    Own,
}

impl LaneBounds {
    /// Everything is in memory, and every epoch has all that was over at its end.
    pub const NONE: Self = Self { cache_bytes: EVERYTHING, epoch_bytes: usize::MAX, step: Step::Unbounded };
}

impl Lane {
    /// The lane number `lane` of `lanes`, with the state of its key groups as the store has it.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn new(
        specs: &[KeyedSpec],
        routes: &Arc<Routes>,
        store: &Arc<dyn StateStore>,
        key_groups: u16,
        lane: (usize, usize),
        bounds: LaneBounds,
    ) -> Result<Self, StoreError> {
        Self::with_clocks(specs, routes, store, key_groups, lane, bounds, Clocks::Common)
    }

    /// As [`Lane::new`], with stream times stored as `clocks` says.
    ///
    /// # Errors
    /// As of [`Lane::new`].
    pub fn with_clocks(
        specs: &[KeyedSpec],
        routes: &Arc<Routes>,
        store: &Arc<dyn StateStore>,
        key_groups: u16,
        (lane, lanes): (usize, usize),
        bounds: LaneBounds,
        clocks: Clocks,
    ) -> Result<Self, StoreError> {
        let groups = groups_of(lane, key_groups, lanes);
        let bytes_max = share_of(bounds.cache_bytes, specs);
        let mut stages = Vec::with_capacity(specs.len());
        for (number, spec) in specs.iter().enumerate() {
            let keeps_keys = specs[number + 1..].iter().any(KeyedSpec::keeps_state);
            let number = u16::try_from(number).unwrap_or(u16::MAX);
            let mut stage = match spec {
                KeyedSpec::Stage(spec) if spec.plugin.info().needs_state => {
                    let bytes_max = if bytes_max == UNBOUNDED { CACHE_BYTES_MAX } else { bytes_max };
                    let groups = (groups.clone(), key_groups);
                    let state = PluginState::new(number, groups, Arc::clone(store), bytes_max);
                    let stage = Stage::with_state(spec, Arc::new(Mutex::new(state)));
                    LaneStage::Stage(stage.keeping_keys(keeps_keys))
                }
                KeyedSpec::Stage(spec) => LaneStage::Stage(Stage::new(spec).keeping_keys(keeps_keys)),
                KeyedSpec::Window(spec) => {
                    let groups = (groups.clone(), key_groups);
                    let clock = match clocks {
                        Clocks::Common => 0,
                        Clocks::Own => groups.0.start,
                    };
                    LaneStage::Window(Box::new(Windowed::new(
                        spec,
                        number,
                        (groups, clock),
                        store,
                        bytes_max,
                    )))
                }
                KeyedSpec::Running(spec) => {
                    let mut running = Running::new(spec, number, key_groups, store, bytes_max);
                    running.keep_keys(keeps_keys);
                    LaneStage::Running(Box::new(running))
                }
            };
            if let LaneStage::Window(windowed) = &mut stage {
                if bounds.step == Step::Small {
                    windowed.one_by_one();
                }
                windowed.restore_clock()?;
            }
            for group in groups.clone() {
                match &mut stage {
                    LaneStage::Window(windowed) => windowed.restore(group)?,
                    LaneStage::Running(running) => running.restore(group)?,
                    LaneStage::Stage(_) => {}
                }
            }
            stages.push(stage);
        }
        let made = Made { store: Arc::clone(store), key_groups, place: (lane, lanes), bounds, clocks };
        let (routes, out) = (Arc::clone(routes), Outbox::new(routes));
        // A stage's stored clock is that of all lanes, so at a barrier all must have come as far.
        let has_clock = |spec: &KeyedSpec| matches!(spec, KeyedSpec::Window(w) if w.needs_clock());
        let epoch_bytes_max = if specs.iter().any(has_clock) { usize::MAX } else { bounds.epoch_bytes };
        Ok(Self {
            stages,
            routes,
            out,
            counts: Counts::default(),
            sent: (START, START),
            settled: START,
            epoch_bytes_max,
            owes: false,
            made,
            left_bytes: 0,
            migrated: Vec::new(),
        })
    }

    /// Other plugins do what comes, with the state as it is: those of stages that are the same in all else.
    pub fn swap(&mut self, specs: &[KeyedSpec]) {
        for (stage, spec) in self.stages.iter_mut().zip(specs) {
            match (stage, spec) {
                (LaneStage::Stage(stage), KeyedSpec::Stage(spec)) => stage.swap(spec),
                (LaneStage::Window(windowed), KeyedSpec::Window(spec)) => windowed.swap(spec),
                (LaneStage::Running(running), KeyedSpec::Running(spec)) => running.swap(spec),
                _ => debug_assert!(false, "another shape"),
            }
        }
    }

    /// Has other plugins migrate what the store has of this lane's accumulators, of the stages `from`, by number, with
    /// the state version that they have. What comes of it is handed over at the next barrier; before that everything
    /// must be in the store, and nothing may come in until [`Lane::restore`], or [`Lane::forget_migrated`].
    ///
    /// # Errors
    /// Why they can't: nothing is changed.
    pub fn migrate(&mut self, specs: &[KeyedSpec], from: &[(usize, u32)]) -> Result<(), String> {
        let Made { store, key_groups, place: (lane, lanes), .. } = &self.made;
        let mut migrated = Vec::new();
        for (number, version) in from {
            let Some(spec) = specs.get(*number) else { continue };
            let groups = groups_of(*lane, *key_groups, *lanes);
            let stage = u16::try_from(*number).unwrap_or(u16::MAX);
            swap::migrate(store.as_ref(), stage, groups, spec, *version, &mut migrated)?;
        }
        self.migrated = migrated;
        Ok(())
    }

    /// Another lane could not migrate its part: all stays as it was.
    pub fn forget_migrated(&mut self) {
        self.migrated = Vec::new();
    }

    /// What was migrated is in the store: goes on from there.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn restore(&mut self, specs: &[KeyedSpec]) -> Result<(), StoreError> {
        let Made { store, key_groups, place, bounds, clocks } = self.made.clone();
        let restored = Self::with_clocks(specs, &self.routes, &store, key_groups, place, bounds, clocks)?;
        self.stages = restored.stages;
        Ok(())
    }

    /// Takes a run of the virtual log in, then fires what is over, as [`Lane::go_on`] does.
    ///
    /// # Panics
    /// With [`Overgrown`], as [`LaneBounds::step`] says; the lane is of no use any more then.
    pub fn process(&mut self, input: LaneInput) {
        let before = self.waiting_bytes();
        let waiting_bytes_max = self.waiting_bytes_max();
        let out_bytes_max = self.out_bytes_max();
        for stage in &mut self.stages {
            match stage {
                LaneStage::Stage(stage) => stage.begin_step(),
                LaneStage::Window(windowed) => windowed.begin_step(),
                LaneStage::Running(running) => running.begin_step(),
            }
        }
        for mut batch in input.batches {
            let entries = if batch.enters { by_entry(&batch) } else { Vec::new() };
            let (routes, out, counts) = (&*self.routes, &mut self.out, &mut self.counts);
            let mut way = Way { routes, out, counts, behind: &mut self.stages, out_bytes_max };
            if !batch.enters {
                way.flow(&mut batch, Origins::Source);
            }
            for (stage, mut part) in entries {
                way.from(stage).flow(&mut part, Origins::Source);
            }
            if self.waiting_bytes() > waiting_bytes_max {
                overgrown("the stages behind the key_by");
            }
        }
        self.sent = (input.stream_time, input.settled);
        self.go_on();
        self.left_bytes = self.waiting_bytes().saturating_sub(before);
    }

    /// What may wait for the barrier when this step ends.
    fn waiting_bytes_max(&self) -> usize {
        match self.made.bounds.step {
            Step::Unbounded => usize::MAX,
            Step::Bounded | Step::Small => self.waiting_bytes().saturating_add(GROWN_BYTES_MAX),
        }
    }

    /// What of that may be outputs.
    fn out_bytes_max(&self) -> usize {
        match self.made.bounds.step {
            Step::Unbounded => usize::MAX,
            Step::Bounded | Step::Small => self.out.size_bytes().saturating_add(GROWN_BYTES_MAX),
        }
    }

    /// Fires what is over. Where that is more than an epoch may have, the rest is owed: it fires behind the
    /// next barrier. That changes no result, for a window that is over takes no message; after a crash
    /// between, the rest is in the store.
    ///
    /// # Panics
    /// As of [`Lane::process`].
    pub fn go_on(&mut self) {
        let out_bytes_max = self.out_bytes_max();
        let (routes, out, counts) = (&*self.routes, &mut self.out, &mut self.counts);
        let (mut stream_time, settled) = self.sent;
        self.owes = true;
        for number in 0..self.stages.len() {
            let (stages, behind) = self.stages.split_at_mut(number + 1);
            let Some(LaneStage::Window(windowed)) = stages.last_mut() else { continue };
            let mut way = Way { routes, out, counts, behind, out_bytes_max };
            if !windowed.advance(stream_time, self.epoch_bytes_max, &mut way) {
                // The stages behind have no time yet that has not come to this one.
                return;
            }
            stream_time = windowed.passes_on(stream_time);
        }
        self.settled = settled;
        self.owes = false;
    }

    /// Whether windows that are over wait for the next barrier, behind which [`Lane::go_on`] is to be called.
    #[must_use]
    pub fn owes(&self) -> bool {
        self.owes
    }

    /// The bytes that plugins made at most at once of the last input, or that it left behind.
    #[must_use]
    pub fn made_bytes(&self) -> usize {
        let at_once = |stage: &LaneStage| match stage {
            LaneStage::Stage(stage) => stage.made_bytes(),
            LaneStage::Window(windowed) => windowed.made_bytes(),
            LaneStage::Running(running) => running.made_bytes(),
        };
        self.stages.iter().map(at_once).max().unwrap_or(0).max(self.left_bytes)
    }

    /// The bytes that wait for the next barrier.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        let changed = |stage: &LaneStage| match stage {
            LaneStage::Stage(stage) => stage.changed_bytes(),
            LaneStage::Window(windowed) => windowed.changed_bytes(),
            LaneStage::Running(running) => running.changed_bytes(),
        };
        self.out.size_bytes() + self.stages.iter().map(changed).sum::<usize>()
    }

    /// How many windows are in memory; of overlapping ones, panes.
    #[must_use]
    pub fn windows_in_memory(&self) -> usize {
        let of = |stage: &LaneStage| match stage {
            LaneStage::Window(windowed) => windowed.in_memory(),
            LaneStage::Stage(_) | LaneStage::Running(_) => 0,
        };
        self.stages.iter().map(of).sum()
    }

    /// Hands over what the epoch made.
    pub fn barrier(&mut self, epoch: Epoch) -> LaneEpoch {
        let mut delta = Delta::default();
        let mut opened_windows = 0;
        let mut settled = self.settled;
        for stage in &mut self.stages {
            match stage {
                LaneStage::Window(windowed) => {
                    windowed.take_delta(epoch, &mut delta);
                    settled = windowed.passes_on(settled);
                    opened_windows += windowed.take_opened();
                }
                LaneStage::Running(running) => running.take_delta(epoch, &mut delta),
                LaneStage::Stage(stage) => stage.take_delta(epoch, settled, &mut delta),
            }
        }
        delta.changes.append(&mut self.migrated);
        let out = std::mem::replace(&mut self.out, Outbox::new(&self.routes));
        let mut counts = std::mem::take(&mut self.counts);
        counts.dead += out.dead;
        counts.dropped += out.unrouted + out.unrouted_beside;
        LaneEpoch { out, delta, counts, opened_windows, owes: self.owes }
    }

    /// An epoch is in the store; `merged` is what [`StateStore::merged`] told behind its commit. It may hold
    /// keys of other lanes.
    pub fn committed(&mut self, epoch: Epoch, merged: &[(Vec<u8>, Vec<u8>)]) {
        for stage in &mut self.stages {
            match stage {
                LaneStage::Stage(stage) => stage.committed(epoch),
                LaneStage::Running(running) => running.committed(epoch, merged),
                LaneStage::Window(windowed) => windowed.committed(epoch),
            }
        }
    }
}

/// What of a lane's cache each of its stages with state may take.
fn share_of(cache_bytes: usize, specs: &[KeyedSpec]) -> usize {
    match specs.iter().filter(|spec| spec.keeps_state()).count() {
        _ if cache_bytes == EVERYTHING => UNBOUNDED,
        stages => cache_bytes / stages.max(1),
    }
}

/// The stages that are still to come, and where they send what leaves them.
pub(crate) struct Way<'a> {
    pub routes: &'a Routes,
    pub out: &'a mut Outbox,
    pub counts: &'a mut Counts,
    behind: &'a mut [LaneStage],
    /// How large `out` may become in this step.
    out_bytes_max: usize,
}

impl Way<'_> {
    /// Sends windows through the stages behind.
    pub fn pass_on(&mut self, mut batch: Batch, firings: &[Firing]) {
        self.flow(&mut batch, Origins::Windows(firings));
    }

    /// The same without the first stages.
    fn from(&mut self, stage: usize) -> Way<'_> {
        let first = stage.min(self.behind.len());
        Way {
            routes: self.routes,
            out: self.out,
            counts: self.counts,
            behind: &mut self.behind[first..],
            out_bytes_max: self.out_bytes_max,
        }
    }

    /// Sends messages through the stages.
    fn flow(&mut self, batch: &mut Batch, origins: Origins<'_>) {
        let mut rest = &mut *self.behind;
        while let Some((stage, behind)) = rest.split_first_mut() {
            if batch.is_empty() {
                break;
            }
            match stage {
                LaneStage::Stage(stage) => {
                    let left =
                        stage.run_some(batch, origins, (GROWN_BYTES_MAX, usize::MAX), self.routes, self.out);
                    if left.is_some() {
                        overgrown(&format!("the stage `{}`", stage.name()));
                    }
                }
                LaneStage::Running(running) => running.run(batch, origins, self.routes, self.out),
                LaneStage::Window(windowed) => {
                    count_dropped(batch, self.counts);
                    let (routes, out, counts) = (self.routes, &mut *self.out, &mut *self.counts);
                    let mut way = Way { routes, out, counts, behind, out_bytes_max: self.out_bytes_max };
                    return windowed.take(batch, origins, &mut way);
                }
            }
            rest = behind;
        }
        count_dropped(batch, self.counts);
        batch.number_emits();
        let before = self.out.dead + self.out.unrouted;
        send_main(batch, origins, self.routes, self.out);
        let elsewhere = self.out.dead + self.out.unrouted - before;
        self.counts.written += (batch.len() as u64).saturating_sub(elsewhere);
        if self.out.size_bytes() > self.out_bytes_max {
            overgrown("what left the stages behind the key_by");
        }
    }
}

/// A batch in stretches whose messages enter at the same stage, each with that one's number.
fn by_entry(batch: &Batch) -> Vec<(usize, Batch)> {
    let mut parts: Vec<(usize, Batch)> = Vec::new();
    for (message, row) in batch.frame.view().iter().zip(&batch.rows) {
        let stage = usize::from(row.enter);
        if parts.last().is_none_or(|(of, _)| *of != stage) {
            parts.push((stage, Batch::with_capacity(batch.partition, batch.next, 1, message.arena_bytes())));
        }
        if let Some((_, part)) = parts.last_mut() {
            part.frame.push_message(&message);
            part.rows.push(*row);
        }
    }
    parts
}

fn count_dropped(batch: &Batch, counts: &mut Counts) {
    let dropped: u32 = batch.rows.iter().map(|r| r.passed.dropped + r.own.dropped).sum();
    counts.dropped += u64::from(dropped + batch.tail.dropped);
}

/// Encodes what comes out of the last stage for every sink that takes it.
pub(crate) fn send_main(batch: &Batch, origins: Origins<'_>, routes: &Routes, out: &mut Outbox) {
    for (message, row) in batch.frame.view().iter().zip(&batch.rows) {
        out.send_main(routes, message, row.stamp, &origins.id(row), origins.records());
    }
}

//! A windowed aggregate in one lane: which window a message goes to, when windows fire, what is late.
//!
//! Everything here goes by *moments* of the stage's stream time. A window with the end `e` closes at the
//! moment e + allowed lateness (a session one later), and with `emit: every` something may go out at each
//! multiple of the interval. What happens at a moment comes before a message whose stamp is that moment or
//! later, and windows that close come before what goes out of open ones. So what goes out, and in which
//! order for a key, depends on the log alone, not on where batches end.
//!
//! A stage behind sees a stream time that is later by the time that windows stay open behind their end. A
//! firing belongs to the millisecond before its moment there: it is never late, and never moves time itself.

use std::ops::Range;
use std::sync::Arc;

use wasmill_frame::TIMESTAMP_NONE;

use self::segment::Segment;
use self::table::{Changes, NEVER, NOT_STORED, Part, Place, Table};
use crate::aggregate::{Aggregate, Aggregator};
use crate::batch::Batch;
use crate::lane::Way;
use crate::residents::UNBOUNDED;
use crate::stage::Origins;
use crate::state::{Change, Delta, Epoch, StateStore, StoreError, clock_key};
use crate::time::{END, START};
use crate::window::{Emit, Kind, Late, Windows};

mod evicted;
mod firing;
mod panes;
mod runs;
mod segment;
mod sessions;
mod stored;
mod table;

pub(crate) use firing::key_as_json;
pub(crate) use stored::split as split_part;

/// How many windows are finished by one call of the plugin.
const FINISH_WINDOWS_MAX: usize = 4_096;

/// What a window's result is at least, in bytes.
const RESULT_BYTES: usize = 128;

/// A windowed aggregate of a pipeline.
#[derive(Clone)]
pub struct WindowSpec {
    /// The stage's name.
    pub name: Arc<str>,
    /// The aggregate.
    pub aggregate: Aggregate,
    /// The windows.
    pub window: Windows,
    /// How much later than its window's end, in stream time, a message may come.
    pub allowed_lateness_ms: i64,
    /// What becomes of later ones.
    pub late: Late,
    /// When values go out.
    pub emit: Emit,
    /// Whether keys are JSON arrays rather than plain texts.
    pub compound_key: bool,
}

impl WindowSpec {
    /// How far a stage behind is behind this one, in stream time.
    pub(crate) fn delay_ms(&self) -> i64 {
        self.window.delay_ms(self.allowed_lateness_ms)
    }

    /// Whether the parts that are stored don't tell how far the stage has come.
    pub(crate) fn needs_clock(&self) -> bool {
        !self.window.is_one_part() || matches!(self.emit, Emit::Every(_))
    }

    /// Whether keys may leave memory while they have windows open: each message must tell which stored part it
    /// needs, and each end which ones close.
    fn may_evict(&self, store: &dyn StateStore) -> bool {
        matches!(self.window.0, Kind::Paned(_)) && !self.needs_clock() && store.is_ordered()
    }
}

/// The windows of one lane.
pub(crate) struct Windowed {
    spec: WindowSpec,
    stage: u16,
    store: Arc<dyn StateStore>,
    aggregator: Aggregator,
    table: Table,
    segment: Segment,
    /// The stage's stream time: everything up to here has happened.
    time: i64,
    /// The key group under which the time is stored.
    clock_group: u16,
    /// The time as the store has it, where this lane keeps it.
    stored_time: Option<i64>,
    /// The next moment at which open windows go out.
    tick: i64,
    /// What has changed since the last one.
    changed: Vec<Place>,
    at_once_max: usize,
}

impl Windowed {
    /// No windows yet, of the key groups `groups` out of `key_groups`, with the stage's time under
    /// `clock_group`; of what the store has, at most about
    /// `bytes_max` are in memory, where windows allow that.
    pub fn new(
        spec: &WindowSpec,
        stage: u16,
        ((groups, key_groups), clock_group): ((Range<u16>, u16), u16),
        store: &Arc<dyn StateStore>,
        bytes_max: usize,
    ) -> Self {
        let ends_move = matches!(spec.window.0, Kind::Session { .. });
        let bytes_max = if spec.may_evict(store.as_ref()) { bytes_max } else { UNBOUNDED };
        Self {
            aggregator: Aggregator::new(&spec.name, &spec.aggregate),
            spec: spec.clone(),
            stage,
            store: Arc::clone(store),
            table: Table::new(stage, (groups, key_groups), ends_move, bytes_max),
            segment: Segment::default(),
            time: START,
            clock_group,
            stored_time: None,
            tick: NEVER,
            changed: Vec::new(),
            at_once_max: FINISH_WINDOWS_MAX,
        }
    }

    /// Windows fire one by one: what one makes further on may be large.
    pub fn one_by_one(&mut self) {
        self.at_once_max = 1;
    }

    /// As of a [`crate::stage::Stage`].
    pub fn begin_step(&mut self) {
        self.aggregator.begin_step();
    }

    /// As of a [`crate::stage::Stage`].
    pub fn made_bytes(&self) -> usize {
        self.aggregator.made_bytes()
    }

    /// Another aggregate does what comes; the windows stay.
    pub fn swap(&mut self, spec: &WindowSpec) {
        debug_assert!(self.segment.is_empty(), "what was taken is folded at a barrier");
        self.aggregator = Aggregator::new(&spec.name, &spec.aggregate);
        self.spec = spec.clone();
    }

    /// Reads back how far the stage had come; before any key group.
    pub fn restore_clock(&mut self) -> Result<(), StoreError> {
        if !self.spec.needs_clock() {
            return Ok(());
        }
        let Some(stored) = self.store.get(&clock_key(self.stage, self.clock_group))? else { return Ok(()) };
        let Some(time) = stored.as_slice().try_into().ok().map(i64::from_be_bytes) else {
            return Err(StoreError::Corrupt {
                what: format!("the stream time of the stage `{}`", self.spec.name),
                cause: format!("it has {} bytes, not 8", stored.len()),
            });
        };
        self.time = time;
        Ok(())
    }

    /// Reads the open windows of a key group back, as many as have room.
    pub fn restore(&mut self, group: u16) -> Result<(), StoreError> {
        if group == self.clock_group && self.spec.needs_clock() {
            // Where the clock is common all lanes have the same stream time at a barrier: the one that owns
            // this group stores it.
            self.stored_time = Some(self.time);
        }
        let (kind, closed, tick) = (self.spec.window.0, self.closed(self.time), self.last_tick());
        let mut changed = Vec::new();
        let store = Arc::clone(&self.store);
        self.table.restore(store.as_ref(), group, &self.spec.name, |table, place, at| {
            match kind {
                Kind::Paned(panes) => panes::register(panes, table, place, at, closed),
                Kind::Session { .. } => sessions::register(table, place, at),
            }
            let touched = table.part(place, at).changes.as_ref().map(|c| c.touched);
            if let Some(touched) = touched.filter(|touched| *touched >= tick) {
                changed.push((place, touched));
            }
        })?;
        if let Emit::Every(_) = self.spec.emit {
            for (place, touched) in changed {
                self.note_change(place);
                self.expect_tick(touched);
            }
        }
        Ok(())
    }

    /// Takes messages in, each at its own stamp.
    pub fn take(&mut self, batch: &Batch, origins: Origins<'_>, way: &mut Way<'_>) {
        // What goes out of open windows has its place between what closes; else only a message that is late
        // for some of its windows must not meet them.
        let ordered = self.spec.emit != Emit::Close;
        // Looked up together: the processor waits for the memory of many keys at once, not of one by one.
        let hints: Vec<Option<Place>> = batch
            .frame
            .view()
            .iter()
            .map(|message| self.table.find(message.key().unwrap_or_default(), None))
            .collect();
        let looked_at = hints.iter().flatten().map(|place| self.table.newest(*place));
        std::hint::black_box(looked_at.fold(0, u64::wrapping_add));
        if let (true, Kind::Paned(panes)) = (self.table.lacks_parts(), self.spec.window.0) {
            self.bring_back(panes, batch, &hints);
        }
        for (index, message) in batch.frame.view().iter().enumerate() {
            let time = message.timestamp();
            if time == TIMESTAMP_NONE {
                let reason = "the message has no event time, so no window can take it";
                self.bury(batch, index, origins, ("time", reason, 1), way);
                continue;
            }
            let stamp = batch.rows[index].stamp;
            if (ordered || self.is_partly_late(time, stamp)) && self.next_moment() <= stamp {
                self.close_segment(batch, origins, way);
                self.pass(stamp, way);
            }
            let key = message.key().unwrap_or_default();
            if self.spec.emit == Emit::Update
                && self.table.find(key, hints[index]).is_some_and(|p| self.table.at(p).in_segment)
            {
                // Its value goes out after each of its messages.
                self.close_segment(batch, origins, way);
            }
            self.join(batch, (index, hints[index]), origins, way);
            if let Emit::Every(_) = self.spec.emit {
                self.expect_tick(stamp);
            }
        }
        self.close_segment(batch, origins, way);
        self.table.make_room();
    }

    /// Puts a message to its part; `hint` is where its key was at the beginning of the batch.
    fn join(
        &mut self,
        batch: &Batch,
        (index, hint): (usize, Option<Place>),
        origins: Origins<'_>,
        way: &mut Way<'_>,
    ) {
        match self.spec.window.0 {
            Kind::Paned(panes) => self.join_pane(panes, batch, (index, hint), origins, way),
            Kind::Session { gap_ms } => self.join_session(gap_ms, batch, (index, hint), origins, way),
        }
    }

    /// Whether a message is late for the first of its windows.
    fn is_partly_late(&self, time: i64, stamp: i64) -> bool {
        match self.spec.window.0 {
            Kind::Paned(_) if self.spec.window.is_one_part() => false,
            Kind::Paned(panes) => panes.first_end(time) <= self.closed(stamp),
            // Sessions look for themselves: it depends on those that are there.
            Kind::Session { .. } => false,
        }
    }

    /// Goes on to a stream time: what is due until then goes out, moment by moment. Answers whether it is done:
    /// it stops where about `bytes_max` wait for the barrier.
    pub fn advance(&mut self, to: i64, bytes_max: usize, way: &mut Way<'_>) -> bool {
        let done = self.pass_some(to, bytes_max, way);
        self.table.make_room();
        done
    }

    /// As [`Windowed::advance`], in the midst of a batch: all that is due goes out, and what the batch's
    /// messages need stays in memory.
    fn pass(&mut self, to: i64, way: &mut Way<'_>) {
        self.pass_some(to, usize::MAX, way);
    }

    fn pass_some(&mut self, to: i64, bytes_max: usize, way: &mut Way<'_>) -> bool {
        debug_assert!(self.segment.is_empty(), "what was taken is folded before time goes on");
        let until = to.min(END - 1);
        while self.next_moment() <= until {
            if self.close_moment() <= self.tick {
                let lacks_parts = self.table.lacks_parts();
                let closing = self.table.take_due();
                match self.spec.window.0 {
                    Kind::Paned(panes) if lacks_parts => {
                        self.close_with_stored(panes, closing, bytes_max, way);
                    }
                    Kind::Paned(panes) => self.close_in_memory(panes, closing, bytes_max, way),
                    Kind::Session { .. } => self.close_sessions(closing, bytes_max, way),
                }
            } else {
                self.send_changed(way);
            }
            // Behind something that went out, so that it comes to an end under any bound.
            if self.is_full(bytes_max, way) && self.next_moment() <= until {
                self.time = self.time.max(self.next_moment() - 1);
                return false;
            }
        }
        // Behind the end of everything nothing is open. If more comes all the same, it begins anew.
        self.time = if to == END { START } else { self.time.max(to) };
        true
    }

    /// How many windows are fired before it is looked whether that is enough.
    fn windows_at_once(&self, bytes_max: usize) -> usize {
        self.at_once_max.min(bytes_max / RESULT_BYTES + 1)
    }

    /// Whether so much waits for the barrier that what is still due should wait for the next one.
    fn is_full(&self, bytes_max: usize, way: &Way<'_>) -> bool {
        bytes_max != usize::MAX && way.out.size_bytes() + self.table.changed_bytes() >= bytes_max
    }

    /// The stream time that a stage behind sees.
    pub fn passes_on(&self, time: i64) -> i64 {
        if time == END { END } else { self.closed(time) }
    }

    /// Windows with an end up to here are closed at a stream time.
    fn closed(&self, time: i64) -> i64 {
        time.saturating_sub(self.spec.delay_ms())
    }

    fn close_moment(&self) -> i64 {
        self.table.first_due().saturating_add(self.spec.delay_ms())
    }

    fn next_moment(&self) -> i64 {
        self.close_moment().min(self.tick)
    }

    /// The last moment that may have been a tick.
    fn last_tick(&self) -> i64 {
        match self.spec.emit {
            Emit::Every(every_ms) if self.time != START => self.time - self.time.rem_euclid(every_ms),
            _ => START,
        }
    }

    /// Something may have to go out at the first tick behind a message.
    fn expect_tick(&mut self, stamp: i64) {
        if let Emit::Every(every_ms) = self.spec.emit {
            self.tick = self.tick.min((stamp.div_euclid(every_ms) + 1).saturating_mul(every_ms));
        }
    }

    fn note_change(&mut self, place: Place) {
        let keyed = self.table.at_mut(place);
        if !keyed.changed {
            keyed.changed = true;
            self.changed.push(place);
        }
    }

    /// At a tick, sends what has changed and is open, ordered by (end, start, key).
    fn send_changed(&mut self, way: &mut Way<'_>) {
        let moment = std::mem::replace(&mut self.tick, NEVER);
        let Emit::Every(every_ms) = self.spec.emit else { return };
        let changed = std::mem::take(&mut self.changed);
        for place in &changed {
            self.table.at_mut(*place).changed = false;
        }
        let changed = self.table.sorted(changed);
        let since = moment - every_ms;
        let mut fires = match self.spec.window.0 {
            Kind::Paned(panes) => self.changed_panes(panes, &changed, (since, moment)),
            Kind::Session { .. } => self.changed_sessions(&changed, since),
        };
        let stamp = self.closed(moment).saturating_sub(1);
        fires.iter_mut().for_each(|f| f.stamp = stamp);
        self.send(fires, way);
    }

    /// What has changed since the last call, which this epoch stores.
    pub fn take_delta(&mut self, epoch: Epoch, delta: &mut Delta) {
        self.table.take_delta(epoch, delta);
        if self.stored_time.is_some_and(|stored| stored != self.time) {
            self.stored_time = Some(self.time);
            let value = Some(self.time.to_be_bytes().to_vec());
            delta.changes.push(Change { key: clock_key(self.stage, self.clock_group), value, share: None });
        }
    }

    /// About what a delta of now would hold, in bytes.
    pub fn changed_bytes(&self) -> usize {
        self.table.changed_bytes()
    }

    /// An epoch is in the store.
    pub fn committed(&mut self, epoch: Epoch) {
        self.table.committed(epoch);
    }

    /// How many more windows are open than at the last call; of sliding ones, panes.
    pub fn take_opened(&mut self) -> i64 {
        self.table.take_opened()
    }

    /// How many windows, or panes, are in memory.
    pub fn in_memory(&self) -> usize {
        self.table.parts()
    }
}

/// A part that no message was folded into yet.
fn new_part(start: i64, end: i64) -> Part {
    Part { start, end, stored_end: NOT_STORED, due: NEVER, ..Part::default() }
}

/// Notes in a part that messages were folded in, the first and the last with these stamps.
fn note_fold(part: &mut Part, messages: u32, stamps: (i64, i64), emit: Emit) {
    if emit != Emit::Close {
        let (born, touched) = stamps;
        part.changes.get_or_insert_with(|| Box::new(Changes { born, ..Changes::default() })).touched =
            touched;
    }
    part.count = part.count.saturating_add(messages);
}

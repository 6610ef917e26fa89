//! One transform or filter: calls its plugin on a batch, and finds the messages that it can't process.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::answer::{Answer, Checked, apply, check, judged};
use crate::batch::{Batch, Ordinals, Row, slice};
use crate::dead_letter::Records;
use crate::guest::{
    AnswerBounds, CallContext, CallError, Guest, GuestInfo, HostFault, Judged, MessageFacts, PluginRef, Trial,
};
use crate::output::{Outbox, OutputId, Routes};
use crate::plugin_state::{PluginState, StateHandle};
use crate::position::PartitionId;
use crate::state::{Delta, Epoch, StoreError};
use crate::time::TIMESTAMP_NONE;

/// Which interface of the plugin a stage calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StageKind {
    /// `transform`.
    Transform,
    /// `filter`.
    Filter,
}

/// A transform or filter of a pipeline.
#[derive(Clone)]
pub struct StageSpec {
    /// Its name in the pipeline.
    pub name: String,
    /// Which interface it calls.
    pub kind: StageKind,
    /// Whose.
    pub plugin: PluginRef,
}

/// What the messages of a batch are results of.
#[derive(Clone, Copy)]
pub enum Origins<'a> {
    /// Messages of a source.
    Source,
    /// Messages of a source whose records are still at hand: dead letters tell them.
    Records(Records<'a>),
    /// Firings of windows.
    Windows(&'a [Firing]),
}

/// A window that fired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firing {
    /// The aggregate's stage.
    pub stage: Arc<str>,
    /// The key.
    pub key: Box<[u8]>,
    /// The window's start in milliseconds.
    pub start: i64,
    /// The window's end in milliseconds.
    pub end: i64,
    /// Which firing of the window, from 0.
    pub revision: u32,
}

impl<'a> Origins<'a> {
    /// The firing that a row is the result of, if it is one's.
    pub(crate) fn firing(self, row: &Row) -> Option<&'a Firing> {
        match self {
            Self::Source | Self::Records(_) => None,
            Self::Windows(firings) => Some(firing(firings, row)),
        }
    }

    /// The records that the messages came in, where they are still at hand.
    pub(crate) fn records(self) -> Option<Records<'a>> {
        match self {
            Self::Records(records) => Some(records),
            Self::Source | Self::Windows(_) => None,
        }
    }

    /// The output id of a row.
    #[must_use]
    pub fn id(self, row: &Row) -> OutputId<'a> {
        match self {
            Self::Source | Self::Records(_) => OutputId::Message {
                partition: row.partition,
                offset: row.offset,
                index: row.index,
                emit: row.emit,
                left_at: "",
            },
            Self::Windows(firings) => {
                let f = firing(firings, row);
                OutputId::Window {
                    stage: &f.stage,
                    key: &f.key,
                    start: f.start,
                    end: f.end,
                    revision: f.revision,
                    emit: row.emit,
                    left_at: "",
                }
            }
        }
    }
}

fn firing<'a>(firings: &'a [Firing], row: &Row) -> &'a Firing {
    &firings[usize::try_from(row.offset).unwrap_or(usize::MAX)]
}

/// A stage as one worker runs it.
pub struct Stage {
    spec: Arc<StageSpec>,
    guest: Box<dyn Guest>,
    state: Option<Arc<Mutex<PluginState>>>,
    keeps_keys: bool,
    /// The most that it was answered about one batch since the step began.
    made_bytes: usize,
}

impl Stage {
    /// A stage without state.
    #[must_use]
    pub fn new(spec: &Arc<StageSpec>) -> Self {
        Self {
            spec: Arc::clone(spec),
            guest: spec.plugin.guest(),
            state: None,
            keeps_keys: false,
            made_bytes: 0,
        }
    }

    /// A stage behind a key_by, whose plugin may use the keys' state.
    #[must_use]
    pub fn with_state(spec: &Arc<StageSpec>, state: Arc<Mutex<PluginState>>) -> Self {
        Self { state: Some(state), ..Self::new(spec) }
    }

    /// Whether its plugin may give no message another key.
    pub(crate) fn keeping_keys(self, keeps_keys: bool) -> Self {
        Self { keeps_keys, ..self }
    }

    /// A step begins: [`Stage::made_bytes`] counts anew.
    pub(crate) fn begin_step(&mut self) {
        self.made_bytes = 0;
    }

    /// The most bytes that it was answered about one batch since.
    pub(crate) fn made_bytes(&self) -> usize {
        self.made_bytes
    }

    /// Its name in the pipeline.
    pub(crate) fn name(&self) -> &str {
        &self.spec.name
    }

    /// Another plugin does what comes; the state stays.
    pub(crate) fn swap(&mut self, spec: &Arc<StageSpec>) {
        self.guest = spec.plugin.guest();
        self.spec = Arc::clone(spec);
    }

    /// What the epoch has changed of the stage's state, and what of it has expired for good by `time`.
    pub(crate) fn take_delta(&mut self, epoch: Epoch, time: i64, delta: &mut Delta) {
        let Some(state) = &self.state else { return };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.take_delta(epoch, delta);
        if let Err(fault) = state.sweep(epoch, time, delta) {
            unreadable(&self.spec.name, &fault);
        }
    }

    /// About what a delta of now would hold, in bytes.
    pub(crate) fn changed_bytes(&self) -> usize {
        let of = |state: &Arc<Mutex<PluginState>>| {
            state.lock().unwrap_or_else(PoisonError::into_inner).changed_bytes()
        };
        self.state.as_ref().map_or(0, of)
    }

    /// An epoch is in the store.
    pub(crate) fn committed(&mut self, epoch: Epoch) {
        if let Some(state) = &self.state {
            state.lock().unwrap_or_else(PoisonError::into_inner).committed(epoch);
        }
    }

    /// Runs the stage over a batch. What leaves the main way goes to `out`; afterwards the batch is what
    /// goes on.
    pub fn run(&mut self, batch: &mut Batch, origins: Origins<'_>, routes: &Routes, out: &mut Outbox) {
        let left = self.run_some(batch, origins, (usize::MAX, usize::MAX), routes, out);
        debug_assert!(left.is_none(), "there is room for all");
    }

    /// As [`Stage::run`], asking about as many messages `at_once` first. Where the answers take up more than about `room`
    /// bytes, they are about its first messages alone: answers the others, which are to be run behind these. Results of
    /// one message stay together.
    #[must_use]
    pub fn run_some(
        &mut self,
        batch: &mut Batch,
        origins: Origins<'_>,
        (room, mut at_once): (usize, usize),
        routes: &Routes,
        out: &mut Outbox,
    ) -> Option<Remaining> {
        if batch.is_empty() {
            return None;
        }
        let mut asked = Asked { room, stored_before: self.changed_bytes(), ..Asked::default() };
        let mut at = 0;
        while at < batch.len() && asked.stopped.is_none() {
            let is_between = |end: &usize| *end == batch.len() || !batch.is_of_one(end - 1, *end);
            let least = at.saturating_add(at_once.max(1)).min(batch.len());
            let end = (least..=batch.len()).find(is_between).unwrap_or(batch.len());
            self.ask(batch, at..end, origins, &mut asked);
            (at, at_once) = (end, at_once.saturating_mul(2));
        }
        self.made_bytes = self.made_bytes.max(asked.bytes);
        let left = asked.stopped.map(|at| Remaining {
            behind: batch.rows[at - 1].offset,
            batch: batch.split_off(at),
            at_once: asked.most_at_once,
        });
        let info = self.spec.plugin.info();
        apply(batch, &asked.answers, &self.spec.name, Some(info), origins, routes, out);
        left
    }

    /// Asks the plugin about a range of the batch; halves it until what fails stands alone. Results of one message are
    /// halved last, so that what is answered about all of them can be counted.
    fn ask(&mut self, batch: &Batch, range: Range<usize>, origins: Origins<'_>, asked: &mut Asked) {
        if asked.stopped.is_some() {
            return;
        }
        asked.begin(batch, &range);
        // What is large is not asked about at once, either.
        let is_large = batch.frame.size_bytes() > asked.room && bytes_of(batch, &range) > asked.room;
        let called = match is_large && range.len() > 1 {
            false => self.call(batch, &range, origins, Trial::Batch, asked),
            true => Err(CallError::Refused("it is given in parts".to_owned())),
        };
        match called {
            Ok(answer) => {
                let answer = self.accept(range.clone(), answer, asked);
                asked.put(answer, batch, range.end, self.changed_bytes());
            }
            // A batch's failure convicts nobody: the verdict is given on a fresh instance, under fuel.
            Err(_) if range.len() == 1 => {
                let answer = self.judge(batch, range.clone(), origins, asked);
                asked.put(answer, batch, range.end, self.changed_bytes());
            }
            Err(_) => {
                let middle = middle(batch, &range);
                self.ask(batch, range.start..middle, origins, asked);
                self.ask(batch, middle..range.end, origins, asked);
            }
        }
    }

    /// Tries one message alone, as often as it may be.
    fn judge(
        &mut self,
        batch: &Batch,
        range: Range<usize>,
        origins: Origins<'_>,
        asked: &mut Asked,
    ) -> Answer {
        let tries = self.spec.plugin.tries();
        let mut tried = 1;
        loop {
            match self.call(batch, &range, origins, Trial::Verdict, asked) {
                Ok(answer) => return self.accept(range, answer, asked),
                Err(error) if tries.again(tried, &error) => self.guest.pause(tried),
                Err(error) => {
                    let (kind, reason) = verdict(error);
                    self.guest.judged(Judged { passed: false, failed: 1 });
                    // The one among others counts too.
                    return Answer::Failed { index: range.start, kind, reason, attempts: tried + 1 };
                }
            }
            tried += 1;
        }
    }

    fn accept(
        &mut self,
        range: Range<usize>,
        (bytes, checked): (Vec<u8>, Checked),
        asked: &mut Asked,
    ) -> Answer {
        asked.take(range.len(), checked.bytes);
        self.guest.judged(judged(0..range.len(), &checked.failed));
        Answer::Edits { range, bytes, emits: checked.emits }
    }

    fn call(
        &mut self,
        batch: &Batch,
        range: &Range<usize>,
        origins: Origins<'_>,
        trial: Trial,
        asked: &Asked,
    ) -> Result<(Vec<u8>, Checked), CallError> {
        let part;
        let frame = if range.len() == batch.len() {
            &batch.frame
        } else {
            part = slice(&batch.frame, range.clone());
            &part
        };
        let info = self.spec.plugin.info();
        let mut cx = context(info, &self.spec.name, batch, range.clone(), origins);
        if let Some(state) = self.state.as_ref().filter(|_| info.needs_state) {
            cx.state = Some(Box::new(StateHandle::begin(state, batch, range.clone())));
        }
        let answer = match self.spec.kind {
            StageKind::Transform => self.guest.transform(frame.as_bytes(), &mut cx, trial),
            StageKind::Filter => self.guest.filter(frame.as_bytes(), &mut cx, trial),
        };
        let answer = answer.and_then(|bytes| {
            let message = |i: usize| batch.frame.get(range.start + i);
            let bounds = AnswerBounds { keeps_keys: self.keeps_keys, ..self.spec.plugin.bounds() };
            let checked = check(&bytes, range.len(), self.spec.kind, bounds, message)
                .inspect_err(|error| self.guest.refused(error))?;
            asked.fits(checked.bytes, range.len(), bounds.results_bytes_max).inspect_err(|error| {
                if trial == Trial::Verdict {
                    self.guest.refused(error);
                }
            })?;
            match &checked.first_error {
                Some(reason) if self.spec.plugin.tries().doubts_errors() => {
                    Err(CallError::Refused(reason.clone()))
                }
                _ => Ok((bytes, checked)),
            }
        });
        if let Some(state) = &self.state
            && let Err(fault) = state.lock().unwrap_or_else(PoisonError::into_inner).end_call(answer.is_ok())
        {
            // The store's failure convicts no message.
            unreadable(&self.spec.name, &fault);
        }
        answer
    }
}

/// What a stage has left of a batch for later.
#[derive(Debug)]
pub struct Remaining {
    /// The messages.
    pub batch: Batch,
    /// The offset of the last one before them.
    pub behind: u64,
    /// How many of those before them were answered at once.
    pub at_once: usize,
}

/// What was asked about a batch so far.
#[derive(Default)]
struct Asked {
    answers: Vec<Answer>,
    /// What the answers take up, and when that is enough, with what was written to state since.
    bytes: usize,
    room: usize,
    stored_before: usize,
    /// Of which message these are results that are asked apart from others, and what was answered about them.
    apart: Option<((PartitionId, u64, u32), usize)>,
    /// The most messages that were answered at once.
    most_at_once: usize,
    /// The message from which on nothing was asked.
    stopped: Option<usize>,
}

impl Asked {
    /// A range is asked about.
    fn begin(&mut self, batch: &Batch, range: &Range<usize>) {
        let of = batch.is_of_one(range.start, range.end - 1).then(|| batch.rows[range.start].of());
        if of.is_none() || self.apart.map(|(of, _)| of) != of {
            self.apart = of.map(|of| (of, 0));
        }
    }

    /// Whether an answer has room: that of one call, or that about the results of one message together with what was
    /// answered about those before.
    fn fits(&self, bytes: usize, messages: usize, most: usize) -> Result<(), CallError> {
        let taken = self.apart.map_or(0, |(_, taken)| taken);
        let is_first_alone = messages == 1 && taken == 0;
        if is_first_alone || taken.saturating_add(bytes) <= most {
            return Ok(());
        }
        Err(CallError::TooMuch {
            what: format!("more than {most} bytes about all results of one message together"),
            limit: "answer",
        })
    }

    fn take(&mut self, messages: usize, bytes: usize) {
        self.most_at_once = self.most_at_once.max(messages);
        self.bytes += bytes;
        if let Some((_, taken)) = &mut self.apart {
            *taken += bytes;
        }
    }

    /// Takes the answer about what ends at `end`, with what waits to be stored by now.
    fn put(&mut self, answer: Answer, batch: &Batch, end: usize, stored: usize) {
        self.answers.push(answer);
        let bytes = self.bytes + stored.saturating_sub(self.stored_before);
        if bytes > self.room && end < batch.len() && !batch.is_of_one(end - 1, end) {
            self.stopped = Some(end);
        }
    }
}

/// The bytes of some messages.
fn bytes_of(batch: &Batch, range: &Range<usize>) -> usize {
    range.clone().map(|at| batch.frame.get(at).arena_bytes()).sum()
}

/// Where a range is halved: between results of different messages, if it has such.
fn middle(batch: &Batch, range: &Range<usize>) -> usize {
    let middle = range.start + range.len() / 2;
    let is_between = |at: &usize| !batch.is_of_one(at - 1, *at);
    let behind = (middle..range.end).find(is_between);
    behind.or_else(|| (range.start + 1..middle).rev().find(is_between)).unwrap_or(middle)
}

/// The kind and text of a verdict. Neither a fault of the host nor a deadline convicts: both depend on the
/// machine, and a replay would not repeat them.
///
/// # Panics
/// With a [`HostFault`] where it was one of them.
pub(crate) fn verdict(error: CallError) -> (&'static str, String) {
    match error {
        CallError::Host(text) => HostFault(text).end(),
        CallError::Deadline { .. } => HostFault(format!(
            "one message alone, with fuel to spare, {error}: the machine, or what the plugin waits for, is overloaded"
        ))
        .end(),
        error => (error.kind(), error.to_string()),
    }
}

/// State that can't be read must not become results.
///
/// # Panics
/// Always, with a [`HostFault`].
pub(crate) fn unreadable(stage: &str, fault: &StoreError) -> ! {
    HostFault(format!("the state of the stage `{stage}` can't be read: {fault}")).end()
}

/// What calls need to know of their messages, which rise, where the plugin asks for any of it.
pub(crate) fn context(
    info: &GuestInfo,
    stage: &str,
    batch: &Batch,
    messages: impl Iterator<Item = usize>,
    origins: Origins<'_>,
) -> CallContext {
    let mut cx = CallContext::default();
    if info.needs_facts {
        let mut messages = messages.peekable();
        // Counted over the whole batch: a part of it must not be told other numbers.
        let mut ordinals = Ordinals::default();
        for (i, row) in batch.rows.iter().enumerate() {
            let ordinal = ordinals.of(row);
            if messages.next_if_eq(&i).is_some() {
                let time = batch.frame.get(i).timestamp();
                cx.facts.push(MessageFacts {
                    time: if time == TIMESTAMP_NONE { 0 } else { time },
                    seed: seed(stage, &origins.id(row), ordinal),
                });
            }
            if messages.peek().is_none() {
                break;
            }
        }
    }
    cx
}

/// The seed of a message's random numbers: a pure function of what the message is a result of.
fn seed(stage: &str, id: &OutputId<'_>, ordinal: u32) -> u64 {
    let mut bytes = stage.as_bytes().to_vec();
    bytes.push(0);
    match id {
        OutputId::Message { partition, offset, index, .. } => {
            bytes.extend_from_slice(&index.to_le_bytes());
            bytes.extend_from_slice(&partition.source.to_le_bytes());
            bytes.extend_from_slice(&partition.partition.to_le_bytes());
            bytes.extend_from_slice(&offset.to_le_bytes());
        }
        OutputId::Window { key, start, end, .. } => {
            bytes.extend_from_slice(&start.to_le_bytes());
            bytes.extend_from_slice(&end.to_le_bytes());
            bytes.extend_from_slice(key);
        }
        OutputId::Refused { digest, .. } => bytes.extend_from_slice(&digest.to_le_bytes()),
    }
    bytes.extend_from_slice(&ordinal.to_le_bytes());
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

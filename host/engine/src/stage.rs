//! One transform or filter: calls its plugin on a batch, finds the messages that it can't process,
//! and applies its edits.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use wasmill_frame::{Edit, Edits, FrameBuf, MetaKind};

use crate::batch::{Batch, Leaving, Ordinals, Passed, Row};
use crate::dead_letter::{Buried, DeadLetter};
use crate::guest::{CallContext, CallError, Guest, GuestInfo, HostFault, MessageFacts, PluginRef, Trial};
use crate::output::{Outbox, OutputId, Routes};
use crate::plugin_state::{PluginState, StateHandle};
use crate::state::{Delta, Epoch, StoreError};
use crate::time::TIMESTAMP_NONE;

/// The most messages that one call of a plugin may emit for one message.
pub const EMITS_PER_MESSAGE_MAX: usize = 1_000;
/// The most bytes that the copies among them may have together: a copy costs the plugin nothing, the sinks
/// its whole size.
pub const EMITTED_BYTES_PER_MESSAGE_MAX: usize = 16 << 20;

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
            Self::Source => None,
            Self::Windows(firings) => Some(firing(firings, row)),
        }
    }

    /// The output id of a row.
    #[must_use]
    pub fn id(self, row: &Row) -> OutputId<'a> {
        match self {
            Self::Source => OutputId::Message {
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
}

impl Stage {
    /// A stage without state.
    #[must_use]
    pub fn new(spec: &Arc<StageSpec>) -> Self {
        Self { spec: Arc::clone(spec), guest: spec.plugin.guest(), state: None }
    }

    /// A stage behind a key_by, whose plugin may use the keys' state.
    #[must_use]
    pub fn with_state(spec: &Arc<StageSpec>, state: Arc<Mutex<PluginState>>) -> Self {
        Self { spec: Arc::clone(spec), guest: spec.plugin.guest(), state: Some(state) }
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
        if batch.is_empty() {
            return;
        }
        let mut answers = Vec::new();
        self.ask(batch, 0..batch.len(), origins, &mut answers);
        let info = self.spec.plugin.info();
        apply(batch, &answers, &self.spec.name, Some(info), origins, routes, out);
    }

    /// Asks the plugin about a range of the batch; halves it until what fails stands alone.
    fn ask(&mut self, batch: &Batch, range: Range<usize>, origins: Origins<'_>, answers: &mut Vec<Answer>) {
        if let Ok((bytes, emits)) = self.call(batch, &range, origins, Trial::Batch) {
            return answers.push(Answer::Edits { range, bytes, emits });
        }
        if range.len() == 1 {
            // A batch's failure convicts nobody: the verdict is given on a fresh instance, under fuel.
            return answers.push(match self.call(batch, &range, origins, Trial::Verdict) {
                Ok((bytes, emits)) => Answer::Edits { range, bytes, emits },
                Err(error) => {
                    let (kind, reason) = verdict(error);
                    Answer::Failed { index: range.start, kind, reason, attempts: 2 }
                }
            });
        }
        let middle = range.start + range.len() / 2;
        self.ask(batch, range.start..middle, origins, answers);
        self.ask(batch, middle..range.end, origins, answers);
    }

    fn call(
        &mut self,
        batch: &Batch,
        range: &Range<usize>,
        origins: Origins<'_>,
        trial: Trial,
    ) -> Result<(Vec<u8>, bool), CallError> {
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
            let bytes_of = |i: usize| batch.frame.get(range.start + i).arena_bytes();
            let emits = check(&bytes, range.len(), self.spec.kind, bytes_of)?;
            Ok((bytes, emits))
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

/// The kind and text of a verdict. Neither a fault of the host nor a deadline convicts: both depend on the
/// machine, and a replay would not repeat them.
///
/// # Panics
/// With a [`HostFault`] where it was one of them.
pub(crate) fn verdict(error: CallError) -> (&'static str, String) {
    match error {
        CallError::Host(text) => std::panic::panic_any(HostFault(text)),
        CallError::Deadline { .. } => std::panic::panic_any(HostFault(format!(
            "one message alone, with fuel to spare, {error}: the machine is overloaded"
        ))),
        error => (error.kind(), error.to_string()),
    }
}

/// State that can't be read must not become results.
///
/// # Panics
/// Always, with a [`HostFault`].
pub(crate) fn unreadable(stage: &str, fault: &StoreError) -> ! {
    std::panic::panic_any(HostFault(format!("the state of the stage `{stage}` can't be read: {fault}")))
}

/// What calls need to know of the messages, where the plugin asks for any of it.
pub(crate) fn context(
    info: &GuestInfo,
    stage: &str,
    batch: &Batch,
    range: Range<usize>,
    origins: Origins<'_>,
) -> CallContext {
    let mut cx = CallContext::default();
    if info.needs_facts {
        // Counted over the whole batch: a part of it must not be told other numbers.
        let mut ordinals = Ordinals::default();
        let facts = batch.rows[..range.end].iter().enumerate().map(|(i, row)| {
            let time = batch.frame.get(i).timestamp();
            let ordinal = ordinals.of(row);
            MessageFacts {
                time: if time == TIMESTAMP_NONE { 0 } else { time },
                seed: seed(stage, &origins.id(row), ordinal),
            }
        });
        cx.facts.extend(facts.skip(range.start));
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

/// A copy of some messages of a frame.
fn slice(frame: &FrameBuf, range: Range<usize>) -> FrameBuf {
    let bytes = range.clone().map(|i| frame.get(i).arena_bytes()).sum();
    let mut part = FrameBuf::with_capacity(range.len(), bytes);
    for i in range {
        part.push(&frame.get(i).parts());
    }
    part
}

/// Checks an answer: its layout, and what the layout can't say: that a filter only filters, that JSON is
/// JSON, that what becomes of each message is bounded. `bytes_of` is the size of a message. Answers whether
/// any message is emitted.
pub(crate) fn check(
    answer: &[u8],
    messages: usize,
    kind: StageKind,
    bytes_of: impl Fn(usize) -> usize,
) -> Result<bool, CallError> {
    let mut any_emit = false;
    let mut current = usize::MAX;
    let (mut emits, mut bytes) = (0, 0);
    let mut wrong = None;
    Edits::parse_each(answer, messages, |index, edit| {
        if index != current {
            (current, emits, bytes) = (index, 0, 0);
        }
        let found = match edit {
            Edit::Drop | Edit::Fail(_) => None,
            _ if kind == StageKind::Filter => Some("a filter may only drop or fail messages".to_owned()),
            Edit::SetMetadata { name, value, json: true } if !is_json(value) => {
                Some(format!("metadata `{name}` is set to JSON that isn't"))
            }
            Edit::Emit { copy } => {
                any_emit = true;
                emits += 1;
                bytes += if copy { bytes_of(index) } else { 0 };
                (emits > EMITS_PER_MESSAGE_MAX)
                    .then(|| format!("more than {EMITS_PER_MESSAGE_MAX} messages emitted for one"))
            }
            _ => None,
        };
        let found = found.or_else(|| {
            (bytes > EMITTED_BYTES_PER_MESSAGE_MAX).then(|| {
                format!("copies of more than {EMITTED_BYTES_PER_MESSAGE_MAX} bytes emitted for one message")
            })
        });
        wrong = wrong.take().or(found);
    })
    .map_err(|m| CallError::Answer(m.to_string()))?;
    wrong.map_or(Ok(any_emit), |wrong| Err(CallError::Answer(wrong)))
}

/// Whether bytes are one JSON value.
pub(crate) fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<&serde_json::value::RawValue>(bytes).is_ok()
}

/// What the plugin said about a part of a batch.
pub(crate) enum Answer {
    /// Edits, checked, for these messages.
    Edits {
        /// Which messages.
        range: Range<usize>,
        /// The edits' bytes.
        bytes: Vec<u8>,
        /// Whether any message is emitted.
        emits: bool,
    },
    /// One message that it can't process.
    Failed {
        /// Which.
        index: usize,
        /// The error's kind, as metrics label it.
        kind: &'static str,
        /// Why.
        reason: String,
        /// How often it was tried.
        attempts: u32,
    },
}

/// What becomes of one message.
pub(crate) enum Fate<'a> {
    Keep,
    Drop,
    Route(&'a str),
    Fail { kind: &'static str, reason: &'a str, attempts: u32 },
}

/// Applies answers, which stand in the messages' order and cover the batch, and takes out what leaves.
pub(crate) fn apply(
    batch: &mut Batch,
    answers: &[Answer],
    stage: &str,
    plugin: Option<&GuestInfo>,
    origins: Origins<'_>,
    routes: &Routes,
    out: &mut Outbox,
) {
    let messages = batch.len();
    let mut fates: Vec<(usize, Fate<'_>)> = Vec::new();
    let mut emitted: Vec<(usize, usize)> = Vec::new(); // (behind which message, place in the frame)
    for answer in answers {
        match answer {
            Answer::Failed { index, kind, reason, attempts } => {
                fates.push((*index, Fate::Fail { kind, reason, attempts: *attempts }));
            }
            Answer::Edits { range, bytes, emits } => {
                let edits = Edits::open(bytes);
                let mut current = None;
                let mut target = 0;
                let mut original = None;
                for (index, edit) in edits.iter() {
                    let index = range.start + index;
                    if current != Some(index) {
                        current = Some(index);
                        target = index;
                        // What an emitted copy copies: the message as it came, before it is changed.
                        original = emits.then(|| batch.frame.record(index));
                    }
                    match edit {
                        Edit::Drop => fates.push((target, Fate::Drop)),
                        Edit::Output(name) => fates.push((target, Fate::Route(name))),
                        Edit::Fail(reason) => {
                            fates.push((target, Fate::Fail { kind: "error", reason, attempts: 1 }));
                        }
                        Edit::Emit { copy } => {
                            if let Some(original) = &original {
                                batch.frame.push_record(original);
                            }
                            target = messages + emitted.len();
                            emitted.push((index, target));
                            if !copy {
                                batch.frame.set_payload(target, b"", false);
                                batch.frame.clear_metadata(target);
                            }
                        }
                        edit => change(&mut batch.frame, target, edit),
                    }
                }
            }
        }
    }
    if fates.is_empty() && emitted.is_empty() {
        return;
    }
    // A bisected scan's answers may each add messages behind any of the frame's.
    emitted.sort_by_key(|(behind, _)| *behind);
    let leaving = LeavingAt { stage, plugin, origins, routes };
    leaving.take_out(batch, &fates, &emitted, out);
}

/// Where messages leave the main way.
pub(crate) struct LeavingAt<'a> {
    pub stage: &'a str,
    pub plugin: Option<&'a GuestInfo>,
    pub origins: Origins<'a>,
    pub routes: &'a Routes,
}

impl LeavingAt<'_> {
    /// Puts emitted messages in their places and takes out what leaves.
    pub fn take_out(
        &self,
        batch: &mut Batch,
        fates: &[(usize, Fate<'_>)],
        emitted: &[(usize, usize)],
        out: &mut Outbox,
    ) {
        rebuild(batch, fates, emitted, |frame, index, (row, ordinal), fate| {
            let id = self.origins.id(row).left_at(self.stage, ordinal);
            let message = frame.get(index);
            let bury = |out: &mut Outbox, kind, reason: &str, attempts| {
                let why = DeadLetter { reason, kind, stage: self.stage, plugin: self.plugin, attempts };
                out.bury(self.routes, &why, Buried::Message(message), &id);
            };
            let dead = out.dead;
            match fate {
                Fate::Route(name) => match self.routes.named(name) {
                    Ok(sinks) => out.send(self.routes, sinks, message, &id),
                    Err(reason) => bury(out, "error", &reason, 1),
                },
                Fate::Fail { kind, reason, attempts } => bury(out, kind, reason, *attempts),
                Fate::Keep | Fate::Drop => {}
            }
            out.dead > dead
        });
    }
}

/// Sets an event time in the form that the message's came in: the text is the encoder's to renew.
pub(crate) fn retime(frame: &mut FrameBuf, index: usize, time: i64) {
    let as_text = frame.get(index).metadata().timestamp_text().is_some();
    frame.set_timestamp(index, time, as_text.then_some(""));
}

/// One edit of a message's own fields.
fn change(frame: &mut FrameBuf, target: usize, edit: Edit<'_>) {
    match edit {
        Edit::Payload(payload) => frame.set_payload(target, payload, false),
        Edit::Key(key) => frame.set_key(target, key),
        Edit::Timestamp(time) => retime(frame, target, time),
        Edit::Kind(kind) => frame.set_kind(target, kind),
        Edit::Id(id) => frame.set_id(target, id),
        Edit::SetMetadata { name, value, json } => {
            let kind = if json { MetaKind::Json } else { MetaKind::Text };
            frame.set_metadata(target, kind, name, value);
        }
        Edit::RemoveMetadata(name) => frame.remove_metadata(target, name),
        Edit::Drop | Edit::Output(_) | Edit::Fail(_) | Edit::Emit { .. } => {}
    }
}

/// Puts emitted messages in their places and takes out what leaves; `leave` is told of each that is
/// neither kept nor dropped, and answers whether it became a dead letter.
fn rebuild<'a>(
    batch: &mut Batch,
    fates: &[(usize, Fate<'a>)],
    emitted: &[(usize, usize)],
    mut leave: impl FnMut(&FrameBuf, usize, (&Row, u32), &Fate<'a>) -> bool,
) {
    let messages = batch.len();
    let total = messages + emitted.len();
    // The first fate that is not Keep decides: a message that failed stays failed.
    let mut fate: Vec<&Fate<'a>> = vec![&Fate::Keep; total];
    for (index, f) in fates.iter().rev() {
        fate[*index] = f;
    }
    let mut order = Vec::with_capacity(total);
    // Nothing emitted, the usual case: rows only move towards the front, in place.
    let mut rows = std::mem::take(&mut batch.rows);
    let mut grown = Vec::with_capacity(if emitted.is_empty() { 0 } else { total });
    let mut leaving = Leaving::new();
    let mut emits = emitted.iter().peekable();
    let mut ordinals = Ordinals::default();
    for message in 0..messages {
        let behind = std::iter::from_fn(|| emits.next_if(|(m, _)| *m == message).map(|(_, place)| *place));
        for place in std::iter::once(message).chain(behind) {
            let mut row = rows[message];
            if place != message {
                row.own = Passed::NONE;
                row.passed = Passed::NONE;
            }
            let ordinal = ordinals.of(&row);
            if matches!(fate[place], Fate::Keep) {
                leaving.stay(&mut row);
                if emitted.is_empty() {
                    rows[order.len()] = row;
                } else {
                    grown.push(row);
                }
                order.push(place);
                continue;
            }
            let time = batch.frame.get(place).timestamp();
            let dropped = matches!(fate[place], Fate::Drop);
            let dead = leave(&batch.frame, place, (&row, ordinal), fate[place]);
            // TIMESTAMP_NONE is START: no event time, no progress.
            leaving.leave(&row, time, dropped, dead);
        }
    }
    batch.tail = leaving.tail().and(batch.tail);
    batch.frame.arrange(&order);
    rows.truncate(order.len());
    batch.rows = if emitted.is_empty() { rows } else { grown };
}

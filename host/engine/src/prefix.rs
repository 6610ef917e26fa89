//! The prefix: decode, event time, stateless stages, bounds on event times, key. It keeps no state, so several
//! workers may run a partition's batches side by side; the coordinator puts the results back in order.

use std::sync::Arc;

use wasmill_frame::{FrameBuf, Message};

use crate::answer::{Fate, LeavingAt, retime};
use crate::batch::{Batch, Leaving, Passed, Row};
use crate::dead_letter::{Buried, DeadLetter, Records};
use crate::input::{Carried, RawBatch};
use crate::key::{Found, OnNull};
use crate::lane::send_main;
use crate::output::{Outbox, OutputId, Routes};
use crate::position::PartitionId;
use crate::replay::{Entry, Letter, ReplayDecoder, Replayed};
use crate::stage::{Origins, Remaining, Stage};
use crate::stored_key::too_long;
use crate::time::{START, TIMESTAMP_NONE, timestamp_in_range};
use crate::topology::{OnAhead, TimeSpec, Topology, Via};

/// About how much of a raw batch's results are made at once: what has more goes on in parts.
const PART_BYTES: usize = 16 << 20;
/// How many dead letters are put through again at once: what comes of them is a part, however much it is.
const LETTERS_MAX: usize = 8;

/// A raw batch on its way through the prefix.
#[derive(Debug)]
pub struct Work {
    raw: RawBatch,
    sequence: u64,
    /// The messages that are not through yet, the first ones last.
    rests: Vec<Rest>,
    /// What has left beside the main way of records whose messages are not through.
    out: Option<Outbox>,
    /// What the raw batch took up in memory before any of it was through.
    raw_bytes: usize,
}

/// Messages that a stage is to be run on.
#[derive(Debug)]
struct Rest {
    stage: usize,
    batch: Batch,
    /// How many it is asked about at once.
    at_once: usize,
    /// The offset from which on their records are.
    from: u64,
}

impl Work {
    /// A raw batch, with which one of its partition's it is, counted from 0.
    #[must_use]
    pub fn new(raw: RawBatch, sequence: u64) -> Self {
        let raw_bytes = raw.held_bytes();
        Self { raw, sequence, rests: Vec::new(), out: None, raw_bytes }
    }

    /// Whose it is.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.raw.partition
    }

    /// Which raw batch of the partition.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

/// What the prefix made of a raw batch, or of a part of it.
#[derive(Debug)]
pub struct Prepared {
    /// Whose.
    pub partition: PartitionId,
    /// Which raw batch of the partition, counted from 0: results come back in any order.
    pub sequence: u64,
    /// Whether more of the raw batch comes behind it, under the same number.
    pub is_part: bool,
    /// What goes on to the lanes; without lanes its messages are in `out` already.
    pub batch: Batch,
    /// What leaves here.
    pub out: Outbox,
    /// What of the raw batch's memory is free once this is out of the way: of a part that is not the last one, none.
    pub raw_bytes: usize,
    /// What it takes up now, at least as much.
    pub held_bytes: usize,
}

/// The prefix as one worker runs it.
pub struct Prefix {
    topology: Arc<Topology>,
    routes: Arc<Routes>,
    stages: Vec<Stage>,
    key: Vec<u8>,
    /// Whether keys are bounded, as those are by which state is kept.
    bounds_keys: bool,
    part_bytes: usize,
}

impl Prefix {
    /// A prefix with guests of its own.
    #[must_use]
    pub fn new(topology: &Arc<Topology>, routes: &Arc<Routes>) -> Self {
        Self {
            stages: topology.prefix.iter().map(Stage::new).collect(),
            topology: Arc::clone(topology),
            routes: Arc::clone(routes),
            key: Vec::new(),
            bounds_keys: topology.keeps_state(),
            part_bytes: PART_BYTES,
        }
    }

    /// As it is, with parts of about so many bytes.
    #[must_use]
    pub fn in_parts_of(self, part_bytes: usize) -> Self {
        Self { part_bytes, ..self }
    }

    /// Runs a raw batch, or what is left of one. Where much comes of it, a part of its records is done, and what is left
    /// is answered too: to be run by this edition's prefix once the part is out of the way.
    pub fn run(&mut self, work: Work) -> (Prepared, Option<Work>) {
        let topology = Arc::clone(&self.topology);
        match topology.decoders[usize::from(work.raw.partition.source)].replay() {
            None => self.run_records(work),
            Some(decoder) => self.run_letters(decoder, work),
        }
    }

    fn run_records(&mut self, mut work: Work) -> (Prepared, Option<Work>) {
        let mut out = work.out.take().unwrap_or_else(|| Outbox::new(&self.routes));
        let records = Records::Raw(&work.raw);
        let mut rests = work.rests;
        if rests.is_empty() {
            let mut batch = self.decode(&work.raw, &mut out);
            self.set_times(&mut batch, records, &mut out);
            rests.push(Rest { stage: 0, batch, at_once: usize::MAX, from: 0 });
        }
        let mut done: Option<Batch> = None;
        while let Some(Rest { stage, mut batch, at_once, .. }) = rests.pop() {
            self.go_on(&mut batch, (stage, at_once), &work.raw, &mut rests, &mut out);
            self.end(&mut batch, (Entry::Source, records), &mut out);
            match &mut done {
                None => done = Some(batch),
                Some(done) => done.append(batch),
            }
            if done.as_ref().map_or(0, |done| done.frame.size_bytes()) + out.size_bytes() > self.part_bytes {
                break;
            }
        }
        let Some(mut batch) = done else { unreachable!("what is left of a raw batch has messages") };
        out.sort_by_offset();
        let Some(from) = rests.last().map(|rest| rest.from) else {
            return (prepared(&work.raw, work.sequence, batch, out, Some(work.raw_bytes)), None);
        };
        batch.next = from;
        let mut part = out.take_before(from);
        part.unrouted = std::mem::take(&mut out.unrouted);
        let prepared = prepared(&work.raw, work.sequence, batch, part, None);
        (prepared, Some(Work { rests, out: Some(out), ..work }))
    }

    /// Puts a batch through the stages from one on, which is asked about so many messages at once. What a stage leaves for
    /// later is put to the rests, and the batch ends before it.
    fn go_on(
        &mut self,
        batch: &mut Batch,
        (first, mut at_once): (usize, usize),
        raw: &RawBatch,
        rests: &mut Vec<Rest>,
        out: &mut Outbox,
    ) {
        for number in first..self.stages.len() {
            let origins = Origins::Records(Records::Raw(raw));
            let bounds = (self.part_bytes, std::mem::replace(&mut at_once, usize::MAX));
            let left = self.stages[number].run_some(batch, origins, bounds, &self.routes, out);
            if let Some(Remaining { batch, behind, at_once }) = left {
                let from = raw.at(behind).map_or(behind + 1, |record| record.next);
                rests.push(Rest { stage: number, batch, at_once, from });
            }
        }
    }

    /// What is done behind the stages: bounds on event times, keys, numbers, and without lanes the sinks.
    fn end(&mut self, batch: &mut Batch, (entry, records): (Entry, Records<'_>), out: &mut Outbox) {
        match entry {
            Entry::Key | Entry::Keyed(_) => {}
            _ => self.bound_times(batch, records, out),
        }
        // A stage behind the key_by may have changed what that looks at: the key is as it was there.
        let keep = matches!(entry, Entry::Keyed(first) if first > 0);
        self.set_keys(batch, keep, records, out);
        if let Entry::Keyed(first) = entry {
            batch.enters = true;
            batch.rows.iter_mut().for_each(|row| row.enter = first);
        }
        batch.number();
        if !self.topology.has_lanes() {
            let dead = out.dead;
            send_main(batch, Origins::Records(records), &self.routes, out);
            batch.tail.dead += u32::try_from(out.dead - dead).unwrap_or(u32::MAX);
        }
    }

    /// Runs some dead letters that are put through again.
    fn run_letters(&mut self, decoder: &ReplayDecoder, mut work: Work) -> (Prepared, Option<Work>) {
        let mut out = Outbox::new(&self.routes);
        let next = work.raw.next;
        let behind = work.raw.records.split_off(LETTERS_MAX.min(work.raw.records.len()));
        if let (false, Some(last)) = (behind.is_empty(), work.raw.records.last()) {
            work.raw.next = last.next;
        }
        let batch = self.put_through(decoder, &work.raw, &mut out);
        out.sort_by_offset();
        let freed = behind.is_empty().then_some(work.raw_bytes);
        let prepared = prepared(&work.raw, work.sequence, batch, out, freed);
        let raw = RawBatch { records: behind, next, ..work.raw };
        (prepared, (!raw.records.is_empty()).then_some(Work { raw, ..work }))
    }

    /// Puts a stretch of dead letters through what is behind their entry.
    fn go(&mut self, batch: &mut Batch, entry: Entry, records: Records<'_>, out: &mut Outbox) {
        let first = match entry {
            Entry::Decode(_) | Entry::Source => {
                self.set_times(batch, records, out);
                0
            }
            Entry::Stage(first) => first,
            Entry::Time | Entry::Key | Entry::Keyed(_) | Entry::Sink { .. } => self.stages.len(),
        };
        for stage in self.stages.iter_mut().skip(first) {
            stage.run(batch, Origins::Records(records), &self.routes, out);
        }
        self.end(batch, (entry, records), out);
    }

    /// Puts dead letters through again: in stretches that enter at the same stage, in their order.
    fn put_through(&mut self, decoder: &ReplayDecoder, raw: &RawBatch, out: &mut Outbox) -> Batch {
        let mut envelopes = FrameBuf::with_capacity(raw.records.len(), raw.data.len());
        let decoded: Vec<Result<usize, String>> = raw
            .records
            .iter()
            .map(|record| match &record.rejected {
                Some(reason) => Err(reason.clone()),
                None => {
                    let place = envelopes.len();
                    decoder.envelope.decode(record, raw, &mut envelopes).map(|()| place)
                }
            })
            .collect();
        let letters: Vec<Result<Letter<'_>, String>> =
            decoded.iter().map(|place| Letter::of(envelopes.get(place.clone()?))).collect();
        let told = raw.records.iter().zip(&letters);
        let told: Vec<Replayed> =
            told.filter_map(|(record, letter)| Some(letter.as_ref().ok()?.replayed(record.offset))).collect();
        let records = Records::Replayed(&told);
        let empty = || Batch::with_capacity(raw.partition, raw.next, raw.records.len(), raw.data.len());
        let mut whole = empty();
        let mut stretch: Option<(Entry, Batch)> = None;
        for ((record, place), letter) in raw.records.iter().zip(&decoded).zip(&letters) {
            let entry = match letter {
                Ok(letter) => letter.entry(&self.topology, self.routes.len()).map(|entry| (entry, letter)),
                Err(reason) => Err(reason.clone()),
            };
            let at = entry.as_ref().ok().map(|(entry, _)| *entry);
            if stretch.as_ref().is_some_and(|(of, _)| Some(*of) != at)
                && let Some((of, batch)) = stretch.take()
            {
                self.end_stretch(of, batch, &mut whole, records, out);
            }
            let mut batch = match stretch.take() {
                Some((_, batch)) => batch,
                None => {
                    let mut batch = empty();
                    batch.tail = std::mem::replace(&mut whole.tail, Passed::NONE);
                    batch
                }
            };
            let added = entry
                .map_err(|reason| ("replay", reason))
                .and_then(|of| self.add(decoder, of, record.offset, &mut batch));
            if let Err((kind, reason)) = added {
                let (stage, what) = match (place, letter) {
                    (Ok(_), Ok(_)) if kind == "decode" => ("source", (Buried::Record, records)),
                    (Ok(place), Ok(_)) => ("replay", (Buried::Letter(envelopes.get(*place)), records)),
                    _ => ("replay", (Buried::Record, Records::Raw(raw))),
                };
                self.bury(raw.partition, record.offset, (stage, kind, &reason), what, out);
                batch.tail = batch.tail.and(Passed { read: 1, dead: 1, ..Passed::NONE });
            }
            match at {
                Some(at) => stretch = Some((at, batch)),
                None => whole.append(batch),
            }
        }
        if let Some((of, batch)) = stretch {
            self.end_stretch(of, batch, &mut whole, records, out);
        }
        whole
    }

    /// Adds a letter's message to a batch, or says of what kind its failure is, and why.
    fn add(
        &self,
        decoder: &ReplayDecoder,
        (entry, letter): (Entry, &Letter<'_>),
        offset: u64,
        batch: &mut Batch,
    ) -> Result<(), (&'static str, String)> {
        let cant_enter = |reason| ("replay", reason);
        match entry {
            Entry::Decode(source) => {
                let original = letter.original(source, offset).map_err(cant_enter)?;
                let decoder = &self.topology.decoders[usize::from(source)];
                for record in &original.records {
                    let decoded = decoder.decode(record, &original, &mut batch.frame);
                    decoded.map_err(|reason| ("decode", reason))?;
                }
            }
            _ => letter.push_message(decoder.parse_time, &mut batch.frame).map_err(cant_enter)?,
        }
        let latest = self.topology.max_ahead.zip(letter.appended_ms());
        batch.push_row(offset, latest.map_or(i64::MAX, |(most, from)| from.saturating_add(most.ms)));
        Ok(())
    }

    /// Puts a stretch through, behind the others.
    fn end_stretch(
        &mut self,
        entry: Entry,
        mut batch: Batch,
        whole: &mut Batch,
        records: Records<'_>,
        out: &mut Outbox,
    ) {
        let Entry::Sink { number, and_behind } = entry else {
            self.go(&mut batch, entry, records, out);
            return whole.append(batch);
        };
        let dead = out.dead;
        let origins = Origins::Records(records);
        let mut leaving = Leaving::new();
        for (message, row) in batch.frame.view().iter().zip(&batch.rows) {
            out.send_again(&self.routes, (number, and_behind), message, &origins.id(row), Some(records));
            leaving.leave(row, START, false, false);
        }
        whole.tail = leaving.tail().and(batch.tail);
        whole.tail.dead += u32::try_from(out.dead - dead).unwrap_or(u32::MAX);
    }

    fn decode(&self, raw: &RawBatch, out: &mut Outbox) -> Batch {
        let decoder = &self.topology.decoders[usize::from(raw.partition.source)];
        let mut batch = Batch::with_capacity(raw.partition, raw.next, raw.records.len(), raw.data.len());
        for record in &raw.records {
            // What the reader could not take whole says nothing that could be trusted.
            let carried = match record.rejected {
                Some(_) => Carried::Nothing,
                None => decoder.carried(record, &raw.data),
            };
            match carried {
                Carried::Nothing => {}
                Carried::Stamp(time) => batch.tail = batch.tail.and(Passed { time, ..Passed::NONE }),
                Carried::Mark(time) => {
                    batch.tail = batch.tail.and(Passed { time, ..Passed::NONE });
                    continue;
                }
            }
            let before = batch.frame.len();
            let decoded = match &record.rejected {
                Some(reason) => Err(reason.clone()),
                None => decoder.decode(record, raw, &mut batch.frame),
            };
            match decoded {
                Ok(()) => {
                    debug_assert_eq!(batch.frame.len(), before + 1);
                    let latest = self.topology.max_ahead.zip(record.appended_ms);
                    let latest = latest.map_or(i64::MAX, |(most, from)| from.saturating_add(most.ms));
                    batch.push_row(record.offset, latest);
                }
                Err(reason) => {
                    let reason = match record.line {
                        Some(line) => format!("line {line}: {reason}"),
                        None => reason,
                    };
                    let what = (Buried::Record, Records::Raw(raw));
                    self.bury(raw.partition, record.offset, ("source", "decode", &reason), what, out);
                    batch.tail = batch.tail.and(Passed { read: 1, dead: 1, ..Passed::NONE });
                }
            }
        }
        batch
    }

    /// Sets the event times, where the decoders don't.
    fn set_times(&self, batch: &mut Batch, records: Records<'_>, out: &mut Outbox) {
        let Some(time) = &self.topology.time else { return };
        for index in 0..batch.len() {
            match event_time(time, batch.frame.get(index)) {
                Ok(ms) => retime(&mut batch.frame, index, ms),
                Err(reason) => batch.fail(index, "time", reason),
            }
        }
        self.take_out_failed(batch, "source", records, out);
    }

    /// Deals with event times too far ahead of the log, as the stages have left them.
    fn bound_times(&self, batch: &mut Batch, records: Records<'_>, out: &mut Outbox) {
        let Some(most) = self.topology.max_ahead else { return };
        for index in 0..batch.len() {
            let (time, latest) = (batch.frame.get(index).timestamp(), batch.rows[index].latest);
            if time <= latest {
                continue;
            }
            match most.beyond {
                OnAhead::Clamp => {
                    retime(&mut batch.frame, index, latest);
                    batch.rows[index].own.clamped += 1;
                }
                OnAhead::DeadLetter => {
                    let appended = latest - most.ms;
                    let ahead = time - appended;
                    let reason = format!(
                        "the event time {time} is {ahead} ms ahead of {appended}, when the log took the message in: more than `max_ahead`, which is {} ms",
                        most.ms
                    );
                    batch.fail(index, "time", reason);
                }
            }
        }
        self.take_out_failed(batch, "time", records, out);
    }

    /// Sets the keys; of messages that have one already it is kept where that is asked, and those that came through a
    /// topic have theirs. One that is too long to keep state by makes a dead letter: no store would take it, and a commit
    /// that fails is tried again for ever.
    fn set_keys(&mut self, batch: &mut Batch, keep: bool, records: Records<'_>, out: &mut Outbox) {
        let Some(spec) = &self.topology.key else { return };
        let keep_all = matches!(self.topology.via, Via::BehindTopic(_));
        for index in 0..batch.len() {
            let has_key = keep_all || (keep && batch.frame.get(index).key().is_some());
            let set = if has_key { Ok(true) } else { spec.extract(batch.frame.get(index), &mut self.key) };
            match set {
                Ok(true) => {
                    if !has_key {
                        batch.frame.set_key(index, Some(&self.key));
                    }
                    if self.bounds_keys
                        && let Some(reason) = batch.frame.get(index).key().and_then(too_long)
                    {
                        batch.fail(index, "key", reason);
                    }
                }
                Ok(false) => match spec.on_null {
                    OnNull::Shared => batch.frame.set_key(index, Some(b"")),
                    OnNull::Drop => batch.fail(index, "", String::new()),
                    OnNull::DeadLetter => {
                        let paths: Vec<String> = spec.paths.iter().map(ToString::to_string).collect();
                        batch.fail(index, "key", format!("no key: nothing at `{}`", paths.join("`, `")));
                    }
                },
                Err(reason) => batch.fail(index, "key", reason),
            }
        }
        self.take_out_failed(batch, "key_by", records, out);
    }

    /// Takes the messages out that failed in the host's own steps; one without a kind is dropped.
    fn take_out_failed(&self, batch: &mut Batch, stage: &str, records: Records<'_>, out: &mut Outbox) {
        let failed = batch.take_failed();
        if failed.is_empty() {
            return;
        }
        let fate = |kind: &'static str, reason| match kind {
            "" => Fate::Drop,
            kind => Fate::Fail { kind, reason, attempts: 1 },
        };
        let fates: Vec<_> = failed.iter().map(|(index, kind, reason)| (*index, fate(kind, reason))).collect();
        let leaving =
            LeavingAt { stage, plugin: None, origins: Origins::Records(records), routes: &self.routes };
        leaving.take_out(batch, &fates, &[], out);
    }

    /// Makes a dead letter of a record that is no message.
    fn bury(
        &self,
        partition: PartitionId,
        offset: u64,
        (stage, kind, reason): (&str, &'static str, &str),
        (what, records): (Buried<'_>, Records<'_>),
        out: &mut Outbox,
    ) {
        let why = DeadLetter { reason, kind, stage, plugin: None, attempts: 1 };
        out.bury(
            &self.routes,
            &why,
            what,
            &OutputId::Message { partition, offset, index: 0, emit: 0, left_at: "source" },
            Some(records),
        );
    }
}

/// What was made of a raw batch, or of a part of it; of the last one `freed` is what it took up.
fn prepared(raw: &RawBatch, sequence: u64, batch: Batch, out: Outbox, freed: Option<usize>) -> Prepared {
    let raw_bytes = freed.unwrap_or(0);
    let rows_bytes = batch.len() * size_of::<Row>();
    let held_bytes = raw_bytes.max(batch.frame.size_bytes() + rows_bytes + out.size_bytes());
    let is_part = freed.is_none();
    Prepared { partition: raw.partition, sequence, is_part, batch, out, raw_bytes, held_bytes }
}

fn event_time(spec: &TimeSpec, message: Message<'_>) -> Result<i64, String> {
    let text = match spec.path.find(message)? {
        Found::Null => return Err(format!("no event time: nothing at `{}`", spec.path)),
        Found::Nested(_) => {
            return Err(format!("the event time at `{}` is an object or an array", spec.path));
        }
        Found::Literal(text) => text.into_owned(),
        Found::Text(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
    };
    let ms = (spec.parse)(&text).map_err(|e| format!("the event time at `{}`: {e}", spec.path))?;
    if ms == TIMESTAMP_NONE || !timestamp_in_range(ms) {
        return Err(format!("the event time {ms} at `{}` is not between 1970 and 9999", spec.path));
    }
    Ok(ms)
}

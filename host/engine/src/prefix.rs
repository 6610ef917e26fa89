//! The prefix: decode, event time, stateless stages, bounds on event times, key. It keeps no state, so several
//! workers may run a partition's batches side by side; the coordinator puts the results back in order.

use std::sync::Arc;

use wasmill_frame::Message;

use crate::answer::{Fate, LeavingAt, retime};
use crate::batch::{Batch, Passed, Row};
use crate::dead_letter::{Buried, DeadLetter};
use crate::input::{Carried, RawBatch};
use crate::key::{Found, OnNull};
use crate::lane::send_main;
use crate::output::{Outbox, OutputId, Routes};
use crate::position::PartitionId;
use crate::stage::{Origins, Stage};
use crate::time::{TIMESTAMP_NONE, timestamp_in_range};
use crate::topology::{OnAhead, TimeSpec, Topology, Via};

/// What the prefix made of a raw batch.
#[derive(Debug)]
pub struct Prepared {
    /// Whose.
    pub partition: PartitionId,
    /// Which raw batch of the partition, counted from 0: results come back in any order.
    pub sequence: u64,
    /// What goes on to the lanes; without lanes its messages are in `out` already.
    pub batch: Batch,
    /// What leaves here.
    pub out: Outbox,
    /// What the raw batch took up in memory.
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
        }
    }

    /// Runs one raw batch.
    pub fn run(&mut self, raw: &RawBatch, sequence: u64) -> Prepared {
        let mut out = Outbox::new(&self.routes);
        let mut batch = self.decode(raw, &mut out);
        for stage in &mut self.stages {
            stage.run(&mut batch, Origins::Records(raw), &self.routes, &mut out);
        }
        self.bound_times(&mut batch, raw, &mut out);
        self.set_keys(&mut batch, raw, &mut out);
        batch.number();
        if !self.topology.has_lanes() {
            let dead = out.dead;
            send_main(&batch, Origins::Records(raw), &self.routes, &mut out);
            batch.tail.dead += u32::try_from(out.dead - dead).unwrap_or(u32::MAX);
        }
        out.sort_by_offset();
        let raw_bytes = raw.held_bytes();
        let rows_bytes = batch.len() * size_of::<Row>();
        let held_bytes = raw_bytes.max(batch.frame.size_bytes() + rows_bytes + out.size_bytes());
        Prepared { partition: raw.partition, sequence, batch, out, raw_bytes, held_bytes }
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
                None => decoder.decode(record, &raw.data, &mut batch.frame),
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
                    self.bury(raw, record.offset, "decode", &reason, out);
                    batch.tail = batch.tail.and(Passed { read: 1, dead: 1, ..Passed::NONE });
                }
            }
        }
        if let Some(time) = &self.topology.time {
            for index in 0..batch.len() {
                match event_time(time, batch.frame.get(index)) {
                    Ok(ms) => retime(&mut batch.frame, index, ms),
                    Err(reason) => batch.fail(index, "time", reason),
                }
            }
            self.take_out_failed(&mut batch, "source", raw, out);
        }
        batch
    }

    /// Deals with event times too far ahead of the log, as the stages have left them.
    fn bound_times(&self, batch: &mut Batch, raw: &RawBatch, out: &mut Outbox) {
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
        self.take_out_failed(batch, "time", raw, out);
    }

    fn set_keys(&mut self, batch: &mut Batch, raw: &RawBatch, out: &mut Outbox) {
        let Some(spec) = &self.topology.key else { return };
        if let Via::BehindTopic(_) = self.topology.via {
            return;
        }
        for index in 0..batch.len() {
            match spec.extract(batch.frame.get(index), &mut self.key) {
                Ok(true) => batch.frame.set_key(index, Some(&self.key)),
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
        self.take_out_failed(batch, "key_by", raw, out);
    }

    /// Takes the messages out that failed in the host's own steps; one without a kind is dropped.
    fn take_out_failed(&self, batch: &mut Batch, stage: &str, raw: &RawBatch, out: &mut Outbox) {
        let failed = batch.take_failed();
        if failed.is_empty() {
            return;
        }
        let fate = |kind: &'static str, reason| match kind {
            "" => Fate::Drop,
            kind => Fate::Fail { kind, reason, attempts: 1 },
        };
        let fates: Vec<_> = failed.iter().map(|(index, kind, reason)| (*index, fate(kind, reason))).collect();
        let leaving = LeavingAt { stage, plugin: None, origins: Origins::Records(raw), routes: &self.routes };
        leaving.take_out(batch, &fates, &[], out);
    }

    /// Makes a dead letter of a record that is no message.
    fn bury(&self, raw: &RawBatch, offset: u64, kind: &'static str, reason: &str, out: &mut Outbox) {
        let why = DeadLetter { reason, kind, stage: "source", plugin: None, attempts: 1 };
        out.bury(
            &self.routes,
            &why,
            Buried::Record,
            &OutputId::Message { partition: raw.partition, offset, index: 0, emit: 0, left_at: "source" },
            Some(raw),
        );
    }
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

//! Exactly once from Redis to Redis without state: an entry is acknowledged in one step with what is written of it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::{Cmd, Script};
use wasmill_engine::output::EncodedBatch;
use wasmill_engine::state::{Checkpoint, Delta, Epoch, StateStore, StoreError, VisitEntry};

use super::acks::RedisAcks;
use super::acks_sink::AcksSink;
use super::beside;
use super::entry::EntryId;
use super::spec::{RedisSinkSpec, RedisSourceSpec};
use super::write::{STEP_BYTES_MAX, STEP_ENTRIES_MAX, places, query, run};
use crate::redis_durable::Durable;
use crate::redis_link::SharedLink;
use crate::{ConnectorError, Sink};

/// A store for stateless pipelines in queue mode whose source and sinks are on the same Redis. It keeps no state:
/// its commit acknowledges entries and writes their outputs, an entry with all its outputs at once, and only if
/// nobody has acknowledged it before. So each entry's outputs are written once, whoever had it in hand, and
/// however often.
///
/// A commit is several scripts where it is large. Each is whole for its entries, so a crash between two of them
/// leaves entries that are done, and entries that are pending still.
///
/// Outputs of no message of the source are written without such a guard: where an answer is lost, twice.
pub struct RedisAcksStore {
    source: RedisSourceSpec,
    link: SharedLink,
    acks: RedisAcks,
    pipeline: String,
    script: Script,
    held: Mutex<Held>,
    durable: Mutex<Durable>,
    must_be_exact: AtomicBool,
    again: AtomicU64,
}

#[derive(Default)]
struct Held {
    sinks: Vec<RedisSinkSpec>,
    /// What is flushed or yet to be, until its entry is committed: the host bounds how much an epoch has.
    outputs: VecDeque<Output>,
}

struct Output {
    /// The offset of the entry that it is a result of.
    origin: Option<u64>,
    sink: usize,
    data: Arc<Vec<u8>>,
    id: Range<usize>,
    value: Range<usize>,
}

impl Output {
    fn bytes(&self) -> usize {
        self.id.len() + self.value.len() + 64
    }

    fn add_to(&self, step: &mut Cmd) {
        step.arg(self.sink).arg(&self.data[self.id.clone()]).arg(&self.data[self.value.clone()]);
    }
}

impl RedisAcksStore {
    /// A store for the source that `acks` is of ([`Source::redis_acks`](crate::Source::redis_acks)); connects to
    /// nothing yet.
    ///
    /// # Errors
    /// What is wrong with the source's spec.
    pub fn new(source: &RedisSourceSpec, acks: RedisAcks, pipeline: &str) -> Result<Self, StoreError> {
        let link = source.link().map_err(|e| StoreError::Io {
            what: format!("cannot open the store of pipeline `{pipeline}`"),
            cause: e.to_string(),
        })?;
        acks.give_to_store();
        Ok(Self {
            source: source.clone(),
            link,
            acks,
            pipeline: pipeline.to_owned(),
            script: Script::new(include_str!("acks.lua")),
            held: Mutex::default(),
            durable: Mutex::new(Durable::new(source.address(), beside(&source.stream, "settled"))),
            must_be_exact: AtomicBool::new(false),
            again: AtomicU64::new(0),
        })
    }

    /// A sink whose messages this store writes.
    ///
    /// # Errors
    /// What is wrong with the sink's spec; when it is on another Redis.
    pub fn sink(self: &Arc<Self>, spec: &RedisSinkSpec) -> Result<Box<dyn Sink>, ConnectorError> {
        spec.check()?;
        if !spec.is_same_redis(&self.source) {
            return Err(ConnectorError::Fatal(format!(
                "the sink's Redis is {}, the source's {}: entries are acknowledged together with what is written of them only within one server and database",
                spec.address(),
                self.source.address()
            )));
        }
        let mut held = self.held();
        held.sinks.push(spec.clone());
        Ok(Box::new(AcksSink::new(Arc::clone(self), held.sinks.len() - 1, spec.stream.clone())))
    }

    /// From now on the pipeline must be exactly once: makes sure that the server keeps what it answered, and sees
    /// to it that each start of the server is followed by a rewrite of its append-only file before anything is
    /// committed. The store's sinks ask for it by themselves, when they recover for such a pipeline.
    ///
    /// # Errors
    /// When the server is away, or doesn't sync each write, with what to do.
    pub fn must_be_exact(&self) -> Result<(), StoreError> {
        self.must_be_exact.store(true, Ordering::Relaxed);
        self.durable().check(&self.link)
    }

    /// How many entries somebody had acknowledged before, so that nothing was written of them, since the process
    /// began.
    #[must_use]
    pub fn acknowledged_before(&self) -> u64 {
        self.again.load(Ordering::Relaxed)
    }

    pub(super) fn link(&self) -> &SharedLink {
        &self.link
    }

    fn durable(&self) -> MutexGuard<'_, Durable> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a sink's messages until their entries are committed.
    pub(super) fn keep(&self, sink: usize, batch: &EncodedBatch) {
        let data = Arc::new(batch.data.clone());
        self.held().outputs.extend(batch.records.iter().map(|record| {
            let (id, value) = places(record);
            let origin = record.origin.map(|(_, offset)| offset);
            Output { origin, sink, data: Arc::clone(&data), id, value }
        }));
    }

    /// One script: as many entries before `up_to`, with their outputs, as it may take. Answers how many outputs
    /// and entries it has.
    fn step(&self, held: &Held, up_to: u64) -> Option<(Cmd, usize, usize)> {
        let (first, ids) = self.acks.before(up_to, STEP_ENTRIES_MAX);
        let mut keys = vec![self.acks.stream()];
        keys.extend(held.sinks.iter().map(|sink| sink.stream.as_str()));
        let mut step = run(&self.script, &keys);
        step.arg(self.acks.group());
        for sink in &held.sinks {
            step.arg(&sink.field).arg(sink.max_len.map(|n| n.to_string()).unwrap_or_default());
        }
        let (mut bytes, mut outputs, mut entries) = (0, 0, 0);
        let of_no_entry = |o: &&Output| o.origin.is_none_or(|origin| origin < first);
        for output in held.outputs.iter().take_while(of_no_entry) {
            if outputs > 0 && (bytes + output.bytes() > STEP_BYTES_MAX || outputs == STEP_ENTRIES_MAX) {
                return Some((step, outputs, 0));
            }
            bytes += output.bytes();
            step.arg("").arg(1);
            output.add_to(&mut step);
            outputs += 1;
        }
        for (offset, id) in (first..).zip(&ids) {
            let of_it = || held.outputs.iter().skip(outputs).take_while(|o| o.origin == Some(offset));
            let (more, more_bytes) = of_it().fold((0, 0), |(n, bytes), o| (n + 1, bytes + o.bytes()));
            let is_full = bytes + more_bytes > STEP_BYTES_MAX || outputs + more > STEP_ENTRIES_MAX;
            // An entry with its outputs is never split.
            if is_full && outputs + entries > 0 {
                break;
            }
            step.arg(EntryId::to_string(id)).arg(more);
            of_it().for_each(|output| output.add_to(&mut step));
            (bytes, outputs, entries) = (bytes + more_bytes, outputs + more, entries + 1);
        }
        (outputs + entries > 0).then_some((step, outputs, entries))
    }

    fn refuse(&self, what: &str, cause: &str) -> StoreError {
        StoreError::Io { what: format!("{what} in {}", self.name()), cause: cause.to_owned() }
    }
}

impl StateStore for RedisAcksStore {
    fn name(&self) -> String {
        format!("{} (acknowledgements of group {})", self.source.address(), self.acks.group())
    }

    fn is_durable(&self) -> bool {
        true
    }

    fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        Ok(None)
    }

    fn generation(&self) -> Result<u64, StoreError> {
        Ok(0)
    }

    fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    fn entries(&self, _: &[u8], _: Option<&[u8]>, _: &mut VisitEntry<'_>) -> Result<(), StoreError> {
        Ok(())
    }

    fn scan(&self, _: &[u8], _: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        Ok(())
    }

    fn commit(&self, delta: &Delta, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        if !delta.changes.is_empty() {
            return Err(self.refuse("cannot keep state", "it keeps none: give the pipeline a data_dir"));
        }
        let mine = |id: u32| Some(id) == self.acks.partition();
        let position = checkpoint.positions.iter().find(|(id, _)| mine(id.partition));
        let up_to = position.map_or(0, |(_, position)| position.offset);
        let mut held = self.held();
        // Those of no entry come first; sinks that came one after the other are taken together.
        held.outputs.make_contiguous().sort_by_key(|output| output.origin);
        let what = format!("cannot commit epoch {} of pipeline `{}`", checkpoint.epoch, self.pipeline);
        let exact = self.must_be_exact.load(Ordering::Relaxed);
        while let Some((step, outputs, entries)) = self.step(&held, up_to) {
            let mut durable = self.durable();
            if exact {
                durable.settle(&self.link)?;
            }
            let answer = self.link.call(&what, |c| query(c, &self.script, &step));
            let again: u64 = answer.inspect_err(|_| durable.unsettle())?;
            held.outputs.drain(..outputs);
            self.acks.done(entries);
            if again > 0 {
                self.again.fetch_add(again, Ordering::Relaxed);
                tracing::debug!(
                    stream = self.acks.stream(),
                    entries = again,
                    "entries were acknowledged before: by another process, or in an answer that was lost"
                );
            }
        }
        Ok(())
    }

    fn foretell(&self, _: Epoch, _: &[u8]) -> Result<(), StoreError> {
        // Nothing is seen before a commit.
        Ok(())
    }

    fn foretold(&self) -> Result<Option<(Epoch, Vec<u8>)>, StoreError> {
        Ok(None)
    }

    fn reset(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

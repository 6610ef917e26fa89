//! Runs messages through its plugin, as the engine does.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use wasmill_connect::codec::json::{JsonDecoder, JsonEncoder};
use wasmill_connect::store::MemoryStore;
use wasmill_engine::Folded;
use wasmill_engine::batch::Batch;
use wasmill_engine::guest::{CallContext, CallError, Guest, MessageFacts, PluginRef, Trial};
use wasmill_engine::input::{Decoder, RawBatch};
use wasmill_engine::key::KeySpec;
use wasmill_engine::output::{
    EncodedBatch, EncodedRecord, Encoder, Outbox, OutputId, Routes, SinkRoute, Takes, When,
};
use wasmill_engine::plugin_state::{CACHE_BYTES_MAX, PluginState};
use wasmill_engine::position::PartitionId;
use wasmill_engine::stage::{Origins, Stage, StageKind, StageSpec};
use wasmill_engine::time::TIMESTAMP_NONE;
use wasmill_engine::topology::Topology;
use wasmill_frame::{Blobs, BlobsWriter, Edit, Edits, FrameBuf, GroupsWriter};

use super::format::Failed;

const PARTITION: PartitionId = PartitionId { source: 0, partition: 0 };

/// What came of messages that ran through a transform or filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Played {
    /// What goes on, in order.
    pub messages: Vec<Left>,
    /// What goes to the dead-letter queue.
    pub failed: Vec<(usize, Failed)>,
    /// What leaves by each named output.
    pub outputs: BTreeMap<String, Vec<Left>>,
}

/// A message that left: as JSON text, with the index of the message that it is a result of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    pub origin: usize,
    pub text: String,
}

/// Consecutive batches of this many messages.
pub fn batches(messages: usize, batch: usize) -> Vec<Range<usize>> {
    let size = batch.max(1);
    (0..messages).step_by(size).map(|at| at..messages.min(at + size)).collect()
}

/// Messages as a frame, with their keys.
pub fn frame(input: &[Value], key: Option<&KeySpec>) -> Result<FrameBuf, String> {
    let mut frame = FrameBuf::default();
    for (i, message) in input.iter().enumerate() {
        let wrong = |e: String| format!("input {}: {e}", i + 1);
        let text = message.to_string().into_bytes();
        let batch = RawBatch::of_value(&text);
        JsonDecoder.decode(&batch.records[0], &batch, &mut frame).map_err(wrong)?;
        if let Some(key) = key {
            let mut bytes = Vec::new();
            key.extract(frame.get(i), &mut bytes).map_err(wrong)?;
            frame.set_key(i, Some(&bytes));
        }
    }
    Ok(frame)
}

/// Runs a transform or filter, a call for each batch. `keyed` where messages have keys, and so state.
pub fn stage(
    plugin: &PluginRef,
    kind: StageKind,
    keyed: bool,
    outputs: &BTreeSet<String>,
    frame: &FrameBuf,
    batches: &[Range<usize>],
) -> Result<Played, String> {
    let spec = Arc::new(StageSpec { name: "test".to_owned(), kind, plugin: plugin.clone() });
    let mut stage = if keyed {
        let groups = (0..Topology::KEY_GROUPS, Topology::KEY_GROUPS);
        let store = Arc::new(MemoryStore::default());
        let state = PluginState::new(0, groups, store, CACHE_BYTES_MAX);
        Stage::with_state(&spec, Arc::new(Mutex::new(state)))
    } else {
        Stage::new(&spec)
    };
    let mut sinks = vec![route(Takes::DeadLetters)];
    sinks.extend(outputs.iter().map(|n| route(Takes::Named(n.clone()))));
    let routes = Routes::new(sinks, BTreeMap::new());
    let mut out = Outbox::new(&routes);
    let mut played = Played::default();
    for part in batches {
        let mut messages = Batch::with_capacity(PARTITION, frame.len() as u64, part.len(), 0);
        for i in part.clone() {
            messages.push(&frame.get(i).parts(), i as u64);
        }
        stage.run(&mut messages, Origins::Source, &routes, &mut out);
        for i in 0..messages.len() {
            let offset = messages.rows[i].offset;
            let id = OutputId::Message { partition: PARTITION, offset, index: 0, emit: 0, left_at: "" };
            let mut encoded = EncodedBatch::default();
            JsonEncoder.encode(messages.frame.get(i), &id, &mut encoded)?;
            let origin = index(offset);
            played.messages.extend(left(&encoded).into_iter().map(|left| Left { origin, ..left }));
        }
    }
    for dead in left(&out.sinks[0]) {
        let letter = value(&dead.text)?;
        let payload = &letter["payload"];
        let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        let failed = Failed { id: text(&payload["message"]["id"]), reason: text(&payload["reason"]) };
        played.failed.push((dead.origin, failed));
    }
    for (i, name) in outputs.iter().enumerate() {
        played.outputs.insert(name.clone(), left(&out.sinks[i + 1]));
    }
    Ok(played)
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

fn route(takes: Takes) -> SinkRoute {
    SinkRoute { takes, encoder: Arc::new(JsonEncoder), when: When::Always }
}

fn left(batch: &EncodedBatch) -> Vec<Left> {
    let one = |r: &EncodedRecord| Left {
        origin: r.origin.map_or(0, |(_, offset)| index(offset)),
        text: String::from_utf8_lossy(&batch.data[r.value.clone()]).into_owned(),
    };
    batch.records.iter().map(one).collect()
}

/// A message that left, as JSON.
pub fn value(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|e| format!("a message that leaves is no JSON: {e}"))
}

/// How an aggregate's messages are put together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Way {
    /// Each part is folded on its own, one batch behind the other, and the parts are merged, the first two first.
    pub parts: Vec<Vec<Vec<usize>>>,
    /// The last two parts are merged first.
    pub from_the_right: bool,
    /// The initial accumulator is merged in front of what came.
    pub initial_in_front: bool,
    /// The initial accumulator is merged behind what came.
    pub initial_behind: bool,
}

impl Way {
    /// One part, in these batches.
    pub fn folded(batches: impl IntoIterator<Item = Range<usize>>) -> Self {
        Self { parts: vec![batches.into_iter().map(Iterator::collect).collect()], ..Self::default() }
    }

    /// Each batch a part of its own.
    pub fn merged(batches: impl IntoIterator<Item = Range<usize>>) -> Self {
        let parts = batches.into_iter().map(|b| vec![b.collect()]).collect();
        Self { parts, ..Self::default() }
    }

    /// One batch in this order.
    pub fn ordered(order: Vec<usize>) -> Self {
        Self { parts: vec![vec![order]], ..Self::default() }
    }
}

/// What came of messages that ran through an aggregate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gathered {
    /// The finished value of each key, as the plugin wrote it.
    pub values: BTreeMap<Vec<u8>, String>,
    /// Messages that failed, by their index.
    pub failed: Vec<(usize, Failed)>,
    /// The edits of messages, by their index, where it scanned.
    pub edits: BTreeMap<usize, Vec<String>>,
}

/// How an aggregate is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calls {
    pub trial: Trial,
    /// Whether what fails is tried message by message, as in production; else a call that fails is an error.
    pub alone: bool,
    /// Whether `scan` is called in place of `fold`.
    pub scan: bool,
}

/// Runs an aggregate: folds, merges and finishes.
pub fn aggregate(plugin: &PluginRef, frame: &FrameBuf, way: &Way, calls: Calls) -> Result<Gathered, String> {
    let Some(info) = &plugin.info().aggregate else { return Err("the plugin is no aggregate".to_owned()) };
    let facts = plugin.info().needs_facts;
    let mut folder =
        Folder { guest: plugin.guest(), facts, calls, failed: Vec::new(), edits: BTreeMap::new() };
    let mut parts = Vec::new();
    for part in &way.parts {
        let mut sums: Sums = BTreeMap::new();
        for chunk in part.iter().filter(|chunk| !chunk.is_empty()) {
            folder.fold(frame, chunk, &info.initial, &mut sums)?;
        }
        parts.push(sums);
    }
    let mut sums =
        if way.from_the_right { parts.pop() } else { (!parts.is_empty()).then(|| parts.remove(0)) }
            .unwrap_or_default();
    if way.from_the_right {
        for left in parts.into_iter().rev() {
            sums = folder.merge_all(left, sums)?;
        }
    } else {
        for right in parts {
            sums = folder.merge_all(sums, right)?;
        }
    }
    if frame.is_empty() {
        sums.insert(Vec::new(), info.initial.clone());
    }
    for sum in sums.values_mut() {
        if way.initial_in_front {
            *sum = folder.merge(&info.initial, sum)?;
        }
        if way.initial_behind {
            *sum = folder.merge(sum, &info.initial)?;
        }
    }
    let values = folder.finish(&sums)?;
    folder.failed.sort_by_key(|(index, _)| *index);
    Ok(Gathered { values, failed: folder.failed, edits: folder.edits })
}

/// Accumulators by key.
type Sums = BTreeMap<Vec<u8>, Vec<u8>>;

struct Folder {
    guest: Box<dyn Guest>,
    facts: bool,
    calls: Calls,
    failed: Vec<(usize, Failed)>,
    edits: BTreeMap<usize, Vec<String>>,
}

impl Folder {
    fn fold(
        &mut self,
        frame: &FrameBuf,
        chunk: &[usize],
        initial: &[u8],
        sums: &mut Sums,
    ) -> Result<(), String> {
        let mut part = FrameBuf::default();
        let mut groups: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
        for (at, i) in chunk.iter().enumerate() {
            part.push(&frame.get(*i).parts());
            groups.entry(frame.get(*i).key().unwrap_or_default().to_vec()).or_default().push(at);
        }
        let mut writer = GroupsWriter::new();
        for (key, indices) in &groups {
            writer.push(sums.get(key).map_or(initial, Vec::as_slice), indices.iter().copied());
        }
        let mut cx = CallContext::default();
        if self.facts {
            cx.facts.extend(chunk.iter().map(|i| {
                let time = frame.get(*i).timestamp();
                MessageFacts { time: if time == TIMESTAMP_NONE { 0 } else { time }, seed: *i as u64 }
            }));
        }
        let (bytes, trial) = (writer.finish(), self.calls.trial);
        let answer = if self.calls.scan {
            let scanned = self.guest.scan(part.as_bytes(), &bytes, &mut cx, trial);
            scanned.map(|(edits, blobs)| (Some(edits), blobs))
        } else {
            self.guest.fold(part.as_bytes(), &bytes, &mut cx, trial).map(|blobs| (None, blobs))
        };
        let bytes = match answer {
            Ok((None, bytes)) => bytes,
            Ok((Some(edits), bytes)) => {
                let edits =
                    Edits::parse(&edits, chunk.len()).map_err(|m| format!("scan answered no edits: {m}"))?;
                for (at, edit) in edits.iter() {
                    self.edits.entry(chunk[at]).or_default().push(edit_text(&edit));
                }
                bytes
            }
            Err(error) if !self.calls.alone => return Err(said(error)),
            Err(error) => return self.fold_halves(frame, chunk, initial, sums, error),
        };
        let folded = Folded::read(&bytes, groups.len(), chunk.len()).map_err(said)?;
        for (key, accumulator) in groups.into_keys().zip(folded.accumulators) {
            sums.insert(key, accumulator.to_vec());
        }
        for (place, reason) in folded.failed {
            let at = chunk[place];
            self.failed.push((at, Failed { id: frame.get(at).id().to_owned(), reason }));
        }
        Ok(())
    }

    /// As the engine does with a batch that failed: halves it until what fails stands alone, and asks for a verdict.
    fn fold_halves(
        &mut self,
        frame: &FrameBuf,
        chunk: &[usize],
        initial: &[u8],
        sums: &mut Sums,
        error: CallError,
    ) -> Result<(), String> {
        if let CallError::Host(_) = error {
            return Err(said(error));
        }
        let (front, back) = chunk.split_at(chunk.len() / 2);
        if !front.is_empty() {
            self.fold(frame, front, initial, sums)?;
            return self.fold(frame, back, initial, sums);
        }
        if self.calls.trial == Trial::Verdict {
            let id = frame.get(chunk[0]).id().to_owned();
            self.failed.push((chunk[0], Failed { id, reason: said(error) }));
            return Ok(());
        }
        self.calls.trial = Trial::Verdict;
        let judged = self.fold(frame, chunk, initial, sums);
        self.calls.trial = Trial::Batch;
        judged
    }

    /// Merges key by key.
    fn merge_all(&mut self, mut left: Sums, right: Sums) -> Result<Sums, String> {
        for (key, right) in right {
            let merged = match left.remove(&key) {
                Some(left) => self.merge(&left, &right)?,
                None => right,
            };
            left.insert(key, merged);
        }
        Ok(left)
    }

    fn merge(&mut self, left: &[u8], right: &[u8]) -> Result<Vec<u8>, String> {
        let mut blobs = BlobsWriter::new();
        blobs.push(0, left);
        blobs.push(0, right);
        let bytes =
            self.guest.merge(&blobs.finish(), &mut CallContext::default(), self.calls.trial).map_err(said)?;
        let merged = Blobs::parse(&bytes).map_err(|m| format!("merge answered no blobs: {m}"))?;
        let mut merged = merged.iter();
        match (merged.next(), merged.next()) {
            (Some((_, one)), None) => Ok(one.to_vec()),
            _ => Err("merge did not answer one accumulator for two".to_owned()),
        }
    }

    fn finish(&mut self, sums: &Sums) -> Result<BTreeMap<Vec<u8>, String>, String> {
        let mut blobs = BlobsWriter::new();
        sums.values().for_each(|s| blobs.push(0, s));
        let bytes = self
            .guest
            .finish(&blobs.finish(), &mut CallContext::default(), self.calls.trial)
            .map_err(said)?;
        let finished = Blobs::parse(&bytes).map_err(|m| format!("finish answered no blobs: {m}"))?;
        if finished.len() != sums.len() {
            return Err(format!("finish answered {} values for {}", finished.len(), sums.len()));
        }
        let mut values = BTreeMap::new();
        for (key, (tag, bytes)) in sums.keys().zip(finished.iter()) {
            let text = String::from_utf8_lossy(bytes).into_owned();
            if tag != 0 {
                return Err(format!("finish failed: {text}"));
            }
            values.insert(key.clone(), text);
        }
        Ok(values)
    }
}

/// An edit as people read it.
fn edit_text(edit: &Edit<'_>) -> String {
    let text = String::from_utf8_lossy;
    match edit {
        Edit::Payload(bytes) => format!("payload {}", text(bytes)),
        Edit::Key(Some(bytes)) => format!("key {}", text(bytes)),
        Edit::SetMetadata { name, value, json } => {
            format!("metadata {name} = {}{}", text(value), if *json { " (JSON)" } else { "" })
        }
        other => format!("{other:?}"),
    }
}

fn said(error: CallError) -> String {
    format!("the plugin {error}")
}

//! Runs a case's messages through its plugin, as the engine does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use wasmill_connect::codec::json::{JsonDecoder, JsonEncoder};
use wasmill_connect::store::MemoryStore;
use wasmill_engine::batch::Batch;
use wasmill_engine::guest::{CallContext, CallError, Guest, MessageFacts, PluginRef, Trial};
use wasmill_engine::input::{Decoder, RawBatch};
use wasmill_engine::output::{EncodedBatch, Encoder, Outbox, OutputId, Routes, SinkRoute, Takes, When};
use wasmill_engine::plugin_state::{CACHE_BYTES_MAX, PluginState};
use wasmill_engine::position::PartitionId;
use wasmill_engine::stage::{Origins, Stage, StageKind, StageSpec};
use wasmill_engine::time::TIMESTAMP_NONE;
use wasmill_engine::topology::Topology;
use wasmill_frame::{Blobs, BlobsWriter, FrameBuf, GroupsWriter};

use super::format::{Case, Failed};

const PARTITION: PartitionId = PartitionId { source: 0, partition: 0 };

/// What came of a case.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Played {
    pub messages: Vec<Value>,
    pub failed: Vec<Failed>,
    pub outputs: BTreeMap<String, Vec<Value>>,
    pub values: BTreeMap<String, Value>,
}

/// How an aggregate's messages are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// This many messages a call.
    Batches(usize),
    /// Two halves on their own, then merged.
    Merged,
    /// One batch, the last message first.
    Reverse,
}

/// The case's messages as a frame, with their keys.
pub fn frame(case: &Case) -> Result<FrameBuf, String> {
    let mut frame = FrameBuf::default();
    for (i, message) in case.input.iter().enumerate() {
        let wrong = |e: String| format!("input {}: {e}", i + 1);
        let text = message.to_string().into_bytes();
        let batch = RawBatch::of_value(&text);
        JsonDecoder.decode(&batch.records[0], &batch, &mut frame).map_err(wrong)?;
        if let Some(key) = &case.key {
            let mut bytes = Vec::new();
            key.extract(frame.get(i), &mut bytes).map_err(wrong)?;
            frame.set_key(i, Some(&bytes));
        }
    }
    Ok(frame)
}

/// Runs a transform or filter, `batch` messages at a time.
pub fn stage(
    plugin: &PluginRef,
    kind: StageKind,
    case: &Case,
    frame: &FrameBuf,
    batch: usize,
) -> Result<Played, String> {
    let spec = Arc::new(StageSpec { name: "test".to_owned(), kind, plugin: plugin.clone() });
    let mut stage = match &case.key {
        None => Stage::new(&spec),
        Some(_) => {
            let groups = (0..Topology::KEY_GROUPS, Topology::KEY_GROUPS);
            let store = Arc::new(MemoryStore::default());
            let state = PluginState::new(0, groups, store, CACHE_BYTES_MAX);
            Stage::with_state(&spec, Arc::new(Mutex::new(state)))
        }
    };
    let mut names: Vec<&String> = case.expected.outputs.keys().collect();
    names.sort();
    let mut sinks = vec![route(Takes::DeadLetters)];
    sinks.extend(names.iter().map(|n| route(Takes::Named((*n).clone()))));
    let routes = Routes::new(sinks, BTreeMap::new());
    let mut out = Outbox::new(&routes);
    let mut played = Played::default();
    let all: Vec<usize> = (0..frame.len()).collect();
    for part in all.chunks(batch.max(1)) {
        let mut messages = Batch::with_capacity(PARTITION, frame.len() as u64, part.len(), 0);
        for i in part {
            messages.push(&frame.get(*i).parts(), *i as u64);
        }
        stage.run(&mut messages, Origins::Source, &routes, &mut out);
        for i in 0..messages.len() {
            let id =
                OutputId::Message { partition: PARTITION, offset: i as u64, index: 0, emit: 0, left_at: "" };
            let mut encoded = EncodedBatch::default();
            JsonEncoder.encode(messages.frame.get(i), &id, &mut encoded)?;
            played.messages.extend(values(&encoded)?);
        }
    }
    for dead in values(&out.sinks[0])? {
        let payload = &dead["payload"];
        let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        played.failed.push(Failed { id: text(&payload["message"]["id"]), reason: text(&payload["reason"]) });
    }
    for (i, name) in names.iter().enumerate() {
        played.outputs.insert((*name).clone(), values(&out.sinks[i + 1])?);
    }
    Ok(played)
}

fn route(takes: Takes) -> SinkRoute {
    SinkRoute { takes, encoder: Arc::new(JsonEncoder), when: When::Always }
}

fn values(batch: &EncodedBatch) -> Result<Vec<Value>, String> {
    let one = |bytes: &[u8]| {
        serde_json::from_slice(bytes).map_err(|e| format!("a message that leaves is no JSON: {e}"))
    };
    batch.records.iter().map(|r| one(&batch.data[r.value.clone()])).collect()
}

/// Runs an aggregate: folds, merges and finishes.
pub fn aggregate(plugin: &PluginRef, frame: &FrameBuf, way: Way) -> Result<Played, String> {
    let Some(info) = &plugin.info().aggregate else { return Err("the plugin is no aggregate".to_owned()) };
    let mut folder = Folder { guest: plugin.guest(), facts: plugin.info().needs_facts, failed: Vec::new() };
    let mut order: Vec<usize> = (0..frame.len()).collect();
    if way == Way::Reverse {
        order.reverse();
    }
    let size = match way {
        Way::Batches(n) => n.max(1),
        Way::Merged | Way::Reverse => order.len().max(1),
    };
    let mut parts = vec![order.as_slice()];
    if way == Way::Merged {
        let (front, back) = order.split_at(order.len() / 2);
        parts = vec![front, back];
    }
    let mut halves = Vec::new();
    for part in parts {
        let mut sums: Sums = BTreeMap::new();
        for chunk in part.chunks(size) {
            folder.fold(frame, chunk, &info.initial, &mut sums)?;
        }
        halves.push(sums);
    }
    let mut sums = halves.remove(0);
    for half in halves {
        for (key, right) in half {
            let merged = match sums.remove(&key) {
                Some(left) => folder.merge(&left, &right)?,
                None => right,
            };
            sums.insert(key, merged);
        }
    }
    if frame.is_empty() {
        sums.insert(Vec::new(), info.initial.clone());
    }
    let mut played = Played { values: folder.finish(&sums)?, ..Played::default() };
    folder.failed.sort_by_key(|(index, _)| *index);
    played.failed = folder.failed.into_iter().map(|(_, failed)| failed).collect();
    Ok(played)
}

/// Accumulators by key.
type Sums = BTreeMap<Vec<u8>, Vec<u8>>;

struct Folder {
    guest: Box<dyn Guest>,
    facts: bool,
    failed: Vec<(usize, Failed)>,
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
        let bytes =
            self.guest.fold(part.as_bytes(), &writer.finish(), &mut cx, Trial::Verdict).map_err(said)?;
        let blobs = Blobs::parse(&bytes).map_err(|m| format!("fold answered no blobs: {m}"))?;
        let mut keys = groups.into_keys();
        for (tag, bytes) in blobs.iter() {
            if tag == 0 {
                let key = keys.next().ok_or("fold answered more accumulators than it was given")?;
                sums.insert(key, bytes.to_vec());
                continue;
            }
            let at = chunk.get(tag as usize - 1).ok_or("fold failed a message that it was not given")?;
            let reason = String::from_utf8_lossy(bytes).into_owned();
            self.failed.push((*at, Failed { id: frame.get(*at).id().to_owned(), reason }));
        }
        if keys.next().is_some() {
            return Err("fold answered fewer accumulators than it was given".to_owned());
        }
        Ok(())
    }

    fn merge(&mut self, left: &[u8], right: &[u8]) -> Result<Vec<u8>, String> {
        let mut blobs = BlobsWriter::new();
        blobs.push(0, left);
        blobs.push(0, right);
        let bytes =
            self.guest.merge(&blobs.finish(), &mut CallContext::default(), Trial::Verdict).map_err(said)?;
        let merged = Blobs::parse(&bytes).map_err(|m| format!("merge answered no blobs: {m}"))?;
        let mut merged = merged.iter();
        match (merged.next(), merged.next()) {
            (Some((_, one)), None) => Ok(one.to_vec()),
            _ => Err("merge did not answer one accumulator for two".to_owned()),
        }
    }

    fn finish(&mut self, sums: &Sums) -> Result<BTreeMap<String, Value>, String> {
        let mut blobs = BlobsWriter::new();
        sums.values().for_each(|s| blobs.push(0, s));
        let bytes =
            self.guest.finish(&blobs.finish(), &mut CallContext::default(), Trial::Verdict).map_err(said)?;
        let finished = Blobs::parse(&bytes).map_err(|m| format!("finish answered no blobs: {m}"))?;
        if finished.len() != sums.len() {
            return Err(format!("finish answered {} values for {}", finished.len(), sums.len()));
        }
        let mut values = BTreeMap::new();
        for (key, (tag, bytes)) in sums.keys().zip(finished.iter()) {
            let text = String::from_utf8_lossy(bytes);
            if tag != 0 {
                return Err(format!("finish failed: {text}"));
            }
            let value =
                serde_json::from_str(&text).map_err(|e| format!("finish answered no JSON ({e}): {text}"))?;
            values.insert(String::from_utf8_lossy(key).into_owned(), value);
        }
        Ok(values)
    }
}

fn said(error: CallError) -> String {
    format!("the plugin {error}")
}

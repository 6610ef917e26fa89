//! The state in Redis for the tools of operators: read without taking it over, and replaced as a whole.

use std::collections::BTreeMap;

use redis::{Script, Value};
use wasmill_engine::position::{PartitionId, Position};
use wasmill_engine::state::{Checkpoint, Epoch, StateView, StoreError, VisitEntry};
use wasmill_engine::time::START;

use super::wire::{json, pack_texts, text};
use super::{Connection, REDIS_FORMAT, RedisAddress, RedisStore, Usage};
use crate::random_token;
use crate::store::Replacement;

/// How many entries are sent at once.
const BATCH_ENTRIES: usize = 1_000;

/// What is stored, as it is when it is asked for: Redis has no snapshots.
pub struct RedisView {
    store: RedisStore,
    shared: bool,
    generation: u64,
}

impl RedisView {
    /// Looks at a pipeline's state. Whoever runs it goes on.
    ///
    /// # Errors
    /// When Redis is away, or refuses; when what is stored is of another format.
    pub fn open(at: impl Into<RedisAddress>, pipeline: &str) -> Result<Self, StoreError> {
        let store = RedisStore::unopened(&at.into(), pipeline, Usage::Alone)?;
        let meta = store.meta()?;
        let found = meta.get("format").map(|f| String::from_utf8_lossy(f).into_owned());
        if let Some(found) = found.filter(|found| *found != REDIS_FORMAT.to_string()) {
            return Err(StoreError::Format { path: store.place(), found, expected: REDIS_FORMAT });
        }
        let shared = meta.get("use").is_some_and(|used| used == b"shared");
        let generation = store.number(&meta, "generation")?;
        Ok(Self { store, shared, generation })
    }

    /// What it calls itself.
    #[must_use]
    pub fn name(&self) -> String {
        self.store.place()
    }

    /// New contents for this state, of a reset generation, for the use that the pipeline will make of it.
    /// Whoever runs the pipeline meanwhile is fenced off at the end.
    ///
    /// # Errors
    /// When Redis is away, or refuses.
    pub fn replace(self, generation: u64, shared: bool) -> Result<Box<dyn Replacement>, StoreError> {
        let meta = self.store.meta()?;
        let epoch = self.store.number(&meta, "epoch")?;
        let token = random_token();
        let incoming = |token: &str| format!("wasmill:{{{}}}:incoming:{token}", self.store.pipeline);
        let key = incoming(&token);
        let begin = |c: &mut Connection| {
            let before: Option<String> =
                redis::cmd("HGET").arg(&self.store.keys.meta).arg("incoming").query(c)?;
            if let Some(before) = before {
                redis::cmd("UNLINK").arg(incoming(&before)).query::<()>(c)?;
            }
            redis::cmd("HSET").arg(&self.store.keys.meta).arg("incoming").arg(&token).query::<()>(c)
        };
        self.store.write("cannot replace the state", begin)?;
        Ok(Box::new(RedisReplacement {
            expected: (token, epoch),
            store: self.store,
            generation,
            shared,
            key,
            waiting: Vec::new(),
        }))
    }

    fn positions(&self) -> Result<Vec<(PartitionId, Position)>, StoreError> {
        let read = |c: &mut Connection| redis::cmd("HGETALL").arg(&self.store.keys.positions).query(c);
        let fields: BTreeMap<String, String> = self.store.read("cannot read the positions", read)?;
        let mut claimed = BTreeMap::new();
        for (field, value) in fields {
            let id = field.split_once('/').and_then(|(source, partition)| {
                Some(PartitionId { source: source.parse().ok()?, partition: partition.parse().ok()? })
            });
            let Some(id) = id else {
                return Err(self.store.corrupt("a position", format!("its partition is {field:?}")));
            };
            claimed.insert(id, value);
        }
        self.store.positions(&claimed)
    }
}

impl StateView for RedisView {
    fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        let meta = self.store.meta()?;
        if !self.shared {
            let Some(stored) = meta.get("checkpoint") else { return Ok(None) };
            let checkpoint = serde_json::from_slice(stored);
            return checkpoint.map(Some).map_err(|e| self.store.corrupt("the checkpoint", e.to_string()));
        }
        let Some(shape) = meta.get("shape") else { return Ok(None) };
        let mut counts = BTreeMap::new();
        for field in meta.keys() {
            if let Some(name) = field.strip_prefix("count:") {
                counts.insert(name.to_owned(), self.store.number(&meta, field)?);
            }
        }
        Ok(Some(Checkpoint {
            epoch: self.store.number(&meta, "epoch")?,
            generation: self.generation,
            shape: String::from_utf8_lossy(shape).into_owned(),
            stream_time: START,
            positions: self.positions()?,
            counts,
            ..Checkpoint::default()
        }))
    }

    fn generation(&self) -> u64 {
        self.generation
    }

    fn foretold(&self) -> Result<Option<(Epoch, Vec<u8>)>, StoreError> {
        wasmill_engine::state::StateStore::foretold(&self.store)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        wasmill_engine::state::StateStore::get(&self.store, key)
    }

    fn entries(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        visit: &mut VisitEntry<'_>,
    ) -> Result<(), StoreError> {
        self.store.sorted_entries(prefix, after, visit)
    }
}

/// New contents beside the state, until one script puts them in its place.
struct RedisReplacement {
    store: RedisStore,
    /// The mark in the state, by which this replacement is known, and the commit that it is to follow.
    expected: (String, Epoch),
    generation: u64,
    shared: bool,
    key: String,
    waiting: Vec<(Vec<u8>, Vec<u8>)>,
}

impl RedisReplacement {
    fn send(&mut self) -> Result<(), StoreError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let mut command = redis::cmd("HSET");
        command.arg(&self.key);
        for (key, value) in self.waiting.drain(..) {
            command.arg(key).arg(value);
        }
        self.store.write("cannot replace the state", |c| command.query::<()>(c))
    }
}

impl Replacement for RedisReplacement {
    fn generation(&self) -> u64 {
        self.generation
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.waiting.push((key.to_vec(), value.to_vec()));
        if self.waiting.len() >= BATCH_ENTRIES { self.send() } else { Ok(()) }
    }

    fn finish(
        mut self: Box<Self>,
        checkpoint: &Checkpoint,
        foretold: Option<&(Epoch, Vec<u8>)>,
    ) -> Result<(), StoreError> {
        self.send()?;
        let (mut meta, mut positions) = (Vec::new(), Vec::new());
        let (format, generation) = (REDIS_FORMAT.to_string(), self.generation.to_string());
        let used = if self.shared { "shared" } else { "alone" };
        pack_texts(&mut meta, &["format", &format, "use", used, "generation", &generation]);
        pack_texts(&mut meta, &["epoch", &checkpoint.epoch.to_string()]);
        if self.shared {
            pack_texts(&mut meta, &["shape", &checkpoint.shape]);
            for (name, count) in &checkpoint.counts {
                pack_texts(&mut meta, &[&format!("count:{name}"), &count.to_string()]);
            }
            for (id, position) in &checkpoint.positions {
                pack_texts(&mut positions, &[&id.to_string(), &format!("\n\n{}", json(position)?)]);
            }
        } else {
            pack_texts(&mut meta, &["checkpoint", &json(checkpoint)?]);
        }
        let script = Script::new(include_str!("replace.lua"));
        let mut call = script.prepare_invoke();
        let keys = &self.store.keys;
        call.key(&keys.meta).key(&keys.state).key(&keys.foretold).key(&keys.positions).key(&self.key);
        call.arg(&self.expected.0).arg(self.expected.1).arg(meta).arg(positions);
        if let Some((epoch, facts)) = foretold.filter(|_| !self.shared) {
            call.arg(epoch).arg(facts);
        }
        let answer: Vec<Value> = self.store.write("cannot replace the state", |c| call.invoke(c))?;
        match answer.into_iter().next().map(text).as_deref() {
            Some("ok") => Ok(()),
            _ => Err(StoreError::Io {
                what: self.store.what("cannot replace the state"),
                cause: "it was changed meanwhile, and is as it was left: stop all processes of the pipeline, then run the command again".into(),
            }),
        }
    }
}

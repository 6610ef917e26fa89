//! A pipeline under your hands: push messages, turn the clock, crash it, look at what came out.
//!
//! ```
//! use wasmill_harness::driver::{Driver, Steps};
//! # use wasmill_harness::native;
//! # use wasmill_engine::guest::AggregateInfo;
//! # let count = native::aggregate("count", native::AggregateFns {
//! #     info: AggregateInfo { commutative: true, state_version: 1, initial: b"0".to_vec() },
//! #     fold: |a, _| { let n: u64 = String::from_utf8_lossy(a).parse().unwrap_or(0); *a = (n + 1).to_string().into_bytes(); Ok(()) },
//! #     merge: |_, _| {}, finish: |a| String::from_utf8_lossy(a).into_owned(), scan: None,
//! # }, None);
//! // `count` is a plugin: from `Sandbox::load("count.wasm", …)`, or of plain functions.
//! let steps = Steps::new().key_by(&["payload.carrier"]).tumbling("hourly", &count, 3_600_000, 0);
//! let mut driver = Driver::new(steps, 1, 2); // one partition, two lanes
//! driver.push(0, r#"{"id":"1","type":"departed","timestamp":1000,"payload":{"carrier":"AA"}}"#);
//! driver.checkpoint();
//! driver.crash_and_restore(3); // the window is still open, now in another lane
//! driver.advance(3_600_000);
//! driver.checkpoint();
//! assert_eq!(driver.read()[0]["payload"]["value"], 1);
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use wasmill_connect::codec::json::JsonDecoder;
use wasmill_connect::store::MemoryStore;
use wasmill_engine::batch::{Batch, Passed};
use wasmill_engine::commit::counts_from;
use wasmill_engine::edition::{Plugins, StagePlugin};
use wasmill_engine::guest::PluginRef;
use wasmill_engine::key::{KeySpec, OnNull};
use wasmill_engine::lane::{Counts, KeyedSpec, Lane, LaneBounds};
use wasmill_engine::output::{Outbox, SinkRoute, Takes};
use wasmill_engine::position::PartitionId;
use wasmill_engine::prefix::{Prefix, Prepared, Work};
use wasmill_engine::stage::{StageKind, StageSpec};
use wasmill_engine::state::StateStore;
use wasmill_engine::swap::{Swap, fits};
use wasmill_engine::topology::{Order, Topology, Via};
use wasmill_engine::window::{Emit, Late, Windows};
use wasmill_engine::{RunningSpec, WindowSpec};

use crate::parts::{Parts, assemble, outputs, raw_batch, sink};

/// The stages of a pipeline under test, in order.
pub struct Steps {
    topology: Topology,
    outputs: Vec<String>,
}

impl Default for Steps {
    fn default() -> Self {
        Self::new()
    }
}

impl Steps {
    /// No stages yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            topology: Topology {
                decoders: vec![Arc::new(JsonDecoder)],
                time: None,
                max_ahead: None,
                prefix: Vec::new(),
                key: None,
                keyed: Vec::new(),
                order: Order::Log,
                idle_marks: true,
                shared: false,
                key_groups: Topology::KEY_GROUPS,
                via: Via::Memory,
            },
            outputs: Vec::new(),
        }
    }

    fn stage(mut self, name: &str, kind: StageKind, plugin: &PluginRef) -> Self {
        let stage = Arc::new(StageSpec { name: name.to_owned(), kind, plugin: plugin.clone() });
        if self.topology.key.is_some() {
            self.topology.keyed.push(KeyedSpec::Stage(stage));
        } else {
            self.topology.prefix.push(stage);
        }
        self
    }

    /// A transform.
    #[must_use]
    pub fn transform(self, name: &str, plugin: &PluginRef) -> Self {
        self.stage(name, StageKind::Transform, plugin)
    }

    /// A filter.
    #[must_use]
    pub fn filter(self, name: &str, plugin: &PluginRef) -> Self {
        self.stage(name, StageKind::Filter, plugin)
    }

    /// The key: one path, or several for a compound key.
    ///
    /// # Panics
    /// When a path is no place in a message.
    #[must_use]
    pub fn key_by(mut self, paths: &[&str]) -> Self {
        let parse = |p: &&str| p.parse().unwrap_or_else(|e: String| panic!("{e}"));
        self.topology.key =
            Some(KeySpec { paths: paths.iter().map(parse).collect(), on_null: OnNull::DeadLetter });
        self
    }

    /// An aggregate over tumbling windows.
    ///
    /// # Panics
    /// When the size is not above zero.
    #[must_use]
    pub fn tumbling(self, name: &str, plugin: &PluginRef, size_ms: i64, allowed_lateness_ms: i64) -> Self {
        let windows = Windows::tumbling(size_ms).unwrap_or_else(|e| panic!("{e}"));
        self.windows(name, plugin, windows, allowed_lateness_ms, Emit::Close)
    }

    /// An aggregate over windows of any kind. Late messages become dead letters.
    #[must_use]
    pub fn windows(
        mut self,
        name: &str,
        plugin: &PluginRef,
        window: Windows,
        allowed_lateness_ms: i64,
        emit: Emit,
    ) -> Self {
        let compound_key = self.topology.key.as_ref().is_some_and(KeySpec::is_compound);
        self.topology.keyed.push(KeyedSpec::Window(WindowSpec {
            name: name.into(),
            aggregate: plugin.clone().into(),
            window,
            allowed_lateness_ms,
            late: Late::DeadLetter,
            emit,
            compound_key,
        }));
        self
    }

    /// A running aggregate.
    #[must_use]
    pub fn running(mut self, name: &str, plugin: &PluginRef, order: Order) -> Self {
        let compound_key = self.topology.key.as_ref().is_some_and(KeySpec::is_compound);
        let spec =
            RunningSpec { name: name.into(), aggregate: plugin.clone().into(), compound_key, shared: false };
        self.topology.keyed.push(KeyedSpec::Running(spec));
        self.topology.order = order;
        self
    }

    /// The running aggregates so far share their totals with other processes, over a store that can.
    #[must_use]
    pub fn shared(mut self) -> Self {
        for stage in &mut self.topology.keyed {
            if let KeyedSpec::Running(spec) = stage {
                spec.shared = true;
            }
        }
        self
    }

    /// A named output that [`Driver::read_output`] can read.
    #[must_use]
    pub fn output(mut self, name: &str) -> Self {
        self.outputs.push(name.to_owned());
        self
    }
}

/// What a partition's log holds.
#[derive(Clone)]
enum Entry {
    Message(String),
    /// Event time went on without a message.
    Time(i64),
}

/// A pipeline under your hands.
pub struct Driver {
    topology: Arc<Topology>,
    /// Every edition that there was.
    editions: Vec<Arc<Topology>>,
    /// By the editions' numbers, the prefix of those that have messages to come.
    prefixes: BTreeMap<u64, Prefix>,
    sinks: Vec<SinkRoute>,
    store: Arc<dyn StateStore>,
    logs: Vec<Vec<Entry>>,
    parts: Parts,
    /// By partition: the next entry to read, and how many batches were read.
    readers: Vec<(usize, u64)>,
    /// By sink: what is committed, and how much of it was read.
    committed: Vec<(Vec<Value>, usize)>,
}

const MAIN: usize = 0;
const DEAD_LETTERS: usize = 1;
const BATCH_MESSAGES_MAX: usize = 256;

impl Driver {
    /// A pipeline over `partitions` empty logs, with `lanes` lanes and a store in memory.
    #[must_use]
    pub fn new(steps: Steps, partitions: usize, lanes: usize) -> Self {
        Self::with_store(steps, partitions, lanes, Arc::new(MemoryStore::new()))
    }

    /// As [`Driver::new`], over another store.
    #[must_use]
    pub fn with_store(steps: Steps, partitions: usize, lanes: usize, store: Arc<dyn StateStore>) -> Self {
        let topology = Arc::new(steps.topology);
        let mut sinks = vec![sink(Takes::Main), sink(Takes::DeadLetters)];
        sinks.extend(steps.outputs.into_iter().map(|name| sink(Takes::Named(name))));
        let parts =
            assemble(&topology, &sinks, partitions, &store, lanes, BATCH_MESSAGES_MAX, LaneBounds::NONE);
        let committed = vec![(Vec::new(), 0); sinks.len()];
        let logs = vec![Vec::new(); partitions];
        let readers = vec![(0, 0); partitions];
        let editions = vec![Arc::clone(&topology)];
        let prefixes = BTreeMap::from([(0, Prefix::new(&topology, &parts.routes))]);
        Self { topology, editions, prefixes, sinks, store, logs, parts, readers, committed }
    }

    /// Appends a message, as its JSON envelope, to a partition's log.
    pub fn push(&mut self, partition: usize, line: &str) {
        self.logs[partition].push(Entry::Message(line.to_owned()));
    }

    /// Event time goes on to `time_ms` in every partition, as if a message of that time had been dropped.
    pub fn advance(&mut self, time_ms: i64) {
        for log in &mut self.logs {
            log.push(Entry::Time(time_ms));
        }
    }

    /// Lets everything run that can: what is in the logs is read, and goes as far as stream time lets it.
    /// Nothing is committed.
    pub fn tick(&mut self) {
        for partition in 0..self.logs.len() {
            while let Some(prepared) = self.read_batch(partition) {
                self.parts.coordinator.accept(prepared);
            }
        }
        loop {
            let inputs = self.parts.coordinator.release(usize::MAX);
            if inputs.is_empty() {
                return;
            }
            for (lane, input) in inputs {
                self.parts.lanes[lane].process(input);
            }
        }
    }

    fn read_batch(&mut self, partition: usize) -> Option<Prepared> {
        let (next, sequence) = self.readers[partition];
        let entry = self.logs[partition].get(next)?;
        let id = PartitionId { source: 0, partition: u32::try_from(partition).unwrap_or(u32::MAX) };
        self.readers[partition] = (next + 1, sequence + 1);
        Some(match entry {
            Entry::Message(line) => {
                let (number, _) = self.parts.coordinator.edition_at(id, next as u64);
                let Some(prefix) = self.prefixes.get_mut(&number) else { panic!("edition {number} is gone") };
                let raw = raw_batch(id, next as u64, std::slice::from_ref(line));
                let (prepared, rest) = prefix.run(Work::new(raw, sequence));
                debug_assert!(rest.is_none(), "one record has no parts");
                prepared
            }
            Entry::Time(time) => {
                let mut batch = Batch::with_capacity(id, next as u64 + 1, 0, 0);
                batch.tail = Passed { time: *time, ..Passed::NONE };
                let sinks = self.sinks.len();
                let out = Outbox {
                    sinks: vec![Default::default(); sinks],
                    offsets: vec![Vec::new(); sinks],
                    ..Outbox::default()
                };
                Prepared { partition: id, sequence, is_part: false, batch, out, raw_bytes: 0, held_bytes: 0 }
            }
        })
    }

    /// A partition is quiet for the idle timeout: the others go on without it.
    pub fn idle(&mut self, partition: usize) {
        self.tick();
        let id = PartitionId { source: 0, partition: u32::try_from(partition).unwrap_or(u32::MAX) };
        self.parts.coordinator.idle(id);
        self.checkpoint();
    }

    /// All partitions end here: every window closes.
    pub fn end(&mut self) {
        self.tick();
        for (partition, (_, batches)) in (0u32..).zip(&self.readers) {
            self.parts.coordinator.end(PartitionId { source: 0, partition }, *batches);
        }
        self.tick();
    }

    /// Ticks, then commits all of it.
    ///
    /// # Panics
    /// When the store refuses.
    pub fn checkpoint(&mut self) {
        self.tick();
        self.commit();
        // What a barrier brought back goes on.
        self.tick();
    }

    /// Other plugins take over: those of `steps`, which are the same in all else. What was read before is theirs who
    /// were there; what comes is the new ones', and the windows that are open.
    ///
    /// # Errors
    /// Why they can't: each reason a clause. All stays as it was.
    ///
    /// # Panics
    /// When the store refuses.
    pub fn swap(&mut self, steps: Steps) -> Result<(), Vec<String>> {
        let new = Arc::new(steps.topology);
        match fits(&self.topology, &new)? {
            Swap::Plain => {
                self.parts.lanes.iter_mut().for_each(|lane| lane.swap(&new.keyed));
                self.take_over(&new);
            }
            Swap::Migrating(from) => {
                self.commit();
                let migrated: Result<Vec<()>, String> =
                    self.parts.lanes.iter_mut().map(|lane| lane.migrate(&new.keyed, &from)).collect();
                if let Err(why) = migrated {
                    self.parts.lanes.iter_mut().for_each(Lane::forget_migrated);
                    return Err(vec![why]);
                }
                self.parts.collector.reshape(new.shape());
                self.take_over(&new);
                for lane in &mut self.parts.lanes {
                    if let Err(e) = lane.restore(&new.keyed) {
                        panic!("{e}");
                    }
                }
            }
        }
        self.editions.push(Arc::clone(&new));
        self.topology = new;
        Ok(())
    }

    fn take_over(&mut self, new: &Arc<Topology>) {
        let ids = (0u32..).map(|partition| PartitionId { source: 0, partition });
        let edges = ids.zip(&self.readers).map(|(id, (next, _))| (id, *next as u64)).collect();
        let plugins = Plugins { now: new.plugins(), ..Plugins::default() };
        let number = self.parts.coordinator.swap(plugins, &edges);
        self.prefixes.insert(number, Prefix::new(new, &self.parts.routes));
        self.commit();
    }

    /// Ends the epoch, and commits it.
    fn commit(&mut self) {
        let barrier = self.parts.coordinator.barrier();
        let epoch = barrier.epoch;
        let mut commit = self.parts.collector.barrier(barrier);
        for lane in &mut self.parts.lanes {
            let part = lane.barrier(epoch);
            commit = commit.or(self.parts.collector.lane(epoch, part));
        }
        let Some(commit) = commit else { panic!("an epoch without all its parts") };
        if let Err(e) = self.store.commit(&commit.delta, &commit.checkpoint) {
            panic!("{e}");
        }
        let merged = self.store.merged();
        self.parts.lanes.iter_mut().for_each(|lane| lane.committed(epoch, &merged));
        for ((committed, _), batch) in self.committed.iter_mut().zip(&commit.out.sinks) {
            committed.extend(outputs(batch).map(|o| serde_json::from_str(&o.line).unwrap_or(Value::Null)));
        }
    }

    /// The process dies and comes back with `lanes` lanes: what was not committed is forgotten and done
    /// again.
    pub fn crash_and_restore(&mut self, lanes: usize) {
        let committed = self.store.checkpoint().ok().flatten().map(|c| c.plugins).unwrap_or_default();
        let with = |plugins: &[StagePlugin]| {
            let edition = self.editions.iter().rev().find(|edition| edition.plugins() == plugins);
            edition.map_or_else(|| Arc::clone(&self.editions[0]), Arc::clone)
        };
        let before: Vec<_> = committed.before.iter().map(|before| with(&before.plugins)).collect();
        self.topology = with(&committed.now);
        self.parts = assemble(
            &self.topology,
            &self.sinks,
            self.logs.len(),
            &self.store,
            lanes,
            BATCH_MESSAGES_MAX,
            LaneBounds::NONE,
        );
        let editions = before.iter().chain([&self.topology]);
        self.prefixes = (0..).zip(editions.map(|edition| Prefix::new(edition, &self.parts.routes))).collect();
        for (id, position) in self.parts.coordinator.starts() {
            self.readers[id.partition as usize] = (usize::try_from(position.offset).unwrap_or(usize::MAX), 0);
        }
    }

    fn read_sink(&mut self, sink: usize) -> Vec<Value> {
        let (committed, read) = &mut self.committed[sink];
        let new = committed[*read..].to_vec();
        *read = committed.len();
        new
    }

    /// The messages out of the last stage that were committed since the last call.
    pub fn read(&mut self) -> Vec<Value> {
        self.read_sink(MAIN)
    }

    /// The dead letters that were committed since the last call.
    pub fn read_dead_letters(&mut self) -> Vec<Value> {
        self.read_sink(DEAD_LETTERS)
    }

    /// The messages of a named output that were committed since the last call.
    ///
    /// # Panics
    /// When [`Steps::output`] did not name it.
    pub fn read_output(&mut self, name: &str) -> Vec<Value> {
        let takes = Takes::Named(name.to_owned());
        match self.sinks.iter().position(|s| s.takes == takes) {
            Some(sink) => self.read_sink(sink),
            None => panic!("no output `{name}`: name it with Steps::output"),
        }
    }

    /// The committed state: stored keys and values.
    ///
    /// # Panics
    /// When the store can't be read.
    #[must_use]
    pub fn state(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut entries = Vec::new();
        if let Err(e) = self.store.scan(b"", &mut |key, value| entries.push((key.to_vec(), value.to_vec()))) {
            panic!("{e}");
        }
        entries
    }

    /// The committed totals.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.store.checkpoint().ok().flatten().map(|c| counts_from(&c.counts)).unwrap_or_default()
    }
}

//! What driver and simulator share: the engine's parts put together without threads; records as JSON
//! lines, outputs as their id and line.

use std::sync::Arc;

use wasmill_connect::codec::json::JsonEncoder;
use wasmill_engine::commit::Collector;
use wasmill_engine::coordinator::{Coordinator, FoundPartition};
use wasmill_engine::edition::Plugins;
use wasmill_engine::input::{RawBatch, RawRecord};
use wasmill_engine::lane::{Lane, LaneBounds};
use wasmill_engine::output::{EncodedBatch, Encoder, OutputId, Routes, SinkRoute, Takes, When};
use wasmill_engine::position::PartitionId;
use wasmill_engine::prefix::Prefix;
use wasmill_engine::state::StateStore;
use wasmill_engine::topology::Topology;
use wasmill_frame::Message;

/// One output as a test sees it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Output {
    /// Its output id.
    pub id: String,
    /// The message, as the JSON envelope.
    pub line: String,
}

/// Writes a message as its JSON envelope, and its output id beside it.
pub struct TestEncoder(pub JsonEncoder);

impl Encoder for TestEncoder {
    fn encode(&self, message: Message<'_>, id: &OutputId<'_>, into: &mut EncodedBatch) -> Result<(), String> {
        self.0.encode(message, id, into)?;
        let start = into.data.len();
        into.data.extend_from_slice(format!("{id:?}").as_bytes());
        if let Some(record) = into.records.last_mut() {
            record.id = Some(start..into.data.len());
        }
        Ok(())
    }
}

/// A sink for tests that takes what `takes` says.
#[must_use]
pub fn sink(takes: Takes) -> SinkRoute {
    SinkRoute { takes, encoder: Arc::new(TestEncoder(JsonEncoder)), when: When::Always }
}

/// The outputs of an encoded batch.
pub fn outputs(batch: &EncodedBatch) -> impl Iterator<Item = Output> {
    batch.records.iter().map(|r| {
        let text =
            |range: std::ops::Range<usize>| String::from_utf8_lossy(&batch.data[range]).trim_end().to_owned();
        Output { id: r.id.clone().map(text).unwrap_or_default(), line: text(r.value.clone()) }
    })
}

/// Lines of a partition's log as a raw batch; the offset of a line is its place in the log.
#[must_use]
pub fn raw_batch(partition: PartitionId, first: u64, lines: &[String]) -> RawBatch {
    let mut data = Vec::new();
    let mut records = Vec::with_capacity(lines.len());
    for (offset, line) in (first..).zip(lines) {
        let start = data.len();
        data.extend_from_slice(line.as_bytes());
        records.push(RawRecord {
            offset,
            next: offset + 1,
            value: start..data.len(),
            ..RawRecord::default()
        });
    }
    RawBatch { data, records, next: first + lines.len() as u64, ..RawBatch::new(partition) }
}

/// The parts of a running pipeline, restored from what a store has.
pub struct Parts {
    /// One worker's prefix.
    pub prefix: Prefix,
    /// What leaves where.
    pub routes: Arc<Routes>,
    /// The coordinator.
    pub coordinator: Coordinator,
    /// The lanes; none where nothing is stateful.
    pub lanes: Vec<Lane>,
    /// What puts commits together.
    pub collector: Collector,
}

/// Puts a pipeline over so many partitions together, as a process does at its start. Where it has a source of dead
/// letters, which is then its source 1, the last of them is that one's.
///
/// # Panics
/// When the store can't be read, or the engine refuses the checkpoint in it.
#[must_use]
pub fn assemble(
    topology: &Arc<Topology>,
    sinks: &[SinkRoute],
    partitions: usize,
    store: &Arc<dyn StateStore>,
    lanes: usize,
    batch_messages_max: usize,
    bounds: LaneBounds,
) -> Parts {
    let (Ok(checkpoint), Ok(foretold)) = (store.checkpoint(), store.foretold()) else {
        panic!("the store can't be read");
    };
    let found: Vec<FoundPartition> = (0u32..)
        .take(partitions)
        .map(|partition| FoundPartition {
            id: match topology.replay() {
                Some(source) if partition as usize + 1 == partitions => PartitionId { source, partition: 0 },
                _ => PartitionId { source: 0, partition },
            },
            name: format!("log-{partition}"),
            incarnation: "simulated".to_owned(),
            begin: 0,
        })
        .collect();
    let names = found.iter().map(|f| (f.id, f.name.clone())).collect();
    let routes = Arc::new(Routes::new(sinks.to_vec(), names));
    let foretold = foretold.as_ref().map(|(epoch, facts)| (*epoch, facts.as_slice()));
    let mut coordinator = match Coordinator::new(
        topology,
        &routes,
        lanes,
        batch_messages_max,
        &found,
        checkpoint.as_ref(),
        foretold,
    ) {
        Ok(coordinator) => coordinator,
        Err(e) => panic!("{e}"),
    };
    if coordinator.plugins().is_empty() {
        coordinator.begin_with(Plugins { now: topology.plugins(), ..Plugins::default() });
    }
    let lanes = if topology.has_lanes() { lanes } else { 0 };
    let lane = |n| {
        let (keyed, groups) = (&topology.keyed, topology.key_groups);
        match Lane::new(keyed, &routes, store, groups, (n, lanes), bounds) {
            Ok(lane) => lane,
            Err(e) => panic!("{e}"),
        }
    };
    let lanes: Vec<Lane> = (0..lanes).map(lane).collect();
    let generation = store.generation().unwrap_or_default();
    Parts {
        prefix: Prefix::new(topology, &routes),
        routes,
        coordinator,
        collector: Collector::new(&lanes, generation, topology.shape(), checkpoint.as_ref()),
        lanes,
    }
}

//! From a checked spec to the parts that run: plugins loaded, ends opened, the last checkpoint read.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use wasmill_connect::codec::json::JsonDecoder;
use wasmill_connect::codec::rfc3339;
use wasmill_connect::store::{DiskStore, MemoryStore};
use wasmill_connect::{Partition, Sink, Source};
use wasmill_engine::commit::Collector;
use wasmill_engine::coordinator::{Coordinator, FoundPartition};
use wasmill_engine::input::Decoder;
use wasmill_engine::key::Path as FieldPath;
use wasmill_engine::lane::{KeyedSpec, Lane};
use wasmill_engine::output::{Routes, SinkRoute, Takes};
use wasmill_engine::position::{PartitionId, Progress};
use wasmill_engine::stage::{StageKind, StageSpec};
use wasmill_engine::state::{Checkpoint, StateStore, StoreError};
use wasmill_engine::time::END;
use wasmill_engine::topology::{Order, TimeSpec, Topology};
use wasmill_engine::window::{Late, Tumbling};
use wasmill_engine::{RunningSpec, WindowSpec};
use wasmill_plugin::Sandbox;

use super::dead_letter_log::DeadLetterLog;
use crate::cli::check::load_fitting;
use crate::cli::sandbox as admission;
use crate::cli::{Exit, RunFailure};
use crate::spec::{self, Pipeline, Stage};

/// The name under which the dead-letter sink's token is kept.
const DEAD_LETTER_SINK: &str = "dead_letter";

/// One partition, ready to be read.
pub(super) struct Input {
    pub id: PartitionId,
    pub name: String,
    /// The offset behind its last record, where that is known.
    pub extent: Option<u64>,
    pub start: u64,
}

/// A sink with the name that its token is kept under.
pub(super) struct NamedSink {
    pub name: String,
    pub sink: Box<dyn Sink>,
}

/// A pipeline, ready to run.
pub(super) struct Assembled {
    pub sandbox: Sandbox,
    pub topology: Arc<Topology>,
    pub routes: Arc<Routes>,
    pub sources: Vec<Box<dyn Source>>,
    pub inputs: Vec<Input>,
    pub sinks: Vec<NamedSink>,
    pub store: Arc<dyn StateStore>,
    pub coordinator: Coordinator,
    pub collector: Collector,
    pub lanes: Vec<Lane>,
    pub resumed: bool,
}

/// Loads, opens and restores everything that a pipeline needs.
pub(super) async fn assemble(pipeline: &Pipeline) -> anyhow::Result<Assembled> {
    // Every worker has an instance of every stage's plugin.
    let instances = pipeline.workers * pipeline.stages.len();
    let sandbox = admission::open(Some(&pipeline.limits), instances).map_err(stopped)?;
    let topology = Arc::new(topology(pipeline, &sandbox)?);
    let store = open_store(pipeline)?;
    let checkpoint = store.checkpoint().map_err(outside)?;
    let foretold = store.foretold().map_err(outside)?;

    let mut sources = Vec::new();
    let mut found = Vec::new();
    for (number, spec) in pipeline.sources.iter().enumerate() {
        let source_number = u16::try_from(number).context("more than 65,535 sources")?;
        let mut source = spec.source().map_err(outside)?;
        for partition in source.partitions().await.map_err(outside)? {
            let id = PartitionId { source: source_number, partition: partition.number };
            let incarnation = incarnation(&mut *source, id, &partition, checkpoint.as_ref()).await?;
            found.push((FoundPartition { id, name: partition.name.clone(), incarnation }, partition.extent));
        }
        sources.push(source);
    }

    let (sinks, sink_routes) = open_sinks(pipeline, checkpoint.as_ref()).await?;
    let names: BTreeMap<PartitionId, String> = found.iter().map(|(f, _)| (f.id, f.name.clone())).collect();
    let routes = Arc::new(Routes::new(sink_routes, names));
    let lanes = if topology.has_lanes() { pipeline.workers } else { 0 };
    let partitions: Vec<FoundPartition> = found.iter().map(|(f, _)| f.clone()).collect();
    let coordinator = Coordinator::new(
        &topology,
        &routes,
        lanes,
        pipeline.batch_size,
        &partitions,
        checkpoint.as_ref(),
        foretold.as_ref().map(|(epoch, facts)| (*epoch, facts.as_slice())),
    )
    .map_err(outside)?;
    refuse_grown(&topology, checkpoint.as_ref(), &found)?;
    let starts: BTreeMap<PartitionId, u64> = coordinator.starts().map(|(id, p)| (id, p.offset)).collect();
    let inputs = found
        .into_iter()
        .map(|(f, extent)| Input {
            start: starts.get(&f.id).copied().unwrap_or_default(),
            id: f.id,
            name: f.name,
            extent,
        })
        .collect();
    let generation = store.generation().map_err(outside)?;
    let collector = Collector::new(lanes, generation, topology.shape(), checkpoint.as_ref());
    let lanes = (0..lanes)
        .map(|n| Lane::new(&topology.keyed, &routes, &store, topology.key_groups, (n, lanes)))
        .collect::<Result<Vec<_>, StoreError>>()
        .map_err(outside)?;
    let resumed = checkpoint.is_some();
    Ok(Assembled {
        sandbox,
        topology,
        routes,
        sources,
        inputs,
        sinks,
        store,
        coordinator,
        collector,
        lanes,
        resumed,
    })
}

/// Forgets positions and state, and what the sinks hold of earlier runs.
pub(super) fn reset(pipeline: &Pipeline) -> anyhow::Result<()> {
    if let Some(directory) = state_directory(pipeline) {
        DiskStore::reset_at(&directory).map_err(outside)?;
    }
    for sink in pipeline.sinks.iter().map(|s| &s.connector).chain(&pipeline.dead_letter) {
        sink.reset().map_err(outside)?;
    }
    Ok(())
}

/// A failure of something outside: it ends the process with its own exit code.
fn outside(error: impl std::fmt::Display) -> anyhow::Error {
    RunFailure { exit: Exit::Outside, text: error.to_string() }.into()
}

fn stopped(stop: crate::cli::Stop) -> anyhow::Error {
    let text = stop.shown.strip_prefix("error: ").unwrap_or(&stop.shown).to_owned();
    RunFailure { exit: stop.exit, text }.into()
}

fn state_directory(pipeline: &Pipeline) -> Option<PathBuf> {
    pipeline.data_dir.as_ref().map(|dir| DiskStore::directory(dir, &pipeline.name))
}

fn open_store(pipeline: &Pipeline) -> anyhow::Result<Arc<dyn StateStore>> {
    Ok(match state_directory(pipeline) {
        Some(directory) => Arc::new(DiskStore::open(&directory).map_err(outside)?),
        None => Arc::new(MemoryStore::new()),
    })
}

/// Which log a partition is: the stored name of it, if the source says that it is still the same.
async fn incarnation(
    source: &mut dyn Source,
    id: PartitionId,
    partition: &Partition,
    checkpoint: Option<&Checkpoint>,
) -> anyhow::Result<String> {
    let stored = checkpoint
        .and_then(|c| c.positions.iter().find(|(stored, _)| *stored == id))
        .map(|(_, position)| &position.incarnation);
    if let Some(stored) = stored
        && source.is_same_log(partition, stored).await.map_err(outside)?
    {
        return Ok(stored.clone());
    }
    Ok(partition.incarnation.clone())
}

/// A finished input is at +∞: what is added to it later would be late for every window.
fn refuse_grown(
    topology: &Topology,
    checkpoint: Option<&Checkpoint>,
    found: &[(FoundPartition, Option<u64>)],
) -> anyhow::Result<()> {
    let windows = topology.keyed.iter().any(|k| matches!(k, KeyedSpec::Window(_)));
    let Some(checkpoint) = checkpoint.filter(|c| windows && c.stream_time == END) else { return Ok(()) };
    for (partition, extent) in found {
        let position = checkpoint.positions.iter().find(|(id, _)| *id == partition.id).map(|(_, p)| p);
        let what = match position {
            None => "is new",
            Some(p) if p.progress == Progress::Ended && extent.is_some_and(|e| e > p.offset) => "has grown",
            Some(_) => continue,
        };
        return Err(outside(format!(
            "{} {what} since the pipeline came to the end of its sources and closed all windows: its messages would be late for every window. Run with --reset to process everything again, or give it a pipeline of its own",
            partition.name
        )));
    }
    Ok(())
}

async fn open_sinks(
    pipeline: &Pipeline,
    checkpoint: Option<&Checkpoint>,
) -> anyhow::Result<(Vec<NamedSink>, Vec<SinkRoute>)> {
    let mut opened: Vec<(String, Takes, Box<dyn Sink>)> = Vec::new();
    for (number, spec) in pipeline.sinks.iter().enumerate() {
        let takes = spec.output.clone().map_or(Takes::Main, Takes::Named);
        let name = format!("{number}:{}", spec.connector.name());
        opened.push((name, takes, spec.connector.sink().map_err(outside)?));
    }
    let dead_letters: Box<dyn Sink> = match &pipeline.dead_letter {
        Some(spec) => spec.sink().map_err(outside)?,
        None => Box::new(DeadLetterLog),
    };
    opened.push((DEAD_LETTER_SINK.to_owned(), Takes::DeadLetters, dead_letters));
    let mut sinks = Vec::new();
    let mut routes = Vec::new();
    for (name, takes, mut sink) in opened {
        let token = checkpoint
            .and_then(|c| c.sinks.iter().find(|(n, _)| *n == name))
            .map(|(_, token)| token.as_str());
        sink.recover(token).await.map_err(outside)?;
        routes.push(SinkRoute { takes, encoder: sink.encoder() });
        sinks.push(NamedSink { name, sink });
    }
    Ok((sinks, routes))
}

fn topology(pipeline: &Pipeline, sandbox: &Sandbox) -> anyhow::Result<Topology> {
    let exchange = pipeline.exchange();
    let mut topology = Topology {
        decoders: pipeline.sources.iter().map(|_| Arc::new(JsonDecoder) as Arc<dyn Decoder>).collect(),
        time: (pipeline.time != FieldPath::Timestamp)
            .then(|| TimeSpec { path: pipeline.time.clone(), parse: parse_time }),
        prefix: Vec::new(),
        key: None,
        keyed: Vec::new(),
        order: Order::Log,
        idle_marks: pipeline.idle_timeout.is_some(),
        key_groups: Topology::KEY_GROUPS,
    };
    for (place, stage) in pipeline.stages.iter().enumerate() {
        let behind_exchange = exchange.is_some_and(|e| place > e);
        let (kind, plugin_stage) = match stage {
            Stage::KeyBy(key) => {
                topology.key = Some(key.clone());
                continue;
            }
            Stage::Aggregate(aggregate) => {
                let keyed = aggregate_stage(pipeline, sandbox, aggregate, &topology)?;
                if let KeyedSpec::Running(_) = &keyed {
                    topology.order = match aggregate.order {
                        spec::Order::Log => Order::Log,
                        spec::Order::Arrival => Order::Arrival,
                    };
                }
                topology.keyed.push(keyed);
                continue;
            }
            Stage::Transform(p) => (StageKind::Transform, p),
            Stage::Filter(p) => (StageKind::Filter, p),
        };
        let plugin = load_fitting(sandbox, pipeline, stage, plugin_stage).map_err(stopped)?;
        let stage = Arc::new(StageSpec { name: plugin_stage.name.clone(), kind, plugin });
        if behind_exchange {
            topology.keyed.push(KeyedSpec::Stage(stage));
        } else {
            topology.prefix.push(stage);
        }
    }
    Ok(topology)
}

fn aggregate_stage(
    pipeline: &Pipeline,
    sandbox: &Sandbox,
    aggregate: &spec::AggregateStage,
    topology: &Topology,
) -> anyhow::Result<KeyedSpec> {
    let stage = Stage::Aggregate(aggregate.clone());
    let plugin = load_fitting(sandbox, pipeline, &stage, &aggregate.stage).map_err(stopped)?;
    let name: Arc<str> = aggregate.stage.name.as_str().into();
    let compound_key = topology.key.as_ref().is_some_and(wasmill_engine::key::KeySpec::is_compound);
    Ok(match &aggregate.window {
        None => KeyedSpec::Running(RunningSpec { name, plugin, compound_key }),
        Some(window) => KeyedSpec::Window(WindowSpec {
            name,
            plugin,
            window: Tumbling::new(millis(window.size)).map_err(outside)?,
            allowed_lateness_ms: millis(window.allowed_lateness),
            late: match &window.late {
                spec::Late::Drop => Late::Drop,
                spec::Late::DeadLetter => Late::DeadLetter,
                spec::Late::Output(name) => Late::Output(name.clone()),
            },
            compound_key,
        }),
    })
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Event time as milliseconds or RFC 3339.
fn parse_time(text: &str) -> Result<i64, String> {
    match text.parse::<i64>() {
        Ok(ms) => Ok(ms),
        Err(_) => rfc3339::parse(text),
    }
}

//! From a checked spec to the parts that run: plugins loaded, ends opened, the last checkpoint read.

mod codecs;
mod editions;
mod exchange;
mod joint;
mod merger;
mod reset;
mod sinks;
mod stores;
mod topology;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::Mutex;
use tokio::task::block_in_place;
use wasmill_connect::codec::{Ahead, Writing};
use wasmill_connect::kafka::{Changelog, ExchangeMember};
use wasmill_connect::{Membership, Partition, Positions, Sink, Source, Writer};
use wasmill_engine::commit::Collector;
use wasmill_engine::coordinator::{Coordinator, FoundPartition, ResumeError};
use wasmill_engine::edition::Plugins;
use wasmill_engine::lane::{Clocks, EVERYTHING, KeyedSpec, Lane, LaneBounds, Step};
use wasmill_engine::output::Routes;
use wasmill_engine::position::{PartitionId, Position, Progress};
use wasmill_engine::state::{Checkpoint, StateStore, StoreError};
use wasmill_engine::time::{END, START};
use wasmill_engine::topology::Topology;
use wasmill_plugin::Sandbox;

use super::claims::Claims;
use super::coordinate::Halt;
use super::follower;
use super::guarded::{Guards, RunGuard};
use super::members::SharedSource;
use super::patient_store::PatientStore;
use super::retry::{Ends, answered, insist, off_the_network};
use super::swapper::{LIST, Listed, denied};
use super::swapping::Edition;
use super::transaction::{TRANSACTION, Transacted};
use crate::cli::{Exit, RunFailure, sandbox as admission};
use crate::plugins::{Agreed, Shelf};
use crate::spec::{Delivery, Kept, Part, Pipeline, Sharing};
use codecs::{aheads, decoders, envelope_decoders, readings};
use editions::{Begun, Loading};
use exchange::{begin_new_parts, behind, exchange_source};
use joint::Joint;
use sinks::{begin, begin_with_others, open_sinks, recover_sinks};
use stores::{open_early, open_parts, open_store};
use topology::topology;

pub(super) use merger::Merger;
pub(super) use reset::reset;

/// What `/ready` calls an exchange.
pub(super) const EXCHANGE: &str = "the exchange";

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
    pub codec: Writing,
    pub sink: Box<dyn Sink>,
    /// Whether what it writes is a part of a transaction.
    pub in_transaction: bool,
}

/// What outlasts a run of a pipeline in its process.
#[derive(Default)]
pub(super) struct KeptOpen {
    /// What this process keeps itself, in memory or on disk.
    store: Option<Arc<dyn StateStore>>,
    /// The same of partitions of an exchange.
    parts: BTreeMap<u32, Arc<dyn StateStore>>,
    /// The place in an exchange's group.
    member: Option<SharedMember>,
}

/// A place in an exchange's group that the task which follows it and the next run both use.
pub(super) type SharedMember = Arc<Mutex<ExchangeMember>>;

/// A shared source's group, joined.
pub(super) struct Group {
    pub source: u16,
    pub name: String,
    pub membership: Box<dyn Membership>,
}

/// A pipeline, ready to run.
pub(super) struct Assembled {
    pub sandbox: Sandbox,
    /// Held for as long as the run lasts.
    pub waits: RunGuard,
    pub guards: Guards,
    pub shelf: Shelf,
    /// Which plugins the run begins with.
    pub plugins: Plugins,
    /// What the pipeline's processes agree on of them.
    pub list: Listed,
    pub merger: Arc<Merger>,
    pub editions: BTreeMap<u64, Arc<Edition>>,
    pub topology: Arc<Topology>,
    pub routes: Arc<Routes>,
    pub sources: Vec<SharedSource>,
    /// What must be had before batches of each of them can be decoded.
    pub aheads: Arc<[Option<Arc<dyn Ahead>>]>,
    /// The partitions that are this process's to the end; none of shared sources.
    pub inputs: Vec<Input>,
    /// The shared sources' groups.
    pub groups: Vec<Group>,
    /// The exchange's group, where it is behind one.
    pub member: Option<SharedMember>,
    /// Where the positions of shared sources are, if not with them.
    pub claims: Option<Claims>,
    /// What commits in place of the store.
    pub transacted: Option<Transacted>,
    /// How many partitions the sources have, others' included.
    pub partition_count: usize,
    pub sinks: Vec<NamedSink>,
    pub store: Arc<dyn StateStore>,
    pub coordinator: Coordinator,
    pub collector: Collector,
    pub lanes: Vec<Lane>,
    pub resumed: bool,
}

/// Loads, opens and restores everything that a pipeline needs.
///
/// What this process keeps itself, in memory or on disk, is `kept` open for the next time. Lanes do as much at once as
/// `step` says.
pub(super) async fn assemble(
    pipeline: &Pipeline,
    ends: &Ends,
    (kept, step): (&mut KeptOpen, Step),
) -> anyhow::Result<Assembled> {
    let sharing = pipeline.sharing();
    // Every worker has an instance of every stage's plugin.
    // Around a swap it may have two editions of them.
    let instances = 2 * pipeline.workers * pipeline.stages.len();
    let sandbox = admission::open(Some(&pipeline.limits), instances).map_err(stopped)?;
    let readings = readings(pipeline, ends).await?;
    let (guards, waits) = Guards::new(ends);
    let shelf = Shelf::of(pipeline);
    let decoders = decoders(&readings);
    let loading = Loading { pipeline, sandbox: &sandbox, guards: &guards, shelf: &shelf, decoders };
    // It compiles, off the threads of everything else.
    let topology = block_in_place(|| loading.newest())?;
    let merger = Arc::new(Merger::of(&topology));
    let opened = match kept.store {
        Some(_) => None,
        None => open_early(pipeline).await,
    };
    let mut sources = Vec::new();
    let mut listed = Vec::new();
    for (number, spec) in pipeline.sources.iter().enumerate() {
        let source_number = u16::try_from(number).context("more than 65,535 sources")?;
        let name = format!("source {}", spec.name());
        let mut source = spec.source().map_err(outside)?;
        if let Some(reading) = readings.get(number) {
            source.frame_by(Arc::clone(&reading.framing));
        }
        let letters = pipeline.replay() == Some(number);
        if topology.max_ahead.is_some() && pipeline.part != Part::Behind && !letters {
            insist!(ends, &name, source.check_append_times()).map_err(outside)?;
        }
        let partitions = match sharing {
            Sharing::Alone if pipeline.part == Part::Whole => insist!(ends, &name, source.take_all()),
            _ => insist!(ends, &name, source.partitions()),
        }
        .map_err(outside)?;
        for partition in partitions {
            listed.push((PartitionId { source: source_number, partition: partition.number }, partition));
        }
        sources.push((source_number, name, source));
    }
    // Once the partitions are this process's: who had its place before is fenced out.
    let joint = match sources.first_mut() {
        Some((_, _, source)) => Joint::open(pipeline, &mut **source, ends).await?,
        None => None,
    };
    let (sinks, sink_specs, mut transacted) = open_sinks(pipeline, joint.as_ref(), ends).await?;
    if let Some(transacted) = &mut transacted {
        if let Some(exchange) = pipeline.exchange_topic() {
            insist!(ends, TRANSACTION, exchange.make(&transacted.transactions)).map_err(outside)?;
        }
        insist!(ends, TRANSACTION, transacted.transactions.init()).map_err(stopped_by)?;
        if pipeline.kept() == Kept::Changelog {
            let partitions = pipeline.exchange_partitions.unwrap_or(1);
            let open = || Changelog::open(&transacted.transactions, &pipeline.name, partitions);
            transacted.changelog = Some(insist!(ends, TRANSACTION, open()).map_err(outside)?);
        }
    }
    let owned = match pipeline.part {
        Part::Behind => {
            let of = listed.iter().map(|(id, p): &(_, Partition)| (*id, p.name.clone())).collect();
            let (source, owned) = exchange_source(pipeline, of, ends, kept).await?;
            (sources, listed) = behind(source).await?;
            Some(owned)
        }
        Part::Whole | Part::Before => None,
    };
    let changelog = transacted.as_ref().and_then(|t| t.changelog.clone());
    let is_followed = changelog.is_some();
    let (store, claims) = match (&owned, &changelog) {
        (Some(owned), Some(changelog)) => {
            let partitioned = open_parts(pipeline, owned, changelog, ends, kept).await?;
            if let Some(transacted) = &mut transacted {
                transacted.partitioned = Some(Arc::clone(&partitioned));
            }
            (partitioned as Arc<dyn StateStore>, None)
        }
        (None, None) if let Some(joint) = &joint => joint.store(),
        (_, changelog) => open_store(pipeline, &merger, changelog.as_ref(), ends, kept, opened).await?,
    };
    let stored = || {
        let store = Arc::clone(&store);
        off_the_network(move || Ok((store.checkpoint()?, store.foretold()?, store.generation()?)))
    };
    let (mut checkpoint, foretold, generation) = insist!(ends, "the store", stored()).map_err(outside)?;
    if !is_followed {
        follower::refuse_followed(checkpoint.as_ref(), &store.name()).map_err(outside)?;
    }
    if owned.is_some() {
        begin_new_parts(checkpoint.as_mut(), &listed);
    }
    // Where processes share the pipeline they have a list: what is in doubt is nobody's yet, or done again.
    let is_alone = pipeline.remembers_plugins();
    if let Some(checkpoint) = checkpoint.as_mut().filter(|_| !is_alone) {
        checkpoint.plugins = Plugins::default();
    }
    let committed = checkpoint.as_mut().filter(|_| is_alone);
    let broke_off = committed.as_ref().is_some_and(|c| !c.plugins.settled || foretold.is_some());
    // Not before: what is this process's by now may have been done by others with what they decided meanwhile.
    let mut list = list_of(pipeline, &shelf, ends).await?;
    let decided = match &mut list {
        Listed::By(agreed) => Some(loading.decided(agreed, ends).await?),
        Listed::Alone | Listed::Denied(_) => None,
    };
    let Begun { topology, plugins, editions, is_new } =
        block_in_place(|| loading.go_on(topology, committed, foretold.is_some(), decided))?;
    merger.replace(&topology);
    if let Some(Claims(store)) = &claims {
        // Totals that others have put together may not be looked at, which the first commit would find out.
        let shape = || {
            let store = Arc::clone(store);
            off_the_network(move || store.stored_shape())
        };
        let stored = insist!(ends, "the store", shape()).map_err(outside)?;
        if let Some(stored) = stored.filter(|stored| *stored != topology.shape()) {
            return Err(outside(ResumeError::Shape { stored, now: topology.shape() }));
        }
    }
    let exact = pipeline.delivery == Delivery::ExactlyOnce;
    let writer = Writer {
        pipeline: pipeline.name.clone(),
        generation,
        sink: String::new(),
        exact,
        alone: sharing == Sharing::Alone,
    };
    let (mut sinks, sink_routes) =
        recover_sinks(sinks, sink_specs, checkpoint.as_ref(), &writer, ends).await?;
    let resumed = checkpoint.is_some();
    let mut found = Vec::new();
    let mut names = BTreeMap::new();
    for (id, partition) in listed {
        names.insert(id, partition.name.clone());
        if sharing == Sharing::Alone {
            let (_, _, source) = &mut sources[usize::from(id.source)];
            settle(&mut **source, id, &partition, checkpoint.as_mut()).await?;
            let Partition { name, begin, extent, incarnation, .. } = partition;
            found.push((FoundPartition { id, name, incarnation, begin }, extent));
        }
    }
    // What was foretold is of the epoch behind the last: that one comes first.
    if sharing == Sharing::Alone && transacted.is_none() && foretold.is_none() {
        let first = || Checkpoint {
            plugins: if is_alone { plugins.clone() } else { Plugins::default() },
            ..first_checkpoint(generation, topology.shape(), &found)
        };
        let is_first = checkpoint.is_none();
        let last = checkpoint.clone().unwrap_or_else(&first);
        checkpoint = begin(&mut sinks, &store, last, ends).await?.or(checkpoint);
        // Nothing that a transactional sink has taken is seen before it is committed.
        let shows = sinks.iter().any(|s| !s.sink.traits().transactional);
        // What a run shows that dies before its first commit was done by these plugins.
        let is_told = match is_first {
            true => checkpoint.is_some() || !is_alone || plugins.is_empty(),
            false => !is_new,
        };
        if shows && store.is_durable() && !is_told {
            let last = checkpoint.clone().unwrap_or_else(first);
            checkpoint = Some(begin_with_others(&store, last, ends).await?);
        }
    }
    let positions = match sharing {
        Sharing::Alone | Sharing::Exchange => None,
        Sharing::Source => Some(Positions::Source),
        Sharing::Store => Some(Positions::Store),
    };
    let mut groups = Vec::new();
    for (source, name, connected) in &mut sources {
        if let Some(positions) = positions {
            let membership = insist!(ends, name.as_str(), connected.join(positions)).map_err(outside)?;
            // Which partitions are this process's comes with the group's first answer.
            ends.health.ill(name, "waiting for its share of the partitions");
            groups.push(Group { source: *source, name: name.clone(), membership });
        }
    }
    let sequences = sources.iter().filter_map(|(n, _, source)| Some((*n, source.sequences()?))).collect();
    let sources = sources.into_iter().map(|(_, _, source)| Arc::new(Mutex::new(source))).collect();

    let partition_count = names.len();
    let routes = Arc::new(Routes::new(sink_routes, names).with_sequences(sequences));
    let lanes = match &owned {
        Some(_) => pipeline.exchange_partitions.unwrap_or(1) as usize,
        // What leaves for one of the topic's partitions must leave in the order of its stamps.
        None if pipeline.part == Part::Before => 1,
        None if topology.has_lanes() => pipeline.workers,
        None => 0,
    };
    let partitions: Vec<FoundPartition> = found.iter().map(|(f, _)| f.clone()).collect();
    let mut coordinator = Coordinator::new(
        &topology,
        &routes,
        lanes,
        pipeline.batch_size,
        &partitions,
        checkpoint.as_ref(),
        foretold.as_ref().map(|(epoch, facts)| (*epoch, facts.as_slice())),
    )
    .map_err(outside)?;
    let here: Vec<usize> = match &owned {
        Some(owned) => owned.iter().map(|p| *p as usize).collect(),
        None => (0..lanes).collect(),
    };
    if owned.is_some() {
        coordinator.keep_lanes(here.iter().copied());
    }
    if is_alone && coordinator.plugins().is_empty() {
        coordinator.begin_with(plugins.clone());
    }
    if broke_off && transacted.is_none() && sinks.iter().any(|s| !s.sink.traits().transactional) {
        // Whatever the run before has shown was there by now.
        coordinator.doubt(found.iter().filter_map(|(f, extent)| Some((f.id, (*extent)?))).collect());
    }
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
    let read: Arc<dyn StateStore> = Arc::new(PatientStore::new(&store, ends));
    // What doesn't outlive the process is nowhere but in memory.
    let cache_bytes = match store.is_durable() {
        true => pipeline.limits.state_cache_bytes_max / here.len().max(1),
        false => EVERYTHING,
    };
    let bounds = LaneBounds { cache_bytes, epoch_bytes: pipeline.epoch.bytes_max, step };
    let clocks = if owned.is_some() { Clocks::Own } else { Clocks::Common };
    let restored = || {
        let (topology, routes, read) = (Arc::clone(&topology), Arc::clone(&routes), Arc::clone(&read));
        let here = here.clone();
        let lane = move |n| {
            let (keyed, place) = (&topology.keyed, (n, lanes));
            Lane::with_clocks(keyed, &routes, &read, topology.key_groups, place, bounds, clocks)
        };
        off_the_network(move || here.into_iter().map(lane).collect::<Result<Vec<_>, StoreError>>())
    };
    let lanes = insist!(ends, "the store", restored()).map_err(outside)?;
    let collector = Collector::new(&lanes, generation, topology.shape(), checkpoint.as_ref());
    Ok(Assembled {
        sandbox,
        waits,
        guards,
        shelf,
        plugins,
        list,
        merger,
        editions,
        topology,
        routes,
        sources,
        aheads: aheads(&readings),
        inputs,
        groups,
        member: kept.member.clone(),
        claims,
        transacted,
        partition_count,
        sinks,
        store,
        coordinator,
        collector,
        lanes,
        resumed,
    })
}

/// What the pipeline's processes have decided about its plugins; waits for a list that is away.
async fn list_of(pipeline: &Pipeline, shelf: &Shelf, ends: &Ends) -> anyhow::Result<Listed> {
    let Some(mut agreed) = Agreed::of(pipeline, shelf).map_err(outside)? else { return Ok(Listed::Alone) };
    match answered!(ends, LIST, agreed.catch_up()) {
        Ok(_) => Ok(Listed::By(Box::new(agreed))),
        // The messages may be had all the same.
        Err(error) => Ok(denied(&pipeline.name, &error)),
    }
}

/// What stands before the first commit: each partition is where it begins.
fn first_checkpoint(generation: u64, shape: String, found: &[(FoundPartition, Option<u64>)]) -> Checkpoint {
    let begin = |(found, _): &(FoundPartition, Option<u64>)| {
        let position = Position {
            incarnation: found.incarnation.clone(),
            offset: found.begin,
            index: 0,
            stream_time: START,
            progress: Progress::Live,
        };
        (found.id, position)
    };
    Checkpoint {
        epoch: 0,
        generation,
        shape,
        stream_time: START,
        positions: found.iter().map(begin).collect(),
        ..Checkpoint::default()
    }
}

/// The shape of a pipeline's state.
pub(super) fn shape(pipeline: &Pipeline) -> anyhow::Result<String> {
    let sandbox = admission::open(Some(&pipeline.limits), 0).map_err(stopped)?;
    // How records are read is no part of it, but how many sources there are is.
    Ok(topology(pipeline, &sandbox, envelope_decoders(pipeline), None)?.shape())
}

/// A failure of something outside: it ends the process with its own exit code.
fn outside(error: impl std::fmt::Display) -> anyhow::Error {
    RunFailure { exit: Exit::Outside, text: error.to_string() }.into()
}

/// What stops a start: what another process's taking its place means, else something outside.
fn stopped_by(halt: Halt) -> anyhow::Error {
    let exit = if matches!(halt, Halt::Replaced(_)) { Exit::Replaced } else { Exit::Outside };
    RunFailure { exit, text: halt.to_string() }.into()
}

fn stopped(stop: crate::cli::Stop) -> anyhow::Error {
    let text = stop.shown.strip_prefix("error: ").unwrap_or(&stop.shown).to_owned();
    RunFailure { exit: stop.exit, text }.into()
}

/// A position counts in its own log alone. One that was written when the log had another name for it, as a
/// file that has grown since, takes today's.
async fn settle(
    source: &mut dyn Source,
    id: PartitionId,
    found: &Partition,
    checkpoint: Option<&mut Checkpoint>,
) -> anyhow::Result<()> {
    let positions = checkpoint.map(|c| c.positions.iter_mut()).into_iter().flatten();
    for (_, position) in positions.filter(|(stored, _)| *stored == id) {
        if source.is_same_log(found, &position.incarnation).await.map_err(outside)? {
            position.incarnation.clone_from(&found.incarnation);
        }
    }
    Ok(())
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
        if topology.replay() == Some(partition.id.source) {
            continue; // they meet the windows as they are
        }
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

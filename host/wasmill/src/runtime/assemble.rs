//! From a checked spec to the parts that run: plugins loaded, ends opened, the last checkpoint read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::Mutex;
use wasmill_connect::codec::json::JsonDecoder;
use wasmill_connect::codec::rfc3339;
use wasmill_connect::kafka::{
    Changelog, ExchangeDecoder, ExchangeMember, ExchangeSource, Transactions, delete_own_topics,
    exchange_part,
};
use wasmill_connect::store::{DiskStore, MemoryStore, PartitionedStore, RedisStore};
use wasmill_connect::{Membership, Partition, Positions, Sink, Source};
use wasmill_engine::commit::Collector;
use wasmill_engine::coordinator::{Coordinator, FoundPartition};
use wasmill_engine::input::Decoder;
use wasmill_engine::key::Path as FieldPath;
use wasmill_engine::lane::{Clocks, EVERYTHING, KeyedSpec, Lane, LaneBounds};
use wasmill_engine::output::{Routes, SinkRoute, Takes};
use wasmill_engine::position::{PartitionId, Position, Progress};
use wasmill_engine::stage::{StageKind, StageSpec};
use wasmill_engine::state::{Checkpoint, StateStore, StoreError};
use wasmill_engine::time::{END, START};
use wasmill_engine::topology::{Order, TimeSpec, Topology, Via};
use wasmill_engine::window::{Emit, Late};
use wasmill_engine::{Aggregate, RunningSpec, ShareMerger, WindowSpec};
use wasmill_plugin::Sandbox;

use super::claims::Claims;
use super::coordinate::Halt;
use super::dead_letter_log::DeadLetterLog;
use super::follower::Follower;
use super::members::SharedSource;
use super::patient_store::PatientStore;
use super::retry::{Ends, insist, off_the_network};
use super::transaction::{TRANSACTION, Transacted};
use super::{failpoint, follower};
use crate::cli::check::{load_fitting, unambiguous};
use crate::cli::sandbox as admission;
use crate::cli::{Exit, RunFailure};
use crate::spec::{self, ComputedBy, Kept, Part, Pipeline, Sharing, Stage, millis};

/// What `/ready` calls an exchange.
pub(super) const EXCHANGE: &str = "the exchange";
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
    /// Whether what it writes is a part of a transaction.
    pub in_transaction: bool,
}

/// What outlasts a run of a pipeline in its process.
#[derive(Default)]
pub(super) struct KeptOpen {
    /// What this process keeps itself, in memory or on disk.
    store: Option<Arc<dyn StateStore>>,
    /// What is on disk, opened before partitions were asked for.
    opened: Option<DiskStore>,
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
    pub topology: Arc<Topology>,
    pub routes: Arc<Routes>,
    pub sources: Vec<SharedSource>,
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
/// What this process keeps itself, in memory or on disk, is `kept` open for the next time.
pub(super) async fn assemble(
    pipeline: &Pipeline,
    ends: &Ends,
    kept: &mut KeptOpen,
) -> anyhow::Result<Assembled> {
    let sharing = pipeline.sharing();
    // Every worker has an instance of every stage's plugin.
    let instances = pipeline.workers * pipeline.stages.len();
    let sandbox = admission::open(Some(&pipeline.limits), instances).map_err(stopped)?;
    let topology = Arc::new(topology(pipeline, &sandbox)?);
    if kept.store.is_none() {
        kept.opened = open_early(pipeline).await;
    }
    let mut sources = Vec::new();
    let mut listed = Vec::new();
    for (number, spec) in pipeline.sources.iter().enumerate() {
        let source_number = u16::try_from(number).context("more than 65,535 sources")?;
        let name = format!("source {}", spec.name());
        let mut source = spec.source().map_err(outside)?;
        if topology.max_ahead.is_some() && pipeline.part != Part::Behind {
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
    let (sinks, sink_specs, mut transacted) = open_sinks(pipeline)?;
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
        (_, changelog) => open_store(pipeline, &topology, changelog.as_ref(), ends, kept).await?,
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
    let (sinks, sink_routes) = recover_sinks(sinks, sink_specs, checkpoint.as_ref(), ends).await?;
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
    let sources = sources.into_iter().map(|(_, _, source)| Arc::new(Mutex::new(source))).collect();

    let partition_count = names.len();
    let routes = Arc::new(Routes::new(sink_routes, names));
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
    let bounds = LaneBounds { cache_bytes, epoch_bytes: pipeline.epoch.bytes_max };
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
    let resumed = checkpoint.is_some();
    Ok(Assembled {
        sandbox,
        topology,
        routes,
        sources,
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

/// The shape of a pipeline's state.
pub(super) fn shape(pipeline: &Pipeline) -> anyhow::Result<String> {
    let sandbox = admission::open(Some(&pipeline.limits), 0).map_err(stopped)?;
    Ok(topology(pipeline, &sandbox)?.shape())
}

/// Forgets positions and state, and what the sinks hold of earlier runs.
pub(super) fn reset(pipeline: &Pipeline) -> anyhow::Result<()> {
    let transactions = pipeline.transactions();
    if pipeline.kept() == Kept::Source || transactions.is_some() {
        // First, for it is refused while others are in the group: then nothing else is forgotten either.
        for source in &pipeline.sources {
            source.reset().map_err(outside)?;
        }
    }
    if let Some(sink) = transactions.filter(|_| pipeline.kept() == Kept::Changelog) {
        let changelog = Changelog::topic_of(&pipeline.name);
        let exchange = pipeline.exchange_topic().map(|exchange| exchange.topic);
        let topics: Vec<String> = exchange.into_iter().chain([changelog]).collect();
        delete_own_topics(sink, &topics).map_err(outside)?;
        for partition in 0..pipeline.exchange_partitions.unwrap_or(0) {
            if let Some(directory) =
                pipeline.part_directory(partition).filter(|directory| DiskStore::is_in(directory))
            {
                DiskStore::reset_at(&directory).map_err(outside)?;
            }
        }
    }
    if let Some(directory) = state_directory(pipeline) {
        DiskStore::reset_at(&directory).map_err(outside)?;
    }
    if let Some(redis) = pipeline.state.redis() {
        RedisStore::reset_at(redis, &pipeline.name).map_err(outside)?;
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

/// What stops a start: what another process's taking its place means, else something outside.
fn stopped_by(halt: Halt) -> anyhow::Error {
    let exit = if matches!(halt, Halt::Replaced(_)) { Exit::Replaced } else { Exit::Outside };
    RunFailure { exit, text: halt.to_string() }.into()
}

fn stopped(stop: crate::cli::Stop) -> anyhow::Error {
    let text = stop.shown.strip_prefix("error: ").unwrap_or(&stop.shown).to_owned();
    RunFailure { exit: stop.exit, text }.into()
}

fn state_directory(pipeline: &Pipeline) -> Option<PathBuf> {
    pipeline.data_dir.as_ref().map(|dir| DiskStore::directory(dir, &pipeline.name))
}

/// Opens the store on this machine before partitions are asked for: while its journal is read they would wait,
/// and nobody else would have them. Where it can't be opened yet, as another process is about to leave it, that is
/// told when its turn comes.
async fn open_early(pipeline: &Pipeline) -> Option<DiskStore> {
    if !matches!(pipeline.kept(), Kept::Disk | Kept::Changelog) {
        return None;
    }
    let directory = state_directory(pipeline).filter(|directory| DiskStore::is_in(directory))?;
    tokio::task::spawn_blocking(move || DiskStore::open(&directory).ok()).await.ok().flatten()
}

/// The pipeline's store, and where the positions of shared sources are, if they are in it.
async fn open_store(
    pipeline: &Pipeline,
    topology: &Topology,
    changelog: Option<&Changelog>,
    ends: &Ends,
    kept: &mut KeptOpen,
) -> anyhow::Result<(Arc<dyn StateStore>, Option<Claims>)> {
    let mut opened = kept.opened.take();
    let kept = &mut kept.store;
    if let Some(changelog) = changelog {
        let mut open = || {
            let store = Follower::of(kept.as_ref(), state_directory(pipeline), opened.take());
            follower::followed(store, changelog.clone(), 0, Arc::clone(&ends.observed))
        };
        let store = insist!(ends, "the changelog", open()).map_err(outside)?;
        *kept = Some(Arc::clone(&store));
        return Ok((store, None));
    }
    if let Some(store) = kept {
        return Ok((Arc::clone(store), None));
    }
    match pipeline.kept() {
        // Without state nothing is kept here: positions are the group's.
        Kept::Source | Kept::Changelog => Ok((Arc::new(MemoryStore::new()), None)),
        Kept::Memory => Ok((Arc::clone(kept.insert(Arc::new(MemoryStore::new()))), None)),
        Kept::Disk => {
            let open = || DiskStore::open(&state_directory(pipeline).unwrap_or_default());
            let store = opened.map_or_else(open, Ok).map_err(outside)?;
            Ok((Arc::clone(kept.insert(Arc::new(store))), None))
        }
        Kept::Redis => {
            let Some(address) = pipeline.state.redis() else {
                unreachable!("state is kept in Redis only where the spec names one")
            };
            let shared = pipeline.sharing() == Sharing::Store;
            let merger = Arc::new(ShareMerger::new(&topology.keyed));
            let open = || {
                let (address, name, merger) = (address.clone(), pipeline.name.clone(), Arc::clone(&merger));
                let open = move || match shared {
                    true => {
                        let merge =
                            move |key: &[u8], stored: &[u8], share: &[u8]| merger.merge(key, stored, share);
                        RedisStore::open_shared(address, &name, Arc::new(merge))
                    }
                    false => RedisStore::open_alone(address, &name),
                };
                off_the_network(open)
            };
            let store = Arc::new(insist!(ends, "the store", open()).map_err(outside)?);
            let claims = shared.then(|| Claims(Arc::clone(&store)));
            Ok((store, claims))
        }
    }
}

/// The exchange as a source, with what of it is this process's for now.
async fn exchange_source(
    pipeline: &Pipeline,
    of: Vec<(PartitionId, String)>,
    ends: &Ends,
    kept: &mut KeptOpen,
) -> anyhow::Result<(ExchangeSource, Vec<u32>)> {
    let (Some(exchange), Some(sink)) = (pipeline.exchange_topic(), pipeline.transactions()) else {
        unreachable!("what is behind an exchange has one, and transactions")
    };
    let member = match &kept.member {
        Some(member) => Arc::clone(member),
        None => {
            let like = pipeline.sources.iter().find_map(spec::SourceSpec::kafka);
            let join = || ExchangeMember::join(exchange.clone(), sink, like);
            let member = insist!(ends, EXCHANGE, join()).map_err(outside)?;
            Arc::clone(kept.member.insert(Arc::new(Mutex::new(member))))
        }
    };
    ends.health.ill(EXCHANGE, "waiting for its share of the exchange");
    let owned = {
        let mut member = member.lock().await;
        insist!(ends, EXCHANGE, member.settle(of.clone())).map_err(outside)?
    };
    let connect = || ExchangeSource::new(&member, owned.clone());
    let source = insist!(ends, EXCHANGE, connect()).map_err(outside)?;
    Ok((source, owned))
}

/// The exchange in the place of the sources.
type Behind = (Vec<(u16, String, Box<dyn Source>)>, Vec<(PartitionId, Partition)>);

async fn behind(mut source: ExchangeSource) -> anyhow::Result<Behind> {
    let listed = source.partitions().await.map_err(outside)?;
    let id = |p: &Partition| PartitionId { source: 0, partition: p.number };
    let listed = listed.into_iter().map(|p| (id(&p), p)).collect();
    Ok((vec![(0, EXCHANGE.to_owned(), Box::new(source))], listed))
}

/// An exchange's partition that nothing is committed of begins at its beginning, wherever the others are, and
/// holds stream time there.
fn begin_new_parts(checkpoint: Option<&mut Checkpoint>, listed: &[(PartitionId, Partition)]) {
    let Some(checkpoint) = checkpoint else { return };
    let part_of = |id: &PartitionId| exchange_part(id.partition).0;
    let known: BTreeSet<u32> = checkpoint.positions.iter().map(|(id, _)| part_of(id)).collect();
    for (id, partition) in listed.iter().filter(|(id, _)| !known.contains(&part_of(id))) {
        let position = Position {
            incarnation: partition.incarnation.clone(),
            offset: partition.begin,
            index: 0,
            stream_time: START,
            progress: Progress::Live,
        };
        checkpoint.positions.push((*id, position));
        checkpoint.stream_time = START;
    }
}

/// The stores of an exchange's partitions that are this process's, each at where the changelog is.
async fn open_parts(
    pipeline: &Pipeline,
    owned: &[u32],
    changelog: &Changelog,
    ends: &Ends,
    kept: &mut KeptOpen,
) -> anyhow::Result<Arc<PartitionedStore>> {
    // What is another's now is closed: its process may be on this machine.
    kept.parts.retain(|partition, _| owned.contains(partition));
    let mut stores = BTreeMap::new();
    for partition in owned {
        let open = || {
            let store = Follower::of(kept.parts.get(partition), pipeline.part_directory(*partition), None);
            follower::followed(store, changelog.clone(), *partition, Arc::clone(&ends.observed))
        };
        let store = insist!(ends, "the changelog", open()).map_err(outside)?;
        stores.insert(*partition, store);
    }
    kept.parts.clone_from(&stores);
    let partitions = (changelog.partitions(), pipeline.key_groups);
    let of = |id: PartitionId| exchange_part(id.partition).0;
    Ok(Arc::new(PartitionedStore::new(stores, partitions, Box::new(of))))
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

/// The sinks, connected to nothing yet, with what each takes; and the transactions that some of them are in.
type Opened = (Vec<NamedSink>, Vec<Takes>, Option<Transacted>);

fn open_sinks(pipeline: &Pipeline) -> anyhow::Result<Opened> {
    let transactions = match pipeline.transactions() {
        Some(spec) => {
            let transactions = Transactions::new(spec, &pipeline.transactional_id()).map_err(outside)?;
            Some(if failpoint::is_asked(failpoint::UNGUARDED) {
                transactions.unguarded()
            } else {
                transactions
            })
        }
        None => None,
    };
    let mut sinks = Vec::new();
    let mut takes = Vec::new();
    if let (Part::Before, Some(exchange), Some(transactions)) =
        (pipeline.part, pipeline.exchange_topic(), &transactions)
    {
        takes.push(Takes::Main);
        let sink = exchange.sink(transactions);
        sinks.push(NamedSink { name: EXCHANGE.to_owned(), sink, in_transaction: true });
    }
    let open = |name: String, spec: &spec::SinkSpec| -> anyhow::Result<NamedSink> {
        let within = transactions.as_ref().zip(pipeline.in_transactions(spec));
        let (sink, in_transaction) = match within {
            Some((transactions, spec)) => (transactions.sink(spec), true),
            None => (spec.sink(), false),
        };
        Ok(NamedSink { name, sink: sink.map_err(outside)?, in_transaction })
    };
    for (number, spec) in pipeline.sinks.iter().enumerate() {
        if pipeline.part == Part::Before && spec.output.is_none() {
            continue;
        }
        takes.push(spec.output.clone().map_or(Takes::Main, Takes::Named));
        sinks.push(open(format!("{number}:{}", spec.connector.name()), &spec.connector)?);
    }
    takes.push(Takes::DeadLetters);
    sinks.push(match &pipeline.dead_letter {
        Some(spec) => open(DEAD_LETTER_SINK.to_owned(), spec)?,
        None => NamedSink {
            name: DEAD_LETTER_SINK.to_owned(),
            sink: Box::new(DeadLetterLog),
            in_transaction: false,
        },
    });
    let transacted = transactions.map(|transactions| Transacted {
        transactions,
        changelog: None,
        partitioned: None,
        replaced: 0,
        shortened: false,
    });
    Ok((sinks, takes, transacted))
}

/// Connects the sinks, and takes them back to what is committed.
async fn recover_sinks(
    mut sinks: Vec<NamedSink>,
    takes: Vec<Takes>,
    checkpoint: Option<&Checkpoint>,
    ends: &Ends,
) -> anyhow::Result<(Vec<NamedSink>, Vec<SinkRoute>)> {
    let mut routes = Vec::new();
    for (NamedSink { name, sink, .. }, takes) in sinks.iter_mut().zip(takes) {
        let token =
            checkpoint.and_then(|c| c.sinks.iter().find(|(n, _)| n == name)).map(|(_, token)| token.as_str());
        insist!(ends, name.as_str(), sink.recover(token)).map_err(outside)?;
        routes.push(SinkRoute { takes, encoder: sink.encoder() });
    }
    Ok((sinks, routes))
}

fn topology(pipeline: &Pipeline, sandbox: &Sandbox) -> anyhow::Result<Topology> {
    let exchange = pipeline.exchange();
    let mut topology = Topology {
        decoders: pipeline.sources.iter().map(|_| Arc::new(JsonDecoder) as Arc<dyn Decoder>).collect(),
        time: (pipeline.time != FieldPath::Timestamp)
            .then(|| TimeSpec { path: pipeline.time.clone(), parse: parse_time }),
        max_ahead: pipeline.max_ahead,
        prefix: Vec::new(),
        key: None,
        keyed: Vec::new(),
        order: Order::Log,
        idle_marks: pipeline.idle_timeout.is_some(),
        // Behind an exchange partitions come and go from run to run, and there may be none.
        shared: pipeline.sharing() != Sharing::Alone || pipeline.part == Part::Behind,
        key_groups: pipeline.key_groups,
        via: match (pipeline.part, pipeline.exchange_partitions) {
            (Part::Before, _) => Via::BeforeTopic,
            (Part::Behind, Some(partitions)) => Via::BehindTopic(partitions),
            _ => Via::Memory,
        },
    };
    for (place, stage) in pipeline.stages.iter().enumerate() {
        let behind_exchange = exchange.is_some_and(|e| place > e);
        let is_here = match pipeline.part {
            Part::Whole => true,
            Part::Before => !behind_exchange,
            Part::Behind => behind_exchange,
        };
        if !is_here && !matches!(stage, Stage::KeyBy(_)) {
            continue;
        }
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
    match pipeline.part {
        Part::Whole => {}
        Part::Before => topology.order = Order::Arrival,
        Part::Behind => {
            topology.decoders = vec![Arc::new(ExchangeDecoder)];
            (topology.time, topology.max_ahead) = (None, None);
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
    let by = match &aggregate.by {
        ComputedBy::Plugin(plugin) => {
            load_fitting(sandbox, pipeline, &stage, plugin).map(Aggregate::Plugin).map_err(stopped)?
        }
        ComputedBy::BuiltIns(by) => {
            unambiguous(pipeline, &stage).map_err(stopped)?;
            Aggregate::BuiltIns(Arc::clone(&by.built_ins))
        }
    };
    let name: Arc<str> = aggregate.name.as_str().into();
    let compound_key = topology.key.as_ref().is_some_and(wasmill_engine::key::KeySpec::is_compound);
    let shared = pipeline.sharing() == Sharing::Store;
    if shared && !by.is_commutative() {
        return Err(RunFailure {
            exit: Exit::Plugin,
            text: format!(
                "the aggregate `{name}` is not commutative, so several processes can't put to its totals: declare it commutative if it is, or take `state.redis` (USE_DISTRIBUTED_STATE) away and run one process"
            ),
        }
        .into());
    }
    Ok(match &aggregate.window {
        None => KeyedSpec::Running(RunningSpec { name, aggregate: by, compound_key, shared }),
        Some(window) => KeyedSpec::Window(WindowSpec {
            name,
            aggregate: by,
            window: window.kind.windows().map_err(outside)?,
            allowed_lateness_ms: millis(window.allowed_lateness),
            late: match &window.late {
                spec::Late::Drop => Late::Drop,
                spec::Late::DeadLetter => Late::DeadLetter,
                spec::Late::Output(name) => Late::Output(name.clone()),
            },
            emit: match window.emit {
                spec::Emit::Close => Emit::Close,
                spec::Emit::Update => Emit::Update,
                spec::Emit::Every(every) => Emit::Every(millis(every)),
            },
            compound_key,
        }),
    })
}

/// Event time as milliseconds or RFC 3339.
fn parse_time(text: &str) -> Result<i64, String> {
    match text.parse::<i64>() {
        Ok(ms) => Ok(ms),
        Err(_) => rfc3339::parse(text),
    }
}

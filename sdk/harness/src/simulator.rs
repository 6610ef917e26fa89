//! The engine driven by a seed: every interleaving that threads, crashes and slow ends could give it.
//!
//! One seed decides batch sizes, the number of lanes, which prepared batch comes back first, which lane
//! runs, when an epoch ends, where in a commit the process dies, and with how many lanes it comes back.
//! The same seed does the same again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use wasmill_connect::store::MemoryStore;
use wasmill_engine::commit::{Collector, Commit};
use wasmill_engine::coordinator::Coordinator;
use wasmill_engine::edition::{Plugins, StagePlugin};
use wasmill_engine::lane::{Counts, EVERYTHING, Lane, LaneBounds, LaneInput, Step as LaneStep};
use wasmill_engine::output::{Routes, SinkRoute};
use wasmill_engine::position::PartitionId;
use wasmill_engine::prefix::{Prefix, Prepared, Work};
use wasmill_engine::state::{Epoch, StateStore};
use wasmill_engine::swap::{Swap, fits};
use wasmill_engine::topology::Topology;

use crate::parts::{Output, Parts, assemble, outputs, raw_batch};

/// Random numbers from a seed: SplitMix64.
pub struct Seeded(u64);

impl Seeded {
    /// The sequence of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`, which must not be 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// True `per_mille` times in a thousand.
    pub fn chance(&mut self, per_mille: usize) -> bool {
        self.below(1_000) < per_mille
    }
}

/// What a simulation runs.
#[derive(Clone)]
pub struct Scenario {
    /// The pipeline.
    pub topology: Topology,
    /// Its sinks.
    pub sinks: Vec<SinkRoute>,
    /// The partitions' logs, as lines.
    pub logs: Vec<Vec<String>>,
}

/// What may happen.
#[derive(Debug, Clone, Copy)]
pub struct Chaos {
    /// How often in a thousand steps the process dies.
    pub crashes_per_mille: usize,
    /// The most lanes.
    pub lanes_max: usize,
    /// The most messages a batch.
    pub batch_messages_max: usize,
    /// How often in a thousand steps a quiet partition is called idle.
    pub idle_per_mille: usize,
    /// The most committed state that a lane keeps in memory, in bytes; how much it is each process is told
    /// anew, and some keep all.
    pub cache_bytes_max: usize,
    /// Whether windows that are over may wait for a later epoch, where they are more than a few.
    pub small_epochs: bool,
    /// Whether the prefix does raw batches in small parts.
    pub small_parts: bool,
    /// How often in a thousand steps other plugins take over, where there are any.
    pub swaps_per_mille: usize,
}

impl Chaos {
    /// Nothing happens: one lane, whole logs, no crash.
    pub const CALM: Self = Self {
        crashes_per_mille: 0,
        lanes_max: 1,
        batch_messages_max: usize::MAX,
        idle_per_mille: 0,
        cache_bytes_max: EVERYTHING,
        small_epochs: false,
        small_parts: false,
        swaps_per_mille: 0,
    };
    /// Everything happens, except that results may depend on what is called idle.
    pub const WILD: Self = Self {
        crashes_per_mille: 15,
        lanes_max: 5,
        batch_messages_max: 40,
        idle_per_mille: 0,
        cache_bytes_max: 4_000,
        small_epochs: true,
        small_parts: true,
        swaps_per_mille: 20,
    };

    /// What bounds the lanes of the next process.
    fn bounds(self, random: &mut Seeded) -> LaneBounds {
        let cache_bytes = match random.below(4) {
            _ if self.cache_bytes_max == EVERYTHING => EVERYTHING,
            0 => EVERYTHING,
            1 => 1,
            _ => random.below(self.cache_bytes_max),
        };
        let epoch_bytes = match random.below(3) {
            _ if !self.small_epochs => usize::MAX,
            0 => usize::MAX,
            1 => 1,
            _ => random.below(2_000),
        };
        let step = if self.small_epochs { LaneStep::Small } else { LaneStep::Unbounded };
        LaneBounds { cache_bytes, epoch_bytes, step }
    }

    /// About how large the parts are in which the prefix of the next process does a raw batch.
    fn part_bytes(self, random: &mut Seeded) -> usize {
        match random.below(3) {
            _ if !self.small_parts => usize::MAX,
            0 => usize::MAX,
            1 => 1,
            _ => random.below(2_000),
        }
    }
}

/// What came out.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// By sink, what is committed, in the order of the commits.
    pub committed: Vec<Vec<Output>>,
    /// The totals of the last checkpoint.
    pub counts: Counts,
    /// How often the process died.
    pub crashes: usize,
    /// How often other plugins took over, be it that it was never committed.
    pub swaps: usize,
    /// Outputs that left twice with the same id and other bytes: always a defect.
    pub contradictions: Vec<(Output, Output)>,
    /// Outputs that left before a crash and were never committed, or whose id two committed outputs share:
    /// a sink that refuses repeats would hold too much, or too little.
    pub strays: Vec<Output>,
}

impl Outcome {
    /// Whether a sink that refuses repeats, and one that takes back what is not committed, would hold the
    /// same.
    ///
    /// # Errors
    /// What contradicts what, or is held by one of them alone.
    pub fn check(&self) -> Result<(), String> {
        if let Some((before, after)) = self.contradictions.first() {
            return Err(format!("{before:?}\ncame again as {after:?}"));
        }
        self.strays.first().map_or(Ok(()), |stray| Err(format!("{stray:?} is out once too often")))
    }
}

struct World {
    store: Arc<dyn StateStore>,
    /// How much of each log is there by now.
    there: Vec<usize>,
    /// By sink: what a reader of a sink that shows everything flushed has seen, by output id.
    seen: Vec<BTreeMap<String, Output>>,
    outcome: Outcome,
}

enum LaneMessage {
    Input(LaneInput),
    Swap(Arc<Topology>),
    Barrier(Epoch),
}

struct Process {
    /// By the editions' numbers: those that may have messages to come.
    prefixes: BTreeMap<u64, Prefix>,
    topology: Arc<Topology>,
    routes: Arc<Routes>,
    coordinator: Coordinator,
    lanes: Vec<(Lane, VecDeque<LaneMessage>)>,
    collector: Collector,
    commits: VecDeque<Commit>,
    /// Results of the prefix, with what is left of their raw batch, and whose it is.
    prepared: Vec<(Prepared, Option<Left>)>,
    /// What is left of raw batches of which a part is accepted.
    rests: Vec<Left>,
    part_bytes: usize,
    readers: Vec<Reader>,
    in_flight: usize,
    /// Which lanes had windows left over at their last barrier.
    owing: Vec<bool>,
}

/// What is left of a raw batch, and the number of the edition that does it.
type Left = (u64, Work);

struct Reader {
    id: PartitionId,
    next: usize,
    sequence: u64,
    ended: bool,
}

/// Runs a scenario under a seed until everything is read and committed.
///
/// # Panics
/// When the engine refuses its own checkpoint, or makes no progress.
#[must_use]
pub fn run(scenario: &Scenario, chaos: Chaos, seed: u64) -> Outcome {
    run_over(scenario, chaos, seed, Arc::new(MemoryStore::new()))
}

/// As [`run`], over another store, which outlives the process's deaths.
///
/// # Panics
/// As [`run`].
#[must_use]
pub fn run_over(scenario: &Scenario, chaos: Chaos, seed: u64, store: Arc<dyn StateStore>) -> Outcome {
    run_swapping(scenario, &[], chaos, seed, store)
}

/// As [`run_over`], with pipelines that differ in their plugins alone, of which one after the other takes over. It
/// begins with the scenario's.
///
/// # Panics
/// As [`run`].
#[must_use]
pub fn run_swapping(
    scenario: &Scenario,
    others: &[Topology],
    chaos: Chaos,
    seed: u64,
    store: Arc<dyn StateStore>,
) -> Outcome {
    let mut random = Seeded::new(seed);
    let editions: Vec<Arc<Topology>> =
        [&scenario.topology].into_iter().chain(others).map(|t| Arc::new(t.clone())).collect();
    let sinks = scenario.sinks.len();
    let mut world = World {
        store,
        // Logs grow under swaps alone: which plugins do a message depends on what was there.
        there: scenario.logs.iter().map(|log| if others.is_empty() { log.len() } else { 0 }).collect(),
        seen: vec![BTreeMap::new(); sinks],
        outcome: Outcome { committed: vec![Vec::new(); sinks], ..Outcome::default() },
    };
    let budget = 2_000 + 400 * scenario.logs.iter().map(Vec::len).sum::<usize>();
    let mut process = start(&editions, scenario, &world, chaos, &mut random);
    for step in 0.. {
        // Past the budget the world calms down, so that every run ends.
        let calm = step > budget;
        assert!(step < budget * 4 + 10_000, "seed {seed}: no progress");
        if !calm && random.chance(chaos.crashes_per_mille) {
            world.outcome.crashes += 1;
            process = start(&editions, scenario, &world, chaos, &mut random);
            continue;
        }
        match advance(&mut process, &mut world, (scenario, &editions), chaos, &mut random, calm) {
            Step::Went => {}
            Step::Died => {
                world.outcome.crashes += 1;
                process = start(&editions, scenario, &world, chaos, &mut random);
            }
            Step::Done => break,
        }
    }
    for (seen, committed) in world.seen.iter_mut().zip(&world.outcome.committed) {
        for output in committed {
            // Taken out once: what two committed outputs share, or nobody committed, is left over.
            if seen.remove(&output.id).is_none() {
                world.outcome.strays.push(output.clone());
            }
        }
        world.outcome.strays.extend(std::mem::take(seen).into_values());
    }
    world.outcome
}

enum Step {
    Went,
    Died,
    Done,
}

fn start(
    editions: &[Arc<Topology>],
    scenario: &Scenario,
    world: &World,
    chaos: Chaos,
    random: &mut Seeded,
) -> Process {
    let lanes = 1 + random.below(chaos.lanes_max);
    let batch_messages_max = 1 + lanes * 7;
    let (partitions, bounds) = (scenario.logs.len(), chaos.bounds(random));
    let part_bytes = chaos.part_bytes(random);
    let committed = world.store.checkpoint().ok().flatten().map(|c| c.plugins).unwrap_or_default();
    let with = |plugins: &[StagePlugin]| {
        let edition = editions.iter().find(|edition| edition.plugins() == plugins);
        Arc::clone(edition.unwrap_or(&editions[0]))
    };
    let topology = with(&committed.now);
    let Parts { mut coordinator, lanes, collector, routes, .. } =
        assemble(&topology, &scenario.sinks, partitions, &world.store, lanes, batch_messages_max, bounds);
    let readers = coordinator
        .starts()
        .map(|(id, p)| Reader {
            id,
            next: usize::try_from(p.offset).unwrap_or(usize::MAX),
            sequence: 0,
            ended: false,
        })
        .collect();
    if world.outcome.crashes > 0 {
        let ends = coordinator.starts().map(|(id, _)| id).zip(world.there.iter().map(|there| *there as u64));
        let ends = ends.collect();
        coordinator.doubt(ends);
    }
    let before = committed.before.iter().map(|before| with(&before.plugins));
    let all = before.chain([Arc::clone(&topology)]);
    Process {
        prefixes: (0..)
            .zip(all.map(|edition| Prefix::new(&edition, &routes).in_parts_of(part_bytes)))
            .collect(),
        part_bytes,
        topology,
        routes,
        coordinator,
        owing: vec![false; lanes.len()],
        lanes: lanes.into_iter().map(|lane| (lane, VecDeque::new())).collect(),
        collector,
        commits: VecDeque::new(),
        prepared: Vec::new(),
        rests: Vec::new(),
        readers,
        in_flight: 0,
    }
}

fn advance(
    p: &mut Process,
    world: &mut World,
    (scenario, editions): (&Scenario, &[Arc<Topology>]),
    chaos: Chaos,
    random: &mut Seeded,
    calm: bool,
) -> Step {
    match random.below(8) {
        0 | 1 => {
            let n = random.below(p.readers.len());
            let reader = &mut p.readers[n];
            let log = &scenario.logs[n];
            let there = &mut world.there[n];
            if *there < log.len() && (calm || random.chance(300)) {
                *there += 1 + random.below(log.len() - *there);
            }
            if reader.next < *there {
                let most = (*there - reader.next).min(chaos.batch_messages_max);
                let end = reader.next + 1 + random.below(most);
                let raw = raw_batch(reader.id, reader.next as u64, &log[reader.next..end]);
                reader.next = end;
                let mut rest = Some(raw);
                while let Some(mut raw) = rest.take() {
                    let (number, until) = p.coordinator.edition_at(reader.id, raw.records[0].offset);
                    if let Some(until) = until.filter(|until| *until < raw.next) {
                        let (front, back) = raw.split_at(until);
                        (raw, rest) = (front, Some(back));
                    }
                    p.prepared.push(prepare(&mut p.prefixes, (number, Work::new(raw, reader.sequence))));
                    reader.sequence += 1;
                }
            } else if *there == log.len() && !reader.ended {
                reader.ended = true;
                p.coordinator.end(reader.id, reader.sequence);
            }
        }
        2 if !p.rests.is_empty() && (p.prepared.is_empty() || random.chance(500)) => {
            let left = p.rests.swap_remove(random.below(p.rests.len()));
            p.prepared.push(prepare(&mut p.prefixes, left));
        }
        2 if !p.prepared.is_empty() => {
            let (prepared, rest) = p.prepared.swap_remove(random.below(p.prepared.len()));
            p.coordinator.accept(prepared);
            p.rests.extend(rest);
        }
        3 => {
            let bytes = if calm { usize::MAX } else { 1 + random.below(4_000) };
            for (lane, input) in p.coordinator.release(bytes) {
                p.lanes[lane].1.push_back(LaneMessage::Input(input));
            }
        }
        4 if !p.lanes.is_empty() => {
            let n = random.below(p.lanes.len());
            let (lane, queue) = &mut p.lanes[n];
            match queue.pop_front() {
                Some(LaneMessage::Input(input)) => lane.process(input),
                Some(LaneMessage::Swap(topology)) => lane.swap(&topology.keyed),
                Some(LaneMessage::Barrier(epoch)) => {
                    let part = lane.barrier(epoch);
                    p.commits.extend(p.collector.lane(epoch, part));
                    p.owing[n] = lane.owes();
                    if lane.owes() {
                        lane.go_on();
                    }
                }
                None => {}
            }
        }
        5 => {
            let touched = p.coordinator.is_touched() || p.owing.contains(&true);
            let due = p.coordinator.wants_barrier() || (touched && random.chance(300));
            // One step in eight comes here.
            let swaps = editions.len() > 1 && !calm && random.chance(8 * chaos.swaps_per_mille);
            if (due || swaps) && p.coordinator.can_barrier() && p.in_flight < 2 {
                let edition = &editions[random.below(editions.len())];
                if swaps && !(p.coordinator.is_in_doubt() && is_keyed(&p.topology, edition)) {
                    world.outcome.swaps += 1;
                    swap(p, edition);
                }
                let barrier = p.coordinator.barrier();
                p.in_flight += 1;
                for (_, queue) in &mut p.lanes {
                    queue.push_back(LaneMessage::Barrier(barrier.epoch));
                }
                p.commits.extend(p.collector.barrier(barrier));
            }
        }
        6 => {
            if let Some(commit) = p.commits.pop_front() {
                let Some(epoch) = commit_or_die(commit, world, chaos, random, calm) else {
                    return Step::Died;
                };
                p.in_flight -= 1;
                let merged = world.store.merged();
                p.lanes.iter_mut().for_each(|(lane, _)| lane.committed(epoch, &merged));
            }
        }
        _ => {
            if random.chance(chaos.idle_per_mille) && !calm {
                let n = random.below(p.readers.len());
                p.coordinator.idle(p.readers[n].id);
            }
        }
    }
    let touched = p.coordinator.is_touched() || p.owing.contains(&true);
    let idle = p.in_flight == 0 && p.prepared.is_empty() && p.rests.is_empty() && !touched;
    if idle && p.readers.iter().all(|r| r.ended) && p.coordinator.is_finished() {
        return Step::Done;
    }
    Step::Went
}

/// Runs the prefix of its edition on what is left of a raw batch.
fn prepare(prefixes: &mut BTreeMap<u64, Prefix>, (number, work): Left) -> (Prepared, Option<Left>) {
    let Some(prefix) = prefixes.get_mut(&number) else { panic!("edition {number} is gone") };
    let (prepared, rest) = prefix.run(work);
    (prepared, rest.map(|rest| (number, rest)))
}

/// Whether two editions differ behind the key_by.
fn is_keyed(one: &Topology, other: &Topology) -> bool {
    let behind = |topology: &Topology| topology.plugins().split_off(topology.prefix.len());
    behind(one) != behind(other)
}

/// Other plugins take over at the barrier that follows.
fn swap(p: &mut Process, edition: &Arc<Topology>) {
    if !matches!(fits(&p.topology, edition), Ok(Swap::Plain)) {
        panic!("the editions differ in their plugins alone");
    }
    for (_, queue) in &mut p.lanes {
        queue.push_back(LaneMessage::Swap(Arc::clone(edition)));
    }
    let edges = p.readers.iter().map(|reader| (reader.id, reader.next as u64)).collect();
    let plugins = Plugins { now: edition.plugins(), ..Plugins::default() };
    let number = p.coordinator.swap(plugins, &edges);
    p.prefixes.insert(number, Prefix::new(edition, &p.routes).in_parts_of(p.part_bytes));
    p.topology = Arc::clone(edition);
}

/// Commits in the real order, and may die between any two steps of it.
fn commit_or_die(
    commit: Commit,
    world: &mut World,
    chaos: Chaos,
    random: &mut Seeded,
    calm: bool,
) -> Option<Epoch> {
    let mut dies = || !calm && random.chance(chaos.crashes_per_mille * 3);
    let epoch = commit.checkpoint.epoch;
    if let Some(facts) = &commit.foretell
        && world.store.foretell(epoch, facts).is_err()
    {
        panic!("the store refused a foretelling");
    }
    if dies() {
        return None;
    }
    for (seen, batch) in world.seen.iter_mut().zip(&commit.out.sinks) {
        for output in outputs(batch) {
            match seen.get(&output.id) {
                Some(before) if *before != output => {
                    world.outcome.contradictions.push((before.clone(), output));
                }
                _ => drop(seen.insert(output.id.clone(), output)),
            }
        }
    }
    if dies() {
        return None;
    }
    if let Err(e) = world.store.commit(&commit.delta, &commit.checkpoint) {
        panic!("{e}");
    }
    for (committed, batch) in world.outcome.committed.iter_mut().zip(&commit.out.sinks) {
        committed.extend(outputs(batch));
    }
    world.outcome.counts = wasmill_engine::commit::counts_from(&commit.checkpoint.counts);
    (!dies()).then_some(epoch)
}

//! Several processes share a source's partitions out: they come and go at random moments, are handed over
//! in order or lost, and nothing may be missing; handed over in order alone, nothing is repeated either.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use wasmill_connect::codec::json::JsonDecoder;
use wasmill_engine::commit::Collector;
use wasmill_engine::coordinator::{Coordinator, FoundPartition};
use wasmill_engine::output::{Routes, Takes};
use wasmill_engine::position::{PartitionId, Position};
use wasmill_engine::prefix::{Prefix, Prepared, Work};
use wasmill_engine::topology::{Order, Topology, Via};
use wasmill_harness::parts::{outputs, raw_batch, sink};
use wasmill_harness::simulator::Seeded;

const PARTITIONS: u32 = 4;
const MESSAGES: usize = 60;

fn id(partition: u32) -> PartitionId {
    PartitionId { source: 0, partition }
}

fn log(partition: u32) -> Vec<String> {
    let line = |n| format!("{{\"id\":\"{partition}-{n}\",\"type\":\"a\",\"payload\":{n}}}");
    (0..MESSAGES).map(line).collect()
}

/// One process: what it has read of its partitions, and what is on its way.
struct Process {
    prefix: Prefix,
    coordinator: Coordinator,
    collector: Collector,
    /// By partition: the next offset to read, and the number of the next raw batch.
    readers: BTreeMap<u32, u64>,
    sequences: BTreeMap<u32, u64>,
    /// What the workers have done and the coordinator has not got yet, in any order.
    prepared: Vec<Prepared>,
}

/// What outlives every process: the group's positions, and what the sink has.
#[derive(Default)]
struct World {
    positions: BTreeMap<PartitionId, Position>,
    written: Vec<String>,
}

impl Process {
    fn new(topology: &Arc<Topology>) -> Self {
        let routes = Arc::new(Routes::new(vec![sink(Takes::Main)], BTreeMap::new()));
        Self {
            prefix: Prefix::new(topology, &routes),
            coordinator: Coordinator::new(topology, &routes, 0, 8, &[], None, None).unwrap(),
            collector: Collector::new(&[], 0, topology.shape(), None),
            readers: BTreeMap::new(),
            sequences: BTreeMap::new(),
            prepared: Vec::new(),
        }
    }

    fn assign(&mut self, partition: u32, world: &World) {
        let position = world.positions.get(&id(partition)).cloned();
        let found = FoundPartition {
            id: id(partition),
            name: format!("p{partition}"),
            incarnation: "log".into(),
            begin: 0,
        };
        self.readers.insert(partition, position.as_ref().map_or(0, |p| p.offset));
        let sequence = *self.sequences.entry(partition).or_default();
        self.coordinator.assign(&found, position, sequence);
    }

    fn read(&mut self, partition: u32, messages: usize) {
        let Some(next) = self.readers.get_mut(&partition) else { return };
        let lines = log(partition);
        let from = usize::try_from(*next).unwrap();
        let to = lines.len().min(from + messages);
        if from == to {
            return;
        }
        let raw = raw_batch(id(partition), *next, &lines[from..to]);
        *next = to as u64;
        let sequence = self.sequences.get_mut(&partition).unwrap();
        self.prepared.push(self.prefix.run(Work::new(raw, *sequence)).0);
        *sequence += 1;
    }

    fn accept(&mut self, random: &mut Seeded) {
        if !self.prepared.is_empty() {
            let prepared = self.prepared.swap_remove(random.below(self.prepared.len()));
            self.coordinator.accept(prepared);
        }
        self.coordinator.release(1 + random.below(2_000));
    }

    fn commit(&mut self, world: &mut World) {
        let commit = self.collector.barrier(self.coordinator.barrier()).unwrap();
        world.written.extend(commit.out.sinks.iter().flat_map(outputs).map(|o| {
            serde_json::from_str::<serde_json::Value>(&o.line).unwrap()["id"].as_str().unwrap().to_owned()
        }));
        world.positions.extend(commit.checkpoint.positions);
    }

    /// Ends the reader, then hands the partition over with its last commit.
    fn leave(&mut self, partition: u32, world: &mut World) {
        self.readers.remove(&partition);
        self.coordinator.leave(id(partition));
        assert!(self.coordinator.wants_barrier());
        self.commit(world);
    }

    fn lose(&mut self, partition: u32) {
        self.readers.remove(&partition);
        self.coordinator.lose(id(partition));
    }
}

fn run(seed: u64, losses: bool) -> World {
    let mut random = Seeded::new(seed);
    let topology = Arc::new(Topology {
        decoders: vec![Arc::new(JsonDecoder)],
        time: None,
        max_ahead: None,
        prefix: Vec::new(),
        key: None,
        keyed: Vec::new(),
        order: Order::Log,
        idle_marks: false,
        shared: true,
        key_groups: 16,
        via: Via::Memory,
    });
    let mut world = World::default();
    let mut processes: Vec<Process> = (0..3).map(|_| Process::new(&topology)).collect();
    let mut owners = BTreeMap::new();
    for partition in 0..PARTITIONS {
        processes[0].assign(partition, &world);
        owners.insert(partition, 0);
    }
    for _ in 0..400 {
        let partition = random.below(PARTITIONS as usize) as u32;
        let owner = owners[&partition];
        match random.below(20) {
            0 => {
                let to = random.below(processes.len());
                if losses && random.chance(500) {
                    processes[owner].lose(partition);
                } else {
                    processes[owner].leave(partition, &mut world);
                }
                processes[to].assign(partition, &world);
                owners.insert(partition, to);
            }
            1..=3 => processes[owner].commit(&mut world),
            4..=10 => processes[owner].accept(&mut random),
            _ => processes[owner].read(partition, 1 + random.below(7)),
        }
    }
    for partition in 0..PARTITIONS {
        processes[owners[&partition]].read(partition, MESSAGES);
    }
    for process in &mut processes {
        while !process.prepared.is_empty() {
            process.accept(&mut random);
        }
        process.coordinator.release(usize::MAX);
        assert!(!process.coordinator.is_finished(), "what is shared has no end");
        process.commit(&mut world);
    }
    world
}

#[test]
fn nothing_is_missing_and_what_is_handed_over_in_order_is_not_repeated() {
    for seed in 0..500 {
        for losses in [false, true] {
            let world = run(seed, losses);
            for partition in 0..PARTITIONS {
                let prefix = format!("{partition}-");
                let mut numbers: Vec<usize> =
                    world.written.iter().filter_map(|w| w.strip_prefix(&prefix)?.parse().ok()).collect();
                let whole: Vec<usize> = (0..MESSAGES).collect();
                if losses {
                    numbers.sort_unstable();
                    numbers.dedup();
                }
                assert_eq!(numbers, whole, "seed {seed}, losses {losses}, partition {partition}");
            }
        }
    }
}

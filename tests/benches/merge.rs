//! What it costs to merge partitions by stamp, beside all that a lane does.
//!
//! The same messages, in the same order of event time, come from one partition or dealt out to eight, so that
//! almost each comes from another one than the message before it. Behind them are two lanes, so that each
//! message is handed over by its key in both cases, as in every pipeline with more than one worker.

use std::sync::Arc;
use std::time::Duration;

use wasmill_connect::codec::json::JsonDecoder;
use wasmill_engine::batch::Batch;
use wasmill_engine::coordinator::{Coordinator, FoundPartition};
use wasmill_engine::input::Decoder;
use wasmill_engine::lane::Lane;
use wasmill_engine::output::{Outbox, Routes};
use wasmill_engine::position::PartitionId;
use wasmill_engine::prefix::Prepared;
use wasmill_engine::topology::{Order, Topology};
use wasmill_engine::window::Windows;

use crate::clock::{Contender, by_turns, timed};
use crate::report::{Report, Row, Target};
use crate::stream::{BATCH, count_and_sum, lane_in_memory, push, splitmix};

const KEYS: usize = 10_000;
const MESSAGES: usize = BATCH * 8 * 512;
const LANES: usize = 2;
const ROUNDS: usize = 5;

/// Measures one partition and eight.
pub fn measure(report: &mut Report) {
    let counts = [1, 8];
    let mut contenders: Vec<Contender<'_>> = counts
        .iter()
        .map(|partitions| Contender {
            name: format!("{partitions} partitions"),
            messages: MESSAGES,
            run: Box::new(move || run(*partitions)),
        })
        .collect();
    let times = by_turns(&mut contenders, ROUNDS);
    let what = "merged by stamp, then tumbling `count` and `sum`";
    for (partitions, of) in counts.iter().zip(&times) {
        let target = (*partitions > 1).then_some(Target::AtMost(1.2));
        report.push(Row::ratio(what, &format!("partitions: {partitions}"), of, &times[0], target));
    }
}

fn run(partitions: u32) -> Duration {
    let topology = Topology {
        decoders: vec![Arc::new(JsonDecoder) as Arc<dyn Decoder>],
        time: None,
        max_ahead: None,
        prefix: Vec::new(),
        key: None,
        keyed: vec![count_and_sum(Windows::tumbling(3_600_000))],
        order: Order::Log,
        idle_marks: false,
        shared: false,
        key_groups: Topology::KEY_GROUPS,
        via: wasmill_engine::topology::Via::Memory,
    };
    let routes = Arc::new(Routes::new(Vec::new(), Default::default()));
    let found: Vec<FoundPartition> = (0..partitions)
        .map(|partition| FoundPartition {
            id: PartitionId { source: 0, partition },
            name: String::new(),
            incarnation: String::new(),
            begin: 0,
        })
        .collect();
    let coordinator = Coordinator::new(&topology, &routes, LANES, BATCH, &found, None, None);
    let mut coordinator = coordinator.unwrap_or_else(|e| panic!("{e}"));
    let lane = |_| lane_in_memory(count_and_sum(Windows::tumbling(3_600_000)));
    let mut lanes: Vec<Lane> = (0..LANES).map(lane).collect();
    let (mut took, mut met) = (Duration::ZERO, 0);
    let rounds = MESSAGES / BATCH / partitions as usize;
    for round in 0..rounds {
        let prepared: Vec<Prepared> =
            (0..partitions).map(|partition| prepared(round, partition, partitions, &routes)).collect();
        let mut inputs = Vec::new();
        took += timed(|| {
            for one in prepared {
                coordinator.accept(one);
            }
            inputs = coordinator.release(usize::MAX);
        });
        met += inputs.iter().flat_map(|(_, input)| &input.batches).map(Batch::len).sum::<usize>();
        took += timed(|| inputs.into_iter().for_each(|(lane, input)| lanes[lane].process(input)));
    }
    assert!(met + BATCH * partitions as usize >= MESSAGES, "{met} messages came through");
    took
}

/// A batch of one partition: every message that is its turn.
fn prepared(round: usize, partition: u32, partitions: u32, routes: &Routes) -> Prepared {
    let id = PartitionId { source: 0, partition };
    let first = round * BATCH;
    let mut batch = Batch::with_capacity(id, (first + BATCH) as u64, BATCH, BATCH * 160);
    for offset in first..first + BATCH {
        let n = offset * partitions as usize + partition as usize;
        let (key, payload) = (
            format!("user-{:08}", splitmix(n as u64) as usize % KEYS),
            format!("{{\"n\":{},\"pad\":\"{}\"}}", n % 1_000, "x".repeat(72)),
        );
        push(&mut batch, offset as u64, n as i64, key.as_bytes(), &payload);
    }
    let held_bytes = batch.frame.size_bytes();
    let out = Outbox::new(routes);
    Prepared {
        partition: id,
        sequence: round as u64,
        is_part: false,
        batch,
        out,
        raw_bytes: held_bytes,
        held_bytes,
    }
}

//! Windows of every kind against the rules alone: random streams through the engine under chaos, which cuts
//! batches anywhere, changes the lanes and dies at any step, must give to the last digit what
//! `reference.rs` makes of the collected and ordered messages, in the same order for each key.
#![allow(clippy::unwrap_used)]

mod reference;

use std::collections::BTreeMap;

use reference::{Made, Met, Of, Out, windows};
use serde_json::{Value, json};
use wasmill_engine::WindowSpec;
use wasmill_engine::lane::KeyedSpec;
use wasmill_engine::topology::Order;
use wasmill_engine::window::{Emit, Late, Windows};
use wasmill_harness::logs::{Sent, ids, list_of_ids, scenario, topology, virtual_log};
use wasmill_harness::simulator::{Chaos, Outcome, Seeded, run};

/// How many seeds each test runs; `make test-long` asks for more.
fn seeds() -> u64 {
    std::env::var("WASMILL_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000)
}

#[derive(Clone, Debug)]
struct Stage {
    of: Of,
    lateness: i64,
    out: Out,
    late: Late,
}

impl Stage {
    fn keyed(&self, number: usize) -> KeyedSpec {
        KeyedSpec::Window(WindowSpec {
            name: format!("w{number}").into(),
            aggregate: list_of_ids(false, None).into(),
            window: match self.of {
                Of::Every { size, every } if size == every => Windows::tumbling(size),
                Of::Every { size, every } => Windows::sliding(size, every),
                Of::AtMessages { size } => Windows::at_messages(size),
                Of::Session { gap } => Windows::session(gap),
            }
            .unwrap(),
            allowed_lateness_ms: self.lateness,
            late: self.late.clone(),
            emit: match self.out {
                Out::Close => Emit::Close,
                Out::Update => Emit::Update,
                Out::Every(every) => Emit::Every(every),
            },
            compound_key: false,
        })
    }

    /// How far a stage behind is behind.
    fn delay(&self) -> i64 {
        self.lateness + i64::from(matches!(self.of, Of::Session { .. }))
    }

    fn random(random: &mut Seeded) -> Self {
        let size = [1, 2, 7, 20, 24, 100][random.below(6)];
        let of = match random.below(4) {
            0 => Of::Every { size, every: size },
            1 => Of::Every { size, every: 1 + random.below(size as usize) as i64 },
            2 => Of::AtMessages { size },
            _ => Of::Session { gap: size },
        };
        let out = match random.below(4) {
            0 | 1 => Out::Close,
            2 => Out::Update,
            _ => Out::Every([1, 5, 13, 50][random.below(4)]),
        };
        let late = [Late::Drop, Late::DeadLetter, Late::Output("side".into())][random.below(3)].clone();
        Self { of, lateness: [0, 0, 1, 15, 1_000][random.below(5)], out, late }
    }
}

/// Streams in order, mildly, heavily and fully out of it; at the edges of windows and a millisecond beside;
/// with the same time twice, with one key that has most messages, and with what can't be folded.
fn random_streams(random: &mut Seeded, edge: i64, messages: usize) -> Vec<Vec<Sent>> {
    let partitions = 1 + random.below(6);
    let disorder = [0, 3, 40, 100_000][random.below(4)];
    let (keys, step) = (1 + random.below(5), 1 + random.below(20));
    let (edges, poison) = ([0, 300, 900][random.below(3)], [0, 0, 60][random.below(3)]);
    let mut number = 0;
    let mut stream = || {
        let mut now = random.below(30) as i64;
        let length = random.below(messages / partitions + 1);
        let mut stream: Vec<Sent> = Vec::new();
        for _ in 0..length {
            now += random.below(step) as i64;
            number += 1;
            let mut time = (now - random.below(disorder.min(now as usize) + 1) as i64).max(0);
            if random.chance(edges) {
                time = (time / edge * edge + random.below(3) as i64 - 1).max(0);
            }
            if let Some(last) = stream.last().filter(|_| random.chance(100)) {
                time = last.time;
            }
            let key = if random.chance(500) { 0 } else { random.below(keys) };
            let kind = match random.chance(poison) {
                true => "poison",
                false => ["a", "a", "a", "a", "a", "a", "drop", "twice"][random.below(8)],
            };
            stream.push(Sent { time, key: format!("k{key}"), kind, number });
        }
        stream
    };
    (0..partitions).map(|_| stream()).collect()
}

/// What all stages must give, by key.
#[derive(Default)]
struct Expected {
    shown: BTreeMap<String, Vec<Value>>,
    late: Vec<Vec<String>>,
    poison: usize,
}

fn expected(stages: &[Stage], streams: &[Vec<Sent>]) -> Expected {
    let mut by_key: BTreeMap<String, Vec<Met>> = BTreeMap::new();
    for p in virtual_log(streams) {
        let met = Met { stamp: p.order.0, time: p.time, id: p.id, poison: p.poison };
        by_key.entry(p.key).or_default().push(met);
    }
    let mut expected = Expected { late: vec![Vec::new(); stages.len()], ..Expected::default() };
    for (key, mut met) in by_key {
        for (number, stage) in stages.iter().enumerate() {
            let Made { shown, late, poison } = windows(stage.of, stage.lateness, stage.out, &met);
            expected.late[number].extend(late);
            expected.poison += poison.len();
            let behind = |s: &reference::Shown| Met {
                // A firing belongs to the millisecond before its moment, an update to its message's.
                stamp: s.when.0 - stage.delay() - i64::from(s.when.1 < 2),
                time: s.end - 1,
                id: match stage.of {
                    Of::Session { .. } => format!("w{number}/{key}/{}/{}", s.start, s.end),
                    _ => format!("w{number}/{key}/{}", s.start),
                },
                poison: false,
            };
            met = shown.iter().map(behind).collect();
            let payload = |s: &reference::Shown| {
                let mut payload = json!({
                    "key": key, "start": s.start, "end": s.end, "final": s.last, "value": s.value,
                });
                if stage.out != Out::Close {
                    payload["revision"] = s.revision.into();
                }
                payload
            };
            expected.shown.insert(key.clone(), shown.iter().map(payload).collect());
        }
    }
    expected.shown.retain(|_, shown| !shown.is_empty());
    expected
}

/// Runs the stages over the streams and compares everything. Answers what came out, and what was late.
fn check(stages: &[Stage], streams: &[Vec<Sent>], chaos: Chaos, seed: u64) -> (Outcome, u64) {
    let keyed = stages.iter().enumerate().map(|(number, stage)| stage.keyed(number)).collect();
    let outcome = run(&scenario(topology(keyed, Order::Log), streams), chaos, seed);
    let expected = expected(stages, streams);
    let what = format!("seed {seed}: {stages:?}");

    let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for output in &outcome.committed[0] {
        let message: Value = serde_json::from_str(&output.line).unwrap();
        let payload = message["payload"].clone();
        assert_eq!(message["timestamp"], payload["end"].as_i64().unwrap() - 1, "{what}");
        found.entry(payload["key"].as_str().unwrap().to_owned()).or_default().push(payload);
    }
    for (key, shown) in &expected.shown {
        let found = found.get(key).map_or(&[][..], Vec::as_slice);
        for (i, expected) in shown.iter().enumerate() {
            assert_eq!(found.get(i), Some(expected), "{what}: {key}, output {i}");
        }
    }
    let count = |by_key: &BTreeMap<String, Vec<Value>>| by_key.values().map(Vec::len).sum::<usize>();
    assert_eq!(count(&found), count(&expected.shown), "{what}: outputs");

    let late: u64 = expected.late.iter().map(|l| l.len() as u64).sum();
    let late_to = |to: &Late| {
        let stages = stages.iter().zip(&expected.late).filter(|(stage, _)| stage.late == *to);
        let mut ids: Vec<String> = stages.flat_map(|(_, ids)| ids.clone()).collect();
        ids.sort();
        ids
    };
    assert_eq!(outcome.counts.late, late, "{what}: late");
    let dead = late_to(&Late::DeadLetter).len() + expected.poison;
    assert_eq!(outcome.counts.dead, dead as u64, "{what}: dead letters counted");
    assert_eq!(outcome.committed[1].len(), dead, "{what}: dead letters");
    assert_eq!(ids(&outcome.committed[2]), late_to(&Late::Output("side".into())), "{what}: named output");
    assert_eq!(outcome.check(), Ok(()), "{what}");
    (outcome, late)
}

#[test]
fn every_kind_of_window_follows_the_rules() {
    let (mut crashes, mut late_in_all, mut shown) = (0, 0, 0);
    for seed in 0..seeds() {
        let mut random = Seeded::new(seed ^ 0x51);
        let stage = Stage::random(&mut random);
        let edge = match stage.of {
            Of::Every { every, .. } => every,
            Of::AtMessages { size } => size,
            Of::Session { gap } => gap + 1,
        };
        let streams = random_streams(&mut random, edge, 160);
        let (outcome, late) = check(&[stage], &streams, Chaos::WILD, seed);
        crashes += outcome.crashes;
        late_in_all += late;
        shown += outcome.committed[0].len();
    }
    assert!(crashes as u64 > seeds(), "the simulator hardly crashed: {crashes}");
    assert!(late_in_all > seeds(), "hardly a message was late: {late_in_all}");
    assert!(shown as u64 > 10 * seeds(), "hardly a window went out: {shown}");
}

#[test]
fn stages_behind_stages_follow_the_rules() {
    let mut shown = 0;
    for seed in 0..seeds() / 2 {
        let mut random = Seeded::new(seed ^ 0x62);
        let stages: Vec<Stage> = (0..2 + random.below(2)).map(|_| Stage::random(&mut random)).collect();
        let streams = random_streams(&mut random, 10, 60);
        let (outcome, _) = check(&stages, &streams, Chaos::WILD, seed);
        shown += outcome.committed[0].len();
    }
    assert!(shown as u64 > seeds(), "hardly a window went out: {shown}");
}

#[test]
fn long_streams_follow_the_rules() {
    for (seed, messages) in [(1, 20_000), (2, 20_000), (3, 5_000), (4, 5_000), (5, 5_000), (6, 20_000)] {
        let mut random = Seeded::new(seed ^ 0x73);
        let of = [
            Of::Session { gap: 7 },
            Of::Every { size: 60, every: 7 },
            Of::AtMessages { size: 20 },
            Of::Every { size: 60, every: 60 },
        ][(seed % 4) as usize];
        let stage = Stage { of, lateness: 15, out: Out::Close, late: Late::Drop };
        let mut streams = random_streams(&mut random, 7, messages * 2);
        for sent in streams.iter_mut().flatten() {
            sent.key = format!("k{}", random.below(200));
        }
        let chaos = Chaos { crashes_per_mille: 1, batch_messages_max: 500, ..Chaos::WILD };
        check(&[stage], &streams, chaos, seed);
    }
}

/// Runs one stage over messages of one key at these times; answers each window's start, end and times.
fn windows_of(of: Of, lateness: i64, times: &[i64]) -> Vec<(i64, i64, Vec<i64>)> {
    let stage = Stage { of, lateness, out: Out::Close, late: Late::DeadLetter };
    let sent = times.iter().enumerate();
    let sent = sent.map(|(number, time)| Sent { time: *time, key: "k".into(), kind: "a", number });
    let (outcome, _) = check(&[stage], &[sent.collect()], Chaos::WILD, 1);
    let window = |output: &wasmill_harness::parts::Output| {
        let payload = serde_json::from_str::<Value>(&output.line).unwrap()["payload"].take();
        let held = payload["value"].as_str().unwrap().split_terminator(',');
        let times = held.map(|m| m.split_once('@').unwrap().1.parse().unwrap()).collect();
        (payload["start"].as_i64().unwrap(), payload["end"].as_i64().unwrap(), times)
    };
    outcome.committed[0].iter().map(window).collect()
}

#[test]
fn sliding_windows_are_those_of_kafkas_documentation() {
    // The example of org.apache.kafka.streams.kstream.SlidingWindows, both ends inclusive there.
    let found = windows_of(Of::AtMessages { size: 5_000 }, 0, &[8_000, 9_200, 12_400]);
    let expected = [
        (3_000, 8_000, vec![8_000]),
        (4_200, 9_200, vec![8_000, 9_200]),
        (7_400, 12_400, vec![8_000, 9_200, 12_400]),
        (8_001, 13_001, vec![9_200, 12_400]),
        (9_201, 14_201, vec![12_400]),
    ];
    assert_eq!(found, expected.map(|(start, last, times)| (start, last + 1, times)));
    // Before 0 begins none: messages of the first five seconds share [0, 5000].
    let found = windows_of(Of::AtMessages { size: 5_000 }, 0, &[0, 4_999, 5_000]);
    let expected =
        [(0, 5_000, vec![0, 4_999, 5_000]), (1, 5_001, vec![4_999, 5_000]), (5_000, 10_000, vec![5_000])];
    assert_eq!(found, expected.map(|(start, last, times)| (start, last + 1, times)));
}

#[test]
fn a_session_ends_a_millisecond_behind_the_gap() {
    let gap = Of::Session { gap: 5 };
    assert_eq!(windows_of(gap, 0, &[10, 15, 20]), [(10, 25, vec![10, 15, 20])], "exactly the gap joins");
    assert_eq!(windows_of(gap, 0, &[10, 16]), [(10, 15, vec![10]), (16, 21, vec![16])]);
    // At stream time 15 the session of 10 is open, at 16 it is closed: 11 then makes one of its own.
    assert_eq!(windows_of(gap, 0, &[10, 99, 15]).len(), 2, "15 is late by itself");
    let closed = windows_of(gap, 0, &[10, 16, 11]);
    assert_eq!(closed, [(10, 15, vec![10]), (11, 21, vec![16, 11])], "joined by its distance to 16");
    // A late message joins two, in the order of time, then its own.
    assert_eq!(windows_of(gap, 5, &[20, 11, 15]), [(11, 25, vec![11, 20, 15])]);
}

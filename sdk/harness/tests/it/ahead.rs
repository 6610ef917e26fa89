//! Event times ahead of the log: bounded the same wherever batches are cut, by what the stages have made of
//! them, and without moving stream time beyond the bound.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use wasmill_engine::output::{Routes, Takes};
use wasmill_engine::position::PartitionId;
use wasmill_engine::prefix::{Prefix, Work};
use wasmill_engine::time::START;
use wasmill_engine::topology::{MaxAhead, OnAhead, Order, Topology};
use wasmill_harness::logs::{Sent, line, random_logs, topology};
use wasmill_harness::parts::{outputs, raw_batch, sink};
use wasmill_harness::simulator::Seeded;

const PARTITION: PartitionId = PartitionId { source: 0, partition: 0 };

/// A message of a log, and when the log took it in, if it tells.
type Record = (Sent, Option<i64>);

/// What a log came to: what went on, as offset, event time and stream time; the dead letters' reasons by
/// offset; stream time at the end; how many were clamped.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    kept: Vec<(u64, i64, i64)>,
    dead: BTreeMap<u64, String>,
    stream_time: i64,
    clamped: u32,
}

/// By the letter of the rules.
fn expected(log: &[Record], most: MaxAhead) -> Outcome {
    let mut found = Outcome { stream_time: START, ..Outcome::default() };
    for (offset, (sent, appended)) in (0..).zip(log) {
        let latest = appended.map_or(i64::MAX, |a| a + most.ms);
        let times = match sent.kind {
            "a" => vec![sent.time],
            "late-edit" => vec![sent.time + 100],
            "twice" => vec![sent.time, sent.time + 5],
            _ => Vec::new(),
        };
        if !["a", "late-edit", "bad"].contains(&sent.kind) && sent.time <= latest {
            found.stream_time = found.stream_time.max(sent.time);
        }
        for time in times {
            let is_ahead = time > latest;
            if is_ahead && most.beyond == OnAhead::DeadLetter {
                let ahead = time - appended.unwrap();
                found.dead.insert(offset, format!("{ahead} ms ahead of {}", appended.unwrap()));
                continue;
            }
            found.clamped += u32::from(is_ahead);
            let time = time.min(latest);
            found.stream_time = found.stream_time.max(time);
            found.kept.push((offset, time, found.stream_time));
        }
        match sent.kind {
            "bad" => found.dead.insert(offset, "cut off".to_owned()),
            "trap" => found.dead.insert(offset, "panic on".to_owned()),
            _ => None,
        };
    }
    found
}

fn run(log: &[Record], most: MaxAhead, random: &mut Seeded) -> Outcome {
    let topology = Arc::new(Topology { max_ahead: Some(most), ..topology(Vec::new(), Order::Log) });
    let routes = vec![sink(Takes::Main), sink(Takes::DeadLetters), sink(Takes::Named("side".into()))];
    let routes = Arc::new(Routes::new(routes, BTreeMap::new()));
    let mut prefix = Prefix::new(&topology, &routes);
    let mut found = Outcome { stream_time: START, ..Outcome::default() };
    let mut from = 0;
    while from < log.len() {
        let to = log.len().min(from + 1 + random.below(8));
        let lines: Vec<String> = log[from..to].iter().map(|(sent, _)| line(sent)).collect();
        let mut raw = raw_batch(PARTITION, from as u64, &lines);
        for (record, (_, appended)) in raw.records.iter_mut().zip(&log[from..to]) {
            record.appended_ms = *appended;
        }
        let (prepared, _) = prefix.run(Work::new(raw, 0));
        for (at, row) in prepared.batch.rows.iter().enumerate() {
            let time = prepared.batch.frame.get(at).timestamp();
            found.stream_time =
                [row.passed.time, row.own.time, time].into_iter().fold(found.stream_time, i64::max);
            found.clamped += row.passed.clamped + row.own.clamped;
            found.kept.push((row.offset, time, found.stream_time));
        }
        found.stream_time = found.stream_time.max(prepared.batch.tail.time);
        found.clamped += prepared.batch.tail.clamped;
        for letter in outputs(&prepared.out.sinks[1]) {
            let letter: serde_json::Value = serde_json::from_str(&letter.line).unwrap();
            let (offset, reason) = (&letter["payload"]["offset"], &letter["payload"]["reason"]);
            found.dead.insert(offset.as_u64().unwrap(), reason.as_str().unwrap().to_owned());
        }
        from = to;
    }
    found
}

#[test]
fn what_is_ahead_of_the_log_is_bounded_wherever_batches_are_cut() {
    let mut seen = (0, 0);
    for seed in 0..400 {
        let mut random = Seeded::new(seed);
        let most = MaxAhead {
            ms: [0, 1, 30, 90][random.below(4)],
            beyond: if random.chance(500) { OnAhead::Clamp } else { OnAhead::DeadLetter },
        };
        // The log's clock goes back now and then, as where another broker takes over.
        let mut record = |sent: Sent| {
            let appended = sent.time - 60 + random.below(80) as i64;
            (sent, (!random.chance(100)).then_some(appended.max(0)))
        };
        let logs = random_logs(&mut Seeded::new(seed), 300);
        let log: Vec<Record> = logs.concat().into_iter().map(&mut record).collect();
        let expected = expected(&log, most);
        let found = run(&log, most, &mut random);
        for (offset, reason) in &expected.dead {
            assert!(
                found.dead.get(offset).is_some_and(|r| r.contains(reason)),
                "{seed}: {offset}: {found:?}"
            );
        }
        assert_eq!(found.dead.len(), expected.dead.len(), "{seed}: {:?}", found.dead);
        assert_eq!(Outcome { dead: expected.dead.clone(), ..found }, expected, "{seed}");
        seen.0 += expected.clamped;
        seen.1 += expected.dead.values().filter(|r| r.contains("ahead of")).count();
    }
    assert!(seen.0 > 500 && seen.1 > 500, "{seen:?}");
}

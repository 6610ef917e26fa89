//! What overlapping windows and sessions cost beside tumbling ones, in a lane of the engine alone.
//!
//! Taking messages and firing windows are timed apart. What a result costs, its message included, which no
//! sink takes, is what a tumbling window costs to fire; that much of each window is left out of the ratios.

use std::time::Duration;

use wasmill_engine::batch::Batch;
use wasmill_engine::lane::LaneInput;
use wasmill_engine::position::PartitionId;
use wasmill_engine::time::START;
use wasmill_engine::window::Windows;

use crate::clock::{Times, timed};
use crate::report::{Report, Row, Target};
use crate::stream::{BATCH, count_and_sum, lane_in_memory, push, splitmix};

const KEYS: usize = 10_000;
/// Of each key, in a second of event time in which it is active.
const A_SECOND: usize = 10;
const SECONDS: i64 = 90;
const ROUNDS: usize = 3;

/// In how many seconds of each period a key is active.
type Active = (i64, i64);

const ALWAYS: Active = (1, 1);
const BURSTS: Active = (3, 10);

/// What a run cost.
struct Cost {
    messages: u64,
    fired: u64,
    taking: Duration,
    firing: Duration,
}

impl Cost {
    /// Nanoseconds a message, without so many nanoseconds for each window.
    fn a_message(&self, a_window: f64) -> f64 {
        let all = (self.taking + self.firing).as_nanos() as f64;
        (all - a_window * self.fired as f64) / self.messages as f64
    }

    fn a_window(&self) -> f64 {
        self.firing.as_nanos() as f64 / self.fired.max(1) as f64
    }
}

/// Measures each kind of windows beside the tumbling ones under the same load.
pub fn measure(report: &mut Report) {
    let tumbling = || Windows::tumbling(60_000);
    let sliding = || Windows::sliding(60_000, 1_000);
    beside(
        report,
        ("always active", ALWAYS),
        ("tumbling 60 s", &tumbling),
        ("sliding 60 s every 1 s", &sliding),
        2.0,
    );
    let tumbling = || Windows::tumbling(10_000);
    let sessions = || Windows::session(1_000);
    beside(
        report,
        ("3 s of 10 active", BURSTS),
        ("tumbling 10 s", &tumbling),
        ("sessions, gap 1 s", &sessions),
        3.0,
    );
}

type Named<'a> = (&'a str, &'a dyn Fn() -> Result<Windows, String>);

fn beside(report: &mut Report, load: (&str, Active), base: Named<'_>, other: Named<'_>, most: f64) {
    let what = format!("`count` and `sum`, {KEYS} keys, {A_SECOND} messages a second each, {}", load.0);
    let (mut bases, mut others, mut a_window) = (Times::default(), Times::default(), Times::default());
    // By turns; the first round warms up.
    for round in 0..=ROUNDS {
        let (base, other) = (run(base.1(), load.1), run(other.1(), load.1));
        if round > 0 {
            a_window.push(base.a_window());
            bases.push(base.a_message(base.a_window()));
            others.push(other.a_message(base.a_window()));
        }
    }
    report.push(Row::ratio(&what, &format!("{}, a message", base.0), &bases, &bases, None));
    let target = Some(Target::AtMost(most));
    report.push(Row::ratio(&what, &format!("{}, a message", other.0), &others, &bases, target));
    report.push(Row::figure(&what, "a result", &a_window, "ns", None));
}

fn run(windows: Result<Windows, String>, active: Active) -> Cost {
    let mut lane = lane_in_memory(count_and_sum(windows));
    let mut cost = Cost { messages: 0, fired: 0, taking: Duration::ZERO, firing: Duration::ZERO };
    for second in 0..SECONDS {
        let batches = second_of(second, active, cost.messages);
        cost.messages += batches.iter().map(|b| b.len() as u64).sum::<u64>();
        let input = |batches, second| LaneInput { batches, stream_time: second * 1_000, settled: START };
        cost.taking += timed(|| lane.process(input(batches, second)));
        cost.firing += timed(|| lane.process(input(Vec::new(), second + 1)));
        if second % 10 == 9 {
            cost.fired += lane.barrier(1).counts.fired;
        }
    }
    cost
}

/// The messages of a second of event time.
fn second_of(second: i64, active: Active, first: u64) -> Vec<Batch> {
    let each_second = KEYS * A_SECOND;
    let mut batches: Vec<Batch> = Vec::new();
    let mut offset = first;
    for n in 0..each_second {
        let key = splitmix((second as u64) << 32 | n as u64) as usize % KEYS;
        if (second + key as i64) % active.1 >= active.0 {
            continue;
        }
        if batches.last().is_none_or(|b| b.len() == BATCH) {
            let nowhere = PartitionId { source: 0, partition: 0 };
            batches.push(Batch::with_capacity(nowhere, 0, BATCH, BATCH * 64));
        }
        let Some(batch) = batches.last_mut() else { continue };
        let timestamp = second * 1_000 + (n * 1_000 / each_second) as i64;
        let (key, payload) = (format!("key-{key:08}"), format!("{{\"n\":{}}}", n % 1_000));
        push(batch, offset, timestamp, key.as_bytes(), &payload);
        if let Some(row) = batch.rows.last_mut() {
            row.stamp = timestamp;
        }
        offset += 1;
    }
    batches
}

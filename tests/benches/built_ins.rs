//! What built-in aggregates cost in a lane of the engine, all that the lane does included.

use std::time::Duration;

use wasmill_engine::batch::Batch;
use wasmill_engine::lane::LaneInput;
use wasmill_engine::position::PartitionId;
use wasmill_engine::time::START;
use wasmill_engine::window::Windows;

use crate::clock::{Times, timed};
use crate::report::{Report, Row, Target};
use crate::stream::{BATCH, SCATTER, count_and_sum, lane_in_memory, push};

/// Messages that are made at once, so that they need not all be in memory.
const SLICE: usize = BATCH * 1_024;
const MESSAGES: usize = 8 * SLICE;
const ROUNDS: usize = 3;

/// Measures folding into few and into many keys.
pub fn measure(report: &mut Report) {
    for (keys, number) in [(1_000_000, "integers"), (1_000_000, "decimals"), (1_000, "integers")] {
        let mut times = Times::default();
        for _ in 0..ROUNDS {
            times.push(MESSAGES as f64 / run(keys, number == "decimals").as_secs_f64());
        }
        report.push(Row::figure(
            &format!("a lane, tumbling `count` and `sum` of {number}, 100 B payload"),
            &format!("{keys} keys, one thread, CPU time"),
            &times,
            "messages/s",
            Some(Target::Aim(1_000_000.0)),
        ));
    }
}

fn run(keys: usize, decimals: bool) -> Duration {
    let mut lane = lane_in_memory(count_and_sum(Windows::tumbling(3_600_000)));
    let mut took = Duration::ZERO;
    for slice in 0..MESSAGES / SLICE {
        let batches = (0..SLICE / BATCH).map(|n| batch(slice * SLICE + n * BATCH, keys, decimals)).collect();
        took += timed(|| lane.process(LaneInput { batches, stream_time: START, settled: START }));
    }
    let opened = lane.barrier(1).opened_windows;
    assert_eq!(opened, keys.min(MESSAGES) as i64, "every key has its window");
    took
}

fn batch(first: usize, keys: usize, decimals: bool) -> Batch {
    let mut batch = Batch::with_capacity(PartitionId { source: 0, partition: 0 }, 0, BATCH, BATCH * 160);
    for i in first..first + BATCH {
        let user = i * SCATTER % keys;
        let n = if decimals { format!("{}.{:02}", i % 500, i % 100) } else { (i % 1_000).to_string() };
        let payload = format!(
            "{{\"user\":\"u{user:07}\",\"ok\":true,\"tags\":[\"a\",\"b\"],\"n\":{n:<6},\"pad\":\"{}\"}}",
            "x".repeat(36)
        );
        let timestamp = 1_700_000_000_000 + (i as i64 % 1_000);
        push(&mut batch, i as u64, timestamp, &payload.as_bytes()[9..17], &payload);
    }
    batch
}

//! How the values of overlapping windows are put together: always in the same way, and not anew for each.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};

use wasmill_engine::WindowSpec;
use wasmill_engine::guest::{AggregateInfo, PluginRef};
use wasmill_engine::lane::KeyedSpec;
use wasmill_engine::topology::Order;
use wasmill_engine::window::{Emit, Late, Windows};
use wasmill_harness::driver::{Driver, Steps};
use wasmill_harness::logs::{random_logs, scenario, topology};
use wasmill_harness::native::{self, AggregateFns};
use wasmill_harness::simulator::{Chaos, Outcome, Seeded, run};

fn float(bytes: &[u8]) -> f64 {
    bytes.try_into().map_or(0.0, f64::from_le_bytes)
}

fn add(left: &mut Vec<u8>, right: &[u8]) {
    *left = (float(left) + float(right)).to_le_bytes().to_vec();
}

/// A sum of floating point numbers of very different size: in another order it has other digits.
fn sum(merge: fn(&mut Vec<u8>, &[u8])) -> PluginRef {
    let fns = AggregateFns {
        info: AggregateInfo { commutative: false, state_version: 1, initial: vec![0; 8] },
        fold: |accumulator, message| {
            let number = 1.0e9 / (message.timestamp() as f64 + 0.1);
            *accumulator = (float(accumulator) + number).to_le_bytes().to_vec();
            Ok(())
        },
        merge,
        finish: |accumulator| float(accumulator).to_string(),
        scan: None,
    };
    native::aggregate("sum", fns, None)
}

#[test]
fn what_is_merged_with_what_depends_on_time_alone() {
    for seed in 0..500 {
        let mut random = Seeded::new(seed ^ 0x84);
        let logs = random_logs(&mut random, 100);
        let windows = [Windows::sliding(40, 3), Windows::at_messages(15), Windows::session(9)];
        let keyed = KeyedSpec::Window(WindowSpec {
            name: "sums".into(),
            aggregate: sum(add).into(),
            window: windows[random.below(3)].clone().unwrap(),
            allowed_lateness_ms: 10,
            late: Late::Drop,
            emit: [Emit::Close, Emit::Update, Emit::Every(10)][random.below(3)],
            compound_key: false,
        });
        let scenario = scenario(topology(vec![keyed], Order::Log), &logs);
        let sorted = |outcome: Outcome| {
            let mut outputs = outcome.committed[0].clone();
            outputs.sort();
            outputs
        };
        let calm = sorted(run(&scenario, Chaos::CALM, seed));
        assert_eq!(sorted(run(&scenario, Chaos::WILD, seed)), calm, "seed {seed}");
    }
}

static MERGES: AtomicUsize = AtomicUsize::new(0);

#[test]
fn overlapping_windows_are_not_merged_anew() {
    let counted = sum(|left, right| {
        MERGES.fetch_add(1, Ordering::Relaxed);
        add(left, right);
    });
    let windows = Windows::sliding(1_000, 10).unwrap();
    let steps = Steps::new().key_by(&["payload.k"]).windows("sums", &counted, windows, 0, Emit::Close);
    let mut driver = Driver::new(steps, 1, 1);
    let panes = 2_000;
    for pane in 0..panes {
        let line = r#"{"id":"a","type":"a","payload":{"k":"k"},"timestamp":"#;
        driver.push(0, &format!("{line}{}}}", pane * 10));
    }
    driver.advance(1_000_000);
    driver.checkpoint();
    // No window begins before 0, so the last 99 are the ones that some panes have no company in.
    assert_eq!(driver.read().len(), panes, "windows of 100 panes, one behind every pane");
    let merges = MERGES.load(Ordering::Relaxed);
    assert!((panes..=3 * panes).contains(&merges), "{merges} merges of {panes} panes, each in 100 windows");
}

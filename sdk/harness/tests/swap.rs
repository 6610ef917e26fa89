//! Other plugins take over: open windows go on, each message is one version's, whatever crashes; what doesn't fit stays
//! out, and accumulators of an older state version are migrated.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use wasmill_engine::guest::{AggregateInfo, PluginRef};
use wasmill_frame::Edit;
use wasmill_harness::driver::{Driver, Steps};
use wasmill_harness::native::{self, AggregateFns};

const HOUR: i64 = 3_600_000;

/// A transform that stamps its version.
fn stamps(version: &'static str) -> PluginRef {
    let plugin = native::transform("stamps", move |index, _, edits, _| {
        edits.push(index, Edit::SetMetadata { name: "by", value: version.as_bytes(), json: false });
        Ok(())
    });
    native::version_of(&plugin, version)
}

/// Counts by version: the accumulator is `stamp=count` of each, in their order.
fn counts(version: &'static str, state_version: u32, commutative: bool) -> PluginRef {
    let fns = AggregateFns {
        info: AggregateInfo { commutative, state_version, initial: Vec::new() },
        fold: |accumulator, message| {
            let by = message
                .metadata()
                .entries()
                .find(|e| e.name == b"by")
                .map(|e| e.value.to_vec())
                .unwrap_or_default();
            accumulator.extend_from_slice(&by);
            accumulator.push(b' ');
            Ok(())
        },
        merge: |left, right| left.extend_from_slice(right),
        finish: |accumulator| Value::from(String::from_utf8_lossy(accumulator).trim_end()).to_string(),
        scan: None,
    };
    native::version_of(&native::aggregate("counts", fns, None), version)
}

fn steps(transform: &PluginRef, aggregate: &PluginRef) -> Steps {
    Steps::new().transform("stamps", transform).key_by(&["type"]).tumbling("hourly", aggregate, HOUR, 0)
}

fn push(driver: &mut Driver, partition: usize, id: u32, minute: i64) {
    let time = minute * 60_000;
    driver.push(partition, &format!(r#"{{"id":"{id}","type":"a","timestamp":{time},"payload":{{}}}}"#));
}

fn values(driver: &mut Driver) -> Vec<String> {
    driver.read().iter().map(|m| m["payload"]["value"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_open_window_goes_on_with_the_new_version() {
    for crashes in [false, true] {
        let count = counts("1", 1, true);
        let mut driver = Driver::new(steps(&stamps("1"), &count), 1, 2);
        push(&mut driver, 0, 1, 1);
        driver.tick();
        driver.swap(steps(&stamps("2"), &count)).unwrap();
        push(&mut driver, 0, 2, 2);
        if crashes {
            driver.tick();
            driver.crash_and_restore(3);
        }
        driver.advance(HOUR);
        driver.checkpoint();
        assert_eq!(values(&mut driver), ["1 2"], "crash: {crashes}");
    }
}

/// What was read and waits for another partition is the old version's, also when it is read again behind a crash.
#[test]
fn what_was_read_before_the_swap_stays_the_old_versions() {
    for crashes in [0, 1, 2] {
        let count = counts("1", 1, true);
        let mut driver = Driver::new(steps(&stamps("1"), &count), 2, 2);
        // Partition 1 holds stream time: nothing of partition 0 is released.
        push(&mut driver, 0, 1, 1);
        push(&mut driver, 0, 2, 2);
        driver.tick();
        driver.swap(steps(&stamps("2"), &count)).unwrap();
        push(&mut driver, 0, 3, 3);
        driver.tick();
        if crashes > 0 {
            driver.crash_and_restore(1);
            driver.tick();
        }
        driver.swap(steps(&stamps("3"), &count)).unwrap();
        push(&mut driver, 0, 4, 4);
        if crashes > 1 {
            driver.crash_and_restore(2);
        }
        push(&mut driver, 1, 5, 5);
        driver.advance(HOUR);
        driver.checkpoint();
        assert_eq!(values(&mut driver), ["1 1 2 3 3"], "{crashes} crashes");
    }
}

#[test]
fn a_swap_that_is_not_committed_is_none() {
    let count = counts("1", 1, true);
    let mut driver = Driver::new(steps(&stamps("1"), &count), 1, 1);
    driver.swap(steps(&stamps("2"), &count)).unwrap();
    driver.swap(steps(&stamps("1"), &count)).unwrap();
    driver.crash_and_restore(1);
    push(&mut driver, 0, 1, 1);
    driver.advance(HOUR);
    driver.checkpoint();
    assert_eq!(values(&mut driver), ["1"]);
}

#[test]
fn what_does_not_fit_stays_out() {
    let (stamp, count) = (stamps("1"), counts("1", 1, true));
    let mut driver = Driver::new(steps(&stamp, &count), 1, 1);
    let mut refused = |aggregate: &PluginRef| driver.swap(steps(&stamp, aggregate)).unwrap_err();
    assert_eq!(
        refused(&counts("2", 2, true)),
        [
            "the accumulators of the stage `hourly` are of state version 1, and those of the new plugin of 2; it exports no `migrate` that could bring them over"
        ]
    );
    assert_eq!(
        refused(&counts("2", 1, false)),
        ["the aggregate of the stage `hourly` says that it is not commutative, and was commutative"]
    );
    push(&mut driver, 0, 1, 1);
    driver.advance(HOUR);
    driver.checkpoint();
    assert_eq!(values(&mut driver), ["1"]);
}

#[test]
fn accumulators_are_migrated() {
    for crashes in [false, true] {
        let stamp = stamps("1");
        let mut driver = Driver::new(steps(&stamp, &counts("1", 1, true)), 1, 2);
        push(&mut driver, 0, 1, 1);
        driver.tick();
        let migrate: native::Migrate =
            |from, old| Ok([b"from-", from.to_string().as_bytes(), b" ", old].concat());
        driver.swap(steps(&stamp, &native::migrating(&counts("2", 2, true), migrate))).unwrap();
        push(&mut driver, 0, 2, 2);
        if crashes {
            driver.tick();
            driver.crash_and_restore(1);
        }
        driver.advance(HOUR);
        driver.checkpoint();
        assert_eq!(values(&mut driver), ["from-1 1 1"], "crash: {crashes}");
    }
}

#[test]
fn a_migration_that_fails_changes_nothing() {
    let stamp = stamps("1");
    let mut driver = Driver::new(steps(&stamp, &counts("1", 1, true)), 1, 2);
    push(&mut driver, 0, 1, 1);
    driver.tick();
    let migrate: native::Migrate = |_, _| Err("too old".to_owned());
    let refused = driver.swap(steps(&stamp, &native::migrating(&counts("2", 2, true), migrate))).unwrap_err();
    assert_eq!(refused, ["the stage `hourly`: `migrate` refused an accumulator: too old"]);
    push(&mut driver, 0, 2, 2);
    driver.advance(HOUR);
    driver.checkpoint();
    assert_eq!(values(&mut driver), ["1 1"]);
}

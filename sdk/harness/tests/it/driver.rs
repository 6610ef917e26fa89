//! Stories that the driver tells.
#![allow(clippy::unwrap_used)]

use wasmill_engine::guest::{AggregateInfo, PluginRef};
use wasmill_engine::topology::Order;
use wasmill_harness::driver::{Driver, Steps};
use wasmill_harness::native::{self, AggregateFns};

fn count() -> PluginRef {
    native::aggregate(
        "count",
        AggregateFns {
            info: AggregateInfo { commutative: true, state_version: 1, initial: b"0".to_vec() },
            fold: |a, _| {
                let n: u64 = String::from_utf8_lossy(a).parse().unwrap();
                *a = (n + 1).to_string().into_bytes();
                Ok(())
            },
            merge: |_, _| {},
            finish: |a| String::from_utf8_lossy(a).into_owned(),
            scan: None,
        },
        None,
    )
}

fn message(id: &str, key: &str, time: i64) -> String {
    format!(r#"{{"id":"{id}","type":"t","timestamp":{time},"payload":{{"k":"{key}"}}}}"#)
}

fn hourly() -> Steps {
    Steps::new().key_by(&["payload.k"]).tumbling("w", &count(), 100, 20)
}

#[test]
fn a_window_fires_when_stream_time_has_passed_its_end_and_the_allowed_lateness() {
    let mut d = Driver::new(hourly(), 1, 2);
    d.push(0, &message("1", "a", 10));
    d.push(0, &message("2", "a", 99));
    d.advance(119);
    d.checkpoint();
    assert!(d.read().is_empty(), "119 is within the allowed lateness");
    d.advance(120);
    d.checkpoint();
    let out = d.read();
    assert_eq!(out.len(), 1);
    assert_eq!(out[0]["type"], "w.window");
    assert_eq!(out[0]["timestamp"], 99);
    assert_eq!(
        out[0]["payload"],
        serde_json::json!({"key": "a", "start": 0, "end": 100, "final": true, "value": 2})
    );
    d.push(0, &message("3", "a", 50));
    d.checkpoint();
    assert_eq!(d.counts().late, 1);
    assert_eq!(d.read_dead_letters()[0]["payload"]["kind"], "late");
}

#[test]
fn stream_time_waits_for_the_slowest_partition_until_it_is_idle() {
    let mut d = Driver::new(hourly(), 2, 1);
    d.push(0, &message("1", "a", 10));
    d.push(0, &message("2", "a", 500));
    d.checkpoint();
    assert!(d.read().is_empty(), "partition 1 has said nothing yet");
    d.idle(1);
    d.checkpoint();
    assert_eq!(d.read().len(), 1);
    // It comes back: stamped at least at the closing stream time, so its old message is late.
    d.push(1, &message("3", "a", 20));
    d.checkpoint();
    // At the same stamp the lower partition goes first, and it may still send one: it must go on.
    d.push(0, &message("4", "a", 600));
    d.checkpoint();
    assert_eq!(d.counts().late, 1);
}

#[test]
fn open_windows_survive_a_crash_and_another_number_of_lanes() {
    let mut d = Driver::new(hourly(), 1, 1);
    for n in 0..50 {
        d.push(0, &message(&n.to_string(), &format!("k{}", n % 7), n));
    }
    d.checkpoint();
    assert_eq!(d.state().len(), 7, "one accumulator a key");
    d.push(0, &message("lost in the crash, and read again", "k0", 60));
    d.tick();
    d.crash_and_restore(5);
    d.end();
    d.checkpoint();
    let out = d.read();
    assert_eq!(out.len(), 7);
    let total: u64 = out.iter().map(|o| o["payload"]["value"].as_u64().unwrap()).sum();
    assert_eq!(total, 51);
    assert!(d.state().is_empty(), "closed windows leave nothing behind");
}

#[test]
fn a_running_aggregate_without_a_scan_answers_each_message_with_the_value_after_it() {
    let steps = Steps::new().key_by(&["type", "payload.k"]).running("total", &count(), Order::Log);
    let mut d = Driver::new(steps, 1, 3);
    for (id, key) in [("1", "a"), ("2", "b"), ("3", "a")] {
        d.push(0, &message(id, key, 1));
    }
    d.checkpoint();
    let mut out: Vec<String> = d.read().iter().map(|o| o["payload"].to_string()).collect();
    out.sort();
    assert_eq!(
        out,
        [
            r#"{"key":["t","a"],"value":1}"#,
            r#"{"key":["t","a"],"value":2}"#,
            r#"{"key":["t","b"],"value":1}"#
        ]
    );
}

/// What a store can't take must not come to its commit, which would fail at each start again.
#[test]
fn a_key_that_no_store_takes_makes_a_dead_letter() {
    let longest = "k".repeat(2_587);
    let keyed = || Steps::new().key_by(&["payload.k"]);
    for steps in [keyed().tumbling("w", &count(), 100, 0), keyed().running("r", &count(), Order::Log)] {
        let mut d = Driver::new(steps, 1, 2);
        d.push(0, &message("fits", &longest, 10));
        d.push(0, &message("one more", &format!("{longest}k"), 11));
        d.push(0, &message("far too long", &"k".repeat(70_000), 12));
        d.push(0, &message("short", "a", 13));
        d.tick();
        d.checkpoint();
        assert!(d.state().iter().all(|(key, _)| key.len() <= 2_600), "each stored key fits into all stores");
        let dead = d.read_dead_letters();
        let told: Vec<_> = dead.iter().map(|letter| &letter["payload"]).collect();
        assert_eq!(
            told.iter().map(|p| (&p["message"]["id"], &p["kind"], &p["stage"])).collect::<Vec<_>>(),
            [
                (&"one more".into(), &"key".into(), &"key_by".into()),
                (&"far too long".into(), &"key".into(), &"key_by".into())
            ]
        );
        assert_eq!(
            told[1]["reason"],
            "the key has 70000 bytes, and one by which state is kept has at most 2587: have `key_by` name another place, or a transform before it make a shorter key, such as a hash of this one"
        );
        d.crash_and_restore(3);
        d.end();
        d.checkpoint();
        assert_eq!(d.read().len(), 2);
        assert!(d.read_dead_letters().is_empty());
    }
}

#[test]
fn a_key_may_be_long_where_no_state_is_kept_by_it() {
    let keep = native::filter("keep", |_| true);
    let mut d = Driver::new(Steps::new().key_by(&["payload.k"]).filter("keep", &keep), 1, 2);
    d.push(0, &message("1", &"k".repeat(70_000), 10));
    d.checkpoint();
    assert_eq!((d.read().len(), d.read_dead_letters().len()), (1, 0));
}

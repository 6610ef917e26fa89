//! An end in order: the first signal drains and commits, the second ends at once, a stalled sink does
//! not hold the process for ever.

use std::time::Duration;

use wasmill_tests::http::{free_address, get};
use wasmill_tests::output::{assert_same, finished_lines, sorted, unfinished_bytes};
use wasmill_tests::{Place, Running, Signal};

const MESSAGES: u64 = 6_000;
/// A count a message, so that every message is state and output at once.
const COUNTS: &str = "\
name: counts
source: { generator: { count: 6000, keys: 7, padding: 16B, disorder: 1s } }
data_dir: data
stages:
  - key_by: payload.key
  - aggregate: count-types
sink: { file: { path: out } }
delivery: exactly_once
";
/// The bound of an ordered end, as the README promises it.
const ORDERED_END_MAX: Duration = Duration::from_secs(30);

fn counting() -> Place {
    let place = Place::with_plugins(&["count-types"]);
    place.file("pipeline.yaml", COUNTS);
    place
}

#[test]
fn a_signal_drains_commits_and_ends_with_0_and_the_next_run_goes_on_there() {
    let undisturbed = counting();
    undisturbed.pipeline().run().exits(0);
    let expected = sorted(finished_lines(&undisturbed.path("out")));
    assert_eq!(expected.len() as u64, MESSAGES);
    for signal in [Signal::INT, Signal::TERM] {
        let place = counting();
        let slowly = place.pipeline().arg("--json").env("WASMILL_SOURCE__GENERATOR__RATE", 4_000);
        let mut running = slowly.start();
        let out = place.path("out");
        running.until("the first results", || unfinished_bytes(&out) > 0);
        assert!(running.signal(signal));
        let first = running.wait_at_most(ORDERED_END_MAX).exits(0).summary();
        assert_eq!(first["ended"], "stopped", "{first}");
        let second = place.pipeline().arg("--json").env("WORKER_COUNT", 3).run().exits(0).summary();
        assert_eq!(second["ended"], "finished", "{second}");
        let read = |summary: &serde_json::Value| summary["read"].as_u64().unwrap_or(0);
        assert!(read(&first) > 0 && read(&second) > 0, "{first} {second}");
        assert_eq!(read(&first) + read(&second), MESSAGES, "what was drained is not read again");
        assert_same(&format!("{signal:?}"), &sorted(finished_lines(&out)), &expected);
    }
}

/// A pipeline whose sink nobody reads: it holds messages that it can't get rid of.
fn stalled(place: &Place) -> Running {
    let address = free_address();
    place.file(
        "pipeline.yaml",
        format!(
            "name: stalled\nsource: generator\nhttp: {address}\nsink: stdout\nlimits: {{ queue: 4MiB }}\n"
        ),
    );
    let mut running = place.pipeline().env("SHUTDOWN_TIMEOUT", "1s").stdout_unread().start();
    running.until("messages on their way", || {
        let metrics = get(address, "/metrics").map(|answer| answer.body).unwrap_or_default();
        let read = metrics.lines().find_map(|l| l.strip_prefix("wasmill_messages_read_total"));
        read.and_then(|l| l.rsplit(' ').next()?.parse().ok()).unwrap_or(0) > 10_000
    });
    running
}

#[test]
fn a_second_signal_ends_at_once_with_its_own_exit_code() {
    for second in [Signal::INT, Signal::TERM] {
        let place = Place::new();
        let mut running = stalled(&place);
        let log = running.log();
        assert!(running.signal(Signal::TERM));
        // Two signals that come as one are one.
        running.until("it says that it drains", || log.says("a second signal stops at once"));
        assert!(running.signal(second));
        running.wait_at_most(ORDERED_END_MAX).exits(130);
    }
}

#[test]
fn a_stalled_sink_holds_an_ordered_end_up_for_shutdown_timeout_at_most() {
    let place = Place::new();
    let mut running = stalled(&place);
    assert!(running.signal(Signal::TERM));
    let ended = running.wait_at_most(ORDERED_END_MAX).exits(1);
    ended.says(&["could not drain within 1 s", "read again at the next start", "shutdown_timeout"]);
}

#[test]
fn a_reader_of_stdout_that_has_seen_enough_ends_the_run_without_a_failure() {
    let place = Place::new();
    place.file("pipeline.yaml", "name: endless\nsource: generator\nsink: stdout\n");
    let mut running = place.pipeline().stdout_unread().start();
    // As `| head` does.
    drop(running.unread_stdout());
    running.wait_at_most(ORDERED_END_MAX).exits(0).says(&["stdout was closed by its reader: stopped"]);
}

//! A sink that nobody reads for 30 seconds: memory stays within the limits of the spec, and afterwards
//! everything arrives.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use wasmill_tests::Place;
use wasmill_tests::http::{free_address, get};

const MESSAGES: u64 = 400_000;
const PADDING_BYTES: u64 = 1_024;
const QUEUE_MIB: u64 = 8;
const EPOCH_MIB: u64 = 4;
const STALL: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(500);

/// What the limits allow. The queue bounds what readers have read and what lanes have taken, each held as
/// raw bytes and as a batch; the epoch bounds outputs, of which one epoch is open, one ended and one in the
/// sink's hands. An allocator may keep as much again.
const LIMIT_BYTES: u64 = (2 * ((2 * 2 * QUEUE_MIB) + 3 * EPOCH_MIB)) << 20;
/// Threads, plugins, metrics: what the process has before its first message.
const BASE_BYTES: u64 = 48 << 20;

#[test]
fn a_sink_that_is_stalled_for_30_s_grows_no_memory_and_loses_nothing() {
    let place = Place::with_plugins(&["seed-job"]);
    let address = free_address();
    let spec = format!(
        "\
name: stalled
source: {{ generator: {{ count: {MESSAGES}, padding: {PADDING_BYTES}B }} }}
http: {address}
stages:
  - transform: seed-job
sink: stdout
epoch: {{ bytes: {EPOCH_MIB}MiB }}
limits: {{ queue: {QUEUE_MIB}MiB }}
"
    );
    place.file("pipeline.yaml", spec);
    let mut running = place.pipeline().stdout_unread().start();
    let stdout = running.unread_stdout().expect("a pipe");
    let metric = |name: &str| {
        let metrics = get(address, "/metrics").map(|answer| answer.body).unwrap_or_default();
        let line = metrics.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().to_owned();
        line.rsplit(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
    };
    running.until("its first messages", || metric("wasmill_messages_read_total") > 0);
    let mut resident_bytes_max = 0;
    let mut read_bytes = Vec::new();
    while running.age() < STALL {
        std::thread::sleep(LOOK);
        assert!(running.is_running(), "a stalled sink ends nothing:\n{}", running.log().text());
        resident_bytes_max = resident_bytes_max.max(running.resident_bytes());
        read_bytes.push(metric("wasmill_read_bytes_total"));
    }
    let all_bytes = MESSAGES * PADDING_BYTES;
    println!("resident at most {} MiB, read {} MiB", resident_bytes_max >> 20, read_bytes[0] >> 20);
    assert!(resident_bytes_max > 1 << 20, "memory was looked at");
    assert!(
        resident_bytes_max < BASE_BYTES + LIMIT_BYTES,
        "{} MiB are resident, above the {} MiB that the limits allow",
        resident_bytes_max >> 20,
        (BASE_BYTES + LIMIT_BYTES) >> 20
    );
    const { assert!(BASE_BYTES + LIMIT_BYTES < MESSAGES * PADDING_BYTES / 2, "without a bound it would be above") };
    let last = read_bytes.last().copied().unwrap_or(0);
    assert!(last < all_bytes / 4, "the source is slowed: {last} bytes read");
    assert_eq!(read_bytes.iter().rev().nth(20), Some(&last), "the source stands still while the sink does");

    // Ids count up: a message lost, doubled or swapped is seen.
    let mut expected = 0;
    for line in BufReader::new(stdout).lines() {
        let line = line.expect("a line");
        assert!(
            line.starts_with(&format!("{{\"id\":\"0-{expected}\",")),
            "message {expected} came as {line}"
        );
        expected += 1;
    }
    assert_eq!(expected, MESSAGES);
    running.wait().exits(0);
}

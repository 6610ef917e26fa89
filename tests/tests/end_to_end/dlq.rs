//! The circle of dead letters: what a broken plugin fails is kept, looked through, and put through the mended one,
//! while the pipeline goes on. `host/wasmill/tests/it/dlq.rs` has the commands one by one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use wasmill_connect::local_log::{Batch, Keep, LogWriter, Record, SEGMENT_BYTES, Taken, facts, now_ms};
use wasmill_tests::http::{free_address, get};
use wasmill_tests::output::finished_lines;
use wasmill_tests::process::Running;
use wasmill_tests::{Place, Signal, home};

/// How many messages the broken plugin fails.
const FAILING: u64 = 10_000;
/// How many there are before the plugin is mended; every second one fails.
const BEFORE: u64 = 2 * FAILING;

const SPEC: &str = "\
name: orders
source: { log: { path: in } }
data_dir: data
stages:
  - transform: mend
sink: { file: { path: out } }
dead_letter: { log: { path: dead } }
replay: { log: { path: replay } }
";

fn put_plugin(place: &Place, from: &str) {
    let folder = place.path("plugins");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::copy(home::plugin(from), folder.join("mend.wasm")).expect("copied");
}

/// The numbered messages from one on, committed at once.
fn feed(log: &mut LogWriter, from: u64, to: u64) {
    let mut batch = Batch::default();
    for n in from..to {
        let boom = n < BEFORE && n.is_multiple_of(2);
        let text =
            json!({ "id": n.to_string(), "type": "order", "payload": { "n": n, "boom": boom } }).to_string();
        batch.push(Record { value: text.as_bytes(), key: None, id: None });
    }
    log.append(&mut batch, now_ms()).expect("appended");
    log.sync().expect("synced");
    log.commit(log.end(), true).expect("committed");
}

fn dlq(place: &Place, args: &[&str]) -> Value {
    let (command, rest) = args.split_first().expect("a command");
    let all = ["dlq", command, "pipeline.yaml", "--json"].into_iter().chain(rest.iter().copied());
    let ended = place.wasmill(all).run().exits(0);
    serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}:\n{}", ended.stdout))
}

fn states(place: &Place, http: &str) -> BTreeMap<String, u64> {
    let stats =
        place.wasmill(["dlq", "stats", "pipeline.yaml", "--json"]).env("WASMILL_HTTP", http).run().exits(0);
    let stats: Value = serde_json::from_str(&stats.stdout).expect("JSON");
    serde_json::from_value(stats["stats"]["states"].clone()).expect("counts")
}

/// The pipeline, once it has its state: who asks before would open that in its stead.
fn start(place: &Place, http: &str) -> Running {
    let mut running = place.pipeline().env("WASMILL_HTTP", http).start();
    let address = http.parse().expect("an address");
    running.until("it is ready", || get(address, "/ready").is_some_and(|answer| answer.status == 200));
    running
}

fn end(mut running: Running) {
    assert!(running.signal(Signal::TERM));
    running.wait().exits(0);
}

#[test]
fn ten_thousand_dead_letters_are_replayed_once_each_while_new_messages_flow() {
    let place = Place::new();
    place.file("pipeline.yaml", SPEC);
    put_plugin(&place, "panics-on");
    let http = free_address().to_string();
    let mut log =
        Taken::take(&place.path("in")).expect("taken").open(Keep::Whole, SEGMENT_BYTES).expect("open");
    feed(&mut log, 0, BEFORE);

    let mut running = start(&place, &http);
    let dead = place.path("dead");
    running.until("all dead letters", || facts(&dead).is_ok_and(|f| f.committed == FAILING));
    end(running);
    assert_eq!(states(&place, &http), BTreeMap::from([("waiting".to_owned(), FAILING)]));

    put_plugin(&place, "seed-job");
    let mut running = start(&place, &http);
    // New messages flow from here to the end.
    let ends = Arc::new(AtomicBool::new(false));
    let feeder = std::thread::spawn({
        let ends = Arc::clone(&ends);
        move || {
            let mut next = BEFORE;
            while !ends.load(Ordering::SeqCst) {
                feed(&mut log, next, next + 20);
                next += 20;
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            next
        }
    });
    let killed =
        place.wasmill(["dlq", "replay", "pipeline.yaml"]).env("TEST_FAILPOINT", "dlq-copied:3").run();
    assert_ne!(killed.code, Some(0), "it died in its midst:\n{}", killed.stderr);
    let copied = facts(&place.path("replay")).expect("the log").committed;
    assert!(copied > 0 && copied < FAILING, "{copied}");
    let out = place.path("out");
    running.until("replayed results", || wasmill_tests::output::unfinished_bytes(&out) > 0);
    // The pipeline dies while it reads what is copied, and the second command runs while it is away.
    let (was_killed, _) = running.kill();
    assert!(was_killed);
    let told = dlq(&place, &["replay", "--plugin", "plugins/mend.wasm"]);
    assert_eq!(told["copied"], FAILING - copied, "{told}");
    assert_eq!(told["there_already"], copied, "{told}");

    let mut running = start(&place, &http);
    assert_eq!(dlq(&place, &["replay"])["copied"], 0, "all of them are there");
    running.until("all of them are cleared", || states(&place, &http).get("cleared") == Some(&FAILING));
    assert_eq!(states(&place, &http), BTreeMap::from([("cleared".to_owned(), FAILING)]));
    ends.store(true, Ordering::SeqCst);
    let sent = feeder.join().expect("the feeder");
    assert!(sent > BEFORE);
    // What was fed last is read before it ends: the pipeline's position is the log's end.
    running.until("all that was fed", || {
        let stats = place
            .wasmill(["state", "stats", "pipeline.yaml", "--json"])
            .env("WASMILL_HTTP", &http)
            .run()
            .exits(0);
        let stats: Value = serde_json::from_str(&stats.stdout).expect("JSON");
        stats["stats"]["positions"]["0/0"]["offset"] == sent
    });
    end(running);

    assert_eq!(facts(&dead).expect("the log").committed, FAILING, "none failed again");
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    for line in finished_lines(&out) {
        let line: Value = serde_json::from_str(&line).expect("JSON");
        let n = line["payload"]["n"].as_u64().expect("a number");
        assert_eq!(line["id"], n.to_string());
        // By which plugin it went: the broken one marks what survives it.
        let by_broken = n < BEFORE && !n.is_multiple_of(2);
        let mark = if by_broken { "survived" } else { "processed" };
        assert_eq!(line["metadata"], json!({ mark: line["metadata"][mark] }), "{line}");
        assert!(!line["metadata"][mark].is_null(), "{line}");
        *counts.entry(n).or_default() += 1;
    }
    let once: BTreeMap<u64, u64> = (0..sent).map(|n| (n, 1)).collect();
    let wrong: Vec<_> = (0..sent).filter(|n| counts.get(n) != Some(&1)).take(5).collect();
    assert!(counts == once, "not once each: {wrong:?}, of {} results for {sent} messages", counts.len());
}

#[test]
fn what_is_cleared_is_not_guessed_while_nobody_can_be_asked() {
    let place = Place::new();
    place.file("pipeline.yaml", SPEC);
    put_plugin(&place, "panics-on");
    let mut log =
        Taken::take(&place.path("in")).expect("taken").open(Keep::Whole, SEGMENT_BYTES).expect("open");
    feed(&mut log, 0, 4);
    let mut running = place.pipeline().start();
    let dead = place.path("dead");
    running.until("dead letters", || facts(&dead).is_ok_and(|f| f.committed == 2));
    assert_eq!(dlq(&place, &["replay", "--limit", "1"])["copied"], 1);
    let ended = place.wasmill(["dlq", "list", "pipeline.yaml"]).run().exits(0);
    let ended = ended.says(&["copied", "waiting", "not known while `orders` runs", "WASMILL_HTTP"]);
    assert!(!ended.stdout.contains("cleared"), "{}", ended.stdout);
    // It fails again: that letter is another one, and the first one is cleared all the same.
    running.until("it failed again", || facts(&dead).is_ok_and(|f| f.committed == 3));
    end(running);
    let ended = place.wasmill(["dlq", "stats", "pipeline.yaml"]).run().exits(0);
    ended.says(&["3 dead letters", "1 cleared, 2 waiting"]);
}

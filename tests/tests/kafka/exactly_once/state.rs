//! State in a changelog, and what a store on this machine has of it.

use std::time::{Duration, Instant};

use super::{Exact, Job};
use crate::world::{FOR_EVER, read_all, shared_broker};

fn changelog(exact: &Exact) -> String {
    format!("{}-changelog", exact.world.name)
}

/// Feeds, counts all of it, ends; answers what it said.
fn run(exact: &Exact, messages: u64) -> String {
    exact.feed(messages);
    exact.flush();
    let mut host = exact.start();
    exact.until_whole(&mut host);
    host.end()
}

#[track_caller]
fn is_refused(exact: &Exact, words: &[&str]) {
    exact.start().running.wait().exits(4).says(words);
}

#[test]
fn a_store_is_brought_up_to_date_or_built_anew_and_counts_go_on() {
    let broker = shared_broker();
    let exact = Exact::new(&broker, Job::Counts, 2);
    let since = Instant::now();
    run(&exact, 2_000);
    // What it has is enough.
    let log = run(&exact, 2_000);
    assert!(!log.contains("state is restored") && log.contains("resumed=true"), "{log}");

    // Another machine has nothing; then this one is behind.
    let here = exact.world.place.path("data");
    let aside = exact.world.place.path("aside");
    std::fs::rename(&here, &aside).expect("it can be moved");
    let log = run(&exact, 2_000);
    assert!(log.contains("state is restored from its changelog"), "{log}");
    std::fs::remove_dir_all(&here).expect("it can be removed");
    std::fs::rename(&aside, &here).expect("it can be moved");
    let log = run(&exact, 2_000);
    assert!(log.contains("state is restored") && !log.contains("built anew"), "{log}");

    // One that is damaged is no loss.
    for file in std::fs::read_dir(here.join(&exact.world.name).join("state/db")).expect("a folder") {
        let path = file.expect("a file").path();
        if path.extension().is_some_and(|e| e == "jnl") {
            let bytes = std::fs::read(&path).expect("a journal");
            std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("it can be cut");
        }
    }
    let log = run(&exact, 2_000);
    assert!(log.contains("can't be used: it is built anew"), "{log}");

    // Deletions are remembered for a while only: what is older can't tell what was deleted.
    broker.set(&changelog(&exact), ("delete.retention.ms", "1000"));
    std::thread::sleep(Duration::from_millis(1_500));
    let log = run(&exact, 2_000);
    assert!(log.contains("too old, or of another topic: it is built anew"), "{log}");

    // Nothing on disk at all.
    exact.write_spec(&broker.address(), "");
    exact.feed(2_000);
    exact.close();
    let mut host = exact.start();
    let found = exact.until_whole(&mut host);
    exact.is_exact("stores that follow", &found, 6, since);
    host.end();
}

#[test]
fn a_changelog_that_would_lose_state_or_is_gone_is_refused() {
    let broker = shared_broker();
    let exact = Exact::new(&broker, Job::Counts, 2);
    broker.create_topic(&changelog(&exact), 1, &[FOR_EVER]);
    is_refused(&exact, &[&changelog(&exact), "cleanup.policy=delete", "set it to compact"]);
    broker.set(&changelog(&exact), ("cleanup.policy", "compact"));
    run(&exact, 1_000);

    // Its store follows: it may not go its own way.
    let text = exact.world.place.text("pipeline.yaml");
    exact.world.place.file("pipeline.yaml", text.replace("delivery: exactly_once\n", ""));
    is_refused(&exact, &["follows the changelog", "delivery: exactly_once", "wasmill reset"]);
    exact.world.place.file("pipeline.yaml", text);

    broker.delete_topic(&changelog(&exact));
    is_refused(&exact, &[&changelog(&exact), "deleted and made anew", "wasmill reset"]);
    exact.world.place.wasmill(["reset", "pipeline.yaml", "--yes"]).run().exits(0);
    // From the start, after what is there already.
    let mut host = exact.start();
    host.until_ready_is(200, &[]);
    host.running.until("all of it again", || {
        read_all(&exact.world.address, &exact.world.output()).len() >= 2 * exact.results()
    });
    host.end();

    broker.create_topic("others-changelog", 2, &[("cleanup.policy", "compact")]);
    let text = exact.world.place.text("pipeline.yaml");
    exact.world.place.file("pipeline.yaml", text.replacen(&exact.world.name, "others", 1));
    is_refused(&exact, &["others-changelog", "2 partitions", "Rename the pipeline"]);
}

#[test]
fn a_message_that_the_topic_does_not_take_becomes_one_dead_letter_and_its_neighbours_go_on() {
    let broker = shared_broker();
    let exact = Exact::new(&broker, Job::Copies, 1);
    broker.set(&exact.world.output(), ("max.message.bytes", "5000"));
    let host = exact.buries_one_that_is_large("a message above the limit");
    let page = wasmill_tests::http::get(host.http, "/metrics").expect("a page").body;
    let aborted = format!("wasmill_transactions_aborted_total{{pipeline=\"{}\"}} 1\n", exact.world.name);
    assert!(page.contains(&aborted), "{page}");
    host.end();
}

//! kill -9 at random moments, and at each place of a commit's way.

use std::time::Instant;

use wasmill_tests::http::get;
use wasmill_tests::random::Random;

use super::{Exact, Job, rounds};
use crate::world::{shared_broker, tail};

/// Messages a second.
const RATE: u64 = 4_000;
/// The places of a commit's way.
const PLACES: [&str; 5] = ["produced", "offsets", "flushed", "committed", "applied"];

/// Feeds all the while, and does harm to one process after the other; then all must be right.
fn campaign(what: &str, job: Job, harm: impl FnMut(&Exact, u32, &mut Random)) {
    let broker = shared_broker();
    campaign_of(what, &Exact::new(&broker, job, 4), harm);
}

fn campaign_of(what: &str, exact: &Exact, mut harm: impl FnMut(&Exact, u32, &mut Random)) {
    let (rounds, since) = (rounds(), Instant::now());
    let mut random = Random::shown(what);
    // Something to go on from.
    exact.feed(2_000);
    for round in 0..rounds {
        exact.while_fed(RATE, || harm(exact, round, &mut random));
    }
    exact.close();
    let mut last = exact.start();
    let found = exact.until_whole(&mut last);
    exact.is_exact(what, &found, rounds, since);
}

/// Waits until it does something, then for a while, then kills it.
fn killed_at_random(exact: &Exact, random: &mut Random) {
    let mut host = exact.start();
    host.until_ready_is(200, &[]);
    std::thread::sleep(random.millis(50, 1_200));
    host.kill();
}

/// Lets it come to a place at which it dies.
fn dies_at(exact: &Exact, place: &str, nth: u64) {
    let host = exact.start_with(|w| w.env("TEST_FAILPOINT", format!("{place}:{nth}")));
    let log = host.running.log();
    host.running.wait();
    assert!(log.says(&format!("failpoint {place}")), "it ended otherwise:\n{}", tail(&log.text()));
}

#[test]
fn copies_are_exact_under_kill_9() {
    campaign("kill -9, copies", Job::Copies, |exact, _, random| killed_at_random(exact, random));
}

#[test]
fn counts_are_exact_under_kill_9() {
    campaign("kill -9, counts", Job::Counts, |exact, _, random| killed_at_random(exact, random));
}

#[test]
fn windows_are_exact_under_kill_9() {
    campaign("kill -9, windows", Job::Windows, |exact, _, random| killed_at_random(exact, random));
}

#[test]
fn counts_are_exact_wherever_a_commit_is_cut_off() {
    campaign("cut off, counts", Job::Counts, |exact, round, random| {
        dies_at(exact, PLACES[round as usize % PLACES.len()], 1 + random.draw() % 5);
    });
}

#[test]
fn windows_are_exact_wherever_a_commit_is_cut_off() {
    campaign("cut off, windows", Job::Windows, |exact, round, random| {
        dies_at(exact, PLACES[round as usize % PLACES.len()], 1 + random.draw() % 5);
    });
}

/// Both halves of the pipeline commit, in one process: either dies in the midst of it.
#[test]
fn counts_are_exact_wherever_a_commit_before_or_behind_an_exchange_is_cut_off() {
    let broker = shared_broker();
    let exact = Exact::behind_exchange(&broker, Job::Counts, 4);
    campaign_of("cut off, counts behind an exchange", &exact, |exact, round, random| {
        dies_at(exact, PLACES[round as usize % PLACES.len()], 1 + random.draw() % 9);
    });
}

#[test]
fn counts_are_exact_where_a_restore_is_cut_off_and_the_local_store_is_gone() {
    campaign("restore cut off, counts", Job::Counts, |exact, round, random| {
        if round == 0 {
            // There must be something to restore, however slow the machine is.
            let mut host = exact.start();
            let http = host.http;
            let commits = |line: &str| {
                let count = line.strip_prefix("wasmill_epochs_committed_total{")?.rsplit_once(' ')?.1;
                Some(count.parse::<f64>().ok()? >= 3.0)
            };
            let has_committed = || {
                get(http, "/metrics").is_some_and(|page| page.body.lines().any(|l| commits(l) == Some(true)))
            };
            host.running.until("something to be committed", has_committed);
            host.kill();
        } else {
            // Without a store here all comes from the changelog.
            exact.world.place.forget(&["data"]);
            dies_at(exact, "restore", 1 + random.draw() % 10);
        }
        killed_at_random(exact, random);
    });
}

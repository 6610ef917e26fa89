//! Several processes with state: what comes out of the stages before the key_by goes to whoever has its key through a
//! topic, and state follows the partitions of that.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use wasmill_tests::random::Random;

use super::{Exact, Job, is_closing, rounds};
use crate::broker::Broker;
use crate::world::{FOR_EVER, Found, Host, PATIENCE, read_all, shared_broker, tail};

/// Messages a second.
const RATE: u64 = 3_000;
/// The partitions of the topics and of the exchange.
const PARTITIONS: u32 = 9;

/// A process with a slot and a folder of its own.
fn start_as(exact: &Exact, slot: &str) -> Host {
    exact.start_with(|w| w.env("WASMILL_SLOT", slot).env("DATA_DIR", format!("data-{slot}")))
}

/// Three processes of which one after the other goes, in order or not, and another one comes, under load.
fn come_and_go(broker: &Broker, job: Job, rounds: u32) -> (Exact, Vec<Host>) {
    let exact = Exact::behind_exchange(broker, job, PARTITIONS);
    exact.write_spec(&broker.address(), "");
    let mut random = Random::shown(&format!("join and leave, {job:?}"));
    let mut hosts: Vec<Host> = ["a", "b", "c"].iter().map(|slot| start_as(&exact, slot)).collect();
    exact.while_fed(RATE, || {
        for round in 0..rounds {
            std::thread::sleep(random.millis(2_000, 5_000));
            let left = hosts.remove(0);
            if round % 2 == 0 {
                left.end();
            } else {
                left.running.kill();
            }
            std::thread::sleep(random.millis(0, 500));
            // One comes back under its name and finds its folder as it was, or another one comes.
            hosts.push(start_as(&exact, ["a", "b", "c", "d"][round as usize % 4]));
        }
    });
    exact.close();
    (exact, hosts)
}

fn campaign(what: &str, job: Job) {
    let (rounds, since) = (rounds(), Instant::now());
    let broker = shared_broker();
    let (exact, mut hosts) = come_and_go(&broker, job, rounds);
    let found = exact.until_whole_of(&mut hosts);
    exact.is_exact(what, &found, rounds, since);
    hosts.into_iter().for_each(|host| _ = host.end());
}

#[test]
fn counts_follow_their_partitions() {
    campaign("join and leave, counts behind an exchange", Job::Counts);
}

#[test]
fn windows_follow_their_partitions() {
    campaign("join and leave, windows behind an exchange", Job::Windows);
}

/// The windows: key, start, end, and how often each value was told.
fn windows(found: &[Found]) -> BTreeMap<(String, i64, i64), Vec<u64>> {
    let mut windows: BTreeMap<_, Vec<u64>> = BTreeMap::new();
    for one in found.iter().filter(|f| !is_closing(f)) {
        let payload = &one.value["payload"];
        let number = |name: &str| payload[name].as_i64().unwrap_or_default();
        let key = payload["key"].as_str().unwrap_or_default().to_owned();
        let value = payload["value"].as_u64().unwrap_or_default();
        windows.entry((key, number("start"), number("end"))).or_default().push(value);
    }
    windows
}

#[test]
fn overlapping_windows_with_late_messages_are_those_of_one_process() {
    as_of_one_process("overlapping windows", Job::Sliding, rounds());
}

#[test]
fn sessions_are_those_of_one_process() {
    as_of_one_process("sessions", Job::Sessions, rounds().div_ceil(2));
}

fn as_of_one_process(what: &str, job: Job, rounds: u32) {
    let since = Instant::now();
    let broker = shared_broker();
    let (mut exact, mut hosts) = come_and_go(&broker, job, rounds);
    // One process, in memory, over the same input.
    let (output, name) = (exact.world.output(), exact.world.name.clone());
    let alone = format!("{output}-alone");
    broker.create_topic(&alone, PARTITIONS as i32, &[FOR_EVER]);
    exact.exchange = None;
    exact.write_spec(&broker.address(), "");
    let spec = exact.world.place.text("pipeline.yaml");
    let spec =
        spec.replace(&output, &alone).replacen(&format!("name: {name}"), &format!("name: {name}-alone"), 1);
    let spec = spec.replace(&format!("group: {name}"), &format!("group: {name}-alone"));
    exact.world.place.file("pipeline.yaml", spec);
    let mut one = exact.start();
    one.until_ready_is(200, &[]);
    let mut wanted = BTreeMap::new();
    // Its results come in one go once all is read.
    while wanted.is_empty() || windows(&read_all(&exact.world.address, &alone)) != wanted {
        wanted = windows(&read_all(&exact.world.address, &alone));
        std::thread::sleep(Duration::from_secs(1));
        assert!(since.elapsed() < PATIENCE * 4, "it comes to no end:\n{}", tail(&one.running.log().text()));
    }
    assert!(wanted.values().all(|values| values.len() == 1), "a process alone tells each window once");
    let waited = Instant::now();
    loop {
        let found = windows(&read_all(&exact.world.address, &output));
        let same = found == wanted;
        if same || waited.elapsed() > PATIENCE {
            let count = |name: &str, n: usize| format!("{n} {name}");
            let lost = wanted.keys().filter(|w| !found.contains_key(*w)).count();
            let doubled = found.values().filter(|values| values.len() > 1).count();
            let wrong = found.iter().filter(|(w, values)| wanted.get(*w).is_some_and(|v| v[0] != values[0]));
            let said =
                [count("lost", lost), count("duplicated", doubled), count("wrong", wrong.count())].join(", ");
            println!(
                "join and leave, {what} behind an exchange: {} windows as of one process, {said}, {rounds} rounds, {:.1} s",
                wanted.len(),
                since.elapsed().as_secs_f64()
            );
            for host in &mut hosts {
                assert!(host.running.is_running(), "it ended:\n{}", tail(&host.running.log().text()));
            }
            assert!(same, "they are not the same: {said}; {} there, {} wanted", found.len(), wanted.len());
            break;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    one.end();
    hosts.into_iter().for_each(|host| _ = host.end());
}

/// What is far ahead in event time waits in the exchange, not in memory.
#[test]
fn partitions_that_are_far_apart_in_event_time_take_no_more_memory() {
    const MESSAGES: u64 = 200_000;
    let broker = shared_broker();
    let exact = Exact::behind_exchange(&broker, Job::Windows, 2);
    let since = Instant::now();
    exact.feed(1_000);
    let mut host = start_as(&exact, "one");
    host.until_ready_is(200, &[]);
    std::thread::sleep(Duration::from_secs(2));
    let before = host.running.resident_bytes();
    exact.feed_to(MESSAGES, |_| 0);
    exact.flush();
    // All of it is in the exchange, and can't be taken in before the other partition is as far.
    std::thread::sleep(Duration::from_secs(8));
    let grown = host.running.resident_bytes().saturating_sub(before) >> 20;
    exact.feed_to(MESSAGES, |_| 1);
    exact.close();
    let found = exact.until_whole(&mut host);
    exact.is_exact("partitions far apart", &found, 1, since);
    println!("{MESSAGES} messages that wait: {grown} MiB more");
    assert!(grown < 64, "{grown} MiB more for what waits");
    host.end();
}

/// A pipeline's state, as `wasmill state` shows it.
fn shown(exact: &Exact, command: &[&str]) -> String {
    let asked = exact.world.place.wasmill(["state"].into_iter().chain(command.iter().copied()));
    asked.run().exits(0).stdout
}

#[test]
fn state_behind_an_exchange_is_shown_while_it_runs_and_after() {
    let broker = shared_broker();
    let exact = Exact::behind_exchange(&broker, Job::Counts, 4);
    exact.feed(2_000);
    exact.flush();
    let mut host = exact.start();
    exact.until_whole(&mut host);
    let text = exact.world.place.text("pipeline.yaml") + &format!("http: {}\n", host.http);
    exact.world.place.file("asked.yaml", text);
    let list = ["list", "asked.yaml", "--json"];
    let running = shown(&exact, &list);
    let keys = |list: &str| list.matches("\"key\"").count();
    assert_eq!(keys(&running), 20, "{running}");
    host.end();
    assert_eq!(shown(&exact, &list), running);
    // What a key has in whichever part.
    let one = shown(&exact, &["get", "asked.yaml", "count", "k7", "--json"]);
    assert!(one.contains("100"), "{one}");
    let stats = shown(&exact, &["stats", "asked.yaml"]);
    assert!(stats.contains("20 entries") && stats.contains("[3] of 0/1 offset"), "{stats}");
}

#[test]
fn a_message_that_the_exchange_does_not_take_becomes_one_dead_letter_and_its_neighbours_go_on() {
    let broker = shared_broker();
    let exact = Exact::behind_exchange(&broker, Job::Counts, 1);
    // The client's own limit: of a record of many messages nobody knows then which is too large.
    exact.write_spec_to(&broker.address(), "properties: { message.max.bytes: 5000 }", "");
    let host = exact.buries_one_that_is_large("a message above the exchange's limit");
    host.end();
}

//! A windowed pipeline whose plugin is swapped and rolled back all the while, killed in the midst of it: every window is
//! as without, and each message was done by one version, which it says. In one process, and in two that share it.
//!
//! `WASMILL_SWAP_ROUNDS` is how often the plugin is swapped: 40 times in one process, a third of that in two.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use wasmill_tests::http::get;
use wasmill_tests::random::Random;
use wasmill_tests::stamps::{component, put, stamp};

use super::{Exact, Job};
use crate::broker::Broker;
use crate::world::{FOR_EVER, Host, PATIENCE, read_all, shared_broker, tail};

/// Messages a second.
const RATE: u64 = 4_000;
/// After so many swaps there is a rollback.
const ROLLBACK_EVERY: u32 = 5;
/// In the midst of one of so many swaps the process is killed.
const KILL_EVERY: u32 = 10;

fn rounds() -> u32 {
    std::env::var("WASMILL_SWAP_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(40)
}

/// The version that runs in the stage.
fn runs(host: &Host, exact: &Exact) -> Option<String> {
    let page = get(host.http, &format!("/plugins/{}", exact.world.name))?;
    let page: serde_json::Value = serde_json::from_str(&page.body).ok()?;
    let now = page["plugins"]["now"].as_array()?.iter().find(|p| p["stage"] == "stamps")?;
    Some(now["version"].as_str()?.to_owned())
}

#[track_caller]
fn until_runs(host: &mut Host, exact: &Exact, number: u32) {
    let since = Instant::now();
    while runs(host, exact) != Some(number.to_string()) {
        let log = host.running.log();
        assert!(host.running.is_running(), "it ended:\n{}", tail(&log.text()));
        assert!(since.elapsed() < PATIENCE, "version {number} doesn't run:\n{}", tail(&log.text()));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn write_spec(exact: &Exact, stamped: &str) {
    let exchange = exact.exchange.map_or_else(String::new, |partitions| {
        format!("\n    exchange: {{ topic: {{ partitions: {partitions} }} }}")
    });
    let (name, address) = (&exact.world.name, &exact.world.address);
    let (input, output) = (exact.world.input(), exact.world.output());
    let spec = format!(
        "\
name: {name}
source:
  kafka:
    brokers: {address}
    topic: {input}
    group: {name}
    properties: {{ session.timeout.ms: 2000, heartbeat.interval.ms: 500 }}
stages:
  - transform: stamps
  - key_by: payload.k{exchange}
  - window: {{ tumbling: 1s, allowed_lateness: 1s, late: dead_letter }}
    aggregate: count
sinks:
  - kafka: {{ brokers: {address}, topic: {output} }}
  - kafka: {{ brokers: {address}, topic: {stamped} }}
    output: stamped
delivery: exactly_once
time: {{ idle_timeout: off }}
data_dir: data
workers: 2
"
    );
    exact.world.place.file("pipeline.yaml", spec);
}

/// One of some processes, with a slot and a folder of its own.
fn start(exact: &Exact, number: usize) -> Host {
    exact.start_with(|w| w.env("WASMILL_SLOT", number).env("DATA_DIR", format!("data-{number}")))
}

#[test]
fn windows_are_exact_and_each_message_is_one_versions_under_swaps_rollbacks_and_kill_9() {
    let broker = shared_broker();
    campaign("swaps", &broker, Exact::new(&broker, Job::Windows, 4), 1, rounds());
}

#[test]
fn windows_are_exact_and_each_message_is_one_versions_where_two_processes_swap_together() {
    let broker = shared_broker();
    let exact = Exact::behind_exchange(&broker, Job::Windows, 4);
    campaign("swaps in two processes", &broker, exact, 2, rounds().div_ceil(3));
}

fn campaign(what: &str, broker: &Broker, exact: Exact, processes: usize, rounds: u32) {
    let stamped = format!("{}-stamped", exact.world.name);
    broker.create_topic(&stamped, 4, &[FOR_EVER]);
    write_spec(&exact, &stamped);
    let since = Instant::now();
    let mut random = Random::shown(what);
    put(&exact.world.place, "stamps", &component(0));
    let mut hosts: Vec<Host> = (0..processes).map(|number| start(&exact, number)).collect();
    let (mut kills, mut rollbacks, mut slowest) = (0, 0, Duration::ZERO);
    // Which versions all processes have had, in their order.
    let mut had = vec![0];
    exact.feed(2_000);
    exact.while_fed(RATE, || {
        for round in 1..=rounds {
            put(&exact.world.place, "stamps", &component(round));
            if round % KILL_EVERY == KILL_EVERY / 2 {
                std::thread::sleep(random.millis(0, 900));
                let number = kills as usize % processes;
                hosts.remove(number).kill();
                hosts.insert(number, start(&exact, number));
                kills += 1;
            }
            hosts.iter_mut().for_each(|host| until_runs(host, &exact, round));
            had.push(round);
            if round % ROLLBACK_EVERY == 0 {
                let began = Instant::now();
                let place = &exact.world.place;
                let rolled = place.wasmill(["plugin", "rollback", "pipeline.yaml", "stamps"]);
                rolled.env("WASMILL_HTTP", hosts[0].http).run().exits(0);
                slowest = slowest.max(began.elapsed());
                rollbacks += 1;
                hosts.iter_mut().for_each(|host| until_runs(host, &exact, round - 1));
                had.push(round - 1);
            }
        }
    });
    exact.close();
    let found = exact.until_whole_of(&mut hosts);
    exact.is_exact(what, &found, rounds, since);
    let told = read_all(&exact.world.address, &stamped);
    let mut by: BTreeMap<(u32, u64), String> = BTreeMap::new();
    for one in told.iter().filter(|f| !f.id().starts_with(super::CLOSING)) {
        let version = one.value["metadata"]["by"].as_str().expect("a version").to_owned();
        let twice = by.insert(one.place(), version);
        assert!(twice.is_none(), "{} was done twice: {twice:?}", one.id());
    }
    let all: Vec<(u32, u64)> = exact.all().collect();
    assert_eq!(by.len(), all.len(), "each message was done");
    let versions: BTreeSet<&String> = by.values().collect();
    // Along a partition versions come in the order in which all processes have had them: none comes back but by a
    // rollback, whoever has the partition.
    for partition in 0..exact.partitions {
        let mut left = had.iter().map(|version| stamp(*version));
        let mut now = String::new();
        for (place, version) in by.range((partition, 0)..(partition + 1, 0)) {
            if *version != now {
                now.clone_from(version);
                let came = left.any(|v| v == now);
                assert!(came, "partition {partition}: {now} at {place:?} comes out of its turn: {had:?}");
            }
        }
    }
    println!(
        "{} messages by {} versions; {rounds} swaps, {rollbacks} rollbacks (the slowest {slowest:?}), {kills} kills",
        by.len(),
        versions.len()
    );
    assert!(versions.len() as u32 > rounds / 2, "{versions:?}");
}

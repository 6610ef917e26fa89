//! Built-in aggregates whose totals two processes share in Redis.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use wasmill_tests::Signal;
use wasmill_tests::http::free_address;

use crate::servers::RedisServer;
use crate::world::{Feeder, Found, Host, KINDS, PARTITIONS, Sent, World, shared_broker};

fn spec(world: &World, redis: &RedisServer) -> String {
    let (address, input, output, group) = (&world.address, world.input(), world.output(), &world.name);
    let url = redis.url();
    let quickly = "{ session.timeout.ms: \"2000\", heartbeat.interval.ms: \"500\" }";
    format!(
        "\
name: {group}
source: {{ kafka: {{ brokers: \"{address}\", topic: {input}, group: {group}, properties: {quickly} }} }}
state: {{ redis: {{ url: \"{url}\" }} }}
workers: 2
stages:
  - key_by: type
  - aggregate:
      count: {{}}
      sum: payload.n
      avg: payload.n
      least: {{ min: payload.n }}
      most: {{ top_k: {{ of: payload.n, k: 3 }} }}
    name: totals
sink: {{ kafka: {{ brokers: \"{address}\", topic: {output}, key: id }} }}
"
    )
}

fn start(world: &World) -> Host {
    let http = free_address();
    Host { running: world.place.pipeline().env("WASMILL_HTTP", http).start(), http }
}

/// What the totals must be, by kind: from what was fed alone.
fn totals(sent: &Sent) -> BTreeMap<String, Value> {
    let mut numbers: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (partition, sequence) in sent.all() {
        numbers.entry(Sent::kind(partition, sequence).to_owned()).or_default().push(sequence);
    }
    let total = |mut of: Vec<u64>| {
        of.sort_unstable();
        let (count, sum) = (of.len() as u64, of.iter().sum::<u64>());
        let most: Vec<u64> = of.iter().rev().take(3).copied().collect();
        json!({"count": count, "sum": sum, "avg": sum as f64 / count as f64, "least": of[0], "most": most})
    };
    numbers.into_iter().map(|(kind, of)| (kind, total(of))).collect()
}

/// By kind, what the message was told that is the last one by its count.
fn last(found: &[Found]) -> BTreeMap<String, Value> {
    let mut last: BTreeMap<String, Value> = BTreeMap::new();
    for one in found {
        assert_eq!(one.kind(), "totals.running", "{one:?}");
        let payload = &one.value["payload"];
        let value = &payload["value"];
        let kind = payload["key"].as_str().unwrap_or_else(|| panic!("a key: {one:?}"));
        let known = last.entry(kind.to_owned()).or_insert_with(|| value.clone());
        if value["count"].as_u64() >= known["count"].as_u64() {
            known.clone_from(value);
        }
    }
    last
}

/// What the state in Redis says, by kind.
fn stored(world: &World) -> BTreeMap<String, Value> {
    let of = |kind: &str| {
        let get = ["state", "get", "pipeline.yaml", "totals", kind, "--json"];
        let entry: Value =
            serde_json::from_str(&world.place.wasmill(get).run().exits(0).stdout).expect("an entry");
        entry["finished"].clone()
    };
    KINDS.iter().map(|kind| ((*kind).to_owned(), of(kind))).collect()
}

#[test]
fn two_processes_share_the_totals_of_built_ins_and_one_is_killed() {
    let Some(redis) = RedisServer::start("shared totals of built-ins") else { return };
    let broker = shared_broker();
    let world = World::new(&broker, &[]);
    world.place.file("pipeline.yaml", spec(&world, &redis));
    let mut feeder = Feeder::new(&world);
    let (first, mut second) = (start(&world), start(&world));
    std::thread::scope(|threads| {
        threads.spawn(|| feeder.feed_over(40_000, Duration::from_secs(8)));
        std::thread::sleep(Duration::from_secs(4));
        let log = first.running.log();
        assert!(first.running.kill().0, "it ran until it was killed:\n{}", log.text());
    });
    world.until_whole(&feeder.sent, &mut second);
    assert!(second.running.signal(Signal::TERM), "it runs");
    second.running.wait().exits(0);
    assert_eq!(stored(&world), totals(&feeder.sent), "each message counts once, whoever took it");

    // A third one begins with these, and tells the numbers that follow.
    feeder.feed(u64::from(PARTITIONS) * KINDS.len() as u64 * 3);
    let mut third = start(&world);
    let found = world.until_whole(&feeder.sent, &mut third);
    assert!(third.running.signal(Signal::TERM), "it runs");
    third.running.wait().exits(0);
    let expected = totals(&feeder.sent);
    assert_eq!(stored(&world), expected);
    assert_eq!(last(&found), expected);
}

//! Several sources, several sinks, and pipelines behind one another in one process.

use std::time::Duration;

use wasmill_tests::Place;
use wasmill_tests::http::free_address;

use crate::broker::Broker;
use crate::clients::{client, messages};
use crate::nats::NatsServer;
use crate::postgres::PostgresServer;
use crate::servers::RedisServer;
use crate::world::{DATABASE, From, Host, PATIENCE, To, shared};

/// Waits until something is so.
#[track_caller]
fn until(host: &mut Host, what: &str, mut holds: impl FnMut() -> bool) {
    let since = std::time::Instant::now();
    while !holds() {
        let log = host.running.log().text();
        assert!(host.running.is_running() && since.elapsed() < PATIENCE, "{what}:\n{log}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The numbers of messages, in their order.
fn numbers(messages: &[serde_json::Value]) -> Vec<u64> {
    let mut numbers: Vec<u64> = messages.iter().map(|m| m["payload"]["n"].as_u64().expect("n")).collect();
    numbers.sort_unstable();
    numbers
}

#[test]
fn two_sources_and_four_sinks_by_conditions() {
    let Some(redis) = RedisServer::start("fan-out") else { return };
    let (nats, postgres, redis) =
        (shared(NatsServer::start()), shared(PostgresServer::start()), shared(redis));
    let http = From::Http(free_address());
    let from = From::Nats(nats.clone());
    let to = [To::Postgres(postgres.clone()), To::Nats(nats), To::Redis(redis)];
    from.make();
    to.iter().for_each(To::make);
    let place = Place::with_plugins(&["drop-ignored"]);
    place.file(
        "pipeline.yaml",
        format!(
            "name: fan
sources:
  - {}
  - {}
stages: [{{ filter: drop-ignored }}]
sinks:
  - {}
    when: payload.carrier != 'C0'
  - {}
    when: type == \"departed\" && payload.n < 100
  - {}
    when: metadata.origin == 'client.py' && payload.n >= 500
  - file: {{ path: rest }}
    when: otherwise
delivery: exactly_once
",
            from.spec(),
            http.spec(),
            to[0].spec(),
            to[1].spec(),
            to[2].spec()
        ),
    );
    let mut host = Host::start(&place, &[]);
    host.until_ready();
    let feeders = [from.feed(0, 300, Duration::ZERO), http.feed(300, 300, Duration::ZERO)];
    feeders.into_iter().for_each(|feeder| feeder.finish());
    let passing = || (0..600_u64).filter(|n| n % 10 != 9);
    let in_table: Vec<u64> = passing().filter(|n| n % 7 != 0).collect();
    let rows = || {
        let rows = postgres.lock().expect("no panic").psql(DATABASE, "SELECT n FROM flights ORDER BY n");
        rows.lines().map(|n| n.parse().expect("a number")).collect::<Vec<u64>>()
    };
    until(&mut host, "all rows", || rows().len() >= in_table.len());
    host.end();
    assert_eq!(rows(), in_table);
    let departed: Vec<u64> = passing().filter(|n| n % 2 == 0 && *n < 100).collect();
    assert_eq!(numbers(&to[1].messages()), departed);
    let late: Vec<u64> = passing().filter(|n| *n >= 500).collect();
    assert_eq!(numbers(&to[2].messages()), late);
    let rest: Vec<u64> = passing().filter(|n| n % 7 == 0 && !departed.contains(n) && *n < 500).collect();
    let text = place.text("rest/part-000001.jsonl");
    let written: Vec<_> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(numbers(&written), rest);
}

#[test]
fn a_chain_of_pipelines_in_one_process_survives_kills() {
    let nats = shared(NatsServer::start());
    let (from, to) = (From::Http(free_address()), To::Nats(nats));
    to.make();
    let place = Place::with_plugins(&["drop-ignored"]);
    place.file(
        "pipeline.yaml",
        format!(
            "name: first\nsource: {{ {} }}\nstages: [{{ filter: drop-ignored }}]\nsink: {{ log: {{ path: between }} }}\ndata_dir: data\ndelivery: exactly_once\n",
            from.spec()
        ),
    );
    place.file(
        "second.yaml",
        format!(
            "name: second\nsource: {{ log: {{ path: between }} }}\nstages: []\nsink: {{ {} }}\ndata_dir: data\ndelivery: exactly_once\n",
            to.spec()
        ),
    );
    let feeder = from.feed(0, 4_000, Duration::from_secs(4));
    for _ in 0..2 {
        let mut host = Host::start(&place, &["second.yaml"]);
        host.until_ready();
        std::thread::sleep(Duration::from_millis(700));
        assert!(host.running.kill().0);
    }
    let mut host = Host::start(&place, &["second.yaml"]);
    feeder.finish();
    let wanted: Vec<u64> = (0..4_000).filter(|n| n % 10 != 9).collect();
    until(&mut host, "all through the chain", || to.messages().len() >= wanted.len());
    host.end();
    assert_eq!(numbers(&to.messages()), wanted);
}

/// Every line of the finished files of a sink.
fn written(place: &Place, folder: &str) -> Vec<serde_json::Value> {
    let Ok(entries) = std::fs::read_dir(place.path(folder)) else { return Vec::new() };
    let paths = entries.map(|e| e.expect("an entry").path());
    let parts = paths.filter(|p| {
        p.extension().is_some_and(|e| e == "jsonl")
            && p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("part-"))
    });
    let texts = parts.map(|path| std::fs::read_to_string(path).expect("a file"));
    texts
        .flat_map(|text| {
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn a_file_beside_a_stream_loses_nothing_that_the_source_has_acknowledged() {
    let Some(redis) = RedisServer::start("a file beside a stream") else { return };
    let redis = shared(redis);
    let (from, to) = (From::Redis(redis.clone()), To::Redis(redis));
    let place = Place::with_plugins(&["drop-ignored"]);
    place.file(
        "pipeline.yaml",
        format!(
            "name: both\nsource: {{ {} }}\nstages: [{{ filter: drop-ignored }}]\nsinks:\n  - {}\n  - file: {{ path: out }}\ndata_dir: data\ndelivery: exactly_once\n",
            from.spec(),
            to.spec()
        ),
    );
    let feeder = from.feed(0, 3_000, Duration::from_secs(3));
    for _ in 0..2 {
        let mut host = Host::start(&place, &[]);
        host.until_ready();
        std::thread::sleep(Duration::from_millis(600));
        assert!(host.running.kill().0);
    }
    let mut host = Host::start(&place, &[]);
    feeder.finish();
    let wanted: Vec<u64> = (0..3_000).filter(|n| n % 10 != 9).collect();
    until(&mut host, "all in the stream", || to.messages().len() >= wanted.len());
    host.end();
    assert_eq!(numbers(&to.messages()), wanted);
    assert_eq!(numbers(&written(&place, "out")), wanted);
}

#[test]
fn two_processes_share_a_topic_and_both_write_to_redis() {
    let Some(redis) = RedisServer::start("two writers") else { return };
    let (from, to) = (From::Kafka(shared(Broker::start())), To::Redis(shared(redis)));
    from.make();
    let place = Place::with_plugins(&["drop-ignored"]);
    place.file(
        "pipeline.yaml",
        format!(
            "name: both\nsource: {{ {} }}\nstages: [{{ filter: drop-ignored }}]\nsink: {{ {} }}\n",
            from.spec(),
            to.spec()
        ),
    );
    let (mut one, mut other) = (Host::start(&place, &[]), Host::start(&place, &[]));
    one.until_ready();
    other.until_ready();
    from.feed(0, 2_000, Duration::from_secs(2)).finish();
    until(&mut one, "all in the stream", || to.messages().len() >= 1_800);
    one.end();
    other.end();
    assert_eq!(numbers(&to.messages()), (0..2_000).filter(|n| n % 10 != 9).collect::<Vec<u64>>());
}

/// What `wasmill run` writes to a stream by the variables alone.
#[track_caller]
fn served(place: &Place, variables: &[(&str, String)], written: impl Fn() -> Vec<serde_json::Value>) {
    let http = free_address();
    let mut service = place.wasmill(["run"]).env("WASMILL_HTTP", http).env("WORKER_COUNT", 2);
    for (name, value) in variables {
        service = service.env(name, value);
    }
    let mut host = Host { running: service.start(), http };
    let mut found = Vec::new();
    until(&mut host, "all answers", || {
        found = written();
        found.len() >= 90
    });
    host.end();
    let totals: Vec<u64> = found
        .iter()
        .map(|m| {
            m["metadata"]["total_count"]
                .as_str()
                .and_then(|n| n.parse().ok())
                .unwrap_or_else(|| panic!("{m}"))
        })
        .collect();
    assert_eq!((found.len(), totals.iter().max()), (90, Some(&50)), "50 departed, 40 cancelled");
    assert!(found.iter().all(|m| m["metadata"]["processed_at"].is_string()));
}

#[test]
fn the_service_runs_on_nats_and_on_redis_by_its_variables() {
    let seed = ["processed-at", "drop-ignored", "count-types"];
    let nats = NatsServer::start();
    client(&["nats-make", &nats.url(), "events", "in.>"]);
    client(&["nats-make", &nats.url(), "done", "processed"]);
    client(&["nats-feed", &nats.url(), "in.a", "0", "100", "0"]);
    let variables = [("BROKER_TYPE", "nats".to_owned()), ("NATS_URL", nats.url())];
    served(&Place::with_plugins(&seed), &variables, || messages(&["nats-read", &nats.url(), "done"]));
    let Some(redis) = RedisServer::start("the service on Redis") else { return };
    client(&["redis-feed", &redis.url(), "events", "0", "100", "0"]);
    let variables = [("BROKER_TYPE", "redis".to_owned()), ("REDIS_URL", redis.url())];
    served(&Place::with_plugins(&seed), &variables, || messages(&["redis-read", &redis.url(), "processed"]));
}

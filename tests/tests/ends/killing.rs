//! kill -9 of wasmill and of the servers at random moments, under load: nothing is missing and nothing is there twice.

use std::collections::BTreeMap;
use std::time::Duration;

use wasmill_tests::http::free_address;
use wasmill_tests::random::Random;

use crate::broker::Broker;
use crate::nats::NatsServer;
use crate::postgres::PostgresServer;
use crate::servers::RedisServer;
use crate::world::{From, Host, Server, Shared, To, World, shared};

/// How many rounds: WASMILL_ENDS_ROUNDS.
fn rounds() -> u32 {
    std::env::var("WASMILL_ENDS_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3)
}

/// How many messages a round has, and what it lasts about.
const ROUND: (u64, Duration) = (3_000, Duration::from_millis(2_500));

/// Kills a server for a moment.
fn outage(server: &Shared<dyn Server>, lasts: Duration) {
    let mut server = server.lock().expect("no panic");
    server.kill();
    std::thread::sleep(lasts);
    server.run();
}

fn survives(what: &str, world: &World) {
    let mut random = Random::shown(what);
    let rounds = rounds();
    let total = ROUND.0 * u64::from(rounds);
    let feeder = world.from.feed(0, total, ROUND.1 * rounds);
    let servers: Vec<Shared<dyn Server>> =
        world.from.server().into_iter().chain([world.to.server()]).collect();
    for round in 0..rounds {
        let mut host = world.start();
        host.until_ready();
        std::thread::sleep(random.millis(50, 800));
        // The source's and the sink's server by turns; where they are one, that one each time.
        outage(&servers[round as usize % servers.len()], random.millis(50, 500));
        std::thread::sleep(random.millis(50, 800));
        let log = host.running.log();
        let (killed, _) = host.running.kill();
        assert!(killed, "it ended by itself in round {round}:\n{}", log.text());
    }
    let last = world.start();
    feeder.finish();
    judge(what, world, total, last);
    println!("{what}: {rounds} kills of the host and of a server, {total} messages: 0 lost, 0 twice");
}

/// Waits for all results of so many messages, ends the host, and expects each result once.
#[track_caller]
pub fn judge(what: &str, world: &World, total: u64, mut host: Host) {
    let wanted: Vec<String> = (0..total).filter(|n| n % 10 != 9).map(|n| n.to_string()).collect();
    world.until_whole(&wanted, &mut host);
    host.end();
    let found = world.to.ids();
    let twice: Vec<_> = found.iter().filter(|(_, n)| **n > 1).take(5).collect();
    assert!(twice.is_empty(), "{what}: there twice, such as {twice:?}");
    assert_eq!(found.len(), wanted.len(), "{what}: others than the wanted");
}

pub const FILTER: &str = "stages: [{ filter: drop-ignored }]\n";
pub const FILTER_ON_DISK: &str = "stages: [{ filter: drop-ignored }]\ndata_dir: data\n";

#[test]
fn nats_to_nats() {
    let server = shared(NatsServer::start());
    let world = World::new(From::Nats(server.clone()), To::Nats(server), FILTER_ON_DISK);
    survives("NATS to NATS", &world);
}

/// What depends on all messages before: one too many or too few is seen in every total behind it.
#[test]
fn nats_to_nats_with_counts() {
    let server = shared(NatsServer::start());
    let stages = "stages:\n  - filter: drop-ignored\n  - key_by: payload.carrier\n  - aggregate: { count: {} }\ndata_dir: data\n";
    let world = World::new(From::Nats(server.clone()), To::Nats(server), stages);
    let mut random = Random::shown("NATS to NATS with counts");
    let total = ROUND.0 * u64::from(rounds());
    let feeder = world.from.feed(0, total, ROUND.1 * rounds());
    for _ in 0..rounds() {
        let mut host = world.start();
        host.until_ready();
        std::thread::sleep(random.millis(50, 1_500));
        outage(&world.to.server(), random.millis(50, 300));
        std::thread::sleep(random.millis(50, 500));
        assert!(host.running.kill().0);
    }
    let mut host = world.start();
    feeder.finish();
    let wanted = (0..total).filter(|n| n % 10 != 9).count();
    host.running.until("all totals", || world.to.messages().len() >= wanted);
    host.end();
    let mut totals: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for message in world.to.messages() {
        let payload = &message["payload"];
        let key = payload["key"].as_str().unwrap_or_else(|| panic!("{message}")).to_owned();
        totals
            .entry(key)
            .or_default()
            .push(payload["value"]["count"].as_u64().unwrap_or_else(|| panic!("{message}")));
    }
    assert_eq!(totals.values().map(Vec::len).sum::<usize>(), wanted);
    for (carrier, totals) in totals {
        assert!(totals.iter().copied().eq(1..=totals.len() as u64), "{carrier}: {totals:?}");
    }
}

#[test]
fn redis_to_redis() {
    let Some(server) = RedisServer::start("Redis to Redis") else { return };
    let server = shared(server);
    let world = World::new(From::Redis(server.clone()), To::Redis(server), FILTER);
    survives("Redis to Redis", &world);
}

#[test]
fn nats_to_postgres() {
    let (from, to) = (shared(NatsServer::start()), shared(PostgresServer::start()));
    survives("NATS to PostgreSQL", &World::new(From::Nats(from), To::Postgres(to), FILTER));
}

#[test]
fn kafka_to_postgres() {
    let (from, to) = (shared(Broker::start()), shared(PostgresServer::start()));
    survives("Kafka to PostgreSQL", &World::new(From::Kafka(from), To::Postgres(to), FILTER));
}

#[test]
fn http_to_postgres() {
    let to = shared(PostgresServer::start());
    survives("HTTP to PostgreSQL", &World::new(From::Http(free_address()), To::Postgres(to), FILTER));
}

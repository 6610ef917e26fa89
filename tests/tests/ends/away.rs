//! An end that is away is waited for, and one that two processes want has one owner.

use std::time::Duration;

use wasmill_tests::http::free_address;
use wasmill_tests::{Place, Signal};

use crate::killing::{FILTER, FILTER_ON_DISK, judge};
use crate::nats::NatsServer;
use crate::postgres::PostgresServer;
use crate::servers::RedisServer;
use crate::world::{From, Host, To, World, shared};

/// The server behind a sink dies under load and stays away for longer than NATS remembers ids by itself.
fn waits_for_a_sink(what: &str, to: To, stages: &str, tells: &str) {
    let world = World::new(From::Http(free_address()), to, stages);
    let mut host = world.start();
    host.until_ready();
    let feeder = world.from.feed(0, 2_000, Duration::from_secs(2));
    std::thread::sleep(Duration::from_millis(500));
    let server = world.to.server();
    server.lock().expect("no panic").kill();
    let (mut last, since): (Option<(u16, String)>, _) = (None, std::time::Instant::now());
    while !matches!(&last, Some((503, text)) if text.contains(tells)) {
        assert!(since.elapsed() < Duration::from_secs(20), "{what}: {last:?}");
        std::thread::sleep(Duration::from_millis(50));
        last = host.ready();
    }
    // A POST is answered all the same: it is in the source's log.
    feeder.finish();
    std::thread::sleep(Duration::from_secs(2));
    server.lock().expect("no panic").run();
    host.until_ready();
    judge(what, &world, 2_000, host);
}

#[test]
fn nats_is_waited_for_longer_than_it_remembers_ids() {
    waits_for_a_sink("NATS away", To::Nats(shared(NatsServer::start())), FILTER_ON_DISK, "nats");
}

#[test]
fn redis_is_waited_for() {
    let Some(server) = RedisServer::start("Redis away") else { return };
    waits_for_a_sink("Redis away", To::Redis(shared(server)), FILTER_ON_DISK, "redis");
}

#[test]
fn postgres_is_waited_for() {
    waits_for_a_sink("PostgreSQL away", To::Postgres(shared(PostgresServer::start())), FILTER, "postgres");
}

#[test]
fn what_a_stalled_process_holds_of_a_redis_stream_is_taken_over_and_it_writes_nothing_twice() {
    let Some(server) = RedisServer::start("a stalled consumer") else { return };
    let server = shared(server);
    let world = World::new(From::Redis(server.clone()), To::Redis(server), FILTER);
    let mut stalled = world.start();
    stalled.until_ready();
    let mut other = world.start();
    other.until_ready();
    let feeder = world.from.feed(0, 4_000, Duration::from_secs(4));
    std::thread::sleep(Duration::from_millis(900));
    assert!(stalled.running.signal(Signal::STOP));
    feeder.finish();
    let wanted: Vec<String> = (0..4_000).filter(|n| n % 10 != 9).map(|n| n.to_string()).collect();
    world.until_whole(&wanted, &mut other);
    assert!(stalled.running.signal(Signal::CONT));
    std::thread::sleep(Duration::from_secs(1));
    stalled.end();
    judge("a stalled consumer", &world, 4_000, other);
}

#[test]
fn who_takes_a_stream_over_ends_who_had_it() {
    let server = shared(NatsServer::start());
    let world = World::new(From::Nats(server.clone()), To::Nats(server), FILTER_ON_DISK);
    let mut first = world.start();
    first.until_ready();
    let feeder = world.from.feed(0, 3_000, Duration::from_secs(3));
    std::thread::sleep(Duration::from_millis(500));
    // On another machine, as it were: with a data directory of its own.
    let elsewhere = Place::with_plugins(&["drop-ignored"]);
    elsewhere.file("pipeline.yaml", world.place.text("pipeline.yaml"));
    let mut second = Host::start(&elsewhere, &[]);
    second.until_ready();
    first.running.wait().exits(6).says(&["events", "another"]);
    feeder.finish();
    second.end();
}

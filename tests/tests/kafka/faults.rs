//! What a broker does to its clients: it dies, hangs, has no such topic, doesn't take a message.

use std::time::Duration;

use crate::broker::Broker;
use crate::world::{
    FOR_EVER, Feeder, Host, PARTITIONS, SERVICE, STATELESS, World, greatest_totals, judge, read_all,
    shared_broker,
};

/// How long the broker is stopped: WASMILL_STOP_SECONDS.
fn stop_time() -> Duration {
    let given = std::env::var("WASMILL_STOP_SECONDS").ok().and_then(|n| n.parse().ok());
    Duration::from_secs(given.unwrap_or(15))
}

fn counting(world: &World) -> Host {
    world.start_with(|service| service.env("DATA_DIR", "data"))
}

#[test]
fn a_broker_that_dies_or_hangs_is_waited_for_and_nothing_is_lost() {
    let mut broker = Broker::start();
    let world = World::new(&broker, &SERVICE);
    let mut feeder = Feeder::new(&world);
    let mut host = counting(&world);
    host.until_ready_is(200, &[]);
    feeder.feed(20_000);

    broker.kill();
    host.until_ready_is(503, &[&world.address]);
    broker.run();
    host.until_ready_is(200, &[]);
    feeder.feed(20_000);
    world.until_whole(&feeder.sent, &mut host);

    feeder.feed(20_000);
    broker.freeze();
    let since = std::time::Instant::now();
    host.until_ready_is(503, &[&world.address]);
    std::thread::sleep(stop_time().saturating_sub(since.elapsed()));
    broker.thaw();
    host.until_ready_is(200, &[]);
    feeder.feed(20_000);
    let found = world.until_whole(&feeder.sent, &mut host);
    let repeats = judge(&found, &feeder.sent);
    println!("a broker that was killed and stopped: {repeats} repeated");
    assert_eq!(greatest_totals(&found), feeder.sent.totals());
}

#[test]
fn a_topic_that_is_missing_is_told_and_waited_for() {
    let broker = shared_broker();
    let world = World::without_topics(&broker, &SERVICE);
    let mut host = counting(&world);
    // The ends are opened one after the other, the sink first.
    host.until_ready_is(503, &[&world.output()]);
    broker.create_topic(&world.output(), PARTITIONS as i32, &[FOR_EVER]);
    host.until_ready_is(503, &[&world.input()]);
    broker.create_topic(&world.input(), PARTITIONS as i32, &[FOR_EVER]);
    host.until_ready_is(200, &[]);
    let mut feeder = Feeder::new(&world);
    feeder.feed(1_000);
    let found = world.until_whole(&feeder.sent, &mut host);
    assert_eq!(judge(&found, &feeder.sent), 0);
}

/// A world with an output topic that takes small messages alone.
fn small(broker: &Broker) -> World {
    let world = World::without_topics(broker, &STATELESS);
    broker.create_topic(&world.input(), PARTITIONS as i32, &[FOR_EVER]);
    broker.create_topic(&world.output(), PARTITIONS as i32, &[FOR_EVER, ("max.message.bytes", "5000")]);
    world
}

/// A message that the output topic does not take, by kcat.
fn send_large(world: &World) {
    let large = format!(r#"{{"id":"large","type":"click","payload":"{}"}}"#, "x".repeat(20_000));
    crate::foreign::kcat(world, &["-P", "-t", &world.input(), "-p", "0"], &(large + "\n"));
}

#[test]
fn a_message_over_the_brokers_limit_becomes_a_dead_letter() {
    let broker = shared_broker();
    let world = small(&broker);
    broker.create_topic(&world.dead_letters(), 1, &[FOR_EVER]);
    let mut feeder = Feeder::new(&world);
    feeder.feed(500);
    send_large(&world);
    feeder.feed(500);
    let mut host = world.start_with(|service| service.env("KAFKA_DLQ_TOPIC", world.dead_letters()));
    let found = world.until_whole(&feeder.sent, &mut host);
    judge(&found, &feeder.sent);
    let dead = until_dead(&world, &mut host);
    assert!(dead.contains("\"id\\\":\\\"large") && dead.contains("max.message.bytes"), "{dead}");
}

/// Waits for a dead letter; answers the topic's text, headers included.
fn until_dead(world: &World, host: &mut Host) -> String {
    let mut text = String::new();
    host.running.until("a dead letter", || {
        let dead = read_all(&world.address, &world.dead_letters());
        text = dead.iter().map(|one| format!("{} {:?}\n", one.text, one.headers)).collect();
        !dead.is_empty()
    });
    text
}

#[test]
fn a_dead_letter_topic_that_is_missing_holds_the_pipeline_until_it_is_there() {
    let broker = shared_broker();
    let world = small(&broker);
    let mut feeder = Feeder::new(&world);
    feeder.feed(500);
    send_large(&world);
    let mut host = world.start_with(|service| service.env("KAFKA_DLQ_TOPIC", world.dead_letters()));
    host.until_ready_is(503, &[&world.dead_letters()]);
    broker.create_topic(&world.dead_letters(), 1, &[FOR_EVER]);
    host.until_ready_is(200, &[]);
    feeder.feed(500);
    let found = world.until_whole(&feeder.sent, &mut host);
    judge(&found, &feeder.sent);
    let dead = until_dead(&world, &mut host);
    assert!(dead.contains("large"), "{dead}");
}

//! What a broker does to its clients: it dies, hangs, has no such topic, doesn't take a message.

use std::time::Duration;

use crate::broker::{Broker, kcat};
use crate::servers::RedisServer;
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
    // The ends are opened one after the other, the source first.
    host.until_ready_is(503, &[&world.input()]);
    broker.create_topic(&world.input(), PARTITIONS as i32, &[FOR_EVER]);
    host.until_ready_is(503, &[&world.output()]);
    broker.create_topic(&world.output(), PARTITIONS as i32, &[FOR_EVER]);
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
    kcat(&world.address, &["-P", "-t", &world.input(), "-p", "0"], &(large + "\n"));
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
    // Partition 0 had a fourth of the 500 before it.
    assert!(dead.contains("\"offset\":125") && dead.contains(&format!("{}[0]", world.input())), "{dead}");
}

#[test]
fn a_dead_letter_over_the_limit_of_its_topic_is_cut() {
    let broker = shared_broker();
    let world = small(&broker);
    // Less than the head of the message that a dead letter has at first.
    broker.create_topic(&world.dead_letters(), 1, &[FOR_EVER, ("max.message.bytes", "9000")]);
    let mut feeder = Feeder::new(&world);
    send_large(&world);
    feeder.feed(500);
    let mut host = world.start_with(|service| service.env("KAFKA_DLQ_TOPIC", world.dead_letters()));
    let found = world.until_whole(&feeder.sent, &mut host);
    judge(&found, &feeder.sent);
    let dead = until_dead(&world, &mut host);
    let letter: serde_json::Value =
        serde_json::from_str(dead.split(" [").next().expect("JSON")).expect("JSON");
    let body = &letter["payload"];
    assert_eq!((&body["cut"], &body["kind"]), (&true.into(), &"refused".into()), "{dead}");
    assert_eq!((&body["offset"], &body["partition"]), (&0.into(), &format!("{}[0]", world.input()).into()));
    for (field, part) in
        [("/reason", "max.message.bytes"), ("/refused", &world.dead_letters()), ("/original/value", "large")]
    {
        let text = body.pointer(field).and_then(|value| value.as_str()).unwrap_or_default();
        assert!(text.contains(part), "{field}: no {part} in {dead}");
    }
}

#[test]
fn a_dead_letter_that_its_topic_never_takes_stops_the_pipeline() {
    let broker = shared_broker();
    let world = small(&broker);
    broker.create_topic(&world.dead_letters(), 1, &[FOR_EVER, ("max.message.bytes", "1000")]);
    send_large(&world);
    let start = || world.start_with(|service| service.env("KAFKA_DLQ_TOPIC", world.dead_letters()));
    // Whenever it is run: what it can't keep is never committed.
    for _ in 0..2 {
        let stopped = start().running.wait().exits(1);
        stopped.says(&[
            "a dead letter is refused, even cut",
            "raise the topic's max.message.bytes",
            "nothing is lost",
        ]);
    }
}

#[test]
fn dead_letters_wait_for_their_brokers_and_the_pipeline_with_them() {
    let broker = shared_broker();
    let mut other = Broker::start();
    let world = small(&broker);
    other.create_topic(&world.dead_letters(), 1, &[FOR_EVER]);
    let mut feeder = Feeder::new(&world);
    let mut host = world.start_with(|service| {
        service
            .env("KAFKA_DLQ_TOPIC", world.dead_letters())
            .env("WASMILL_DEAD_LETTER__KAFKA__BROKERS", other.address())
    });
    feeder.feed(500);
    world.until_whole(&feeder.sent, &mut host);
    other.kill();
    send_large(&world);
    host.until_ready_is(503, &["dead_letter", &other.address()]);
    feeder.feed(500);
    other.run();
    host.until_ready_is(200, &[]);
    let found = world.until_whole(&feeder.sent, &mut host);
    judge(&found, &feeder.sent);
    let dead = read_all(&other.address(), &world.dead_letters());
    assert!(dead.iter().any(|one| one.text.contains("large")), "{dead:?}");
}

#[test]
fn a_header_whose_name_is_not_utf_8_makes_a_dead_letter_and_its_neighbours_go_on() {
    use std::ffi::{OsStr, OsString};
    use std::os::unix::ffi::OsStrExt as _;
    let broker = shared_broker();
    let world = World::new(&broker, &STATELESS);
    broker.create_topic(&world.dead_letters(), 1, &[FOR_EVER]);
    let mut feeder = Feeder::new(&world);
    feeder.feed(500);
    let odd: Vec<OsString> = ["-P", "-t", &world.input(), "-p", "0", "-H"]
        .into_iter()
        .map(OsString::from)
        .chain([OsStr::from_bytes(b"na\xffme=1").to_owned()])
        .collect();
    kcat(&world.address, &odd, "{\"id\":\"odd\",\"type\":\"click\",\"payload\":1}\n");
    feeder.feed(500);
    let mut host = world.start_with(|service| service.env("KAFKA_DLQ_TOPIC", world.dead_letters()));
    let found = world.until_whole(&feeder.sent, &mut host);
    assert_eq!(judge(&found, &feeder.sent), 0, "and nothing else comes out");
    let dead = until_dead(&world, &mut host);
    assert!(dead.contains("the name of one of its headers is not UTF-8") && dead.contains("odd"), "{dead}");
}

#[test]
fn a_redis_that_hangs_or_dies_is_waited_for_and_its_counts_are_exact() {
    let Some(mut redis) = RedisServer::start("Redis under faults") else { return };
    let broker = shared_broker();
    let world = World::new(&broker, &SERVICE);
    let mut feeder = Feeder::new(&world);
    let mut host = world
        .start_with(|service| service.env("USE_DISTRIBUTED_STATE", "true").env("REDIS_URL", redis.url()));
    host.until_ready_is(200, &[]);
    let sent = std::thread::scope(|threads| {
        let feeding = threads.spawn(|| {
            feeder.feed_over(60_000, Duration::from_secs(15));
            feeder.sent.clone()
        });
        std::thread::sleep(Duration::from_secs(2));
        redis.freeze();
        host.until_ready_is(503, &["the store", &redis.port.to_string()]);
        redis.thaw();
        host.until_ready_is(200, &[]);
        for _ in 0..2 {
            redis.kill();
            host.until_ready_is(503, &["the store", &redis.port.to_string()]);
            redis.restart();
            host.until_ready_is(200, &[]);
        }
        feeding.join().expect("the feeder")
    });
    let found = world.until_whole(&sent, &mut host);
    assert_eq!(judge(&found, &sent), 0, "one process that lives repeats nothing");
    assert_eq!(greatest_totals(&found), sent.totals());
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

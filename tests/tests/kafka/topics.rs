//! What becomes of the topic: it is deleted and made anew, it is given more partitions.

use wasmill_tests::Signal;
use wasmill_tests::http::free_address;
use wasmill_tests::process::Wasmill;

use crate::broker::{Broker, kcat};
use crate::world::{
    FOR_EVER, Feeder, Found, Host, PARTITIONS, SERVICE, STATELESS, World, greatest_totals, judge, read_all,
    shared_broker,
};

fn on_disk(service: Wasmill) -> Wasmill {
    service.env("DATA_DIR", "data")
}

fn create(broker: &Broker, topic: &str) {
    broker.create_topic(topic, PARTITIONS as i32, &[FOR_EVER]);
}

fn end(mut host: Host) {
    assert!(host.running.signal(Signal::TERM), "it runs");
    host.running.wait().exits(0);
}

/// Both topics anew, so that what is found next is of the new ones.
fn make_anew(broker: &Broker, world: &World) {
    for topic in [world.input(), world.output()] {
        broker.delete_topic(&topic);
        create(broker, &topic);
    }
}

#[test]
fn a_topic_made_anew_between_two_runs_is_refused_by_state_until_it_is_reset() {
    let broker = shared_broker();
    let world = World::new(&broker, &SERVICE);
    let mut feeder = Feeder::new(&world);
    let mut host = world.start_with(on_disk);
    feeder.feed(1_000);
    world.until_whole(&feeder.sent, &mut host);
    end(host);

    make_anew(&broker, &world);
    // More than before: the stored offsets are all inside the new log.
    let mut feeder = Feeder::new(&world);
    feeder.feed(2_000);
    let refused = world.start_with(on_disk).running.wait().exits(4);
    refused.says(&["is not the log that was read before", &format!("{}#", world.input()), "`wasmill reset`"]);

    let reset = on_disk(world.command(&["reset", "--yes"], free_address())).run().exits(0);
    reset.says(&["the next run starts anew"]);
    let mut host = world.start_with(on_disk);
    let found = world.until_whole(&feeder.sent, &mut host);
    assert_eq!(judge(&found, &feeder.sent), 0, "nothing is repeated");
    assert_eq!(greatest_totals(&found), feeder.sent.totals());
    end(host);
}

#[test]
fn a_topic_made_anew_between_two_runs_is_read_from_its_start_where_the_group_has_the_positions() {
    let broker = shared_broker();
    let world = World::new(&broker, &STATELESS);
    let mut feeder = Feeder::new(&world);
    let mut host = world.start();
    feeder.feed(1_000);
    world.until_whole(&feeder.sent, &mut host);
    end(host);

    // Kafka drops a group's offsets with the topic.
    make_anew(&broker, &world);
    let mut feeder = Feeder::new(&world);
    feeder.feed(2_000);
    let mut host = world.start();
    let found = world.until_whole(&feeder.sent, &mut host);
    assert_eq!(judge(&found, &feeder.sent), 0, "nothing is repeated");
    end(host);
}

#[test]
fn a_topic_made_anew_while_it_is_read_ends_a_pipeline_with_state() {
    let broker = shared_broker();
    let world = World::new(&broker, &SERVICE);
    let mut host = world.start_with(on_disk);
    host.until_ready_is(200, &[]);
    // Nothing is read yet, so that its offsets are inside the new log too: its id alone tells.
    broker.delete_topic(&world.input());
    create(&broker, &world.input());
    let ended = host.running.wait().exits(1);
    ended.says(&["was deleted and made anew", &format!("{}#", world.input()), "`wasmill reset`"]);
}

#[test]
fn a_topic_that_is_deleted_is_waited_for_and_read_anew_where_the_group_has_the_positions() {
    let broker = shared_broker();
    let world = World::new(&broker, &STATELESS);
    let mut feeder = Feeder::new(&world);
    let mut host = world.start();
    feeder.feed(1_000);
    world.until_whole(&feeder.sent, &mut host);

    broker.delete_topic(&world.input());
    host.until_ready_is(503, &[&format!("topic {} does not exist", world.input())]);
    create(&broker, &world.input());
    let mut feeder = Feeder::new(&world);
    feeder.feed(2_000);
    host.until_ready_is(200, &[]);
    // The first thousand came twice: once of each topic.
    let wanted = feeder.sent.passing().count() + feeder.sent.passing().count() / 2;
    host.running.until("both topics", || read_all(&world.address, &world.output()).len() >= wanted - 1);
    let found = world.until_whole(&feeder.sent, &mut host);
    judge(&found, &feeder.sent);
    assert!(host.running.log().says("made anew"), "it is told:\n{}", host.running.log().text());
    end(host);
}

/// Messages of their own in a partition, by kcat.
fn put(world: &World, partition: u32, ids: &[String]) {
    let lines: String =
        ids.iter().map(|id| format!("{{\"id\":\"{id}\",\"type\":\"new\",\"payload\":1}}\n")).collect();
    kcat(&world.address, &["-P", "-t", &world.input(), "-p", &partition.to_string()], &lines);
}

fn ids(partition: u32, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("new-{partition}-{n}")).collect()
}

fn until_there(world: &World, host: &mut Host, ids: &[String]) -> Vec<Found> {
    let mut found = Vec::new();
    host.running.until("what is in the new partitions", || {
        found = read_all(&world.address, &world.output());
        ids.iter().all(|id| found.iter().any(|one| one.id() == id))
    });
    found
}

/// Two new partitions, while it runs and between two runs.
fn takes_new_partitions_in(plugins: &[&str], with: impl Fn(Wasmill) -> Wasmill) -> Vec<Found> {
    let broker = shared_broker();
    let world = World::new(&broker, plugins);
    let mut feeder = Feeder::new(&world);
    let mut host = world.start_with(&with);
    feeder.feed(1_000);
    world.until_whole(&feeder.sent, &mut host);

    let running = ids(PARTITIONS, 50);
    broker.grow_topic(&world.input(), PARTITIONS as i32 + 1);
    put(&world, PARTITIONS, &running);
    until_there(&world, &mut host, &running);
    feeder.feed(1_000);
    world.until_whole(&feeder.sent, &mut host);
    end(host);

    let between = ids(PARTITIONS + 1, 50);
    broker.grow_topic(&world.input(), PARTITIONS as i32 + 2);
    put(&world, PARTITIONS + 1, &between);
    let mut host = world.start_with(&with);
    let found = until_there(&world, &mut host, &between);
    end(host);
    assert!(feeder.sent.passing().all(|id| found.iter().any(|one| one.id() == id)));
    assert!(running.iter().all(|id| found.iter().any(|one| one.id() == id)));
    found
}

#[test]
fn new_partitions_are_taken_in_by_what_the_group_shares_out() {
    takes_new_partitions_in(&STATELESS, |service| service);
}

#[test]
fn new_partitions_are_taken_in_by_what_keeps_its_counts_on_disk() {
    let found = takes_new_partitions_in(&SERVICE, on_disk);
    assert_eq!(greatest_totals(&found)["new"], 100, "each is counted once");
}

#[test]
fn new_partitions_are_taken_in_by_what_keeps_its_counts_in_memory() {
    let broker = shared_broker();
    let world = World::new(&broker, &SERVICE);
    let mut host = world.start();
    put(&world, 0, &ids(0, 50));
    until_there(&world, &mut host, &ids(0, 50));
    broker.grow_topic(&world.input(), PARTITIONS as i32 + 1);
    put(&world, PARTITIONS, &ids(PARTITIONS, 50));
    let found = until_there(&world, &mut host, &ids(PARTITIONS, 50));
    assert_eq!(found.len(), 100, "nothing is read again");
    assert_eq!(greatest_totals(&found)["new"], 100);
    end(host);
}

#[test]
fn positions_with_the_group_are_forgotten_by_reset_once_nobody_is_in_it() {
    let broker = shared_broker();
    let world = World::new(&broker, &STATELESS);
    let mut feeder = Feeder::new(&world);
    let mut host = world.start();
    feeder.feed(1_000);
    world.until_whole(&feeder.sent, &mut host);
    let reset = || world.command(&["reset", "--yes"], free_address()).run();
    reset().exits(4).says(&[format!("group {} has members: wasmill", world.name), "stop them".to_owned()]);
    end(host);

    reset().exits(0).says(&["the next run starts anew"]);
    let mut host = world.start();
    let twice = feeder.sent.passing().count() * 2;
    host.running.until("all of it again", || read_all(&world.address, &world.output()).len() >= twice);
    let found = world.until_whole(&feeder.sent, &mut host);
    assert_eq!(judge(&found, &feeder.sent) * 2, twice, "once more, and no more");
    end(host);
}

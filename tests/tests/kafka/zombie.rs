//! A process that is stopped for longer than its session lasts, and goes on as if nothing had been.

use std::time::Duration;

use wasmill_tests::Signal;
use wasmill_tests::process::Wasmill;

use crate::group::goes_on_exactly;
use crate::servers::RedisServer;
use crate::world::{Feeder, SERVICE, STATELESS, World, judge, shared_broker};

/// Far above the session's two seconds.
const STOPPED: Duration = Duration::from_secs(6);

/// Stops one of two processes under load, with messages on their way in it; both end in order.
fn wakes_up(what: &str, world: &World, feeder: &mut Feeder, with: impl Fn(Wasmill) -> Wasmill) {
    let mut zombie = world.start_with(&with);
    let mut other = world.start_with(&with);
    zombie.until_ready_is(200, &[]);
    other.until_ready_is(200, &[]);
    std::thread::scope(|threads| {
        threads.spawn(|| feeder.feed_over(60_000, STOPPED * 2));
        std::thread::sleep(STOPPED / 3);
        assert!(zombie.running.signal(Signal::STOP), "it runs");
        // Its partitions go to the other one meanwhile, which reads them on.
        std::thread::sleep(STOPPED);
        assert!(zombie.running.signal(Signal::CONT), "it is there still");
    });
    let found = world.until_whole(&feeder.sent, &mut other);
    println!("{what}: {} repeated", judge(&found, &feeder.sent));
    let log = zombie.running.log();
    zombie.running.until("that it has lost its partitions", || log.says("partitions lost"));
    zombie.until_ready_is(200, &[]);
    // It is of use again.
    feeder.feed(4_000);
    let found = world.until_whole(&feeder.sent, &mut zombie);
    judge(&found, &feeder.sent);
    for mut host in [zombie, other] {
        assert!(host.running.signal(Signal::TERM), "it goes on:\n{}", host.running.log().text());
        host.running.wait().exits(0);
    }
}

#[test]
fn a_process_that_was_stopped_past_its_session_loses_nothing() {
    let broker = shared_broker();
    let world = World::new(&broker, &STATELESS);
    wakes_up("a stopped process", &world, &mut Feeder::new(&world), |service| service);
}

#[test]
fn a_process_that_was_stopped_past_its_session_adds_nothing_to_shared_counts() {
    let Some(redis) = RedisServer::start("a stopped process") else { return };
    let broker = shared_broker();
    let world = World::new(&broker, &SERVICE);
    let mut feeder = Feeder::new(&world);
    let counting =
        |service: Wasmill| service.env("USE_DISTRIBUTED_STATE", "true").env("REDIS_URL", redis.url());
    wakes_up("a stopped process with counts in Redis", &world, &mut feeder, counting);
    goes_on_exactly(&world, &mut feeder, counting);
}

//! kill -9 at random moments, under load: nothing is missing, and the counts are right at the end.

use std::time::Duration;

use wasmill_tests::process::Wasmill;
use wasmill_tests::random::Random;

use crate::servers::RedisServer;
use crate::world::{Feeder, SERVICE, World, greatest_totals, judge, judge_order, rounds, shared_broker};

const MESSAGES: u64 = 200_000;
/// What a round lasts about: a process that was killed is missed after two seconds.
const ROUND: Duration = Duration::from_millis(3_000);

fn survives(what: &str, state: impl Fn(Wasmill) -> Wasmill) {
    let broker = shared_broker();
    let world = World::new(&broker, &SERVICE);
    let mut random = Random::shown(what);
    let mut feeder = Feeder::new(&world);
    let rounds = rounds();
    let sent = std::thread::scope(|threads| {
        let feeding = threads.spawn(|| {
            feeder.feed_over(MESSAGES, ROUND * rounds);
            feeder.sent.clone()
        });
        for round in 0..rounds {
            let mut host = world.start_with(&state);
            // One that has no partition yet has nothing to lose.
            host.until_ready_is(200, &[]);
            std::thread::sleep(random.millis(50, 1_500));
            let log = host.running.log();
            let (killed, _) = host.running.kill();
            assert!(killed, "it ended by itself in round {round}:\n{}", log.text());
        }
        feeding.join().expect("the feeder")
    });
    let mut last = world.start_with(&state);
    let found = world.until_whole(&sent, &mut last);
    let repeats = judge(&found, &sent);
    assert_eq!(greatest_totals(&found), sent.totals(), "the greatest total_count of each type");
    judge_order(&world.address, &world.output());
    println!(
        "{what}: {rounds} kills, {} of {MESSAGES} messages pass, {repeats} repeated",
        found.len() - repeats
    );
}

#[test]
fn kill_9_with_counts_on_disk_loses_nothing_and_counts_right() {
    survives("counts on disk", |service| service.env("DATA_DIR", "data"));
}

#[test]
fn kill_9_with_counts_in_redis_loses_nothing_and_counts_right() {
    let Some(redis) = RedisServer::start("kill -9 with counts in Redis") else { return };
    survives("counts in Redis", |service| {
        service.env("USE_DISTRIBUTED_STATE", "true").env("REDIS_URL", redis.url())
    });
}

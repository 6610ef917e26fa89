//! Several processes of one group.

use std::collections::BTreeMap;
use std::time::Duration;

use wasmill_tests::Signal;
use wasmill_tests::process::Wasmill;
use wasmill_tests::random::Random;

use crate::servers::RedisServer;
use crate::world::{
    Feeder, Host, KINDS, PARTITIONS, SERVICE, STATELESS, World, greatest_totals, judge, read_all, rounds,
    shared_broker,
};

const ROUND: Duration = Duration::from_millis(2_000);

/// Lets a process go, in order or not.
fn leave(host: Host, kindly: bool) {
    let mut running = host.running;
    if kindly {
        assert!(running.signal(Signal::TERM), "it runs");
        running.wait().exits(0);
    } else {
        running.kill();
    }
}

fn joins_and_leaves(processes: usize) {
    let what = format!("{processes} processes join and leave");
    let broker = shared_broker();
    let world = World::new(&broker, &STATELESS);
    let mut random = Random::shown(&what);
    let mut feeder = Feeder::new(&world);
    let rounds = rounds();
    let mut hosts: Vec<Host> = (0..processes).map(|_| world.start()).collect();
    let sent = std::thread::scope(|threads| {
        let feeding = threads.spawn(|| {
            feeder.feed_over(u64::from(rounds) * 10_000, ROUND * rounds);
            feeder.sent.clone()
        });
        for round in 0..rounds {
            std::thread::sleep(random.millis(500, 2_000));
            leave(hosts.remove(0), round % 2 == 0);
            std::thread::sleep(random.millis(0, 1_000));
            hosts.push(world.start());
        }
        feeding.join().expect("the feeder")
    });
    let found = world.until_whole(&sent, &mut hosts[0]);
    let repeats = judge(&found, &sent);
    println!("{what}: {rounds} times, {} messages pass, {repeats} repeated", found.len() - repeats);
    for mut host in hosts {
        assert!(host.running.is_running(), "it goes on:\n{}", host.running.log().text());
        leave(host, true);
    }
}

#[test]
fn two_stateless_processes_join_and_leave_and_lose_nothing() {
    joins_and_leaves(2);
}

#[test]
fn three_stateless_processes_join_and_leave_and_lose_nothing() {
    joins_and_leaves(3);
}

#[test]
fn two_processes_share_counts_in_redis_and_one_is_killed() {
    let Some(redis) = RedisServer::start("shared counts") else { return };
    let broker = shared_broker();
    let world = World::new(&broker, &SERVICE);
    let counting =
        |service: Wasmill| service.env("USE_DISTRIBUTED_STATE", "true").env("REDIS_URL", redis.url());
    let mut feeder = Feeder::new(&world);
    let first = world.start_with(counting);
    let mut second = world.start_with(counting);
    std::thread::scope(|threads| {
        threads.spawn(|| feeder.feed_over(60_000, Duration::from_secs(8)));
        std::thread::sleep(Duration::from_secs(4));
        let log = first.running.log();
        assert!(first.running.kill().0, "it ran until it was killed:\n{}", log.text());
    });
    let found = world.until_whole(&feeder.sent, &mut second);
    println!("shared counts: {} repeated", judge(&found, &feeder.sent));
    leave(second, true);
    goes_on_exactly(&world, &mut feeder, counting);
}

/// Starts a third process, feeds one message more of each kind and expects the next numbers.
pub fn goes_on_exactly(world: &World, feeder: &mut Feeder, counting: impl Fn(Wasmill) -> Wasmill) {
    let before = read_all(&world.address, &world.output()).len();
    let totals = feeder.sent.totals();
    let mut third = world.start_with(counting);
    // Enough for one of each kind at least, in every partition.
    feeder.feed(u64::from(PARTITIONS) * KINDS.len() as u64 * 3);
    let found = world.until_whole(&feeder.sent, &mut third);
    let new = found.len() - before;
    let wanted: u64 = feeder.sent.totals().values().sum::<u64>() - totals.values().sum::<u64>();
    assert_eq!(new as u64, wanted, "an ordered end leaves nothing to repeat");
    let ids: std::collections::HashSet<String> = feeder.sent.passing().collect();
    assert!(found.iter().all(|one| ids.contains(one.id())));
    let mut after: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for one in found.iter().filter(|one| one.total() > totals[one.kind()]) {
        after.entry(one.kind().to_owned()).or_default().push(one.total());
    }
    for (kind, mut numbers) in after {
        numbers.sort_unstable();
        let expected: Vec<u64> = (totals[&kind] + 1..=feeder.sent.totals()[&kind]).collect();
        assert_eq!(numbers, expected, "{kind}: the numbers go on where the totals were");
    }
    assert_eq!(greatest_totals(&found), feeder.sent.totals());
    leave(third, true);
}

#[test]
fn a_second_process_of_a_group_that_keeps_counts_on_disk_is_refused() {
    let broker = shared_broker();
    let world = World::new(&broker, &SERVICE);
    let mut feeder = Feeder::new(&world);
    let mut first = world.start_with(|service| service.env("DATA_DIR", "data"));
    feeder.feed(1_000);
    world.until_whole(&feeder.sent, &mut first);
    let second = world.start_with(|service| service.env("DATA_DIR", "other"));
    let refused = second.running.wait();
    assert_eq!(refused.code, Some(4), "{}", refused.stderr);
    refused.says(&[format!("group {} has other members", world.name), "must read all partitions".to_owned()]);
    feeder.feed(1_000);
    let found = world.until_whole(&feeder.sent, &mut first);
    assert_eq!(judge(&found, &feeder.sent), 0, "nothing is repeated");
    assert_eq!(greatest_totals(&found), feeder.sent.totals());
    leave(first, true);
}

//! What happens to brokers, to processes that were away, and between several of them.

use std::time::{Duration, Instant};

use wasmill_tests::Signal;
use wasmill_tests::process::Log;
use wasmill_tests::proxy::{END_TXN, Proxy};
use wasmill_tests::random::Random;

use super::{Exact, Job, rounds};
use crate::broker::Broker;
use crate::world::{Host, shared_broker};

/// Messages a second.
const RATE: u64 = 3_000;
/// Far above the session's two seconds.
const STOPPED: Duration = Duration::from_secs(5);

fn start_as(exact: &Exact, slot: &str) -> Host {
    let mut host = exact.start_with(|w| w.env("WASMILL_SLOT", slot));
    host.until_ready_is(200, &[]);
    host
}

/// One of two processes is stopped for longer than its session, or its transaction, lasts; the other one takes
/// over meanwhile.
fn wakes_up(what: &str, more: &str, stopped: Duration) {
    let broker = shared_broker();
    let exact = Exact::new(&broker, Job::Copies, 4);
    exact.write_spec_to(&broker.address(), more, "");
    let since = Instant::now();
    let mut hosts = [start_as(&exact, "one"), start_as(&exact, "two")];
    exact.while_fed(RATE, || {
        std::thread::sleep(Duration::from_secs(2));
        assert!(hosts[0].running.signal(Signal::STOP), "it runs");
        std::thread::sleep(stopped);
        assert!(hosts[0].running.signal(Signal::CONT), "it is there still");
        std::thread::sleep(Duration::from_secs(2));
    });
    exact.close();
    let found = exact.until_whole_of(&mut hosts);
    exact.is_exact(what, &found, 1, since);
    hosts.into_iter().for_each(|host| _ = host.end());
}

#[test]
fn a_process_that_was_stopped_past_its_session_doubles_nothing() {
    wakes_up("a zombie past its session", "", STOPPED);
}

#[test]
fn a_process_that_was_stopped_past_its_transaction_doubles_nothing() {
    wakes_up("a zombie past its transaction", "properties: { transaction.timeout.ms: 3000 }", STOPPED * 2);
}

#[test]
fn the_older_of_two_processes_with_one_slot_ends_with_a_code_of_its_own() {
    let broker = shared_broker();
    let exact = Exact::new(&broker, Job::Copies, 4);
    let since = Instant::now();
    let older = start_as(&exact, "same");
    let mut newer = exact.while_fed(RATE, || {
        std::thread::sleep(Duration::from_secs(1));
        let newer = start_as(&exact, "same");
        older.running.wait().exits(6).says(&["another process writes as", "WASMILL_SLOT"]);
        newer
    });
    exact.close();
    let found = exact.until_whole(&mut newer);
    exact.is_exact("two processes with one slot", &found, 1, since);
    newer.end();
}

#[test]
fn processes_that_join_and_leave_lose_and_double_nothing() {
    let broker = shared_broker();
    let exact = Exact::new(&broker, Job::Copies, 9);
    let (rounds, since) = (rounds(), Instant::now());
    let mut random = Random::shown("join and leave");
    let mut hosts: Vec<Host> = ["a", "b", "c"].iter().map(|slot| start_as(&exact, slot)).collect();
    exact.while_fed(RATE, || {
        for round in 0..rounds {
            std::thread::sleep(random.millis(500, 3_000));
            let left = hosts.remove(0);
            if round % 2 == 0 {
                left.end();
            } else {
                left.running.kill();
            }
            std::thread::sleep(random.millis(0, 1_000));
            // One that was killed comes back under its name, or another one comes.
            hosts.push(start_as(&exact, ["a", "b", "c", "d"][round as usize % 4]));
        }
    });
    exact.close();
    let found = exact.until_whole_of(&mut hosts);
    exact.is_exact("join and leave, three processes", &found, rounds, since);
    hosts.into_iter().for_each(|host| _ = host.end());
}

/// A member by name has its partitions back when it comes back soon: nobody else's change hands for that.
#[test]
fn a_static_member_that_comes_back_moves_nothing() {
    let broker = shared_broker();
    let exact = Exact::new(&broker, Job::Copies, 4);
    let text = exact.world.place.text("pipeline.yaml");
    let named = "properties: { session.timeout.ms: 20000, group.instance.id: \"${WASMILL_SLOT}\"";
    exact.world.place.file("pipeline.yaml", text.replace("properties: { session.timeout.ms: 2000", named));
    let since = Instant::now();
    let (mut stays, goes) = (start_as(&exact, "one"), start_as(&exact, "two"));
    let (log, other) = (stays.running.log(), goes.running.log());
    let shares = |log: &Log| log.text().matches("partitions assigned").count();
    stays.running.until("a share for each", || other.says("partitions assigned"));
    // The group may still move partitions between the two.
    std::thread::sleep(Duration::from_secs(3));
    let before = shares(&log);
    let goes = exact.while_fed(RATE, || {
        goes.end();
        start_as(&exact, "two").kill();
        start_as(&exact, "two")
    });
    assert_eq!(shares(&log), before, "its share changed:\n{}", log.text());
    exact.close();
    let mut hosts = [stays, goes];
    let found = exact.until_whole_of(&mut hosts);
    exact.is_exact("a static member that comes back", &found, 1, since);
    hosts.into_iter().for_each(|host| _ = host.end());
}

/// One while it runs and one between two runs.
#[test]
fn new_partitions_of_the_input_are_taken_in_before_an_exchange() {
    let broker = shared_broker();
    let mut exact = Exact::behind_exchange(&broker, Job::Counts, 2);
    let since = Instant::now();
    exact.feed(2_000);
    let mut host = start_as(&exact, "one");
    exact.until_whole(&mut host);
    exact.grow(&broker, 3);
    exact.feed(3_000);
    exact.until_whole(&mut host);
    host.end();
    exact.grow(&broker, 4);
    exact.feed(4_000);
    exact.flush();
    let mut host = start_as(&exact, "one");
    let found = exact.until_whole(&mut host);
    exact.is_exact("an input that grows, with an exchange", &found, 2, since);
    host.end();
}

#[test]
fn a_broker_that_is_killed_or_stopped_loses_and_doubles_nothing() {
    broker_goes("a broker killed, and stopped", Exact::new);
}

#[test]
fn a_broker_that_is_killed_or_stopped_loses_and_doubles_nothing_behind_an_exchange() {
    broker_goes("a broker killed, and stopped, with an exchange", Exact::behind_exchange);
}

fn broker_goes(what: &str, world: impl FnOnce(&Broker, Job, u32) -> Exact) {
    let mut broker = Broker::start();
    let exact = world(&broker, Job::Counts, 4);
    let since = Instant::now();
    let seconds: u64 = std::env::var("WASMILL_STOP_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(15);
    exact.feed(3_000);
    let mut host = exact.start();
    host.until_ready_is(200, &[]);
    std::thread::sleep(Duration::from_millis(300));
    broker.kill();
    host.until_ready_is(503, &[]);
    broker.run();
    host.until_ready_is(200, &[]);
    exact.feed(3_000);
    std::thread::sleep(Duration::from_millis(300));
    broker.freeze();
    std::thread::sleep(Duration::from_secs(seconds));
    broker.thaw();
    exact.feed(3_000);
    exact.close();
    let found = exact.until_whole(&mut host);
    exact.is_exact(what, &found, 1, since);
    host.end();
}

#[test]
fn a_process_ends_in_time_though_its_broker_does_not_answer() {
    let broker = Broker::start();
    let exact = Exact::new(&broker, Job::Counts, 2);
    exact.write_spec(&broker.address(), "data_dir: data\nshutdown_timeout: 4s\n");
    let since = Instant::now();
    let mut host = exact.start();
    host.until_ready_is(200, &[]);
    // Something is under way whenever that is.
    exact.while_fed(RATE, || {
        std::thread::sleep(Duration::from_millis(600));
        broker.freeze();
    });
    std::thread::sleep(Duration::from_millis(300));
    let asked = Instant::now();
    assert!(host.running.signal(Signal::TERM), "it runs");
    let ended = host.running.wait();
    println!("it ended {:.1} s after it was asked to", asked.elapsed().as_secs_f64());
    ended.exits(1).says(&["could not drain within 4 s"]);
    broker.thaw();
    exact.close();
    let mut host = exact.start();
    let found = exact.until_whole(&mut host);
    exact.is_exact("a broker that does not answer at the end", &found, 1, since);
    host.end();
}

#[test]
fn a_slow_link_and_an_end_that_is_sent_and_not_answered_double_nothing() {
    let mut proxy = None;
    let broker = Broker::start_behind(|port| proxy.insert(Proxy::start(port)).port());
    let proxy = proxy.expect("it was started");
    let exact = Exact::at(&broker, &broker.proxied_address(), Job::Counts, 2);
    let (rounds, since) = (rounds(), Instant::now());
    for _ in 0..rounds {
        let mut host = exact.start();
        host.until_ready_is(200, &[]);
        let sent = proxy.tell_next(END_TXN);
        while sent.try_recv().is_err() {
            exact.feed(20);
            std::thread::sleep(Duration::from_millis(10));
        }
        // The broker has it, and its answer is on its way.
        host.running.kill();
    }
    let mut host = exact.start();
    host.until_ready_is(200, &[]);
    exact.feed(200);
    proxy.limit(Some(10_000));
    std::thread::sleep(Duration::from_secs(8));
    proxy.limit(None);
    exact.feed(2_000);
    exact.close();
    let found = exact.until_whole(&mut host);
    exact.is_exact("an end that is sent and not answered, and a slow link", &found, rounds, since);
    host.end();
}

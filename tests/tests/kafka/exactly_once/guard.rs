//! Requests that come late: a transaction's end, and its offsets, after their client has given their connection
//! up and sent them again. Without the guard they do harm in the next transaction.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use wasmill_tests::proxy::{ADD_OFFSETS_TO_TXN, END_TXN, Held, Proxy, TXN_OFFSET_COMMIT};

use super::{Exact, Findings, Job, is_closing, rounds};
use crate::broker::Broker;
use crate::world::{Host, PATIENCE, read_all, tail};

/// A broker behind a proxy, and a pipeline that comes to it there.
struct Late {
    proxy: Proxy,
    broker: Broker,
    exact: Exact,
    guard: &'static str,
}

impl Late {
    fn new(job: Job, is_guarded: bool) -> Self {
        let mut proxy = None;
        let broker = Broker::start_behind(|port| proxy.insert(Proxy::start(port)).port());
        let exact = Exact::at(&broker, &broker.proxied_address(), job, 2);
        // A place to die at that never comes: what is written is at the broker before its offsets are sent.
        let guard = if is_guarded { "produced:1000000000" } else { "unguarded,produced:1000000000" };
        Self { proxy: proxy.expect("it was started"), broker, exact, guard }
    }

    fn start(&self) -> Host {
        let mut host = self.exact.start_with(|w| w.env("TEST_FAILPOINT", self.guard));
        host.until_ready_is(200, &[]);
        host
    }

    /// Feeds until something comes.
    fn until<T>(&self, host: &Host, what: &Receiver<T>) -> T {
        let since = Instant::now();
        loop {
            self.exact.feed(20);
            if let Ok(came) = what.recv_timeout(Duration::from_millis(20)) {
                return came;
            }
            assert!(since.elapsed() < PATIENCE, "it does not go on:\n{}", tail(&host.running.log().text()));
        }
    }

    /// The end of a transaction comes when the next one has written, but is not at its offsets; then the
    /// process dies. What it had written counts, if that end was taken for its own.
    fn end(&self) {
        let host = self.start();
        let held: Held = self.until(&host, &self.proxy.hold_next(END_TXN));
        let paused = self.until(&host, &self.proxy.pause_next(ADD_OFFSETS_TO_TXN));
        held.release();
        host.kill();
        drop(paused);
    }

    /// The offsets of a transaction come when the next one has its own; then that is committed, and the process
    /// dies. What it had read is read again, if the older offsets were taken for newer ones.
    fn offsets(&self) {
        let host = self.start();
        let held: Held = self.until(&host, &self.proxy.hold_next(TXN_OFFSET_COMMIT));
        self.until(&host, &self.proxy.tell_next(END_TXN));
        let paused = self.until(&host, &self.proxy.pause_next(END_TXN));
        held.release();
        // The one behind must not put it right.
        let behind = self.proxy.pause_next(TXN_OFFSET_COMMIT);
        drop(paused);
        let paused = self.until(&host, &behind);
        host.kill();
        drop(paused);
    }

    /// What is wrong when all is through.
    fn findings(self) -> Findings {
        self.exact.close();
        let mut host = self.start();
        let mut found = Vec::new();
        let since = Instant::now();
        // Without the guard there may be less than there must be, or more.
        while found.len() < self.exact.results() && since.elapsed() < PATIENCE / 3 {
            std::thread::sleep(Duration::from_millis(300));
            found = read_all(&self.broker.address(), &self.exact.world.output());
            found.retain(|f| !is_closing(f));
            assert!(host.running.is_running(), "it ended:\n{}", tail(&host.running.log().text()));
        }
        self.exact.judge(&found)
    }
}

fn campaign(what: &str, job: Job, is_guarded: bool, rounds: u32, harm: impl Fn(&Late)) -> Findings {
    let since = Instant::now();
    let late = Late::new(job, is_guarded);
    for _ in 0..rounds {
        harm(&late);
    }
    let findings = late.findings();
    println!("{what}: {findings}, {rounds} rounds, {:.1} s", since.elapsed().as_secs_f64());
    findings
}

#[test]
fn an_end_of_a_transaction_that_comes_late_does_no_harm() {
    let findings = campaign("held EndTxn", Job::Copies, true, rounds(), Late::end);
    assert_eq!(findings, Findings::default());
}

#[test]
fn offsets_of_a_transaction_that_come_late_do_no_harm() {
    let findings = campaign("held TxnOffsetCommit", Job::Copies, true, rounds(), Late::offsets);
    assert_eq!(findings, Findings::default());
}

/// So the tests above can fail.
#[test]
fn without_the_guard_requests_that_come_late_do_harm() {
    let ends = campaign("held EndTxn, no guard", Job::Copies, false, 2, Late::end);
    let offsets = campaign("held TxnOffsetCommit, no guard", Job::Copies, false, 2, Late::offsets);
    assert_ne!(ends, Findings::default(), "an end that comes late");
    assert_ne!(offsets, Findings::default(), "offsets that come late");
}

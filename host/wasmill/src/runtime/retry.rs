//! Asking again for as long as the other end is away, with what shows that it is.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use wasmill_connect::ConnectorError;
use wasmill_engine::state::StoreError;

use super::breaker::{Breaker, Leave, Position};
use super::coordinate::Halt;
use super::health::Health;
use super::observe::Observed;
use crate::spec::{Backoffs, Then, Tried};

/// A number from 0 to 1, another one at each call, in each process.
pub(super) fn spread() -> f64 {
    (RandomState::new().hash_one(()) >> 11) as f64 / (1u64 << 53) as f64
}

/// Doubling waits with jitter, so that many clients of one server don't come back at once.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    bounds: Backoffs,
    tries: u32,
    since: Option<Instant>,
}

impl Backoff {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn within(bounds: Backoffs) -> Self {
        Self { bounds, ..Self::default() }
    }

    /// How long to wait now.
    pub fn next(&mut self) -> Duration {
        let full = self.bounds.first.saturating_mul(1 << self.tries.min(16)).min(self.bounds.longest);
        self.tries = self.tries.saturating_add(1);
        self.since.get_or_insert_with(Instant::now);
        full.mul_f64(0.5 + spread() / 2.0)
    }

    /// Whether it has failed since it last went well.
    pub fn is_waiting(&self) -> bool {
        self.tries > 0
    }

    /// It went well again; says whether it had failed before.
    pub fn end(&mut self) -> bool {
        self.since = None;
        std::mem::take(&mut self.tries) > 0
    }

    /// Why it is not to be asked again, after another failure, where the next try would be in `wait`.
    fn given_up(&self, tried: &Tried, wait: Duration) -> Option<String> {
        // With `dead_letter` the sink itself gives single messages up.
        if tried.then == Then::DeadLetter {
            return None;
        }
        let after = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        if tried.attempts.is_some_and(|most| self.tries >= most) {
            return Some(format!("it was tried {} times, as often as `retry.attempts` says", self.tries));
        }
        tried.within.filter(|within| after + wait > *within).map(|within| {
            format!(
                "it was tried {} times in {:.1} s, and another try would be later than `retry.within`, which is {:.1} s, says",
                self.tries,
                after.as_secs_f64(),
                within.as_secs_f64()
            )
        })
    }
}

/// How one end is asked.
struct Asked {
    tried: Tried,
    breaker: Option<Breaker>,
    /// Whether what is asked now is the breaker's probe.
    probes: bool,
    /// What the other end has taken, where that is known as it goes on; and how much it was at the last failure.
    taken: Option<Arc<AtomicU64>>,
    taken_before: u64,
}

/// What a failure of an end means.
struct Failed {
    /// When to ask again.
    wait: Duration,
    /// How its breaker stands now, if it has one.
    breaker: Option<Position>,
    /// Whether it opened.
    opened: bool,
}

/// Where it shows that an end of a pipeline is away.
#[derive(Clone)]
pub(super) struct Ends {
    pub health: Arc<Health>,
    pub observed: Arc<Observed>,
    /// Whether the process is told to end.
    pub stopped: watch::Receiver<bool>,
    /// The ends that are asked in a way of their own. They outlast a run.
    asked: Arc<Mutex<BTreeMap<String, Asked>>>,
}

impl Ends {
    pub fn new(health: Arc<Health>, observed: Arc<Observed>, stopped: watch::Receiver<bool>) -> Self {
        Self { health, observed, stopped, asked: Arc::default() }
    }

    /// Says how an end is asked from now on, and what counts up as its other end takes messages.
    pub fn ask(&self, end: &str, tried: &Tried, taken: Option<Arc<AtomicU64>>) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was opened in a run before stays open.
        let breaker = match asked.remove(end) {
            Some(before) => before.breaker,
            None => tried.breaker.map(Breaker::new),
        };
        if let Some(breaker) = &breaker {
            self.observed.breaker(end, breaker.position(), false);
        }
        let tried = tried.clone();
        asked.insert(end.to_owned(), Asked { tried, breaker, probes: false, taken, taken_before: 0 });
    }

    fn asked<T>(&self, end: &str, with: impl FnOnce(&mut Asked) -> T) -> Option<T> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).get_mut(end).map(with)
    }

    /// How long to wait between tries of an end.
    pub fn backoff(&self, end: &str) -> Backoff {
        self.asked(end, |asked| Backoff::within(asked.tried.backoffs)).unwrap_or_default()
    }

    /// Waits until an end may be asked.
    pub async fn admit(&self, end: &str) {
        loop {
            let leave = self.asked(end, |asked| {
                let leave = asked.breaker.as_mut().map_or(Leave::Go, |breaker| breaker.leave(Instant::now()));
                // Nobody else asks: a probe that is under way was dropped.
                asked.probes = matches!(leave, Leave::Probe | Leave::Probing);
                leave
            });
            match leave {
                Some(Leave::Wait(wait)) => tokio::time::sleep(wait).await,
                Some(Leave::Probe | Leave::Probing) => {
                    self.observed.breaker(end, Position::HalfOpen, false);
                    tracing::info!(%end, "its breaker lets one try through");
                    return;
                }
                _ => return,
            }
        }
    }

    /// Something failed at an end: what stops the run if it can't be waited for, else nothing, once it is
    /// told and waited for.
    pub async fn wait(&self, end: &str, backoff: &mut Backoff, error: ConnectorError) -> Result<(), Halt> {
        self.wait_if_away(end, backoff, error).await.map_err(Halt::from)
    }

    /// Waits for an end that is away; answers any other error, and that it is given up.
    pub async fn wait_if_away(
        &self,
        end: &str,
        backoff: &mut Backoff,
        error: ConnectorError,
    ) -> Result<(), ConnectorError> {
        let ConnectorError::Disconnected { what, cause } = error else { return Err(error) };
        let failed = self.failed(end, backoff);
        let given_up = self.asked(end, |asked| backoff.given_up(&asked.tried, failed.wait)).flatten();
        if let Some(given_up) = given_up {
            self.observed.away();
            return Err(ConnectorError::Fatal(format!(
                "{end}: {what}: {cause}. It is given up: {given_up}. Nothing is lost: what is not committed is read again at the next start"
            )));
        }
        self.tell(end, &failed, &what, &cause);
        tokio::time::sleep(failed.wait).await;
        Ok(())
    }

    /// An end is away: tells it; answers when to ask again.
    pub fn away(&self, end: &str, backoff: &mut Backoff, what: &str, cause: &str) -> Duration {
        let failed = self.failed(end, backoff);
        self.tell(end, &failed, what, cause);
        failed.wait
    }

    fn failed(&self, end: &str, backoff: &mut Backoff) -> Failed {
        let breaker = self.asked(end, |asked| {
            let taken = asked.taken.as_ref().map_or(0, |taken| taken.load(Ordering::Acquire));
            let probe = std::mem::take(&mut asked.probes);
            // Where something got through before it failed, this is the first failure in a row.
            let got_through = std::mem::replace(&mut asked.taken_before, taken) != taken;
            if got_through {
                backoff.end();
            }
            let breaker = asked.breaker.as_mut()?;
            if got_through {
                breaker.went_well(probe);
            }
            let now = Instant::now();
            let opened = breaker.failed(now, probe, spread());
            let open = match breaker.leave(now) {
                Leave::Wait(wait) if opened => Some(wait),
                _ => None,
            };
            Some((breaker.position(), open))
        });
        let wait = backoff.next();
        match breaker.flatten() {
            Some((position, open)) => {
                Failed { wait: open.unwrap_or(wait), breaker: Some(position), opened: open.is_some() }
            }
            None => Failed { wait, breaker: None, opened: false },
        }
    }

    fn tell(&self, end: &str, failed: &Failed, what: &str, cause: &str) {
        self.observed.away();
        if let Some(position) = failed.breaker {
            self.observed.breaker(end, position, failed.opened);
        }
        let again_in_ms = failed.wait.as_millis() as u64;
        if failed.opened {
            let seconds = failed.wait.as_secs_f64();
            self.health.ill(
                end,
                &format!("{what}: {cause}; its breaker is open: nothing is asked of it for {seconds:.1} s, then once"),
            );
            tracing::warn!(%end, %what, %cause, again_in_ms, "it is away, and its breaker opens: nothing is lost, and nothing is asked of it until then");
        } else {
            self.health.ill(end, &format!("{what}: {cause}"));
            tracing::warn!(%end, %what, %cause, again_in_ms, "it is away: nothing is lost, and it is asked again");
        }
    }

    /// An end is there.
    pub fn well(&self, end: &str, backoff: &mut Backoff) {
        let closed = self.asked(end, |asked| {
            let breaker = asked.breaker.as_mut()?;
            let before = breaker.position();
            breaker.went_well(std::mem::take(&mut asked.probes));
            (before != breaker.position()).then(|| breaker.position())
        });
        if let Some(position) = closed.flatten() {
            self.observed.breaker(end, position, false);
            tracing::info!(%end, "its breaker closes");
        }
        if backoff.end() {
            tracing::info!(%end, "it is back");
        }
        self.health.well(end);
    }
}

impl From<ConnectorError> for Halt {
    fn from(error: ConnectorError) -> Self {
        match error {
            // Where nobody does the transaction again: from what is committed.
            ConnectorError::Outdated(text) | ConnectorError::Aborted(text) => Self::Fenced(text),
            ConnectorError::Fenced(text) => Self::Replaced(text),
            ConnectorError::Fatal(text) => Self::Failed(text),
            away @ ConnectorError::Disconnected { .. } => Self::Failed(away.to_string()),
        }
    }
}

/// Asks an end until it answers, or fails otherwise than by being away: `answered!(ends, "its name", a future)`,
/// which is made anew for each try. A macro, for the compiler can't show that the future of an async closure
/// may change its thread.
macro_rules! answered {
    ($ends:expr, $end:expr, $ask:expr) => {{
        let mut backoff = $ends.backoff($end);
        loop {
            $ends.admit($end).await;
            // What asking held, as a lock, is let go of before anything is waited for.
            let answered = $ask.await;
            match answered {
                Ok(answer) => {
                    $ends.well($end, &mut backoff);
                    break Ok(answer);
                }
                Err(error) => {
                    if let Err(error) = $ends.wait_if_away($end, &mut backoff, error).await {
                        break Err(error);
                    }
                }
            }
        }
    }};
}
pub(super) use answered;

/// As `answered!`, where an error stops the run.
macro_rules! insist {
    ($ends:expr, $end:expr, $ask:expr) => {
        $crate::runtime::retry::answered!($ends, $end, $ask).map_err($crate::runtime::coordinate::Halt::from)
    };
}
pub(super) use insist;

/// A call of a store, off the threads that wait for the network.
pub(super) async fn off_the_network<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, ConnectorError> {
    match tokio::task::spawn_blocking(call).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(StoreError::Away { what, cause })) => Err(ConnectorError::Disconnected { what, cause }),
        // Another process has what this one would have changed.
        Ok(Err(e @ StoreError::Fenced { .. })) => Err(ConnectorError::Outdated(e.to_string())),
        Ok(Err(e)) => Err(ConnectorError::Fatal(e.to_string())),
        Err(e) => Err(ConnectorError::Fatal(format!("the store's thread panicked: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_less_than_half_of_each_is_taken_away() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_millis(900));
        let mut backoff = Backoff::within(Backoffs { first, longest });
        for full_ms in [100, 200, 400, 800, 900, 900] {
            let full = Duration::from_millis(full_ms);
            let wait = backoff.next();
            assert!(full / 2 <= wait && wait <= full, "{wait:?} of {full:?}");
        }
        assert!(backoff.end() && !backoff.end());
        assert!(backoff.next() <= first, "it begins again");
        for _ in 0..10_000 {
            assert!(backoff.next() <= longest);
        }
    }

    /// Two clients of a server that went away at one moment don't come back at one moment.
    #[test]
    fn no_two_waits_are_the_same() {
        let spreads: std::collections::BTreeSet<u64> = (0..1_000).map(|_| spread().to_bits()).collect();
        assert!(spreads.len() > 990, "{}", spreads.len());
        let of = |part: fn(f64) -> bool| (0..1_000).map(|_| spread()).filter(|s| part(*s)).count();
        assert_eq!(of(|s| !(0.0..1.0).contains(&s)), 0);
        assert!((300..700).contains(&of(|s| s < 0.5)));
    }

    #[test]
    fn it_is_given_up_at_the_last_attempt_or_before_the_try_that_would_be_too_late() {
        let gives_up = |tried: Tried, tries: u32, wait: Duration| {
            let mut backoff = Backoff::new();
            for _ in 0..tries {
                let _ = backoff.next();
            }
            backoff.given_up(&tried, wait).is_some()
        };
        let wait = Duration::from_secs(3);
        let attempts = Tried { attempts: Some(3), ..Tried::default() };
        assert_eq!([1, 2, 3, 4].map(|n| gives_up(attempts.clone(), n, wait)), [false, false, true, true]);
        let within = |within| Tried { within: Some(within), ..Tried::default() };
        assert!(!gives_up(within(Duration::from_secs(3_600)), 1, wait));
        assert!(gives_up(within(Duration::from_secs(2)), 1, wait));
        assert!(!gives_up(Tried::default(), 1_000, Duration::from_secs(3_600)));
        // The sink itself gives single messages up.
        assert!(!gives_up(Tried { then: Then::DeadLetter, ..attempts }, 1_000, wait));
    }
}

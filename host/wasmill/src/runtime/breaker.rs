//! A circuit breaker: after failures in a row nothing is asked for a while, then once. No clock, no threads: time
//! is an argument, and whoever asks does the waiting.

use std::time::{Duration, Instant};

use crate::spec::BreakerBounds;

/// What a breaker says to whoever wants to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// Ask.
    Go,
    /// Ask: it is the one probe, and what comes of it decides. Whoever has this must tell.
    Probe,
    /// Not before so long.
    Wait(Duration),
    /// A probe is under way; nobody knows for how long.
    Probing,
}

/// How a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Position {
    /// All may ask.
    Closed,
    /// One asks, to see.
    HalfOpen,
    /// Nobody asks.
    Open,
}

impl Position {
    /// As the metric has it.
    pub fn number(self) -> i64 {
        match self {
            Self::Closed => 0,
            Self::HalfOpen => 1,
            Self::Open => 2,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum State {
    Closed { failures: u32 },
    HalfOpen,
    Open { until: Instant },
}

/// The breaker of one end or stage.
#[derive(Debug)]
pub(super) struct Breaker {
    bounds: BreakerBounds,
    state: State,
}

impl Breaker {
    pub fn new(bounds: BreakerBounds) -> Self {
        Self { bounds, state: State::Closed { failures: 0 } }
    }

    /// Asks for leave.
    pub fn leave(&mut self, now: Instant) -> Leave {
        match self.state {
            State::Closed { .. } => Leave::Go,
            State::HalfOpen => Leave::Probing,
            State::Open { until } if now < until => Leave::Wait(until - now),
            State::Open { .. } => {
                self.state = State::HalfOpen;
                Leave::Probe
            }
        }
    }

    /// It went well. What others than the probe tell counts while it is closed alone: they had asked before.
    pub fn went_well(&mut self, probe: bool) {
        if probe || matches!(self.state, State::Closed { .. }) {
            self.state = State::Closed { failures: 0 };
        }
    }

    /// It failed; `spread` of 0 to 1 makes what opens now last a little longer, so that many that opened together
    /// don't probe together. Answers whether it opened.
    pub fn failed(&mut self, now: Instant, probe: bool, spread: f64) -> bool {
        let failures = match self.state {
            State::Closed { failures } => failures + 1,
            State::HalfOpen if probe => self.bounds.failures,
            State::HalfOpen | State::Open { .. } => return false,
        };
        let opens = failures >= self.bounds.failures;
        self.state = match opens {
            true => State::Open { until: now + self.bounds.open.mul_f64(1.0 + spread / 10.0) },
            false => State::Closed { failures },
        };
        opens
    }

    pub fn position(&self) -> Position {
        match self.state {
            State::Closed { .. } => Position::Closed,
            State::HalfOpen => Position::HalfOpen,
            State::Open { .. } => Position::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Duration = Duration::from_secs(30);

    fn breaker(failures: u32) -> Breaker {
        Breaker::new(BreakerBounds { failures, open: OPEN })
    }

    /// Fails so often, and expects it to open at the last.
    fn opened(failures: u32, now: Instant) -> Breaker {
        let mut breaker = breaker(failures);
        for nth in 1..=failures {
            assert_eq!(breaker.leave(now), Leave::Go);
            assert_eq!(breaker.failed(now, false, 0.0), nth == failures, "failure {nth}");
        }
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_that_went_well_between_them_counts() {
        let now = Instant::now();
        let mut breaker = breaker(3);
        for _ in 0..10 {
            assert!(!breaker.failed(now, false, 0.0));
            assert!(!breaker.failed(now, false, 0.0));
            breaker.went_well(false);
        }
        assert_eq!(breaker.position(), Position::Closed);
        assert_eq!(opened(3, now).position(), Position::Open);
    }

    #[test]
    fn while_it_is_open_nobody_asks_and_then_one() {
        let now = Instant::now();
        let mut breaker = opened(2, now);
        assert_eq!(breaker.leave(now), Leave::Wait(OPEN));
        let almost = now + OPEN - Duration::from_millis(1);
        assert_eq!(breaker.leave(almost), Leave::Wait(Duration::from_millis(1)));
        assert_eq!(breaker.leave(now + OPEN), Leave::Probe);
        assert_eq!(breaker.leave(now + OPEN * 9), Leave::Probing, "one probe, however long it takes");
        assert_eq!(breaker.position(), Position::HalfOpen);
    }

    #[test]
    fn a_probe_closes_it_or_opens_it_again_at_its_first_failure() {
        let now = Instant::now();
        let mut breaker = opened(5, now);
        let later = now + OPEN;
        assert_eq!(breaker.leave(later), Leave::Probe);
        assert!(breaker.failed(later, true, 0.0));
        assert_eq!(breaker.leave(later), Leave::Wait(OPEN));
        assert_eq!(breaker.leave(later + OPEN), Leave::Probe);
        breaker.went_well(true);
        assert_eq!(breaker.leave(later + OPEN), Leave::Go);
        assert!(!breaker.failed(later + OPEN, false, 0.0), "it counts from nothing again");
    }

    #[test]
    fn what_was_asked_before_it_opened_decides_nothing() {
        let now = Instant::now();
        let mut breaker = opened(1, now);
        breaker.went_well(false);
        assert_eq!(breaker.position(), Position::Open);
        assert_eq!(breaker.leave(now + OPEN), Leave::Probe);
        breaker.went_well(false);
        assert!(!breaker.failed(now + OPEN, false, 0.0));
        assert_eq!(breaker.position(), Position::HalfOpen);
    }

    #[test]
    fn the_spread_makes_it_longer_by_a_tenth_at_most() {
        let now = Instant::now();
        let mut breaker = breaker(1);
        assert!(breaker.failed(now, false, 1.0));
        assert_eq!(breaker.leave(now), Leave::Wait(OPEN.mul_f64(1.1)));
    }
}

//! A plugin whose failures slow its stage down: waits between the tries of a message, and a breaker.
//!
//! Neither decides what becomes of a message, for they go by the clock: every message is tried just as without them,
//! later. So an open breaker lets nothing through, then one message alone; a call of several is refused, which halves
//! it until one is left, as a trap does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wasmill_engine::guest::{
    AnswerBounds, CallContext, CallError, Guest, GuestInfo, Judged, Plugin, PluginRef, Trial, Tries,
};
use wasmill_frame::{Frame, Groups};

use super::breaker::{Breaker, Leave, Position};
use super::retry::{Backoff, Ends, spread};
use crate::spec::{BreakerBounds, PluginStage, TriedStage};

/// How long a worker sleeps before it looks whether it should go on waiting.
const LOOK: Duration = Duration::from_millis(50);

/// What a worker panics with that waits when it is told to end: why, for people.
pub(super) struct Abandoned(pub String);

/// What the guarded plugins of a run wait by.
#[derive(Clone)]
pub(super) struct Guards {
    ends: Ends,
    over: Arc<AtomicBool>,
}

/// Ends the waits of a run once it is dropped: what its workers still do counts for nothing.
pub(super) struct RunGuard(Arc<AtomicBool>);

impl Drop for RunGuard {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Guards {
    pub fn new(ends: &Ends) -> (Self, RunGuard) {
        let over = Arc::new(AtomicBool::new(false));
        (Self { ends: ends.clone(), over: Arc::clone(&over) }, RunGuard(over))
    }

    /// A stage's plugin as the stage's settings want it tried.
    pub fn guard(&self, plugin: PluginRef, stage: &PluginStage) -> PluginRef {
        if stage.tried == TriedStage::default() {
            return plugin;
        }
        let end = format!("stage {}", stage.name);
        self.ends.health.well(&end);
        let gate = stage.tried.breaker.map(|bounds| {
            self.ends.observed.breaker(&end, Position::Closed, false);
            Arc::new(Gate { bounds, breaker: Mutex::new(Breaker::new(bounds)) })
        });
        Arc::new(Guarded { inner: plugin, tried: stage.tried, end: end.into(), gate, guards: self.clone() })
    }

    /// Waits.
    ///
    /// # Panics
    /// With [`Abandoned`], where the run ends or is told to.
    fn wait(&self, wait: Duration, why: &str) {
        let until = Instant::now() + wait;
        loop {
            if *self.ends.stopped.borrow() || self.over.load(Ordering::Acquire) {
                let why = format!(
                    "{why} when the run was told to end. Nothing is lost: what is not committed is read again at the next start"
                );
                // Whoever catches it says it: no panic hook does.
                std::panic::resume_unwind(Box::new(Abandoned(why)));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(LOOK));
        }
    }
}

/// A breaker that all workers of a stage share.
struct Gate {
    bounds: BreakerBounds,
    breaker: Mutex<Breaker>,
}

impl Gate {
    fn breaker(&self) -> std::sync::MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Guarded {
    inner: PluginRef,
    tried: TriedStage,
    end: Arc<str>,
    gate: Option<Arc<Gate>>,
    guards: Guards,
}

impl Plugin for Guarded {
    fn info(&self) -> &GuestInfo {
        self.inner.info()
    }

    fn guest(&self) -> Box<dyn Guest> {
        Box::new(GuardedGuest {
            inner: self.inner.guest(),
            backoff: Backoff::within(self.tried.backoffs),
            end: Arc::clone(&self.end),
            gate: self.gate.clone(),
            guards: self.guards.clone(),
            probes: false,
        })
    }

    fn tries(&self) -> Tries {
        self.tried.tries
    }

    fn bounds(&self) -> AnswerBounds {
        self.inner.bounds()
    }
}

struct GuardedGuest {
    inner: Box<dyn Guest>,
    backoff: Backoff,
    end: Arc<str>,
    gate: Option<Arc<Gate>>,
    guards: Guards,
    /// Whether the message that is tried now is the breaker's probe.
    probes: bool,
}

impl GuardedGuest {
    /// Waits until so many messages may be tried.
    fn enter(&mut self, messages: usize) -> Result<(), CallError> {
        let Some(gate) = &self.gate else { return Ok(()) };
        // All tries of the one message are one probe.
        while !self.probes {
            let leave = match messages {
                // Nobody need wait to hear that they are too many.
                2.. if gate.breaker().position() != Position::Closed => {
                    return Err(CallError::Refused(
                        "its breaker lets one message through at a time".to_owned(),
                    ));
                }
                _ => gate.breaker().leave(Instant::now()),
            };
            let wait = match leave {
                Leave::Go => return Ok(()),
                Leave::Probe => {
                    self.probes = true;
                    self.guards.ends.observed.breaker(&self.end, Position::HalfOpen, false);
                    tracing::info!(end = %self.end, "its breaker lets one message through");
                    return Ok(());
                }
                Leave::Wait(wait) => wait,
                Leave::Probing => LOOK,
            };
            self.guards
                .wait(wait.min(Duration::from_secs(1)), &format!("the breaker of the {} was open", self.end));
        }
        Ok(())
    }
}

fn messages_of(frame: &[u8]) -> usize {
    Frame::open(frame).map_or(0, |frame| frame.len())
}

fn messages_in(frame: &[u8], groups: &[u8]) -> usize {
    Groups::parse(groups, messages_of(frame))
        .map_or(0, |groups| groups.iter().map(|group| group.indices().len()).sum())
}

impl Guest for GuardedGuest {
    fn around(&mut self) -> Option<&mut dyn Guest> {
        Some(self.inner.as_mut())
    }

    fn pause(&mut self, tried: u32) {
        if tried == 1 {
            self.backoff.end();
        }
        let wait = self.backoff.next();
        self.guards.wait(wait, &format!("the {} waited to try a message again", self.end));
    }

    fn judged(&mut self, judged: Judged) {
        self.inner.judged(judged);
        let Some(gate) = &self.gate else { return };
        let probe = std::mem::take(&mut self.probes);
        let mut breaker = gate.breaker();
        let before = breaker.position();
        let mut opened = false;
        if judged.passed {
            breaker.went_well(probe);
        }
        for _ in 0..judged.failed {
            opened |= breaker.failed(Instant::now(), probe, spread());
        }
        let after = breaker.position();
        if before == after && !opened {
            return;
        }
        // Told under the lock: what shows must not be older than what is.
        let (health, seconds) = (&self.guards.ends.health, gate.bounds.open.as_secs_f64());
        self.guards.ends.observed.breaker(&self.end, after, opened);
        if opened {
            let failures = gate.bounds.failures;
            health.ill(
                &self.end,
                &format!("{failures} messages in a row failed, or the last one that was let through: its breaker is open, and one message is tried each {seconds:.1} s. Run again with a plugin that can process them: what is not committed is read again"),
            );
            tracing::warn!(end = %self.end, open_s = seconds, "one message after the other fails: its breaker opens, and the stage waits");
        } else {
            health.well(&self.end);
            tracing::info!(end = %self.end, "its breaker closes");
        }
    }

    fn transform(&mut self, frame: &[u8], cx: &mut CallContext, trial: Trial) -> Result<Vec<u8>, CallError> {
        self.enter(messages_of(frame))?;
        self.inner.transform(frame, cx, trial)
    }

    fn filter(&mut self, frame: &[u8], cx: &mut CallContext, trial: Trial) -> Result<Vec<u8>, CallError> {
        self.enter(messages_of(frame))?;
        self.inner.filter(frame, cx, trial)
    }

    fn fold(
        &mut self,
        frame: &[u8],
        groups: &[u8],
        cx: &mut CallContext,
        trial: Trial,
    ) -> Result<Vec<u8>, CallError> {
        self.enter(messages_in(frame, groups))?;
        self.inner.fold(frame, groups, cx, trial)
    }

    fn scan(
        &mut self,
        frame: &[u8],
        groups: &[u8],
        cx: &mut CallContext,
        trial: Trial,
    ) -> Result<(Vec<u8>, Vec<u8>), CallError> {
        self.enter(messages_in(frame, groups))?;
        self.inner.scan(frame, groups, cx, trial)
    }
}

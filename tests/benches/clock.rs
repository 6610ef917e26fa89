//! CPU time, and runs by turns.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The CPU time that this thread has used so far.
fn thread_cpu() -> Duration {
    read(ClockId::ThreadCPUTime)
}

/// The CPU time that all threads have used so far.
pub fn process_cpu() -> Duration {
    read(ClockId::ProcessCPUTime)
}

fn read(clock: ClockId) -> Duration {
    let now = clock_gettime(clock);
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}

/// Times of several runs of one thing.
#[derive(Debug, Clone, Default)]
pub struct Times(Vec<f64>);

impl Times {
    /// Adds a run's.
    pub fn push(&mut self, time: f64) {
        self.0.push(time);
        self.0.sort_unstable_by(f64::total_cmp);
    }

    /// The same in another unit.
    pub fn scaled(&self, by: f64) -> Self {
        Self(self.0.iter().map(|time| time * by).collect())
    }

    /// The least.
    pub fn min(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    /// The greatest.
    pub fn max(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }

    /// The middle one.
    pub fn median(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// Something to measure: set up without being timed, then run once over `messages` messages.
pub struct Contender<'a> {
    pub name: String,
    pub messages: usize,
    pub run: Box<dyn FnMut() -> Duration + 'a>,
}

/// Times `work` alone.
pub fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let begun = thread_cpu();
    std::hint::black_box(work());
    thread_cpu().saturating_sub(begun)
}

/// Runs the contenders by turns; answers nanoseconds a message for each.
pub fn by_turns(contenders: &mut [Contender<'_>], rounds: usize) -> Vec<Times> {
    let mut times = vec![Times::default(); contenders.len()];
    for round in 0..=rounds {
        for (contender, times) in contenders.iter_mut().zip(&mut times) {
            let took = (contender.run)();
            // The first round warms up.
            if round > 0 {
                times.push(took.as_nanos() as f64 / contender.messages as f64);
            }
        }
    }
    times
}

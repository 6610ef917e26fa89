//! Holds a source to a number of messages a second.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

/// How much may be made up for after a pause, as time: no burst is greater.
const BURST: Duration = Duration::from_millis(100);
/// The least wait, so that a high rate is not one wake-up a message.
const WAIT_MIN: Duration = Duration::from_millis(5);

/// An allowance that grows with time, shared by the readers of a source.
#[derive(Debug)]
pub(crate) struct Pacer {
    messages_per_s: f64,
    state: Mutex<(f64, Instant)>,
}

impl Pacer {
    /// None where there is no rate.
    pub(crate) fn new(rate: Option<f64>) -> Option<std::sync::Arc<Self>> {
        rate.map(|messages_per_s| {
            std::sync::Arc::new(Self { messages_per_s, state: Mutex::new((0.0, Instant::now())) })
        })
    }

    /// Waits until a message is due; answers how many of `messages_max` are. Takes none of them: that
    /// is [`Pacer::took`], so that a dropped wait loses nothing.
    pub(crate) async fn due(&self, messages_max: usize) -> usize {
        loop {
            let balance = self.refilled();
            if balance >= 1.0 {
                return messages_max.min(balance as usize);
            }
            let wait = Duration::from_secs_f64(((1.0 - balance) / self.messages_per_s).min(3600.0));
            tokio::time::sleep(wait.max(WAIT_MIN)).await;
        }
    }

    /// Counts messages that were taken.
    pub(crate) fn took(&self, messages: usize) {
        self.lock().0 -= messages as f64;
    }

    fn refilled(&self) -> f64 {
        let mut state = self.lock();
        let now = Instant::now();
        let most = (self.messages_per_s * BURST.as_secs_f64()).max(1.0);
        state.0 = (state.0 + (now - state.1).as_secs_f64() * self.messages_per_s).min(most);
        state.1 = now;
        state.0
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (f64, Instant)> {
        // Two numbers can't be left half changed.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Checks a rate from a spec.
pub(crate) fn check(rate: Option<f64>) -> Result<Option<f64>, crate::ConnectorError> {
    match rate {
        Some(rate) if !rate.is_finite() || rate <= 0.0 => Err(crate::ConnectorError::Fatal(format!(
            "rate of {rate} messages a second: expected a number above 0, or none for as fast as it goes"
        ))),
        rate => Ok(rate),
    }
}

//! Holds clients to a number of messages a second.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// An allowance that grows with time, up to a second's.
#[derive(Debug)]
pub(super) struct Allowance {
    messages_per_s: f64,
    state: Mutex<(f64, Instant)>,
}

impl Allowance {
    pub fn new(messages_per_s: f64) -> Self {
        let most = messages_per_s.max(1.0);
        Self { messages_per_s, state: Mutex::new((most, Instant::now())) }
    }

    /// How many are allowed.
    pub fn messages_per_s(&self) -> f64 {
        self.messages_per_s
    }

    /// Takes so many messages, or answers when to ask again. More than a second's worth are taken from a whole
    /// allowance, which is then in debt.
    pub fn take(&self, messages: usize) -> Result<(), Duration> {
        let most = self.messages_per_s.max(1.0);
        // Two numbers can't be left half changed.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        state.0 = (state.0 + (now - state.1).as_secs_f64() * self.messages_per_s).min(most);
        state.1 = now;
        let needed = (messages as f64).min(most);
        if state.0 < needed {
            return Err(Duration::from_secs_f64(((needed - state.0) / self.messages_per_s).min(86_400.0)));
        }
        state.0 -= messages as f64;
        Ok(())
    }
}

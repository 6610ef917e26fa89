//! Waiting before the same is tried again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Doubling waits with jitter, so that many clients of one server don't come back at once.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    tries: u32,
}

impl Backoff {
    pub fn new() -> Self {
        Self::default()
    }

    /// How long to wait now.
    pub fn next(&mut self) -> Duration {
        let full = FIRST.saturating_mul(1 << self.tries.min(10)).min(LONGEST);
        self.tries += 1;
        // Any cheap spread will do: no result depends on it.
        let spread =
            u64::from(std::process::id()).wrapping_mul(u64::from(self.tries).wrapping_mul(0x9E37_79B9));
        full.mul_f64(0.5 + (spread % 1_000) as f64 / 2_000.0)
    }

    /// Whether it has failed since it last went well.
    pub fn is_waiting(&self) -> bool {
        self.tries > 0
    }

    /// It went well again; says whether it had failed before.
    pub fn end(&mut self) -> bool {
        std::mem::take(&mut self.tries) > 0
    }
}

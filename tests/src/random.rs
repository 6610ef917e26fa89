//! Chance that a seed repeats.

use std::time::{Duration, SystemTime};

/// A sequence of random numbers (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The sequence of WASMILL_SEED, else of a seed that is shown, so that a failure can be repeated as
    /// far as chance decided it.
    #[must_use]
    pub fn shown(of: &str) -> Self {
        let given = std::env::var("WASMILL_SEED").ok().and_then(|seed| seed.parse().ok());
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seed = given.unwrap_or_else(|| since.subsec_nanos().into());
        println!("{of}: WASMILL_SEED={seed}");
        Self { state: seed }
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of some.
    ///
    /// # Panics
    /// When there are none.
    pub fn one_of<T: Copy>(&mut self, some: &[T]) -> T {
        some[usize::try_from(self.draw() % some.len() as u64).unwrap_or(0)]
    }

    /// A time of `from` to `to` milliseconds.
    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.draw() % (to - from + 1))
    }
}

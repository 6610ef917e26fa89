//! Which windows a message belongs to, when they close, what becomes of late messages.

use serde::{Deserialize, Serialize};

/// Windows of one size, side by side: [n · size, (n + 1) · size).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tumbling {
    size_ms: i64,
}

impl Tumbling {
    /// Windows of `size_ms`.
    ///
    /// # Errors
    /// When the size is not above zero.
    pub fn new(size_ms: i64) -> Result<Self, String> {
        if size_ms <= 0 {
            return Err(format!("a window's size must be at least 1 ms, not {size_ms}"));
        }
        Ok(Self { size_ms })
    }

    /// The size in milliseconds.
    #[must_use]
    pub fn size_ms(self) -> i64 {
        self.size_ms
    }

    /// The end of the window that holds an event time of 0 or more.
    #[must_use]
    pub fn end_of(self, time: i64) -> i64 {
        (time - time.rem_euclid(self.size_ms)).saturating_add(self.size_ms)
    }
}

/// Whether a window is over at a stream time: no message may join it any more, and it fires.
#[must_use]
pub fn is_over(end: i64, allowed_lateness_ms: i64, stream_time: i64) -> bool {
    end.saturating_add(allowed_lateness_ms) <= stream_time
}

/// What becomes of a late message. It is counted in every case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Late {
    /// It is dropped.
    #[default]
    Drop,
    /// It goes to the dead-letter queue.
    DeadLetter,
    /// It leaves by a named output.
    Output(String),
}

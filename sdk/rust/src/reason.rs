//! Why a message fails.

use std::fmt;

/// Why a message fails: the text that stands with it in the dead-letter queue. Every standard error
/// turns into one by `?`; [`crate::fail!`] makes one of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason(String);

/// The answer of an author's function.
pub type Result<T, E = Reason> = std::result::Result<T, E>;

impl Reason {
    /// A reason of a text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// `Reason` is no `Error` itself: that leaves room for this one for all errors.
impl<E: std::error::Error> From<E> for Reason {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(e) = cause {
            text.push_str(": ");
            text.push_str(&e.to_string());
            cause = e.source();
        }
        Self(text)
    }
}

/// Makes a [`Reason`] as `format!` makes a text.
#[macro_export]
macro_rules! reason {
    ($($text:tt)+) => { $crate::Reason::new(::std::format!($($text)+)) };
}

/// Fails the message at hand: `fail!("no carrier in flight {id}")` returns that reason.
#[macro_export]
macro_rules! fail {
    ($($text:tt)+) => { return ::core::result::Result::Err($crate::reason!($($text)+)) };
}

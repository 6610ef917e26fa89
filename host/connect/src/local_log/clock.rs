//! The one place where the log asks what time it is.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970 by the system's clock.
#[must_use]
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

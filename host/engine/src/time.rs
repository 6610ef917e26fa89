//! Event time and stream time: milliseconds since 1970 as `i64`.

pub use wasmill_frame::{TIMESTAMP_MAX_MS, TIMESTAMP_NONE, timestamp_in_range};

/// Stream time before the first message.
pub const START: i64 = i64::MIN;
/// Stream time behind the last message of a bounded source.
pub const END: i64 = i64::MAX;

//! The JSON envelope: `{"id", "type", "payload", "timestamp", "metadata"}`, one message a line.
//!
//! | field | read | written |
//! |---|---|---|
//! | `id` | text or number, required | as it came; a changed one as text |
//! | `type` | text, required | text |
//! | `payload` | any JSON, kept to the letter; `null` where absent | to the letter, on one line |
//! | `timestamp` | RFC 3339 text or integer milliseconds, optional | in the form it came, to the letter where unchanged |
//! | `metadata` | an object, optional | always; text as text, other values to the letter |
//! | any other | any JSON, kept to the letter | behind `metadata` |
//!
//! Where a known field or a metadata name stands twice, the last one counts. An unknown field that
//! stands twice is kept twice. Plugins see an id that is a number as text.
//!
//! A record without a value, a tombstone, is a message of the type `tombstone` without payload, its id the
//! record's key. A record's headers stay with its message, unseen by plugins; sinks that have such write them again.

use wasmill_engine::dead_letter::{HEADERS, NUMBER_ID};
use wasmill_frame::Message;

mod decode;
mod encode;

pub use decode::JsonDecoder;
pub use encode::JsonEncoder;
pub(crate) use encode::{Unseen, append, record};

/// The type of a message that came as a record without a value.
pub const TOMBSTONE: &str = "tombstone";

/// Whether a message leaves as a record without a value, where a sink has such.
#[must_use]
pub fn is_tombstone(message: Message<'_>) -> bool {
    message.payload().is_empty() && message.kind() == TOMBSTONE
}

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

mod decode;
mod encode;

pub use decode::JsonDecoder;
pub use encode::JsonEncoder;

/// The name under which the column keeps an id that came as a number, so that it leaves as one. No
/// unknown field can have this name.
const NUMBER_ID: &[u8] = b"id";

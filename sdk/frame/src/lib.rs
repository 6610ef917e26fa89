//! The byte layouts that a wasmill host and its guests exchange.
//!
//! | layout | from → to | what it carries | module |
//! |---|---|---|---|
//! | [`Frame`] | host → guest | a batch of messages, as the host itself keeps it | [`frame`] |
//! | [`Edits`] | guest → host | what a transform or filter wants changed | [`edits`] |
//! | [`Groups`] | host → guest | accumulators, each with the messages to fold into it | [`groups`] |
//! | [`Blobs`] | both ways | a list of tagged byte strings | [`blobs`] |
//!
//! All integers are little-endian. Every layout opens with the same 16 bytes: a magic word, the
//! layout's version, and two counts. The page `docs/frames.md` has every field and limit.
//!
//! Each layout is read through a borrowed view that is checked once, when it is parsed: a view that
//! exists has no span that leaves its bytes. Parsing allocates nothing in proportion to what the
//! bytes claim, only to what they hold, so bytes from a stranger can neither panic the reader nor
//! make it allocate beyond their own length.
#![forbid(unsafe_code)]

mod bytes;

pub mod blobs;
pub mod edits;
pub mod frame;
pub mod groups;
pub mod meta;

pub use blobs::{Blobs, BlobsWriter};
pub use edits::{Edit, Edits, EditsWriter};
pub use frame::{Frame, FrameBuf, Message, Parts, Record};
pub use groups::{Group, Groups, GroupsWriter};
pub use meta::{Meta, MetaKind, MetaWriter};

/// The version of the layouts that this crate reads and writes.
pub const VERSION: u16 = 1;

/// The number of bytes that every layout opens with.
pub const HEADER_BYTES: usize = 16;

/// Stands in the timestamp column for "this message has no event time".
pub const TIMESTAMP_NONE: i64 = i64::MIN;

/// The greatest event time that a message may have: the last millisecond of the year 9999.
pub const TIMESTAMP_MAX_MS: i64 = 253_402_300_799_999;

/// Why bytes are not the layout that they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// What is wrong.
    pub what: &'static str,
    /// Where, in bytes from the start.
    pub at: usize,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at byte {}", self.what, self.at)
    }
}

impl std::error::Error for Malformed {}

/// Whether an event time is one that a message may have: 1970 to the year 9999, in milliseconds.
#[must_use]
pub fn timestamp_in_range(timestamp_ms: i64) -> bool {
    (0..=TIMESTAMP_MAX_MS).contains(&timestamp_ms)
}

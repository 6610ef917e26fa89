//! A log in a directory of its own: records in order, durable when they are said to be, read while they are written.
//!
//! | file | holds |
//! |---|---|
//! | `log.json` | the format, and the incarnation: a random name, made once |
//! | `00000000000000000000.log` … | a segment: frames from the offset in its name on |
//! | `committed` | up to which offset readers may see |
//! | `writer.lock`, `reader.lock` | nothing: held by who writes, by who reads |
//!
//! A frame is a batch of records with one checksum: all of it counts, or nothing. Readers of this process and of
//! others see whole frames below the committed offset, which never goes back. One process writes, one reads.

mod clock;
mod copies;
mod directory;
mod frames;
mod group;
mod keys;
mod layout;
mod marker;
mod read;
mod shared;
mod write;

pub use clock::now_ms;
pub use copies::{LogCopier, LogScan};
pub use directory::{Facts, ReaderLock, facts, remove, trim};
pub use group::{Answer, Append, Appender, AppenderSettings, RequestKey};
pub use layout::{Batch, Record};
pub use read::LogReader;
pub use write::{Keep, LogError, LogWriter, SEGMENT_BYTES, Taken};

/// A log, as this process sees it without looking into its files.
#[derive(Debug, Clone)]
pub struct Watch(std::sync::Arc<shared::Shared>);

impl Watch {
    /// Of the log in a directory, which is there.
    #[must_use]
    pub fn of(directory: &std::path::Path) -> Self {
        Self(shared::Shared::of(directory))
    }

    /// Up to which offset readers may see, as far as this process has noticed; 0 where it has nothing noticed.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.0.committed()
    }
}

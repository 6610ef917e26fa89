//! What `wasmill state` shows of stored state and does with it, whoever asks: the command line over a
//! store of its own, or the HTTP pages over that of a running pipeline.

mod dump;
mod entry;
mod look;
mod rehash;

pub use dump::{ExportError, Header, ImportError, export, import};
pub use entry::{Entry, Filter, Found, PAGE_ENTRIES_MAX, Page, Wanted, decode};
pub use look::{Stats, find, page, stats};
pub use rehash::rehash;

use wasmill_engine::state::StoreError;

/// Why state can't be shown or changed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is nothing to show.
    #[error("nothing is committed yet: run the pipeline first, or `wasmill state import` what was exported")]
    Nothing,
    /// What was asked for isn't there.
    #[error("{0}")]
    Unknown(String),
}

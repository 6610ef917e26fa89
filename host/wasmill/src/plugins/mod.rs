//! The plugins of pipelines as files: which file a stage means, the copies that are kept of what runs, what has become
//! of each version, what processes that share a pipeline agree on. For the runtime, which swaps them, and for `wasmill plugin`.

mod agreed;
mod file;
mod history;
mod shelf;

pub use agreed::{Agreed, Decision};
pub use file::{Change, candidates, file_of, meant, read, with_files};
pub use history::{Entry, Outcome};
pub use shelf::{Noted, Shelf};

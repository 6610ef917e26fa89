//! The plugins of pipelines as files: which file a stage means, the copies that are kept of what runs, what has become
//! of each version. For the runtime, which swaps them, and for `wasmill plugin`.

mod file;
mod history;
mod shelf;

pub use file::{Change, candidates, file_of, meant, with_files};
pub use history::{Entry, Outcome};
pub use shelf::{Noted, Shelf};

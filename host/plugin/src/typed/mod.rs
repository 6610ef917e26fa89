//! The contract's types as Rust's, and the adapter of the typed width: frames into records, records
//! into edits and blobs.

mod convert;
mod types;

pub(crate) use convert::*;
pub(crate) use types::*;

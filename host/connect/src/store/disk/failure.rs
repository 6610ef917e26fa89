//! What the database's failures mean: whether to wait, or to rebuild what is stored.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use wasmill_engine::state::StoreError;

use crate::os;

/// Calls the database. It panics on some damage, which is then told as the damage that it is.
pub(super) fn guarded<T>(directory: &Path, call: impl FnOnce() -> fjall::Result<T>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(done) => done.map_err(|e| store_error(directory, &e)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
            Err(corrupt(directory, format!("the database gave up: {text}")))
        }
    }
}

pub(super) fn corrupt(directory: &Path, cause: String) -> StoreError {
    StoreError::Corrupt { what: format!("the state in {}", directory.display()), cause }
}

pub(super) fn store_error(directory: &Path, error: &fjall::Error) -> StoreError {
    use fjall::Error;
    let path = directory.display().to_string();
    let io = |e: &io::Error| match e.kind() {
        // What is there is too short or is not what it should be; the system refused nothing.
        // A place of a file that can't be is asked for where the place itself is damaged.
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::InvalidData
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::NotFound => corrupt(directory, e.to_string()),
        _ => StoreError::Io { what: format!("the state in {path}"), cause: os::cause(e) },
    };
    match error {
        Error::Locked => StoreError::Locked { path },
        Error::Io(e) | Error::Storage(fjall::LsmError::Io(e)) => io(e),
        Error::Poisoned => StoreError::Io {
            what: format!("the state in {path}"),
            cause: "an earlier write failed, so nothing more is written; start the pipeline again".into(),
        },
        other => corrupt(directory, format!("{other:?}")),
    }
}

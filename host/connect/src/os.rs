//! What the operating system refused, in words that say what to do.

use std::fmt::Display;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) use wasmill_codec::os::refusal as cause;

use crate::ConnectorError;

/// How long one that ends at this moment may take to let go of its lock. A child between fork and exec has it
/// for a moment too, whoever the child is.
const LET_GO_MAX: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// "`what`: cause", as an error that stops the pipeline.
pub(crate) fn fatal(what: impl Display, error: &io::Error) -> ConnectorError {
    ConnectorError::Fatal(format!("{what}: {}", cause(error)))
}

/// Opens a file to lock it.
pub(crate) fn lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(path)
}

/// Locks a file, made where it is missing, while what is returned is kept.
///
/// # Errors
/// `taken` when another has it, `failed` and why when the system refuses.
pub(crate) fn lock(path: &Path, taken: impl Display, failed: impl Display) -> Result<File, ConnectorError> {
    let failed = |e: &io::Error| fatal(&failed, e);
    let file = lock_file(path).map_err(|e| failed(&e))?;
    let since = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if since.elapsed() < LET_GO_MAX => std::thread::sleep(LOOK_AGAIN),
            Err(TryLockError::WouldBlock) => return Err(ConnectorError::Fatal(taken.to_string())),
            Err(TryLockError::Error(e)) => return Err(failed(&e)),
        }
    }
}

/// Runs what blocks off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ConnectorError> + Send + 'static,
) -> Result<T, ConnectorError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(ConnectorError::Fatal(format!("a file operation did not finish: {e}"))),
    }
}

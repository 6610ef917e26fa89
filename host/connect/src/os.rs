//! What the operating system refused, in words that say what to do.

use std::fmt::Display;
use std::io;

use crate::ConnectorError;

/// The cause of an error, and what to do where that is known.
pub(crate) fn cause(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".into(),
        io::ErrorKind::PermissionDenied => {
            "permission denied; run as a user who may, or choose another path".into()
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "no space left; free some and run again: what is committed is safe".into()
        }
        io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only; choose another path".into(),
        io::ErrorKind::NotADirectory => "a part of the path is not a directory".into(),
        _ => error.to_string(),
    }
}

/// "`what`: cause", as an error that stops the pipeline.
pub(crate) fn fatal(what: impl Display, error: &io::Error) -> ConnectorError {
    ConnectorError::Fatal(format!("{what}: {}", cause(error)))
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

//! What the operating system refused, in words that say what to do.

use std::fmt::Display;
use std::io;

pub(crate) use wasmill_codec::os::refusal as cause;

use crate::ConnectorError;

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

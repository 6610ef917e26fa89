//! What the operating system refused, in words that say what to do.

use std::io;

/// The cause of an error, and what to do where that is known.
#[must_use]
pub fn refusal(error: &io::Error) -> String {
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

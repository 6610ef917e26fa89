//! The Python that has other implementations of the codecs.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The Python that `scripts/clients.sh` makes, unless `WASMILL_PYTHON` names one.
///
/// # Panics
/// When it can't be made, with what the script says.
pub fn python() -> PathBuf {
    if let Some(python) = std::env::var_os("WASMILL_PYTHON") {
        return python.into();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/clients.sh");
    let made = Command::new(script).output().expect("scripts/clients.sh");
    assert!(made.status.success(), "this test needs clients: {}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).expect("a path").trim().into()
}

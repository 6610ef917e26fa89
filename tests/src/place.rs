//! A folder in which wasmill is run, with files and plugins in it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::home;
use crate::process::Wasmill;

/// A folder of a test's own; gone with it.
#[derive(Debug)]
pub struct Place(TempDir);

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Place {
    /// An empty folder.
    ///
    /// # Panics
    /// When there can be none.
    #[must_use]
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    /// A folder with these plugins in `plugins`.
    #[must_use]
    pub fn with_plugins(names: &[&str]) -> Self {
        let place = Self::new();
        for name in names {
            place.plugin(name);
        }
        place
    }

    /// A path in it.
    #[must_use]
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file.
    ///
    /// # Panics
    /// When it can't be written.
    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> &Self {
        let path = self.path(name);
        let folder = path.parent().expect("a folder");
        fs::create_dir_all(folder).expect("a folder can be made");
        fs::write(&path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        self
    }

    /// Puts a plugin into `plugins`.
    ///
    /// # Panics
    /// When it is not built.
    pub fn plugin(&self, name: &str) -> &Self {
        let folder = self.path("plugins");
        fs::create_dir_all(&folder).expect("a folder can be made");
        let (from, to) = (home::plugin(name), folder.join(format!("{name}.wasm")));
        fs::copy(&from, to).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
        self
    }

    /// Puts every file of a folder beside the place's own, folders in it left out.
    ///
    /// # Panics
    /// When one can't be read.
    pub fn copy_of(&self, folder: &Path) -> &Self {
        let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for entry in entries.flatten().filter(|e| e.path().is_file()) {
            fs::copy(entry.path(), self.path(entry.file_name())).expect("a file can be copied");
        }
        self
    }

    /// The text of a file; empty where there is none.
    #[must_use]
    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Removes what runs have left: state and outputs of these names.
    ///
    /// # Panics
    /// When one can't be removed.
    pub fn forget(&self, names: &[&str]) -> &Self {
        for name in names {
            match fs::remove_dir_all(self.path(name)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => panic!("{name}: {e}"),
                _ => {}
            }
        }
        self
    }

    /// wasmill with these arguments, not started yet.
    #[must_use]
    pub fn wasmill<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Wasmill {
        Wasmill::new(self.0.path(), args)
    }

    /// `wasmill run pipeline.yaml`, not started yet.
    #[must_use]
    pub fn pipeline(&self) -> Wasmill {
        self.wasmill(["run", "pipeline.yaml"])
    }
}

//! Which of the databases in a directory counts: the one of the greatest number.
//!
//! A database that takes another's place is made under a name that does not count, and gets the next
//! number by a rename once it is whole: so a crash leaves the old one or the new one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// One database's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    number: u64,
    /// Whether it does not count yet.
    is_new: bool,
}

impl Place {
    /// The place that counts.
    pub fn current(directory: &Path) -> io::Result<Self> {
        let mut number = 0;
        for name in names(directory)? {
            if let Some(found) = name.strip_prefix("db.").and_then(|n| n.parse().ok()) {
                number = number.max(found);
            }
        }
        Ok(Self { number, is_new: false })
    }

    /// The place for a database that is to follow this one.
    pub fn next(self) -> Self {
        Self { number: self.number + 1, is_new: true }
    }

    /// The database's folder.
    pub fn database(self, directory: &Path) -> PathBuf {
        let end = if self.is_new { ".new" } else { "" };
        directory.join(match self.number {
            0 => format!("db{end}"),
            number => format!("db.{number}{end}"),
        })
    }

    /// The file that says how far the database must be.
    pub fn head(self, directory: &Path) -> PathBuf {
        directory.join(match self.number {
            0 => "HEAD".to_owned(),
            number => format!("HEAD.{number}"),
        })
    }

    /// Removes what is left of a database that never came to count.
    pub fn clear(self, directory: &Path) -> io::Result<()> {
        remove(&self.database(directory))?;
        remove(&self.head(directory))
    }

    /// Makes a whole, closed database count.
    pub fn promote(self, directory: &Path) -> io::Result<()> {
        let counts = Self { is_new: false, ..self };
        fs::File::open(self.head(directory))?.sync_all()?;
        fs::rename(self.database(directory), counts.database(directory))?;
        fs::File::open(directory)?.sync_all()
    }

    /// Removes the databases that this one has taken the place of.
    pub fn remove_older(self, directory: &Path) -> io::Result<()> {
        for number in 0..self.number {
            Self { number, is_new: false }.clear(directory)?;
        }
        Ok(())
    }
}

/// Removes every database of a directory, and what belongs to them.
pub(super) fn remove_all(directory: &Path) -> io::Result<()> {
    for name in names(directory)? {
        if ["db", "HEAD", "FORMAT"].contains(&name.split('.').next().unwrap_or_default()) {
            remove(&directory.join(name))?;
        }
    }
    Ok(())
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    let names = fs::read_dir(directory)?.map(|e| Ok(e?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

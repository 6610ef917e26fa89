//! Looks at the database's own files before it opens them, for damage that it would not tell.
//!
//! fjall 3.1 writes a hash of the file that lists its tables but doesn't compare it, and believes a
//! table's number of sections before it checks them, which may ask for more memory than there is.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use xxhash_rust::xxh3::xxh3_128;

/// `current`: the number of the list u64, its hash u128, the kind of hash u8 (0: xxh3).
const CURRENT_BYTES: usize = 25;
/// A table's end: magic, version u8, kind of hash u8, hash u128, place u64 and length u64 of the sections' list.
const TRAILER_BYTES: u64 = 38;
const TRAILER_MAGIC: &[u8] = b"SFA!\x01\x00";
/// A section in that list is at least two u64 and one u16.
const SECTION_BYTES_MIN: u64 = 18;

/// What is damaged in a database's directory; none where nothing was found, or nothing is there.
pub(super) fn damage(database: &Path) -> io::Result<Option<String>> {
    for tree in entries(&database.join("keyspaces"))? {
        if let Some(damage) = list_damage(&tree)? {
            return Ok(Some(damage));
        }
        for table in entries(&tree.join("tables"))? {
            if has_too_many_sections(&table)? {
                return Ok(Some(format!("{} lists more sections than it can have", table.display())));
            }
        }
    }
    Ok(None)
}

/// Removes what is left of a database whose making was cut off by a crash: fjall makes its `version` last, and
/// takes a folder without it for an empty one. To be called where nothing can be stored yet.
pub(super) fn clear_half_made(database: &Path) -> io::Result<()> {
    let is_made = fs::metadata(database.join("version")).is_ok_and(|version| version.len() > 0);
    let lock = match File::open(database.join("lock")) {
        Ok(lock) if !is_made => lock,
        Ok(_) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    if lock.try_lock().is_err() {
        // Somebody makes it now.
        return Ok(());
    }
    for entry in entries(database)? {
        match entry.file_name() {
            Some(name) if name == "lock" => {}
            _ if entry.is_dir() => fs::remove_dir_all(&entry)?,
            _ => fs::remove_file(&entry)?,
        }
    }
    Ok(())
}

fn entries(directory: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|e| e.map(|e| e.path())).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

fn list_damage(tree: &Path) -> io::Result<Option<String>> {
    let current = match fs::read(tree.join("current")) {
        Ok(current) => current,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let parts = (current.len() == CURRENT_BYTES).then(|| {
        Some((u64::from_le_bytes(*current.first_chunk()?), u128::from_le_bytes(*current[8..].first_chunk()?)))
    });
    // Of another length, it is for the database to judge.
    let Some((number, sum)) = parts.flatten() else { return Ok(None) };
    let list = tree.join(format!("v{number}"));
    match fs::read(&list) {
        Ok(bytes) if xxh3_128(&bytes) == sum => Ok(None),
        Ok(_) => Ok(Some(format!("{} doesn't have its hash", list.display()))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Some(format!("{} is missing", list.display()))),
        Err(e) => Err(e),
    }
}

fn has_too_many_sections(table: &Path) -> io::Result<bool> {
    let mut file = File::open(table)?;
    let length = file.metadata()?.len();
    // A table that was never finished has no such end, and nobody opens it.
    let Some(end) = length.checked_sub(TRAILER_BYTES) else { return Ok(false) };
    let mut trailer = [0; TRAILER_BYTES as usize];
    file.seek(SeekFrom::Start(end))?;
    file.read_exact(&mut trailer)?;
    let at = trailer[22..].first_chunk().map_or(u64::MAX, |b| u64::from_le_bytes(*b));
    if !trailer.starts_with(TRAILER_MAGIC) || at.saturating_add(8) > end {
        return Ok(false);
    }
    let mut head = [0; 8];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut head)?;
    let sections = head[4..].first_chunk().map_or(u32::MAX, |b| u32::from_le_bytes(*b));
    Ok(u64::from(sections) > (end - at) / SECTION_BYTES_MIN)
}

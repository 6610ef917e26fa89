//! The compile cache: compiled components by digest, wasmtime version and configuration.
//!
//! An entry is `magic · code · compiled component`; the code is blake3 keyed by a secret that only this
//! user can read, over the entry's name and bytes. An entry that is cut short, changed or written
//! elsewhere is compiled again, never run.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

const MAGIC: &[u8; 8] = b"WMAOT-1\n";
const CODE_BYTES: usize = 32;
const KEY_BYTES: usize = 32;
const ENTRY_ENDING: &str = "aot";
/// Notes are entries of their own kind: what they authenticate is never code.
const NOTE_ENDING: &str = "note";
/// How many notes are kept; the oldest go first.
const NOTES_MAX: usize = 1_024;

/// The compile cache in one directory.
#[derive(Debug)]
pub(crate) struct Cache {
    directory: PathBuf,
    key: [u8; KEY_BYTES],
    bytes_max: u64,
}

/// Bytes of an entry that the cache's key has authenticated.
pub(crate) struct Authentic(Vec<u8>);

impl Authentic {
    pub fn bytes(&self) -> &[u8] {
        &self.0[MAGIC.len() + CODE_BYTES..]
    }
}

impl Cache {
    /// Opens the cache, making directory and key where there is none.
    pub fn open(directory: &Path, bytes_max: u64) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let key = open_key(&directory.join("key"))?;
        Ok(Self { directory: directory.to_owned(), key, bytes_max })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.{ENTRY_ENDING}"))
    }

    fn code(&self, name: &str, bytes: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes()).update(bytes);
        hasher.finalize()
    }

    /// An entry, if there is one and it is this cache's own.
    pub fn get(&self, name: &str) -> Option<Authentic> {
        let path = self.path(name);
        let mut bytes = Vec::new();
        fs::File::open(&path).ok()?.take(self.bytes_max).read_to_end(&mut bytes).ok()?;
        let body_at = MAGIC.len() + CODE_BYTES;
        let code: [u8; CODE_BYTES] = bytes.get(MAGIC.len()..body_at)?.try_into().ok()?;
        // blake3's comparison takes the same time wherever the codes differ.
        if bytes.starts_with(MAGIC) && self.code(name, &bytes[body_at..]) == blake3::Hash::from_bytes(code) {
            return Some(Authentic(bytes));
        }
        tracing::warn!(path = %path.display(), "compile cache entry is damaged or foreign; compiling again");
        None
    }

    /// Puts an entry in. A reader sees all of it or none.
    pub fn put(&self, name: &str, compiled: &[u8]) -> io::Result<()> {
        self.make_room(compiled.len() as u64)?;
        let code = self.code(name, compiled);
        let temporary = temporary_path(&self.path(name));
        let write = || {
            let mut file = create_private(&temporary)?;
            for part in [&MAGIC[..], code.as_bytes(), compiled] {
                file.write_all(part)?;
            }
            drop(file);
            fs::rename(&temporary, self.path(name))
        };
        write().inspect_err(|_| drop(fs::remove_file(&temporary)))
    }

    fn note_path(&self, what: &str) -> PathBuf {
        self.directory.join(format!("{}.{NOTE_ENDING}", blake3::hash(what.as_bytes()).to_hex()))
    }

    fn note_code(&self, what: &str) -> blake3::Hash {
        // No entry has a name with a space: an entry's code is no note's, nor the other way round.
        self.code("a note", what.as_bytes())
    }

    /// Whether this was noted.
    pub fn has_note(&self, what: &str) -> bool {
        let mut bytes = Vec::new();
        let read = fs::File::open(self.note_path(what))
            .and_then(|file| file.take(CODE_BYTES as u64 + 1).read_to_end(&mut bytes));
        let code: Result<[u8; CODE_BYTES], _> = bytes.try_into();
        read.is_ok() && code.is_ok_and(|code| self.note_code(what) == blake3::Hash::from_bytes(code))
    }

    /// Notes something for this process and later ones.
    pub fn note(&self, what: &str) -> io::Result<()> {
        let mut notes = self.entries(NOTE_ENDING)?;
        notes.truncate(notes.len().saturating_sub(NOTES_MAX - 1));
        notes.into_iter().try_for_each(|(_, _, path)| fs::remove_file(path))?;
        let path = self.note_path(what);
        let temporary = temporary_path(&path);
        let write = || {
            create_private(&temporary)?.write_all(self.note_code(what).as_bytes())?;
            fs::rename(&temporary, &path)
        };
        write().inspect_err(|_| drop(fs::remove_file(&temporary)))
    }

    /// Removes the oldest entries until there is room for one of this size.
    fn make_room(&self, wanted: u64) -> io::Result<()> {
        let entries = self.entries(ENTRY_ENDING)?;
        let mut total: u64 = entries.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in entries {
            if total.saturating_add(wanted) <= self.bytes_max {
                break;
            }
            fs::remove_file(path)?;
            total -= bytes;
        }
        Ok(())
    }

    /// The files with this ending, the oldest first, with their sizes.
    fn entries(&self, ending: &str) -> io::Result<Vec<(Option<SystemTime>, u64, PathBuf)>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.directory)?.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == ending)
                && let Ok(meta) = entry.metadata()
            {
                entries.push((meta.modified().ok(), meta.len(), path));
            }
        }
        entries.sort();
        Ok(entries)
    }
}

/// A path beside this one that no other writer uses.
fn temporary_path(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    path.with_extension(format!("{}-{number}.tmp", std::process::id()))
}

fn create_private(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Reads the key; makes a new one where there is none, or where others could have read it.
fn open_key(path: &Path) -> io::Result<[u8; KEY_BYTES]> {
    if let Some(key) = read_key(path) {
        return Ok(key);
    }
    if path.exists() {
        tracing::warn!(path = %path.display(), "compile cache key is damaged or readable by others; making a new one");
        fs::remove_file(path)?;
    }
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key).map_err(|e| io::Error::other(e.to_string()))?;
    let temporary = temporary_path(path);
    create_private(&temporary)?.write_all(&key)?;
    // A link, unlike a rename, fails where another process was first: its key is then the one to use.
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary)?;
    match linked {
        Ok(()) => Ok(key),
        Err(e) => read_key(path).ok_or(e),
    }
}

fn read_key(path: &Path) -> Option<[u8; KEY_BYTES]> {
    #[cfg(unix)]
    if std::os::unix::fs::MetadataExt::mode(&fs::metadata(path).ok()?) & 0o077 != 0 {
        return None;
    }
    fs::read(path).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("wasmill-cache-{}-{name}", std::process::id()));
        drop(fs::remove_dir_all(&directory));
        directory
    }

    #[test]
    fn only_what_this_cache_wrote_under_this_name_comes_back() {
        let at = directory("foreign");
        let cache = Cache::open(&at, 1 << 20).expect("open");
        cache.put("a", b"compiled").expect("put");
        assert_eq!(cache.get("a").expect("own entry").bytes(), b"compiled");

        let whole = fs::read(cache.path("a")).expect("read");
        fs::write(cache.path("b"), &whole).expect("write");
        assert!(cache.get("b").is_none(), "an entry under another name");
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(cache.path("a"), &changed).expect("write");
            assert!(cache.get("a").is_none(), "a flip at byte {at}");
            fs::write(cache.path("a"), &whole[..at]).expect("write");
            assert!(cache.get("a").is_none(), "cut at byte {at}");
        }
        fs::write(cache.path("a"), &whole).expect("write");
        assert!(Cache::open(&at, 1 << 20).expect("open").get("a").is_some(), "the same key after a restart");

        fs::remove_file(at.join("key")).expect("remove");
        assert!(Cache::open(&at, 1 << 20).expect("open").get("a").is_none(), "another key");
        fs::remove_dir_all(at).expect("remove");
    }

    #[test]
    fn a_note_is_this_cache_s_own_and_about_one_thing() {
        let at = directory("notes");
        let cache = Cache::open(&at, 1 << 20).expect("open");
        assert!(!cache.has_note("a"));
        cache.note("a").expect("noted");
        assert!(cache.has_note("a") && !cache.has_note("b"));
        assert!(Cache::open(&at, 1 << 20).expect("open").has_note("a"), "after a restart");
        fs::copy(cache.note_path("a"), cache.note_path("b")).expect("copied");
        assert!(!cache.has_note("b"), "another's");
        let whole = fs::read(cache.note_path("a")).expect("read");
        for bytes in [&whole[1..], &[&whole[..], b"x"].concat(), b""] {
            fs::write(cache.note_path("a"), bytes).expect("written");
            assert!(!cache.has_note("a"), "{} bytes", bytes.len());
        }
        for i in 0..NOTES_MAX + 3 {
            cache.note(&i.to_string()).expect("noted");
        }
        assert_eq!(cache.entries(NOTE_ENDING).expect("entries").len(), NOTES_MAX);
        assert!(cache.has_note(&(NOTES_MAX + 2).to_string()), "the newest");
        fs::remove_dir_all(at).expect("remove");
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_can_read_is_replaced() {
        use std::os::unix::fs::PermissionsExt;
        let at = directory("key");
        let first = Cache::open(&at, 1 << 20).expect("open").key;
        let mode = |m| fs::set_permissions(at.join("key"), fs::Permissions::from_mode(m)).expect("chmod");
        assert_eq!(Cache::open(&at, 1 << 20).expect("open").key, first);
        mode(0o644);
        let second = Cache::open(&at, 1 << 20).expect("open").key;
        assert_ne!(second, first);
        assert_eq!(fs::metadata(at.join("key")).expect("meta").permissions().mode() & 0o777, 0o600);
        fs::remove_dir_all(at).expect("remove");
    }

    #[test]
    fn the_oldest_entries_make_room() {
        let at = directory("room");
        let cache = Cache::open(&at, 3000).expect("open");
        let mut when = std::time::UNIX_EPOCH;
        for name in ["a", "b", "c", "d"] {
            cache.put(name, &[7; 1000]).expect("put");
            if let Ok(file) = fs::File::options().write(true).open(cache.path(name)) {
                when += std::time::Duration::from_secs(60);
                file.set_modified(when).expect("set time");
            }
        }
        let left: Vec<_> = ["a", "b", "c", "d"].into_iter().filter(|n| cache.get(n).is_some()).collect();
        assert_eq!(left, ["c", "d"]);
        fs::remove_dir_all(at).expect("remove");
    }
}

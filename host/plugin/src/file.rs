//! Reads files that anybody may have put where plugins are: by kind and size, never on trust.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::path::Path;

/// The size of a plugin's file: 64 MiB.
pub const FILE_BYTES_MAX: usize = 64 << 20;

/// Reads a file whole, if it is one and has at most so many bytes. What is no file is neither waited for, as a FIFO
/// without a writer would be, nor read, as a device without an end.
///
/// # Errors
/// The system's; or what is there instead of a file, or how large it is, and what to do. Without the path: who asks
/// knows it.
pub fn read_file(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        let what = kind(found.file_type());
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("it is {what}, no file: put a file in its place, or take it away"),
        ));
    }
    let too_large = |bytes: u64| {
        let text = format!(
            "it has {bytes} bytes, and at most {bytes_max} are read: put the right file in its place, or a smaller one"
        );
        Err(io::Error::new(io::ErrorKind::FileTooLarge, text))
    };
    let most = u64::try_from(bytes_max).unwrap_or(u64::MAX);
    if found.len() > most {
        return too_large(found.len());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(found.len()).unwrap_or(bytes_max));
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    // It may have grown meanwhile, or be one of the system's, which tell no size.
    if bytes.len() > bytes_max { too_large(bytes.len() as u64) } else { Ok(bytes) }
}

#[cfg(unix)]
fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;

    use rustix::fs::OFlags;
    // Opening a FIFO waits for its writer, and opening a terminal may make it this process's.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

#[cfg(not(unix))]
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).open(path)
}

fn kind(found: std::fs::FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        if found.is_fifo() {
            return "a FIFO";
        }
        if found.is_socket() {
            return "a socket";
        }
        if found.is_char_device() || found.is_block_device() {
            return "a device";
        }
    }
    if found.is_dir() { "a folder" } else { "something else" }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where nothing else writes.
    fn folder(name: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("wasmill-file-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    fn refused(path: &Path) -> String {
        read_file(path, 1_000).expect_err("refused").to_string()
    }

    #[test]
    fn a_file_is_read_up_to_its_bound() {
        let folder = folder("bound");
        let path = folder.join("a");
        for (bytes, is_read) in [(0, true), (1_000, true), (1_001, false)] {
            std::fs::write(&path, vec![b'a'; bytes]).expect("written");
            assert_eq!(read_file(&path, 1_000).ok().map(|b| b.len()), is_read.then_some(bytes));
        }
        assert_eq!(
            refused(&path),
            "it has 1001 bytes, and at most 1000 are read: put the right file in its place, or a smaller one"
        );
        // Nothing of it is on the disk, and nothing of it may be in memory.
        File::create(&path).and_then(|file| file.set_len(12 << 30)).expect("a sparse file");
        assert!(refused(&path).starts_with("it has 12884901888 bytes"));
        assert_eq!(
            read_file(&folder.join("nowhere"), 1_000).expect_err("none").kind(),
            io::ErrorKind::NotFound
        );
        std::fs::remove_dir_all(folder).expect("removed");
    }

    /// Red is a test that doesn't end, or ends for want of memory.
    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_no_file_is_neither_waited_for_nor_read() {
        let folder = folder("kinds");
        let fifo = folder.join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo");
        assert!(made.success());
        assert_eq!(refused(&fifo), "it is a FIFO, no file: put a file in its place, or take it away");
        let zero = folder.join("zero");
        std::os::unix::fs::symlink("/dev/zero", &zero).expect("a link");
        assert!(refused(&zero).starts_with("it is a device, no file"), "{}", refused(&zero));
        assert!(refused(&folder).starts_with("it is a folder, no file"), "{}", refused(&folder));
        // The system's own files tell no size.
        assert!(read_file(Path::new("/proc/self/status"), 1 << 20).is_ok_and(|bytes| !bytes.is_empty()));
        assert!(read_file(Path::new("/proc/self/status"), 10).is_err());
        std::fs::remove_dir_all(folder).expect("removed");
    }
}

//! Reads the frames of one segment, from its start on.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::directory::segment_path;
use super::layout::{HEADER_BYTES, Header, MAGIC, is_sound};

/// How much one read brings, unless a frame is longer.
const READ_BYTES: usize = 256 * 1024;

/// The frames of a segment.
pub(super) struct Frames {
    file: File,
    path: PathBuf,
    base: u64,
    /// What was read, from the byte `from` of the file on, and how much of it is used up.
    buffer: Vec<u8>,
    from: u64,
    used: usize,
    /// The offset that the next frame must have.
    next: u64,
}

/// What stands next in a segment.
pub(super) enum Found<'a> {
    /// A whole frame: its header and its body.
    Frame(Header, &'a [u8]),
    /// Nothing.
    End,
    /// Something that is no whole frame: why.
    Bad(&'static str),
}

impl Frames {
    /// The frames of the segment that begins at an offset.
    pub fn open(directory: &Path, base: u64) -> io::Result<Self> {
        let path = segment_path(directory, base);
        let file = File::open(&path)?;
        Ok(Self { file, path, base, buffer: Vec::new(), from: 0, used: 0, next: base })
    }

    /// The segment's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The offset that the segment begins with.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// At which byte of the file the next frame begins.
    pub fn at(&self) -> u64 {
        self.from + self.used as u64
    }

    /// The offset of the next frame.
    pub fn next_offset(&self) -> u64 {
        self.next
    }

    /// Forgets what was read ahead: it may be written anew.
    pub fn forget(&mut self) {
        self.from = self.at();
        self.used = 0;
        self.buffer.clear();
    }

    /// The next frame; goes behind it where it is whole.
    pub fn next(&mut self) -> io::Result<Found<'_>> {
        if self.ahead() < HEADER_BYTES {
            self.fill(READ_BYTES)?;
        }
        if self.ahead() == 0 {
            return Ok(Found::End);
        }
        if self.ahead() < HEADER_BYTES {
            return Ok(Found::Bad("a frame's header is cut off"));
        }
        let Some(header) = Header::read(&self.buffer[self.used..]) else {
            return Ok(Found::Bad("no frame begins here"));
        };
        let length = usize::try_from(header.frame_bytes()).unwrap_or(usize::MAX);
        if self.ahead() < length {
            // A length that is damaged must not make the buffer grow.
            if self.file.metadata()?.len() < self.at().saturating_add(header.frame_bytes()) {
                return Ok(Found::Bad("a frame is cut off"));
            }
            self.fill(length.max(READ_BYTES))?;
        }
        let Some(frame) = self.buffer.get(self.used..self.used + length) else {
            return Ok(Found::Bad("a frame is cut off"));
        };
        if !is_sound(frame) {
            return Ok(Found::Bad("a frame's checksum is another"));
        }
        if header.base != self.next {
            return Ok(Found::Bad("a frame's offset is another"));
        }
        self.next += u64::from(header.count);
        self.used += length;
        Ok(Found::Frame(header, &frame[HEADER_BYTES..]))
    }

    fn ahead(&self) -> usize {
        self.buffer.len() - self.used
    }

    /// Reads until `most` bytes are ahead, or the file ends.
    fn fill(&mut self, most: usize) -> io::Result<()> {
        self.from += self.used as u64;
        self.buffer.drain(..self.used);
        self.used = 0;
        let mut filled = self.buffer.len();
        self.buffer.resize(most.max(filled), 0);
        let done = loop {
            if filled == self.buffer.len() {
                break Ok(());
            }
            match self.file.read_at(&mut self.buffer[filled..], self.from + filled as u64) {
                Ok(0) => break Ok(()),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Err(e),
            }
        };
        self.buffer.truncate(filled);
        done
    }

    /// Whether a whole frame stands anywhere behind here: then what is here is damage, not a write that a crash
    /// cut short.
    pub fn is_any_behind(&mut self) -> io::Result<bool> {
        let length = usize::try_from(self.file.metadata()?.len() - self.at()).unwrap_or(usize::MAX);
        self.fill(length)?;
        let ahead = &self.buffer[self.used..];
        let is_frame = |at: usize| {
            let header = Header::read(&ahead[at..])?;
            let end = usize::try_from(header.frame_bytes()).ok()?.checked_add(at)?;
            (header.base >= self.next && is_sound(ahead.get(at..end)?)).then_some(())
        };
        Ok(memchr::memmem::find_iter(ahead, &MAGIC).any(|at| at > 0 && is_frame(at).is_some()))
    }
}

//! Blobs: a list of byte strings, each with a tag whose meaning the call defines.
//!
//! ```text
//! header   16 bytes   magic "WML1" · version u16 · zero u16 · blobs u32 · zero u32
//! table    12 bytes a blob: tag u32 · offset u32 · length u32
//! arena               the bytes that the spans point into, relative to its start
//! ```
//!
//! All blobs together have no more bytes than the arena: whoever takes a copy of each takes no more than was sent.

use crate::bytes::{check_span, length, read_header, table_end, u32_at, write_header};
use crate::{HEADER_BYTES, Malformed};

/// The magic word of blobs.
pub const MAGIC: [u8; 4] = *b"WML1";
/// The size of one blob's entry in the table.
pub const ENTRY_BYTES: usize = 12;

/// A checked view of blobs.
#[derive(Debug, Clone, Copy)]
pub struct Blobs<'a> {
    table: &'a [u8],
    arena: &'a [u8],
}

impl<'a> Blobs<'a> {
    /// Checks blobs.
    ///
    /// # Errors
    /// What is wrong, and at which byte.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (count, zero) = read_header(bytes, MAGIC)?;
        if zero != 0 {
            return Err(Malformed { what: "reserved bytes not zero", at: 12 });
        }
        let end = table_end(bytes, HEADER_BYTES, count, ENTRY_BYTES)?;
        let (table, arena) = (&bytes[HEADER_BYTES..end], &bytes[end..]);
        let mut bytes_left = arena.len();
        for (i, e) in table.chunks_exact(ENTRY_BYTES).enumerate() {
            let at = HEADER_BYTES + i * ENTRY_BYTES + 4;
            check_span(u32_at(e, 4), u32_at(e, 8), arena.len(), at)?;
            bytes_left = bytes_left
                .checked_sub(u32_at(e, 8) as usize)
                .ok_or(Malformed { what: "blobs with more bytes together than their arena", at })?;
        }
        Ok(Self { table, arena })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len() / ENTRY_BYTES
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The blobs in order, each with its tag.
    pub fn iter(self) -> impl ExactSizeIterator<Item = (u32, &'a [u8])> {
        self.table.chunks_exact(ENTRY_BYTES).map(move |e| {
            let start = u32_at(e, 4) as usize;
            (u32_at(e, 0), &self.arena[start..start + u32_at(e, 8) as usize])
        })
    }
}

/// Writes blobs.
#[derive(Debug, Clone, Default)]
pub struct BlobsWriter {
    table: Vec<u8>,
    arena: Vec<u8>,
}

impl BlobsWriter {
    /// No blobs yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a blob.
    pub fn push(&mut self, tag: u32, bytes: &[u8]) {
        self.push_with(tag, |arena| arena.extend_from_slice(bytes));
    }

    /// Adds a blob that `write` appends to the arena, which saves a copy.
    pub fn push_with(&mut self, tag: u32, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.arena.len();
        write(&mut self.arena);
        for word in [tag, length(start), length(self.arena.len() - start)] {
            self.table.extend_from_slice(&word.to_le_bytes());
        }
    }

    /// Whether there is none yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The finished layout.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        write_header(&mut bytes, MAGIC, length(self.table.len() / ENTRY_BYTES), 0);
        bytes.reserve_exact(self.table.len() + self.arena.len());
        bytes.extend_from_slice(&self.table);
        bytes.extend_from_slice(&self.arena);
        bytes
    }
}

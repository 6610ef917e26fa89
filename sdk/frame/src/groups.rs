//! Groups: accumulators, each with the messages of a frame to fold into it.
//!
//! ```text
//! header   16 bytes   magic "WMG1" · version u16 · zero u16 · groups u32 · indices u32
//! table    16 bytes a group: accumulator (offset u32, length u32) · first index u32 · indices u32
//! indices  4 bytes each, a message's place in the frame; those of a group stand together, rising
//! arena               the accumulators
//! ```

use crate::bytes::{check_span, length, read_header, table_end, u32_at, write_header};
use crate::{HEADER_BYTES, Malformed};

/// The magic word of groups.
pub const MAGIC: [u8; 4] = *b"WMG1";
const ENTRY_BYTES: usize = 16;

/// One group.
#[derive(Debug, Clone, Copy)]
pub struct Group<'a> {
    /// The accumulator so far.
    pub accumulator: &'a [u8],
    indices: &'a [u8],
}

impl<'a> Group<'a> {
    /// The places in the frame of the messages to fold, rising.
    pub fn indices(&self) -> impl ExactSizeIterator<Item = usize> + 'a {
        self.indices.chunks_exact(4).map(|b| u32_at(b, 0) as usize)
    }
}

/// A checked view of groups.
#[derive(Debug, Clone, Copy)]
pub struct Groups<'a> {
    table: &'a [u8],
    indices: &'a [u8],
    arena: &'a [u8],
}

impl<'a> Groups<'a> {
    /// Checks groups over a frame of `messages` messages.
    ///
    /// # Errors
    /// What is wrong, and at which byte.
    pub fn parse(bytes: &'a [u8], messages: usize) -> Result<Self, Malformed> {
        let (groups, count) = read_header(bytes, MAGIC)?;
        let table_end_at = table_end(bytes, HEADER_BYTES, groups, ENTRY_BYTES)?;
        let indices_end = table_end(bytes, table_end_at, count, 4)?;
        let view = Self {
            table: &bytes[HEADER_BYTES..table_end_at],
            indices: &bytes[table_end_at..indices_end],
            arena: &bytes[indices_end..],
        };
        for (i, e) in view.table.chunks_exact(ENTRY_BYTES).enumerate() {
            let at = HEADER_BYTES + i * ENTRY_BYTES;
            check_span(u32_at(e, 0), u32_at(e, 4), view.arena.len(), at)?;
            check_span(u32_at(e, 8), u32_at(e, 12), count as usize, at + 8)?;
        }
        for (i, index) in view.indices.chunks_exact(4).enumerate() {
            if u32_at(index, 0) as usize >= messages {
                let what = "index out of the frame";
                return Err(Malformed { what, at: table_end_at + 4 * i });
            }
        }
        Ok(view)
    }

    /// How many groups there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len() / ENTRY_BYTES
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The groups in order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = Group<'a>> {
        self.table.chunks_exact(ENTRY_BYTES).map(move |e| {
            let at = u32_at(e, 0) as usize;
            let first = 4 * u32_at(e, 8) as usize;
            Group {
                accumulator: &self.arena[at..at + u32_at(e, 4) as usize],
                indices: &self.indices[first..first + 4 * u32_at(e, 12) as usize],
            }
        })
    }
}

/// Writes groups.
#[derive(Debug, Clone, Default)]
pub struct GroupsWriter {
    table: Vec<u8>,
    indices: Vec<u8>,
    arena: Vec<u8>,
}

impl GroupsWriter {
    /// No groups yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a group; its indices must rise.
    pub fn push(&mut self, accumulator: &[u8], indices: impl IntoIterator<Item = usize>) {
        let first = self.indices.len() / 4;
        for index in indices {
            self.indices.extend_from_slice(&length(index).to_le_bytes());
        }
        let count = self.indices.len() / 4 - first;
        for word in [self.arena.len(), accumulator.len(), first, count] {
            self.table.extend_from_slice(&length(word).to_le_bytes());
        }
        self.arena.extend_from_slice(accumulator);
    }

    /// The finished layout.
    #[must_use]
    pub fn finish(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        let (groups, indices) = (self.table.len() / ENTRY_BYTES, self.indices.len() / 4);
        write_header(&mut bytes, MAGIC, length(groups), length(indices));
        bytes.reserve_exact(self.table.len() + self.indices.len() + self.arena.len());
        for part in [&self.table, &self.indices, &self.arena] {
            bytes.extend_from_slice(part);
        }
        bytes
    }

    /// Removes all groups and keeps the room.
    pub fn clear(&mut self) {
        for part in [&mut self.table, &mut self.indices, &mut self.arena] {
            part.clear();
        }
    }
}

//! The metadata column: names with values, in the order they came.
//!
//! One entry is `name length u16 · kind u8 · zero u8 · value length u32 · name · value`.

use crate::Malformed;
use crate::bytes::{length, u16_at, u32_at};

/// The size of an entry's head, before its name and its value.
pub const ENTRY_BYTES: usize = 8;

/// What an entry of the metadata column is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaKind {
    /// Metadata whose value is text.
    Text,
    /// Metadata whose value is any other JSON, kept to the letter.
    Json,
    /// A field of the envelope that wasmill does not know, its value JSON: it survives, unseen by plugins.
    Field,
    /// The timestamp as it came, where that was text (RFC 3339): unseen by plugins, dropped when the
    /// timestamp is changed.
    Timestamp,
}

impl MetaKind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Text, Self::Json, Self::Field, Self::Timestamp].get(byte as usize).copied()
    }

    /// Whether plugins see the entry as metadata.
    #[must_use]
    pub fn is_metadata(self) -> bool {
        matches!(self, Self::Text | Self::Json)
    }
}

/// One entry of the metadata column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What it is.
    pub kind: MetaKind,
    /// Its name; text.
    pub name: &'a [u8],
    /// Its value: text, or JSON as `kind` says.
    pub value: &'a [u8],
}

/// A view of a message's metadata column.
#[derive(Debug, Clone, Copy, Default)]
pub struct Meta<'a>(&'a [u8]);

impl<'a> Meta<'a> {
    /// Wraps a column whose bytes were checked, or that this crate wrote.
    #[must_use]
    pub fn new(column: &'a [u8]) -> Self {
        Self(column)
    }

    /// Checks a column.
    ///
    /// # Errors
    /// When an entry leaves the column, has an unknown kind, or is not text where it must be.
    pub fn parse(column: &'a [u8]) -> Result<Self, Malformed> {
        let mut at = 0;
        while at < column.len() {
            let (entry, next) = read(column, at)?;
            let text = matches!(entry.kind, MetaKind::Text | MetaKind::Timestamp);
            if std::str::from_utf8(entry.name).is_err() || (text && std::str::from_utf8(entry.value).is_err())
            {
                return Err(Malformed { what: "metadata is not UTF-8", at });
            }
            at = next;
        }
        Ok(Self(column))
    }

    /// Every entry, those that plugins don't see included.
    pub fn entries(self) -> impl Iterator<Item = Entry<'a>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let (entry, next) = read(self.0, at).ok()?;
            at = next;
            Some(entry)
        })
    }

    /// The metadata of this name: the last one, where a name stands twice.
    #[must_use]
    pub fn get(self, name: &str) -> Option<Entry<'a>> {
        self.entries().filter(|e| e.kind.is_metadata() && e.name == name.as_bytes()).last()
    }

    /// The timestamp as it came, where it came as text.
    #[must_use]
    pub fn timestamp_text(self) -> Option<&'a [u8]> {
        self.entries().find(|e| e.kind == MetaKind::Timestamp).map(|e| e.value)
    }

    /// The column's bytes.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

fn read(column: &[u8], at: usize) -> Result<(Entry<'_>, usize), Malformed> {
    let name_at = at + ENTRY_BYTES;
    if name_at > column.len() {
        return Err(Malformed { what: "metadata entry leaves its column", at });
    }
    let kind = MetaKind::from_byte(column[at + 2])
        .ok_or(Malformed { what: "unknown kind of metadata", at: at + 2 })?;
    let value_at = name_at + u16_at(column, at) as usize;
    let end = value_at.checked_add(u32_at(column, at + 4) as usize);
    match end {
        Some(end) if end <= column.len() => {
            Ok((Entry { kind, name: &column[name_at..value_at], value: &column[value_at..end] }, end))
        }
        _ => Err(Malformed { what: "metadata entry leaves its column", at }),
    }
}

/// Writes one entry behind what is there.
pub(crate) fn write_entry(column: &mut Vec<u8>, kind: MetaKind, name: &[u8], value: &[u8]) {
    let Ok(name_bytes) = u16::try_from(name.len()) else {
        panic!("a metadata name of {} bytes", name.len());
    };
    let [n0, n1] = name_bytes.to_le_bytes();
    let [v0, v1, v2, v3] = length(value.len()).to_le_bytes();
    column.reserve(ENTRY_BYTES + name.len() + value.len());
    column.extend_from_slice(&[n0, n1, kind as u8, 0, v0, v1, v2, v3]);
    column.extend_from_slice(name);
    column.extend_from_slice(value);
}

/// Writes a metadata column.
#[derive(Debug, Default, Clone)]
pub struct MetaWriter(Vec<u8>);

impl MetaWriter {
    /// An empty column.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry behind the others.
    ///
    /// # Panics
    /// When the name is longer than 65,535 bytes.
    pub fn push(&mut self, kind: MetaKind, name: &[u8], value: &[u8]) {
        write_entry(&mut self.0, kind, name, value);
    }

    /// The column's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Empties the column and keeps its room.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

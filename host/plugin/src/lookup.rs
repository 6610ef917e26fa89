//! Read-only tables that plugins look into.

use std::collections::HashMap;
use std::fmt;

/// What a row costs beside its bytes, about.
const ROW_BYTES: usize = 64;

/// A table: keys, each with a row as JSON. Made once, shared by all instances.
pub struct Lookup {
    /// Where each key's row stands.
    index: HashMap<Box<str>, (u32, u32)>,
    rows: Vec<u8>,
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lookup({} keys)", self.index.len())
    }
}

impl Lookup {
    /// The row of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        let (at, length) = self.index.get(key)?;
        self.rows.get(*at as usize..*at as usize + *length as usize)
    }

    /// How many keys it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }
}

/// Why a row can't be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The table would be too large.
    #[error("the table takes more than {bytes_max} bytes of memory")]
    TooLarge {
        /// How large it may be.
        bytes_max: usize,
    },
    /// Another row has the key.
    #[error("the key {key:?} stands twice")]
    Twice {
        /// The key.
        key: String,
    },
}

/// Makes a [`Lookup`], row by row.
#[derive(Debug)]
pub struct LookupBuilder {
    table: Lookup,
    bytes: usize,
    bytes_max: usize,
}

impl LookupBuilder {
    /// No rows yet, and room for `bytes_max` bytes: keys, rows, and 64 bytes for each.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        // Places of rows are kept in 32 bits.
        let bytes_max = bytes_max.min(u32::MAX as usize);
        Self { table: Lookup { index: HashMap::new(), rows: Vec::new() }, bytes: 0, bytes_max }
    }

    /// Adds a key's row, which must be JSON.
    ///
    /// # Errors
    /// When there is no room for it, or the key has one.
    pub fn push(&mut self, key: &str, row: &[u8]) -> Result<(), LookupError> {
        self.bytes = self.bytes.saturating_add(key.len() + row.len() + ROW_BYTES);
        let at = u32::try_from(self.table.rows.len());
        let (Ok(at), Ok(length), true) = (at, u32::try_from(row.len()), self.bytes <= self.bytes_max) else {
            return Err(LookupError::TooLarge { bytes_max: self.bytes_max });
        };
        if self.table.index.contains_key(key) {
            return Err(LookupError::Twice { key: crate::text::tame(key, 128) });
        }
        self.table.rows.extend_from_slice(row);
        self.table.index.insert(key.into(), (at, length));
        Ok(())
    }

    /// The table.
    #[must_use]
    pub fn finish(mut self) -> Lookup {
        self.table.rows.shrink_to_fit();
        self.table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_answers_its_rows_and_is_bounded() {
        let mut builder = LookupBuilder::new(200);
        builder.push("UA", br#"{"name":"United"}"#).expect("room");
        assert_eq!(builder.push("UA", b"1"), Err(LookupError::Twice { key: "UA".to_owned() }));
        let table = LookupBuilder::finish(builder);
        assert_eq!(table.get("UA"), Some(&br#"{"name":"United"}"#[..]));
        assert_eq!(table.get("ua"), None);
        assert_eq!(table.len(), 1);
        let mut builder = LookupBuilder::new(200);
        let row = [b'1'; 68];
        builder.push("a", &row).expect("133 bytes");
        assert_eq!(builder.push("b", b"12"), Ok(()), "exactly 200");
        assert_eq!(builder.push("c", b""), Err(LookupError::TooLarge { bytes_max: 200 }));
    }
}

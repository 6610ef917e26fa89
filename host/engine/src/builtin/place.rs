//! Where a message stands, to decide between equals.

use crate::batch::{Batch, Ordinals};
use crate::stage::Origins;

/// A message's (time, partition, position, index), as bytes that are ordered as these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Place([u8; Place::BYTES]);

impl Place {
    pub const BYTES: usize = 8 + 2 + 4 + 8 + 4 + 4;

    fn new(time: i64, source: u16, partition: u32, offset: u64, index: u32, emit: u32) -> Self {
        let mut bytes = [0; Self::BYTES];
        let mut rest = bytes.as_mut_slice();
        let mut put = |part: &[u8]| {
            let (here, behind) = std::mem::take(&mut rest).split_at_mut(part.len());
            here.copy_from_slice(part);
            rest = behind;
        };
        // With the sign bit turned, negative times come first.
        put(&(time ^ i64::MIN).to_be_bytes());
        put(&source.to_be_bytes());
        put(&partition.to_be_bytes());
        put(&offset.to_be_bytes());
        put(&index.to_be_bytes());
        put(&emit.to_be_bytes());
        Self(bytes)
    }

    /// The places of a batch's messages. A firing stands where its window begins, its revision as the index:
    /// what a message of a source and a firing have is never compared.
    pub fn all(batch: &Batch, origins: Origins<'_>) -> Vec<Self> {
        let mut ordinals = Ordinals::default();
        let rows = batch.frame.view().iter().zip(&batch.rows).map(|(message, row)| {
            // Stages behind the key_by may have made several of one.
            let emit = ordinals.of(row);
            let time = message.timestamp();
            match origins.firing(row) {
                Some(firing) => Self::new(time, 0, 0, firing.start.cast_unsigned(), firing.revision, emit),
                None => {
                    let id = row.partition;
                    Self::new(time, id.source, id.partition, row.offset, row.index, emit)
                }
            }
        });
        rows.collect()
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_ordered_as_the_parts_are() {
        let ascending = [
            Place::new(-5, 9, 9, 9, 9, 9),
            Place::new(0, 0, 0, 0, 0, 1),
            Place::new(0, 0, 0, 0, 1, 0),
            Place::new(0, 0, 0, 256, 0, 0),
            Place::new(0, 0, 1, 0, 0, 0),
            Place::new(0, 1, 0, 0, 0, 0),
            Place::new(1, 0, 0, 0, 0, 0),
        ];
        assert!(ascending.is_sorted());
        assert_eq!(ascending.iter().max(), ascending.last());
    }
}

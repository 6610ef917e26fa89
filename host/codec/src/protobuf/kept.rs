//! Unknown fields, kept with a message: a tree of raw bytes, each at the message that they stood in.
//!
//! A node is `length of raw · raw`, then its children: `field number · index · length · node`, all numbers as
//! varints. The index is 0 for a single message, else the element's place plus one.

use super::wire::{tag, varint, write_varint};
use crate::place::Wrong;

/// The unknown fields of a message and of those in it.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) raw: Vec<u8>,
    pub(super) children: Vec<(u32, u32, Box<Node>)>,
}

/// None where all is known.
pub(super) type Kept = Option<Box<Node>>;

/// Adds unknown fields' bytes.
pub(super) fn keep(kept: &mut Kept, raw: &[u8]) {
    kept.get_or_insert_default().raw.extend_from_slice(raw);
}

/// Adds what was unknown in a message within.
pub(super) fn adopt(kept: &mut Kept, number: u32, index: u32, child: Kept) {
    if let Some(child) = child {
        kept.get_or_insert_default().children.push((number, index, child));
    }
}

impl Node {
    /// Adds the node's bytes.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        write_varint(self.raw.len() as u64, out);
        out.extend_from_slice(&self.raw);
        for (number, index, child) in &self.children {
            write_varint(u64::from(*number), out);
            write_varint(u64::from(*index), out);
            let mut bytes = Vec::new();
            child.write(&mut bytes);
            write_varint(bytes.len() as u64, out);
            out.extend_from_slice(&bytes);
        }
    }
}

/// A node as it is read again, its children not yet.
#[derive(Debug, Clone, Default)]
pub(super) struct View<'a> {
    pub(super) raw: &'a [u8],
    /// Sorted by number and index.
    children: Vec<(u32, u32, &'a [u8])>,
}

impl<'a> View<'a> {
    /// Reads a node; a message can come from anywhere, so nothing is believed.
    pub(super) fn of(bytes: &'a [u8]) -> Result<Self, Wrong> {
        let end = bytes.len();
        let mut at = 0;
        let raw = piece(bytes, &mut at)?;
        let mut children = Vec::new();
        while at < end {
            let number = varint(bytes, &mut at, end)?;
            let index = varint(bytes, &mut at, end)?;
            let child = piece(bytes, &mut at)?;
            if let (Ok(number), Ok(index)) = (u32::try_from(number), u32::try_from(index)) {
                children.push((number, index, child));
            }
        }
        children.sort_by_key(|(number, index, _)| (*number, *index));
        Ok(Self { raw, children })
    }

    /// What was unknown in a message within.
    pub(super) fn child(&self, number: u32, index: u32) -> Result<Option<Self>, Wrong> {
        match self.children.binary_search_by_key(&(number, index), |(n, i, _)| (*n, *i)) {
            Ok(found) => Self::of(self.children[found].2).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Each unknown field's number and bytes, its tag included.
    pub(super) fn fields(&self) -> impl Iterator<Item = Result<(u32, &'a [u8]), Wrong>> {
        let (raw, mut at) = (self.raw, 0);
        std::iter::from_fn(move || {
            let start = at;
            (start < raw.len()).then(|| {
                let read = |at: &mut usize| {
                    let (number, wire_type) = tag(raw, at, raw.len())?;
                    super::wire::extent(raw, at, raw.len(), number, wire_type)?;
                    Ok((number, &raw[start..*at]))
                };
                // What is broken ends the walk.
                read(&mut at).inspect_err(|_| at = raw.len())
            })
        })
    }
}

fn piece<'a>(bytes: &'a [u8], at: &mut usize) -> Result<&'a [u8], Wrong> {
    super::wire::extent(bytes, at, bytes.len(), 0, 2).map(|range| &bytes[range])
}

//! A built-in's part of an accumulator, changed where it stands.
//!
//! An accumulator is a version byte and a section for each result, in their order. A section has a fixed
//! size, or begins with its body's length in four bytes. All numbers are little-endian.

use std::ops::Range;

/// Bytes of a body's length, of a table's count and of each of its ends.
const LENGTH_BYTES: usize = 4;

/// The number at a place.
pub(crate) fn read_u64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b))
}

/// Adds to the number at a place; it stays at the greatest one.
pub(crate) fn add_u64(bytes: &mut [u8], at: usize, add: u64) {
    if let Some(number) = bytes.get_mut(at..).and_then(|b| b.first_chunk_mut::<8>()) {
        *number = u64::from_le_bytes(*number).saturating_add(add).to_le_bytes();
    }
}

fn read_u32(bytes: &[u8], at: usize) -> usize {
    let number = bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b));
    number as usize
}

fn length(bytes: usize) -> [u8; LENGTH_BYTES] {
    // Far above what any built-in's bounds allow.
    u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes()
}

/// The end of the section with a body that begins at `at`; none where the bytes end before it.
pub(crate) fn body_end(bytes: &[u8], at: usize) -> Option<usize> {
    let length = *bytes.get(at..)?.first_chunk::<LENGTH_BYTES>()?;
    let end = at.checked_add(LENGTH_BYTES)?.checked_add(u32::from_le_bytes(length) as usize)?;
    (end <= bytes.len()).then_some(end)
}

/// Where the body is.
pub(crate) fn body_range(bytes: &[u8], at: usize) -> Range<usize> {
    let begin = at + LENGTH_BYTES;
    begin..begin + read_u32(bytes, at)
}

/// A section's body.
pub(crate) fn body(section: &[u8]) -> &[u8] {
    section.get(LENGTH_BYTES..).unwrap_or_default()
}

/// Appends a section with this body.
pub(crate) fn push_body(bytes: &mut Vec<u8>, body: &[u8]) {
    bytes.extend_from_slice(&length(body.len()));
    bytes.extend_from_slice(body);
}

/// Replaces bytes of the body of the section at `at`, `range` counted from the accumulator's start.
pub(crate) fn replace(bytes: &mut Vec<u8>, at: usize, range: Range<usize>, with: &[u8]) {
    let body = body_range(bytes, at).len() + with.len() - range.len();
    if range.len() == with.len() {
        bytes[range].copy_from_slice(with);
    } else {
        bytes.splice(range, with.iter().copied());
    }
    bytes[at..at + LENGTH_BYTES].copy_from_slice(&length(body));
}

/// A list of texts in a body, found by their place in it: their count, where each ends, the texts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Table<'a>(&'a [u8]);

impl<'a> Table<'a> {
    /// The table in a body; an empty body is an empty one.
    pub fn of(body: &'a [u8]) -> Self {
        Self(body)
    }

    pub fn len(self) -> usize {
        read_u32(self.0, 0)
    }

    /// How many bytes the texts have together.
    pub fn text_bytes(self) -> usize {
        self.0.len().saturating_sub(LENGTH_BYTES * (self.len() + 1))
    }

    pub fn get(self, i: usize) -> &'a [u8] {
        let texts = LENGTH_BYTES * (self.len() + 1);
        self.0.get(texts + self.begin(i)..texts + self.begin(i + 1)).unwrap_or_default()
    }

    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        (0..self.len()).map(move |i| self.get(i))
    }

    /// Where a text stands, or would have to, in a list that is sorted by `order` of a text to it.
    pub fn search(self, mut order: impl FnMut(&[u8]) -> std::cmp::Ordering) -> Result<usize, usize> {
        let (mut from, mut to) = (0, self.len());
        while from < to {
            let middle = from.midpoint(to);
            match order(self.get(middle)) {
                std::cmp::Ordering::Less => from = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => to = middle,
            }
        }
        Err(from)
    }

    /// Where the `i`-th text begins, which is where the one before it ends.
    fn begin(self, i: usize) -> usize {
        if i == 0 { 0 } else { read_u32(self.0, LENGTH_BYTES * i) }
    }
}

/// Puts a text into the table of the section at `at`, as its `i`-th.
pub(crate) fn insert(bytes: &mut Vec<u8>, at: usize, i: usize, text: &[u8]) {
    if body_range(bytes, at).is_empty() {
        let begin = body_range(bytes, at).start;
        replace(bytes, at, begin..begin, &length(0));
    }
    let body = body_range(bytes, at);
    let table = Table::of(&bytes[body.clone()]);
    let count = table.len();
    let begin = table.begin(i);
    let texts = body.start + LENGTH_BYTES * (count + 1);
    replace(bytes, at, texts + begin..texts + begin, text);
    let ends = body.start + LENGTH_BYTES;
    let slot = ends + LENGTH_BYTES * i;
    replace(bytes, at, slot..slot, &length(begin + text.len()));
    for end in bytes[slot + LENGTH_BYTES..ends + LENGTH_BYTES * (count + 1)].as_chunks_mut::<4>().0 {
        *end = length(u32::from_le_bytes(*end) as usize + text.len());
    }
    bytes[body.start..ends].copy_from_slice(&length(count + 1));
}

/// Takes the last text out of the table of the section at `at`.
pub(crate) fn remove_last(bytes: &mut Vec<u8>, at: usize) {
    let body = body_range(bytes, at);
    let table = Table::of(&bytes[body.clone()]);
    let Some(last) = table.len().checked_sub(1) else { return };
    let text = body.end - table.get(last).len()..body.end;
    replace(bytes, at, text, &[]);
    let slot = body.start + LENGTH_BYTES * (last + 1);
    replace(bytes, at, slot..slot + LENGTH_BYTES, &[]);
    bytes[body.start..body.start + LENGTH_BYTES].copy_from_slice(&length(last));
}

/// Appends a section with a table of these texts; of none, an empty body.
pub(crate) fn push_table(bytes: &mut Vec<u8>, texts: &[&[u8]]) {
    let at = bytes.len();
    push_body(bytes, &[]);
    if texts.is_empty() {
        return;
    }
    bytes.extend_from_slice(&length(texts.len()));
    let mut end = 0;
    for text in texts {
        end += text.len();
        bytes.extend_from_slice(&length(end));
    }
    texts.iter().for_each(|text| bytes.extend_from_slice(text));
    let body = length(bytes.len() - at - LENGTH_BYTES);
    bytes[at..at + LENGTH_BYTES].copy_from_slice(&body);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_changed_where_it_stands_is_the_table_written_anew() {
        let mut bytes = vec![1];
        push_body(&mut bytes, &[]);
        bytes.push(99);
        let mut model: Vec<Vec<u8>> = Vec::new();
        for (step, i) in [0, 0, 2, 1, 4, 0].into_iter().enumerate() {
            let text = vec![u8::try_from(step).unwrap_or_default(); step * 3 % 5];
            insert(&mut bytes, 1, i, &text);
            model.insert(i, text);
            if step == 3 {
                remove_last(&mut bytes, 1);
                model.pop();
                insert(&mut bytes, 1, 3, b"again");
                model.push(b"again".to_vec());
            }
            let mut anew = vec![1];
            push_table(&mut anew, &model.iter().map(Vec::as_slice).collect::<Vec<_>>());
            anew.push(99);
            assert_eq!(bytes, anew, "after step {step}");
            assert_eq!(body_end(&bytes, 1), Some(bytes.len() - 1));
        }
        let section = bytes[1..bytes.len() - 1].to_vec();
        let table = Table::of(body(&section));
        assert_eq!(table.iter().map(<[u8]>::to_vec).collect::<Vec<_>>(), model);
        assert_eq!(table.text_bytes(), model.iter().map(Vec::len).sum::<usize>());
    }

    #[test]
    fn a_section_cut_short_has_no_end() {
        let mut bytes = Vec::new();
        push_body(&mut bytes, b"body");
        assert_eq!(body_end(&bytes, 0), Some(bytes.len()));
        for cut in 0..bytes.len() {
            assert_eq!(body_end(&bytes[..cut], 0), None);
        }
    }
}

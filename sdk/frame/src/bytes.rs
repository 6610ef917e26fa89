//! Little-endian reads and writes, and the header that every layout opens with.

use crate::{HEADER_BYTES, Malformed, VERSION};

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let b = &bytes[at..at + 4];
    u32::from_le_bytes([b[0], b[1], b[2], b[3]])
}

pub(crate) fn i64_at(bytes: &[u8], at: usize) -> i64 {
    let b = &bytes[at..at + 8];
    i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])
}

pub(crate) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_i64(bytes: &mut [u8], at: usize, value: i64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// A length or offset as the layouts write it.
///
/// # Panics
/// Beyond 4 GiB: every buffer that is built here is bounded far below that by its owner.
pub(crate) fn length(n: usize) -> u32 {
    match u32::try_from(n) {
        Ok(n) => n,
        Err(_) => panic!("a layout of {n} bytes: its owner must bound it below 4 GiB"),
    }
}

pub(crate) fn write_header(bytes: &mut [u8], magic: [u8; 4], first: u32, second: u32) {
    bytes[..4].copy_from_slice(&magic);
    bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
    bytes[6..8].fill(0);
    put_u32(bytes, 8, first);
    put_u32(bytes, 12, second);
}

/// Checks magic and version; gives the two counts.
pub(crate) fn read_header(bytes: &[u8], magic: [u8; 4]) -> Result<(u32, u32), Malformed> {
    if bytes.len() < HEADER_BYTES {
        return Err(Malformed { what: "shorter than its header", at: bytes.len() });
    }
    if bytes[..4] != magic {
        return Err(Malformed { what: "wrong magic word", at: 0 });
    }
    if u16_at(bytes, 4) != VERSION {
        return Err(Malformed { what: "unknown layout version", at: 4 });
    }
    if u16_at(bytes, 6) != 0 {
        return Err(Malformed { what: "reserved bytes not zero", at: 6 });
    }
    Ok((u32_at(bytes, 8), u32_at(bytes, 12)))
}

/// Checks that `count` table entries of `entry_bytes` follow the header; gives where they end.
pub(crate) fn table_end(
    bytes: &[u8],
    start: usize,
    count: u32,
    entry_bytes: usize,
) -> Result<usize, Malformed> {
    (count as usize)
        .checked_mul(entry_bytes)
        .and_then(|n| n.checked_add(start))
        .filter(|end| *end <= bytes.len())
        .ok_or(Malformed { what: "table leaves the buffer", at: start })
}

/// Checks that a span lies in an arena of `arena_bytes`.
pub(crate) fn check_span(offset: u32, length: u32, arena_bytes: usize, at: usize) -> Result<(), Malformed> {
    match (offset as usize).checked_add(length as usize) {
        Some(end) if end <= arena_bytes => Ok(()),
        _ => Err(Malformed { what: "span leaves the arena", at }),
    }
}

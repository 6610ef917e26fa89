//! Protobuf's wire format: tags, varints, extents.

use std::ops::Range;

use crate::place::Wrong;

/// How deep messages and groups may be in one another.
pub(super) const NESTING_MAX: usize = 100;

/// Reads a varint of up to 64 bits.
pub(super) fn varint(data: &[u8], at: &mut usize, end: usize) -> Result<u64, Wrong> {
    let start = *at;
    if start < end && data[start] < 0x80 {
        *at += 1;
        return Ok(u64::from(data[start]));
    }
    let mut value = 0;
    for (n, byte) in data[start..end].iter().take(10).enumerate() {
        if n == 9 && *byte > 1 {
            return Err(Wrong::at(start, "a number of more than 64 bits"));
        }
        value |= u64::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            *at = start + n + 1;
            return Ok(value);
        }
    }
    Err(Wrong::at(start, "a number that is cut off"))
}

/// Adds a varint.
pub(super) fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        // The low seven bits.
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads a tag: the field's number and the wire type.
pub(super) fn tag(data: &[u8], at: &mut usize, end: usize) -> Result<(u32, u8), Wrong> {
    let start = *at;
    let tag = varint(data, at, end)?;
    let number = u32::try_from(tag >> 3).unwrap_or(0);
    if number == 0 || number > 0x1fff_ffff {
        return Err(Wrong::at(start, format!("{} is no number of a field", tag >> 3)));
    }
    Ok((number, (tag & 7) as u8))
}

/// Passes over a value behind its tag; answers where its contents are, without length and end of group.
pub(super) fn extent(
    data: &[u8],
    at: &mut usize,
    end: usize,
    number: u32,
    wire_type: u8,
) -> Result<Range<usize>, Wrong> {
    let start = *at;
    let fixed = |bytes: usize, at: &mut usize| {
        if end - start < bytes {
            return Err(Wrong::at(
                start,
                format!("cut off: {bytes} bytes were expected, {} are there", end - start),
            ));
        }
        *at = start + bytes;
        Ok(start..*at)
    };
    match wire_type {
        0 => varint(data, at, end).map(|_| start..*at),
        1 => fixed(8, at),
        5 => fixed(4, at),
        2 => {
            let length = varint(data, at, end)?;
            let there = end - *at;
            match usize::try_from(length) {
                Ok(length) if length <= there => {
                    let from = *at;
                    *at += length;
                    Ok(from..*at)
                }
                _ => Err(Wrong::at(start, format!("a length of {length} bytes where {there} are left"))),
            }
        }
        3 => group(data, at, end, number),
        4 => Err(Wrong::at(start, format!("the end of a group {number} that has not begun"))),
        other => Err(Wrong::at(start, format!("the wire type {other}, which does not exist"))),
    }
}

/// Passes over a group's contents and its end, without recursion.
fn group(data: &[u8], at: &mut usize, end: usize, number: u32) -> Result<Range<usize>, Wrong> {
    let start = *at;
    let mut open = vec![number];
    while *at < end {
        let tag_at = *at;
        let (number, wire_type) = tag(data, at, end)?;
        match wire_type {
            3 if open.len() >= NESTING_MAX => {
                return Err(Wrong::at(
                    tag_at,
                    format!("groups are more than {NESTING_MAX} deep in one another"),
                ));
            }
            3 => open.push(number),
            4 => {
                let expected = open.pop().unwrap_or_default();
                if expected != number {
                    let why = format!("the end of a group {number} within the group {expected}");
                    return Err(Wrong::at(tag_at, why));
                }
                if open.is_empty() {
                    return Ok(start..tag_at);
                }
            }
            _ => {
                extent(data, at, end, number, wire_type)?;
            }
        }
    }
    Err(Wrong::at(end, format!("the group {number} has no end")))
}

//! From MessagePack to JSON.

use std::collections::HashSet;
use std::ops::Range;

use smallvec::SmallVec;

use super::header::{Header, header};
use crate::jsontext::{self, base64, integer, quoted, text};
use crate::number::{write_double, write_float};
use crate::place::{Step, Wrong};
use crate::protobuf::write_timestamp;

/// Adds the JSON of the one object that the bytes are.
pub(super) fn read(data: &[u8], out: &mut Vec<u8>) -> Result<(), Wrong> {
    if data.is_empty() {
        return Err(Wrong::at(0, "empty: expected a MessagePack object"));
    }
    let mut walk = Walk { data, at: 0, out };
    walk.value(0)?;
    if walk.at < data.len() {
        let more = data.len() - walk.at;
        return Err(Wrong::at(walk.at, format!("{more} bytes behind the object: a message is one object")));
    }
    Ok(())
}

struct Walk<'a> {
    data: &'a [u8],
    at: usize,
    out: &'a mut Vec<u8>,
}

impl<'a> Walk<'a> {
    fn header(&mut self) -> Result<Header, Wrong> {
        match header(&self.data[self.at..]) {
            Some((Header::None, _)) => {
                Err(Wrong::at(self.at, "the byte 0xc1, which MessagePack does not use"))
            }
            Some((header, size)) => {
                self.at += size;
                Ok(header)
            }
            None => Err(Wrong::at(self.at, "cut off: expected a value")),
        }
    }

    fn bytes(&mut self, length: u32) -> Result<&'a [u8], Wrong> {
        let there = self.data.len() - self.at;
        let length = length as usize;
        if length > there {
            return Err(Wrong::at(self.at, format!("a length of {length} bytes where {there} are left")));
        }
        self.at += length;
        Ok(&self.data[self.at - length..self.at])
    }

    fn str(&mut self, length: u32) -> Result<&'a str, Wrong> {
        let start = self.at;
        std::str::from_utf8(self.bytes(length)?).map_err(|e| {
            Wrong::at(start + e.valid_up_to(), "text that is not UTF-8: such bytes must be packed as `bin`")
        })
    }

    fn value(&mut self, nesting: usize) -> Result<(), Wrong> {
        let at = self.at;
        match self.header()? {
            Header::Nil => self.out.extend_from_slice(b"null"),
            Header::Bool(true) => self.out.extend_from_slice(b"true"),
            Header::Bool(false) => self.out.extend_from_slice(b"false"),
            Header::Unsigned(n) => integer(n, self.out),
            Header::Signed(n) => integer(n, self.out),
            Header::Float(n) => write_float(n, self.out),
            Header::Double(n) => write_double(n, self.out),
            Header::Text(length) => {
                let value = self.str(length)?;
                text(value, self.out);
            }
            Header::Bytes(length) => {
                let bytes = self.bytes(length)?;
                base64(bytes, self.out);
            }
            Header::List(_) | Header::Map(_) if nesting >= jsontext::NESTING_MAX => {
                let max = jsontext::NESTING_MAX;
                return Err(Wrong::at(at, format!("lists and maps are more than {max} deep in one another")));
            }
            Header::List(count) => self.list(count, nesting + 1)?,
            Header::Map(count) => self.map(count, nesting + 1)?,
            Header::Extension(-1, length) => {
                let bytes = self.bytes(length)?;
                let (seconds, nanos) = timestamp(bytes).ok_or_else(|| {
                    Wrong::at(at, format!("a timestamp of {length} bytes: expected 4, 8 or 12"))
                })?;
                let nanos = i32::try_from(nanos).unwrap_or(i32::MAX);
                write_timestamp(seconds, nanos, self.out).map_err(|why| Wrong::at(at, why))?;
            }
            Header::Extension(kind, _) => {
                let why = format!(
                    "an extension of the type {kind}, which JSON has no form for: only timestamps (-1) are known"
                );
                return Err(Wrong::at(at, why));
            }
            // `header` has refused it.
            Header::None => {}
        }
        Ok(())
    }

    fn list(&mut self, count: u32, nesting: usize) -> Result<(), Wrong> {
        self.out.push(b'[');
        for index in 0..count as usize {
            if index > 0 {
                self.out.push(b',');
            }
            self.value(nesting).map_err(|e| e.within(Step::Index(index)))?;
        }
        self.out.push(b']');
        Ok(())
    }

    fn map(&mut self, count: u32, nesting: usize) -> Result<(), Wrong> {
        /// Up to so many names are compared pair by pair, which is faster than a table.
        const PAIRWISE_MAX: usize = 16;
        let mut names: SmallVec<[&'a str; PAIRWISE_MAX]> = SmallVec::new();
        let mut table: HashSet<&'a str> = HashSet::new();
        self.out.push(b'{');
        for n in 0..count {
            let at = self.at;
            let name = match self.header()? {
                Header::Text(length) => self.str(length)?,
                other => {
                    let what = match other {
                        Header::Unsigned(n) => format!("the number {n}"),
                        Header::Signed(n) => format!("the number {n}"),
                        Header::Bytes(_) => "bytes".to_owned(),
                        _ => "no text".to_owned(),
                    };
                    let why =
                        format!("a key of a map is {what}: JSON has names that are text; pack keys as `str`");
                    return Err(Wrong::at(at, why));
                }
            };
            let again = if names.len() < PAIRWISE_MAX {
                names.contains(&name)
            } else {
                if table.is_empty() {
                    table.extend(&names);
                }
                !table.insert(name)
            };
            if again {
                return Err(Wrong::at(at, format!("the key {} stands twice", quoted(name))));
            }
            if names.len() < PAIRWISE_MAX {
                names.push(name);
            }
            if n > 0 {
                self.out.push(b',');
            }
            text(name, self.out);
            self.out.push(b':');
            self.value(nesting).map_err(|e| e.within(Step::Name(name.to_owned())))?;
        }
        self.out.push(b'}');
        Ok(())
    }
}

/// Seconds and nanoseconds of the timestamp extension.
fn timestamp(bytes: &[u8]) -> Option<(i64, u32)> {
    let part = |range: Range<usize>| bytes.get(range)?.try_into().ok();
    match bytes.len() {
        4 => Some((u32::from_be_bytes(part(0..4)?).into(), 0)),
        8 => {
            let both = u64::from_be_bytes(bytes.try_into().ok()?);
            // 30 bits of nanoseconds, 34 of seconds.
            Some(((both & 0x3_ffff_ffff) as i64, (both >> 34) as u32))
        }
        12 => {
            let seconds = i64::from_be_bytes(bytes[4..].try_into().ok()?);
            Some((seconds, u32::from_be_bytes(part(0..4)?)))
        }
        _ => None,
    }
}

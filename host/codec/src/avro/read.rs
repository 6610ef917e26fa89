//! From the wire to JSON, without a value in between.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::logical::{write_decimal, write_duration, write_uuid};
use super::plan::{Fields, Plan, Step, StepId, To};
use super::schema::{Binary, Node, NodeId, Schema};
use crate::number::{write_double, write_float};

/// How deep values may stand in one another: less than what JSON's readers allow, for a payload stands in a message.
pub(super) const DEPTH_MAX: usize = 120;
/// How many bytes of JSON any datum may become, and how many more for each of its bytes: a datum of nulls is many
/// names in few bytes.
const JSON_BYTES_FREE: usize = 1 << 20;
const JSON_BYTES_PER_BYTE: usize = 64;
/// How many items and records any bytes may hold, and how many more for each byte: some take no byte.
const ITEMS_FREE: usize = 1 << 20;
const ITEMS_PER_BYTE: usize = 16;

/// Why a datum can't be read, and where.
#[derive(Debug)]
pub(super) struct Fault {
    /// The byte.
    at: usize,
    /// From the inside out.
    path: Vec<String>,
    why: String,
}

pub(super) type Read<T> = Result<T, Box<Fault>>;

impl Fault {
    fn inside(mut self: Box<Self>, part: impl FnOnce() -> String) -> Box<Self> {
        self.path.push(part());
        self
    }

    fn told(self) -> String {
        let path: String = self.path.into_iter().rev().collect();
        format!("payload{path}, at byte {}: {}", self.at, self.why)
    }
}

/// Adds a datum as JSON. What was added before an error is left there.
///
/// # Errors
/// What is wrong with it, and where.
pub(super) fn read(plan: &Plan, datum: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let limit = JSON_BYTES_FREE + datum.len().saturating_mul(JSON_BYTES_PER_BYTE);
    let wire = Wire::new(datum);
    let mut reader = Reader { plan, wire, limit: out.len().saturating_add(limit), out };
    reader.step(plan.root, 0).map_err(|fault| fault.told())?;
    let (at, left) = (reader.wire.at, reader.wire.left());
    if left > 0 {
        return Err(format!(
            "payload, at byte {at}: the datum ends here, but {left} more bytes follow: it was written by another schema"
        ));
    }
    Ok(())
}

/// How many bytes of `data` a datum of the schema takes.
///
/// # Errors
/// What is wrong with it, and where.
pub(super) fn extent(schema: &Schema, wire: &mut Wire<'_>) -> Result<usize, String> {
    let start = wire.at;
    skip(schema, schema.root, wire, 0).map_err(|fault| fault.told())?;
    Ok(wire.at - start)
}

/// Bytes, and how far they are read.
pub(super) struct Wire<'a> {
    data: &'a [u8],
    pub at: usize,
    items_left: usize,
}

impl<'a> Wire<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0, items_left: ITEMS_FREE + data.len().saturating_mul(ITEMS_PER_BYTE) }
    }

    pub fn left(&self) -> usize {
        self.data.len() - self.at
    }

    #[cold]
    fn fault<T>(&self, why: impl Into<String>) -> Read<T> {
        Err(Box::new(Fault { at: self.at, path: Vec::new(), why: why.into() }))
    }

    fn take(&mut self, count: usize, what: &str) -> Read<&'a [u8]> {
        match self.data[self.at..].get(..count) {
            Some(bytes) => {
                self.at += count;
                Ok(bytes)
            }
            None => self.fault(format!("{what} of {count} bytes is cut off: {} are left", self.left())),
        }
    }

    fn array<const N: usize>(&mut self, what: &str) -> Read<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N, what)?);
        Ok(bytes)
    }

    pub(super) fn long(&mut self, what: &str) -> Read<i64> {
        let (mut value, mut shift) = (0_u64, 0);
        for (at, byte) in self.data[self.at..].iter().enumerate() {
            if shift == 63 && *byte > 1 {
                return self.fault(format!("{what} has more than 64 bits"));
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                self.at += at + 1;
                #[expect(clippy::cast_possible_wrap, reason = "zigzag takes the bits")]
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
            shift += 7;
        }
        self.fault(format!("{what} is cut off"))
    }

    fn int(&mut self) -> Read<i32> {
        let start = self.at;
        let value = self.long("an int")?;
        i32::try_from(value).or_else(|_| {
            self.at = start;
            self.fault(format!("{value} is no int: it has more than 32 bits"))
        })
    }

    fn length(&mut self, what: &str) -> Read<usize> {
        let start = self.at;
        let value = self.long(what)?;
        usize::try_from(value).or_else(|_| {
            self.at = start;
            self.fault(format!("{what} has the length {value}"))
        })
    }

    fn bytes(&mut self, what: &str) -> Read<&'a [u8]> {
        let start = self.at;
        let length = self.length(what)?;
        if length > self.left() {
            let left = self.left();
            self.at = start;
            return self.fault(format!("{what} of {length} bytes is cut off: {left} are left"));
        }
        self.take(length, what)
    }

    fn text(&mut self, what: &str) -> Read<&'a str> {
        let bytes = self.bytes(what)?;
        std::str::from_utf8(bytes).or_else(|e| {
            self.at = self.at - bytes.len() + e.valid_up_to();
            self.fault(format!("{what} is not UTF-8"))
        })
    }

    /// Begins a block of an array or a map: how many items it has, and where it ends if it says so.
    fn block(&mut self) -> Read<(u64, Option<usize>)> {
        let start = self.at;
        let count = self.long("a block's count")?;
        if count >= 0 {
            return Ok((count.unsigned_abs(), None));
        }
        let size = self.length("a block's size")?;
        if size > self.left() {
            let left = self.left();
            self.at = start;
            return self.fault(format!("a block of {size} bytes is cut off: {left} are left"));
        }
        Ok((count.unsigned_abs(), Some(self.at + size)))
    }

    fn ended(&mut self, end: Option<usize>) -> Read<()> {
        match end {
            Some(end) if end != self.at => self.fault(format!("a block ends at byte {end} by its size")),
            _ => Ok(()),
        }
    }

    fn item(&mut self) -> Read<()> {
        match self.items_left.checked_sub(1) {
            Some(left) => {
                self.items_left = left;
                Ok(())
            }
            None => self.fault("there are far more items than bytes"),
        }
    }

    fn branch(&mut self, branches: usize, what: &str) -> Read<usize> {
        let start = self.at;
        let value = self.long(what)?;
        usize::try_from(value).ok().filter(|at| *at < branches).map_or_else(
            || {
                self.at = start;
                self.fault(format!("{what} is {value}, but there are {branches}"))
            },
            Ok,
        )
    }

    fn boolean(&mut self) -> Read<bool> {
        match self.take(1, "a boolean")? {
            [0] => Ok(false),
            [1] => Ok(true),
            other => {
                let byte = other[0];
                self.at -= 1;
                self.fault(format!("a boolean is the byte {byte}: expected 0 or 1"))
            }
        }
    }

    fn too_deep<T>(&self) -> Read<T> {
        self.fault(format!("values stand more than {DEPTH_MAX} deep in one another"))
    }
}

struct Reader<'a, 'o> {
    plan: &'a Plan,
    wire: Wire<'a>,
    out: &'o mut Vec<u8>,
    /// How long `out` may become. What is taken back counts.
    limit: usize,
}

impl<'a> Reader<'a, '_> {
    fn step(&mut self, id: StepId, depth: usize) -> Read<()> {
        match &self.plan.steps[id] {
            Step::Null => self.out.extend_from_slice(b"null"),
            Step::Boolean => {
                let value = self.wire.boolean()?;
                self.out.extend_from_slice(if value { b"true" } else { b"false" });
            }
            Step::Int(to) => {
                let value = i64::from(self.wire.int()?);
                self.whole(value, *to);
            }
            Step::Long(to) => {
                let value = self.wire.long("a long")?;
                self.whole(value, *to);
            }
            Step::Float { as_double } => {
                let value = f32::from_le_bytes(self.wire.array("a float")?);
                if *as_double {
                    write_double(f64::from(value), self.out)
                } else {
                    write_float(value, self.out)
                }
            }
            Step::Double => write_double(f64::from_le_bytes(self.wire.array("a double")?), self.out),
            Step::Text => {
                let value = self.wire.text("a string")?;
                text(value, self.out);
            }
            Step::BytesAsText => {
                let value = self.wire.text("bytes that are read as a string")?;
                text(value, self.out);
            }
            Step::Bytes(says) => {
                let value = self.wire.bytes("bytes")?;
                self.binary(value, *says)?;
            }
            Step::TextAsBytes(says) => {
                let value = self.wire.text("a string")?.as_bytes();
                self.binary(value, *says)?;
            }
            Step::Fixed { size, says } => {
                let value = self.wire.take(*size, "a fixed")?;
                self.binary(value, *says)?;
            }
            Step::Enum(symbols) => {
                let at = self.wire.branch(symbols.len(), "an enum's symbol")?;
                match &symbols[at] {
                    Ok(symbol) => self.out.extend_from_slice(symbol),
                    Err(why) => return self.wire.fault(why.clone()),
                }
            }
            Step::Union(branches) => {
                let at = self.wire.branch(branches.len(), "a union's branch")?;
                // No union stands directly in a union.
                return self.step(branches[at], depth);
            }
            Step::Array(item) => return self.array(*item, depth),
            Step::Map(item) => return self.map(*item, depth),
            Step::Record(fields) => return self.record(fields, depth),
            Step::Wrong(why) => return self.wire.fault(why.clone()),
        }
        Ok(())
    }

    fn room(&self) -> Read<()> {
        if self.out.len() > self.limit {
            return self.wire.fault(
                "the datum is far longer as JSON than in bytes: it is refused before it fills the memory",
            );
        }
        Ok(())
    }

    fn whole(&mut self, value: i64, to: To) {
        match to {
            To::Whole(whole) => whole.write(value, self.out),
            // The promotions of the specification round.
            #[expect(clippy::cast_precision_loss, reason = "the promotion of the specification")]
            To::Float => write_float(value as f32, self.out),
            #[expect(clippy::cast_precision_loss, reason = "the promotion of the specification")]
            To::Double => write_double(value as f64, self.out),
        }
    }

    fn binary(&mut self, value: &[u8], says: Binary) -> Read<()> {
        match says {
            Binary::Decimal { scale, .. } => {
                return write_decimal(value, scale, self.out).or_else(|why| self.wire.fault(why));
            }
            Binary::Uuid if let Ok(bytes) = value.try_into() => write_uuid(bytes, self.out),
            Binary::Duration if let Ok(bytes) = value.try_into() => write_duration(bytes, self.out),
            _ => {
                let start = self.out.len();
                let length = value.len().div_ceil(3) * 4;
                self.out.resize(start + length + 2, b'"');
                // The room is exact, so it can't fail.
                let _ = STANDARD.encode_slice(value, &mut self.out[start + 1..start + 1 + length]);
            }
        }
        Ok(())
    }

    fn array(&mut self, item: StepId, depth: usize) -> Read<()> {
        if depth >= DEPTH_MAX {
            return self.wire.too_deep();
        }
        self.out.push(b'[');
        let mut index = 0_u64;
        loop {
            let (count, end) = self.wire.block()?;
            if count == 0 {
                self.wire.ended(end)?;
                break;
            }
            for _ in 0..count {
                self.wire.item()?;
                self.room()?;
                if index > 0 {
                    self.out.push(b',');
                }
                self.step(item, depth + 1).map_err(|fault| fault.inside(|| format!("[{index}]")))?;
                index += 1;
            }
            self.wire.ended(end)?;
        }
        self.out.push(b']');
        Ok(())
    }

    fn map(&mut self, item: StepId, depth: usize) -> Read<()> {
        if depth >= DEPTH_MAX {
            return self.wire.too_deep();
        }
        self.out.push(b'{');
        let mut first = true;
        loop {
            let (count, end) = self.wire.block()?;
            if count == 0 {
                self.wire.ended(end)?;
                break;
            }
            for _ in 0..count {
                self.room()?;
                if !std::mem::take(&mut first) {
                    self.out.push(b',');
                }
                let name = self.wire.text("a map's key")?;
                text(name, self.out);
                self.out.push(b':');
                self.step(item, depth + 1).map_err(|fault| fault.inside(|| part(name)))?;
            }
            self.wire.ended(end)?;
        }
        self.out.push(b'}');
        Ok(())
    }

    fn record(&mut self, fields: &'a Fields, depth: usize) -> Read<()> {
        if depth >= DEPTH_MAX {
            return self.wire.too_deep();
        }
        self.out.push(b'{');
        let start = self.out.len();
        for field in &fields.fields {
            let before = self.out.len();
            match &field.label {
                Some(label) => {
                    if before > start {
                        self.out.push(b',');
                    }
                    self.out.extend_from_slice(label);
                    self.step(field.step, depth + 1).map_err(|fault| fault.inside(|| part(&field.name)))?;
                }
                None => {
                    self.step(field.step, depth + 1).map_err(|fault| fault.inside(|| part(&field.name)))?;
                    self.limit = self.limit.saturating_sub(self.out.len() - before);
                    self.out.truncate(before);
                }
            }
            self.room()?;
        }
        if let Some((_, first)) = fields.defaults.split_first() {
            self.out.extend_from_slice(if self.out.len() > start { &fields.defaults } else { first });
        }
        self.out.push(b'}');
        Ok(())
    }
}

/// A name as a part of a path.
pub(super) fn part(name: &str) -> String {
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        format!(".{name}")
    } else {
        format!("[{:?}]", super::logical::shown(name))
    }
}

/// Adds text as JSON.
pub(super) fn text(value: &str, out: &mut Vec<u8>) {
    // Without a branch a byte, so that the compiler looks at many at once.
    let escapes = value.bytes().fold(false, |any, b| any | (b < b' ') | (b == b'"') | (b == b'\\'));
    if escapes {
        // Writing text to a Vec can't fail.
        let _ = serde_json::to_writer(out, value);
        return;
    }
    out.reserve(value.len() + 2);
    out.push(b'"');
    out.extend_from_slice(value.as_bytes());
    out.push(b'"');
}

/// Passes over a datum.
fn skip(schema: &Schema, node: NodeId, wire: &mut Wire<'_>, depth: usize) -> Read<()> {
    if depth > DEPTH_MAX {
        return wire.too_deep();
    }
    match &schema.nodes[node] {
        Node::Null => {}
        Node::Boolean => {
            wire.take(1, "a boolean")?;
        }
        Node::Int(_) => {
            wire.long("an int")?;
        }
        Node::Long(_) => {
            wire.long("a long")?;
        }
        Node::Float => {
            wire.take(4, "a float")?;
        }
        Node::Double => {
            wire.take(8, "a double")?;
        }
        Node::Bytes(_) => {
            wire.bytes("bytes")?;
        }
        Node::String { .. } => {
            wire.bytes("a string")?;
        }
        Node::Fixed(fixed) => {
            wire.take(fixed.size, "a fixed")?;
        }
        Node::Enum(_) => {
            wire.long("an enum's symbol")?;
        }
        Node::Union(branches) => {
            let at = wire.branch(branches.len(), "a union's branch")?;
            skip(schema, branches[at], wire, depth)?;
        }
        Node::Array(item) | Node::Map(item) => {
            let keys = matches!(&schema.nodes[node], Node::Map(_));
            loop {
                let (count, end) = wire.block()?;
                if count == 0 {
                    break;
                }
                if let Some(end) = end {
                    wire.at = end;
                    continue;
                }
                for index in 0..count {
                    wire.item()?;
                    if keys {
                        wire.bytes("a map's key")?;
                    }
                    skip(schema, *item, wire, depth + 1)
                        .map_err(|fault| fault.inside(|| format!("[{index}]")))?;
                }
            }
        }
        Node::Record(record) => {
            wire.item()?;
            for field in &record.fields {
                skip(schema, field.node, wire, depth + 1)
                    .map_err(|fault| fault.inside(|| part(&field.name)))?;
            }
        }
    }
    Ok(())
}

//! From the wire to JSON, without a tree between.
//!
//! Fields are written as they come. Where that can't be right, since a field comes again later and must be
//! merged, the whole message is read once more by a slower way, which gathers each field's places first.

use std::ops::Range;

use smallvec::SmallVec;

use super::kept::{Kept, adopt, keep};
use super::known;
use super::plan::{Field, Kind, Known, Message, Plan, Shape};
use super::wire::{NESTING_MAX, extent, tag, varint};
use crate::jsontext::{self, base64, integer, quoted, text};
use crate::number::{write_double, write_float};
use crate::place::{Step, Wrong};

/// How many bytes the JSON of one message may take.
const JSON_BYTES_MAX: usize = 64 << 20;

/// What is done with fields that the message type doesn't have.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum UnknownFields {
    /// They travel with the message, unseen by plugins.
    #[default]
    Keep,
    /// They are left out.
    Drop,
    /// The message is a dead letter.
    Refuse,
}

/// Where several occurrences of a message are: merging them is reading one after the other.
type Pieces = SmallVec<[Range<usize>; 1]>;

/// Why a message was not read.
enum Failed {
    /// It must be gathered.
    Again,
    Wrong(Wrong),
}

impl From<Wrong> for Failed {
    fn from(wrong: Wrong) -> Self {
        Self::Wrong(wrong)
    }
}

impl Failed {
    fn within(self, step: impl FnOnce() -> Step) -> Self {
        match self {
            Self::Again => Self::Again,
            Self::Wrong(wrong) => Self::Wrong(wrong.within(step())),
        }
    }
}

/// How deep it is: in messages, and in objects and lists of JSON.
#[derive(Clone, Copy, Default)]
pub(super) struct Nest {
    messages: usize,
    json: usize,
}

impl Nest {
    pub(super) fn message(self) -> Result<Self, String> {
        if self.messages >= NESTING_MAX {
            return Err(format!("messages are more than {NESTING_MAX} deep in one another"));
        }
        Ok(Self { messages: self.messages + 1, ..self })
    }

    pub(super) fn json(self) -> Result<Self, String> {
        if self.json >= jsontext::NESTING_MAX {
            return Err(format!(
                "objects and lists are more than {} deep in one another",
                jsontext::NESTING_MAX
            ));
        }
        Ok(Self { json: self.json + 1, ..self })
    }
}

/// How messages are read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Options {
    pub(super) defaults: bool,
    pub(super) unknown_fields: UnknownFields,
}

/// Adds the JSON of the body `data[body]` to `out`, as a message of the type `root`.
pub(super) fn read(
    plan: &Plan,
    root: usize,
    data: &[u8],
    body: Range<usize>,
    options: Options,
    out: &mut Vec<u8>,
) -> Result<Kept, Wrong> {
    let start = out.len();
    let mut walk = Walk { plan, data, out, options, gathers: false, start };
    let result = match walk.message(root, std::slice::from_ref(&body), Nest::default()) {
        Err(Failed::Again) => {
            walk.out.truncate(start);
            walk.gathers = true;
            walk.message(root, std::slice::from_ref(&body), Nest::default())
        }
        done => done,
    };
    result.map_err(|failed| match failed {
        Failed::Wrong(wrong) => wrong,
        // Gathering never asks for it.
        Failed::Again => Wrong::new("fields are out of order"),
    })
}

/// Which fields and oneofs a message has had.
pub(super) struct Seen {
    small: u128,
    large: Vec<u64>,
}

impl Seen {
    pub(super) fn of(message: &Message) -> Self {
        let all = message.fields.len() + message.oneofs;
        Self { small: 0, large: if all > 128 { vec![0; all.div_ceil(64)] } else { Vec::new() } }
    }

    pub(super) fn has(&self, at: usize) -> bool {
        match self.large.get(at / 64) {
            Some(word) => word >> (at % 64) & 1 == 1,
            None => at < 128 && self.small >> at & 1 == 1,
        }
    }

    /// Marks it; answers whether it was marked before.
    pub(super) fn mark(&mut self, at: usize) -> bool {
        let before = self.has(at);
        match self.large.get_mut(at / 64) {
            Some(word) => *word |= 1 << (at % 64),
            None if at < 128 => self.small |= 1 << at,
            None => {}
        }
        before
    }
}

/// A value's place in a message that is gathered.
struct Found {
    field: usize,
    wire_type: u8,
    range: Range<usize>,
}

struct Walk<'a> {
    plan: &'a Plan,
    data: &'a [u8],
    out: &'a mut Vec<u8>,
    options: Options,
    gathers: bool,
    /// Where the JSON begins in `out`.
    start: usize,
}

impl<'a> Walk<'a> {
    fn comma(&mut self) {
        if !matches!(self.out.last(), Some(b'{' | b'[')) {
            self.out.push(b',');
        }
    }

    /// Writes a message, whatever JSON has for it.
    fn message(&mut self, at: usize, pieces: &[Range<usize>], nest: Nest) -> Result<Kept, Failed> {
        let message = &self.plan.messages[at];
        let nest = nest.message().map_err(|why| wrong(pieces, why))?;
        if self.out.len() - self.start > JSON_BYTES_MAX {
            return Err(
                wrong(pieces, format!("the message is more than {JSON_BYTES_MAX} bytes of JSON")).into()
            );
        }
        if let Some(known) = message.known {
            return self.known(message, known, pieces, nest);
        }
        let nest = nest.json().map_err(|why| wrong(pieces, why))?;
        self.out.push(b'{');
        let kept = self.fields(message, pieces, nest)?;
        self.out.push(b'}');
        Ok(kept)
    }

    fn fields(&mut self, message: &'a Message, pieces: &[Range<usize>], nest: Nest) -> Result<Kept, Failed> {
        let mut seen = Seen::of(message);
        let mut kept = None;
        if self.gathers {
            self.gathered(message, pieces, nest, &mut seen, &mut kept)?;
        } else {
            for piece in pieces {
                self.straight(message, piece.clone(), nest, &mut seen, &mut kept)?;
            }
        }
        if message.has_required || self.options.defaults {
            self.absent(message, pieces, &seen)?;
        }
        Ok(kept)
    }

    fn absent(&mut self, message: &'a Message, pieces: &[Range<usize>], seen: &Seen) -> Result<(), Failed> {
        for (_, field) in message.fields.iter().enumerate().filter(|(at, _)| !seen.has(*at)) {
            let value: &[u8] = match field.shape {
                Shape::Required => {
                    let why = format!("the required field `{}` of {} is missing", field.name, message.name);
                    return Err(wrong(pieces, why).into());
                }
                _ if !self.options.defaults => continue,
                Shape::Optional => continue,
                Shape::Repeated { .. } => b"[]",
                Shape::Map => b"{}",
                Shape::Implicit => {
                    self.comma();
                    self.out.extend_from_slice(&field.json);
                    self.default(field.kind);
                    continue;
                }
            };
            self.comma();
            self.out.extend_from_slice(&field.json);
            self.out.extend_from_slice(value);
        }
        Ok(())
    }

    fn default(&mut self, kind: Kind) {
        match kind {
            Kind::String | Kind::Bytes => self.out.extend_from_slice(b"\"\""),
            Kind::Bool => self.out.extend_from_slice(b"false"),
            Kind::Double | Kind::Float => self.out.extend_from_slice(b"0.0"),
            Kind::Enum(at) => self.enum_value(at, 0),
            Kind::Message(_) | Kind::Group(_) => self.out.extend_from_slice(b"{}"),
            _ => self.out.push(b'0'),
        }
    }

    fn enum_value(&mut self, at: usize, number: i32) {
        let described = &self.plan.enums[at];
        match described.json(number) {
            _ if described.is_null => self.out.extend_from_slice(b"null"),
            Some(json) => self.out.extend_from_slice(json),
            None => integer(number, self.out),
        }
    }

    /// Writes fields as they come.
    fn straight(
        &mut self,
        message: &'a Message,
        piece: Range<usize>,
        nest: Nest,
        seen: &mut Seen,
        kept: &mut Kept,
    ) -> Result<(), Failed> {
        let (data, end) = (self.data, piece.end);
        let mut at = piece.start;
        while at < end {
            let tag_at = at;
            let (number, wire_type) = tag(data, &mut at, end)?;
            let Some((place, field)) = message.by_number(number) else {
                self.unknown(message, tag_at, &mut at, end, number, wire_type, kept)?;
                continue;
            };
            let of_field = || Step::Name(field.name.clone());
            let oneof_again = field.oneof.is_some_and(|oneof| seen.mark(message.fields.len() + oneof));
            if seen.mark(place) || oneof_again {
                return Err(Failed::Again);
            }
            let next = |at: &mut usize, wire_type: u8| {
                expect(field, wire_type, tag_at)?;
                extent(data, at, end, number, wire_type)
            };
            let range = next(&mut at, wire_type).map_err(|e| e.within(of_field()))?;
            if matches!(field.shape, Shape::Optional | Shape::Implicit | Shape::Required) {
                let pieces = std::slice::from_ref(&range);
                self.single(field, pieces, nest, kept).map_err(|e| e.within(of_field))?;
                continue;
            }
            // All that stand together. Most are alone, or packed.
            let mut all: SmallVec<[(u8, Range<usize>); 4]> = SmallVec::new();
            all.push((wire_type, range));
            while at < end {
                let tag_at = at;
                let (again, wire_type) = tag(data, &mut at, end)?;
                if again != number {
                    at = tag_at;
                    break;
                }
                let range = next(&mut at, wire_type).map_err(|e| e.within(of_field()))?;
                all.push((wire_type, range));
            }
            self.several(field, &all, nest, kept).map_err(|e| e.within(of_field))?;
        }
        Ok(())
    }

    /// Finds all places of each field, then writes field by field.
    fn gathered(
        &mut self,
        message: &'a Message,
        pieces: &[Range<usize>],
        nest: Nest,
        seen: &mut Seen,
        kept: &mut Kept,
    ) -> Result<(), Failed> {
        let data = self.data;
        let mut all: Vec<Found> = Vec::new();
        // Of each oneof the field that it has, and since which place.
        let mut oneofs: SmallVec<[(usize, usize, usize); 4]> = SmallVec::new();
        for piece in pieces {
            let (mut at, end) = (piece.start, piece.end);
            while at < end {
                let tag_at = at;
                let (number, wire_type) = tag(data, &mut at, end)?;
                let Some((place, field)) = message.by_number(number) else {
                    self.unknown(message, tag_at, &mut at, end, number, wire_type, kept)?;
                    continue;
                };
                let of_field = || Step::Name(field.name.clone());
                expect(field, wire_type, tag_at).map_err(|e| e.within(of_field()))?;
                let range =
                    extent(data, &mut at, end, number, wire_type).map_err(|e| e.within(of_field()))?;
                if let Some(oneof) = field.oneof {
                    match oneofs.iter_mut().find(|(o, ..)| *o == oneof) {
                        Some((_, has, _)) if *has == place => {}
                        Some(other) => *other = (oneof, place, all.len()),
                        None => oneofs.push((oneof, place, all.len())),
                    }
                }
                all.push(Found { field: place, wire_type, range });
            }
        }
        if !oneofs.is_empty() {
            let fields = &message.fields;
            let mut index = 0;
            all.retain(|found| {
                let here = index;
                index += 1;
                fields[found.field].oneof.is_none_or(|oneof| {
                    oneofs.iter().any(|(o, has, since)| *o == oneof && *has == found.field && here >= *since)
                })
            });
        }
        all.sort_by_key(|found| found.field);
        for group in all.chunk_by(|a, b| a.field == b.field) {
            let field = &message.fields[group[0].field];
            seen.mark(group[0].field);
            let done = if matches!(field.shape, Shape::Repeated { .. } | Shape::Map) {
                let all: Vec<_> = group.iter().map(|f| (f.wire_type, f.range.clone())).collect();
                self.several(field, &all, nest, kept)
            } else {
                let pieces: Pieces = group.iter().map(|f| f.range.clone()).collect();
                self.single(field, &pieces, nest, kept)
            };
            done.map_err(|e| e.within(|| Step::Name(field.name.clone())))?;
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "a place in the wire is four of them")]
    fn unknown(
        &self,
        message: &Message,
        tag_at: usize,
        at: &mut usize,
        end: usize,
        number: u32,
        wire_type: u8,
        kept: &mut Kept,
    ) -> Result<(), Wrong> {
        extent(self.data, at, end, number, wire_type)?;
        match self.options.unknown_fields {
            UnknownFields::Keep => keep(kept, &self.data[tag_at..*at]),
            UnknownFields::Drop => {}
            UnknownFields::Refuse => {
                let why = format!(
                    "{} has no field {number}: take a newer descriptor file, or set `unknown_fields: keep` on the codec",
                    message.name
                );
                return Err(Wrong::at(tag_at, why));
            }
        }
        Ok(())
    }

    /// A field that has one value: the last, or all occurrences of a message merged.
    fn single(
        &mut self,
        field: &'a Field,
        pieces: &[Range<usize>],
        nest: Nest,
        kept: &mut Kept,
    ) -> Result<(), Failed> {
        if field.shape == Shape::Implicit
            && !self.options.defaults
            && pieces.last().is_some_and(|last| is_zero(field.kind, &self.data[last.clone()]))
        {
            return Ok(());
        }
        self.comma();
        self.out.extend_from_slice(&field.json);
        let child = self.value(field.kind, pieces, nest)?;
        adopt(kept, field.number, 0, child);
        Ok(())
    }

    /// A list or a map.
    fn several(
        &mut self,
        field: &'a Field,
        all: &[(u8, Range<usize>)],
        nest: Nest,
        kept: &mut Kept,
    ) -> Result<(), Failed> {
        let start = self.out.len();
        self.comma();
        self.out.extend_from_slice(&field.json);
        let count = if field.shape == Shape::Map {
            self.map(field, all, nest, kept)?
        } else {
            self.list(field, all, nest, kept)?
        };
        if count == 0 && !self.options.defaults {
            self.out.truncate(start);
        }
        Ok(())
    }

    fn list(
        &mut self,
        field: &'a Field,
        all: &[(u8, Range<usize>)],
        nest: Nest,
        kept: &mut Kept,
    ) -> Result<usize, Failed> {
        let nest = nest.json().map_err(|why| Wrong::at(all[0].1.start, why))?;
        let mut count = 0;
        self.out.push(b'[');
        for (wire_type, range) in all {
            if *wire_type != 2 || field.kind.wire_type() == 2 {
                self.comma();
                let child = self
                    .value(field.kind, std::slice::from_ref(range), nest)
                    .map_err(|e| e.within(|| Step::Index(count)))?;
                count += 1;
                adopt(kept, field.number, u32::try_from(count).unwrap_or(u32::MAX), child);
                continue;
            }
            let mut at = range.start;
            while at < range.end {
                let one = extent(self.data, &mut at, range.end, field.number, field.kind.wire_type());
                self.comma();
                one.map_err(Failed::from)
                    .and_then(|one| self.value(field.kind, &[one], nest))
                    .map_err(|e| e.within(|| Step::Index(count)))?;
                count += 1;
            }
        }
        self.out.push(b']');
        Ok(count)
    }

    fn map(
        &mut self,
        field: &'a Field,
        all: &[(u8, Range<usize>)],
        nest: Nest,
        kept: &mut Kept,
    ) -> Result<usize, Failed> {
        let nest = nest.json().map_err(|why| Wrong::at(all[0].1.start, why))?;
        let Some((key_field, value_field)) = self.plan.entry(field.kind) else {
            return Err(Wrong::at(all[0].1.start, "a map without keys and values").into());
        };
        self.out.push(b'{');
        // Where each key and its pair's end are in the output, and what was unknown in the value.
        let mut pairs: SmallVec<[(Range<usize>, usize, Kept); 8]> = SmallVec::new();
        for (_, range) in all {
            let (mut key, mut values) = (None, Pieces::new());
            let mut at = range.start;
            while at < range.end {
                let tag_at = at;
                let (number, wire_type) = tag(self.data, &mut at, range.end)?;
                let part = match number {
                    1 => Some(key_field),
                    2 => Some(value_field),
                    _ => None,
                };
                if let Some(part) = part {
                    expect(part, wire_type, tag_at)?;
                }
                let found = extent(self.data, &mut at, range.end, number, wire_type)?;
                match number {
                    1 => key = Some(found),
                    2 => values.push(found),
                    _ => {}
                }
            }
            self.comma();
            let from = self.out.len();
            self.key(key_field.kind, key)?;
            let key = from..self.out.len();
            self.out.push(b':');
            let value = self.value(value_field.kind, &values, nest).map_err(|e| {
                let shown = || String::from_utf8_lossy(&self.out[key.start + 1..key.end - 1]).into_owned();
                e.within(|| Step::Name(shown()))
            })?;
            pairs.push((key, self.out.len(), value));
        }
        self.out.push(b'}');
        let count = pairs.len();
        if self.has_repeats(&pairs) {
            self.keep_last(&mut pairs);
        }
        for (n, (_, _, child)) in pairs.into_iter().enumerate() {
            adopt(kept, field.number, u32::try_from(n + 1).unwrap_or(u32::MAX), child);
        }
        Ok(count)
    }

    fn has_repeats(&self, pairs: &[(Range<usize>, usize, Kept)]) -> bool {
        const PAIRWISE_MAX: usize = 16;
        let name = |(key, ..): &(Range<usize>, usize, Kept)| &self.out[key.clone()];
        if pairs.len() <= PAIRWISE_MAX {
            return pairs.iter().enumerate().any(|(n, a)| pairs[n + 1..].iter().any(|b| name(a) == name(b)));
        }
        let mut seen = std::collections::HashSet::with_capacity(pairs.len());
        pairs.iter().any(|pair| !seen.insert(name(pair)))
    }

    /// Of pairs with one key the last counts.
    fn keep_last(&mut self, pairs: &mut SmallVec<[(Range<usize>, usize, Kept); 8]>) {
        let Some(start) = pairs.first().map(|(key, ..)| key.start) else { return };
        let written = self.out.split_off(start);
        let last: std::collections::HashMap<&[u8], usize> = pairs
            .iter()
            .enumerate()
            .map(|(n, (key, ..))| (&written[key.start - start..key.end - start], n))
            .collect();
        let mut n = 0;
        pairs.retain(|(key, end, _)| {
            let here = n;
            n += 1;
            let stays = last[&written[key.start - start..key.end - start]] == here;
            if stays {
                if self.out.len() > start {
                    self.out.push(b',');
                }
                self.out.extend_from_slice(&written[key.start - start..*end - start]);
            }
            stays
        });
        self.out.push(b'}');
    }

    fn key(&mut self, kind: Kind, range: Option<Range<usize>>) -> Result<(), Failed> {
        let pieces: Pieces = range.into_iter().collect();
        if kind == Kind::String {
            self.value(kind, &pieces, Nest::default())?;
            return Ok(());
        }
        self.out.push(b'"');
        self.value(kind, &pieces, Nest::default())?;
        self.out.push(b'"');
        Ok(())
    }

    /// Writes a value: the last of its pieces, or a message of them all, or the default if there is none.
    fn value(&mut self, kind: Kind, pieces: &[Range<usize>], nest: Nest) -> Result<Kept, Failed> {
        if let Kind::Message(at) | Kind::Group(at) = kind {
            return self.message(at, pieces, nest);
        }
        let Some(range) = pieces.last() else {
            self.default(kind);
            return Ok(None);
        };
        let bytes = &self.data[range.clone()];
        match kind {
            Kind::String => {
                let value = utf8(bytes, range.start)?;
                text(value, self.out);
            }
            Kind::Bytes => base64(bytes, self.out),
            Kind::Double => write_double(f64::from_bits(fixed(bytes)), self.out),
            // The low half is all there is.
            Kind::Float => write_float(f32::from_bits(fixed(bytes) as u32), self.out),
            Kind::Fixed32 => integer(fixed(bytes) as u32, self.out),
            Kind::Sfixed32 => integer(fixed(bytes) as u32 as i32, self.out),
            Kind::Fixed64 => integer(fixed(bytes), self.out),
            Kind::Sfixed64 => integer(fixed(bytes) as i64, self.out),
            _ => {
                let mut at = range.start;
                let n = varint(self.data, &mut at, range.end)?;
                // More bits than the type has are cut off, as Protobuf says.
                match kind {
                    Kind::Bool => self.out.extend_from_slice(if n == 0 { b"false" } else { b"true" }),
                    Kind::Int32 => integer(n as i32, self.out),
                    Kind::Uint32 => integer(n as u32, self.out),
                    Kind::Int64 => integer(n as i64, self.out),
                    Kind::Sint32 => {
                        let n = n as u32;
                        integer((n >> 1) as i32 ^ -((n & 1) as i32), self.out);
                    }
                    Kind::Sint64 => integer((n >> 1) as i64 ^ -((n & 1) as i64), self.out),
                    Kind::Enum(at) => self.enum_value(at, n as i32),
                    _ => integer(n, self.out),
                }
            }
        }
        Ok(None)
    }

    /// Calls `each` with every field of a message that has a JSON form of its own.
    fn each(
        &self,
        message: &'a Message,
        pieces: &[Range<usize>],
        mut each: impl FnMut(&'a Field, Range<usize>),
    ) -> Result<(), Failed> {
        for piece in pieces {
            let (mut at, end) = (piece.start, piece.end);
            while at < end {
                let tag_at = at;
                let (number, wire_type) = tag(self.data, &mut at, end)?;
                let Some((_, field)) = message.by_number(number) else {
                    // There is nowhere to keep them.
                    let mut lost = None;
                    self.unknown(message, tag_at, &mut at, end, number, wire_type, &mut lost)?;
                    continue;
                };
                expect(field, wire_type, tag_at)?;
                each(field, extent(self.data, &mut at, end, number, wire_type)?);
            }
        }
        Ok(())
    }

    fn number_at(&self, range: Option<Range<usize>>) -> Result<u64, Wrong> {
        let Some(range) = range else { return Ok(0) };
        varint(self.data, &mut range.start.clone(), range.end)
    }

    fn known(
        &mut self,
        message: &'a Message,
        known: Known,
        pieces: &[Range<usize>],
        nest: Nest,
    ) -> Result<Kept, Failed> {
        match known {
            Known::Timestamp | Known::Duration => {
                let (mut seconds, mut nanos) = (None, None);
                self.each(message, pieces, |field, range| match field.number {
                    1 => seconds = Some(range),
                    _ => nanos = Some(range),
                })?;
                let seconds = self.number_at(seconds)? as i64;
                let nanos = self.number_at(nanos)? as i32;
                let write =
                    if known == Known::Timestamp { known::write_timestamp } else { known::write_duration };
                write(seconds, nanos, self.out).map_err(|why| wrong(pieces, why))?;
            }
            Known::FieldMask => {
                let mut paths = Vec::new();
                self.each(message, pieces, |_, range| paths.push(range))?;
                let mut all = String::new();
                for (n, range) in paths.into_iter().enumerate() {
                    let path = utf8(&self.data[range.clone()], range.start)?;
                    if n > 0 {
                        all.push(',');
                    }
                    all.push_str(&known::camel(path).map_err(|why| Wrong::at(range.start, why))?);
                }
                text(&all, self.out);
            }
            Known::Wrapper => {
                let mut value = Pieces::new();
                self.each(message, pieces, |_, range| value.push(range))?;
                self.value(message.fields[0].kind, &value, nest)?;
            }
            Known::Struct | Known::ListValue => {
                let mut all = Vec::new();
                self.each(message, pieces, |_, range| all.push((2, range)))?;
                let mut lost = None;
                let field = &message.fields[0];
                match known {
                    Known::Struct if all.is_empty() => self.out.extend_from_slice(b"{}"),
                    _ if all.is_empty() => self.out.extend_from_slice(b"[]"),
                    Known::Struct => drop(self.map(field, &all, nest, &mut lost)?),
                    _ => drop(self.list(field, &all, nest, &mut lost)?),
                }
            }
            Known::Value => {
                let (mut has, mut all) = (None, Pieces::new());
                self.each(message, pieces, |field, range| {
                    if has.is_none_or(|before: &Field| before.number != field.number) {
                        all.clear();
                    }
                    has = Some(field);
                    all.push(range);
                })?;
                match has {
                    None => self.out.extend_from_slice(b"null"),
                    Some(field) => {
                        if let (Kind::Double, Some(last)) = (field.kind, all.last()) {
                            let number = f64::from_bits(fixed(&self.data[last.clone()]));
                            if !number.is_finite() {
                                let why = format!(
                                    "a google.protobuf.Value of {number}, which JSON has no number for"
                                );
                                return Err(wrong(pieces, why).into());
                            }
                        }
                        self.value(field.kind, &all, nest)?;
                    }
                }
            }
            Known::Any => return self.any(message, pieces, nest),
        }
        Ok(None)
    }

    fn any(&mut self, message: &'a Message, pieces: &[Range<usize>], nest: Nest) -> Result<Kept, Failed> {
        let nest = nest.json().map_err(|why| wrong(pieces, why))?;
        let (mut url, mut value) = (None, None);
        self.each(message, pieces, |field, range| match field.number {
            1 => url = Some(range),
            _ => value = Some(range),
        })?;
        self.out.push(b'{');
        let value: Pieces = value.into_iter().collect();
        let mut kept = None;
        if url.is_some() || !value.is_empty() {
            let range = url.unwrap_or(0..0);
            let url = utf8(&self.data[range.clone()], range.start)?;
            self.out.extend_from_slice(b"\"@type\":");
            text(url, self.out);
            let name = url.rsplit_once('/').map_or("", |(_, name)| name);
            let inside = match self.plan.find(name) {
                None => {
                    self.out.extend_from_slice(b",\"@bytes\":");
                    self.value(Kind::Bytes, &value, nest)?;
                    None
                }
                Some(at) => {
                    let inner = &self.plan.messages[at];
                    let step = || Step::Name(quoted(name));
                    if inner.known.is_some() {
                        self.out.extend_from_slice(b",\"value\":");
                        self.message(at, &value, nest).map_err(|e| e.within(step))?
                    } else {
                        let nest = nest.message().map_err(|why| wrong(pieces, why))?;
                        self.fields(inner, &value, nest).map_err(|e| e.within(step))?
                    }
                }
            };
            adopt(&mut kept, 2, 0, inside);
        }
        self.out.push(b'}');
        Ok(kept)
    }
}

fn wrong(pieces: &[Range<usize>], why: String) -> Wrong {
    match pieces.first() {
        Some(piece) => Wrong::at(piece.start, why),
        None => Wrong::new(why),
    }
}

fn utf8(bytes: &[u8], at: usize) -> Result<&str, Wrong> {
    std::str::from_utf8(bytes)
        .map_err(|e| Wrong::at(at + e.valid_up_to(), "text that is not UTF-8: such a field must be `bytes`"))
}

/// The little-endian number of up to eight bytes.
fn fixed(bytes: &[u8]) -> u64 {
    let mut all = [0; 8];
    let n = bytes.len().min(8);
    all[..n].copy_from_slice(&bytes[..n]);
    u64::from_le_bytes(all)
}

fn expect(field: &Field, wire_type: u8, at: usize) -> Result<(), Wrong> {
    let own = field.kind.wire_type();
    let packed = wire_type == 2 && matches!(own, 0 | 1 | 5) && matches!(field.shape, Shape::Repeated { .. });
    if wire_type == own || packed {
        return Ok(());
    }
    let found = match wire_type {
        0 => "a varint",
        1 => "64 bits",
        2 => "bytes with a length",
        3 => "a group",
        4 => "the end of a group",
        5 => "32 bits",
        _ => "a wire type that does not exist",
    };
    let why = format!(
        "field {} has {found} ({wire_type}), but is {} by its type: it was written by another message type",
        field.number,
        field.kind.shown()
    );
    Err(Wrong::at(at, why))
}

/// Whether a value is the one that an absent field has.
fn is_zero(kind: Kind, bytes: &[u8]) -> bool {
    match kind {
        Kind::String | Kind::Bytes => bytes.is_empty(),
        Kind::Message(_) | Kind::Group(_) => false,
        // Nearly always told by the first byte; -0.0 is not zero.
        _ if bytes.first().is_none_or(|b| b & 0x7f != 0) => false,
        Kind::Int32 | Kind::Uint32 | Kind::Sint32 | Kind::Enum(_) => {
            varint(bytes, &mut 0, bytes.len()).is_ok_and(|n| n as u32 == 0)
        }
        Kind::Double | Kind::Float | Kind::Fixed32 | Kind::Fixed64 | Kind::Sfixed32 | Kind::Sfixed64 => {
            bytes.iter().all(|b| *b == 0)
        }
        _ => varint(bytes, &mut 0, bytes.len()).is_ok_and(|n| n == 0),
    }
}

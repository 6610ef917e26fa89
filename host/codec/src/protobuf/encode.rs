//! From JSON to the wire.

use super::decode::{Nest, Seen};
use super::kept::View;
use super::known;
use super::plan::{Field, Kind, Known, Message, Plan, Shape};
use super::wire::write_varint;
use crate::jsontext::{self, Json, quoted};
use crate::number::{self, Numbers};
use crate::place::{Step, Wrong};

/// Adds the body of a payload, as a message of the type `root`. `unchanged` is whether the payload is what it was
/// when `kept` was kept.
pub(super) fn write(
    plan: &Plan,
    root: usize,
    payload: &[u8],
    numbers: Numbers,
    kept: Option<&View<'_>>,
    unchanged: bool,
    out: &mut Vec<u8>,
) -> Result<(), Wrong> {
    let mut json = Json::of(payload)?;
    let mut writer = Writer { plan, numbers, unchanged, out };
    writer.message(root, &mut json, Nest::default(), kept)?;
    Ok(json.end()?)
}

struct Writer<'a> {
    plan: &'a Plan,
    numbers: Numbers,
    unchanged: bool,
    out: &'a mut Vec<u8>,
}

fn found(kind: jsontext::Kind, expected: &str) -> Wrong {
    Wrong::new(format!("{} where {expected} is expected", kind.shown()))
}

impl<'a> Writer<'a> {
    fn tag(&mut self, number: u32, wire_type: u8) {
        write_varint(u64::from(number) << 3 | u64::from(wire_type), self.out);
    }

    /// Writes the length of what `write` writes, then that.
    fn measured(&mut self, write: impl FnOnce(&mut Self) -> Result<(), Wrong>) -> Result<(), Wrong> {
        // Most are short: the length takes one byte.
        let start = self.out.len();
        self.out.push(0);
        write(self)?;
        let length = self.out.len() - start - 1;
        if length < 0x80 {
            self.out[start] = length as u8;
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(10);
        write_varint(length as u64, &mut bytes);
        self.out.splice(start..=start, bytes);
        Ok(())
    }

    /// Writes a message's contents.
    fn message(
        &mut self,
        at: usize,
        json: &mut Json<'_>,
        nest: Nest,
        kept: Option<&View<'_>>,
    ) -> Result<(), Wrong> {
        let message = &self.plan.messages[at];
        let nest = nest.message()?;
        if let Some(known) = message.known {
            return self.known(message, known, json, nest, kept);
        }
        match json.kind()? {
            jsontext::Kind::Object => {}
            kind => return Err(found(kind, &format!("an object, a {},", message.name))),
        }
        let nest = nest.json()?;
        json.enter();
        self.fields(message, json, nest, kept, false)
    }

    /// Writes the fields of an object that was entered.
    fn fields(
        &mut self,
        message: &'a Message,
        json: &mut Json<'_>,
        nest: Nest,
        kept: Option<&View<'_>>,
        of_any: bool,
    ) -> Result<(), Wrong> {
        let mut seen = Seen::of(message);
        let (mut first, mut guess) = (true, 0);
        while let Some(name) = json.name(&mut first)? {
            if of_any && name == "@type" {
                json.skip()?;
                continue;
            }
            let Some((place, field)) = message.by_name(&name, guess) else {
                return Err(Wrong::new(format!(
                    "{} has no field {}: take it out of the payload, or use a newer schema",
                    message.name,
                    quoted(&name)
                )));
            };
            guess = place + 1;
            let kind = json.kind()?;
            if seen.has(place) {
                return Err(Wrong::new(format!("the field {} stands twice", quoted(&name))));
            }
            if kind == jsontext::Kind::Null && !self.takes_null(field) {
                json.null()?;
                // It says nothing, not even of a oneof; but a required field has no value then.
                continue;
            }
            seen.mark(place);
            if field.oneof.is_some_and(|oneof| seen.mark(message.fields.len() + oneof)) {
                return Err(Wrong::new(format!(
                    "{} is one of several fields of which a message has one, and there is another",
                    quoted(&name)
                )));
            }
            self.field(field, kind, json, nest, kept)
                .map_err(|e| e.within(Step::Name(field.name.clone())))?;
        }
        if message.has_required {
            let missing = |(at, f): &(usize, &Field)| f.shape == Shape::Required && !seen.has(*at);
            if let Some((_, field)) = message.fields.iter().enumerate().find(missing) {
                let why = format!("the required field `{}` of {} is missing", field.name, message.name);
                return Err(Wrong::new(why));
            }
        }
        if let Some(kept) = kept {
            for field in kept.fields() {
                let (number, raw) =
                    field.map_err(|_| Wrong::new("the unknown fields in `$protobuf` are damaged"))?;
                // The schema may have got it since; what the payload says counts.
                if message.by_number(number).is_none_or(|(at, _)| !seen.has(at)) {
                    self.out.extend_from_slice(raw);
                }
            }
        }
        Ok(())
    }

    /// Whether null is a value of the field, not its absence.
    fn takes_null(&self, field: &Field) -> bool {
        let single = matches!(field.shape, Shape::Optional | Shape::Implicit | Shape::Required);
        single
            && match field.kind {
                Kind::Message(at) => self.plan.messages[at].known == Some(Known::Value),
                Kind::Enum(at) => self.plan.enums[at].is_null,
                _ => false,
            }
    }

    fn field(
        &mut self,
        field: &'a Field,
        kind: jsontext::Kind,
        json: &mut Json<'_>,
        nest: Nest,
        kept: Option<&View<'_>>,
    ) -> Result<(), Wrong> {
        match field.shape {
            Shape::Repeated { packed } => {
                if kind != jsontext::Kind::List {
                    return Err(found(kind, "a list"));
                }
                let nest = nest.json()?;
                self.list(field, packed && field.kind.wire_type() != 2, json, nest, kept)
            }
            Shape::Map => {
                if kind != jsontext::Kind::Object {
                    return Err(found(kind, "an object, a map,"));
                }
                let nest = nest.json()?;
                self.map(field, json, nest, kept)
            }
            shape => {
                let start = self.out.len();
                self.tag(field.number, field.kind.wire_type());
                let value = self.out.len();
                self.value(field.kind, field.number, json, nest, child(kept, field.number, 0)?.as_ref())?;
                let is_zero = || {
                    let bytes = &self.out[value..];
                    !matches!(field.kind, Kind::Message(_) | Kind::Group(_)) && bytes.iter().all(|b| *b == 0)
                };
                // A text of NULs has a length before it, which is not zero.
                if shape == Shape::Implicit && is_zero() {
                    self.out.truncate(start);
                }
                Ok(())
            }
        }
    }

    fn list(
        &mut self,
        field: &'a Field,
        packed: bool,
        json: &mut Json<'_>,
        nest: Nest,
        kept: Option<&View<'_>>,
    ) -> Result<(), Wrong> {
        json.enter();
        let start = self.out.len();
        let mut count = 0;
        let mut all = |writer: &mut Self| -> Result<(), Wrong> {
            let mut first = true;
            while json.item(&mut first)? {
                if !packed {
                    writer.tag(field.number, field.kind.wire_type());
                }
                let index = u32::try_from(count + 1).unwrap_or(u32::MAX);
                let kept = if writer.unchanged { child(kept, field.number, index)? } else { None };
                writer
                    .value(field.kind, field.number, json, nest, kept.as_ref())
                    .map_err(|e| e.within(Step::Index(count)))?;
                count += 1;
            }
            Ok(())
        };
        if !packed {
            return all(self);
        }
        self.tag(field.number, 2);
        self.measured(all)?;
        if count == 0 {
            self.out.truncate(start);
        }
        Ok(())
    }

    fn map(
        &mut self,
        field: &'a Field,
        json: &mut Json<'_>,
        nest: Nest,
        kept: Option<&View<'_>>,
    ) -> Result<(), Wrong> {
        let Some((key_field, value_field)) = self.plan.entry(field.kind) else {
            return Err(Wrong::new("a map without keys and values"));
        };
        json.enter();
        let (mut first, mut count) = (true, 0);
        while let Some(name) = json.name(&mut first)? {
            count += 1;
            let kept = if self.unchanged { child(kept, field.number, count)? } else { None };
            self.tag(field.number, 2);
            let pair = |writer: &mut Self| {
                writer.tag(1, key_field.kind.wire_type());
                writer.key(key_field.kind, &name)?;
                writer.tag(2, value_field.kind.wire_type());
                writer.value(value_field.kind, 2, json, nest, kept.as_ref())
            };
            self.measured(pair).map_err(|e| e.within(Step::Name(name.to_string())))?;
        }
        Ok(())
    }

    fn key(&mut self, kind: Kind, name: &str) -> Result<(), Wrong> {
        match (kind, name) {
            (Kind::String, _) => self.bytes(name.as_bytes()),
            (Kind::Bool, "true") => self.out.push(1),
            (Kind::Bool, "false") => self.out.push(0),
            (Kind::Bool, _) => return Err(Wrong::new("the key is neither `true` nor `false`")),
            _ => self.number(kind, name)?,
        }
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) {
        write_varint(bytes.len() as u64, self.out);
        self.out.extend_from_slice(bytes);
    }

    /// Writes a value without its tag.
    fn value(
        &mut self,
        kind: Kind,
        number: u32,
        json: &mut Json<'_>,
        nest: Nest,
        kept: Option<&View<'_>>,
    ) -> Result<(), Wrong> {
        if let Kind::Message(at) = kind {
            return self.measured(|writer| writer.message(at, json, nest, kept));
        }
        if let Kind::Group(at) = kind {
            self.message(at, json, nest, kept)?;
            self.tag(number, 4);
            return Ok(());
        }
        let is = json.kind()?;
        match (kind, is) {
            (Kind::String, jsontext::Kind::Text) => {
                let text = json.string()?;
                self.bytes(text.as_bytes());
            }
            (Kind::Bytes, jsontext::Kind::Text) => {
                let text = json.string()?;
                self.measured(|writer| Ok(jsontext::of_base64(&text, writer.out)?))?;
            }
            (Kind::Bool, jsontext::Kind::Bool) => {
                let value = json.bool()?;
                self.out.push(u8::from(value));
            }
            (Kind::Enum(at), jsontext::Kind::Text) => {
                let described = &self.plan.enums[at];
                let name = json.string()?;
                let Some(value) = described.by_name.get(&*name) else {
                    const NAMES_MAX: usize = 8;
                    let more = if described.names.len() > NAMES_MAX { ", …" } else { "" };
                    let shown =
                        described.names.iter().take(NAMES_MAX).map(String::as_str).collect::<Vec<_>>();
                    return Err(Wrong::new(format!(
                        "{} is no value of {}, which has {}{more}",
                        quoted(&name),
                        described.name,
                        shown.join(", ")
                    )));
                };
                write_varint(i64::from(*value) as u64, self.out);
            }
            (Kind::Enum(at), jsontext::Kind::Null) if self.plan.enums[at].is_null => {
                json.null()?;
                self.out.push(0);
            }
            (Kind::String | Kind::Bytes | Kind::Bool, _) => {
                let expected = match kind {
                    Kind::String => "text",
                    Kind::Bytes => "bytes, as text in base64,",
                    _ => "true or false",
                };
                return Err(found(is, expected));
            }
            (_, jsontext::Kind::Number) => {
                let digits = json.number()?;
                self.number(kind, digits)?;
            }
            (_, jsontext::Kind::Text) => {
                let text = json.string()?;
                match (kind, number::not_finite(&text)) {
                    (Kind::Double, Some(odd)) => self.out.extend_from_slice(&odd.to_le_bytes()),
                    // Each of the three is in both widths.
                    (Kind::Float, Some(odd)) => self.out.extend_from_slice(&(odd as f32).to_le_bytes()),
                    _ => self.number(kind, &text)?,
                }
            }
            _ => return Err(found(is, kind.shown())),
        }
        Ok(())
    }

    /// Writes a number.
    fn number(&mut self, kind: Kind, digits: &str) -> Result<(), Wrong> {
        match kind {
            Kind::Double => {
                let value = number::double(digits, self.numbers)?;
                self.out.extend_from_slice(&value.to_le_bytes());
                return Ok(());
            }
            Kind::Float => {
                let value = number::float(digits, self.numbers)?;
                self.out.extend_from_slice(&value.to_le_bytes());
                return Ok(());
            }
            _ => {}
        }
        let value = match digits.parse::<i64>() {
            Ok(value) => i128::from(value),
            Err(_) => number::integer(digits)?,
        };
        let range = match kind {
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 | Kind::Enum(_) => i32::MIN.into()..=i32::MAX.into(),
            Kind::Uint32 | Kind::Fixed32 => 0..=u32::MAX.into(),
            Kind::Uint64 | Kind::Fixed64 => 0..=u64::MAX.into(),
            _ => i64::MIN.into()..=i64::MAX.into(),
        };
        if !range.contains(&value) {
            return Err(Wrong::new(format!(
                "{value} does not fit {}: {} to {}",
                kind.shown(),
                range.start(),
                range.end()
            )));
        }
        // In range, so that what is cut off says nothing; negative ones take all 64 bits.
        let bits = value as u64;
        match kind {
            Kind::Sint32 | Kind::Sint64 => {
                let value = value as i64;
                write_varint((value << 1 ^ value >> 63) as u64, self.out);
            }
            Kind::Fixed32 | Kind::Sfixed32 => self.out.extend_from_slice(&(bits as u32).to_le_bytes()),
            Kind::Fixed64 | Kind::Sfixed64 => self.out.extend_from_slice(&bits.to_le_bytes()),
            _ => write_varint(bits, self.out),
        }
        Ok(())
    }

    fn string<'j>(json: &mut Json<'j>, expected: &str) -> Result<std::borrow::Cow<'j, str>, Wrong> {
        match json.kind()? {
            jsontext::Kind::Text => Ok(json.string()?),
            kind => Err(found(kind, expected)),
        }
    }

    /// Writes a message that has a JSON form of its own.
    fn known(
        &mut self,
        message: &'a Message,
        known: Known,
        json: &mut Json<'_>,
        nest: Nest,
        kept: Option<&View<'_>>,
    ) -> Result<(), Wrong> {
        let exact = self.numbers == Numbers::Exact;
        let first = &message.fields[0];
        match known {
            Known::Timestamp | Known::Duration => {
                let (seconds, nanos) = if known == Known::Timestamp {
                    known::timestamp(&Self::string(json, "a timestamp as text, in RFC 3339,")?, exact)?
                } else {
                    known::duration(&Self::string(json, "a duration as text, such as 1.5s,")?, exact)?
                };
                for (number, value) in [(1, seconds), (2, i64::from(nanos))] {
                    if value != 0 {
                        self.tag(number, 0);
                        write_varint(value as u64, self.out);
                    }
                }
            }
            Known::FieldMask => {
                let text = Self::string(json, "a field mask as text, such as a.b,c,")?;
                for path in text.split(',').filter(|_| !text.is_empty()) {
                    let path = known::snake(path)?;
                    self.tag(1, 2);
                    self.bytes(path.as_bytes());
                }
            }
            Known::Wrapper => {
                let start = self.out.len();
                self.tag(1, first.kind.wire_type());
                let value = self.out.len();
                self.value(first.kind, 1, json, nest, None)?;
                if self.out[value..].iter().all(|b| *b == 0) {
                    self.out.truncate(start);
                }
            }
            Known::Struct => {
                let kind = json.kind()?;
                self.field(first, kind, json, nest, None)?;
            }
            Known::ListValue => {
                let kind = json.kind()?;
                self.field(first, kind, json, nest, None)?;
            }
            Known::Value => {
                let number = match json.kind()? {
                    jsontext::Kind::Null => 1,
                    jsontext::Kind::Number => 2,
                    jsontext::Kind::Text => 3,
                    jsontext::Kind::Bool => 4,
                    jsontext::Kind::Object => 5,
                    jsontext::Kind::List => 6,
                };
                let Some((_, field)) = message.by_number(number) else {
                    return Err(Wrong::new("a google.protobuf.Value without all its fields"));
                };
                self.tag(number, field.kind.wire_type());
                self.value(field.kind, number, json, nest, None)?;
            }
            Known::Any => return self.any(json, nest, kept),
        }
        Ok(())
    }

    fn any(&mut self, json: &mut Json<'_>, nest: Nest, kept: Option<&View<'_>>) -> Result<(), Wrong> {
        match json.kind()? {
            jsontext::Kind::Object => {}
            kind => return Err(found(kind, "an object with `@type`, a google.protobuf.Any,")),
        }
        let nest = nest.json()?;
        let mut ahead = *json;
        ahead.enter();
        let (mut first, mut url, mut is_bytes, mut count) = (true, None, false, 0);
        while let Some(name) = ahead.name(&mut first)? {
            count += 1;
            is_bytes |= name == "@bytes";
            if name == "@type" && url.is_none() {
                url = Some(Self::string(&mut ahead, "the URL of a message type, as text,")?);
            } else {
                ahead.skip()?;
            }
        }
        let Some(url) = url else {
            if count > 0 {
                return Err(Wrong::new(
                    "an object without `@type`: a google.protobuf.Any tells its message type there",
                ));
            }
            *json = ahead;
            return Ok(());
        };
        self.tag(1, 2);
        self.bytes(url.as_bytes());
        json.enter();
        let name = url.rsplit_once('/').map_or("", |(_, name)| name);
        let at = self.plan.find(name).filter(|_| !is_bytes);
        let value = self.out.len();
        self.tag(2, 2);
        match at {
            Some(at) if self.plan.messages[at].known.is_none() => {
                let nest = nest.message()?;
                let kept = child(kept, 2, 0)?;
                let inner = &self.plan.messages[at];
                self.measured(|writer| writer.fields(inner, json, nest, kept.as_ref(), true))?;
            }
            _ => {
                let expected = if at.is_some() { "value" } else { "@bytes" };
                let (mut first, mut done) = (true, false);
                while let Some(name) = json.name(&mut first)? {
                    match &*name {
                        "@type" => json.skip()?,
                        name if name == expected && !done => {
                            done = true;
                            let kind = at.map_or(Kind::Bytes, Kind::Message);
                            self.value(kind, 2, json, nest, None)
                                .map_err(|e| e.within(Step::Name(name.to_owned())))?;
                        }
                        name => {
                            return Err(Wrong::new(format!(
                                "{} beside `@type` {}, which has nothing but `{expected}`",
                                quoted(name),
                                quoted(&url)
                            )));
                        }
                    }
                }
                if !done && at.is_none() {
                    let why = format!(
                        "the message type of {} is not known, and there are no `@bytes`",
                        quoted(&url)
                    );
                    return Err(Wrong::new(why));
                }
                if !done {
                    self.out.truncate(value);
                }
            }
        }
        // An empty value is absent.
        if self.out.len() > value && self.out[value..] == [0x12, 0] {
            self.out.truncate(value);
        }
        Ok(())
    }
}

fn child<'k>(kept: Option<&View<'k>>, number: u32, index: u32) -> Result<Option<View<'k>>, Wrong> {
    match kept {
        None => Ok(None),
        Some(kept) => {
            kept.child(number, index).map_err(|_| Wrong::new("the unknown fields in `$protobuf` are damaged"))
        }
    }
}

//! From JSON to the wire, without a value in between.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::UnknownFields;
use super::logical::{Whole, read_decimal, read_duration, read_uuid, shown};
use super::read::part;
use super::schema::{Binary, Enum, Fixed, Node, NodeId, Record, Schema, length, long};
use super::tape::{Kind, Tape, Token};
use crate::number::{self, Numbers};

/// Why a value can't be written, and where.
#[derive(Debug, Clone)]
struct Fault {
    /// From the inside out.
    path: Vec<String>,
    why: String,
}

type Written = Result<(), Box<Fault>>;

impl Fault {
    fn inside(mut self: Box<Self>, part: impl FnOnce() -> String) -> Box<Self> {
        self.path.push(part());
        self
    }
}

fn fault(why: impl Into<String>) -> Written {
    Err(Box::new(Fault { path: Vec::new(), why: why.into() }))
}

/// Buffers that a thread uses for one message after the other.
#[derive(Default)]
struct Scratch {
    tape: Tape,
    slots: Vec<u32>,
    chosen: HashMap<(u32, NodeId, bool), Result<usize, Box<Fault>>>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Adds a payload as a datum of the schema. What was added before an error is left there.
///
/// # Errors
/// What of the payload the schema can't hold, where, and what to do.
pub(super) fn write(
    schema: &Schema,
    payload: &[u8],
    numbers: Numbers,
    unknown_fields: UnknownFields,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let json = std::str::from_utf8(payload)
        .map_err(|e| format!("the payload is not JSON: invalid UTF-8 at byte {}", e.valid_up_to()))?;
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.tape.fill(json)?;
        scratch.slots.clear();
        scratch.chosen.clear();
        let Scratch { tape, slots, chosen } = scratch;
        let mut writer = Writer { schema, json, tape, slots, chosen, numbers, unknown_fields, out };
        writer.value(schema.root, 0).map_err(|fault| {
            let path: String = fault.path.into_iter().rev().collect();
            format!("payload{path}: {}", fault.why)
        })
    })
}

struct Writer<'a> {
    schema: &'a Schema,
    json: &'a str,
    tape: &'a Tape,
    /// Which token each field of the records that are being written has.
    slots: &'a mut Vec<u32>,
    /// Which branch a value takes in a union of which several may do, so that it is tried once, however often
    /// the union around it tries its own; and whether nothing may be rounded or dropped in it.
    chosen: &'a mut HashMap<(u32, NodeId, bool), Result<usize, Box<Fault>>>,
    numbers: Numbers,
    unknown_fields: UnknownFields,
    out: &'a mut Vec<u8>,
}

/// No token: a field that the payload lacks.
const ABSENT: u32 = u32::MAX;

impl<'a> Writer<'a> {
    /// Writes the value at a token. The depth is the text's, which is bounded.
    fn value(&mut self, node: NodeId, at: u32) -> Written {
        let schema = self.schema;
        let token = self.tape.token(at);
        match (&schema.nodes[node], token.kind) {
            (Node::Union(branches), _) => return self.union(node, branches, at),
            (Node::Null, Kind::Null) => {}
            (Node::Boolean, Kind::True) => self.out.push(1),
            (Node::Boolean, Kind::False) => self.out.push(0),
            (Node::Int(_), Kind::Number) => {
                let value = self.number(token)?;
                return self.int(value, token);
            }
            (Node::Long(_), Kind::Number) => {
                let value = self.number(token)?;
                return self.long(value, token);
            }
            (Node::Int(whole), Kind::Text | Kind::Escaped) if *whole != Whole::Number => {
                let value = self.moment(*whole, token)?;
                return self.int(value, token);
            }
            (Node::Long(whole), Kind::Text | Kind::Escaped) if *whole != Whole::Number => {
                let value = self.moment(*whole, token)?;
                return self.long(value, token);
            }
            (Node::Float, Kind::Number) => match number::float(token.raw(self.json), self.numbers) {
                Ok(value) => self.out.extend_from_slice(&value.to_le_bytes()),
                Err(why) => return fault(why),
            },
            (Node::Double, Kind::Number) => match number::double(token.raw(self.json), self.numbers) {
                Ok(value) => self.out.extend_from_slice(&value.to_le_bytes()),
                Err(why) => return fault(why),
            },
            (Node::Float, Kind::Text) if let Some(value) = number::not_finite(token.raw(self.json)) => {
                #[expect(clippy::cast_possible_truncation, reason = "not finite in either")]
                self.out.extend_from_slice(&(value as f32).to_le_bytes());
            }
            (Node::Double, Kind::Text) if let Some(value) = number::not_finite(token.raw(self.json)) => {
                self.out.extend_from_slice(&value.to_le_bytes());
            }
            (Node::String { .. }, Kind::Text | Kind::Escaped) => {
                let text = self.text(token)?;
                length(text.len(), self.out);
                self.out.extend_from_slice(text.as_bytes());
            }
            (Node::Enum(symbols), Kind::Text | Kind::Escaped) => {
                let symbol = self.text(token)?;
                let Some(index) = symbols.by_symbol.get(&*symbol) else { return none_of(&symbol, symbols) };
                length(*index, self.out);
            }
            (Node::Bytes(Binary::Decimal { precision, scale }), Kind::Number) => {
                match read_decimal(token.raw(self.json), *precision, *scale, self.numbers) {
                    Ok(bytes) => {
                        length(bytes.len(), self.out);
                        self.out.extend_from_slice(&bytes);
                    }
                    Err(why) => return fault(why),
                }
            }
            (Node::Bytes(Binary::Plain), Kind::Text | Kind::Escaped) => {
                let bytes = self.base64(token)?;
                length(bytes.len(), self.out);
                self.out.extend_from_slice(&bytes);
            }
            (Node::Fixed(fixed), _) => return self.fixed(fixed, token),
            (Node::Array(item), Kind::Array) => return self.array(*item, at),
            (Node::Map(item), Kind::Object) => return self.map(*item, at),
            (Node::Record(record), Kind::Object) => return self.record(record, at),
            _ => return self.other(node, token),
        }
        Ok(())
    }

    #[cold]
    fn other(&self, node: NodeId, token: Token) -> Written {
        let what = match token.kind {
            Kind::Null => "null".to_owned(),
            Kind::True => "true".into(),
            Kind::False => "false".into(),
            Kind::Number => format!("the number {}", shown(token.raw(self.json))),
            Kind::Text | Kind::Escaped => format!("the text `{}`", shown(token.raw(self.json))),
            Kind::Array => "a list".into(),
            Kind::Object => "an object".into(),
        };
        fault(format!("{what}: the schema has {}", self.schema.describe(node)))
    }

    fn number(&self, token: Token) -> Result<i128, Box<Fault>> {
        let text = token.raw(self.json);
        if let Ok(value) = text.parse::<i64>() {
            return Ok(i128::from(value));
        }
        match (number::integer(text), self.numbers) {
            (Ok(value), _) => Ok(value),
            (Err(_), Numbers::Round)
                if let Ok(value) = text.parse::<f64>()
                    && value.abs() < 1e18 =>
            {
                #[expect(clippy::cast_possible_truncation, reason = "below 2^63")]
                Ok(i128::from(value.round_ties_even() as i64))
            }
            (Err(why), _) => Err(Box::new(Fault { path: Vec::new(), why })),
        }
    }

    fn moment(&self, whole: Whole, token: Token) -> Result<i128, Box<Fault>> {
        let text = self.text(token)?;
        whole.read(&text, self.numbers).map_err(|why| Box::new(Fault { path: Vec::new(), why }))
    }

    fn int(&mut self, value: i128, token: Token) -> Written {
        match i32::try_from(value) {
            Ok(value) => long(i64::from(value), self.out),
            Err(_) => {
                return fault(format!("{} does not fit an int of 32 bits", shown(token.raw(self.json))));
            }
        }
        Ok(())
    }

    fn long(&mut self, value: i128, token: Token) -> Written {
        match i64::try_from(value) {
            Ok(value) => long(value, self.out),
            Err(_) => {
                return fault(format!("{} does not fit a long of 64 bits", shown(token.raw(self.json))));
            }
        }
        Ok(())
    }

    fn text(&self, token: Token) -> Result<Cow<'a, str>, Box<Fault>> {
        token.text(self.json).map_err(|why| Box::new(Fault { path: Vec::new(), why }))
    }

    fn base64(&self, token: Token) -> Result<Vec<u8>, Box<Fault>> {
        let text = self.text(token)?;
        STANDARD.decode(text.as_bytes()).map_err(|e| {
            let why = format!("the text `{}` is not base64, as which bytes are expected: {e}", shown(&text));
            Box::new(Fault { path: Vec::new(), why })
        })
    }

    fn fixed(&mut self, fixed: &Fixed, token: Token) -> Written {
        let text = matches!(token.kind, Kind::Text | Kind::Escaped);
        let told = |why| Box::new(Fault { path: Vec::new(), why });
        match fixed.says {
            Binary::Decimal { precision, scale } if token.kind == Kind::Number => {
                let raw = token.raw(self.json);
                let bytes = read_decimal(raw, precision, scale, self.numbers).map_err(told)?;
                let Some(room) = fixed.size.checked_sub(bytes.len()) else {
                    return fault(format!(
                        "the number {} does not fit fixed {} of {} bytes",
                        shown(raw),
                        fixed.name.full,
                        fixed.size
                    ));
                };
                let sign = if bytes[0] & 0x80 != 0 { 0xff } else { 0 };
                self.out.resize(self.out.len() + room, sign);
                self.out.extend_from_slice(&bytes);
            }
            Binary::Uuid if text => {
                let bytes = read_uuid(&self.text(token)?).map_err(told)?;
                self.out.extend_from_slice(&bytes);
            }
            Binary::Duration if text => {
                let bytes = read_duration(&self.text(token)?).map_err(told)?;
                self.out.extend_from_slice(&bytes);
            }
            Binary::Plain if text => {
                let bytes = self.base64(token)?;
                if bytes.len() != fixed.size {
                    return fault(format!(
                        "{} bytes: fixed {} has {}",
                        bytes.len(),
                        fixed.name.full,
                        fixed.size
                    ));
                }
                self.out.extend_from_slice(&bytes);
            }
            _ => {
                let kind = if matches!(fixed.says, Binary::Decimal { .. }) { "a number" } else { "text" };
                return fault(format!("expected {kind}, for the schema has fixed {}", fixed.name.full));
            }
        }
        Ok(())
    }

    fn array(&mut self, item: NodeId, at: u32) -> Written {
        let end = self.tape.token(at).next;
        let mut count = 0_usize;
        let mut child = at + 1;
        while child < end {
            count += 1;
            child = self.tape.token(child).next;
        }
        if count > 0 {
            length(count, self.out);
            let mut child = at + 1;
            for index in 0..count {
                self.value(item, child).map_err(|fault| fault.inside(|| format!("[{index}]")))?;
                child = self.tape.token(child).next;
            }
        }
        self.out.push(0);
        Ok(())
    }

    fn map(&mut self, item: NodeId, at: u32) -> Written {
        let end = self.tape.token(at).next;
        let mut count = 0_usize;
        let mut name = at + 1;
        while name < end {
            count += 1;
            name = self.tape.token(name + 1).next;
        }
        if count > 0 {
            length(count, self.out);
            let mut name = at + 1;
            while name < end {
                let key = self.text(self.tape.token(name))?;
                length(key.len(), self.out);
                self.out.extend_from_slice(key.as_bytes());
                self.value(item, name + 1).map_err(|fault| fault.inside(|| part(&key)))?;
                name = self.tape.token(name + 1).next;
            }
        }
        self.out.push(0);
        Ok(())
    }

    fn record(&mut self, record: &'a Record, at: u32) -> Written {
        let base = self.slots.len();
        self.slots.resize(base + record.fields.len(), ABSENT);
        let written = self.place(record, at, base).and_then(|()| self.fields(record, base));
        self.slots.truncate(base);
        written
    }

    /// Finds where each field's value is. A name that stands twice counts where it stands last.
    fn place(&mut self, record: &Record, at: u32, base: usize) -> Written {
        let end = self.tape.token(at).next;
        let (mut name, mut expected) = (at + 1, 0);
        while name < end {
            let token = self.tape.token(name);
            let text = self.text(token)?;
            let in_turn = record.fields.get(expected).is_some_and(|field| field.name == *text);
            let found = if in_turn { Some(expected) } else { record.by_name.get(&*text).copied() };
            match found {
                Some(index) => {
                    self.slots[base + index] = name + 1;
                    expected = index + 1;
                }
                None if self.unknown_fields == UnknownFields::Drop => {}
                None => {
                    let why = format!(
                        "record {} has no such field: take it out, add it to the schema, or set `unknown_fields: drop` on the codec",
                        record.name.full
                    );
                    return Err(Box::new(Fault { path: vec![part(&text)], why }));
                }
            }
            name = self.tape.token(name + 1).next;
        }
        Ok(())
    }

    fn fields(&mut self, record: &'a Record, base: usize) -> Written {
        for (index, field) in record.fields.iter().enumerate() {
            match (self.slots[base + index], &field.default_bytes) {
                (ABSENT, Some(Ok(default))) => self.out.extend_from_slice(default),
                (ABSENT, Some(Err(why))) => {
                    return fault(why.clone()).map_err(|fault| fault.inside(|| part(&field.name)));
                }
                (ABSENT, None) => {
                    let why = format!("it is missing, and record {} has no default for it", record.name.full);
                    return fault(why).map_err(|fault| fault.inside(|| part(&field.name)));
                }
                (at, _) => self.value(field.node, at).map_err(|fault| fault.inside(|| part(&field.name)))?,
            }
        }
        Ok(())
    }

    /// A union's value takes the first branch that fits exactly, else the first that takes it.
    fn union(&mut self, node: NodeId, branches: &'a [NodeId], at: u32) -> Written {
        let token = self.tape.token(at);
        let whole = token.kind == Kind::Number && !token.raw(self.json).contains(['.', 'e', 'E']);
        let fits = |branch: NodeId| fit(&self.schema.nodes[branch], token.kind, whole);
        let mut likely = branches.iter().enumerate().filter(|(_, branch)| fits(**branch) != Fit::No);
        let Some((first, branch)) = likely.next() else { return self.other(node, token) };
        if likely.next().is_none() {
            length(first, self.out);
            return self.value(*branch, at);
        }
        let strict = self.numbers == Numbers::Exact && self.unknown_fields == UnknownFields::Refuse;
        let chosen = match self.chosen.get(&(at, node, strict)) {
            Some(chosen) => chosen.clone(),
            None => {
                let chosen = self.choose(branches, at, token, whole);
                self.chosen.insert((at, node, strict), chosen.clone());
                chosen
            }
        };
        let index = chosen?;
        length(index, self.out);
        self.value(branches[index], at)
    }

    fn choose(
        &mut self,
        branches: &'a [NodeId],
        at: u32,
        token: Token,
        whole: bool,
    ) -> Result<usize, Box<Fault>> {
        let set = (self.numbers, self.unknown_fields);
        let mut last = None;
        // What the settings allow to be changed is changed only where no branch takes the value as it is.
        for (numbers, unknown_fields, least) in [
            (Numbers::Exact, UnknownFields::Refuse, Fit::Well),
            (Numbers::Exact, UnknownFields::Refuse, Fit::Maybe),
            (set.0, set.1, Fit::Maybe),
        ] {
            for (index, branch) in branches.iter().enumerate() {
                let fit = fit(&self.schema.nodes[*branch], token.kind, whole);
                if fit < least {
                    continue;
                }
                let (start, slots) = (self.out.len(), self.slots.len());
                (self.numbers, self.unknown_fields) = (numbers, unknown_fields);
                let tried = self.value(*branch, at);
                (self.numbers, self.unknown_fields) = set;
                self.out.truncate(start);
                self.slots.truncate(slots);
                match tried {
                    Ok(()) => return Ok(index),
                    Err(fault) => last = Some((*branch, fault)),
                }
            }
        }
        Err(match last {
            Some((branch, fault)) => Box::new(Fault {
                why: format!(
                    "it fits no branch of the union; of the last, {}: {}",
                    self.schema.describe(branch),
                    fault.why
                ),
                path: fault.path,
            }),
            None => Box::new(Fault { path: Vec::new(), why: "it fits no branch of the union".into() }),
        })
    }
}

#[cold]
fn none_of(symbol: &str, symbols: &Enum) -> Written {
    let list: Vec<_> = symbols.symbols.iter().take(12).map(String::as_str).collect();
    let more = if symbols.symbols.len() > 12 { ", …" } else { "" };
    fault(format!(
        "the text `{}` is none of enum {}: {}{more}",
        shown(symbol),
        symbols.name.full,
        list.join(", ")
    ))
}

/// How a value goes with a type, by its kind alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    No,
    Maybe,
    Well,
}

fn fit(node: &Node, kind: Kind, whole: bool) -> Fit {
    match (node, kind) {
        (Node::Null, Kind::Null)
        | (Node::Boolean, Kind::True | Kind::False)
        | (Node::String { .. } | Node::Enum(_) | Node::Bytes(Binary::Plain), Kind::Text | Kind::Escaped)
        | (
            Node::Fixed(Fixed { says: Binary::Plain | Binary::Uuid | Binary::Duration, .. }),
            Kind::Text | Kind::Escaped,
        )
        | (Node::Array(_), Kind::Array)
        | (Node::Map(_) | Node::Record(_), Kind::Object) => Fit::Well,
        (Node::Int(says) | Node::Long(says), Kind::Number) => {
            if whole && *says == Whole::Number {
                Fit::Well
            } else {
                Fit::Maybe
            }
        }
        (Node::Int(says) | Node::Long(says), Kind::Text | Kind::Escaped) if *says != Whole::Number => {
            Fit::Well
        }
        (Node::Float | Node::Double, Kind::Number) => {
            if whole {
                Fit::Maybe
            } else {
                Fit::Well
            }
        }
        (Node::Float | Node::Double, Kind::Text) => Fit::Well,
        (
            Node::Bytes(Binary::Decimal { .. }) | Node::Fixed(Fixed { says: Binary::Decimal { .. }, .. }),
            Kind::Number,
        ) => {
            if whole {
                Fit::Maybe
            } else {
                Fit::Well
            }
        }
        _ => Fit::No,
    }
}

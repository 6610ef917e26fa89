//! Messages to rows.

use std::borrow::Cow;
use std::collections::BTreeMap;

use wasmill_engine::key::{Found, Path};
use wasmill_engine::output::{EncodedBatch, EncodedRecord};
use wasmill_frame::Message;

use super::{Dialect, Named, Type, UnknownFields};
use crate::json::decode::{unescaped, unescaped_name};
use crate::json::encode;
use crate::json::scan::{self, Members, Next};
use crate::{Around, RecordWriter, Takes};

/// Writes a message a row.
pub(super) struct CsvWriter {
    dialect: Dialect,
    columns: Vec<Named>,
    /// Which column takes a field of the payload.
    fields: BTreeMap<String, Vec<usize>>,
    /// The fields of which columns take parts.
    parts: Vec<String>,
    types: BTreeMap<String, Type>,
    unknown_fields: UnknownFields,
    around: Around,
}

impl CsvWriter {
    pub fn new(
        dialect: Dialect,
        columns: Vec<Named>,
        types: BTreeMap<String, Type>,
        unknown_fields: UnknownFields,
        around: Around,
    ) -> Self {
        let mut fields = BTreeMap::<String, Vec<usize>>::new();
        let mut parts = Vec::new();
        for (at, column) in columns.iter().enumerate() {
            match &column.place {
                Path::Payload(path) if path.len() == 1 => fields.entry(path[0].clone()).or_default().push(at),
                Path::Payload(path) if path.len() > 1 => parts.push(path[0].clone()),
                _ => {}
            }
        }
        Self { dialect, columns, fields, parts, types, unknown_fields, around }
    }

    fn row(&self, message: Message<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        let payload =
            std::str::from_utf8(message.payload()).map_err(|_| "the payload is not UTF-8".to_owned())?;
        let values = self.values(payload)?;
        let start = out.len();
        for (at, (column, value)) in self.columns.iter().zip(values).enumerate() {
            let named = |why: String| format!("column {} (`{}`): {why}", at + 1, column.name);
            if at > 0 {
                out.push(self.dialect.separator);
            }
            let found = match (&column.place, value) {
                (Path::Payload(path), value) if path.len() == 1 => value.map_or(Ok(Found::Null), classify),
                (Path::Payload(path), _) if path.is_empty() => Ok(Found::Nested(payload)),
                (place, _) => place.find(message),
            };
            self.field(&found.map_err(named)?, &column.name, out).map_err(named)?;
        }
        if out.len() == start {
            return Err(
                "its row would be empty, and empty lines are passed over: add a column that is never null"
                    .into(),
            );
        }
        Ok(())
    }

    /// What stands in the payload for the columns that take a field of it.
    fn values<'a>(&self, payload: &'a str) -> Result<Vec<Option<&'a str>>, String> {
        let mut values = vec![None; self.columns.len()];
        let start = scan::blanks(payload.as_bytes(), 0);
        if payload.as_bytes().get(start) != Some(&b'{') {
            if self.fields.is_empty() && self.parts.is_empty() {
                return Ok(values);
            }
            return Err("the payload is no JSON object: expected one with a field for each column".to_owned());
        }
        let mut members = Members::new(payload, start);
        loop {
            let (name, value) = match members.next() {
                Next::Member(name, value) => (name, value),
                Next::End(_) => return Ok(values),
                Next::Broken => return Err("the payload is not JSON".to_owned()),
            };
            let name = unescaped_name(name).ok_or("the payload has a name that is not well-formed text")?;
            match self.fields.get(&*name) {
                Some(columns) => columns.iter().for_each(|at| values[*at] = Some(value)),
                None if self.unknown_fields == UnknownFields::Drop
                    || self.parts.iter().any(|p| *p == name) => {}
                None if self.fields.is_empty() && self.parts.is_empty() => {}
                None => {
                    return Err(format!(
                        "the payload has the field `{name}`, which no column takes: add it to `columns`, or set `unknown_fields: drop` on the codec"
                    ));
                }
            }
        }
    }

    fn field(&self, found: &Found<'_>, column: &str, out: &mut Vec<u8>) -> Result<(), String> {
        // Text in a column of JSON is a JSON text, so that it is read as one.
        let is_json = self.types.get(column) == Some(&Type::Json);
        match found {
            Found::Null => {}
            Found::Literal(text) => self.write(text, false, out),
            Found::Nested(text) => {
                let mut line = Vec::with_capacity(text.len());
                encode::one_line(text.trim().as_bytes(), &mut line);
                self.write(&String::from_utf8_lossy(&line), false, out);
            }
            Found::Text(text) => {
                let text = std::str::from_utf8(text).map_err(|_| "it is not UTF-8 text".to_owned())?;
                if is_json {
                    let mut json = Vec::new();
                    encode::text(text, &mut json);
                    self.write(&String::from_utf8_lossy(&json), false, out);
                } else {
                    self.write(text, true, out);
                }
            }
        }
        Ok(())
    }

    fn write(&self, text: &str, is_text: bool, out: &mut Vec<u8>) {
        field(text, is_text, self.dialect, out);
    }
}

/// Adds a field, in quotes where it needs them. An empty text has them too: without it would be null.
fn field(text: &str, is_text: bool, dialect: Dialect, out: &mut Vec<u8>) {
    let Dialect { separator, quote, .. } = dialect;
    let bytes = text.as_bytes();
    let needs = (is_text && text.is_empty())
        || text.starts_with('\u{feff}')
        || bytes
            .iter()
            .fold(false, |any, b| any | (*b == separator) | (*b == quote) | (*b == b'\n') | (*b == b'\r'));
    if !needs {
        out.extend_from_slice(bytes);
        return;
    }
    out.push(quote);
    for byte in bytes {
        if *byte == quote {
            out.push(quote);
        }
        out.push(*byte);
    }
    out.push(quote);
}

/// The line that begins a file.
pub(super) fn head(columns: &[Named], dialect: Dialect) -> Vec<u8> {
    let mut head = Vec::new();
    if !dialect.header {
        return head;
    }
    for (at, column) in columns.iter().enumerate() {
        if at > 0 {
            head.push(dialect.separator);
        }
        field(&column.name, true, dialect, &mut head);
    }
    head.push(b'\n');
    head
}

/// What a JSON value is.
fn classify(json: &str) -> Result<Found<'_>, String> {
    Ok(match json.as_bytes().first() {
        None | Some(b'n') => Found::Null,
        Some(b'"') => Found::Text(match unescaped("it", json)? {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        }),
        Some(b'{' | b'[') => Found::Nested(json),
        Some(_) => Found::Literal(Cow::Borrowed(json)),
    })
}

impl RecordWriter for CsvWriter {
    fn write(
        &self,
        message: Message<'_>,
        takes: Takes,
        into: &mut EncodedBatch,
    ) -> Result<EncodedRecord, String> {
        self.around.record(message, takes, into, |out| self.row(message, out))
    }
}

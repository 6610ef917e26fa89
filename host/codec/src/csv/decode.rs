//! Rows to payloads.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use wasmill_engine::input::{Decoder, RawBatch, RawRecord};
use wasmill_frame::FrameBuf;

use super::{Dialect, Empty, Type, check_names};
use crate::Around;
use crate::around::{Body, TYPE};
use crate::bounded::shown;
use crate::json::{encode, scan};

/// A column as rows are read by.
struct Known {
    name: String,
    kind: Type,
    /// What stands before its value in a payload: the name as JSON, and a colon.
    opening: Vec<u8>,
}

/// A header row with the columns that it names.
type HeaderRow = (Arc<[u8]>, Arc<Vec<Known>>);

/// Reads a row a record.
pub(super) struct CsvDecoder {
    dialect: Dialect,
    types: BTreeMap<String, Type>,
    empty: Empty,
    around: Around,
    settings: Option<Arc<Vec<Known>>>,
    /// The columns of the header row that was read last.
    header: RwLock<Option<HeaderRow>>,
}

impl CsvDecoder {
    pub fn new(
        dialect: Dialect,
        names: Option<Vec<String>>,
        types: BTreeMap<String, Type>,
        empty: Empty,
        around: Around,
    ) -> Self {
        let settings = names.map(|names| Arc::new(known(names, &types)));
        Self { dialect, types, empty, around, settings, header: RwLock::default() }
    }

    fn columns(&self, preamble: Option<&Arc<[u8]>>) -> Result<Arc<Vec<Known>>, String> {
        let Some(row) = preamble else {
            return self.settings.clone().ok_or_else(|| {
                "there is no header row that names the columns: name them in `columns` of the codec"
                    .to_owned()
            });
        };
        if let Some((last, columns)) = &*self.header.read().unwrap_or_else(PoisonError::into_inner)
            && (Arc::ptr_eq(last, row) || last == row)
        {
            return Ok(Arc::clone(columns));
        }
        let columns = Arc::new(self.header_row(row).map_err(|why| format!("the header row: {why}"))?);
        *self.header.write().unwrap_or_else(PoisonError::into_inner) =
            Some((Arc::clone(row), Arc::clone(&columns)));
        Ok(columns)
    }

    fn header_row(&self, row: &[u8]) -> Result<Vec<Known>, String> {
        let text = utf8(row)?;
        let mut names = Vec::new();
        for field in Fields::new(text, self.dialect) {
            let field = field.map_err(|why| format!("column {}: {why}", names.len() + 1))?;
            names.push(field.text.into_owned());
        }
        check_names(names.iter().map(String::as_str), &self.types)?;
        Ok(known(names, &self.types))
    }

    fn payload(&self, row: &str, columns: &[Known]) -> Result<Vec<u8>, String> {
        let mut out =
            Vec::with_capacity(row.len() + columns.iter().map(|c| c.opening.len() + 3).sum::<usize>());
        let mut fields = Fields::new(row, self.dialect);
        for (at, column) in columns.iter().enumerate() {
            let named = |why: String| format!("column {} (`{}`): {why}", at + 1, shown(&column.name));
            let Some(field) = fields.next() else {
                return Err(format!(
                    "{at} fields, where there are {} columns: `{}` and what follows is missing",
                    columns.len(),
                    shown(&column.name)
                ));
            };
            let field = field.map_err(named)?;
            out.push(if at == 0 { b'{' } else { b',' });
            out.extend_from_slice(&column.opening);
            self.value(&field, column.kind, &mut out).map_err(named)?;
        }
        let more = fields.count();
        if more > 0 {
            return Err(format!(
                "{} fields, where there are {} columns",
                columns.len() + more,
                columns.len()
            ));
        }
        out.push(b'}');
        Ok(out)
    }

    fn value(&self, field: &Field<'_>, kind: Type, out: &mut Vec<u8>) -> Result<(), String> {
        let text = &*field.text;
        let expected = |what: &str| Err(format!("`{}` is {what}", shown(text)));
        if text.is_empty() && (kind != Type::Text || (!field.quoted && self.empty == Empty::Null)) {
            out.extend_from_slice(b"null");
            return Ok(());
        }
        match kind {
            Type::Text => encode::text(text, out),
            Type::Integer if !is_number(text) || text.contains(['.', 'e', 'E']) => {
                return expected("not an integer as JSON has it, such as -12");
            }
            Type::Number if !is_number(text) => {
                return expected("not a number as JSON has it, such as -12.5");
            }
            Type::Integer | Type::Number => out.extend_from_slice(text.as_bytes()),
            Type::Boolean if text.eq_ignore_ascii_case("true") => out.extend_from_slice(b"true"),
            Type::Boolean if text.eq_ignore_ascii_case("false") => out.extend_from_slice(b"false"),
            Type::Boolean => return expected("neither true nor false"),
            Type::Json if scan::is_value(text) => encode::one_line(text.trim().as_bytes(), out),
            Type::Json => return expected("not JSON"),
        }
        Ok(())
    }
}

fn is_number(text: &str) -> bool {
    text.starts_with(|c: char| c == '-' || c.is_ascii_digit())
        && text.ends_with(|c: char| c.is_ascii_digit())
        && scan::is_value(text)
}

fn known(names: Vec<String>, types: &BTreeMap<String, Type>) -> Vec<Known> {
    let known = |name: String| {
        let mut opening = Vec::new();
        encode::text(&name, &mut opening);
        opening.push(b':');
        Known { kind: types.get(&name).copied().unwrap_or_default(), name, opening }
    };
    names.into_iter().map(known).collect()
}

fn utf8(row: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(row).map_err(|e| {
        let at = e.valid_up_to();
        format!("not UTF-8: byte {at} is 0x{:02x}", row.get(at).copied().unwrap_or_default())
    })
}

impl Decoder for CsvDecoder {
    fn decode(&self, record: &RawRecord, of: &RawBatch, frame: &mut FrameBuf) -> Result<(), String> {
        if record.tombstone {
            return self.around.push(record, of, TYPE, Body::default(), frame);
        }
        let decode = || {
            let row = utf8(&of.data[record.value.clone()])?;
            // A record that is a row of its own may have the end of its line.
            let row = match record.line {
                Some(_) => row,
                None => row.strip_suffix('\n').map_or(row, |row| row.strip_suffix('\r').unwrap_or(row)),
            };
            let columns = self.columns(of.preamble.as_ref())?;
            self.payload(row, &columns)
        };
        let payload = decode().map_err(|why| match record.line {
            Some(line) => format!("line {line}: {why}"),
            None => why,
        })?;
        self.around.push(record, of, TYPE, Body { payload: &payload, is_json: true, unseen: &[] }, frame)
    }
}

/// A field of a row.
struct Field<'a> {
    text: Cow<'a, str>,
    quoted: bool,
}

/// The fields of a row.
struct Fields<'a> {
    row: &'a str,
    at: usize,
    separator: u8,
    quote: u8,
    done: bool,
}

impl<'a> Fields<'a> {
    fn new(row: &'a str, dialect: Dialect) -> Self {
        Self { row, at: 0, separator: dialect.separator, quote: dialect.quote, done: false }
    }

    fn quoted(&mut self) -> Result<Field<'a>, String> {
        let bytes = self.row.as_bytes();
        let opened = self.at;
        let mut start = opened + 1;
        let mut unescaped: Option<String> = None;
        loop {
            let Some(n) = memchr::memchr(self.quote, &bytes[start..]) else {
                return Err(format!("the quote at byte {opened} of the row is never closed"));
            };
            let (part, close) = (&self.row[start..start + n], start + n);
            match bytes.get(close + 1) {
                Some(byte) if *byte == self.quote => {
                    let text = unescaped.get_or_insert_default();
                    text.push_str(part);
                    text.push(char::from(self.quote));
                    start = close + 2;
                    continue;
                }
                Some(byte) if *byte == self.separator => self.at = close + 2,
                Some(_) => {
                    return Err(format!(
                        "something follows the closing quote at byte {close} of the row: expected the separator, or a second quote where one is part of the text"
                    ));
                }
                None => self.done = true,
            }
            let text = match unescaped {
                Some(text) => Cow::Owned(text + part),
                None => Cow::Borrowed(part),
            };
            return Ok(Field { text, quoted: true });
        }
    }

    fn plain(&mut self) -> Result<Field<'a>, String> {
        let start = self.at;
        let rest = &self.row.as_bytes()[start..];
        let end = match memchr::memchr3(self.separator, self.quote, b'\n', rest) {
            Some(n) if rest[n] == self.separator => {
                self.at = start + n + 1;
                start + n
            }
            Some(n) if rest[n] == self.quote => {
                return Err(format!(
                    "a quote at byte {} of the row, within a field that has none around it: put the field in quotes, and write the quote twice",
                    start + n
                ));
            }
            Some(n) => return Err(format!("a newline outside of quotes at byte {} of the row", start + n)),
            None => {
                self.done = true;
                self.row.len()
            }
        };
        Ok(Field { text: Cow::Borrowed(&self.row[start..end]), quoted: false })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let field = match self.row.as_bytes().get(self.at) {
            Some(byte) if *byte == self.quote => self.quoted(),
            _ => self.plain(),
        };
        self.done |= field.is_err();
        Some(field)
    }
}

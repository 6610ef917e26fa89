//! CSV, as RFC 4180 has it: rows of fields, the columns' names in a header row or in the settings.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use wasmill_engine::key::Path;

use crate::table::CodecSettings;
use crate::{Around, CodecError, HeaderNames, Reading, Writing};

mod cutter;
mod decode;
mod encode;

use decode::CsvDecoder;
use encode::CsvWriter;

/// CSV: a row is a message, its payload a JSON object with a member for each column, in their order. Rows stand on
/// lines; a field that has a separator, a quote or a newline stands in quotes, and a quote in it twice. Id, type,
/// timestamp and metadata are in headers, where there are such. Where records are no rows of a file, as in Kafka,
/// each is one row, and `columns` is needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CsvSettings {
    /// The columns in their order, as `[carrier, delay, { region: payload.address.region }]`: a name is a field of
    /// the payload; `name: PLACE` writes what stands at a place: `id`, `type`, `key`, `timestamp`, `metadata.NAME`,
    /// `payload.FIELD.FIELD`. Needed for writing, and for reading where there is no header row. Default: those of
    /// the header row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<Column>>,
    /// Whether the first row of a file, of stdin or of stdout has the columns' names. Where it is read, it says which columns
    /// there are. Default: true.
    pub header: bool,
    /// What stands between fields: one ASCII character. Default: `,`.
    pub separator: char,
    /// What stands around fields: one ASCII character. Default: `"`.
    pub quote: char,
    /// What the fields of columns are: `{ delay: integer, price: number, ok: boolean, tags: json }`. Default: `text`.
    pub types: BTreeMap<String, Type>,
    /// What a field of text is that is empty and has no quotes; one in quotes is an empty text. Default: `null`.
    pub empty: Empty,
    /// Writing: what becomes of a message whose payload has fields that no column takes. Default: `refuse`.
    pub unknown_fields: UnknownFields,
    /// The type of messages whose headers don't tell one. Default: `message`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The names of the headers that hold id, type and timestamp.
    pub headers: HeaderNames,
}

impl Default for CsvSettings {
    fn default() -> Self {
        Self {
            columns: None,
            header: true,
            separator: ',',
            quote: '"',
            types: BTreeMap::new(),
            empty: Empty::default(),
            unknown_fields: UnknownFields::default(),
            kind: None,
            headers: HeaderNames::default(),
        }
    }
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Column {
    /// A field of the payload.
    Field(String),
    /// One name with the place that is written there.
    Place(BTreeMap<String, String>),
}

/// What a column's fields are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Type {
    /// Text.
    #[default]
    Text,
    /// A whole number, with any number of digits.
    Integer,
    /// A number as JSON has it, to the letter.
    Number,
    /// `true` or `false`, in capitals or not.
    Boolean,
    /// Any JSON value.
    Json,
}

/// What an empty field without quotes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Empty {
    /// Null.
    #[default]
    Null,
    /// An empty text; null in a column of another type.
    Text,
}

/// What becomes of fields that no column takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnknownFields {
    /// The message is a dead letter.
    #[default]
    Refuse,
    /// They are left out.
    Drop,
}

/// How rows are written, checked.
#[derive(Debug, Clone, Copy)]
struct Dialect {
    separator: u8,
    quote: u8,
    header: bool,
}

/// A column's name, and what is written there.
#[derive(Debug, Clone)]
struct Named {
    name: String,
    place: Path,
}

/// What opens a text of Unicode for some programs.
const BOM: &[u8] = "\u{feff}".as_bytes();

fn wrong<T>(text: String) -> Result<T, CodecError> {
    Err(CodecError::Wrong(text))
}

impl CsvSettings {
    fn dialect(&self) -> Result<Dialect, CodecError> {
        let one = |what: &str, c: char| match u8::try_from(c) {
            Ok(byte) if byte.is_ascii() && !matches!(byte, b'\n' | b'\r' | 0) => Ok(byte),
            _ => wrong(format!("csv: {what} of {c:?}: expected one ASCII character that ends no line")),
        };
        let dialect = Dialect {
            separator: one("separator", self.separator)?,
            quote: one("quote", self.quote)?,
            header: self.header,
        };
        if dialect.separator == dialect.quote {
            return wrong(
                "csv: separator and quote are the same: set one of them to another character".into(),
            );
        }
        Ok(dialect)
    }

    /// The columns of the settings, checked.
    fn named(&self) -> Result<Option<Vec<Named>>, CodecError> {
        let Some(columns) = &self.columns else { return Ok(None) };
        if columns.is_empty() {
            return wrong("csv: columns is empty: name at least one, or leave it out".into());
        }
        let mut named = Vec::with_capacity(columns.len());
        for column in columns {
            named.push(match column {
                Column::Field(name) => Named { name: name.clone(), place: Path::Payload(vec![name.clone()]) },
                Column::Place(place) => {
                    let mut entries = place.iter();
                    let (Some((name, place)), None) = (entries.next(), entries.next()) else {
                        return wrong("csv: columns: expected `name` or `name: place`, one a column".into());
                    };
                    let place = place
                        .parse()
                        .map_err(|why| CodecError::Wrong(format!("csv: the column `{name}`: {why}")))?;
                    Named { name: name.clone(), place }
                }
            });
        }
        check_names(named.iter().map(|n| n.name.as_str()), &self.types)
            .map_err(|why| CodecError::Wrong(format!("csv: columns: {why}")))?;
        Ok(Some(named))
    }
}

/// No name twice, and one for each type.
fn check_names<'a>(
    names: impl Iterator<Item = &'a str>,
    types: &BTreeMap<String, Type>,
) -> Result<(), String> {
    let mut seen = HashSet::new();
    for (at, name) in names.enumerate() {
        if !seen.insert(name) {
            return Err(format!(
                "column {} has the name `{name}`, which stands there twice: a payload can have it once",
                at + 1,
                name = crate::bounded::shown(name)
            ));
        }
    }
    match types.keys().find(|name| !seen.contains(name.as_str())) {
        Some(name) => Err(format!("there is no column `{name}`, which `types` names")),
        None => Ok(()),
    }
}

#[async_trait]
impl CodecSettings for CsvSettings {
    fn declared(&self) -> Result<Option<serde_json::Value>, CodecError> {
        let Some(named) = self.named()? else { return Ok(None) };
        let property = |name: &str| {
            let kind = self.types.get(name).copied().unwrap_or_default();
            let kind = match kind {
                Type::Json => return json!({}),
                Type::Text if self.empty == Empty::Text => return json!({ "type": "string" }),
                Type::Text => "string",
                Type::Integer => "integer",
                Type::Number => "number",
                Type::Boolean => "boolean",
            };
            json!({ "type": [kind, "null"] })
        };
        let names: Vec<&str> = named.iter().map(|n| n.name.as_str()).collect();
        let properties: serde_json::Map<_, _> =
            names.iter().map(|name| ((*name).to_owned(), property(name))).collect();
        Ok(Some(json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": properties,
            "required": names,
            "additionalProperties": false,
        })))
    }

    async fn reading(&self, _: &str) -> Result<Reading, CodecError> {
        let (dialect, named) = (self.dialect()?, self.named()?);
        if named.is_none() && !self.header {
            return wrong(
                "csv: no columns: name them in `columns`, or set `header: true` where the first row does"
                    .into(),
            );
        }
        let names = named.map(|named| named.into_iter().map(|n| n.name).collect());
        let around = Around::new(self.headers.clone(), self.kind.clone());
        let decoder = CsvDecoder::new(dialect, names, self.types.clone(), self.empty, around);
        Ok(Reading {
            decoder: Arc::new(decoder),
            framing: Arc::new(cutter::Rows::reading(dialect)),
            ahead: None,
        })
    }

    async fn writing(&self, _: &str) -> Result<Writing, CodecError> {
        let dialect = self.dialect()?;
        let Some(named) = self.named()? else {
            return wrong("csv: writing needs `columns`: name the fields of the payload that are to be columns, in their order".into());
        };
        let head = encode::head(&named, dialect);
        let around = Around::new(self.headers.clone(), self.kind.clone());
        let writer = CsvWriter::new(dialect, named, self.types.clone(), self.unknown_fields, around);
        Ok(Writing { writer: Arc::new(writer), framing: Arc::new(cutter::Rows::writing(dialect, head)) })
    }
}

//! A message as one row of COPY's binary form.

use std::sync::Arc;

use serde_json::value::RawValue;
use wasmill_engine::key::{Path, find_all};
use wasmill_engine::output::{EncodedBatch, EncodedRecord, Encoder, OutputId};
use wasmill_engine::time::TIMESTAMP_NONE;
use wasmill_frame::{Message, MetaKind};

use super::table::Target;
use super::types::{Value, is_json, write, write_null};

/// Where in a message a column's value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// One value.
    Of(Path),
    /// All of the metadata, as an object.
    Metadata,
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "metadata" {
            return Ok(Self::Metadata);
        }
        text.parse().map(Self::Of).map_err(|_| {
            format!(
                "`{text}` is no place in a message: expected id, type, key, timestamp, payload, payload.FIELD, metadata or metadata.NAME"
            )
        })
    }
}

/// Where a column's value comes from, with the payload's fields numbered.
enum From {
    Field(usize),
    Payload,
    Metadata,
    Envelope(Path),
}

/// Writes messages as rows of a table.
pub(super) struct RowEncoder {
    target: Arc<Target>,
    from: Vec<From>,
    /// Sorted, each once.
    fields: Vec<Vec<String>>,
    count: [u8; 2],
}

impl RowEncoder {
    pub fn new(target: &Arc<Target>) -> Self {
        let mut fields: Vec<Vec<String>> = Vec::new();
        for column in &target.columns {
            if let Place::Of(Path::Payload(path)) = &column.place
                && !path.is_empty()
            {
                fields.push(path.clone());
            }
        }
        fields.sort();
        fields.dedup();
        let from = |place: &Place| match place {
            Place::Metadata => From::Metadata,
            Place::Of(Path::Payload(path)) if path.is_empty() => From::Payload,
            // It is there: it was put there above.
            Place::Of(Path::Payload(path)) => From::Field(fields.binary_search(path).unwrap_or_default()),
            Place::Of(path) => From::Envelope(path.clone()),
        };
        Self {
            from: target.columns.iter().map(|column| from(&column.place)).collect(),
            count: u16::try_from(target.columns.len()).unwrap_or(u16::MAX).to_be_bytes(),
            target: Arc::clone(target),
            fields,
        }
    }

    fn row(&self, message: Message<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        let payload = message.payload();
        let mut found: Vec<Option<&RawValue>> = vec![None; self.fields.len()];
        if !self.fields.is_empty() && !payload.is_empty() {
            find_all(payload, &self.fields, &mut found)?;
        }
        out.extend_from_slice(&self.count);
        for (column, from) in self.target.columns.iter().zip(&self.from) {
            let metadata;
            let value = match from {
                From::Field(field) => found[*field].and_then(|raw| Value::of_json(raw.get())),
                From::Payload => whole(message),
                From::Metadata => {
                    metadata = all_metadata(message)?;
                    Value::of_json(&metadata)
                }
                From::Envelope(path) => of_envelope(path, message),
            };
            match value {
                Some(value) => write(column.of, value, out).map_err(|what| {
                    format!("column `{}` ({}): {} {what}", column.name, column.shown, value.shown())
                })?,
                None if column.not_null => {
                    let why = if column.is_key {
                        "is a part of the key, by which rows take each other's place"
                    } else {
                        "takes no NULL"
                    };
                    return Err(format!(
                        "column `{}` ({}): it {why}, and the message has nothing, or null, there",
                        column.name, column.shown
                    ));
                }
                None => write_null(out),
            }
        }
        Ok(())
    }
}

impl Encoder for RowEncoder {
    fn encode(&self, message: Message<'_>, _: &OutputId<'_>, into: &mut EncodedBatch) -> Result<(), String> {
        let start = into.data.len();
        if let Err(reason) = self.row(message, &mut into.data) {
            into.data.truncate(start);
            return Err(reason);
        }
        let timestamp = Some(message.timestamp()).filter(|t| *t != TIMESTAMP_NONE);
        into.records.push(EncodedRecord {
            value: start..into.data.len(),
            timestamp,
            ..EncodedRecord::default()
        });
        Ok(())
    }
}

/// The payload as it came: text or bytes where it isn't JSON.
fn whole(message: Message<'_>) -> Option<Value<'_>> {
    let payload = message.payload();
    if payload.is_empty() {
        return None;
    }
    if message.payload_is_json() || is_json(payload) {
        return Value::of_json(std::str::from_utf8(payload).unwrap_or_default());
    }
    Some(Value::Plain(payload))
}

fn of_envelope<'a>(path: &Path, message: Message<'a>) -> Option<Value<'a>> {
    match path {
        Path::Id => Some(Value::Plain(message.id().as_bytes())),
        Path::Type => Some(Value::Plain(message.kind_bytes())),
        Path::Key => message.key().map(Value::Plain),
        Path::Timestamp => Some(message.timestamp()).filter(|t| *t != TIMESTAMP_NONE).map(Value::Time),
        Path::Metadata(name) => message.metadata().get(name).and_then(|entry| match entry.kind {
            MetaKind::Text => Some(Value::Plain(entry.value)),
            _ => Value::of_json(std::str::from_utf8(entry.value).unwrap_or_default()),
        }),
        // A field of the payload has been found already.
        Path::Payload(_) => None,
    }
}

fn all_metadata(message: Message<'_>) -> Result<String, String> {
    let mut all = vec![b'{'];
    for entry in message.metadata().entries().filter(|e| e.kind.is_metadata()) {
        if all.len() > 1 {
            all.push(b',');
        }
        // Writing text to memory can't fail.
        let _ = serde_json::to_writer(&mut all, &String::from_utf8_lossy(entry.name));
        all.push(b':');
        if entry.kind == MetaKind::Text {
            let _ = serde_json::to_writer(&mut all, &String::from_utf8_lossy(entry.value));
        } else if is_json(entry.value) {
            all.extend_from_slice(entry.value);
        } else {
            let name = String::from_utf8_lossy(entry.name);
            return Err(format!("metadata `{name}` is marked as JSON but is not; set it as text"));
        }
    }
    all.push(b'}');
    String::from_utf8(all).map_err(|e| e.to_string())
}

//! What messages hold at the places that built-ins read.

use std::borrow::Cow;

use serde_json::value::RawValue;
use wasmill_frame::Message;

use super::number::Number;
use crate::json;
use crate::key::{Found, Path, classify, not_json};

/// What stands at a place of one message.
#[derive(Debug, Clone)]
pub(crate) enum Value<'a> {
    Null,
    /// A number, `true` or `false`, to the letter; none of a literal that is no number or beyond a double.
    Literal(Option<Number>, Cow<'a, str>),
    Text(Cow<'a, [u8]>),
    /// An object or an array, to the letter.
    Nested(&'a str),
}

/// How much of a value an error shows.
const SHOWN_CHARS_MAX: usize = 60;

impl<'a> Value<'a> {
    fn new(found: Found<'a>) -> Self {
        match found {
            Found::Null => Self::Null,
            Found::Text(text) => Self::Text(text),
            Found::Nested(text) => Self::Nested(text),
            Found::Literal(text) => Self::Literal(Number::parse(&text).and_then(Result::ok), text),
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// Appends it as JSON, numbers to the letter.
    pub fn write(&self, json: &mut Vec<u8>) {
        match self {
            Self::Null => json.extend_from_slice(b"null"),
            Self::Literal(_, text) => json.extend_from_slice(text.as_bytes()),
            Self::Nested(text) => json.extend_from_slice(text.as_bytes()),
            Self::Text(text) => {
                let text = serde_json::Value::from(String::from_utf8_lossy(text));
                json.extend_from_slice(text.to_string().as_bytes());
            }
        }
    }

    /// What it is, for an error.
    pub fn told(&self) -> String {
        let shown = |text: &str| match text.char_indices().nth(SHOWN_CHARS_MAX) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text.to_owned(),
        };
        match self {
            Self::Null => "nothing".to_owned(),
            Self::Text(text) => format!("the text {:?}", shown(&String::from_utf8_lossy(text))),
            Self::Nested(text) if text.starts_with('{') => "an object".to_owned(),
            Self::Nested(_) => "an array".to_owned(),
            Self::Literal(Some(_), text) => format!("the number {}", shown(text)),
            Self::Literal(None, text) => match Number::parse(text) {
                Some(_) => format!("the number {}, beyond the range of a double", shown(text)),
                None => shown(text),
            },
        }
    }
}

/// Places of a message that are read together: of the payload in one pass.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places {
    all: Vec<Path>,
    /// The payload's, sorted; and which of `all` each is.
    in_payload: Vec<(usize, Vec<String>)>,
    in_payload_paths: Vec<Vec<String>>,
    others: Vec<usize>,
}

impl Places {
    /// The number of a place, which is added if it is new.
    pub fn add(&mut self, path: &Path) -> usize {
        if let Some(known) = self.all.iter().position(|p| p == path) {
            return known;
        }
        let number = self.all.len();
        self.all.push(path.clone());
        match path {
            Path::Payload(names) if !names.is_empty() => {
                self.in_payload.push((number, names.clone()));
                self.in_payload.sort_by(|a, b| a.1.cmp(&b.1));
                self.in_payload_paths = self.in_payload.iter().map(|(_, names)| names.clone()).collect();
            }
            _ => self.others.push(number),
        }
        number
    }

    pub fn path(&self, number: usize) -> &Path {
        &self.all[number]
    }

    /// Reads every place of a message into `values`.
    ///
    /// # Errors
    /// When the payload is not JSON as far as the places go.
    pub fn read<'a>(
        &self,
        message: Message<'a>,
        raw: &mut Vec<Option<&'a RawValue>>,
        values: &mut Vec<Value<'a>>,
    ) -> Result<(), String> {
        values.clear();
        values.resize(self.all.len(), Value::Null);
        if !self.in_payload.is_empty() {
            raw.resize(self.in_payload.len(), None);
            json::find(message.payload(), &self.in_payload_paths, raw).map_err(not_json)?;
            for ((number, _), found) in self.in_payload.iter().zip(raw.iter()) {
                if let Some(found) = found {
                    values[*number] = Value::new(classify(found.get().as_bytes())?);
                }
            }
        }
        for number in &self.others {
            values[*number] = Value::new(self.all[*number].find(message)?);
        }
        Ok(())
    }
}

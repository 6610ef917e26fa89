//! Reads events.

use std::borrow::Cow;
use std::cell::RefCell;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use smallvec::SmallVec;
use wasmill_engine::input::{Decoder, Header, RawBatch, RawRecord};
use wasmill_engine::time::{TIMESTAMP_NONE, timestamp_in_range};
use wasmill_frame::{FrameBuf, MetaKind, MetaWriter, Parts};

use super::{CLOUDEVENTS, CONTENT_TYPE, STRUCTURED, VERSION, check_text, integer, is_json_type, is_name};
use crate::bounded::shown;
use crate::json::decode::{kind_of, unescaped, unescaped_name};
use crate::json::scan::{self, Members, Next};
use crate::unseen::{NAME_BYTES_MAX, keep_headers, tombstone};
use crate::{json_body, rfc3339};

/// Reads one event a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct CloudEventsDecoder;

thread_local! {
    /// The metadata of a message: used for one after the other.
    static METADATA: RefCell<MetaWriter> = RefCell::default();
}

/// An event as it was found.
struct Event<'a, 'm> {
    version: Option<Cow<'a, str>>,
    id: Option<Cow<'a, str>>,
    kind: Option<Cow<'a, str>>,
    source: bool,
    time: Option<Cow<'a, str>>,
    content_type: Option<Cow<'a, str>>,
    partition_key: Option<Cow<'a, str>>,
    metadata: &'m mut MetaWriter,
}

impl<'a, 'm> Event<'a, 'm> {
    /// Nothing yet; its metadata is to stand in the column.
    fn new(metadata: &'m mut MetaWriter) -> Self {
        metadata.clear();
        Self {
            version: None,
            id: None,
            kind: None,
            source: false,
            time: None,
            content_type: None,
            partition_key: None,
            metadata,
        }
    }

    /// Takes an attribute that is text.
    fn text(&mut self, name: &str, text: Cow<'a, str>) -> Result<(), String> {
        check_text(&text).map_err(|why| format!("the attribute `{}` {why}", shown(name)))?;
        let not_empty = |what: &str| match text.is_empty() {
            true => Err(format!("the attribute `{name}` is empty: expected {what}")),
            false => Ok(()),
        };
        match name {
            "specversion" => self.version = Some(text),
            "id" => {
                not_empty("an id")?;
                self.id = Some(text);
            }
            "type" => {
                not_empty("a type")?;
                self.kind = Some(text);
            }
            "time" => self.time = Some(text),
            _ => {
                match name {
                    "source" => {
                        not_empty("a URI or a path of one")?;
                        self.source = true;
                    }
                    "subject" => not_empty("a subject, or none")?,
                    "dataschema" => not_empty("a URI, or none")?,
                    "partitionkey" => self.partition_key = Some(text.clone()),
                    _ => {}
                }
                self.metadata.push(MetaKind::Text, name.as_bytes(), text.as_bytes());
                if name == "datacontenttype" {
                    self.content_type = Some(text);
                }
            }
        }
        Ok(())
    }

    /// Takes a member of a structured event.
    fn member(&mut self, name: &str, value: &'a str) -> Result<(), String> {
        match value.as_bytes().first() {
            Some(b'"') => self.text(name, unescaped(name, value)?),
            Some(b'n') => Ok(()),
            _ if matches!(
                name,
                "specversion"
                    | "id"
                    | "type"
                    | "source"
                    | "time"
                    | "subject"
                    | "dataschema"
                    | "datacontenttype"
            ) =>
            {
                Err(format!("the attribute `{name}` is {}: expected text", kind_of(value)))
            }
            Some(b't' | b'f') => {
                self.metadata.push(MetaKind::Json, name.as_bytes(), value.as_bytes());
                Ok(())
            }
            Some(b'-' | b'0'..=b'9') if integer(value).is_some() => {
                self.metadata.push(MetaKind::Json, name.as_bytes(), value.as_bytes());
                Ok(())
            }
            Some(b'-' | b'0'..=b'9') => Err(format!(
                "the attribute `{}` is {}: expected an integer of 32 bits, for CloudEvents has no other numbers",
                shown(name),
                shown(value)
            )),
            _ => Err(format!(
                "the attribute `{}` is {}: expected text, an integer, true or false",
                shown(name),
                kind_of(value)
            )),
        }
    }

    fn push(
        self,
        record: &RawRecord,
        of: &RawBatch,
        payload: &[u8],
        is_json: bool,
        frame: &mut FrameBuf,
    ) -> Result<(), String> {
        match self.version.as_deref() {
            Some(VERSION) => {}
            Some(other) => {
                return Err(format!(
                    "`specversion` is `{}`: expected {VERSION}, the version of CloudEvents that is read",
                    shown(other)
                ));
            }
            None => return Err("no `specversion`: an event of CloudEvents needs it".to_owned()),
        }
        let id = self.id.ok_or("no `id`: an event needs one")?;
        let kind = self.kind.ok_or("no `type`: an event needs one")?;
        if !self.source {
            return Err("no `source`: an event needs one".to_owned());
        }
        let is_own = |h: &&Header| {
            let name = &of.data[h.name.clone()];
            name.eq_ignore_ascii_case(CONTENT_TYPE.as_bytes()) || attribute(name).is_some()
        };
        keep_headers(record.headers.iter().filter(|h| !is_own(h)), &of.data, self.metadata)?;
        let timestamp = match &self.time {
            Some(time) => {
                let ms = rfc3339::parse(time).map_err(|why| {
                    let why = why.replace(", or integer milliseconds", "");
                    format!("the attribute `time`: {why}")
                })?;
                self.metadata.push(MetaKind::Timestamp, b"", time.as_bytes());
                ms
            }
            None => record.time_ms.filter(|t| timestamp_in_range(*t)).unwrap_or(TIMESTAMP_NONE),
        };
        let key = record.key.clone().map(|k| &of.data[k]);
        frame.push(&Parts {
            id: &id,
            kind: &kind,
            key: key.or(self.partition_key.as_ref().map(|k| k.as_bytes())),
            payload,
            timestamp,
            metadata: self.metadata.as_bytes(),
            payload_is_json: is_json,
        });
        Ok(())
    }
}

/// The attribute that a header is, and whether its value is percent-encoded.
fn attribute(header: &[u8]) -> Option<(&[u8], bool)> {
    let (prefix, name) = header.split_at_checked(3)?;
    match (prefix[..2].eq_ignore_ascii_case(b"ce"), prefix[2]) {
        (true, b'_') => Some((name, false)),
        (true, b'-') => Some((name, true)),
        _ => None,
    }
}

fn header_text<'a>(header: &Header, of: &'a RawBatch) -> Result<&'a str, String> {
    let name = || String::from_utf8_lossy(&of.data[header.name.clone()]).into_owned();
    let value = header.value.clone().ok_or_else(|| format!("the header `{}` has no value", name()))?;
    std::str::from_utf8(&of.data[value]).map_err(|_| format!("the header `{}` is not UTF-8 text", name()))
}

/// A value of a header of HTTP or NATS.
fn percent_decoded<'a>(name: &str, text: &'a str) -> Result<Cow<'a, str>, String> {
    if !text.contains('%') {
        return Ok(Cow::Borrowed(text));
    }
    let digit = |byte: Option<&u8>| byte.and_then(|b| char::from(*b).to_digit(16));
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        // What is no escape stands for itself, as the binding says of lenient readers.
        match (*byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(u8::try_from(high * 16 + low).unwrap_or_default());
                at += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| {
        format!("the header of the attribute `{name}` is not UTF-8 once its percent-encoding is undone")
    })
}

fn begins_with(text: &str, prefix: &str) -> bool {
    text.as_bytes().get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix.as_bytes()))
}

impl Decoder for CloudEventsDecoder {
    fn decode(&self, record: &RawRecord, of: &RawBatch, frame: &mut FrameBuf) -> Result<(), String> {
        if record.tombstone && !record.headers.iter().any(|h| is_version(h, of)) {
            return tombstone(record, of, frame);
        }
        let content_type = record
            .headers
            .iter()
            .rfind(|h| of.data[h.name.clone()].eq_ignore_ascii_case(CONTENT_TYPE.as_bytes()))
            .map(|h| header_text(h, of))
            .transpose()?;
        match content_type {
            Some(kind) if begins_with(kind, CLOUDEVENTS) => {
                let essence = kind.split(';').next().unwrap_or_default().trim();
                if essence.eq_ignore_ascii_case(STRUCTURED) {
                    return METADATA.with_borrow_mut(|column| structured(record, of, column, frame));
                }
                if begins_with(kind, "application/cloudevents-batch") {
                    return Err(
                        "a batch of events: a record is one message; have its sender send events one by one"
                            .to_owned(),
                    );
                }
                Err(format!(
                    "the content type is `{kind}`: expected {STRUCTURED}, the one format of CloudEvents that is read"
                ))
            }
            _ if record.headers.iter().any(|h| is_version(h, of)) => {
                METADATA.with_borrow_mut(|column| binary(record, of, content_type, column, frame))
            }
            _ => METADATA.with_borrow_mut(|column| structured(record, of, column, frame)),
        }
    }
}

fn is_version(header: &Header, of: &RawBatch) -> bool {
    attribute(&of.data[header.name.clone()])
        .is_some_and(|(name, _)| name.eq_ignore_ascii_case(b"specversion"))
}

fn binary(
    record: &RawRecord,
    of: &RawBatch,
    content_type: Option<&str>,
    column: &mut MetaWriter,
    frame: &mut FrameBuf,
) -> Result<(), String> {
    let mut event = Event::new(column);
    let mut seen: Vec<Cow<'_, str>> = Vec::new();
    for header in &record.headers {
        let Some((name, encoded)) = attribute(&of.data[header.name.clone()]) else { continue };
        check_length(name.len())?;
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        if !is_name(&name) {
            return Err(format!(
                "the header of the attribute `{name}`: names have lower-case letters and digits alone"
            ));
        }
        if name == "datacontenttype" || name == "data" {
            return Err(format!(
                "`{name}` is an attribute in a header: a binary event has its data as the value, and the type of it in the header `{CONTENT_TYPE}`"
            ));
        }
        let text = header_text(header, of)?;
        let text = if encoded { percent_decoded(&name, text)? } else { Cow::Borrowed(text) };
        event.text(&name, text)?;
        seen.push(name.into());
    }
    if let Some(name) = twice(&mut seen) {
        return Err(format!("two headers of the attribute `{name}`: an event has it once"));
    }
    if let Some(kind) = content_type {
        event.text("datacontenttype", Cow::Borrowed(kind))?;
    }
    let value = &of.data[record.value.clone()];
    if value.is_empty() {
        return event.push(record, of, b"", false, frame);
    }
    match content_type {
        Some(kind) if is_json_type(kind) => {
            let json = json_body::json(value).map_err(|why| format!("the data: {why}"))?;
            event.push(record, of, json.as_bytes(), true, frame)
        }
        _ => event.push(record, of, value, false, frame),
    }
}

fn check_length(name_bytes: usize) -> Result<(), String> {
    if name_bytes <= NAME_BYTES_MAX {
        return Ok(());
    }
    Err(format!("the name of an attribute has {name_bytes} bytes, above the limit of {NAME_BYTES_MAX}"))
}

/// Whether a name stands twice. Few names are compared pair by pair, which is faster than to sort them; many would
/// make that quadratic in a stranger's event.
fn twice<'n>(names: &'n mut [Cow<'_, str>]) -> Option<&'n str> {
    const PAIRWISE_MAX: usize = 16;
    if names.len() <= PAIRWISE_MAX {
        return names
            .iter()
            .enumerate()
            .find(|(at, name)| names[..*at].contains(*name))
            .map(|(_, name)| &**name);
    }
    names.sort_unstable();
    names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| &*pair[0])
}

fn structured(
    record: &RawRecord,
    of: &RawBatch,
    column: &mut MetaWriter,
    frame: &mut FrameBuf,
) -> Result<(), String> {
    let value = &of.data[record.value.clone()];
    // What is broken is told by the slower reader, which knows place and cause.
    let start = scan::blanks(value, 0);
    let Ok(text) = std::str::from_utf8(value) else { return json_body::json(value).map(drop) };
    if value.get(start) != Some(&b'{') {
        let text = json_body::json(value)?;
        return Err(format!(
            "{}: expected an event of CloudEvents, a JSON object with `specversion`, `id`, `source` and `type`",
            kind_of(text)
        ));
    }
    let mut event = Event::new(column);
    let (mut data, mut data_base64) = (None, None);
    let mut names: SmallVec<[Cow<'_, str>; 12]> = SmallVec::new();
    let mut members = Members::new(text, start);
    let end = loop {
        let (name, value) = match members.next() {
            Next::Member(name, value) => (name, value),
            Next::End(end) => break end,
            Next::Broken => return json_body::json(text.as_bytes()).and(Err("broken JSON".to_owned())),
        };
        let name = unescaped_name(name).ok_or("a name that is not well-formed text")?;
        match &*name {
            "data" => data = Some(value),
            "data_base64" => data_base64 = Some(value).filter(|v| *v != "null"),
            _ if !is_name(&name) => {
                return Err(format!(
                    "`{}` can't be an attribute of CloudEvents: names have lower-case letters and digits alone",
                    name.chars().take(48).collect::<String>()
                ));
            }
            _ => {
                check_length(name.len())?;
                event.member(&name, value)?;
            }
        }
        names.push(name);
    };
    if scan::blanks(text.as_bytes(), end) != text.len() {
        return json_body::json(text.as_bytes()).and(Err("broken JSON".to_owned()));
    }
    if let Some(name) = twice(&mut names) {
        return Err(format!("`{name}` stands twice: an event has it once"));
    }
    let is_json = event.content_type.as_deref().is_none_or(is_json_type);
    match (data, data_base64) {
        (Some(_), Some(_)) => Err("both `data` and `data_base64`: an event has one of them".to_owned()),
        (None, None) => event.push(record, of, b"", false, frame),
        (Some(text), None) if !is_json && text.starts_with('"') => {
            let text = unescaped("data", text)?;
            event.push(record, of, text.as_bytes(), false, frame)
        }
        (Some(json), None) => event.push(record, of, json.as_bytes(), true, frame),
        (None, Some(text)) => {
            if !text.starts_with('"') {
                return Err(format!("`data_base64` is {}: expected text", kind_of(text)));
            }
            let text = unescaped("data_base64", text)?;
            let bytes =
                STANDARD.decode(text.as_bytes()).map_err(|e| format!("`data_base64` is not base64: {e}"))?;
            let json = is_json
                && event.content_type.is_some()
                && std::str::from_utf8(&bytes).is_ok_and(scan::is_value);
            event.push(record, of, &bytes, json, frame)
        }
    }
}

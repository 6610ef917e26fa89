//! Writes events.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use wasmill_engine::input::Header;
use wasmill_engine::output::{EncodedBatch, EncodedRecord};
use wasmill_engine::time::TIMESTAMP_NONE;
use wasmill_frame::{Message, MetaKind};

use super::{
    Binding, CONTENT_TYPE, Mode, STRUCTURED, VERSION, check_text, integer, is_json_type, is_name,
    uri_reference,
};
use crate::json::decode::unescaped;
use crate::json::{encode, scan};
use crate::unseen::{Unseen, append, record};
use crate::{RecordWriter, Takes, rfc3339};

/// Writes one event a message.
#[derive(Debug, Clone)]
pub(super) struct CloudEventsWriter {
    pub mode: Mode,
    pub binding: Binding,
    /// The source of events that have none.
    pub source: String,
}

/// An attribute beside id, type, time and the data's type.
struct Attribute<'a> {
    name: &'a str,
    /// Its text, without quotes.
    text: std::borrow::Cow<'a, str>,
    /// Whether it is text: a number or a boolean else.
    is_text: bool,
}

/// What a message is as an event.
struct Event<'a> {
    attributes: Vec<Attribute<'a>>,
    time: Option<Vec<u8>>,
    content_type: Option<&'a str>,
}

impl CloudEventsWriter {
    fn event<'a>(&'a self, message: Message<'a>, unseen: &Unseen<'a>) -> Result<Event<'a>, String> {
        required("id", message.id())?;
        required("type", message.kind())?;
        let mut event = Event { attributes: Vec::new(), time: None, content_type: None };
        let mut source = None;
        for entry in message.metadata().entries().filter(|e| e.kind.is_metadata()) {
            let name =
                std::str::from_utf8(entry.name).map_err(|_| "a metadata name is not UTF-8".to_owned())?;
            let named =
                |why: &str| format!("the metadata `{}` {why}", name.chars().take(48).collect::<String>());
            if !is_name(name) || matches!(name, "id" | "type" | "time" | "specversion" | "data") {
                let why = match is_name(name) {
                    true => {
                        "has a name that CloudEvents keeps for the event's own: remove it, or set it under another name"
                    }
                    false => {
                        "can't be an attribute of CloudEvents: names have lower-case letters and digits alone; remove it, or set it under another name"
                    }
                };
                return Err(named(why));
            }
            let value = std::str::from_utf8(entry.value).map_err(|_| named("is not UTF-8 text"))?;
            let (text, is_text) = match entry.kind {
                MetaKind::Text => (value.into(), true),
                _ => match value.as_bytes().first() {
                    Some(b'"') if scan::is_value(value) => (unescaped(name, value)?, true),
                    Some(b'n') if value == "null" => continue,
                    _ if matches!(value, "true" | "false") || integer(value).is_some() => {
                        (value.into(), false)
                    }
                    _ => {
                        return Err(named(
                            "can't be an attribute of CloudEvents: expected text, an integer of 32 bits, true or false; set it as text",
                        ));
                    }
                },
            };
            check_text(&text).map_err(|why| named(&why))?;
            match name {
                "source" => {
                    uri_reference(&text).map_err(|why| named(&why))?;
                    source = Some(text);
                }
                "datacontenttype" => match entry.kind {
                    MetaKind::Text => event.content_type = Some(value),
                    _ => return Err(named("is JSON: expected a media type, as text")),
                },
                "subject" | "dataschema" if text.is_empty() => {
                    return Err(named("is empty: CloudEvents has it with a text or not at all; remove it"));
                }
                _ => event.attributes.push(Attribute { name, text, is_text }),
            }
        }
        let text = source.unwrap_or(self.source.as_str().into());
        event.attributes.insert(0, Attribute { name: "source", text, is_text: true });
        if message.timestamp() != TIMESTAMP_NONE {
            event.time = Some(time(message.timestamp(), unseen.timestamp_text));
        }
        Ok(event)
    }
}

fn required(name: &str, text: &str) -> Result<(), String> {
    match text {
        "" => Err(format!("the message's {name} is empty, which CloudEvents has no event for: set it")),
        _ => check_text(text).map_err(|why| format!("the message's {name} {why}")),
    }
}

/// To the letter while it says this time.
fn time(ms: i64, came_as: Option<&[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    match came_as.map(std::str::from_utf8) {
        Some(Ok(text)) if rfc3339::parse(text) == Ok(ms) => out.extend_from_slice(text.as_bytes()),
        _ => rfc3339::write(ms, &mut out),
    }
    out
}

fn is_json(message: &Message<'_>) -> bool {
    message.payload_is_json() || encode::is_json(message.payload())
}

fn structured(message: Message<'_>, event: &Event<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"specversion\":\"1.0\",\"id\":");
    encode::text(message.id(), out);
    out.extend_from_slice(b",\"type\":");
    encode::text(message.kind(), out);
    for attribute in &event.attributes {
        // A name has nothing that needs escapes.
        out.extend_from_slice(b",\"");
        out.extend_from_slice(attribute.name.as_bytes());
        out.extend_from_slice(b"\":");
        match attribute.is_text {
            true => encode::text(&attribute.text, out),
            false => out.extend_from_slice(attribute.text.as_bytes()),
        }
    }
    if let Some(time) = &event.time {
        out.extend_from_slice(b",\"time\":\"");
        out.extend_from_slice(time);
        out.push(b'"');
    }
    if let Some(kind) = event.content_type {
        out.extend_from_slice(b",\"datacontenttype\":");
        encode::text(kind, out);
    }
    data(message, event, out);
    out.push(b'}');
}

/// The data, in the form that is read as the same payload again.
fn data(message: Message<'_>, event: &Event<'_>, out: &mut Vec<u8>) {
    let payload = message.payload();
    if payload.is_empty() {
        return;
    }
    let says_json = event.content_type.is_none_or(is_json_type);
    let is_text = payload.trim_ascii_start().starts_with(b"\"");
    let as_json = if says_json { is_json(&message) } else { message.payload_is_json() && !is_text };
    if as_json {
        out.extend_from_slice(b",\"data\":");
        encode::one_line(payload, out);
        return;
    }
    match std::str::from_utf8(payload) {
        Ok(text) if !says_json => {
            out.extend_from_slice(b",\"data\":");
            encode::text(text, out);
        }
        _ => {
            out.extend_from_slice(b",\"data_base64\":\"");
            out.extend_from_slice(STANDARD.encode(payload).as_bytes());
            out.push(b'"');
        }
    }
}

/// A value as HTTP's binding and NATS's have it in headers.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    let mut utf8 = [0; 4];
    for c in text.chars() {
        if matches!(c, '!'..='~') && !matches!(c, '"' | '%') {
            encoded.push(c);
        } else {
            c.encode_utf8(&mut utf8).bytes().for_each(|b| encoded.push_str(&format!("%{b:02X}")));
        }
    }
    encoded
}

impl RecordWriter for CloudEventsWriter {
    fn write(
        &self,
        message: Message<'_>,
        takes: Takes,
        into: &mut EncodedBatch,
    ) -> Result<EncodedRecord, String> {
        let unseen = Unseen::of(message.metadata());
        let mut event = None;
        let mut record = record(message, takes, &mut into.data, |out| {
            if self.mode == Mode::Binary && !takes.headers {
                return Err("a binary event has its attributes in headers, and this sink has none: set `mode: structured` on the codec".to_owned());
            }
            let event = event.insert(self.event(message, &unseen)?);
            match self.mode {
                Mode::Structured => structured(message, event, out),
                Mode::Binary => out.extend_from_slice(message.payload()),
            }
            Ok(())
        })?;
        if !takes.headers {
            return Ok(record);
        }
        if let Some(event) = &event {
            self.add_headers(message, event, into, &mut record);
        }
        unseen.write_headers(into, &mut record);
        Ok(record)
    }
}

impl CloudEventsWriter {
    /// Adds what of an event stands in headers.
    fn add_headers(
        &self,
        message: Message<'_>,
        event: &Event<'_>,
        into: &mut EncodedBatch,
        record: &mut EncodedRecord,
    ) {
        let mut add = |prefix: &str, name: &str, value: &str| {
            let at = append(prefix.as_bytes(), &mut into.data).start;
            let end = append(name.as_bytes(), &mut into.data).end;
            let value = Some(append(value.as_bytes(), &mut into.data));
            record.headers.push(Header { name: at..end, value });
        };
        match self.mode {
            Mode::Structured => add("", CONTENT_TYPE, STRUCTURED),
            Mode::Binary => {
                let mut attribute = |name: &str, text: &str| match self.binding {
                    Binding::Kafka => add("ce_", name, text),
                    Binding::Nats => add("ce-", name, &percent_encoded(text)),
                };
                attribute("specversion", VERSION);
                attribute("id", message.id());
                attribute("type", message.kind());
                event.attributes.iter().for_each(|a| attribute(a.name, &a.text));
                if let Some(time) = &event.time {
                    attribute("time", &String::from_utf8_lossy(time));
                }
                let inferred =
                    || (!message.payload().is_empty() && is_json(&message)).then_some("application/json");
                if let Some(kind) = event.content_type.or_else(inferred) {
                    add("", CONTENT_TYPE, kind);
                }
            }
        }
    }
}

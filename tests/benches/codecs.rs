//! What codecs cost a message, against the libraries alone.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use prost_reflect::prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use wasmill_connect::codec::{CodecSpec, Reading, Takes, Writing};
use wasmill_engine::input::{RawBatch, RawRecord};
use wasmill_engine::output::EncodedBatch;
use wasmill_engine::position::PartitionId;
use wasmill_frame::{FrameBuf, Parts};

use crate::clock::{Contender, Times, by_turns, timed};
use crate::report::{Report, Row, Target};

const MESSAGES: usize = 1000;
const ROUNDS: usize = 40;
/// What is asked of the JSON envelope: messages a second on one core.
const ENVELOPES_PER_S: f64 = 1_000_000.0;
/// How much slower a codec may be than a library alone.
const RATIO_MAX: f64 = 1.3;

/// These codecs wait for nothing.
fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("a codec waits"),
    }
}

fn spec(settings: &Value) -> CodecSpec {
    serde_json::from_value(settings.clone()).unwrap_or_else(|e| panic!("{settings}: {e}"))
}

fn reading(settings: &Value) -> Reading {
    ready(spec(settings).reading("bench")).unwrap_or_else(|e| panic!("{settings}: {e}"))
}

fn writing(settings: &Value) -> Writing {
    ready(spec(settings).writing("bench")).unwrap_or_else(|e| panic!("{settings}: {e}"))
}

/// A payload of about so many bytes: names, texts, numbers, small arrays.
fn payload(n: usize, bytes: usize) -> String {
    let carrier = ["AA", "UA", "B6"][n % 3];
    let mut text = format!(r#"{{"carrier":"{carrier}","flight":{},"delay":{}.5"#, n * 7 % 3000, n % 60);
    for field in 0.. {
        let value = match (field + n) % 4 {
            0 => format!("\"{}\"", "some text of a value".repeat(1 + n % 2)),
            1 => (n * 12_345).to_string(),
            2 => "[1,2,3]".to_owned(),
            _ => "true".to_owned(),
        };
        let member = format!(r#","field{field}":{value}"#);
        if text.len() + member.len() + 1 > bytes {
            text.push('}');
            return text;
        }
        text.push_str(&member);
    }
    text
}

fn envelope(n: usize, bytes: usize) -> String {
    let mut head = format!(
        r#"{{"id":"flight-{n}","type":"departure","timestamp":{},"metadata":{{"source":"bench"}},"payload":"#,
        1_700_000_000_000_usize + n
    );
    let rest = bytes.saturating_sub(head.len() + 1);
    head.push_str(&payload(n, rest));
    head.push('}');
    head
}

fn event(n: usize, bytes: usize) -> String {
    let head = format!(r#"{{"specversion":"1.0","id":"{n}","source":"/bench","type":"departure","data":"#);
    format!("{head}{}}}", payload(n, bytes.saturating_sub(head.len() + 1)))
}

/// Of 8 columns for each group.
fn row(n: usize, groups: usize) -> String {
    let group = format!(
        "UA,{},{}.5,{},\"a note, of some length\",N{n},some text of a value,{}",
        n * 7,
        n % 60,
        n.is_multiple_of(2),
        n % 9
    );
    vec![group; groups].join(",")
}

/// An order as the schemas below have it, with so many legs.
fn order(n: usize, legs: usize) -> Value {
    let leg = |i: usize| json!({ "from": (["JFK", "Frankfurt"][i % 2]), "miles": i * n, "on_time": i.is_multiple_of(3) });
    json!({
        "id": n * 1_000_003, "carrier": (["AA", "UA", "B6"][n % 3]), "delay": (n as f64 / 8.0), "note": "some text of a value",
        "sent": n.is_multiple_of(2), "counts": [1, n, 70_000], "legs": (0..legs).map(leg).collect::<Vec<_>>(),
    })
}

const AVRO: &str = r#"{ "type": "record", "name": "Order", "fields": [
    { "name": "id", "type": "long" }, { "name": "carrier", "type": "string" }, { "name": "delay", "type": "double" },
    { "name": "note", "type": ["null", "string"] }, { "name": "sent", "type": "boolean" },
    { "name": "counts", "type": { "type": "array", "items": "long" } },
    { "name": "legs", "type": { "type": "array", "items": { "type": "record", "name": "Leg", "fields": [
        { "name": "from", "type": "string" }, { "name": "miles", "type": "int" }, { "name": "on_time", "type": "boolean" }
    ] } } }
] }"#;

const PROTOBUF: &str = r#"syntax = "proto3";
message Order {
    int64 id = 1; string carrier = 2; double delay = 3; string note = 4; bool sent = 5; repeated int64 counts = 6;
    repeated Leg legs = 7;
}
message Leg { string from = 1; int32 miles = 2; bool on_time = 3; }
"#;

const JSON_SCHEMA: &str = r#"{ "type": "object", "additionalProperties": false, "required": ["id", "carrier"], "properties": {
    "id": { "type": "integer" }, "carrier": { "type": "string" }, "delay": { "type": "number" },
    "note": { "type": ["null", "string"] }, "sent": { "type": "boolean" },
    "counts": { "type": "array", "items": { "type": "integer", "minimum": 0 } },
    "legs": { "type": "array", "items": { "type": "object", "required": ["from"], "properties": {
        "from": { "type": "string" }, "miles": { "type": "integer" }, "on_time": { "type": "boolean" }
    } } }
} }"#;

fn batch(value: impl Fn(usize) -> String) -> RawBatch {
    let mut batch = RawBatch::new(PartitionId { source: 0, partition: 0 });
    for n in 0..MESSAGES {
        let start = batch.data.len();
        batch.data.extend_from_slice(value(n).as_bytes());
        let offset = n as u64;
        let value = start..batch.data.len();
        batch.records.push(RawRecord { offset, next: offset + 1, value, ..RawRecord::default() });
    }
    batch
}

fn decode_all(reading: &Reading, batch: &RawBatch, frame: &mut FrameBuf) {
    frame.clear();
    for record in &batch.records {
        let decoded = reading.decoder.decode(record, batch, frame);
        decoded.unwrap_or_else(|e| panic!("the bench's own message: {e}"));
    }
}

fn values(batch: &RawBatch) -> impl Iterator<Item = &[u8]> {
    batch.records.iter().map(|record| &batch.data[record.value.clone()])
}

/// Times the work, once a round.
fn contender<'a, T>(name: &str, mut work: impl FnMut() -> T + 'a) -> Contender<'a> {
    Contender { name: name.to_owned(), messages: MESSAGES, run: Box::new(move || timed(&mut work)) }
}

/// serde_json's own way: the text is checked, nothing is built.
fn bare_json(batch: &RawBatch) -> usize {
    values(batch).filter_map(|v| serde_json::from_slice::<&RawValue>(v).ok()).map(|raw| raw.get().len()).sum()
}

/// A codec, and the messages that it is measured with.
struct Measured {
    what: String,
    reading: Reading,
    writing: Writing,
    records: RawBatch,
    messages: FrameBuf,
}

impl Measured {
    /// With messages of these records.
    fn records(name: &str, settings: &Value, value: impl Fn(usize) -> String) -> Self {
        let (records, mut messages) = (batch(value), FrameBuf::default());
        let (reading, writing) = (reading(settings), writing(settings));
        decode_all(&reading, &records, &mut messages);
        let bytes = records.data.len() / MESSAGES;
        Self { what: format!("{name}, {bytes} bytes"), reading, writing, records, messages }
    }

    /// With orders that have as many legs as make records of about so many bytes.
    fn orders(name: &str, settings: &Value, bytes: usize) -> Self {
        let (reading, writing) = (reading(settings), writing(settings));
        let mut legs = 0;
        loop {
            let messages = orders(legs);
            let (mut batch, mut records) = (EncodedBatch::default(), RawBatch::of_value(b""));
            records.records.clear();
            for n in 0..MESSAGES {
                let record = writing.writer.write(messages.get(n), Takes::default(), &mut batch);
                let value = record.unwrap_or_else(|e| panic!("the bench's own order: {e}")).value;
                let offset = n as u64;
                records.records.push(RawRecord { offset, next: offset + 1, value, ..RawRecord::default() });
            }
            records.data = batch.data;
            let found = records.data.len() / MESSAGES;
            if found + 8 >= bytes {
                return Self { what: format!("{name}, {found} bytes"), reading, writing, records, messages };
            }
            legs += 1;
        }
    }

    fn payloads(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.messages.len()).map(|n| self.messages.get(n).payload())
    }

    /// Against what a library alone takes for all records, and for all messages.
    fn against<R, W>(
        &self,
        report: &mut Report,
        (read_name, read): (&str, impl FnMut() -> R),
        (write_name, write): (&str, impl FnMut() -> W),
    ) {
        let mut frame = FrameBuf::default();
        let mut contenders = [
            contender(read_name, read),
            contender("decode", || decode_all(&self.reading, &self.records, &mut frame)),
            contender(write_name, write),
            contender("encode", || encode_all(&self.writing, &self.messages)),
        ];
        let times = by_turns(&mut contenders, ROUNDS);
        let most = Some(Target::AtMost(RATIO_MAX));
        report.push(Row::ratio(&self.what, read_name, &times[0], &times[0], None));
        report.push(Row::ratio(&self.what, "decoded", &times[1], &times[0], most));
        report.push(Row::ratio(&self.what, write_name, &times[2], &times[2], None));
        report.push(Row::ratio(&self.what, "encoded", &times[3], &times[2], most));
    }
}

/// Messages with the payloads of orders.
fn orders(legs: usize) -> FrameBuf {
    let mut messages = FrameBuf::default();
    for n in 0..MESSAGES {
        messages.push(&Parts {
            id: &n.to_string(),
            kind: "order",
            key: None,
            payload: order(n, legs).to_string().as_bytes(),
            timestamp: 1_700_000_000_000,
            metadata: b"",
            payload_is_json: true,
        });
    }
    messages
}

/// The bench's own messages can be read.
fn own<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|e| panic!("the bench's own message: {e}"))
}

/// Measures all of them.
pub fn measure(report: &mut Report) {
    for bytes in [200, 500, 1000] {
        envelopes(report, bytes);
    }
    let files = own(tempfile::tempdir());
    let file = |name: &str, text: &str| {
        let path = files.path().join(name);
        own(std::fs::write(&path, text));
        path
    };
    let (avro, protobuf) = (file("order.avsc", AVRO), file("order.proto", PROTOBUF));
    let schema = file("order.schema.json", JSON_SCHEMA);
    for bytes in [200, 1000] {
        json_alone(report, Measured::records("json_body", &json!("json_body"), |n| payload(n, bytes)));
        events(report, bytes);
        text(report, bytes);
        rows(report, bytes);
        json_schema(report, &schema, bytes);
        messagepack(report, bytes);
        self::protobuf(report, &protobuf, bytes);
        self::avro(report, &avro, bytes);
    }
}

fn envelopes(report: &mut Report, bytes: usize) {
    let (batch, reading, mut frame) =
        (batch(|n| envelope(n, bytes)), reading(&json!("json")), FrameBuf::default());
    let mut contenders = [
        contender("serde_json's RawValue", || bare_json(&batch)),
        contender("decoded", || decode_all(&reading, &batch, &mut frame)),
    ];
    let times = by_turns(&mut contenders, ROUNDS);
    drop(contenders);
    let what = format!("JSON envelopes of {bytes} bytes, decoded");
    let mut per_s = Times::default();
    per_s.push(1e9 / times[1].median());
    per_s.push(1e9 / times[1].min());
    report.push(Row::figure(&what, "on one core", &per_s, "messages/s", Some(Target::Aim(ENVELOPES_PER_S))));
    report.push(Row::ratio(&what, "serde_json's RawValue alone", &times[0], &times[0], None));
    report.push(Row::ratio(&what, "the codec", &times[1], &times[0], None));
}

/// Against serde_json that only looks whether it is JSON.
fn json_alone(report: &mut Report, of: Measured) {
    let name = "serde_json's RawValue alone";
    of.against(report, (name, || bare_json(&of.records)), (name, || bare_json(&of.records)));
}

/// An event as serde reads it in place: its attributes, and the text of its data.
#[derive(serde::Deserialize)]
struct BareEvent<'a> {
    #[serde(borrow)]
    specversion: &'a str,
    id: &'a str,
    source: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// Against serde_json that reads the attributes, and builds nothing.
fn events(report: &mut Report, bytes: usize) {
    let of = Measured::records("cloudevents, structured", &json!("cloudevents"), |n| event(n, bytes));
    let read = || -> usize {
        let events = values(&of.records).filter_map(|v| serde_json::from_slice::<BareEvent<'_>>(v).ok());
        events
            .map(|e| e.specversion.len() + e.id.len() + e.source.len() + e.kind.len() + e.data.get().len())
            .sum()
    };
    let name = "serde_json, to attributes and RawValue";
    of.against(report, (name, read), (name, read));
}

/// No library does as much as nothing: against bytes that nobody looks into.
fn text(report: &mut Report, bytes: usize) {
    let text = |n: usize| payload(n, bytes);
    let raw = Measured::records("raw", &json!("raw"), text);
    let mut frame = FrameBuf::default();
    Measured::records("text", &json!("text"), text).against(
        report,
        ("the codec raw, decoded", || decode_all(&raw.reading, &raw.records, &mut frame)),
        ("the codec raw, encoded", || encode_all(&raw.writing, &raw.messages)),
    );
}

fn encode_all(writing: &Writing, frame: &FrameBuf) -> usize {
    let mut batch = EncodedBatch::default();
    for index in 0..frame.len() {
        let record = writing.writer.write(frame.get(index), Takes::default(), &mut batch);
        batch.records.push(record.unwrap_or_else(|e| panic!("the bench's own message: {e}")));
    }
    batch.data.len()
}

fn rows(report: &mut Report, bytes: usize) {
    let groups = bytes.div_ceil(row(0, 1).len() + 8);
    let columns: Vec<String> = (0..8 * groups).map(|n| format!("column{n}")).collect();
    let types: serde_json::Map<String, Value> = columns
        .iter()
        .zip(["text", "integer", "number", "boolean", "text", "text", "text", "integer"].into_iter().cycle())
        .map(|(column, kind)| (column.clone(), kind.into()))
        .collect();
    let settings = json!({ "csv": { "columns": columns, "types": types } });
    let of = Measured::records("csv", &settings, |n| row(n, groups));
    let file: Vec<u8> = values(&of.records).flat_map(|row| [row, b"\n"].concat()).collect();
    // The crate's own way to JSON: each record to a map of its columns, that to JSON.
    let read = || {
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(file.as_slice());
        let (mut record, mut bytes) = (csv::StringRecord::new(), 0);
        while own(reader.read_record(&mut record)) {
            let fields: Vec<(&str, &str)> = columns.iter().map(String::as_str).zip(&record).collect();
            bytes += own(serde_json::to_vec(&fields)).len();
        }
        bytes
    };
    let write = || {
        let mut writer = csv::Writer::from_writer(Vec::with_capacity(file.len()));
        for payload in of.payloads() {
            let fields: serde_json::Map<String, Value> = own(serde_json::from_slice(payload));
            own(writer.write_record(
                fields.values().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)),
            ));
        }
        own(writer.into_inner()).len()
    };
    of.against(report, ("the csv crate, then serde_json", read), ("serde_json, then the csv crate", write));
}

/// Against the same validator over serde_json's values.
fn json_schema(report: &mut Report, file: &Path, bytes: usize) {
    let of = Measured::orders("json_schema", &json!({ "json_schema": { "schema_file": file } }), bytes);
    let schema: Value = own(serde_json::from_str(JSON_SCHEMA));
    let validator = own(jsonschema::validator_for(&schema));
    let valid = |json: &[u8]| validator.is_valid(&own(serde_json::from_slice(json)));
    let name = "serde_json and jsonschema";
    of.against(
        report,
        (name, || values(&of.records).filter(|v| valid(v)).count()),
        (name, || of.payloads().filter(|v| valid(v)).count()),
    );
}

/// Against rmp-serde's way from and to JSON, by serde_json's values: ours begins and ends at JSON too.
fn messagepack(report: &mut Report, bytes: usize) {
    let of = Measured::orders("messagepack", &json!("messagepack"), bytes);
    let read = || {
        values(&of.records)
            .map(|v| own(serde_json::to_vec(&own(rmp_serde::from_slice::<Value>(v)))).len())
            .sum::<usize>()
    };
    let write = || {
        of.payloads()
            .map(|v| own(rmp_serde::to_vec(&own(serde_json::from_slice::<Value>(v)))).len())
            .sum::<usize>()
    };
    of.against(
        report,
        ("rmp-serde and serde_json's Value", read),
        ("serde_json's Value and rmp-serde", write),
    );
}

/// Against prost-reflect's messages, and its JSON.
fn protobuf(report: &mut Report, file: &Path, bytes: usize) {
    let settings = json!({ "protobuf": { "schema_file": file, "message": "Order" } });
    let of = Measured::orders("protobuf", &settings, bytes);
    let set = own(protox::compile([file], file.parent()));
    let pool = own(DescriptorPool::from_file_descriptor_set(set));
    let order = pool.get_message_by_name("Order").unwrap_or_else(|| panic!("the bench's own type"));
    let read = || {
        values(&of.records)
            .map(|v| own(serde_json::to_vec(&own(DynamicMessage::decode(order.clone(), v)))).len())
            .sum::<usize>()
    };
    let write = || {
        of.payloads()
            .map(|v| {
                let mut json = serde_json::Deserializer::from_slice(v);
                own(DynamicMessage::deserialize(order.clone(), &mut json)).encode_to_vec().len()
            })
            .sum::<usize>()
    };
    of.against(report, ("prost-reflect, to JSON", read), ("prost-reflect, from JSON", write));
}

/// Against apache-avro's values, without JSON, which ours does beside it.
fn avro(report: &mut Report, file: &Path, bytes: usize) {
    let of = Measured::orders("avro", &json!({ "avro": { "schema_file": file } }), bytes);
    let schema = own(apache_avro::Schema::parse_str(AVRO));
    let reader = own(GenericDatumReader::builder(&schema).build());
    let writer = own(GenericDatumWriter::builder(&schema).build());
    let read = |mut datum: &[u8]| own(reader.read_value(&mut datum));
    let all: Vec<_> = values(&of.records).map(read).collect();
    let write = |value| {
        let mut out = Vec::new();
        own(writer.write_value_ref(&mut out, value))
    };
    of.against(
        report,
        ("apache-avro, to its Value", || values(&of.records).for_each(|v| drop(read(v)))),
        ("apache-avro, from its Value", || all.iter().map(write).sum::<usize>()),
    );
}

//! What codecs cost a message, against the libraries alone.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use serde_json::json;
use serde_json::value::RawValue;
use wasmill_connect::codec::{CodecSpec, Reading, Takes, Writing};
use wasmill_engine::input::{RawBatch, RawRecord};
use wasmill_engine::output::EncodedBatch;
use wasmill_engine::position::PartitionId;
use wasmill_frame::FrameBuf;

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

fn spec(settings: &serde_json::Value) -> CodecSpec {
    serde_json::from_value(settings.clone()).unwrap_or_else(|e| panic!("{settings}: {e}"))
}

fn reading(settings: &serde_json::Value) -> Reading {
    ready(spec(settings).reading("bench")).unwrap_or_else(|e| panic!("{settings}: {e}"))
}

fn writing(settings: &serde_json::Value) -> Writing {
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

fn row(n: usize) -> String {
    format!(
        "UA,{},{}.5,{},\"a note, of some length\",N{n},some text of a value,{}",
        n * 7,
        n % 60,
        n % 2 == 0,
        n % 9
    )
}

const COLUMNS: [&str; 8] = ["carrier", "flight", "delay", "ok", "note", "tail", "text", "n"];

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

/// Measures all of them.
pub fn measure(report: &mut Report) {
    for bytes in [200, 1000] {
        envelopes(report, bytes);
    }
    let size = 1000;
    against_json(report, "json_body", &json!("json_body"), |n| payload(n, size));
    against_json(report, "cloudevents, structured", &json!("cloudevents"), |n| event(n, size));
    rows(report);
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

/// Decoded and encoded, against serde_json that only looks whether it is JSON.
fn against_json(
    report: &mut Report,
    name: &str,
    settings: &serde_json::Value,
    value: impl Fn(usize) -> String,
) {
    let (batch, reading, writing) = (batch(value), reading(settings), writing(settings));
    let (mut frame, mut decoded) = (FrameBuf::default(), FrameBuf::default());
    decode_all(&reading, &batch, &mut decoded);
    let decoded = Arc::new(decoded);
    let mut contenders = [
        contender("serde_json", || bare_json(&batch)),
        contender("decode", || decode_all(&reading, &batch, &mut frame)),
        contender("encode", || encode_all(&writing, &decoded)),
    ];
    let times = by_turns(&mut contenders, ROUNDS);
    let what = format!("{name}, 1000 bytes");
    report.push(Row::ratio(&what, "serde_json's RawValue alone", &times[0], &times[0], None));
    report.push(Row::ratio(&what, "decoded", &times[1], &times[0], Some(Target::AtMost(RATIO_MAX))));
    report.push(Row::ratio(&what, "encoded", &times[2], &times[0], Some(Target::AtMost(RATIO_MAX))));
}

fn encode_all(writing: &Writing, frame: &FrameBuf) -> usize {
    let mut batch = EncodedBatch::default();
    for index in 0..frame.len() {
        let record = writing.writer.write(frame.get(index), Takes::default(), &mut batch);
        batch.records.push(record.unwrap_or_else(|e| panic!("the bench's own message: {e}")));
    }
    batch.data.len()
}

fn rows(report: &mut Report) {
    let settings = json!({ "csv": {
        "columns": COLUMNS, "types": { "flight": "integer", "delay": "number", "ok": "boolean", "n": "integer" },
    } });
    let (batch, reading, writing) = (batch(row), reading(&settings), writing(&settings));
    let file: Vec<u8> = values(&batch).flat_map(|row| [row, b"\n"].concat()).collect();
    let (mut frame, mut decoded) = (FrameBuf::default(), FrameBuf::default());
    decode_all(&reading, &batch, &mut decoded);
    // The crate's own way to JSON: each record to a map of its columns, that to JSON.
    let bare = || {
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(file.as_slice());
        reader.set_headers(csv::StringRecord::from(COLUMNS.to_vec()));
        let (mut record, mut bytes) = (csv::StringRecord::new(), 0);
        while reader.read_record(&mut record).unwrap_or_else(|e| panic!("the bench's own rows: {e}")) {
            let fields: Vec<(&str, &str)> = COLUMNS.into_iter().zip(&record).collect();
            bytes += serde_json::to_vec(&fields).map_or(0, |json| json.len());
        }
        bytes
    };
    let bare_write = || {
        let mut writer = csv::Writer::from_writer(Vec::with_capacity(file.len()));
        for index in 0..decoded.len() {
            let fields: serde_json::Map<String, serde_json::Value> =
                serde_json::from_slice(decoded.get(index).payload()).unwrap_or_default();
            let texts = fields.values().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
            writer.write_record(texts).unwrap_or_else(|e| panic!("a row: {e}"));
        }
        writer.into_inner().map_or(0, |rows| rows.len())
    };
    let mut contenders = [
        contender("csv and serde_json", bare),
        contender("decode", || decode_all(&reading, &batch, &mut frame)),
        contender("csv and serde_json, written", bare_write),
        contender("encode", || encode_all(&writing, &decoded)),
    ];
    let times = by_turns(&mut contenders, ROUNDS);
    let what = "csv, rows of 8 fields";
    report.push(Row::ratio(what, "read by the csv crate, JSON by serde_json", &times[0], &times[0], None));
    report.push(Row::ratio(what, "decoded", &times[1], &times[0], Some(Target::AtMost(RATIO_MAX))));
    report.push(Row::ratio(what, "written by the csv crate, JSON by serde_json", &times[2], &times[2], None));
    report.push(Row::ratio(what, "encoded", &times[3], &times[2], Some(Target::AtMost(RATIO_MAX))));
}

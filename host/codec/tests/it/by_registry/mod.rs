//! Avro and Protocol Buffers whose schemas are in a registry: against a real one.

mod avro;
mod interop;
mod protobuf;

use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;
use wasmill_codec::registry::{Reference, Registered, Registry, SchemaKind, put_wire};
use wasmill_codec::{CodecError, CodecSpec, Reading, Takes, Writing};
use wasmill_engine::input::{RawBatch, RawRecord};
use wasmill_engine::output::EncodedBatch;
use wasmill_engine::position::PartitionId;
use wasmill_frame::{FrameBuf, Parts};

use crate::apicurio::{Apicurio, free_port};

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work)
}

/// A file of a test, gone with it.
struct File {
    path: PathBuf,
    _folder: TempDir,
}

fn file(name: &str, text: &str) -> File {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    std::fs::write(&path, text).expect("a file");
    File { path, _folder: folder }
}

/// How long a registry may take: the machine of a test may have much else to do.
const PATIENCE: &str = "120s";

fn spec(codec: &str, mut settings: Value) -> CodecSpec {
    settings["registry"]["timeout"] = json!(PATIENCE);
    serde_json::from_value(json!({ codec: settings })).expect("settings")
}

fn reading(spec: &CodecSpec) -> Reading {
    run(spec.reading("t")).expect("a reading half")
}

fn writing(spec: &CodecSpec) -> Writing {
    run(spec.writing("t")).expect("a writing half")
}

/// Why nothing can be written: for good.
#[track_caller]
fn refused(spec: &CodecSpec) -> String {
    match run(spec.writing("t")).err() {
        Some(CodecError::Wrong(why)) => why,
        other => panic!("expected Wrong: {other:?}"),
    }
}

fn client(server: &Apicurio) -> Registry {
    let settings = json!({ "url": server.url(), "timeout": PATIENCE });
    Registry::new(&serde_json::from_value(settings).expect("settings")).expect("settings")
}

fn registered(server: &Apicurio, subject: &str, schema: &Registered) -> u32 {
    run(client(server).register(subject, schema)).expect("an id")
}

/// A reference to the first version of a subject.
fn reference(name: &str, subject: &str, of: &Registered) -> Reference {
    Reference { name: name.into(), subject: subject.into(), version: 1, text: of.text.clone(), direct: true }
}

/// A value in the wire format.
fn value(id: u32, body: &[u8]) -> Vec<u8> {
    let mut value = Vec::new();
    put_wire(id, &mut value);
    value.extend_from_slice(body);
    value
}

fn batch(values: &[Vec<u8>]) -> RawBatch {
    let mut batch = RawBatch::new(PartitionId { source: 0, partition: 0 });
    for (n, value) in values.iter().enumerate() {
        let start = batch.data.len();
        batch.data.extend_from_slice(value);
        let offset = n as u64;
        batch.records.push(RawRecord {
            offset,
            next: offset + 1,
            value: start..batch.data.len(),
            ..RawRecord::default()
        });
    }
    batch
}

/// Decodes each value: the message's type and payload, or the reason.
fn decoded(reading: &Reading, values: &[Vec<u8>]) -> Vec<Result<(String, String), String>> {
    let batch = batch(values);
    run(reading.ahead.as_ref().expect("a registry").bring(&batch)).expect("the registry is there");
    let mut frame = FrameBuf::default();
    let decoded = batch.records.iter().map(|record| {
        let before = frame.len();
        let result = reading.decoder.decode(record, &batch, &mut frame);
        assert_eq!(frame.len() - before, usize::from(result.is_ok()), "one message, or nothing");
        result.map(|()| {
            let message = frame.get(before);
            assert!(message.payload_is_json());
            let payload = String::from_utf8(message.payload().to_vec()).expect("text");
            (message.kind().to_owned(), payload)
        })
    });
    decoded.collect()
}

/// The payloads alone, where all is well.
#[track_caller]
fn payloads(reading: &Reading, values: &[Vec<u8>]) -> Vec<String> {
    decoded(reading, values).into_iter().map(|m| m.expect("a message").1).collect()
}

/// Values that are wrong, each between good ones: their reasons.
#[track_caller]
fn reasons(reading: &Reading, good: &(Vec<u8>, &str), bad: &[Vec<u8>]) -> Vec<String> {
    let mut values = vec![good.0.clone()];
    for value in bad {
        values.extend([value.clone(), good.0.clone()]);
    }
    let mut reasons = Vec::new();
    for (n, result) in decoded(reading, &values).into_iter().enumerate() {
        match n % 2 {
            0 => assert_eq!(result.expect("unharmed").1, good.1),
            _ => reasons.push(result.expect_err("refused")),
        }
    }
    reasons
}

fn write(writing: &Writing, payload: &str) -> Result<Vec<u8>, String> {
    let mut frame = FrameBuf::default();
    frame.push(&Parts {
        id: "1",
        kind: "t",
        key: None,
        payload: payload.as_bytes(),
        timestamp: 5,
        metadata: b"",
        payload_is_json: true,
    });
    let mut into = EncodedBatch::default();
    match writing.writer.write(frame.get(0), Takes::default(), &mut into) {
        Ok(record) => Ok(into.data[record.value].to_vec()),
        Err(why) => {
            assert!(into.data.is_empty(), "nothing is left of what fails");
            Err(why)
        }
    }
}

/// A schema of another language.
fn of_json() -> Registered {
    let text = r#"{"$schema":"http://json-schema.org/draft-07/schema#","title":"note","type":"string"}"#;
    Registered::new(SchemaKind::Json, text)
}

const WIRE: &str =
    "expected the wire format of a schema registry: a zero byte, then the schema's id as four bytes";

/// Values that are not in the wire format, or whose id says nothing; and why they are refused.
fn strange(server: &Apicurio) -> (Vec<Vec<u8>>, Vec<String>) {
    let values =
        vec![value(999_999, b"x"), b"{\"id\":1}".to_vec(), Vec::new(), vec![0, 0, 1], vec![7, 0, 0, 0, 1, 2]];
    let reasons = vec![
        format!(
            "the schema registry {} has no schema with the id 999999: register it there, then replay the message",
            server.url()
        ),
        format!(
            "the value begins with `{{`, as JSON does: {WIRE}; leave out `registry` where values are plain"
        ),
        format!("an empty value: {WIRE}"),
        format!("a value of 3 bytes: {WIRE}, then the body"),
        format!("the value begins with the byte 0x07: {WIRE}"),
    ];
    (values, reasons)
}

#[test]
fn a_registry_that_is_away_is_waited_for() {
    let port = free_port();
    let server = Apicurio::start(port);
    let one = Registered::new(SchemaKind::Avro, avro::V1);
    let other = Registered::new(SchemaKind::Protobuf, protobuf::V1);
    let ids = [registered(&server, "away-a", &one), registered(&server, "away-p", &other)];
    let at = |codec: &str| {
        let subject = if codec == "avro" { "away-a" } else { "away-p" };
        spec(codec, json!({ "registry": { "url": server.url(), "subject": subject } }))
    };
    let specs = [at("avro"), at("protobuf")];
    let values = [value(ids[0], b"\x02\x02a"), value(ids[1], b"\0\x08\x01")];
    let payloads_of = [r#"{"id":1,"sku":"a"}"#, r#"{"id":1}"#];
    // One that has what it needs, and one that is yet to ask.
    let known = specs.each_ref().map(reading);
    let fresh = specs.each_ref().map(reading);
    for n in 0..2 {
        assert_eq!(payloads(&known[n], &values[n..=n]), payloads_of[n..=n]);
    }
    drop(server);
    for n in 0..2 {
        assert_eq!(payloads(&known[n], &values[n..=n]), payloads_of[n..=n], "an id's meaning never changes");
        let ahead = fresh[n].ahead.as_ref().expect("a registry");
        for _ in 0..2 {
            let failed = run(ahead.bring(&batch(&values[n..=n]))).expect_err("nobody is there");
            assert!(matches!(failed, CodecError::Away { .. }), "{failed:?}");
            assert!(failed.to_string().contains(&format!("reading schema {}: ", ids[n])), "{failed}");
        }
        let failed = run(specs[n].writing("t")).err().expect("nobody is there");
        assert!(matches!(failed, CodecError::Away { .. }), "{failed:?}");
    }
    let again = Apicurio::start(port);
    assert_eq!([registered(&again, "away-a", &one), registered(&again, "away-p", &other)], ids);
    for n in 0..2 {
        assert_eq!(payloads(&fresh[n], &values[n..=n]), payloads_of[n..=n]);
        assert_eq!(write(&writing(&specs[n]), payloads_of[n]).as_ref(), Ok(&values[n]));
    }
}

//! JSON that keeps to a schema: from values and back, with a registry and without.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use serde_json::{Value, json};
use wasmill_codec::json_schema::JsonSchemaSettings;
use wasmill_codec::registry::{Reference, Registered, Registry, RegistrySettings, SchemaKind};
use wasmill_codec::{CodecError, CodecSettings, CodecSpec, Reading, Takes, Writing};
use wasmill_engine::input::{Header, RawBatch, RawRecord};
use wasmill_engine::output::EncodedBatch;
use wasmill_engine::position::PartitionId;
use wasmill_frame::{FrameBuf, Parts};

use crate::apicurio::shared;
use crate::clients;

const ORDER: &str = r##"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "title": "order",
  "type": "object",
  "properties": {
    "id": { "type": "integer", "minimum": 1 },
    "state": { "enum": ["open", "done"] },
    "note": { "type": "string", "maxLength": 5, "pattern": "^[a-z]*$" },
    "lines": { "type": "array", "items": { "$ref": "#/$defs/line" }, "uniqueItems": true }
  },
  "required": ["id"],
  "additionalProperties": false,
  "$defs": { "line": { "type": "object", "properties": { "qty": { "type": "integer" } }, "required": ["qty"] } }
}"##;

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work)
}

fn settings(json: Value) -> JsonSchemaSettings {
    serde_json::from_value(json).expect("settings")
}

/// The codec by a schema that is in a file.
struct Codec {
    reading: Reading,
    writing: Writing,
}

fn by_file(schema: &str) -> Result<Codec, CodecError> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("schema.json");
    fs::write(&file, schema).expect("a file");
    let settings = settings(json!({ "schema_file": file }));
    run(async { Ok(Codec { reading: settings.reading("t").await?, writing: settings.writing("t").await? }) })
}

/// A batch of these values.
fn batch(values: &[&[u8]]) -> RawBatch {
    let mut batch = RawBatch::new(PartitionId { source: 0, partition: 3 });
    for (n, value) in values.iter().enumerate() {
        let start = batch.data.len();
        batch.data.extend_from_slice(value);
        let value = start..batch.data.len();
        let offset = n as u64;
        batch.records.push(RawRecord { offset, next: offset + 1, value, ..RawRecord::default() });
    }
    batch
}

/// Decodes a batch: payloads or reasons.
fn decode(reading: &Reading, batch: &RawBatch) -> Vec<Result<String, String>> {
    if let Some(ahead) = &reading.ahead {
        run(ahead.bring(batch)).expect("the registry is there");
    }
    let mut frame = FrameBuf::default();
    let decoded = batch.records.iter().map(|record| {
        let before = frame.len();
        let result = reading.decoder.decode(record, batch, &mut frame);
        assert_eq!(frame.len() - before, usize::from(result.is_ok()), "one message, or nothing");
        result.map(|()| String::from_utf8(frame.get(before).payload().to_vec()).expect("text"))
    });
    decoded.collect()
}

/// Writes a payload; the value.
fn write(writing: &Writing, payload: &[u8]) -> Result<Vec<u8>, String> {
    let mut frame = FrameBuf::default();
    frame.push(&Parts {
        id: "1",
        kind: "order",
        key: None,
        payload,
        timestamp: 5,
        metadata: &[],
        payload_is_json: true,
    });
    let mut into = EncodedBatch::default();
    let record = writing.writer.write(frame.get(0), Takes::default(), &mut into);
    match record {
        Ok(record) => Ok(into.data[record.value].to_vec()),
        Err(why) => {
            assert!(into.data.is_empty(), "nothing is left of what fails");
            Err(why)
        }
    }
}

#[test]
fn what_keeps_to_the_schema_goes_through_to_the_letter() {
    let codec = by_file(ORDER).expect("a good schema");
    for value in [
        r#"{"id":1}"#,
        r#" { "id" : 1.0 , "note":"\u0061" } "#,
        r#"{"id":12345678901234567890123,"lines":[{"qty":-1,"more":1e5},{"qty":0}],"state":"open"}"#,
        r#"{"id":1,"id":2}"#,
    ] {
        let decoded = decode(&codec.reading, &batch(&[value.as_bytes()]));
        assert_eq!(decoded, [Ok(value.to_owned())]);
        assert_eq!(write(&codec.writing, value.as_bytes()), Ok(value.into()));
    }
    // A value of a stream is a line; newlines of JSON stand where a blank means the same.
    assert_eq!(write(&codec.writing, b"{\"id\":\r\n1}"), Ok(b"{\"id\":  1}".to_vec()));
    assert_eq!(codec.writing.framing.extension(), "jsonl");
}

#[test]
fn what_breaks_the_schema_says_where_which_rule_and_what_is_there() {
    let codec = by_file(ORDER).expect("a good schema");
    for (value, reason) in [
        ("", "empty: expected a JSON value"),
        ("{\"id\":1", "broken JSON: EOF while parsing an object at line 1 column 7"),
        ("{\"id\":1} x", "broken JSON: trailing characters at line 1 column 10"),
        ("nul", "broken JSON: EOF while parsing a value at line 1 column 3"),
        (r#"[]"#, r#"breaks the schema: payload: [] is not of type "object" (rule /type)"#),
        (r#"{}"#, r#"breaks the schema: payload: "id" is a required property (rule /required)"#),
        (
            r#"{"id":0}"#,
            "breaks the schema: payload.id: 0 is less than the minimum of 1 (rule /properties/id/minimum)",
        ),
        (
            r#"{"id":1.5}"#,
            r#"breaks the schema: payload.id: 1.5 is not of type "integer" (rule /properties/id/type)"#,
        ),
        (
            r#"{"id":1,"x":2}"#,
            "breaks the schema: payload: Additional properties are not allowed ('x' was unexpected) (rule /additionalProperties)",
        ),
        (
            r#"{"id":1,"lines":[{"qty":1},{"qty":"2"}]}"#,
            r#"breaks the schema: payload.lines[1].qty: "2" is not of type "integer" (rule /$defs/line/properties/qty/type)"#,
        ),
        (
            r#"{"id":1,"lines":[{"qty":1},{"qty":1}]}"#,
            r#"breaks the schema: payload.lines: [{"qty":1},{"qty":1}] has non-unique elements (rule /properties/lines/uniqueItems)"#,
        ),
        (
            r#"{"id":"1","state":"shut"}"#,
            r#"breaks the schema: payload.id: "1" is not of type "integer" (rule /properties/id/type); payload.state: "shut" is not one of "open" or "done" (rule /properties/state/enum)"#,
        ),
        (r#"{"id":"1","state":"shut","note":"ABCDEF","x":1}"#, r#"; and more"#),
    ] {
        let decoded = decode(&codec.reading, &batch(&[br#"{"id":1}"#, value.as_bytes(), br#"{"id":2}"#]));
        assert_eq!((&decoded[0], &decoded[2]), (&Ok(r#"{"id":1}"#.into()), &Ok(r#"{"id":2}"#.into())));
        let why = decoded[1].clone().expect_err(value);
        assert!(why == reason || why.ends_with(reason) && reason.starts_with(';'), "{value}:\n{why}");
        assert_eq!(write(&codec.writing, value.as_bytes()), Err(why), "what is written is held to the same");
    }
    let why = decode(&codec.reading, &batch(&[b"{\"id\":\"\xff\"}"]));
    assert_eq!(why, [Err("not UTF-8: invalid byte at 7; expected JSON text".into())]);
    let deep = "[".repeat(100_000);
    let why = decode(&codec.reading, &batch(&[deep.as_bytes()]));
    assert_eq!(why, [Err("broken JSON: recursion limit exceeded at line 1 column 128".into())]);
    let long = format!(r#"{{"id":"{}"}}"#, "é".repeat(100_000));
    let why = decode(&codec.reading, &batch(&[long.as_bytes()])).remove(0).expect_err("text");
    assert!(why.len() < 500 && why.contains('…'), "{why}");
}

/// Cuts, flips and doublings of good values: what no longer is JSON, or breaks the schema, is refused in between
/// others, which come out unharmed.
#[test]
fn malformed_values_are_refused_alone() {
    let codec = by_file(ORDER).expect("a good schema");
    let good = r#"{"id":7,"state":"done","note":"abc","lines":[{"qty":1},{"qty":-2}]}"#.as_bytes();
    let mut bad: Vec<Vec<u8>> = (0..good.len()).map(|end| good[..end].to_vec()).collect();
    for at in 0..good.len() {
        for byte in [0, b'{', b'}', b'"', b'\\', 0xff] {
            if good[at] != byte {
                let mut flipped = good.to_vec();
                flipped[at] = byte;
                bad.push(flipped);
            }
        }
    }
    // A text and a name may have any character in it, and then it is the schema that forbids most.
    let is_good = |value: &[u8]| {
        serde_json::from_slice::<Value>(value).is_ok_and(|v| {
            v.get("id").is_some_and(|id| id.as_u64().is_some_and(|id| id > 0))
                && v.as_object()
                    .is_some_and(|o| o.keys().all(|k| ["id", "state", "note", "lines"].contains(&k.as_str())))
                && v.get("state").is_none_or(|s| s == "open" || s == "done")
                && v.get("note").is_none_or(|n| {
                    n.as_str().is_some_and(|n| n.len() <= 5 && n.bytes().all(|b| b.is_ascii_lowercase()))
                })
                && v["lines"].as_array().is_none_or(|l| l.iter().all(|l| l["qty"].is_i64()))
        })
    };
    bad.retain(|value| !is_good(value));
    assert!(bad.len() > 400, "{}", bad.len());
    let neighbour = br#"{"id":1}"#;
    let mut values: Vec<&[u8]> = Vec::new();
    for value in &bad {
        values.extend([&neighbour[..], value]);
    }
    for (n, result) in decode(&codec.reading, &batch(&values)).into_iter().enumerate() {
        match n % 2 {
            0 => assert_eq!(result, Ok(r#"{"id":1}"#.to_owned())),
            _ => {
                let why = result.expect_err(&String::from_utf8_lossy(values[n]));
                assert!(!why.is_empty());
            }
        }
    }
}

#[test]
fn what_stands_around_the_value() {
    let codec = by_file(ORDER).expect("a good schema");
    let mut frame = FrameBuf::default();
    let mut batch = batch(&[br#"{"id":1}"#, br#"{"id":2}"#, b""]);
    let mut text = |text: &str| {
        let start = batch.data.len();
        batch.data.extend_from_slice(text.as_bytes());
        start..batch.data.len()
    };
    let (id, name) = (text("id"), text("mine"));
    let key = text("k");
    batch.records[1].headers.push(Header { name: id, value: Some(name) });
    batch.records[2].tombstone = true;
    batch.records[2].key = Some(key);
    for record in &batch.records {
        codec.reading.decoder.decode(record, &batch, &mut frame).expect("a message");
    }
    let (first, second, gone) = (frame.get(0), frame.get(1), frame.get(2));
    assert_eq!((first.id(), first.kind()), (format!("{}:0", batch.partition).as_str(), "order"));
    assert!(first.payload_is_json());
    assert_eq!(second.id(), "mine");
    assert_eq!((gone.id(), gone.kind(), gone.payload()), ("k", "tombstone", &b""[..]));

    let mut into = EncodedBatch::default();
    let takes = Takes { headers: true, tombstones: true };
    assert!(codec.writing.writer.write(gone, takes, &mut into).expect("a record").tombstone);
    let why = codec.writing.writer.write(gone, Takes::default(), &mut into).expect_err("no value");
    assert!(why.starts_with("a tombstone, which this sink can't write"), "{why}");
    let record = codec.writing.writer.write(second, takes, &mut into).expect("a record");
    let headers: Vec<_> = record
        .headers
        .iter()
        .map(|h| String::from_utf8_lossy(&into.data[h.value.clone().expect("a value")]).into_owned())
        .collect();
    assert_eq!(headers, ["mine", "order"]);

    let untitled = by_file("{}").expect("a good schema");
    let mut frame = FrameBuf::default();
    untitled.reading.decoder.decode(&batch.records[0], &batch, &mut frame).expect("a message");
    assert_eq!(frame.get(0).kind(), "message");
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter_map("finite", |n| serde_json::Number::from_f64(n).map(Value::from)),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((any::<String>(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_value_goes_through_a_schema_that_allows_all(value in any_json(), pretty in any::<bool>()) {
        thread_local! {
            static CODEC: Codec = by_file("true").expect("a good schema");
        }
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        let text = text.expect("JSON");
        CODEC.with(|codec| {
            let read = decode(&codec.reading, &batch(&[text.as_bytes()])).remove(0).expect("a message");
            prop_assert_eq!(&read, &text);
            let written = write(&codec.writing, read.as_bytes()).expect("a record");
            prop_assert!(!written.contains(&b'\n'));
            prop_assert_eq!(serde_json::from_slice::<Value>(&written).expect("JSON"), value);
            Ok(())
        })?;
    }
}

#[test]
fn settings_and_schemas_that_are_wrong_say_so() {
    let wrong = |result: Result<Codec, CodecError>| match result {
        Err(CodecError::Wrong(text)) => text,
        _ => panic!("expected Wrong"),
    };
    let none = settings(json!({}));
    let text = run(none.reading("t")).err().expect("no schema").to_string();
    assert_eq!(text, "json_schema: no schema: set `schema_file`, or `registry` where values name theirs");
    let missing = settings(json!({ "schema_file": "/nowhere/s.json" }));
    let text = run(missing.reading("t")).err().expect("no file").to_string();
    assert_eq!(text, "`schema_file`: cannot read /nowhere/s.json: no such file or directory");
    for (schema, expected) in [
        ("{", "schema.json: not JSON: EOF while parsing"),
        ("3", "schema.json: no valid JSON Schema: 3 is not of types"),
        (r#"{"type":"objekt"}"#, r#"schema.json: no valid JSON Schema at /type: "objekt" is not"#),
        (r#"{"pattern":"("}"#, "schema.json: no valid JSON Schema"),
        (r##"{"$ref":"#/$defs/no"}"##, "schema.json: no valid JSON Schema"),
        (r#"{"$ref":"http://127.0.0.1:1/other.json"}"#, "http://127.0.0.1:1/other.json"),
        (r#"{"$ref":"file:///etc/hostname"}"#, "file:///etc/hostname"),
    ] {
        let text = wrong(by_file(schema));
        assert!(text.starts_with("`schema_file`: ") && text.contains(expected), "{text}");
    }
    let text = wrong(by_file(r#"{"$ref":"http://127.0.0.1:1/other.json"}"#));
    assert!(
        text.contains("schemas are fetched from nowhere else; put it into the schema, below `$defs`"),
        "{text}"
    );
    assert!(!CodecSpec::names_alone().is_empty());
}

#[test]
fn the_file_is_what_is_declared() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("schema.json");
    fs::write(&file, ORDER).expect("a file");
    let with = settings(json!({ "schema_file": file }));
    assert_eq!(with.declared(), Ok(Some(serde_json::from_str(ORDER).expect("JSON"))));
    assert_eq!(settings(json!({ "registry": { "url": "http://r" } })).declared(), Ok(None));
}

/// Settings with a schema in a file and a registry.
fn with_registry(folder: &Path, url: &str, subject: &str, schema: &str) -> JsonSchemaSettings {
    let file: PathBuf = folder.join("schema.json");
    fs::write(&file, schema).expect("a file");
    settings(json!({ "schema_file": file, "registry": { "url": url, "subject": subject } }))
}

#[test]
fn with_a_registry_each_value_names_its_schema() {
    let server = shared();
    let registry = Registry::new(&RegistrySettings::new(&server.url())).expect("settings");
    let folder = tempfile::tempdir().expect("a folder");
    let settings = with_registry(folder.path(), &server.url(), "js-orders", ORDER);
    let other = Registered::new(
        SchemaKind::Json,
        r#"{"$schema":"http://json-schema.org/draft-07/schema#","title":"note","type":"string"}"#,
    );
    let (other_id, avro_id) = run(async {
        let avro = Registered::new(SchemaKind::Avro, r#"{"type":"record","name":"R","fields":[]}"#);
        let other = registry.register("js-other", &other).await.expect("an id");
        (other, registry.register("js-avro", &avro).await.expect("an id"))
    });
    let (reading, writing) = run(async {
        (settings.reading("t").await.expect("a reading"), settings.writing("t").await.expect("a writing"))
    });
    assert_eq!(writing.framing.extension(), "bin");
    let (id, _) = run(registry.latest("js-orders")).expect("an answer").expect("it was registered");
    let mut expected = vec![0];
    expected.extend(id.to_be_bytes());
    let payload = "{\"id\":\n1}";
    expected.extend(payload.as_bytes());
    let value = write(&writing, payload.as_bytes()).expect("a value");
    assert_eq!(value, expected, "to the letter");
    let why = write(&writing, br#"{"id":0}"#).expect_err("below the minimum");
    assert!(why.starts_with("breaks the schema: payload.id: 0 is less"), "{why}");

    let of = |id: u32, body: &str| {
        let mut value = vec![0];
        value.extend(id.to_be_bytes());
        value.extend(body.as_bytes());
        value
    };
    let values = [
        value,
        of(other_id, r#""text""#),
        of(other_id, "1"),
        of(avro_id, ""),
        of(999_999, "{}"),
        payload.into(),
    ];
    let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
    let decoded = decode(&reading, &batch(&values));
    assert_eq!(decoded[..2], [Ok(payload.to_owned()), Ok(r#""text""#.to_owned())]);
    for (result, expected) in decoded[2..].iter().zip([
        r#"breaks the schema: payload: 1 is not of type "string" (rule /type)"#.to_owned(),
        format!("schema {avro_id}: it is of the type AVRO: expected JSON, a JSON Schema"),
        format!("the schema registry {registry} has no schema with the id 999999: register it there, then replay the message"),
        "the value begins with `{`, as JSON does: expected the wire format of a schema registry: a zero byte, then the schema's id as four bytes; leave out `registry` where values are plain".to_owned(),
    ]) {
        assert_eq!(result, &Err(expected));
    }

    // Without a file it is written by the subject's newest.
    let latest = self::settings(json!({ "registry": { "url": server.url(), "subject": "js-other" } }));
    let writing = run(latest.writing("t")).expect("a writing");
    assert_eq!(write(&writing, br#""text""#), Ok(of(other_id, r#""text""#)));
    assert!(write(&writing, b"1").is_err());
}

#[test]
fn a_schema_may_refer_to_others_of_the_registry() {
    let server = shared();
    let registry = Registry::new(&RegistrySettings::new(&server.url())).expect("settings");
    let draft = "http://json-schema.org/draft-07/schema#";
    let qty = Registered::new(
        SchemaKind::Json,
        json!({ "$schema": draft, "$id": "http://example.com/qty.json", "type": "integer" }).to_string(),
    );
    let line = json!({
        "$schema": draft, "$id": "http://example.com/line.json", "type": "object",
        "properties": { "qty": { "$ref": "qty.json" } }
    });
    let line = Registered {
        kind: SchemaKind::Json,
        text: line.to_string(),
        references: vec![Reference {
            name: "qty.json".into(),
            subject: "js-qty".into(),
            version: 1,
            text: qty.text.clone(),
            direct: true,
        }],
    };
    let id = run(async {
        registry.register("js-qty", &qty).await.expect("an id");
        registry.register("js-line", &line).await.expect("an id")
    });
    let reading =
        run(settings(json!({ "registry": { "url": server.url() } })).reading("t")).expect("a reading");
    let value = |body: &str| {
        let mut value = vec![0];
        value.extend(id.to_be_bytes());
        value.extend(body.as_bytes());
        value
    };
    let (good, bad) = (value(r#"{"qty":1}"#), value(r#"{"qty":"1"}"#));
    let decoded = decode(&reading, &batch(&[&good, &bad]));
    assert_eq!(decoded[0], Ok(r#"{"qty":1}"#.to_owned()));
    let why = decoded[1].clone().expect_err("no integer");
    assert!(why.starts_with(r#"breaks the schema: payload.qty: "1" is not of type "integer""#), "{why}");
}

/// Confluent's client for Python reads what is written here, and writes what is read here.
#[test]
fn confluents_client_and_ours_read_each_other() {
    let server = shared();
    let folder = tempfile::tempdir().expect("a folder");
    let client = |arguments: &[&str]| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients/json_schema.py");
        let ended = Command::new(clients::python())
            .arg(script)
            .args(arguments)
            .current_dir(folder.path())
            .output()
            .expect("Python");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    };
    let payloads =
        [r#"{"id":1}"#, r#"{"id": 2, "note": "abc", "lines": [{"qty": 3}]}"#, r#"{"id":9007199254740993}"#];
    let lines = payloads.join("\n");
    fs::write(folder.path().join("payloads.jsonl"), &lines).expect("a file");
    let settings = with_registry(folder.path(), &server.url(), "js-theirs-value", ORDER);

    // Theirs, read by ours.
    client(&["write", &server.url(), "js-theirs", "schema.json", "payloads.jsonl", "theirs.bin"]);
    let reading = run(settings.reading("js-theirs")).expect("a reading");
    let mut cutter = reading.framing.cutter(wasmill_codec::framing::Place::START, 1 << 20);
    cutter.feed(fs::read(folder.path().join("theirs.bin")).expect("their values"));
    let mut theirs = RawBatch::new(PartitionId { source: 0, partition: 0 });
    cutter.take(&mut theirs, 100, 1 << 20);
    let same = |one: &str, other: &str| {
        let parse = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        assert_eq!(parse(one), parse(other));
    };
    let read = decode(&reading, &theirs);
    assert_eq!(read.len(), payloads.len());
    for (read, payload) in read.iter().zip(payloads) {
        same(read.as_ref().expect("a message"), payload);
    }

    // Ours, read by theirs: under the same subject, and so by the same schema.
    let writing = run(settings.writing("js-theirs")).expect("a writing");
    let (mut joiner, mut ours) = (writing.framing.joiner(), Vec::new());
    for (n, payload) in payloads.iter().enumerate() {
        let value = write(&writing, payload.as_bytes()).expect("a value");
        assert_eq!(value[..5], theirs.data[theirs.records[n].value.clone()][..5], "the same schema's id");
        joiner.push(&value, &mut ours);
    }
    fs::write(folder.path().join("ours.bin"), ours).expect("a file");
    client(&["read", &server.url(), "js-theirs", "schema.json", "ours.bin", "read.jsonl"]);
    let read = fs::read_to_string(folder.path().join("read.jsonl")).expect("what they read");
    assert_eq!(read.lines().count(), payloads.len());
    for (read, payload) in read.lines().zip(payloads) {
        same(read, payload);
    }
}

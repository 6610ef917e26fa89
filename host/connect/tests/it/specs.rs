//! Specs as users write them, and what they are told.

use std::io;

use serde_json::{Value, json};
use wasmill_connect::file::FileSourceSpec;
use wasmill_connect::stdio::{PIPE_CLOSED, StdoutSink, StdoutSinkSpec};
use wasmill_connect::table::{SinkSpec, SourceSpec, connectors};
use wasmill_connect::{ConnectorError, Sink};
use wasmill_engine::output::{EncodedBatch, EncodedRecord};

fn source(spec: Value) -> Result<SourceSpec, String> {
    serde_json::from_value(spec).map_err(|e| e.to_string())
}

fn sink(spec: Value) -> Result<SinkSpec, String> {
    serde_json::from_value(spec).map_err(|e| e.to_string())
}

#[test]
fn a_spec_is_a_name_with_settings_or_a_name_alone() {
    let file = source(json!({"file": {"path": "a.jsonl"}})).expect("a file");
    assert_eq!(file, SourceSpec::File(FileSourceSpec::new("a.jsonl")));
    assert_eq!(source(json!("stdin")), source(json!({"stdin": {}})));
    assert_eq!(SourceSpec::names_alone(), ["generator", "stdin"]);
    assert_eq!(SinkSpec::names_alone(), ["stdout"]);
    for spec in [
        json!({"file": {"path": "x", "rate": 2.5, "message_bytes_max": "64KiB"}}),
        json!({"generator": {"count": 5, "disorder": "1m", "interval": "250ms", "padding": 0}}),
    ] {
        let read = source(spec).expect("a source");
        let written = serde_json::to_value(&read).expect("JSON");
        assert_eq!(source(written).expect("what was written is read"), read);
    }
}

#[test]
fn a_wrong_spec_is_told() {
    for (spec, part) in [
        (
            json!({"fil": {}}),
            "unknown variant `fil`, expected one of `file`, `generator`, `http`, `kafka`, `log`, `nats`, `redis`, `stdin`",
        ),
        (json!("kafka"), "missing field `brokers`"),
        (json!("file"), "missing field `path`"),
        (json!({"file": {}}), "missing field `path`"),
        (
            json!({"file": {"path": "x", "rat": 1}}),
            "unknown field `rat`, expected one of `path`, `rate`, `message_bytes_max`",
        ),
        (
            json!({"file": {"path": "x"}, "topic": 1}),
            "`topic` beside `file`: a source has one name; indent its settings below it",
        ),
        (
            json!({}),
            "expected a source: one of file, generator, http, kafka, log, nats, redis, stdin, with its settings",
        ),
        (
            json!(5),
            "expected a source: one of file, generator, http, kafka, log, nats, redis, stdin, with its settings",
        ),
        (
            json!({"generator": {"disorder": "5 apples"}}),
            "`5 apples` is no duration: expected a duration such as 100ms",
        ),
        (json!({"generator": {"disorder": 5}}), "`5` lacks a unit"),
        (json!({"generator": {"padding": "big"}}), "`big` is no size: expected a size such as 65536"),
    ] {
        let error = source(spec.clone()).expect_err(part);
        assert!(error.contains(part), "{spec}: {error}");
    }
    let out_of_range = [
        json!({"generator": {"partitions": 0}}),
        json!({"generator": {"keys": 0}}),
        json!({"generator": {"start": -1}}),
        json!({"generator": {"padding": "1GiB"}}),
        json!({"generator": {"rate": -1.0}}),
    ];
    for spec in out_of_range {
        let error = source(spec.clone()).expect("readable").source().err().expect("refused").to_string();
        assert!(error.contains("expected"), "{spec}: {error}");
    }
    assert!(sink(json!({"stdout": {"rows_max": 0}})).expect("readable").sink().is_err());
    assert!(sink(json!({"file": {"path": "x", "roll_bytes": 0}})).expect("readable").sink().is_err());
}

#[test]
fn the_schema_documents_every_setting_of_every_connector() {
    let schemas = [schemars::schema_for!(SourceSpec).to_value(), schemars::schema_for!(SinkSpec).to_value()];
    let names: Vec<String> = schemas
        .iter()
        .flat_map(|s| s["oneOf"].as_array().expect("forms").iter())
        .filter_map(|form| form["properties"].as_object())
        .flat_map(|p| p.keys().cloned())
        .collect();
    assert!(connectors().iter().all(|c| names.iter().any(|n| n == c.name)), "{names:?}");
    for schema in &schemas {
        for (name, spec) in schema["$defs"].as_object().expect("definitions") {
            assert!(spec["description"].is_string() || spec["oneOf"].is_array(), "{name} lacks its comment");
            for (field, of) in spec["properties"].as_object().into_iter().flatten() {
                assert!(of["description"].is_string(), "{name}.{field} lacks its comment");
            }
        }
    }
}

struct Closed;

impl io::Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_closed_pipe_is_known_as_one() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let error = runtime.block_on(async {
        let mut sink = StdoutSink::new(StdoutSinkSpec::default(), Closed).expect("a sink");
        let record = EncodedRecord { value: 0..2, ..EncodedRecord::default() };
        sink.write(&EncodedBatch { data: b"{}".to_vec(), records: vec![record] }).await.expect("kept");
        sink.flush().await.expect_err("closed")
    });
    assert!(matches!(&error, ConnectorError::Fatal(text) if text == PIPE_CLOSED), "{error}");
}

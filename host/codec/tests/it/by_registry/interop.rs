//! Confluent's client for Python, `tests/clients/by_registry.py`, with the same registry.

use std::path::Path;
use std::process::Command;

use prost_reflect::prost::Message as _;
use serde_json::{Value, json};
use wasmill_codec::framing::{Framing as _, Length, Place};
use wasmill_engine::input::RawBatch;
use wasmill_engine::position::PartitionId;

use super::{client, payloads, reading, run, spec, write, writing};
use crate::apicurio::shared;
use crate::clients;

fn client_of_python(arguments: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients/by_registry.py");
    let ended = Command::new(clients::python()).arg(script).args(arguments).output().expect("Python");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}

/// Values of a file, each behind its length.
fn values(file: &Path) -> Vec<Vec<u8>> {
    let mut cutter = Length.cutter(Place::START, 1 << 20);
    cutter.feed(std::fs::read(file).expect("a file"));
    let mut batch = RawBatch::new(PartitionId { source: 0, partition: 0 });
    cutter.take(&mut batch, usize::MAX, usize::MAX);
    batch.records.iter().map(|record| batch.data[record.value.clone()].to_vec()).collect()
}

fn to_file(values: &[Vec<u8>], file: &Path) {
    let (mut joiner, mut out) = (Length.joiner(), Vec::new());
    values.iter().for_each(|value| joiner.push(value, &mut out));
    std::fs::write(file, out).expect("a file");
}

#[test]
fn avro_of_confluents_client_and_ours() {
    let server = shared();
    let folder = tempfile::tempdir().expect("a folder");
    let [theirs, ours] = ["theirs", "ours"].map(|name| folder.path().join(name));
    let (url, topic) = (server.url(), "av-python");
    client_of_python(&["avro", "write", &url, topic, &theirs.display().to_string()]);
    let theirs = values(&theirs);
    assert_eq!(theirs.len(), 40);

    let spec = spec("avro", json!({ "registry": { "url": url, "subject": "av-python-value" } }));
    let read = payloads(&reading(&spec), &theirs);
    let start = r#"{"id":"00000000-0000-0000-0000-000000000001","fare":-1.01,"tax":0.001,"at":"2013-01-31T23:59:59.123456Z","day":"2013-01-30","clock":"12:00:00.005","origin":{"code":"LGA"},"next":1099511627776,"codes":{"a":"JFK","é":"EWR"},"stops":[{"code":"LGA"}],"delay":-0.125,"raw":"Af8="}"#;
    assert_eq!(read[1], start);
    let nested: Value = serde_json::from_str(&read[3]).expect("JSON");
    assert_eq!((&nested["next"]["id"], &nested["next"]["next"]), (&nested["id"], &json!(7)));
    assert_eq!(serde_json::from_str::<Value>(&read[2]).expect("JSON")["next"], "text");

    let writing = writing(&spec);
    let written: Vec<_> = read.iter().map(|payload| write(&writing, payload).expect("a value")).collect();
    assert_eq!(written, theirs, "the same bytes, the schema's id with them");
    to_file(&written, &ours);
    client_of_python(&["avro", "read", &url, topic, &ours.display().to_string()]);
}

const AIR: &str = r#"syntax = "proto3";
package air;
import "geo/place.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
message Airline { string name = 1; }
message Flight {
  map<string, geo.Code> codes = 1;
  map<int32, Leg> legs = 2;
  message Leg {
    geo.Place to = 1;
    double miles = 2;
  }
  oneof onward {
    string text = 3;
    int64 number = 4;
    Flight flight = 5;
  }
  google.protobuf.Timestamp at = 6;
  google.protobuf.StringValue tail = 7;
  repeated sint64 delays = 8;
  bytes raw = 9;
  optional int32 gate = 10;
}
"#;
const PLACE: &str = r#"syntax = "proto3";
package geo;
enum Code { JFK = 0; LGA = 1; EWR = 2; }
message Place { Code code = 1; uint64 id = 2; }
"#;

/// What Protobuf's JSON has as text, where ours has numbers.
fn as_numbers(value: Value) -> Value {
    let wide = |name: &str| matches!(name, "number" | "delays" | "id");
    let number = |value: Value| match &value {
        Value::String(text) => text.parse::<serde_json::Number>().map_or(value, Value::Number),
        _ => value,
    };
    match value {
        Value::Object(all) => {
            let each = all.into_iter().map(|(name, value)| {
                let value = match value {
                    Value::Array(items) if wide(&name) => items.into_iter().map(number).collect(),
                    value if wide(&name) => number(value),
                    value => as_numbers(value),
                };
                (name, value)
            });
            Value::Object(each.collect())
        }
        Value::Array(items) => items.into_iter().map(as_numbers).collect(),
        value => value,
    }
}

#[test]
fn protobuf_of_confluents_client_and_ours() {
    let server = shared();
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir(path("geo")).expect("a folder");
    std::fs::write(path("geo/place.proto"), PLACE).expect("a file");
    std::fs::write(path("air.proto"), AIR).expect("a file");
    let set = protox::compile([path("air.proto")], [folder.path()]).expect("compiles");
    std::fs::write(path("air.desc"), set.encode_to_vec()).expect("a file");
    let url = server.url();
    let text = |name: &str| path(name).display().to_string();
    let flights = [
        r#"{}"#,
        r#"{"codes":{"a":"EWR","":"JFK"},"at":"2013-01-31T23:59:59.123456Z","tail":"","delays":[-1,9007199254740993],"raw":"AP8=","gate":0}"#,
        r#"{"legs":{"-5":{"to":{"code":"LGA","id":18446744073709551615},"miles":0.1}},"text":"é"}"#,
        r#"{"number":-9223372036854775808}"#,
        r#"{"flight":{"flight":{"number":1},"gate":7}}"#,
    ];
    let legs = [r#"{"to":{"id":3},"miles":-0.5}"#];
    let airlines = [r#"{"name":"UA"}"#];
    for (topic, message, given) in [
        ("pb-python", "air.Flight", &flights[..]),
        ("pb-python", "air.Airline", &airlines[..]),
        // The pairs of maps stand before it, and count in Python.
        ("pb-python", "air.Flight.Leg", &legs[..]),
    ] {
        std::fs::write(path("given"), given.join("\n") + "\n").expect("a file");
        let arguments = |way: &'static str, values: &str, payloads: &str| {
            ["protobuf", way, &url, topic, &text(values), &text("air.desc"), message, &text(payloads)]
                .map(str::to_owned)
        };
        let client_of = |arguments: [String; 8]| client_of_python(&arguments.each_ref().map(String::as_str));
        client_of(arguments("write", "theirs", "given"));
        let theirs = values(&path("theirs"));
        let settings =
            json!({ "message": message, "registry": { "url": url, "subject": "pb-python-value" } });
        let spec = spec("protobuf", settings);
        let same = |one: &str, other: &str| {
            let parse = |text: &str| as_numbers(serde_json::from_str(text).expect("JSON"));
            assert_eq!(parse(one), parse(other), "{message}");
        };
        let read = payloads(&reading(&spec), &theirs);
        assert_eq!(read.len(), given.len());
        read.iter().zip(given).for_each(|(read, given)| same(read, given));
        if message != "air.Flight.Leg" {
            let any = super::spec("protobuf", json!({ "registry": { "url": url } }));
            assert_eq!(payloads(&reading(&any), &theirs), read, "the indexes alone say which type it is");
        }

        let writing = writing(&spec);
        let (id, _) = run(client(&server).latest("pb-python-value")).expect("an answer").expect("a subject");
        let written: Vec<_> = read.iter().map(|payload| write(&writing, payload).expect("a value")).collect();
        for (ours, theirs) in written.iter().zip(&theirs) {
            assert_eq!(
                (&ours[..5], &ours[1..5]),
                (&theirs[..5], &id.to_be_bytes()[..]),
                "the same schema's id"
            );
        }
        to_file(&written, &path("ours"));
        client_of(arguments("read", "ours", "back"));
        let back = std::fs::read_to_string(path("back")).expect("what they read");
        assert_eq!(back.lines().count(), given.len());
        back.lines().zip(given).for_each(|(back, given)| same(back, given));
    }
}

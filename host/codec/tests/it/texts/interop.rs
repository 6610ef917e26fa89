//! CloudEvents between wasmill and the SDK of the CloudEvents project.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::support::*;
use crate::clients;

/// The SDK's answer.
fn sdk(command: &str, input: &str) -> Vec<Value> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut child = Command::new(clients::python())
        .arg(root.join("tests/clients/cloudevents_kafka.py"))
        .arg(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python starts");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success());
    let lines = String::from_utf8(output.stdout).expect("UTF-8");
    lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn record(line: &Value) -> Rec {
    let mut record = rec(STANDARD.decode(line["value"].as_str().expect("text")).expect("base64"));
    for (name, value) in line["headers"].as_object().expect("an object") {
        record = record.with(name, value.as_str().expect("text"));
    }
    match line["key"].as_str() {
        Some(key) => record.keyed(key),
        None => record,
    }
}

fn line(record: &Rec) -> Value {
    let header = |(name, value): &(String, Vec<u8>)| {
        (name.clone(), String::from_utf8(value.clone()).expect("UTF-8").into())
    };
    let headers: Map<_, _> = record.headers.iter().map(header).collect();
    let key = record.key.clone().map(|k| String::from_utf8(k).expect("UTF-8"));
    json!({ "headers": headers, "key": key, "value": STANDARD.encode(&record.value) })
}

#[test]
fn events_of_the_sdk_are_read_and_written_for_it() {
    let lines = sdk("write", "");
    let records: Vec<Rec> = lines.iter().map(record).collect();
    let expected = [
        r#"1 departed 1359658799123 json {"delay": 1.5, "tail": "N1\u00e9"} [datacontenttype=application/json source=/flights]"#,
        "1 departed 1359658799123  [dataschema=https://schemas.example/1 extone=a %20 é source=/flights subject=UA 1]",
        "1 departed 1359658799123 lines\nof text [datacontenttype=text/plain partitionkey=k-1 source=/flights]",
        "1 departed 1359658799123 \0\u{fffd}\u{fffd} [datacontenttype=application/octet-stream source=/flights]",
    ];
    assert_eq!(records.len(), expected.len() * 2);
    let read = reading(json!("cloudevents"));
    let mut written = String::new();
    for (at, record) in records.iter().enumerate() {
        let frame = decode(&read, record).unwrap_or_else(|e| panic!("{record:?}: {e}"));
        let message = frame.get(0);
        let key = expected[at / 2].contains("k-1").then_some(&b"k-1"[..]);
        assert_eq!(message.key(), key);
        let text = shown(message);
        let (head, metadata) = text.rsplit_once(" [").expect("metadata");
        let (expected_head, expected_metadata) = expected[at / 2].rsplit_once(" [").expect("metadata");
        assert_eq!(head, expected_head);
        for entry in expected_metadata.trim_end_matches(']').split(' ') {
            assert!(metadata.contains(entry), "{metadata} has no {entry}");
        }
        for mode in ["binary", "structured"] {
            let writing = writing(json!({ "cloudevents": { "mode": mode } }));
            let back = encode(&writing, &frame).expect("an event");
            written += &format!("{}\n", line(&back));
        }
    }
    // The SDK reads of what wasmill wrote what it reads of its own.
    let own: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let own = sdk("read", &own);
    let ours = sdk("read", &written);
    assert_eq!(ours.len(), own.len() * 2);
    for (at, event) in ours.iter().enumerate() {
        let (from, to_structured) = (at / 2, at % 2);
        // What mode an event came in makes no difference; the SDK's reader itself has one for the data.
        let same_mode = &own[from / 2 * 2 + to_structured];
        assert_eq!(event["attributes"], same_mode["attributes"], "{at}");
        assert_eq!(event["data"], same_mode["data"], "{at}");
    }
}

//! Protocol Buffers and MessagePack with Python's own implementations, both ways: files that wasmill writes are read
//! and written again there, then read here.

use std::path::{Path, PathBuf};
use std::process::Command;

use prost_reflect::prost::Message as _;
use serde_json::{Value, json};
use wasmill_codec::framing::Place;
use wasmill_codec::messagepack::MessagePackSettings;
use wasmill_codec::protobuf::ProtobufSettings;
use wasmill_codec::{CodecSettings, Reading, Takes, Writing};
use wasmill_engine::input::RawBatch;
use wasmill_engine::output::EncodedBatch;
use wasmill_engine::position::PartitionId;
use wasmill_frame::{FrameBuf, Parts};

use crate::clients;

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn python(arguments: &[&Path], command: &str, more: &[&str]) {
    let script = root().join("tests/clients/codecs.py");
    let mut run = Command::new(clients::python());
    run.arg(script).arg(command);
    // The descriptors go before the message's name.
    let (first, rest) = arguments.split_at(more.len());
    let output = run.args(first).args(more).args(rest).output().expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("wasmill-codec-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn stream(writing: &Writing, payloads: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut joiner = writing.framing.joiner();
    out.extend(joiner.head());
    for payload in payloads {
        let mut frame = FrameBuf::default();
        frame.push(&Parts {
            id: "1",
            kind: "t",
            key: None,
            payload: payload.as_bytes(),
            timestamp: 0,
            metadata: b"",
            payload_is_json: true,
        });
        let mut into = EncodedBatch::default();
        let record = writing.writer.write(frame.get(0), Takes::default(), &mut into).expect(payload);
        joiner.push(&into.data[record.value], &mut out);
    }
    joiner.finish(&mut out);
    out
}

fn payloads(reading: &Reading, stream: Vec<u8>) -> Vec<String> {
    let mut cutter = reading.framing.cutter(Place::START, 1 << 20);
    let mut batch = RawBatch::new(PartitionId { source: 0, partition: 0 });
    cutter.feed(stream);
    cutter.take(&mut batch, 1000, 1 << 20);
    cutter.end(&mut batch);
    let mut frame = FrameBuf::default();
    for record in &batch.records {
        assert_eq!(record.rejected, None);
        reading.decoder.decode(record, &batch, &mut frame).expect("a message");
    }
    (0..frame.len()).map(|n| String::from_utf8(frame.get(n).payload().to_vec()).expect("UTF-8")).collect()
}

/// Protobuf's JSON has integers of 64 bits as text: the documented difference.
fn as_python(value: &Value, name: &str) -> Value {
    let wide = ["f_int64", "f_uint64", "f_sint64", "f_fixed64", "f_sfixed64", "packed", "number", "w_int64"];
    match value {
        Value::Number(n) if wide.contains(&name) => json!(n.to_string()),
        Value::Array(all) => all.iter().map(|v| as_python(v, name)).collect(),
        Value::Object(all) => {
            Value::Object(all.iter().map(|(name, v)| (name.clone(), as_python(v, name))).collect())
        }
        other => other.clone(),
    }
}

fn protobuf(message: &str, file: &str, all: &[&str]) {
    let proto = root().join("host/codec/tests/protobuf").join(file);
    let folder = folder(message);
    let [descriptors, ours, theirs, text] =
        ["set.desc", "ours.pb", "theirs.pb", "text.jsonl"].map(|name| folder.join(name));
    let set = protox::compile([&proto], [proto.parent().expect("a folder")]).expect("compiles");
    std::fs::write(&descriptors, set.encode_to_vec()).expect("written");
    let settings = ProtobufSettings {
        descriptor_file: Some(descriptors.clone()),
        message: Some(message.into()),
        ..Default::default()
    };
    let reading = wait(settings.reading("t")).expect("reads");
    std::fs::write(&ours, stream(&wait(settings.writing("t")).expect("writes"), all)).expect("written");
    python(&[&descriptors, &ours, &theirs, &text], "protobuf", &[message]);

    let text = std::fs::read_to_string(&text).expect("read");
    let seen: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let given: Vec<Value> = all.iter().map(|p| serde_json::from_str(p).expect("JSON")).collect();
    assert_eq!(seen.len(), given.len());
    for (seen, given) in seen.iter().zip(&given) {
        assert_eq!(seen, &as_python(given, ""));
    }
    let back = payloads(&reading, std::fs::read(&theirs).expect("read"));
    assert_eq!(back.len(), given.len());
    for (back, given) in back.iter().zip(&given) {
        assert_eq!(&serde_json::from_str::<Value>(back).expect("JSON"), given);
    }
    std::fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn pythons_protobuf_reads_and_writes_the_same() {
    protobuf(
        "flights.Flight",
        "flights.proto",
        &[
            "{}",
            r#"{"f_double":1.5,"f_float":0.25,"f_int32":-1,"f_int64":-9223372036854775808,"f_uint32":4294967295,"f_uint64":18446744073709551615,"f_sint32":-2147483648,"f_sint64":-9223372036854775808,"f_fixed32":4294967295,"f_fixed64":18446744073709551615,"f_sfixed32":-1,"f_sfixed64":-1,"f_bool":true,"f_string":"é\"\n","f_bytes":"AP8=","kind":"BELOW"}"#,
            r#"{"f_double":"NaN","f_float":"-Infinity","kind":7,"maybe":0,"packed":[0,-1,9007199254740993],"loose":[-1,0,1],"texts":["","a"]}"#,
            r#"{"legs":{"a":{"from":"JFK","miles":3},"":{}},"flags":{"-1":true,"5":false},"kinds":{"true":"ARRIVAL","false":9},"name":""}"#,
            r#"{"leg":{"stops":[{"at":"X"},{}]},"doubles":[1.5,"Infinity"],"many_kinds":["ARRIVAL",5],"inner":{"inner":{"f_int32":1}},"others":[{},{"f_bool":true}]}"#,
            r#"{"nothing":null,"at":"2013-01-31T23:59:59.123456789Z","took":"-1.500s","free":{"a":[1.0,null,"x",{"b":true}]},"anything":null,"list":[[],{}]}"#,
            r#"{"mask":"a.bC,dE","w_int64":9007199254740993,"w_string":"","w_bool":false,"w_double":0.0,"w_bytes":"","number":5}"#,
            r#"{"any":{"@type":"type.googleapis.com/flights.Leg","from":"A","stops":[{"at":"B"}]},"empty":{}}"#,
            r#"{"any":{"@type":"type.googleapis.com/google.protobuf.Duration","value":"0.000001s"}}"#,
            r#"{"times":["0001-01-01T00:00:00Z","9999-12-31T23:59:59.999999999Z"],"values":{"a":null,"b":false},"display_name":"n"}"#,
        ],
    );
    protobuf(
        "old.Order",
        "old.proto",
        &[
            r#"{"id":0}"#,
            r#"{"id":1,"name":"","closed":"TWO","box":{"width":0,"part":[{"what":"a"},{}]},"numbers":[1,0],"raw":""}"#,
            r#"{"id":1,"[old.note]":"n","[old.marks]":[1,2]}"#,
        ],
    );
}

#[test]
fn pythons_msgpack_reads_and_writes_the_same() {
    let folder = folder("messagepack");
    let [ours, theirs, text] = ["ours", "theirs", "text"].map(|name| folder.join(name));
    let long = format!(r#"{{"text":"{}","list":[{}1]}}"#, "x".repeat(70_000), "1,".repeat(70_000));
    let all = [
        r#"{"a":[0,127,128,255,256,65535,65536,4294967295,4294967296,18446744073709551615]}"#,
        r#"[-1,-32,-33,-128,-129,-32768,-32769,-2147483648,-2147483649,-9223372036854775808]"#,
        r#"[1.5,-0.0,1e300,1.0,null,true,false,"","é",{},[]]"#,
        r#"{"a":{"b":{"c":[{"d":"0123456789012345678901234567890123456789"}]}}}"#,
        &long,
    ];
    let settings = MessagePackSettings::default();
    std::fs::write(&ours, stream(&wait(settings.writing("t")).expect("writes"), &all)).expect("written");
    python(&[&ours, &theirs, &text], "messagepack", &[]);
    assert_eq!(std::fs::read(&ours).expect("read"), std::fs::read(&theirs).expect("read"), "the same bytes");
    let text = std::fs::read_to_string(&text).expect("read");
    let back = payloads(&wait(settings.reading("t")).expect("reads"), std::fs::read(&theirs).expect("read"));
    assert_eq!((text.lines().count(), back.len()), (all.len(), all.len()));
    for ((seen, back), given) in text.lines().zip(&back).zip(all) {
        let given: Value = serde_json::from_str(given).expect("JSON");
        assert_eq!(serde_json::from_str::<Value>(seen).expect("JSON"), given);
        assert_eq!(serde_json::from_str::<Value>(back).expect("JSON"), given);
    }
    std::fs::remove_dir_all(folder).expect("removed");
}

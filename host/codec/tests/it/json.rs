//! The JSON envelope, from its lines and back.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use wasmill_codec::json::{JsonDecoder, JsonEncoder};
use wasmill_engine::input::{Decoder, RawBatch, RawRecord};
use wasmill_engine::output::{EncodedBatch, Encoder, OutputId};
use wasmill_engine::position::PartitionId;
use wasmill_engine::time::TIMESTAMP_NONE;
use wasmill_frame::{FrameBuf, MetaKind, Parts};

fn decode(line: &[u8]) -> Result<FrameBuf, String> {
    let mut frame = FrameBuf::default();
    let batch = RawBatch::of_value(line);
    JsonDecoder.decode(&batch.records[0], &batch, &mut frame)?;
    Ok(frame)
}

fn encode(frame: &FrameBuf) -> Result<String, String> {
    let id = OutputId::Message {
        partition: PartitionId { source: 0, partition: 0 },
        offset: 0,
        index: 0,
        emit: 0,
        left_at: "",
    };
    let mut batch = EncodedBatch::default();
    JsonEncoder.encode(frame.get(0), &id, &mut batch)?;
    let value = batch.records[0].value.clone();
    Ok(String::from_utf8(batch.data[value].to_vec()).expect("UTF-8"))
}

#[test]
fn what_nobody_changed_leaves_to_the_letter() {
    for line in [
        r#"{"id":"1","type":"order","payload":{"a": [1.0, 2e5,0.10],"a":"\u00e9\/"},"timestamp":1700000000000,"metadata":{}}"#,
        r#"{"id":7,"type":"order","payload":null,"timestamp":"2013-01-31T18:59:59.123456-05:00","metadata":{"k":"v","n":1.50}}"#,
        r#"{"id":-12345678901234567890.5e1,"type":"","payload":"text","metadata":{"a":{"b":[]}},"trace":{"x":1},"trace":2,"tags":[ 1 ]}"#,
        r#"{"id":"\"\\\n","type":"é\u0001","payload":0,"timestamp":0,"metadata":{"\"":"\t"},"\"":true}"#,
    ] {
        let frame = decode(line.as_bytes()).expect(line);
        assert_eq!(encode(&frame).expect(line), line);
    }
}

#[test]
fn fields_in_any_order_and_blanks_are_read() {
    let line = b"  { \"metadata\":null, \"payload\" : {\"a\":\r\n1} ,\n\"timestamp\":null, \"type\":\"t\",\"id\":\"1\" } \r";
    let frame = decode(line).expect("a message");
    assert_eq!(encode(&frame).expect("a line"), r#"{"id":"1","type":"t","payload":{"a":  1},"metadata":{}}"#);
    assert_eq!(frame.get(0).timestamp(), TIMESTAMP_NONE);
}

#[test]
fn the_last_of_repeated_names_counts() {
    let line = br#"{"id":"1","id":"2","type":"a","type":"b","payload":1,"payload":2,"metadata":{"a":"1"},"metadata":{"x":"1","y":"2","x":"3"}}"#;
    let frame = decode(line).expect("a message");
    let expected = r#"{"id":"2","type":"b","payload":2,"metadata":{"y":"2","x":"3"}}"#;
    assert_eq!(encode(&frame).expect("a line"), expected);

    let many: Vec<String> = (0..100).map(|i| format!(r#""n{}":"{i}""#, i % 50)).collect();
    let line = format!(r#"{{"id":"1","type":"t","metadata":{{{}}}}}"#, many.join(","));
    let frame = decode(line.as_bytes()).expect("a message");
    assert_eq!(frame.get(0).metadata().entries().count(), 50);
    assert_eq!(frame.get(0).metadata().get("n0").expect("n0").value, b"50");
}

#[test]
fn the_append_time_stands_in_where_there_is_no_timestamp() {
    for (appended, line, expected) in [
        (Some(5), r#"{"id":"1","type":"t"}"#, 5),
        (Some(5), r#"{"id":"1","type":"t","timestamp":9}"#, 9),
        (Some(-1), r#"{"id":"1","type":"t"}"#, TIMESTAMP_NONE),
        (None, r#"{"id":"1","type":"t"}"#, TIMESTAMP_NONE),
    ] {
        let mut frame = FrameBuf::default();
        let data = format!("{line}k").into_bytes();
        let record = RawRecord {
            value: 0..line.len(),
            key: Some(line.len()..data.len()),
            time_ms: appended,
            ..RawRecord::default()
        };
        let batch = RawBatch { data, ..RawBatch::of_value(b"") };
        JsonDecoder.decode(&record, &batch, &mut frame).expect(line);
        assert_eq!(frame.get(0).timestamp(), expected);
        assert_eq!(frame.get(0).key(), Some(&b"k"[..]));
    }
}

#[test]
fn a_changed_timestamp_keeps_its_form() {
    let text = br#"{"id":"1","type":"t","payload":1,"timestamp":"2013-01-31T18:59:59-05:00"}"#;
    let number = br#"{"id":"1","type":"t","payload":1,"timestamp":5}"#;
    for (line, kept, expected) in [
        (&text[..], Some("2013-01-31T18:59:59-05:00"), r#""2013-01-31T23:59:59.007Z""#),
        (&text[..], Some(""), r#""2013-01-31T23:59:59.007Z""#),
        (&text[..], None, "1359676799007"),
        (&number[..], None, "1359676799007"),
    ] {
        let mut frame = decode(line).expect("a message");
        frame.set_timestamp(0, 1_359_676_799_007, kept);
        let line = encode(&frame).expect("a line");
        assert!(line.contains(&format!(r#""timestamp":{expected},"#)), "{line}");
    }
}

#[test]
fn a_changed_id_that_came_as_a_number_leaves_as_text() {
    let mut frame = decode(br#"{"id":7,"type":"t","payload":1}"#).expect("a message");
    assert_eq!(frame.get(0).id(), "7");
    frame.set_id(0, "8");
    assert_eq!(encode(&frame).expect("a line"), r#"{"id":"8","type":"t","payload":1,"metadata":{}}"#);
}

#[test]
fn payloads_of_plugins_become_json() {
    for (payload, expected) in [
        (&b"{\"a\":\n1}"[..], Ok("{\"a\": 1}")),
        (b"plain \"text\"\n", Ok(r#""plain \"text\"\n""#)),
        (b"", Ok(r#""""#)),
        (b"12", Ok("12")),
        (
            b"\xff\xfe",
            Err(
                "payload is neither JSON nor UTF-8 text (invalid byte at 0), so a JSON envelope can't hold it",
            ),
        ),
    ] {
        let mut frame = decode(br#"{"id":"1","type":"t"}"#).expect("a message");
        frame.set_payload(0, payload, false);
        let line = |payload: &str| format!(r#"{{"id":"1","type":"t","payload":{payload},"metadata":{{}}}}"#);
        assert_eq!(encode(&frame), expected.map(line).map_err(str::to_owned));
    }
    let mut frame = decode(br#"{"id":"1","type":"t"}"#).expect("a message");
    frame.set_metadata(0, MetaKind::Json, "m", b"{oops");
    assert_eq!(encode(&frame), Err("metadata `m` is marked as JSON but is not; set it as text".into()));
}

#[test]
fn a_refused_message_leaves_no_bytes_behind() {
    let id = OutputId::Message {
        partition: PartitionId { source: 0, partition: 0 },
        offset: 0,
        index: 0,
        emit: 0,
        left_at: "",
    };
    let mut frame = FrameBuf::default();
    let parts = Parts {
        id: "1",
        kind: "t",
        key: Some(b"k"),
        payload: b"\xff",
        timestamp: 1,
        metadata: b"",
        payload_is_json: false,
    };
    frame.push(&parts);
    frame.push(&Parts { payload: b"1", ..parts });
    let mut batch = EncodedBatch::default();
    assert!(JsonEncoder.encode(frame.get(0), &id, &mut batch).is_err());
    assert_eq!(batch, EncodedBatch::default());
    JsonEncoder.encode(frame.get(1), &id, &mut batch).expect("the next one");
    assert_eq!(batch.records[0].key.clone().map(|k| &batch.data[k]), Some(&b"k"[..]));
    assert_eq!(batch.records[0].timestamp, Some(1));
}

#[test]
fn says_what_is_wrong_and_where() {
    let long = format!(r#"{{"id":"1","type":"t","{}":1}}"#, "x".repeat(70_000));
    let cases: &[(&[u8], &str)] = &[
        (b"", "empty: expected a JSON object, one message a line"),
        (b"  \r", "empty: expected a JSON object, one message a line"),
        (b"[1]", r#"an array: expected a JSON object such as {"id":"1","type":"order","payload":{}}"#),
        (b"12", r#"a number: expected a JSON object such as {"id":"1","type":"order","payload":{}}"#),
        (b"\"x\"", r#"text: expected a JSON object such as {"id":"1","type":"order","payload":{}}"#),
        (b"id=1", r#"not JSON: expected a JSON object such as {"id":"1","type":"order","payload":{}}"#),
        (b"{\"id\":\"\xff\"}", "not UTF-8: invalid byte at 7; a message is JSON text"),
        (b"{", "broken JSON: cut off at column 1 (EOF while parsing an object)"),
        (br#"{"id":"1","type":"t""#, "broken JSON: cut off at column 20 (EOF while parsing an object)"),
        (br#"{"id":"1" "type":"t"}"#, "broken JSON at column 11: expected `,` or `}`"),
        (br#"{"id":'1'}"#, "broken JSON at column 7: expected value"),
        (br#"{"id":01}"#, "broken JSON at column 8: invalid number"),
        (br#"{id:1}"#, "broken JSON at column 2: key must be a string"),
        (
            b"{\"id\":\"a\tb\"}",
            "broken JSON at column 8: control character (\\u0000-\\u001F) found while parsing a string",
        ),
        (br#"{"id":"1","type":"t","payload":{"a":}}"#, "broken JSON at column 37: expected value"),
        (
            br#"{"id":"1","type":"t"} {"id":"2","type":"t"}"#,
            "broken JSON at column 23: something follows the message's closing brace; one message a line",
        ),
        (b"{\"id\":\"1\",\n\"type\" 5}", "broken JSON at line 2, column 8: expected `:`"),
        (br#"{"type":"t"}"#, "no `id`: a message needs one, text or a number"),
        (br#"{"id":null,"type":"t"}"#, "`id` is null: expected text or a number"),
        (br#"{"id":[1],"type":"t"}"#, "`id` is an array: expected text or a number"),
        (br#"{"id":"\ud800","type":"t"}"#, "`id` is not well-formed text: unexpected end of hex escape"),
        (br#"{"id":"1"}"#, "no `type`: a message needs one, as text"),
        (br#"{"id":"1","type":5}"#, "`type` is a number: expected text"),
        (
            br#"{"id":"1","type":"t","timestamp":true}"#,
            "`timestamp` is true or false: expected RFC 3339 text or integer milliseconds",
        ),
        (
            br#"{"id":"1","type":"t","timestamp":1.5e3}"#,
            "timestamp 1.5e3 is not an integer: expected whole milliseconds since 1970",
        ),
        (
            br#"{"id":"1","type":"t","timestamp":-1}"#,
            "timestamp -1 is out of range (0 to 253402300799999 milliseconds, years 1970 to 9999)",
        ),
        (
            br#"{"id":"1","type":"t","timestamp":99999999999999999999}"#,
            "timestamp 99999999999999999999 is out of range (0 to 253402300799999 milliseconds, years 1970 to 9999)",
        ),
        (
            br#"{"id":"1","type":"t","timestamp":"noon"}"#,
            "timestamp `noon` is not RFC 3339, such as 2013-01-31T23:59:59Z, or integer milliseconds",
        ),
        (
            br#"{"id":"1","type":"t","timestamp":"1969-12-31T23:59:59Z"}"#,
            "timestamp `1969-12-31T23:59:59Z` is out of range (1970-01-01T00:00:00Z to 9999-12-31T23:59:59.999Z)",
        ),
        (br#"{"id":"1","type":"t","metadata":[]}"#, "`metadata` is an array: expected an object"),
        (
            br#"{"id":"1","type":"t","metadata":{"a":"\ud800"}}"#,
            "`metadata`: `a` is not well-formed text: unexpected end of hex escape",
        ),
        (long.as_bytes(), "a name of 70000 bytes is above the limit of 65535, at column 70026"),
    ];
    for (line, expected) in cases {
        let shown = String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned();
        let batch = RawBatch::of_value(line);
        let mut frame = FrameBuf::default();
        let error = JsonDecoder.decode(&batch.records[0], &batch, &mut frame).expect_err(&shown);
        assert_eq!(error, *expected, "{shown}");
        assert!(frame.is_empty(), "{shown} left something in the frame");
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(any::<String>(), inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

proptest! {
    #[test]
    fn a_message_survives_the_way_there_and_back(
        id in any::<String>(),
        kind in any::<String>(),
        payload in value(),
        timestamp in prop::option::of(0i64..253_402_300_799_999),
        as_text in any::<bool>(),
        metadata in prop::collection::hash_map(any::<String>(), value(), 0..4),
        extra in prop::collection::hash_map("x[a-z\\\\\"é]{1,5}", value(), 0..3),
        pretty in any::<bool>(),
    ) {
        let mut envelope = json!({ "id": id, "type": kind, "payload": payload });
        if let Some(t) = timestamp {
            let text = wasmill_codec::rfc3339::format(t);
            envelope["timestamp"] = if as_text { text.into() } else { t.into() };
        }
        envelope["metadata"] = Value::Object(metadata.into_iter().collect());
        for (name, value) in extra {
            envelope[name] = value;
        }
        let line = if pretty { serde_json::to_vec_pretty(&envelope) } else { serde_json::to_vec(&envelope) };
        let line = line.expect("JSON");
        let frame = decode(&line).expect("a message");
        prop_assert_eq!(frame.get(0).timestamp(), timestamp.unwrap_or(TIMESTAMP_NONE));
        prop_assert_eq!(frame.get(0).id(), &id);
        let out = encode(&frame).expect("a line");
        prop_assert!(!out.contains(['\n', '\r']));
        // Read back both: serde_json's floats are not exact on the way in.
        let read = |text: &[u8]| serde_json::from_slice::<Value>(text).expect("JSON");
        prop_assert_eq!(read(out.as_bytes()), read(&line));
        if !pretty {
            prop_assert_eq!(out.as_bytes(), &line[..]);
        }
    }

    #[test]
    fn strange_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in any::<prop::sample::Index>()) {
        let _ = decode(&bytes);
        let line = br#"{"id":7,"type":"order","payload":{"a":[1]},"timestamp":"2013-01-31T18:59:59Z","metadata":{"k":"v"}}"#;
        let mut broken = line.to_vec();
        let at = cut.index(line.len());
        for (i, b) in bytes.iter().take(3).enumerate() {
            if let Some(slot) = broken.get_mut(at + i) { *slot = *b; }
        }
        if let Ok(frame) = decode(&broken) {
            let out = encode(&frame).expect("what was decoded is encoded");
            decode(out.as_bytes()).expect("what was encoded is decoded");
        }
    }
}

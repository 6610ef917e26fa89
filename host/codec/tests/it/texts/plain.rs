//! `json_body`, `raw`, `text`: the payload alone.

use proptest::prelude::*;
use serde_json::{Value, json};
use wasmill_codec::Takes;
use wasmill_engine::position::PartitionId;

use super::support::*;

#[test]
fn a_body_is_the_payload_to_the_letter() {
    let body = reading(json!("json_body"));
    for (value, payload) in [
        (r#"{"b": 1.50, "a":"\u00e9"}"#, r#"{"b": 1.50, "a":"\u00e9"}"#),
        (" [1,\n2]\r\n", "[1,\n2]"),
        ("12345678901234567890.10", "12345678901234567890.10"),
        ("null", "null"),
    ] {
        let frame = decode(&body, &rec(value)).expect(value);
        assert_eq!(
            shown(frame.get(0)),
            format!("{}:0 message {} json {payload} []", PartitionId { source: 0, partition: 0 }, i64::MIN)
        );
        let back = encode(&writing(json!("json_body")), &frame).expect(value);
        assert_eq!(String::from_utf8(back.value).expect("UTF-8"), payload.replace('\n', " "));
    }
}

#[test]
fn what_is_around_a_body_is_in_headers() {
    for codec in ["json_body", "raw", "text"] {
        let settings = json!({ codec: { "type": "order", "headers": { "id": "key-id" } } });
        let sent = rec("7")
            .keyed("k")
            .with("key-id", "a1")
            .with("timestamp", "2013-01-31T18:59:59-05:00")
            .with("trace", "é");
        let frame = decode(&reading(settings.clone()), &sent).expect(codec);
        let json = if codec == "json_body" { "json " } else { "" };
        assert_eq!(shown(frame.get(0)), format!("a1 order 1359676799000 {json}7 [trace=é]"));
        let back = encode(&writing(settings), &frame).expect(codec);
        let expected = rec("7")
            .keyed("k")
            .with("key-id", "a1")
            .with("type", "order")
            .with("timestamp", "2013-01-31T18:59:59-05:00")
            .with("trace", "é");
        assert_eq!(back, expected, "{codec}");
    }
}

#[test]
fn of_headers_that_come_again_the_last_counts_however_many_there_are() {
    for others in [0, 100] {
        let others = (0..others).map(|n| (format!("h{n}"), vec![b'x']));
        let mut sent = rec("7").with("id", "a1").with("a", "1");
        sent.headers.extend(others.clone());
        let sent = sent.with("id", "a2").with("a", "2");
        let frame = decode(&reading(json!("raw")), &sent).expect("a message");
        let rest: String = others.map(|(name, _)| format!("{name}=x ")).collect();
        assert_eq!(
            shown(frame.get(0)).replace(&i64::MIN.to_string(), "-"),
            format!("a2 message - 7 [{rest}a=2]")
        );
        let back = encode(&writing(json!("raw")), &frame).expect("a record");
        let earlier = |name: &str, value: &[u8]| back.headers.contains(&(name.to_owned(), value.to_vec()));
        assert!(earlier("id", b"a1") && earlier("a", b"1"), "what stood earlier travels along: {back:?}");
    }
}

#[test]
fn a_header_whose_name_is_too_long_to_be_kept_is_told() {
    let name = "n".repeat(65_536);
    let reason = "a header whose name has 65536 bytes, above the limit of 65535";
    for codec in ["json_body", "raw", "text"] {
        assert_eq!(refused(&reading(json!(codec)), &rec("7"), &rec("7").with(&name, "x")), reason, "{codec}");
        assert!(decode(&reading(json!(codec)), &rec("7").with(&name[1..], "x")).is_ok(), "{codec}");
    }
    let envelope = rec(r#"{"id":"1","type":"t"}"#);
    let bad = envelope.clone().with(&name, "x");
    assert_eq!(refused(&reading(json!("json")), &envelope, &bad), reason);
    let event = rec(r#"{"specversion":"1.0","id":"1","source":"/a","type":"t"}"#);
    assert_eq!(refused(&reading(json!("cloudevents")), &event, &event.clone().with(&name, "x")), reason);
}

#[test]
fn what_is_no_json_is_told_with_its_place() {
    let body = reading(json!("json_body"));
    for (value, reason) in [
        (&b""[..], "empty: expected one JSON value"),
        (b" \n", "empty: expected one JSON value"),
        (b"{\"a\":\xff}", "not UTF-8: invalid byte at 5; a payload is JSON text"),
        (b"{\"a\":1", "broken JSON: cut off at column 6 (EOF while parsing an object)"),
        (b"[1,]", "broken JSON at column 4: expected value"),
        (b"{} {}", "broken JSON at column 4: something follows the value; one value a message"),
        (b"01", "broken JSON at column 2: invalid number"),
        (b"{'a':1}", "broken JSON at column 2: key must be a string"),
        (b"tru", "broken JSON: cut off at column 3 (EOF while parsing a value)"),
        (b"[\n1 2]", "broken JSON at line 2, column 3: expected `,` or `]`"),
    ] {
        assert_eq!(refused(&body, &rec("{}"), &rec(value)), reason);
    }
    // Every cut of a good one.
    let good = br#"{"a":[1.5e3,"\u00e9",true,null,{"b":{}}],"c":"text"}"#;
    for at in 0..good.len() {
        refused(&body, &rec("{}"), &rec(&good[..at]));
    }
    // Every byte of it changed to one that may stand nowhere in JSON.
    for at in 0..good.len() {
        let mut bad = good.to_vec();
        bad[at] = 0x01;
        refused(&body, &rec("{}"), &rec(bad));
    }
}

#[test]
fn what_is_no_text_is_told_with_the_byte() {
    let text = reading(json!("text"));
    let good = "naïve text of 漢字";
    assert_eq!(
        refused(&text, &rec(good), &rec(b"ab\xfe")),
        "the value is not UTF-8 text: byte 2 is 0xfe; use the codec `raw` for bytes of any kind"
    );
    for at in 0..good.len() {
        for byte in [0xc0, 0xf5, 0xfe, 0xff] {
            let mut bad = good.as_bytes().to_vec();
            bad[at] = byte;
            refused(&text, &rec(good), &rec(bad));
        }
    }
    let frame = decode(&reading(json!("raw")), &rec(b"\xfe")).expect("bytes");
    let why = encode(&writing(json!("text")), &frame).expect_err("no text");
    assert_eq!(
        why,
        "the payload is not UTF-8 text: byte 0 is 0xfe; use the codec `raw` for bytes of any kind"
    );
    let why = encode(&writing(json!("json_body")), &frame).expect_err("no text");
    assert_eq!(
        why,
        "payload is neither JSON nor UTF-8 text (invalid byte at 0), so a JSON value can't hold it"
    );
}

#[test]
fn settings_that_nobody_knows_are_refused() {
    for codec in ["json_body", "raw", "text", "csv", "cloudevents"] {
        let bad = serde_json::from_value::<wasmill_codec::CodecSpec>(json!({ codec: { "tipe": "x" } }));
        assert!(bad.expect_err(codec).to_string().contains("unknown field `tipe`"));
        // What is written of the settings is read again.
        let spec = spec(&json!({ codec: {} }));
        let again = serde_json::from_value(serde_json::to_value(&spec).expect("JSON")).expect(codec);
        assert_eq!(spec, again);
    }
}

proptest! {
    #[test]
    fn any_payload_comes_back(
        bytes in prop::collection::vec(any::<u8>(), 0..60),
        text in any::<String>(),
        number in any::<f64>().prop_filter("finite", |f| f.is_finite()),
        headers in prop::collection::btree_map("[a-z]{1,6}", any::<String>(), 0..4),
    ) {
        let value = json!({ "text": &text, "n": [number] }).to_string();
        for (codec, value) in [("raw", bytes), ("text", text.clone().into_bytes()), ("json_body", value.into_bytes())] {
            let mut sent = rec(&value).with("id", "1").with("type", &text);
            for (name, value) in headers.iter().filter(|(n, _)| !["id", "type", "timestamp"].contains(&n.as_str())) {
                sent = sent.with(name, value);
            }
            let frame = decode(&reading(json!(codec)), &sent).expect(codec);
            prop_assert_eq!(frame.get(0).payload(), &value[..]);
            let back = encode(&writing(json!(codec)), &frame).expect(codec);
            prop_assert_eq!(&back, &sent);
            let plain = encode_for(&writing(json!(codec)), frame.get(0), Takes::default()).expect(codec);
            prop_assert_eq!(plain.headers.len(), 0);
        }
        let read: Value = serde_json::from_slice(decode(&reading(json!("json_body")), &rec(json!(&text).to_string())).expect("text").get(0).payload()).expect("JSON");
        prop_assert_eq!(read, json!(text));
    }
}

#[test]
fn reasons_are_short_however_long_what_is_wrong() {
    let long = "é".repeat(500_000);
    let event = |more: &str| {
        rec(format!(r#"{{"specversion":"1.0","id":"1","type":"t","source":"/s",{more}}}"#).as_bytes())
    };
    let good = event(r#""data":1"#);
    let events = reading(json!("cloudevents"));
    for bad in [
        event(&format!(r#""{long}":1"#)),
        event(&format!(r#""a":{}"#, "1".repeat(1_000_000))),
        event(&format!(r#""time":"{long}""#)),
        event(&format!(r#""subject":["{long}"]"#)),
        rec(format!(r#"{{"specversion":"{long}","id":"1","type":"t","source":"/s"}}"#).as_bytes()),
    ] {
        let why = refused(&events, &good, &bad);
        assert!(why.len() <= 2048, "{} bytes: {}", why.len(), &why[..100]);
    }
    let timed = rec("{}").with("timestamp", &long);
    let why = refused(&reading(json!("json_body")), &rec("{}"), &timed);
    assert!(why.len() <= 2048 && why.contains('…'), "{why}");
    // Of a schema with long names, which are in each of its reasons.
    let name = "n".repeat(1_000_000);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("s.avsc");
    let schema = json!({ "type": "record", "name": name, "fields": [{ "name": "a", "type": { "type": "enum", "name": name.replace('n', "m"), "symbols": ["x"] } }] });
    std::fs::write(&file, schema.to_string()).expect("a file");
    let writing = writing(json!({ "avro": { "schema_file": file } }));
    for payload in [r#"{"a":"y"}"#.to_owned(), format!(r#"{{"a":"x","{long}":1}}"#), r#"{}"#.to_owned()] {
        let mut frame = decode(&reading(json!("json_body")), &rec("{}")).expect("a message");
        frame.set_payload(0, payload.as_bytes(), true);
        let why = encode(&writing, &frame).expect_err("refused");
        assert!(why.len() <= 2048, "{} bytes", why.len());
    }
}

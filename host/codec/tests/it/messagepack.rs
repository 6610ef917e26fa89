//! MessagePack, from bodies and back.

use proptest::prelude::*;
use serde_json::Value;
use wasmill_codec::messagepack::MessagePackSettings;
use wasmill_codec::number::Numbers;
use wasmill_codec::{CodecSettings, CodecSpec, HeaderNames, Takes};
use wasmill_engine::input::{RawBatch, RawRecord};
use wasmill_engine::output::EncodedBatch;
use wasmill_frame::{FrameBuf, Parts};

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

fn frame(settings: &MessagePackSettings, body: &[u8]) -> Result<FrameBuf, String> {
    let decoder = wait(settings.reading("topic")).expect("reads").decoder;
    let mut frame = FrameBuf::default();
    let batch = RawBatch::of_value(body);
    let result = decoder.decode(&batch.records[0], &batch, &mut frame);
    assert_eq!(frame.len(), usize::from(result.is_ok()), "one message, or none and a reason");
    result.map(|()| frame)
}

fn json(body: &[u8]) -> Result<String, String> {
    let frame = frame(&MessagePackSettings::default(), body)?;
    assert!(frame.get(0).payload_is_json());
    Ok(String::from_utf8(frame.get(0).payload().to_vec()).expect("UTF-8"))
}

fn write(settings: &MessagePackSettings, frame: &FrameBuf) -> Result<Vec<u8>, String> {
    let writer = wait(settings.writing("topic")).expect("writes").writer;
    let mut into = EncodedBatch { data: b"before".to_vec(), ..EncodedBatch::default() };
    match writer.write(frame.get(0), Takes::default(), &mut into) {
        Ok(record) => Ok(into.data[record.value].to_vec()),
        Err(why) => {
            assert_eq!(into.data, b"before", "what failed leaves no bytes");
            Err(why)
        }
    }
}

fn of_payload(settings: &MessagePackSettings, payload: &str) -> Result<Vec<u8>, String> {
    let mut frame = FrameBuf::default();
    frame.push(&Parts {
        id: "1",
        kind: "t",
        key: None,
        payload: payload.as_bytes(),
        timestamp: 0,
        metadata: b"",
        payload_is_json: false,
    });
    write(settings, &frame)
}

fn body(payload: &str) -> Result<Vec<u8>, String> {
    of_payload(&MessagePackSettings::default(), payload)
}

#[test]
fn this_is_the_json_of_each_form() {
    for (body, expected) in [
        (&b"\xc0"[..], "null"),
        (b"\xc2", "false"),
        (b"\xc3", "true"),
        (b"\x7f", "127"),
        (b"\xe0", "-32"),
        (b"\xcc\xff", "255"),
        (b"\xcd\xff\xff", "65535"),
        (b"\xce\xff\xff\xff\xff", "4294967295"),
        (b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", "18446744073709551615"),
        (b"\xd0\x80", "-128"),
        (b"\xd1\x80\x00", "-32768"),
        (b"\xd2\x80\x00\x00\x00", "-2147483648"),
        (b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00", "-9223372036854775808"),
        (b"\xca\x3d\xcc\xcc\xcd", "0.1"),
        (b"\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00", "1.0"),
        (b"\xcb\x80\x00\x00\x00\x00\x00\x00\x00", "-0.0"),
        (b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00", r#""NaN""#),
        (b"\xca\xff\x80\x00\x00", r#""-Infinity""#),
        (b"\xa0", r#""""#),
        (b"\xd9\x02\"\n", r#""\"\n""#),
        (b"\xda\x00\x02\xc3\xa9", "\"é\""),
        (b"\xdb\x00\x00\x00\x01a", r#""a""#),
        (b"\xc4\x03\x00\xff\x01", r#""AP8B""#),
        (b"\xc5\x00\x01a", r#""YQ==""#),
        (b"\xc6\x00\x00\x00\x00", r#""""#),
        (b"\x90", "[]"),
        (b"\x92\x01\x91\xc0", "[1,[null]]"),
        (b"\xdc\x00\x01\x01", "[1]"),
        (b"\xdd\x00\x00\x00\x01\x01", "[1]"),
        (b"\x80", "{}"),
        (b"\x82\xa1a\x01\xa1b\x90", r#"{"a":1,"b":[]}"#),
        (b"\xde\x00\x01\xa1a\x01", r#"{"a":1}"#),
        (b"\xdf\x00\x00\x00\x01\xa1a\x01", r#"{"a":1}"#),
        (b"\xd6\xff\x51\x0b\x05\x7f", r#""2013-01-31T23:59:59Z""#),
        (b"\xd7\xff\x00\x00\x00\x04\x00\x00\x00\x01", r#""1970-01-01T00:00:01.000000001Z""#),
        (b"\xd7\xff\x00\x00\x00\x03\x00\x00\x00\x01", r#""2378-04-22T19:24:49Z""#),
        (
            b"\xc7\x0c\xff\x00\x00\x00\x01\xff\xff\xff\xff\xff\xff\xff\xff",
            r#""1969-12-31T23:59:59.000000001Z""#,
        ),
    ] {
        assert_eq!(json(body).as_deref(), Ok(expected));
    }
}

#[test]
fn each_number_has_its_smallest_form() {
    for (payload, expected) in [
        ("0", &b"\x00"[..]),
        ("127", b"\x7f"),
        ("128", b"\xcc\x80"),
        ("256", b"\xcd\x01\x00"),
        ("65536", b"\xce\x00\x01\x00\x00"),
        ("4294967296", b"\xcf\x00\x00\x00\x01\x00\x00\x00\x00"),
        ("18446744073709551615", b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff"),
        ("-1", b"\xff"),
        ("-32", b"\xe0"),
        ("-33", b"\xd0\xdf"),
        ("-129", b"\xd1\xff\x7f"),
        ("-32769", b"\xd2\xff\xff\x7f\xff"),
        ("-2147483649", b"\xd3\xff\xff\xff\xff\x7f\xff\xff\xff"),
        ("1.0", b"\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00"),
        ("-0", b"\xcb\x80\x00\x00\x00\x00\x00\x00\x00"),
        ("1e2", b"\xcb\x40\x59\x00\x00\x00\x00\x00\x00"),
        ("20000000000000000000", b"\xcb\x43\xf1\x58\xe4\x60\x91\x3d\x00"),
        (r#" [ "a" , {} ] "#, b"\x92\xa1a\x80"),
    ] {
        assert_eq!(body(payload).as_deref(), Ok(expected), "{payload}");
    }
    for n in [15, 16, 31, 32, 255, 256, 65_535, 65_536] {
        for text in [format!("\"{}\"", "x".repeat(n)), format!("[{}]", vec!["1"; n].join(","))] {
            let body = body(&text).expect("a body");
            assert_eq!(json(&body).expect("JSON"), text);
            let short = match (text.starts_with('['), n) {
                (true, ..16) | (false, ..32) => 1,
                (false, ..256) => 2,
                (_, ..65_536) => 3,
                _ => 5,
            };
            assert_eq!(body.len(), n + short);
        }
    }
}

#[test]
fn what_does_not_fit_is_told_with_its_place() {
    let deep = format!("{}1{}", "[".repeat(121), "]".repeat(121));
    for (payload, reason) in [
        ("", "`payload`: the payload is not JSON: cut off at byte 0, expected a value"),
        ("text", "`payload`: the payload is not JSON: expected a value at byte 0"),
        ("[1,]", "`payload[1]`: the payload is not JSON: expected a value at byte 3"),
        (
            r#"{"a":[0.1,18446744073709551617]}"#,
            "`payload.a[1]`: the number 18446744073709551617 does not fit a double to the last digit: send it as text, or set `numbers: round` on the codec",
        ),
        (r#"{"a":1} 2"#, "`payload`: the payload is not JSON: expected the end at byte 8"),
        (
            &deep,
            "`payload[0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0]…`: objects and lists are more than 120 deep in one another",
        ),
    ] {
        assert_eq!(body(payload), Err(reason.to_owned()));
    }
    let round = MessagePackSettings { numbers: Numbers::Round, ..Default::default() };
    assert_eq!(of_payload(&round, "18446744073709551617").as_deref(), Ok(&b"\xcb\x43\xf0\0\0\0\0\0\0"[..]));
}

#[test]
fn bodies_that_are_wrong_say_where() {
    let many: Vec<u8> =
        [vec![0xde, 0, 40], (0..40).flat_map(|n| [0xa1, b'A' + n % 39, 0xc0]).collect()].concat();
    for (body, reason) in [
        (&b""[..], "`payload`: empty: expected a MessagePack object, at byte 0"),
        (b"\xc1", "`payload`: the byte 0xc1, which MessagePack does not use, at byte 0"),
        (b"\x01\x02", "`payload`: 1 bytes behind the object: a message is one object, at byte 1"),
        (b"\x92\x01", "`payload[1]`: cut off: expected a value, at byte 2"),
        (b"\xdd\xff\xff\xff\xff", "`payload[0]`: cut off: expected a value, at byte 5"),
        (b"\xdf\xff\xff\xff\xff\xa0\xc0", "`payload`: cut off: expected a value, at byte 7"),
        (b"\xdb\xff\xff\xff\xffab", "`payload`: a length of 4294967295 bytes where 2 are left, at byte 5"),
        (b"\x81\xa1a\xcd\x01", "`payload.a`: cut off: expected a value, at byte 3"),
        (
            b"\x81\xa1a\xa2\xc3\x28",
            "`payload.a`: text that is not UTF-8: such bytes must be packed as `bin`, at byte 4",
        ),
        (
            b"\x81\x05\x01",
            "`payload`: a key of a map is the number 5: JSON has names that are text; pack keys as `str`, at byte 1",
        ),
        (
            b"\x81\xff\x01",
            "`payload`: a key of a map is the number -1: JSON has names that are text; pack keys as `str`, at byte 1",
        ),
        (
            b"\x81\xc4\x01a\x01",
            "`payload`: a key of a map is bytes: JSON has names that are text; pack keys as `str`, at byte 1",
        ),
        (
            b"\x81\x90\x01",
            "`payload`: a key of a map is no text: JSON has names that are text; pack keys as `str`, at byte 1",
        ),
        (b"\x82\xa1a\x01\xa1a\x02", "`payload`: the key `a` stands twice, at byte 4"),
        (&many, "`payload`: the key `A` stands twice, at byte 120"),
        (
            b"\x91\xd4\x05\x00",
            "`payload[0]`: an extension of the type 5, which JSON has no form for: only timestamps (-1) are known, at byte 1",
        ),
        (b"\xd5\xff\x00\x00", "`payload`: a timestamp of 2 bytes: expected 4, 8 or 12, at byte 0"),
        (
            b"\xd7\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            "`payload`: a timestamp of 17179869183 seconds and 1073741823 nanoseconds is out of range (the years 1 to 9999), at byte 0",
        ),
    ] {
        assert_eq!(json(body), Err(reason.to_owned()));
    }
    let error = json(&[0x91; 100_000]).expect_err("too deep");
    assert!(error.ends_with("lists and maps are more than 120 deep in one another, at byte 120"), "{error}");
}

#[test]
fn the_envelope_is_the_twin_of_jsons() {
    let settings = MessagePackSettings { envelope: true, ..Default::default() };
    let packed = |json: &str| body(json).expect("a body");
    for line in [
        r#"{"id":"1","type":"order","payload":{"a":[1,2.5,null]},"timestamp":1700000000000,"metadata":{"k":"v","n":1}}"#,
        r#"{"id":7,"type":"order","payload":null,"timestamp":"2013-01-31T18:59:59.123456-05:00","metadata":{},"trace":{"x":1}}"#,
    ] {
        let frame = frame(&settings, &packed(line)).expect("a message");
        assert_eq!(frame.get(0).kind(), "order");
        assert_eq!(write(&settings, &frame), Ok(packed(line)));
    }
    let at = [&packed(r#"{"id":"1","type":"t","timestamp":0}"#)[..]].concat();
    let with_extension = [&at[..at.len() - 1], b"\xd6\xff\x00\x00\x00\x05"].concat();
    assert_eq!(frame(&settings, &with_extension).expect("a message").get(0).timestamp(), 5000);
    for (body, reason) in [
        (
            packed("5"),
            "a number: expected a JSON object such as {\"id\":\"1\",\"type\":\"order\",\"payload\":{}}",
        ),
        (packed(r#"{"id":"1"}"#), "no `type`: a message needs one, as text"),
        (
            b"\x81\xa2id\xc1".to_vec(),
            "`envelope.id`: the byte 0xc1, which MessagePack does not use, at byte 4",
        ),
    ] {
        assert_eq!(frame(&settings, &body).map(|_| ()), Err(reason.to_owned()));
    }
    let both = MessagePackSettings { kind: Some("t".into()), ..settings };
    let error = wait(both.reading("t")).err().expect("a mistake").to_string();
    assert!(error.contains("leave out `type` and `headers`"), "{error}");
}

/// Keys and headers of a record are as beside the JSON envelope.
#[test]
fn keys_and_headers_stand_beside_an_envelope() {
    let settings = MessagePackSettings { envelope: true, ..Default::default() };
    let value = body(r#"{"id":"1","type":"t","payload":5}"#).expect("a body");
    let mut data = value.clone();
    let mut put = |bytes: &[u8]| {
        data.extend_from_slice(bytes);
        data.len() - bytes.len()..data.len()
    };
    let (key, name, header) = (put(b"key"), put(b"name"), put(b"header"));
    let record = RawRecord {
        value: 0..value.len(),
        key: Some(key),
        headers: vec![wasmill_engine::input::Header { name, value: Some(header) }],
        ..RawRecord::default()
    };
    let batch = RawBatch { data, ..RawBatch::of_value(b"") };
    let mut frame = FrameBuf::default();
    let decoder = wait(settings.reading("t")).expect("reads").decoder;
    decoder.decode(&record, &batch, &mut frame).expect("a message");
    assert_eq!(frame.get(0).key(), Some(&b"key"[..]));
    let mut into = EncodedBatch::default();
    let writer = wait(settings.writing("t")).expect("writes").writer;
    let takes = Takes { headers: true, tombstones: true };
    let record = writer.write(frame.get(0), takes, &mut into).expect("a record");
    assert_eq!(record.headers.len(), 1);
    assert_eq!(&into.data[record.headers[0].name.clone()], b"name");
    assert_eq!(into.data[record.headers[0].value.clone().expect("a value")], *b"header");
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-300..300_i64).prop_map(Value::from),
        any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 30, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..30).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..30)
                .prop_map(|all| Value::Object(all.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn payloads_come_back_to_the_letter(value in values()) {
        let text = value.to_string();
        prop_assert_eq!(json(&body(&text).expect("a body")), Ok(text));
    }

    #[test]
    fn what_is_read_is_read_again(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(text) = json(&bytes) {
            prop_assert!(serde_json::from_str::<Value>(&text).is_ok());
            let again = json(&body(&text).expect("a body")).expect("JSON");
            prop_assert_eq!(again.parse::<Value>().expect("JSON"), text.parse::<Value>().expect("JSON"));
        }
    }
}

#[test]
fn malformed_bodies_leave_their_neighbours_unharmed() {
    let good =
        body(r#"{"a":[1,300,70000,"text",{"b":null,"c":1.5}],"d":-5000000000,"e":"éx"}"#).expect("a body");
    let mut bad = Vec::new();
    for at in 0..good.len() {
        bad.push(good[..at].to_vec());
        let mut broken = good.clone();
        broken[at] = 0xc1;
        bad.push(broken);
        bad.push([&good[..at], b"\xdd\xff\xff\xff\xff"].concat());
        let mut longer = good.clone();
        longer.insert(at, 0x00);
        bad.push(longer);
    }
    bad.retain(|body| json(body).is_err());
    assert!(bad.len() > 100, "{} are malformed", bad.len());
    let decoder = wait(MessagePackSettings::default().reading("t")).expect("reads").decoder;
    for body in bad {
        let mut batch = RawBatch::of_value(b"");
        batch.records.clear();
        for value in [&good, &body, &good] {
            let start = batch.data.len();
            batch.data.extend_from_slice(value);
            batch.records.push(RawRecord { value: start..batch.data.len(), ..RawRecord::default() });
        }
        let mut frame = FrameBuf::default();
        let results: Vec<_> =
            batch.records.iter().map(|r| decoder.decode(r, &batch, &mut frame).is_ok()).collect();
        assert_eq!(results, [true, false, true]);
        assert_eq!(frame.get(0).payload(), frame.get(1).payload());
    }
}

#[test]
fn its_settings_are_read_by_name() {
    let spec: CodecSpec =
        serde_json::from_str(r#"{"messagepack":{"envelope":true,"numbers":"round"}}"#).expect("settings");
    let settings = MessagePackSettings {
        envelope: true,
        numbers: Numbers::Round,
        kind: None,
        headers: HeaderNames::default(),
    };
    assert_eq!(spec, CodecSpec::MessagePack(settings));
    assert!(CodecSpec::names_alone().contains(&"messagepack"));
}

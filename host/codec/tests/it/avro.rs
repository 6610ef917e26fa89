//! Avro, from the wire and back, and container files.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use apache_avro::types::Value as Theirs;
use proptest::prelude::*;
use serde_json::{Value, json};
use wasmill_codec::framing::Place;
use wasmill_codec::{CodecSpec, Reading, Takes, Writing};
use wasmill_engine::input::{RawBatch, RawRecord};
use wasmill_engine::output::EncodedBatch;
use wasmill_engine::position::PartitionId;
use wasmill_engine::time::TIMESTAMP_NONE;
use wasmill_frame::{FrameBuf, Parts};

/// A codec with its schema files, which are gone with it.
struct Codec {
    spec: CodecSpec,
    directory: PathBuf,
}

impl Drop for Codec {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn now<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(work)
}

impl Codec {
    /// With the texts of schemas in place of files' names.
    fn new(mut settings: Value) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("wasmill-avro-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("a directory");
        for key in ["schema_file", "reader_schema_file"] {
            if let Some(schema) = settings.get_mut(key) {
                let path = directory.join(format!("{key}.avsc"));
                std::fs::write(&path, schema.to_string()).expect("a file");
                *schema = json!(path);
            }
        }
        let spec = serde_json::from_value(json!({ "avro": settings })).expect("settings");
        Self { spec, directory }
    }

    fn of(schema: Value) -> Self {
        Self::new(json!({ "schema_file": schema }))
    }

    fn reading(&self) -> Reading {
        now(self.spec.reading("x")).expect("a reading half")
    }

    fn writing(&self) -> Writing {
        now(self.spec.writing("x")).expect("a writing half")
    }
}

fn decode(reading: &Reading, batch: &RawBatch, record: &RawRecord) -> Result<String, String> {
    let mut frame = FrameBuf::default();
    let before = frame.len();
    let decoded = reading.decoder.decode(record, batch, &mut frame);
    match decoded {
        Ok(()) => {
            assert_eq!(frame.len(), before + 1);
            let message = frame.get(0);
            assert!(message.payload_is_json());
            let text = String::from_utf8(message.payload().to_vec()).expect("UTF-8");
            serde_json::from_str::<serde::de::IgnoredAny>(&text).expect("JSON");
            Ok(text)
        }
        Err(why) => {
            assert_eq!(frame.len(), before, "something was left of a refused record");
            Err(why)
        }
    }
}

fn read(reading: &Reading, datum: &[u8]) -> Result<String, String> {
    let batch = RawBatch::of_value(datum);
    decode(reading, &batch, &batch.records[0])
}

fn write(writing: &Writing, payload: &str) -> Result<Vec<u8>, String> {
    let mut frame = FrameBuf::default();
    frame.push(&Parts {
        id: "1",
        kind: "t",
        key: None,
        payload: payload.as_bytes(),
        timestamp: TIMESTAMP_NONE,
        metadata: b"",
        payload_is_json: true,
    });
    let mut into = EncodedBatch::default();
    match writing.writer.write(frame.get(0), Takes::default(), &mut into) {
        Ok(record) => Ok(into.data[record.value].to_vec()),
        Err(why) => {
            assert!(into.data.is_empty(), "bytes of a refused message were left");
            Err(why)
        }
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).expect("a byte")).collect()
}

/// What each type is in JSON: schema, bytes, JSON. All go both ways.
fn forms() -> Vec<(Value, &'static str, &'static str)> {
    let logical = |base: &str, name: &str| json!({ "type": base, "logicalType": name });
    let fixed =
        |size: usize, name: &str| json!({ "type": "fixed", "name": "F", "size": size, "logicalType": name });
    let decimal =
        |scale: usize| json!({ "type": "bytes", "logicalType": "decimal", "precision": 60, "scale": scale });
    vec![
        (json!("null"), "", "null"),
        (json!("boolean"), "01", "true"),
        (json!("boolean"), "00", "false"),
        (json!("int"), "01", "-1"),
        (json!("int"), "fe ff ff ff 0f", "2147483647"),
        (json!("int"), "ff ff ff ff 0f", "-2147483648"),
        (json!("long"), "ff ff ff ff ff ff ff ff ff 01", "-9223372036854775808"),
        (json!("long"), "fe ff ff ff ff ff ff ff ff 01", "9223372036854775807"),
        (json!("float"), "cd cc cc 3d", "0.1"),
        (json!("double"), "9a 99 99 99 99 99 b9 3f", "0.1"),
        (json!("double"), "00 00 00 00 00 00 f0 7f", "\"Infinity\""),
        (json!("float"), "00 00 80 ff", "\"-Infinity\""),
        (json!("double"), "00 00 00 00 00 00 f8 7f", "\"NaN\""),
        (json!("bytes"), "06 00 01 ff", "\"AAH/\""),
        (json!("bytes"), "00", "\"\""),
        (json!("string"), "0c 61 22 5c 0a c3 a9", "\"a\\\"\\\\\\né\""),
        (json!({ "type": "array", "items": "int" }), "00", "[]"),
        (json!({ "type": "array", "items": "int" }), "04 02 04 00", "[1,2]"),
        (json!({ "type": "map", "values": "int" }), "02 02 61 04 00", "{\"a\":2}"),
        (json!({ "type": "enum", "name": "E", "symbols": ["A", "B"] }), "02", "\"B\""),
        (json!({ "type": "fixed", "name": "F", "size": 2 }), "00 ff", "\"AP8=\""),
        (json!(["null", "string"]), "00", "null"),
        (json!(["null", "string"]), "02 02 78", "\"x\""),
        (json!(["int", "double"]), "00 02", "1"),
        (json!(["int", "double"]), "02 00 00 00 00 00 00 f0 3f", "1.0"),
        (json!({ "type": "record", "name": "n.R", "fields": [] }), "", "{}"),
        (
            json!({ "type": "record", "name": "R", "fields": [{ "name": "a", "type": "int" }, { "name": "b", "type": ["null", "R"] }] }),
            "02 02 04 00",
            "{\"a\":1,\"b\":{\"a\":2,\"b\":null}}",
        ),
        (decimal(2), "04 04 d2", "12.34"),
        (decimal(2), "02 ff", "-0.01"),
        (decimal(0), "02 80", "-128"),
        (decimal(2), "04 00 96", "1.50"),
        (decimal(30), "1a 01 00 00 00 00 00 00 00 00 00 00 00 00", "0.079228162514264337593543950336"),
        (
            json!({ "type": "fixed", "name": "F", "size": 4, "logicalType": "decimal", "precision": 9, "scale": 3 }),
            "ff ff ff fe",
            "-0.002",
        ),
        (logical("int", "date"), "f0 f5 01", "\"2013-01-31\""),
        (logical("int", "date"), "01", "\"1969-12-31\""),
        (logical("int", "date"), "fe ff ff ff 0f", "2147483647"),
        (logical("int", "time-millis"), "fe ef b2 52", "\"23:59:59.999\""),
        (logical("long", "time-micros"), "02", "\"00:00:00.000001\""),
        (logical("long", "timestamp-millis"), "01", "\"1969-12-31T23:59:59.999Z\""),
        (logical("long", "timestamp-micros"), "02", "\"1970-01-01T00:00:00.000001Z\""),
        (logical("long", "timestamp-nanos"), "02", "\"1970-01-01T00:00:00.000000001Z\""),
        (logical("long", "local-timestamp-millis"), "02", "\"1970-01-01T00:00:00.001\""),
        (logical("long", "local-timestamp-micros"), "02", "\"1970-01-01T00:00:00.000001\""),
        (logical("long", "local-timestamp-nanos"), "01", "\"1969-12-31T23:59:59.999999999\""),
        (logical("long", "timestamp-millis"), "fe ff ff ff ff ff ff ff ff 01", "9223372036854775807"),
        (fixed(12, "duration"), "01 00 00 00 02 00 00 00 bc 0b 00 00", "\"P1M2DT3.004S\""),
        (fixed(16, "uuid"), "123e4567e89b12d3a456426614174000", "\"123e4567-e89b-12d3-a456-426614174000\""),
        (logical("string", "uuid"), "02 78", "\"x\""),
        (logical("int", "of-tomorrow"), "02", "1"),
        (logical("string", "date"), "02 78", "\"x\""),
    ]
}

#[test]
fn each_type_has_its_form_both_ways() {
    for (schema, bytes, text) in forms() {
        let codec = Codec::of(schema.clone());
        let bytes = hex(bytes);
        assert_eq!(read(&codec.reading(), &bytes).as_deref(), Ok(text), "{schema}");
        assert_eq!(write(&codec.writing(), text), Ok(bytes), "{schema}");
    }
}

#[test]
fn what_a_schema_cant_hold_is_told_by_its_place() {
    let schema = json!({ "type": "record", "name": "shop.Order", "fields": [
        { "name": "id", "type": "int" },
        { "name": "lines", "type": { "type": "array", "items": { "type": "record", "name": "Line", "fields": [
            { "name": "sku", "type": "string" },
            { "name": "price", "type": { "type": "bytes", "logicalType": "decimal", "precision": 5, "scale": 2 } },
            { "name": "kind", "type": { "type": "enum", "name": "Kind", "symbols": ["NEW", "OLD"] }, "default": "NEW" },
        ] } }, "default": [] },
        { "name": "at", "type": ["null", { "type": "long", "logicalType": "timestamp-millis" }], "default": null },
        { "name": "tags", "type": { "type": "map", "values": "float" }, "default": {} },
        { "name": "hash", "type": { "type": "fixed", "name": "Hash", "size": 2 }, "default": "\u{0}\u{ff}" },
    ] });
    let writing = Codec::of(schema.clone()).writing();
    for (payload, expected) in [
        ("{}", "payload.id: it is missing, and record shop.Order has no default for it"),
        ("[]", "payload: a list: the schema has record shop.Order"),
        ("{\"id\":null}", "payload.id: null: the schema has int"),
        ("{\"id\":1.5}", "payload.id: 1.5 is not a whole number"),
        ("{\"id\":2147483648}", "payload.id: 2147483648 does not fit an int of 32 bits"),
        ("{\"id\":\"1\"}", "payload.id: the text `1`: the schema has int"),
        (
            "{\"id\":1,\"x y\":2}",
            "payload[\"x y\"]: record shop.Order has no such field: take it out, add it to the schema, or set `unknown_fields: drop` on the codec",
        ),
        (
            "{\"id\":1,\"lines\":[{\"sku\":\"a\",\"price\":1},{\"sku\":1}]}",
            "payload.lines[1].sku: the number 1: the schema has string",
        ),
        (
            "{\"id\":1,\"lines\":[{\"sku\":\"a\",\"price\":1.234}]}",
            "payload.lines[0].price: the number 1.234 has more than 2 digits behind the point: round it, or set `numbers: round` on the codec",
        ),
        (
            "{\"id\":1,\"lines\":[{\"sku\":\"a\",\"price\":1000}]}",
            "payload.lines[0].price: the number 1000 does not fit a decimal of 5 digits, 2 of them behind the point",
        ),
        (
            "{\"id\":1,\"lines\":[{\"sku\":\"a\",\"price\":1,\"kind\":\"BAD\"}]}",
            "payload.lines[0].kind: the text `BAD` is none of enum shop.Kind: NEW, OLD",
        ),
        (
            "{\"id\":1,\"at\":\"2013-01-31\"}",
            "payload.at: the text `2013-01-31` is no timestamp-millis: expected one as 2013-01-31T23:59:59.999Z",
        ),
        (
            "{\"id\":1,\"at\":\"2013-01-31T00:00:00.0001Z\"}",
            "payload.at: the text `2013-01-31T00:00:00.0001Z` has more than 3 digits behind the second: cut them, or set `numbers: round` on the codec",
        ),
        (
            "{\"id\":1,\"tags\":{\"a\":0.123456789}}",
            "payload.tags.a: the number 0.123456789 does not fit a float of 32 bits to the last digit: send it as text, or set `numbers: round` on the codec",
        ),
        ("{\"id\":1,\"hash\":\"AA==\"}", "payload.hash: 1 bytes: fixed shop.Hash has 2"),
        (
            "{\"id\":1,\"hash\":\"?\"}",
            "payload.hash: the text `?` is not base64, as which bytes are expected: Invalid symbol 63, offset 0.",
        ),
        ("{\"id\":1", "the payload is not JSON, at byte 7: expected `,` or `}`"),
        ("{\"id\":01}", "the payload is not JSON, at byte 6: expected a number"),
    ] {
        let why = write(&writing, payload).expect_err(payload);
        assert_eq!(why, expected, "{payload}");
    }
    let reading = Codec::of(schema.clone()).reading();
    let written = write(&writing, "{\"id\":1}").expect("defaults");
    let whole = "{\"id\":1,\"lines\":[],\"at\":null,\"tags\":{},\"hash\":\"AP8=\"}";
    assert_eq!(read(&reading, &written).as_deref(), Ok(whole));

    let lenient = Codec::new(json!({ "schema_file": schema, "unknown_fields": "drop", "numbers": "round" }));
    let payload = "{\"more\":[{}],\"tags\":{\"a\":0.123456789},\"id\":1.5,\"lines\":[{\"price\":1.239,\"sku\":\"a\",\"x\":1}],\"at\":\"2013-01-31T01:00:00.0001+01:00\"}";
    let written = write(&lenient.writing(), payload).expect("rounded");
    let text = "{\"id\":2,\"lines\":[{\"sku\":\"a\",\"price\":1.24,\"kind\":\"NEW\"}],\"at\":\"2013-01-31T00:00:00.000Z\",\"tags\":{\"a\":0.12345679},\"hash\":\"AP8=\"}";
    assert_eq!(read(&reading, &written).as_deref(), Ok(text));
}

#[test]
fn a_reader_schema_renames_fills_and_leaves_out() {
    let writer = json!({ "type": "record", "name": "a.R", "fields": [
        { "name": "gone", "type": { "type": "array", "items": ["null", "a.R"] } },
        { "name": "old", "type": "int" },
        { "name": "n", "type": "int" },
        { "name": "s", "type": "string" },
        { "name": "b", "type": "bytes" },
        { "name": "u", "type": ["null", "int", "string"] },
        { "name": "e", "type": { "type": "enum", "name": "E", "symbols": ["X", "Y", "Z"] } },
    ] });
    let reader = json!({ "type": "record", "name": "b.R", "fields": [
        { "name": "added", "type": { "type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 1 }, "default": "\u{0}\u{7b}" },
        { "name": "new", "type": "long", "aliases": ["old"] },
        { "name": "n", "type": ["null", "double"] },
        { "name": "s", "type": "bytes" },
        { "name": "b", "type": "string" },
        { "name": "u", "type": ["long", "string"] },
        { "name": "e", "type": { "type": "enum", "name": "E", "symbols": ["X", "OTHER"], "default": "OTHER" } },
        { "name": "day", "type": { "type": "int", "logicalType": "date" }, "default": 0 },
    ] });
    let writing = Codec::of(writer.clone()).writing();
    let codec = Codec::new(json!({ "schema_file": writer, "reader_schema_file": reader }));
    let reading = codec.reading();
    let inner = "{\"gone\":[],\"old\":0,\"n\":0,\"s\":\"\",\"b\":\"\",\"u\":null,\"e\":\"X\"}";
    let payload = |u: &str| {
        format!(
            "{{\"gone\":[null,{inner}],\"old\":1,\"n\":2,\"s\":\"hi\",\"b\":\"aGk=\",\"u\":{u},\"e\":\"Y\"}}"
        )
    };
    let datum = write(&writing, &payload("3")).expect("a datum");
    let expected = "{\"new\":1,\"n\":2.0,\"s\":\"aGk=\",\"b\":\"hi\",\"u\":3,\"e\":\"OTHER\",\"added\":12.3,\"day\":\"1970-01-01\"}";
    assert_eq!(read(&reading, &datum).as_deref(), Ok(expected));
    let datum = write(&writing, &payload("null")).expect("a datum");
    let why = read(&reading, &datum).expect_err("null has no branch");
    assert!(why.starts_with("payload.u, at byte "), "{why}");
    assert!(
        why.ends_with("written as null, which the reader's schema can't read as one of [long, string]"),
        "{why}"
    );

    for (writer, reader, expected) in [
        (json!("string"), json!("int"), "written as string, which the reader's schema can't read as int"),
        (
            json!({ "type": "long", "logicalType": "timestamp-millis" }),
            json!({ "type": "long", "logicalType": "timestamp-micros" }),
            "written as timestamp-millis, which the reader's schema can't read as timestamp-micros",
        ),
        (
            json!({ "type": "record", "name": "R", "fields": [] }),
            json!({ "type": "record", "name": "R", "fields": [{ "name": "a", "type": "int" }] }),
            "the writer's schema lacks the field `a` of the reader's record R, which has no default for it",
        ),
        (
            json!({ "type": "record", "name": "R", "fields": [] }),
            json!({ "type": "record", "name": "S", "fields": [] }),
            "written as record R, which the reader's schema can't read as record S",
        ),
    ] {
        let reading = Codec::new(json!({ "schema_file": writer, "reader_schema_file": reader })).reading();
        assert_eq!(read(&reading, &[0]), Err(format!("payload, at byte 0: {expected}")));
    }
}

#[test]
fn unions_take_the_first_branch_that_fits_exactly() {
    let record = |name: &str, extra: Value| json!({ "type": "record", "name": name, "fields": [{ "name": "x", "type": "int" }, extra] });
    let a = record("A", json!({ "name": "y", "type": "string" }));
    let b = record("B", json!({ "name": "z", "type": ["null", "B"] }));
    for (union, payload, branch) in [
        (json!(["int", "long"]), "5", 0),
        (json!(["int", "long"]), "5000000000", 1),
        (json!(["long", "double"]), "1", 0),
        (json!(["long", "double"]), "1.0", 1),
        (json!(["long", "double"]), "1.5", 1),
        (json!(["double", "long"]), "1", 1),
        (json!(["bytes", "string"]), "\"aGk=\"", 0),
        (json!(["bytes", "string"]), "\"hi!\"", 1),
        (
            json!([{ "type": "long", "logicalType": "timestamp-millis" }, "string"]),
            "\"2013-01-31T00:00:00Z\"",
            0,
        ),
        (json!([{ "type": "long", "logicalType": "timestamp-millis" }, "string"]), "\"soon\"", 1),
        (json!([a, b, { "type": "map", "values": "int" }]), "{\"x\":1,\"y\":\"\"}", 0),
        (json!([a, b, { "type": "map", "values": "int" }]), "{\"x\":1,\"z\":{\"z\":null,\"x\":2}}", 1),
        (json!([a, b, { "type": "map", "values": "int" }]), "{\"x\":1,\"w\":2}", 2),
    ] {
        let datum = write(&Codec::of(union.clone()).writing(), payload).expect(payload);
        assert_eq!(datum[0], branch * 2, "{union} {payload}");
    }
    let why =
        write(&Codec::of(json!([a, b])).writing(), "{\"x\":1,\"z\":{\"x\":\"\"}}").expect_err("no branch");
    assert_eq!(
        why,
        "payload.z.x: it fits no branch of the union; of the last, record B: the text ``: the schema has int"
    );

    // Each level has two branches that fail at the bottom alone: tried one by one they would be 2^60 tries.
    let deep = json!({ "type": "record", "name": "R", "fields": [{ "name": "u", "type": ["int",
        { "type": "record", "name": "P", "fields": [{ "name": "n", "type": "R" }, { "name": "p", "type": "int" }] },
        { "type": "record", "name": "Q", "fields": [{ "name": "n", "type": "R" }, { "name": "p", "type": "string" }] },
    ] }] });
    let mut payload = "{\"u\":1}".to_owned();
    for _ in 0..55 {
        payload = format!("{{\"u\":{{\"n\":{payload},\"p\":\"\"}}}}");
    }
    let codec = Codec::of(deep);
    let datum = write(&codec.writing(), &payload).expect("Q all the way");
    assert_eq!(read(&codec.reading(), &datum), Ok(payload));
}

#[test]
fn bytes_of_strangers_cost_no_more_than_they_are() {
    let nulls = json!({ "type": "array", "items": "null" });
    let list =
        json!({ "type": "record", "name": "L", "fields": [{ "name": "next", "type": ["null", "L"] }] });
    let doubling: Value = (0..25).fold(json!("null"), |inner, at| {
        let again = if at == 0 { json!("null") } else { json!(format!("D{}", at - 1)) };
        json!({ "type": "record", "name": format!("D{at}"), "fields": [{ "name": "a", "type": inner }, { "name": "b", "type": again }] })
    });
    for (schema, datum, part) in [
        (nulls.clone(), hex("fe ff ff ff ff ff ff ff ff 01 00"), "far longer as JSON"),
        (nulls, hex("ff ff ff ff ff ff ff ff ff 01 00 00"), "far longer as JSON"),
        (list, vec![2; 1000], "more than 120 deep"),
        (json!("bytes"), hex("fe ff ff ff ff ff ff ff ff 01"), "cut off: 0 are left"),
        (json!("string"), hex("01"), "has the length -1"),
        (json!("long"), hex("ff ff ff ff ff ff ff ff ff ff 01"), "more than 64 bits"),
        (json!("long"), hex("ff ff ff ff ff ff ff ff ff 02"), "more than 64 bits"),
        (
            json!({ "type": "fixed", "name": "F", "size": 1_000_000_000_000_u64 }),
            vec![0],
            "cut off: 1 are left",
        ),
        (json!({ "type": "map", "values": "null" }), hex("fe ff ff ff ff ff ff ff ff 01 00"), "is cut off"),
        (
            json!({ "type": "array", "items": "int" }),
            hex("01 04 02"),
            "a block of 2 bytes is cut off: 1 are left",
        ),
        (
            json!({ "type": "array", "items": "int" }),
            hex("01 04 02 00"),
            "a block ends at byte 4 by its size",
        ),
        (doubling, vec![], "far longer as JSON"),
    ] {
        let why = read(&Codec::of(schema).reading(), &datum).expect_err(part);
        assert!(why.contains(part), "{why}");
    }
    let deep = "[".repeat(100_000);
    let any = Codec::of(json!("null"));
    assert_eq!(
        write(&any.writing(), &deep),
        Err("the payload's values stand more than 120 deep in one another".into())
    );
}

/// A schema with most of what there is.
fn rich() -> Value {
    json!({ "type": "record", "name": "t.Rich", "fields": [
        { "name": "l", "type": "long" },
        { "name": "s", "type": "string" },
        { "name": "f", "type": "float" },
        { "name": "d", "type": "double" },
        { "name": "b", "type": "bytes" },
        { "name": "u", "type": ["null", "boolean", "string", "t.Rich"] },
        { "name": "a", "type": { "type": "array", "items": "int" } },
        { "name": "m", "type": { "type": "map", "values": "long" } },
        { "name": "e", "type": { "type": "enum", "name": "E", "symbols": ["A", "B", "C"] } },
        { "name": "x", "type": { "type": "fixed", "name": "X", "size": 3 } },
        { "name": "t", "type": { "type": "long", "logicalType": "timestamp-micros" } },
        { "name": "y", "type": { "type": "int", "logicalType": "date" } },
        { "name": "c", "type": { "type": "bytes", "logicalType": "decimal", "precision": 40, "scale": 3 } },
    ] })
}

fn rich_value() -> impl Strategy<Value = Theirs> {
    let flat = (
        any::<i64>(),
        ".{0,8}",
        any::<f32>(),
        any::<f64>(),
        prop::collection::vec(any::<u8>(), 0..8),
        prop_oneof![
            Just(Theirs::Union(0, Box::new(Theirs::Null))),
            any::<bool>().prop_map(|b| Theirs::Union(1, Box::new(Theirs::Boolean(b)))),
            ".{0,4}".prop_map(|s| Theirs::Union(2, Box::new(Theirs::String(s)))),
        ],
        prop::collection::vec(any::<i32>(), 0..5),
        prop::collection::hash_map("[a-z]{1,3}", any::<i64>(), 0..2),
        0..3_u32,
        any::<[u8; 3]>(),
        (any::<i64>(), any::<i32>(), any::<i64>()),
    );
    type Chosen = (
        i64,
        String,
        f32,
        f64,
        Vec<u8>,
        Theirs,
        Vec<i32>,
        std::collections::HashMap<String, i64>,
        u32,
        [u8; 3],
        (i64, i32, i64),
    );
    let make = |(l, s, f, d, b, u, a, m, e, x, (t, y, c)): Chosen| {
        let field = |name: &str, value: Theirs| (name.to_owned(), value);
        // The fewest bytes, as ours are.
        let mut unscaled = c.to_be_bytes().to_vec();
        while unscaled.len() > 1
            && (unscaled[0] == 0 && unscaled[1] < 0x80 || unscaled[0] == 0xff && unscaled[1] >= 0x80)
        {
            unscaled.remove(0);
        }
        Theirs::Record(vec![
            field("l", Theirs::Long(l)),
            field("s", Theirs::String(s)),
            field("f", Theirs::Float(if f.is_nan() { f32::NAN } else { f })),
            field("d", Theirs::Double(if d.is_nan() { f64::NAN } else { d })),
            field("b", Theirs::Bytes(b)),
            field("u", u),
            field("a", Theirs::Array(a.into_iter().map(Theirs::Int).collect())),
            field("m", Theirs::Map(m.into_iter().map(|(k, v)| (k, Theirs::Long(v))).collect())),
            field("e", Theirs::Enum(e, ["A", "B", "C"][e as usize].to_owned())),
            field("x", Theirs::Fixed(3, x.to_vec())),
            field("t", Theirs::TimestampMicros(t)),
            field("y", Theirs::Date(y)),
            field("c", Theirs::Decimal(unscaled.into())),
        ])
    };
    (flat.clone(), prop::option::of(flat)).prop_map(move |(outer, inner)| {
        let mut outer = make(outer);
        if let (Theirs::Record(fields), Some(inner)) = (&mut outer, inner) {
            fields[5].1 = Theirs::Union(3, Box::new(make(inner)));
        }
        outer
    })
}

fn theirs(value: &Theirs) -> Vec<u8> {
    let schema = apache_avro::Schema::parse(&rich()).expect("a schema");
    apache_avro::writer::datum::GenericDatumWriter::builder(&schema)
        .build()
        .and_then(|writer| writer.write_value_to_vec(value.clone()))
        .expect("a datum")
}

proptest! {
    #[test]
    fn what_the_library_writes_comes_back_to_the_byte(value in rich_value()) {
        let codec = Codec::of(rich());
        let datum = theirs(&value);
        let text = read(&codec.reading(), &datum).expect("a message");
        prop_assert_eq!(write(&codec.writing(), &text), Ok(datum), "{}", text);
    }

    #[test]
    fn damaged_datums_are_refused_or_read_and_leave_their_neighbours_alone(
        value in rich_value(),
        harm in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let good = theirs(&value);
        let mut bad = good.clone();
        for (at, byte) in harm {
            let at = at.index(bad.len());
            bad[at] = byte;
        }
        if let Some(cut) = cut {
            bad.truncate(cut.index(bad.len()));
        }
        let codec = Codec::of(rich());
        let reading = codec.reading();
        let mut batch = RawBatch::new(PartitionId { source: 0, partition: 0 });
        for value in [&good, &bad, &good] {
            let start = batch.data.len();
            batch.data.extend_from_slice(value);
            batch.records.push(RawRecord { value: start..batch.data.len(), ..RawRecord::default() });
        }
        let mut frame = FrameBuf::default();
        let decoded: Vec<_> = batch.records.iter().map(|r| reading.decoder.decode(r, &batch, &mut frame)).collect();
        prop_assert!(decoded[0].is_ok() && decoded[2].is_ok());
        prop_assert_eq!(frame.len(), 2 + usize::from(decoded[1].is_ok()));
        prop_assert_eq!(frame.get(0).payload(), frame.get(frame.len() - 1).payload());
    }
}

#[test]
fn a_datum_cut_anywhere_or_with_more_behind_is_refused() {
    let payload = "{\"l\":-77777777,\"s\":\"some text\",\"f\":0.5,\"d\":-0.25,\"b\":\"AAECAwQFBgc=\",\"u\":{\"l\":1,\"s\":\"\",\"f\":0.0,\"d\":0.0,\"b\":\"\",\"u\":null,\"a\":[],\"m\":{},\"e\":\"C\",\"x\":\"AAAA\",\"t\":\"2013-01-31T00:00:00.000001Z\",\"y\":\"2013-01-31\",\"c\":-1.500},\"a\":[1,2,3],\"m\":{\"k\":9},\"e\":\"B\",\"x\":\"AQID\",\"t\":\"1969-01-31T00:00:00.123456Z\",\"y\":\"0001-01-01\",\"c\":99999999999.999}";
    let codec = Codec::of(rich());
    let reading = codec.reading();
    let datum = write(&codec.writing(), payload).expect("a datum");
    assert_eq!(read(&reading, &datum).as_deref(), Ok(payload));
    assert!(datum.len() > 100, "{}", datum.len());
    for cut in 0..datum.len() {
        let why = read(&reading, &datum[..cut]).expect_err("cut off");
        assert!(why.contains("is cut off") && why.contains(", at byte "), "{why}");
    }
    let mut longer = datum.clone();
    longer.push(0);
    let why = read(&reading, &longer).expect_err("too long");
    assert_eq!(
        why,
        format!(
            "payload, at byte {}: the datum ends here, but 1 more bytes follow: it was written by another schema",
            datum.len()
        )
    );
}

#[test]
fn single_objects_tell_their_schema() {
    // The fingerprint of "int" that the specification's own tests have.
    let codec = Codec::new(json!({ "schema_file": "int", "single_object": true }));
    let value = write(&codec.writing(), "7").expect("a value");
    assert_eq!(value, hex("c301 8f5c393f1ad57572 0e"));
    assert_eq!(read(&codec.reading(), &value).as_deref(), Ok("7"));
    let why = read(&codec.reading(), &hex("c301 0000000000000000 0e")).expect_err("another schema");
    assert!(why.contains("fingerprint 0000000000000000"), "{why}");
    assert!(read(&codec.reading(), b"\x0e").expect_err("no prefix").contains("C3 01"));
    // As fastavro tells it; apache-avro 0.22 answers another one.
    let codec = Codec::new(json!({ "schema_file": rich(), "single_object": true }));
    let zero = "{\"l\":0,\"s\":\"\",\"f\":0,\"d\":0,\"b\":\"\",\"u\":null,\"a\":[],\"m\":{},\"e\":\"A\",\"x\":\"AAAA\",\"t\":0,\"y\":0,\"c\":0}";
    let value = write(&codec.writing(), zero).expect("a value");
    assert_eq!(value[2..10], [15, 120, 220, 63, 213, 161, 249, 76], "the canonical form");
}

#[test]
fn what_is_declared_is_what_plugins_see() {
    let schema = json!({ "type": "record", "name": "n.Tree", "fields": [
        { "name": "v", "type": ["null", "int"], "default": null },
        { "name": "kids", "type": { "type": "array", "items": "Tree" } },
        { "name": "at", "type": { "type": "long", "logicalType": "timestamp-micros" } },
    ] });
    let declared = Codec::of(schema).spec.declared().expect("a schema").expect("declared");
    assert_eq!(declared["required"], json!(["kids", "at"]));
    assert_eq!(declared["properties"]["kids"]["items"]["$ref"], "#/$defs/n.Tree");
    assert_eq!(declared["properties"]["at"]["format"], "date-time");
    assert_eq!(declared["$defs"]["n.Tree"]["additionalProperties"], false);
    let flat = Codec::of(json!({ "type": "record", "name": "R", "fields": [] })).spec.declared();
    assert_eq!(flat.expect("a schema").expect("declared").get("$defs"), None);
}

#[test]
fn schemas_that_are_none_are_told() {
    for (schema, expected) in [
        (json!("nothing"), "the type `nothing` is not defined before it is used"),
        (json!(3), "3 is no type"),
        (json!({ "type": "record", "name": "R" }), "record R: it has no `fields`"),
        (
            json!({ "type": "record", "name": "R", "fields": [{ "name": "a", "type": "int" }, { "name": "a", "type": "int" }] }),
            "record R: it has the field `a` twice",
        ),
        (
            json!({ "type": "record", "name": "R", "fields": [{ "name": "a", "type": "S" }] }),
            "record R: field `a`: the type `S` is not defined",
        ),
        (
            json!({ "type": "enum", "name": "E", "symbols": ["A", "A"] }),
            "enum E: it has the symbol `A` twice",
        ),
        (json!({ "type": "fixed", "name": "F" }), "fixed F: it has no `size`"),
        (json!(["int", "int"]), "a union has an int twice"),
        (json!([["int"]]), "a union stands directly in a union"),
        (json!({ "type": "array" }), "an array has no `items`"),
    ] {
        let codec = Codec::of(schema);
        let why = now(codec.spec.reading("x")).err().expect("refused").to_string();
        assert!(why.contains(expected) && why.contains("schema_file.avsc"), "{why}");
    }
}

// Container files.

/// A record as it was cut: offset, next, value, reason.
type Cut = (u64, u64, Vec<u8>, Option<String>);

struct Limits {
    piece_bytes: usize,
    messages_max: usize,
    bytes_max: usize,
}

const WHOLE: Limits = Limits { piece_bytes: usize::MAX, messages_max: usize::MAX, bytes_max: usize::MAX };

/// What of a file is cut from `from` on, and its header.
fn cut(
    reading: &Reading,
    file: &[u8],
    from: u64,
    max: usize,
    limits: &Limits,
) -> (Vec<Cut>, Option<RawBatch>) {
    let mut cutter = reading.framing.cutter(Place { offset: from, line: 1 }, max);
    let mut pieces = file.chunks(limits.piece_bytes.min(file.len().max(1)));
    let (mut cuts, mut first, mut ended) = (Vec::new(), None, false);
    let mut next = from;
    loop {
        let mut batch = RawBatch::new(PartitionId { source: 0, partition: 0 });
        cutter.take(&mut batch, limits.messages_max, limits.bytes_max);
        if batch.records.is_empty() {
            match pieces.next() {
                Some(piece) => cutter.feed(piece.to_vec()),
                None if ended => return (cuts, first),
                None => {
                    ended = true;
                    cutter.end(&mut batch);
                    assert!(batch.records.len() <= 1);
                }
            }
        }
        assert!(batch.records.len() <= limits.messages_max);
        for record in &batch.records {
            assert!(record.offset >= next && record.next > record.offset);
            next = record.next;
            let value = batch.data[record.value.clone()].to_vec();
            cuts.push((record.offset, record.next, value, record.rejected.clone()));
        }
        assert_eq!(cutter.next(), next);
        if !batch.records.is_empty() {
            first.get_or_insert(batch);
        }
    }
}

/// A file with blocks of these many strings each.
fn file(codec: &Codec, blocks: &[usize]) -> Vec<u8> {
    let writing = codec.writing();
    let mut joiner = writing.framing.joiner();
    let mut file = joiner.head();
    let mut at = 0;
    for count in blocks {
        for _ in 0..*count {
            let datum = write(&writing, &format!("\"number {at}\"")).expect("a datum");
            joiner.push(&datum, &mut file);
            at += 1;
        }
        joiner.finish(&mut file);
    }
    file
}

fn strings(compression: &str) -> Codec {
    Codec::new(json!({ "schema_file": "string", "compression": compression }))
}

proptest! {
    #[test]
    fn cuts_are_the_same_however_the_file_comes(
        blocks in prop::collection::vec(0..6_usize, 0..6),
        deflate in any::<bool>(),
        limits in (1..200_usize, 1..9_usize, 1..100_usize),
        from in 0..30_u64,
        max in prop_oneof![Just(1000_usize), Just(9)],
        harm in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        short in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let codec = strings(if deflate { "deflate" } else { "null" });
        let mut file = file(&codec, &blocks);
        if let Some((at, byte)) = harm {
            let at = at.index(file.len());
            file[at] = byte;
        }
        if let Some(short) = short {
            file.truncate(short.index(file.len()));
        }
        let reading = codec.reading();
        let (whole, _) = cut(&reading, &file, 0, max, &WHOLE);
        let limits = Limits { piece_bytes: limits.0, messages_max: limits.1, bytes_max: limits.2 };
        prop_assert_eq!(&cut(&reading, &file, 0, max, &limits).0, &whole);
        // From each record's end, and from any other place, the rest is the same.
        for from in whole.iter().map(|cut| cut.1).chain([from]) {
            let inside = whole.iter().any(|cut| cut.0 < from && from < cut.1);
            let rest: Vec<_> = whole.iter().filter(|cut| cut.0 >= from).cloned().collect();
            prop_assert!(inside || cut(&reading, &file, from, max, &limits).0 == rest, "from {}", from);
        }
    }
}

#[test]
fn datums_of_a_file_are_read_by_its_header() {
    for compression in ["null", "deflate"] {
        let codec = strings(compression);
        let file = file(&codec, &[3, 0, 2]);
        assert_eq!(file, self::file(&codec, &[3, 0, 2]), "the same results are the same bytes");
        // The header's schema counts, whatever else the codec says.
        let reading = Codec::of(json!("long")).reading();
        let (cuts, first) = cut(&reading, &file, 0, 1000, &WHOLE);
        assert_eq!(cuts.len(), 5);
        let batch = first.expect("a batch");
        let texts: Vec<_> =
            batch.records.iter().map(|r| decode(&reading, &batch, r).expect("a message")).collect();
        assert_eq!(texts, ["\"number 0\"", "\"number 1\"", "\"number 2\"", "\"number 3\"", "\"number 4\""]);

        // The library reads the same.
        let theirs: Vec<_> =
            apache_avro::Reader::new(&file[..]).expect("a file").map(|v| v.expect("a value")).collect();
        assert_eq!(theirs.len(), 5);
        assert_eq!(theirs[4], Theirs::String("number 4".into()));
    }
    let (cuts, _) = cut(&Codec::of(json!("long")).reading(), b"", 0, 1000, &WHOLE);
    assert!(cuts.is_empty(), "a file of no bytes has no records");
}

#[test]
fn what_is_damaged_is_told_and_what_follows_is_read() {
    for compression in ["null", "deflate"] {
        let codec = strings(compression);
        let reading = codec.reading();
        let good = file(&codec, &[2, 2, 2, 2]);
        let sync = good[good.len() - 16..].to_vec();
        let ends: Vec<_> =
            good.windows(16).enumerate().filter(|(_, w)| *w == sync).map(|(at, _)| at + 16).collect();
        assert_eq!(ends.len(), 5, "the header and four blocks");
        let expect = |file: &[u8], refused: u64, offsets: &[u64], part: &str| {
            let (cuts, _) = cut(&reading, file, 0, 1000, &WHOLE);
            let got: Vec<_> = cuts.iter().map(|cut| cut.0).collect();
            assert_eq!(got, offsets, "{compression} {part}: {cuts:?}");
            let wrong: Vec<_> = cuts.iter().filter(|cut| cut.3.is_some()).collect();
            assert_eq!(wrong.len(), 1, "{wrong:?}");
            assert_eq!(wrong[0].0, refused, "{wrong:?}");
            assert!(wrong[0].3.as_deref().is_some_and(|why| why.contains(part)), "{wrong:?}");
        };
        // The second block's sync marker: the next one is behind the third.
        let mut file = good.clone();
        file[ends[2] - 1] ^= 1;
        let part = format!(
            "the block at byte {} of the file is damaged: the file's sync marker does not follow it",
            ends[1]
        );
        expect(&file, 2, &[0, 1, 2, 3, 4], &part);
        // Its count: a negative one.
        let mut file = good.clone();
        file[ends[1]] = 3;
        expect(&file, 2, &[0, 1, 2, 3, 4, 5, 6], "its count or its size is negative");
        // Its count: one more, or fewer, than there are.
        file[ends[1]] = 6;
        expect(&file, 4, &[0, 1, 2, 3, 4, 5, 6, 7, 8], "the block's last 1 of 3 datums are lost");
        file[ends[1]] = 2;
        expect(&file, 2, &[0, 1, 2, 3, 4, 5, 6], "bytes follow its last datum");
        // What is in it.
        let mut file = good.clone();
        file[ends[1] + 2] = 0xff;
        let part = if compression == "null" { "datum 0 of the block" } else { "DEFLATE data is" };
        expect(&file, 2, &[0, 1, 2, 4, 5, 6, 7], part);
        // The end.
        expect(&good[..ends[4] - 1], 6, &[0, 1, 2, 3, 4, 5, 6], "the file is cut off: its last block");
        expect(&good[..ends[0] - 1], 0, &[0], "the file's header is cut off");
        expect(b"{\"id\":1}", 0, &[0], "this is no Avro container file");
        expect(b"x", 0, &[0], "this is no Avro container file");
    }
    let mut snappy = b"Obj\x01\x04\x16avro.schema\x0c\"long\"\x14avro.codec\x0csnappy\x00".to_vec();
    snappy.extend_from_slice(&[7; 16]);
    let (cuts, _) = cut(&strings("null").reading(), &snappy, 0, 1000, &WHOLE);
    assert_eq!(cuts.len(), 1);
    assert_eq!(
        cuts[0].3.as_deref(),
        Some(
            "the file is compressed with `snappy`, which wasmill can't read: write it with the codec `null` or `deflate`"
        )
    );
}

#[test]
fn a_bomb_and_a_swarm_are_refused() {
    let codec = Codec::new(json!({ "schema_file": "bytes", "compression": "deflate" }));
    let mut file = codec.writing().framing.joiner().head();
    let sync = file[file.len() - 16..].to_vec();
    let mut packed = Vec::new();
    {
        let mut packer = flate2::write::DeflateEncoder::new(&mut packed, flate2::Compression::best());
        for _ in 0..65 {
            std::io::Write::write_all(&mut packer, &vec![0; 1 << 20]).expect("memory");
        }
    }
    file.push(2);
    let mut size = packed.len() << 1;
    while size >= 0x80 {
        file.push((size & 0x7f) as u8 | 0x80);
        size >>= 7;
    }
    file.push(size as u8);
    file.extend_from_slice(&packed);
    file.extend_from_slice(&sync);
    let (cuts, _) = cut(&codec.reading(), &file, 0, 1000, &WHOLE);
    assert_eq!(cuts.len(), 1);
    assert!(
        cuts[0].3.as_deref().is_some_and(|why| why.contains("more than 67108864 bytes when decompressed"))
    );

    let nulls = Codec::of(json!("null"));
    let mut file = nulls.writing().framing.joiner().head();
    let sync = file[file.len() - 16..].to_vec();
    file.extend_from_slice(&hex("fe ff ff ff 0f 00"));
    file.extend_from_slice(&sync);
    let (cuts, _) = cut(&nulls.reading(), &file, 0, 1000, &WHOLE);
    assert_eq!(cuts.len(), 1);
    assert!(
        cuts[0].3.as_deref().is_some_and(|why| why.contains("2147483647 datums in 0 bytes")),
        "{:?}",
        cuts[0].3
    );
}

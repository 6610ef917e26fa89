//! Protocol Buffers.

use serde_json::{Value, json};
use wasmill_codec::CodecSpec;
use wasmill_codec::registry::{Registered, SchemaKind};

use super::{
    client, decoded, file, of_json, payloads, reading, reasons, reference, refused, registered, run, spec,
    strange, value, write, writing,
};
use crate::apicurio::{Apicurio, shared};
use crate::registry::stub::Stub;

pub const V1: &str =
    "syntax = \"proto3\";\npackage shop;\nmessage Order {\n  int64 id = 1;\n  string sku = 2;\n}\n";
/// Types in types, behind a map.
const NESTED: &str = r#"syntax = "proto3";
package nest;
message Order {
  map<string, int32> counts = 1;
  message Line {
    map<int32, string> names = 1;
    message Part { string name = 1; }
    Part part = 2;
  }
  message Other { bool is = 1; }
  repeated Line lines = 2;
}
message Note { string text = 1; }
"#;

fn proto(text: &str) -> Registered {
    Registered::new(SchemaKind::Protobuf, text)
}

fn by(server: &Apicurio, subject: &str, message: Option<&str>) -> CodecSpec {
    let mut settings = json!({ "registry": { "url": server.url(), "subject": subject } });
    if let Some(message) = message {
        settings["message"] = json!(message);
    }
    spec("protobuf", settings)
}

#[test]
fn written_is_by_a_file_that_is_registered_or_looked_up_or_by_the_latest() {
    let server = shared();
    let v1 = file("v1.proto", V1);
    let with = |register: bool| {
        let registry = json!({ "url": server.url(), "subject": "pb-write", "register": register });
        spec("protobuf", json!({ "schema_file": v1.path, "registry": registry }))
    };
    let why = refused(&with(false));
    assert!(
        why.contains("subject `pb-write` doesn't have the schema of `schema_file`: register it"),
        "{why}"
    );
    let why = refused(&by(&server, "pb-write", None));
    assert!(why.contains("it has no subject `pb-write`: register a schema under it"), "{why}");

    let registering = writing(&with(true));
    let (id, latest) = run(client(&server).latest("pb-write")).expect("an answer").expect("it is registered");
    assert_eq!(latest, proto(V1));
    let expected = value(id, b"\x00\x08\x05\x12\x02ab");
    let payload = r#"{"id":5,"sku":"ab"}"#;
    assert_eq!(write(&registering, payload).as_ref(), Ok(&expected), "to the letter");
    for spec in [with(true), with(false), by(&server, "pb-write", None)] {
        assert_eq!(write(&writing(&spec), payload).as_ref(), Ok(&expected));
    }
    let v2 = proto(&V1.replace("2;\n}", "2;\n  int32 qty = 3;\n}"));
    let newer = registered(&server, "pb-write", &v2);
    assert_ne!(newer, id);
    let with_qty = value(newer, b"\x00\x08\x05\x18\x07");
    assert_eq!(
        write(&writing(&by(&server, "pb-write", None)), r#"{"id":5,"qty":7}"#).as_ref(),
        Ok(&with_qty)
    );
    assert_eq!(write(&writing(&with(false)), payload).as_ref(), Ok(&expected));
    assert!(
        write(&registering, r#"{"id":5,"qty":7}"#).expect_err("v1").contains("shop.Order has no field `qty`")
    );

    // Both versions in one stream, each by its own schema.
    let values = [expected.clone(), with_qty.clone(), expected];
    assert_eq!(
        decoded(&reading(&by(&server, "any", None)), &values),
        [payload, r#"{"id":5,"qty":7}"#, payload].map(|p| Ok(("shop.Order".to_owned(), p.to_owned())))
    );

    let unnamed = spec("protobuf", json!({ "schema_file": v1.path, "registry": { "url": server.url() } }));
    run(unnamed.writing("pb-topic")).expect("a writing half");
    assert!(run(client(&server).latest("pb-topic-value")).expect("an answer").is_some());
    registered(&server, "pb-json", &of_json());
    let why = refused(&by(&server, "pb-json", None));
    assert!(
        why.contains("the latest schema of subject `pb-json` is of the type JSON, not PROTOBUF"),
        "{why}"
    );
    let settings = json!({ "descriptor_file": "x.desc", "registry": { "url": server.url() } });
    let why = refused(&spec("protobuf", settings));
    assert!(
        why.contains("a registry takes the text of a schema, not descriptors: set `schema_file`"),
        "{why}"
    );
}

#[test]
fn an_incompatible_schema_is_refused_at_the_start_in_words() {
    let server = shared();
    registered(&server, "pb-strict", &proto(V1));
    server.compatible_backward("pb-strict");
    let wrong = file("order.proto", &V1.replace("string sku", "int64 sku"));
    let settings =
        json!({ "schema_file": wrong.path, "registry": { "url": server.url(), "subject": "pb-strict" } });
    let why = refused(&spec("protobuf", settings));
    for part in [
        "the schema is incompatible with what subject `pb-strict` has, saying: ",
        "; compared with version 1, the latest",
        "; change the schema so that it is compatible, set another `subject`, or",
    ] {
        assert!(why.contains(part), "{why}");
    }
    let (_, latest) = run(client(&server).latest("pb-strict")).expect("an answer").expect("a subject");
    assert_eq!(latest, proto(V1), "nothing was registered");
}

#[test]
fn the_indexes_say_which_type_it_is() {
    let server = shared();
    let id = registered(&server, "pb-nest", &proto(NESTED));
    let all = reading(&by(&server, "pb-nest", None));
    // The message, its indexes, a payload, its body.
    let types: [(&str, &[u8], &str, &[u8]); 5] = [
        ("nest.Order", b"\x00", r#"{"counts":{"a":1}}"#, b"\x0a\x05\x0a\x01a\x10\x01"),
        ("nest.Note", b"\x02\x02", r#"{"text":"x"}"#, b"\x0a\x01x"),
        ("nest.Order.Line", b"\x04\x00\x00", r#"{"part":{"name":"p"}}"#, b"\x12\x03\x0a\x01p"),
        ("nest.Order.Line.Part", b"\x06\x00\x00\x00", r#"{"name":"p"}"#, b"\x0a\x01p"),
        ("nest.Order.Other", b"\x04\x00\x02", r#"{"is":true}"#, b"\x08\x01"),
    ];
    for (message, indexes, payload, body) in types {
        let expected = value(id, &[indexes, body].concat());
        let spec = by(&server, "pb-nest", Some(message));
        assert_eq!(write(&writing(&spec), payload).as_ref(), Ok(&expected), "{message}");
        for reading in [&all, &reading(&spec)] {
            let read = decoded(reading, std::slice::from_ref(&expected));
            assert_eq!(read, [Ok((message.to_owned(), payload.to_owned()))]);
        }
    }
    // The first one may be written out, too.
    assert_eq!(payloads(&all, &[value(id, b"\x02\x00")]), ["{}"]);
    // Where nothing is at such a place, the pairs of maps count, as Confluent's clients for Python and Go have it.
    for (indexes, kind) in
        [(&b"\x04\x00\x04"[..], "nest.Order.Other"), (b"\x06\x00\x02\x02", "nest.Order.Line.Part")]
    {
        assert_eq!(decoded(&all, &[value(id, indexes)]), [Ok((kind.to_owned(), "{}".to_owned()))]);
    }
    // And where both are, `message` tells.
    let line_in_python = [value(id, b"\x04\x00\x02\x12\x03\x0a\x01p")];
    assert_eq!(decoded(&all, &line_in_python), [Ok(("nest.Order.Other".to_owned(), "{}".to_owned()))]);
    let line = reading(&by(&server, "pb-nest", Some("nest.Order.Line")));
    assert_eq!(payloads(&line, &line_in_python), [r#"{"part":{"name":"p"}}"#]);

    let good = (value(id, b"\x02\x02\x0a\x01x"), r#"{"text":"x"}"#);
    let bad: [(&[u8], &str); 8] = [
        (b"", "the message indexes behind the schema's id, at byte 5: cut off"),
        (b"\x02", "the message indexes behind the schema's id, at byte 5: cut off"),
        (b"\xff", "the message indexes behind the schema's id, at byte 5: cut off"),
        (
            b"\x01",
            "the message indexes behind the schema's id, at byte 5: -1 of them, where up to 100 are expected",
        ),
        (
            b"\xd0\x0f",
            "the message indexes behind the schema's id, at byte 5: 1000 of them, where up to 100 are expected",
        ),
        (b"\x02\x01", "the message indexes behind the schema's id, at byte 5: -1 is no index"),
        (b"\x02\x04", "schema ID has no message type at the indexes [2]: it was written by another schema"),
        (
            b"\x08\x00\x00\x00\x00",
            "schema ID has no message type at the indexes [0, 0, 0, 0]: it was written by another schema",
        ),
    ];
    let values: Vec<_> = bad.iter().map(|(body, _)| value(id, body)).collect();
    let expected: Vec<_> = bad.iter().map(|(_, why)| why.replace("ID", &id.to_string())).collect();
    assert_eq!(reasons(&all, &good, &values), expected);
    let notes = reading(&by(&server, "pb-nest", Some("nest.Note")));
    assert_eq!(
        reasons(&notes, &good, &[value(id, b"\x00")]),
        ["it is a `nest.Order`, and `message: nest.Note` is set: leave it out to take all types"]
    );
    let why = refused(&by(&server, "pb-nest", Some("nest.Nope")));
    assert!(
        why.contains("it has nest.Order, nest.Order.Line, ") && why.contains("set `message` to one"),
        "{why}"
    );
}

#[test]
fn imports_of_other_subjects_come_along() {
    let server = shared();
    let money = proto("syntax = \"proto3\";\npackage base;\nmessage Money { int64 cents = 1; }\n");
    let line = Registered {
        references: vec![reference("base/money.proto", "pb-money", &money)],
        ..proto(
            "syntax = \"proto3\";\npackage shop;\nimport \"base/money.proto\";\nmessage Line { base.Money price = 1; }\n",
        )
    };
    let cart = Registered {
        references: vec![reference("shop/line.proto", "pb-line", &line)],
        ..proto(
            "syntax = \"proto3\";\npackage shop;\nimport \"google/protobuf/timestamp.proto\";\nimport \"shop/line.proto\";\nmessage Cart {\n  repeated Line lines = 1;\n  google.protobuf.Timestamp at = 2;\n}\n",
        )
    };
    registered(&server, "pb-money", &money);
    registered(&server, "pb-line", &line);
    let id = registered(&server, "pb-cart", &cart);
    let payload = r#"{"lines":[{"price":{"cents":5}}],"at":"1970-01-01T00:00:01Z"}"#;
    let expected = value(id, b"\x00\x0a\x04\x0a\x02\x08\x05\x12\x02\x08\x01");
    let spec = by(&server, "pb-cart", None);
    assert_eq!(write(&writing(&spec), payload).as_ref(), Ok(&expected));
    assert_eq!(decoded(&reading(&spec), &[expected]), [Ok(("shop.Cart".into(), payload.into()))]);

    let importing = file("cart.proto", &cart.text);
    let settings =
        json!({ "schema_file": importing.path, "registry": { "url": server.url(), "subject": "pb-cart" } });
    let why = refused(&super::spec("protobuf", settings));
    for part in ["cart.proto: ", "shop/line.proto", "register it yourself", "leave `schema_file` out"] {
        assert!(why.contains(part), "{why}");
    }
}

#[test]
fn what_can_not_be_read_says_why() {
    let server = shared();
    let id = registered(&server, "pb-bad", &proto(V1));
    let foreign = registered(&server, "pb-bad-avro", &Registered::new(SchemaKind::Avro, super::avro::V1));
    let reading = reading(&by(&server, "pb-bad", None));
    let good = (value(id, b"\x00\x08\x01"), r#"{"id":1}"#);
    let (mut values, mut expected) = strange(&server);
    values.push(value(foreign, b"\x00\x08\x01"));
    expected.push(format!("schema {foreign}: it is of the type AVRO, not PROTOBUF: choose the codec for it"));
    values.push(value(id, b"\x00\x12\x02a"));
    expected.push("`payload.sku`: a length of 2 bytes where 1 are left, at byte 7".into());
    values.push(value(id, b"\x00\x0a\x01a"));
    expected.push("`payload.id`: field 1 has bytes with a length (2), but is int64 by its type: it was written by another message type, at byte 6".into());
    values[0] = value(999_999, b"\x00");
    assert_eq!(reasons(&reading, &good, &values), expected);
}

/// Confluent's client for Python registers descriptors in base64; some registries keep them so.
#[test]
fn a_descriptor_in_base64_is_a_schema_too() {
    use base64::Engine as _;
    use prost_reflect::prost::Message as _;
    let text = |name: &str, text: &str| {
        let mut file =
            protox::file::File::from_source(name, text).expect("good").file_descriptor_proto().clone();
        file.name = Some(name.to_owned());
        base64::engine::general_purpose::STANDARD.encode(file.encode_to_vec())
    };
    let stub = |schema: Value| schema.to_string();
    let base = text("base.proto", "syntax = \"proto3\"; package base; message Money { int64 cents = 1; }");
    let root = text(
        "other_name.proto",
        "syntax = \"proto3\"; package shop; import \"base.proto\"; message Cart { base.Money sum = 1; }",
    );
    let server = Stub::start(move |asked| match asked.what.as_str() {
        "GET /schemas/ids/7" => (
            200,
            stub(
                json!({ "schemaType": "PROTOBUF", "schema": root, "references": [{ "name": "base.proto", "subject": "b", "version": 1 }] }),
            ),
        ),
        "GET /subjects/b/versions/1?deleted=true" => {
            (200, stub(json!({ "schemaType": "PROTOBUF", "schema": base, "id": 6, "version": 1 })))
        }
        // Neither a text nor a descriptor.
        "GET /schemas/ids/8" => (200, stub(json!({ "schemaType": "PROTOBUF", "schema": "AAAA" }))),
        _ => (404, stub(json!({ "error_code": 40403, "message": "no" }))),
    });
    let reading = reading(&spec("protobuf", json!({ "registry": { "url": server.url() } })));
    let good = (value(7, b"\x00\x0a\x02\x08\x05"), r#"{"sum":{"cents":5}}"#);
    let why = reasons(&reading, &good, &[value(8, b"\x00")]).remove(0);
    assert!(why.starts_with("schema 8: the .proto text can't be compiled: "), "{why}");
}

//! Avro.

use serde_json::json;
use wasmill_codec::CodecSpec;
use wasmill_codec::registry::{Registered, SchemaKind};

use super::{
    client, decoded, file, of_json, payloads, reading, reasons, reference, refused, registered, run, spec,
    strange, value, write, writing,
};
use crate::apicurio::{Apicurio, shared};

pub const V1: &str = r#"{"type":"record","name":"Order","namespace":"shop","fields":[{"name":"id","type":"long"},{"name":"sku","type":"string"}]}"#;
const V2: &str = r#"{"type":"record","name":"Order","namespace":"shop","fields":[{"name":"id","type":"long"},{"name":"sku","type":"string"},{"name":"qty","type":"int","default":7},{"name":"note","type":["null","string"],"default":null}]}"#;

fn by(server: &Apicurio, subject: &str) -> CodecSpec {
    spec("avro", json!({ "registry": { "url": server.url(), "subject": subject } }))
}

fn avro(text: &str) -> Registered {
    Registered::new(SchemaKind::Avro, text)
}

#[test]
fn written_is_by_a_file_that_is_registered_or_looked_up_or_by_the_latest() {
    let server = shared();
    let (v1, v2) = (file("v1.avsc", V1), file("v2.avsc", V2));
    let with = |file: &super::File, register: bool, subject: &str| {
        let registry = json!({ "url": server.url(), "subject": subject, "register": register });
        spec("avro", json!({ "schema_file": file.path, "registry": registry }))
    };
    let why = refused(&with(&v1, false, "av-write"));
    assert!(
        why.contains("subject `av-write` doesn't have the schema of `schema_file`: register it"),
        "{why}"
    );
    let why = refused(&by(&server, "av-write"));
    assert!(why.contains("it has no subject `av-write`: register a schema under it"), "{why}");

    let registering = writing(&with(&v1, true, "av-write"));
    let (id, latest) = run(client(&server).latest("av-write")).expect("an answer").expect("it is registered");
    assert_eq!(latest, avro(V1));
    let expected = value(id, b"\x0a\x04ab");
    let payload = r#"{"id":5,"sku":"ab"}"#;
    assert_eq!(write(&registering, payload).as_ref(), Ok(&expected), "to the letter");
    for spec in [with(&v1, true, "av-write"), with(&v1, false, "av-write"), by(&server, "av-write")] {
        assert_eq!(write(&writing(&spec), payload).as_ref(), Ok(&expected));
    }
    assert!(write(&registering, r#"{"id":5}"#).expect_err("no sku").contains("payload.sku: it is missing"));
    // The subject's latest is another one now; who has a file keeps to it.
    let newer = registered(&server, "av-write", &avro(V2));
    assert_ne!(newer, id);
    assert_eq!(write(&writing(&with(&v1, false, "av-write")), payload), Ok(expected.clone()));
    assert_eq!(write(&writing(&by(&server, "av-write")), payload), Ok(value(newer, b"\x0a\x04ab\x0e\x00")));

    // Without a subject it is that of what is written.
    let unnamed = spec("avro", json!({ "schema_file": v2.path, "registry": { "url": server.url() } }));
    let written = run(unnamed.writing("av-topic")).expect("a writing half");
    let (id, _) =
        run(client(&server).latest("av-topic-value")).expect("an answer").expect("it is registered");
    assert_eq!(write(&written, r#"{"id":0,"sku":"","note":"x"}"#), Ok(value(id, b"\0\0\x0e\x02\x02x")));
    assert_eq!(payloads(&reading(&by(&server, "any")), &[expected]), [payload]);

    registered(&server, "av-json", &of_json());
    let why = refused(&by(&server, "av-json"));
    assert!(why.contains("the latest schema of subject `av-json` is of the type JSON, not AVRO"), "{why}");
}

#[test]
fn a_stream_of_two_versions_is_read_as_one() {
    let server = shared();
    let first = registered(&server, "av-evolve", &avro(V1));
    server.compatible_backward("av-evolve");
    let second = registered(&server, "av-evolve", &avro(V2));
    assert_ne!(first, second);
    let values = [
        value(first, b"\x02\x02a"),
        value(second, b"\x04\x02b\x06\x02\x02n"),
        value(first, b"\x06\x02c"),
        value(second, b"\x08\x02d\x00\x00"),
    ];
    let all = |reader: Option<&str>| {
        let reader = reader.map(|text| file("reader.avsc", text));
        let mut settings = json!({ "registry": { "url": server.url() } });
        if let Some(reader) = &reader {
            settings["reader_schema_file"] = json!(reader.path);
        }
        decoded(&reading(&spec("avro", settings)), &values)
            .into_iter()
            .map(|m| m.map(|(kind, payload)| format!("{kind} {payload}")))
            .collect::<Vec<_>>()
    };
    let ok = |texts: [&str; 4]| texts.map(|text| Ok(text.to_owned()));
    assert_eq!(
        all(None),
        ok([
            r#"shop.Order {"id":1,"sku":"a"}"#,
            r#"shop.Order {"id":2,"sku":"b","qty":3,"note":"n"}"#,
            r#"shop.Order {"id":3,"sku":"c"}"#,
            r#"shop.Order {"id":4,"sku":"d","qty":0,"note":null}"#,
        ])
    );
    assert_eq!(
        all(Some(V2)),
        ok([
            r#"shop.Order {"id":1,"sku":"a","qty":7,"note":null}"#,
            r#"shop.Order {"id":2,"sku":"b","qty":3,"note":"n"}"#,
            r#"shop.Order {"id":3,"sku":"c","qty":7,"note":null}"#,
            r#"shop.Order {"id":4,"sku":"d","qty":0,"note":null}"#,
        ])
    );
    // Renamed, widened, with one field less.
    let renamed = r#"{"type":"record","name":"Item","namespace":"other","aliases":["shop.Order"],"fields":[{"name":"qty","type":"double","default":1.5},{"name":"item","aliases":["sku"],"type":"string"}]}"#;
    assert_eq!(
        all(Some(renamed)),
        ok([
            r#"other.Item {"item":"a","qty":1.5}"#,
            r#"other.Item {"item":"b","qty":3.0}"#,
            r#"other.Item {"item":"c","qty":1.5}"#,
            r#"other.Item {"item":"d","qty":0.0}"#,
        ])
    );
    // What only one of the versions can give is a dead letter of the other's messages alone.
    let strict = V2.replace(r#""default":7"#, r#""doc":"no default""#);
    let read = all(Some(&strict));
    for n in [0, 2] {
        let why = read[n].clone().expect_err("no qty");
        assert!(why.contains("qty") && why.contains("no default"), "{why}");
    }
    assert_eq!(read[1], Ok(r#"shop.Order {"id":2,"sku":"b","qty":3,"note":"n"}"#.to_owned()));
}

#[test]
fn an_incompatible_schema_is_refused_at_the_start_in_words() {
    let server = shared();
    registered(&server, "av-strict", &avro(V1));
    server.compatible_backward("av-strict");
    let wrong = V1.replace(r#""name":"sku""#, r#""name":"item""#);
    let wrong = file("order.avsc", &wrong);
    let settings =
        json!({ "schema_file": wrong.path, "registry": { "url": server.url(), "subject": "av-strict" } });
    let why = refused(&spec("avro", settings));
    for part in [
        "the schema is incompatible with what subject `av-strict` has, saying: ",
        "item",
        "; compared with version 1, the latest",
        "; change the schema so that it is compatible, set another `subject`, or",
    ] {
        assert!(why.contains(part), "{why}");
    }
    let (_, latest) = run(client(&server).latest("av-strict")).expect("an answer").expect("a subject");
    assert_eq!(latest, avro(V1), "nothing was registered");
}

#[test]
fn types_of_other_subjects_come_along() {
    let server = shared();
    let money = avro(
        r#"{"type":"fixed","name":"Money","namespace":"base","size":4,"logicalType":"decimal","precision":9,"scale":2}"#,
    );
    let line = Registered {
        references: vec![reference("base.Money", "av-money", &money)],
        ..avro(
            r#"{"type":"record","name":"Line","namespace":"shop","fields":[{"name":"price","type":"base.Money"},{"name":"next","type":["null","Line"],"default":null}]}"#,
        )
    };
    let cart = Registered {
        references: vec![
            reference("shop.Line", "av-line", &line),
            reference("base.Money", "av-money", &money),
        ],
        ..avro(
            r#"{"type":"record","name":"Cart","namespace":"shop","fields":[{"name":"lines","type":{"type":"array","items":"Line"}},{"name":"sum","type":"base.Money"}]}"#,
        )
    };
    registered(&server, "av-money", &money);
    registered(&server, "av-line", &line);
    let id = registered(&server, "av-cart", &cart);
    let payload = r#"{"lines":[{"price":1.50,"next":{"price":-0.01,"next":null}}],"sum":1.49}"#;
    let expected = value(id, b"\x02\x00\x00\x00\x96\x02\xff\xff\xff\xff\x00\x00\x00\x00\x00\x95");
    let spec = by(&server, "av-cart");
    assert_eq!(write(&writing(&spec), payload).as_ref(), Ok(&expected));
    assert_eq!(decoded(&reading(&spec), &[expected]), [Ok(("shop.Cart".into(), payload.into()))]);

    // A file doesn't say where the types are that it refers to.
    let refers = file("cart.avsc", &cart.text);
    let settings =
        json!({ "schema_file": refers.path, "registry": { "url": server.url(), "subject": "av-cart" } });
    let why = refused(&super::spec("avro", settings));
    for part in ["cart.avsc: ", "the type `shop.Line` is not defined", "leave `schema_file` out"] {
        assert!(why.contains(part), "{why}");
    }
}

#[test]
fn what_can_not_be_read_says_why() {
    let server = shared();
    let id = registered(&server, "av-bad", &avro(V1));
    let foreign = registered(&server, "av-bad-json", &of_json());
    let reading = reading(&by(&server, "av-bad"));
    let good = (value(id, b"\x02\x02a"), r#"{"id":1,"sku":"a"}"#);
    let (mut values, mut expected) = strange(&server);
    values.push(value(foreign, b"{}"));
    expected.push(format!("schema {foreign}: it is of the type JSON, not AVRO"));
    values.push(value(id, b"\x02\x04a"));
    expected.push("payload.sku, at byte 1: a string of 2 bytes is cut off: 1 are left".into());
    values.push(value(id, b"\x02\x02ab"));
    expected.push(
        "payload, at byte 3: the datum ends here, but 1 more bytes follow: it was written by another schema"
            .into(),
    );
    assert_eq!(reasons(&reading, &good, &values), expected);
    // Every cut of a good value.
    let cuts: Vec<_> = (0..good.0.len()).map(|end| good.0[..end].to_vec()).collect();
    assert!(reasons(&reading, &good, &cuts).iter().all(|why| !why.is_empty()));
}

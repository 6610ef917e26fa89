//! Codecs in whole pipelines: from envelopes to a codec's files, and from these back, killed on the way.

use wasmill_tests::Place;
use wasmill_tests::output::{field, finished_lines, lines, sorted};
use wasmill_tests::random::Random;

use crate::killing::{Killing, kill_and_resume};

/// Each codec with its settings, and what the files end in.
const CODECS: &[(&str, &str)] = &[
    ("json", "jsonl"),
    ("json_body", "jsonl"),
    ("{ json_schema: { schema_file: schemas/order.schema.json } }", "jsonl"),
    ("text", "txt"),
    ("raw", "bin"),
    (
        "{ csv: { columns: [number, carrier, delay, note], types: { number: integer, delay: number } } }",
        "csv",
    ),
    ("cloudevents", "jsonl"),
    ("{ avro: { schema_file: schemas/order.avsc, compression: deflate } }", "avro"),
    ("{ protobuf: { schema_file: schemas/order.proto, message: Order } }", "pb"),
    ("messagepack", "msgpack"),
];

const JSON_SCHEMA: &str = r#"{ "type": "object", "additionalProperties": false,
  "required": ["number", "carrier", "delay", "note"],
  "properties": { "number": { "type": "integer" }, "carrier": { "enum": ["AA", "UA", "DL"] },
    "delay": { "type": "number" }, "note": { "type": "string" } } }"#;

const AVRO: &str = r#"{ "type": "record", "name": "Order", "fields": [ { "name": "number", "type": "long" },
  { "name": "carrier", "type": { "type": "enum", "name": "Carrier", "symbols": ["AA", "UA", "DL"] } },
  { "name": "delay", "type": "double" }, { "name": "note", "type": "string" } ] }"#;

const PROTO: &str = "syntax = \"proto3\";
message Order { int64 number = 1; string carrier = 2; double delay = 3; string note = 4; }
";

const MESSAGES: usize = 1_500;

fn payload(n: usize) -> String {
    let carrier = ["AA", "UA", "DL"][n % 3];
    format!(
        r#"{{"number":{},"carrier":"{carrier}","delay":{},"note":"n {n}, \"ö\"\n{}"}}"#,
        9_007_199_254_740_993 + n,
        n as f64 - 700.5,
        "x".repeat(n % 40)
    )
}

fn input() -> String {
    let line = |n| {
        let time = 1_600_000_000_000_u64 + n as u64;
        format!("{{\"id\":\"{n}\",\"type\":\"order\",\"payload\":{},\"timestamp\":{time}}}\n", payload(n))
    };
    (0..MESSAGES).map(line).collect()
}

fn place() -> Place {
    let place = Place::new();
    place.file("input.jsonl", input());
    place.file("schemas/order.schema.json", JSON_SCHEMA);
    place.file("schemas/order.avsc", AVRO);
    place.file("schemas/order.proto", PROTO);
    place
}

/// The payload of an envelope, to the letter.
fn payload_of(line: &str) -> String {
    let start = line.find("\"payload\":").map_or(0, |at| at + 10);
    let end = [",\"timestamp\":", ",\"metadata\":"].iter().find_map(|next| line.rfind(next));
    line[start..end.unwrap_or(line.len())].to_owned()
}

#[test]
fn what_goes_out_by_a_codec_comes_back_by_it() {
    let expected = sorted((0..MESSAGES).map(payload).collect());
    let mut random = Random::shown("codecs");
    for (codec, extension) in CODECS {
        let place = place();
        let there = format!(
            "name: there\nsource: {{ file: {{ path: input.jsonl }} }}\n\
             sink: {{ file: {{ path: there, roll_bytes: 20kB }}, codec: {codec} }}\ndead_letter: {{ file: {{ path: dead }} }}\n"
        );
        place.file("pipeline.yaml", there);
        place.pipeline().run().exits(0);
        assert_eq!(finished_lines(&place.path("dead")), Vec::<String>::new(), "{codec}");
        let first = place.path("there").join(format!("part-000001.{extension}"));
        assert!(first.exists(), "{codec}: there is no {}", first.display());

        let back = format!(
            "name: back\nsource: {{ file: {{ path: \"there/part-*\" }}, codec: {codec} }}\ndata_dir: data\n\
             sink: {{ file: {{ path: back }} }}\ndead_letter: {{ file: {{ path: dead }} }}\n"
        );
        place.file("pipeline.yaml", back);
        let killing = Killing {
            kills: 2,
            age_ms: (100, 400),
            rate: 3_000,
            workers: &[1, 3],
            batch_sizes: &[1, 7, 256],
        };
        let (_, ended) = kill_and_resume(&killing, &mut random, || place.pipeline());
        ended.exits(0);
        assert_eq!(lines(&place.path("dead")), Vec::<String>::new(), "{codec}");
        let came = finished_lines(&place.path("back"));
        let came = sorted(came.iter().map(|line| payload_of(line)).collect());
        // A codec of text or bytes gives them back as such.
        let differs = came.iter().zip(&expected).find(|(a, b)| a != b);
        assert_eq!((came.len(), differs), (MESSAGES, None), "{codec}");
    }
}

#[test]
fn rows_that_are_none_are_dead_letters_and_their_neighbours_pass() {
    let place = Place::new();
    place.file(
        "pipeline.yaml",
        "name: rows\nsource: { file: { path: rows.csv }, codec: { csv: { types: { delay: integer } } } }\n\
         sink: { file: { path: out } }\ndead_letter: { file: { path: dead } }\n",
    );
    place.file("rows.csv", "carrier,delay\nAA,1\nUA,late\nDL\n\"B\"6,1\n\"a\nb\",7\n");
    place.pipeline().run().exits(0);
    let out: Vec<String> = finished_lines(&place.path("out")).iter().map(|line| payload_of(line)).collect();
    assert_eq!(out, [r#"{"carrier":"AA","delay":1}"#, r#"{"carrier":"a\nb","delay":7}"#]);
    let dead = finished_lines(&place.path("dead"));
    let reasons: Vec<_> = dead.iter().map(|line| field(line, "/payload/reason").to_string()).collect();
    assert_eq!(reasons.len(), 3, "{reasons:#?}");
    for (reason, part) in reasons.iter().zip(["line 3: column 2 (`delay`): `late`", "line 4: ", "line 5: "]) {
        assert!(reason.contains(part), "{part:?} is not in {reason}");
    }
    assert_eq!(field(&dead[0], "/payload/original/value"), "UA,late");
    assert_eq!(field(&dead[0], "/payload/original/preamble"), "carrier,delay");
}

#[test]
fn what_is_declared_at_both_ends_is_compared_by_check() {
    let place = place();
    let spec = "name: differ\nsource: { file: { path: input.jsonl }, codec: { json_schema: { schema_file: schemas/order.schema.json } } }\n\
                stages: [{ key_by: payload.carier }, { aggregate: count }]\n\
                sink: { file: { path: out }, codec: { avro: { schema_file: schemas/count.avsc } } }\n";
    place.file("pipeline.yaml", spec);
    place.file("schemas/count.avsc", r#"{ "type": "record", "name": "C", "fields": [] }"#);
    let ended = place.wasmill(["check", "pipeline.yaml"]).run().exits(2);
    ended.says(&["the schema of the source `file` has no field `carier`", "did you mean `carrier`?"]);
    let spec = "name: differ\nsource: { file: { path: input.jsonl }, codec: { json_schema: { schema_file: schemas/order.schema.json } } }\n\
                sink: { file: { path: out }, codec: { avro: { schema_file: schemas/total.avsc } } }\n";
    place.file("pipeline.yaml", spec);
    place.file(
        "schemas/total.avsc",
        r#"{ "type": "record", "name": "T", "fields": [{ "name": "carrier", "type": "string" }, { "name": "delay", "type": "string" }] }"#,
    );
    let ended = place.wasmill(["check", "pipeline.yaml"]).run().exits(2);
    ended.says(&[
        "`payload.",
        "the schema of the source `file`",
        "the schema of the sink `file`",
        "payload.delay",
    ]);
}

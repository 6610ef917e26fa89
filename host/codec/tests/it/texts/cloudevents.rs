//! CloudEvents.

use proptest::prelude::*;
use serde_json::{Value, json};
use wasmill_codec::Takes;
use wasmill_frame::{Message, MetaKind};

use super::support::*;

const GOOD: &str = r#"{"specversion":"1.0","id":"1","source":"/a","type":"t"}"#;

fn structured(member: &str) -> Rec {
    rec(GOOD.replace("}", &format!(",{member}}}")))
}

fn read(rec: &Rec) -> String {
    let frame = decode(&reading(json!("cloudevents")), rec).unwrap_or_else(|e| panic!("{rec:?}: {e}"));
    shown(frame.get(0)).replace(&i64::MIN.to_string(), "-")
}

fn ce(value: impl AsRef<[u8]>) -> Rec {
    rec(value).with("ce_specversion", "1.0").with("ce_id", "1").with("ce_source", "/a").with("ce_type", "t")
}

#[test]
fn structured_events_are_messages() {
    for (member, message) in [
        (r#""data":{"a":1.50}"#, r#"1 t - json {"a":1.50} [source=/a]"#),
        (r#""data":null"#, "1 t - json null [source=/a]"),
        (r#""subject":"s","dataschema":null"#, "1 t -  [source=/a subject=s]"),
        (r#""time":"2018-04-05T17:31:00.123456Z""#, "1 t 1522949460123  [source=/a]"),
        (r#""ext1":"é","n":-5,"b":true"#, "1 t -  [source=/a ext1=é n:-5 b:true]"),
        (r#""datacontenttype":"text/xml","data":"<a\/>""#, "1 t - <a/> [source=/a datacontenttype=text/xml]"),
        (
            r#""datacontenttype":"text/json; charset=utf-8","data":"x""#,
            r#"1 t - json "x" [source=/a datacontenttype=text/json; charset=utf-8]"#,
        ),
        (
            r#""datacontenttype":"a/b+JSON","data_base64":"eyJhIjoxfQ==""#,
            r#"1 t - json {"a":1} [source=/a datacontenttype=a/b+JSON]"#,
        ),
        (r#""data_base64":"AGE=""#, "1 t - \0a [source=/a]"),
    ] {
        assert_eq!(read(&structured(member)), message);
        assert_eq!(
            read(&structured(member).with("Content-Type", "application/CloudEvents+json; charset=UTF-8")),
            message
        );
    }
}

#[test]
fn binary_events_are_messages() {
    for (rec, message) in [
        (
            ce(r#"{"a":1}"#).with("content-type", "application/json"),
            r#"1 t - json {"a":1} [source=/a datacontenttype=application/json]"#,
        ),
        (ce("<a/>").with("content-type", "text/xml"), "1 t - <a/> [source=/a datacontenttype=text/xml]"),
        (ce(""), "1 t -  [source=/a]"),
        (
            ce("x").with("ce_time", "2018-04-05T17:31:00Z").with("ce_n", "5%20"),
            "1 t 1522949460000 x [source=/a n=5%20]",
        ),
        (
            rec("x")
                .with("CE-SpecVersion", "1.0")
                .with("Ce-Id", "1%20%E2%82%AC%zz")
                .with("ce-source", "/a")
                .with("ce-type", "t"),
            "1 €%zz t - x [source=/a]",
        ),
    ] {
        assert_eq!(read(&rec), message);
    }
    let keyless = ce("").with("ce_partitionkey", "p");
    assert_eq!(
        decode(&reading(json!("cloudevents")), &keyless).expect("an event").get(0).key(),
        Some(&b"p"[..])
    );
    let keyed = keyless.keyed("k");
    assert_eq!(
        decode(&reading(json!("cloudevents")), &keyed).expect("an event").get(0).key(),
        Some(&b"k"[..])
    );
}

#[test]
fn what_is_no_event_is_told() {
    let without = |name: &str| {
        let mut event: Value = serde_json::from_str(GOOD).expect("JSON");
        event.as_object_mut().expect("an object").remove(name);
        rec(event.to_string())
    };
    let ce_without = |name: &str| {
        let mut rec = ce("x");
        rec.headers.retain(|(n, _)| n != name);
        rec
    };
    let reading = reading(json!("cloudevents"));
    let cases = [
        (rec(""), "empty: expected one JSON value"),
        (
            rec("[1]"),
            "an array: expected an event of CloudEvents, a JSON object with `specversion`, `id`, `source` and `type`",
        ),
        (rec("{"), "broken JSON: cut off at column 1 (EOF while parsing an object)"),
        (without("specversion"), "no `specversion`: an event of CloudEvents needs it"),
        (without("id"), "no `id`: an event needs one"),
        (without("source"), "no `source`: an event needs one"),
        (without("type"), "no `type`: an event needs one"),
        (
            rec(GOOD.replace("1.0", "0.3")),
            "`specversion` is `0.3`: expected 1.0, the version of CloudEvents that is read",
        ),
        (
            rec(GOOD.replace("\"/a\"", "\"\"")),
            "the attribute `source` is empty: expected a URI or a path of one",
        ),
        (rec(GOOD.replace("\"/a\"", "5")), "the attribute `source` is a number: expected text"),
        (rec(GOOD.replace("\"t\"", "\"\"")), "the attribute `type` is empty: expected a type"),
        (structured(r#""id":"2""#), "`id` stands twice: an event has it once"),
        (
            structured(r#""Ext":"2""#),
            "`Ext` can't be an attribute of CloudEvents: names have lower-case letters and digits alone",
        ),
        (
            structured(r#""e_x":"2""#),
            "`e_x` can't be an attribute of CloudEvents: names have lower-case letters and digits alone",
        ),
        (structured(r#""x":{}"#), "the attribute `x` is an object: expected text, an integer, true or false"),
        (
            structured(r#""x":1.5"#),
            "the attribute `x` is 1.5: expected an integer of 32 bits, for CloudEvents has no other numbers",
        ),
        (
            structured(r#""x":2147483648"#),
            "the attribute `x` is 2147483648: expected an integer of 32 bits, for CloudEvents has no other numbers",
        ),
        (
            structured(r#""x":"a\nb""#),
            "the attribute `x` has the character U+000A, which no attribute of CloudEvents can have",
        ),
        (structured(r#""subject":"""#), "the attribute `subject` is empty: expected a subject, or none"),
        (
            structured(r#""time":"noon""#),
            "the attribute `time`: timestamp `noon` is not RFC 3339, such as 2013-01-31T23:59:59Z",
        ),
        (structured(r#""time":5"#), "the attribute `time` is a number: expected text"),
        (
            structured(r#""data":1,"data_base64":"""#),
            "both `data` and `data_base64`: an event has one of them",
        ),
        (structured(r#""data_base64":1"#), "`data_base64` is a number: expected text"),
        (structured(r#""data_base64":"a""#), "`data_base64` is not base64: Invalid input length: 1"),
        (
            rec("[]").with("content-type", "application/cloudevents-batch+json"),
            "a batch of events: a record is one message; have its sender send events one by one",
        ),
        (
            rec("x").with("content-type", "application/cloudevents+avro"),
            "the content type is `application/cloudevents+avro`: expected application/cloudevents+json, the one format of CloudEvents that is read",
        ),
        (ce_without("ce_id"), "no `id`: an event needs one"),
        (ce_without("ce_type"), "no `type`: an event needs one"),
        (ce_without("ce_source"), "no `source`: an event needs one"),
        (ce("x").with("ce_id", "2"), "two headers of the attribute `id`: an event has it once"),
        (
            ce("x").with("ce_a-b", "2"),
            "the header of the attribute `a-b`: names have lower-case letters and digits alone",
        ),
        (
            ce("x").with("ce_datacontenttype", "a/b"),
            "`datacontenttype` is an attribute in a header: a binary event has its data as the value, and the type of it in the header `content-type`",
        ),
        (
            ce("{").with("content-type", "application/json"),
            "the data: broken JSON: cut off at column 1 (EOF while parsing an object)",
        ),
        (
            ce("x").with("ce-x", "%ff"),
            "the header of the attribute `x` is not UTF-8 once its percent-encoding is undone",
        ),
    ];
    for (bad, reason) in cases {
        assert_eq!(refused(&reading, &ce("x"), &bad), reason, "{bad:?}");
    }
    // Names that no column of metadata can hold.
    let name = "n".repeat(65_536);
    for bad in [structured(&format!("\"{name}\":\"x\"")), ce("x").with(&format!("ce_{name}"), "x")] {
        let reason = refused(&reading, &ce("x"), &bad);
        assert_eq!(reason, "the name of an attribute has 65536 bytes, above the limit of 65535");
    }
    // So many that they are sorted.
    let many: String = (0..30).map(|n| format!("\"n{n}\":1,")).collect();
    assert!(decode(&reading, &structured(many.trim_end_matches(','))).is_ok());
    let bad = structured(&format!("{many}\"n7\":2"));
    assert_eq!(refused(&reading, &ce("x"), &bad), "`n7` stands twice: an event has it once");
    // Every cut of a good one.
    let good = structured(r#""time":"2018-04-05T17:31:00Z","x":5,"data":{"a":[1]}"#);
    for at in 0..good.value.len() {
        refused(&reading, &good, &rec(&good.value[..at]));
    }
}

#[test]
fn events_are_written_as_they_came() {
    let structured_writing = writing(json!("cloudevents"));
    for event in [
        r#"{"specversion":"1.0","id":"1","type":"t","source":"/a","subject":"é","n":5,"b":false,"time":"2018-04-05T17:31:00.120000+02:00","data":{"a": 1.0}}"#,
        r#"{"specversion":"1.0","id":"1","type":"t","source":"/a","datacontenttype":"text/plain","data":"{}"}"#,
        r#"{"specversion":"1.0","id":"1","type":"t","source":"/a","datacontenttype":"image/png","data_base64":"/w=="}"#,
        r#"{"specversion":"1.0","id":"1","type":"t","source":"/a","data_base64":"YWJj"}"#,
        r#"{"specversion":"1.0","id":"1","type":"t","source":"/a"}"#,
        r#"{"specversion":"1.0","id":"1","type":"t","source":"/a","data":null}"#,
    ] {
        let frame = decode(&reading(json!("cloudevents")), &rec(event).with("trace", "x")).expect(event);
        let written = encode(&structured_writing, &frame).expect(event);
        assert_eq!(
            written,
            rec(event).with("content-type", "application/cloudevents+json").with("trace", "x")
        );
    }
    let event = ce("<a/>").with("ce_time", "2018-04-05T17:31:00.120000Z").with("content-type", "text/xml");
    let frame = decode(&reading(json!("cloudevents")), &event).expect("an event");
    let mut written =
        encode(&writing(json!({ "cloudevents": { "mode": "binary" } })), &frame).expect("an event");
    let mut expected = event;
    written.headers.sort();
    expected.headers.sort();
    assert_eq!(written, expected);
}

#[test]
fn other_messages_are_written_as_events() {
    let json = reading(json!("json"));
    let message = |rest: &str| decode(&json, &rec(format!(r#"{{"id":"1","type":"t"{rest}}}"#))).expect(rest);
    let to =
        |settings: Value, rest: &str| encode(&writing(json!({ "cloudevents": settings })), &message(rest));
    let text = |rec: Rec| String::from_utf8(rec.value).expect("UTF-8");
    assert_eq!(
        to(json!({}), r#","payload":[1],"timestamp":1522949460000,"metadata":{"a":"x","n":7,"gone":null}"#).map(text),
        Ok(r#"{"specversion":"1.0","id":"1","type":"t","source":"/wasmill/out","a":"x","n":7,"time":"2018-04-05T17:31:00.000Z","data":[1]}"#.to_owned())
    );
    let written = to(
        json!({ "source": "https://a.example/b", "mode": "binary", "binding": "nats" }),
        r#","payload":[1],"metadata":{"a":"é %\""}"#,
    )
    .expect("an event");
    assert_eq!(written.header("ce-source"), Some("https://a.example/b"));
    assert_eq!(written.header("ce-a"), Some("%C3%A9%20%25%22"));
    assert_eq!(written.header("content-type"), Some("application/json"));
    for (rest, reason) in [
        (
            r#","metadata":{"a_b":"x"}"#,
            "the metadata `a_b` can't be an attribute of CloudEvents: names have lower-case letters and digits alone; remove it, or set it under another name",
        ),
        (
            r#","metadata":{"time":"x"}"#,
            "the metadata `time` has a name that CloudEvents keeps for the event's own: remove it, or set it under another name",
        ),
        (
            r#","metadata":{"a":1.5}"#,
            "the metadata `a` can't be an attribute of CloudEvents: expected text, an integer of 32 bits, true or false; set it as text",
        ),
        (
            r#","metadata":{"a":[1]}"#,
            "the metadata `a` can't be an attribute of CloudEvents: expected text, an integer of 32 bits, true or false; set it as text",
        ),
        (
            r#","metadata":{"a":"\n"}"#,
            "the metadata `a` has the character U+000A, which no attribute of CloudEvents can have",
        ),
        (
            r#","metadata":{"source":"a b"}"#,
            "the metadata `source` is no URI: it has ' ', which must be percent-encoded",
        ),
        (
            r#","metadata":{"subject":""}"#,
            "the metadata `subject` is empty: CloudEvents has it with a text or not at all; remove it",
        ),
        (r#","id":"""#, "the message's id is empty, which CloudEvents has no event for: set it"),
        (r#","type":"""#, "the message's type is empty, which CloudEvents has no event for: set it"),
    ] {
        assert_eq!(to(json!({}), rest), Err(reason.to_owned()));
    }
    let binary = writing(json!({ "cloudevents": { "mode": "binary" } }));
    let why = encode_for(&binary, message("").get(0), Takes::default()).expect_err("no headers");
    assert_eq!(
        why,
        "a binary event has its attributes in headers, and this sink has none: set `mode: structured` on the codec"
    );
    assert_eq!(
        wrong(json!({ "cloudevents": { "source": "a b" } })),
        "cloudevents: the setting `source` is no URI: it has ' ', which must be percent-encoded"
    );
}

/// A message whose metadata is in any order.
type Sorted = (String, String, i64, bool, Vec<u8>, Vec<(bool, Vec<u8>, Vec<u8>)>);

fn sorted(message: Message<'_>) -> Sorted {
    let metadata = message.metadata();
    let entry =
        |e: wasmill_frame::meta::Entry<'_>| (e.kind == MetaKind::Json, e.name.to_vec(), e.value.to_vec());
    let mut entries: Vec<_> = metadata.entries().filter(|e| e.kind.is_metadata()).map(entry).collect();
    entries.sort();
    let (id, kind) = (message.id().to_owned(), message.kind().to_owned());
    (id, kind, message.timestamp(), message.payload_is_json(), message.payload().to_vec(), entries)
}

proptest! {
    #[test]
    fn events_come_back(
        id in "[ -~é]{1,9}",
        kind in "[ -~]{1,9}",
        subject in prop::option::of("[ -~€]{1,9}"),
        extensions in prop::collection::btree_map("x[a-z0-9]{1,5}", "[ -~é%]{0,9}", 0..4),
        content_type in prop::sample::select(vec![None, Some("application/json"), Some("text/plain"), Some("image/png")]),
        bytes in prop::collection::vec(any::<u8>(), 0..20),
        text in any::<String>(),
        what in 0..3,
        nats in any::<bool>(),
    ) {
        let mut event = json!({ "specversion": "1.0", "id": id, "type": kind, "source": "/s" });
        if let Some(subject) = subject { event["subject"] = subject.into(); }
        if let Some(kind) = content_type { event["datacontenttype"] = kind.into(); }
        for (name, value) in extensions { event[name] = value.into(); }
        match what {
            0 => {}
            1 => event["data"] = text.into(),
            _ => {
                use base64::Engine as _;
                event["data_base64"] = base64::engine::general_purpose::STANDARD.encode(bytes).into();
            }
        }
        let read = reading(json!("cloudevents"));
        let first = decode(&read, &rec(event.to_string())).expect("an event");
        let structured = encode(&writing(json!("cloudevents")), &first).expect("an event");
        let again = decode(&read, &structured).expect("an event");
        prop_assert_eq!(sorted(again.get(0)), sorted(first.get(0)));
        let binding = if nats { "nats" } else { "kafka" };
        let settings = json!({ "cloudevents": { "mode": "binary", "binding": binding } });
        // What says it is JSON and is none is no binary event.
        let is_broken = content_type == Some("application/json") && !first.get(0).payload_is_json() && !first.get(0).payload().is_empty();
        let binary = encode(&writing(settings), &first).expect("an event");
        let Ok(again) = decode(&read, &binary) else {
            prop_assert!(is_broken);
            return Ok(());
        };
        // Without a type, what is JSON by its bytes is told as such.
        let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(first.get(0).payload()).is_ok();
        if content_type.is_some() || !is_json {
            prop_assert_eq!(sorted(again.get(0)), sorted(first.get(0)));
        }
        prop_assert_eq!(again.get(0).payload(), first.get(0).payload());
    }
}

//! Protocol Buffers, from bodies and back; prost-reflect says what is right.

use std::path::PathBuf;

use proptest::prelude::*;
use prost_reflect::prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::{Value, json};
use wasmill_codec::protobuf::{Names, ProtobufSettings, UnknownFields};
use wasmill_codec::{CodecSettings, Reading, Takes, Writing};
use wasmill_engine::input::{RawBatch, RawRecord};
use wasmill_engine::output::EncodedBatch;
use wasmill_frame::{FrameBuf, Meta, MetaKind};

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/protobuf").join(name)
}

fn settings(message: &str) -> ProtobufSettings {
    let name = if message.starts_with("old.") { "old.proto" } else { "flights.proto" };
    ProtobufSettings { schema_file: Some(file(name)), message: Some(message.into()), ..Default::default() }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

/// A codec ready to use, with the descriptors for the oracle.
struct Codec {
    reading: Reading,
    writing: Writing,
    pool: DescriptorPool,
    message: String,
}

impl Codec {
    fn new(settings: &ProtobufSettings) -> Self {
        let name = settings.schema_file.clone().expect("a file");
        let folder = name.parent().expect("a folder").to_path_buf();
        let set = protox::compile([&name], [folder]).expect("compiles");
        Self {
            reading: wait(settings.reading("topic")).expect("reads"),
            writing: wait(settings.writing("topic")).expect("writes"),
            pool: DescriptorPool::from_file_descriptor_set(set).expect("descriptors"),
            message: settings.message.clone().expect("a message"),
        }
    }

    fn flights() -> Self {
        Self::new(&settings("flights.Flight"))
    }

    fn frame(&self, body: &[u8]) -> Result<FrameBuf, String> {
        let mut frame = FrameBuf::default();
        let batch = RawBatch::of_value(body);
        let result = self.reading.decoder.decode(&batch.records[0], &batch, &mut frame);
        assert_eq!(frame.len(), usize::from(result.is_ok()), "one message, or none and a reason");
        result.map(|()| frame)
    }

    fn json(&self, body: &[u8]) -> Result<String, String> {
        let frame = self.frame(body)?;
        assert!(frame.get(0).payload_is_json());
        Ok(String::from_utf8(frame.get(0).payload().to_vec()).expect("UTF-8"))
    }

    fn write(&self, frame: &FrameBuf) -> Result<Vec<u8>, String> {
        let mut into = EncodedBatch { data: b"before".to_vec(), ..EncodedBatch::default() };
        match self.writing.writer.write(frame.get(0), Takes::default(), &mut into) {
            Ok(record) => Ok(into.data[record.value].to_vec()),
            Err(why) => {
                assert_eq!(into.data, b"before", "what failed leaves no bytes");
                Err(why)
            }
        }
    }

    fn body(&self, json: &str) -> Result<Vec<u8>, String> {
        let mut frame = self.frame_of(json);
        frame.set_payload(0, json.as_bytes(), false);
        self.write(&frame)
    }

    fn frame_of(&self, json: &str) -> FrameBuf {
        let mut frame = FrameBuf::default();
        frame.push(&wasmill_frame::Parts {
            id: "1",
            kind: "t",
            key: None,
            payload: json.as_bytes(),
            timestamp: 0,
            metadata: b"",
            payload_is_json: true,
        });
        frame
    }

    /// The JSON of a body by prost-reflect.
    fn oracle(&self, body: &[u8]) -> Result<Value, String> {
        let message = self.pool.get_message_by_name(&self.message).expect("the type");
        let message = DynamicMessage::decode(message, body).map_err(|e| e.to_string())?;
        let options = SerializeOptions::new().stringify_64_bit_integers(false).use_proto_field_name(true);
        let mut out = serde_json::Serializer::new(Vec::new());
        message.serialize_with_options(&mut out, &options).map_err(|e| e.to_string())?;
        Ok(serde_json::from_slice(&out.into_inner()).expect("JSON"))
    }
}

/// A value as bytes with their tag.
fn tagged(number: u64, wire_type: u64, value: &[u8]) -> Vec<u8> {
    let mut out = varint(number << 3 | wire_type);
    if wire_type == 2 {
        out.extend(varint(value.len() as u64));
    }
    out.extend_from_slice(value);
    out
}

fn varint(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

#[test]
fn this_is_the_json_of_each_kind() {
    let codec = Codec::flights();
    for json in [
        r#"{}"#,
        r#"{"f_double":1.0,"f_float":0.1,"f_int32":-1,"f_int64":-9223372036854775808,"f_uint32":4294967295,"f_uint64":18446744073709551615}"#,
        r#"{"f_sint32":-2147483648,"f_sint64":-9223372036854775808,"f_fixed32":4294967295,"f_fixed64":18446744073709551615,"f_sfixed32":-1,"f_sfixed64":-1}"#,
        r#"{"f_double":-0.0,"f_bool":true,"f_string":"é\"\\\n","f_bytes":"AP8=","kind":"DEPARTURE"}"#,
        r#"{"f_double":"NaN","f_float":"-Infinity","kind":7}"#,
        r#"{"kind":"BELOW","maybe":0,"packed":[0,1,-1,9007199254740993],"loose":[-1,0,1],"texts":["","a"]}"#,
        r#"{"legs":{"a":{"from":"JFK","miles":3},"":{}},"flags":{"-1":true,"5":false},"kinds":{"true":"ARRIVAL","false":9}}"#,
        r#"{"name":""}"#,
        r#"{"leg":{"stops":[{"at":"X"},{}]}}"#,
        r#"{"nothing":null}"#,
        r#"{"doubles":[1.5,"Infinity"],"many_kinds":["ARRIVAL",5],"inner":{"inner":{"f_int32":1}},"others":[{},{"f_bool":true}]}"#,
        r#"{"at":"2013-01-31T23:59:59.123456789Z","took":"-1.500s","free":{"a":[1.0,null,"x",{"b":true}]},"anything":null,"list":[[],{}]}"#,
        r#"{"anything":{"n":12.25},"mask":"a.bC,dE","w_int64":9007199254740993,"w_string":"","w_bool":false,"w_double":0.0,"w_bytes":""}"#,
        r#"{"any":{"@type":"type.googleapis.com/flights.Leg","from":"A","stops":[{"at":"B"}]},"empty":{}}"#,
        r#"{"any":{"@type":"type.googleapis.com/google.protobuf.Timestamp","value":"1969-12-31T23:59:59Z"}}"#,
        r#"{"any":{"@type":"example.com/not.Known","@bytes":"AAEC"}}"#,
        r#"{"any":{},"times":["0001-01-01T00:00:00Z","9999-12-31T23:59:59.999999999Z"],"values":{"a":null,"b":false},"display_name":"n"}"#,
    ] {
        let body = codec.body(json).expect(json);
        assert_eq!(codec.json(&body).expect(json), json);
    }
}

#[test]
fn other_forms_are_taken() {
    let codec = Codec::flights();
    for (given, json) in [
        (r#"{"fInt64":"12","displayName":"x"}"#, r#"{"f_int64":12,"display_name":"x"}"#),
        (
            r#"{"f_int64":1e3,"f_uint64":"18446744073709551615","f_int32":2.0}"#,
            r#"{"f_int64":1000,"f_uint64":18446744073709551615,"f_int32":2}"#,
        ),
        (
            r#"{"f_bytes":"_-8","f_double":"1.5","kind":1}"#,
            r#"{"f_bytes":"/+8=","f_double":1.5,"kind":"ARRIVAL"}"#,
        ),
        (r#"{ "f_int32" : null, "leg": null, "texts": null, "anything": null }"#, r#"{"anything":null}"#),
        (
            r#"{"f_int32":0,"f_string":"","f_bool":false,"f_double":0.0,"kind":"UNKNOWN","packed":[],"texts":[],"legs":{}}"#,
            "{}",
        ),
        (
            r#"{"at":"2013-01-31t18:59:59.5-05:00","took":"0.000001000s"}"#,
            r#"{"at":"2013-01-31T23:59:59.500Z","took":"0.000001s"}"#,
        ),
        (
            r#"{"any":{"from":"x","@type":"a/flights.Leg"}}"#,
            r#"{"any":{"@type":"a/flights.Leg","from":"x"}}"#,
        ),
    ] {
        let body = codec.body(given).expect(given);
        assert_eq!(codec.json(&body).expect(given), json);
    }
}

#[test]
fn what_does_not_fit_is_told_with_its_place() {
    let codec = Codec::flights();
    for (json, reason) in [
        (
            r#"{"f_int32":2147483648}"#,
            "`payload.f_int32`: 2147483648 does not fit int32: -2147483648 to 2147483647",
        ),
        (
            r#"{"others":[{},{"f_uint64":-1}]}"#,
            "`payload.others[1].f_uint64`: -1 does not fit uint64: 0 to 18446744073709551615",
        ),
        (r#"{"f_int64":1.5}"#, "`payload.f_int64`: 1.5 is not a whole number"),
        (
            r#"{"f_double":0.12345678901234567890}"#,
            "`payload.f_double`: the number 0.12345678901234567890 does not fit a double to the last digit: send it as text, or set `numbers: round` on the codec",
        ),
        (
            r#"{"free":{"a":9007199254740993}}"#,
            "`payload.free.a`: the number 9007199254740993 does not fit a double to the last digit: send it as text, or set `numbers: round` on the codec",
        ),
        (r#"{"f_string":1}"#, "`payload.f_string`: a number where text is expected"),
        (r#"{"f_bool":"true"}"#, "`payload.f_bool`: text where true or false is expected"),
        (r#"{"legs":{"a":{"miles":[]}}}"#, "`payload.legs.a.miles`: a list where int32 is expected"),
        (r#"{"legs":[]}"#, "`payload.legs`: a list where an object, a map, is expected"),
        (r#"{"texts":{}}"#, "`payload.texts`: an object where a list is expected"),
        (r#"{"texts":[null]}"#, "`payload.texts[0]`: null where text is expected"),
        (r#"{"flags":{"x":true}}"#, "`payload.flags.x`: x is no number"),
        (r#"{"kinds":{"True":1}}"#, "`payload.kinds.True`: the key is neither `true` nor `false`"),
        (
            r#"{"kind":"LATE"}"#,
            "`payload.kind`: `LATE` is no value of flights.Kind, which has UNKNOWN, ARRIVAL, DEPARTURE, BELOW",
        ),
        (r#"{"f_bytes":"%"}"#, "`payload.f_bytes`: `%` is not base64: Invalid symbol 37, offset 0."),
        (
            r#"{"nope":1}"#,
            "`payload`: flights.Flight has no field `nope`: take it out of the payload, or use a newer schema",
        ),
        (r#"{"f_int32":1,"fInt32":2}"#, "`payload`: the field `fInt32` stands twice"),
        (
            r#"{"name":"a","number":1}"#,
            "`payload`: `number` is one of several fields of which a message has one, and there is another",
        ),
        (r#"{"at":"now"}"#, "`payload.at`: `now` is not RFC 3339, such as 2013-01-31T23:59:59.123456789Z"),
        (r#"{"took":5}"#, "`payload.took`: a number where a duration as text, such as 1.5s, is expected"),
        (
            r#"{"any":{"x":1}}"#,
            "`payload.any`: an object without `@type`: a google.protobuf.Any tells its message type there",
        ),
        (
            r#"{"any":{"@type":"a/b.C"}}"#,
            "`payload.any`: the message type of `a/b.C` is not known, and there are no `@bytes`",
        ),
        ("[]", "`payload`: a list where an object, a flights.Flight, is expected"),
        ("plain", "`payload`: the payload is not JSON: expected a value at byte 0"),
        ("", "`payload`: the payload is not JSON: cut off at byte 0, expected a value"),
        (r#"{"f_int32":1"#, "`payload`: the payload is not JSON: cut off at byte 12, expected `,` or `}`"),
        (r#"{} x"#, "`payload`: the payload is not JSON: expected the end at byte 3"),
    ] {
        assert_eq!(codec.body(json), Err(reason.to_owned()), "{json}");
    }
    let rounds = Codec::new(&ProtobufSettings {
        numbers: wasmill_codec::number::Numbers::Round,
        ..settings("flights.Flight")
    });
    let body =
        rounds.body(r#"{"f_double":0.12345678901234567890,"free":{"a":9007199254740993}}"#).expect("rounded");
    assert_eq!(
        rounds.json(&body),
        Ok(r#"{"f_double":0.12345678901234568,"free":{"a":9007199254740992.0}}"#.into())
    );
}

#[test]
fn names_and_defaults_are_a_choice() {
    let camel = Codec::new(&ProtobufSettings { names: Names::Json, ..settings("flights.Flight") });
    let body = camel.body(r#"{"f_int32":1,"displayName":"x","wInt64":5}"#).expect("a body");
    assert_eq!(camel.json(&body), Ok(r#"{"fInt32":1,"displayName":"x","wInt64":5}"#.into()));

    let full = Codec::new(&ProtobufSettings { defaults: true, ..settings("flights.Leg") });
    for (body, json) in [
        (&b""[..], r#"{"from":"","to":"","miles":0,"stops":[]}"#),
        (b"\x12\x01x", r#"{"to":"x","from":"","miles":0,"stops":[]}"#),
        (b"\x18\x00\x22\x00", r#"{"miles":0,"stops":[{"at":""}],"from":"","to":""}"#),
    ] {
        assert_eq!(full.json(body), Ok(json.into()));
    }
}

#[test]
fn what_proto2_has_is_read_and_written() {
    let codec = Codec::new(&settings("old.Order"));
    for json in [
        r#"{"id":0}"#,
        r#"{"id":1,"name":"","closed":"TWO","box":{"width":0,"part":[{"what":"a"},{}]},"numbers":[1,0],"packed":[2],"raw":""}"#,
        r#"{"id":1,"closed":7,"[old.note]":"n","[old.marks]":[1,2]}"#,
    ] {
        let body = codec.body(json).expect(json);
        assert_eq!(codec.json(&body).expect(json), json);
        if !json.contains('7') {
            assert_eq!(codec.oracle(&body), Ok(serde_json::from_str(json).expect("JSON")));
        }
    }
    let missing = "`payload`: the required field `id` of old.Order is missing";
    assert_eq!(codec.body(r#"{"name":"x"}"#), Err(missing.into()));
    assert_eq!(codec.body(r#"{"id":null}"#), Err(missing.into()));
    assert_eq!(codec.json(b"\x12\x01x"), Err(format!("{missing}, at byte 0")));
}

/// Fields again, apart, merged: as prost-reflect merges them.
#[test]
fn fields_that_come_again_are_merged() {
    let codec = Codec::flights();
    let leg = |from: &str, at: &str| {
        let stop = tagged(4, 2, &tagged(1, 2, at.as_bytes()));
        [tagged(1, 2, from.as_bytes()), stop].concat()
    };
    let entry = |key: &str, value: &[u8]| [tagged(1, 2, key.as_bytes()), tagged(2, 2, value)].concat();
    let one = tagged(3, 0, &[1]);
    for (parts, json) in [
        (vec![tagged(3, 0, &[1]), tagged(3, 0, &[2])], r#"{"f_int32":2}"#),
        (vec![tagged(3, 0, &[1]), tagged(3, 0, &[0])], "{}"),
        (
            vec![tagged(25, 2, &leg("a", "x")), tagged(25, 2, &leg("b", "y"))],
            r#"{"leg":{"from":"b","stops":[{"at":"x"},{"at":"y"}]}}"#,
        ),
        (vec![tagged(25, 2, &leg("a", "x")), tagged(24, 2, b"n")], r#"{"name":"n"}"#),
        (vec![tagged(25, 2, &leg("a", "x")), tagged(26, 0, &[5]), tagged(25, 2, b"")], r#"{"leg":{}}"#),
        (vec![tagged(18, 2, &[1, 2]), one.clone(), tagged(18, 0, &[3])], r#"{"f_int32":1,"packed":[1,2,3]}"#),
        (vec![tagged(18, 0, &[1]), tagged(18, 2, &[]), tagged(18, 2, &[3])], r#"{"packed":[1,3]}"#),
        (vec![tagged(18, 2, &[])], "{}"),
        (vec![tagged(19, 2, &[1, 2])], r#"{"loose":[-1,1]}"#),
        (
            vec![
                tagged(21, 2, &entry("k", &leg("a", "x"))),
                tagged(21, 2, &entry("j", b"")),
                tagged(21, 2, &entry("k", &leg("b", "y"))),
            ],
            r#"{"legs":{"j":{},"k":{"from":"b","stops":[{"at":"y"}]}}}"#,
        ),
        (vec![tagged(21, 2, b"")], r#"{"legs":{"":{}}}"#),
        (
            vec![tagged(21, 2, &[entry("k", &leg("a", "x")), tagged(2, 2, &leg("b", "y"))].concat())],
            r#"{"legs":{"k":{"from":"b","stops":[{"at":"x"},{"at":"y"}]}}}"#,
        ),
        (
            vec![
                tagged(30, 2, &tagged(30, 2, &one)),
                one.clone(),
                tagged(30, 2, &tagged(30, 2, &tagged(13, 0, &[1]))),
            ],
            r#"{"f_int32":1,"inner":{"inner":{"f_int32":1,"f_bool":true}}}"#,
        ),
        (
            vec![tagged(40, 2, &[8, 5]), one.clone(), tagged(40, 2, &[16, 0x80, 0x89, 0x7a])],
            r#"{"f_int32":1,"at":"1970-01-01T00:00:05.002Z"}"#,
        ),
        (
            vec![tagged(43, 2, &tagged(3, 2, b"x")), tagged(43, 2, &tagged(4, 0, &[1]))],
            r#"{"anything":true}"#,
        ),
        (vec![tagged(3, 0, &[0xff, 0xff, 0xff, 0xff, 0x1f])], r#"{"f_int32":-1}"#),
        (vec![tagged(3, 0, &[0x81, 0x80, 0x00])], r#"{"f_int32":1}"#),
        (vec![tagged(13, 0, &[0x80, 0x02])], r#"{"f_bool":true}"#),
    ] {
        let body = parts.concat();
        assert_eq!(codec.json(&body), Ok(json.to_owned()));
        // The library doesn't merge the two values that one pair of a map has.
        if !json.contains(r#"k":{"from":"b","stops":[{"at":"x"#) {
            assert_eq!(codec.oracle(&body), Ok(serde_json::from_str(json).expect("JSON")), "{json}");
        }
    }
    let mut many = Vec::new();
    for n in 0..100 {
        many.extend(tagged(22, 2, &[8, n % 50, 16, n / 50]));
    }
    let json: Value = serde_json::from_str(&codec.json(&many).expect("a map")).expect("JSON");
    assert_eq!(json["flags"].as_object().expect("a map").len(), 50);
    assert_eq!(Ok(json), codec.oracle(&many));
}

#[test]
fn a_message_that_must_be_gathered_at_every_depth_takes_linear_time() {
    let codec = Codec::flights();
    let mut body = tagged(3, 0, &[1]);
    for _ in 0..98 {
        body = [tagged(30, 2, &body), tagged(3, 0, &[1]), tagged(3, 0, &[2])].concat();
    }
    // Twice the work at each depth would be 2^98.
    assert!(codec.json(&body).expect("a message").starts_with(r#"{"f_int32":2,"inner":{"f_int32":2,"#));
}

#[test]
fn unknown_fields_travel_unseen() {
    let new = Codec::new(&settings("flights.NewFlight"));
    let old = Codec::flights();
    let json = r#"{"f_int32":1,"legs":{"a":{"from":"x","fresh":1},"b":{"fresh":2}},"leg":{"fresh":3},"inner":{"inner":{"fresh":"deep"},"fresh":"in"},"others":[{},{"fresh":"second"}],"fresh":"top"}"#;
    let body = new.body(json).expect("a body");
    let frame = old.frame(&body).expect("a message");
    let seen = std::str::from_utf8(frame.get(0).payload()).expect("UTF-8").to_owned();
    assert!(!seen.contains("fresh") && seen.contains(r#""a":{"from":"x"}"#), "{seen}");
    let back = old.write(&frame).expect("a body");
    assert_eq!(new.json(&back), Ok(json.to_owned()));

    // A changed payload keeps what its single messages had; of lists and maps nobody knows which is which.
    let mut changed = frame.clone();
    changed.set_payload(0, br#"{"inner":{"inner":{"f_bool":true}},"others":[{"f_int32":2}]}"#, true);
    let back = old.write(&changed).expect("a body");
    let expected =
        r#"{"inner":{"inner":{"fresh":"deep"},"fresh":"in"},"others":[{"f_int32":2}],"fresh":"top"}"#;
    assert_eq!(new.json(&back), Ok(expected.to_owned()));

    // By another message type nothing of it is written again, whatever it would be there.
    let payload = r#"{"f_int32":5}"#;
    changed.set_payload(0, payload.as_bytes(), true);
    assert!(old.write(&changed).expect("a body").len() > 2, "by its own it is");
    assert_eq!(new.write(&changed), Ok(vec![0x18, 5]));
    // Nor a field that the schema has by now, where the payload has it too.
    let folder = tempfile::tempdir().expect("a folder");
    let text = std::fs::read_to_string(file("flights.proto")).expect("a file");
    let newer = folder.path().join("flights.proto");
    let from = "  string display_name = 300;\n";
    assert!(text.contains(from));
    std::fs::write(&newer, text.replace(from, "  string fresh = 1000;\n")).expect("a file");
    let newer = Codec::new(&ProtobufSettings { schema_file: Some(newer), ..settings("flights.Flight") });
    changed.set_payload(0, br#"{"fresh":"mine"}"#, true);
    let back = newer.write(&changed).expect("a body");
    assert_eq!(newer.json(&back), Ok(r#"{"fresh":"mine"}"#.to_owned()));
    assert_eq!(back, [0xc2, 0x3e, 4, b'm', b'i', b'n', b'e'], "once");

    for (unknown_fields, expected) in [
        (UnknownFields::Drop, Ok(())),
        (
            UnknownFields::Refuse,
            Err("`payload.legs.a`: flights.Leg has no field 77: take a newer descriptor file, or set `unknown_fields: keep` on the codec, at byte 13".to_owned()),
        ),
    ] {
        let codec = Codec::new(&ProtobufSettings { unknown_fields, ..settings("flights.Flight") });
        let frame = codec.frame(&body);
        assert_eq!(frame.as_ref().map(|_| ()).map_err(Clone::clone), expected);
        if let Ok(frame) = frame {
            assert_eq!(frame.get(0).metadata().entries().count(), 0);
        }
    }
    for damaged in [
        &b"1"[..],
        br#"{"type":"flights.Flight","fields":"%"}"#,
        br#"{"type":"flights.Flight","fields":"AAAAAAAAAAAF"}"#,
        br#"{"type":"flights.Flight","fields":"AAAAAAAAAAABCA=="}"#,
    ] {
        let mut column = wasmill_frame::MetaWriter::new();
        column.push(MetaKind::Field, b"$protobuf", damaged);
        let mut frame = FrameBuf::default();
        frame.push(&wasmill_frame::Parts {
            id: "1",
            kind: "t",
            key: None,
            payload: b"{}",
            timestamp: 0,
            metadata: Meta::new(column.as_bytes()).as_bytes(),
            payload_is_json: true,
        });
        let error = old.write(&frame).expect_err("damaged");
        assert!(error.contains("`$protobuf`") && error.contains("damaged"), "{error}");
    }
}

#[test]
fn bodies_that_are_wrong_say_where() {
    let codec = Codec::flights();
    let deep = |n: usize| (0..n).fold(Vec::new(), |body, _| tagged(30, 2, &body));
    for (body, reason) in [
        (
            tagged(3, 2, b"ab"),
            "`payload.f_int32`: field 3 has bytes with a length (2), but is int32 by its type: it was written by another message type, at byte 0",
        ),
        (
            tagged(14, 0, &[1]),
            "`payload.f_string`: field 14 has a varint (0), but is string by its type: it was written by another message type, at byte 0",
        ),
        (
            tagged(1, 5, &[0; 4]),
            "`payload.f_double`: field 1 has 32 bits (5), but is double by its type: it was written by another message type, at byte 0",
        ),
        (vec![0x18], "`payload.f_int32`: a number that is cut off, at byte 1"),
        (vec![0x18, 0x80], "`payload.f_int32`: a number that is cut off, at byte 1"),
        (
            [vec![0x18], vec![0xff; 9], vec![2]].concat(),
            "`payload.f_int32`: a number of more than 64 bits, at byte 1",
        ),
        (
            [vec![0x18], vec![0x80; 10], vec![0]].concat(),
            "`payload.f_int32`: a number of more than 64 bits, at byte 1",
        ),
        (vec![0x72, 5, b'a'], "`payload.f_string`: a length of 5 bytes where 1 are left, at byte 1"),
        (vec![0x09, 1, 2], "`payload.f_double`: cut off: 8 bytes were expected, 2 are there, at byte 1"),
        (
            tagged(14, 2, b"ab\xff"),
            "`payload.f_string`: text that is not UTF-8: such a field must be `bytes`, at byte 4",
        ),
        (vec![0x00, 0x01], "`payload`: 0 is no number of a field, at byte 0"),
        (
            vec![0x1e, 0x01],
            "`payload.f_int32`: field 3 has a wire type that does not exist (6), but is int32 by its type: it was written by another message type, at byte 0",
        ),
        (tagged(999, 6, b""), "`payload`: the wire type 6, which does not exist, at byte 2"),
        (tagged(999, 4, b""), "`payload`: the end of a group 999 that has not begun, at byte 2"),
        (tagged(999, 3, b"\x08\x01"), "`payload`: the group 999 has no end, at byte 4"),
        (
            [tagged(999, 3, b""), tagged(998, 4, b"")].concat(),
            "`payload`: the end of a group 998 within the group 999, at byte 2",
        ),
        ([0xbb, 0x3e].repeat(101), "`payload`: groups are more than 100 deep in one another, at byte 200"),
        (
            tagged(30, 2, &tagged(31, 2, &tagged(14, 0, &[1]))),
            "`payload.inner.others[0].f_string`: field 14 has a varint (0), but is string by its type: it was written by another message type, at byte 6",
        ),
        (
            tagged(21, 2, &tagged(1, 0, &[1])),
            "`payload.legs`: field 1 has a varint (0), but is string by its type: it was written by another message type, at byte 3",
        ),
        (
            tagged(40, 2, &[16, 0xff, 0xff, 0xff, 0xff, 0x0f]),
            "`payload.at`: a timestamp of 0 seconds and -1 nanoseconds is out of range (the years 1 to 9999), at byte 3",
        ),
        (
            tagged(41, 2, &[8, 1, 16, 0xff, 0xff, 0xff, 0xff, 0x0f]),
            "`payload.took`: a duration of 1 seconds and -1 nanoseconds: expected up to 315576000000 seconds, and both of one sign, at byte 3",
        ),
        (
            tagged(43, 2, &tagged(2, 1, &f64::NAN.to_le_bytes())),
            "`payload.anything`: a google.protobuf.Value of NaN, which JSON has no number for, at byte 3",
        ),
        (
            tagged(46, 2, &tagged(1, 2, b"aB")),
            "`payload.mask`: the path `aB` of a field mask can't be written as JSON has it, in camel case, at byte 5",
        ),
    ] {
        assert_eq!(codec.json(&body), Err(reason.to_owned()));
    }
    assert!(codec.json(&deep(99)).is_ok());
    let error = codec.json(&deep(100)).expect_err("too deep");
    assert!(error.contains("messages are more than 100 deep in one another"), "{error}");
    let lists = (0..61).fold(Vec::new(), |body, _| tagged(31, 2, &body));
    let error = codec.json(&lists).expect_err("too deep");
    assert!(error.contains("objects and lists are more than 120 deep in one another"), "{error}");
}

/// A payload of flights.Flight, some fields of every kind.
fn payloads() -> impl Strategy<Value = Value> {
    let number = prop_oneof![any::<i64>(), -3..3_i64];
    // serde_json, which compares, reads some doubles only nearly.
    let near = |f: &f64| {
        serde_json::from_str::<f64>(&f.to_string()).is_ok_and(|read| read == *f)
            && serde_json::from_str::<f64>(&json!(f).to_string()).is_ok_and(|read| read == *f)
    };
    let double = any::<f64>().prop_filter("finite", move |f| f.is_finite() && *f != 0.0 && near(f));
    let leg = ("[a-z]{0,3}", 1..9_i32, prop::collection::vec("[a-z]{1,2}", 0..3)).prop_map(
        |(from, miles, stops)| {
            let mut leg = json!({ "miles": miles });
            if !from.is_empty() {
                leg["from"] = from.into();
            }
            if !stops.is_empty() {
                leg["stops"] = stops.iter().map(|at| json!({ "at": at })).collect();
            }
            leg
        },
    );
    let text = prop_oneof![any::<String>(), "x{100,200}"];
    let field = prop_oneof![
        double.clone().prop_map(|v| ("f_double", json!(v))),
        number.clone().prop_filter("not 0", |n| *n != 0).prop_map(|v| ("f_int64", json!(v))),
        (1..u64::MAX).prop_map(|v| ("f_uint64", json!(v))),
        (1..i32::MAX).prop_map(|v| ("f_sint32", json!(-v))),
        (1..u32::MAX).prop_map(|v| ("f_fixed32", json!(v))),
        number.clone().prop_filter("not 0", |n| *n != 0).prop_map(|v| ("f_sfixed64", json!(v))),
        text.prop_filter("not empty", |t| !t.is_empty()).prop_map(|v| ("f_string", json!(v))),
        Just(("f_bytes", json!("AAEC/w=="))),
        prop::sample::select(vec![json!("ARRIVAL"), json!(77)]).prop_map(|v| ("kind", v)),
        any::<i32>().prop_map(|v| ("maybe", json!(v))),
        prop::collection::vec(number.clone(), 1..40).prop_map(|v| ("packed", json!(v))),
        prop::collection::vec(any::<i32>(), 1..4).prop_map(|v| ("loose", json!(v))),
        prop::collection::vec(any::<String>(), 1..4).prop_map(|v| ("texts", json!(v))),
        prop::collection::btree_map("[a-z]{0,2}", leg.clone(), 1..4).prop_map(|v| ("legs", json!(v))),
        prop::collection::btree_map(number.prop_map(|n| n.to_string()), any::<bool>(), 1..20)
            .prop_map(|v| ("flags", json!(v))),
        leg.prop_map(|v| ("leg", v)),
        prop::collection::vec(double, 1..4).prop_map(|v| ("doubles", json!(v))),
        prop::sample::select(vec!["1969-12-31T23:59:59.000000001Z", "2024-02-29T12:00:00.120Z"])
            .prop_map(|v| ("at", json!(v))),
        any::<String>().prop_map(|v| ("w_string", json!(v))),
        Just(("free", json!({ "a": [1.5, "x", null, { "b": false }], "c": {} }))),
    ];
    let flat = prop::collection::btree_map(Just(()), field.clone(), 0..1).prop_flat_map(move |_| {
        prop::collection::vec(field.clone(), 0..10)
            .prop_map(|fields| Value::Object(fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()))
    });
    flat.prop_recursive(3, 8, 3, |inner| {
        (inner.clone(), prop::collection::vec(inner.clone(), 1..3), inner).prop_map(
            |(mut own, others, child)| {
                own["others"] = others.into();
                own["inner"] = child;
                own
            },
        )
    })
}

proptest! {
    #[test]
    fn payloads_come_back_and_are_what_the_library_reads(payload in payloads()) {
        let codec = Codec::flights();
        let body = codec.body(&payload.to_string()).expect("a body");
        let json = codec.json(&body).expect("a message");
        let ours: Value = serde_json::from_str(&json).expect("JSON");
        prop_assert_eq!(&ours, &payload);
        prop_assert_eq!(&codec.oracle(&body).expect("a message"), &payload);

        // What the library writes, in the order of the numbers, is the same message.
        let message = codec.pool.get_message_by_name(&codec.message).expect("the type");
        let message = DynamicMessage::decode(message, body.as_slice()).expect("a message");
        let theirs: Value = serde_json::from_str(&codec.json(&message.encode_to_vec()).expect("a message")).expect("JSON");
        prop_assert_eq!(&theirs, &payload);

        // Bodies behind one another are merged, as the library does.
        let twice = [body.as_slice(), &body].concat();
        let merged: Value = serde_json::from_str(&codec.json(&twice).expect("merged")).expect("JSON");
        prop_assert_eq!(merged, codec.oracle(&twice).expect("merged"));
    }

    #[test]
    fn whatever_the_bytes_ours_reads_no_more_than_the_library(
        payload in payloads(), at in any::<prop::sample::Index>(), flip in 1u8..=255, cut in any::<bool>(),
    ) {
        let codec = Codec::flights();
        let mut body = codec.body(&payload.to_string()).expect("a body");
        if !body.is_empty() {
            let at = at.index(body.len());
            if cut { body.truncate(at) } else { body[at] ^= flip }
        }
        match codec.frame(&body) {
            Ok(frame) => {
                let ours: Value = serde_json::from_slice(frame.get(0).payload()).expect("JSON");
                match codec.oracle(&body) {
                    // The library keeps wrong wire types and field masks; what it can't show is not compared.
                    Ok(theirs) => prop_assert_eq!(ours, theirs),
                    Err(why) => prop_assert!(!why.contains("varint") && !why.contains("buffer"), "{}", why),
                }
                // What was read is written, and read the same.
                let again = codec.frame(&codec.write(&frame).expect("a body")).expect("a message");
                prop_assert_eq!(frame.get(0).payload(), again.get(0).payload());
                prop_assert_eq!(frame.get(0).metadata().as_bytes(), again.get(0).metadata().as_bytes());
            }
            Err(why) => prop_assert!(why.starts_with("`payload") && why.contains("at byte"), "{}", why),
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..60)) {
        for codec in [Codec::flights(), Codec::new(&settings("old.Order"))] {
            if let Ok(json) = codec.json(&body) {
                prop_assert!(serde_json::from_str::<Value>(&json).is_ok(), "{}", json);
            }
        }
    }
}

#[test]
fn malformed_bodies_leave_their_neighbours_unharmed() {
    let codec = Codec::flights();
    let good = codec
        .body(r#"{"f_double":1.5,"f_string":"text","legs":{"a":{"from":"x"}},"inner":{"at":"2013-01-31T23:59:59Z"},"packed":[1,300],"f_fixed32":7}"#)
        .expect("a body");
    let mut bad = Vec::new();
    for at in 1..good.len() {
        bad.push(good[..at].to_vec());
        bad.push([&good[..at], &[0xff; 11]].concat());
    }
    for flip in [6, 7] {
        bad.extend((0..good.len()).map(|at| {
            let mut body = good.clone();
            body[at] = body[at] & 0xf8 | flip;
            body
        }));
    }
    bad.retain(|body| codec.json(body).is_err());
    assert!(bad.len() > 100, "{} are malformed", bad.len());
    for body in bad {
        let mut batch = RawBatch::of_value(b"");
        batch.records.clear();
        for value in [&good, &body, &good] {
            let start = batch.data.len();
            batch.data.extend_from_slice(value);
            batch.records.push(RawRecord { value: start..batch.data.len(), ..RawRecord::default() });
        }
        let mut frame = FrameBuf::default();
        let results: Vec<_> = batch
            .records
            .iter()
            .map(|r| codec.reading.decoder.decode(r, &batch, &mut frame).is_ok())
            .collect();
        assert_eq!(results, [true, false, true]);
        assert_eq!(frame.len(), 2);
        assert_eq!(frame.get(0).payload(), frame.get(1).payload());
    }
}

#[test]
fn the_schema_of_payloads_is_declared() {
    let schema = settings("flights.Leg").declared().expect("no mistake").expect("a schema");
    assert_eq!(
        schema["properties"]["miles"],
        json!({ "type": "integer", "minimum": i32::MIN, "maximum": i32::MAX })
    );
    assert_eq!(
        schema["properties"]["stops"],
        json!({ "type": "array", "items": { "$ref": "#/$defs/flights.Leg.Stop" } })
    );
    assert_eq!(schema["$defs"]["flights.Leg.Stop"]["additionalProperties"], json!(false));
    let schema = settings("flights.Flight").declared().expect("no mistake").expect("a schema");
    assert_eq!(
        schema["$defs"]["flights.Flight"]["properties"]["inner"],
        json!({ "$ref": "#/$defs/flights.Flight" })
    );
    assert_eq!(
        settings("old.Order").declared().expect("no mistake").expect("a schema")["required"],
        json!(["id"])
    );
}

#[test]
fn settings_that_are_wrong_say_what_to_do() {
    let wrong = |settings: ProtobufSettings| match wait(settings.reading("t")) {
        Ok(_) => panic!("no mistake"),
        Err(e) => e.to_string(),
    };
    for (settings, part) in [
        (ProtobufSettings::default(), "there is no schema: set `descriptor_file`"),
        (ProtobufSettings { message: None, ..settings("flights.Leg") }, "`message` is not set"),
        (
            settings("flights.Nope"),
            "there is no message type `flights.Nope` in the schema, which has flights.Flight, flights.Leg, flights.Leg.Stop, flights.NewFlight, flights.NewLeg: correct",
        ),
        (
            ProtobufSettings {
                descriptor_file: Some(file("flights.proto")),
                schema_file: None,
                ..settings("a.B")
            },
            "is no set of descriptors that can be used",
        ),
        (
            ProtobufSettings { descriptor_file: Some(file("flights.proto")), ..settings("a.B") },
            "both `descriptor_file` and `schema_file`",
        ),
        (ProtobufSettings { schema_file: Some(file("nope.proto")), ..settings("a.B") }, "nope.proto: "),
    ] {
        let error = wrong(settings);
        assert!(error.contains(part), "{error}");
    }
}

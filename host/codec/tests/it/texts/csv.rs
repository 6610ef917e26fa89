//! CSV.

use proptest::prelude::*;
use serde_json::{Value, json};
use wasmill_frame::FrameBuf;

use super::support::*;

/// The payloads and reasons of a file.
fn read(settings: Value, file: &[u8]) -> Vec<Result<String, String>> {
    let reading = reading(settings);
    let limits = Limits { messages_max: 1 << 20, bytes_max: 1 << 20, piece_bytes: 1 << 20, max: 1 << 20 };
    let framing = &*reading.framing;
    let mut cutter = framing.cutter(wasmill_codec::framing::Place::START, limits.max);
    let mut batch = batch(&[]);
    cutter.feed(file.to_vec());
    cutter.take(&mut batch, limits.messages_max, limits.bytes_max);
    cutter.end(&mut batch);
    let decode = |record| {
        let mut frame = FrameBuf::default();
        reading.decoder.decode(record, &batch, &mut frame)?;
        Ok(String::from_utf8(frame.get(0).payload().to_vec()).expect("UTF-8"))
    };
    batch.records.iter().map(decode).collect()
}

fn ok(payloads: &[&str]) -> Vec<Result<String, String>> {
    payloads.iter().map(|p| Ok((*p).to_owned())).collect()
}

#[test]
fn rows_are_objects_in_the_order_of_the_columns() {
    let file = "\u{feff}carrier,delay,price,ok,note,tags\r\n\
        UA,-12,1.50e3,TRUE,\"a \"\"b\"\",\nc\",\"[1, {\"\"a\"\":2}]\"\r\n\r\n\
        \"\",,\"\",false, x ,\n";
    let types = json!({ "delay": "integer", "price": "number", "ok": "boolean", "tags": "json" });
    let expected = [
        r#"{"carrier":"UA","delay":-12,"price":1.50e3,"ok":true,"note":"a \"b\",\nc","tags":[1, {"a":2}]}"#,
        r#"{"carrier":"","delay":null,"price":null,"ok":false,"note":" x ","tags":null}"#,
    ];
    assert_eq!(read(json!({ "csv": { "types": types } }), file.as_bytes()), ok(&expected));
    let columns = ["carrier", "delay", "price", "ok", "note", "tags"];
    let (_, body) = file.split_once("\r\n").expect("a header");
    let settings = json!({ "csv": { "types": types, "columns": columns, "header": false } });
    assert_eq!(read(settings, body.as_bytes()), ok(&expected));
}

#[test]
fn empty_fields_are_null_or_text_as_is_asked() {
    let file = b"a,b\n,\"\"\n";
    assert_eq!(read(json!("csv"), file), ok(&[r#"{"a":null,"b":""}"#]));
    assert_eq!(read(json!({ "csv": { "empty": "text" } }), file), ok(&[r#"{"a":"","b":""}"#]));
}

#[test]
fn other_separators_and_quotes() {
    let settings = json!({ "csv": { "separator": ";", "quote": "'" } });
    assert_eq!(read(settings, b"a;b\n'x;''y';\"1,2\"\n"), ok(&[r#"{"a":"x;'y","b":"\"1,2\""}"#]));
    assert_eq!(read(json!({ "csv": { "separator": "\t" } }), b"a\tb\n1\t2"), ok(&[r#"{"a":"1","b":"2"}"#]));
}

#[test]
fn a_record_of_a_log_is_a_row() {
    let settings = json!({ "csv": { "columns": ["a", "b"] } });
    for row in ["1,2", "1,2\n", "1,2\r\n"] {
        let frame = decode(&reading(settings.clone()), &rec(row)).expect(row);
        assert_eq!(frame.get(0).payload(), br#"{"a":"1","b":"2"}"#);
    }
    let why = decode(&reading(json!("csv")), &rec("1,2")).expect_err("no columns");
    assert_eq!(why, "there is no header row that names the columns: name them in `columns` of the codec");
}

#[test]
fn what_is_wrong_with_a_row_is_told_with_its_place() {
    let types = json!({ "n": "integer", "p": "number", "ok": "boolean", "j": "json" });
    for (row, reason) in [
        ("1,2.5,true,{}", "line 4: 4 fields, where there are 5 columns: `note` and what follows is missing"),
        ("1,2.5,true,{},x,y,z", "line 4: 7 fields, where there are 5 columns"),
        ("x,2.5,true,{},n", "line 4: column 1 (`n`): `x` is not an integer as JSON has it, such as -12"),
        ("1.0,2.5,true,{},n", "line 4: column 1 (`n`): `1.0` is not an integer as JSON has it, such as -12"),
        ("007,2.5,true,{},n", "line 4: column 1 (`n`): `007` is not an integer as JSON has it, such as -12"),
        (" 1,2.5,true,{},n", "line 4: column 1 (`n`): ` 1` is not an integer as JSON has it, such as -12"),
        ("1,.5,true,{},n", "line 4: column 2 (`p`): `.5` is not a number as JSON has it, such as -12.5"),
        ("1,NaN,true,{},n", "line 4: column 2 (`p`): `NaN` is not a number as JSON has it, such as -12.5"),
        ("1,[1],true,{},n", "line 4: column 2 (`p`): `[1]` is not a number as JSON has it, such as -12.5"),
        ("1,2.5,yes,{},n", "line 4: column 3 (`ok`): `yes` is neither true nor false"),
        ("1,2.5,true,{,n", "line 4: column 4 (`j`): `{` is not JSON"),
        (
            "1,2.5,true,{},a\"b",
            "line 4: column 5 (`note`): a quote at byte 15 of the row, within a field that has none around it: put the field in quotes, and write the quote twice",
        ),
        (
            "1,2.5,true,{},\"a\"b",
            "line 4: column 5 (`note`): something follows the closing quote at byte 16 of the row: expected the separator, or a second quote where one is part of the text",
        ),
    ] {
        let file = format!("n,p,ok,j,note\n1,2,true,1,\"x\ny\"\n{row}\n1,2,true,1,z\n");
        let found = read(json!({ "csv": { "types": types } }), file.as_bytes());
        let good = |note: &str| Ok(format!(r#"{{"n":1,"p":2,"ok":true,"j":1,"note":"{note}"}}"#));
        assert_eq!(found, [good("x\\ny"), Err(reason.to_owned()), good("z")], "{row}");
    }
    let found = read(json!("csv"), b"a\n\"x\ny\n");
    assert_eq!(
        found,
        [Err("line 2: column 1 (`a`): the quote at byte 0 of the row is never closed".to_owned())]
    );
    let found = read(json!("csv"), b"a\n\xff\n");
    assert_eq!(found, [Err("line 2: not UTF-8: byte 0 is 0xff".to_owned())]);
    for (file, reason) in [
        (
            "a,b,a\n1,2,3",
            "line 2: the header row: column 3 has the name `a`, which stands there twice: a payload can have it once",
        ),
        ("a,b\n1,2", "line 2: the header row: there is no column `n`, which `types` names"),
        ("a,\"b\n1,2", ""),
    ] {
        let found = read(json!({ "csv": { "types": { "n": "integer" } } }), file.as_bytes());
        assert_eq!(
            found.iter().filter_map(|f| f.as_ref().err()).map(String::as_str).collect::<String>(),
            reason
        );
    }
}

#[test]
fn every_cut_of_a_row_is_refused_between_its_neighbours() {
    let settings = json!({ "csv": { "columns": ["a", "b", "c", "d"], "types": { "d": "json" } } });
    let good = r#"first,"sec,o""nd",,{}"#;
    let reading = reading(settings);
    for at in 0..good.len() - 2 {
        let why = refused(&reading, &rec(good), &rec(&good[..at]));
        assert!(why.contains("fields, where there are 4") || why.contains("quote"), "{why}");
    }
    for at in 0..good.len() {
        for byte in ["\u{1}\n", "x\"", "\n"] {
            let bad = format!("{}{byte}{}", &good[..at], &good[at..]);
            let batch = batch(&[rec(&bad)]);
            let mut frame = FrameBuf::default();
            let done = reading.decoder.decode(&batch.records[0], &batch, &mut frame);
            assert_eq!(frame.len(), usize::from(done.is_ok()));
        }
    }
}

#[test]
fn settings_that_can_not_be_are_told() {
    for (settings, reason) in [
        (
            json!({ "separator": "é" }),
            "csv: separator of 'é': expected one ASCII character that ends no line",
        ),
        (
            json!({ "quote": "," }),
            "csv: separator and quote are the same: set one of them to another character",
        ),
        (json!({ "columns": [] }), "csv: columns is empty: name at least one, or leave it out"),
        (
            json!({ "columns": ["a", "a"] }),
            "csv: columns: column 2 has the name `a`, which stands there twice: a payload can have it once",
        ),
        (
            json!({ "columns": ["a"], "types": { "b": "text" } }),
            "csv: columns: there is no column `b`, which `types` names",
        ),
        (
            json!({ "columns": [{ "a": "id", "b": "id" }] }),
            "csv: columns: expected `name` or `name: place`, one a column",
        ),
        (
            json!({ "columns": [{ "a": "body.x" }] }),
            "csv: the column `a`: `body.x` is no place in a message: expected id, type, key, timestamp, metadata.NAME or payload.FIELD",
        ),
        (
            json!({ "header": false }),
            "csv: no columns: name them in `columns`, or set `header: true` where the first row does",
        ),
        (
            json!({}),
            "csv: writing needs `columns`: name the fields of the payload that are to be columns, in their order",
        ),
    ] {
        assert_eq!(wrong(json!({ "csv": settings })), reason);
    }
}

#[test]
fn messages_are_rows() {
    let settings = json!({ "csv": {
        "columns": ["a", { "b.x": "payload.b.x" }, { "who": "id" }, { "what": "type" }, { "when": "timestamp" }, { "k": "key" }, { "src": "metadata.src" }, "j"],
        "types": { "j": "json" },
    } });
    let writing = writing(settings);
    assert_eq!(join(&*writing.framing, &[]), b"a,b.x,who,what,when,k,src,j\n");
    for (payload, row) in [
        (r#"{"j":[1,"x"],"a":"1,2","b":{"x":5,"y":6}}"#, Ok(r#""1,2",5,7,t,9,key,s,"[1,""x""]""#)),
        (r#"{"a":null,"j":"text"}"#, Ok(r#",,7,t,9,key,s,"""text""""#)),
        (r#"{"a":"","a":true,"b":{"x":"q\"\n"}}"#, Ok("true,\"q\"\"\n\",7,t,9,key,s,")),
        ("{\"a\":\"\\u00e9\\r\"}", Ok("\"é\r\",,7,t,9,key,s,")),
        (
            r#"{"a":1,"z":2}"#,
            Err(
                "the payload has the field `z`, which no column takes: add it to `columns`, or set `unknown_fields: drop` on the codec",
            ),
        ),
        ("[1]", Err("the payload is no JSON object: expected one with a field for each column")),
    ] {
        let sent = rec(payload)
            .keyed("key")
            .with("id", "7")
            .with("type", "t")
            .with("timestamp", "9")
            .with("src", "s");
        let frame = decode(&reading(json!("json_body")), &sent).expect(payload);
        let written = encode(&writing, &frame).map(|r| String::from_utf8(r.value).expect("UTF-8"));
        assert_eq!(written, row.map(str::to_owned).map_err(str::to_owned), "{payload}");
    }
    let drop = super::support::writing(json!({ "csv": { "columns": ["a"], "unknown_fields": "drop" } }));
    for (payload, row) in [
        (r#"{"a":1,"z":2}"#, Ok("1")),
        (r#"{"a":""}"#, Ok(r#""""#)),
        (
            r#"{"z":2}"#,
            Err("its row would be empty, and empty lines are passed over: add a column that is never null"),
        ),
    ] {
        let frame = decode(&reading(json!("json_body")), &rec(payload)).expect(payload);
        let written = encode(&drop, &frame).map(|r| String::from_utf8(r.value).expect("UTF-8"));
        assert_eq!(written, row.map(str::to_owned).map_err(str::to_owned), "{payload}");
    }
}

#[test]
fn the_schema_of_payloads_is_told() {
    let declared =
        spec(&json!({ "csv": { "columns": ["a", "n", "j"], "types": { "n": "integer", "j": "json" } } }))
            .declared()
            .expect("a schema");
    assert_eq!(
        declared,
        Some(json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": { "a": { "type": ["string", "null"] }, "n": { "type": ["integer", "null"] }, "j": {} },
            "required": ["a", "n", "j"],
            "additionalProperties": false,
        }))
    );
    assert_eq!(spec(&json!("csv")).declared(), Ok(None));
}

proptest! {
    #[test]
    fn payloads_come_back_from_a_file(
        rows in prop::collection::vec(
            (prop::option::of(any::<String>()), any::<i64>(), prop::option::of(any::<bool>()), prop::option::of("[\",\r\n a\u{feff}]{0,6}")),
            0..12,
        ),
        separator in prop::sample::select(vec![",", ";", "\t", "|"]),
        header in any::<bool>(),
    ) {
        let settings = json!({ "csv": {
            "columns": ["t", "n", "b\"\n", "j"], "separator": separator, "header": header,
            "types": { "n": "integer", "b\"\n": "boolean", "j": "json" },
        } });
        let writing = writing(settings.clone());
        let payloads: Vec<String> = rows.iter().map(|(t, n, b, j)| json!({ "t": t, "n": n, "b\"\n": b, "j": j }).to_string()).collect();
        let values: Vec<Vec<u8>> = payloads
            .iter()
            .map(|p| encode(&writing, &decode(&reading(json!("json_body")), &rec(p)).expect("JSON")).expect("a row").value)
            .collect();
        let file = join(&*writing.framing, &values);
        let parse = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        let back: Vec<Value> = read(settings, &file).into_iter().map(|p| parse(&p.expect("a payload"))).collect();
        prop_assert_eq!(back, payloads.iter().map(|p| parse(p)).collect::<Vec<_>>());
    }

    #[test]
    fn rows_come_back_to_the_letter(fields in prop::collection::vec("[a-z\",\n ]{1,5}", 1..5)) {
        let columns: Vec<String> = (0..fields.len()).map(|i| format!("c{i}")).collect();
        let settings = json!({ "csv": { "columns": columns } });
        let quoted = |f: &String| match f.contains([',', '"', '\n']) {
            true => format!("\"{}\"", f.replace('"', "\"\"")),
            false => f.clone(),
        };
        let row = fields.iter().map(quoted).collect::<Vec<_>>().join(",");
        let frame = decode(&reading(settings.clone()), &rec(&row)).expect("a row");
        prop_assert_eq!(encode(&writing(settings), &frame).expect("a row").value, row.into_bytes());
    }
}

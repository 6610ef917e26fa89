//! What counts, what is skipped, what is refused, and how results look.

use wasmill_engine::builtin::{BuiltIn, BuiltIns, Kind};
use wasmill_engine::key::Path;

use super::model::{Sent, finished, folded, in_a_row, of, value};

fn named(results: &[(&str, BuiltIn)]) -> BuiltIns {
    BuiltIns::named(results.iter().map(|(name, b)| ((*name).to_owned(), b.clone())).collect()).unwrap()
}

/// One of each, over one place.
fn all_over(place: &str) -> BuiltIns {
    named(&[
        ("count", of(Kind::Count, place)),
        ("sum", of(Kind::Sum, place)),
        ("avg", of(Kind::Avg, place)),
        ("min", of(Kind::Min, place)),
        ("max", of(Kind::Max, place)),
        ("first", of(Kind::First, place)),
        ("last", of(Kind::Last, place)),
        ("top_k", of(Kind::TopK { k: 2 }, place)),
        ("distinct", of(Kind::Distinct { values_max: 10 }, place)),
        ("about", of(Kind::DistinctApproximate, place)),
        ("quantiles", of(Kind::Quantiles { at: vec![0.5, 1.0] }, place)),
    ])
}

#[test]
fn numbers_keep_their_text_where_they_are_shown_again() {
    let messages = in_a_row(&["1.50", "1.5", "-3", "12345678901234567890.10", "0.10"]);
    assert_eq!(
        value(&all_over("payload"), &messages).unwrap(),
        concat!(
            r#"{"count":5,"sum":1.2345678901234567e+19,"avg":2.4691357802469135e+18,"min":-3,"#,
            r#""max":12345678901234567890.10,"first":1.50,"last":0.10,"top_k":[12345678901234567890.10,1.50],"#,
            r#""distinct":4,"about":4,"quantiles":{"0.5":1.50390625,"1":1.2345678901234567e+19}}"#
        )
    );
}

#[test]
fn of_nothing_there_is_no_number() {
    let nothing = r#"{"count":0,"sum":null,"avg":null,"min":null,"max":null,"first":null,"last":null,"top_k":[],"distinct":0,"about":0,"quantiles":{"0.5":null,"1":null}}"#;
    let built_ins = all_over("payload.a.b");
    for messages in [
        in_a_row(&[]),
        in_a_row(&["{}", "{\"a\":null}", "{\"a\":{\"b\":null}}", "{\"a\":7}", "[1]", "null", "\"a\""]),
    ] {
        assert_eq!(value(&built_ins, &messages).unwrap(), nothing);
    }
    let count = BuiltIns::bare(of(Kind::Count, "")).unwrap();
    assert_eq!(value(&count, &in_a_row(&["null", "{}", "7"])).unwrap(), "3", "messages, whatever they hold");
}

#[test]
fn texts_and_more_where_no_number_is_needed() {
    let messages = in_a_row(&[
        r#"{"v":"d\u00e9j\u00e0 \"vu\""}"#,
        r#"{"v":"1"}"#,
        r#"{"v":1}"#,
        r#"{"v":true}"#,
        r#"{"v":"1"}"#,
        r#"{"v":1e0}"#,
    ]);
    let built_ins = named(&[
        ("first", of(Kind::First, "payload.v")),
        ("last", of(Kind::Last, "payload")),
        ("distinct", of(Kind::Distinct { values_max: 10 }, "payload.v")),
        ("about", of(Kind::DistinctApproximate, "payload.v")),
    ]);
    let expected = r#"{"first":"déjà \"vu\"","last":{"v":1e0},"distinct":4,"about":4}"#;
    assert_eq!(value(&built_ins, &messages).unwrap(), expected);
}

#[test]
fn a_message_that_one_result_can_t_take_counts_for_none() {
    let built_ins = named(&[
        ("count", of(Kind::Count, "")),
        ("sum", of(Kind::Sum, "payload.n")),
        ("kinds", of(Kind::Distinct { values_max: 10 }, "payload.kind")),
    ]);
    let messages = in_a_row(&[
        r#"{"n":1,"kind":"a"}"#,
        r#"{"n":"late","kind":"b"}"#,
        r#"{"n":true,"kind":"c"}"#,
        r#"{"n":{"m":1},"kind":"d"}"#,
        r#"{"n":1e999,"kind":"e"}"#,
        r#"{"n":2,"kind":["f"]}"#,
        r#"{"n":4"#,
        r#"{"n":8,"kind":"a"}"#,
    ]);
    let (accumulator, refused) = folded(&built_ins, &messages);
    assert_eq!(finished(&built_ins, &accumulator).unwrap(), r#"{"count":2,"sum":9,"kinds":1}"#);
    assert_eq!(
        refused,
        [
            "1: `payload.n` is the text \"late\"; `sum` needs a number",
            "2: `payload.n` is true; `sum` needs a number",
            "3: `payload.n` is an object; `sum` needs a number",
            "4: `payload.n` is the number 1e999, beyond the range of a double; `sum` needs a number",
            "5: `payload.kind` is an array; `distinct` needs a number, a text, true or false",
            "6: the payload is not JSON: EOF while parsing an object at line 1 column 6",
        ]
    );
}

#[test]
fn equals_go_to_the_earlier_message() {
    let sent =
        |time, partition, offset, payload: &str| Sent { time, partition, offset, payload: payload.into() };
    let messages = [sent(7, 0, 0, "1.00"), sent(5, 1, 0, "1.0"), sent(5, 0, 9, "1"), sent(5, 0, 10, "1.000")];
    for kind in [Kind::Min, Kind::Max, Kind::First] {
        let built_in = BuiltIns::bare(of(kind.clone(), "payload")).unwrap();
        assert_eq!(value(&built_in, &messages).unwrap(), "1", "{kind:?}");
    }
    let last = BuiltIns::bare(of(Kind::Last, "payload")).unwrap();
    assert_eq!(value(&last, &messages).unwrap(), "1.00");
    let top = BuiltIns::bare(of(Kind::TopK { k: 3 }, "payload")).unwrap();
    assert_eq!(value(&top, &messages).unwrap(), "[1,1.000,1.0]");
}

#[test]
fn results_of_one_message_have_an_order_of_their_own() {
    // As a stage behind the key_by makes several of one: they stand together, in that order.
    let same = |payload: &str| Sent { time: 1, partition: 0, offset: 4, payload: payload.into() };
    let messages = [same("\"a\""), same("\"c\""), same("\"b\"")];
    let built_ins = named(&[("f", of(Kind::First, "payload")), ("l", of(Kind::Last, "payload"))]);
    assert_eq!(value(&built_ins, &messages).unwrap(), r#"{"f":"a","l":"b"}"#);
}

#[test]
fn places_beside_the_payload_can_be_read() {
    let messages = in_a_row(&["1", "2"]);
    let built_ins = named(&[
        ("seen", of(Kind::Max, "timestamp")),
        ("kinds", of(Kind::Distinct { values_max: 9 }, "type")),
        ("key", of(Kind::Last, "key")),
    ]);
    assert_eq!(value(&built_ins, &messages).unwrap(), r#"{"seen":101,"kinds":1,"key":null}"#);
}

#[test]
fn too_many_different_values_have_no_result_but_harm_no_other_key() {
    let built_ins =
        named(&[("count", of(Kind::Count, "")), ("users", of(Kind::Distinct { values_max: 2 }, "payload"))]);
    let (many, _) = folded(&built_ins, &in_a_row(&["1", "2", "1", "3", "4"]));
    let reason = finished(&built_ins, &many).unwrap_err();
    assert!(reason.starts_with("the result `users`: more than 2 different values"), "{reason}");
    assert!(many.len() < 40, "what is too much is not kept: {} bytes", many.len());
    let (few, _) = folded(&built_ins, &in_a_row(&["1", "2", "2"]));
    assert_eq!(finished(&built_ins, &few).unwrap(), r#"{"count":3,"users":2}"#);
    let long = format!("\"{}\"", "x".repeat(5 << 20));
    assert!(value(&built_ins, &in_a_row(&[&long])).unwrap_err().contains("4194304 bytes"));
}

#[test]
fn settings_out_of_range_are_refused() {
    let place: Path = "payload.x".parse().unwrap();
    for (kind, reason) in [
        (Kind::TopK { k: 0 }, "`k` is 0: expected 1 to 1000"),
        (Kind::TopK { k: 1_001 }, "`k` is 1001: expected 1 to 1000"),
        (Kind::Distinct { values_max: 0 }, "`values_max` is 0: expected 1 to 100000"),
        (Kind::Quantiles { at: vec![] }, "`at` names 0 quantiles: expected 1 to 100"),
        (Kind::Quantiles { at: vec![0.5, 1.5] }, "the quantile 1.5 is out of range: expected 0 to 1"),
        (Kind::Quantiles { at: vec![f64::NAN] }, "the quantile NaN is out of range: expected 0 to 1"),
        (Kind::Quantiles { at: vec![0.5, 0.5] }, "the quantile 0.5 stands twice: expected each once"),
    ] {
        assert_eq!(BuiltIns::bare(BuiltIn::new(kind, Some(place.clone()))).unwrap_err(), reason);
    }
    assert_eq!(BuiltIns::bare(BuiltIn::new(Kind::Sum, None)).unwrap_err(), "`sum` needs a place to read");
    assert!(BuiltIns::named(Vec::new()).is_err());
    let twice = vec![("n".to_owned(), of(Kind::Count, "")), ("n".to_owned(), of(Kind::Count, ""))];
    assert_eq!(BuiltIns::named(twice).unwrap_err(), "two results are named `n`");
}

#[test]
fn a_damaged_accumulator_is_told_and_never_read() {
    let built_ins = all_over("payload");
    let messages = in_a_row(&["1", "2.5", "-7"]);
    let (whole, _) = folded(&built_ins, &messages);
    for cut in 0..whole.len() {
        let damaged = &whole[..cut];
        assert!(built_ins.finish(damaged).is_err(), "cut at {cut}");
        assert!(built_ins.merge(&whole, damaged).is_err(), "cut at {cut}");
    }
    let mut other_version = whole.clone();
    other_version[0] = 9;
    assert_eq!(built_ins.finish(&other_version).unwrap_err(), "an accumulator of version 9, not 1");
    let mut longer = whole;
    longer.push(0);
    assert!(built_ins.finish(&longer).is_err());
}

/// What is stored must be read for ever: these are accumulators of version 1, to the byte.
#[test]
fn the_layout_is_the_one_that_is_stored() {
    let (accumulator, _) = folded(
        &named(&[
            ("n", of(Kind::Count, "")),
            ("s", of(Kind::Sum, "payload")),
            ("m", of(Kind::Max, "payload")),
        ]),
        &in_a_row(&["1", "0.5", "-3"]),
    );
    let hex: String = accumulator.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(
        hex,
        concat!(
            "01",
            "0300000000000000",
            "0300000000000000",
            "feffffffffffffffffffffffffffffffffffffffffffffff",
            "010110",
            "0000000000000200",
            "1f000000",
            "8000000000000064",
            "0000",
            "00000000",
            "0000000000000000",
            "00000000",
            "00000000",
            "31"
        )
    );
}

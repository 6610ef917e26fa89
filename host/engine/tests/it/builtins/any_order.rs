//! Folded in any order, in parts that are merged in any order, messages give the same bytes; and what these
//! finish to is what a list of the messages' values tells.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use num_bigint::BigInt;
use proptest::prelude::*;
use serde_json::Value;
use wasmill_engine::builtin::{BuiltIns, Kind};

use super::exact_sums::literal;
use super::model::{Sent, finished, folded, of, units};

const K: usize = 3;
const VALUES_MAX: u32 = 12;
const QUANTILES: [f64; 5] = [0.0, 0.25, 0.5, 0.99, 1.0];

fn built_ins() -> BuiltIns {
    let quantiles = Kind::Quantiles { at: QUANTILES.to_vec() };
    let results = [
        ("count", of(Kind::Count, "")),
        ("with_x", of(Kind::Count, "payload.x")),
        ("sum", of(Kind::Sum, "payload.x")),
        ("avg", of(Kind::Avg, "payload.x")),
        ("min", of(Kind::Min, "payload.x")),
        ("max", of(Kind::Max, "payload.x")),
        ("first", of(Kind::First, "payload.y")),
        ("last", of(Kind::Last, "payload.y")),
        ("top", of(Kind::TopK { k: K as u32 }, "payload.x")),
        ("quantiles", of(quantiles, "payload.x")),
        ("approximate", of(Kind::DistinctApproximate, "payload.y.0")),
        ("distinct", of(Kind::Distinct { values_max: VALUES_MAX }, "payload.z")),
    ];
    BuiltIns::named(results.map(|(name, built_in)| (name.to_owned(), built_in)).into()).unwrap()
}

/// A message's `x` is a number or nothing, its `y` anything, its `z` one of few scalars.
fn payload() -> impl Strategy<Value = String> {
    let x = prop_oneof![
        6 => literal(),
        2 => prop::sample::select(vec!["1", "1.0", "1e0", "-0.0", "0"]).prop_map(str::to_owned),
        1 => Just("null".to_owned()),
        1 => Just(String::new()),
    ];
    let y = prop::sample::select(vec!["1", "\"a\"", "{\"b\":[1]}", "[7]", "[\"7\"]", "true", "null"]);
    let z = prop_oneof![
        (0i32..20).prop_map(|n| n.to_string()),
        (0i32..3).prop_map(|n| format!("\"{n}\"")),
        Just("1.0".to_owned()),
        Just("null".to_owned()),
    ];
    (x, y, z).prop_map(|(x, y, z)| {
        let x = if x.is_empty() { String::new() } else { format!("\"x\":{x},") };
        format!("{{\"n\":[null],{x}\"y\":{y},\"z\":{z}}}")
    })
}

fn messages() -> impl Strategy<Value = Vec<Sent>> {
    let message = (0i64..6, 0u32..3, payload());
    prop::collection::vec(message, 0..50).prop_map(|messages| {
        let sent = |(offset, (time, partition, payload))| Sent { time, partition, offset, payload };
        (0..).zip(messages).map(sent).collect()
    })
}

/// A shuffle, a cut into parts, and the order in which these are merged.
#[derive(Debug, Clone)]
struct Disorder(Vec<u64>);

impl Disorder {
    fn next(&mut self, below: usize) -> usize {
        self.0.rotate_left(1);
        (self.0[0] % below.max(1) as u64) as usize
    }

    fn fold(&mut self, built_ins: &BuiltIns, messages: &[Sent]) -> Vec<u8> {
        let mut rest = messages.to_vec();
        let mut parts = vec![built_ins.initial().to_vec()];
        while !rest.is_empty() {
            let size = 1 + self.next(7);
            let part: Vec<Sent> =
                (0..size.min(rest.len())).map(|_| rest.swap_remove(self.next(rest.len()))).collect();
            parts.push(folded(built_ins, &part).0);
        }
        while parts.len() > 1 {
            let (left, right) =
                (parts.swap_remove(self.next(parts.len())), parts.swap_remove(self.next(parts.len())));
            parts.push(built_ins.merge(&left, &right).unwrap());
        }
        parts.remove(0)
    }
}

/// What stands at a field, to the letter; none where that is nothing.
fn field(sent: &Sent, name: &str) -> Option<String> {
    let object: std::collections::BTreeMap<String, Box<serde_json::value::RawValue>> =
        serde_json::from_str(&sent.payload).unwrap();
    object.get(name).map(|raw| raw.get().to_owned()).filter(|text| text != "null")
}

/// By value, -0.0 below 0.
fn by_value(a: &str, b: &str) -> Ordering {
    let negative_zero =
        |text: &str| text.parse::<i128>().is_err() && text.parse::<f64>().unwrap().to_bits() == 1 << 63;
    units(a).cmp(&units(b)).then(negative_zero(b).cmp(&negative_zero(a)))
}

/// The value as a list of the messages tells it, but for sum, avg, quantiles and the approximation.
fn expected(messages: &[Sent]) -> Vec<(&'static str, String)> {
    let mut by_place = messages.to_vec();
    by_place.sort_by_key(Sent::place);
    let x: Vec<String> = by_place.iter().filter_map(|m| field(m, "x")).collect();
    let y: Vec<String> = by_place.iter().filter_map(|m| field(m, "y")).collect();
    let mut descending = x.clone();
    // Stable: of equal numbers the earlier message's stays in front.
    descending.sort_by(|a, b| by_value(b, a));
    let mut ascending = x.clone();
    ascending.sort_by(|a, b| by_value(a, b));
    let or_null = |text: Option<&String>| text.cloned().unwrap_or("null".to_owned());
    let top: Vec<String> = descending.iter().take(K).cloned().collect();
    vec![
        ("count", messages.len().to_string()),
        ("with_x", x.len().to_string()),
        ("min", or_null(ascending.first())),
        ("max", or_null(descending.first())),
        ("first", or_null(y.first())),
        ("last", or_null(y.last())),
        ("top", format!("[{}]", top.join(","))),
    ]
}

fn different(messages: &[Sent]) -> usize {
    let values = messages.iter().filter_map(|m| field(m, "z")).map(|z| match z.starts_with('"') {
        true => (Some(z), BigInt::ZERO),
        false => (None, units(&z)),
    });
    values.collect::<BTreeSet<_>>().len()
}

fn check_quantiles(found: &Value, messages: &[Sent]) {
    let x: Vec<String> = messages.iter().filter_map(|m| field(m, "x")).collect();
    let to_f64 = |text: &String| text.parse::<i128>().map_or_else(|_| text.parse().unwrap(), |i| i as f64);
    let mut sorted: Vec<f64> = x.iter().map(to_f64).collect();
    sorted.sort_by(f64::total_cmp);
    for q in QUANTILES {
        let found = &found[q.to_string()];
        if sorted.is_empty() {
            assert!(found.is_null());
            continue;
        }
        let true_value = sorted[(q * (sorted.len() - 1) as f64) as usize];
        let found: f64 = found.to_string().parse().unwrap();
        // A share of 1/256, and of the very least numbers the least steps.
        let allowed = true_value.abs() / 256.0 + f64::from_bits(1 << 45);
        assert!((found - true_value).abs() <= allowed, "{found} for the {q}-quantile {true_value}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]
    #[test]
    fn any_order_and_any_merges_give_the_same_bytes_and_the_right_values(
        messages in messages(),
        disorder in prop::collection::vec(any::<u64>(), 31),
    ) {
        let built_ins = built_ins();
        let (accumulator, refused) = folded(&built_ins, &messages);
        prop_assert_eq!(refused, Vec::<String>::new());
        let merged = Disorder(disorder).fold(&built_ins, &messages);
        prop_assert_eq!(&accumulator, &merged, "in another order");
        let different = different(&messages);
        let json = match finished(&built_ins, &accumulator) {
            Ok(json) => json,
            Err(reason) => {
                let too_many = different > VALUES_MAX as usize;
                prop_assert!(too_many || reason.contains("`sum`"), "{different} different values: {reason}");
                return Ok(());
            }
        };
        prop_assert!(different <= VALUES_MAX as usize, "{different} different values have a result");
        let value: Value = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(value["distinct"].as_u64(), Some(different as u64));
        check_quantiles(&value["quantiles"], &messages);
        for (name, text) in expected(&messages) {
            let found = format!("\"{name}\":{text}");
            prop_assert!(json.contains(&found), "no {found} in {json}");
        }
    }
}

/// Values so far apart that buckets must be joined: the same bytes in any order, and the error that is told.
#[test]
fn joined_buckets_do_not_depend_on_the_order() {
    let quantiles = Kind::Quantiles { at: vec![0.1, 0.5, 0.9] };
    let built_ins = BuiltIns::bare(of(quantiles, "payload")).unwrap();
    let value_of = |i: u64| {
        1.7f64.powf(((i * 7_919) % 6_007) as f64 / 10.0) * if i.is_multiple_of(5) { -1.0 } else { 1.0 }
    };
    let messages: Vec<Sent> = (0..6_000)
        .map(|i| Sent { time: 0, partition: 0, offset: i, payload: format!("{:e}", value_of(i)) })
        .collect();
    let (accumulator, _) = folded(&built_ins, &messages);
    let mut backwards = messages.clone();
    backwards.reverse();
    assert_eq!(folded(&built_ins, &backwards).0, accumulator);
    let mut random: Vec<u64> = (1..32).map(|i| i * 0x9e37_79b9_7f4a_7c15).collect();
    random.rotate_left(5);
    assert_eq!(Disorder(random).fold(&built_ins, &messages), accumulator);

    let mut sorted: Vec<f64> = (0..6_000).map(value_of).collect();
    sorted.sort_by(f64::total_cmp);
    let found: Value = serde_json::from_str(&finished(&built_ins, &accumulator).unwrap()).unwrap();
    for q in [0.1, 0.5, 0.9] {
        let true_value = sorted[(q * 5_999.0) as usize];
        let found = found[q.to_string()].as_f64().unwrap();
        let error = ((found - true_value) / true_value).abs();
        // Some 570 powers of two, of both signs: joined six times, each of which doubles the error.
        assert!(error <= 64.0 / 256.0, "{found} for {true_value}");
    }
}

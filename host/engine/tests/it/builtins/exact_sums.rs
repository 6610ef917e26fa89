//! Sums and means are exact and rounded once, whatever is added.

use num_bigint::BigInt;
use proptest::prelude::*;
use wasmill_engine::builtin::{BuiltIns, Kind};

use super::model::{in_a_row, is_nearest, of, units, value};

/// Doubles from every corner, and integers from small to beyond 128 bits.
pub fn literal() -> impl Strategy<Value = String> {
    let float = |f: f64| format!("{f:e}");
    prop_oneof![
        4 => any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(float),
        2 => (-1_000i64..1_000).prop_map(|i| i.to_string()),
        2 => (-100_000i64..100_000).prop_map(|i| format!("{}.{:02}", i / 100, (i % 100).abs())),
        1 => any::<i128>().prop_map(|i| i.to_string()),
        1 => prop::num::f64::SUBNORMAL.prop_map(float),
        1 => prop::sample::select(vec![
            "-0.0", "0.0", "0", "1e308", "-1e308", "1.7976931348623157e308", "5e-324", "-5e-324",
            "2.2250738585072014e-308", "9007199254740993", "9007199254740992.0", "1e16", "0.1",
            "170141183460469231731687303715884105727", "-170141183460469231731687303715884105728",
            "170141183460469231731687303715884105728", "-1e40",
        ]).prop_map(str::to_owned),
    ]
}

/// Numbers among which many cancel each other, wholly or but for a little.
fn literals() -> impl Strategy<Value = Vec<String>> {
    let negated = |text: &str| match text.strip_prefix('-') {
        Some(positive) => positive.to_owned(),
        None => format!("-{text}"),
    };
    (prop::collection::vec((literal(), any::<bool>()), 0..40), any::<prop::sample::Index>()).prop_map(
        move |(numbers, turn)| {
            let mut all: Vec<String> = numbers.iter().map(|(n, _)| n.clone()).collect();
            all.extend(numbers.iter().filter(|(_, cancels)| *cancels).map(|(n, _)| negated(n)));
            if !all.is_empty() {
                let by = turn.index(all.len());
                all.rotate_left(by);
            }
            all
        },
    )
}

fn sum_and_avg(literals: &[String]) -> (Result<String, String>, String) {
    let payloads: Vec<&str> = literals.iter().map(String::as_str).collect();
    let messages = in_a_row(&payloads);
    let [sum, avg] =
        [Kind::Sum, Kind::Avg].map(|kind| value(&BuiltIns::bare(of(kind, "payload")).unwrap(), &messages));
    (sum, avg.unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn sums_and_means_are_the_nearest_doubles(literals in literals()) {
        let exact: BigInt = literals.iter().map(|l| units(l)).sum();
        let (sum, avg) = sum_and_avg(&literals);
        let count = literals.len() as u64;
        if count == 0 {
            prop_assert_eq!((sum.unwrap(), avg), ("null".to_owned(), "null".to_owned()));
            return Ok(());
        }
        let avg: f64 = avg.parse().unwrap();
        prop_assert!(is_nearest(avg, &exact, count), "{avg} is not the mean of {literals:?}");
        match sum {
            Ok(sum) if literals.iter().all(|l| l.parse::<i128>().is_ok()) => {
                prop_assert_eq!(sum, (exact >> 1074u32).to_string());
            }
            Ok(sum) => {
                let sum: f64 = sum.parse().unwrap();
                prop_assert!(is_nearest(sum, &exact, 1), "{sum} is not the sum of {literals:?}");
            }
            Err(reason) => {
                prop_assert!(reason.contains("beyond the range of a double"), "{reason}");
                // From half a unit above the greatest double on, everything rounds to infinity.
                let magnitude = if exact < BigInt::ZERO { -exact } else { exact };
                let infinite = (BigInt::from(1) << (1024 + 1074u32)) - (BigInt::from(1) << (1024 - 54 + 1074u32));
                prop_assert!(magnitude >= infinite, "{literals:?}");
            }
        }
    }
}

#[test]
fn what_plain_addition_gets_wrong() {
    for (literals, sum, avg) in [
        (&["1e100", "1.0", "-1e100"][..], "1.0", "0.3333333333333333"),
        (&["0.1"; 10][..], "1.0", "0.1"),
        (&["0.1", "0.2"][..], "0.30000000000000004", "0.15000000000000002"),
        (&["9007199254740993", "1"][..], "9007199254740994", "4503599627370497.0"),
        (&["9007199254740992.0", "1", "1"][..], "9007199254740994.0", "3002399751580331.5"),
        (&["1e308", "1e308", "-1e308"][..], "1e+308", "3.3333333333333333e307"),
        (&["5e-324", "5e-324", "5e-324"][..], "1.5e-323", "5e-324"),
        (&["-0.0"][..], "0.0", "0.0"),
        (&["7", "8"][..], "15", "7.5"),
        (
            &["170141183460469231731687303715884105727"; 3][..],
            "510423550381407695195061911147652317181",
            "1.7014118346046923e38",
        ),
        (
            &["-170141183460469231731687303715884105728"; 2][..],
            "-340282366920938463463374607431768211456",
            "-1.7014118346046923e38",
        ),
    ] {
        let literals: Vec<String> = literals.iter().map(|l| (*l).to_owned()).collect();
        let (found, mean) = sum_and_avg(&literals);
        assert_eq!(found.as_deref(), Ok(sum), "{literals:?}");
        assert_eq!(mean.parse::<f64>().unwrap(), avg.parse::<f64>().unwrap(), "{literals:?}");
    }
    let (sum, avg) = sum_and_avg(&["1e308".to_owned(), "1e308".to_owned()]);
    assert_eq!(sum.unwrap_err(), "the result `sum`: the sum is beyond the range of a double");
    assert_eq!(avg, "1e+308");
}

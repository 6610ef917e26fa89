//! Numbers as built-ins understand them.

use std::cmp::Ordering;

/// The number that a JSON literal stands for: an integer of up to 128 bits exactly, any other as the nearest
/// double.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Number {
    Int(i128),
    /// Finite.
    Float(f64),
}

/// Integers from here on are beyond the range of `i128`; a power of two, so exact as a double.
const INT_END: f64 = 170_141_183_460_469_231_731_687_303_715_884_105_728.0;

impl Number {
    /// Reads a JSON literal; none where it is no number.
    ///
    /// # Errors
    /// When it is beyond the range of a double.
    pub fn parse(text: &str) -> Option<Result<Self, String>> {
        if !text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
            return None;
        }
        if let Ok(int) = text.parse::<i64>() {
            return Some(Ok(Self::Int(int.into())));
        }
        if let Ok(int) = text.parse::<i128>() {
            return Some(Ok(Self::Int(int)));
        }
        let float: f64 = text.parse().ok()?;
        if float.is_infinite() {
            return Some(Err(format!("the number {text} is beyond the range of a double")));
        }
        Some(Ok(Self::Float(float)))
    }

    /// The nearest double.
    pub fn to_f64(self) -> f64 {
        match self {
            // Rounds to the nearest, ties to even.
            #[expect(clippy::cast_precision_loss, reason = "the nearest double is what is asked for")]
            Self::Int(int) => int as f64,
            Self::Float(float) => float,
        }
    }

    /// A total order: by the exact values, -0.0 just below 0.
    pub fn order(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => a.cmp(&b),
            (Self::Float(a), Self::Float(b)) => a.total_cmp(&b),
            (Self::Int(a), Self::Float(b)) => int_against_float(a, b),
            (Self::Float(a), Self::Int(b)) => int_against_float(b, a).reverse(),
        }
    }

    /// The same value in one form only: an integer where the value is one, and 0 for -0.0.
    pub fn canonical(self) -> Self {
        match self {
            Self::Float(float) if float.fract() == 0.0 && (-INT_END..INT_END).contains(&float) => {
                Self::Int(truncated(float))
            }
            other => other,
        }
    }
}

fn int_against_float(int: i128, float: f64) -> Ordering {
    if float >= INT_END {
        return Ordering::Less;
    }
    if float < -INT_END {
        return Ordering::Greater;
    }
    // Where both are equal up to the point, what is behind it decides; of -0.0 that has lost its sign.
    let behind = if float == 0.0 { float } else { float.fract() };
    int.cmp(&truncated(float)).then_with(|| 0.0_f64.total_cmp(&behind))
}

/// The integer part of a double inside the range of `i128`.
#[expect(
    clippy::cast_possible_truncation,
    reason = "it is inside the range, and the fraction is not asked for"
)]
fn truncated(float: f64) -> i128 {
    float as i128
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Number {
        Number::parse(text).expect("a number").expect("in range")
    }

    #[test]
    fn the_order_is_by_exact_values() {
        let ascending = [
            "-1e308",
            "-170141183460469231731687303715884105728",
            "-9007199254740993",
            "-9007199254740992.0",
            "-1.5",
            "-1",
            "-5e-324",
            "-0.0",
            "0",
            "5e-324",
            "0.1",
            "9007199254740992.0",
            "9007199254740993",
            "170141183460469231731687303715884105727",
            "170141183460469231731687303715884105728",
            "1e300",
        ];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(number(a).order(number(b)), i.cmp(&j), "{a} against {b}");
            }
        }
        assert_eq!(number("0").order(number("0.0")), Ordering::Equal);
        assert_eq!(number("-0").order(number("0")), Ordering::Equal, "an integer has one zero");
    }

    #[test]
    fn one_value_has_one_form() {
        for (text, int) in [("1.0", 1), ("1e2", 100), ("-0.0", 0), ("-2.0", -2)] {
            assert!(matches!(number(text).canonical(), Number::Int(i) if i == int), "{text}");
        }
        assert!(matches!(number("0.5").canonical(), Number::Float(f) if f == 0.5));
        assert!(matches!(number("1e300").canonical(), Number::Float(f) if f == 1e300));
    }

    #[test]
    fn what_is_no_number_or_too_great_is_told() {
        for text in ["true", "inf", "NaN", "\"1\""] {
            assert!(Number::parse(text).is_none(), "{text}");
        }
        assert!(Number::parse("1e400").is_some_and(|n| n.is_err()));
    }
}

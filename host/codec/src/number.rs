//! Numbers between JSON text, which has any digits, and types that have some.
//!
//! What a type can't give back is refused, not rounded: a JSON number goes into a double only where the
//! double's shortest text is the same number.

use crate::bounded::shown;

/// How a JSON number goes into a binary one that can't hold all its digits.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Numbers {
    /// It is refused: the message is a dead letter.
    #[default]
    Exact,
    /// It is rounded to the nearest.
    Round,
}

/// A JSON number as a whole number, where it is one: `1e3` and `1.0` are.
///
/// # Errors
/// That it is none, or has too many digits.
pub fn integer(text: &str) -> Result<i128, String> {
    if let Ok(n) = text.parse::<i128>() {
        return Ok(n);
    }
    let decimal = Decimal::of(text).ok_or_else(|| format!("{} is no number", shown(text)))?;
    let not_whole = || format!("{} is not a whole number", shown(text));
    let too_great = || format!("{} has too many digits", shown(text));
    if decimal.digits.is_empty() {
        return Ok(0);
    }
    let zeros = u32::try_from(decimal.exponent).map_err(|_| not_whole())?;
    let digits: i128 = decimal.digits.parse().map_err(|_| too_great())?;
    let scale = 10_i128.checked_pow(zeros).ok_or_else(too_great)?;
    let n = digits.checked_mul(scale).ok_or_else(too_great)?;
    Ok(if decimal.negative { -n } else { n })
}

/// A JSON number as a double.
///
/// # Errors
/// That a double would not give the same number back, where that is asked.
pub fn double(text: &str, numbers: Numbers) -> Result<f64, String> {
    let double: f64 = text.parse().map_err(|_| format!("{} is no number", shown(text)))?;
    if numbers == Numbers::Round && double.is_finite() {
        return Ok(double);
    }
    // Up to fifteen digits always come back.
    let same = (text.len() <= 15 && double.is_finite() && !text.contains(['e', 'E']))
        || (double.is_finite() && comes_back(text, double, |out| write_double(double, out)));
    if same { Ok(double) } else { Err(lossy(text, "double", numbers)) }
}

/// A JSON number as a float of 32 bits.
///
/// # Errors
/// As of [`double`].
pub fn float(text: &str, numbers: Numbers) -> Result<f32, String> {
    let float: f32 = text.parse().map_err(|_| format!("{} is no number", shown(text)))?;
    let same = float.is_finite()
        && (numbers == Numbers::Round || comes_back(text, float.into(), |out| write_float(float, out)));
    if same { Ok(float) } else { Err(lossy(text, "float of 32 bits", numbers)) }
}

/// Whether what is written of a number is the same number again; or could be, for where a number lies in the middle
/// between two shortest texts, some programs write the one and some the other.
fn comes_back(text: &str, value: f64, write: impl FnOnce(&mut Vec<u8>)) -> bool {
    let mut back = Vec::new();
    write(&mut back);
    let back = std::str::from_utf8(&back).ok().and_then(Decimal::of);
    match (Decimal::of(text), back) {
        (Some(text), Some(back)) => {
            text == back || (text.is_beside(&back) && text.is_half_a_step_from(value))
        }
        _ => false,
    }
}

fn lossy(text: &str, kind: &str, numbers: Numbers) -> String {
    let shown = shown(text);
    match numbers {
        Numbers::Round => format!("the number {shown} is too great for a {kind}"),
        Numbers::Exact => format!(
            "the number {shown} does not fit a {kind} to the last digit: send it as text, or set `numbers: round` on the codec"
        ),
    }
}

/// Adds a double as a JSON number; what JSON has no number for as the texts `NaN`, `Infinity`, `-Infinity`, as
/// Protobuf's JSON mapping does.
pub fn write_double(value: f64, out: &mut Vec<u8>) {
    use std::io::Write as _;
    // Writing to a Vec can't fail.
    let _ = match value {
        v if v.is_nan() => out.write_all(b"\"NaN\""),
        f64::INFINITY => out.write_all(b"\"Infinity\""),
        f64::NEG_INFINITY => out.write_all(b"\"-Infinity\""),
        v => serde_json::to_writer(&mut *out, &v).map_err(std::io::Error::from),
    };
}

/// As [`write_double`], with the fewest digits that tell the float.
pub fn write_float(value: f32, out: &mut Vec<u8>) {
    use std::io::Write as _;
    // Writing to a Vec can't fail.
    let _ = match value {
        v if v.is_nan() => out.write_all(b"\"NaN\""),
        f32::INFINITY => out.write_all(b"\"Infinity\""),
        f32::NEG_INFINITY => out.write_all(b"\"-Infinity\""),
        v => serde_json::to_writer(&mut *out, &v).map_err(std::io::Error::from),
    };
}

/// The double that one of the three texts is.
#[must_use]
pub fn not_finite(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// A decimal number: digits without zeros at either end, times a power of ten. Zero has no digits.
#[derive(Debug, PartialEq, Eq)]
pub struct Decimal {
    /// Whether it is below zero.
    pub negative: bool,
    /// Its digits.
    pub digits: String,
    /// The power of ten of its last digit.
    pub exponent: i64,
}

impl Decimal {
    /// A JSON number as a decimal.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
            None => (text, 0),
        };
        let (negative, mantissa) = match mantissa.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, mantissa.strip_prefix('+').unwrap_or(mantissa)),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let all = format!("{whole}{fraction}");
        if !all.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let digits = all.trim_start_matches('0').trim_end_matches('0');
        let zeros = all.len() - all.trim_end_matches('0').len();
        if digits.is_empty() {
            return Some(Self { negative, digits: String::new(), exponent: 0 });
        }
        let exponent = exponent
            .checked_sub(i64::try_from(fraction.len()).ok()?)?
            .checked_add(i64::try_from(zeros).ok()?)?;
        Some(Self { negative, digits: digits.to_owned(), exponent })
    }
}

impl Decimal {
    /// Whether the two have as many digits, and differ by one step of the last.
    fn is_beside(&self, other: &Self) -> bool {
        let digits = |of: &Self| of.digits.parse::<u64>().ok();
        (self.negative, self.exponent, self.digits.len())
            == (other.negative, other.exponent, other.digits.len())
            && digits(self).zip(digits(other)).is_some_and(|(one, other)| one.abs_diff(other) == 1)
    }

    /// Whether a double lies exactly half a step of the last digit away.
    fn is_half_a_step_from(&self, value: f64) -> bool {
        // No double has more digits, and they are all of it.
        const DIGITS_MAX: usize = 767;
        let exact = Self::of(&format!("{value:.DIGITS_MAX$e}"));
        let Some(exact) = exact.filter(|exact| exact.exponent == self.exponent - 1) else { return false };
        match (self.digits.parse::<u128>(), exact.digits.parse::<u128>()) {
            (Ok(own), Ok(exact)) => (own * 10).abs_diff(exact) == 5,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_whole_is_told_by_its_value() {
        for (text, n) in [("0", 0), ("-0.0", 0), ("1e3", 1000), ("1.50e1", 15), ("-12", -12), ("120e-1", 12)]
        {
            assert_eq!(integer(text), Ok(n), "{text}");
        }
        for text in ["1.5", "1e-1", "1e99", "x", "", "1e99999999999999999999"] {
            assert!(integer(text).is_err(), "{text}");
        }
    }

    #[test]
    fn digits_that_a_double_lacks_are_refused() {
        for text in [
            "0.1",
            "1.10",
            "1e400",
            "123456789012345678901",
            "9007199254740993",
            "5e-324",
            "0.10000000000000001",
        ] {
            let exact = double(text, Numbers::Exact);
            let fits = matches!(text, "0.1" | "1.10" | "5e-324");
            assert_eq!(exact.is_ok(), fits, "{text}: {exact:?}");
        }
        assert!(double("1e400", Numbers::Round).is_err());
        assert_eq!(double("9007199254740993", Numbers::Round), Ok(9_007_199_254_740_992.0));
        assert_eq!(float("0.1", Numbers::Exact), Ok(0.1));
        assert!(float("0.123456789", Numbers::Exact).is_err());
    }

    #[test]
    fn of_two_shortest_texts_either_is_taken() {
        for text in ["-1580285232015348.3", "-1580285232015348.2"] {
            assert_eq!(double(text, Numbers::Exact), Ok(-1_580_285_232_015_348.3), "{text}");
        }
        // The same double, but neither is a text that anyone writes of it.
        for text in ["-1580285232015348.24", "-1580285232015348.1", "-1580285232015348.4", "9007199254740993"]
        {
            assert!(double(text, Numbers::Exact).is_err(), "{text}");
        }
        for text in ["2097152.2", "2097152.3"] {
            assert_eq!(float(text, Numbers::Exact), Ok(2_097_152.3), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_other_programs_write_of_a_double_is_taken(
            value in prop_oneof![any::<f64>(), (-9e15..9e15), (-9e18..9e18)]
        ) {
            prop_assume!(value.is_finite());
            for text in [format!("{value:?}"), format!("{value:e}")] {
                prop_assert_eq!(double(&text, Numbers::Exact), Ok(value));
            }
        }

        #[test]
        fn what_other_programs_write_of_a_float_is_taken(
            value in prop_oneof![any::<f32>(), (-2e7f32..2e7f32)]
        ) {
            prop_assume!(value.is_finite());
            prop_assert_eq!(float(&format!("{value:?}"), Numbers::Exact), Ok(value));
        }

        #[test]
        fn a_double_comes_back(value in any::<f64>()) {
            let mut text = Vec::new();
            write_double(value, &mut text);
            let text = String::from_utf8(text).expect("ASCII");
            match not_finite(text.trim_matches('"')) {
                Some(odd) => prop_assert!(odd == value || value.is_nan()),
                None => prop_assert_eq!(double(&text, Numbers::Exact), Ok(value)),
            }
        }

        #[test]
        fn a_float_comes_back(value in any::<f32>().prop_filter("finite", |v| v.is_finite())) {
            let mut text = Vec::new();
            write_float(value, &mut text);
            prop_assert_eq!(float(std::str::from_utf8(&text).expect("ASCII"), Numbers::Exact), Ok(value));
        }
    }
}

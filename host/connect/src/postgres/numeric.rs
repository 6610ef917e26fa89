//! Decimal numbers as PostgreSQL's `numeric` has them in binary: digits to base 10,000, with the weight of the
//! first one, sign and scale.

/// The most digits behind the point that are taken: far more than any JSON writer gives.
const SCALE_MAX: i64 = 16_383;
/// The most digits before it: PostgreSQL's own limit.
const WHOLE_MAX: i64 = 131_072;

/// Appends a decimal number: `-12.50`, `1e3`. Answers how many digits stand before the point; none where the text
/// is no number, or is beyond what PostgreSQL can hold.
pub(super) fn write(text: &str, out: &mut Vec<u8>) -> Option<usize> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (mantissa, exponent) = match rest.find(['e', 'E']) {
        Some(at) => (&rest[..at], rest[at + 1..].parse::<i32>().ok()?),
        None => (rest, 0),
    };
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && part.is_empty() || !whole.bytes().chain(part.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: Vec<u8> = whole.bytes().chain(part.bytes()).map(|b| b - b'0').collect();
    // How many of the digits stand before the point; it may lie outside of them.
    let mut point = i64::try_from(whole.len()).ok()? + i64::from(exponent);
    let scale = (i64::try_from(digits.len()).ok()? - point).max(0);
    let leading = digits.iter().take_while(|d| **d == 0).count();
    let digits = &digits[leading..];
    point -= i64::try_from(leading).ok()?;
    if scale > SCALE_MAX || (point > WHOLE_MAX && !digits.is_empty()) {
        return None;
    }
    // Groups of four lie around the point.
    let weight = (point - 1).div_euclid(4);
    let before = point.rem_euclid(4);
    let before = if before == 0 { 4 } else { before };
    let mut groups: Vec<i16> = Vec::new();
    let mut place = 4 - before;
    let mut group = 0i16;
    for digit in digits {
        group = group * 10 + i16::from(*digit);
        place += 1;
        if place == 4 {
            groups.push(std::mem::take(&mut group));
            place = 0;
        }
    }
    if place > 0 {
        groups.push(group * [0, 1000, 100, 10][usize::try_from(place).ok()?]);
    }
    while groups.last() == Some(&0) {
        groups.pop();
    }
    let weight = if groups.is_empty() { 0 } else { i16::try_from(weight).ok()? };
    let sign: u16 = if negative && !groups.is_empty() { 0x4000 } else { 0 };
    out.extend_from_slice(&i16::try_from(groups.len()).ok()?.to_be_bytes());
    out.extend_from_slice(&weight.to_be_bytes());
    out.extend_from_slice(&sign.to_be_bytes());
    out.extend_from_slice(&u16::try_from(scale).ok()?.to_be_bytes());
    groups.iter().for_each(|group| out.extend_from_slice(&group.to_be_bytes()));
    Some(if groups.is_empty() { 0 } else { usize::try_from(point.max(0)).ok()? })
}

/// A number in binary as text.
pub(super) fn read(bytes: &[u8]) -> Option<String> {
    let mut words = bytes.chunks_exact(2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let (_, weight, sign, scale) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let weight = i32::from(weight.cast_signed());
    let groups: Vec<u16> = words.collect();
    let group = |at: i32| {
        let index = usize::try_from(weight - at).ok();
        index.and_then(|i| groups.get(i)).copied().unwrap_or(0)
    };
    let mut text = if sign == 0x4000 { "-".to_owned() } else { String::new() };
    let whole: String = (0..=weight.max(0)).rev().map(|at| format!("{:04}", group(at))).collect();
    let whole = whole.trim_start_matches('0');
    text.push_str(if whole.is_empty() { "0" } else { whole });
    let places = usize::from(scale);
    if places > 0 {
        let groups = i32::try_from(places.div_ceil(4)).ok()?;
        let part: String = (1..=groups).map(|at| format!("{:04}", group(-at))).collect();
        text.push('.');
        text.push_str(&part[..places]);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_writes_it_reads() {
        for (text, same) in [
            ("0", "0"),
            ("-0", "0"),
            ("0.00", "0.00"),
            ("1", "1"),
            ("-1", "-1"),
            ("9999", "9999"),
            ("10000", "10000"),
            ("12345678901234567890.123456789", "12345678901234567890.123456789"),
            ("-0.5", "-0.5"),
            ("0.00001", "0.00001"),
            ("0.00012345", "0.00012345"),
            ("1e3", "1000"),
            ("1.5E-7", "0.00000015"),
            ("1.50e1", "15.0"),
            ("-120e-1", "-12.0"),
            ("1e20", "100000000000000000000"),
            ("100000000", "100000000"),
            ("007", "7"),
        ] {
            let mut bytes = Vec::new();
            assert!(write(text, &mut bytes).is_some(), "{text}");
            assert_eq!(read(&bytes).as_deref(), Some(same), "{text}");
        }
        for wrong in ["", "-", ".", "1.2.3", "abc", "1e", "1e99999999999", "NaN", "0x1", "1 ", "1e200000"] {
            assert_eq!(write(wrong, &mut Vec::new()), None, "{wrong}");
        }
        assert_eq!(write("-123.45", &mut Vec::new()), Some(3));
        assert_eq!(write("0.005", &mut Vec::new()), Some(0));
    }
}

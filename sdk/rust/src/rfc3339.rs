//! Times as text.

/// A time in milliseconds since 1970 as RFC 3339 text: `2013-01-01T10:17:00Z`, or with three more
/// digits where there are milliseconds.
#[must_use]
pub fn rfc3339(timestamp_ms: i64) -> String {
    let (days, in_day_ms) = (timestamp_ms.div_euclid(86_400_000), timestamp_ms.rem_euclid(86_400_000));
    let (year, month, day) = civil_from_days(days);
    let (seconds, ms) = (in_day_ms / 1000, in_day_ms % 1000);
    // Digit by digit: formatting costs several times as much, and this is done for every message.
    let mut text = String::with_capacity("2013-01-01T10:17:00.007Z".len());
    match u64::try_from(year) {
        Ok(year @ 0..=9999) => digits(&mut text, year, 4),
        _ => text.push_str(&format!("{year:04}")),
    }
    for (mark, number) in
        [('-', month), ('-', day), ('T', seconds / 3600), (':', seconds / 60 % 60), (':', seconds % 60)]
    {
        text.push(mark);
        digits(&mut text, number.unsigned_abs(), 2);
    }
    if ms != 0 {
        text.push('.');
        digits(&mut text, ms.unsigned_abs(), 3);
    }
    text.push('Z');
    text
}

/// The last `count` decimal digits of a number.
fn digits(text: &mut String, number: u64, count: u32) {
    for place in (0..count).rev() {
        let digit = (number / 10_u64.pow(place) % 10) as u8;
        text.push(char::from(b'0' + digit));
    }
}

/// Days since 1970 to a date of the Gregorian calendar, by Howard Hinnant's `civil_from_days`
/// (<https://howardhinnant.github.io/date_algorithms.html>).
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_357_035_420_000, "2013-01-01T10:17:00Z"),
            (951_782_400_007, "2000-02-29T00:00:00.007Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
            (253_402_300_800_000, "10000-01-01T00:00:00Z"),
            (-62_167_219_200_001, "-001-12-31T23:59:59.999Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(rfc3339(ms), text);
        }
    }
}

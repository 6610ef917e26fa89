//! Text that came from a guest, made fit for a log or an error: short, on one line, without control
//! characters.

use std::fmt::Write;

/// The longest text of a guest's that goes into an error.
pub(crate) const ERROR_BYTES_MAX: usize = 4 << 10;

/// At most `bytes_max` of a text; control characters are written as escapes, so that no line of a
/// guest's can look like another's, or move a terminal's cursor.
pub(crate) fn tame(text: &str, bytes_max: usize) -> String {
    let mut tamed = String::with_capacity(text.len().min(bytes_max));
    for c in text.chars() {
        // The longest escape has 8 bytes, and the sign that something is missing needs 3 behind it.
        if tamed.len() + 11 > bytes_max {
            tamed.push('…');
            break;
        }
        match c {
            '\n' => tamed.push_str("\\n"),
            '\t' => tamed.push(' '),
            // Marks of direction reorder what a reader sees; two separators end a line for some.
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                let _ = write!(tamed, "\\u{{{:x}}}", u32::from(c));
            }
            c if c.is_control() => {
                let _ = write!(tamed, "\\x{:02x}", u32::from(c));
            }
            c => tamed.push(c),
        }
    }
    tamed
}

#[cfg(test)]
mod tests {
    use super::tame;

    #[test]
    fn a_text_stays_on_one_line_and_within_its_bound() {
        for (text, max, tamed) in [
            ("plain", 100, "plain"),
            ("two\nlines", 100, "two\\nlines"),
            ("\u{1b}[31mred", 100, "\\x1b[31mred"),
            ("a\u{202e}b", 100, "a\\u{202e}b"),
            ("a\u{2028}b\u{85}c", 100, "a\\u{2028}b\\x85c"),
            ("0123456789", 12, "01…"),
            ("0123456\u{202e}9", 15, "01234…"),
            ("01234\u{202e}\u{202e}", 16, "01234\\u{202e}…"),
        ] {
            assert_eq!(super::tame(text, max), tamed);
        }
        assert!(tame(&"é".repeat(1000), 64).len() <= 64);
    }
}

//! What may be a text value of metadata or of state, written without a detour over a `String`.

use std::borrow::Cow;
use std::io::Write;

/// A value that is written as text: strings, integers, floats, `bool`, `char`.
pub trait Text {
    /// Appends the text.
    fn write_text(&self, into: &mut Vec<u8>);
}

impl Text for str {
    #[inline]
    fn write_text(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(self.as_bytes());
    }
}

impl Text for String {
    fn write_text(&self, into: &mut Vec<u8>) {
        self.as_str().write_text(into);
    }
}

impl Text for Cow<'_, str> {
    fn write_text(&self, into: &mut Vec<u8>) {
        self.as_ref().write_text(into);
    }
}

impl<T: Text + ?Sized> Text for &T {
    #[inline]
    fn write_text(&self, into: &mut Vec<u8>) {
        (**self).write_text(into);
    }
}

macro_rules! text_by_display {
    ($($t:ty)*) => { $(
        impl Text for $t {
            fn write_text(&self, into: &mut Vec<u8>) {
                // Writing to a `Vec` can't fail.
                let _ = write!(into, "{self}");
            }
        }
    )* };
}

text_by_display!(bool char u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64);

//! What a MessagePack value begins with.

/// The first bytes of a value, and how long its body is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Header {
    Nil,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f32),
    Double(f64),
    /// Text of so many bytes.
    Text(u32),
    /// Bytes.
    Bytes(u32),
    /// A list of so many values.
    List(u32),
    /// A map of so many pairs.
    Map(u32),
    /// An extension: its type, and its bytes.
    Extension(i8, u32),
    /// The one byte that begins no value.
    None,
}

impl Header {
    /// How many bytes behind the header belong to the value alone.
    pub(crate) fn body_bytes(self) -> u64 {
        match self {
            Self::Text(n) | Self::Bytes(n) | Self::Extension(_, n) => u64::from(n),
            _ => 0,
        }
    }
}

/// Reads a header and how long it is; none where bytes are missing.
pub(crate) fn header(bytes: &[u8]) -> Option<(Header, usize)> {
    fn behind<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
        bytes.get(1..)?.first_chunk().copied()
    }
    let first = *bytes.first()?;
    let u8_at = |at: usize| bytes.get(at).copied();
    let u16_1 = || behind(bytes).map(u16::from_be_bytes);
    let u32_1 = || behind(bytes).map(u32::from_be_bytes);
    Some(match first {
        0x00..=0x7f => (Header::Unsigned(first.into()), 1),
        0x80..=0x8f => (Header::Map(u32::from(first & 0x0f)), 1),
        0x90..=0x9f => (Header::List(u32::from(first & 0x0f)), 1),
        0xa0..=0xbf => (Header::Text(u32::from(first & 0x1f)), 1),
        0xc0 => (Header::Nil, 1),
        0xc1 => (Header::None, 1),
        0xc2 => (Header::Bool(false), 1),
        0xc3 => (Header::Bool(true), 1),
        0xc4 => (Header::Bytes(u8_at(1)?.into()), 2),
        0xc5 => (Header::Bytes(u16_1()?.into()), 3),
        0xc6 => (Header::Bytes(u32_1()?), 5),
        0xc7 => (Header::Extension(u8_at(2)? as i8, u8_at(1)?.into()), 3),
        0xc8 => (Header::Extension(u8_at(3)? as i8, u16_1()?.into()), 4),
        0xc9 => (Header::Extension(u8_at(5)? as i8, u32_1()?), 6),
        0xca => (Header::Float(f32::from_be_bytes(behind(bytes)?)), 5),
        0xcb => (Header::Double(f64::from_be_bytes(behind(bytes)?)), 9),
        0xcc => (Header::Unsigned(u8_at(1)?.into()), 2),
        0xcd => (Header::Unsigned(u16_1()?.into()), 3),
        0xce => (Header::Unsigned(u32_1()?.into()), 5),
        0xcf => (Header::Unsigned(u64::from_be_bytes(behind(bytes)?)), 9),
        0xd0 => (Header::Signed(i8::from_be_bytes(behind(bytes)?).into()), 2),
        0xd1 => (Header::Signed(i16::from_be_bytes(behind(bytes)?).into()), 3),
        0xd2 => (Header::Signed(i32::from_be_bytes(behind(bytes)?).into()), 5),
        0xd3 => (Header::Signed(i64::from_be_bytes(behind(bytes)?)), 9),
        0xd4..=0xd8 => (Header::Extension(u8_at(1)? as i8, 1 << (first - 0xd4)), 2),
        0xd9 => (Header::Text(u8_at(1)?.into()), 2),
        0xda => (Header::Text(u16_1()?.into()), 3),
        0xdb => (Header::Text(u32_1()?), 5),
        0xdc => (Header::List(u16_1()?.into()), 3),
        0xdd => (Header::List(u32_1()?), 5),
        0xde => (Header::Map(u16_1()?.into()), 3),
        0xdf => (Header::Map(u32_1()?), 5),
        0xe0..=0xff => (Header::Signed(i64::from(first as i8)), 1),
    })
}

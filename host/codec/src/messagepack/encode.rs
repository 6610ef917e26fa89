//! From JSON to MessagePack, each value in its smallest form.

use crate::jsontext::{self, Json, Kind};
use crate::number::{self, Numbers};
use crate::place::{Step, Wrong};

/// Adds the object of a payload.
pub(super) fn write(payload: &[u8], numbers: Numbers, out: &mut Vec<u8>) -> Result<(), Wrong> {
    let mut json = Json::of(payload)?;
    value(&mut json, numbers, 0, out)?;
    Ok(json.end()?)
}

fn value(json: &mut Json<'_>, numbers: Numbers, nesting: usize, out: &mut Vec<u8>) -> Result<(), Wrong> {
    match json.kind()? {
        Kind::Null => {
            json.null()?;
            out.push(0xc0);
        }
        Kind::Bool => out.push(0xc2 | u8::from(json.bool()?)),
        Kind::Number => write_number(json.number()?, numbers, out)?,
        Kind::Text => write_text(&json.string()?, out)?,
        Kind::Object | Kind::List if nesting >= jsontext::NESTING_MAX => {
            let max = jsontext::NESTING_MAX;
            return Err(Wrong::new(format!("objects and lists are more than {max} deep in one another")));
        }
        Kind::List => {
            json.enter();
            let start = out.len();
            let (mut first, mut count) = (true, 0);
            out.push(0);
            while json.item(&mut first)? {
                value(json, numbers, nesting + 1, out).map_err(|e| e.within(Step::Index(count)))?;
                count += 1;
            }
            write_count(start, count, [0x90, 0xdc, 0xdd], out)?;
        }
        Kind::Object => {
            json.enter();
            let start = out.len();
            let (mut first, mut count) = (true, 0);
            out.push(0);
            while let Some(name) = json.name(&mut first)? {
                write_text(&name, out)?;
                value(json, numbers, nesting + 1, out).map_err(|e| e.within(Step::Name(name.to_string())))?;
                count += 1;
            }
            write_count(start, count, [0x80, 0xde, 0xdf], out)?;
        }
    }
    Ok(())
}

/// Puts the header of a list or a map at `start`, where one byte was left for it.
fn write_count(
    start: usize,
    count: usize,
    [small, of_16, of_32]: [u8; 3],
    out: &mut Vec<u8>,
) -> Result<(), Wrong> {
    if count < 16 {
        out[start] = small | count as u8;
    } else if let Ok(count) = u16::try_from(count) {
        let [a, b] = count.to_be_bytes();
        out.splice(start..=start, [of_16, a, b]);
    } else {
        let [a, b, c, d] = length(count)?.to_be_bytes();
        out.splice(start..=start, [of_32, a, b, c, d]);
    }
    Ok(())
}

fn length(length: usize) -> Result<u32, Wrong> {
    u32::try_from(length).map_err(|_| Wrong::new(format!("{length} are more than MessagePack can count")))
}

fn write_text(text: &str, out: &mut Vec<u8>) -> Result<(), Wrong> {
    match text.len() {
        n @ 0..32 => out.push(0xa0 | n as u8),
        n @ 32..0x100 => out.extend_from_slice(&[0xd9, n as u8]),
        n @ 0x100..0x1_0000 => {
            out.push(0xda);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            out.push(0xdb);
            out.extend_from_slice(&length(n)?.to_be_bytes());
        }
    }
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn write_number(digits: &str, numbers: Numbers, out: &mut Vec<u8>) -> Result<(), Wrong> {
    // "-0" is no integer: it would lose its sign.
    if digits != "-0" {
        if let Ok(n) = digits.parse::<i64>() {
            write_signed(n, out);
            return Ok(());
        }
        if let Ok(n) = digits.parse::<u64>() {
            write_unsigned(n, out);
            return Ok(());
        }
    }
    let double = number::double(digits, numbers)?;
    out.push(0xcb);
    out.extend_from_slice(&double.to_be_bytes());
    Ok(())
}

fn write_unsigned(n: u64, out: &mut Vec<u8>) {
    match n {
        0..0x80 => out.push(n as u8),
        0x80..0x100 => out.extend_from_slice(&[0xcc, n as u8]),
        0x100..0x1_0000 => {
            out.push(0xcd);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        0x1_0000..0x1_0000_0000 => {
            out.push(0xce);
            out.extend_from_slice(&(n as u32).to_be_bytes());
        }
        _ => {
            out.push(0xcf);
            out.extend_from_slice(&n.to_be_bytes());
        }
    }
}

fn write_signed(n: i64, out: &mut Vec<u8>) {
    match n {
        0.. => write_unsigned(n as u64, out),
        -32..0 => out.push(n as i8 as u8),
        -0x80..-32 => out.extend_from_slice(&[0xd0, n as i8 as u8]),
        -0x8000..-0x80 => {
            out.push(0xd1);
            out.extend_from_slice(&(n as i16).to_be_bytes());
        }
        -0x8000_0000..-0x8000 => {
            out.push(0xd2);
            out.extend_from_slice(&(n as i32).to_be_bytes());
        }
        _ => {
            out.push(0xd3);
            out.extend_from_slice(&n.to_be_bytes());
        }
    }
}

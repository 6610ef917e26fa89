//! Versions of the program `stamps`, which stamps each message with the version that did it.

use crate::{Place, home};

/// What a version stamps.
#[must_use]
pub fn stamp(number: u32) -> String {
    format!("version-{number:06}")
}

/// A version's component; it names its number as its version too.
///
/// # Panics
/// When the program is not built.
#[must_use]
pub fn component(number: u32) -> Vec<u8> {
    let mut bytes = std::fs::read(home::plugin("stamps")).expect("the program is built");
    let (old, new) = (stamp(0), stamp(number));
    let at = bytes.windows(old.len()).position(|w| w == old.as_bytes()).expect("its version is in it");
    bytes[at..at + old.len()].copy_from_slice(new.as_bytes());
    let (name, number) = (b"version", number.to_string());
    // A custom section: its number, its size, its name's length, name, text.
    bytes.push(0);
    bytes.push((1 + name.len() + number.len()) as u8);
    bytes.push(name.len() as u8);
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(number.as_bytes());
    bytes
}

/// Puts a file where a pipeline finds its plugin, as a whole.
///
/// # Panics
/// When it can't be written.
pub fn put(place: &Place, name: &str, bytes: &[u8]) {
    place.file("plugins/.new", bytes);
    let to = place.path(format!("plugins/{name}.wasm"));
    std::fs::rename(place.path("plugins/.new"), to).expect("renamed");
}

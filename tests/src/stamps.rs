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
    naming(bytes, &number.to_string())
}

/// A component that names another version, and is the same in all else.
#[must_use]
pub fn naming(component: Vec<u8>, version: &str) -> Vec<u8> {
    saying(component, "version", version)
}

/// A component with one more custom section.
///
/// # Panics
/// When it is longer than 127 bytes.
#[must_use]
pub fn saying(mut component: Vec<u8>, name: &str, text: &str) -> Vec<u8> {
    let size = 1 + name.len() + text.len();
    assert!(size < 0x80, "its size takes more than a byte");
    // Its number, its size, its name's length, name, text.
    component.extend_from_slice(&[0, size as u8, name.len() as u8]);
    component.extend_from_slice(name.as_bytes());
    component.extend_from_slice(text.as_bytes());
    component
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

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
pub fn naming(mut component: Vec<u8>, version: &str) -> Vec<u8> {
    let name = b"version";
    // A custom section: its number, its size, its name's length, name, text.
    component.push(0);
    component.push((1 + name.len() + version.len()) as u8);
    component.push(name.len() as u8);
    component.extend_from_slice(name);
    component.extend_from_slice(version.as_bytes());
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

//! The hasher of in-memory maps by key: XXH3 over the whole key at once.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by key.
pub(crate) type KeyMap<V> = HashMap<Box<[u8]>, V, BuildHasherDefault<KeyHasher>>;

#[derive(Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxhash_rust::xxh3::xxh3_64_with_seed(bytes, self.0);
    }

    // A slice's length comes before its bytes, and adds nothing to a map of whole keys.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

//! Committed entries in memory, as many as have room in so many bytes.
//!
//! Two generations: what is put in or asked for goes to the young one. When that has half of the bytes it
//! becomes the old one, and what nobody asked for since it was old is forgotten.

use std::collections::HashMap;

/// What an entry takes beside its key and value: two vectors, its place in the table, what the allocator adds.
const OVERHEAD_BYTES: usize = 112;

/// Values by stored key; `None` is one that the store is known not to have.
type Generation = HashMap<Vec<u8>, Option<Vec<u8>>>;

/// The cache.
pub(super) struct Cache {
    generation_bytes_max: usize,
    young: Generation,
    young_bytes: usize,
    old: Generation,
}

impl Cache {
    /// An empty cache that takes at most so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            generation_bytes_max: bytes_max / 2,
            young: Generation::new(),
            young_bytes: 0,
            old: Generation::new(),
        }
    }

    /// What it knows of a key, if it knows anything.
    pub fn get(&mut self, key: &[u8]) -> Option<Option<&[u8]>> {
        if let Some((key, value)) = self.old.remove_entry(key) {
            self.put(key, value);
        }
        self.young.get(key).map(Option::as_deref)
    }

    /// Keeps what the store has of a key, in place of what was known of it.
    pub fn put(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.old.remove(&key);
        if let Some((key, value)) = self.young.remove_entry(&key) {
            self.young_bytes -= entry_bytes(&key, value.as_deref());
        }
        let bytes = entry_bytes(&key, value.as_deref());
        if bytes > self.generation_bytes_max {
            return;
        }
        if self.young_bytes + bytes > self.generation_bytes_max {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += bytes;
        self.young.insert(key, value);
    }
}

fn entry_bytes(key: &[u8], value: Option<&[u8]>) -> usize {
    key.len() + value.map_or(0, <[u8]>::len) + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUE_BYTES: usize = 100;
    /// The bytes of an entry whose key has one byte.
    const ENTRY_BYTES: usize = 1 + VALUE_BYTES + OVERHEAD_BYTES;

    fn value(of: u8) -> Option<Vec<u8>> {
        Some(vec![of; VALUE_BYTES])
    }

    fn bytes(cache: &Cache) -> usize {
        let all = cache.young.iter().chain(&cache.old);
        all.map(|(key, value)| entry_bytes(key, value.as_deref())).sum()
    }

    #[test]
    fn it_stays_in_its_bytes_and_keeps_what_is_asked_for() {
        let bytes_max = 20 * ENTRY_BYTES;
        let mut cache = Cache::new(bytes_max);
        cache.put(vec![0], value(0));
        for n in 1..=255 {
            cache.put(vec![n], value(n));
            assert!(bytes(&cache) <= bytes_max, "{} bytes after {n}", bytes(&cache));
            assert_eq!(cache.get(&[n]), Some(value(n).as_deref()), "what was put in last is there");
            assert_eq!(cache.get(&[0]), Some(value(0).as_deref()), "what is asked for again and again stays");
        }
        assert_eq!(cache.get(&[1]), None);
        let known = (1..=255).filter(|n| cache.get(&[*n]).is_some()).count();
        assert!((9..20).contains(&known), "{known} of 20 that have room");
    }

    #[test]
    fn the_last_value_counts_and_its_bytes_alone() {
        let mut cache = Cache::new(4 * ENTRY_BYTES);
        for n in 0..100 {
            cache.put(b"k".to_vec(), value(n));
            assert_eq!(cache.get(b"k"), Some(value(n).as_deref()));
            assert_eq!(bytes(&cache), ENTRY_BYTES);
            assert_eq!(cache.young_bytes, ENTRY_BYTES);
        }
        // One that has grown old, and is put anew.
        (0..2).for_each(|n| cache.put(vec![n], value(n)));
        assert!(cache.old.contains_key(b"k".as_slice()));
        cache.put(b"k".to_vec(), None);
        assert_eq!(cache.get(b"k"), Some(None));
        assert!(!cache.old.contains_key(b"k".as_slice()));
    }

    #[test]
    fn what_has_no_room_is_not_kept_and_pushes_nothing_out() {
        let mut cache = Cache::new(2 * ENTRY_BYTES);
        cache.put(b"k".to_vec(), value(1));
        cache.put(b"large".to_vec(), Some(vec![0; ENTRY_BYTES]));
        assert_eq!(cache.get(b"large"), None);
        assert_eq!(cache.get(b"k"), Some(value(1).as_deref()));
        cache.put(b"k".to_vec(), Some(vec![0; ENTRY_BYTES]));
        assert_eq!(cache.get(b"k"), None, "nor is what it replaces");
    }
}

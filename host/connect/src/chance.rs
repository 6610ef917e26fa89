//! Names that nobody else has.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// A random number. The standard library seeds its hashers from the system's chance.
pub(crate) fn random(n: impl Hash) -> u64 {
    RandomState::new().hash_one(n)
}

/// 32 hexadecimal digits that no other process has, and no other call.
#[must_use]
pub fn random_token() -> String {
    static TOKENS: AtomicU64 = AtomicU64::new(0);
    let number = TOKENS.fetch_add(1, Ordering::Relaxed);
    format!("{:016x}{:016x}", random(number), random((number, std::process::id())))
}

//! Secrets that the stage is granted, by name: `grants: [{ secrets: [api-key] }]`.
//!
//! The host keeps a granted secret's value out of log lines, panics and reasons, where it stands in them as it
//! is. What a plugin writes into messages is its own matter.

use crate::{Result, host};

/// A secret's bytes.
///
/// # Errors
/// When it is not granted.
pub fn get(name: &str) -> Result<Vec<u8>> {
    host::secret_get(name).map_err(|e| crate::reason!("{e}"))
}

/// A secret as text.
///
/// # Errors
/// When it is not granted, or no text.
pub fn text(name: &str) -> Result<String> {
    String::from_utf8(get(name)?).map_err(|_| crate::reason!("the secret {name:?} is no text"))
}

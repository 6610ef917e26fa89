//! State of a message's key.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Reason, Result, host, json};

/// State of one message's key: named values, staged until the host commits. Entries of different keys
/// never meet.
#[derive(Debug, Clone, Copy)]
pub struct State {
    index: u32,
    none: Option<&'static str>,
}

impl State {
    pub(crate) fn new(index: u32, none: Option<&'static str>) -> Self {
        Self { index, none }
    }

    fn call<T>(self, name: &str, call: impl FnOnce(u32) -> Result<T, String>) -> Result<T> {
        if let Some(why) = self.none {
            crate::fail!("state {name:?}: {why}");
        }
        call(self.index).map_err(|e| crate::reason!("state {name:?}: {e}"))
    }

    /// The value of this name.
    ///
    /// # Errors
    /// When the host can't read it.
    pub fn get(self, name: &str) -> Result<Option<Vec<u8>>> {
        self.call(name, |i| host::state_get(i, name))
    }

    /// The value of this name, read as JSON.
    ///
    /// # Errors
    /// When the host can't read it, or it is other JSON.
    pub fn get_json<T: DeserializeOwned>(self, name: &str) -> Result<Option<T>> {
        let Some(bytes) = self.get(name)? else { return Ok(None) };
        json::read(&format!("state {name:?}"), &bytes).map(Some)
    }

    /// Sets the value of this name.
    ///
    /// # Errors
    /// When the host refuses it, as for its size.
    pub fn set(self, name: &str, value: impl AsRef<[u8]>) -> Result<()> {
        self.call(name, |i| host::state_set(i, name, value.as_ref(), None))
    }

    /// Sets the value of this name, to be forgotten `ttl` after this message, in event time.
    ///
    /// # Errors
    /// When the host refuses it, as for its size.
    pub fn set_for(self, name: &str, value: impl AsRef<[u8]>, ttl: Duration) -> Result<()> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.call(name, |i| host::state_set(i, name, value.as_ref(), Some(ttl_ms)))
    }

    /// Sets the value of this name as JSON.
    ///
    /// # Errors
    /// When the value can't be JSON, or the host refuses it.
    pub fn set_json(self, name: &str, value: &(impl Serialize + ?Sized)) -> Result<()> {
        let bytes = serde_json::to_vec(value).map_err(Reason::from)?;
        self.set(name, bytes)
    }

    /// Takes the value of this name away.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn delete(self, name: &str) -> Result<()> {
        self.call(name, |i| host::state_delete(i, name))
    }

    /// Adds to a number (0 where there is none) and gives the sum.
    ///
    /// # Errors
    /// When the value is no number, or the sum leaves 64 bits.
    pub fn increment(self, name: &str, by: i64) -> Result<i64> {
        self.call(name, |i| host::state_increment(i, name, by))
    }
}

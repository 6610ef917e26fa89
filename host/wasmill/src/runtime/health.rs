//! What `/ready` says: whether every end of every pipeline is there.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The ends of the process's pipelines that are away, and pipelines that have not started yet.
#[derive(Debug, Default)]
pub(super) struct Health {
    ill: Mutex<BTreeMap<String, String>>,
}

impl Health {
    /// Something is away, for this reason. Answers whether that is new.
    pub fn ill(&self, what: &str, why: &str) -> bool {
        let before =
            self.ill.lock().unwrap_or_else(PoisonError::into_inner).insert(what.to_owned(), why.to_owned());
        before.as_deref() != Some(why)
    }

    /// It is back.
    pub fn well(&self, what: &str) {
        self.ill.lock().unwrap_or_else(PoisonError::into_inner).remove(what);
    }

    /// What is away, a line each; nothing if all is well.
    pub fn reasons(&self) -> Vec<String> {
        let ill = self.ill.lock().unwrap_or_else(PoisonError::into_inner);
        ill.iter().map(|(what, why)| format!("{what}: {why}")).collect()
    }
}

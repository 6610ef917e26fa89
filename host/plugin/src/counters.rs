//! Counters that plugins keep, and those that the sandbox keeps of itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// One counter of a plugin's, as the host's metrics show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counter {
    /// Whose it is.
    pub plugin: String,
    /// Its name.
    pub name: String,
    /// How far it has counted.
    pub value: u64,
}

/// The counters of one plugin.
#[derive(Debug, Default)]
pub(crate) struct PluginCounters {
    values: Mutex<BTreeMap<String, u64>>,
    dropped: AtomicU64,
}

impl PluginCounters {
    /// Adds what one call staged. Names beyond the bound are dropped and counted.
    pub fn add(&self, staged: &[(String, u64)], names_max: usize) {
        if staged.is_empty() {
            return;
        }
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, by) in staged {
            if let Some(value) = values.get_mut(name) {
                *value = value.saturating_add(*by);
            } else if values.len() < names_max {
                values.insert(name.clone(), *by);
            } else {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    pub fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// Everything that is counted in one sandbox.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    plugins: Mutex<BTreeMap<String, Arc<PluginCounters>>>,
}

impl Counters {
    /// The counters of a plugin: those that another version of it left, if there was one.
    pub fn of(&self, plugin: &str) -> Arc<PluginCounters> {
        let mut plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(plugins.entry(plugin.to_owned()).or_default())
    }

    pub fn snapshot(&self) -> Vec<Counter> {
        let plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counters = Vec::new();
        for (plugin, of) in plugins.iter() {
            let mut push = |name: &str, value| {
                counters.push(Counter { plugin: plugin.clone(), name: name.to_owned(), value });
            };
            for (name, value) in of.values.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                push(name, *value);
            }
            let dropped = of.dropped.load(Ordering::Relaxed);
            if dropped > 0 {
                push("dropped_metrics_total", dropped);
            }
        }
        counters
    }
}

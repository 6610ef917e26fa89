//! Counters that plugins keep, and what the sandbox counts of each plugin.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use wasmill_engine::guest::CallError;

use crate::budget::Budget;

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

/// What one plugin has used up so far, and uses now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Whose it is.
    pub plugin: String,
    /// All memories and tables of its live instances.
    pub memory_bytes: u64,
    /// Its live instances.
    pub instances: u64,
    /// The instances that were made of it.
    pub instances_made: u64,
    /// Those that were thrown away after a call that went well, because they had grown too far.
    pub recycled: u64,
    /// Log lines that were dropped.
    pub log_lines_dropped: u64,
    /// Calls that gave no answer, by the kind of their error.
    pub failures: Vec<(&'static str, u64)>,
    /// How often each budget was used up, by its key under `limits` in a pipeline spec.
    pub limit_hits: Vec<(&'static str, u64)>,
}

/// The counters of one plugin.
#[derive(Debug, Default)]
pub(crate) struct PluginCounters {
    values: Mutex<BTreeMap<String, u64>>,
    dropped: AtomicU64,
    memory_bytes: AtomicU64,
    instances: AtomicU64,
    instances_made: AtomicU64,
    recycled: AtomicU64,
    failures: [AtomicU64; CallError::KINDS.len()],
    limit_hits: [AtomicU64; Budget::ALL.len()],
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
                self.hit(Budget::Counters);
            }
        }
    }

    pub fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// A budget was used up.
    pub fn hit(&self, budget: Budget) {
        self.limit_hits[budget as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A call gave no answer.
    pub fn failed(&self, error: &CallError) {
        if let Some(at) = CallError::KINDS.iter().position(|kind| *kind == error.kind()) {
            self.failures[at].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// An instance is made, or about to be.
    pub fn made(&self) {
        self.instances.fetch_add(1, Ordering::Relaxed);
        self.instances_made.fetch_add(1, Ordering::Relaxed);
    }

    /// An instance is gone, and with it its memory.
    pub fn gone(&self, memory_bytes: usize) {
        self.instances.fetch_sub(1, Ordering::Relaxed);
        self.shrunk(memory_bytes);
    }

    pub fn recycled(&self) {
        self.recycled.fetch_add(1, Ordering::Relaxed);
    }

    pub fn grown(&self, memory_bytes: usize) {
        self.memory_bytes.fetch_add(memory_bytes as u64, Ordering::Relaxed);
    }

    pub fn shrunk(&self, memory_bytes: usize) {
        self.memory_bytes.fetch_sub(memory_bytes as u64, Ordering::Relaxed);
    }

    fn usage(&self, plugin: &str) -> Usage {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Usage {
            plugin: plugin.to_owned(),
            memory_bytes: of(&self.memory_bytes),
            instances: of(&self.instances),
            instances_made: of(&self.instances_made),
            recycled: of(&self.recycled),
            log_lines_dropped: of(&self.limit_hits[Budget::LogLines as usize]),
            failures: CallError::KINDS.into_iter().zip(self.failures.iter().map(of)).collect(),
            limit_hits: Budget::ALL
                .into_iter()
                .map(|b| (b.name(), of(&self.limit_hits[b as usize])))
                .collect(),
        }
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

    pub fn usage(&self) -> Vec<Usage> {
        let plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        plugins.iter().map(|(plugin, of)| of.usage(plugin)).collect()
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

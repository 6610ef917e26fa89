//! What plugins use, as metrics: their own counters, and what their budgets are up to.

use std::sync::Arc;

use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use wasmill_plugin::{Sandbox, Usage};

/// A metric of each plugin: its name, what it is, and how it is read.
type Of = (&'static str, &'static str, fn(&Usage) -> u64);

const GAUGES: [Of; 2] = [
    ("wasmill_plugin_memory_bytes", "All memories and tables of a plugin's live instances.", |u| {
        u.memory_bytes
    }),
    ("wasmill_plugin_instances", "A plugin's live instances.", |u| u.instances),
];

const COUNTERS: [Of; 3] = [
    ("wasmill_plugin_instances_made_total", "Instances that were made of a plugin.", |u| u.instances_made),
    (
        "wasmill_plugin_recycled_total",
        "Instances that were replaced because they had grown beyond `limits.growth`.",
        |u| u.recycled,
    ),
    (
        "wasmill_plugin_log_lines_dropped_total",
        "Log lines that were dropped because there were more than `limits.log_lines` in a second.",
        |u| u.log_lines_dropped,
    ),
];

/// Counters by plugin and one label more: its name, and what stands under each of its values.
type By = (&'static str, &'static str, &'static str, fn(Usage) -> Vec<(&'static str, u64)>);

const COUNTERS_BY: [By; 2] = [
    (
        "wasmill_plugin_traps_total",
        "Calls of a plugin that gave no answer, by the kind of the error.",
        "kind",
        |u| u.failures,
    ),
    (
        "wasmill_plugin_limit_hits_total",
        "How often a plugin met a limit, by its key under `limits`.",
        "limit",
        |u| u.limit_hits,
    ),
];

/// The metrics of the plugins of these pipelines, as they stand now.
pub(super) fn families(sandboxes: &[(String, Arc<Sandbox>)]) -> Vec<MetricFamily> {
    let registry = Registry::new();
    // Only a name that is used twice could go wrong, and a test sees all of them.
    if gather(&registry, sandboxes).is_err() {
        return Vec::new();
    }
    registry.gather()
}

fn gather(registry: &Registry, sandboxes: &[(String, Arc<Sandbox>)]) -> Result<(), prometheus::Error> {
    let counters = |name: &str, about: &str, labels: &[&str]| {
        let counters = IntCounterVec::new(Opts::new(name, about), labels)?;
        registry.register(Box::new(counters.clone()))?;
        Ok::<_, prometheus::Error>(counters)
    };
    let own = counters(
        "wasmill_plugin_counter_total",
        "A counter of a plugin's own.",
        &["pipeline", "plugin", "name"],
    )?;
    for (pipeline, sandbox) in sandboxes {
        for counter in sandbox.counters() {
            own.with_label_values(&[pipeline, &counter.plugin, &counter.name]).inc_by(counter.value);
        }
    }
    let usages: Vec<(&str, Vec<Usage>)> =
        sandboxes.iter().map(|(pipeline, sandbox)| (pipeline.as_str(), sandbox.usage())).collect();
    let each = || usages.iter().flat_map(|(pipeline, of)| of.iter().map(move |usage| (*pipeline, usage)));
    for (name, about, of) in GAUGES {
        let gauges = IntGaugeVec::new(Opts::new(name, about), &["pipeline", "plugin"])?;
        registry.register(Box::new(gauges.clone()))?;
        for (pipeline, usage) in each() {
            let value = i64::try_from(of(usage)).unwrap_or(i64::MAX);
            gauges.with_label_values(&[pipeline, &usage.plugin]).set(value);
        }
    }
    for (name, about, of) in COUNTERS {
        let counters = counters(name, about, &["pipeline", "plugin"])?;
        for (pipeline, usage) in each() {
            counters.with_label_values(&[pipeline, &usage.plugin]).inc_by(of(usage));
        }
    }
    for (name, about, label, of) in COUNTERS_BY {
        let counters = counters(name, about, &["pipeline", "plugin", label])?;
        for (pipeline, usage) in each() {
            for (of_label, value) in of(usage.clone()) {
                counters.with_label_values(&[pipeline, &usage.plugin, of_label]).inc_by(value);
            }
        }
    }
    Ok(())
}

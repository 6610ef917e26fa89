//! What bounds messages, queues and plugins: a pipeline's `limits`, and a stage's.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::PluginStage;
use super::check::Checker;
use super::located::Located;
use super::outside::{HumanDuration, HumanSize};

/// A struct of the keys that bound a plugin, after keys of its own.
macro_rules! raw_limits {
    ($(#[$about:meta])* $name:ident { $($own:tt)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($own)*
            /// The most memory that one instance of a plugin may have. Default: 64MiB.
            pub memory: Option<Located<HumanSize>>,
            /// An instance that has grown by more than this since its start is replaced after the call, for memory
            /// never shrinks. Default: 64MiB.
            pub growth: Option<Located<HumanSize>>,
            /// How long one call of a plugin may take. Default: 1s.
            pub deadline: Option<Located<HumanDuration>>,
            /// How much work a plugin may do for one message that is tried alone; about one unit an instruction.
            /// Default: 1000000000.
            pub fuel: Option<Located<u64>>,
            /// The greatest answer of one call of a plugin. Default: 64MiB.
            pub answer: Option<Located<HumanSize>>,
            /// How many messages a plugin may emit for one message. Default: 1000.
            pub outputs: Option<Located<u32>>,
            /// The bytes that the copies among them may have together. Default: 16MiB.
            pub copies: Option<Located<HumanSize>>,
            /// The keys, names and values that one call may read from state and write to it. Default: 64MiB.
            pub state: Option<Located<HumanSize>>,
            /// How many entries of state one call may read and change. Default: 1000000.
            pub state_keys: Option<Located<u32>>,
            /// How many lines a plugin may log in a second; the rest is counted and dropped. Default: 100.
            pub log_lines: Option<Located<u32>>,
            /// The longest line that it may log; the rest of it is cut. Default: 4KiB.
            pub log_line: Option<Located<HumanSize>>,
            /// How often a plugin may call the host in one call. Default: 1000000.
            pub host_calls: Option<Located<u32>>,
            /// How long these may take together. Above it no message is to blame, as above the deadline.
            /// Default: 30s.
            pub host_wait: Option<Located<HumanDuration>>,
            /// How many counters of its own a plugin may have. Default: 64.
            pub counters: Option<Located<u32>>,
        }
    };
}

raw_limits! {
    /// Bounds. What is above one goes to the dead-letter queue or waits; nothing grows without end. Those of plugins can
    /// be set for one stage, too.
    RawLimits {
        /// The greatest message. Default: 1MiB.
        pub message: Option<Located<HumanSize>>,
        /// The most that waits between two parts of the pipeline. Default: 4MiB.
        pub queue: Option<Located<HumanSize>>,
        /// How much committed state the pipeline keeps in memory, where its store could do without: the rest is
        /// read when it is asked for. Default: 256MiB.
        pub state_cache: Option<Located<HumanSize>>,
        /// How much processor time the compiler may take for a plugin. Default: 2m.
        pub compile_time: Option<Located<HumanDuration>>,
        /// How much address space the compiler may have. Default: 4GiB.
        pub compile_memory: Option<Located<HumanSize>>,
    }
}

raw_limits! {
    /// What bounds the plugin of one stage. Default: the pipeline's `limits`.
    RawPluginLimits {}
}

impl RawLimits {
    /// The keys that bound plugins.
    fn of_plugins(self) -> RawPluginLimits {
        RawPluginLimits {
            memory: self.memory,
            growth: self.growth,
            deadline: self.deadline,
            fuel: self.fuel,
            answer: self.answer,
            outputs: self.outputs,
            copies: self.copies,
            state: self.state,
            state_keys: self.state_keys,
            log_lines: self.log_lines,
            log_line: self.log_line,
            host_calls: self.host_calls,
            host_wait: self.host_wait,
            counters: self.counters,
        }
    }
}

/// Bounds on messages, plugins and queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The greatest message.
    pub message_bytes_max: usize,
    /// The most that waits between two parts of the pipeline.
    pub queue_bytes_max: usize,
    /// About the most of the committed state that is in memory, where it need not be.
    pub state_cache_bytes_max: usize,
    /// How much time the compiler may take for a plugin.
    pub compile_time: Duration,
    /// How much address space it may have.
    pub compile_bytes_max: u64,
    /// The most memory of one instance of any stage's plugin.
    pub instance_bytes_max: usize,
    /// What bounds a plugin whose stage says nothing else.
    pub plugin: PluginLimits,
}

impl Default for Limits {
    fn default() -> Self {
        let plugin = PluginLimits::default();
        Self {
            message_bytes_max: 1 << 20,
            queue_bytes_max: 4 << 20,
            state_cache_bytes_max: 256 << 20,
            compile_time: Duration::from_secs(120),
            compile_bytes_max: 4 << 30,
            instance_bytes_max: plugin.memory_bytes_max,
            plugin,
        }
    }
}

impl Limits {
    /// Takes in what stages give their plugins.
    pub(super) fn room_for<'a>(&mut self, stages: impl Iterator<Item = &'a PluginStage>) {
        let of_stages = stages.map(|stage| stage.limits.memory_bytes_max).max();
        self.instance_bytes_max = self.plugin.memory_bytes_max.max(of_stages.unwrap_or(0));
    }
}

/// What bounds one plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PluginLimits {
    /// The most memory of one instance.
    pub memory_bytes_max: usize,
    /// By how much an instance may have grown to be called again.
    pub growth_bytes_max: usize,
    /// How long one call may take.
    pub deadline: Duration,
    /// How much work it may do for one message that is tried alone.
    pub fuel: u64,
    /// The greatest answer of one call.
    pub answer_bytes_max: usize,
    /// The most messages that are emitted for one.
    pub outputs_max: usize,
    /// The most bytes that the copies among them have together.
    pub copies_bytes_max: usize,
    /// The most keys, names and values of state in one call.
    pub state_bytes_max: usize,
    /// The most entries of state in one call.
    pub state_keys_max: u32,
    /// The most lines in the log in a second.
    pub log_lines_per_second_max: u32,
    /// The longest of them.
    pub log_line_bytes_max: usize,
    /// The most calls to the host in one call.
    pub host_calls_max: u32,
    /// How long these may take together.
    pub host_wait: Duration,
    /// The most counters of its own.
    pub counters_max: usize,
}

impl Default for PluginLimits {
    fn default() -> Self {
        Self {
            memory_bytes_max: 64 << 20,
            growth_bytes_max: 64 << 20,
            deadline: Duration::from_secs(1),
            fuel: 1_000_000_000,
            answer_bytes_max: 64 << 20,
            outputs_max: 1_000,
            copies_bytes_max: 16 << 20,
            state_bytes_max: 64 << 20,
            state_keys_max: 1_000_000,
            log_lines_per_second_max: 100,
            log_line_bytes_max: 4 << 10,
            host_calls_max: 1_000_000,
            host_wait: Duration::from_secs(30),
            counters_max: 64,
        }
    }
}

/// The most calls, entries or lines that a limit can allow.
const COUNT_MAX: u32 = 1_000_000_000;
/// The most messages that may be emitted for one: their places are counted in 32 bits, those of a batch together.
const OUTPUTS_MAX: u32 = 65_536;
/// The most counters of a plugin: each is a line of each reading of the metrics.
const COUNTERS_MAX: u32 = 1_024;

impl Checker {
    /// What a pipeline's `limits` mean.
    pub(super) fn limits(&mut self, mut raw: RawLimits) -> Limits {
        let d = Limits::default();
        let (least, most) = (256 << 20, 1 << 40);
        let compile_bytes_max = d.compile_bytes_max as usize;
        Limits {
            message_bytes_max: self.size("limits.message", raw.message.take(), 1, d.message_bytes_max),
            queue_bytes_max: self.size("limits.queue", raw.queue.take(), 1, d.queue_bytes_max),
            state_cache_bytes_max: self.size_within(
                "limits.state_cache",
                raw.state_cache.take(),
                1 << 20..=1 << 40,
                d.state_cache_bytes_max,
            ),
            compile_time: self.duration("limits.compile_time", raw.compile_time.take(), 1, d.compile_time),
            compile_bytes_max: self.size_within(
                "limits.compile_memory",
                raw.compile_memory.take(),
                least..=most,
                compile_bytes_max,
            ) as u64,
            plugin: self.of_plugin(raw.of_plugins(), d.plugin),
            ..d
        }
    }

    /// What bounds the plugin of a stage.
    pub(super) fn stage_limits(&mut self, raw: Option<Located<RawPluginLimits>>) -> PluginLimits {
        let of_pipeline = self.plugin_limits;
        raw.map_or(of_pipeline, |raw| self.of_plugin(raw.value, of_pipeline))
    }

    fn of_plugin(&mut self, raw: RawPluginLimits, d: PluginLimits) -> PluginLimits {
        let count = |this: &mut Self, key: &str, given, most, default: u32| {
            u32::try_from(this.count(key, given, most, default as usize)).unwrap_or(default)
        };
        PluginLimits {
            memory_bytes_max: self.size("limits.memory", raw.memory, 64 << 10, d.memory_bytes_max),
            growth_bytes_max: self.size("limits.growth", raw.growth, 64 << 10, d.growth_bytes_max),
            deadline: self.duration("limits.deadline", raw.deadline, 1, d.deadline),
            fuel: raw.fuel.map_or(d.fuel, |fuel| {
                if fuel.value == 0 {
                    let title = "`limits.fuel`: no plugin can work without fuel";
                    self.wrong(fuel.span, title, "must be 1 or more");
                }
                fuel.value
            }),
            answer_bytes_max: self.size("limits.answer", raw.answer, 64, d.answer_bytes_max),
            outputs_max: self.count("limits.outputs", raw.outputs, OUTPUTS_MAX, d.outputs_max),
            copies_bytes_max: self.size("limits.copies", raw.copies, 1, d.copies_bytes_max),
            state_bytes_max: self.size("limits.state", raw.state, 1, d.state_bytes_max),
            state_keys_max: count(self, "limits.state_keys", raw.state_keys, COUNT_MAX, d.state_keys_max),
            log_lines_per_second_max: count(
                self,
                "limits.log_lines",
                raw.log_lines,
                COUNT_MAX,
                d.log_lines_per_second_max,
            ),
            log_line_bytes_max: self.size_within(
                "limits.log_line",
                raw.log_line,
                64..=1 << 20,
                d.log_line_bytes_max,
            ),
            host_calls_max: count(self, "limits.host_calls", raw.host_calls, COUNT_MAX, d.host_calls_max),
            host_wait: self.duration("limits.host_wait", raw.host_wait, 1, d.host_wait),
            counters_max: self.count("limits.counters", raw.counters, COUNTERS_MAX, d.counters_max),
        }
    }
}

//! What a store holds beside the guest: the call's context, and what the call has used up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wasmill_engine::guest::CallContext;
use wasmtime::ResourceLimiter;

use crate::budget::Budget;
use crate::counters::PluginCounters;
use crate::engines::{Mode, TABLE_ELEMENTS_MAX};
use crate::grants::Behind;
use crate::imports::empty_world::World;
use crate::limits::Limits;
use crate::text::tame;

/// What all instances of a plugin share.
pub(crate) struct Shared {
    pub name: String,
    pub limits: Limits,
    /// The stage's configuration: values as JSON.
    pub config: BTreeMap<String, String>,
    pub counters: Arc<PluginCounters>,
    pub wall_clock_ms: fn() -> i64,
    /// Whether the wall clock is granted, for WASI's.
    pub sees_wall_clock: bool,
    /// What stands behind its grants.
    pub behind: Arc<Behind>,
    log: LogBudget,
}

/// How many lines the plugin has written in this second.
struct LogBudget {
    seconds: Arc<AtomicU64>,
    used: Mutex<LogUsed>,
}

#[derive(Default)]
struct LogUsed {
    second: u64,
    lines: u32,
    dropped: u64,
}

/// How bad a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    Error,
    Warn,
    Info,
    Debug,
}

impl Shared {
    pub fn new(
        name: &str,
        limits: Limits,
        config: BTreeMap<String, String>,
        counters: Arc<PluginCounters>,
        clock: (fn() -> i64, bool),
        behind: Arc<Behind>,
        seconds: Arc<AtomicU64>,
    ) -> Self {
        let log = LogBudget { seconds, used: Mutex::default() };
        let (wall_clock_ms, sees_wall_clock) = clock;
        Self { name: name.to_owned(), limits, config, counters, wall_clock_ms, sees_wall_clock, behind, log }
    }

    /// A guest's text as people may see it: without its secrets, on one line, short.
    pub fn tame(&self, text: &str, bytes_max: usize) -> String {
        tame(&self.behind.secrets.hide(text), bytes_max)
    }

    /// Writes a line to the host's log, unless the plugin has written too many in this second.
    pub fn log(&self, severity: Severity, text: &str) {
        let dropped = {
            let now = self.log.seconds.load(Ordering::Relaxed);
            let mut used = self.log.used.lock().unwrap_or_else(PoisonError::into_inner);
            if used.second != now {
                (used.second, used.lines) = (now, 0);
            }
            if used.lines >= self.limits.log_lines_per_second_max {
                used.dropped += 1;
                self.counters.hit(Budget::LogLines);
                return;
            }
            used.lines += 1;
            std::mem::take(&mut used.dropped)
        };
        let bytes_max = self.limits.log_line_bytes_max;
        if text.len() > bytes_max {
            self.counters.hit(Budget::LogLine);
        }
        let (plugin, text) = (&self.name, self.tame(text, bytes_max));
        if dropped > 0 {
            let limit = self.limits.log_lines_per_second_max;
            tracing::warn!(target: "plugin", plugin, dropped, limit, "more log lines in a second than `limits.log_lines` were dropped");
        }
        match severity {
            Severity::Error => tracing::error!(target: "plugin", plugin, "{text}"),
            Severity::Warn => tracing::warn!(target: "plugin", plugin, "{text}"),
            Severity::Info => tracing::info!(target: "plugin", plugin, "{text}"),
            Severity::Debug => tracing::debug!(target: "plugin", plugin, "{text}"),
        }
    }
}

/// A host function's reason to stop the guest.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Stop(pub String);

/// The calls to the host took too long together: no message is to blame.
#[derive(Debug, thiserror::Error)]
#[error("waited too long for the host")]
pub(crate) struct Waited;

/// A batch asked for more requests over HTTP than one call may make: no message is to blame.
#[derive(Debug, thiserror::Error)]
#[error("asked for too many requests")]
pub(crate) struct TooManyRequests;

/// What a store holds beside the guest.
pub(crate) struct Ctx {
    pub shared: Arc<Shared>,
    pub call: CallContext,
    pub meter: Meter,
    /// What the guest's panic hook said during this call.
    pub panic: Option<String>,
    /// Counters staged by this call.
    pub metrics: Vec<(String, u64)>,
    pub world: World,
    /// How the call is made.
    pub mode: Mode,
    /// The deadline of a call, in ticks from its beginning.
    pub deadline_ticks: u64,
    /// When the call began, the start of its instance included.
    pub began: Instant,
    /// How long the host let it wait in this call: none of the guest's time.
    pub waited: Duration,
    /// How many requests over HTTP this call has made.
    pub http_requests: usize,
    messages: u32,
    /// How many random numbers each message has drawn.
    drawn: Vec<u32>,
    host_calls_left: u32,
    host_wait_left: Duration,
    state_bytes_left: usize,
    state_keys_left: u32,
}

impl Ctx {
    pub fn new(shared: Arc<Shared>) -> Self {
        let meter = Meter::new(shared.limits.memory_bytes_max, Arc::clone(&shared.counters));
        let limits = &shared.limits;
        Self {
            call: CallContext::default(),
            meter,
            panic: None,
            metrics: Vec::new(),
            world: World::default(),
            mode: Mode::Production,
            deadline_ticks: 0,
            began: Instant::now(),
            waited: Duration::ZERO,
            http_requests: 0,
            messages: 0,
            drawn: Vec::new(),
            host_calls_left: limits.host_calls_max,
            host_wait_left: Duration::from_millis(limits.host_wait_ms_max),
            state_bytes_left: limits.state_bytes_max,
            state_keys_left: limits.state_keys_max,
            shared,
        }
    }

    /// Begins what the deadline counts.
    pub fn bound(&mut self, mode: Mode, deadline_ticks: u64) {
        (self.mode, self.deadline_ticks) = (mode, deadline_ticks);
        (self.began, self.waited) = (Instant::now(), Duration::ZERO);
    }

    /// Takes a call's context in, and everything that a call may use up.
    pub fn begin(&mut self, call: CallContext, messages: u32) {
        self.world.begin(call.facts.first().map_or(0, |f| f.seed));
        self.call = call;
        self.messages = messages;
        self.drawn.clear();
        self.metrics.clear();
        self.panic = None;
        self.meter.denied = false;
        self.http_requests = 0;
        let limits = &self.shared.limits;
        self.host_calls_left = limits.host_calls_max;
        self.host_wait_left = Duration::from_millis(limits.host_wait_ms_max);
        self.state_bytes_left = limits.state_bytes_max;
        self.state_keys_left = limits.state_keys_max;
    }

    /// Gives the call's context back.
    pub fn end(&mut self) -> CallContext {
        std::mem::take(&mut self.call)
    }

    /// Counts one call of the guest's to the host.
    pub fn enter(&mut self) -> wasmtime::Result<()> {
        let Some(left) = self.host_calls_left.checked_sub(1) else {
            let max = self.shared.limits.host_calls_max;
            self.shared.counters.hit(Budget::HostCalls);
            return Err(stop(format!(
                "called the host more than {max} times in one call: `limits.host_calls`"
            )));
        };
        self.host_calls_left = left;
        Ok(())
    }

    /// How long this call may still wait for the host.
    pub fn host_wait_left(&self) -> Duration {
        self.host_wait_left
    }

    /// Counts what a call to the host has waited for. A verdict doesn't end by it, for whoever is slow is not the
    /// message: it is counts that bound how often it asks, and a request over HTTP then has no answer.
    pub fn charge_wait(&mut self, waited: Duration) -> wasmtime::Result<()> {
        let left = self.host_wait_left.checked_sub(waited);
        if left.is_none() && self.mode == Mode::Production {
            return Err(wasmtime::Error::new(Waited));
        }
        self.host_wait_left = left.unwrap_or_default();
        Ok(())
    }

    /// Counts one entry that is read or changed.
    pub fn charge_entry(&mut self) -> Result<(), String> {
        self.state_keys_left = self.state_keys_left.checked_sub(1).ok_or_else(|| {
            let max = self.shared.limits.state_keys_max;
            self.shared.counters.hit(Budget::StateKeys);
            format!("more than {max} entries read and changed in one call: `limits.state_keys`")
        })?;
        Ok(())
    }

    /// Counts what goes through state.
    pub fn charge_state(&mut self, bytes: usize) -> Result<(), String> {
        self.state_bytes_left = self.state_bytes_left.checked_sub(bytes).ok_or_else(|| {
            let max = self.shared.limits.state_bytes_max;
            self.shared.counters.hit(Budget::State);
            format!("more than {max} bytes of keys, names and values in one call; use fewer or shorter ones, or raise `limits.state`")
        })?;
        Ok(())
    }

    fn fact(&self, index: u32, what: &str) -> wasmtime::Result<wasmill_engine::guest::MessageFacts> {
        if index >= self.messages {
            return Err(stop(format!(
                "asked for {what} of message {index}; this call has {}",
                self.messages
            )));
        }
        Ok(self.call.facts.get(index as usize).copied().unwrap_or_default())
    }

    /// A message's time.
    pub fn message_time(&self, index: u32) -> wasmtime::Result<i64> {
        Ok(self.fact(index, "the time")?.time)
    }

    /// The next number of a message's own sequence.
    pub fn random(&mut self, index: u32) -> wasmtime::Result<u64> {
        let seed = self.fact(index, "a random number")?.seed;
        if self.drawn.is_empty() {
            self.drawn.resize(self.messages as usize, 0);
        }
        let drawn = &mut self.drawn[index as usize];
        *drawn = drawn.wrapping_add(1);
        Ok(splitmix(seed, u64::from(*drawn)))
    }
}

/// An error that stops the guest.
pub(crate) fn stop(text: String) -> wasmtime::Error {
    wasmtime::Error::new(Stop(text))
}

/// The `n`-th number of SplitMix64's sequence from this seed (Steele, Lea and Flood, 2014).
pub(crate) fn splitmix(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Sums all memories and tables of a store, and shows them while it lives.
#[derive(Debug)]
pub(crate) struct Meter {
    counters: Arc<PluginCounters>,
    limit_bytes: usize,
    used_bytes: usize,
    /// What was used once the instance was made.
    started_bytes: usize,
    last_growth_bytes: usize,
    /// Whether this call asked for more than the limit.
    pub denied: bool,
}

impl Meter {
    fn new(limit_bytes: usize, counters: Arc<PluginCounters>) -> Self {
        counters.made();
        Self { counters, limit_bytes, used_bytes: 0, started_bytes: 0, last_growth_bytes: 0, denied: false }
    }

    /// The instance is made: from here on it grows.
    pub fn started(&mut self) {
        self.started_bytes = self.used_bytes;
    }

    /// By how much the instance has grown since its start.
    pub fn growth_bytes(&self) -> usize {
        self.used_bytes.saturating_sub(self.started_bytes)
    }

    fn grow(&mut self, by: usize) -> bool {
        match self.used_bytes.checked_add(by) {
            Some(used) if used <= self.limit_bytes => {
                (self.used_bytes, self.last_growth_bytes) = (used, by);
                self.counters.grown(by);
                true
            }
            _ => {
                (self.denied, self.last_growth_bytes) = (true, 0);
                false
            }
        }
    }

    fn undo(&mut self) {
        let by = std::mem::take(&mut self.last_growth_bytes);
        self.used_bytes -= by;
        self.counters.shrunk(by);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.counters.gone(self.used_bytes);
    }
}

/// Growth beyond the limit fails as the guest's language expects it to; that it was asked for is kept,
/// so that the trap that mostly follows gets its true name.
impl ResourceLimiter for Meter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(current)))
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo();
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // The pool's bound on one table, held here so that verdicts, which use no pool, meet it too.
        if desired > TABLE_ELEMENTS_MAX {
            (self.denied, self.last_growth_bytes) = (true, 0);
            return Ok(false);
        }
        Ok(self.grow(desired.saturating_sub(current).saturating_mul(size_of::<usize>())))
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo();
        Ok(())
    }
}

//! The two ways in which a plugin is compiled and run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use wasmtime::{
    Config, Engine, EngineWeak, InstanceAllocationStrategy, PoolingAllocationConfig, Strategy,
    WasmBacktraceDetails, WasmFeatures,
};

use crate::limits::Limits;

/// How often the deadline moves on.
pub(crate) const TICK_MS: u64 = 10;
/// The handles that one instance may hold.
pub(crate) const HANDLES_MAX: usize = 1_024;
/// The linear memories of one plugin.
const MEMORIES_MAX: u32 = 2;
/// The tables of one plugin.
const TABLES_MAX: u32 = 16;
/// The core modules, adapters included, that one plugin may instantiate.
const CORE_INSTANCES_MAX: u32 = 128;
/// The elements, and segments of them, that a plugin's modules may have beside its tables. Each is 16 bytes of the
/// host's for every core instance of its module, which no meter sees: at most 2 MB for an instance of the plugin.
pub(crate) const PASSIVE_ELEMENTS_MAX: usize = 1_000;
/// The entries of one table.
pub(crate) const TABLE_ELEMENTS_MAX: usize = 100_000;
/// The frames of a trap's backtrace.
const BACKTRACE_FRAMES_MAX: usize = 20;

/// How a plugin is compiled and run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Pooled instances, deadline ticks.
    Production,
    /// Fuel, and ticks only for the host's own safety. Instances come from the system's allocator: a
    /// full pool must not touch a verdict.
    Verdict,
}

impl Mode {
    /// Its name, as a compiler is told it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Production => "production",
            Self::Verdict => "verdict",
        }
    }

    /// The mode of this name.
    pub fn of(name: &str) -> Option<Self> {
        [Self::Production, Self::Verdict].into_iter().find(|mode| mode.name() == name)
    }
}

/// The engines of a sandbox, and what moves their deadlines.
pub(crate) struct Engines {
    production: Engine,
    verdict: Engine,
    ticker: Ticker,
}

impl Engines {
    pub fn new(limits: &Limits) -> wasmtime::Result<Self> {
        let production = Engine::new(&config(Mode::Production, limits))?;
        let verdict = Engine::new(&config(Mode::Verdict, limits))?;
        let ticker = Ticker::start(vec![production.weak(), verdict.weak()])?;
        Ok(Self { production, verdict, ticker })
    }

    pub fn get(&self, mode: Mode) -> &Engine {
        match mode {
            Mode::Production => &self.production,
            Mode::Verdict => &self.verdict,
        }
    }

    /// Seconds since the sandbox was made, for rates.
    pub fn seconds(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.ticker.seconds)
    }
}

fn config(mode: Mode, limits: &Limits) -> Config {
    let mut config = code_config(mode, limits);
    if mode == Mode::Production {
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(limits)));
    }
    config
}

/// What compiled code depends on: where instances come from is not among it.
pub(crate) fn code_config(mode: Mode, limits: &Limits) -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .epoch_interruption(true)
        .max_wasm_stack(limits.stack_bytes_max)
        .memory_init_cow(true)
        // The same bits on every machine: a replay must give the same.
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .concurrency_support(false)
        .gc_support(false)
        .wasm_gc(false)
        .wasm_features(WasmFeatures::FUNCTION_REFERENCES, false)
        .wasm_features(WasmFeatures::EXCEPTIONS, false)
        .wasm_memory64(false)
        // Debug information is a stranger's: who reads it in the host reads it within no bound. It is left out of
        // compiled code, and a trap is told by its function's name.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(BACKTRACE_FRAMES_MAX));
    config.consume_fuel(mode == Mode::Verdict);
    config
}

fn pool(limits: &Limits) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    let instances = limits.instances_max;
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES_MAX))
        .total_memories(instances.saturating_mul(MEMORIES_MAX))
        .total_tables(instances.saturating_mul(TABLES_MAX))
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .max_memories_per_component(MEMORIES_MAX)
        .max_tables_per_component(TABLES_MAX)
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_memory_size(limits.memory_bytes_max);
    pool
}

/// A thread that moves the deadlines of all engines on; it ends with its owner.
struct Ticker {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    seconds: Arc<AtomicU64>,
}

impl Ticker {
    fn start(engines: Vec<EngineWeak>) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        let seconds = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&seconds);
        let thread = std::thread::Builder::new().name("wasmill-ticks".into()).spawn(move || {
            let tick = Duration::from_millis(TICK_MS);
            let mut ticks = 0_u64;
            // By when each is due, for what one comes late is not to add up; what was slept through is left out.
            let mut due = Instant::now() + tick;
            while let Err(RecvTimeoutError::Timeout) =
                stopped.recv_timeout(due.saturating_duration_since(Instant::now()))
            {
                due = (due + tick).max(Instant::now());
                ticks += 1;
                counter.store(ticks * TICK_MS / 1_000, Ordering::Relaxed);
                for engine in engines.iter().filter_map(EngineWeak::upgrade) {
                    engine.increment_epoch();
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread), seconds })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // Its only way to end badly is a panic, which has nothing to hand on.
            drop(thread.join());
        }
    }
}

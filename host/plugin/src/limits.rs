//! What bounds a plugin.

use wasmill_engine::guest::AnswerBounds;

use crate::file::FILE_BYTES_MAX;

/// What bounds a plugin. Every bound has its unit in its name.
///
/// Those up to `metric_names_max` are each plugin's: [`crate::Sandbox::within`] gives it others. The rest are the
/// process's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// How long a call in production may take, instance creation included: 1,000 ms. Kept by ticks, so
    /// exact to about 20 ms.
    pub deadline_ms: u64,
    /// The instructions that a verdict may take, instance creation included: 1,000,000,000, of the
    /// order of a second.
    pub fuel: u64,
    /// The processor time that a verdict may take, with fuel left: 60,000 ms. It stops what fuel doesn't see; on a busy
    /// machine the clock may go on for longer.
    pub verdict_time_ms: u64,
    /// All memories and tables of one instance together: 256 MiB.
    pub memory_bytes_max: usize,
    /// An instance that has grown by more than this since its start is thrown away after the call, since
    /// linear memory never shrinks: 64 MiB.
    pub instance_growth_bytes_max: usize,
    /// What one call may answer, and what one call to the host may carry: 64 MiB.
    pub answer_bytes_max: usize,
    /// How many messages a call may emit for one message: 1,000.
    pub outputs_max: usize,
    /// The bytes that the copies among them may have together: 16 MiB. A copy costs the plugin nothing, the sinks its
    /// whole size.
    pub copies_bytes_max: usize,
    /// How often a guest may call the host in one call: 1,000,000 times.
    pub host_calls_max: u32,
    /// How long they may take together, waits for the store included: 30,000 ms. Above it, as above the deadline, no
    /// message is to blame.
    pub host_wait_ms_max: u64,
    /// Keys, names and values that one call may read from and write to state, together: 64 MiB. Each entry has its
    /// message's key in its own.
    pub state_bytes_max: usize,
    /// How many entries of state one call may read and change, together: 1,000,000.
    pub state_keys_max: u32,
    /// Log lines of one plugin a second; the rest are counted and dropped: 100.
    pub log_lines_per_second_max: u32,
    /// The length of one log line; the rest is cut: 4 KiB.
    pub log_line_bytes_max: usize,
    /// How many counters of its own a plugin may have: 64.
    pub metric_names_max: usize,
    /// The instances that all plugins of the process may have at once: 256. Each reserves address space
    /// (4 GiB), not memory.
    pub instances_max: u32,
    /// A guest's stack: 512 KiB.
    pub stack_bytes_max: usize,
    /// The size of a plugin's file: 64 MiB.
    pub file_bytes_max: usize,
    /// The size of one function in it: 1 MiB. Compile time and memory grow faster than a function does.
    pub function_bytes_max: usize,
    /// How many functions it may have: 200,000.
    pub functions_max: usize,
    /// How long loading waits for the compiler, and the processor time that a compiler of its own may take:
    /// 120,000 ms.
    pub compile_ms_max: u64,
    /// The address space of a compiler of its own: 4 GiB.
    pub compile_bytes_max: u64,
    /// The size of the compile cache; the oldest entries go first: 1 GiB.
    pub cache_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        let bounds = AnswerBounds::default();
        Self {
            deadline_ms: 1_000,
            fuel: 1_000_000_000,
            verdict_time_ms: 60_000,
            memory_bytes_max: 256 << 20,
            instance_growth_bytes_max: 64 << 20,
            answer_bytes_max: 64 << 20,
            outputs_max: bounds.outputs_max,
            copies_bytes_max: bounds.copies_bytes_max,
            host_calls_max: 1_000_000,
            host_wait_ms_max: 30_000,
            state_bytes_max: 64 << 20,
            state_keys_max: 1_000_000,
            log_lines_per_second_max: 100,
            log_line_bytes_max: 4 << 10,
            metric_names_max: 64,
            instances_max: 256,
            stack_bytes_max: 512 << 10,
            file_bytes_max: FILE_BYTES_MAX,
            function_bytes_max: 1 << 20,
            functions_max: 200_000,
            compile_ms_max: 120_000,
            compile_bytes_max: 4 << 30,
            cache_bytes_max: 1 << 30,
        }
    }
}

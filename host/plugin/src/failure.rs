//! Why a call failed, as the engine sees it.

use wasmill_engine::guest::CallError;
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};

use crate::budget::Budget;
use crate::context::{Ctx, Stop, TooManyRequests, Waited};
use crate::engines::Mode;
use crate::text::{ERROR_BYTES_MAX, tame};

/// Why a call failed: wasmtime's reason, or the host's own.
pub(crate) enum Failure {
    Wasm(wasmtime::Error),
    Call(CallError),
}

impl From<wasmtime::Error> for Failure {
    fn from(error: wasmtime::Error) -> Self {
        Self::Wasm(error)
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

/// Gives a failure its kind and its text, and counts it.
pub(crate) fn classify(failure: Failure, cx: &Ctx, mode: Mode) -> CallError {
    let error = kind_of(failure, cx, mode);
    cx.shared.counters.failed(&error);
    error
}

fn kind_of(failure: Failure, cx: &Ctx, mode: Mode) -> CallError {
    let error = match failure {
        Failure::Wasm(error) => error,
        Failure::Call(error) => {
            if let CallError::TooMuch { limit, .. } = &error
                && let Some(budget) = Budget::of(limit)
            {
                cx.shared.counters.hit(budget);
            }
            return error;
        }
    };
    let limits = &cx.shared.limits;
    let hit = |budget| cx.shared.counters.hit(budget);
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) if mode == Mode::Production => {
            hit(Budget::Deadline);
            let limit_ms = limits.deadline_ms;
            return CallError::Deadline {
                what: "ran past its deadline",
                limit_ms,
                setting: "`limits.deadline`",
            };
        }
        Some(Trap::Interrupt) => {
            let (limit_ms, setting) = (limits.verdict_time_ms, "the host's own bound on a verdict");
            return CallError::Deadline { what: "ran past its deadline", limit_ms, setting };
        }
        Some(Trap::OutOfFuel) => {
            hit(Budget::Fuel);
            return CallError::Fuel { limit: limits.fuel };
        }
        _ if error.is::<Waited>() => {
            hit(Budget::HostWait);
            let (limit_ms, setting) = (limits.host_wait_ms_max, "`limits.host_wait`");
            return CallError::Deadline { what: "waited for the host past the limit", limit_ms, setting };
        }
        _ if error.is::<TooManyRequests>() => {
            hit(Budget::HostWait);
            return CallError::Deadline {
                what: "asked for more requests than `rate_per_second` of its grant lets go within the limit",
                limit_ms: limits.host_wait_ms_max,
                setting: "`limits.host_wait`",
            };
        }
        _ if cx.meter.denied => {
            hit(Budget::Memory);
            return CallError::Memory { limit_bytes: limits.memory_bytes_max };
        }
        _ => {}
    }
    if let Some(said) = cx.panic.clone().or_else(|| cx.world.last_words()) {
        return CallError::Trap(cx.shared.tame(&said, ERROR_BYTES_MAX));
    }
    if error.is::<PoolConcurrencyLimitError>() {
        let max = limits.instances_max;
        return CallError::Host(format!(
            "no room for another instance: all {max} of the process are taken; raise instances_max"
        ));
    }
    let backtrace = error.downcast_ref::<WasmBacktrace>();
    let mut text = match (error.downcast_ref::<Stop>(), error.downcast_ref::<Trap>()) {
        (Some(stop), _) => stop.to_string(),
        (_, Some(trap)) => trap.to_string(),
        _ => {
            let cause = cause(&error, cx);
            // Nothing of the guest was running: the host was reading its answer.
            if backtrace.is_none() {
                return CallError::Answer(cause);
            }
            cause
        }
    };
    if let Some(place) = backtrace.and_then(place) {
        text = format!("{text}, in {place}");
    }
    CallError::Trap(tame(&text, ERROR_BYTES_MAX))
}

fn cause(error: &wasmtime::Error, cx: &Ctx) -> String {
    let text = error.root_cause().to_string();
    // wasmtime keeps this error's type to itself.
    if text.contains("fuel allocated for hostcalls has been exhausted") {
        cx.shared.counters.hit(Budget::Answer);
        return format!("more than {} bytes at once: `limits.answer`", cx.shared.limits.answer_bytes_max);
    }
    tame(&text, ERROR_BYTES_MAX)
}

/// Parts of the names of functions that say nothing of where a guest went wrong.
const NOISE: [&str; 7] = ["rust_panic", "panicking", "begin_unwind", "__rust", "abort", "alloc::", "std::"];

/// The innermost function of a backtrace that has a name which its author would know.
fn place(backtrace: &WasmBacktrace) -> Option<&str> {
    let mut names = backtrace.frames().iter().filter_map(wasmtime::FrameInfo::func_name);
    names.find(|name| !NOISE.iter().any(|noise| name.contains(noise)))
}

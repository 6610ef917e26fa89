//! What a plugin may call.

pub(crate) mod empty_world;
mod http;
mod lookup;
mod secrets;
mod state;
mod wait;

use wasmtime::StoreContextMut;
use wasmtime::component::{Component, ComponentType, Lift, Linker};

use crate::budget::Budget;
use crate::context::{Ctx, Severity};
use crate::contract::full_name;
use crate::grants::{Grant, Grants};

/// The prefix by which a plugin's panic hook marks its last line.
const PANIC: &str = "panic: ";
/// The longest name of a counter.
const METRIC_NAME_BYTES_MAX: usize = 64;
/// The most counters that one call may touch.
const METRICS_STAGED_MAX: usize = 1_024;

type Cx<'a> = StoreContextMut<'a, Ctx>;

#[derive(Debug, Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[allow(dead_code, reason = "made by lifting alone")]
enum Level {
    #[component(name = "error")]
    Error,
    #[component(name = "warn")]
    Warn,
    #[component(name = "info")]
    Info,
    #[component(name = "debug")]
    Debug,
}

/// Everything that this component may import under these grants.
pub(crate) fn linker(component: &Component, grants: &Grants) -> wasmtime::Result<Linker<Ctx>> {
    let mut linker = Linker::new(component.engine());
    always(&mut linker)?;
    if grants.has(Grant::State) {
        state::add(&mut linker)?;
    }
    if grants.has(Grant::Metrics) {
        let mut metrics = linker.instance(&full_name("metrics"))?;
        metrics.func_wrap("add", |mut cx: Cx<'_>, (name, by): (String, u64)| {
            cx.data_mut().enter()?;
            stage_metric(cx.data_mut(), name, by);
            Ok(())
        })?;
    }
    if grants.has(Grant::WallClock) {
        let mut clock = linker.instance(&full_name("wall-clock"))?;
        clock.func_wrap("now", |mut cx: Cx<'_>, (): ()| {
            cx.data_mut().enter()?;
            Ok(((cx.data().shared.wall_clock_ms)(),))
        })?;
    }
    if grants.has(Grant::Secrets) {
        secrets::add(&mut linker)?;
    }
    if grants.has(Grant::Http) {
        http::add(&mut linker)?;
    }
    if grants.has(Grant::Lookup) {
        lookup::add(&mut linker)?;
    }
    empty_world::add(&mut linker, component)?;
    Ok(linker)
}

fn always(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    let mut log = linker.instance(&full_name("log"))?;
    log.func_wrap("write", |mut cx: Cx<'_>, (level, text): (Level, String)| {
        cx.data_mut().enter()?;
        let severity = match level {
            Level::Error => Severity::Error,
            Level::Warn => Severity::Warn,
            Level::Info => Severity::Info,
            Level::Debug => Severity::Debug,
        };
        cx.data().shared.log(severity, &text);
        if severity == Severity::Error && text.starts_with(PANIC) {
            cx.data_mut().panic = Some(text);
        }
        Ok(())
    })?;
    let mut config = linker.instance(&full_name("config"))?;
    config.func_wrap("get", |mut cx: Cx<'_>, (key,): (String,)| {
        cx.data_mut().enter()?;
        Ok((cx.data().shared.config.get(&key).cloned(),))
    })?;
    let mut clock = linker.instance(&full_name("clock"))?;
    clock.func_wrap("message-time", |mut cx: Cx<'_>, (message,): (u32,)| {
        cx.data_mut().enter()?;
        Ok((cx.data().message_time(message)?,))
    })?;
    let mut random = linker.instance(&full_name("random"))?;
    random.func_wrap("next", |mut cx: Cx<'_>, (message,): (u32,)| {
        cx.data_mut().enter()?;
        Ok((cx.data_mut().random(message)?,))
    })
}

/// Stages a count: it takes effect if the call succeeds, so a repeated batch counts once.
fn stage_metric(cx: &mut Ctx, name: String, by: u64) {
    if let Some((_, staged)) = cx.metrics.iter_mut().find(|(n, _)| *n == name) {
        *staged = staged.saturating_add(by);
    } else if cx.metrics.len() >= METRICS_STAGED_MAX.min(cx.shared.limits.metric_names_max) {
        cx.shared.counters.drop_one();
        cx.shared.counters.hit(Budget::Counters);
    } else if is_metric_name(&name) {
        cx.metrics.push((name, by));
    } else {
        cx.shared.counters.drop_one();
    }
}

/// Names that every metrics system takes: letters, digits and `_`, no digit first.
fn is_metric_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    (1..=METRIC_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(fits)
        && !name.starts_with(|c: char| c.is_ascii_digit())
}

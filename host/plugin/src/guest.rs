//! A plugin as one worker calls it.

use std::sync::Arc;

use wasmill_engine::guest::{AggregateInfo, CallContext, CallError, Guest, Judged, Trial};
use wasmill_frame::{Blobs, Frame, Groups};
use wasmtime::component::{ComponentExportIndex, ComponentNamedList, Instance, Lift, Lower};
use wasmtime::{Store, UpdateDeadline};

use crate::budget::Budget;
use crate::context::{Ctx, stop};
use crate::contract::Width;
use crate::engines::{HANDLES_MAX, Mode, TICK_MS};
use crate::failure::{Failure, classify};
use crate::plugin::{Loaded, Prepared};
use crate::text::ERROR_BYTES_MAX;
use crate::typed::{self, Answered};

/// The size of an accumulator of no messages.
const INITIAL_BYTES_MAX: usize = 1 << 20;

/// A plugin as one worker calls it. A call takes one of the plugin's instances, or makes one, and puts it back if
/// it succeeds.
pub(crate) struct WasmGuest {
    plugin: Arc<Loaded>,
    /// What the last call counted: it counts once its answer does.
    counted: Vec<(String, u64)>,
}

/// A live instance.
pub(crate) struct Live {
    store: Store<Ctx>,
    instance: Instance,
}

impl Live {
    /// Makes an instance. Its start functions run under the call's own bounds.
    fn new(plugin: &Loaded, prepared: &Prepared, mode: Mode) -> Result<Self, CallError> {
        let mut store = Store::new(prepared.pre.engine(), Ctx::new(Arc::clone(&plugin.shared)));
        store.limiter(|cx| &mut cx.meter);
        store.set_hostcall_fuel(plugin.shared.limits.answer_bytes_max);
        store.set_max_component_handles(HANDLES_MAX);
        bound(&mut store, mode)?;
        if mode == Mode::Verdict {
            stop_by_processor_time(&mut store);
        }
        match prepared.pre.instantiate(&mut store) {
            Ok(instance) => {
                store.data_mut().meter.started();
                Ok(Self { store, instance })
            }
            Err(error) => Err(classify(Failure::Wasm(error), store.data(), mode)),
        }
    }

    /// Calls a function of the guest's. The types were checked when the plugin was loaded; checking them
    /// again costs less than a copy of the frame, which keeping the checked function would take.
    fn call<P, T>(&mut self, index: ComponentExportIndex, params: P) -> Result<T, Failure>
    where
        P: ComponentNamedList + Lower,
        T: 'static,
        Answered<T>: ComponentNamedList + Lift,
    {
        let (answer,) = self.call_plain::<P, Answered<T>>(index, params)?;
        let shared = &self.store.data().shared;
        answer.map_err(|text| CallError::Refused(shared.tame(&text, ERROR_BYTES_MAX)).into())
    }

    fn call_plain<P, R>(&mut self, index: ComponentExportIndex, params: P) -> Result<R, Failure>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift,
    {
        let function = self.instance.get_typed_func::<P, R>(&mut self.store, index)?;
        Ok(function.call(&mut self.store, params)?)
    }
}

/// Sets what a call may use up.
fn bound(store: &mut Store<Ctx>, mode: Mode) -> Result<(), CallError> {
    let limits = &store.data().shared.limits;
    let (wall_ms, fuel) = match mode {
        Mode::Production => (limits.deadline_ms, None),
        Mode::Verdict => (limits.verdict_time_ms, Some(limits.fuel)),
    };
    // The first tick may come at once.
    let ticks = wall_ms.div_ceil(TICK_MS) + 1;
    store.set_epoch_deadline(ticks);
    store.data_mut().bound(mode, ticks);
    match fuel.map(|fuel| store.set_fuel(fuel)) {
        Some(Err(error)) => Err(CallError::Host(error.to_string())),
        _ => Ok(()),
    }
}

/// What fuel doesn't see, such as texts that one component hands to another in another encoding, must not hold a
/// worker for ever. A busy machine must not convict, though: so the clock alone stops no verdict, the time that
/// the processor spent on it does, of which fuel takes a small part.
fn stop_by_processor_time(store: &mut Store<Ctx>) {
    let limit_ms = store.data().shared.limits.verdict_time_ms;
    let begun_ms = processor_ms();
    store.epoch_deadline_callback(move |_| {
        match limit_ms.checked_sub(processor_ms().saturating_sub(begun_ms)) {
            Some(left_ms) => Ok(UpdateDeadline::Continue(left_ms / TICK_MS + 1)),
            None => Err(stop(format!("took more than {limit_ms} ms of processor time, with fuel left"))),
        }
    });
}

/// The processor time that this thread has had, in milliseconds. Unlike a clock, nothing else on the machine moves it on.
#[must_use]
pub fn processor_ms() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec.cast_unsigned() * 1_000 + time.tv_nsec.cast_unsigned() / 1_000_000
}

impl WasmGuest {
    pub fn new(plugin: Arc<Loaded>) -> Self {
        plugin.instances.join();
        Self { plugin, counted: Vec::new() }
    }

    /// Runs one call. On any failure the instance is gone; the context comes back in any case.
    fn run<R>(
        &mut self,
        messages: usize,
        cx: &mut CallContext,
        trial: Trial,
        call: impl FnOnce(&mut Live, &Prepared) -> Result<R, Failure>,
    ) -> Result<R, CallError> {
        // Its answer was not refused.
        self.count();
        let kept = match trial {
            Trial::Batch => self.plugin.instances.take(),
            Trial::Verdict => None,
        };
        let (answer, mut live) = run_once(&self.plugin, kept, messages, cx, trial, call)?;
        std::mem::swap(&mut self.counted, &mut live.store.data_mut().metrics);
        let growth_max = self.plugin.shared.limits.instance_growth_bytes_max;
        if trial == Trial::Batch {
            if live.store.data().meter.growth_bytes() <= growth_max {
                self.plugin.instances.put(live);
            } else {
                self.plugin.shared.counters.recycled();
            }
        }
        Ok(answer)
    }

    /// Adds what the last call counted.
    fn count(&mut self) {
        let shared = &self.plugin.shared;
        shared.counters.add(&self.counted, shared.limits.metric_names_max);
        self.counted.clear();
    }
}

impl Drop for WasmGuest {
    fn drop(&mut self) {
        self.count();
        self.plugin.instances.leave();
    }
}

fn run_once<R>(
    plugin: &Loaded,
    kept: Option<Live>,
    messages: usize,
    cx: &mut CallContext,
    trial: Trial,
    call: impl FnOnce(&mut Live, &Prepared) -> Result<R, Failure>,
) -> Result<(R, Live), CallError> {
    let mode = match trial {
        Trial::Batch => Mode::Production,
        Trial::Verdict => Mode::Verdict,
    };
    let prepared = plugin.prepared(mode);
    let mut live = match kept {
        Some(mut live) => {
            bound(&mut live.store, mode)?;
            live
        }
        // What is left of the bounds after the start is the call's.
        None => Live::new(plugin, prepared, mode)?,
    };
    live.store.data_mut().begin(std::mem::take(cx), u32::try_from(messages).unwrap_or(u32::MAX));
    let answer = call(&mut live, prepared);
    *cx = live.store.data_mut().end();
    match answer {
        Ok(answer) => Ok((answer, live)),
        Err(failure) => Err(classify(failure, live.store.data(), mode)),
    }
}

/// What a plugin's aggregate says of itself, asked under fuel.
pub(crate) fn describe(plugin: &Loaded) -> Result<AggregateInfo, CallError> {
    let mut cx = CallContext::default();
    let call = |live: &mut Live, prepared: &Prepared| {
        let export = prepared.aggregate.as_ref().ok_or_else(|| not_exported("aggregate"))?;
        live.call_plain::<(), (typed::Description,)>(export.describe, ())
    };
    let ((description,), _) = run_once(plugin, None, 0, &mut cx, Trial::Verdict, call)?;
    let typed::Description { commutative, state_version, initial } = description;
    if initial.len() > INITIAL_BYTES_MAX {
        let bytes = initial.len();
        return Err(CallError::Answer(format!(
            "its initial accumulator has {bytes} bytes; up to {INITIAL_BYTES_MAX} may be, for each new key has one"
        )));
    }
    Ok(AggregateInfo { commutative, state_version, initial })
}

fn not_exported(what: &str) -> Failure {
    CallError::Refused(format!("the plugin exports no {what}")).into()
}

fn frame_of(bytes: &[u8]) -> Result<Frame<'_>, CallError> {
    Frame::open(bytes).map_err(|e| typed::not_the_layout(&e))
}

fn blobs_of(bytes: &[u8]) -> Result<Blobs<'_>, CallError> {
    Blobs::parse(bytes).map_err(|e| typed::not_the_layout(&e))
}

impl Guest for WasmGuest {
    fn judged(&mut self, _: Judged) {
        self.count();
    }

    fn refused(&mut self, error: &CallError) {
        self.counted.clear();
        self.plugin.instances.discard();
        let counters = &self.plugin.shared.counters;
        counters.failed(error);
        if let CallError::TooMuch { limit, .. } = error
            && let Some(budget) = Budget::of(limit)
        {
            counters.hit(budget);
        }
    }

    fn transform(&mut self, bytes: &[u8], cx: &mut CallContext, trial: Trial) -> Result<Vec<u8>, CallError> {
        let frame = frame_of(bytes)?;
        self.run(frame.len(), cx, trial, |live, prepared| {
            let (width, index) = prepared.transform.ok_or_else(|| not_exported("transform"))?;
            if width == Width::Frames {
                return live.call(index, (bytes,));
            }
            let messages = typed::messages(&frame);
            let outcomes: Vec<typed::Outcome> = live.call(index, (&messages[..],))?;
            Ok(typed::outcomes_to_edits(&frame, &outcomes, &live.store.data().shared.limits)?)
        })
    }

    fn filter(&mut self, bytes: &[u8], cx: &mut CallContext, trial: Trial) -> Result<Vec<u8>, CallError> {
        let frame = frame_of(bytes)?;
        self.run(frame.len(), cx, trial, |live, prepared| {
            let (width, index) = prepared.filter.ok_or_else(|| not_exported("filter"))?;
            if width == Width::Frames {
                return live.call(index, (bytes,));
            }
            let messages = typed::messages(&frame);
            let verdicts: Vec<typed::Verdict> = live.call(index, (&messages[..],))?;
            Ok(typed::verdicts_to_edits(&verdicts, frame.len())?)
        })
    }

    fn fold(
        &mut self,
        bytes: &[u8],
        groups: &[u8],
        cx: &mut CallContext,
        trial: Trial,
    ) -> Result<Vec<u8>, CallError> {
        let frame = frame_of(bytes)?;
        self.run(frame.len(), cx, trial, |live, prepared| {
            let export = prepared.aggregate.as_ref().ok_or_else(|| not_exported("aggregate"))?;
            if export.width == Width::Frames {
                return live.call(export.fold, (bytes, groups));
            }
            let groups = Groups::parse(groups, frame.len()).map_err(|e| typed::not_the_layout(&e))?;
            let (messages, groups) = (typed::messages(&frame), typed::groups(&groups));
            let folded: typed::Folded = live.call(export.fold, (&messages[..], &groups[..]))?;
            Ok(typed::folded_to_blobs(&folded, groups.len())?)
        })
    }

    fn scan(
        &mut self,
        bytes: &[u8],
        groups: &[u8],
        cx: &mut CallContext,
        trial: Trial,
    ) -> Result<(Vec<u8>, Vec<u8>), CallError> {
        let frame = frame_of(bytes)?;
        self.run(frame.len(), cx, trial, |live, prepared| {
            let (width, index) = prepared.scan.ok_or_else(|| not_exported("scan"))?;
            if width == Width::Frames {
                return live.call(index, (bytes, groups));
            }
            let groups = Groups::parse(groups, frame.len()).map_err(|e| typed::not_the_layout(&e))?;
            let (messages, groups) = (typed::messages(&frame), typed::groups(&groups));
            let scanned: typed::Scanned = live.call(index, (&messages[..], &groups[..]))?;
            let limits = &live.store.data().shared.limits;
            let edits = typed::outcomes_to_edits(&frame, &scanned.outcomes, limits)?;
            Ok((edits, typed::folded_to_blobs(&scanned.folded, groups.len())?))
        })
    }

    fn merge(
        &mut self,
        accumulators: &[u8],
        cx: &mut CallContext,
        trial: Trial,
    ) -> Result<Vec<u8>, CallError> {
        self.run(0, cx, trial, |live, prepared| {
            let export = prepared.aggregate.as_ref().ok_or_else(|| not_exported("aggregate"))?;
            if export.width == Width::Frames {
                return live.call(export.merge, (accumulators,));
            }
            let pairs = typed::pairs(blobs_of(accumulators)?);
            let merged: Vec<Vec<u8>> = live.call(export.merge, (&pairs[..],))?;
            Ok(typed::to_blobs("accumulators", &merged, pairs.len())?)
        })
    }

    fn finish(
        &mut self,
        accumulators: &[u8],
        cx: &mut CallContext,
        trial: Trial,
    ) -> Result<Vec<u8>, CallError> {
        self.run(0, cx, trial, |live, prepared| {
            let export = prepared.aggregate.as_ref().ok_or_else(|| not_exported("aggregate"))?;
            if export.width == Width::Frames {
                return live.call(export.finish, (accumulators,));
            }
            let list: Vec<&[u8]> = blobs_of(accumulators)?.iter().map(|(_, bytes)| bytes).collect();
            let values: Vec<String> = live.call(export.finish, (&list[..],))?;
            Ok(typed::to_blobs("values", &values, list.len())?)
        })
    }

    fn migrate(
        &mut self,
        from_version: u32,
        accumulators: &[u8],
        cx: &mut CallContext,
        trial: Trial,
    ) -> Result<Vec<u8>, CallError> {
        self.run(0, cx, trial, |live, prepared| {
            let (_, index) = prepared.migrate.ok_or_else(|| not_exported("migrate"))?;
            live.call(index, (from_version, accumulators))
        })
    }
}

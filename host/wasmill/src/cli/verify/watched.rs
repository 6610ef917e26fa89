//! A plugin whose calls are counted, and made on the instances that a check wants.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use wasmill_engine::guest::{
    AggregateInfo, AnswerBounds, CallContext, CallError, Guest, GuestInfo, Plugin, PluginRef, Trial, Tries,
};
use wasmill_frame::{Edit, Edits, Frame};

/// On which instances calls are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// One after the other on one instance, as in production.
    One,
    /// Each on a fresh one.
    Fresh,
    /// Each on a fresh one, under fuel: as a verdict is given.
    Verdict,
}

/// The most named outputs that are followed.
const OUTPUTS_MAX: usize = 64;

/// A plugin whose calls are watched.
#[derive(Clone)]
pub struct Watched {
    plugin: PluginRef,
    on: On,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    calls: AtomicUsize,
    outputs: Mutex<BTreeSet<String>>,
}

impl Watched {
    pub fn new(plugin: &PluginRef) -> Self {
        Self { plugin: plugin.clone(), on: On::One, seen: Arc::default() }
    }

    /// The same, called on these instances.
    pub fn on(&self, on: On) -> PluginRef {
        Arc::new(Self { on, ..self.clone() })
    }

    /// A guest of the plugin's own, not watched.
    pub fn guest_of_its_own(&self) -> Box<dyn Guest> {
        self.plugin.guest()
    }

    /// What its aggregate says of itself.
    pub fn info_of_aggregate(&self) -> Option<&AggregateInfo> {
        self.plugin.info().aggregate.as_ref()
    }

    /// How many calls there were.
    pub fn calls(&self) -> usize {
        self.seen.calls.load(Ordering::Relaxed)
    }

    /// The named outputs that messages left by.
    pub fn outputs(&self) -> BTreeSet<String> {
        self.seen.outputs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Plugin for Watched {
    fn info(&self) -> &GuestInfo {
        self.plugin.info()
    }

    fn guest(&self) -> Box<dyn Guest> {
        Box::new(WatchedGuest { of: self.clone(), kept: None })
    }

    fn tries(&self) -> Tries {
        self.plugin.tries()
    }

    fn bounds(&self) -> AnswerBounds {
        self.plugin.bounds()
    }
}

struct WatchedGuest {
    of: Watched,
    kept: Option<Box<dyn Guest>>,
}

impl WatchedGuest {
    fn call<R>(&mut self, trial: Trial, call: impl FnOnce(&mut dyn Guest, Trial) -> R) -> R {
        self.of.seen.calls.fetch_add(1, Ordering::Relaxed);
        match self.of.on {
            On::One => {
                let guest = self.kept.get_or_insert_with(|| self.of.plugin.guest());
                call(guest.as_mut(), trial)
            }
            // A plugin without a guest has no instance: the next one begins anew.
            On::Fresh => call(self.of.plugin.guest().as_mut(), trial),
            On::Verdict => call(self.of.plugin.guest().as_mut(), Trial::Verdict),
        }
    }
}

impl Guest for WatchedGuest {
    // What is refused, judged or waited for is the kept one's; a fresh one is gone by then.
    fn around(&mut self) -> Option<&mut dyn Guest> {
        self.kept.as_mut().map(|kept| kept.as_mut() as &mut dyn Guest)
    }

    fn transform(&mut self, frame: &[u8], cx: &mut CallContext, trial: Trial) -> Result<Vec<u8>, CallError> {
        let answer = self.call(trial, |guest, trial| guest.transform(frame, cx, trial))?;
        let messages = Frame::open(frame).map_or(0, |f| f.len());
        if let Ok(edits) = Edits::parse(&answer, messages) {
            for (_, edit) in edits.iter() {
                if let Edit::Output(name) = edit {
                    let mut outputs = self.of.seen.outputs.lock().unwrap_or_else(PoisonError::into_inner);
                    if outputs.len() < OUTPUTS_MAX {
                        outputs.insert(name.to_owned());
                    }
                }
            }
        }
        Ok(answer)
    }

    fn filter(&mut self, frame: &[u8], cx: &mut CallContext, trial: Trial) -> Result<Vec<u8>, CallError> {
        self.call(trial, |guest, trial| guest.filter(frame, cx, trial))
    }

    fn fold(
        &mut self,
        frame: &[u8],
        groups: &[u8],
        cx: &mut CallContext,
        trial: Trial,
    ) -> Result<Vec<u8>, CallError> {
        self.call(trial, |guest, trial| guest.fold(frame, groups, cx, trial))
    }

    fn scan(
        &mut self,
        frame: &[u8],
        groups: &[u8],
        cx: &mut CallContext,
        trial: Trial,
    ) -> Result<(Vec<u8>, Vec<u8>), CallError> {
        self.call(trial, |guest, trial| guest.scan(frame, groups, cx, trial))
    }

    fn merge(
        &mut self,
        accumulators: &[u8],
        cx: &mut CallContext,
        trial: Trial,
    ) -> Result<Vec<u8>, CallError> {
        self.call(trial, |guest, trial| guest.merge(accumulators, cx, trial))
    }

    fn finish(
        &mut self,
        accumulators: &[u8],
        cx: &mut CallContext,
        trial: Trial,
    ) -> Result<Vec<u8>, CallError> {
        self.call(trial, |guest, trial| guest.finish(accumulators, cx, trial))
    }

    fn migrate(
        &mut self,
        from_version: u32,
        accumulators: &[u8],
        cx: &mut CallContext,
        trial: Trial,
    ) -> Result<Vec<u8>, CallError> {
        self.call(trial, |guest, trial| guest.migrate(from_version, accumulators, cx, trial))
    }
}

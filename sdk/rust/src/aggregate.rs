//! Aggregates: values that gather messages, whose bytes the host keeps.

use serde::Serialize;
use serde::de::DeserializeOwned;
use wasmill_frame::{Blobs, BlobsWriter, Frame, Groups};

use crate::{Message, Result, Verdict, accumulator, host, stage};

/// A value that gathers messages. The host owns keys, windows and the value's bytes between batches;
/// a plugin says how to begin (`Default`), to [`fold`](Aggregate::fold), to
/// [`merge`](Aggregate::merge) and to [`finish`](Aggregate::finish).
///
/// The law: however messages are cut into parts, folding the parts one after the other, or each for
/// itself and merging them, finishes to the same bytes. `testing::check_fold_law` checks it.
pub trait Aggregate: Default + Serialize + DeserializeOwned {
    /// The version of the type's fields. Raise it when they change: the host then refuses state of
    /// the old version unless the plugin is a [`Migrate`].
    const STATE_VERSION: u32 = 1;
    /// Whether the order of messages changes no finished byte, as in sums and counts. Only then may
    /// the host fold them as they arrive.
    const COMMUTATIVE: bool;

    /// Takes one message in. A message that fails here goes to the dead-letter queue, and the value
    /// stays as if it had never come, whatever was changed before the error.
    ///
    /// # Errors
    /// The reason for the dead-letter queue.
    fn fold(&mut self, message: &Message) -> Result<()>;

    /// Takes in what a later part gathered.
    fn merge(&mut self, later: Self);

    /// The value that goes out, as JSON.
    fn finish(&self) -> impl Serialize;
}

/// An [`Aggregate`] that answers for each message too: running totals.
pub trait Scan: Aggregate {
    /// Takes one message in, as [`Aggregate::fold`] does, and may change the message.
    ///
    /// # Errors
    /// The reason for the dead-letter queue; the value then stays as it was.
    fn scan(&mut self, message: &mut Message) -> Result<Verdict>;
}

/// An [`Aggregate`] that reads state of its older versions.
pub trait Migrate: Aggregate {
    /// Reads `old`, which version `from_version` wrote: [`decode`](crate::decode) it into the type of then.
    ///
    /// # Errors
    /// Why it can't: the host then refuses the new version.
    fn migrate(from_version: u32, old: &[u8]) -> Result<Self>;
}

/// The value of no messages.
#[doc(hidden)]
#[must_use]
pub fn initial<A: Aggregate>() -> Vec<u8> {
    let mut bytes = Vec::new();
    // A value that can't be written fails again, and aloud, at its first fold.
    let _ = accumulator::write(&A::default(), &mut bytes);
    bytes
}

#[doc(hidden)]
pub fn fold<A: Aggregate>(frame: &[u8], groups: &[u8]) -> Result<Vec<u8>, String> {
    let frame = stage::open(frame)?;
    let groups = open_groups(groups, frame)?;
    let mut folding = Folding::<A>::new(groups, Vec::new());
    if let Some(mut message) = Message::first(frame, false) {
        folding.run(&mut message, |value, message| value.fold(message).map(|()| Verdict::Keep))?;
    }
    folding.finish()
}

#[doc(hidden)]
pub fn scan<A: Scan>(frame: &[u8], groups: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
    let frame = stage::open(frame)?;
    let groups = open_groups(groups, frame)?;
    // Edits stand in the messages' order, so all groups are folded at once, message by message.
    let mut steps = Vec::with_capacity(frame.len());
    for (group, g) in groups.iter().enumerate() {
        steps.extend(g.indices().map(|index| Step { index, group }));
    }
    steps.sort_by_key(|s| s.index);
    let mut folding = Folding::<A>::new(groups, steps);
    let Some(mut message) = Message::first(frame, true) else {
        return Ok((wasmill_frame::EditsWriter::new(0).finish(), folding.finish()?));
    };
    message.stateless = Some("a scan's state is its own value; keep it there");
    folding.run(&mut message, A::scan)?;
    Ok((message.finish(), folding.finish()?))
}

fn open_groups<'a>(groups: &'a [u8], frame: Frame<'_>) -> Result<Groups<'a>, String> {
    Groups::parse(groups, frame.len()).map_err(|e| format!("the host's groups can't be read: {e}"))
}

#[doc(hidden)]
pub fn merge<A: Aggregate>(accumulators: &[u8]) -> Result<Vec<u8>, String> {
    let blobs = open_blobs(accumulators)?;
    let mut merged = BlobsWriter::new();
    let mut values = blobs.iter().map(|(_, bytes)| accumulator::read::<A>(bytes));
    while let Some(earlier) = values.next() {
        let mut earlier = earlier?;
        let later = values.next().ok_or("an odd number of accumulators to merge two by two")??;
        earlier.merge(later);
        accumulator::push(&earlier, &mut merged)?;
    }
    host::flush();
    Ok(merged.finish())
}

#[doc(hidden)]
pub fn finish<A: Aggregate>(accumulators: &[u8]) -> Result<Vec<u8>, String> {
    let blobs = open_blobs(accumulators)?;
    let mut finished = BlobsWriter::new();
    for (_, bytes) in blobs.iter() {
        let value = accumulator::read::<A>(bytes)?;
        match serde_json::to_vec(&value.finish()) {
            Ok(json) => finished.push(0, &json),
            Err(e) => finished.push(1, format!("the finished value can't be JSON: {e}").as_bytes()),
        }
    }
    host::flush();
    Ok(finished.finish())
}

#[doc(hidden)]
pub fn migrate<A: Migrate>(from_version: u32, accumulators: &[u8]) -> Result<Vec<u8>, String> {
    let blobs = open_blobs(accumulators)?;
    let mut migrated = BlobsWriter::new();
    for (_, bytes) in blobs.iter() {
        let value = A::migrate(from_version, bytes)
            .map_err(|reason| format!("state of version {from_version} can't be read: {reason}"))?;
        accumulator::push(&value, &mut migrated)?;
    }
    host::flush();
    Ok(migrated.finish())
}

fn open_blobs(bytes: &[u8]) -> Result<Blobs<'_>, String> {
    stage::begin();
    Blobs::parse(bytes).map_err(|e| format!("the host's accumulators can't be read: {e}"))
}

/// One message to take into one group.
#[derive(Clone, Copy)]
struct Step {
    index: usize,
    group: usize,
}

/// The groups of one call, being folded.
struct Folding<'a, A> {
    groups: Groups<'a>,
    /// Message by message, for a scan; empty for a fold, which goes group by group.
    steps: Vec<Step>,
    folded: BlobsWriter,
    /// By message.
    failed: Vec<(usize, String)>,
    value: std::marker::PhantomData<A>,
}

impl<'a, A: Aggregate> Folding<'a, A> {
    fn new(groups: Groups<'a>, steps: Vec<Step>) -> Self {
        Self {
            groups,
            steps,
            folded: BlobsWriter::new(),
            failed: Vec::new(),
            value: std::marker::PhantomData,
        }
    }

    /// Folds every message into its groups. A message that fails counts for none of them: then all
    /// begins anew without it, with a copy of the value before each message, until none fails.
    fn run(
        &mut self,
        message: &mut Message<'_>,
        fold: impl Fn(&mut A, &mut Message<'_>) -> Result<Verdict>,
    ) -> Result<(), String> {
        let start = message.mark();
        let mut careful = false;
        while !self.pass(message, &fold, careful)? {
            careful = true;
            message.rewind(start);
            host::forget_counts();
            self.folded = BlobsWriter::new();
        }
        host::flush();
        Ok(())
    }

    /// Whether no message failed.
    fn pass(
        &mut self,
        message: &mut Message<'_>,
        fold: &impl Fn(&mut A, &mut Message<'_>) -> Result<Verdict>,
        careful: bool,
    ) -> Result<bool, String> {
        let failed_before = self.failed.len();
        if self.steps.is_empty() {
            for group in self.groups.iter() {
                let mut value = accumulator::read::<A>(group.accumulator)?;
                for index in group.indices() {
                    if !self.take(&mut value, index, message, fold, careful)? && !careful {
                        return Ok(false);
                    }
                }
                accumulator::push(&value, &mut self.folded)?;
            }
        } else {
            let read = self.groups.iter().map(|g| accumulator::read::<A>(g.accumulator));
            let mut values = read.collect::<Result<Vec<_>, _>>()?;
            for i in 0..self.steps.len() {
                let Step { index, group } = self.steps[i];
                if !self.take(&mut values[group], index, message, fold, careful)? && !careful {
                    return Ok(false);
                }
            }
            for value in &values {
                accumulator::push(value, &mut self.folded)?;
            }
        }
        Ok(self.failed.len() == failed_before)
    }

    /// Takes one message in; whether it went well. A careless failure leaves `value` spoiled.
    fn take(
        &mut self,
        value: &mut A,
        index: usize,
        message: &mut Message<'_>,
        fold: &impl Fn(&mut A, &mut Message<'_>) -> Result<Verdict>,
        careful: bool,
    ) -> Result<bool, String> {
        if !self.failed.is_empty() && self.failed.iter().any(|(i, _)| *i == index) {
            return Ok(true);
        }
        message.turn_to(index);
        let mut before = Vec::new();
        if careful {
            accumulator::write(value, &mut before)?;
        }
        match fold(value, message) {
            Ok(verdict) => {
                message.settle(Ok(verdict));
                Ok(true)
            }
            Err(_) if !careful => {
                message.forget();
                Ok(false)
            }
            Err(reason) => {
                message.forget();
                *value = accumulator::read(&before)?;
                self.failed.push((index, reason.to_string()));
                Ok(false)
            }
        }
    }

    fn finish(mut self) -> Result<Vec<u8>, String> {
        if self.folded.is_empty() && !self.groups.is_empty() {
            // A frame without messages: the accumulators go back as they came.
            for group in self.groups.iter() {
                self.folded.push(0, group.accumulator);
            }
        }
        self.failed.sort_by_key(|(index, _)| *index);
        for (index, reason) in &self.failed {
            self.folded.push(1 + *index as u32, reason.as_bytes());
        }
        Ok(self.folded.finish())
    }
}

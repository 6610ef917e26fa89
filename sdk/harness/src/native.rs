//! Plugins of plain functions.

use std::sync::Arc;

use wasmill_engine::guest::{
    AggregateInfo, AnswerBounds, CallContext, CallError, Guest, GuestInfo, Kinds, Plugin, PluginRef, Trial,
    Tries,
};
use wasmill_frame::{Blobs, BlobsWriter, Edit, EditsWriter, Frame, Groups, Message};

type ProcessFn =
    dyn Fn(usize, Message<'_>, &mut EditsWriter, &mut CallContext) -> Result<(), CallError> + Send + Sync;

/// How an aggregate of plain functions works on accumulators.
pub struct AggregateFns {
    /// What it says of itself.
    pub info: AggregateInfo,
    /// Folds a message in; an error fails the message, and must leave the accumulator as it was.
    pub fold: fn(&mut Vec<u8>, Message<'_>) -> Result<(), String>,
    /// Merges the right accumulator into the left one.
    pub merge: fn(&mut Vec<u8>, &[u8]),
    /// The JSON value.
    pub finish: fn(&[u8]) -> String,
    /// What a scan tells each message: metadata `scan` is set to it.
    pub scan: Option<fn(&[u8]) -> String>,
}

struct Native {
    info: GuestInfo,
    process: Option<Arc<ProcessFn>>,
    aggregate: Option<Arc<AggregateFns>>,
    trap_on: Option<&'static str>,
}

/// A transform that writes edits for each message.
pub fn transform(
    name: &str,
    process: impl Fn(usize, Message<'_>, &mut EditsWriter, &mut CallContext) -> Result<(), CallError>
    + Send
    + Sync
    + 'static,
) -> PluginRef {
    let kinds = Kinds { transform: true, ..Kinds::default() };
    let info = GuestInfo {
        name: name.to_owned(),
        digest: "native".to_owned(),
        kinds,
        needs_facts: true,
        needs_state: true,
        ..GuestInfo::default()
    };
    Arc::new(Native { info, process: Some(Arc::new(process)), aggregate: None, trap_on: None })
}

/// A filter that keeps what the predicate holds for.
pub fn filter(name: &str, keep: impl Fn(Message<'_>) -> bool + Send + Sync + 'static) -> PluginRef {
    let kinds = Kinds { filter: true, ..Kinds::default() };
    let info =
        GuestInfo { name: name.to_owned(), digest: "native".to_owned(), kinds, ..GuestInfo::default() };
    let process: Arc<ProcessFn> = Arc::new(move |index, message, edits, _| {
        if !keep(message) {
            edits.push(index, Edit::Drop);
        }
        Ok(())
    });
    Arc::new(Native { info, process: Some(process), aggregate: None, trap_on: None })
}

/// An aggregate. Folding a message whose payload contains `trap_on` traps the whole call.
pub fn aggregate(name: &str, fns: AggregateFns, trap_on: Option<&'static str>) -> PluginRef {
    let kinds = Kinds { aggregate: true, scan: fns.scan.is_some(), ..Kinds::default() };
    let info = GuestInfo {
        name: name.to_owned(),
        digest: "native".to_owned(),
        kinds,
        aggregate: Some(fns.info.clone()),
        ..GuestInfo::default()
    };
    Arc::new(Native { info, process: None, aggregate: Some(Arc::new(fns)), trap_on })
}

/// Another version of a plugin, for swaps: its digest follows the version.
#[must_use]
pub fn version_of(plugin: &PluginRef, version: &str) -> PluginRef {
    let mut info = plugin.info().clone();
    info.digest = format!("native-{}-{version}", info.name);
    info.version = Some(version.to_owned());
    Arc::new(Changed { info, inner: Arc::clone(plugin), migrate: None })
}

/// An aggregate that migrates accumulators of older state versions.
#[must_use]
pub fn migrating(plugin: &PluginRef, migrate: Migrate) -> PluginRef {
    let mut info = plugin.info().clone();
    info.kinds.migrate = true;
    Arc::new(Changed { info, inner: Arc::clone(plugin), migrate: Some(migrate) })
}

/// Makes an accumulator of today's state version of one of an older version.
pub type Migrate = fn(u32, &[u8]) -> Result<Vec<u8>, String>;

struct Changed {
    info: GuestInfo,
    inner: PluginRef,
    migrate: Option<Migrate>,
}

impl Plugin for Changed {
    fn info(&self) -> &GuestInfo {
        &self.info
    }

    fn guest(&self) -> Box<dyn Guest> {
        match self.migrate {
            Some(migrate) => Box::new(Migrating { inner: self.inner.guest(), migrate }),
            None => self.inner.guest(),
        }
    }

    fn tries(&self) -> Tries {
        self.inner.tries()
    }

    fn bounds(&self) -> AnswerBounds {
        self.inner.bounds()
    }
}

struct Migrating {
    inner: Box<dyn Guest>,
    migrate: Migrate,
}

impl Guest for Migrating {
    fn around(&mut self) -> Option<&mut dyn Guest> {
        Some(self.inner.as_mut())
    }

    fn migrate(
        &mut self,
        from: u32,
        accumulators: &[u8],
        _: &mut CallContext,
        _: Trial,
    ) -> Result<Vec<u8>, CallError> {
        let mut migrated = BlobsWriter::new();
        for (_, accumulator) in Blobs::parse(accumulators).map_err(malformed)?.iter() {
            match (self.migrate)(from, accumulator) {
                Ok(bytes) => migrated.push(0, &bytes),
                Err(reason) => migrated.push(1, reason.as_bytes()),
            }
        }
        Ok(migrated.finish())
    }
}

impl Plugin for Native {
    fn info(&self) -> &GuestInfo {
        &self.info
    }

    fn guest(&self) -> Box<dyn Guest> {
        Box::new(Native {
            info: self.info.clone(),
            process: self.process.clone(),
            aggregate: self.aggregate.clone(),
            trap_on: self.trap_on,
        })
    }
}

fn malformed(e: wasmill_frame::Malformed) -> CallError {
    CallError::Trap(e.to_string())
}

fn missing() -> CallError {
    CallError::Trap("not exported".to_owned())
}

impl Native {
    fn process(&self, frame: &[u8], cx: &mut CallContext) -> Result<Vec<u8>, CallError> {
        let process = self.process.as_ref().ok_or_else(missing)?;
        let frame = Frame::parse(frame).map_err(malformed)?;
        let mut edits = EditsWriter::new(frame.len());
        for (index, message) in frame.iter().enumerate() {
            process(index, message, &mut edits, cx)?;
        }
        Ok(edits.finish())
    }

    fn fold_and(
        &self,
        frame: &[u8],
        groups: &[u8],
        mut each: impl FnMut(usize, &[u8]),
    ) -> Result<Vec<u8>, CallError> {
        let fns = self.aggregate.as_ref().ok_or_else(missing)?;
        let frame = Frame::parse(frame).map_err(malformed)?;
        let groups = Groups::parse(groups, frame.len()).map_err(malformed)?;
        let mut blobs = BlobsWriter::new();
        let mut failed = Vec::new();
        for group in groups.iter() {
            let mut accumulator = group.accumulator.to_vec();
            for index in group.indices() {
                let message = frame.get(index);
                let payload = String::from_utf8_lossy(message.payload());
                if self.trap_on.is_some_and(|t| payload.contains(t)) {
                    return Err(CallError::Trap(format!("panic: {payload}")));
                }
                match (fns.fold)(&mut accumulator, message) {
                    Ok(()) => each(index, &accumulator),
                    Err(reason) => failed.push((index, reason)),
                }
            }
            blobs.push(0, &accumulator);
        }
        for (index, reason) in failed {
            blobs.push(u32::try_from(index + 1).unwrap_or(u32::MAX), reason.as_bytes());
        }
        Ok(blobs.finish())
    }
}

impl Guest for Native {
    fn transform(&mut self, frame: &[u8], cx: &mut CallContext, _: Trial) -> Result<Vec<u8>, CallError> {
        self.process(frame, cx)
    }

    fn filter(&mut self, frame: &[u8], cx: &mut CallContext, _: Trial) -> Result<Vec<u8>, CallError> {
        self.process(frame, cx)
    }

    fn fold(
        &mut self,
        frame: &[u8],
        groups: &[u8],
        _: &mut CallContext,
        _: Trial,
    ) -> Result<Vec<u8>, CallError> {
        self.fold_and(frame, groups, |_, _| {})
    }

    fn scan(
        &mut self,
        frame: &[u8],
        groups: &[u8],
        _: &mut CallContext,
        _: Trial,
    ) -> Result<(Vec<u8>, Vec<u8>), CallError> {
        let scan = self.aggregate.as_ref().and_then(|a| a.scan).ok_or_else(missing)?;
        let mut told = Vec::new();
        let blobs =
            self.fold_and(frame, groups, |index, accumulator| told.push((index, scan(accumulator))))?;
        told.sort_by_key(|(index, _)| *index);
        let mut edits = EditsWriter::new(Frame::parse(frame).map_err(malformed)?.len());
        for (index, text) in &told {
            edits.push(*index, Edit::SetMetadata { name: "scan", value: text.as_bytes(), json: false });
        }
        Ok((edits.finish(), blobs))
    }

    fn merge(&mut self, accumulators: &[u8], _: &mut CallContext, _: Trial) -> Result<Vec<u8>, CallError> {
        let fns = self.aggregate.as_ref().ok_or_else(missing)?;
        let blobs: Vec<&[u8]> =
            Blobs::parse(accumulators).map_err(malformed)?.iter().map(|(_, b)| b).collect();
        let mut merged = BlobsWriter::new();
        for pair in blobs.chunks_exact(2) {
            let mut left = pair[0].to_vec();
            (fns.merge)(&mut left, pair[1]);
            merged.push(0, &left);
        }
        Ok(merged.finish())
    }

    fn finish(&mut self, accumulators: &[u8], _: &mut CallContext, _: Trial) -> Result<Vec<u8>, CallError> {
        let fns = self.aggregate.as_ref().ok_or_else(missing)?;
        let mut values = BlobsWriter::new();
        for (_, accumulator) in Blobs::parse(accumulators).map_err(malformed)?.iter() {
            values.push(0, (fns.finish)(accumulator).as_bytes());
        }
        Ok(values.finish())
    }

    fn migrate(
        &mut self,
        _: u32,
        accumulators: &[u8],
        _: &mut CallContext,
        _: Trial,
    ) -> Result<Vec<u8>, CallError> {
        Ok(accumulators.to_vec())
    }
}

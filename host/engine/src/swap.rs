//! Whether a pipeline can go on with other plugins, and what of its state they must migrate.

use std::ops::ControlFlow;

use wasmill_frame::{Blobs, BlobsWriter};

use crate::aggregate::Aggregate;
use crate::guest::{CallContext, PluginRef, Trial};
use crate::lane::KeyedSpec;
use crate::shape;
use crate::state::{Change, StateKind, StateStore, group_prefix};
use crate::stored_key::{StoredKey, split_window};
use crate::topology::Topology;

/// What it takes to go on with other plugins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Swap {
    /// Nothing: what is stored is theirs too.
    Plain,
    /// Accumulators must be migrated: of these stages behind the key_by, by number, from these state versions.
    Migrating(Vec<(usize, u32)>),
}

/// Whether a pipeline can go on with the plugins of another topology that is the same in all else.
///
/// # Errors
/// Why it can't: each reason a clause that names its stage.
pub fn fits(now: &Topology, new: &Topology) -> Result<Swap, Vec<String>> {
    let mut migrating = Vec::new();
    let mut wrong = Vec::new();
    let mut comparable = new.clone();
    for (number, (old, new)) in now.keyed.iter().zip(&mut comparable.keyed).enumerate() {
        let (Some((name, Aggregate::Plugin(old))), Some((_, aggregate))) =
            (aggregate_of(old), aggregate_of_mut(new))
        else {
            continue;
        };
        let Aggregate::Plugin(new) = &*aggregate else { continue };
        let (Some(then), Some(today)) = (&old.info().aggregate, &new.info().aggregate) else { continue };
        if then.commutative != today.commutative {
            let is = |commutative| if commutative { "commutative" } else { "not commutative" };
            wrong.push(format!(
                "the aggregate of the stage `{name}` says that it is {}, and was {}",
                is(today.commutative),
                is(then.commutative)
            ));
        }
        if then.state_version == today.state_version {
            continue;
        }
        if new.info().kinds.migrate {
            migrating.push((number, then.state_version));
        } else {
            wrong.push(format!(
                "the accumulators of the stage `{name}` are of state version {}, and those of the new plugin of {}; it exports no `migrate` that could bring them over",
                then.state_version, today.state_version
            ));
        }
        // What is told of it stands above.
        *aggregate = Aggregate::Plugin(old.clone());
    }
    let (stored, today) = (now.shape(), comparable.shape());
    if stored != today {
        wrong.extend(shape::differences(&stored, &today));
    }
    match (wrong.is_empty(), migrating.is_empty()) {
        (false, _) => Err(wrong),
        (true, true) => Ok(Swap::Plain),
        (true, false) => Ok(Swap::Migrating(migrating)),
    }
}

fn aggregate_of(stage: &KeyedSpec) -> Option<(&str, &Aggregate)> {
    match stage {
        KeyedSpec::Stage(_) => None,
        KeyedSpec::Window(w) => Some((&w.name, &w.aggregate)),
        KeyedSpec::Running(r) => Some((&r.name, &r.aggregate)),
    }
}

fn aggregate_of_mut(stage: &mut KeyedSpec) -> Option<(&str, &mut Aggregate)> {
    match stage {
        KeyedSpec::Stage(_) => None,
        KeyedSpec::Window(w) => Some((&w.name, &mut w.aggregate)),
        KeyedSpec::Running(r) => Some((&r.name, &mut r.aggregate)),
    }
}

/// How many accumulators are migrated by one call.
const MIGRATED_AT_ONCE: usize = 1_024;

/// The most bytes of accumulators that one lane migrates: they are in memory until their commit.
const MIGRATED_BYTES_MAX: usize = 256 << 20;

/// Migrates what the store has of a stage's accumulators in some key groups; answers what changes.
///
/// # Errors
/// Why the plugin, or the store, can't: nothing is changed.
pub(crate) fn migrate(
    store: &dyn StateStore,
    stage: u16,
    groups: impl IntoIterator<Item = u16>,
    spec: &KeyedSpec,
    from: u32,
    changes: &mut Vec<Change>,
) -> Result<(), String> {
    let (kind, name) = match spec {
        KeyedSpec::Stage(_) => return Ok(()),
        KeyedSpec::Window(w) => (StateKind::Window, &w.name),
        KeyedSpec::Running(r) => (StateKind::Running, &r.name),
    };
    let Some((_, Aggregate::Plugin(plugin))) = aggregate_of(spec) else { return Ok(()) };
    let mut entries: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut bytes = 0;
    for group in groups {
        let prefix = group_prefix(kind, stage, group);
        let mut take = |key: &[u8], value: &[u8]| {
            bytes += key.len() + value.len();
            if bytes > MIGRATED_BYTES_MAX {
                return ControlFlow::Break(());
            }
            entries.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        };
        store.entries(&prefix, None, &mut take).map_err(|e| e.to_string())?;
    }
    if bytes > MIGRATED_BYTES_MAX {
        return Err(format!(
            "the accumulators of the stage `{name}` are more than {MIGRATED_BYTES_MAX} bytes in one lane, which is more than is migrated at once: give the pipeline more workers"
        ));
    }
    for some in entries.chunks(MIGRATED_AT_ONCE) {
        let heads = some
            .iter()
            .map(|(key, value)| accumulator_at(key, value))
            .collect::<Option<Vec<usize>>>()
            .ok_or_else(|| format!("an accumulator of the stage `{name}` can't be read"))?;
        let old: Vec<&[u8]> = some.iter().zip(&heads).map(|((_, value), at)| &value[*at..]).collect();
        let new = migrated(plugin, from, &old).map_err(|e| format!("the stage `{name}`: {e}"))?;
        for (((key, value), at), new) in some.iter().zip(heads).zip(new) {
            let value = [&value[..at], &new].concat();
            changes.push(Change { key: key.clone(), value: Some(value), share: None });
        }
    }
    Ok(())
}

/// Where in a stored value its accumulator begins.
fn accumulator_at(key: &[u8], value: &[u8]) -> Option<usize> {
    match StoredKey::parse(key).ok()?.window_end {
        None => Some(0),
        Some(end) => Some(value.len() - split_window(end, value)?.1.len()),
    }
}

fn migrated(plugin: &PluginRef, from: u32, old: &[&[u8]]) -> Result<Vec<Vec<u8>>, String> {
    let mut writer = BlobsWriter::new();
    old.iter().for_each(|bytes| writer.push(0, bytes));
    let mut guest = plugin.guest();
    let bytes = writer.finish();
    // The clock judges nobody: what a busy machine cut short is tried again by fuel.
    let answer = guest
        .migrate(from, &bytes, &mut CallContext::default(), Trial::Batch)
        .or_else(|_| guest.migrate(from, &bytes, &mut CallContext::default(), Trial::Verdict))
        .map_err(|e| format!("`migrate` from state version {from}: it {e}"))?;
    let blobs = Blobs::parse(&answer).map_err(|e| format!("`migrate` answered wrongly: {e}"))?;
    if blobs.len() != old.len() {
        return Err(format!(
            "`migrate` answered {} accumulators where {} were given",
            blobs.len(),
            old.len()
        ));
    }
    let one = |(tag, bytes): (u32, &[u8])| match tag {
        0 => Ok(bytes.to_vec()),
        _ => Err(format!("`migrate` refused an accumulator: {}", String::from_utf8_lossy(bytes))),
    };
    blobs.iter().map(one).collect()
}

//! Looks into state as one commit left it: pages of entries, one entry, sums.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};
use wasmill_engine::key::key_group;
use wasmill_engine::position::Position;
use wasmill_engine::shape::{self, StageShape};
use wasmill_engine::state::{Checkpoint, StateKind, StateView, group_prefix};
use wasmill_engine::stored_key::{PREFIX_BYTES, STAGE_PREFIX_BYTES, StoredKey};
use wasmill_engine::topology::Topology;

use super::StateError;
use super::entry::{Entry, Filter, Found, PAGE_ENTRIES_MAX, Page, Wanted, decode, encode, value_of};

/// How many key groups are named as the largest.
const LARGEST_GROUPS: usize = 5;

/// Sums over a pipeline's state, as one commit left it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// That commit.
    pub epoch: u64,
    /// The reset generation.
    pub generation: u64,
    /// Stream time that windows have closed by, in milliseconds.
    pub stream_time: i64,
    /// Into how many groups keys are hashed.
    pub key_groups: Option<u16>,
    /// An epoch that facts were foretold for and that is not committed: the next run repeats it first.
    pub foretold_epoch: Option<u64>,
    /// All entries.
    pub entries: u64,
    /// Their keys and values, in bytes.
    pub bytes: u64,
    /// What the store takes on disk, in bytes.
    pub disk_bytes: Option<u64>,
    /// By stage and kind.
    pub stages: Vec<Share>,
    /// The key groups with the most bytes.
    pub largest_groups: Vec<Share>,
    /// What comes next of each partition.
    pub positions: BTreeMap<String, Position>,
    /// Counts since the pipeline's first run.
    pub counts: BTreeMap<String, u64>,
}

/// A part of the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The stage's name.
    pub stage: String,
    /// `window`, `running` or `plugin`.
    pub kind: String,
    /// The key group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<u16>,
    /// Its entries.
    pub entries: u64,
    /// Their keys and values, in bytes.
    pub bytes: u64,
}

fn committed(view: &dyn StateView) -> Result<Checkpoint, StateError> {
    view.checkpoint()?.ok_or(StateError::Nothing)
}

fn number_of(stages: &[StageShape], name: &str) -> Result<u16, StateError> {
    let number = stages.iter().position(|s| s.name == name).and_then(|n| u16::try_from(n).ok());
    number.ok_or_else(|| {
        let names: Vec<String> = stages.iter().map(|s| format!("`{}`", s.name)).collect();
        let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        StateError::Unknown(format!("no state is kept by a stage `{name}`; by these it is: {known}"))
    })
}

/// The entries that a filter asks for, in the stored keys' order.
///
/// # Errors
/// When the store can't be read, or there is no such stage.
pub fn page(view: &dyn StateView, filter: &Filter) -> Result<Page, StateError> {
    let checkpoint = committed(view)?;
    let stages = shape::stages(&checkpoint.shape);
    let after = filter.after.as_deref().map(decode).transpose();
    let after = after.map_err(|e| StateError::Unknown(format!("the place to go on from {e}")))?;
    let prefixes = match &filter.stage {
        None => vec![Vec::new()],
        Some(name) => {
            let number = number_of(&stages, name)?;
            let mut prefixes: Vec<Vec<u8>> = StateKind::ALL
                .iter()
                .map(|kind| group_prefix(*kind, number, 0)[..STAGE_PREFIX_BYTES].to_vec())
                .collect();
            prefixes.sort_unstable();
            prefixes
        }
    };
    let limit = filter.limit.min(PAGE_ENTRIES_MAX);
    let wanted = filter.key_prefix.as_deref().unwrap_or_default().as_bytes();
    let (mut entries, mut more) = (Vec::new(), false);
    for prefix in prefixes {
        view.entries(&prefix, after.as_deref(), &mut |key, stored| {
            let of_key = StoredKey::parse(key).map_or(wanted.is_empty(), |k| k.key.starts_with(wanted));
            if !of_key {
                return ControlFlow::Continue(());
            }
            if entries.len() == limit {
                more = true;
                return ControlFlow::Break(());
            }
            entries.push(Entry::of(&stages, key, stored));
            ControlFlow::Continue(())
        })?;
        if more {
            break;
        }
    }
    let after = if more {
        entries.last().map(|e: &Entry| e.stored_key.clone()).or(filter.after.clone())
    } else {
        None
    };
    Ok(Page { epoch: checkpoint.epoch, stream_time: checkpoint.stream_time, entries, after })
}

/// One entry with its value.
///
/// # Errors
/// When the store can't be read; when there is no such entry, or several that could be meant.
pub fn find(view: &dyn StateView, wanted: &Wanted) -> Result<Found, StateError> {
    let checkpoint = committed(view)?;
    let stages = shape::stages(&checkpoint.shape);
    let number = number_of(&stages, &wanted.stage)?;
    let groups = shape::key_groups(&checkpoint.shape).unwrap_or(Topology::KEY_GROUPS);
    let group = key_group(wanted.key.as_bytes(), groups);
    let mut found: Vec<Found> = Vec::new();
    for kind in StateKind::ALL {
        view.entries(&group_prefix(kind, number, group), None, &mut |key, stored| {
            let Ok(parsed) = StoredKey::parse(key) else { return ControlFlow::Continue(()) };
            let entry = || Entry::of(&stages, key, stored);
            let meant = parsed.key == wanted.key.as_bytes()
                && wanted.name.as_deref().is_none_or(|name| parsed.name == Some(name))
                && wanted.window.is_none_or(|window| entry().start.or(parsed.window_end) == Some(window));
            if meant {
                let state_version =
                    stages.get(usize::from(number)).and_then(StageShape::state_version).cloned();
                let value = encode(value_of(&parsed, stored));
                found.push(Found { epoch: checkpoint.epoch, entry: entry(), state_version, value });
            }
            // Two are enough to know that one must be chosen; some more help to choose.
            if found.len() < LARGEST_GROUPS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
    }
    let choices: Vec<String> = found
        .iter()
        .map(|f| match (&f.entry.name, f.entry.start.or(f.entry.end)) {
            (Some(name), _) => format!("--name {name}"),
            (_, Some(window)) => format!("--window {window}"),
            _ => f.entry.kind.clone(),
        })
        .collect();
    let one = found.pop();
    match one {
        Some(one) if found.is_empty() => Ok(one),
        Some(_) => Err(StateError::Unknown(format!(
            "the key {:?} has several entries in the stage `{}`; say which: {}",
            wanted.key,
            wanted.stage,
            choices.join(", ")
        ))),
        None => Err(StateError::Unknown(format!(
            "the stage `{}` has no such entry of the key {:?}; `wasmill state list` shows those that there are",
            wanted.stage, wanted.key
        ))),
    }
}

/// Sums over all of it: reads all of it.
///
/// # Errors
/// When the store can't be read.
pub fn stats(view: &dyn StateView) -> Result<Stats, StateError> {
    let checkpoint = committed(view)?;
    let stages = shape::stages(&checkpoint.shape);
    let mut parts: BTreeMap<(String, String, Option<u16>), (u64, u64)> = BTreeMap::new();
    let named = |key: &[u8]| match StoredKey::parse(key) {
        Ok(k) => {
            let stage = stages.get(usize::from(k.stage)).map_or_else(String::new, |s| s.name.clone());
            (stage, k.kind.name().to_owned(), Some(k.group))
        }
        Err(unknown) => (String::new(), unknown.to_string(), None),
    };
    // Keys of one group follow each other: their names are made once.
    let mut last: Option<(Vec<u8>, (u64, u64))> = None;
    view.entries(b"", None, &mut |key, stored| {
        let prefix = &key[..key.len().min(PREFIX_BYTES)];
        let bytes = (key.len() + stored.len()) as u64;
        match &mut last {
            Some((of, sum)) if of == prefix => *sum = (sum.0 + 1, sum.1 + bytes),
            _ => {
                if let Some((of, sum)) = last.replace((prefix.to_vec(), (1, bytes))) {
                    add(&mut parts, named(&with_rest(&of)), sum);
                }
            }
        }
        ControlFlow::Continue(())
    })?;
    if let Some((of, sum)) = last {
        add(&mut parts, named(&with_rest(&of)), sum);
    }
    let share = |(stage, kind, group): (String, String, Option<u16>), (entries, bytes)| Share {
        stage,
        kind,
        group,
        entries,
        bytes,
    };
    let mut largest: Vec<Share> = parts.clone().into_iter().map(|(of, sum)| share(of, sum)).collect();
    largest.sort_by_key(|share| std::cmp::Reverse(share.bytes));
    largest.truncate(LARGEST_GROUPS);
    let mut by_stage: BTreeMap<(String, String, Option<u16>), (u64, u64)> = BTreeMap::new();
    for ((stage, kind, _), sum) in parts {
        add(&mut by_stage, (stage, kind, None), sum);
    }
    let stages: Vec<Share> = by_stage.into_iter().map(|(of, sum)| share(of, sum)).collect();
    Ok(Stats {
        epoch: checkpoint.epoch,
        generation: view.generation(),
        stream_time: checkpoint.stream_time,
        key_groups: shape::key_groups(&checkpoint.shape),
        foretold_epoch: view.foretold()?.map(|(epoch, _)| epoch),
        entries: stages.iter().map(|s| s.entries).sum(),
        bytes: stages.iter().map(|s| s.bytes).sum(),
        disk_bytes: view.disk_bytes(),
        stages,
        largest_groups: largest,
        positions: checkpoint.positions.into_iter().map(|(id, p)| (id.to_string(), p)).collect(),
        counts: checkpoint.counts,
    })
}

fn add<K: Ord>(parts: &mut BTreeMap<K, (u64, u64)>, of: K, (entries, bytes): (u64, u64)) {
    let sum = parts.entry(of).or_default();
    *sum = (sum.0 + entries, sum.1 + bytes);
}

/// A prefix made as long as the shortest key, so that it can be taken apart.
fn with_rest(prefix: &[u8]) -> Vec<u8> {
    let mut key = prefix.to_vec();
    key.extend_from_slice(&[0; 8]);
    key
}

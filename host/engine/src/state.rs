//! State that outlives the process, and what is committed with it.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use crate::edition::Plugins;
use crate::position::{PartitionId, Position};

/// The number of a commit, from 1; it never returns to an older one.
pub type Epoch = u64;

/// What one epoch changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// The changes. A key stands once.
    pub changes: Vec<Change>,
}

/// What one epoch changes of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The stored key.
    pub key: Vec<u8>,
    /// Its value now; `None` deletes.
    pub value: Option<Vec<u8>>,
    /// What this epoch alone put to it, where the key may be shared with other processes: a store that
    /// several of them write puts this to what it has, in place of `value`.
    pub share: Option<Share>,
}

/// What one epoch alone put to a shared key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Share {
    /// The accumulator of the epoch's messages alone: to be merged by the stage's aggregate.
    Accumulator(Vec<u8>),
}

/// Everything but state that a commit makes durable, all at once with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Which commit this is.
    pub epoch: Epoch,
    /// The reset generation: part of every output id, so that a run after `reset` repeats no id.
    pub generation: u64,
    /// The pipeline's shape: what state depends on. Another shape is refused, not reinterpreted.
    pub shape: String,
    /// The closing stream time of the virtual log: no window before it opens again.
    pub stream_time: i64,
    /// How far each partition is.
    pub positions: Vec<(PartitionId, Position)>,
    /// Each sink's own token, as its flush gave it: what of its output is committed.
    pub sinks: Vec<(String, String)>,
    /// Counts since the pipeline's first run, by name: messages in, dropped, late, dead letters and so on.
    pub counts: std::collections::BTreeMap<String, u64>,
    /// Which plugins do what comes; nothing where processes share the pipeline, for each has its own.
    #[serde(default, skip_serializing_if = "Plugins::is_empty")]
    pub plugins: Plugins,
}

/// Why a store can't do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The operating system or the server refused.
    #[error("{what}: {cause}")]
    Io {
        /// What was tried, with the path.
        what: String,
        /// Why it failed.
        cause: String,
    },
    /// What is stored is damaged.
    #[error(
        "{what} is damaged ({cause}); run `wasmill reset` for this pipeline to rebuild it from its source"
    )]
    Corrupt {
        /// Which part, with the path.
        what: String,
        /// What does not fit.
        cause: String,
    },
    /// What is stored was written in another format.
    #[error(
        "{path} holds state of format {found}; this wasmill reads format {expected}. Use the wasmill that wrote it, or another data directory, or `wasmill reset`"
    )]
    Format {
        /// Where.
        path: String,
        /// The format found.
        found: String,
        /// The format that this build reads.
        expected: u32,
    },
    /// Somebody else has taken over what this process was about to commit. Nothing of the epoch was
    /// stored: drop it, and begin again from what is stored.
    #[error("{what} was taken over by another process: {cause}")]
    Fenced {
        /// What, with its place.
        what: String,
        /// How that showed.
        cause: String,
    },
    /// The server is away: wait, then ask the same again. A commit may have taken effect all the same;
    /// asked again, the store knows it for the same one.
    #[error("{what}: {cause}")]
    Away {
        /// What was tried, with the address.
        what: String,
        /// Why it failed.
        cause: String,
    },
    /// Another process has it open.
    #[error(
        "{path} is in use by another wasmill; give this pipeline another data directory or stop the other one"
    )]
    Locked {
        /// Where.
        path: String,
    },
}

/// Values of shared keys after a commit, by stored key.
pub type Merged = Vec<(Vec<u8>, Vec<u8>)>;

/// A store of state: reads, and one atomic commit of state with positions.
pub trait StateStore: Send + Sync {
    /// What it calls itself in logs and `explain`.
    fn name(&self) -> String;
    /// Whether what it commits outlives the process.
    fn is_durable(&self) -> bool;
    /// The last committed checkpoint; none before the first.
    ///
    /// # Errors
    /// When it can't be read, or is damaged.
    fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError>;
    /// The reset generation: 0 at first, raised by [`StateStore::reset`]. A commit whose checkpoint has
    /// another one is refused.
    ///
    /// # Errors
    /// When it can't be read, or is damaged.
    fn generation(&self) -> Result<u64, StoreError>;
    /// The committed value of a key.
    ///
    /// # Errors
    /// When it can't be read, or is damaged.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// The committed values of keys, in the order asked for.
    ///
    /// # Errors
    /// As of [`StateStore::get`].
    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        keys.iter().map(|key| self.get(key)).collect()
    }
    /// The last committed key under a prefix, in the keys' order.
    ///
    /// # Errors
    /// When it can't be read, or is damaged.
    fn last_key(&self, prefix: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let mut last = None;
        self.scan(prefix, &mut |key, _| last = Some(key.to_vec()))?;
        Ok(last)
    }
    /// Visits the committed keys under a prefix that come behind `after`, in the keys' order, until `visit`
    /// breaks. `visit` must not commit to this store.
    ///
    /// # Errors
    /// When it can't be read, or is damaged.
    fn entries(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        visit: &mut VisitEntry<'_>,
    ) -> Result<(), StoreError>;
    /// Whether it keeps its keys in their order, so that [`StateStore::entries`] costs what it visits, and no more.
    fn is_ordered(&self) -> bool {
        false
    }
    /// Visits every committed key under a prefix, in the keys' order.
    ///
    /// # Errors
    /// As of [`StateStore::entries`].
    fn scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        self.entries(prefix, None, &mut |key, value| {
            visit(key, value);
            ControlFlow::Continue(())
        })
    }
    /// Makes a delta and its checkpoint durable at once, and forgets what was foretold for this epoch.
    ///
    /// # Errors
    /// When it failed; whether it took effect is then unknown, and the pipeline restarts from what is stored.
    fn commit(&self, delta: &Delta, checkpoint: &Checkpoint) -> Result<(), StoreError>;
    /// Commits, and in the same step makes facts durable of the epoch behind, as [`StateStore::foretell`]: one
    /// wait for the disk in place of two. Only for a store that says that it [can](StateStore::foretells_in_commits).
    ///
    /// # Errors
    /// As of [`StateStore::commit`].
    fn commit_and_foretell(
        &self,
        delta: &Delta,
        checkpoint: &Checkpoint,
        facts: &[u8],
    ) -> Result<(), StoreError> {
        self.commit(delta, checkpoint)?;
        self.foretell(checkpoint.epoch + 1, facts)
    }
    /// Whether [`StateStore::commit_and_foretell`] is one step.
    fn foretells_in_commits(&self) -> bool {
        false
    }
    /// What the last commit made of the keys that it shares with other processes, as (stored key, value
    /// now); each is told once. None from a store that one process has for itself.
    fn merged(&self) -> Merged {
        Merged::new()
    }
    /// Makes facts durable that an epoch's outputs depend on, before any of them leaves.
    ///
    /// # Errors
    /// When it failed.
    fn foretell(&self, epoch: Epoch, facts: &[u8]) -> Result<(), StoreError>;
    /// Facts that were foretold for an epoch that never committed.
    ///
    /// # Errors
    /// When they can't be read.
    fn foretold(&self) -> Result<Option<(Epoch, Vec<u8>)>, StoreError>;
    /// What is committed now, as it stays while it is read; commits go on meanwhile. None from a store that
    /// can't give it.
    ///
    /// # Errors
    /// When it can't be read, or is damaged.
    fn view(&self) -> Result<Option<Box<dyn StateView>>, StoreError> {
        Ok(None)
    }
    /// Forgets everything but the generation, which it raises by one.
    ///
    /// # Errors
    /// When it failed.
    fn reset(&self) -> Result<(), StoreError>;
}

/// What is done with a stored key and its value, and whether to go on.
pub type VisitEntry<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// A store as one commit left it.
pub trait StateView: Send {
    /// That commit; none before the first.
    ///
    /// # Errors
    /// When it can't be read, or is damaged.
    fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError>;
    /// The reset generation.
    fn generation(&self) -> u64;
    /// Facts that were foretold for an epoch behind it.
    ///
    /// # Errors
    /// When they can't be read.
    fn foretold(&self) -> Result<Option<(Epoch, Vec<u8>)>, StoreError>;
    /// The value of a key.
    ///
    /// # Errors
    /// When it can't be read, or is damaged.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// Visits the keys under a prefix that come behind `after`, in the keys' order, until `visit` breaks.
    ///
    /// # Errors
    /// When they can't be read, or are damaged.
    fn entries(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        visit: &mut VisitEntry<'_>,
    ) -> Result<(), StoreError>;
    /// What the state takes on disk; none where it isn't on one.
    fn disk_bytes(&self) -> Option<u64> {
        None
    }
}

/// What a stored key belongs to: the first byte of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateKind {
    /// A window, or what windows are put together of.
    Window,
    /// A running accumulator.
    Running,
    /// A plugin's own entry.
    Plugin,
    /// How far a windowed stage is.
    Clock,
}

impl StateKind {
    /// All kinds that this wasmill knows.
    pub const ALL: [Self; 4] = [Self::Window, Self::Running, Self::Plugin, Self::Clock];

    fn byte(self) -> u8 {
        match self {
            Self::Window => b'w',
            Self::Running => b'r',
            Self::Plugin => b's',
            Self::Clock => b'c',
        }
    }

    /// The kind that the first byte of a stored key names; none for one that this wasmill doesn't know.
    #[must_use]
    pub fn of_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.byte() == byte)
    }

    /// What people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Window => "window",
            Self::Running => "running",
            Self::Plugin => "plugin",
            Self::Clock => "clock",
        }
    }
}

/// The bytes before everything that one stage stores for one key group: kind, stage u16, group u16, both
/// big-endian, so that a key group is one range of the store.
#[must_use]
pub fn group_prefix(kind: StateKind, stage: u16, group: u16) -> Vec<u8> {
    let mut key = vec![kind.byte()];
    key.extend_from_slice(&stage.to_be_bytes());
    key.extend_from_slice(&group.to_be_bytes());
    key
}

/// The stage that a stored key belongs to; none where it is too short for one.
#[must_use]
pub fn stage_of(key: &[u8]) -> Option<u16> {
    key.get(1..3).and_then(|bytes| bytes.first_chunk()).map(|bytes| u16::from_be_bytes(*bytes))
}

/// The stored key of a window, or of a pane or session: the prefix, its end as big-endian i64 (never negative), the key.
#[must_use]
pub fn window_key(stage: u16, group: u16, end: i64, key: &[u8]) -> Vec<u8> {
    let mut stored = group_prefix(StateKind::Window, stage, group);
    stored.extend_from_slice(&end.to_be_bytes());
    stored.extend_from_slice(key);
    stored
}

/// The stored key of a windowed stage's stream time, as big-endian i64: under key group 0 for all lanes, or
/// under each lane's first one for itself.
#[must_use]
pub fn clock_key(stage: u16, group: u16) -> Vec<u8> {
    group_prefix(StateKind::Clock, stage, group)
}

/// The key group that a stored key belongs to; none where it is too short for one.
#[must_use]
pub fn group_of(key: &[u8]) -> Option<u16> {
    key.get(3..5).and_then(|bytes| bytes.first_chunk()).map(|bytes| u16::from_be_bytes(*bytes))
}

/// The stored key of a running accumulator: the prefix, the key.
#[must_use]
pub fn running_key(stage: u16, group: u16, key: &[u8]) -> Vec<u8> {
    let mut stored = group_prefix(StateKind::Running, stage, group);
    stored.extend_from_slice(key);
    stored
}

/// The bytes of [`plugin_state_key`].
#[must_use]
pub fn plugin_state_key_bytes(key: &[u8], name: &str) -> usize {
    // Kind, stage and group; the key's length.
    5 + 4 + key.len() + name.len()
}

/// The stored key of a plugin's entry: the prefix, the key's length as big-endian u32, the key, the name.
#[must_use]
pub fn plugin_state_key(stage: u16, group: u16, key: &[u8], name: &str) -> Vec<u8> {
    let mut stored = group_prefix(StateKind::Plugin, stage, group);
    stored.reserve_exact(plugin_state_key_bytes(key, name) - stored.len());
    stored.extend_from_slice(&u32::try_from(key.len()).unwrap_or(u32::MAX).to_be_bytes());
    stored.extend_from_slice(key);
    stored.extend_from_slice(name.as_bytes());
    stored
}

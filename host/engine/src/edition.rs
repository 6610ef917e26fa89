//! Editions of a pipeline: which plugin each stage has, and which messages it does.
//!
//! A swap takes effect at a barrier. The stages behind the key_by have their new plugins from the next message on
//! that comes to them. Those before it have worked ahead of the barrier, each partition as far as it was read: what is
//! read from there on is the new ones'. So a message is done by one edition of the prefix, wherever the barrier falls,
//! and a restart does each with the edition that had it, for the checkpoint says up to where.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::position::{PartitionId, Position};

/// A stage's plugin: which file it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StagePlugin {
    /// The stage's name.
    pub stage: String,
    /// The plugin's name.
    pub plugin: String,
    /// The digest of its file, in hexadecimal.
    pub digest: String,
    /// Its version, where it names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

impl StagePlugin {
    /// `name@version`, or the name with the digest's beginning where it names no version.
    #[must_use]
    pub fn shown(&self) -> String {
        match &self.version {
            Some(version) => format!("{}@{version}", self.plugin),
            None => format!("{}@sha256:{}", self.plugin, shown_digest(&self.digest)),
        }
    }
}

/// How many digits of a digest are shown: enough to tell one from the other, and to name it by.
pub const DIGITS_SHOWN: usize = 12;

/// The beginning of a digest, for people.
#[must_use]
pub fn shown_digest(digest: &str) -> &str {
    digest.get(..DIGITS_SHOWN).unwrap_or(digest)
}

/// Which plugins do which messages: committed with the positions, so that a restart does the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plugins {
    /// What does all that no earlier edition does, in the stages' order. Empty in what an earlier wasmill stored.
    pub now: Vec<StagePlugin>,
    /// Editions whose messages are not all taken in yet, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<Before>,
    /// What each stage had before its last swap: what a rollback goes to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub previous: Vec<StagePlugin>,
    /// What was rolled back: it isn't taken again unasked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<StagePlugin>,
    /// Whether nothing behind these positions was ever read: whoever goes on may begin with other plugins.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub settled: bool,
}

impl Plugins {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.now.is_empty()
    }

    /// Adds what another part of the same pipeline has.
    pub fn extend(&mut self, part: Self) {
        self.now.extend(part.now);
        self.before.extend(part.before);
        self.previous.extend(part.previous);
        self.refused.extend(part.refused);
    }

    /// What a stage has for what is read from here on.
    #[must_use]
    pub fn of(&self, stage: &str) -> Option<&StagePlugin> {
        self.now.iter().find(|p| p.stage == stage)
    }
}

/// An edition of the stages before the key_by that still has messages to come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Before {
    /// The plugins of all stages, in their order.
    pub plugins: Vec<StagePlugin>,
    /// Of these partitions it does the messages before this offset.
    pub until: Vec<(PartitionId, u64)>,
}

/// The editions of a running pipeline, each with a number.
#[derive(Debug, Default)]
pub(crate) struct Editions {
    plugins: Plugins,
    /// The numbers of [`Plugins::before`].
    numbers: Vec<u64>,
    now: u64,
    /// Before which offsets messages may have been done, and what came of them shown, by a run that broke off.
    in_doubt: BTreeMap<PartitionId, u64>,
}

impl Editions {
    /// As they were committed: the oldest is number 0.
    pub fn new(plugins: Plugins) -> Self {
        let before = plugins.before.len() as u64;
        let plugins = Plugins { settled: false, ..plugins };
        Self { numbers: (0..before).collect(), now: before, plugins, in_doubt: BTreeMap::new() }
    }

    /// The run before broke off, and may have shown what came of messages before these offsets: the edition that did
    /// them does them again.
    pub fn doubt(&mut self, ends: BTreeMap<PartitionId, u64>) {
        self.in_doubt = ends;
    }

    pub fn is_in_doubt(&self) -> bool {
        !self.in_doubt.is_empty()
    }

    pub fn plugins(&self) -> &Plugins {
        &self.plugins
    }

    /// Which edition does a message, and up to which offset it does those behind.
    pub fn at(&self, partition: PartitionId, offset: u64) -> (u64, Option<u64>) {
        for (number, before) in self.numbers.iter().zip(&self.plugins.before) {
            let until = before.until.iter().find(|(id, _)| *id == partition).map(|(_, until)| *until);
            if let Some(until) = until.filter(|until| offset < *until) {
                return (*number, Some(until));
            }
        }
        (self.now, None)
    }

    /// Whether an edition has messages to come.
    pub fn has(&self, number: u64) -> bool {
        number == self.now || self.numbers.contains(&number)
    }

    /// Other plugins do what is read from here on; answers their edition's number.
    pub fn swap(&mut self, plugins: Plugins, edges: &BTreeMap<PartitionId, u64>) -> u64 {
        let Plugins { now, previous, refused, .. } = plugins;
        let end = |id| self.in_doubt.get(id).copied().unwrap_or_default();
        // What an earlier edition does up to there needs no later one.
        let had = |id: &PartitionId| {
            let until = self.plugins.before.iter().flat_map(|before| &before.until);
            until.filter(|(of, _)| of == id).map(|(_, until)| *until).max().unwrap_or_default()
        };
        let until = edges.iter().map(|(id, edge)| (*id, (*edge).max(end(id))));
        let until = until.filter(|(id, until)| *until > had(id)).collect();
        let left = std::mem::replace(&mut self.plugins.now, now);
        self.plugins.before.push(Before { plugins: left, until });
        self.plugins.previous = previous;
        self.plugins.refused = refused;
        self.numbers.push(self.now);
        self.now += 1;
        self.now
    }

    /// Forgets editions all of whose messages are taken in.
    pub fn prune(&mut self, positions: &[(PartitionId, Position)]) {
        self.in_doubt
            .retain(|id, end| positions.iter().any(|(of, position)| of == id && position.offset < *end));
        self.retain(|id, until| positions.iter().any(|(of, position)| *of == id && position.offset < until));
    }

    /// Forgets a partition that is another process's now: should it come back, what is read then is the last
    /// edition's, for that process may have gone on with it.
    pub fn forget(&mut self, partition: PartitionId) {
        self.in_doubt.remove(&partition);
        self.retain(|id, _| id != partition);
    }

    /// Keeps of each edition the partitions that are wanted, and forgets editions that have none.
    fn retain(&mut self, is_wanted: impl Fn(PartitionId, u64) -> bool) {
        let mut numbers = std::mem::take(&mut self.numbers).into_iter();
        self.plugins.before.retain_mut(|before| {
            before.until.retain(|(id, until)| is_wanted(*id, *until));
            let number = numbers.next();
            if !before.until.is_empty() {
                self.numbers.extend(number);
            }
            !before.until.is_empty()
        });
    }
}

//! What a commit is guarded by, and shared keys on their way.

use wasmill_engine::state::{Checkpoint, Delta, Share, StoreError};

use super::wire::json;
use super::{Held, RedisStore, Usage};
use crate::store::refuse_stale;

/// How many values of shared keys are remembered, to save a round trip.
const SEEN_KEYS_MAX: usize = 100_000;

/// A shared key on its way into Redis.
pub(super) struct Sharing<'a> {
    pub key: &'a [u8],
    pub share: &'a [u8],
    pub expected: Option<Vec<u8>>,
    pub new: Vec<u8>,
}

impl RedisStore {
    /// The fields that a commit is guarded by, as (field, as it is stored, as it will be).
    pub(super) fn guards(
        &self,
        held: &Held,
        attempt: &str,
        checkpoint: &Checkpoint,
    ) -> Result<Vec<(String, String, String)>, StoreError> {
        if matches!(self.usage, Usage::Alone) {
            let new = format!("{}\n{attempt}", held.token);
            return Ok(vec![("owner".to_owned(), held.owner.clone(), new)]);
        }
        let mut guards = Vec::with_capacity(checkpoint.positions.len());
        for (id, position) in &checkpoint.positions {
            let Some(stored) = held.claimed.as_ref().and_then(|claimed| claimed.get(id)) else {
                return Err(self.fenced(&id.to_string()));
            };
            let json = json(position)?;
            guards.push((id.to_string(), stored.clone(), format!("{}\n{attempt}\n{json}", held.token)));
        }
        Ok(guards)
    }

    pub(super) fn fenced(&self, field: &str) -> StoreError {
        match self.usage {
            Usage::Alone => StoreError::Fenced {
                what: self.place(),
                cause: "its owner is another one now: run one process of this pipeline, or let them share"
                    .into(),
            },
            Usage::Shared(_) => StoreError::Fenced {
                what: format!("partition {field} of {}", self.place()),
                cause: "this process has not claimed it, or lost it since".into(),
            },
        }
    }

    /// The shared keys of a delta, merged with what was seen of them last.
    pub(super) fn sharing<'a>(&self, held: &Held, delta: &'a Delta) -> Result<Vec<Sharing<'a>>, StoreError> {
        let mut sharing = Vec::new();
        for change in &delta.changes {
            let (Usage::Shared(_), Some(Share::Accumulator(share))) = (&self.usage, &change.share) else {
                continue;
            };
            let expected = held.seen.get(&change.key).cloned().flatten();
            let new = self.merge(&change.key, expected.as_deref(), share)?;
            sharing.push(Sharing { key: &change.key, share, expected, new });
        }
        Ok(sharing)
    }

    pub(super) fn merge(
        &self,
        key: &[u8],
        stored: Option<&[u8]>,
        share: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let (Usage::Shared(merge), Some(stored)) = (&self.usage, stored) else { return Ok(share.to_vec()) };
        merge(key, stored, share).map_err(|cause| StoreError::Io {
            what: format!("cannot merge this process's totals into {}", self.place()),
            cause,
        })
    }

    pub(super) fn refused(&self, outcome: &str, found: &str, checkpoint: &Checkpoint) -> StoreError {
        let number = || found.parse().unwrap_or_default();
        let stale = match outcome {
            "fenced" => return self.fenced(found),
            "generation" => refuse_stale(&self.address, checkpoint, number(), 0),
            "epoch" => refuse_stale(&self.address, checkpoint, checkpoint.generation, number()),
            _ => Ok(()),
        };
        let cause = match stale {
            Err(e) => return e,
            Ok(()) if outcome == "shape" => {
                "another process of this pipeline runs other stages: let all run the same, or run `wasmill reset`"
                    .to_owned()
            }
            Ok(()) => format!("Redis answered {outcome:?} {found:?}, which this wasmill doesn't know"),
        };
        StoreError::Io { what: self.what(&format!("cannot commit epoch {}", checkpoint.epoch)), cause }
    }
}

impl Held {
    /// Keeps what a commit that is stored has changed.
    pub(super) fn keep(
        &mut self,
        guards: Vec<(String, String, String)>,
        checkpoint: &Checkpoint,
        sharing: &[Sharing<'_>],
    ) {
        match &mut self.claimed {
            Some(claimed) => {
                let ids = checkpoint.positions.iter().map(|(id, _)| *id);
                claimed.extend(ids.zip(guards.into_iter().map(|(_, _, new)| new)));
                self.counted.clone_from(&checkpoint.counts);
            }
            None => self.owner = guards.into_iter().next().map(|(_, _, new)| new).unwrap_or_default(),
        }
        if self.seen.len() + sharing.len() > SEEN_KEYS_MAX {
            self.seen.clear();
        }
        self.merged.clear();
        for shared in sharing {
            self.seen.insert(shared.key.to_vec(), Some(shared.new.clone()));
            self.merged.push((shared.key.to_vec(), shared.new.clone()));
        }
    }
}

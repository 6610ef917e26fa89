//! Partitions that this process has of a state that several share, and what it goes on from.

use std::collections::BTreeMap;

use wasmill_engine::position::{PartitionId, Position};
use wasmill_engine::state::{Checkpoint, StoreError};
use wasmill_engine::time::START;

use super::{RedisStore, Usage};

impl RedisStore {
    /// Takes partitions over, beside those claimed before, whose epochs go on: whoever had them commits
    /// nothing more of them. Answers the positions of those that have one, in their order. Only epochs that
    /// begin there may be committed from now on, so none in flight may have one of `partitions`.
    ///
    /// # Errors
    /// When Redis is away, or refuses; when the state is not shared.
    pub fn claim(&self, partitions: &[PartitionId]) -> Result<Vec<(PartitionId, Position)>, StoreError> {
        let mut held = self.held();
        let claimed = self.take_over(partitions, &held.token)?;
        let positions = self.positions(&claimed)?;
        held.claimed.get_or_insert_default().extend(claimed);
        Ok(positions)
    }

    pub(super) fn take_over(
        &self,
        partitions: &[PartitionId],
        token: &str,
    ) -> Result<BTreeMap<PartitionId, String>, StoreError> {
        if matches!(self.usage, Usage::Alone) {
            let cause = "it is open for one process alone, which has all partitions".to_owned();
            return Err(StoreError::Io {
                what: format!("cannot claim partitions in {}", self.place()),
                cause,
            });
        }
        if partitions.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut call = self.scripts.claim.prepare_invoke();
        call.key(&self.keys.positions).arg(token);
        for partition in partitions {
            call.arg(partition.to_string());
        }
        let fields: Vec<String> = self.write("cannot claim partitions", |c| call.invoke(c))?;
        Ok(partitions.iter().copied().zip(fields).collect())
    }

    pub(super) fn positions(
        &self,
        claimed: &BTreeMap<PartitionId, String>,
    ) -> Result<Vec<(PartitionId, Position)>, StoreError> {
        let mut positions = Vec::with_capacity(claimed.len());
        for (id, field) in claimed {
            let json = field.splitn(3, '\n').nth(2).unwrap_or_default();
            if json.is_empty() {
                continue;
            }
            let position = serde_json::from_str(json)
                .map_err(|e| self.corrupt(&format!("the position of partition {id}"), e.to_string()))?;
            positions.push((*id, position));
        }
        Ok(positions)
    }

    /// The shape of what is stored, if anything is.
    pub(in crate::store) fn shape(&self) -> Result<Option<String>, StoreError> {
        let meta = self.meta()?;
        Ok(meta.get("shape").map(|shape| String::from_utf8_lossy(shape).into_owned()))
    }

    /// What a shared use has for a checkpoint: the claimed partitions' positions, and everybody's counts.
    pub(super) fn shared_checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        let mut held = self.held();
        let Some(claimed) = &held.claimed else { return Ok(None) };
        let positions = self.positions(claimed)?;
        let meta = self.meta()?;
        let Some(shape) = meta.get("shape") else { return Ok(None) };
        let mut counts = BTreeMap::new();
        for field in meta.keys() {
            if let Some(name) = field.strip_prefix("count:") {
                counts.insert(name.to_owned(), self.number(&meta, field)?);
            }
        }
        held.counted.clone_from(&counts);
        Ok(Some(Checkpoint {
            epoch: self.number(&meta, "epoch")?,
            generation: self.number(&meta, "generation")?,
            shape: String::from_utf8_lossy(shape).into_owned(),
            stream_time: START,
            positions,
            counts,
            ..Checkpoint::default()
        }))
    }
}

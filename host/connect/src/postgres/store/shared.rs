//! Partitions that this process has of a pipeline that several share, and their commits.

use std::collections::BTreeMap;

use tokio_postgres::types::Type as Sql;
use wasmill_engine::position::{PartitionId, Position};
use wasmill_engine::state::{Checkpoint, StoreError};
use wasmill_engine::time::START;

use super::commit::Attempt;
use super::reader::Param;
use super::{Held, PostgresStore, signed};
use crate::postgres::link::Trouble;
use crate::postgres::session::Session;
use crate::store::refuse_stale;

/// A partition as it is stored.
#[derive(Clone, Default)]
pub(super) struct Claimed {
    /// The mark of its last commit; empty when it was just claimed.
    mark: String,
    position: Option<Position>,
    /// What was counted by commits of whoever had it.
    counts: BTreeMap<String, u64>,
}

/// Partitions as two columns.
fn columns(ids: impl Iterator<Item = PartitionId>) -> (Vec<i32>, Vec<i64>) {
    ids.map(|id| (i32::from(id.source), i64::from(id.partition))).unzip()
}

impl PostgresStore {
    pub(super) fn claim_partitions(
        &self,
        partitions: &[PartitionId],
    ) -> Result<Vec<(PartitionId, Position)>, StoreError> {
        if !self.shared {
            return Err(StoreError::Io {
                what: format!("cannot claim partitions in {}", self.place()),
                cause: "it is open for one process alone, which has all partitions".into(),
            });
        }
        let mut held = self.held();
        let mut claimed = BTreeMap::new();
        if !partitions.is_empty() {
            let what = self.what("cannot claim partitions");
            // In one order, so that two processes can't lock the same rows in two.
            let mut ids = partitions.to_vec();
            ids.sort_unstable();
            ids.dedup();
            let (sources, numbers) = columns(ids.into_iter());
            let sql = format!(
                "INSERT INTO {} AS p (pipeline, source, partition, owner)
SELECT $1, s, n, $2 FROM UNNEST($3::integer[], $4::bigint[]) AS t(s, n) ORDER BY s, n
ON CONFLICT (pipeline, source, partition) DO UPDATE SET owner = EXCLUDED.owner, mark = ''
RETURNING source, partition, position::text, counts::text",
                self.tables.positions
            );
            let params: [Param<'_>; 4] = [
                self.name_param(),
                (&self.owner, Sql::TEXT),
                (&sources, Sql::INT4_ARRAY),
                (&numbers, Sql::INT8_ARRAY),
            ];
            for row in self.reader.rows(&what, &sql, &params)? {
                let (id, partition) = self.stored(&what, &row)?;
                claimed.insert(id, partition);
            }
        }
        let positions = positions(&claimed);
        held.claimed.get_or_insert_default().extend(claimed);
        Ok(positions)
    }

    /// A row with source, partition, position and counts.
    pub(super) fn stored(
        &self,
        what: &str,
        row: &tokio_postgres::Row,
    ) -> Result<(PartitionId, Claimed), StoreError> {
        let (source, partition): (i32, i64) =
            (self.reader.value(what, row, 0)?, self.reader.value(what, row, 1)?);
        let (Ok(source), Ok(partition)) = (u16::try_from(source), u32::try_from(partition)) else {
            return Err(self.corrupt("a position", format!("its partition is {source}/{partition}")));
        };
        let id = PartitionId { source, partition };
        let text = |column: usize| self.reader.value::<Option<String>>(what, row, column);
        let wrong = |e: serde_json::Error| self.corrupt(&format!("partition {id}"), e.to_string());
        let position = text(2)?.map(|json| serde_json::from_str(&json)).transpose().map_err(wrong)?;
        let counts = text(3)?.map(|json| serde_json::from_str(&json)).transpose().map_err(wrong)?;
        Ok((id, Claimed { mark: String::new(), position, counts: counts.unwrap_or_default() }))
    }

    /// What a shared use has for a checkpoint: the claimed partitions' positions, and everybody's counts.
    pub(super) fn shared_checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        let mut held = self.held();
        let Some(claimed) = &held.claimed else { return Ok(None) };
        let positions = positions(claimed);
        let found = self.shared_by(&self.reader, positions)?;
        if let Some(found) = &found {
            held.counted.clone_from(&found.counts);
        }
        Ok(found)
    }

    /// As above, with these positions.
    pub(super) fn shared_by(
        &self,
        reader: &super::Reader,
        positions: Vec<(PartitionId, Position)>,
    ) -> Result<Option<Checkpoint>, StoreError> {
        let what = "the checkpoint";
        let Some(row) = self.row(reader, "generation, shape")? else { return Ok(None) };
        let Some(shape) = reader.value::<Option<String>>(what, &row, 1)? else { return Ok(None) };
        let generation = self.number(what, &row, 0)?;
        let sql = format!(
            "SELECT source, partition, NULL::text, counts::text, epoch FROM {} WHERE pipeline = $1",
            self.tables.positions
        );
        let (mut epoch, mut counts) = (0, BTreeMap::<String, u64>::new());
        for row in reader.rows(&self.what("cannot read the checkpoint"), &sql, &[self.name_param()])? {
            epoch = epoch.max(self.number(what, &row, 4)?);
            for (name, count) in self.stored(what, &row)?.1.counts {
                let sum = counts.entry(name).or_default();
                *sum = sum.saturating_add(count);
            }
        }
        Ok(Some(Checkpoint {
            epoch,
            generation,
            shape,
            stream_time: START,
            positions,
            counts,
            ..Checkpoint::default()
        }))
    }

    pub(super) async fn is_stored_shared(
        &self,
        session: &Session,
        held: &Held,
        attempt: &Attempt<'_>,
        lock: &str,
    ) -> Result<bool, Trouble> {
        let ids = attempt.checkpoint.positions.iter().map(|(id, _)| *id);
        let mine = |id: &PartitionId| held.claimed.as_ref().is_some_and(|claimed| claimed.contains_key(id));
        let (sources, numbers) = columns(ids.filter(mine));
        let sql = format!(
            "SELECT owner = $2 AND mark = $3 FROM {} WHERE pipeline = $1
AND (source, partition) IN (SELECT * FROM UNNEST($4::integer[], $5::bigint[])) ORDER BY source, partition {lock}",
            self.tables.positions
        );
        let params: [Param<'_>; 5] = [
            self.name_param(),
            (&self.owner, Sql::TEXT),
            (&attempt.mark, Sql::TEXT),
            (&sources, Sql::INT4_ARRAY),
            (&numbers, Sql::INT8_ARRAY),
        ];
        let rows = session.query("cannot learn whether the commit took effect", &sql, &params).await?;
        Ok(!rows.is_empty()
            && rows.len() == attempt.checkpoint.positions.len()
            && rows.iter().all(|row| row.try_get(0).unwrap_or(false)))
    }

    /// A partition of a commit that is another process's by now, as an error.
    pub(super) async fn find_lost(
        &self,
        session: &Session,
        attempt: &Attempt<'_>,
    ) -> Result<Option<StoreError>, Trouble> {
        let ids = attempt.checkpoint.positions.iter().map(|(id, _)| *id);
        let (sources, numbers) = columns(ids.clone());
        let sql = format!(
            "SELECT source, partition FROM {} WHERE pipeline = $1 AND owner = $2
AND (source, partition) IN (SELECT * FROM UNNEST($3::integer[], $4::bigint[]))",
            self.tables.positions
        );
        let params: [Param<'_>; 4] = [
            self.name_param(),
            (&self.owner, Sql::TEXT),
            (&sources, Sql::INT4_ARRAY),
            (&numbers, Sql::INT8_ARRAY),
        ];
        let mine = session.query("cannot ask for the owners", &sql, &params).await?;
        let mut ids = ids;
        Ok(ids.find(|id| !is_among(&mine, *id)).map(|id| self.lost(Some(id))))
    }

    pub(super) async fn guard_shared(
        &self,
        session: &Session,
        held: &mut Held,
        attempt: &Attempt<'_>,
    ) -> Result<Option<StoreError>, Trouble> {
        let checkpoint = attempt.checkpoint;
        let what = self.what(&format!("cannot commit epoch {}", checkpoint.epoch));
        if !attempt.delta.changes.is_empty() {
            let cause =
                "a pipeline that several processes share has no state in PostgreSQL: run one process of it";
            return Ok(Some(StoreError::Io { what, cause: cause.into() }));
        }
        let Some((first, _)) = checkpoint.positions.first() else { return Ok(Some(self.lost(None))) };
        // Whoever resets changes this row; whoever commits first writes the shape into it.
        let table = &self.tables.pipelines;
        let lock = if held.shaped { "FOR SHARE" } else { "FOR UPDATE" };
        let sql = format!("SELECT generation, shape FROM {table} WHERE pipeline = $1 {lock}");
        let rows = session.query(&what, &sql, &[self.name_param()]).await?;
        let found = rows.first();
        let generation = found.and_then(|row| row.try_get::<_, i64>(0).ok()).unwrap_or_default();
        if let Err(e) = refuse_stale(
            &self.reader.link.address,
            checkpoint,
            u64::try_from(generation).unwrap_or_default(),
            0,
        ) {
            return Ok(Some(e));
        }
        match found.and_then(|row| row.try_get::<_, Option<String>>(1).ok()).flatten() {
            Some(shape) if shape != checkpoint.shape => {
                let cause = "another process of this pipeline runs other stages: let all run the same, or run `wasmill reset`";
                return Ok(Some(StoreError::Io { what, cause: cause.into() }));
            }
            Some(_) => held.shaped = true,
            None => {
                let sql = format!("UPDATE {table} SET used = 'shared', shape = $2 WHERE pipeline = $1");
                session.execute(&what, &sql, &[self.name_param(), (&checkpoint.shape, Sql::TEXT)]).await?;
            }
        }
        let (mut positions, mut marks, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        for (id, position) in &checkpoint.positions {
            let Some(claimed) = held.claimed.as_ref().and_then(|claimed| claimed.get(id)) else {
                return Ok(Some(self.lost(Some(*id))));
            };
            let json = |e: serde_json::Error| Trouble::Fatal { what: what.clone(), cause: e.to_string() };
            positions.push(serde_json::to_string(position).map_err(json)?);
            marks.push(claimed.mark.as_str());
            // All that this process counts stands with the first one.
            let counted = if id == first { more(held, claimed, checkpoint) } else { claimed.counts.clone() };
            counts.push(serde_json::to_string(&counted).map_err(json)?);
        }
        let (sources, numbers) = columns(checkpoint.positions.iter().map(|(id, _)| *id));
        let sql = format!(
            "UPDATE {} AS p SET position = u.position::json, counts = u.counts::json, mark = $3, epoch = $4
FROM UNNEST($5::integer[], $6::bigint[], $7::text[], $8::text[], $9::text[]) AS u(source, partition, mark, position, counts)
WHERE p.pipeline = $1 AND p.owner = $2 AND p.source = u.source AND p.partition = u.partition AND p.mark = u.mark
RETURNING p.source, p.partition",
            self.tables.positions
        );
        let params: [Param<'_>; 9] = [
            self.name_param(),
            (&self.owner, Sql::TEXT),
            (&attempt.mark, Sql::TEXT),
            (&signed(checkpoint.epoch), Sql::INT8),
            (&sources, Sql::INT4_ARRAY),
            (&numbers, Sql::INT8_ARRAY),
            (&marks, Sql::TEXT_ARRAY),
            (&positions, Sql::TEXT_ARRAY),
            (&counts, Sql::TEXT_ARRAY),
        ];
        let changed = session.query(&what, &sql, &params).await?;
        if changed.len() == checkpoint.positions.len() {
            return Ok(None);
        }
        let mut ids = checkpoint.positions.iter().map(|(id, _)| *id);
        Ok(Some(self.lost(ids.find(|id| !is_among(&changed, *id)))))
    }

    /// Keeps what a commit that is stored has changed.
    pub(super) fn keep(&self, held: &mut Held, attempt: &Attempt<'_>) {
        let checkpoint = attempt.checkpoint;
        let Some((first, _)) = checkpoint.positions.first().filter(|_| self.shared) else { return };
        for (id, position) in &checkpoint.positions {
            let Some(claimed) = held.claimed.as_ref().and_then(|claimed| claimed.get(id)) else { continue };
            let counts = if id == first { more(held, claimed, checkpoint) } else { claimed.counts.clone() };
            let now = Claimed { mark: attempt.mark.clone(), position: Some(position.clone()), counts };
            held.claimed.get_or_insert_default().insert(*id, now);
        }
        held.counted.clone_from(&checkpoint.counts);
    }

    fn lost(&self, id: Option<PartitionId>) -> StoreError {
        let id = id.map_or_else(|| "none".to_owned(), |id| id.to_string());
        StoreError::Fenced {
            what: format!("partition {id} of {}", self.place()),
            cause: "this process has not claimed it, or lost it since".into(),
        }
    }
}

/// Whether rows of source and partition have a partition.
fn is_among(rows: &[tokio_postgres::Row], id: PartitionId) -> bool {
    rows.iter().any(|row| {
        row.try_get::<_, i32>(0).is_ok_and(|source| source == i32::from(id.source))
            && row.try_get::<_, i64>(1).is_ok_and(|number| number == i64::from(id.partition))
    })
}

/// A partition's counts with what this process has counted since its last commit.
fn more(held: &Held, claimed: &Claimed, checkpoint: &Checkpoint) -> BTreeMap<String, u64> {
    let mut counts = claimed.counts.clone();
    for (name, count) in &checkpoint.counts {
        let more = count.saturating_sub(held.counted.get(name).copied().unwrap_or_default());
        if more > 0 {
            let sum = counts.entry(name.clone()).or_default();
            *sum = sum.saturating_add(more);
        }
    }
    counts
}

fn positions(claimed: &BTreeMap<PartitionId, Claimed>) -> Vec<(PartitionId, Position)> {
    claimed.iter().filter_map(|(id, claimed)| Some((*id, claimed.position.clone()?))).collect()
}

/// The position of a partition as it is stored.
pub(super) fn position_of(claimed: Claimed) -> Option<Position> {
    claimed.position
}

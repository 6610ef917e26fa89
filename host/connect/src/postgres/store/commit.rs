//! One commit: the rows are in the transaction already, or are put there again; then the guard, the state, COMMIT.

use tokio_postgres::types::Type as Sql;
use wasmill_engine::state::{Checkpoint, Delta, StoreError};
use xxhash_rust::xxh3::Xxh3;

use super::{Held, PostgresStore, REPLACED, signed};
use crate::postgres::link::{Trouble, block_on};
use crate::postgres::session::Session;
use crate::store::refuse_stale;

/// How many bytes of state one statement takes at most, but for a single entry.
const STATEMENT_BYTES: usize = 16 << 20;

/// What is committed.
pub(super) struct Attempt<'a> {
    pub delta: &'a Delta,
    pub checkpoint: &'a Checkpoint,
    pub facts: Option<&'a [u8]>,
    /// The checkpoint as JSON.
    pub json: String,
    /// The same for the same commit, so that it is known when it is asked for again.
    pub mark: String,
}

/// What came of it, where the server answered.
pub(super) enum Outcome {
    Done,
    Refused(StoreError),
}

impl PostgresStore {
    pub(super) fn commit_with(
        &self,
        delta: &Delta,
        checkpoint: &Checkpoint,
        facts: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        let json = serde_json::to_string(checkpoint).map_err(|e| StoreError::Io {
            what: self.what("cannot write the checkpoint"),
            cause: e.to_string(),
        })?;
        let mark = format!("{:032x}", digest(delta, &json));
        let attempt = Attempt { delta, checkpoint, facts, json, mark };
        let mut held = self.held();
        let outcome = block_on(async {
            let mut session = self.session.lock().await;
            let mut tries = 0;
            loop {
                session.enter();
                let done = self.try_commit(&mut session, &mut held, &attempt).await;
                tries += 1;
                match session.leave(done) {
                    // A connection that broke while nobody used it, or while nothing was decided: once more.
                    Err(Trouble::Away { .. }) if tries == 1 && !held.in_doubt => {}
                    Err(trouble) => {
                        if !matches!(trouble, Trouble::Away { .. }) {
                            session.forget().await;
                        }
                        return Err(trouble);
                    }
                    Ok(Outcome::Done) => {
                        session.committed();
                        held.in_doubt = false;
                        return Ok(Outcome::Done);
                    }
                    Ok(refused) => {
                        // Nothing of the epoch counts any more.
                        session.forget().await;
                        held.in_doubt = false;
                        return Ok(refused);
                    }
                }
            }
        })?;
        match outcome {
            Outcome::Done => {
                self.keep(&mut held, &attempt);
                Ok(())
            }
            Outcome::Refused(e) => Err(e),
        }
    }

    async fn try_commit(
        &self,
        session: &mut Session,
        held: &mut Held,
        attempt: &Attempt<'_>,
    ) -> Result<Outcome, Trouble> {
        if self.shared && attempt.checkpoint.positions.is_empty() && !session.has_rows() {
            return Ok(Outcome::Done);
        }
        session.begin().await?;
        if held.in_doubt {
            // Waits until the transaction that had no answer is over: it has locked these rows.
            if self.is_stored(session, held, attempt, true).await? {
                session.roll_back_now().await?;
                return Ok(Outcome::Done);
            }
            held.in_doubt = false;
        }
        if self.shared && !session.is_filled() {
            // Before rows lock what another process may have to write.
            if let Some(lost) = self.find_lost(session, attempt).await? {
                return Ok(Outcome::Refused(lost));
            }
        }
        session.fill_now().await?;
        let refused = if self.shared {
            self.guard_shared(session, held, attempt).await?
        } else {
            self.guard_alone(session, attempt).await?
        };
        if let Some(refused) = refused {
            // Its own rows may stand there, by a commit that had no answer.
            if self.is_stored(session, held, attempt, false).await? {
                session.roll_back_now().await?;
                return Ok(Outcome::Done);
            }
            return Ok(Outcome::Refused(refused));
        }
        self.put_state(session, attempt.delta).await?;
        let done = session.commit().await;
        // Where the server said no, it is known that nothing was stored.
        held.in_doubt = matches!(done, Err(Trouble::Away { .. }));
        done.map(|()| Outcome::Done)
    }

    /// Whether this very commit is stored; `wait`: once nobody holds the rows that it has to change.
    async fn is_stored(
        &self,
        session: &Session,
        held: &Held,
        attempt: &Attempt<'_>,
        wait: bool,
    ) -> Result<bool, Trouble> {
        let lock = if wait { "FOR UPDATE" } else { "" };
        if self.shared {
            return self.is_stored_shared(session, held, attempt, lock).await;
        }
        let sql = format!("SELECT owner, mark FROM {} WHERE pipeline = $1 {lock}", self.tables.pipelines);
        let rows =
            session.query("cannot learn whether the commit took effect", &sql, &[self.name_param()]).await?;
        let text = |i: usize| rows.first().and_then(|row| row.try_get::<_, String>(i).ok());
        Ok(text(0).as_deref() == Some(&self.owner) && text(1).as_deref() == Some(&attempt.mark))
    }

    async fn guard_alone(
        &self,
        session: &Session,
        attempt: &Attempt<'_>,
    ) -> Result<Option<StoreError>, Trouble> {
        let checkpoint = attempt.checkpoint;
        let what = self.what(&format!("cannot commit epoch {}", checkpoint.epoch));
        let sql = format!(
            "UPDATE {} SET used = 'alone', epoch = $4, mark = $5, shape = $6, checkpoint = $7::text::json,
  foretold_epoch = CASE WHEN $8::bytea IS NOT NULL THEN $4 + 1 WHEN foretold_epoch > $4 THEN foretold_epoch END,
  foretold = CASE WHEN $8 IS NOT NULL THEN $8 WHEN foretold_epoch > $4 THEN foretold END
WHERE pipeline = $1 AND owner = $2 AND generation = $3 AND epoch < $4",
            self.tables.pipelines
        );
        let changed = session
            .execute(
                &what,
                &sql,
                &[
                    self.name_param(),
                    (&self.owner, Sql::TEXT),
                    (&signed(checkpoint.generation), Sql::INT8),
                    (&signed(checkpoint.epoch), Sql::INT8),
                    (&attempt.mark, Sql::TEXT),
                    (&checkpoint.shape, Sql::TEXT),
                    (&attempt.json, Sql::TEXT),
                    (&attempt.facts, Sql::BYTEA),
                ],
            )
            .await?;
        if changed == 1 {
            return Ok(None);
        }
        let sql =
            format!("SELECT owner, generation, epoch FROM {} WHERE pipeline = $1", self.tables.pipelines);
        let rows = session.query(&what, &sql, &[self.name_param()]).await?;
        let Some(row) = rows.first() else { return Ok(Some(self.replaced())) };
        if row.try_get::<_, String>(0).ok().as_deref() != Some(&self.owner) {
            return Ok(Some(self.replaced()));
        }
        let number =
            |i: usize| u64::try_from(row.try_get::<_, i64>(i).unwrap_or_default()).unwrap_or_default();
        let stale = refuse_stale(&self.reader.link.address, checkpoint, number(1), number(2));
        Ok(Some(stale.err().unwrap_or_else(|| self.replaced())))
    }

    async fn put_state(&self, session: &Session, delta: &Delta) -> Result<(), Trouble> {
        let what = self.what("cannot commit state");
        let put = format!(
            "INSERT INTO {} AS s (pipeline, key, value) SELECT $1, k, v FROM UNNEST($2::bytea[], $3::bytea[]) AS t(k, v)
ON CONFLICT (pipeline, key) DO UPDATE SET value = EXCLUDED.value",
            self.tables.state
        );
        let delete = format!("DELETE FROM {} WHERE pipeline = $1 AND key = ANY ($2)", self.tables.state);
        let mut changes = delta.changes.as_slice();
        while !changes.is_empty() {
            let mut bytes = 0;
            let fits = changes.iter().take_while(|change| {
                bytes += change.key.len() + change.value.as_ref().map_or(0, Vec::len);
                bytes <= STATEMENT_BYTES
            });
            let (now, later) = changes.split_at(fits.count().max(1));
            changes = later;
            let (mut keys, mut values, mut gone) =
                (Vec::<&[u8]>::new(), Vec::<&[u8]>::new(), Vec::<&[u8]>::new());
            for change in now {
                match &change.value {
                    Some(value) => {
                        keys.push(&change.key);
                        values.push(value);
                    }
                    None => gone.push(&change.key),
                }
            }
            if !keys.is_empty() {
                let params = [self.name_param(), (&keys, Sql::BYTEA_ARRAY), (&values, Sql::BYTEA_ARRAY)];
                session.execute(&what, &put, &params).await?;
            }
            if !gone.is_empty() {
                session.execute(&what, &delete, &[self.name_param(), (&gone, Sql::BYTEA_ARRAY)]).await?;
            }
        }
        Ok(())
    }

    /// That another process has the pipeline.
    pub(super) fn replaced(&self) -> StoreError {
        StoreError::Fenced { what: self.place(), cause: REPLACED.into() }
    }
}

fn digest(delta: &Delta, json: &str) -> u128 {
    let mut hash = Xxh3::new();
    let mut part = |bytes: Option<&[u8]>| {
        hash.update(&bytes.map_or(u64::MAX, |b| b.len() as u64).to_be_bytes());
        hash.update(bytes.unwrap_or_default());
    };
    part(Some(json.as_bytes()));
    for change in &delta.changes {
        part(Some(&change.key));
        part(change.value.as_deref());
    }
    hash.digest128()
}

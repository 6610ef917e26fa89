//! A pipeline's state and positions in PostgreSQL, committed with the rows of its sinks in one transaction.
//!
//! ```text
//! wasmill.pipelines  a row a pipeline: format, use, generation; alone: owner, the last commit's mark, epoch,
//!                    checkpoint, what is foretold
//! wasmill.positions  shared: a row a partition: owner, the last commit's mark, epoch, position, counts
//! wasmill.state      stored key → value
//! ```
//! A commit changes the owner's row, or of a shared pipeline the rows of its partitions, only where they are as
//! this process left them: whoever was replaced commits nothing. It leaves its own mark there, by which a commit
//! whose answer was lost is known when it is asked for again.

mod commit;
mod reader;
mod schema;
mod shared;
mod view;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_postgres::types::Type as Sql;
use wasmill_engine::position::{PartitionId, Position};
use wasmill_engine::state::{Checkpoint, Delta, Epoch, StateStore, StateView, StoreError, VisitEntry};

use self::reader::{Param, Reader};
use self::schema::Tables;
use self::shared::Claimed;
pub use self::view::PostgresView;
use super::link::block_on;
use super::session::{Owned, Session, mark};
use super::sink::PostgresSink;
use super::spec::{PostgresAddress, PostgresSinkSpec};
use crate::store::SharedPositions;
use crate::{ConnectorError, Sink, random_token};

/// The version of what is in wasmill's own tables.
pub const POSTGRES_FORMAT: u32 = 1;

/// What another owner means.
const REPLACED: &str = "its owner is another one now: run one process of this pipeline, or let them share";

/// How many entries are read at once.
const PAGE_ENTRIES: i64 = 1_000;

/// State and positions in PostgreSQL, in one transaction with the rows of the sinks that it makes.
pub struct PostgresStore {
    at: PostgresAddress,
    pipeline: String,
    shared: bool,
    tables: Tables,
    reader: Reader,
    session: Arc<tokio::sync::Mutex<Session>>,
    /// By which this process is known as owner: random, so that nobody takes another's for its own.
    owner: String,
    held: Mutex<Held>,
}

/// What this process may commit, and from where on.
#[derive(Default)]
struct Held {
    /// Whether a commit was sent whose answer is not known.
    in_doubt: bool,
    /// Shared: the claimed partitions, as they are stored.
    claimed: Option<BTreeMap<PartitionId, Claimed>>,
    /// Shared: the counts that are stored already, of those that the checkpoints of this process tell.
    counted: BTreeMap<String, u64>,
    /// Shared: whether the pipeline's shape is stored.
    shaped: bool,
}

impl PostgresStore {
    /// Opens a pipeline's state for this process alone: whoever had it before commits nothing more.
    ///
    /// # Errors
    /// When PostgreSQL is away, or refuses; when what is stored is of another format or use.
    pub fn open_alone(at: &PostgresAddress, pipeline: &str) -> Result<Self, StoreError> {
        Self::open(at, pipeline, false)
    }

    /// Opens the positions of a pipeline without state, whose partitions several processes share. Nothing can be
    /// committed before [`SharedPositions::claim`].
    ///
    /// # Errors
    /// As of [`PostgresStore::open_alone`].
    pub fn open_shared(at: &PostgresAddress, pipeline: &str) -> Result<Self, StoreError> {
        Self::open(at, pipeline, true)
    }

    /// Resets a pipeline's state, even where it can't be opened for its format or its use. Answers the generation.
    ///
    /// # Errors
    /// When PostgreSQL is away, or refuses.
    pub fn reset_at(at: &PostgresAddress, pipeline: &str) -> Result<u64, StoreError> {
        let store = Self::unopened(at, pipeline, false)?;
        store.tables.make(&store.reader)?;
        store.raise_generation()
    }

    /// A sink that writes into the transactions of this store. Several write into the same one.
    ///
    /// # Errors
    /// What is wrong with the spec; when it is of another database.
    pub fn sink(self: &Arc<Self>, spec: &PostgresSinkSpec) -> Result<Box<dyn Sink>, ConnectorError> {
        spec.check()?;
        let mine =
            PostgresSinkSpec { schema: self.at.schema.clone(), ..PostgresSinkSpec::new(&self.at.url, "t") };
        if !mine.is_same_database(spec) {
            return Err(ConnectorError::Fatal(format!(
                "table `{}` is in {}, and the pipeline is committed in {}: one transaction can't hold both",
                spec.table,
                spec.address().shown(),
                self.at.shown()
            )));
        }
        // Nobody uses the session yet, or only for as long as it takes to send something.
        let number = block_on(async { Ok(self.session.lock().await.join(spec)) })?;
        Ok(Box::new(PostgresSink::of(spec, Arc::clone(&self.session), number)))
    }

    fn unopened(at: &PostgresAddress, pipeline: &str, shared: bool) -> Result<Self, StoreError> {
        let owner = random_token();
        let session = Session::of(at, pipeline, &owner)?;
        Ok(Self {
            at: at.clone(),
            pipeline: pipeline.to_owned(),
            shared,
            tables: Tables::new(&at.schema),
            reader: Reader::new(at, pipeline)?,
            session: Arc::new(tokio::sync::Mutex::new(session)),
            owner,
            held: Mutex::default(),
        })
    }

    fn open(at: &PostgresAddress, pipeline: &str, shared: bool) -> Result<Self, StoreError> {
        let store = Self::unopened(at, pipeline, shared)?;
        let what = store.what("cannot open the state");
        store.tables.make(&store.reader)?;
        store.add_row()?;
        let table = &store.tables.pipelines;
        let sql = format!("SELECT format, used, owner FROM {table} WHERE pipeline = $1");
        let rows = store.reader.rows(&what, &sql, &[store.name_param()])?;
        let Some(row) = rows.first() else { return Err(store.corrupt("its row", "it is gone".into())) };
        let format: i32 = store.reader.value(&what, row, 0)?;
        if u32::try_from(format) != Ok(POSTGRES_FORMAT) {
            let found = format.to_string();
            return Err(StoreError::Format { path: store.place(), found, expected: POSTGRES_FORMAT });
        }
        let used: Option<String> = store.reader.value(&what, row, 1)?;
        if let Some(used) = used.filter(|used| used != store.usage()) {
            let cause = format!(
                "it was written for use {used} and is opened for use {}: let the pipeline be as it was, or run `wasmill reset`",
                store.usage()
            );
            return Err(StoreError::Io { what: format!("cannot open {}", store.place()), cause });
        }
        if !shared {
            // What whoever had it before has open holds locks, perhaps on the very rows that are written again.
            let before: String = store.reader.value(&what, row, 2)?;
            if !before.is_empty() {
                store.reader.end_others(&mark(&before))?;
            }
            let sql = format!("UPDATE {table} SET owner = $2 WHERE pipeline = $1");
            store.reader.rows(&what, &sql, &[store.name_param(), (&store.owner, Sql::TEXT)])?;
            let owned = Owned {
                sql: format!("SELECT owner FROM {table} WHERE pipeline = $1"),
                pipeline: pipeline.to_owned(),
                owner: store.owner.clone(),
                what: store.place(),
                cause: REPLACED.to_owned(),
            };
            block_on(async {
                store.session.lock().await.own(owned);
                Ok(())
            })?;
        }
        Ok(store)
    }

    /// The pipeline's row, if it has none.
    fn add_row(&self) -> Result<(), StoreError> {
        let what = self.what("cannot open the state");
        let format = i32::try_from(POSTGRES_FORMAT).unwrap_or(i32::MAX);
        let sql = format!(
            "INSERT INTO {} (pipeline, format) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            self.tables.pipelines
        );
        self.reader.rows(&what, &sql, &[self.name_param(), (&format, Sql::INT4)]).map(drop)
    }

    fn usage(&self) -> &'static str {
        if self.shared { "shared" } else { "alone" }
    }

    fn name_param(&self) -> Param<'_> {
        (&self.pipeline, Sql::TEXT)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // No holder of the lock can panic between two changes that belong together.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the state is, for errors and logs.
    fn place(&self) -> String {
        format!("the state of pipeline `{}` in {}", self.pipeline, self.reader.link.address)
    }

    fn what(&self, what: &str) -> String {
        format!("{what} of pipeline `{}`", self.pipeline)
    }

    fn corrupt(&self, what: &str, cause: String) -> StoreError {
        StoreError::Corrupt { what: format!("{what} in {}", self.place()), cause }
    }

    fn raise_generation(&self) -> Result<u64, StoreError> {
        self.add_row()?;
        let what = self.what("cannot reset the state");
        let Tables { pipelines, positions, state, .. } = &self.tables;
        // One statement, so it happens whole or not at all.
        let sql = format!(
            "WITH a AS (DELETE FROM {state} WHERE pipeline = $1), b AS (DELETE FROM {positions} WHERE pipeline = $1)
UPDATE {pipelines} SET format = $2, generation = generation + 1, used = NULL, mark = '', epoch = 0, shape = NULL,
  checkpoint = NULL, foretold_epoch = NULL, foretold = NULL WHERE pipeline = $1 RETURNING generation"
        );
        let format = i32::try_from(POSTGRES_FORMAT).unwrap_or(i32::MAX);
        let rows = self.reader.rows(&what, &sql, &[self.name_param(), (&format, Sql::INT4)])?;
        match rows.first() {
            Some(row) => self.number(&what, row, 0),
            None => Err(self.corrupt("its row", "it is gone".into())),
        }
    }

    fn number(&self, what: &str, row: &tokio_postgres::Row, column: usize) -> Result<u64, StoreError> {
        let number: i64 = self.reader.value(what, row, column)?;
        u64::try_from(number).map_err(|_| self.corrupt("a number", format!("it is {number}")))
    }

    /// Columns of the pipeline's row; none where it has no row.
    fn row(&self, reader: &Reader, columns: &str) -> Result<Option<tokio_postgres::Row>, StoreError> {
        let sql = format!("SELECT {columns} FROM {} WHERE pipeline = $1", self.tables.pipelines);
        let rows = reader.rows(&self.what("cannot read the checkpoint"), &sql, &[self.name_param()])?;
        Ok(rows.into_iter().next())
    }

    fn checkpoint_by(&self, reader: &Reader) -> Result<Option<Checkpoint>, StoreError> {
        let Some(row) = self.row(reader, "checkpoint::text")? else { return Ok(None) };
        let json: Option<String> = self.reader.value("the checkpoint", &row, 0)?;
        let Some(json) = json else { return Ok(None) };
        serde_json::from_str(&json).map(Some).map_err(|e| self.corrupt("the checkpoint", e.to_string()))
    }

    fn foretold_by(&self, reader: &Reader) -> Result<Option<(Epoch, Vec<u8>)>, StoreError> {
        let Some(row) = self.row(reader, "foretold_epoch, foretold")? else { return Ok(None) };
        let what = "what was foretold";
        let facts: Option<Vec<u8>> = self.reader.value(what, &row, 1)?;
        facts.map(|facts| Ok((self.number(what, &row, 0)?, facts))).transpose()
    }

    fn get_by(&self, reader: &Reader, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let what = self.what("cannot read the state");
        let sql = format!("SELECT value FROM {} WHERE pipeline = $1 AND key = $2", self.tables.state);
        let rows = reader.rows(&what, &sql, &[self.name_param(), (&key, Sql::BYTEA)])?;
        rows.first().map(|row| reader.value(&what, row, 0)).transpose()
    }

    fn entries_by(
        &self,
        reader: &Reader,
        prefix: &[u8],
        after: Option<&[u8]>,
        visit: &mut VisitEntry<'_>,
    ) -> Result<(), StoreError> {
        let what = self.what("cannot read the state");
        let upper = behind(prefix);
        let (mut from, mut compare) = match after {
            Some(after) if after >= prefix => (after.to_vec(), ">"),
            _ => (prefix.to_vec(), ">="),
        };
        loop {
            let sql = format!(
                "SELECT key, value FROM {} WHERE pipeline = $1 AND key {compare} $2 AND ($3::bytea IS NULL OR key < $3)
ORDER BY key LIMIT $4",
                self.tables.state
            );
            let params: [Param<'_>; 4] =
                [self.name_param(), (&from, Sql::BYTEA), (&upper, Sql::BYTEA), (&PAGE_ENTRIES, Sql::INT8)];
            let rows = reader.rows(&what, &sql, &params)?;
            for row in &rows {
                let (key, value): (&[u8], &[u8]) =
                    (reader.value(&what, row, 0)?, reader.value(&what, row, 1)?);
                if visit(key, value) == ControlFlow::Break(()) {
                    return Ok(());
                }
            }
            match rows.last() {
                Some(row) if i64::try_from(rows.len()) == Ok(PAGE_ENTRIES) => {
                    from = reader.value(&what, row, 0)?
                }
                _ => return Ok(()),
            }
            compare = ">";
        }
    }
}

/// The first key behind all that begin with a prefix; none where there is no such.
fn behind(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut behind = prefix[..=last].to_vec();
    behind[last] += 1;
    Some(behind)
}

/// A number as PostgreSQL has it.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl StateStore for PostgresStore {
    fn name(&self) -> String {
        format!("{} ({})", self.reader.link.address, self.usage())
    }

    fn is_durable(&self) -> bool {
        true
    }

    fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        if self.shared { self.shared_checkpoint() } else { self.checkpoint_by(&self.reader) }
    }

    fn generation(&self) -> Result<u64, StoreError> {
        let row = self.row(&self.reader, "generation")?;
        row.map_or(Ok(0), |row| self.number("the generation", &row, 0))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.get_by(&self.reader, key)
    }

    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let what = self.what("cannot read the state");
        let sql = format!(
            "SELECT s.value FROM UNNEST($2::bytea[]) WITH ORDINALITY AS k(key, nth)
LEFT JOIN {} s ON s.pipeline = $1 AND s.key = k.key ORDER BY k.nth",
            self.tables.state
        );
        let mut values = Vec::with_capacity(keys.len());
        for some in keys.chunks(usize::try_from(PAGE_ENTRIES).unwrap_or(usize::MAX)) {
            let rows = self.reader.rows(&what, &sql, &[self.name_param(), (&some, Sql::BYTEA_ARRAY)])?;
            for row in &rows {
                values.push(self.reader.value(&what, row, 0)?);
            }
        }
        Ok(values)
    }

    fn last_key(&self, prefix: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let what = self.what("cannot read the state");
        let sql = format!(
            "SELECT key FROM {} WHERE pipeline = $1 AND key >= $2 AND ($3::bytea IS NULL OR key < $3)
ORDER BY key DESC LIMIT 1",
            self.tables.state
        );
        let upper = behind(prefix);
        let params: [Param<'_>; 3] = [self.name_param(), (&prefix, Sql::BYTEA), (&upper, Sql::BYTEA)];
        let rows = self.reader.rows(&what, &sql, &params)?;
        rows.first().map(|row| self.reader.value(&what, row, 0)).transpose()
    }

    fn entries(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        visit: &mut VisitEntry<'_>,
    ) -> Result<(), StoreError> {
        self.entries_by(&self.reader, prefix, after, visit)
    }

    fn is_ordered(&self) -> bool {
        true
    }

    fn commit(&self, delta: &Delta, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        self.commit_with(delta, checkpoint, None)
    }

    fn commit_and_foretell(
        &self,
        delta: &Delta,
        checkpoint: &Checkpoint,
        facts: &[u8],
    ) -> Result<(), StoreError> {
        self.commit_with(delta, checkpoint, Some(facts))
    }

    fn foretells_in_commits(&self) -> bool {
        !self.shared
    }

    fn foretell(&self, epoch: Epoch, facts: &[u8]) -> Result<(), StoreError> {
        // A pipeline that is shared has no state, and its outputs depend on nothing but its messages.
        if self.shared {
            return Ok(());
        }
        let what = self.what("cannot store what is foretold");
        let sql = format!(
            "UPDATE {} SET foretold_epoch = $3, foretold = $4 WHERE pipeline = $1 AND owner = $2 RETURNING 1",
            self.tables.pipelines
        );
        let params: [Param<'_>; 4] =
            [self.name_param(), (&self.owner, Sql::TEXT), (&signed(epoch), Sql::INT8), (&facts, Sql::BYTEA)];
        let rows = self.reader.rows(&what, &sql, &params)?;
        if rows.is_empty() { Err(self.replaced()) } else { Ok(()) }
    }

    fn foretold(&self) -> Result<Option<(Epoch, Vec<u8>)>, StoreError> {
        if self.shared { Ok(None) } else { self.foretold_by(&self.reader) }
    }

    fn view(&self) -> Result<Option<Box<dyn StateView>>, StoreError> {
        Ok(Some(Box::new(PostgresView::open(&self.at, &self.pipeline)?)))
    }

    fn reset(&self) -> Result<(), StoreError> {
        let mut held = self.held();
        block_on(async {
            self.session.lock().await.forget().await;
            Ok(())
        })?;
        self.raise_generation()?;
        *held = Held::default();
        Ok(())
    }
}

impl SharedPositions for PostgresStore {
    fn claim(&self, partitions: &[PartitionId]) -> Result<Vec<(PartitionId, Position)>, StoreError> {
        self.claim_partitions(partitions)
    }
}

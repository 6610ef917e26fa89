//! The state for the tools of operators: read without taking it over, as one commit left it.

use tokio_postgres::types::Type as Sql;
use wasmill_engine::state::{Checkpoint, Epoch, StateView, StoreError, VisitEntry};

use super::reader::Reader;
use super::shared::position_of;
use super::{POSTGRES_FORMAT, PostgresStore};
use crate::postgres::spec::PostgresAddress;

/// What was stored when it was opened, by a transaction of its own.
pub struct PostgresView {
    store: PostgresStore,
    reader: Reader,
    generation: u64,
    shared: bool,
}

impl PostgresView {
    /// Looks at a pipeline's state. Whoever runs it goes on.
    ///
    /// # Errors
    /// When PostgreSQL is away, or refuses; when what is stored is of another format.
    pub fn open(at: &PostgresAddress, pipeline: &str) -> Result<Self, StoreError> {
        let store = PostgresStore::unopened(at, pipeline, false)?;
        let what = "cannot look at the state";
        let sql = "SELECT to_regclass($1) IS NOT NULL";
        let mut view = Self { reader: Reader::of_now(at, pipeline)?, store, generation: 0, shared: false };
        let rows = view.reader.rows(what, sql, &[(&view.store.tables.pipelines, Sql::TEXT)])?;
        let made = rows.first().map_or(Ok(false), |row| view.reader.value(what, row, 0))?;
        if !made {
            return Err(StoreError::Io {
                what: format!("cannot look at {}", view.store.place()),
                cause: "no pipeline was run with this database yet".into(),
            });
        }
        if let Some(row) = view.store.row(&view.reader, "format, generation, used")? {
            let format: i32 = view.reader.value(what, &row, 0)?;
            if u32::try_from(format) != Ok(POSTGRES_FORMAT) {
                let (path, found) = (view.store.place(), format.to_string());
                return Err(StoreError::Format { path, found, expected: POSTGRES_FORMAT });
            }
            view.generation = view.store.number(what, &row, 1)?;
            view.shared = view.reader.value::<Option<String>>(what, &row, 2)?.as_deref() == Some("shared");
        }
        Ok(view)
    }

    /// What it calls itself.
    #[must_use]
    pub fn name(&self) -> String {
        self.store.place()
    }
}

impl StateView for PostgresView {
    fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        if !self.shared {
            return self.store.checkpoint_by(&self.reader);
        }
        let what = self.store.what("cannot read the positions");
        let sql = format!(
            "SELECT source, partition, position::text, counts::text FROM {} WHERE pipeline = $1 ORDER BY 1, 2",
            self.store.tables.positions
        );
        let mut positions = Vec::new();
        for row in self.reader.rows(&what, &sql, &[self.store.name_param()])? {
            let (id, stored) = self.store.stored(&what, &row)?;
            positions.extend(position_of(stored).map(|position| (id, position)));
        }
        self.store.shared_by(&self.reader, positions)
    }

    fn generation(&self) -> u64 {
        self.generation
    }

    fn foretold(&self) -> Result<Option<(Epoch, Vec<u8>)>, StoreError> {
        self.store.foretold_by(&self.reader)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get_by(&self.reader, key)
    }

    fn entries(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        visit: &mut VisitEntry<'_>,
    ) -> Result<(), StoreError> {
        self.store.entries_by(&self.reader, prefix, after, visit)
    }
}

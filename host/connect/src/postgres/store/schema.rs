//! wasmill's own tables, made where they are missing.

use tokio_postgres::types::Type as Sql;
use wasmill_engine::state::StoreError;

use super::reader::Reader;
use crate::postgres::link::Trouble;
use crate::postgres::table::quoted;

/// The names of wasmill's own tables, as SQL takes them.
pub(super) struct Tables {
    schema: String,
    pub pipelines: String,
    pub positions: String,
    pub state: String,
}

impl Tables {
    pub fn new(schema: &str) -> Self {
        let table = |name: &str| format!("{}.{name}", quoted(schema));
        Self {
            schema: schema.to_owned(),
            pipelines: table("pipelines"),
            positions: table("positions"),
            state: table("state"),
        }
    }

    /// What makes each, in order, by name.
    fn statements(&self) -> [(&'static str, String); 3] {
        let Self { pipelines, positions, state, .. } = self;
        [
            (
                "pipelines",
                format!(
                    "CREATE TABLE IF NOT EXISTS {pipelines} (
  pipeline text PRIMARY KEY, format integer NOT NULL, used text, generation bigint NOT NULL DEFAULT 0,
  owner text NOT NULL DEFAULT '', mark text NOT NULL DEFAULT '', epoch bigint NOT NULL DEFAULT 0, shape text,
  checkpoint json, foretold_epoch bigint, foretold bytea)"
                ),
            ),
            (
                "positions",
                format!(
                    "CREATE TABLE IF NOT EXISTS {positions} (
  pipeline text, source integer, partition bigint, owner text NOT NULL, mark text NOT NULL DEFAULT '',
  epoch bigint NOT NULL DEFAULT 0, position json, counts json, PRIMARY KEY (pipeline, source, partition))"
                ),
            ),
            (
                "state",
                format!(
                    "CREATE TABLE IF NOT EXISTS {state} (
  pipeline text, key bytea, value bytea NOT NULL, PRIMARY KEY (pipeline, key))"
                ),
            ),
        ]
    }

    /// Makes those that are missing.
    pub fn make(&self, reader: &Reader) -> Result<(), StoreError> {
        let what = "cannot look for wasmill's own tables";
        let sql = "SELECT count(*) FROM pg_tables WHERE schemaname = $1 AND tablename = ANY ($2)";
        let statements = self.statements();
        let names: Vec<&str> = statements.iter().map(|(name, _)| *name).collect();
        let rows = reader.rows(what, sql, &[(&self.schema, Sql::TEXT), (&names, Sql::TEXT_ARRAY)])?;
        let found: i64 = reader.value(what, &rows[0], 0)?;
        if usize::try_from(found) == Ok(names.len()) {
            return Ok(());
        }
        // Two processes that begin at once would both make them.
        let mut sql = "BEGIN; SELECT pg_advisory_xact_lock(hashtext('wasmill'));\n".to_owned();
        let mut to_run = String::new();
        let rows =
            reader.rows(what, "SELECT to_regnamespace($1) IS NULL", &[(&quoted(&self.schema), Sql::TEXT)])?;
        if reader.value(what, &rows[0], 0)? {
            to_run = format!("CREATE SCHEMA IF NOT EXISTS {};\n", quoted(&self.schema));
        }
        for (_, statement) in statements {
            to_run.push_str(&statement);
            to_run.push_str(";\n");
        }
        sql.push_str(&to_run);
        sql.push_str("COMMIT");
        reader.run("cannot make wasmill's own tables", &sql).map_err(|trouble| match trouble {
            Trouble::Fatal { what, cause } if cause.contains("42501") => StoreError::Io {
                what,
                cause: format!(
                    "{cause}. Let somebody who may run this, and GRANT USAGE on the schema and SELECT, INSERT, UPDATE, DELETE on its tables:\n{to_run}"
                ),
            },
            other => other.into(),
        })
    }
}

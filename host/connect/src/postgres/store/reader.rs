//! The connection that reads, beside the one that commits: for a commit may be long.

use tokio::sync::Mutex;
use tokio_postgres::types::{FromSql, ToSql, Type as Sql};
use tokio_postgres::{Client, Row};
use wasmill_engine::state::StoreError;

use crate::postgres::link::{Link, Trouble, block_on};
use crate::postgres::session::end_others;
use crate::postgres::spec::PostgresAddress;

/// A parameter with its type.
pub(super) type Param<'a> = (&'a (dyn ToSql + Sync), Sql);

/// Reads, each time what is committed by then; or, of a snapshot, always the same.
pub(super) struct Reader {
    pub link: Link,
    client: Mutex<Option<Client>>,
    /// Whether its connection holds a snapshot, which no other one has.
    snapshot: bool,
}

impl Reader {
    pub fn new(at: &PostgresAddress, name: &str) -> Result<Self, StoreError> {
        let link = Link::new(at, &format!("wasmill r {name}"))?;
        Ok(Self { link, client: Mutex::new(None), snapshot: false })
    }

    /// A reader of what is committed now, as it stays.
    pub fn of_now(at: &PostgresAddress, name: &str) -> Result<Self, StoreError> {
        let mut reader = Self::new(at, name)?;
        let begin =
            "SET idle_in_transaction_session_timeout = 0; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        reader.run("cannot take a snapshot", begin)?;
        reader.snapshot = true;
        Ok(reader)
    }

    pub fn rows(&self, what: &str, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, StoreError> {
        let asked =
            self.with(async |client: &Client| self.link.answer(what, client.query_typed(sql, params)).await);
        Ok(asked?)
    }

    /// Runs statements without parameters, at once.
    pub fn run(&self, what: &str, sql: &str) -> Result<(), Trouble> {
        self.with(async |client: &Client| self.link.answer(what, client.batch_execute(sql)).await)
    }

    /// Ends the connections that are known by a mark.
    pub fn end_others(&self, mark: &str) -> Result<(), StoreError> {
        Ok(self.with(async |client: &Client| end_others(&self.link, client, mark).await)?)
    }

    /// A column's value.
    pub fn value<'a, T: FromSql<'a>>(
        &self,
        what: &str,
        row: &'a Row,
        column: usize,
    ) -> Result<T, StoreError> {
        row.try_get(column)
            .map_err(|e| StoreError::Corrupt { what: self.link.what(what), cause: e.to_string() })
    }

    fn with<T>(&self, ask: impl AsyncFnOnce(&Client) -> Result<T, Trouble>) -> Result<T, Trouble> {
        block_on(async {
            let mut held = self.client.lock().await;
            let client = match held.take() {
                Some(client) if !client.is_closed() => client,
                _ if self.snapshot => {
                    let what = self.link.what("cannot read on");
                    return Err(Trouble::Away {
                        what,
                        cause: "the connection with its snapshot was lost".into(),
                    });
                }
                _ => self.link.connect().await?,
            };
            let done = ask(&client).await;
            if done.is_ok() {
                *held = Some(client);
            }
            done
        })
    }
}

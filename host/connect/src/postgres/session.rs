//! The transaction of an epoch: begun, filled, halved around rows that the server refuses, done again when it was
//! lost.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;

use futures_util::future::join;
use tokio_postgres::types::{ToSql, Type as Sql};
use tokio_postgres::{Client, Error, Row, Statement};
use wasmill_engine::output::EncodedBatch;

use super::link::{Link, Trouble};
use super::load::{Load, copy, halves, restored};
use super::shown;
use super::spec::{PostgresAddress, PostgresSinkSpec};
use super::table::{FINGERPRINT, Target};
use crate::{Refused, random_token};

/// A sink that writes through the session.
struct Writer {
    spec: PostgresSinkSpec,
    target: Option<Arc<Target>>,
    /// How the open connection takes its rows.
    copy: Option<Statement>,
    /// Whether the open transaction has seen that the table is what it was, and has locked it as such.
    checked: bool,
    /// Whether its temporary table holds rows of the open transaction.
    staged: bool,
    /// How many rows it has written since its last flush.
    unflushed: usize,
    refused: Vec<Refused>,
}

/// Whose the pipeline must be for rows to be written at all: whoever was replaced would hold locks for nothing.
pub(super) struct Owned {
    /// Asks for the owner, of the pipeline.
    pub sql: String,
    pub pipeline: String,
    pub owner: String,
    /// What another owner means.
    pub what: String,
    pub cause: String,
}

/// The connection that commits, and what it is to commit.
pub(super) struct Session {
    pub link: Link,
    /// By which its own connections are known among all.
    mark: String,
    writers: Vec<Writer>,
    client: Option<Client>,
    /// Whether a transaction is open.
    open: bool,
    loads: Vec<Load>,
    /// A call is under way; where one was dropped in its middle, nothing is known of the connection.
    busy: bool,
    /// Whether what it commits must outlive a crash of the server.
    exact: bool,
    /// The id of a transaction whose commit had no answer.
    in_doubt: Option<String>,
    /// Looked at with each new connection.
    owned: Option<Owned>,
}

impl Session {
    /// A session; connects to nothing.
    pub fn new(at: &PostgresAddress, name: &str) -> Result<Self, Trouble> {
        Self::of(at, name, &random_token())
    }

    /// A session whose connections are known by a token.
    pub fn of(at: &PostgresAddress, name: &str, token: &str) -> Result<Self, Trouble> {
        let mark = mark(token);
        Ok(Self {
            link: Link::new(at, &format!("{mark}{name}"))?,
            mark,
            writers: Vec::new(),
            client: None,
            open: false,
            loads: Vec::new(),
            busy: false,
            exact: false,
            in_doubt: None,
            owned: None,
        })
    }

    /// From now on rows are for this owner.
    pub fn own(&mut self, owned: Owned) {
        self.owned = Some(owned);
    }

    /// Takes a sink in; answers its number.
    pub fn join(&mut self, spec: &PostgresSinkSpec) -> usize {
        self.writers.push(Writer {
            spec: spec.clone(),
            target: None,
            copy: None,
            checked: false,
            staged: false,
            unflushed: 0,
            refused: Vec::new(),
        });
        self.writers.len() - 1
    }

    /// Forgets what is not committed, and looks at a sink's table anew.
    pub async fn recover(&mut self, sink: usize, exact: bool) -> Result<Arc<Target>, Trouble> {
        self.exact |= exact;
        self.forget().await;
        let client = self.connected().await?;
        if self.exact {
            self.must_last(&client).await?;
        }
        let target = Target::look(&self.link, &client, &self.writers[sink].spec, sink).await;
        self.client = Some(client);
        let target = Arc::new(target?);
        // Its statements are made for the table as it is now.
        self.disconnect();
        self.writers[sink].target = Some(Arc::clone(&target));
        Ok(target)
    }

    /// Refuses a server that may lose what it has said to be committed.
    async fn must_last(&self, client: &Client) -> Result<(), Trouble> {
        let asked =
            client.query_typed("SELECT current_setting('synchronous_commit'), current_setting('fsync')", &[]);
        let rows = self.link.answer("cannot ask for the settings", asked).await?;
        let Some(row) = rows.first() else { return Ok(()) };
        for (i, setting) in ["synchronous_commit", "fsync"].into_iter().enumerate() {
            if row.try_get::<_, String>(i).is_ok_and(|value| value == "off") {
                let cause = format!(
                    "its setting {setting} is off, so a crash of the server can lose what it said was committed: set {setting} = on in postgresql.conf{}, or set `delivery: at_least_once`",
                    if i == 0 { " or for the user (ALTER ROLE … SET synchronous_commit = on)" } else { "" }
                );
                return Err(Trouble::Fatal {
                    what: self.link.what("the pipeline must be exactly once"),
                    cause,
                });
            }
        }
        Ok(())
    }

    /// Keeps rows until they are committed. Nothing is sent yet, so nothing can fail.
    pub fn keep(&mut self, sink: usize, batch: &EncodedBatch) {
        let first = self.writers[sink].unflushed;
        self.writers[sink].unflushed += batch.records.len();
        self.loads.extend(Load::all(sink, first, batch));
    }

    /// Brings everything that is kept into the transaction, begun if it isn't.
    pub async fn fill(&mut self) -> Result<(), Trouble> {
        if self.is_filled() && (self.open || self.loads.is_empty()) && !self.is_broken() {
            return Ok(());
        }
        self.enter();
        let done = self.fill_now().await;
        self.leave(done)
    }

    /// As `fill`, between `enter` and `leave`.
    pub async fn fill_now(&mut self) -> Result<(), Trouble> {
        self.begin().await?;
        for load in 0..self.loads.len() {
            if !self.loads[load].sent {
                self.put(load).await?;
            }
        }
        Ok(())
    }

    /// Answers what is refused of what a sink wrote since the last time, and counts it as told.
    pub fn told(&mut self, sink: usize) -> Vec<Refused> {
        self.loads.iter_mut().filter(|load| load.sink == sink).for_each(|load| load.told = true);
        let writer = &mut self.writers[sink];
        writer.unflushed = 0;
        let mut refused = std::mem::take(&mut writer.refused);
        refused.sort_by_key(|refused| refused.nth);
        refused
    }

    /// Commits what is kept, where nobody else does. After `Away` it may have taken effect all the same; asked again,
    /// it is known.
    pub async fn commit_alone(&mut self) -> Result<(), Trouble> {
        if let Some(id) = self.in_doubt.take()
            && let Err(e) = self.learn(&id).await
        {
            self.in_doubt = Some(id);
            return Err(e);
        }
        self.fill().await?;
        if self.open {
            self.enter();
            let done = self.commit_now().await;
            self.leave(done)?;
        }
        self.committed();
        Ok(())
    }

    async fn commit_now(&mut self) -> Result<(), Trouble> {
        let rows = self
            .query("cannot ask for the transaction's id", "SELECT pg_current_xact_id()::text", &[])
            .await?;
        self.in_doubt = rows.first().and_then(|row| row.try_get(0).ok());
        self.commit().await?;
        self.in_doubt = None;
        Ok(())
    }

    /// Learns what became of a transaction whose commit had no answer.
    async fn learn(&mut self, id: &str) -> Result<(), Trouble> {
        let what = "cannot learn whether the transaction before was committed";
        self.disconnect();
        let client = self.connected().await?;
        let params: [(&(dyn ToSql + Sync), Sql); 1] = [(&id, Sql::TEXT)];
        let asked = client.query_typed("SELECT pg_xact_status($1::text::xid8)", &params);
        let rows = self.link.answer(what, asked).await?;
        self.client = Some(client);
        let status: Option<String> = rows.first().and_then(|row| row.try_get(0).ok());
        match status.as_deref() {
            Some("committed") => self.committed(),
            Some("in progress") => {
                return Err(Trouble::Away { what: self.link.what(what), cause: "it is not over yet".into() });
            }
            _ => {}
        }
        Ok(())
    }

    /// Sends COMMIT. After `Away` it may have taken effect all the same.
    pub async fn commit(&self) -> Result<(), Trouble> {
        self.run("cannot commit", "COMMIT").await.map_err(|e| match e {
            // Of the rows together, when it is too late to tell which.
            Trouble::Refused { cause } => Trouble::Fatal {
                what: self.link.what("cannot commit"),
                cause: format!(
                    "{cause}. The constraint is deferred, so it showed at the commit, when no row can be told from another: make it NOT DEFERRABLE, or INITIALLY IMMEDIATE"
                ),
            },
            other => other,
        })
    }

    /// What was kept is committed.
    pub fn committed(&mut self) {
        self.loads.clear();
        self.ended();
    }

    /// Gives up the open transaction; what is kept is to be put into another one.
    pub async fn roll_back(&mut self) {
        if self.open && !self.is_broken() {
            self.enter();
            let done = self.run("cannot roll back", "ROLLBACK").await;
            // A connection that is lost has rolled back.
            let _ = self.leave(done);
        }
        if self.is_broken() {
            self.disconnect();
        }
        self.ended();
    }

    /// As `roll_back`, between `enter` and `leave`.
    pub async fn roll_back_now(&mut self) -> Result<(), Trouble> {
        self.run("cannot roll back", "ROLLBACK").await?;
        self.ended();
        Ok(())
    }

    /// Whether all rows that it keeps are in the open transaction.
    pub fn is_filled(&self) -> bool {
        self.loads.iter().all(|load| load.sent)
    }

    /// Whether it keeps rows that are not committed.
    pub fn has_rows(&self) -> bool {
        !self.loads.is_empty()
    }

    /// Gives up everything that is not committed.
    pub async fn forget(&mut self) {
        self.roll_back().await;
        self.loads.clear();
        self.in_doubt = None;
        for writer in &mut self.writers {
            writer.unflushed = 0;
            writer.refused.clear();
        }
    }

    /// A statement in the open transaction.
    pub async fn execute(
        &self,
        what: &str,
        sql: &str,
        params: &[(&(dyn ToSql + Sync), Sql)],
    ) -> Result<u64, Trouble> {
        self.link.answer(what, self.client()?.execute_typed(sql, params)).await
    }

    /// Rows, in the open transaction.
    pub async fn query(
        &self,
        what: &str,
        sql: &str,
        params: &[(&(dyn ToSql + Sync), Sql)],
    ) -> Result<Vec<Row>, Trouble> {
        self.link.answer(what, self.client()?.query_typed(sql, params)).await
    }

    /// The connection is about to be used: should that be dropped in its middle, nothing is known of it.
    pub fn enter(&mut self) {
        if self.is_broken() {
            self.disconnect();
        }
        self.busy = true;
    }

    /// It has been used: where that failed, it goes.
    pub fn leave<T>(&mut self, done: Result<T, Trouble>) -> Result<T, Trouble> {
        self.busy = false;
        if done.is_err() {
            self.disconnect();
        }
        done
    }

    /// Begins a transaction, if none is open.
    pub async fn begin(&mut self) -> Result<(), Trouble> {
        if self.open && self.client.is_some() {
            return Ok(());
        }
        let is_new = self.client.is_none();
        let client = self.connected().await?;
        self.client = Some(client);
        if let Some(owned) = self.owned.as_ref().filter(|_| is_new) {
            let rows =
                self.query("cannot ask for the owner", &owned.sql, &[(&owned.pipeline, Sql::TEXT)]).await?;
            let owner = rows.first().and_then(|row| row.try_get::<_, String>(0).ok());
            if owner.as_ref() != Some(&owned.owner) {
                return Err(Trouble::Outdated { what: owned.what.clone(), cause: owned.cause.clone() });
            }
        }
        for sink in 0..self.writers.len() {
            if self.writers[sink].copy.is_none()
                && let Some(target) = self.writers[sink].target.clone()
            {
                if let Some(staging) = &target.staging {
                    self.run("cannot make a temporary table", &staging.create).await?;
                }
                let prepared = self.client()?.prepare(&target.copy);
                let prepared = self.link.answer("cannot prepare", prepared).await?;
                self.writers[sink].copy = Some(prepared);
            }
        }
        self.run("cannot begin a transaction", "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await?;
        self.open = true;
        Ok(())
    }

    fn client(&self) -> Result<&Client, Trouble> {
        self.client.as_ref().ok_or_else(|| Trouble::Away {
            what: self.link.what("cannot go on with the transaction"),
            cause: "the connection was lost".into(),
        })
    }

    async fn run(&self, what: &str, sql: &str) -> Result<(), Trouble> {
        self.link.answer(what, self.client()?.batch_execute(sql)).await
    }

    /// The open connection, or a new one, once no other of this session's is left: it may hold locks, or be about
    /// to commit.
    async fn connected(&mut self) -> Result<Client, Trouble> {
        match self.client.take() {
            Some(client) if !client.is_closed() => return Ok(client),
            _ => {}
        }
        let client = self.link.connect().await?;
        end_others(&self.link, &client, &self.mark).await?;
        Ok(client)
    }

    fn is_broken(&self) -> bool {
        self.busy || self.client.as_ref().is_some_and(Client::is_closed)
    }

    /// Lets the connection go, and with it what was in its transaction.
    pub fn disconnect(&mut self) {
        self.client = None;
        self.busy = false;
        self.writers.iter_mut().for_each(|writer| writer.copy = None);
        self.ended();
    }

    fn ended(&mut self) {
        self.open = false;
        self.loads.iter_mut().for_each(|load| load.sent = false);
        for writer in &mut self.writers {
            (writer.checked, writer.staged) = (false, false);
        }
    }

    /// Makes sure that a table has the types that its rows are written for, and keeps it so: an integer's bytes
    /// would be taken for a float's.
    async fn check(&mut self, sink: usize) -> Result<Arc<Target>, Trouble> {
        let writer = &self.writers[sink];
        let name = &writer.spec.table;
        let Some(target) = writer.target.clone() else {
            let what = self.link.what(&format!("table `{name}`"));
            return Err(Trouble::Fatal { what, cause: "written to before it was recovered".into() });
        };
        if !writer.checked {
            let what = format!("cannot lock table `{name}` against changes");
            let lock = format!("LOCK TABLE ONLY {} IN ROW EXCLUSIVE MODE", target.table);
            let client = self.client()?;
            let params: [(&(dyn ToSql + Sync), Sql); 1] = [(&target.oid, Sql::OID)];
            let (locked, found) = both(
                &self.link,
                &what,
                client.batch_execute(&lock),
                client.query_typed(FINGERPRINT, &params),
            )
            .await;
            locked?;
            let same = found?
                .first()
                .is_some_and(|row| row.try_get::<_, String>(0).is_ok_and(|f| f == target.fingerprint));
            if !same {
                let what = self.link.what(&format!("table `{name}`"));
                return Err(Trouble::Outdated { what, cause: "its columns were changed".into() });
            }
            self.writers[sink].checked = true;
        }
        Ok(target)
    }

    /// Puts a load's rows into the transaction, without those that the server refuses.
    async fn put(&mut self, number: usize) -> Result<(), Trouble> {
        let sink = self.loads[number].sink;
        let target = self.check(sink).await?;
        let mut todo = vec![std::mem::take(&mut self.loads[number].good)];
        let (mut good, mut refused) = (Vec::new(), Vec::new());
        while let Some(part) = todo.pop() {
            let count: usize = part.iter().map(ExactSizeIterator::len).sum();
            if count == 0 {
                continue;
            }
            let tried = match self.try_part(sink, &target, number, &part).await {
                Err(Trouble::Refused { cause }) => self.take_back(sink).await.map(|()| Some(cause)),
                tried => tried.map(|()| None),
            };
            match tried {
                Ok(None) => good.extend(part),
                Ok(Some(_)) if count > 1 => {
                    let (one, two) = halves(part, count / 2);
                    todo.extend([two, one]);
                }
                Ok(Some(cause)) => refused.push((part[0].start, cause)),
                Err(e) => {
                    todo.push(part);
                    let refused = refused.into_iter().map(|(row, _)| row..row + 1);
                    self.loads[number].good = restored(good, refused, todo);
                    return Err(e);
                }
            }
        }
        let load = &mut self.loads[number];
        if load.told && !refused.is_empty() {
            let cause = refused.into_iter().map(|(_, cause)| cause).next().unwrap_or_default();
            let what =
                self.link.what(&format!("the place of a row in table `{}`", self.writers[sink].spec.table));
            let cause = format!("it is refused, and was not before the connection was lost: {cause}");
            return Err(Trouble::Outdated { what, cause });
        }
        for (row, cause) in refused {
            let bytes = &load.rows[load.bounds[row]..load.bounds[row + 1]];
            let value = shown::row(bytes, &target.columns);
            let reason = format!("table `{}`: {cause}", self.writers[sink].spec.table);
            self.writers[sink].refused.push(Refused {
                nth: load.first + row,
                value,
                key: None,
                reason,
                attempts: 1,
            });
        }
        (load.good, load.sent) = (good, true);
        Ok(())
    }

    /// Goes back to before the rows that were tried last.
    async fn take_back(&mut self, sink: usize) -> Result<(), Trouble> {
        // Its temporary table may be as it was before, with rows of before.
        let writer = &mut self.writers[sink];
        writer.staged = writer.target.as_ref().is_some_and(|target| target.staging.is_some());
        let back = "ROLLBACK TO SAVEPOINT wasmill; RELEASE SAVEPOINT wasmill";
        self.run("cannot take a refused row back", back).await
    }

    /// Tries to put some rows in, behind a savepoint.
    async fn try_part(
        &mut self,
        sink: usize,
        target: &Target,
        load: usize,
        part: &[Range<usize>],
    ) -> Result<(), Trouble> {
        let what = format!("cannot write to table `{}`", self.writers[sink].spec.table);
        let mut before = "SAVEPOINT wasmill".to_owned();
        if let Some(staging) = target.staging.as_ref().filter(|_| self.writers[sink].staged) {
            before = format!("{before}; {}", staging.clear);
        }
        let client = self.client()?;
        let statement = self.writers[sink].copy.as_ref().ok_or_else(|| Trouble::Away {
            what: self.link.what(&what),
            cause: "the connection was lost".into(),
        })?;
        let copied = copy(client, statement, &self.loads[load], part);
        let (begun, copied) = both(&self.link, &what, client.batch_execute(&before), copied).await;
        begun?;
        copied?;
        if let Some(staging) = &target.staging {
            self.writers[sink].staged = true;
            self.run(&what, &staging.merge).await?;
        }
        self.run(&what, "RELEASE SAVEPOINT wasmill").await
    }
}

/// Waits for two answers that are asked for at once.
async fn both<A, B>(
    link: &Link,
    what: &str,
    one: impl Future<Output = Result<A, Error>>,
    two: impl Future<Output = Result<B, Error>>,
) -> (Result<A, Trouble>, Result<B, Trouble>) {
    join(link.answer(what, one), link.answer(what, two)).await
}

/// By which the connections of a token are known: half of it, for names of connections are short.
pub(super) fn mark(token: &str) -> String {
    format!("wasmill w:{} ", token.get(..16).unwrap_or(token))
}

/// Ends all other connections that are known by a mark.
pub(super) async fn end_others(link: &Link, client: &Client, mark: &str) -> Result<(), Trouble> {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE starts_with(application_name, $1) AND usename = current_user AND pid <> pg_backend_pid()";
    let params: [(&(dyn ToSql + Sync), Sql); 1] = [(&mark, Sql::TEXT)];
    let asked = client.query_typed(sql, &params);
    link.answer("cannot end connections that were lost", asked).await.map(drop)
}

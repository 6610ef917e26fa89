//! Whether a server keeps what it answered, and nothing else, when it is killed.
//!
//! A script's changes are one transaction in the server's append-only file. A server that is killed while it
//! writes that leaves a part of it. Redis (seen with 7.0.15) and Valkey (before its pull request 4342) then cut off
//! the command that is not whole, but not the transaction: it doesn't count when the server starts, but it does
//! when the server starts for the second time, for the next transaction's end is then taken for its own. Outputs
//! that were written again meanwhile would be there twice, and state would be ahead of its positions. So the file is
//! rewritten after each start of the server, before anything is written that must be exact: what is in memory then
//! is right.

use std::time::{Duration, Instant};

use redis::{Connection, ErrorKind, RedisError, RedisResult};
use wasmill_engine::state::StoreError;

use crate::redis_link::SharedLink;

/// How long one call waits for a rewrite, and how often it looks.
const REWRITE_WAIT_MAX: Duration = Duration::from_secs(4);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Makes sure that a server is fit for what must be exact.
#[derive(Debug)]
pub(crate) struct Durable {
    address: String,
    /// The key that has the start of the server behind which its file was rewritten.
    marker: String,
    is_settled: bool,
    /// The start behind which a rewrite was asked for.
    rewriting: Option<String>,
}

fn is_forbidden(e: &RedisError) -> bool {
    e.kind() == ErrorKind::Server(redis::ServerErrorKind::NoPerm) || e.to_string().contains("unknown command")
}

impl Durable {
    pub fn new(address: String, marker: String) -> Self {
        Self { address, marker, is_settled: false, rewriting: None }
    }

    /// Makes sure that a server syncs each write before it answers. A server that doesn't tell its settings is
    /// warned of.
    pub fn check(&self, link: &SharedLink) -> Result<(), StoreError> {
        let ask = |c: &mut Connection| -> RedisResult<Option<[String; 2]>> {
            let mut found = [String::new(), String::new()];
            for (name, value) in ["appendonly", "appendfsync"].into_iter().zip(&mut found) {
                match redis::cmd("CONFIG").arg("GET").arg(name).query::<Vec<String>>(c) {
                    Ok(answer) => *value = answer.into_iter().nth(1).unwrap_or_default(),
                    Err(e) if is_forbidden(&e) => return Ok(None),
                    Err(e) => return Err(e),
                }
            }
            Ok(Some(found))
        };
        match link.call("cannot ask for the settings", ask)? {
            None => {
                tracing::warn!(
                    redis = %self.address,
                    "this Redis doesn't tell its settings: outputs are exactly once only if it has `appendonly yes` and `appendfsync always`"
                );
                Ok(())
            }
            Some([only, fsync]) if only == "yes" && fsync == "always" => Ok(()),
            Some([only, fsync]) => Err(StoreError::Io {
                what: format!("{} may forget what it has answered", self.address),
                cause: format!(
                    "it has `appendonly {only}` and `appendfsync {fsync}`, and the pipeline must be exactly once: set `appendonly yes` and `appendfsync always` in its configuration (at once: CONFIG SET appendonly yes, CONFIG SET appendfsync always), or let the pipeline be `delivery: at_least_once`"
                ),
            }),
        }
    }

    /// The connection broke: the server may be another one behind a start.
    pub fn unsettle(&mut self) {
        self.is_settled = false;
    }

    /// Has the server's file rewritten, once behind each start of it. Away while that lasts.
    pub fn settle(&mut self, link: &SharedLink) -> Result<(), StoreError> {
        if self.is_settled {
            return Ok(());
        }
        let what = "cannot rewrite the append-only file after a start";
        let asked = link.call(what, |c| {
            let run = field(c, "server", "run_id")?;
            let marked: Option<String> = redis::cmd("GET").arg(&self.marker).query(c)?;
            if marked.as_deref() == Some(&run) || field(c, "persistence", "aof_enabled")? == "0" {
                return Ok(None);
            }
            if self.rewriting.as_deref() != Some(&run) {
                match redis::cmd("BGREWRITEAOF").exec(c) {
                    // Whoever asked for it asked this run.
                    Err(e) if !e.to_string().contains("already in progress") => return Err(e),
                    _ => {}
                }
            }
            Ok(Some(run))
        });
        let run = match asked {
            Ok(None) => {
                self.is_settled = true;
                return Ok(());
            }
            Ok(Some(run)) => run,
            Err(StoreError::Io { cause, .. })
                if cause.contains("NOPERM") || cause.contains("unknown command") =>
            {
                tracing::warn!(
                    redis = %self.address,
                    "the user may not use GET, SET, INFO and BGREWRITEAOF: where this Redis was killed in the middle of a write, a part of that write may come up again after it was started twice; allow them, or have its file rewritten after each start"
                );
                self.is_settled = true;
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        self.rewriting = Some(run.clone());
        let since = Instant::now();
        loop {
            let state = link.call(what, |c| {
                let names = ["aof_rewrite_in_progress", "aof_rewrite_scheduled", "aof_last_bgrewrite_status"];
                Ok([
                    field(c, "persistence", names[0])?,
                    field(c, "persistence", names[1])?,
                    field(c, "persistence", names[2])?,
                ])
            })?;
            match state.each_ref().map(String::as_str) {
                ["0", "0", "ok"] => break,
                ["0", "0", status] => {
                    self.rewriting = None;
                    let cause =
                        format!("its rewrite ended with `{status}`: see the server's log; it is tried again");
                    return Err(StoreError::Away { what: format!("{what} ({})", self.address), cause });
                }
                _ if since.elapsed() > REWRITE_WAIT_MAX => {
                    let cause = "it is being rewritten; nothing is written before that ends".to_owned();
                    return Err(StoreError::Away { what: format!("{what} ({})", self.address), cause });
                }
                _ => std::thread::sleep(LOOK_EVERY),
            }
        }
        link.call(what, |c| redis::cmd("SET").arg(&self.marker).arg(&run).exec(c))?;
        self.is_settled = true;
        Ok(())
    }
}

/// A field of INFO.
fn field(c: &mut Connection, section: &str, name: &str) -> RedisResult<String> {
    let info: String = redis::cmd("INFO").arg(section).query(c)?;
    let found = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(found.unwrap_or_default().trim().to_owned())
}

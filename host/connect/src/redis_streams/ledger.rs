//! What the processes of a pipeline agree on: a stream of its own beside the one that they read, and a hash of files.

use async_trait::async_trait;
use redis::{Connection, RedisResult};

use super::beside;
use super::spec::RedisSourceSpec;
use crate::redis_link::SharedLink;
use crate::{ConnectorError, Ledger, Notes};

/// The field of an entry that has the note.
const FIELD: &str = "note";

/// A ledger in Redis.
pub(super) struct RedisLedger {
    link: SharedLink,
    key: String,
    /// The id of the last note that was read.
    last: Option<String>,
}

impl RedisLedger {
    pub fn new(spec: &RedisSourceSpec, pipeline: &str) -> Result<Self, ConnectorError> {
        let key = beside(&spec.stream, &format!("agreed:{pipeline}"));
        Ok(Self { link: spec.link()?, key, last: None })
    }

    fn files(&self) -> String {
        format!("{}:files", self.key)
    }
}

/// Entries of a stream: their ids, with what their fields hold.
type Entries = Vec<(String, Vec<(String, Vec<u8>)>)>;

#[async_trait]
impl Ledger for RedisLedger {
    async fn read(&mut self) -> Result<Notes, ConnectorError> {
        let (key, last) = (self.key.clone(), self.last.clone());
        // The last one that was read comes first, if it is still there.
        let read = move |c: &mut Connection| -> RedisResult<(bool, Entries)> {
            let from = |id: &str, c: &mut Connection| -> RedisResult<Entries> {
                redis::cmd("XRANGE").arg(&key).arg(id).arg("+").query(c)
            };
            let Some(last) = last else { return Ok((false, from("-", c)?)) };
            let mut entries = from(&last, c)?;
            match entries.first() {
                Some((id, _)) if *id == last => {
                    entries.remove(0);
                    Ok((false, entries))
                }
                _ => Ok((true, from("-", c)?)),
            }
        };
        let (is_anew, entries) =
            self.link.ask("cannot read what the pipeline's processes agree on", read).await?;
        if is_anew {
            self.last = None;
        }
        let mut notes = Vec::new();
        for (id, fields) in entries {
            self.last = Some(id);
            notes.extend(fields.into_iter().filter(|(field, _)| field == FIELD).map(|(_, note)| note));
        }
        Ok(Notes { is_anew, notes })
    }

    async fn add(&mut self, note: &[u8]) -> Result<(), ConnectorError> {
        let (key, note) = (self.key.clone(), note.to_vec());
        let add = move |c: &mut Connection| redis::cmd("XADD").arg(key).arg("*").arg(FIELD).arg(note).exec(c);
        self.link.ask("cannot tell the pipeline's other processes", add).await
    }

    async fn keep(&mut self, name: &str, bytes: &[u8]) -> Result<(), ConnectorError> {
        let (files, name, bytes) = (self.files(), name.to_owned(), bytes.to_vec());
        let keep = move |c: &mut Connection| redis::cmd("HSET").arg(files).arg(name).arg(bytes).exec(c);
        self.link.ask("cannot keep a file for the pipeline's other processes", keep).await
    }

    async fn fetch(&mut self, name: &str) -> Result<Option<Vec<u8>>, ConnectorError> {
        let (files, name) = (self.files(), name.to_owned());
        let get = move |c: &mut Connection| redis::cmd("HGET").arg(files).arg(name).query(c);
        self.link.ask("cannot get a file from the pipeline's other processes", get).await
    }

    async fn forget(&mut self, names: &[String]) -> Result<(), ConnectorError> {
        if names.is_empty() {
            return Ok(());
        }
        let (files, names) = (self.files(), names.to_vec());
        let forget = move |c: &mut Connection| redis::cmd("HDEL").arg(files).arg(names).exec(c);
        self.link.ask("cannot forget a file of the pipeline's processes", forget).await
    }

    async fn reset(&mut self) -> Result<(), ConnectorError> {
        let keys = [self.key.clone(), self.files()];
        let reset = move |c: &mut Connection| redis::cmd("DEL").arg(&keys).exec(c);
        self.link.ask("cannot forget what the pipeline's processes agree on", reset).await
    }
}

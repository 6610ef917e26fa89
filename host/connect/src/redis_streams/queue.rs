//! Queue mode: entries as the consumer group gives them out.

use std::time::{Duration, Instant};

use redis::{Cmd, Connection, Script, Value};

use super::acks::RedisAcks;
use super::entry::{Entry, EntryId, Raw, array, entries, id, of_stream};
use super::feed::{BLOCK, Fetch};
use super::{beside, info};
use crate::ConnectorError;
use crate::redis_link::{SharedLink, told};

/// How often the group is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How many ids an error shows.
const SHOWN: usize = 10;

/// Asks the group for entries: first what this process had before, then what nobody had, and at times what others
/// have had for too long.
pub(super) struct QueueFetch {
    pub link: SharedLink,
    pub acks: RedisAcks,
    pub consumer: String,
    pub field: String,
    pub claim_idle: Duration,
    /// Where to go on with this process's own pending entries; none when these are through.
    own: Option<EntryId>,
    /// Where to go on with the entries of others, of a round that has begun.
    claiming: Option<String>,
    claimed_at: Instant,
    looked_at: Option<Instant>,
}

impl QueueFetch {
    pub fn new(
        link: SharedLink,
        acks: RedisAcks,
        consumer: String,
        field: String,
        claim_idle: Duration,
    ) -> Self {
        Self {
            link,
            acks,
            consumer,
            field,
            claim_idle,
            own: Some(EntryId::default()),
            // Whoever died before this process began has been idle since.
            claiming: Some("0-0".to_owned()),
            claimed_at: Instant::now(),
            looked_at: None,
        }
    }

    fn call<T>(
        &self,
        what: &str,
        call: impl FnOnce(&mut Connection) -> redis::RedisResult<T>,
    ) -> Result<T, ConnectorError> {
        self.link.call(&format!("{what} of stream {}", self.acks.stream()), call).map_err(told)
    }

    fn read_group(&self, entries_max: usize) -> Cmd {
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(self.acks.group()).arg(&self.consumer).arg("COUNT").arg(entries_max);
        command
    }

    /// What this process had in hand when it ended, or when its connection broke.
    fn own(&mut self, after: EntryId, entries_max: usize) -> Result<Vec<Raw>, ConnectorError> {
        let mut command = self.read_group(entries_max);
        command.arg("STREAMS").arg(self.acks.stream()).arg(after);
        let found = self.call("cannot read the pending entries", |c| of_stream(command.query(c)?))?;
        self.own = found.last().map(|entry| entry.id);
        self.take(found)
    }

    fn new_ones(&mut self, entries_max: usize) -> Result<Vec<Raw>, ConnectorError> {
        let mut command = self.read_group(entries_max);
        command.arg("BLOCK").arg(BLOCK.as_millis() as u64).arg("STREAMS").arg(self.acks.stream()).arg(">");
        let found = self.call("cannot read", |c| of_stream(command.query(c)?))?;
        self.take(found)
    }

    /// What others, or this process itself, have left lying for too long.
    fn claim(&mut self, from: &str, entries_max: usize) -> Result<Vec<Raw>, ConnectorError> {
        let idle = u64::try_from(self.claim_idle.as_millis()).unwrap_or(u64::MAX);
        let mut command = redis::cmd("XAUTOCLAIM");
        command.arg(self.acks.stream()).arg(self.acks.group()).arg(&self.consumer).arg(idle);
        command.arg(from).arg("COUNT").arg(entries_max);
        let (next, found, deleted) = self.call("cannot take over the entries", |c| {
            let mut parts = array(command.query(c)?)?.into_iter();
            let mut part = || parts.next().unwrap_or(Value::Nil);
            let (next, found) = (id(&part())?, entries(part())?);
            let deleted = array(part())?.iter().map(id).collect::<redis::RedisResult<Vec<EntryId>>>()?;
            Ok((next, found, deleted))
        })?;
        self.claiming = (next != EntryId::default()).then(|| next.to_string());
        // Redis has forgotten these, and with them that they were pending.
        let gone: Vec<EntryId> = deleted.into_iter().filter(|id| !self.is_safe(*id)).collect();
        self.tell_lost(&gone);
        if !found.is_empty() {
            tracing::info!(
                stream = self.acks.stream(),
                entries = found.len(),
                "entries that were left lying are taken over"
            );
        }
        self.take(found)
    }

    /// Whether an entry that is gone was read before, and its results don't depend on its being pending.
    fn is_safe(&self, id: EntryId) -> bool {
        !self.acks.by_store() && id.offset().is_ok_and(|id| self.acks.has(id))
    }

    fn tell_lost(&self, ids: &[EntryId]) {
        if ids.is_empty() {
            return;
        }
        self.acks.lose(ids.len() as u64);
        let some: Vec<String> = ids.iter().take(SHOWN).map(EntryId::to_string).collect();
        tracing::error!(
            stream = self.acks.stream(),
            group = self.acks.group(),
            messages = ids.len(),
            ids = some.join(" "),
            "messages are lost: they were trimmed from the stream while they were pending; let whoever writes it keep more (MAXLEN)"
        );
    }

    fn take(&mut self, found: Vec<Entry>) -> Result<Vec<Raw>, ConnectorError> {
        let mut gone = Vec::new();
        let mut taken = Vec::with_capacity(found.len());
        for Entry { id, fields } in found {
            let number = id
                .offset()
                .map_err(|why| ConnectorError::Fatal(format!("stream {}: {why}", self.acks.stream())))?;
            match fields {
                Some(fields) => {
                    if let Some(offset) = self.acks.take(number) {
                        taken.push(Raw::new((offset, offset + 1), id, fields, &self.field));
                    }
                }
                None if self.acks.has(number) => {}
                None => gone.push(id),
            }
        }
        if !gone.is_empty() {
            // So that they don't come again: there is nothing to come.
            let mut command = redis::cmd("XACK");
            command.arg(self.acks.stream()).arg(self.acks.group()).arg(&gone);
            self.tell_lost(&gone);
            // Where it fails they are told, and counted, once more: better than never. What was taken is safe.
            if let Err(e) = self.call("cannot acknowledge what was trimmed", |c| command.exec(c)) {
                tracing::warn!(error = %e, "it is tried again");
                self.own = Some(EntryId::default());
            }
        }
        Ok(taken)
    }

    /// Looks how far the group is, and whether entries were trimmed that nobody had read.
    fn look(&mut self) -> Result<(), ConnectorError> {
        let (stream, group) = (self.acks.stream().to_owned(), self.acks.group().to_owned());
        let note = beside(&stream, &format!("trimmed:{group}"));
        let (lag, lost) = self.call("cannot look at the group", |c| {
            let (Some(group), Some(stream)) = (info::group(c, &stream, &group)?, info::stream(c, &stream)?)
            else {
                return Ok((None, 0));
            };
            // All that is there is undelivered: what else was added behind the group is gone.
            let is_before = stream.first.is_none_or(|first| first > group.delivered);
            let gone = match (stream.added, group.read) {
                (Some(added), Some(read)) if is_before => added.saturating_sub(read + stream.length),
                _ => 0,
            };
            let lost = match gone {
                0 => 0,
                gone => Script::new(include_str!("trimmed.lua"))
                    .key(&note)
                    .arg(group.delivered.to_string())
                    .arg(gone)
                    .invoke::<u64>(c)?,
            };
            Ok((group.lag, lost))
        })?;
        if let Some(lag) = lag {
            self.acks.set_lag(lag);
        }
        if lost > 0 {
            self.acks.lose(lost);
            tracing::error!(
                stream = self.acks.stream(),
                group = self.acks.group(),
                messages = lost,
                "messages are lost, at least so many: they were trimmed from the stream before anybody read them; let whoever writes it keep more (MAXLEN)"
            );
        }
        Ok(())
    }

    fn ask(&mut self, entries_max: usize) -> Result<Vec<Raw>, ConnectorError> {
        if self.looked_at.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            self.look()?;
            self.looked_at = Some(Instant::now());
        }
        if let Some(after) = self.own {
            let own = self.own(after, entries_max)?;
            if !own.is_empty() {
                return Ok(own);
            }
        }
        if self.claiming.is_none() && self.claimed_at.elapsed() >= self.claim_idle / 2 {
            self.claiming = Some("0-0".to_owned());
        }
        if let Some(from) = self.claiming.clone() {
            self.claimed_at = Instant::now();
            let claimed = self.claim(&from, entries_max)?;
            if !claimed.is_empty() {
                return Ok(claimed);
            }
        }
        if self.own.is_some() || self.claiming.is_some() {
            return Ok(Vec::new());
        }
        self.new_ones(entries_max)
    }
}

impl Fetch for QueueFetch {
    fn fetch(&mut self, entries_max: usize) -> Result<Vec<Raw>, ConnectorError> {
        self.acks.begin_question();
        let answer = self.ask(entries_max);
        if answer.is_err() {
            // What was given out in an answer that got lost is pending for this process now.
            self.own = Some(EntryId::default());
        }
        answer
    }
}

//! What Redis tells of a stream and its groups.

use redis::{Cmd, Connection, RedisResult, Value};

use super::entry::{EntryId, array, id, pairs, text};

/// What XINFO STREAM tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct StreamInfo {
    pub length: u64,
    /// The first entry that is there.
    pub first: Option<EntryId>,
    /// The last id that was ever given.
    pub last: EntryId,
    /// How many were ever added; not before Redis 7.
    pub added: Option<u64>,
}

/// What XINFO GROUPS tells of one group.
#[derive(Debug, Clone, Default)]
pub(super) struct GroupInfo {
    pub delivered: EntryId,
    /// How many of those ever added were passed, as far as Redis knows; not before Redis 7.
    pub read: Option<u64>,
    pub lag: Option<u64>,
}

/// What XINFO CONSUMERS tells of one.
#[derive(Debug, Clone)]
pub(super) struct ConsumerInfo {
    pub name: String,
    pub pending: u64,
    pub idle_ms: u64,
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(n) => u64::try_from(*n).ok(),
        _ => None,
    }
}

/// None where there is no such stream or group.
fn present(command: &Cmd, connection: &mut Connection) -> RedisResult<Option<Value>> {
    match command.query(connection) {
        Ok(value) => Ok(Some(value)),
        Err(e)
            if e.detail().is_some_and(|text| text.contains("no such key")) || e.code() == Some("NOGROUP") =>
        {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// None where there is no such stream.
pub(super) fn stream(connection: &mut Connection, stream: &str) -> RedisResult<Option<StreamInfo>> {
    let mut command = redis::cmd("XINFO");
    command.arg("STREAM").arg(stream);
    present(&command, connection)?.map(stream_info).transpose()
}

fn stream_info(value: Value) -> RedisResult<StreamInfo> {
    let mut info = StreamInfo::default();
    for (name, value) in pairs(value)? {
        match text(&name) {
            Some("length") => info.length = number(&value).unwrap_or_default(),
            Some("last-generated-id") => info.last = id(&value)?,
            Some("entries-added") => info.added = number(&value),
            Some("first-entry") => info.first = array(value)?.first().map(id).transpose()?,
            _ => {}
        }
    }
    Ok(info)
}

/// None where there is no such stream or group.
pub(super) fn group(
    connection: &mut Connection,
    stream: &str,
    group: &str,
) -> RedisResult<Option<GroupInfo>> {
    let mut command = redis::cmd("XINFO");
    command.arg("GROUPS").arg(stream);
    let groups = present(&command, connection)?;
    for found in groups.map_or_else(|| Ok(Vec::new()), array)? {
        let (mut info, mut is_it) = (GroupInfo::default(), false);
        for (name, value) in pairs(found)? {
            match text(&name) {
                Some("name") => is_it = text(&value) == Some(group),
                Some("last-delivered-id") => info.delivered = id(&value)?,
                Some("entries-read") => info.read = number(&value),
                Some("lag") => info.lag = number(&value),
                _ => {}
            }
        }
        if is_it {
            return Ok(Some(info));
        }
    }
    Ok(None)
}

/// The consumers of a group; none where there is no such group.
pub(super) fn consumers(
    connection: &mut Connection,
    stream: &str,
    group: &str,
) -> RedisResult<Vec<ConsumerInfo>> {
    let mut command = redis::cmd("XINFO");
    command.arg("CONSUMERS").arg(stream).arg(group);
    let mut found = Vec::new();
    for consumer in present(&command, connection)?.map_or_else(|| Ok(Vec::new()), array)? {
        let mut info = ConsumerInfo { name: String::new(), pending: 0, idle_ms: u64::MAX };
        for (name, value) in pairs(consumer)? {
            match text(&name) {
                Some("name") => info.name = text(&value).unwrap_or_default().to_owned(),
                Some("pending") => info.pending = number(&value).unwrap_or_default(),
                Some("idle") => info.idle_ms = number(&value).unwrap_or_default(),
                _ => {}
            }
        }
        found.push(info);
    }
    Ok(found)
}

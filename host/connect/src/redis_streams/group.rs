//! A consumer group as a whole: made, looked at, left, forgotten.

use std::time::Duration;

use redis::{Connection, RedisResult, Script};

use super::{beside, info};
use crate::queue::Start;
use crate::random_token;

/// The stream's random token: made where there is none.
pub(super) fn incarnation(c: &mut Connection, stream: &str) -> RedisResult<String> {
    let key = beside(stream, "incarnation");
    redis::cmd("SET").arg(&key).arg(random_token()).arg("NX").exec(c)?;
    redis::cmd("GET").arg(&key).query(c)
}

/// Makes a group where it is missing, and with it the stream.
pub(super) fn make(c: &mut Connection, stream: &str, group: &str, start: Start) -> RedisResult<()> {
    let mut command = redis::cmd("XGROUP");
    command.arg("CREATE").arg(stream).arg(group);
    command.arg(if start == Start::Earliest { "0" } else { "$" }).arg("MKSTREAM");
    match command.exec(c) {
        Err(e) if e.code() == Some("BUSYGROUP") => Ok(()),
        done => done,
    }
}

/// The members of a group, other than one, that showed themselves within a time; with how long ago.
pub(super) fn active(
    c: &mut Connection,
    (stream, group): (&str, &str),
    but: Option<&str>,
    within: Duration,
) -> RedisResult<Vec<String>> {
    let within = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
    let found = info::consumers(c, stream, group)?;
    let active = found.into_iter().filter(|m| m.idle_ms < within && Some(m.name.as_str()) != but);
    Ok(active.map(|m| format!("{} ({} ms ago)", m.name, m.idle_ms)).collect())
}

/// Takes a consumer that has nothing pending off the group's list.
pub(super) fn leave(c: &mut Connection, stream: &str, group: &str, consumer: &str) -> RedisResult<()> {
    // One step, for what is given out between the two would be forgotten.
    Script::new(include_str!("leave.lua")).key(stream).arg(group).arg(consumer).invoke(c)
}

/// Forgets a group, and what is kept of it.
pub(super) fn forget(c: &mut Connection, stream: &str, group: &str) -> RedisResult<()> {
    if info::stream(c, stream)?.is_some() {
        redis::cmd("XGROUP").arg("DESTROY").arg(stream).arg(group).exec(c)?;
    }
    let keys = ["owner", "read", "trimmed"].map(|what| beside(stream, &format!("{what}:{group}")));
    redis::cmd("DEL").arg(&keys).exec(c)
}

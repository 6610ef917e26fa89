//! Says that a process is alive: its entries are not taken over for being in hand long.

use std::time::Duration;

use redis::{Connection, RedisResult, Script, Value};
use tokio::task::JoinHandle;

use super::acks::RedisAcks;
use super::entry::{EntryId, array, id};
use crate::redis_link::SharedLink;

/// How many entries are asked for at once.
const PAGE: usize = 1_000;

/// Renews what a process has in hand, until it is dropped.
pub(super) struct Renewal(JoinHandle<()>);

impl Renewal {
    pub fn start(link: SharedLink, acks: RedisAcks, consumer: String, claim_idle: Duration) -> Self {
        let every = claim_idle / 3;
        Self(tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                let (acks, consumer) = (acks.clone(), consumer.clone());
                let renew = move |c: &mut Connection| renew(c, &acks, &consumer, every);
                if let Err(error) = link.ask("cannot renew the entries in hand", renew).await {
                    // The reader says it louder.
                    tracing::debug!(%error, "another process may take entries over that are in hand");
                }
            }
        }))
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn renew(c: &mut Connection, acks: &RedisAcks, consumer: &str, every: Duration) -> RedisResult<()> {
    // Half of it, so that a round that comes a little early doesn't pass an entry over.
    let idle = u64::try_from(every.as_millis()).unwrap_or(u64::MAX) / 2;
    let mut from = "-".to_owned();
    loop {
        let mut command = redis::cmd("XPENDING");
        command.arg(acks.stream()).arg(acks.group()).arg("IDLE").arg(idle);
        command.arg(&from).arg("+").arg(PAGE).arg(consumer);
        let mut pending: Vec<EntryId> = Vec::new();
        for found in array(command.query(c)?)? {
            pending.push(id(array(found)?.first().unwrap_or(&Value::Nil))?);
        }
        let Some(last) = pending.last() else { return Ok(()) };
        from = format!("({last}");
        let in_hand: Vec<EntryId> =
            pending.iter().copied().filter(|id| id.offset().is_ok_and(|id| acks.has(id))).collect();
        if !in_hand.is_empty() {
            let script = Script::new(include_str!("renew.lua"));
            let mut call = script.key(acks.stream());
            call.arg(acks.group()).arg(consumer).arg(idle);
            for id in in_hand {
                call.arg(id);
            }
            call.invoke::<()>(c)?;
        }
        if pending.len() < PAGE {
            return Ok(());
        }
    }
}

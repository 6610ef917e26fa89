//! Which messages of a writer a stream has: by their ids, which it keeps for good, other than its window.

use std::collections::HashMap;
use std::sync::Arc;

use async_nats::header::NATS_MESSAGE_ID;
use serde_json::json;

use super::link::Link;
use super::pull::{Delivery, Ended, Pull};
use crate::ConnectorError;

/// How long the server keeps the consumer, should this process end meanwhile: in nanoseconds.
const FORGOTTEN_AFTER: u64 = 30_000_000_000;

/// What is looked for.
pub(super) struct Scan<'a> {
    pub stream: &'a str,
    /// The subject, where the stream keeps it as it is.
    pub subject: Option<&'a str>,
    /// The first sequence, and the last one.
    pub sequences: (u64, u64),
    /// What the ids begin with.
    pub prefix: &'a str,
}

impl Scan<'_> {
    /// The ids that are there, with their sequences.
    pub async fn run(&self, link: &Arc<Link>) -> Result<HashMap<Box<str>, u64>, ConnectorError> {
        let (from, to) = self.sequences;
        let mut found = HashMap::new();
        if from > to {
            return Ok(found);
        }
        let stream = self.stream;
        let what = format!("cannot read back what stream {stream} has");
        let inbox = link.client.new_inbox();
        let consumer = format!("wasmill-scan-{}", inbox.rsplit('.').next().unwrap_or_default());
        let config = json!({
            "name": consumer,
            "description": "wasmill reads back what it wrote",
            "ack_policy": "none",
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": from,
            "filter_subjects": self.subject.into_iter().collect::<Vec<_>>(),
            "replay_policy": "instant",
            "headers_only": true,
            "inactive_threshold": FORGOTTEN_AFTER,
            "mem_storage": true,
            "num_replicas": 1,
        });
        let made = link.create_consumer(stream, &consumer, &config).await?;
        let made = made.map_err(|e| link.refused(&what, &e))?;
        if made.num_pending > 0 {
            let mut pull = Pull::start(link, stream, &consumer).await?;
            let mut nth = 0;
            loop {
                pull.refill().await;
                let message = pull.next().await.map_err(|ended| match ended {
                    Ended::Lost(cause) => link.away(&what, &cause),
                    Ended::Reconnected => link.away(&what, "the connection was lost"),
                    Ended::Refused(cause) => ConnectorError::Fatal(format!("{what}: {cause}")),
                })?;
                let seen = message.reply.as_ref().and_then(|reply| Delivery::of(reply));
                nth += 1;
                let Some(seen) = seen.filter(|seen| seen.nth == nth) else {
                    return Err(link.away(&what, "a message was lost on its way"));
                };
                let id = message.headers.as_ref().and_then(|headers| headers.get(NATS_MESSAGE_ID));
                if let Some(id) = id.map(|id| id.as_str()).filter(|id| id.starts_with(self.prefix)) {
                    found.insert(id.into(), seen.sequence);
                }
                if seen.left == 0 || seen.sequence >= to {
                    break;
                }
            }
        }
        // It goes by itself where this fails.
        let subject = format!("$JS.API.CONSUMER.DELETE.{stream}.{consumer}");
        link.client.publish(subject, "{}".into()).await.ok();
        Ok(found)
    }
}

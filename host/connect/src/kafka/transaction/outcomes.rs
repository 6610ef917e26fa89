//! What became of the records that were handed to librdkafka.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::ProducerContext;
use tokio::sync::Notify;

use super::super::client::{LastError, lock, log, why};
use super::super::sink::{is_refusal, refusal};
use crate::Refused;

/// Where in a record's number it stands which sink it is of.
pub(super) const SINK_SHIFT: u32 = 40;
/// Where it stands which of that sink's records it is.
pub(super) const NTH: usize = (1 << SINK_SHIFT) - 1;
/// The number of what is the transactions' own.
pub(super) const OWN: usize = (1 << (usize::BITS - SINK_SHIFT)) - 1;

/// What became of the records that were handed to librdkafka.
#[derive(Default)]
pub(super) struct Outcomes {
    /// How many records are acknowledged or given up.
    pub done: AtomicU64,
    /// How many a flush waits for.
    pub target: AtomicU64,
    pub reached: Notify,
    /// By sink.
    pub refused: Mutex<Vec<(usize, Refused)>>,
    pub failed: Mutex<Option<String>>,
    /// By partition, the greatest offset of the records that are the transactions' own.
    pub own: Mutex<BTreeMap<i32, u64>>,
    pub last_error: LastError,
    pub topics: Vec<String>,
    pub brokers: String,
}

impl ClientContext for Outcomes {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        // What was said before the log was taken over.
        if level as i32 <= RDKafkaLogLevel::Warning as i32 {
            log(level, facility, text);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(cause = %error, reason, "librdkafka tells an error");
        self.last_error.note(&error, reason);
    }
}

impl ProducerContext for Outcomes {
    /// Which sink's it is, and which of its records since the transaction began.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let (sink, nth) = (number >> SINK_SHIFT, number & NTH);
        match result {
            Ok(message) => {
                if sink == OWN {
                    let offset = u64::try_from(message.offset()).unwrap_or(0);
                    let mut own = lock(&self.own);
                    let last = own.entry(message.partition()).or_default();
                    *last = offset.max(*last);
                }
            }
            Err((error, message)) => match error.rdkafka_error_code() {
                // The transaction is being aborted, or the producer dropped.
                Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight) => {}
                Some(code) if is_refusal(code) && sink != OWN => {
                    self.refuse(code, sink, nth, message.payload().unwrap_or_default(), message.key());
                }
                _ => {
                    let text = format!(
                        "topic {} at {} does not take a record: {}",
                        message.topic(),
                        self.brokers,
                        why(error)
                    );
                    lock(&self.failed).get_or_insert(text);
                }
            },
        }
        let done = self.done.fetch_add(1, Ordering::SeqCst) + 1;
        if done >= self.target.load(Ordering::SeqCst) {
            self.reached.notify_one();
        }
    }
}

impl Outcomes {
    pub fn has_failed(&self) -> bool {
        lock(&self.failed).is_some() || !lock(&self.refused).is_empty()
    }

    pub fn refuse(&self, code: RDKafkaErrorCode, sink: usize, nth: usize, value: &[u8], key: Option<&[u8]>) {
        let topic = self.topics.get(sink).map_or("", String::as_str);
        let what = format!("topic {topic} at {}", self.brokers);
        lock(&self.refused).push((sink, refusal(&what, code, nth, value, key)));
    }
}

//! A producer, as long as it is used, and what its log tells of requests without answer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::producer::{Producer, ThreadedProducer};

use super::super::client::log;
use super::super::logs::LogQueue;
use super::CALL_MAX;
use super::outcomes::Outcomes;

/// How long to wait before it is asked again whether the records are let go of.
const SETTLE_WAIT: Duration = Duration::from_micros(50);
/// What librdkafka is to tell of: transactions, and connections.
pub(super) const TOLD: &str = "eos,broker";

/// A producer, as long as it is used. The log goes before its client.
pub(super) struct Session {
    pub log: LogQueue,
    pub producer: ThreadedProducer<Outcomes>,
    /// Whether a request had no answer.
    pub tainted: AtomicBool,
    pub produced: AtomicU64,
}

/// Whether a line of librdkafka's log tells that a request may be on its way whose answer nobody waits for.
fn tells_of_no_answer(facility: &str, text: &str) -> bool {
    match facility {
        // A connection ended, with what was on its way; requests were given up.
        "FAIL" => !text.contains("_DESTROY_BROKER"),
        "REQTMOUT" => true,
        "ENDTXN" | "ADDOFFSETS" => text.contains("_TRANSPORT") || text.contains("_TIMED_OUT"),
        _ => false,
    }
}

impl Session {
    /// Reads what librdkafka has said so far.
    pub fn look(&self) {
        self.log.read(|level, facility, text| {
            if tells_of_no_answer(facility, text) && !self.tainted.swap(true, Ordering::SeqCst) {
                tracing::debug!(facility, text, "a connection ended, or a request had no answer");
            }
            if level as i32 <= RDKafkaLogLevel::Warning as i32 {
                log(level, facility, text);
            }
        });
    }

    pub fn outcomes(&self) -> &Outcomes {
        self.producer.client().context()
    }
}

/// Waits until the last records that were acknowledged are also let go of: the client's call asks for that once,
/// and then sleeps for 100 ms.
pub(super) fn settle(producer: &ThreadedProducer<Outcomes>) {
    let since = Instant::now();
    while producer.in_flight_count() > 0 && since.elapsed() < CALL_MAX {
        std::thread::sleep(SETTLE_WAIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_without_answer_is_seen_in_the_log() {
        for (facility, text, tells) in [
            ("ENDTXN", "EndTxn returned _TRANSPORT in state CommittingTransaction (may_retry=true)", true),
            ("ENDTXN", "EndTxn returned _TIMED_OUT in state AbortingTransaction (may_retry=true)", true),
            ("ENDTXN", "EndTxn returned NO_ERROR in state CommittingTransaction (may_retry=true)", false),
            ("ADDOFFSETS", "AddOffsetsToTxn response from b/1: _TRANSPORT (Refresh,Retry)", true),
            ("ADDOFFSETS", "AddOffsetsToTxn response from b/1: NO_ERROR ()", false),
            ("FAIL", "Disconnected (after 12ms in state UP) (_TRANSPORT)", true),
            (
                "REQTMOUT",
                "Timed out 1 in-flight, 0 retry-queued, 0 out-queue, 0 partially-sent requests",
                true,
            ),
            ("TXNSTATE", "Transaction state change BeginCommit -> CommittingTransaction", false),
        ] {
            assert_eq!(tells_of_no_answer(facility, text), tells, "{facility} {text}");
        }
    }
}

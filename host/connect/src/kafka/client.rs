//! What the source and the sink need of a client alike: its logs, and the facts of a topic.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::ConnectorError;

/// How long a question to the brokers may take.
pub(super) const ASK_MAX: Duration = Duration::from_secs(5);

/// Settings of every client. Requests give up after 15 s, so that a broker that hangs is noticed.
pub(super) const DEFAULTS: &[(&str, &str)] = &[
    ("client.id", "wasmill"),
    ("allow.auto.create.topics", "false"),
    ("socket.timeout.ms", "15000"),
    ("socket.keepalive.enable", "true"),
    ("reconnect.backoff.max.ms", "2000"),
    ("topic.metadata.refresh.interval.ms", "30000"),
    ("log.connection.close", "false"),
];

/// A lock that a panic elsewhere doesn't spoil: what it guards is whole between statements.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why librdkafka says that something failed, without the names of its Rust layer.
pub(super) fn why(error: &KafkaError) -> String {
    error.rdkafka_error_code().map_or_else(|| error.to_string(), |code| code.to_string())
}

/// Passes librdkafka's log on, and remembers its last word on a broker.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, text: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(facility, "librdkafka: {text}");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => tracing::warn!(facility, "librdkafka: {text}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => tracing::info!(facility, "librdkafka: {text}"),
        RDKafkaLogLevel::Debug => tracing::debug!(facility, "librdkafka: {text}"),
    }
}

/// The last thing that went wrong between a client and its brokers.
#[derive(Default)]
pub(super) struct LastError(Mutex<Option<String>>);

impl LastError {
    /// Keeps an error. That all brokers are down is no cause: what went before it is.
    pub(super) fn note(&self, error: &KafkaError, reason: &str) {
        let all_down = error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown);
        let mut last = lock(&self.0);
        if !all_down || last.is_none() {
            *last = Some(reason.trim().to_owned());
        }
    }

    /// The last error, or `otherwise`.
    pub(super) fn or(&self, otherwise: &str) -> String {
        lock(&self.0).clone().unwrap_or_else(|| otherwise.to_owned())
    }
}

/// A client without group that asks for the facts of a topic.
#[derive(Default)]
struct Asking(LastError);

impl ClientContext for Asking {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        // What is asked is answered with the cause: its log would say it twice.
        tracing::debug!(?level, facility, "librdkafka: {text}");
    }
    fn error(&self, error: KafkaError, reason: &str) {
        self.0.note(&error, reason);
    }
}

impl ConsumerContext for Asking {}

/// Asks how many partitions a topic has, with a client of its own.
///
/// # Errors
/// As [`partitions_of`].
pub(super) fn ask_partitions(
    config: &ClientConfig,
    brokers: &str,
    topic: &str,
) -> Result<Vec<u32>, ConnectorError> {
    let mut config = config.clone();
    config.remove("group.id").remove("group.instance.id");
    let client: BaseConsumer<Asking> =
        config.create_with_context(Asking::default()).map_err(|e| refused(&e))?;
    partitions_of(client.client(), brokers, topic).map_err(|error| match error {
        ConnectorError::Disconnected { what, cause } => {
            // Errors are told by polling.
            for _ in 0..32 {
                client.poll(Duration::ZERO);
            }
            ConnectorError::Disconnected { what, cause: client.client().context().0.or(&cause) }
        }
        fatal @ ConnectorError::Fatal(_) => fatal,
    })
}

/// What librdkafka says of settings that don't go together.
pub(super) fn refused(error: &KafkaError) -> ConnectorError {
    ConnectorError::Fatal(format!("properties: librdkafka refuses the settings: {error}"))
}

/// That a topic is missing; it may be created any time.
pub(super) fn missing(brokers: &str, topic: &str) -> ConnectorError {
    ConnectorError::Disconnected {
        what: format!("topic {topic} does not exist at {brokers}"),
        cause: "create it, or correct `topic`; wasmill creates no topics".to_owned(),
    }
}

/// The numbers of a topic's partitions.
///
/// # Errors
/// `Disconnected` where no broker answers or the topic is missing; fatal where it may not be read.
pub(super) fn partitions_of<C: ClientContext>(
    client: &Client<C>,
    brokers: &str,
    topic: &str,
) -> Result<Vec<u32>, ConnectorError> {
    let away = |cause: String| ConnectorError::Disconnected {
        what: format!("cannot reach Kafka at {brokers}"),
        cause,
    };
    let metadata = client.fetch_metadata(Some(topic), ASK_MAX).map_err(|e| away(why(&e)))?;
    let found = metadata.topics().iter().find(|t| t.name() == topic);
    let Some(found) = found else { return Err(missing(brokers, topic)) };
    match found.error().map(RDKafkaErrorCode::from) {
        None => {}
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
            return Err(missing(brokers, topic));
        }
        Some(RDKafkaErrorCode::InvalidTopic) => {
            return Err(ConnectorError::Fatal(format!(
                "topic: {topic:?} is no name for a topic: letters, digits, `.`, `_` and `-` are"
            )));
        }
        Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
            return Err(ConnectorError::Fatal(format!(
                "topic {topic} at {brokers} is not for this user: grant it, or set other credentials in `properties`"
            )));
        }
        Some(code) => return Err(away(format!("topic {topic}: {code}"))),
    }
    if found.partitions().is_empty() {
        return Err(missing(brokers, topic));
    }
    let mut numbers: Vec<u32> =
        found.partitions().iter().filter_map(|p| u32::try_from(p.id()).ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

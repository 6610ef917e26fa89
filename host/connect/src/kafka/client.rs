//! What the source and the sink need of a client alike: its logs, and the facts of a topic.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::admin;
use super::refusal::Refusal;
use super::settings::Settings;
use crate::ConnectorError;

/// How long a question to the brokers may take.
pub(super) const ASK_MAX: Duration = Duration::from_secs(5);
/// What could not be done where no broker has answered.
const UNREACHABLE: &str = "cannot reach Kafka at";

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
            let reason = reason.trim();
            *last = Some(match Refusal::of(error.rdkafka_error_code(), reason) {
                Some(refusal) => format!("{} ({reason})", refusal.advice()),
                None => reason.to_owned(),
            });
        }
    }

    /// The last error, or `otherwise`.
    pub(super) fn or(&self, otherwise: &str) -> String {
        lock(&self.0).clone().unwrap_or_else(|| otherwise.to_owned())
    }
}

/// A client without group that asks for the facts of a topic.
#[derive(Default)]
struct Asking {
    last_error: LastError,
    /// That brokers refuse this client, with their words. Others may be away for another reason.
    refusal: Mutex<Option<(Refusal, String)>>,
}

impl ClientContext for Asking {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        // What is asked is answered with the cause: its log would say it twice.
        tracing::debug!(?level, facility, "librdkafka: {text}");
        // That a broker hung up is in the log alone, with a guess why.
        if facility == "FAIL" {
            self.hear(None, text);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.last_error.note(&error, reason);
        self.hear(error.rdkafka_error_code(), reason);
    }
}

impl Asking {
    /// Keeps what tells why brokers refuse this client; what is sure outlives what is not.
    fn hear(&self, code: Option<RDKafkaErrorCode>, reason: &str) {
        if let Some(refusal) = Refusal::of(code, reason) {
            let mut known = lock(&self.refusal);
            if known.as_ref().is_none_or(|(known, _)| refusal.is_sure() || !known.is_sure()) {
                *known = Some((refusal, reason.trim().to_owned()));
            }
        }
    }
}

impl ConsumerContext for Asking {}

/// A topic as it is now.
pub(super) struct Topic {
    /// The numbers of its partitions.
    pub numbers: Vec<u32>,
    /// Which log it is: [`incarnation_of`].
    pub incarnation: String,
}

/// What can be asked about topics.
pub(super) struct Facts<'a> {
    client: &'a Client<Asking>,
    settings: &'a Settings,
}

impl Facts<'_> {
    /// What a topic is like.
    ///
    /// # Errors
    /// As [`partitions_of`].
    pub fn topic(&self, brokers: &str, topic: &str) -> Result<Topic, ConnectorError> {
        let numbers = partitions_of(self.client, brokers, topic)?;
        self.settings.prove();
        let incarnation = incarnation_of(self.client, brokers, topic, ASK_MAX)?;
        Ok(Topic { numbers, incarnation })
    }

    /// Whether there is a topic.
    ///
    /// # Errors
    /// As [`partitions_of`], but for a topic that is missing.
    pub fn is_there(&self, brokers: &str, topic: &str) -> Result<bool, ConnectorError> {
        match admin::topic_id(self.client, topic, ASK_MAX) {
            Ok(_) => {
                self.settings.prove();
                Ok(true)
            }
            Err(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(false),
            Err(code) => Err(not_there(code, brokers, topic)),
        }
    }

    /// How a topic is set; none where this user may not know, or the brokers don't have the setting.
    ///
    /// # Errors
    /// As [`partitions_of`].
    pub fn setting(
        &self,
        brokers: &str,
        topic: &str,
        setting: &str,
    ) -> Result<Option<String>, ConnectorError> {
        match admin::topic_setting(self.client, topic, setting, ASK_MAX) {
            Ok(value) => Ok(value),
            Err(
                RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed,
            ) => Ok(None),
            Err(code) => Err(not_there(code, brokers, topic)),
        }
    }
}

/// Asks what a topic is like.
///
/// # Errors
/// As [`partitions_of`].
pub(super) fn ask_topic(settings: &Settings, brokers: &str, topic: &str) -> Result<Topic, ConnectorError> {
    ask(settings, |facts| facts.topic(brokers, topic))
}

/// The greatest record that a topic takes, in bytes, if this user may know.
pub(super) fn record_bytes_max(facts: &Facts<'_>, brokers: &str, topic: &str) -> Option<u64> {
    facts.setting(brokers, topic, "max.message.bytes").ok().flatten()?.parse().ok()
}

/// Asks the brokers with a client of its own.
///
/// # Errors
/// As of the question; what the client was told is the cause where they are away. Fatal where they refuse it, and
/// never did otherwise: that is a mistake in the spec, and no waiting helps.
pub(super) fn ask<T>(
    settings: &Settings,
    question: impl FnOnce(&Facts<'_>) -> Result<T, ConnectorError>,
) -> Result<T, ConnectorError> {
    let mut settings = settings.clone();
    settings.remove("group.id").remove("group.instance.id");
    // That a broker hangs up is a hint of what it wanted, and else kept quiet.
    settings.set("log.connection.close", "true").set_log_level(RDKafkaLogLevel::Info);
    let client: BaseConsumer<Asking> = settings.create(Asking::default())?;
    let facts = Facts { client: client.client(), settings: &settings };
    let answer = question(&facts).map_err(|error| match error {
        ConnectorError::Disconnected { what, cause } => {
            // Errors are told by polling.
            for _ in 0..32 {
                client.poll(Duration::ZERO);
            }
            let told = client.client().context();
            let is_proven = settings.is_proven();
            let refusal = lock(&told.refusal).take().filter(|_| what.starts_with(UNREACHABLE));
            // Where all was well before, a broker that hangs up is one that stops.
            match refusal.filter(|(refusal, _)| refusal.is_sure() || !is_proven) {
                Some((refusal, reason)) => {
                    let cause = format!("{} ({reason})", refusal.explain(&reason, &settings));
                    if refusal.is_sure() && !is_proven {
                        ConnectorError::Fatal(format!("{what}: {cause}"))
                    } else {
                        ConnectorError::Disconnected { what, cause }
                    }
                }
                None => ConnectorError::Disconnected { what, cause: told.last_error.or(&cause) },
            }
        }
        other => other,
    });
    end_aside(client);
    answer
}

/// Ends a client, without waiting for its threads.
pub(super) fn end_aside(client: impl Send + 'static) {
    std::thread::spawn(move || drop(client));
}

/// What librdkafka says of settings that don't go together.
pub(super) fn refused(error: &KafkaError) -> ConnectorError {
    ConnectorError::Fatal(format!("properties: librdkafka refuses the settings: {error}"))
}

/// That a topic is missing; it may be created any time.
pub(super) fn missing(brokers: &str, topic: &str) -> ConnectorError {
    ConnectorError::Disconnected {
        what: format!("topic {topic} does not exist at {brokers}"),
        cause: "create it, or correct `topic`; wasmill makes none but its own".to_owned(),
    }
}

fn unreachable(brokers: &str, cause: String) -> ConnectorError {
    ConnectorError::Disconnected { what: format!("{UNREACHABLE} {brokers}"), cause }
}

/// What it means that the brokers answer for a topic with this.
pub(super) fn not_there(code: RDKafkaErrorCode, brokers: &str, topic: &str) -> ConnectorError {
    match code {
        RDKafkaErrorCode::UnknownTopicOrPartition
        | RDKafkaErrorCode::UnknownTopic
        | RDKafkaErrorCode::UnknownTopicId => missing(brokers, topic),
        RDKafkaErrorCode::InvalidTopic => ConnectorError::Fatal(format!(
            "topic: {topic:?} is no name for a topic: letters, digits, `.`, `_` and `-` are"
        )),
        RDKafkaErrorCode::TopicAuthorizationFailed => ConnectorError::Fatal(format!(
            "topic {topic} at {brokers} is not for this user: grant it, or set another user in `security`"
        )),
        code => unreachable(brokers, format!("topic {topic}: {code}")),
    }
}

/// What stands between a topic's name and its id; it is in no name.
const ID_MARK: char = '#';

/// Which log a topic is: its name and its id, for one that is made anew has the same name. Where the
/// brokers have no ids, the name alone.
///
/// # Errors
/// As [`partitions_of`].
pub(super) fn incarnation_of<C: ClientContext>(
    client: &Client<C>,
    brokers: &str,
    topic: &str,
    time_max: Duration,
) -> Result<String, ConnectorError> {
    match admin::topic_id(client, topic, time_max) {
        Ok(Some(id)) => Ok(format!("{topic}{ID_MARK}{id}")),
        Ok(None) => Ok(topic.to_owned()),
        Err(code) => Err(not_there(code, brokers, topic)),
    }
}

/// Whether a text is an incarnation of the topic.
pub(super) fn is_of(text: &str, topic: &str) -> bool {
    text.split(ID_MARK).next() == Some(topic)
}

/// Whether an offset of one incarnation counts in the other. The name alone, of brokers without ids or
/// written by wasmill before it knew of them, is every topic of that name.
pub(super) fn is_same_topic(one: &str, other: &str) -> bool {
    one == other || is_of(one, other) || is_of(other, one)
}

/// That a topic was made anew under what is read of it.
pub(super) fn made_anew(topic: &str, before: &str, now: &str) -> String {
    format!(
        "topic {topic} was deleted and made anew since it was read ({before} then, {now} now): what was read of it is another log's; run `wasmill reset` to read it from its start"
    )
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
    let metadata = client.fetch_metadata(Some(topic), ASK_MAX).map_err(|e| unreachable(brokers, why(&e)))?;
    let found = metadata.topics().iter().find(|t| t.name() == topic);
    let Some(found) = found else { return Err(missing(brokers, topic)) };
    if let Some(code) = found.error() {
        return Err(not_there(code.into(), brokers, topic));
    }
    if found.partitions().is_empty() {
        return Err(missing(brokers, topic));
    }
    let mut numbers: Vec<u32> =
        found.partitions().iter().filter_map(|p| u32::try_from(p.id()).ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_known_by_its_id_and_without_one_by_its_name() {
        for (one, other, same) in [
            ("orders#a", "orders#a", true),
            ("orders#a", "orders#b", false),
            ("orders", "orders#b", true),
            ("orders#a", "orders", true),
            ("orders", "orders", true),
            ("orders", "payments", false),
            ("orders#a", "payments#a", false),
            ("orders", "payments#a", false),
        ] {
            assert_eq!(is_same_topic(one, other), same, "{one} {other}");
        }
    }
}

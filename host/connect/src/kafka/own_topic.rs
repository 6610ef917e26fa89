//! Topics that wasmill makes for a pipeline: its exchange, its changelog, what its processes agree on.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;

use super::client::{ASK_MAX, Facts, ask, missing, why};
use super::group::number;
use super::settings::Settings;
use super::sink::KafkaSinkSpec;
use super::transaction::Transactions;
use crate::{ConnectorError, os};

/// How long brokers may take to know of a topic that was made.
const KNOWN_MAX: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What `look` says of a topic, which is made with so many partitions where there is none.
///
/// # Errors
/// Those of `look`; fatal where the topic may not be made.
pub(super) async fn find_or_make<T: Send + 'static>(
    (settings, brokers): (&Settings, &str),
    topic: &str,
    partitions: u32,
    of_topic: &[(&str, &str)],
    look: impl Fn(&Facts<'_>) -> Result<T, ConnectorError> + Clone + Send + 'static,
) -> Result<T, ConnectorError> {
    let find = || {
        let (settings, brokers) = (settings.clone(), brokers.to_owned());
        let (topic, look) = (topic.to_owned(), look.clone());
        os::blocking(move || {
            ask(&settings, |facts| match facts.is_there(&brokers, &topic)? {
                true => look(facts).map(Some),
                false => Ok(None),
            })
        })
    };
    if let Some(found) = find().await? {
        return Ok(found);
    }
    make(settings, brokers, topic, partitions, of_topic).await?;
    // The brokers know of it a moment later, and busy ones somewhat later.
    let since = Instant::now();
    loop {
        match find().await? {
            Some(found) => return Ok(found),
            None if since.elapsed() < KNOWN_MAX => tokio::time::sleep(LOOK_AGAIN).await,
            None => return Err(missing(brokers, topic)),
        }
    }
}

/// Makes a topic of the pipeline's own.
async fn make(
    settings: &Settings,
    brokers: &str,
    topic: &str,
    partitions: u32,
    of_topic: &[(&str, &str)],
) -> Result<(), ConnectorError> {
    let admin: AdminClient<DefaultClientContext> = settings.create(DefaultClientContext)?;
    let new = NewTopic::new(topic, number(partitions), TopicReplication::Fixed(-1));
    let new = of_topic.iter().fold(new, |new, (name, value)| new.set(name, value));
    let answer = admin.create_topics([&new], &options()).await.map_err(|e| ConnectorError::Disconnected {
        what: format!("cannot make topic {topic} at {brokers}"),
        cause: why(&e),
    })?;
    os::blocking(move || {
        drop(admin);
        Ok(())
    })
    .await?;
    match answer.into_iter().next() {
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) | Some(Ok(_)) | None => {
            tracing::info!(topic, partitions, "made a topic of the pipeline's own");
            Ok(())
        }
        Some(Err((_, code))) => Err(ConnectorError::Fatal(format!(
            "topic {topic} at {brokers}, of the pipeline's own, can't be made: {code}; grant it, or make the topic with {partitions} partitions and {}",
            of_topic.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(", ")
        ))),
    }
}

/// Deletes topics of a pipeline's own, if they are there, and with them what it knows.
///
/// # Errors
/// When one could not be deleted.
pub fn delete_own_topics(spec: &KafkaSinkSpec, topics: &[String]) -> Result<(), ConnectorError> {
    let brokers = &spec.brokers;
    let settings = Transactions::new(spec, "reset")?.asking();
    let there = ask(&settings, |facts| {
        let is_there =
            |topic: &String| facts.is_there(brokers, topic).map(|there| there.then(|| topic.clone()));
        topics.iter().filter_map(|topic| is_there(topic).transpose()).collect::<Result<Vec<String>, _>>()
    })?;
    if there.is_empty() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| os::fatal("cannot start a thread", &e))?;
    runtime.block_on(delete((&settings, brokers), &there))
}

/// Deletes topics; those that are not there are no error.
pub(super) async fn delete(
    (settings, brokers): (&Settings, &str),
    topics: &[String],
) -> Result<(), ConnectorError> {
    let admin: AdminClient<DefaultClientContext> = settings.create(DefaultClientContext)?;
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let failed = |topic: &str, cause: String| {
        ConnectorError::Fatal(format!("topic {topic} at {brokers} could not be deleted: {cause}"))
    };
    let answer = admin.delete_topics(&names, &options()).await;
    for answer in answer.map_err(|e| failed(&names.join(", "), why(&e)))? {
        match answer {
            Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)) => {}
            Err((topic, code)) => return Err(failed(&topic, code.to_string())),
        }
    }
    os::blocking(move || {
        drop(admin);
        Ok(())
    })
    .await
}

/// How long the brokers may take.
fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(ASK_MAX)).request_timeout(Some(ASK_MAX))
}

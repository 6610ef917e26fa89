//! A client's settings, whole only when it is made: passwords may stand in files.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use xxhash_rust::xxh3::Xxh3;

use super::client::{lock, refused};
use super::properties::is_common;
use super::security::{KafkaSecurity, is_of_security};
use crate::ConnectorError;

/// Of how many different settings it is known at most that brokers took them.
const PROVEN_MAX: usize = 1024;

/// Settings with which brokers have answered this process, by their hash.
static PROVEN: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

/// The settings of a client.
#[derive(Clone)]
pub(super) struct Settings {
    config: ClientConfig,
    security: Option<Arc<KafkaSecurity>>,
}

impl Settings {
    pub fn new(config: ClientConfig, security: Option<&KafkaSecurity>) -> Self {
        Self { config, security: security.cloned().map(Arc::new) }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.config.get(name)
    }

    pub fn set(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.config.set(name, value);
        self
    }

    pub fn remove(&mut self, name: &str) -> &mut Self {
        self.config.remove(name);
        self
    }

    pub fn set_log_level(&mut self, level: RDKafkaLogLevel) -> &mut Self {
        self.config.set_log_level(level);
        self
    }

    /// The settings of a producer that a client has which only asks: others would be told as warnings.
    pub fn asking(&self) -> Self {
        let mut config = self.config.clone();
        config.set_log_level(RDKafkaLogLevel::Warning);
        // The names alone: a map of all of it has something else in the place of passwords.
        for name in self.config.config_map().into_keys().filter(|name| !is_common(name)) {
            config.remove(name);
        }
        Self { config, security: self.security.clone() }
    }

    /// Makes a client.
    ///
    /// # Errors
    /// Fatal where librdkafka refuses the settings, or a file is not there; away where these settings were good
    /// before, for then somebody is about to change a file.
    pub fn create<C: ClientContext, T: FromClientConfigAndContext<C>>(
        &self,
        context: C,
    ) -> Result<T, ConnectorError> {
        let mut config = self.config.clone();
        if let Some(security) = &self.security {
            security.read(&mut config).map_err(|error| match error {
                ConnectorError::Fatal(cause) if self.is_proven() => {
                    ConnectorError::Disconnected { what: "cannot connect to Kafka".to_owned(), cause }
                }
                error => error,
            })?;
        }
        config.create_with_context(context).map_err(|e| refused(&e))
    }

    /// The brokers have answered a client of these settings.
    pub fn prove(&self) {
        let mut proven = lock(&PROVEN);
        if proven.len() >= PROVEN_MAX {
            // Such a process only ends less readily.
            proven.clear();
        }
        proven.insert(self.hash());
    }

    /// Whether brokers have ever answered this process with these settings: if so, that they refuse them now is no
    /// mistake in the spec.
    pub fn is_proven(&self) -> bool {
        lock(&PROVEN).contains(&self.hash())
    }

    /// Of the brokers, and of how they are connected to. A file counts by its path.
    fn hash(&self) -> u64 {
        let counts = |name: &&str| *name == "bootstrap.servers" || is_of_security(name);
        let names = self.config.config_map().into_keys().filter(counts);
        let mut hash = Xxh3::new();
        let file = self.security.as_ref().and_then(|s| s.sasl.as_ref()?.password_file.as_ref());
        let file = file.map(|file| file.to_string_lossy()).unwrap_or_default();
        for text in names.flat_map(|name| [name, self.get(name).unwrap_or_default()]).chain([&*file]) {
            hash.update(text.as_bytes());
            hash.update(&[0]);
        }
        hash.digest()
    }
}

#[cfg(test)]
mod tests {
    use super::super::security::{KafkaMechanism, KafkaSasl};
    use super::*;
    use crate::secret::Secret;

    fn settings(brokers: &str, password: Option<&str>, file: Option<&str>) -> Settings {
        let sasl = KafkaSasl {
            mechanism: KafkaMechanism::Plain,
            username: "me".to_owned(),
            password: password.map(Secret::new),
            password_file: file.map(Into::into),
        };
        let security = KafkaSecurity { tls: None, sasl: Some(sasl) };
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers);
        security.set(&mut config);
        Settings::new(config, Some(&security))
    }

    #[test]
    fn who_asks_has_the_passwords_and_nothing_that_is_a_producers() {
        let mut settings = settings("a:1", Some("right"), None);
        settings.set("ssl.key.password", "of the key").set("linger.ms", "5");
        let asking = settings.asking();
        for (name, value) in
            [("sasl.password", Some("right")), ("ssl.key.password", Some("of the key")), ("linger.ms", None)]
        {
            assert_eq!(asking.get(name), value, "{name}");
        }
    }

    #[test]
    fn what_was_good_once_is_known_by_all_that_connects() {
        let mut good = settings("a:1", Some("right"), None);
        good.prove();
        good.set("group.id", "another");
        assert!(good.is_proven() && good.asking().is_proven());
        for other in [
            settings("a:1", Some("wrong"), None),
            settings("b:1", Some("right"), None),
            settings("a:1", None, Some("right")),
        ] {
            assert!(!other.is_proven());
        }
    }

    #[test]
    fn a_file_that_is_missing_stops_a_start_and_no_run() {
        use rdkafka::consumer::{BaseConsumer, DefaultConsumerContext};
        let missing = settings("c:1", None, Some("/there/is/none"));
        let made = || missing.create::<_, BaseConsumer<DefaultConsumerContext>>(DefaultConsumerContext).err();
        let told = |error: &ConnectorError| {
            let text = error.to_string();
            assert!(text.contains("password_file: /there/is/none can't be read"), "{text}");
        };
        let first = made().expect("no file");
        told(&first);
        assert!(matches!(first, ConnectorError::Fatal(_)), "{first}");
        missing.prove();
        let later = made().expect("no file");
        told(&later);
        assert!(matches!(later, ConnectorError::Disconnected { .. }), "{later}");
    }
}

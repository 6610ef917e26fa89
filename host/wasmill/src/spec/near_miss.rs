//! Variables that look like ours and are not: a name with a typo would be ignored without a word.
//!
//! They are warned of, not refused: an environment holds other programs' variables too, as those that
//! Kubernetes makes for a service called `kafka` (`KAFKA_PORT`, `KAFKA_SERVICE_HOST`).

use super::environment::{Environment, PREFIX, SHORT_NAMES};
use super::variables::{PROPERTY_PREFIX, VARIABLES};

/// How many letters of a name may be wrong.
const ERRORS_MAX: usize = 2;
/// The shortest name that is looked at: of shorter ones too many are near one another.
const NAME_BYTES_MIN: usize = 7;
/// What other programs call what we call otherwise.
const OTHER_NAMES: [(&str, &str); 6] = [
    ("KAFKA_BOOTSTRAP_SERVERS", "KAFKA_BROKERS"),
    ("KAFKA_INPUT_TOPIC", "KAFKA_TOPIC"),
    ("KAFKA_CONSUMER_GROUP", "KAFKA_GROUP_ID"),
    ("KAFKA_DEAD_LETTER_TOPIC", "KAFKA_DLQ_TOPIC"),
    ("REDIS_HOST", "REDIS_URL"),
    ("NATS_SUBJECT", "NATS_OUTPUT_SUBJECT"),
];

/// The variables that are set, mean nothing to wasmill, and were perhaps meant for it, each with the name
/// that was perhaps meant.
#[must_use]
pub fn near_misses(environment: &Environment) -> Vec<(String, &'static str)> {
    environment
        .all_given()
        .filter(|(name, _)| !is_known(name))
        .filter_map(|(name, _)| Some((name.to_owned(), meant(name)?)))
        .collect()
}

fn names() -> impl Iterator<Item = &'static str> {
    VARIABLES.iter().map(|v| v.name).chain(SHORT_NAMES.iter().map(|(name, _)| *name))
}

fn is_known(name: &str) -> bool {
    name.starts_with(PREFIX) || name.starts_with(PROPERTY_PREFIX) || names().any(|known| known == name)
}

fn meant(name: &str) -> Option<&'static str> {
    if let Some((_, ours)) = OTHER_NAMES.iter().find(|(other, _)| *other == name) {
        return Some(ours);
    }
    let upper = name.to_uppercase().replace('-', "_");
    if upper.len() < NAME_BYTES_MIN || !upper.contains('_') {
        return None;
    }
    // A beginning of a name of ours, whole words of it: KAFKA_GROUP.
    let begins = |known: &str| known.strip_prefix(upper.as_str()).is_some_and(|rest| rest.starts_with('_'));
    let distance = |known| if begins(known) { 1 } else { strsim::damerau_levenshtein(&upper, known) };
    let near = names().map(|known| (distance(known), known)).filter(|(errors, _)| *errors <= ERRORS_MAX);
    near.min().map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Option<&'static str> {
        let mut environment = Environment::default();
        environment.set(name, "x".to_owned());
        near_misses(&environment).first().map(|(_, meant)| *meant)
    }

    #[test]
    fn typos_are_found_and_other_programs_variables_are_left_alone() {
        for (name, meant) in [
            ("KAFKA_TOPICS", "KAFKA_TOPIC"),
            ("KAFKA_BROKER", "KAFKA_BROKERS"),
            ("KAFKA_GROUP", "KAFKA_GROUP_ID"),
            ("KAFKA_BOOTSTRAP_SERVERS", "KAFKA_BROKERS"),
            ("NATS_STREM", "NATS_STREAM"),
            ("REDIS_URI", "REDIS_URL"),
            ("WORKER_CONT", "WORKER_COUNT"),
            ("WORKERS_COUNT", "WORKER_COUNT"),
            ("worker_count", "WORKER_COUNT"),
            ("BATCHSIZE_", "BATCH_SIZE"),
            ("PLUGINS_DIR", "PLUGIN_DIR"),
            ("USE_DISTRIBUTED_STATES", "USE_DISTRIBUTED_STATE"),
        ] {
            assert_eq!(of(name), Some(meant), "{name}");
        }
        for name in [
            "PATH",
            "TOPIC",
            "XDG_DATA_DIR",
            "KAFKA_PORT",
            "KAFKA_SERVICE_HOST",
            "KAFKA_SERVICE_PORT",
            "KAFKA_PORT_9092_TCP_ADDR",
            "KAFKA_HEAP_OPTS",
            "KAFKA_HOME",
            "REDIS_PORT",
            "REDIS_SERVICE_PORT",
            "NATS_PORT_4222_TCP",
            "POSTGRES_PASSWORD",
        ] {
            assert_eq!(of(name), None, "{name}");
        }
        // What is ours already, and what says nothing.
        for name in names().chain(["WASMILL_NAME", "KAFKA_PROP_LINGER_MS"]) {
            assert_eq!(of(name), None, "{name}");
        }
        let mut empty = Environment::default();
        empty.set("KAFKA_TOPICS", String::new());
        assert_eq!(near_misses(&empty), []);
    }
}

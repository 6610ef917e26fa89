//! What users set.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ledger::RedisLedger;
use super::sink::{LIKE, RedisSink};
use super::source::RedisSource;
use crate::queue::Start;
use crate::redis_link::{Advice, Link, RedisAddress, SharedLink, check_url, told};
use crate::table::{SinkConnector, SourceConnector};
use crate::units::HumanDuration;
use crate::{ConnectorError, Ledger, Sink, SinkTraits, Source, SourceTraits};

const ADVICE: Advice = Advice {
    no_permission: "the user must be allowed the commands of streams (+@stream), EVALSHA, SCRIPT LOAD, TIME, TYPE, GET, SET, DEL, HGET, HMGET and HSET, on the stream and on `wasmill:*`",
    wrong_type: "the key is no stream, but something else: give the stream another name",
};

/// The shortest time after which entries may be taken over: a process must be able to say that it is alive.
const CLAIM_IDLE_MIN: Duration = Duration::from_millis(100);

/// A stream of Redis (6.2 or later; 7 or later for exact counts of what was trimmed).
///
/// Alone and with positions of its own (`data_dir`), a pipeline reads it as a log, from its position on, whatever
/// the group has. Without such, any number of processes share it out by the consumer group, and entries that a
/// process had when it died are delivered again.
///
/// An entry's message is the value of `field`, a JSON envelope. An entry without that field is read as the JSON
/// object of all its fields, with text as values. A message without a time of its own has that of the entry's id.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedisSourceSpec {
    /// The server: `redis://[user:password@]host[:port][/database]`, or `rediss://` for TLS.
    pub url: String,
    /// A file that holds the password, in place of one in `url`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// With TLS: a file of certificates in PEM that are trusted beside the system's. Default: the system's alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The stream. One that isn't there yet is waited for. To delete it and fill it anew under the same name is
    /// noticed only while it has fewer entries than were read: run `wasmill reset` then.
    pub stream: String,
    /// The consumer group: its members share the entries out. Made where it is missing.
    pub group: String,
    /// This process's name in the group: of its own, and best the same when it starts again, for what it had in
    /// hand is then delivered to it at once, not after `claim_idle`. Default: the host's name, a dash, and the
    /// process's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer: Option<String>,
    /// Where to begin when the pipeline, or the group, is new. Default: earliest.
    #[serde(default)]
    pub start: Start,
    /// After how long without a sign of life a process's entries are taken over by the others. A process that
    /// runs says that it is alive three times as often. Default: 30s; at least 100ms.
    #[serde(default = "claim_idle")]
    pub claim_idle: HumanDuration,
    /// The field of an entry that holds its message. Default: message.
    #[serde(default = "field")]
    pub field: String,
}

/// A stream of Redis (6.2 or later). An entry has two fields: the message, as a JSON envelope, and `id`, the
/// output's id, which is the same when the output is made again: it is then not written twice.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedisSinkSpec {
    /// The server: `redis://[user:password@]host[:port][/database]`, or `rediss://` for TLS.
    pub url: String,
    /// A file that holds the password, in place of one in `url`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// With TLS: a file of certificates in PEM that are trusted beside the system's. Default: the system's alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The stream; made where it is missing.
    pub stream: String,
    /// The field of an entry that takes the message. Default: message.
    #[serde(default = "field")]
    pub field: String,
    /// Trim the stream to about this many entries. Trimming asks nobody: entries that a reader had not read, or
    /// not acknowledged, are lost to it. Make it far more than the slowest reader is ever behind. Default: the
    /// stream is not trimmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_len: Option<u64>,
}

fn claim_idle() -> HumanDuration {
    HumanDuration(Duration::from_secs(30))
}

fn field() -> String {
    "message".to_owned()
}

impl RedisSourceSpec {
    /// A spec with the defaults.
    #[must_use]
    pub fn new(url: impl Into<String>, stream: impl Into<String>, group: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            password_file: None,
            ca_file: None,
            stream: stream.into(),
            group: group.into(),
            consumer: None,
            start: Start::default(),
            claim_idle: claim_idle(),
            field: field(),
        }
    }

    pub(super) fn check(&self) -> Result<(), ConnectorError> {
        filled(&[("stream", &self.stream), ("group", &self.group), ("field", &self.field)])?;
        if self.claim_idle.0 < CLAIM_IDLE_MIN {
            return Err(ConnectorError::Fatal(format!(
                "claim_idle: {} is too short; the shortest is 100ms",
                self.claim_idle
            )));
        }
        Ok(())
    }

    pub(super) fn link(&self) -> Result<SharedLink, ConnectorError> {
        link(&self.url, self.ca_file.as_ref(), self.password_file.as_ref())
    }

    /// The address as it may be shown.
    pub(super) fn address(&self) -> String {
        shown(&self.url)
    }
}

impl RedisSinkSpec {
    /// A spec with the defaults.
    #[must_use]
    pub fn new(url: impl Into<String>, stream: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            password_file: None,
            ca_file: None,
            stream: stream.into(),
            field: field(),
            max_len: None,
        }
    }

    /// Whether it writes to the server and the database that a source reads from, by how their addresses are
    /// written: then an entry can be acknowledged together with what is written of it.
    #[must_use]
    pub fn is_same_redis(&self, source: &RedisSourceSpec) -> bool {
        match (check_url(&self.url), check_url(&source.url)) {
            (Ok(sink), Ok(source)) => sink.eq_ignore_ascii_case(&source),
            _ => false,
        }
    }

    pub(super) fn check(&self) -> Result<(), ConnectorError> {
        filled(&[("stream", &self.stream), ("field", &self.field)])?;
        if self.field == "id" {
            return Err(ConnectorError::Fatal(
                "field: `id` is the field of the output's id; choose another for the message".into(),
            ));
        }
        if self.max_len == Some(0) {
            return Err(ConnectorError::Fatal(
                "max_len: 0 would keep nothing; leave it out to keep everything".into(),
            ));
        }
        Ok(())
    }

    pub(super) fn link(&self) -> Result<SharedLink, ConnectorError> {
        link(&self.url, self.ca_file.as_ref(), self.password_file.as_ref())
    }

    /// The address as it may be shown.
    pub(super) fn address(&self) -> String {
        shown(&self.url)
    }
}

fn filled(fields: &[(&str, &str)]) -> Result<(), ConnectorError> {
    match fields.iter().find(|(_, text)| text.trim().is_empty()) {
        Some((field, _)) => Err(ConnectorError::Fatal(format!("{field}: it is empty; set it"))),
        None => Ok(()),
    }
}

fn link(
    url: &str,
    ca_file: Option<&PathBuf>,
    password_file: Option<&PathBuf>,
) -> Result<SharedLink, ConnectorError> {
    let at = RedisAddress { url: url.to_owned(), ca_file: ca_file.cloned() };
    let link = Link::new(&at, ADVICE).map_err(told)?;
    Ok(SharedLink::new(link.with_password_file(password_file.cloned())))
}

fn shown(url: &str) -> String {
    check_url(url).unwrap_or_else(|_| "no Redis address".to_owned())
}

// By hand, for the URL may hold a password.
impl fmt::Debug for RedisSourceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, password_file, ca_file, stream, group, consumer, start, claim_idle, field } = self;
        f.debug_struct("RedisSourceSpec")
            .field("url", &shown(url))
            .field("password_file", password_file)
            .field("ca_file", ca_file)
            .field("stream", stream)
            .field("group", group)
            .field("consumer", consumer)
            .field("start", start)
            .field("claim_idle", claim_idle)
            .field("field", field)
            .finish()
    }
}

impl fmt::Debug for RedisSinkSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, password_file, ca_file, stream, field, max_len } = self;
        f.debug_struct("RedisSinkSpec")
            .field("url", &shown(url))
            .field("password_file", password_file)
            .field("ca_file", ca_file)
            .field("stream", stream)
            .field("field", field)
            .field("max_len", max_len)
            .finish()
    }
}

impl SourceConnector for RedisSourceSpec {
    fn called(&self) -> String {
        self.stream.clone()
    }

    fn traits(&self) -> SourceTraits {
        SourceTraits {
            seekable: true,
            bounded: false,
            shared: true,
            shared_with_positions: false,
            forgets: false,
            append_times: true,
        }
    }

    fn source(&self) -> Result<Box<dyn Source>, ConnectorError> {
        Ok(Box::new(RedisSource::new(self.clone())?))
    }

    fn ledger(&self, pipeline: &str) -> Result<Option<Box<dyn Ledger>>, ConnectorError> {
        Ok(Some(Box::new(RedisLedger::new(self, pipeline)?)))
    }

    fn reset(&self) -> Result<(), ConnectorError> {
        RedisSource::new(self.clone())?.forget()
    }
}

impl SinkConnector for RedisSinkSpec {
    fn called(&self) -> String {
        self.stream.clone()
    }

    const CONDITIONS: &'static [&'static str] = &[
        "what Redis answered is kept by one primary with `appendonly yes` and `appendfsync always`; a failover may lose it",
    ];

    fn traits(&self) -> SinkTraits {
        LIKE
    }

    fn sink(&self) -> Result<Box<dyn Sink>, ConnectorError> {
        Ok(Box::new(RedisSink::new(self.clone())?))
    }
}

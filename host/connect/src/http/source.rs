//! Takes messages by POST into a log of its own, and reads that.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::answer::Intake;
use super::rate::Allowance;
use super::server::Server;
use super::token::{check_token, token};
use crate::local_log::{Appender, AppenderSettings};
use crate::log::{LogSource, LogSourceSpec};
use crate::secret::Secret;
use crate::table::SourceConnector;
use crate::units::HumanSize;
use crate::{ConnectorError, Partition, Reader, Source, SourceTraits, os, pace};

/// How much memory bodies may have together, about; and how many there may be at once.
const BODIES_BYTES: u64 = 64 << 20;
const BODIES: std::ops::RangeInclusive<u64> = 4..=256;
/// No body may be longer than this.
const BODY_BYTES_MAX: u64 = 256 << 20;
/// How many of the longest bodies the log must have room for: it goes by whole segments.
const BODIES_IN_LOG: u64 = 8;

/// Messages that clients send by HTTP POST: one JSON envelope, a JSON array of them, or one a line
/// (`application/x-ndjson`). They are kept in a log on this machine's disk and read from there; a client is
/// answered `202 {"accepted": N}` when they are durable. All of a request is taken or nothing, so that it can be
/// sent again after any other answer. A client that lost an answer sends the request again with the same
/// `Idempotency-Key` header, and it is not taken twice: the last 100,000 keys of a day are known (fewer where
/// `max_log` is below 113MiB). `wasmill reset` keeps the log: what is in it is read again. For TLS put a proxy
/// before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpSourceSpec {
    /// The address to listen on, such as 127.0.0.1:8088, or 0.0.0.0:8088 for all of the machine's.
    pub listen: String,
    /// The path that messages are posted to. Default: /.
    #[serde(default = "root")]
    pub path: String,
    /// The directory of its log; made where it is missing. It belongs to this source alone.
    pub log: PathBuf,
    /// The token that a request must have as `Authorization: Bearer TOKEN`. Default: none is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// A file that holds the token, read when the pipeline starts; in place of `token`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// A longer body is refused (413). At most 256MiB. Default: 1MiB.
    #[serde(default = "max_body")]
    pub max_body: HumanSize,
    /// A body with a longer message is refused (413). Default: as long as the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_message: Option<HumanSize>,
    /// At most this many messages a second are taken; above it a request is refused (429) and told when to come
    /// again. Default: as many as come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// How much the log may hold, at least 8 times `max_body`. Above it requests are refused (503) until the
    /// pipeline has read some of it. What is read goes by eighths of it, or by 64MiB. Default: 1GiB.
    #[serde(default = "max_log")]
    pub max_log: HumanSize,
}

fn root() -> String {
    "/".to_owned()
}

fn max_body() -> HumanSize {
    HumanSize(1 << 20)
}

fn max_log() -> HumanSize {
    HumanSize(1 << 30)
}

impl HttpSourceSpec {
    /// A spec with the defaults.
    #[must_use]
    pub fn new(listen: impl Into<String>, log: impl Into<PathBuf>) -> Self {
        Self {
            listen: listen.into(),
            path: root(),
            log: log.into(),
            token: None,
            token_file: None,
            max_body: max_body(),
            max_message: None,
            rate: None,
            max_log: max_log(),
        }
    }

    fn check(&self) -> Result<(), ConnectorError> {
        let fatal = |text: String| Err(ConnectorError::Fatal(text));
        if !self
            .listen
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        {
            return fatal(format!(
                "listen of `{}`: expected ADDRESS:PORT, such as 127.0.0.1:8088",
                self.listen
            ));
        }
        if !self.path.starts_with('/') || self.path.contains(['?', '#', ' ']) {
            return fatal(format!("path of `{}`: expected a path such as /messages", self.path));
        }
        if self.max_body.0 == 0 || self.max_body.0 > BODY_BYTES_MAX {
            return fatal(format!("max_body of {}: expected 1B to 256MiB", self.max_body));
        }
        if self.max_log.0 < self.max_body.0.saturating_mul(BODIES_IN_LOG) {
            return fatal(format!(
                "max_log of {}: expected at least 8 times `max_body`, which is {}",
                self.max_log, self.max_body
            ));
        }
        check_token(self.token.as_ref(), self.token_file.as_deref())?;
        pace::check(self.rate).map(drop)
    }
}

impl SourceConnector for HttpSourceSpec {
    fn traits(&self) -> SourceTraits {
        crate::log::LIKE
    }

    fn source(&self) -> Result<Box<dyn Source>, ConnectorError> {
        Ok(Box::new(HttpSource::new(self.clone())?))
    }
}

/// Takes messages by POST into a log, from when its partitions are taken until it is closed or dropped.
#[derive(Debug)]
pub struct HttpSource {
    spec: HttpSourceSpec,
    log: LogSource,
    running: Option<(Server, Arc<Intake>)>,
}

impl HttpSource {
    /// A source that listens as a spec says; not yet.
    ///
    /// # Errors
    /// What is wrong with the spec.
    pub fn new(spec: HttpSourceSpec) -> Result<Self, ConnectorError> {
        spec.check()?;
        let log = LogSource::new(LogSourceSpec::new(&spec.log));
        Ok(Self { spec, log, running: None })
    }

    /// The address that it listens on, while it does.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.running.as_ref().map(|(server, _)| server.address)
    }

    async fn start(&mut self) -> Result<(), ConnectorError> {
        let spec = &self.spec;
        let (secret, file) = (spec.token.clone(), spec.token_file.clone());
        let token = os::blocking(move || token(secret.as_ref(), file.as_deref())).await?;
        let settings = AppenderSettings { log_bytes_max: spec.max_log.0 };
        let appender = Appender::open(&spec.log, settings).await?;
        let listed = self.log.take_all().await?;
        let bytes_max = |size: HumanSize| usize::try_from(size.0).unwrap_or(usize::MAX);
        let body_bytes_max = bytes_max(spec.max_body);
        let bodies = (BODIES_BYTES / spec.max_body.0).clamp(*BODIES.start(), *BODIES.end());
        let incarnation = listed.first().map(|p| p.incarnation.as_bytes()).unwrap_or_default();
        let intake = Arc::new(Intake {
            path: spec.path.clone(),
            token: token.map(|token| openssl::sha::sha256(token.reveal().as_bytes())),
            body_bytes_max,
            message_bytes_max: spec.max_message.map_or(body_bytes_max, bytes_max),
            allowance: spec.rate.map(Allowance::new),
            bodies: Semaphore::new(usize::try_from(bodies).unwrap_or(4)),
            appender,
            seed: xxhash_rust::xxh3::xxh3_64(incarnation),
        });
        let server = Server::start(&spec.listen, Arc::clone(&intake)).await?;
        self.running = Some((server, intake));
        Ok(())
    }
}

#[async_trait]
impl Source for HttpSource {
    async fn partitions(&mut self) -> Result<Vec<Partition>, ConnectorError> {
        let mut partitions = self.log.partitions().await?;
        for partition in &mut partitions {
            partition.name = format!("http {}{}", self.spec.listen, self.spec.path);
        }
        Ok(partitions)
    }

    async fn take_all(&mut self) -> Result<Vec<Partition>, ConnectorError> {
        if self.running.is_none() {
            self.start().await?;
        }
        self.partitions().await
    }

    async fn check_append_times(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn open(&mut self, partition: u32, offset: u64) -> Result<Box<dyn Reader>, ConnectorError> {
        self.log.open(partition, offset).await
    }

    async fn commit(&mut self, offsets: &[(u32, u64)]) -> Result<(), ConnectorError> {
        self.log.commit(offsets).await
    }

    fn extents(&self) -> Vec<(u32, u64)> {
        self.log.extents()
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        if let Some((server, intake)) = self.running.take() {
            server.close().await;
            // Where a request still has it, that is cut off and lets go of it by itself.
            if let Some(intake) = Arc::into_inner(intake) {
                intake.appender.close().await?;
            }
        }
        self.log.close().await
    }
}

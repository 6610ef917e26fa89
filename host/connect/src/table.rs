//! The registration table: one line a connector.
//!
//! A connector is a folder with its spec, which is a struct that serde reads and whose comments are the
//! users' documentation, and a line below. From the lines come [`SourceSpec`] and [`SinkSpec`], which a
//! pipeline spec holds: `file: {path: flights.jsonl}`, or `stdin` alone where a spec needs nothing.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::kafka::KafkaSinkSpec;
use crate::{ConnectorError, Ledger, Sink, SinkTraits, Source, SourceTraits};

/// A spec that makes a source.
pub trait SourceConnector: DeserializeOwned + JsonSchema {
    /// What the source is like.
    fn traits(&self) -> SourceTraits;
    /// The source; connects to nothing yet.
    ///
    /// # Errors
    /// What is wrong with the spec.
    fn source(&self) -> Result<Box<dyn Source>, ConnectorError>;
    /// What is read is called so: a topic, a subject, a stream, a path.
    fn called(&self) -> String {
        String::new()
    }
    /// Why no codec can be chosen for it, if none can.
    fn refuses_codec(&self) -> Option<&'static str> {
        None
    }
    /// Forgets the positions that the source itself keeps for the pipeline: `wasmill reset`.
    ///
    /// # Errors
    /// Who still uses them, or what could not be forgotten.
    fn reset(&self) -> Result<(), ConnectorError> {
        Ok(())
    }
    /// Whether its positions can be a part of the transactions of the cluster that a sink writes to.
    fn is_in_transactions_of(&self, _: &KafkaSinkSpec) -> bool {
        false
    }
    /// Where the processes that share a pipeline agree on what is none of their messages; connects to nothing yet.
    /// None where its system has no place for that: no source that is shared.
    ///
    /// # Errors
    /// What is wrong with the spec.
    fn ledger(&self, _pipeline: &str) -> Result<Option<Box<dyn Ledger>>, ConnectorError> {
        Ok(None)
    }
}

/// A spec that makes a sink.
pub trait SinkConnector: DeserializeOwned + JsonSchema {
    /// What the sink is like.
    fn traits(&self) -> SinkTraits;
    /// What must be true of its system for what it promises, for `explain`: sentences.
    const CONDITIONS: &'static [&'static str] = &[];
    /// The sink; connects to nothing yet.
    ///
    /// # Errors
    /// What is wrong with the spec.
    fn sink(&self) -> Result<Box<dyn Sink>, ConnectorError>;
    /// What is written is called so: a topic, a subject, a stream, a path.
    fn called(&self) -> String {
        String::new()
    }
    /// Why no codec can be chosen for it, if none can.
    fn refuses_codec(&self) -> Option<&'static str> {
        None
    }
    /// Removes what earlier runs wrote, where that is the sink's own: `wasmill reset`.
    ///
    /// # Errors
    /// What could not be removed.
    fn reset(&self) -> Result<(), ConnectorError> {
        Ok(())
    }
    /// Itself, where what it writes can be a part of a Kafka cluster's transactions.
    fn in_transactions(&self) -> Option<&KafkaSinkSpec> {
        None
    }
    /// Whether the sink knows which single message its other end doesn't take, and can go on without it:
    /// [`Sink::give_up_after`].
    fn gives_up(&self) -> bool {
        false
    }
}

/// A connector, for lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connector {
    /// Its name in a pipeline spec.
    pub name: &'static str,
    /// Whether it can be a source.
    pub source: bool,
    /// Whether it can be a sink.
    pub sink: bool,
}

/// The connectors of this build, by name.
#[must_use]
pub fn connectors() -> Vec<Connector> {
    let mut names: Vec<&'static str> = SourceSpec::NAMES.iter().chain(SinkSpec::NAMES).copied().collect();
    names.sort_unstable();
    names.dedup();
    let connector = |name| Connector {
        name,
        source: SourceSpec::NAMES.contains(&name),
        sink: SinkSpec::NAMES.contains(&name),
    };
    names.into_iter().map(connector).collect()
}

wasmill_codec::named! {
    /// A source in a pipeline spec.
    SourceSpec, SourceOf, "source":
    "file" => File(crate::file::FileSourceSpec);
    "generator" => Generator(crate::generator::GeneratorSourceSpec);
    "http" => Http(crate::http::HttpSourceSpec);
    "kafka" => Kafka(crate::kafka::KafkaSourceSpec);
    "log" => Log(crate::log::LogSourceSpec);
    "nats" => Nats(crate::nats::NatsSourceSpec);
    "redis" => Redis(crate::redis_streams::RedisSourceSpec);
    "stdin" => Stdin(crate::stdio::StdinSourceSpec);
}

wasmill_codec::named! {
    /// A sink in a pipeline spec.
    SinkSpec, SinkOf, "sink":
    "file" => File(crate::file::FileSinkSpec);
    "http" => Http(crate::http::HttpSinkSpec);
    "kafka" => Kafka(crate::kafka::KafkaSinkSpec);
    "log" => Log(crate::log::LogSinkSpec);
    "nats" => Nats(crate::nats::NatsSinkSpec);
    "postgres" => Postgres(crate::postgres::PostgresSinkSpec);
    "redis" => Redis(crate::redis_streams::RedisSinkSpec);
    "stdout" => Stdout(crate::stdio::StdoutSinkSpec);
}

impl SourceSpec {
    /// The spec of a topic that is read, where it is one.
    #[must_use]
    pub fn kafka(&self) -> Option<&crate::kafka::KafkaSourceSpec> {
        match self {
            Self::Kafka(spec) => Some(spec),
            _ => None,
        }
    }

    /// The spec of a Redis stream that is read, where it is one.
    #[must_use]
    pub fn redis(&self) -> Option<&crate::redis_streams::RedisSourceSpec> {
        match self {
            Self::Redis(spec) => Some(spec),
            _ => None,
        }
    }

    /// What the source is like.
    #[must_use]
    pub fn traits(&self) -> SourceTraits {
        self.spec().like()
    }

    /// Forgets the positions that the source itself keeps for the pipeline.
    ///
    /// # Errors
    /// Who still uses them, or what could not be forgotten.
    pub fn reset(&self) -> Result<(), ConnectorError> {
        self.spec().clear()
    }

    /// Whether its positions can be a part of the transactions of the cluster that a sink writes to.
    #[must_use]
    pub fn is_in_transactions_of(&self, sink: &KafkaSinkSpec) -> bool {
        self.spec().commits_with(sink)
    }

    /// Where the processes that share a pipeline agree; connects to nothing yet.
    ///
    /// # Errors
    /// What is wrong with the spec.
    pub fn ledger(&self, pipeline: &str) -> Result<Option<Box<dyn Ledger>>, ConnectorError> {
        self.spec().agrees(pipeline)
    }

    /// What is read is called so.
    #[must_use]
    pub fn called(&self) -> String {
        self.spec().name_of_it()
    }

    /// Why no codec can be chosen for it, if none can.
    #[must_use]
    pub fn refuses_codec(&self) -> Option<&'static str> {
        self.spec().has_no_codec()
    }

    /// The source; connects to nothing yet.
    ///
    /// # Errors
    /// What is wrong with the spec.
    pub fn source(&self) -> Result<Box<dyn Source>, ConnectorError> {
        self.spec().make()
    }
}

impl SinkSpec {
    /// What the sink is like.
    #[must_use]
    pub fn traits(&self) -> SinkTraits {
        self.spec().like()
    }

    /// The spec of what it writes, where that can be a part of a Kafka cluster's transactions.
    #[must_use]
    pub fn in_transactions(&self) -> Option<&KafkaSinkSpec> {
        self.spec().transactional()
    }

    /// The spec of a table that is written, where it is one.
    #[must_use]
    pub fn postgres(&self) -> Option<&crate::postgres::PostgresSinkSpec> {
        match self {
            Self::Postgres(spec) => Some(spec),
            _ => None,
        }
    }

    /// The spec of a Redis stream that is written, where it is one.
    #[must_use]
    pub fn redis(&self) -> Option<&crate::redis_streams::RedisSinkSpec> {
        match self {
            Self::Redis(spec) => Some(spec),
            _ => None,
        }
    }

    /// Whether it can give single messages up.
    #[must_use]
    pub fn gives_up(&self) -> bool {
        self.spec().can_give_up()
    }

    /// What must be true of its system for what it promises.
    #[must_use]
    pub fn conditions(&self) -> &'static [&'static str] {
        self.spec().needs()
    }

    /// What is written is called so.
    #[must_use]
    pub fn called(&self) -> String {
        self.spec().name_of_it()
    }

    /// Why no codec can be chosen for it, if none can.
    #[must_use]
    pub fn refuses_codec(&self) -> Option<&'static str> {
        self.spec().has_no_codec()
    }

    /// The sink; connects to nothing yet.
    ///
    /// # Errors
    /// What is wrong with the spec.
    pub fn sink(&self) -> Result<Box<dyn Sink>, ConnectorError> {
        self.spec().make()
    }

    /// Removes what earlier runs wrote, where that is the sink's own.
    ///
    /// # Errors
    /// What could not be removed.
    pub fn reset(&self) -> Result<(), ConnectorError> {
        self.spec().clear()
    }
}

/// The part of [`SourceConnector`] that a `dyn` can have.
trait SourceOf {
    fn name_of_it(&self) -> String;
    fn has_no_codec(&self) -> Option<&'static str>;
    fn commits_with(&self, sink: &KafkaSinkSpec) -> bool;
    fn like(&self) -> SourceTraits;
    fn clear(&self) -> Result<(), ConnectorError>;
    fn agrees(&self, pipeline: &str) -> Result<Option<Box<dyn Ledger>>, ConnectorError>;
    fn make(&self) -> Result<Box<dyn Source>, ConnectorError>;
}

impl<T: SourceConnector> SourceOf for T {
    fn name_of_it(&self) -> String {
        self.called()
    }
    fn has_no_codec(&self) -> Option<&'static str> {
        self.refuses_codec()
    }
    fn commits_with(&self, sink: &KafkaSinkSpec) -> bool {
        self.is_in_transactions_of(sink)
    }
    fn like(&self) -> SourceTraits {
        self.traits()
    }
    fn clear(&self) -> Result<(), ConnectorError> {
        self.reset()
    }
    fn agrees(&self, pipeline: &str) -> Result<Option<Box<dyn Ledger>>, ConnectorError> {
        self.ledger(pipeline)
    }
    fn make(&self) -> Result<Box<dyn Source>, ConnectorError> {
        self.source()
    }
}

/// The part of [`SinkConnector`] that a `dyn` can have.
trait SinkOf {
    fn name_of_it(&self) -> String;
    fn has_no_codec(&self) -> Option<&'static str>;
    fn needs(&self) -> &'static [&'static str];
    fn transactional(&self) -> Option<&KafkaSinkSpec>;
    fn can_give_up(&self) -> bool;
    fn like(&self) -> SinkTraits;
    fn make(&self) -> Result<Box<dyn Sink>, ConnectorError>;
    fn clear(&self) -> Result<(), ConnectorError>;
}

impl<T: SinkConnector> SinkOf for T {
    fn name_of_it(&self) -> String {
        self.called()
    }
    fn has_no_codec(&self) -> Option<&'static str> {
        self.refuses_codec()
    }
    fn needs(&self) -> &'static [&'static str] {
        T::CONDITIONS
    }
    fn transactional(&self) -> Option<&KafkaSinkSpec> {
        self.in_transactions()
    }
    fn can_give_up(&self) -> bool {
        self.gives_up()
    }
    fn like(&self) -> SinkTraits {
        self.traits()
    }
    fn make(&self) -> Result<Box<dyn Sink>, ConnectorError> {
        self.sink()
    }
    fn clear(&self) -> Result<(), ConnectorError> {
        self.reset()
    }
}

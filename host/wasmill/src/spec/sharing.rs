//! Where a pipeline's positions are kept, and whether several processes can run it together.

use wasmill_connect::SinkTraits;
use wasmill_connect::kafka::KafkaSinkSpec;
use wasmill_connect::postgres::PostgresSinkSpec;
use wasmill_connect::redis_streams::RedisSourceSpec;
use wasmill_connect::store::RedisAddress;

use super::{Delivery, Grant, Order, Part, Pipeline, SecretUrl, SinkSpec, Stage};

/// Where state is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum StateSpec {
    /// In this process: on disk with a `data_dir`, else in memory.
    #[default]
    Local,
    /// In Redis, where several processes reach it.
    Redis {
        /// Its URL: `redis://…` or `rediss://…`.
        url: SecretUrl,
        /// Certificates that are trusted beside the system's.
        ca_file: Option<std::path::PathBuf>,
    },
}

impl StateSpec {
    /// Where its Redis is, if it has one.
    #[must_use]
    pub fn redis(&self) -> Option<RedisAddress> {
        match self {
            Self::Local => None,
            Self::Redis { url, ca_file } => {
                Some(RedisAddress { url: url.reveal().to_owned(), ca_file: ca_file.clone() })
            }
        }
    }
}

/// Whether several processes may run a pipeline together, and by what they share its partitions out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    /// Nothing is kept but positions, and the sources' groups keep those.
    Source,
    /// The positions are in a store that all of them reach: in PostgreSQL, or in Redis with state that may be added
    /// to from several sides. Whether the aggregate is commutative shows when its plugin is loaded.
    Store,
    /// An exchange through a topic stands between two parts, whose partitions are shared out each for itself;
    /// state is with the exchange's.
    Exchange,
    /// One process runs it alone.
    Alone,
}

/// Where positions are kept, and the state with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// With the sources' groups: there is no state.
    Source,
    /// In Redis.
    Redis,
    /// In the database that it writes to, by the transactions of the rows.
    Postgres,
    /// With its source's group in Redis: the script that writes results acknowledges what they are results of.
    Acked,
    /// In the data directory.
    Disk,
    /// In a topic of the cluster that it writes to, by the transactions of what it writes; a store here
    /// follows.
    Changelog,
    /// Nowhere that outlives the process.
    Memory,
}

impl Pipeline {
    /// Whether which plugin did what is committed with the results: one process has all of the pipeline.
    #[must_use]
    pub fn remembers_plugins(&self) -> bool {
        self.sharing() == Sharing::Alone && self.part != Part::Behind
    }

    /// Whether the processes of a group can share out the partitions of every source.
    fn sources_are_shared(&self) -> bool {
        self.sources.iter().all(|s| s.traits().shared)
    }

    /// Whether several processes may run it together.
    #[must_use]
    pub fn sharing(&self) -> Sharing {
        match self.part {
            Part::Before => return Sharing::Source,
            // What this process has of the exchange is its own, as long as it has it.
            Part::Behind => return Sharing::Alone,
            Part::Whole => {}
        }
        if self.exchange_partitions.is_some() {
            return Sharing::Exchange;
        }
        if !self.alone_because().is_empty() {
            return Sharing::Alone;
        }
        match self.kept() {
            Kept::Source | Kept::Acked => Sharing::Source,
            Kept::Changelog | Kept::Disk | Kept::Memory => Sharing::Alone,
            Kept::Redis | Kept::Postgres => Sharing::Store,
        }
    }

    /// The sink whose database commits the pipeline, where it writes to one and nothing else commits it.
    #[must_use]
    pub fn postgres(&self) -> Option<&PostgresSinkSpec> {
        if self.state != StateSpec::Local || self.transactions().is_some() {
            return None;
        }
        self.sinks.iter().find_map(|s| s.connector.postgres())
    }

    /// The spec of what a sink writes, where that is a part of the transactions that commit the pipeline.
    #[must_use]
    pub fn in_postgres<'a>(&self, sink: &'a SinkSpec) -> Option<&'a PostgresSinkSpec> {
        let ours = self.postgres()?;
        sink.postgres().filter(|sink| ours.is_same_database(sink))
    }

    /// The source whose entries are acknowledged by the script that writes their results: a pipeline without state
    /// from a Redis to the same one.
    #[must_use]
    pub fn acked(&self) -> Option<&RedisSourceSpec> {
        let [source] = self.sources.as_slice() else { return None };
        let source = source.redis()?;
        let elsewhere = self.is_stateful() || self.postgres().is_some() || self.transactions().is_some();
        let writes = |sink: &SinkSpec| sink.redis().is_some_and(|sink| sink.is_same_redis(source));
        let some = self.sinks.iter().any(|s| writes(&s.connector));
        (!elsewhere && some && !self.needs_tokens(|sink| !writes(sink))).then_some(source)
    }

    /// Whether what a sink writes is a part of what acknowledges the source.
    #[must_use]
    pub fn in_acks(&self, sink: &SinkSpec) -> bool {
        self.acked().zip(sink.redis()).is_some_and(|(source, sink)| sink.is_same_redis(source))
    }

    /// Whether what sinks must be told at a start is kept with the positions.
    #[must_use]
    pub fn keeps_tokens(&self) -> bool {
        let kept = matches!(self.kept(), Kept::Disk | Kept::Redis | Kept::Postgres | Kept::Changelog);
        self.part != Part::Before && self.sharing() == Sharing::Alone && kept
    }

    /// Whether a sink among `those` must be told at a start how far the last commit was: one that hides what is not
    /// committed would lose it else; one that refuses repeats needs it to be exactly once.
    fn needs_tokens(&self, those: impl Fn(&SinkSpec) -> bool) -> bool {
        let exact = self.delivery == Delivery::ExactlyOnce && self.is_durable();
        let sinks = self.sinks.iter().map(|s| &s.connector).chain(&self.dead_letter);
        let mut traits = sinks.filter(|sink| those(sink)).map(SinkSpec::traits);
        traits.any(|t| t.by_token && (t.transactional || exact))
    }

    /// Whether what it keeps in this process, or in Redis, outlives it.
    fn is_durable(&self) -> bool {
        self.data_dir.is_some() || self.state != StateSpec::Local
    }

    /// Whether a sink must be told what only this process or its store keeps, or the pipeline is exactly once by that:
    /// then no group may keep the positions.
    fn keeps_positions_with_its_sinks(&self) -> bool {
        let once = |s: &super::Sink| {
            let traits = s.connector.traits();
            traits.transactional || traits.refuses_repeats
        };
        self.needs_tokens(|sink| self.in_transactions(sink).is_none())
            || (self.delivery == Delivery::ExactlyOnce && self.is_durable() && self.sinks.iter().all(once))
    }

    /// The sink whose cluster's transactions commit the pipeline, where it must be exact and writes to Kafka.
    #[must_use]
    pub fn transactions(&self) -> Option<&KafkaSinkSpec> {
        let exact = self.delivery == Delivery::ExactlyOnce && self.state == StateSpec::Local;
        self.sinks.iter().find_map(|s| s.connector.in_transactions()).filter(|_| exact)
    }

    /// The id of its transactions.
    #[must_use]
    pub fn transactional_id(&self) -> String {
        let slot = match (&self.slot, self.sharing()) {
            (Some(slot), _) => slot.clone(),
            // Who comes takes over from who was there.
            (None, Sharing::Alone) if self.part == Part::Whole => "0".to_owned(),
            (None, _) => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        };
        format!("{}-{slot}", self.name)
    }

    /// The spec of what a sink writes, where that is a part of the pipeline's transactions.
    #[must_use]
    pub fn in_transactions<'a>(&self, sink: &'a SinkSpec) -> Option<&'a KafkaSinkSpec> {
        let ours = self.transactions()?;
        sink.in_transactions().filter(|sink| ours.shares_transactions_with(sink))
    }

    /// What a sink of this pipeline is like.
    #[must_use]
    pub fn sink_traits(&self, sink: &SinkSpec) -> SinkTraits {
        let with_commit =
            self.in_transactions(sink).is_some() || self.in_postgres(sink).is_some() || self.in_acks(sink);
        match with_commit {
            true => SinkTraits { transactional: true, refuses_repeats: true, by_token: false },
            false => sink.traits(),
        }
    }

    /// What keeps several processes from running it together, each with what to change; empty where they
    /// can.
    #[must_use]
    pub fn alone_because(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.exchange_partitions.is_some() {
            return reasons;
        }
        for source in &self.sources {
            if !source.traits().shared {
                let name = source.name();
                reasons.push(format!(
                    "the source `{name}` has no group that shares its partitions out; read from Kafka, NATS or Redis"
                ));
            } else if !source.traits().shared_with_positions
                && !matches!(self.kept(), Kept::Source | Kept::Acked)
            {
                let name = source.name();
                reasons.push(format!(
                    "its positions are kept by the pipeline, and a shared consumer of the source `{name}` knows none; only a pipeline without state that leaves them to the source can be shared"
                ));
            } else if self.transactions().is_some_and(|sink| !source.is_in_transactions_of(sink)) {
                let name = source.name();
                reasons.push(format!(
                    "the source `{name}` is on another cluster than what it writes to, whose transactions can't hold its group's offsets; read from the same `brokers`"
                ));
            }
        }
        if self.is_stateful() && self.transactions().is_some() {
            let reason = "its exchange is in memory; for several processes put `exchange: { topic: { partitions: … } }` beside the `key_by`";
            reasons.push(reason.to_owned());
        } else if self.postgres().is_some() && self.needs_tokens(|sink| self.in_postgres(sink).is_none()) {
            let reason =
                "what its other sinks have taken is kept with the positions, and one process does that";
            reasons.push(reason.to_owned());
        } else if self.is_stateful() && self.postgres().is_some() {
            let reason = "its state is in PostgreSQL with the rows that depend on it, and one process has it";
            reasons.push(reason.to_owned());
        } else if !self.is_stateful()
            && self.sources_are_shared()
            && self.keeps_positions_with_its_sinks()
            && matches!(self.kept(), Kept::Disk | Kept::Redis | Kept::Memory | Kept::Changelog)
        {
            let reason = "it keeps its positions with what its sinks have taken, and one process does that";
            reasons.push(reason.to_owned());
        } else if self.is_stateful() && self.state == StateSpec::Local {
            reasons.push(
                "its state is in this process alone; keep it in Redis: `state: { redis: { url: … } }`, or USE_DISTRIBUTED_STATE=true"
                    .to_owned(),
            );
        }
        if self.stages.iter().filter(|s| matches!(s, Stage::Aggregate(_))).count() > 1 {
            let reason = "it has several aggregates, and what the first one tells the next depends on what other processes put to it; use one aggregate";
            reasons.push(reason.to_owned());
        }
        for stage in &self.stages {
            match stage {
                Stage::Aggregate(a) if a.window.is_some() => reasons.push(format!(
                    "the windows of the stage `{}` need the stream time of all partitions in one place; use a running aggregate",
                    a.name
                )),
                Stage::Aggregate(a) if a.order == Order::Log => reasons.push(format!(
                    "the stage `{}` takes messages in the log's order, which needs all partitions in one place; use `order: arrival`",
                    a.name
                )),
                Stage::Transform(p) | Stage::Filter(p) if p.grants.contains(&Grant::State) => reasons.push(format!(
                    "the stage `{}` has state of its own, which two processes can't both change; make it an aggregate, or take the grant `state` away",
                    p.name
                )),
                _ => {}
            }
        }
        reasons
    }

    /// Whether there is a store on disk: what counts, or what follows what counts.
    #[must_use]
    pub fn keeps_on_disk(&self) -> bool {
        self.data_dir.is_some() && matches!(self.kept(), Kept::Disk | Kept::Changelog)
    }

    /// Where its positions are kept, and its state with them. A pipeline without state leaves them to its
    /// sources, where those can keep them, even if it has a `data_dir`: so more processes can join.
    #[must_use]
    pub fn kept(&self) -> Kept {
        if let Some(sink) = self.transactions() {
            match self.part {
                Part::Before => return Kept::Source,
                Part::Behind => return Kept::Changelog,
                Part::Whole => {}
            }
            let positions = self.sources.iter().all(|s| s.is_in_transactions_of(sink));
            let elsewhere =
                self.is_stateful() || self.needs_tokens(|sink| self.in_transactions(sink).is_none());
            return if positions && !elsewhere { Kept::Source } else { Kept::Changelog };
        }
        if self.postgres().is_some() {
            return Kept::Postgres;
        }
        if self.acked().is_some() {
            return Kept::Acked;
        }
        if !self.is_stateful() && self.sources_are_shared() && !self.keeps_positions_with_its_sinks() {
            return Kept::Source;
        }
        match (&self.state, &self.data_dir) {
            (StateSpec::Redis { .. }, _) => Kept::Redis,
            (StateSpec::Local, Some(_)) => Kept::Disk,
            (StateSpec::Local, None) => Kept::Memory,
        }
    }
}

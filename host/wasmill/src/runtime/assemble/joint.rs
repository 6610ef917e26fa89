//! Stores whose commits hold what sinks wrote: rows and positions in one transaction, results and acknowledgements in
//! one script.

use std::sync::Arc;

use wasmill_connect::postgres::PostgresStore;
use wasmill_connect::redis_streams::RedisAcksStore;
use wasmill_connect::{ConnectorError, Sink, Source};
use wasmill_engine::state::StateStore;

use super::super::claims::Claims;
use super::super::retry::{Ends, insist, off_the_network};
use super::outside;
use crate::spec::{Kept, Pipeline, Sharing, SinkSpec};

/// Such a store.
pub(super) enum Joint {
    /// A database.
    Postgres(Arc<PostgresStore>, Sharing),
    /// Acknowledgements of a Redis stream's group.
    Acks(Arc<RedisAcksStore>),
}

impl Joint {
    /// The one of a pipeline that has such; `source` is its first.
    pub async fn open(
        pipeline: &Pipeline,
        source: &mut dyn Source,
        ends: &Ends,
    ) -> anyhow::Result<Option<Self>> {
        match pipeline.kept() {
            Kept::Postgres => {
                let Some(sink) = pipeline.postgres() else { return Ok(None) };
                let sharing = pipeline.sharing();
                let open = || {
                    let (address, name) = (sink.address(), pipeline.name.clone());
                    let open = move || match sharing {
                        Sharing::Store => PostgresStore::open_shared(&address, &name),
                        _ => PostgresStore::open_alone(&address, &name),
                    };
                    off_the_network(open)
                };
                let store = insist!(ends, "postgres", open()).map_err(outside)?;
                Ok(Some(Self::Postgres(Arc::new(store), sharing)))
            }
            Kept::Acked => {
                let (Some(spec), Some(acks)) = (pipeline.acked(), source.redis_acks()) else {
                    return Ok(None);
                };
                let store = RedisAcksStore::new(spec, acks, &pipeline.name).map_err(outside)?;
                Ok(Some(Self::Acks(Arc::new(store))))
            }
            _ => Ok(None),
        }
    }

    /// A sink of it, where what it writes can be in its commits.
    pub fn sink(
        &self,
        pipeline: &Pipeline,
        spec: &SinkSpec,
    ) -> Option<Result<Box<dyn Sink>, ConnectorError>> {
        match self {
            Self::Postgres(store, _) => pipeline.in_postgres(spec).map(|spec| store.sink(spec)),
            Self::Acks(store) => spec.redis().filter(|_| pipeline.in_acks(spec)).map(|spec| store.sink(spec)),
        }
    }

    /// The store, and where the positions of shared sources are, if they are in it.
    pub fn store(&self) -> (Arc<dyn StateStore>, Option<Claims>) {
        match self {
            Self::Postgres(store, sharing) => {
                let shared = *sharing == Sharing::Store;
                (Arc::clone(store) as _, shared.then(|| Claims(Arc::clone(store) as _)))
            }
            Self::Acks(store) => (Arc::clone(store) as _, None),
        }
    }
}

//! Forgets what a pipeline keeps.

use wasmill_connect::ConnectorError;
use wasmill_connect::kafka::{Changelog, delete_own_topics};
use wasmill_connect::postgres::PostgresStore;
use wasmill_connect::store::{DiskStore, RedisStore};

use super::super::tokio_runtime;
use super::outside;
use crate::plugins::{Agreed, Shelf};
use crate::spec::{Kept, Pipeline};

/// Forgets positions and state, and what the sinks hold of earlier runs.
pub(in crate::runtime) fn reset(pipeline: &Pipeline) -> anyhow::Result<()> {
    let transactions = pipeline.transactions();
    if matches!(pipeline.kept(), Kept::Source | Kept::Acked) || transactions.is_some() {
        // First, for it is refused while others are in the group: then nothing else is forgotten either.
        for source in &pipeline.sources {
            source.reset().map_err(outside)?;
        }
    }
    if let Some(sink) = transactions.filter(|_| pipeline.kept() == Kept::Changelog) {
        let changelog = Changelog::topic_of(&pipeline.name);
        let exchange = pipeline.exchange_topic().map(|exchange| exchange.topic);
        let topics: Vec<String> = exchange.into_iter().chain([changelog]).collect();
        delete_own_topics(sink, &topics).map_err(outside)?;
        for partition in 0..pipeline.exchange_partitions.unwrap_or(0) {
            if let Some(directory) =
                pipeline.part_directory(partition).filter(|directory| DiskStore::is_in(directory))
            {
                DiskStore::reset_at(&directory).map_err(outside)?;
            }
        }
    }
    if let Some(directory) = pipeline.state_directory() {
        DiskStore::reset_at(&directory).map_err(outside)?;
    }
    if let Some(sink) = pipeline.postgres() {
        PostgresStore::reset_at(&sink.address(), &pipeline.name).map_err(outside)?;
    }
    if let Some(redis) = pipeline.state.redis() {
        RedisStore::reset_at(redis, &pipeline.name).map_err(outside)?;
    }
    for sink in pipeline.sinks.iter().map(|s| &s.connector).chain(&pipeline.dead_letter) {
        sink.reset().map_err(outside)?;
    }
    pipeline.clone().parts().iter().try_for_each(forget_list)
}

/// Forgets what the pipeline's processes have agreed on of its plugins: the folder's are taken then.
fn forget_list(part: &Pipeline) -> anyhow::Result<()> {
    let Some(mut agreed) = Agreed::of(part, &Shelf::of(part)).map_err(outside)? else { return Ok(()) };
    match tokio_runtime()?.block_on(agreed.reset()) {
        Err(error @ ConnectorError::Disconnected { .. }) => Err(outside(error)),
        Err(error) => {
            // Who may not use it doesn't go by it either.
            tracing::warn!(pipeline = %part.name, %error, "what the pipeline's processes agree on is not forgotten");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

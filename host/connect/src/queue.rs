//! What sources have in common that can be read as a log or, shared, as a queue.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Change, ConnectorError, Membership, Partition};

/// Where to begin in a stream of which nothing is committed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// With the oldest message that is there.
    #[default]
    Earliest,
    /// With what comes from now on.
    Latest,
}

/// A place among those that share a queue: it has all that is delivered to it, and nothing else changes.
pub(crate) struct Member(Option<Partition>);

impl Member {
    /// A place that is told once of the queue, as a partition.
    pub fn new(queue: Partition) -> Self {
        Self(Some(queue))
    }
}

#[async_trait]
impl Membership for Member {
    async fn next(&mut self) -> Result<Change, ConnectorError> {
        match self.0.take() {
            Some(partition) => Ok(Change::Assigned(vec![partition])),
            None => std::future::pending().await,
        }
    }
}

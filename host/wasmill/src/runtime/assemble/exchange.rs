//! What is behind an exchange through a topic, in the place of the sources.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::Mutex;
use wasmill_connect::kafka::{ExchangeMember, ExchangeSource, exchange_part};
use wasmill_connect::{Partition, Source};
use wasmill_engine::position::{PartitionId, Position, Progress};
use wasmill_engine::state::Checkpoint;
use wasmill_engine::time::START;

use super::super::retry::{Ends, insist};
use super::{EXCHANGE, KeptOpen, outside};
use crate::spec;
use crate::spec::Pipeline;

/// The exchange as a source, with what of it is this process's for now.
pub(super) async fn exchange_source(
    pipeline: &Pipeline,
    of: Vec<(PartitionId, String)>,
    ends: &Ends,
    kept: &mut KeptOpen,
) -> anyhow::Result<(ExchangeSource, Vec<u32>)> {
    let (Some(exchange), Some(sink)) = (pipeline.exchange_topic(), pipeline.transactions()) else {
        unreachable!("what is behind an exchange has one, and transactions")
    };
    let member = match &kept.member {
        Some(member) => Arc::clone(member),
        None => {
            let like = pipeline.sources.iter().find_map(spec::SourceSpec::kafka);
            let join = || ExchangeMember::join(exchange.clone(), sink, like);
            let member = insist!(ends, EXCHANGE, join()).map_err(outside)?;
            Arc::clone(kept.member.insert(Arc::new(Mutex::new(member))))
        }
    };
    ends.health.ill(EXCHANGE, "waiting for its share of the exchange");
    let owned = {
        let mut member = member.lock().await;
        insist!(ends, EXCHANGE, member.settle(of.clone())).map_err(outside)?
    };
    let connect = || ExchangeSource::new(&member, owned.clone());
    let source = insist!(ends, EXCHANGE, connect()).map_err(outside)?;
    Ok((source, owned))
}

/// The exchange in the place of the sources.
pub(super) type Behind = (Vec<(u16, String, Box<dyn Source>)>, Vec<(PartitionId, Partition)>);

pub(super) async fn behind(mut source: ExchangeSource) -> anyhow::Result<Behind> {
    let listed = source.partitions().await.map_err(outside)?;
    let id = |p: &Partition| PartitionId { source: 0, partition: p.number };
    let listed = listed.into_iter().map(|p| (id(&p), p)).collect();
    Ok((vec![(0, EXCHANGE.to_owned(), Box::new(source))], listed))
}

/// An exchange's partition that nothing is committed of begins at its beginning, wherever the others are, and
/// holds stream time there.
pub(super) fn begin_new_parts(checkpoint: Option<&mut Checkpoint>, listed: &[(PartitionId, Partition)]) {
    let Some(checkpoint) = checkpoint else { return };
    let part_of = |id: &PartitionId| exchange_part(id.partition).0;
    let known: BTreeSet<u32> = checkpoint.positions.iter().map(|(id, _)| part_of(id)).collect();
    for (id, partition) in listed.iter().filter(|(id, _)| !known.contains(&part_of(id))) {
        let position = Position {
            incarnation: partition.incarnation.clone(),
            offset: partition.begin,
            index: 0,
            stream_time: START,
            progress: Progress::Live,
        };
        checkpoint.positions.push((*id, position));
        checkpoint.stream_time = START;
    }
}

//! The store of a pipeline, opened and brought up to date.

use std::collections::BTreeMap;
use std::sync::Arc;

use wasmill_connect::kafka::{Changelog, exchange_part};
use wasmill_connect::store::{DiskStore, MemoryStore, PartitionedStore, RedisStore};
use wasmill_engine::position::PartitionId;
use wasmill_engine::state::StateStore;

use super::super::claims::Claims;
use super::super::follower;
use super::super::follower::Follower;
use super::super::retry::{Ends, insist, off_the_network};
use super::{KeptOpen, Merger, outside};
use crate::spec::{Kept, Pipeline, Sharing};

/// Opens the store on this machine before partitions are asked for: while its journal is read they would wait,
/// and nobody else would have them. Where it can't be opened yet, as another process is about to leave it, that is
/// told when its turn comes.
pub(super) async fn open_early(pipeline: &Pipeline) -> Option<DiskStore> {
    let directory = pipeline.state_directory().filter(|_| pipeline.keeps_on_disk())?;
    if !DiskStore::is_in(&directory) {
        return None;
    }
    tokio::task::spawn_blocking(move || DiskStore::open(&directory).ok()).await.ok().flatten()
}

/// The pipeline's store, which may be `opened` already, and where the positions of shared sources are, if they are
/// in it.
pub(super) async fn open_store(
    pipeline: &Pipeline,
    merger: &Arc<Merger>,
    changelog: Option<&Changelog>,
    ends: &Ends,
    kept: &mut KeptOpen,
    mut opened: Option<DiskStore>,
) -> anyhow::Result<(Arc<dyn StateStore>, Option<Claims>)> {
    let kept = &mut kept.store;
    if let Some(changelog) = changelog {
        let mut open = || {
            let store = Follower::of(kept.as_ref(), pipeline.state_directory(), opened.take());
            follower::followed(store, changelog.clone(), 0, Arc::clone(&ends.observed))
        };
        let store = insist!(ends, "the changelog", open()).map_err(outside)?;
        *kept = Some(Arc::clone(&store));
        return Ok((store, None));
    }
    if let Some(store) = kept {
        return Ok((Arc::clone(store), None));
    }
    match pipeline.kept() {
        // Without state nothing is kept here: positions are the group's.
        Kept::Source | Kept::Changelog | Kept::Postgres | Kept::Acked => {
            Ok((Arc::new(MemoryStore::new()), None))
        }
        Kept::Memory => Ok((Arc::clone(kept.insert(Arc::new(MemoryStore::new()))), None)),
        Kept::Disk => {
            let open = || DiskStore::open(&pipeline.state_directory().unwrap_or_default());
            let store = opened.map_or_else(open, Ok).map_err(outside)?;
            Ok((Arc::clone(kept.insert(Arc::new(store))), None))
        }
        Kept::Redis => {
            let Some(address) = pipeline.state.redis() else {
                unreachable!("state is kept in Redis only where the spec names one")
            };
            let shared = pipeline.sharing() == Sharing::Store;
            let open = || {
                let (address, name, merger) = (address.clone(), pipeline.name.clone(), Arc::clone(merger));
                let open = move || match shared {
                    true => {
                        let merge =
                            move |key: &[u8], stored: &[u8], share: &[u8]| merger.merge(key, stored, share);
                        RedisStore::open_shared(address, &name, Arc::new(merge))
                    }
                    false => RedisStore::open_alone(address, &name),
                };
                off_the_network(open)
            };
            let store = Arc::new(insist!(ends, "the store", open()).map_err(outside)?);
            let claims = shared.then(|| Claims(Arc::clone(&store) as _));
            Ok((store, claims))
        }
    }
}

/// The stores of an exchange's partitions that are this process's, each at where the changelog is.
pub(super) async fn open_parts(
    pipeline: &Pipeline,
    owned: &[u32],
    changelog: &Changelog,
    ends: &Ends,
    kept: &mut KeptOpen,
) -> anyhow::Result<Arc<PartitionedStore>> {
    // What is another's now is closed: its process may be on this machine.
    kept.parts.retain(|partition, _| owned.contains(partition));
    let mut stores = BTreeMap::new();
    for partition in owned {
        let open = || {
            let store = Follower::of(kept.parts.get(partition), pipeline.part_directory(*partition), None);
            follower::followed(store, changelog.clone(), *partition, Arc::clone(&ends.observed))
        };
        let store = insist!(ends, "the changelog", open()).map_err(outside)?;
        stores.insert(*partition, store);
    }
    kept.parts.clone_from(&stores);
    let partitions = (changelog.partitions(), pipeline.key_groups);
    let of = |id: PartitionId| exchange_part(id.partition).0;
    Ok(Arc::new(PartitionedStore::new(stores, partitions, Box::new(of))))
}

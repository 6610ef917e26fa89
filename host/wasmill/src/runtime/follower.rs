//! A store on this machine that follows a changelog: what counts is in the topic, and this is what lanes read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmill_connect::ConnectorError;
use wasmill_connect::kafka::{Changelog, Followed, Replay, Replayed};
use wasmill_connect::store::{DiskStore, MemoryStore, Replacement as _};
use wasmill_engine::state::{Change, Checkpoint, Delta, StateStore, StoreError};

use super::failpoint;
use super::observe::Observed;

/// The name under which a checkpoint of the store has up to where it has followed, among the sinks' tokens.
const FOLLOWED: &str = "changelog";
/// How much of a rest is taken in at once; more than that, and the store is built anew.
const REST_BYTES_MAX: usize = 64 << 20;
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// One partition of a changelog.
struct Log {
    changelog: Changelog,
    partition: u32,
}

impl std::ops::Deref for Log {
    type Target = Changelog;

    fn deref(&self) -> &Changelog {
        &self.changelog
    }
}

/// Up to where a checkpoint's store has followed.
fn followed_by(checkpoint: &Checkpoint) -> Option<Followed> {
    let (_, token) = checkpoint.sinks.iter().find(|(name, _)| name == FOLLOWED)?;
    token.parse().ok()
}

/// Refuses state that follows a changelog where nothing is followed: it would go its own way.
pub(super) fn refuse_followed(checkpoint: Option<&Checkpoint>, store: &str) -> Result<(), String> {
    match checkpoint.and_then(followed_by) {
        None => Ok(()),
        Some(followed) => Err(format!(
            "the state of {store} follows the changelog {}, which is what counts: set `delivery: exactly_once` as before, or run `wasmill reset`",
            followed.incarnation
        )),
    }
}

/// A checkpoint for the store, with up to where it has followed.
pub(super) fn noted(mut checkpoint: Checkpoint, followed: &Followed) -> Checkpoint {
    checkpoint.sinks.retain(|(name, _)| name != FOLLOWED);
    checkpoint.sinks.push((FOLLOWED.to_owned(), followed.to_string()));
    checkpoint
}

/// Tells how far a replay is.
struct Progress<'a> {
    topic: &'a str,
    observed: &'a Observed,
    began: Instant,
    told: Instant,
}

impl<'a> Progress<'a> {
    fn new(topic: &'a str, observed: &'a Observed) -> Self {
        Self { topic, observed, began: Instant::now(), told: Instant::now() }
    }

    fn tell(&mut self, replay: &Replay) {
        if self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            self.observed.restoring(replay.end.saturating_sub(replay.next));
            tracing::info!(
                topic = self.topic,
                records = replay.records,
                next = replay.next,
                end = replay.end,
                "restoring state from its changelog"
            );
        }
    }

    fn end(&self, replay: &Replay) {
        self.observed.restoring(0);
        if replay.records > 0 {
            tracing::info!(
                topic = self.topic,
                records = replay.records,
                in_ms = self.began.elapsed().as_millis() as u64,
                "state is restored from its changelog"
            );
        }
    }
}

fn failed(error: StoreError) -> ConnectorError {
    ConnectorError::Fatal(error.to_string())
}

/// The store that is to follow a changelog.
pub(super) enum Follower {
    /// The one that was used before in this process.
    Used(Arc<dyn StateStore>),
    /// The one in a directory, which may be open already.
    Disk(PathBuf, Option<DiskStore>),
    Memory,
}

impl Follower {
    pub fn of(
        used: Option<&Arc<dyn StateStore>>,
        directory: Option<PathBuf>,
        opened: Option<DiskStore>,
    ) -> Self {
        match (used, directory) {
            (Some(store), _) => Self::Used(Arc::clone(store)),
            (None, Some(directory)) => Self::Disk(directory, opened),
            (None, None) => Self::Memory,
        }
    }
}

/// The store of a pipeline, or of a partition of its exchange, at where the changelog is.
pub(super) async fn followed(
    follower: Follower,
    changelog: Changelog,
    partition: u32,
    observed: Arc<Observed>,
) -> Result<Arc<dyn StateStore>, ConnectorError> {
    let open = move || {
        let changelog = &Log { changelog, partition };
        match follower {
            Follower::Used(store) => go_on(store.as_ref(), changelog, &observed).map(|()| store),
            Follower::Disk(directory, opened) => open_disk(&directory, opened, changelog, &observed),
            Follower::Memory => open_memory(changelog, &observed),
        }
    };
    match tokio::task::spawn_blocking(open).await {
        Ok(opened) => opened,
        Err(e) => Err(ConnectorError::Fatal(format!("the thread that restores state panicked: {e}"))),
    }
}

/// Opens the store in a directory, or makes it, and brings it to where the changelog is. Blocks.
fn open_disk(
    directory: &Path,
    opened: Option<DiskStore>,
    changelog: &Log,
    observed: &Observed,
) -> Result<Arc<dyn StateStore>, ConnectorError> {
    let store = match opened.map_or_else(|| DiskStore::open(directory), Ok) {
        Ok(store) => store,
        // What counts is elsewhere.
        Err(error @ (StoreError::Corrupt { .. } | StoreError::Format { .. })) => {
            tracing::warn!(%error, "the state on this machine can't be used: it is built anew from its changelog");
            DiskStore::reset_at(directory).map_err(failed)?;
            DiskStore::open(directory).map_err(failed)?
        }
        Err(error) => return Err(failed(error)),
    };
    let checkpoint = store.checkpoint().map_err(failed)?;
    let followed = checkpoint.as_ref().and_then(followed_by);
    if let (Some(_), None) = (&checkpoint, &followed) {
        return Err(ConnectorError::Fatal(format!(
            "the state in {} was kept by a pipeline that was not exactly-once to Kafka, and the topic {} knows nothing of it: run `wasmill reset`, or take `delivery` away",
            directory.display(),
            changelog.topic()
        )));
    }
    if let Some(followed) = followed.as_ref().filter(|followed| changelog.has_the_rest(followed))
        && take_rest(&store, followed, changelog, observed)?
    {
        return Ok(Arc::new(store));
    }
    Ok(Arc::new(rebuild(store, directory, followed.as_ref(), changelog, observed)?))
}

/// Brings a new store in memory to where the changelog is. Blocks.
fn open_memory(changelog: &Log, observed: &Observed) -> Result<Arc<dyn StateStore>, ConnectorError> {
    let store = MemoryStore::new();
    let mut rest = Rest::default();
    let replay = rest.read(0, usize::MAX, changelog, observed)?;
    rest.commit(&store, changelog, replay.next)?;
    Ok(Arc::new(store))
}

/// Brings a store that was used before to where the changelog is. Blocks.
fn go_on(store: &dyn StateStore, changelog: &Log, observed: &Observed) -> Result<(), ConnectorError> {
    let checkpoint = store.checkpoint().map_err(failed)?;
    let from = match checkpoint.as_ref().and_then(followed_by) {
        Some(followed) if changelog.has_the_rest(&followed) => followed.next,
        Some(_) => return Err(made_anew(changelog)),
        None => 0,
    };
    let mut rest = Rest::default();
    let replay = rest.read(from, usize::MAX, changelog, observed)?;
    rest.commit(store, changelog, replay.next)
}

fn made_anew(changelog: &Log) -> ConnectorError {
    ConnectorError::Fatal(format!(
        "the topic {} is not the one that this pipeline's state was in: it was deleted and made anew. Run `wasmill reset` to begin anew",
        changelog.topic()
    ))
}

/// What a changelog has behind a store.
#[derive(Default)]
struct Rest {
    entries: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    bytes: usize,
    checkpoint: Option<Checkpoint>,
    /// Whether there is more than was to be taken.
    is_too_much: bool,
}

impl Rest {
    fn read(
        &mut self,
        from: u64,
        bytes_max: usize,
        changelog: &Log,
        observed: &Observed,
    ) -> Result<Replay, ConnectorError> {
        let mut progress = Progress::new(changelog.topic(), observed);
        let replay = changelog.replay(changelog.partition, from, |said, replay| {
            failpoint::reached("restore");
            progress.tell(replay);
            match said {
                Replayed::Checkpoint(checkpoint) => self.checkpoint = Some(checkpoint),
                Replayed::Entry(..) if self.is_too_much => {}
                Replayed::Entry(key, value) => {
                    self.bytes += key.len() + value.map_or(0, <[u8]>::len);
                    self.entries.insert(key.to_vec(), value.map(<[u8]>::to_vec));
                    if self.bytes > bytes_max {
                        self.is_too_much = true;
                        self.entries.clear();
                    }
                }
            }
            Ok(())
        })?;
        progress.end(&replay);
        Ok(replay)
    }

    fn commit(self, store: &dyn StateStore, changelog: &Log, next: u64) -> Result<(), ConnectorError> {
        let Some(checkpoint) = self.checkpoint else { return Ok(()) };
        let changes =
            self.entries.into_iter().map(|(key, value)| Change { key, value, share: None }).collect();
        let generation = store.generation().map_err(failed)?;
        let checkpoint = noted(Checkpoint { generation, ..checkpoint }, &changelog.followed_to(next));
        store.commit(&Delta { changes }, &checkpoint).map_err(failed)
    }
}

/// Takes in what came since a store followed last; answers whether that was little enough.
fn take_rest(
    store: &DiskStore,
    followed: &Followed,
    changelog: &Log,
    observed: &Observed,
) -> Result<bool, ConnectorError> {
    let mut rest = Rest::default();
    let replay = rest.read(followed.next, REST_BYTES_MAX, changelog, observed)?;
    if rest.is_too_much {
        return Ok(false);
    }
    rest.commit(store, changelog, replay.next)?;
    Ok(true)
}

/// Builds a store anew from the whole changelog. Until it is whole the old one is there.
fn rebuild(
    store: DiskStore,
    directory: &Path,
    followed: Option<&Followed>,
    changelog: &Log,
    observed: &Observed,
) -> Result<DiskStore, ConnectorError> {
    if followed.is_some() {
        tracing::info!(
            topic = changelog.topic(),
            "the state on this machine is too old, or of another topic: it is built anew from its changelog"
        );
    }
    let generation = store.generation().map_err(failed)?;
    let mut progress = Progress::new(changelog.topic(), observed);
    let mut last = None;
    // Begun with the first record.
    let (mut store, mut new) = (Some(store), None);
    let replay = changelog.replay(changelog.partition, 0, |said, replay| {
        failpoint::reached("restore");
        progress.tell(replay);
        if let Some(store) = store.take() {
            new = Some(store.rebuild(generation).map_err(failed)?);
        }
        match (said, &mut new) {
            (Replayed::Checkpoint(checkpoint), _) => last = Some(checkpoint),
            (Replayed::Entry(key, Some(value)), Some(new)) => new.put(key, value).map_err(failed)?,
            (Replayed::Entry(key, None), Some(new)) => new.remove(key).map_err(failed)?,
            (Replayed::Entry(..), None) => {}
        }
        Ok(())
    })?;
    progress.end(&replay);
    match (store, new, last) {
        (_, Some(new), Some(checkpoint)) => {
            let followed = changelog.followed_to(replay.next);
            let checkpoint = noted(Checkpoint { generation, ..checkpoint }, &followed);
            Box::new(new).finish(&checkpoint, None).map_err(failed)?;
            DiskStore::open(directory).map_err(failed)
        }
        // Nothing was ever committed to this topic.
        (Some(store), _, None) if followed.is_none() => Ok(store),
        _ => Err(made_anew(changelog)),
    }
}

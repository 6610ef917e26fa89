//! How the tools come at a pipeline's state: its store, or where a running pipeline has that for itself,
//! the HTTP pages of that one.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use wasmill_connect::kafka::Changelog;
use wasmill_connect::store::{DiskStore, PartsView, RedisAddress, RedisView, Replacement, name_of_parts};
use wasmill_engine::position::Position;
use wasmill_engine::state::{StateStore as _, StateView, StoreError};

use crate::cli::exit::{Exit, Stop};
use crate::cli::pages::RunningPages;
use crate::spec::{Kept, Pipeline, Sharing};
use crate::state::{self, Filter, Found, Page, StateError, Stats, Wanted};

/// A pipeline's state, to be read.
pub(super) enum Access {
    /// Its store.
    Store { view: Box<dyn StateView>, held: Held },
    /// The pages of the process that runs it.
    Running(RunningPages),
}

/// A pipeline's store, to be changed: nobody else may have it.
pub(super) enum Held {
    Disk(DiskStore),
    /// One for each partition of an exchange.
    Parts(Vec<DiskStore>),
    Redis {
        at: RedisAddress,
        pipeline: String,
        shared: bool,
    },
}

impl Access {
    /// Comes at the state of a pipeline.
    pub fn open(pipeline: &Pipeline) -> Result<Self, Stop> {
        match open_store(pipeline) {
            Ok(held) => {
                let view = held.view().map_err(|e| failed(&e))?;
                Ok(Self::Store { view, held })
            }
            Err(Failure::Locked(path)) => match pipeline.http {
                Some(address) => Ok(Self::Running(running(pipeline, address))),
                None => Err(Stop::error(
                    Exit::Outside,
                    format!(
                        "{path} is in use by a running wasmill, and `{}` has no HTTP pages that could be asked: set `http` (WASMILL_HTTP) and start it again, or stop it",
                        pipeline.name
                    ),
                )),
            },
            Err(Failure::Stop(stop)) => Err(stop),
        }
    }

    /// Where the state comes from, in words.
    pub fn name(&self) -> String {
        match self {
            Self::Store { held, .. } => held.name(),
            Self::Running(pages) => format!("the running pipeline at {}", pages.address),
        }
    }

    pub fn page(&self, filter: &Filter) -> Result<Page, Stop> {
        match self {
            Self::Store { view, .. } => state::page(&**view, filter).map_err(|e| failed(&e)),
            Self::Running(pages) => {
                let mut query = vec![("limit", filter.limit.to_string())];
                let given =
                    [("stage", &filter.stage), ("key_prefix", &filter.key_prefix), ("after", &filter.after)];
                query.extend(given.into_iter().filter_map(|(name, v)| Some((name, v.clone()?))));
                json(pages, "entries", &query)
            }
        }
    }

    pub fn find(&self, wanted: &Wanted) -> Result<Found, Stop> {
        match self {
            Self::Store { view, .. } => state::find(&**view, wanted).map_err(|e| failed(&e)),
            Self::Running(pages) => {
                let mut query = vec![("stage", wanted.stage.clone()), ("key", wanted.key.clone())];
                query.extend(wanted.window.map(|window| ("window", window.to_string())));
                query.extend(wanted.name.clone().map(|name| ("name", name)));
                json(pages, "entry", &query)
            }
        }
    }

    pub fn stats(&self) -> Result<Stats, Stop> {
        match self {
            Self::Store { view, .. } => state::stats(&**view).map_err(|e| failed(&e)),
            Self::Running(pages) => json(pages, "stats", &[]),
        }
    }

    pub fn export(&self, pipeline: &str, to: &mut dyn Write) -> Result<(), Stop> {
        match self {
            Self::Store { view, .. } => {
                state::export(&**view, pipeline, to).map(drop).map_err(|e| failed(&e))
            }
            Self::Running(pages) => pages.copy("export", to),
        }
    }
}

impl Held {
    /// Takes the state of a stopped pipeline; `command` is who wants it.
    pub fn open(pipeline: &Pipeline, command: &str) -> Result<Self, Stop> {
        if pipeline.kept() == Kept::Changelog {
            let topic = Changelog::topic_of(&pipeline.name);
            return Err(Stop::error(
                Exit::Usage,
                format!(
                    "the state of `{}` is what is in the topic {topic}: `wasmill state {command}` can't change that. `wasmill reset` begins anew",
                    pipeline.name
                ),
            ));
        }
        open_store(pipeline).map_err(|failure| match failure {
            Failure::Locked(path) => Stop::error(
                Exit::Outside,
                format!(
                    "{path} is in use by a running wasmill: stop the pipeline, then run `wasmill state {command}` again"
                ),
            ),
            Failure::Stop(stop) => stop,
        })
    }

    /// As [`Held::open`], but makes a store where there is none yet.
    pub fn make(pipeline: &Pipeline, command: &str) -> Result<Self, Stop> {
        if pipeline.kept() == Kept::Disk
            && let Some(directory) = directory(pipeline)
            && !DiskStore::is_in(&directory)
        {
            return DiskStore::open(&directory).map(Self::Disk).map_err(|e| failed(&e));
        }
        Self::open(pipeline, command)
    }

    /// What it has; the store stays open as long as this is.
    pub fn view(&self) -> Result<Box<dyn StateView>, StoreError> {
        match self {
            Self::Disk(store) => view_of(store),
            Self::Parts(stores) => {
                let views: Result<_, _> = stores.iter().map(view_of).collect();
                Ok(Box::new(PartsView::new(views?)))
            }
            Self::Redis { at, pipeline, .. } => Ok(Box::new(RedisView::open(at.clone(), pipeline)?)),
        }
    }

    /// New contents for it.
    pub fn replace(self, generation: u64) -> Result<Box<dyn Replacement>, StoreError> {
        match self {
            Self::Disk(store) => store.replace(generation),
            Self::Parts(_) => unreachable!("what follows a changelog is opened to be read alone"),
            Self::Redis { at, pipeline, shared } => {
                RedisView::open(at, &pipeline)?.replace(generation, shared)
            }
        }
    }

    /// Where it is, in words.
    pub fn name(&self) -> String {
        match self {
            Self::Disk(store) => store.name(),
            Self::Parts(stores) => name_of_parts(stores.iter().map(DiskStore::name)),
            Self::Redis { pipeline, .. } => format!("Redis, under `wasmill:{{{pipeline}}}`"),
        }
    }
}

enum Failure {
    /// A running wasmill has it.
    Locked(String),
    Stop(Stop),
}

/// The committed positions of a pipeline, by partition; none where it has committed nothing yet. Why they can't be
/// known now, in words.
pub(in crate::cli) fn positions(pipeline: &Pipeline) -> Result<Option<BTreeMap<String, Position>>, String> {
    let on_disk = matches!(pipeline.kept(), Kept::Disk | Kept::Changelog);
    if on_disk && pipeline.exchange_partitions.is_none() {
        let directory = directory(pipeline);
        if directory.is_some_and(|directory| !DiskStore::is_in(&directory)) {
            return Ok(None);
        }
    }
    match open_store(pipeline) {
        Ok(held) => {
            let view = held.view().map_err(|e| e.to_string())?;
            let checkpoint = view.checkpoint().map_err(|e| e.to_string())?;
            Ok(checkpoint.map(|c| c.positions.into_iter().map(|(id, p)| (id.to_string(), p)).collect()))
        }
        Err(Failure::Locked(_)) => match pipeline.http {
            Some(address) => {
                let pages = running(pipeline, address);
                let stats: Stats = json(&pages, "stats", &[]).map_err(|stop| stop.shown)?;
                Ok(Some(stats.positions))
            }
            None => Err(format!(
                "not known while `{}` runs, for it has no HTTP pages that could be asked: set `http` (WASMILL_HTTP) and start it again, or stop it",
                pipeline.name
            )),
        },
        Err(Failure::Stop(stop)) => Err(stop.shown.trim_start_matches("error: ").to_owned()),
    }
}

/// The folder of a pipeline whose state is on disk.
fn directory(pipeline: &Pipeline) -> Option<PathBuf> {
    pipeline.state_directory().filter(|_| pipeline.keeps_on_disk())
}

fn open_store(pipeline: &Pipeline) -> Result<Held, Failure> {
    let none = |why: &str| {
        Failure::Stop(Stop::error(
            Exit::Usage,
            format!("`{}` keeps no state that outlives it: {why}", pipeline.name),
        ))
    };
    match pipeline.kept() {
        Kept::Source | Kept::Acked => {
            Err(none("no stage has state, and the positions are with its source's group"))
        }
        Kept::Postgres => Err(Failure::Stop(Stop::error(
            Exit::Usage,
            format!(
                "the state of `{}` is in the database that it writes to: look into the tables of its schema `wasmill` with psql, or at the pages of the running pipeline",
                pipeline.name
            ),
        ))),
        Kept::Memory => Err(none("give it a `data_dir` (DATA_DIR), or `state: { redis: { url: … } }`")),
        Kept::Changelog if pipeline.data_dir.is_none() => {
            Err(none("what follows its changelog is in memory; give it a `data_dir` (DATA_DIR)"))
        }
        Kept::Redis => {
            let Some(at) = pipeline.state.redis() else {
                unreachable!("state is kept in Redis only where the spec names one")
            };
            let shared = pipeline.sharing() == Sharing::Store;
            Ok(Held::Redis { at, pipeline: pipeline.name.clone(), shared })
        }
        Kept::Changelog if pipeline.exchange_partitions.is_some() => open_parts(pipeline),
        Kept::Disk | Kept::Changelog => {
            let directory = directory(pipeline).unwrap_or_default();
            if !DiskStore::is_in(&directory) {
                return Err(nothing_in(&directory));
            }
            opened(DiskStore::open(&directory)).map(Held::Disk)
        }
    }
}

/// The state of the partitions of an exchange that are, or were, on this machine.
fn open_parts(pipeline: &Pipeline) -> Result<Held, Failure> {
    let directories =
        (0..pipeline.exchange_partitions.unwrap_or(0)).filter_map(|p| pipeline.part_directory(p));
    let mut stores = Vec::new();
    for directory in directories.filter(|directory| DiskStore::is_in(directory)) {
        stores.push(opened(DiskStore::open(&directory))?);
    }
    if stores.is_empty() {
        let folder = pipeline.data_dir.as_ref().map(|dir| dir.join(&pipeline.name)).unwrap_or_default();
        return Err(nothing_in(&folder));
    }
    Ok(Held::Parts(stores))
}

fn nothing_in(folder: &Path) -> Failure {
    let text = format!("there is no state in {}: {}", folder.display(), StateError::Nothing);
    Failure::Stop(Stop::error(Exit::Outside, text))
}

fn opened(store: Result<DiskStore, StoreError>) -> Result<DiskStore, Failure> {
    store.map_err(|error| match error {
        StoreError::Locked { path } => Failure::Locked(path),
        error => Failure::Stop(failed(&error)),
    })
}

fn view_of(store: &DiskStore) -> Result<Box<dyn StateView>, StoreError> {
    match store.view()? {
        Some(view) => Ok(view),
        None => unreachable!("a store on disk can be looked at"),
    }
}

/// A failure of the store, or of what was asked of it.
pub(super) fn failed(error: &impl std::fmt::Display) -> Stop {
    Stop::error(Exit::Outside, error)
}

/// The pages of who has the state open.
fn running(pipeline: &Pipeline, address: SocketAddr) -> RunningPages {
    RunningPages {
        address,
        pipeline: pipeline.name.clone(),
        under: "state",
        failing: (
            format!("the state of `{}` is in use by a running wasmill, and ", pipeline.name),
            "Is it this pipeline that has its state open, with the same `http`?",
        ),
    }
}

fn json<T: DeserializeOwned>(pages: &RunningPages, page: &str, query: &[(&str, String)]) -> Result<T, Stop> {
    let text = pages.get(page, query)?;
    serde_json::from_slice(&text).map_err(|e| {
        let address = pages.address;
        Stop::error(Exit::Outside, format!("what answers at {address} is not this version's wasmill: {e}"))
    })
}

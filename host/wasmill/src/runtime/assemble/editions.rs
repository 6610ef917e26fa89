//! With which plugins a run begins: those that are committed, wherever the folder is by now; the folder's where nothing
//! is committed of it, or nothing is behind what is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use wasmill_engine::edition::{Plugins, StagePlugin};
use wasmill_engine::input::Decoder;
use wasmill_engine::state::Checkpoint;
use wasmill_engine::topology::Topology;
use wasmill_plugin::Sandbox;

use super::super::guarded::Guards;
use super::super::retry::{Ends, answered};
use super::super::swapper::{LIST, first_line, gone};
use super::super::swapping::Edition;
use super::outside;
use super::topology::topology;
use crate::cli::{Exit, RunFailure};
use crate::plugins::{Agreed, Shelf, file_of, with_files};
use crate::spec::{Pipeline, PluginStage, Sharing, Stage};

/// What it takes to load a pipeline's plugins.
pub(super) struct Loading<'a> {
    pub pipeline: &'a Pipeline,
    pub sandbox: &'a Sandbox,
    pub guards: &'a Guards,
    pub shelf: &'a Shelf,
    pub decoders: Vec<Arc<dyn Decoder>>,
}

/// The editions of a run.
pub(super) struct Begun {
    pub topology: Arc<Topology>,
    pub plugins: Plugins,
    pub editions: BTreeMap<u64, Arc<Edition>>,
    /// Whether what the checkpoint says of plugins is not so any more.
    pub is_new: bool,
}

impl Loading<'_> {
    /// The pipeline with the folder's plugins; where these can't be had and the last run broke off, with that one's.
    pub fn newest(&self) -> anyhow::Result<Topology> {
        let error = match self.load(&BTreeMap::new()) {
            Ok(topology) => return Ok(topology),
            Err(error) => error,
        };
        // Behind an end in order nothing has to go on with what was.
        let Some(noted) = self.shelf.noted().filter(|noted| !noted.settled) else { return Err(error) };
        let mut files = BTreeMap::new();
        for stage in self.pipeline.stages.iter().filter_map(Stage::plugin) {
            let Some(plugin) = noted.of(&stage.name).filter(|p| p.plugin == stage.plugin) else {
                return Err(error);
            };
            let Some(file) = self.shelf.find(plugin) else { return Err(error) };
            files.insert(stage.name.clone(), file);
        }
        let Ok(topology) = self.load(&files) else { return Err(error) };
        tracing::error!(
            pipeline = %self.pipeline.name, error = first_line(&error.to_string()),
            "the plugin folder's plugins can't be run; the pipeline goes on with those of its last run"
        );
        Ok(topology)
    }

    fn load(&self, files: &BTreeMap<String, PathBuf>) -> anyhow::Result<Topology> {
        topology(&with_files(self.pipeline, files), self.sandbox, self.decoders.clone(), Some(self.guards))
    }

    /// With which plugins the run goes on. Changes what the checkpoint says of them, where it begins with others.
    pub fn go_on(
        &self,
        newest: Topology,
        checkpoint: Option<&mut Checkpoint>,
        is_foretold: bool,
        decided: Option<Plugins>,
    ) -> anyhow::Result<Begun> {
        let newest = Arc::new(newest);
        let now = newest.plugins();
        let Some(checkpoint) = checkpoint.filter(|c| !c.plugins.is_empty()) else {
            return match decided {
                Some(decided) => Ok(self.begin_as_decided(newest, &now, decided)),
                None => Ok(self.begin(newest, &now)),
            };
        };
        let committed = checkpoint.plugins.clone();
        let is_refused =
            |p: &StagePlugin| committed.refused.iter().any(|r| r.stage == p.stage && r.digest == p.digest);
        let is_settled = committed.settled && !is_foretold && newest.shape() == checkpoint.shape;
        // What the run goes on with in each stage of which something is committed.
        let mut wanted: Vec<StagePlugin> = Vec::new();
        for plugin in &now {
            let then = committed.of(&plugin.stage).filter(|then| then.plugin == plugin.plugin);
            // A pin is the operator's word, whatever was.
            let is_pinned = self.stage(&plugin.stage).is_some_and(|stage| stage.pin.is_some());
            wanted.push(match then {
                Some(then) if !is_pinned && (!is_settled || is_refused(plugin)) => then.clone(),
                _ => plugin.clone(),
            });
        }
        let is_new = wanted != committed.now;
        let topology = if wanted == now { newest } else { Arc::new(self.load_exactly(&wanted)?) };
        let is_prefix = |stage: &str| topology.prefix.iter().any(|spec| spec.name == stage);
        let mut before = BTreeMap::new();
        for (number, edition) in (0u64..).zip(&committed.before) {
            let wanted: Vec<StagePlugin> = wanted
                .iter()
                .map(|p| match is_prefix(&p.stage) {
                    true => edition.plugins.iter().find(|then| then.stage == p.stage).unwrap_or(p).clone(),
                    false => p.clone(),
                })
                .collect();
            let topology = Arc::new(self.load_exactly(&wanted)?);
            before.insert(number, Arc::new(Edition { number, topology }));
        }
        let is_changed =
            |then: &&StagePlugin| wanted.iter().any(|p| p.stage == then.stage && p.digest != then.digest);
        let mut previous: Vec<StagePlugin> = committed.now.iter().filter(is_changed).cloned().collect();
        previous.extend(
            committed
                .previous
                .iter()
                .filter(|p| !previous.iter().any(|q| q.stage == p.stage))
                .cloned()
                .collect::<Vec<_>>(),
        );
        checkpoint.plugins = Plugins { now: wanted, previous, settled: false, ..committed.clone() };
        let plugins = checkpoint.plugins.clone();
        let is_new = is_new || committed.settled;
        Ok(Begun { is_new, ..Begun::of(topology, plugins, before) })
    }

    /// With which plugins a run goes on of which nothing is committed, and that has no list: the folder's, but for what was
    /// rolled back. Where processes share the pipeline and this one begins again, with those that it had.
    fn begin(&self, newest: Arc<Topology>, now: &[StagePlugin]) -> Begun {
        let noted = self.shelf.noted().unwrap_or_default();
        let goes_on = !noted.settled && self.pipeline.sharing() != Sharing::Alone;
        let is_refused =
            |p: &StagePlugin| noted.refused.iter().any(|r| r.stage == p.stage && r.digest == p.digest);
        let wanted: Vec<StagePlugin> = now
            .iter()
            .map(|p| match noted.of(&p.stage).filter(|then| then.plugin == p.plugin) {
                Some(then) if goes_on || is_refused(p) => then.clone(),
                _ => p.clone(),
            })
            .collect();
        // Nothing depends on it: where its copy is gone, the folder's does.
        let loaded = if wanted == now { None } else { self.load_exactly(&wanted).ok() };
        let topology = loaded.map_or(newest, Arc::new);
        let now = topology.plugins();
        let plugins = Plugins { now, previous: noted.previous, refused: noted.refused, ..Plugins::default() };
        Begun::of(topology, plugins, BTreeMap::new())
    }

    /// What the pipeline's processes have decided, with its files at hand: nothing, where no decision was made. What this
    /// machine noted of a run before is of no account beside it: it may be of another pipeline of the same name.
    pub async fn decided(&self, agreed: &mut Agreed, ends: &Ends) -> anyhow::Result<Plugins> {
        let Some(decision) = agreed.last().cloned() else { return Ok(Plugins::default()) };
        for wanted in &decision.plugins.now {
            let Some(stage) = self.stage(&wanted.stage) else { continue };
            if file_of(self.pipeline, stage, self.shelf, wanted).is_none() {
                answered!(ends, LIST, agreed.fetch(wanted)).map_err(outside)?;
            }
        }
        Ok(decision.plugins)
    }

    /// With which plugins a process begins whose pipeline others have too: those that were decided on, whatever is in
    /// its folder. Where they can't be had here, those that it had before, else the folder's: the swapper then tries
    /// again, and says in `/ready` that this process lags behind.
    fn begin_as_decided(&self, newest: Arc<Topology>, now: &[StagePlugin], decided: Plugins) -> Begun {
        let wanted: Vec<StagePlugin> = now
            .iter()
            .map(|p| {
                let is_pinned = self.stage(&p.stage).is_some_and(|stage| stage.pin.is_some());
                // Where the spec has another plugin by now, nothing was decided of that.
                let decided = decided.of(&p.stage).filter(|d| d.plugin == p.plugin && !is_pinned);
                decided.unwrap_or(p).clone()
            })
            .collect();
        let noted = self.shelf.noted().unwrap_or_default();
        let had: Vec<StagePlugin> = now
            .iter()
            .map(|p| noted.of(&p.stage).filter(|then| then.plugin == p.plugin).unwrap_or(p).clone())
            .collect();
        let load = |wanted: &[StagePlugin]| match wanted == now {
            true => Some(Arc::clone(&newest)),
            false => self.load_exactly(wanted).ok().map(Arc::new),
        };
        let topology = load(&wanted).or_else(|| load(&had)).unwrap_or(newest);
        let now = topology.plugins();
        let plugins = Plugins { now, before: Vec::new(), settled: false, ..decided };
        Begun::of(topology, plugins, BTreeMap::new())
    }

    fn stage(&self, name: &str) -> Option<&PluginStage> {
        self.pipeline.stages.iter().filter_map(Stage::plugin).find(|stage| stage.name == name)
    }

    /// The pipeline with these very files.
    fn load_exactly(&self, wanted: &[StagePlugin]) -> anyhow::Result<Topology> {
        let mut files = BTreeMap::new();
        for plugin in wanted {
            let Some(stage) = self.stage(&plugin.stage) else { continue };
            let Some(file) = file_of(self.pipeline, stage, self.shelf, plugin) else {
                let text = gone(self.pipeline, self.shelf, plugin);
                return Err(RunFailure { exit: Exit::Plugin, text }.into());
            };
            files.insert(plugin.stage.clone(), file);
        }
        let topology = self.load(&files)?;
        let loaded = topology.plugins();
        let other = loaded.iter().zip(wanted).find(|(loaded, wanted)| loaded.digest != wanted.digest);
        match other {
            None => Ok(topology),
            Some((loaded, wanted)) => Err(RunFailure {
                exit: Exit::Plugin,
                text: format!(
                    "the stage `{}` goes on with {} (sha256:{}), and that file has become sha256:{} while it was read: start again",
                    wanted.stage, wanted.shown(), wanted.digest, loaded.digest
                ),
            }
            .into()),
        }
    }
}

impl Begun {
    fn of(topology: Arc<Topology>, plugins: Plugins, mut editions: BTreeMap<u64, Arc<Edition>>) -> Self {
        let number = editions.len() as u64;
        editions.insert(number, Arc::new(Edition { number, topology: Arc::clone(&topology) }));
        Self { topology, plugins, editions, is_new: false }
    }
}

//! Watches a pipeline's plugin files while it runs, and has new versions take over.
//!
//! A file that has changed is looked at once it is whole: the same at two looks. What is admitted, fits its stage and
//! what is stored is proposed to the coordinator; what isn't stays out, and the version before goes on. Its copy is
//! kept before that, for a restart runs what is committed, not what the folder holds by then.
//!
//! Where processes share the pipeline, they have one list of what takes over: what this one would propose is decided
//! there first, and what others decide there takes over here, each at a barrier of its own.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::block_in_place;
use wasmill_connect::ConnectorError;
use wasmill_engine::edition::{Plugins, StagePlugin, shown_digest};
use wasmill_engine::guest::PluginRef;
use wasmill_engine::state::Epoch;
use wasmill_engine::swap::{Swap, fits};
use wasmill_engine::topology::Topology;
use wasmill_plugin::{Sandbox, SandboxOptions};

use super::assemble::Merger;
use super::coordinate::Event;
use super::guarded::Guards;
use super::observe::Observed;
use super::plugin_pages::{Catalog, Waiting};
use super::retry::{Backoff, Ends};
use super::swapping::{NOT_YET, Proposal};
use crate::cli::check::load_fitting;
use crate::plugins::{
    self, Agreed, Change, Decision, Entry, Outcome, Shelf, candidates, file_of, with_files,
};
use crate::spec::{NoPin, Pin, Pipeline, PluginStage, Stage, SwapBy};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// After how long one is looked at again that can't take over yet.
const AGAIN_AFTER: Duration = Duration::from_secs(3);

/// How often it is looked what the pipeline's other processes have decided.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// How long what is read on waits for a list that is away.
const READS_ON_AFTER: Duration = Duration::from_secs(30);

/// After how long what others have decided is tried again that can't be had here.
const LAGS_FOR: Duration = Duration::from_secs(10);

/// What `/ready` calls the list of what the pipeline's processes run.
pub(super) const LIST: &str = "the list of the pipeline's plugins";

/// Why a version doesn't take over that another process decided otherwise about.
const QUICKER: &str = "another process of the pipeline has just decided for other plugins, which take over here too; ask again if it is wanted all the same";

/// How many digests a stage may have that are not taken unasked.
const REFUSED_MAX: usize = 8;

/// What is asked of a running pipeline's plugins, and where the answer goes.
pub(super) struct Asked {
    pub order: Order,
    pub answer: oneshot::Sender<Result<String, NotDone>>,
}

/// Why an order was not carried out.
#[derive(Debug)]
pub(super) enum NotDone {
    /// There is no version to go back to.
    Nothing(String),
    /// Something is against it.
    Refused(String),
}

impl From<String> for NotDone {
    fn from(why: String) -> Self {
        Self::Refused(why)
    }
}

/// What an operator asks for.
#[derive(Debug, Clone)]
pub(super) enum Order {
    /// A version is to take over: `NAME`, `NAME@VERSION` or `NAME@sha256:DIGEST`.
    Promote(String),
    /// The version before is to take over again: of this plugin or stage, or of all that the last swap changed.
    Rollback(Option<String>),
}

/// Which of a stage's files has been seen.
struct Seen {
    last: Option<Change>,
    handled: Option<Change>,
    /// What it was when it was read last: one that is touched is not another one.
    digest: Option<String>,
    not_before: Option<Instant>,
    /// Whether it was there when the run began, and nothing was made of it yet.
    is_standing: bool,
}

impl Seen {
    fn at_the_start() -> Self {
        Self { last: None, handled: None, digest: None, not_before: None, is_standing: true }
    }
}

/// How the list is watched.
struct Watch {
    backoff: Backoff,
    /// When it is asked again that was away.
    not_before: Instant,
    /// Who waits for what is decided by now, and until when.
    waiting: Vec<(oneshot::Sender<()>, Instant)>,
}

impl Watch {
    /// Lets those go on that have waited long enough for a list that is away.
    fn let_go(&mut self, pipeline: &str) {
        let now = Instant::now();
        for (caught_up, _) in self.waiting.extract_if(.., |(_, until)| *until <= now) {
            tracing::warn!(
                %pipeline,
                "partitions are read on without knowing what the pipeline's other processes have decided of its plugins: the list is away"
            );
            let _ = caught_up.send(());
        }
    }
}

/// One list for all processes that share a pipeline, as far as there is one.
pub(super) enum Listed {
    /// There is none: one process has the pipeline, or new versions take over at a start alone.
    Alone,
    /// What they agree on.
    By(Box<Agreed>),
    /// There should be one, and this process may not use it: why.
    Denied(String),
}

/// The task of one run.
pub(super) struct Swapper {
    pub pipeline: Arc<Pipeline>,
    pub sandbox: Arc<Sandbox>,
    pub guards: Guards,
    pub events: Sender<Event>,
    pub shelf: Shelf,
    pub catalog: Arc<Catalog>,
    pub observed: Arc<Observed>,
    pub ends: Ends,
    pub running: Arc<Topology>,
    pub plugins: Plugins,
    pub list: Listed,
    /// The decision that can't be followed here, and when it is tried again.
    pub lagging: Option<(String, Instant)>,
    /// By stage, what stays out for what it declares of its messages: beside another new version it may fit.
    pub unfit: BTreeMap<String, Loaded>,
    /// What merges into totals that processes share, which is the aggregates' own.
    pub merger: Arc<Merger>,
}

/// A version that is to take over in a stage.
struct Candidate {
    stage: Stage,
    file: PathBuf,
}

/// The pipeline with plugins that may take over.
struct Ready {
    topology: Arc<Topology>,
    swap: Swap,
}

/// Why plugins don't take over.
struct Refusal {
    why: String,
    /// Whether that passes by itself.
    passes: bool,
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self { why, passes: false }
    }
}

/// Why a file is not loaded.
#[derive(Debug, thiserror::Error)]
enum NotLoaded {
    /// It is not there, or not any more.
    #[error("{} is not there", .0.display())]
    Gone(PathBuf),
    /// It can't be read: why.
    #[error("{0}")]
    Unread(String),
    /// It is not admitted, or doesn't fit its stage: why.
    #[error("{1}")]
    Unfit(StagePlugin, String),
}

/// One that was loaded.
pub(super) struct Loaded {
    plugin: PluginRef,
    file: PathBuf,
    of: StagePlugin,
    bytes: Vec<u8>,
}

impl Swapper {
    /// Looks, and does what is asked, until the run ends.
    ///
    /// Who sends through `reads_on` is about to read what another process has read before, and is answered once this one
    /// has all that was decided by then.
    pub async fn run(
        mut self,
        mut asked: mpsc::Receiver<Asked>,
        mut reads_on: mpsc::Receiver<oneshot::Sender<()>>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut follows = tokio::time::interval(FOLLOW_EVERY);
        follows.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut list = Watch { backoff: Backoff::new(), not_before: Instant::now(), waiting: Vec::new() };
        loop {
            tokio::select! {
                () = async { drop(stop.wait_for(|stop| *stop).await) } => return,
                Some(caught_up) = reads_on.recv() => {
                    list.waiting.push((caught_up, Instant::now() + READS_ON_AFTER));
                    self.keep_up(&mut list).await;
                }
                _ = follows.tick(), if matches!(self.list, Listed::By(_)) => {
                    if Instant::now() >= list.not_before {
                        self.keep_up(&mut list).await;
                    }
                    list.let_go(&self.pipeline.name);
                }
                _ = looks.tick() => {
                    if self.pipeline.swap != SwapBy::Restart {
                        self.look(&mut seen).await;
                    }
                }
                order = asked.recv() => {
                    let Some(Asked { order, answer }) = order else { return };
                    let done = self.obey(order).await;
                    // Whoever asked may have gone.
                    let _ = answer.send(done);
                }
            }
        }
    }

    /// Has what was decided, if the list can be had; tells that it is away else.
    async fn keep_up(&mut self, list: &mut Watch) {
        let followed = match self.follow().await {
            Ok(()) => self.tidy().await,
            away => away,
        };
        match followed {
            Ok(()) => self.ends.well(LIST, &mut list.backoff),
            Err(ConnectorError::Disconnected { what, cause }) => {
                list.not_before = Instant::now() + self.ends.away(LIST, &mut list.backoff, &what, &cause);
                return;
            }
            Err(error) => {
                self.list = denied(&self.pipeline.name, &error);
                // It is not waited for.
                self.ends.well(LIST, &mut list.backoff);
            }
        }
        for (caught_up, _) in list.waiting.drain(..) {
            let _ = caught_up.send(());
        }
    }

    async fn tidy(&mut self) -> Result<(), ConnectorError> {
        match &mut self.list {
            Listed::By(agreed) => agreed.tidy().await,
            Listed::Alone | Listed::Denied(_) => Ok(()),
        }
    }

    /// Does what an operator asks for, behind all that was decided until then.
    async fn obey(&mut self, order: Order) -> Result<String, NotDone> {
        self.follow().await.map_err(|error| untold(&error))?;
        match order {
            Order::Promote(which) => Ok(self.promote(&which).await?),
            Order::Rollback(which) => self.roll_back(which.as_deref()).await,
        }
    }

    /// Has what the pipeline's processes have decided take over here.
    async fn follow(&mut self) -> Result<(), ConnectorError> {
        let Listed::By(agreed) = &mut self.list else { return Ok(()) };
        agreed.catch_up().await?;
        let Some(decision) = agreed.last().cloned() else { return Ok(()) };
        // Also where what it lagged behind was rolled back: that isn't taken again.
        self.learn(&decision);
        if self.lagging.as_ref().is_some_and(|(of, until)| *of == decision.token && Instant::now() < *until) {
            return Ok(());
        }
        let mut new = Vec::new();
        for (stage, plugin) in self.stages() {
            let (Some(now), Some(wanted)) = (self.stage_plugin(&stage), decision.plugins.of(&plugin.name))
            else {
                continue;
            };
            // A pin is the operator's word, and a spec with another plugin there is another spec.
            if wanted.digest == now.digest || wanted.plugin != plugin.plugin || plugin.pin.is_some() {
                continue;
            }
            let loaded = match self.file(&plugin, wanted).await? {
                None => Err(gone(&self.pipeline, &self.shelf, wanted)),
                Some(file) => self.load_exactly(Candidate { stage, file }, wanted).await,
            };
            match loaded {
                Ok(loaded) => new.push(loaded),
                Err(why) => {
                    self.lags(wanted, &decision, &why);
                    return Ok(());
                }
            }
        }
        let new: Vec<&Loaded> = new.iter().collect();
        let taken = match (!new.is_empty()).then(|| self.prepare(&new)).transpose() {
            Ok(None) => Ok(()),
            Ok(Some(ready)) => {
                self.apply(&new, ready, decision.plugins.clone(), decision.rolls_back).await.map(drop)
            }
            Err(why) => Err(why.into()),
        };
        match taken {
            Ok(()) => {
                self.lagging = None;
                self.ends.health.well(&self.plugins_of_it());
            }
            // It is tried again at once, if there is a run.
            Err(refusal) if refusal.passes => {}
            Err(refusal) => self.lags(&new[0].of, &decision, &refusal.why),
        }
        Ok(())
    }

    /// Knows what can be rolled back to, and what was rolled back.
    fn learn(&mut self, decision: &Decision) {
        let Plugins { previous, refused, .. } = &decision.plugins;
        if (&self.plugins.previous, &self.plugins.refused) != (previous, refused) {
            self.plugins.previous.clone_from(previous);
            self.plugins.refused.clone_from(refused);
            self.show();
        }
    }

    /// Shows what runs, and notes it.
    fn show(&self) {
        self.catalog.runs(&self.pipeline, &self.plugins);
        if let Err(error) = block_in_place(|| self.shelf.note(&self.plugins)) {
            tracing::warn!(pipeline = %self.pipeline.name, %error, "can't note which plugins run; what is committed is not touched by it");
        }
    }

    /// The file of a stage's plugin that is to be this very one: from here, or from the list.
    async fn file(
        &mut self,
        stage: &PluginStage,
        wanted: &StagePlugin,
    ) -> Result<Option<PathBuf>, ConnectorError> {
        let here = block_in_place(|| file_of(&self.pipeline, stage, &self.shelf, wanted));
        match (here, &mut self.list) {
            (None, Listed::By(agreed)) => agreed.fetch(wanted).await,
            (here, _) => Ok(here),
        }
    }

    /// What `/ready` calls what this process has.
    fn plugins_of_it(&self) -> String {
        format!("the plugins of {}", self.pipeline.name)
    }

    /// The pipeline's other processes have a version that this one can't have. It goes on with the one that it has, and
    /// says that it should not.
    fn lags(&mut self, wanted: &StagePlugin, decision: &Decision, why: &str) {
        self.lagging = Some((decision.token.clone(), Instant::now() + LAGS_FOR));
        let text = format!(
            "the stage `{}` should have {} (sha256:{}), as {} decided for all processes of the pipeline, and goes on with the version before: {why}",
            wanted.stage,
            wanted.shown(),
            wanted.digest,
            decision.by
        );
        if self.ends.health.ill(&self.plugins_of_it(), &text) {
            tracing::error!(pipeline = %self.pipeline.name, "{text}");
            self.stays_out(wanted, why);
        }
    }

    fn stages(&self) -> impl Iterator<Item = (Stage, PluginStage)> + use<> {
        let stages = self.pipeline.stages.iter();
        let running = self.running.plugins();
        let is_here = move |plugin: &PluginStage| running.iter().any(|p| p.stage == plugin.name);
        stages
            .filter_map(|stage| Some((stage.clone(), stage.plugin()?.clone())))
            .filter(move |(_, plugin)| is_here(plugin))
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// Looks whether files have changed, and has those take over that have.
    async fn look(&mut self, seen: &mut BTreeMap<String, Seen>) {
        let mut changed = Vec::new();
        let mut standing = Vec::new();
        for (stage, plugin) in self.stages().filter(|(_, plugin)| plugin.pin.is_none()) {
            let seen = seen.entry(plugin.name.clone()).or_insert_with(Seen::at_the_start);
            if seen.not_before.is_some_and(|at| Instant::now() < at) {
                continue;
            }
            let now = block_in_place(|| Change::of(&plugin.file));
            let is_whole = now == seen.last;
            seen.last.clone_from(&now);
            if now.is_some() && is_whole && now != seen.handled {
                if std::mem::take(&mut seen.is_standing) {
                    standing.push(plugin.name.clone());
                }
                seen.handled = now;
                changed.push(Candidate { file: plugin.file, stage });
            }
        }
        if changed.is_empty() {
            return;
        }
        let mut loaded = Vec::new();
        for candidate in changed {
            let stage = candidate.stage.name().unwrap_or_default().to_owned();
            match self.load_changed(candidate, seen).await {
                // A folder that lags behind others of the same pipeline is no reason to go back.
                Ok(Some(new)) if standing.contains(&new.of.stage) && self.was_decided(&new.of) => {
                    let why = "the pipeline's processes had it before, and have another one since; `wasmill plugin promote` takes it again";
                    tracing::warn!(pipeline = %self.pipeline.name, stage = %new.of.stage, plugin = %new.of.shown(), digest = %new.of.digest, "the plugin folder has a version that {why}");
                    self.catalog.waits(&self.pipeline, Waiting { of: new.of, why: why.to_owned() });
                }
                Ok(Some(new)) if self.pipeline.swap == SwapBy::Hand => {
                    if let Err(why) = self.schemas_fit(&[&new]) {
                        self.stays_out(&new.of, &why);
                        continue;
                    }
                    let why = "it waits for `wasmill plugin promote`";
                    tracing::info!(pipeline = %self.pipeline.name, stage = %new.of.stage, plugin = %new.of.shown(), digest = %new.of.digest, "a new version of a plugin is admitted, and waits for `wasmill plugin promote`");
                    self.catalog.waits(&self.pipeline, Waiting { of: new.of, why: why.to_owned() });
                }
                Ok(Some(new)) => loaded.push(new),
                // Of one that is gone the next look finds what is there then.
                Ok(None) | Err(NotLoaded::Gone(_)) => {}
                Err(NotLoaded::Unread(why)) => {
                    tracing::error!(pipeline = %self.pipeline.name, %stage, why, "a plugin's file has changed, and the version before goes on");
                    self.look_again(seen, &stage);
                }
                Err(NotLoaded::Unfit(of, why)) => self.stays_out(&of, &why),
            }
        }
        if loaded.is_empty() {
            return;
        }
        // Together, as they were put there, and with those that stay out for what they declare, which these may fit;
        // where that can't be, each for itself.
        let is_there = |unfit: &Loaded| {
            let read = block_in_place(|| plugins::read(&unfit.file));
            read.is_ok_and(|(digest, _)| digest == unfit.of.digest)
        };
        self.unfit.retain(|_, unfit| is_there(unfit));
        let unfit = std::mem::take(&mut self.unfit);
        let together: Vec<&Loaded> = loaded.iter().chain(unfit.values()).collect();
        let is_one = together.len() == 1;
        let refused = self.refused_but(&together);
        let Err(refusal) = self.take_over(&together, false, refused).await else { return };
        self.unfit = unfit;
        if refusal.passes {
            return loaded.iter().for_each(|new| self.comes_later(seen, &new.of, &refusal.why));
        }
        let mut refusal = is_one.then_some(refusal);
        for new in loaded {
            let refusal = match refusal.take() {
                Some(refusal) => refusal,
                None => match self.take_over(&[&new], false, self.refused_but(&[&new])).await {
                    Ok(_) => continue,
                    Err(refusal) => refusal,
                },
            };
            if refusal.passes {
                self.comes_later(seen, &new.of, &refusal.why);
                continue;
            }
            self.stays_out(&new.of, &refusal.why);
            if self.schemas_fit(&[&new]).is_err() {
                self.unfit.insert(new.of.stage.clone(), new);
            }
        }
    }

    fn was_decided(&self, plugin: &StagePlugin) -> bool {
        matches!(&self.list, Listed::By(agreed) if agreed.knows(plugin))
    }

    /// A version can't take over yet.
    fn comes_later(&self, seen: &mut BTreeMap<String, Seen>, of: &StagePlugin, why: &str) {
        if self.catalog.waits(&self.pipeline, Waiting { of: of.clone(), why: why.to_owned() }) {
            tracing::warn!(
                pipeline = %self.pipeline.name, stage = %of.stage, plugin = %of.shown(), digest = %of.digest, why,
                "a new version of a plugin can't take over yet; it is tried again"
            );
        }
        self.look_again(seen, &of.stage);
    }

    /// A file is to be looked at again, in a while.
    fn look_again(&self, seen: &mut BTreeMap<String, Seen>, stage: &str) {
        if let Some(seen) = seen.get_mut(stage) {
            (seen.handled, seen.digest) = (None, None);
            seen.not_before = Some(Instant::now() + AGAIN_AFTER);
        }
    }

    /// Reads a file that may be a stage's plugin.
    fn read(&self, candidate: &Candidate) -> Result<(StagePlugin, Vec<u8>), NotLoaded> {
        let Some(now) = self.stage_plugin(&candidate.stage) else {
            return Err(NotLoaded::Unread("the stage is not this process's".to_owned()));
        };
        match block_in_place(|| plugins::read(&candidate.file)) {
            Ok((digest, bytes)) => Ok((StagePlugin { digest, version: None, ..now }, bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(NotLoaded::Gone(candidate.file.clone())),
            Err(e) => Err(NotLoaded::Unread(format!("can't read {}: {e}", candidate.file.display()))),
        }
    }

    /// Admits what was read.
    async fn admit(
        &self,
        candidate: Candidate,
        of: StagePlugin,
        bytes: Vec<u8>,
    ) -> Result<Loaded, NotLoaded> {
        let (pipeline, sandbox) = (Arc::clone(&self.pipeline), Arc::clone(&self.sandbox));
        let admitting =
            tokio::task::spawn_blocking(move || admit((&pipeline, &sandbox), candidate, of, bytes));
        admitting.await.unwrap_or_else(|e| Err(NotLoaded::Unread(e.to_string())))
    }

    /// Loads a file that is wanted in a stage, whatever it is.
    async fn load_asked(&self, candidate: Candidate) -> Result<Loaded, String> {
        let (of, bytes) = self.read(&candidate).map_err(|e| e.to_string())?;
        self.admit(candidate, of, bytes).await.map_err(|e| e.to_string())
    }

    /// Loads the file of a stage's plugin that is to be this very one.
    async fn load_exactly(&self, candidate: Candidate, wanted: &StagePlugin) -> Result<Loaded, String> {
        let shown = candidate.file.display().to_string();
        let loaded = self.load_asked(candidate).await?;
        match loaded.of.digest == wanted.digest {
            true => Ok(loaded),
            false => Err(format!("{shown} has become another file while it was read; ask again")),
        }
    }

    /// Loads a stage's file that has changed, if it is another version than the one that runs, and than what was seen
    /// there before, and none that was rolled back.
    async fn load_changed(
        &self,
        candidate: Candidate,
        seen: &mut BTreeMap<String, Seen>,
    ) -> Result<Option<Loaded>, NotLoaded> {
        let (of, bytes) = self.read(&candidate)?;
        let before = seen.get_mut(&of.stage).and_then(|seen| seen.digest.replace(of.digest.clone()));
        if before.as_ref() == Some(&of.digest) {
            return Ok(None);
        }
        let is = |p: &StagePlugin| p.stage == of.stage && p.digest == of.digest;
        if self.running.plugins().iter().chain(&self.plugins.refused).any(is) {
            return Ok(None);
        }
        self.admit(candidate, of, bytes).await.map(Some)
    }

    fn stage_plugin(&self, stage: &Stage) -> Option<StagePlugin> {
        self.running.plugins().into_iter().find(|p| Some(p.stage.as_str()) == stage.name())
    }

    /// The copies of what runs, by stage.
    fn copies(&self) -> Vec<(String, PathBuf)> {
        let running = self.running.plugins();
        running.iter().filter_map(|plugin| Some((plugin.stage.clone(), self.shelf.find(plugin)?))).collect()
    }

    /// What was rolled back, without what takes over now.
    fn refused_but(&self, new: &[&Loaded]) -> Vec<StagePlugin> {
        let is_new = |p: &&StagePlugin| new.iter().any(|n| n.of.stage == p.stage && n.of.digest == p.digest);
        self.plugins.refused.iter().filter(|p| !is_new(p)).cloned().collect()
    }

    /// Has loaded plugins take over; answers the epoch at whose end they did.
    async fn take_over(
        &mut self,
        new: &[&Loaded],
        rolls_back: bool,
        refused: Vec<StagePlugin>,
    ) -> Result<Epoch, Refusal> {
        let ready = self.prepare(new)?;
        let plugins = self.plugins_with(new, refused);
        match &mut self.list {
            Listed::Alone => {}
            Listed::Denied(why) => {
                let why = format!(
                    "other processes have the pipeline too, and what they agree on can't be used: {why}"
                );
                return Err(why.into());
            }
            Listed::By(agreed) => {
                let new = |plugin: &StagePlugin| {
                    new.iter().find(|n| n.of.digest == plugin.digest).map(|n| n.bytes.clone())
                };
                let decided = match agreed.catch_up().await {
                    // It takes over here first; then it shows whether there is anything left to decide.
                    Ok(true) => Ok(false),
                    Ok(false) => agreed.decide(plugins.clone(), new, rolls_back).await,
                    Err(error) => Err(error),
                };
                match decided {
                    Ok(true) => {}
                    Ok(false) => return Err(Refusal { why: QUICKER.to_owned(), passes: true }),
                    Err(error) => {
                        let passes = matches!(error, ConnectorError::Disconnected { .. });
                        return Err(Refusal { why: untold(&error), passes });
                    }
                }
            }
        }
        self.apply(new, ready, plugins, rolls_back).await
    }

    /// What there is with new plugins. Where processes have a list, that says what the other stages have: this process may
    /// lag behind in one of them, or have it pinned.
    fn plugins_with(&self, new: &[&Loaded], refused: Vec<StagePlugin>) -> Plugins {
        let running = self.running.plugins();
        let listed = match &self.list {
            Listed::By(agreed) => agreed.last().map(|last| &last.plugins),
            Listed::Alone | Listed::Denied(_) => None,
        };
        let now: Vec<StagePlugin> = running
            .iter()
            .map(|p| {
                let listed = listed.and_then(|listed| listed.of(&p.stage));
                listed.filter(|l| l.plugin == p.plugin).unwrap_or(p).clone()
            })
            .collect();
        let is_new = |p: &&StagePlugin| new.iter().any(|n| n.of.stage == p.stage);
        let mut previous: Vec<StagePlugin> = now.iter().filter(is_new).cloned().collect();
        previous.extend(self.plugins.previous.iter().filter(|p| !is_new(p)).cloned());
        let with = |p: StagePlugin| new.iter().find(|n| n.of.stage == p.stage).map_or(p, |n| n.of.clone());
        let now = now.into_iter().map(with).collect();
        Plugins { now, previous, refused, ..Plugins::default() }
    }

    /// What loaded plugins make of the pipeline, if they fit what is stored.
    fn prepare(&self, new: &[&Loaded]) -> Result<Ready, String> {
        let stages: BTreeMap<&str, &PluginStage> =
            self.pipeline.stages.iter().filter_map(Stage::plugin).map(|p| (p.name.as_str(), p)).collect();
        let with = |plugin_of: &dyn Fn(&Loaded, &PluginStage) -> PluginRef| {
            let stages = new.iter().filter_map(|n| Some((n, *stages.get(n.of.stage.as_str())?)));
            stages.fold(Topology::clone(&self.running), |topology, (new, stage)| {
                topology.with_plugin(&new.of.stage, &plugin_of(new, stage))
            })
        };
        let plain = with(&|new, _| Arc::clone(&new.plugin));
        let swap = fits(&self.running, &plain).map_err(|reasons| reasons.join("; "))?;
        if swap != Swap::Plain && !self.pipeline.remembers_plugins() {
            return Err("its accumulators must be migrated, which is not done where several processes have a pipeline: run it as another pipeline, by another `name`, or forget its state with `wasmill reset`".to_owned());
        }
        self.schemas_fit(new)?;
        let topology = Arc::new(with(&|new, stage| self.guards.guard(Arc::clone(&new.plugin), stage)));
        // A restart must have them before they are committed.
        block_in_place(|| new.iter().try_for_each(|n| self.shelf.keep(&n.of, &n.bytes)))
            .map_err(|e| format!("its copy can't be kept for a restart: {e}"))?;
        Ok(Ready { topology, swap })
    }

    /// Whether what plugins that are to take over together declare of their messages fits what stands beside them then.
    /// What didn't fit before is no reason against them.
    fn schemas_fit(&self, new: &[&Loaded]) -> Result<(), String> {
        let copies: BTreeMap<String, PathBuf> = self.copies().into_iter().collect();
        let files = new.iter().map(|new| (new.of.stage.clone(), new.file.clone()));
        let with: BTreeMap<String, PathBuf> = copies.clone().into_iter().chain(files).collect();
        let differences =
            |files| crate::schema::compare(&with_files(&self.pipeline, files), Some(&self.sandbox));
        block_in_place(|| {
            let before: Vec<String> = differences(&copies).into_iter().map(|d| d.title).collect();
            let differs = differences(&with).into_iter().find(|d| !before.contains(&d.title));
            differs.map_or(Ok(()), |new| Err(new.title))
        })
    }

    /// Has the coordinator take plugins over, and tells that it has. What runs then is this process's own: of other
    /// stages it may have other plugins than were decided on.
    async fn apply(
        &mut self,
        new: &[&Loaded],
        Ready { topology, swap }: Ready,
        plugins: Plugins,
        rolls_back: bool,
    ) -> Result<Epoch, Refusal> {
        let before = self.running.plugins();
        let plugins = Plugins { now: topology.plugins(), ..plugins };
        let (done, answer) = oneshot::channel();
        let is_alone = self.pipeline.remembers_plugins();
        let is_prefix = |stage: &str| self.running.prefix.iter().any(|spec| spec.name == stage);
        let proposal = Proposal {
            topology: Arc::clone(&topology),
            plugins: if is_alone { plugins.clone() } else { Plugins::default() },
            swap,
            is_keyed: new.iter().any(|n| !is_prefix(&n.of.stage)),
            done,
        };
        let ended = || Refusal { why: "the run has ended before".to_owned(), passes: true };
        self.events.send(Event::Swap(Box::new(proposal))).map_err(|_| ended())?;
        let answer = answer.await.map_err(|_| ended())?;
        let (epoch, committed) = answer.map_err(|why| Refusal { passes: why == NOT_YET, why })?;
        self.merger.replace(&topology);
        (self.running, self.plugins) = (topology, Plugins { before: committed.before, ..plugins });
        for Loaded { of, .. } in new {
            self.unfit.remove(&of.stage);
            let left = before.iter().find(|p| p.stage == of.stage).map(StagePlugin::shown);
            tracing::info!(
                pipeline = %self.pipeline.name, stage = %of.stage, plugin = %of.shown(), digest = %of.digest,
                before = left.as_deref().unwrap_or_default(), epoch,
                "{}", if rolls_back { "a plugin is rolled back" } else { "a new version of a plugin has taken over" }
            );
            self.observed.swapped(&of.stage, if rolls_back { "rolled_back" } else { "took_over" });
            let outcome = match rolls_back {
                true => Outcome::RolledBackTo { epoch },
                false => Outcome::TookOver { epoch },
            };
            self.record(of, left, outcome);
        }
        self.show();
        Ok(epoch)
    }

    fn stays_out(&self, of: &StagePlugin, why: &str) {
        tracing::error!(
            pipeline = %self.pipeline.name, stage = %of.stage, plugin = %of.shown(), digest = %of.digest, why,
            "a new version of a plugin stays out; the one before goes on"
        );
        self.observed.swapped(&of.stage, "stayed_out");
        self.record(of, None, Outcome::StaysOut { why: why.to_owned() });
        self.catalog.waits(&self.pipeline, Waiting { of: of.clone(), why: why.to_owned() });
    }

    fn record(&self, of: &StagePlugin, before: Option<String>, outcome: Outcome) {
        let at_ms = (SandboxOptions::default().wall_clock_ms)();
        let entry = Entry { at_ms, of: of.clone(), before, outcome };
        if let Err(error) = block_in_place(|| self.shelf.record(&entry)) {
            tracing::warn!(pipeline = %self.pipeline.name, %error, "can't add to the history of the plugins");
        }
    }

    /// An operator wants a version.
    async fn promote(&mut self, which: &str) -> Result<String, String> {
        let (name, version) = match which.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (which, None),
        };
        let stages: Vec<(Stage, PluginStage)> =
            self.stages().filter(|(_, p)| p.plugin == name || p.name == name).collect();
        let Some((_, first)) = stages.first() else {
            return Err(format!("no stage of `{}` has the plugin `{name}`", self.pipeline.name));
        };
        if let Some(pinned) = stages.iter().find_map(|(_, p)| p.pin.as_ref()) {
            return Err(format!("`{name}` is pinned to {pinned} by the pipeline's file: change it there"));
        }
        let file = match version {
            None => first.file.clone(),
            Some(version) => self.version(&first.plugin, version).await?,
        };
        let mut new = Vec::new();
        let mut passed_over = Vec::new();
        for (stage, plugin) in stages {
            let Some(now) = self.stage_plugin(&stage) else { continue };
            let folder = block_in_place(|| plugins::read(&plugin.file));
            let loaded = self.load_asked(Candidate { stage, file: file.clone() }).await?;
            // What the folder has in its place is not to take over at the next start.
            if let Some((digest, _)) = folder.ok().filter(|(digest, _)| *digest != loaded.of.digest) {
                passed_over.push(StagePlugin { digest, version: None, ..now.clone() });
            }
            if loaded.of.digest != now.digest {
                new.push(loaded);
            }
        }
        if new.is_empty() {
            return Err(format!("`{which}` is what runs"));
        }
        let refused = bounded(self.refused_but(&Vec::from_iter(&new)).into_iter().chain(passed_over));
        self.order(&new, false, refused).await
    }

    /// An operator wants the version before.
    async fn roll_back(&mut self, which: Option<&str>) -> Result<String, NotDone> {
        let mut new = Vec::new();
        let mut refused = Vec::new();
        for (stage, plugin) in self.stages() {
            if which.is_some_and(|which| plugin.plugin != which && plugin.name != which) {
                continue;
            }
            let Some(before) = self.plugins.previous.iter().find(|p| p.stage == plugin.name).cloned() else {
                continue;
            };
            let is_refused =
                self.plugins.refused.iter().any(|r| r.stage == before.stage && r.digest == before.digest);
            if which.is_none() && (is_refused || plugin.pin.is_some()) {
                continue;
            }
            if is_refused {
                return Err(NotDone::Refused(format!(
                    "the stage `{}` had {} before, which was rolled back itself: `wasmill plugin promote` takes it again",
                    plugin.name,
                    before.shown()
                )));
            }
            if let Some(pin) = &plugin.pin {
                return Err(NotDone::Refused(format!(
                    "`{}` is pinned to {pin} by the pipeline's file: change it there",
                    plugin.name
                )));
            }
            let Some(now) = self.stage_plugin(&stage) else { continue };
            let file = self.file(&plugin, &before).await.map_err(|e| e.to_string())?;
            let Some(file) = file else {
                return Err(gone(&self.pipeline, &self.shelf, &before).into());
            };
            new.push(self.load_exactly(Candidate { stage, file }, &before).await?);
            refused.push(now);
        }
        if new.is_empty() {
            return Err(NotDone::Nothing(match which {
                Some(which) => format!("`{which}` has had no other version: there is nothing to go back to"),
                None => "no plugin has had another version: there is nothing to go back to".to_owned(),
            }));
        }
        let refused = bounded(self.refused_but(&Vec::from_iter(&new)).into_iter().chain(refused));
        Ok(self.order(&new, true, refused).await?)
    }

    async fn order(
        &mut self,
        new: &[Loaded],
        rolls_back: bool,
        refused: Vec<StagePlugin>,
    ) -> Result<String, String> {
        let names: Vec<String> =
            new.iter().map(|n| format!("{} in the stage `{}`", n.of.shown(), n.of.stage)).collect();
        let taken = self.take_over(&new.iter().collect::<Vec<_>>(), rolls_back, refused).await;
        let epoch = taken.map_err(|refusal| refusal.why)?;
        Ok(format!("{} runs from the end of epoch {epoch} on", names.join(", ")))
    }

    /// The file of a version.
    async fn version(&self, plugin: &str, version: &str) -> Result<PathBuf, String> {
        let files = candidates(&self.pipeline.plugin_dir, &self.shelf, plugin);
        let (sandbox, plugin, version) = (Arc::clone(&self.sandbox), plugin.to_owned(), version.to_owned());
        let finding = tokio::task::spawn_blocking(move || {
            let pin: Pin = version.parse().map_err(|e: NoPin| e.to_string())?;
            let mut there = Vec::new();
            for file in files {
                let Ok(found) = sandbox.identify(&file) else { continue };
                if pin.takes(found.version.as_deref(), &found.digest) {
                    return Ok(file);
                }
                let digest = || format!("sha256:{}", shown_digest(&found.digest));
                there.push(found.version.clone().unwrap_or_else(digest));
            }
            there.sort();
            there.dedup();
            Err(format!("there is no `{plugin}@{version}`; there is {}", there.join(", ")))
        });
        finding.await.unwrap_or_else(|e| Err(e.to_string()))
    }
}

/// That the pipeline's other processes are out of reach.
fn untold(error: &ConnectorError) -> String {
    format!("the pipeline's other processes can't be told: {error}")
}

/// That the list of what a pipeline's processes run can't be used here: told once.
pub(super) fn denied(pipeline: &str, error: &ConnectorError) -> Listed {
    tracing::warn!(
        %pipeline, %error,
        "what the pipeline's processes agree on can't be used: no new version of a plugin takes over in this one before it is started again"
    );
    Listed::Denied(error.to_string())
}

/// The last that are not to be taken unasked.
fn bounded(refused: impl Iterator<Item = StagePlugin>) -> Vec<StagePlugin> {
    let mut refused: Vec<StagePlugin> = refused.collect();
    let mut of_stage: BTreeMap<String, usize> = BTreeMap::new();
    refused.reverse();
    refused.retain(|p| {
        let of_stage = of_stage.entry(p.stage.clone()).or_default();
        *of_stage += 1;
        *of_stage <= REFUSED_MAX
    });
    refused.reverse();
    refused
}

/// Admits a file for a stage. `of` has the digest of `bytes`, which are the file's.
fn admit(
    (pipeline, sandbox): (&Pipeline, &Sandbox),
    candidate: Candidate,
    of: StagePlugin,
    bytes: Vec<u8>,
) -> Result<Loaded, NotLoaded> {
    let unfit = |of, why: &str| Err(NotLoaded::Unfit(of, why.to_owned()));
    let with = with_files(pipeline, &BTreeMap::from([(of.stage.clone(), candidate.file.clone())]));
    let stage = with.stages.iter().find(|stage| stage.name() == Some(of.stage.as_str()));
    let Some((stage, plugin)) = stage.and_then(|stage| Some((stage, stage.plugin()?))) else {
        return unfit(of, "its stage is gone");
    };
    let loaded = match load_fitting(sandbox, &with, stage, plugin) {
        Ok(loaded) => loaded,
        Err(stop) => return unfit(of, &first_line(&stop.shown)),
    };
    if loaded.info().digest != of.digest {
        return unfit(of, "the file changed while it was read; it is looked at again when it changes");
    }
    let of = StagePlugin { version: loaded.info().version.clone(), ..of };
    Ok(Loaded { plugin: loaded, file: candidate.file, of, bytes })
}

/// What a rendered error says, without the place in the spec, which is not what is wrong.
pub(super) fn first_line(shown: &str) -> String {
    shown.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// That a version that is committed is nowhere.
pub(super) fn gone(pipeline: &Pipeline, shelf: &Shelf, plugin: &StagePlugin) -> String {
    let places =
        [Some(pipeline.plugin_dir.join(format!("{}@VERSION.wasm", plugin.plugin))), shelf.place(plugin)];
    let places: Vec<String> =
        places.iter().flatten().map(|p: &PathBuf| Path::display(p).to_string()).collect();
    format!(
        "the file of {} (sha256:{}) is gone, with which the stage `{}` goes on: put it back as {}",
        plugin.shown(),
        plugin.digest,
        plugin.stage,
        places.join(", or as ")
    )
}

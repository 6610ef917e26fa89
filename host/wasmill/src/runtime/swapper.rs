//! Watches a pipeline's plugin files while it runs, and has new versions take over.
//!
//! A file that has changed is looked at once it is whole: the same at two looks. What is admitted, fits its stage and
//! what is stored is proposed to the coordinator; what isn't stays out, and the version before goes on. Its copy is
//! kept before that, for a restart runs what is committed, not what the folder holds by then.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::block_in_place;
use wasmill_engine::edition::{Plugins, StagePlugin};
use wasmill_engine::guest::PluginRef;
use wasmill_engine::state::Epoch;
use wasmill_engine::swap::{Swap, fits};
use wasmill_engine::topology::Topology;
use wasmill_plugin::{Sandbox, SandboxOptions};

use super::coordinate::Event;
use super::guarded::Guards;
use super::observe::Observed;
use super::plugin_pages::{Catalog, Waiting};
use super::swapping::{NOT_YET, Proposal};
use crate::cli::check::load_fitting;
use crate::plugins::{Change, Entry, Outcome, Shelf, candidates, file_of, with_files};
use crate::spec::{Pipeline, PluginStage, Sharing, Stage, SwapBy};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// After how long one is looked at again that can't take over yet.
const AGAIN_AFTER: Duration = Duration::from_secs(3);

/// How many digests a stage may have that are not taken unasked.
const REFUSED_MAX: usize = 8;

/// What is asked of a running pipeline's plugins, and where the answer goes.
pub(super) struct Asked {
    pub order: Order,
    pub answer: oneshot::Sender<Result<String, String>>,
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
#[derive(Default)]
struct Seen {
    last: Option<Change>,
    handled: Option<Change>,
    not_before: Option<Instant>,
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
    pub running: Arc<Topology>,
    pub plugins: Plugins,
}

/// A version that is to take over in a stage.
struct Candidate {
    stage: Stage,
    file: PathBuf,
}

/// One that was loaded.
struct Loaded {
    plugin: PluginRef,
    of: StagePlugin,
    bytes: Vec<u8>,
}

impl Swapper {
    /// Looks, and does what is asked, until the run ends.
    pub async fn run(mut self, mut asked: mpsc::Receiver<Asked>, mut stop: watch::Receiver<bool>) {
        let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = async { drop(stop.wait_for(|stop| *stop).await) } => return,
                _ = looks.tick() => {
                    if self.pipeline.swap != SwapBy::Restart {
                        self.look(&mut seen).await;
                    }
                }
                order = asked.recv() => {
                    let Some(Asked { order, answer }) = order else { return };
                    let done = match order {
                        Order::Promote(which) => self.promote(&which).await,
                        Order::Rollback(which) => self.roll_back(which.as_deref()).await,
                    };
                    // Whoever asked may have gone.
                    let _ = answer.send(done);
                }
            }
        }
    }

    fn stages(&self) -> impl Iterator<Item = (Stage, PluginStage)> {
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
        for (stage, plugin) in self.stages().filter(|(_, plugin)| plugin.pin.is_none()) {
            let seen = seen.entry(plugin.name.clone()).or_default();
            if seen.not_before.is_some_and(|at| Instant::now() < at) {
                continue;
            }
            let now = block_in_place(|| Change::of(&plugin.file));
            let is_whole = now == seen.last;
            seen.last.clone_from(&now);
            if now.is_some() && is_whole && now != seen.handled {
                seen.handled = now;
                changed.push(Candidate { file: plugin.file, stage });
            }
        }
        if changed.is_empty() {
            return;
        }
        let mut loaded = Vec::new();
        for candidate in changed {
            match self.load(candidate).await {
                Ok(Some(new)) if self.pipeline.swap == SwapBy::Hand => {
                    let why = "it waits for `wasmill plugin promote`";
                    tracing::info!(pipeline = %self.pipeline.name, stage = %new.of.stage, plugin = %new.of.shown(), digest = %new.of.digest, "a new version of a plugin is admitted, and waits for `wasmill plugin promote`");
                    self.catalog.waits(&self.pipeline.name, Waiting { of: new.of, why: why.to_owned() });
                }
                Ok(Some(new)) => loaded.push(new),
                Ok(None) => {}
                Err((of, why)) => self.stays_out(&of, &why),
            }
        }
        if loaded.is_empty() {
            return;
        }
        // Together, as they were put there; where that can't be, each for itself.
        let together: Vec<&Loaded> = loaded.iter().collect();
        match self.take_over(&together, false, self.refused_but(&loaded)).await {
            Ok(_) => {}
            Err(why) if why == NOT_YET => {
                loaded.iter().for_each(|new| self.look_again(seen, &new.of.stage));
            }
            Err(why) if loaded.len() == 1 => self.stays_out(&loaded[0].of, &why),
            Err(_) => {
                for new in &loaded {
                    if let Err(why) =
                        self.take_over(&[new], false, self.refused_but(std::slice::from_ref(new))).await
                    {
                        match why.as_str() {
                            NOT_YET => self.look_again(seen, &new.of.stage),
                            _ => self.stays_out(&new.of, &why),
                        }
                    }
                }
            }
        }
    }

    /// A file is to be looked at again, in a while.
    fn look_again(&self, seen: &mut BTreeMap<String, Seen>, stage: &str) {
        let seen = seen.entry(stage.to_owned()).or_default();
        (seen.handled, seen.not_before) = (None, Some(Instant::now() + AGAIN_AFTER));
    }

    /// Loads a stage's file, if it is another version than the one that runs, and none that was rolled back.
    async fn load(&self, candidate: Candidate) -> Result<Option<Loaded>, (StagePlugin, String)> {
        let Some(now) = self.stage_plugin(&candidate.stage) else { return Ok(None) };
        let refused = self.plugins.refused.clone();
        let (pipeline, sandbox) = (Arc::clone(&self.pipeline), Arc::clone(&self.sandbox));
        let copies = self.copies();
        let loading = tokio::task::spawn_blocking(move || {
            let bytes = match std::fs::read(&candidate.file) {
                Ok(bytes) => bytes,
                // It is gone again: the next look finds what is there then.
                Err(_) => return Ok(None),
            };
            let digest = wasmill_plugin::digest(&bytes);
            let is_refused = refused.iter().any(|p| p.stage == now.stage && p.digest == digest);
            if digest == now.digest || is_refused {
                return Ok(None);
            }
            let of = StagePlugin { digest, version: None, ..now };
            load((&pipeline, &sandbox, &copies), &candidate, of, bytes).map(Some)
        });
        loading.await.unwrap_or(Ok(None))
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
    fn refused_but(&self, new: &[Loaded]) -> Vec<StagePlugin> {
        let is_new = |p: &&StagePlugin| new.iter().any(|n| n.of.stage == p.stage && n.of.digest == p.digest);
        self.plugins.refused.iter().filter(|p| !is_new(p)).cloned().collect()
    }

    /// Has loaded plugins take over; answers the epoch at whose end they did.
    async fn take_over(
        &mut self,
        new: &[&Loaded],
        rolls_back: bool,
        refused: Vec<StagePlugin>,
    ) -> Result<Epoch, String> {
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
        self.refuse_shared(&swap, new)?;
        let topology = with(&|new, stage| self.guards.guard(Arc::clone(&new.plugin), stage));
        let before = self.running.plugins();
        let is_changed = |p: &&StagePlugin| new.iter().any(|n| n.of.stage == p.stage);
        let mut previous: Vec<StagePlugin> = before.iter().filter(is_changed).cloned().collect();
        previous.extend(self.plugins.previous.iter().filter(|p| !is_changed(p)).cloned());
        let plugins = Plugins { now: topology.plugins(), previous, refused, ..Plugins::default() };
        // A restart must have them before they are committed.
        block_in_place(|| new.iter().try_for_each(|n| self.shelf.keep(&n.of, &n.bytes)))
            .map_err(|e| format!("its copy can't be kept for a restart: {e}"))?;
        let topology = Arc::new(topology);
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
        let ended = || "the run has ended before".to_owned();
        self.events.send(Event::Swap(Box::new(proposal))).map_err(|_| ended())?;
        let (epoch, committed) = answer.await.map_err(|_| ended())??;
        (self.running, self.plugins) = (topology, Plugins { before: committed.before, ..plugins });
        for Loaded { of, .. } in new {
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
        self.catalog.runs(&self.pipeline.name, &self.plugins);
        if let Err(error) = block_in_place(|| self.shelf.note(&self.plugins)) {
            tracing::warn!(pipeline = %self.pipeline.name, %error, "can't note which plugins run; what is committed is not touched by it");
        }
        Ok(epoch)
    }

    /// What several processes can't do one after the other.
    fn refuse_shared(&self, swap: &Swap, new: &[&Loaded]) -> Result<(), String> {
        if self.pipeline.remembers_plugins() {
            return Ok(());
        }
        if *swap != Swap::Plain {
            return Err("its accumulators must be migrated, and other processes have the pipeline's too: stop them all, then start them with the new version".to_owned());
        }
        let is_aggregate = |stage: &Stage| {
            matches!(stage, Stage::Aggregate(_))
                && new.iter().any(|n| Some(n.of.stage.as_str()) == stage.name())
        };
        if self.pipeline.sharing() == Sharing::Store && self.pipeline.stages.iter().any(is_aggregate) {
            return Err("its totals are merged in a store that several processes share: it takes over at the next start".to_owned());
        }
        Ok(())
    }

    fn stays_out(&self, of: &StagePlugin, why: &str) {
        tracing::error!(
            pipeline = %self.pipeline.name, stage = %of.stage, plugin = %of.shown(), digest = %of.digest, why,
            "a new version of a plugin stays out; the one before goes on"
        );
        self.observed.swapped(&of.stage, "stayed_out");
        self.record(of, None, Outcome::StaysOut { why: why.to_owned() });
        self.catalog.waits(&self.pipeline.name, Waiting { of: of.clone(), why: why.to_owned() });
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
            let folder =
                block_in_place(|| std::fs::read(&plugin.file).map(|bytes| wasmill_plugin::digest(&bytes)));
            let loaded = self.load_asked(Candidate { stage, file: file.clone() }).await?;
            // What the folder has in its place is not to take over at the next start.
            if let Some(digest) = folder.ok().filter(|digest| *digest != loaded.of.digest) {
                passed_over.push(StagePlugin { digest, version: None, ..now.clone() });
            }
            if loaded.of.digest != now.digest {
                new.push(loaded);
            }
        }
        if new.is_empty() {
            return Err(format!("`{which}` is what runs"));
        }
        let refused = bounded(self.refused_but(&new).into_iter().chain(passed_over));
        self.order(&new, false, refused).await
    }

    /// An operator wants the version before.
    async fn roll_back(&mut self, which: Option<&str>) -> Result<String, String> {
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
            if let Some(pin) = &plugin.pin {
                return Err(format!(
                    "`{}` is pinned to {pin} by the pipeline's file: change it there",
                    plugin.name
                ));
            }
            let Some(now) = self.stage_plugin(&stage) else { continue };
            let file = block_in_place(|| file_of(&self.pipeline, &plugin, &self.shelf, &before));
            let Some(file) = file else {
                return Err(gone(&self.pipeline, &self.shelf, &before));
            };
            new.push(self.load_asked(Candidate { stage, file }).await?);
            refused.push(now);
        }
        if new.is_empty() {
            return Err(match which {
                Some(which) => format!("`{which}` has had no other version: there is nothing to go back to"),
                None => "no plugin has had another version: there is nothing to go back to".to_owned(),
            });
        }
        let refused = bounded(self.refused_but(&new).into_iter().chain(refused));
        self.order(&new, true, refused).await
    }

    async fn order(
        &mut self,
        new: &[Loaded],
        rolls_back: bool,
        refused: Vec<StagePlugin>,
    ) -> Result<String, String> {
        let names: Vec<String> =
            new.iter().map(|n| format!("{} in the stage `{}`", n.of.shown(), n.of.stage)).collect();
        let epoch = self.take_over(&new.iter().collect::<Vec<_>>(), rolls_back, refused).await?;
        Ok(format!("{} runs from the end of epoch {epoch} on", names.join(", ")))
    }

    /// The file of a version.
    async fn version(&self, plugin: &str, version: &str) -> Result<PathBuf, String> {
        let files = candidates(&self.pipeline.plugin_dir, &self.shelf, plugin);
        let (sandbox, plugin, version) = (Arc::clone(&self.sandbox), plugin.to_owned(), version.to_owned());
        let finding = tokio::task::spawn_blocking(move || {
            let digest = version.strip_prefix("sha256:");
            let mut there = Vec::new();
            for file in files {
                let Ok(found) = sandbox.identify(&file) else { continue };
                let is_it = match digest {
                    Some(digest) => found.digest.starts_with(digest) && digest.len() >= 12,
                    None => found.version.as_deref() == Some(version.as_str()),
                };
                if is_it {
                    return Ok(file);
                }
                there.push(found.version.unwrap_or_else(|| format!("sha256:{}", &found.digest[..12])));
            }
            there.sort();
            there.dedup();
            Err(format!("there is no `{plugin}@{version}`; there is {}", there.join(", ")))
        });
        finding.await.unwrap_or_else(|e| Err(e.to_string()))
    }

    async fn load_asked(&self, candidate: Candidate) -> Result<Loaded, String> {
        let Some(now) = self.stage_plugin(&candidate.stage) else {
            return Err("the stage is not this process's".to_owned());
        };
        let (pipeline, sandbox) = (Arc::clone(&self.pipeline), Arc::clone(&self.sandbox));
        let copies = self.copies();
        let loading = tokio::task::spawn_blocking(move || {
            let shown = candidate.file.display().to_string();
            let bytes = std::fs::read(&candidate.file).map_err(|e| format!("can't read {shown}: {e}"))?;
            let of = StagePlugin { digest: wasmill_plugin::digest(&bytes), version: None, ..now };
            load((&pipeline, &sandbox, &copies), &candidate, of, bytes).map_err(|(_, why)| why)
        });
        loading.await.unwrap_or_else(|e| Err(e.to_string()))
    }
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

/// Admits a file for a stage, beside the copies of what runs in the others. `of` has the digest of `bytes`, which are
/// the file's.
fn load(
    (pipeline, sandbox, copies): (&Pipeline, &Sandbox, &[(String, PathBuf)]),
    candidate: &Candidate,
    of: StagePlugin,
    bytes: Vec<u8>,
) -> Result<Loaded, (StagePlugin, String)> {
    let (stage, file) = (of.stage.clone(), candidate.file.clone());
    // The last one of a stage counts.
    let files: BTreeMap<String, PathBuf> = copies.iter().cloned().chain([(stage, file)]).collect();
    let with = with_files(pipeline, &files);
    let stage = with.stages.iter().find(|stage| stage.name() == Some(of.stage.as_str()));
    let Some((stage, plugin)) = stage.and_then(|stage| Some((stage, stage.plugin()?))) else {
        return Err((of, "its stage is gone".to_owned()));
    };
    let loaded = match load_fitting(sandbox, &with, stage, plugin) {
        Ok(loaded) => loaded,
        Err(stop) => return Err((of, first_line(&stop.shown))),
    };
    if loaded.info().digest != of.digest {
        return Err((
            of,
            "the file changed while it was read; it is looked at again when it changes".to_owned(),
        ));
    }
    let of = StagePlugin { version: loaded.info().version.clone(), ..of };
    let before = with_files(pipeline, &copies.iter().cloned().collect());
    let before: Vec<String> =
        crate::schema::compare(&before, Some(sandbox)).into_iter().map(|d| d.title).collect();
    let differences = crate::schema::compare(&with, Some(sandbox));
    if let Some(new) = differences.into_iter().find(|d| !before.contains(&d.title)) {
        return Err((of, new.title));
    }
    Ok(Loaded { plugin: loaded, of, bytes })
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

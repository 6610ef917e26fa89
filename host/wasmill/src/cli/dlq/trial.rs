//! Letters' messages tried with a plugin, as the engine would.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use wasmill_connect::codec::json::JsonEncoder;
use wasmill_connect::codec::rfc3339;
use wasmill_connect::store::MemoryStore;
use wasmill_engine::batch::Batch;
use wasmill_engine::output::{Outbox, Routes, SinkRoute, Takes, When};
use wasmill_engine::plugin_state::{CACHE_BYTES_MAX, PluginState};
use wasmill_engine::position::PartitionId;
use wasmill_engine::replay::push_message_of;
use wasmill_engine::stage::{Origins, Stage as Running, StageKind, StageSpec};
use wasmill_engine::topology::Topology;
use wasmill_frame::FrameBuf;
use wasmill_plugin::Sandbox;

use super::letter::{Letter, as_message};
use crate::cli::exit::{Exit, Stop};
use crate::cli::sandbox;
use crate::spec::{Grant, Pipeline, PluginStage, Stage};

const PARTITION: PartitionId = PartitionId { source: 0, partition: 0 };

/// What came of a try.
pub(super) enum Verdict {
    Taken,
    /// Why it was not.
    Refused(String),
    /// The letter is of another stage than the plugin's.
    Elsewhere,
}

/// A plugin in the place of some of a pipeline's stages.
pub(super) struct Trial {
    _sandbox: Sandbox,
    stages: BTreeMap<String, Running>,
    routes: Routes,
    /// The letter that is tried, and its message.
    letter: FrameBuf,
    frame: FrameBuf,
    /// What to do before letters are replayed, where the pipeline has another plugin.
    not_in_place: Option<String>,
}

/// A stage that a trial can be of.
fn trial_stage(stage: &Stage) -> Option<(&PluginStage, StageKind)> {
    match stage {
        Stage::Transform(plugin) => Some((plugin, StageKind::Transform)),
        Stage::Filter(plugin) => Some((plugin, StageKind::Filter)),
        Stage::KeyBy(_) | Stage::Aggregate(_) => None,
    }
}

impl Trial {
    /// Loads a plugin for the stages that it is meant for: those whose plugin has its name, or the only one.
    pub fn open(pipeline: &Pipeline, file: &Path) -> Result<Self, Stop> {
        let shown = file.display();
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let all: Vec<(&PluginStage, StageKind)> = pipeline.stages.iter().filter_map(trial_stage).collect();
        let mut meant: Vec<&(&PluginStage, StageKind)> =
            all.iter().filter(|(stage, _)| stage.plugin == name).collect();
        if meant.is_empty() && all.len() == 1 {
            meant = all.iter().collect();
        }
        if meant.is_empty() {
            let names: Vec<&str> = all.iter().map(|(stage, _)| stage.plugin.as_str()).collect();
            let text = match names.as_slice() {
                [] => format!(
                    "`{}` has no transform or filter with a plugin that {shown} could be tried for",
                    pipeline.name
                ),
                names => format!(
                    "which of `{}`'s plugins is {shown}? It has {}: give the file that name",
                    pipeline.name,
                    names.join(", ")
                ),
            };
            return Err(Stop::error(Exit::Usage, text));
        }
        let sandbox = sandbox::open(Some(&pipeline.limits), meant.len())?;
        let mut stages = BTreeMap::new();
        let mut not_in_place = None;
        for (stage, kind) in meant {
            let given = sandbox::granted(pipeline, stage)?;
            let within = sandbox::of_stage(&sandbox, stage);
            let plugin = within
                .load(file, &given, sandbox::config(&stage.config))
                .map_err(|e| Stop::error(Exit::Plugin, format!("{shown}: {e}")))?;
            let kinds = plugin.info().kinds;
            let (is_right, word) = match kind {
                StageKind::Transform => (kinds.transform, "transform"),
                StageKind::Filter => (kinds.filter, "filter"),
            };
            if !is_right {
                let exports = sandbox::kinds(kinds);
                return Err(Stop::error(
                    Exit::Plugin,
                    format!(
                        "{shown} is no {word}, as the stage `{}` needs: it exports {exports}",
                        stage.name
                    ),
                ));
            }
            let digest = plugin.info().digest.clone();
            let there = within.load(&stage.file, &given, sandbox::config(&stage.config));
            let is_other = there.map_or_else(
                |e| Some(e.to_string()),
                |there| (there.info().digest != digest).then(|| "it is another one".to_owned()),
            );
            if let Some(why) = is_other {
                not_in_place.get_or_insert_with(|| {
                    format!(
                        "{shown} is not what `{}` runs as its stage `{}`, which is {} ({why}): letters would fail there again. Put it there, start the pipeline again, then run this command again; --dry-run tries it without",
                        pipeline.name,
                        stage.name,
                        stage.file.display()
                    )
                });
            }
            let spec = Arc::new(StageSpec { name: stage.name.clone(), kind: *kind, plugin });
            let running = match stage.grants.contains(&Grant::State) {
                false => Running::new(&spec),
                // Its state is the pipeline's: here it has none.
                true => {
                    let groups = (0..Topology::KEY_GROUPS, Topology::KEY_GROUPS);
                    let store = Arc::new(MemoryStore::default());
                    let state = PluginState::new(0, groups, store, CACHE_BYTES_MAX);
                    Running::with_state(&spec, Arc::new(Mutex::new(state)))
                }
            };
            stages.insert(stage.name.clone(), running);
        }
        let dead =
            SinkRoute { takes: Takes::DeadLetters, encoder: Arc::new(JsonEncoder), when: When::Always };
        let routes = Routes::new(vec![dead], BTreeMap::new());
        Ok(Self {
            _sandbox: sandbox,
            stages,
            routes,
            letter: FrameBuf::default(),
            frame: FrameBuf::default(),
            not_in_place,
        })
    }

    /// Refuses where the pipeline would try the letters with another plugin.
    pub fn check_in_place(&self) -> Result<(), Stop> {
        self.not_in_place.clone().map_or(Ok(()), |text| Err(Stop::error(Exit::Usage, text)))
    }

    /// Tries a letter's message.
    pub fn play(&mut self, letter: &Letter<'_>) -> Verdict {
        let Some(stage) = self.stages.get_mut(&letter.body.stage) else { return Verdict::Elsewhere };
        if letter.body.message.is_none() {
            return Verdict::Refused("the letter has no message of that stage".to_owned());
        }
        self.frame.clear();
        let read = as_message(letter.value, &mut self.letter)
            .and_then(|()| push_message_of(self.letter.get(0), rfc3339::parse, &mut self.frame));
        if let Err(why) = read {
            return Verdict::Refused(why);
        }
        let mut batch = Batch::with_capacity(PARTITION, 1, 1, 0);
        batch.push(&self.frame.get(0).parts(), 0);
        let mut out = Outbox::new(&self.routes);
        stage.run(&mut batch, Origins::Source, &self.routes, &mut out);
        match out.sinks.first().and_then(|dead| Some((dead, dead.records.first()?))) {
            None => Verdict::Taken,
            Some((dead, record)) => {
                let letter: Value =
                    serde_json::from_slice(&dead.data[record.value.clone()]).unwrap_or_default();
                let reason = letter["payload"]["reason"].as_str().unwrap_or("no reason was given");
                Verdict::Refused(reason.lines().next().unwrap_or_default().to_owned())
            }
        }
    }
}

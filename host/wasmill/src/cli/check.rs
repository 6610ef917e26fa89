//! `wasmill check`.

use serde::Serialize;
use wasmill_engine::guest::PluginRef;
use wasmill_plugin::Sandbox;

use super::args;
use super::exit::{Exit, Stop};
use super::plan::{plan, refuse_too_weak};
use super::{cases, load, print, print_json, sandbox};
use crate::report::Diagnostic;
use crate::spec::variables::NO_FILE;
use crate::spec::{AggregateStage, ComputedBy, Pipeline, PluginStage, Stage};

#[derive(Serialize)]
struct Checked {
    file: String,
    name: Option<String>,
    ok: bool,
    problems: Vec<Problem>,
}

#[derive(Serialize)]
struct Problem {
    exit: u8,
    text: String,
}

/// Checks pipelines without running them.
///
/// # Errors
/// Everything that is wrong with any of them; the exit code is the first one's.
pub fn run(args: &args::Check) -> Result<(), Stop> {
    let mut all = Vec::new();
    let mut stops: Vec<Stop> = Vec::new();
    let mut files: Vec<Option<&std::path::Path>> = args.pipelines.iter().map(|p| Some(p.as_path())).collect();
    if files.is_empty() {
        files.push(None);
    }
    for file in files {
        let (name, found) = match load::pipeline(file, &args.overrides) {
            Ok(pipeline) => (Some(pipeline.name.clone()), check(&pipeline)),
            Err(stop) => (None, vec![stop]),
        };
        let problems = found.iter().map(|s| Problem { exit: s.exit as u8, text: s.shown.clone() }).collect();
        let file = file.map_or_else(|| NO_FILE.to_owned(), |f| f.display().to_string());
        all.push(Checked { file, name, ok: found.is_empty(), problems });
        stops.extend(found);
    }
    if args.json {
        print_json(&all)?;
    } else {
        for checked in all.iter().filter(|c| c.ok) {
            print(&format!("{}: ok\n", checked.file))?;
        }
    }
    let Some(exit) = stops.iter().map(|s| s.exit).min_by_key(|e| *e as u8) else { return Ok(()) };
    let shown: Vec<String> = stops.into_iter().map(|s| s.shown).collect();
    Err(Stop { exit, shown: if args.json { String::new() } else { shown.join("\n\n") } })
}

fn check(pipeline: &Pipeline) -> Vec<Stop> {
    let mut found = Vec::new();
    match plan(pipeline) {
        Ok(plan) => found.extend(refuse_too_weak(pipeline, &plan).err()),
        Err(stop) => found.push(stop),
    }
    let mut opened = None;
    if pipeline.stages.iter().any(|s| s.plugin().is_some()) {
        match sandbox::open(Some(&pipeline.limits), 0) {
            Ok(sandbox) => {
                let sandbox = opened.insert(sandbox);
                found.extend(
                    pipeline
                        .stages
                        .iter()
                        .filter_map(|stage| load_fitting(sandbox, pipeline, stage, stage.plugin()?).err()),
                );
            }
            Err(stop) => found.push(stop),
        }
    }
    found.extend(pipeline.stages.iter().filter_map(|stage| unambiguous(pipeline, stage).err()));
    found.extend(schemas(pipeline));
    let differences = crate::schema::compare(pipeline, opened.as_ref());
    found.extend(differences.into_iter().map(|d| Stop::problems(Exit::Usage, &pipeline.problem(d))));
    found.extend(reachable(pipeline));
    found
}

/// Reads the files that the codecs' settings name.
fn schemas(pipeline: &Pipeline) -> Vec<Stop> {
    let sources = pipeline.codecs.iter().enumerate().map(|(i, codec)| (codec, pipeline.source_span(i)));
    let sinks = pipeline.sinks.iter().enumerate().map(|(i, sink)| (&sink.codec, pipeline.sink_span(i)));
    let mut found = Vec::new();
    for (codec, span) in sources.chain(sinks) {
        let Err(e) = codec.declared() else { continue };
        let mut diagnostic = Diagnostic::new(format!("the codec `{}`: {e}", codec.name()));
        diagnostic.span = span;
        diagnostic.label = "this one's codec".to_owned();
        found.push(Stop::problems(Exit::Usage, &pipeline.problem(diagnostic)));
    }
    found
}

/// Refuses a built-in's name where a plugin has it too: one of the two would be taken unseen.
pub(crate) fn unambiguous(pipeline: &Pipeline, stage: &Stage) -> Result<(), Stop> {
    let Stage::Aggregate(AggregateStage { by: ComputedBy::BuiltIns(built_in), .. }) = stage else {
        return Ok(());
    };
    let Some(file) = built_in.not.as_ref().filter(|file| file.exists()) else { return Ok(()) };
    let name = file.file_stem().unwrap_or_default().display();
    let title = format!("`{name}` is a built-in, and {} is there too", file.display());
    let diagnostic = Diagnostic::at(built_in.span, title, "which of the two?")
        .help(format!("for the plugin, write `{{ plugin: {name} }}`"))
        .help("for the built-in, give the plugin's file another name");
    Err(Stop::problems(Exit::Plugin, &pipeline.problem(diagnostic)))
}

/// Loads a stage's plugin and asks whether it can do what the stage wants.
pub(crate) fn load_fitting(
    sandbox: &Sandbox,
    pipeline: &Pipeline,
    stage: &Stage,
    plugin: &PluginStage,
) -> Result<PluginRef, Stop> {
    let loaded = sandbox::load(sandbox, pipeline, plugin)?;
    let kinds = loaded.info().kinds;
    let right = match stage {
        Stage::Transform(_) => kinds.transform,
        Stage::Filter(_) => kinds.filter,
        Stage::Aggregate(_) => kinds.aggregate,
        Stage::KeyBy(_) => true,
    };
    if right {
        return self_tested(sandbox, pipeline, plugin, loaded);
    }
    let exports = sandbox::kinds(kinds);
    let title = format!("the plugin `{}` is no {}", plugin.plugin, stage.kind());
    let label = format!("it exports {exports}");
    let diagnostic = Diagnostic::at(plugin.span, title, label);
    Err(Stop::problems(Exit::Plugin, &pipeline.problem(diagnostic)))
}

/// Runs the cases that a stage's plugin carries.
fn self_tested(
    sandbox: &Sandbox,
    pipeline: &Pipeline,
    plugin: &PluginStage,
    loaded: PluginRef,
) -> Result<PluginRef, Stop> {
    let (grants, config) = (sandbox::grants(&plugin.grants), sandbox::config(&plugin.config));
    let Err(failure) = cases::self_test(sandbox, &loaded, &grants, &config) else { return Ok(loaded) };
    let diagnostic = Diagnostic::at(plugin.span, failure.title, "this plugin").help(failure.help);
    let mut stop = Stop::problems(Exit::Plugin, &pipeline.problem(diagnostic));
    stop.shown.push_str("\n\n");
    stop.shown.push_str(&failure.difference);
    Err(stop)
}

/// Asks each source for its partitions, and the data directory for its folder.
fn reachable(pipeline: &Pipeline) -> Vec<Stop> {
    let mut found = Vec::new();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return vec![Stop::error(Exit::Outside, format!("can't start the check: {e}"))],
    };
    for (i, spec) in pipeline.sources.iter().enumerate() {
        let Ok(mut source) = spec.source() else { continue };
        if let Err(e) = runtime.block_on(source.partitions()) {
            let mut diagnostic =
                Diagnostic::new(format!("the source `{}` can't be reached: {e}", spec.name()));
            diagnostic.span = pipeline.source_span(i);
            diagnostic.label = "this source".to_owned();
            found.push(Stop::problems(Exit::Outside, &pipeline.problem(diagnostic)));
        }
    }
    if let Some(folder) = pipeline.data_dir.as_ref().filter(|d| d.exists() && !d.is_dir()) {
        found.push(Stop::error(Exit::Outside, format!("data_dir: {} is no folder", folder.display())));
    }
    found
}

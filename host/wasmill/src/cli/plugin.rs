//! `wasmill plugin list|history|promote|rollback`: the plugins of a pipeline, running or not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wasmill_connect::codec::rfc3339;
use wasmill_engine::edition::{Plugins, StagePlugin, shown_digest};

use super::args::{self, Overrides};
use super::exit::{Exit, Stop};
use super::pages::RunningPages;
use super::{load, print, print_json, sandbox};
use crate::plugins::{self, Entry, Outcome, Shelf};
use crate::spec::{Pipeline, Stage};

/// What a running pipeline's page says.
#[derive(Debug, Default, Deserialize)]
struct Page {
    plugins: Plugins,
    waiting: BTreeMap<String, Waiting>,
}

#[derive(Debug, Deserialize)]
struct Waiting {
    of: StagePlugin,
    why: String,
}

/// One stage's plugin.
#[derive(Debug, Serialize)]
struct Row {
    stage: String,
    kind: &'static str,
    plugin: String,
    /// What runs, or ran last.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pinned: Option<String>,
    /// What a rollback goes to.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<String>,
    /// What is in the folder and doesn't run, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    there: Option<There>,
}

#[derive(Debug, Serialize)]
struct There {
    plugin: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    why: String,
}

#[derive(Debug, Serialize)]
struct Listed {
    pipeline: String,
    running: bool,
    stages: Vec<Row>,
}

fn pages(pipeline: &Pipeline) -> Option<RunningPages> {
    Some(RunningPages {
        address: pipeline.http?,
        pipeline: pipeline.name.clone(),
        under: "plugins",
        failing: (format!("`{}` doesn't run: ", pipeline.name), "Is it run with the same `http`?"),
    })
}

/// The shelves of a pipeline's parts.
fn shelves(pipeline: &Pipeline) -> impl Iterator<Item = Shelf> + use<> {
    pipeline.clone().parts().into_iter().map(|part| Shelf::of(&part))
}

/// Shows which plugins a pipeline has.
///
/// # Errors
/// When the spec is wrong.
pub fn list(args: &args::PluginShown) -> Result<(), Stop> {
    let pipeline = load::pipeline(args.pipeline.as_deref(), &args.shown.overrides)?;
    let page = pages(&pipeline).and_then(|pages| pages.get("", &[]).ok());
    let page = page.and_then(|page| serde_json::from_slice::<Page>(&page).ok());
    let running = page.is_some();
    let Page { plugins, mut waiting } = page.unwrap_or_else(|| {
        let mut plugins = Plugins::default();
        shelves(&pipeline).filter_map(|shelf| shelf.noted()).for_each(|part| plugins.extend(part));
        Page { plugins, ..Page::default() }
    });
    let sandbox = sandbox::open(Some(&pipeline.limits), 0)?;
    let mut stages = Vec::new();
    for (kind, stage) in pipeline.stages.iter().filter_map(|s: &Stage| Some((s.kind(), s.plugin()?))) {
        let runs = plugins.of(&stage.name).filter(|p| p.plugin == stage.plugin);
        let waits = waiting.remove(&stage.name).map(|Waiting { of, why }| There {
            plugin: of.shown(),
            digest: Some(of.digest),
            why,
        });
        let there = || match sandbox.identify(&plugins::meant(&sandbox, &pipeline, stage).ok()?) {
            Ok(found) if Some(&found.digest) == runs.map(|p| &p.digest) => None,
            Ok(found) => {
                let of = StagePlugin {
                    stage: stage.name.clone(),
                    plugin: found.name,
                    digest: found.digest,
                    version: found.version,
                };
                let is_refused = plugins.refused.iter().any(|r| r.stage == of.stage && r.digest == of.digest);
                let why = match (is_refused, pipeline.remembers_plugins()) {
                    (true, _) => "it was rolled back",
                    (false, true) => "it is taken at the next start",
                    (false, false) => {
                        "it is taken at the next start, if the pipeline's processes have not had it before"
                    }
                };
                Some(There { plugin: of.shown(), digest: Some(of.digest), why: why.to_owned() })
            }
            Err(error) => Some(There { plugin: stage.plugin.clone(), digest: None, why: error.to_string() }),
        };
        stages.push(Row {
            stage: stage.name.clone(),
            kind,
            plugin: stage.plugin.clone(),
            version: runs.and_then(|p| p.version.clone()),
            digest: runs.map(|p| p.digest.clone()),
            pinned: stage.pin.as_ref().map(ToString::to_string),
            before: plugins.previous.iter().find(|p| p.stage == stage.name).map(StagePlugin::shown),
            there: waits.or_else(there),
        });
    }
    let listed = Listed { pipeline: pipeline.name.clone(), running, stages };
    if args.shown.json { print_json(&listed) } else { print(&table(&listed)) }
}

fn table(listed: &Listed) -> String {
    let runs = if listed.running { "RUNS" } else { "RAN LAST" };
    let mut rows = vec![["STAGE", "KIND", runs, "SHA-256", "BEFORE"].map(str::to_owned)];
    let short =
        |digest: &Option<String>| digest.as_ref().map_or("-", |digest| shown_digest(digest)).to_owned();
    for row in &listed.stages {
        let mut runs = match (&row.version, &row.digest) {
            (Some(version), _) => format!("{}@{version}", row.plugin),
            (None, Some(_)) => row.plugin.clone(),
            (None, None) => "-".to_owned(),
        };
        if row.pinned.is_some() {
            runs.push_str(" (pinned)");
        }
        let before = row.before.clone().unwrap_or_else(|| "-".to_owned());
        rows.push([row.stage.clone(), row.kind.to_owned(), runs, short(&row.digest), before]);
    }
    let mut widths = [0; 5];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    if !listed.running {
        text.push_str("it doesn't run, or has no HTTP pages that could be asked (`http`)\n");
    }
    for row in &listed.stages {
        if let Some(There { plugin, digest, why }) = &row.there {
            text.push_str(&format!("{}: {plugin} ({}) is there: {why}\n", row.stage, short(digest)));
        }
    }
    text
}

/// Shows what became of each version of a pipeline's plugins.
///
/// # Errors
/// When the spec is wrong.
pub fn history(args: &args::PluginShown) -> Result<(), Stop> {
    let pipeline = load::pipeline(args.pipeline.as_deref(), &args.shown.overrides)?;
    let mut entries: Vec<Entry> = shelves(&pipeline).flat_map(|shelf| shelf.history()).collect();
    entries.sort_by_key(|entry| entry.at_ms);
    entries.reverse();
    if args.shown.json {
        return print_json(&entries);
    }
    if entries.is_empty() {
        return print("nothing has become of other versions yet\n");
    }
    entries.iter().try_for_each(|entry| print(&line(entry)))
}

fn line(entry: &Entry) -> String {
    let Entry { at_ms, of, before, outcome } = entry;
    let place = |b: &Option<String>| b.as_ref().map_or_else(String::new, |b| format!(" in the place of {b}"));
    let what = match outcome {
        Outcome::TookOver { epoch } => format!("took over{} at the end of epoch {epoch}", place(before)),
        Outcome::RolledBackTo { epoch } => {
            format!("was rolled back to{} at the end of epoch {epoch}", place(before))
        }
        Outcome::StaysOut { why } => format!("stays out: {why}"),
    };
    let digest = shown_digest(&of.digest);
    format!("{}  {}: {} (sha256:{digest}) {what}\n", rfc3339::format(*at_ms), of.stage, of.shown())
}

/// Has a version take over.
///
/// # Errors
/// Why it doesn't.
pub fn promote(args: &args::Promote) -> Result<(), Stop> {
    order(&args.pipeline, &args.overrides, "promote", Some(&args.plugin))
}

/// Has the version before take over again.
///
/// # Errors
/// Why it doesn't.
pub fn rollback(args: &args::Rollback) -> Result<(), Stop> {
    order(&args.pipeline, &args.overrides, "rollback", args.plugin.as_ref())
}

fn order(
    file: &std::path::Path,
    overrides: &Overrides,
    order: &str,
    plugin: Option<&String>,
) -> Result<(), Stop> {
    let pipeline = load::pipeline(Some(file), overrides)?;
    let Some(pages) = pages(&pipeline) else {
        return Err(Stop::error(
            Exit::Usage,
            format!(
                "`{}` has no HTTP pages by which it could be asked: set `http` (WASMILL_HTTP) and start it again",
                pipeline.name
            ),
        ));
    };
    let query: Vec<(&str, String)> = plugin.into_iter().map(|plugin| ("plugin", plugin.clone())).collect();
    print(&pages.post(order, &query)?)
}

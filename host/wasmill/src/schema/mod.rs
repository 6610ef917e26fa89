//! What is declared of payloads, followed from the sources through the plugins to the sinks.
//!
//! Schemas are JSON Schemas of the JSON that plugins see. A source's and a sink's codec declares one where it has a
//! schema; a plugin may declare what it takes and what it makes. Where nothing is declared anything goes.

pub mod fits;

use std::path::Path as FilePath;

use serde_json::{Value, json};
use wasmill_engine::key::Path;
use wasmill_plugin::Sandbox;

use crate::report::{Diagnostic, Span, did_you_mean};
use crate::spec::{Pipeline, Stage};
use fits::{NoField, Schema, differences};

/// The largest file of schemas beside a plugin: of both of them, with room to spare beside what sections may have.
const SCHEMAS_BYTES_MAX: usize = 1 << 20;

/// What is known of payloads at a place of the pipeline, and who says so.
#[derive(Debug, Clone)]
struct Known {
    schema: Value,
    /// Who: "the schema of the source `kafka`".
    says: String,
    span: Option<Span>,
}

/// What a plugin declares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Declared {
    takes: Option<Value>,
    makes: Option<Value>,
}

/// Compares what is declared, from place to place; what doesn't fit is told with both places.
#[must_use]
pub fn compare(pipeline: &Pipeline, sandbox: Option<&Sandbox>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    // What is wrong with a schema's file is told elsewhere.
    let mut sources: Vec<Option<Known>> = Vec::new();
    for (number, (source, codec)) in pipeline.sources.iter().zip(&pipeline.codecs).enumerate() {
        let Ok(declared) = codec.declared() else { continue };
        sources.push(declared.map(|schema| {
            let says = format!("the schema of the source `{}`", source.name());
            Known { schema, says, span: pipeline.source_span(number) }
        }));
    }
    // Of those that declare nothing one way is as good as another.
    sources.dedup_by(|a, b| a.is_none() && b.is_none());
    for known in sources {
        found.extend(known.as_ref().and_then(|known| time(pipeline, known).err()));
        follow(pipeline, sandbox, known, &mut found);
    }
    // Several sources may come to the same mistake.
    let mut told = Vec::new();
    for problem in found {
        if !told.contains(&problem) {
            told.push(problem);
        }
    }
    told
}

fn time(pipeline: &Pipeline, known: &Known) -> Result<(), Diagnostic> {
    let Path::Payload(path) = &pipeline.time else { return Ok(()) };
    let what = format!("the event time is at `{}`", pipeline.time);
    field(known, path, &what, known.span)
}

/// Whether a field can be there.
fn field(known: &Known, path: &[String], what: &str, at: Option<Span>) -> Result<(), Diagnostic> {
    let Err(NoField { name, names }) = Schema::new(&known.schema).field(path) else { return Ok(()) };
    let mut problem = Diagnostic::new(format!("{what}, but {} has no field `{name}`", known.says));
    problem.span = at;
    problem.label = "this asks for it".to_owned();
    if let Some(span) = known.span.filter(|span| Some(*span) != at) {
        problem = problem.also(span, format!("{} is this one's", known.says));
    }
    Err(match names.is_empty() {
        true => problem,
        false => problem.help(did_you_mean(&name, names.iter().map(String::as_str).collect::<Vec<_>>())),
    })
}

/// Whether what is known fits what is taken.
fn fit(known: &Known, taken: &Value, taker: &str, at: Option<Span>) -> Option<Diagnostic> {
    let differences = match differences(&known.schema, taken) {
        Ok(differences) => differences,
        Err(why) => {
            let title = format!("{} and what {taker} takes: {why}", known.says);
            let mut problem = Diagnostic::new(title).help(
                "make one of the two schemas simpler: fewer branches in `anyOf` and `oneOf`, fewer fields in each",
            );
            problem.span = at;
            problem.label = "this one's schema".to_owned();
            return Some(problem);
        }
    };
    let first = differences.first()?;
    let title = format!(
        "`{}` doesn't fit: {} says {}, {taker} takes {}",
        first.path, known.says, first.given, first.taken
    );
    let mut problem = Diagnostic::new(title);
    problem.span = at;
    problem.label = "this one takes it otherwise".to_owned();
    if let Some(span) = known.span.filter(|span| Some(*span) != at) {
        problem = problem.also(span, format!("from here on: {}", known.says));
    }
    for more in &differences[1..] {
        problem =
            problem.help(format!("nor does `{}`: {}, and {} is taken", more.path, more.given, more.taken));
    }
    Some(problem)
}

fn follow(pipeline: &Pipeline, sandbox: Option<&Sandbox>, known: Option<Known>, found: &mut Vec<Diagnostic>) {
    let mut known = known;
    for stage in &pipeline.stages {
        let plugin = stage.plugin();
        let declared = plugin.zip(sandbox).map(|(p, sandbox)| declared(sandbox, &p.file));
        let declared = match declared {
            None => Declared::default(),
            Some(Ok(declared)) => declared,
            Some(Err(text)) => {
                let mut problem = Diagnostic::new(text);
                problem.span = plugin.map(|p| p.span);
                problem.label = "this plugin's".to_owned();
                found.push(problem);
                Declared::default()
            }
        };
        if let (Some(known), Some(plugin), Some(takes)) = (&known, plugin, &declared.takes) {
            let taker = format!("the plugin `{}`", plugin.plugin);
            found.extend(fit(known, takes, &taker, Some(plugin.span)));
        }
        match stage {
            Stage::Filter(_) => {}
            Stage::KeyBy(key) => {
                for path in &key.paths {
                    if let (Path::Payload(fields), Some(known)) = (path, &known) {
                        found.extend(
                            field(known, fields, &format!("key_by is at `{path}`"), known.span).err(),
                        );
                    }
                }
            }
            Stage::Transform(plugin) => {
                known = declared.makes.map(|schema| Known {
                    schema,
                    says: format!("what the plugin `{}` makes", plugin.plugin),
                    span: Some(plugin.span),
                });
            }
            Stage::Aggregate(aggregate) => {
                let span = plugin.map(|p| p.span);
                let value = declared.makes.unwrap_or_else(|| json!({}));
                known = aggregate.window.as_ref().map(|_| window(&aggregate.name, value, span));
            }
        }
    }
    let Some(known) = known else { return };
    for (number, sink) in pipeline.sinks.iter().enumerate().filter(|(_, s)| s.output.is_none()) {
        let at = pipeline.sink_span(number);
        let name = sink.connector.name();
        if let Ok(Some(takes)) = sink.codec.declared() {
            found.extend(fit(&known, &takes, &format!("the schema of the sink `{name}`"), at));
        }
        for (column, path) in sink.connector.postgres().iter().flat_map(|spec| &spec.columns) {
            if let Ok(Path::Payload(fields)) = path.parse() {
                let what = format!("the column `{column}` gets `{path}`");
                found.extend(field(&known, &fields, &what, at).err());
            }
        }
    }
}

/// What the windows of a stage are.
fn window(stage: &str, value: Value, span: Option<Span>) -> Known {
    let schema = json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["key", "start", "end", "final", "value"],
        "properties": {
            "key": {}, "start": { "type": "integer" }, "end": { "type": "integer" },
            "final": { "type": "boolean" }, "revision": { "type": "integer" }, "value": value,
        },
    });
    Known { schema, says: format!("what the windows of `{stage}` are"), span }
}

/// What a plugin declares: in its file, else in a file beside it, `NAME.schema.json`.
fn declared(sandbox: &Sandbox, file: &FilePath) -> Result<Declared, String> {
    // What can't be loaded is told elsewhere.
    let Ok(within) = sandbox.declared(file) else { return Ok(Declared::default()) };
    let parse = |what: &str, text: &[u8]| {
        serde_json::from_slice::<Value>(text).map_err(|e| {
            format!("{}: the schema that it declares of its {what} is no JSON: {e}", file.display())
        })
    };
    if within.input.is_some() || within.output.is_some() {
        let takes = within.input.map(|text| parse("input", &text)).transpose()?;
        let makes = within.output.map(|text| parse("output", &text)).transpose()?;
        return Ok(Declared { takes, makes });
    }
    declared_beside(file)
}

fn declared_beside(file: &FilePath) -> Result<Declared, String> {
    let beside = file.with_extension("schema.json");
    let text = match wasmill_plugin::read_file(&beside, SCHEMAS_BYTES_MAX) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Declared::default()),
        Err(e) => return Err(format!("can't read {}: {e}", beside.display())),
    };
    let wrong = |why: String| {
        format!("{}: {why}; expected {{\"input\": SCHEMA, \"output\": SCHEMA}}", beside.display())
    };
    let mut whole: serde_json::Map<String, Value> =
        serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
    let declared = Declared { takes: whole.remove("input"), makes: whole.remove("output") };
    match whole.keys().next() {
        Some(odd) => Err(wrong(format!("`{odd}` is neither `input` nor `output`"))),
        None => Ok(declared),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red is a test that doesn't end, or ends for want of memory: so did `check`, and the swapper of a running host.
    #[cfg(target_os = "linux")]
    #[test]
    fn schemas_beside_a_plugin_are_read_of_a_file_of_their_size_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let plugin = folder.path().join("odd.wasm");
        let beside = folder.path().join("odd.schema.json");
        assert_eq!(declared_beside(&plugin), Ok(Declared::default()));
        std::fs::write(&beside, r#"{"input": {"type": "object"}}"#).expect("written");
        let takes = Some(json!({ "type": "object" }));
        assert_eq!(declared_beside(&plugin), Ok(Declared { takes, makes: None }));
        std::fs::remove_file(&beside).expect("removed");
        let told = |what: &str| {
            let why = declared_beside(&plugin).expect_err("refused");
            std::fs::remove_file(&beside).expect("removed");
            assert_eq!(why, format!("can't read {}: {what}", beside.display()));
        };
        let made = std::process::Command::new("mkfifo").arg(&beside).status().expect("mkfifo");
        assert!(made.success());
        told("it is a FIFO, no file: put a file in its place, or take it away");
        std::os::unix::fs::symlink("/dev/zero", &beside).expect("a link");
        told("it is a device, no file: put a file in its place, or take it away");
        std::fs::File::create(&beside).and_then(|file| file.set_len(12 << 30)).expect("a sparse file");
        told(
            "it has 12884901888 bytes, and at most 1048576 are read: put the right file in its place, or a smaller one",
        );
    }
}

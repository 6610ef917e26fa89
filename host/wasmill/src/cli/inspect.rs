//! `wasmill plugin inspect`.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;
use wasmill_plugin::{ImportNeed, Inspection, Width};

use super::exit::{Exit, Stop};
use super::{print, print_json, sandbox};
use crate::spec::HumanSize;

/// Shows what a plugin's file says of itself.
///
/// # Errors
/// When it is no plugin; and when it could not be loaded, after what is known is shown.
pub fn run(file: &Path, as_json: bool) -> Result<(), Stop> {
    let found = sandbox::open(None, 0)?.inspect(file).map_err(|e| Stop::error(Exit::Plugin, e))?;
    if as_json {
        print_json(&value(&found))?;
    } else {
        print(&text(&found))?;
    }
    match &found.problem {
        Some(problem) => Err(Stop::error(Exit::Plugin, problem)),
        None => Ok(()),
    }
}

fn width(width: Width) -> &'static str {
    match width {
        Width::Frames => "frames",
        Width::Typed => "typed",
    }
}

fn need(import: &ImportNeed) -> String {
    match (&import.grant, import.known) {
        (Some(grant), _) => format!("needs `grants: [{}]`", grant.example()),
        (None, true) => "always there".to_owned(),
        (None, false) => "unknown to wasmill".to_owned(),
    }
}

fn value(i: &Inspection) -> serde_json::Value {
    json!({
        "name": i.name,
        "version": i.version,
        "digest": i.digest,
        "size_bytes": i.size_bytes,
        "contract": i.contract,
        "kinds": {
            "transform": i.kinds.transform, "filter": i.kinds.filter, "aggregate": i.kinds.aggregate,
            "scan": i.kinds.scan, "migrate": i.kinds.migrate,
        },
        "widths": i.widths.iter().map(|w| width(*w)).collect::<Vec<_>>(),
        "exports": i.exports,
        "imports": i.imports.iter().map(|n| json!({
            "name": n.name, "grant": n.grant.map(|g| g.name()), "known": n.known,
        })).collect::<Vec<_>>(),
        "producers": i.producers.iter().map(|(field, name, version)| json!({
            "field": field, "name": name, "version": version,
        })).collect::<Vec<_>>(),
        "aggregate": i.aggregate.as_ref().map(|a| json!({
            "commutative": a.commutative,
            "state_version": a.state_version,
            "initial_bytes": a.initial.len(),
        })),
        "declares": {
            "input": i.declared.input.as_deref().map(String::from_utf8_lossy),
            "output": i.declared.output.as_deref().map(String::from_utf8_lossy),
        },
        "cases_bytes": i.cases_bytes,
        "problem": i.problem,
    })
}

/// The inspection as text. Writing to a `String` can't fail.
fn text(i: &Inspection) -> String {
    let mut t = String::new();
    let _ = writeln!(t, "plugin {}", i.name);
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(t, "  {name:<10} {value}");
    };
    line("version", i.version.as_deref().unwrap_or("not named"));
    line("digest", &i.digest);
    line("size", &HumanSize(i.size_bytes as u64).to_string());
    line("contract", i.contract);
    line("kinds", &sandbox::kinds(i.kinds));
    line("width", &i.widths.iter().map(|w| width(*w)).collect::<Vec<_>>().join(", "));
    if let Some(a) = &i.aggregate {
        let order = if a.commutative { "order changes nothing" } else { "order matters" };
        line(
            "aggregate",
            &format!("{order}; state version {}; {} bytes at first", a.state_version, a.initial.len()),
        );
    }
    for (what, schema) in [("input", &i.declared.input), ("output", &i.declared.output)] {
        if let Some(schema) = schema {
            line("declares", &format!("the schema of its {what}, {} bytes", schema.len()));
        }
    }
    if i.cases_bytes > 0 {
        line("cases", &format!("its own, {} bytes: run before it is taken in", i.cases_bytes));
    }
    for import in &i.imports {
        line("import", &format!("{}: {}", import.name, need(import)));
    }
    for (field, name, version) in &i.producers {
        line("made by", &format!("{name} {version} ({field})"));
    }
    t
}

//! `wasmill state`: looks at a pipeline's state, moves it, and brings it into another form.

mod access;
mod args;
mod show;

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};

use serde_json::json;
use wasmill_engine::state::Checkpoint;

pub(super) use access::positions;
pub use args::StateCommand;

use super::exit::{Exit, Stop};
use super::runtime::Runtime;
use super::{load, print, print_json, run};
use crate::state::{self, Filter, Header, PAGE_ENTRIES_MAX, Page, StateError, Wanted};
use access::{Access, Held, failed};

/// Does what was asked for.
///
/// # Errors
/// When the spec is wrong, the state can't be read or written, or it isn't what it should be.
pub fn run(command: &StateCommand, runtime: &dyn Runtime) -> Result<(), Stop> {
    match command {
        StateCommand::List(args) => list(args),
        StateCommand::Get(args) => get(args),
        StateCommand::Stats(args) => stats(args),
        StateCommand::Export(args) => export(args),
        StateCommand::Import(args) => import(args, runtime),
        StateCommand::Rehash(args) => rehash(args, runtime),
        StateCommand::Reset(args) => run::reset(args, runtime),
    }
}

fn list(args: &args::List) -> Result<(), Stop> {
    let pipeline = load::pipeline(args.common.pipeline.as_deref(), &args.common.shown.overrides)?;
    let access = Access::open(&pipeline)?;
    let mut filter = Filter {
        stage: args.stage.clone(),
        key_prefix: args.key_prefix.clone(),
        after: args.after.clone(),
        limit: 0,
    };
    let json = args.common.shown.json;
    let mut shown = 0;
    loop {
        filter.limit = (args.limit - shown).min(PAGE_ENTRIES_MAX);
        let page: Page = access.page(&filter)?;
        shown += page.entries.len();
        if json {
            // A line each, so that a long list is neither held here nor where it is read.
            let mut lines = String::new();
            for entry in &page.entries {
                lines.push_str(&serde_json::to_string(entry).map_err(|e| failed(&e))?);
                lines.push('\n');
            }
            print(&lines)?;
        } else {
            if filter.after == args.after {
                print(&show::heading(&pipeline.name, page.epoch, page.stream_time, &access.name()))?;
            }
            print(&show::entries(&page))?;
        }
        if page.after.is_none() || shown >= args.limit {
            if let Some(after) = &page.after {
                // The list goes to stdout: this must not mix with it.
                let _ = writeln!(
                    std::io::stderr(),
                    "there are more: go on with --after {after}, or raise --limit"
                );
            }
            return Ok(());
        }
        filter.after = page.after;
    }
}

fn get(args: &args::Get) -> Result<(), Stop> {
    let pipeline = load::pipeline(args.pipeline(), &args.shown.overrides)?;
    let [.., stage, key] = args.what.as_slice() else {
        return Err(Stop::error(Exit::Usage, "STAGE and KEY are missing"));
    };
    let wanted =
        Wanted { stage: stage.clone(), key: key.clone(), window: args.window, name: args.name.clone() };
    let access = Access::open(&pipeline)?;
    let found = access.find(&wanted)?;
    let bytes = state::decode(&found.value).map_err(|e| failed(&format!("the value {e}")))?;
    let finished = show::finished(&pipeline, &found, &bytes);
    if args.shown.json {
        return print_json(&show::found_json(&found, &bytes, finished, &access.name()));
    }
    print(&show::found(&pipeline.name, &found, &bytes, finished, &access.name()))
}

fn stats(args: &args::Stats) -> Result<(), Stop> {
    let pipeline = load::pipeline(args.common.pipeline.as_deref(), &args.common.shown.overrides)?;
    let access = Access::open(&pipeline)?;
    let stats = access.stats()?;
    if args.common.shown.json {
        return print_json(&json!({ "pipeline": pipeline.name, "from": access.name(), "stats": stats }));
    }
    print(&show::stats(&pipeline, &stats, &access.name()))
}

fn export(args: &args::Export) -> Result<(), Stop> {
    let pipeline = load::pipeline(args.common.pipeline.as_deref(), &args.common.shown.overrides)?;
    let access = Access::open(&pipeline)?;
    let Some(path) = &args.output else {
        return access.export(&pipeline.name, &mut BufWriter::new(std::io::stdout().lock()));
    };
    let cannot =
        |e: std::io::Error| Stop::error(Exit::Outside, format!("can't write {}: {e}", path.display()));
    // Never over an older one: that may be the last whole one.
    let mut file = BufWriter::new(File::create_new(path).map_err(cannot)?);
    let written = access
        .export(&pipeline.name, &mut file)
        .and_then(|()| file.into_inner().map_err(|e| cannot(e.into_error()))?.sync_all().map_err(cannot));
    if let Err(stop) = written {
        let _ = std::fs::remove_file(path);
        return Err(stop);
    }
    let name = access.name();
    if args.common.shown.json {
        return print_json(&json!({ "pipeline": pipeline.name, "from": name, "file": path }));
    }
    print(&format!("{}: its state, from {name}, is in {}\n", pipeline.name, path.display()))
}

fn import(args: &args::Import, runtime: &dyn Runtime) -> Result<(), Stop> {
    let pipeline = load::pipeline(args.pipeline(), &args.shown.overrides)?;
    let path = args.file();
    let shape = runtime.shape(&pipeline).map_err(|e| run::failed(&e))?;
    let cannot = |e: &dyn std::fmt::Display| {
        Stop::error(
            Exit::Outside,
            format!("can't import {}: {e}\nThe state of `{}` is as it was", path.display(), pipeline.name),
        )
    };
    let file = BufReader::new(File::open(path).map_err(|e| cannot(&e))?);
    let held = Held::make(&pipeline, "import")?;
    let (last, generation) = {
        let view = held.view().map_err(|e| failed(&e))?;
        (view.checkpoint().map_err(|e| failed(&e))?, view.generation())
    };
    if let Some(Checkpoint { epoch, .. }) = last {
        return Err(cannot(&format!(
            "{} has state already, of epoch {epoch}: forget it first with `wasmill state reset`, or give the pipeline another data directory",
            held.name()
        )));
    }
    let name = held.name();
    let begin = |header: &Header| held.replace(generation.max(header.checkpoint.generation));
    let (header, entries) = state::import(file, &shape, begin).map_err(|e| cannot(&e))?;
    if args.shown.json {
        return print_json(&json!({
            "pipeline": pipeline.name, "into": name, "epoch": header.checkpoint.epoch, "entries": entries,
        }));
    }
    let of =
        if header.pipeline == pipeline.name { String::new() } else { format!(" of `{}`", header.pipeline) };
    print(&format!(
        "{}: {entries} entries{of}, as of epoch {}, are in {name}; the next run goes on from there\n",
        pipeline.name, header.checkpoint.epoch
    ))
}

fn rehash(args: &args::Rehash, runtime: &dyn Runtime) -> Result<(), Stop> {
    let pipeline = load::pipeline(args.common.pipeline.as_deref(), &args.common.shown.overrides)?;
    let shape = runtime.shape(&pipeline).map_err(|e| run::failed(&e))?;
    let held = Held::open(&pipeline, "rehash")?;
    let view = held.view().map_err(|e| failed(&e))?;
    let checkpoint =
        view.checkpoint().map_err(|e| failed(&e))?.ok_or_else(|| failed(&StateError::Nothing))?;
    let groups = pipeline.key_groups;
    let entries = if checkpoint.shape == shape {
        None
    } else {
        if !wasmill_engine::shape::is_rehash(&checkpoint.shape, &shape) {
            return Err(failed(&wasmill_engine::shape::refusal(&checkpoint.shape, &shape)));
        }
        let to = held.replace(view.generation()).map_err(|e| failed(&e))?;
        Some(state::rehash(&*view, to, &shape).map_err(|e| failed(&e))?)
    };
    if args.common.shown.json {
        return print_json(&json!({ "pipeline": pipeline.name, "key_groups": groups, "entries": entries }));
    }
    print(&match entries {
        None => format!("{}: the state is in {groups} key groups already\n", pipeline.name),
        Some(entries) => format!(
            "{}: {entries} entries are in {groups} key groups now; the next run goes on where the last one ended\n",
            pipeline.name
        ),
    })
}

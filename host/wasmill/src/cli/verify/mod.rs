//! `wasmill plugin verify`: is a plugin pure? The same messages must give the same answer, on fresh instances and used
//! ones, however they are cut into batches and however often they come; and an aggregate keeps its law.

mod generate;
mod law;
mod random;
mod report;
mod stage;
mod watched;

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::Value;
use wasmill_engine::guest::PluginRef;
use wasmill_engine::key::KeySpec;
use wasmill_plugin::{Grants, Sandbox, StageConfig};

use super::cases::{self, Case, Kind, play};
use super::exit::{Exit, Stop};
use super::{args, print, print_json, sandbox};
use random::Random;
use report::{SetShown, Verified};
use watched::Watched;

const AGAIN: &str = "the same again";
const REUSED: &str = "again, on an instance that has answered before";
const BATCHES: &str = "other batches, a fresh instance for each";
const BATCHES_ON_ONE: &str = "other batches, on one instance";
const VERDICT: &str = "under fuel, as a verdict is given";

/// Messages to call a plugin with.
struct Messages {
    name: String,
    kind: Option<Kind>,
    key: Option<KeySpec>,
    grants: Grants,
    config: StageConfig,
    input: Vec<Value>,
}

/// Cuts of so many messages: one by one, in halves, and at random.
fn cuts(messages: usize, random: &mut Random, rounds: usize) -> Vec<Vec<Range<usize>>> {
    let mut cuts = vec![play::batches(messages, 1), play::batches(messages, messages.div_ceil(2))];
    cuts.extend((0..rounds).map(|_| random.cut(messages)));
    cuts
}

/// Verifies a plugin.
///
/// # Errors
/// When the plugin or a file is refused, or a property doesn't hold.
pub fn run(args: &args::Verify) -> Result<(), Stop> {
    let sandbox = sandbox::open(None, 0)?;
    let seed = args.seed.unwrap_or_else(Random::seed);
    let mut random = Random::new(seed);
    let sets = sets(args, &sandbox, &mut random)?;
    let mut verified =
        Verified { plugin: String::new(), digest: String::new(), seed, sets: Vec::new(), checks: Vec::new() };
    for set in &sets {
        let plugin = sandbox
            .load(&args.file, &set.grants, set.config.clone())
            .map_err(|e| Stop::error(Exit::Plugin, format!("{e}; of `plugin verify`: --grant")))?;
        let info = plugin.info();
        (verified.plugin, verified.digest) = (info.name.clone(), info.digest.clone());
        let failed = verify(&plugin, set, (&mut random, args.rounds), &mut verified)
            .map_err(|e| Stop::error(Exit::Tests, format!("{}: {e}", set.name)))?;
        verified.sets.push(SetShown { name: set.name.clone(), messages: set.input.len(), failed });
    }
    if args.json {
        print_json(&verified)?;
    } else {
        print(&verified.text())?;
    }
    match verified.is_ok() {
        true => Ok(()),
        false => Err(Stop { exit: Exit::Tests, shown: String::new() }),
    }
}

/// Verifies it over one set of messages. Answers how many of them failed, in the interface where most did.
fn verify(
    plugin: &PluginRef,
    set: &Messages,
    (random, rounds): (&mut Random, usize),
    verified: &mut Verified,
) -> Result<usize, String> {
    let frame = play::frame(&set.input, set.key.as_ref())?;
    let watched = Watched::new(plugin);
    let kinds = match set.kind {
        Some(kind) => vec![kind],
        None => Kind::all(plugin.info().kinds),
    };
    let mut failed = 0;
    for kind in kinds {
        let of = if kind == Kind::Aggregate {
            let of = law::check(&watched, false, set, &frame, (random, rounds), verified)?;
            if plugin.info().kinds.scan {
                law::check(&watched, true, set, &frame, (random, rounds), verified)?;
            }
            of
        } else {
            stage::check(&watched, kind, set, &frame, (random, rounds), verified)?
        };
        failed = failed.max(of);
    }
    Ok(failed)
}

/// The messages of the cases that are given and of those that the plugin carries, and of the sample; where there are
/// none, made ones.
fn sets(args: &args::Verify, sandbox: &Sandbox, random: &mut Random) -> Result<Vec<Messages>, Stop> {
    let refused = |e: wasmill_plugin::AdmissionError| Stop::error(Exit::Plugin, e);
    let grants: Grants = args.grants.iter().copied().collect();
    let config = config(&args.config)?;
    let key = args.key_by.as_deref().map(cases::key).transpose();
    let key = key.map_err(|e| Stop::error(Exit::Usage, format!("--key-by: {e}")))?;
    // A case's own config is stronger; its grants come on top, for whoever runs this has the plugin's file at hand.
    let of_case = |file: &str, case: Case| Messages {
        name: format!("{file}: {}", case.name),
        kind: case.kind,
        key: case.key,
        grants: sandbox::grants(&case.grants).union(&grants),
        config: case.config.as_ref().map_or_else(|| config.clone(), sandbox::config),
        input: case.input,
    };
    let mut sets = Vec::new();
    for file in &args.cases {
        sets.extend(cases::read(file)?.into_iter().map(|c| of_case(&file.display().to_string(), c)));
    }
    for text in sandbox.cases_in(&args.file).map_err(refused)? {
        let read = cases::parse_embedded("the plugin's own cases", &String::from_utf8_lossy(&text));
        let read = read.map_err(|p| Stop::problems(Exit::Plugin, &p))?;
        sets.extend(read.into_iter().map(|c| of_case("its own case", c)));
    }
    let of_input = |name: String, input| Messages {
        name,
        kind: None,
        key: key.clone(),
        grants: grants.clone(),
        config: config.clone(),
        input,
    };
    if let Some(sample) = &args.sample {
        let shown = sample.display();
        let text = cases::read_text(sample, "a sample")?;
        let lines = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()).take(args.messages);
        let message = |(i, line): (usize, &str)| {
            let wrong =
                |e| Stop::error(Exit::Usage, format!("{shown}, line {}: no message as JSON: {e}", i + 1));
            serde_json::from_str(line).map_err(wrong)
        };
        let input = lines.map(message).collect::<Result<Vec<Value>, Stop>>()?;
        if input.is_empty() {
            return Err(Stop::error(Exit::Usage, format!("{shown} has no message: expected one a line")));
        }
        sets.push(of_input(shown.to_string(), input));
    }
    if sets.is_empty() {
        let declared = sandbox.declared(&args.file).map_err(refused)?.input;
        let schema = declared.and_then(|s| serde_json::from_slice::<Value>(&s).ok());
        let by = if schema.is_some() { "by the schema that it declares" } else { "of many shapes" };
        let input = generate::messages(args.messages, schema.as_ref(), random);
        sets.push(of_input(format!("messages made up, {by}"), input));
    }
    Ok(sets)
}

/// `KEY=JSON`, each.
fn config(given: &[String]) -> Result<StageConfig, Stop> {
    let one = |text: &String| {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| Stop::error(Exit::Usage, format!("--config {text}: expected KEY=VALUE")))?;
        // What is no JSON is a text, as in YAML.
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        Ok((name.to_owned(), value))
    };
    let values = given.iter().map(one).collect::<Result<BTreeMap<String, Value>, Stop>>()?;
    Ok(sandbox::config(&values))
}

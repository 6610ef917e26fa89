//! The one place of the command line that knows the sandbox.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::OnceLock;
use std::time::Duration;

use wasmill_engine::guest::{Kinds, PluginRef};
use wasmill_plugin::{AdmissionError, Compiler, Grants, Sandbox, SandboxOptions, StageConfig};

use super::exit::{Exit, Stop};
use crate::plugins;
use crate::report::{Diagnostic, nearest};
use crate::spec::{Grant, Limits, Pipeline, PluginLimits, PluginStage};

/// The command of this program that compiles plugins; none in other programs, such as tests.
static COMPILER: OnceLock<Compiler> = OnceLock::new();

/// Has plugins compiled by processes of their own from now on: this program knows its command line. Where its file
/// can't be named they are compiled in this process.
pub fn compile_in_processes() {
    // On Linux what runs now, whatever has taken its file's place since.
    let program = match cfg!(target_os = "linux") {
        true => Ok("/proc/self/exe".into()),
        false => std::env::current_exe(),
    };
    if let Ok(program) = program {
        let _ = COMPILER.set(Compiler { program, arguments: vec!["compile-plugin".into()] });
    }
}

/// Makes a sandbox with a pipeline's limits, or the default ones, and room for so many instances at least.
///
/// # Errors
/// When the machine can't hold what the limits ask for.
pub fn open(limits: Option<&Limits>, instances: usize) -> Result<Sandbox, Stop> {
    let mut options = SandboxOptions {
        cache: SandboxOptions::user_cache(),
        compiler: COMPILER.get().cloned(),
        ..SandboxOptions::default()
    };
    let instances = u32::try_from(instances).unwrap_or(u32::MAX);
    options.limits.instances_max = options.limits.instances_max.max(instances);
    if let Some(limits) = limits {
        options.limits.compile_ms_max = millis(limits.compile_time);
        options.limits.compile_bytes_max = limits.compile_bytes_max;
        options.limits = within(&options.limits, &limits.plugin);
        // Stages may have more of it than the rest.
        options.limits.memory_bytes_max = limits.instance_bytes_max;
    }
    Sandbox::new(options).map_err(|e| Stop::error(Exit::Plugin, e))
}

/// These limits, with those of a plugin.
fn within(limits: &wasmill_plugin::Limits, of: &PluginLimits) -> wasmill_plugin::Limits {
    wasmill_plugin::Limits {
        deadline_ms: millis(of.deadline),
        fuel: of.fuel,
        memory_bytes_max: of.memory_bytes_max,
        instance_growth_bytes_max: of.growth_bytes_max,
        answer_bytes_max: of.answer_bytes_max,
        outputs_max: of.outputs_max,
        copies_bytes_max: of.copies_bytes_max,
        state_bytes_max: of.state_bytes_max,
        state_keys_max: of.state_keys_max,
        log_lines_per_second_max: of.log_lines_per_second_max,
        log_line_bytes_max: of.log_line_bytes_max,
        host_calls_max: of.host_calls_max,
        host_wait_ms_max: millis(of.host_wait),
        metric_names_max: of.counters_max,
        ..limits.clone()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The sandbox as a stage's plugin is loaded in it: within the stage's limits.
#[must_use]
pub fn of_stage(sandbox: &Sandbox, stage: &PluginStage) -> Sandbox {
    sandbox.within(within(sandbox.limits(), &stage.limits))
}

/// A grant as the sandbox names it.
#[must_use]
pub fn grant(grant: Grant) -> wasmill_plugin::Grant {
    match grant {
        Grant::State => wasmill_plugin::Grant::State,
        Grant::Metrics => wasmill_plugin::Grant::Metrics,
        Grant::WallClock => wasmill_plugin::Grant::WallClock,
        Grant::Secrets => wasmill_plugin::Grant::Secrets,
        Grant::Http => wasmill_plugin::Grant::Http,
        Grant::Lookup => wasmill_plugin::Grant::Lookup,
    }
}

/// Grants as the sandbox takes them, with nothing behind those that have more to them than their name.
#[must_use]
pub fn grants(given: &[Grant]) -> Grants {
    given.iter().map(|g| grant(*g)).collect()
}

/// A stage's grants as the sandbox takes them: reads its secrets and tables, and makes its client.
///
/// # Errors
/// What is missing, at its place in the spec.
pub fn granted(pipeline: &Pipeline, stage: &PluginStage) -> Result<Grants, Stop> {
    crate::grants::behind(pipeline, &stage.granted, grants(&stage.grants)).map_err(|missing| {
        let label = format!("granted to the stage `{}`", stage.name);
        Stop::problems(Exit::Usage, &pipeline.problem(Diagnostic::at(missing.span, missing.what, label)))
    })
}

/// A config as the sandbox takes it.
#[must_use]
pub fn config(given: &BTreeMap<String, serde_json::Value>) -> StageConfig {
    given.iter().map(|(k, v)| (k.clone(), v.to_string())).collect()
}

/// Loads a stage's plugin.
///
/// # Errors
/// Why it is refused, at its place in the spec.
pub fn load(sandbox: &Sandbox, pipeline: &Pipeline, stage: &PluginStage) -> Result<PluginRef, Stop> {
    let file = plugins::meant(sandbox, pipeline, stage).map_err(|why| {
        let diagnostic = Diagnostic::at(stage.span, why, "no such version")
            .help(format!("put it there as `{}@VERSION.wasm`, or take the pin away", stage.plugin));
        Stop::problems(Exit::Plugin, &pipeline.problem(diagnostic))
    })?;
    let given = granted(pipeline, stage)?;
    let sandbox = of_stage(sandbox, stage);
    sandbox.load(&file, &given, config(&stage.config)).map_err(|error| {
        let mut diagnostic = Diagnostic::at(stage.span, error.to_string(), "this plugin");
        if matches!(&error, AdmissionError::Read { cause, .. } if cause.kind() == ErrorKind::NotFound) {
            let there = there(pipeline);
            if let Some(near) = nearest(&stage.plugin, there.iter().map(String::as_str)) {
                diagnostic.label = format!("did you mean `{near}`?");
            }
            let folder = pipeline.plugin_dir.display();
            diagnostic = diagnostic.help(match there.as_slice() {
                [] => format!("{folder} holds no plugin; name another folder by `plugin_dir`"),
                names => format!("{folder} holds {}", names.join(", ")),
            });
        }
        Stop::problems(Exit::Plugin, &pipeline.problem(diagnostic))
    })
}

/// The most plugins that an error lists.
const LISTED_MAX: usize = 20;

/// The names of the plugins in a pipeline's folder.
fn there(pipeline: &Pipeline) -> Vec<String> {
    let entries = std::fs::read_dir(&pipeline.plugin_dir).into_iter().flatten().filter_map(Result::ok);
    let mut names: Vec<String> = entries
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "wasm"))
        .filter_map(|p| Some(p.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    names.truncate(LISTED_MAX);
    names
}

/// What a plugin exports, in words.
#[must_use]
pub fn kinds(kinds: Kinds) -> String {
    let all = [
        (kinds.transform, "transform"),
        (kinds.filter, "filter"),
        (kinds.aggregate, "aggregate"),
        (kinds.scan, "scan"),
        (kinds.migrate, "migrate"),
    ];
    let names: Vec<&str> = all.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect();
    if names.is_empty() { "nothing that a stage calls".to_owned() } else { names.join(", ") }
}

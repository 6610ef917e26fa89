//! Reads pipelines as the command line, the environment and the file say together.

use std::path::{Path, PathBuf};

use super::args::Overrides;
use super::exit::{Exit, Stop};
use super::plugin_folder;
use crate::spec::near_miss::near_misses;
use crate::spec::variables::Variables;
use crate::spec::{Environment, Pipeline};

/// Options are the strongest: they take the place of the long variables.
fn environment(overrides: &Overrides) -> Environment {
    let mut environment = Environment::of_process();
    let texts = [
        ("WASMILL_WORKERS", overrides.workers.map(|n| n.to_string())),
        ("WASMILL_BATCH_SIZE", overrides.batch_size.map(|n| n.to_string())),
        ("WASMILL_PLUGIN_DIR", overrides.plugin_dir.as_ref().map(|p| p.display().to_string())),
        ("WASMILL_DATA_DIR", overrides.data_dir.as_ref().map(|p| p.display().to_string())),
    ];
    for (name, value) in texts {
        if let Some(value) = value {
            environment.set(name, value);
        }
    }
    environment
}

/// Reads one pipeline: of a file, or what the environment names.
///
/// # Errors
/// Its mistakes, rendered.
pub fn pipeline(file: Option<&Path>, overrides: &Overrides) -> Result<Pipeline, Stop> {
    let environment = environment(overrides);
    let read = match file {
        Some(file) => Pipeline::load(file, &environment),
        None => {
            for (name, meant) in near_misses(&environment) {
                tracing::warn!("{name} is set, but nothing reads it: did you mean {meant}?");
            }
            let wrong = |p| Stop::problems(Exit::Usage, &p);
            let variables = Variables::read(&environment).map_err(wrong)?;
            let found = plugin_folder::look(&variables)?;
            variables.pipeline(&found)
        }
    };
    read.map_err(|p| Stop::problems(Exit::Usage, &p))
}

/// Reads several pipelines, whose names must differ; of no file: what the environment names.
///
/// # Errors
/// The mistakes of all of them, rendered.
pub fn pipelines(files: &[PathBuf], overrides: &Overrides) -> Result<Vec<Pipeline>, Stop> {
    if files.is_empty() {
        return Ok(vec![pipeline(None, overrides)?]);
    }
    let mut pipelines: Vec<Pipeline> = Vec::new();
    let mut wrong = Vec::new();
    for file in files {
        match pipeline(Some(file), overrides) {
            Ok(p) => {
                if let Some(other) = pipelines.iter().find(|o| o.name == p.name) {
                    wrong.push(format!(
                        "error: {} and {} are both named `{}`; state is kept by name, so names must differ",
                        other.file.display(),
                        file.display(),
                        p.name
                    ));
                }
                pipelines.push(p);
            }
            Err(stop) => wrong.push(stop.shown),
        }
    }
    if wrong.is_empty() { Ok(pipelines) } else { Err(Stop { exit: Exit::Usage, shown: wrong.join("\n\n") }) }
}

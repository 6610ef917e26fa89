//! Which file a stage's plugin is.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use wasmill_engine::edition::{StagePlugin, shown_digest};
use wasmill_plugin::Sandbox;

use super::Shelf;
use crate::spec::{ComputedBy, Pipeline, PluginStage, Stage};

/// By what a file is known to have changed, without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
    device: u64,
}

impl Change {
    /// How a file is now; none where there is none.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        // Links are followed: orchestrators swap the folder that they lead to.
        let meta = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
        Some(Self {
            modified: meta.modified().ok(),
            bytes: meta.len(),
            inode: meta.ino(),
            device: meta.dev(),
        })
    }
}

/// What a plugin's file holds, with its digest.
///
/// # Errors
/// Those of [`wasmill_plugin::read_file`].
pub fn read(file: &Path) -> io::Result<(String, Vec<u8>)> {
    let bytes = wasmill_plugin::read_file(file, wasmill_plugin::FILE_BYTES_MAX)?;
    Ok((wasmill_plugin::digest(&bytes), bytes))
}

/// The files that a plugin's name may mean: `NAME.wasm` and `NAME@VERSION.wasm` in the folder, then the copies.
#[must_use]
pub fn candidates(folder: &Path, shelf: &Shelf, plugin: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let versions = format!("{plugin}@");
    for path in std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()) {
        let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        if path.extension().is_some_and(|e| e == "wasm") && (stem == plugin || stem.starts_with(&versions)) {
            files.push(path);
        }
    }
    files.sort();
    files.extend(shelf.copies(plugin));
    files
}

/// The file of a plugin with this digest: the stage's own, another of the folder, or the copy.
#[must_use]
pub fn file_of(
    pipeline: &Pipeline,
    stage: &PluginStage,
    shelf: &Shelf,
    wanted: &StagePlugin,
) -> Option<PathBuf> {
    let mut files: Vec<PathBuf> = shelf.find(wanted).into_iter().collect();
    files.push(stage.file.clone());
    files.extend(candidates(&pipeline.plugin_dir, shelf, &stage.plugin));
    // A copy that was damaged is none.
    files.into_iter().find(|file| read(file).is_ok_and(|(digest, _)| digest == wanted.digest))
}

/// The file of a stage's plugin as the spec means it: its own, or the one that its pin takes.
///
/// # Errors
/// Why there is none: what is there instead.
pub fn meant(sandbox: &Sandbox, pipeline: &Pipeline, stage: &PluginStage) -> Result<PathBuf, String> {
    let Some(pin) = &stage.pin else { return Ok(stage.file.clone()) };
    let mut there = Vec::new();
    for file in candidates(&pipeline.plugin_dir, &Shelf::of(pipeline), &stage.plugin) {
        match sandbox.identify(&file) {
            Ok(found) if pin.takes(found.version.as_deref(), &found.digest) => return Ok(file),
            Ok(found) => {
                let version = found.version.map_or_else(String::new, |v| format!("{v}, "));
                let digest = shown_digest(&found.digest);
                there.push(format!("{} ({version}sha256:{digest})", file.display()));
            }
            Err(error) => there.push(error.to_string()),
        }
    }
    let there = match there.is_empty() {
        true => format!("{} holds no `{}`", pipeline.plugin_dir.display(), stage.plugin),
        false => format!("there is {}", there.join("; ")),
    };
    Err(format!("the stage is pinned to `{}@{pin}`, and {there}", stage.plugin))
}

/// The pipeline with other files of its stages' plugins.
#[must_use]
pub fn with_files(pipeline: &Pipeline, files: &BTreeMap<String, PathBuf>) -> Pipeline {
    let mut with = pipeline.clone();
    for stage in &mut with.stages {
        let plugin = match stage {
            Stage::Transform(plugin) | Stage::Filter(plugin) => plugin,
            Stage::Aggregate(aggregate) => match &mut aggregate.by {
                ComputedBy::Plugin(plugin) => plugin,
                ComputedBy::BuiltIns(_) => continue,
            },
            Stage::KeyBy(_) => continue,
        };
        if let Some(file) = files.get(&plugin.name) {
            plugin.file.clone_from(file);
            // It was chosen already.
            plugin.pin = None;
        }
    }
    with
}

//! The shelf: copies of the plugins that pipelines run, so that a restart has what was committed whatever has become of
//! the plugin folder; and each pipeline's note of what it ran last, with its history.
//!
//! ```text
//! DATA_DIR/.plugins/DIGEST/NAME.wasm     a copy
//! DATA_DIR/.plugins/PIPELINE.json        what the pipeline runs
//! DATA_DIR/.plugins/PIPELINE.jsonl       what became of each version, oldest first
//! ```
//! Without a `data_dir` it is in the user's cache folder.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use wasmill_engine::edition::{Plugins, StagePlugin};
use wasmill_plugin::SandboxOptions;

use super::history::{self, Entry};
use crate::spec::Pipeline;

/// How many copies are kept that no note names any more: versions to promote.
const SPARE_COPIES_MAX: usize = 16;

/// What a pipeline ran last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Noted {
    /// The pipeline.
    pub pipeline: String,
    /// Its plugins.
    pub plugins: Plugins,
}

/// A pipeline's shelf.
#[derive(Debug, Clone)]
pub struct Shelf {
    directory: Option<PathBuf>,
    pipeline: String,
}

impl Shelf {
    /// The shelf of a pipeline.
    #[must_use]
    pub fn of(pipeline: &Pipeline) -> Self {
        let directory = match &pipeline.data_dir {
            Some(data) => Some(data.join(".plugins")),
            None => SandboxOptions::user_cache().map(|cache| cache.join("plugins")),
        };
        Self { directory, pipeline: pipeline.name.clone() }
    }

    /// A pipeline's shelf in a folder.
    #[cfg(test)]
    pub fn at(directory: &Path, pipeline: &str) -> Self {
        Self { directory: Some(directory.to_owned()), pipeline: pipeline.to_owned() }
    }

    /// Where a plugin's copy is, or belongs; none where there is no shelf.
    #[must_use]
    pub fn place(&self, plugin: &StagePlugin) -> Option<PathBuf> {
        self.directory.as_ref().map(|d| d.join(&plugin.digest).join(format!("{}.wasm", plugin.plugin)))
    }

    /// A plugin's copy, if there is one.
    #[must_use]
    pub fn find(&self, plugin: &StagePlugin) -> Option<PathBuf> {
        self.place(plugin).filter(|path| path.is_file())
    }

    /// What a plugin's copy holds, if there is one.
    #[must_use]
    pub fn read(&self, plugin: &StagePlugin) -> Option<Vec<u8>> {
        let (digest, bytes) = super::read(&self.find(plugin)?).ok()?;
        (digest == plugin.digest).then_some(bytes)
    }

    /// The copies of a plugin, by name.
    #[must_use]
    pub fn copies(&self, plugin: &str) -> Vec<PathBuf> {
        let entries =
            self.directory.as_ref().and_then(|d| fs::read_dir(d).ok()).into_iter().flatten().flatten();
        let mut copies: Vec<PathBuf> =
            entries.map(|e| e.path().join(format!("{plugin}.wasm"))).filter(|path| path.is_file()).collect();
        copies.sort();
        copies
    }

    /// Keeps a copy.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn keep(&self, plugin: &StagePlugin, bytes: &[u8]) -> io::Result<()> {
        match self.place(plugin) {
            // One that was damaged is written again.
            Some(place) if !fs::read(&place).is_ok_and(|there| there == bytes) => write_whole(&place, bytes),
            _ => Ok(()),
        }
    }

    /// Notes what the pipeline runs, and throws copies away that no pipeline of this shelf has any more.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn note(&self, plugins: &Plugins) -> io::Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let noted = Noted { pipeline: self.pipeline.clone(), plugins: plugins.clone() };
        let text = serde_json::to_vec_pretty(&noted).map_err(io::Error::other)?;
        write_whole(&directory.join(format!("{}.json", self.pipeline)), &text)?;
        throw_away(directory)
    }

    /// What the pipeline ran last.
    #[must_use]
    pub fn noted(&self) -> Option<Plugins> {
        let path = self.directory.as_ref()?.join(format!("{}.json", self.pipeline));
        serde_json::from_slice::<Noted>(&fs::read(path).ok()?).ok().map(|noted| noted.plugins)
    }

    /// Adds to the pipeline's history.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn record(&self, entry: &Entry) -> io::Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        history::append(&directory.join(format!("{}.jsonl", self.pipeline)), entry)
    }

    /// The pipeline's history, oldest first.
    #[must_use]
    pub fn history(&self) -> Vec<Entry> {
        let path = self.directory.as_ref().map(|d| d.join(format!("{}.jsonl", self.pipeline)));
        path.map(|path| history::read(&path)).unwrap_or_default()
    }
}

/// All plugins that something is said of.
fn named(plugins: &Plugins) -> impl Iterator<Item = &StagePlugin> {
    let before = plugins.before.iter().flat_map(|before| &before.plugins);
    plugins.now.iter().chain(before).chain(&plugins.previous).chain(&plugins.refused)
}

/// Throws copies away that no note names, but for the last ones.
fn throw_away(directory: &Path) -> io::Result<()> {
    let mut wanted = BTreeSet::new();
    let mut copies = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            copies.push(path);
        } else if path.extension().is_some_and(|e| e == "json") {
            // Of a note that can't be read nothing is known: all is kept.
            let Ok(noted) = serde_json::from_slice::<Noted>(&fs::read(&path)?) else { return Ok(()) };
            wanted.extend(named(&noted.plugins).map(|p| p.digest.clone()));
        }
    }
    let is_wanted =
        |copy: &Path| copy.file_name().and_then(|n| n.to_str()).is_some_and(|d| wanted.contains(d));
    let modified = |copy: &Path| fs::metadata(copy).and_then(|m| m.modified()).ok();
    copies.retain(|copy| !is_wanted(copy));
    copies.sort_by_key(|copy| std::cmp::Reverse(modified(copy)));
    for copy in copies.into_iter().skip(SPARE_COPIES_MAX) {
        // One that another process is just writing is there again at its next note.
        let _ = fs::remove_dir_all(copy);
    }
    Ok(())
}

/// Writes a file that is there wholly, or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_extension(format!("{}-{number}.tmp", std::process::id()));
    let write = || {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&temporary)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(digest: &str) -> StagePlugin {
        let text = |t: &str| t.to_owned();
        StagePlugin { stage: text("s"), plugin: text("enrich"), digest: text(digest), version: None }
    }

    #[test]
    fn a_copy_is_kept_while_a_note_names_it_and_some_of_the_others() {
        let place = tempfile::tempdir().expect("a folder");
        let shelf = |name: &str| Shelf::at(place.path(), name);
        let (one, other) = (shelf("one"), shelf("other"));
        for digest in ["a", "b", "c"] {
            one.keep(&plugin(digest), digest.as_bytes()).expect("kept");
        }
        let now = |digest: &str| Plugins { now: vec![plugin(digest)], ..Plugins::default() };
        one.note(&Plugins { previous: vec![plugin("b")], ..now("a") }).expect("noted");
        other.keep(&plugin("c"), b"c").expect("kept");
        other.note(&now("c")).expect("noted");
        assert_eq!(one.noted().expect("noted").now, [plugin("a")]);
        for digest in ["a", "b", "c"] {
            let copy = one.find(&plugin(digest)).expect(digest);
            assert_eq!(fs::read(copy).expect("readable"), digest.as_bytes());
        }
        for spare in 0..SPARE_COPIES_MAX + 3 {
            one.keep(&plugin(&spare.to_string()), b"spare").expect("kept");
        }
        one.note(&Plugins { previous: vec![plugin("b")], ..now("a") }).expect("noted");
        assert_eq!(one.copies("enrich").len(), 3 + SPARE_COPIES_MAX);
        assert!(["a", "b", "c"].iter().all(|digest| one.find(&plugin(digest)).is_some()));
    }
}

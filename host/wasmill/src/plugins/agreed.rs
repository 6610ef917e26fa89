//! Which plugins the processes of a pipeline have that share it: one list for all of them.
//!
//! Each line of it is a decision, made by whichever process was shown a new version or was asked for one. A decision
//! names the one that it was made behind, so of two that were made at the same time the first counts, and the other
//! process sees that its own doesn't. The files go with the list: a process has them whatever is in its own folder.
//!
//! A list may lose its end, or all of it, with the server that has it. Who has read what is lost then adds it again, so
//! that who comes later goes on where all others are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wasmill_connect::{ConnectorError, Ledger, Notes, random_token};
use wasmill_engine::edition::{Plugins, StagePlugin};

use super::Shelf;
use crate::spec::{Pipeline, SwapBy};

/// What the processes of a pipeline have from there on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Random: no other decision's.
    pub token: String,
    /// The token of the decision before; none where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// The machine that it was made on, and the process, for people.
    pub by: String,
    /// Whether it goes back to what was.
    #[serde(default)]
    pub rolls_back: bool,
    /// The plugins.
    pub plugins: Plugins,
    /// Under which names the files are kept, by digest. Each time one is kept it has another name, so that who forgets
    /// one that was needed before can't hit one that is needed again.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
}

/// The list as this process knows it.
pub struct Agreed {
    ledger: Box<dyn Ledger>,
    shelf: Shelf,
    last: Option<Decision>,
    /// What was decided ever: stages with digests.
    known: BTreeSet<(String, String)>,
    /// The tokens of all decisions that count.
    tokens: BTreeSet<String>,
    /// Files that this process has kept and that no decision has: their names, by digest.
    kept: BTreeMap<String, String>,
    /// The names of files that no decision needs any more.
    obsolete: Vec<String>,
}

impl Agreed {
    /// The list of a pipeline whose processes have one; connects to nothing yet.
    ///
    /// # Errors
    /// What is wrong with the source's spec.
    pub fn of(pipeline: &Pipeline, shelf: &Shelf) -> Result<Option<Self>, ConnectorError> {
        let has_plugins = pipeline.stages.iter().any(|stage| stage.plugin().is_some());
        if pipeline.remembers_plugins() || !has_plugins || pipeline.swap == SwapBy::Restart {
            return Ok(None);
        }
        let Some(source) = pipeline.sources.first() else { return Ok(None) };
        let ledger = source.ledger(&pipeline.name)?;
        Ok(ledger.map(|ledger| Self::on(ledger, shelf.clone())))
    }

    fn on(ledger: Box<dyn Ledger>, shelf: Shelf) -> Self {
        Self {
            ledger,
            shelf,
            last: None,
            known: BTreeSet::new(),
            tokens: BTreeSet::new(),
            kept: BTreeMap::new(),
            obsolete: Vec::new(),
        }
    }

    /// Takes in what was decided since; what the list has lost that this process has read is added again. Answers
    /// whether the last decision is another one by now.
    ///
    /// # Errors
    /// Those of the ledger; fatal where a decision can't be read.
    pub async fn catch_up(&mut self) -> Result<bool, ConnectorError> {
        let before = self.last.as_ref().map(|last| last.token.clone());
        if let Some(lost) = self.read_on().await? {
            tracing::warn!(
                by = %lost.by,
                "what the pipeline's processes had decided of their plugins was lost with the server's data; it is added again"
            );
            self.add_again(lost).await?;
            self.read_on().await?;
        }
        Ok(self.last.as_ref().map(|last| &last.token) != before.as_ref())
    }

    /// Takes in what was added since; answers the decision that was the last one, if the list has lost it and nobody has
    /// decided since.
    async fn read_on(&mut self) -> Result<Option<Decision>, ConnectorError> {
        let Notes { is_anew, notes } = self.ledger.read().await?;
        let (mut before, mut tokens) = (None, BTreeSet::new());
        if is_anew {
            (before, tokens) = (self.last.take(), std::mem::take(&mut self.tokens));
            self.known.clear();
            self.kept.clear();
        }
        for note in notes {
            self.take(serde_json::from_slice(&note).map_err(|e| {
                ConnectorError::Fatal(format!(
                    "what the pipeline's processes agree on can't be read ({e}): was it written by a newer wasmill?"
                ))
            })?);
        }
        let is_old = self.last.as_ref().is_none_or(|last| tokens.contains(&last.token));
        Ok(before.filter(|before| is_old && !self.tokens.contains(&before.token)))
    }

    /// A decision counts behind the last one that counts.
    fn take(&mut self, decision: Decision) {
        if decision.after.as_ref() != self.last.as_ref().map(|last| &last.token) {
            return;
        }
        let Plugins { now, previous, refused, .. } = &decision.plugins;
        let named = now.iter().chain(previous).chain(refused);
        self.known.extend(named.map(|p| (p.stage.clone(), p.digest.clone())));
        self.tokens.insert(decision.token.clone());
        self.last = Some(decision);
    }

    /// Adds a decision that was lost, behind what is there. Of several processes that do, the first one's counts.
    async fn add_again(&mut self, lost: Decision) -> Result<(), ConnectorError> {
        let files = self.keep(&lost.plugins, |_| None).await?;
        let after = self.last.as_ref().map(|last| last.token.clone());
        self.add(&Decision { after, files, ..lost }).await
    }

    async fn add(&mut self, decision: &Decision) -> Result<(), ConnectorError> {
        let note = serde_json::to_vec(decision)
            .map_err(|e| ConnectorError::Fatal(format!("a decision is no JSON: {e}")))?;
        self.ledger.add(&note).await
    }

    /// The last decision.
    #[must_use]
    pub fn last(&self) -> Option<&Decision> {
        self.last.as_ref()
    }

    /// Whether a stage has had this file by a decision.
    #[must_use]
    pub fn knows(&self, plugin: &StagePlugin) -> bool {
        self.known.contains(&(plugin.stage.clone(), plugin.digest.clone()))
    }

    /// Decides. The files of all that runs then, and of what can be rolled back to, are there for the others first,
    /// those of stages that keep theirs too: who comes may have none of them. What is not among `new` is on the shelf.
    /// Answers whether it counts: else another process was quicker.
    ///
    /// # Errors
    /// Those of the ledger; the decision doesn't count then, as far as can be known.
    pub async fn decide(
        &mut self,
        plugins: Plugins,
        new: impl Fn(&StagePlugin) -> Option<Vec<u8>>,
        rolls_back: bool,
    ) -> Result<bool, ConnectorError> {
        let before = self.last.as_ref().map(|last| last.files.clone()).unwrap_or_default();
        let files = self.keep(&plugins, new).await?;
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let decision = Decision {
            token: random_token(),
            after: self.last.as_ref().map(|last| last.token.clone()),
            by: format!("{host}, process {}", std::process::id()),
            rolls_back,
            plugins,
            files,
        };
        let added = self.add(&decision).await;
        // It may be there all the same.
        self.catch_up().await.or_else(|error| if added.is_err() { Ok(false) } else { Err(error) })?;
        let counts = self.last.as_ref().is_some_and(|last| last.token == decision.token);
        if counts {
            let is_needed = |name: &String| decision.files.values().any(|needed| needed == name);
            self.obsolete.extend(before.into_values().filter(|name| !is_needed(name)));
            self.kept.retain(|digest, _| !decision.files.contains_key(digest));
        } else {
            added?;
        }
        Ok(counts)
    }

    /// Keeps the files that a decision needs, where they are not yet; answers their names.
    async fn keep(
        &mut self,
        plugins: &Plugins,
        new: impl Fn(&StagePlugin) -> Option<Vec<u8>>,
    ) -> Result<BTreeMap<String, String>, ConnectorError> {
        let mut files = BTreeMap::new();
        let there = self.last.as_ref().map(|last| last.files.clone()).unwrap_or_default();
        for plugin in plugins.now.iter().chain(&plugins.previous) {
            let digest = &plugin.digest;
            let name = match there.get(digest).or_else(|| self.kept.get(digest)) {
                Some(name) => name.clone(),
                None => match new(plugin).or_else(|| self.shelf.read(plugin)) {
                    Some(bytes) => {
                        let name = format!("{digest}-{}", random_token());
                        self.ledger.keep(&name, &bytes).await?;
                        self.kept.insert(digest.clone(), name.clone());
                        name
                    }
                    // Without it there is less to go back to.
                    None if !plugins.now.contains(plugin) => continue,
                    None => {
                        return Err(ConnectorError::Fatal(format!(
                            "there is no copy of {} for the pipeline's other processes: a copy needs a folder, `data_dir` or one in HOME",
                            plugin.shown()
                        )));
                    }
                },
            };
            files.insert(digest.clone(), name);
        }
        Ok(files)
    }

    /// Forgets files that nobody needs any more. Those that can't be forgotten stay where they are.
    ///
    /// # Errors
    /// When the ledger is away; the next call tries again.
    pub async fn tidy(&mut self) -> Result<(), ConnectorError> {
        if !self.obsolete.is_empty() {
            match self.ledger.forget(&self.obsolete).await {
                Err(away @ ConnectorError::Disconnected { .. }) => return Err(away),
                Err(error) => tracing::debug!(%error, "files of plugins stay that nobody needs any more"),
                Ok(()) => {}
            }
            self.obsolete.clear();
        }
        Ok(())
    }

    /// Forgets the list: what is decided next is its beginning.
    ///
    /// # Errors
    /// Those of the ledger.
    pub async fn reset(&mut self) -> Result<(), ConnectorError> {
        self.ledger.reset().await
    }

    /// Gets a plugin's file onto the shelf; answers where it is. None where nobody has kept it.
    ///
    /// # Errors
    /// Those of the ledger; fatal where the copy can't be written.
    pub async fn fetch(&mut self, plugin: &StagePlugin) -> Result<Option<PathBuf>, ConnectorError> {
        let name = self.last.as_ref().and_then(|last| last.files.get(&plugin.digest)).cloned();
        let Some(name) = name else { return Ok(None) };
        let Some(bytes) = self.ledger.fetch(&name).await? else { return Ok(None) };
        // Who may write there may write what they like: it is that file, or it is none.
        if wasmill_plugin::digest(&bytes) != plugin.digest {
            return Ok(None);
        }
        let not_kept =
            |why: &str| ConnectorError::Fatal(format!("the copy of {} can't be kept: {why}", plugin.shown()));
        tokio::task::block_in_place(|| self.shelf.keep(plugin, &bytes))
            .map_err(|e| not_kept(&e.to_string()))?;
        let Some(copy) = self.shelf.find(plugin) else {
            return Err(not_kept("there is no folder for it: set `data_dir`, or the variable HOME"));
        };
        Ok(Some(copy))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use async_trait::async_trait;

    use super::*;

    /// A ledger that processes of one test share, with a folder for their copies.
    #[derive(Clone)]
    struct Memory {
        place: Arc<tempfile::TempDir>,
        notes: Arc<Mutex<Vec<Vec<u8>>>>,
        files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
        /// What was read.
        read: Vec<Vec<u8>>,
    }

    impl Default for Memory {
        fn default() -> Self {
            let place = Arc::new(tempfile::tempdir().expect("a folder"));
            Self { place, notes: Arc::default(), files: Arc::default(), read: Vec::new() }
        }
    }

    impl Memory {
        fn process(&self) -> Agreed {
            Agreed::on(
                Box::new(Self { read: Vec::new(), ..self.clone() }),
                Shelf::at(self.place.path(), "pipeline"),
            )
        }

        /// The server is brought back with what it had then.
        fn lose(&self, but: usize) {
            self.notes.lock().expect("no panic").truncate(but);
        }

        /// Of which versions there are files.
        fn versions(&self) -> Vec<String> {
            let files = self.files.lock().expect("no panic");
            let mut all: Vec<String> =
                files.values().map(|v| String::from_utf8_lossy(v).into_owned()).collect();
            all.sort();
            all
        }
    }

    #[async_trait]
    impl Ledger for Memory {
        async fn read(&mut self) -> Result<Notes, ConnectorError> {
            let all = self.notes.lock().expect("no panic").clone();
            let is_anew = !all.starts_with(&self.read);
            let notes = all[if is_anew { 0 } else { self.read.len() }..].to_vec();
            self.read = all;
            Ok(Notes { is_anew, notes })
        }
        async fn add(&mut self, note: &[u8]) -> Result<(), ConnectorError> {
            self.notes.lock().expect("no panic").push(note.to_vec());
            Ok(())
        }
        async fn keep(&mut self, name: &str, bytes: &[u8]) -> Result<(), ConnectorError> {
            self.files.lock().expect("no panic").insert(name.to_owned(), bytes.to_vec());
            Ok(())
        }
        async fn fetch(&mut self, name: &str) -> Result<Option<Vec<u8>>, ConnectorError> {
            Ok(self.files.lock().expect("no panic").get(name).cloned())
        }
        async fn forget(&mut self, names: &[String]) -> Result<(), ConnectorError> {
            self.files.lock().expect("no panic").retain(|name, _| !names.contains(name));
            Ok(())
        }
        async fn reset(&mut self) -> Result<(), ConnectorError> {
            self.notes.lock().expect("no panic").clear();
            self.files.lock().expect("no panic").clear();
            Ok(())
        }
    }

    /// A version whose file holds its name.
    fn plugins(version: &str) -> Plugins {
        let text = |t: &str| t.to_owned();
        let digest = wasmill_plugin::digest(version.as_bytes());
        let one = StagePlugin { stage: text("s"), plugin: text("p"), digest, version: Some(text(version)) };
        Plugins { now: vec![one], ..Plugins::default() }
    }

    fn then(version: &str, previous: &str) -> Plugins {
        Plugins { previous: plugins(previous).now, ..plugins(version) }
    }

    fn bytes_of(plugin: &StagePlugin) -> Option<Vec<u8>> {
        plugin.version.clone().map(String::into_bytes)
    }

    /// Decides as a process does, which has a copy first.
    async fn decides(agreed: &mut Agreed, plugins: Plugins) -> bool {
        for plugin in &plugins.now {
            agreed.shelf.keep(plugin, &bytes_of(plugin).expect("a file")).expect("kept");
        }
        let counts = agreed.decide(plugins, bytes_of, false).await.expect("a ledger");
        agreed.tidy().await.expect("a ledger");
        counts
    }

    /// What a process knows to run when it has caught up.
    async fn runs(agreed: &mut Agreed) -> String {
        agreed.catch_up().await.expect("a ledger");
        agreed.last().map_or_else(String::new, |last| last.plugins.now[0].shown().replace("p@", ""))
    }

    #[tokio::test]
    async fn of_decisions_made_at_the_same_time_the_first_counts_for_all() {
        let ledger = Memory::default();
        let mut all: Vec<Agreed> = (0..3).map(|_| ledger.process()).collect();
        // Nobody knows of a list yet.
        assert!(decides(&mut all[0], plugins("a")).await);
        assert!(!decides(&mut all[1], plugins("z")).await);
        // Both stand behind `a`; `b` is there first.
        assert!(decides(&mut all[0], plugins("b")).await);
        assert!(!decides(&mut all[1], plugins("c")).await);
        // It knows that by now, and decides behind it.
        assert!(decides(&mut all[1], then("d", "b")).await);
        for agreed in &mut all {
            assert_eq!(runs(agreed).await, "d");
            for (version, known) in [("a", true), ("b", true), ("c", false), ("d", true), ("z", false)] {
                assert_eq!(agreed.knows(&plugins(version).now[0]), known, "{version}");
            }
        }
        assert!(!all[2].catch_up().await.expect("a ledger"), "there is nothing more");
    }

    #[tokio::test]
    async fn the_files_are_there_that_run_or_may_run_again() {
        let ledger = Memory::default();
        let mut agreed = ledger.process();
        // The first one's predecessor was the folder's, and can be rolled back to anywhere.
        for (now, before, due) in
            [("b", "a", ["a", "b"]), ("c", "b", ["b", "c"]), ("b", "c", ["b", "c"]), ("a", "b", ["a", "b"])]
        {
            assert!(decides(&mut agreed, then(now, before)).await);
            assert_eq!(ledger.versions(), due, "{now} behind {before}");
        }
        agreed.reset().await.expect("a ledger");
        assert!(ledger.versions().is_empty());
    }

    #[tokio::test]
    async fn a_file_that_is_needed_again_is_not_hit_by_who_forgets_it_late() {
        let ledger = Memory::default();
        let (mut slow, mut other) = (ledger.process(), ledger.process());
        for (now, before) in [("b", "a"), ("c", "b")] {
            assert!(slow.decide(then(now, before), bytes_of, false).await.expect("a ledger"));
        }
        other.catch_up().await.expect("a ledger");
        assert!(decides(&mut other, then("a", "c")).await);
        slow.tidy().await.expect("a ledger");
        assert_eq!(ledger.versions(), ["a", "c"]);
    }

    #[tokio::test]
    async fn what_a_server_lost_is_added_again_by_who_has_read_it() {
        let ledger = Memory::default();
        let mut one = ledger.process();
        for (now, before) in [("b", "a"), ("c", "b"), ("d", "c")] {
            assert!(decides(&mut one, then(now, before)).await);
        }
        let mut two = ledger.process();
        assert_eq!(runs(&mut two).await, "d");
        for kept in [2, 0] {
            ledger.lose(kept);
            // Who comes knows no better than the list.
            let mut fresh = ledger.process();
            assert_ne!(runs(&mut fresh).await, "d");
            for agreed in [&mut one, &mut two, &mut fresh, &mut ledger.process()] {
                assert_eq!(runs(agreed).await, "d", "{kept} kept");
            }
            assert_eq!(ledger.notes.lock().expect("no panic").len(), kept + 1, "it is added once");
        }
        // What was decided behind what is left counts: it is later.
        assert!(decides(&mut one, then("e", "d")).await);
        ledger.lose(1);
        let mut fresh = ledger.process();
        fresh.catch_up().await.expect("a ledger");
        assert!(decides(&mut fresh, then("f", "d")).await);
        for agreed in [&mut one, &mut two, &mut ledger.process()] {
            assert_eq!(runs(agreed).await, "f");
        }
        assert!(decides(&mut two, then("g", "f")).await);
        assert_eq!(runs(&mut one).await, "g");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_comes_from_the_list_and_is_that_file_or_none() {
        let ledger = Memory::default();
        let wanted = plugins("code").now.remove(0);
        assert_eq!(ledger.process().fetch(&wanted).await.expect("a ledger"), None);
        for (bytes, is_it) in [("other code", false), ("code", true)] {
            let mut agreed = ledger.process();
            agreed.reset().await.expect("a ledger");
            let bytes = |_: &StagePlugin| Some(bytes.as_bytes().to_vec());
            assert!(agreed.decide(plugins("code"), bytes, false).await.expect("a ledger"));
            let file = agreed.fetch(&wanted).await.expect("a ledger");
            assert_eq!(
                file.map(|file| std::fs::read(file).expect("a copy")),
                is_it.then(|| b"code".to_vec())
            );
        }
    }
}

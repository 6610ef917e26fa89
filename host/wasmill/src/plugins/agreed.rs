//! Which plugins the processes of a pipeline have that share it: one list for all of them.
//!
//! Each line of it is a decision, made by whichever process was shown a new version or was asked for one. A decision
//! names the one that it was made behind, so of two that were made at the same time the first counts, and the other
//! process sees that its own doesn't. The files go with the list: a process has them whatever is in its own folder.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wasmill_connect::{ConnectorError, Ledger, random_token};
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
}

/// What this process knows of the list.
pub struct Agreed {
    ledger: Box<dyn Ledger>,
    last: Option<Decision>,
    /// What was decided ever: stages with digests.
    known: BTreeSet<(String, String)>,
}

/// The digests of the files that a decision needs: of what runs, and of what may run again.
fn needed(plugins: &Plugins) -> BTreeSet<&str> {
    plugins.now.iter().chain(&plugins.previous).map(|p| p.digest.as_str()).collect()
}

impl Agreed {
    /// The list of a pipeline whose processes have one; connects to nothing yet.
    ///
    /// # Errors
    /// What is wrong with the source's spec.
    pub fn of(pipeline: &Pipeline) -> Result<Option<Self>, ConnectorError> {
        let has_plugins = pipeline.stages.iter().any(|stage| stage.plugin().is_some());
        if pipeline.remembers_plugins() || !has_plugins || pipeline.swap == SwapBy::Restart {
            return Ok(None);
        }
        let Some(source) = pipeline.sources.first() else { return Ok(None) };
        let ledger = source.ledger(&pipeline.name)?;
        Ok(ledger.map(Self::on))
    }

    fn on(ledger: Box<dyn Ledger>) -> Self {
        Self { ledger, last: None, known: BTreeSet::new() }
    }

    /// Takes in what was decided since. Answers whether anything was.
    ///
    /// # Errors
    /// Those of the ledger; fatal where a decision can't be read.
    pub async fn catch_up(&mut self) -> Result<bool, ConnectorError> {
        let mut is_new = false;
        for note in self.ledger.read().await? {
            let decision: Decision = serde_json::from_slice(&note).map_err(|e| {
                ConnectorError::Fatal(format!(
                    "what the pipeline's processes agree on can't be read ({e}): was it written by a newer wasmill?"
                ))
            })?;
            is_new |= self.take(decision);
        }
        Ok(is_new)
    }

    /// A decision counts behind the last one that counts, as the first one that this process sees, and where its
    /// process knew of none.
    fn take(&mut self, decision: Decision) -> bool {
        let last = self.last.as_ref().map(|last| &last.token);
        if last.is_some() && decision.after.is_some() && decision.after.as_ref() != last {
            return false;
        }
        let Plugins { now, previous, refused, .. } = &decision.plugins;
        let named = now.iter().chain(previous).chain(refused);
        self.known.extend(named.map(|p| (p.stage.clone(), p.digest.clone())));
        self.last = Some(decision);
        true
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
    /// those of stages that keep theirs too: who comes may have none of them. Files that are not needed any more are
    /// forgotten behind it. Answers whether it counts: else another process was quicker.
    ///
    /// # Errors
    /// Those of the ledger.
    pub async fn decide(
        &mut self,
        plugins: Plugins,
        bytes_of: impl Fn(&StagePlugin) -> Option<Vec<u8>>,
        rolls_back: bool,
    ) -> Result<bool, ConnectorError> {
        let before = self.last.as_ref().map(|last| last.plugins.clone()).unwrap_or_default();
        let mut kept: BTreeSet<&str> = needed(&before);
        for plugin in plugins.now.iter().chain(&plugins.previous) {
            if kept.insert(&plugin.digest)
                && let Some(bytes) = bytes_of(plugin)
            {
                self.ledger.keep(&plugin.digest, &bytes).await?;
            }
        }
        let token = random_token();
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let decision = Decision {
            token: token.clone(),
            after: self.last.as_ref().map(|last| last.token.clone()),
            by: format!("{host}, process {}", std::process::id()),
            rolls_back,
            plugins: plugins.clone(),
        };
        let note = serde_json::to_vec(&decision)
            .map_err(|e| ConnectorError::Fatal(format!("a decision is no JSON: {e}")))?;
        self.ledger.add(&note).await?;
        self.catch_up().await?;
        let counts = self.last.as_ref().is_some_and(|last| last.token == token);
        let obsolete: Vec<String> = match counts {
            true => needed(&before).difference(&needed(&plugins)).map(|&digest| digest.to_owned()).collect(),
            false => Vec::new(),
        };
        if let Err(error) = self.ledger.forget(&obsolete).await {
            tracing::debug!(%error, "files of plugins that nobody needs any more stay where they are");
        }
        Ok(counts)
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
    pub async fn fetch(
        &mut self,
        plugin: &StagePlugin,
        shelf: &Shelf,
    ) -> Result<Option<PathBuf>, ConnectorError> {
        let Some(bytes) = self.ledger.fetch(&plugin.digest).await? else { return Ok(None) };
        // Who may write there may write what they like: it is that file, or it is none.
        if wasmill_plugin::digest(&bytes) != plugin.digest {
            return Ok(None);
        }
        let kept = |e: io::Error| {
            ConnectorError::Fatal(format!("the copy of {} can't be kept: {e}", plugin.shown()))
        };
        shelf.keep(plugin, &bytes).map_err(kept)?;
        Ok(shelf.find(plugin))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use async_trait::async_trait;

    use super::*;

    /// A ledger that processes of one test share.
    #[derive(Clone, Default)]
    struct Memory {
        notes: Arc<Mutex<Vec<Vec<u8>>>>,
        files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
        read: usize,
    }

    impl Memory {
        fn file_names(&self) -> Vec<String> {
            self.files.lock().expect("no panic").keys().cloned().collect()
        }
    }

    #[async_trait]
    impl Ledger for Memory {
        async fn read(&mut self) -> Result<Vec<Vec<u8>>, ConnectorError> {
            let notes = self.notes.lock().expect("no panic")[self.read..].to_vec();
            self.read += notes.len();
            Ok(notes)
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

    fn plugins(digest: &str) -> Plugins {
        let text = |t: &str| t.to_owned();
        let one = StagePlugin { stage: text("s"), plugin: text("p"), digest: text(digest), version: None };
        Plugins { now: vec![one], ..Plugins::default() }
    }

    fn then(digest: &str, previous: &str) -> Plugins {
        Plugins { previous: plugins(previous).now, ..plugins(digest) }
    }

    fn bytes_of(plugin: &StagePlugin) -> Option<Vec<u8>> {
        Some(format!("the file of {}", plugin.digest).into_bytes())
    }

    fn now(agreed: &Agreed) -> &str {
        agreed.last().map_or("", |last| &last.plugins.now[0].digest)
    }

    #[tokio::test]
    async fn of_decisions_made_at_the_same_time_the_first_counts_for_all() {
        let ledger = Memory::default();
        let mut all: Vec<Agreed> = (0..3).map(|_| Agreed::on(Box::new(ledger.clone()))).collect();
        assert!(all[0].decide(plugins("a"), bytes_of, false).await.expect("a ledger"));
        assert!(all[1].catch_up().await.expect("a ledger"));
        // Both stand behind `a`; `b` is there first.
        assert!(all[0].decide(plugins("b"), bytes_of, false).await.expect("a ledger"));
        assert!(!all[1].decide(plugins("c"), bytes_of, false).await.expect("a ledger"));
        // It knows that by now, and decides behind it.
        assert!(all[1].decide(then("d", "b"), bytes_of, true).await.expect("a ledger"));
        for agreed in &mut all {
            agreed.catch_up().await.expect("a ledger");
            assert_eq!(now(agreed), "d");
            for (digest, known) in [("a", true), ("b", true), ("c", false), ("d", true)] {
                assert_eq!(agreed.knows(&plugins(digest).now[0]), known, "{digest}");
            }
        }
        assert!(!all[2].catch_up().await.expect("a ledger"), "there is nothing more");
        // What lost stays; its process didn't know yet that another one had decided.
        assert_eq!(ledger.file_names(), ["b", "c", "d"]);
    }

    #[tokio::test]
    async fn the_files_are_there_that_run_or_may_run_again() {
        let ledger = Memory::default();
        let mut agreed = Agreed::on(Box::new(ledger.clone()));
        // The first one's predecessor was the folder's, and can be rolled back to anywhere.
        for (now, before, due) in
            [("b", "a", ["a", "b"]), ("c", "b", ["b", "c"]), ("b", "c", ["b", "c"]), ("a", "b", ["a", "b"])]
        {
            assert!(agreed.decide(then(now, before), bytes_of, false).await.expect("a ledger"));
            assert_eq!(ledger.file_names(), due, "{now} behind {before}");
        }
        agreed.reset().await.expect("a ledger");
        assert!(ledger.file_names().is_empty());
    }

    #[tokio::test]
    async fn where_the_list_was_lost_the_processes_begin_a_new_one_together() {
        let ledger = Memory::default();
        let mut one = Agreed::on(Box::new(ledger.clone()));
        assert!(one.decide(plugins("a"), bytes_of, false).await.expect("a ledger"));
        ledger.notes.lock().expect("no panic").clear();
        // It reads its old place on: as after a server came back without what it had.
        one.ledger = Box::new(ledger.clone());
        let mut other = Agreed::on(Box::new(ledger.clone()));
        assert!(other.decide(plugins("b"), bytes_of, false).await.expect("a ledger"));
        assert!(one.catch_up().await.expect("a ledger"));
        assert_eq!(now(&one), "b");
        assert!(one.decide(plugins("c"), bytes_of, false).await.expect("a ledger"));
        other.catch_up().await.expect("a ledger");
        assert_eq!(now(&other), "c");
    }

    #[tokio::test]
    async fn a_file_comes_from_the_list_and_is_that_file_or_none() {
        let place = tempfile::tempdir().expect("a folder");
        let shelf = Shelf::at(place.path(), "pipeline");
        let mut agreed = Agreed::on(Box::new(Memory::default()));
        let digest = wasmill_plugin::digest(b"code");
        let wanted = plugins(&digest).now.remove(0);
        assert_eq!(agreed.fetch(&wanted, &shelf).await.expect("a ledger"), None);
        agreed.ledger.keep(&digest, b"other code").await.expect("a ledger");
        assert_eq!(agreed.fetch(&wanted, &shelf).await.expect("a ledger"), None);
        agreed.ledger.keep(&digest, b"code").await.expect("a ledger");
        let file = agreed.fetch(&wanted, &shelf).await.expect("a ledger").expect("it is there");
        assert_eq!(std::fs::read(file).expect("a copy"), b"code");
    }
}

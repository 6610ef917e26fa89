//! What the tools of operators do with stores: look at them as one commit left them, and replace them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use wasmill_connect::store::{DiskStore, RedisStore, RedisView, Replacement};
use wasmill_engine::position::{PartitionId, Position, Progress};
use wasmill_engine::state::{Change, Checkpoint, Delta, StateStore, StateView, StoreError};

use crate::servers::RedisServer;

fn checkpoint(epoch: u64, generation: u64) -> Checkpoint {
    let position = Position {
        incarnation: "log".into(),
        offset: epoch,
        index: 0,
        stream_time: 5,
        progress: Progress::Live,
    };
    Checkpoint {
        epoch,
        generation,
        shape: "shape".into(),
        stream_time: 7,
        positions: vec![(PartitionId { source: 0, partition: 1 }, position)],
        sinks: vec![("out".into(), "token".into())],
        counts: BTreeMap::from([("read".into(), 3)]),
        ..Checkpoint::default()
    }
}

fn delta(changes: impl IntoIterator<Item = (String, Option<String>)>) -> Delta {
    let change = |(key, value): (String, Option<String>)| Change {
        key: key.into_bytes(),
        value: value.map(String::into_bytes),
        share: None,
    };
    Delta { changes: changes.into_iter().map(change).collect() }
}

fn keys(view: &dyn StateView, prefix: &str, after: Option<&str>, max: usize) -> Vec<String> {
    let mut found = Vec::new();
    let mut visit = |key: &[u8], _: &[u8]| {
        found.push(String::from_utf8(key.to_vec()).expect("text"));
        if found.len() == max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    view.entries(prefix.as_bytes(), after.map(str::as_bytes), &mut visit).expect("entries");
    found
}

/// A durable store as the tools meet it.
trait Place {
    fn open(&self) -> Box<dyn StateStore>;
    fn view(&self) -> Box<dyn StateView>;
    fn replace(&self, generation: u64) -> Box<dyn Replacement>;
}

impl Place for &Path {
    fn open(&self) -> Box<dyn StateStore> {
        Box::new(DiskStore::open(self).expect("a store"))
    }
    fn view(&self) -> Box<dyn StateView> {
        self.open().view().expect("a view").expect("a store that can be looked at")
    }
    fn replace(&self, generation: u64) -> Box<dyn Replacement> {
        DiskStore::open(self).expect("a store").replace(generation).expect("a replacement")
    }
}

impl Place for RedisServer {
    fn open(&self) -> Box<dyn StateStore> {
        Box::new(RedisStore::open_alone(self.url(), "tools").expect("a store"))
    }
    fn view(&self) -> Box<dyn StateView> {
        Box::new(RedisView::open(self.url(), "tools").expect("a view"))
    }
    fn replace(&self, generation: u64) -> Box<dyn Replacement> {
        RedisView::open(self.url(), "tools")
            .expect("a view")
            .replace(generation, false)
            .expect("a replacement")
    }
}

fn for_each_place(story: impl Fn(&dyn Place)) {
    let directory = tempfile::tempdir().expect("a directory");
    story(&directory.path());
    if let Some(server) = RedisServer::start("the tools' contract") {
        story(&server);
    }
}

#[test]
fn a_view_pages_through_the_keys_in_their_order() {
    for_each_place(|place| {
        let store = place.open();
        let entries = (0..2_500).map(|n| (format!("k{n:04}"), Some("v".to_owned())));
        store
            .commit(&delta(entries.chain([("z".into(), Some("w".into()))])), &checkpoint(1, 0))
            .expect("a commit");
        drop(store);
        let view = place.view();
        assert_eq!(view.checkpoint().expect("one"), Some(checkpoint(1, 0)));
        assert_eq!(view.get(b"z").expect("z"), Some(b"w".to_vec()));
        assert_eq!(keys(&*view, "k", None, 2), ["k0000", "k0001"]);
        assert_eq!(keys(&*view, "k", Some("k0001"), 2), ["k0002", "k0003"]);
        assert_eq!(keys(&*view, "k000", Some("k0008"), 5), ["k0009"]);
        assert_eq!(keys(&*view, "z", Some("a"), 5), ["z"]);
        let all = keys(&*view, "", None, usize::MAX);
        assert_eq!(all.len(), 2_501);
        assert!(all.is_sorted());
    });
}

#[test]
fn a_view_on_disk_stays_as_it_is_while_commits_go_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = DiskStore::open(directory.path()).expect("a store");
    let put = |key: &str, value: Option<&str>| (key.to_owned(), value.map(str::to_owned));
    store.commit(&delta([put("a", Some("1")), put("b", Some("1"))]), &checkpoint(1, 0)).expect("a commit");
    let view = store.view().expect("a view").expect("a view");
    store.commit(&delta([put("a", Some("2")), put("b", None)]), &checkpoint(2, 0)).expect("a commit");
    store.compact().expect("tables");
    assert_eq!(view.checkpoint().expect("one").map(|c| c.epoch), Some(1));
    assert_eq!(view.get(b"a").expect("a"), Some(b"1".to_vec()));
    assert_eq!(keys(&*view, "", None, 9), ["a", "b"]);
    let now = store.view().expect("a view").expect("a view");
    assert_eq!(
        (now.get(b"a").expect("a"), keys(&*now, "", None, 9)),
        (Some(b"2".to_vec()), vec!["a".to_owned()])
    );
}

#[test]
fn a_replacement_counts_once_it_is_finished() {
    for_each_place(|place| {
        let store = place.open();
        store.commit(&delta([("old".into(), Some("1".into()))]), &checkpoint(4, 0)).expect("a commit");
        drop(store);
        // Left half-way: the old one is untouched.
        let mut left = place.replace(0);
        left.put(b"half", b"way").expect("an entry");
        drop(left);
        assert_eq!(keys(&*place.view(), "", None, 9), ["old"]);

        for round in 0..3u64 {
            let mut new = place.replace(round);
            for n in 0..3_000 {
                new.put(format!("new{n}").as_bytes(), b"2").expect("an entry");
            }
            let facts = (10 + round, b"facts".to_vec());
            new.finish(&checkpoint(9 + round, round), Some(&facts)).expect("finished");
            for _ in 0..2 {
                let store = place.open();
                assert_eq!(store.checkpoint().expect("one"), Some(checkpoint(9 + round, round)));
                assert_eq!(store.generation().expect("a generation"), round);
                assert_eq!(store.foretold().expect("facts"), Some(facts.clone()));
                assert_eq!(
                    (store.get(b"old").expect("none"), store.get(b"half").expect("none")),
                    (None, None)
                );
                drop(store);
                let view = place.view();
                assert_eq!(
                    (view.generation(), view.foretold().expect("facts")),
                    (round, Some(facts.clone()))
                );
                assert_eq!(keys(&*view, "", None, usize::MAX).len(), 3_000);
            }
        }
        let store = place.open();
        store.commit(&delta([("more".into(), Some("3".into()))]), &checkpoint(12, 2)).expect("goes on");
        assert_eq!(store.foretold().expect("none"), None);
    });
}

#[test]
fn who_replaces_on_disk_shuts_others_out_and_leaves_one_database() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let mut new = DiskStore::open(path).expect("a store").replace(0).expect("a replacement");
    assert!(matches!(DiskStore::open(path), Err(StoreError::Locked { .. })));
    new.put(b"a", b"1").expect("an entry");
    let error = new.put(&vec![b'k'; 70_000], b"1").expect_err("too long").to_string();
    assert!(error.contains("a key of 70000 bytes is above the limit"), "{error}");
    new.finish(&checkpoint(1, 0), None).expect("finished");
    let mut names: Vec<_> = std::fs::read_dir(path)
        .expect("a directory")
        .map(|e| e.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    assert_eq!(names, ["FORMAT", "HEAD.1", "db.1"]);
    assert_eq!(DiskStore::open(path).expect("a store").get(b"a").expect("a"), Some(b"1".to_vec()));
    assert_eq!(DiskStore::reset_at(path).expect("a reset"), 1);
    assert!(DiskStore::open(path).expect("a store").checkpoint().expect("none").is_none());
}

/// The database panics on such a key, which must not be told as damage of what is stored.
#[test]
fn a_key_that_is_too_long_for_the_disk_is_told_and_found_nowhere() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = DiskStore::open(directory.path()).expect("a store");
    let long = "k".repeat(70_000);
    let error =
        store.commit(&delta([(long.clone(), Some("1".into()))]), &checkpoint(1, 0)).expect_err("too long");
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    assert!(error.to_string().contains("a key of 70000 bytes is above the limit of 65000"), "{error}");
    store
        .commit(&delta([("k".into(), Some("1".into())), ("l".into(), Some("2".into()))]), &checkpoint(1, 0))
        .expect("shorter ones");
    let view = store.view().expect("a view").expect("one");
    assert_eq!(store.get(long.as_bytes()).expect("nothing"), None);
    assert_eq!(view.get(long.as_bytes()).expect("nothing"), None);
    assert_eq!(store.last_key(long.as_bytes()).expect("nothing"), None);
    for (prefix, after, expected) in
        [(long.as_str(), None, &[][..]), ("", Some(&*long), &["l"][..]), ("", None, &["k", "l"][..])]
    {
        let found =
            |entries: &dyn Fn(&mut wasmill_engine::state::VisitEntry<'_>) -> Result<(), StoreError>| {
                let mut keys = Vec::new();
                entries(&mut |key, _| {
                    keys.push(String::from_utf8_lossy(key).into_owned());
                    std::ops::ControlFlow::Continue(())
                })
                .expect("entries");
                keys
            };
        let after = after.map(str::as_bytes);
        assert_eq!(found(&|visit| store.entries(prefix.as_bytes(), after, visit)), expected);
        assert_eq!(found(&|visit| view.entries(prefix.as_bytes(), after, visit)), expected);
    }
}

/// A crash between the two steps of a replacement: the new one is whole, the old one still there.
#[test]
fn what_a_crash_left_of_the_old_database_is_removed() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let mut new = DiskStore::open(path).expect("a store").replace(3).expect("a replacement");
    new.put(b"a", b"1").expect("an entry");
    new.finish(&checkpoint(1, 3), None).expect("finished");
    std::fs::create_dir_all(path.join("db")).expect("the old one");
    std::fs::write(path.join("HEAD"), "old").expect("its head");
    std::fs::create_dir_all(path.join("db.2.new")).expect("a third that was never whole");
    let store = DiskStore::open(path).expect("a store");
    assert_eq!(store.get(b"a").expect("a"), Some(b"1".to_vec()));
    assert!(!path.join("db").exists() && !path.join("HEAD").exists());
    let again = store.replace(3).expect("a replacement");
    again.finish(&checkpoint(2, 3), None).expect("finished");
    assert_eq!(DiskStore::open(path).expect("a store").get(b"a").expect("none"), None);
}

#[test]
fn a_commit_meanwhile_stops_a_replacement_in_redis_and_is_kept() {
    let Some(server) = RedisServer::start("a replacement in Redis") else { return };
    let store = server.open();
    store.commit(&delta([("a".into(), Some("1".into()))]), &checkpoint(1, 0)).expect("a commit");
    let mut new = server.replace(0);
    new.put(b"b", b"2").expect("an entry");
    store.commit(&delta([("a".into(), Some("2".into()))]), &checkpoint(2, 0)).expect("a commit");
    let error = new.finish(&checkpoint(1, 0), None).expect_err("changed").to_string();
    assert!(error.contains("stop all processes of the pipeline"), "{error}");
    assert_eq!(keys(&*server.view(), "", None, 9), ["a"]);
    // One that finishes fences the process off that went on meanwhile.
    server.replace(0).finish(&checkpoint(2, 0), None).expect("finished");
    let error = store.commit(&Delta::default(), &checkpoint(3, 0)).expect_err("fenced");
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
}

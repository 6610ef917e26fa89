//! The store contract, run over every store; then what only a store on disk can suffer.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use wasmill_connect::postgres::{PostgresAddress, PostgresStore};
use wasmill_connect::store::{DiskStore, MemoryStore, RedisStore};
use wasmill_engine::edition::{Before, Plugins, StagePlugin};
use wasmill_engine::position::{PartitionId, Position, Progress};
use wasmill_engine::state::{Change, Checkpoint, Delta, StateStore, StoreError};

use crate::servers::RedisServer;
use crate::support::postgres::PostgresServer;

fn checkpoint(epoch: u64, generation: u64) -> Checkpoint {
    let position = Position {
        incarnation: "4096:abc".into(),
        offset: epoch * 10,
        index: 0,
        stream_time: i64::MIN,
        progress: Progress::Live,
    };
    Checkpoint {
        epoch,
        generation,
        shape: "shape".into(),
        stream_time: i64::MAX,
        positions: vec![(PartitionId { source: 0, partition: 1 }, position)],
        sinks: vec![("out".into(), "token".into())],
        counts: BTreeMap::from([("in".into(), u64::MAX)]),
        plugins: plugins(),
    }
}

fn plugins() -> Plugins {
    let plugin = |digest: &str| StagePlugin {
        stage: "stage".into(),
        plugin: "plugin".into(),
        digest: digest.into(),
        version: Some("1.2.0".into()),
    };
    let until = vec![(PartitionId { source: 0, partition: 1 }, 7)];
    Plugins {
        now: vec![plugin("now")],
        before: vec![Before { plugins: vec![plugin("before")], until }],
        previous: vec![plugin("before")],
        refused: vec![plugin("refused")],
        settled: true,
    }
}

fn change(key: Vec<u8>, value: Option<Vec<u8>>) -> Change {
    Change { key, value, share: None }
}

fn delta(changes: &[(&str, Option<&str>)]) -> Delta {
    let bytes = |s: &str| s.as_bytes().to_vec();
    Delta { changes: changes.iter().map(|(k, v)| change(bytes(k), v.map(bytes))).collect() }
}

fn all(store: &dyn StateStore, prefix: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let text = |b: &[u8]| String::from_utf8(b.to_vec()).expect("text");
    store.scan(prefix.as_bytes(), &mut |k, v| found.push((text(k), text(v)))).expect("a scan");
    found
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// Runs a story over each store; `open` closes it and opens it again where it is durable.
fn for_each_store(story: impl Fn(&mut dyn FnMut() -> Box<dyn StateStore>)) {
    let directory = tempfile::tempdir().expect("a directory");
    story(&mut || Box::new(DiskStore::open(directory.path()).expect("a store")));
    story(&mut || Box::new(MemoryStore::new()));
    if let Some(server) = RedisServer::start("the store contract") {
        story(&mut || Box::new(RedisStore::open_alone(server.url(), "contract").expect("a store")));
    }
    let server = PostgresServer::start();
    let at = PostgresAddress::new(server.url("postgres"));
    story(&mut || Box::new(PostgresStore::open_alone(&at, "contract").expect("a store")));
}

#[test]
fn a_commit_is_all_there_with_its_checkpoint() {
    for_each_store(|open| {
        let mut store = open();
        assert_eq!(store.checkpoint().expect("none"), None);
        assert_eq!(store.generation().expect("a generation"), 0);
        store
            .commit(
                &delta(&[("b", Some("2")), ("a", Some("1")), ("b\u{0}", Some("")), ("c", None)]),
                &checkpoint(1, 0),
            )
            .expect("a commit");
        store
            .commit(&delta(&[("a", None), ("b", Some("3")), ("", Some("empty key"))]), &checkpoint(2, 0))
            .expect("a commit");
        for _ in 0..2 {
            assert_eq!(store.checkpoint().expect("one"), Some(checkpoint(2, 0)));
            assert_eq!(store.get(b"b").expect("b"), Some(b"3".to_vec()));
            assert_eq!(store.get(b"b\0").expect("b0"), Some(Vec::new()));
            assert_eq!(store.get(b"a").expect("a"), None);
            assert_eq!(all(&*store, ""), pairs(&[("", "empty key"), ("b", "3"), ("b\u{0}", "")]));
            assert_eq!(all(&*store, "b\u{0}"), pairs(&[("b\u{0}", "")]));
            assert_eq!(all(&*store, "x"), []);
            if store.is_durable() {
                drop(store);
                store = open();
            }
        }
    });
}

#[test]
fn entries_come_in_order_from_a_place_on_as_far_as_they_are_wanted() {
    let bytes = |keys: &[&[u8]]| keys.iter().map(|key| key.to_vec()).collect::<Vec<_>>();
    // What ends and begins right at a prefix's end, and what a pattern of Redis would take for more.
    let keys = bytes(&[
        b"",
        b"a",
        b"a\0",
        b"a\0\0",
        b"a*",
        b"a*c",
        b"a\xFE",
        b"a\xFF",
        b"a\xFF\xFF",
        b"ab",
        b"b",
        b"\xFF",
    ]);
    for_each_store(|open| {
        let mut store = open();
        let put = keys.iter().map(|key| change(key.clone(), Some([b"of ", key.as_slice()].concat())));
        store.commit(&Delta { changes: put.collect() }, &checkpoint(1, 0)).expect("a commit");
        let gone = vec![change(b"a\0\0".to_vec(), None)];
        store.commit(&Delta { changes: gone }, &checkpoint(2, 0)).expect("a commit");
        if store.is_durable() {
            drop(store);
            store = open();
        }
        let mut sorted = keys.clone();
        sorted.retain(|key| key != b"a\0\0");
        sorted.sort();
        let entries = |prefix: &[u8], after: Option<&[u8]>, wanted: usize| {
            let mut found = Vec::new();
            let visit = &mut |key: &[u8], value: &[u8]| {
                assert_eq!(value, [b"of ", key].concat());
                found.push(key.to_vec());
                if found.len() == wanted { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            store.entries(prefix, after, visit).expect("the entries");
            found
        };
        // Asked for in an order of their own, one twice, and some that are not there.
        let mut asked: Vec<Vec<u8>> = keys.iter().rev().cloned().collect();
        asked.extend(bytes(&[b"a", b"none", b"a\0\0\0"]));
        let value = |key: &Vec<u8>| sorted.contains(key).then(|| [b"of ", key.as_slice()].concat());
        let values: Vec<_> = asked.iter().map(value).collect();
        assert_eq!(store.get_many(&asked).expect("the values"), values, "{}", store.name());
        assert_eq!(store.get_many(&[]).expect("nothing"), [], "{}", store.name());
        for prefix in [b"".as_slice(), b"a", b"a\0", b"a*", b"a\xFF", b"b", b"\xFF", b"x"] {
            for after in std::iter::once(None).chain(keys.iter().map(|key| Some(key.as_slice()))) {
                let expected: Vec<_> = sorted
                    .iter()
                    .filter(|key| key.starts_with(prefix) && after.is_none_or(|after| key.as_slice() > after))
                    .cloned()
                    .collect();
                let place = format!("{} under {prefix:?} behind {after:?}", store.name());
                assert_eq!(entries(prefix, after, usize::MAX), expected, "{place}");
                assert_eq!(entries(prefix, after, 2), expected[..expected.len().min(2)], "{place}");
            }
            let last = sorted.iter().rfind(|key| key.starts_with(prefix));
            assert_eq!(store.last_key(prefix).expect("a key").as_ref(), last, "{} {prefix:?}", store.name());
        }
    });
}

#[test]
fn a_stale_commit_is_refused_and_changes_nothing() {
    for_each_store(|open| {
        let store = open();
        store.commit(&delta(&[("a", Some("1"))]), &checkpoint(5, 0)).expect("a commit");
        for (stale, part) in [
            (checkpoint(5, 0), "epoch 5 is committed already"),
            (checkpoint(4, 0), "epoch 5 is committed already"),
            (checkpoint(6, 1), "of generation 1, the store of 0"),
        ] {
            let error = store.commit(&delta(&[("a", Some("2"))]), &stale).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(store.get(b"a").expect("a"), Some(b"1".to_vec()));
    });
}

#[test]
fn what_was_foretold_stays_until_its_epoch_commits() {
    for_each_store(|open| {
        let mut store = open();
        assert_eq!(store.foretold().expect("none"), None);
        store.foretell(1, b"one").expect("foretold");
        store.commit(&Delta::default(), &checkpoint(1, 0)).expect("a commit");
        assert_eq!(store.foretold().expect("none"), None);
        store.foretell(3, b"three").expect("foretold");
        store.commit(&Delta::default(), &checkpoint(2, 0)).expect("a commit");
        if store.is_durable() {
            drop(store);
            store = open();
        }
        assert_eq!(store.foretold().expect("three"), Some((3, b"three".to_vec())));
        // The facts of the next epoch take the place of this one's, in the commit itself.
        store.commit_and_foretell(&Delta::default(), &checkpoint(3, 0), b"four").expect("a commit");
        if store.is_durable() {
            drop(store);
            store = open();
        }
        assert_eq!(store.checkpoint().expect("read").expect("one").epoch, 3);
        assert_eq!(store.foretold().expect("four"), Some((4, b"four".to_vec())));
        store.commit_and_foretell(&Delta::default(), &checkpoint(4, 0), b"five").expect("a commit");
        assert_eq!(store.foretold().expect("five"), Some((5, b"five".to_vec())));
        store.commit(&Delta::default(), &checkpoint(5, 0)).expect("a commit");
        assert_eq!(store.foretold().expect("none"), None);
    });
}

#[test]
fn a_reset_forgets_all_but_raises_the_generation() {
    for_each_store(|open| {
        let mut store = open();
        for generation in 0..3 {
            store.commit(&delta(&[("a", Some("1"))]), &checkpoint(1, generation)).expect("a commit");
            store.foretell(2, b"two").expect("foretold");
            store.reset().expect("a reset");
            for _ in 0..2 {
                assert_eq!(store.generation().expect("a generation"), generation + 1);
                assert_eq!(store.checkpoint().expect("none"), None);
                assert_eq!(store.foretold().expect("none"), None);
                assert_eq!(all(&*store, ""), []);
                if store.is_durable() {
                    drop(store);
                    store = open();
                }
            }
            let zombie = store.commit(&Delta::default(), &checkpoint(2, generation)).expect_err("stale");
            assert!(zombie.to_string().contains("it was reset meanwhile"), "{zombie}");
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_store_on_disk_is_a_map(
        epochs in prop::collection::vec(
            prop::collection::btree_map("[a-c]{0,3}", prop::option::of("[x-z]{0,20}"), 0..12), 1..12),
        reopen_at in prop::collection::vec(any::<bool>(), 12),
    ) {
        let directory = tempfile::tempdir().expect("a directory");
        let mut disk = DiskStore::open(directory.path()).expect("a store");
        let memory = MemoryStore::new();
        for (i, changes) in epochs.into_iter().enumerate() {
            let delta = Delta {
                changes: changes.into_iter().map(|(k, v)| change(k.into_bytes(), v.map(String::into_bytes))).collect(),
            };
            let checkpoint = checkpoint(i as u64 + 1, 0);
            disk.commit(&delta, &checkpoint).expect("a commit");
            memory.commit(&delta, &checkpoint).expect("a commit");
            if reopen_at[i] {
                drop(disk);
                disk = DiskStore::open(directory.path()).expect("a store");
            }
            for prefix in ["", "a", "ab", "c"] {
                prop_assert_eq!(all(&disk, prefix), all(&memory, prefix));
            }
        }
    }
}

#[test]
fn more_commits_than_the_proof_has_slots() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut store = DiskStore::open(directory.path()).expect("a store");
    for epoch in 1..=1100u64 {
        let key = format!("key {}", epoch % 7);
        let value = epoch.to_string();
        store
            .commit(&delta(&[(key.as_str(), Some(value.as_str()))]), &checkpoint(epoch, 0))
            .expect("a commit");
        if [511, 512, 513, 1023, 1024, 1025, 1100].contains(&epoch) {
            drop(store);
            store = DiskStore::open(directory.path()).expect("a store");
            assert_eq!(
                store.get(key.as_bytes()).expect("a value"),
                Some(value.into_bytes()),
                "after {epoch}"
            );
        }
    }
    assert_eq!(all(&store, "").len(), 7);
}

#[test]
fn a_second_process_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let _first = DiskStore::open(directory.path()).expect("a store");
    let error = DiskStore::open(directory.path()).err().expect("locked");
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    let error = DiskStore::reset_at(directory.path()).expect_err("locked");
    assert!(error.to_string().contains("is in use by another wasmill"), "{error}");
}

#[test]
fn another_format_is_told_and_can_be_reset() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = DiskStore::open(directory.path()).expect("a store");
    store.commit(&delta(&[("a", Some("1"))]), &checkpoint(1, 0)).expect("a commit");
    drop(store);
    for mark in ["2\n", "1", "", "\u{1b}["] {
        fs::write(directory.path().join("FORMAT"), mark).expect("a mark");
        let error = DiskStore::open(directory.path()).err().expect("another format");
        assert!(matches!(error, StoreError::Format { expected: 1, .. }), "{error}");
        assert!(!error.to_string().contains('\u{1b}'));
    }
    fs::remove_file(directory.path().join("FORMAT")).expect("no mark");
    let error = DiskStore::open(directory.path()).err().expect("no format").to_string();
    assert!(
        error.contains("holds state of format unknown (no FORMAT file); this wasmill reads format 1"),
        "{error}"
    );

    assert_eq!(DiskStore::reset_at(directory.path()).expect("a reset"), 1);
    let store = DiskStore::open(directory.path()).expect("a store");
    assert_eq!((store.generation().expect("1"), store.checkpoint().expect("none")), (1, None));
}

/// A crash while the first database is made leaves nothing that is in the way of the next one.
#[test]
fn a_database_that_was_half_made_is_made_anew() {
    let made: [&[&str]; 5] = [
        &["FORMAT"],
        &["FORMAT", "db/lock"],
        &["FORMAT", "db/lock", "db/keyspaces/0/x"],
        &["FORMAT", "db/lock", "db/keyspaces/0/x", "db/0.jnl"],
        &["FORMAT", "db/lock", "db/keyspaces/0/x", "db/0.jnl", "db/version"],
    ];
    for files in made {
        let directory = tempfile::tempdir().expect("a directory");
        for name in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, if *name == "FORMAT" { "1\n" } else { "" }).expect("written");
        }
        let store = DiskStore::open(directory.path()).unwrap_or_else(|e| panic!("{files:?}: {e}"));
        store.commit(&delta(&[("a", Some("1"))]), &checkpoint(1, 0)).expect("committed");
        drop(store);
        let store = DiskStore::open(directory.path()).expect("again");
        assert_eq!(all(&store, ""), pairs(&[("a", "1")]), "{files:?}");
        drop(store);
        // With something stored, a lost `version` is damage.
        fs::remove_file(directory.path().join("db/version")).expect("removed");
        assert!(DiskStore::open(directory.path()).is_err());
        assert!(directory.path().join("db/0.jnl").exists());
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_told_with_its_path() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("file");
    fs::write(&path, "").expect("a file");
    let error = DiskStore::open(&path.join("state")).err().expect("refused").to_string();
    assert!(error.contains("file/state") && error.contains("not a directory"), "{error}");
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).expect("below"));
        fs::create_dir_all(target.parent().expect("a parent")).expect("a directory");
        // Logs are made longer than they are full: a copy of what they hold, with a hole behind it.
        let bytes = fs::read(&file).expect("a file");
        let full = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
        fs::write(&target, &bytes[..full]).expect("a copy");
        let copy = fs::File::options().write(true).open(&target).expect("a copy");
        copy.set_len(bytes.len() as u64).expect("a hole");
    }
}

type Whole = (Option<Checkpoint>, u64, BTreeMap<Vec<u8>, Vec<u8>>);

/// What a store says of itself: all of it, read both ways.
fn whole(directory: &Path) -> Result<Whole, StoreError> {
    let store = DiskStore::open(directory)?;
    let mut entries = BTreeMap::new();
    store.scan(b"", &mut |k, v| {
        entries.insert(k.to_vec(), v.to_vec());
    })?;
    for i in 0..300 {
        let key = format!("key-{i}").into_bytes();
        assert_eq!(store.get(&key)?, entries.get(&key).cloned(), "a get and a scan differ");
    }
    Ok((store.checkpoint()?, store.generation()?, entries))
}

/// How many places are damaged, at least; `make test-long` asks for more.
const PLACES: usize = 500;

fn places() -> usize {
    std::env::var("WASMILL_DAMAGES").map_or(PLACES, |n| n.parse().expect("WASMILL_DAMAGES is a number"))
}

/// What is done to a file.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Flip { at: usize, bit: u8 },
    CutAt(usize),
}

impl Damage {
    fn to(self, bytes: &mut Vec<u8>) {
        match self {
            Self::Flip { at, bit } => bytes[at] ^= 1 << bit,
            Self::CutAt(at) => bytes.truncate(at),
        }
    }
}

/// Numbers that are the same at every run.
fn draw(seed: &mut u64, below: usize) -> usize {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) as usize % below.max(1)
}

/// Where a log's batches begin: a tag, the number of items as u32, the number that orders it as u64,
/// which the database doesn't check.
fn batch_heads(log: &[u8]) -> Vec<usize> {
    const ITEMS: std::ops::Range<u32> = 4..64;
    let u32_at = |at: usize| u32::from_le_bytes(log[at..at + 4].try_into().expect("4 bytes"));
    let u64_at = |at: usize| u64::from_le_bytes(log[at..at + 8].try_into().expect("8 bytes"));
    let is_head =
        |at: &usize| log[*at] == 1 && ITEMS.contains(&u32_at(at + 1)) && (1..256).contains(&u64_at(at + 5));
    (0..log.len().saturating_sub(13)).filter(is_head).collect()
}

/// Which file, and what is done to it: every bit of the numbers that order a log's batches, and as many
/// places of every file as make up the sum, a third of them cut off.
fn damages(good: &Path) -> Vec<(PathBuf, Damage)> {
    let mut damages = Vec::new();
    let files: Vec<_> = files(good)
        .into_iter()
        .map(|file| {
            let bytes = fs::read(&file).expect("a file");
            // Logs are made longer than they are full.
            let full = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| (at + 16).min(bytes.len()));
            (file.strip_prefix(good).expect("below").to_owned(), bytes[..full].to_vec())
        })
        .filter(|(_, bytes)| !bytes.is_empty())
        .collect();
    for (name, bytes) in files.iter().filter(|(name, _)| name.extension().is_some_and(|e| e == "jnl")) {
        let heads = batch_heads(bytes);
        let bits = heads.iter().flat_map(|at| (0..8).map(move |bit| Damage::Flip { at: at + 5, bit }));
        damages.extend(bits.map(|damage| (name.clone(), damage)));
    }
    let mut seed = 1;
    for n in 0..places().saturating_sub(damages.len()) {
        let (name, bytes) = &files[n % files.len()];
        let at = draw(&mut seed, bytes.len());
        let damage = match draw(&mut seed, 3) {
            0 => Damage::CutAt(at),
            _ => Damage::Flip { at, bit: draw(&mut seed, 8) as u8 },
        };
        damages.push((name.clone(), damage));
    }
    damages
}

/// In a process of its own, for a database that dies of it must not end the test: tries the damages from
/// the one that the environment names on, and prints what came of each.
#[test]
fn child_of_no_damage_gives_a_wrong_answer() {
    let Some(good) = std::env::var_os("DAMAGE_GOOD").map(PathBuf::from) else { return };
    let from: usize = std::env::var("DAMAGE_FROM").expect("a number").parse().expect("a number");
    // A copy: to open a store changes its files.
    let twin = good.with_file_name("twin");
    copy(&good, &twin);
    let expected = whole(&twin).expect("the good one");
    for (n, (name, damage)) in damages(&good).into_iter().enumerate().skip(from) {
        let bad = good.with_file_name("bad");
        let _ = fs::remove_dir_all(&bad);
        copy(&good, &bad);
        let mut bytes = fs::read(good.join(&name)).expect("a file");
        damage.to(&mut bytes);
        fs::write(bad.join(&name), bytes).expect("the damage");
        let outcome = match std::panic::catch_unwind(|| whole(&bad)) {
            Ok(Ok(answer)) if answer == expected => "same",
            Ok(Ok(_)) => "another",
            Ok(Err(e)) if e.to_string().contains("wasmill reset") => "told",
            Ok(Err(e)) => &format!("told without what to do: {e}"),
            Err(_) => "panic",
        };
        println!("\nDAMAGE {n} {outcome}");
    }
}

/// Flips a bit of a file, or cuts it off, at many places: each time the store tells the damage with what to do,
/// or answers as before; never something else.
#[test]
fn no_damage_gives_a_wrong_answer() {
    let directory = tempfile::tempdir().expect("a directory");
    let good = directory.path().join("good");
    let store = DiskStore::open(&good).expect("a store");
    store.commit(&delta(&[("gone", Some("by the reset"))]), &checkpoint(1, 0)).expect("a commit");
    store.reset().expect("a reset");
    for epoch in 1..=6 {
        let changes = (0..40).map(|i| {
            let key = format!("key-{}", (epoch * 37 + i * 7) % 300).into_bytes();
            (key, (i % 5 != 0).then(|| format!("value {i} of {epoch}").into_bytes()))
        });
        store
            .commit(&Delta { changes: changes.map(|(k, v)| change(k, v)).collect() }, &checkpoint(epoch, 1))
            .expect("a commit");
        if epoch == 3 {
            store.compact().expect("tables on disk");
        }
    }
    drop(store);
    let damages = damages(&good);
    let mut outcomes: Vec<String> = Vec::new();
    while outcomes.len() < damages.len() {
        let child = std::process::Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "stores::child_of_no_damage_gives_a_wrong_answer", "--nocapture"])
            .env("DAMAGE_GOOD", &good)
            .env("DAMAGE_FROM", outcomes.len().to_string())
            .env("RUST_BACKTRACE", "0")
            .output()
            .expect("a child");
        let before = outcomes.len();
        let text = String::from_utf8_lossy(&child.stdout).into_owned();
        outcomes.extend(
            text.lines()
                .filter_map(|l| l.strip_prefix("DAMAGE ")?.split_once(' ').map(|(_, o)| o))
                .map(str::to_owned),
        );
        if outcomes.len() < damages.len() {
            outcomes.push("died".into());
        }
        assert!(outcomes.len() > before, "the child does nothing: {text}");
    }
    let count = |what: &str| outcomes.iter().filter(|o| *o == what).count();
    let wrong: Vec<String> = damages
        .iter()
        .zip(&outcomes)
        .filter(|(_, outcome)| !matches!(outcome.as_str(), "same" | "told"))
        .map(|((name, damage), outcome)| format!("{} {damage:?}: {outcome}", name.display()))
        .collect();
    assert!(wrong.is_empty(), "{} of {} wrong:\n{}", wrong.len(), damages.len(), wrong.join("\n"));
    assert!(
        count("told") > 100,
        "only {} damages were told: does the test still reach the data?",
        count("told")
    );
}

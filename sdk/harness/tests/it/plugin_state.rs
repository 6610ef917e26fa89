//! The contract of plugins' state, over every store: in memory, on disk, in Redis.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use wasmill_connect::store::{DiskStore, MemoryStore, RedisStore};
use wasmill_engine::guest::{CallContext, HostFault, PluginRef};
use wasmill_engine::key::key_group;
use wasmill_engine::state::{StateStore, plugin_state_key};
use wasmill_engine::stored_key::split_expiry;
use wasmill_engine::time::END;
use wasmill_engine::topology::Topology;
use wasmill_frame::{Edit, EditsWriter, Message};
use wasmill_harness::driver::{Driver, Steps};
use wasmill_harness::native;
use wasmill_plugin::{Grants, Sandbox, SandboxOptions, StageConfig};

use crate::servers::RedisServer;

fn message(id: &str, key: &str, time: i64) -> String {
    format!(r#"{{"id":"{id}","type":"t","timestamp":{time},"payload":{{"k":"{key}"}}}}"#)
}

/// Runs a story over each store, empty.
fn for_each_store(story: impl Fn(Arc<dyn StateStore>)) {
    story(Arc::new(MemoryStore::new()));
    let directory = tempfile::tempdir().unwrap();
    story(Arc::new(DiskStore::open(directory.path()).unwrap()));
    if let Some(server) = RedisServer::start("the contract of plugins' state") {
        story(Arc::new(RedisStore::open_alone(server.url(), "plugins").unwrap()));
    }
}

/// Counts messages of a key in the key's state, and remembers the last id for 50 ms of event time.
fn stateful() -> PluginRef {
    fn each(index: usize, message: Message<'_>, edits: &mut EditsWriter, cx: &mut CallContext) {
        let state = cx.state.as_mut().unwrap();
        let at = u32::try_from(index).unwrap();
        let seen = state.get(at, "n").unwrap().map_or(0, |v| v[0]) + 1;
        state.set(at, "n", Some(&[seen]), None).unwrap();
        let last = state.get(at, "last").unwrap().unwrap_or_else(|| b"nobody".to_vec());
        state.set(at, "last", Some(message.id().as_bytes()), Some(50)).unwrap();
        if message.id() == "forget" {
            state.set(at, "n", None, None).unwrap();
        }
        let text = format!("{seen} after {}", String::from_utf8_lossy(&last));
        edits.push(index, Edit::SetMetadata { name: "seen", value: text.as_bytes(), json: false });
    }
    native::transform("stateful", |index, message, edits, cx| {
        each(index, message, edits, cx);
        if message.id() == "boom" {
            return Err(wasmill_engine::guest::CallError::Trap("boom".into()));
        }
        Ok(())
    })
}

#[test]
fn a_store_that_cannot_be_read_is_the_host_s_fault_and_convicts_nobody() {
    let Some(mut server) = RedisServer::start("a store that cannot be read") else { return };
    let store: Arc<dyn StateStore> = Arc::new(RedisStore::open_alone(server.url(), "plugins").unwrap());
    let reads = native::transform("reads", |index, _, _, cx| {
        let value = cx.state.as_mut().unwrap().get(u32::try_from(index).unwrap(), "n");
        value.map(drop).map_err(wasmill_engine::guest::CallError::Refused)
    });
    let steps = Steps::new().key_by(&["payload.k"]).transform("s", &reads);
    let mut d = Driver::with_store(steps, 1, 1, store);
    d.push(0, &message("1", "a", 0));
    d.checkpoint();
    server.kill();
    d.push(0, &message("2", "b", 0));
    let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| d.tick())).unwrap_err();
    let HostFault(text) = stopped.downcast_ref().unwrap();
    assert!(text.contains("the state of the stage `s` can't be read: cannot read the state"), "{text}");
    assert_eq!(d.read_dead_letters().len(), 0);
}

#[test]
fn it_follows_the_key_survives_a_crash_forgets_failed_calls_and_expires() {
    for_each_store(|store| {
        let steps = Steps::new().key_by(&["payload.k"]).transform("s", &stateful());
        let mut d = Driver::with_store(steps, 1, 2, store);
        d.push(0, &message("1", "a", 0));
        d.push(0, &message("boom", "a", 1));
        d.push(0, &message("2", "b", 2));
        d.checkpoint();
        d.crash_and_restore(4);
        d.push(0, &message("3", "a", 30));
        d.push(0, &message("4", "a", 80));
        d.checkpoint();
        d.push(0, &message("forget", "a", 90));
        d.checkpoint();
        d.push(0, &message("in the epoch that is lost", "a", 91));
        d.tick();
        d.crash_and_restore(1);
        d.push(0, &message("5", "b", 92));
        d.checkpoint();
        let mut seen: Vec<String> = d
            .read()
            .iter()
            .map(|o| format!("{}: {}", o["id"].as_str().unwrap(), o["metadata"]["seen"]))
            .collect();
        seen.sort();
        assert_eq!(
            seen,
            [
                r#"1: "1 after nobody""#,
                r#"2: "1 after nobody""#,
                r#"3: "2 after 1""#,      // what `boom` set is gone with it
                r#"4: "3 after nobody""#, // 3's word has expired at 80, to the millisecond
                r#"5: "2 after nobody""#,
                r#"forget: "4 after 4""#,
                r#"in the epoch that is lost: "1 after forget""#, // read again, and counted once
            ]
        );
        assert_eq!(d.read_dead_letters().len(), 1);
        // b's entries and a's, and nothing twice.
        assert_eq!(d.state().len(), 4);
    });
}

/// `tests/programs/stateful`, a component; none, said aloud, where it isn't built.
fn stateful_component() -> Option<PluginRef> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/programs/stateful.wasm");
    if !file.exists() {
        eprintln!("not run: {} was not built", file.display());
        return None;
    }
    let sandbox = Sandbox::new(SandboxOptions::default()).unwrap();
    Some(sandbox.load(&file, &Grants::all(), StageConfig::new()).unwrap())
}

/// A plugin's entry as it is stored: its expiry, and its value as text.
fn stored(store: &dyn StateStore, key: &str, name: &str) -> Option<(i64, String)> {
    let group = key_group(key.as_bytes(), Topology::KEY_GROUPS);
    let bytes = store.get(&plugin_state_key(0, group, key.as_bytes(), name)).unwrap()?;
    let (expiry, value) = split_expiry(&bytes);
    Some((expiry, String::from_utf8(value.to_vec()).unwrap()))
}

#[test]
fn a_component_increments_and_asks_and_changes_in_bulk_over_every_store() {
    let Some(plugin) = stateful_component() else { return };
    for_each_store(|store| {
        let steps = Steps::new().key_by(&["payload.k"]).transform("s", &plugin);
        let mut d = Driver::with_store(steps, 1, 2, Arc::clone(&store));
        let push = |d: &mut Driver, id: &str, kind: &str, key: &str, time: i64| {
            d.push(
                0,
                &format!(r#"{{"id":"{id}","type":"{kind}","timestamp":{time},"payload":{{"k":"{key}"}}}}"#),
            );
        };
        // Each part is one epoch, and of each key one batch: several lanes have what is released at once in one.
        let parts: [&[(&str, &str, &str, i64)]; 4] = [
            &[("1", "t", "a", 0), ("2", "set", "a", 1), ("3", "get", "b", 2)],
            &[("4", "get", "a", 10), ("5", "delete", "a", 11), ("6", "bad", "b", 12), ("7", "get", "b", 13)],
            &[("8", "set_for", "a", 1_000), ("9", "get", "a", 1_999), ("10", "get", "a", 2_000)],
            &[("11", "get", "b", 2_001)],
        ];
        for (number, part) in parts.iter().enumerate() {
            part.iter().for_each(|(id, kind, key, time)| push(&mut d, id, kind, key, *time));
            d.checkpoint();
            d.crash_and_restore(3 + number);
        }
        let mut seen: Vec<(u32, String)> = d
            .read()
            .iter()
            .map(|o| {
                let told = |name: &str| match &o["metadata"][name] {
                    serde_json::Value::Null => "-".to_owned(),
                    serde_json::Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                let told = ["count", "last_batch", "value"].map(told).join(" ");
                (o["id"].as_str().unwrap().parse().unwrap(), told)
            })
            .collect();
        seen.sort();
        let a = r#"{"k":"a"}"#;
        let expected = [
            (1, "1 - -".to_owned()),
            (2, format!("2 - {a}")),
            (3, "1 - -".to_owned()),
            (4, format!("3 2 {a}")),
            (5, "4 2 -".to_owned()),
            (7, "3 3 -".to_owned()),
            (8, format!("5 5 {a}")),
            (9, format!("6 5 {a}")),
            (10, "7 5 -".to_owned()),
            (11, "4 7 -".to_owned()),
        ];
        assert_eq!(seen, expected, "{}", store.name());
        let dead = d.read_dead_letters();
        assert_eq!(dead.len(), 1, "{dead:?}");
        assert!(dead[0].to_string().contains("is no number"), "{dead:?}");
        let for_ever = |text: &str| Some((END, text.to_owned()));
        for (key, name, value) in [
            ("a", "count", for_ever("7")),
            ("b", "count", for_ever("4")),
            ("a", "last_batch", for_ever("10")),
            ("b", "last_batch", for_ever("11")),
            ("b", "word", for_ever("x")),
            ("b", "value", None),
        ] {
            assert_eq!(stored(store.as_ref(), key, name), value, "{name} of {key} in {}", store.name());
        }
    });
}

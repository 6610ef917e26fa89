//! Guests that SDKs and other toolchains built, where `scripts/build-plugins.sh`, `scripts/build-typed-js.sh` and
//! `scripts/build-typed-py.sh` have built them; the rest of this crate's tests need none.

use std::path::PathBuf;

use wasmill_engine::guest::{PluginRef, Trial};
use wasmill_frame::{Edit, Edits, FrameBuf, Parts};
use wasmill_plugin::{Grants, Limits, Sandbox, SandboxOptions, StageConfig};

use crate::common::{self, facts};

/// A built guest; none, said aloud, where it wasn't built.
fn load(sandbox: &Sandbox, path: &str) -> Option<PluginRef> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target").join(path);
    if !file.exists() {
        eprintln!("not run: {path} was not built");
        return None;
    }
    Some(sandbox.load(&file, &Grants::all(), StageConfig::new()).unwrap_or_else(|e| panic!("{e}")))
}

/// Messages of these types, with these payloads, ids m0, m1, ….
fn frame(messages: &[(&str, &str)]) -> FrameBuf {
    let mut frame = FrameBuf::default();
    for (i, (kind, payload)) in messages.iter().enumerate() {
        frame.push(&Parts {
            id: &format!("m{i}"),
            kind,
            key: None,
            payload: payload.as_bytes(),
            timestamp: 1_000,
            metadata: b"",
            payload_is_json: true,
        });
    }
    frame
}

#[test]
fn what_fails_on_one_message_is_named_and_the_others_survive() {
    let limits =
        Limits { deadline_ms: 500, memory_bytes_max: 32 << 20, fuel: 200_000_000, ..Limits::default() };
    let sandbox = common::sandbox(limits);
    let cases = [
        ("programs/panics-on.wasm", "trap", "trap", "panic: boom in message m1 at"),
        ("programs/spins-on.wasm", "deadline", "fuel", ""),
        ("programs/grows-on.wasm", "memory", "memory", ""),
    ];
    for (path, batch, verdict, says) in cases {
        let Some(plugin) = load(&sandbox, path) else { continue };
        let mut guest = plugin.guest();
        let bad = frame(&[("t", "{}"), ("t", r#"{"boom":true}"#)]);
        for (trial, kind) in [(Trial::Batch, batch), (Trial::Verdict, verdict)] {
            let error = guest.transform(bad.as_bytes(), &mut facts(2), trial).expect_err(path);
            assert_eq!(error.kind(), kind, "{path}: {error}");
            assert!(error.to_string().contains(says), "{path}: {error}");
        }
        let good = frame(&[("t", "{}")]);
        let answer = guest.transform(good.as_bytes(), &mut facts(1), Trial::Batch).expect(path);
        let edits: Vec<_> = Edits::parse(&answer, 1).expect("edits").iter().collect();
        assert!(matches!(edits[..], [(0, Edit::SetMetadata { name: "survived", .. })]), "{path}: {edits:?}");
    }
}

#[test]
fn an_aggregate_s_description_and_initial_accumulator_are_read_at_load() {
    let sandbox = common::sandbox(Limits::default());
    let Some(plugin) = load(&sandbox, "plugins/delay-stats.wasm") else { return };
    let info = plugin.info();
    assert!(info.kinds.aggregate && info.aggregate.is_some(), "{info:?}");
}

#[test]
fn guests_in_the_typed_width_by_foreign_toolchains_edit_as_frames_do() {
    // Their engines fill 12 and 18 MB, which take a minute to compile: once, for the cache outlives the test.
    let limits = Limits { deadline_ms: 20_000, compile_ms_max: 600_000, ..Limits::default() };
    let cache = Some(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("compiled"));
    let options = SandboxOptions { limits, cache, ..SandboxOptions::default() };
    let sandbox = Sandbox::new(options).expect("sandbox");
    for path in ["programs/typed-js.wasm", "programs/typed-py.wasm"] {
        let Some(plugin) = load(&sandbox, path) else { continue };
        let mut guest = plugin.guest();
        let kinds = ["keep", "drop", "fail", "payload", "key", "id", "alert", "copy", "other"];
        let frame = frame(&kinds.map(|kind| (kind, "\"x\"")));
        let answer =
            guest.transform(frame.as_bytes(), &mut facts(kinds.len()), Trial::Batch).expect("answer");
        let edits: Vec<_> = Edits::parse(&answer, kinds.len()).expect("edits").iter().collect();
        let set = |name| Edit::SetMetadata { name, value: b"true", json: false };
        let expected = [
            (1, Edit::Drop),
            (2, Edit::Fail("asked to: \"x\"")),
            (3, Edit::Payload(b"\"X\"")),
            (4, Edit::Key(Some(b"m4"))),
            (5, Edit::Id("m5-again")),
            (6, Edit::Output("alerts")),
            (7, set("original")),
            (7, Edit::Emit { copy: true }),
            (7, Edit::Id("copy")),
            (7, set("copied")),
            (8, set("processed")),
        ];
        assert_eq!(edits, expected, "{path}");
        let boom = self::frame(&[("boom", "{}")]);
        let error = guest.transform(boom.as_bytes(), &mut facts(1), Trial::Batch).expect_err(path);
        assert_eq!(error.kind(), "trap", "{path}: {error}");
    }
}

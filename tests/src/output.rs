//! What a run has left in a file sink's folder.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// The lines of the finished files in the manifest's order.
///
/// # Panics
/// When the folder is not as its manifest says: another file, another length, a line cut off.
#[must_use]
#[track_caller]
pub fn lines(folder: &Path) -> Vec<String> {
    let shown = folder.display();
    let manifest = fs::read(folder.join("manifest.json")).unwrap_or_else(|e| panic!("{shown}: {e}"));
    let manifest: Value = serde_json::from_slice(&manifest).unwrap_or_else(|e| panic!("{shown}: {e}"));
    let finished = manifest["finished"].as_array().expect("a list of files");
    let mut listed = BTreeSet::new();
    let mut lines = Vec::new();
    for part in finished {
        let name = part["name"].as_str().expect("a name");
        let text = fs::read_to_string(folder.join(name)).unwrap_or_else(|e| panic!("{shown}/{name}: {e}"));
        assert_eq!(Some(text.len() as u64), part["bytes"].as_u64(), "the length of {shown}/{name}");
        assert!(text.is_empty() || text.ends_with('\n'), "{shown}/{name} ends in the middle of a line");
        assert!(listed.insert(name.to_owned()), "{name} stands twice in the manifest of {shown}");
        lines.extend(text.lines().map(str::to_owned));
    }
    let seen: BTreeSet<String> =
        names(folder).into_iter().filter(|n| n.starts_with("part-") && n.ends_with(".jsonl")).collect();
    assert_eq!(seen, listed, "the files that readers of {shown} see, and the manifest");
    lines
}

/// As [`lines`], of a pipeline that has ended in order: nothing unfinished is left either.
///
/// # Panics
/// As [`lines`], and when a file is unfinished.
#[must_use]
#[track_caller]
pub fn finished_lines(folder: &Path) -> Vec<String> {
    let unfinished: Vec<String> = names(folder).into_iter().filter(|n| n.ends_with(".tmp")).collect();
    assert!(unfinished.is_empty(), "left unfinished in {}: {unfinished:?}", folder.display());
    lines(folder)
}

/// Lines as a set that may repeat.
#[must_use]
pub fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort_unstable();
    lines
}

/// How many bytes a sink has flushed into files that are not finished yet.
#[must_use]
pub fn unfinished_bytes(folder: &Path) -> u64 {
    let tmp = names(folder).into_iter().filter(|n| n.ends_with(".jsonl.tmp"));
    tmp.filter_map(|n| fs::metadata(folder.join(n)).ok()).map(|m| m.len()).sum()
}

/// A line's field by its JSON pointer, such as `/payload/key`.
///
/// # Panics
/// When the line is no JSON.
#[must_use]
#[track_caller]
pub fn field(line: &str, pointer: &str) -> Value {
    let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    value.pointer(pointer).cloned().unwrap_or(Value::Null)
}

/// Expects the same lines; shows the first that differ rather than all.
///
/// # Panics
/// When they differ.
#[track_caller]
pub fn assert_same(what: &str, came: &[String], expected: &[String]) {
    if came == expected {
        return;
    }
    let at = came.iter().zip(expected).position(|(c, e)| c != e).unwrap_or(came.len().min(expected.len()));
    let shown = |lines: &[String]| lines.get(at).cloned().unwrap_or_else(|| "(nothing)".to_owned());
    panic!(
        "{what}: {} lines came, {} were expected; the first difference is at line {}\n    came: {}\nexpected: {}",
        came.len(),
        expected.len(),
        at + 1,
        shown(came),
        shown(expected)
    );
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).collect()
}

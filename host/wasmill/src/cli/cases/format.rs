//! How cases are written.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wasmill_engine::guest::Kinds;
use wasmill_engine::key::{KeySpec, OnNull, Path as FieldPath};

use super::given::{Answer, Given};
use crate::report::{Diagnostic, Problems, Sources};
use crate::spec::Grant;
use crate::spec::located::Located;
use crate::spec::{de, node};

/// What `wasmill test --format` prints.
pub const HELP: &str = "\
A file of cases is YAML, or JSON with one case a line (its name then ends in .jsonl).

  config: { threshold: 3 }        # for all cases; a case may have its own
  grants: [state]                 # for all cases; a case may have its own
  secrets: { api-key: abc }       # what is granted of these, for all cases; a case may have its own
  lookups: { carriers: { UA: { name: United } } }
  http: { \"https://api.example.com/score/1\": { status: 200, body: { score: 7 } } }
  cases:
    - name: marks late flights
      kind: transform             # transform, filter or aggregate; needed where the plugin has several
      key_by: payload.carrier     # the messages' keys; needed for state, and for values by key
      input:
        - { id: \"1\", type: departed, payload: { carrier: UA, dep_delay: 90 } }
        - { id: \"2\", type: departed, payload: { carrier: AA, dep_delay: 0 } }
        - { id: \"3\", type: departed, payload: nonsense }
      expect:                     # what goes on, in order; [] where all is dropped
        - { id: \"1\", metadata: { late: \"yes\" } }
        - { id: \"2\" }
      failed:                     # what goes to the dead-letter queue; the reason must contain the text
        - { id: \"3\", reason: not an object }
      outputs:                    # what leaves by a named output
        alerts: [{ id: \"1\" }]

    - name: counts by carrier
      kind: aggregate
      key_by: payload.carrier
      input: [{ id: \"1\", type: departed, payload: { carrier: UA } }]
      values: { UA: 1 }           # the finished value of each key; `value: 1` without key_by

Of an expected message only the fields that are written are compared, each as a whole. What is left
out: `failed` and `outputs` are empty then; `expect` is not compared for an aggregate.

Each case is run as one batch and again message by message; an aggregate also in two halves that are
merged, and in reverse where it calls itself commutative. All must give the same: a plugin's answer may
not depend on how its messages are cut into batches.
";

/// A case, ready to run.
#[derive(Debug, Default)]
pub struct Case {
    pub name: String,
    pub kind: Option<Kind>,
    pub key: Option<KeySpec>,
    pub grants: Vec<Grant>,
    /// Its own config, or its file's.
    pub config: Option<BTreeMap<String, Value>>,
    pub given: Given,
    pub input: Vec<Value>,
    pub expected: Expected,
}

/// What must come of it.
#[derive(Debug, Default)]
pub struct Expected {
    pub messages: Option<Vec<Value>>,
    pub failed: Vec<Failed>,
    pub outputs: BTreeMap<String, Vec<Value>>,
    pub values: Option<BTreeMap<String, Value>>,
}

/// Which interface a case calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Transform,
    Filter,
    Aggregate,
}

impl Kind {
    /// Those that a plugin has.
    pub fn all(kinds: Kinds) -> Vec<Self> {
        let all = [
            (kinds.transform, Self::Transform),
            (kinds.filter, Self::Filter),
            (kinds.aggregate, Self::Aggregate),
        ];
        all.into_iter().filter(|(has, _)| *has).map(|(_, kind)| kind).collect()
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Transform => "transform",
            Self::Filter => "filter",
            Self::Aggregate => "aggregate",
        }
    }
}

/// A message that must fail.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failed {
    pub id: String,
    #[serde(default)]
    pub reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    config: Option<BTreeMap<String, Value>>,
    #[serde(default)]
    grants: Vec<Grant>,
    secrets: Option<BTreeMap<String, String>>,
    lookups: Option<BTreeMap<String, BTreeMap<String, Value>>>,
    http: Option<BTreeMap<String, Answer>>,
    cases: Vec<RawCase>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCase {
    name: Located<String>,
    kind: Option<Kind>,
    key_by: Option<Located<String>>,
    grants: Option<Vec<Grant>>,
    secrets: Option<BTreeMap<String, String>>,
    lookups: Option<BTreeMap<String, BTreeMap<String, Value>>>,
    http: Option<BTreeMap<String, Answer>>,
    config: Option<BTreeMap<String, Value>>,
    input: Vec<Value>,
    expect: Option<Vec<Value>>,
    #[serde(default)]
    failed: Vec<Failed>,
    #[serde(default)]
    outputs: BTreeMap<String, Vec<Value>>,
    value: Option<Located<Value>>,
    values: Option<BTreeMap<String, Value>>,
}

/// Reads a file of cases.
pub fn parse(file: &Path, text: &str) -> Result<Vec<Case>, Problems> {
    let lines = file.extension().is_some_and(|e| e == "jsonl");
    read(&file.display().to_string(), text, lines)
}

/// Reads cases that stand in no file: where the first line is a case, there is one a line.
pub fn parse_embedded(name: &str, text: &str) -> Result<Vec<Case>, Problems> {
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let lines = serde_json::from_str::<Value>(first).is_ok_and(|v| v.get("name").is_some());
    read(name, text, lines)
}

fn read(name: &str, text: &str, lines: bool) -> Result<Vec<Case>, Problems> {
    let mut sources = Sources::default();
    let source = sources.add(name, text);
    let read = if lines { parse_lines(text, source) } else { parse_whole(text, source) };
    read.map_err(|diagnostic| Problems { sources, diagnostics: vec![*diagnostic] })
}

fn parse_whole(text: &str, source: u32) -> Result<Vec<Case>, Box<Diagnostic>> {
    let tree = node::parse(text, source, 0).map_err(Box::new)?;
    let RawFile { config, grants, secrets, lookups, http, cases } = de::from_node(&tree)?;
    let all = Case { config, grants, given: Given { secrets, lookups, http }, ..Case::default() };
    if cases.is_empty() {
        return Err(Box::new(Diagnostic::at(tree.span, "there are no cases", "`cases` is empty")));
    }
    cases.into_iter().map(|c| case(c, &all)).collect()
}

fn parse_lines(text: &str, source: u32) -> Result<Vec<Case>, Box<Diagnostic>> {
    let mut cases = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if !line.trim().is_empty() {
            let tree = node::parse(line, source, at).map_err(Box::new)?;
            cases.push(case(de::from_node(&tree)?, &Case::default())?);
        }
        at += line.len();
    }
    if cases.is_empty() {
        return Err(Box::new(Diagnostic::new("there are no cases: expected one JSON object a line")));
    }
    Ok(cases)
}

/// The key that a path names.
///
/// # Errors
/// When it is no path.
pub fn key(path: &str) -> Result<KeySpec, String> {
    let path = FieldPath::from_str(path).map_err(|e| e.to_string())?;
    Ok(KeySpec { paths: vec![path], on_null: OnNull::Shared })
}

/// A case, with what `all` gives where it gives nothing of its own.
fn case(raw: RawCase, all: &Case) -> Result<Case, Box<Diagnostic>> {
    let key = match raw.key_by {
        None => None,
        Some(path) => Some(
            key(&path.value)
                .map_err(|e| Box::new(Diagnostic::at(path.span, e, "expected such as `payload.carrier`")))?,
        ),
    };
    let values = match (raw.value, raw.values) {
        (Some(one), None) if key.is_none() => Some(BTreeMap::from([(String::new(), one.value)])),
        (Some(one), _) => {
            let title = "`value` beside `key_by` or `values`";
            return Err(Box::new(Diagnostic::at(one.span, title, "write `values`, by key")));
        }
        (None, values) => values,
    };
    let says_nothing =
        raw.expect.is_none() && values.is_none() && raw.failed.is_empty() && raw.outputs.is_empty();
    if says_nothing {
        let title = format!("the case `{}` expects nothing", raw.name.value);
        let diagnostic = Diagnostic::at(raw.name.span, title, "it could never fail")
            .help("add `expect`, `failed`, `outputs`, `value` or `values`");
        return Err(Box::new(diagnostic));
    }
    Ok(Case {
        name: raw.name.value,
        kind: raw.kind,
        key,
        grants: raw.grants.unwrap_or_else(|| all.grants.clone()),
        config: raw.config.or_else(|| all.config.clone()),
        given: Given {
            secrets: raw.secrets.or_else(|| all.given.secrets.clone()),
            lookups: raw.lookups.or_else(|| all.given.lookups.clone()),
            http: raw.http.or_else(|| all.given.http.clone()),
        },
        input: raw.input,
        expected: Expected { messages: raw.expect, failed: raw.failed, outputs: raw.outputs, values },
    })
}

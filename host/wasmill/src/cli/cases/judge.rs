//! Compares what came of a case with what was expected.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use similar::TextDiff;
use wasmill_engine::guest::{PluginRef, Trial};
use wasmill_engine::stage::StageKind;

use super::format::{Case, Failed, Kind};
use super::play::{self, Calls, Gathered, Left, Played, Way};

/// Runs a case in every way that must give the same. Answers what is wrong; nothing where all is right.
pub fn judge(plugin: &PluginRef, case: &Case) -> Vec<String> {
    try_judge(plugin, case).unwrap_or_else(|wrong| vec![wrong])
}

fn try_judge(plugin: &PluginRef, case: &Case) -> Result<Vec<String>, String> {
    let kind = kind(plugin, case)?;
    let frame = play::frame(&case.input, case.key.as_ref())?;
    let all = frame.len();
    let names: BTreeSet<String> = case.expected.outputs.keys().cloned().collect();
    let stage = |batch: usize| {
        let kind = if kind == Kind::Transform { StageKind::Transform } else { StageKind::Filter };
        let batches = play::batches(all, batch);
        of_stage(play::stage(plugin, kind, case.key.is_some(), &names, &frame, &batches)?)
    };
    let aggregate = |way: &Way| of_aggregate(play::aggregate(plugin, &frame, way, CALLS)?);
    let folded = |batch: usize| aggregate(&Way::folded(play::batches(all, batch)));
    let run = |batch: usize| if kind == Kind::Aggregate { folded(batch) } else { stage(batch) };
    let came = run(all)?;
    let mut wrong: Vec<String> = compare(case, kind, &came).into_iter().collect();
    let mut again = vec![("message by message", run(1)?)];
    if kind == Kind::Aggregate {
        let halves = [0..all / 2, all / 2..all];
        again.push(("in two halves that are merged", aggregate(&Way::merged(halves))?));
        if plugin.info().aggregate.as_ref().is_some_and(|a| a.commutative) {
            let reverse = aggregate(&Way::ordered((0..all).rev().collect()))?;
            again.push(("in reverse, though it calls itself commutative", reverse));
        }
    }
    for (name, again) in again {
        if again != came {
            let diff = diff(&show(&came), &show(&again), "as one batch", name);
            wrong.push(format!("run {name}, it answers something else than as one batch\n{diff}"));
        }
    }
    Ok(wrong)
}

/// A case's calls of an aggregate: a message that fails says so itself, so a call that fails fails the case.
const CALLS: Calls = Calls { trial: Trial::Verdict, alone: false, scan: false };

/// What came of a case.
#[derive(Debug, Default, PartialEq)]
struct Came {
    messages: Vec<Value>,
    failed: Vec<Failed>,
    outputs: BTreeMap<String, Vec<Value>>,
    values: BTreeMap<String, Value>,
}

fn of_stage(played: Played) -> Result<Came, String> {
    let all = |left: Vec<Left>| left.iter().map(|l| play::value(&l.text)).collect::<Result<Vec<_>, _>>();
    Ok(Came {
        messages: all(played.messages)?,
        failed: played.failed.into_iter().map(|(_, failed)| failed).collect(),
        outputs: played
            .outputs
            .into_iter()
            .map(|(name, left)| Ok((name, all(left)?)))
            .collect::<Result<_, String>>()?,
        values: BTreeMap::new(),
    })
}

fn of_aggregate(gathered: Gathered) -> Result<Came, String> {
    let value = |(key, text): (Vec<u8>, String)| {
        let value =
            serde_json::from_str(&text).map_err(|e| format!("finish answered no JSON ({e}): {text}"))?;
        Ok((String::from_utf8_lossy(&key).into_owned(), value))
    };
    Ok(Came {
        failed: gathered.failed.into_iter().map(|(_, failed)| failed).collect(),
        values: gathered.values.into_iter().map(value).collect::<Result<_, String>>()?,
        ..Came::default()
    })
}

/// Which of its interfaces a case calls.
fn kind(plugin: &PluginRef, case: &Case) -> Result<Kind, String> {
    let kinds = plugin.info().kinds;
    let has = Kind::all(kinds);
    let exports = super::sandbox::kinds(kinds);
    match (case.kind, has.as_slice()) {
        (Some(kind), has) if has.contains(&kind) => Ok(kind),
        (Some(kind), _) => Err(format!("`kind: {kind:?}`, but the plugin exports {exports}").to_lowercase()),
        (None, [one]) => Ok(*one),
        (None, _) => Err(format!("the plugin exports {exports}: say which by `kind`")),
    }
}

/// The difference between what was expected and what came, both in one form.
fn compare(case: &Case, kind: Kind, came: &Came) -> Option<String> {
    let expected = &case.expected;
    let (mut want, mut got) = (Map::new(), Map::new());
    match &expected.messages {
        Some(messages) => {
            want.insert("expect".into(), messages.clone().into());
            got.insert("expect".into(), restricted(&came.messages, messages));
        }
        None if kind != Kind::Aggregate
            && !came.messages.is_empty()
            && case.input.len() == came.failed.len() =>
        {
            want.insert("expect".into(), json!([]));
            got.insert("expect".into(), came.messages.clone().into());
        }
        None => {}
    }
    let failed: Vec<Value> =
        expected.failed.iter().map(|f| json!({"id": f.id, "reason": f.reason})).collect();
    want.insert("failed".into(), failed.into());
    let failed = came.failed.iter().enumerate().map(|(i, f)| {
        // A reason that contains what was expected counts as equal to it.
        let right = expected.failed.get(i).filter(|e| e.id == f.id && f.reason.contains(&e.reason));
        json!({"id": f.id, "reason": right.map_or(&f.reason, |e| &e.reason)})
    });
    got.insert("failed".into(), failed.collect());
    for (name, messages) in &expected.outputs {
        want.insert(format!("output {name}"), messages.clone().into());
        let left = came.outputs.get(name).map(Vec::as_slice).unwrap_or_default();
        got.insert(format!("output {name}"), restricted(left, messages));
    }
    if let Some(values) = &expected.values {
        want.insert("values".into(), json!(values));
        got.insert("values".into(), json!(came.values));
    }
    (want != got).then(|| {
        let text = |map: Map<String, Value>| pretty(&Value::Object(map));
        diff(&text(want), &text(got), "expected", "came")
    })
}

/// The messages that came, each with the fields alone that are written of the expected one.
fn restricted(came: &[Value], expected: &[Value]) -> Value {
    let one = |(i, message): (usize, &Value)| match (message, expected.get(i)) {
        (Value::Object(fields), Some(Value::Object(written))) => {
            let fields = written.keys().filter_map(|k| Some((k.clone(), fields.get(k)?.clone())));
            Value::Object(fields.collect())
        }
        _ => message.clone(),
    };
    came.iter().enumerate().map(one).collect()
}

fn show(came: &Came) -> String {
    let failed: Vec<Value> = came.failed.iter().map(|f| json!({"id": f.id, "reason": f.reason})).collect();
    pretty(&json!({
        "expect": came.messages, "failed": failed, "outputs": came.outputs, "values": came.values,
    }))
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// Lines around a difference that are shown with it.
const CONTEXT_LINES: usize = 3;

fn diff(left: &str, right: &str, left_name: &str, right_name: &str) -> String {
    let (left, right) = (format!("{left}\n"), format!("{right}\n"));
    TextDiff::from_lines(left.as_str(), right.as_str())
        .unified_diff()
        .context_radius(CONTEXT_LINES)
        .header(left_name, right_name)
        .to_string()
}

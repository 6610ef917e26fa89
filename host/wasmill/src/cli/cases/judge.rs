//! Compares what came of a case with what was expected.

use serde_json::{Map, Value, json};
use similar::TextDiff;
use wasmill_engine::guest::PluginRef;
use wasmill_engine::stage::StageKind;

use super::format::{Case, Kind};
use super::play::{self, Played, Way};

/// Runs a case in every way that must give the same. Answers what is wrong; nothing where all is right.
pub fn judge(plugin: &PluginRef, case: &Case) -> Vec<String> {
    try_judge(plugin, case).unwrap_or_else(|wrong| vec![wrong])
}

fn try_judge(plugin: &PluginRef, case: &Case) -> Result<Vec<String>, String> {
    let kind = kind(plugin, case)?;
    let frame = play::frame(case)?;
    let run = |way: Way| match (kind, way) {
        (Kind::Aggregate, way) => play::aggregate(plugin, &frame, way),
        (Kind::Transform, Way::Batches(n)) => play::stage(plugin, StageKind::Transform, case, &frame, n),
        (_, Way::Batches(n)) => play::stage(plugin, StageKind::Filter, case, &frame, n),
        (_, Way::Merged | Way::Reverse) => Ok(Played::default()),
    };
    let played = run(Way::Batches(frame.len()))?;
    let mut wrong: Vec<String> = compare(case, kind, &played).into_iter().collect();
    let mut ways = vec![("message by message", Way::Batches(1))];
    if kind == Kind::Aggregate {
        ways.push(("in two halves that are merged", Way::Merged));
        if plugin.info().aggregate.as_ref().is_some_and(|a| a.commutative) {
            ways.push(("in reverse, though it calls itself commutative", Way::Reverse));
        }
    }
    for (name, way) in ways {
        let again = run(way)?;
        if again != played {
            let diff = diff(&show(&played), &show(&again), "as one batch", name);
            wrong.push(format!("run {name}, it answers something else than as one batch\n{diff}"));
        }
    }
    Ok(wrong)
}

fn kind(plugin: &PluginRef, case: &Case) -> Result<Kind, String> {
    let kinds = plugin.info().kinds;
    let has: Vec<Kind> = [
        (kinds.transform, Kind::Transform),
        (kinds.filter, Kind::Filter),
        (kinds.aggregate, Kind::Aggregate),
    ]
    .into_iter()
    .filter(|(has, _)| *has)
    .map(|(_, kind)| kind)
    .collect();
    let exports = super::sandbox::kinds(kinds);
    match (case.kind, has.as_slice()) {
        (Some(kind), has) if has.contains(&kind) => Ok(kind),
        (Some(kind), _) => Err(format!("`kind: {kind:?}`, but the plugin exports {exports}").to_lowercase()),
        (None, [one]) => Ok(*one),
        (None, _) => Err(format!("the plugin exports {exports}: say which by `kind`")),
    }
}

/// The difference between what was expected and what came, both in one form.
fn compare(case: &Case, kind: Kind, played: &Played) -> Option<String> {
    let expected = &case.expected;
    let (mut want, mut got) = (Map::new(), Map::new());
    match &expected.messages {
        Some(messages) => {
            want.insert("expect".into(), messages.clone().into());
            got.insert("expect".into(), restricted(&played.messages, messages));
        }
        None if kind != Kind::Aggregate
            && !played.messages.is_empty()
            && case.input.len() == played.failed.len() =>
        {
            want.insert("expect".into(), json!([]));
            got.insert("expect".into(), played.messages.clone().into());
        }
        None => {}
    }
    let failed: Vec<Value> =
        expected.failed.iter().map(|f| json!({"id": f.id, "reason": f.reason})).collect();
    want.insert("failed".into(), failed.into());
    let failed = played.failed.iter().enumerate().map(|(i, f)| {
        // A reason that contains what was expected counts as equal to it.
        let right = expected.failed.get(i).filter(|e| e.id == f.id && f.reason.contains(&e.reason));
        json!({"id": f.id, "reason": right.map_or(&f.reason, |e| &e.reason)})
    });
    got.insert("failed".into(), failed.collect());
    for (name, messages) in &expected.outputs {
        want.insert(format!("output {name}"), messages.clone().into());
        let came = played.outputs.get(name).map(Vec::as_slice).unwrap_or_default();
        got.insert(format!("output {name}"), restricted(came, messages));
    }
    if let Some(values) = &expected.values {
        want.insert("values".into(), json!(values));
        got.insert("values".into(), json!(played.values));
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

fn show(played: &Played) -> String {
    let failed: Vec<Value> = played.failed.iter().map(|f| json!({"id": f.id, "reason": f.reason})).collect();
    pretty(&json!({
        "expect": played.messages, "failed": failed, "outputs": played.outputs, "values": played.values,
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

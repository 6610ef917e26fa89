//! A pipeline's shape, which stored state depends on: what is in it, and what differs between two.
//!
//! A shape is JSON, made by [`crate::topology::Topology::shape`] and stored with each checkpoint.

use serde_json::Value;

/// A stage behind the key_by, as a shape has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageShape {
    /// Its name.
    pub name: String,
    /// What it is: `window`, `running` or `stage`.
    pub kind: String,
    /// Everything else that its state depends on.
    settings: Vec<(String, Value)>,
}

impl StageShape {
    /// The version of its accumulators: a plugin's number, or what built-ins keep.
    #[must_use]
    pub fn state_version(&self) -> Option<&Value> {
        self.setting("state_version").filter(|version| !version.is_null())
    }

    fn setting(&self, name: &str) -> Option<&Value> {
        self.settings.iter().find(|(n, _)| n == name).map(|(_, value)| value)
    }
}

/// The stages of a shape, in the order of their numbers in stored keys; none where it can't be read.
#[must_use]
pub fn stages(shape: &str) -> Vec<StageShape> {
    serde_json::from_str::<Value>(shape).map(|shape| stages_of(&shape)).unwrap_or_default()
}

/// The number of key groups of a shape.
#[must_use]
pub fn key_groups(shape: &str) -> Option<u16> {
    let shape: Value = serde_json::from_str(shape).ok()?;
    u16::try_from(shape.get("key_groups")?.as_u64()?).ok().filter(|groups| *groups > 0)
}

fn stages_of(shape: &Value) -> Vec<StageShape> {
    let list = shape.get("stages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let stage = |stage: &Value| {
        let fields = stage.as_object()?;
        // The first one names it, under what it is.
        let (kind, name) = fields.iter().next()?;
        let settings = fields.iter().skip(1).map(|(k, v)| (k.clone(), v.clone())).collect();
        Some(StageShape { name: name.as_str()?.to_owned(), kind: kind.clone(), settings })
    };
    list.iter().filter_map(stage).collect()
}

/// Whether a shape becomes another by `wasmill state rehash`: all but the number of key groups is the same.
#[must_use]
pub fn is_rehash(stored: &str, now: &str) -> bool {
    match (serde_json::from_str::<Value>(stored), serde_json::from_str::<Value>(now)) {
        (Ok(mut stored), Ok(now)) if key_groups_of(&stored) != key_groups_of(&now) => {
            let (Some(field), Some(groups)) = (stored.get_mut("key_groups"), now.get("key_groups")) else {
                return false;
            };
            *field = groups.clone();
            stored == now
        }
        _ => false,
    }
}

fn key_groups_of(shape: &Value) -> Option<u64> {
    shape.get("key_groups").and_then(Value::as_u64)
}

/// What differs between the shape of what is stored and today's, each as a clause.
#[must_use]
pub fn differences(stored: &str, now: &str) -> Vec<String> {
    let (Ok(stored), Ok(now)) = (serde_json::from_str::<Value>(stored), serde_json::from_str::<Value>(now))
    else {
        return vec![format!("the stored shape is {stored}, and today's is {now}")];
    };
    let mut found = Vec::new();
    for (field, what) in [
        ("sources", "the number of sources"),
        ("exchange", "the exchange"),
        ("key", "the key"),
        ("key_groups", "`key_groups`"),
    ] {
        let (then, today) = (stored.get(field), now.get(field));
        if then != today {
            found.push(format!("{what} is {}, and was {}", shown(today), shown(then)));
        }
    }
    found.extend(stage_differences(&stages_of(&stored), &stages_of(&now)));
    if found.is_empty() && stored != now {
        found.push(format!("the stored shape is {stored}, and today's is {now}"));
    }
    found
}

fn stage_differences(stored: &[StageShape], now: &[StageShape]) -> Vec<String> {
    let mut found = Vec::new();
    let has = |list: &[StageShape], name: &str| list.iter().any(|s| s.name == name);
    let mut renamed = Vec::new();
    if stored.len() == now.len() {
        for (then, today) in stored.iter().zip(now) {
            let same = (&then.kind, &then.settings) == (&today.kind, &today.settings);
            if same && !has(now, &then.name) && !has(stored, &today.name) {
                found.push(format!("the stage `{}` is called `{}` now", then.name, today.name));
                renamed.push((&then.name, &today.name));
            }
        }
    }
    for then in
        stored.iter().filter(|s| !has(now, &s.name) && !renamed.iter().any(|(old, _)| **old == s.name))
    {
        found.push(format!("the stage `{}` is gone", then.name));
    }
    for today in
        now.iter().filter(|s| !has(stored, &s.name) && !renamed.iter().any(|(_, new)| **new == s.name))
    {
        found.push(format!("the stage `{}` is new", today.name));
    }
    let name = |s: &StageShape| s.name.clone();
    let (then, today): (Vec<_>, Vec<_>) = (stored.iter().map(name).collect(), now.iter().map(name).collect());
    if found.is_empty() && then != today {
        found.push(format!(
            "the stages stand in the order {}, and stood in {}",
            today.join(", "),
            then.join(", ")
        ));
    }
    for (then, today) in
        stored.iter().filter_map(|then| Some((then, now.iter().find(|s| s.name == then.name)?)))
    {
        if then.kind != today.kind {
            found.push(format!(
                "the stage `{}` is {}, and was {}",
                then.name,
                kind(&today.kind),
                kind(&then.kind)
            ));
            continue;
        }
        let names = then.settings.iter().chain(&today.settings).map(|(name, _)| name.as_str());
        for setting in names.collect::<std::collections::BTreeSet<_>>() {
            let (old, new) = (then.setting(setting), today.setting(setting));
            if old != new {
                found.push(format!(
                    "of the stage `{}` {} is {}, and was {}",
                    then.name,
                    label(setting),
                    shown(new),
                    shown(old)
                ));
            }
        }
    }
    found
}

fn kind(word: &str) -> &str {
    match word {
        "window" => "a windowed aggregate",
        "running" => "a running aggregate",
        "stage" => "a transform or filter",
        other => other,
    }
}

fn label(setting: &str) -> String {
    match setting {
        "of" => "the window".to_owned(),
        "state_version" => "the state version".to_owned(),
        "state" => "whether the plugin keeps state".to_owned(),
        other => format!("`{other}`"),
    }
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "none".to_owned(),
        Some(Value::Object(measures)) => {
            let ms = |name: &str| measures.get(name).and_then(Value::as_i64);
            match (ms("size_ms"), ms("every_ms"), ms("at_messages_ms"), ms("gap_ms")) {
                (Some(size), Some(every), ..) if size == every => format!("tumbling, {size} ms"),
                (Some(size), Some(every), ..) => format!("sliding, {size} ms every {every} ms"),
                (_, _, Some(size), _) => format!("sliding with the messages, {size} ms"),
                (.., Some(gap)) => format!("a session with a gap of {gap} ms"),
                _ => Value::Object(measures.clone()).to_string(),
            }
        }
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => parts.iter().map(|p| shown(Some(p))).collect::<Vec<_>>().join(" with "),
        Some(other) => other.to_string(),
    }
}

/// Says why state of a shape can't be gone on from, and what to do.
#[must_use]
pub fn refusal(stored: &str, now: &str) -> String {
    let mut text = "the stored state belongs to another shape of this pipeline:".to_owned();
    for difference in differences(stored, now) {
        text.push_str("\n  - ");
        text.push_str(&difference);
    }
    text.push_str(if is_rehash(stored, now) {
        "\nRun `wasmill state rehash` to bring the state into this many key groups, or go back to the old number"
    } else {
        "\nGo back to what it was, or run `wasmill state reset` to forget state and positions"
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shape(key: Value, groups: u16, stages: Value) -> String {
        json!({"sources": 1, "exchange": "memory", "key": key, "key_groups": groups, "stages": stages})
            .to_string()
    }

    fn window(name: &str, size: i64) -> Value {
        json!({"window": name, "of": {"size_ms": size, "every_ms": size}, "state_version": 1})
    }

    fn stage(name: &str) -> Value {
        json!({"stage": name, "state": true})
    }

    /// What is told, from the stored shape to today's.
    #[track_caller]
    fn check(stored: &str, now: &str, told: &[&str], command: &str) {
        let text = refusal(stored, now);
        let mut lines: Vec<&str> = text.lines().collect();
        let last = lines.pop().expect("a command");
        let differences: Vec<&str> = lines[1..].iter().map(|l| l.trim_start_matches("  - ")).collect();
        assert_eq!(differences, told);
        assert!(last.contains(command), "{last}");
    }

    #[test]
    fn what_differs_is_named_with_the_command() {
        let key = json!(["payload.carrier"]);
        let old = shape(key.clone(), 128, json!([stage("seen"), window("delays", 60_000)]));
        let of = |stages: Value| shape(key.clone(), 128, stages);
        let reset = "`wasmill state reset`";
        check(&old, &of(json!([window("delays", 60_000)])), &["the stage `seen` is gone"], reset);
        check(
            &old,
            &of(json!([stage("seen"), stage("more"), window("delays", 60_000)])),
            &["the stage `more` is new"],
            reset,
        );
        check(
            &old,
            &of(json!([stage("known"), window("delays", 60_000)])),
            &["the stage `seen` is called `known` now"],
            reset,
        );
        check(
            &old,
            &of(json!([window("delays", 60_000), stage("seen")])),
            &["the stages stand in the order delays, seen, and stood in seen, delays"],
            reset,
        );
        check(
            &old,
            &of(json!([stage("seen"), window("delays", 3_600_000)])),
            &["of the stage `delays` the window is tumbling, 3600000 ms, and was tumbling, 60000 ms"],
            reset,
        );
        check(
            &old,
            &of(json!([stage("seen"), {"running": "delays", "state_version": 2}])),
            &["the stage `delays` is a running aggregate, and was a windowed aggregate"],
            reset,
        );
        check(
            &old,
            &of(
                json!([stage("seen"), {"window": "delays", "of": {"size_ms": 60_000, "every_ms": 60_000}, "state_version": 2}]),
            ),
            &["of the stage `delays` the state version is 2, and was 1"],
            reset,
        );
        check(
            &old,
            &of(
                json!([stage("seen"), {"window": "delays", "of": {"gap_ms": 5}, "emit": "update", "state_version": 1}]),
            ),
            &[
                "of the stage `delays` `emit` is update, and was none",
                "of the stage `delays` the window is a session with a gap of 5 ms, and was tumbling, 60000 ms",
            ],
            reset,
        );
        check(
            &old,
            &shape(json!(["type", "id"]), 64, json!([stage("seen"), window("delays", 60_000)])),
            &["the key is type with id, and was payload.carrier", "`key_groups` is 64, and was 128"],
            reset,
        );
        check(
            &old,
            &shape(key.clone(), 64, json!([stage("seen"), window("delays", 60_000)])),
            &["`key_groups` is 64, and was 128"],
            "`wasmill state rehash`",
        );
        check("not JSON", &old, &[&format!("the stored shape is not JSON, and today's is {old}")], reset);
    }

    #[test]
    fn only_another_number_of_key_groups_is_a_rehash() {
        let old = shape(json!(["type"]), 128, json!([window("w", 10)]));
        assert!(is_rehash(&old, &shape(json!(["type"]), 7, json!([window("w", 10)]))));
        assert!(!is_rehash(&old, &old));
        assert!(!is_rehash(&old, &shape(json!(["id"]), 7, json!([window("w", 10)]))));
        assert!(!is_rehash(&old, "{}"));
        assert_eq!(key_groups(&old), Some(128));
        assert_eq!(key_groups(&shape(json!(null), 0, json!([]))), None);
        let stages = stages(&old);
        assert_eq!((stages[0].name.as_str(), stages[0].state_version()), ("w", Some(&json!(1))));
    }
}

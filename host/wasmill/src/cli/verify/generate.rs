//! Messages of its own making, where nobody gives any: by the schema that the plugin declares of its input, else of
//! many shapes.

use serde_json::{Map, Value, json};

use super::random::Random;

/// How deep a made payload goes.
const DEPTH_MAX: usize = 6;
/// What the messages' types are drawn from.
const KINDS: [&str; 4] = ["created", "updated", "deleted", "ignored"];
/// When the first of them was: 2024-01-01.
const START_MS: u64 = 1_704_067_200_000;

/// So many messages.
pub fn messages(count: usize, schema: Option<&Value>, random: &mut Random) -> Vec<Value> {
    (0..count).map(|i| message(i, schema, random)).collect()
}

fn message(i: usize, schema: Option<&Value>, random: &mut Random) -> Value {
    let payload = match schema {
        // One in eight isn't what was declared: a plugin meets what comes.
        Some(schema) if random.below(8) > 0 => by_schema(schema, DEPTH_MAX, random),
        _ => any(random),
    };
    json!({
        "id": format!("m{i}"),
        "type": random.one_of(&KINDS),
        // Now and then out of order.
        "timestamp": START_MS + 1_000 * (i as u64) + random.draw() % 5_000,
        "payload": payload,
        "metadata": if random.below(4) == 0 { json!({ "n": random.below(3) }) } else { json!({}) },
    })
}

fn any(random: &mut Random) -> Value {
    match random.below(8) {
        0 => json!("text"),
        1 => json!(null),
        2 => json!([1, "two", null]),
        3 => json!({}),
        _ => json!({
            "n": random.below(10),
            "x": random.below(1_000) as f64 / 8.0,
            "key": format!("k{}", random.below(3)),
            "text": words(random),
            "flag": random.below(2) == 0,
        }),
    }
}

fn words(random: &mut Random) -> String {
    let some = ["", "a", "Ümlaut", "late \"quoted\"", "飛行機", "two words"];
    random.one_of(&some).map_or_else(String::new, |s| (*s).to_owned())
}

/// A value that a schema allows, as far as its types, properties, items, choices and bounds say; other words of
/// the schema are left out of account.
fn by_schema(schema: &Value, depth: usize, random: &mut Random) -> Value {
    if let Some(only) = schema.get("const") {
        return only.clone();
    }
    let list = |name: &str| schema.get(name).and_then(Value::as_array);
    if let Some(one) = list("enum").and_then(|some| random.one_of(some)) {
        return one.clone();
    }
    for choice in ["anyOf", "oneOf"] {
        if let Some(one) = list(choice).and_then(|some| random.one_of(some))
            && depth > 0
        {
            return by_schema(one, depth - 1, random);
        }
    }
    let kind = match schema.get("type") {
        Some(Value::Array(kinds)) => random.one_of(kinds).and_then(Value::as_str),
        Some(kind) => kind.as_str(),
        None if schema.get("properties").is_some() => Some("object"),
        None => None,
    };
    match kind {
        Some("object") if depth > 0 => object(schema, depth, random),
        Some("array") if depth > 0 => {
            let item = schema.get("items").unwrap_or(&Value::Null);
            (0..random.below(4)).map(|_| by_schema(item, depth - 1, random)).collect()
        }
        Some("object") => json!({}),
        Some("array") => json!([]),
        Some("integer") => {
            let (from, to) = bounds(schema);
            json!(from.ceil() as i64 + random.below((to.floor() - from.ceil()).max(0.0) as usize + 1) as i64)
        }
        Some("number") => {
            let (from, to) = bounds(schema);
            json!(from + (to - from) * (random.below(65) as f64 / 64.0))
        }
        Some("boolean") => json!(random.below(2) == 0),
        Some("null") => Value::Null,
        Some("string") => json!(words(random)),
        _ => any(random),
    }
}

fn object(schema: &Value, depth: usize, random: &mut Random) -> Value {
    let mut made = Map::new();
    let required = schema.get("required").and_then(Value::as_array);
    for (name, of) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let is_required = required.is_some_and(|r| r.iter().any(|n| n == name));
        if is_required || random.below(4) > 0 {
            made.insert(name.clone(), by_schema(of, depth - 1, random));
        }
    }
    Value::Object(made)
}

fn bounds(schema: &Value) -> (f64, f64) {
    let number = |name: &str| schema.get(name).and_then(Value::as_f64);
    let from = number("minimum").or_else(|| number("exclusiveMinimum").map(|n| n + 1.0));
    let to = number("maximum").or_else(|| number("exclusiveMaximum").map(|n| n - 1.0));
    match (from, to) {
        (Some(from), Some(to)) => (from, to.max(from)),
        (Some(from), None) => (from, from + 100.0),
        (None, Some(to)) => (to - 100.0, to),
        (None, None) => (-10.0, 90.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_s_properties_types_and_bounds_are_kept() {
        let schema = json!({
            "type": "object", "required": ["carrier", "delay"],
            "properties": {
                "carrier": { "enum": ["UA", "AA"] }, "delay": { "type": "integer", "minimum": -3, "maximum": 3 },
                "legs": { "type": "array", "items": { "type": ["string", "null"] } },
                "share": { "type": "number", "minimum": 0, "maximum": 1 }, "v": { "const": 7 },
            },
        });
        let mut random = Random::new(1);
        for _ in 0..200 {
            let made = by_schema(&schema, DEPTH_MAX, &mut random);
            assert!(["UA", "AA"].contains(&made["carrier"].as_str().expect("required")), "{made}");
            assert!((-3..=3).contains(&made["delay"].as_i64().expect("required")), "{made}");
            let legs = made.get("legs").map_or(&[][..], |l| l.as_array().expect("an array"));
            assert!(legs.iter().all(|l| l.is_null() || l.is_string()), "{made}");
            assert!(made.get("share").is_none_or(|s| (0.0..=1.0).contains(&s.as_f64().expect("a number"))));
            assert!(made.get("v").is_none_or(|v| v == 7), "{made}");
        }
        assert_eq!(messages(50, None, &mut Random::new(2)), messages(50, None, &mut Random::new(2)));
    }
}

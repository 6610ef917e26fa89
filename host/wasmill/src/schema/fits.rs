//! Whether all that one JSON Schema allows is what another takes, as far as the two say it.
//!
//! Looked at are `type`, `enum`, `const`, `properties`, `required`, `additionalProperties: false`, `items`, `anyOf`,
//! `oneOf` and `$ref` within the schema. What is said otherwise, or not at all, fits: a check must not cry wolf.

use serde_json::{Map, Value};

/// How deep schemas are followed.
const DEPTH_MAX: usize = 32;
/// How deep unions are within unions, and how many branches of one are looked at: a schema may refer to itself.
const BRANCH_DEPTH_MAX: usize = 4;
const BRANCHES_MAX: usize = 64;
/// How many differences are told.
const DIFFERENCES_MAX: usize = 8;
/// The kinds of JSON values.
const KINDS: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];

/// Where two schemas differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The field, as a path: `payload.delay`.
    pub path: String,
    /// What the one says of it.
    pub given: String,
    /// What the other takes.
    pub taken: String,
}

/// A schema, and the whole that its references are in.
#[derive(Clone, Copy)]
pub struct Schema<'a> {
    at: &'a Value,
    root: &'a Value,
}

impl<'a> Schema<'a> {
    /// A whole schema.
    #[must_use]
    pub fn new(root: &'a Value) -> Self {
        Self { at: root, root }
    }

    fn to(self, at: &'a Value) -> Self {
        Self { at, ..self }.followed()
    }

    /// What it refers to, within the whole.
    fn followed(self) -> Self {
        let mut at = self.at;
        for _ in 0..DEPTH_MAX {
            let Some(name) = at.get("$ref").and_then(Value::as_str) else { break };
            match name.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer)) {
                Some(there) => at = there,
                None => break,
            }
        }
        Self { at, ..self }
    }

    fn object(self, key: &str) -> Option<&'a Map<String, Value>> {
        self.at.get(key).and_then(Value::as_object)
    }

    /// The schemas of which one must hold; itself where it names none.
    fn branches(self) -> Vec<Self> {
        let mut branches = Vec::new();
        self.add_branches(0, &mut branches);
        branches
    }

    fn add_branches(self, depth: usize, to: &mut Vec<Self>) {
        let either = ["anyOf", "oneOf"].iter().find_map(|k| self.at.get(k).and_then(Value::as_array));
        match either {
            Some(branches) if !branches.is_empty() && depth < BRANCH_DEPTH_MAX => {
                for branch in branches.iter().take(BRANCHES_MAX.saturating_sub(to.len())) {
                    self.to(branch).add_branches(depth + 1, to);
                }
            }
            _ => to.push(self),
        }
    }

    /// The kinds of values that it allows; none where it doesn't say.
    fn kinds(self) -> Option<Vec<&'static str>> {
        let known = |name: &str| KINDS.into_iter().find(|k| *k == name);
        match self.at.get("type") {
            Some(Value::String(kind)) => Some(known(kind).into_iter().collect()),
            Some(Value::Array(kinds)) => {
                Some(kinds.iter().filter_map(Value::as_str).filter_map(known).collect())
            }
            _ => {
                let values = self.values()?;
                Some(KINDS.into_iter().filter(|k| values.iter().any(|v| kind_of(v) == *k)).collect())
            }
        }
    }

    /// The only values that it allows, where it lists them.
    fn values(self) -> Option<Vec<&'a Value>> {
        match (self.at.get("const"), self.at.get("enum").and_then(Value::as_array)) {
            (Some(value), _) => Some(vec![value]),
            (None, Some(values)) => Some(values.iter().collect()),
            (None, None) => None,
        }
    }

    fn requires(self, name: &str) -> bool {
        let required = self.at.get("required").and_then(Value::as_array);
        required.is_some_and(|names| names.iter().any(|n| n == name))
    }

    fn is_closed(self) -> bool {
        self.at.get("additionalProperties") == Some(&Value::Bool(false))
    }

    /// Whether it says anything of fields.
    fn tells_fields(self) -> bool {
        self.object("properties").is_some()
    }

    /// The schema of a field of the payload, or why there can be none: the name that is not there, and the names
    /// that are. None where it isn't known.
    ///
    /// # Errors
    /// The first name on the way that no field has.
    pub fn field(self, path: &[String]) -> Result<Option<Schema<'a>>, NoField> {
        let mut branches = self.followed().branches();
        for name in path {
            if name.bytes().all(|b| b.is_ascii_digit()) {
                // It may be an element of an array.
                return Ok(None);
            }
            let objects: Vec<_> = branches
                .iter()
                .filter(|b| b.kinds().is_none_or(|k| k.contains(&"object")))
                .copied()
                .collect();
            let found: Vec<_> = objects
                .iter()
                .filter_map(|o| Some(o.to(o.object("properties")?.get(name)?)))
                .flat_map(Schema::branches)
                .collect();
            if found.is_empty() {
                if objects.is_empty() || objects.iter().all(|o| o.tells_fields() && o.is_closed()) {
                    let names = objects.iter().filter_map(|o| o.object("properties")).flat_map(Map::keys);
                    return Err(NoField { name: name.clone(), names: names.cloned().collect() });
                }
                return Ok(None);
            }
            branches = found;
        }
        Ok(branches.first().copied())
    }

    /// The kinds of values that it allows, for people.
    #[must_use]
    pub fn told(self) -> String {
        let mut kinds: Vec<&str> = Vec::new();
        for branch in self.followed().branches() {
            match branch.kinds() {
                None => return "any value".to_owned(),
                Some(more) => more.into_iter().for_each(|k| {
                    if !kinds.contains(&k) {
                        kinds.push(k);
                    }
                }),
            }
        }
        match kinds.split_last() {
            None => "no value".to_owned(),
            Some((last, [])) => (*last).to_owned(),
            Some((last, others)) => format!("{} or {last}", others.join(", ")),
        }
    }
}

/// A field that can't be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoField {
    /// Its name.
    pub name: String,
    /// The names of the fields that are there.
    pub names: Vec<String>,
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_i64() || n.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Where `given` allows what `taken` doesn't take, at most some; nothing where it fits.
#[must_use]
pub fn differences(given: &Value, taken: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare(Schema::new(given).followed(), Schema::new(taken).followed(), "payload", 0, &mut found);
    found.truncate(DIFFERENCES_MAX);
    found
}

/// Notes a difference once: several branches of a union may have the same.
fn note(found: &mut Vec<Difference>, difference: Difference) {
    if !found.contains(&difference) {
        found.push(difference);
    }
}

fn compare(given: Schema<'_>, taken: Schema<'_>, path: &str, depth: usize, found: &mut Vec<Difference>) {
    if depth > DEPTH_MAX || found.len() >= DIFFERENCES_MAX {
        return;
    }
    let takers = taken.branches();
    for branch in given.branches() {
        if let [taker] = takers[..] {
            compare_one(branch, taker, path, depth, found);
            continue;
        }
        let fits = |taker: &Schema<'_>| {
            let mut differences = Vec::new();
            compare_one(branch, *taker, path, depth + 1, &mut differences);
            differences.is_empty()
        };
        if !takers.iter().any(fits) {
            note(found, Difference { path: path.to_owned(), given: branch.told(), taken: taken.told() });
        }
    }
}

fn compare_one(given: Schema<'_>, taken: Schema<'_>, path: &str, depth: usize, found: &mut Vec<Difference>) {
    let differ = |given: String, taken: String| Difference { path: path.to_owned(), given, taken };
    if let (Some(gives), Some(takes)) = (given.kinds(), taken.kinds()) {
        let is_taken = |kind: &str| takes.contains(&kind) || (kind == "integer" && takes.contains(&"number"));
        if !gives.iter().all(|kind| is_taken(kind)) {
            note(found, differ(given.told(), taken.told()));
            return;
        }
    }
    if let (Some(gives), Some(takes)) = (given.values(), taken.values())
        && let Some(value) = gives.iter().find(|v| !takes.contains(v))
    {
        let takes: Vec<String> = takes.iter().map(ToString::to_string).collect();
        note(found, differ(format!("{value}"), format!("one of {}", takes.join(", "))));
    }
    let nothing = Map::new();
    let (has, wants) = (given.object("properties"), taken.object("properties").unwrap_or(&nothing));
    if let Some(has) = has {
        for (name, field) in has {
            let path = format!("{path}.{name}");
            match wants.get(name) {
                Some(wanted) => compare(given.to(field), taken.to(wanted), &path, depth + 1, found),
                None if taken.is_closed() && taken.tells_fields() => {
                    let (given, taken) = (given.to(field).told(), "no such field".to_owned());
                    note(found, Difference { path, given, taken });
                }
                None => {}
            }
        }
        for (name, wanted) in wants.iter().filter(|(name, _)| taken.requires(name)) {
            let taken = taken.to(wanted).told();
            let path = format!("{path}.{name}");
            match has.get(name) {
                None if given.is_closed() => {
                    note(found, Difference { path, given: "no such field".to_owned(), taken });
                }
                Some(_) if !given.requires(name) => {
                    let given = "a field that may be missing".to_owned();
                    note(found, Difference { path, given, taken: format!("{taken}, required") });
                }
                _ => {}
            }
        }
    }
    if let (Some(gives), Some(takes)) = (given.at.get("items"), taken.at.get("items")) {
        compare(given.to(gives), taken.to(takes), &format!("{path}[]"), depth + 1, found);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(given: &Value, taken: &Value) -> Vec<String> {
        differences(given, taken).iter().map(|d| format!("{}: {} / {}", d.path, d.given, d.taken)).collect()
    }

    #[test]
    fn what_is_allowed_here_and_not_taken_there_is_told() {
        let flight = json!({
            "type": "object", "additionalProperties": false, "required": ["carrier", "delay"],
            "properties": {
                "carrier": { "type": "string" },
                "delay": { "type": ["integer", "null"] },
                "legs": { "type": "array", "items": { "$ref": "#/$defs/leg" } },
                "note": { "anyOf": [{ "type": "string" }, { "type": "null" }] },
            },
            "$defs": { "leg": { "type": "object", "properties": { "origin": { "enum": ["JFK", "EWR"] } } } },
        });
        let fits = |taken: &Value| told(&flight, taken);
        assert_eq!(fits(&json!({})), Vec::<String>::new());
        assert_eq!(fits(&flight), Vec::<String>::new());
        assert_eq!(fits(&json!({ "type": "string" })), ["payload: object / string"]);
        let number = json!({ "properties": { "delay": { "type": "number" } } });
        assert_eq!(fits(&number), ["payload.delay: integer or null / number"]);
        let wide = json!({ "properties": { "delay": { "type": ["number", "null"] } } });
        assert_eq!(fits(&wide), Vec::<String>::new());
        let more = json!({ "properties": { "tail": { "type": "string" }, "note": {} }, "required": ["tail", "note"] });
        assert_eq!(
            fits(&more),
            [
                "payload.tail: no such field / string",
                "payload.note: a field that may be missing / any value, required"
            ]
        );
        let closed = json!({ "additionalProperties": false, "properties": { "carrier": {}, "delay": {}, "legs": {} } });
        assert_eq!(fits(&closed), ["payload.note: string or null / no such field"]);
        let leg = json!({ "properties": { "legs": { "items": { "properties": { "origin": { "enum": ["JFK"] } } } } } });
        assert_eq!(fits(&leg), [r#"payload.legs[].origin: "EWR" / one of "JFK""#]);
        let note =
            json!({ "properties": { "note": { "anyOf": [{ "type": "integer" }, { "type": "string" }] } } });
        assert_eq!(fits(&note), ["payload.note: null / integer or string"]);
    }

    #[test]
    fn a_schema_that_refers_to_itself_ends() {
        let tree = json!({ "$ref": "#/$defs/t", "$defs": { "t": { "type": "object", "properties": { "l": { "$ref": "#/$defs/t" } } } } });
        assert_eq!(differences(&tree, &tree), []);
        let itself = json!({ "$ref": "#" });
        assert_eq!(differences(&itself, &tree), []);
        let unions = json!({ "anyOf": [{ "$ref": "#" }, { "$ref": "#" }, { "type": "string" }] });
        assert_eq!(differences(&unions, &tree).len(), 1);
    }

    #[test]
    fn a_field_is_found_by_its_path() {
        let schema = json!({ "type": "object", "additionalProperties": false, "properties": {
            "a": { "type": ["object", "null"], "properties": { "b": { "type": "integer" } } } } });
        let path = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
        let field = |text| Schema::new(&schema).field(&path(text)).map(|f| f.map(Schema::told));
        assert_eq!(field("a.b"), Ok(Some("integer".to_owned())));
        assert_eq!(field("a.c"), Ok(None), "it is open");
        assert_eq!(field("a.0"), Ok(None));
        assert_eq!(field("x"), Err(NoField { name: "x".into(), names: vec!["a".into()] }));
    }
}

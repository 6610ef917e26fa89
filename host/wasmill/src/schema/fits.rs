//! Whether all that one JSON Schema allows is what another takes, as far as the two say it.
//!
//! Looked at are `type`, `enum`, `const`, `properties`, `required`, `additionalProperties: false`, `items`, `anyOf`,
//! `oneOf` and `$ref` within the schema. What is said otherwise, or not at all, fits: a check must not cry wolf.

use std::collections::HashSet;
use std::ptr;

use serde_json::{Map, Value};

/// How deep schemas are followed.
const DEPTH_MAX: usize = 32;
/// The longest reference that is followed.
const REFERENCE_BYTES_MAX: usize = 4 << 10;
/// How many steps a comparison takes at most: one for each place, field and value that it looks at, and for each 64
/// bytes of the way there. Far above what people write; it bounds what unions of unions can ask for.
pub const STEPS_MAX: usize = 1_000_000;
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
            let pointer = name.strip_prefix('#').filter(|pointer| pointer.len() <= REFERENCE_BYTES_MAX);
            match pointer.and_then(|pointer| self.root.pointer(pointer)) {
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

    fn required(self) -> HashSet<&'a str> {
        let required = self.at.get("required").and_then(Value::as_array);
        required.into_iter().flatten().filter_map(Value::as_str).collect()
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
            // Branches may lead to the same place: each is looked at once, or they multiply with each name.
            let mut seen = HashSet::new();
            let found: Vec<_> = objects
                .iter()
                .filter_map(|o| Some(o.to(o.object("properties")?.get(name)?)))
                .filter(|field| seen.insert(ptr::from_ref(field.at)))
                .flat_map(Schema::branches)
                .collect();
            let mut seen = HashSet::new();
            let found: Vec<_> = found.into_iter().filter(|b| seen.insert(ptr::from_ref(b.at))).collect();
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

/// Two schemas were not compared to their end: they ask for more than [`STEPS_MAX`] steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("they can't be compared within {STEPS_MAX} steps")]
pub struct TooLong;

/// Where `given` allows what `taken` doesn't take, at most some; nothing where it fits. Two places that differ are told
/// once, by the first way that leads to them.
///
/// # Errors
/// When that isn't known in [`STEPS_MAX`] steps.
pub fn differences(given: &Value, taken: &Value) -> Result<Vec<Difference>, TooLong> {
    let mut comparison = Comparison::default();
    comparison.places(Schema::new(given).followed(), Schema::new(taken).followed(), Some("payload"), 0)?;
    comparison.found.truncate(DIFFERENCES_MAX);
    Ok(comparison.found)
}

/// A place of the one schema and one of the other: each is one in memory, however many ways lead there.
type Pair = (*const Value, *const Value);

/// A comparison, with what it knows already: schemas refer to themselves, and each pair of places is compared once
/// rather than once for each way to it, which may be 2 to the power of their depth.
///
/// A pair that is being compared counts as one that fits: what differs is found by it, where it is first met. Where it
/// turns out to differ, what was found to fit behind it is forgotten, for that may have relied on it.
#[derive(Default)]
struct Comparison {
    fitting: HashSet<Pair>,
    /// The same, in the order in which they were met.
    met: Vec<Pair>,
    differing: HashSet<Pair>,
    /// Those of them whose differences were told.
    told: HashSet<Pair>,
    found: Vec<Difference>,
    steps: usize,
}

impl Comparison {
    fn spend(&mut self, steps: usize) -> Result<(), TooLong> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps > STEPS_MAX { Err(TooLong) } else { Ok(()) }
    }

    /// Notes a difference once: several branches of a union may have the same.
    fn note(&mut self, path: String, given: String, taken: String) {
        let difference = Difference { path, given, taken };
        if !self.found.contains(&difference) {
            self.found.push(difference);
        }
    }

    /// Whether a place fits. What differs is told where there is a path; without one the first difference is enough.
    fn places(
        &mut self,
        given: Schema<'_>,
        taken: Schema<'_>,
        path: Option<&str>,
        depth: usize,
    ) -> Result<bool, TooLong> {
        if depth > DEPTH_MAX {
            return Ok(true);
        }
        if self.found.len() >= DIFFERENCES_MAX {
            return Ok(false);
        }
        self.spend(1 + path.map_or(0, str::len) / 64)?;
        let pair = (ptr::from_ref(given.at), ptr::from_ref(taken.at));
        let known = if path.is_some() { &self.told } else { &self.differing };
        if known.contains(&pair) {
            return Ok(false);
        }
        if !self.fitting.insert(pair) {
            return Ok(true);
        }
        let before = self.met.len();
        self.met.push(pair);
        let fits = self.branches(given, taken, path, depth)?;
        if !fits {
            for relied in self.met.drain(before..) {
                self.fitting.remove(&relied);
            }
            self.differing.insert(pair);
            if path.is_some() {
                self.told.insert(pair);
            }
        }
        Ok(fits)
    }

    fn branches(
        &mut self,
        given: Schema<'_>,
        taken: Schema<'_>,
        path: Option<&str>,
        depth: usize,
    ) -> Result<bool, TooLong> {
        let (givers, takers) = (given.branches(), taken.branches());
        self.spend(givers.len() + takers.len())?;
        let mut all_fit = true;
        for branch in givers {
            let fits = match takers[..] {
                [taker] => self.one(branch, taker, path, depth)?,
                _ => {
                    let mut fits = false;
                    for taker in &takers {
                        fits = fits || self.one(branch, *taker, None, depth + 1)?;
                    }
                    if let (false, Some(path)) = (fits, path) {
                        self.note(path.to_owned(), branch.told(), taken.told());
                    }
                    fits
                }
            };
            all_fit &= fits;
            if !all_fit && path.is_none() {
                return Ok(false);
            }
        }
        Ok(all_fit)
    }

    fn one(
        &mut self,
        given: Schema<'_>,
        taken: Schema<'_>,
        path: Option<&str>,
        depth: usize,
    ) -> Result<bool, TooLong> {
        self.spend(1)?;
        if let (Some(gives), Some(takes)) = (given.kinds(), taken.kinds()) {
            let is_taken =
                |kind: &str| takes.contains(&kind) || (kind == "integer" && takes.contains(&"number"));
            if !gives.iter().all(|kind| is_taken(kind)) {
                if let Some(path) = path {
                    self.note(path.to_owned(), given.told(), taken.told());
                }
                return Ok(false);
            }
        }
        let mut all_fit = self.values(given, taken, path)?;
        if all_fit || path.is_some() {
            all_fit &= self.fields(given, taken, path, depth)?;
        }
        if (all_fit || path.is_some())
            && let (Some(gives), Some(takes)) = (given.at.get("items"), taken.at.get("items"))
        {
            let path = path.map(|path| format!("{path}[]"));
            all_fit &= self.places(given.to(gives), taken.to(takes), path.as_deref(), depth + 1)?;
        }
        Ok(all_fit)
    }

    fn values(&mut self, given: Schema<'_>, taken: Schema<'_>, path: Option<&str>) -> Result<bool, TooLong> {
        let (Some(gives), Some(takes)) = (given.values(), taken.values()) else { return Ok(true) };
        self.spend(gives.len() + takes.len())?;
        let taken: HashSet<&Value> = takes.iter().copied().collect();
        let Some(value) = gives.into_iter().find(|v| !taken.contains(v)) else { return Ok(true) };
        if let Some(path) = path {
            let takes: Vec<String> = takes.iter().map(ToString::to_string).collect();
            self.note(path.to_owned(), value.to_string(), format!("one of {}", takes.join(", ")));
        }
        Ok(false)
    }

    fn fields(
        &mut self,
        given: Schema<'_>,
        taken: Schema<'_>,
        path: Option<&str>,
        depth: usize,
    ) -> Result<bool, TooLong> {
        let Some(has) = given.object("properties") else { return Ok(true) };
        let nothing = Map::new();
        let wants = taken.object("properties").unwrap_or(&nothing);
        let (gives, needs) = (given.required(), taken.required());
        let fields = has.len() + wants.len() + gives.len() + needs.len();
        self.spend(fields.saturating_mul(1 + path.map_or(0, str::len) / 64))?;
        let below = |name: &str| path.map(|path| format!("{path}.{name}"));
        let mut all_fit = true;
        for (name, field) in has {
            match wants.get(name) {
                Some(wanted) => {
                    let (given, taken) = (given.to(field), taken.to(wanted));
                    all_fit &= self.places(given, taken, below(name).as_deref(), depth + 1)?;
                }
                None if taken.is_closed() && taken.tells_fields() => {
                    all_fit = false;
                    if let Some(path) = below(name) {
                        self.note(path, given.to(field).told(), "no such field".to_owned());
                    }
                }
                None => {}
            }
            if !all_fit && path.is_none() {
                return Ok(false);
            }
        }
        for (name, wanted) in wants.iter().filter(|(name, _)| needs.contains(name.as_str())) {
            let is_missing = match has.get(name) {
                None => given.is_closed(),
                Some(_) => !gives.contains(name.as_str()),
            };
            if !is_missing {
                continue;
            }
            all_fit = false;
            let Some(path) = below(name) else { break };
            let taken = taken.to(wanted).told();
            match has.get(name) {
                None => self.note(path, "no such field".to_owned(), taken),
                Some(_) => {
                    self.note(path, "a field that may be missing".to_owned(), format!("{taken}, required"));
                }
            }
        }
        Ok(all_fit)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(given: &Value, taken: &Value) -> Vec<String> {
        differences(given, taken)
            .expect("few steps")
            .iter()
            .map(|d| format!("{}: {} / {}", d.path, d.given, d.taken))
            .collect()
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
        assert_eq!(differences(&tree, &tree), Ok(vec![]));
        let itself = json!({ "$ref": "#" });
        assert_eq!(differences(&itself, &tree), Ok(vec![]));
        let unions = json!({ "anyOf": [{ "$ref": "#" }, { "$ref": "#" }, { "type": "string" }] });
        assert_eq!(told(&unions, &tree).len(), 1);
    }

    /// Red is a test that doesn't end: three fields of one's own kind were 3^32 comparisons, an honest tree 2^32.
    #[test]
    fn each_pair_of_places_is_compared_once() {
        let three =
            json!({ "properties": { "a": { "$ref": "#" }, "b": { "$ref": "#" }, "c": { "$ref": "#" } } });
        assert_eq!(told(&three, &three), Vec::<String>::new());
        let tree = |leaf: &str| {
            json!({ "$ref": "#/$defs/node", "$defs": { "node": { "type": "object", "properties": {
                "left": { "$ref": "#/$defs/node" }, "right": { "$ref": "#/$defs/node" }, "value": { "type": leaf } } } } })
        };
        assert_eq!(told(&tree("integer"), &tree("number")), Vec::<String>::new());
        assert_eq!(told(&tree("string"), &tree("number")), ["payload.value: string / number"]);
        let either = |leaf: &str| {
            json!({ "anyOf": [{ "type": "null" }, { "type": "object", "properties": {
                "left": { "$ref": "#" }, "right": { "$ref": "#" }, "value": { "type": leaf } } }] })
        };
        assert_eq!(told(&either("integer"), &either("number")), Vec::<String>::new());
        assert_eq!(told(&either("string"), &either("number")), ["payload: object / null or object"]);
        // A chain in which each has the next one twice, and a difference at its end.
        let chain = |leaf: &str| {
            let link = |i: usize| {
                let next = json!({ "$ref": format!("#/$defs/{}", i + 1) });
                (i.to_string(), json!({ "properties": { "l": next, "r": next } }))
            };
            let mut defs: Map<String, Value> = (0..28).map(link).collect();
            defs.insert("28".to_owned(), json!({ "type": leaf }));
            json!({ "$ref": "#/$defs/0", "$defs": defs })
        };
        let way = ".l".repeat(28);
        assert_eq!(told(&chain("string"), &chain("number")), [format!("payload{way}: string / number")]);
    }

    #[test]
    fn what_was_found_to_fit_by_something_that_differs_is_forgotten() {
        // `a` of the first taker would have its own `b` fit if it fitted itself, which it doesn't, for `z`. Then `b` alone
        // is asked for.
        let given = json!({ "$defs": {
                "a": { "type": "object", "properties": { "b": { "$ref": "#/$defs/b" }, "z": { "type": "string" } } },
                "b": { "type": "object", "properties": { "a": { "$ref": "#/$defs/a" } } } },
            "properties": { "x": { "$ref": "#/$defs/a" }, "y": { "$ref": "#/$defs/b" } } });
        let taken = json!({ "$defs": {
                "a": { "type": "object", "properties": { "b": { "$ref": "#/$defs/b" }, "z": { "type": "null" } } },
                "b": { "type": "object", "properties": { "a": { "$ref": "#/$defs/a" } } } },
            "properties": {
                "x": { "anyOf": [{ "$ref": "#/$defs/a" }, { "type": "object" }] },
                "y": { "$ref": "#/$defs/b" } } });
        assert_eq!(told(&given, &taken), ["payload.y.a.z: string / null"]);
    }

    #[test]
    fn what_takes_too_many_steps_is_not_compared_to_its_end() {
        let wide = |leaf: &str| {
            let mut fields: Map<String, Value> = (0..400).map(|i| (format!("f{i}"), json!({}))).collect();
            fields.insert("last".to_owned(), json!({ "type": leaf }));
            let branches: Vec<Value> =
                (0..60).map(|_| json!({ "type": "object", "properties": fields })).collect();
            json!({ "anyOf": branches })
        };
        assert_eq!(differences(&wide("string"), &wide("number")), Err(TooLong));
    }

    #[test]
    fn values_and_names_are_looked_up_rather_than_looked_through() {
        let many = json!({ "enum": (0..200_000).collect::<Vec<_>>() });
        assert_eq!(told(&many, &many), Vec::<String>::new());
    }

    #[test]
    fn a_path_through_unions_of_one_place_has_one_branch() {
        let schema = json!({ "properties": { "a": { "anyOf": (0..60).map(|_| json!({ "$ref": "#" })).collect::<Vec<_>>() } } });
        let path = vec!["a".to_owned(); 12];
        assert!(Schema::new(&schema).field(&path).is_ok());
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

//! How what was written by one schema is read by another, worked out once: what stands on the wire step by step,
//! and what it becomes. A schema is read by itself in the same way.

use std::collections::HashMap;
use std::sync::Arc;

use super::logical::Whole;
use super::read::read;
use super::schema::{Binary, Enum, Node, NodeId, Record, Schema};

/// How many pairs of types two schemas may have that must be compared: each of one's with each of the other's in
/// the worst case.
const STEPS_MAX: usize = 200_000;
/// How many types may stand in one another.
const DEPTH_MAX: usize = 256;

/// Where a step stands in [`Plan::steps`].
pub(super) type StepId = usize;

/// What stands on the wire, and what it becomes.
#[derive(Debug)]
pub(super) struct Plan {
    pub steps: Vec<Step>,
    pub root: StepId,
    /// The type of its messages, where nothing else tells it.
    pub kind: String,
}

#[derive(Debug)]
pub(super) enum Step {
    Null,
    Boolean,
    Int(To),
    Long(To),
    Float {
        as_double: bool,
    },
    Double,
    Bytes(Binary),
    /// Bytes that are read as a string.
    BytesAsText,
    Text,
    /// A string that is read as bytes.
    TextAsBytes(Binary),
    Fixed {
        size: usize,
        says: Binary,
    },
    Array(StepId),
    Map(StepId),
    Union(Vec<StepId>),
    /// What each symbol becomes, as JSON.
    Enum(Vec<Result<Box<[u8]>, String>>),
    Record(Fields),
    /// Two types that don't go together: what reaches here is refused.
    Wrong(String),
}

/// What a whole number becomes.
#[derive(Debug, Clone, Copy)]
pub(super) enum To {
    Whole(Whole),
    Float,
    Double,
}

#[derive(Debug)]
pub(super) struct Fields {
    pub fields: Vec<FieldStep>,
    /// Members for the fields that the reader alone has, as JSON, each with a comma before it.
    pub defaults: Box<[u8]>,
}

#[derive(Debug)]
pub(super) struct FieldStep {
    pub name: Box<str>,
    /// `"name":`; none where the reader doesn't have it.
    pub label: Option<Box<[u8]>>,
    pub step: StepId,
}

impl Plan {
    /// What was written by `writer`, read by itself.
    pub fn of(writer: &Schema) -> Result<Self, String> {
        Self::resolved(writer, writer)
    }

    /// What was written by `writer`, read as `reader`'s.
    ///
    /// # Errors
    /// That the two have too many types to compare. Types that don't go together are told by the messages that
    /// have them.
    pub fn resolved(writer: &Schema, reader: &Schema) -> Result<Self, String> {
        let mut planner = Planner::new(writer, reader);
        let root = planner.step(writer.root, reader.root)?;
        Ok(Self { steps: planner.steps, root, kind: reader.kind().to_owned() })
    }
}

struct Planner<'a> {
    writer: &'a Schema,
    reader: &'a Schema,
    steps: Vec<Step>,
    known: HashMap<(NodeId, NodeId), StepId>,
    /// The same of the writer's types that are passed over.
    passed: HashMap<(NodeId, NodeId), StepId>,
    depth: usize,
}

impl<'a> Planner<'a> {
    fn new(writer: &'a Schema, reader: &'a Schema) -> Self {
        Self { writer, reader, steps: Vec::new(), known: HashMap::new(), passed: HashMap::new(), depth: 0 }
    }

    fn same(&self) -> bool {
        std::ptr::eq(self.writer, self.reader)
    }

    fn step(&mut self, w: NodeId, r: NodeId) -> Result<StepId, String> {
        if let Some(step) = self.known.get(&(w, r)) {
            return Ok(*step);
        }
        if self.steps.len() >= STEPS_MAX {
            return Err(format!("the two schemas have more than {STEPS_MAX} pairs of types to compare"));
        }
        if self.depth >= DEPTH_MAX {
            return Err(format!("the schema's types stand more than {DEPTH_MAX} deep in one another"));
        }
        let id = self.steps.len();
        self.steps.push(Step::Null);
        self.known.insert((w, r), id);
        self.depth += 1;
        self.steps[id] = self.pair(w, r)?;
        self.depth -= 1;
        Ok(id)
    }

    fn pair(&mut self, w: NodeId, r: NodeId) -> Result<Step, String> {
        let (writer, reader) = (self.writer, self.reader);
        if let Node::Union(branches) = &writer.nodes[w] {
            let mut steps = Vec::with_capacity(branches.len());
            for branch in branches {
                steps.push(if self.same() { self.step(*branch, *branch)? } else { self.step(*branch, r)? });
            }
            return Ok(Step::Union(steps));
        }
        if let Node::Union(branches) = &reader.nodes[r] {
            let found = (branches.iter().find(|b| self.goes(w, **b, true)))
                .or_else(|| branches.iter().find(|b| self.goes(w, **b, false)));
            return match found {
                Some(branch) => self.pair(w, *branch),
                None => Ok(self.wrong(w, r)),
            };
        }
        if !self.goes(w, r, false) {
            return Ok(self.wrong(w, r));
        }
        Ok(match (&writer.nodes[w], &reader.nodes[r]) {
            (Node::Null, _) => Step::Null,
            (Node::Boolean, _) => Step::Boolean,
            (Node::Int(from), Node::Int(to) | Node::Long(to)) => self.whole(*from, *to, Step::Int),
            (Node::Long(from), Node::Long(to)) => self.whole(*from, *to, Step::Long),
            (Node::Int(_), Node::Float) => Step::Int(To::Float),
            (Node::Int(_), _) => Step::Int(To::Double),
            (Node::Long(_), Node::Float) => Step::Long(To::Float),
            (Node::Long(_), _) => Step::Long(To::Double),
            (Node::Float, to) => Step::Float { as_double: matches!(to, Node::Double) },
            (Node::Double, _) => Step::Double,
            (Node::Bytes(from), Node::Bytes(to)) => match binary(*from, *to) {
                Ok(says) => Step::Bytes(says),
                Err(why) => Step::Wrong(why),
            },
            (Node::Bytes(_), _) => Step::BytesAsText,
            (Node::String { .. }, Node::Bytes(to)) => Step::TextAsBytes(*to),
            (Node::String { .. }, _) => Step::Text,
            (Node::Fixed(from), Node::Fixed(to)) => match binary(from.says, to.says) {
                Ok(says) => Step::Fixed { size: from.size, says },
                Err(why) => Step::Wrong(why),
            },
            (Node::Array(from), Node::Array(to)) => Step::Array(self.step(*from, *to)?),
            (Node::Map(from), Node::Map(to)) => Step::Map(self.step(*from, *to)?),
            (Node::Enum(from), Node::Enum(to)) => symbols(from, to),
            (Node::Record(from), Node::Record(to)) => self.record(from, to)?,
            _ => self.wrong(w, r),
        })
    }

    fn wrong(&self, w: NodeId, r: NodeId) -> Step {
        Step::Wrong(format!(
            "written as {}, which the reader's schema can't read as {}",
            self.writer.describe(w),
            self.reader.describe(r)
        ))
    }

    /// Whether a type can be read as the other; `exactly`: without promotion.
    fn goes(&self, w: NodeId, r: NodeId, exactly: bool) -> bool {
        match (&self.writer.nodes[w], &self.reader.nodes[r]) {
            (Node::Null, Node::Null)
            | (Node::Boolean, Node::Boolean)
            | (Node::Int(_), Node::Int(_))
            | (Node::Long(_), Node::Long(_))
            | (Node::Float, Node::Float)
            | (Node::Double, Node::Double)
            | (Node::Bytes(_), Node::Bytes(_))
            | (Node::String { .. }, Node::String { .. })
            | (Node::Array(_), Node::Array(_))
            | (Node::Map(_), Node::Map(_)) => true,
            (Node::Int(_), Node::Long(_) | Node::Float | Node::Double)
            | (Node::Long(_), Node::Float | Node::Double)
            | (Node::Float, Node::Double)
            | (Node::Bytes(_), Node::String { .. })
            | (Node::String { .. }, Node::Bytes(_)) => !exactly,
            (Node::Record(from), Node::Record(to)) => takes(exactly, &to.name, &from.name),
            (Node::Enum(from), Node::Enum(to)) => takes(exactly, &to.name, &from.name),
            (Node::Fixed(from), Node::Fixed(to)) => {
                from.size == to.size && takes(exactly, &to.name, &from.name)
            }
            _ => false,
        }
    }

    fn whole(&self, from: Whole, to: Whole, step: fn(To) -> Step) -> Step {
        // One unit read as another would be another time: a number that says nothing may be read as anything.
        if from == to || from == Whole::Number || to == Whole::Number {
            return step(To::Whole(to));
        }
        Step::Wrong(format!(
            "written as {}, which the reader's schema can't read as {}",
            from.name(),
            to.name()
        ))
    }

    fn record(&mut self, from: &Record, to: &Record) -> Result<Step, String> {
        let mut taken = vec![false; to.fields.len()];
        let mut by_alias = HashMap::new();
        for (at, field) in to.fields.iter().enumerate() {
            for alias in &field.aliases {
                by_alias.entry(alias.as_str()).or_insert(at);
            }
        }
        let mut fields = Vec::with_capacity(from.fields.len());
        for field in &from.fields {
            let by_name = to.by_name.get(&field.name).copied();
            let found =
                by_name.or_else(|| by_alias.get(field.name.as_str()).copied().filter(|at| !taken[*at]));
            let (label, step) = match found {
                Some(at) => {
                    taken[at] = true;
                    let to = &to.fields[at];
                    (Some(label(&to.name)), self.step(field.node, to.node)?)
                }
                // What is passed over is still read, for its length.
                None => (None, self.passed_over(field.node)?),
            };
            fields.push(FieldStep { name: field.name.as_str().into(), label, step });
        }
        let mut defaults = Vec::new();
        for (field, _) in to.fields.iter().zip(&taken).filter(|(_, taken)| !**taken) {
            let bytes = match &field.default_bytes {
                Some(Ok(bytes)) => bytes,
                Some(Err(why)) => return Ok(Step::Wrong(format!("the field `{}`: {why}", field.name))),
                None => {
                    return Ok(Step::Wrong(format!(
                        "the writer's schema lacks the field `{}` of the reader's record {}, which has no default for it",
                        field.name, to.name.full
                    )));
                }
            };
            defaults.push(b',');
            defaults.extend_from_slice(&label(&field.name));
            default_json(self.reader, field.node, bytes, &mut defaults)?;
        }
        Ok(Step::Record(Fields { fields, defaults: defaults.into() }))
    }

    fn passed_over(&mut self, node: NodeId) -> Result<StepId, String> {
        let mut own = Planner {
            steps: std::mem::take(&mut self.steps),
            known: std::mem::take(&mut self.passed),
            depth: self.depth,
            ..Planner::new(self.writer, self.writer)
        };
        let step = own.step(node, node);
        (self.steps, self.passed) = (own.steps, own.known);
        step
    }
}

fn takes(exactly: bool, to: &super::schema::Name, from: &super::schema::Name) -> bool {
    if exactly { to.full == from.full } else { to.takes(from) }
}

fn binary(from: Binary, to: Binary) -> Result<Binary, String> {
    match (from, to) {
        (Binary::Decimal { scale: a, .. }, Binary::Decimal { scale: b, .. }) if a != b => Err(format!(
            "written as a decimal with {a} digits behind the point, which the reader's schema can't read as one with {b}"
        )),
        _ => Ok(to),
    }
}

fn symbols(from: &Enum, to: &Enum) -> Step {
    let default = to.default.map(|at| &to.symbols[at]);
    Step::Enum(
        from.symbols
            .iter()
            .map(|symbol| match to.by_symbol.get(symbol).map(|_| symbol).or(default) {
                Some(symbol) => Ok(quoted(symbol)),
                None => Err(format!(
                    "the symbol `{symbol}` is none of the reader's enum {}, which has no default",
                    to.name.full
                )),
            })
            .collect(),
    )
}

fn quoted(text: &str) -> Box<[u8]> {
    let mut out = Vec::new();
    super::read::text(text, &mut out);
    out.into()
}

fn label(name: &str) -> Box<[u8]> {
    let mut out = Vec::from(quoted(name));
    out.push(b':');
    out.into()
}

/// Adds a default, which is on the wire, as JSON.
fn default_json(schema: &Schema, node: NodeId, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let mut planner = Planner::new(schema, schema);
    let root = planner.step(node, node)?;
    let plan = Plan { steps: planner.steps, root, kind: String::new() };
    read(&plan, bytes, out)
}

/// A plan, or why there is none.
pub(super) type Planned = Arc<Result<Plan, String>>;

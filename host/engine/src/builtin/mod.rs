//! Built-in aggregates: native, one or several over the same messages.
//!
//! Each is commutative and mergeable: an accumulator depends on which messages were folded, not on their
//! order, nor on which were folded apart and merged. What a message holds is read in one pass for all of
//! them, and accumulators are changed where they stand.

mod definition;
mod distinct;
mod exact;
mod extreme;
mod hyperloglog;
mod number;
mod place;
mod section;
mod sketch;
mod sum;
mod value;

use std::ops::Range;

use crate::batch::Batch;
use crate::stage::Origins;

pub use definition::{BuiltIn, Kind};
pub use distinct::VALUES_MAX_DEFAULT;

use definition::Needs;
use place::Place;
use value::{Places, Value};

/// The version of the accumulators' layout: part of the pipeline's shape, and the first byte of each.
const VERSION: u8 = 1;

/// The results that a stage computes together.
#[derive(Debug, Clone)]
pub struct BuiltIns {
    /// With their names; one alone may have none.
    results: Vec<(Option<String>, BuiltIn)>,
    places: Places,
    /// Which place each result reads, if any.
    reads: Vec<Option<usize>>,
    initial: Vec<u8>,
}

impl BuiltIns {
    /// One result: the stage's value is its value.
    ///
    /// # Errors
    /// When a setting is out of its range.
    pub fn bare(built_in: BuiltIn) -> Result<Self, String> {
        Self::new(vec![(None, built_in)])
    }

    /// Several results: the stage's value is an object of their names and values.
    ///
    /// # Errors
    /// When there is none, a name stands twice, or a setting is out of its range.
    pub fn named(results: Vec<(String, BuiltIn)>) -> Result<Self, String> {
        if results.is_empty() {
            return Err("no result is asked for".to_owned());
        }
        for (i, (name, _)) in results.iter().enumerate() {
            if results[..i].iter().any(|(other, _)| other == name) {
                return Err(format!("two results are named `{name}`"));
            }
        }
        Self::new(results.into_iter().map(|(name, built_in)| (Some(name), built_in)).collect())
    }

    fn new(results: Vec<(Option<String>, BuiltIn)>) -> Result<Self, String> {
        let mut places = Places::default();
        let mut reads = Vec::with_capacity(results.len());
        let mut initial = vec![VERSION];
        for (_, built_in) in &results {
            built_in.check()?;
            reads.push(built_in.of().map(|path| places.add(path)));
            built_in.kind().empty(&mut initial);
        }
        Ok(Self { results, places, reads, initial })
    }

    /// Each result in words.
    #[must_use]
    pub fn told(&self) -> Vec<String> {
        let told = |(name, built_in): &(Option<String>, BuiltIn)| match name {
            Some(name) => format!("{name}: {built_in}"),
            None => built_in.to_string(),
        };
        self.results.iter().map(told).collect()
    }

    /// What is computed, as stored state depends on it.
    #[must_use]
    pub fn shape(&self) -> String {
        format!("built-in {VERSION}: {}", self.told().join("; "))
    }

    /// The accumulator of no messages.
    #[must_use]
    pub fn initial(&self) -> &[u8] {
        &self.initial
    }

    /// Folds messages, each into one accumulator: its place in the batch and the accumulator's among these.
    /// Tells each message that can't be folded, with the reason: it counts for no result.
    ///
    /// # Errors
    /// When an accumulator is damaged.
    pub fn fold(
        &self,
        batch: &Batch,
        origins: Origins<'_>,
        items: &[(usize, usize)],
        accumulators: &mut [Vec<u8>],
        mut refuse: impl FnMut(usize, String),
    ) -> Result<(), String> {
        let asks_for_places = self.results.iter().any(|(_, b)| b.kind().depends_on_places());
        let places = if asks_for_places { Place::all(batch, origins) } else { Vec::new() };
        let nowhere = Place::default();
        let view = batch.frame.view();
        let (mut raw, mut values) = (Vec::new(), Vec::new());
        for &(index, accumulator) in items {
            let read = self.places.read(view.get(index), &mut raw, &mut values);
            if let Err(reason) = read.and_then(|()| self.check(&values)) {
                refuse(index, reason);
                continue;
            }
            let bytes = &mut accumulators[accumulator];
            self.fold_one(bytes, &values, places.get(index).unwrap_or(&nowhere))?;
        }
        Ok(())
    }

    fn fold_one(&self, bytes: &mut Vec<u8>, values: &[Value<'_>], place: &Place) -> Result<(), String> {
        let mut at = self.begin(bytes)?;
        for ((_, built_in), reads) in self.results.iter().zip(&self.reads) {
            let kind = built_in.kind();
            kind.end(bytes, at).ok_or(DAMAGED)?;
            match reads.map(|number| &values[number]) {
                Some(value) if value.is_null() => {}
                value => kind.fold(bytes, at, value.unwrap_or(&Value::Null), place),
            }
            at = kind.end(bytes, at).ok_or(DAMAGED)?;
        }
        Ok(())
    }

    /// Whether every result can take what a message holds.
    fn check(&self, values: &[Value<'_>]) -> Result<(), String> {
        for ((_, built_in), reads) in self.results.iter().zip(&self.reads) {
            let Some(number) = reads else { continue };
            let value = &values[*number];
            let kind = built_in.kind();
            let needed = match (kind.needs(), value) {
                (_, Value::Null) | (Needs::Anything, _) => continue,
                (Needs::Number, Value::Literal(Some(_), _)) => continue,
                (Needs::Scalar, Value::Literal(..) | Value::Text(_)) => continue,
                (Needs::Number, _) => "a number",
                (Needs::Scalar, _) => "a number, a text, true or false",
            };
            return Err(format!(
                "`{}` is {}; `{}` needs {needed}",
                self.places.path(*number),
                value.told(),
                kind.name()
            ));
        }
        Ok(())
    }

    /// Merges two accumulators.
    ///
    /// # Errors
    /// When one of them is damaged.
    pub fn merge(&self, left: &[u8], right: &[u8]) -> Result<Vec<u8>, String> {
        let (left_sections, right_sections) = (self.sections(left)?, self.sections(right)?);
        let mut merged = vec![VERSION];
        for ((_, built_in), (l, r)) in self.results.iter().zip(left_sections.into_iter().zip(right_sections))
        {
            built_in.kind().merge(&left[l], &right[r], &mut merged);
        }
        Ok(merged)
    }

    /// The value of an accumulator as JSON.
    ///
    /// # Errors
    /// When a result has no value: too many different values, or a sum beyond a double. The outer error: the
    /// accumulator is damaged.
    pub fn finish(&self, accumulator: &[u8]) -> Result<Result<Vec<u8>, String>, String> {
        let mut json = Vec::new();
        for (i, ((name, built_in), section)) in
            self.results.iter().zip(self.sections(accumulator)?).enumerate()
        {
            if let Some(name) = name {
                json.push(if i == 0 { b'{' } else { b',' });
                json.extend_from_slice(serde_json::Value::from(name.as_str()).to_string().as_bytes());
                json.push(b':');
            }
            if let Err(reason) = built_in.kind().finish(&accumulator[section], &mut json) {
                let result = name.as_deref().unwrap_or(built_in.kind().name());
                return Ok(Err(format!("the result `{result}`: {reason}")));
            }
            if name.is_some() && i + 1 == self.results.len() {
                json.push(b'}');
            }
        }
        Ok(Ok(json))
    }

    /// Where the sections of an accumulator are.
    fn sections(&self, bytes: &[u8]) -> Result<Vec<Range<usize>>, String> {
        let mut at = self.begin(bytes)?;
        let mut sections = Vec::with_capacity(self.results.len());
        for (_, built_in) in &self.results {
            let end = built_in.kind().end(bytes, at).ok_or(DAMAGED)?;
            sections.push(at..end);
            at = end;
        }
        if at == bytes.len() { Ok(sections) } else { Err(DAMAGED.to_owned()) }
    }

    fn begin(&self, bytes: &[u8]) -> Result<usize, String> {
        match bytes.first() {
            Some(&VERSION) => Ok(1),
            Some(version) => Err(format!("an accumulator of version {version}, not {VERSION}")),
            None => Err(DAMAGED.to_owned()),
        }
    }
}

const DAMAGED: &str = "an accumulator does not have the form that it was written in";

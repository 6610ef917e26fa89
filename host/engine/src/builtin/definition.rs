//! The built-ins by name: what each reads, needs and keeps.

use super::extreme::{self, Best};
use super::place::Place;
use super::value::Value;
use super::{distinct, hyperloglog, section, sketch, sum};
use crate::key::Path;

/// The most entries of a `top_k`.
const K_MAX: u32 = 1_000;
/// The most quantiles of one sketch.
const QUANTILES_MAX: usize = 100;

/// A built-in and the place that it reads.
#[derive(Debug, Clone, PartialEq)]
pub struct BuiltIn {
    kind: Kind,
    of: Option<Path>,
}

/// What a built-in computes.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// How many messages; with a place, how many of them have something there.
    Count,
    /// The exact sum, rounded once.
    Sum,
    /// The exact sum divided by the count, rounded once.
    Avg,
    /// The least number.
    Min,
    /// The greatest number.
    Max,
    /// The value of the earliest message.
    First,
    /// The value of the latest message.
    Last,
    /// The greatest numbers, the greatest first.
    TopK {
        /// How many, 1 to 1,000.
        k: u32,
    },
    /// How many different values.
    Distinct {
        /// More of them than this, 1 to 100,000, have no result.
        values_max: u32,
    },
    /// How many different values, by HyperLogLog.
    DistinctApproximate,
    /// Quantiles, by DDSketch.
    Quantiles {
        /// Which, each from 0 to 1.
        at: Vec<f64>,
    },
}

/// What a built-in needs at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    Anything,
    Number,
    /// No object and no array.
    Scalar,
}

impl BuiltIn {
    /// Every built-in's name.
    pub const NAMES: [&str; 10] =
        ["count", "sum", "min", "max", "avg", "first", "last", "top_k", "distinct", "quantiles"];

    /// A built-in over what stands at a place; `count` alone needs none.
    #[must_use]
    pub fn new(kind: Kind, of: Option<Path>) -> Self {
        Self { kind, of }
    }

    /// What it computes.
    #[must_use]
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The place that it reads.
    #[must_use]
    pub fn of(&self) -> Option<&Path> {
        self.of.as_ref()
    }

    /// Whether its settings are in their ranges.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.of.is_none() && self.kind != Kind::Count {
            return Err(format!("`{}` needs a place to read", self.kind.name()));
        }
        self.kind.check()
    }
}

impl std::fmt::Display for BuiltIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind.name())?;
        if let Some(of) = &self.of {
            write!(f, " of {of}")?;
        }
        match &self.kind {
            Kind::TopK { k } => write!(f, ", k {k}"),
            Kind::Distinct { values_max } => write!(f, ", at most {values_max} values"),
            Kind::DistinctApproximate => f.write_str(", approximate"),
            _ => Ok(()),
        }
    }
}

impl Kind {
    /// Its name in a spec.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Min => "min",
            Self::Max => "max",
            Self::First => "first",
            Self::Last => "last",
            Self::TopK { .. } => "top_k",
            Self::Distinct { .. } | Self::DistinctApproximate => "distinct",
            Self::Quantiles { .. } => "quantiles",
        }
    }

    /// Whether its settings are in their ranges.
    ///
    /// # Errors
    /// Which is not, and what was expected.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::TopK { k } if !(1..=K_MAX).contains(k) => Err(format!("`k` is {k}: expected 1 to {K_MAX}")),
            Self::Distinct { values_max } if !(1..=distinct::VALUES_MAX_MOST).contains(values_max) => {
                Err(format!("`values_max` is {values_max}: expected 1 to {}", distinct::VALUES_MAX_MOST))
            }
            Self::Quantiles { at } => {
                if at.is_empty() || at.len() > QUANTILES_MAX {
                    return Err(format!("`at` names {} quantiles: expected 1 to {QUANTILES_MAX}", at.len()));
                }
                for (i, q) in at.iter().enumerate() {
                    if !(0.0..=1.0).contains(q) {
                        return Err(format!("the quantile {q} is out of range: expected 0 to 1"));
                    }
                    if at[..i].contains(q) {
                        return Err(format!("the quantile {q} stands twice: expected each once"));
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn needs(&self) -> Needs {
        match self {
            Self::Count | Self::First | Self::Last => Needs::Anything,
            Self::Sum | Self::Avg | Self::Min | Self::Max | Self::TopK { .. } | Self::Quantiles { .. } => {
                Needs::Number
            }
            Self::Distinct { .. } | Self::DistinctApproximate => Needs::Scalar,
        }
    }

    /// Whether where a message stands matters.
    pub(crate) fn depends_on_places(&self) -> bool {
        matches!(self, Self::Min | Self::Max | Self::First | Self::Last | Self::TopK { .. })
    }

    fn best(&self) -> Best {
        match self {
            Self::Min => Best::Least,
            Self::First => Best::Earliest,
            Self::Last => Best::Latest,
            _ => Best::Greatest,
        }
    }

    /// Appends the section of no messages.
    pub(crate) fn empty(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Count => bytes.extend_from_slice(&0u64.to_le_bytes()),
            Self::Sum | Self::Avg => sum::empty(bytes),
            _ => section::push_body(bytes, &[]),
        }
    }

    /// Where the section at `at` ends; none where the bytes end before it.
    pub(crate) fn end(&self, bytes: &[u8], at: usize) -> Option<usize> {
        match self {
            Self::Count => Some(at + 8).filter(|end| *end <= bytes.len()),
            Self::Sum | Self::Avg => sum::end(bytes, at),
            _ => section::body_end(bytes, at),
        }
    }

    /// Folds a value into the section at `at`. It is of the kind that is needed, and not null but for a
    /// count of messages.
    pub(crate) fn fold(&self, bytes: &mut Vec<u8>, at: usize, value: &Value<'_>, place: &Place) {
        let number = match value {
            Value::Literal(number, _) => *number,
            _ => None,
        };
        match self {
            Self::Count => section::add_u64(bytes, at, 1),
            Self::Sum | Self::Avg => {
                if let Some(number) = number {
                    sum::fold(bytes, at, number);
                }
            }
            Self::Min | Self::Max | Self::First | Self::Last => {
                extreme::fold_one(bytes, at, self.best(), place, value);
            }
            Self::TopK { k } => extreme::fold_top(bytes, at, *k as usize, place, value),
            Self::Distinct { values_max } => distinct::fold(bytes, at, *values_max, value),
            Self::DistinctApproximate => hyperloglog::fold(bytes, at, &distinct::canonical(value)),
            Self::Quantiles { .. } => {
                if let Some(number) = number {
                    sketch::fold(bytes, at, number.to_f64());
                }
            }
        }
    }

    /// Appends the section that both messages' have together.
    pub(crate) fn merge(&self, left: &[u8], right: &[u8], into: &mut Vec<u8>) {
        match self {
            Self::Count => {
                let count = section::read_u64(left, 0).saturating_add(section::read_u64(right, 0));
                into.extend_from_slice(&count.to_le_bytes());
            }
            Self::Sum | Self::Avg => sum::merge(left, right, into),
            Self::Min | Self::Max | Self::First | Self::Last => {
                extreme::merge_one(left, right, self.best(), into);
            }
            Self::TopK { k } => extreme::merge_top(left, right, *k as usize, into),
            Self::Distinct { values_max } => distinct::merge(left, right, *values_max, into),
            Self::DistinctApproximate => hyperloglog::merge(left, right, into),
            Self::Quantiles { .. } => sketch::merge(left, right, into),
        }
    }

    /// Appends a section's value as JSON.
    ///
    /// # Errors
    /// Why it has none.
    pub(crate) fn finish(&self, section: &[u8], json: &mut Vec<u8>) -> Result<(), String> {
        let text = match self {
            Self::Count => section::read_u64(section, 0).to_string(),
            Self::Sum => sum::finish_sum(section)?.unwrap_or_else(null),
            Self::Avg => sum::finish_avg(section).unwrap_or_else(null),
            Self::Min | Self::Max | Self::First | Self::Last => {
                let entry = section::body(section);
                json.extend_from_slice(if entry.is_empty() { b"null" } else { extreme::json_of(entry) });
                return Ok(());
            }
            Self::TopK { .. } => {
                json.push(b'[');
                for (i, entry) in section::Table::of(section::body(section)).iter().enumerate() {
                    if i > 0 {
                        json.push(b',');
                    }
                    json.extend_from_slice(extreme::json_of(entry));
                }
                json.push(b']');
                return Ok(());
            }
            Self::Distinct { values_max } => distinct::finish(section, *values_max)?.to_string(),
            Self::DistinctApproximate => hyperloglog::finish(section).to_string(),
            Self::Quantiles { at } => {
                let values = sketch::finish(section, at);
                let pairs = at.iter().zip(values).map(|(q, value)| {
                    let value = value.map_or_else(null, sum::double);
                    format!("\"{q}\":{value}")
                });
                format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
            }
        };
        json.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

fn null() -> String {
    "null".to_owned()
}

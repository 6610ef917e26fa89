//! What an aggregate's built-ins mean.

use std::path::Path;
use std::sync::Arc;

use wasmill_engine::builtin::{BuiltIn, BuiltIns, Kind, VALUES_MAX_DEFAULT};

use super::Checker;
use crate::report::Span;
use crate::spec::built_ins::{RawAggregate, RawBuiltIn};
use crate::spec::located::Located;
use crate::spec::{BuiltInStage, ComputedBy};

/// The name of a stage of several built-ins that is given none.
const SEVERAL: &str = "aggregate";

impl Checker {
    /// The stage's name, and what computes it; none where that is wrong, which is told.
    pub(super) fn computed_by(
        &mut self,
        raw: Located<RawAggregate>,
        name: Option<Located<String>>,
        folder: &Path,
    ) -> Option<(String, ComputedBy)> {
        let span = raw.span;
        let (default_name, built_ins, not) = match raw.value {
            RawAggregate::Plugin(value) => {
                let plugin = self.plugin(Located { value, span }, name, folder);
                return Some((plugin.name.clone(), ComputedBy::Plugin(plugin)));
            }
            RawAggregate::Bare(built_in) => {
                let name = built_in.name;
                let not = folder.join(format!("{name}.wasm"));
                (name, BuiltIns::bare(self.built_in(built_in, span)?), Some(not))
            }
            RawAggregate::Named(results) => {
                let checked: Vec<_> = results
                    .into_iter()
                    .map(|(name, Located { value, span })| Some((name, self.built_in(value, span)?)))
                    .collect();
                // Each is checked, so that every mistake is told.
                (SEVERAL, BuiltIns::named(checked.into_iter().collect::<Option<_>>()?), None)
            }
        };
        if let Some(name) = &name {
            self.name("stage", name);
        }
        match built_ins {
            Ok(built_ins) => {
                let name = name.map_or_else(|| default_name.to_owned(), |n| n.value);
                let stage = BuiltInStage { built_ins: Arc::new(built_ins), not, span };
                Some((name, ComputedBy::BuiltIns(stage)))
            }
            Err(reason) => {
                self.out_of_range(span, &reason);
                None
            }
        }
    }

    fn built_in(&mut self, raw: RawBuiltIn, span: Span) -> Option<BuiltIn> {
        let of = match raw.of.clone() {
            None => None,
            Some(mut place) => {
                if place.span == Span::default() {
                    place.span = span;
                }
                Some(self.path(&place)?)
            }
        };
        let (kind, at) = match raw.name {
            "count" => (Kind::Count, span),
            "sum" => (Kind::Sum, span),
            "avg" => (Kind::Avg, span),
            "min" => (Kind::Min, span),
            "max" => (Kind::Max, span),
            "first" => (Kind::First, span),
            "last" => (Kind::Last, span),
            "top_k" => raw.k.map(|k| (Kind::TopK { k: k.value }, k.span))?,
            "quantiles" => self.quantiles(raw.at?)?,
            _ => self.distinct(&raw, span),
        };
        if let Err(reason) = kind.check() {
            self.out_of_range(at, &reason);
            return None;
        }
        Some(BuiltIn::new(kind, of))
    }

    fn quantiles(&mut self, at: Located<Vec<Located<f64>>>) -> Option<(Kind, Span)> {
        let mut all = Vec::with_capacity(at.value.len());
        let mut right = true;
        for q in at.value {
            // Each is told at its own place.
            if let Err(reason) = (Kind::Quantiles { at: vec![q.value] }).check() {
                self.out_of_range(q.span, &reason);
                right = false;
            }
            all.push(q.value);
        }
        right.then_some((Kind::Quantiles { at: all }, at.span))
    }

    fn distinct(&mut self, raw: &RawBuiltIn, span: Span) -> (Kind, Span) {
        if !raw.approximate.as_ref().is_some_and(|a| a.value) {
            let values_max = raw.values_max.as_ref();
            let kind = Kind::Distinct { values_max: values_max.map_or(VALUES_MAX_DEFAULT, |m| m.value) };
            return (kind, values_max.map_or(span, |m| m.span));
        }
        if let Some(values_max) = &raw.values_max {
            self.wrong(
                values_max.span,
                "`values_max` beside `approximate: true`",
                "an estimate keeps no values",
            )
            .help
            .push("take one of the two away".to_owned());
        }
        (Kind::DistinctApproximate, span)
    }

    /// Tells a reason of the form "what is wrong: what was expected".
    fn out_of_range(&mut self, span: Span, reason: &str) {
        let (title, label) = reason.split_once(": ").unwrap_or((reason, "this"));
        self.wrong(span, title, label);
    }
}

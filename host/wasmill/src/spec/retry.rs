//! How often, and how fast, what failed is tried again: sinks and plugins.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, IntoDeserializer, Visitor};
use wasmill_engine::guest::Tries;

use super::check::Checker;
use super::located::Located;
use super::outside::{HumanDuration, SinkSpec};
use crate::report::Span;

/// The longest that a breaker is open, or a wait is.
const WAIT_MAX: Duration = Duration::from_secs(86_400);
/// The most tries, and failures in a row, that can be asked for.
const TRIES_MAX: u32 = 1_000_000;
/// How often a message is tried alone, at most: each may take as long as `limits.fuel` lasts.
const TRIES_ALONE_MAX: u32 = 100;

/// How a sink whose other end is away is asked again.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SinkRetry")]
pub struct RawSinkRetry {
    /// How long to wait before the first try behind a failure; twice as long before each one more. A random part
    /// of up to the half is taken away. Default: 100ms.
    pub backoff: Option<Located<HumanDuration>>,
    /// The longest wait. Default: 5s, or `backoff` if that is longer.
    pub backoff_max: Option<Located<HumanDuration>>,
    /// How often it is tried in a row, the first time included, before `then`; or `unlimited`. Default: unlimited.
    pub attempts: Option<Located<AtMost<u32>>>,
    /// For how long it is tried before `then`; or `unlimited`. Default: unlimited.
    pub within: Option<Located<AtMost<HumanDuration>>>,
    /// What comes then: `stop` ends the run, and nothing is lost; `dead_letter`, of a sink that asks for messages
    /// one by one, gives up the message that was answered so often that it should come again. Default: stop.
    pub then: Option<Located<Then>>,
}

/// How often a message is tried that a plugin can't process.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "StageRetry")]
pub struct RawStageRetry {
    /// How often it is tried alone, each time on a new instance, before it is a dead letter: 1 to 100. Default: 1.
    pub attempts: Option<Located<u32>>,
    /// How long to wait before the second try; twice as long before each one more, 5s at most. A random part of up
    /// to the half is taken away. Default: 100ms.
    pub backoff: Option<Located<HumanDuration>>,
    /// What is tried again: `trap`, where the plugin gave no answer, and `error`, where it answered that it can't.
    /// Default: trap alone.
    pub on: Option<Located<Vec<Located<RetriedOn>>>>,
}

/// A circuit breaker: after failures in a row nothing is tried for a while, then once, to see.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Breaker")]
pub struct RawBreaker {
    /// After how many failures in a row it opens. Default: 5.
    pub failures: Option<Located<u32>>,
    /// How long it is open. Default: 30s.
    pub open: Option<Located<HumanDuration>>,
}

/// What comes when the tries are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// The run ends.
    #[default]
    Stop,
    /// The message becomes a dead letter.
    DeadLetter,
}

/// What a plugin's message is tried again for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetriedOn {
    /// There was no answer: a trap, no fuel or memory left, an answer that can't be read.
    Trap,
    /// The answer was an error.
    Error,
}

/// A bound, or `unlimited`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtMost<T> {
    /// None.
    Unlimited,
    /// This.
    Of(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for AtMost<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bound<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Bound<T> {
            type Value = AtMost<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a bound, or `unlimited`")
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<AtMost<T>, E> {
                T::deserialize(n.into_deserializer()).map(AtMost::Of)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<AtMost<T>, E> {
                if text == "unlimited" {
                    return Ok(AtMost::Unlimited);
                }
                let bound = T::deserialize(IntoDeserializer::<E>::into_deserializer(text));
                bound.map(AtMost::Of).map_err(|e| E::custom(format!("{e}, or `unlimited`")))
            }
        }
        deserializer.deserialize_any(Bound(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for AtMost<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("AtMost{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let bound = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [bound, { "const": "unlimited" }] })
    }
}

/// How long to wait between tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoffs {
    /// Before the second try.
    pub first: Duration,
    /// At most.
    pub longest: Duration,
}

impl Default for Backoffs {
    fn default() -> Self {
        Self { first: Duration::from_millis(100), longest: Duration::from_secs(5) }
    }
}

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerBounds {
    /// After so many failures in a row, from 1.
    pub failures: u32,
    /// For so long.
    pub open: Duration,
}

/// How a sink is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tried {
    /// How long to wait between tries.
    pub backoffs: Backoffs,
    /// How often it is tried in a row, from 1; none: without end.
    pub attempts: Option<u32>,
    /// For how long; none: without end.
    pub within: Option<Duration>,
    /// What comes then.
    pub then: Then,
    /// Its breaker, if it has one.
    pub breaker: Option<BreakerBounds>,
}

/// How a plugin is tried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TriedStage {
    /// How often a message is tried alone.
    pub tries: Tries,
    /// How long to wait between.
    pub backoffs: Backoffs,
    /// Its breaker, if it has one.
    pub breaker: Option<BreakerBounds>,
}

impl BreakerBounds {
    fn told(self) -> String {
        let Self { failures, open } = self;
        format!("a breaker opens for {} after {failures} failures in a row", HumanDuration(open))
    }
}

impl Tried {
    /// What is not as by default, in words.
    #[must_use]
    pub fn told(&self) -> Vec<String> {
        let Self { backoffs, attempts, within, then, breaker } = self;
        let mut told = Vec::new();
        if *self != (Self { breaker: *breaker, ..Self::default() }) {
            let (first, longest) = (HumanDuration(backoffs.first), HumanDuration(backoffs.longest));
            let bounds = [
                attempts.map(|most| format!("at most {most} times")),
                within.map(|within| format!("for at most {}", HumanDuration(within))),
            ];
            let bounds: Vec<String> = bounds.into_iter().flatten().collect();
            let then = match (bounds.as_slice(), then) {
                ([], _) => "without end".to_owned(),
                (bounds, Then::Stop) => format!("{}, then the run stops", bounds.join(" and ")),
                (bounds, Then::DeadLetter) => {
                    format!("{}, then the message is a dead letter", bounds.join(" and "))
                }
            };
            told.push(format!("while its other end is away it is tried every {first} to {longest}, {then}"));
        }
        told.extend(breaker.map(BreakerBounds::told));
        told
    }
}

impl TriedStage {
    /// What is not as by default, in words.
    #[must_use]
    pub fn told(&self) -> Vec<String> {
        let mut told = Vec::new();
        if self.tries.alone > 1 {
            let on = match (self.tries.traps, self.tries.errors) {
                (true, true) => "trap or error",
                (false, true) => "error",
                _ => "trap",
            };
            let longest = HumanDuration(self.backoffs.longest);
            told.push(format!(
                "a message that fails alone by {on} is tried {} times, {} to {longest} apart",
                self.tries.alone,
                HumanDuration(self.backoffs.first),
            ));
        }
        told.extend(self.breaker.map(|breaker| format!("{}, and slows the stage down", breaker.told())));
        told
    }
}

impl Checker {
    pub(super) fn tried(
        &mut self,
        retry: Option<Located<RawSinkRetry>>,
        breaker: Option<Located<RawBreaker>>,
        sink: &SinkSpec,
    ) -> Tried {
        let breaker = breaker.map(|b| self.breaker(b.value));
        let Some(Located { value: raw, span }) = retry else { return Tried { breaker, ..Tried::default() } };
        let backoffs = self.backoffs(raw.backoff, raw.backoff_max);
        let attempts_span = raw.attempts.as_ref().map(|a| a.span);
        let within_span = raw.within.as_ref().map(|w| w.span);
        let attempts = match raw.attempts {
            Some(Located { value: AtMost::Of(value), span }) => {
                Some(self.tries("retry.attempts", Some(Located { value, span }), 1, TRIES_MAX))
            }
            None | Some(Located { value: AtMost::Unlimited, .. }) => None,
        };
        let within = match raw.within {
            Some(Located { value: AtMost::Of(value), span }) => {
                Some(self.duration("retry.within", Some(Located { value, span }), 1, Duration::ZERO))
            }
            None | Some(Located { value: AtMost::Unlimited, .. }) => None,
        };
        let then = raw.then.as_ref().map_or(Then::Stop, |then| then.value);
        let then_span = raw.then.map_or(span, |then| then.span);
        match (then, attempts, within) {
            (Then::Stop, ..) => {}
            (Then::DeadLetter, ..) if !sink.gives_up() => {
                let title = format!("`retry.then: dead_letter` of the sink `{}`", sink.name());
                self.wrong(then_span, title, "it can't tell which single message its other end doesn't take")
                    .help
                    .push("write `then: stop`, or leave `attempts` and `within` out: it then waits, and nothing is lost".to_owned());
            }
            (Then::DeadLetter, _, Some(_)) => {
                let place = within_span.unwrap_or(span);
                self.wrong(
                    place,
                    "`retry.within` beside `then: dead_letter`",
                    "the clock must not decide what becomes of a message",
                )
                .help
                .push("bound it by `attempts`".to_owned());
            }
            (Then::DeadLetter, None, None) => {
                let place = attempts_span.unwrap_or(then_span);
                self.wrong(
                    place,
                    "`retry.then: dead_letter` without a bound",
                    "after how many tries? add `attempts: 5`",
                );
            }
            (Then::DeadLetter, Some(_), None) => {}
        }
        Tried { backoffs, attempts, within, then, breaker }
    }

    pub(super) fn tried_stage(
        &mut self,
        retry: Option<Located<RawStageRetry>>,
        breaker: Option<Located<RawBreaker>>,
    ) -> TriedStage {
        let breaker = breaker.map(|b| self.breaker(b.value));
        let Some(Located { value: raw, .. }) = retry else {
            return TriedStage { breaker, ..TriedStage::default() };
        };
        let mut tries = Tries {
            alone: self.tries("retry.attempts", raw.attempts, 1, TRIES_ALONE_MAX),
            ..Tries::default()
        };
        if let Some(on) = raw.on {
            if on.value.is_empty() {
                self.wrong(on.span, "`retry.on` is empty", "at least one must be given");
            }
            let asked = |what| on.value.iter().any(|on| on.value == what);
            (tries.traps, tries.errors) = (asked(RetriedOn::Trap), asked(RetriedOn::Error));
        }
        TriedStage { tries, backoffs: self.backoffs(raw.backoff, None), breaker }
    }

    fn breaker(&mut self, raw: RawBreaker) -> BreakerBounds {
        BreakerBounds {
            failures: self.tries("breaker.failures", raw.failures, 5, TRIES_MAX),
            open: self.wait("breaker.open", raw.open, Duration::from_secs(30)),
        }
    }

    fn backoffs(
        &mut self,
        first: Option<Located<HumanDuration>>,
        longest: Option<Located<HumanDuration>>,
    ) -> Backoffs {
        let default = Backoffs::default();
        let place = longest.as_ref().map(|l| l.span);
        let first = self.wait("retry.backoff", first, default.first);
        let longest = self.wait("retry.backoff_max", longest, default.longest.max(first));
        if let Some(place) = place.filter(|_| longest < first) {
            self.wrong(
                place,
                "`retry.backoff_max` is shorter than `retry.backoff`",
                "must be as long or longer",
            );
        }
        Backoffs { first, longest }
    }

    fn wait(&mut self, key: &str, given: Option<Located<HumanDuration>>, default: Duration) -> Duration {
        let place = given.as_ref().map(|g| g.span);
        let wait = self.duration(key, given, 1, default);
        if let Some(place) = place.filter(|_| wait > WAIT_MAX) {
            self.wrong(place, format!("`{key}` is longer than a day"), "must be shorter");
        }
        wait.min(WAIT_MAX)
    }

    fn tries(&mut self, key: &str, given: Option<Located<u32>>, default: u32, most: u32) -> u32 {
        let Some(Located { value, span }) = given else { return default };
        if value == 0 || value > most {
            let title = format!("`{key}`: {value} is out of range");
            self.wrong(span, title, format!("expected a whole number from 1 to {most}"));
        }
        value
    }

    /// What only a plugin's stage can have.
    pub(super) fn no_plugin(&mut self, key: &str, beside: &str, place: Option<Span>) {
        if let Some(place) = place {
            let title = format!("`{key}` beside {beside}");
            self.wrong(place, title, "it is for stages that a plugin does");
        }
    }
}

//! Where event time comes from, and what bounds it.

use std::time::Duration;

use wasmill_engine::key::Path as FieldPath;
use wasmill_engine::topology::{MaxAhead, OnAhead};

use super::Checker;
use crate::spec::SourceSpec;
use crate::spec::located::Located;
use crate::spec::raw::{IdleTimeout, RawOnAhead, RawTime};

/// After how long a quiet partition of a broker no longer holds stream time, where the spec says nothing.
const IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// What a spec says of time.
pub(super) struct Time {
    pub field: FieldPath,
    pub idle_timeout: Option<Duration>,
    pub max_ahead: Option<MaxAhead>,
}

impl Checker {
    /// None where the field is wrong, which is told.
    pub(super) fn time(&mut self, raw: Option<RawTime>, sources: &[Located<SourceSpec>]) -> Option<Time> {
        let RawTime { field, idle_timeout, max_ahead, on_ahead } = raw.unwrap_or_default();
        let field = field.map_or(Some(FieldPath::Timestamp), |f| self.event_time(&f));
        let idle_timeout = self.idle_timeout(idle_timeout, sources);
        if let (Some(on_ahead), None) = (&on_ahead, &max_ahead) {
            self.wrong(
                on_ahead.span,
                "`on_ahead` without `max_ahead`",
                "ahead by how much? add `max_ahead: 1h`",
            );
        }
        let max_ahead = max_ahead.map(|given| {
            let span = given.span;
            if let Some(source) = sources.iter().find(|s| !s.value.traits().append_times) {
                let name = source.value.name();
                let title =
                    format!("`time.max_ahead`: the source `{name}` doesn't tell when it took a message in");
                let diagnostic = self.wrong(span, title, "ahead of what? there is nothing to measure it by");
                diagnostic.also.push((source.span, "this source".to_owned()));
                diagnostic.help.push(
                    "a Kafka topic with message.timestamp.type=LogAppendTime does; else leave this out"
                        .to_owned(),
                );
            }
            let ms = self.duration("time.max_ahead", Some(given), 0, Duration::ZERO).as_millis();
            let beyond = match on_ahead.map(|o| o.value) {
                None | Some(RawOnAhead::DeadLetter) => OnAhead::DeadLetter,
                Some(RawOnAhead::Clamp) => OnAhead::Clamp,
            };
            MaxAhead { ms: i64::try_from(ms).unwrap_or(i64::MAX), beyond }
        });
        Some(Time { field: field?, idle_timeout, max_ahead })
    }

    fn event_time(&mut self, field: &Located<String>) -> Option<FieldPath> {
        match self.path(field)? {
            path @ (FieldPath::Timestamp | FieldPath::Metadata(_)) => Some(path),
            FieldPath::Payload(names) if !names.is_empty() => Some(FieldPath::Payload(names)),
            _ => {
                self.wrong(
                    field.span,
                    format!("`{}` is no event time", field.value),
                    "expected `timestamp`, `payload.FIELD` or `metadata.NAME`",
                );
                None
            }
        }
    }

    fn idle_timeout(
        &mut self,
        given: Option<Located<IdleTimeout>>,
        sources: &[Located<SourceSpec>],
    ) -> Option<Duration> {
        match given {
            None => sources.iter().any(|s| s.value.traits().shared).then_some(IDLE_TIMEOUT_DEFAULT),
            Some(Located { value: IdleTimeout::Off, .. }) => None,
            Some(Located { value: IdleTimeout::After(value), span }) => {
                Some(self.duration("time.idle_timeout", Some(Located { value, span }), 1, Duration::ZERO))
            }
        }
    }
}

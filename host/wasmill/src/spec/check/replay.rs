//! The source of dead letters that are put through again.

use super::Checker;
use crate::report::Span;
use crate::spec::located::Located;
use crate::spec::{SinkSpec, SourceSpec};

/// Settings that name what a connector reads or writes.
const PLACES: [&str; 5] = ["path", "topic", "stream", "subject", "url"];

impl Checker {
    /// Letters must be there again after a crash, and must not come back by themselves.
    pub(super) fn replay(&mut self, replay: &Located<SourceSpec>, dead: Option<&Located<SinkSpec>>) {
        let name = replay.value.name();
        if !replay.value.traits().seekable {
            let title = format!("`replay`: the source `{name}` can't be read again");
            self.wrong(replay.span, title, "what a crash interrupts would be gone")
                .help
                .push("take one that can, such as `log` in a directory, or a topic of its own".to_owned());
        }
        let Some(dead) = dead else {
            let title = "`replay` without `dead_letter`";
            let label = "there are no dead letters that could be put through again";
            self.wrong(replay.span, title, label)
                .help
                .push("add a `dead_letter`, such as `{ file: { path: dead } }`".to_owned());
            return;
        };
        if name == dead.value.name() && is_same(&replay.value, &dead.value) {
            let title = "`replay` reads what `dead_letter` writes";
            let label = "each that fails again would come back at once, for ever";
            let diagnostic = self.wrong(replay.span, title, label);
            diagnostic.also.push((dead.span, "which is written here".to_owned()));
            diagnostic.help.push(
                "give it a place of its own: `wasmill dlq replay` takes letters from the one to the other"
                    .to_owned(),
            );
        }
    }

    /// An exchange through a topic carries messages from the key_by on alone.
    pub(super) fn replay_exchange(&mut self, replay: Option<Span>) {
        let (Some(replay), Some((_, exchange))) = (replay, self.exchange.clone()) else { return };
        let title = "`replay` does not go with an exchange through a topic";
        let label = "a message that failed behind the exchange can't enter there";
        self.wrong(replay, title, label).also.push((exchange, "which is asked for here".to_owned()));
    }
}

/// Whether a source and a sink of the same kind are at the same place.
fn is_same(source: &SourceSpec, sink: &SinkSpec) -> bool {
    let settings = |spec: Result<serde_json::Value, serde_json::Error>, name: &str| {
        spec.ok().and_then(|mut spec| Some(spec.get_mut(name)?.take())).unwrap_or_default()
    };
    let source_settings = settings(serde_json::to_value(source), source.name());
    let sink_settings = settings(serde_json::to_value(sink), sink.name());
    let named = PLACES.iter().filter(|place| source_settings.get(*place).is_some_and(|at| !at.is_null()));
    let mut named = named.filter(|place| sink_settings.get(*place).is_some()).peekable();
    named.peek().is_some() && named.all(|place| source_settings.get(*place) == sink_settings.get(*place))
}

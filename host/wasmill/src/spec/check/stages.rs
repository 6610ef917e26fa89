//! What the stages mean.

use std::collections::BTreeMap;
use std::path::Path;

use wasmill_engine::key::{KeySpec, OnNull, Path as FieldPath};

use super::Checker;
use crate::report::Span;
use crate::spec::located::Located;
use crate::spec::raw::{Grant, Order, RawKey, RawOnNull, RawPlugin, RawStage};
use crate::spec::{AggregateStage, ComputedBy, NoPin, Pin, PluginStage, Stage, TriedStage};

impl Checker {
    pub(super) fn stages(&mut self, raw: Vec<Located<RawStage>>, plugin_dir: &Path) -> Vec<Located<Stage>> {
        let mut stages: Vec<Located<Stage>> = Vec::new();
        let mut names: BTreeMap<String, Span> = BTreeMap::new();
        let goes_by_the_log = |s: &RawStage| {
            let log = s.order.as_ref().filter(|o| o.value == Order::Log).map(|o| o.span);
            s.window.as_ref().map(|w| w.span).or(log)
        };
        self.log = raw.iter().find_map(|s| goes_by_the_log(&s.value));
        for stage in raw {
            let span = stage.span;
            let Some((stage, at)) = self.stage(stage.value, span, plugin_dir) else { continue };
            if let Some(name) = stage.name().map(str::to_owned) {
                if let Some(first) = names.get(&name).copied() {
                    let title = format!("two stages are named `{name}`");
                    let diagnostic = self.wrong(at, title, "the second one");
                    diagnostic.also.push((first, "the first one".to_owned()));
                    diagnostic.help.push(format!("give one of them another name: `name: {name}-2`"));
                }
                names.entry(name).or_insert(at);
            }
            stages.push(Located { value: stage, span: at });
        }
        stages
    }

    fn stage(&mut self, raw: RawStage, span: Span, plugin_dir: &Path) -> Option<(Stage, Span)> {
        let kinds = [
            ("transform", raw.transform.as_ref().map(|s| s.span)),
            ("filter", raw.filter.as_ref().map(|s| s.span)),
            ("key_by", raw.key_by.as_ref().map(|s| s.span)),
            ("aggregate", raw.aggregate.as_ref().map(|s| s.span)),
        ];
        let given: Vec<(&str, Span)> = kinds.iter().filter_map(|(k, s)| Some((*k, (*s)?))).collect();
        let &[(kind, at)] = given.as_slice() else {
            match given.as_slice() {
                [] => {
                    let (at, what) = match &raw.window {
                        Some(window) => (window.span, "a window without an aggregate"),
                        None => (span, "a stage that does nothing"),
                    };
                    let diagnostic = self.wrong(at, what, "nothing is done with its messages");
                    diagnostic.help.push(match raw.window {
                        Some(_) => "put `aggregate: PLUGIN`, or a built-in such as `aggregate: count`, beside `window`".to_owned(),
                        None => {
                            "a stage has one of `transform`, `filter`, `key_by` and `aggregate`".to_owned()
                        }
                    });
                }
                [(first, at), more @ ..] => {
                    for (second, also) in more {
                        let title = format!("one stage has both `{first}` and `{second}`");
                        let diagnostic = self.wrong(*also, title, "this one");
                        diagnostic.also.push((*at, "and this one".to_owned()));
                        diagnostic.help.push("write two stages, each with its own `-`".to_owned());
                    }
                }
            }
            return None;
        };
        for (key, beside, place) in [
            ("window", "aggregate", raw.window.as_ref().map(|w| w.span)),
            ("order", "aggregate", raw.order.as_ref().map(|o| o.span)),
            ("on_null", "key_by", raw.on_null.as_ref().map(|o| o.span)),
            ("exchange", "key_by", raw.exchange.as_ref().map(|e| e.span)),
        ] {
            if let Some(place) = place.filter(|_| kind != beside) {
                let title = format!("`{key}` beside `{kind}`");
                self.wrong(place, title, format!("`{key}` stands only beside `{beside}`"));
            }
        }
        let trying = [
            ("retry", raw.retry.as_ref().map(|r| r.span)),
            ("breaker", raw.breaker.as_ref().map(|b| b.span)),
            ("limits", raw.limits.as_ref().map(|l| l.span)),
        ];
        let tried = self.tried_stage(raw.retry, raw.breaker);
        let limits = self.stage_limits(raw.limits);
        let keyed = self.keyed;
        let stage = match kind {
            "key_by" => {
                if let Some(first) = keyed {
                    let diagnostic = self.wrong(at, "a second key_by is not supported yet", "the second one");
                    diagnostic.also.push((first, "the first one".to_owned()));
                    let help = "key by a list for a compound key, or chain two pipelines";
                    diagnostic.help.push(help.to_owned());
                }
                self.keyed.get_or_insert(at);
                self.exchange = raw.exchange.map(|e| (e.value.topic.partitions, e.span));
                if let Some(name) = &raw.name {
                    self.wrong(name.span, "a key_by has no name", "take this away");
                }
                trying.into_iter().for_each(|(key, place)| self.no_plugin(key, "`key_by`", place));
                Stage::KeyBy(self.key(raw.key_by?, raw.on_null.map(|o| o.value))?)
            }
            "aggregate" => {
                if keyed.is_none() {
                    self.wrong(at, "an aggregate without a key_by before it", "by what key does it gather?")
                        .help
                        .push("put `- key_by: payload.FIELD` or `- key_by: type` before it".to_owned());
                }
                let order = self.order(raw.order.as_ref(), raw.window.is_some());
                let (name, mut by) = self.computed_by(raw.aggregate?, raw.name, plugin_dir)?;
                match &mut by {
                    ComputedBy::Plugin(plugin) => (plugin.tried, plugin.limits) = (tried, limits),
                    ComputedBy::BuiltIns(_) => {
                        trying.into_iter().for_each(|(key, place)| self.no_plugin(key, "built-ins", place));
                    }
                }
                let window = match raw.window {
                    Some(window) => Some(self.window(window)?),
                    None => None,
                };
                Stage::Aggregate(AggregateStage { name, by, window, order })
            }
            "transform" => {
                let plugin = self.plugin(raw.transform?, raw.name, plugin_dir);
                Stage::Transform(PluginStage { tried, limits, ..plugin })
            }
            _ => {
                Stage::Filter(PluginStage { tried, limits, ..self.plugin(raw.filter?, raw.name, plugin_dir) })
            }
        };
        if let Some(plugin) = stage.plugin().filter(|p| p.grants.contains(&Grant::State) && keyed.is_none()) {
            let title = format!("the stage `{}` is granted state but has no key", plugin.name);
            self.wrong(at, title, "state belongs to a message's key")
                .help
                .push("put it behind a `key_by`, or take the grant `state` away".to_owned());
        }
        Some((stage, at))
    }

    fn key(&mut self, raw: Located<RawKey>, on_null: Option<RawOnNull>) -> Option<KeySpec> {
        if raw.value.0.is_empty() {
            self.wrong(raw.span, "`key_by` names no place", "at least one must be given");
        }
        let mut paths = Vec::new();
        for mut path in raw.value.0 {
            if path.span == Span::default() {
                path.span = raw.span;
            }
            let span = path.span;
            match self.path(&path) {
                Some(FieldPath::Timestamp) => {
                    self.wrong(span, "`timestamp` is no key", "each message has its own")
                        .help
                        .push("to gather by time, put a `window` beside the aggregate".to_owned());
                }
                Some(path) if paths.contains(&path) => {
                    self.wrong(span, format!("`{path}` stands twice in one key"), "take one away");
                }
                Some(path) => paths.push(path),
                None => {}
            }
        }
        let on_null = match on_null {
            None | Some(RawOnNull::DeadLetter) => OnNull::DeadLetter,
            Some(RawOnNull::Drop) => OnNull::Drop,
            Some(RawOnNull::Shared) => OnNull::Shared,
        };
        (!paths.is_empty()).then_some(KeySpec { paths, on_null })
    }

    fn order(&mut self, given: Option<&Located<Order>>, windowed: bool) -> Order {
        match (given, self.log) {
            (Some(order), Some(log)) if order.value == Order::Arrival => {
                let (title, also) = if windowed {
                    ("a window in the order of arrival is not supported", None)
                } else {
                    ("the order of arrival beside the order of the log", Some(log))
                };
                let diagnostic = self.wrong(order.span, title, "windows go by the log");
                if let Some(also) = also {
                    diagnostic.label = "all stages behind the key_by see one order".to_owned();
                    diagnostic.also.push((also, "goes by the log".to_owned()));
                }
                let help = "take `order` away: results are then the same at every run";
                diagnostic.help.push(help.to_owned());
                Order::Log
            }
            (_, Some(_)) => Order::Log,
            (_, None) => Order::Arrival,
        }
    }

    pub(super) fn plugin(
        &mut self,
        raw: Located<RawPlugin>,
        beside: Option<Located<String>>,
        folder: &Path,
    ) -> PluginStage {
        let RawPlugin { mut plugin, name: inside, grants, config } = raw.value;
        if plugin.span == Span::default() {
            plugin.span = raw.span;
        }
        let pin = match plugin.value.split_once('@').map(|(name, pin)| (name.to_owned(), pin.to_owned())) {
            None => None,
            Some((name, pin)) => {
                plugin.value = name;
                self.pin(&pin, plugin.span)
            }
        };
        if plugin.value.contains(['/', '\\']) {
            let title = format!("the plugin's name `{}` is a path", plugin.value);
            self.wrong(plugin.span, title, "expected the file's name, without folder and `.wasm`")
                .help
                .push("name the folder by `plugin_dir`".to_owned());
        } else if let Some(stem) = plugin.value.strip_suffix(".wasm") {
            let title = format!("the plugin's name `{}` has its file's ending", plugin.value);
            self.wrong(plugin.span, title, format!("write `{stem}`"));
        } else {
            self.name("plugin", &plugin);
        }
        if let (Some(inside), Some(beside)) = (&inside, &beside) {
            let spans = (inside.span, beside.span);
            let diagnostic = self.wrong(spans.1, "the stage has two names", "take one away");
            diagnostic.also.push((spans.0, "the other one".to_owned()));
        }
        let name = inside.or(beside);
        if let Some(name) = &name {
            self.name("stage", name);
        }
        let (grants, granted) = self.grants(grants);
        PluginStage {
            name: name.map_or_else(|| plugin.value.clone(), |n| n.value),
            file: folder.join(format!("{}.wasm", plugin.value)),
            pin,
            plugin: plugin.value,
            grants,
            granted: Box::new(granted),
            config,
            limits: self.plugin_limits,
            tried: TriedStage::default(),
            span: plugin.span,
        }
    }

    /// What stands behind the `@` of a plugin's name.
    fn pin(&mut self, text: &str, span: Span) -> Option<Pin> {
        match text.parse() {
            Ok(pin) => Some(pin),
            Err(NoPin { title, label, help }) => {
                self.wrong(span, title, label).help.extend(help.map(str::to_owned));
                None
            }
        }
    }
}

//! The environment mode: a pipeline without a file, from variables and the plugins in a folder.
//!
//! The variables become the tree that a file would give, each value with its place in its variable; the
//! same checks then say what is wrong with it. What a variable must look like is in one table.

use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::node::{Entry, Node, Scalar, Value};
use super::outside::{KnownProperty, property_of};
use super::secrets::{hide, is_secret, server_of};
use super::{BATCH_SIZE_MAX, Pipeline, WORKERS_MAX, check, de};
use crate::report::{Diagnostic, Problems, Sources, Span, nearest};

/// What such a pipeline's file is called where one is named.
pub const NO_FILE: &str = "environment";
/// The longest window: a hundred years, as everywhere.
const WINDOW_SECONDS_MAX: u64 = 100 * 366 * 86_400;
/// The longest name of a Kafka topic.
const TOPIC_BYTES_MAX: usize = 249;

/// What a variable's value must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A whole number from 1 to this.
    Count(u64),
    /// A truth value.
    Switch,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// HOST:PORT, or several with commas between.
    Brokers,
    /// The name of a Kafka topic.
    Topic,
    /// The URL of a server of these schemes.
    Url(&'static [&'static str]),
    /// The name of a NATS stream or consumer.
    NatsName,
    /// A NATS subject without wildcards.
    Subject,
    /// A text without control characters.
    Text,
}

/// A variable of the environment mode.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it is where nobody sets it; none: nothing.
    pub default: Option<&'static str>,
    /// What it must look like.
    pub form: Form,
    /// What it means, for the documentation.
    pub means: &'static str,
}

const fn variable(name: &'static str, default: &'static str, form: Form, means: &'static str) -> Variable {
    Variable { name, default: if default.is_empty() { None } else { Some(default) }, form, means }
}

const NATS_SCHEMES: &[&str] = &["nats", "tls", "ws", "wss"];
const REDIS_SCHEMES: &[&str] = &["redis", "rediss"];

/// All variables of the environment mode, as `docs/configuration.md` lists them.
#[rustfmt::skip]
pub const VARIABLES: [Variable; 37] = [
    variable("BROKER_TYPE", "kafka", Form::OneOf(&["kafka", "nats", "redis"]), "where messages come from and go to: `kafka`, `nats` or `redis`"),
    variable("KAFKA_BROKERS", "localhost:9092", Form::Brokers, "`HOST:PORT`, several with commas between"),
    variable("KAFKA_TOPIC", "input-topic", Form::Topic, "the topic that is read"),
    variable("KAFKA_GROUP_ID", "stream-processor", Form::Text, "the consumer group, and the pipeline's name"),
    variable("KAFKA_OUTPUT_TOPIC", "output-topic", Form::Topic, "the topic that is written; a record's key is the message's id"),
    variable("KAFKA_DLQ_TOPIC", "", Form::Topic, "the topic of dead letters; unset: each goes whole to the log"),
    variable("KAFKA_TLS", "", Form::Switch, "`true`: connect by TLS; unset: where one of the three files below is set"),
    variable("KAFKA_CA_FILE", "", Form::Text, "a file of certificates in PEM that are trusted in place of the system's"),
    variable("KAFKA_CERTIFICATE_FILE", "", Form::Text, "a file with this client's certificate in PEM, where the brokers ask for one"),
    variable("KAFKA_KEY_FILE", "", Form::Text, "a file with the private key of `KAFKA_CERTIFICATE_FILE` in PEM"),
    variable("KAFKA_KEY_PASSWORD", "", Form::Text, "the password of the key, where it is encrypted"),
    variable("KAFKA_SASL_MECHANISM", "", Form::OneOf(&["plain", "scram_sha_256", "scram_sha_512"]), "how the user proves who it is: `plain`, `scram_sha_256` or `scram_sha_512`; unset: there is no user"),
    variable("KAFKA_SASL_USERNAME", "", Form::Text, "the user, with `KAFKA_SASL_MECHANISM`"),
    variable("KAFKA_SASL_PASSWORD", "", Form::Text, "the user's password"),
    variable("KAFKA_SASL_PASSWORD_FILE", "", Form::Text, "a file that holds the user's password, in place of `KAFKA_SASL_PASSWORD`"),
    variable("NATS_URL", "nats://localhost:4222", Form::Url(NATS_SCHEMES), "the NATS server"),
    variable("NATS_STREAM", "events", Form::NatsName, "the stream that is read"),
    variable("NATS_CONSUMER", "processor", Form::NatsName, "the durable consumer, and the pipeline's name"),
    variable("NATS_OUTPUT_SUBJECT", "processed", Form::Subject, "the subject that is written"),
    variable("NATS_DLQ_SUBJECT", "", Form::Subject, "the subject of dead letters; unset: each goes whole to the log"),
    variable("NATS_CREDENTIALS_FILE", "", Form::Text, "a `.creds` file, where the server asks for one"),
    variable("NATS_CA_FILE", "", Form::Text, "a file of certificates that are trusted for `tls://` beside the system's"),
    variable("REDIS_URL", "redis://localhost:6379", Form::Url(REDIS_SCHEMES), "the Redis server, of the state and of the streams"),
    variable("REDIS_CA_FILE", "", Form::Text, "a file of certificates that are trusted for `rediss://` beside the system's"),
    variable("REDIS_STREAM", "events", Form::Text, "the stream that is read"),
    variable("REDIS_GROUP", "stream-processor", Form::Text, "the consumer group, and the pipeline's name"),
    variable("REDIS_OUTPUT_STREAM", "processed", Form::Text, "the stream that is written"),
    variable("REDIS_DLQ_STREAM", "", Form::Text, "the stream of dead letters; unset: each goes whole to the log"),
    variable("USE_DISTRIBUTED_STATE", "false", Form::Switch, "keep state in Redis, so that several processes share it"),
    variable("WORKER_COUNT", "10", Form::Count(WORKERS_MAX as u64), "OS threads that run plugins; changes no result"),
    variable("BATCH_SIZE", "100", Form::Count(BATCH_SIZE_MAX as u64), "the most messages that a plugin is given at once; changes no result"),
    variable("AGGREGATE_MODE", "running", Form::OneOf(&["running", "window"]), "`running`: an answer for each message; `window`: one for each window and type"),
    variable("WINDOW_SIZE_SECONDS", "60", Form::Count(WINDOW_SECONDS_MAX), "the size of the windows, with `AGGREGATE_MODE=window`"),
    variable("PLUGIN_DIR", "./plugins", Form::Text, "the folder whose `*.wasm` are applied"),
    variable("DATA_DIR", "", Form::Text, "the folder in which state outlives the process; unset: it is in memory"),
    variable("SHUTDOWN_TIMEOUT", "30s", Form::Text, "how long an ordered end may take"),
    variable("ENVIRONMENT", "development", Form::Text, "`development` logs for people, anything else logs JSON"),
];

/// What the variables begin with that are librdkafka's settings, for the source, the sinks, or both:
/// `KAFKA_PROP_SECURITY_PROTOCOL` is `security.protocol`. One variable a setting, so that a secret can come
/// from where secrets come from, and a value may hold a comma.
pub const PROPERTY_PREFIX: &str = "KAFKA_PROP_";

/// The variables that make connections to Kafka ones by TLS.
const TLS_VARIABLES: [&str; 4] =
    ["KAFKA_CA_FILE", "KAFKA_CERTIFICATE_FILE", "KAFKA_KEY_FILE", "KAFKA_KEY_PASSWORD"];
/// The variables of a user that has a mechanism.
const USER_VARIABLES: [&str; 3] = ["KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD", "KAFKA_SASL_PASSWORD_FILE"];

/// The address of the HTTP pages where WASMILL_HTTP says nothing: this machine's own.
pub const HTTP_DEFAULT: &str = "127.0.0.1:9464";

/// What a plugin does in a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// It changes messages: first.
    Transform,
    /// It lets messages pass or not: after all transforms.
    Filter,
    /// It gathers messages: last, behind the key.
    Aggregate,
}

/// A plugin that was found in the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its file's name without the ending.
    pub name: String,
    /// All that it does.
    pub roles: Vec<Role>,
    /// Whether it asks for the wall clock.
    pub wall_clock: bool,
}

/// A variable's value with its place.
#[derive(Debug, Clone)]
struct Setting {
    value: String,
    name: Span,
    span: Span,
}

impl Setting {
    fn node(&self) -> Node {
        text(&self.value, self.span)
    }
}

/// The variables, each in its form.
#[derive(Debug)]
pub struct Variables<'e> {
    environment: &'e Environment,
    sources: Sources,
    settings: Vec<(&'static str, Setting)>,
    properties: Vec<(KnownProperty, Setting)>,
}

impl<'e> Variables<'e> {
    /// Reads the variables. An empty one counts as unset.
    ///
    /// # Errors
    /// All variables with a value that they can't have, and a broker that this version has no connector
    /// for.
    pub fn read(environment: &'e Environment) -> Result<Self, Problems> {
        let mut sources = Sources::default();
        // Source 0 is a file's, which relative paths start from: there is none.
        sources.add(NO_FILE, "");
        let mut diagnostics = Vec::new();
        let mut settings = Vec::new();
        for variable in &VARIABLES {
            let given = environment.given(variable.name);
            let Some(value) = given.or(variable.default) else { continue };
            let place = if given.is_some() { "environment" } else { "default" };
            // A secret may have several lines, which would be taken for others.
            let text = if is_secret(variable.name) { "…" } else { value };
            let source = sources.add(place, hide(&format!("{}={text}", variable.name)));
            let at = variable.name.len() + 1;
            let span = Span::new(source, at, at + text.len());
            match variable.form.read(value) {
                Ok(value) => {
                    let name = Span::new(source, 0, variable.name.len());
                    settings.push((variable.name, Setting { value, name, span }));
                }
                Err(expected) => {
                    let shown = if is_secret(variable.name) { "…".to_owned() } else { hide(value) };
                    let title = format!("`{}` can't be `{shown}`", variable.name);
                    let mut diagnostic = Diagnostic::at(span, title, expected);
                    if let Form::OneOf(words) = variable.form
                        && let Some(near) = nearest(&value.to_ascii_lowercase(), words.iter().copied())
                    {
                        diagnostic = diagnostic.help(format!("did you mean `{near}`?"));
                    }
                    diagnostics.push(diagnostic);
                }
            }
        }
        let mut properties = Vec::new();
        for (name, value) in environment.all_given().filter(|(n, _)| n.starts_with(PROPERTY_PREFIX)) {
            let property = property_of(&name[PROPERTY_PREFIX.len()..]);
            // A name with a typo doesn't say that its value is a secret.
            let shown = if property.is_ok() && !is_secret(name) { value } else { "…" };
            let source = sources.add("environment", format!("{name}={shown}"));
            let at = Span::new(source, 0, name.len());
            match property {
                Ok(property) => {
                    let span = Span::new(source, name.len() + 1, name.len() + 1 + shown.len());
                    properties.push((property, Setting { value: value.to_owned(), name: at, span }));
                }
                Err(near) => {
                    let title = format!("`{name}` names no setting of librdkafka");
                    let label = "expected its name in capitals, with `_` for each `.`, behind `KAFKA_PROP_`";
                    let diagnostic = Diagnostic::at(at, title, label);
                    diagnostics.push(match near {
                        Some(near) => diagnostic.help(format!("did you mean `{PROPERTY_PREFIX}{near}`?")),
                        None => diagnostic.help("librdkafka's CONFIGURATION.md lists them"),
                    });
                }
            }
        }
        let variables = Self { environment, sources, settings, properties };
        diagnostics.extend(variables.security_problem());
        if diagnostics.is_empty() {
            Ok(variables)
        } else {
            Err(Problems { sources: variables.sources, diagnostics })
        }
    }

    /// Variables about Kafka's security that don't go together.
    fn security_problem(&self) -> Option<Diagnostic> {
        let first = |names: &[&'static str]| names.iter().find_map(|n| Some((*n, self.setting(n)?)));
        let says_no = self.setting("KAFKA_TLS").filter(|tls| tls.value == "false");
        if let (Some(tls), Some((name, _))) = (says_no, first(&TLS_VARIABLES)) {
            let title = format!("`KAFKA_TLS` says that there is no TLS, and `{name}` is set");
            return Some(Diagnostic::at(tls.span, title, "leave it out, or the other"));
        }
        let mechanism = self.setting("KAFKA_SASL_MECHANISM");
        let (name, there, missing) = match (mechanism, first(&USER_VARIABLES)) {
            (None, Some((name, there))) => (name, there, "KAFKA_SASL_MECHANISM"),
            (Some(there), _) if self.setting("KAFKA_SASL_USERNAME").is_none() => {
                ("KAFKA_SASL_MECHANISM", there, "KAFKA_SASL_USERNAME")
            }
            _ => return None,
        };
        let title = format!("`{name}` is set, and `{missing}` is not");
        Some(Diagnostic::at(there.name, title, "it goes with that: set both, or none"))
    }

    fn setting(&self, name: &str) -> Option<&Setting> {
        self.settings.iter().find(|(n, _)| *n == name).map(|(_, s)| s)
    }

    fn value(&self, name: &str) -> &str {
        self.setting(name).map_or("", |s| s.value.as_str())
    }

    /// The folder of the plugins.
    #[must_use]
    pub fn plugin_dir(&self) -> PathBuf {
        PathBuf::from(self.environment.given("WASMILL_PLUGIN_DIR").unwrap_or(self.value("PLUGIN_DIR")))
    }

    /// A mistake with the folder of the plugins, shown at the variable.
    #[must_use]
    pub fn plugin_dir_problem(&self, title: String, label: &str, help: Vec<String>) -> Problems {
        let mut diagnostic = Diagnostic::new(title);
        diagnostic.span = self.setting("PLUGIN_DIR").map(|s| s.span);
        diagnostic.label = label.to_owned();
        diagnostic.help = help;
        Problems { sources: self.sources.clone(), diagnostics: vec![diagnostic] }
    }

    /// The pipeline: transforms, then filters, then the aggregate, in the order of their names.
    ///
    /// # Errors
    /// Two aggregates, and what is wrong with the keys that `WASMILL_…` variables set.
    pub fn pipeline(mut self, found: &[Found]) -> Result<Pipeline, Problems> {
        let root = match self.stages(found) {
            Ok(stages) => self.root(stages),
            Err(problem) => return Err(problem),
        };
        let environment = self.environment;
        let read = |mut root: Node, sources: &mut Sources| {
            environment.overlay(&mut root, sources)?;
            de::from_node(&root)
        };
        match read(root, &mut self.sources) {
            Ok(raw) => check::check(raw, Path::new(NO_FILE), self.sources),
            Err(mut diagnostic) => {
                super::hide_secrets(&mut diagnostic);
                Err(Problems { sources: self.sources, diagnostics: vec![*diagnostic] })
            }
        }
    }

    fn stages(&mut self, found: &[Found]) -> Result<Node, Problems> {
        let folder = self.plugin_dir().display().to_string();
        let at = self.setting("PLUGIN_DIR").map(|s| s.name).unwrap_or_default();
        let mut plugins: Vec<(Role, &Found)> =
            found.iter().flat_map(|f| f.roles.iter().map(move |role| (*role, f))).collect();
        plugins.sort_by(|(a, f), (b, g)| (a, &f.name).cmp(&(b, &g.name)));
        let aggregates: Vec<&str> =
            plugins.iter().filter(|(r, _)| *r == Role::Aggregate).map(|(_, f)| f.name.as_str()).collect();
        if let [first, second, ..] = aggregates.as_slice() {
            let title = format!("{folder} holds two aggregates, `{first}` and `{second}`");
            let help = vec![
                "take one of them away, or name another folder by PLUGIN_DIR".to_owned(),
                "to choose plugins and their order yourself, write a pipeline file: `wasmill run PIPELINE.yaml`".to_owned(),
            ];
            return Err(self.plugin_dir_problem(title, "a pipeline has one aggregate", help));
        }
        let mut stages = Vec::new();
        for (role, plugin) in plugins {
            let file = format!("{folder}/{}.wasm", plugin.name);
            let start = folder.len() + 1;
            let source = self.sources.add("PLUGIN_DIR", file);
            let span = Span::new(source, start, start + plugin.name.len());
            let mut long = vec![entry("plugin", text(&plugin.name, span))];
            if plugin.wall_clock {
                long.push(entry("grants", Node { value: Value::List(vec![text("wall-clock", span)]), span }));
            }
            // One component may be several things: each is a stage with a name of its own.
            let word = match role {
                Role::Transform => "transform",
                Role::Filter => "filter",
                Role::Aggregate => "aggregate",
            };
            if plugin.roles.first() != Some(&role) {
                long.push(entry("name", text(&format!("{}-{word}", plugin.name), span)));
            }
            let mut stage = vec![entry(word, map(long, span))];
            if role == Role::Aggregate {
                stages.push(map(vec![entry("key_by", text("type", span))], span));
                if self.value("AGGREGATE_MODE") == "window"
                    && let Some(size) = self.setting("WINDOW_SIZE_SECONDS")
                {
                    let size = vec![entry("tumbling", text(&format!("{}s", size.value), size.span))];
                    stage.push(entry("window", map(size, at)));
                }
            }
            stages.push(map(stage, span));
        }
        Ok(Node { value: Value::List(stages), span: at })
    }

    fn root(&self, stages: Node) -> Node {
        let span = self.setting("BROKER_TYPE").map(|s| s.span).unwrap_or_default();
        let Ends { name: named_by, source, sink, dead_letter } = match self.value("BROKER_TYPE") {
            "nats" => self.nats(span),
            "redis" => self.redis(span),
            _ => self.kafka(span),
        };
        let name = self.setting(named_by).map(|s| s.span).unwrap_or(span);
        let mut root = vec![
            entry("name", text(&fit(self.value(named_by)), name)),
            entry("source", source),
            entry("workers", plain(self.node("WORKER_COUNT"))),
            entry("batch_size", plain(self.node("BATCH_SIZE"))),
            entry("plugin_dir", self.node("PLUGIN_DIR")),
            entry("stages", stages),
            entry("sink", sink),
            entry("http", text(HTTP_DEFAULT, span)),
        ];
        root.extend(dead_letter.map(|sink| entry("dead_letter", sink)));
        if self.value("USE_DISTRIBUTED_STATE") == "true" {
            let settings = self.entries(&[("url", "REDIS_URL"), ("ca_file", "REDIS_CA_FILE")]);
            root.push(entry("state", map(vec![entry("redis", map(settings, span))], span)));
        }
        map(root, span)
    }

    /// What a variable is set to. Every one of the table with a default is there.
    fn node(&self, name: &str) -> Node {
        self.setting(name).map_or_else(|| text("", Span::default()), Setting::node)
    }

    /// Settings by the variables that give them, of those that are set.
    fn entries(&self, names: &[(&str, &str)]) -> Vec<Entry> {
        names.iter().filter_map(|(key, name)| Some(entry(key, self.setting(name)?.node()))).collect()
    }

    fn kafka(&self, span: Span) -> Ends {
        let security = self.kafka_security(span);
        let end = |mut settings: Vec<Entry>, has: fn(&KnownProperty) -> bool| {
            settings.extend(security.clone().map(|security| entry("security", security)));
            let properties: Vec<Entry> = self
                .properties
                .iter()
                .filter(|(property, _)| has(property))
                .map(|(property, setting)| Entry {
                    key: property.name.to_owned(),
                    key_span: setting.name,
                    node: setting.node(),
                })
                .collect();
            if !properties.is_empty() {
                settings.push(entry("properties", map(properties, span)));
            }
            map(vec![entry("kafka", map(settings, span))], span)
        };
        let brokers = ("brokers", "KAFKA_BROKERS");
        let source = self.entries(&[brokers, ("topic", "KAFKA_TOPIC"), ("group", "KAFKA_GROUP_ID")]);
        let mut sink = self.entries(&[brokers, ("topic", "KAFKA_OUTPUT_TOPIC")]);
        sink.push(entry("key", text("id", span)));
        let dead_letter = self.setting("KAFKA_DLQ_TOPIC").map(|_| {
            let settings = self.entries(&[brokers, ("topic", "KAFKA_DLQ_TOPIC")]);
            end(settings, |p| p.sink)
        });
        let (source, sink) = (end(source, |p| p.source), end(sink, |p| p.sink));
        Ends { name: "KAFKA_GROUP_ID", source, sink, dead_letter }
    }

    /// TLS and the user, where a variable says so.
    fn kafka_security(&self, span: Span) -> Option<Node> {
        let tls = self.entries(&[
            ("ca_file", "KAFKA_CA_FILE"),
            ("certificate_file", "KAFKA_CERTIFICATE_FILE"),
            ("key_file", "KAFKA_KEY_FILE"),
            ("key_password", "KAFKA_KEY_PASSWORD"),
        ]);
        let sasl = self.entries(&[
            ("mechanism", "KAFKA_SASL_MECHANISM"),
            ("username", "KAFKA_SASL_USERNAME"),
            ("password", "KAFKA_SASL_PASSWORD"),
            ("password_file", "KAFKA_SASL_PASSWORD_FILE"),
        ]);
        let is_tls = self.value("KAFKA_TLS") == "true" || !tls.is_empty();
        let mut security = Vec::new();
        security.extend(is_tls.then(|| entry("tls", map(tls, span))));
        security.extend((!sasl.is_empty()).then(|| entry("sasl", map(sasl, span))));
        (!security.is_empty()).then(|| map(security, span))
    }

    fn nats(&self, span: Span) -> Ends {
        let end = |more: &[(&str, &str)]| {
            let server = [
                ("url", "NATS_URL"),
                ("credentials_file", "NATS_CREDENTIALS_FILE"),
                ("ca_file", "NATS_CA_FILE"),
            ];
            map(vec![entry("nats", map(self.entries(&[&server, more].concat()), span))], span)
        };
        Ends {
            name: "NATS_CONSUMER",
            source: end(&[("stream", "NATS_STREAM"), ("consumer", "NATS_CONSUMER")]),
            sink: end(&[("subject", "NATS_OUTPUT_SUBJECT")]),
            dead_letter: self.setting("NATS_DLQ_SUBJECT").map(|_| end(&[("subject", "NATS_DLQ_SUBJECT")])),
        }
    }

    fn redis(&self, span: Span) -> Ends {
        let end = |more: &[(&str, &str)]| {
            let server = [("url", "REDIS_URL"), ("ca_file", "REDIS_CA_FILE")];
            map(vec![entry("redis", map(self.entries(&[&server, more].concat()), span))], span)
        };
        Ends {
            name: "REDIS_GROUP",
            source: end(&[("stream", "REDIS_STREAM"), ("group", "REDIS_GROUP")]),
            sink: end(&[("stream", "REDIS_OUTPUT_STREAM")]),
            dead_letter: self.setting("REDIS_DLQ_STREAM").map(|_| end(&[("stream", "REDIS_DLQ_STREAM")])),
        }
    }
}

/// Where messages come from and go to.
struct Ends {
    /// The variable that the pipeline is named by.
    name: &'static str,
    source: Node,
    sink: Node,
    dead_letter: Option<Node>,
}

fn text(text: &str, span: Span) -> Node {
    // Quoted, as it were: `123` is a topic's name, and so is `null`.
    Node { value: Value::Scalar(Scalar { text: text.to_owned(), plain: false }), span }
}

fn plain(mut node: Node) -> Node {
    if let Value::Scalar(scalar) = &mut node.value {
        scalar.plain = true;
    }
    node
}

fn map(entries: Vec<Entry>, span: Span) -> Node {
    Node { value: Value::Map(entries), span }
}

fn entry(key: &str, node: Node) -> Entry {
    Entry { key: key.to_owned(), key_span: node.span, node }
}

/// A consumer group's name as a pipeline can have it.
fn fit(group: &str) -> String {
    let right = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
    let name: String = group.chars().map(right).collect();
    let name = name.trim_start_matches(['-', '_', '.']);
    let name = &name[..name.len().min(super::NAME_BYTES_MAX)];
    if name.is_empty() { "pipeline".to_owned() } else { name.to_owned() }
}

impl Form {
    /// The value as it is used, or what was expected.
    fn read(self, value: &str) -> Result<String, String> {
        let is = |right: bool, expected: &str| {
            if right { Ok(value.to_owned()) } else { Err(format!("expected {expected}")) }
        };
        let clean = !value.chars().any(|c| c.is_whitespace() || c.is_control());
        let tidy = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        match self {
            Self::Count(max) => match value.parse::<u64>() {
                Ok(n) if n >= 1 && n <= max && value.starts_with(|c: char| c.is_ascii_digit()) => {
                    Ok(n.to_string())
                }
                _ => Err(format!("expected a whole number from 1 to {max}")),
            },
            Self::Switch => match value.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Ok("true".to_owned()),
                "false" | "0" | "no" | "off" => Ok("false".to_owned()),
                _ => Err("expected true, 1, yes, on or false, 0, no, off".to_owned()),
            },
            Self::OneOf(words) => words
                .iter()
                .find(|w| w.eq_ignore_ascii_case(value))
                .map(|w| (*w).to_owned())
                .ok_or_else(|| format!("expected one of {}", words.join(", "))),
            Self::Brokers => is(value.split(',').all(is_broker), "HOST:PORT, several with commas between"),
            Self::Topic => is(
                value.len() <= TOPIC_BYTES_MAX && value.chars().all(tidy) && !matches!(value, "." | ".."),
                "a topic's name: letters, digits, `.`, `_` and `-`, at most 249",
            ),
            Self::Url(schemes) => {
                let expected = format!("a URL such as {}://HOST:PORT", schemes[0]);
                is(server_of(value, schemes).is_some(), &expected)
            }
            Self::NatsName => is(
                clean && !value.contains(['.', '*', '>', '/', '\\']),
                "a name without spaces, `.`, `*`, `>`, `/` and `\\`",
            ),
            Self::Subject => is(
                clean && value.split('.').all(|t| !t.is_empty() && !t.contains(['*', '>'])),
                "a subject without spaces and wildcards, such as `processed`",
            ),
            Self::Text => is(!value.chars().any(char::is_control), "a text without control characters"),
        }
    }
}

fn is_broker(text: &str) -> bool {
    let text = text.trim();
    let (host, port) = text.rsplit_once(':').unwrap_or((text, "9092"));
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    !host.is_empty() && host.chars().all(fine) && port.parse::<u16>().is_ok_and(|p| p > 0)
}

#[cfg(test)]
#[path = "variables_tests.rs"]
mod tests;

//! What grants mean, and the secrets and tables that they name.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use wasmill_plugin::{HttpMethod, Origin};

use super::Checker;
use crate::report::{Span, nearest};
use crate::spec::granted::{Granted, HttpSpec, LookupSpec, SecretFrom, SecretSpec, TableForm};
use crate::spec::located::Located;
use crate::spec::raw::Grant;
use crate::spec::raw_grants::{RawGrant, RawHttp, RawLookup, RawMethod, RawSecret};

/// What may be asked in a second where the grant says nothing, and at most.
const RATE_DEFAULT: usize = 100;
const RATE_MAX: u32 = 100_000;
/// How many requests are under way where the grant says nothing, and at most.
const CONCURRENCY_DEFAULT: usize = 16;
const CONCURRENCY_MAX: u32 = 256;
/// How long a request may take where the grant says nothing, and at most: so long a lane stands still.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// The greatest body of an answer where the grant says nothing, and at most.
const RESPONSE_DEFAULT: usize = 1 << 20;
const RESPONSE_MAX: u64 = 64 << 20;
/// The most memory of a table where it says nothing, and at most.
const LOOKUP_DEFAULT: usize = 64 << 20;
const LOOKUP_MAX: u64 = 2 << 30;

/// The names that grants may name.
#[derive(Debug, Default)]
pub(super) struct Named {
    secrets: Vec<String>,
    lookups: Vec<String>,
}

type Written<T> = Option<Located<BTreeMap<String, Located<T>>>>;

impl Checker {
    /// The pipeline's secrets.
    pub(super) fn secrets(&mut self, raw: Written<RawSecret>) -> BTreeMap<String, SecretSpec> {
        let mut secrets = BTreeMap::new();
        for (name, Located { value: RawSecret { env, file }, span }) in
            raw.map(|r| r.value).unwrap_or_default()
        {
            self.name("secret", &Located { value: name.clone(), span });
            self.named.secrets.push(name.clone());
            let from = match (env, file) {
                (Some(env), None) => SecretFrom::Variable { name: env.value, value: None },
                (None, Some(file)) => SecretFrom::File(self.relative(&file)),
                (Some(_), Some(_)) => {
                    self.wrong(
                        span,
                        format!("the secret `{name}` has both `env` and `file`"),
                        "take one away",
                    );
                    continue;
                }
                (None, None) => {
                    let title = format!("the secret `{name}` comes from nowhere");
                    self.wrong(span, title, "expected `{ env: VARIABLE }` or `{ file: PATH }`");
                    continue;
                }
            };
            secrets.insert(name, SecretSpec { from, span, value: Arc::default() });
        }
        secrets
    }

    /// The pipeline's tables.
    pub(super) fn lookups(&mut self, raw: Written<RawLookup>) -> BTreeMap<String, LookupSpec> {
        let mut lookups = BTreeMap::new();
        for (name, Located { value: RawLookup { file, key, bytes_max }, span }) in
            raw.map(|r| r.value).unwrap_or_default()
        {
            self.name("lookup", &Located { value: name.clone(), span });
            self.named.lookups.push(name.clone());
            let bytes_max =
                self.size_within("lookups.bytes_max", bytes_max, 1 << 10..=LOOKUP_MAX, LOOKUP_DEFAULT);
            let Some(form) = TableForm::of(Path::new(&file.value)) else {
                let title = format!("the table `{name}` is in a file of an unknown kind");
                self.wrong(file.span, title, "expected a name that ends in .csv or .jsonl");
                continue;
            };
            let file = self.relative(&file);
            let table = Arc::default();
            lookups.insert(name, LookupSpec { file, form, key: key.value, bytes_max, span, table });
        }
        lookups
    }

    /// A stage's grants: their names, each once, and what they say beyond these.
    pub(super) fn grants(&mut self, raw: Vec<Located<RawGrant>>) -> (Vec<Grant>, Granted) {
        let (mut names, mut granted): (Vec<Grant>, Granted) = (Vec::new(), Granted::default());
        for Located { value, span } in raw {
            let grant = value.grant();
            // Names may stand in several items.
            let is_list = matches!(grant, Grant::Secrets | Grant::Lookup);
            if names.contains(&grant) && !is_list {
                self.wrong(span, "this grant stands twice", "take one away");
                continue;
            }
            if !names.contains(&grant) {
                names.push(grant);
            }
            match value {
                RawGrant::Name(_) => {}
                RawGrant::Secrets(list) => {
                    self.names_of(("secret", "secrets"), list, span, &mut granted.secrets)
                }
                RawGrant::Lookup(list) => {
                    self.names_of(("lookup", "lookups"), list, span, &mut granted.lookups)
                }
                RawGrant::Http(http) => granted.http = Some(self.http(*http, span)),
            }
        }
        (names, granted)
    }

    /// The names of a list, each of which the pipeline must have.
    fn names_of(
        &mut self,
        (one, key): (&str, &str),
        list: Vec<Located<String>>,
        span: Span,
        into: &mut Vec<String>,
    ) {
        if list.is_empty() {
            self.wrong(span, format!("a grant of no {one}"), "expected a list of names");
        }
        for name in list {
            let known = if one == "secret" { &self.named.secrets } else { &self.named.lookups };
            if into.contains(&name.value) {
                self.wrong(name.span, format!("the {one} `{}` stands twice", name.value), "take one away");
            } else if known.contains(&name.value) {
                into.push(name.value);
            } else {
                let near = nearest(&name.value, known.iter().map(String::as_str));
                let label = match (near, known.is_empty()) {
                    (Some(near), _) => format!("did you mean `{near}`?"),
                    (None, true) => format!("the pipeline has no `{key}`"),
                    (None, false) => format!("`{key}` has {}", quoted(known)),
                };
                let title = format!("the pipeline has no {one} `{}`", name.value);
                let example = match one {
                    "secret" => "{ env: VARIABLE }",
                    _ => "{ file: data/TABLE.csv, key: COLUMN }",
                };
                let help =
                    format!("name it at the top of the spec: `{key}: {{ {}: {example} }}`", name.value);
                self.wrong(name.span, title, label).help.push(help);
            }
        }
    }

    fn http(&mut self, raw: RawHttp, span: Span) -> HttpSpec {
        let RawHttp { allow, methods, rate_per_second, timeout, concurrency, response_bytes_max } = raw;
        if allow.value.is_empty() {
            self.wrong(allow.span, "`http.allow` is empty", "expected one origin at least");
        }
        let mut origins: Vec<Origin> = Vec::new();
        for origin in allow.value {
            match origin.value.parse::<Origin>() {
                Ok(known) if origins.contains(&known) => {
                    self.wrong(origin.span, format!("`{known}` stands twice"), "take one away");
                }
                Ok(new) => origins.push(new),
                Err(why) => {
                    let (why, label) = why.split_once(": ").unwrap_or((&why, "not this"));
                    let shown = crate::spec::secrets::hide(&origin.value);
                    self.wrong(origin.span, format!("`http.allow`: `{shown}`: {why}"), label);
                }
            }
        }
        let methods = match methods {
            None => vec![HttpMethod::Get],
            Some(given) => {
                if given.value.is_empty() {
                    self.wrong(given.span, "`http.methods` is empty", "expected one method at least");
                }
                given.value.into_iter().map(|m| method(m.value)).collect()
            }
        };
        let given_timeout = timeout.as_ref().map(|t| t.span);
        let timeout = self.duration("http.timeout", timeout, 1, TIMEOUT_DEFAULT);
        if let Some(place) = given_timeout.filter(|_| timeout > TIMEOUT_MAX) {
            self.wrong(place, "`http.timeout` is longer than a minute", "must be at most 1m");
        }
        let rate = self.count("http.rate_per_second", rate_per_second, RATE_MAX, RATE_DEFAULT);
        HttpSpec {
            allow: origins,
            methods,
            rate_per_second: u32::try_from(rate).unwrap_or(RATE_MAX),
            timeout,
            concurrency: self.count("http.concurrency", concurrency, CONCURRENCY_MAX, CONCURRENCY_DEFAULT),
            response_bytes_max: self.size_within(
                "http.response_bytes_max",
                response_bytes_max,
                1..=RESPONSE_MAX,
                RESPONSE_DEFAULT,
            ),
            span,
            client: Arc::default(),
        }
    }
}

fn method(raw: RawMethod) -> HttpMethod {
    match raw {
        RawMethod::Get => HttpMethod::Get,
        RawMethod::Head => HttpMethod::Head,
        RawMethod::Post => HttpMethod::Post,
        RawMethod::Put => HttpMethod::Put,
        RawMethod::Patch => HttpMethod::Patch,
        RawMethod::Delete => HttpMethod::Delete,
        RawMethod::Options => HttpMethod::Options,
    }
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

//! What a case gives its plugin in the place of secrets, tables and servers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use wasmill_plugin::{
    Grants, HttpGrant, HttpMethod, HttpRequest, HttpResponse, LookupBuilder, Outgoing, Secrets,
};

/// The most memory of a case's table.
const LOOKUP_BYTES_MAX: usize = 64 << 20;

/// What is given; with it goes the grant.
#[derive(Debug, Clone, Default)]
pub struct Given {
    pub secrets: Option<BTreeMap<String, String>>,
    pub lookups: Option<BTreeMap<String, BTreeMap<String, Value>>>,
    pub http: Option<BTreeMap<String, Answer>>,
}

/// What a URL is answered with.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    #[serde(default = "ok")]
    status: u16,
    /// A text as it is, anything else as JSON.
    #[serde(default)]
    body: Value,
}

fn ok() -> u16 {
    200
}

impl Answer {
    fn response(&self) -> HttpResponse {
        let body = match &self.body {
            Value::Null => Vec::new(),
            Value::String(text) => text.clone().into_bytes(),
            json => json.to_string().into_bytes(),
        };
        HttpResponse { status: self.status, headers: Vec::new(), body }
    }
}

/// Answers what the case says.
struct Answers(BTreeMap<String, Answer>);

impl Outgoing for Answers {
    fn send(&self, requests: Vec<HttpRequest>, _: usize, _: Duration) -> Vec<Result<HttpResponse, String>> {
        let answer = |request: HttpRequest| match self.0.get(&request.url) {
            Some(answer) => Ok(answer.response()),
            None => Err(format!("the case's `http` has no answer for {}", request.url)),
        };
        requests.into_iter().map(answer).collect()
    }
}

impl Given {
    /// The grants, with these.
    ///
    /// # Errors
    /// A URL or a table that can't be.
    pub fn to(&self, mut grants: Grants) -> Result<Grants, String> {
        if let Some(secrets) = &self.secrets {
            let bytes = secrets.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes()));
            grants = grants.with_secrets(Secrets::new(bytes));
        }
        if let Some(lookups) = &self.lookups {
            let mut tables = Vec::new();
            for (name, rows) in lookups {
                let mut table = LookupBuilder::new(LOOKUP_BYTES_MAX);
                for (key, row) in rows {
                    table
                        .push(key, row.to_string().as_bytes())
                        .map_err(|e| format!("`lookups.{name}`: {e}"))?;
                }
                tables.push((name.clone(), Arc::new(table.finish())));
            }
            grants = grants.with_lookups(tables);
        }
        if let Some(http) = &self.http {
            let mut allow = Vec::new();
            for url in http.keys() {
                // An origin is what stands before the path.
                let path = url.find("://").and_then(|at| Some(at + 3 + url[at + 3..].find('/')?));
                let Some(path) = path else {
                    return Err(format!("`http`: `{url}` is no URL with a path, such as https://HOST/PATH"));
                };
                allow.push(url[..path].parse().map_err(|e| format!("`http`: `{url}`: {e}"))?);
            }
            let client = Arc::new(Answers(http.clone()));
            grants = grants.with_http(HttpGrant {
                allow,
                methods: HttpMethod::ALL.to_vec(),
                rate_per_second: u32::MAX,
                client,
            });
        }
        Ok(grants)
    }
}

//! What stages are granted beyond a name: secrets, outgoing HTTP, tables.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use wasmill_connect::codec::secret::Secret;
use wasmill_plugin::{HttpMethod, Origin};

use super::node::{Node, Scalar, Value};
use super::{Environment, Pipeline};
use crate::grants::{Client, Hidden, Table};
use crate::report::{Sources, Span};

/// What a stage is granted of the pipeline's secrets and tables, and of HTTP.
#[derive(Debug, Clone, Default)]
pub struct Granted {
    /// Secrets by name, each once.
    pub secrets: Vec<String>,
    /// Outgoing HTTP.
    pub http: Option<HttpSpec>,
    /// Tables by name, each once.
    pub lookups: Vec<String>,
}

/// A grant of outgoing HTTP.
#[derive(Debug, Clone)]
pub struct HttpSpec {
    /// Whom requests may go to; at least one.
    pub allow: Vec<Origin>,
    /// By which methods; at least one.
    pub methods: Vec<HttpMethod>,
    /// How many requests go out in any second.
    pub rate_per_second: u32,
    /// How long a request may take.
    pub timeout: Duration,
    /// How many are under way at once.
    pub concurrency: usize,
    /// The greatest body of an answer.
    pub response_bytes_max: usize,
    /// Where the grant is written.
    pub span: Span,
    /// What sends them, once it is made: one for all that the stage ever loads, so that the bounds hold.
    pub(crate) client: Arc<OnceLock<Result<Arc<Client>, String>>>,
}

/// Where a secret comes from.
#[derive(Debug, Clone)]
pub struct SecretSpec {
    /// Where.
    pub from: SecretFrom,
    /// Where it is written.
    pub span: Span,
    /// Its value, once it is read.
    pub(crate) value: Arc<OnceLock<Result<Hidden, String>>>,
}

/// Where a secret comes from.
#[derive(Debug, Clone)]
pub enum SecretFrom {
    /// An environment variable.
    Variable {
        /// Its name.
        name: String,
        /// What it says, where it is set.
        value: Option<Secret>,
    },
    /// A file.
    File(PathBuf),
}

/// A table.
#[derive(Debug, Clone)]
pub struct LookupSpec {
    /// Its file.
    pub file: PathBuf,
    /// How the file is written.
    pub form: TableForm,
    /// The column or field that rows are found by.
    pub key: String,
    /// The most memory that it may take.
    pub bytes_max: usize,
    /// Where it is written.
    pub span: Span,
    /// The table, once it is read: all stages look into one.
    pub(crate) table: Arc<OnceLock<Result<Table, String>>>,
}

/// How a table's file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableForm {
    /// CSV with a line of names.
    Csv,
    /// A JSON object a line.
    JsonLines,
}

impl TableForm {
    /// By a file's name.
    #[must_use]
    pub fn of(file: &Path) -> Option<Self> {
        match file.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            _ => None,
        }
    }
}

impl Pipeline {
    /// Takes what the environment says of secrets. That one is missing is an error of whoever is granted it.
    pub(super) fn take_secrets(&mut self, environment: &Environment) {
        for secret in self.secrets.values_mut() {
            if let SecretFrom::Variable { name, value } = &mut secret.from {
                *value = environment.given(name).map(Secret::new);
            }
        }
    }

    /// The tables that stages are granted, by name.
    #[must_use]
    pub fn granted_lookups(&self) -> BTreeMap<&str, &LookupSpec> {
        let stages = self.stages.iter().filter_map(|s| s.plugin());
        let names = stages.flat_map(|p| &p.granted.lookups);
        names.filter_map(|name| Some((name.as_str(), self.lookups.get(name)?))).collect()
    }
}

/// Hides what stands under `secrets` in a secret's own place: somebody may take that for where it belongs, and
/// mistakes quote their line.
pub(super) fn hide_written(root: &Node, sources: &mut Sources) {
    let Some(Value::Map(secrets)) = root.get("secrets").map(|entry| &entry.node.value) else { return };
    for secret in secrets {
        if let Value::Scalar(Scalar { text, .. }) = &secret.node.value
            && !text.is_empty()
        {
            sources.hide(secret.node.span);
        }
    }
}

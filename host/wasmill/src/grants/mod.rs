//! What stands behind the grants of a pipeline's stages: secrets are read, tables loaded, clients made. Once a
//! pipeline: what is read at its start stays, whatever is loaded later.

mod http;
mod table;

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use wasmill_plugin::{Grant, Grants, HttpGrant, Outgoing, Secrets};

pub(crate) use http::Client;
pub use table::Table;

use crate::report::Span;
use crate::spec::{Granted, HttpSpec, LookupSpec, Pipeline, SecretFrom, SecretSpec};

/// The greatest secret.
const SECRET_BYTES_MAX: usize = 64 << 10;

/// What a grant names and can't be had.
#[derive(Debug)]
pub struct Missing {
    /// What, why, and what to do.
    pub what: String,
    /// Where it is written.
    pub span: Span,
}

/// Bytes that are shown nowhere.
#[derive(Clone)]
pub(crate) struct Hidden(Vec<u8>);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Puts behind a stage's grants what they name.
///
/// # Errors
/// The first that can't be had.
pub fn behind(pipeline: &Pipeline, granted: &Granted, mut grants: Grants) -> Result<Grants, Missing> {
    if grants.has(Grant::Secrets) {
        let mut secrets = Vec::new();
        for (name, spec) in granted.secrets.iter().filter_map(|n| Some((n, pipeline.secrets.get(n)?))) {
            let value = spec.value.get_or_init(|| secret(spec).map(Hidden)).as_ref();
            let value = value.map_err(|why| missing("secret", name, why, spec.span))?;
            secrets.push((name.clone(), value.0.clone()));
        }
        grants = grants.with_secrets(Secrets::new(secrets));
    }
    if grants.has(Grant::Lookup) {
        let mut tables = Vec::new();
        for (name, spec) in granted.lookups.iter().filter_map(|n| Some((n, pipeline.lookups.get(n)?))) {
            let table = spec.table().map_err(|why| missing("table", name, why, spec.span))?;
            tables.push((name.clone(), Arc::clone(&table.rows)));
        }
        grants = grants.with_lookups(tables);
    }
    if let Some(spec) = &granted.http {
        let client = spec.client().map_err(|what| Missing { what, span: spec.span })?;
        grants = grants.with_http(HttpGrant {
            allow: spec.allow.clone(),
            methods: spec.methods.clone(),
            rate_per_second: spec.rate_per_second,
            client: client as Arc<dyn Outgoing>,
        });
    }
    Ok(grants)
}

fn missing(what: &str, name: &str, why: &str, span: Span) -> Missing {
    Missing { what: format!("the {what} `{name}`: {why}"), span }
}

fn secret(spec: &SecretSpec) -> Result<Vec<u8>, String> {
    let value = match &spec.from {
        SecretFrom::Variable { name, value } => match value {
            Some(value) => value.reveal().as_bytes().to_vec(),
            None => return Err(format!("the environment variable `{name}` is not set")),
        },
        SecretFrom::File(file) => {
            let mut value = read_bounded(file, SECRET_BYTES_MAX)?;
            // Editors and `echo` end a file by a line's end, which is no part of the secret.
            if value.ends_with(b"\n") {
                value.pop();
                value.pop_if(|last| *last == b'\r');
            }
            if value.is_empty() {
                return Err(format!("{} is empty", file.display()));
            }
            value
        }
    };
    match value.len() {
        ..=SECRET_BYTES_MAX => Ok(value),
        length => Err(format!("it has {length} bytes; a secret has at most {SECRET_BYTES_MAX}")),
    }
}

/// A file's bytes.
fn read_bounded(file: &Path, bytes_max: usize) -> Result<Vec<u8>, String> {
    let shown = file.display();
    let mut bytes = Vec::new();
    let read =
        std::fs::File::open(file).and_then(|file| file.take(bytes_max as u64 + 1).read_to_end(&mut bytes));
    match read {
        Err(e) => Err(format!("can't read {shown}: {e}")),
        Ok(length) if length > bytes_max => Err(format!("{shown} has more than {bytes_max} bytes")),
        Ok(_) => Ok(bytes),
    }
}

impl LookupSpec {
    /// The table, read when it is first asked for.
    ///
    /// # Errors
    /// Why it can't be had.
    pub fn table(&self) -> Result<&Table, &str> {
        self.table.get_or_init(|| Table::read(self)).as_ref().map_err(String::as_str)
    }
}

impl HttpSpec {
    fn client(&self) -> Result<Arc<Client>, String> {
        self.client.get_or_init(|| Client::new(self).map(Arc::new)).clone()
    }
}

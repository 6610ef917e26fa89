//! What a user sets, and which database that is.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use super::sink::PostgresSink;
use crate::table::SinkConnector;
use crate::{ConnectorError, Sink, SinkTraits};

/// The schema of wasmill's own tables, where none is set.
pub(super) const SCHEMA: &str = "wasmill";

/// What a row does where one with its key is there already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It is one more row; where a unique index forbids that, the message becomes a dead letter.
    #[default]
    Insert,
    /// It takes that one's place: `INSERT … ON CONFLICT (key) DO UPDATE`.
    Upsert,
}

/// Whether the connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    /// It is not.
    Disable,
    /// It is, where the server can; who the server is, is not checked.
    Prefer,
    /// It must be; who the server is, is not checked.
    Require,
    /// It must be, and the server must prove by its certificate that it is the host of the address.
    Verify,
}

/// A table of PostgreSQL (13 or newer): a row a message. Where the pipeline's state and positions are in the same
/// database, they are committed in the rows' own transaction.
///
/// A value must fit its column's type, else the message becomes a dead letter that says why: true and false; whole
/// numbers, within the type's range; any number for real, double precision and numeric (there also as text); any
/// value for text and json; times as RFC 3339 or milliseconds since 1970, dates as 2013-01-31; bytea as base64, or
/// as hex after `\x`; arrays of these. What stands in the envelope as text (id, type, key, metadata) may be a number
/// for a column of numbers. Any other type, as an enum or inet, is read from its text by the server.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PostgresSinkSpec {
    /// Where the database is, and who writes: `postgres://user@host:5432/database`. A password may stand in it
    /// (`user:password@`), better as `${VARIABLE}`, or in `password_file`.
    pub url: String,
    /// The table, with its schema if that is not in the user's search path: `delays`, `public.delays`. Upper and
    /// lower case count. It must exist.
    pub table: String,
    /// Which column gets what of a message: `{ id: id, carrier: payload.carrier, at: timestamp, raw: payload }`.
    /// The places are id, type, key, timestamp, payload, payload.FIELD, metadata and metadata.NAME; what is not
    /// there is NULL. Columns that are not named get their defaults. Default: the columns of the table that are
    /// named id, type, key, timestamp, payload or metadata get these.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// What a row does where one with its key is there already: insert (one more row, or a dead letter where a
    /// unique index forbids it) or upsert (it takes that one's place). Default: insert.
    #[serde(default)]
    pub mode: Mode,
    /// With `mode: upsert`: the columns that a row is known by. A unique index over exactly these must exist.
    /// Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<String>,
    /// A file that holds the password, read at each connect. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Whether the connection is encrypted: disable, prefer, require or verify. Default: verify where there is a
    /// `ca_file`, else what the address says as `sslmode`, else prefer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// A file of certificates in PEM that are trusted beside the system's. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The certificate in PEM that the server knows the user by, with `key_file`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// The key in PEM of `cert_file`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// The schema of wasmill's own tables, which is made if missing. Default: wasmill.
    #[serde(default = "own_schema", skip_serializing_if = "is_own_schema")]
    pub schema: String,
}

fn own_schema() -> String {
    SCHEMA.to_owned()
}

fn is_own_schema(schema: &str) -> bool {
    schema == SCHEMA
}

impl fmt::Debug for PostgresSinkSpec {
    // Without the address, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("PostgresSinkSpec");
        shown.field("at", &self.address()).field("table", &self.table).field("columns", &self.columns);
        shown.field("mode", &self.mode).field("key", &self.key).finish_non_exhaustive()
    }
}

/// Where a database is, and how wasmill gets in.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresAddress {
    /// `postgres://user@host:5432/database`, perhaps with a password.
    pub url: String,
    /// A file that holds the password.
    pub password_file: Option<PathBuf>,
    /// Whether the connection is encrypted; none: as the other settings have it.
    pub tls: Option<Tls>,
    /// A file of certificates in PEM that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// The certificate in PEM that the server knows the user by.
    pub cert_file: Option<PathBuf>,
    /// The key in PEM of that certificate.
    pub key_file: Option<PathBuf>,
    /// The schema of wasmill's own tables.
    pub schema: String,
}

impl PostgresAddress {
    /// An address with the defaults.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            password_file: None,
            tls: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            schema: own_schema(),
        }
    }

    /// The address as the client reads it.
    pub(super) fn config(&self) -> Result<Config, String> {
        let shape = "expected postgres://user[:password]@host[:port]/database";
        // The URL is not shown, for it may hold a password.
        let config = Config::from_str(&self.url).map_err(|e| {
            let cause = std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string);
            format!("url: this is no address of a PostgreSQL database ({cause}): {shape}")
        })?;
        if config.get_hosts().is_empty() {
            return Err(format!("url: it names no host: {shape}"));
        }
        if config.get_user().is_none() {
            return Err(format!("url: it names no user: {shape}"));
        }
        Ok(config)
    }

    /// The address as it may be shown: without user and password.
    #[must_use]
    pub fn shown(&self) -> String {
        let Ok(config) = self.config() else { return "postgres://?".to_owned() };
        let ports = config.get_ports();
        let host = |(i, host): (usize, &Host)| {
            let port = ports.get(i).or_else(|| ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) => format!("{name}:{port}"),
                #[cfg(unix)]
                Host::Unix(path) => format!("{}:{port}", path.display()),
            }
        };
        let hosts: Vec<String> = config.get_hosts().iter().enumerate().map(host).collect();
        format!("postgres://{}/{}", hosts.join(","), database(&config))
    }
}

fn database(config: &Config) -> &str {
    config.get_dbname().or_else(|| config.get_user()).unwrap_or_default()
}

impl fmt::Debug for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl PostgresSinkSpec {
    /// A spec with the defaults.
    #[must_use]
    pub fn new(url: impl Into<String>, table: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            table: table.into(),
            columns: BTreeMap::new(),
            mode: Mode::default(),
            key: Vec::new(),
            password_file: None,
            tls: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            schema: own_schema(),
        }
    }

    /// Where its database is.
    #[must_use]
    pub fn address(&self) -> PostgresAddress {
        PostgresAddress {
            url: self.url.clone(),
            password_file: self.password_file.clone(),
            tls: self.tls,
            ca_file: self.ca_file.clone(),
            cert_file: self.cert_file.clone(),
            key_file: self.key_file.clone(),
            schema: self.schema.clone(),
        }
    }

    /// Whether one transaction can hold what both write: the same database, as the same user.
    #[must_use]
    pub fn is_same_database(&self, other: &Self) -> bool {
        let (Ok(one), Ok(two)) = (self.address().config(), other.address().config()) else { return false };
        let ports = |c: &Config| {
            let ports = c.get_ports().to_vec();
            if ports.is_empty() { vec![5432] } else { ports }
        };
        one.get_hosts() == two.get_hosts()
            && ports(&one) == ports(&two)
            && one.get_user() == two.get_user()
            && database(&one) == database(&two)
            && self.schema == other.schema
    }

    /// What can be seen to be wrong without connecting.
    pub(super) fn check(&self) -> Result<(), ConnectorError> {
        let fatal = |text: String| Err(ConnectorError::Fatal(text));
        self.address().config().map_err(ConnectorError::Fatal)?;
        for (field, text) in [("table", &self.table), ("schema", &self.schema)] {
            if text.split('.').any(|part| part.trim().is_empty()) || text.contains('\0') {
                return fatal(format!("{field}: `{text}` is no name; set it"));
            }
        }
        if self.schema.contains('.') || self.table.split('.').count() > 2 {
            return fatal("table: expected a table's name, or its schema, a dot and its name".into());
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            return fatal("cert_file and key_file belong together: set both, or neither".into());
        }
        match (self.mode, self.key.is_empty()) {
            (Mode::Upsert, true) => {
                return fatal("key: `mode: upsert` needs the columns that a row is known by; set it".into());
            }
            (Mode::Insert, false) => {
                return fatal("key: it is for `mode: upsert`; set that, or remove `key`".into());
            }
            _ => {}
        }
        for (column, place) in &self.columns {
            if let Err(e) = place.parse::<super::encoder::Place>() {
                return fatal(format!("columns: {column}: {e}"));
            }
        }
        let unknown = |key: &&String| !self.columns.is_empty() && !self.columns.contains_key(*key);
        if let Some(key) = self.key.iter().find(unknown) {
            return fatal(format!("key: `{key}` is not among `columns`: say there what it gets"));
        }
        Ok(())
    }

    /// What a sink of this spec is like, where the pipeline is committed elsewhere.
    pub(super) fn like_alone(&self) -> SinkTraits {
        SinkTraits { transactional: false, refuses_repeats: self.mode == Mode::Upsert, by_token: false }
    }
}

impl SinkConnector for PostgresSinkSpec {
    fn refuses_codec(&self) -> Option<&'static str> {
        Some("a row has columns: `columns` says what goes into each")
    }

    const CONDITIONS: &'static [&'static str] =
        &["what PostgreSQL answered is kept with `synchronous_commit` on"];

    fn traits(&self) -> SinkTraits {
        self.like_alone()
    }

    fn sink(&self) -> Result<Box<dyn Sink>, ConnectorError> {
        Ok(Box::new(PostgresSink::alone(self.clone())?))
    }
}

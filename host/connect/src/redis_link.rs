//! A connection to Redis that is made anew when it broke, and what each error means.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::{
    Client, Connection, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisError, RedisResult,
    ServerErrorKind, TlsCertificates,
};
use wasmill_engine::state::StoreError;

use crate::{ConnectorError, os};

/// How long Redis may take to take a connection, or to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Where a Redis server is, and how it is known for the right one.
#[derive(Clone, Default)]
pub struct RedisAddress {
    /// `redis://…`, or `rediss://…` for TLS.
    pub url: String,
    /// With TLS: a file of certificates in PEM that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
}

impl<T: AsRef<str>> From<T> for RedisAddress {
    fn from(url: T) -> Self {
        Self { url: url.as_ref().to_owned(), ca_file: None }
    }
}

impl RedisAddress {
    fn client(&self, password: Option<&str>) -> Result<Client, String> {
        let info = info(&self.url)?;
        let info = match password {
            None => info,
            Some(password) => {
                let settings = info.redis_settings().clone().set_password(password);
                info.set_redis_settings(settings)
            }
        };
        let Some(file) = &self.ca_file else { return Client::open(info).map_err(|e| no_address(&e)) };
        let shown = file.display();
        let root_cert = std::fs::read(file)
            .map_err(|e| format!("its `ca_file` {shown} can't be read: {}", crate::os::cause(&e)))?;
        let trusted = TlsCertificates { client_tls: None, root_cert: Some(root_cert) };
        Client::build_with_tls(info, trusted).map_err(|e| {
            format!("with the certificates of {shown}: {e}; the file must hold certificates in PEM, and the address must begin with rediss://")
        })
    }
}

/// Checks a Redis address; answers it as it may be shown, without its password.
///
/// # Errors
/// What is wrong with it, without showing it.
pub fn check_url(url: &str) -> Result<String, String> {
    info(url).map(|info| shown(&info))
}

fn info(url: &str) -> Result<ConnectionInfo, String> {
    url.into_connection_info().map_err(|e| no_address(&e))
}

/// The URL is not shown, for it may hold a password.
fn no_address(e: &RedisError) -> String {
    format!(
        "this is no Redis address ({e}): expected redis://[user:password@]host[:port][/database], or rediss:// for TLS"
    )
}

fn shown(info: &ConnectionInfo) -> String {
    let scheme = match info.addr() {
        redis::ConnectionAddr::TcpTls { .. } => "rediss",
        _ => "redis",
    };
    let database = match info.redis_settings().db() {
        0 => String::new(),
        database => format!("/{database}"),
    };
    format!("{scheme}://{}{database}", info.addr())
}

/// What to do about errors that mean something else to each user of Redis.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Advice {
    /// Which commands and keys the user must be allowed.
    pub no_permission: &'static str,
    /// What it means that a key is of another type.
    pub wrong_type: &'static str,
}

/// A connection, and how to make it again.
pub(crate) struct Link {
    at: RedisAddress,
    /// A file with the password, read at each connect.
    password_file: Option<PathBuf>,
    advice: Advice,
    connection: Option<Connection>,
    /// The address, without its password.
    address: String,
}

impl Link {
    /// A link to an address; nothing is connected yet.
    pub fn new(at: &RedisAddress, advice: Advice) -> Result<Self, StoreError> {
        let client = at.client(None).map_err(|cause| cannot_open("Redis", cause))?;
        let address = shown(client.get_connection_info());
        Ok(Self { at: at.clone(), password_file: None, advice, connection: None, address })
    }

    /// With the password that a file holds, if one is named.
    pub fn with_password_file(self, password_file: Option<PathBuf>) -> Self {
        Self { password_file, ..self }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Makes a call. A connection that failed is dropped: whether the call took effect is then unknown.
    pub fn call<T>(
        &mut self,
        what: &str,
        call: impl FnOnce(&mut Connection) -> RedisResult<T>,
    ) -> Result<T, StoreError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.client()?.connect().map_err(|e| self.tell(what, &e))?,
        };
        let answer = call(&mut connection);
        match &answer {
            Err(e) if !matches!(e.kind(), ErrorKind::Server(_) | ErrorKind::Extension) => {}
            _ => self.connection = Some(connection),
        }
        answer.map_err(|e| self.tell(what, &e))
    }

    fn client(&self) -> Result<Connector, StoreError> {
        let password = match &self.password_file {
            None => None,
            Some(file) => Some(std::fs::read_to_string(file).map_err(|e| {
                let cause =
                    format!("its `password_file` {} can't be read: {}", file.display(), os::cause(&e));
                cannot_open(&self.address, cause)
            })?),
        };
        let password = password.as_deref().map(|text| text.trim_end_matches(['\r', '\n']));
        self.at.client(password).map(Connector).map_err(|cause| cannot_open(&self.address, cause))
    }

    /// Tells whether to wait, or what to do.
    fn tell(&self, what: &str, error: &RedisError) -> StoreError {
        let what = format!("{what} ({})", self.address);
        let fatal = |todo: &str| StoreError::Io { what: what.clone(), cause: format!("{error}; {todo}") };
        match (error.kind(), error.code()) {
            (_, Some("OOM")) => {
                fatal("Redis is at its `maxmemory`: give it more, or remove other data, then start again")
            }
            (_, Some("NOAUTH" | "WRONGPASS")) | (ErrorKind::AuthenticationFailed, _) => {
                fatal("give the right user and password in the address: redis://user:password@host")
            }
            (ErrorKind::Server(ServerErrorKind::NoPerm), _) => fatal(self.advice.no_permission),
            (_, Some("WRONGTYPE")) => fatal(self.advice.wrong_type),
            (_, Some("CROSSSLOT")) => fatal(
                "in a cluster, all that one step changes must be in one hash slot: give the streams' names the same part in braces, as in {orders}:in and {orders}:out",
            ),
            (_, Some("MOVED" | "ASK")) => fatal(
                "this server is a part of a Redis Cluster and another one has these keys: give the address of that one",
            ),
            (_, Some("NOGROUP")) => {
                fatal("the stream or its group was removed meanwhile: start again to make the group anew")
            }
            _ if is_mistrust(error) => fatal(
                "the server's certificate is not trusted: name a file with its issuer's as `ca_file` (REDIS_CA_FILE), or put that into the system's store; the certificate must be for the host in the address",
            ),
            // A server that loads, fails over or can't write its log is one to wait for.
            (
                ErrorKind::Io
                | ErrorKind::Server(
                    ServerErrorKind::BusyLoading
                    | ServerErrorKind::TryAgain
                    | ServerErrorKind::ClusterDown
                    | ServerErrorKind::MasterDown
                    | ServerErrorKind::ReadOnly,
                ),
                _,
            )
            | (_, Some("MISCONF" | "NOREPLICAS" | "BUSY")) => {
                StoreError::Away { what, cause: error.to_string() }
            }
            _ if error.detail().is_some_and(|text| text.contains("max number of clients")) => {
                StoreError::Away { what, cause: error.to_string() }
            }
            _ => StoreError::Io { what, cause: error.to_string() },
        }
    }
}

fn cannot_open(what: &str, cause: String) -> StoreError {
    StoreError::Io { what: format!("cannot open {what}"), cause }
}

struct Connector(Client);

impl Connector {
    fn connect(&self) -> RedisResult<Connection> {
        let connection = self.0.get_connection_with_timeout(TIMEOUT)?;
        connection.set_read_timeout(Some(TIMEOUT))?;
        connection.set_write_timeout(Some(TIMEOUT))?;
        Ok(connection)
    }
}

/// A link that several parts of a connector use in turn, off the threads that wait for the network.
#[derive(Clone)]
pub(crate) struct SharedLink(Arc<Mutex<Link>>);

impl SharedLink {
    pub fn new(link: Link) -> Self {
        Self(Arc::new(Mutex::new(link)))
    }

    /// Makes a call on a thread that may block.
    pub fn call<T>(
        &self,
        what: &str,
        call: impl FnOnce(&mut Connection) -> RedisResult<T>,
    ) -> Result<T, StoreError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).call(what, call)
    }

    /// Makes a call from a thread that must not block. What it does goes on when the future is dropped.
    pub async fn ask<T: Send + 'static>(
        &self,
        what: &'static str,
        call: impl FnOnce(&mut Connection) -> RedisResult<T> + Send + 'static,
    ) -> Result<T, ConnectorError> {
        let link = self.clone();
        os::blocking(move || link.call(what, call).map_err(told)).await
    }
}

/// What an error of a link tells the host of a connector.
pub(crate) fn told(error: StoreError) -> ConnectorError {
    match error {
        StoreError::Away { what, cause } => ConnectorError::Disconnected { what, cause },
        other => ConnectorError::Fatal(other.to_string()),
    }
}

/// Whether a server that answered could not prove that it is the right one: waiting won't help.
fn is_mistrust(error: &RedisError) -> bool {
    error.to_string().contains("certificate verify failed")
}

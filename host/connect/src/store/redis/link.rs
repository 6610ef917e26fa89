//! A connection to Redis that is made anew when it broke, and what each error means.

use std::path::PathBuf;
use std::time::Duration;

use redis::{Client, Connection, ErrorKind, RedisError, RedisResult, ServerErrorKind, TlsCertificates};
use wasmill_engine::state::StoreError;

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
    fn client(&self) -> Result<Client, String> {
        let Some(file) = &self.ca_file else { return open(&self.url) };
        let shown = file.display();
        let root_cert = std::fs::read(file)
            .map_err(|e| format!("its `ca_file` {shown} can't be read: {}", crate::os::cause(&e)))?;
        let trusted = TlsCertificates { client_tls: None, root_cert: Some(root_cert) };
        Client::build_with_tls(self.url.as_str(), trusted).map_err(|e| {
            format!("with the certificates of {shown}: {e}; the file must hold certificates in PEM, and the address must begin with rediss://")
        })
    }
}

/// Checks a Redis address; answers it as it may be shown, without its password.
///
/// # Errors
/// What is wrong with it, without showing it.
pub fn check_url(url: &str) -> Result<String, String> {
    open(url).map(|client| shown(&client))
}

fn open(url: &str) -> Result<Client, String> {
    // The URL is not shown, for it may hold a password.
    Client::open(url).map_err(|e| {
        format!("this is no Redis address ({e}): expected redis://[user:password@]host[:port][/database], or rediss:// for TLS")
    })
}

fn shown(client: &Client) -> String {
    let info = client.get_connection_info();
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

/// A connection, and how to make it again.
pub(super) struct Link {
    client: Client,
    connection: Option<Connection>,
    /// The address, without its password.
    address: String,
}

impl Link {
    /// A link to an address; nothing is connected yet.
    pub fn new(at: &RedisAddress) -> Result<Self, StoreError> {
        let client =
            at.client().map_err(|cause| StoreError::Io { what: "cannot open Redis".into(), cause })?;
        Ok(Self { address: shown(&client), client, connection: None })
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
            None => self.connect().map_err(|e| self.tell(what, &e))?,
        };
        let answer = call(&mut connection);
        match &answer {
            Err(e) if !matches!(e.kind(), ErrorKind::Server(_) | ErrorKind::Extension) => {}
            _ => self.connection = Some(connection),
        }
        answer.map_err(|e| self.tell(what, &e))
    }

    fn connect(&self) -> RedisResult<Connection> {
        let connection = self.client.get_connection_with_timeout(TIMEOUT)?;
        connection.set_read_timeout(Some(TIMEOUT))?;
        connection.set_write_timeout(Some(TIMEOUT))?;
        Ok(connection)
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
            (ErrorKind::Server(ServerErrorKind::NoPerm), _) => fatal(
                "the user must be allowed EVALSHA, SCRIPT LOAD, HSET, HGET, HMGET, HGETALL, HDEL, HSCAN, HINCRBY, EXISTS, RENAME, DEL and UNLINK on `wasmill:*`",
            ),
            (_, Some("WRONGTYPE")) => {
                fatal("something else is stored under this pipeline's keys: use another database or name")
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

/// Whether a server that answered could not prove that it is the right one: waiting won't help.
fn is_mistrust(error: &RedisError) -> bool {
    error.to_string().contains("certificate verify failed")
}

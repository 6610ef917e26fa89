//! Connections to PostgreSQL, and what each error means.

use std::error::Error as _;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use openssl::ssl::{SslConnector, SslFiletype, SslMethod, SslVerifyMode};
use postgres_openssl::MakeTlsConnector;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Error, NoTls, Socket};
use wasmill_engine::state::StoreError;

use super::spec::{PostgresAddress, Tls};
use crate::ConnectorError;

/// How long a server may take to take a connection.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long it may take for one statement before it counts as away. Above `LOCK_MAX`, whose error tells more.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How long a statement waits for what others have locked: then the epoch is done again.
const LOCK_MAX: &str = "20s";
/// After how long the server ends a transaction that nobody goes on with, as of a process that was stopped: it
/// holds locks. A process that goes on all the same does its epoch again.
const IDLE_MAX: &str = "60s";

/// Why something could not be done.
#[derive(Debug, Clone)]
pub(super) enum Trouble {
    /// The server is away: wait, and ask again.
    Away { what: String, cause: String },
    /// Asking again won't help.
    Fatal { what: String, cause: String },
    /// What is there is not what it was: begin again.
    Outdated { what: String, cause: String },
    /// The server takes the connection, but not this row.
    Refused { cause: String },
}

impl From<Trouble> for ConnectorError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Away { what, cause } => Self::Disconnected { what, cause },
            Trouble::Fatal { what, cause } => Self::Fatal(format!("{what}: {cause}")),
            Trouble::Outdated { what, cause } => Self::Outdated(format!("{what}: {cause}")),
            Trouble::Refused { cause } => Self::Fatal(cause),
        }
    }
}

impl From<Trouble> for StoreError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Away { what, cause } => Self::Away { what, cause },
            Trouble::Fatal { what, cause } => Self::Io { what, cause },
            // What the host then does is what has to be done: to begin again from what is stored.
            Trouble::Outdated { what, cause } => Self::Fenced { what, cause },
            Trouble::Refused { cause } => Self::Io { what: "cannot commit".into(), cause },
        }
    }
}

/// The one thread that moves all bytes to and from PostgreSQL, whoever waits for them.
fn runtime() -> Result<&'static Runtime, Trouble> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    let made = RUNTIME.get_or_init(|| {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1).thread_name("postgres").enable_all();
        builder.build().map_err(|e| e.to_string())
    });
    made.as_ref().map_err(|e| Trouble::Fatal {
        what: "cannot start the thread for PostgreSQL".into(),
        cause: e.clone(),
    })
}

/// Waits for `work` on this thread, whichever it is.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    // For its timers.
    let _entered = runtime()?.enter();
    let mut work = pin!(tokio::task::unconstrained(work));
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(done) = work.as_mut().poll(&mut context) {
            return done;
        }
        std::thread::park();
    }
}

/// How connections to a database are made.
pub(super) struct Link {
    at: PostgresAddress,
    config: Config,
    /// The address as it is shown.
    pub address: String,
}

impl Link {
    /// A link to an address; connects to nothing. Its connections call themselves `application`.
    pub fn new(at: &PostgresAddress, application: &str) -> Result<Self, Trouble> {
        let mut config =
            at.config().map_err(|cause| Trouble::Fatal { what: "cannot open PostgreSQL".into(), cause })?;
        // What the server cuts off above its limit of 63 bytes.
        config.application_name(&application[..application.floor_char_boundary(63)]);
        config.connect_timeout(CONNECT_MAX);
        config.keepalives_idle(Duration::from_secs(5));
        config.keepalives_interval(Duration::from_secs(2)).keepalives_retries(5);
        config.tcp_user_timeout(Duration::from_secs(15));
        match at.tls() {
            Some(Tls::Disable) => config.ssl_mode(SslMode::Disable),
            Some(Tls::Prefer) => config.ssl_mode(SslMode::Prefer),
            Some(Tls::Require | Tls::Verify) => config.ssl_mode(SslMode::Require),
            None => &mut config,
        };
        Ok(Self { at: at.clone(), config, address: at.shown() })
    }

    /// A new connection.
    pub async fn connect(&self) -> Result<Client, Trouble> {
        let what = format!("cannot connect to {}", self.address);
        let fatal = |cause: String| Trouble::Fatal { what: what.clone(), cause };
        let mut config = self.config.clone();
        if let Some(file) = &self.at.password_file {
            let read = std::fs::read_to_string(file);
            let read = read.map_err(|e| {
                fatal(format!(
                    "its `password_file` {} can't be read: {}",
                    file.display(),
                    crate::os::cause(&e)
                ))
            })?;
            config.password(read.trim_end_matches(['\r', '\n']));
        }
        // Its sockets belong to the thread that moves them.
        let connecting = if config.get_ssl_mode() == SslMode::Disable {
            runtime()?.spawn(dial(config, NoTls))
        } else {
            runtime()?.spawn(dial(config, self.at.connector().map_err(fatal)?))
        };
        let client = match connecting.await {
            Ok(Ok(client)) => client,
            Ok(Err(Some(error))) => return Err(self.tell_connect(&what, &error)),
            Ok(Err(None)) => return Err(Trouble::Away { what, cause: "no answer".into() }),
            Err(e) => return Err(fatal(e.to_string())),
        };
        let settings = format!(
            "SET lock_timeout = '{LOCK_MAX}'; SET idle_in_transaction_session_timeout = '{IDLE_MAX}'; \
             SET client_min_messages = warning; \
             SELECT set_config(name, '5s', false) FROM pg_settings WHERE name = 'client_connection_check_interval'"
        );
        self.answer("cannot set up the connection", client.batch_execute(&settings)).await?;
        Ok(client)
    }

    /// Waits for an answer, as long as that may take.
    pub async fn answer<T>(
        &self,
        what: &str,
        asked: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Trouble> {
        match tokio::time::timeout(ANSWER_MAX, asked).await {
            Ok(answer) => answer.map_err(|e| self.tell(what, &e)),
            Err(_) => Err(Trouble::Away {
                what: self.what(what),
                cause: format!("no answer in {} s", ANSWER_MAX.as_secs()),
            }),
        }
    }

    pub fn what(&self, what: &str) -> String {
        format!("{what} ({})", self.address)
    }

    fn tell_connect(&self, what: &str, error: &Error) -> Trouble {
        if error.as_db_error().is_some() {
            return self.tell("cannot connect", error);
        }
        let cause = told(error);
        let fatal = |todo: &str| Trouble::Fatal { what: what.to_owned(), cause: format!("{cause}; {todo}") };
        if cause.contains("certificate verify failed") || cause.contains("ostname mismatch") {
            return fatal(
                "the server's certificate is not trusted: name a file with its issuer's as `ca_file`; it must be for the host in the address",
            );
        }
        if cause.contains("does not support TLS") {
            return fatal("turn `ssl` on at the server, or set `tls: disable`");
        }
        if cause.contains("password missing") || cause.contains("invalid configuration") {
            return fatal("give the password in the address, or in a file named as `password_file`");
        }
        Trouble::Away { what: what.to_owned(), cause }
    }

    /// What an error means.
    pub fn tell(&self, what: &str, error: &Error) -> Trouble {
        let what = self.what(what);
        let Some(refusal) = error.as_db_error() else {
            // Nothing but what breaks a connection has no answer of the server's.
            let cause = told(error);
            return if error.is_closed() || is_io(error) {
                Trouble::Away { what, cause }
            } else {
                Trouble::Fatal { what, cause }
            };
        };
        let code = refusal.code().code();
        let mut cause = format!("{} (SQLSTATE {code})", refusal.message());
        if let Some(detail) = refusal.detail() {
            cause = format!("{cause}: {detail}");
        }
        let todo = match code {
            "25006" => {
                return Trouble::Away { what, cause: format!("{cause}: it is a standby, or read-only") };
            }
            "55P03" => {
                let cause = format!("{cause}: another session holds a lock; pg_stat_activity tells whose");
                return Trouble::Away { what, cause };
            }
            "57014" | "25P03" | "25P04" | "58030" | "40001" | "40P01" | "40003" => {
                return Trouble::Away { what, cause };
            }
            "22P03" | "22P04" | "08P01" => {
                let cause = format!("{cause}: the table has other types than when it was looked at");
                return Trouble::Outdated { what, cause };
            }
            "54000" => return Trouble::Refused { cause },
            "28P01" | "28000" => {
                "give the right user and password in `url` or `password_file`, and let pg_hba.conf take them"
            }
            "3D000" => "create the database, or correct its name in `url`",
            "42501" => "let an owner GRANT what is missing, or write as another user",
            "42P01" | "3F000" | "42703" => "it was there at the start: restart the pipeline when it is back",
            _ => match &code[..2] {
                "08" | "57" | "53" => return Trouble::Away { what, cause },
                "22" | "23" | "P0" | "44" | "38" => {
                    return Trouble::Refused { cause: refused(refusal, &cause) };
                }
                _ => "mend that and run again: what is not committed is written again",
            },
        };
        Trouble::Fatal { what, cause: format!("{cause}; {todo}") }
    }
}

/// Connects, and moves what is sent and answered from then on. No error: it took too long.
async fn dial<T>(config: Config, tls: T) -> Result<Client, Option<Error>>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let connecting = tokio::time::timeout(CONNECT_MAX * 2, config.connect(tls));
    let (client, connection) = connecting.await.map_err(|_| None)?.map_err(Some)?;
    tokio::spawn(async move {
        // Whoever waits for an answer learns how it ended.
        let _ = connection.await;
    });
    Ok(client)
}

/// Why a row is refused, and what to do.
fn refused(refusal: &tokio_postgres::error::DbError, cause: &str) -> String {
    let on = |name: Option<&str>| name.map(|name| format!(" `{name}`")).unwrap_or_default();
    let (constraint, column) = (on(refusal.constraint()), on(refusal.column()));
    let todo = match *refusal.code() {
        SqlState::UNIQUE_VIOLATION => {
            format!(
                "a row with this key is there already by constraint{constraint}: use `mode: upsert`, or drop the constraint"
            )
        }
        SqlState::FOREIGN_KEY_VIOLATION => {
            format!("write the row that constraint{constraint} refers to first, or drop the constraint")
        }
        SqlState::CHECK_VIOLATION => {
            format!("the row breaks constraint{constraint}: mend the message, or the constraint")
        }
        SqlState::NOT_NULL_VIOLATION => {
            format!("column{column} takes no NULL: give it a value, or a default")
        }
        _ => "mend the message, or the table".to_owned(),
    };
    format!("the table refuses the row: {cause}; {todo}")
}

/// An error with its causes.
fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn is_io(error: &Error) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        if cause.is::<std::io::Error>() {
            return true;
        }
        source = cause.source();
    }
    false
}

impl PostgresAddress {
    fn tls(&self) -> Option<Tls> {
        self.tls.or_else(|| self.ca_file.as_ref().map(|_| Tls::Verify))
    }

    fn connector(&self) -> Result<MakeTlsConnector, String> {
        let of = |e: openssl::error::ErrorStack| format!("cannot set up TLS: {e}");
        let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(of)?;
        let file = |what: &str, file: &std::path::Path, e: openssl::error::ErrorStack| {
            format!("its `{what}` {} can't be used: {e}; it must be readable, and PEM", file.display())
        };
        if let Some(ca) = &self.ca_file {
            builder.set_ca_file(ca).map_err(|e| file("ca_file", ca, e))?;
        }
        if let (Some(cert), Some(key)) = (&self.cert_file, &self.key_file) {
            builder.set_certificate_chain_file(cert).map_err(|e| file("cert_file", cert, e))?;
            builder.set_private_key_file(key, SslFiletype::PEM).map_err(|e| file("key_file", key, e))?;
        }
        let verify = self.tls() == Some(Tls::Verify);
        if !verify {
            builder.set_verify(SslVerifyMode::NONE);
        }
        let mut connector = MakeTlsConnector::new(builder.build());
        connector.set_callback(move |ssl, _| {
            ssl.set_verify_hostname(verify);
            Ok(())
        });
        Ok(connector)
    }
}

//! The settings of a connection, which sources and sinks share.

use std::fmt;
use std::path::{Path, PathBuf};

use async_nats::{ConnectOptions, ServerAddr};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use crate::secret::Secret;
use crate::{ConnectorError, os};

/// Where NATS servers are. Shown without the password that it may hold.
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct NatsUrl(String);

impl Serialize for NatsUrl {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<T: Into<String>> From<T> for NatsUrl {
    fn from(url: T) -> Self {
        Self(url.into())
    }
}

impl fmt::Debug for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, part) in self.0.split(',').map(str::trim).enumerate() {
            let (scheme, rest) = part.split_once("://").map_or(("", part), |(s, r)| (s, r));
            // A password may hold what ends one, where nobody escaped it: the last `@` counts.
            let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
            let comma = if i == 0 { "" } else { "," };
            let slashes = if scheme.is_empty() { "" } else { "://" };
            write!(f, "{comma}{scheme}{slashes}{host}")?;
        }
        Ok(())
    }
}

/// Gives a spec the settings of a connection, and `access` to ask for them.
macro_rules! with_access {
    ($(#[$about:meta])* pub struct $name:ident { $($fields:tt)* }) => {
        $(#[$about])*
        pub struct $name {
            /// Where the servers are: `nats://host:port`, or `tls://` for TLS; several with commas between. A user
            /// with a password (`nats://user:password@host`), or a token (`nats://token@host`), may stand in it.
            pub url: $crate::nats::NatsUrl,
            $($fields)*
            /// A file with credentials (`.creds`): a user's JWT and its seed. Default: none.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub credentials_file: Option<std::path::PathBuf>,
            /// The user. Default: none.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub user: Option<String>,
            /// The user's password. Default: none.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub password: Option<$crate::nats::Secret>,
            /// A file that holds the user's password; read at each connect. Default: none.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub password_file: Option<std::path::PathBuf>,
            /// A token, where the servers ask for one. Default: none.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub token: Option<$crate::nats::Secret>,
            /// A file that holds the token; read at each connect. Default: none.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub token_file: Option<std::path::PathBuf>,
            /// A file that holds the seed of a user's nkey. Default: none.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub nkey_seed_file: Option<std::path::PathBuf>,
            /// With TLS: a file of certificates in PEM that are trusted beside the system's. Default: none.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub ca_file: Option<std::path::PathBuf>,
            /// With TLS: a file with this client's certificate in PEM; `key_file` goes with it. Default: none.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub cert_file: Option<std::path::PathBuf>,
            /// With TLS: a file with the private key of `cert_file` in PEM. Default: none.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub key_file: Option<std::path::PathBuf>,
        }

        impl $name {
            /// The settings of its connection.
            pub(in crate::nats) fn access(&self) -> $crate::nats::access::Access {
                $crate::nats::access::Access {
                    url: self.url.clone(),
                    credentials_file: self.credentials_file.clone(),
                    user: self.user.clone(),
                    password: self.password.clone(),
                    password_file: self.password_file.clone(),
                    token: self.token.clone(),
                    token_file: self.token_file.clone(),
                    nkey_seed_file: self.nkey_seed_file.clone(),
                    ca_file: self.ca_file.clone(),
                    cert_file: self.cert_file.clone(),
                    key_file: self.key_file.clone(),
                }
            }
        }
    };
}
pub(super) use with_access;

/// The settings of a connection.
#[derive(Debug, Clone)]
pub(super) struct Access {
    pub url: NatsUrl,
    pub credentials_file: Option<PathBuf>,
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub password_file: Option<PathBuf>,
    pub token: Option<Secret>,
    pub token_file: Option<PathBuf>,
    pub nkey_seed_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

/// Servers' addresses, and what stood before the `@` of their URLs.
struct Servers {
    addresses: Vec<ServerAddr>,
    user: Option<String>,
    password: Option<String>,
}

impl Access {
    /// Says what is wrong with it; connects to nothing, reads no file.
    pub fn check(&self) -> Result<(), ConnectorError> {
        let fatal = |text: &str| Err(ConnectorError::Fatal(text.to_owned()));
        let servers = self.servers()?;
        if self.password.is_some() && self.password_file.is_some() {
            return fatal("password: `password_file` is set too; set one of them");
        }
        if self.token.is_some() && self.token_file.is_some() {
            return fatal("token: `token_file` is set too; set one of them");
        }
        let has_password = self.password.is_some() || self.password_file.is_some();
        if self.user.is_some() != has_password {
            return fatal("user: it goes with `password` or `password_file`; set both, or none");
        }
        let ways = [
            servers.user.is_some(),
            self.user.is_some(),
            self.token.is_some() || self.token_file.is_some(),
            self.credentials_file.is_some(),
            self.nkey_seed_file.is_some(),
        ];
        if ways.into_iter().filter(|given| *given).count() > 1 {
            return fatal(
                "url: choose one way to prove who connects: a user or token in `url`, `user`, `token`, `credentials_file`, or `nkey_seed_file`",
            );
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            return fatal("cert_file: it goes with `key_file`; set both, or none");
        }
        Ok(())
    }

    fn servers(&self) -> Result<Servers, ConnectorError> {
        let wrong = |why: &str| {
            ConnectorError::Fatal(format!(
                "url: {} is no address of NATS ({why}): expected nats://[user:password@]host[:port], or tls://; several with commas between",
                self.url
            ))
        };
        let mut servers = Servers { addresses: Vec::new(), user: None, password: None };
        for part in self.url.0.split(',').map(str::trim) {
            // The cause may quote the password.
            let address: ServerAddr = part.parse().map_err(|_| wrong("it can't be read"))?;
            if !matches!(address.scheme(), "nats" | "tls") {
                return Err(wrong("its scheme is another one"));
            }
            let mut url = address.into_inner();
            if url.host_str().is_none_or(str::is_empty) {
                return Err(wrong("it has no host"));
            }
            if !url.username().is_empty() {
                servers.user = Some(unescaped(url.username()));
                servers.password = url.password().map(unescaped);
            }
            url.set_password(None)
                .and_then(|()| url.set_username(""))
                .map_err(|()| wrong("it has no host"))?;
            servers.addresses.push(ServerAddr::from_url(url).map_err(|_| wrong("it can't be read"))?);
        }
        Ok(servers)
    }

    /// The servers, and how to connect to them.
    pub async fn options(&self) -> Result<(Vec<ServerAddr>, ConnectOptions), ConnectorError> {
        let access = self.clone();
        os::blocking(move || access.read()).await
    }

    fn read(&self) -> Result<(Vec<ServerAddr>, ConnectOptions), ConnectorError> {
        let Servers { addresses, user, password } = self.servers()?;
        let mut options = ConnectOptions::new();
        let of_file = |setting: &str, file: &Option<PathBuf>| {
            file.as_ref().map(|file| read_secret(setting, file)).transpose()
        };
        let given = |secret: &Option<Secret>| secret.as_ref().map(|s| s.reveal().to_owned());
        match (user, password) {
            (Some(user), Some(password)) => options = options.user_and_password(user, password),
            (Some(token), None) => options = options.token(token),
            _ => {}
        }
        let password = of_file("password_file", &self.password_file)?.or_else(|| given(&self.password));
        if let (Some(user), Some(password)) = (&self.user, password) {
            options = options.user_and_password(user.clone(), password);
        }
        if let Some(token) = of_file("token_file", &self.token_file)?.or_else(|| given(&self.token)) {
            options = options.token(token);
        }
        if let Some(seed) = of_file("nkey_seed_file", &self.nkey_seed_file)? {
            options = options.nkey(seed);
        }
        if let Some(file) = &self.credentials_file {
            let text = read_secret("credentials_file", file)?;
            options = options.credentials(&text).map_err(|e| {
                ConnectorError::Fatal(format!(
                    "credentials_file: {} holds no credentials ({e}): it must have a user's JWT and its seed, as `nsc generate creds` writes them",
                    file.display()
                ))
            })?;
        }
        if let Some(file) = &self.ca_file {
            readable("ca_file", file)?;
            options = options.add_root_certificates(file.clone());
        }
        if let (Some(cert), Some(key)) = (&self.cert_file, &self.key_file) {
            readable("cert_file", cert)?;
            readable("key_file", key)?;
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
        Ok((addresses, options))
    }
}

fn readable(setting: &str, file: &Path) -> Result<(), ConnectorError> {
    let what = || format!("{setting}: {} can't be read", file.display());
    std::fs::File::open(file).map(drop).map_err(|e| os::fatal(what(), &e))
}

/// What a file holds, without the line's end.
fn read_secret(setting: &str, file: &Path) -> Result<String, ConnectorError> {
    let what = || format!("{setting}: {} can't be read", file.display());
    std::fs::read_to_string(file).map(|text| text.trim().to_owned()).map_err(|e| os::fatal(what(), &e))
}

/// A part of a URL without its escapes.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match digits.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown() {
        let url = NatsUrl::from("nats://me:s3:cr@t@one:4222, tls://tok3n@two");
        assert_eq!(url.to_string(), "nats://one:4222,tls://two");
        assert_eq!(format!("{url:?} {:?}", Secret::new("s3cret")), "nats://one:4222,tls://two (hidden)");
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(unescaped("a%40b%zz%4"), "a@b%zz%4");
    }
}

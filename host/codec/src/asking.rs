//! What clients of HTTP servers share: whom they trust, and what went wrong in words.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use reqwest::{Certificate, Client, ClientBuilder, Identity, Response, redirect};

use crate::os::refusal;

/// How long a connection may take to come about.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// What an error says where a server's certificate is not trusted.
pub const NOT_TRUSTED: &str = "the certificate is not trusted: name a file with its issuer's as `ca_file`, or put that into the system's store; it must be for the host in the URL";

/// A client that follows no redirects and knows no proxies of the environment.
pub fn client(timeout: Duration) -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("wasmill/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .connect_timeout(CONNECT_MAX.min(timeout))
        .timeout(timeout)
}

/// Has the client trust a file's certificates beside the system's.
///
/// # Errors
/// What is wrong with the file.
pub fn trusting(mut builder: ClientBuilder, ca_file: &Path) -> Result<ClientBuilder, String> {
    let pem = read_file("ca_file", ca_file)?;
    let certificates = Certificate::from_pem_bundle(&pem).ok().filter(|all| !all.is_empty());
    let certificates = certificates
        .ok_or_else(|| format!("`ca_file`: {} holds no certificates in PEM", ca_file.display()))?;
    for certificate in certificates {
        builder = builder.add_root_certificate(certificate);
    }
    Ok(builder)
}

/// Has the client show a certificate of its own.
///
/// # Errors
/// What is wrong with one of the files.
pub fn showing(builder: ClientBuilder, cert_file: &Path, key_file: &Path) -> Result<ClientBuilder, String> {
    let certificate = read_file("cert_file", cert_file)?;
    let key = read_file("key_file", key_file)?;
    let shown = key_file.display();
    let text = String::from_utf8_lossy(&key);
    if !text.contains("-----BEGIN PRIVATE KEY-----") {
        let todo = if text.contains("PRIVATE KEY-----") {
            format!(
                "holds a key in another form: turn it into PKCS#8 without a password by `openssl pkcs8 -topk8 -nocrypt -in {shown}`"
            )
        } else {
            "holds no private key in PEM".to_owned()
        };
        return Err(format!("`key_file`: {shown} {todo}"));
    }
    let identity = Identity::from_pkcs8_pem(&certificate, &key).map_err(|e| {
        format!(
            "`cert_file` {} and `key_file` {shown} are no certificate and its key, in PEM: {}",
            cert_file.display(),
            cause(&e)
        )
    })?;
    Ok(builder.identity(identity))
}

/// A file that a setting names.
///
/// # Errors
/// That it can't be read, with the setting's name.
pub fn read_file(setting: &str, file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|e| format!("`{setting}`: cannot read {}: {}", file.display(), refusal(&e)))
}

/// The beginning of an answer's body; what a broken connection cuts off is missing.
pub async fn beginning(response: &mut Response, bytes_max: usize) -> Vec<u8> {
    let mut read = Vec::new();
    while read.len() < bytes_max
        && let Ok(Some(piece)) = response.chunk().await
    {
        read.extend_from_slice(&piece);
    }
    read.truncate(bytes_max);
    read
}

/// What a server says, on one line.
#[must_use]
pub fn on_one_line(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// What an error is at the bottom, without the URL.
#[must_use]
pub fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut deepest: Option<&dyn Error> = error.source();
    while let Some(deeper) = deepest.and_then(Error::source) {
        deepest = Some(deeper);
    }
    deepest.map_or_else(|| "the request failed".to_owned(), ToString::to_string)
}

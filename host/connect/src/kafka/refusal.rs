//! Why brokers and a client don't come together: librdkafka tells it as one more reason why brokers are away, and
//! tries for ever.

use std::net::{IpAddr, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openssl::ssl::{HandshakeError, Ssl, SslContext, SslMethod, SslVerifyMode};
use openssl::x509::{X509Ref, X509VerifyResult};
use rdkafka::error::RDKafkaErrorCode;

use super::client::lock;
use super::settings::Settings;

/// How long a look at a broker's certificate may take.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// What stands between a client and the brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The user, or its password.
    User,
    /// The brokers don't offer the mechanism.
    Mechanism,
    /// The listener knows no users.
    NoUsers,
    /// The brokers' certificate is not trusted.
    Certificate,
    /// The brokers want a certificate of this client's, or another one.
    OwnCertificate,
    /// The listener wants TLS, or a user, perhaps.
    Plain,
    /// The listener has no TLS, perhaps.
    Encrypted,
}

/// What a TLS peer calls a certificate of ours that it doesn't take, or that is missing.
const OWN_CERTIFICATE: [&str; 7] = [
    "alert certificate required",
    "alert bad certificate",
    "alert unknown ca",
    "alert certificate unknown",
    "alert certificate expired",
    "alert certificate revoked",
    "alert unsupported certificate",
];
const ENCRYPTED: [&str; 3] = ["PLAINTEXT broker listener", "wrong version number", "packet length too long"];
const PLAIN: [&str; 3] = ["connecting to a SSL listener", "might require SASL", "Invalid response size"];
/// Where brokers hang up on who doesn't speak TLS, or says who it is: librdkafka 2.12 has lost what it guessed then.
const HUNG_UP_IN: [&str; 2] = ["in state APIVERSION_QUERY", "in state UP"];

impl Refusal {
    /// What an error of librdkafka's tells.
    pub fn of(code: Option<RDKafkaErrorCode>, reason: &str) -> Option<Self> {
        let has = |texts: &[&str]| texts.iter().any(|text| reason.contains(text));
        if code == Some(RDKafkaErrorCode::Authentication) {
            return Some(match () {
                () if has(&["current SASL state"]) => Self::NoUsers,
                () if has(&["mechanism handshake failed"]) => Self::Mechanism,
                () => Self::User,
            });
        }
        match () {
            () if has(&["certificate verify failed"]) => Some(Self::Certificate),
            () if has(&OWN_CERTIFICATE) => Some(Self::OwnCertificate),
            () if has(&ENCRYPTED) => Some(Self::Encrypted),
            () if has(&PLAIN) || (has(&["Disconnected"]) && has(&HUNG_UP_IN)) => Some(Self::Plain),
            () => None,
        }
    }

    /// Whether it can't be anything else, as a broker that is about to stop.
    pub fn is_sure(self) -> bool {
        !matches!(self, Self::Plain | Self::Encrypted)
    }

    /// What it means, and which setting to look at.
    pub fn advice(self) -> &'static str {
        match self {
            Self::User => {
                "the brokers refuse this user or its password: see `security.sasl.username` and `security.sasl.password`"
            }
            Self::Mechanism => {
                "the brokers don't offer this mechanism: see `security.sasl.mechanism`, or have it enabled for their listener"
            }
            Self::NoUsers => {
                "this port of the brokers takes no user: leave `security.sasl` out, or choose their port with SASL in `brokers`"
            }
            Self::Certificate => {
                "the brokers' certificate is not trusted: see `security.tls.ca_file`, and whether `brokers` has the names that are in their certificates"
            }
            Self::OwnCertificate => {
                "the brokers want a certificate of this client that they trust: see `security.tls.certificate_file` and `security.tls.key_file`"
            }
            Self::Plain => {
                "this port of the brokers may be one for TLS or SASL: set `security`, or choose their plain port in `brokers`"
            }
            Self::Encrypted => {
                "this port of the brokers may be one without TLS: leave `security.tls` out, or choose their port with TLS in `brokers`"
            }
        }
    }

    /// The same, with what a look at the broker tells more. It connects.
    pub fn explain(self, reason: &str, settings: &Settings) -> String {
        let looked = match self {
            Self::Certificate => address_in(reason).and_then(|address| look(address, settings)),
            _ => None,
        };
        looked.unwrap_or_else(|| self.advice().to_owned())
    }
}

/// The `host:port` of the broker that an error is about: `ssl://HOST:PORT/1: …`.
fn address_in(reason: &str) -> Option<&str> {
    let (_, rest) = reason.split_once("ssl://")?;
    rest.split(['/', ' ']).next().filter(|address| address.find(':').is_some_and(|at| at > 0))
}

/// What is wrong with the certificate of a broker; none where it can't be found out.
fn look(address: &str, settings: &Settings) -> Option<String> {
    let (host, _) = address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let stream =
        address.to_socket_addrs().ok()?.find_map(|a| TcpStream::connect_timeout(&a, LOOK_MAX).ok())?;
    stream.set_read_timeout(Some(LOOK_MAX)).ok()?;
    stream.set_write_timeout(Some(LOOK_MAX)).ok()?;

    let mut context = SslContext::builder(SslMethod::tls_client()).ok()?;
    match settings.get("ssl.ca.location") {
        Some(file) => context.set_ca_file(file).ok()?,
        None => context.set_default_verify_paths().ok()?,
    }
    let names = Arc::new(Mutex::new(String::new()));
    let found = Arc::clone(&names);
    context.set_verify_callback(SslVerifyMode::PEER, move |is_right, chain| {
        if chain.error_depth() == 0
            && let Some(certificate) = chain.current_cert()
        {
            *lock(&found) = names_of(certificate);
        }
        is_right
    });
    let mut tls = Ssl::new(&context.build()).ok()?;
    match host.parse::<IpAddr>() {
        Ok(ip) => tls.param_mut().set_ip(ip).ok()?,
        Err(_) => {
            tls.set_hostname(host).ok()?;
            tls.param_mut().set_host(host).ok()?;
        }
    }
    let Err(HandshakeError::Failure(failed)) = tls.connect(stream) else { return None };
    let (result, names) = (failed.ssl().verify_result(), lock(&names).clone());
    (result != X509VerifyResult::OK).then(|| meaning(result, address, host, &names))
}

/// The names that a certificate is for.
fn names_of(certificate: &X509Ref) -> String {
    let alternatives = certificate.subject_alt_names();
    let names: Vec<String> = alternatives
        .iter()
        .flatten()
        .filter_map(|name| match (name.dnsname(), name.ipaddress()) {
            (Some(name), _) => Some(name.to_owned()),
            (_, Some(&[a, b, c, d])) => Some(IpAddr::from([a, b, c, d]).to_string()),
            (_, Some(ip)) => Some(IpAddr::from(<[u8; 16]>::try_from(ip).ok()?).to_string()),
            _ => None,
        })
        .collect();
    names.join(", ")
}

fn meaning(result: X509VerifyResult, address: &str, host: &str, names: &str) -> String {
    // OpenSSL's X509_V_ERR_….
    const NOT_YET_VALID: i32 = 9;
    const HAS_EXPIRED: i32 = 10;
    const SELF_SIGNED: i32 = 18;
    const UNKNOWN_LEAF_ISSUER: i32 = 21;
    const HOSTNAME_MISMATCH: i32 = 62;
    const IP_ADDRESS_MISMATCH: i32 = 64;
    let says = result.error_string();
    match result.as_raw() {
        HOSTNAME_MISMATCH | IP_ADDRESS_MISMATCH => {
            let names = if names.is_empty() { "no host" } else { names };
            format!(
                "the certificate of {address} is for {names}, not for {host}: use in `brokers`, and in the brokers' advertised.listeners, names that are in their certificates"
            )
        }
        NOT_YET_VALID | HAS_EXPIRED => {
            format!(
                "the certificate of {address} is not valid now ({says}): renew it, or see this machine's clock"
            )
        }
        SELF_SIGNED..=UNKNOWN_LEAF_ISSUER => format!(
            "the certificate of {address} is not by a CA that is trusted ({says}): set `security.tls.ca_file` to the brokers' CA"
        ),
        _ => format!("the certificate of {address} is not trusted ({says}): see `security.tls.ca_file`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_librdkafka_says_is_understood() {
        use RDKafkaErrorCode::{Authentication, BrokerTransportFailure};
        for (code, reason, means) in [
            (
                Authentication,
                "SASL authentication error: Authentication failed: Invalid username or password",
                Some(Refusal::User),
            ),
            (
                Authentication,
                "SASL PLAIN mechanism handshake failed: Broker: Unsupported SASL mechanism: broker's supported mechanisms: SCRAM-SHA-256",
                Some(Refusal::Mechanism),
            ),
            (
                Authentication,
                "SASL PLAIN mechanism handshake failed: Broker: Request not valid in current SASL state",
                Some(Refusal::NoUsers),
            ),
            (
                BrokerTransportFailure,
                "SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: broker certificate could not be verified",
                Some(Refusal::Certificate),
            ),
            (
                BrokerTransportFailure,
                "Receive failed: SSL transport error: error:0A00045C:SSL routines::tlsv13 alert certificate required",
                Some(Refusal::OwnCertificate),
            ),
            (
                BrokerTransportFailure,
                "SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener?",
                Some(Refusal::Encrypted),
            ),
            (
                BrokerTransportFailure,
                "Disconnected: requesting ApiVersion: might be caused by incorrect security.protocol configuration (connecting to a SSL listener?)",
                Some(Refusal::Plain),
            ),
            (
                BrokerTransportFailure,
                "127.0.0.1:1/bootstrap: Disconnected (after 35ms in state APIVERSION_QUERY)",
                Some(Refusal::Plain),
            ),
            (
                BrokerTransportFailure,
                "127.0.0.1:1/bootstrap: Disconnected (after 0ms in state UP)",
                Some(Refusal::Plain),
            ),
            (BrokerTransportFailure, "Connect to ipv4#127.0.0.1:1 failed: Connection refused", None),
        ] {
            assert_eq!(Refusal::of(Some(code), reason), means, "{reason}");
        }
    }

    #[test]
    fn an_error_names_its_broker() {
        for (reason, address) in [
            ("ssl://localhost:9093/bootstrap: SSL handshake failed", Some("localhost:9093")),
            ("sasl_ssl://[::1]:9093/1: SSL handshake failed", Some("[::1]:9093")),
            ("localhost:9093/1: SASL", None),
            ("ssl://: what", None),
        ] {
            assert_eq!(address_in(reason), address, "{reason}");
        }
    }
}

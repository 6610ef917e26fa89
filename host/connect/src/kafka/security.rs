//! Who a client is to the brokers, and how it knows them for the right ones: as users write it.
//!
//! What stands in files is read when a client is made, so that a changed password counts from the next one on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use openssl::pkey::{PKey, Private};
use openssl::x509::X509;
use rdkafka::ClientConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::properties::Property;
use crate::secret::Secret;
use crate::{ConnectorError, os};

/// How connections to the brokers are secured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaSecurity {
    /// Connections are encrypted, and the brokers must have a certificate that is trusted and is for the host that
    /// they are called by. `tls: {}` trusts what the system trusts. Default: not encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<KafkaTls>,
    /// A user and its password. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<KafkaSasl>,
}

/// TLS: whom the client trusts, and its own certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaTls {
    /// A file of certificates in PEM that are trusted in place of the system's. Default: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// A file with this client's certificate in PEM, and those between it and its CA; `key_file` goes with it.
    /// Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    /// A file with the private key of `certificate_file` in PEM. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// The password of the key, where it is encrypted. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_password: Option<Secret>,
}

/// A user of the brokers, and how it proves that it is that user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaSasl {
    /// How the user proves who it is; the brokers must offer that.
    pub mechanism: KafkaMechanism,
    /// The user.
    pub username: String,
    /// The user's password. Default: none, with `password_file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// A file that holds the user's password; read each time a client connects anew. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
}

/// How a user proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KafkaMechanism {
    /// The password is sent as it is: with `tls` alone, else everybody on the way reads it.
    Plain,
    /// A proof by SHA-256, from which nobody learns the password.
    #[serde(rename = "scram_sha_256")]
    ScramSha256,
    /// A proof by SHA-512, from which nobody learns the password.
    #[serde(rename = "scram_sha_512")]
    ScramSha512,
}

impl KafkaMechanism {
    /// As brokers call it.
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// librdkafka's names for what `security` says.
const SAID: &[&str] = &[
    "security.protocol",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.username",
    "sasl.password",
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.certificate.pem",
    "ssl.key.location",
    "ssl.key.pem",
    "ssl.key.password",
    "ssl.keystore.location",
    "ssl.keystore.password",
];

/// Whether a setting of librdkafka's is about how connections are secured.
pub(super) fn is_of_security(name: &str) -> bool {
    matches!(name, "security.protocol" | "enable.ssl.certificate.verification")
        || name.starts_with("sasl.")
        || name.starts_with("ssl.")
}

impl KafkaSecurity {
    /// Says what is wrong with it, or doesn't go with `properties`; reads no file.
    pub(super) fn check(&self, properties: &BTreeMap<String, Property>) -> Result<(), ConnectorError> {
        let wrong = |text: &str| Err(ConnectorError::Fatal(format!("security{text}")));
        if let Some(name) = properties.keys().find(|name| SAID.contains(&name.as_str())) {
            return Err(ConnectorError::Fatal(format!(
                "properties: `{name}`: `security` is set too, and says the same or another thing; remove one of them"
            )));
        }
        if self.tls.is_none() && self.sasl.is_none() {
            return wrong(": it is empty; set `tls`, `sasl`, or both, or leave it out");
        }
        if let Some(tls) = &self.tls {
            if tls.certificate_file.is_some() != tls.key_file.is_some() {
                return wrong(".tls.certificate_file: it goes with `key_file`; set both, or none");
            }
            if tls.key_password.is_some() && tls.key_file.is_none() {
                return wrong(".tls.key_password: there is no `key_file` that it is for; set that too");
            }
        }
        if let Some(sasl) = &self.sasl {
            if sasl.username.is_empty() {
                return wrong(".sasl.username: it is empty; set it");
            }
            match (&sasl.password, &sasl.password_file) {
                (Some(_), Some(_)) => {
                    return wrong(".sasl.password: `password_file` is set too; set one of them");
                }
                (None, None) => {
                    return wrong(".sasl.password: it is missing; set it, or `password_file`");
                }
                (Some(password), None) if password.reveal().is_empty() => {
                    return wrong(".sasl.password: it is empty; set it");
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Sets what doesn't stand in a file.
    pub(super) fn set(&self, config: &mut ClientConfig) {
        let protocol = match (&self.tls, &self.sasl) {
            (Some(_), Some(_)) => "sasl_ssl",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (None, None) => "plaintext",
        };
        config.set("security.protocol", protocol);
        if let Some(tls) = &self.tls {
            let files = [
                ("ssl.ca.location", &tls.ca_file),
                ("ssl.certificate.location", &tls.certificate_file),
                ("ssl.key.location", &tls.key_file),
            ];
            for (name, file) in files {
                if let Some(file) = file {
                    config.set(name, file.to_string_lossy());
                }
            }
            if let Some(password) = &tls.key_password {
                config.set("ssl.key.password", password.reveal());
            }
        }
        if let Some(sasl) = &self.sasl {
            config.set("sasl.mechanism", sasl.mechanism.name()).set("sasl.username", &sasl.username);
            if let Some(password) = &sasl.password {
                config.set("sasl.password", password.reveal());
            }
        }
    }

    /// Sets what stands in a file, and makes sure that librdkafka can take the files that it reads itself: what it
    /// says of one that it can't names neither the file nor the setting.
    pub(super) fn read(&self, config: &mut ClientConfig) -> Result<(), ConnectorError> {
        if let Some(tls) = &self.tls {
            if let Some(file) = &tls.ca_file {
                certificates("tls.ca_file", file)?;
            }
            if let (Some(certificate), Some(key)) = (&tls.certificate_file, &tls.key_file) {
                let own = certificates("tls.certificate_file", certificate)?;
                let private = private_key(key, tls.key_password.as_ref())?;
                let is_its = own.first().and_then(|own| own.public_key().ok());
                if !is_its.is_some_and(|public| public.public_eq(&private)) {
                    return Err(ConnectorError::Fatal(format!(
                        "security.tls.key_file: {} is not the key of the first certificate in {}: set the two that were made together",
                        key.display(),
                        certificate.display()
                    )));
                }
            }
        }
        if let Some(file) = self.sasl.as_ref().and_then(|sasl| sasl.password_file.as_ref()) {
            let text = String::from_utf8(bytes("sasl.password_file", file)?).unwrap_or_default();
            let password = text.trim_end_matches(['\r', '\n']);
            if password.is_empty() {
                return Err(ConnectorError::Fatal(format!(
                    "security.sasl.password_file: {} holds no password: it must be its text alone, in UTF-8",
                    file.display()
                )));
            }
            config.set("sasl.password", password);
        }
        Ok(())
    }
}

fn bytes(setting: &str, file: &Path) -> Result<Vec<u8>, ConnectorError> {
    let what = || format!("security.{setting}: {} can't be read", file.display());
    std::fs::read(file).map_err(|e| os::fatal(what(), &e))
}

fn certificates(setting: &str, file: &Path) -> Result<Vec<X509>, ConnectorError> {
    let found = X509::stack_from_pem(&bytes(setting, file)?).unwrap_or_default();
    if found.is_empty() {
        return Err(ConnectorError::Fatal(format!(
            "security.{setting}: {} holds no certificate in PEM, which begins with -----BEGIN CERTIFICATE-----",
            file.display()
        )));
    }
    Ok(found)
}

fn private_key(file: &Path, password: Option<&Secret>) -> Result<PKey<Private>, ConnectorError> {
    let pem = bytes("tls.key_file", file)?;
    let shown = file.display();
    // Never without one: it would be asked for at the terminal.
    let phrase = password.map_or("", Secret::reveal);
    PKey::private_key_from_pem_passphrase(&pem, phrase.as_bytes()).map_err(|_| {
        let text = String::from_utf8_lossy(&pem);
        ConnectorError::Fatal(if text.contains("ENCRYPTED") {
            let is = if password.is_some() { "is wrong" } else { "is missing" };
            format!("security.tls.key_password: it {is}: the key in {shown} is encrypted with another one")
        } else {
            format!(
                "security.tls.key_file: {shown} holds no private key in PEM, which begins with -----BEGIN PRIVATE KEY----- or the like"
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sasl() -> KafkaSasl {
        KafkaSasl {
            mechanism: KafkaMechanism::ScramSha512,
            username: "me".to_owned(),
            password: Some(Secret::new("hunter2")),
            password_file: None,
        }
    }

    fn set(security: &KafkaSecurity) -> BTreeMap<String, String> {
        let mut config = ClientConfig::new();
        security.set(&mut config);
        let value = |name: &str| config.get(name).unwrap_or_default().to_owned();
        config.config_map().into_keys().map(|name| (name.to_owned(), value(name))).collect()
    }

    #[test]
    fn it_becomes_librdkafkas_settings() {
        let file = |name: &str| Some(PathBuf::from(name));
        let tls = KafkaTls {
            ca_file: file("ca"),
            certificate_file: file("cert"),
            key_file: file("key"),
            key_password: Some(Secret::new("phrase")),
        };
        let all = set(&KafkaSecurity { tls: Some(tls), sasl: Some(sasl()) });
        for (name, value) in [
            ("security.protocol", "sasl_ssl"),
            ("ssl.ca.location", "ca"),
            ("ssl.certificate.location", "cert"),
            ("ssl.key.location", "key"),
            ("ssl.key.password", "phrase"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.username", "me"),
            ("sasl.password", "hunter2"),
        ] {
            assert_eq!(all.get(name).map(String::as_str), Some(value), "{name}");
        }
        let tls = set(&KafkaSecurity { tls: Some(KafkaTls::default()), sasl: None });
        assert_eq!((tls.len(), tls["security.protocol"].as_str()), (1, "ssl"));
        assert_eq!(
            set(&KafkaSecurity { tls: None, sasl: Some(sasl()) })["security.protocol"],
            "sasl_plaintext"
        );
        assert!(
            SAID.iter().all(|name| is_of_security(name)) && all.keys().all(|k| SAID.contains(&k.as_str()))
        );
    }

    #[test]
    fn librdkafka_knows_the_mechanisms() {
        // Compiled in with OpenSSL alone.
        let built_in = ClientConfig::new().create_native_config().and_then(|c| c.get("builtin.features"));
        let built_in = built_in.expect("the features");
        for feature in ["ssl", "sasl_plain", "sasl_scram"] {
            assert!(built_in.split(',').any(|f| f == feature), "{feature}: {built_in}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_told() {
        let told = |change: &dyn Fn(&mut KafkaSecurity), properties: &[&str]| {
            let mut security = KafkaSecurity { tls: Some(KafkaTls::default()), sasl: Some(sasl()) };
            change(&mut security);
            let properties = properties.iter().map(|n| ((*n).to_owned(), Property("x".to_owned()))).collect();
            security.check(&properties).err().map(|e| e.to_string()).unwrap_or_default()
        };
        let some = |name: &str| Some(PathBuf::from(name));
        assert_eq!(told(&|_| {}, &["linger.ms", "ssl.cipher.suites"]), "");
        assert_eq!(told(&|s| s.tls = None, &[]), "");
        assert_eq!(told(&|s| s.sasl = None, &[]), "");
        fn of_sasl(s: &mut KafkaSecurity) -> &mut KafkaSasl {
            s.sasl.as_mut().expect("a user")
        }
        fn of_tls(s: &mut KafkaSecurity) -> &mut KafkaTls {
            s.tls.as_mut().expect("TLS")
        }
        for (error, part) in [
            (told(&|_| {}, &["sasl.mechanisms"]), "`sasl.mechanisms`: `security` is set too"),
            (told(&|_| {}, &["security.protocol"]), "`security.protocol`: `security` is set too"),
            (told(&|s| *s = KafkaSecurity::default(), &[]), "security: it is empty"),
            (told(&|s| of_tls(s).certificate_file = some("c"), &[]), "it goes with `key_file`"),
            (told(&|s| of_tls(s).key_file = some("k"), &[]), "it goes with `key_file`"),
            (told(&|s| of_tls(s).key_password = Some(Secret::new("p")), &[]), "there is no `key_file`"),
            (told(&|s| of_sasl(s).username = String::new(), &[]), "security.sasl.username: it is empty"),
            (told(&|s| of_sasl(s).password = None, &[]), "security.sasl.password: it is missing"),
            (
                told(&|s| of_sasl(s).password = Some(Secret::new("")), &[]),
                "security.sasl.password: it is empty",
            ),
            (told(&|s| of_sasl(s).password_file = some("f"), &[]), "`password_file` is set too"),
        ] {
            assert!(error.contains(part) && !error.contains("hunter2"), "{part}: {error}");
        }
    }

    #[test]
    fn no_password_is_shown_or_written_out() {
        let security = KafkaSecurity {
            tls: Some(KafkaTls { key_password: Some(Secret::new("hunter3")), ..KafkaTls::default() }),
            sasl: Some(sasl()),
        };
        let json = serde_json::to_string(&security).expect("JSON");
        for shown in [format!("{security:?}"), json] {
            assert!(!shown.contains("hunter") && shown.contains("(hidden)"), "{shown}");
        }
    }
}

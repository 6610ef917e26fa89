//! A CA of a test's own, and what it vouches for.

use std::path::Path;

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::symm::Cipher;
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509Name, X509NameBuilder};

/// A key with its certificate.
pub struct Pair {
    certificate: X509,
    key: PKey<Private>,
}

/// Vouches for others.
pub struct Authority(Pair);

fn key() -> PKey<Private> {
    let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).expect("a curve");
    PKey::from_ec_key(EcKey::generate(&curve).expect("a key")).expect("a key")
}

fn name(of: &str) -> X509Name {
    let mut name = X509NameBuilder::new().expect("a name");
    name.append_entry_by_nid(Nid::COMMONNAME, of).expect("a name");
    name.build()
}

fn begun(of: &str, key: &PKey<Private>) -> X509Builder {
    let mut builder = X509::builder().expect("a certificate");
    builder.set_version(2).expect("version 3");
    let mut serial = BigNum::new().expect("a number");
    serial.rand(120, MsbOption::ONE, false).expect("a number");
    builder.set_serial_number(&serial.to_asn1_integer().expect("a number")).expect("a number");
    builder.set_subject_name(&name(of)).expect("a name");
    builder.set_pubkey(key).expect("a key");
    builder.set_not_before(&Asn1Time::days_from_now(0).expect("a time")).expect("a time");
    builder.set_not_after(&Asn1Time::days_from_now(2).expect("a time")).expect("a time");
    builder
}

impl Authority {
    pub fn new(of: &str) -> Self {
        let key = key();
        let mut builder = begun(of, &key);
        builder.set_issuer_name(&name(of)).expect("a name");
        let constraints = BasicConstraints::new().critical().ca().build().expect("a constraint");
        builder.append_extension(constraints).expect("a constraint");
        builder.sign(&key, MessageDigest::sha256()).expect("signed");
        Self(Pair { certificate: builder.build(), key })
    }

    /// A certificate, for a server at an IP address or for a client.
    pub fn issue(&self, of: &str, ip: Option<&str>) -> Pair {
        let key = key();
        let mut builder = begun(of, &key);
        builder.set_issuer_name(self.0.certificate.subject_name()).expect("a name");
        if let Some(ip) = ip {
            let context = builder.x509v3_context(Some(&self.0.certificate), None);
            let names = SubjectAlternativeName::new().ip(ip).build(&context).expect("a name");
            builder.append_extension(names).expect("a name");
        }
        builder.sign(&self.0.key, MessageDigest::sha256()).expect("signed");
        Pair { certificate: builder.build(), key }
    }

    pub fn certificate_to(&self, file: &Path) {
        self.0.certificate_to(file);
    }
}

impl Pair {
    fn pem(&self) -> Vec<u8> {
        self.certificate.to_pem().expect("PEM")
    }

    fn key_pem(&self) -> Vec<u8> {
        self.key.private_key_to_pem_pkcs8().expect("PEM")
    }

    pub fn certificate_to(&self, file: &Path) {
        std::fs::write(file, self.pem()).expect("written");
    }

    /// The key, encrypted where there is a password.
    pub fn key_to(&self, file: &Path, password: Option<&str>) {
        let encrypted = |password: &str| {
            self.key.private_key_to_pem_pkcs8_passphrase(Cipher::aes_256_cbc(), password.as_bytes())
        };
        let pem = password.map_or_else(|| self.key_pem(), |password| encrypted(password).expect("PEM"));
        std::fs::write(file, pem).expect("written");
    }

    /// Key and certificate in one file, as Kafka takes them.
    pub fn both_to(&self, file: &Path) {
        std::fs::write(file, [self.key_pem(), self.pem()].concat()).expect("written");
    }
}

//! A certificate authority of the tests' own: just enough X.509 for a server and a client on this machine.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const UTF8_STRING: u8 = 0x0c;
const UTC_TIME: u8 = 0x17;
const BOOLEAN_TRUE: [u8; 3] = [0x01, 0x01, 0xff];

const ECDSA_WITH_SHA256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const EC_PUBLIC_KEY: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const PRIME256V1: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const COMMON_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x03];
const SUBJECT_ALT_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x11];
const BASIC_CONSTRAINTS: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x13];

/// An authority that signs certificates into a directory.
pub struct Authority {
    name: &'static str,
    key: EcdsaKeyPair,
    /// Its own certificate, as PEM.
    pub certificate: PathBuf,
}

/// A signed certificate with its key, as PEM files.
pub struct Certified {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// Makes an authority; its certificate is `{name}.pem` in `dir`.
    pub fn new(dir: &Path, name: &'static str) -> Self {
        let (key, _) = new_key();
        let constraints = der(SEQUENCE, &[&BOOLEAN_TRUE]);
        let extension = der(SEQUENCE, &[BASIC_CONSTRAINTS, &BOOLEAN_TRUE, &der(OCTET_STRING, &[&constraints])]);
        let certificate = dir.join(format!("{name}.pem"));
        write_pem(&certificate, "CERTIFICATE", &certify(name, &key, name, &key, &extension));
        Self { name, key, certificate }
    }

    /// Signs a certificate for a server or a client on this machine.
    pub fn sign(&self, dir: &Path, name: &str) -> Certified {
        let (key, pkcs8) = new_key();
        let names = der(
            SEQUENCE,
            &[
                &der(0x82, &[b"localhost"]),
                &der(0x87, &[&Ipv4Addr::LOCALHOST.octets()]),
                &der(0x87, &[&Ipv6Addr::LOCALHOST.octets()]),
            ],
        );
        let extension = der(SEQUENCE, &[SUBJECT_ALT_NAME, &der(OCTET_STRING, &[&names])]);
        let certified =
            Certified { certificate: dir.join(format!("{name}.pem")), key: dir.join(format!("{name}-key.pem")) };
        let certificate = certify(self.name, &self.key, name, &key, &extension);
        write_pem(&certified.certificate, "CERTIFICATE", &certificate);
        write_pem(&certified.key, "PRIVATE KEY", &pkcs8);
        certified
    }
}

fn new_key() -> (EcdsaKeyPair, Vec<u8>) {
    let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).expect("a key");
    let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref()).expect("the key just made");
    (key, pkcs8.as_ref().to_vec())
}

fn certify(issuer: &str, issuer_key: &EcdsaKeyPair, subject: &str, key: &EcdsaKeyPair, extension: &[u8]) -> Vec<u8> {
    let algorithm = der(SEQUENCE, &[ECDSA_WITH_SHA256]);
    let serial: [u8; 8] = (uuid::Uuid::new_v4().as_u64_pair().0 >> 1).to_be_bytes();
    let validity = der(SEQUENCE, &[&der(UTC_TIME, &[b"200101000000Z"]), &der(UTC_TIME, &[b"491231235959Z"])]);
    let public_key = der(
        SEQUENCE,
        &[&der(SEQUENCE, &[EC_PUBLIC_KEY, PRIME256V1]), &der(BIT_STRING, &[&[0], key.public_key().as_ref()])],
    );
    let body = der(
        SEQUENCE,
        &[
            &der(0xa0, &[&der(INTEGER, &[&[2]])]),
            &integer(&serial),
            &algorithm,
            &distinguished(issuer),
            &validity,
            &distinguished(subject),
            &public_key,
            &der(0xa3, &[&der(SEQUENCE, &[extension])]),
        ],
    );
    let signature = issuer_key.sign(&SystemRandom::new(), &body).expect("signed");
    der(SEQUENCE, &[&body, &algorithm, &der(BIT_STRING, &[&[0], signature.as_ref()])])
}

fn distinguished(name: &str) -> Vec<u8> {
    let attribute = der(SEQUENCE, &[COMMON_NAME, &der(UTF8_STRING, &[name.as_bytes()])]);
    der(SEQUENCE, &[&der(SET, &[&attribute])])
}

/// A positive integer in as few bytes as DER demands.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1);
    let sign: &[u8] = if bytes[start] >= 0x80 { &[0] } else { &[] };
    der(INTEGER, &[sign, &bytes[start..]])
}

fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut encoded = vec![tag];
    match content.len() {
        short @ 0..0x80 => encoded.push(short as u8),
        middle @ 0x80..0x100 => encoded.extend([0x81, middle as u8]),
        long => {
            encoded.push(0x82);
            encoded.extend(u16::try_from(long).expect("certificates here are small").to_be_bytes());
        }
    }
    encoded.extend(content);
    encoded
}

fn write_pem(path: &Path, label: &str, der: &[u8]) {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| str::from_utf8(line).expect("base64")).collect();
    let pem = format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"));
    fs::write(path, pem).expect("the file is written");
}

//! The certificate of the pets API, and the authority that signed it.
//!
//! An authority signs one certificate and its key is forgotten at once, so that who trusts it
//! trusts this server and nobody else, whatever becomes of the server's key.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use super::pets::{CAT_API, DOG_API};

/// How long a certificate is good for: as long as the strictest systems accept.
const VALID: Duration = Duration::days(397);
/// Clocks differ.
const EARLIER: Duration = Duration::days(1);

const AUTHORITY: &str = "ca.pem";
const CERTIFICATE: &str = "server.pem";
const KEY: &str = "server-key.pem";

/// A server's certificate with its key, as PEM.
pub struct Certificate {
    /// The certificate of the authority, which clients have to trust.
    pub authority: String,
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Certificate {
    /// Makes an authority and a certificate for the names of both APIs and for this machine.
    pub fn generate() -> Result<Self> {
        // Clients tell authorities by their names: two of one name look like a forged signature.
        let id = uuid::Uuid::new_v4();
        let mut authority = params(&format!("authority {id} of the pets API"), &[])?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let authority_key = KeyPair::generate()?;
        let authority_pem = authority.self_signed(&authority_key)?.pem();

        let mut server = params("pets API", &[DOG_API, CAT_API, "localhost", "127.0.0.1", "::1"])?;
        server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        server.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = server.signed_by(&key, &Issuer::new(authority, authority_key))?.pem();
        Ok(Self { authority: authority_pem, certificate, key: key.serialize_pem() })
    }

    /// Takes the certificate that a directory holds, or makes one and keeps it there.
    pub fn keep(dir: &Path) -> Result<Self> {
        let paths = [AUTHORITY, CERTIFICATE, KEY].map(|name| dir.join(name));
        let there = paths.iter().filter(|path| path.exists()).count();
        if there == 0 {
            let made = Self::generate()?;
            fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
            let [authority, certificate, key] = &paths;
            write(authority, &made.authority, Readers::All)?;
            write(certificate, &made.certificate, Readers::All)?;
            write(key, &made.key, Readers::Owner)?;
            return Ok(made);
        }
        if there < paths.len() {
            bail!(
                "{} holds only some of {AUTHORITY}, {CERTIFICATE} and {KEY}; remove these to have all made anew, or name \
                 another directory",
                dir.display()
            );
        }
        let [authority, certificate, key] = &paths;
        Ok(Self { authority: read(authority)?, certificate: read(certificate)?, key: read(key)? })
    }

    /// Where [`Certificate::keep`] has the certificate of the authority.
    pub fn authority_path(dir: &Path) -> PathBuf {
        dir.join(AUTHORITY)
    }
}

/// The parameters of a certificate that is good from now on.
fn params(name: &str, names: &[&str]) -> Result<CertificateParams> {
    let now = OffsetDateTime::now_utc();
    let mut params =
        CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (now - EARLIER, now + VALID - EARLIER);
    Ok(params)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

/// The users who may read a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Readers {
    All,
    Owner,
}

/// Writes a file that appears whole or not at all.
fn write(path: &Path, text: &str, readers: Readers) -> Result<()> {
    try_write(path, text, readers).with_context(|| format!("write {}", path.display()))
}

#[cfg_attr(not(unix), allow(unused_variables))]
fn try_write(path: &Path, text: &str, readers: Readers) -> io::Result<()> {
    // Temporary files are for their owner only.
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    file.write_all(text.as_bytes())?;
    #[cfg(unix)]
    if readers == Readers::All {
        use std::os::unix::fs::PermissionsExt as _;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    }
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_certificate_and_says_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("new");
        let made = Certificate::keep(&dir).unwrap();
        let again = Certificate::keep(&dir).unwrap();
        assert_eq!((&made.authority, &made.key), (&again.authority, &again.key));
        assert_eq!(fs::read_to_string(Certificate::authority_path(&dir)).unwrap(), made.authority);
        fs::remove_file(dir.join(KEY)).unwrap();
        let error = Certificate::keep(&dir).err().unwrap().to_string();
        assert!(error.contains("server-key.pem") && error.contains("remove"), "{error}");
    }
}

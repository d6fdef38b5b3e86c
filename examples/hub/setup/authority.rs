//! A certificate authority of one's own, for servers and clients that no public one knows.

use std::path::Path;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};

use super::files;

/// An authority that signs certificates.
pub struct Authority(Issuer<'static, KeyPair>);

impl Authority {
    /// Takes up the authority whose key is in the directory `keys`, or makes one; writes its
    /// certificate.
    pub fn keep(keys: &Path, certificate: &Path, name: &str) -> Result<Self> {
        let path = keys.join("ca-key.pem");
        let pem = files::keep_secret(&path, || Ok(KeyPair::generate()?.serialize_pem()))?;
        let key = KeyPair::from_pem(&pem).with_context(|| {
            format!(
                "read {}; delete it to get a new authority, which every machine then has to be told",
                path.display()
            )
        })?;
        let mut params = params(name, Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // Its serial number differs each time, and nobody asks for it: the key and the name are
        // what makes it the same.
        files::write(certificate, &params.self_signed(&key)?.pem())?;
        Ok(Self(Issuer::new(params, key)))
    }

    /// Signs a certificate with a new key, for a server or a client known by these names and
    /// addresses.
    pub fn sign(&self, certificate: &Path, key: &Path, name: &str, names: &[String]) -> Result<()> {
        let mut params = params(name, names.to_vec())?;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let pair = KeyPair::generate()?;
        files::write(certificate, &params.signed_by(&pair, &self.0)?.pem())?;
        files::write_secret(key, &pair.serialize_pem())
    }
}

fn params(name: &str, names: Vec<String>) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

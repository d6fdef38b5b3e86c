//! A certificate authority of the tests' own: the one that the example `hub` makes, for names of
//! this machine.

use std::path::{Path, PathBuf};

use crate::hub_setup::authority;

/// An authority that signs certificates into a directory.
pub struct Authority {
    authority: authority::Authority,
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
    pub fn new(dir: &Path, name: &str) -> Self {
        let certificate = dir.join(format!("{name}.pem"));
        let keys = tempfile::tempdir().expect("a directory");
        let authority =
            authority::Authority::keep(keys.path(), &certificate, name).expect("an authority");
        Self { authority, certificate }
    }

    /// Signs a certificate for a server or a client on this machine.
    pub fn sign(&self, dir: &Path, name: &str) -> Certified {
        self.sign_for(dir, name, &["localhost", "127.0.0.1", "::1"].map(str::to_owned))
    }

    /// Signs a certificate for these names of a server.
    pub fn sign_for(&self, dir: &Path, name: &str, names: &[String]) -> Certified {
        let certified = Certified {
            certificate: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}-key.pem")),
        };
        self.authority
            .sign(&certified.certificate, &certified.key, name, names)
            .expect("a certificate");
        certified
    }
}

//! Entries signed with the cluster key.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::identity::{
    keys::{ClusterKey, KeyError, Kind},
    signature::{SigningKey, VerifyingKey},
};

/// Tells these signatures from all others that are made with the same key.
const PURPOSE: &str = "lattice.host/desired/1";

/// An entry as it lies in the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// The value, as JSON text: its bytes are what is signed.
    pub value: String,
    /// Grows with each write of the key; an entry with a lower one is an old one.
    pub serial: u64,
    /// The public key of the cluster.
    pub issuer: String,
    /// Ed25519, in standard base64.
    pub signature: String,
}

/// Why an entry does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("it is no signed entry: {0}")]
    Unreadable(String),
    #[error(
        "it is signed by {0}, which is none of this host's cluster issuers; add that key to cluster_issuers if its hosts are to be \
         trusted"
    )]
    Stranger(String),
    #[error(
        "its signature does not fit its content: it was changed, or written for another key or lattice"
    )]
    Forged,
}

/// Says which entries of one lattice count: those that a known cluster key signed. It signs
/// nothing, so a client without a seed can have it.
#[derive(Clone, Debug)]
pub struct Trust {
    lattice: String,
    trusted: Vec<ClusterKey>,
}

impl Trust {
    /// Trusts the entries of a lattice that are signed by one of these keys.
    pub fn new(lattice: &str, trusted: Vec<ClusterKey>) -> Self {
        Self { lattice: lattice.to_owned(), trusted }
    }

    /// Reads an entry of the bucket and checks its signature.
    pub fn verify<T: DeserializeOwned>(
        &self,
        key: &str,
        bytes: &[u8],
    ) -> Result<(T, u64), Rejected> {
        let unreadable = |error: serde_json::Error| Rejected::Unreadable(error.to_string());
        let entry: Signed = serde_json::from_slice(bytes).map_err(unreadable)?;
        if !self.trusted.iter().any(|key| key.as_str() == entry.issuer) {
            return Err(Rejected::Stranger(entry.issuer));
        }
        let issuer = VerifyingKey::parse(&entry.issuer, Kind::Cluster)
            .map_err(|_| Rejected::Stranger(entry.issuer.clone()))?;
        let signature = STANDARD.decode(&entry.signature).map_err(|_| Rejected::Forged)?;
        if !issuer.verify(&message(&self.lattice, key, entry.serial, &entry.value), &signature) {
            return Err(Rejected::Forged);
        }
        let value = serde_json::from_str(&entry.value).map_err(unreadable)?;
        Ok((value, entry.serial))
    }
}

/// Signs entries of one lattice, and says which ones count.
#[derive(Debug)]
pub struct Authority {
    own: SigningKey,
    trust: Trust,
}

impl Authority {
    /// Makes an authority that signs with the cluster seed and trusts its key and those in
    /// `trusted`.
    pub fn new(
        lattice: &str,
        cluster_seed: &str,
        mut trusted: Vec<ClusterKey>,
    ) -> Result<Self, KeyError> {
        let own = SigningKey::from_seed(cluster_seed)?;
        own.require(Kind::Cluster)?;
        trusted.push(ClusterKey::parse(own.public_key())?);
        Ok(Self { own, trust: Trust::new(lattice, trusted) })
    }

    /// Returns the part that only checks.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Signs a value for a key of the bucket.
    pub fn sign(
        &self,
        key: &str,
        serial: u64,
        value: &impl Serialize,
    ) -> Result<Signed, serde_json::Error> {
        let value = serde_json::to_string(value)?;
        let signature = self.own.sign(&message(&self.trust.lattice, key, serial, &value));
        Ok(Signed {
            value,
            serial,
            issuer: self.own.public_key().to_owned(),
            signature: STANDARD.encode(signature),
        })
    }

    /// Reads an entry of the bucket and checks its signature.
    pub fn verify<T: DeserializeOwned>(
        &self,
        key: &str,
        bytes: &[u8],
    ) -> Result<(T, u64), Rejected> {
        self.trust.verify(key, bytes)
    }
}

/// Returns the bytes that are signed. No part but the last may have a line feed in it, so no two
/// entries have the same bytes.
fn message(lattice: &str, key: &str, serial: u64, value: &str) -> Vec<u8> {
    format!("{PURPOSE}\n{lattice}\n{key}\n{serial}\n{value}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::samples::CLUSTER;

    fn authority(lattice: &str) -> Authority {
        Authority::new(lattice, CLUSTER.seed, Vec::new()).unwrap()
    }

    fn entry(signed: &Signed) -> Vec<u8> {
        serde_json::to_vec(signed).unwrap()
    }

    #[test]
    fn an_entry_counts_where_it_was_written_for_and_nowhere_else() {
        let signed = authority("default").sign("APP_shop", 7, &vec!["a"]).unwrap();
        let read = |lattice: &str, key: &str| {
            authority(lattice).verify::<Vec<String>>(key, &entry(&signed))
        };
        assert_eq!(read("default", "APP_shop"), Ok((vec!["a".to_owned()], 7)));
        assert_eq!(read("default", "APP_other"), Err(Rejected::Forged));
        assert_eq!(read("other", "APP_shop"), Err(Rejected::Forged));
    }

    #[test]
    fn a_changed_entry_and_one_of_a_stranger_do_not_count() {
        let ours = authority("default");
        let signed = ours.sign("APP_shop", 7, &"v1").unwrap();
        let read = |changed: Signed| ours.verify::<String>("APP_shop", &entry(&changed));
        let changed = Signed { value: "\"v2\"".into(), ..signed.clone() };
        assert_eq!(read(changed), Err(Rejected::Forged));
        assert_eq!(read(Signed { serial: 8, ..signed.clone() }), Err(Rejected::Forged));
        let unsigned = Signed { signature: String::new(), ..signed.clone() };
        assert_eq!(read(unsigned), Err(Rejected::Forged));

        let (stranger, seed) = SigningKey::generate(Kind::Cluster).unwrap();
        let theirs = Authority::new("default", &seed, Vec::new()).unwrap();
        let foreign = theirs.sign("APP_shop", 7, &"v1").unwrap();
        let issuer = stranger.public_key().to_owned();
        assert_eq!(read(foreign.clone()), Err(Rejected::Stranger(issuer.clone())));
        let trusting =
            Authority::new("default", CLUSTER.seed, vec![ClusterKey::parse(&issuer).unwrap()])
                .unwrap();
        assert!(trusting.verify::<String>("APP_shop", &entry(&foreign)).is_ok());
        let not_one = ours.verify::<String>("APP_shop", b"{}");
        assert!(matches!(not_one, Err(Rejected::Unreadable(_))));
    }
}

//! The built-in providers by name, for clients that name one; their work is the host's.

use crate::contracts::{blobstore, httpclient, httpserver, keyvalue, messaging};

/// Begins the references of built-in providers.
pub const SCHEME: &str = "builtin://";

/// A built-in provider, as it is named.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The reference without its scheme.
    pub name: &'static str,
    /// Its public key, the same in every lattice.
    pub public_key: &'static str,
    /// The contract it fulfils.
    pub contract_id: &'static str,
    /// Its name in claims and inventories.
    pub title: &'static str,
}

pub const HTTPSERVER: Known = Known {
    name: "httpserver",
    public_key: "VAIKANJ34ZDWZ53HG4K4I3QFEPLS2JTGT4NZQRYKAKU62ATBMRA4TD3Y",
    contract_id: httpserver::CONTRACT,
    title: "HTTP server",
};

pub const HTTPCLIENT: Known = Known {
    name: "httpclient",
    public_key: "VCP3XNMQNE72JED2NKSFQ2QA5HIVGX6CNYJNX4QJ5XWUNVIKPLORF2UI",
    contract_id: httpclient::CONTRACT_ID,
    title: "HTTP client",
};

pub const KEYVALUE: Known = Known {
    name: "keyvalue",
    public_key: "VAOCJWBB57AQQ3VXOWJBISRFI34P3MB4VREFNA32LSMHQZC5CVPR6ISF",
    contract_id: keyvalue::CONTRACT_ID,
    title: "Key-value store on JetStream",
};

pub const MESSAGING: Known = Known {
    name: "messaging",
    public_key: "VACOGKO5XP3IH7UBYBYZAMP3L5UZU2STCWNLK7Z5NAAKEIUUGPL4GWMA",
    contract_id: messaging::CONTRACT_ID,
    title: "Messaging on NATS",
};

pub const BLOBSTORE: Known = Known {
    name: "blobstore",
    public_key: "VAP37YYI3HKCAN5OVFWT57R6Z3HV6FMWDAZFPGVLKBYATCYNZJOKTM52",
    contract_id: blobstore::CONTRACT_ID,
    title: "Blob store on files or JetStream",
};

impl Known {
    /// Says why it has no use for a link of another contract than its own.
    pub fn other_contract(&self, contract_id: &str) -> String {
        format!("it fulfils {}, not {contract_id}", self.contract_id)
    }

    /// The reference by which it is started.
    pub fn reference(&self) -> String {
        format!("{SCHEME}{}", self.name)
    }
}

/// Every built-in provider; the host's own catalogue has the same ones in the same order.
pub static CATALOGUE: [Known; 5] = [HTTPSERVER, HTTPCLIENT, KEYVALUE, MESSAGING, BLOBSTORE];

/// The built-in provider of a reference: `None` if the reference names something else, an error if
/// no such one exists.
pub fn find(reference: &str) -> Option<Result<&'static Known, UnknownBuiltin>> {
    let name = reference.strip_prefix(SCHEME)?;
    let found = CATALOGUE.iter().find(|known| known.name == name);
    Some(found.ok_or_else(|| UnknownBuiltin(name.to_owned())))
}

/// The built-in provider with a public key.
pub fn by_key(public_key: &str) -> Option<&'static Known> {
    CATALOGUE.iter().find(|known| known.public_key == public_key)
}

/// The reference of a built-in provider, by its public key; of others the key itself.
pub fn name_of(public_key: &str) -> String {
    by_key(public_key).map_or_else(|| public_key.to_owned(), Known::reference)
}

/// There is no built-in provider of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no built-in provider {name:?}; there are {known}", name = .0, known = names())]
pub struct UnknownBuiltin(pub String);

fn names() -> String {
    CATALOGUE.iter().map(Known::reference).collect::<Vec<_>>().join(", ")
}

//! A NATS operator with one account and one user, as `nsc` would make them, for servers that trust an operator.

use std::path::Path;

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use lattice_host::identity::claims::now;
use nkeys::{KeyPair, KeyPairType};
use serde_json::{Value, json};

use super::files;

/// The keys of an operator and of those below it.
pub struct Keys {
    operator: KeyPair,
    system: KeyPair,
    account: KeyPair,
    user: KeyPair,
}

impl Keys {
    /// Makes keys that nobody keeps.
    pub fn new() -> Self {
        Self {
            operator: KeyPair::new_operator(),
            system: KeyPair::new_account(),
            account: KeyPair::new_account(),
            user: KeyPair::new_user(),
        }
    }

    /// Reads the seeds in `dir`, and makes and writes those that are missing.
    pub fn keep(dir: &Path) -> Result<Self> {
        let keep = |name: &str, kind: KeyPairType| {
            let path = dir.join(name);
            let seed = files::keep_secret(&path, || Ok(KeyPair::new(kind.clone()).seed()?))?;
            let pair = KeyPair::from_seed(seed.trim()).ok().filter(|pair| pair.key_pair_type() == kind);
            pair.with_context(|| {
                format!("{} holds no {kind:?} seed; delete it to get a new one, with new credentials", path.display())
            })
        };
        Ok(Self {
            operator: keep("operator.nk", KeyPairType::Operator)?,
            system: keep("system.nk", KeyPairType::Account)?,
            account: keep("account.nk", KeyPairType::Account)?,
            user: keep("user.nk", KeyPairType::User)?,
        })
    }
}

/// What a server and its one user need.
pub struct Operator {
    /// The configuration of a server that trusts the operator and knows the account.
    pub server_config: String,
    pub user_jwt: String,
    pub user_seed: String,
}

impl Operator {
    /// Signs for these keys. The account may use JetStream, where a server has it.
    pub fn new(keys: &Keys, name: &str) -> Result<Self> {
        let Keys { operator, system, account, user } = keys;
        let operator_claims = json!({"type": "operator", "version": 2, "system_account": system.public_key()});
        let operator_jwt = sign(name, operator, operator, operator_claims)?;
        let system_jwt = sign(name, operator, system, account_claims(0))?;
        let account_jwt = sign(name, operator, account, account_claims(-1))?;
        let user_claims =
            json!({"type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1});
        let server_config = format!(
            "operator: {operator_jwt}\nresolver: MEMORY\n\
             resolver_preload: {{\n    {}: {system_jwt}\n    {}: {account_jwt}\n}}\n",
            system.public_key(),
            account.public_key(),
        );
        Ok(Self { server_config, user_jwt: sign(name, account, user, user_claims)?, user_seed: user.seed()? })
    }

    /// The text of a credentials file for the user.
    pub fn creds(&self) -> String {
        creds(&self.user_jwt, &self.user_seed)
    }
}

/// The text of a credentials file.
pub fn creds(jwt: &str, seed: &str) -> String {
    format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
}

/// `jetstream` bounds streams, consumers and storage; -1 is no bound, 0 is no JetStream.
fn account_claims(jetstream: i64) -> Value {
    json!({
        "type": "account",
        "version": 2,
        "limits": {
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
            "leaf": -1, "mem_storage": jetstream, "disk_storage": jetstream, "streams": jetstream,
            "consumer": jetstream,
        },
        "default_permissions": {"pub": {}, "sub": {}},
    })
}

fn sign(name: &str, issuer: &KeyPair, subject: &KeyPair, nats: Value) -> Result<String> {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let claims = json!({
        "jti": uuid::Uuid::new_v4().simple().to_string(),
        "iat": now(),
        "iss": issuer.public_key(),
        "sub": subject.public_key(),
        "name": name,
        "nats": nats,
    });
    let text = format!("{}.{}", encode(&header), encode(&claims));
    let signature = issuer.sign(text.as_bytes()).context("sign claims")?;
    Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

//! A NATS operator with one account and one user, as `nsc` would make them, for servers that trust an operator.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use lattice_host::identity::claims::now;
use nkeys::KeyPair;
use serde_json::{Value, json};

/// What a server and its one user need.
pub struct Operator {
    /// The configuration of a server that trusts the operator and knows the account.
    pub server_config: String,
    pub user_jwt: String,
    pub user_seed: String,
}

impl Operator {
    /// Makes all keys anew. The account may use JetStream.
    pub fn new() -> Self {
        let (operator, system, account, user) =
            (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account(), KeyPair::new_user());
        let operator_jwt = sign(
            &operator,
            &operator,
            json!({"type": "operator", "version": 2, "system_account": system.public_key()}),
        );
        let system_jwt = sign(&operator, &system, account_claims(0));
        let account_jwt = sign(&operator, &account, account_claims(-1));
        let user_claims =
            json!({"type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1});
        let server_config = format!(
            "operator: {operator_jwt}\nresolver: MEMORY\nresolver_preload: {{ {}: {system_jwt}, {}: {account_jwt} }}\n",
            system.public_key(),
            account.public_key(),
        );
        let user_jwt = sign(&account, &user, user_claims);
        Self { server_config, user_jwt, user_seed: user.seed().expect("a new key has a seed") }
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
            "leaf": -1, "mem_storage": jetstream, "disk_storage": jetstream, "streams": jetstream, "consumer": jetstream,
        },
        "default_permissions": {"pub": {}, "sub": {}},
    })
}

fn sign(issuer: &KeyPair, subject: &KeyPair, nats: Value) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let claims = json!({
        "jti": uuid::Uuid::new_v4().simple().to_string(),
        "iat": now(),
        "iss": issuer.public_key(),
        "sub": subject.public_key(),
        "name": "test",
        "nats": nats,
    });
    let text = format!("{}.{}", encode(&header), encode(&claims));
    let signature = issuer.sign(text.as_bytes()).expect("the issuer has a seed");
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

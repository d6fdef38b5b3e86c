//! A NATS operator with one account and one user, as `nsc` would make them: the login of a server
//! that lets nobody else in.
//!
//! The server's configuration holds signed claims and public keys only. The user logs in with its
//! JWT and its seed, which every client of a lattice can do, whatever its year: user and password
//! are unknown to `wash` and to providers.

use data_encoding::BASE64URL_NOPAD;
use nkeys::{KeyPair, KeyPairType, error::Error};
use serde_json::{Value, json};

use super::claims::now;

/// The keys of an operator and of those below it.
pub struct Keys {
    pub operator: KeyPair,
    pub system: KeyPair,
    pub account: KeyPair,
    pub user: KeyPair,
}

impl Default for Keys {
    fn default() -> Self {
        Self::new()
    }
}

impl Keys {
    /// Makes keys that nobody keeps.
    pub fn new() -> Self {
        Self {
            operator: KeyPair::new(KeyPairType::Operator),
            system: KeyPair::new(KeyPairType::Account),
            account: KeyPair::new(KeyPairType::Account),
            user: KeyPair::new(KeyPairType::User),
        }
    }
}

/// The configuration and the credentials for a server and its one user.
pub struct Operator {
    /// The part of a server's configuration that trusts the operator and knows the account.
    pub server_config: String,
    /// The public key (`A…`) of the account that the user and all streams belong to.
    pub account: String,
    pub user_jwt: String,
    pub user_seed: String,
}

impl Operator {
    /// Signs for these keys; `name` is in all claims. The account may use JetStream, where a server
    /// has it.
    ///
    /// # Errors
    ///
    /// If one of the keys is a public one, which cannot sign.
    pub fn new(keys: &Keys, name: &str) -> Result<Self, Error> {
        let Keys { operator, system, account, user } = keys;
        let operator_claims =
            json!({"type": "operator", "version": 2, "system_account": system.public_key()});
        let operator_jwt = sign(name, operator, operator, operator_claims)?;
        let system_jwt = sign(name, operator, system, account_claims(0))?;
        let account_jwt = sign(name, operator, account, account_claims(-1))?;
        let user_claims = json!({"type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1});
        let server_config = format!(
            "operator: {operator_jwt}\nresolver: MEMORY\n\
             resolver_preload: {{\n    {}: {system_jwt}\n    {}: {account_jwt}\n}}\n",
            system.public_key(),
            account.public_key(),
        );
        Ok(Self {
            server_config,
            account: account.public_key(),
            user_jwt: sign(name, account, user, user_claims)?,
            user_seed: user.seed()?,
        })
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

/// The user JWT and the seed in the text of a credentials file, as far as they are there. Titles
/// tell which block is which; where they do not, the JWT comes first, as NATS clients have it.
pub fn parts_of_creds(text: &str) -> (Option<&str>, Option<&str>) {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let is_dashed = |line: &str| line.starts_with("---");
    let mut blocks: Vec<(&str, &str)> = Vec::new();
    let mut rest = lines.as_slice();
    while let [title, content, end, ..] = *rest {
        let is_block = is_dashed(title)
            && is_dashed(end)
            && !is_dashed(content)
            && !content.contains(char::is_whitespace);
        if is_block {
            blocks.push((title, content));
        }
        rest = &rest[if is_block { 3 } else { 1 }..];
    }
    let titled = |word: &str| blocks.iter().find(|(title, _)| title.contains(word));
    let jwt = titled("JWT").or_else(|| blocks.first().filter(|(title, _)| !title.contains("SEED")));
    let seed = titled("SEED").or_else(|| blocks.get(1).filter(|block| Some(*block) != jwt));
    (jwt.map(|(_, content)| *content), seed.map(|(_, content)| *content))
}

/// The name in the claims of a NATS JWT; `None` if that is none. The signature is not looked at.
pub fn name_in(jwt: &str) -> Option<String> {
    claim_in(jwt, "name")
}

/// A text in the claims of a NATS JWT; `None` if it is none, or has no such text. The signature is
/// not looked at.
pub fn claim_in(jwt: &str, name: &str) -> Option<String> {
    let claims = BASE64URL_NOPAD.decode(jwt.split('.').nth(1)?.as_bytes()).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    claims[name].as_str().map(str::to_owned)
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

fn sign(name: &str, issuer: &KeyPair, subject: &KeyPair, nats: Value) -> Result<String, Error> {
    let header = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let claims = json!({
        "jti": uuid::Uuid::new_v4().simple().to_string(),
        "iat": now(),
        "iss": issuer.public_key(),
        "sub": subject.public_key(),
        "name": name,
        "nats": nats,
    });
    let [header, claims] =
        [header, claims].map(|part| BASE64URL_NOPAD.encode(part.to_string().as_bytes()));
    let text = format!("{header}.{claims}");
    let signature = issuer.sign(text.as_bytes())?;
    Ok(format!("{text}.{}", BASE64URL_NOPAD.encode(&signature)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_in_claims_and_in_nothing_else() {
        let operator = Operator::new(&Keys::new(), "test").unwrap();
        assert_eq!(name_in(&operator.user_jwt).as_deref(), Some("test"));
        for other in ["", "a.b.c", "e30", "x.e30.y"] {
            assert_eq!(name_in(other), None, "{other}");
        }
    }

    #[test]
    fn both_parts_of_credentials_are_found_as_other_clients_find_them() {
        const OF_NSC: &str = "-----BEGIN NATS USER JWT-----\r\nj.w.t\r\n------END NATS USER JWT------\r\n\r\n\
            ************************* IMPORTANT *************************\r\n\
            NKEY Seed printed below can be used to sign and prove identity.\r\n\r\n\
            -----BEGIN USER NKEY SEED-----\r\nSU\r\n------END USER NKEY SEED------\r\n";
        let other = "--- one ---\nj.w.t\n--- end ---\n--- two ---\nSU\n--- end ---";
        let swapped = "--- SEED ---\nSU\n--- ---\n--- JWT ---\nj.w.t\n--- ---";
        let only = |title: &str, text: &str| format!("---{title}---\n{text}\n---END---\n");
        let both = (Some("j.w.t"), Some("SU"));
        for (text, parts) in [
            (creds("j.w.t", "SU"), both),
            (OF_NSC.to_owned(), both),
            (other.to_owned(), both),
            (swapped.to_owned(), both),
            (creds("j.w.t", ""), (Some("j.w.t"), None)),
            (creds("", "SU"), (None, Some("SU"))),
            (only("BEGIN NATS USER JWT", "j.w.t"), (Some("j.w.t"), None)),
            (only("BEGIN USER NKEY SEED", "SU"), (None, Some("SU"))),
            (String::new(), (None, None)),
            ("j.w.t\nSU\n".to_owned(), (None, None)),
        ] {
            assert_eq!(parts_of_creds(&text), parts, "{text}");
        }
    }

    #[test]
    fn the_servers_part_holds_no_seed() {
        let operator = Operator::new(&Keys::new(), "test").unwrap();
        assert!(!operator.server_config.contains(&operator.user_seed));
        assert!(
            operator.server_config.contains(&operator.account)
                && operator.creds().contains(&operator.user_jwt)
        );
    }
}

//! Tiny guests for odd behaviour: written as WebAssembly text, signed here with wascap, loaded as
//! files.

use std::{path::PathBuf, sync::LazyLock};

use tempfile::TempDir;
use wascap::prelude::{Claims, ClaimsBuilder, KeyPair};
use wascap::wasm::embed_claims;

/// A signed guest on disk.
pub struct Guest {
    pub id: String,
    pub reference: String,
    /// The signer's module key, for signing a successor.
    pub key: KeyPair,
    /// The account that signed it.
    pub issuer: String,
    _dir: TempDir,
}

/// The claims of a guest.
#[derive(Clone, Default)]
pub struct Signing {
    /// `guest` if it has none.
    pub name: Option<String>,
    pub caps: Vec<String>,
    pub call_alias: Option<String>,
    pub revision: Option<i32>,
    pub expires_in_days: Option<u64>,
    pub expires_in_secs: Option<u64>,
    pub valid_in_days: Option<u64>,
}

/// The waPC skeleton: `body` is the text of `__guest_call`, which has the locals of its parameters.
pub fn wapc(body: &str) -> String {
    format!(
        r#"(module
  (import "wapc" "__guest_request" (func $request (param i32 i32)))
  (import "wapc" "__guest_response" (func $response (param i32 i32)))
  (import "wapc" "__guest_error" (func $error (param i32 i32)))
  (import "wapc" "__console_log" (func $log (param i32 i32)))
  (import "wapc" "__host_call" (func $host_call (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wapc" "__host_response_len" (func $host_response_len (result i32)))
  (import "wapc" "__host_response" (func $host_response (param i32)))
  (import "wapc" "__host_error_len" (func $host_error_len (result i32)))
  (import "wapc" "__host_error" (func $host_error (param i32)))
  (memory (export "memory") 2)
  (data (i32.const 0) "state of this instance: 0")
  (func (export "__guest_call") (param $op i32) (param $len i32) (result i32)
    {body}))"#
    )
}

/// Signs a guest with keys of its own.
pub fn sign(wat: &str, signing: &Signing) -> Guest {
    sign_as(wat, signing, KeyPair::new_module())
}

/// Signs a guest under a known key: the next revision of an actor.
pub fn sign_as(wat: &str, signing: &Signing, key: KeyPair) -> Guest {
    sign_module(&wat::parse_str(wat).expect("valid text"), signing, key)
}

/// Signs the bytes of a module with the account of all guests.
pub fn sign_module(wasm: &[u8], signing: &Signing, key: KeyPair) -> Guest {
    static ACCOUNT: LazyLock<String> =
        LazyLock::new(|| KeyPair::new_account().seed().expect("a seed"));
    sign_bytes(wasm, signing, key, &KeyPair::from_seed(&ACCOUNT).expect("the seed of an account"))
}

/// Signs a guest with an account of one's own.
pub fn sign_as_account(wat: &str, signing: &Signing, key: KeyPair, account: &KeyPair) -> Guest {
    sign_bytes(&wat::parse_str(wat).expect("valid text"), signing, key, account)
}

fn sign_bytes(wasm: &[u8], signing: &Signing, key: KeyPair, account: &KeyPair) -> Guest {
    let mut metadata = wascap::jwt::Actor::new(
        signing.name.clone().unwrap_or_else(|| "guest".into()),
        Some(signing.caps.clone()),
        Some(vec![]),
        false,
        signing.revision,
        Some("0.1.0".into()),
        signing.call_alias.clone(),
    );
    metadata.provider = false;
    let mut builder = ClaimsBuilder::<wascap::jwt::Actor>::new();
    builder.issuer(&account.public_key()).subject(&key.public_key()).with_metadata(metadata);
    if let Some(days) = signing.expires_in_days {
        builder.expires_in(std::time::Duration::from_secs(days * 86400));
    }
    if let Some(seconds) = signing.expires_in_secs {
        builder.expires_in(std::time::Duration::from_secs(seconds));
    }
    if let Some(days) = signing.valid_in_days {
        builder.valid_in(std::time::Duration::from_secs(days * 86400));
    }
    let claims: Claims<wascap::jwt::Actor> = builder.build();
    let signed = embed_claims(wasm, &claims, account).expect("the guest is signed");
    let (dir, reference) = write(&signed);
    Guest { id: key.public_key(), reference, key, issuer: account.public_key(), _dir: dir }
}

/// Writes module bytes to a file of their own.
pub fn write(wasm: &[u8]) -> (TempDir, String) {
    let dir = TempDir::new().expect("a directory");
    let path: PathBuf = dir.path().join("guest.wasm");
    std::fs::write(&path, wasm).expect("the module is written");
    (dir, format!("file://{}", path.display()))
}

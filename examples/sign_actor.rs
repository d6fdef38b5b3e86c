//! Signs an actor: embeds a claims token, made with an account's seed, in a WebAssembly module.
//!
//! A host starts signed actors only. The token tells who the actor is (the subject key), who vouches
//! for it (the issuer key), which capabilities it may use, and how other actors may call it.
//!
//! ```text
//! cargo run --example sign_actor -- --wasm echo.wasm --out echo_s.wasm --name Echo \
//!     --subject-seed-file echo.nk --issuer-seed-file account.nk --cap wasmcloud:httpserver
//! ```
//!
//! With a fixed `--issued-at` the same arguments write the same bytes: the token's id is derived from
//! the module and the claims, and all times count from the time of issue.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha256};
use wascap::jwt::{Actor, Claims};
use wascap::prelude::KeyPair;
use wascap::wasm::{embed_claims, extract_claims};

const SECONDS_PER_DAY: u64 = 86_400;

/// Length of the token ids that other signing tools draw at random.
const TOKEN_ID_LEN: usize = 22;

/// Embeds a signed claims token in a WebAssembly module
#[derive(Parser)]
struct Args {
    /// Module to sign; a token that it already carries is replaced
    #[arg(long, value_name = "FILE")]
    wasm: PathBuf,

    /// Where to write the signed module
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Name of the actor, for people
    #[arg(long)]
    name: String,

    /// File with the seed (SM...) of the actor's own key
    #[arg(long, value_name = "FILE")]
    subject_seed_file: PathBuf,

    /// File with the seed (SA...) of the account that signs
    #[arg(long, value_name = "FILE")]
    issuer_seed_file: PathBuf,

    /// Contract id of a capability that the actor may use; may be repeated
    #[arg(long = "cap", value_name = "CONTRACT")]
    caps: Vec<String>,

    /// Name by which other actors may call this one
    #[arg(long)]
    call_alias: Option<String>,

    /// Free label; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,

    /// Revision; a live update takes only a higher one
    #[arg(long)]
    rev: Option<i32>,

    /// Version, for people
    #[arg(long)]
    ver: Option<String>,

    /// Time of issue in seconds since 1970; now if not given
    #[arg(long, env = "SOURCE_DATE_EPOCH", value_name = "SECONDS")]
    issued_at: Option<u64>,

    /// Days from the time of issue until the token expires; never if not given
    #[arg(long, value_name = "DAYS")]
    expires_in_days: Option<u64>,

    /// Days from the time of issue until the token becomes valid; at once if not given
    #[arg(long, value_name = "DAYS")]
    not_before_in_days: Option<u64>,

    /// Fail unless this signed module has the same subject, capabilities and call alias
    #[arg(long, value_name = "FILE")]
    same_identity_as: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let module = read(&args.wasm)?;
    let subject = read_seed("subject", 'M', &args.subject_seed_file)?;
    let issuer = read_seed("issuer", 'A', &args.issuer_seed_file)?;
    let claims = claims(&args, &module, &subject, &issuer)?;
    let signed =
        embed_claims(&module, &claims, &issuer).with_context(|| format!("embed claims in {}", args.wasm.display()))?;
    if let Some(other) = &args.same_identity_as {
        let (ours, theirs) = (identity(&signed)?, read_identity(other)?);
        let other = other.display();
        ensure!(ours == theirs, "{other} has another identity: {theirs:?}, not {ours:?}");
    }
    fs::write(&args.out, signed).with_context(|| format!("write signed module {}", args.out.display()))?;
    println!("{} {}", subject.public_key(), args.out.display());
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read module {}", path.display()))
}

/// Reads the seed of a key whose public form begins with `kind`.
fn read_seed(role: &str, kind: char, path: &Path) -> Result<KeyPair> {
    let file = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("read {role} seed file {file}"))?;
    let key = KeyPair::from_seed(text.trim()).with_context(|| format!("decode {role} seed in {file}"))?;
    ensure!(key.public_key().starts_with(kind), "{role} seed in {file} must begin with S{kind}");
    Ok(key)
}

fn claims(args: &Args, module: &[u8], subject: &KeyPair, issuer: &KeyPair) -> Result<Claims<Actor>> {
    let issued_at = match args.issued_at {
        Some(seconds) => seconds,
        None => SystemTime::now().duration_since(UNIX_EPOCH).context("read the clock")?.as_secs(),
    };
    let days_later = |days: u64| issued_at + days * SECONDS_PER_DAY;
    let mut claims = Claims::<Actor>::with_dates(
        args.name.clone(),
        issuer.public_key(),
        subject.public_key(),
        Some(args.caps.clone()),
        Some(args.tags.clone()),
        args.not_before_in_days.map(days_later),
        args.expires_in_days.map(days_later),
        false,
        args.rev,
        args.ver.clone(),
        args.call_alias.clone(),
    );
    claims.issued_at = issued_at;
    claims.id = String::new();
    claims.id = token_id(module, &claims)?;
    Ok(claims)
}

/// Derives a token id that differs whenever the module or any claim does.
fn token_id(module: &[u8], claims: &Claims<Actor>) -> Result<String> {
    let digest = Sha256::new()
        .chain_update(serde_json::to_vec(claims).context("serialize claims")?)
        .chain_update(module)
        .finalize();
    let mut id = BASE32_NOPAD.encode(&digest);
    id.truncate(TOKEN_ID_LEN);
    Ok(id)
}

/// What others know an actor by: it must not change when the actor is built again.
#[derive(Debug, PartialEq)]
struct Identity {
    subject: String,
    capabilities: Vec<String>,
    call_alias: Option<String>,
}

fn read_identity(path: &Path) -> Result<Identity> {
    identity(&read(path)?).with_context(|| format!("identify {}", path.display()))
}

fn identity(module: &[u8]) -> Result<Identity> {
    let token = extract_claims(module)?.context("module is not signed")?;
    let actor = token.claims.metadata.context("token is not an actor's")?;
    Ok(Identity {
        subject: token.claims.subject,
        capabilities: actor.caps.unwrap_or_default(),
        call_alias: actor.call_alias,
    })
}

//! Packs a capability provider: executable and signed claims in one archive (`.par`, or `.par.gz` by its name).
//!
//! A host starts what such an archive says. The claims tell who the provider is (the subject key), who vouches for it
//! (the issuer key), which contract it fulfils, and hold the executable's hash. Each executable is for one target; without
//! `--target` for that of this machine.
//!
//! ```text
//! cargo build --example provider_kvredis
//! cargo run --example pack_provider -- --executable target/debug/examples/provider_kvredis --out kvredis.par.gz \
//!     --name "Redis key-value store" --contract wasmcloud:keyvalue --rev 1 --ver 0.1.0 \
//!     --subject-seed-file examples/providers/keys/kvredis.nk --issuer-seed-file examples/actors/keys/account.nk
//! ```
//!
//! To add an executable for another target, name it again: `--executable linux.bin --target x86_64-linux --executable
//! mac.bin --target aarch64-macos`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use provider_archive::ProviderArchive;
use wascap::prelude::KeyPair;

/// Packs executables of a capability provider into a signed archive
#[derive(Parser)]
struct Args {
    /// Executable to pack; may be repeated, with a target each
    #[arg(long = "executable", value_name = "FILE", required = true)]
    executables: Vec<PathBuf>,

    /// Target of the executable, like x86_64-linux; this machine's if not given
    #[arg(long = "target", value_name = "ARCH-OS")]
    targets: Vec<String>,

    /// Where to write the archive; compressed if the name ends with .gz
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Name of the provider, for people
    #[arg(long)]
    name: String,

    /// Contract that the provider fulfils
    #[arg(long, value_name = "CONTRACT")]
    contract: String,

    /// Who made it, for people
    #[arg(long, default_value = "example")]
    vendor: String,

    /// File with the seed (SV...) of the provider's own key
    #[arg(long, value_name = "FILE")]
    subject_seed_file: PathBuf,

    /// File with the seed (SA...) of the account that signs
    #[arg(long, value_name = "FILE")]
    issuer_seed_file: PathBuf,

    /// Revision
    #[arg(long)]
    rev: Option<i32>,

    /// Version, for people
    #[arg(long)]
    ver: Option<String>,

    /// File with a JSON schema of the link values
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let subject = read_seed("subject", 'V', &args.subject_seed_file)?;
    let issuer = read_seed("issuer", 'A', &args.issuer_seed_file)?;
    let mut archive = ProviderArchive::new(&args.contract, &args.name, &args.vendor, args.rev, args.ver.clone());
    for (target, executable) in targets(&args)? {
        let bytes = fs::read(&executable).with_context(|| format!("read executable {}", executable.display()))?;
        // The library's errors are not for sharing between threads, so they become texts here.
        archive.add_library(&target, &bytes).map_err(|error| anyhow::anyhow!("add {target}: {error}"))?;
    }
    if let Some(path) = &args.schema {
        let text = fs::read_to_string(path).with_context(|| format!("read schema {}", path.display()))?;
        let schema = serde_json::from_str(&text).with_context(|| format!("read JSON of {}", path.display()))?;
        archive.set_schema(schema).map_err(|error| anyhow::anyhow!("add the schema: {error}"))?;
    }
    let compress = args.out.extension().is_some_and(|extension| extension == "gz");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    runtime
        .block_on(archive.write(&args.out, &issuer, &subject, compress))
        .map_err(|error| anyhow::anyhow!("write archive {}: {error}", args.out.display()))?;
    println!("{} {}", subject.public_key(), args.out.display());
    Ok(())
}

/// Each executable with its target.
fn targets(args: &Args) -> Result<Vec<(String, PathBuf)>> {
    let mut targets = args.targets.clone();
    if targets.is_empty() && args.executables.len() == 1 {
        targets.push(format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS));
    }
    ensure!(targets.len() == args.executables.len(), "every --executable needs a --target when there are several");
    Ok(targets.into_iter().zip(args.executables.iter().cloned()).collect())
}

/// Reads the seed of a key whose public form begins with `kind`.
fn read_seed(role: &str, kind: char, path: &Path) -> Result<KeyPair> {
    let file = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("read {role} seed file {file}"))?;
    let key = KeyPair::from_seed(text.trim()).with_context(|| format!("decode {role} seed in {file}"))?;
    ensure!(key.public_key().starts_with(kind), "{role} seed in {file} must begin with S{kind}");
    Ok(key)
}

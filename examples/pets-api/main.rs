//! The pets API: the JSON APIs of dog.ceo and api.thecatapi.com with a few pictures, for the actor
//! `dogs-and-cats` on machines without internet. `host up --demo` has it built in; here it runs
//! alone.
//!
//!     cargo run --example pets-api
//!
//! It prints the link values with which the built-in HTTP client finds and trusts it. Ctrl-C ends
//! it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use clap::Parser;
use lattice_base::shutdown;
use lattice_cli::up::demo::{
    certificate::Certificate,
    pets::{CAT_API, DOG_API, Pets, Settings},
};
use tokio_util::sync::CancellationToken;

/// Serves the JSON APIs of dog.ceo and api.thecatapi.com, with pictures drawn on the spot, over
/// HTTPS
#[derive(Parser)]
#[command(
    name = "pets-api",
    after_help = "Examples:\n  \
        pets-api                                   on 127.0.0.1:8443, with a certificate made for this run\n  \
        pets-api --listen 0.0.0.0:0 --dir pets     on a free port for all machines, with a certificate that stays\n  \
        pets-api --delay-ms 1500                   a slow API, to see what timeouts do"
)]
struct Args {
    /// Address to listen on; port 0 is any free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8443")]
    listen: SocketAddr,

    /// Milliseconds by which every answer is late
    #[arg(long, value_name = "MS", default_value_t = 0)]
    delay_ms: u64,

    /// Directory for ca.pem, server.pem and server-key.pem: used if they are there, made if not
    ///
    /// Without it there is a new authority for each run, whose ca.pem is in a temporary directory
    /// until the end. The certificates are good for a year; remove the three files to have new
    /// ones.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let temporary = tempfile::tempdir().context("make a temporary directory")?;
    let dir = args.dir.unwrap_or_else(|| temporary.path().to_owned());
    let dir = std::path::absolute(&dir).with_context(|| format!("find {}", dir.display()))?;
    let certificate = Certificate::keep(&dir)?;
    let ca = Certificate::authority_path(&dir);
    let settings =
        Settings { listen: args.listen, delay: Duration::from_millis(args.delay_ms), certificate };
    let pets = Pets::start(settings).await.context("another --listen may help")?;
    let (local, port, ca) = (pets.local_address(), pets.address().port(), ca.display());
    println!("pets API    https://{} as {DOG_API} and {CAT_API}", pets.address());
    println!("authority   {ca}");
    println!();
    println!("Try it:");
    println!(
        "  curl --cacert {ca} --connect-to {DOG_API}:443:{local} https://{DOG_API}/api/breeds/image/random"
    );
    println!();
    println!(
        "Values of the link from dogs-and-cats to builtin://httpclient, for hosts on this machine:"
    );
    println!("  resolve={}", Pets::resolve(local));
    println!("  ca_file={ca}");
    println!("  allow_loopback=true");
    if pets.address().ip().is_unspecified() {
        println!(
            "Elsewhere put an address of this machine before :{port}, and copy the file or put its text into ca."
        );
    }
    let stop = CancellationToken::new();
    let signals = tokio::spawn(shutdown::obey_signals(stop.clone(), || {}));
    tokio::select! {
        () = stop.cancelled() => {}
        ended = signals => ended?.context("wait for Ctrl-C")?,
    }
    pets.stop().await;
    Ok(())
}

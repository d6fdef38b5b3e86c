//! `host inspect`, `claims inspect` and `par inspect`: what a reference names, and with `--wit` the
//! world of a component.

use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use serde_json::{Value, json};

use super::{
    registry::{TELL_EVERY, check_digest, open, pulling},
    sign::Bare,
};
use crate::{
    args::{self, flags::SettingArgs, tools::Inspect},
    inspect::{self, Found, World},
    session::Session,
    terminal::{Page, Terminal, View},
};
use lattice_base::registry::uploads;
use lattice_client::{TIMEOUT, upload};
use lattice_protocol::{errors::Usage, identity::claims::now};

/// Prints what a reference names. A relative path is one of this directory; whoever asks may read
/// their own files.
pub async fn run(terminal: &Terminal, before: SettingArgs, args: Inspect) -> Result<()> {
    let session = Session::of(args::merged(before, args.settings), None, TIMEOUT)?;
    let path = std::path::Path::new(&args.reference);
    // Hosts take absolute paths only, and so does what fetches for them.
    let path = std::path::absolute(path).unwrap_or(path.to_owned());
    // A name that is written like that of a file is a path even if nothing is there.
    let is_path = upload::local_file(&args.reference).is_some();
    let reference = if is_path { path.display().to_string() } else { args.reference };
    let mut registry = open(&session, &args.login, &reference, |settings| {
        settings.allow_files = true;
        if args.no_cache {
            settings.cache_bytes_max = 0;
        }
    })?;
    if reference.starts_with(uploads::SCHEME) {
        registry = registry.with_uploads(Arc::new(
            upload::store(&session.sender().await?, session.config.js_domain.as_deref()).await,
        ));
    }
    let pulling = pulling(terminal, &reference);
    if args.wit {
        let world = inspect::world(&registry, &reference, TELL_EVERY, pulling).await?;
        check(&reference, args.digest.as_deref(), world.digest.as_deref())?;
        return terminal.show(&world);
    }
    let inspected = inspect::inspect(&registry, &reference, TELL_EVERY, pulling).await;
    let found = inspected.map_err(|error| {
        let error = anyhow::Error::from(error);
        match reference.contains(['/', ':']) {
            true => error,
            // A word alone may be the name of something that runs.
            false => anyhow!(
                "{error:#}. This command takes files and references; `host get inventory` has the reference of what runs"
            ),
        }
    })?;
    check(&reference, args.digest.as_deref(), found.digest.as_deref())?;
    if let Some(untimely) = found.what.untimely(now()) {
        terminal.note(format!("note: {untimely}"));
    }
    if !args.jwt_only {
        return terminal.show(&found);
    }
    match found.what.token() {
        Some(token) => terminal
            .show(&Bare { token: token.to_owned(), subject: found.what.public_key().to_owned() }),
        None => bail!(Usage(format!("{reference} is built in and carries no token"))),
    }
}

/// Fails if an image has another digest than is wanted.
fn check(reference: &str, wanted: Option<&str>, found: Option<&str>) -> Result<()> {
    match (wanted, found) {
        (Some(_), None) => bail!(Usage(format!("--digest is of images, and {reference} is none"))),
        (wanted, found) => check_digest(reference, wanted, found.unwrap_or_default()),
    }
}

impl View for World {
    fn json(&self) -> Value {
        json!({ "wit": self.text, "digest": self.digest })
    }

    fn text(&self, page: &mut Page) {
        page.block(self.text.trim_end());
    }

    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}

impl View for Found {
    fn json(&self) -> Value {
        self.to_json()
    }

    fn text(&self, page: &mut Page) {
        page.block(self.to_string().trim_end());
    }

    fn names(&self) -> Vec<String> {
        vec![self.what.public_key().to_owned()]
    }
}

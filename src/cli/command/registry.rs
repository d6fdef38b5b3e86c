//! `host reg`, `push` and `pull`: artifacts of registries, named as on the command line of `wash`.

use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{files, pairs_of};
use crate::{
    args::{
        self,
        flags::SettingArgs,
        lattice::pair,
        tools::{Login, Pull, Push, RegPing},
    },
    inspect::Inspected,
    session::Session,
    terminal::{Page, Terminal, View},
};
use lattice_base::{
    config::Secret,
    providers::archive::Archive,
    registry::{
        Got, Registry, Settings,
        credentials::{Credentials, Registries, authority},
        push::{Kind, Upload},
        reference::Reference,
    },
};
use lattice_client::TIMEOUT;
use lattice_engine::host;
use lattice_protocol::{
    control::types::Pairs,
    errors::Usage,
    identity::{claims::now, module::is_wasm},
};

/// How often a download is told of.
pub(super) const TELL_EVERY: Duration = Duration::from_millis(100);

/// Sends an artifact to a registry.
pub async fn push(terminal: &Terminal, before: SettingArgs, args: Push) -> Result<()> {
    let session = Session::of(args::merged(before, args.settings), None, TIMEOUT)?;
    let image = image(&session, &args.image, args.registry.as_deref())?;
    let annotations = annotations(&args.annotations)?;
    let content = Bytes::from(files::read(&args.file)?);
    let kind = kind(terminal, &content, &args.file.display().to_string())?;
    let configuration =
        args.configuration.as_deref().map(files::read).transpose()?.map(Bytes::from);
    let registry = open(&session, &args.login, &image, |_| {})?;
    let (total, mut progress) = (content.len() as u64, terminal.progress());
    let stage = format!("pushing {image}");
    progress.stage(&stage, files::size(total));
    let upload = Upload { kind, content, configuration, annotations };
    let pushed = registry
        .push(&image, upload, |sent| {
            progress.stage(&stage, format!("{} of {}", files::size(sent), files::size(total)));
        })
        .await?;
    drop(progress);
    if pushed.was_known {
        terminal.note("the registry had the content already");
    }
    terminal.show(&Pushed { url: pushed.image, digest: pushed.digest, bytes: total })
}

/// Fetches an artifact into a file.
pub async fn pull(terminal: &Terminal, before: SettingArgs, args: Pull) -> Result<()> {
    let session = Session::of(args::merged(before, args.settings), None, TIMEOUT)?;
    let image = image(&session, &args.image, args.registry.as_deref())?;
    let registry = open(&session, &args.login, &image, |_| {})?;
    let fetched = registry.fetch_telling(&image, TELL_EVERY, pulling(terminal, &image)).await?;
    let digest = fetched.digest.unwrap_or_default();
    check_digest(&image, args.digest.as_deref(), &digest)?;
    let extension = extension(terminal, &fetched.content, &image)?;
    let file =
        files::destination(args.destination.as_deref(), &format!("{}.{extension}", stem(&image)));
    files::write(&file, &fetched.content)?;
    let bytes = fetched.content.len() as u64;
    terminal.show(&Pulled { file: file.display().to_string(), digest, bytes })
}

/// Tells whether a registry has an artifact.
pub async fn ping(terminal: &Terminal, before: SettingArgs, args: RegPing) -> Result<()> {
    let session = Session::of(args::merged(before, args.settings), None, TIMEOUT)?;
    let image = image(&session, &args.image, args.registry.as_deref())?;
    let registry = open(&session, &args.login, &image, |_| {})?;
    let digest = registry.resolve(&image).await?;
    terminal.show(&Pong { image, digest })
}

/// A registry as the settings and the flags of a command have it; `adjust` has the last word.
pub(super) fn open(
    session: &Session,
    login: &Login,
    reference: &str,
    adjust: impl FnOnce(&mut Settings),
) -> Result<Registry> {
    let mut settings =
        host::registry_settings(&session.config, &session.dirs, Registries::default());
    settings.logins.given = credentials(login)?;
    if login.insecure
        && let Ok(Reference::Image(image)) = Reference::parse(reference)
    {
        settings.allowed_insecure.push(authority(&image));
    }
    adjust(&mut settings);
    Ok(Registry::new(settings))
}

/// Shows how a download goes; from when it is known how much will come.
pub(super) fn pulling(terminal: &Terminal, image: &str) -> impl FnMut(Got) + use<> {
    let (stage, mut progress) = (format!("pulling {image}"), None);
    let terminal = terminal.clone();
    move |(came, total)| {
        if total > 0 {
            let progress = progress.get_or_insert_with(|| terminal.progress());
            progress.stage(&stage, format!("{} of {}", files::size(came), files::size(total)));
        }
    }
}

/// Refuses an image that is not the one that was meant.
pub(super) fn check_digest(image: &str, wanted: Option<&str>, found: &str) -> Result<()> {
    match wanted {
        Some(wanted) if bare(wanted) != bare(found) => {
            bail!(
                "{image} has the digest {found}, and not {wanted}; it is not the image that was meant"
            )
        }
        _ => Ok(()),
    }
}

/// A digest without the name of its algorithm, which some tools leave away.
fn bare(digest: &str) -> String {
    digest.strip_prefix("sha256:").unwrap_or(digest).to_lowercase()
}

fn credentials(login: &Login) -> Result<Option<Credentials>> {
    match (&login.user, &login.password) {
        (Some(username), Some(password)) => {
            let (username, password) = (username.clone(), Secret::new(password.clone()));
            Ok(Some(Credentials::Basic { username, password }))
        }
        (None, None) => Ok(None),
        (Some(_), None) => bail!(Usage("--user needs --password (WASH_REG_PASSWORD)".into())),
        (None, Some(_)) => bail!(Usage("--password needs --user (WASH_REG_USER)".into())),
    }
}

/// The name of an image with its registry: its own, the one of the flag, or that of the settings.
fn image(session: &Session, name: &str, registry: Option<&str>) -> Result<String> {
    let name = match Reference::parse(name) {
        Ok(Reference::Image(name)) => name,
        _ => bail!(Usage(format!("{name} is no image; images are named registry/repository:tag"))),
    };
    let first = name.split_once('/').map(|(first, _)| first);
    if first.is_some_and(|first| first.contains(['.', ':']) || first == "localhost") {
        return Ok(name);
    }
    let given = registry.filter(|registry| !registry.trim().is_empty());
    match given.or(session.config.oci.as_ref().map(|own| own.registry.as_str())) {
        Some(registry) => Ok(format!("{}/{name}", authority(registry))),
        None => bail!(Usage(format!(
            "{name} does not say which registry is meant; name it (registry.example/{name}), or give --registry \
             (WASH_REG_URL)"
        ))),
    }
}

fn annotations(given: &[String]) -> Result<Pairs> {
    let mut pairs = Vec::new();
    for text in given {
        pairs.push(pair(text).map_err(|why| Usage(format!("{text:?} is no annotation: {why}")))?);
    }
    pairs_of("annotation", pairs)
}

/// Returns the kind of what is to be pushed, if hosts would start it.
fn kind(terminal: &Terminal, content: &[u8], file: &str) -> Result<Kind> {
    let what = match Inspected::read(content, now()) {
        Ok(what) => what,
        Err(error) => bail!(
            "{file} is not pushed, because no host would start it: {error}. What is pushed is a signed module (`host claims \
             sign`) or a provider archive (`host par create`)"
        ),
    };
    if let Some(untimely) = what.untimely(now()) {
        terminal.note(format!("note: {untimely}"));
    }
    Ok(match what {
        Inspected::Provider { .. } => Kind::Provider,
        Inspected::Actor { .. } | Inspected::Builtin(_) => Kind::Actor,
    })
}

/// Returns the extension for a file with this content. A content that no host would start gets a
/// note and is kept all the same: the registry has no other.
fn extension(terminal: &Terminal, content: &[u8], image: &str) -> Result<&'static str> {
    match Inspected::read(content, now()) {
        Ok(what) => {
            if let Some(untimely) = what.untimely(now()) {
                terminal.note(format!("note: {untimely}"));
            }
        }
        Err(error) if is_wasm(content) || Archive::token(content).is_ok() => {
            terminal.note(format!("note: no host starts {image}: {error}"));
        }
        Err(error) => bail!(
            "{image} is neither a module nor a provider archive, and was not written: {error}"
        ),
    }
    Ok(match (is_wasm(content), Archive::is_compressed(content)) {
        (true, _) => "wasm",
        (false, true) => "par.gz",
        (false, false) => "par",
    })
}

/// The last part of an image's name, without tag and digest.
fn stem(image: &str) -> &str {
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split(['@', ':']).next().unwrap_or(last)
}

struct Pushed {
    url: String,
    digest: String,
    bytes: u64,
}

impl View for Pushed {
    fn json(&self) -> Value {
        json!({ "url": self.url, "digest": self.digest, "bytes": self.bytes })
    }

    fn text(&self, page: &mut Page) {
        page.line(format!("Successfully validated and pushed to {}", self.url));
        page.line(format!("  digest  {}", self.digest));
        page.line(format!("  size    {}", files::size(self.bytes)));
    }

    fn names(&self) -> Vec<String> {
        vec![self.url.clone()]
    }
}

struct Pulled {
    file: String,
    digest: String,
    bytes: u64,
}

impl View for Pulled {
    fn json(&self) -> Value {
        json!({ "file": self.file, "digest": self.digest, "bytes": self.bytes })
    }

    fn text(&self, page: &mut Page) {
        page.line(format!("Successfully pulled and validated {}", self.file));
        page.line(format!("  digest  {}", self.digest));
        page.line(format!("  size    {}", files::size(self.bytes)));
    }

    fn names(&self) -> Vec<String> {
        vec![self.file.clone()]
    }
}

struct Pong {
    image: String,
    digest: String,
}

impl View for Pong {
    fn json(&self) -> Value {
        json!({ "result": "Pong!", "image": self.image, "digest": self.digest })
    }

    fn text(&self, page: &mut Page) {
        page.line(format!("Pong! {} is {}", self.image, self.digest));
    }

    fn names(&self) -> Vec<String> {
        vec![self.digest.clone()]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn files_are_called_like_the_last_part_of_the_image() {
        for (image, name) in [
            ("localhost:5000/team/echo:0.1.0", "echo"),
            ("r.example/kv@sha256:00", "kv"),
            ("r.example/kv:1@sha256:00", "kv"),
        ] {
            assert_eq!(stem(image), name);
        }
    }

    #[test]
    fn a_digest_is_compared_with_and_without_its_algorithm() {
        for wanted in [None, Some("sha256:ab"), Some("AB")] {
            assert!(check_digest("i", wanted, "sha256:ab").is_ok(), "{wanted:?}");
        }
        assert!(check_digest("i", Some("ac"), "sha256:ab").is_err());
    }

    #[test]
    fn annotations_are_pairs() {
        assert_eq!(
            annotations(&["a=b=c".into()]).unwrap(),
            BTreeMap::from([("a".into(), "b=c".into())])
        );
        assert!(annotations(&["a".into()]).unwrap_err().is::<Usage>());
        assert!(annotations(&["=b".into()]).is_err());
        assert!(annotations(&["a=b".into(), "a=c".into()]).unwrap_err().is::<Usage>());
    }
}

//! `host par`: makes provider archives, and adds executables to them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{
    files,
    keys::{Signers, find_keyring, told},
    sign::note_slips,
};
use crate::{
    args::tools::{ParCreate, ParInsert, ParKeys},
    keyring::{self, Key, Keyring},
    terminal::{Page, Terminal, View},
};
use lattice_base::providers::archive::{Archive, Draft, DraftError, this_target};
use lattice_protocol::{
    errors::Usage,
    identity::{
        claims::now,
        keys::Kind,
        provider::ProviderClaims,
        sign::{ProviderToken, SignError, Term},
        signature::SigningKey,
    },
};

/// Packs an executable into a new archive.
pub fn create(terminal: &Terminal, args: &ParCreate) -> Result<()> {
    note_slips(terminal, std::slice::from_ref(&args.contract));
    let target = args.arch.clone().unwrap_or_else(this_target);
    let mut draft = Draft::new(ProviderToken {
        name: args.name.clone(),
        contract_id: args.contract.clone(),
        vendor: args.vendor.clone(),
        revision: args.revision,
        version: args.version.clone(),
        config_schema: args.schema.as_deref().map(schema).transpose()?,
        ..ProviderToken::default()
    });
    draft.insert(&target, files::read(&args.binary)?).map_err(unpacked)?;
    let (keys, of_binary) =
        (signers(terminal, &args.keys), |stored: &Keyring| stored.service(&args.binary));
    let issuer =
        keys.key("--issuer", args.keys.issuer.as_deref(), Kind::Account, Keyring::account)?;
    let subject = keys.key("--subject", args.keys.subject.as_deref(), Kind::Service, of_binary)?;
    let (file, compress) = destination(args);
    let archive = draft.write(&subject, &issuer, &Term::default(), compress).map_err(unpacked)?;
    files::write(&file, &archive)?;
    let text = format!("Successfully created archive {}", file.display());
    terminal.show(&Packed::new(text, file, &subject, &issuer, &draft))
}

/// Puts another executable into an archive, and signs it again for the same provider.
pub fn insert(terminal: &Terminal, args: &ParInsert) -> Result<()> {
    let target = args.arch.clone().unwrap_or_else(this_target);
    let bytes = files::read(&args.archive)?;
    let (mut draft, claims) = Draft::read(&bytes, now())
        .with_context(|| format!("read the archive {}", args.archive.display()))?;
    let replaced = draft.insert(&target, files::read(&args.binary)?).map_err(unpacked)?;
    let subject = same_provider(&args.keys, &claims)?;
    let issuer = same_account(terminal, &args.keys, &claims)?;
    let term = Term { not_before: claims.not_before, expires: claims.expires, ..Term::default() };
    let archive =
        draft.write(&subject, &issuer, &term, Archive::is_compressed(&bytes)).map_err(unpacked)?;
    files::write(&args.archive, &archive)?;
    if replaced {
        terminal.note(format!("the executable for {target} was replaced"));
    }
    let (binary, file) = (args.binary.display(), args.archive.display());
    let text = format!("Successfully inserted {binary} into archive {file}");
    terminal.show(&Packed::new(text, args.archive.clone(), &subject, &issuer, &draft))
}

/// The key of the provider whose archive it is: the one given, or wherever it is among the user's.
/// No new one is made, because that would be another provider.
fn same_provider(keys: &ParKeys, claims: &ProviderClaims) -> Result<SigningKey> {
    let wanted = claims.subject.as_str();
    if let Some(given) = &keys.subject {
        let key = keyring::given(given, Kind::Service, "--subject").map_err(told)?;
        if key.public_key() != wanted {
            let found = key.public_key();
            bail!(Usage(format!(
                "the archive is of the provider {wanted}, and --subject is the key of {found}"
            )));
        }
        return Ok(key);
    }
    let keyring = find_keyring(keys.directory.as_deref())?;
    match keyring.with_public_key(wanted).map_err(told)? {
        Some(key) => Ok(key),
        None => bail!(
            "the archive is of the provider {wanted}, whose key is not in {}; give its seed or file with --subject, or \
             the directory it is in with --directory",
            keyring.dir().display()
        ),
    }
}

/// The key of the account that signs: the one given, that which signed before, or the user's.
fn same_account(
    terminal: &Terminal,
    keys: &ParKeys,
    claims: &ProviderClaims,
) -> Result<SigningKey> {
    let key = signers(terminal, keys).key(
        "--issuer",
        keys.issuer.as_deref(),
        Kind::Account,
        |stored| {
            Ok(match stored.with_public_key(&claims.issuer)? {
                Some(key) => Key { key, made: None },
                None => stored.account()?,
            })
        },
    )?;
    if key.public_key() != claims.issuer {
        let (before, after) = (&claims.issuer, key.public_key());
        terminal
            .note(format!("the archive was signed by the account {before}, and is by {after} now"));
    }
    Ok(key)
}

fn signers<'a>(terminal: &'a Terminal, keys: &'a ParKeys) -> Signers<'a> {
    Signers::new(terminal, keys.directory.as_deref(), keys.disable_keygen)
}

/// Turns an error of packing into wrong use ([`Usage`]) where it is about what was typed.
fn unpacked(error: DraftError) -> anyhow::Error {
    match error {
        DraftError::Target(_) | DraftError::Sign(SignError::NoContract) => {
            Usage(error.to_string()).into()
        }
        other => other.into(),
    }
}

/// Reads a file of JSON; returns it without spaces.
fn schema(path: &Path) -> Result<String> {
    let text = files::read(path)?;
    let schema: Value = serde_json::from_slice(&text)
        .with_context(|| format!("read JSON of {}", path.display()))?;
    Ok(schema.to_string())
}

/// Where a new archive goes, and whether it is compressed: its name tells readers so, and none is
/// left to lie.
fn destination(args: &ParCreate) -> (PathBuf, bool) {
    let Some(given) = &args.destination else {
        let extension = if args.compress { "par.gz" } else { "par" };
        return (
            PathBuf::from(format!("{}.{extension}", keyring::stem(&args.binary))),
            args.compress,
        );
    };
    let says_so = given.extension().is_some_and(|extension| extension == "gz");
    match args.compress && !says_so {
        true => {
            let mut name = given.clone().into_os_string();
            name.push(".gz");
            (name.into(), true)
        }
        false => (given.clone(), says_so),
    }
}

/// An archive that was written.
struct Packed {
    text: String,
    file: PathBuf,
    service: String,
    account: String,
    targets: Vec<String>,
}

impl Packed {
    fn new(
        text: String,
        file: PathBuf,
        subject: &SigningKey,
        issuer: &SigningKey,
        draft: &Draft,
    ) -> Self {
        let (service, account) = (subject.public_key().to_owned(), issuer.public_key().to_owned());
        Self { text, file, service, account, targets: draft.targets() }
    }
}

impl View for Packed {
    fn json(&self) -> Value {
        json!({
            "file": self.file.display().to_string(), "service": self.service, "account": self.account,
            "targets": self.targets,
        })
    }

    fn text(&self, page: &mut Page) {
        page.line(&self.text);
        page.line(format!("  provider  {}", self.service));
        page.line(format!("  account   {}", self.account));
        page.line(format!("  targets   {}", self.targets.join(", ")));
    }

    fn names(&self) -> Vec<String> {
        vec![self.service.clone()]
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command, tools::Par};

    fn parsed(more: &[&str]) -> ParCreate {
        let args =
            ["host", "par", "create", "-c", "c", "-v", "v", "-n", "n", "-b", "target/debug/acme"];
        match Cli::try_parse_from(args.iter().chain(more)).unwrap().command {
            Some(Command::Par(Par::Create(create))) => *create,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_name_of_an_archive_and_its_form_agree() {
        for (more, file, compressed) in [
            (&[][..], "acme.par", false),
            (&["--compress"], "acme.par.gz", true),
            (&["--destination", "x/a.par"], "x/a.par", false),
            (&["--destination", "x/a.par", "--compress"], "x/a.par.gz", true),
            (&["--destination", "x/a.par.gz"], "x/a.par.gz", true),
        ] {
            assert_eq!(destination(&parsed(more)), (PathBuf::from(file), compressed), "{more:?}");
        }
    }
}

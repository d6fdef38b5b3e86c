//! Files of this machine on their way to hosts, for the commands that start and update: read,
//! signed if that was asked for, and sent into the lattice.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::{keys::find_keyring, sign::note_slips};
use crate::{
    keyring::{self, Keyring},
    session::Session,
    terminal::{Progress, Terminal},
};
use lattice_base::store::artifacts::Put;
use lattice_client::{
    names,
    upload::{self, Readers, Sender, Verified, amount},
};
use lattice_protocol::{
    errors::{Lines, OutcomeUnknown, Usage},
    identity::{
        claims::{ActorClaims, now},
        sign::ActorToken,
    },
};

/// How a file is to be sent.
pub(super) struct Sending<'a> {
    pub session: &'a Session,
    pub terminal: &'a Terminal,
    /// Sign it if it is not signed, for these contracts.
    pub sign: bool,
    pub caps: &'a [String],
}

/// The reference that an argument of the command line led to.
pub(super) struct Resolved {
    /// The text that hosts receive.
    pub reference: String,
    /// The hosts that know it, if it is a file that was sent.
    pub readers: Option<Readers>,
    /// The way it was sent, if it was not there already.
    sent: Option<Sender>,
}

impl Resolved {
    /// Puts the word that was typed and the name of the host into what is said of a start that
    /// failed. Data keeps ids and references.
    pub async fn told(
        &self,
        sending: &Sending<'_>,
        (word, host): (&str, &str),
        error: anyhow::Error,
    ) -> anyhow::Error {
        if sending.terminal.is_data() || error.is::<Usage>() || error.is::<Lines>() {
            return error;
        }
        let hosts = match sending.session.lattice().await {
            Ok(lattice) => lattice.hosts().await.unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        let text = named_once(&format!("{error:#}"), &self.reference, word);
        let text = names::in_words(&text, [(host, names::host_name(host, &hosts))]);
        match error.is::<OutcomeUnknown>() {
            true => OutcomeUnknown(text).into(),
            false => anyhow::Error::msg(text),
        }
    }

    /// Removes older uploads that need not be kept; to be called when nobody waits any more.
    pub async fn tidy(&self) {
        if let (Some(sender), Some(readers)) = (&self.sent, &self.readers) {
            sender.tidy(readers).await;
        }
    }
}

impl Sending<'_> {
    /// The reference that a word means: itself, or what a file of this machine has become.
    /// `is_wanted` says why a file that holds something else is not sent.
    pub async fn resolve(
        &self,
        word: &str,
        progress: &mut Progress,
        is_wanted: impl FnOnce(&Verified) -> Result<()>,
    ) -> Result<Resolved> {
        let Some(path) = upload::local_file(word) else {
            return Ok(Resolved { reference: word.to_owned(), readers: None, sent: None });
        };
        let artifact =
            upload::prepare(&path, self.sign.then_some(|wasm: &[u8]| self.signed(&path, wasm)))
                .await?;
        is_wanted(&artifact.verified).with_context(|| path.display().to_string())?;
        let sender = self.session.sender().await?;
        let readers = Readers::find(&sender.lattice).await?;
        let sent = sender
            .send(&readers, &artifact, |bytes, of| progress.stage("sending", amount(bytes, of)))
            .await?;
        if sent.was_unsigned {
            self.terminal.note(format!(
                "signed {} as {}",
                path.display(),
                sent.verified.public_key()
            ));
        }
        let is_new = sent.put == Put::Sent;
        Ok(Resolved {
            reference: sent.reference,
            readers: Some(readers),
            sent: is_new.then_some(sender),
        })
    }

    /// Signs a module with the keys of this user, which are made if there are none.
    fn signed(&self, path: &Path, wasm: &[u8]) -> Result<Vec<u8>> {
        let says = ActorToken {
            caps: self.caps.to_vec(),
            revision: Some(revision()),
            ..ActorToken::default()
        };
        note_slips(self.terminal, self.caps);
        let signed = keyring::sign_module(&find_keyring(None)?, path, wasm, says)?;
        signed.made.iter().for_each(|made| self.terminal.note(made.to_string()));
        Ok(signed.wasm)
    }
}

/// Names a reference by the word that was typed for it, and once; after that it is clear what is
/// meant. A word that is a reference itself stays.
fn named_once(text: &str, reference: &str, word: &str) -> String {
    if reference == word {
        return text.to_owned();
    }
    text.replacen(reference, word, 1).replace(reference, "it")
}

/// Refuses what is no actor.
pub(super) fn an_actor(found: &Verified) -> Result<()> {
    match found {
        Verified::Actor(_) => Ok(()),
        Verified::Provider { .. } => {
            bail!("it is a provider archive and no actor; use `host start provider`")
        }
    }
}

/// Refuses what is no provider.
pub(super) fn a_provider(found: &Verified) -> Result<()> {
    match found {
        Verified::Provider { .. } => Ok(()),
        Verified::Actor(_) => {
            bail!("it is an actor and no provider archive; use `host start actor`")
        }
    }
}

/// A revision above that of everything signed so before.
fn revision() -> i32 {
    i32::try_from(now()).unwrap_or(i32::MAX)
}

/// Signs what is saved while a file is watched: an unsigned module for `caps`, and again one that
/// the developer has signed.
pub(super) fn sign_saved(
    keyring: &Keyring,
    file: &Path,
    wasm: &[u8],
    claims: Option<&ActorClaims>,
    says: &ActorToken,
) -> Result<Option<Vec<u8>>> {
    let says = match claims {
        None => says.clone(),
        Some(claims) => {
            let own = keyring.clone().without_making();
            let (Ok(module), Ok(account)) = (own.module(file), own.account()) else {
                return Ok(None);
            };
            if module.key.public_key() != claims.subject.as_str()
                || account.key.public_key() != claims.issuer
            {
                return Ok(None);
            }
            ActorToken {
                name: claims.name.clone().unwrap_or_default(),
                caps: claims.caps.clone(),
                tags: claims.tags.clone(),
                version: claims.version.clone(),
                call_alias: claims.call_alias.clone(),
                revision: says.revision,
            }
        }
    };
    Ok(Some(keyring::sign_module(keyring, file, wasm, says)?.wasm))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_as_it_was_typed_and_once() {
        let hash = "lattice://sha256:ab";
        let text = format!("actor {hash} does not start on host N: start {hash}: no module");
        let told = named_once(&text, hash, "./x.wasm");
        assert_eq!(told, "actor ./x.wasm does not start on host N: start it: no module");
        assert_eq!(named_once(&text, hash, hash), text);
    }
}

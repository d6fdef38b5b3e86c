//! `host claims`: signs modules, and makes tokens.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::{
    files,
    keys::{Signers, term, told, unsigned},
};
use crate::{
    args::tools::{AccountToken, ActorClaims, OperatorToken, ProviderToken, Sign, Token},
    inspect::Inspected,
    keyring::{self, Keyring},
    terminal::{Page, Terminal, View},
};
use lattice_protocol::{
    contracts::{self, LOGGING, NUMBERGEN, blobstore, httpclient, httpserver, keyvalue, messaging},
    errors::Usage,
    identity::{
        claims::now,
        keys::Kind,
        sign::{self, ActorToken, OrganisationToken},
        signature::SigningKey,
        wasm::{self, WasmInfo},
    },
};

/// A contract of providers of 2021 that nothing here has.
const EVENT_STREAMS: &str = "wasmcloud:eventstreams";

/// Signs a module with the keys of whoever runs this.
pub fn sign(terminal: &Terminal, args: &Sign) -> Result<()> {
    let wasm = files::read(&args.source)?;
    note_slips(terminal, &args.claims.caps);
    let mut says = says(&args.claims, || keyring::stem(&args.source));
    let refused = |error| unsigned(error).context(format!("sign {}", args.source.display()));
    let info = wasm::inspect_component(&wasm).map_err(|error| refused(error.into()))?;
    check_excluded(info.as_ref(), &args.no_caps)?;
    if let Some(info) = &info {
        says.caps = info.capabilities(&says.caps, &args.no_caps);
    }
    let (subject, issuer) = actor_keys(terminal, &args.claims, &args.source)?;
    let term = term(&args.claims.signing)?;
    let signed = sign::module(&wasm, &says, &subject, &issuer, &term).map_err(refused)?;
    let destination = args.destination.clone().unwrap_or_else(|| {
        args.source.with_file_name(format!("{}_s.wasm", keyring::stem(&args.source)))
    });
    files::write(&destination, &signed)?;
    note_change(terminal, &wasm, &subject);
    if let Some(info) = &info {
        note_imports(terminal, info, &says.caps);
    }
    terminal.show(&Signed {
        destination,
        capabilities: says.caps,
        name: says.name,
        module: subject.public_key().to_owned(),
        account: issuer.public_key().to_owned(),
    })
}

/// Makes the token of an actor from the flags.
pub(super) fn says(args: &ActorClaims, name: impl FnOnce() -> String) -> ActorToken {
    ActorToken {
        name: args.name.clone().unwrap_or_else(name),
        caps: capabilities(args),
        tags: args.tags.clone(),
        revision: args.revision,
        version: args.version.clone(),
        call_alias: args.call_alias.clone(),
    }
}

/// The contracts that were asked for, each once, in the order of `wash`.
fn capabilities(args: &ActorClaims) -> Vec<String> {
    let flags = [
        (args.keyvalue, keyvalue::CONTRACT_ID),
        (args.messaging, messaging::CONTRACT_ID),
        (args.http_client, httpclient::CONTRACT_ID),
        (args.http_server, httpserver::CONTRACT),
        (args.blob_store, blobstore::CONTRACT_ID),
        (args.logging, LOGGING),
        (args.numbergen, NUMBERGEN),
        (args.event_streams, EVENT_STREAMS),
    ];
    let standard =
        flags.into_iter().filter(|(wanted, _)| *wanted).map(|(_, contract)| contract.to_owned());
    let mut all: Vec<String> = Vec::new();
    for contract in standard.chain(args.caps.iter().cloned()) {
        if !all.contains(&contract) {
            all.push(contract);
        }
    }
    all
}

/// The keys of an actor and of the account that signs it.
fn actor_keys(
    terminal: &Terminal,
    args: &ActorClaims,
    file: &Path,
) -> Result<(SigningKey, SigningKey)> {
    let keys = Signers::of(terminal, &args.signing);
    let issuer =
        keys.key("--issuer", args.signing.issuer.as_deref(), Kind::Account, Keyring::account)?;
    let subject =
        keys.key("--subject", args.subject.as_deref(), Kind::Module, |stored| stored.module(file))?;
    Ok((subject, issuer))
}

/// Tells of contracts that look like slips of the pen. They are signed for all the same: anybody
/// may have contracts of their own.
pub(super) fn note_slips(terminal: &Terminal, contracts: &[String]) {
    for contract in contracts {
        if let Some(meant) = contracts::meant(contract) {
            terminal.note(format!(
                "note: {contract} is no contract of the providers of this host; did you mean {meant}?"
            ));
        }
    }
}

/// Tells when a module was another actor before: that may have been meant, or the wrong key was
/// taken.
fn note_change(terminal: &Terminal, before: &[u8], subject: &SigningKey) {
    if let Ok(known) = Inspected::read(before, now())
        && known.public_key() != subject.public_key()
    {
        terminal.note(format!(
            "this was the actor {}; what is signed now is another one",
            known.public_key()
        ));
    }
}

/// Returns an error if a contract is to be left out that no import or export stands for: most
/// likely it was mistyped, and the file would be signed for what was meant.
fn check_excluded(info: Option<&WasmInfo>, excluded: &[String]) -> Result<()> {
    let own = info.map(WasmInfo::contracts).unwrap_or_default();
    match excluded.iter().find(|contract| !own.contains(&contract.as_str())) {
        None => Ok(()),
        Some(wrong) if own.is_empty() => Err(Usage(format!(
            "--no-cap {wrong}: no import or export of the file stands for a contract, so there is none to leave out"
        ))
        .into()),
        Some(wrong) => Err(Usage(format!(
            "--no-cap {wrong}: no import or export of the file stands for it; those that can be left out are {}",
            own.join(", ")
        ))
        .into()),
    }
}

/// Tells why no host will start what was signed, as far as its imports say so.
fn note_imports(terminal: &Terminal, info: &WasmInfo, caps: &[String]) {
    if let Err(missing) = info.check_signed_for(caps) {
        terminal.note(format!("no host starts it: {missing}"));
    }
    let unserved = info.unanswered();
    if !unserved.is_empty() {
        terminal.note(format!("no host answers these imports: {}", unserved.join(", ")));
    }
}

/// Makes a token without a module.
pub fn token(terminal: &Terminal, args: Token) -> Result<()> {
    let (token, subject) = match args {
        Token::Actor(args) => actor(terminal, &args.claims)?,
        Token::Provider(args) => provider(terminal, &args)?,
        Token::Account(args) => account(terminal, &args)?,
        Token::Operator(args) => operator(terminal, &args)?,
    };
    terminal.show(&Bare { token, subject })
}

fn actor(terminal: &Terminal, args: &ActorClaims) -> Result<(String, String)> {
    let Some(name) = &args.name else {
        bail!(Usage("the token of an actor needs a name: --name".into()))
    };
    note_slips(terminal, &args.caps);
    let (subject, issuer) = actor_keys(terminal, args, Path::new(name))?;
    let token = sign::actor(&says(args, String::new), &subject, &issuer, &term(&args.signing)?)
        .map_err(unsigned)?;
    Ok((token, subject.public_key().to_owned()))
}

fn provider(terminal: &Terminal, args: &ProviderToken) -> Result<(String, String)> {
    note_slips(terminal, std::slice::from_ref(&args.contract));
    let signing = &args.signing;
    let keys = Signers::of(terminal, signing);
    let issuer =
        keys.key("--issuer", signing.issuer.as_deref(), Kind::Account, Keyring::account)?;
    let subject = keys.key("--subject", args.subject.as_deref(), Kind::Service, |stored| {
        stored.service(Path::new(&args.name))
    })?;
    let says = sign::ProviderToken {
        name: args.name.clone(),
        contract_id: args.contract.clone(),
        vendor: args.vendor.clone(),
        revision: args.revision,
        version: args.version.clone(),
        ..sign::ProviderToken::default()
    };
    let token = sign::provider(&says, &subject, &issuer, &term(signing)?).map_err(unsigned)?;
    Ok((token, subject.public_key().to_owned()))
}

fn account(terminal: &Terminal, args: &AccountToken) -> Result<(String, String)> {
    let signing = &args.signing;
    let keys = Signers::of(terminal, signing);
    let issuer = keys.key("--issuer", signing.issuer.as_deref(), Kind::Operator, |stored| {
        stored.operator(&args.name)
    })?;
    let subject =
        keys.key("--subject", args.subject.as_deref(), Kind::Account, Keyring::account)?;
    let says = organisation(&args.name, &args.additional_keys, Kind::Account)?;
    let token = sign::account(&says, &subject, &issuer, &term(signing)?).map_err(unsigned)?;
    Ok((token, subject.public_key().to_owned()))
}

fn operator(terminal: &Terminal, args: &OperatorToken) -> Result<(String, String)> {
    let signing = &args.signing;
    let keys = Signers::of(terminal, signing);
    let key = keys.key("--issuer", signing.issuer.as_deref(), Kind::Operator, |stored| {
        stored.operator(&args.name)
    })?;
    let says = organisation(&args.name, &args.additional_keys, Kind::Operator)?;
    let token = sign::operator(&says, &key, &term(signing)?).map_err(unsigned)?;
    Ok((token, key.public_key().to_owned()))
}

fn organisation(name: &str, keys: &[String], kind: Kind) -> Result<OrganisationToken> {
    let valid_signers = keys.iter().map(|key| keyring::given_public(key, kind, "--additional-key"));
    let valid_signers = valid_signers.collect::<Result<_, _>>().map_err(told)?;
    Ok(OrganisationToken { name: name.to_owned(), valid_signers })
}

/// A module that was signed.
struct Signed {
    destination: PathBuf,
    capabilities: Vec<String>,
    name: String,
    module: String,
    account: String,
}

impl View for Signed {
    fn json(&self) -> Value {
        json!({
            "destination": self.destination.display().to_string(), "capabilities": self.capabilities,
            "name": self.name, "module": self.module, "account": self.account,
        })
    }

    fn text(&self, page: &mut Page) {
        let capabilities = match self.capabilities.is_empty() {
            true => "without capabilities".to_owned(),
            false => format!("with capabilities: {}", self.capabilities.join(",")),
        };
        page.line(format!("Successfully signed {} {capabilities}", self.destination.display()));
        page.line(format!("  actor    {} ({})", self.module, self.name));
        page.line(format!("  account  {}", self.account));
    }

    fn names(&self) -> Vec<String> {
        vec![self.module.clone()]
    }
}

/// A token alone.
pub(super) struct Bare {
    pub token: String,
    pub subject: String,
}

impl View for Bare {
    fn json(&self) -> Value {
        json!({ "token": self.token })
    }

    fn text(&self, page: &mut Page) {
        page.line(&self.token);
    }

    fn names(&self) -> Vec<String> {
        vec![self.subject.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contract_is_signed_once_in_a_fixed_order() {
        let args = ActorClaims {
            caps: vec!["acme:own".into(), httpserver::CONTRACT.into()],
            logging: true,
            http_server: true,
            keyvalue: true,
            ..ActorClaims::default()
        };
        assert_eq!(
            capabilities(&args),
            [keyvalue::CONTRACT_ID, httpserver::CONTRACT, LOGGING, "acme:own"]
        );
    }
}

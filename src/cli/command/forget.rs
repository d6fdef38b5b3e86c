//! `host claims forget`: makes the lattice forget an actor or a provider that is gone for good.
//!
//! Claims stay in the metadata when their actor is gone, with its call alias, and so do the image
//! references that led to it; nothing else removes them. All hosts follow the bucket, so they all
//! hear of it. This machine also forgets the account that signed it.

use std::{future::Future, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use async_nats::jetstream::kv::Store;
use serde_json::{Value, json};

use super::runs_actor;
use crate::{
    args::{flags::SettingArgs, tools::Forget},
    session::Session,
    terminal::{Page, Terminal, View},
};
use lattice_base::store::jetstream;
use lattice_client::{lattice::Lattice, names};
use lattice_engine::issuers;
use lattice_protocol::{
    control::types::Inventory,
    links::{Claims, Table},
    store::{
        Entry,
        keys::{self, Key},
    },
};

/// How long the bucket may take to open, and for each deletion.
const BUCKET: Duration = Duration::from_secs(5);

pub async fn run(terminal: &Terminal, before: SettingArgs, args: &Forget) -> Result<()> {
    let session = Session::open(before, &args.connect)?;
    let lattice = session.lattice().await?;
    let claims = lattice.claims().await?;
    let inventories = lattice.inventories(&lattice.some_hosts().await?).await;
    let id = gone(&args.name, &claims, &inventories)?;
    let known = claims.iter().find(|claims| claims.subject == id);
    if let Some(host) = runs_on(&id, &inventories)
        && !args.force
    {
        bail!(
            "{id} runs on host {host}, which would write its claims again; stop it first, or use --force"
        );
    }
    if known.is_some() {
        delete(&lattice, &id).await?;
    }
    let account = issuers::forget(&session.dirs.state, lattice.name(), &id).with_context(|| {
        format!("forget the account of {id} in {}", session.dirs.state.display())
    })?;
    if known.is_none() && account.is_none() {
        bail!(
            "neither the lattice nor this machine remembers {id}; `host get claims` shows what the lattice does"
        );
    }
    let name = known.map(|claims| claims.name.clone()).unwrap_or_default();
    terminal.show(&Forgotten { id, name, had_claims: known.is_some(), account })
}

/// Returns the id that `word` means; those that run nowhere come first.
fn gone(word: &str, claims: &[Claims], inventories: &[Inventory]) -> Result<String> {
    let mut all = names::entities(claims, inventories);
    all.retain(|named| !named.runs && claims.iter().any(|claims| claims.subject == named.id));
    match names::called(word, &all).as_slice() {
        [one] => Ok(one.id.clone()),
        _ => names::entity(word, claims, inventories),
    }
}

fn runs_on<'a>(id: &str, inventories: &'a [Inventory]) -> Option<&'a str> {
    let host = inventories.iter().find(|inventory| {
        runs_actor(inventory, id) || inventory.providers.iter().any(|provider| provider.id == id)
    });
    host.map(|host| host.host_id.as_str())
}

/// Deletes the claims last: as long as they are there, the command can be given again.
async fn delete(lattice: &Lattice, id: &str) -> Result<()> {
    let name = keys::bucket(lattice.name());
    let context = jetstream::context(&lattice.client, lattice.js_domain.as_deref());
    let bucket = in_time(context.get_key_value(&name), &name)
        .await?
        .with_context(|| format!("open the bucket {name}"))?;
    for (key, revision) in references(&bucket, id).await? {
        // Not if it leads to another one meanwhile.
        in_time(bucket.delete_expect_revision(&key, Some(revision)), &name)
            .await?
            .with_context(|| format!("delete the image reference {key} in {name}"))?;
    }
    in_time(bucket.delete(keys::claims(id)), &name)
        .await?
        .with_context(|| format!("delete the claims of {id} in {name}"))
}

async fn in_time<T>(answer: impl Future<Output = T>, name: &str) -> Result<T> {
    tokio::time::timeout(BUCKET, answer).await.map_err(|_| {
        anyhow!("the bucket {name} does not answer; is it the right domain (--js-domain)?")
    })
}

/// Returns the keys of the image references that lead to `id`, with their revisions.
async fn references(bucket: &Store, id: &str) -> Result<Vec<(String, u64)>> {
    let mut table = Table::default();
    jetstream::read::scan(&bucket.stream, &format!("{}>", bucket.prefix), false, |message| {
        let key = message.subject.strip_prefix(&bucket.prefix);
        if let (Some(key), Ok(info)) = (key, message.info())
            && matches!(Key::parse(key), Key::Reference(_))
        {
            let (value, revision) = (message.payload.clone(), info.stream_sequence);
            // One that was deleted, or that nobody can read, leads nowhere.
            let _ = table.put(&Entry { key: key.to_owned(), value, revision });
        }
    })
    .await
    .context("read the image references")?;
    let keys = table.references_to(id);
    Ok(keys.map(|(key, revision)| (key.to_owned(), revision)).collect())
}

struct Forgotten {
    id: String,
    name: String,
    had_claims: bool,
    account: Option<String>,
}

impl View for Forgotten {
    fn json(&self) -> Value {
        json!({
            "public_key": self.id, "name": self.name, "claims_forgotten": self.had_claims, "account_forgotten": self.account,
        })
    }

    fn text(&self, page: &mut Page) {
        let named = if self.name.is_empty() {
            self.id.clone()
        } else {
            format!("{} ({})", self.id, self.name)
        };
        if self.had_claims {
            page.line(format!("The lattice has forgotten the claims of {named}"));
        }
        if let Some(account) = &self.account {
            page.line(format!("This machine has forgotten that account {account} signs {named}"));
        }
    }

    fn names(&self) -> Vec<String> {
        vec![self.id.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::control::types::InventoryActor;

    #[test]
    fn of_two_of_one_name_that_is_forgotten_which_runs_nowhere() {
        let claims = |subject: &str| Claims {
            subject: subject.into(),
            name: "Ponger".into(),
            ..Claims::default()
        };
        let known = [claims("MGONE"), claims("MRUNS")];
        let actor = InventoryActor {
            id: "MRUNS".into(),
            name: "Ponger".into(),
            ..InventoryActor::default()
        };
        let inventories =
            [Inventory { host_id: "N".into(), actors: vec![actor], ..Inventory::default() }];
        assert_eq!(gone("ponger", &known, &inventories).unwrap(), "MGONE");
        assert_eq!(gone("MRUNS", &known, &inventories).unwrap(), "MRUNS");
        assert!(gone("ponger", &known, &[]).is_err(), "both are gone");
        assert_eq!(runs_on("MRUNS", &inventories), Some("N"));
        assert_eq!(runs_on("MGONE", &inventories), None);
    }
}

//! `host explain`: how a call is decided, step by step, in the words of the hosts that decide it.
//!
//! The host the call begins on is asked first; if it would send the call to another host, that one
//! is asked what becomes of it there. Facts that neither can know (hosts of earlier years tell
//! their peers nothing) come from inventories. If no host can be asked, the lattice's claims and
//! links are put through the same functions, and the output says that this is a conclusion.

use std::collections::{BTreeSet, HashSet};

use anyhow::{Context as _, Result, anyhow, bail};
use futures::future::join;
use serde_json::{Value, json};

use super::{failed, runs_actor};
use crate::{
    args::{flags::SettingArgs, lattice::Explain},
    session::Session,
    terminal::{Page, Terminal, Text, Tone, View},
};
use lattice_client::{
    lattice::{Lattice, RequestError},
    lost, names,
};
use lattice_engine::{
    control::probe::explain::words::{Scene, start_command},
    providers::builtin,
    router::{
        Builtin,
        explain::{Question, foresee},
    },
};
use lattice_protocol::{
    control::{
        probe::explain::{Explained, Outcome, Request, Step},
        types::{HostReply, Inventory},
    },
    errors::Usage,
    identity::keys::{LatticeName, LinkName},
    links::{Claims, LinkDefinition, Table},
    rpc::invocation::Entity,
    store::{Entry, keys},
};

/// The lattice, as it is known before anybody is asked for a decision.
struct Known {
    hosts: Vec<HostReply>,
    inventories: Vec<Inventory>,
    claims: Vec<Claims>,
    links: Vec<LinkDefinition>,
}

pub async fn run(terminal: &Terminal, before: SettingArgs, args: Explain) -> Result<()> {
    let session = Session::open(before, &args.connect)?;
    let lattice = session.lattice().await?;
    let Some((target, operation)) = args.target.as_deref().zip(args.operation.as_deref()) else {
        return failed::explain(terminal, &lattice, &args.origin).await;
    };
    let known = Known::ask(&lattice).await?;
    let request = known.request(&args, target, operation)?;
    let told = known.explain(&lattice, &request, args.host_id.as_deref()).await?;
    terminal.show(&told)?;
    if told.explained.verdict == Outcome::Fails {
        bail!("the call would fail");
    }
    Ok(())
}

impl Known {
    async fn ask(lattice: &Lattice) -> Result<Self> {
        let hosts = lattice.some_hosts().await?;
        let both = join(lattice.claims(), lattice.links());
        let (inventories, (claims, links)) = join(lattice.inventories(&hosts), both).await;
        Ok(Self {
            hosts,
            inventories,
            claims: claims.context("ask for the claims of the lattice")?,
            links: links.context("ask for the links of the lattice")?,
        })
    }

    /// Makes the request, with names resolved.
    fn request(&self, args: &Explain, target: &str, operation: &str) -> Result<Request> {
        if let Err(error) = LinkName::parse(&args.link_name) {
            return Err(Usage(format!("link name {:?}: {error}", args.link_name)).into());
        }
        let origin = self.origin(&args.origin, &args.link_name)?;
        let (namespace, provider) = match origin.public_key.starts_with('V') {
            true => (names::actor(target, &self.claims, &self.inventories)?, None),
            false => self.target(target)?,
        };
        Ok(Request {
            origin,
            namespace,
            link_name: args.link_name.clone(),
            operation: operation.to_owned(),
            provider,
            arrived_at: None,
        })
    }

    fn origin(&self, word: &str, link_name: &str) -> Result<Entity> {
        let id = names::entity(word, &self.claims, &self.inventories)?;
        if !id.starts_with('V') {
            return Ok(Entity::new(&id, "", ""));
        }
        let contract_id = self.contract_of(&id).ok_or_else(|| {
            anyhow!("nothing tells which contract provider {id} fulfils: it runs nowhere, and the lattice has no claims of it")
        })?;
        Ok(Entity::new(&id, link_name, &contract_id))
    }

    /// Returns the target of an actor's call, as the actor would write it; and the provider that is
    /// meant, if one was named.
    fn target(&self, word: &str) -> Result<(String, Option<String>)> {
        // An alias is looked up by the host, as for a call.
        if self.claims.iter().any(|claims| claims.call_alias == word && !claims.is_provider()) {
            return Ok((word.to_owned(), None));
        }
        let is_contract =
            self.contracts().any(|contract| contract == word) || Builtin::of(word).is_some();
        let is_named = names::entities(&self.claims, &self.inventories)
            .iter()
            .any(|named| named.is_named(word));
        // `acme:ledger` is a contract that nobody knows yet; references have a slash.
        if is_contract || (!is_named && word.contains(':') && !word.contains('/')) {
            return Ok((word.to_owned(), None));
        }
        let id = names::entity(word, &self.claims, &self.inventories)?;
        if !id.starts_with('V') {
            return Ok((id, None));
        }
        let contract = self.contract_of(&id).ok_or_else(|| {
            Usage(format!("nothing tells which contract provider {id} fulfils; name the contract instead of it"))
        })?;
        Ok((contract, Some(id)))
    }

    fn contracts(&self) -> impl Iterator<Item = &str> {
        let of_claims = self.claims.iter().flat_map(|claims| {
            claims.capabilities.iter().map(String::as_str).chain(Some(claims.contract_id.as_str()))
        });
        let of_links = self.links.iter().map(|link| link.contract_id.as_str());
        let built_in = builtin::CATALOGUE.iter().map(|spec| spec.known.contract_id);
        of_claims.chain(of_links).chain(built_in).filter(|contract| !contract.is_empty())
    }

    fn contract_of(&self, provider: &str) -> Option<String> {
        let claimed = self
            .claims
            .iter()
            .filter(|claims| claims.subject == provider)
            .map(|claims| claims.contract_id.clone());
        let running = self.inventories.iter().flat_map(|inventory| &inventory.providers);
        let running = running
            .filter(|running| running.id == provider)
            .map(|running| running.contract_id.clone());
        let built_in = builtin::by_key(provider).into_iter();
        let built_in = built_in.map(|spec| spec.known.contract_id.to_owned());
        claimed.chain(running).chain(built_in).find(|contract| !contract.is_empty())
    }

    /// Hosts that run an entity.
    fn runners(&self, party: &Entity) -> Vec<&str> {
        let runners = self.inventories.iter().filter(|inventory| runs(inventory, party));
        runners.map(|inventory| inventory.host_id.as_str()).collect()
    }

    /// Whether a host answers questions like this one.
    fn is_ours(&self, host: &str) -> bool {
        self.hosts.iter().any(|reply| reply.id == host && reply.is_ours())
    }

    fn name_of(&self, host: &str) -> String {
        match self.hosts.iter().find(|reply| reply.id == host) {
            Some(reply) if !reply.friendly_name.is_empty() => {
                format!("{} ({host})", reply.friendly_name)
            }
            _ => host.to_owned(),
        }
    }

    async fn explain(
        &self,
        lattice: &Lattice,
        request: &Request,
        host: Option<&str>,
    ) -> Result<Told> {
        let mut notes = Vec::new();
        let runners = self.runners(&request.origin);
        let asked = match host {
            Some(word) => Some(lost::host_there(lattice, word, &self.hosts).await?),
            None => {
                let ours =
                    runners.iter().find(|host| self.is_ours(host)).map(|host| (*host).to_owned());
                ours.or_else(|| {
                    self.hosts.iter().find(|host| host.is_ours()).map(|host| host.id.clone())
                })
            }
        };
        let answer = match &asked {
            Some(host) => ask(lattice, host, request).await?,
            None => None,
        };
        let Some(mut explained) = answer else {
            notes.push(match &asked {
                Some(host) => format!("host {host} is of an earlier version and cannot be asked how it decides"),
                None => {
                    "all hosts of this lattice are of earlier versions and cannot be asked how they decide".to_owned()
                }
            });
            notes.push("this is concluded from claims, links and inventories".to_owned());
            let mut explained = self.foresee(lattice, request)?;
            self.complete(&mut explained);
            return Ok(Told::new(explained, None, notes));
        };
        if runners.is_empty() {
            notes.push("the origin runs on no host: this is how the call would be decided if it began on the host that was asked".into());
        } else if !explained.origin_runs_here {
            let places: Vec<String> = runners.iter().map(|host| self.name_of(host)).collect();
            notes.push(format!(
                "the origin does not run on the host that was asked, but on {}",
                places.join(", ")
            ));
        }
        self.follow(lattice, request, &mut explained).await?;
        self.complete(&mut explained);
        Ok(Told::new(explained, asked.map(|host| self.name_of(&host)), notes))
    }

    /// Asks the host the call would go to what becomes of it there.
    async fn follow(
        &self,
        lattice: &Lattice,
        request: &Request,
        explained: &mut Explained,
    ) -> Result<()> {
        let (Some(next), Some(target)) = (explained.next_host.clone(), explained.target.clone())
        else {
            return Ok(());
        };
        let arrival = Request { arrived_at: Some(target), ..request.clone() };
        let Some(there) = ask(lattice, &next, &arrival).await? else { return Ok(()) };
        for step in there.steps {
            let is_decided_there = matches!(step.step.as_str(), "check" | "policy")
                || (step.step == "replica" && step.outcome == Outcome::Fails);
            // The caller's host may know that it fails where the callee's knows nothing.
            let fails_before = explained
                .steps
                .iter()
                .any(|own| own.step == step.step && own.outcome == Outcome::Fails);
            if is_decided_there
                && (step.outcome != Outcome::Unknown)
                && !(fails_before && step.outcome == Outcome::Ok)
            {
                explained.replace(step);
            }
        }
        if explained.call_error.is_none() {
            explained.call_error = there.call_error;
        }
        explained.conclude();
        Ok(())
    }

    /// Adds what inventories tell of who runs the target.
    fn complete(&self, explained: &mut Explained) {
        let Some(target) = explained.target.clone() else { return };
        let open = explained
            .steps
            .iter()
            .any(|step| step.step == "replica" && step.outcome == Outcome::Unknown);
        if !open {
            return;
        }
        let runners = self.runners(&target);
        let places: Vec<String> = runners.iter().map(|host| self.name_of(host)).collect();
        let mut step =
            Step { step: "replica".into(), data: json!({ "hosts": runners }), ..Step::default() };
        if runners.is_empty() {
            step.outcome = Outcome::Fails;
            step.why = "it runs on no host of this lattice".into();
            step.fix = Some(start_command(&self.table(), &target));
            if explained.call_error.is_none() {
                explained.call_error =
                    Some("Failed to perform RPC call: request timeout (nobody listens)".into());
            }
        } else {
            step.outcome = Outcome::Ok;
            step.why = format!("it runs on {}, by the inventory", places.join(", "));
        }
        explained.replace(step);
        explained.conclude();
    }

    fn table(&self) -> Table {
        let mut table = Table::default();
        let claims =
            self.claims.iter().map(|claims| (keys::claims(&claims.subject), claims.bucket_value()));
        let links = self.links.iter().map(|link| (keys::link(&link.id()), json!(link)));
        for (revision, (key, value)) in (1..).zip(claims.chain(links)) {
            // An entry that a host told makes sense, or the host would not have told it.
            let _ = table.put(&Entry { key, value: value.to_string().into(), revision });
        }
        let actors = self.inventories.iter().flat_map(|inventory| &inventory.actors);
        let actors = actors.map(|actor| (&actor.image_ref, &actor.id));
        let providers = self.inventories.iter().flat_map(|inventory| &inventory.providers);
        let providers = providers.map(|provider| (&provider.image_ref, &provider.id));
        for (reference, id) in
            actors.chain(providers).filter(|(reference, _)| !reference.is_empty())
        {
            let value = json!({ "oci_url": reference, "public_key": id });
            let _ = table.put(&Entry {
                key: keys::reference(reference),
                value: value.to_string().into(),
                revision: 1,
            });
        }
        table
    }

    /// Concludes the decision from the lattice's metadata.
    fn foresee(&self, lattice: &Lattice, request: &Request) -> Result<Explained> {
        let table = self.table();
        let name = LatticeName::parse(lattice.name()).context("read the lattice name")?;
        let actors = self.inventories.iter().flat_map(|inventory| &inventory.actors);
        let running: BTreeSet<&str> = actors.map(|actor| actor.id.as_str()).collect();
        let explanation =
            foresee(&table, &name, &Question::from(request), |id| running.contains(id));
        Ok(Scene { table: &table, host: None, request }.explained(&explanation))
    }
}

/// Asks one host; `None` if it does not know the question.
async fn ask(lattice: &Lattice, host: &str, request: &Request) -> Result<Option<Explained>> {
    let explained = match lattice.request_of(host, request).await {
        Ok(explained) => explained,
        Err(RequestError::NoResponders { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if !explained.accepted {
        bail!("host {host} does not explain it: {}", explained.error);
    }
    Ok(Some(explained))
}

/// The explanation that is printed.
struct Told {
    explained: Explained,
    /// The host that was asked.
    asked: Option<String>,
    notes: Vec<String>,
}

/// Whether a host runs the entity; a provider without a link name is meant under any.
fn runs(inventory: &Inventory, party: &Entity) -> bool {
    runs_actor(inventory, &party.public_key)
        || inventory.providers.iter().any(|provider| {
            *provider.id == *party.public_key
                && (party.link_name.is_empty() || *provider.link_name == *party.link_name)
        })
}

impl Told {
    fn new(explained: Explained, asked: Option<String>, notes: Vec<String>) -> Self {
        Self { explained, asked, notes }
    }
}

impl View for Told {
    fn json(&self) -> Value {
        let mut value = json!(self.explained);
        if let Value::Object(members) = &mut value {
            members.remove("accepted");
            members.remove("error");
            members.insert("asked_host".into(), json!(self.asked));
            members.insert("notes".into(), json!(self.notes));
        }
        value
    }

    fn text(&self, page: &mut Page) {
        let mut once = Once { seen: HashSet::new(), always: page.is_wide() };
        match &self.asked {
            Some(host) => {
                page.line(Tone::Faint.paint(&once.told(&format!("decided by host {host}"))))
            }
            None => page.line(Tone::Faint.paint("concluded, no host was asked")),
        }
        for note in &self.notes {
            page.line(Tone::Faint.paint(&once.told(note)));
        }
        page.gap();
        for step in &self.explained.steps {
            let before = mark(step.outcome) + format!(" {:<9} ", step.step);
            page.hanging(before, 18, &once.told(&step.why), Tone::Plain);
            if let Some(fix) = step.fix.as_deref().filter(|_| step.outcome != Outcome::Ok) {
                page.hanging(format!("{:18}-> ", ""), 21, fix, Tone::Strong);
            }
        }
        page.gap();
        page.hanging(
            mark(self.explained.verdict) + " ",
            8,
            &once.told(&self.explained.conclusion),
            Tone::Plain,
        );
        if let Some(error) = &self.explained.call_error {
            let told = once.told(&format!("the caller is told: {error}"));
            page.hanging("        ", 8, &told, Tone::Plain);
        }
    }

    fn names(&self) -> Vec<String> {
        self.explained.target.iter().map(|target| target.public_key.to_string()).collect()
    }
}

/// Letters and digits of a public key.
const ID_LENGTH: usize = 56;
/// The rest of one that was told before: enough for commands to know it by.
const ID_BEGINNING: usize = 8;

/// Tells every public key in full once, or each time.
struct Once {
    seen: HashSet<String>,
    always: bool,
}

impl Once {
    /// Returns the text with a key that was told before by its beginning only, or not at all where
    /// its name stands before it.
    fn told(&mut self, text: &str) -> String {
        let mut told = String::with_capacity(text.len());
        for piece in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
            let word = piece.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            if self.always || !is_id(word) || self.seen.insert(word.to_owned()) {
                told.push_str(piece);
                continue;
            }
            let end = &piece[word.len()..];
            match told.strip_suffix(" (").map(str::len) {
                Some(named) if end == ")" => told.truncate(named),
                _ => told.extend([&word[..ID_BEGINNING], "…", end]),
            }
        }
        told
    }
}

fn is_id(word: &str) -> bool {
    word.len() == ID_LENGTH
        && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
}

fn mark(outcome: Outcome) -> Text {
    match outcome {
        Outcome::Ok => Tone::Good.paint("ok     "),
        Outcome::Fails => Tone::Bad.paint("fails  "),
        Outcome::Unknown => Tone::Warning.paint("unknown"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_told_in_full_once() {
        let key = format!("MB3S{}", "A".repeat(ID_LENGTH - 4));
        let mut once = Once { seen: HashSet::new(), always: false };
        assert_eq!(once.told(&format!("echo ({key}) runs")), format!("echo ({key}) runs"));
        assert_eq!(
            once.told(&format!("echo ({key}) is called by echo ({key}).")),
            "echo is called by echo."
        );
        assert_eq!(
            once.told(&format!("key {key}, subject a.{key}")),
            "key MB3SAAAA…, subject a.MB3SAAAA…"
        );
        assert_eq!(once.told("nothing (else)"), "nothing (else)");
    }
}

//! Makes a manifest of inventories and links.
//!
//! Left out is what an application manages, which its annotations say. The rest becomes components,
//! one for each image of an actor, and for each link name of a provider. Numbers become one rule
//! for all hosts where these are alike, and else one for each host, by a label that only this host
//! has.
//!
//! The manifest made here is accepted by [`validate`](lattice_protocol::applications::validate);
//! things that a manifest cannot say are told in notes.

use std::collections::{BTreeMap, BTreeSet};

use lattice_base::registry::uploads;
use lattice_client::watch;
use lattice_protocol::{
    applications::{
        manifest::{
            API_VERSION, Actor, Capability, Component, DEFAULT_LINK, KIND, Linkdef, Manifest,
            Metadata, Properties, Scaling, Specification, Spread, Trait,
        },
        ownership::APPLICATION,
        validate::untagged,
    },
    control::types::{Inventory, InventoryActor, InventoryProvider, Pairs},
    links::LinkDefinition,
};

/// The name of the application that is made.
const NAME: &str = "exported";
/// Manifests have no greater numbers.
const INSTANCES_MAX: u64 = 65535;
/// The beginning of labels that hosts give themselves.
const CORE_LABELS: &str = "hostcore.";

/// A manifest, and what it does not say.
#[derive(Clone, Debug, PartialEq)]
pub struct Built {
    pub manifest: Manifest,
    /// Sentences for the one who exports.
    pub notes: Vec<String>,
}

/// How many each host runs, by its id.
type Counts<'a> = BTreeMap<&'a str, u64>;

/// Something that runs and becomes a component.
struct Running<'a> {
    id: &'a str,
    name: &'a str,
    image: &'a str,
    counts: Counts<'a>,
    /// All that any of it has.
    annotations: BTreeSet<(&'a str, &'a str)>,
}

/// A provider that becomes a component.
struct Serving<'a> {
    run: Running<'a>,
    contract: &'a str,
    link_name: &'a str,
    /// The name of the component.
    component: String,
}

/// Makes a manifest of what no application manages.
pub fn unmanaged(hosts: &[Inventory], links: &[LinkDefinition]) -> Built {
    let (names, notes, shared) = (BTreeSet::new(), Vec::new(), BTreeMap::new());
    let mut builder = Builder { hosts, names, notes, shared };
    let actors = builder.actors();
    // Names of actors first: there are more of them than of providers with the same.
    let names: Vec<String> =
        actors.iter().map(|actor| builder.component_name(actor.name, actor.image)).collect();
    let providers = builder.providers();
    let mut components = Vec::new();
    for (actor, name) in actors.iter().zip(names) {
        builder.note_annotations(&name, &actor.annotations);
        let scaling = Trait::Spreadscaler(builder.scaling(&name, &actor.counts));
        let own = links.iter().filter(|link| link.actor_id == actor.id);
        let own = builder.links(&name, own, &providers);
        let traits = std::iter::once(scaling).chain(own).collect();
        let properties = Properties::Actor(Actor { image: actor.image.to_owned() });
        components.push(Component { name, properties, traits: Some(traits) });
    }
    for Serving { run, contract, link_name, component } in &providers {
        builder.note_annotations(component, &run.annotations);
        let scaling = builder.scaling(component, &run.counts);
        let properties = Properties::Capability(Capability {
            image: run.image.to_owned(),
            contract: Some((*contract).to_owned()),
            link_name: Some((*link_name).to_owned()),
            config: None,
        });
        let traits = Some(vec![Trait::Spreadscaler(scaling)]);
        components.push(Component { name: component.clone(), properties, traits });
    }
    components.sort_by(|a, b| a.name.cmp(&b.name));
    let manifest = Manifest {
        api_version: API_VERSION.into(),
        kind: KIND.into(),
        metadata: Metadata { name: NAME.into(), ..Metadata::default() },
        spec: Specification { components },
    };
    let shared = builder.shared.into_iter().map(|(note, all)| of_all(&all, &note));
    Built { manifest, notes: builder.notes.into_iter().chain(shared).collect() }
}

/// Returns a note about several components.
fn of_all(components: &[String], note: &str) -> String {
    format!("{}: {note}", components.join(", "))
}

/// Returns notes about images of a manifest that are only where it comes from.
pub fn bound_to_here(manifest: &Manifest) -> Vec<String> {
    let mut bound: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for component in &manifest.spec.components {
        let (name, image) = (&component.name, component.properties.image());
        let why = if image.starts_with("file://") {
            "a file, which other machines cannot read"
        } else if image.starts_with(uploads::SCHEME) {
            "an upload, which other lattices do not have"
        } else {
            continue;
        };
        bound.entry(why).or_default().push(name.clone());
    }
    let notes = bound.into_iter().map(|(why, names)| {
        of_all(&names, &format!("the image is {why}; `host push` sends it to a registry"))
    });
    notes.collect()
}

/// Returns the images of an actor with their instances, those of applications left out. An image
/// that is not told is empty.
fn free_instances(actor: &InventoryActor) -> impl Iterator<Item = (&str, u64, &Pairs)> {
    let free = actor.instances.iter().filter(|instance| !is_managed(&instance.annotations));
    // While two revisions share the calls, all else that is told is of the newer one, which may be
    // taken back.
    let stable = actor.trial.as_ref().map_or("", |trial| &*trial.stable_ref);
    free.map(move |instance| {
        // Hosts of earlier years do not say it of each instance.
        let images = [stable, &*instance.image_ref, &*actor.image_ref];
        let image = images.into_iter().find(|image| !image.is_empty());
        (image.unwrap_or_default(), watch::count(instance), &instance.annotations)
    })
}

fn is_managed(annotations: &Pairs) -> bool {
    annotations.contains_key(APPLICATION)
}

/// The parts gathered while a manifest is made.
struct Builder<'a> {
    hosts: &'a [Inventory],
    /// Names of components that are taken.
    names: BTreeSet<String>,
    notes: Vec<String>,
    /// Notes that are the same for several components, with these.
    shared: BTreeMap<String, Vec<String>>,
}

fn texts(pairs: &Pairs) -> impl Iterator<Item = (&str, &str)> {
    pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()))
}

impl<'a> Builder<'a> {
    /// Returns the actors that no application manages, each image of one by itself.
    fn actors(&mut self) -> Vec<Running<'a>> {
        let mut found: BTreeMap<(&str, &str), Running<'a>> = BTreeMap::new();
        let all = self.hosts.iter().flat_map(|host| host.actors.iter().map(move |one| (host, one)));
        for (host, actor) in all {
            for (image, count, annotations) in free_instances(actor) {
                if image.is_empty() {
                    self.note_unknown("actor", &actor.id, host);
                    continue;
                }
                let running = found.entry((&actor.id, image)).or_insert_with(|| Running {
                    id: &actor.id,
                    name: &actor.name,
                    image,
                    counts: Counts::new(),
                    annotations: BTreeSet::new(),
                });
                running.annotations.extend(texts(annotations));
                *running.counts.entry(&host.host_id).or_default() += count;
            }
            if let Some(trial) = actor.trial.as_ref().filter(|_| free_instances(actor).count() > 0)
            {
                self.note(format!(
                    "actor {}: {} is left out, which takes {} % of the calls on host {} beside the revision before it",
                    actor.id, actor.image_ref, trial.share, host.host_id
                ));
            }
        }
        found.into_values().collect()
    }

    /// Returns the providers that no application manages. Of two versions of a provider under one
    /// link name the first counts: an application can only have one.
    fn providers(&mut self) -> Vec<Serving<'a>> {
        let mut found: Vec<Serving<'a>> = Vec::new();
        let all =
            self.hosts.iter().flat_map(|host| host.providers.iter().map(move |one| (host, one)));
        for (host, provider) in all.filter(|(_, provider)| !is_managed(&provider.annotations)) {
            let InventoryProvider { id, link_name, contract_id, image_ref, name, .. } = provider;
            if image_ref.is_empty() {
                self.note_unknown("provider", id, host);
                continue;
            }
            let same = found.iter_mut().find(|one| {
                one.link_name == link_name && untagged(one.run.image) == untagged(image_ref)
            });
            match same {
                Some(known) if known.run.image == image_ref => {
                    *known.run.counts.entry(&host.host_id).or_default() += 1;
                }
                Some(known) => {
                    let other = known.run.image;
                    self.note(format!(
                        "{image_ref} on host {} is left out: an application can only have one version of a provider, and \
                         {other} runs too",
                        host.host_id
                    ));
                }
                None => {
                    let suffix = if link_name == DEFAULT_LINK { "" } else { link_name };
                    let component = self.component_name(&format!("{name} {suffix}"), image_ref);
                    let counts = Counts::from([(host.host_id.as_str(), 1)]);
                    let annotations = texts(&provider.annotations).collect();
                    let run = Running { id, name, image: image_ref, counts, annotations };
                    found.push(Serving { run, contract: contract_id, link_name, component });
                }
            }
        }
        found.sort_by(|a, b| a.component.cmp(&b.component));
        found
    }

    /// Returns the links of an actor whose providers are in the manifest.
    fn links<'l>(
        &mut self,
        component: &str,
        links: impl Iterator<Item = &'l LinkDefinition>,
        providers: &[Serving<'_>],
    ) -> Vec<Trait> {
        let mut traits = Vec::new();
        let mut targets = BTreeSet::new();
        for link in links {
            let provider = providers.iter().find(|provider| {
                provider.run.id == link.provider_id && provider.link_name == link.link_name
            });
            let Some(Serving { component: target, .. }) = provider else {
                self.note(format!(
                    "{component}: its link to {} ({}, link name {}) is left out, because that provider runs nowhere, or an \
                     application manages it",
                    link.provider_id, link.contract_id, link.link_name
                ));
                continue;
            };
            if targets.insert(target) {
                let (target, values) = (target.clone(), link.values.clone());
                traits.push(Trait::Linkdef(Linkdef { target, values }));
            }
        }
        traits
    }

    /// Returns the rule, or the rules, that keep such numbers.
    fn scaling(&mut self, component: &str, counts: &Counts<'_>) -> Scaling {
        let sum: u64 = counts.values().sum();
        let instances = u32::try_from(sum.min(INSTANCES_MAX)).unwrap_or(u32::MAX);
        if sum > INSTANCES_MAX {
            self.note(format!(
                "{component}: {sum} instances become {INSTANCES_MAX}, the most there can be"
            ));
        }
        let all = self.hosts.iter().map(|host| counts.get(host.host_id.as_str()).copied());
        let is_alike = all.collect::<BTreeSet<_>>().len() <= 1;
        if is_alike || sum > INSTANCES_MAX {
            return Scaling { instances, ..Scaling::default() };
        }
        let rules = counts.iter().map(|(host, count)| {
            let (key, value) = self.only_label(host)?;
            Some(Spread {
                name: format!("{key}={value}"),
                requirements: Pairs::from([(key.to_owned(), value.to_owned())]),
                weight: u32::try_from(*count).ok(),
            })
        });
        match rules.collect::<Option<Vec<Spread>>>() {
            Some(mut spread) => {
                // Ids of hosts are no order that anybody knows.
                spread.sort_by(|a, b| a.name.cmp(&b.name));
                Scaling { instances, spread, rebalance: false }
            }
            None => {
                self.note_of(
                    component,
                    "where it runs is not in the manifest, because not each of its hosts has a label that no other one has; \
                     `host label HOST KEY=VALUE` sets one",
                );
                Scaling { instances, ..Scaling::default() }
            }
        }
    }

    /// Returns a label that only this host has, if it can be one that somebody gave it.
    fn only_label(&self, id: &str) -> Option<(&'a str, &'a str)> {
        let host = self.hosts.iter().find(|host| host.host_id == id)?;
        let only = host.labels.iter().filter(|(key, value)| {
            let others = self.hosts.iter().filter(|other| other.host_id != id);
            others.into_iter().all(|other| other.labels.get(*key) != Some(*value))
        });
        let best = only.min_by_key(|(key, _)| (key.starts_with(CORE_LABELS), *key));
        best.map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Returns a name for a component that no other has: of words of its own name, or of its image.
    fn component_name(&mut self, name: &str, image: &str) -> String {
        let of_image = untagged(image).rsplit('/').next().unwrap_or_default();
        let base = [name, of_image, "component"].map(slug);
        let base = base.into_iter().find(|slug| !slug.is_empty()).unwrap_or_default();
        let mut free = base.clone();
        let mut number = 1;
        while !self.names.insert(free.clone()) {
            number += 1;
            free = format!("{base}-{number}");
        }
        free
    }

    /// Notes that a manifest cannot have something that runs.
    fn note_unknown(&mut self, what: &str, id: &str, host: &Inventory) {
        self.note(format!(
            "{what} {id} is left out: host {} does not say what it was started from",
            host.host_id
        ));
    }

    /// Notes that what a component was started with goes by annotations, which are in no manifest.
    fn note_annotations(&mut self, component: &str, annotations: &BTreeSet<(&str, &str)>) {
        for (key, value) in annotations {
            self.note_of(
                component,
                &format!(
                    "its annotation {key}={value} is left out, since a manifest has no place for it; start it by hand where that \
                     is needed"
                ),
            );
        }
    }

    /// Notes something of a component.
    fn note_of(&mut self, component: &str, note: &str) {
        self.shared.entry(note.to_owned()).or_default().push(component.to_owned());
    }

    /// Notes something once.
    fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

/// Returns a text in small letters, digits and single dashes.
fn slug(text: &str) -> String {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests;

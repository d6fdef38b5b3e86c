//! Finding hosts, actors and providers by what people call them.
//!
//! Everything has an id, but nobody types 56 letters: the beginning of an id, a name or a part of
//! it, a call alias or a reference will do, as long as it means one thing. The lattice remembers
//! what ran long ago, so of several things that a word means those count that run. If there are
//! still several, the error lists them; if none, it lists what there is.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, bail};

use lattice_protocol::{
    builtin,
    control::types::{HostReply, Inventory},
    errors::Lines,
    identity::keys::{ActorId, ProviderId},
    links::Claims,
};

/// How many candidates an error lists.
const LISTED_MAX: usize = 12;
/// A shorter beginning of an id, or part of a name, says too little to be meant as one: its letters
/// are in some name by chance.
pub const PREFIX_MIN: usize = 4;

/// Something with an id that can be called by other names too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    pub id: String,
    /// For people.
    pub name: String,
    /// Further names that count when they are given whole.
    pub aliases: Vec<String>,
    /// It runs somewhere, as far as inventories tell.
    pub runs: bool,
}

impl Named {
    /// Whether a word is the name, or one of the other names.
    pub fn is_named(&self, word: &str) -> bool {
        self.aliases.iter().any(|alias| alias == word) || self.name.eq_ignore_ascii_case(word)
    }

    fn resembles(&self, word: &str) -> bool {
        word.len() >= PREFIX_MIN
            && (self.id.starts_with(word)
                || self.name.to_lowercase().contains(&word.to_lowercase()))
    }

    fn listed(&self) -> String {
        if self.name.is_empty() { self.id.clone() } else { format!("{} ({})", self.id, self.name) }
    }
}

/// Returns the things with exactly this id or name; of several those that run.
pub fn called<'a>(word: &str, among: &'a [Named]) -> Vec<&'a Named> {
    running_first(among.iter().filter(|named| named.id == word || named.is_named(word)).collect())
}

fn running_first(all: Vec<&Named>) -> Vec<&Named> {
    let running: Vec<&Named> = all.iter().filter(|named| named.runs).copied().collect();
    if running.is_empty() { all } else { running }
}

/// Returns the one thing that `word` means: by its exact id or name, or else the only one that
/// resembles it.
pub fn find<'a>(what: &str, word: &str, among: &'a [Named]) -> Result<&'a Named> {
    let exact = called(word, among);
    let found = match exact.is_empty() {
        true => running_first(among.iter().filter(|named| named.resembles(word)).collect()),
        false => exact,
    };
    match found.as_slice() {
        [one] => Ok(one),
        [] if among.is_empty() => bail!("no {what} is called {word:?}: there is none"),
        [] => bail!(list(unknown(what, word), among.iter())),
        several => {
            let words = format!("{word:?} may be several of the {what}s; say more of the id:");
            bail!(list(words, several.iter().copied()))
        }
    }
}

/// Says that a word means nothing, and how much of an id or a name is needed if it is shorter.
fn unknown(what: &str, word: &str) -> String {
    let needed = match word.len() {
        1..PREFIX_MIN => {
            format!(", and of an id or a part of a name {PREFIX_MIN} letters are needed")
        }
        _ => String::new(),
    };
    format!("no {what} is called {word:?}{needed}; there are:")
}

/// Whether a word may mean one of these things, or several of them.
pub fn is_like_any(word: &str, among: &[Named]) -> bool {
    !called(word, among).is_empty() || among.iter().any(|named| named.resembles(word))
}

fn list<'a>(words: String, all: impl ExactSizeIterator<Item = &'a Named>) -> Lines {
    let more = all.len().saturating_sub(LISTED_MAX);
    let mut lines = vec![words];
    lines.extend(all.take(LISTED_MAX).map(|named| format!("  {}", named.listed())));
    if more > 0 {
        lines.push(format!("  and {more} more"));
    }
    Lines(lines)
}

/// A name, or the id where there is none.
pub fn or_id<'a>(name: &'a str, id: &'a str) -> &'a str {
    if name.is_empty() { id } else { name }
}

/// Joins the first of these names, and says how many more there are of so many in `total`.
pub fn listed<'a>(
    names: impl IntoIterator<Item = &'a str>,
    named_max: usize,
    total: usize,
) -> String {
    let named: Vec<&str> = names.into_iter().take(named_max).collect();
    match total.saturating_sub(named.len()) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// The friendly name of a host; its id if none of these hosts has it.
pub fn host_name<'a>(id: &'a str, hosts: &'a [HostReply]) -> &'a str {
    let host = hosts.iter().find(|host| host.id == id);
    host.map_or(id, |host| or_id(&host.friendly_name, id))
}

/// A finished text in which words stand for others, as names for ids.
pub fn in_words<'a>(text: &str, words: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    words.into_iter().fold(text.to_owned(), |text, (id, word)| text.replace(id, word))
}

/// Hosts by id and friendly name.
pub fn hosts(hosts: &[HostReply]) -> Vec<Named> {
    let named = hosts.iter().map(|host| Named {
        id: host.id.clone(),
        name: host.friendly_name.clone(),
        aliases: Vec::new(),
        runs: true,
    });
    named.collect()
}

/// The host a word means.
pub fn host(word: &str, all: &[HostReply]) -> Result<String> {
    find("host", word, &hosts(all)).map(|named| named.id.clone())
}

/// Actors of the lattice: those with claims and those that run.
pub fn actors(claims: &[Claims], inventories: &[Inventory]) -> Vec<Named> {
    let mut all = known(claims, |claims| !claims.is_provider());
    for actor in inventories.iter().flat_map(|inventory| &inventory.actors) {
        add(&mut all, &actor.id, &actor.name, &actor.image_ref).runs = true;
    }
    all.into_values().collect()
}

/// Providers of the lattice: those with claims, those that run, and those that are built in.
pub fn providers(claims: &[Claims], inventories: &[Inventory]) -> Vec<Named> {
    let mut all = known(claims, Claims::is_provider);
    for provider in inventories.iter().flat_map(|inventory| &inventory.providers) {
        add(&mut all, &provider.id, &provider.name, &provider.image_ref).runs = true;
    }
    for spec in &builtin::CATALOGUE {
        add(&mut all, spec.public_key, spec.title, &spec.reference());
    }
    all.into_values().collect()
}

/// Providers that run on a host. Those that are built in and run nowhere are none.
pub fn running_providers(inventories: &[Inventory]) -> Vec<Named> {
    let mut named = providers(&[], inventories);
    named.retain(|named| named.runs);
    named
}

/// Actors and providers of the lattice.
pub fn entities(claims: &[Claims], inventories: &[Inventory]) -> Vec<Named> {
    let mut all = actors(claims, inventories);
    all.extend(providers(claims, inventories));
    all
}

fn known(claims: &[Claims], wanted: impl Fn(&Claims) -> bool) -> BTreeMap<String, Named> {
    let named = claims.iter().filter(|claims| wanted(claims)).map(|claims| Named {
        id: claims.subject.clone(),
        name: claims.name.clone(),
        aliases: Some(claims.call_alias.clone())
            .filter(|alias| !alias.is_empty())
            .into_iter()
            .collect(),
        runs: false,
    });
    named.map(|named| (named.id.clone(), named)).collect()
}

fn add<'a>(
    all: &'a mut BTreeMap<String, Named>,
    id: &str,
    name: &str,
    reference: &str,
) -> &'a mut Named {
    let named =
        all.entry(id.to_owned()).or_insert_with(|| Named { id: id.to_owned(), ..Named::default() });
    if named.name.is_empty() {
        name.clone_into(&mut named.name);
    }
    if !reference.is_empty() && !named.aliases.iter().any(|alias| alias == reference) {
        named.aliases.push(reference.to_owned());
    }
    named
}

/// The actor a word means. A whole id is believed without looking: links are put before their actor
/// is known.
pub fn actor(word: &str, claims: &[Claims], inventories: &[Inventory]) -> Result<String> {
    if ActorId::parse(word).is_ok() {
        return Ok(word.to_owned());
    }
    find("actor", word, &actors(claims, inventories)).map(|named| named.id.clone())
}

/// The provider a word means. A whole id is believed without looking.
pub fn provider(word: &str, claims: &[Claims], inventories: &[Inventory]) -> Result<String> {
    if ProviderId::parse(word).is_ok() {
        return Ok(word.to_owned());
    }
    if let Some(Err(unknown)) = builtin::find(word) {
        return Err(anyhow!(unknown));
    }
    find("provider", word, &providers(claims, inventories)).map(|named| named.id.clone())
}

/// The actor or provider a word means. A whole id is believed without looking.
pub fn entity(word: &str, claims: &[Claims], inventories: &[Inventory]) -> Result<String> {
    if ActorId::parse(word).is_ok() || ProviderId::parse(word).is_ok() {
        return Ok(word.to_owned());
    }
    if let Some(Err(unknown)) = builtin::find(word) {
        return Err(anyhow!(unknown));
    }
    find("actor or provider", word, &entities(claims, inventories)).map(|named| named.id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::control::types::InventoryActor;

    fn some() -> Vec<Named> {
        let named = |id: &str, name: &str, alias: &str| Named {
            id: id.into(),
            name: name.into(),
            aliases: vec![alias.into()],
            runs: false,
        };
        vec![
            named("MABCD1", "Echo", "examples/echo"),
            named("MABCD2", "Echo two", "file:///echo.wasm"),
            named("MXYZ", "KV counter", "kv"),
        ]
    }

    #[test]
    fn one_thing_is_found_by_any_of_its_names() {
        let all = some();
        for (word, id) in [
            ("MXYZ", "MXYZ"),
            ("echo", "MABCD1"),
            ("o two", "MABCD2"),
            ("file:///echo.wasm", "MABCD2"),
            ("kv", "MXYZ"),
            ("counter", "MXYZ"),
            ("MABCD1", "MABCD1"),
        ] {
            assert_eq!(find("actor", word, &all).unwrap().id, id, "{word}");
        }
    }

    #[test]
    fn several_and_none_are_told_with_their_candidates() {
        let several = find("actor", "MABC", &some()).unwrap_err().to_string();
        assert!(
            several.contains("MABCD1 (Echo)")
                && several.contains("MABCD2")
                && !several.contains("MXYZ"),
            "{several}"
        );
        let none = find("actor", "nobody", &some()).unwrap_err().to_string();
        assert!(none.contains("MXYZ (KV counter)"), "{none}");
        assert!(!none.contains("needed") && find("actor", "", &some()).is_err());
        assert!(find("actor", "x", &[]).unwrap_err().to_string().contains("there is none"));
    }

    #[test]
    fn a_few_letters_mean_what_has_that_name_and_nothing_that_has_them_by_chance() {
        let named =
            |id: &str, name: &str| Named { id: id.into(), name: name.into(), ..some()[0].clone() };
        let all = [named("NAB2", "calm otter"), named("NC3", "grand-1"), named("ND4", "ab")];
        for (word, id) in [
            // The beginning of one id, and a part of another name.
            ("N", None),
            ("ND", None),
            ("r", None),
            ("ott", None),
            ("-1", None),
            ("AB", Some("ND4")),
            ("NC3", Some("NC3")),
            ("otte", Some("NAB2")),
            ("NAB2", Some("NAB2")),
        ] {
            assert_eq!(find("host", word, &all).ok().map(|named| named.id.as_str()), id, "{word}");
            assert_eq!(is_like_any(word, &all), id.is_some(), "{word}");
        }
        let told = find("host", "ND", &all).unwrap_err().to_string();
        assert!(told.contains("4 letters are needed") && told.contains("NC3 (grand-1)"), "{told}");
    }

    #[test]
    fn of_several_things_of_one_name_that_which_runs_is_meant() {
        let claims = |subject: &str| Claims {
            subject: subject.into(),
            name: "Ponger".into(),
            call_alias: "lattice/ponger".into(),
            ..Claims::default()
        };
        let known = [claims("MGONE"), claims("MRUNS")];
        let runs = |ids: &[&str]| {
            let actor = |id: &&str| InventoryActor {
                id: (*id).into(),
                name: "Ponger".into(),
                ..Default::default()
            };
            [Inventory { actors: ids.iter().map(actor).collect(), ..Inventory::default() }]
        };
        for word in ["ponger", "lattice/ponger", "pong"] {
            assert!(actor(word, &known, &[]).is_err(), "{word} is ambiguous where none runs");
            assert_eq!(actor(word, &known, &runs(&["MRUNS"])).unwrap(), "MRUNS", "{word}");
            assert!(
                actor(word, &known, &runs(&["MRUNS", "MGONE"])).is_err(),
                "{word} is ambiguous where both run"
            );
        }
        assert_eq!(
            actor("MGON", &known, &runs(&["MRUNS"])).unwrap(),
            "MGONE",
            "the beginning of an id is its own"
        );
    }

    #[test]
    fn only_the_first_names_are_listed_and_the_rest_counted() {
        for (names, total, text) in [
            (&["a"][..], 1, "a"),
            (&["a", "b"], 2, "a, b"),
            (&["a", "b", "c"], 3, "a, b and 1 more"),
            (&["a", "b"], 9, "a, b and 7 more"),
        ] {
            assert_eq!(listed(names.iter().copied(), 2, total), text);
        }
    }

    #[test]
    fn built_in_providers_are_known_without_a_lattice() {
        let id = provider("builtin://httpserver", &[], &[]).unwrap();
        assert_eq!(
            Some(id.as_str()),
            builtin::CATALOGUE.iter().find(|spec| spec.name == "httpserver").map(|s| s.public_key)
        );
        assert!(provider("builtin://nonsense", &[], &[]).is_err());
    }
}

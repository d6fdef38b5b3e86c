//! `host link put -f`: any number of links, many at a time.
//!
//! Everything that is wrong with a file is told before anything is sent. What the lattice has just
//! so is not sent again, so a command that broke off is given once more.

use std::{
    collections::{HashMap, HashSet},
    io::{IsTerminal as _, Read as _},
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::link::{Known, is_id};
use crate::terminal::{Message, Terminal};
use lattice_client::{
    lattice::Lattice,
    links::{self, NotPut},
    names,
};
use lattice_engine::providers::builtin;
use lattice_protocol::{
    builtin::{SCHEME, name_of},
    errors::{Lines, Usage},
    identity::keys::LinkName,
    links::LinkDefinition,
};

/// Bytes of a file that are read: some 250,000 links, which are all a lattice takes.
const BYTES_MAX: u64 = 256 << 20;
/// Mistakes, and links that were not put, that are told.
const TOLD_MAX: usize = 10;

/// A link of a file, with ids or names.
#[derive(Clone, Debug)]
struct Given {
    actor_id: String,
    provider_id: String,
    contract_id: String,
    link_name: String,
    values: Vec<(String, String)>,
}

impl Given {
    /// Reads a link. No error quotes a value, which may be a password.
    fn read(link: &Value) -> Result<Self> {
        let link = link.as_object().context("it is no object")?;
        Ok(Self {
            actor_id: needed(link, "actor_id", "actor")?,
            provider_id: needed(link, "provider_id", "provider")?,
            contract_id: needed(link, "contract_id", "contract")?,
            link_name: text(link, "link_name")?.unwrap_or_default(),
            values: values(link)?,
        })
    }
}

/// Reads a member that has to be there under one of two names.
fn needed(link: &Map<String, Value>, name: &str, short: &str) -> Result<String> {
    match (text(link, name)?, text(link, short)?) {
        (Some(_), Some(_)) => bail!("{name} is given twice"),
        (Some(text), None) | (None, Some(text)) => Ok(text),
        (None, None) => bail!("{name} is missing"),
    }
}

fn text(link: &Map<String, Value>, name: &str) -> Result<Option<String>> {
    match link.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => bail!("{name} is no text"),
    }
}

fn values(link: &Map<String, Value>) -> Result<Vec<(String, String)>> {
    let values = match link.get("values") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(values)) => values,
        Some(_) => bail!("values is no object"),
    };
    let mut read = Vec::with_capacity(values.len());
    for (name, value) in values {
        let text = value.as_str().with_context(|| format!("value {name} is no text"))?;
        read.push((name.clone(), text.to_owned()));
    }
    Ok(read)
}

/// The content of a file: the listing of links, or the links alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Listing { links: Vec<Value> },
    Links(Vec<Value>),
}

impl Content {
    fn links(self) -> Vec<Value> {
        match self {
            Self::Listing { links } | Self::Links(links) => links,
        }
    }
}

pub async fn put(terminal: &Terminal, lattice: &Lattice, file: &str) -> Result<()> {
    let given = read(file)?;
    let mut readable = given.iter().flatten();
    let needs_names = readable.any(|link| !is_id(&link.actor_id) || !is_known(&link.provider_id));
    let known = if needs_names { Known::ask(lattice, "", "?").await? } else { Known::default() };
    let wanted = resolved(given, &known)?;
    let there: HashMap<String, LinkDefinition> = if wanted.is_empty() {
        HashMap::new()
    } else {
        let there = lattice.links().await.context("ask for the links")?;
        there.into_iter().map(|link| (link.id(), link)).collect()
    };
    let all = wanted.len();
    let news: Vec<LinkDefinition> =
        wanted.into_iter().filter(|link| there.get(&link.id()) != Some(link)).collect();
    let (new, same) = (news.len(), all - news.len());
    let not_put = links::put_all(lattice, news).await;
    if !not_put.is_empty() {
        let head =
            format!("{} of {all} links were not put; give the command again:", not_put.len());
        bail!(some_of(head, not_put.iter().map(told)));
    }
    let text = format!("Put {new} links; {same} were there already");
    terminal.show(&Message::new(text, new.to_string(), json!({ "put": new, "unchanged": same })))
}

fn is_known(provider: &str) -> bool {
    is_id(provider) || provider.starts_with(SCHEME)
}

/// An error with so many of its lines.
fn some_of(head: String, lines: impl ExactSizeIterator<Item = String>) -> Lines {
    let more = lines.len().saturating_sub(TOLD_MAX);
    let mut told = vec![head];
    told.extend(lines.take(TOLD_MAX).map(|line| format!("  {line}")));
    if more > 0 {
        told.push(format!("  and {more} more"));
    }
    Lines(told)
}

fn told(NotPut { link, error }: &NotPut) -> String {
    let LinkDefinition { actor_id, provider_id, contract_id, link_name, .. } = link;
    format!("{contract_id} ({link_name}) of {actor_id} to {}: {error:#}", name_of(provider_id))
}

/// Reads the links of a file, each by itself.
fn read(file: &str) -> Result<Vec<Result<Given>>> {
    let mut text = String::new();
    let (place, taken) = if file == "-" {
        if std::io::stdin().is_terminal() {
            bail!(Usage("no links were given: name a file, or send one to standard input".into()));
        }
        ("standard input", std::io::stdin().take(BYTES_MAX + 1).read_to_string(&mut text))
    } else {
        let opened = std::fs::File::open(file);
        (file, opened.and_then(|file| file.take(BYTES_MAX + 1).read_to_string(&mut text)))
    };
    taken.with_context(|| format!("read the links of {place}"))?;
    if text.len() as u64 > BYTES_MAX {
        bail!("{place} is larger than {BYTES_MAX} bytes; put the links in parts");
    }
    let links = match serde_json::from_str(&text).map(Content::links) {
        Ok(links) => links,
        // The error's own text may quote a value, and values may be passwords.
        Err(error) if !error.is_data() => {
            bail!("{place} is no JSON (line {} column {})", error.line(), error.column())
        }
        Err(_) => bail!(no_links(place)),
    };
    if !links.is_empty() && !links.iter().any(Value::is_object) {
        bail!(no_links(place));
    }
    Ok(links.iter().map(Given::read).collect())
}

fn no_links(place: &str) -> String {
    format!(
        "{place} has no links: it has to be what `host get links -o json` prints, or a list of links with actor_id, \
         provider_id, contract_id and, if need be, link_name and values"
    )
}

/// The links with the ids of what they name. All mistakes are told together.
fn resolved(given: Vec<Result<Given>>, known: &Known) -> Result<Vec<LinkDefinition>> {
    let (mut links, mut mistakes, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    for (number, link) in given.into_iter().enumerate() {
        let checked = link.and_then(|link| resolve(link, known)).and_then(|link| {
            builtin::check(&link).map_err(|error| {
                anyhow!("{} does not take it on: {error}", name_of(&link.provider_id))
            })?;
            if !seen.insert(link.id()) {
                bail!("another link of the file is of the same actor, contract and link name");
            }
            Ok(link)
        });
        match checked {
            Ok(link) => links.push(link),
            Err(error) => mistakes.push(format!("link {}: {}", number + 1, in_one_line(error))),
        }
    }
    if mistakes.is_empty() {
        return Ok(links);
    }
    bail!(some_of("nothing was put:".to_owned(), mistakes.into_iter()))
}

/// An error as part of a line; one may have several lines of its own.
fn in_one_line(error: anyhow::Error) -> String {
    match error.downcast::<Lines>() {
        Ok(Lines(lines)) => lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" "),
        Err(error) => format!("{error:#}"),
    }
}

fn resolve(given: Given, known: &Known) -> Result<LinkDefinition> {
    let Given { actor_id, provider_id, contract_id, link_name, values } = given;
    let link_name = if link_name.is_empty() { LinkName::DEFAULT.to_owned() } else { link_name };
    Ok(LinkDefinition {
        actor_id: names::actor(&actor_id, &known.claims, &known.inventories)?,
        provider_id: names::provider(&provider_id, &known.claims, &known.inventories)?,
        link_name,
        contract_id,
        values: values.into_iter().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACTOR: &str = "MDWUSKGGFDI4FRXK5EBTRECZSVQSSWJHHJOGH6JWG3AUMFFMQ435C2JZ";
    const PROVIDER: &str = "VDFJHLAXAUMHA4OWPOB4P7YO72AQR2HMIUYFOXLXE2DZGM633K7HYIF3";

    fn of(text: &str) -> Result<Vec<LinkDefinition>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("links.json");
        std::fs::write(&path, text).unwrap();
        resolved(read(&path.display().to_string())?, &Known::default())
    }

    fn link(contract: &str) -> String {
        format!(
            r#"{{"actor_id":"{ACTOR}","provider_id":"{PROVIDER}","contract_id":"{contract}","values":null}}"#
        )
    }

    #[test]
    fn a_listing_and_a_list_are_read_alike() {
        let (one, two) = (link("a:one"), link("a:two"));
        let list = of(&format!("[{one},{two}]")).unwrap();
        assert_eq!(list, of(&format!(r#"{{"links":[{one},{two}],"states":{{}}}}"#)).unwrap());
        assert_eq!((list.len(), list[0].link_name.as_str()), (2, "default"));
    }

    #[test]
    fn each_link_tells_what_is_wrong_with_it() {
        let good = link("a:b");
        for (bad, told) in [
            (good.replace("contract_id", "contact"), "link 2: contract_id is missing"),
            (good.replace("contract_id", "contract\":\"c\",\"contract_id"), "given twice"),
            (good.replace("null", r#"{"address":8080}"#), "link 2: value address is no text"),
            (good.replace("null", r#""hunter2""#), "link 2: values is no object"),
            (good.replace("a:b", "c").replace(r#""c""#, "7"), "link 2: contract_id is no text"),
            (good.replace(ACTOR, "no\\nbody"), "link 2: no actor is called"),
            ("7".to_owned(), "link 2: it is no object"),
        ] {
            let error = of(&format!("[{good},{bad}]")).unwrap_err().to_string();
            assert!(error.contains(told) && !error.contains("hunter2"), "{error}");
            assert_eq!(error.lines().count(), 2, "{error}");
        }
        let named = in_one_line(Lines(vec!["there are:".into(), "  MA (Echo)".into()]).into());
        assert_eq!(named, "there are: MA (Echo)");
    }

    #[test]
    fn all_mistakes_are_told_before_anything_is_sent_and_no_value_is() {
        let named = format!(
            r#"{{"actor":"{ACTOR}","provider":"builtin://keyvalue","contract":"wasmcloud:keyvalue","values":{{"colour":"red"}}}}"#
        );
        let told =
            of(&format!("[{named},{},{}]", link("a:b"), link("a:b"))).unwrap_err().to_string();
        assert!(told.contains("link 1: ") && told.contains("colour"), "{told}");
        assert!(told.contains("link 3: another link"), "{told}");
        for text in [r#"["hunter2"]"#, r#"{"links": "hunter2"}"#, "hunter2"] {
            let told = format!("{:#}", of(text).unwrap_err());
            assert!(!told.contains("hunter2") && told.contains("links.json"), "{told}");
        }
    }
}

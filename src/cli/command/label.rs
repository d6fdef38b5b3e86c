//! `host label`: labels of a host, while it runs.

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::{
    args::{flags::SettingArgs, lattice::Label},
    session::Session,
    terminal::{Message, Terminal},
};
use lattice_protocol::{
    control::{
        request::{DeleteLabel, PutLabel},
        types::Pairs,
    },
    errors::Usage,
};

pub async fn run(terminal: &Terminal, before: SettingArgs, args: Label) -> Result<()> {
    let labels = read(&args.labels, args.delete)?;
    let lattice = Session::open(before, &args.connect)?.lattice().await?;
    let host = lattice.find_host(&args.host).await?;
    for (key, value) in &labels {
        let (name, value) = (key.clone(), value.clone());
        let asked = match args.delete {
            true => lattice.command(&host, &DeleteLabel { key: name, value: Some(value) }).await,
            false => lattice.command(&host, &PutLabel { key: name, value }).await,
        };
        asked.with_context(|| format!("change label {key} of host {host}"))?;
    }
    let told: Vec<String> = labels
        .iter()
        .map(|(key, value)| if args.delete { key.clone() } else { format!("{key}={value}") })
        .collect();
    let text = format!(
        "Host `{host}` {} {}",
        if args.delete { "unlabeled" } else { "labeled" },
        told.join(" ")
    );
    let members = json!({ "host_id": host, "labels": labels, "deleted": args.delete, "processed": told.join(" ") });
    terminal.show(&Message::new(text, &host, members))
}

/// `KEY=VALUE` to set, `KEY` to delete; a value is not looked at then.
fn read(given: &[String], delete: bool) -> Result<Pairs> {
    let mut labels = Pairs::new();
    for text in given {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, value),
            None if delete => (text.as_str(), ""),
            None => bail!(Usage(format!(
                "{text:?} is no label: it is written KEY=VALUE, or KEY with --delete"
            ))),
        };
        if key.trim().is_empty() {
            bail!(Usage(format!("{text:?} is no label: it has no key")));
        }
        labels.insert(key.trim().to_owned(), if delete { String::new() } else { value.to_owned() });
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_pairs_to_set_and_keys_to_delete() {
        let texts =
            |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(read(&texts(&["a=b=c"]), false).unwrap()["a"], "b=c");
        assert_eq!(
            read(&texts(&["a", "b=c"]), true).unwrap().into_keys().collect::<Vec<_>>(),
            ["a", "b"]
        );
        assert!(read(&texts(&["a"]), false).unwrap_err().is::<Usage>());
        assert!(read(&texts(&["=b"]), false).is_err());
    }
}

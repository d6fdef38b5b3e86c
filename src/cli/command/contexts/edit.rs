//! `host ctx edit`: a context in the user's editor.
//!
//! The editor works on a copy. Only what passes the checks replaces the context; what does not is
//! kept, and the next edit goes on with it.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::{load, named, places, refuse_those_of_nats};
use crate::{
    args::tools::CtxEdit,
    context::{Found, read, write},
    terminal::{Message, Terminal},
};
use lattice_protocol::errors::Usage;

pub fn run(terminal: &Terminal, args: &CtxEdit) -> Result<()> {
    let places = places(&args.place);
    let found = named(&places, &args.place, args.name.as_deref())?;
    refuse_those_of_nats(&found, "edit")?;
    let name = &found.name;
    let before = fs::read(&found.path).with_context(|| format!("read {}", found.path.display()))?;
    let copy = copy_of(&found);
    if copy.exists() {
        terminal.note(format!("this goes on with an earlier edit ({})", copy.display()));
    } else {
        make(&copy, &before).with_context(|| format!("write {}", copy.display()))?;
    }
    let edited = edit(&args.editor, &copy);
    let after = fs::read(&copy).with_context(|| format!("read {}", copy.display()))?;
    if after == before {
        fs::remove_file(&copy).with_context(|| format!("remove {}", copy.display()))?;
        edited?;
        return terminal.show(&Message::new(
            format!("Context {name} stays as it was"),
            name,
            json!({ "changed": false }),
        ));
    }
    edited?;
    check(&found, &copy, places.home.as_deref()).map_err(|error| {
        let copy = copy.display();
        Usage(format!(
            "{error:#}\nContext {name} stays as it was. The edit is kept in {copy}; `host ctx edit {name}` goes on with it"
        ))
    })?;
    write::replace(&found.path, &after)
        .with_context(|| format!("write {}", found.path.display()))?;
    fs::remove_file(&copy).with_context(|| format!("remove {}", copy.display()))?;
    terminal.show(&Message::new(
        format!("Context {name} is changed"),
        name,
        json!({ "changed": true }),
    ))
}

/// Beside the context, since its paths are of there; the dot keeps it from being one itself.
fn copy_of(found: &Found) -> PathBuf {
    found.path.with_file_name(format!(".{}.edit.json", found.name))
}

/// A file that only its owner may read.
fn make(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(content)
}

/// Runs the editor, which may be a command with arguments, and waits until it ends.
fn edit(editor: &str, path: &Path) -> Result<()> {
    let status =
        Command::new("sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("host").arg(path).status();
    let status = status.with_context(|| format!("run the editor {editor:?}"))?;
    if !status.success() {
        bail!(
            "the editor {editor:?} ended with {status}; nothing was changed. --editor or EDITOR name another"
        );
    }
    Ok(())
}

fn check(found: &Found, copy: &Path, home: Option<&Path>) -> Result<()> {
    let context = read::context(Some(found.kind), copy, home)?;
    if let Some(missing) = read::missing_for_wash(found.kind, copy)? {
        bail!(
            "{}: {missing} must be there, as a text that may be empty, or `wash` refuses the file",
            copy.display()
        );
    }
    load(context, home)?;
    Ok(())
}

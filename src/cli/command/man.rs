//! `host man`: manual pages, a page for every command.
//!
//! They are made of the same definition of the command line that reads it, so no page tells of a
//! flag that is not there. The page of the binary itself lists the commands in their groups and
//! every setting.
//!
//! `clap_mangen::generate_to` writes pages too, but less of them: it knows no groups of commands,
//! sets every flag into the synopsis, puts examples and exit codes as running text under "EXTRA",
//! names neither the pages above nor other names of flags, and prints no page to standard output.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};
use clap::Command;
use clap_mangen::{
    Man as Renderer,
    roff::{Roff, bold, roman},
};
use serde_json::json;

use crate::{
    args::{self, tools::Man},
    terminal::{Message, Terminal},
};
use lattice_protocol::errors::Usage;

const SECTION: &str = "1";
const MANUAL: &str = "Lattice host";
/// How apostrophes are defined at the beginning of a page.
const PREAMBLE: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";

pub fn run(terminal: &Terminal, args: &Man) -> Result<()> {
    let pages = pages()?;
    let Some(dir) = &args.dir else {
        return match pages.get(&page_name(&args.command)?) {
            Some(text) => {
                let mut page = terminal.page();
                page.block(text);
                terminal.print(page)
            }
            None => Err(Usage(format!("there is no page for {:?}", args.command.join(" "))).into()),
        };
    };
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    for (name, page) in &pages {
        let path = dir.join(format!("{name}.{SECTION}"));
        fs::write(&path, page).with_context(|| format!("write {}", path.display()))?;
    }
    let told = format!(
        "{} pages are in {}; `man {}/host.{SECTION}` shows the first",
        pages.len(),
        dir.display(),
        dir.display()
    );
    terminal.show(&Message::new(
        told,
        dir.display().to_string(),
        json!({ "pages": pages.len(), "path": dir }),
    ))
}

/// `host-start-actor` for `start actor`, by whatever of its names a command is called.
fn page_name(words: &[String]) -> Result<String> {
    let mut command = &root();
    let mut name = command.get_name().to_owned();
    for word in words {
        command = command.find_subcommand(word).ok_or_else(|| {
            Usage(format!("there is no command {:?}; `host --help` lists them", words.join(" ")))
        })?;
        name = format!("{name}-{}", command.get_name());
    }
    Ok(name)
}

/// The command line, as pages show it: with everything that short help leaves out, and other names
/// of flags.
fn root() -> Command {
    let mut root = with_aliases(args::command().disable_help_subcommand(true));
    root.build();
    root
}

/// Tells the other names of flags in their help, and hides none that the short help hides.
fn with_aliases(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        let arg = arg.hide_short_help(false);
        let aliases = arg.get_visible_aliases().unwrap_or_default();
        let Some(help) = arg.get_help().filter(|_| !aliases.is_empty()) else { return arg };
        let aliases: Vec<String> = aliases.iter().map(|alias| format!("--{alias}")).collect();
        let help = format!("{help} [also: {}]", aliases.join(", "));
        arg.help(help)
    });
    command.mut_subcommands(with_aliases)
}

/// Every page, by its name.
fn pages() -> Result<BTreeMap<String, String>> {
    let root = root();
    let mut pages = BTreeMap::new();
    add(&root, &mut Vec::new(), &mut pages)?;
    Ok(pages)
}

/// Adds the page of a command and those of its subcommands.
fn add(
    command: &Command,
    parents: &mut Vec<String>,
    pages: &mut BTreeMap<String, String>,
) -> Result<()> {
    let name = match parents.last() {
        Some(parent) => format!("{parent}-{}", command.get_name()),
        None => command.get_name().to_owned(),
    };
    pages.insert(name.clone(), page(&name, command, parents)?);
    parents.push(name);
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        add(inner, parents, pages)?;
    }
    parents.pop();
    Ok(())
}

fn page(name: &str, command: &Command, parents: &[String]) -> Result<String> {
    let renderer = Renderer::new(command.clone());
    let mut page = Vec::new();
    names(name, command).to_writer(&mut page)?;
    synopsis(command).to_writer(&mut page)?;
    renderer.render_description_section(&mut page)?;
    if command.has_subcommands() {
        let mut roff = Roff::new();
        roff.control("SH", ["COMMANDS"]);
        match parents {
            [] => groups(name, command, &mut roff),
            _ => subcommands(name, command, &mut roff),
        }
        roff.to_writer(&mut page)?;
    }
    if command.get_arguments().any(|arg| !arg.is_hide_set()) {
        renderer.render_options_section(&mut page)?;
    }
    if let Some(more) = command.get_after_long_help().or_else(|| command.get_after_help()) {
        after(&more.to_string()).to_writer(&mut page)?;
    }
    see_also(parents).to_writer(&mut page)?;
    let page = String::from_utf8(page).context("write a manual page")?;
    // Each piece brings its own, and once is enough.
    Ok(format!("{PREAMBLE}{}{}", title(name), page.replace(PREAMBLE, "")))
}

/// Without a date: the version says how old a page is. An empty argument has to be written, or the
/// next takes its place.
fn title(name: &str) -> String {
    let (name, version) = (name.to_uppercase(), env!("CARGO_PKG_VERSION"));
    format!(".TH \"{name}\" \"{SECTION}\" \"\" \"host {version}\" \"{MANUAL}\"\n")
}

fn names(name: &str, command: &Command) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["NAME"]);
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    roff.text([roman(format!("{name} - {about}"))]);
    roff
}

/// The line that `--help` has. All flags in a row, as pages of smaller programs have them, would
/// fill the page.
fn synopsis(command: &Command) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    match usage.strip_prefix(name) {
        Some(rest) => roff.text([bold(name), roman(rest)]),
        None => roff.text([roman(usage)]),
    };
    roff
}

/// Lists the commands of the binary itself in their groups.
fn groups(name: &str, command: &Command, roff: &mut Roff) {
    for (heading, inners) in args::help::GROUPS {
        roff.control("SS", [heading]);
        for inner in inners.iter().filter_map(|inner| command.find_subcommand(inner)) {
            entry(name, inner, roff);
        }
    }
}

/// Lists the commands below this one.
fn subcommands(name: &str, command: &Command, roff: &mut Roff) {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        entry(name, inner, roff);
    }
}

fn entry(name: &str, inner: &Command, roff: &mut Roff) {
    roff.control("TP", []);
    roff.text([bold(format!("{name}-{}({SECTION})", inner.get_name()))]);
    roff.text([roman(inner.get_about().map(ToString::to_string).unwrap_or_default())]);
}

/// Formats the text below the flags in `--help`: examples as they are, exit codes, and the rest.
fn after(text: &str) -> Roff {
    let (mut examples, mut exit, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
        let (first, rest) = paragraph.split_once('\n').unwrap_or((paragraph, ""));
        match first.trim() {
            "Example:" | "Examples:" => examples.push(rest),
            first if first.starts_with("Exit codes:") => {
                exit.push(paragraph.trim_start_matches("Exit codes:").trim())
            }
            _ => notes.push(paragraph),
        }
    }
    let mut roff = Roff::new();
    for (heading, paragraphs) in [("EXAMPLES", examples), ("EXIT STATUS", exit), ("NOTES", notes)] {
        if !paragraphs.is_empty() {
            roff.control("SH", [heading]);
        }
        for (index, paragraph) in paragraphs.into_iter().enumerate() {
            if index > 0 {
                roff.control("PP", []);
            }
            lines(paragraph, &mut roff);
        }
    }
    roff
}

/// Lines that are set in stay as they are; others flow together.
fn lines(paragraph: &str, roff: &mut Roff) {
    let mut is_literal = false;
    for line in paragraph.lines() {
        if line.starts_with("  ") != is_literal {
            is_literal = !is_literal;
            roff.control(if is_literal { "nf" } else { "fi" }, []);
        }
        roff.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
    }
    if is_literal {
        roff.control("fi", []);
    }
}

fn see_also(parents: &[String]) -> Roff {
    let mut roff = Roff::new();
    if !parents.is_empty() {
        let pages: Vec<String> =
            parents.iter().rev().map(|page| format!("{page}({SECTION})")).collect();
        roff.control("SH", ["SEE ALSO"]);
        roff.text([roman(pages.join(", "))]);
    }
    roff
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each(command: &Command, name: &str, look: &mut impl FnMut(&Command, &str)) {
        look(command, name);
        for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
            each(inner, &format!("{name}-{}", inner.get_name()), look);
        }
    }

    #[test]
    fn every_command_has_a_page_that_tells_of_each_of_its_flags() {
        let pages = pages().unwrap();
        let mut count = 0;
        each(&root(), "host", &mut |command, name| {
            count += 1;
            let page = pages.get(name).unwrap_or_else(|| panic!("a page for {name}"));
            for heading in [".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION", ".SH OPTIONS"] {
                assert!(page.contains(heading), "{heading} in {name}:\n{page}");
            }
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(about.len() > 5, "{name} says what it does");
            let plain = page.replace("\\-", "-").replace('\\', "");
            for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                let Some(long) = arg.get_long() else { continue };
                let (_, rest) = plain
                    .split_once(&format!("--{long}"))
                    .unwrap_or_else(|| panic!("--{long} in {name}"));
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                let beginning: String = help.chars().take(12).collect();
                assert!(rest.contains(&beginning), "the help of --{long} in {name}");
            }
        });
        assert_eq!(pages.len(), count);
        assert!(
            pages
                .values()
                .all(|page| page.starts_with(PREAMBLE) && page.matches(PREAMBLE).count() == 1)
        );
    }

    #[test]
    fn the_first_page_has_the_commands_in_their_groups_and_the_settings() {
        let page = &pages().unwrap()["host"];
        let plain = page.replace("\\-", "-");
        for part in [
            ".SS \"Run a host\"",
            "host-start(1)",
            "--js-domain",
            "WASMCLOUD_JS_DOMAIN",
            ".SH EXAMPLES",
        ] {
            assert!(plain.contains(part), "{part} in\n{plain}");
        }
    }

    #[test]
    fn a_page_is_found_by_any_name_of_its_command() {
        let name = |words: &[&str]| {
            page_name(&words.iter().map(|word| word.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(name(&[]).unwrap(), "host");
        assert_eq!(name(&["links", "delete"]).unwrap(), "host-link-del");
        assert!(name(&["nonsense"]).unwrap_err().is::<Usage>());
    }

    #[test]
    fn examples_stay_as_they_are() {
        let page = after("Examples:\n  host up   all\n  host down\n\nExit codes: 0 well; 1 not.")
            .to_roff();
        assert!(
            page.contains(".SH EXAMPLES\n.nf\nhost up   all\nhost down\n.fi\n.SH \"EXIT STATUS\"\n0 well; 1 not."),
            "{page}"
        );
    }
}

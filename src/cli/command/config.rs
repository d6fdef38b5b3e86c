//! `host config show`: every setting, and where it comes from.

use std::process::ExitCode;

use super::{daemon::load, print};
use crate::{
    args::{self, ConfigCommand, flags::SettingArgs},
    terminal::{Terminal, complain},
};
use lattice_base::config::{Row, Sources};
use lattice_protocol::escape;

pub fn run(terminal: &Terminal, before: SettingArgs, command: ConfigCommand) -> ExitCode {
    let ConfigCommand::Show { origin, settings, .. } = command;
    let given = args::merged(before, settings);
    let loaded = match load(&Sources::from_process(given.values, given.labels)) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    loaded.config.warnings.iter().for_each(complain);
    let table = loaded.table;
    if terminal.is_data() {
        return match terminal.data(table.to_json()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(format!("{error:#}"));
                ExitCode::FAILURE
            }
        };
    }
    print(lines(&table.rows(), origin))
}

/// The settings as text, a line each.
fn lines(rows: &[Row], origin: bool) -> String {
    let (keys, values) = (width(rows, |row| &row.key), width(rows, |row| &row.value));
    let mut lines = String::new();
    for row in rows {
        let (key, value) = (&row.key, escape::line(&row.value));
        lines += &match origin {
            true => format!("{key:keys$}  {value:values$}  {}\n", row.origin),
            false => format!("{}\n", format!("{key:keys$}  {value}").trim_end()),
        };
    }
    lines
}

fn width(rows: &[Row], column: fn(&Row) -> &str) -> usize {
    rows.iter().map(|row| column(row).chars().count()).max().unwrap_or(0)
}

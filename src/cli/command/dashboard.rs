//! `host dashboard`: a link that logs in to the dashboard of a host of this user, and its opening.
//!
//! The code in the link is a secret for a minute. Command lines are seen by every user of a
//! machine, so a browser is not given the link itself but a file of this user that leads there, as
//! Jupyter does it.

use std::{
    env, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::{
    args::tools::Dashboard,
    service::{NAME, definition::state_directory, manager::other_runs},
    terminal::{Page, Terminal, View},
    up,
};
use lattice_base::dirs::Dirs;
use lattice_dashboard::{
    entry::{self, ChooseError, Record},
    token,
};

/// The file that leads a browser to the page, below the state directory.
const LEADS_THERE: &str = "dashboard.html";

pub fn run(terminal: &Terminal, args: &Dashboard) -> Result<()> {
    let dirs = Dirs::of_process();
    let file = dirs.state.join(token::FILE);
    if args.revoke {
        token::renew(&file)
            .with_context(|| format!("write another secret to {}", file.display()))?;
        return terminal.show(&Revoked(file));
    }
    let all = entry::running(&dirs);
    let here = up::directory().ok();
    let record = match entry::choose(&all, args.host.as_deref(), here.as_deref()) {
        Err(ChooseError::None) if other_runs(&dirs) => bail!(of_system()),
        chosen => chosen?,
    };
    let link =
        record.link(&dirs).with_context(|| format!("read the secret in {}", file.display()))?;
    let opened = !args.no_open && terminal.is_interactive() && has_desktop() && open(&dirs, &link);
    terminal.show(&Link { record, link })?;
    if !terminal.is_data() {
        let seconds = token::CODE.as_secs();
        terminal.note(&match opened {
            true => format!("opened in the browser; the link works once, within {seconds} s"),
            false => format!("the link works once, within {seconds} s"),
        });
    }
    Ok(())
}

/// Says how the dashboard of the service of the system is reached. Its secret is that of its user:
/// no link is made of it here.
fn of_system() -> String {
    format!(
        "no host of this user serves a dashboard on this machine; the service {NAME} of the system runs: `journalctl -u {NAME}` \
         tells where its dashboard is, and the text in {}, which root can read, logs in there",
        state_directory().join(token::FILE).display()
    )
}

/// A link to a dashboard.
struct Link<'a> {
    record: &'a Record,
    link: String,
}

impl View for Link<'_> {
    fn json(&self) -> Value {
        let Record { url, host_id, host_name, lattice, .. } = self.record;
        json!({
            "link": self.link, "url": url, "host_id": host_id, "host_name": host_name, "lattice": lattice,
            "expires_in_s": token::CODE.as_secs(),
        })
    }

    fn text(&self, page: &mut Page) {
        page.line(&self.link);
    }

    fn names(&self) -> Vec<String> {
        vec![self.link.clone()]
    }
}

/// Every login has ended.
struct Revoked(PathBuf);

impl View for Revoked {
    fn json(&self) -> Value {
        json!({ "token_file": self.0 })
    }

    fn text(&self, page: &mut Page) {
        let file = self.0.display();
        page.line(format!(
            "every login to the dashboards of your hosts has ended; another secret is in {file}"
        ));
    }

    fn names(&self) -> Vec<String> {
        vec![self.0.display().to_string()]
    }
}

/// Whether a browser could appear where the user is.
fn has_desktop() -> bool {
    let is_remote = is_set("SSH_CONNECTION") || is_set("SSH_TTY");
    let has_screen =
        cfg!(any(windows, target_os = "macos")) || is_set("DISPLAY") || is_set("WAYLAND_DISPLAY");
    has_screen && !is_remote
}

fn is_set(variable: &str) -> bool {
    env::var_os(variable).is_some_and(|value| !value.is_empty())
}

/// Has the desktop open a link; says whether it took it on.
fn open(dirs: &Dirs, link: &str) -> bool {
    let Ok(file) = lead(&dirs.state, link) else { return false };
    let program = if cfg!(windows) {
        "explorer"
    } else if cfg!(target_os = "macos") {
        "open"
    } else {
        "xdg-open"
    };
    let (input, output, errors) = (Stdio::null(), Stdio::null(), Stdio::null());
    Command::new(program).arg(file).stdin(input).stdout(output).stderr(errors).spawn().is_ok()
}

/// Writes the file that leads a browser to a link; nobody else may read it.
fn lead(dir: &Path, link: &str) -> io::Result<PathBuf> {
    fs::create_dir_all(dir)?;
    let path = dir.join(LEADS_THERE);
    // Of mode 0600. A link of ours has no character that means something in HTML.
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    write!(
        file,
        "<!doctype html><meta http-equiv=\"refresh\" content=\"0; url={link}\"><title>Dashboard</title>"
    )?;
    file.persist(&path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dashboard_of_the_service_of_the_system_is_told_with_its_token() {
        let told = of_system();
        assert!(told.contains("journalctl -u lattice-host"), "{told}");
        assert!(told.contains("/var/lib/lattice-host/dashboard.token, which root"), "{told}");
    }

    #[test]
    fn the_file_that_leads_to_the_page_is_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        lead(dir.path(), "http://127.0.0.1:4000/login#old").unwrap();
        let path = lead(dir.path(), "http://127.0.0.1:4000/login#eyJ.x-_.y").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("url=http://127.0.0.1:4000/login#eyJ.x-_.y\"") && !text.contains("old")
        );
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}

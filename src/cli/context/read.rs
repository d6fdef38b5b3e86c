//! From the file of a context to settings, for each of the three kinds.
//!
//! The results are members like those of `host_config.json`, with the lines they stand on, so that
//! one table checks them and complains about the right line. Paths become absolute here, for
//! commands run anywhere; logins inside addresses become settings of their own. Parts of a file
//! that we cannot apply are noted, never dropped in silence.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use super::{
    Kind,
    address::{self, Login},
};
use lattice_base::{
    config::{
        Context, Member, Mistakes, Origin, Problem, read_object,
        settings::{self, Kind as Type},
    },
    trusted::{self, Holds},
};

/// The families of connection settings.
const FAMILIES: [&str; 4] = ["nats", "ctl", "rpc", "prov_rpc"];
/// Members that only a context of `wash` has.
const WASH_ONLY: [&str; 6] = [
    "ctl_credsfile",
    "rpc_credsfile",
    "ctl_timeout",
    "rpc_timeout",
    "ctl_lattice_prefix",
    "rpc_lattice_prefix",
];
/// Members of a context of `nats`, none of which is a setting.
const NATS_ONLY: [&str; 14] = [
    "url",
    "creds",
    "nkey",
    "user",
    "password",
    "token",
    "cert",
    "key",
    "ca",
    "nsc",
    "user_jwt",
    "user_seed",
    "jetstream_domain",
    "inbox_prefix",
];

/// A shorter time in a context of `wash` was meant in seconds.
const MILLISECONDS_MIN: u64 = 50;

/// Reads a context. Without a kind its members tell whose it is.
pub fn context(kind: Option<Kind>, path: &Path, home: Option<&Path>) -> Result<Context, Mistakes> {
    let mut notes = Vec::new();
    let members = read_object(path, "context", &mut notes)?;
    let kind = kind.unwrap_or_else(|| kind_of(&members));
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut made = Made {
        path,
        home,
        members: Vec::new(),
        timeout: None,
        notes,
        mistakes: Mistakes::default(),
    };
    match kind {
        Kind::Host => made.members = members,
        Kind::Wash => made.take_wash(members),
        Kind::Nats => made.take_nats(&members),
    }
    made.finish()
}

/// Tells which program a context with such members belongs to.
fn kind_of(members: &[Member]) -> Kind {
    let has = |keys: &[&str]| members.iter().any(|member| keys.contains(&member.key.as_str()));
    let has_settings = members.iter().any(|member| settings::find(&member.key).is_some());
    match () {
        () if has(&WASH_ONLY) => Kind::Wash,
        () if has(&NATS_ONLY) && !has_settings => Kind::Nats,
        () => Kind::Host,
    }
}

/// Whether this context of `wash` says nothing but what `wash` fills in itself.
pub fn is_untouched(path: &Path) -> Result<bool, Mistakes> {
    Ok(read_object(path, "context", &mut Vec::new())?.iter().all(is_default_of_wash))
}

fn is_default_of_wash(Member { key, value, .. }: &Member) -> bool {
    let is_empty = value.is_null() || value == "";
    is_empty
        || match key.as_str() {
            "name" => true,
            "ctl_host" | "rpc_host" => value == "127.0.0.1",
            "ctl_port" | "rpc_port" => value == 4222,
            "ctl_timeout" | "rpc_timeout" => value == 2000,
            "lattice" | "lattice_prefix" | "ctl_lattice_prefix" | "rpc_lattice_prefix" => {
                value == "default"
            }
            _ => false,
        }
}

/// The member that `wash` does not do without, should one be missing in this context of its.
pub fn missing_for_wash(kind: Kind, path: &Path) -> Result<Option<&'static str>, Mistakes> {
    if kind != Kind::Wash {
        return Ok(None);
    }
    let members = read_object(path, "context", &mut Vec::new())?;
    Ok(["cluster_seed", "ctl_jwt", "ctl_seed", "rpc_jwt", "rpc_seed"]
        .into_iter()
        .find(|key| !members.iter().any(|member| member.key == *key && member.value.is_string())))
}

/// The text of a member; `None` if it says nothing.
fn text(value: &Value) -> Option<&str> {
    value.as_str().map(str::trim).filter(|text| !text.is_empty())
}

/// A context while it is made.
struct Made<'a> {
    path: PathBuf,
    home: Option<&'a Path>,
    members: Vec<Member>,
    timeout: Option<Duration>,
    notes: Vec<String>,
    mistakes: Mistakes,
}

impl Made<'_> {
    fn put(&mut self, key: &str, value: impl Into<Value>, line: usize) {
        self.members.push(Member { key: key.to_owned(), value: value.into(), line });
    }

    fn has(&self, key: &str) -> bool {
        self.members.iter().any(|member| member.key == key && text(&member.value).is_some())
    }

    fn note(&mut self, line: usize, sentence: &str) {
        self.notes.push(format!("{}:{line}: {sentence}", self.path.display()));
    }

    /// Members of `wash` have our names but for a few.
    fn take_wash(&mut self, members: Vec<Member>) {
        for Member { key, value, line } in members {
            match key.as_str() {
                "name" => {}
                "ctl_timeout" => {
                    let time = value.as_u64().filter(|time| *time > 0);
                    self.timeout = time.map(|time| {
                        Duration::from_millis(self.milliseconds("ctl_timeout", time, line))
                    });
                }
                "rpc_timeout" => {
                    let time = value.as_u64().filter(|time| *time > 0);
                    let time = time.map(|time| self.milliseconds("rpc_timeout", time, line));
                    self.put("rpc_timeout_ms", time.map_or(value, Value::from), line);
                }
                "ctl_credsfile" => self.put("ctl_creds", value, line),
                "rpc_credsfile" => self.put("rpc_creds", value, line),
                "lattice" | "ctl_lattice_prefix" => self.put("lattice_prefix", value, line),
                // There is one lattice; the control interface's name counts.
                "rpc_lattice_prefix" => {}
                "ctl_jwt" | "ctl_seed" | "rpc_jwt" | "rpc_seed" => {
                    let content = text(&value).and_then(|text| self.content(text));
                    self.put(&key, content.map_or(value, Value::from), line);
                }
                _ => self.put(&key, value, line),
            }
        }
        // `wash` looks at a credentials file only where there is no JWT.
        for family in ["ctl", "rpc"] {
            if self.has(&format!("{family}_jwt")) {
                self.members.retain(|member| member.key != format!("{family}_creds"));
            }
        }
    }

    /// Times are milliseconds, but were seconds in 2021, and samples of later years still have 2.
    /// No lattice answers within a few milliseconds, so such a number means seconds.
    fn milliseconds(&mut self, key: &str, time: u64, line: usize) -> u64 {
        if time >= MILLISECONDS_MIN {
            return time;
        }
        self.note(
            line,
            &format!(
                "{key} {time} is taken as {time} seconds; it is counted in milliseconds: {}",
                time * 1000
            ),
        );
        time * 1000
    }

    /// Returns the content of the file of this name, if there is one: `wash` accepts a text or a
    /// file for a JWT and a seed.
    fn content(&self, name: &str) -> Option<String> {
        let path = self.absolute(name);
        path.is_file().then(|| secret_file(&path).ok())?.map(|content| content.trim().to_owned())
    }

    /// A context of `nats` is one server, or several, and a login for all connections.
    fn take_nats(&mut self, members: &[Member]) {
        let get = |key: &str| members.iter().find(|member| member.key == key);
        if let Some(member) = get("url") {
            self.take_url(member);
        }
        for (from, to) in [
            ("token", "nats_token"),
            ("creds", "nats_creds"),
            ("user_jwt", "nats_jwt"),
            ("user_seed", "nats_seed"),
            ("cert", "nats_tls_cert"),
            ("key", "nats_tls_key"),
            ("ca", "nats_tls_ca"),
            ("jetstream_domain", "js_domain"),
        ] {
            if let Some(Member { value, line, .. }) = get(from) {
                self.put(to, value.clone(), *line);
            }
        }
        self.take_user(get("user"), get("password"));
        if let Some(member) = get("nkey") {
            self.take_nkey(member);
        }
        if let Some(member) = get("jetstream_api_prefix") {
            self.take_api_prefix(member);
        }
        for (key, why) in [
            ("nsc", "nsc is not asked for the login; `nsc generate creds` writes a file for creds"),
            ("socks_proxy", "socks_proxy has no effect: connections are made without a proxy"),
            (
                "inbox_prefix",
                "inbox_prefix has no effect: answers are awaited on _INBOX, which this user must be allowed",
            ),
        ] {
            if let Some(member) = get(key).filter(|member| text(&member.value).is_some()) {
                self.note(member.line, why);
            }
        }
        if let Some(member) = get("tls_first").filter(|member| member.value == true) {
            self.note(
                member.line,
                "tls_first has no effect: TLS begins after the server's first line",
            );
        }
    }

    /// One server becomes host, port and TLS, so that each can be set otherwise; several stay
    /// together.
    fn take_url(&mut self, Member { value, line, .. }: &Member) {
        let Some(url) = text(value) else { return self.put("nats_host", value.clone(), *line) };
        let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
        let rest = rest.trim_end_matches('/');
        let is_known = ["nats", "tls"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
        if url.contains(',') || !is_known {
            return self.put("nats_host", url, *line);
        }
        let port = rest.rsplit_once(':').filter(|(host, port)| {
            let is_whole = !host.contains(':') || host.ends_with(']') || host.contains('@');
            is_whole && !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
        });
        self.put("nats_host", port.map_or(rest, |(host, _)| host), *line);
        if let Some((_, port)) = port {
            self.put(
                "nats_port",
                port.parse::<u64>().map_or_else(|_| Value::from(port), Value::from),
                *line,
            );
        }
        if scheme.eq_ignore_ascii_case("tls") {
            self.put("nats_tls", true, *line);
        }
    }

    /// A user without a password is a token, as the flag of `nats` has it.
    fn take_user(&mut self, user: Option<&Member>, password: Option<&Member>) {
        let Some(user) = user.filter(|user| text(&user.value).is_some()) else {
            if let Some(password) = password {
                self.put("nats_password", password.value.clone(), password.line);
            }
            return;
        };
        match password.filter(|password| password.value != "") {
            Some(password) => {
                self.put("nats_user", user.value.clone(), user.line);
                self.put("nats_password", password.value.clone(), password.line);
            }
            None => self.put("nats_token", user.value.clone(), user.line),
        }
    }

    /// The seed in the file that `nkey` names.
    fn take_nkey(&mut self, Member { value, line, .. }: &Member) {
        let Some(name) = text(value) else { return };
        let path = self.absolute(name);
        let seed = secret_file(&path).and_then(|content| {
            let seed =
                content.split_whitespace().find(|word| word.starts_with("SU") && word.len() > 50);
            seed.map(str::to_owned).ok_or_else(|| io::Error::other("no user seed is in it"))
        });
        match seed {
            Ok(seed) => self.put("nats_seed", seed, *line),
            Err(error) => {
                let reason = error.to_string();
                let origin = Origin::File { path: self.path.clone(), line: *line };
                let problem = Problem::Unreadable { path, reason };
                self.mistakes.add(
                    "nkey",
                    &origin,
                    problem,
                    "the path of a readable file with a user seed (SU...)",
                );
            }
        }
    }

    /// `$JS.core.API` means the domain `core`.
    fn take_api_prefix(&mut self, Member { value, line, .. }: &Member) {
        let Some(prefix) = text(value) else { return };
        let domain = prefix
            .strip_prefix("$JS.")
            .and_then(|rest| rest.trim_end_matches('.').strip_suffix(".API"));
        match domain {
            Some(domain) if !self.has("js_domain") => self.put("js_domain", domain, *line),
            Some(_) => {}
            None => {
                self.note(*line, "jetstream_api_prefix has no effect: only $JS.DOMAIN.API is known")
            }
        }
    }

    fn finish(mut self) -> Result<Context, Mistakes> {
        for family in FAMILIES {
            self.take_login(family);
        }
        for member in &mut self.members {
            let is_path = settings::find(&member.key)
                .is_some_and(|setting| matches!(setting.kind, Type::Path | Type::File));
            if is_path && let Some(name) = text(&member.value) {
                member.value = absolute(name, &self.path, self.home).display().to_string().into();
            }
        }
        if !self.mistakes.0.is_empty() {
            return Err(self.mistakes);
        }
        let Self { path, members, timeout, notes, .. } = self;
        Ok(Context { path, members, timeout, notes })
    }

    /// Moves a login out of the address of a family.
    fn take_login(&mut self, family: &str) {
        let key = |field: &str| format!("{family}_{field}");
        let host = self.members.iter_mut().find(|member| member.key == key("host"));
        let Some((host, login)) = host.and_then(|host| Some((text(&host.value)?.to_owned(), host)))
        else {
            return;
        };
        if !host.contains('@') {
            return;
        }
        let split = address::split(&host);
        login.value = split.addresses.into();
        let line = login.line;
        if split.differ {
            self.note(line, "the servers have different logins; that of the first is used for all");
        }
        if ["creds", "user", "token", "seed"].iter().any(|field| self.has(&key(field))) {
            return self.note(line, "the login inside the address is not used: another one is set");
        }
        match split.login {
            Some(Login::User { user, password }) => {
                self.put(&key("user"), user, line);
                self.put(&key("password"), password.expose(), line);
            }
            Some(Login::Token(token)) => self.put(&key("token"), token.expose(), line),
            None => {}
        }
    }

    fn absolute(&self, name: &str) -> PathBuf {
        absolute(name, &self.path, self.home)
    }
}

/// A path as the file at `path` means it: from the home, or from where the file is.
fn absolute(name: &str, path: &Path, home: Option<&Path>) -> PathBuf {
    let below_home =
        ["~/", "$HOME/", "${HOME}/"].into_iter().find_map(|start| name.strip_prefix(start));
    match (below_home, home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => path.parent().unwrap_or(Path::new("/")).join(name),
    }
}

/// A file that holds a key.
fn secret_file(path: &Path) -> io::Result<String> {
    trusted::read_regular(path, Holds::Secrets)?.text()
}

//! Which source decides, for each setting.
//!
//! 1. Look every setting up: flags, environment, dotenv files, `host_config.json`, default; the
//!    first that says something wins. `null`, `""` and an empty variable say nothing. An
//!    empty *flag* (`--js-domain ""`) says "default", which is the way to be rid of a value the
//!    file repeats.
//! 2. Let the connection families inherit: `ctl` and `rpc` from `nats`, then `prov_rpc` from `rpc`.
//!
//! Inheriting has one twist. The file holds what an earlier start resolved, so `ctl_host` is in it
//! although nobody ever set it. If it outranked `NATS_HOST`, that variable would work exactly once
//! per directory. Hence a value of the file gives way to a base value that someone asked for
//! in *this* start. The same goes for ways to log in: a JWT left in the file does not collide with
//! a creds file named now, it is dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::file::{self, Member};
use super::labels::Labels;
use super::log_files;
use super::origin::{Mistakes, Origin, Problem};
use super::overruled::{self, Overruled};
use super::secret::Secret;
use super::settings::{self, ENV_FILE, ENV_POLICY_CHANGES_TOPIC_OF, FLAG_FILE, Kind, Setting};
use super::sources::{Layers, Variable};
use super::value::{self, Value};
use crate::trusted::{self, Holds};

/// The four families of connection settings, with the one each falls back to, in the order of
/// inheriting.
const FAMILIES: [(&str, Option<&str>); 4] =
    [("nats", None), ("ctl", Some("nats")), ("rpc", Some("nats")), ("prov_rpc", Some("rpc"))];
/// The ways to log in; members of one way belong together.
const LOGINS: [&[&str]; 4] = [&["jwt", "seed"], &["creds"], &["user", "password"], &["token"]];
/// Settings that are inherited together, because halves of two families make no whole.
const INHERITED: [&[&str]; 6] = [
    &["host"],
    &["port"],
    &["tls"],
    &["tls_ca"],
    &["tls_cert", "tls_key"],
    &["jwt", "seed", "creds", "user", "password", "token"],
];
/// First what cannot do without, then what it needs. A seed alone is a way to log in, a JWT alone
/// is not.
const PARTNERS: [(&str, &str); 5] = [
    ("jwt", "seed"),
    ("user", "password"),
    ("password", "user"),
    ("tls_cert", "tls_key"),
    ("tls_key", "tls_cert"),
];

#[derive(Debug, Clone)]
struct Slot {
    value: Option<Value>,
    origin: Origin,
    /// The name of the file with the value, if `host_config.json` names one.
    named: Option<String>,
}

impl Slot {
    fn new(value: Option<Value>, origin: Origin) -> Self {
        Self { value, origin, named: None }
    }
}

/// Every setting with its effective value and where that came from.
#[derive(Debug, Clone)]
pub struct Resolved {
    slots: BTreeMap<&'static str, Slot>,
    labels: Labels,
    /// Settings of the file that are overruled.
    pub overruled: Vec<Overruled>,
}

/// One line of `config show`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub key: String,
    /// The value as text; secrets are masked, and what is not set is empty.
    pub value: String,
    pub origin: Origin,
}

impl Resolved {
    /// Returns all settings in the order of the table, then the labels as `label.{key}`.
    pub fn rows(&self) -> Vec<Row> {
        let settings = settings::all().map(|setting| {
            let slot = &self.slots[setting.key];
            let value = slot.value.as_ref().map(Value::to_string).unwrap_or_default();
            Row { key: setting.key.to_owned(), value, origin: slot.origin.clone() }
        });
        let labels = self.labels.iter().map(|(key, (value, origin))| Row {
            key: format!("label.{key}"),
            value: value.clone(),
            origin: origin.clone(),
        });
        settings.chain(labels).collect()
    }

    /// Returns the rows as a JSON array of `{"key", "value", "origin"}`.
    pub fn to_json(&self) -> serde_json::Value {
        let row = |row: Row| {
            let origin = row.origin.to_string();
            serde_json::json!({ "key": row.key, "value": row.value, "origin": origin })
        };
        self.rows().into_iter().map(row).collect()
    }

    /// Returns the keys of settings, and of labels as `label.{key}`, that have another value here
    /// than there.
    pub fn differences(&self, there: &Self) -> Vec<String> {
        let settings = self.slots.iter().filter(|(key, slot)| {
            there.slots.get(*key).map(|other| &other.value) != Some(&slot.value)
        });
        let settings = settings.map(|(key, _)| (*key).to_owned());
        let all: BTreeSet<&String> = self.labels.keys().chain(there.labels.keys()).collect();
        let labels = all.into_iter().filter(|key| self.label(key) != there.label(key));
        settings.chain(labels.map(|key| format!("label.{key}"))).collect()
    }

    /// Looks everything up and lets the families inherit. A wrong value is added to the mistakes
    /// and replaced by the default, so that the search for mistakes can go on.
    pub(super) fn new(
        layers: &Layers,
        dir: &Path,
        labels: Labels,
        mistakes: &mut Mistakes,
        warnings: &mut Vec<String>,
    ) -> Self {
        let mut table = Resolved { slots: BTreeMap::new(), labels, overruled: Vec::new() };
        for setting in settings::all() {
            let special = match setting.key {
                // The lattice is the first row of the table, so it is known here.
                "policy_changes_topic" => {
                    let lattice = table.text("lattice_prefix").unwrap_or_default();
                    Some(format!("{ENV_POLICY_CHANGES_TOPIC_OF}{}", lattice.replace('-', "_")))
                }
                _ => None,
            };
            let slot = slot(setting, special.as_deref(), layers, dir, mistakes, warnings);
            table.slots.insert(setting.key, slot);
        }
        for (family, base) in FAMILIES {
            table.drop_stale_logins(family, warnings);
            table.check_partners(family, mistakes);
            table.check_single_login(family, mistakes);
            if let Some(base) = base {
                INHERITED.iter().for_each(|fields| table.inherit(family, base, fields));
            }
        }
        table.check_files(mistakes, warnings);
        table.check_log_files(mistakes);
        let decided = settings::all().filter_map(|setting| {
            let slot = &table.slots[setting.key];
            overruled::find(setting, slot.value.as_ref(), &slot.origin, layers, dir)
        });
        table.overruled = decided.collect();
        table
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(|(value, _)| value.as_str())
    }

    fn slot(&self, family: &str, field: &str) -> &Slot {
        &self.slots[name(family, field).as_str()]
    }

    fn slot_mut(&mut self, family: &str, field: &str) -> &mut Slot {
        let key = name(family, field);
        self.slots.get_mut(key.as_str()).expect("the table has every field of every family")
    }

    fn is_set(&self, family: &str, field: &str) -> bool {
        self.slot(family, field).value.is_some()
    }

    /// Someone asked for it in this start.
    fn is_set_now(&self, family: &str, field: &str) -> bool {
        self.is_set(family, field) && self.slot(family, field).origin.is_above_file()
    }

    fn drop_stale_logins(&mut self, family: &str, warnings: &mut Vec<String>) {
        let set_now = |way: &&&[&str]| way.iter().any(|field| self.is_set_now(family, field));
        let Some(way) = LOGINS.iter().find(set_now) else {
            return;
        };
        for field in LOGINS.iter().filter(|other| *other != way).copied().flatten() {
            let slot = self.slot(family, field);
            if slot.value.is_some() && matches!(slot.origin, Origin::File { .. }) {
                warnings.push(format!(
                    "{} of {} is not used: {family} logs in with {}",
                    name(family, field),
                    slot.origin,
                    way.join(" and "),
                ));
                *self.slot_mut(family, field) = Slot::new(None, Origin::Default);
            }
        }
    }

    fn check_partners(&self, family: &str, mistakes: &mut Mistakes) {
        for (field, partner) in PARTNERS {
            if self.is_set(family, field) && !self.is_set(family, partner) {
                let (key, partner) = (name(family, field), name(family, partner));
                let accepted = format!("{key} and {partner} together");
                let origin = &self.slot(family, field).origin;
                mistakes.add(key, origin, Problem::MissingPartner(partner), accepted);
            }
        }
    }

    fn check_single_login(&self, family: &str, mistakes: &mut Mistakes) {
        let set = |way: &&[&'static str]| -> Vec<&'static str> {
            way.iter().copied().filter(|field| self.is_set(family, field)).collect()
        };
        let ways: Vec<_> = LOGINS.iter().map(set).filter(|fields| !fields.is_empty()).collect();
        let [first, others @ ..] = ways.as_slice() else {
            return;
        };
        let first: Vec<String> = first.iter().map(|field| name(family, field)).collect();
        for field in others.iter().map(|fields| fields[0]) {
            let problem = Problem::Conflict(first.join(" and "));
            let accepted = "one of: jwt with seed, seed alone, creds, user with password, token";
            mistakes.add(name(family, field), &self.slot(family, field).origin, problem, accepted);
        }
    }

    fn inherit(&mut self, family: &str, base: &str, fields: &[&str]) {
        let is_set = fields.iter().any(|field| self.is_set(family, field));
        let set_now = fields.iter().any(|field| self.is_set_now(family, field));
        let base_set_now = fields.iter().any(|field| self.is_set_now(base, field));
        if !is_set || (base_set_now && !set_now) {
            for field in fields {
                *self.slot_mut(family, field) = self.slot(base, field).clone();
            }
        }
    }

    /// Looks at the files that are really going to be used; one mistake for one setting, however
    /// many connections inherit it.
    fn check_files(&self, mistakes: &mut Mistakes, warnings: &mut Vec<String>) {
        let mut seen: Vec<&Slot> = Vec::new();
        for setting in settings::all().filter(|setting| setting.kind == Kind::File) {
            let slot = &self.slots[setting.key];
            let Some(Value::Path(path)) = &slot.value else {
                continue;
            };
            if seen.iter().any(|other| other.origin == slot.origin && other.value == slot.value) {
                continue;
            }
            seen.push(slot);
            let holds =
                if setting.key.ends_with("_creds") { Holds::Secrets } else { Holds::Settings };
            match trusted::check_named(path, holds, slot.origin.file()) {
                Ok(warning) => warnings.extend(warning),
                Err(error) => {
                    let problem =
                        Problem::Unreadable { path: path.clone(), reason: error.to_string() };
                    mistakes.add(
                        setting.key,
                        &slot.origin,
                        problem,
                        value::accepted(&setting.kind),
                    );
                }
            }
        }
    }

    /// Two logs in one file would each rename what the other writes.
    fn check_log_files(&self, mistakes: &mut Mistakes) {
        let (Some(log), Some(audit)) = (self.path("log_file"), self.path("audit_log")) else {
            return;
        };
        if log_files::overlap(&log, &audit) {
            let problem = Problem::SharedFile { path: audit, with: "log_file", other: log };
            let accepted =
                "a file of its own, which is no earlier file of the log either, or stderr";
            mistakes.add("audit_log", &self.slots["audit_log"].origin, problem, accepted);
        }
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.slots.get(key)?.value.as_ref()
    }

    pub(super) fn text(&self, key: &str) -> Option<String> {
        match self.value(key)? {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        }
    }

    /// Returns the logins of connections that `host_config.json` has in files of their own: by the
    /// key of the setting, the name of the file and the secret that was read there.
    pub(super) fn login_files(&self) -> BTreeMap<&'static str, (String, Secret)> {
        let logins = self.slots.iter().filter(|(key, _)| family_of(key).is_some());
        let named = |(key, slot): (&&'static str, &Slot)| match (&slot.named, &slot.value) {
            (Some(name), Some(Value::Secret(secret))) => {
                Some((*key, (name.clone(), secret.clone())))
            }
            _ => None,
        };
        logins.filter_map(named).collect()
    }

    pub(super) fn secret(&self, key: &str) -> Option<Secret> {
        match self.value(key)? {
            Value::Secret(secret) => Some(secret.clone()),
            _ => None,
        }
    }

    /// Returns the number; every integer setting has a default, so there always is one.
    pub(super) fn integer(&self, key: &str) -> u64 {
        match self.value(key) {
            Some(Value::Integer(number)) => *number,
            _ => 0,
        }
    }

    pub(super) fn port(&self, key: &str) -> u16 {
        u16::try_from(self.integer(key)).unwrap_or_default()
    }

    pub(super) fn boolean(&self, key: &str) -> bool {
        matches!(self.value(key), Some(Value::Bool(true)))
    }

    pub(super) fn list(&self, key: &str) -> Vec<String> {
        match self.value(key) {
            Some(Value::List(items)) => items.clone(),
            _ => Vec::new(),
        }
    }

    pub(super) fn path(&self, key: &str) -> Option<PathBuf> {
        match self.value(key)? {
            Value::Path(path) => Some(path.clone()),
            _ => None,
        }
    }

    pub(super) fn labels(&self) -> BTreeMap<String, String> {
        self.labels.iter().map(|(key, (value, _))| (key.clone(), value.clone())).collect()
    }

    /// A CA or a certificate means that TLS is wanted; without this, a server in the middle could
    /// say it has none. A deliberate "no" stands, but the 0 which every start writes to the file is
    /// not deliberate when the certificate was named only now.
    pub(super) fn requires_tls(&self, family: &str) -> bool {
        let slot = self.slot(family, "tls");
        let pem = ["tls_ca", "tls_cert"];
        match (&slot.value, &slot.origin) {
            (Some(Value::Bool(true)), _) => true,
            (_, Origin::Default) => pem.iter().any(|field| self.is_set(family, field)),
            (_, Origin::File { .. }) => pem.iter().any(|field| self.is_set_now(family, field)),
            _ => false,
        }
    }
}

fn name(family: &str, field: &str) -> String {
    format!("{family}_{field}")
}

/// The keys whose values are no longer meant when somebody gives `key` a new one: itself, other
/// ways to log in of its family, and what families that fall back to it said of the same.
pub fn superseded(key: &str) -> Vec<String> {
    let mut keys = vec![key.to_owned()];
    let Some((family, field)) = family_of(key) else { return keys };
    let Some(together) = INHERITED.iter().find(|fields| fields.contains(&field)) else {
        return keys;
    };
    if let Some(way) = LOGINS.iter().find(|way| way.contains(&field)) {
        keys.extend(
            together.iter().filter(|field| !way.contains(field)).map(|field| name(family, field)),
        );
    }
    let mut bases = vec![family];
    for (heir, base) in FAMILIES {
        if base.is_some_and(|base| bases.contains(&base)) {
            bases.push(heir);
            keys.extend(together.iter().map(|field| name(heir, field)));
        }
    }
    keys
}

/// Splits the key of a connection setting into its family and its field. `prov_rpc_host` begins
/// like nothing else, `rpc_host` and `nats_host` do not contain one another.
pub(super) fn family_of(key: &str) -> Option<(&'static str, &str)> {
    let mut families = FAMILIES.iter();
    families.find_map(|(family, _)| Some((*family, key.strip_prefix(family)?.strip_prefix('_')?)))
}

/// The text of a source, before it is parsed as a value.
struct Found {
    text: Result<String, Problem>,
    origin: Origin,
    /// See [`Slot::named`].
    named: Option<String>,
}

impl Found {
    fn new(text: Result<String, Problem>, origin: Origin) -> Self {
        Self { text, origin, named: None }
    }
}

fn slot(
    setting: &Setting,
    special_env: Option<&str>,
    layers: &Layers,
    dir: &Path,
    mistakes: &mut Mistakes,
    warnings: &mut Vec<String>,
) -> Slot {
    let default = || match setting.default {
        "" => None,
        text => value::parse(&setting.kind, text, dir).ok(),
    };
    let Some(Found { text, origin, named }) = find(setting, special_env, layers, dir, warnings)
    else {
        return Slot::new(default(), Origin::Default);
    };
    let parsed = text.and_then(|text| match text.as_str() {
        "" if can_be_cleared(&setting.kind) => Ok(default()),
        text => value::parse(&setting.kind, text, dir).map(Some),
    });
    match parsed {
        Ok(value) => Slot { value, origin, named },
        Err(problem) => {
            mistakes.add(setting.key, &origin, problem, value::accepted(&setting.kind));
            Slot::new(default(), origin)
        }
    }
}

/// An empty number or yes/no is more likely a script's unset variable than a wish.
fn can_be_cleared(kind: &Kind) -> bool {
    !matches!(
        kind,
        Kind::Integer { .. }
            | Kind::Bytes { .. }
            | Kind::BytesOrZero { .. }
            | Kind::Bool
            | Kind::Choice(_)
    )
}

/// Within one source a file with the value comes first: it is the more deliberate form, and each
/// start writes the value itself to `host_config.json`.
fn find(
    setting: &Setting,
    special_env: Option<&str>,
    layers: &Layers,
    dir: &Path,
    warnings: &mut Vec<String>,
) -> Option<Found> {
    let file_key = settings::file_key(setting);
    if let Some(name) = file_key.and_then(|key| layers.flags.get(key)) {
        let origin = Origin::Flag(format!("--{}{FLAG_FILE}", setting.flag));
        return Some(in_file(name, origin, dir, warnings));
    }
    if let Some(text) = layers.flags.get(setting.key) {
        let origin = Origin::Flag(format!("--{}", setting.flag));
        return Some(Found::new(Ok(text.clone()), origin));
    }
    for variables in [&layers.env, &layers.dotenv] {
        let mut files =
            file_key.iter().flat_map(|_| setting.env).map(|name| format!("{name}{ENV_FILE}"));
        if let Some(variable) = files.find_map(|name| variables.get(&name)) {
            return Some(in_file(&variable.value, variable.origin.clone(), dir, warnings));
        }
        let mut names = special_env.into_iter().chain(setting.env.iter().copied());
        if let Some(variable) = names.find_map(|name| variables.get(name)) {
            let text = without_quotes(setting, variable, warnings);
            return Some(Found::new(Ok(text.to_owned()), variable.origin.clone()));
        }
    }
    let is_named = |member: &&Member| Some(&*member.key) == file_key && !member.value.is_null();
    if let Some(member) = layers.file.iter().find(is_named) {
        let origin = Origin::File { path: layers.file_path.clone(), line: member.line };
        return Some(match member.value.as_str() {
            Some(name) => {
                Found { named: Some(name.to_owned()), ..in_file(name, origin, dir, warnings) }
            }
            None => Found::new(Err(file::wrong_type(&member.value)), origin),
        });
    }
    for key in [setting.key].iter().chain(setting.other_keys) {
        let Some(member) = layers.file.iter().find(|member| member.key == *key) else {
            continue;
        };
        let origin = Origin::File { path: layers.file_path.clone(), line: member.line };
        match file::text_of(&setting.kind, &member.value) {
            Ok(None) => continue,
            Ok(Some(text)) => return Some(Found::new(Ok(text), origin)),
            Err(problem) => return Some(Found::new(Err(problem), origin)),
        }
    }
    None
}

/// Reads a value from the file of this name. Editors and `echo` end a file with a line break, which
/// is not part of it. An empty file is a mistake and not "default": what should have filled it has
/// failed, and a made-up cluster seed, or no login, would take the place of the value.
fn in_file(name: &str, origin: Origin, dir: &Path, warnings: &mut Vec<String>) -> Found {
    let path = dir.join(name.trim());
    let read = trusted::read_regular_named(&path, Holds::Secrets, origin.file());
    let text = match read.and_then(|read| {
        warnings.extend(read.warning.clone());
        read.text()
    }) {
        Ok(text) if text.trim().is_empty() => Err(Problem::EmptyFile(path)),
        Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
        Err(error) => Err(Problem::Unreadable { path, reason: error.to_string() }),
    };
    Found::new(text, origin)
}

/// `docker run --env-file` leaves quotes where they are; no value of ours has any around it, but a
/// password may.
fn without_quotes<'a>(
    setting: &Setting,
    variable: &'a Variable,
    warnings: &mut Vec<String>,
) -> &'a str {
    let text = variable.value.as_str();
    let inner = ['"', '\'']
        .into_iter()
        .find_map(|quote| text.trim().strip_prefix(quote)?.strip_suffix(quote));
    let Some(inner) = inner.filter(|_| matches!(variable.origin, Origin::Env(_))) else {
        return text;
    };
    let taken = if setting.kind == Kind::Secret {
        "are taken as part of it"
    } else {
        "are not taken as part of it"
    };
    warnings.push(format!(
        "{}: the quotes around the value {taken}; set it without them",
        variable.origin
    ));
    if setting.kind == Kind::Secret { text } else { inner }
}

//! `host_config.json`: the settings as the last start left them.
//!
//! The host reads the file in its working directory only and writes two copies at each start: that
//! one, and `~/.wash/host_config.json`, which `wash` of 2022 takes as its default context. Because
//! the *effective* settings are written, a cluster seed that was made up once stays with the
//! directory, and copying the file to a second machine is enough to join it to the lattice. The
//! file holds secrets and is readable by its owner only.
//!
//! The key set and the types are those of mid-2022 (0/1 for TLS and IPv6, `""` for no seed, one
//! line, keys in alphabetical order), since `wash` refuses the file unless `cluster_seed`,
//! `ctl_jwt`, `ctl_seed`, `rpc_jwt` and `rpc_seed` are strings. Younger keys appear only where they
//! differ from their default.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::connection::{Auth, Connection};
use super::origin::{Mistakes, Origin, Problem};
use super::resolve::family_of;
use super::secret::Secret;
use super::settings::{self, IGNORED_KEYS, Kind, Setting, Written};
use super::{Config, value};
use crate::trusted::{self, Holds, Trusted};
use lattice_protocol::clock;

/// Name of the file in every place it is written to.
pub const FILE_NAME: &str = "host_config.json";
/// Directory of `wash` in the home directory.
pub const WASH_DIR: &str = ".wash";
/// The beginning of the keys that all connections fall back to.
const NATS: &str = "nats_";
/// Settings that have an effect together only: those that are needed, and others of them.
const TOGETHER: [(&[&str], &[&str]); 2] = [
    (&["oci_registry", "oci_user", "oci_password"], &[]),
    (&["policy_topic"], &["policy_changes_topic", "policy_timeout_ms"]),
];

/// One member of the file.
#[derive(Clone)]
pub struct Member {
    pub key: String,
    pub value: Value,
    pub line: usize,
}

impl fmt::Debug for Member {
    /// Shows no value: it may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Member({} in line {})", self.key, self.line)
    }
}

/// Why a copy of the file was not written. The host runs on.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("there is no home directory, so only the local host_config.json was written")]
    NoHome,
    #[error("create directory {path:?}")]
    CreateDirectory { path: PathBuf, source: io::Error },
    #[error("write {path:?}")]
    Write { path: PathBuf, source: io::Error },
}

/// Reads the members of the file. A missing file has none; what is wrong with the file as a whole
/// is added to the mistakes. A warning tells that others could read secrets in it.
pub(super) fn read(
    path: &Path,
    mistakes: &mut Mistakes,
    warnings: &mut Vec<String>,
) -> Vec<Member> {
    match trusted::read(path, Holds::Secrets) {
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        read => members_of(
            read,
            path,
            FILE_NAME,
            "one JSON object in a readable UTF-8 file, or no file",
            mistakes,
            warnings,
        ),
    }
}

/// Reads the members of another file that holds one JSON object, a context say. It has to be there;
/// `what` is the name of the whole in messages. A warning tells that others could read secrets in
/// it.
pub fn read_object(
    path: &Path,
    what: &str,
    warnings: &mut Vec<String>,
) -> Result<Vec<Member>, Mistakes> {
    let mut mistakes = Mistakes::default();
    let read = trusted::read(path, Holds::Secrets);
    let members = members_of(
        read,
        path,
        what,
        "one JSON object in a readable UTF-8 file",
        &mut mistakes,
        warnings,
    );
    if mistakes.0.is_empty() { Ok(members) } else { Err(mistakes) }
}

/// Whether this is a secret of ours, or one of a context of `nats`.
fn is_secret(member: &Member) -> bool {
    let key = member.key.as_str();
    let is_ours = settings::find(key).is_some_and(|setting| setting.kind.is_secret());
    (is_ours || ["password", "token", "user_seed"].contains(&key))
        && member.value.as_str().is_some_and(|text| !text.is_empty())
}

fn members_of(
    read: io::Result<Trusted>,
    path: &Path,
    what: &str,
    accepted: &str,
    mistakes: &mut Mistakes,
    warnings: &mut Vec<String>,
) -> Vec<Member> {
    let (line, problem) = match read {
        Ok(read) => match parse(&read.bytes) {
            Ok(members) => {
                warnings.extend(read.warning.filter(|_| members.iter().any(is_secret)));
                return members;
            }
            Err((line, column, message)) => (line, Problem::Syntax { line, column, message }),
        },
        Err(error) => (1, Problem::Unreadable { path: path.to_owned(), reason: error.to_string() }),
    };
    let origin = Origin::File { path: path.to_owned(), line };
    mistakes.add(what, &origin, problem, accepted);
    Vec::new()
}

/// Returns the members with their lines, or line, column and message of the first error. Never
/// panics.
fn parse(bytes: &[u8]) -> Result<Vec<Member>, (usize, usize, String)> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        (line_at(&before, before.len()), column, "the file is not UTF-8".to_owned())
    })?;
    // Editors on Windows put a byte order mark in front, which JSON does not know.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let raw: HashMap<String, &RawValue> = serde_json::from_str(text).map_err(|e| position(&e))?;
    let mut members = Vec::with_capacity(raw.len());
    for (key, raw) in raw {
        // The raw value is a piece of `text`, so the distance of the two tells its line.
        let offset = (raw.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
        let line = line_at(text, offset);
        let value = serde_json::from_str(raw.get()).map_err(|error| {
            let (inner_line, column, message) = position(&error);
            (line + inner_line.saturating_sub(1), column, message)
        })?;
        members.push(Member { key, value, line });
    }
    members.sort_by(|a, b| a.line.cmp(&b.line).then_with(|| a.key.cmp(&b.key)));
    Ok(members)
}

fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

/// Takes the position out of the message. Errors about types quote the value, which may be a
/// secret, so those get our own words.
fn position(error: &serde_json::Error) -> (usize, usize, String) {
    let message = if error.is_data() {
        "the file must hold one JSON object".to_owned()
    } else {
        let text = error.to_string();
        text.split(" at line ").next().unwrap_or_default().to_owned()
    };
    (error.line().max(1), error.column(), message)
}

/// Turns a member into the text a flag or variable would carry; `None` means "not set". Files of
/// all eras differ in how they write the same thing (0, `"0"`, `false`), so any form is taken that
/// can be meant.
pub(super) fn text_of(kind: &Kind, value: &Value) -> Result<Option<String>, Problem> {
    let number_fits = matches!(
        kind,
        Kind::Integer { .. } | Kind::Bytes { .. } | Kind::BytesOrZero { .. } | Kind::Bool
    );
    let text = match value {
        Value::Null => return Ok(None),
        Value::String(text) => text.clone(),
        Value::Number(number) if number_fits => number.to_string(),
        Value::Bool(yes) if *kind == Kind::Bool => yes.to_string(),
        Value::Array(items)
            if matches!(
                kind,
                Kind::List
                    | Kind::ClusterKeys
                    | Kind::AccountKeys
                    | Kind::Directories
                    | Kind::InboxPrefixes
            ) =>
        {
            let texts: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
            texts
                .ok_or(Problem::WrongType { found: "an array that holds more than strings" })?
                .join(",")
        }
        other => return Err(wrong_type(other)),
    };
    Ok(Some(text).filter(|text| !text.trim().is_empty()))
}

/// Returns the problem of a member whose type is not that of its setting.
pub(super) fn wrong_type(value: &Value) -> Problem {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    Problem::WrongType { found }
}

/// Returns a warning for each member nobody reads.
pub(super) fn unknown_keys(members: &[Member], path: &Path) -> Vec<String> {
    let is_known = |key: &str| {
        settings::find(key).is_some()
            || settings::of_file_key(key).is_some()
            || IGNORED_KEYS.contains(&key)
    };
    let unknown = |member: &&Member| !is_known(&member.key);
    let warning = |member: &Member| {
        let (path, Member { line, key, .. }) = (path.display(), member);
        let meant = match settings::meant(key) {
            Some(meant) => format!("; did you mean {meant:?}?"),
            None => String::new(),
        };
        format!("{path}:{line}: key {key:?} is unknown and was ignored{meant}")
    };
    members.iter().filter(unknown).map(warning).collect()
}

/// Writes the effective settings to `dir`, to `~/.wash` and to the place named by `host_config`. A
/// failure does not keep the other copies from being written; the results say what to log, in that
/// order.
pub fn write(config: &Config, dir: &Path, home: Option<&Path>) -> Vec<Result<PathBuf, WriteError>> {
    let local = dir.join(FILE_NAME);
    let members = written_members(config, dir);
    let mut local_members = kept_members(&local, &members);
    local_members.extend(login_files(config, &members));
    local_members.extend(members.clone());

    let mut results = vec![replace(&local, &local_members)];
    let wash = home.map(|home| home.join(WASH_DIR));
    results.push(match &wash {
        Some(wash) => {
            create_directory(wash).and_then(|()| replace(&wash.join(FILE_NAME), &members))
        }
        None => Err(WriteError::NoHome),
    });
    if let Some(path) = &config.host_config {
        let done = *path == local || wash.is_some_and(|wash| *path == wash.join(FILE_NAME));
        if !done {
            results.push(replace(path, &members));
        }
    }
    results
}

/// Returns the members of the local file that the rewrite must not lose: what a user put there by
/// hand and we do not write (host seed, logging, names of files with secrets, unknown keys). They
/// stay in that one file and never reach a copy.
fn kept_members(local: &Path, written: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    let members = read(local, &mut Mistakes::default(), &mut Vec::new());
    let mut kept = BTreeMap::new();
    for Member { key, value, .. } in &members {
        let is_kept = match settings::of_file_key(key) {
            // See `login_files` for those of logins.
            Some(setting) => family_of(setting.key).is_none(),
            None => is_kept(key, &members, written),
        };
        if is_kept {
            kept.insert(key.clone(), value.clone());
        }
    }
    kept
}

/// Whether the rewrite keeps a member that names no file with a secret. The `nats_*` keys are not
/// kept: their values live on in `ctl_*` and `rpc_*`, and an edit of them would be without effect.
fn is_kept(key: &str, members: &[Member], written: &BTreeMap<String, Value>) -> bool {
    match settings::find(key) {
        Some(setting) if setting.key.starts_with(NATS) => false,
        Some(setting) => setting.written == Written::Never || waits(setting, members, written),
        None => !IGNORED_KEYS.contains(&key),
    }
}

/// Whether a setting of the file has no effect, and is not written, until others are set, too.
/// Where the file has all of them, somebody has cleared one.
fn waits(setting: &Setting, members: &[Member], written: &BTreeMap<String, Value>) -> bool {
    let has = |key: &str| {
        let named = settings::find(key).and_then(settings::file_key);
        let is_it = |member: &&Member| member.key == key || named == Some(member.key.as_str());
        let mut texts = members.iter().filter(is_it).filter_map(|member| member.value.as_str());
        texts.any(|text| !text.trim().is_empty())
    };
    TOGETHER.iter().any(|(needed, others)| {
        let is_of_these = needed.contains(&setting.key) || others.contains(&setting.key);
        let is_in_effect = needed.iter().all(|key| written.contains_key(*key));
        is_of_these && !is_in_effect && !needed.iter().copied().all(has)
    })
}

/// Returns the names of files with logins that the connections use, under the keys of all that do,
/// as their values are written: so another content of the file counts at the next start. What
/// counts is where the login was read when this start began, whatever the file holds by now; one
/// that is not used any more would stand beside the one that is.
fn login_files(config: &Config, written: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    let is_used = |key: &str, secret: &Secret| {
        written.get(key).and_then(Value::as_str) == Some(secret.expose())
    };
    let used = config.login_files.iter().filter(|(key, (_, secret))| is_used(key, secret));
    let named = used.filter_map(|(key, (name, _))| {
        let key = settings::find(key).and_then(settings::file_key)?;
        Some((key.to_owned(), Value::from(name.as_str())))
    });
    named.collect()
}

fn create_directory(path: &Path) -> Result<(), WriteError> {
    fs::create_dir_all(path)
        .map_err(|source| WriteError::CreateDirectory { path: path.to_owned(), source })
}

/// Replaces the file in one step, so that neither a reader nor a second host ever sees half of it.
fn replace(path: &Path, members: &BTreeMap<String, Value>) -> Result<PathBuf, WriteError> {
    let error = |source| WriteError::Write { path: path.to_owned(), source };
    let content = serde_json::to_vec(members).map_err(|source| error(source.into()))?;
    trusted::replace(path, &content).map_err(error).map(|()| path.to_owned())
}

/// Returns what is written: all of the 2022 key set, the rest where it differs from its default.
fn written_members(config: &Config, dir: &Path) -> BTreeMap<String, Value> {
    let is_written = |key: &str, value: &Value| match settings::find(key) {
        Some(setting) => match setting.written {
            Written::Always => true,
            Written::Never => false,
            Written::WhenChanged => {
                let default = value::parse(&setting.kind, setting.default, dir).ok();
                let text = text_of(&setting.kind, value).ok().flatten();
                text.is_some_and(|text| value::parse(&setting.kind, &text, dir).ok() != default)
            }
        },
        // `cluster_key`: for people and for clients, never read back.
        None => true,
    };
    let mut members = members(config, dir);
    members.retain(|key, value| is_written(key, value));
    members
}

/// Returns every setting that can be written, with the types of 2022.
pub(super) fn members(config: &Config, dir: &Path) -> BTreeMap<String, Value> {
    let policy = config.policy.as_ref();
    let oci = config.oci.as_ref();
    // The default timeout of a policy service nobody uses need not be written.
    let policy_timeout = policy.map(|policy| clock::millis(policy.timeout));
    let Value::Object(fixed) = json!({
        "lattice_prefix": config.lattice,
        "cluster_seed": config.cluster.seed.expose(),
        "cluster_key": config.cluster.public,
        "cluster_issuers": config.cluster.issuers,
        "js_domain": config.js_domain,
        "kv_replicas": config.kv_replicas,
        "kv_max_bytes": config.kv_max_bytes.unwrap_or(0),
        "applications": config.applications.word(),
        "history_hours": config.history.age.as_secs() / 3600,
        "history_max_bytes": config.history.bytes_max.unwrap_or(0),
        "artifacts_max_bytes": config.artifacts_max_bytes.unwrap_or(0),
        "payload_store_max_bytes": config.payload_store_max_bytes.unwrap_or(0),
        "legacy_cache_delete": config.legacy_cache_delete,
        "ctl_topic_prefix": config.ctl_topic_prefix,
        "rpc_timeout_ms": clock::millis(config.rpc_timeout),
        "token_window_secs": config.token_window.as_secs(),
        "provider_delay": clock::millis(config.provider_delay),
        "provider_env": config.provider_env,
        "repeatable_operations": config.repeatable_operations,
        "require_signed_answers": config.require_signed_answers,
        "inbox_prefixes": config.inbox_prefixes,
        "link_paths": config.link_paths,
        "shutdown_timeout_ms": clock::millis(config.shutdown_timeout),
        "enable_ipv6": u8::from(config.ctl.ipv6),
        // A text in 2022; the later host of that family reads the same words.
        "config_service_enabled": if config.config_service { "true" } else { "" },
        "policy_topic": policy.map(|policy| &policy.topic),
        "policy_changes_topic": policy.and_then(|policy| policy.changes_topic.as_ref()),
        "policy_timeout_ms": policy_timeout,
        "shared_code": config.shared_code,
        "allow_latest": config.allow_latest,
        "allowed_insecure": config.allowed_insecure,
        "enable_start_from_fs": config.allow_file_load,
        "allowed_actor_issuers": config.allowed_actor_issuers,
        "allowed_provider_issuers": config.allowed_provider_issuers,
        "allow_external_providers": config.allow_external_providers,
        "oci_registry": oci.map(|oci| &oci.registry),
        "oci_user": oci.map(|oci| &oci.user),
        "oci_password": oci.map(|oci| oci.password.expose()),
        "oci_ca": config.oci_ca.as_deref().map(|path| portable(path, dir)),
        "pull_timeout_ms": clock::millis(config.pull_timeout),
        "oci_token_hosts": config.oci_token_hosts,
        "oci_cache_bytes_max": config.oci_cache_bytes_max,
        "local_calls": config.local_calls,
        "instance_reuse": config.actors.instance_reuse,
        "actor_memory_max_bytes": config.actors.memory_max_bytes,
        "actor_instances_max": config.actors.instances_max.unwrap_or(0),
        "payload_memory_max_bytes": config.actors.payload_memory_max_bytes.unwrap_or(0),
        "call_queue_max": config.actors.queue_max,
    }) else {
        unreachable!("the macro above makes an object");
    };
    let mut members: BTreeMap<String, Value> = fixed.into_iter().collect();
    for (family, connection) in
        [("ctl", &config.ctl), ("rpc", &config.rpc), ("prov_rpc", &config.prov_rpc)]
    {
        connection_members(family, connection, dir, &mut members);
    }
    members
}

fn connection_members(
    family: &str,
    connection: &Connection,
    dir: &Path,
    members: &mut BTreeMap<String, Value>,
) {
    let mut put = |field: &str, value: Value| members.insert(format!("{family}_{field}"), value);
    // One server is written as the plain host and port that old clients expect; several need their
    // URLs.
    let host = match connection.servers.as_slice() {
        [_] => connection.host_text.clone(),
        several => several.join(","),
    };
    put("host", host.into());
    put("port", connection.port.into());
    put("tls", u8::from(connection.tls.required).into());

    let (mut jwt, mut seed) = ("", "");
    let (mut creds, mut user, mut password, mut token) = (None, None, None, None);
    match &connection.auth {
        Auth::Anonymous => {}
        Auth::JwtAndSeed { jwt: the_jwt, seed: the_seed } => {
            (jwt, seed) = (the_jwt.expose(), the_seed.expose())
        }
        Auth::Nkey { seed: the_seed } => seed = the_seed.expose(),
        Auth::Creds(path) => creds = Some(path.as_path()),
        Auth::User { user: name, password: word } => {
            (user, password) = (Some(name.as_str()), Some(word.expose()));
        }
        Auth::Token(text) => token = Some(text.expose()),
    }
    put("jwt", jwt.into());
    put("seed", seed.into());
    put("user", user.into());
    put("password", password.into());
    put("token", token.into());
    let path = |path: Option<&Path>| path.map(|path| portable(path, dir)).into();
    put("creds", path(creds));
    put("tls_ca", path(connection.tls.ca.as_deref()));
    put("tls_cert", path(connection.tls.cert.as_deref()));
    put("tls_key", path(connection.tls.key.as_deref()));
}

/// A file below the working directory is named relative to it, so that a directory copied to
/// another machine works there.
fn portable(path: &Path, dir: &Path) -> String {
    path.strip_prefix(dir).unwrap_or(path).to_string_lossy().into_owned()
}

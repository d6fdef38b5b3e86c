//! New contexts, ours and those of `wash`.
//!
//! Files appear whole or not at all, are readable by their owner only, and replace no other unless
//! that is the point.

use std::{
    io::{self, ErrorKind},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use lattice_base::{
    config::{
        Auth, Config, Connection, Member,
        settings::{self, Kind, Setting},
        superseded,
    },
    trusted,
};
use lattice_protocol::{clock, errors::Usage};

/// How long a client waits for an answer, as `wash` writes it.
const WASH_TIMEOUT_MS: u64 = 2000;

/// The members with what flags say: each replaces what it stands for, and an empty one only takes
/// it away. Relative paths are of `dir`.
pub fn merged(
    mut members: Vec<Member>,
    flags: &[(&'static str, String)],
    dir: &Path,
) -> Vec<Member> {
    for (key, text) in flags {
        let gone = superseded(setting_of(key).map_or(*key, |setting| setting.key));
        members.retain(|member| {
            !setting_of(&member.key)
                .is_some_and(|setting| gone.iter().any(|key| key == setting.key))
        });
        if !text.trim().is_empty() {
            members.push(Member {
                key: (*key).to_owned(),
                value: value_of(key, text, dir),
                line: 1,
            });
        }
    }
    members
}

/// The setting with this key, or the secret whose file has it.
fn setting_of(key: &str) -> Option<&'static Setting> {
    settings::find(key).or_else(|| settings::of_file_key(key))
}

/// The text of a flag in the form that people edit.
fn value_of(key: &str, text: &str, dir: &Path) -> Value {
    let Some(setting) = settings::find(key) else { return text.into() };
    match setting.kind {
        Kind::Integer { .. } => {
            text.trim().parse::<u64>().map_or_else(|_| text.into(), Value::from)
        }
        Kind::Bool => text.trim().parse::<bool>().map_or_else(|_| text.into(), Value::from),
        Kind::List | Kind::ClusterKeys | Kind::AccountKeys | Kind::InboxPrefixes => {
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect()
        }
        _ if setting.kind.names_path(text) => {
            let path = dir.join(text.trim());
            std::path::absolute(&path).unwrap_or(path).display().to_string().into()
        }
        _ => text.into(),
    }
}

/// The content of one of our files.
pub fn host_content(members: &[Member]) -> Result<Vec<u8>> {
    let object: Map<String, Value> =
        members.iter().map(|member| (member.key.clone(), member.value.clone())).collect();
    encoded(&Value::Object(object))
}

fn encoded(value: &Value) -> Result<Vec<u8>> {
    let mut content = serde_json::to_vec_pretty(value).context("encode the context")?;
    content.push(b'\n');
    Ok(content)
}

/// Returns the content of a context as `wash` reads it; `timeout` is how long an answer of the
/// control interface may take. Settings that this form cannot express are an error that names them.
pub fn wash_content(name: &str, config: &Config, timeout: Option<Duration>) -> Result<Vec<u8>> {
    let mut unsaid = Vec::new();
    let ctl = wash_connection("ctl", &config.ctl, &mut unsaid);
    let rpc = wash_connection("rpc", &config.rpc, &mut unsaid);
    if config.ctl_topic_prefix != "wasmbus.ctl" {
        unsaid.push("ctl_topic_prefix".to_owned());
    }
    if !unsaid.is_empty() {
        let unsaid = unsaid.join(", ");
        return Err(Usage(format!(
            "a context of `wash` has no place for {unsaid}; make one of ours, without --directory"
        ))
        .into());
    }
    let cluster_seed = if config.cluster.ad_hoc { "" } else { config.cluster.seed.expose() };
    let mut context = json!({
        "name": name,
        "cluster_seed": cluster_seed,
        "lattice": config.lattice,
        "js_domain": config.js_domain,
        "ctl_timeout": timeout.map_or(WASH_TIMEOUT_MS, clock::millis),
        "rpc_timeout": clock::millis(config.rpc_timeout),
    });
    if let Value::Object(members) = &mut context {
        members.extend(ctl.into_iter().chain(rpc));
    }
    encoded(&context)
}

/// The members of one connection. JWT and seed are texts even where there is none: `wash` refuses
/// the file otherwise.
fn wash_connection(
    family: &str,
    connection: &Connection,
    unsaid: &mut Vec<String>,
) -> Map<String, Value> {
    let key = |field: &str| format!("{family}_{field}");
    let (mut jwt, mut seed, mut creds) = ("", "", None);
    match &connection.auth {
        Auth::Anonymous => {}
        Auth::JwtAndSeed { jwt: the_jwt, seed: the_seed } => {
            (jwt, seed) = (the_jwt.expose(), the_seed.expose())
        }
        Auth::Creds(path) => creds = Some(path.display().to_string()),
        Auth::Nkey { .. } => unsaid.push(format!("{family}_seed without a JWT")),
        Auth::User { .. } => unsaid.push(key("user")),
        Auth::Token(_) => unsaid.push(key("token")),
    }
    let tls = &connection.tls;
    for (field, path) in [("tls_ca", &tls.ca), ("tls_cert", &tls.cert), ("tls_key", &tls.key)] {
        if path.is_some() {
            unsaid.push(key(field));
        }
    }
    if connection.servers.len() > 1 {
        unsaid.push(format!("several servers in {family}_host"));
    }
    // `wash` puts host and port together, so a scheme before the host reaches its NATS client.
    let scheme = if tls.required { "tls://" } else { "" };
    let members = [
        ("host", json!(format!("{scheme}{}", connection.host_text))),
        ("port", json!(connection.port)),
        ("jwt", json!(jwt)),
        ("seed", json!(seed)),
        ("credsfile", json!(creds)),
    ];
    members.map(|(field, value)| (key(field), value)).into_iter().collect()
}

/// Writes a file that must not be there yet.
pub fn create(path: &Path, content: &[u8]) -> Result<()> {
    match in_dir(path).and_then(|()| trusted::create(path, content)) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let path = path.display();
            Err(Usage(format!(
                "there is a context {name} already ({path}). `host ctx edit {name}` changes it, `host ctx del {name}` deletes it"
            ))
            .into())
        }
        created => created.with_context(|| format!("write {}", path.display())),
    }
}

/// Writes a file, over another or not.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    in_dir(path)?;
    trusted::replace(path, content)
}

/// Makes the directory of a file if there is none.
fn in_dir(path: &Path) -> io::Result<()> {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).map_or(Ok(()), trusted::create_dir)
}

//! Files with secrets and certificates, and the login that is in them.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result};
use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;

use super::{Finding, Found, certificate, facts::Facts};
use lattice_base::{
    config::{self, Auth, Config, Connection},
    trusted,
};
use lattice_protocol::identity::operator::parts_of_creds;

/// Certificates and credentials that expire sooner get a warning.
const SOON_SECS: u64 = 7 * 86_400;

/// Checks who can read the files with secrets, and whether certificates are in order.
pub(super) fn files(facts: &Facts) -> Found {
    let mut found = Vec::new();
    let settings = &facts.settings;
    let copies = [
        settings.file.clone(),
        settings.home.as_ref().map(|home| home.join(".wash").join(config::FILE_NAME)),
        settings.config.as_ref().and_then(|config| config.host_config.clone()),
        settings.context.clone(),
    ];
    let copies: BTreeSet<_> = copies.into_iter().flatten().filter(|path| path.exists()).collect();
    let mut looked_at = copies.len();
    for path in &copies {
        let Some(mut open) =
            readable_by_others(path, "the cluster seed in it is that of the lattice")
        else {
            continue;
        };
        // Copies may be of another program, and of another time.
        if settings.file.as_ref() != Some(path) {
            open.verdict = super::Verdict::Warning;
        }
        found.push(open);
    }
    let Some(config) = &settings.config else {
        if found.is_empty() {
            found.push(Finding::ok("the settings are for their owner alone"));
        }
        return Ok(found);
    };
    let mut seen = BTreeSet::new();
    for connection in [&config.ctl, &config.rpc, &config.prov_rpc] {
        if let Auth::Creds(path) = &connection.auth
            && seen.insert(path.clone())
        {
            looked_at += 1;
            found.extend(creds(path));
        }
    }
    for (setting, path, kind) in pem_files(config) {
        if seen.insert(path.to_owned()) {
            looked_at += 1;
            found.extend(match kind {
                Pem::Key => key(&setting, path),
                Pem::Certificates => certificates(&setting, path, facts.now),
            });
        }
    }
    if found.is_empty() {
        found.push(Finding::ok(format!("{looked_at} files are in order")));
    }
    Ok(found)
}

fn readable_by_others(path: &Path, why: &str) -> Option<Finding> {
    let mode = trusted::open_to_others(path)?;
    let seen = format!(
        "{} can be read or changed by other users of this machine (mode {mode:04o}); {why}",
        path.display()
    );
    Some(Finding::wrong(seen, format!("chmod 600 {}", path.display())))
}

fn creds(path: &Path) -> Option<Finding> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            return Some(Finding::wrong(
                format!("the credentials {} cannot be read: {error}", path.display()),
                "let this user read the file, or name another one (ctl_creds, rpc_creds)",
            ));
        }
    };
    if jwt_of(&text).is_none() {
        return Some(Finding::wrong(
            format!("{} holds no NATS user credentials", path.display()),
            "get the file from `nsc generate creds`, or from whoever runs the NATS servers",
        ));
    }
    let warning = readable_by_others(path, "whoever has it can be this user")?;
    Some(Finding { verdict: super::Verdict::Warning, ..warning })
}

/// The content that a PEM file is to have.
#[derive(Clone, Copy)]
enum Pem {
    Certificates,
    Key,
}

fn pem_files(config: &Config) -> Vec<(String, &Path, Pem)> {
    let mut files = Vec::new();
    let families = [("ctl", &config.ctl), ("rpc", &config.rpc), ("prov_rpc", &config.prov_rpc)];
    for (family, Connection { tls, .. }) in families {
        let members = [
            ("ca", &tls.ca, Pem::Certificates),
            ("cert", &tls.cert, Pem::Certificates),
            ("key", &tls.key, Pem::Key),
        ];
        for (field, path, kind) in members {
            files.extend(path.as_deref().map(|path| (format!("{family}_tls_{field}"), path, kind)));
        }
    }
    files.extend(
        config.oci_ca.as_deref().map(|path| ("oci_ca".to_owned(), path, Pem::Certificates)),
    );
    files
}

fn unusable(setting: &str, path: &Path, cause: &anyhow::Error) -> Finding {
    Finding::wrong(
        format!("{} ({setting}) cannot be used: {cause}", path.display()),
        format!("correct {setting}"),
    )
}

fn key(setting: &str, path: &Path) -> Option<Finding> {
    if let Err(cause) = certificate::check_key(path) {
        return Some(unusable(setting, path, &cause));
    }
    let found = readable_by_others(path, "it is a private key")?;
    Some(Finding { verdict: super::Verdict::Warning, ..found })
}

fn certificates(setting: &str, path: &Path, now: u64) -> Option<Finding> {
    let all = match certificate::read(path) {
        Ok(all) => all,
        Err(cause) => return Some(unusable(setting, path, &cause)),
    };
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let soon = i64::try_from(SOON_SECS).unwrap_or(i64::MAX);
    // A bundle of authorities may hold old ones; it is in order while one of them counts.
    let counting = all.iter().filter(|one| one.from <= now && now <= one.until);
    let Some(last) = counting.map(|one| one.until).max() else {
        let ended = all.iter().map(|one| one.until).max().unwrap_or_default();
        let how = match ended < now {
            true => format!("its certificate expired {} ago", days(now - ended)),
            false => "its certificate does not count yet".to_owned(),
        };
        return Some(Finding::wrong(
            format!("{} ({setting}): {how}", path.display()),
            format!("get a new certificate, and name it with {setting}"),
        ));
    };
    (last - now < soon).then(|| {
        Finding::warning(
            format!(
                "{} ({setting}): its certificate expires in {}",
                path.display(),
                days(last - now)
            ),
            "get a new certificate before that",
        )
    })
}

fn days(seconds: i64) -> String {
    match seconds {
        ..7200 => format!("{} minutes", seconds / 60),
        7200..172_800 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Whether the user JWT of each connection still counts.
pub(super) fn credentials(facts: &Facts) -> Found {
    let Some(config) = &facts.settings.config else {
        return Err(Finding::skipped("the settings cannot be used"));
    };
    let mut found: Vec<Finding> = Vec::new();
    let mut words = Vec::new();
    for (family, connection) in
        [("ctl", &config.ctl), ("rpc", &config.rpc), ("prov_rpc", &config.prov_rpc)]
    {
        let (jwt, setting) = match &connection.auth {
            Auth::Creds(path) => {
                let text = fs::read_to_string(path).ok();
                (text.as_deref().and_then(jwt_of), format!("{family}_creds, {}", path.display()))
            }
            Auth::JwtAndSeed { jwt, .. } => {
                (Some(jwt.expose().to_owned()), format!("{family}_jwt"))
            }
            Auth::Anonymous => {
                words.push(format!("{family} without a login"));
                continue;
            }
            Auth::Nkey { .. } | Auth::User { .. } | Auth::Token(_) => {
                words.push(format!("{family} with a login that does not expire"));
                continue;
            }
        };
        // The same file for several connections is one finding.
        match jwt.as_deref().map(|jwt| lifetime(jwt, facts.now)) {
            None => found.push(Finding::skipped(format!("there is no user JWT in {setting} (files)"))),
            Some(Err(cause)) => found.push(Finding::wrong(
                format!("the user JWT of {setting} cannot be read: {cause}"),
                format!("correct {family}_creds or {family}_jwt"),
            )),
            Some(Ok(Lifetime::Over(ago))) => found.push(Finding::wrong(
                format!("the user JWT of {setting} expired {} ago; the server refuses it", days(ago)),
                "make a new one (`nsc edit user --expiry`, `nsc generate creds`) and put it in its place",
            )),
            Some(Ok(Lifetime::Soon(left))) => found.push(Finding::warning(
                format!("the user JWT of {setting} expires in {}", days(left)),
                "make a new one before that and put it in its place; hosts read a creds file when they connect, and \
                 ctl_jwt or rpc_jwt when they start",
            )),
            Some(Ok(Lifetime::Long(text))) => words.push(format!("{family} with a user JWT that {text}")),
        }
    }
    found.dedup_by(|a, b| a.fix == b.fix && same_but_family(&a.seen, &b.seen));
    if found.is_empty() {
        words.dedup();
        found.push(Finding::ok(words.join(", ")));
    }
    Ok(found)
}

fn same_but_family(a: &str, b: &str) -> bool {
    without_family(a) == without_family(b)
}

fn without_family(text: &str) -> String {
    text.replace("prov_rpc_", "").replace("ctl_", "").replace("rpc_", "")
}

enum Lifetime {
    /// For so many seconds.
    Over(i64),
    Soon(i64),
    Long(String),
}

fn lifetime(jwt: &str, now: u64) -> Result<Lifetime> {
    let claims = jwt.split('.').nth(1).context("it is no JWT")?;
    let claims = BASE64URL_NOPAD
        .decode(claims.trim_end_matches('=').as_bytes())
        .context("it is no base64url")?;
    let claims: Value = serde_json::from_slice(&claims).context("its claims are no JSON")?;
    let Some(expires) = claims["exp"].as_u64().filter(|expires| *expires > 0) else {
        return Ok(Lifetime::Long("never expires".into()));
    };
    let (expires, now) =
        (i64::try_from(expires).unwrap_or(i64::MAX), i64::try_from(now).unwrap_or_default());
    Ok(match expires - now {
        left if left < 0 => Lifetime::Over(-left),
        left if left < i64::try_from(SOON_SECS).unwrap_or(i64::MAX) => Lifetime::Soon(left),
        left => Lifetime::Long(format!("expires in {}", days(left))),
    })
}

/// The JWT of a creds file.
fn jwt_of(text: &str) -> Option<String> {
    parts_of_creds(text).0.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(claims: &str) -> String {
        format!("h.{}.s", BASE64URL_NOPAD.encode(claims.as_bytes()))
    }

    #[test]
    fn a_user_jwt_says_how_long_it_counts() {
        assert!(
            matches!(lifetime(&jwt("{}"), 100), Ok(Lifetime::Long(text)) if text.contains("never"))
        );
        assert!(matches!(lifetime(&jwt(r#"{"exp":90}"#), 100), Ok(Lifetime::Over(10))));
        assert!(matches!(lifetime(&jwt(r#"{"exp":160}"#), 100), Ok(Lifetime::Soon(60))));
        assert!(matches!(lifetime(&jwt(r#"{"exp":9999999}"#), 100), Ok(Lifetime::Long(_))));
        for bad in ["", "a", "a.b.c", "a.!.c"] {
            assert!(lifetime(bad, 0).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_jwt_of_a_creds_file_is_found() {
        let creds = "-----BEGIN NATS USER JWT-----\nj.w.t\n------END NATS USER JWT------\n";
        assert_eq!(jwt_of(creds).as_deref(), Some("j.w.t"));
        assert_eq!(jwt_of("-----BEGIN NATS USER JWT-----\n------END NATS USER JWT------"), None);
        assert_eq!(jwt_of("nothing"), None);
    }
}

//! How a registry wants to be logged in to, and whether it gets the login.
//!
//! A registry answers a first request with a challenge: nothing, a password, or a token that
//! another server gives (the *realm*). A registry can name any server as realm, so a login goes
//! only to the registry's own host, to the known realm of a public registry, or to a host that the
//! user allows. Everything here is pure; [`super::http`] asks.

use http_auth::ChallengeRef;
use reqwest::Url;

use super::problem::Problem;

/// Realms of public registries that are on hosts of their own.
const KNOWN_REALMS: [(&str, &str); 2] =
    [("index.docker.io", "auth.docker.io"), ("registry.gitlab.com", "gitlab.com")];

/// The answer to a registry's challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// The registry wants nothing.
    Open,
    /// The registry wants a user and a password with each request.
    Password,
    /// The registry wants a token that this server gives.
    Token { realm: Url, service: Option<String> },
}

/// Whether a request for a token carries the user's login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    Login,
    Nothing,
}

impl Challenge {
    /// Reads the lines of the header `WWW-Authenticate` of an answer; a line may have several
    /// challenges, and one that cannot be read leaves the others. A token is preferred to a
    /// password, as by the tools of all years.
    pub fn read<'h>(lines: impl IntoIterator<Item = &'h str>) -> Result<Self, Problem> {
        let read: Vec<_> = lines.into_iter().map(http_auth::parse_challenges).collect();
        if read.is_empty() {
            return Ok(Self::Open);
        }
        if read.iter().all(Result::is_err) {
            return Err(Problem::Broken("its challenge for a login cannot be read".into()));
        }
        let mut challenges = read.iter().flatten().flatten();
        let Some(bearer) = challenges.find(|c| c.scheme.eq_ignore_ascii_case("bearer")) else {
            return Ok(Self::Password);
        };
        let realm = parameter(bearer, "realm").unwrap_or_default();
        match Url::parse(&realm) {
            Ok(realm) if matches!(realm.scheme(), "http" | "https") && realm.has_host() => {
                Ok(Self::Token { realm, service: parameter(bearer, "service") })
            }
            _ => Err(Problem::Broken("its challenge names no server that gives tokens".into())),
        }
    }
}

fn parameter(challenge: &ChallengeRef<'_>, name: &str) -> Option<String> {
    let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.to_unescaped())
}

/// Refuses a realm that must not be asked. `allowed` are the hosts that the user trusts with
/// logins.
pub fn check_realm(
    realm: &Url,
    registry: &Url,
    carries: Carries,
    allowed: &[String],
) -> Result<(), Problem> {
    let refused = |cause: &'static str| Problem::Realm { realm: authority(realm), cause };
    if registry.scheme() == "https" && realm.scheme() != "https" {
        return Err(refused("it is reached without TLS, and the registry is not"));
    }
    let (host, own) =
        (realm.host_str().unwrap_or_default(), registry.host_str().unwrap_or_default());
    let is_own = host == own || KNOWN_REALMS.contains(&(own, host));
    if is_own || carries == Carries::Nothing {
        return Ok(());
    }
    match allowed.iter().any(|name| name.eq_ignore_ascii_case(host)) {
        true if realm.scheme() == "https" => Ok(()),
        true => {
            Err(refused("it is reached without TLS, and the login would be readable on the way"))
        }
        false => Err(refused(
            "the login is not shown there; if you trust that server, list its host in \
             oci_token_hosts (WASMCLOUD_OCI_TOKEN_HOSTS)",
        )),
    }
}

fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_of_all_registries_are_read() {
        let token = |realm: &str, service: Option<&str>| {
            let (realm, service) = (Url::parse(realm).unwrap(), service.map(str::to_owned));
            Challenge::Token { realm, service }
        };
        for (lines, challenge) in [
            (&[] as &[&str], Challenge::Open),
            (&["Basic realm=\"x\""], Challenge::Password),
            (&["Negotiate"], Challenge::Password),
            (
                &["Bearer realm=\"https://a/token\",service=\"s\",scope=\"x\""],
                token("https://a/token", Some("s")),
            ),
            (&["bearer Realm=\"https://a/t\""], token("https://a/t", None)),
            (&["Basic realm=\"x\", Bearer realm=\"https://a/t\""], token("https://a/t", None)),
            // As some servers write them: a line each.
            (&["Basic realm=\"x\"", "Bearer realm=\"https://a/t\""], token("https://a/t", None)),
            (&["\u{1}", "Bearer realm=\"https://a/t\""], token("https://a/t", None)),
            (&["Negotiate", "Basic realm=\"x\""], Challenge::Password),
        ] {
            assert_eq!(Challenge::read(lines.iter().copied()), Ok(challenge), "{lines:?}");
        }
        for nonsense in
            ["", "Bearer", "Bearer realm=\"file:///etc/passwd\"", "Bearer realm=\"\"", "\u{1}"]
        {
            let read = Challenge::read([nonsense]);
            assert!(matches!(read, Err(Problem::Broken(_))), "{nonsense:?}: {read:?}");
        }
    }

    #[test]
    fn a_login_goes_to_the_registrys_own_host_or_where_the_user_allows() {
        let allowed = vec!["auth.example".to_owned()];
        for (realm, registry, with_login, anonymous) in [
            ("https://r.example/token", "https://r.example/v2/", true, true),
            ("https://r.example:8443/token", "https://r.example:5000/v2/", true, true),
            ("https://auth.docker.io/token", "https://index.docker.io/v2/", true, true),
            ("https://auth.docker.io/token", "https://r.example/v2/", false, true),
            ("https://auth.example/token", "https://r.example/v2/", true, true),
            ("http://auth.example/token", "http://r.example/v2/", false, true),
            ("https://other.example/token", "https://r.example/v2/", false, true),
            ("https://r.example.evil/token", "https://r.example/v2/", false, true),
            ("http://r.example/token", "https://r.example/v2/", false, false),
            ("http://127.0.0.1:7/token", "http://127.0.0.1:5000/v2/", true, true),
            ("http://other.example/token", "http://r.example/v2/", false, true),
        ] {
            let (realm_url, registry_url) =
                (Url::parse(realm).unwrap(), Url::parse(registry).unwrap());
            let check = |carries| check_realm(&realm_url, &registry_url, carries, &allowed).is_ok();
            assert_eq!(check(Carries::Login), with_login, "{realm} of {registry} with a login");
            assert_eq!(check(Carries::Nothing), anonymous, "{realm} of {registry} without");
        }
    }
}

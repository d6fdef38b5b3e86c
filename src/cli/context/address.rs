//! Addresses of NATS servers as people write them, with the login inside:
//! `nats://me:secret@host:4222`.
//!
//! Settings keep the two apart, so that an address can be shown. [`split`] takes them apart.

use lattice_base::config::Secret;
use percent_encoding::percent_decode_str;

/// The login that stood before the `@` of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    User { user: String, password: Secret },
    Token(Secret),
}

/// Addresses without their logins, and the first login of them. Others are dropped; `differ` says
/// that there were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    pub addresses: String,
    pub login: Option<Login>,
    pub differ: bool,
}

/// Takes the logins out of addresses that are separated by commas.
pub fn split(text: &str) -> Split {
    let mut logins: Vec<Login> = Vec::new();
    let mut addresses = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let (scheme, rest) =
            item.split_once("://").map_or((None, item), |(scheme, rest)| (Some(scheme), rest));
        // A password may contain an `@`, a host may not.
        let (login, host) =
            rest.rsplit_once('@').map_or((None, rest), |(login, host)| (Some(login), host));
        logins.extend(login.and_then(read));
        addresses
            .push(scheme.map_or_else(|| host.to_owned(), |scheme| format!("{scheme}://{host}")));
    }
    let differ = logins.iter().any(|login| *login != logins[0]);
    Split { addresses: addresses.join(","), login: logins.into_iter().next(), differ }
}

fn read(text: &str) -> Option<Login> {
    match text.split_once(':') {
        Some((user, password)) if !user.is_empty() => {
            Some(Login::User { user: decoded(user), password: Secret::new(decoded(password)) })
        }
        _ if text.is_empty() => None,
        // One word alone is a token, as NATS clients have it.
        _ => Some(Login::Token(Secret::new(decoded(text)))),
    }
}

/// Reads `%40` as `@`; what is no such code stays as it is.
fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_taken_out_of_an_address() {
        let user = |user: &str, password: &str| {
            Some(Login::User { user: user.into(), password: Secret::new(password) })
        };
        let token = |token: &str| Some(Login::Token(Secret::new(token)));
        for (text, addresses, login) in [
            ("nats://me:secret@host:4222", "nats://host:4222", user("me", "secret")),
            ("me:p%40ss@w@host", "host", user("me", "p@ss@w")),
            ("tls://tok%zen@host", "tls://host", token("tok%zen")),
            ("host:4222, tls://other", "host:4222,tls://other", None),
            ("nats://a:b@one,nats://a:b@two", "nats://one,nats://two", user("a", "b")),
            ("@host", "host", None),
            ("", "", None),
        ] {
            assert_eq!(
                split(text),
                Split { addresses: addresses.into(), login, differ: false },
                "{text}"
            );
        }
        assert!(split("nats://a:b@one,nats://c:d@two").differ);
    }

    #[test]
    fn nothing_shows_a_password() {
        assert!(!format!("{:?}", split("nats://me:secret@host")).contains("secret"));
    }
}

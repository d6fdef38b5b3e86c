//! From names to addresses: those that the link value `resolve` fixes, for all others those the
//! system finds. Either way only addresses come out that the [`Rules`] allow, and the connection is
//! made to one of them.

use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

use super::rules::{Reach, Rules, host_of};
use crate::providers::builtin::{LinkError, values::wrong};

/// Names whose addresses the link knows. A port of 0 is that of the URL's scheme.
#[derive(Debug, Default)]
pub(super) struct Fixed {
    addresses: HashMap<String, Vec<SocketAddr>>,
}

impl Fixed {
    /// Reads items such as `example.org=127.0.0.1:8443`, `example.org=[::1]:8443` or
    /// `example.org=10.0.0.7`. A colon may stand for the first sign: there are tools that cut a
    /// value at its `=`.
    pub(super) fn parse(items: &[String]) -> Result<Self, LinkError> {
        let mut addresses: HashMap<String, Vec<SocketAddr>> = HashMap::new();
        for item in items {
            let (name, address) = item
                .split_once(['=', ':'])
                .and_then(|(name, address)| Some((parse_name(name.trim())?, parse_address(address.trim())?)))
                .ok_or_else(|| {
                    wrong(
                        "resolve",
                        item,
                        "a comma list of name=address or name=address:port, example.org=127.0.0.1:8443",
                    )
                })?;
            addresses.entry(name).or_default().push(address);
        }
        Ok(Self { addresses })
    }

    /// The addresses of a name, if they are fixed.
    pub(super) fn addresses(&self, name: &str) -> Option<&[SocketAddr]> {
        let name = name.strip_suffix('.').unwrap_or(name);
        self.addresses.get(name).map(Vec::as_slice)
    }
}

/// A name as the URL parser writes it. An address would never be looked up.
fn parse_name(text: &str) -> Option<String> {
    let url = Url::parse(&format!("http://{text}/")).ok()?;
    // Anything but a host shows in another part of the URL, and a pattern would match nothing but
    // itself.
    let is_name = url.domain().is_some_and(|name| !name.contains('*'))
        && url.as_str() == format!("http://{}/", url.host_str()?);
    if is_name { host_of(&url) } else { None }
}

fn parse_address(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address);
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, 0))
}

/// Finds the addresses of names and answers only those that the rules allow.
pub(super) struct Resolver {
    pub rules: Arc<Rules>,
    pub fixed: Arc<Fixed>,
    pub reach: Reach,
}

/// A name could not be looked up.
#[derive(Debug)]
pub(super) struct LookupError {
    pub name: String,
    pub cause: io::Error,
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no address of {}: {}", self.name, self.cause)
    }
}

impl std::error::Error for LookupError {}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (rules, reach) = (Arc::clone(&self.rules), self.reach);
        let fixed = self.fixed.addresses(name.as_str()).map(<[SocketAddr]>::to_vec);
        Box::pin(async move {
            let name = name.as_str();
            let found = match fixed {
                Some(fixed) => fixed,
                None => match tokio::net::lookup_host((name, 0)).await {
                    Ok(found) => found.collect(),
                    Err(cause) => return Err(LookupError { name: name.to_owned(), cause }.into()),
                },
            };
            let allowed = rules.filter(name, found, reach)?;
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(items: &[&str]) -> Result<Fixed, LinkError> {
        Fixed::parse(&items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn names_have_one_or_more_addresses_with_or_without_a_port() {
        let fixed = fixed(&[
            "Dog.CEO=127.0.0.1:8443",
            "dog.ceo. = [::1]:1",
            "b=10.0.0.7",
            "c=::1",
            "d=[::1]",
            "e:10.0.0.7:81",
        ])
        .unwrap();
        let of = |name| {
            fixed
                .addresses(name)
                .map(|found| found.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(of("dog.ceo"), Some(vec!["127.0.0.1:8443".into(), "[::1]:1".into()]));
        assert_eq!(of("dog.ceo."), of("dog.ceo"));
        assert_eq!(of("b"), Some(vec!["10.0.0.7:0".into()]));
        assert_eq!(of("e"), Some(vec!["10.0.0.7:81".into()]));
        assert_eq!(
            (of("c"), of("d")),
            (Some(vec!["[::1]:0".into()]), Some(vec!["[::1]:0".into()]))
        );
        assert_eq!(of("www.dog.ceo"), None);
    }

    #[test]
    fn what_is_no_name_or_no_address_is_refused() {
        for bad in [
            "",
            "a",
            "a=",
            "=1.1.1.1",
            "a=b",
            "a=1.1.1.1:99999",
            "a:80=1.1.1.1",
            "a:443:1.1.1.1",
            "u@a=1.1.1.1",
            "a/b=1.1.1.1",
        ] {
            assert!(fixed(&[bad]).is_err(), "{bad:?}");
        }
        for address in [
            "10.0.0.7=1.1.1.1",
            "[::1]=1.1.1.1",
            "0x7f000001=1.1.1.1",
            "*.a=1.1.1.1",
            "a?x=1.1.1.1",
        ] {
            assert!(fixed(&[address]).is_err(), "{address:?}");
        }
    }
}

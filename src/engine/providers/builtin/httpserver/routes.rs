//! Which actor answers a request: by host name, then by the longest path prefix.
//!
//! Pure. Links of one address form a list of [`Entry`]s that is kept by [`super::table`];
//! [`Routes`] is the same list arranged for looking up, made anew at each change and published as a
//! snapshot.
//!
//! A named host is looked at before a wildcard, a longer wildcard before a shorter one, and any
//! host last. Where the paths of one do not match, the next is looked at.

use std::{borrow::Cow, collections::HashMap, fmt, net::Ipv6Addr, sync::Arc};

/// The host names a link answers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    Any,
    Exact(Box<str>),
    /// Names that end so; it begins with a dot.
    Below(Box<str>),
}

impl HostPattern {
    /// Reads `example.org`, `*.example.org` or `*`.
    pub fn parse(text: &str) -> Option<Self> {
        let name = text.trim().trim_end_matches('.').to_ascii_lowercase();
        match name.strip_prefix("*.") {
            _ if name == "*" => Some(Self::Any),
            Some(parent) => is_name(parent).then(|| Self::Below(format!(".{parent}").into())),
            None => (is_name(&name) || is_ipv6(&name)).then(|| Self::Exact(name.into())),
        }
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

fn is_ipv6(text: &str) -> bool {
    text.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(name) => f.write_str(name),
            Self::Below(parent) => write!(f, "*{parent}"),
        }
    }
}

/// A path prefix without its last slash; the empty one matches all paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(Box<str>);

impl Prefix {
    /// Reads `/api`, `/api/` or `/`.
    pub fn parse(text: &str) -> Option<Self> {
        let rooted = text.starts_with('/')
            && !text.contains(['?', '#'])
            && text.bytes().all(|b| b.is_ascii_graphic());
        rooted.then(|| Self(text.trim_end_matches('/').into()))
    }

    /// Says whether a path is below the prefix. `/apis` is not below `/api`.
    pub fn matches(&self, path: &str) -> bool {
        path.strip_prefix(&*self.0)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || self.0.is_empty())
    }

    /// A path that matches, without the prefix.
    pub fn strip<'a>(&self, path: &'a str) -> &'a str {
        match path.strip_prefix(&*self.0) {
            Some("") => "/",
            Some(rest) => rest,
            None => path,
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "/" } else { &self.0 })
    }
}

/// Requests for a host below a path go to `route`.
#[derive(Debug)]
pub struct Entry<R> {
    pub host: HostPattern,
    pub path: Prefix,
    pub route: Arc<R>,
}

impl<R> Clone for Entry<R> {
    fn clone(&self) -> Self {
        Self { host: self.host.clone(), path: self.path.clone(), route: Arc::clone(&self.route) }
    }
}

/// The routes of one address. Immutable.
#[derive(Debug)]
pub struct Routes<R> {
    exact: HashMap<Box<str>, Paths<R>>,
    /// The longest first.
    below: Vec<(Box<str>, Paths<R>)>,
    any: Paths<R>,
}

/// The longest first.
type Paths<R> = Vec<(Prefix, Arc<R>)>;

impl<R> Routes<R> {
    pub fn new(entries: &[Entry<R>]) -> Self {
        let mut routes = Self { exact: HashMap::new(), below: Vec::new(), any: Vec::new() };
        for Entry { host, path, route } in entries {
            let paths = match host {
                HostPattern::Any => &mut routes.any,
                HostPattern::Exact(name) => routes.exact.entry(name.clone()).or_default(),
                HostPattern::Below(parent) => {
                    let known = routes.below.iter().position(|(other, _)| other == parent);
                    let at = known.unwrap_or_else(|| {
                        routes.below.push((parent.clone(), Vec::new()));
                        routes.below.len() - 1
                    });
                    &mut routes.below[at].1
                }
            };
            paths.push((path.clone(), Arc::clone(route)));
        }
        let all = routes.exact.values_mut().chain(routes.below.iter_mut().map(|(_, paths)| paths));
        for paths in all.chain([&mut routes.any]) {
            paths.sort_by_key(|(path, _)| std::cmp::Reverse(path.0.len()));
        }
        routes.below.sort_by_key(|(parent, _)| std::cmp::Reverse(parent.len()));
        routes
    }

    /// Finds the route of a request; `host` as the client wrote it, asked for only if it matters.
    pub fn find<'a>(&self, host: impl FnOnce() -> Option<&'a str>, path: &str) -> Option<&Arc<R>> {
        if !(self.exact.is_empty() && self.below.is_empty())
            && let Some(host) = host().map(bare)
        {
            if let Some(paths) = self.exact.get(&*host)
                && let Some(route) = longest(paths, path)
            {
                return Some(route);
            }
            for (parent, paths) in &self.below {
                if host.len() > parent.len()
                    && host.ends_with(&**parent)
                    && let Some(route) = longest(paths, path)
                {
                    return Some(route);
                }
            }
        }
        longest(&self.any, path)
    }
}

/// Finds the route with the longest prefix of a path.
fn longest<'a, R>(paths: &'a Paths<R>, path: &str) -> Option<&'a Arc<R>> {
    paths.iter().find(|(prefix, _)| prefix.matches(path)).map(|(_, route)| route)
}

/// A host name without port and last dot, in lower case.
fn bare(host: &str) -> Cow<'_, str> {
    let name = match host.rfind(']') {
        Some(end) if host.starts_with('[') => &host[..=end],
        _ => host.split_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.trim_end_matches('.');
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        name.to_ascii_lowercase().into()
    } else {
        name.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(entries: &[(&str, &str)]) -> Routes<String> {
        let entries: Vec<Entry<String>> = entries
            .iter()
            .map(|(host, path)| Entry {
                host: HostPattern::parse(host).unwrap(),
                path: Prefix::parse(path).unwrap(),
                route: Arc::new(format!("{host}{path}")),
            })
            .collect();
        Routes::new(&entries)
    }

    #[test]
    fn the_longest_path_of_the_nearest_host_answers() {
        let routes = routes(&[
            ("*", "/"),
            ("*", "/api"),
            ("example.org", "/api/v2/"),
            ("*.example.org", "/"),
            ("*.deep.example.org", "/x"),
        ]);
        for (host, path, expected) in [
            (None, "/", "*/"),
            (Some("example.org"), "/", "*/"),
            (Some("EXAMPLE.org.:8080"), "/api/v2", "example.org/api/v2/"),
            (Some("example.org"), "/api/v2/x", "example.org/api/v2/"),
            (Some("example.org"), "/api/v22", "*/api"),
            (Some("example.org"), "/apis", "*/"),
            (Some("a.example.org:80"), "/api", "*.example.org/"),
            (Some("a.deep.example.org"), "/x/y", "*.deep.example.org/x"),
            (Some("a.deep.example.org"), "/y", "*.example.org/"),
            (Some("[::1]:8080"), "/api", "*/api"),
            (Some("badexample.org"), "/api/v2", "*/api"),
        ] {
            assert_eq!(**routes.find(|| host, path).unwrap(), expected, "{host:?} {path}");
        }
    }

    #[test]
    fn without_a_match_nobody_answers() {
        let routes = routes(&[("example.org", "/"), ("[::1]", "/six"), ("*", "/api")]);
        assert!(routes.find(|| Some("other.org"), "/").is_none());
        assert!(routes.find(|| None, "/apis").is_none());
        assert!(routes.find(|| None, "*").is_none());
        assert!(routes.find(|| Some("example.org"), "*").is_some());
        assert!(routes.find(|| Some("[::1]:80"), "/six").is_some());
    }

    #[test]
    fn what_is_no_name_and_no_path_is_refused() {
        for bad in ["", "a b", "example.org:80", "http://example.org", "*.*", "a*.org", "[::x]"] {
            assert_eq!(HostPattern::parse(bad), None, "{bad}");
        }
        for bad in ["", "api", "/a?b", "/a b"] {
            assert_eq!(Prefix::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_stripped_path_still_begins_with_a_slash() {
        let prefix = Prefix::parse("/api/").unwrap();
        assert_eq!(
            (prefix.strip("/api"), prefix.strip("/api/x"), prefix.strip("/api/")),
            ("/", "/x", "/")
        );
        assert_eq!(Prefix::parse("/").unwrap().strip("/x"), "/x");
    }
}

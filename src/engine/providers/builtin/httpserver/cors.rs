//! Which web pages of other origins may use an actor (the Fetch standard's CORS protocol).
//!
//! The provider answers preflight requests by itself and adds headers to answers that browsers then
//! show to the page. The defaults are those of the contract's provider: any origin, six methods,
//! four request headers.

use hyper::{
    HeaderMap, Method,
    header::{self, HeaderName, HeaderValue},
    http::request::Parts,
};

use super::super::{LinkError, values::wrong};

const METHODS: &[&str] = &["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"];
const HEADERS: &[&str] = &["accept", "accept-language", "content-type", "content-language"];
const MAX_AGE_SECS: u64 = 300;

/// The rules of one link, as header values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// None is any.
    origins: Option<Vec<Box<str>>>,
    methods: HeaderValue,
    headers: HeaderValue,
    exposed: Option<HeaderValue>,
    max_age: HeaderValue,
}

/// The rules as texts; a missing one has its default.
#[derive(Debug, Default)]
pub struct Rules {
    pub allowed_origins: Option<Vec<String>>,
    pub allowed_headers: Option<Vec<String>>,
    pub allowed_methods: Option<Vec<String>>,
    pub exposed_headers: Option<Vec<String>>,
    pub max_age_secs: Option<u64>,
}

impl Rules {
    /// Checks the rules.
    pub fn build(self) -> Result<Cors, LinkError> {
        let methods = or_default(self.allowed_methods, METHODS);
        let headers = or_default(self.allowed_headers, HEADERS);
        let exposed = self.exposed_headers.filter(|list| !list.is_empty());
        let origins = self
            .allowed_origins
            .filter(|list| !list.is_empty() && !list.iter().any(|origin| origin == "*"));
        Ok(Cors {
            origins: origins
                .map(|list| list.iter().map(|origin| origin_of(origin)).collect())
                .transpose()?,
            methods: line("cors_allowed_methods", &methods, method, "a method")?,
            headers: line("cors_allowed_headers", &headers, header_name, "a header name")?,
            exposed: exposed
                .map(|list| line("cors_exposed_headers", &list, header_name, "a header name"))
                .transpose()?,
            max_age: HeaderValue::from(self.max_age_secs.unwrap_or(MAX_AGE_SECS)),
        })
    }
}

fn or_default(list: Option<Vec<String>>, default: &[&str]) -> Vec<String> {
    list.filter(|list| !list.is_empty())
        .unwrap_or_else(|| default.iter().map(|&text| text.to_owned()).collect())
}

fn method(text: &str) -> Option<String> {
    Method::from_bytes(text.to_ascii_uppercase().as_bytes()).ok().map(|method| method.to_string())
}

fn header_name(text: &str) -> Option<String> {
    match text {
        "*" => Some("*".to_owned()),
        text => HeaderName::from_bytes(text.as_bytes()).ok().map(|name| name.to_string()),
    }
}

fn origin_of(text: &str) -> Result<Box<str>, LinkError> {
    let origin = text.trim().trim_end_matches('/').to_ascii_lowercase();
    let is_origin = origin == "null"
        || origin.split_once("://").is_some_and(|(scheme, host)| {
            !scheme.is_empty()
                && !host.is_empty()
                && !host.contains(['/', '?', '#', '*'])
                && origin.bytes().all(|byte| byte.is_ascii_graphic())
        });
    if is_origin {
        return Ok(origin.into());
    }
    Err(wrong("cors_allowed_origins", text, "an origin such as https://example.org, or *"))
}

/// Joins a list into a header value; `check` reads one item of it.
fn line(
    value: &str,
    list: &[String],
    check: fn(&str) -> Option<String>,
    expected: &str,
) -> Result<HeaderValue, LinkError> {
    let checked: Result<Vec<String>, LinkError> =
        list.iter().map(|item| check(item).ok_or_else(|| wrong(value, item, expected))).collect();
    HeaderValue::from_str(&checked?.join(", "))
        .map_err(|_| wrong(value, &list.join(", "), expected))
}

/// Says whether a browser asks for leave before its real request.
pub fn is_preflight(parts: &Parts) -> bool {
    parts.method == Method::OPTIONS
        && parts.headers.contains_key(header::ORIGIN)
        && parts.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

impl Cors {
    /// The answer to a preflight request; none if the origin may not use the actor. Whether its
    /// method and headers are among those allowed is the browser's check.
    pub fn preflight(&self, origin: Option<&HeaderValue>) -> Option<HeaderMap> {
        let allowed = self.allow(origin?)?;
        let mut headers = HeaderMap::with_capacity(6);
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone());
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, self.headers.clone());
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        if self.origins.is_some() {
            headers.insert(header::VARY, HeaderValue::from_name(header::ORIGIN));
        }
        Some(headers)
    }

    /// Adds to an answer what lets the page of `origin` read it. An actor that answers for itself
    /// is left alone.
    pub fn decorate(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        if headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
            return;
        }
        if self.origins.is_some() {
            // Caches must not give one origin's answer to another, so also to requests without one.
            headers.append(header::VARY, HeaderValue::from_name(header::ORIGIN));
        }
        let Some(allowed) = origin.and_then(|origin| self.allow(origin)) else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        if let Some(exposed) = &self.exposed {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed.clone());
        }
    }

    fn allow(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        match &self.origins {
            None => Some(HeaderValue::from_static("*")),
            Some(list) => {
                let known = list
                    .iter()
                    .any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(origin.as_bytes()));
                known.then(|| origin.clone())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(list: &[&str]) -> Option<Vec<String>> {
        Some(list.iter().map(|&text| text.to_owned()).collect())
    }

    fn get<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
        headers.get(name).map(|value| value.to_str().unwrap())
    }

    const PAGE: HeaderValue = HeaderValue::from_static("https://page.example");

    #[test]
    fn by_default_any_page_may_ask() {
        let cors = Rules::default().build().unwrap();
        let headers = cors.preflight(Some(&PAGE)).unwrap();
        assert_eq!(get(&headers, "access-control-allow-origin"), Some("*"));
        assert_eq!(
            get(&headers, "access-control-allow-methods"),
            Some("GET, POST, PUT, DELETE, HEAD, OPTIONS")
        );
        let allowed = "accept, accept-language, content-type, content-language";
        assert_eq!(get(&headers, "access-control-allow-headers"), Some(allowed));
        assert_eq!(get(&headers, "access-control-max-age"), Some("300"));
        let mut answer = HeaderMap::new();
        cors.decorate(None, &mut answer);
        assert!(answer.is_empty());
    }

    #[test]
    fn only_listed_origins_are_let_in() {
        let rules = Rules {
            allowed_origins: some(&["https://Page.example/"]),
            allowed_methods: some(&["get", "patch"]),
            exposed_headers: some(&["X-Total"]),
            max_age_secs: Some(5),
            ..Rules::default()
        };
        let cors = rules.build().unwrap();
        assert!(cors.preflight(Some(&HeaderValue::from_static("https://other.example"))).is_none());
        let headers = cors.preflight(Some(&PAGE)).unwrap();
        assert_eq!(get(&headers, "access-control-allow-methods"), Some("GET, PATCH"));
        assert_eq!(get(&headers, "access-control-allow-origin"), Some("https://page.example"));
        let mut answer = HeaderMap::new();
        cors.decorate(Some(&PAGE), &mut answer);
        assert_eq!(get(&answer, "access-control-allow-origin"), Some("https://page.example"));
        assert_eq!(get(&answer, "access-control-expose-headers"), Some("x-total"));
        assert_eq!(get(&answer, "vary"), Some("origin"));
        let mut stranger = HeaderMap::new();
        cors.decorate(Some(&HeaderValue::from_static("https://other.example")), &mut stranger);
        assert_eq!(
            (get(&stranger, "access-control-allow-origin"), get(&stranger, "vary")),
            (None, Some("origin"))
        );
    }

    #[test]
    fn an_actor_that_speaks_for_itself_is_left_alone() {
        let mut answer = HeaderMap::new();
        answer.insert(
            header::ACCESS_CONTROL_ALLOW_ORIGIN,
            HeaderValue::from_static("https://mine.example"),
        );
        Rules::default().build().unwrap().decorate(Some(&PAGE), &mut answer);
        assert_eq!(get(&answer, "access-control-allow-origin"), Some("https://mine.example"));
    }

    #[test]
    fn mistakes_are_named() {
        for (rules, expected) in [
            (
                Rules { allowed_origins: some(&["page.example"]), ..Rules::default() },
                "cors_allowed_origins",
            ),
            (Rules { allowed_methods: some(&["G T"]), ..Rules::default() }, "cors_allowed_methods"),
            (Rules { exposed_headers: some(&["x y"]), ..Rules::default() }, "cors_exposed_headers"),
        ] {
            assert!(rules.build().unwrap_err().to_string().contains(expected), "{expected}");
        }
    }
}

//! A request as it goes out, and as a redirect changes it.

use std::collections::BTreeMap;

use bytes::Bytes;
use reqwest::{
    Method, StatusCode, Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};

use super::{
    failure::Failure,
    rules::{Rules, Way, host_of},
};
use lattice_protocol::{
    contracts::{
        httpclient::{HeaderValues, HttpRequest},
        httpserver,
    },
    rpc::invocation::TraceContext,
};

/// Headers that belong to a connection, which is ours, or that follow from the body.
const OURS: [HeaderName; 9] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];
/// One more of them, which has no constant.
const PROXY_CONNECTION: &str = "proxy-connection";
/// Headers for one server, which another one must not see after a redirect.
const OF_ONE_ORIGIN: [HeaderName; 3] = [header::AUTHORIZATION, header::COOKIE, header::HOST];
/// Headers that describe a body, and go with it.
const OF_THE_BODY: [HeaderName; 4] = [
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LOCATION,
];

/// A request to one URL.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The length that the actor says a body has.
    announced: Option<u64>,
    /// The trace of the call that asks for it.
    pub trace: TraceContext,
}

impl Outgoing {
    /// Makes a request of what the actor asks for.
    pub(super) fn new(request: HttpRequest) -> Result<Self, Failure> {
        let method = method(&request.method)?;
        let url = Url::parse(&request.url).map_err(|e| {
            Failure::Request(format!(
                "the URL cannot be read: {e}; it begins with http:// or https:// and names a host"
            ))
        })?;
        let body = request.body.0;
        let announced = announced(&request.headers);
        let mut headers = headers(request.headers)?;
        if headers
            .get(header::HOST)
            .is_some_and(|host| host.as_bytes() == authority(&url).as_bytes())
        {
            // It is set from the URL, and in HTTP/2 it has another name.
            headers.remove(header::HOST);
        }
        if body.is_empty() && [Method::POST, Method::PUT, Method::PATCH].contains(&method) {
            // Servers ask for a length where a body is usual, even if there is none.
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        Ok(Self { method, url, headers, body, announced, trace: TraceContext::default() })
    }

    /// Says of a body that still comes what the actor says of its length.
    pub(super) fn announce(&mut self) {
        self.headers.remove(header::CONTENT_LENGTH);
        if let Some(length) = self.announced {
            self.headers.insert(header::CONTENT_LENGTH, length.into());
        }
    }

    /// Checks that a `host` header of the actor's names no host that the link does not allow; its
    /// name may be another one than the URL's, since one server can have many.
    pub(super) fn check_host_header(&self, rules: &Rules) -> Result<(), Failure> {
        for value in self.headers.get_all(header::HOST) {
            let named = httpserver::authority(value.as_bytes())
                .and_then(|host| Url::parse(&format!("{}://{host}/", self.url.scheme())).ok());
            let named =
                named.ok_or_else(|| Failure::Request("the header host is no host".into()))?;
            // Some proxies go by the header and not by the URL.
            rules.check(&named, Way::Proxy)?;
        }
        Ok(())
    }

    /// The request that a redirect asks for; `None` if the answer is no redirect to follow.
    pub(super) fn redirected(&self, status: StatusCode, headers: &HeaderMap) -> Option<Self> {
        let becomes_get = match status {
            StatusCode::SEE_OTHER => self.method != Method::HEAD,
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => self.method == Method::POST,
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => false,
            _ => return None,
        };
        let location = headers.get(header::LOCATION)?;
        let mut next = Self {
            url: self.url.join(str::from_utf8(location.as_bytes()).ok()?).ok()?,
            ..self.clone()
        };
        if becomes_get {
            next.method = Method::GET;
            next.body = Bytes::new();
            next.headers.remove(header::CONTENT_LENGTH);
            OF_THE_BODY.iter().for_each(|name| drop(next.headers.remove(name)));
        }
        if origin(&next.url) != origin(&self.url) {
            OF_ONE_ORIGIN.iter().for_each(|name| drop(next.headers.remove(name)));
        }
        Some(next)
    }
}

/// The length of a body by the actor's headers.
fn announced(headers: &BTreeMap<String, HeaderValues>) -> Option<u64> {
    let mut named = headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    match named.next()?.1.0.as_slice() {
        [length] => length.parse().ok(),
        _ => None,
    }
}

/// A method: any token, but `CONNECT` asks for a tunnel and not for a response. The usual ones are
/// also known in lower case.
fn method(text: &str) -> Result<Method, Failure> {
    const USUAL: [Method; 8] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::OPTIONS,
        Method::PATCH,
        Method::TRACE,
    ];
    if let Some(method) =
        USUAL.into_iter().find(|method| method.as_str().eq_ignore_ascii_case(text))
    {
        return Ok(method);
    }
    match Method::from_bytes(text.as_bytes()) {
        Ok(method) if !text.eq_ignore_ascii_case("CONNECT") => Ok(method),
        Ok(_) => Err(Failure::Request(
            "the method CONNECT opens a tunnel, which the contract has no room for".into(),
        )),
        Err(_) => Err(Failure::Request(format!(
            "the method {text:?} is none; use GET, POST or another token"
        ))),
    }
}

fn headers(named: BTreeMap<String, HeaderValues>) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    for (text, values) in named {
        let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| {
            Failure::Request(format!(
                "the header name {text:?} has characters that headers cannot have"
            ))
        })?;
        if OURS.contains(&name) || name == PROXY_CONNECTION {
            continue;
        }
        // Guests of TinyGo begin their lists with empty texts; a header whose only value is empty
        // is meant so.
        let has_text = values.0.iter().any(|value| !value.is_empty());
        for value in values.0.into_iter().filter(|value| !(has_text && value.is_empty())) {
            // The value is not repeated: it may be a secret.
            let value = HeaderValue::from_str(&value).map_err(|_| {
                Failure::Request(format!(
                    "a value of header {name} has characters that headers cannot have"
                ))
            })?;
            headers.append(&name, value);
        }
    }
    Ok(headers)
}

/// The server that a URL is of.
fn origin(url: &Url) -> (&str, Option<String>, Option<u16>) {
    (url.scheme(), host_of(url), url.port_or_known_default())
}

fn authority(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}{port}", url.host_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::{bounds::OwnSockets, builtin::httpclient::rules::HostPattern};

    fn outgoing(
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: &'static str,
    ) -> Result<Outgoing, Failure> {
        let headers = headers
            .iter()
            .map(|(name, value)| ((*name).into(), HeaderValues(vec![(*value).into()])))
            .collect();
        Outgoing::new(HttpRequest {
            method: method.into(),
            url: url.into(),
            headers,
            body: body.into(),
        })
    }

    fn redirect(from: &Outgoing, status: u16, to: &str) -> Option<Outgoing> {
        let headers =
            HeaderMap::from_iter([(header::LOCATION, HeaderValue::from_str(to).unwrap())]);
        from.redirected(StatusCode::from_u16(status).unwrap(), &headers)
    }

    #[test]
    fn headers_of_the_connection_are_ours_and_all_others_are_kept() {
        let headers = [
            ("Connection", "x"),
            ("transfer-encoding", "chunked"),
            ("content-length", "9"),
            ("Proxy-Connection", "x"),
        ];
        let request = outgoing("get", "http://a:81/", &headers, "").unwrap();
        assert!(request.headers.is_empty() && request.method == Method::GET);
        let request =
            outgoing("POST", "http://a:81/", &[("host", "a:81"), ("x-y", "ü")], "").unwrap();
        assert_eq!(request.headers.len(), 2, "{:?}", request.headers);
        assert_eq!(request.headers[header::CONTENT_LENGTH], "0");
        assert_eq!(
            outgoing("PURGE", "http://a/", &[("host", "b")], "").unwrap().headers[header::HOST],
            "b"
        );
    }

    #[test]
    fn empty_values_before_others_are_left_out() {
        let named = |values: &[&str]| {
            let values = HeaderValues(values.iter().map(|&value| value.to_owned()).collect());
            let all = headers(BTreeMap::from([("x".to_owned(), values)])).unwrap();
            all.get_all("x")
                .iter()
                .map(|value| value.to_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(named(&["", "", "a", "b"]), ["a", "b"]);
        assert_eq!(named(&[""]), [""]);
    }

    #[test]
    fn what_is_no_request_is_named() {
        for (method, url, header, expected) in [
            ("", "http://a/", ("a", "b"), "method"),
            ("G T", "http://a/", ("a", "b"), "method"),
            ("CONNECT", "http://a/", ("a", "b"), "tunnel"),
            ("GET", "/path", ("a", "b"), "http://"),
            ("GET", "http://", ("a", "b"), "URL"),
            ("GET", "http://a/", ("a b", "b"), "a b"),
            ("GET", "http://a/", ("a", "line\r\nbreak"), "header a"),
        ] {
            let error = outgoing(method, url, &[header], "").unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn redirects_change_the_method_as_browsers_do_and_keep_secrets_at_home() {
        let headers = [("authorization", "secret"), ("content-type", "a/b"), ("x", "y")];
        let post = outgoing("POST", "http://a/one?q", &headers, "body").unwrap();
        let same = redirect(&post, 307, "../two").unwrap();
        assert_eq!(
            (same.method.as_str(), same.url.as_str(), &same.body[..]),
            ("POST", "http://a/two", &b"body"[..])
        );
        assert_eq!(same.headers, post.headers);

        let away = redirect(&post, 302, "//b/two").unwrap();
        assert_eq!(
            (away.method.as_str(), away.url.as_str(), &away.body[..]),
            ("GET", "http://b/two", &b""[..])
        );
        assert_eq!(away.headers.keys().collect::<Vec<_>>(), ["x"]);
        assert!(
            redirect(&post, 308, "http://a:81/").unwrap().headers.get("authorization").is_none()
        );
        assert!(redirect(&post, 308, "https://a/").unwrap().headers.get("authorization").is_none());

        assert_eq!(
            redirect(&outgoing("PUT", "http://a/", &[], "x").unwrap(), 301, "/").unwrap().method,
            Method::PUT
        );
        assert_eq!(
            redirect(&outgoing("HEAD", "http://a/", &[], "").unwrap(), 303, "/").unwrap().method,
            Method::HEAD
        );
        assert!(redirect(&post, 304, "/").is_none() && redirect(&post, 302, "http://").is_none());
    }

    #[test]
    fn a_host_header_names_no_host_that_is_not_allowed() {
        let hosts =
            Some(vec![HostPattern::parse("a").unwrap(), HostPattern::parse("b:81").unwrap()]);
        let rules = Rules {
            hosts,
            allow_link_local: false,
            allow_loopback: false,
            allow_private: true,
            own: OwnSockets::default(),
        };
        let check = |host| {
            outgoing("GET", "http://a/", &[("host", host)], "").unwrap().check_host_header(&rules)
        };
        assert!(check("a:8080").is_ok() && check("b:81").is_ok());
        for host in ["c", "b", "a@c", "", "a/@c", "a?c", "c@a", "a:80/c"] {
            assert!(check(host).is_err(), "{host:?}");
        }
        let rules = Rules { hosts: None, ..rules };
        let check = |host| {
            outgoing("GET", "http://a/", &[("host", host)], "").unwrap().check_host_header(&rules)
        };
        assert!(check("b").is_ok() && check("169.254.169.254").is_err());
    }
}

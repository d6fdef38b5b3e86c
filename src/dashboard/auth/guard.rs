//! The guard of the dashboard: lets a request pass, or answers it with a refusal.
//!
//! It refuses, in this order:
//!
//! * wrong tokens. A caller that shows the right one as bearer, or a session, comes in.
//! * names that are not the dashboard's, in the `Host` header: a page elsewhere whose name was
//!   pointed at this machine (DNS rebinding) is stopped by its name. Addresses cannot be rebound,
//!   and `localhost` is ours.
//! * requests that a page of another origin makes, by `Origin` and `Sec-Fetch-Site`.
//! * everything but reading, without a login. Reading needs one too ([`Reading::Closed`]) where the
//!   dashboard listens on more than loopback, and where the settings have a token.
//!
//! The files of the page, the login and the health checks are open to everybody. Every answer, also
//! a refusal, says what browsers may do with it.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri,
        header::{self, CONTENT_SECURITY_POLICY, HOST, ORIGIN},
        uri::Authority,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::time::timeout;

use super::{Access, Auth, LoginError, Reading, refuse_login};
use crate::{
    Dashboard,
    listen::{Caller, Crowd},
    refusal::Refusal,
};
use lattice_client::origin;

/// Requests that take as long as they take, with deadlines of their own.
const NO_DEADLINE: [&str; 3] = ["/api/v1/stream", "/api/v1/uploads", "/api/v1/call"];
/// How long another request of the API may take.
const DEADLINE: Duration = Duration::from_secs(15);

/// Answered to everybody, for those who watch over this process.
const HEALTH: [&str; 4] = ["/healthz", "/readyz", "/api/livez", "/api/readyz"];
const METRICS: &str = "/metrics";
const SESSION: &str = "/api/v1/session";
pub(crate) const API: &str = "/api/";

/// No script, style or request that is not the dashboard's own, and no text that becomes script.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
    manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
    trusted-types 'none'";

/// Passes a request on, or answers it with a refusal; and says of every answer what browsers may do
/// with it.
pub async fn pass(
    State(dashboard): State<Dashboard>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = request.extensions().get::<Caller>().cloned();
    // A caller that nobody named is not on this machine.
    let address = caller.as_ref().map_or(Ipv6Addr::UNSPECIFIED.into(), Caller::ip);
    let is_api = request.uri().path().starts_with(API);
    let path = request.uri().path();
    let needs_place = (is_api || path == METRICS) && !HEALTH.contains(&path);
    let mut admitted =
        dashboard.auth().admit(address, request.method(), request.uri(), request.headers());
    if let Some(caller) = caller.filter(|_| needs_place)
        // Also those who are refused take a place: they ask the API, and an answer is owed to them.
        && let Err(crowd) = caller.settle(*admitted.as_ref().unwrap_or(&Access::Reader))
    {
        admitted = Err(crowded(crowd));
    }
    let has_its_own = NO_DEADLINE.contains(&request.uri().path());
    if let Ok(access) = &admitted {
        request.extensions_mut().insert(*access);
    }
    let origin = dashboard.auth().origin(address, request.headers());
    let next = |request| origin::scope(origin, next.run(request));
    let mut response = match admitted {
        Ok(_) if is_api && !has_its_own => match timeout(DEADLINE, next(request)).await {
            Ok(response) => response,
            Err(_) => {
                let text =
                    format!("no answer within {} s; is the NATS server away?", DEADLINE.as_secs());
                Refusal::new(StatusCode::GATEWAY_TIMEOUT, text).into_response()
            }
        },
        Ok(_) => next(request).await,
        Err(refusal) => *refusal,
    };
    harden(response.headers_mut());
    if is_api {
        response
            .headers_mut()
            .entry(header::CACHE_CONTROL)
            .or_insert(HeaderValue::from_static("no-store"));
    }
    response
}

impl Auth {
    /// Whether this is what the dashboard is called.
    fn is_allowed_host(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        let name =
            authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        name.parse::<IpAddr>().is_ok()
            || name == "localhost"
            || name.ends_with(".localhost")
            || self.names.iter().any(|known| known == name)
    }

    /// Whether nothing says that another page makes this request.
    fn is_own_page(&self, host: &str, headers: &HeaderMap) -> bool {
        let site = text_of(headers, &HeaderName::from_static("sec-fetch-site"));
        if site.is_some_and(|site| !matches!(site, "same-origin" | "none")) {
            return false;
        }
        let Some(origin) = text_of(headers, &ORIGIN) else { return true };
        // Behind a proxy the scheme may be another one; and the name, where the proxy does not pass
        // it on.
        let name = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        name.is_some_and(|name| {
            let bare = name.split(':').next().unwrap_or_default().to_ascii_lowercase();
            name == host || self.names.contains(&bare)
        })
    }

    fn admit(
        &self,
        caller: IpAddr,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Access, Box<Response>> {
        let path = uri.path();
        let access = self.access(caller, headers);
        if HEALTH.contains(&path) {
            return Ok(access.unwrap_or(Access::Reader));
        }
        match access {
            // A caller that logs out need not be logged in any more.
            Err(LoginError::Over) if path == SESSION => {}
            Err(error) => return Err(refuse_login(error).into()),
            // A page of another origin knows neither token nor session, so whoever shows one is no
            // such page.
            Ok(Access::Operator) => return Ok(Access::Operator),
            Ok(Access::Reader) => {}
        }
        let host = self.host(uri, headers)?;
        let is_reading = matches!(*method, Method::GET | Method::HEAD);
        let is_page = is_reading && !path.starts_with(API) && path != METRICS;
        if !is_page && !self.is_own_page(&host, headers) {
            let text =
                "the request comes from a page of another origin, which may not use this dashboard";
            return Err(Refusal::new(StatusCode::FORBIDDEN, text).into_response().into());
        }
        let is_open = self.reading == Reading::Open && caller.to_canonical().is_loopback();
        if is_page || path == SESSION || (is_reading && is_open) {
            return Ok(Access::Reader);
        }
        let text = match is_open {
            true => {
                "log in to change something: `host dashboard` prints a link that does it; programs send the token as bearer, \
                 authorization: Bearer TOKEN"
            }
            false => "log in at /login, or send the token: authorization: Bearer TOKEN",
        };
        let mut refusal = Refusal::new(StatusCode::UNAUTHORIZED, text).into_response();
        refusal.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        Err(refusal.into())
    }

    /// For which host a request is, if that is this dashboard, said once.
    fn host(&self, uri: &Uri, headers: &HeaderMap) -> Result<String, Box<Response>> {
        let mut given = headers.get_all(HOST).iter();
        let host = given.next().and_then(|host| host.to_str().ok()).unwrap_or_default();
        if given.next().is_some() {
            let text = "a request has exactly one host";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, text).into_response().into());
        }
        // The target of a request to a proxy names a host as well.
        let target = uri.authority().map(Authority::as_str);
        for host in [Some(host), target].into_iter().flatten() {
            if !self.is_allowed_host(host) {
                let name = host.split(':').next().unwrap_or_default();
                let text = format!(
                    "this dashboard is not called {host:?}; open it by its address or as localhost, or start the host with \
                     --dashboard-names {name}"
                );
                return Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, text)
                    .into_response()
                    .into());
            }
        }
        Ok(host.to_owned())
    }
}

/// The text of a header; a question mark stands for what is no text.
fn text_of<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("?"))
}

/// The answer to whoever finds no place.
fn crowded(crowd: Crowd) -> Box<Response> {
    let mut response =
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, crowd.to_string()).into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response.headers_mut().insert(header::RETRY_AFTER, 1.into());
    response.into()
}

/// Says what browsers may do with an answer.
fn harden(headers: &mut HeaderMap) {
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{
        Proof,
        tests::{CALLER, KEPT, TOKEN, auth, headers},
    };

    const HOST: (&str, &str) = ("host", "localhost:4000");

    fn admitted(
        auth: &Auth,
        caller: IpAddr,
        method: Method,
        path: &str,
        headers: &HeaderMap,
    ) -> StatusCode {
        let uri = path.parse().unwrap();
        auth.admit(caller, &method, &uri, headers)
            .map_or_else(|refusal| refusal.status(), |_| StatusCode::OK)
    }

    fn status(
        auth: &Auth,
        method: Method,
        path: &str,
        pairs: &[(&'static str, &str)],
    ) -> StatusCode {
        admitted(auth, CALLER, method, path, &headers(pairs))
    }

    #[test]
    fn names_that_could_be_pointed_here_are_refused() {
        let auth = auth(None);
        for ours in [
            "127.0.0.1:4000",
            "localhost:4000",
            "[::1]:4000",
            "10.0.0.7",
            "box.example",
            "BOX.example.:80",
        ] {
            assert_eq!(
                status(&auth, Method::GET, "/", &[("host", ours)]),
                StatusCode::OK,
                "{ours}"
            );
        }
        for other in
            ["evil.example:4000", "localhost.evil.example", "", "a b", "127.0.0.1.evil.example"]
        {
            for path in ["/", "/api/v1/hosts", "/metrics", "/login"] {
                let refused = status(&auth, Method::GET, path, &[("host", other)]);
                assert_eq!(refused, StatusCode::MISDIRECTED_REQUEST, "{other} {path}");
            }
        }
        assert_eq!(
            status(&auth, Method::GET, "/readyz", &[("host", "evil.example")]),
            StatusCode::OK
        );
    }

    #[test]
    fn a_request_names_one_host_and_that_is_this_one() {
        let auth = auth(None);
        let twice = [HOST, ("host", "localhost:4000")];
        let mut both = HeaderMap::new();
        for (name, value) in twice {
            both.append(name, value.parse().unwrap());
        }
        assert_eq!(admitted(&auth, CALLER, Method::GET, "/", &both), StatusCode::BAD_REQUEST);
        for (target, expected) in [
            ("http://evil.example/api/v1/hosts", StatusCode::MISDIRECTED_REQUEST),
            ("http://localhost:4000/api/v1/hosts", StatusCode::OK),
        ] {
            assert_eq!(status(&auth, Method::GET, target, &[HOST]), expected, "{target}");
        }
    }

    #[test]
    fn pages_of_other_origins_change_and_read_nothing() {
        let auth = auth(None);
        let all: [&[(&str, &str)]; 5] = [
            &[HOST, ("origin", "http://evil.example")],
            &[HOST, ("origin", "http://localhost:3000")],
            &[HOST, ("origin", "null")],
            &[HOST, ("sec-fetch-site", "cross-site")],
            &[HOST, ("sec-fetch-site", "same-site")],
        ];
        for pairs in all {
            for (method, path) in [
                (Method::POST, "/api/v1/actors"),
                (Method::POST, "/api/v1/session"),
                (Method::OPTIONS, "/api/v1/actors"),
                (Method::GET, "/api/v1/links"),
                (Method::GET, "/metrics"),
            ] {
                assert_eq!(
                    status(&auth, method, path, pairs),
                    StatusCode::FORBIDDEN,
                    "{path} {pairs:?}"
                );
            }
        }
        for origin in ["http://localhost:4000", "https://localhost:4000", "https://box.example"] {
            let own = [HOST, ("origin", origin), ("sec-fetch-site", "same-origin")];
            assert_eq!(status(&auth, Method::GET, "/api/v1/actors", &own), StatusCode::OK);
        }
        // Following a link is no harm.
        assert_eq!(
            status(&auth, Method::GET, "/hosts", &[HOST, ("sec-fetch-site", "cross-site")]),
            StatusCode::OK
        );
    }

    #[test]
    fn without_a_login_loopback_reads_and_changes_nothing() {
        let auth = auth(None);
        let uri = "/api/v1/links".parse().unwrap();
        assert_eq!(
            auth.admit(CALLER, &Method::GET, &uri, &headers(&[HOST])).ok(),
            Some(Access::Reader)
        );
        assert_eq!(status(&auth, Method::GET, "/metrics", &[HOST]), StatusCode::OK);
        for (method, path) in [
            (Method::POST, "/api/v1/actors"),
            (Method::PUT, "/api/v1/links"),
            (Method::DELETE, "/api/v1/links"),
            (Method::POST, "/api/v1/uploads"),
            (Method::POST, "/api/v1/call"),
            (Method::POST, "/api/v1/auctions"),
            (Method::PATCH, "/api/v1/hosts"),
            (Method::POST, "/"),
            (Method::from_bytes(b"BREW").unwrap(), "/api/v1/hosts"),
        ] {
            assert_eq!(
                status(&auth, method.clone(), path, &[HOST]),
                StatusCode::UNAUTHORIZED,
                "{method} {path}"
            );
        }
        let other = "10.0.0.9".parse().unwrap();
        let read = admitted(&auth, other, Method::GET, "/api/v1/links", &headers(&[HOST]));
        assert_eq!(read, StatusCode::UNAUTHORIZED);
    }

    #[test]
    fn where_reading_is_closed_there_is_only_the_empty_page() {
        let auth = auth(Some(TOKEN));
        for closed in ["/api/v1/hosts", "/api/v1/openapi.json", "/api/v1/stream", "/metrics"] {
            assert_eq!(
                status(&auth, Method::GET, closed, &[HOST]),
                StatusCode::UNAUTHORIZED,
                "{closed}"
            );
        }
        for open in ["/", "/hosts", "/login", "/assets/page.0.css", "/healthz"] {
            assert_eq!(status(&auth, Method::GET, open, &[HOST]), StatusCode::OK, "{open}");
        }
        for token in [TOKEN, KEPT] {
            let bearer = format!("Bearer {token}");
            // Also by whatever name a program reaches it.
            let program = [("host", "box.internal"), ("authorization", bearer.as_str())];
            assert_eq!(status(&auth, Method::GET, "/metrics", &program), StatusCode::OK, "{token}");
            assert_eq!(
                status(&auth, Method::PUT, "/api/v1/links", &program),
                StatusCode::OK,
                "{token}"
            );
        }
        let wrong = [HOST, ("authorization", "Bearer x")];
        assert_eq!(status(&auth, Method::GET, "/metrics", &wrong), StatusCode::UNAUTHORIZED);
    }

    #[test]
    fn a_session_is_shown_as_bearer_until_it_is_ended() {
        let auth = auth(None);
        let session = auth.log_in(CALLER, Proof::Token(KEPT)).unwrap();
        let bearer = format!("Bearer {session}");
        let with = [HOST, ("authorization", bearer.as_str())];
        assert_eq!(status(&auth, Method::PUT, "/api/v1/links", &with), StatusCode::OK);
        auth.log_out(&headers(&with));
        assert_eq!(status(&auth, Method::PUT, "/api/v1/links", &with), StatusCode::UNAUTHORIZED);
        // Leaving twice is no mistake.
        assert_eq!(status(&auth, Method::DELETE, "/api/v1/session", &with), StatusCode::OK);
        // No cookie is worth anything, as other ports of this machine are sent it, too.
        let session = auth.log_in(CALLER, Proof::Token(KEPT)).unwrap();
        for name in ["session", "lattice_dashboard_4000"] {
            let cookie = format!("{name}={session}");
            let status = status(&auth, Method::PUT, "/api/v1/links", &[HOST, ("cookie", &cookie)]);
            assert_eq!(status, StatusCode::UNAUTHORIZED);
        }
    }
}

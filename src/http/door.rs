//! Who may enter the dashboard, and from where.
//!
//! Every request passes [`guard`]. Who shows the token as bearer is a program and comes in; of others it refuses, in this
//! order:
//!
//! * names that are not the dashboard's, in the `Host` header: a page elsewhere whose name was pointed at this machine (DNS
//!   rebinding) is stopped by its name. Addresses cannot be rebound, and `localhost` is ours.
//! * requests that a page of another origin makes, by `Origin` and `Sec-Fetch-Site`. What changes something needs a content type
//!   or a method besides, that no form of another page can send.
//! * where a token is set, everything but the login page and the health checks without a session. A session is a cookie that
//!   pages of other origins do not send and scripts do not see; programs send the token itself, as bearer.
//!
//! Where none is set, everybody who reaches the address may operate the lattice; so without one only loopback is listened on.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest};
use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri,
        header::{self, AUTHORIZATION, CONTENT_SECURITY_POLICY, COOKIE, HOST, ORIGIN},
        uri::Authority,
    },
    middleware::Next,
    response::{IntoResponse, Redirect, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::Rng as _;
use tokio::time::timeout;

use super::{api::Refusal, listen::Caller};
use crate::{config::Secret, providers::external::access::percent_encode};

/// How long a session lasts that is not used.
pub const SESSION: Duration = Duration::from_secs(12 * 3600);
/// How long a browser keeps its cookie; it is the session that ends earlier.
const COOKIE_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Sessions at a time; the one that was used least lately makes room.
const SESSIONS_MAX: usize = 256;
/// Wrong tokens that one address may show within [`WINDOW`]; and all together.
const TRIES_MAX: u32 = 5;
const ALL_TRIES_MAX: u32 = 100;
const WINDOW: Duration = Duration::from_secs(60);
/// Characters of a token that nobody guesses. With one, tries are counted only to spare the log and the processor, and nobody
/// is locked out by the tries of others.
const LONG: usize = 32;
/// Who showed the right token is not locked out for so long by wrong ones from the same address, if the token is long.
const TRUSTED: Duration = Duration::from_secs(3600);
/// Addresses whose tries are counted apart.
const CALLERS_MAX: usize = 1024;
/// Random bytes of a session's id, and of a token that is made up.
const SECRET_BYTES: usize = 32;

/// What takes as long as it takes, with deadlines of its own.
const UNHURRIED: [&str; 3] = ["/api/v1/stream", "/api/v1/uploads", "/api/v1/call"];
/// How long another request of the API may take.
const DEADLINE: Duration = Duration::from_secs(15);

/// Answered to everybody, for those who watch over this process.
const HEALTH: [&str; 4] = ["/healthz", "/readyz", "/api/livez", "/api/readyz"];
/// What the login page needs.
const OPEN: [&str; 2] = ["/login", "/api/v1/session"];
const ASSETS: &str = "/assets/";
const API: &str = "/api/";

/// No script, style or request that is not the dashboard's own, and no text that becomes script.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
    manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
    trusted-types 'none'";

type Digest = [u8; 32];

/// Lets in, or refuses.
pub struct Door {
    /// Of the token; anybody may enter without one.
    token: Option<Digest>,
    /// It cannot be guessed, however often one tries.
    is_long: bool,
    names: Vec<String>,
    cookie: String,
    // Both are held for lines without an await.
    sessions: Mutex<HashMap<Digest, Instant>>,
    tries: Mutex<Tries>,
}

#[derive(Default)]
struct Tries {
    of: HashMap<IpAddr, Window>,
    /// When an address last showed the right token.
    right: HashMap<IpAddr, Instant>,
    all: Window,
}

/// Failures since a moment.
#[derive(Clone, Copy, Default)]
struct Window {
    since: Option<Instant>,
    failures: u32,
}

impl Window {
    /// How long to wait until another try, if there were too many.
    fn wait(&self, max: u32) -> Option<Duration> {
        let left = WINDOW.checked_sub(self.since?.elapsed())?;
        (self.failures >= max).then_some(left)
    }

    fn fail(&mut self) {
        if self.since.is_none_or(|since| since.elapsed() >= WINDOW) {
            *self = Self { since: Some(Instant::now()), failures: 0 };
        }
        self.failures += 1;
    }
}

/// Why somebody was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginError {
    Wrong,
    /// Too many were wrong.
    Wait(Duration),
}

impl Door {
    /// A door of the dashboard on `port`, which is part of the cookie's name: cookies do not know ports.
    pub fn new(token: Option<&Secret>, names: Vec<String>, port: u16) -> Self {
        Self {
            token: token.map(|token| digest_of(token.expose().trim())),
            is_long: token.is_some_and(|token| token.expose().trim().len() >= LONG),
            names,
            cookie: format!("lattice_dashboard_{port}"),
            sessions: Mutex::default(),
            tries: Mutex::default(),
        }
    }

    pub fn asks_for_token(&self) -> bool {
        self.token.is_some()
    }

    /// Opens a session for whoever shows the token; returns the header that sets its cookie.
    pub fn log_in(&self, caller: IpAddr, shown: &str, is_secure: bool) -> Result<HeaderValue, LoginError> {
        self.check(caller, shown)?;
        let id = random();
        let mut sessions = lock(&self.sessions);
        if sessions.len() >= SESSIONS_MAX
            && let Some(oldest) = sessions.iter().min_by_key(|(_, used)| **used).map(|(id, _)| *id)
        {
            sessions.remove(&oldest);
        }
        sessions.insert(digest_of(&id), Instant::now());
        Ok(self.set_cookie(&id, COOKIE_AGE, is_secure))
    }

    /// Ends the session of a request; returns the header that removes its cookie.
    pub fn log_out(&self, headers: &HeaderMap) -> HeaderValue {
        if let Some(id) = self.session_id(headers) {
            lock(&self.sessions).remove(&digest_of(id));
        }
        self.set_cookie("", Duration::ZERO, false)
    }

    /// Whether the token is right; wrong ones are counted.
    fn check(&self, caller: IpAddr, shown: &str) -> Result<(), LoginError> {
        let Some(token) = &self.token else { return Ok(()) };
        let caller = network(caller);
        let mut tries = lock(&self.tries);
        let is_trusted = self.is_long && tries.right.get(&caller).is_some_and(|at| at.elapsed() < TRUSTED);
        let of_caller = tries.of.get(&caller).and_then(|window| window.wait(TRIES_MAX)).filter(|_| !is_trusted);
        let of_all = tries.all.wait(ALL_TRIES_MAX).filter(|_| !self.is_long);
        if let Some(wait) = of_caller.or(of_all) {
            return Err(LoginError::Wait(wait));
        }
        if verify_slices_are_equal(token, &digest_of(shown.trim())).is_ok() {
            tries.of.remove(&caller);
            if tries.right.len() >= CALLERS_MAX {
                tries.right.retain(|_, at| at.elapsed() < TRUSTED);
            }
            if tries.right.len() < CALLERS_MAX || tries.right.contains_key(&caller) {
                tries.right.insert(caller, Instant::now());
            }
            return Ok(());
        }
        tries.all.fail();
        if tries.of.len() >= CALLERS_MAX {
            tries.of.retain(|_, window| window.since.is_some_and(|since| since.elapsed() < WINDOW));
        }
        if tries.of.len() < CALLERS_MAX || tries.of.contains_key(&caller) {
            tries.of.entry(caller).or_default().fail();
        }
        Err(LoginError::Wrong)
    }

    fn set_cookie(&self, id: &str, age: Duration, is_secure: bool) -> HeaderValue {
        let secure = if is_secure { "; Secure" } else { "" };
        let (name, age) = (&self.cookie, age.as_secs());
        let text = format!("{name}={id}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}");
        HeaderValue::from_str(&text).expect("a name and an id of letters and digits")
    }

    fn session_id<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(name, _)| *name == self.cookie).map(|(_, id)| id)
    }

    fn has_session(&self, headers: &HeaderMap) -> bool {
        let Some(id) = self.session_id(headers) else { return false };
        let mut sessions = lock(&self.sessions);
        sessions.retain(|_, used| used.elapsed() < SESSION);
        match sessions.get_mut(&digest_of(id)) {
            Some(used) => {
                *used = Instant::now();
                true
            }
            None => false,
        }
    }

    /// Whether a program shows the token in its request; `None` if it shows nothing.
    fn bears_token(&self, caller: IpAddr, headers: &HeaderMap) -> Option<Result<(), LoginError>> {
        let shown = headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
        self.token.as_ref()?;
        Some(self.check(caller, shown))
    }

    /// Whether this is what the dashboard is called.
    fn knows(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        let name = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        name.parse::<IpAddr>().is_ok()
            || name == "localhost"
            || name.ends_with(".localhost")
            || self.names.iter().any(|known| known == name)
    }

    /// Whether nothing says that another page makes this request.
    fn is_own_page(&self, host: &str, headers: &HeaderMap) -> bool {
        let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        let site = text(&HeaderName::from_static("sec-fetch-site"));
        if site.is_some_and(|site| !matches!(site, "same-origin" | "none")) {
            return false;
        }
        // Behind a proxy the scheme may be another one; and the name, where the proxy does not pass it on.
        text(&ORIGIN).is_none_or(|origin| {
            let name = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            let is_ours = |name: &str| {
                let bare = name.split(':').next().unwrap_or_default().to_ascii_lowercase();
                name == host || self.names.contains(&bare)
            };
            name.is_some_and(is_ours)
        })
    }

    fn admit(&self, caller: IpAddr, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Box<Response>> {
        let path = uri.path();
        if HEALTH.contains(&path) {
            return Ok(());
        }
        // A page of another origin cannot know the token, so whoever shows it is no such page.
        match self.bears_token(caller, headers) {
            Some(Ok(())) => return Ok(()),
            Some(Err(error)) => return Err(refuse_login(error).into()),
            None => {}
        }
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if !self.knows(host) {
            let text = format!(
                "this dashboard is not called {host:?}; open it by its address or as localhost, or start the host with \
                 --dashboard-names {}",
                host.split(':').next().unwrap_or_default()
            );
            return Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, text).into_response().into());
        }
        let is_navigation = *method == Method::GET && !path.starts_with(API);
        if !is_navigation && !self.is_own_page(host, headers) {
            let text = "the request comes from a page of another origin, which may not use this dashboard";
            return Err(Refusal::new(StatusCode::FORBIDDEN, text).into_response().into());
        }
        if self.token.is_none() || OPEN.contains(&path) || path.starts_with(ASSETS) || self.has_session(headers) {
            return Ok(());
        }
        if is_navigation && path != "/metrics" {
            let next = percent_encode(path);
            return Err(Redirect::to(&format!("/login?next={next}")).into_response().into());
        }
        let text = "log in at /login, or send the token: authorization: Bearer TOKEN";
        Err(Refusal::new(StatusCode::UNAUTHORIZED, text).into_response().into())
    }
}

/// The answer to a wrong token.
pub fn refuse_login(error: LoginError) -> Response {
    match error {
        LoginError::Wrong => Refusal::new(
            StatusCode::UNAUTHORIZED,
            "this is not the token; the host's log says in which file it is, unless it was set with dashboard_token",
        )
        .into_response(),
        LoginError::Wait(wait) => {
            let seconds = wait.as_secs() + 1;
            let text = format!("too many wrong tokens; try again in {seconds} s");
            let mut response = Refusal::new(StatusCode::TOO_MANY_REQUESTS, text).into_response();
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            response
        }
    }
}

/// Passes a request on, or answers it with a refusal; and says of every answer what browsers may do with it.
pub async fn guard(State(dashboard): State<super::Dashboard>, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>().map_or(Ipv6Addr::UNSPECIFIED.into(), |caller| caller.0.ip());
    let is_api = request.uri().path().starts_with(API);
    let admitted = dashboard.door().admit(caller, request.method(), request.uri(), request.headers());
    let has_its_own = UNHURRIED.contains(&request.uri().path());
    let mut response = match admitted {
        Ok(()) if is_api && !has_its_own => match timeout(DEADLINE, next.run(request)).await {
            Ok(response) => response,
            Err(_) => {
                let text = format!("no answer within {} s; is the NATS server away?", DEADLINE.as_secs());
                Refusal::new(StatusCode::GATEWAY_TIMEOUT, text).into_response()
            }
        },
        Ok(()) => next.run(request).await,
        Err(refusal) => *refusal,
    };
    let headers = response.headers_mut();
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
    if is_api {
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    }
    response
}

/// A new secret, of letters, digits, `-` and `_`.
pub fn random() -> String {
    let mut bytes = [0; SECRET_BYTES];
    rand::rng().fill(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

fn digest_of(text: &str) -> Digest {
    let mut bytes = Digest::default();
    bytes.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    bytes
}

/// Whom an address belongs to: who has an IPv6 address mostly has the whole network of it.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) if address.to_ipv4_mapped().is_none() => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
        address => address,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const TOKEN: &str = "correct horse battery";

    fn door(token: Option<&str>) -> Door {
        Door::new(token.map(Secret::new).as_ref(), vec!["box.example".into()], 4000)
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn status(door: &Door, method: Method, path: &str, pairs: &[(&'static str, &str)]) -> StatusCode {
        let uri = path.parse().unwrap();
        door.admit(CALLER, &method, &uri, &headers(pairs)).map_or_else(|refusal| refusal.status(), |()| StatusCode::OK)
    }

    #[test]
    fn names_that_could_be_pointed_here_are_refused() {
        let door = door(None);
        for ours in ["127.0.0.1:4000", "localhost:4000", "[::1]:4000", "10.0.0.7", "box.example", "BOX.example.:80"] {
            assert_eq!(status(&door, Method::GET, "/", &[("host", ours)]), StatusCode::OK, "{ours}");
        }
        for other in ["evil.example:4000", "localhost.evil.example", "", "a b", "127.0.0.1.evil.example"] {
            let refused = status(&door, Method::GET, "/", &[("host", other)]);
            assert_eq!(refused, StatusCode::MISDIRECTED_REQUEST, "{other}");
        }
        assert_eq!(status(&door, Method::GET, "/readyz", &[("host", "evil.example")]), StatusCode::OK);
    }

    #[test]
    fn pages_of_other_origins_change_and_read_nothing() {
        let door = door(None);
        let host = ("host", "localhost:4000");
        let all: [&[(&str, &str)]; 5] = [
            &[host, ("origin", "http://evil.example")],
            &[host, ("origin", "http://localhost:3000")],
            &[host, ("origin", "null")],
            &[host, ("sec-fetch-site", "cross-site")],
            &[host, ("sec-fetch-site", "same-site")],
        ];
        for pairs in all {
            for (method, path) in [(Method::POST, "/api/v1/actors"), (Method::GET, "/api/v1/links")] {
                assert_eq!(status(&door, method, path, pairs), StatusCode::FORBIDDEN, "{pairs:?}");
            }
        }
        for origin in ["http://localhost:4000", "https://localhost:4000", "https://box.example"] {
            let own = [host, ("origin", origin), ("sec-fetch-site", "same-origin")];
            assert_eq!(status(&door, Method::POST, "/api/v1/actors", &own), StatusCode::OK);
        }
        // Following a link is no harm.
        assert_eq!(status(&door, Method::GET, "/hosts", &[host, ("sec-fetch-site", "cross-site")]), StatusCode::OK);
    }

    #[test]
    fn without_a_session_there_is_only_the_login_page() {
        let door = door(Some(TOKEN));
        let host = ("host", "10.0.0.7:4000");
        assert_eq!(status(&door, Method::GET, "/", &[host]), StatusCode::SEE_OTHER);
        assert_eq!(status(&door, Method::GET, "/api/v1/hosts", &[host]), StatusCode::UNAUTHORIZED);
        assert_eq!(status(&door, Method::GET, "/metrics", &[host]), StatusCode::UNAUTHORIZED);
        for open in ["/login", "/assets/css/app.css", "/healthz"] {
            assert_eq!(status(&door, Method::GET, open, &[host]), StatusCode::OK, "{open}");
        }
        let cookie = door.log_in(CALLER, TOKEN, false).unwrap();
        let cookie = cookie.to_str().unwrap().split(';').next().unwrap().to_owned();
        assert_eq!(status(&door, Method::GET, "/", &[host, ("cookie", &cookie)]), StatusCode::OK);
        door.log_out(&headers(&[("cookie", &cookie)]));
        assert_eq!(status(&door, Method::GET, "/", &[host, ("cookie", &cookie)]), StatusCode::SEE_OTHER);
        let bearer = format!("Bearer {TOKEN}");
        // Also by whatever name a program reaches it.
        let program = [("host", "box.internal"), ("authorization", bearer.as_str())];
        assert_eq!(status(&door, Method::GET, "/metrics", &program), StatusCode::OK);
        assert_eq!(
            status(&door, Method::GET, "/metrics", &[host, ("authorization", "Bearer x")]),
            StatusCode::UNAUTHORIZED
        );
    }

    #[test]
    fn a_line_break_is_no_part_of_a_token_and_a_long_one_locks_nobody_out() {
        let long = "0123456789012345678901234567890123456789\n";
        let door = door(Some(long));
        let other = "10.0.0.9".parse().unwrap();
        assert!(door.log_in(other, long.trim(), false).is_ok());
        for n in 0..2 * ALL_TRIES_MAX {
            let caller = format!("10.1.{}.{}", n / 200, n % 200).parse().unwrap();
            assert_eq!(door.log_in(caller, "guess", false), Err(LoginError::Wrong));
            let _ = door.log_in(other, "guess", false);
        }
        assert!(door.log_in(other, long.trim(), false).is_ok());
    }

    #[test]
    fn guessing_is_slow() {
        let door = door(Some(TOKEN));
        for _ in 0..TRIES_MAX {
            assert_eq!(door.log_in(CALLER, "guess", false), Err(LoginError::Wrong));
        }
        assert!(matches!(door.log_in(CALLER, TOKEN, false), Err(LoginError::Wait(_))));
        // Another one is not locked out by that.
        assert!(door.log_in("10.0.0.9".parse().unwrap(), TOKEN, false).is_ok());
        // All of a network of one's own count as one.
        for n in 0..TRIES_MAX {
            let caller = format!("2001:db8::{n}").parse().unwrap();
            assert_eq!(door.log_in(caller, "guess", false), Err(LoginError::Wrong));
        }
        assert!(matches!(door.log_in("2001:db8::99".parse().unwrap(), TOKEN, false), Err(LoginError::Wait(_))));
    }

    #[test]
    fn a_cookie_is_out_of_reach_for_scripts_and_other_pages() {
        let cookie = door(Some(TOKEN)).log_in(CALLER, TOKEN, true).unwrap();
        let cookie = cookie.to_str().unwrap();
        assert!(cookie.starts_with("lattice_dashboard_4000=") && !cookie.contains(TOKEN), "{cookie}");
        for attribute in ["HttpOnly", "SameSite=Strict", "Secure", "Path=/"] {
            assert!(cookie.contains(attribute), "{cookie}");
        }
    }
}

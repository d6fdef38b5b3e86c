//! Access to the dashboard: the proof that a caller shows, and the rights it gives.
//!
//! A caller that shows the right token as bearer, or a session, is an [`Access::Operator`]. Without
//! a login one is an [`Access::Reader`], for whom [`super::mask`] hides link values and what actors
//! and providers say. Wrong tokens are counted, and who shows many of them has to wait. [`guard`]
//! decides, also by where it comes from, whether a request passes.
//!
//! There are no cookies: browsers send them to every port of a machine, so also to the pages of its
//! actors, which then could act as the operator. A page keeps its session where only its own origin
//! reads it, and shows it as bearer. Thus a request of another page brings no right with it,
//! whatever the browser.

pub(super) mod guard;

use std::{
    collections::HashMap,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest};
use axum::{
    http::{
        HeaderMap, StatusCode,
        header::{self, AUTHORIZATION},
    },
    response::{IntoResponse, Response},
};
use parking_lot::Mutex;
use tracing::warn;

use super::{
    refusal::Refusal,
    token::{self, Claims, Keys},
};
use lattice_base::config::Secret;
use lattice_engine::providers::builtin::httpserver::clients::network;
use lattice_protocol::history::Origin;

/// How often the file with the secret is looked at, so that another secret counts soon.
const FRESH: Duration = Duration::from_secs(1);
/// Codes and sessions that are remembered as used up; each for as long as it would hold.
const USED_UP_MAX: usize = 4096;
/// Wrong tokens that one address may show within [`WINDOW`]; and all together.
const ATTEMPTS_MAX: u32 = 5;
const ALL_ATTEMPTS_MAX: u32 = 100;
const WINDOW: Duration = Duration::from_secs(60);
/// Characters of a token that nobody guesses. A caller with such a token comes in, whatever others
/// tried before.
const LONG: usize = 32;
/// Addresses whose attempts are counted apart.
const CALLERS_MAX: usize = 1024;
/// Characters of the id of a session that are told: enough to tell sessions apart, and of no use
/// to whoever reads them.
const SESSION_CHARS: usize = 8;

type Digest = [u8; 32];

/// The rights of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read what is no secret.
    Reader,
    /// Everything.
    Operator,
}

/// Whether reading needs a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    Open,
    Closed,
}

/// The settings of [`Auth`].
pub struct Setup {
    /// The secret of this user, see [`token`].
    pub kept: Secret,
    /// Its file; none if there is no place to keep it.
    pub file: Option<PathBuf>,
    /// The token of the settings, which logs in like the kept one.
    pub set: Option<Secret>,
    pub reading: Reading,
    /// Names of the dashboard, besides addresses and `localhost`.
    pub names: Vec<String>,
    /// The host whose codes are taken.
    pub host_id: String,
}

/// Lets in, or refuses.
pub struct Auth {
    file: Option<PathBuf>,
    set: Option<Secret>,
    reading: Reading,
    /// No token can be guessed, however often one attempts.
    is_long: bool,
    names: Vec<String>,
    host_id: String,
    // All three are held for lines without an await.
    secrets: Mutex<Secrets>,
    used_up: Mutex<UsedUp>,
    attempts: Mutex<Attempts>,
}

/// The secret in the file, as it was last read.
struct Secrets {
    kept: Secret,
    known: Arc<Known>,
    looked: Instant,
    /// A warning has already said that the file cannot be read.
    is_told: bool,
}

/// The tokens and keys that let somebody in.
struct Known {
    tokens: Vec<Token>,
    keys: Keys,
}

struct Token {
    digest: Digest,
    is_long: bool,
}

impl Token {
    fn new(text: &Secret) -> Self {
        let text = text.expose().trim();
        Self { digest: digest_of(text), is_long: text.len() >= LONG }
    }
}

impl Known {
    fn new(kept: &Secret, set: Option<&Secret>) -> Self {
        let tokens = [Some(kept), set].into_iter().flatten().map(Token::new).collect();
        Self { tokens, keys: Keys::new(kept, set) }
    }

    /// The token that somebody shows, if it is one.
    fn token(&self, shown: &str) -> Option<&Token> {
        let shown = digest_of(shown.trim());
        self.tokens.iter().find(|token| verify_slices_are_equal(&token.digest, &shown).is_ok())
    }
}

/// Codes that were exchanged and sessions that were ended, by their ids, with the time until which
/// they would hold.
#[derive(Default)]
struct UsedUp(HashMap<String, u64>);

impl UsedUp {
    /// Notes one; says whether it was not there before. Without room it is as if it had been there.
    fn add(&mut self, claims: &Claims, now: u64) -> bool {
        if self.0.len() >= USED_UP_MAX {
            self.0.retain(|_, until| *until >= now);
        }
        self.0.len() < USED_UP_MAX && self.0.insert(claims.jti.clone(), claims.exp).is_none()
    }
}

#[derive(Default)]
struct Attempts {
    of: HashMap<IpAddr, Window>,
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

/// The proof that a caller shows to log in.
#[derive(Clone, Copy, Debug)]
pub enum Proof<'a> {
    Token(&'a str),
    /// Of a link.
    Code(&'a str),
}

/// Why somebody was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginError {
    /// It is not the token.
    Wrong,
    /// The code of a link was used before, is too old, or is of another host.
    UsedUp,
    /// The session is over.
    Over,
    /// Too many were wrong.
    Wait(Duration),
}

impl Auth {
    pub fn new(setup: Setup) -> Self {
        let Setup { kept, file, set, reading, names, host_id } = setup;
        let known = Arc::new(Known::new(&kept, set.as_ref()));
        Self {
            file,
            is_long: known.tokens.iter().all(|token| token.is_long),
            set,
            reading,
            names,
            host_id,
            secrets: Mutex::new(Secrets { kept, known, looked: Instant::now(), is_told: false }),
            used_up: Mutex::default(),
            attempts: Mutex::default(),
        }
    }

    pub fn reading(&self) -> Reading {
        self.reading
    }

    /// Returns the tokens and keys that let somebody in now. Reads the file once in a while.
    fn known(&self) -> Arc<Known> {
        let mut secrets = self.secrets.lock();
        if let Some(file) = &self.file
            && secrets.looked.elapsed() >= FRESH
        {
            secrets.looked = Instant::now();
            match token::kept(file) {
                Ok(kept) if kept != secrets.kept => {
                    secrets.known = Arc::new(Known::new(&kept, self.set.as_ref()));
                    secrets.kept = kept;
                }
                Ok(_) => secrets.is_told = false,
                Err(error) if !secrets.is_told => {
                    secrets.is_told = true;
                    warn!(%error, "the secret of the dashboard cannot be read; the last one stays");
                }
                Err(_) => {}
            }
        }
        Arc::clone(&secrets.known)
    }

    /// Opens a session for whoever shows what opens one.
    pub fn log_in(&self, caller: IpAddr, proof: Proof<'_>) -> Result<String, LoginError> {
        let now = token::now();
        let known = self.known();
        match proof {
            Proof::Token(shown) => self.check(&known, caller, shown)?,
            Proof::Code(shown) => {
                let claims =
                    known.keys.read_code(&self.host_id, shown).ok_or(LoginError::UsedUp)?;
                if !self.used_up.lock().add(&claims, now) {
                    return Err(LoginError::UsedUp);
                }
            }
        }
        Ok(known.keys.session(now))
    }

    /// Ends the session that a request shows, for as long as this host runs.
    pub fn log_out(&self, headers: &HeaderMap) {
        if let Some(claims) =
            bearer_token(headers).and_then(|shown| self.known().keys.read_session(shown))
        {
            self.used_up.lock().add(&claims, token::now());
        }
    }

    /// Says who makes a request, for the history: the beginning of the id of its session, and where
    /// it comes from.
    fn origin(&self, caller: IpAddr, headers: &HeaderMap) -> Origin {
        let session = bearer_token(headers).and_then(|shown| self.known().keys.read_session(shown));
        let who = session.map(|claims| claims.jti.chars().take(SESSION_CHARS).collect());
        Origin {
            kind: "dashboard".to_owned(),
            // Programs show the token itself.
            who: who.unwrap_or_default(),
            from: caller.to_canonical().to_string(),
            ..Origin::default()
        }
    }

    /// Returns the access that a request has by the bearer it shows, if it shows one.
    pub fn access(&self, caller: IpAddr, headers: &HeaderMap) -> Result<Access, LoginError> {
        let Some(shown) = bearer_token(headers) else { return Ok(Access::Reader) };
        let known = self.known();
        if let Some(claims) = known.keys.read_session(shown) {
            let is_over = self.used_up.lock().0.contains_key(&claims.jti);
            return if is_over { Err(LoginError::Over) } else { Ok(Access::Operator) };
        }
        if token::is_signed(shown) && known.token(shown).is_none() {
            // A page whose session is over asks many times; that is no guessing, for nobody guesses
            // a signature.
            return Err(LoginError::Over);
        }
        self.check(&known, caller, shown).map(|()| Access::Operator)
    }

    /// Whether the token is right; wrong ones are counted.
    fn check(&self, known: &Known, caller: IpAddr, shown: &str) -> Result<(), LoginError> {
        let caller = network(caller);
        let right = known.token(shown);
        let mut attempts = self.attempts.lock();
        if right.is_some_and(|token| token.is_long) {
            attempts.of.remove(&caller);
            return Ok(());
        }
        let of_caller = attempts.of.get(&caller).and_then(|window| window.wait(ATTEMPTS_MAX));
        let of_all = attempts.all.wait(ALL_ATTEMPTS_MAX).filter(|_| !self.is_long);
        if let Some(wait) = of_caller.or(of_all) {
            return Err(LoginError::Wait(wait));
        }
        if right.is_some() {
            attempts.of.remove(&caller);
            return Ok(());
        }
        attempts.all.fail();
        if attempts.of.len() >= CALLERS_MAX {
            attempts
                .of
                .retain(|_, window| window.since.is_some_and(|since| since.elapsed() < WINDOW));
        }
        if attempts.of.len() < CALLERS_MAX || attempts.of.contains_key(&caller) {
            attempts.of.entry(caller).or_default().fail();
        }
        Err(LoginError::Wrong)
    }
}

/// Returns the bearer that a request shows to be let in.
fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let shown = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, shown) = shown.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| shown.trim())
}

/// The answer to whoever was not let in.
pub fn refuse_login(error: LoginError) -> Response {
    match error {
        LoginError::Wrong => unauthorized(
            "this is not the token; the host's log says in which file it is, unless it was set with dashboard_token",
        ),
        LoginError::UsedUp => unauthorized(
            "this link was used before, or is more than a minute old; `host dashboard` prints another one",
        ),
        LoginError::Over => {
            unauthorized("this session is over; log in again: `host dashboard` prints a link")
        }
        LoginError::Wait(wait) => {
            let seconds = wait.as_secs() + 1;
            let text = format!("too many wrong tokens; try again in {seconds} s");
            let mut response = Refusal::new(StatusCode::TOO_MANY_REQUESTS, text).into_response();
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            response
        }
    }
}

fn unauthorized(text: &str) -> Response {
    Refusal::new(StatusCode::UNAUTHORIZED, text).into_response()
}

fn digest_of(text: &str) -> Digest {
    let mut bytes = Digest::default();
    bytes.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    bytes
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    pub(super) const CALLER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    pub(super) const TOKEN: &str = "correct horse battery";
    pub(super) const KEPT: &str = "0123456789012345678901234567890123456789";

    pub(super) fn auth(set: Option<&str>) -> Auth {
        Auth::new(Setup {
            kept: Secret::new(KEPT),
            file: None,
            set: set.map(Secret::new),
            reading: if set.is_some() { Reading::Closed } else { Reading::Open },
            names: vec!["box.example".into()],
            host_id: "NHOST".into(),
        })
    }

    pub(super) fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn a_code_works_once_and_on_this_host() {
        let auth = auth(None);
        let keys = Keys::new(&Secret::new(KEPT), None);
        let code = keys.code("NHOST", token::now());
        assert!(auth.log_in(CALLER, Proof::Code(&code)).is_ok());
        assert_eq!(auth.log_in(CALLER, Proof::Code(&code)), Err(LoginError::UsedUp));
        let session = keys.session(token::now());
        for wrong in [&keys.code("NOTHER", token::now()), &session, "", "x"] {
            assert_eq!(auth.log_in(CALLER, Proof::Code(wrong)), Err(LoginError::UsedUp), "{wrong}");
        }
        // A code opens nothing by itself.
        let bearer = format!("Bearer {}", keys.code("NHOST", token::now()));
        let shown = headers(&[("authorization", bearer.as_str())]);
        assert_eq!(auth.access(CALLER, &shown), Err(LoginError::Over));
    }

    #[test]
    fn what_is_used_up_is_remembered_for_as_long_as_it_would_hold_and_within_bounds() {
        let mut used_up = UsedUp::default();
        let claims = |id: usize, exp: u64| {
            let claims =
                serde_json::json!({ "aud": "code", "iat": 0, "exp": exp, "jti": id.to_string() });
            serde_json::from_value::<Claims>(claims).unwrap()
        };
        assert!((0..USED_UP_MAX).all(|id| used_up.add(&claims(id, 100), 50)));
        assert!(!used_up.add(&claims(0, 100), 50) && !used_up.add(&claims(USED_UP_MAX, 100), 50));
        assert!(used_up.add(&claims(USED_UP_MAX, 200), 101));
        assert_eq!(used_up.0.len(), 1);
    }

    #[test]
    fn another_secret_in_the_file_ends_sessions_and_the_token() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(token::FILE);
        let kept = token::kept(&file).unwrap();
        let mut auth = auth(None);
        auth.file = Some(file.clone());
        *auth.secrets.lock() = Secrets {
            known: Arc::new(Known::new(&kept, None)),
            kept: kept.clone(),
            looked: Instant::now(),
            is_told: false,
        };
        let bearers =
            [kept.expose().to_owned(), auth.log_in(CALLER, Proof::Token(kept.expose())).unwrap()];
        let access = |shown: &String| {
            // As if a second had passed.
            auth.secrets.lock().looked -= FRESH;
            auth.access(CALLER, &headers(&[("authorization", &format!("Bearer {shown}"))])).ok()
        };
        assert_eq!(bearers.each_ref().map(access), [Some(Access::Operator); 2]);
        token::renew(&file).unwrap();
        assert_eq!(bearers.each_ref().map(access), [None; 2]);
        assert_eq!(
            access(&token::read(&file).unwrap().expose().to_owned()),
            Some(Access::Operator)
        );
    }

    #[test]
    fn a_line_break_is_no_part_of_a_token_and_a_long_one_locks_nobody_out() {
        let auth = auth(None);
        let other = "10.0.0.9".parse().unwrap();
        for n in 0..2 * ALL_ATTEMPTS_MAX {
            let caller = format!("10.1.{}.{}", n / 200, n % 200).parse().unwrap();
            assert_eq!(auth.log_in(caller, Proof::Token("guess")), Err(LoginError::Wrong));
            let _ = auth.log_in(other, Proof::Token("guess"));
        }
        assert!(auth.log_in(other, Proof::Token(&format!("{KEPT}\n"))).is_ok());
    }

    #[test]
    fn guessing_is_slow_and_locks_no_session_out() {
        let auth = auth(Some(TOKEN));
        let session = auth.log_in(CALLER, Proof::Token(TOKEN)).unwrap();
        for _ in 0..ATTEMPTS_MAX {
            assert_eq!(auth.log_in(CALLER, Proof::Token("guess")), Err(LoginError::Wrong));
        }
        assert!(matches!(auth.log_in(CALLER, Proof::Token(TOKEN)), Err(LoginError::Wait(_))));
        let bearer = format!("Bearer {session}");
        assert_eq!(
            auth.access(CALLER, &headers(&[("authorization", &bearer)])),
            Ok(Access::Operator)
        );
        assert!(
            auth.log_in(
                CALLER,
                Proof::Code(&Keys::new(&Secret::new(KEPT), None).code("NHOST", token::now()))
            )
            .is_ok()
        );
        // Another one is not locked out by that.
        assert!(auth.log_in("10.0.0.9".parse().unwrap(), Proof::Token(TOKEN)).is_ok());
        // All of a network of one's own count as one.
        for n in 0..ATTEMPTS_MAX {
            let caller = format!("2001:db8::{n}").parse().unwrap();
            assert_eq!(auth.log_in(caller, Proof::Token("guess")), Err(LoginError::Wrong));
        }
        let caller = "2001:db8::99".parse().unwrap();
        assert!(matches!(auth.log_in(caller, Proof::Token(TOKEN)), Err(LoginError::Wait(_))));
        // A page whose session is over is no guesser.
        for _ in 0..2 * ATTEMPTS_MAX {
            let over =
                format!("Bearer {}", Keys::new(&Secret::new("other"), None).session(token::now()));
            let caller = "10.0.0.10".parse().unwrap();
            assert_eq!(
                auth.access(caller, &headers(&[("authorization", &over)])),
                Err(LoginError::Over)
            );
        }
    }
}

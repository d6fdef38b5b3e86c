//! Reads from registries over HTTP, each answer within bounds.
//!
//! The OCI client reads manifests, tokens and refusals whole, whatever their size, and shows a
//! login to every server that a registry names. So reading is done here: first the challenge, then
//! perhaps a token, then manifests and layers. Every body has a size at which it ends, a digest it
//! must have, and a pace it must keep. Link-local addresses, where clouds keep the credentials of
//! machines, are never asked: neither by address nor by name nor after a redirect.

use std::{
    fmt, io,
    net::IpAddr,
    time::{Duration, Instant},
};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use reqwest::{
    Certificate, Client, RequestBuilder, Response, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{ACCEPT, AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE},
    redirect,
};
use serde::Deserialize;

use super::{
    credentials::{Credentials, Place},
    digest::Digest,
    login::{Carries, Challenge, check_realm},
    manifest::MANIFEST_TYPES,
    oci::{CONNECT_TIMEOUT, Purpose, SILENCE_TIMEOUT},
    problem::Problem,
};
use crate::{
    budget::{Budget, Buffer},
    config::Secret,
};

/// Largest manifest, in bytes; what registries take themselves.
const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// Largest answer with a token, in bytes.
const TOKEN_BYTES_MAX: usize = 1 << 20;
/// The longest part of a refusal that is read, in bytes.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// Redirects of one request; registries need one.
const REDIRECTS_MAX: usize = 5;
/// How long a body may be slow.
const GRACE: Duration = Duration::from_secs(15);
/// Slower than any line over which modules are pulled, in bytes per second.
const SLOWEST: u64 = 2 << 10;

/// How a registry is read.
pub struct Reading {
    pub insecure: bool,
    /// Certificates in PEM that the registry may be signed by, besides those of the system.
    pub authorities: Vec<u8>,
    pub credentials: Option<Credentials>,
    pub place: Place,
    pub purpose: Purpose,
    /// Hosts that the user trusts with logins, besides the registry's own.
    pub token_hosts: Vec<String>,
    /// Pays for content.
    pub budget: Budget,
}

/// The access that a registry gave.
#[derive(Clone, Debug)]
pub enum Access {
    Anonymous,
    Basic { username: String, password: Secret },
    Token(Secret),
}

/// The repository of an image, for reading.
pub struct Http {
    client: Client,
    /// `https://registry/v2/`.
    root: Url,
    repository: String,
    access: Access,
    place: Place,
    budget: Budget,
}

impl Http {
    /// Prepares the client. Blocks on the file system: it reads the certificates of this machine.
    pub fn new(registry: &str, repository: &str, reading: &Reading) -> Result<Self, Problem> {
        let scheme = if reading.insecure { "http" } else { "https" };
        let root = Url::parse(&format!("{scheme}://{registry}/v2/"))
            .map_err(|error| Problem::Setup(format!("{registry} is no address ({error})")))?;
        let authorities =
            Certificate::from_pem_bundle(&reading.authorities).map_err(|error| setup(&error))?;
        let client = Client::builder()
            .user_agent(concat!("lattice-host/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE_TIMEOUT)
            .redirect(redirect::Policy::custom(follow))
            .dns_resolver(Resolver)
            .tls_certs_merge(authorities)
            .build()
            .map_err(|error| setup(&error))?;
        let (repository, place) = (repository.to_owned(), reading.place);
        Ok(Self {
            client,
            root,
            repository,
            access: Access::Anonymous,
            place,
            budget: reading.budget.clone(),
        })
    }

    /// Logs in as the registry wants it: not at all, with a password, or with a token got for it.
    pub async fn log_in(&mut self, reading: &Reading) -> Result<(), Problem> {
        if let Some(Credentials::Token(token)) = &reading.credentials {
            self.access = Access::Token(token.clone());
            return Ok(());
        }
        let answer = self.send(self.client.get(self.root.clone()), &self.root).await?;
        let lines = answer.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenge = Challenge::read(lines.filter_map(|line| line.to_str().ok()))?;
        self.access = match (challenge, reading) {
            (Challenge::Open, _) => Access::Anonymous,
            (Challenge::Password, Reading { credentials: Some(login), .. }) => basic(login),
            (Challenge::Password, _) => Access::Anonymous,
            (Challenge::Token { realm, service }, _) => {
                Access::Token(self.token(realm, service, reading).await?)
            }
        };
        Ok(())
    }

    /// The access that [`Http::log_in`] got.
    pub fn access(&self) -> &Access {
        &self.access
    }

    async fn token(
        &self,
        mut realm: Url,
        service: Option<String>,
        reading: &Reading,
    ) -> Result<Secret, Problem> {
        let login = reading.credentials.as_ref().map(basic);
        let carries = if login.is_some() { Carries::Login } else { Carries::Nothing };
        check_realm(&realm, &self.root, carries, &reading.token_hosts)?;
        let actions = match reading.purpose {
            Purpose::Pull => "pull",
            Purpose::Push => "pull,push",
        };
        realm
            .query_pairs_mut()
            .append_pair("scope", &format!("repository:{}:{actions}", self.repository))
            .extend_pairs(service.map(|service| ("service", service)));
        let request = self.client.get(realm.clone());
        let request = login.unwrap_or(Access::Anonymous).apply(request)?;
        let answer = self.send(request, &realm).await?;
        if answer.status().is_client_error() {
            return Err(Problem::Refused(self.place));
        }
        let body = bounded(self.succeeded(answer).await?, TOKEN_BYTES_MAX).await?;
        let token: Token = serde_json::from_slice(&body)
            .map_err(|_| Problem::Broken("the server of its tokens sent none".into()))?;
        match token.token.or(token.access_token) {
            Some(token) if !token.is_empty() => Ok(Secret::new(token)),
            _ => Err(Problem::Broken("the server of its tokens sent none".into())),
        }
    }

    /// Fetches the manifest of a tag or a digest.
    pub async fn manifest(&self, reference: &str) -> Result<Bytes, Problem> {
        let mut request = self.client.get(self.url("manifests", reference)?);
        for media_type in MANIFEST_TYPES {
            request = request.header(ACCEPT, media_type);
        }
        let answer = self.get(request).await?;
        let claimed = answer.headers().get("docker-content-digest").cloned();
        let body = bounded(answer, MANIFEST_BYTES_MAX).await?;
        // A digest of a kind that this host does not know says nothing about the content.
        let claimed = claimed.and_then(|value| Digest::parse(value.to_str().ok()?));
        let named = Digest::parse(reference);
        if claimed.into_iter().chain(named).any(|digest| digest != Digest::of(&body)) {
            return Err(Problem::Digest);
        }
        Ok(body)
    }

    /// Fetches content of a known size, and tells `came` of every piece.
    pub async fn content(
        &self,
        digest: &Digest,
        size: u64,
        mut came: impl FnMut(usize),
    ) -> Result<Bytes, Problem> {
        let name = digest.to_string();
        let request = self.client.get(self.url("blobs", &name)?);
        let mut answer = self.get(request).await?;
        let mut content = Buffer::new(&self.budget, usize::try_from(size).ok());
        let (mut computed, began) = (Context::new(&SHA256), Instant::now());
        while let Some(piece) = answer.chunk().await.map_err(|error| Problem::of_request(&error))? {
            // More than announced cannot be what the digest names, and must not fill the memory.
            if (content.len() + piece.len()) as u64 > size {
                return Err(Problem::Digest);
            }
            computed.update(&piece);
            let paid = content.push(&piece, tokio::time::Instant::now() + SILENCE_TIMEOUT).await;
            paid.map_err(|shortage| {
                Problem::Setup(format!("there is no memory for it now: {shortage}"))
            })?;
            came(piece.len());
            check_pace(content.len(), began.elapsed())?;
        }
        match name.ends_with(&HEXLOWER.encode(computed.finish().as_ref())) {
            true => Ok(content.finish()),
            false => Err(Problem::Digest),
        }
    }

    fn url(&self, kind: &str, reference: &str) -> Result<Url, Problem> {
        let path = format!("{}/{kind}/{reference}", self.repository);
        let url = self.root.join(&path);
        // The parser would take dots and a scheme for something else than a name.
        url.ok().filter(|url| url.path() == format!("/v2/{path}")).ok_or(Problem::Missing)
    }

    async fn get(&self, request: RequestBuilder) -> Result<Response, Problem> {
        let answer = self.send(self.access.apply(request)?, &self.root).await?;
        self.succeeded(answer).await
    }

    async fn send(&self, request: RequestBuilder, to: &Url) -> Result<Response, Problem> {
        if is_link_local_host(to) {
            return Err(Problem::Setup(LINK_LOCAL.into()));
        }
        request.send().await.map_err(|error| Problem::of_request(&error))
    }

    /// Turns a refusal into its reason.
    async fn succeeded(&self, answer: Response) -> Result<Response, Problem> {
        if answer.status().is_success() {
            return Ok(answer);
        }
        let code = answer.status().as_u16();
        // A refusal without end is one without words.
        let body = bounded(answer, REFUSAL_BYTES_MAX).await.unwrap_or_default();
        Err(Problem::of_answer(code, &body, self.place))
    }
}

/// The answer of a token server: the standard name and the older one.
#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Access {
    fn apply(&self, request: RequestBuilder) -> Result<RequestBuilder, Problem> {
        match self {
            Self::Anonymous => Ok(request),
            Self::Basic { username, password } => {
                Ok(request.basic_auth(username, Some(password.expose())))
            }
            Self::Token(token) => {
                let value = HeaderValue::from_str(&format!("Bearer {}", token.expose()));
                let mut value = value
                    .map_err(|_| Problem::Broken("its token is none that can be sent".into()))?;
                value.set_sensitive(true);
                Ok(request.header(AUTHORIZATION, value))
            }
        }
    }
}

fn basic(login: &Credentials) -> Access {
    match login {
        Credentials::Basic { username, password } => {
            Access::Basic { username: username.clone(), password: password.clone() }
        }
        Credentials::Token(token) => Access::Token(token.clone()),
    }
}

/// The reason why no client can be made.
pub fn setup(error: &(dyn std::error::Error + 'static)) -> Problem {
    let cause = lattice_protocol::errors::chain(error);
    Problem::Setup(format!(
        "no TLS client can be made ({cause}); check oci_ca (WASMCLOUD_OCI_CA) and the certificates \
         of this machine (SSL_CERT_FILE)"
    ))
}

/// Reads a body of at most `max` bytes.
async fn bounded(mut answer: Response, max: usize) -> Result<Bytes, Problem> {
    let (mut body, began) = (Vec::new(), Instant::now());
    while let Some(piece) = answer.chunk().await.map_err(|error| Problem::of_request(&error))? {
        if body.len() + piece.len() > max {
            return Err(Problem::Manifest(format!("the answer has more than {max} bytes")));
        }
        body.extend_from_slice(&piece);
        check_pace(body.len(), began.elapsed())?;
    }
    Ok(body.into())
}

/// Gives a body up that trickles: it would keep the place of another pull.
fn check_pace(bytes: usize, elapsed: Duration) -> Result<(), Problem> {
    let late = elapsed.saturating_sub(GRACE).as_secs();
    if bytes as u64 >= late * SLOWEST { Ok(()) } else { Err(Problem::Slow(SLOWEST)) }
}

/// Follows a redirect of a registry, unless it leaves TLS or leads to a link-local address. The
/// client drops the login when the host is another one.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let left_tls = attempt.previous().last().is_some_and(|from| from.scheme() == "https")
        && attempt.url().scheme() != "https";
    if attempt.previous().len() > REDIRECTS_MAX {
        return attempt.error(Refusal("it redirects too often"));
    }
    if left_tls {
        return attempt.error(Refusal("it redirects to a server without TLS"));
    }
    if is_link_local_host(attempt.url()) {
        return attempt.error(Refusal(LINK_LOCAL));
    }
    attempt.follow()
}

const LINK_LOCAL: &str =
    "it leads to a link-local address, where clouds keep the credentials of machines";

fn is_link_local_host(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    host.trim_matches(['[', ']']).parse().is_ok_and(is_link_local)
}

fn is_link_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// The reason why a request is not sent on.
#[derive(Debug)]
struct Refusal(&'static str);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Refusal {}

/// The system's names without link-local addresses.
struct Resolver;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let addresses: Vec<_> = found.filter(|address| !is_link_local(address.ip())).collect();
            if addresses.is_empty() {
                return Err(io::Error::other(Refusal(LINK_LOCAL)).into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_trickles_is_given_up_and_one_that_comes_is_not() {
        for (bytes, seconds, keeps) in [
            (0, 0, true),
            (1, 15, true),
            (1, 17, false),
            (4096, 17, true),
            (100 << 10, 60, true),
            (100 << 10, 120, false),
        ] {
            let pace = check_pace(bytes, Duration::from_secs(seconds));
            assert_eq!(pace.is_ok(), keeps, "{bytes} bytes in {seconds} s");
        }
    }

    #[test]
    fn addresses_of_cloud_metadata_are_known_in_every_spelling() {
        for (url, is_local) in [
            ("http://169.254.169.254/latest", true),
            ("http://2852039166/latest", true),
            ("http://[::ffff:169.254.169.254]/latest", true),
            ("http://[fe80::1]:5000/", true),
            ("http://127.0.0.1:5000/", false),
            ("https://registry.example/", false),
        ] {
            assert_eq!(is_link_local_host(&Url::parse(url).unwrap()), is_local, "{url}");
        }
    }

    #[test]
    fn names_that_lead_out_of_the_repository_are_refused() {
        let reading = Reading {
            insecure: true,
            authorities: Vec::new(),
            credentials: None,
            place: Place::Nowhere,
            purpose: Purpose::Pull,
            token_hosts: Vec::new(),
            budget: Budget::default(),
        };
        let http = Http::new("r.example:5000", "team/echo", &reading).unwrap();
        let url = http.url("manifests", "1.0.0-RC1").unwrap();
        assert_eq!(url.as_str(), "http://r.example:5000/v2/team/echo/manifests/1.0.0-RC1");
        for reference in ["../../x", "a?b", "a#b", "http://x"] {
            let found = http.url("manifests", reference);
            assert!(
                found.as_ref().is_err() || found.unwrap().path().ends_with(reference),
                "{reference}"
            );
        }
    }
}

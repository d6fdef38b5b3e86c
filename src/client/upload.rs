//! Files of this machine on their way into the lattice: read, verified, signed if asked for, and
//! stored where every host of ours finds them ([`Artifacts`]).
//!
//! ```text
//! local_file ─▶ prepare (read, tell apart, verify or sign) ─▶ Readers::find ─▶ Sender::send … Sender::tidy
//! ```
//!
//! Only hosts like this one know references of uploads. Those of earlier years would take one for
//! the name of an image, bid for it in an auction, and fail to start it. They are told apart by
//! their answer to a ping, in which only ours name the hosts they hear ([`Readers`]). Where these
//! look for uploads is in that answer too, so a client without settings sends to the right
//! JetStream domain.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use tokio::io::AsyncReadExt as _;
use tracing::debug;

use super::{lattice::Lattice, lost::look};
use lattice_base::{
    budget::Budget,
    config::Config,
    lattice::connection::Nats,
    providers::archive::Archive,
    registry::{ARTIFACT_BYTES_MAX, digest::Digest, uploads},
    store::{
        artifacts::{About, Artifacts, Put, superseded},
        desired::Desired,
        domain_name,
        jetstream::making::Making,
    },
};
use lattice_protocol::{
    control::types::{HostReply, Inventory},
    errors::{Usage, chain},
    identity::{
        ProviderClaims, VerifyOptions,
        claims::{ActorClaims, ModuleError, now, verify_module},
        module::is_wasm,
    },
};

/// Where a tar file says that it is one.
const TAR_MAGIC: (usize, &[u8]) = (257, b"ustar");
/// Extensions of names that mean a file even if it is not there.
const EXTENSIONS: [&str; 3] = [".wasm", ".par", ".par.gz"];
/// How long tidying up may take; what is left is removed the next time.
const TIDY_TIME: Duration = Duration::from_secs(5);

/// Returns the file of this machine that `word` means, if it means one: a path, or the name of a
/// file that is here.
pub fn local_file(word: &str) -> Option<PathBuf> {
    if word.contains("://") {
        return None;
    }
    let path = Path::new(word);
    let is_name_of_file =
        !word.contains(':') && EXTENSIONS.iter().any(|extension| word.ends_with(extension));
    (word.starts_with('.') || path.is_absolute() || is_name_of_file || path.is_file())
        .then(|| path.to_owned())
}

/// The kind of a file's content, by its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Module,
    Archive,
    Neither,
}

/// Tells a module from a provider archive, and both from anything else.
pub fn classify(bytes: &[u8]) -> Content {
    let (at, tar) = TAR_MAGIC;
    if is_wasm(bytes) {
        Content::Module
    } else if Archive::is_compressed(bytes)
        || bytes.get(at..).is_some_and(|rest| rest.starts_with(tar))
    {
        Content::Archive
    } else {
        Content::Neither
    }
}

/// The verified claims of an artifact.
#[derive(Clone, Debug)]
pub enum Verified {
    Actor(ActorClaims),
    Provider { claims: ProviderClaims, targets: BTreeSet<String> },
}

impl Verified {
    /// The public key of the actor or the provider.
    pub fn public_key(&self) -> &str {
        match self {
            Self::Actor(claims) => claims.subject.as_str(),
            Self::Provider { claims, .. } => claims.subject.as_str(),
        }
    }

    /// Returns a summary of its claims.
    pub fn about(&self) -> About {
        let (kind, name, revision) = match self {
            Self::Actor(claims) => ("actor", &claims.name, claims.effective_revision()),
            Self::Provider { claims, .. } => {
                ("provider", &claims.name, claims.effective_revision())
            }
        };
        About {
            kind: kind.to_owned(),
            public_key: self.public_key().to_owned(),
            name: name.clone().unwrap_or_default(),
            revision,
        }
    }
}

/// Why the content of a file is not sent.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    #[error("it is empty")]
    Empty,
    #[error("it is neither a WebAssembly module nor a provider archive (.par, .par.gz)")]
    Neither,
    #[error("it is not signed")]
    Unsigned,
    #[error(transparent)]
    Module(ModuleError),
    #[error("{0}")]
    Archive(String),
}

impl ContentError {
    /// Whether the file may just not be written whole yet.
    pub fn may_be_half(&self) -> bool {
        matches!(
            self,
            Self::Empty
                | Self::Neither
                | Self::Module(ModuleError::Malformed { .. } | ModuleError::NotWasm)
        )
    }
}

/// An artifact, verified.
#[derive(Clone, Debug)]
pub struct Artifact {
    pub content: Bytes,
    pub digest: Digest,
    pub verified: Verified,
    /// Whether it was signed here and now.
    pub was_unsigned: bool,
}

impl Artifact {
    /// Verifies content as hosts will.
    pub async fn verify(content: Bytes) -> Result<Self, ContentError> {
        let verifying = tokio::task::spawn_blocking(move || {
            let verified = verified(&content)?;
            Ok(Self { digest: Digest::of(&content), content, verified, was_unsigned: false })
        });
        verifying.await.unwrap_or_else(|panic| {
            Err(ContentError::Archive(format!("verifying it panicked: {panic}")))
        })
    }

    /// The reference it has in a lattice.
    pub fn reference(&self) -> String {
        uploads::reference(&self.digest)
    }
}

fn verified(content: &[u8]) -> Result<Verified, ContentError> {
    match classify(content) {
        Content::Module => match verify_module(content, now(), &VerifyOptions::default()) {
            Ok(module) => Ok(Verified::Actor(module.claims)),
            Err(ModuleError::Unsigned) => Err(ContentError::Unsigned),
            Err(error) => Err(ContentError::Module(error)),
        },
        Content::Archive => match Archive::inspect(content, now()) {
            Ok((claims, targets)) => Ok(Verified::Provider { claims, targets }),
            Err(error) => Err(ContentError::Archive(chain(&error))),
        },
        Content::Neither if content.is_empty() => Err(ContentError::Empty),
        Content::Neither => Err(ContentError::Neither),
    }
}

/// Reads a file, as far as an artifact may be large.
pub async fn read(path: &Path) -> Result<Bytes> {
    let content = async {
        // A pipe or a device would be read without end.
        let metadata = tokio::fs::metadata(path).await?;
        if !metadata.is_file() {
            return Err(std::io::Error::other("it is no ordinary file"));
        }
        let mut content = Vec::with_capacity(
            usize::try_from(metadata.len().min(ARTIFACT_BYTES_MAX)).unwrap_or_default(),
        );
        let file = tokio::fs::File::open(path).await?;
        file.take(ARTIFACT_BYTES_MAX + 1).read_to_end(&mut content).await?;
        Ok(content)
    };
    let content = content.await.with_context(|| format!("read {}", path.display()))?;
    if content.len() as u64 > ARTIFACT_BYTES_MAX {
        bail!(
            "{} has more than the {ARTIFACT_BYTES_MAX} bytes an artifact may have",
            path.display()
        );
    }
    Ok(content.into())
}

/// Reads a file and verifies what is in it. `sign` signs a module that is not signed.
pub async fn prepare(
    path: &Path,
    sign: Option<impl FnOnce(&[u8]) -> Result<Vec<u8>>>,
) -> Result<Artifact> {
    let content = read(path).await?;
    let shown = path.display();
    let error = match Artifact::verify(content.clone()).await {
        Ok(artifact) => return Ok(artifact),
        Err(error) => error,
    };
    let ContentError::Unsigned = error else {
        return Err(anyhow!(error).context(format!("{shown} is not sent")));
    };
    let Some(sign) = sign else {
        return Err(Usage(format!(
            "{shown} is not signed, and hosts run signed modules only; sign it with `host claims sign {shown}`, or let it be \
             signed with your own keys on the way: --sign"
        ))
        .into());
    };
    let signed = sign(&content).with_context(|| format!("sign {shown}"))?;
    let artifact = Artifact::verify(signed.into())
        .await
        .with_context(|| format!("verify {shown} after signing it"))?;
    Ok(Artifact { was_unsigned: true, ..artifact })
}

/// The hosts that know references of uploads, and the JetStream domain they look for them in.
#[derive(Clone, Debug)]
pub struct Readers {
    hosts: Vec<HostReply>,
    domain: Option<String>,
    /// Hosts of earlier years, and of other domains.
    others: Vec<HostReply>,
}

impl Readers {
    /// Asks who is there.
    pub async fn find(lattice: &Lattice) -> Result<Self> {
        Self::among(lattice.some_hosts().await?, lattice.js_domain.as_deref(), lattice.name())
    }

    /// Chooses among hosts; `configured` is the domain of the settings, which decides where hosts
    /// disagree.
    fn among(all: Vec<HostReply>, configured: Option<&str>, lattice: &str) -> Result<Self> {
        let (ours, mut others): (Vec<_>, Vec<_>) = all.into_iter().partition(|host| host.is_ours());
        let domains: BTreeSet<Option<&str>> =
            ours.iter().map(|host| host.js_domain.as_deref()).collect();
        let domain = match domains.iter().collect::<Vec<_>>().as_slice() {
            [] => bail!(
                "no host of lattice {lattice} runs files that are sent to it; {} that answered are of earlier years. Start \
                 one of this binary (`host up`, `host foreground`), or send the file to a registry (`host push IMAGE FILE`) \
                 and start the image",
                others.len()
            ),
            [one] => one.map(str::to_owned),
            _ if domains.contains(&configured) => configured.map(str::to_owned),
            several => {
                let names: Vec<&str> =
                    several.iter().map(|domain| domain.unwrap_or("none")).collect();
                return Err(Usage(format!(
                    "the hosts of lattice {lattice} have different JetStream domains ({}); say with --js-domain to which a file \
                     is to be sent",
                    names.join(", ")
                ))
                .into());
            }
        };
        let (hosts, elsewhere) = ours.into_iter().partition(|host| host.js_domain == domain);
        others.extend::<Vec<_>>(elsewhere);
        Ok(Self { hosts, domain, others })
    }

    pub fn hosts(&self) -> &[HostReply] {
        &self.hosts
    }

    /// Hosts that answered and cannot start an upload.
    pub fn others(&self) -> &[HostReply] {
        &self.others
    }

    pub fn domain(&self) -> Option<&str> {
        self.domain.as_deref()
    }

    pub fn has(&self, host: &str) -> bool {
        self.hosts.iter().any(|reader| reader.id == host)
    }

    /// Says why a host that was named cannot start an upload.
    pub fn require(&self, host: &str) -> Result<()> {
        if self.has(host) {
            return Ok(());
        }
        let Some(other) = self.others.iter().find(|other| other.id == host) else {
            bail!(
                "host {host} does not answer, so a file is not sent for it; look with `host get hosts`"
            );
        };
        if other.is_ours() {
            let (its, ours) = (domain_name(other.js_domain.as_deref()), domain_name(self.domain()));
            bail!(
                "host {host} looks for files in {its}, not in {ours}; name its domain with --js-domain"
            );
        }
        bail!(
            "host {host} (version {}) is of earlier years and knows no files that are sent to the lattice; name another host, or \
             send the file to a registry (`host push IMAGE FILE`) and start the image",
            other.version
        )
    }
}

/// An artifact that was sent, or was there already.
#[derive(Clone, Debug)]
pub struct Uploaded {
    /// `lattice://sha256:…`, for start and update commands.
    pub reference: String,
    pub digest: Digest,
    pub verified: Verified,
    pub bytes: u64,
    pub put: Put,
    /// Whether it was signed on the way.
    pub was_unsigned: bool,
}

/// A way into a lattice. Cheap to clone.
#[derive(Clone)]
pub struct Sender {
    pub lattice: Lattice,
    pub nats: Nats,
    /// How a bucket is made if it is missing.
    pub making: Making,
}

impl Sender {
    /// Sends over these connections, by these settings.
    pub fn new(lattice: Lattice, nats: Nats, config: &Config) -> Self {
        let making = Making::of_artifacts(config.kv_replicas, config.artifacts_max_bytes);
        Self { lattice, nats, making }
    }

    /// The store that these hosts read.
    pub fn store(&self, readers: &Readers) -> Artifacts {
        self.store_in(readers.domain())
    }

    fn store_in(&self, domain: Option<&str>) -> Artifacts {
        Artifacts::new(
            self.nats.clone(),
            domain,
            self.lattice.name(),
            self.making,
            Budget::default(),
        )
    }

    /// Sends an artifact to where `readers` look, unless it is there. `progress` receives how many
    /// bytes of how many are stored. A caller that has sent something [tidies up](Self::tidy) when
    /// nobody waits any more.
    pub async fn send(
        &self,
        readers: &Readers,
        artifact: &Artifact,
        progress: impl FnMut(u64, u64),
    ) -> Result<Uploaded> {
        let store = self.store(readers);
        let put = store.put(&artifact.content, &artifact.verified.about(), progress).await?;
        Ok(Uploaded {
            reference: artifact.reference(),
            digest: artifact.digest.clone(),
            verified: artifact.verified.clone(),
            bytes: artifact.content.len() as u64,
            put,
            was_unsigned: artifact.was_unsigned,
        })
    }

    /// Removes what has a successor, was not sent for long, and runs nowhere. It is a favour: what
    /// fails is left to the next one who sends something.
    pub async fn tidy(&self, readers: &Readers) {
        let store = self.store(readers);
        let tidy = async {
            if let Err(problem) = store.sweep().await {
                debug!(%problem, "pieces of unfinished uploads not looked through");
            }
            let all = store.list().await.map_err(|problem| anyhow!("{problem}"))?;
            let old = superseded(&all);
            if old.is_empty() {
                return Ok(0);
            }
            let in_use = self.in_use(readers).await?;
            let unused: Vec<_> = old
                .into_iter()
                .filter(|stored| !in_use.contains(&uploads::reference(&stored.digest)))
                .collect();
            store.delete_unchanged(&unused).await.map_err(|problem| anyhow!("{problem}"))
        };
        match tokio::time::timeout(TIDY_TIME, tidy).await {
            Ok(Ok(removed)) => debug!(removed, "old uploads looked through"),
            Ok(Err(error)) => {
                debug!(error = %format!("{error:#}"), "old uploads not looked through")
            }
            Err(_) => debug!("looking through old uploads took too long"),
        }
    }

    /// The references of all that runs, or is to run when its host comes back; an error if a host
    /// or the bucket does not tell.
    pub async fn in_use(&self, readers: &Readers) -> Result<BTreeSet<String>> {
        let look = look(&self.lattice).await?;
        if !look.is_whole() {
            bail!("not every host says what it runs");
        }
        let desired =
            Desired::new(self.nats.clone(), readers.domain(), self.lattice.name(), self.making);
        let mut in_use = references_of(&look.inventories);
        // Even of others: an upload that stays too long does no harm.
        for entry in desired.entries().await? {
            in_use.extend(uploads::references_in(&String::from_utf8_lossy(&entry.value)));
        }
        Ok(in_use)
    }
}

/// The references of all that runs.
fn references_of(inventories: &[Inventory]) -> BTreeSet<String> {
    let actors = inventories.iter().flat_map(|inventory| &inventory.actors);
    let of_actors = actors.flat_map(|actor| {
        let of_instances = actor.instances.iter().map(|instance| instance.image_ref.clone());
        of_instances.chain([actor.image_ref.clone()])
    });
    let providers = inventories.iter().flat_map(|inventory| &inventory.providers);
    of_actors.chain(providers.map(|provider| provider.image_ref.clone())).collect()
}

/// Returns the store of uploads of a lattice: where its hosts look, or `domain` if none answers.
pub async fn store(sender: &Sender, domain: Option<&str>) -> Artifacts {
    match Readers::find(&sender.lattice).await {
        Ok(readers) => sender.store(&readers),
        Err(_) => sender.store_in(domain),
    }
}

/// Bytes of bytes, for people.
pub fn amount(bytes: u64, of: u64) -> String {
    const MEGABYTE: f64 = 1e6;
    if of < 1_000_000 {
        return format!("{} of {} kB", bytes.div_ceil(1000), of.div_ceil(1000));
    }
    format!("{:.1} of {:.1} MB", bytes as f64 / MEGABYTE, of as f64 / MEGABYTE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(id: &str, is_ours: bool, domain: Option<&str>) -> HostReply {
        let peers = is_ours.then(Vec::new);
        HostReply {
            id: id.into(),
            peers,
            js_domain: domain.map(str::to_owned),
            ..HostReply::default()
        }
    }

    fn ids(hosts: &[HostReply]) -> Vec<&str> {
        hosts.iter().map(|host| host.id.as_str()).collect()
    }

    #[test]
    fn words_that_are_paths_mean_files_of_this_machine() {
        for path in ["./x.wasm", "../x", "/abs/x.wasm", "target/x.wasm", "x.par.gz", "Cargo.toml"] {
            assert_eq!(local_file(path), Some(PathBuf::from(path)), "{path}");
        }
        for reference in [
            "file:///a/x.wasm",
            "registry.example/echo:0.3.4",
            "localhost:5000/echo.wasm:1",
            "builtin://httpserver",
            "lattice://sha256:12",
            "echo",
        ] {
            assert_eq!(local_file(reference), None, "{reference}");
        }
    }

    #[test]
    fn content_is_told_apart_by_its_beginning() {
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        assert_eq!(classify(b"\0asm\x01\0\0\0"), Content::Module);
        assert_eq!(classify(&tar), Content::Archive);
        assert_eq!(classify(&[0x1f, 0x8b, 8]), Content::Archive);
        for neither in [&b""[..], b"\0as", b"(module)", &[0; 600]] {
            assert_eq!(classify(neither), Content::Neither);
        }
    }

    #[tokio::test]
    async fn each_kind_of_unusable_content_has_its_own_error() {
        let error = async |content: &'static [u8]| {
            Artifact::verify(Bytes::from_static(content)).await.unwrap_err()
        };
        assert!(matches!(error(b"").await, ContentError::Empty));
        assert!(matches!(error(b"text").await, ContentError::Neither));
        assert!(matches!(error(b"\0asm\x01\0\0\0").await, ContentError::Unsigned));
        assert!(matches!(error(&[0x1f, 0x8b, 8]).await, ContentError::Archive(_)));
        let half = error(b"\0asm\x01\0\0\0\x01\x10").await;
        assert!(half.may_be_half() && !error(b"\0asm\x01\0\0\0").await.may_be_half(), "{half}");
    }

    #[tokio::test]
    async fn an_unsigned_module_is_signed_or_refused_with_both_ways() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("bare.wasm");
        std::fs::write(&path, b"\0asm\x01\0\0\0").unwrap();
        type Sign = fn(&[u8]) -> Result<Vec<u8>>;
        let error = prepare(&path, None::<Sign>).await.unwrap_err();
        let text = error.to_string();
        assert!(
            error.is::<Usage>() && text.contains("host claims sign") && text.contains("--sign"),
            "{text}"
        );
        let key = wascap::prelude::KeyPair::new_module();
        let account = wascap::prelude::KeyPair::new_account();
        let sign = |wasm: &[u8]| {
            let metadata =
                wascap::jwt::Actor::new("bare".into(), None, None, false, Some(3), None, None);
            let mut claims = wascap::prelude::ClaimsBuilder::<wascap::jwt::Actor>::new();
            let claims = claims
                .issuer(&account.public_key())
                .subject(&key.public_key())
                .with_metadata(metadata)
                .build();
            wascap::wasm::embed_claims(wasm, &claims, &account).map_err(|error| anyhow!("{error}"))
        };
        let artifact = prepare(&path, Some(sign)).await.unwrap();
        assert!(artifact.was_unsigned && artifact.verified.public_key() == key.public_key());
        assert_eq!(artifact.verified.about().revision, 3);
    }

    #[test]
    fn hosts_of_earlier_years_do_not_count() {
        let all = vec![
            host("N1", false, Some("core")),
            host("N2", true, Some("core")),
            host("N3", true, Some("core")),
        ];
        let readers = Readers::among(all, None, "default").unwrap();
        assert_eq!((ids(readers.hosts()), ids(readers.others())), (vec!["N2", "N3"], vec!["N1"]));
        assert_eq!(readers.domain(), Some("core"));
        assert!(readers.require("N2").is_ok());
        assert!(readers.require("N1").unwrap_err().to_string().contains("earlier years"));
        assert!(readers.require("N9").unwrap_err().to_string().contains("does not answer"));
        let none =
            Readers::among(vec![host("N1", false, None)], None, "default").unwrap_err().to_string();
        assert!(none.contains("host push") && none.contains("lattice default"), "{none}");
    }

    #[test]
    fn the_domain_is_that_of_the_hosts_and_the_settings_decide_where_they_disagree() {
        let all = || vec![host("N1", true, Some("core")), host("N2", true, Some("extender"))];
        let readers = Readers::among(all(), Some("extender"), "default").unwrap();
        assert_eq!((ids(readers.hosts()), readers.domain()), (vec!["N2"], Some("extender")));
        assert!(readers.require("N1").unwrap_err().to_string().contains("--js-domain"));
        assert!(Readers::among(all(), Some("other"), "default").unwrap_err().is::<Usage>());
        let wrong =
            Readers::among(vec![host("N1", true, Some("core"))], Some("other"), "default").unwrap();
        assert_eq!(wrong.domain(), Some("core"));
    }

    #[test]
    fn amounts_are_short() {
        assert_eq!(amount(0, 900), "0 of 1 kB");
        assert_eq!(amount(1_250_000, 30_000_000), "1.2 of 30.0 MB");
    }
}

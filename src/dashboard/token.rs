//! The secret that opens the dashboard, and the signed tokens that are made of it.
//!
//! A random text is kept in a file of this user, [`FILE`], that nobody else may read. All hosts of
//! the user share it.
//!
//! * Programs show the text itself, as bearer.
//! * A *session* is a JWT for [`SESSION`]; a page shows it as bearer, too.
//! * A *code* is a JWT for [`CODE`] and for one host, and is exchanged for a session once.
//!   Everybody who may read the file can make one without asking the host ([`Keys::code`]), so
//!   `host dashboard` needs no API.
//!
//! The keys of both are derived from the text, so a restart ends no session, and another text
//! ([`renew`]) ends them all. A session also depends on the token of the settings, if there is one:
//! another setting ends it as well.

use std::{
    fs, io,
    io::{Read as _, Write as _},
    path::Path,
    time::Duration,
};

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rand::Rng as _;
use serde::{Deserialize, Serialize};

use lattice_base::{config::Secret, trusted};
use lattice_protocol::clock;

/// The name of the file, below the state directory.
pub const FILE: &str = "dashboard.token";
/// How long a session lasts.
pub const SESSION: Duration = Duration::from_secs(12 * 3600);
/// How long a code may be exchanged for a session.
pub const CODE: Duration = Duration::from_secs(60);

/// Random bytes of what is made up.
const SECRET_BYTES: usize = 32;
/// Bytes of a derived key.
const KEY_BYTES: usize = 32;
/// No token of ours is longer.
const FILE_BYTES_MAX: u64 = 4096;
const SALT: &[u8] = b"lattice dashboard";

/// The claims of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Its purpose: [`Use::name`].
    aud: String,
    /// The host that takes it; empty for sessions.
    #[serde(default)]
    sub: String,
    /// When it was made, in seconds since 1970.
    iat: u64,
    /// Until when it holds, likewise.
    pub exp: u64,
    /// Tells it from all others.
    pub jti: String,
}

/// The purpose of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Session,
    Code,
}

impl Use {
    fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Code => "code",
        }
    }

    fn lasts(self) -> Duration {
        match self {
            Self::Session => SESSION,
            Self::Code => CODE,
        }
    }
}

/// The keys of sessions and codes.
pub struct Keys {
    sessions: Pair,
    codes: Pair,
}

/// A key, as the two halves of the library take it.
struct Pair {
    sign: EncodingKey,
    check: DecodingKey,
}

impl Keys {
    /// Derives the keys from the text in the file, and from the token of the settings.
    pub fn new(kept: &Secret, set: Option<&Secret>) -> Self {
        let set = set.map(|set| set.expose().trim()).unwrap_or_default();
        Self {
            sessions: Pair::derive(kept, Use::Session, set),
            codes: Pair::derive(kept, Use::Code, ""),
        }
    }

    /// Makes a session that begins at `now`, in seconds since 1970.
    pub fn session(&self, now: u64) -> String {
        self.sessions.sign(Use::Session, "", now)
    }

    /// Makes a code for a host.
    pub fn code(&self, host_id: &str, now: u64) -> String {
        self.codes.sign(Use::Code, host_id, now)
    }

    /// Reads a session; nothing if it is none, or over.
    pub fn read_session(&self, text: &str) -> Option<Claims> {
        self.sessions.check(Use::Session, "", text)
    }

    /// Reads a code for a host; nothing if it is none, or too old. Whether it was used before is
    /// the caller's to know.
    pub fn read_code(&self, host_id: &str, text: &str) -> Option<Claims> {
        self.codes.check(Use::Code, host_id, text)
    }
}

/// The length of a derived key, as the library asks for it.
#[derive(Clone, Copy)]
struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        KEY_BYTES
    }
}

impl Pair {
    fn derive(kept: &Secret, purpose: Use, more: &str) -> Self {
        let secret = Salt::new(HKDF_SHA256, SALT).extract(kept.expose().as_bytes());
        let mut key = [0; KEY_BYTES];
        let info = [purpose.name().as_bytes(), b"/", more.as_bytes()];
        secret
            .expand(&info, Length)
            .and_then(|okm| okm.fill(&mut key))
            .expect("32 bytes are few for HKDF");
        let keys = (EncodingKey::from_secret(&key), DecodingKey::from_secret(&key));
        let (Ok(sign), Ok(check)) = keys else { unreachable!("the key has {KEY_BYTES} bytes") };
        Self { sign, check }
    }

    fn sign(&self, purpose: Use, host_id: &str, now: u64) -> String {
        let claims = Claims {
            aud: purpose.name().to_owned(),
            sub: host_id.to_owned(),
            iat: now,
            exp: now + purpose.lasts().as_secs(),
            jti: random(),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.sign)
            .expect("texts and numbers are JSON")
    }

    fn check(&self, purpose: Use, host_id: &str, text: &str) -> Option<Claims> {
        let mut rules = Validation::new(Algorithm::HS256);
        // One machine has one clock.
        rules.leeway = 0;
        rules.set_audience(&[purpose.name()]);
        rules.set_required_spec_claims(&["aud", "exp", "sub"]);
        rules.sub = Some(host_id.to_owned());
        jsonwebtoken::decode::<Claims>(text, &self.check, &rules).ok().map(|token| token.claims)
    }
}

/// Whether a text looks like one of these tokens, and not like one that somebody typed.
pub fn is_signed(text: &str) -> bool {
    text.starts_with("eyJ") && text.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// Now, in seconds since 1970.
pub fn now() -> u64 {
    clock::unix_time().as_secs()
}

/// A new secret, of letters, digits, `-` and `_`.
pub fn random() -> String {
    let mut bytes = [0; SECRET_BYTES];
    rand::rng().fill(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The text in a file of this user; made up if there is none. Blocks for a moment.
///
/// Fails when the file or its directory belongs to somebody else, or others may read or change it:
/// then others may know it.
pub fn kept(path: &Path) -> io::Result<Secret> {
    match read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        read => return read,
    }
    let dir = path.parent().unwrap_or(Path::new("."));
    match trusted::write(dir, path, &random()) {
        // Another host of this user was faster.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    read(path)
}

/// The text in a file that is there.
pub fn read(path: &Path) -> io::Result<Secret> {
    let mut options = fs::File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        options.custom_flags(flags.bits().cast_signed());
    }
    let file = options.open(path)?;
    #[cfg(unix)]
    {
        let dir = path.parent().unwrap_or(Path::new("."));
        // A group of one's own may write to directories; that is how many systems make them.
        check_owner(dir, &fs::metadata(dir)?, 0o002)?;
        check_owner(path, &file.metadata()?, 0o077)?;
    }
    if !file.metadata()?.is_file() {
        return Err(io::Error::other(format!("{} is no file", path.display())));
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    match text.trim() {
        "" => Err(io::Error::new(io::ErrorKind::NotFound, format!("{} is empty", path.display()))),
        text => Ok(Secret::new(text)),
    }
}

/// Refuses what belongs to others, and what others may do `forbidden` with.
#[cfg(unix)]
fn check_owner(path: &Path, metadata: &fs::Metadata, forbidden: u32) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let (owner, me) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != me && owner != 0 {
        return Err(io::Error::other(format!(
            "{} belongs to another user ({owner})",
            path.display()
        )));
    }
    if metadata.mode() & forbidden != 0 {
        let text =
            format!("others may read or change {}; remove it, and it is made anew", path.display());
        return Err(io::Error::other(text));
    }
    Ok(())
}

/// Puts another text in the place of the one that is there, which ends all sessions and codes.
/// Blocks for a moment.
pub fn renew(path: &Path) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    // Of mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(random().as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(kept: &str) -> Keys {
        Keys::new(&Secret::new(kept), None)
    }

    #[test]
    fn a_token_is_made_up_once_and_nobody_else_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state").join(FILE);
        let first = kept(&path).unwrap();
        assert!(first.expose().len() > 40);
        assert_eq!(kept(&path).unwrap(), first);
        renew(&path).unwrap();
        assert_ne!(kept(&path).unwrap(), first);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_token_that_others_may_know_is_refused() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        kept(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(kept(&path).unwrap_err().to_string().contains("others may"), "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(read(&link).is_err());
        assert!(read(dir.path()).is_err());
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(kept(&path).unwrap_err().to_string().contains("others may"));
    }

    #[test]
    fn sessions_outlive_a_restart_and_end_by_time_and_by_another_secret() {
        let session = keys("one").session(now());
        assert!(keys("one").read_session(&session).is_some());
        assert!(keys("two").read_session(&session).is_none());
        assert!(
            Keys::new(&Secret::new("one"), Some(&Secret::new("set")))
                .read_session(&session)
                .is_none()
        );
        let old = keys("one").session(now() - SESSION.as_secs() - 1);
        assert!(keys("one").read_session(&old).is_none());
        assert!(is_signed(&session) && !is_signed("sixteen letters!") && !is_signed(&random()));
    }

    #[test]
    fn a_code_is_for_one_host_and_one_minute_and_is_no_session() {
        let keys = keys("one");
        let code = keys.code("NA", now());
        assert!(keys.read_code("NA", &code).is_some());
        assert!(keys.read_code("NB", &code).is_none() && keys.read_session(&code).is_none());
        assert!(keys.read_code("", &keys.session(now())).is_none());
        assert!(keys.read_code("NA", &keys.code("NA", now() - CODE.as_secs() - 1)).is_none());
    }

    #[test]
    fn what_is_not_signed_by_us_is_refused() {
        let keys = keys("one");
        let session = keys.session(now());
        let parts: Vec<&str> = session.split('.').collect();
        let encoded = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let none = encoded(r#"{"typ":"JWT","alg":"none"}"#);
        let longer = encoded(r#"{"aud":"session","sub":"","iat":0,"exp":99999999999,"jti":"x"}"#);
        for forged in [
            format!("{none}.{}.", parts[1]),
            format!("{none}.{}.{}", parts[1], parts[2]),
            format!("{}.{longer}.{}", parts[0], parts[2]),
            format!("{}.{}.", parts[0], parts[1]),
            format!("{}.{}.{}", parts[0], parts[1], encoded("signature")),
            String::new(),
            "..".into(),
        ] {
            assert!(keys.read_session(&forged).is_none(), "{forged}");
        }
    }
}

//! The logins that `docker login` keeps: `config.json`, and the helper programs it names.
//!
//! The file and the helpers are read anew for each pull, so that a login takes effect without a
//! restart. That docker was never used on this machine is normal; anything else that goes wrong is
//! a warning and the pull goes on without a login.

use std::{fs::File, io, path::PathBuf, time::Duration};

use docker_credential::{CredentialRetrievalError, DockerCredential};
use tracing::warn;

use super::credentials::Credentials;
use crate::config::Secret;

/// How long a helper program may take. Some ask a key store of the desktop, some a service in the
/// network.
const HELPER_TIMEOUT: Duration = Duration::from_secs(15);
/// The key under which docker keeps the login of its own registry.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// The user under whom registries take the token of a login by browser for a password, by Azure's
/// documentation; those of other makers leave such tokens out.
const TOKEN_USER: &str = "00000000-0000-0000-0000-000000000000";

/// Looks for the login of a registry, given as `host` or `host:port`.
pub async fn login(config: PathBuf, registry: String) -> Option<Credentials> {
    let key = if registry == "docker.io" { DOCKER_HUB.to_owned() } else { registry.clone() };
    // On a thread of its own: the crate waits for the helper.
    let look = tokio::task::spawn_blocking(move || match File::open(&config) {
        Ok(file) => docker_credential::get_credential_from_reader(io::BufReader::new(file), &key),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(CredentialRetrievalError::NoCredentialConfigured)
        }
        Err(_) => Err(CredentialRetrievalError::ConfigReadError),
    });
    let found = match tokio::time::timeout(HELPER_TIMEOUT, look).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            warn!(%registry, %error, "docker's config.json not read, going on without its logins");
            return None;
        }
        Err(_) => {
            warn!(%registry, "docker's credential helper does not answer, going on without its logins");
            return None;
        }
    };
    match found {
        Ok(DockerCredential::UsernamePassword(username, password)) => {
            Some(Credentials::Basic { username, password: Secret::new(password) })
        }
        Ok(DockerCredential::IdentityToken(token)) => Some(Credentials::Basic {
            username: TOKEN_USER.to_owned(),
            password: Secret::new(token),
        }),
        Err(error) => {
            if let Some(cause) = complaint(&error) {
                warn!(%registry, error = cause, "docker's config.json holds no usable login, going on without it");
            }
            None
        }
    }
}

/// Returns the text for an error; `None` when there simply is no login. The output of a helper is
/// never repeated.
fn complaint(error: &CredentialRetrievalError) -> Option<String> {
    match error {
        CredentialRetrievalError::NoCredentialConfigured
        | CredentialRetrievalError::ConfigNotFound => None,
        // The sentence all helpers of docker say when they know nothing of a registry.
        CredentialRetrievalError::HelperFailure { stdout, stderr, .. }
            if stdout.contains("credentials not found")
                || stderr.contains("credentials not found") =>
        {
            None
        }
        CredentialRetrievalError::HelperFailure { helper, .. } => Some(format!("{helper} failed")),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_a_helper_is_not_repeated() {
        let failure = |stdout: &str| CredentialRetrievalError::HelperFailure {
            helper: "docker-credential-x".into(),
            stdout: stdout.into(),
            stderr: String::new(),
        };
        assert_eq!(complaint(&failure("credentials not found in native keychain")), None);
        assert_eq!(complaint(&failure("hunter2")), Some("docker-credential-x failed".into()));
        assert_eq!(complaint(&CredentialRetrievalError::NoCredentialConfigured), None);
        assert!(complaint(&CredentialRetrievalError::ConfigReadError).is_some());
    }

    #[tokio::test]
    async fn a_missing_or_broken_file_is_no_login() {
        let dir = tempfile::TempDir::new().unwrap();
        let config = dir.path().join("config.json");
        assert!(login(config.clone(), "r.example".into()).await.is_none());
        std::fs::write(&config, "no json").unwrap();
        assert!(login(config, "r.example".into()).await.is_none());
    }
}

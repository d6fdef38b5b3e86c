//! How registries are reached from here: with or without TLS, trusting whom, with which login.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;

use super::{
    Settings,
    credentials::{Credentials, Logins, authority},
    http::Reading,
    image::Image,
    oci::{Purpose, Remote},
    problem::Problem,
};
use crate::{budget::Budget, config::OciCredentials};

/// Makes connections to registries.
pub struct Connector {
    allowed_insecure: Vec<String>,
    ca: Option<PathBuf>,
    /// Those of the settings may change.
    logins: ArcSwap<Logins>,
    token_hosts: Vec<String>,
    budget: Budget,
}

impl Connector {
    pub fn new(settings: &Settings) -> Self {
        Self {
            allowed_insecure: settings
                .allowed_insecure
                .iter()
                .map(|registry| authority(registry))
                .collect(),
            ca: settings.ca.clone(),
            logins: ArcSwap::from_pointee(settings.logins.clone()),
            token_hosts: settings.token_hosts.clone(),
            budget: settings.budget.clone(),
        }
    }

    /// Takes another login of the settings; pulls that have begun keep the one they have.
    pub fn set_login(&self, login: Option<OciCredentials>) {
        let logins = Logins::clone(&self.logins.load());
        self.logins.store(Arc::new(Logins { settings: login, ..logins }));
    }

    /// Makes a client for an image and logs in.
    pub async fn connect(&self, image: &Image, purpose: Purpose) -> Result<Remote, Problem> {
        let logins = self.logins.load_full();
        let (place, credentials) = logins.of(image.registry()).await;
        // Refused before anything is asked, and by the client of pushes with a panic.
        if let Some(Credentials::Token(token)) = &credentials
            && !token.expose().bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(Problem::Setup(
                "the token of its login holds characters no token may have; put it again".into(),
            ));
        }
        let insecure = self.allowed_insecure.iter().any(|allowed| allowed == image.registry());
        let (own, ca, token_hosts) = (image.clone(), self.ca.clone(), self.token_hosts.clone());
        let budget = self.budget.clone();
        // Reading the system's certificates takes a while.
        let made = tokio::task::spawn_blocking(move || {
            let authorities = ca.as_deref().map(read_ca).transpose()?.unwrap_or_default();
            let reading =
                Reading { insecure, authorities, credentials, place, purpose, token_hosts, budget };
            Ok((Remote::new(own, &reading)?, reading))
        });
        let made = made.await;
        let (mut remote, reading) =
            made.map_err(|error| Problem::Setup(format!("no client can be made: {error}")))??;
        remote.log_in(&reading).await?;
        Ok(remote)
    }
}

fn read_ca(path: &Path) -> Result<Vec<u8>, Problem> {
    let wrong = |cause: String| {
        Problem::Setup(format!(
            "the certificates of {} cannot be used ({cause}); correct oci_ca (WASMCLOUD_OCI_CA)",
            path.display()
        ))
    };
    let data = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    if !data.windows(27).any(|part| part == b"-----BEGIN CERTIFICATE-----") {
        return Err(wrong("it holds no PEM certificate".into()));
    }
    Ok(data)
}

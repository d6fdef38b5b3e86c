//! How registries are reached from here: with or without TLS, trusting whom, with which login.

use std::path::PathBuf;

use super::{
    Settings,
    credentials::{Logins, authority},
    image::Image,
    oci::{Access, Purpose, Remote},
    problem::Problem,
};

/// Makes connections to registries.
pub struct Connector {
    allowed_insecure: Vec<String>,
    ca: Option<PathBuf>,
    logins: Logins,
}

impl Connector {
    pub fn new(settings: &Settings) -> Self {
        Self {
            allowed_insecure: settings.allowed_insecure.iter().map(|registry| authority(registry)).collect(),
            ca: settings.ca.clone(),
            logins: settings.logins.clone(),
        }
    }

    /// Makes a client for an image and logs in.
    pub async fn connect(&self, image: &Image, purpose: Purpose) -> Result<Remote, Problem> {
        let (place, credentials) = self.logins.of(image.registry()).await;
        let insecure = self.allowed_insecure.iter().any(|allowed| allowed == image.registry());
        let (image, ca) = (image.clone(), self.ca.clone());
        let made = tokio::task::spawn_blocking(move || {
            Remote::new(image, Access { insecure, ca: ca.as_deref(), credentials, place, purpose })
        });
        let remote = made.await.map_err(|error| Problem::Setup(format!("no client can be made: {error}")))??;
        remote.log_in().await?;
        Ok(remote)
    }
}

//! The demonstration that `host up --demo` starts on its host: a page that shows a dog or a cat for
//! each request, without the internet.
//!
//! ```text
//! browser ─▶ builtin://httpserver ─▶ actor dogs-and-cats ─▶ builtin://httpclient ─▶ pets API (this process)
//! ```
//!
//! * [`pets`] is the API, an HTTPS server with a [`certificate`] of its own authority and
//!   [`pictures`] drawn by itself.
//! * [`application`] starts the two providers and the actor and links them, as a client of the
//!   control interface would.
//!
//! The actor asks `dog.ceo` and `api.thecatapi.com`; values of its link to the HTTP client say that
//! both are the API here and which authority to trust. Without these values it asks the real ones.
//!
//! The host keeps what is started here like any other start. The API is not the host's, so
//! `host up` notes that it has started it once, and starts it again for as long as the actor is
//! kept.
//!
//! Starting it again on a lattice that knows it already gives the link to the HTTP client the
//! values of the new API, and leaves the page where it was. The API listens on loopback: actors on
//! other machines work because their calls reach the HTTP client of this host, but an HTTP client
//! that another machine starts for itself would look for the API over there. So a lattice has room
//! for one demonstration at a time.

mod application;
pub mod certificate;
pub mod pets;
mod pictures;

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result};

use application::Application;
use certificate::Certificate;
use lattice_base::dirs::Dirs;
use lattice_engine::host::Host;
use pets::{Pets, Settings};

pub use application::ACTOR;

/// A running demonstration.
#[derive(Debug)]
pub struct Demo {
    /// Where its page is.
    pub page: String,
    pets: Pets,
}

/// Whether a host keeps the demonstration, so that it is to go on; nothing if that is not known.
pub async fn is_kept(host: &Host, dirs: &Dirs) -> Option<bool> {
    let reference = application::keep_actor(&dirs.cache).ok()?;
    host.kept().keeps(&application::place_of(&reference)).await
}

/// Starts the demonstration on a host; the page shows pictures when this returns.
///
/// The host must load files (`enable_start_from_fs`): the actor comes from the cache directory. An
/// error says which part is not up and why; what is up by then stays with the host.
pub async fn start(host: &Host, dirs: &Dirs) -> Result<Demo> {
    let settings = Settings {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        delay: Duration::ZERO,
        certificate: Certificate::generate().context("make a certificate for the pets API")?,
    };
    let pets = Pets::start(settings).await.context("start the pets API")?;
    let reference = application::keep_actor(&dirs.cache)?;
    let page = Application::new(host).start(reference, pets.link_values()).await?;
    Ok(Demo { page, pets })
}

impl Demo {
    /// Stops the API. Actor and providers are the host's and stop with it, so this comes after the
    /// host: until then requests in work need the API. Links stay in the lattice.
    pub async fn stop(self) {
        self.pets.stop().await;
    }
}

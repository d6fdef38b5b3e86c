//! Which addresses a provider listens on, and for which links.
//!
//! The table is a map behind one lock, held for lines; a listener's routes are published from it as
//! a snapshot. Sockets are bound while it is held, which takes no time, so that two links of one
//! address never race.
//!
//! Invariants: one listener per address; on it one actor per host and path; all its links name the
//! same TLS. A listener whose links are all ending keeps its routes to the end, so that every
//! request it has accepted is still answered.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::SocketAddr,
    sync::Arc,
};

use parking_lot::Mutex;
use rustls::ServerConfig;
use tracing::info;

use super::{
    super::{Context, LinkError},
    debt::Lodgings,
    listener::{self, Listener, Start},
    request::{Route, Stage},
    routes::{Entry, Routes},
    settings::{Limits, Settings},
    tls::Source,
};
use lattice_protocol::errors::chain;

/// All listeners of a provider.
#[derive(Default)]
pub struct Table {
    /// Answers of all listeners together.
    lodgings: Arc<Lodgings>,
    // Held for lines, never across an await.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: HashMap<SocketAddr, Open>,
    /// Addresses of closed listeners whose sockets are not quite gone.
    closing: HashSet<SocketAddr>,
}

struct Open {
    listener: Arc<Listener>,
    entries: Vec<Entry<Route>>,
    /// The limits that each route's link asks of the address.
    limits: Vec<(Arc<Route>, Limits)>,
    tls: Option<Source>,
}

/// The result for a link that asked to be taken in.
pub enum Added {
    To(Arc<Listener>),
    /// The address is free again in a moment.
    NotYet,
}

/// The result for a link that ends.
pub enum Removal {
    /// It had no route any more: another link has taken its place.
    Nothing,
    /// Others share its listener.
    Shared,
    /// It was the last: the listener is to be closed.
    Last,
}

impl Table {
    /// Takes a link in at a resolved address: everything or nothing.
    pub fn add(
        self: &Arc<Self>,
        context: &Context,
        address: SocketAddr,
        settings: &Settings,
        certificate: Option<Arc<ServerConfig>>,
        route: &Arc<Route>,
    ) -> Result<Added, LinkError> {
        let new = settings.hosts.iter().map(|host| Entry {
            host: host.clone(),
            path: settings.path.clone(),
            route: Arc::clone(route),
        });
        let mut state = self.state.lock();
        if state.closing.contains(&address) {
            return Ok(Added::NotYet);
        }
        if let Some(open) = state.open.get_mut(&address) {
            open.may_share(settings, route)?;
            open.entries = with(&open.entries, new, address)?;
            open.limits.push((Arc::clone(route), settings.limits));
            // The files may be the same and what is in them not: certificates are renewed so.
            open.listener.tls.store(certificate);
            open.tls.clone_from(&settings.tls);
            open.publish();
            return Ok(Added::To(Arc::clone(&open.listener)));
        }
        let entries: Vec<Entry<Route>> = new.collect();
        let socket =
            listener::bind(address).map_err(|error| state.cannot_listen(address, &error))?;
        let start = Start {
            socket,
            routes: Routes::new(&entries),
            tls: certificate,
            limits: settings.limits,
            budget: context.budget.clone(),
            lodgings: Arc::clone(&self.lodgings),
            router: context.router.clone(),
        };
        let table = Arc::downgrade(self);
        let started = Listener::start(start, move |address| {
            if let Some(table) = table.upgrade() {
                table.state.lock().closing.remove(&address);
            }
        });
        let listener = started.map_err(|error| state.cannot_listen(address, &error))?;
        // Port 0 has become a real one.
        let address = listener.address;
        let limits = vec![(Arc::clone(route), settings.limits)];
        let open =
            Open { listener: Arc::clone(&listener), entries, limits, tls: settings.tls.clone() };
        state.open.insert(address, open);
        let provider_id = &context.provider_id;
        info!(%provider_id, %address, tls = settings.tls.is_some(), "http server listens");
        Ok(Added::To(listener))
    }

    /// Marks a link as ending. If all links of its listener are, the listener leaves the table and
    /// keeps its routes.
    pub fn begin_end(
        &self,
        address: SocketAddr,
        listener: &Arc<Listener>,
        route: &Arc<Route>,
    ) -> Removal {
        route.set_stage(Stage::Ending);
        let mut state = self.state.lock();
        let Some(open) =
            state.open.get(&address).filter(|open| Arc::ptr_eq(&open.listener, listener))
        else {
            // The last of the links has closed the listener for all of them.
            return Removal::Shared;
        };
        if open.entries.iter().all(|entry| entry.route.stage() != Stage::Serving) {
            state.open.remove(&address);
            state.closing.insert(address);
            listener.begin_close();
            return Removal::Last;
        }
        if open.entries.iter().any(|entry| Arc::ptr_eq(&entry.route, route)) {
            return Removal::Shared;
        }
        route.set_stage(Stage::Ended);
        Removal::Nothing
    }

    /// Takes an ending link's routes out, unless its listener is closing as a whole.
    pub fn end(&self, address: SocketAddr, listener: &Arc<Listener>, route: &Arc<Route>) {
        let mut state = self.state.lock();
        let Some(open) =
            state.open.get_mut(&address).filter(|open| Arc::ptr_eq(&open.listener, listener))
        else {
            return;
        };
        open.entries.retain(|entry| !Arc::ptr_eq(&entry.route, route));
        open.limits.retain(|(owner, _)| !Arc::ptr_eq(owner, route));
        open.publish();
        drop(state);
        route.set_stage(Stage::Ended);
    }
}

impl Open {
    /// Links share an address only if they agree on TLS; an actor that has it for itself may change
    /// its mind.
    fn may_share(&self, settings: &Settings, route: &Route) -> Result<(), LinkError> {
        let mut routes = self.entries.iter().map(|entry| &entry.route);
        let other = routes
            .find(|other| other.stage() == Stage::Serving && other.actor_id != route.actor_id);
        match other {
            // The other link may be the next to get this certificate, or to go.
            Some(other) if self.tls != settings.tls => Err(LinkError::Unavailable(format!(
                "{address} is shared with actor {actor_id}, whose link has {theirs}; give both links the same tls_cert_file \
                 and tls_priv_key_file, or this one another address",
                address = self.listener.address,
                actor_id = other.actor_id,
                theirs = if self.tls.is_some() {
                    "another TLS certificate or is without one here"
                } else {
                    "no TLS"
                },
            ))),
            _ => Ok(()),
        }
    }

    fn publish(&mut self) {
        self.listener.routes.store(Arc::new(Routes::new(&self.entries)));
        let entries = &self.entries;
        self.limits
            .retain(|(owner, _)| entries.iter().any(|entry| Arc::ptr_eq(&entry.route, owner)));
        if let Some(limits) =
            self.limits.iter().map(|(_, limits)| *limits).reduce(Limits::or_larger)
        {
            self.listener.limits.store(Arc::new(limits));
        }
    }
}

/// The entries with new ones, which take the place of the same actor's and of those whose link
/// ends.
fn with(
    entries: &[Entry<Route>],
    new: impl Iterator<Item = Entry<Route>>,
    address: SocketAddr,
) -> Result<Vec<Entry<Route>>, LinkError> {
    let mut all = entries.to_vec();
    for entry in new {
        match all.iter_mut().find(|other| other.host == entry.host && other.path == entry.path) {
            Some(other)
                if other.route.actor_id != entry.route.actor_id
                    && other.route.stage() == Stage::Serving =>
            {
                // It may go to this link later, when the other one has ended.
                return Err(LinkError::Unavailable(format!(
                    "actor {} answers {}{} on {address} already; give this link another path, host or address",
                    other.route.actor_id, entry.host, entry.path
                )));
            }
            Some(other) => *other = entry,
            None => all.push(entry),
        }
    }
    Ok(all)
}

impl State {
    fn cannot_listen(&self, address: SocketAddr, error: &io::Error) -> LinkError {
        let what = format!("cannot listen on {address}: {}", chain(error));
        match error.kind() {
            io::ErrorKind::AddrInUse => {
                match self.open.keys().find(|other| other.port() == address.port()) {
                    Some(own) => LinkError::Unavailable(format!(
                        "{what}; this provider listens on {own} for other links: use that address, or another port"
                    )),
                    None => LinkError::Unavailable(format!(
                        "{what}; another process has the port: stop it, or give the link another address"
                    )),
                }
            }
            io::ErrorKind::PermissionDenied => LinkError::Unavailable(format!(
                "{what}; ports below 1024 need a privilege (setcap cap_net_bind_service=+ep on the binary): \
                 give it, or the link another port"
            )),
            io::ErrorKind::AddrNotAvailable => LinkError::Unavailable(format!(
                "{what}; no network interface of this machine has it: use 0.0.0.0 for all of them"
            )),
            _ => LinkError::Unavailable(what),
        }
    }
}

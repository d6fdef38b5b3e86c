//! Takes in events and the progress of starts, as they come.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Collector, HOSTS_MAX, ask::says_the_same, bounds};
use crate::model::{Collection, HostView, Pull, State, events::Entry, names::short};
use lattice_engine::control::state::Readiness;
use lattice_protocol::{
    clock,
    events::{Event, Received, Step},
    history::TOLD_BY_ALL,
    identity::keys::HostId,
};

/// Bytes of what an entry of the log is told by; those of hosts are shorter.
const ID_BYTES_MAX: usize = 256;
/// Longer references are told by nobody.
const STEP_BYTES_MAX: usize = 4096;
/// Entries among which the same change of a link is looked for.
const RECENT: usize = 256;
/// Checks that are kept of a host that has not told yet which providers it runs now.
const CHECKS_MAX: usize = 128;
/// Pulls that are kept.
const PULLS_MAX: usize = 256;

impl Collector {
    pub(super) fn on_event(&mut self, received: &Received) {
        let Received { source, event, .. } = received;
        if HostId::parse(source).is_err()
            || received.id.len().max(event.name().len()) > ID_BYTES_MAX
            || (!self.hosts.contains_key(&**source) && self.hosts.len() >= HOSTS_MAX)
        {
            return;
        }
        let id: Arc<str> = source.as_str().into();
        self.model.records().hear(&id);
        match event {
            Event::HostStopped { .. } => {
                self.write(received);
                self.forget(&id);
                self.publish_all();
                return;
            }
            Event::HostStarted { .. } | Event::HostHeartbeat(_) => self.heartbeat(&id, received),
            Event::HealthCheckPassed(provider) | Event::HealthCheckFailed(provider) => {
                let key = (provider.public_key.clone(), provider.link_name.clone());
                let known = self.hosts.get_mut(&id);
                if let Some(known) =
                    known.filter(|one| is_check_kept(&one.view, one.is_stale || one.is_asked, &key))
                {
                    known.view.checks.insert(key, matches!(event, Event::HealthCheckPassed(_)));
                    known.is_changed = true;
                }
            }
            // It concerns the lattice, not what the host runs.
            Event::LinkdefSet(_)
            | Event::LinkdefDeleted(_)
            | Event::RefmapSet { .. }
            | Event::ConfigSet { .. }
            | Event::ConfigDeleted { .. } => {}
            // Nothing came of it.
            Event::CommandRefused { .. } => {}
            Event::HealthCheckStatus(_) => {}
            // An event of a host that is gone does not bring it back.
            _ => {
                if let Some(known) = self.hosts.get_mut(&id) {
                    known.is_stale = true;
                }
            }
        }
        self.write(received);
        self.arrived(received);
        if let Event::LinkdefSetFailed { link, .. }
        | Event::LinkdefSet(link)
        | Event::LinkdefDeleted(link) = event
        {
            // The health of a host contains what its providers say of their links.
            let provider = &link.provider_id;
            for known in self.hosts.values_mut().filter(|known| known.view.is_ours) {
                known.is_stale |=
                    known.view.inventory.providers.iter().any(|running| running.id == *provider);
            }
        }
        self.ask_stale();
    }

    pub(super) fn heartbeat(&mut self, id: &Arc<str>, Received { event, data, .. }: &Received) {
        let is_start = matches!(event, Event::HostStarted { .. });
        let known = self.known(id);
        let view = &mut known.view;
        view.heard_ms = clock::now_ms();
        if let Some(labels) = data["labels"].as_object() {
            let pairs = labels.iter().filter_map(|(key, value)| Some((&**key, value.as_str()?)));
            let labels = bounds::labels(pairs);
            known.is_changed |= view.labels != labels;
            view.labels = labels;
        }
        for (member, field) in [("friendly_name", &mut view.name), ("version", &mut view.version)] {
            let text = data[member].as_str().filter(|text| !text.is_empty());
            if let Some(text) = text.map(bounds::name)
                && *field != text
            {
                text.clone_into(field);
                known.is_changed = true;
            }
        }
        if let Some(seconds) = data["uptime_seconds"].as_u64() {
            let started = clock::now_ms().saturating_sub(seconds.saturating_mul(1000));
            if view.started_ms.is_none_or(|known| is_start || known.abs_diff(started) > 1500) {
                view.started_ms = Some(started);
                known.is_changed = true;
            }
        }
        known.is_stale |= is_start || !says_the_same(data, &known.view.inventory);
        if is_start {
            (known.is_mute, known.ask_at) = (false, Instant::now());
        }
        if data["state"] == Readiness::Stopping.word() {
            return self.mark_stopping(id);
        }
        // A beat without it is one of the next start.
        if known.view.state == State::Stopping {
            self.mark_present(id);
        }
        self.mark_heard(id);
    }

    /// Drops the pull of what has started, or has failed to start.
    pub(super) fn arrived(&mut self, Received { source, event, .. }: &Received) {
        let reference = match event {
            Event::ActorScaled { actor, .. } | Event::ActorsStarted { actor, .. } => {
                &actor.image_ref
            }
            Event::ActorsStartFailed { image_ref, .. }
            | Event::ActorScaleFailed { image_ref, .. } => image_ref,
            Event::ProviderStarted { provider, .. } => &provider.image_ref,
            Event::ActorStartFailed { actor_ref, .. } => actor_ref,
            Event::ProviderStartFailed { provider_ref, .. } => provider_ref,
            _ => return,
        };
        self.model
            .records()
            .retain_pulls(|pull| pull.host_id != *source || pull.reference != *reference);
    }

    /// Puts an event into the log.
    pub(super) fn write(&mut self, received: &Received) {
        let Received { source, data, .. } = received;
        let name = match self.hosts.get(&**source) {
            Some(known) if !known.view.name.is_empty() => known.view.name.clone(),
            _ => match self.names.get(&**source) {
                Some(name) => name.clone(),
                None => match data["friendly_name"].as_str() {
                    Some(name) => bounds::name(name).to_owned(),
                    None => short(source),
                },
            },
        };
        let table = self.dashboard.parts().context.links.table();
        let is_ours = self.hosts.get(&**source).is_some_and(|known| known.view.is_ours);
        if let Some(entry) = Entry::of(received, &name, is_ours, |key| {
            table.claims(key).map(|claims| claims.name.clone())
        }) {
            let is_told = TOLD_BY_ALL.contains(&&*entry.name) && {
                let records = self.model.records();
                records.log.newest().take(RECENT).any(|other| other.is_same_change(&entry))
            };
            if !is_told {
                self.log(entry);
            }
        }
    }

    pub(super) fn log(&mut self, entry: Entry) {
        let entry = {
            let mut records = self.model.records();
            records.changed(Collection::Events);
            records.log.push(entry)
        };
        self.model.tell_masked("event", &*entry);
    }

    pub(super) fn progress(&mut self, step: Step) {
        if HostId::parse(&step.host_id).is_err()
            || step.reference.len() + step.stage.len() > STEP_BYTES_MAX
        {
            return;
        }
        let host_name =
            self.hosts.get(&*step.host_id).map(|known| known.view.name.clone()).unwrap_or_default();
        let mut records = self.model.records();
        let pulls = &mut records.pulls;
        let at = pulls
            .iter()
            .position(|pull| pull.host_id == step.host_id && pull.reference == step.reference);
        let began_ms = at.map_or_else(clock::now_ms, |at| pulls.remove(at).began_ms);
        if pulls.len() < PULLS_MAX {
            let Step { host_id, reference, stage, bytes, of } = step;
            pulls.push(Pull {
                host_id,
                host_name,
                reference,
                stage,
                bytes,
                of,
                began_ms,
                heard_ms: clock::now_ms(),
            });
        }
        records.changed(Collection::Pulls);
    }
}

/// Whether the check of a provider is kept: of one that the host runs, or may have started since it
/// told its inventory, which `is_due` again. That may be long before somebody looks, and it drops
/// the checks of providers that are not in it.
fn is_check_kept(view: &HostView, is_due: bool, key: &(String, String)) -> bool {
    let is_short = key.0.len() + key.1.len() <= ID_BYTES_MAX;
    let has_room = view.checks.len() < CHECKS_MAX || view.checks.contains_key(key);
    runs(view, key) || (is_due && is_short && has_room)
}

/// Whether a host is known to run a provider, which it names by its public key and link name.
fn runs(view: &HostView, (id, link_name): &(String, String)) -> bool {
    let mut providers = view.inventory.providers.iter();
    providers.any(|running| running.id == *id && running.link_name == *link_name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::control::types::{Inventory, InventoryProvider};

    #[test]
    fn checks_are_kept_of_providers_that_the_host_runs_or_may_have_started() {
        let provider = InventoryProvider {
            id: "VA".into(),
            link_name: "default".into(),
            ..InventoryProvider::default()
        };
        let inventory = Arc::new(Inventory { providers: vec![provider], ..Inventory::default() });
        let view = HostView { inventory, ..HostView::default() };
        let key = |id: &str, link_name: &str| (id.to_owned(), link_name.to_owned());
        let checks = (0..CHECKS_MAX).map(|number| (key("VB", &number.to_string()), true));
        let full = HostView { checks: checks.collect(), ..view.clone() };
        let long = "l".repeat(ID_BYTES_MAX);
        for (view, id, link_name, is_kept, is_kept_if_due) in [
            (&view, "VA", "default", true, true),
            (&view, "VA", "other", false, true),
            (&view, "VB", "default", false, true),
            (&view, "VB", &*long, false, false),
            (&full, "VA", "default", true, true),
            (&full, "VB", "0", false, true),
            (&full, "VB", "default", false, false),
        ] {
            let key = key(id, link_name);
            assert_eq!(is_check_kept(view, false, &key), is_kept, "{key:?}");
            assert_eq!(is_check_kept(view, true, &key), is_kept_if_due, "{key:?}");
        }
    }
}

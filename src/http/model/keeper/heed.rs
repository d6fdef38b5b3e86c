//! Takes in events and the progress of starts, as they come.

use std::sync::Arc;

use tokio::time::Instant;

use super::{HOSTS_MAX, Keeper, Known, ask::says_the_same};
use crate::{
    client::lattice::Event,
    control::types::{Pairs, Step},
    http::model::{
        Collection, Pull,
        events::{Entry, short},
        now_ms,
    },
    identity::keys::HostId,
};

/// Longer references are told by nobody.
const STEP_BYTES_MAX: usize = 4096;
/// Pulls that are kept.
const PULLS_MAX: usize = 256;

impl Keeper {
    pub(super) fn heed(&mut self, event: &Event) {
        if HostId::parse(&event.source).is_err()
            || (!self.hosts.contains_key(&*event.source) && self.hosts.len() >= HOSTS_MAX)
        {
            return;
        }
        let id: Arc<str> = event.source.as_str().into();
        self.model.heard(&id);
        match event.name() {
            "host_stopped" => {
                self.write(event);
                self.forget(&id);
                self.publish_all();
                return;
            }
            "host_started" | "host_heartbeat" => self.heartbeat(&id, event),
            "health_check_passed" | "health_check_failed" => {
                let key = (event.text("public_key").to_owned(), event.text("link_name").to_owned());
                if let Some(known) = self.hosts.get_mut(&id) {
                    known.view.checks.insert(key, event.name() == "health_check_passed");
                    known.is_changed = true;
                }
            }
            // It concerns the lattice, not what the host runs.
            "linkdef_set" | "linkdef_deleted" | "refmap_set" | "config_set" | "config_deleted" => {}
            // Nothing came of it.
            "command_refused" => {}
            "health_check_status" => {}
            // An event of a host that is gone does not bring it back.
            _ => {
                if let Some(known) = self.hosts.get_mut(&id) {
                    known.is_stale = true;
                }
            }
        }
        self.write(event);
        self.arrived(event);
        if matches!(event.name(), "linkdef_set_failed" | "linkdef_set" | "linkdef_deleted") {
            // The health of a host contains what its providers say of their links.
            let provider = event.text("provider_id");
            let runs = |known: &Known| known.view.inventory.providers.iter().any(|running| running.id == provider);
            for known in self.hosts.values_mut().filter(|known| known.view.is_ours && runs(known)) {
                known.is_stale = true;
            }
        }
        let is_looked_at = self.was_looked_at;
        self.ask_stale(is_looked_at);
    }

    pub(super) fn heartbeat(&mut self, id: &Arc<str>, event: &Event) {
        let is_start = event.name() == "host_started";
        let known = self.known(id);
        let view = &mut known.view;
        view.heard_ms = now_ms();
        if let Some(labels) = event.data["labels"].as_object() {
            let pairs = labels.iter().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
            let labels: Pairs = pairs.collect();
            known.is_changed |= view.labels != labels;
            view.labels = labels;
        }
        for (member, field) in [("friendly_name", &mut view.name), ("version", &mut view.version)] {
            if let Some(text) = event.data[member].as_str().filter(|text| !text.is_empty())
                && *field != text
            {
                text.clone_into(field);
                known.is_changed = true;
            }
        }
        if let Some(seconds) = event.data["uptime_seconds"].as_u64() {
            let started = now_ms().saturating_sub(seconds.saturating_mul(1000));
            if view.started_ms.is_none_or(|known| is_start || known.abs_diff(started) > 1500) {
                view.started_ms = Some(started);
                known.is_changed = true;
            }
        }
        known.is_stale |= is_start || !says_the_same(&event.data, &known.view.inventory);
        if is_start {
            (known.is_mute, known.ask_at) = (false, Instant::now());
        }
        self.comes_back(id);
    }

    /// Drops the pull of what has started, or has failed to start.
    pub(super) fn arrived(&mut self, event: &Event) {
        let member = match event.name() {
            "actor_scaled" | "actors_started" | "actors_start_failed" | "actor_scale_failed" | "provider_started" => {
                "image_ref"
            }
            "actor_start_failed" => "actor_ref",
            "provider_start_failed" => "provider_ref",
            _ => return,
        };
        let reference = event.text(member);
        let mut pulls = self.model.locked_pulls();
        let all = pulls.len();
        pulls.retain(|pull| pull.host_id != event.source || pull.reference != reference);
        if pulls.len() < all {
            self.model.changed(Collection::Pulls);
        }
    }

    /// Puts an event into the log.
    pub(super) fn write(&mut self, event: &Event) {
        let name = match self.hosts.get(&*event.source) {
            Some(known) if !known.view.name.is_empty() => known.view.name.clone(),
            _ => match self.names.get(&*event.source) {
                Some(name) => name.clone(),
                None => match event.data["friendly_name"].as_str() {
                    Some(name) => name.to_owned(),
                    None => short(&event.source),
                },
            },
        };
        let table = self.dashboard.parts().links.table();
        let name_of = |key: &str| table.claims(key).map(|claims| claims.name.clone());
        let is_ours = self.hosts.get(&*event.source).is_some_and(|known| known.view.is_ours);
        if let Some(entry) = Entry::of(event, &name, is_ours, name_of) {
            self.log(entry);
        }
    }

    pub(super) fn log(&mut self, entry: Entry) {
        let entry = self.model.log().push(entry);
        self.model.tell_masked("event", &entry);
        self.model.changed(Collection::Events);
    }

    pub(super) fn progress(&mut self, step: Step) {
        if HostId::parse(&step.host_id).is_err() || step.reference.len() + step.stage.len() > STEP_BYTES_MAX {
            return;
        }
        let host_name = self.hosts.get(&*step.host_id).map(|known| known.view.name.clone()).unwrap_or_default();
        let mut pulls = self.model.locked_pulls();
        let at = pulls.iter().position(|pull| pull.host_id == step.host_id && pull.reference == step.reference);
        let began_ms = at.map_or_else(now_ms, |at| pulls.remove(at).began_ms);
        if pulls.len() < PULLS_MAX {
            let Step { host_id, reference, stage, bytes, of } = step;
            pulls.push(Pull { host_id, host_name, reference, stage, bytes, of, began_ms, heard_ms: now_ms() });
        }
        drop(pulls);
        self.model.changed(Collection::Pulls);
    }
}

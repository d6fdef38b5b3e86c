//! The report of a second `host up` of a directory about the one that runs: how it is now, and
//! whether it is what was asked for.

use super::{
    Options, hub,
    instance::{Instance, Record},
    place, settle,
    summary::{HUB, Summary, hub_row},
};
use lattice_base::config::Loaded;

/// Returns the summary of the one that runs, as it is now: the hub may have come or gone since the
/// summary was made.
pub async fn told(instance: &Instance, record: &Record) -> Option<Summary> {
    let mut summary = record.summary.clone()?;
    let server = record.server.as_ref().and_then(|server| server.process.as_ref());
    if let (Some(hub), Some(server)) = (&record.hub, server) {
        let is_connected = hub::is_connected(instance.folder(), server.pid).await;
        summary.correct(HUB, hub_row(is_connected, hub));
    }
    Some(summary)
}

/// Tells how the one that runs differs from what a second `up` asks for, if it does.
pub fn differs(running: &Record, options: &Options, loaded: &Loaded) -> Option<String> {
    let place = place(&loaded.config);
    let names_place = ["ctl_port", "ctl_host"]
        .into_iter()
        .any(|key| settle::row(&loaded.table, key).is_some_and(|row| row.origin.is_above_file()));
    if names_place && running.address.as_ref() != Some(&place) {
        return Some(format!(
            "it uses NATS on {}, not {place}",
            running.address.as_deref().unwrap_or("another address")
        ));
    }
    if let Some(hub) = options
        .hub
        .as_ref()
        .map(ToString::to_string)
        .filter(|hub| running.hub.as_ref() != Some(hub))
    {
        return Some(match &running.hub {
            Some(other) => format!("its hub is {other}, not {hub}"),
            None => format!("it has no hub, and you name {hub}"),
        });
    }
    let domain = running.server.as_ref().map(|server| &server.domain);
    if options.domain.is_some() && options.domain.as_ref() != domain {
        return Some(match domain {
            Some(domain) => format!("the domain of its server is {domain}"),
            None => "it uses a server that has its own domain".to_owned(),
        });
    }
    if options.open && !running.is_open && running.server.is_some() {
        return Some("its server wants a login, and you ask for one without (--open)".to_owned());
    }
    (options.demo && running.page.is_none()).then(|| "it runs without the demonstration".to_owned())
}

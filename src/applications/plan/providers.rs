//! Plans the capability providers of an application.
//!
//! A host runs a provider once per link name, so what counts is where it runs, not how often. A
//! provider that another application or an operator started counts as well, and is never stopped
//! here.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Command, Input, Leftovers, Plan, ProviderRun, Standing, eligible, is_of_application,
    is_of_rule, lacking, makes_room_for,
    placement::{Wish, place},
    refusal, successor,
};
use lattice_protocol::{
    applications::resolved::{self, Mode, Rule, Scaler, ScalerKind},
    events::event::Annotations,
};

/// Plans one rule of a scaler. `claimed` are the hosts that count for a rule before it.
pub(super) fn plan_rule<'a>(
    input: Input<'a>,
    scaler: &Scaler,
    rule: &Rule,
    (leftovers, claimed): (&Leftovers<'a>, &mut BTreeSet<&'a str>),
    plan: &mut Plan,
) -> Standing {
    let annotations = scaler.annotations(&input.application.name, rule);
    let fitting = eligible(input.observed, rule);
    let current = current(input, (scaler, rule), (&fitting, claimed));
    // A daemon scaler of 0 wants none, any other number one on each host.
    let count = match scaler.mode {
        Mode::Spread => rule.count,
        Mode::Daemon if rule.count == 0 => 0,
        Mode::Daemon => u32::try_from(fitting.len()).unwrap_or(u32::MAX),
    };
    let open: Vec<&str> = fitting.iter().filter(|host| !claimed.contains(*host)).copied().collect();
    let refusing: Vec<&str> = open
        .iter()
        .filter(|host| input.refused.starts.contains(&(scaler.id.clone(), (**host).into())))
        .copied()
        .collect();
    let wanted = place(&Wish {
        current: &current,
        eligible: &open,
        former: &former(input, scaler, leftovers),
        load: &BTreeMap::new(),
        refusing: &refusing,
        count,
        per_host_max: 1,
        rebalance: scaler.rebalance,
    });
    claimed.extend(wanted.iter().filter(|(_, want)| **want > 0).map(|(host, _)| *host));
    let mut is_pending = current.keys().any(|host| !shows(input, scaler, host));
    for (host, want) in &wanted {
        let have = current.get(host).copied().unwrap_or(0);
        if *want > have {
            is_pending = true;
            start(input, scaler, host, &annotations, plan);
        } else if *want < have {
            is_pending |= stop(input, (scaler, rule), host, plan);
        }
    }
    let running = current.iter().filter(|(host, _)| fitting.contains(host)).count();
    let placed: u64 = wanted.values().map(|count| u64::from(*count)).sum();
    let refusal = refusal(input, scaler, &fitting);
    let lacking = if fitting.is_empty() { lacking(input.observed, rule) } else { String::new() };
    standing((scaler, rule, &lacking), (fitting.len(), running, placed), (is_pending, refusal))
}

/// Returns the hosts where the provider runs, own or foreign, that no rule before this one has.
fn current<'a>(
    input: Input<'a>,
    (scaler, rule): (&Scaler, &Rule),
    (fitting, claimed): (&[&'a str], &BTreeSet<&'a str>),
) -> BTreeMap<&'a str, u32> {
    let mut current = BTreeMap::new();
    for (host, view) in &input.expected.hosts {
        let host = host.as_str();
        if claimed.contains(host) {
            continue;
        }
        let is_here = view.providers.iter().any(|run| {
            is_of_rule(input.application, scaler, rule, &run.annotations)
                || (fitting.contains(&host)
                    && !is_of_application(input.application, &run.annotations)
                    && serves(input, scaler, run))
        });
        if is_here {
            current.insert(host, 1);
        }
    }
    current
}

/// Whether a run is of the provider of a scaler, whoever started it.
fn serves(input: Input<'_>, scaler: &Scaler, run: &ProviderRun) -> bool {
    let key = input.observed.keys.get(&scaler.image).map(String::as_str);
    let ProviderRun { key: of, image, link_name, .. } = run;
    scaler.is_served_by(resolved::ProviderRun { key: of, image, link_name }, key)
}

/// Whether the provider is seen on a host, and not only expected.
fn shows(input: Input<'_>, scaler: &Scaler, host: &str) -> bool {
    let view = input.observed.hosts.get(host);
    view.is_some_and(|view| view.providers.iter().any(|run| serves(input, scaler, run)))
}

/// Returns where what the scaler replaces runs.
fn former<'a>(
    input: Input<'a>,
    scaler: &Scaler,
    leftovers: &Leftovers<'a>,
) -> BTreeMap<&'a str, u32> {
    leftovers
        .providers
        .iter()
        .filter(|(_, run)| makes_room_for(input.application, scaler, &run.annotations))
        .map(|(host, _)| (*host, 1))
        .collect()
}

/// Starts the provider, unless what it replaces still runs on the host.
fn start(
    input: Input<'_>,
    scaler: &Scaler,
    host: &str,
    annotations: &Annotations,
    plan: &mut Plan,
) {
    let ScalerKind::Provider { link_name, configuration, .. } = &scaler.kind else { return };
    let view = &input.observed.hosts[host];
    let is_taken = view.providers.iter().any(|run| {
        let is_former = is_of_application(input.application, &run.annotations)
            && makes_room_for(input.application, scaler, &run.annotations);
        serves(input, scaler, run) || (is_former && run.link_name == *link_name)
    });
    if !is_taken {
        plan.commands.push(Command::StartProvider {
            scaler: scaler.id.clone(),
            host: host.to_owned(),
            image: scaler.image.clone(),
            link_name: link_name.clone(),
            configuration: configuration.clone(),
            annotations: annotations.clone(),
        });
    }
}

/// Stops what this rule started on a host; whether there is something.
fn stop(input: Input<'_>, (scaler, rule): (&Scaler, &Rule), host: &str, plan: &mut Plan) -> bool {
    let runs = input.observed.hosts[host].providers.iter();
    let own = runs.filter(|run| {
        is_of_rule(input.application, scaler, rule, &run.annotations)
            && !is_needed(input, host, run)
    });
    let commands: Vec<Command> = own.map(|run| stop_of(&scaler.id, host, run)).collect();
    let is_pending = !commands.is_empty();
    plan.commands.extend(commands);
    is_pending
}

fn stop_of(scaler: &str, host: &str, run: &ProviderRun) -> Command {
    Command::StopProvider {
        scaler: scaler.to_owned(),
        host: host.to_owned(),
        key: run.key.clone(),
        contract: run.contract.clone(),
        link_name: run.link_name.clone(),
        annotations: run.annotations.clone(),
    }
}

/// Whether another application counts on a run of this one.
fn is_needed(input: Input<'_>, host: &str, run: &ProviderRun) -> bool {
    input.others.iter().flat_map(|other| &other.scalers).any(|scaler| {
        serves(input, scaler, run)
            && scaler
                .rules
                .iter()
                .any(|rule| rule.count > 0 && eligible(input.observed, rule).contains(&host))
    })
}

/// Stops what no rule asks for. What is replaced on several hosts is replaced on one after another,
/// so that some always run.
pub(super) fn plan_leftovers(input: Input<'_>, leftovers: &Leftovers<'_>, plan: &mut Plan) {
    let is_down = input.application.scalers.is_empty();
    if is_down && input.observed.hosts.values().any(|view| has_own_actors(input, view)) {
        // Actors first: calls in work still need their providers.
        return;
    }
    let mut is_replacing = BTreeSet::new();
    for (host, run) in &leftovers.providers {
        if is_needed(input, host, run) {
            continue;
        }
        if let Some(scaler) = successor(input.application, &run.annotations)
            && (is_starting(input, scaler, plan) || !is_replacing.insert(scaler.id.as_str()))
        {
            continue;
        }
        plan.commands.push(stop_of("", host, run));
    }
}

/// Whether the provider of a scaler is about to start on some host, or does not start there.
fn is_starting(input: Input<'_>, scaler: &Scaler, plan: &Plan) -> bool {
    let is_planned = plan.commands.iter().any(
        |command| matches!(command, Command::StartProvider { scaler: id, .. } if *id == scaler.id),
    );
    let is_own = |run: &ProviderRun| {
        let rules = &scaler.rules;
        rules.iter().any(|rule| is_of_rule(input.application, scaler, rule, &run.annotations))
    };
    let is_awaited = input
        .expected
        .hosts
        .iter()
        .any(|(host, view)| view.providers.iter().any(is_own) && !shows(input, scaler, host));
    let is_failing = input.refused.errors.keys().any(|(id, _)| *id == scaler.id);
    is_planned || is_awaited || is_failing
}

fn has_own_actors(input: Input<'_>, view: &super::HostView) -> bool {
    view.actors.iter().any(|group| is_of_application(input.application, &group.annotations))
}

fn standing(
    (scaler, rule, lacking): (&Scaler, &Rule, &str),
    (eligible, running, placed): (usize, usize, u64),
    (is_pending, refusal): (bool, Option<String>),
) -> Standing {
    let (image, name, count) = (&scaler.image, &rule.name, rule.count);
    match (scaler.mode, refusal) {
        (Mode::Daemon, _) if eligible == 0 => Standing::Failed(format!(
            "Could not satisfy daemonscaler {name} for {image}, 0 eligible hosts found.{lacking}"
        )),
        (Mode::Spread, None) if placed < u64::from(count) => Standing::Failed(format!(
            "Could not satisfy spread {name} for {image}, {running}/{count} eligible hosts found.{lacking}"
        )),
        (_, Some(told)) if is_pending || placed < u64::from(count) => Standing::Failed(told),
        _ if is_pending => Standing::Reconciling(format!("Starting {image}")),
        _ => Standing::Deployed,
    }
}

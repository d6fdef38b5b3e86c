//! Plans the actors of an application.

use std::collections::BTreeMap;

use super::{
    ActorGroup, Command, Input, Leftovers, Observed, Plan, Standing, eligible, lacking,
    makes_room_for,
    placement::{Wish, place},
    refusal, successor,
};
use lattice_protocol::{
    applications::resolved::{Mode, Rule, Scaler},
    events::event::{Annotations, has_all},
};

/// Plans one rule of a scaler.
pub(super) fn plan_rule(
    input: Input<'_>,
    scaler: &Scaler,
    rule: &Rule,
    leftovers: &Leftovers<'_>,
    plan: &mut Plan,
) -> Standing {
    let annotations = scaler.annotations(&input.application.name, rule);
    let eligible = eligible(input.observed, rule);
    let current = counts_of(input.expected, &annotations);
    let wanted = wanted(input, scaler, rule, (&eligible, &current), leftovers);
    let mut is_pending = counts_of(input.observed, &annotations) != current;
    for (host, want) in &wanted {
        let have = current.get(host).copied().unwrap_or(0);
        if *want == have {
            continue;
        }
        is_pending = true;
        let update = (*want > 0).then(|| update_first(input, scaler, host, leftovers)).flatten();
        match update {
            Some(Before::Update(update)) => plan.commands.push(update),
            // The old one is taken away with the leftovers.
            Some(Before::Stop | Before::Wait) => {}
            None => plan.commands.push(Command::Scale {
                scaler: scaler.id.clone(),
                host: (*host).to_owned(),
                image: scaler.image.clone(),
                annotations: annotations.clone(),
                count: *want,
            }),
        }
    }
    let refusal = refusal(input, scaler, &eligible);
    let placed: u64 = wanted.values().map(|count| u64::from(*count)).sum();
    if eligible.is_empty() && (rule.count > 0 || scaler.mode == Mode::Daemon) {
        return nowhere(scaler, rule, input.observed);
    }
    standing(scaler, rule, placed, (is_pending, refusal))
}

/// The step that has to come before the start of a new image on a host.
enum Before {
    Update(Command),
    /// The update failed just now, so the old one stays.
    Wait,
    /// The old one has to go, and the planner of leftovers does that.
    Stop,
}

/// Returns what has to come before, if another image of the same actor runs on the host: a host
/// runs one module of an actor.
fn update_first(
    input: Input<'_>,
    scaler: &Scaler,
    host: &str,
    leftovers: &Leftovers<'_>,
) -> Option<Before> {
    let old = predecessors(input, scaler, leftovers)
        .find(|(at, group)| *at == host && group.image != scaler.image)?
        .1;
    let known = input.observed.keys.get(&scaler.image);
    if known.is_some_and(|key| *key != old.key) {
        return None;
    }
    if input.refused.updates.contains(&(scaler.id.clone(), host.to_owned())) {
        // Nobody knows yet whose image it is: it is started beside, and a host that runs the same
        // actor refuses that.
        known?;
        // An image that runs elsewhere is good, so it is the host that cannot change over: the old
        // one stands in the way. Otherwise what nobody has seen run does not cost what runs.
        let is_good = runs_somewhere(input.observed, &scaler.image);
        return Some(if is_good { Before::Stop } else { Before::Wait });
    }
    Some(Before::Update(Command::Update {
        scaler: scaler.id.clone(),
        host: host.to_owned(),
        key: old.key.clone(),
        image: scaler.image.clone(),
        share: None,
    }))
}

fn runs_somewhere(observed: &Observed, image: &str) -> bool {
    let mut groups = observed.hosts.values().flat_map(|view| &view.actors);
    groups.any(|group| group.image == image)
}

/// Returns how many each host is to have.
fn wanted<'a>(
    input: Input<'a>,
    scaler: &Scaler,
    rule: &Rule,
    (eligible, current): (&[&'a str], &BTreeMap<&'a str, u32>),
    leftovers: &Leftovers<'a>,
) -> BTreeMap<&'a str, u32> {
    if scaler.mode == Mode::Daemon {
        let mut wanted: BTreeMap<&str, u32> = current.keys().map(|host| (*host, 0)).collect();
        wanted.extend(
            eligible
                .iter()
                .filter(|host| {
                    let refused =
                        input.refused.starts.contains(&(scaler.id.clone(), (**host).into()));
                    !refused || current.contains_key(*host)
                })
                .map(|host| (*host, rule.count)),
        );
        return wanted;
    }
    let mut former = BTreeMap::new();
    for (host, group) in predecessors(input, scaler, leftovers) {
        *former.entry(host).or_insert(0_u32) += group.count;
    }
    let refusing: Vec<&str> = eligible
        .iter()
        .filter(|host| input.refused.starts.contains(&(scaler.id.clone(), (**host).into())))
        .copied()
        .collect();
    place(&Wish {
        current,
        eligible,
        former: &former,
        load: &load(input, scaler, current),
        refusing: &refusing,
        count: rule.count,
        per_host_max: u32::MAX,
        rebalance: scaler.rebalance,
    })
}

/// Returns what hosts have of the component under other rules of the scaler.
fn load<'a>(
    input: Input<'a>,
    scaler: &Scaler,
    current: &BTreeMap<&'a str, u32>,
) -> BTreeMap<&'a str, u32> {
    let mut load = BTreeMap::new();
    for rule in &scaler.rules {
        let annotations = scaler.annotations(&input.application.name, rule);
        for (host, count) in counts_of(input.expected, &annotations) {
            *load.entry(host).or_insert(0_u32) += count;
        }
    }
    for (host, count) in current {
        if let Some(all) = load.get_mut(host) {
            *all = all.saturating_sub(*count);
        }
    }
    load
}

/// Returns how many instances with these annotations each host has.
fn counts_of<'a>(lattice: &'a Observed, annotations: &Annotations) -> BTreeMap<&'a str, u32> {
    let mut counts = BTreeMap::new();
    for (host, view) in &lattice.hosts {
        let own = view.actors.iter().filter(|group| has_all(&group.annotations, annotations));
        let count = own.fold(0_u32, |sum, group| sum.saturating_add(group.count));
        if count > 0 {
            counts.insert(host.as_str(), count);
        }
    }
    counts
}

/// Returns the groups that the scaler replaces: of the same component, under another image or
/// another rule.
fn predecessors<'p, 'a>(
    input: Input<'p>,
    scaler: &'p Scaler,
    leftovers: &'p Leftovers<'a>,
) -> impl Iterator<Item = (&'a str, &'a ActorGroup)> + use<'p, 'a> {
    let of_component = move |(_, group): &(&str, &ActorGroup)| {
        makes_room_for(input.application, scaler, &group.annotations)
    };
    leftovers.actors.iter().copied().filter(of_component)
}

/// Takes away what no rule asks for: at once what has no successor, else when that runs.
pub(super) fn plan_leftovers(input: Input<'_>, leftovers: &Leftovers<'_>, plan: &mut Plan) {
    for (host, group) in &leftovers.actors {
        let successor = successor(input.application, &group.annotations);
        if successor.is_some_and(|scaler| !may_go(input, scaler, host, group, leftovers)) {
            continue;
        }
        plan.commands.push(Command::Scale {
            scaler: String::new(),
            host: (*host).to_owned(),
            image: group.image.clone(),
            annotations: group.annotations.clone(),
            count: 0,
        });
    }
}

/// Whether a group whose successor is `scaler` is needed no longer.
fn may_go(
    input: Input<'_>,
    scaler: &Scaler,
    host: &str,
    group: &ActorGroup,
    leftovers: &Leftovers<'_>,
) -> bool {
    let mut is_complete = true;
    let mut is_wanted_here = false;
    for rule in &scaler.rules {
        let annotations = scaler.annotations(&input.application.name, rule);
        let fitting = eligible(input.observed, rule);
        let expected = counts_of(input.expected, &annotations);
        let wanted = wanted(input, scaler, rule, (&fitting, &expected), leftovers);
        let current = counts_of(input.observed, &annotations);
        is_complete &= wanted.iter().all(|(at, want)| current.get(at).unwrap_or(&0) >= want)
            && (wanted.values().any(|count| *count > 0) || rule.count == 0 || fitting.is_empty());
        is_wanted_here |= wanted.get(host).is_some_and(|count| *count > 0)
            && current.get(host).copied().unwrap_or(0) == 0;
    }
    let stands_in_the_way = is_wanted_here
        && group.image != scaler.image
        && matches!(update_first(input, scaler, host, leftovers), Some(Before::Stop));
    is_complete || stands_in_the_way
}

/// Returns the standing of a rule that no host fits, in the words of the old manager.
fn nowhere(scaler: &Scaler, rule: &Rule, observed: &Observed) -> Standing {
    let (image, name, lacking) = (&scaler.image, &rule.name, lacking(observed, rule));
    Standing::Failed(match scaler.mode {
        Mode::Spread => format!(
            "Could not satisfy spread {name} for {image}, 0/1 eligible hosts found.{lacking}"
        ),
        Mode::Daemon => format!(
            "Could not satisfy daemonscaler {name} for {image}, 0 eligible hosts found.{lacking}"
        ),
    })
}

/// Returns the standing of a rule: `placed` instances are or will be somewhere.
fn standing(
    scaler: &Scaler,
    rule: &Rule,
    placed: u64,
    (is_pending, refusal): (bool, Option<String>),
) -> Standing {
    let is_short = is_pending || placed < u64::from(rule.count);
    match refusal {
        Some(told) if is_short || scaler.mode == Mode::Daemon => Standing::Failed(told),
        _ if is_pending => Standing::Reconciling(format!("Scaling {}", scaler.image)),
        _ => Standing::Deployed,
    }
}

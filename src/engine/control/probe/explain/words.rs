//! An explanation in sentences: what was found at each step, whether the call passes it, and what
//! to do if not.

use serde_json::{Value, json};

use crate::{
    providers::{builtin, external::masks},
    router::{
        Builtin, Resolution, Room, TargetStatus,
        explain::{Asked, Check, Explanation, Runner, Way},
        may_be_contract,
    },
    rpc::{call::CallError, repeat::Repeat},
};
use lattice_protocol::{
    clock, contracts,
    control::probe::explain::{Explained, Outcome, Request, Step},
    links::{LinkDefinition, Table, link_option, other_values, put_command, standing},
    rpc::invocation::Entity,
};

/// The data that sentences are made from.
pub struct Scene<'a> {
    pub table: &'a Table,
    /// The host that was asked; nobody, if a client concludes from what the lattice knows.
    pub host: Option<&'a str>,
    pub request: &'a Request,
}

impl Scene<'_> {
    /// All steps, and what follows from them.
    pub fn explained(&self, explanation: &Explanation) -> Explained {
        let mut steps = Vec::new();
        if self.request.arrived_at.is_none() {
            // In the order in which a call meets them; what is known of both ends decides nothing.
            steps.push(self.link(explanation));
            steps.push(self.claim(explanation));
            steps.push(self.known(explanation));
        }
        steps.push(self.check(explanation));
        steps.push(self.policy(explanation));
        steps.push(self.replica(explanation));
        if self.request.arrived_at.is_none() {
            steps.push(self.path(explanation));
        }
        steps.push(deadline(explanation));
        steps.push(repeat(explanation, &self.request.operation));
        for step in &mut steps {
            step.host_id = self.host.map(str::to_owned);
        }
        let next_host = match &explanation.way {
            Way::Nats { host_id, .. } => host_id.clone(),
            _ => None,
        };
        let mut explained = Explained {
            accepted: true,
            origin: self.request.origin.clone(),
            target: explanation.target.clone(),
            steps,
            call_error: explanation
                .error()
                .or_else(|| explanation.denial())
                .map(|error| error.to_string()),
            next_host,
            ..Explained::default()
        };
        explained.conclude();
        explained
    }

    /// A key with the name its claims have.
    fn named(&self, key: &str) -> String {
        match self.table.claims(key).map(|claims| claims.name.as_str()) {
            Some(name) if !name.is_empty() => format!("{name} ({key})"),
            _ => key.to_owned(),
        }
    }

    fn start_command(&self, target: &Entity) -> String {
        start_command(self.table, target)
    }

    fn known(&self, explanation: &Explanation) -> Step {
        let mut parties = vec![("origin", &self.request.origin.public_key)];
        parties.extend(explanation.target.as_ref().map(|target| ("target", &target.public_key)));
        let mut data = json!({});
        let mut unknown = Vec::new();
        let mut found = Vec::new();
        for (role, key) in &parties {
            match self.table.claims(key) {
                Some(claims) => {
                    found.push(self.named(key));
                    data[role] = json!({
                        "public_key": key, "name": claims.name, "issuer": claims.issuer, "revision": claims.revision,
                        "capabilities": claims.capabilities, "call_alias": claims.call_alias,
                        "contract_id": claims.contract_id,
                    });
                }
                None => unknown.push(format!("{role} {key}")),
            }
        }
        if unknown.is_empty() {
            let why = format!("the lattice has the claims of {}", found.join(" and "));
            return Step { data, ..step("known", Outcome::Ok, why) };
        }
        let why =
            format!("the lattice has no claims of {}: it never ran here", unknown.join(" and "));
        let missing = explanation
            .target
            .as_ref()
            .filter(|target| self.table.claims(&target.public_key).is_none());
        let fix = missing.map(|target| self.start_command(target));
        Step { data, fix, ..step("known", Outcome::Unknown, why) }
    }

    fn link(&self, explanation: &Explanation) -> Step {
        match &explanation.resolution {
            None => {
                let why = "a provider calls an actor by its public key; that the actor is linked to it is part of the check";
                step("link", Outcome::Ok, why.into())
            }
            Some(Ok(Resolution::Builtin(_))) => {
                let why =
                    format!("{} is part of every host and needs no link", self.request.namespace);
                step("link", Outcome::Ok, why)
            }
            Some(Ok(Resolution::Actor(id))) => step(
                "link",
                Outcome::Ok,
                format!("{} is called by its public key, which needs no link", self.named(id)),
            ),
            Some(Ok(Resolution::Alias(id))) => {
                let why = format!(
                    "call alias {} is that of {}, and needs no link",
                    self.request.namespace,
                    self.named(id)
                );
                step("link", Outcome::Ok, why)
            }
            Some(Ok(Resolution::Linked(link))) => self.existing_link(explanation, link),
            Some(Err(error)) => self.missing_link(error),
        }
    }

    fn existing_link(&self, explanation: &Explanation, link: &LinkDefinition) -> Step {
        let values = masks::shown(&link.values);
        let shown: Vec<String> =
            values.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let with = if shown.is_empty() { "no values".to_owned() } else { shown.join(" ") };
        let data = json!({
            "actor_id": link.actor_id, "provider_id": link.provider_id, "link_name": link.link_name,
            "contract_id": link.contract_id, "values": values,
        });
        let refused = explanation.here.iter().flat_map(|here| &here.refused);
        let refusal =
            refused.filter(|(refused, _)| refused.id() == link.id()).map(|(_, cause)| cause).next();
        let leads_elsewhere =
            self.request.provider.as_deref().filter(|provider| *provider != link.provider_id);
        if let Some(provider) = leads_elsewhere {
            let why = format!(
                "the link {} leads to {}, not to {}",
                link.link_name,
                self.named(&link.provider_id),
                self.named(provider)
            );
            let fix = Some(self.put_command(provider, &link.contract_id));
            return Step { data, fix, ..step("link", Outcome::Fails, why) };
        }
        if let Some(cause) = refusal {
            let why = format!("the provider does not take the link on: {cause}");
            let fix = Some(format!(
                "mend the cause, or: {}",
                other_values(&link.actor_id, &link.provider_id, &link.contract_id, &link.link_name)
            ));
            return Step { data, fix, ..step("link", Outcome::Fails, why) };
        }
        let why = format!(
            "link {} leads to {}, with {with}",
            link.link_name,
            self.named(&link.provider_id)
        );
        Step { data, ..step("link", Outcome::Ok, why) }
    }

    fn missing_link(&self, error: &CallError) -> Step {
        let Request { origin, namespace, link_name, .. } = self.request;
        if !may_be_contract(namespace) {
            let why = format!(
                "no actor of the lattice has the call alias {namespace}, and a contract has a colon"
            );
            let fix = Some(
                "start the actor that is signed with it; `host get claims` shows the aliases"
                    .to_owned(),
            );
            return Step {
                fix,
                data: json!({ "error": error.to_string() }),
                ..step("link", Outcome::Fails, why)
            };
        }
        let others = self
            .table
            .links()
            .filter(|link| *link.actor_id == *origin.public_key && link.contract_id == *namespace);
        let others: Vec<String> = others.map(|link| link.link_name.clone()).collect();
        let link_name = if link_name.is_empty() { "default" } else { link_name };
        let mut why = format!(
            "there is no link of {} for {namespace} under link name {link_name}",
            self.named(&origin.public_key)
        );
        if !others.is_empty() {
            why.push_str(&format!("; there is one under {}", others.join(", ")));
        }
        let fulfils = self
            .table
            .all_claims()
            .find(|claims| claims.is_provider() && claims.contract_id == *namespace);
        let built_in = builtin::CATALOGUE.iter().find(|spec| spec.known.contract_id == namespace);
        let provider = match (&self.request.provider, fulfils, built_in) {
            (Some(provider), _, _) => Some(provider.clone()),
            (None, Some(claims), _) => Some(claims.subject.clone()),
            (None, None, Some(spec)) => Some(spec.known.reference()),
            (None, None, None) => None,
        };
        let fix = match provider {
            Some(provider) => self.put_command(&provider, namespace),
            None => self.provider_wanted(namespace),
        };
        Step {
            fix: Some(fix),
            data: json!({ "error": error.to_string() }),
            ..step("link", Outcome::Fails, why)
        }
    }

    /// Says what is missing where nothing fulfils a contract, which may be misspelt.
    fn provider_wanted(&self, contract: &str) -> String {
        let claimed = self.table.all_claims().map(|claims| claims.contract_id.as_str());
        let claimed = claimed.filter(|contract| !contract.is_empty());
        let built_in = builtin::CATALOGUE.iter().map(|spec| spec.known.contract_id);
        match contracts::nearest(contract, claimed.chain(built_in)) {
            Some(meant) => format!("call it by the contract {meant}, if that is meant"),
            None => format!("start a provider of {contract}, and link the actor to it"),
        }
    }

    /// The contract of the provider that a link leads to, where it is another one than the link's.
    fn other_contract(&self, link: &LinkDefinition) -> Option<&str> {
        let provider = self.table.claims(&link.provider_id);
        standing::other_contract(link, provider.map(|claims| &**claims))
    }

    fn put_command(&self, provider: &str, contract: &str) -> String {
        let Request { origin, link_name, .. } = self.request;
        put_command(&origin.public_key, provider, contract, link_name)
    }

    fn claim(&self, explanation: &Explanation) -> Step {
        let origin = &self.request.origin.public_key;
        match &explanation.claim {
            None if explanation.resolution.as_ref().is_some_and(Result::is_err) => {
                step("claim", Outcome::Unknown, "is only looked at when there is a target".into())
            }
            None => step("claim", Outcome::Ok, "calls of actors need no capability".into()),
            Some(Ok(())) => {
                let why =
                    format!("{} is signed for {}", self.named(origin), self.request.namespace);
                step("claim", Outcome::Ok, why)
            }
            Some(Err(error @ CallError::NotInForce { .. })) => {
                step("claim", Outcome::Fails, error.to_string())
            }
            Some(Err(error)) => {
                let contract = &self.request.namespace;
                let why = format!("{} is not signed for {contract}", self.named(origin));
                // A contract that the provider does not fulfil helps nobody who is signed for it.
                let fix = match &explanation.resolution {
                    Some(Ok(Resolution::Linked(link))) => self.other_contract(link).map(|own| {
                        let put = self.put_command(&link.provider_id, own);
                        let option = link_option(&link.link_name);
                        format!("host link del {origin} {contract}{option}; {put}")
                    }),
                    _ => None,
                };
                Step {
                    fix: Some(fix.unwrap_or_else(|| sign_command(origin, contract))),
                    data: json!({ "error": error.to_string() }),
                    ..step("claim", Outcome::Fails, why)
                }
            }
        }
    }

    fn check(&self, explanation: &Explanation) -> Step {
        let target = explanation.target.as_ref();
        match &explanation.check {
            Check::Here(Ok(())) => step("check", Outcome::Ok, self.passed_check(target)),
            Check::Elsewhere(Ok(())) => {
                let passed = self.passed_check(target);
                let why =
                    format!("{passed}; its own host decides, this is by its claims in the lattice");
                step("check", Outcome::Ok, why)
            }
            Check::Here(Err(error)) | Check::Elsewhere(Err(error)) => Step {
                fix: self.mend_check(target, error),
                ..step("check", Outcome::Fails, error.to_string())
            },
            Check::Nothing if matches!(explanation.way, Way::Within(_)) => step(
                "check",
                Outcome::Ok,
                "the host itself answers, and checks nothing more".into(),
            ),
            Check::Nothing => step(
                "check",
                Outcome::Unknown,
                "the target is not known, or a process that checks by itself".into(),
            ),
            Check::Unknown => {
                step("check", Outcome::Unknown, "the lattice has no claims of the target".into())
            }
        }
    }

    fn passed_check(&self, target: Option<&Entity>) -> String {
        let contract = &self.request.origin.contract_id;
        match target {
            Some(target) if !target.is_actor() => {
                "the provider takes calls of actors that are linked to it".to_owned()
            }
            _ if contract.is_empty() => "an actor takes calls of every actor".to_owned(),
            _ => format!(
                "the actor is signed for {contract}, as which the provider calls it, and linked to it"
            ),
        }
    }

    /// Returns the command that mends what the check found.
    fn mend_check(&self, target: Option<&Entity>, error: &CallError) -> Option<String> {
        let Entity { public_key, link_name, contract_id } = &self.request.origin;
        match (error, target?) {
            // It says itself what to do.
            (CallError::NotInForce { .. }, _) => None,
            (CallError::NotLetIn { .. }, target) => {
                Some(put_command(&target.public_key, public_key, contract_id, link_name))
            }
            (_, target) if target.is_actor() => Some(sign_command(&target.public_key, contract_id)),
            (_, target) => Some(self.put_command(&target.public_key, &target.contract_id)),
        }
    }

    fn policy(&self, explanation: &Explanation) -> Step {
        match &explanation.policy {
            _ if matches!(explanation.way, Way::Within(_)) => {
                step("policy", Outcome::Ok, "is not asked for what a host answers itself".into())
            }
            Asked::Off => {
                step("policy", Outcome::Ok, "no policy service is configured on this host".into())
            }
            Asked::Elsewhere if self.request.arrived_at.is_some() => step(
                "policy",
                Outcome::Ok,
                "was asked by the host of the caller, if it has one".into(),
            ),
            Asked::Elsewhere => step(
                "policy",
                Outcome::Unknown,
                "the host of the target asks its policy service, if it has one".into(),
            ),
            Asked::NotReached => step(
                "policy",
                Outcome::Unknown,
                "is only asked for calls that pass the steps before it".into(),
            ),
            Asked::Unknown => step(
                "policy",
                Outcome::Unknown,
                "only hosts know whether there is a policy service".into(),
            ),
            Asked::Decided(decision) => {
                let message = decision
                    .message
                    .as_deref()
                    .map(|message| format!(": {message}"))
                    .unwrap_or_default();
                let data = json!({
                    "permitted": decision.permitted, "request_id": decision.request_id, "message": decision.message,
                });
                let id = &decision.request_id;
                if decision.permitted {
                    let why = format!("the policy service permits it (request {id}){message}");
                    return Step { data, ..step("policy", Outcome::Ok, why) };
                }
                let why = format!("the policy service denies it (request {id}){message}");
                let fix = Some(
                    "change what the policy service decides by, or start it if it does not answer"
                        .to_owned(),
                );
                Step { data, fix, ..step("policy", Outcome::Fails, why) }
            }
        }
    }

    fn replica(&self, explanation: &Explanation) -> Step {
        if let Way::Within(Builtin::Logging | Builtin::Numbergen) = explanation.way {
            return step("replica", Outcome::Ok, "every host has it".into());
        }
        let Some(target) = &explanation.target else {
            return step("replica", Outcome::Unknown, "the target is not known".into());
        };
        let Explanation { here, runners, .. } = explanation;
        let data = json!({
            "here": here.is_some(),
            "room": here.as_ref().and_then(|here| here.room).map(room_data),
            "hosts": runners.iter().map(runner_data).collect::<Vec<_>>(),
        });
        // A host that is silent may be gone, and does not count.
        let is_elsewhere = runners.iter().any(|runner| !runner.is_silent);
        let mut said = places(here.as_ref(), runners);
        // No call may begin now, and none may wait.
        let is_full = here.as_ref().and_then(|here| here.room).is_some_and(|room| {
            room.limit == 0 || (room.free == 0 && room.waiting >= room.queue_max)
        });
        if is_full && !is_elsewhere {
            let fix = Some(
                "let it take more calls at a time: host scale actor, or start it on another host"
                    .to_owned(),
            );
            return Step {
                data,
                fix,
                ..step(
                    "replica",
                    Outcome::Fails,
                    format!("{}, and takes no further call", said.join("; ")),
                )
            };
        }
        if here.is_some() || is_elsewhere {
            return Step { data, ..step("replica", Outcome::Ok, said.join("; ")) };
        }
        let heard = match self.request.arrived_at {
            Some(_) => {
                "it does not run in this host, or as a process that tells nothing".to_owned()
            }
            None => "no host that is heard here runs it; hosts of earlier years are not heard"
                .to_owned(),
        };
        said.insert(0, heard);
        Step {
            data,
            fix: Some(self.start_command(target)),
            ..step("replica", Outcome::Unknown, said.join("; "))
        }
    }

    fn path(&self, explanation: &Explanation) -> Step {
        match &explanation.way {
            Way::Nowhere => step(
                "path",
                Outcome::Unknown,
                "there is none without a target, or only hosts know it".into(),
            ),
            Way::Within(_) => step("path", Outcome::Ok, "the host answers itself".into()),
            Way::Here => {
                let data = json!({ "local": true });
                Step {
                    data,
                    ..step(
                        "path",
                        Outcome::Ok,
                        "local: within this process, unsigned and without NATS".into(),
                    )
                }
            }
            Way::Nats { subject, host_id, may_wait_here } => {
                let mut why = match host_id {
                    Some(host) => format!("over NATS to host {host}, on {subject}"),
                    None => format!("over NATS to the queue group of {subject}"),
                };
                if *may_wait_here {
                    why.push_str(
                        "; all permits here are out, so it waits here if nobody there takes it",
                    );
                }
                let data = json!({ "local": false, "subject": subject, "host_id": host_id, "may_wait_here": may_wait_here });
                Step { data, ..step("path", Outcome::Ok, why) }
            }
            Way::Impossible(error) => step("path", Outcome::Fails, error.to_string()),
        }
    }
}

/// How a provider or an actor is started.
pub fn start_command(table: &Table, target: &Entity) -> String {
    let kind = if target.is_actor() { "actor" } else { "provider" };
    let reference = match builtin::by_key(&target.public_key) {
        Some(spec) => spec.known.reference(),
        None => {
            let known = table.reference_to(&target.public_key);
            known.unwrap_or_else(|| format!("<reference of {}>", target.public_key))
        }
    };
    format!("host start {kind} {reference}{}", link_option(&target.link_name))
}

fn step(name: &str, outcome: Outcome, why: String) -> Step {
    Step { step: name.to_owned(), outcome, why, ..Step::default() }
}

fn sign_command(actor: &str, contract: &str) -> String {
    format!(
        "host claims sign FILE --cap {contract} (with its other contracts too; without --rev it is newer than what runs), then \
         host update actor {actor} REFERENCE"
    )
}

fn deadline(explanation: &Explanation) -> Step {
    match explanation.deadline {
        Some(time) => {
            let ms = clock::millis(time);
            let why = format!(
                "{ms} ms (rpc_timeout_ms); a call made by another call has what is left of that one's time"
            );
            Step { data: json!({ "rpc_timeout_ms": ms }), ..step("deadline", Outcome::Ok, why) }
        }
        None => {
            step("deadline", Outcome::Ok, "that of the host it begins on (rpc_timeout_ms)".into())
        }
    }
}

fn repeat(explanation: &Explanation, operation: &str) -> Step {
    let Some(repeat) = explanation.repeat else {
        return step("repeat", Outcome::Ok, "is decided where the call begins".into());
    };
    let (word, why) = match repeat {
        Repeat::Marked => (
            "yes",
            format!("{operation} is made again elsewhere when a host vanishes with it: repeatable_operations names it"),
        ),
        Repeat::Reads => {
            ("yes", format!("{operation} only reads, so it is made again elsewhere when a host vanishes with it"))
        }
        Repeat::Tagged => (
            "yes",
            format!(
                "{operation} is made again elsewhere when a host vanishes with it: the actor is signed with that tag"
            ),
        ),
        Repeat::ByMethod => (
            "by method",
            "GET, HEAD, PUT, DELETE, OPTIONS and TRACE are made again when a host vanishes with them, others not"
                .to_owned(),
        ),
        Repeat::Never => (
            "no",
            format!(
                "{operation} is not made twice: when a host vanishes with it, its outcome is unknown (repeatable_operations)"
            ),
        ),
    };
    Step { data: json!({ "repeatable": word }), ..step("repeat", Outcome::Ok, why) }
}

/// Says where a target runs: here, on other hosts, and on those that are silent.
fn places(here: Option<&TargetStatus>, runners: &[Runner]) -> Vec<String> {
    let (silent, there): (Vec<&Runner>, Vec<&Runner>) =
        runners.iter().partition(|runner| runner.is_silent);
    let mut said = Vec::new();
    if let Some(here) = here {
        said.push(match here.room {
            Some(room) => format!("it runs here, {}", room_words(room)),
            None => "it runs here".to_owned(),
        });
    }
    if !there.is_empty() {
        let ids: Vec<&str> = there.iter().map(|runner| runner.host_id.as_str()).collect();
        said.push(format!("it runs on {}", ids.join(", ")));
    }
    if !silent.is_empty() {
        let hosts = silent.iter().map(|runner| {
            format!("{} (silent for {} s)", runner.host_id, runner.silence.as_secs())
        });
        said.push(format!("silent: {}", hosts.collect::<Vec<_>>().join(", ")));
    }
    said
}

fn room_words(room: Room) -> String {
    let limit =
        if room.limit == u32::MAX { "any number".to_owned() } else { room.limit.to_string() };
    match room.waiting {
        0 if room.free > 0 => format!("with room for calls ({limit} at a time)"),
        0 => format!("busy with {limit} calls, the next one waits"),
        waiting => {
            format!("busy with {limit} calls while {waiting} of at most {} wait", room.queue_max)
        }
    }
}

fn room_data(room: Room) -> Value {
    json!({ "limit": room.limit, "free": room.free, "waiting": room.waiting, "queue_max": room.queue_max })
}

fn runner_data(runner: &Runner) -> Value {
    json!({
        "host_id": runner.host_id, "silent": runner.is_silent, "direct": runner.is_direct,
        "silence_ms": clock::millis(runner.silence),
    })
}

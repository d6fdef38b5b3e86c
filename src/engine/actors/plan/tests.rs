use super::*;
use crate::{
    actors::supervisor::{Amount, REUSE_ANNOTATION, Revisions},
    issuers::IssuerChange,
};
use lattice_protocol::{
    control::types::CodeKind,
    identity::keys::{Kind, public_of_seed},
};

/// Answers of starts have numbers above this.
const START: u32 = 1000;

#[derive(Clone)]
struct TestModule(Arc<ActorClaims>);

impl Module for TestModule {
    fn claims(&self) -> &ActorClaims {
        &self.0
    }

    fn unserved(&self) -> &[String] {
        &[]
    }

    fn info(&self) -> &CodeInfo {
        const { &CodeInfo { kind: CodeKind::Module, wasi: None, exports: Vec::new() } }
    }
}

/// Carries out a script of steps, and puts the effects of each into words.
struct Scene {
    plan: Plan<TestModule, u32>,
    /// The actors that are being subscribed for.
    subscribing: HashMap<ActorId, ((Start, u32), TestModule)>,
    /// The answers of starts that have come, in order.
    started: Vec<u32>,
    /// The references that the lattice knows, and the actors behind them.
    known: HashMap<String, ActorId>,
    replies: u32,
    starts: u32,
    now: u64,
    room: usize,
}

/// Returns the id of the actor that scripts call by one letter.
fn id(letter: &str) -> ActorId {
    ActorId::parse(&public_of_seed(Kind::Module, &[letter.as_bytes()[0]; 32])).unwrap()
}

fn letter(id: &ActorId) -> &'static str {
    ["A", "B"].into_iter().find(|letter| *id == self::id(letter)).unwrap()
}

/// Reads `A@2`, revision 2 of A, or `A@2x50`, which expires at 50.
fn module(text: &str) -> TestModule {
    TestModule(claims_of(text))
}

pub fn claims_of(text: &str) -> Arc<ActorClaims> {
    let (actor, revision) = text.split_once('@').unwrap();
    let (revision, expires) =
        revision.split_once('x').map_or((revision, None), |(r, e)| (r, Some(e)));
    Arc::new(ActorClaims {
        subject: id(actor),
        issuer: "AISSUER".into(),
        name: None,
        caps: vec![],
        tags: vec![],
        revision: Some(revision.parse().unwrap()),
        version: None,
        call_alias: None,
        issued_at: 1,
        expires: expires.map(|expires| expires.parse().unwrap()),
        not_before: None,
        hash: String::new(),
    })
}

fn amount(text: &str) -> Amount {
    if let Some(count) = text.strip_prefix(">=") {
        Amount::AtLeast(count.parse().unwrap())
    } else if let Some(count) = text.strip_prefix('+') {
        Amount::Add(count.parse().unwrap())
    } else {
        Amount::Exactly(text.trim_start_matches('=').parse().unwrap())
    }
}

/// Reads the words of the form `key=value`.
fn annotations(words: &[&str]) -> Annotations {
    let pairs = words
        .iter()
        .filter_map(|word| word.split_once('='))
        .filter(|(key, _)| !key.is_empty() && *key != ">");
    pairs.map(|(key, value)| (key.replace("reuse", REUSE_ANNOTATION), value.to_owned())).collect()
}

impl Scene {
    fn new(growth: Growth) -> Self {
        Self {
            plan: Plan::new(growth),
            subscribing: HashMap::new(),
            started: Vec::new(),
            known: HashMap::new(),
            replies: 0,
            starts: 0,
            now: 0,
            room: 10_000,
        }
    }

    fn play(&mut self, script: &str) -> String {
        let last = script.split(';').map(|step| self.step(step)).last().unwrap();
        last.join("; ")
    }

    fn step(&mut self, step: &str) -> Vec<String> {
        let words: Vec<&str> = step.split_whitespace().collect();
        let (verb, object) = (words[0], words.get(1).copied().unwrap_or_default());
        let rest = words.get(2..).unwrap_or_default();
        let effects = match verb {
            "start" => {
                let start = Start {
                    reference: object.into(),
                    annotations: annotations(rest),
                    amount: rest
                        .first()
                        .filter(|text| text.starts_with(['=', '+', '>']))
                        .map_or(Amount::Exactly(1), |text| amount(text)),
                    issuer_change: IssuerChange::Refused,
                };
                self.starts += 1;
                self.plan.begin(Job::Start(start, START + self.starts), self.now, self.room)
            }
            "replace" => {
                let actor_id = (rest.first() == Some(&"of")).then(|| id(rest[1]).to_string());
                let replace = Replace {
                    actor_id,
                    reference: object.into(),
                    annotations: annotations(rest),
                    revisions: match rest.contains(&"any") {
                        true => Revisions::Any,
                        false => Revisions::Newer,
                    },
                    share: rest.iter().find_map(|word| word.strip_suffix('%')?.parse().ok()),
                    issuer_change: IssuerChange::Refused,
                };
                let reply = self.reply();
                self.plan.begin(Job::Replace(replace, reply), self.now, self.room)
            }
            "stop" => {
                let actor =
                    if object.contains(':') { object.into() } else { id(object).to_string() };
                let count = rest.first().and_then(|count| count.parse().ok());
                let reply = self.reply();
                let stop = Stop { actor, annotations: annotations(rest), count };
                let key = stop.actor.clone();
                self.plan.stop(stop, reply, |reference| {
                    self.known.get(reference).is_some_and(|id| id.as_str() == key)
                })
            }
            "loaded" if rest[0] == "failed" => {
                self.plan.loaded(object, Err(LoadError::of_unknown("gone")), self.room)
            }
            "loaded" => self.plan.loaded(object, Ok(module(rest[0])), self.room),
            "subscribed" | "unsubscribed" => {
                let id = id(object);
                let ((start, reply), module) = self.subscribing.remove(&id).unwrap();
                let mut left = Some(reply);
                let started = match verb {
                    "subscribed" => self.plan.started((&start, &mut left), &module, self.room),
                    _ => Err(StartError::Subscribe("no answer".into())),
                };
                let mut effects = started.unwrap_or_else(|error| {
                    let reply = left.expect("an answer to give");
                    vec![Effect::StartFailed { start, reply, actor_id: Some(id.clone()), error }]
                });
                effects.extend(self.plan.release(&id, self.room));
                effects
            }
            "back" => {
                let reply = self.reply();
                self.plan.take_back(id(object).as_str(), reply)
            }
            "lost" => self.plan.lost(&id(object)),
            "known" => {
                self.known.insert(object.into(), id(rest[0]));
                Vec::new()
            }
            "room" => {
                self.room = object.parse().unwrap();
                Vec::new()
            }
            "now" => {
                self.now = object.parse().unwrap();
                Vec::new()
            }
            _ => panic!("no step: {step}"),
        };
        assert!(!self.plan.running.values().any(|running| running.groups.is_empty()), "{step}");
        effects.into_iter().map(|effect| self.words(effect)).collect()
    }

    fn reply(&mut self) -> u32 {
        self.replies += 1;
        self.replies
    }

    /// Puts an answer into words; those of starts are only gathered.
    fn ok(&mut self, reply: Option<u32>) -> String {
        match reply {
            Some(reply) if reply > START => {
                self.started.push(reply - START);
                String::new()
            }
            Some(reply) => format!(" ok#{reply}"),
            None => String::new(),
        }
    }

    fn words(&mut self, effect: Effect<TestModule, u32>) -> String {
        match effect {
            Effect::Load { reference, .. } => format!("load {reference}"),
            Effect::AskPermission { own, newer, .. } => {
                let all: Vec<String> = std::iter::once(own)
                    .chain(newer)
                    .map(|(module, reference)| format!("{reference} {}", version(&module)))
                    .collect();
                format!("ask {}", all.join(" "))
            }
            Effect::Subscribe { start, reply, module } => {
                let words = format!("subscribe {}", version(&module));
                let subscribing = ((start, reply), module.clone());
                assert!(self.subscribing.insert(module.0.subject.clone(), subscribing).is_none());
                words
            }
            Effect::Announce(change, reply) => {
                self.started.push(reply - START);
                format!("announce {}", changes(&[change]))
            }
            Effect::Scale { id, limits, changes: list, reply } => {
                format!(
                    "scale {} {} [{}]{}",
                    letter(&id),
                    words_of(limits),
                    changes(&list),
                    self.ok(reply)
                )
            }
            Effect::Leave { id, changes: list, reply } => {
                format!("leave {} [{}]{}", letter(&id), changes(&list), self.ok(reply))
            }
            Effect::Update(update, reply) => format!(
                "update {} {} > {} {} {}{}",
                update.old_reference,
                version(&update.old_module),
                update.reference,
                version(&update.module),
                words_of(update.limits),
                self.ok(Some(reply))
            ),
            Effect::Trial(change, reply) => {
                let share = change.view.map_or("all".into(), |view| format!("{}%", view.share));
                let (reference, module) = (&change.reference, version(&change.module));
                format!("trial {share} {reference} {module}{}", self.ok(Some(reply)))
            }
            Effect::StartFailed { start, reply, actor_id, error } => {
                self.started.push(reply - START);
                format!(
                    "no start {} {}: {}",
                    start.reference,
                    actor_id.as_ref().map_or("-", letter),
                    kind(&error)
                )
            }
            Effect::ReplaceFailed { reply, error, running, .. } => {
                let runs = running
                    .map_or(String::new(), |version| format!(" (runs {})", version.revision));
                format!("no update #{reply}: {}{runs}", kind(&error))
            }
            Effect::Answer { reply, result: Ok(_) } => format!("ok#{reply}"),
            Effect::Answer { reply, result: Err(error) } => {
                format!("no #{reply}: {}", kind(&error))
            }
        }
    }
}

fn version(module: &TestModule) -> String {
    format!("{}@{}", letter(&module.0.subject), module.0.effective_revision())
}

fn changes(changes: &[Change<TestModule>]) -> String {
    let words = changes.iter().map(|change| {
        let pairs: Vec<_> =
            change.annotations.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let pairs = pairs.join(",").replace(REUSE_ANNOTATION, "reuse");
        format!("{}{{{pairs}}} {}>{}", change.reference, change.before, change.after)
    });
    words.collect::<Vec<_>>().join(", ")
}

fn words_of(limits: Limits) -> String {
    let reuse = limits.reuse.map(|reuse| format!(" reuse={reuse}")).unwrap_or_default();
    format!("calls={}{reuse}", limits.calls)
}

/// Returns the name of an error's variant.
fn kind(error: &impl std::fmt::Debug) -> String {
    format!("{error:?}").chars().take_while(char::is_ascii_alphanumeric).collect()
}

/// Two calls of A at a time.
const RUN: &str = "start a:1 =2; loaded a:1 A@1x50; subscribed A";

/// Plays scripts, `RUN` in them standing for two calls of A at a time; compares the effects of
/// the last step of each.
fn check(growth: Growth, cases: &[(&str, &str, &str)]) {
    for (promise, script, expected) in cases {
        let script = script.replace("RUN", RUN);
        assert_eq!(Scene::new(growth).play(&script), *expected, "{promise}: {script}");
    }
}

#[test]
fn each_start_is_answered_when_it_has_ended_whatever_the_end() {
    for (script, answered) in [
        ("start a:1", &[][..]),
        ("start a:1; start a:1 +1; loaded a:1 failed", &[1, 2]),
        ("start a:1; loaded a:1 A@1", &[]),
        ("start a:1; loaded a:1 A@1; subscribed A", &[1]),
        ("start a:1; loaded a:1 A@1; unsubscribed A", &[1]),
        ("start a:1; start a:1 +1; loaded a:1 A@1; subscribed A", &[1, 2]),
        ("RUN; start a:1 =0", &[1, 2]),
        ("RUN; start b:1; loaded b:1 A@2", &[1, 2]),
        ("start a:1 =0; loaded a:1 A@1", &[1]),
        ("room 0; start a:1; loaded a:1 A@1; subscribed A", &[1]),
    ] {
        let mut scene = Scene::new(Growth::Free);
        scene.play(&script.replace("RUN", "start a:1 =2; loaded a:1 A@1x50; subscribed A"));
        assert_eq!(scene.started, answered, "{script}");
    }
}

#[test]
fn starts_become_groups_in_the_order_they_were_given() {
    check(
        Growth::Free,
        &[
            ("an unknown module is loaded", "start a:1", "load a:1"),
            ("it is loaded once", "start a:1; start a:1 +1", ""),
            ("two modules are loaded at a time", "start a:1; start b:1", "load b:1"),
            ("a loaded module is subscribed for", "start a:1; loaded a:1 A@1", "subscribe A@1"),
            ("a subscribed actor runs", "RUN", "scale A calls=2 [a:1{} 0>2]"),
            (
                "starts wait for the load and the subscription",
                "start a:1 =2; start a:1 +1; loaded a:1 A@1; start a:1 +4; loaded a:1 A@1; subscribed A",
                "scale A calls=2 [a:1{} 0>2]; scale A calls=3 [a:1{} 2>3]; scale A calls=7 [a:1{} 3>7]",
            ),
            (
                "none of what does not run is only told",
                "start a:1 =0; loaded a:1 A@1",
                "announce a:1{} 0>0",
            ),
            ("none more is as well", "start a:1 +0; loaded a:1 A@1", "announce a:1{} 0>0"),
            ("at least none is as well", "start a:1 >=0; loaded a:1 A@1", "announce a:1{} 0>0"),
            ("a running module is not loaded", "RUN; start a:1 =5", "scale A calls=5 [a:1{} 2>5]"),
            ("none of the only group ends the actor", "RUN; start a:1 =0", "leave A [a:1{} 2>0]"),
            ("more are added", "RUN; start a:1 +3", "scale A calls=5 [a:1{} 2>5]"),
            (
                "other annotations are another group",
                "RUN; start a:1 =3 t=x",
                "scale A calls=5 [a:1{t=x} 0>3]",
            ),
            (
                "none of one group leaves the other",
                "RUN; start a:1 =3 t=x; start a:1 =0",
                "scale A calls=3 [a:1{} 2>0]",
            ),
            (
                "reuse is read",
                "RUN; start a:1 =1 reuse=7",
                "scale A calls=3 reuse=7 [a:1{reuse=7} 0>1]",
            ),
            (
                "a started actor can be stopped and started again",
                "RUN; start a:1 =0; start a:1",
                "load a:1",
            ),
        ],
    );
}

#[test]
fn a_start_that_cannot_be_is_refused_and_the_others_go_on() {
    check(
        Growth::Free,
        &[
            ("reuse is a number", "RUN; start a:1 =1 reuse=many", "no start a:1 A: Reuse"),
            (
                "reuse is above zero",
                "start a:1 =1 reuse=0; loaded a:1 A@1",
                "no start a:1 A: Reuse",
            ),
            (
                "an actor has one module",
                "RUN; start a:2; loaded a:2 A@2",
                "no start a:2 A: OtherReference",
            ),
            (
                "a full host takes no actor",
                "start a:1; loaded a:1 A@1; room 0; subscribed A",
                "no start a:1 A: Full",
            ),
            ("a full host takes no group", "RUN; room 0; start a:1 =1 t=x", "no start a:1 A: Full"),
            (
                "a module that does not load fails every start",
                "start a:1; start a:1 +1; loaded a:1 failed",
                "no start a:1 -: Load; no start a:1 -: Load",
            ),
            (
                "after that it is loaded again",
                "start a:1; loaded a:1 failed; start a:1",
                "load a:1",
            ),
            (
                "a failed subscription fails one start, and the next subscribes again",
                "start a:1; start a:1 +2; loaded a:1 A@1; unsubscribed A",
                "no start a:1 A: Subscribe; subscribe A@1",
            ),
            (
                "the next start is not lost",
                "start a:1; start a:1 +2; loaded a:1 A@1; unsubscribed A; subscribed A",
                "scale A calls=2 [a:1{} 0>2]",
            ),
            (
                "expired claims are looked at before more of it starts",
                "RUN; now 51; start a:1 =3",
                "ask a:1 A@1",
            ),
            ("less of it is fine", "RUN; now 51; start a:1 =1", "scale A calls=1 [a:1{} 2>1]"),
            (
                "starts wait for the permission",
                "RUN; now 51; start a:1 =3; start a:1 =1; loaded a:1 A@1",
                "scale A calls=3 [a:1{} 2>3]; scale A calls=1 [a:1{} 3>1]",
            ),
        ],
    );
    check(
        Growth::AsksPolicy,
        &[
            ("a policy is asked about more", "RUN; start a:1 =3", "ask a:1 A@1"),
            ("about one more", "RUN; start a:1 +1", "ask a:1 A@1"),
            ("about another group", "RUN; start a:1 =1 t=x", "ask a:1 A@1"),
            ("not about less", "RUN; start a:1 =1", "scale A calls=1 [a:1{} 2>1]"),
            ("not about as many", "RUN; start a:1 >=2", "scale A calls=2 [a:1{} 2>2]"),
            (
                "more starts when it agrees",
                "RUN; start a:1 =3; loaded a:1 A@1",
                "scale A calls=3 [a:1{} 2>3]",
            ),
            (
                "nothing changes when it does not",
                "RUN; start a:1 =3; loaded a:1 failed",
                "no start a:1 -: Load",
            ),
        ],
    );
}

#[test]
fn stops_take_what_they_select_and_overtake_no_start() {
    check(
        Growth::Free,
        &[
            ("an actor stops by its key", "RUN; stop A", "leave A [a:1{} 2>0] ok#1"),
            ("or by its reference", "RUN; stop a:1", "leave A [a:1{} 2>0] ok#1"),
            ("a part of it stops", "RUN; stop A 1", "scale A calls=1 [a:1{} 2>1] ok#1"),
            ("none stop", "RUN; stop A 0", "scale A calls=2 [] ok#1"),
            (
                "annotations select",
                "RUN; start a:1 =3 t=x; stop A all t=x",
                "scale A calls=2 [a:1{t=x} 3>0] ok#1",
            ),
            ("some select nothing", "RUN; stop A all t=x", "no #1: NoSuchAnnotations"),
            ("what does not run does not stop", "RUN; stop B", "no #1: NotRunning"),
            ("what stopped does not stop again", "RUN; stop A; stop A", "no #2: NotRunning"),
            ("a stop waits for the load", "start a:1 =2; stop a:1", ""),
            (
                "and for the subscription",
                "start a:1 =2; stop a:1; loaded a:1 A@1; subscribed A",
                "scale A calls=2 [a:1{} 0>2]; leave A [a:1{} 2>0] ok#1",
            ),
            (
                "a stop by key waits for a reference that is known",
                "known a:1 A; start a:1; stop A",
                "",
            ),
            ("and for no other", "known a:1 B; start a:1; stop A", "no #1: NotRunning"),
            (
                "a stop by key waits for the subscription",
                "start a:1 =2; loaded a:1 A@1; stop A; subscribed A",
                "scale A calls=2 [a:1{} 0>2]; leave A [a:1{} 2>0] ok#1",
            ),
            (
                "a module that does not load cannot be stopped",
                "start a:1; stop a:1; loaded a:1 failed",
                "no start a:1 -: Load; no #1: NotRunning",
            ),
            (
                "a stop does not overtake the start that subscribes again",
                "start a:1; start a:1 +2; loaded a:1 A@1; stop A; unsubscribed A; subscribed A",
                "scale A calls=2 [a:1{} 0>2]; leave A [a:1{} 2>0] ok#1",
            ),
            (
                "a lost subscription ends the actor",
                "RUN; start a:1 =3 t=x; lost A",
                "leave A [a:1{} 2>0, a:1{t=x} 3>0]",
            ),
            ("an actor that is gone is not lost", "RUN; stop A; lost A", ""),
        ],
    );
}

#[test]
fn a_newer_revision_runs_beside_until_it_takes_all_or_is_taken_back() {
    check(
        Growth::Free,
        &[
            ("it takes a share", "RUN; replace a:2 10%; loaded a:2 A@2", "trial 10% a:2 A@2 ok#1"),
            (
                "the share changes, up to all calls",
                "RUN; replace a:2 10%; loaded a:2 A@2; replace a:2 100%; loaded a:2 A@2",
                "trial 100% a:2 A@2 ok#2",
            ),
            (
                "it is taken back, and what ran before is told again",
                "RUN; replace a:2 10%; loaded a:2 A@2; back A",
                "trial all a:1 A@1 ok#2",
            ),
            (
                "it is taken back before it has begun",
                "RUN; replace a:2 of A 10%; replace a:3 of A 10%; back A",
                "no #2: Overtaken; ok#3",
            ),
            ("then it does not begin", "RUN; replace a:2 of A 10%; back A; loaded a:2 A@2", ""),
            (
                "it is taken back before its actor is there",
                "start a:1; loaded a:1 A@1; replace a:2 of A 10%; loaded a:2 A@2; back A; subscribed A",
                "scale A calls=1 [a:1{} 0>1]",
            ),
            (
                "others that wait for the same module do not mind",
                "RUN; replace a:2 of A 10%; replace a:2 of A; back A; loaded a:2 A@2",
                "update a:1 A@1 > a:2 A@2 calls=2 ok#2",
            ),
            (
                "one that is late does not follow a later one",
                "RUN; replace a:2 of A 10%; replace a:3 of A; loaded a:3 A@3; loaded a:2 A@2",
                "",
            ),
            ("without one there is nothing to take back", "RUN; back A", "no #1: NoTrial"),
            ("nor twice", "RUN; replace a:2 10%; loaded a:2 A@2; back A; back A", "no #3: NoTrial"),
            (
                "it takes all: an update from what ran before",
                "RUN; replace a:2 10%; loaded a:2 A@2; replace a:2; loaded a:2 A@2",
                "update a:1 A@1 > a:2 A@2 calls=2 ok#2",
            ),
            (
                "what ran before can be scaled meanwhile",
                "RUN; replace a:2 10%; loaded a:2 A@2; start a:1 =3",
                "scale A calls=3 [a:1{} 2>3]",
            ),
            (
                "by the newer reference as well, under its own",
                "RUN; replace a:2 10%; loaded a:2 A@2; start a:2 =3",
                "scale A calls=3 [a:1{} 2>3]",
            ),
            (
                "it stops by its reference",
                "RUN; replace a:2 10%; loaded a:2 A@2; stop a:1",
                "leave A [a:1{} 2>0] ok#2",
            ),
            (
                "and by the newer one",
                "RUN; replace a:2 10%; loaded a:2 A@2; stop a:2",
                "leave A [a:1{} 2>0] ok#2",
            ),
            (
                "a reference that was taken back names it no more",
                "RUN; replace a:2 10%; loaded a:2 A@2; back A; stop a:2",
                "no #3: NotRunning",
            ),
            (
                "more of it is a matter of both claims",
                "RUN; replace a:2 10%; loaded a:2 A@2x9; now 10; start a:1 =3",
                "ask a:1 A@1 a:2 A@2",
            ),
            (
                "each by its own reference, whichever is named",
                "RUN; replace a:2 10%; loaded a:2 A@2x9; now 10; start a:2 =3",
                "ask a:1 A@1 a:2 A@2",
            ),
            (
                "another actor is none",
                "RUN; replace a:2 of B 10%; loaded a:2 A@2",
                "no update #1: OtherActor",
            ),
            ("without an actor there is nothing to take back", "back A", "no #1: NotRunning"),
        ],
    );
}

#[test]
fn updates_exchange_the_module_of_a_whole_actor() {
    check(
        Growth::Free,
        &[
            ("an update loads its module", "RUN; replace a:2", "load a:2"),
            (
                "a newer module runs",
                "RUN; replace a:2; loaded a:2 A@2",
                "update a:1 A@1 > a:2 A@2 calls=2 ok#1",
            ),
            ("the same is loaded as well", "RUN; replace a:1", "load a:1"),
            (
                "the same revision is refused",
                "RUN; replace a:2; loaded a:2 A@1",
                "no update #1: NotNewer",
            ),
            (
                "the running revision is named",
                "RUN; replace a:2 of A; loaded a:2 A@1",
                "no update #1: NotNewer (runs 1)",
            ),
            (
                "an older one runs where that is meant",
                "RUN; replace a:2; loaded a:2 A@2; replace a:1 any; loaded a:1 A@1",
                "update a:2 A@2 > a:1 A@1 calls=2 ok#2",
            ),
            (
                "another actor is refused",
                "RUN; replace a:2 of B; loaded a:2 A@2",
                "no update #1: OtherActor",
            ),
            (
                "only what runs is updated",
                "replace a:2; loaded a:2 A@2",
                "no update #1: NotRunning",
            ),
            (
                "a part is not updated",
                "RUN; start a:1 =1 t=x; replace a:2 t=x; loaded a:2 A@2",
                "no update #1: PartOfActor",
            ),
            (
                "unknown annotations select nothing",
                "RUN; replace a:2 t=x; loaded a:2 A@2",
                "no update #1: NoSuchAnnotations",
            ),
            (
                "annotations may select all",
                "start a:1 =2 t=x; loaded a:1 A@1; subscribed A; replace a:2 t=x; loaded a:2 A@2",
                "update a:1 A@1 > a:2 A@2 calls=2 ok#1",
            ),
            (
                "a module that does not load updates nothing",
                "RUN; replace a:2; loaded a:2 failed",
                "no update #1: Load",
            ),
            (
                "the new reference runs here",
                "RUN; replace a:2; loaded a:2 A@2; start a:2 =3",
                "scale A calls=3 [a:2{} 2>3]",
            ),
            (
                "the old reference does not",
                "RUN; replace a:2; loaded a:2 A@2; start a:1 =3; loaded a:1 A@1",
                "no start a:1 A: OtherReference",
            ),
            (
                "an update waits for the subscription",
                "start a:1; loaded a:1 A@1; replace a:2; loaded a:2 A@2; subscribed A",
                "scale A calls=1 [a:1{} 0>1]; update a:1 A@1 > a:2 A@2 calls=1 ok#1",
            ),
        ],
    );
}

#[test]
fn only_so_many_commands_wait() {
    let mut scene = Scene::new(Growth::Free);
    for number in 0..JOBS_MAX {
        assert_eq!(scene.play(&format!("start a:{number}")), format!("load a:{number}"));
    }
    assert_eq!(scene.play("start b:1"), "no start b:1 -: Load");
    assert_eq!(scene.play("replace b:1"), "no update #1: Load");
    assert_eq!(scene.play("stop a:1"), "no #2: Unavailable", "a stop would wait as well");
    assert_eq!(scene.play("stop A"), "no #3: NotRunning", "one that waits for nothing is taken");
    assert_eq!(scene.play("loaded a:0 failed; start b:1"), "load b:1");
}

#[test]
fn a_host_that_stops_ends_every_group_and_gives_up_what_waits() {
    let mut scene = Scene::new(Growth::Free);
    scene.play(RUN);
    scene.play("start a:1 =3 t=x; start b:1; replace b:1 of A; stop b:1");
    scene.play("start c:1; loaded c:1 B@1; start c:1 +1; loaded c:1 B@1");
    let given_up = scene.plan.give_up();
    let given_up: Vec<_> = given_up
        .iter()
        .map(|job| match job {
            Job::Start(start, _) => format!("start {}", start.reference),
            Job::Replace(replace, _) => {
                let version = scene.plan.version_for(replace).expect("it runs");
                format!("update of {} to {}", version.revision, replace.reference)
            }
        })
        .collect();
    assert_eq!(given_up, ["start b:1", "update of 1 to b:1", "start c:1"]);
    assert!(scene.plan.give_up().is_empty());
    assert_eq!(changes(&scene.plan.stop_all()), "a:1{} 2>0, a:1{t=x} 3>0");
    assert!(scene.plan.view().is_empty());
}

#[test]
fn readers_see_the_revision_before_and_the_newer_one_beside_it() {
    let mut scene = Scene::new(Growth::Free);
    scene.play("RUN; replace a:2 10%; loaded a:2 A@2".replace("RUN", RUN).as_str());
    let view = scene.plan.view();
    let [actor] = &view[..] else { panic!("{view:?}") };
    assert_eq!((&*actor.reference, actor.revision), ("a:1", 1));
    let newer = actor.trial.as_ref().expect("the newer one");
    assert_eq!((&*newer.reference, newer.revision, newer.share), ("a:2", 2, 10));
    assert!(actor.is_from("a:1") && actor.is_from("a:2") && !actor.is_from("a:3"));
    for (claims, expected) in [("A@1x50", "a:1"), ("A@2", "a:2")] {
        assert_eq!(scene.plan.reference_of(&id("A"), &claims_of(claims)), expected);
    }
}

#[test]
fn readers_see_groups_with_their_ids() {
    let mut scene = Scene::new(Growth::Free);
    scene.play("start a:1 =2; loaded a:1 A@3; subscribed A; start a:1 =1 t=x");
    let view = scene.plan.view();
    let [actor] = &view[..] else { panic!("{view:?}") };
    assert_eq!((&actor.id, &*actor.reference, actor.revision), (&id("A"), "a:1", 3));
    assert_eq!(actor.groups.iter().map(|group| group.max).collect::<Vec<_>>(), [2, 1]);
    assert_ne!(actor.groups[0].instance_id, actor.groups[1].instance_id);
}

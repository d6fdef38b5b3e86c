//! Work whose instructions are counted by `.ci/instructions`: what every call needs of this crate.
//!
//! `instructions` lists the names; `instructions NAME TIMES` does that work so many times. Counts
//! are the same on every run of one machine, unlike times, so that a change of a tenth is seen.

use std::{hint::black_box, process::ExitCode};

use bytes::Bytes;
use lattice_protocol::{
    identity::samples::{ACTOR, CLUSTER},
    rpc::{Entity, Invocation, InvocationResponse, Signer, Verifier, codec},
};

/// The time of all tokens, in seconds since 1970: no clock is read here.
const NOW: u64 = 1_700_000_000;
const HOST: &str = "NAWASHVALZUZPZNXPIF6HGQ4OMJYLXQ4B2WZZ5AMBCXKWEQPYXDOIWMA";

/// Work that is done before that which is counted.
const WARM_UP: u32 = 100;

/// A call and its answer, as they travel.
struct Sample {
    signer: Signer,
    verifier: Verifier,
    invocation: Invocation,
    encoded: Bytes,
    response: InvocationResponse,
}

type Work = fn(&Sample);

const WORK: [(&str, Work); 6] = [
    ("invocation-encode", encode),
    ("invocation-decode", decode),
    ("response-round", respond),
    ("token-sign", sign),
    ("token-verify", verify),
    ("call-receive", receive),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, times] = arguments.as_slice() else {
        return say(&WORK.map(|(name, _)| name).join("\n"));
    };
    let found = WORK.into_iter().find(|(known, _)| known == name);
    let (Some((_, work)), Ok(times)) = (found, times.parse::<u32>()) else {
        return ExitCode::FAILURE;
    };
    let sample = Sample::new();
    // A key that verifies much gets a table first.
    for _ in 0..WARM_UP + times {
        work(&sample);
    }
    ExitCode::SUCCESS
}

#[expect(clippy::print_stdout, reason = "this is a program, and its names are its output")]
fn say(text: &str) -> ExitCode {
    println!("{text}");
    ExitCode::SUCCESS
}

impl Sample {
    fn new() -> Self {
        let signer = Signer::new(CLUSTER.seed).expect("a sample is a key");
        let verifier = Verifier::new(vec![signer.issuer().clone()]);
        let (target, payload) = (Entity::new(ACTOR.public, "", ""), Bytes::from_static(&[0x80]));
        let id = "0b1f6e0e-7f0e-4c7f-9a55-6f0d1c7f6a10";
        let operation = "Actor.HealthRequest";
        let mut invocation =
            Invocation::new(target.clone(), target, operation, payload.clone(), id, HOST);
        let Invocation { origin, target, operation, msg, id, .. } = &invocation;
        invocation.encoded_claims = signer.sign(origin, target, operation, msg, id, NOW);
        let encoded = codec::encode_invocation(&invocation);
        let response = InvocationResponse::success(invocation.id.clone(), payload);
        Self { signer, verifier, invocation, encoded, response }
    }
}

fn encode(sample: &Sample) {
    black_box(codec::encode_invocation(black_box(&sample.invocation)));
}

fn decode(sample: &Sample) {
    let decoded = codec::decode_invocation(black_box(&sample.encoded).clone());
    black_box(decoded.expect("it was encoded here"));
}

fn respond(sample: &Sample) {
    let encoded = codec::encode_response(black_box(&sample.response));
    black_box(codec::decode_response(encoded).expect("it was encoded here"));
}

fn sign(sample: &Sample) {
    let Invocation { origin, target, operation, msg, id, .. } = black_box(&sample.invocation);
    black_box(sample.signer.sign(origin, target, operation, msg, id, NOW));
}

fn verify(sample: &Sample) {
    check(&sample.verifier, black_box(&sample.invocation));
}

fn check(verifier: &Verifier, invocation: &Invocation) {
    let checked = verifier.verify_claims(invocation, NOW).expect("it was signed here");
    checked.verify_hash(&invocation.msg).expect("it was signed here");
}

/// All that a host does with a call besides its guest: decoded, verified, answered.
fn receive(sample: &Sample) {
    let decoded = codec::decode_invocation(black_box(&sample.encoded).clone());
    check(&sample.verifier, &decoded.expect("it was encoded here"));
    black_box(codec::encode_response(black_box(&sample.response)));
}

//! The parts of a call that need no guest and no network: what they cost on one core.

use std::{hint::black_box, sync::Arc};

use anyhow::{Context as _, Result, bail, ensure};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    load::{Pace, Target},
    row::{Group, Row},
};
use lattice_protocol::{
    identity::{
        keys::{Kind, decode_public},
        signature::{SigningKey, VerifyingKey},
        validity::now,
    },
    peers::session::{CallParts, CallProof, End, Keys, OwnKey, SessionCall, Window},
    rpc::{Entity, Invocation, Signer, Verifier, codec},
};
use parking_lot::Mutex;

/// Counters of a session that are told apart.
const WINDOW: u64 = 1 << 20;
/// One caller: what one core does.
const ALONE: Pace = Pace::Closed { callers: 1 };
const BARE_VERIFY: &str = "Ed25519 verify, aws-lc alone";
const BARE_SIGN: &str = "Ed25519 sign";
const BARE_DECODE: &str = "MessagePack decode, rmp-serde";
const BARE_ENCODE: &str = "MessagePack encode, rmp-serde";

/// Work that waits for nothing.
#[derive(Clone)]
struct Work(Arc<dyn Fn() -> Result<()> + Send + Sync>);

impl Target for Work {
    const CALLS: u64 = 16;

    async fn exchange(&mut self) -> Result<()> {
        for _ in 0..Self::CALLS {
            (self.0)()?;
        }
        // Others of this process have their turn.
        tokio::task::yield_now().await;
        Ok(())
    }
}

fn row(name: &str, work: impl Fn() -> Result<()> + Send + Sync + 'static) -> Row {
    Row::new(Group::Parts, name, ALONE, Work(Arc::new(work)))
}

/// The rows.
pub fn rows() -> Result<Vec<Row>> {
    let sample = Sample::new()?;
    let rows = [signatures(&sample)?, tokens(&sample)?, session(&sample)?, messages(&sample)?];
    Ok(rows.into_iter().flatten().collect())
}

/// A call as it travels, and the keys that it was signed with.
#[derive(Clone)]
struct Sample {
    seed: String,
    public_key: [u8; 32],
    invocation: Invocation,
    encoded: Bytes,
}

impl Sample {
    fn new() -> Result<Self> {
        let (key, seed) = SigningKey::generate(Kind::Cluster)?;
        let (_, public_key) = decode_public(key.public_key())?;
        let signer = Signer::new(&seed)?;
        let invocation = invocation(&signer)?;
        let encoded = codec::encode_invocation(&invocation);
        Ok(Self { seed, public_key, invocation, encoded })
    }

    /// The text that the token's signature covers, and the signature.
    fn signed(&self) -> Result<(Vec<u8>, Vec<u8>)> {
        let key = SigningKey::from_seed(&self.seed)?;
        let token = self.invocation.encoded_claims.rsplit_once('.').context("a token has parts")?.0;
        Ok((token.as_bytes().to_vec(), key.sign(token.as_bytes()).to_vec()))
    }
}

fn invocation(signer: &Signer) -> Result<Invocation> {
    let (actor, _) = SigningKey::generate(Kind::Module)?;
    let target = Entity::new(actor.public_key(), "", "");
    let (host, _) = SigningKey::generate(Kind::Server)?;
    let (id, payload) = (uuid::Uuid::new_v4().to_string(), Bytes::from_static(&[0x80]));
    let operation = "Actor.HealthRequest";
    let mut invocation =
        Invocation::new(target.clone(), target.clone(), operation, payload, id, host.public_key());
    let Invocation { msg, id, .. } = &invocation;
    invocation.encoded_claims = signer.sign(&target, &target, operation, msg, id, now());
    Ok(invocation)
}

fn signatures(sample: &Sample) -> Result<Vec<Row>> {
    let (text, signature) = sample.signed()?;
    let key = SigningKey::from_seed(&sample.seed)?;
    let ours = VerifyingKey::from_bytes(sample.public_key);
    let bare = UnparsedPublicKey::new(&ED25519, sample.public_key);
    let (text_too, signature_too) = (text.clone(), signature.clone());
    let text_to_sign = text.clone();
    Ok(vec![
        row(BARE_VERIFY, move || {
            ensure!(bare.verify(black_box(&text), &signature).is_ok(), "the signature is wrong");
            Ok(())
        }),
        row("signature verify", move || {
            ensure!(ours.verify(black_box(&text_too), &signature_too), "the signature is wrong");
            Ok(())
        })
        .beside(BARE_VERIFY),
        row(BARE_SIGN, move || {
            black_box(key.sign(black_box(&text_to_sign)));
            Ok(())
        }),
    ])
}

fn tokens(sample: &Sample) -> Result<Vec<Row>> {
    let signer = Signer::new(&sample.seed)?;
    let verifier = Verifier::new(vec![signer.issuer().clone()]);
    let (sent, received) = (sample.invocation.clone(), sample.invocation.clone());
    Ok(vec![
        row("token verify", move || {
            let checked = verifier.verify_claims(black_box(&received), now())?;
            Ok(checked.verify_hash(&received.msg)?)
        })
        .beside(BARE_VERIFY),
        row("token sign", move || {
            let Invocation { origin, target, operation, msg, id, .. } = black_box(&sent);
            black_box(signer.sign(origin, target, operation, msg, id, now()));
            Ok(())
        })
        .beside(BARE_SIGN),
    ])
}

/// A call between hosts has this in place of a token: the code of its caller, and what its callee
/// does with it.
fn session(sample: &Sample) -> Result<Vec<Row>> {
    let (own, peer) = (OwnKey::generate()?, OwnKey::generate()?);
    let end = End { host: "caller", key: own.public() };
    let keys = Arc::new(peer.agree("callee", end)?.incoming);
    // As it travels, without a token.
    let untold = Invocation { encoded_claims: String::new(), ..sample.invocation.clone() };
    let (body, keys_too) = (codec::encode_invocation(&untold), Arc::clone(&keys));
    let body_too = body.clone();
    let header = CallProof::Session(prove(&keys, 1, &body)).to_string();
    let window = Mutex::new((0, Window::new(WINDOW)));
    Ok(vec![
        row("session code, caller", move || {
            black_box(CallProof::Session(prove(&keys_too, 1, black_box(&body_too))).to_string());
            Ok(())
        })
        .beside(BARE_SIGN),
        row("session code, callee", move || {
            let Some(CallProof::Session(call)) = CallProof::read(black_box(&header)) else {
                bail!("the header cannot be read");
            };
            ensure!(code_of(&keys, call.counter, &body) == call.code, "the code is wrong");
            let mut window = window.lock();
            window.0 += 1;
            let counter = window.0;
            Ok(window.1.take(counter)?)
        })
        .beside(BARE_VERIFY),
    ])
}

fn code_of(keys: &Keys, counter: u64, body: &[u8]) -> blake3::Hash {
    let (time_left, waiting) = (Some("2000"), None);
    keys.call(&CallParts { counter, time_left, waiting, takes_pieces: false, hash: None, body })
}

fn prove(keys: &Keys, counter: u64, body: &[u8]) -> SessionCall {
    let code = code_of(keys, counter, body).into();
    SessionCall { caller_key: 1, callee_key: 2, counter, code, hash: None }
}

fn messages(sample: &Sample) -> Result<Vec<Row>> {
    let plain: Plain = rmp_serde::from_slice(&sample.encoded)?;
    let (ours, theirs) = (sample.encoded.clone(), sample.encoded.clone());
    let invocation = sample.invocation.clone();
    Ok(vec![
        row(BARE_DECODE, move || {
            black_box(rmp_serde::from_slice::<Plain>(black_box(&theirs))?);
            Ok(())
        }),
        row("message decode", move || {
            black_box(codec::decode_invocation(black_box(&ours).clone())?);
            Ok(())
        })
        .beside(BARE_DECODE),
        row(BARE_ENCODE, move || {
            black_box(rmp_serde::to_vec_named(black_box(&plain))?);
            Ok(())
        }),
        row("message encode", move || {
            black_box(codec::encode_invocation(black_box(&invocation)));
            Ok(())
        })
        .beside(BARE_ENCODE),
    ])
}

/// An invocation as serde has it without further care.
#[derive(Serialize, Deserialize)]
struct Plain {
    origin: PlainEntity,
    target: PlainEntity,
    operation: String,
    msg: Bytes,
    id: String,
    encoded_claims: String,
    host_id: String,
    content_length: u64,
}

#[derive(Serialize, Deserialize)]
struct PlainEntity {
    public_key: String,
    link_name: String,
    contract_id: String,
}

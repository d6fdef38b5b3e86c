//! The proofs of calls between hosts that know each other, of answers, and of questions.
//!
//! A call to a host with which there is a [session](crate::peers::sessions) has a code in the place
//! of a token, and its answer has one as well. A host that does not know the session, since it was
//! started again, says so and signs it; then the call is made once more with a token, and the
//! answer to that is signed. Nobody else can bring that about: the signature is for this very call,
//! and only a host that was there before the call was sent, and that has it not in work, can know
//! nothing of it.
//!
//! The header and all that codes and signatures cover are in
//! [`session`](lattice_protocol::peers::session).

use std::{sync::Arc, time::Duration};

use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use tokio::time::Instant;

use super::limits::Limits;
use crate::peers::sessions::{Session, Sessions, Standing};
use lattice_protocol::{
    clock,
    peers::{
        sealed::Signature,
        session::{AnswerProof, Bytes32, CallParts, CallProof, SessionCall, Stale, hash_of_call},
        wire::{self, SESSION},
    },
};

/// How soon a host says that it does not know a session. Less than a former key counts, so that it
/// has not taken the call before.
const UNKNOWN_WITHIN: Duration = Duration::from_secs(5);

/// How a call proves whose it is, and what its answer has to prove.
#[derive(Clone)]
pub enum Proof {
    /// It has a token; the answer may be anybody's.
    Token,
    /// It has a token; the answer has to be signed: by this member, or by any.
    SignedAnswer(Option<Arc<str>>),
    Session(Arc<Session>),
}

/// A call that was sent.
pub struct Asked<'a> {
    sessions: &'a Sessions,
    proof: &'a Proof,
    /// Its header.
    header: String,
    counter: u64,
    id: &'a str,
    body: Bytes,
    at: Instant,
}

/// The meaning of the proof of an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is that of the callee. The hash is that of a result that travels apart.
    Proven(Option<Bytes32>),
    /// The callee does not know the session, and has done nothing.
    NotDone,
    /// It proves nothing, for this reason.
    Unproven(&'static str),
}

impl Proof {
    /// Returns the proof for calls to a host, or to a queue group.
    pub fn of(sessions: Option<&Sessions>, host: Option<&str>) -> Self {
        let Some(sessions) = sessions else { return Self::Token };
        match host.map(|host| (host, sessions.standing(host))) {
            Some((_, Standing::Member(Some(session)))) => Self::Session(session),
            Some((host, Standing::Member(None))) => Self::SignedAnswer(Some(host.into())),
            _ if sessions.requires_signed() => Self::SignedAnswer(host.map(Arc::from)),
            _ => Self::Token,
        }
    }

    /// Adds the proof to the headers of a call that is sent now; nothing if the answer need not
    /// prove anything. `hash` is that of a payload that travels apart.
    pub fn write<'a>(
        &'a self,
        sessions: &'a Sessions,
        headers: &mut HeaderMap,
        (id, body): (&'a str, &Bytes),
        hash: impl FnOnce() -> Option<Bytes32>,
    ) -> Option<Asked<'a>> {
        let (header, counter) = match self {
            Self::Token => return None,
            Self::SignedAnswer(_) => (CallProof::Token.to_string(), 0),
            Self::Session(session) => {
                let (counter, hash) = (sessions.next_counter(session), hash());
                let parts = parts(Some(headers), (counter, hash.as_ref()), body);
                let code = session.keys.outgoing.call(&parts);
                (proof_of(session, counter, code, hash), counter)
            }
        };
        headers.insert(SESSION, header.as_str());
        let (body, at) = (body.clone(), Instant::now());
        Some(Asked { sessions, proof: self, header, counter, id, body, at })
    }
}

impl Asked<'_> {
    /// Judges the answer.
    pub fn judge(&self, answer: &Message) -> Verdict {
        use Verdict::{Proven, Unproven};
        let header = answer.headers.as_ref().and_then(|headers| headers.get(SESSION));
        let Some(proof) = header.and_then(|header| AnswerProof::read(header.as_str())) else {
            return Unproven("it has no proof");
        };
        let body = &*answer.payload;
        match (self.proof, proof) {
            (Proof::Session(session), AnswerProof::Code { code, hash }) => {
                let keys = &session.keys.outgoing;
                let expected = keys.answer(self.counter, self.id, hash.as_ref(), body);
                if expected == code { Proven(hash) } else { Unproven("its code is wrong") }
            }
            (
                Proof::Session(session),
                AnswerProof::Unknown { host, runs_ms, signed, signature },
            ) => {
                let waited = self.at.elapsed();
                let was_there = runs_ms >= clock::millis(waited) && waited < UNKNOWN_WITHIN;
                let is_callee = host == &*session.host && was_there;
                match is_callee && self.is_signed(host, signed, body, &signature) {
                    true => Verdict::NotDone,
                    false => {
                        Unproven("it says that its host knows nothing, and that is not proven")
                    }
                }
            }
            (Proof::SignedAnswer(expected), AnswerProof::Signed { host, signature, hash }) => {
                let fields = AnswerProof::signed_fields(hash.as_ref());
                let is_callee = expected.as_ref().is_none_or(|expected| &**expected == host);
                match is_callee && self.is_signed(host, &fields, body, &signature) {
                    true => Proven(hash),
                    false => Unproven("its signature is wrong"),
                }
            }
            _ => Unproven("its proof is of another kind"),
        }
    }

    /// Says whether a host signed this answer to the call.
    fn is_signed(&self, host: &str, fields: &str, body: &[u8], by: &Signature) -> bool {
        let call = hash_of_call(&self.header, self.id, &self.body);
        self.sessions.is_signed(host, (&call, fields, body), by)
    }
}

/// How this host proves its answer to a message.
#[derive(Clone)]
pub enum Seal {
    /// Nobody asked for a proof.
    Plain,
    Code {
        session: Arc<Session>,
        counter: u64,
    },
    Signature {
        /// The hash of the call.
        call: Bytes32,
    },
    /// Nothing was done, since a key of the session is unknown.
    Unknown {
        call: Bytes32,
    },
}

impl Seal {
    /// Returns the headers of the answer to the invocation with this id.
    pub fn headers(
        &self,
        sessions: &Sessions,
        id: &str,
        hash: Option<&Bytes32>,
        body: &[u8],
    ) -> HeaderMap {
        let header = match self {
            Self::Plain => return HeaderMap::new(),
            Self::Code { session, counter } => {
                let code = session.keys.incoming.answer(*counter, id, hash, body);
                AnswerProof::code(code.as_bytes(), hash)
            }
            Self::Signature { call } => {
                let signature = sessions.sign(call, &AnswerProof::signed_fields(hash), body);
                AnswerProof::signed(sessions.own_id(), &signature, hash)
            }
            Self::Unknown { call } => {
                let signed = format!("{}.{}", sessions.own_id(), sessions.runs_ms());
                AnswerProof::unknown(&signed, &sessions.sign(call, &signed, body))
            }
        };
        let mut headers = HeaderMap::new();
        headers.insert(SESSION, header);
        headers
    }
}

/// The proof of a call that came, as far as it is known before its token is checked.
pub enum Claim {
    /// Its token is to be checked.
    Token(Seal),
    /// It is that of a host.
    Proven(Proven),
    /// Its session is unknown, so nothing is done.
    Unknown(Seal),
}

/// A call, or a question, that a host made.
#[derive(Clone)]
pub struct Proven {
    pub session: Arc<Session>,
    pub counter: u64,
    /// The hash of a payload that travels apart.
    pub hash: Option<Bytes32>,
}

/// Why a call or a question is not that of the host whose it seems to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotProven {
    #[error(
        "the code of the call is wrong: it was changed, or made by somebody without the keys of its host"
    )]
    Code,
    #[error("the call is in the session of another host")]
    Host,
    #[error("the call was made before and is not made twice: {0}")]
    Stale(#[from] Stale),
}

impl Claim {
    /// Reads and checks the proof of a call with this id that claims to be that of a host.
    pub fn of_call(
        sessions: &Sessions,
        message: &Message,
        (id, host_id): (&str, &str),
    ) -> Result<Self, NotProven> {
        let (headers, body) = (message.headers.as_ref(), &*message.payload);
        let header = headers.and_then(|headers| headers.get(SESSION));
        let Some(header) = header.map(|header| header.as_str()) else {
            return Ok(Self::Token(Seal::Plain));
        };
        match CallProof::read(header) {
            None => Ok(Self::Token(Seal::Plain)),
            Some(CallProof::Token) => {
                Ok(Self::Token(Seal::Signature { call: hash_of_call(header, id, body) }))
            }
            Some(CallProof::Session(call)) => {
                let Some(session) = sessions.find(&call, Some(host_id)) else {
                    // It may be new here.
                    sessions.want(host_id);
                    let call = hash_of_call(header, id, body);
                    return Ok(Self::Unknown(Seal::Unknown { call }));
                };
                let SessionCall { counter, code, hash, .. } = call;
                let parts = parts(headers, (counter, hash.as_ref()), body);
                if session.keys.incoming.call(&parts) != code {
                    return Err(NotProven::Code);
                }
                if *session.host != *host_id {
                    return Err(NotProven::Host);
                }
                session.accept(counter)?;
                Ok(Self::Proven(Proven { session, counter, hash }))
            }
        }
    }
}

impl Proven {
    /// Returns the seal of the answer.
    pub fn seal(&self) -> Seal {
        Seal::Code { session: Arc::clone(&self.session), counter: self.counter }
    }

    /// Reads and checks the proof of a question about the invocation with this id, or for the piece
    /// of its answer with this number; nothing if it has none.
    pub fn of_question(
        sessions: &Sessions,
        headers: &HeaderMap,
        (id, number): (&str, Option<u64>),
    ) -> Option<Self> {
        let Some(CallProof::Session(call)) = CallProof::read(headers.get(SESSION)?.as_str()) else {
            return None;
        };
        let session = sessions.find(&call, None)?;
        let counter = call.counter;
        if session.keys.incoming.question(counter, number, id) != call.code {
            return None;
        }
        session.accept(counter).ok()?;
        Some(Self { session, counter, hash: None })
    }
}

/// A question that was sent to a member.
pub struct Question {
    session: Arc<Session>,
    counter: u64,
}

impl Question {
    /// Adds the proof to the headers of a question about the invocation with this id, or for the
    /// piece of its answer with this number.
    pub fn write(
        sessions: &Sessions,
        session: Arc<Session>,
        headers: &mut HeaderMap,
        (id, number): (&str, Option<u64>),
    ) -> Self {
        let counter = sessions.next_counter(&session);
        let code = session.keys.outgoing.question(counter, number, id);
        headers.insert(SESSION, proof_of(&session, counter, code, None));
        Self { session, counter }
    }

    /// Says whether a message is the answer of the host that was asked.
    pub fn is_answered_by(&self, id: &str, answer: &Message) -> bool {
        let header = answer.headers.as_ref().and_then(|headers| headers.get(SESSION));
        match header.and_then(|header| AnswerProof::read(header.as_str())) {
            Some(AnswerProof::Code { code, hash: None }) => {
                self.session.keys.outgoing.answer(self.counter, id, None, &answer.payload) == code
            }
            _ => false,
        }
    }
}

/// Returns the parts of a call that its code covers.
fn parts<'a>(
    headers: Option<&'a HeaderMap>,
    (counter, hash): (u64, Option<&'a Bytes32>),
    body: &'a [u8],
) -> CallParts<'a> {
    let (time_left, waiting) = Limits::texts(headers);
    let takes_pieces = headers.is_some_and(|headers| headers.get(wire::PIECES).is_some());
    CallParts { counter, time_left, waiting, takes_pieces, hash, body }
}

fn proof_of(session: &Session, counter: u64, code: blake3::Hash, hash: Option<Bytes32>) -> String {
    let (caller_key, callee_key) = session.key_ids();
    let code = *code.as_bytes();
    CallProof::Session(SessionCall { caller_key, callee_key, counter, code, hash }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::{
        sessions::Settings,
        words::{self, Opened, Words},
    };
    use lattice_protocol::{
        identity::{
            keys::{ClusterKey, Kind},
            samples,
            signature::SigningKey,
        },
        peers::wire::{Announcement, Offers},
    };

    fn host() -> Words {
        let (host_key, _) = SigningKey::generate(Kind::Server).unwrap();
        let settings = Settings {
            lattice: "default".into(),
            host_key,
            cluster: SigningKey::from_seed(samples::CLUSTER.seed).unwrap(),
            issuers: vec![ClusterKey::parse(samples::CLUSTER.public).unwrap()],
            requires_signed: false,
        };
        Words::new(Sessions::new(settings).unwrap())
    }

    /// Lets a host know another one.
    fn meet(listener: &Words, speaker: &Words) {
        let (nonce, host) = (words::nonce(), speaker.sessions().own_id().to_owned());
        let offers = Some(Offers::default());
        let said = Announcement { host, incarnation: 1, offers, ..Announcement::default() };
        let question = words::question(&nonce);
        let answer = speaker.seal_answer(&said, Some(&question), 1 << 20);
        assert!(matches!(listener.open_answer(&answer, &nonce), Opened::Believed(_)));
    }

    fn message(headers: HeaderMap, payload: &Bytes) -> Message {
        Message {
            subject: "s".into(),
            reply: None,
            payload: payload.clone(),
            headers: Some(headers),
            status: None,
            description: None,
            length: 0,
        }
    }

    const ID: &str = "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b";

    #[tokio::test(start_paused = true)]
    async fn a_call_is_proven_once_and_its_answer_is_for_it_alone() {
        let (a, b) = (host(), host());
        meet(&a, &b);
        meet(&b, &a);
        let (caller, callee) = (a.sessions(), b.sessions());
        let (own, other) = (caller.own_id(), callee.own_id());
        let body = Bytes::from_static(b"call");
        let proof = Proof::of(Some(caller), Some(other));
        let mut headers = HeaderMap::new();
        let asked = proof.write(caller, &mut headers, (ID, &body), || None).unwrap();
        let call = message(headers, &body);
        let Ok(Claim::Proven(proven)) = Claim::of_call(callee, &call, (ID, own)) else {
            panic!("it is proven")
        };
        let again = Claim::of_call(callee, &call, (ID, own)).err();
        assert_eq!(again, Some(NotProven::Stale(Stale::Seen)));
        let answer = Bytes::from_static(b"answer");
        let sealed = |id: &str| proven.seal().headers(callee, id, None, &answer);
        let judged = |headers: HeaderMap, body: &'static [u8]| {
            asked.judge(&message(headers, &Bytes::from_static(body)))
        };
        assert_eq!(judged(sealed(ID), b"answer"), Verdict::Proven(None));
        for (headers, body) in [
            (sealed(ID), &b"another"[..]),
            (sealed("another id"), b"answer"),
            (HeaderMap::new(), b"answer"),
        ] {
            assert!(matches!(judged(headers, body), Verdict::Unproven(_)));
        }
        // The host that the invocation names must be that of the session.
        let mut headers = HeaderMap::new();
        let _asked = proof.write(caller, &mut headers, (ID, &body), || None).unwrap();
        let other_host = Claim::of_call(callee, &message(headers, &body), (ID, other)).err();
        assert_eq!(other_host, Some(NotProven::Host));
    }

    #[tokio::test(start_paused = true)]
    async fn that_a_session_is_unknown_is_believed_of_the_callee_alone_and_soon() {
        let (a, b, stranger) = (host(), host(), host());
        meet(&a, &b);
        meet(&a, &stranger);
        let (caller, callee) = (a.sessions(), b.sessions());
        // So that the callee was there before the call.
        tokio::time::advance(Duration::from_millis(100)).await;
        let proof = Proof::of(Some(caller), Some(callee.own_id()));
        let body = Bytes::from_static(b"call");
        let mut headers = HeaderMap::new();
        let asked = proof.write(caller, &mut headers, (ID, &body), || None).unwrap();
        let call = message(headers, &body);
        let refusal = Bytes::from_static(b"refused");
        let unknown = |sessions: &Sessions| {
            let Ok(Claim::Unknown(seal)) = Claim::of_call(sessions, &call, (ID, caller.own_id()))
            else {
                panic!("it knows the session")
            };
            message(seal.headers(sessions, ID, None, &refusal), &refusal)
        };
        assert_eq!(asked.judge(&unknown(callee)), Verdict::NotDone);
        assert!(matches!(asked.judge(&unknown(stranger.sessions())), Verdict::Unproven(_)));
        // It was started after the call was sent, so another start of it may have taken it.
        let late = unknown(callee);
        tokio::time::advance(Duration::from_millis(200)).await;
        assert!(matches!(asked.judge(&late), Verdict::Unproven(_)));
        tokio::time::advance(UNKNOWN_WITHIN).await;
        assert!(matches!(asked.judge(&unknown(callee)), Verdict::Unproven(_)));
        // Then the call has a token, and its answer a signature.
        let proof = Proof::SignedAnswer(Some(callee.own_id().into()));
        let mut headers = HeaderMap::new();
        let asked = proof.write(caller, &mut headers, (ID, &body), || None).unwrap();
        let call = message(headers, &body);
        let Ok(Claim::Token(seal)) = Claim::of_call(callee, &call, (ID, caller.own_id())) else {
            panic!("it has a token")
        };
        let hash = [3; 32];
        let answer = message(seal.headers(callee, ID, Some(&hash), &refusal), &refusal);
        assert_eq!(asked.judge(&answer), Verdict::Proven(Some(hash)));
        let of_another =
            message(seal.headers(stranger.sessions(), ID, Some(&hash), &refusal), &refusal);
        assert!(matches!(asked.judge(&of_another), Verdict::Unproven(_)));
        // As the refusal of a copy.
        let plain = message(Seal::Plain.headers(callee, ID, None, &refusal), &refusal);
        assert!(matches!(asked.judge(&plain), Verdict::Unproven(_)));
    }

    #[tokio::test]
    async fn questions_are_proven_and_answered_once() {
        let (a, b) = (host(), host());
        meet(&a, &b);
        meet(&b, &a);
        let (caller, callee) = (a.sessions(), b.sessions());
        let Standing::Member(Some(session)) = caller.standing(callee.own_id()) else {
            panic!("there is a session")
        };
        for number in [None, Some(0), Some(7)] {
            let mut headers = HeaderMap::new();
            let session = Arc::clone(&session);
            let question = Question::write(caller, session, &mut headers, (ID, number));
            let proven = |number| Proven::of_question(callee, &headers, (ID, number));
            assert!(proven(Some(8)).is_none(), "another number");
            let proven_once = proven(number).expect("it is proven");
            assert!(proven(number).is_none(), "asked again by somebody else");
            let answer = Bytes::from_static(b"piece");
            let headers = proven_once.seal().headers(callee, ID, None, &answer);
            assert!(question.is_answered_by(ID, &message(headers, &answer)));
            assert!(!question.is_answered_by(ID, &message(HeaderMap::new(), &answer)));
        }
    }
}

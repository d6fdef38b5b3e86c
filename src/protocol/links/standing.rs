//! How a link stands: one judgement for the command line, the page and the doctor.

use super::{Claims, LinkDefinition};
use crate::builtin;

/// How a link stands. The worst comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Its provider does not take it on, and why.
    Refused(String),
    /// Its provider fulfils this contract instead.
    WrongContract(String),
    /// Its actor was not signed for the contract.
    NotSigned,
    /// Its actor runs, and its provider does not.
    ProviderMissing,
    /// Its actor does not run, so nobody needs it now.
    ActorMissing,
    Ok,
}

/// The ends of a link, as far as they are known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ends<'a> {
    pub actor: Option<&'a Claims>,
    pub provider: Option<&'a Claims>,
    pub actor_runs: bool,
    /// Under the name of the link.
    pub provider_runs: bool,
    /// The reason of a provider that does not take it on.
    pub refusal: Option<&'a str>,
}

impl Standing {
    /// Judges a link by its ends: the worst that holds.
    pub fn of(link: &LinkDefinition, ends: &Ends<'_>) -> Self {
        Self::all(link, ends).into_iter().next().unwrap_or(Self::Ok)
    }

    /// Returns all that is wrong with a link, the worst first; nothing if it is in order.
    pub fn all(link: &LinkDefinition, ends: &Ends<'_>) -> Vec<Self> {
        let is_signed =
            ends.actor.is_none_or(|claims| claims.capabilities.contains(&link.contract_id));
        let other = other_contract(link, ends.provider);
        let running = match (ends.actor_runs, ends.provider_runs) {
            (false, _) => Some(Self::ActorMissing),
            (true, false) => Some(Self::ProviderMissing),
            (true, true) => None,
        };
        let refused = ends.refusal.map(|reason| Self::Refused(reason.to_owned()));
        let wrong = other.map(|other| Self::WrongContract(other.to_owned()));
        // It need not be signed for a contract that the provider does not fulfil.
        let unsigned = (!is_signed && wrong.is_none()).then_some(Self::NotSigned);
        [refused, wrong, unsigned, running].into_iter().flatten().collect()
    }

    /// Returns it in a word or two.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::WrongContract(_) => "wrong contract",
            Self::NotSigned => "not signed",
            Self::ProviderMissing | Self::ActorMissing => "not running",
            Self::Ok => "ok",
        }
    }

    /// Whether no call can go by it until somebody mends it.
    pub fn is_wrong(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::WrongContract(_) | Self::NotSigned)
    }
}

/// Returns the contract that the provider of a link fulfils, where it is another one than the
/// link's.
pub fn other_contract<'a>(link: &LinkDefinition, provider: Option<&'a Claims>) -> Option<&'a str> {
    fulfilled(link, provider).filter(|contract| *contract != link.contract_id)
}

/// Returns the contract that the provider of a link fulfils, if that is known.
fn fulfilled<'a>(link: &LinkDefinition, provider: Option<&'a Claims>) -> Option<&'a str> {
    let known = builtin::by_key(&link.provider_id).map(|known| known.contract_id);
    let claimed = provider.map(|claims| claims.contract_id.as_str());
    known.or(claimed).filter(|contract| !contract.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_has_one_standing_by_what_is_known_of_its_ends() {
        let link = LinkDefinition {
            actor_id: "M".into(),
            provider_id: builtin::HTTPSERVER.public_key.into(),
            link_name: "default".into(),
            contract_id: builtin::HTTPSERVER.contract_id.into(),
            values: Default::default(),
        };
        let misspelt = LinkDefinition { contract_id: "wasmcloud:htpserver".into(), ..link.clone() };
        let signed_for = |contract: &str| Claims {
            subject: "M".into(),
            capabilities: vec![contract.to_owned()],
            ..Claims::default()
        };
        let (signed, unsigned) = (signed_for(&link.contract_id), signed_for("acme:x"));
        let ends = |actor, actor_runs, provider_runs, refusal| Ends {
            actor: Some(actor),
            provider: None,
            actor_runs,
            provider_runs,
            refusal,
        };
        for (link, ends, word, is_wrong) in [
            (&link, ends(&signed, true, true, None), "ok", false),
            (&link, Ends { actor_runs: true, provider_runs: true, ..Ends::default() }, "ok", false),
            (&link, ends(&signed, true, true, Some("taken")), "refused", true),
            (&misspelt, ends(&signed, true, true, None), "wrong contract", true),
            (&link, ends(&unsigned, true, true, None), "not signed", true),
            (&link, ends(&unsigned, false, false, None), "not signed", true),
            (&link, ends(&signed, true, false, None), "not running", false),
            (&link, ends(&signed, false, true, None), "not running", false),
        ] {
            let standing = Standing::of(link, &ends);
            assert_eq!((standing.word(), standing.is_wrong()), (word, is_wrong), "{ends:?}");
        }
    }
}

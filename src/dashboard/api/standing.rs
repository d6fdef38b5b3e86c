//! How an actor is, in one word: the worst that holds of it.

use serde::Serialize;
use utoipa::ToSchema;

use super::links::LinkState;

/// How an actor is. The worst comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActorState {
    /// Calls of it fail now.
    Failing,
    /// A provider does not take one of its links on.
    Refused,
    /// One of its links leads nowhere, or may not be used.
    Dangling,
    /// No host that is heard runs it.
    NotRunning,
    Running,
}

impl ActorState {
    /// Judges by the hosts that run it, its failing calls per second, and the worst of its links.
    pub fn of(hosts: usize, errors_per_s: f64, worst_link: LinkState) -> Self {
        match worst_link {
            _ if hosts == 0 => Self::NotRunning,
            _ if errors_per_s > 0.0 => Self::Failing,
            LinkState::Refused => Self::Refused,
            LinkState::WrongContract | LinkState::NotSigned | LinkState::NotRunning => {
                Self::Dangling
            }
            LinkState::Ok => Self::Running,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_that_holds_is_told() {
        for (hosts, errors, link, expected) in [
            (1, 0.0, LinkState::Ok, ActorState::Running),
            (1, 0.5, LinkState::Ok, ActorState::Failing),
            (1, 0.5, LinkState::Refused, ActorState::Failing),
            (2, 0.0, LinkState::Refused, ActorState::Refused),
            (2, 0.0, LinkState::NotSigned, ActorState::Dangling),
            (0, 0.0, LinkState::Refused, ActorState::NotRunning),
        ] {
            assert_eq!(ActorState::of(hosts, errors, link), expected, "{hosts} {errors} {link:?}");
        }
    }
}

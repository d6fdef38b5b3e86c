//! A NATS operator of the tests' own: the one that the example `hub` makes.

use crate::hub_setup::operator::{Keys, Operator};

pub use lattice_protocol::identity::operator::creds;

/// Makes an operator with an account and a user, all new.
pub fn operator() -> Operator {
    Operator::new(&Keys::new(), "test").expect("new keys sign")
}

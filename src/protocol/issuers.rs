//! The permission to change the account that signs.

/// The annotation of a start or an update that allows the account to change. It is taken off and
/// runs with nothing.
pub const ANNOTATION: &str = "lattice.host/allow-issuer-change";

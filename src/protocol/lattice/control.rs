//! The requests of the control interface (lattice protocol, section 2.2).
//!
//! Each subject that a host answers is one row of the table behind [`Control`]: its variant, its
//! tokens, and whether it asks or commands. Builder and parser are made of the same rows, so is
//! [`Control::every`], from which tests and permissions are derived.

/// The intent of a control request, with words for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// It asks, and changes nothing.
    Query(&'static str),
    /// It changes something; a refusal of it is told.
    Command(&'static str),
}

/// Makes [`Control`] and its inverse functions of one table.
macro_rules! controls {
    (
        names($($name:ident),+);
        $(
            $(#[$doc:meta])*
            $variant:ident $({ $($field:ident),+ })? = $($token:tt).+, $intent:expr;
        )+
    ) => {
        /// One request of the control interface, as its subject names it.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Control {
            $($(#[$doc])* $variant $({ $($field: String),+ })?,)+
        }

        impl Control {
            /// Returns every request there is, made with these names.
            pub fn every($($name: &str),+) -> Vec<Self> {
                vec![$(Self::$variant $({ $($field: $field.to_owned()),+ })?),+]
            }

            /// Tells whether it asks or commands.
            pub fn intent(&self) -> Intent {
                match self {
                    $(Self::$variant $({ $($field: _),+ })? => $intent,)+
                }
            }

            /// Returns the names in its subject, each with what it is the name of.
            pub fn names(&self) -> Vec<(&'static str, &str)> {
                match self {
                    $(Self::$variant $({ $($field),+ })? => {
                        vec![$($((stringify!($field), $field.as_str())),+)?]
                    })+
                }
            }

            /// Returns the subject below the control root.
            pub(super) fn tail(&self) -> String {
                match self {
                    $(Self::$variant $({ $($field),+ })? => {
                        [$(AsRef::<str>::as_ref($token)),+].join(".")
                    })+
                }
            }

            /// Reads the tokens below the control root.
            pub(super) fn parse(tokens: &[&str]) -> Option<Self> {
                Some(match *tokens {
                    $([$($token),+] => Self::$variant $({ $($field: $field.to_owned()),+ })?,)+
                    _ => return None,
                })
            }
        }
    };
}

use Intent::{Command, Query};

// Lattice protocol, sections 2.3 to 2.5. The first row that fits wins.
controls! {
    names(host, entity, key);
    PingHosts = "ping"."hosts", Query("finding hosts");
    AuctionActor = "auction"."actor", Query("starting actors wherever there is room");
    AuctionProvider = "auction"."provider", Query("starting providers wherever there is room");
    RegistriesPut = "registries"."put", Command("registry credentials");
    LinkPut = "linkdefs"."put", Command("link put");
    LinkDel = "linkdefs"."del", Command("link del");
    Claims = "get"."claims", Query("asking for claims");
    Links = "get"."links", Query("asking for links");
    /// All values of one entity.
    ConfigList { entity } = "get"."config".entity, Query("asking for named configuration");
    ConfigGet { entity, key } = "get"."config".entity.key, Query("asking for named configuration");
    ConfigPut { entity, key } = "config"."put".entity.key, Command("config put");
    ConfigDel { entity, key } = "config"."del".entity.key, Command("config del");
    ConfigClear { entity } = "config"."clear".entity, Command("config del");
    Inventory { host } = "get".host."inv", Query("asking what runs");
    LaunchActor { host } = "cmd".host."la", Command("start actor");
    ScaleActor { host } = "cmd".host."scale", Command("start actor");
    StopActor { host } = "cmd".host."sa", Command("stop actor");
    UpdateActor { host } = "cmd".host."upd", Command("update actor");
    LaunchProvider { host } = "cmd".host."lp", Command("start provider");
    StopProvider { host } = "cmd".host."sp", Command("stop provider");
    StopHost { host } = "cmd".host."stop", Command("stop host");
    /// Takes a lost host off its list.
    ForgetHost { host } = "cmd".host."forget", Command("forget host");
    LabelPut { host } = "labels".host."put", Command("label put");
    LabelDel { host } = "labels".host."del", Command("label del");
    // Hosts of earlier years do not know probes, so that asking them has no responders.
    /// The calls it served, counted.
    ProbeCalls { host } = "probe".host."calls", Query("asking hosts for their calls");
    /// The log of an actor or a provider.
    ProbeLogs { host } = "probe".host."logs", Query("reading logs");
    /// How it would decide a call.
    ProbeExplain { host } = "probe".host."explain", Query("explaining calls");
    /// Its own state.
    ProbeHealth { host } = "probe".host."health", Query("asking hosts how they are");
    /// Link definitions in pages.
    ProbeLinks { host } = "probe".host."links", Query("asking for links in pages");
    /// Claims in pages.
    ProbeClaims { host } = "probe".host."claims", Query("asking for claims in pages");
    /// Whether its provider has taken a link on.
    ProbeLink { host } = "probe".host."link", Query("waiting for links");
    /// A link as it was before its last change.
    ProbeLinkChange { host } = "probe".host."link_change", Query("undoing changes of links");
    /// The last calls that failed.
    ProbeFailures { host } = "probe".host."failures", Query("asking for failed calls");
    /// The hosts it has lost.
    ProbeLost { host } = "probe".host."lost", Query("asking for lost hosts");
    /// All that needs attention in the lattice.
    ProbeAttention { host } = "probe".host."attention", Query("asking what needs attention");
    /// Something that needs attention is acknowledged or muted.
    MarkAttention { host } = "cmd".host."attention", Command("attention");
}

//! Keys that tests know. They are no secrets: each seed is one byte, 32 times.

use super::keys::Kind;

/// Public key and seed made from 32 times the same byte.
#[derive(Debug)]
pub struct Known {
    pub kind: Kind,
    pub byte: u8,
    pub public: &'static str,
    pub seed: &'static str,
}

pub const CLUSTER: Known = Known {
    kind: Kind::Cluster,
    byte: 1,
    public: "CCFIRY65OQE7DFP5KLNS2PF2LVZMUZYJX4OZIEQ36N2IQANUB5XVZKMI",
    seed: "SCAACAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAKOFQ",
};
pub const HOST: Known = Known {
    kind: Kind::Server,
    byte: 2,
    public: "NCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJWVF",
    seed: "SNAAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAWCHI",
};
pub const ACTOR: Known = Known {
    kind: Kind::Module,
    byte: 3,
    public: "MDWUSKGGFDI4FRXK5EBTRECZSVQSSWJHHJOGH6JWG3AUMFFMQ435C2JZ",
    seed: "SMAAGAYDAMBQGAYDAMBQGAYDAMBQGAYDAMBQGAYDAMBQGAYDAMBQGA34LM",
};
pub const PROVIDER: Known = Known {
    kind: Kind::Service,
    byte: 4,
    public: "VDFJHLAXAUMHA4OWPOB4P7YO72AQR2HMIUYFOXLXE2DZGM633K7HYIF3",
    seed: "SVAAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAIBH5JU",
};
pub const ACCOUNT: Known = Known {
    kind: Kind::Account,
    byte: 5,
    public: "ABXHUHG5FGYLPD6RHL2MKWMP572O6KUXCZXDZJXS4T57ZTMAKBN7DAQI",
    seed: "SAAAKBIFAUCQKBIFAUCQKBIFAUCQKBIFAUCQKBIFAUCQKBIFAUCQKBNQ4A",
};

//! A module that may run: its claims are verified, its code is compiled, its imports are resolved.

use std::sync::Arc;

use tracing::debug;
use wasmtime::{InstancePre, Module};

use super::{
    engine::Engine,
    guest::{self, Abi, Guest},
    weight::{TooHeavy, Weight},
};
use lattice_protocol::identity::claims::{self, ActorClaims, ModuleError, ModuleKind};

/// Why a module cannot run here.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error(transparent)]
    Module(#[from] ModuleError),
    #[error(
        "it is a WebAssembly component; this host runs modules with the waPC interface (built with an actor SDK of 2021 to 2023)"
    )]
    Component,
    #[error("it is not compiled here: {0}")]
    TooHeavy(#[from] TooHeavy),
    #[error("compile: {0}")]
    Compile(String),
    #[error(transparent)]
    Abi(#[from] guest::AbiError),
}

/// A verified and compiled actor module.
pub struct Artifact {
    pub claims: Arc<ActorClaims>,
    /// Identifies the code: two modules signed differently share it.
    pub code_hash: [u8; 32],
    pub(super) pre: InstancePre<Guest>,
    pub(super) abi: Abi,
}

impl Artifact {
    /// Verifies and compiles. Takes up to seconds for a module not seen before: call it off the
    /// async threads.
    ///
    /// `same_code` may hand over an artifact with this code, which then is not compiled again.
    pub fn load(
        engine: &Engine,
        wasm: &[u8],
        now: u64,
        same_code: impl FnOnce(&[u8; 32]) -> Option<Arc<Self>>,
    ) -> Result<Self, ArtifactError> {
        let verified = claims::verify_module(wasm, now, &claims::VerifyOptions::default())?;
        if verified.kind == ModuleKind::Component {
            return Err(ArtifactError::Component);
        }
        let claims = Arc::new(verified.claims);
        if let Some(twin) = same_code(&verified.code_hash) {
            debug!(actor_id = %claims.subject, "module shares the compiled code of a running one");
            return Ok(Self {
                claims,
                code_hash: verified.code_hash,
                pre: twin.pre.clone(),
                abi: twin.abi.clone(),
            });
        }
        let weight = Weight::of(wasm)?;
        let module =
            engine.compile(wasm, &weight).map_err(|e| ArtifactError::Compile(format!("{e:#}")))?;
        let (pre, abi) = prepare(&module)?;
        Ok(Self { claims, code_hash: verified.code_hash, pre, abi })
    }
}

fn prepare(module: &Module) -> Result<(InstancePre<Guest>, Abi), ArtifactError> {
    let abi = Abi::of(module)?;
    let pre = guest::linker(module, &abi)?;
    Ok((pre, abi))
}

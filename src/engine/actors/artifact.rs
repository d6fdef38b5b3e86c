//! A module or a component that may run: its claims are verified, its code is compiled, its imports
//! are resolved.

use std::sync::Arc;

use tracing::debug;
use wasmtime::{InstancePre, Module};

use super::{
    component::{self, ComponentError},
    engine::Engine,
    guest::{self, Abi, Guest},
    weight::{TooHeavy, Weight},
    workers::Lines,
};
use lattice_protocol::{
    control::types::CodeInfo,
    identity::{
        NotSignedFor,
        claims::{self, ActorClaims, ModuleError},
    },
};

/// Why a module or a component cannot run here.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error(transparent)]
    Module(#[from] ModuleError),
    #[error(transparent)]
    NotSignedFor(#[from] NotSignedFor),
    #[error(transparent)]
    Component(#[from] ComponentError),
    #[error("it is not compiled here: {0}")]
    TooHeavy(#[from] TooHeavy),
    #[error("compile: {0}")]
    Compile(String),
    #[error(transparent)]
    Abi(#[from] guest::AbiError),
}

/// A verified and compiled actor.
pub struct Artifact {
    pub claims: Arc<ActorClaims>,
    /// Identifies the code: two actors signed differently share it.
    pub code_hash: [u8; 32],
    /// As others see it.
    pub info: CodeInfo,
    pub(super) code: Code,
    pub(super) lines: Lines,
}

/// The compiled code of an actor, by its kind.
#[derive(Clone)]
pub(super) enum Code {
    Module(Arc<ModuleCode>),
    Component(Arc<component::Prepared>),
}

/// A module with the waPC interface.
pub(super) struct ModuleCode {
    pub pre: InstancePre<Guest>,
    pub abi: Abi,
}

impl Artifact {
    /// Verifies and compiles. Takes up to seconds for code not seen before: call it off the async
    /// threads. `slots_max` is what one call of a component may take of the pool.
    ///
    /// `same_code` may hand over an artifact with this code, which then is not compiled again; one
    /// with these claims is returned as it is, and so are its idle instances of use.
    pub fn load(
        engine: &Engine,
        wasm: &[u8],
        now: u64,
        slots_max: u32,
        same_code: impl FnOnce(&[u8; 32], &ActorClaims) -> Option<Arc<Self>>,
    ) -> Result<Arc<Self>, ArtifactError> {
        let verified = claims::verify_module(wasm, now, &claims::VerifyOptions::default())?;
        let claims = Arc::new(verified.claims);
        if let Some(info) = &verified.component {
            info.check_signed_for(&claims.caps)?;
        }
        let code_hash = verified.code_hash;
        let info = CodeInfo::of(verified.component.as_ref());
        if let Some(twin) = same_code(&code_hash, &claims) {
            debug!(actor_id = %claims.subject, "actor shares the compiled code of a running one");
            if twin.claims == claims {
                return Ok(twin);
            }
            return Ok(Arc::new(Self {
                claims,
                code_hash,
                info,
                code: twin.code.clone(),
                lines: Lines::default(),
            }));
        }
        let wasm = &claims::code(wasm)?;
        let weight = Weight::of(wasm)?;
        let code = match &verified.component {
            Some(info) => {
                let prepared = component::Prepared::load(engine, wasm, info, &weight, slots_max)?;
                Code::Component(Arc::new(prepared))
            }
            None => {
                let module = engine
                    .compile(wasm, &weight)
                    .map_err(|e| ArtifactError::Compile(format!("{e:#}")))?;
                Code::Module(Arc::new(prepare(&module)?))
            }
        };
        Ok(Arc::new(Self { claims, code_hash, info, code, lines: Lines::default() }))
    }

    /// Says whether it is one of these, and not only the same code.
    pub fn is_one_of(self: &Arc<Self>, artifacts: &[Arc<Self>]) -> bool {
        artifacts.iter().any(|artifact| Arc::ptr_eq(artifact, self))
    }

    /// How many calls an instance usually serves: guests of WASI 0.3 are made for more than one.
    pub fn reuse_usual(&self) -> u32 {
        match &self.code {
            Code::Module(_) => 1,
            Code::Component(prepared) => prepared.reuse_usual,
        }
    }

    /// Says whether an instance that has served may take a call of this operation.
    pub fn can_reuse(&self, operation: &str) -> bool {
        match &self.code {
            Code::Module(_) => true,
            Code::Component(prepared) => prepared.can_reuse(operation),
        }
    }

    /// Returns the imports that nothing answers, each with the reason where one is known.
    pub fn unserved(&self) -> &[String] {
        match &self.code {
            Code::Module(_) => &[],
            Code::Component(prepared) => &prepared.unserved,
        }
    }
}

#[cfg(test)]
impl Artifact {
    /// Makes one whose instances do nothing.
    pub fn of_nothing() -> Arc<Self> {
        let module = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;
        let wasm = wat::parse_str(module).expect("valid text");
        let module = Module::new(&wasmtime::Engine::default(), wasm).expect("it compiles");
        let code = Code::Module(Arc::new(prepare(&module).expect("it links")));
        let claims = super::plan::claims_of("A@1");
        Arc::new(Self {
            claims,
            code_hash: [0; 32],
            info: CodeInfo::of(None),
            code,
            lines: Lines::default(),
        })
    }
}

fn prepare(module: &Module) -> Result<ModuleCode, ArtifactError> {
    let abi = Abi::of(module)?;
    let pre = guest::linker(module, &abi)?;
    Ok(ModuleCode { pre, abi })
}

//! `wasi:cli/run`: a component that is a job. The operation is its argument, the payload its
//! standard input, and what it writes to its standard output is the result.

use bytes::Bytes;
use wasmtime::{Store, component::InstancePre};
use wasmtime_wasi::{
    I32Exit,
    p2::{bindings::CommandPre, pipe::MemoryOutputPipe},
    p3,
};

use super::{Failure, Guest, Instance, Output};
use crate::actors::inbound::failed_with;

/// The export, as messages name it.
pub const RUN: &str = "wasi:cli/run";

/// The export of a component that is a job: the same with a plain or an asynchronous function.
pub(super) enum Job {
    Second(CommandPre<Guest>),
    Third(p3::bindings::CommandPre<Guest>),
}

impl Job {
    /// Finds it, the later one first.
    pub fn of(pre: &InstancePre<Guest>) -> Option<Self> {
        let later = p3::bindings::CommandPre::new(pre.clone()).map(Self::Third);
        later.or_else(|_| CommandPre::new(pre.clone()).map(Self::Second)).ok()
    }

    async fn call(&self, store: &mut Store<Guest>) -> wasmtime::Result<Result<(), ()>> {
        match self {
            Self::Second(job) => {
                let command = job.instantiate_async(&mut *store).await?;
                command.wasi_cli_run().call_run(store).await
            }
            Self::Third(job) => {
                let command = job.instantiate_async(&mut *store).await?;
                let run = async |accessor: &_| command.wasi_cli_run().call_run(accessor).await;
                store.run_concurrent(run).await?
            }
        }
    }
}

/// Runs the job once.
pub(super) async fn run(
    job: &Job,
    instance: Instance,
    pre: &InstancePre<Guest>,
    operation: &str,
    payload: Bytes,
) -> Result<Bytes, Failure> {
    let written = MemoryOutputPipe::new(instance.caller.memory_max_bytes);
    let output = Output::Job(operation.to_owned(), payload, written.clone());
    let mut store = instance.store(pre, output);
    let code = match job.call(&mut store).await {
        Ok(Ok(())) => 0,
        Ok(Err(())) => 1,
        Err(error) => match error.downcast_ref::<I32Exit>() {
            Some(exit) => exit.0,
            None => return Err(Failure::Ended(error)),
        },
    };
    match code {
        0 => Ok(written.contents()),
        code => Err(Failure::Told(failed_with(code))),
    }
}

//! `wasi:cli/run`: a component that is a job. The operation is its argument, the payload its
//! standard input, and what it writes to its standard output is the result.

use bytes::Bytes;
use wasmtime::component::InstancePre;
use wasmtime_wasi::{
    I32Exit,
    p2::{bindings::CommandPre, pipe::MemoryOutputPipe},
};

use super::{Failure, Guest, Instance, Output};

/// The export, as messages name it.
pub const RUN: &str = "wasi:cli/run";

/// Runs the job once.
pub(super) async fn run(
    job: &CommandPre<Guest>,
    instance: Instance,
    pre: &InstancePre<Guest>,
    operation: &str,
    payload: Bytes,
) -> Result<Bytes, Failure> {
    let written = MemoryOutputPipe::new(instance.caller.memory_max_bytes);
    let output = Output::Job(operation.to_owned(), payload, written.clone());
    let mut store = instance.store(pre, output);
    let command = job.instantiate_async(&mut store).await?;
    let code = match command.wasi_cli_run().call_run(&mut store).await {
        Ok(Ok(())) => 0,
        Ok(Err(())) => 1,
        Err(error) => match error.downcast_ref::<I32Exit>() {
            Some(exit) => exit.0,
            None => return Err(Failure::Ended(error)),
        },
    };
    match code {
        0 => Ok(written.contents()),
        code => Err(Failure::Told(format!("operation failed with exit code `{code}`"))),
    }
}

//! `wasi:logging/logging`: lines for the actor's log. It is `wasmcloud:builtin:logging`, so an
//! actor needs that capability; without it nothing is logged, because the interface has no error.

use serde::Serialize;
use wasmtime::{
    StoreContextMut,
    component::{ComponentType, Lift, Linker},
};

use super::{Guest, caller::caller};
use lattice_protocol::contracts;

/// The names under which it is imported.
pub(super) const NAMES: [&str; 2] = ["wasi:logging/logging@0.1.0-draft", "wasi:logging/logging"];
const WRITE_LOG: &str = "Logging.WriteLog";

#[derive(Clone, Copy, ComponentType, Lift)]
#[expect(dead_code, reason = "made of what a guest hands over")]
#[component(enum)]
#[repr(u8)]
enum LogLevel {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
    #[component(name = "critical")]
    Critical,
}

impl LogLevel {
    fn word(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error | Self::Critical => "error",
        }
    }
}

#[derive(Serialize)]
struct LogEntry {
    level: &'static str,
    text: String,
}

pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    for name in NAMES {
        linker.instance(name)?.func_wrap_async(
            "log",
            |mut store: StoreContextMut<'_, Guest>,
             (level, context, message): (LogLevel, String, String)| {
                let caller = caller(&mut store);
                Box::new(async move {
                    let caller = caller?;
                    let entry = LogEntry { level: level.word(), text: line(&context, message) };
                    let payload = contracts::encode(&entry);
                    // An actor that may not log is told so by nothing but the missing line.
                    let _ = caller.send((contracts::LOGGING, ""), WRITE_LOG, payload, None).await?;
                    Ok(())
                })
            },
        )?;
    }
    Ok(())
}

fn line(context: &str, message: String) -> String {
    if context.is_empty() { message } else { format!("[{context}] {message}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_precedes_the_message() {
        assert_eq!(line("", "hello".into()), "hello");
        assert_eq!(line("shop", "hello".into()), "[shop] hello");
        assert_eq!(LogLevel::Critical.word(), "error");
    }
}

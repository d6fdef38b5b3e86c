//! No core file of a process that knows seeds: a crash would leave them on the disk, or with
//! whoever collects crashes.

/// Forbids core files for this process and those it starts. The setting `core_dumps` allows them.
///
/// # Errors
///
/// Those of the system; the process runs on and could leave a core file.
#[cfg(unix)]
pub fn forbid() -> std::io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    // Too small for a file. And for Linux one byte means that not even a program that collects core
    // files gets this one, while zero would let it.
    let bytes = Some(u64::from(cfg!(target_os = "linux")));
    Ok(setrlimit(Resource::Core, Rlimit { current: bytes, maximum: bytes })?)
}

/// Forbids nothing: this system leaves none.
#[cfg(not(unix))]
pub fn forbid() -> std::io::Result<()> {
    Ok(())
}

//! Nothing that tests make outlives them: no process with its ports, no temporary folder and no
//! network namespace; also when a test fails, and when the test process is killed.
//!
//! A program of tests has this crate in it with one line, `use lattice_test_keeper as _;`. It then
//! runs itself twice more before its `main`:
//!
//! ```text
//! cargo ── front ── keeper ── tests ── whatever they start
//! ```
//!
//! * The front is the process that cargo knows. It waits, and ends as the tests did.
//! * The keeper is a subreaper: Linux makes every orphan below it its child, also those that have
//!   made a session or a group of their own, as parts of Chromium do. When the tests have ended,
//!   however that happened, it kills whatever is left below it, removes the namespaces and the
//!   folder of the run, and says on standard error whether it found anything.
//! * The tests are the program proper. Their `TMPDIR` is the [`folder`] of the run.
//!
//! Each of the three may be killed, with SIGKILL as well:
//!
//! * the tests: the keeper sees that its child has ended;
//! * the front: the keeper sees that it has another parent, and kills the tests;
//! * the keeper: the kernel kills the tests for its parent's death, and the front is a subreaper,
//!   too, which then does the rest of the keeper's work;
//! * all at once: then processes may be left, and the next run removes the folder. The keeper has a
//!   session and a name of its own, so that neither a signal to the group nor one to all processes
//!   of that name meets it.
//!
//! The signal for a parent's death comes when the *thread* dies that forked. So it is asked for in
//! one place only, for the child of the keeper, which has one thread. Threads of tests come and go,
//! and what they start needs no such signal.
//!
//! A successful run fails if it has left a process or a namespace: the keeper has ended it, but the
//! next test might have met it. What ends by itself in a moment is waited for. Folders are removed
//! without a word, since shared ones are never dropped.
//!
//! [`VARIABLE`] set to `off` leaves all of this out, for debuggers. Lists of tests need none of it.
//! Systems other than Linux have none.

#![deny(unsafe_code)]

/// The variable of the environment that tells a process of these what it is.
pub const VARIABLE: &str = "HOST_TESTS";

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod folder;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod namespaces;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod processes;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod roles;

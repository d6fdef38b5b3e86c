//! The example providers as real executables, and a packed archive of one.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
};

use tempfile::TempDir;

use super::{eventually, nats::free_port, packages, process::Running};

/// The program of an example. `cargo test` builds all examples, `cargo test --test it` builds none:
/// then, or when its source is younger, it is built here.
pub fn program(example: &str) -> PathBuf {
    static BUILDING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = BUILDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);

    // target/debug/deps/it-0123456789abcdef
    let test = std::env::current_exe().expect("the test knows its program");
    let profile = test.parent().and_then(Path::parent).expect("target/PROFILE/deps");
    let program =
        profile.join("examples").join(example).with_extension(std::env::consts::EXE_EXTENSION);
    let examples = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples");
    let modified = |path: &Path| path.metadata().and_then(|found| found.modified()).ok();
    // Larger ones have a directory.
    let files = std::fs::read_dir(examples.join(example))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let sources = files.chain([examples.join(example).with_extension("rs")]);
    if modified(&program) < sources.filter_map(|source| modified(&source)).max() {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args([
            "build",
            "--quiet",
            "--example",
            example,
        ]);
        cargo.arg("--target-dir").arg(profile.parent().expect("target"));
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().expect("cargo runs").success(), "the example {example} is built");
    }
    program
}

/// The seed file of an example provider's key.
pub fn key_file(example: &str) -> PathBuf {
    let name = example.trim_start_matches("provider_");
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("examples/providers/keys/{name}.nk"))
}

/// The contract that an example provider fulfils.
fn contract(example: &str) -> &'static str {
    match example {
        "provider_httpserver" => "wasmcloud:httpserver",
        _ => "wasmcloud:keyvalue",
    }
}

/// The public key of an example provider.
pub fn public_key(example: &str) -> String {
    let seed = std::fs::read_to_string(key_file(example)).expect("a key file");
    nkeys::KeyPair::from_seed(seed.trim()).expect("a seed").public_key()
}

/// Packs an example provider as its users do. Uncompressed, because debug builds compress their
/// hundred megabytes slowly.
pub fn pack(example: &str, out: &Path) {
    pack_program(example, &program(example), out);
}

/// Packs any program under the name and the key of an example provider.
pub fn pack_program(example: &str, executable: &Path, out: &Path) {
    let account = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/actors/keys/account.nk");
    let packed = Command::new(env!("CARGO_BIN_EXE_host"))
        .args([
            "par",
            "create",
            "--capid",
            contract(example),
            "--vendor",
            "example",
            "--name",
            example,
        ])
        .args(["--revision", "2", "--version", "0.1.0"])
        .arg("--binary")
        .arg(executable)
        .arg("--destination")
        .arg(out)
        .arg("--subject")
        .arg(key_file(example))
        .arg("--issuer")
        .arg(account)
        .stdout(Stdio::null())
        .status();
    assert!(packed.expect("host runs").success(), "{example} is packed");
}

/// A Redis server of its own; killed when dropped.
pub struct Redis {
    _server: Running,
    port: u16,
    _dir: TempDir,
}

impl Redis {
    pub async fn start() -> Self {
        let (dir, port) = (TempDir::new().expect("a directory"), free_port());
        let mut command = Command::new(packages::program("redis-server", "redis-server"));
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
        command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(dir.path());
        let server = Running::start(command.stdout(Stdio::null()));
        eventually("Redis listens", || async {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        })
        .await;
        Self { _server: server, port, _dir: dir }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// The text under a key.
    pub async fn get(&self, key: &str) -> Option<String> {
        let client = redis::Client::open(self.url()).expect("an address");
        let mut connection = client.get_multiplexed_async_connection().await.expect("connected");
        redis::cmd("GET").arg(key).query_async(&mut connection).await.expect("an answer")
    }
}

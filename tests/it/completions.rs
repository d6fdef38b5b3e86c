//! Completions in the shells themselves, of a lattice that runs.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::json;
use tempfile::TempDir;

use crate::harness::{
    self, ECHO, Server, TestHost,
    client::ctl_2024,
    eventually, example, packages,
    process::{command, output},
};

/// A lattice with the echo actor, and a directory whose settings lead to it.
struct Scene {
    _server: Server,
    host: TestHost,
    dir: TempDir,
}

impl Scene {
    async fn set() -> Self {
        let server = Server::start().await;
        let host = harness::host(&server).label("zone", "a").start().await;
        let ctl = ctl_2024(&server).await;
        assert!(ctl.scale_actor(&host.id, &example("echo"), 1, None).await.unwrap().accepted);
        let dir = TempDir::new().unwrap();
        let settings = json!({ "nats_host": server.url(), "js_domain": "core" });
        std::fs::write(dir.path().join("host_config.json"), settings.to_string()).unwrap();
        Self { _server: server, host, dir }
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Asks a shell again until it knows this; the lattice has little time for each answer.
    async fn completes(&self, what: &str, shell: &mut (impl FnMut() -> Output + Send)) {
        let mut last = String::new();
        let found = eventually(what, || {
            let output = shell();
            last = format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            let is_there = last.contains(what);
            async move { is_there.then_some(output) }
        })
        .await;
        assert_eq!(String::from_utf8_lossy(&found.stderr), "", "completion is silent");
    }
}

/// A shell with nothing of this environment but where programs are.
fn shell(program: &Path, dir: &Path) -> Command {
    let mut shell = Command::new(program);
    shell
        .current_dir(dir)
        .env_clear()
        .env("HOME", dir.join("home"))
        .env("TERM", "dumb")
        .stdin(Stdio::null());
    shell
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOST_BINARY", env!("CARGO_BIN_EXE_host"));
    std::fs::create_dir_all(dir.join("home")).expect("a home");
    shell
}

/// Completes a line in bash, whose words are given as bash itself divides them.
fn bash(dir: &Path, words: &[&str], line: &str) -> Output {
    // The word before the cursor is empty behind a colon or an equals sign.
    const SCRIPT: &str = r#"
        source <("$HOST_BINARY" completions bash) || exit 1
        [[ "$(complete -p host)" =~ -F\ ([^ ]+) ]] || exit 1
        COMP_LINE="$1" COMP_POINT=${#1}; shift
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        current="${COMP_WORDS[COMP_CWORD]}"
        [[ "$current" == [:=] ]] && current=""
        "${BASH_REMATCH[1]}" host "$current" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '<%s>\n' "${COMPREPLY[@]}"
    "#;
    let mut shell = shell(Path::new("bash"), dir);
    shell
        .args(["--norc", "--noprofile", "-c", SCRIPT, "bash", line])
        .args(words)
        .output()
        .expect("bash runs")
}

/// Returns the line that zsh shows after the tabulator is pressed at its end. The script is
/// sourced, or lies among the functions.
fn zsh(program: &Path, dir: &Path, loading: &str, line: &str) -> Output {
    const SCRIPT: &str = r#"
        zmodload zsh/zpty || exit 1
        zpty inner "$1" -f -i
        zpty -w inner "PS1= PS2=; unsetopt zle_bracketed_paste; show() { print -r -- \"\$BUFFER\" > line; exit }"
        zpty -w inner "zle -N show; bindkey '^X' show; autoload -U compinit; $2"
        zpty -w -n inner "$3"$'\t\x18'
        while zpty -r inner ignored 2>/dev/null; do :; done
        cat line
    "#;
    let mut shell = shell(program, dir);
    shell
        .args(["-f", "-c", SCRIPT, "zsh"])
        .arg(program)
        .args([loading, line])
        .output()
        .expect("zsh runs")
}

fn fish(program: &Path, dir: &Path, line: &str) -> Output {
    const SCRIPT: &str = r#"$HOST_BINARY completions fish | source; complete -C "$argv[1]""#;
    shell(program, dir).args(["--no-config", "-c", SCRIPT, line]).output().expect("fish runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn bash_completes_an_actor_of_a_running_lattice() {
    let scene = Scene::set().await;
    let dir = scene.dir();
    let id = format!("<{ECHO}>");
    scene
        .completes(&id, &mut || bash(dir, &["host", "stop", "actor", "MBA"], "host stop actor MBA"))
        .await;
    scene
        .completes("<echo>", &mut || bash(dir, &["host", "stop", "actor", ""], "host stop actor "))
        .await;
    let host = format!("<{}>", scene.host.id);
    let beginning = &scene.host.id[..5];
    let line = format!("host get inventory {beginning}");
    scene
        .completes(&host, &mut || bash(dir, &["host", "get", "inventory", beginning], &line))
        .await;
    // Bash ends words at colons and equals signs, and replaces what is behind the last of them.
    let words = ["host", "link", "put", "echo", "builtin", ":", "//ke"];
    scene
        .completes("<//keyvalue>", &mut || bash(dir, &words, "host link put echo builtin://ke"))
        .await;
    let words = ["host", "start", "actor", "x", "--constraint", "=", "zone", "="];
    scene
        .completes("<a>", &mut || bash(dir, &words, "host start actor x --constraint=zone="))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zsh_completes_an_actor_of_a_running_lattice() {
    let zsh_program = packages::program("zsh", "zsh");
    let scene = Scene::set().await;
    let dir = scene.dir();
    let sourced = r#"compinit -u -D; source <("$HOST_BINARY" completions zsh)"#;
    scene.completes(ECHO, &mut || zsh(&zsh_program, dir, sourced, "host stop actor MBA")).await;
    let functions = dir.join("functions");
    std::fs::create_dir(&functions).unwrap();
    let written = output(command(dir).args(["completions", "zsh", "-d", "functions"]));
    assert!(written.status.success() && functions.join("_host").is_file(), "{written:?}");
    let loaded = format!("fpath=({} $fpath); compinit -u -D", functions.display());
    scene.completes(ECHO, &mut || zsh(&zsh_program, dir, &loaded, "host stop actor MBA")).await;
    scene
        .completes("wasmcloud:keyvalue", &mut || {
            zsh(&zsh_program, dir, sourced, "host link put a b wasmcloud:k")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fish_completes_an_actor_of_a_running_lattice() {
    let fish_program = packages::program("fish", "fish");
    let scene = Scene::set().await;
    let dir = scene.dir();
    let candidate = format!("{ECHO}\techo, actor on ");
    scene.completes(&candidate, &mut || fish(&fish_program, dir, "host stop actor MBA")).await;
    scene
        .completes("zone=a", &mut || fish(&fish_program, dir, "host start actor x --constraint zo"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_on_the_line_say_which_lattice_is_completed() {
    let scene = Scene::set().await;
    // Nothing leads to the lattice from here but the line.
    let elsewhere = TempDir::new().unwrap();
    let url = std::fs::read_to_string(scene.dir().join("host_config.json")).unwrap();
    let url: serde_json::Value = serde_json::from_str(&url).unwrap();
    let url = harness::text(&url, "/nats_host");
    let words = ["stop", "actor", "--ctl-host", url, "MBA"];
    let ask = || complete(elsewhere.path(), &words);
    scene.completes(ECHO, &mut || ask()).await;
}

/// Asks the binary as the scripts do.
fn complete(dir: &Path, words: &[&str]) -> Output {
    output(command(dir).env("COMPLETE", "fish").args(["--", "host"]).args(words))
}

#[test]
fn without_a_lattice_completion_offers_the_rest_and_says_nothing() {
    let dir = TempDir::new().unwrap();
    let says = |settings: &str| {
        std::fs::write(dir.path().join("host_config.json"), settings).unwrap();
        let output = complete(dir.path(), &["stop", "actor", ""]);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // Nobody there, somebody who is mute, and settings that cannot be read.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = json!({ "nats_host": mute.local_addr().unwrap().to_string() }).to_string();
    for settings in [r#"{"nats_host":"127.0.0.1:1"}"#, &mute, "no JSON"] {
        let said = says(settings);
        assert!(said.contains("--host-id") && !said.contains("\nM"), "{settings}: {said}");
    }
}

#[test]
fn every_command_has_a_manual_page_that_renders_without_a_warning() {
    let groff = packages::program("groff", "groff-base");
    let dir = TempDir::new().unwrap();
    let written = output(command(dir.path()).args(["man", "--dir", "pages"]));
    assert!(written.status.success(), "{written:?}");
    let pages: Vec<PathBuf> = std::fs::read_dir(dir.path().join("pages"))
        .unwrap()
        .map(|page| page.unwrap().path())
        .collect();
    assert!(
        pages.len() > 80 && pages.iter().any(|page| page.ends_with("host-start-actor.1")),
        "{}",
        pages.len()
    );
    let rendered = Command::new(groff)
        .args(["-man", "-Tutf8", "-ww"])
        .args(&pages)
        .output()
        .expect("groff runs");
    assert!(
        rendered.status.success() && rendered.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&rendered.stderr)
    );
    assert!(pages.iter().all(|page| std::fs::metadata(page).unwrap().len() > 300));

    let one = output(command(dir.path()).args(["man", "ctl", "start", "actor"]));
    assert!(String::from_utf8_lossy(&one.stdout).contains(r#".TH "HOST-CTL-START-ACTOR" "1""#));
    let unknown = output(command(dir.path()).args(["man", "nonsense"]));
    assert_eq!(unknown.status.code(), Some(2));
}

//! A real browser, Debian's Chromium without a window, driven over WebDriver.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use fantoccini::{
    Client, ClientBuilder, Locator,
    actions::{InputSource as _, KeyAction, KeyActions},
    elements::Element,
    wd::{Capabilities, WebDriverCompatibleCommand},
};
use hyper_util::client::legacy::connect::HttpConnector;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::{PATIENCE, eventually, nats::free_port, packages, process::Running, within_patience};

/// The version of the rules that pages are held to.
const AXE: &str = "axe-core@4.14.1";
/// The rules for every page: the Web Content Accessibility Guidelines up to 2.2, level AA, and
/// common practice.
const AXE_RUN: &str = r#"
    const done = arguments[arguments.length - 1];
    axe.run(document, { resultTypes: ["violations"] }).then(
        (result) => done(result.violations.map((rule) => rule.id + ": " + rule.help + " " +
            rule.nodes.slice(0, 3).map((node) => node.html.slice(0, 200)).join(" | "))),
        (error) => done(["axe failed: " + error]));
"#;

pub const CONTROL: char = '\u{e009}';
const DELETE: char = '\u{e017}';

/// Where screenshots are kept for whoever looks at a run.
pub fn pictures() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .expect("the target directory")
        .join("dashboard");
    std::fs::create_dir_all(&dir).expect("a directory for pictures");
    dir
}

/// A browser with one page; ends when dropped.
pub struct Browser {
    /// Ends before the client asks it for anything more.
    _driver: Driver,
    pub client: Client,
    _turn: SemaphorePermit<'static>,
}

/// One browser at a time: they take the processor from tests that measure time.
static TURN: Semaphore = Semaphore::const_new(1);

/// A driver and all processes of its browser. Everything they write is in one directory, which all
/// of them name in their arguments: also those that have a session of their own, and those that the
/// driver would leave behind.
struct Driver {
    process: Running,
    dir: TempDir,
}

impl Driver {
    fn start(program: &Path, port: u16) -> Self {
        let dir = TempDir::new().expect("a directory");
        let mut command = Command::new(program);
        command
            .arg(format!("--port={port}"))
            .env("TMPDIR", dir.path())
            .env("XDG_CONFIG_HOME", dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self { process: Running::start(&mut command), dir }
    }

    /// The directory that a browser keeps everything in.
    fn profile(&self) -> PathBuf {
        self.dir.path().join("profile")
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.process.end();
        // The browser may be starting processes at this moment.
        let began = Instant::now();
        while kill_all_of(self.dir.path()) > 0 && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Reads the console of a page.
#[derive(Debug)]
struct ConsoleLog;

impl WebDriverCompatibleCommand for ConsoleLog {
    fn endpoint(
        &self,
        base: &url::Url,
        session: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/se/log", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (axum::http::Method, Option<String>) {
        (axum::http::Method::POST, Some(json!({ "type": "browser" }).to_string()))
    }
}

impl Browser {
    pub async fn start() -> Self {
        let turn = TURN.acquire().await.expect("nobody closes it");
        let (driver, chromium) = tokio::task::spawn_blocking(|| {
            (
                packages::program("chromedriver", "chromium-driver"),
                packages::program("chromium", "chromium"),
            )
        })
        .await
        .expect("the browser is installed");
        let port = free_port();
        let driver = Driver::start(&driver, port);
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--force-prefers-reduced-motion",
            "--window-size=1440,1000",
        ];
        let mut arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        arguments.push(format!("--user-data-dir={}", driver.profile().display()));
        let capabilities = json!({
            "browserName": "chrome",
            "goog:chromeOptions": { "binary": chromium, "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
            "unhandledPromptBehavior": "ignore",
        });
        let capabilities: Capabilities = capabilities.as_object().expect("an object").clone();
        let address = format!("http://127.0.0.1:{port}");
        let client = eventually("the browser starts", || {
            let (address, capabilities) = (address.clone(), capabilities.clone());
            async move {
                let mut builder = ClientBuilder::new(HttpConnector::new());
                builder.capabilities(capabilities).connect(&address).await.ok()
            }
        })
        .await;
        Self { _driver: driver, client, _turn: turn }
    }

    pub async fn open(&self, url: &str) {
        self.client.goto(url).await.unwrap_or_else(|error| panic!("open {url}: {error}"));
    }

    /// The element of a selector, when it is there and to be seen.
    pub async fn see(&self, css: &str) -> Element {
        eventually(&format!("{css} is seen"), || async move {
            let element = self.client.find(Locator::Css(css)).await.ok()?;
            element.is_displayed().await.ok()?.then_some(element)
        })
        .await
    }

    /// The element of a selector whose text has these words.
    pub async fn with_text(&self, css: &str, words: &str) -> Element {
        match within_patience(|| self.find_text(css, words)).await {
            Some(element) => element,
            None => {
                let page = self.said().await;
                panic!("waited in vain: {css} says {words:?}; the page says {page:#?}")
            }
        }
    }

    /// The same if it is there now.
    pub async fn find_text(&self, css: &str, words: &str) -> Option<Element> {
        for element in self.client.find_all(Locator::Css(css)).await.ok()? {
            let text = element.text().await.unwrap_or_default();
            if text.contains(words) && element.is_displayed().await.unwrap_or(false) {
                return Some(element);
            }
        }
        None
    }

    /// The address of the page, all it says, and its console, for whoever reads why a test failed;
    /// none if the browser does not answer.
    async fn said(&self) -> Option<(Value, Vec<String>)> {
        let page = async {
            let text = "return [location.href, document.body.innerText]";
            (self.run(text).await, self.complaints().await)
        };
        timeout(Duration::from_secs(5), page).await.ok()
    }

    /// Waits until nothing of a selector has these words.
    pub async fn no_text(&self, css: &str, words: &str) {
        eventually(&format!("{css} says {words:?} no more"), || async move {
            self.find_text(css, words).await.is_none().then_some(())
        })
        .await;
    }

    /// Clicks what a selector means, with these words in it; again if the page exchanged it
    /// meanwhile.
    pub async fn click(&self, css: &str, words: &str) {
        eventually(&format!("{css} with {words:?} is clicked"), || async move {
            self.find_text(css, words).await?.click().await.ok()
        })
        .await;
    }

    /// The field with a label, when it can be used.
    pub async fn field(&self, label: &str) -> Element {
        let xpath = format!(
            "//*[self::input[not(@type='radio')] or self::textarea or self::select][@aria-label={0} or @id=//label[contains(normalize-space(.), {0})]/@for \
             or ancestor::label[contains(normalize-space(.), {0})]]",
            quoted(label)
        );
        eventually(&format!("a field {label:?}"), || {
            let xpath = xpath.clone();
            async move {
                for element in self.client.find_all(Locator::XPath(&xpath)).await.ok()? {
                    if element.is_displayed().await.unwrap_or(false)
                        && element.is_enabled().await.unwrap_or(false)
                    {
                        return Some(element);
                    }
                }
                None
            }
        })
        .await
    }

    /// Replaces the text of a field.
    pub async fn fill(&self, label: &str, text: &str) {
        let field = self.field(label).await;
        field.click().await.expect("the field takes the focus");
        self.press(&format!("{CONTROL}a{CONTROL}{DELETE}")).await;
        field.send_keys(text).await.expect("the field takes text");
    }

    /// Presses keys, whoever has the focus. The control key is held from where it stands to where
    /// it stands again.
    pub async fn press(&self, keys: &str) {
        let mut actions = KeyActions::new("keys".into());
        let mut is_held = false;
        for value in keys.chars() {
            if value == CONTROL {
                actions = actions.then(if is_held {
                    KeyAction::Up { value }
                } else {
                    KeyAction::Down { value }
                });
                is_held = !is_held;
            } else {
                actions = actions.then(KeyAction::Down { value }).then(KeyAction::Up { value });
            }
        }
        self.client.perform_actions(actions).await.expect("the keyboard works");
    }

    pub async fn run(&self, script: &str) -> Value {
        self.client
            .execute(script, Vec::new())
            .await
            .unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Light or dark, as the operating system would say.
    pub async fn prefer(&self, scheme: &str) {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", features).await;
    }

    /// The size of the window, as a phone or a wall has it.
    pub async fn resize(&self, width: u32, height: u32) {
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    async fn devtools(&self, command: &'static str, parameters: Value) {
        let outcome = self.client.issue_cmd(DevTools { command, parameters }).await;
        outcome.unwrap_or_else(|error| panic!("{command}: {error}"));
    }

    /// Returns the violations of accessibility rules on this page.
    pub async fn violations(&self) -> Vec<String> {
        if self.run("return typeof axe").await == "undefined" {
            self.client.execute(axe(), Vec::new()).await.expect("axe is loaded");
        }
        let found = self.client.execute_async(AXE_RUN, Vec::new()).await.expect("axe runs");
        serde_json::from_value(found).expect("texts")
    }

    /// Errors and warnings of the console since the last look.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.client.issue_cmd(ConsoleLog).await.expect("the console's log");
        let entries = log.as_array().cloned().unwrap_or_default();
        let is_bad = |entry: &&Value| matches!(entry["level"].as_str(), Some("SEVERE" | "WARNING"));
        entries.iter().filter(is_bad).map(|entry| entry["message"].to_string()).collect()
    }

    /// Keeps a picture of the page as it is.
    pub async fn picture(&self, name: &str) {
        let png = self.client.screenshot().await.expect("a picture");
        std::fs::write(pictures().join(format!("{name}.png")), png).expect("the picture is kept");
    }
}

/// Kills all processes that name a directory in their arguments; returns how many there were.
fn kill_all_of(directory: &Path) -> usize {
    let named = directory.as_os_str().as_encoded_bytes();
    let mut killed = 0;
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let id = process.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(id) = id.and_then(Pid::from_raw) else { continue };
        let arguments = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        if arguments.windows(named.len()).any(|part| part == named) {
            let _ = kill_process(id, Signal::KILL);
            killed += 1;
        }
    }
    killed
}

#[derive(Debug)]
struct DevTools {
    command: &'static str,
    parameters: Value,
}

impl WebDriverCompatibleCommand for DevTools {
    fn endpoint(
        &self,
        base: &url::Url,
        session: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (axum::http::Method, Option<String>) {
        (
            axum::http::Method::POST,
            Some(json!({ "cmd": self.command, "params": self.parameters }).to_string()),
        )
    }
}

/// A text as XPath writes it; these have no quotation marks.
fn quoted(text: &str) -> String {
    assert!(!text.contains('"'));
    format!("\"{text}\"")
}

/// The rules, fetched once through the ordinary client of their registry.
fn axe() -> &'static str {
    static AXE_SOURCE: OnceLock<String> = OnceLock::new();
    AXE_SOURCE.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("npm");
        let file = dir.join("node_modules/axe-core/axe.min.js");
        if !file.is_file() {
            std::fs::create_dir_all(&dir).expect("a directory");
            let mut npm = Command::new(packages::program("npm", "npm"));
            npm.args([
                "install",
                "--no-save",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--prefix",
            ]);
            let done = npm.arg(&dir).arg(AXE).stdin(Stdio::null()).output().expect("npm runs");
            assert!(
                done.status.success(),
                "npm install {AXE}: {}",
                String::from_utf8_lossy(&done.stderr)
            );
        }
        std::fs::read_to_string(file).expect("the rules")
    })
}

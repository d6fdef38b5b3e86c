//! Manifests of applications, as people give them: files, directories, addresses, standard input.

use std::{
    io::{ErrorKind, IsTerminal as _, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};

use lattice_client::apply::documents::Manifests;
use lattice_protocol::{
    applications::decode::Format,
    errors::{Usage, chain},
};

/// Far more than any manifest has, and than most NATS servers take in one message.
const BYTES_MAX: u64 = 8 << 20;
/// How long a manifest may take from a web server.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// The endings of files of a directory that are taken for manifests.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// Reads what a word means: a file, a web address, or `-`.
pub async fn read(word: &str) -> Result<Manifests> {
    match word {
        "-" => from_standard_input(),
        word if is_address(word) => fetched(word).await,
        word => from_file(Path::new(word)),
    }
}

/// Says whether a word is the address of a manifest on a web server.
pub fn is_address(word: &str) -> bool {
    word.starts_with("http://") || word.starts_with("https://")
}

/// Returns the files of a directory that may be manifests, by their names. Directories in it are
/// left alone; a link to nowhere is a file that cannot be read.
pub fn files_of(dir: &Path) -> Result<Vec<PathBuf>> {
    let reading = || format!("read the directory {}", dir.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if extension.is_some_and(|extension| EXTENSIONS.contains(&extension)) && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

pub fn from_standard_input() -> Result<Manifests> {
    if std::io::stdin().is_terminal() {
        return Err(Usage(
            "no manifest was given: name a file, or send one to standard input".into(),
        )
        .into());
    }
    let text = bounded(std::io::stdin()).context("read the manifest from standard input")?;
    Ok(Manifests { place: "standard input".into(), text: some(text)?, format: Format::Either })
}

/// Reads a file. Relative references of files are meant from where the manifest is, and hosts take
/// absolute ones only.
pub fn from_file(path: &Path) -> Result<Manifests> {
    let reading = || format!("read the manifest {}", path.display());
    let file = std::fs::File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow!(
            "there is no such file; name a file, a directory, an http(s) address, or - for standard input"
        ),
        _ => error.into(),
    });
    let text = bounded(file.with_context(reading)?).with_context(reading)?;
    let dir = std::path::absolute(path)
        .with_context(reading)?
        .parent()
        .map(Path::to_owned)
        .unwrap_or_default();
    let text = some(with_absolute_files(&text, &dir)).with_context(reading)?;
    Ok(Manifests::of_file(path.display().to_string(), text))
}

/// Fetches a manifest from a web server.
pub async fn fetched(url: &str) -> Result<Manifests> {
    let place = without_login(url);
    let text = fetch(url).await.with_context(|| format!("fetch the manifest {place}"))?;
    Ok(Manifests { place, text, format: Format::Either })
}

async fn fetch(url: &str) -> Result<String> {
    let client = reqwest::Client::builder()
        .timeout(FETCH_TIMEOUT)
        .build()
        .map_err(|e| anyhow!(chain(&e.without_url())))?;
    let answer = client.get(url).send().await.and_then(reqwest::Response::error_for_status);
    let mut answer = answer.map_err(|e| anyhow!(chain(&e.without_url())))?;
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|e| anyhow!(chain(&e.without_url())))? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > BYTES_MAX {
            bail!("it is larger than {BYTES_MAX} bytes");
        }
    }
    some(String::from_utf8(bytes).context("read it as text")?)
}

/// Reads a manifest; half of one is none.
fn bounded(source: impl Read) -> Result<String> {
    let mut text = String::new();
    source.take(BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > BYTES_MAX {
        bail!("it is larger than {BYTES_MAX} bytes");
    }
    Ok(text)
}

/// An address for messages.
fn without_login(url: &str) -> String {
    let Ok(mut url) = reqwest::Url::parse(url) else {
        return "at an address that cannot be read".into();
    };
    // Both only fail for addresses that have no place for a login.
    let _ = (url.set_username(""), url.set_password(None));
    url.to_string()
}

fn some(manifest: String) -> Result<String> {
    if manifest.trim().is_empty() {
        return Err(Usage("the manifest is empty".into()).into());
    }
    Ok(manifest)
}

/// The manifest with `file://build/echo.wasm` made absolute; nothing else of it is touched.
fn with_absolute_files(manifest: &str, dir: &Path) -> String {
    const SCHEME: &str = "file://";
    let dir: PathBuf = dir.components().collect();
    let mut pieces = manifest.split(SCHEME);
    let mut whole = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        whole.push_str(SCHEME);
        let piece = piece.strip_prefix("./").unwrap_or(piece);
        if piece.starts_with(|c: char| !c.is_whitespace() && !matches!(c, '/' | '"' | '\'')) {
            whole.push_str(&format!("{}/", dir.display()));
        }
        whole.push_str(piece);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_files_are_meant_from_where_the_manifest_is() {
        let dir = Path::new("/apps/shop");
        for (before, after) in [
            ("image: file://build/x.wasm\n", "image: file:///apps/shop/build/x.wasm\n"),
            ("image: file://./x.wasm # file://", "image: file:///apps/shop/x.wasm # file://"),
            ("{\"image\":\"file:///abs/x.wasm\"}", "{\"image\":\"file:///abs/x.wasm\"}"),
            ("image: registry.example/x:1", "image: registry.example/x:1"),
        ] {
            assert_eq!(with_absolute_files(before, dir), after);
        }
    }

    #[test]
    fn manifests_of_a_directory_are_those_of_its_files() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.yml", "c.json", "readme.md", "yaml"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        std::fs::create_dir(dir.path().join("inner.yaml")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("lost.yaml")).unwrap();
        let files = files_of(dir.path()).unwrap();
        let names: Vec<_> = files.iter().filter_map(|file| file.file_name()?.to_str()).collect();
        assert_eq!(names, ["a.yml", "b.yaml", "c.json", "lost.yaml"]);
    }

    #[test]
    fn no_login_is_told() {
        assert_eq!(without_login("https://me:secret@x.example/a.yaml"), "https://x.example/a.yaml");
        assert_eq!(
            without_login("https://me:p@ss@x.example/a@v1/b.yaml"),
            "https://x.example/a@v1/b.yaml"
        );
        assert!(!without_login("https://me:secret@").contains("secret"));
    }
}

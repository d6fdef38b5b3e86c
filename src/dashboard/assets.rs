//! The page itself: files of `assets/`, part of the binary.
//!
//! The page is written as plain modules, so there is nothing to build: the host itself makes one
//! script ([`bundle`]) and one style sheet of them when somebody first asks. Their names have a
//! hash of their content, so a browser asks once for as long as the binary stays the same. The
//! libraries are in `assets/vendor`, with their licences. A file is compressed when it is first
//! asked for, and goes out so to whoever takes it: all browsers do.

use std::{
    collections::HashMap,
    io::Write as _,
    sync::{LazyLock, OnceLock},
};

use aws_lc_rs::digest;
use axum::{
    extract::Path,
    http::{
        HeaderMap, HeaderValue, Method, StatusCode, Uri,
        header::{
            ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG,
            IF_NONE_MATCH, VARY,
        },
    },
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use flate2::{Compression, write::GzEncoder};

use super::{api, auth::guard::API, bundle, refusal::Refusal};

macro_rules! files {
    ($($path:literal),+ $(,)?) => {
        /// Every file, by its path below `assets`.
        static FILES: &[(&str, &str)] = &[$(($path, include_str!(concat!("assets/", $path)))),+];
    };
}

files![
    "css/actions.css",
    "css/base.css",
    "css/shell.css",
    "css/ui.css",
    "css/views.css",
    "favicon.svg",
    "index.html",
    "js/actions/application.js",
    "js/actions/apply.js",
    "js/actions/artifact.js",
    "js/actions/attention.js",
    "js/actions/bulk.js",
    "js/actions/change.js",
    "js/actions/index.js",
    "js/actions/instances.js",
    "js/actions/link.js",
    "js/actions/login.js",
    "js/actions/lost.js",
    "js/actions/placement.js",
    "js/actions/progress.js",
    "js/actions/start.js",
    "js/actions/stop.js",
    "js/api.js",
    "js/clock.js",
    "js/format.js",
    "js/glossary.js",
    "js/json.js",
    "js/live.js",
    "js/login.js",
    "js/main.js",
    "js/pages.js",
    "js/palette.js",
    "js/router.js",
    "js/session.js",
    "js/shell.js",
    "js/store.js",
    "js/theme-boot.js",
    "js/theme.js",
    "js/title.js",
    "js/ui/basic.js",
    "js/ui/chart.js",
    "js/ui/dialog.js",
    "js/ui/diff.js",
    "js/ui/domain.js",
    "js/ui/form.js",
    "js/ui/graph.js",
    "js/ui/icons.js",
    "js/ui/index.js",
    "js/ui/menu.js",
    "js/ui/table.js",
    "js/ui/tabs.js",
    "js/ui/term.js",
    "js/ui/toast.js",
    "js/views/activity.js",
    "js/views/actor.js",
    "js/views/actors.js",
    "js/views/application.js",
    "js/views/applications.js",
    "js/views/attention.js",
    "js/views/call-forms.js",
    "js/views/call.js",
    "js/views/claims.js",
    "js/views/events.js",
    "js/views/failures.js",
    "js/views/host.js",
    "js/views/hosts.js",
    "js/views/links.js",
    "js/views/missing.js",
    "js/views/overview.js",
    "js/views/provider.js",
    "js/views/providers.js",
    "login.html",
    "vendor/htm-preact.js",
];

/// Style sheets in the order in which they hold.
const STYLES: [&str; 5] =
    ["css/base.css", "css/ui.css", "css/shell.css", "css/views.css", "css/actions.css"];
/// The files that name others, and so are asked for each time.
const PAGES: [&str; 2] = ["index.html", "login.html"];

/// All that is served, by its path below `/assets`.
static SERVED: LazyLock<HashMap<String, Asset>> = LazyLock::new(|| {
    let mut served = HashMap::new();
    let mut names = Vec::new();
    for (name, content) in parts() {
        let asset = Asset::new(&name, content, true);
        let (stem, kind) = name.rsplit_once('.').expect("every part has a kind");
        let hashed = format!("{stem}.{}.{kind}", &asset.hash()[..16]);
        names.push((format!("/assets/{name}"), format!("/assets/{hashed}")));
        served.insert(hashed, asset);
    }
    for page in PAGES {
        let text = names.iter().fold(source(page).to_owned(), |text, (plain, hashed)| {
            text.replace(&format!("\"{plain}\""), &format!("\"{hashed}\""))
        });
        served.insert(page.to_owned(), Asset::new(page, text, false));
    }
    served.insert(ICON.to_owned(), Asset::new(ICON, source(ICON).to_owned(), false));
    served
});

const ICON: &str = "favicon.svg";

/// The parts of the pages, by the names that they have in `index.html` and `login.html`.
fn parts() -> [(String, String); 5] {
    let script = |entry| bundle::script(FILES, entry).expect("a test puts the modules together");
    [
        ("page.css".to_owned(), STYLES.map(source).concat()),
        ("page.js".to_owned(), script("js/main.js")),
        ("login.js".to_owned(), script("js/login.js")),
        ("theme-boot.js".to_owned(), source("js/theme-boot.js").to_owned()),
        (ICON.to_owned(), source(ICON).to_owned()),
    ]
}

/// The text of a file below `assets`.
fn source(path: &str) -> &'static str {
    let found = FILES.iter().find(|(name, _)| *name == path);
    found.expect("the list has every file").1
}

struct Asset {
    content: Bytes,
    compressed: OnceLock<Bytes>,
    kind: &'static str,
    tag: HeaderValue,
    /// The name changes with the content.
    is_hashed: bool,
}

impl Asset {
    fn new(path: &str, content: String, is_hashed: bool) -> Self {
        let tag =
            HEXLOWER.encode(&digest::digest(&digest::SHA256, content.as_bytes()).as_ref()[..16]);
        let tag = HeaderValue::from_str(&format!("\"{tag}\"")).expect("hexadecimal digits");
        let compressed = OnceLock::new();
        Self { content: content.into(), compressed, kind: kind(path), tag, is_hashed }
    }

    /// Hexadecimal digits that stand for the content.
    fn hash(&self) -> &str {
        self.tag.to_str().expect("hexadecimal digits").trim_matches('"')
    }

    fn compressed(&self) -> Bytes {
        let compressed = self.compressed.get_or_init(|| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            let written = encoder.write_all(&self.content).and_then(|()| encoder.finish());
            written.map_or_else(|_| self.content.clone(), Bytes::from)
        });
        compressed.clone()
    }
}

fn kind(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

/// The paths of the page's views, as the table in `js/pages.js` has them.
fn view_paths(table: &str) -> impl Iterator<Item = &str> {
    let entries = table.lines().filter_map(|line| line.trim_start().strip_prefix("{ path: \""));
    entries.filter_map(|entry| entry.split('"').next())
}

/// Whether the page has a view for a path; a `:name` of a pattern takes one segment.
fn has_view(path: &str) -> bool {
    let segments = |path: &str| -> Vec<String> {
        path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    let wanted = segments(path);
    view_paths(source("js/pages.js")).map(segments).any(|pattern| {
        pattern.len() == wanted.len()
            && pattern.iter().zip(&wanted).all(|(part, own)| part.starts_with(':') || part == own)
    })
}

/// `GET /assets/{path}`
pub async fn file(Path(path): Path<String>, headers: HeaderMap) -> Response {
    serve(&path, &headers)
}

/// `GET /`
pub async fn page(headers: HeaderMap) -> Response {
    serve("index.html", &headers)
}

/// Answers what no route takes: a browser that goes to an address gets the page, with status 404
/// where the page has no view for it either; others are told that nothing is there.
pub async fn page_or_nothing(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let is_page = ![API, "/assets/"].iter().any(|root| uri.path().starts_with(root));
    let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_reading = matches!(method, Method::GET | Method::HEAD);
    if !(is_reading && is_page && accepted.contains("text/html")) {
        return api::not_found(uri).await.into_response();
    }
    if has_view(uri.path()) {
        return page(headers).await;
    }
    // Not "not modified": the status is to tell that nothing is there.
    let mut unconditional = headers;
    unconditional.remove(IF_NONE_MATCH);
    let mut answer = page(unconditional).await;
    *answer.status_mut() = StatusCode::NOT_FOUND;
    answer
}

/// `GET /login`
pub async fn login(headers: HeaderMap) -> Response {
    serve("login.html", &headers)
}

/// `GET /favicon.ico`, which browsers ask for by themselves.
pub async fn icon(headers: HeaderMap) -> Response {
    serve(ICON, &headers)
}

fn serve(path: &str, headers: &HeaderMap) -> Response {
    let Some(asset) = SERVED.get(path) else {
        return Refusal::new(
            StatusCode::NOT_FOUND,
            format!("there is no file {path:?} of the dashboard"),
        )
        .into_response();
    };
    // The others are kept as well, and asked for each time whether they still hold: another binary
    // has other files under the same names.
    let keeping = if asset.is_hashed { "public, max-age=31536000, immutable" } else { "no-cache" };
    let caching = [(ETAG, asset.tag.clone()), (CACHE_CONTROL, HeaderValue::from_static(keeping))];
    if headers.get(IF_NONE_MATCH) == Some(&asset.tag) {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    let kind = [(CONTENT_TYPE, asset.kind), (VARY, "accept-encoding")];
    let accepted =
        headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let takes_gzip = accepted
        .split(',')
        .any(|coding| coding.split(';').next().is_some_and(|name| name.trim() == "gzip"));
    match takes_gzip {
        true => (caching, kind, [(CONTENT_ENCODING, "gzip")], asset.compressed()).into_response(),
        false => (caching, kind, asset.content.clone()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// The most bytes all files together may take on the wire, so that the page appears at once.
    const BYTES_MAX: usize = 200_000;

    fn below(dir: &Path, root: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => below(&path, root, found),
                false => found
                    .push(path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/")),
            }
        }
    }

    #[test]
    fn every_file_is_listed_and_all_that_is_served_is_small() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
        let mut there = Vec::new();
        below(&root, &root, &mut there);
        there.sort();
        let mut listed: Vec<_> = FILES.iter().map(|(path, _)| (*path).to_owned()).collect();
        listed.sort();
        assert_eq!(listed, there);
        let bytes: usize = SERVED.values().map(|asset| asset.compressed().len()).sum();
        assert!(bytes < BYTES_MAX, "{bytes}");
    }

    #[test]
    fn the_page_names_few_files_and_all_of_them_are_there() {
        for (page, files) in [("index.html", 4), ("login.html", 5)] {
            let text = String::from_utf8(SERVED[page].content.to_vec()).unwrap();
            let named: Vec<_> = text
                .split("\"/assets/")
                .skip(1)
                .filter_map(|rest| rest.split('"').next())
                .collect();
            assert_eq!(named.len(), files, "{named:?}");
            for name in named {
                assert!(
                    SERVED[name].is_hashed && name.contains(&SERVED[name].hash()[..16]),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn every_style_sheet_and_module_of_the_page_is_part_of_it() {
        let [(_, style), (_, script), (_, login), ..] = parts();
        for (path, text) in FILES {
            let is_part = match path.rsplit_once('.') {
                Some((_, "css")) => style.contains(text),
                Some((_, "js")) if *path != "js/theme-boot.js" => {
                    let mark = format!("// {path}\n");
                    script.contains(&mark) || login.contains(&mark)
                }
                _ => true,
            };
            assert!(is_part, "{path}");
        }
        assert!(!script.contains("\nimport ") && !script.contains("\nexport "));
    }

    #[test]
    fn the_views_of_the_page_have_addresses_and_nothing_else_has() {
        for (path, expected) in [
            ("/", true),
            ("/hosts", true),
            ("/hosts/", true),
            ("/hosts/N1", true),
            ("/providers/V1/default", true),
            ("/providers/V1", false),
            ("/host", false),
            ("/no/such/page", false),
        ] {
            assert_eq!(has_view(path), expected, "{path}");
        }
    }

    #[test]
    fn what_the_policy_forbids_is_in_no_file() {
        for (path, text) in FILES.iter().filter(|(path, _)| !path.starts_with("vendor/")) {
            for forbidden in [
                "innerHTML",
                "eval(",
                "document.write",
                " style=\"",
                "onclick=\"",
                "@import",
                "url(http",
            ] {
                assert!(!text.contains(forbidden), "{path}: {forbidden}");
            }
        }
    }

    #[test]
    fn the_page_and_the_readme_explain_words_alike() {
        let readme = include_str!("../../README.md");
        let mut words = 0;
        for line in source("js/glossary.js").lines() {
            let Some((word, meaning)) = line.trim().split_once(": \"") else { continue };
            let (word, meaning) = (word.trim_matches('"'), meaning.trim_end_matches("\","));
            assert!(readme.contains(&format!("| {word} | {meaning} |")), "{word}");
            words += 1;
        }
        assert!(words >= 12);
    }
}

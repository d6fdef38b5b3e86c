//! The page itself: files of `assets/`, part of the binary.
//!
//! The page is plain modules that the browser loads, so there is nothing to build. Its libraries
//! are in `assets/vendor`, with their licences. A file is compressed when it is first asked for,
//! and goes out so to whoever takes it: all browsers do.

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

use super::{api, auth::API, refusal::Refusal};

macro_rules! files {
    ($($path:literal),+ $(,)?) => {
        /// Every file, by its path below `assets`.
        static FILES: &[(&str, &[u8])] = &[$(($path, include_bytes!(concat!("assets/", $path)))),+];
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
    "js/actions/change.js",
    "js/actions/index.js",
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
    "js/ui/toast.js",
    "js/views/activity.js",
    "js/views/actor.js",
    "js/views/actors.js",
    "js/views/application.js",
    "js/views/applications.js",
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

static BY_PATH: LazyLock<HashMap<&str, Asset>> = LazyLock::new(|| {
    FILES.iter().map(|(path, content)| (*path, Asset::new(path, content))).collect()
});

struct Asset {
    content: &'static [u8],
    compressed: OnceLock<Bytes>,
    kind: &'static str,
    tag: HeaderValue,
}

impl Asset {
    fn new(path: &str, content: &'static [u8]) -> Self {
        let tag = HEXLOWER.encode(&digest::digest(&digest::SHA256, content).as_ref()[..16]);
        let tag = HeaderValue::from_str(&format!("\"{tag}\"")).expect("hexadecimal digits");
        Self { content, compressed: OnceLock::new(), kind: kind(path), tag }
    }

    fn compressed(&self) -> Bytes {
        let compressed = self.compressed.get_or_init(|| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            let written = encoder.write_all(self.content).and_then(|()| encoder.finish());
            written.map_or_else(|_| Bytes::from_static(self.content), Bytes::from)
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

/// `GET /assets/{path}`
pub async fn file(Path(path): Path<String>, headers: HeaderMap) -> Response {
    serve(&path, &headers)
}

/// `GET /`
pub async fn page(headers: HeaderMap) -> Response {
    serve("index.html", &headers)
}

/// Answers what no route takes: a browser that goes to an address gets the page, whose own table
/// (`js/pages.js`) knows the views; others are told that nothing is there.
pub async fn page_or_nothing(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let is_page = ![API, "/assets/"].iter().any(|root| uri.path().starts_with(root));
    let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_reading = matches!(method, Method::GET | Method::HEAD);
    match is_reading && is_page && accepted.contains("text/html") {
        true => page(headers).await,
        false => api::not_found(uri).await.into_response(),
    }
}

/// `GET /login`
pub async fn login(headers: HeaderMap) -> Response {
    serve("login.html", &headers)
}

/// `GET /favicon.ico`, which browsers ask for by themselves.
pub async fn icon(headers: HeaderMap) -> Response {
    serve("favicon.svg", &headers)
}

fn serve(path: &str, headers: &HeaderMap) -> Response {
    let Some(asset) = BY_PATH.get(path) else {
        return Refusal::new(
            StatusCode::NOT_FOUND,
            format!("there is no file {path:?} of the dashboard"),
        )
        .into_response();
    };
    // Kept, and asked for each time whether it still holds: another binary has other files under
    // the same names.
    let caching =
        [(ETAG, asset.tag.clone()), (CACHE_CONTROL, HeaderValue::from_static("no-cache"))];
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
        false => (caching, kind, asset.content).into_response(),
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
    fn every_file_is_served_and_all_are_small() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
        let mut there = Vec::new();
        below(&root, &root, &mut there);
        there.sort();
        let mut listed: Vec<_> = FILES.iter().map(|(path, _)| (*path).to_owned()).collect();
        listed.sort();
        assert_eq!(listed, there);
        let bytes: usize = BY_PATH.values().map(|asset| asset.compressed().len()).sum();
        assert!(bytes < BYTES_MAX, "{bytes}");
    }

    #[test]
    fn what_the_policy_forbids_is_in_no_file() {
        for (path, content) in FILES.iter().filter(|(path, _)| !path.starts_with("vendor/")) {
            let text = std::str::from_utf8(content).unwrap();
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
}

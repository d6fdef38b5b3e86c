//! The values of a link to the HTTP server: documented, read, checked.

use std::{sync::Arc, time::Duration};

use anyhow::{anyhow, ensure};
use hyper::header::HeaderValue;
use serde_json::Value as Json;

use super::{
    super::{
        LinkError, Spec, Value,
        values::{Unknown, Values, within_usize, wrong},
    },
    cors::{self, Cors},
    routes::{HostPattern, Prefix},
    section::Section,
    tls::{Pem, Source},
};
use crate::providers::bounds::LinkPaths;
use lattice_protocol::links::LinkDefinition;

const DEFAULT_HOST: &str = "127.0.0.1";
const DEFAULT_PORT: u16 = 8000;
const DEFAULT_CONTENT_MAX: u64 = 100 << 20;
/// The most that a payload and the memory of a guest could take.
const CONTENT_MAX: u64 = 1 << 30;
/// The most connections and header lines that a link may ask for.
const CONNECTIONS_MAX: u64 = 1 << 20;
const HEADERS_MAX: u64 = 10_000;
const DEFAULT_BODY_IDLE: Duration = Duration::from_secs(10);
const DEFAULT_BODY_FIRST: usize = 64 << 10;
/// hyper's own; another number costs it an allocation per request.
pub const DEFAULT_HEADERS_MAX: usize = 100;

const fn value(name: &'static str, default: &'static str, help: &'static str) -> Value {
    Value { name, aliases: &[], default, help }
}

/// All values, as `host inspect` prints them.
pub static VALUES: &[Value] = &[
    value(
        "address",
        "127.0.0.1:8000",
        "HOST:PORT to listen on. Links may share an address; see host and path. Port 0 is any free one, which the log names",
    ),
    value(
        "port",
        "8000",
        "the port alone, on 127.0.0.1 or on the host that address names without a port",
    ),
    value(
        "host",
        "any",
        "host names that this link answers, separated by commas; *.example.org is all below it",
    ),
    value(
        "path",
        "/",
        "answers paths below this one only, /api say; of several links the longest path wins",
    ),
    value("strip_path", "false", "true takes path off before the actor sees the request's path"),
    value("tls_cert_file", "no TLS", "the certificate chain for HTTPS, a PEM file on this host"),
    Value {
        name: "tls_priv_key_file",
        aliases: &["tls_key_file"],
        default: "no TLS",
        help: "the key of the certificate, a PEM file on this host",
    },
    value("tls_cert", "no TLS", "the certificate chain itself in place of a file, as PEM text"),
    Value {
        name: "tls_key",
        aliases: &["tls_priv_key"],
        default: "no TLS",
        help: "the key itself in place of a file, as PEM text; everybody who may read links can read it",
    },
    value("tls", "no TLS", r#"the same as JSON: {"cert_file": …, "priv_key_file": …}"#),
    value(
        "timeout_ms",
        "the host's rpc_timeout_ms",
        "how long the actor has for an answer; then the client gets 504. An answer that is sent as it is made may pause for \
         so long",
    ),
    value(
        "max_content_len",
        "100M",
        "the longest request body, with K, M or G; at most 1G. Longer ones get 413",
    ),
    value("readonly_mode", "false", "true lets only GET and HEAD through; others get 405"),
    value("cache_control", "none", "the Cache-Control header of answers that have none"),
    value(
        "cors_allowed_origins",
        "*",
        "origins whose pages may use the actor, separated by commas",
    ),
    value(
        "cors_allowed_methods",
        "GET,POST,PUT,DELETE,HEAD,OPTIONS",
        "methods that such pages may use",
    ),
    value(
        "cors_allowed_headers",
        "accept,accept-language,content-type,content-language",
        "request headers that such pages may send",
    ),
    value("cors_exposed_headers", "none", "response headers that such pages may read"),
    value("cors_max_age_secs", "300", "how long browsers remember these rules"),
    value(
        "cors",
        "as above",
        r#"the same as JSON: {"allowed_origins": […], …, "max_age_secs": 300}"#,
    ),
    value(
        "access_log",
        "false",
        "true logs each request at level info; otherwise at level debug. Target: lattice_host::access",
    ),
    value(
        "header_timeout_ms",
        "10000",
        "how long a client may take for the head of a request. This and the next three belong to the address: of links that \
         share it the largest value holds",
    ),
    value("max_connections", "10000", "connections at a time; further ones wait to be accepted"),
    value(
        "max_connections_per_address",
        "256",
        "connections of one client at a time; further ones end those at rest, or are closed. More may be right where a proxy \
         is the only client",
    ),
    value("max_request_headers", "100", "header lines of an HTTP/1 request; more get 431"),
    value("body_idle_ms", "10000", "how long a request body may pause; then the client gets 408"),
    value(
        "body_first",
        "64K",
        "how much of a request body is read before a component of the same host is called, with K, M or G; the rest goes to it \
         as it comes, if it comes briskly. With 0 it is called at once, and slow clients occupy it",
    ),
    value(
        "config_file",
        "none",
        "a JSON file on this host with any of these values, or a TOML file if it is named so",
    ),
    value("config_json", "none", "any of these values as one JSON object; a value of its own wins"),
    value("config_b64", "none", "the same, in base64"),
    value("log", "none", "accepted and without effect: the host has one log, see its --log-level"),
];

/// The settings that a link asks for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `host:port`, not resolved.
    pub address: String,
    /// Never empty.
    pub hosts: Vec<HostPattern>,
    pub path: Prefix,
    pub tls: Option<Source>,
    pub limits: Limits,
    pub rules: Rules,
    /// Oddities that are no errors.
    pub warnings: Vec<String>,
    /// Values that this provider does not know.
    pub unknown: Vec<Unknown>,
}

/// The rules for the requests of one link.
#[derive(Clone, Debug)]
pub struct Rules {
    pub strip: Option<Prefix>,
    pub timeout: Duration,
    pub content_max: u64,
    pub body_idle: Duration,
    /// Bytes of a request body that are there before a component is called.
    pub body_first: usize,
    pub readonly: bool,
    pub cache_control: Option<HeaderValue>,
    pub cors: Cors,
    pub access_log: bool,
}

/// The limits of all connections of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub header_timeout: Duration,
    pub connections_max: usize,
    pub connections_per_address_max: usize,
    pub headers_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(10),
            connections_max: 10_000,
            connections_per_address_max: 256,
            headers_max: DEFAULT_HEADERS_MAX,
        }
    }
}

impl Limits {
    /// The larger of each.
    pub fn or_larger(self, other: Self) -> Self {
        Self {
            header_timeout: self.header_timeout.max(other.header_timeout),
            connections_max: self.connections_max.max(other.connections_max),
            connections_per_address_max: self
                .connections_per_address_max
                .max(other.connections_per_address_max),
            headers_max: self.headers_max.max(other.headers_max),
        }
    }
}

impl Settings {
    /// Reads the values of a link, from a file if they name one.
    pub async fn load(
        spec: &'static Spec,
        link: &Arc<LinkDefinition>,
        rpc_timeout: Duration,
        paths: &LinkPaths,
    ) -> Result<Self, LinkError> {
        let Some(path) = given(link, "config_file").filter(|path| !path.is_empty()) else {
            return Self::read(spec, link, rpc_timeout);
        };
        let inline = given(link, "config_json").or(given(link, "config_b64"));
        if inline.is_some_and(|text| !text.is_empty()) {
            let text = "link value config_file stands beside config_json or config_b64; leave only one of them";
            return Err(LinkError::Values(text.into()));
        }
        let file = paths.read("config_file", path).await?;
        let settings = parse_file(path, file).map_err(|error| {
            LinkError::Unavailable(format!(
                "link value config_file names the file {path}, which cannot be read: {error}"
            ))
        })?;
        let mut link = LinkDefinition::clone(link);
        link.values.insert("config_json".into(), settings.to_string());
        // An error may be put right in the file, and then nothing about the link changes.
        Self::read(spec, &link, rpc_timeout).map_err(|error| match error {
            LinkError::Values(text) | LinkError::Unavailable(text) => LinkError::Unavailable(text),
        })
    }

    pub fn read(
        spec: &'static Spec,
        link: &LinkDefinition,
        rpc_timeout: Duration,
    ) -> Result<Self, LinkError> {
        let values = Values::read(spec, link)?;
        let (mut warnings, mut unknown) = (Vec::new(), values.unknown.clone());
        if values.member("log").is_some() || values.text("log").is_some() {
            warnings.push("log has no effect: the host has one log, see its --log-level".into());
        }
        let path = values.text("path").unwrap_or_else(|| "/".into());
        let path =
            Prefix::parse(&path).ok_or_else(|| wrong("path", &path, "a path such as /api"))?;
        let strip = values.boolean("strip_path")?.unwrap_or(false).then(|| path.clone());
        let cors = Section::read(&values, "cors", &mut unknown)?;
        let content_max = values.bytes("max_content_len")?.unwrap_or(DEFAULT_CONTENT_MAX);
        if content_max > CONTENT_MAX {
            return Err(wrong("max_content_len", &content_max.to_string(), "at most 1G"));
        }
        let cache_control = values.text("cache_control").map(|text| {
            HeaderValue::from_str(&text)
                .map_err(|_| wrong("cache_control", &text, "a header value such as no-store"))
        });
        let rules = Rules {
            strip,
            timeout: values.milliseconds("timeout_ms")?.unwrap_or(rpc_timeout),
            content_max,
            body_idle: values.milliseconds("body_idle_ms")?.unwrap_or(DEFAULT_BODY_IDLE),
            body_first: values.bytes("body_first")?.map_or(DEFAULT_BODY_FIRST, within_usize),
            readonly: values.boolean("readonly_mode")?.unwrap_or(false),
            cache_control: cache_control.transpose()?,
            cors: cors::Rules {
                allowed_origins: cors.list("allowed_origins")?,
                allowed_headers: cors.list("allowed_headers")?,
                allowed_methods: cors.list("allowed_methods")?,
                exposed_headers: cors.list("exposed_headers")?,
                max_age_secs: cors.number("max_age_secs")?,
            }
            .build()?,
            access_log: values.boolean("access_log")?.unwrap_or(false),
        };
        Ok(Self {
            address: address(&values)?,
            hosts: hosts(&values)?,
            path,
            tls: tls(&Section::read(&values, "tls", &mut unknown)?)?,
            limits: limits(&values)?,
            rules,
            warnings,
            unknown,
        })
    }
}

/// Returns a value as the link has it, without regard to what the provider knows.
fn given<'a>(link: &'a LinkDefinition, name: &str) -> Option<&'a str> {
    let (_, text) = link.values.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
    Some(text.trim())
}

/// Reads the JSON object in a configuration file, which is TOML if it is named so.
fn parse_file(path: &str, file: Vec<u8>) -> anyhow::Result<Json> {
    let text = String::from_utf8(file)?;
    let settings: Json = if path.to_ascii_lowercase().ends_with(".toml") {
        // Not the whole error: it repeats a line of the file, which may be a secret.
        toml::from_str(&text).map_err(|error| anyhow!("it is no TOML: {}", error.message()))?
    } else {
        serde_json::from_str(&text).map_err(|error| anyhow!("it is no JSON: {error}"))?
    };
    ensure!(settings.is_object(), "it is no JSON object");
    Ok(settings)
}

fn address(values: &Values) -> Result<String, LinkError> {
    let alone = values
        .text("port")
        .map(|text| text.parse::<u16>().map_err(|_| wrong("port", &text, "a port number")));
    let alone = alone.transpose()?;
    let Some(address) = values.text("address") else {
        return Ok(format!("{DEFAULT_HOST}:{}", alone.unwrap_or(DEFAULT_PORT)));
    };
    let with_port = address.rsplit_once(':').filter(|(host, _)| is_host(host));
    match (with_port.and_then(|(_, port)| port.parse::<u16>().ok()), alone) {
        (Some(own), Some(other)) if own != other => {
            let expected = format!("the port of address {address}, or only one of the two");
            Err(wrong("port", &other.to_string(), &expected))
        }
        (Some(_), _) => Ok(address),
        (None, Some(port)) if is_host(&address) => Ok(format!("{address}:{port}")),
        (None, _) => {
            let expected = "HOST:PORT such as 0.0.0.0:8080, an IPv6 address in brackets";
            Err(wrong("address", &address, expected))
        }
    }
}

fn is_host(text: &str) -> bool {
    let is_bracketed = text.starts_with('[') && text.ends_with(']');
    !text.is_empty() && (!text.contains(':') || is_bracketed)
}

fn hosts(values: &Values) -> Result<Vec<HostPattern>, LinkError> {
    let mut hosts: Vec<HostPattern> = Vec::new();
    for name in values.list("host")?.unwrap_or_default() {
        let host = HostPattern::parse(&name).ok_or_else(|| {
            wrong("host", &name, "host names without ports, or *.example.org for all below it")
        })?;
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    if hosts.is_empty() {
        hosts.push(HostPattern::Any);
    }
    Ok(hosts)
}

fn tls(section: &Section<'_>) -> Result<Option<Source>, LinkError> {
    match (pem(section, "cert_file", "cert")?, pem(section, "priv_key_file", "key")?) {
        (Some(certificate), Some(key)) => Ok(Some(Source { certificate, key })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(LinkError::Values(
            "the link has a TLS certificate, but no tls_priv_key_file".into(),
        )),
        (None, Some(_)) => {
            Err(LinkError::Values("the link has a TLS key, but no tls_cert_file".into()))
        }
    }
}

fn pem(section: &Section<'_>, file: &str, inline: &str) -> Result<Option<Pem>, LinkError> {
    match (section.text(file), section.text(inline)) {
        (Some(_), Some(_)) => Err(LinkError::Values(format!(
            "the link values tls_{file} and tls_{inline} stand beside each other; leave only one of them"
        ))),
        (Some(path), None) => Ok(Some(Pem::File(path))),
        (None, Some(text)) => Ok(Some(Pem::Inline(text))),
        (None, None) => Ok(None),
    }
}

fn limits(values: &Values) -> Result<Limits, LinkError> {
    let default = Limits::default();
    let header_timeout = values.milliseconds("header_timeout_ms")?;
    let connections_max = count(values, "max_connections", CONNECTIONS_MAX)?;
    let per_address_max = count(values, "max_connections_per_address", CONNECTIONS_MAX)?;
    let headers_max = count(values, "max_request_headers", HEADERS_MAX)?;
    Ok(Limits {
        header_timeout: header_timeout.unwrap_or(default.header_timeout),
        connections_max: connections_max.unwrap_or(default.connections_max),
        connections_per_address_max: per_address_max.unwrap_or(default.connections_per_address_max),
        headers_max: headers_max.unwrap_or(default.headers_max),
    })
}

fn count(values: &Values, name: &str, max: u64) -> Result<Option<usize>, LinkError> {
    match values.number(name)? {
        Some(number) if !(1..=max).contains(&number) => {
            Err(wrong(name, &number.to_string(), &format!("a number from 1 to {max}")))
        }
        number => Ok(number.map(|number| number as usize)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::SPEC, *};
    use crate::providers::builtin::values::tests::link;

    fn read(values: &[(&str, &str)]) -> Result<Settings, LinkError> {
        let link = link(&SPEC, values);
        Settings::read(&SPEC, &link, Duration::from_secs(2))
    }

    #[test]
    fn without_values_the_documented_defaults_hold() {
        let settings = read(&[]).unwrap();
        assert_eq!(settings.address, "127.0.0.1:8000");
        assert_eq!(
            (settings.hosts.as_slice(), settings.path.to_string().as_str()),
            (&[HostPattern::Any][..], "/")
        );
        assert_eq!(
            (settings.rules.timeout, settings.rules.content_max),
            (Duration::from_secs(2), 100 << 20)
        );
        assert_eq!(settings.limits, Limits::default());
        assert!(settings.tls.is_none() && !settings.rules.readonly && settings.warnings.is_empty());
    }

    #[test]
    fn an_address_has_many_spellings() {
        for (values, expected) in [
            (&[("PORT", "8080")][..], "127.0.0.1:8080"),
            (&[("Address", "0.0.0.0:80")][..], "0.0.0.0:80"),
            (&[("address", "[::]:80")][..], "[::]:80"),
            (&[("address", "localhost"), ("port", "81")][..], "localhost:81"),
            (&[("address", "[::1]"), ("port", "81")][..], "[::1]:81"),
            (&[("address", "a:80"), ("port", "80")][..], "a:80"),
            (&[("config_json", r#"{"address": "0.0.0.0:9", "port": 9}"#)][..], "0.0.0.0:9"),
        ] {
            assert_eq!(read(values).unwrap().address, expected, "{values:?}");
        }
        let bad = [
            &[("address", "0.0.0.0")][..],
            &[("address", "::1:80x")],
            &[("address", ":80")],
            &[("port", "66000")],
            &[("address", "a:80"), ("port", "81")],
        ];
        for values in bad {
            let error = read(values).unwrap_err().to_string();
            assert!(error.contains("link value"), "{error}");
        }
    }

    #[test]
    fn settings_of_peers_are_understood() {
        let json = json!({
            "address": "0.0.0.0:8443",
            "tls": {"cert_file": "/c", "priv_key_file": "/k", "ca": "/x"},
            "cors": {"allowed_origins": ["https://a.example"], "max_age_secs": 7},
            "log": {"level": "debug"},
            "timeout_ms": 500,
            "max_content_len": "10M",
            "readonly_mode": true,
            "cache_control": "no-store",
        });
        let settings = read(&[("config_json", &json.to_string()), ("nonsense", "1")]).unwrap();
        let source = Source { certificate: Pem::File("/c".into()), key: Pem::File("/k".into()) };
        assert_eq!((settings.address.as_str(), settings.tls), ("0.0.0.0:8443", Some(source)));
        let rules = settings.rules;
        assert_eq!(
            (rules.timeout, rules.content_max, rules.readonly),
            (Duration::from_millis(500), 10 << 20, true)
        );
        let origin = HeaderValue::from_static("https://b.example");
        assert!(rules.cors.preflight(Some(&origin)).is_none());
        assert!(
            settings.warnings.iter().any(|warning| warning.starts_with("log")),
            "{:?}",
            settings.warnings
        );
        let unknown: Vec<&str> =
            settings.unknown.iter().map(|unknown| unknown.name.as_str()).collect();
        assert_eq!(unknown, ["nonsense", "tls_ca"]);
    }

    #[tokio::test]
    async fn a_file_has_the_values_as_json_or_as_toml() {
        let dir = tempfile::tempdir().unwrap();
        let toml = "address = \"0.0.0.0:8443\"\ntimeout_ms = 500\n\n[tls]\ncert_file = \"/c\"\npriv_key_file = \"/k\"\n\n\
                    [cors]\nallowed_origins = [\"https://a.example\"]\nmax_age_secs = 7\n";
        let json = r#"{"address": "0.0.0.0:8443", "timeout_ms": 500, "tls": {"cert_file": "/c", "priv_key_file": "/k"},
            "cors": {"allowed_origins": ["https://a.example"], "max_age_secs": 7}}"#;
        let load = async |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            let link = Arc::new(link(&SPEC, &[("CONFIG_FILE", &path.display().to_string())]));
            Settings::load(&SPEC, &link, Duration::from_secs(2), &LinkPaths::default()).await
        };
        for (name, text) in
            [("http.toml", toml), ("HTTP.TOML", toml), ("http.json", json), ("http", json)]
        {
            let settings = load(name, text).await.unwrap();
            let source =
                Source { certificate: Pem::File("/c".into()), key: Pem::File("/k".into()) };
            assert_eq!(
                (settings.address.as_str(), settings.tls),
                ("0.0.0.0:8443", Some(source)),
                "{name}"
            );
            assert_eq!(settings.rules.timeout, Duration::from_millis(500));
            assert!(settings.unknown.is_empty(), "{:?}", settings.unknown);
        }
        for (name, text, part) in [
            ("http.toml", json, "no TOML"),
            ("http.json", toml, "no JSON"),
            ("x", "\"hush\"", "no JSON object"),
            ("x.toml", "hush = hush", "no TOML"),
        ] {
            let error = load(name, text).await.err().unwrap().to_string();
            assert!(
                error.contains(part) && error.contains(name) && !error.contains("hush"),
                "{error}"
            );
        }
    }

    #[test]
    fn line_breaks_get_into_no_header() {
        for (name, value) in [
            ("cache_control", "no-store\r\nset-cookie: a=b"),
            ("cors_allowed_origins", "https://a.example\r\nx: y"),
            ("cors_allowed_headers", "accept\r\nx: y"),
            ("cors_allowed_methods", "GET\r\nx: y"),
            ("cors_exposed_headers", "x\r\ny"),
            ("host", "a.example\r\nx"),
            ("address", "127.0.0.1:80\r\n1"),
        ] {
            let error = read(&[(name, value)]).expect_err(name).to_string();
            assert!(error.contains("link value"), "{name}: {error}");
        }
    }

    #[test]
    fn single_values_win_over_json() {
        let json = r#"{"cors": {"max_age_secs": 7, "allowed_methods": "GET"}, "tls": {"cert_file": "/a", "priv_key_file": "/b"}}"#;
        let settings =
            read(&[("config_json", json), ("cors_max_age_secs", "8"), ("tls_cert_file", "/c")])
                .unwrap();
        let headers = settings
            .rules
            .cors
            .preflight(Some(&HeaderValue::from_static("https://a.example")))
            .unwrap();
        assert_eq!(headers["access-control-max-age"], "8");
        assert_eq!(headers["access-control-allow-methods"], "GET");
        assert_eq!(settings.tls.unwrap().certificate, Pem::File("/c".into()));
        // The other spellings hold in objects as well.
        let settings = read(&[("tls", r#"{"cert_file": "/a", "key_file": "/b"}"#)]).unwrap();
        assert_eq!(
            (settings.tls.unwrap().key, settings.warnings.len()),
            (Pem::File("/b".into()), 0)
        );
    }

    #[test]
    fn mistakes_name_the_value() {
        for (name, value) in [
            ("path", "api"),
            ("host", "a:80"),
            ("max_content_len", "2G"),
            ("timeout_ms", "0"),
            ("max_connections", "0"),
            ("max_connections_per_address", "0"),
            ("max_request_headers", "many"),
            ("readonly_mode", "perhaps"),
            ("cache_control", "a\nb"),
            ("cors", "[]"),
            ("cors_max_age_secs", "-1"),
            ("tls_cert_file", "/c"),
            ("tls_key", "k"),
        ] {
            let error = read(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name) || error.contains("TLS"), "{name}: {error}");
        }
    }
}

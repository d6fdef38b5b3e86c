//! Reads the values of a link: texts by name, in any case, with the mistakes named.
//!
//! Besides single values most providers of the years take all settings as one JSON object, in
//! `config_json` or, base64 encoded, in `config_b64`. Members of that object are values under the
//! same names; a value of its own wins.

use std::{collections::BTreeMap, fmt, time::Duration};

use base64::{Engine as _, engine::general_purpose};
use serde_json::{Map, Value as Json};

use super::{LinkError, SCHEME, Spec, Value};
use lattice_protocol::links::LinkDefinition;

/// Characters of an unknown name that are shown.
const SHOWN_CHARS: usize = 80;
/// How much alike names must be, of 1, to be taken for a slip of the pen.
const LIKE: f64 = 0.85;
/// The longest time that a link may ask for; more is a slip of the pen.
const MILLISECONDS_MAX: u64 = 366 * 24 * 60 * 60 * 1000;
/// Names that are told one by one in a refusal.
const REFUSED_TOLD_MAX: usize = 8;
/// The names of the Redis and S3 providers of earlier years (wasmbus protocol, sections 5.4 and
/// 5.7). Manifests and clients of those years send them to whatever provider has the contract, so
/// they are no reason to refuse a link.
const OF_EARLIER_YEARS: [&str; 13] = [
    "url",
    "config_json",
    "config_b64",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "region",
    "max_attempts",
    "endpoint",
    "sts_config",
    "aliases",
    "max_chunk_size_bytes",
    "tls_use_webpki_roots",
];
/// Begins further ones, `alias_NAME` for the bucket of a name.
const ALIAS_OF_EARLIER_YEARS: &str = "alias_";

/// The values of one link, by their documented names.
#[derive(Debug)]
pub struct Values {
    single: BTreeMap<&'static str, String>,
    json: Map<String, Json>,
    /// Those that the provider does not know. The link is taken on without them, and they are told.
    pub unknown: Vec<Unknown>,
    /// Those that are given without a text, which count as not given.
    empty: Vec<&'static Value>,
}

/// A link value that its provider does not know: a slip of the pen, or meant for another provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    pub name: String,
    /// The documented one that looks like it.
    pub meant: Option<&'static str>,
    provider: &'static str,
}

impl Unknown {
    pub(super) fn new(spec: &Spec, name: &str) -> Self {
        Self { name: name.to_owned(), meant: closest(spec, name), provider: spec.known.name }
    }

    /// Whether a provider of earlier years had a value of this name.
    fn is_of_earlier_years(&self) -> bool {
        let name = self.name.to_ascii_lowercase();
        OF_EARLIER_YEARS.contains(&&*name) || name.starts_with(ALIAS_OF_EARLIER_YEARS)
    }
}

/// Decides about names that a provider does not know, before a link is stored: those of earlier
/// years are remarks, all others are mistakes.
pub(super) fn remarks(unknown: &[Unknown]) -> Result<Vec<String>, LinkError> {
    let mistakes: Vec<&Unknown> =
        unknown.iter().filter(|unknown| !unknown.is_of_earlier_years()).collect();
    if mistakes.is_empty() {
        return Ok(unknown.iter().map(Unknown::to_string).collect());
    }
    let mut texts: Vec<String> =
        mistakes.iter().take(REFUSED_TOLD_MAX).map(|unknown| unknown.to_string()).collect();
    if let Some(further @ 1..) = mistakes.len().checked_sub(REFUSED_TOLD_MAX) {
        texts.push(format!("{further} more are unknown"));
    }
    Err(LinkError::Values(texts.join(". ")))
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, meant, provider } = self;
        let shown: String = name.chars().take(SHOWN_CHARS).collect();
        write!(f, "link value {shown:?} is none of {SCHEME}{provider} and has no effect; ")?;
        match meant {
            Some(meant) => write!(f, "did you mean {meant}?"),
            None => write!(f, "`host inspect {SCHEME}{provider}` lists those there are"),
        }
    }
}

/// Returns the values of a link that a built-in provider does not know; those in files are not
/// looked at.
pub fn unknown_values(spec: &'static Spec, link: &LinkDefinition) -> Vec<Unknown> {
    Values::read(spec, link).map(|values| values.unknown).unwrap_or_default()
}

/// Finds the documented name that is most like `name`, or ends like it.
fn closest(spec: &Spec, name: &str) -> Option<&'static str> {
    let wanted = name.to_ascii_lowercase();
    let names: Vec<(&'static str, &'static str)> = spec
        .values
        .iter()
        .flat_map(|value| {
            value.aliases.iter().chain([&value.name]).map(|known| (value.name, *known))
        })
        .collect();
    let ends_like = names
        .iter()
        .find(|(_, known)| known.strip_suffix(&*wanted).is_some_and(|begin| begin.ends_with('_')));
    if let Some(&(found, _)) = ends_like {
        return Some(found);
    }
    let likeness =
        names.into_iter().map(|(value, known)| (value, strsim::jaro_winkler(known, &wanted)));
    let (found, likeness) = likeness.max_by(|one, other| one.1.total_cmp(&other.1))?;
    (likeness >= LIKE).then_some(found)
}

impl Values {
    /// Sorts the values of a link by the names of `spec`.
    pub fn read(spec: &'static Spec, link: &LinkDefinition) -> Result<Self, LinkError> {
        let mut values = Self {
            single: BTreeMap::new(),
            json: Map::new(),
            unknown: Vec::new(),
            empty: Vec::new(),
        };
        for (key, text) in &link.values {
            let documented = spec.values.iter().find(|value| {
                value.name.eq_ignore_ascii_case(key)
                    || value.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(key))
            });
            match documented {
                // Of a name and another spelling of it the documented one counts.
                Some(value) if !text.trim().is_empty() => {
                    let is_documented = value.name.eq_ignore_ascii_case(key);
                    if is_documented || !values.single.contains_key(value.name) {
                        values.single.insert(value.name, text.trim().to_owned());
                    }
                }
                Some(value) => values.empty.push(value),
                None => values.unknown.push(Unknown::new(spec, key)),
            }
        }
        if let Some(text) = values.single.remove("config_json") {
            values.json = object("config_json", text.as_bytes())?;
        } else if let Some(text) = values.single.remove("config_b64") {
            // Clients pad or do not, by year, and `base64 FILE` breaks lines.
            let bare: String = text.chars().filter(|c| !c.is_whitespace()).collect();
            let bare = bare.trim_end_matches('=');
            let bytes = general_purpose::STANDARD_NO_PAD
                .decode(bare)
                .or_else(|_| general_purpose::URL_SAFE_NO_PAD.decode(bare))
                .map_err(|e| {
                    LinkError::Values(format!("link value config_b64 is no base64: {e}"))
                })?;
            values.json = object("config_b64", &bytes)?;
        }
        for (key, member) in std::mem::take(&mut values.json) {
            let documented = spec
                .values
                .iter()
                .find(|value| value.name == key || value.aliases.contains(&&*key));
            match documented {
                Some(value) if value.name == key => {
                    values.json.insert(key, member);
                }
                Some(value) => {
                    values.json.entry(value.name).or_insert(member);
                }
                None => {
                    values.unknown.push(Unknown::new(spec, &key));
                    values.json.insert(key, member);
                }
            }
        }
        Ok(values)
    }

    /// Returns the remarks about values that the provider does not know, see [`remarks`], and about
    /// those that are empty.
    pub fn oddities(&self) -> Result<Vec<String>, LinkError> {
        let mut odd = remarks(&self.unknown)?;
        odd.extend(self.empty_remarks());
        Ok(odd)
    }

    /// Returns what counts in place of values that are empty: a user may mean nothing by them, and
    /// gets the default.
    pub fn empty_remarks(&self) -> impl Iterator<Item = String> {
        self.empty.iter().map(|value| {
            format!(
                "link value {} is empty and has no effect; the default is {}",
                value.name, value.default
            )
        })
    }

    /// Returns a remark about those of some values that are given although they count only under a
    /// condition.
    pub fn idle(&self, names: &[&str], condition: &str) -> Option<String> {
        let given: Vec<&str> =
            names.iter().copied().filter(|name| self.text(name).is_some()).collect();
        let word = if given.len() == 1 { "value" } else { "values" };
        (!given.is_empty()).then(|| format!("link {word} {}: {condition}", given.join(", ")))
    }

    /// A text: the single value, or the JSON member of that name.
    pub fn text(&self, name: &str) -> Option<String> {
        self.single.get(name).cloned().or_else(|| match self.json.get(name)? {
            Json::String(text) => Some(text.clone()),
            Json::Null => None,
            other => Some(other.to_string()),
        })
    }

    /// The JSON member of a name, for structures.
    pub fn member(&self, name: &str) -> Option<&Json> {
        self.json.get(name).filter(|member| !member.is_null())
    }

    /// `true`, `yes`, `on`, `1` and their opposites.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, LinkError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Ok(Some(true)),
            "false" | "no" | "off" | "0" => Ok(Some(false)),
            _ => Err(wrong(name, &text, "true or false")),
        }
    }

    /// A whole number.
    pub fn number(&self, name: &str) -> Result<Option<u64>, LinkError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| wrong(name, &text, "a whole number"))
    }

    /// Milliseconds, at least one.
    pub fn milliseconds(&self, name: &str) -> Result<Option<Duration>, LinkError> {
        match self.number(name)? {
            Some(0) => Err(wrong(name, "0", "milliseconds, at least 1")),
            Some(long) if long > MILLISECONDS_MAX => {
                Err(wrong(name, &long.to_string(), "milliseconds, at most those of a year"))
            }
            number => Ok(number.map(Duration::from_millis)),
        }
    }

    /// Bytes, with `K`, `M` or `G` for powers of 1024.
    pub fn bytes(&self, name: &str) -> Result<Option<u64>, LinkError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let lower = text.to_ascii_lowercase();
        let bare = lower.strip_suffix('b').unwrap_or(&lower);
        let (digits, factor) = match bare.as_bytes().last() {
            Some(b'k') => (&bare[..bare.len() - 1], 1 << 10),
            Some(b'm') => (&bare[..bare.len() - 1], 1 << 20),
            Some(b'g') => (&bare[..bare.len() - 1], 1 << 30),
            _ => (bare, 1),
        };
        let bytes = digits.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        bytes.map(Some).ok_or_else(|| wrong(name, &text, "bytes such as 1048576, 10M or 1G"))
    }

    /// Texts: separated by commas, or a JSON array.
    pub fn list(&self, name: &str) -> Result<Option<Vec<String>>, LinkError> {
        if let Some(text) = self.single.get(name) {
            if let Ok(Json::Array(items)) = serde_json::from_str(text) {
                return texts(name, &items).map(Some);
            }
            return Ok(Some(items(text)));
        }
        match self.member(name) {
            None => Ok(None),
            Some(Json::Array(items)) => texts(name, items).map(Some),
            Some(Json::String(text)) => Ok(Some(items(text))),
            Some(other) => Err(wrong(name, &other.to_string(), "an array of texts")),
        }
    }
}

/// As many bytes as memory can be asked for.
pub fn within_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// A value that is not what its name asks for. Never used for secrets: it repeats the value.
pub fn wrong(name: &str, value: &str, expected: &str) -> LinkError {
    LinkError::Values(format!("link value {name} is {value:?}, expected {expected}"))
}

/// The items of a text that are separated by commas; empty ones are none.
fn items(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

fn texts(name: &str, items: &[Json]) -> Result<Vec<String>, LinkError> {
    items
        .iter()
        .map(|item| match item.as_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(wrong(name, &item.to_string(), "a text")),
        })
        .collect()
}

fn object(name: &str, json: &[u8]) -> Result<Map<String, Json>, LinkError> {
    match serde_json::from_slice(json) {
        Ok(Json::Object(members)) => Ok(members),
        Ok(_) => Err(LinkError::Values(format!("link value {name} is JSON, but no object"))),
        Err(error) => Err(LinkError::Values(format!("link value {name} is no JSON: {error}"))),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::providers::builtin::messaging;

    /// A link to a provider with these values.
    pub(in crate::providers::builtin) fn link(
        spec: &Spec,
        values: &[(&str, &str)],
    ) -> LinkDefinition {
        LinkDefinition {
            actor_id: "M".into(),
            provider_id: spec.known.public_key.into(),
            link_name: "default".into(),
            contract_id: spec.known.contract_id.into(),
            values: values
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    fn values(pairs: &[(&str, &str)]) -> Result<Values, LinkError> {
        Values::read(&messaging::SPEC, &link(&messaging::SPEC, pairs))
    }

    /// A documented value that has another spelling.
    fn with_alias() -> (&'static str, &'static str) {
        let value = messaging::SPEC.values.iter().find(|value| !value.aliases.is_empty()).unwrap();
        (value.name, value.aliases[0])
    }

    #[test]
    fn names_are_read_in_any_case_and_by_their_other_spellings_also_inside_json() {
        let (name, alias) = with_alias();
        assert_eq!(
            values(&[(&name.to_uppercase(), " a ")]).unwrap().text(name).as_deref(),
            Some("a")
        );
        assert_eq!(values(&[(alias, "b")]).unwrap().text(name).as_deref(), Some("b"));
        let json = format!(r#"{{"{alias}":"c"}}"#);
        let read = values(&[("config_json", &json)]).unwrap();
        assert_eq!((read.text(name).as_deref(), read.unknown.len()), (Some("c"), 0));
        let both = format!(r#"{{"{alias}":"c","{name}":"d"}}"#);
        assert_eq!(values(&[("config_json", &both)]).unwrap().text(name).as_deref(), Some("d"));
        assert_eq!(
            values(&[("config_json", &both), (name, "e")]).unwrap().text(name).as_deref(),
            Some("e")
        );
    }

    #[test]
    fn both_paddings_of_base64_are_read_and_what_is_no_object_is_named() {
        let (name, _) = with_alias();
        for text in [general_purpose::STANDARD.encode(format!(r#"{{"{name}":"x"}}"#)), {
            general_purpose::STANDARD_NO_PAD.encode(format!(r#"{{"{name}":"x"}}"#))
        }] {
            assert_eq!(values(&[("config_b64", &text)]).unwrap().text(name).as_deref(), Some("x"));
        }
        assert!(values(&[("config_json", "[1]")]).unwrap_err().to_string().contains("no object"));
        assert!(values(&[("config_b64", "?")]).unwrap_err().to_string().contains("base64"));
        let lines =
            general_purpose::STANDARD.encode(format!(r#"{{"{name}":"{}"}}"#, "x".repeat(100)));
        let lines: Vec<&str> =
            lines.as_bytes().chunks(76).map(|line| str::from_utf8(line).unwrap()).collect();
        for breaks in ["\n", "\r\n", " \n\t"] {
            let text = lines.join(breaks) + breaks;
            assert_eq!(
                values(&[("config_b64", &text)]).unwrap().text(name).map(|text| text.len()),
                Some(100)
            );
        }
    }

    #[test]
    fn a_list_is_the_same_in_every_form_and_has_no_empty_items() {
        for pair in [
            ("subscription", " a,, b ,"),
            ("subscription", r#"["a", "b"]"#),
            ("config_json", r#"{"subscription": " a,, b ,"}"#),
            ("config_json", r#"{"subscription": ["a", "b"]}"#),
        ] {
            let read = values(&[pair]).unwrap().list("subscription").unwrap().unwrap();
            assert_eq!(read, ["a", "b"], "{pair:?}");
        }
    }

    #[test]
    fn json_of_any_depth_and_any_number_of_values_harms_nobody() {
        let deep = "{\"a\":".repeat(100_000);
        assert!(
            values(&[("config_json", &deep)])
                .unwrap_err()
                .to_string()
                .contains("link value config_json")
        );
        let deep = general_purpose::STANDARD.encode("[".repeat(100_000));
        assert!(
            values(&[("config_b64", &deep)])
                .unwrap_err()
                .to_string()
                .contains("link value config_b64")
        );
        let names: Vec<String> = (0..20_000).map(|number| format!("value{number}")).collect();
        let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
        assert_eq!(values(&many).unwrap().unknown.len(), 20_000);
        let long = "x\r\n".repeat(1000);
        let shown = values(&[(&long, "x")]).unwrap().unknown[0].to_string();
        assert!(shown.len() < 400 && !shown.contains('\n'), "{shown}");
    }

    #[test]
    fn unknown_names_are_mistakes_but_for_those_of_earlier_years() {
        for (names, refused) in [
            (&[][..], None),
            (&["URL", "alias_images", "region"][..], None),
            (&["subscripton"][..], Some("did you mean subscription?")),
            (&["URL", "colour"][..], Some("\"colour\" is none of builtin://messaging")),
        ] {
            let pairs: Vec<(&str, &str)> = names.iter().map(|name| (*name, "x")).collect();
            let told = values(&pairs).unwrap().oddities();
            match refused {
                None => assert_eq!(told.unwrap().len(), names.len(), "{names:?}"),
                Some(text) => {
                    let error = told.unwrap_err().to_string();
                    assert!(error.contains(text) && !error.contains("URL"), "{error}");
                }
            }
        }
        let many: Vec<String> = (0..2000).map(|number| format!("value{number}")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "x")).collect();
        let error = values(&many).unwrap().oddities().unwrap_err().to_string();
        assert!(error.contains("1992 more are unknown") && error.len() < 2000, "{error}");
    }

    #[test]
    fn values_without_an_effect_are_remarked() {
        for (provider, given, part) in [
            ("httpclient", &[("allowed_hosts", "")][..], "allowed_hosts is empty"),
            ("httpclient", &[("proxy", " ")], "proxy is empty"),
            ("httpclient", &[("max_body", "0")], "max_body"),
            ("httpclient", &[("max_body", "1000G")], "max_body"),
            ("messaging", &[("subscription", "")], "the default is none"),
            ("messaging", &[("uri", "")], "uri is empty"),
            ("httpserver", &[("host", "")], "host is empty"),
            ("blobstore", &[("storage", "disk"), ("bucket", "x")], "bucket, storage: "),
            ("blobstore", &[("backend", "fs"), ("bucket", "abc")], "backend=nats"),
            ("blobstore", &[("backend", "nats"), ("root", "/x")], "backend=fs"),
            ("keyvalue", &[("replicas", "3")], "when the bucket is made"),
            ("keyvalue", &[("max_bytes", "1")], "hardly anything fits"),
        ] {
            let spec = super::super::find(&format!("{SCHEME}{provider}")).unwrap().unwrap();
            let told = super::super::check(&link(spec, given)).unwrap().join("\n");
            assert!(told.contains(part), "{provider} {given:?}: {told}");
        }
        for (provider, given) in [
            ("httpclient", &[("allowed_hosts", "a.example"), ("max_body", "10M")][..]),
            ("blobstore", &[("root", "/x")]),
            ("keyvalue", &[("bucket", "abc")]),
        ] {
            let spec = super::super::find(&format!("{SCHEME}{provider}")).unwrap().unwrap();
            assert_eq!(super::super::check(&link(spec, given)), Ok(Vec::new()), "{provider}");
        }
        let endless = values(&[("timeout_ms", "99999999999999")]).unwrap();
        assert!(endless.milliseconds("timeout_ms").unwrap_err().to_string().contains("a year"));
    }

    #[test]
    fn every_built_in_provider_names_the_values_it_does_not_know_and_what_was_meant() {
        for (provider, name, meant) in [
            ("httpserver", "allowed_origins", Some("cors_allowed_origins")),
            ("httpserver", "adress", Some("address")),
            ("httpserver", "colour", None),
            ("httpclient", "allow_hosts", Some("allowed_hosts")),
            ("httpclient", "URL", None),
            ("keyvalue", "URL", None),
            ("keyvalue", "buckets", Some("bucket")),
            ("messaging", "subscripton", Some("subscription")),
            ("blobstore", "alias_images", None),
            ("blobstore", "back_end", Some("backend")),
        ] {
            let spec = super::super::find(&format!("{SCHEME}{provider}")).unwrap().unwrap();
            let json = serde_json::json!({ name: "x" }).to_string();
            for values in [&[(name, "x")][..], &[("config_json", &*json)]] {
                if values[0].0 == "config_json"
                    && !spec.values.iter().any(|value| value.name == "config_json")
                {
                    continue;
                }
                let unknown = Values::read(spec, &link(spec, values)).unwrap().unknown;
                let [one] = unknown.as_slice() else { panic!("{provider} {name}: {unknown:?}") };
                assert_eq!((one.name.as_str(), one.meant), (name, meant), "{provider}");
                assert!(one.to_string().contains(meant.unwrap_or("host inspect")), "{one}");
            }
        }
    }
}

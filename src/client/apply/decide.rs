//! Decides what is to be done for an application: what the lattice has of it, against the file.
//!
//! Compared are normal forms, as somebody wrote them ([`Manifest::as_written`]) and without two
//! annotations. The version is only the name of a content:
//! a file without one gets a version that is made from the content, so that the same file is the
//! same version again. The set says whose file it was.

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::HEXLOWER;

use lattice_protocol::{
    applications::manifest::{APPLIED_SET, Manifest, VERSION},
    errors::Usage,
    identity::digest::sha256,
};

/// The set of what is applied without naming one.
const DEFAULT_SET: &str = "default";
/// Bytes of the content's digest in a version that is made from it.
const DIGEST_BYTES: usize = 6;

/// An application as a file wants it, with its version and its set.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    pub manifest: Manifest,
    /// The version was made from the content.
    is_derived: bool,
    /// Neither the command nor the manifest names the set.
    is_set_usual: bool,
}

/// The lattice's knowledge of an application.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// The version that is to run now.
    pub deployed: Option<String>,
    /// The newest version.
    pub newest: Option<String>,
    /// Those of the stored manifests that matter, as they were written: the deployed, the newest
    /// and the wanted one. `None` for one that cannot be read here; another manager may have stored
    /// it.
    pub manifests: BTreeMap<String, Option<Manifest>>,
}

/// The action to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing: it is deployed like this.
    Leave,
    /// It is stored like this, and is to be deployed.
    Deploy,
    /// It is new.
    Create,
    /// It has another content than before.
    Update,
}

impl Action {
    /// Returns the word for people and for scripts.
    pub fn word(self) -> &'static str {
        match self {
            Self::Leave => "unchanged",
            Self::Deploy => "deploy",
            Self::Create => "create",
            Self::Update => "update",
        }
    }
}

/// The version of a file is stored with another content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherContent;

impl Wanted {
    /// Takes a manifest of a file; `set` is the one that was named on the command line.
    pub fn new(manifest: Manifest, set: Option<&str>) -> Self {
        // The file may be what a host stored.
        let mut manifest = manifest.as_written();
        let annotations = &mut manifest.metadata.annotations;
        if let Some(set) = set {
            annotations.insert(APPLIED_SET.to_owned(), set.to_owned());
        }
        let is_set_usual = !annotations.contains_key(APPLIED_SET);
        annotations.entry(APPLIED_SET.into()).or_insert(DEFAULT_SET.to_owned());
        let is_derived = manifest.version().is_empty();
        if is_derived {
            let version = derived_version(&manifest);
            manifest.set_version(&version);
        }
        Self { manifest, is_derived, is_set_usual }
    }
}

impl Kept {
    /// Returns the manifest that the wanted one takes the place of: the deployed one, or else the
    /// newest.
    pub fn before(&self) -> Option<&Manifest> {
        let version = self.deployed.as_ref().or(self.newest.as_ref())?;
        self.manifests.get(version)?.as_ref()
    }

    fn deployed(&self) -> Option<&Manifest> {
        self.manifests.get(self.deployed.as_ref()?)?.as_ref()
    }
}

/// Returns the set that `--prune` looks at: the only one that is named, by the command or by all
/// manifests. What nobody named belongs to a set with what others did not name.
pub fn set_to_prune<'a>(
    wanted: impl Iterator<Item = &'a Wanted>,
) -> Result<Option<&'a str>, Usage> {
    let mut sets = BTreeSet::new();
    for one in wanted {
        if one.is_set_usual {
            return Err(Usage(format!(
                "--prune takes away what a set has no longer, and no set is named. Apply and prune with the same --set NAME; what was \
                 applied without one is in set {DEFAULT_SET}, with what others applied so, and --set {DEFAULT_SET} prunes it"
            )));
        }
        sets.extend(applied_set(&one.manifest));
    }
    match sets.len() {
        0 | 1 => Ok(sets.pop_first()),
        _ => Err(Usage(format!(
            "--prune looks at one set, and the manifests name several: {}. Apply each by itself, or all with one --set NAME",
            Vec::from_iter(sets).join(", ")
        ))),
    }
}

/// Decides what is to be done.
pub fn decide(kept: &Kept, wanted: &Wanted) -> Result<Action, OtherContent> {
    let version = wanted.manifest.version();
    // The same content is left alone under whatever version it runs, unless it is of another set:
    // that one would take it away.
    let is_same = kept.deployed().is_some_and(|deployed| {
        content(deployed) == content(&wanted.manifest)
            && applied_set(deployed).is_none_or(|set| Some(set) == applied_set(&wanted.manifest))
    });
    if wanted.is_derived && is_same {
        return Ok(Action::Leave);
    }
    match kept.manifests.get(version) {
        None if kept.newest.is_none() => Ok(Action::Create),
        None => Ok(Action::Update),
        Some(Some(stored)) if content(stored) == content(&wanted.manifest) => {
            Ok(match kept.deployed.as_deref() == Some(version) {
                true => Action::Leave,
                false => Action::Deploy,
            })
        }
        Some(_) => Err(OtherContent),
    }
}

/// Returns the set that a manifest was applied with.
pub fn applied_set(manifest: &Manifest) -> Option<&str> {
    manifest.metadata.annotations.get(APPLIED_SET).map(String::as_str)
}

/// Returns what is compared of a manifest.
fn content(manifest: &Manifest) -> Manifest {
    let mut content = manifest.clone();
    content.metadata.annotations.retain(|key, _| key != VERSION && key != APPLIED_SET);
    content
}

/// Makes a version of a content, the set included: a version that is stored is of one set.
fn derived_version(manifest: &Manifest) -> String {
    // A manifest is made of texts, numbers and maps of them, which always encode.
    let normal = serde_json::to_vec(manifest).unwrap_or_default();
    format!("v-{}", HEXLOWER.encode(&sha256(&normal)[..DIGEST_BYTES]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::applications::decode::{Format, decode};

    fn manifest(version: Option<&str>, instances: u32, set: Option<&str>) -> Manifest {
        let text = format!(
            "{{apiVersion: core.oam.dev/v1beta1, kind: Application, metadata: {{name: shop}}, spec: {{components: [\
             {{name: front, type: actor, properties: {{image: r/front:1}}, traits: [{{type: spreadscaler, properties: \
             {{instances: {instances}}}}}]}}]}}}}"
        );
        let mut manifest = decode(text.as_bytes(), Format::Yaml).unwrap().manifest;
        let annotations = [(VERSION, version), (APPLIED_SET, set)];
        let given = annotations.into_iter().filter_map(|(key, value)| Some((key, value?)));
        manifest.metadata.annotations =
            given.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        manifest
    }

    fn wanted(version: Option<&str>, instances: u32) -> Wanted {
        Wanted::new(manifest(version, instances, None), None)
    }

    fn kept(versions: &[(&str, u32, Option<&str>)], deployed: Option<&str>) -> Kept {
        let manifests = versions.iter().map(|(version, instances, set)| {
            (version.to_string(), Some(manifest(Some(version), *instances, *set)))
        });
        Kept {
            deployed: deployed.map(str::to_owned),
            newest: versions.last().map(|(version, ..)| version.to_string()),
            manifests: manifests.collect(),
        }
    }

    #[test]
    fn stored_against_deployed_against_the_file() {
        use Action::{Create, Deploy, Leave, Update};
        let derived = wanted(None, 1).manifest.version().to_owned();
        let (mine, theirs) = (Some("default"), Some("other"));
        for (stored, deployed, file, expected) in [
            // Without a version in the file.
            (&[][..], None, wanted(None, 1), Ok(Create)),
            (&[(&*derived, 1, mine)], None, wanted(None, 1), Ok(Deploy)),
            (&[(&*derived, 1, mine)], Some(&*derived), wanted(None, 1), Ok(Leave)),
            (&[(&*derived, 1, mine)], Some(&*derived), wanted(None, 2), Ok(Update)),
            (&[(&*derived, 1, mine), ("v9", 2, mine)], Some("v9"), wanted(None, 1), Ok(Deploy)),
            (&[("v1", 1, None)], Some("v1"), wanted(None, 1), Ok(Leave)),
            (&[("v1", 1, None)], None, wanted(None, 1), Ok(Update)),
            (&[("v1", 1, theirs)], Some("v1"), wanted(None, 1), Ok(Update)),
            (&[(&*derived, 7, mine)], None, wanted(None, 1), Err(OtherContent)),
            // With one.
            (&[], None, wanted(Some("v1"), 1), Ok(Create)),
            (&[("v1", 1, mine)], None, wanted(Some("v1"), 1), Ok(Deploy)),
            (&[("v1", 1, mine)], Some("v1"), wanted(Some("v1"), 1), Ok(Leave)),
            (&[("v1", 1, None)], Some("v1"), wanted(Some("v1"), 1), Ok(Leave)),
            (&[("v1", 1, mine)], Some("v1"), wanted(Some("v1"), 2), Err(OtherContent)),
            (&[("v1", 1, mine)], None, wanted(Some("v1"), 2), Err(OtherContent)),
            (&[("v1", 1, mine)], Some("v1"), wanted(Some("v2"), 2), Ok(Update)),
            (&[("v1", 1, mine)], Some("v1"), wanted(Some("v2"), 1), Ok(Update)),
            (&[("v1", 1, mine), ("v2", 2, mine)], Some("v2"), wanted(Some("v1"), 1), Ok(Deploy)),
        ] {
            let kept = kept(stored, deployed);
            assert_eq!(decide(&kept, &file), expected, "{stored:?}, {deployed:?}, {file:?}");
        }
    }

    #[test]
    fn a_contract_that_the_file_leaves_out_and_a_host_filled_in_is_no_other_content() {
        let file = |version: &str, properties: &str| {
            let text = format!(
                "{{apiVersion: core.oam.dev/v1beta1, kind: Application, metadata: {{name: shop{version}}}, spec: {{components: [\
                 {{name: web, type: capability, properties: {{{properties}}}}}]}}}}"
            );
            decode(text.as_bytes(), Format::Yaml).unwrap().manifest
        };
        let v1 = ", annotations: {version: v1}";
        for (version, properties, is_same) in [
            ("", "image: r/web:1", true),
            (v1, "image: r/web:1", true),
            (v1, "image: r/web:1, contract: 'acme:other'", false),
            (v1, "image: r/web:2", false),
        ] {
            let wanted = Wanted::new(file(version, properties), None);
            let mut stored = Wanted::new(file(version, "image: r/web:1"), None).manifest;
            assert!(stored.fill_contracts(|_| Some("acme:web".to_owned())).is_empty());
            assert_eq!(Wanted::new(stored.clone(), None).manifest, stored.clone().as_written());
            let expected = if is_same { Ok(Action::Leave) } else { Err(OtherContent) };
            assert_eq!(decide(&of_stored(stored), &wanted), expected, "{properties}");
        }
    }

    /// Returns all that is known where this manifest is stored and deployed.
    fn of_stored(stored: Manifest) -> Kept {
        let version = stored.version().to_owned();
        Kept {
            deployed: Some(version.clone()),
            newest: Some(version.clone()),
            manifests: [(version, Some(stored.as_written()))].into(),
        }
    }

    #[test]
    fn what_an_earlier_release_stored_without_a_contract_is_no_other_content() {
        // The version that was made of it then is that of now.
        for (annotations, version) in [("{}", "v-2a016977ae86"), ("{version: v1}", "v1")] {
            let text = format!(
                "{{apiVersion: core.oam.dev/v1beta1, kind: Application, metadata: {{name: shop, annotations: {annotations}}}, \
                 spec: {{components: [{{name: web, type: capability, properties: {{image: 'builtin://httpserver'}}}}]}}}}"
            );
            let wanted = Wanted::new(decode(text.as_bytes(), Format::Yaml).unwrap().manifest, None);
            assert_eq!(wanted.manifest.version(), version);
            let mut stored = serde_json::to_value(&wanted.manifest).unwrap();
            stored["spec"]["components"][0]["properties"] =
                serde_json::json!({ "image": "builtin://httpserver" });
            let stored = serde_json::from_value(stored).unwrap();
            assert_eq!(decide(&of_stored(stored), &wanted), Ok(Action::Leave), "{annotations}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_another_content() {
        let unread = Kept {
            deployed: Some("v1".into()),
            newest: Some("v1".into()),
            manifests: [("v1".to_owned(), None)].into(),
        };
        assert_eq!(decide(&unread, &wanted(None, 1)), Ok(Action::Update));
        assert_eq!(decide(&unread, &wanted(Some("v1"), 1)), Err(OtherContent));
    }

    #[test]
    fn a_version_is_made_of_all_that_counts() {
        let version = |instances, set| {
            let wanted = Wanted::new(manifest(None, instances, None), set);
            wanted.manifest.version().to_owned()
        };
        let first = version(1, None);
        assert_eq!(first, version(1, Some("default")));
        assert!(first != version(2, None) && first != version(1, Some("other")));
        let (begin, digest) = first.split_at(2);
        assert!(begin == "v-" && digest.len() == 12, "{first}");
        assert!(digest.bytes().all(|digit| digit.is_ascii_hexdigit()));
    }

    #[test]
    fn a_set_on_the_command_line_is_put_before_that_of_the_file() {
        for (of_file, named, expected) in [
            (None, None, "default"),
            (Some("a"), None, "a"),
            (None, Some("b"), "b"),
            (Some("a"), Some("b"), "b"),
        ] {
            let wanted = Wanted::new(manifest(None, 1, of_file), named);
            assert_eq!(applied_set(&wanted.manifest), Some(expected));
        }
    }

    #[test]
    fn the_set_to_prune_is_one_that_somebody_named() {
        let wanted = |of_file, named| Wanted::new(manifest(None, 1, of_file), named);
        for (files, expected) in [
            (vec![], Ok(None)),
            (vec![wanted(None, Some("a")), wanted(Some("b"), Some("a"))], Ok(Some("a"))),
            (vec![wanted(Some("b"), None), wanted(Some("b"), None)], Ok(Some("b"))),
            (vec![wanted(None, Some("default"))], Ok(Some("default"))),
            (vec![wanted(None, None)], Err("--set NAME")),
            (vec![wanted(Some("b"), None), wanted(None, None)], Err("no set is named")),
            (vec![wanted(Some("b"), None), wanted(Some("c"), None)], Err("several: b, c")),
        ] {
            match (set_to_prune(files.iter()), expected) {
                (Ok(set), Ok(expected)) => assert_eq!(set, expected),
                (Err(Usage(told)), Err(part)) => assert!(told.contains(part), "{told}"),
                (found, expected) => panic!("{found:?}, and not {expected:?}"),
            }
        }
    }
}

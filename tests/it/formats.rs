//! The formats of released versions: every later version reads what their hosts wrote, and passes
//! over members that it does not know. The files are in `tests/fixtures/formats`, in a folder for
//! each version, and were written by its hosts (`make` there).
//!
//! A test that fails here means that a lattice of that version could not be upgraded: the reader
//! has to take the old form as well. What is read is written again just so; where that fails, hosts
//! of that version may not read what this one writes, and `docs/src/operating/upgrade.md` has to
//! say so.

use std::{collections::BTreeSet, fs, path::PathBuf};

use lattice_applications::{leases::Lease, targets::Target};
use lattice_base::{
    config::{Config, Sources},
    identity,
};
use lattice_protocol::{
    applications::{manifest::Manifest, rollout::Rollout, stored::Stored},
    desired::{Key as DesiredKey, Signed, Trust, kept::Kept},
    history::{Audit, Batch, Happened, Minute, Said},
    identity::{
        keys::{ClusterKey, Kind},
        signature::VerifyingKey,
    },
    links::{LinkChange, LinkDefinition, Table},
    peers::{
        sealed::{self, Sealed},
        session::CallProof,
        wire::Announcement,
    },
    store::{
        Entry,
        keys::{self, Key},
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::CLUSTER;

/// The lattice that the entries were written for.
const LATTICE: &str = "formats";

/// The files of one version.
struct Version(PathBuf);

/// An entry of a file.
#[derive(Deserialize)]
struct Line {
    key: String,
    value: String,
}

/// Returns every version there are files of.
fn versions() -> Vec<Version> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats");
    let entries = fs::read_dir(folder).expect("the folder is there").map(|entry| entry.unwrap());
    let versions = entries.map(|entry| entry.path()).filter(|path| path.is_dir());
    let versions: Vec<Version> = versions.map(Version).collect();
    assert!(!versions.is_empty(), "no version has files");
    versions
}

impl Version {
    fn read<T: DeserializeOwned>(&self, name: &str) -> T {
        let path = self.0.join(name);
        let text = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn lines(&self, name: &str) -> Vec<Line> {
        self.read(name)
    }
}

fn trust() -> Trust {
    Trust::new(LATTICE, vec![ClusterKey::parse(CLUSTER).unwrap()])
}

/// A value of this type reads, is written again just so, and with a member of a later version it
/// reads as well.
fn reads<T: DeserializeOwned + Serialize>(what: &str, value: &Value) {
    let read: T = serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(serde_json::to_value(&read).unwrap(), *value, "{what} is written in another form");
    let mut later = value.clone();
    let Some(members) = later.as_object_mut() else { return };
    members.insert("of_a_later_version".to_owned(), json!({ "mood": "good" }));
    let read: T = serde_json::from_value(later).unwrap_or_else(|e| panic!("{what}, later: {e}"));
    assert_eq!(serde_json::to_value(&read).unwrap(), *value, "{what}");
}

/// The same for a signed value, whose signature has to count.
fn reads_signed<T: DeserializeOwned + Serialize>(Line { key, value }: &Line) {
    let verified = trust().verify::<T>(key, value.as_bytes());
    let (_, serial) = verified.unwrap_or_else(|error| panic!("{key}: {error}"));
    let signed: Signed = serde_json::from_str(value).unwrap();
    assert_eq!(signed.serial, serial, "{key}");
    reads::<T>(key, &serde_json::from_str(&signed.value).unwrap());
    let mut later: Value = serde_json::from_str(value).unwrap();
    later["of_a_later_version"] = "x".into();
    assert!(trust().verify::<T>(key, later.to_string().as_bytes()).is_ok(), "{key}, later");
}

#[test]
fn the_metadata_of_every_version_reads() {
    for version in versions() {
        let (mut table, mut kinds) = (Table::default(), [0, 0, 0]);
        let lines = version.lines("metadata.json");
        for (number, Line { key, value }) in lines.into_iter().enumerate() {
            let mut later: Value = serde_json::from_str(&value).unwrap();
            later["of_a_later_version"] = "x".into();
            for text in [later.to_string(), value] {
                let entry = Entry { key: key.clone(), value: text.into(), revision: number as u64 };
                table.put(&entry).unwrap_or_else(|rejected| panic!("{key}: {}", rejected.0));
            }
            match Key::parse(&key) {
                Key::Link(_) => kinds[0] += 1,
                Key::Claims(_) => kinds[1] += 1,
                Key::Reference(_) => kinds[2] += 1,
                Key::Unknown => panic!("{key} has no kind"),
            }
        }
        assert!(kinds.iter().all(|count| *count > 0), "{kinds:?} in {}", version.0.display());
        assert_eq!((table.links_len(), table.claims_len()), (kinds[0], kinds[1]));
        let link = table.links().next().expect("a link");
        assert!(table.stored_link(&link.id()).is_some());
        assert_eq!(keys::bucket(LATTICE), "LATTICEDATA_formats", "hosts look for it by this name");
    }
}

#[test]
fn the_desired_state_of_every_version_reads() {
    for version in versions() {
        let lines = version.lines("desired.json");
        for line in &lines {
            match DesiredKey::parse(&line.key) {
                DesiredKey::Kept(_) => reads_signed::<Kept>(line),
                DesiredKey::Application(_) => reads_signed::<Target>(line),
                DesiredKey::Links(_) => reads_signed::<Vec<LinkDefinition>>(line),
                DesiredKey::Rollout(_) => reads_signed::<Rollout>(line),
                DesiredKey::LinkChange(_) => reads_signed::<LinkChange>(line),
                DesiredKey::Lease(_) => {
                    reads::<Lease>(&line.key, &serde_json::from_str(&line.value).unwrap());
                }
                DesiredKey::Renewal(_) => assert!(line.value.is_empty(), "{}", line.key),
                DesiredKey::Unknown => panic!("{} has no kind", line.key),
            }
        }
        for kind in ["KEPT_", "APP_", "LINKS_", "ROLLOUT_", "LINKCHANGE_", "LEASE_"] {
            let has = lines.iter().any(|line| line.key.starts_with(kind));
            assert!(has, "no {kind} in {}", version.0.display());
        }
    }
}

#[test]
fn the_manifests_of_every_version_read() {
    for version in versions() {
        let mut count = 0;
        for Line { key, value } in version.lines("manifests.json") {
            if key == LATTICE {
                assert_eq!(serde_json::from_str::<Vec<String>>(&value).unwrap(), ["shop"]);
                continue;
            }
            let value: Value = serde_json::from_str(&value).unwrap();
            reads::<Stored>(&key, &value);
            let stored: Stored = serde_json::from_value(value).unwrap();
            for name in stored.versions.names() {
                let (_, manifest) = stored.versions.get(Some(name)).expect("it is there");
                reads::<Manifest>(name, manifest);
                count += 1;
            }
        }
        assert!(count > 1, "{}", version.0.display());
    }
}

#[test]
fn the_history_of_every_version_reads() {
    for version in versions() {
        let mut kinds = BTreeSet::new();
        for line in version.lines("history.json") {
            let kind = line.key.split_once('.').expect("a kind and a host").0;
            match kind {
                "EVENTS" => reads_signed::<Batch<Happened>>(&line),
                "AUDIT" => reads_signed::<Batch<Audit>>(&line),
                "FIGURES" => reads_signed::<Batch<Minute>>(&line),
                "LOGS" => reads_signed::<Batch<Said>>(&line),
                _ => panic!("{} has no kind", line.key),
            }
            kinds.insert(kind.to_owned());
        }
        assert_eq!(kinds.len(), 4, "{kinds:?} in {}", version.0.display());
    }
}

#[test]
fn what_hosts_of_every_version_say_to_each_other_reads_and_is_proven() {
    for version in versions() {
        let (mut certified, mut changes) = (0, 0);
        for text in version.read::<Vec<String>>("announcements.json") {
            let mut value: Value = serde_json::from_str(&text).unwrap();
            value.as_object_mut().unwrap().remove("sig").expect("it is signed");
            reads::<Announcement>(&text, &value);
            let said: Announcement = serde_json::from_value(value).unwrap();
            let key = VerifyingKey::parse(&said.host, Kind::Server).unwrap();
            let Sealed::Signed(signed, by) = sealed::split(text.as_bytes()) else {
                panic!("no signature is found in {text}");
            };
            assert!(sealed::is_genuine(signed, &by, LATTICE, &key), "{text}");
            changes += usize::from(said.change.is_some());
            let Some(cert) = said.cert else { continue };
            let issuer = VerifyingKey::parse(&cert.issuer, Kind::Cluster).unwrap();
            assert!(cert.counts(&issuer, LATTICE, &said.host, cert.until), "{text}");
            certified += 1;
        }
        assert!(certified > 0 && changes > 0, "{}", version.0.display());
        for header in version.read::<Vec<String>>("session-headers.json") {
            let proof = CallProof::read(&header);
            assert!(matches!(proof, Some(CallProof::Session(_))), "{header}");
            assert_eq!(proof.unwrap().to_string(), header, "hosts of then read this form only");
        }
    }
}

#[test]
fn a_host_has_the_identity_that_an_earlier_version_made() {
    for version in versions() {
        let dir = TempDir::new().unwrap();
        let mut content: Value = version.read(identity::FILE_NAME);
        content["directory"] = dir.path().canonicalize().unwrap().to_str().into();
        content["of_a_later_version"] = "x".into();
        let path = dir.path().join(identity::FILE_NAME);
        fs::write(&path, content.to_string()).unwrap();
        private(&path);
        let sources = Sources {
            flags: Vec::new(),
            labels: Vec::new(),
            env: Box::new(Vec::<(String, String)>::new()),
            dir: dir.path().to_path_buf(),
            home: Some(dir.path().to_path_buf()),
            context: None,
        };
        let mut config = Config::load(&sources).unwrap().config;
        let taken = identity::take(&mut config, dir.path()).unwrap();
        assert_eq!(taken.path.as_deref(), Some(&*path), "{:?}", taken.warnings);
        let again: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(again["host_key"], content["host_key"]);
    }
}

fn private(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

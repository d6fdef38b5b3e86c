//! An application as it lies in the bucket of manifests (wadm, section 3.1).

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeMap};
use serde_json::Value;

use super::manifest::{LATEST, Manifest};

/// How the names of the buckets of applications begin.
pub const BUCKETS: &str = "wadm_";
/// The bucket of the manifests of all lattices.
pub const BUCKET: &str = "wadm_manifests";

/// The versions of an application. Other managers may have written them, in forms that are not
/// known here; so each is read when it is needed, and an unreadable one disturbs no other.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    #[serde(rename = "manifests")]
    pub versions: Versions,
    /// The version that runs. Hosts believe the signed entry instead; this is for other managers.
    #[serde(default)]
    pub deployed_version: Option<String>,
    /// When versions were put, in Unix milliseconds. An extension of ours, which other managers
    /// drop when they write.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub put_at: BTreeMap<String, u64>,
}

impl Stored {
    /// Adds a version as the newest, put at this time.
    pub fn push(&mut self, manifest: &Manifest, at: u64) -> Result<(), serde_json::Error> {
        self.versions.push(manifest)?;
        self.put_at.insert(manifest.version().to_owned(), at);
        Ok(())
    }

    /// Removes a version; says whether it was there.
    pub fn remove(&mut self, version: &str) -> bool {
        self.put_at.remove(version);
        self.versions.remove(version)
    }
}

/// Manifests by their versions, in the order in which they were put. The order of the members of
/// the JSON is the order of the versions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Versions(Vec<(String, Value)>);

/// Returns the key of an application.
pub fn model_key(lattice: &str, name: &str) -> String {
    format!("{lattice}-{name}")
}

/// Returns the key of the list of a lattice's applications.
pub fn set_key(lattice: &str) -> String {
    lattice.to_owned()
}

impl Versions {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the versions, oldest first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(version, _)| version.as_str())
    }

    /// Returns the version that a request means, with its manifest: the newest, if none is named
    /// or it is `latest`.
    pub fn get(&self, version: Option<&str>) -> Option<(&str, &Value)> {
        let found = match version {
            None | Some(LATEST) => self.0.last(),
            Some(version) => self.0.iter().find(|(of, _)| of == version),
        };
        found.map(|(version, manifest)| (version.as_str(), manifest))
    }

    fn push(&mut self, manifest: &Manifest) -> Result<(), serde_json::Error> {
        self.0.push((manifest.version().to_owned(), serde_json::to_value(manifest)?));
        Ok(())
    }

    fn remove(&mut self, version: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|(of, _)| of != version);
        self.0.len() < before
    }
}

impl Serialize for Versions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (version, manifest) in &self.0 {
            map.serialize_entry(version, manifest)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Versions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(InOrder)
    }
}

struct InOrder;

impl<'de> de::Visitor<'de> for InOrder {
    type Value = Versions;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("manifests by their versions")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Versions, A::Error> {
        let mut versions = Vec::new();
        while let Some(entry) = map.next_entry()? {
            versions.push(entry);
        }
        Ok(Versions(versions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_stay_in_the_order_in_which_they_were_put() {
        let text =
            r#"{"manifests":{"v10":{"a":1},"v2":{"later":"form"},"":{}},"deployed_version":null}"#;
        let mut stored: Stored = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&stored).unwrap(), text);
        assert_eq!(stored.versions.names().collect::<Vec<_>>(), ["v10", "v2", ""]);
        for (asked, found) in [
            (None, Some("")),
            (Some("latest"), Some("")),
            (Some("v2"), Some("v2")),
            (Some("v3"), None),
        ] {
            assert_eq!(stored.versions.get(asked).map(|(version, _)| version), found, "{asked:?}");
        }
        assert!(stored.remove("v2") && !stored.remove("v2"));
        assert_eq!(stored.versions.names().collect::<Vec<_>>(), ["v10", ""]);
    }

    #[test]
    fn a_version_has_its_time_for_as_long_as_it_is_there() {
        let text = r#"{"apiVersion":"a","kind":"k","metadata":{"name":"shop","annotations":{"version":"v1"}},"spec":{"components":[]}}"#;
        let manifest: Manifest = serde_json::from_str(text).unwrap();
        let mut stored = Stored::default();
        stored.push(&manifest, 7).unwrap();
        let text = serde_json::to_string(&stored).unwrap();
        assert!(text.ends_with(r#""put_at":{"v1":7}}"#), "{text}");
        assert_eq!(serde_json::from_str::<Stored>(&text).unwrap(), stored);
        stored.remove("v1");
        assert_eq!(stored, Stored::default());
    }
}

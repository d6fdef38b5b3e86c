//! Reads the manifests that are to be applied, and finds everything that is wrong with them before
//! anything is sent.

use std::path::Path;

use crate::manifests;
use lattice_client::apply::documents::{Found, Given};

/// Reads everything that the words of a command mean.
pub async fn read_all(words: &[String], set: Option<&str>) -> Found {
    let mut found = Found::default();
    for word in words {
        let path = Path::new(word);
        if word == "-" || manifests::is_address(word) || !path.is_dir() {
            found.take_text(manifests::read(word).await, Given::ByName, set);
            continue;
        }
        match manifests::files_of(path) {
            Ok(files) => files.iter().for_each(|file| {
                found.take_text(manifests::from_file(file), Given::InDirectory, set);
            }),
            Err(error) => found.mistakes.push(format!("{error:#}")),
        }
    }
    if found.applications.is_empty() && found.mistakes.is_empty() {
        found.mistakes.push(format!("no application is in {}", words.join(", ")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn application(name: &str) -> String {
        format!(
            "apiVersion: core.oam.dev/v1beta1\nkind: Application\nmetadata: {{name: {name}}}\nspec: {{components: []}}\n"
        )
    }

    async fn read(files: &[(&str, String)], words: &[&str]) -> Found {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let words: Vec<String> =
            words.iter().map(|word| dir.path().join(word).display().to_string()).collect();
        let mut found = read_all(&words, None).await;
        let base = format!("{}/", dir.path().display());
        for line in found.mistakes.iter_mut().chain(&mut found.notes) {
            *line = line.replace(&base, "");
        }
        found
    }

    #[tokio::test]
    async fn all_mistakes_of_all_files_are_told_together_with_their_places() {
        let twice = format!("{}---\n{}", application("shop"), application("pets"));
        let bad = format!(
            "{}---\napiVersion: core.oam.dev/v1beta1\nkind: Application\nmetadata: {{name: x}}\nspec:\n  components:\n    \
             - {{name: a, type: actor, properties: {{}}}}\n    - {{name: b, type: capability, properties: {{}}}}\n",
            application("shop")
        );
        let files = [
            ("first.yaml", twice),
            ("bad.yaml", bad),
            (
                "broken.yaml",
                "kind: Application\napiVersion: core.oam.dev/v1beta1\nmetadata: [\n".to_owned(),
            ),
            ("named.json", application("a.b")),
            ("other.yaml", "apiVersion: v1\nkind: ConfigMap\n".to_owned()),
        ];
        let words =
            ["first.yaml", "bad.yaml", "broken.yaml", "gone.yaml", "named.json", "other.yaml"];
        let found = read(&files, &words).await;
        let told = found.mistakes.join("\n");
        for part in [
            "bad.yaml, document 1: application shop is in first.yaml, document 1 too",
            "bad.yaml, document 2: component \"a\": `image` is missing",
            "bad.yaml, document 2: component \"b\": `image` is missing",
            "broken.yaml, document 1: Unable to parse manifest",
            "read the manifest gone.yaml",
            "named.json, document 1: Unable to parse manifest",
            "other.yaml, document 1: a ConfigMap is no Application",
        ] {
            assert!(told.contains(part), "{part} in {told}");
        }
    }

    #[tokio::test]
    async fn what_else_is_in_a_directory_is_left_out() {
        let files = [
            ("shop.yaml", application("shop")),
            ("host_config.json", "{\"lattice\": \"x\"}".to_owned()),
            ("service.yml", "apiVersion: v1\nkind: Service\n".to_owned()),
        ];
        let found = read(&files, &["."]).await;
        assert!(found.mistakes.is_empty(), "{:?}", found.mistakes);
        assert_eq!(found.applications.len(), 1);
        let told = found.notes.join("\n");
        assert!(
            told.contains("neither kind nor apiVersion") && told.contains("a Service"),
            "{told}"
        );
        let nothing = read(&[("a.md", String::new())], &["."]).await;
        assert!(nothing.mistakes[0].starts_with("no application is in "), "{nothing:?}");
    }

    #[tokio::test]
    async fn a_manifest_in_a_directory_that_cannot_be_read_is_not_left_out() {
        let headless = application("shop").lines().skip(2).collect::<Vec<_>>().join("\n");
        for (name, text) in [
            ("headless.yaml", headless),
            ("empty.yaml", String::new()),
            ("broken.yaml", "kind: [".to_owned()),
            ("misspelt.yaml", application("shop").replace("kind", "knd")),
        ] {
            let files = [("fine.yaml", application("pets")), (name, text)];
            let found = read(&files, &["."]).await;
            assert!(found.mistakes.iter().any(|told| told.contains(name)), "{name}: {found:?}");
        }
    }

    #[tokio::test]
    async fn a_mistake_has_the_line_of_its_file() {
        let text =
            format!("{}---\nkind: Application\nmetadata: {{name: [}}\n", application("shop"));
        let found = read(&[("two.yaml", text)], &["two.yaml"]).await;
        let told = found.mistakes.join("\n");
        assert!(told.contains("document 2") && told.contains("line 7"), "{told}");
    }
}

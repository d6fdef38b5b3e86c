//! Compares manifests for people.

use std::time::Duration;

use similar::{Algorithm, TextDiff};

use super::documents::yaml;
use lattice_protocol::applications::manifest::Manifest;

/// Lines around a difference that are shown with it.
const CONTEXT: usize = 3;
/// How long the shortest difference is looked for; of large manifests that have little in common a
/// longer one is shown.
const PATIENCE: Duration = Duration::from_millis(200);

/// Returns the difference of two manifests, in lines.
pub fn difference(before: Option<&Manifest>, after: &Manifest) -> String {
    let old = before.map(lines_of).unwrap_or_default();
    let new = lines_of(after);
    let mut diff = TextDiff::configure();
    let diff = diff.algorithm(Algorithm::default()).timeout(PATIENCE).diff_lines(&*old, &*new);
    diff.unified_diff().context_radius(CONTEXT).to_string()
}

fn lines_of(manifest: &Manifest) -> String {
    // Every manifest that was read can be written.
    yaml(manifest).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::applications::decode::{Format, decode};

    fn manifest(instances: u32) -> Manifest {
        let text = format!(
            "{{apiVersion: core.oam.dev/v1beta1, kind: Application, metadata: {{name: shop}}, spec: {{components: [\
             {{name: front, type: actor, properties: {{image: r/front:1}}, traits: [{{type: spreadscaler, properties: \
             {{instances: {instances}}}}}]}}]}}}}"
        );
        decode(text.as_bytes(), Format::Yaml).unwrap().manifest
    }

    #[test]
    fn a_difference_has_the_lines_that_changed() {
        let diff = difference(Some(&manifest(1)), &manifest(2));
        let changed: Vec<&str> =
            diff.lines().filter(|line| line.starts_with(['+', '-'])).map(str::trim_end).collect();
        assert!(
            matches!(changed[..], [old, new]
            if old.ends_with("instances: 1") && new.ends_with("instances: 2")),
            "{diff}"
        );
        let new = difference(None, &manifest(1));
        assert!(new.contains("+kind: Application") && !new.contains("\n-"), "{new}");
        assert_eq!(difference(Some(&manifest(1)), &manifest(1)), "");
    }
}

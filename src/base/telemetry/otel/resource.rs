//! The attributes of this host, which everything that it tells has.

use std::borrow::Cow;

use opentelemetry::KeyValue;
use opentelemetry_sdk::{Resource, resource::TelemetryResourceDetector};
use percent_encoding::percent_decode_str;

use super::{
    About, SCOPE, VERSION,
    settings::{self, Variables},
};

/// Further attributes, as pairs.
pub(super) const ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";
const SERVICE_NAME: &str = "service.name";

/// Returns the attributes of this host. Those that the variables give win. The SDK would read them
/// as well, but not decode them.
pub fn resource(about: &About<'_>, variables: &Variables) -> Resource {
    let own = [
        (SERVICE_NAME, SCOPE),
        ("service.version", VERSION),
        ("service.instance.id", about.host_id),
        ("lattice.name", about.lattice),
    ];
    let given = variables.raw(ATTRIBUTES).unwrap_or_default();
    let name = variables.get(settings::SERVICE_NAME);
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(own.map(|(name, value)| KeyValue::new(name, value.to_owned())))
        .with_attributes(given.split(',').filter_map(pair))
        .with_attributes(name.map(|name| KeyValue::new(SERVICE_NAME, name.to_owned())))
        .build()
}

/// Reads `NAME=VALUE`; `None` if it is none.
pub fn pair(text: &str) -> Option<KeyValue> {
    let (name, value) = text.split_once('=')?;
    let [name, value] = [name, value].map(|text| decoded(text.trim()).into_owned());
    (!name.is_empty()).then(|| KeyValue::new(name, value))
}

/// Decodes a text of a list; one that cannot be decoded is taken as it is.
pub fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8().unwrap_or(Cow::Borrowed(text))
}

#[cfg(test)]
mod tests {
    use opentelemetry::Key;

    use super::*;
    use crate::telemetry::otel::settings::tests::variables;

    #[test]
    fn the_variables_win_and_are_decoded() {
        let about = About { host_id: "NHOST", lattice: "default" };
        for (pairs, expected) in [
            (&[][..], &[("service.name", SCOPE), ("service.instance.id", "NHOST")][..]),
            (
                &[(ATTRIBUTES, "team=a%2Cb, x%3Dy = c=d ,broken,service.instance.id=7")],
                &[("team", "a,b"), ("x=y", "c=d"), ("service.instance.id", "7")],
            ),
            (&[(ATTRIBUTES, "team=%FF%zz")], &[("team", "%FF%zz")]),
            (&[(ATTRIBUTES, "service.name=a")], &[("service.name", "a")]),
            (
                &[(ATTRIBUTES, "service.name=a"), ("OTEL_SERVICE_NAME", "b%20")],
                &[("service.name", "b%20"), ("lattice.name", "default")],
            ),
        ] {
            let resource = resource(&about, &variables(pairs));
            for (name, value) in expected {
                let found = resource.get(&Key::new(*name)).map(|value| value.to_string());
                assert_eq!(found.as_deref(), Some(*value), "{pairs:?} {name}");
            }
            assert!(resource.get(&Key::new("telemetry.sdk.name")).is_some());
            assert_eq!(resource.get(&Key::new("broken")), None);
        }
    }
}

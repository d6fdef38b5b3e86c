//! Variables of the process environment, without those that others set for purposes of their own.
//!
//! Kubernetes and `docker --link` tell every process about other services in variables that are
//! made of the service's name: beside a service called `nats` there are
//! `NATS_PORT=tcp://10.43.0.10:4222`, `NATS_SERVICE_HOST`, `NATS_PORT_4222_TCP_ADDR` and more. Some
//! of these are names of ours. They are known by the form of the value, which no setting of ours
//! has, and all of that service are left out with a warning.

use std::collections::BTreeMap;

use super::{
    origin::Origin,
    settings::{self, ENV_HOST_LABEL, ENV_LABEL},
    sources::{Environment, Variable},
};

/// The bare name, which any platform may use for the port of a web page.
const PORT: &str = "PORT";

/// Returns what is set and meant for us. An empty variable counts as not set: it is what scripts
/// pass on when they have nothing to say.
pub(super) fn read(
    env: &dyn Environment,
    warnings: &mut Vec<String>,
) -> BTreeMap<String, Variable> {
    let all: BTreeMap<String, String> =
        env.vars().into_iter().filter(|(_, value)| !value.trim().is_empty()).collect();
    let services: Vec<&str> = all
        .iter()
        .filter(|(_, value)| is_service_link(value))
        .filter_map(|(name, _)| name.strip_suffix("_PORT"))
        .collect();
    let mut read = BTreeMap::new();
    for (name, value) in &all {
        let is_foreign = is_service_link(value)
            || services.iter().any(|service| is_of_service(name, service))
            || (name == PORT && value.trim().parse::<u64>().is_err());
        if !is_foreign {
            let origin = Origin::Env(name.clone());
            read.insert(name.clone(), Variable { value: value.clone(), origin });
        } else if is_ours(name) {
            warnings.push(format!(
                "environment variable {name} is ignored: its value {value:?} is what a platform says of another service, not a \
                 setting of this host"
            ));
        }
    }
    read
}

/// Whether this is how platforms write the address of a service, `tcp://10.43.0.10:4222`.
fn is_service_link(value: &str) -> bool {
    let Some((scheme, address)) = value.trim().split_once("://") else { return false };
    let is_known = ["tcp", "udp", "sctp"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    is_known && !address.is_empty()
}

/// Whether platforms make this name for a service called so.
fn is_of_service(name: &str, service: &str) -> bool {
    let rest = name.strip_prefix(service).and_then(|rest| rest.strip_prefix('_'));
    rest.is_some_and(|rest| {
        let is_port = rest
            .strip_prefix("PORT_")
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        is_port
            || rest == "SERVICE_HOST"
            || rest == "SERVICE_PORT"
            || rest.starts_with("SERVICE_PORT_")
    })
}

/// Whether a variable of this name would be a setting or a label.
pub fn is_ours(name: &str) -> bool {
    let is_label = name.starts_with(ENV_HOST_LABEL) || name.starts_with(ENV_LABEL);
    is_label || settings::all().any(|setting| setting.is_env(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(vars: &[(&str, &str)]) -> (Vec<String>, usize) {
        let vars: Vec<(String, String)> =
            vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut warnings = Vec::new();
        (read(&vars, &mut warnings).into_keys().collect(), warnings.len())
    }

    #[test]
    fn what_platforms_say_of_other_services_is_left_out_and_told_where_the_name_is_ours() {
        for (vars, kept, warned) in [
            (&[("NATS_PORT", "tcp://10.43.0.10:4222")][..], &[][..], 1),
            (&[("PORT", "tcp://10.0.0.1:80")], &[], 1),
            (&[("PORT", r"\\.\pipe\node")], &[], 1),
            (&[("PORT", "4001")], &["PORT"], 0),
            (&[("WASMCLOUD_DASHBOARD_PORT", "tcp://10.0.0.1:4000")], &[], 1),
            (&[("WASMCLOUD_CTL_PORT", "udp://10.0.0.1:4000")], &[], 1),
            (&[("NATS_HOST", "tcp://10.0.0.1:4222")], &[], 1),
            (&[("NATS_HOST", "tls://nats.example")], &["NATS_HOST"], 0),
            // A service called `host`: without the filter these are labels.
            (
                &[
                    ("HOST_PORT", "tcp://10.0.0.1:80"),
                    ("HOST_PORT_80_TCP", "tcp://10.0.0.1:80"),
                    ("HOST_PORT_80_TCP_ADDR", "10.0.0.1"),
                    ("HOST_SERVICE_HOST", "10.0.0.1"),
                    ("HOST_SERVICE_PORT_HTTP", "80"),
                    ("HOST_machine", "second"),
                ],
                &["HOST_machine"],
                5,
            ),
            // Names of nobody are nobody's business.
            (&[("REDIS_PORT", "tcp://10.0.0.1:6379"), ("REDIS_SERVICE_HOST", "10.0.0.1")], &[], 0),
            // Without such a port they are what somebody set.
            (&[("HOST_SERVICE_HOST", "a")], &["HOST_SERVICE_HOST"], 0),
            (&[("NATS_PORT", "422x")], &["NATS_PORT"], 0),
            (&[("WASMCLOUD_JS_DOMAIN", " ")], &[], 0),
        ] {
            let kept: Vec<String> = kept.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(of(vars), (kept, warned), "{vars:?}");
        }
    }
}

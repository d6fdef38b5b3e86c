//! The data that a provider process receives: one line of base64 on its standard input, holding a
//! JSON object.
//!
//! The object is the union of what the libraries of every year want (protocol, section 9.3). Some
//! members are there because one library ends its process without them (`otel_config`,
//! `env_values`), some are left out because one cannot stand them empty (`config_json`). With
//! `log_level` one reads no `RUST_LOG` and the other one does, without it the other way around, so
//! it is there where both then do the same ([`log_level`]).
//!
//! The object holds the cluster seed. Printing [`HostData`] shows neither that nor any link value.

use std::{collections::BTreeMap, fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Serialize, Serializer};

use super::masks::Masks;
use lattice_base::{
    config::{Environment, Secret},
    telemetry::otel::settings::Variables,
};
use lattice_protocol::{
    identity::keys::{HostId, LatticeName, LinkName, ProviderId},
    links::LinkDefinition,
};

/// The host data of one provider process.
#[derive(Clone, Serialize)]
pub struct HostData {
    pub host_id: HostId,
    #[serde(rename = "lattice_rpc_prefix")]
    pub lattice: LatticeName,
    pub link_name: LinkName,
    /// Empty if the login needs none; as the next two from [`super::access`].
    #[serde(serialize_with = "exposed")]
    pub lattice_rpc_user_jwt: Secret,
    #[serde(serialize_with = "exposed")]
    pub lattice_rpc_user_seed: Secret,
    #[serde(serialize_with = "exposed")]
    pub lattice_rpc_url: Secret,
    #[serde(rename = "provider_key")]
    pub provider_id: ProviderId,
    /// The cluster seed, with which the process signs its calls.
    #[serde(rename = "invocation_seed", serialize_with = "exposed")]
    pub cluster_seed: Secret,
    /// Nobody ever filled it, every library wants it.
    pub env_values: BTreeMap<String, String>,
    pub instance_id: String,
    /// The links of this provider and link name.
    #[serde(rename = "link_definitions", serialize_with = "links")]
    pub links: Vec<Arc<LinkDefinition>>,
    /// Our own cluster key is among them.
    pub cluster_issuers: Vec<String>,
    /// The configuration given with the command that started it.
    #[serde(
        rename = "config_json",
        skip_serializing_if = "Option::is_none",
        serialize_with = "exposed_if_any"
    )]
    pub configuration: Option<Secret>,
    pub default_rpc_timeout_ms: u64,
    pub structured_logging: bool,
    /// From [`log_level`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<&'static str>,
    pub otel_config: OtelConfig,
}

/// Returns the level for a provider where `RUST_LOG` is just a level. The library of 2023 then logs
/// at it as without the member, and that of 2024 only with it. What else `RUST_LOG` may hold,
/// levels of single modules, the first reads only without the member.
pub fn log_level(environment: &dyn Environment) -> Option<&'static str> {
    const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
    let wanted = environment.var("RUST_LOG")?;
    LEVELS.into_iter().find(|level| wanted.trim().eq_ignore_ascii_case(level))
}

/// Where traces go, for the library of 2024, which reads no variables: over HTTP or nowhere. The
/// members must be there, and be null rather than empty.
#[derive(Clone, Debug, Default, Serialize)]
pub struct OtelConfig {
    traces_exporter: Option<&'static str>,
    /// With the path.
    exporter_otlp_endpoint: Option<String>,
}

impl OtelConfig {
    /// The settings that the variables of the host make.
    pub fn of(variables: &Variables) -> Self {
        let exporter_otlp_endpoint = variables.traces_url();
        let traces_exporter = exporter_otlp_endpoint.as_ref().map(|_| "otlp");
        Self { traces_exporter, exporter_otlp_endpoint }
    }
}

impl HostData {
    /// The line for the standard input, with its line break.
    pub fn line(&self) -> Secret {
        // Texts, numbers and maps with text keys always make JSON.
        let json = serde_json::to_vec(self).unwrap_or_default();
        Secret::new(STANDARD.encode(json) + "\n")
    }

    /// Everything in it that must not be seen in the process's output.
    pub fn masks(&self) -> Masks {
        let masks = Masks::default();
        for secret in [
            &self.cluster_seed,
            &self.lattice_rpc_user_seed,
            &self.lattice_rpc_user_jwt,
            &self.line(),
        ] {
            masks.add(secret.expose());
        }
        masks.add_url(self.lattice_rpc_url.expose());
        for link in &self.links {
            masks.add_values(&link.values);
        }
        if let Some(configuration) = &self.configuration {
            masks.add_configuration(configuration.expose());
        }
        masks
    }
}

impl fmt::Debug for HostData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostData")
            .field("host_id", &self.host_id)
            .field("lattice", &self.lattice)
            .field("provider_id", &self.provider_id)
            .field("link_name", &self.link_name)
            .field("instance_id", &self.instance_id)
            .field("links", &self.links.len())
            .finish_non_exhaustive()
    }
}

fn exposed<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose())
}

fn exposed_if_any<S: Serializer>(
    secret: &Option<Secret>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(Secret::expose).serialize(serializer)
}

fn links<S: Serializer>(links: &[Arc<LinkDefinition>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(links.iter().map(Arc::as_ref))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::identity::samples::{ACTOR, PROVIDER};

    const CLUSTER_SEED: &str = "SCAACAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAKOFQ";

    fn sample() -> HostData {
        HostData {
            host_id: HostId::parse("NCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJWVF")
                .unwrap(),
            lattice: LatticeName::parse("default").unwrap(),
            link_name: LinkName::parse("default").unwrap(),
            lattice_rpc_user_jwt: Secret::new(""),
            lattice_rpc_user_seed: Secret::new(""),
            lattice_rpc_url: Secret::new("nats://127.0.0.1:4222"),
            provider_id: ProviderId::parse(PROVIDER.public).unwrap(),
            cluster_seed: Secret::new(CLUSTER_SEED),
            env_values: BTreeMap::new(),
            instance_id: "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b".into(),
            links: vec![Arc::new(LinkDefinition {
                actor_id: ACTOR.public.into(),
                provider_id: PROVIDER.public.into(),
                link_name: "default".into(),
                contract_id: "wasmcloud:httpserver".into(),
                values: BTreeMap::from([("address".into(), "0.0.0.0:8081".into())]),
            })],
            cluster_issuers: vec![
                "CCFIRY65OQE7DFP5KLNS2PF2LVZMUZYJX4OZIEQ36N2IQANUB5XVZKMI".into(),
            ],
            configuration: None,
            default_rpc_timeout_ms: 2000,
            structured_logging: false,
            log_level: None,
            otel_config: OtelConfig::default(),
        }
    }

    fn json(data: &HostData) -> String {
        let line = data.line();
        let base64 = line.expose().strip_suffix('\n').expect("one line");
        String::from_utf8(STANDARD.decode(base64).expect("padded standard base64")).unwrap()
    }

    #[test]
    fn the_object_is_as_every_library_knows_it() {
        // The members and their order are those that a host of 2024 was seen to send.
        let expected = concat!(
            r#"{"host_id":"NCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJWVF","lattice_rpc_prefix":"default","#,
            r#""link_name":"default","lattice_rpc_user_jwt":"","lattice_rpc_user_seed":"","#,
            r#""lattice_rpc_url":"nats://127.0.0.1:4222","#,
            r#""provider_key":"VDFJHLAXAUMHA4OWPOB4P7YO72AQR2HMIUYFOXLXE2DZGM633K7HYIF3","#,
            r#""invocation_seed":"SCAACAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAKOFQ","env_values":{},"#,
            r#""instance_id":"0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b","#,
            r#""link_definitions":[{"actor_id":"MDWUSKGGFDI4FRXK5EBTRECZSVQSSWJHHJOGH6JWG3AUMFFMQ435C2JZ","#,
            r#""provider_id":"VDFJHLAXAUMHA4OWPOB4P7YO72AQR2HMIUYFOXLXE2DZGM633K7HYIF3","link_name":"default","#,
            r#""contract_id":"wasmcloud:httpserver","values":{"address":"0.0.0.0:8081"}}],"#,
            r#""cluster_issuers":["CCFIRY65OQE7DFP5KLNS2PF2LVZMUZYJX4OZIEQ36N2IQANUB5XVZKMI"],"#,
            r#""default_rpc_timeout_ms":2000,"structured_logging":false,"#,
            r#""otel_config":{"traces_exporter":null,"exporter_otlp_endpoint":null}}"#
        );
        assert_eq!(json(&sample()), expected);
    }

    #[test]
    fn the_libraries_of_both_years_read_it() {
        let mut data = sample();
        data.configuration = Some(Secret::new(r#"{"a":1}"#));
        let old: wasmbus_rpc::core::HostData = serde_json::from_str(&json(&data)).unwrap();
        assert_eq!(old.invocation_seed, CLUSTER_SEED);
        assert_eq!(old.link_definitions[0].values["address"], "0.0.0.0:8081");
        assert_eq!(
            (old.default_rpc_timeout_ms, old.config_json.as_deref()),
            (Some(2000), Some(r#"{"a":1}"#))
        );
        assert_eq!(old.log_level, None);
        for level in ["error", "warn", "info", "debug", "trace"] {
            let written = level.to_uppercase();
            data.log_level = log_level(&Vec::from([("RUST_LOG".to_owned(), written)]));
            let json = json(&data);
            let old: wasmbus_rpc::core::HostData = serde_json::from_str(&json).unwrap();
            assert_eq!(old.log_level.as_deref(), Some(level));
            let new: wasmcloud_provider_sdk::core::HostData = serde_json::from_str(&json).unwrap();
            let read = serde_json::to_value(new.log_level).unwrap();
            assert_eq!(read.as_str(), Some(level));
        }
        let new: wasmcloud_provider_sdk::core::HostData =
            serde_json::from_str(&json(&data)).unwrap();
        assert_eq!(new.invocation_seed, CLUSTER_SEED);
        assert_eq!(new.link_definitions[0].actor_id, ACTOR.public);
        assert_eq!(
            (new.config_json.as_deref(), new.otel_config.traces_exporter),
            (Some(r#"{"a":1}"#), None)
        );
    }

    #[test]
    fn only_a_level_by_itself_is_told() {
        for (rust_log, expected) in [
            (Some("Debug"), Some("debug")),
            (Some(" warn "), Some("warn")),
            (Some("info,my_provider=trace"), None),
            (Some("my_provider"), None),
            // Which the library of 2024 could not read, and ended.
            (Some("off"), None),
            (Some("3"), None),
            (Some(""), None),
            (None, None),
        ] {
            let variables = rust_log.map(|text| ("RUST_LOG".to_owned(), text.to_owned()));
            let variables: Vec<_> = variables.into_iter().collect();
            assert_eq!(log_level(&variables), expected, "{rust_log:?}");
        }
    }

    #[test]
    fn traces_go_where_those_of_the_host_go() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), "http://c:4318".to_owned());
        let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL".to_owned(), "grpc".to_owned());
        for (variables, expected) in [
            (vec![], r#"{"traces_exporter":null,"exporter_otlp_endpoint":null}"#),
            (
                vec![endpoint.clone()],
                r#"{"traces_exporter":"otlp","exporter_otlp_endpoint":"http://c:4318/v1/traces"}"#,
            ),
            (vec![endpoint, grpc], r#"{"traces_exporter":null,"exporter_otlp_endpoint":null}"#),
        ] {
            let config = OtelConfig::of(&Variables::of(&variables));
            assert_eq!(serde_json::to_string(&config).unwrap(), expected);
        }
    }

    #[test]
    fn no_secret_is_printed_by_us_and_all_are_masked_when_the_process_prints_them() {
        let mut data = sample();
        data.lattice_rpc_user_jwt = Secret::new("eyJ.user.jwt");
        data.lattice_rpc_user_seed = Secret::new("SUAUSERSEED");
        data.lattice_rpc_url = Secret::new("nats://me:hunter2@nats:4222");
        data.configuration = Some(Secret::new(r#"{"api_token":"t0k3n"}"#));
        let secrets = [CLUSTER_SEED, "eyJ.user.jwt", "SUAUSERSEED", "hunter2", "t0k3n"];
        let shown = format!("{data:?}");
        let masks = data.masks();
        // The libraries print all of it when they cannot read it.
        let printed = masks.apply(&json(&data)).into_owned();
        for secret in secrets {
            assert!(!shown.contains(secret), "{shown}");
            assert!(!printed.contains(secret), "{printed}");
        }
        assert!(printed.contains("0.0.0.0:8081"));
        let line = data.line();
        assert!(
            !masks.apply(&format!("got {}", line.expose().trim())).contains(&line.expose()[..80])
        );
    }
}

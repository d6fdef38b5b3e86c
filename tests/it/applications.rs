//! Applications: hosts answer the API of the deployment manager.
//!
//! The first part is the tests that crate `wadm` 0.10.0 ships (`tests/api_model_operations.rs`),
//! with its manifests, against hosts of ours: of each the assertions, in its order. Its package
//! depends on libraries of those years; so replies are read by [`theirs`], which has the members
//! and the words of its types and no others.

use std::collections::HashMap;

use async_nats::{HeaderMap, Subscriber};
use futures::StreamExt as _;
use lattice_protocol::applications::request::Request;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::harness::{Server, TestHost, client, eventually, fixtures::of_crate, host};

use theirs::{
    DeleteModelResponse, DeleteResult, DeployModelResponse, DeployResult, GetModelResponse,
    GetResult, ModelSummary, PutModelResponse, PutResult, StatusResponse, StatusResult, StatusType,
    VersionResponse,
};

/// The types of `wadm::server`, as its clients decode with them.
mod theirs {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::Value;

    #[derive(Debug, Deserialize)]
    pub struct GetModelResponse {
        pub result: GetResult,
        pub manifest: Option<Manifest>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub struct Manifest {
        pub api_version: String,
        pub kind: String,
        pub metadata: Metadata,
        pub spec: Specification,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    pub struct Metadata {
        pub name: String,
        pub annotations: BTreeMap<String, String>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    pub struct Specification {
        pub components: Vec<Component>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    pub struct Component {
        pub name: String,
        #[serde(flatten)]
        pub properties: Properties,
        pub traits: Option<Vec<Value>>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(tag = "type")]
    pub enum Properties {
        #[serde(rename = "actor")]
        Actor { properties: Actor },
        #[serde(rename = "capability")]
        Capability { properties: Capability },
    }

    #[derive(Debug, PartialEq, Deserialize)]
    pub struct Actor {
        pub image: String,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    pub struct Capability {
        pub image: String,
        pub contract: String,
        pub link_name: Option<String>,
        pub config: Option<Value>,
    }

    #[derive(Debug, PartialEq, Eq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum GetResult {
        Error,
        Success,
        NotFound,
    }

    #[derive(Debug, Deserialize)]
    pub struct PutModelResponse {
        pub result: PutResult,
        #[serde(default)]
        pub total_versions: usize,
        #[serde(default)]
        pub current_version: String,
        #[serde(default)]
        pub message: String,
    }

    #[derive(Debug, PartialEq, Eq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum PutResult {
        Error,
        Created,
        NewVersion,
    }

    #[derive(Debug, Deserialize)]
    pub struct ModelSummary {
        pub name: String,
        pub version: String,
        pub description: Option<String>,
        pub deployed_version: Option<String>,
        pub status: StatusType,
        pub status_message: Option<String>,
    }

    #[derive(Debug, Deserialize)]
    pub struct VersionResponse {
        pub result: GetResult,
        pub versions: Vec<VersionInfo>,
    }

    #[derive(Debug, Deserialize)]
    pub struct VersionInfo {
        pub version: String,
        pub deployed: bool,
    }

    #[derive(Debug, Deserialize)]
    pub struct DeleteModelResponse {
        pub result: DeleteResult,
        #[serde(default)]
        pub message: String,
        #[serde(default)]
        pub undeploy: bool,
    }

    #[derive(Debug, PartialEq, Eq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum DeleteResult {
        Deleted,
        Error,
        Noop,
    }

    #[derive(Debug, Deserialize)]
    pub struct DeployModelResponse {
        pub result: DeployResult,
        #[serde(default)]
        pub message: String,
    }

    #[derive(Debug, PartialEq, Eq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum DeployResult {
        Error,
        Acknowledged,
        NotFound,
    }

    #[derive(Debug, Deserialize)]
    pub struct StatusResponse {
        pub result: StatusResult,
        pub status: Option<Status>,
    }

    #[derive(Debug, PartialEq, Eq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum StatusResult {
        Error,
        Ok,
        NotFound,
    }

    #[derive(Debug, Deserialize)]
    pub struct Status {
        pub version: String,
        #[serde(rename = "status")]
        pub info: StatusInfo,
        pub components: Vec<ComponentStatus>,
    }

    #[derive(Debug, Deserialize)]
    pub struct ComponentStatus {
        pub name: String,
        #[serde(rename = "type")]
        pub component_type: String,
        #[serde(rename = "status")]
        pub info: StatusInfo,
        pub traits: Vec<Value>,
    }

    #[derive(Debug, Deserialize)]
    pub struct StatusInfo {
        #[serde(rename = "type")]
        pub status_type: StatusType,
        #[serde(default)]
        pub message: String,
    }

    #[derive(Debug, PartialEq, Eq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum StatusType {
        Undeployed,
        #[serde(alias = "compensating")]
        Reconciling,
        #[serde(alias = "ready")]
        Deployed,
        Failed,
    }
}

/// Two hosts of a lattice of their own, so that one answers what the other was told.
struct TestServer {
    server: Server,
    client: async_nats::Client,
    notify: Subscriber,
    hosts: Vec<TestHost>,
}

impl TestServer {
    async fn set_up() -> Self {
        let server = Server::shared().await;
        let hosts = vec![host(&server).start().await, host(&server).start().await];
        let client = client::nats(&server).await;
        let notify = client.subscribe(server.subjects().manager_events()).await.unwrap();
        client::settled(&client).await;
        Self { server, client, notify, hosts }
    }

    /// Asks below `wadm.api.{lattice}`.
    async fn get_response<T: DeserializeOwned>(&self, subject: &str, data: impl Into<String>) -> T {
        self.get_response_with(subject, data, None).await
    }

    async fn get_response_with<T: DeserializeOwned>(
        &self,
        subject: &str,
        data: impl Into<String>,
        header: Option<(&str, &str)>,
    ) -> T {
        let subject = format!("{}.{subject}", self.server.subjects().manager_root());
        let mut headers = HeaderMap::new();
        if let Some((name, value)) = header {
            headers.insert(name, value);
        }
        let request = self.client.request_with_headers(subject, headers, data.into().into());
        let message = request.await.expect("an answer");
        serde_json::from_slice(&message.payload).unwrap_or_else(|error| {
            panic!("{error}: {}", String::from_utf8_lossy(&message.payload))
        })
    }

    async fn put(&self, manifest: &str) -> PutModelResponse {
        self.get_response("model.put", manifest).await
    }

    async fn versions(&self, name: &str) -> Vec<(String, bool)> {
        let response: VersionResponse =
            self.get_response(&format!("model.versions.{name}"), "").await;
        assert_eq!(response.result, GetResult::Success);
        response.versions.into_iter().map(|info| (info.version, info.deployed)).collect()
    }

    async fn deploy(&self, name: &str, body: &str) -> DeployModelResponse {
        self.get_response(&format!("model.deploy.{name}"), body).await
    }

    async fn delete(&self, name: &str, version: &str, delete_all: bool) -> DeleteModelResponse {
        let body = json!({ "version": version, "delete_all": delete_all }).to_string();
        self.get_response(&format!("model.del.{name}"), body).await
    }

    async fn wait_for_notify(&mut self, contains: &str) {
        let heard = async {
            loop {
                let message = self.notify.next().await.expect("news");
                if String::from_utf8_lossy(&message.payload).contains(contains) {
                    break;
                }
            }
        };
        tokio::time::timeout(crate::harness::PATIENCE, heard).await.expect(contains);
    }

    async fn stop(self) {
        for host in self.hosts {
            host.stop().await;
        }
    }
}

/// A manifest of the package.
fn theirs(path: &str) -> String {
    let path = of_crate("wadm", "0.10.0").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The same manifest in another version.
fn in_version(manifest: &str, version: &str) -> String {
    let changed = manifest.replace("v0.0.1", version);
    assert_ne!(changed, manifest);
    changed
}

fn assert_put_response(
    response: &PutModelResponse,
    result: PutResult,
    current_version: &str,
    total_versions: usize,
) {
    assert_eq!(response.result, result, "{}", response.message);
    assert_eq!(response.current_version, current_version);
    assert!(!response.message.is_empty());
    assert_eq!(response.total_versions, total_versions);
}

fn flags(versions: &[(String, bool)]) -> Vec<(&str, bool)> {
    versions.iter().map(|(version, deployed)| (version.as_str(), *deployed)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn test_crud_operations() {
    let server = TestServer::set_up().await;
    let petclinic = theirs("oam/petclinic.yaml");
    assert_put_response(&server.put(&petclinic).await, PutResult::Created, "v0.0.1", 1);
    let simple = theirs("oam/simple1.yaml");
    assert_put_response(&server.put(&simple).await, PutResult::Created, "v0.0.1", 1);

    let response: GetModelResponse = server.get_response("model.get.my-example-app", "").await;
    let manifest = response.manifest.expect("a manifest");
    assert_eq!(manifest.metadata.name, "my-example-app");
    let annotations: Vec<_> = manifest.metadata.annotations.into_iter().collect();
    let expected = [("description", "This is my app"), ("version", "v0.0.1")];
    assert_eq!(annotations, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    assert_eq!(manifest.spec.components.len(), 3);

    let list: Vec<ModelSummary> = server.get_response("model.list", "").await;
    let listed: Vec<_> = list.iter().map(|one| (&*one.name, &*one.version)).collect();
    assert_eq!(listed, [("my-example-app", "v0.0.1"), ("petclinic", "v0.0.1")]);
    assert_eq!(list[0].description.as_deref(), Some("This is my app"));
    assert!(list.iter().all(|one| one.status == StatusType::Undeployed));
    assert!(list.iter().all(|one| one.deployed_version.is_none() && one.status_message.is_none()));

    for (version, total) in [("v0.0.2", 2), ("v0.0.3", 3)] {
        let response = server.put(&in_version(&simple, version)).await;
        assert_put_response(&response, PutResult::NewVersion, version, total);
    }
    let list: Vec<ModelSummary> = server.get_response("model.list", "").await;
    assert_eq!(list.len(), 2);
    let versions = server.versions("my-example-app").await;
    assert_eq!(flags(&versions), [("v0.0.1", false), ("v0.0.2", false), ("v0.0.3", false)]);

    let response: GetModelResponse =
        server.get_response("model.get.my-example-app", r#"{"version":"v0.0.2"}"#).await;
    let manifest = response.manifest.expect("a manifest");
    assert_eq!(manifest.metadata.annotations["version"], "v0.0.2");
    assert_eq!(manifest.spec.components.len(), 3);

    let response = server.delete("my-example-app", "v0.0.2", false).await;
    assert_eq!(response.result, DeleteResult::Deleted);
    assert!(!response.message.is_empty() && !response.undeploy);
    let versions = server.versions("my-example-app").await;
    assert_eq!(flags(&versions), [("v0.0.1", false), ("v0.0.3", false)]);
    let response = server.delete("my-example-app", "", true).await;
    assert_eq!(response.result, DeleteResult::Deleted);
    let response: GetModelResponse = server.get_response("model.get.my-example-app", "").await;
    assert_eq!(response.result, GetResult::NotFound);
    let response = server.delete("petclinic", "v0.0.1", false).await;
    assert_eq!(response.result, DeleteResult::Deleted);
    let response: GetModelResponse = server.get_response("model.get.petclinic", "").await;
    assert_eq!(response.result, GetResult::NotFound);
    let list: Vec<ModelSummary> = server.get_response("model.list", "").await;
    assert!(list.is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn test_bad_requests() {
    let server = TestServer::set_up().await;
    let petclinic = theirs("oam/petclinic.yaml");
    assert_put_response(&server.put(&petclinic).await, PutResult::Created, "v0.0.1", 1);
    // The original sends the same text three times, though its last two parts are about others.
    for manifest in [&petclinic, &in_version(&petclinic, "latest")] {
        let response = server.put(manifest).await;
        assert_eq!(response.result, PutResult::Error);
        assert!(!response.message.is_empty());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn test_delete_noop() {
    let server = TestServer::set_up().await;
    let response = server.delete("my-example-app", "v0.0.2", false).await;
    assert_eq!(response.result, DeleteResult::Noop);
    assert!(!response.message.is_empty());
    let response = server.put(&theirs("oam/petclinic.yaml")).await;
    assert_put_response(&response, PutResult::Created, "v0.0.1", 1);
    let response = server.delete("petclinic", "v0.0.2", false).await;
    assert_eq!(response.result, DeleteResult::Noop);
    assert!(!response.message.is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn test_invalid_topics() {
    let server = TestServer::set_up().await;
    let response = server.put(&theirs("oam/petclinic.yaml")).await;
    assert_put_response(&response, PutResult::Created, "v0.0.1", 1);
    for (subject, begin) in [
        ("model", "Invalid subject"),
        ("model.get.petclinic.foo.bar", "Invalid subject"),
        ("blah.get.petclinic", "Unsupported subject"),
    ] {
        let response: HashMap<String, String> = server.get_response(subject, "").await;
        assert_eq!(response["result"], "error");
        assert!(response["message"].starts_with(begin), "{response:?}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn test_manifest_parsing() {
    let server = TestServer::set_up().await;
    let simple = theirs("oam/simple1.json");
    assert_put_response(&server.put(&simple).await, PutResult::Created, "v0.0.1", 1);
    let yaml = Some(("Content-Type", "application/yaml"));
    let response: PutModelResponse =
        server.get_response_with("model.put", theirs("oam/petclinic.yaml"), yaml).await;
    assert_put_response(&response, PutResult::Created, "v0.0.1", 1);
    let json = Some(("Content-Type", "application/json"));
    let response: PutModelResponse =
        server.get_response_with("model.put", in_version(&simple, "v0.0.2"), json).await;
    assert_put_response(&response, PutResult::NewVersion, "v0.0.2", 2);
    let response = server.put(&theirs("oam/provider_config.yaml")).await;
    assert_put_response(&response, PutResult::Created, "v0.0.1", 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn test_deploy() {
    let mut server = TestServer::set_up().await;
    let petclinic = theirs("oam/petclinic.yaml");
    assert_put_response(&server.put(&petclinic).await, PutResult::Created, "v0.0.1", 1);
    let response = server.put(&in_version(&petclinic, "v0.0.2")).await;
    assert_put_response(&response, PutResult::NewVersion, "v0.0.2", 2);

    assert_eq!(server.deploy("foobar", "").await.result, DeployResult::NotFound);
    let response: DeployModelResponse = server.get_response("model.undeploy.foobar", "").await;
    assert_eq!(response.result, DeployResult::NotFound);

    let response = server.deploy("petclinic", "").await;
    assert_eq!(response.result, DeployResult::Acknowledged, "{}", response.message);
    server.wait_for_notify("com.wadm.manifest_published").await;
    let versions = server.versions("petclinic").await;
    assert_eq!(flags(&versions), [("v0.0.1", false), ("v0.0.2", true)]);
    for (body, expected) in [
        (r#"{"version":"v0.0.1"}"#, [("v0.0.1", true), ("v0.0.2", false)]),
        (r#"{"version":"latest"}"#, [("v0.0.1", false), ("v0.0.2", true)]),
    ] {
        let response = server.deploy("petclinic", body).await;
        assert_eq!(response.result, DeployResult::Acknowledged, "{}", response.message);
        assert_eq!(flags(&server.versions("petclinic").await), expected);
    }

    let response: DeployModelResponse = server.get_response("model.undeploy.petclinic", "").await;
    assert_eq!(response.result, DeployResult::Acknowledged, "{}", response.message);
    server.wait_for_notify("com.wadm.manifest_unpublished").await;
    assert!(server.versions("petclinic").await.iter().all(|(_, deployed)| !deployed));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn test_delete_deploy() {
    let mut server = TestServer::set_up().await;
    let petclinic = theirs("oam/petclinic.yaml");
    assert_put_response(&server.put(&petclinic).await, PutResult::Created, "v0.0.1", 1);
    let response = server.put(&in_version(&petclinic, "v0.0.2")).await;
    assert_put_response(&response, PutResult::NewVersion, "v0.0.2", 2);
    assert_eq!(server.deploy("petclinic", "").await.result, DeployResult::Acknowledged);
    let response = server.delete("petclinic", "v0.0.2", false).await;
    assert_eq!(response.result, DeleteResult::Deleted);
    assert!(response.undeploy);
    server.wait_for_notify("com.wadm.manifest_unpublished").await;

    assert_eq!(server.deploy("petclinic", "").await.result, DeployResult::Acknowledged);
    let response = server.delete("petclinic", "", true).await;
    assert_eq!(response.result, DeleteResult::Deleted);
    server.wait_for_notify("com.wadm.manifest_unpublished").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn test_status() {
    let server = TestServer::set_up().await;
    let response = server.put(&theirs("oam/petclinic.yaml")).await;
    assert_put_response(&response, PutResult::Created, "v0.0.1", 1);
    let response: StatusResponse = server.get_response("model.status.petclinic", "").await;
    assert_eq!(response.result, StatusResult::Ok);
    let status = response.status.expect("a status");
    assert_eq!(status.info.status_type, StatusType::Undeployed);
    assert_eq!(status.version, "v0.0.1");
    // Ours, not theirs: a deployed one has its components, for the same decoder.
    assert_eq!(server.deploy("petclinic", "").await.result, DeployResult::Acknowledged);
    let response: StatusResponse = server.get_response("model.status.petclinic", "").await;
    let status = response.status.expect("a status");
    assert_ne!(status.info.status_type, StatusType::Undeployed, "{}", status.info.message);
    let kinds: Vec<_> = status.components.iter().map(|one| &*one.component_type).collect();
    assert_eq!(kinds, ["actor", "actor", "actor", "actor", "actor", "capability", "capability"]);
    for component in &status.components {
        assert!(!component.name.is_empty() && component.traits.iter().all(Value::is_object));
        assert_ne!(component.info.status_type, StatusType::Undeployed);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_manifest_of_the_old_manager_is_taken_or_refused_as_there() {
    let server = TestServer::set_up().await;
    for (file, part) in [
        ("incorrect_component", "Validation Error: "),
        ("duplicate_component", "Duplicate component name in manifest: ui"),
        ("duplicate_imageref1", "Duplicate image reference"),
        ("duplicate_imageref2", "Duplicate image reference in manifest: "),
        ("duplicate_linkdef", "Duplicate target postgres for component vets"),
        (
            "missing_capability_component",
            "The following capability component(s) are missing from the manifest: ",
        ),
    ] {
        let response = server.put(&theirs(&format!("test/data/{file}.yaml"))).await;
        assert_eq!(response.result, PutResult::Error, "{file}");
        assert!(response.message.contains(part), "{file}: {}", response.message);
    }
    let custom = server.put(&theirs("oam/custom.yaml")).await;
    assert!(custom.message.contains("customscaler"), "{}", custom.message);
    for file in ["oam/echo", "oam/simple2", "test/data/all_hosts", "test/data/complex"]
        .into_iter()
        .chain(["test/data/host_stop", "test/data/lotta_actors", "test/data/outdatedapp"])
        .chain(["test/data/upgradedapp", "test/data/upgradedapp2", "test/data/upgradedapp3"])
        .chain(["test/data/simple", "test/data/long_image_refs"])
    {
        let manifest = theirs(&format!("{file}.yaml"));
        let response = server.put(&manifest).await;
        // Some have the name and version of others.
        let is_again = response.message.ends_with("already exists");
        assert!(response.result != PutResult::Error || is_again, "{file}: {}", response.message);
    }
    server.stop().await;
}

const WEB: &str = "apiVersion: core.oam.dev/v1beta1
kind: Application
metadata: {name: web}
spec:
  components:
    - {name: http, type: capability, properties: {image: 'r.example/http:1', contract: 'wasmcloud:httpserver'}, traits: []}
";

#[tokio::test(flavor = "multi_thread")]
async fn a_version_nobody_gave_is_made_up_and_two_of_them_are_two() {
    let server = TestServer::set_up().await;
    let (first, second) = (server.put(WEB).await, server.put(WEB).await);
    assert_eq!((first.result, second.result), (PutResult::Created, PutResult::NewVersion));
    assert_eq!(first.current_version.len(), 26);
    assert!(first.current_version < second.current_version);
    let newest: GetModelResponse =
        server.get_response("model.get.web", r#"{"version":"latest"}"#).await;
    let annotations = newest.manifest.expect("a manifest").metadata.annotations;
    assert_eq!(annotations["version"], second.current_version);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_later_clients_are_understood() {
    let server = TestServer::set_up().await;
    server.put(WEB).await;
    let models: Value = server.get_response("model.get", "").await;
    assert_eq!(models["models"][0]["name"], "web");
    assert_eq!(models["models"][0]["detailed_status"]["status"]["type"], "undeployed");
    let reply: Value = server.get_response("model.deploy.web", "{}").await;
    assert_eq!((&reply["result"], &reply["name"]), (&json!("acknowledged"), &json!("web")));
    assert_eq!(reply["version"].as_str().map(str::len), Some(26));
    let reply: Value = server.get_response("model.undeploy.web", "{}").await;
    assert_eq!(reply["result"], "acknowledged");
    let reply: Value = server.get_response("model.undeploy.web", "").await;
    assert_eq!(reply["message"], "Model web was already undeployed");
    let reply: Value = server.get_response("model.del.web", "").await;
    assert_eq!(reply["result"], "deleted");
    let reply: Value = server.get_response("model.del.web", "").await;
    assert_eq!(reply["result"], "noop");
    let reply: Value = server.get_response("model.versions.web", "").await;
    assert_eq!((&reply["result"], &reply["versions"]), (&json!("notfound"), &json!([])));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_in_two_versions_is_refused_by_image_and_not_by_registry_port() {
    let server = TestServer::set_up().await;
    let named = |name: &str, image: &str| {
        WEB.replace("name: web", &format!("name: {name}")).replace("r.example/http:1", image)
    };
    for (name, image) in [
        ("a", "localhost:5000/http:1"),
        ("b", "localhost:5000/other:2"),
        ("c", "localhost:5000/http:2"),
    ] {
        assert_eq!(server.put(&named(name, image)).await.result, PutResult::Created);
    }
    assert_eq!(server.deploy("a", "").await.result, DeployResult::Acknowledged);
    assert_eq!(server.deploy("b", "").await.result, DeployResult::Acknowledged);
    // Another host may have to hear of the first deployment before.
    eventually("the other application is refused", || async {
        let response = server.deploy("c", "").await;
        let expected =
            "Provider localhost:5000/http:2 is already deployed with a different version in a.";
        (response.result == DeployResult::Error && response.message == expected).then_some(())
    })
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_read_breaks_no_other() {
    let server = TestServer::set_up().await;
    server.put(WEB).await;
    server.put(&WEB.replace("name: web", "name: broken")).await;
    let context = async_nats::jetstream::new(server.client.clone());
    let bucket = context.get_key_value("wadm_manifests").await.expect("the bucket");
    let key = format!("{}-broken", server.server.lattice());
    bucket.put(&key, "not JSON".into()).await.unwrap();
    let list: Vec<ModelSummary> = server.get_response("model.list", "").await;
    let statuses: Vec<_> = list.iter().map(|one| (&*one.name, &one.status)).collect();
    assert_eq!(statuses, [("broken", &StatusType::Failed), ("web", &StatusType::Undeployed)]);
    assert!(list[0].status_message.as_ref().is_some_and(|message| message.contains(&key)));
    let reply: Value = server.get_response("model.get.broken", "").await;
    assert_eq!(reply["result"], "error");
    assert_eq!(server.deploy("web", "").await.result, DeployResult::Acknowledged);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_write_to_the_buckets_deploys_nothing() {
    let server = TestServer::set_up().await;
    server.put(WEB).await;
    // The mark of another manager, and an entry that no host signed.
    let context = async_nats::jetstream::new(server.client.clone());
    let manifests = context.get_key_value("wadm_manifests").await.expect("the bucket");
    let key = format!("{}-web", server.server.lattice());
    let stored = manifests.get(&key).await.unwrap().expect("stored");
    let mut stored: Value = serde_json::from_slice(&stored).unwrap();
    let version = stored["manifests"].as_object().unwrap().keys().next().unwrap().clone();
    stored["deployed_version"] = json!(version);
    manifests.put(&key, stored.to_string().into()).await.unwrap();
    let desired = async_nats::jetstream::kv::Config {
        bucket: format!("DESIREDDATA_{}", server.server.lattice()),
        ..Default::default()
    };
    let desired = context.create_key_value(desired).await.expect("a bucket");
    let target = json!({ "name": "web", "version": version, "manifest": stored["manifests"][&version],
        "state": "deployed", "at": 0 });
    let forged = json!({ "value": target.to_string(), "serial": 1, "issuer": crate::harness::CLUSTER,
        "signature": "AAAA" });
    desired.put("APP_web", forged.to_string().into()).await.unwrap();

    let list: Vec<ModelSummary> = server.get_response("model.list", "").await;
    assert_eq!((&list[0].status, &list[0].deployed_version), (&StatusType::Failed, &None));
    let message = list[0].status_message.as_deref().unwrap_or_default();
    assert!(message.contains("its signature does not fit"), "{message}");
    // A command of somebody who may give one replaces both.
    assert_eq!(server.deploy("web", "").await.result, DeployResult::Acknowledged);
    let list: Vec<ModelSummary> = server.get_response("model.list", "").await;
    assert_eq!(list[0].deployed_version.as_ref(), Some(&version));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_stay_aside_where_a_manager_answers() {
    let server = Server::shared().await;
    let nats = client::nats(&server).await;
    let subject = format!("{}.>", server.subjects().manager_root());
    let mut requests = nats.queue_subscribe(subject, "wadm_server".into()).await.unwrap();
    client::settled(&nats).await;
    let manager = {
        let nats = nats.clone();
        tokio::spawn(async move {
            while let Some(request) = requests.next().await {
                nats.publish(request.reply.expect("a request"), "[]".into()).await.unwrap();
            }
        })
    };
    let aside = host(&server).start().await;
    let taking_over = host(&server).set("applications", "always").start().await;
    let never = host(&server).set("applications", "never").start().await;
    manager.abort();
    let _ = manager.await;
    // Now only hosts are there, and one of them answers.
    let list = server.subjects().manager(Request::List);
    let answer = nats.request(list.clone(), "".into()).await.expect("an answer");
    let headers = answer.headers.expect("headers");
    assert_eq!(headers.get("Lattice-Host").map(|id| id.as_str()), Some(&*taking_over.id));
    taking_over.stop().await;
    let gone = nats.request(list, "".into()).await;
    assert!(gone.is_err(), "the others do not answer: {gone:?}");
    aside.stop().await;
    never.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_no_host_fits_is_stored_with_a_warning() {
    let server = TestServer::set_up().await;
    let manifest = WEB.replace(
        "traits: []",
        "traits: [{type: spreadscaler, properties: {instances: 1, spread: [{name: moon, requirements: {zone: moon}}]}}]",
    );
    let response = server.put(&manifest).await;
    assert_eq!(response.result, PutResult::Created, "{}", response.message);
    for part in ["Warning: ", "\"moon\" of \"http\"", "zone=moon", &server.hosts[0].id] {
        assert!(response.message.contains(part), "{part} in {}", response.message);
    }
    // Without its requirements it would fit every host.
    let response = server.put(&manifest.replace("requirements", "requirement")).await;
    assert_eq!(response.result, PutResult::Error);
    let expected = "rule \"moon\": `requirement` is not known; did you mean `requirements`?";
    assert!(response.message.contains(expected), "{}", response.message);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_manager_deployed_is_stopped_before_it_is_deleted() {
    let mut server = TestServer::set_up().await;
    let context = async_nats::jetstream::new(server.client.clone());
    server.put(WEB).await;
    let bucket = context.get_key_value("wadm_manifests").await.expect("the bucket");
    let key = format!("{}-web", server.server.lattice());
    let stored = bucket.get(&key).await.unwrap().expect("stored");
    let mut stored: Value = serde_json::from_slice(&stored).unwrap();
    let version = stored["manifests"].as_object().unwrap().keys().next().unwrap().clone();
    let other = json!({"later": "form"});
    stored["manifests"]["v9"] = other;
    stored["deployed_version"] = json!("v9");
    bucket.put(&key, stored.to_string().into()).await.unwrap();
    for request in [Request::Delete("web"), Request::Undeploy("web")] {
        let refused: Value =
            server.get_response(&format!("model.{}.web", request.operation()), "").await;
        let message = refused["message"].as_str().unwrap_or_default();
        assert_eq!(refused["result"], "error", "{message}");
        for part in ["another manager", "v9", "Put a version"] {
            assert!(message.contains(part), "{part} in {message}");
        }
    }
    stored["deployed_version"] = json!(version);
    bucket.put(&key, stored.to_string().into()).await.unwrap();
    let deleted = server.delete("web", "v9", false).await;
    assert!(deleted.result == DeleteResult::Deleted && !deleted.undeploy, "another version");
    let deleted = server.delete("web", &version, false).await;
    assert!(deleted.result == DeleteResult::Deleted && deleted.undeploy, "{}", deleted.message);
    server.wait_for_notify("com.wadm.manifest_unpublished").await;
    let list: Vec<ModelSummary> = server.get_response("model.list", "").await;
    assert!(list.is_empty(), "{list:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn applications_of_an_earlier_manager_are_found_and_kept_from_the_next_deployment_on() {
    let server = TestServer::set_up().await;
    let context = async_nats::jetstream::new(server.client.clone());
    let bucket = async_nats::jetstream::kv::Config {
        bucket: "wadm_manifests".into(),
        history: 1,
        ..Default::default()
    };
    let bucket = context.create_or_update_key_value(bucket).await.expect("a bucket");
    let lattice = server.server.lattice();
    let manifest = json!({"apiVersion": "core.oam.dev/v1beta1", "kind": "Application",
        "metadata": {"name": "old"}, "spec": {"components": []}});
    let later = json!({"later": "form"});
    let stored = json!({"manifests": {"": manifest, "v2": later}, "deployed_version": ""});
    bucket.put(format!("{lattice}-old"), stored.to_string().into()).await.unwrap();
    bucket.put(lattice, r#"["gone","old"]"#.into()).await.unwrap();

    let list: Vec<ModelSummary> = server.get_response("model.list", "").await;
    let [old] = &list[..] else { panic!("one application: {list:?}") };
    assert_eq!((&*old.version, &old.status), ("v2", &StatusType::Undeployed));
    assert!(old.status_message.as_ref().is_some_and(|text| text.contains("deploy it again")));
    let unusable = server.deploy("old", "").await;
    assert!(unusable.message.contains("v2 cannot be used"), "{}", unusable.message);
    let deployed = server.deploy("old", r#"{"version":""}"#).await;
    assert_eq!(deployed.result, DeployResult::Acknowledged, "{}", deployed.message);
    assert_eq!(flags(&server.versions("old").await), [("", true), ("v2", false)]);

    // A manifest that was purged there is gone here, and can be put again.
    bucket.purge(format!("{lattice}-old")).await.unwrap();
    let reply: GetModelResponse = server.get_response("model.get.old", "").await;
    assert_eq!(reply.result, GetResult::NotFound);
    let response = server.put(&WEB.replace("name: web", "name: old")).await;
    assert_eq!(response.result, PutResult::Created, "{}", response.message);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_at_the_same_time_lose_nothing() {
    let server = TestServer::set_up().await;
    let versions = (0..8).map(|number| ("web".to_owned(), format!("v{number}")));
    let others = (0..8).map(|number| (format!("web{number}"), "v1".to_owned()));
    let puts = versions.chain(others).map(|(name, version)| {
        let named = format!("name: {name}, annotations: {{version: {version}}}");
        let manifest = WEB.replace("name: web", &named);
        let server = &server;
        async move { server.put(&manifest).await }
    });
    for response in futures::future::join_all(puts).await {
        assert_ne!(response.result, PutResult::Error, "{}", response.message);
    }
    let list: Vec<ModelSummary> = server.get_response("model.list", "").await;
    assert_eq!(list.len(), 9);
    assert_eq!(server.versions("web").await.len(), 8);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_do_not_fit_into_a_message_are_refused_with_what_to_do() {
    let server = TestServer::set_up().await;
    let large = |version: &str| {
        let annotations = format!("name: web, annotations: {{version: {version}}}");
        let config = format!("config: {}, contract:", "x".repeat(600 << 10));
        WEB.replace("name: web", &annotations).replace("contract:", &config)
    };
    assert_eq!(server.put(&large("v1")).await.result, PutResult::Created);
    let response = server.put(&large("v2")).await;
    assert!(response.message.contains("delete versions"), "{}", response.message);
    assert_eq!(server.versions("web").await.len(), 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fits_into_no_message_is_shortened_or_refused_and_always_answered() {
    let server = TestServer::set_up().await;
    let told = |description: &str| {
        let annotations = format!("name: web, annotations: {{description: {description}}}");
        WEB.replace("name: web", &annotations)
    };
    let refused = server.put(&told(&"x".repeat(600 << 10))).await;
    assert_eq!(refused.result, PutResult::Error);
    assert!(refused.message.contains("one of the annotations"), "{}", refused.message);
    // Records that another manager wrote, whose descriptions no host would take.
    server.put(WEB).await;
    let context = async_nats::jetstream::new(server.client.clone());
    let bucket = context.get_key_value("wadm_manifests").await.expect("the bucket");
    let lattice = server.server.lattice();
    let key = |name: &str| format!("{lattice}-{name}");
    for name in ["large1", "large2"] {
        let annotations = json!({"version": "v1", "description": "x".repeat(600 << 10)});
        let manifest = json!({"apiVersion": "core.oam.dev/v1beta1", "kind": "Application",
            "metadata": {"name": name, "annotations": annotations}, "spec": {"components": []}});
        let record = json!({"manifests": {"v1": manifest}, "deployed_version": null});
        bucket.put(key(name), record.to_string().into()).await.unwrap();
    }
    bucket.put(lattice, r#"["large1","large2","web"]"#.into()).await.unwrap();
    let list: Vec<ModelSummary> = server.get_response("model.list", "").await;
    assert_eq!(list.len(), 3);
    assert!(list.iter().all(|one| one.description.as_ref().is_none_or(|text| text.len() < 1000)));
    // A value of the bucket may be as large as a message, and its answer has more around it.
    let names: Vec<String> = (0..30_000).map(|number| format!("v{number}")).collect();
    let versions: serde_json::Map<String, Value> =
        names.into_iter().map(|name| (name, json!({}))).collect();
    let record = json!({"manifests": versions, "deployed_version": null});
    bucket.put(key("web"), record.to_string().into()).await.unwrap();
    let answer: Value = server.get_response("model.versions.web", "").await;
    assert_eq!((&answer["result"], &answer["versions"]), (&json!("error"), &json!([])));
    let message = answer["message"].as_str().unwrap();
    assert!(message.contains("max_payload") && !message.contains("unknown"), "{message}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_is_published_when_it_changes_in_the_stream_of_the_old_manager() {
    use lattice_applications::status::{Published, Statuses};
    use lattice_protocol::applications::api::{Info, Status, StatusType};

    let server = Server::shared().await;
    let client = client::nats(&server).await;
    let nats = lattice_base::lattice::connection::Nats {
        client: client.clone(),
        reconnects: tokio::sync::watch::channel(0).1,
        denied: tokio::sync::watch::channel(Vec::new()).1,
    };
    let subjects = server.subjects();
    let statuses = Statuses::new(nats, server.domain(), subjects.clone(), 1);
    let status = |kind, message: &str| Status {
        version: "v1".into(),
        status: Info { kind, message: message.into() },
        ..Status::default()
    };
    assert_eq!(statuses.last("shop").await.unwrap(), None);
    for (kind, message, published) in [
        (StatusType::Reconciling, "starts", Published::Yes),
        (StatusType::Reconciling, "starts", Published::Unchanged),
        (StatusType::Deployed, "", Published::Yes),
    ] {
        let outcome = statuses.publish("shop", status(kind, message)).await.unwrap();
        assert_eq!(outcome, published, "{kind:?}");
    }
    // As the old manager's tests read it.
    let context = match server.domain() {
        Some(domain) => async_nats::jetstream::with_domain(client, domain),
        None => async_nats::jetstream::new(client),
    };
    let stream = context.get_stream("wadm_status").await.expect("the stream");
    let config = &stream.cached_info().config;
    assert_eq!(
        (&*config.subjects, config.max_messages_per_subject),
        (&["wadm.status.*.*".to_owned()][..], 10)
    );
    let raw = stream.get_last_raw_message_by_subject(&subjects.manager_status("shop")).await;
    let record: theirs::StatusInfo = serde_json::from_slice(&raw.unwrap().payload).unwrap();
    assert_eq!(record.status_type, self::StatusType::Deployed);
    assert!(record.message.is_empty());
}

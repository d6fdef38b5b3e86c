//! External providers as processes: real programs, written with the libraries of their time, run by
//! our code against a real NATS server.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use lattice_base::{
    config::{Auth, Connection, Secret, Tls},
    providers::archive::{Archive, this_target},
};
use lattice_engine::{
    journal::Journal,
    providers::external::{
        access::Access,
        executable::install,
        host_data::{HostData, OtelConfig},
        process::{Exit, Launch, Process, SpawnError, environment},
    },
};
use lattice_protocol::{
    identity::{
        claims::now,
        keys::{ActorId, HostId, LatticeName, LinkName, ProviderId},
    },
    links::LinkDefinition,
    rpc::{
        codec,
        invocation::{Entity, Invocation, TraceContext},
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tempfile::TempDir;
use wasmcloud_interface_keyvalue::{
    GetResponse, IncrementRequest, SetAddRequest, SetRequest, StringList,
};

use crate::harness::{
    CLUSTER, CLUSTER_SEED, ECHO, KVCOUNTER, PATIENCE, Server,
    client::Caller,
    eventually,
    external::{Redis, pack, program, public_key},
    jwt::operator,
    pki::Authority,
    process,
};

const HOST: &str = "NCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJWVF";
const CONTRACT: &str = "wasmcloud:keyvalue";

/// Returns the host data for a provider.
fn host_data(
    lattice: &str,
    example: &str,
    access: &Access,
    links: Vec<LinkDefinition>,
) -> HostData {
    HostData {
        host_id: HostId::parse(HOST).unwrap(),
        lattice: LatticeName::parse(lattice).unwrap(),
        link_name: LinkName::default(),
        lattice_rpc_user_jwt: access.jwt.clone(),
        lattice_rpc_user_seed: access.seed.clone(),
        lattice_rpc_url: access.url.clone(),
        provider_id: ProviderId::parse(&public_key(example)).unwrap(),
        cluster_seed: Secret::new(CLUSTER_SEED),
        env_values: BTreeMap::new(),
        instance_id: "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b".into(),
        links: links.into_iter().map(Arc::new).collect(),
        cluster_issuers: vec![CLUSTER.into()],
        configuration: None,
        default_rpc_timeout_ms: 2000,
        structured_logging: false,
        log_level: None,
        otel_config: OtelConfig::default(),
    }
}

/// Where output goes that no test reads.
fn journal() -> Journal {
    Journal::new(HOST)
}

fn link(example: &str, actor: &str, values: &[(&str, &str)]) -> LinkDefinition {
    LinkDefinition {
        actor_id: actor.into(),
        provider_id: public_key(example),
        link_name: "default".into(),
        contract_id: CONTRACT.into(),
        values: values
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
    }
}

fn connection(server: &Server, auth: Auth) -> Connection {
    Connection {
        servers: vec![server.url()],
        auth,
        tls: Tls::default(),
        ipv6: false,
        host_text: "127.0.0.1".into(),
        port: 4222,
    }
}

async fn anonymous(server: &Server) -> Access {
    Access::find(&connection(server, Auth::Anonymous)).await.unwrap()
}

/// A provider process together with the way to it over NATS.
struct Running {
    process: Process,
    subject: String,
    provider: String,
    caller: Caller,
}

impl Running {
    async fn start(server: &Server, example: &str, links: Vec<LinkDefinition>) -> Self {
        let access = anonymous(server).await;
        let data = host_data(server.lattice(), example, &access, links);
        Self::with(server, example, &program(example), &data, &[]).await
    }

    async fn with(
        server: &Server,
        example: &str,
        executable: &Path,
        host_data: &HostData,
        environment: &[(String, String)],
    ) -> Self {
        let process =
            Process::spawn(Launch { executable, host_data, environment, journal: &journal() })
                .await
                .expect("the process starts");
        let provider = public_key(example);
        let subject = server.rpc(format_args!("{provider}.default"));
        let running = Self { process, subject, provider, caller: Caller::new(server).await };
        eventually("the provider answers", || async { running.health().await }).await;
        running
    }

    /// Whether it says it is healthy, if it answers.
    async fn health(&self) -> Option<bool> {
        #[derive(serde::Deserialize)]
        struct Health {
            healthy: bool,
        }
        let reply = self
            .caller
            .nats
            .request(format!("{}.health", self.subject), vec![0x80].into())
            .await
            .ok()?;
        Some(rmp_serde::from_slice::<Health>(&reply.payload).expect("a health reply").healthy)
    }

    /// Tells all processes of this provider about a link.
    async fn tell(&self, what: &str, link: &LinkDefinition) {
        let payload = rmp_serde::to_vec_named(link).unwrap();
        self.caller
            .nats
            .publish(format!("{}.linkdefs.{what}", self.subject), payload.into())
            .await
            .unwrap();
        crate::harness::client::settled(&self.caller.nats).await;
    }

    /// Calls it as a host does for an actor.
    async fn call<T: DeserializeOwned>(
        &self,
        actor: &str,
        operation: &str,
        argument: impl Serialize,
    ) -> Result<T, String> {
        let bytes = self.send(actor, operation, argument).await?;
        Ok(rmp_serde::from_slice(&bytes).expect("the result decodes"))
    }

    async fn send(
        &self,
        actor: &str,
        operation: &str,
        argument: impl Serialize,
    ) -> Result<Bytes, String> {
        let origin = Entity::actor(&ActorId::parse(actor).unwrap());
        let target = Entity::new(&self.provider, "default", CONTRACT);
        let msg = Bytes::from(rmp_serde::to_vec_named(&argument).unwrap());
        let id = uuid::Uuid::new_v4().to_string();
        let invocation = Invocation {
            encoded_claims: self.caller.signer.sign(&origin, &target, operation, &msg, &id, now()),
            content_length: msg.len() as u64,
            origin,
            target,
            operation: operation.into(),
            msg,
            id,
            host_id: HOST.into(),
            trace_context: TraceContext::default(),
        };
        let request = async_nats::Request::new()
            .payload(codec::encode_invocation(&invocation))
            .timeout(Some(PATIENCE));
        let reply = self
            .caller
            .nats
            .send_request(self.subject.clone(), request)
            .await
            .map_err(|e| e.to_string())?;
        let response = codec::decode_response(reply.payload).expect("a response");
        response.error.map_or(Ok(response.msg), Err)
    }

    async fn set(&self, actor: &str, key: &str, value: &str) -> Result<Bytes, String> {
        self.send(
            actor,
            "KeyValue.Set",
            SetRequest { key: key.into(), value: value.into(), expires: 0 },
        )
        .await
    }

    async fn get(&self, actor: &str, key: &str) -> Result<String, String> {
        self.call::<GetResponse>(actor, "KeyValue.Get", key).await.map(|found| found.value)
    }

    /// Asks the process of a host to end.
    async fn shut_down(&self, host_id: &str) {
        let payload = serde_json::json!({ "host_id": host_id }).to_string();
        let request = async_nats::Request::new()
            .payload(payload.into())
            .timeout(Some(Duration::from_secs(1)));
        let _ = self.caller.nats.send_request(format!("{}.shutdown", self.subject), request).await;
    }

    async fn end(&mut self) -> Exit {
        tokio::time::timeout(PATIENCE, self.process.wait()).await.expect("the process ends")
    }
}

/// Whether a process runs; one that only waits to be reaped does not.
fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with('Z')))
}

fn script(dir: &TempDir, text: &str) -> PathBuf {
    let path = dir.path().join("script");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
    path
}

#[tokio::test]
async fn a_provider_of_2022_works_on_a_real_redis_and_stops_when_its_host_says_so() {
    const EXAMPLE: &str = "provider_kvredis";
    let (server, redis) = tokio::join!(Server::start(), Redis::start());
    let links = vec![link(EXAMPLE, KVCOUNTER, &[("url", &redis.url())])];
    let mut provider = Running::start(&server, EXAMPLE, links).await;
    assert_eq!(provider.health().await, Some(true));

    let increment = IncrementRequest { key: "counter:home".into(), value: 2 };
    for expected in [2, 4] {
        assert_eq!(
            provider.call::<i32>(KVCOUNTER, "KeyValue.Increment", &increment).await,
            Ok(expected)
        );
    }
    provider.set(KVCOUNTER, "greeting", "hello").await.unwrap();
    assert_eq!(provider.get(KVCOUNTER, "greeting").await.as_deref(), Ok("hello"));
    let refused = provider.get(ECHO, "greeting").await.unwrap_err();
    assert!(refused.contains(ECHO), "{refused}");

    // Another database for another actor, linked while it runs.
    let other = link(EXAMPLE, ECHO, &[("URL", &format!("{}5", redis.url()))]);
    provider.tell("put", &other).await;
    eventually("the link is taken on", || async { provider.get(ECHO, "greeting").await.ok() })
        .await;
    let missing: GetResponse = provider.call(ECHO, "KeyValue.Get", "greeting").await.unwrap();
    assert!(!missing.exists);
    for value in ["a", "b"] {
        let add = SetAddRequest { set_name: "letters".into(), value: value.into() };
        assert_eq!(provider.call::<u32>(ECHO, "KeyValue.SetAdd", add).await, Ok(1));
    }
    let mut letters: StringList =
        provider.call(ECHO, "KeyValue.SetQuery", "letters").await.unwrap();
    letters.sort();
    assert_eq!(letters, ["a", "b"]);
    provider.tell("del", &other).await;
    eventually("the link is gone", || async { provider.get(ECHO, "greeting").await.err() }).await;

    provider.shut_down(HOST).await;
    assert_eq!(provider.end().await, Exit::Code(0));
}

#[tokio::test]
async fn a_provider_of_2024_comes_out_of_its_archive_and_runs() {
    const EXAMPLE: &str = "provider_kvmemory";
    let server = Server::shared().await;
    let dir = TempDir::new().unwrap();
    let (par, cache) = (dir.path().join("kvmemory.par"), dir.path().join("cache"));
    let executable = tokio::task::spawn_blocking(move || {
        pack(EXAMPLE, &par);
        let archive = Archive::read(&fs::read(par).unwrap(), &this_target(), now())
            .expect("the archive is in order");
        assert_eq!(archive.claims.subject, *public_key(EXAMPLE));
        assert_eq!(
            (archive.claims.effective_revision(), &*archive.claims.contract_id),
            (2, CONTRACT)
        );
        install(&cache, &archive).expect("installed")
    });
    let executable = executable.await.unwrap();

    let access = anonymous(&server).await;
    let links = vec![link(EXAMPLE, KVCOUNTER, &[("prefix", "mine:")])];
    let data = host_data(server.lattice(), EXAMPLE, &access, links);
    let variables: Vec<(String, String)> =
        [("RUST_LOG", "info"), ("HTTPS_PROXY", "http://p"), ("SECRET", "s")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
    let variables = environment(&variables, &["HTTPS_PROXY".to_owned()], &access);
    let mut provider = Running::with(&server, EXAMPLE, &executable, &data, &variables).await;
    assert_eq!(
        provider.get(KVCOUNTER, "@environment").await.as_deref(),
        Ok("HTTPS_PROXY,RUST_LOG")
    );

    provider.set(KVCOUNTER, "a", "1").await.unwrap();
    provider.tell("put", &link(EXAMPLE, ECHO, &[("colour", "blue")])).await;
    eventually("the link is taken on", || async { provider.get(ECHO, "a").await.ok() }).await;
    assert_eq!(provider.get(ECHO, "@link colour").await.as_deref(), Ok("blue"));
    assert_eq!(provider.get(ECHO, "mine:a").await.as_deref(), Ok("1"));
    provider.tell("del", &link(EXAMPLE, ECHO, &[])).await;
    eventually("the link is gone", || async { provider.get(ECHO, "a").await.err() }).await;

    // The word of another host is not for it.
    provider.shut_down("NDEB7LL5EVFBMRXCFWZDXM77U6YDO43HQZ4Q52VLPIMKVJBVUVRGYLJU").await;
    assert_eq!(provider.health().await, Some(true));
    provider.shut_down(HOST).await;
    assert_eq!(provider.end().await, Exit::Code(0));
    assert_eq!(provider.end().await, Exit::Code(0), "it may be asked again");
}

#[tokio::test]
async fn however_a_provider_ends_it_is_told() {
    const EXAMPLE: &str = "provider_kvmemory";
    let server = Server::shared().await;
    let misbehaving = vec![link(EXAMPLE, ECHO, &[("misbehave", "unhealthy,ignore-shutdown")])];

    let mut provider = Running::start(&server, EXAMPLE, misbehaving.clone()).await;
    assert_eq!(provider.health().await, Some(false));
    provider.shut_down(HOST).await;
    assert_eq!(provider.health().await, Some(false), "it was told to stay");
    provider.process.terminate();
    assert_eq!(provider.end().await.to_string(), "killed by signal 15 (SIGTERM)");

    let mut provider = Running::start(&server, EXAMPLE, misbehaving.clone()).await;
    provider.process.kill();
    assert_eq!(provider.end().await.to_string(), "killed by signal 9 (SIGKILL)");

    let mut provider = Running::start(&server, EXAMPLE, misbehaving.clone()).await;
    // It ends before it can answer.
    let crash = provider.set(ECHO, "@exit", "3");
    let _ = tokio::time::timeout(Duration::from_millis(300), crash).await;
    let exit = provider.end().await;
    assert_eq!(exit.to_string(), "exit code 3");

    let provider = Running::start(&server, EXAMPLE, misbehaving).await;
    let pid = provider.process.pid();
    drop(provider);
    eventually("the dropped process is gone", || async { (!is_alive(pid)).then_some(()) }).await;
}

#[tokio::test]
async fn nothing_it_starts_outlives_it() {
    let dir = TempDir::new().unwrap();
    let server = Server::shared().await;
    let access = anonymous(&server).await;
    let data = host_data(server.lattice(), "provider_kvmemory", &access, Vec::new());
    let helper_of = |path: PathBuf| async move {
        eventually("the helper runs", || async {
            fs::read_to_string(&path).ok()?.trim().parse::<u32>().ok()
        })
        .await
    };
    // One that is killed, and one that leaves its helper behind when it ends by itself.
    for ending in ["wait", "exit 0"] {
        let note = dir.path().join("helper");
        let _ = fs::remove_file(&note);
        let path =
            script(&dir, &format!("/bin/sleep 1000 &\necho $! > {}\n{ending}", note.display()));
        let journal = journal();
        let launch =
            Launch { executable: &path, host_data: &data, environment: &[], journal: &journal };
        let mut process = Process::spawn(launch).await.unwrap();
        let helper = helper_of(note).await;
        if ending == "wait" {
            process.kill();
        }
        process.wait().await;
        eventually("the helper is gone", || async { (!is_alive(helper)).then_some(()) }).await;
    }
}

#[tokio::test]
async fn a_killed_host_leaves_no_provider_behind() {
    let server = Server::shared().await;
    let mut command = Command::new(program("run_provider"));
    command
        .arg("--executable")
        .arg(program("provider_kvmemory"))
        .args(["--provider", &public_key("provider_kvmemory"), "--nats", &server.url()])
        .args(["--lattice", server.lattice()]);
    let mut host = process::Running::start(command.stdout(Stdio::piped()).stderr(Stdio::null()));
    let mut line = String::new();
    BufReader::new(host.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pid: u32 = line.trim().parse().expect("the number of the process");
    let caller = Caller::new(&server).await;
    let health = server.rpc(format_args!("{}.default.health", public_key("provider_kvmemory")));
    eventually("the provider answers", || async {
        caller.nats.request(health.clone(), "".into()).await.ok()
    })
    .await;
    assert!(is_alive(pid));

    host.kill().unwrap();
    host.wait().unwrap();
    eventually("the provider is gone", || async { (!is_alive(pid)).then_some(()) }).await;
}

#[tokio::test]
async fn what_cannot_run_is_told_apart() {
    let dir = TempDir::new().unwrap();
    let nowhere = Access {
        url: Secret::new("nats://127.0.0.1:1"),
        jwt: Secret::new(""),
        seed: Secret::new(""),
        environment: Vec::new(),
        limits: Vec::new(),
    };
    let mut data = host_data("default", "provider_kvmemory", &nowhere, Vec::new());
    let spawn = |path: PathBuf, data: HostData| async move {
        Process::spawn(Launch {
            executable: &path,
            host_data: &data,
            environment: &[],
            journal: &journal(),
        })
        .await
    };
    let missing = spawn(dir.path().join("missing"), data.clone())
        .await
        .err()
        .expect("there is no such program");
    assert!(matches!(missing, SpawnError::Start { .. }), "{missing}");
    let text = dir.path().join("text");
    fs::write(&text, "#!/bin/sh\n").unwrap();
    let forbidden = spawn(text.clone(), data.clone()).await.err().expect("not executable");
    assert!(forbidden.to_string().contains("noexec"), "{forbidden}");
    fs::set_permissions(&text, PermissionsExt::from_mode(0o700)).unwrap();
    fs::write(&text, "no program").unwrap();
    let no_program = spawn(text.clone(), data.clone()).await.err().expect("no program");
    assert!(matches!(no_program, SpawnError::NotAProgram(_)), "{no_program}");
    // A program for another processor, as far as anybody looks.
    let mut foreign = fs::read(program("provider_kvmemory")).unwrap();
    foreign[18] ^= 0x55;
    fs::write(&text, &foreign[..4096]).unwrap();
    let foreign = spawn(text, data.clone()).await.err().expect("no program for this processor");
    assert!(matches!(foreign, SpawnError::NotAProgram(_)), "{foreign}");

    // One that ends before it reads is no error, but an end.
    let mut brief = spawn(script(&dir, "exit 7"), data.clone()).await.unwrap();
    assert_eq!(brief.wait().await, Exit::Code(7));

    // More host data than a pipe holds, for a program that reads none.
    let value = "v".repeat(1000);
    data.links =
        (0..200).map(|_| Arc::new(link("provider_kvmemory", ECHO, &[("name", &value)]))).collect();
    let deaf =
        spawn(script(&dir, "exec /bin/sleep 1000"), data).await.err().expect("it does not read");
    assert!(matches!(deaf, SpawnError::HostDataUnread), "{deaf}");
}

/// The text that reached the log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

#[tokio::test]
async fn what_a_provider_prints_is_logged_without_the_secrets_it_was_told() {
    const EXAMPLE: &str = "provider_kvmemory";
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    // As long as there is only one log, a place in the code that another test comes to first asks
    // the log of that test, which is none, and is silent from then on. With two all are asked.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let _guard = tracing::subscriber::set_default(subscriber);

    let server = Server::shared().await;
    let values =
        [("misbehave", "print-link"), ("password", "hunter2"), ("url", "amqp://me:pa55w0rd@mq/")];
    let mut provider = Running::start(&server, EXAMPLE, vec![link(EXAMPLE, ECHO, &values)]).await;
    provider.set(ECHO, "@print", &format!("the seed is {CLUSTER_SEED}")).await.unwrap();
    provider.shut_down(HOST).await;
    provider.end().await;

    let text = log.text();
    assert!(text.contains("the seed is ****") && text.contains("amqp://me:****@mq/"), "{text}");
    // Its own log comes along, with its level.
    let starting = text
        .lines()
        .find(|line| line.contains("Starting capability provider"))
        .unwrap_or_else(|| panic!("{text}"));
    assert!(starting.contains(" INFO ") && starting.contains(&public_key(EXAMPLE)), "{starting}");
    for secret in [CLUSTER_SEED, "hunter2", "pa55w0rd"] {
        assert!(!text.contains(secret), "{text}");
    }
}

/// Starts a provider whose way to NATS is `access`, and waits until it answers `nats` or ends.
async fn connects(example: &str, access: &Access, nats: &async_nats::Client) -> bool {
    let variables = environment(&Vec::new(), &[], access);
    let data = host_data("default", example, access, Vec::new());
    let (program, journal) = (program(example), journal());
    let launch = Launch {
        executable: &program,
        host_data: &data,
        environment: &variables,
        journal: &journal,
    };
    let mut process = Process::spawn(launch).await.unwrap();
    let health = format!("wasmbus.rpc.default.{}.default.health", public_key(example));
    tokio::select! {
        _ = process.wait() => false,
        () = eventually("an answer or an end", || async {
            nats.request(health.clone(), "".into()).await.ok().map(drop)
        }) => true,
    }
}

#[tokio::test]
async fn providers_of_both_years_log_in_with_jwt_and_seed_and_with_a_creds_file() {
    let operator = operator();
    let config = format!("{}jetstream {{ store_dir: \"@DIR@/js\" }}", operator.server_config);
    let server = Server::with_config(None, &config).await;
    let creds = server.dir().join("user.creds");
    fs::write(&creds, operator.creds()).unwrap();
    let nats = async_nats::ConnectOptions::with_credentials(&operator.creds()).unwrap();
    let nats = nats.connect(server.url()).await.unwrap();
    let both = Auth::JwtAndSeed {
        jwt: Secret::new(operator.user_jwt),
        seed: Secret::new(operator.user_seed),
    };
    for (example, auth) in [("provider_kvredis", both), ("provider_kvmemory", Auth::Creds(creds))] {
        let access = Access::find(&connection(&server, auth)).await.unwrap();
        assert!(access.limits.is_empty());
        assert!(connects(example, &access, &nats).await, "{example}");
    }
}

#[tokio::test]
async fn a_login_that_providers_do_not_understand_is_told_beforehand() {
    let config = "authorization { user: harry, password: \"right one\" }";
    let server = Server::with_config(None, config).await;
    let nats =
        async_nats::ConnectOptions::with_user_and_password("harry".into(), "right one".into());
    let nats = nats.connect(server.url()).await.unwrap();
    let auth = Auth::User { user: "harry".into(), password: Secret::new("right one") };
    let access = Access::find(&connection(&server, auth)).await.unwrap();
    assert_eq!(access.limits.len(), 1);
    for example in ["provider_kvredis", "provider_kvmemory"] {
        assert!(
            !connects(example, &access, &nats).await,
            "{example} logs in, so the warning is wrong"
        );
    }
}

#[tokio::test]
async fn providers_trust_the_authority_that_the_host_trusts() {
    let mut server = Server::prepare("localhost", None, "");
    let authority = Authority::new(server.dir(), "authority");
    let signed = authority.sign(server.dir(), "server");
    server.configure(&format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\" }}",
        signed.certificate.display(),
        signed.key.display()
    ));
    server.resume().await;
    let options =
        async_nats::ConnectOptions::new().add_root_certificates(authority.certificate.clone());
    let nats = options.connect(server.url()).await.unwrap();
    let mut tls = connection(&server, Auth::Anonymous);
    tls.servers = vec![format!("tls://{}", server.address())];
    tls.tls =
        Tls { required: true, ca: Some(authority.certificate.clone()), cert: None, key: None };
    let access = Access::find(&tls).await.unwrap();
    for example in ["provider_kvredis", "provider_kvmemory"] {
        assert!(connects(example, &access, &nats).await, "{example}");
    }
}

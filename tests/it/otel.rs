//! Telemetry for a collector: two hosts as a user starts them, and a collector that speaks OTLP
//! over HTTP and gRPC.

use std::{
    convert::Infallible,
    path::Path,
    pin::pin,
    process::Command,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    HeaderMap, Request, Response,
    body::{Body, Frame, Incoming},
    header::{ACCEPT, CONTENT_TYPE, HeaderValue},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use lattice_engine::providers::builtin::{httpclient, httpserver, keyvalue};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use prost::Message;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::harness::{
    Events, FETCHER, KVCOUNTER, Server,
    client::{ctl_2024, link_builtin},
    eventually, example,
    nats::free_port,
    process::{Process, member},
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const UNWANTED: &str = "1af7651916cd43dd8448eb211c80319c";
const WAITS: &str = "2af7651916cd43dd8448eb211c80319c";
const CLIENT: &str = "b7ad6b7169203331";

/// A span, and the host that told it.
#[derive(Clone, Debug)]
struct Told {
    host: String,
    span: Span,
}

#[derive(Default)]
struct Received {
    spans: Vec<Told>,
    /// The texts of log lines.
    lines: Vec<String>,
    /// The hosts and the names of metrics.
    metrics: Vec<(String, String)>,
}

type Shared = Arc<Mutex<Received>>;

/// The message of a gRPC request or answer has five bytes before it: whether it is compressed, and
/// its length.
const GRPC_HEAD: usize = 5;

/// A collector; ends when dropped.
struct Collector {
    url: String,
    received: Shared,
    _serving: JoinSet<()>,
}

impl Collector {
    async fn start() -> Self {
        Self::at(0).await
    }

    /// Starts it at a port.
    async fn at(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let received = Shared::default();
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, Arc::clone(&received)));
        Self { url, received, _serving: serving }
    }

    /// The spans of a trace.
    fn spans(&self, trace: &str) -> Vec<Told> {
        let all = &self.received.lock().unwrap().spans;
        all.iter().filter(|told| hex(&told.span.trace_id) == trace).cloned().collect()
    }
}

async fn accept(listener: TcpListener, received: Shared) {
    let mut connections = JoinSet::new();
    loop {
        let (connection, _) = listener.accept().await.expect("a connection");
        let received = Arc::clone(&received);
        connections.spawn(async move {
            let service = service_fn(move |request| take(request, Arc::clone(&received)));
            let server = auto::Builder::new(TokioExecutor::new());
            // A host that ends closes it.
            let _ = server.serve_connection(TokioIo::new(connection), service).await;
        });
    }
}

/// Takes an export in either protocol.
async fn take(
    request: Request<Incoming>,
    received: Shared,
) -> Result<Response<impl Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let kind = request.headers().get(CONTENT_TYPE).cloned().expect("a type");
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.expect("a body").to_bytes();
    let is_grpc = kind == "application/grpc";
    let message = if is_grpc { body.slice(GRPC_HEAD..) } else { body };
    received.lock().unwrap().take(&path, message);
    let mut frames = Vec::new();
    if is_grpc {
        frames.push(Ok(Frame::data(Bytes::from_static(&[0; GRPC_HEAD]))));
        let done = ("grpc-status".parse().expect("a name"), HeaderValue::from_static("0"));
        frames.push(Ok(Frame::trailers(HeaderMap::from_iter([done]))));
    }
    let mut answer = Response::new(StreamBody::new(stream::iter(frames)));
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(answer)
}

impl Received {
    fn take(&mut self, path: &str, message: Bytes) {
        match path {
            "/v1/traces" | "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => {
                self.take_traces(message);
            }
            "/v1/logs" | "/opentelemetry.proto.collector.logs.v1.LogsService/Export" => {
                self.take_logs(message);
            }
            "/v1/metrics" | "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => {
                self.take_metrics(message);
            }
            other => panic!("nobody sends to {other}"),
        }
    }

    fn take_traces(&mut self, message: Bytes) {
        let request = ExportTraceServiceRequest::decode(message).expect("a request");
        for of_host in request.resource_spans {
            let host = host_of(of_host.resource.as_ref());
            let spans = of_host.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans);
            self.spans.extend(spans.map(|span| Told { host: host.clone(), span }));
        }
    }

    fn take_logs(&mut self, message: Bytes) {
        let request = ExportLogsServiceRequest::decode(message).expect("a request");
        let scopes = request.resource_logs.into_iter().flat_map(|of_host| of_host.scope_logs);
        let records = scopes.flat_map(|of_scope| of_scope.log_records);
        self.lines.extend(records.map(|record| text_of(record.body.as_ref())));
    }

    fn take_metrics(&mut self, message: Bytes) {
        let request = ExportMetricsServiceRequest::decode(message).expect("a request");
        for of_host in request.resource_metrics {
            let host = host_of(of_host.resource.as_ref());
            let metrics = of_host.scope_metrics.into_iter().flat_map(|of_scope| of_scope.metrics);
            self.metrics.extend(metrics.map(|metric| (host.clone(), metric.name)));
        }
    }

    /// Says whether a host has told the number of its calls.
    fn has_calls_of(&self, host: &str) -> bool {
        self.metrics.iter().any(|(of, name)| of == host && name == "lattice_invocations")
    }
}

fn host_of(resource: Option<&Resource>) -> String {
    resource
        .map(|resource| attribute(&resource.attributes, "service.instance.id"))
        .unwrap_or_default()
}

fn attribute(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    found.map(|attribute| text_of(attribute.value.as_ref())).unwrap_or_default()
}

fn text_of(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// A host whose telemetry goes to a collector, to be started.
fn exporting(dir: &Path, server: &Server, (url, protocol): (&str, &str)) -> Command {
    let mut command = member(dir, server);
    command
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .env("OTEL_BLRP_SCHEDULE_DELAY", "100")
        .env("OTEL_METRIC_EXPORT_INTERVAL", "200");
    command
}

/// Returns the first line of a host with this text, also one that was read already.
fn told(process: &mut Process, text: &str) -> String {
    let read = process.seen.iter().find(|line| line.contains(text)).cloned();
    read.unwrap_or_else(|| process.line(text))
}

/// The same, started; returns it with its id when it is ready.
async fn started(
    dir: &Path,
    server: &Server,
    (collector, protocol): (&Collector, &str),
    dashboard: u16,
) -> (Process, String) {
    let mut events = Events::all(server).await;
    let mut process = Process::start(
        exporting(dir, server, (collector.url.as_str(), protocol))
            .env("WASMCLOUD_DASHBOARD_PORT", dashboard.to_string()),
    );
    process.line("ready");
    let event = events.next("host_started").await;
    let source = event["source"].as_str().expect("a host").to_owned();
    (process, source)
}

/// Starts what the test calls: the server for requests and the store on one host, the actor on the
/// other.
async fn furnish(server: &Server, [front, back]: [&str; 2], address: &str) {
    start_provider(server, front, "builtin://httpserver").await;
    start_provider(server, front, "builtin://keyvalue").await;
    start_actor(server, back, "kvcounter").await;
    link_builtin(server, KVCOUNTER, &keyvalue::SPEC, &[]).await;
    link_builtin(server, KVCOUNTER, &httpserver::SPEC, &[("address", address)]).await;
}

async fn start_provider(server: &Server, host: &str, reference: &str) {
    let (ctl, mut events) = (ctl_2024(server).await, Events::all(server).await);
    let ack = ctl.start_provider(host, reference, None, None, None).await.expect("an ack");
    assert!(ack.accepted, "{}", ack.error);
    events.next("provider_started").await;
}

/// Starts an actor that serves one call at a time.
async fn start_actor(server: &Server, host: &str, name: &str) {
    let (ctl, mut events) = (ctl_2024(server).await, Events::all(server).await);
    let ack = ctl.scale_actor(host, &example(name), 1, None).await.expect("an ack");
    assert!(ack.accepted, "{}", ack.error);
    events.next("actor_scaled").await;
}

/// Makes a request in a trace; returns the status of its answer.
async fn ask(url: &str, trace: &str, flags: &str) -> Option<u16> {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let request = client
        .get(url)
        .header("traceparent", format!("00-{trace}-{CLIENT}-{flags}"))
        .header("tracestate", "vendor=value");
    Some(request.send().await.ok()?.status().as_u16())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_has_every_hop_of_a_request_over_two_hosts() {
    let (server, collector) = (Server::shared().await, Collector::start().await);
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let (http, grpc) = ((&collector, "http/protobuf"), (&collector, "grpc"));
    let page = free_port();
    let (front, first) = started(dirs[0].path(), &server, http, page).await;
    let (back, second) = started(dirs[1].path(), &server, grpc, 0).await;
    let address = format!("127.0.0.1:{}", free_port());
    furnish(&server, [&first, &second], &address).await;
    let url = format!("http://{address}/visits?secret=1");
    eventually("the actor answers", || async {
        (ask(&url, UNWANTED, "00").await? == 200).then_some(())
    })
    .await;
    assert_eq!(ask(&url, TRACE, "01").await, Some(200));

    let hops = [
        (&first, "GET", SpanKind::Server),
        (&first, "call HttpServer.HandleRequest", SpanKind::Client),
        (&second, "HttpServer.HandleRequest", SpanKind::Server),
        (&second, "actor HttpServer.HandleRequest", SpanKind::Internal),
        (&second, "call KeyValue.Increment", SpanKind::Client),
        (&first, "KeyValue.Increment", SpanKind::Server),
        (&first, "provider KeyValue.Increment", SpanKind::Internal),
    ];
    let spans = eventually("all spans of the trace", || async {
        let spans = collector.spans(TRACE);
        (spans.len() >= hops.len()).then_some(spans)
    })
    .await;
    assert_eq!(spans.len(), hops.len(), "{spans:#?}");
    let mut parent = CLIENT.to_owned();
    for (host, name, kind) in hops {
        let is_next = |told: &&Told| hex(&told.span.parent_span_id) == parent;
        let told = spans.iter().find(is_next).unwrap_or_else(|| panic!("no {name}: {spans:#?}"));
        assert_eq!(
            (&told.host, told.span.name.as_str(), told.span.kind),
            (host, name, kind as i32),
            "{spans:#?}"
        );
        assert_eq!(told.span.trace_state, "vendor=value");
        parent = hex(&told.span.span_id);
    }
    let served = spans.iter().find(|told| told.span.name == "GET").expect("the request");
    let attributes = &served.span.attributes;
    assert_eq!(attribute(attributes, "http.response.status_code"), "200");
    assert_eq!(attribute(attributes, "url.path"), "/visits");
    assert_eq!(attribute(attributes, "lattice.target"), KVCOUNTER);
    // The client said that it is not to be kept.
    assert!(collector.spans(UNWANTED).is_empty());

    // The second host has no dashboard.
    eventually("lines, and counts of both hosts", || async {
        let received = collector.received.lock().unwrap();
        let has_line = received.lines.iter().any(|line| line == "ready");
        let have_counts = [&first, &second].into_iter().all(|host| received.has_calls_of(host));
        (has_line && have_counts).then_some(())
    })
    .await;
    // Calls that are kept stand beside the buckets that count them. A few times between two buckets
    // have none, so more than one call may be needed.
    let metrics = format!("http://127.0.0.1:{page}/metrics");
    for family in ["invocation_duration", "invocation_sent_duration"] {
        let bucket = format!("lattice_{family}_seconds_bucket{{");
        eventually(family, || async {
            ask(&url, TRACE, "01").await?;
            let request = reqwest::Client::new().get(&metrics);
            let request = request.header(ACCEPT, "application/openmetrics-text");
            let text = request.send().await.ok()?.text().await.ok()?;
            let named = format!("# {{trace_id=\"{TRACE}\",span_id=\"");
            text.lines()
                .any(|line| line.starts_with(&bucket) && line.contains(&named))
                .then_some(())
        })
        .await;
    }
    for mut host in [front, back] {
        host.signal(rustix::process::Signal::TERM);
        assert_eq!(host.exit_code(), Some(0));
    }
}

/// Takes a request; returns its connection, which waits for the answer, and its head.
async fn asked(origin: &TcpListener) -> (TcpStream, String) {
    let (mut connection, _) = origin.accept().await.expect("a request");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.expect("the head"));
    }
    (connection, String::from_utf8(head).expect("text"))
}

async fn answer(mut connection: TcpStream) {
    let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
    connection.write_all(answer).await.expect("it is taken");
}

/// Returns the span of a trace with a name and a kind, once it is there.
async fn span(collector: &Collector, trace: &str, name: &str, kind: SpanKind) -> Span {
    eventually(name, || async {
        let mut spans = collector.spans(trace).into_iter().map(|told| told.span);
        spans.find(|span| span.name == name && span.kind == kind as i32)
    })
    .await
}

fn attributes<const N: usize>(span: &Span, keys: [&str; N]) -> [String; N] {
    keys.map(|key| attribute(&span.attributes, key))
}

/// A host that exports, and on it an actor that fetches from an origin at each request.
struct Fetching {
    host: Process,
    id: String,
    /// The port of its dashboard.
    page: u16,
    /// The port that the actor answers at.
    port: u16,
    origin: TcpListener,
    origin_port: u16,
    url: String,
}

impl Fetching {
    /// Starts it; the actor has no link to an HTTP client yet.
    async fn start(dir: &Path, server: &Server, collector: &Collector) -> Self {
        let (page, port) = (free_port(), free_port());
        let (host, id) = started(dir, server, (collector, "http/protobuf"), page).await;
        start_provider(server, &id, "builtin://httpserver").await;
        start_actor(server, &id, "fetcher").await;
        let address = format!("127.0.0.1:{port}");
        link_builtin(server, FETCHER, &httpserver::SPEC, &[("address", &address)]).await;
        let origin = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let origin_port = origin.local_addr().expect("an address").port();
        let url = format!("http://{address}/?url=http%3A%2F%2F127.0.0.1%3A{origin_port}%2F");
        eventually("the actor answers", || async {
            (ask(&url, UNWANTED, "00").await? == 502).then_some(())
        })
        .await;
        Self { host, id, page, port, origin, origin_port, url }
    }

    /// Gives the actor its link, and waits until it fetches.
    async fn link(&self, server: &Server) {
        start_provider(server, &self.id, "builtin://httpclient").await;
        link_builtin(server, FETCHER, &httpclient::SPEC, &[("allow_loopback", "true")]).await;
        let answers = async {
            loop {
                answer(asked(&self.origin).await.0).await;
            }
        };
        let fetches = eventually("the actor fetches", || async {
            (ask(&self.url, UNWANTED, "00").await? == 204).then_some(())
        });
        tokio::select! {
            () = fetches => {}
            () = answers => unreachable!("it goes on for ever"),
        }
    }

    /// Waits until a call waits for another one of the actor.
    async fn has_waiting(&self) {
        let waits = format!("lattice_actor_queue_depth{{actor=\"{FETCHER}\"");
        let metrics = format!("http://127.0.0.1:{}/metrics", self.page);
        eventually("a call waits", || async {
            let text = reqwest::get(&metrics).await.ok()?.text().await.ok()?;
            text.lines()
                .any(|line| line.starts_with(&waits) && line.ends_with(" 1.0"))
                .then_some(())
        })
        .await;
    }

    fn stop(mut self) {
        self.host.signal(rustix::process::Signal::TERM);
        assert_eq!(self.host.exit_code(), Some(0));
    }
}

const ACTOR: &str = "actor HttpServer.HandleRequest";

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_a_link_has_a_span_that_says_so() {
    let (server, collector) = (Server::shared().await, Collector::start().await);
    let dir = TempDir::new().unwrap();
    let fetching = Fetching::start(dir.path(), &server, &collector).await;
    assert_eq!(ask(&fetching.url, TRACE, "01").await, Some(502));
    let refused = span(&collector, TRACE, "call HttpClient.Request", SpanKind::Internal).await;
    assert_eq!(attributes(&refused, ["error.type"]), ["no_link"]);
    let status = refused.status.as_ref().expect("a status");
    assert!(status.message.contains("missing link definition"), "{status:?}");
    let actor = span(&collector, TRACE, ACTOR, SpanKind::Internal).await;
    assert_eq!(refused.parent_span_id, actor.span_id);
    let served = span(&collector, TRACE, "GET", SpanKind::Server).await;
    let keys = ["error.type", "server.address", "server.port", "url.scheme"];
    assert_eq!(attributes(&served, keys), ["502", "127.0.0.1", &fetching.port.to_string(), "http"]);
    let status = served.status.expect("a status");
    assert_eq!((status.code, status.message.as_str()), (StatusCode::Error as i32, ""));
    fetching.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_for_its_actor_has_a_span_meanwhile() {
    let (server, collector) = (Server::shared().await, Collector::start().await);
    let dir = TempDir::new().unwrap();
    let fetching = Fetching::start(dir.path(), &server, &collector).await;
    fetching.link(&server).await;
    let (url, origin) = (fetching.url.clone(), &fetching.origin);
    let mut first = pin!(ask(&url, TRACE, "01"));
    let mut second = pin!(ask(&url, WAITS, "01"));
    let connection = tokio::select! {
        (connection, head) = asked(origin) => {
            assert!(head.contains(&format!("traceparent: 00-{TRACE}-")), "{head}");
            assert!(head.contains("tracestate: vendor=value"), "{head}");
            connection
        }
        status = &mut first => panic!("nobody answered, and it ended with {status:?}"),
    };
    tokio::select! {
        () = fetching.has_waiting() => {}
        status = &mut second => panic!("it did not wait, and ended with {status:?}"),
    }
    answer(connection).await;
    assert_eq!(first.await, Some(204));
    let (status, ()) = tokio::join!(second, async { answer(asked(origin).await.0).await });
    assert_eq!(status, Some(204));
    let first = span(&collector, TRACE, ACTOR, SpanKind::Internal).await;
    let second = span(&collector, WAITS, ACTOR, SpanKind::Internal).await;
    assert!(second.start_time_unix_nano < first.end_time_unix_nano, "{first:?} {second:?}");
    let sent = span(&collector, WAITS, "GET", SpanKind::Client).await;
    let keys = ["error.type", "server.address", "server.port", "http.response.status_code"];
    let port = fetching.origin_port.to_string();
    assert_eq!(attributes(&sent, keys), ["", "127.0.0.1", &port, "204"]);
    fetching.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_is_named_once_and_again_when_it_is_there() {
    const AWAY: &str = "the collector does not take telemetry";
    let server = Server::shared().await;
    for protocol in ["http/protobuf", "grpc"] {
        let (dir, port) = (TempDir::new().unwrap(), free_port());
        let url = format!("http://127.0.0.1:{port}");
        let mut host =
            Process::start(&mut exporting(dir.path(), &server, (url.as_str(), protocol)));
        for signal in ["traces", "metrics", "logs"] {
            let line = told(&mut host, &format!("goes to a collector signal=\"{signal}\""));
            assert!(line.contains(&url), "{line}");
            assert!(line.contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{line}");
        }
        let line = told(&mut host, AWAY);
        assert!(line.contains(&url) && line.contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{line}");
        assert!(line.contains("[warning]") && line.contains("refused"), "{line}");
        told(&mut host, "ready");
        let collector = Collector::at(port).await;
        // A host at rest has nothing to tell for a while; it has a line when it reads its settings.
        host.signal(rustix::process::Signal::HUP);
        let line = host.line("the collector takes telemetry again");
        assert!(line.contains("[info]") && line.contains(&url), "{line}");
        let times = host.seen.iter().filter(|line| line.contains(AWAY)).count();
        assert_eq!(times, 1, "{:#?}", host.seen);
        // The library's own lines about it are left out.
        assert!(!host.seen.iter().any(|line| line.contains("ExportError")), "{:#?}", host.seen);
        host.signal(rustix::process::Signal::TERM);
        assert_eq!(host.exit_code(), Some(0));
        drop(collector);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_never_answers_does_not_keep_a_host_that_stops() {
    let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let mut host =
        Process::start(&mut exporting(dir.path(), &server, (url.as_str(), "http/protobuf")));
    // It takes the connection and says nothing.
    let (_connection, _) = listener.accept().await.expect("a connection");
    told(&mut host, "ready");
    host.signal(rustix::process::Signal::TERM);
    let line = told(&mut host, "the collector did not take the last telemetry in time");
    assert!(line.contains(&url), "{line}");
    assert_eq!(host.exit_code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_do_not_count_are_told_with_what_is_used_instead() {
    let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
    let mut command = exporting(dir.path(), &server, ("notaurl", "carrier"));
    command
        .env("OTEL_TRACES_SAMPLER", "foo")
        .env("OTEL_BSP_MAX_QUEUE_SIZE", "abc")
        .env("OTEL_EXPORTER_OTLP_HEADERS", "hunter2");
    let mut host = Process::start(&mut command);
    told(&mut host, "ready");
    for (variable, value, used) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "\"notaurl\"", "as if it was not set"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "\"carrier\"", "http/protobuf"),
        ("OTEL_TRACES_SAMPLER", "\"foo\"", "parentbased_always_on"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "\"abc\"", "2048"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "not shown", "none of its parts"),
    ] {
        let line = told(&mut host, &format!("variable=\"{variable}\""));
        for part in ["[warning]", value, used, "allowed="] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
    assert!(!host.seen.iter().any(|line| line.contains("hunter2")), "{:#?}", host.seen);
    host.signal(rustix::process::Signal::TERM);
    assert_eq!(host.exit_code(), Some(0));
}

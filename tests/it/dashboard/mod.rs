//! The dashboard: its API, who may enter, health checks and metrics with plain requests; and the
//! page in a real browser.

mod api;
mod applications;
mod attention;
mod browser;
mod bulk;
mod crowd;
mod door;
mod faults;
mod health;
mod history;
mod kinds;

use std::time::Duration;

use lattice_dashboard::token::{self, Keys};
use reqwest::{
    Method, StatusCode, Url,
    header::{AUTHORIZATION, HeaderMap},
};
use serde_json::{Value, json};

use crate::harness::{
    HostBuilder, PATIENCE, Server, TestHost, browser::Browser, eventually, host, nats::free_port,
};

/// A host with a dashboard, and a client of it that is logged in.
pub struct Dashboard {
    pub host: TestHost,
    pub url: Url,
    /// The token in the file of its user.
    pub token: String,
    http: reqwest::Client,
}

/// A host whose dashboard is on a free port.
pub fn with_dashboard(builder: HostBuilder) -> HostBuilder {
    builder.set("dashboard_port", &free_port().to_string())
}

impl Dashboard {
    pub async fn start(server: &Server) -> Self {
        Self::of(with_dashboard(host(server)).start().await)
    }

    pub fn of(host: TestHost) -> Self {
        let place = host.host().dashboard().expect("a dashboard");
        let url = place.url().parse().expect("an address");
        let token = token::read(place.token_file.as_ref().expect("a file"))
            .expect("a token")
            .expose()
            .to_owned();
        let bearer = format!("Bearer {token}").parse().expect("a header");
        let headers = HeaderMap::from_iter([(AUTHORIZATION, bearer)]);
        let http = reqwest::Client::builder()
            .timeout(PATIENCE)
            .default_headers(headers)
            .build()
            .expect("a client");
        Self { host, url, token, http }
    }

    /// The same for whoever has not logged in.
    pub fn without_login(&self) -> reqwest::Client {
        reqwest::Client::builder().timeout(PATIENCE).build().expect("a client")
    }

    /// The code of a link, as `host dashboard` makes one.
    pub fn code(&self) -> String {
        Keys::new(&lattice_base::config::Secret::new(&*self.token), None)
            .code(&self.host.id, token::now())
    }

    /// Logs a browser in by a link.
    pub async fn enter(&self, browser: &Browser) {
        let link = format!("{}#{}", self.url.join("/login").expect("a path"), self.code());
        browser.open(&link).await;
        browser.see("main h1").await;
        browser.see("header button[aria-label='Log out']").await;
    }

    /// The path of the one script of the page.
    pub async fn script_path(&self) -> String {
        let page = self.without_login().get(self.url.clone()).send().await.expect("the page");
        let page = page.text().await.expect("a text");
        let is_script = |part: &&str| part.starts_with("/assets/page.") && part.ends_with(".js");
        page.split('"').find(is_script).expect("a script").to_owned()
    }

    /// The address of something below `/api/v1`.
    pub fn at(&self, path: &str) -> Url {
        self.url.join(&format!("/api/v1{path}")).expect("a path")
    }

    /// Returns the content of a path of the API.
    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.send(Method::GET, path, None).await;
        assert!(status.is_success(), "{path}: {status} {body}");
        body
    }

    /// Returns what somebody reads who has not logged in.
    pub async fn get_as_guest(&self, path: &str) -> Value {
        let answer = self.without_login().get(self.at(path)).send().await.expect("an answer");
        answer.json().await.expect("JSON")
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let mut request = self.http.request(method, self.at(path));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap_or_else(|error| panic!("{path}: {error}"));
        let status = answer.status();
        let text = answer.text().await.unwrap_or_default();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// Makes a change and waits for its end; returns the operation.
    pub async fn change(&self, method: Method, path: &str, body: Value) -> Value {
        let body = if body.is_null() { None } else { Some(body) };
        let (status, begun) = self.send(method, path, body).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{path}: {begun}");
        eventually(&format!("{} ends", begun["title"]), || async {
            let all = self.get("/operations").await;
            let all = all["items"].as_array()?;
            let operation = all.iter().find(|operation| operation["id"] == begun["id"])?;
            (operation["state"] != "running").then(|| operation.clone())
        })
        .await
    }

    /// The same, and it must be done.
    pub async fn done(&self, method: Method, path: &str, body: Value) -> Value {
        let operation = self.change(method, path, body).await;
        assert_eq!(operation["state"], "done", "{operation}");
        operation
    }

    /// Waits until a look at the API finds something.
    pub async fn until<T>(&self, path: &str, found: impl Fn(&Value) -> Option<T>) -> T {
        let mut last = Value::Null;
        let search = async {
            loop {
                last = self.get(path).await;
                if let Some(found) = found(&last) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, search).await;
        outcome.unwrap_or_else(|_| panic!("waited in vain for {path}; it says {last:#}"))
    }

    /// Sends a file.
    pub async fn upload(&self, content: Vec<u8>) -> (StatusCode, Value) {
        let request =
            self.http.post(self.at("/uploads")).header("content-type", "application/octet-stream");
        let answer = request.body(content).send().await.expect("an answer");
        (answer.status(), answer.json().await.expect("JSON"))
    }
}

/// Returns the request that starts an actor by a reference.
pub fn start(reference: &str, host_id: Option<&str>) -> Value {
    json!({ "reference": reference, "host_id": host_id, "max": 1 })
}

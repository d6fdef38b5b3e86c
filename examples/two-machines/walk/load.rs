//! A load that does not wait for its victim: each request goes out at its planned time, whatever
//! became of those before, and all of them are counted.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// After this a request counts as failed. Longer than a host lets an actor take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How many different reasons of failures are kept; the others are counted together.
const REASONS_MAX: usize = 12;
/// How much of an answer a reason quotes.
const QUOTE_MAX: usize = 120;

/// A load that is under way.
pub struct Load {
    stop: CancellationToken,
    counts: Arc<Counts>,
    task: JoinHandle<Report>,
}

#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    failed: AtomicU64,
}

/// The outcome of a load.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub requests: u64,
    pub failures: u64,
    /// The longest time without a good answer.
    pub longest_gap: Duration,
    /// The longest time from a planned request to its answer.
    pub slowest: Duration,
    /// Why requests failed, and how many for each reason.
    pub reasons: BTreeMap<String, u64>,
}

/// How one request ended.
struct Outcome {
    planned: Instant,
    ended: Instant,
    failure: Option<String>,
}

impl Load {
    /// Begins to ask for `url` this many times a second, with a client of its own that keeps its
    /// connections.
    pub fn start(url: &str, rate: u32) -> Result<Self> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(REQUEST_TIMEOUT)
            .build()
            .context("make a client")?;
        let (stop, counts) = (CancellationToken::new(), Arc::new(Counts::default()));
        let task = run(client, url.to_owned(), rate.max(1), stop.clone(), Arc::clone(&counts));
        Ok(Self { stop, counts, task: tokio::spawn(task) })
    }

    /// Answers and failures up to now.
    pub fn so_far(&self) -> (u64, u64) {
        (self.counts.answered.load(Ordering::Relaxed), self.counts.failed.load(Ordering::Relaxed))
    }

    /// Sends no more, waits for the answers that are missing, and reports.
    pub async fn stop(self) -> Result<Report> {
        self.stop.cancel();
        self.task.await.context("the load ended early")
    }
}

async fn run(
    client: reqwest::Client,
    url: String,
    rate: u32,
    stop: CancellationToken,
    counts: Arc<Counts>,
) -> Report {
    let tally = Arc::new(Mutex::new(Tally::default()));
    let mut requests = JoinSet::new();
    let began = Instant::now();
    let planned = |number: u32| began + Duration::from_secs(1) * number / rate;
    for number in 0.. {
        let planned = planned(number);
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = sleep_until(planned) => {}
        }
        while requests.try_join_next().is_some() {}
        let request = client.get(&url);
        let (tally, counts) = (Arc::clone(&tally), Arc::clone(&counts));
        requests.spawn(async move {
            let failure = ask(request).await.err();
            let counter = if failure.is_some() { &counts.failed } else { &counts.answered };
            counter.fetch_add(1, Ordering::Relaxed);
            let outcome = Outcome { planned, ended: Instant::now(), failure };
            tally.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).add(outcome);
        });
    }
    let until = Instant::now();
    while requests.join_next().await.is_some() {}
    let tally = std::mem::take(&mut *tally.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    tally.report(began, until)
}

/// Makes one request; an error says in a few words what came in place of the page.
async fn ask(request: reqwest::RequestBuilder) -> Result<(), String> {
    let answer = request.send().await.map_err(|error| told(&error))?;
    let status = answer.status();
    let body = answer.bytes().await.map_err(|error| told(&error))?;
    if status.is_success() {
        return Ok(());
    }
    // Answers of the host itself are JSON with a text, and an id that differs each time.
    let text = serde_json::from_slice::<serde_json::Value>(&body).ok();
    let text = text.as_ref().and_then(|json| json["error"].as_str()).map(str::to_owned);
    let text =
        text.unwrap_or_else(|| String::from_utf8_lossy(&body).chars().take(QUOTE_MAX).collect());
    Err(format!("{} {text}", status.as_u16()))
}

/// The innermost cause; the layers around it say only that a request failed.
fn told(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", REQUEST_TIMEOUT.as_secs());
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[derive(Default)]
struct Tally {
    answers: Vec<Instant>,
    slowest: Duration,
    failures: u64,
    reasons: BTreeMap<String, u64>,
}

impl Tally {
    fn add(&mut self, outcome: Outcome) {
        self.slowest = self.slowest.max(outcome.ended - outcome.planned);
        let Some(reason) = outcome.failure else {
            self.answers.push(outcome.ended);
            return;
        };
        self.failures += 1;
        let full = self.reasons.len() >= REASONS_MAX && !self.reasons.contains_key(&reason);
        *self.reasons.entry(if full { "other reasons".into() } else { reason }).or_default() += 1;
    }

    fn report(mut self, began: Instant, until: Instant) -> Report {
        let requests = self.answers.len() as u64 + self.failures;
        // Answers after the last request belong to it, and say nothing about a gap.
        self.answers.retain(|answer| *answer <= until);
        self.answers.extend([began, until]);
        self.answers.sort_unstable();
        let longest_gap =
            self.answers.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
        Report {
            requests,
            failures: self.failures,
            longest_gap,
            slowest: self.slowest,
            reasons: self.reasons,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, failures, longest_gap, slowest, .. } = self;
        write!(
            f,
            "{requests} requests, {failures} failures, longest gap {} ms, slowest answer {} ms",
            longest_gap.as_millis(),
            slowest.as_millis()
        )
    }
}

//! Open-loop load at a constant rate, and its outcomes as a client sees them.
//!
//! The load is open: requests go out on a fixed schedule whether or not earlier ones were answered, as those
//! of many independent users do. A client that waits for each response would send the fewest requests exactly
//! when things are broken, and count too few errors. For the same reason a latency runs from the time at
//! which the request was due, not from when the machine sent it.
//!
//! Requests are counted in consecutive windows: [`OpenLoad::end_window`] ends the current one. A request
//! belongs to the window in which it was started, even if its response comes during a later one.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use reqwest::Url;
use reqwest::redirect::Policy;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Number of error texts that a window keeps: the first ones.
const KEPT_ERRORS: usize = 5;

/// Number of bytes of a response body that the text of an error contains.
const KEPT_BODY: usize = 120;

/// Requests to send, and their rate.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// URL of the requests, in plain HTTP.
    pub url: Url,
    /// Rate, evenly spaced; at least 1.
    pub requests_per_second: u32,
    /// Method. Its idempotence decides what an Envoy may retry.
    pub method: Method,
    /// Body of every request; empty for none.
    pub body: Bytes,
    /// Time limit for the complete response, after which the request counts as an error.
    pub timeout: Duration,
}

impl LoadOptions {
    /// Options for GET without a body, with a timeout of 30 s.
    pub fn get(url: Url, requests_per_second: u32) -> Self {
        Self {
            url,
            requests_per_second,
            method: Method::GET,
            body: Bytes::new(),
            timeout: Duration::from_secs(30),
        }
    }

    /// Options for POST with a body, otherwise those of [`Self::get`].
    pub fn post(url: Url, requests_per_second: u32, body: impl Into<Bytes>) -> Self {
        Self { method: Method::POST, body: body.into(), ..Self::get(url, requests_per_second) }
    }
}

/// Complete response with a status below 500.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedResponse {
    /// Status code. Redirects are not followed.
    pub status: u16,
    /// Value of the header `x-backend`, if there is one.
    pub served_by: Option<String>,
}

/// Outcome of one request.
#[derive(Debug, Clone)]
pub struct RequestOutcome {
    /// Time at which the request was sent. It decides the request's window.
    pub started: Instant,
    /// Time from when the request was due until the last byte of the response, or the error.
    pub latency: Duration,
    /// Response, or the text of an error: no connection, no complete response in time, or a status of 500 and
    /// above. The text of the last begins with the status: `503: no healthy upstream`.
    pub result: Result<ServedResponse, String>,
}

/// Counts of the requests that were started within one stretch of time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Window {
    /// Number of requests started, including those without a response yet.
    pub requests: u64,
    /// Number of requests without a response yet. The counts below are final when it is 0.
    pub pending: u64,
    /// Number of failed requests; see [`RequestOutcome::result`].
    pub errors: u64,
    /// Good responses by the backend that gave them. Responses that name no backend are not counted.
    pub served_by: BTreeMap<String, u64>,
    /// Longest latency, errors included.
    pub slowest: Duration,
    /// Texts of the first few errors.
    pub first_errors: Vec<String>,
}

impl Window {
    fn record(&mut self, outcome: &RequestOutcome) {
        self.pending -= 1;
        self.slowest = self.slowest.max(outcome.latency);
        match &outcome.result {
            Ok(ServedResponse { served_by: Some(name), .. }) => {
                *self.served_by.entry(name.clone()).or_default() += 1;
            }
            Ok(_) => {}
            Err(text) => {
                self.errors += 1;
                self.first_errors.push(text.clone());
                self.first_errors.truncate(KEPT_ERRORS);
            }
        }
    }

    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.pending += other.pending;
        self.errors += other.errors;
        for (name, count) in &other.served_by {
            *self.served_by.entry(name.clone()).or_default() += count;
        }
        self.slowest = self.slowest.max(other.slowest);
        self.first_errors.extend(other.first_errors.iter().cloned());
        self.first_errors.truncate(KEPT_ERRORS);
    }
}

/// Identifier of a window that [`OpenLoad::end_window`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowId(usize);

/// State shared by a load and its requests. A std mutex, since it is held for a few additions and never
/// across an `await`.
#[derive(Debug)]
struct LoadRecord {
    state: Mutex<LoadState>,
    /// Notification that a request has ended.
    completed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct LoadState {
    /// All windows; the last one is the current one.
    windows: Vec<Window>,
    outcomes: Vec<RequestOutcome>,
}

impl LoadRecord {
    fn lock(&self) -> MutexGuard<'_, LoadState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request into the current window. The time is taken under the lock, so that windows and times
    /// agree.
    fn start(&self) -> (Instant, WindowId) {
        let mut state = self.lock();
        let current = state.windows.len() - 1;
        state.windows[current].requests += 1;
        state.windows[current].pending += 1;
        (Instant::now(), WindowId(current))
    }

    fn finish(&self, window: WindowId, outcome: RequestOutcome) {
        let mut state = self.lock();
        state.windows[window.0].record(&outcome);
        state.outcomes.push(outcome);
        drop(state);
        self.completed.send_replace(());
    }
}

/// Load that runs until it is stopped. Dropping it ends it at once, without waiting for responses.
#[derive(Debug)]
pub struct OpenLoad {
    record: Arc<LoadRecord>,
    /// Sender whose drop ends the schedule.
    running: watch::Sender<()>,
    schedule: AbortOnDrop,
}

#[derive(Debug)]
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl OpenLoad {
    /// Starts sending at once. Must be called within a tokio runtime.
    pub fn start(options: LoadOptions) -> Self {
        let record = Arc::new(LoadRecord {
            state: Mutex::new(LoadState { windows: vec![Window::default()], ..LoadState::default() }),
            completed: watch::Sender::new(()),
        });
        let (running, stopped) = watch::channel(());
        let schedule = AbortOnDrop(tokio::spawn(send_on_schedule(options, record.clone(), stopped)));
        Self { record, running, schedule }
    }

    /// Returns the sum of all windows, as known now.
    pub fn totals(&self) -> Window {
        let mut totals = Window::default();
        for window in &self.record.lock().windows {
            totals.add(window);
        }
        totals
    }

    /// Ends the current window and begins the next. The ended one may still wait for responses.
    pub fn end_window(&self) -> WindowId {
        let windows = &mut self.record.lock().windows;
        windows.push(Window::default());
        WindowId(windows.len() - 2)
    }

    /// Returns the current window, as known now.
    pub fn current(&self) -> Window {
        self.record.lock().windows.last().cloned().expect("a load begins with one window and only gains more")
    }

    /// Returns an ended window, as known now.
    pub fn window(&self, id: WindowId) -> Window {
        self.record.lock().windows[id.0].clone()
    }

    /// Returns an ended window once every request of it has its response or its error: at the latest after
    /// the client's timeout.
    pub async fn complete_window(&self, id: WindowId) -> Window {
        let mut completed = self.record.completed.subscribe();
        loop {
            completed.mark_unchanged();
            let window = self.window(id);
            if window.pending == 0 {
                return window;
            }
            completed.changed().await.expect("the sender lives in the record that we hold");
        }
    }

    /// Returns the outcomes of all requests that were sent at `since` or later and have ended by now.
    pub fn outcomes_since(&self, since: Instant) -> Vec<RequestOutcome> {
        self.record.lock().outcomes.iter().filter(|outcome| outcome.started >= since).cloned().collect()
    }

    /// Drops the outcomes of requests that were sent before `before`. A load that runs for days would fill
    /// the memory with them. The windows keep their counts.
    pub fn forget_before(&self, before: Instant) {
        self.record.lock().outcomes.retain(|outcome| outcome.started >= before);
    }

    /// Sends no more, waits for outstanding responses, and returns all outcomes except the forgotten ones, in
    /// the order in which the requests were started.
    pub async fn stop(mut self) -> Vec<RequestOutcome> {
        drop(self.running);
        if let Err(error) = (&mut self.schedule.0).await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
        let mut outcomes = std::mem::take(&mut self.record.lock().outcomes);
        outcomes.sort_by_key(|outcome| outcome.started);
        outcomes
    }
}

/// Sends requests on schedule, each in a task of its own. Missed ticks are made up for at once: the rate
/// holds on average, and a stall of this machine does not count as a pause of the users.
async fn send_on_schedule(options: LoadOptions, record: Arc<LoadRecord>, mut stopped: watch::Receiver<()>) {
    let client = client(options.timeout);
    let period = Duration::from_secs(1) / options.requests_per_second.max(1);
    let mut ticks = tokio::time::interval(period);
    let mut requests = JoinSet::new();
    loop {
        let due = tokio::select! {
            biased;
            _ = stopped.changed() => break,
            due = ticks.tick() => due.into_std(),
        };
        let mut request = client.request(options.method.clone(), options.url.clone());
        if !options.body.is_empty() {
            request = request.body(options.body.clone());
        }
        let (started, window) = record.start();
        let record = record.clone();
        requests.spawn(async move {
            let result = exchange(request).await;
            record.finish(window, RequestOutcome { started, latency: due.elapsed(), result });
        });
        while requests.try_join_next().is_some() {}
    }
    requests.join_all().await;
}

/// Builds a client without proxy, redirects and retries, each of which could hide an error.
fn client(timeout: Duration) -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .retry(reqwest::retry::never())
        .timeout(timeout)
        .build()
        .expect("without TLS there is nothing to load that could be missing")
}

async fn exchange(request: reqwest::RequestBuilder) -> Result<ServedResponse, String> {
    let response = request.send().await.map_err(describe)?;
    let status = response.status();
    let served_by =
        response.headers().get("x-backend").map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned());
    let body = response.bytes().await.map_err(describe)?;
    if status.is_server_error() {
        let body = String::from_utf8_lossy(&body[..body.len().min(KEPT_BODY)]);
        return Err(format!("{}: {}", status.as_u16(), body.trim()));
    }
    Ok(ServedResponse { status: status.as_u16(), served_by })
}

/// Formats the whole chain of an error, since only the cause distinguishes one error from another.
fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::response::{IntoResponse, Response};
    use axum::routing::{any, get};
    use axum::{Router, http::StatusCode};
    use futures_util::StreamExt;
    use tokio::net::TcpListener;

    use super::*;

    /// Starts a server on a free port, and returns the URL of one of its paths.
    async fn serve(path: &str) -> Url {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}{path}", listener.local_addr().unwrap()).parse().unwrap();
        let routes = Router::new()
            .route("/ok", get(|| async { [("x-backend", "A")] }))
            .route(
                "/echo",
                any(
                    |method: Method, body: String| async move { [("x-backend", format!("{method} {body}"))] },
                ),
            )
            .route("/slow", get(|| tokio::time::sleep(Duration::from_millis(300))))
            .route("/hang", get(std::future::pending::<()>))
            .route("/503", get(|| async { (StatusCode::SERVICE_UNAVAILABLE, "no healthy upstream\n") }))
            .route("/cut", get(cut));
        tokio::spawn(async { axum::serve(listener, routes).await });
        url
    }

    /// Sends half of a body and breaks off. The pause puts the half on the wire before the end.
    async fn cut() -> Response {
        let pieces = [Ok(Bytes::from("half")), Err(std::io::Error::other("gone"))];
        let paused = futures_util::stream::iter(pieces).then(async |piece| {
            tokio::task::yield_now().await;
            piece
        });
        Body::from_stream(paused).into_response()
    }

    async fn until(load: &OpenLoad, requests: u64) {
        while load.totals().requests < requests {
            load.record.completed.subscribe().changed().await.unwrap();
        }
    }

    /// Returns the first error text of some requests to `path`, all of which must fail.
    async fn errors(path: &str) -> String {
        let load = OpenLoad::start(LoadOptions {
            timeout: Duration::from_millis(200),
            ..LoadOptions::get(serve(path).await, 200)
        });
        until(&load, 3).await;
        let window = load.complete_window(load.end_window()).await;
        assert_eq!(window.errors, window.requests);
        window.first_errors[0].clone()
    }

    #[tokio::test]
    async fn answers_are_counted_by_who_gave_them() {
        let load = OpenLoad::start(LoadOptions::get(serve("/ok").await, 500));
        until(&load, 20).await;
        let window = load.complete_window(load.end_window()).await;
        assert!(window.requests >= 19, "{window:?}");
        assert_eq!(window.served_by, BTreeMap::from([("A".to_owned(), window.requests)]));
        assert_eq!(window.errors, 0);
        let outcomes = load.stop().await;
        assert!(outcomes.is_sorted_by_key(|outcome| outcome.started));
        assert!(
            outcomes
                .iter()
                .all(|outcome| { outcome.result.as_ref().is_ok_and(|answer| answer.status == 200) })
        );
    }

    #[tokio::test]
    async fn the_schedule_does_not_wait_for_answers() {
        let load = OpenLoad::start(LoadOptions::get(serve("/hang").await, 100));
        while load.current().requests < 15 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let window = load.window(load.end_window());
        assert_eq!(window.pending, window.requests);
    }

    #[tokio::test]
    async fn an_answer_counts_in_the_window_of_its_request() {
        let load = OpenLoad::start(LoadOptions::get(serve("/slow").await, 100));
        tokio::time::sleep(Duration::from_millis(50)).await;
        let first = load.end_window();
        let boundary = Instant::now();
        let (early, late) = (load.window(first), load.complete_window(first).await);
        assert_eq!(early.requests, late.requests);
        assert!(late.slowest >= Duration::from_millis(300), "{late:?}");
        assert!(load.totals().requests > late.requests);
        let outcomes = load.stop().await;
        assert_eq!(
            outcomes.iter().filter(|outcome| outcome.started <= boundary).count() as u64,
            late.requests
        );
    }

    #[tokio::test]
    async fn stopping_waits_for_what_is_due() {
        let load = OpenLoad::start(LoadOptions::get(serve("/slow").await, 100));
        tokio::time::sleep(Duration::from_millis(50)).await;
        let started = load.totals().requests;
        let outcomes = load.stop().await;
        assert!(outcomes.len() as u64 >= started);
        assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()));
    }

    #[tokio::test]
    async fn a_method_and_a_body_can_be_chosen() {
        let load = OpenLoad::start(LoadOptions::post(serve("/echo").await, 200, "an order"));
        until(&load, 3).await;
        let window = load.complete_window(load.end_window()).await;
        assert_eq!(window.served_by.into_keys().collect::<Vec<_>>(), ["POST an order"]);
    }

    #[tokio::test]
    async fn what_a_user_would_call_an_error_is_one() {
        assert_eq!(errors("/503").await, "503: no healthy upstream");
        assert!(
            errors("/cut").await.contains("error reading a body from connection"),
            "{}",
            errors("/cut").await
        );
        assert!(errors("/hang").await.contains("operation timed out"), "{}", errors("/hang").await);
    }

    #[tokio::test]
    async fn a_refused_connection_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        drop(listener);
        let load = OpenLoad::start(LoadOptions::get(url, 100));
        until(&load, 1).await;
        let window = load.complete_window(load.end_window()).await;
        assert!(window.first_errors[0].contains("Connection refused"), "{window:?}");
    }
}

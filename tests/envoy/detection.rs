//! Tests of health as Envoy sees it: the requests of checks, the faults that count against a target, and its
//! ejection.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use http::{HeaderMap, Response, StatusCode, Uri};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::harness::{Backend, PATIENCE, eventually};
use crate::stage::{Edge, create, faultless, window};

/// Target inside the test that records how it was checked.
struct RecordingTarget {
    address: SocketAddr,
    seen: Arc<Mutex<RecordedChecks>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct RecordedChecks {
    /// Host and path of each check.
    checks: Vec<String>,
    /// Answers to the next checks; 200 and `up` if it is empty.
    script: VecDeque<(u16, &'static str)>,
    /// True if data is answered with the header by which a target asks for no more requests.
    leave_me_alone: bool,
}

impl RecordingTarget {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let seen = Arc::new(Mutex::new(RecordedChecks::default()));
        let router = Router::new().fallback(answer).with_state(seen.clone());
        let task = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("it serves until it is aborted");
        });
        Self { address, seen, task }
    }

    fn with<T>(&self, look: impl FnOnce(&mut RecordedChecks) -> T) -> T {
        look(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn checks(&self) -> usize {
        self.with(|seen| seen.checks.len())
    }

    /// Waits until this many more checks have come.
    async fn is_checked(&self, times: usize) {
        let before = self.checks();
        eventually(PATIENCE, "checks come", async || match self.checks() {
            now if now >= before + times => Ok(()),
            now => Err(format!("{now} after {before}")),
        })
        .await;
    }
}

impl Drop for RecordingTarget {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    State(seen): State<Arc<Mutex<RecordedChecks>>>,
    uri: Uri,
    headers: HeaderMap,
) -> Response<Body> {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let mut response = Response::new(Body::from("up"));
    response.headers_mut().insert("x-backend", "WITNESS".parse().expect("a value"));
    if uri.path() == "/healthz" {
        let host = headers.get("host").map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
        seen.checks.push(host.unwrap_or_default());
        if let Some((status, body)) = seen.script.pop_front() {
            *response.status_mut() = StatusCode::from_u16(status).expect("a status");
            *response.body_mut() = Body::from(body);
        }
    } else if seen.leave_me_alone {
        response
            .headers_mut()
            .insert("x-envoy-immediate-health-check-fail", "true".parse().expect("a value"));
    }
    response
}

/// Starts an Envoy whose `/` goes to these targets of an upstream with these settings.
async fn edge(upstream: Value, targets: Value) -> Edge {
    Edge::by_rest(async |understudy| {
        let mut body = json!({"name": "checkout", "targets": targets});
        body.as_object_mut().expect("a mapping").extend(upstream.as_object().cloned().unwrap_or_default());
        create(understudy, "/upstreams", body).await;
        create(understudy, "/services", json!({"name": "checkout", "upstream": "checkout"})).await;
        create(understudy, "/routes", json!({"name": "checkout", "service": "checkout"})).await;
    })
    .await
}

async fn healthy(edge: &Edge) -> u64 {
    edge.envoy.stats("cluster.checkout.").await["cluster.checkout.membership_healthy"]
}

async fn becomes_healthy(edge: &Edge, expected: u64) {
    eventually(PATIENCE, &format!("{expected} targets are healthy"), async || match healthy(edge).await {
        now if now == expected => Ok(()),
        now => Err(format!("{now} are")),
    })
    .await;
}

/// Returns settings by which a target that was once unhealthy stays so, so that the test can ask for it
/// afterwards.
fn never_again(http: Value) -> Value {
    json!({"health_check": {"http": http, "interval": "100ms", "unhealthy_threshold": 3,
        "healthy_threshold": 100_000}, "failover": {"when_all_down": "fail"}})
}

#[tokio::test(flavor = "multi_thread")]
async fn thresholds_count_as_written_also_for_answers_of_503() {
    let witness = RecordingTarget::start().await;
    let targets = json!([{"target": witness.address.to_string()}]);
    let edge = edge(never_again(json!({"path": "/healthz"})), targets).await;
    becomes_healthy(&edge, 1).await;

    witness.with(|seen| seen.script = [(503, ""), (503, "")].into());
    witness.is_checked(4).await;
    assert_eq!(healthy(&edge).await, 1, "two of three are not enough");
    witness.with(|seen| seen.script = [(503, ""), (500, ""), (404, "")].into());
    becomes_healthy(&edge, 0).await;
}

/// Tests the expected body of checks. Envoy looks at the body first: its thresholds are then for statuses of
/// answers with the text, and for silence.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_the_text_is_the_end_at_once() {
    let witness = RecordingTarget::start().await;
    let targets = json!([{"target": witness.address.to_string()}]);
    let edge =
        edge(never_again(json!({"path": "/healthz", "body": "up", "expected": [200, "201-204"]})), targets)
            .await;
    becomes_healthy(&edge, 1).await;
    witness.with(|seen| seen.script = [(201, "it is up and running"), (503, "not up")].into());
    witness.is_checked(3).await;
    assert_eq!(healthy(&edge).await, 1, "the text may stand anywhere, and a status counts");
    witness.with(|seen| seen.script = [(503, "down")].into());
    becomes_healthy(&edge, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_go_to_the_port_and_say_the_host_that_were_written() {
    let (plain, named, elsewhere, unchecked) = (
        RecordingTarget::start().await,
        RecordingTarget::start().await,
        RecordingTarget::start().await,
        RecordingTarget::start().await,
    );
    let served = Backend::start("SERVED").await;
    let targets = json!([
        {"target": plain.address.to_string()},
        {"target": named.address.to_string(), "health_check": {"host": "green.example.com"}},
        {"target": served.address().to_string(), "health_check": {"port": elsewhere.address.port()}},
        {"target": unchecked.address.to_string(), "health_check": false},
    ]);
    let edge =
        edge(json!({"health_check": {"http": {"path": "/healthz"}, "interval": "100ms"}}), targets).await;
    becomes_healthy(&edge, 4).await;
    for (witness, host) in [(&plain, "127.0.0.1"), (&named, "green.example.com"), (&elsewhere, "127.0.0.1")] {
        witness.is_checked(2).await;
        witness.with(|seen| assert!(seen.checks.iter().all(|said| said == host), "{:?}", seen.checks));
    }
    assert_eq!(unchecked.checks(), 0, "it is never asked");
    let mut served = served;
    assert_eq!(served.count().await.get("/healthz"), None, "it is asked elsewhere");
    edge.serves("SERVED", PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_targets_are_checked_in_http2() {
    let mut backend = Backend::start("A").await;
    let targets = json!([{"target": backend.address().to_string()}]);
    let upstream = json!({"protocol": "http2", "health_check": {"http": {"path": "/healthz"}}});
    let edge = edge(upstream, targets).await;
    becomes_healthy(&edge, 1).await;
    edge.serves("A", PATIENCE).await;
    assert!(backend.count().await["/healthz"] > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_asks_to_be_left_alone_is_left_at_once() {
    let (witness, standby) = (RecordingTarget::start().await, Backend::start("FAILOVER").await);
    let targets = json!([
        {"target": witness.address.to_string()},
        {"target": standby.address().to_string(), "failover": true},
    ]);
    let edge = edge(json!({"health_check": {"interval": "1s", "healthy_threshold": 5}}), targets).await;
    edge.serves("WITNESS", PATIENCE).await;
    witness.with(|seen| seen.leave_me_alone = true);
    assert_eq!(edge.serving_backend_by(Method::GET).await, Ok("WITNESS".to_owned()), "this answer says it");
    witness.with(|seen| seen.leave_me_alone = false);
    // Envoy's main thread informs the workers, which takes a moment; five checks must pass before the state
    // is undone.
    edge.serves("FAILOVER", Duration::from_secs(3)).await;
    edge.serves("WITNESS", PATIENCE).await;
}

/// Tests ejection by rates alone: one of three targets fails each request.
async fn is_ejected_by(settings: Value, stat: &str) {
    let (mut a, b, c) = (Backend::start("A").await, Backend::start("B").await, Backend::start("C").await);
    let targets: Vec<Value> =
        [&a, &b, &c].map(|backend| json!({"target": backend.address().to_string()})).into();
    let mut detection = json!({"consecutive_5xx": 100_000, "consecutive_gateway_failure": 100_000});
    detection.as_object_mut().expect("a mapping").extend(settings.as_object().cloned().unwrap_or_default());
    let edge = edge(json!({"outlier_detection": detection}), json!(targets)).await;
    for name in ["A", "B", "C"] {
        edge.serves(name, PATIENCE).await;
    }
    a.mode("status 503").await;
    let load = edge.load(100);
    let stat = format!("cluster.checkout.outlier_detection.{stat}");
    eventually(PATIENCE, &stat, async || match edge.envoy.stats(&stat).await.get(&stat) {
        Some(1..) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    window(&load, 50).await;
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_of_failure_ejects() {
    let settings = json!({"failure_percentage": {"threshold": 50, "minimum_hosts": 3, "request_volume": 10}});
    is_ejected_by(settings, "ejections_enforced_failure_percentage").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_of_success_far_below_that_of_the_others_ejects() {
    let settings = json!({"success_rate": {"minimum_hosts": 3, "request_volume": 10, "stdev_factor": 1}});
    is_ejected_by(settings, "ejections_enforced_success_rate").await;
}

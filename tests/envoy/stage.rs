//! Helpers of this binary's tests: an Envoy under a control plane of its own, and load that must be answered.

use std::time::Duration;

use reqwest::{Method, Url};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};
use understudy::cli::demo::load::{LoadOptions, OpenLoad, RequestOutcome, Window};

use crate::harness::{Backend, Envoy, PATIENCE, Understudy, eventually, free_port, understudy};

/// Time limit until traffic has come to rest after a fault: a frozen target costs two tries of 5 s.
const REST: Duration = Duration::from_secs(30);

/// Limit of a fast answer. Every answer that waited for a dead target is slower, and every other one faster.
pub(crate) const FAST: Duration = Duration::from_millis(250);

/// Lock by which tests with an Envoy take turns. Two at once would share two cores, and faults for want of
/// them (health checks of half a second, answers within a quarter) look like the faults that the tests look
/// for.
static TURN: Mutex<()> = Mutex::const_new(());

/// Envoy, its control plane, and the port for clients.
pub(crate) struct Edge {
    pub(crate) understudy: Understudy,
    pub(crate) envoy: Envoy,
    pub(crate) port: u16,
    client: reqwest::Client,
    _turn: MutexGuard<'static, ()>,
}

/// Variant of xDS that an Envoy speaks, as further options of `bootstrap`.
pub(crate) type Variant = &'static [&'static str];
/// State of the world: each response repeats unchanged resources.
pub(crate) const STATE_OF_THE_WORLD: Variant = &[];
/// Delta: responses contain only changes.
pub(crate) const DELTA: Variant = &["--delta"];

impl Edge {
    /// Waits for its turn and starts an Envoy for a control plane that has a listener on `port`.
    pub(crate) async fn new(understudy: Understudy, port: u16) -> Self {
        Self::speaking(STATE_OF_THE_WORLD, understudy, port).await
    }

    /// Does the same as [`Self::new`], with an Envoy that speaks this variant.
    pub(crate) async fn speaking(variant: Variant, understudy: Understudy, port: u16) -> Self {
        Self::started_with(variant, understudy, port).await
    }

    /// Does the same as [`Self::new`], with an Envoy at this locality.
    pub(crate) async fn at(place: &str, understudy: Understudy, port: u16) -> Self {
        Self::started_with(&["--node-locality", place], understudy, port).await
    }

    async fn started_with(more: &[&str], understudy: Understudy, port: u16) -> Self {
        let turn = TURN.lock().await;
        let envoy = Envoy::start(&understudy, "edge-1", "edge", more).await;
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build();
        Self { understudy, envoy, port, client: client.expect("plain HTTP needs nothing"), _turn: turn }
    }

    /// Starts a control plane without files, with a listener. `fill` writes the rest before the Envoy starts.
    pub(crate) async fn by_rest(fill: impl AsyncFnOnce(&Understudy)) -> Self {
        Self::by_rest_speaking(STATE_OF_THE_WORLD, fill).await
    }

    async fn by_rest_speaking(variant: Variant, fill: impl AsyncFnOnce(&Understudy)) -> Self {
        Self::by_rest_serving(&[], variant, fill).await
    }

    async fn by_rest_serving(
        arguments: &[&str],
        variant: Variant,
        fill: impl AsyncFnOnce(&Understudy),
    ) -> Self {
        let (understudy, port) = (Understudy::serve(arguments).await, free_port());
        create(&understudy, "/listeners", json!({"name": "web", "address": format!("127.0.0.1:{port}")}))
            .await;
        fill(&understudy).await;
        Self::speaking(variant, understudy, port).await
    }

    /// Starts a request as a client makes it.
    pub(crate) fn request(&self, method: Method, host: &str, path: &str) -> reqwest::RequestBuilder {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        self.client.request(method, url).header("host", host)
    }

    /// Returns the backend that answers a GET of `/`. Any other outcome is the error.
    pub(crate) async fn serving_backend(&self) -> Result<String, String> {
        self.serving_backend_by(Method::GET).await
    }

    /// Does the same as [`Self::ask`], by another method.
    pub(crate) async fn serving_backend_by(&self, method: Method) -> Result<String, String> {
        let response =
            self.request(method, "127.0.0.1", "/").send().await.map_err(|error| format!("{error:?}"))?;
        let name = response.headers().get("x-backend").map(|name| String::from_utf8_lossy(name.as_bytes()));
        match (response.status().as_u16(), name) {
            (200, Some(name)) => Ok(name.into_owned()),
            (status, name) => Err(format!("{status} by {name:?}")),
        }
    }

    /// Waits until a GET is answered by this backend.
    pub(crate) async fn serves(&self, name: &str, deadline: Duration) {
        eventually(deadline, &format!("{name} serves"), async || match self.serving_backend().await? {
            served_by if served_by == name => Ok(()),
            served_by => Err(format!("{served_by} serves")),
        })
        .await;
    }

    /// Returns the URL for load.
    pub(crate) fn url(&self) -> Url {
        format!("http://127.0.0.1:{}/", self.port).parse().expect("it is a URL")
    }

    /// Starts load of GETs of `/`.
    pub(crate) fn load(&self, requests_per_second: u32) -> OpenLoad {
        OpenLoad::start(LoadOptions::get(self.url(), requests_per_second))
    }

    /// Returns the snapshot of the default fleet.
    pub(crate) async fn snapshot(&self) -> Value {
        snapshot(&self.understudy).await
    }
}

/// Returns the snapshot of the default fleet.
pub(crate) async fn snapshot(understudy: &Understudy) -> Value {
    let (status, snapshot) = understudy.get("/snapshots/default").await;
    assert_eq!(status, 200, "{snapshot}");
    snapshot
}

/// Returns the output of `understudy status`.
pub(crate) fn printed_status(control_plane: &Understudy) -> String {
    let output = understudy(&["status", "--admin", &control_plane.admin.to_string()]).output();
    String::from_utf8(output.expect("it runs").stdout).expect("it is text")
}

/// Sends a POST that must be accepted, and returns the entity as it was stored.
pub(crate) async fn create(understudy: &Understudy, path: &str, body: Value) -> Value {
    let (status, stored) = understudy.post(path, body.clone()).await;
    assert_eq!(status, 201, "POST {path} {body}: {stored}");
    stored
}

/// Creates an upstream `checkout` of these targets, and a service and a route from `/` of any host.
pub(crate) async fn checkout(understudy: &Understudy, service: Value, targets: &[&Backend]) {
    create(understudy, "/upstreams", json!({"name": "checkout"})).await;
    for target in targets {
        create(understudy, "/upstreams/checkout/targets", json!({"target": target.address().to_string()}))
            .await;
    }
    let mut body = json!({"name": "checkout", "upstream": "checkout"});
    for (key, value) in service.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    create(understudy, "/services", body).await;
    create(understudy, "/routes", json!({"name": "checkout", "service": "checkout"})).await;
}

/// Waits until the only node has taken everything that it should run. Envoy acknowledges clusters when they
/// are warm.
pub(crate) async fn all_acked(understudy: &Understudy, deadline: Duration) {
    eventually(deadline, "the Envoy has all", async || {
        let (_, fleet) = understudy.get("/fleet").await;
        let types = fleet["nodes"][0]["types"].as_object().cloned().unwrap_or_default();
        let acked = types.values().filter(|one| one["state"] == "acked").count();
        if types.len() >= 4 && acked == types.len() { Ok(()) } else { Err(fleet.to_string()) }
    })
    .await;
}

/// Two primaries, A and B, and the standby FAILOVER.
pub(crate) struct Backends {
    pub(crate) a: Backend,
    pub(crate) b: Backend,
    pub(crate) failover: Backend,
}

impl Backends {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts the backends with options.
    pub(crate) async fn start_with(more: &'static [&'static str]) -> Self {
        Self {
            a: Backend::start_with("A", more).await,
            b: Backend::start_with("B", more).await,
            failover: Backend::start_with("FAILOVER", more).await,
        }
    }

    pub(crate) fn primaries(&mut self) -> [&mut Backend; 2] {
        [&mut self.a, &mut self.b]
    }

    /// Starts a control plane that sends `/` to the primaries, and an Envoy. `service` has the settings of
    /// the service that differ from the default.
    pub(crate) async fn edge(&self, service: Value) -> Edge {
        self.edge_speaking(STATE_OF_THE_WORLD, service).await
    }

    /// Does the same as [`Self::edge`], with an Envoy that speaks this variant.
    pub(crate) async fn edge_speaking(&self, variant: Variant, service: Value) -> Edge {
        self.edge_serving(&[], variant, service).await
    }

    /// Does the same as [`Self::edge_speaking`], with a control plane that brings changes to all Envoys at
    /// once.
    pub(crate) async fn edge_without_canary(&self, variant: Variant) -> Edge {
        let config = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/envoy/without-canary.yaml");
        self.edge_serving(&[config], variant, json!({})).await
    }

    /// Does the same as [`Self::edge`], with a control plane that has these files too.
    pub(crate) async fn edge_of_files(&self, files: &[&str]) -> Edge {
        self.edge_serving(files, STATE_OF_THE_WORLD, json!({})).await
    }

    async fn edge_serving(&self, arguments: &[&str], variant: Variant, service: Value) -> Edge {
        let edge = Edge::by_rest_serving(arguments, variant, async |understudy| {
            checkout(understudy, service, &[&self.a, &self.b]).await;
            let standby = json!({"target": self.failover.address().to_string(), "failover": true});
            create(understudy, "/upstreams/checkout/targets", standby).await;
        })
        .await;
        edge.serves("A", PATIENCE).await;
        edge.serves("B", PATIENCE).await;
        edge
    }
}

/// Ends the current window, waits until a new one has so many requests, and returns that with their answers.
pub(crate) async fn window(load: &OpenLoad, requests: u64) -> Window {
    load.end_window();
    eventually(PATIENCE, "the load goes on", async || match load.current().requests {
        sent if sent >= requests => Ok(()),
        sent => Err(format!("{sent} of {requests} sent")),
    })
    .await;
    load.complete_window(load.end_window()).await
}

/// Waits until 100 requests in a row were answered fast, and by all of these backends and no others.
pub(crate) async fn comes_to_rest(load: &OpenLoad, backends: &[&str]) {
    eventually(REST, &format!("{backends:?} serve, and fast"), async || {
        let window = window(load, 100).await;
        let served_by = window.served_by.keys().map(String::as_str);
        match window.errors == 0 && window.slowest < FAST && served_by.eq(backends.iter().copied()) {
            true => Ok(()),
            false => Err(format!("{window:?}")),
        }
    })
    .await;
}

/// Ends the load. Every request must have been answered 200 by a backend.
pub(crate) async fn faultless(load: OpenLoad) -> Vec<RequestOutcome> {
    let outcomes = load.stop().await;
    let first = outcomes.first().expect("there was load").started;
    let good = |outcome: &&RequestOutcome| {
        outcome.result.as_ref().is_ok_and(|answer| answer.status == 200 && answer.served_by.is_some())
    };
    let bad: Vec<&RequestOutcome> = outcomes.iter().filter(|outcome| !good(outcome)).collect();
    let told = bad.iter().take(10).map(|outcome| {
        format!("\n  sent at {:?}, {:?} long: {:?}", outcome.started - first, outcome.latency, outcome.result)
    });
    assert!(bad.is_empty(), "{} of {} failed:{}", bad.len(), outcomes.len(), told.collect::<String>());
    outcomes
}

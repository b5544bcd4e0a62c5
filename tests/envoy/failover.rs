//! Tests of failover: a dead primary costs no request, and the standby serves when it should.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Backend, PATIENCE, eventually};
use crate::stage::{Backends, Edge, FAST, comes_to_rest, faultless, window};

/// Fault of a target.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Kill,
    Freeze,
    Status503,
    Reset,
}

impl Fault {
    async fn apply(self, backend: &mut Backend) {
        match self {
            Self::Kill => backend.kill(),
            Self::Freeze => backend.freeze(),
            Self::Status503 => backend.mode("status 503").await,
            Self::Reset => backend.mode("reset").await,
        }
    }
}

/// Tests that all primaries fail at once under 300 requests a second, with nothing but defaults, without a
/// failed request.
async fn costs_no_request(fault: Fault) {
    let mut backends = Backends::start().await;
    let edge = backends.edge(json!({})).await;
    let load = edge.load(300);
    let before = window(&load, 300).await;
    assert_eq!(before.served_by.keys().collect::<Vec<_>>(), ["A", "B"], "{before:?}");
    for primary in backends.primaries() {
        fault.apply(primary).await;
    }
    comes_to_rest(&load, &["FAILOVER"]).await;
    if matches!(fault, Fault::Status503 | Fault::Reset) {
        // Otherwise they would be tried first each time, and only the retries be answered.
        let tried = backends.a.gets().await + backends.b.gets().await;
        window(&load, 100).await;
        assert_eq!(backends.a.gets().await + backends.b.gets().await, tried, "the primaries are out of it");
    }
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_all_primaries_costs_no_request() {
    costs_no_request(Fault::Kill).await;
}

/// Tests a freeze, which costs time: the defaults suit services of unknown speed, and a try may take 5 s.
#[tokio::test(flavor = "multi_thread")]
async fn freezing_all_primaries_costs_no_request() {
    costs_no_request(Fault::Freeze).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_primaries_answering_503_costs_no_request() {
    costs_no_request(Fault::Status503).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_primaries_resetting_connections_costs_no_request() {
    costs_no_request(Fault::Reset).await;
}

/// Tests a failure before anything was detected: the tries of one request are enough to reach the standby.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_request_after_all_primaries_broke_reaches_the_standby() {
    for mode in ["status 503", "status 500", "reset", "close"] {
        let mut backends = Backends::start().await;
        let edge = backends.edge(json!({})).await;
        for primary in backends.primaries() {
            primary.mode(mode).await;
        }
        assert_eq!(edge.serving_backend().await, Ok("FAILOVER".to_owned()), "{mode}");
        let stats = edge.envoy.stats("cluster.checkout.outlier_detection.ejections_active").await;
        assert_eq!(stats["cluster.checkout.outlier_detection.ejections_active"], 0, "{mode}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_primary_is_enough_to_leave_the_standby_alone() {
    let mut backends = Backends::start().await;
    let edge = backends.edge(json!({})).await;
    let load = edge.load(300);
    window(&load, 100).await;
    backends.a.kill();
    comes_to_rest(&load, &["B"]).await;
    faultless(load).await;
    assert_eq!(backends.failover.gets().await, 0, "not even a retry goes to FAILOVER");
}

/// Returns the number of requests that an Envoy has sent to a backend.
async fn sent_to(edge: &Edge, backend: &Backend) -> u64 {
    let clusters = edge.envoy.clusters().await;
    let clusters = clusters["cluster_statuses"].as_array().into_iter().flatten();
    let mut hosts = clusters.filter_map(|cluster| cluster["host_statuses"].as_array()).flatten();
    let port = &json!(backend.address().port());
    let host = hosts.find(|host| host["address"]["socket_address"]["port_value"] == *port);
    let stats = host.and_then(|host| host["stats"].as_array()).into_iter().flatten();
    let total = stats.filter(|stat| stat["name"] == "rq_total").find_map(|stat| stat["value"].as_str());
    total.and_then(|total| total.parse().ok()).expect("Envoy counts the requests to each host")
}

/// Tests a fast recovery. A quiet machine needs 0.3 s: one try, and the time to see five of them fail. 1 s is
/// allowed, so that a busy one passes. The load is watched for 4 s: 10 s after the freeze the first ejection
/// ends, and the next request finds out that the primaries are still frozen.
#[tokio::test(flavor = "multi_thread")]
async fn a_fast_service_recovers_from_a_freeze_within_a_second() {
    let backends = Backends::start().await;
    let edge = backends.edge(json!({"try_timeout": "250ms"})).await;
    let load = edge.load(300);
    window(&load, 300).await;
    let frozen = Instant::now();
    backends.a.freeze();
    backends.b.freeze();
    eventually(PATIENCE, "a second has passed", async || match frozen.elapsed() {
        passed if passed >= Duration::from_secs(1) => Ok(()),
        passed => Err(format!("{passed:?}")),
    })
    .await;
    let tried = (sent_to(&edge, &backends.a).await, sent_to(&edge, &backends.b).await);
    let after = window(&load, 1200).await;
    assert_eq!(
        (sent_to(&edge, &backends.a).await, sent_to(&edge, &backends.b).await),
        tried,
        "nobody waits for them"
    );
    assert!(frozen.elapsed() < Duration::from_secs(9), "the machine is too slow to tell");
    assert_eq!(after.served_by.into_keys().collect::<Vec<_>>(), ["FAILOVER"]);

    let outcomes = faultless(load).await;
    let late = outcomes.iter().filter(|outcome| outcome.started > frozen + Duration::from_secs(1));
    let slow: Vec<Duration> =
        late.map(|outcome| outcome.latency).filter(|latency| *latency >= FAST).collect();
    // The machine may stall for a moment; requests that waited for a frozen target were checked above.
    assert!(slow.len() <= 5, "{} requests were slow: {slow:?}", slow.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_service_that_takes_2_s_is_left_in_peace() {
    let mut backends = Backends::start().await;
    let edge = backends.edge(json!({})).await;
    for primary in backends.primaries() {
        primary.mode("slow 2s").await;
    }
    let before = backends.a.gets().await + backends.b.gets().await;
    let load = edge.load(20);
    window(&load, 160).await;

    let sent = faultless(load).await.len() as u64;
    let executed = backends.a.gets().await + backends.b.gets().await - before;
    assert_eq!(executed, sent, "each request is executed once");
    assert_eq!(backends.failover.gets().await, 0);
    let stats = edge.envoy.stats("cluster.checkout.").await;
    for name in
        ["upstream_rq_retry", "upstream_rq_per_try_timeout", "outlier_detection.ejections_enforced_total"]
    {
        assert_eq!(stats[&format!("cluster.checkout.{name}")], 0, "{name}");
    }
}

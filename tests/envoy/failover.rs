//! A dead primary costs no request, and the standby serves when it should.

use std::time::{Duration, Instant};

use serde_json::json;
use understudy::load::Outcome;

use crate::harness::Backend;
use crate::stage::{Cast, FAST, comes_to_rest, faultless, window};

/// How a target dies.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Kill,
    Freeze,
    Status503,
    Reset,
}

impl Fault {
    async fn strike(self, backend: &mut Backend) {
        match self {
            Self::Kill => backend.kill(),
            Self::Freeze => backend.freeze(),
            Self::Status503 => backend.mode("status 503").await,
            Self::Reset => backend.mode("reset").await,
        }
    }
}

/// All primaries fail at once under 300 requests a second, with nothing but defaults.
async fn costs_no_request(fault: Fault) {
    let mut cast = Cast::start().await;
    let edge = cast.edge(json!({})).await;
    let load = edge.load(300);
    let before = window(&load, 300).await;
    assert_eq!(before.served_by.keys().collect::<Vec<_>>(), ["A", "B"], "{before:?}");
    for primary in cast.primaries() {
        fault.strike(primary).await;
    }
    comes_to_rest(&load, &["FAILOVER"]).await;
    if matches!(fault, Fault::Status503 | Fault::Reset) {
        // Else they would be tried first each time, and only the retries be answered.
        let tried = cast.a.gets().await + cast.b.gets().await;
        window(&load, 100).await;
        assert_eq!(cast.a.gets().await + cast.b.gets().await, tried, "the primaries are out of it");
    }
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_all_primaries_costs_no_request() {
    costs_no_request(Fault::Kill).await;
}

/// It costs time: the defaults suit services of unknown speed, and a try may take 5 s.
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

/// Before anything was detected: the tries of one request are enough to get there.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_request_after_all_primaries_broke_reaches_the_standby() {
    for mode in ["status 503", "status 500", "reset", "close"] {
        let mut cast = Cast::start().await;
        let edge = cast.edge(json!({})).await;
        for primary in cast.primaries() {
            primary.mode(mode).await;
        }
        assert_eq!(edge.ask().await, Ok("FAILOVER".to_owned()), "{mode}");
        let stats = edge.envoy.stats("cluster.checkout.outlier_detection.ejections_active").await;
        assert_eq!(stats["cluster.checkout.outlier_detection.ejections_active"], 0, "{mode}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_primary_is_enough_to_leave_the_standby_alone() {
    let mut cast = Cast::start().await;
    let edge = cast.edge(json!({})).await;
    let load = edge.load(300);
    window(&load, 100).await;
    cast.a.kill();
    comes_to_rest(&load, &["B"]).await;
    faultless(load).await;
    assert_eq!(cast.failover.gets().await, 0, "not even a retry goes to FAILOVER");
}

/// A quiet machine is there after 0.3 s (`envoy-facts.md`, trap L and section 2). 1 s is allowed, so that a
/// busy one passes, and what begins later must be fast. For 4 s: after 10 s the first ejection ends, and the
/// next request finds out that the primaries are still frozen.
#[tokio::test(flavor = "multi_thread")]
async fn a_fast_service_recovers_from_a_freeze_within_a_second() {
    let cast = Cast::start().await;
    let edge = cast.edge(json!({"try_timeout": "250ms"})).await;
    let load = edge.load(300);
    window(&load, 300).await;
    let frozen = Instant::now();
    cast.a.freeze();
    cast.b.freeze();
    window(&load, 1500).await;

    let outcomes = faultless(load).await;
    let (from, to) = (frozen + Duration::from_secs(1), frozen + Duration::from_secs(5));
    let late = outcomes.iter().filter(|outcome| (from..to).contains(&outcome.started));
    let good = |outcome: &Outcome| {
        let served_by = outcome.result.as_ref().ok().and_then(|answer| answer.served_by.as_deref());
        served_by == Some("FAILOVER") && outcome.latency < FAST
    };
    assert!(late.clone().count() > 1000, "only {} requests came late enough to count", late.count());
    let bad: Vec<_> = late.filter(|outcome| !good(outcome)).collect();
    let told = bad.iter().take(10).map(|outcome| {
        format!(
            "\n  {:?} after the freeze, {:?} long: {:?}",
            outcome.started - frozen,
            outcome.latency,
            outcome.result
        )
    });
    assert!(
        bad.is_empty(),
        "{} were slow or went elsewhere:{}\n{}",
        bad.len(),
        told.collect::<String>(),
        edge.envoy.clusters().await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_service_that_takes_2_s_is_left_in_peace() {
    let mut cast = Cast::start().await;
    let edge = cast.edge(json!({})).await;
    for primary in cast.primaries() {
        primary.mode("slow 2s").await;
    }
    let before = cast.a.gets().await + cast.b.gets().await;
    let load = edge.load(20);
    window(&load, 160).await;

    let sent = faultless(load).await.len() as u64;
    let executed = cast.a.gets().await + cast.b.gets().await - before;
    assert_eq!(executed, sent, "each request is executed once");
    assert_eq!(cast.failover.gets().await, 0);
    let stats = edge.envoy.stats("cluster.checkout.").await;
    for name in
        ["upstream_rq_retry", "upstream_rq_per_try_timeout", "outlier_detection.ejections_enforced_total"]
    {
        assert_eq!(stats[&format!("cluster.checkout.{name}")], 0, "{name}");
    }
}

//! A change of the clusters behind an upstream or a service loses no request: what is new is warm before anything
//! leads to it, and what is old goes when nothing does.

use std::time::Duration;

use serde_json::{Value, json};
use understudy::load::Load;

use crate::harness::PATIENCE;
use crate::stage::{
    Cast, DELTA, Edge, STATE_OF_THE_WORLD, Variant, all_acked, comes_to_rest, create, faultless, window,
};

const SETTLED: Duration = PATIENCE;

async fn patch(edge: &Edge, path: &str, body: Value) {
    let (status, told) = edge.understudy.patch(path, body).await;
    assert_eq!(status, 200, "{told}");
    all_acked(&edge.understudy, SETTLED).await;
}

/// The clusters that Envoy has of the upstream and the service, by name.
async fn clusters(edge: &Edge) -> Vec<String> {
    let clusters = edge.envoy.clusters().await;
    let clusters = clusters["cluster_statuses"].as_array().cloned().unwrap_or_default();
    let names = clusters.iter().filter_map(|cluster| cluster["name"].as_str());
    let mut names: Vec<String> = names.filter(|name| *name != "xds_cluster").map(str::to_owned).collect();
    names.sort();
    names
}

async fn under_load(variant: Variant, change: impl AsyncFnOnce(&mut Edge, &mut Cast, &Load)) {
    let mut cast = Cast::start().await;
    let mut edge = cast.edge_speaking(variant, json!({})).await;
    let load = edge.load(300);
    window(&load, 100).await;
    change(&mut edge, &mut cast, &load).await;
    window(&load, 100).await;
    faultless(load).await;
}

/// From one cluster to an aggregate and back.
async fn another_balancer(variant: Variant) {
    under_load(variant, async |edge, cast, load| {
        for balancer in ["maglev", "ring_hash", "round_robin", "maglev", "random"] {
            patch(edge, "/upstreams/checkout", json!({"load_balancer": balancer})).await;
            comes_to_rest(load, &["A", "B"]).await;
        }
        assert_eq!(cast.failover.gets().await, 0, "the primaries were there all the time");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_balancer_costs_no_request() {
    another_balancer(STATE_OF_THE_WORLD).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_balancer_costs_no_request_by_delta() {
    another_balancer(DELTA).await;
}

//! Tests of changes to the clusters behind an upstream or a service. They lose no request: new clusters are
//! warm before anything refers to them, and old ones are removed when nothing does.

use serde_json::{Value, json};
use understudy::cli::demo::load::OpenLoad;

use crate::harness::PATIENCE;
use crate::stage::{
    Backends, DELTA, Edge, STATE_OF_THE_WORLD, Variant, all_acked, comes_to_rest, create, faultless, window,
};

async fn patch(edge: &Edge, path: &str, body: Value) {
    let (status, told) = edge.understudy.patch(path, body).await;
    assert_eq!(status, 200, "{told}");
    all_acked(&edge.understudy, PATIENCE).await;
}

/// Makes a change under 300 requests a second.
async fn under_load(variant: Variant, change: impl AsyncFnOnce(&mut Edge, &mut Backends, &OpenLoad)) {
    let mut backends = Backends::start().await;
    let mut edge = backends.edge_speaking(variant, json!({})).await;
    let load = edge.load(300);
    window(&load, 100).await;
    change(&mut edge, &mut backends, &load).await;
    window(&load, 100).await;
    faultless(load).await;
}

/// Tests the change from one cluster to an aggregate and back.
async fn another_balancer(variant: Variant) {
    under_load(variant, async |edge, backends, load| {
        for balancer in ["maglev", "ring_hash", "round_robin", "maglev", "random"] {
            patch(edge, "/upstreams/checkout", json!({"load_balancer": balancer})).await;
            comes_to_rest(load, &["A", "B"]).await;
        }
        assert_eq!(backends.failover.gets().await, 0, "the primaries were there all the time");
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

/// Tests the first standby of a hash balancer. Its only tier has a cluster of its own, so that a second one
/// does not touch it.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_standby_of_a_hash_balancer_costs_no_request_and_no_connection() {
    under_load(DELTA, async |edge, backends, load| {
        let standby = format!("/upstreams/checkout/targets/{}", backends.failover.address());
        edge.understudy.delete(&standby).await;
        patch(edge, "/upstreams/checkout", json!({"load_balancer": "maglev"})).await;
        comes_to_rest(load, &["A", "B"]).await;
        let before = backends.a.connections().await["accepted"];
        let target = json!({"target": backends.failover.address().to_string(), "failover": true});
        create(&edge.understudy, "/upstreams/checkout/targets", target).await;
        all_acked(&edge.understudy, PATIENCE).await;
        comes_to_rest(load, &["A", "B"]).await;
        // Connections of health checks come on top: one a second.
        let made = backends.a.connections().await["accepted"] - before;
        assert!(made < 10, "{made} new connections to A");
        for primary in backends.primaries() {
            primary.kill();
        }
        comes_to_rest(load, &["FAILOVER"]).await;
    })
    .await;
}

/// Tests the removal of the last primary. Its tier stays, empty, and the standby serves from its warm
/// cluster.
#[tokio::test(flavor = "multi_thread")]
async fn disabling_the_last_primary_of_a_hash_balancer_costs_no_request() {
    under_load(STATE_OF_THE_WORLD, async |edge, backends, load| {
        let settings = json!({"load_balancer": "maglev", "failover": {"when_all_down": "fail"}});
        patch(edge, "/upstreams/checkout", settings).await;
        comes_to_rest(load, &["A", "B"]).await;
        for enabled in [false, true] {
            for primary in [&backends.a, &backends.b] {
                let path = format!("/upstreams/checkout/targets/{}", primary.address());
                patch(edge, &path, json!({"enabled": enabled})).await;
            }
            comes_to_rest(load, if enabled { &["A", "B"] } else { &["FAILOVER"] }).await;
        }
    })
    .await;
}

/// Tests the change from one upstream to a split with a failover member and back, with weights shifted on the
/// way.
#[tokio::test(flavor = "multi_thread")]
async fn a_split_comes_shifts_and_goes_without_costing_a_request() {
    under_load(DELTA, async |edge, backends, load| {
        let target = json!({"target": backends.failover.address().to_string()});
        create(&edge.understudy, "/upstreams", json!({"name": "green", "targets": [target]})).await;
        for (blue, green, expected) in
            [(100, 0, &["A", "B"][..]), (50, 50, &["A", "B", "FAILOVER"]), (0, 100, &["FAILOVER"])]
        {
            let members = json!([{"name": "checkout", "weight": blue}, {"name": "green", "weight": green}]);
            patch(edge, "/services/checkout", json!({"upstream": null, "upstreams": members})).await;
            comes_to_rest(load, expected).await;
        }
        let members = json!([{"name": "checkout"}, {"name": "green", "failover": true}]);
        patch(edge, "/services/checkout", json!({"upstreams": members})).await;
        comes_to_rest(load, &["A", "B"]).await;
        patch(edge, "/services/checkout", json!({"upstream": "checkout", "upstreams": null})).await;
        comes_to_rest(load, &["A", "B"]).await;
    })
    .await;
}

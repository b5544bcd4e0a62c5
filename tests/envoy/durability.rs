//! Tests of durability: acknowledged writes are not lost, and traffic does not need the control plane.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::{Backend, PATIENCE, Understudy};
use crate::stage::{Backends, Edge, all_acked, create, faultless, snapshot, window};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_there_after_sigkill() {
    let mut understudy = Understudy::serve(&[]).await;
    let target = |port: u16| json!({"target": format!("127.0.0.1:{port}")});
    create(&understudy, "/upstreams", json!({"name": "a", "targets": [target(1)]})).await;
    create(&understudy, "/upstreams", json!({"name": "gone"})).await;
    create(&understudy, "/upstreams/a/targets", target(2)).await;
    create(&understudy, "/services", json!({"name": "a", "upstream": "a"})).await;
    create(&understudy, "/routes", json!({"name": "a", "service": "a"})).await;
    assert_eq!(understudy.patch("/services/a", json!({"timeout": "7s"})).await.0, 200);
    assert_eq!(understudy.delete("/upstreams/gone").await.0, 204);
    let before = snapshot(&understudy).await;
    // A kill right after each response, over and over.
    for port in 3..13 {
        create(&understudy, "/upstreams/a/targets", target(port)).await;
        understudy.kill();
        understudy.restart().await;
        let (status, _) = understudy.get(&format!("/upstreams/a/targets/127.0.0.1:{port}")).await;
        assert_eq!(status, 200, "the target with port {port}");
    }
    for port in 3..13 {
        assert_eq!(understudy.delete(&format!("/upstreams/a/targets/127.0.0.1:{port}")).await.0, 204);
    }
    understudy.kill();
    understudy.restart().await;
    assert_eq!(snapshot(&understudy).await, before);
    assert_eq!(understudy.get("/upstreams/gone").await.0, 404);
    assert_eq!(understudy.get("/services/a").await.1["timeout"], "7s");
}

/// Returns the number of times that an Envoy took clusters and listeners, and their versions.
async fn taken(edge: &Edge) -> BTreeMap<String, u64> {
    let mut taken = edge.envoy.stats("cluster_manager.c").await;
    taken.extend(edge.envoy.stats("listener_manager.l").await);
    taken.retain(|name, _| {
        ["ds.update_success", "ds.version", "_added", "_modified", "_removed"]
            .iter()
            .any(|end| name.ends_with(end))
    });
    assert!(taken["cluster_manager.cds.update_success"] > 0, "{taken:?}");
    assert!(taken["listener_manager.lds.update_success"] > 0, "{taken:?}");
    assert!(taken.contains_key("cluster_manager.cluster_modified"), "{taken:?}");
    taken
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_flows_without_the_control_plane_and_nothing_is_applied_anew() {
    let mut backends = Backends::start().await;
    let mut edge = backends.edge(json!({})).await;
    all_acked(&edge.understudy, PATIENCE).await;
    let before = taken(&edge).await;
    let load = edge.load(200);
    edge.understudy.kill();
    let without = window(&load, 400).await;
    assert_eq!(without.served_by.keys().collect::<Vec<_>>(), ["A", "B"]);

    edge.understudy.restart().await;
    all_acked(&edge.understudy, PATIENCE).await;
    assert_eq!(taken(&edge).await, before);
    assert_eq!(backends.failover.gets().await, 0);

    // The new stream carries changes.
    let added = Backend::start("ADDED").await;
    let target: Value = json!({"target": added.address().to_string()});
    create(&edge.understudy, "/upstreams/checkout/targets", target).await;
    edge.serves("ADDED", PATIENCE).await;
    assert_eq!(taken(&edge).await, before, "endpoints change no cluster and no listener");
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_made_while_an_envoy_was_away_reaches_it() {
    let backends = Backends::start().await;
    let mut edge = backends.edge(json!({})).await;
    edge.envoy.process().signal("STOP");
    let standby = json!([{"target": backends.failover.address().to_string()}]);
    create(&edge.understudy, "/upstreams", json!({"name": "new", "targets": standby})).await;
    create(&edge.understudy, "/services", json!({"name": "new", "upstream": "new"})).await;
    assert_eq!(edge.understudy.patch("/routes/checkout", json!({"service": "new"})).await.0, 200);
    assert_eq!(edge.understudy.delete("/services/checkout").await.0, 204);
    assert_eq!(edge.understudy.delete("/upstreams/checkout").await.0, 204);
    edge.understudy.restart().await;
    edge.envoy.process().signal("CONT");
    edge.serves("FAILOVER", PATIENCE).await;
}

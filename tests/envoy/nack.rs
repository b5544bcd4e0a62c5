//! Tests of refusals: a resource that an Envoy refuses is reported, and costs no request. They run without
//! canaries, which would stop it; for those see `canary`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{PATIENCE, Understudy, eventually, free_port};
use crate::stage::{Backends, DELTA, STATE_OF_THE_WORLD, Variant, create, faultless, window};

/// Waits until the only node is in this state with its listeners, and returns their status.
async fn listeners(understudy: &Understudy, state: &str) -> Value {
    standing(understudy, "listeners", state).await
}

/// Waits until the only node is in this state with a type, and returns the status of that type.
async fn standing(understudy: &Understudy, plural: &str, state: &str) -> Value {
    eventually(PATIENCE, &format!("the {plural} are {state}"), async || {
        let (_, fleet) = understudy.get("/fleet").await;
        match fleet["nodes"][0]["types"][plural].clone() {
            standing if standing["state"] == state => Ok(standing),
            _ => Err(fleet.to_string()),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_cannot_be_bound_is_reported_and_costs_no_request() {
    let backends = Backends::start().await;
    let edge = backends.edge_without_canary(STATE_OF_THE_WORLD).await;
    let understudy = &edge.understudy;
    let before = listeners(understudy, "acked").await;
    let load = edge.load(200);

    // An address of no machine (RFC 5737).
    create(understudy, "/listeners", json!({"name": "bad", "address": format!("192.0.2.1:{}", free_port())}))
        .await;
    let refused = listeners(understudy, "nacked").await;
    let words = "cannot bind '192.0.2.1:";
    assert!(refused["error"].as_str().is_some_and(|error| error.contains(words)), "{refused}");
    assert_eq!(refused["version"], before["version"], "the version that it runs");
    let logged = async || match understudy.log() {
        log if log.lines().any(|line| line.contains("WARN") && line.contains(words)) => Ok(()),
        log => Err(log),
    };
    eventually(PATIENCE, "the refusal is in the log", logged).await;
    let during = window(&load, 200).await;
    assert_eq!(during.served_by.keys().collect::<Vec<_>>(), ["A", "B"]);

    assert_eq!(understudy.delete("/listeners/bad").await.0, 204);
    let after = listeners(understudy, "acked").await;
    assert_eq!(after["version"], before["version"]);
    assert_eq!(after["error"], Value::Null);
    assert!(after["last_error"].as_str().is_some_and(|error| error.contains(words)), "{after}");
    window(&load, 100).await;
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_change_goes_through_beside_a_refused_listener() {
    let backends = Backends::start().await;
    let edge = backends.edge_without_canary(STATE_OF_THE_WORLD).await;
    let understudy = &edge.understudy;
    create(understudy, "/listeners", json!({"name": "bad", "address": format!("192.0.2.1:{}", free_port())}))
        .await;
    listeners(understudy, "nacked").await;
    let targets = json!([{"target": backends.failover.address().to_string()}]);
    create(understudy, "/upstreams", json!({"name": "new", "targets": targets})).await;
    create(understudy, "/services", json!({"name": "new", "upstream": "new"})).await;
    assert_eq!(understudy.patch("/routes/checkout", json!({"service": "new"})).await.0, 200);
    edge.serves("FAILOVER", Duration::from_secs(5)).await;
}

/// Returns a cluster that Envoy refuses: a static cluster needs a numeric address.
fn bad_cluster(name: &str) -> Value {
    let address = json!({"socket_address": {"address": "no-number", "port_value": 80}});
    let endpoints = json!([{"lb_endpoints": [{"endpoint": {"address": address}}]}]);
    let load_assignment = json!({"cluster_name": name, "endpoints": endpoints});
    json!({"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": load_assignment})
}

async fn a_refused_cluster_stops_neither_what_came_with_it_nor_what_comes_later(variant: Variant) {
    let backends = Backends::start().await;
    let edge = backends.edge_without_canary(variant).await;
    let understudy = &edge.understudy;
    let load = edge.load(200);
    window(&load, 50).await;
    // Together: a cluster that is refused, and an upstream to which the route goes.
    let targets = json!([{"target": backends.failover.address().to_string()}]);
    let changes = json!([
        {"method": "PUT", "path": "/raw/clusters/bad", "body": bad_cluster("bad")},
        {"method": "POST", "path": "/upstreams", "body": {"name": "one", "targets": targets}},
        {"method": "POST", "path": "/services", "body": {"name": "one", "upstream": "one"}},
        {"method": "PATCH", "path": "/routes/checkout", "body": {"service": "one"}},
    ]);
    let (status, answer) = understudy.patch("/config", json!({"changes": changes})).await;
    assert_eq!(status, 200, "{answer}");
    let refused = standing(understudy, "clusters", "nacked").await;
    let words = "no-number";
    assert!(refused["error"].as_str().is_some_and(|error| error.contains(words)), "{refused}");
    edge.serves("FAILOVER", PATIENCE).await;

    let targets = json!([{"target": backends.a.address().to_string()}]);
    create(understudy, "/upstreams", json!({"name": "two", "targets": targets})).await;
    create(understudy, "/services", json!({"name": "two", "upstream": "two"})).await;
    assert_eq!(understudy.patch("/routes/checkout", json!({"service": "two"})).await.0, 200);
    edge.serves("A", PATIENCE).await;
    standing(understudy, "clusters", "nacked").await;
    let rejected = edge.envoy.stats("cluster_manager.cds.update_rejected").await;
    let held_back = understudy.log().lines().filter(|line| line.contains("held_back=\"bad\"")).count();
    assert_eq!(held_back, 1, "{}", understudy.log());

    assert_eq!(understudy.delete("/raw/clusters/bad").await.0, 204);
    standing(understudy, "clusters", "acked").await;
    let after = edge.envoy.stats("cluster_manager.cds.update_rejected").await;
    assert_eq!(rejected, after, "it was not offered again");
    window(&load, 50).await;
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_11_a_refused_cluster_stops_nothing_else_in_state_of_the_world() {
    a_refused_cluster_stops_neither_what_came_with_it_nor_what_comes_later(STATE_OF_THE_WORLD).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_11_a_refused_cluster_stops_nothing_else_in_delta() {
    a_refused_cluster_stops_neither_what_came_with_it_nor_what_comes_later(DELTA).await;
}

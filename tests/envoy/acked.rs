//! Tests of `?wait=acked`: the response to a write says which Envoys have it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{PATIENCE, eventually, free_port};
use crate::stage::{Backends, DELTA, Edge, STATE_OF_THE_WORLD, Variant, all_acked};

/// Returns the weight that Envoy has for a target now.
async fn weight(edge: &Edge, target: &str) -> Value {
    let clusters = edge.envoy.clusters().await;
    let (address, port) = target.rsplit_once(':').expect("it has a port");
    let port: u16 = port.parse().expect("it is a number");
    let of_checkout = clusters["cluster_statuses"].as_array().into_iter().flatten();
    let hosts = of_checkout
        .filter(|cluster| cluster["name"] == "checkout")
        .flat_map(|cluster| cluster["host_statuses"].as_array().into_iter().flatten());
    let is_it = |host: &&Value| {
        let socket = &host["address"]["socket_address"];
        socket["address"] == address && socket["port_value"] == port
    };
    hosts
        .cloned()
        .collect::<Vec<_>>()
        .iter()
        .find(is_it)
        .map(|host| host["weight"].clone())
        .unwrap_or_default()
}

async fn an_answer_waits_for_the_envoy_or_names_it(variant: Variant) {
    let backends = Backends::start().await;
    let mut edge = backends.edge_speaking(variant, json!({})).await;
    all_acked(&edge.understudy, PATIENCE).await;
    let target = "127.0.0.1:9";
    let path = format!("/upstreams/checkout/targets/{target}");

    // No polling: the response must be true when it arrives.
    let create = json!({"target": target, "weight": 7, "failover": true});
    let (status, answer) =
        edge.understudy.post("/upstreams/checkout/targets?wait=acked&timeout=30s", create).await;
    assert_eq!(status, 201, "{answer}");
    assert_eq!(weight(&edge, target).await, json!(7));
    for weight_wanted in [11, 13, 17] {
        let patch = json!({"weight": weight_wanted});
        let (status, answer) = edge.understudy.patch(&format!("{path}?wait=acked&timeout=30s"), patch).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(weight(&edge, target).await, json!(weight_wanted));
    }

    edge.envoy.process().signal("STOP");
    let (status, answer) =
        edge.understudy.patch(&format!("{path}?wait=acked&timeout=500ms"), json!({"weight": 19})).await;
    assert_eq!(status, 202, "{answer}");
    let waiting = &answer["waiting_for"];
    assert_eq!(
        (&waiting[0]["node"], &waiting[0]["fleet"]),
        (&json!("edge-1"), &json!("default")),
        "{answer}"
    );
    assert!(
        waiting[0]["types"]
            .as_array()
            .is_some_and(|types| types.contains(&json!({"type": "endpoints", "state": "pending"}))),
        "{answer}"
    );
    assert_eq!(waiting.as_array().map(Vec::len), Some(1));
    assert!(answer["revision"].is_u64(), "{answer}");
    assert_eq!(edge.understudy.get(&path).await.1["weight"], 19, "it is done all the same");
    // A write that affects no Envoy waits for none.
    let (status, answer) =
        edge.understudy.patch(&format!("{path}?wait=acked&timeout=30s"), json!({"tags": ["a"]})).await;
    assert_eq!(status, 200, "{answer}");

    edge.envoy.process().signal("CONT");
    let (status, answer) =
        edge.understudy.patch(&format!("{path}?wait=acked&timeout=30s"), json!({"weight": 23})).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(weight(&edge, target).await, json!(23));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_waits_for_the_envoy_or_names_it_in_state_of_the_world() {
    an_answer_waits_for_the_envoy_or_names_it(STATE_OF_THE_WORLD).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_waits_for_the_envoy_or_names_it_in_delta() {
    an_answer_waits_for_the_envoy_or_names_it(DELTA).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_refuses_is_named_with_its_words() {
    let backends = Backends::start().await;
    let edge = backends.edge_without_canary(STATE_OF_THE_WORLD).await;
    all_acked(&edge.understudy, PATIENCE).await;
    // An address of no machine (RFC 5737).
    let listener = json!({"name": "bad", "address": format!("192.0.2.1:{}", free_port())});
    let (status, answer) = edge.understudy.post("/listeners?wait=acked&timeout=2s", listener).await;
    assert_eq!(status, 202, "{answer}");
    let told = &answer["waiting_for"][0];
    assert_eq!(told["node"], "edge-1", "{answer}");
    let refused = told["types"].as_array().into_iter().flatten().find(|it| it["type"] == "listeners");
    let refused = refused.unwrap_or_else(|| panic!("{answer}"));
    assert_eq!(refused["state"], "nacked");
    assert!(refused["error"].as_str().is_some_and(|error| error.contains("cannot bind")), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_leaves_is_not_waited_for() {
    let backends = Backends::start().await;
    let mut edge = backends.edge_speaking(STATE_OF_THE_WORLD, json!({})).await;
    all_acked(&edge.understudy, PATIENCE).await;
    edge.envoy.kill();
    eventually(PATIENCE, "it is seen to be gone", async || {
        let (_, status) = edge.understudy.get("/status").await;
        if status["nodes"] == json!(0) { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    let began = std::time::Instant::now();
    let create = json!({"target": "127.0.0.1:9", "failover": true});
    let (status, answer) =
        edge.understudy.post("/upstreams/checkout/targets?wait=acked&timeout=60s", create).await;
    assert_eq!(status, 201, "{answer}");
    assert!(began.elapsed() < Duration::from_secs(30), "nobody is connected");
}

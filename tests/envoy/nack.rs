//! What an Envoy refuses is told, and costs no request. Without canaries, which would stop it: see `canary`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{PATIENCE, Understudy, eventually, free_port};
use crate::stage::{Cast, create, faultless, window};

/// Waits until the only node is in this state with its listeners, and gives what is told of them.
async fn listeners(understudy: &Understudy, state: &str) -> Value {
    eventually(PATIENCE, &format!("the listeners are {state}"), async || {
        let (_, fleet) = understudy.get("/fleet").await;
        match fleet["nodes"][0]["types"]["listeners"].clone() {
            listeners if listeners["state"] == state => Ok(listeners),
            _ => Err(fleet.to_string()),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_cannot_be_bound_is_told_and_costs_no_request() {
    let cast = Cast::start().await;
    let edge = cast.edge_without_canary().await;
    let understudy = &edge.understudy;
    let before = listeners(understudy, "acked").await;
    let load = edge.load(200);

    // RFC 5737: nobody has this address.
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
    let cast = Cast::start().await;
    let edge = cast.edge_without_canary().await;
    let understudy = &edge.understudy;
    create(understudy, "/listeners", json!({"name": "bad", "address": format!("192.0.2.1:{}", free_port())}))
        .await;
    listeners(understudy, "nacked").await;
    let targets = json!([{"target": cast.failover.address().to_string()}]);
    create(understudy, "/upstreams", json!({"name": "new", "targets": targets})).await;
    create(understudy, "/services", json!({"name": "new", "upstream": "new"})).await;
    assert_eq!(understudy.patch("/routes/checkout", json!({"service": "new"})).await.0, 200);
    edge.serves("FAILOVER", Duration::from_secs(5)).await;
}

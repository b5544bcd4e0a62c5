//! Tests of whole responses: answers that are cut or stall half-way are held until they are whole.

use http::Method;
use serde_json::{Value, json};

use crate::harness::PATIENCE;
use crate::stage::{Backends, Edge, checkout, comes_to_rest, create, faultless, window};

/// Starts two primaries and a standby whose answers are held, with tries short enough that a stall is noticed
/// soon.
async fn holding(backends: &Backends, settings: Value) -> Edge {
    let edge = Edge::by_rest(async |understudy| {
        let service = json!({"try_timeout": "500ms"});
        checkout(understudy, service, &[&backends.a, &backends.b]).await;
        let (status, told) = understudy.patch("/upstreams/checkout", settings).await;
        assert_eq!(status, 200, "{told}");
        let standby = json!({"target": backends.failover.address().to_string(), "failover": true});
        create(understudy, "/upstreams/checkout/targets", standby).await;
    })
    .await;
    edge.serves("A", PATIENCE).await;
    edge.serves("B", PATIENCE).await;
    edge
}

/// Tests that all primaries answer in this mode, while their checks go on to succeed, without a failed
/// request.
async fn costs_no_request(settings: Value, modes: &[&str]) {
    for mode in modes {
        let mut backends = Backends::start().await;
        let edge = holding(&backends, settings.clone()).await;
        let load = edge.load(300);
        window(&load, 100).await;
        for primary in backends.primaries() {
            primary.health("ok").await;
            primary.mode(mode).await;
        }
        comes_to_rest(&load, &["FAILOVER"]).await;
        faultless(load).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_and_stalled_answers_cost_no_request() {
    costs_no_request(json!({"whole_response": true}), &["cut", "cut fin", "stall"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_and_stalled_answers_cost_no_request_under_an_aggregate() {
    costs_no_request(json!({"whole_response": true, "load_balancer": "maglev"}), &["cut", "stall"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_chunked_answers_cost_no_request_where_they_are_held() {
    costs_no_request(json!({"whole_response": {"chunked": "hold"}}), &["cut chunked"]).await;
}

/// Tests that answers without a body, or with one that is too long to hold, pass.
#[tokio::test(flavor = "multi_thread")]
async fn answers_without_a_body_and_long_ones_pass() {
    for settings in [json!({"max": "4B"}), json!({"chunked": "hold"})] {
        let mut backends = Backends::start().await;
        let edge = holding(&backends, json!({"whole_response": settings})).await;
        for method in [Method::HEAD, Method::GET, Method::POST] {
            let answer = edge.serving_backend_by(method.clone()).await;
            assert!(answer.is_ok(), "{method}: {answer:?}");
        }
        for primary in backends.primaries() {
            primary.mode("status 204").await;
        }
        let response = edge.request(Method::GET, "127.0.0.1", "/").send().await.expect("it is answered");
        assert_eq!(response.status(), 204);
    }
}

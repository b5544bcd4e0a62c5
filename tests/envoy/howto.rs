//! Tests of the manual's steps with two primaries and a failover target: by REST alone, and from files.

use std::fs;

use reqwest::Method;
use serde_json::json;

use crate::harness::{Backend, PATIENCE, Understudy, free_port};
use crate::stage::{Backends, Edge, comes_to_rest, create, faultless, window};

#[tokio::test(flavor = "multi_thread")]
async fn the_how_to_works_by_rest_alone() {
    let mut backends = Backends::start().await;
    let edge = Edge::by_rest(async |understudy| {
        let upstream = create(understudy, "/upstreams", json!({"name": "checkout"})).await;
        assert_eq!(upstream, json!({"name": "checkout", "targets": []}));
        let service = json!({"name": "checkout", "upstream": "checkout"});
        assert_eq!(create(understudy, "/services", service.clone()).await, service);
        let route = json!({"name": "checkout", "service": "checkout"});
        assert_eq!(create(understudy, "/routes", route.clone()).await, route);
        for (backend, failover) in [(&backends.a, false), (&backends.b, false), (&backends.failover, true)] {
            let address = backend.address().to_string();
            let target = match failover {
                true => json!({"target": address, "failover": true}),
                false => json!({"target": address}),
            };
            let stored = create(understudy, "/upstreams/checkout/targets/", target).await;
            assert_eq!(stored, json!({"target": address, "weight": 100, "failover": failover}));
        }
    })
    .await;
    both_primaries_go_and_one_returns(&edge, &mut backends).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_how_to_works_from_files() {
    let (mut backends, port) = (Backends::start().await, free_port());
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::write(directory.path().join("shop.yaml"), shop(port, &backends)).expect("writes");
    let understudy = Understudy::serve(&[&directory.path().display().to_string()]).await;
    let edge = Edge::new(understudy, port).await;

    let ours = edge
        .request(Method::GET, "shop.example.com", "/checkout")
        .send()
        .await
        .expect("the listener is there");
    assert_eq!(ours.status(), 200);
    for (host, path) in [("other.example.com", "/checkout"), ("shop.example.com", "/checkouts")] {
        let other = edge.request(Method::GET, host, path).send().await.expect("the listener is there");
        assert_eq!(other.status(), 404, "{host}{path}");
    }
    both_primaries_go_and_one_returns(&edge, &mut backends).await;
}

/// Returns the config of the manual, on loopback.
fn shop(port: u16, backends: &Backends) -> String {
    let Backends { a, b, failover } = backends;
    format!(
        "listeners:
  - name: web
    address: 127.0.0.1:{port}
routes:
  - name: checkout
    hosts: [shop.example.com, 127.0.0.1]
    paths: [/checkout, =/]
    service: checkout
services:
  - name: checkout
    upstream: checkout
    timeout: 15s
upstreams:
  - name: checkout
    load_balancer: round_robin
    failover: {{ mode: standby }}
    health_check: {{ http: {{ path: /healthz }}, interval: 1s }}
    targets:
      - {{ target: {a} }}
      - {{ target: {b}, weight: 100 }}
      - {{ target: {failover}, failover: true }}
",
        a = a.address(),
        b = b.address(),
        failover = failover.address()
    )
}

async fn both_primaries_go_and_one_returns(edge: &Edge, backends: &mut Backends) {
    edge.serves("A", PATIENCE).await;
    edge.serves("B", PATIENCE).await;
    let mut last = edge.serving_backend().await.expect("an answer");
    for _ in 0..10 {
        let next = edge.serving_backend().await.expect("an answer");
        assert_ne!(next, last, "the primaries alternate");
        last = next;
    }
    assert_eq!(backends.failover.gets().await, 0);

    let load = edge.load(200);
    comes_to_rest(&load, &["A", "B"]).await;
    backends.a.kill();
    backends.b.kill();
    comes_to_rest(&load, &["FAILOVER"]).await;

    backends.a.restart().await;
    // Not before its ejection ends, 10 s after it began.
    comes_to_rest(&load, &["A"]).await;
    let standby = backends.failover.gets().await;
    let after = window(&load, 200).await;
    assert_eq!(after.served_by.keys().collect::<Vec<_>>(), ["A"]);
    assert_eq!(backends.failover.gets().await, standby, "FAILOVER rests while a primary lives");
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_added_by_rest_serves_beside_those_of_the_file() {
    let (backends, port) = (Backends::start().await, free_port());
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("shop.yaml");
    fs::write(&file, shop(port, &backends)).expect("writes");
    let understudy = Understudy::serve(&[&directory.path().display().to_string()]).await;
    let edge = Edge::new(understudy, port).await;
    let added = Backend::start("ADDED").await;

    let target = json!({"target": added.address().to_string()});
    create(&edge.understudy, "/upstreams/checkout/targets", target.clone()).await;
    for name in ["ADDED", "A", "B"] {
        edge.serves(name, PATIENCE).await;
    }
    let (_, listed) = edge.understudy.get("/upstreams/checkout/targets").await;
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(4), "{listed}");

    let path = format!("/upstreams/checkout/targets/{}", added.address());
    assert_eq!(edge.understudy.delete(&path).await.0, 204);
    assert_eq!(edge.understudy.get(&path).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_file_declares_can_only_be_changed_there() {
    let (backends, port) = (Backends::start().await, free_port());
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("shop.yaml");
    fs::write(&file, shop(port, &backends)).expect("writes");
    let understudy = Understudy::serve(&[&directory.path().display().to_string()]).await;
    let before = crate::stage::snapshot(&understudy).await;

    let target = format!("/upstreams/checkout/targets/{}", backends.a.address());
    let entities = [
        ("/listeners/web", 2, json!({"address": "127.0.0.1:1"})),
        ("/routes/checkout", 5, json!({"service": "checkout"})),
        ("/services/checkout", 10, json!({"upstream": "checkout"})),
        ("/upstreams/checkout", 14, json!({})),
        (&target, 19, json!({"weight": 1})),
    ];
    for (path, line, body) in entities {
        let place = format!("{}:{line}", file.display());
        for (method, (status, problem)) in [
            ("PUT", understudy.put(path, body.clone()).await),
            ("PATCH", understudy.patch(path, body).await),
            ("DELETE", understudy.delete(path).await),
        ] {
            assert_eq!(status, 409, "{method} {path}: {problem}");
            let detail = problem["detail"].as_str().unwrap_or_default();
            assert!(detail.contains(&place), "{method} {path}: `{detail}` does not name {place}");
        }
    }
    assert_eq!(crate::stage::snapshot(&understudy).await, before);
}

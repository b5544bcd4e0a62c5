//! Tests of Kong's own files before a real Envoy: the tutorial on failover targets, and a file that changes while it
//! serves.

use std::fs;
use std::path::Path;

use reqwest::{Method, Url};
use serde_json::json;
use understudy::cli::demo::load::{LoadOptions, OpenLoad};

use crate::harness::{PATIENCE, Understudy, eventually, free_port};
use crate::stage::{Backends, Edge, comes_to_rest, create, faultless, window};

/// The tutorial's decK file: the targets come by the API.
const TUTORIAL: &str = "_format_version: \"3.0\"
services:
  - name: example-service
    host: example-upstream
    routes:
      - name: example-route
        paths:
          - /anything
upstreams:
  - name: example-upstream
    algorithm: round-robin
";

fn listener(directory: &Path, port: u16) {
    let text = format!("listeners:\n  - {{ name: web, address: \"127.0.0.1:{port}\" }}\n");
    fs::write(directory.join("listeners.yaml"), text).expect("writes");
}

async fn serving(edge: &Edge) -> Result<String, String> {
    let response = edge.request(Method::GET, "127.0.0.1", "/anything").send().await;
    let response = response.map_err(|error| format!("{error:?}"))?;
    let name =
        response.headers().get("x-backend").map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned());
    name.ok_or_else(|| format!("{} by nobody", response.status()))
}

async fn serves(edge: &Edge, name: &str) {
    eventually(PATIENCE, &format!("{name} serves"), async || match serving(edge).await? {
        served_by if served_by == name => Ok(()),
        served_by => Err(format!("{served_by} serves")),
    })
    .await;
}

fn load(edge: &Edge) -> OpenLoad {
    let url: Url = format!("http://127.0.0.1:{}/anything", edge.port).parse().expect("a URL");
    OpenLoad::start(LoadOptions::get(url, 300))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tutorial_on_failover_targets_loses_no_request() {
    let (mut backends, port) = (Backends::start().await, free_port());
    let directory = tempfile::tempdir().expect("a temporary directory");
    listener(directory.path(), port);
    fs::write(directory.path().join("kong.yaml"), TUTORIAL).expect("writes");
    let understudy = Understudy::serve(&[&directory.path().display().to_string()]).await;
    let edge = Edge::new(understudy, port).await;
    let without = edge.request(Method::GET, "127.0.0.1", "/anything").send().await.expect("an answer");
    assert_eq!(without.status(), 503, "an upstream without targets");

    for (backend, failover) in [(&backends.a, false), (&backends.b, false), (&backends.failover, true)] {
        let target = json!({ "target": backend.address().to_string(), "weight": 50, "failover": failover });
        create(&edge.understudy, "/upstreams/example-upstream/targets/", target).await;
    }
    serves(&edge, "A").await;
    serves(&edge, "B").await;
    let mut last = serving(&edge).await.expect("an answer");
    for _ in 0..10 {
        let next = serving(&edge).await.expect("an answer");
        assert_ne!(next, last, "the primaries alternate");
        last = next;
    }

    let load = load(&edge);
    comes_to_rest(&load, &["A", "B"]).await;
    backends.a.kill();
    backends.b.kill();
    comes_to_rest(&load, &["FAILOVER"]).await;
    backends.a.restart().await;
    backends.b.restart().await;
    comes_to_rest(&load, &["A", "B"]).await;
    faultless(load).await;

    let (status, problem) = edge.understudy.put("/upstreams/example-upstream", json!({})).await;
    let detail = problem["detail"].as_str().unwrap_or_default().to_owned();
    assert!(status == 409 && detail.contains("kong.yaml:10"), "{status} {problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deck_file_that_changes_is_served_anew_and_one_with_faults_is_not() {
    let (backends, port) = (Backends::start().await, free_port());
    let directory = tempfile::tempdir().expect("a temporary directory");
    listener(directory.path(), port);
    let file = directory.path().join("kong.yaml");
    let with = |targets: &str| format!("{TUTORIAL}    targets: [{targets}]\n");
    let target = |address: &dyn std::fmt::Display| format!("{{ target: \"{address}\" }}");
    fs::write(&file, with(&target(&backends.a.address()))).expect("writes");
    let understudy = Understudy::serve(&[&directory.path().display().to_string()]).await;
    let edge = Edge::new(understudy, port).await;
    serves(&edge, "A").await;
    let load = load(&edge);
    window(&load, 100).await;
    fs::write(&file, with(&target(&backends.b.address()))).expect("writes");
    comes_to_rest(&load, &["B"]).await;

    fs::write(&file, with("{ target: \"10.0.0.1:80\", weight: \"100\" }")).expect("writes");
    eventually(PATIENCE, "the fault is told", async || {
        let (_, violations) = edge.understudy.get("/violations").await;
        let found = violations.as_array().into_iter().flatten().any(|violation| {
            violation["path"] == "upstreams[0].targets[0].weight" && violation["line"] == 12
        });
        found.then_some(()).ok_or_else(|| violations.to_string())
    })
    .await;
    window(&load, 100).await;
    faultless(load).await;
}

//! Tests of POST: a request that may have had an effect is not repeated.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use reqwest::{Method, Url};
use serde_json::json;
use understudy::cli::demo::load::{LoadOptions, OpenLoad};

use crate::harness::{Backend, PATIENCE, eventually};
use crate::stage::{Backends, window};

/// Time for which Envoy may take a connection for open after it ended.
const HEARD: Duration = Duration::from_millis(50);

/// Returns the request id of each POST that reached this backend; a retry keeps the id. Kills the backend, so
/// that the list is complete.
fn executed(backend: &mut Backend) -> Vec<String> {
    backend.kill();
    let log = backend.log();
    log.lines().filter_map(|line| line.strip_prefix("request POST / ")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_post_is_executed_twice_when_all_primaries_are_killed() {
    let mut backends = Backends::start_with(&["--log-requests"]).await;
    let edge = backends.edge(json!({})).await;
    for primary in backends.primaries() {
        primary.mode("slow 100ms").await; // Some ten are on their way at any time.
    }
    let url: Url = edge.url();
    let load = OpenLoad::start(LoadOptions::post(url, 100, "an order"));
    window(&load, 100).await;
    for primary in backends.primaries() {
        primary.kill();
    }
    let dead = Instant::now();
    let after = window(&load, 200).await;
    assert_eq!(after.served_by.keys().collect::<Vec<_>>(), ["FAILOVER"], "{after:?}");

    let outcomes = load.stop().await;
    let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome.result.is_err()).collect();
    let unforeseen = failed.iter().filter(|outcome| outcome.started > dead + HEARD);
    assert_eq!(unforeseen.count(), 0, "{failed:?}");

    let Backends { a, b, failover } = &mut backends;
    let executed: Vec<String> = [a, b, failover].into_iter().flat_map(executed).collect();
    let distinct: BTreeSet<&String> = executed.iter().collect();
    assert_eq!(distinct.len(), executed.len(), "each is executed once");
    assert!(executed.len() <= outcomes.len(), "{} executed, {} sent", executed.len(), outcomes.len());
    let answered = outcomes.len() - failed.len();
    assert!(executed.len() > answered, "some were executed and not answered, else nothing was tested");
    assert!(failed.len() <= 20, "{} failed, and some ten were on their way", failed.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_reached_no_server_is_tried_elsewhere() {
    let mut backends = Backends::start().await;
    let edge = backends.edge(json!({})).await;
    for primary in backends.primaries() {
        primary.kill();
    }
    // Otherwise a request could be sent on one of them, and its progress would be unknown.
    eventually(PATIENCE, "Envoy has heard that its connections were closed", async || {
        let stats = edge.envoy.stats("cluster.checkout.upstream_cx_active").await;
        if stats["cluster.checkout.upstream_cx_active"] == 0 { Ok(()) } else { Err(format!("{stats:?}")) }
    })
    .await;
    assert_eq!(edge.serving_backend_by(Method::POST).await, Ok("FAILOVER".to_owned()));
}

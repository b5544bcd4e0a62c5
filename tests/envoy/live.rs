//! Tests of the live view: the serving tier since when, from load reports, and the health of targets, from
//! checks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Envoy, PATIENCE, eventually, understudy};
use crate::stage::{Backends, Edge, checkout, comes_to_rest, create, faultless, printed_status};

/// Waits for a failover, and returns the newest one.
async fn failover(edge: &Edge) -> Value {
    eventually(PATIENCE, "a failover is told", async || {
        let (_, failovers) = edge.understudy.get("/failovers").await;
        match failovers["items"][0].is_object() {
            true => Ok(failovers["items"][0].clone()),
            false => Err(failovers.to_string()),
        }
    })
    .await
}

async fn health(edge: &Edge) -> Value {
    edge.understudy.get("/upstreams/checkout/health").await.1
}

async fn serving(edge: &Edge, priority: u32) -> Value {
    eventually(PATIENCE, &format!("{priority} is seen to serve"), async || {
        let health = health(edge).await;
        if health["serving_priority"] == priority { Ok(health) } else { Err(health.to_string()) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_primaries_are_reported_within_two_seconds_and_so_is_their_return() {
    let mut backends = Backends::start().await;
    let edge = backends.edge(json!({})).await;
    let load = edge.load(300);
    comes_to_rest(&load, &["A", "B"]).await;
    let health = serving(&edge, 0).await;
    let shares: Vec<Option<f64>> =
        health["targets"].as_array().into_iter().flatten().map(|target| target["share"].as_f64()).collect();
    assert_eq!(shares.len(), 3, "{health}");
    assert!(shares[0].is_some_and(|share| (45.0..=55.0).contains(&share)), "{health}");
    assert_eq!(health["targets"][0]["health"], "healthy", "{health}");
    assert_eq!(health["targets"][0]["reported_by"], json!(["edge-1"]), "{health}");
    let killed = Instant::now();
    backends.a.kill();
    backends.b.kill();
    let told = failover(&edge).await;
    let after = killed.elapsed();
    // Envoy reports each second, and the first report after the kill shows it unless most of its second was
    // before: 1.3 s at the most, and the delays of a busy machine.
    assert!(after < Duration::from_secs(2), "told after {after:?}: {told}");
    assert_eq!(told["upstream"], "checkout");
    assert_eq!((&told["from"], &told["to"], &told["end"]), (&json!(0), &json!(1), &Value::Null), "{told}");
    assert_eq!(told["nodes"], json!(["edge-1"]), "{told}");
    // Five failed requests eject a target; its checks fail too, but later.
    assert_eq!(told["cause"], "outlier_detection", "{told}");
    let health = serving(&edge, 1).await;
    comes_to_rest(&load, &["FAILOVER"]).await;
    assert_eq!(health["targets"][2]["health"], "healthy", "{health}");
    let (_, topology) = edge.understudy.get("/topology").await;
    assert_eq!(topology["upstreams"][0]["serving_priority"], 1, "{topology}");
    for primary in backends.primaries() {
        primary.restart().await;
    }
    comes_to_rest(&load, &["A", "B"]).await;
    eventually(PATIENCE, "the end is told", async || {
        let told = failover(&edge).await;
        if told["end"].is_string() && told["requests"].as_u64() > Some(0) {
            Ok(())
        } else {
            Err(told.to_string())
        }
    })
    .await;
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_checks_are_distinguished_from_failed_requests() {
    let mut backends = Backends::start().await;
    let edge = backends.edge(json!({})).await;
    let off = json!({"outlier_detection": "off"});
    let (status, answer) = edge.understudy.patch("/upstreams/checkout", off).await;
    assert_eq!(status, 200, "{answer}");
    let load = edge.load(300);
    comes_to_rest(&load, &["A", "B"]).await;
    serving(&edge, 0).await;
    for primary in backends.primaries() {
        primary.kill();
    }
    comes_to_rest(&load, &["FAILOVER"]).await;
    assert_eq!(failover(&edge).await["cause"], "health_check");
    faultless(load).await;
}

/// Tests an Envoy that reported the standby as serving, and then nothing any more, not even to the next
/// control plane.
#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_that_never_returns_keeps_no_failover_open() {
    let mut backends = Backends::start().await;
    let mut edge = backends.edge(json!({})).await;
    let second = Envoy::start(&edge.understudy, "edge-2", "edge", &[]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..4).map(|_| tokio::spawn(ask_all(edge.url(), stop.clone()))).collect();
    serving(&edge, 0).await;
    for primary in backends.primaries() {
        primary.kill();
    }
    eventually(PATIENCE, "both are on the standby", async || {
        let told = failover(&edge).await;
        if told["nodes"] == json!(["edge-1", "edge-2"]) { Ok(()) } else { Err(told.to_string()) }
    })
    .await;
    eventually(PATIENCE, "its requests are stored", async || {
        let told = failover(&edge).await;
        if told["requests"].as_u64() > Some(500) { Ok(()) } else { Err(told.to_string()) }
    })
    .await;
    edge.understudy.kill();
    drop(second);
    edge.understudy.restart().await;
    let told = failover(&edge).await;
    assert!(told["requests"].as_u64() > Some(100), "some seconds of them are lost at the most: {told}");
    for primary in backends.primaries() {
        primary.restart().await;
    }
    let told = eventually(Duration::from_secs(60), "it ends", async || {
        let told = failover(&edge).await;
        if told["end"].is_string() { Ok(told) } else { Err(told.to_string()) }
    })
    .await;
    assert_eq!(told["nodes"], json!(["edge-1", "edge-2"]), "{told}");
    let (_, failovers) = edge.understudy.get("/failovers").await;
    assert_eq!(failovers["items"].as_array().map(Vec::len), Some(1), "it was one: {failovers}");
    stop.store(true, Ordering::Relaxed);
    for asked in load {
        asked.await.expect("it ends");
    }
}

/// Tests the removal of primaries from the config. Traffic goes to the standby, which stays one: a tier is
/// primary only if the config says so.
#[tokio::test(flavor = "multi_thread")]
async fn primaries_that_are_taken_out_of_the_config_are_the_cause() {
    let backends = Backends::start().await;
    let edge = backends.edge(json!({})).await;
    let load = edge.load(300);
    comes_to_rest(&load, &["A", "B"]).await;
    serving(&edge, 0).await;
    for primary in [&backends.a, &backends.b] {
        let path = format!("/upstreams/checkout/targets/{}", primary.address());
        let (status, answer) = edge.understudy.delete(&path).await;
        assert_eq!(status, 204, "{answer}");
    }
    comes_to_rest(&load, &["FAILOVER"]).await;
    let told = failover(&edge).await;
    assert_eq!(
        (&told["cause"], &told["from"], &told["to"]),
        (&json!("removed"), &json!(0), &json!(1)),
        "{told}"
    );
    serving(&edge, 1).await;
    create(
        &edge.understudy,
        "/upstreams/checkout/targets",
        json!({"target": backends.a.address().to_string()}),
    )
    .await;
    comes_to_rest(&load, &["A"]).await;
    eventually(PATIENCE, "the end is told", async || {
        let told = failover(&edge).await;
        if told["end"].is_string() { Ok(()) } else { Err(told.to_string()) }
    })
    .await;
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_traffic_what_was_seen_last_is_old() {
    let backends = Backends::start().await;
    let edge = backends.edge(json!({})).await;
    let load = edge.load(100);
    comes_to_rest(&load, &["A", "B"]).await;
    serving(&edge, 0).await;
    faultless(load).await;
    let health = eventually(PATIENCE, "it is old", async || {
        let health = health(&edge).await;
        if health["stale"] == true { Ok(health) } else { Err(health.to_string()) }
    })
    .await;
    assert_eq!(
        (&health["serving_priority"], &health["nodes"][0]["stale"]),
        (&json!(0), &json!(true)),
        "{health}"
    );
    assert_eq!(health["targets"][0]["stale"], false, "its checks go on: {health}");
    let (status, answer) = edge.understudy.patch("/upstreams/checkout", json!({"health_check": "off"})).await;
    assert_eq!(status, 200, "{answer}");
    let health = eventually(PATIENCE, "nobody knows any more", async || {
        let health = self::health(&edge).await;
        if health["targets"][0]["stale"] == true { Ok(health) } else { Err(health.to_string()) }
    })
    .await;
    assert_eq!(health["checked_by"], json!([]), "{health}");
    let status = printed_status(&edge.understudy);
    assert!(status.contains("primaries (old)") && status.contains("?/2 ?/1"), "{status}");
}

/// Waits until the last target of `checkout` has this health.
async fn standby(edge: &Edge, word: &str) -> Value {
    eventually(PATIENCE, &format!("the standby is {word}"), async || {
        let health = health(edge).await;
        let targets = health["targets"].as_array().cloned().unwrap_or_default();
        match targets.last() {
            Some(target) if target["health"] == word && target["stale"] == false => Ok(target.clone()),
            _ => Err(health.to_string()),
        }
    })
    .await
}

/// Tests a dead standby without traffic: no request shows that it is dead. Checks report it all the same, and
/// no drill relies on it.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_without_traffic_is_known_to_be_dead() {
    let mut backends = Backends::start().await;
    let edge = backends.edge(json!({})).await;
    let load = edge.load(100);
    comes_to_rest(&load, &["A", "B"]).await;
    standby(&edge, "healthy").await;
    backends.failover.kill();
    let target = standby(&edge, "unhealthy").await;
    assert_eq!((&target["reported_by"], &target["share"]), (&json!(["edge-1"]), &json!(0.0)), "{target}");
    assert_eq!(health(&edge).await["checked_by"], json!(["edge-1"]));
    let drill = json!({"down": ["priority=0"], "for": "5s"});
    let (status, answer) = edge.understudy.post("/upstreams/checkout/drill", drill.clone()).await;
    assert_eq!(status, 409, "{answer}");
    let words = format!("`{}`, which would have to serve, is not healthy", backends.failover.address());
    assert!(answer["detail"].as_str().is_some_and(|detail| detail.contains(&words)), "{answer}");
    let drained = json!({"state": "drained"});
    let (status, answer) = edge.understudy.put("/upstreams/checkout/tiers/0/state", drained).await;
    assert_eq!(status, 409, "{answer}");
    let metrics = edge.understudy.request(reqwest::Method::GET, "/metrics").send().await;
    let metrics = metrics.expect("it answers").text().await.expect("it is text");
    let is_it = |line: &&str| line.starts_with("understudy_upstream_targets") && line.contains("unhealthy");
    assert!(metrics.lines().any(|line| is_it(&line) && line.ends_with(" 1")), "{metrics}");
    let address = format!("{:?}", backends.failover.address().to_string());
    let is_it = |line: &&str| line.starts_with("understudy_target_healthy") && line.contains(&address);
    assert!(metrics.lines().any(|line| is_it(&line) && line.ends_with(" 0")), "{metrics}");
    backends.failover.restart().await;
    standby(&edge, "healthy").await;
    let (status, answer) = edge.understudy.post("/upstreams/checkout/drill", drill).await;
    assert_eq!(status, 201, "{answer}");
    comes_to_rest(&load, &["FAILOVER"]).await;
    comes_to_rest(&load, &["A", "B"]).await;
    faultless(load).await;
}

/// Tests that five Envoys check for all, and that another takes over when one leaves.
#[tokio::test(flavor = "multi_thread")]
async fn a_few_envoys_check_for_all() {
    let backends = Backends::start().await;
    let edge = backends.edge(json!({})).await;
    let mut others = Vec::new();
    for number in 2..=7 {
        others.push(Envoy::start(&edge.understudy, &format!("edge-{number}"), "edge", &[]).await);
    }
    let checked_by = async |is_wanted: &dyn Fn(&[String]) -> bool| {
        eventually(PATIENCE, "five of them check", async || {
            let health = health(&edge).await;
            let nodes: Vec<String> = serde_json::from_value(health["checked_by"].clone()).unwrap_or_default();
            let target = &health["targets"][2];
            match nodes.len() == 5 && is_wanted(&nodes) && target["reported_by"] == health["checked_by"] {
                true => Ok(nodes),
                false => Err(health.to_string()),
            }
        })
        .await
    };
    let first = checked_by(&|_| true).await;
    let leaving = first.iter().find(|node| *node != "edge-1").cloned().expect("there are five");
    let place = leaving.trim_start_matches("edge-").parse::<usize>().expect("a number") - 2;
    drop(others.remove(place));
    let then = checked_by(&|nodes| !nodes.contains(&leaving)).await;
    assert!(
        first.iter().filter(|node| **node != leaving).all(|node| then.contains(node)),
        "{first:?} {then:?}"
    );
}

/// Tests a bootstrap that does not ask Envoy to report its load, such as one written by hand.
#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_that_does_not_report_its_load_is_named() {
    let backends = Backends::start().await;
    let edge = backends.edge(json!({})).await;
    let xds = edge.understudy.xds.to_string();
    let arguments = ["bootstrap", "--xds", &xds, "--node-id", "edge-2", "--node-cluster", "edge"];
    let output = understudy(&arguments).args(["--envoy-admin", "127.0.0.1:0"]).output();
    let printed = String::from_utf8(output.expect("it runs").stdout).expect("YAML is text");
    let mut bootstrap: Value = serde_yaml::from_str(&printed).expect("it prints YAML");
    let removed = bootstrap.as_object_mut().and_then(|fields| fields.remove("cluster_manager"));
    assert!(removed.is_some(), "{printed}");
    let _foreign = Envoy::launch("edge-2", &bootstrap.to_string()).await;
    let health = eventually(PATIENCE, "the gap is told", async || {
        let health = health(&edge).await;
        if health["not_reporting"] == json!(["edge-2"]) { Ok(health) } else { Err(health.to_string()) }
    })
    .await;
    assert_eq!(health["targets"][0]["state"], "auto", "what is known is told all the same: {health}");
    let status = printed_status(&edge.understudy);
    assert!(status.contains("load_stats_config"), "{status}");
}

/// Sends GETs on a connection each, so that each Envoy that shares the port gets some, until `stop` is set.
/// Returns their number, and the errors of those that were not answered 200.
async fn ask_all(url: reqwest::Url, stop: Arc<AtomicBool>) -> (u64, Vec<String>) {
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).timeout(PATIENCE);
    let client = client.build().expect("plain HTTP needs nothing");
    let (mut asked, mut failed) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        asked += 1;
        match client.get(url.clone()).send().await {
            Ok(response) if response.status() == 200 => {}
            Ok(response) => failed.push(response.status().to_string()),
            Err(error) => failed.push(format!("{error:?}")),
        }
    }
    (asked, failed)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_envoys_each_report_their_serving_tier() {
    let mut backends = Backends::start().await;
    let edge = backends.edge(json!({})).await;
    let _second = Envoy::start(&edge.understudy, "edge-2", "edge", &[]).await;
    let _third = Envoy::start(&edge.understudy, "edge-3", "edge", &[]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..4).map(|_| tokio::spawn(ask_all(edge.url(), stop.clone()))).collect();
    let at_each = async |priority: u32| {
        eventually(PATIENCE, &format!("{priority} serves at each"), async || {
            let health = health(&edge).await;
            let nodes = health["nodes"].as_array().cloned().unwrap_or_default();
            let fresh = nodes.iter().filter(|node| node["stale"] == false);
            let there = fresh.filter(|node| node["serving_priority"] == priority).count();
            if there == 3 { Ok(()) } else { Err(health.to_string()) }
        })
        .await;
    };
    at_each(0).await;
    backends.a.kill();
    backends.b.kill();
    at_each(1).await;
    let told = failover(&edge).await;
    assert_eq!((&told["from"], &told["to"]), (&json!(0), &json!(1)), "{told}");
    eventually(PATIENCE, "it is told of all three", async || {
        let told = failover(&edge).await;
        if told["nodes"] == json!(["edge-1", "edge-2", "edge-3"]) { Ok(()) } else { Err(told.to_string()) }
    })
    .await;
    let (_, fleet) = edge.understudy.get("/fleet").await;
    assert_eq!(fleet["nodes"][2]["on_standby"], json!(["checkout"]), "{fleet}");
    stop.store(true, Ordering::Relaxed);
    for asked in load {
        let (count, failed) = asked.await.expect("it ends");
        assert!(count > 0 && failed.is_empty(), "{} of {count} failed: {failed:?}", failed.len());
    }
}

/// Source address of clients that a backend refuses: the effect of a firewall or a broken route on one Envoy.
const OUTCAST: &str = "127.0.0.2";

/// Passes connections on to a backend, except those from [`OUTCAST`], which it closes. Returns its address.
async fn gate(to: std::net::SocketAddr) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((mut client, peer)) = listener.accept().await {
            if peer.ip().to_string() == OUTCAST {
                continue;
            }
            tokio::spawn(async move {
                let mut backend = TcpStream::connect(to).await?;
                tokio::io::copy_bidirectional(&mut client, &mut backend).await
            });
        }
    });
    address
}

/// Starts an Envoy whose connections come from [`OUTCAST`].
async fn outcast(edge: &Edge, node_id: &str) -> Envoy {
    let xds = edge.understudy.xds.to_string();
    let arguments = ["bootstrap", "--xds", &xds, "--node-id", node_id, "--node-cluster", "edge"];
    let output = understudy(&arguments).args(["--envoy-admin", "127.0.0.1:0"]).output();
    let printed = String::from_utf8(output.expect("it runs").stdout).expect("YAML is text");
    let mut bootstrap: Value = serde_yaml::from_str(&printed).expect("it prints YAML");
    let source = json!({"source_address": {"address": OUTCAST, "port_value": 0}});
    bootstrap["cluster_manager"]["upstream_bind_config"] = source;
    let envoy = Envoy::launch(node_id, &bootstrap.to_string()).await;
    envoy.live().await;
    envoy
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_that_cannot_reach_a_target_disagrees() {
    let backends = Backends::start().await;
    let (a, b) = (gate(backends.a.address()).await, backends.b.address());
    let edge = Edge::by_rest(async |understudy| {
        checkout(understudy, json!({}), &[]).await;
        let check = json!({"health_check": {"http": {"path": "/healthz"}}});
        assert_eq!(understudy.patch("/upstreams/checkout", check).await.0, 200);
        for target in [a, b] {
            create(understudy, "/upstreams/checkout/targets", json!({"target": target.to_string()})).await;
        }
        let standby = json!({"target": backends.failover.address().to_string(), "failover": true});
        create(understudy, "/upstreams/checkout/targets", standby).await;
    })
    .await;
    let _second = outcast(&edge, "edge-2").await;
    let _third = Envoy::start(&edge.understudy, "edge-3", "edge", &[]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..4).map(|_| tokio::spawn(ask_all(edge.url(), stop.clone()))).collect();
    let target_of = |health: &Value, address: std::net::SocketAddr| {
        let mut targets = health["targets"].as_array().into_iter().flatten();
        targets.find(|target| target["target"] == address.to_string()).cloned().unwrap_or_default()
    };
    let health = eventually(PATIENCE, "edge-2 disagrees about A", async || {
        let health = health(&edge).await;
        let target = target_of(&health, a);
        let is_so =
            target["disagree"] == json!(["edge-2"]) && target["reported_by"] == json!(["edge-1", "edge-3"]);
        if is_so { Ok(health) } else { Err(health.to_string()) }
    })
    .await;
    assert_eq!(target_of(&health, a)["health"], "healthy", "so most say: {health}");
    assert_eq!(target_of(&health, b)["disagree"], json!([]), "all reach B: {health}");
    // The outcast Envoy is left with the standby when B is drained.
    let path = format!("/upstreams/checkout/targets/{b}/state");
    let (status, answer) = edge.understudy.put(&path, json!({"state": "drained"})).await;
    assert_eq!(status, 200, "{answer}");
    let health = eventually(PATIENCE, "edge-2 alone is on the standby", async || {
        let health = self::health(&edge).await;
        let nodes = health["nodes"].as_array().cloned().unwrap_or_default();
        let serving: Vec<&Value> = nodes.iter().map(|node| &node["serving_priority"]).collect();
        if serving == [0, 1, 0] { Ok(health) } else { Err(health.to_string()) }
    })
    .await;
    assert_eq!(health["serving_priority"], 0, "that is what most say: {health}");
    assert_eq!(failover(&edge).await["nodes"], json!(["edge-2"]));
    let status = printed_status(&edge.understudy);
    let told: Vec<Vec<&str>> = status.lines().map(|line| line.split_whitespace().collect()).collect();
    for row in ["checkout edge-2 priority 1 serves".to_owned(), format!("checkout edge-2 {a} is unhealthy")] {
        let row: Vec<&str> = row.split(' ').collect();
        assert!(told.contains(&row), "{row:?} is not in\n{status}");
    }
    stop.store(true, Ordering::Relaxed);
    for asked in load {
        let (count, failed) = asked.await.expect("it ends");
        assert!(count > 0 && failed.is_empty(), "{} of {count} failed: {failed:?}", failed.len());
    }
}

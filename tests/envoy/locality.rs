//! Tests of tiers by distance: three Envoys in three zones of two regions, each served by the nearest live
//! tier.

use serde_json::{Value, json};

use crate::harness::{Backend, Envoy, PATIENCE, Understudy, eventually, free_port};
use crate::stage::{Edge, comes_to_rest, create, faultless, window};

const PLACES: [(&str, &str); 3] = [("eu", "eu-a"), ("eu", "eu-b"), ("us", "us-a")];

/// Waits until this backend answers at a port.
async fn serves(port: u16, name: &str) {
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client");
    eventually(PATIENCE, &format!("{name} serves at {port}"), async || {
        let response = client.get(format!("http://127.0.0.1:{port}/")).send().await;
        let response = response.map_err(|error| format!("{error:?}"))?;
        match response.headers().get("x-backend").map(|name| name.as_bytes().to_vec()) {
            Some(by) if by == name.as_bytes() => Ok(()),
            other => Err(format!("{} by {other:?}", response.status())),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_that_dies_is_served_by_the_next_and_costs_no_request() {
    zones_die("round_robin").await;
}

/// Tests a hash balancer, which has one cluster for each tier. The tier of a target differs by Envoy.
#[tokio::test(flavor = "multi_thread")]
async fn with_a_balancer_by_hash_too() {
    zones_die("maglev").await;
}

/// Waits until the newest failover is as wanted.
async fn failover(edge: &Edge, what: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(PATIENCE, what, async || {
        let (_, failovers) = edge.understudy.get("/failovers").await;
        let newest = &failovers["items"][0];
        if newest.is_object() && is_wanted(newest) { Ok(newest.clone()) } else { Err(failovers.to_string()) }
    })
    .await
}

/// Waits until these tiers serve the three Envoys, each by that Envoy's numbering. Each Envoy gets requests
/// meanwhile: without requests it reports nothing.
async fn tiers_serve(edge: &Edge, ports: [u16; 3], expected: [u32; 3]) -> Value {
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client");
    eventually(PATIENCE, &format!("tiers {expected:?} serve"), async || {
        for port in ports {
            let answer = client.get(format!("http://127.0.0.1:{port}/")).send().await;
            answer.map_err(|error| format!("{error:?}"))?;
        }
        let (_, health) = edge.understudy.get("/upstreams/shop/health").await;
        let nodes = health["nodes"].as_array().into_iter().flatten();
        let serving: Vec<&Value> = nodes.map(|node| &node["serving_priority"]).collect();
        if serving == expected { Ok(health) } else { Err(health.to_string()) }
    })
    .await
}

/// Tests dying zones. Each Envoy has a listener and a fleet of its own, since all run on one machine.
async fn zones_die(load_balancer: &str) {
    let mut backends =
        [Backend::start("EU-A").await, Backend::start("EU-B").await, Backend::start("US-A").await];
    let understudy = Understudy::serve(&[]).await;
    let ports = PLACES.map(|_| free_port());
    for ((_, zone), port) in PLACES.iter().zip(ports) {
        create(&understudy, "/fleets", json!({"name": zone, "select": {"zone": zone}})).await;
        let listener = json!({"name": zone, "address": format!("127.0.0.1:{port}"), "fleets": [zone]});
        create(&understudy, "/listeners", listener).await;
    }
    let targets: Vec<_> = PLACES
        .iter()
        .zip(&backends)
        .map(|((region, zone), backend)| {
            json!({"target": backend.address().to_string(), "region": region, "zone": zone})
        })
        .collect();
    let upstream = json!({"name": "shop", "load_balancer": load_balancer, "failover": {"locality": true},
        "targets": targets});
    create(&understudy, "/upstreams", upstream).await;
    create(&understudy, "/services", json!({"name": "shop", "upstream": "shop"})).await;
    create(&understudy, "/routes", json!({"name": "shop", "service": "shop"})).await;

    let edge = Edge::at("eu/eu-a", understudy, ports[0]).await;
    let _second =
        Envoy::start(&edge.understudy, "edge-2", "edge", &["--node-locality", "eu/eu-b", "--delta"]).await;
    let _third = Envoy::start(&edge.understudy, "edge-3", "edge", &["--node-locality", "us/us-a"]).await;
    for (port, name) in ports.into_iter().zip(["EU-A", "EU-B", "US-A"]) {
        serves(port, name).await;
    }
    let load = edge.load(200);
    comes_to_rest(&load, &["EU-A"]).await;
    tiers_serve(&edge, ports, [0, 0, 0]).await;
    let [eu_a, eu_b, _us_a] = &mut backends;
    eu_a.kill();
    let told = failover(&edge, "a failover is told", |_| true).await;
    assert_eq!((&told["upstream"], &told["nodes"]), (&json!("shop"), &json!(["edge-1"])), "{told}");
    assert_eq!((&told["from"], &told["to"], &told["end"]), (&json!(0), &json!(1), &Value::Null), "{told}");
    assert_eq!(told["cause"], "outlier_detection", "{told}");
    comes_to_rest(&load, &["EU-B"]).await;
    tiers_serve(&edge, ports, [1, 0, 0]).await;
    eventually(PATIENCE, "the zone that died is seen as such", async || {
        let (_, health) = edge.understudy.get("/upstreams/shop/health").await;
        let is_seen = health["serving_priority"] == 0 && health["targets"][0]["health"] == "unhealthy";
        if is_seen { Ok(()) } else { Err(health.to_string()) }
    })
    .await;
    eu_b.kill();
    comes_to_rest(&load, &["US-A"]).await;
    serves(ports[1], "US-A").await;
    tiers_serve(&edge, ports, [2, 2, 0]).await;
    let (_, topology) = edge.understudy.get("/topology").await;
    let tiers = topology["upstreams"][0]["tiers"].as_array().expect("tiers");
    let [tier] = tiers.as_slice() else { panic!("one is declared: {topology}") };
    assert_eq!(
        (&tier["serving"], &tier["nodes"]),
        (&json!(true), &json!(["edge-1", "edge-2", "edge-3"])),
        "{topology}"
    );
    eu_a.restart().await;
    eventually(PATIENCE, "the nearest serves again", async || {
        match window(&load, 50).await.served_by.keys().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["EU-A"] => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    eu_b.restart().await;
    serves(ports[1], "EU-B").await;
    tiers_serve(&edge, ports, [0, 0, 0]).await;
    let told = failover(&edge, "its end is told", |told| told["end"].is_string()).await;
    assert_eq!((&told["id"], &told["nodes"]), (&json!("1"), &json!(["edge-1", "edge-2"])), "{told}");
    faultless(load).await;

    let path = "/snapshots/eu-a?node_locality=us/us-a";
    let (status, there) = edge.understudy.get(path).await;
    assert_eq!((status, &there["endpoints"][0]["endpoints"][0]["locality"]["zone"]), (200, &json!("us-a")));
}

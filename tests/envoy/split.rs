//! Tests of a service in several upstreams: shares by weight, and members that replace each other.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use understudy::cli::demo::load::OpenLoad;

use crate::harness::{Backend, PATIENCE, eventually};
use crate::stage::{Edge, comes_to_rest, create, faultless, window};

/// Starts an Envoy for a service with these members; each is an upstream of its own with these backends.
async fn split(members: &[(&str, Value, &[&Backend])]) -> Edge {
    Edge::by_rest(async |understudy| {
        let mut listed = Vec::new();
        for (name, member, backends) in members {
            let targets: Value =
                backends.iter().map(|backend| json!({"target": backend.address().to_string()})).collect();
            let mut upstream = json!({"name": name, "targets": targets});
            let mut entry = json!({"name": name});
            for (key, value) in member.as_object().expect("a mapping") {
                let place = if key == "load_balancer" { &mut upstream } else { &mut entry };
                place[key] = value.clone();
            }
            create(understudy, "/upstreams", upstream).await;
            listed.push(entry);
        }
        create(understudy, "/services", json!({"name": "shop", "upstreams": listed})).await;
        create(understudy, "/routes", json!({"name": "shop", "service": "shop"})).await;
    })
    .await
}

/// Waits until, of 1,000 requests, each backend has its expected share in percent, give or take 5.
async fn has_shares(load: &OpenLoad, expected: &[(&str, u64)]) {
    let expected: BTreeMap<&str, u64> = expected.iter().copied().collect();
    eventually(PATIENCE * 2, &format!("{expected:?}"), async || {
        let window = window(load, 1_000).await;
        let share =
            |name: &str| 100 * window.served_by.get(name).copied().unwrap_or_default() / window.requests;
        let right = expected.iter().all(|(name, percent)| share(name).abs_diff(*percent) <= 5);
        let no_others = window.served_by.keys().all(|name| expected.contains_key(name.as_str()));
        if right && no_others { Ok(()) } else { Err(format!("{:?}", window.served_by)) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_split_is_as_its_weights_and_a_dead_member_costs_no_request() {
    let mut blue = Backend::start("BLUE").await;
    let green = Backend::start("GREEN").await;
    let edge =
        split(&[("blue", json!({"weight": 90}), &[&blue]), ("green", json!({"weight": 10}), &[&green])])
            .await;
    edge.serves("BLUE", PATIENCE).await;
    edge.serves("GREEN", PATIENCE).await;
    let load = edge.load(300);
    has_shares(&load, &[("BLUE", 90), ("GREEN", 10)]).await;
    blue.kill();
    comes_to_rest(&load, &["GREEN"]).await;
    blue.restart().await;
    has_shares(&load, &[("BLUE", 90), ("GREEN", 10)]).await;
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_share_of_a_dead_member_goes_to_the_others_in_proportion_and_dr_serves_when_no_other_can() {
    let mut members = Vec::new();
    for name in ["A", "B", "C"] {
        members.push(Backend::start(name).await);
    }
    let mut dr = Backend::start("DR").await;
    let [a, b, c] = members.as_slice() else { unreachable!("there are three") };
    // One of them is an aggregate of tiers itself.
    let edge = split(&[
        ("a", json!({"weight": 50}), &[a]),
        ("b", json!({"weight": 30, "load_balancer": "maglev"}), &[b]),
        ("c", json!({"weight": 20}), &[c]),
        ("dr", json!({"failover": true}), &[&dr]),
    ])
    .await;
    for name in ["A", "B", "C"] {
        edge.serves(name, PATIENCE).await;
    }
    let load = edge.load(300);
    has_shares(&load, &[("A", 50), ("B", 30), ("C", 20)]).await;
    members[0].kill();
    has_shares(&load, &[("B", 60), ("C", 40)]).await;
    members[1].kill();
    comes_to_rest(&load, &["C"]).await;
    assert_eq!(dr.gets().await, 0, "not even a retry goes to DR while a member lives");
    members[2].mode("status 503").await;
    comes_to_rest(&load, &["DR"]).await;
    for member in &mut members {
        member.restart().await;
    }
    has_shares(&load, &[("A", 50), ("B", 30), ("C", 20)]).await;
    faultless(load).await;
}

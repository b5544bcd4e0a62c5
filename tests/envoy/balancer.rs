//! Tests of every balancer: the standby serves when it should, within one cluster or over the tiers of an
//! aggregate.

use std::collections::BTreeMap;

use http::Method;
use reqwest::Url;
use serde_json::{Value, json};
use understudy::cli::demo::load::{LoadOptions, OpenLoad};

use crate::harness::{Backend, PATIENCE, Understudy, eventually};
use crate::stage::{Backends, Edge, comes_to_rest, create, faultless, window};

const BALANCERS: [&str; 6] =
    ["round_robin", "least_request", "random", "weighted_random", "ring_hash", "maglev"];

/// Creates an upstream with these settings, and a service and a route from the path of its name.
async fn upstream(understudy: &Understudy, name: &str, settings: Value, targets: Value) {
    let mut body = json!({"name": name, "targets": targets});
    for (key, value) in settings.as_object().expect("settings are a mapping") {
        body[key] = value.clone();
    }
    create(understudy, "/upstreams", body).await;
    let service = json!({"name": name, "upstream": name, "hash_by": [{"header": "x-user"}]});
    create(understudy, "/services", service).await;
    let route = json!({"name": name, "service": name, "paths": [format!("/{name}")]});
    create(understudy, "/routes", route).await;
}

fn targets(primaries: &[&Backend], standby: &[&Backend]) -> Value {
    let target = |backend: &&Backend, failover: bool| json!({"target": backend.address().to_string(), "failover": failover});
    let primaries = primaries.iter().map(|backend| target(backend, false));
    primaries.chain(standby.iter().map(|backend| target(backend, true))).collect()
}

fn url(edge: &Edge, name: &str) -> Url {
    edge.url().join(name).expect("a name is a path")
}

/// Starts one Envoy with an upstream for each balancer, all of the same targets.
async fn all_balancers(backends: &Backends) -> Edge {
    let edge = Edge::by_rest(async |understudy| {
        for balancer in BALANCERS {
            let targets = targets(&[&backends.a, &backends.b], &[&backends.failover]);
            upstream(understudy, balancer, json!({"load_balancer": balancer}), targets).await;
        }
    })
    .await;
    for balancer in BALANCERS {
        let answered = async || answer(&edge, balancer, None).await.map(drop);
        eventually(PATIENCE, &format!("{balancer} serves"), answered).await;
    }
    edge
}

/// Starts load for each balancer, light enough that six of them at once are not too much.
fn loads(edge: &Edge) -> Vec<OpenLoad> {
    BALANCERS.iter().map(|balancer| OpenLoad::start(LoadOptions::get(url(edge, balancer), 50))).collect()
}

/// Returns the backend that answers a GET, with a key to be hashed or without.
async fn answer(edge: &Edge, name: &str, key: Option<&str>) -> Result<String, String> {
    let request = edge.request(Method::GET, "127.0.0.1", &format!("/{name}"));
    let request = match key {
        Some(key) => request.header("x-user", key),
        None => request,
    };
    let response = request.send().await.map_err(|error| format!("{error:?}"))?;
    let status = response.status().as_u16();
    let name =
        response.headers().get("x-backend").map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned());
    name.filter(|_| status == 200).ok_or_else(|| status.to_string())
}

/// Returns the number of answers of each backend to so many GETs.
async fn shares(edge: &Edge, name: &str, requests: u32) -> BTreeMap<String, u32> {
    let mut shares = BTreeMap::new();
    for _ in 0..requests {
        let served_by = answer(edge, name, None).await.expect("it is answered");
        *shares.entry(served_by).or_default() += 1;
    }
    shares
}

#[tokio::test(flavor = "multi_thread")]
async fn with_every_balancer_a_dead_tier_costs_no_request_and_its_return_none() {
    let mut backends = Backends::start().await;
    let edge = all_balancers(&backends).await;
    let loads = loads(&edge);
    for load in &loads {
        comes_to_rest(load, &["A", "B"]).await;
    }
    for primary in backends.primaries() {
        primary.kill();
    }
    for load in &loads {
        comes_to_rest(load, &["FAILOVER"]).await;
    }
    for primary in backends.primaries() {
        primary.restart().await;
    }
    for load in &loads {
        comes_to_rest(load, &["A", "B"]).await;
    }
    for load in loads {
        faultless(load).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_every_balancer_one_primary_is_enough_to_leave_the_standby_alone() {
    let mut backends = Backends::start().await;
    let edge = all_balancers(&backends).await;
    let loads = loads(&edge);
    backends.a.kill();
    for load in &loads {
        comes_to_rest(load, &["B"]).await;
    }
    for load in loads {
        faultless(load).await;
    }
    // A retry may have gone there before the death was noticed; a request of this load never does.
    let after = backends.failover.gets().await;
    let load = OpenLoad::start(LoadOptions::get(url(&edge, "maglev"), 100));
    window(&load, 100).await;
    faultless(load).await;
    assert_eq!(backends.failover.gets().await, after);
}

/// Returns the backend of each of 60 keys.
async fn owners(edge: &Edge, name: &str) -> BTreeMap<String, String> {
    let mut owners = BTreeMap::new();
    for key in (0..60).map(|key| format!("user-{key}")) {
        let owner = answer(edge, name, Some(&key)).await.expect("it is answered");
        owners.insert(key, owner);
    }
    owners
}

/// Tests the stickiness of keys. On a ring some keys of survivors move too, since their shares of it are
/// drawn anew.
#[tokio::test(flavor = "multi_thread")]
async fn keys_stay_with_survivors_and_return_to_who_was_dead() {
    let mut backends = Backends::start().await;
    let c = Backend::start("C").await;
    let edge = Edge::by_rest(async |understudy| {
        for balancer in ["ring_hash", "maglev"] {
            let targets = targets(&[&backends.a, &backends.b, &c], &[&backends.failover]);
            upstream(understudy, balancer, json!({"load_balancer": balancer}), targets).await;
        }
    })
    .await;
    for (balancer, may_move) in [("ring_hash", 8), ("maglev", 2)] {
        let all_three = eventually(PATIENCE, "all three have keys", async || {
            let owners = owners(&edge, balancer).await;
            let who: std::collections::BTreeSet<&String> = owners.values().collect();
            if who.len() == 3 { Ok(owners.clone()) } else { Err(format!("{who:?}")) }
        })
        .await;
        assert_eq!(owners(&edge, balancer).await, all_three, "the same key, the same target");
        backends.b.kill();
        let without_b = eventually(PATIENCE, "nobody waits for B", async || {
            let owners = owners(&edge, balancer).await;
            if owners.values().all(|owner| owner == "A" || owner == "C") {
                Ok(owners)
            } else {
                Err("not yet".into())
            }
        })
        .await;
        let moved =
            all_three.iter().filter(|(key, owner)| *owner != "B" && without_b[*key] != **owner).count();
        assert!(moved <= may_move, "{balancer}: {moved} keys of survivors moved");
        backends.b.restart().await;
        eventually(PATIENCE, "all keys are where they were", async || match owners(&edge, balancer).await {
            owners if owners == all_three => Ok(()),
            owners => Err(format!("{owners:?}")),
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_are_shares_within_a_tier() {
    let backends = Backends::start().await;
    let edge = Edge::by_rest(async |understudy| {
        for balancer in ["round_robin", "weighted_random", "random"] {
            let targets = json!([
                {"target": backends.a.address().to_string(), "weight": 1},
                {"target": backends.b.address().to_string(), "weight": 3},
                {"target": backends.failover.address().to_string(), "failover": true},
            ]);
            upstream(understudy, balancer, json!({"load_balancer": balancer}), targets).await;
        }
    })
    .await;
    // Expected answers of 800, and the tolerance: four standard deviations, and 8 without chance.
    for (balancer, expected, off) in
        [("round_robin", 200, 8), ("weighted_random", 200, 50), ("random", 400, 57)]
    {
        let served = async || answer(&edge, balancer, None).await.map(drop);
        eventually(PATIENCE, balancer, served).await;
        let shares = shares(&edge, balancer, 800).await;
        let of_a = shares.get("A").copied().unwrap_or_default();
        assert!(of_a.abs_diff(expected) <= off, "{balancer}: {shares:?}");
        assert!(!shares.contains_key("FAILOVER"), "{balancer}: {shares:?}");
    }
}

/// Tests the spill factor: a tier that is half alive takes 140 % of one half, 70 %, and the next tier gets
/// the rest.
#[tokio::test(flavor = "multi_thread")]
async fn spill_shares_by_its_factor_within_a_cluster_and_over_an_aggregate() {
    let mut backends = Backends::start().await;
    let cases = [
        ("rr-140", "round_robin", 140, 30),
        ("maglev-140", "maglev", 140, 30),
        ("maglev-200", "maglev", 200, 0),
    ];
    let edge = Edge::by_rest(async |understudy| {
        for (name, balancer, factor, _) in cases {
            let settings =
                json!({"load_balancer": balancer, "failover": {"mode": "spill", "factor": factor}});
            upstream(understudy, name, settings, targets(&[&backends.a, &backends.b], &[&backends.failover]))
                .await;
        }
    })
    .await;
    backends.a.kill();
    for (name, _, _, percent) in cases {
        eventually(PATIENCE, &format!("{name} spills {percent} %"), async || {
            let shares = shares(&edge, name, 600).await;
            let spilt = shares.get("FAILOVER").copied().unwrap_or_default();
            // Four standard deviations.
            let off = if percent == 0 { 0 } else { 45 };
            if spilt.abs_diff(percent * 6) <= off { Ok(()) } else { Err(format!("{shares:?}")) }
        })
        .await;
    }
}

/// Tests panic: it must not keep traffic on a dead tier while another lives, nor refuse requests that might
/// be served.
#[tokio::test(flavor = "multi_thread")]
async fn when_all_tiers_of_an_aggregate_are_down_all_are_tried_or_none() {
    let mut backends = Backends::start().await;
    let edge = Edge::by_rest(async |understudy| {
        for when in ["try_all", "fail"] {
            let settings = json!({"load_balancer": "maglev", "failover": {"when_all_down": when}});
            upstream(understudy, when, settings, targets(&[&backends.a, &backends.b], &[&backends.failover]))
                .await;
        }
    })
    .await;
    let loads = ["try_all", "fail"].map(|name| OpenLoad::start(LoadOptions::get(url(&edge, name), 100)));
    for primary in backends.primaries() {
        primary.mode("status 503").await;
    }
    for load in &loads {
        comes_to_rest(load, &["FAILOVER"]).await;
    }
    let tried = backends.a.gets().await + backends.b.gets().await;
    for load in &loads {
        window(load, 200).await;
    }
    assert_eq!(
        backends.a.gets().await + backends.b.gets().await,
        tried,
        "a dead tier gets nothing while another lives"
    );
    for load in loads {
        faultless(load).await;
    }

    backends.failover.mode("status 503").await;
    eventually(PATIENCE, "503 without asking any target", async || {
        match asked(&edge, &mut backends, "fail").await {
            0 => Ok(()),
            targets => Err(format!("{targets} were asked")),
        }
    })
    .await;
    assert!(asked(&edge, &mut backends, "try_all").await > 0, "any target is better than none");
}

/// Returns the number of targets that one GET is sent to, if none of them answers well.
async fn asked(edge: &Edge, backends: &mut Backends, name: &str) -> u64 {
    let before = backends.a.gets().await + backends.b.gets().await + backends.failover.gets().await;
    assert_eq!(answer(edge, name, None).await, Err("503".to_owned()));
    backends.a.gets().await + backends.b.gets().await + backends.failover.gets().await - before
}

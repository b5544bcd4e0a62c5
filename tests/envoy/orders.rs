//! Tests of operators' orders: they reach Envoys at once and cost no request. Drained and dead targets, tiers
//! and zones, pins, held standbys, drills.

use std::time::Duration;

use serde_json::{Value, json};
use understudy::cli::demo::load::OpenLoad;

use crate::harness::{Backend, Envoy, PATIENCE, Understudy, eventually};
use crate::stage::{
    Backends, DELTA, Edge, STATE_OF_THE_WORLD, Variant, checkout, comes_to_rest, create, faultless,
    printed_status, window,
};

/// Time in seconds until primaries that are not held would serve again: longer than an ejection lasts and
/// three checks take.
const LONG: u64 = 9;

async fn put(edge: &Edge, path: &str, body: Value) -> Value {
    let (status, answer) = edge.understudy.put(path, body.clone()).await;
    assert_eq!(status, 200, "PUT {path} {body}: {answer}");
    answer
}

fn state_of(backend: &Backend) -> String {
    format!("/upstreams/checkout/targets/{}/state", backend.address())
}

async fn health(understudy: &Understudy) -> Value {
    let (status, health) = understudy.get("/upstreams/checkout/health").await;
    assert_eq!(status, 200, "{health}");
    health
}

/// Returns a field of one target in the health view.
async fn of_target(understudy: &Understudy, backend: &Backend, field: &str) -> Value {
    let health = health(understudy).await;
    let targets = health["targets"].as_array().cloned().unwrap_or_default();
    let address = json!(backend.address().to_string());
    targets
        .into_iter()
        .find(|target| target["target"] == address)
        .map(|it| it[field].clone())
        .unwrap_or_default()
}

/// Returns the version of the clusters that the Envoy runs.
async fn clusters(understudy: &Understudy) -> Value {
    let (_, fleet) = understudy.get("/fleet").await;
    fleet["nodes"][0]["types"]["clusters"]["version"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_target_gets_nothing_and_returns_with_auto() {
    let mut backends = Backends::start().await;
    let edge = backends.edge(json!({})).await;
    let load = edge.load(300);
    comes_to_rest(&load, &["A", "B"]).await;
    let before = clusters(&edge.understudy).await;
    let body = json!({"state": "drained", "reason": "new disks", "expires_in": "10m"});
    let answer = put(&edge, &state_of(&backends.a), body).await;
    assert_eq!((&answer["state"], &answer["reason"]), (&json!("drained"), &json!("new disks")));
    comes_to_rest(&load, &["B"]).await;
    assert_eq!(of_target(&edge.understudy, &backends.a, "state").await, "drained");
    put(&edge, &state_of(&backends.a), json!({"state": "auto"})).await;
    comes_to_rest(&load, &["A", "B"]).await;
    assert_eq!(clusters(&edge.understudy).await, before, "no cluster was sent");
    faultless(load).await;
    assert_eq!(backends.failover.gets().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_that_is_down_leaves_its_traffic_to_the_standby() {
    let backends = Backends::start().await;
    let edge = backends.edge(json!({})).await;
    let load = edge.load(300);
    comes_to_rest(&load, &["A", "B"]).await;
    put(&edge, "/upstreams/checkout/tiers/0/state", json!({"state": "down"})).await;
    comes_to_rest(&load, &["FAILOVER"]).await;
    let failover = eventually(PATIENCE, "the failover is told", async || {
        let (_, failovers) = edge.understudy.get("/failovers").await;
        match failovers["items"][0]["cause"].as_str() {
            Some(_) => Ok(failovers["items"][0].clone()),
            None => Err(failovers.to_string()),
        }
    })
    .await;
    assert_eq!((&failover["cause"], &failover["to"]), (&json!("drained"), &json!(1)), "{failover}");
    let (status, answer) = edge.understudy.delete("/upstreams/checkout/tiers/0/state").await;
    assert_eq!(status, 204, "{answer}");
    comes_to_rest(&load, &["A", "B"]).await;
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_is_drained_as_a_whole() {
    let (a, b) = (Backend::start("A").await, Backend::start("B").await);
    let edge = Edge::by_rest(async |understudy| {
        checkout(understudy, json!({}), &[]).await;
        for (backend, zone) in [(&a, "east"), (&b, "west")] {
            let target = json!({"target": backend.address().to_string(), "zone": zone});
            create(understudy, "/upstreams/checkout/targets", target).await;
        }
    })
    .await;
    edge.serves("A", PATIENCE).await;
    edge.serves("B", PATIENCE).await;
    let load = edge.load(300);
    put(&edge, "/upstreams/checkout/zones/east/state", json!({"state": "drained"})).await;
    comes_to_rest(&load, &["B"]).await;
    let (status, answer) =
        edge.understudy.put("/upstreams/checkout/zones/west/state", json!({"state": "drained"})).await;
    assert_eq!(status, 409, "nothing would be left: {answer}");
    let (status, answer) =
        edge.understudy.put("/upstreams/checkout/zones/north/state", json!({"state": "drained"})).await;
    assert_eq!(status, 404, "{answer}");
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_outlives_the_control_plane_and_ends_with_its_time() {
    let backends = Backends::start().await;
    let mut edge = backends.edge(json!({})).await;
    let load = edge.load(200);
    comes_to_rest(&load, &["A", "B"]).await;
    put(&edge, &state_of(&backends.a), json!({"state": "drained"})).await;
    put(&edge, &state_of(&backends.b), json!({"state": "down", "expires_in": "2s"})).await;
    comes_to_rest(&load, &["FAILOVER"]).await;
    edge.understudy.kill();
    edge.understudy.restart().await;
    assert_eq!(of_target(&edge.understudy, &backends.a, "state").await, "drained");
    comes_to_rest(&load, &["B"]).await;
    assert_eq!(of_target(&edge.understudy, &backends.b, "state").await, "auto");
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_tier_serves_while_it_is_healthy() {
    let mut backends = Backends::start().await;
    let edge = backends.edge(json!({})).await;
    let load = edge.load(300);
    comes_to_rest(&load, &["A", "B"]).await;
    put(&edge, "/upstreams/checkout/pin", json!({"priority": 1, "reason": "audit"})).await;
    comes_to_rest(&load, &["FAILOVER"]).await;
    let cause = eventually(PATIENCE, "it is told", async || {
        let (_, failovers) = edge.understudy.get("/failovers").await;
        failovers["items"][0]["cause"].as_str().map(str::to_owned).ok_or_else(|| failovers.to_string())
    })
    .await;
    assert_eq!(cause, "pin");
    backends.failover.kill();
    comes_to_rest(&load, &["A", "B"]).await;
    backends.failover.restart().await;
    comes_to_rest(&load, &["FAILOVER"]).await;
    let (status, answer) = edge.understudy.delete("/upstreams/checkout/pin").await;
    assert_eq!(status, 204, "{answer}");
    comes_to_rest(&load, &["A", "B"]).await;
    faultless(load).await;
}

async fn with_settings(edge: &Edge, settings: Value) {
    let (status, answer) = edge.understudy.patch("/upstreams/checkout", settings).await;
    assert_eq!(status, 200, "{answer}");
}

/// Tests a pin with a hash balancer: each tier is a cluster of its own under an aggregate, and the pin
/// changes the order of the aggregate.
async fn pins_a_tier_of_an_aggregate(variant: Variant, load_balancer: &str) {
    let mut backends = Backends::start().await;
    let edge = backends.edge_speaking(variant, json!({})).await;
    with_settings(&edge, json!({"load_balancer": load_balancer})).await;
    let load = edge.load(300);
    comes_to_rest(&load, &["A", "B"]).await;
    for _ in 0..5 {
        put(&edge, "/upstreams/checkout/pin", json!({"priority": 1})).await;
        comes_to_rest(&load, &["FAILOVER"]).await;
        edge.understudy.delete("/upstreams/checkout/pin").await;
        comes_to_rest(&load, &["A", "B"]).await;
    }
    put(&edge, "/upstreams/checkout/pin", json!({"priority": 1})).await;
    comes_to_rest(&load, &["FAILOVER"]).await;
    backends.failover.kill();
    comes_to_rest(&load, &["A", "B"]).await;
    backends.failover.restart().await;
    comes_to_rest(&load, &["FAILOVER"]).await;
    edge.understudy.delete("/upstreams/checkout/pin").await;
    comes_to_rest(&load, &["A", "B"]).await;
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_tier_of_an_aggregate_serves_while_it_is_healthy() {
    pins_a_tier_of_an_aggregate(STATE_OF_THE_WORLD, "maglev").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_tier_of_an_aggregate_serves_while_it_is_healthy_in_delta() {
    pins_a_tier_of_an_aggregate(DELTA, "ring_hash").await;
}

/// Starts an Envoy and an upstream with this failback policy. Ejections are short, so that [`LONG`] suffices
/// for primaries that returned to serve again by themselves.
async fn with_failback(backends: &Backends, failback: Value) -> Edge {
    let edge = backends.edge(json!({})).await;
    let short = json!({"base_ejection_time": "2s", "max_ejection_time": "2s"});
    with_settings(&edge, json!({"failback": failback, "outlier_detection": short})).await;
    edge
}

/// Waits until the standby is held, and returns the hold.
async fn held(edge: &Edge) -> Value {
    eventually(PATIENCE, "the standby is held", async || {
        let health = health(&edge.understudy).await;
        match health["hold"].is_object() {
            true => Ok(health["hold"].clone()),
            false => Err(health.to_string()),
        }
    })
    .await
}

/// Returns an upstream with this failback policy after its failover, with its load and its hold. Both
/// primaries are back.
async fn failed_over(backends: &mut Backends, failback: Value) -> (Edge, OpenLoad, Value) {
    let (edge, load, hold) = lost(backends, failback).await;
    for primary in backends.primaries() {
        primary.restart().await;
    }
    (edge, load, hold)
}

/// Does the same as [`failed_over`] while the primaries are still dead.
async fn lost(backends: &mut Backends, failback: Value) -> (Edge, OpenLoad, Value) {
    let edge = with_failback(backends, failback).await;
    let (load, hold) = lose_primaries(backends, &edge).await;
    (edge, load, hold)
}

async fn lose_primaries(backends: &mut Backends, edge: &Edge) -> (OpenLoad, Value) {
    let load = edge.load(300);
    comes_to_rest(&load, &["A", "B"]).await;
    for primary in backends.primaries() {
        primary.kill();
    }
    comes_to_rest(&load, &["FAILOVER"]).await;
    (load, held(edge).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_standby_serves_until_it_is_released() {
    let mut backends = Backends::start().await;
    let (mut edge, load, _) = failed_over(&mut backends, json!("manual")).await;
    let quiet = window(&load, 300 * LONG).await;
    assert_eq!(quiet.served_by.keys().collect::<Vec<_>>(), ["FAILOVER"], "{quiet:?}");
    edge.understudy.kill();
    edge.understudy.restart().await;
    held(&edge).await;
    let quiet = window(&load, 600).await;
    assert_eq!(quiet.served_by.keys().collect::<Vec<_>>(), ["FAILOVER"], "{quiet:?}");
    let (status, answer) = edge.understudy.post("/upstreams/checkout/failback", json!({})).await;
    assert_eq!(status, 200, "{answer}");
    comes_to_rest(&load, &["A", "B"]).await;
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_standby_that_dies_gives_the_traffic_back() {
    a_held_standby_dies(json!({})).await;
}

/// Tests the death of a held standby of an aggregate. The primaries are clusters behind the one that is held.
#[tokio::test(flavor = "multi_thread")]
async fn a_held_standby_of_an_aggregate_that_dies_gives_the_traffic_back() {
    a_held_standby_dies(json!({"load_balancer": "maglev"})).await;
}

async fn a_held_standby_dies(settings: Value) {
    let mut backends = Backends::start().await;
    let edge = with_failback(&backends, json!("manual")).await;
    with_settings(&edge, settings).await;
    let (load, _) = lose_primaries(&mut backends, &edge).await;
    for primary in backends.primaries() {
        primary.restart().await;
    }
    let back = window(&load, 300 * LONG).await;
    assert_eq!(back.served_by.keys().collect::<Vec<_>>(), ["FAILOVER"], "{back:?}");
    backends.failover.kill();
    comes_to_rest(&load, &["A", "B"]).await;
    eventually(PATIENCE, "nothing is held", async || {
        let health = health(&edge.understudy).await;
        if health["hold"].is_null() { Ok(()) } else { Err(health.to_string()) }
    })
    .await;
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn primaries_that_returned_get_their_traffic_after_the_time_of_the_hold() {
    let mut backends = Backends::start().await;
    let (_edge, load, hold) = failed_over(&mut backends, json!({"after": "3s"})).await;
    assert!(hold["seconds_left"].is_number());
    comes_to_rest(&load, &["A", "B"]).await;
    faultless(load).await;
}

/// Tests the start of a hold's time: when the primaries recover, however long they were dead.
#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_a_hold_begins_when_the_primaries_recover() {
    let mut backends = Backends::start().await;
    let (edge, load, _) = lost(&mut backends, json!({"after": "6s"})).await;
    let hold = async |is_wanted: &dyn Fn(&Value) -> bool| {
        eventually(PATIENCE, "the hold is as it should be", async || {
            let hold = held(&edge).await;
            if is_wanted(&hold) { Ok(hold) } else { Err(hold.to_string()) }
        })
        .await
    };
    let waiting = hold(&|hold| hold["waits_for_primaries"] == true).await;
    assert_eq!((&waiting["seconds_left"], &waiting["due"]), (&json!(6.0), &Value::Null), "{waiting}");
    let dead = window(&load, 300 * 10).await;
    assert_eq!(dead.served_by.keys().collect::<Vec<_>>(), ["FAILOVER"], "{dead:?}");
    hold(&|hold| hold["waits_for_primaries"] == true).await;
    let status = printed_status(&edge.understudy);
    assert!(status.contains("6 s after primaries recover"), "{status}");
    for primary in backends.primaries() {
        primary.restart().await;
    }
    let recovered = hold(&|hold| hold["due"].is_string()).await;
    assert_eq!(recovered["phase"]["held"]["until"], recovered["due"], "{recovered}");
    let quiet = window(&load, 300 * 4).await;
    assert_eq!(quiet.served_by.keys().collect::<Vec<_>>(), ["FAILOVER"], "{quiet:?}");
    comes_to_rest(&load, &["A", "B"]).await;
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_return_the_traffic_in_shares() {
    let mut backends = Backends::start().await;
    let (_edge, load, _) = failed_over(&mut backends, json!({"steps": [20, 100], "every": "8s"})).await;
    comes_to_rest(&load, &["A", "B", "FAILOVER"]).await;
    let step = window(&load, 600).await;
    let primaries = step.served_by["A"] + step.served_by["B"];
    let percent = 100 * primaries / step.requests;
    assert!((18..=22).contains(&percent), "{percent} % in the first step: {step:?}");
    comes_to_rest(&load, &["A", "B"]).await;
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_moves_the_traffic_for_its_time_and_reports() {
    let backends = Backends::start().await;
    let edge = backends.edge(json!({})).await;
    let load = edge.load(300);
    comes_to_rest(&load, &["A", "B"]).await;
    // The prechecks know the serving tier only once it was reported.
    serves_home(&edge).await;
    let drill = json!({"down": ["priority=0"], "for": "6s", "abort_if": {"error_rate": 1.0}});
    let (status, drill) = edge.understudy.post("/upstreams/checkout/drill", drill).await;
    assert_eq!((status, &drill["state"]), (201, &json!("running")), "{drill}");
    comes_to_rest(&load, &["FAILOVER"]).await;
    let report = ended(&edge, &drill["id"]).await;
    assert_eq!(report["state"], "done", "{report}");
    assert!(report["shift_seconds"]["edge-1"].as_f64().is_some_and(|seconds| seconds < 3.0), "{report}");
    assert_eq!(report["errors"], 0, "{report}");
    assert_eq!(report["share"][backends.failover.address().to_string()], 100.0, "{report}");
    comes_to_rest(&load, &["A", "B"]).await;
    let (_, failovers) = edge.understudy.get("/failovers").await;
    assert_eq!(failovers["items"][0]["cause"], "drill", "{failovers}");
    faultless(load).await;
}

/// Tests a drill of one target. Its tier goes on, so no other tier shows the shift: the drilled target
/// without requests does.
#[tokio::test(flavor = "multi_thread")]
async fn a_drill_of_one_target_reports_when_it_got_no_more_requests() {
    let backends = Backends::start().await;
    let edge = backends.edge(json!({})).await;
    let load = edge.load(200);
    comes_to_rest(&load, &["A", "B"]).await;
    serves_home(&edge).await;
    let drill = json!({"down": [backends.a.address().to_string()], "for": "5s", "reason": "new disks"});
    let (status, drill) = edge.understudy.post("/upstreams/checkout/drill", drill).await;
    assert_eq!(status, 201, "{drill}");
    comes_to_rest(&load, &["B"]).await;
    let report = ended(&edge, &drill["id"]).await;
    assert!(report["shift_seconds"]["edge-1"].as_f64().is_some_and(|seconds| seconds < 3.0), "{report}");
    assert_eq!((&report["state"], &report["not_shifted"]), (&json!("done"), &json!([])), "{report}");
    assert_eq!(report["purpose"], "new disks", "{report}");
    comes_to_rest(&load, &["A", "B"]).await;
    faultless(load).await;
}

/// Waits until the primaries are reported as serving.
async fn serves_home(edge: &Edge) {
    eventually(PATIENCE, "the load is seen", async || {
        let health = health(&edge.understudy).await;
        if health["serving_priority"] == 0 { Ok(()) } else { Err(health.to_string()) }
    })
    .await;
}

/// Waits for the end of a drill, and returns its report.
async fn ended(edge: &Edge, id: &Value) -> Value {
    let path = format!("/drills/{}", id.as_str().expect("an id"));
    eventually(PATIENCE, "the drill ends", async || {
        let (_, report) = edge.understudy.get(&path).await;
        if report["state"] == "running" { Err(report.to_string()) } else { Ok(report) }
    })
    .await
}

/// Tests primaries that die in a drill: at its end the failover is a failure, and the standby is held as
/// after any other.
#[tokio::test(flavor = "multi_thread")]
async fn primaries_that_die_in_a_drill_are_kept_away_as_after_any_failure() {
    let mut backends = Backends::start().await;
    let edge = with_failback(&backends, json!("manual")).await;
    let load = edge.load(200);
    comes_to_rest(&load, &["A", "B"]).await;
    serves_home(&edge).await;
    let drill = json!({"down": ["priority=0"], "for": "5s", "abort_if": {"error_rate": 50}});
    let (status, drill) = edge.understudy.post("/upstreams/checkout/drill", drill).await;
    assert_eq!(status, 201, "{drill}");
    comes_to_rest(&load, &["FAILOVER"]).await;
    for primary in backends.primaries() {
        primary.kill();
    }
    assert_eq!(ended(&edge, &drill["id"]).await["state"], "done");
    held(&edge).await;
    let (_, failovers) = edge.understudy.get("/failovers").await;
    let (cause, end) = (&failovers["items"][0]["cause"], &failovers["items"][0]["end"]);
    assert_eq!((cause, end), (&json!("health_check"), &Value::Null), "{failovers}");
    for primary in backends.primaries() {
        primary.restart().await;
    }
    let quiet = window(&load, 200 * LONG).await;
    assert_eq!(quiet.served_by.keys().collect::<Vec<_>>(), ["FAILOVER"], "{quiet:?}");
    let (status, answer) = edge.understudy.post("/upstreams/checkout/failback", json!({})).await;
    assert_eq!(status, 200, "{answer}");
    comes_to_rest(&load, &["A", "B"]).await;
    faultless(load).await;
}

/// Tests a drill while a standby is held, when there is nothing to rehearse. With `force` it moves the
/// traffic for a while, and the hold outlives it.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_outlives_what_puts_its_standby_out() {
    let mut backends = Backends::start().await;
    let (edge, load, _) = failed_over(&mut backends, json!("manual")).await;
    let quiet = window(&load, 300 * LONG).await;
    assert_eq!(quiet.served_by.keys().collect::<Vec<_>>(), ["FAILOVER"], "{quiet:?}");
    let drill = json!({"down": ["priority=1"], "for": "3s"});
    let (status, answer) = edge.understudy.post("/upstreams/checkout/drill", drill.clone()).await;
    assert_eq!(status, 409, "{answer}");
    let (status, drill) = edge.understudy.post("/upstreams/checkout/drill?force=true", drill).await;
    assert_eq!(status, 201, "{drill}");
    comes_to_rest(&load, &["A", "B"]).await;
    ended(&edge, &drill["id"]).await;
    comes_to_rest(&load, &["FAILOVER"]).await;
    put(&edge, &state_of(&backends.failover), json!({"state": "drained"})).await;
    comes_to_rest(&load, &["A", "B"]).await;
    put(&edge, &state_of(&backends.failover), json!({"state": "auto"})).await;
    comes_to_rest(&load, &["FAILOVER"]).await;
    let quiet = window(&load, 300 * 7).await;
    assert_eq!(quiet.served_by.keys().collect::<Vec<_>>(), ["FAILOVER"], "{quiet:?}");
    held(&edge).await;
    faultless(load).await;
}

/// Tests the death of a held standby: the next standby is held in its place, whatever the primaries do.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_goes_on_to_the_next_standby() {
    let (mut backends, last) = (Backends::start().await, Backend::start("LAST").await);
    let edge = with_failback(&backends, json!("manual")).await;
    let target = json!({"target": last.address().to_string(), "priority": 2});
    create(&edge.understudy, "/upstreams/checkout/targets", target).await;
    let load = edge.load(300);
    comes_to_rest(&load, &["A", "B"]).await;
    for primary in backends.primaries() {
        primary.kill();
    }
    comes_to_rest(&load, &["FAILOVER"]).await;
    held(&edge).await;
    backends.failover.kill();
    comes_to_rest(&load, &["LAST"]).await;
    eventually(PATIENCE, "the last one is held", async || {
        let hold = held(&edge).await;
        if hold["priority"] == 2 { Ok(()) } else { Err(hold.to_string()) }
    })
    .await;
    for primary in backends.primaries() {
        primary.restart().await;
    }
    let quiet = window(&load, 300 * LONG).await;
    assert_eq!(quiet.served_by.keys().collect::<Vec<_>>(), ["LAST"], "{quiet:?}");
    faultless(load).await;
}

/// Tests orders about upstreams that are gone: they can be taken back.
#[tokio::test(flavor = "multi_thread")]
async fn orders_of_an_upstream_that_is_gone_are_taken_back() {
    let backends = Backends::start().await;
    let understudy = Understudy::serve(&[]).await;
    let targets =
        json!([{"target": backends.a.address().to_string()}, {"target": backends.b.address().to_string()}]);
    create(&understudy, "/upstreams", json!({"name": "checkout", "targets": targets})).await;
    for (path, body) in [
        (state_of(&backends.a), json!({"state": "drained"})),
        ("/upstreams/checkout/tiers/0/state".to_owned(), json!({"state": "drained"})),
        ("/upstreams/checkout/pin".to_owned(), json!({"priority": 0})),
    ] {
        let (status, answer) = understudy.put(&format!("{path}?force=true"), body).await;
        assert_eq!(status, 200, "{path}: {answer}");
    }
    assert_eq!(understudy.delete("/upstreams/checkout").await.0, 204);
    let (status, answer) = understudy.put(&state_of(&backends.a), json!({"state": "auto"})).await;
    assert_eq!((status, &answer["state"]), (200, &json!("auto")), "{answer}");
    for path in ["/upstreams/checkout/tiers/0/state", "/upstreams/checkout/pin"] {
        assert_eq!(understudy.delete(path).await.0, 204, "{path}");
        assert_eq!(understudy.delete(path).await.0, 404, "{path}");
    }
    let (_, orders) = understudy.get("/orders").await;
    assert_eq!((&orders["states"], &orders["pins"]), (&json!([]), &json!([])), "{orders}");
}

/// Tests the latency in a drill's report. Envoy reports the requests under way, which is the number that came
/// while one took.
#[tokio::test(flavor = "multi_thread")]
async fn a_drill_reports_how_long_requests_took_before_and_during() {
    let mut backends = Backends::start().await;
    let edge = backends.edge(json!({})).await;
    for primary in backends.primaries() {
        primary.mode("slow 20ms").await;
    }
    backends.failover.mode("slow 60ms").await;
    let load = edge.load(300);
    comes_to_rest(&load, &["A", "B"]).await;
    // Long enough for reports with enough requests under way: six in each report.
    window(&load, 300 * 8).await;
    let drill = json!({"down": ["priority=0"], "for": "8s"});
    let (status, drill) = edge.understudy.post("/upstreams/checkout/drill", drill).await;
    assert_eq!(status, 201, "{drill}");
    let report = eventually(PATIENCE, "the drill ends", async || {
        let (_, report) = edge.understudy.get("/drills/1").await;
        if report["state"] == "done" { Ok(report) } else { Err(report.to_string()) }
    })
    .await;
    let latency = |of: &str| report["latency_ms"][of].as_f64().unwrap_or_else(|| panic!("{of}: {report}"));
    assert!((14.0..40.0).contains(&latency("before")), "{report}");
    assert!((40.0..90.0).contains(&latency("during")), "{report}");
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_ends_with_the_control_plane_that_watched_it() {
    let backends = Backends::start().await;
    let mut edge = backends.edge(json!({})).await;
    let load = edge.load(200);
    comes_to_rest(&load, &["A", "B"]).await;
    let drill = json!({"down": ["priority=0"], "for": "10m"});
    let (status, drill) = edge.understudy.post("/upstreams/checkout/drill", drill).await;
    assert_eq!(status, 201, "{drill}");
    comes_to_rest(&load, &["FAILOVER"]).await;
    edge.understudy.kill();
    edge.understudy.restart().await;
    comes_to_rest(&load, &["A", "B"]).await;
    let (_, drill) = edge.understudy.get("/drills/1").await;
    assert_eq!(drill["state"], "reverted", "{drill}");
    faultless(load).await;
}

/// Tests a standby that fails while it must serve: the drill ends at once, and no client sees an error.
#[tokio::test(flavor = "multi_thread")]
async fn a_drill_ends_early_when_requests_fail() {
    let mut backends = Backends::start().await;
    let edge = backends.edge(json!({})).await;
    let load = edge.load(300);
    comes_to_rest(&load, &["A", "B"]).await;
    let drill = json!({"down": ["priority=0"], "for": "60s", "abort_if": {"error_rate": 0.1}});
    let (status, drill) = edge.understudy.post("/upstreams/checkout/drill", drill).await;
    assert_eq!(status, 201, "{drill}");
    comes_to_rest(&load, &["FAILOVER"]).await;
    backends.failover.mode("status 503").await;
    let ended = ended(&edge, &drill["id"]).await;
    assert_eq!(ended["state"], "aborted", "{ended}");
    comes_to_rest(&load, &["A", "B"]).await;
    // The drilled primaries answered, in panic until the drill ended, the requests that the standby could
    // not.
    faultless(load).await;
}

/// Lets a standby fail in a drill. At 40 requests a second the five failures that eject the standby may all
/// be tries of one request: it must be answered by the drilled primaries. The drill ends when `error_rate`
/// percent failed, or when the drilled primaries serve again.
async fn a_standby_fails_in_a_drill(
    fails: impl AsyncFn(&mut Backend),
    is_warned: bool,
    error_rate: f64,
) -> Value {
    let mut backends = Backends::start().await;
    let edge = backends.edge(json!({})).await;
    let load = edge.load(40);
    comes_to_rest(&load, &["A", "B"]).await;
    serves_home(&edge).await;
    let drill = json!({"down": ["priority=0"], "for": "60s", "abort_if": {"error_rate": error_rate}});
    if is_warned {
        fails(&mut backends.failover).await;
    }
    let (status, drill) = edge.understudy.post("/upstreams/checkout/drill", drill).await;
    assert_eq!(status, 201, "{drill}");
    if !is_warned {
        comes_to_rest(&load, &["FAILOVER"]).await;
        fails(&mut backends.failover).await;
    }
    let ended = ended(&edge, &drill["id"]).await;
    assert_eq!(ended["state"], "aborted", "{ended}");
    comes_to_rest(&load, &["A", "B"]).await;
    faultless(load).await;
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_fails_from_the_first_request_of_a_drill_costs_none() {
    a_standby_fails_in_a_drill(async |standby| standby.mode("status 503").await, true, 0.1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_begins_to_fail_in_a_drill_costs_no_request() {
    a_standby_fails_in_a_drill(async |standby| standby.mode("status 503").await, false, 0.1).await;
}

/// Tests a standby that dies in a drill. Its few errors are too small a share. The drill ends because the
/// drilled primaries serve: it shows nothing any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_dies_in_a_drill_costs_no_request() {
    let ended = a_standby_fails_in_a_drill(async |standby| standby.kill(), false, 90.0).await;
    assert!(ended["reason"].as_str().is_some_and(|reason| reason.contains("what stood in")), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_do_harm_is_refused() {
    let backends = Backends::start().await;
    let edge = backends.edge(json!({})).await;
    let understudy = &edge.understudy;
    for (path, body, expected) in [
        ("/upstreams/checkout/targets/10.9.9.9:1/state", json!({"state": "down"}), 404),
        ("/upstreams/nowhere/tiers/0/state", json!({"state": "down"}), 404),
        ("/upstreams/checkout/tiers/7/state", json!({"state": "down"}), 404),
        ("/upstreams/checkout/tiers/0/state", json!({"state": "asleep"}), 422),
        ("/upstreams/checkout/tiers/0/state", json!({"state": "down", "expires_in": "soon"}), 422),
        ("/upstreams/checkout/pin", json!({"priority": 5}), 422),
    ] {
        let (status, answer) = understudy.put(path, body.clone()).await;
        assert_eq!(status, expected, "PUT {path} {body}: {answer}");
    }
    for (path, body, expected) in [
        ("/upstreams/checkout/drill", json!({"down": ["priority=0", "priority=1"]}), 409),
        ("/upstreams/checkout/drill", json!({"down": ["priority=9"]}), 422),
        ("/upstreams/checkout/drill", json!({"down": []}), 422),
        ("/upstreams/nowhere/drill", json!({"down": ["priority=0"]}), 404),
        ("/upstreams/checkout/failback", json!({}), 409),
    ] {
        let (status, answer) = understudy.post(path, body.clone()).await;
        assert_eq!(status, expected, "POST {path} {body}: {answer}");
    }
    put(&edge, "/upstreams/checkout/tiers/0/state", json!({"state": "down"})).await;
    let (status, answer) = understudy.put(&state_of(&backends.failover), json!({"state": "drained"})).await;
    assert_eq!(status, 409, "{answer}");
    let forced = format!("{}?force=true", state_of(&backends.failover));
    put(&edge, &forced, json!({"state": "drained"})).await;
    edge.serves("FAILOVER", Duration::from_secs(5)).await;
}

/// Tests a drill every ten seconds: cron's sixth field, which is rarely needed, is the second.
#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_drill_begins_when_it_is_due() {
    let backends = Backends::start().await;
    let edge = backends.edge(json!({})).await;
    let load = edge.load(300);
    comes_to_rest(&load, &["A", "B"]).await;
    let drill = json!({"drill": {"schedule": "*/10 * * * * *", "for": "4s", "down": ["priority=0"]}});
    let (status, answer) = edge.understudy.patch("/upstreams/checkout", drill).await;
    assert_eq!(status, 200, "{answer}");
    comes_to_rest(&load, &["FAILOVER"]).await;
    let drill = eventually(PATIENCE, "it ends by itself", async || {
        let (_, drills) = edge.understudy.get("/drills").await;
        let first = drills["items"].as_array().and_then(|items| items.last()).cloned().unwrap_or_default();
        if first["state"] == "done" { Ok(first) } else { Err(drills.to_string()) }
    })
    .await;
    assert_eq!((&drill["author"], &drill["errors"]), (&json!("schedule"), &json!(0)), "{drill}");
    assert!(drill["requests"].as_u64() > Some(0), "{drill}");
    let off = json!({"drill": null});
    let (status, answer) = edge.understudy.patch("/upstreams/checkout", off).await;
    assert_eq!(status, 200, "{answer}");
    comes_to_rest(&load, &["A", "B"]).await;
    faultless(load).await;
}

/// Tests flapping primaries. The first failback is as the policy says, by itself; a second one within the
/// hour would be one too many.
#[tokio::test(flavor = "multi_thread")]
async fn primaries_that_come_and_go_are_kept_away_until_an_operator_lets_them() {
    let mut backends = Backends::start().await;
    let edge = with_failback(&backends, json!({"max_failbacks": "1 per 1h"})).await;
    let load = edge.load(300);
    comes_to_rest(&load, &["A", "B"]).await;
    for round in ["first", "second"] {
        for primary in backends.primaries() {
            primary.kill();
        }
        comes_to_rest(&load, &["FAILOVER"]).await;
        if round == "second" {
            let hold = held(&edge).await;
            assert_eq!((&hold["flapping"], &hold["due"]), (&json!(true), &Value::Null), "{hold}");
        }
        for primary in backends.primaries() {
            primary.restart().await;
        }
        if round == "first" {
            comes_to_rest(&load, &["A", "B"]).await;
            eventually(PATIENCE, "the failback is told", async || {
                let (_, failovers) = edge.understudy.get("/failovers").await;
                if failovers["items"][0]["end"].is_string() { Ok(()) } else { Err(failovers.to_string()) }
            })
            .await;
        }
    }
    let quiet = window(&load, 300 * LONG).await;
    assert_eq!(quiet.served_by.keys().collect::<Vec<_>>(), ["FAILOVER"], "{quiet:?}");
    let status = printed_status(&edge.understudy);
    assert!(status.contains("flapping: until released"), "{status}");
    let (status, answer) = edge.understudy.post("/upstreams/checkout/failback", json!({})).await;
    assert_eq!(status, 200, "{answer}");
    comes_to_rest(&load, &["A", "B"]).await;
    faultless(load).await;
}

/// Tests that orders do not wait for a change whose canary is being watched.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_drained_at_once_while_a_canary_bakes() {
    let backends = Backends::start().await;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let config = directory.path().join("rollout.yaml");
    std::fs::write(&config, "rollout: { bake: 60s }\n").expect("the directory is ours");
    let config = config.to_str().expect("it is text").to_owned();
    let edge = backends.edge_of_files(&[&config]).await;
    let second = Envoy::start(&edge.understudy, "edge-2", "edge", &[]).await;
    let load = edge.load(300);
    comes_to_rest(&load, &["A", "B"]).await;
    let (status, answer) =
        edge.understudy.patch("/upstreams/checkout", json!({"connect_timeout": "300ms"})).await;
    assert_eq!(status, 200, "{answer}");
    let rolling_out = async || {
        let (_, status) = edge.understudy.get("/status").await;
        let canaries = status["rollout"]["canaries"].as_array().map_or(0, Vec::len);
        if canaries > 0 { Ok(()) } else { Err(status.to_string()) }
    };
    eventually(PATIENCE, "a canary is asked", rolling_out).await;
    put(&edge, &state_of(&backends.a), json!({"state": "drained"})).await;
    comes_to_rest(&load, &["B"]).await;
    for envoy in [&edge.envoy, &second] {
        eventually(PATIENCE, "both Envoys drain A", async || {
            let clusters = envoy.clusters().await;
            if clusters.to_string().contains("DRAINING") { Ok(()) } else { Err(clusters.to_string()) }
        })
        .await;
    }
    rolling_out().await.expect("all this while the canary bakes");
    faultless(load).await;
}

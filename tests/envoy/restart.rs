//! Tests of restarts in the middle of a rollout: what was live goes on to be served, and the rest goes to one
//! Envoy first.
//!
//! Each test has three Envoys of both variants of xDS, and load while it happens. The canary is most often
//! `edge-1`, which speaks state of the world where the config comes from files, and delta where it comes over
//! REST.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::absence::{Origin, Trio};
use crate::harness::{PATIENCE, eventually, free_port};
use crate::stage::{faultless, window};

/// Time limit of a rollout after a start.
const ROLLOUT: Duration = Duration::from_secs(60);

fn listener(name: &str) -> Value {
    json!({"name": name, "address": format!("127.0.0.1:{}", free_port())})
}

/// Returns a listener that every Envoy refuses, for want of the directory of its log.
fn refused_listener() -> Value {
    let mut refused = listener("refused");
    refused["access_log"] = json!({"path": "nowhere/at/all.log", "format": "json"});
    refused
}

/// Writes the file that makes canaries bake so long, beside the config.
fn bake(trio: &Trio, time: &str) {
    let rollout = json!({"rollout": {"bake": time}});
    fs::write(trio.file().with_file_name("rollout.yaml"), rollout.to_string()).expect("writes");
}

/// Returns a trio whose canaries bake so long.
async fn baking(origin: Origin, time: &str) -> Trio {
    let mut trio = Trio::start_from(origin).await;
    bake(&trio, time);
    let config = trio.file().parent().expect("it has a directory").display().to_string();
    trio.edge.understudy.restart_with(&[&config]).await;
    trio.settled().await;
    trio
}

/// Returns how many Envoys run a listener of this name.
async fn running(trio: &Trio, name: &str) -> usize {
    let path = format!("/listeners/{name}");
    trio.running().await.iter().filter(|names| names.contains(&path)).count()
}

/// Waits until so many Envoys run a listener of this name.
async fn runs(trio: &Trio, name: &str, many: usize) {
    eventually(ROLLOUT, &format!("{name} is at {many}"), async || {
        let running = running(trio, name).await;
        if running == many { Ok(()) } else { Err(format!("it is at {running}")) }
    })
    .await;
}

async fn states(trio: &Trio) -> Vec<String> {
    let (_, revisions) = trio.understudy().get("/revisions").await;
    let items = revisions["items"].as_array().cloned().unwrap_or_default();
    items.iter().filter_map(|it| it["state"].as_str().map(str::to_owned)).collect()
}

async fn newest_is(trio: &Trio, state: &str) -> Value {
    eventually(ROLLOUT, &format!("the newest revision is {state}"), async || {
        let (_, revisions) = trio.understudy().get("/revisions").await;
        let newest = revisions["items"][0].clone();
        if newest["state"] == state { Ok(newest) } else { Err(revisions.to_string()) }
    })
    .await
}

/// Updates that an Envoy got, by kind and outcome.
type Updates = BTreeMap<String, u64>;

/// Checks that no Envoy was told of anything but the one that refused this revision.
fn only_the_canary_was_told(refused: &Value, before: &[Updates], after: &[Updates]) {
    let by = refused["refused_by"].as_array().map(Vec::as_slice);
    assert!(matches!(by, Some([_])), "{refused}");
    for (index, (before, after)) in before.iter().zip(after).enumerate() {
        let is_canary = refused["refused_by"][0] == format!("edge-{}", index + 1);
        assert!(is_canary || before == after, "edge-{}: {before:?} and {after:?}", index + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_saved_while_it_was_away_goes_to_one_envoy_first() {
    let mut trio = baking(Origin::Files, "5s").await;
    let load = trio.load().await;
    trio.edge.understudy.kill();
    trio.add_listener(listener("more"));
    trio.edge.understudy.restart().await;
    assert_eq!(trio.understudy().get("/readyz").await.0, 200);
    assert_eq!(trio.understudy().get("/listeners/more").await.0, 200, "it is accepted");
    newest_is(&trio, "rolling_out").await;
    runs(&trio, "more", 1).await;
    assert_eq!(newest_is(&trio, "rolling_out").await["source"], "files");
    window(&load, 100).await;
    runs(&trio, "more", 3).await;
    newest_is(&trio, "live").await;

    // The next start has nothing to try.
    trio.settled().await;
    let updates = trio.updates().await;
    trio.edge.understudy.restart().await;
    trio.settled().await;
    let (_, status) = trio.understudy().get("/status").await;
    assert_eq!(status["rollout"]["rolling_out"], json!([]), "{status}");
    assert_eq!(trio.updates().await, updates);
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_saved_while_it_was_away_that_all_refuse_reach_one_envoy_and_never_come_back() {
    let mut trio = Trio::start_from(Origin::Files).await;
    let (load, updates, running) = (trio.load().await, trio.updates().await, trio.running().await);
    trio.edge.understudy.kill();
    let text = fs::read_to_string(trio.file()).expect("reads");
    trio.add_listener(refused_listener());
    for _ in 0..2 {
        trio.edge.understudy.restart().await;
        eventually(ROLLOUT, "the refusal is told", async || {
            let (_, told) = trio.understudy().get("/violations").await;
            if told[0]["code"] == "US190" { Ok(()) } else { Err(told.to_string()) }
        })
        .await;
        trio.settled().await;
        assert_eq!(states(&trio).await, ["rejected", "live"]);
        let refused = newest_is(&trio, "rejected").await;
        only_the_canary_was_told(&refused, &updates, &trio.updates().await);
        assert_eq!(trio.running().await, running);
        window(&load, 100).await;
    }
    fs::write(trio.file(), text).expect("writes");
    eventually(PATIENCE, "the refusal is over", async || {
        let (_, told) = trio.understudy().get("/violations").await;
        if told == json!([]) { Ok(()) } else { Err(told.to_string()) }
    })
    .await;
    faultless(load).await;
}

/// Kills the control plane while a listener is on trial. `more` makes it.
async fn a_kill_under_trial(origin: Origin, more: impl AsyncFnOnce(&Trio)) {
    let mut trio = baking(origin, "8s").await;
    let load = trio.load().await;
    more(&trio).await;
    runs(&trio, "more", 1).await;
    trio.edge.understudy.restart().await;
    newest_is(&trio, "rolling_out").await;
    // The canary gets the former back until it is its turn again.
    assert_ne!(running(&trio, "more").await, 3);
    // Endpoints go to all at once, and other changes wait behind it.
    let target = json!({"target": "127.0.0.1:1", "weight": 0});
    let (status, answer) = trio.understudy().post("/upstreams/all/targets", target).await;
    assert_eq!(status, 201, "{answer}");
    newest_is(&trio, "live").await;
    let (status, answer) = trio.understudy().post("/listeners", listener("next")).await;
    assert_eq!(status, 201, "{answer}");
    newest_is(&trio, "rolling_out").await;
    runs(&trio, "more", 1).await;
    assert_eq!(running(&trio, "next").await, 0);

    // A second kill, with a queue.
    trio.edge.understudy.restart().await;
    runs(&trio, "more", 1).await;
    runs(&trio, "more", 3).await;
    runs(&trio, "next", 3).await;
    newest_is(&trio, "live").await;
    trio.settled().await;
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_trial_when_it_is_killed_goes_on_to_be() {
    a_kill_under_trial(Origin::Rest, async |trio| {
        let (status, answer) = trio.understudy().post("/listeners", listener("more")).await;
        assert_eq!(status, 201, "{answer}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_on_trial_when_it_is_killed_go_on_to_be() {
    a_kill_under_trial(Origin::Files, async |trio| trio.add_listener(listener("more"))).await;
}

/// Kills at moments around the refusal and the taking back.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_canary_refused_stays_taken_back_whenever_it_is_killed() {
    let mut trio = Trio::start_from(Origin::Rest).await;
    let (load, mut updates, before) = (trio.load().await, trio.updates().await, trio.running().await);
    for patience in ["none", "one request", "taken back"] {
        let (status, answer) = trio.understudy().post("/listeners", refused_listener()).await;
        assert_eq!(status, 201, "{answer}");
        match patience {
            "none" => {}
            "one request" => drop(trio.understudy().get("/fleet").await),
            _ => drop(newest_is(&trio, "rejected").await),
        }
        trio.edge.understudy.restart().await;
        let refused = newest_is(&trio, "rejected").await;
        assert_eq!(trio.understudy().get("/listeners/refused").await.0, 404);
        trio.settled().await;
        let after = trio.updates().await;
        only_the_canary_was_told(&refused, &updates, &after);
        updates = after;
        assert_eq!(trio.running().await, before, "{patience}");
        window(&load, 100).await;
    }
    // Soon after a start too, a change goes to one Envoy first.
    trio.edge.understudy.restart().await;
    let (status, answer) = trio.understudy().post("/listeners", refused_listener()).await;
    assert_eq!(status, 201, "{answer}");
    let refused = newest_is(&trio, "rejected").await;
    trio.settled().await;
    only_the_canary_was_told(&refused, &updates, &trio.updates().await);

    let (status, answer) =
        trio.understudy().post("/listeners?wait=acked&timeout=60s", listener("more")).await;
    assert_eq!(status, 201, "{answer}");
    assert_eq!(running(&trio, "more").await, 3);
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_canary_a_change_saved_while_it_was_away_goes_to_all() {
    let mut trio = Trio::start_from(Origin::Files).await;
    let load = trio.load().await;
    trio.edge.understudy.kill();
    trio.add_listener(listener("more"));
    let rollout = json!({"rollout": {"canary": false}});
    fs::write(trio.file().with_file_name("rollout.yaml"), rollout.to_string()).expect("writes");
    trio.edge.understudy.restart().await;
    newest_is(&trio, "live").await;
    runs(&trio, "more", 3).await;
    faultless(load).await;
}

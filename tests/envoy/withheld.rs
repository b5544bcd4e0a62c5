//! Tests of lost and exchanged data directories: Envoys that run a config which the control plane does not know
//! are not answered, and no client sees an error.
//!
//! Each test has three Envoys of both variants of xDS, and load while it happens.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use crate::absence::{Origin, Trio};
use crate::harness::{PATIENCE, Understudy, eventually, free_port};
use crate::stage::{faultless, printed_status, window};

/// Waits until all three Envoys are connected and not answered for this reason. Returns the stores whose
/// config they run.
async fn withheld(trio: &Trio, reason: &str) -> BTreeSet<String> {
    let stores = eventually(PATIENCE, "no Envoy is answered", async || {
        let (_, fleet) = trio.understudy().get("/fleet").await;
        let nodes = fleet["nodes"].as_array().cloned().unwrap_or_default();
        let is_withheld = |node: &Value| node["state"] == "connected" && node["withheld"] == reason;
        if nodes.len() != 3 || !nodes.iter().all(is_withheld) {
            return Err(fleet.to_string());
        }
        Ok(nodes.iter().filter_map(|node| node["foreign_store"].as_str().map(str::to_owned)).collect())
    })
    .await;
    let (_, status) = trio.understudy().get("/status").await;
    assert_eq!(status["withheld"], 3, "{status}");
    let printed = printed_status(trio.understudy());
    assert!(printed.contains("withheld from edge-1, edge-2, edge-3"), "{printed}");
    let (_, metrics) = trio.understudy().get("/metrics").await;
    assert!(metrics.as_str().is_some_and(|text| text.contains("understudy_withheld_nodes 3")), "{metrics}");
    for node in ["edge-1", "edge-2", "edge-3"] {
        let log = trio.understudy().log();
        let told = log.lines().filter(|line| line.contains("not answered") && line.contains(node)).count();
        assert_eq!(told, 1, "{node}: {log}");
    }
    stores
}

/// Waits until every Envoy runs a listener of this name.
async fn all_run(trio: &Trio, listener: &str) {
    let listener = format!("/listeners/{listener}");
    eventually(PATIENCE, "all have the listener", async || {
        let running = trio.running().await;
        if running.iter().all(|names| names.contains(&listener)) {
            Ok(())
        } else {
            Err(format!("{running:?}"))
        }
    })
    .await;
}

async fn store_of(understudy: &Understudy) -> String {
    understudy.get("/status").await.1["store"].as_str().expect("an id").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_data_directory_takes_nothing_away_and_what_is_written_again_goes_on() {
    let mut trio = Trio::start_from(Origin::Rest).await;
    let (running, store) = (trio.running().await, store_of(trio.understudy()).await);
    let load = trio.load().await;
    trio.edge.understudy.kill();
    let data = trio.understudy().data().to_owned();
    fs::remove_dir_all(&data).expect("removes");
    for _ in 0..2 {
        // A second start finds an empty store that is not new any more.
        trio.edge.understudy.restart().await;
        assert_eq!(withheld(&trio, "nothing_accepted").await, [store.clone()].into());
        window(&load, 100).await;
        assert_eq!(trio.running().await, running);
    }
    // A part of the config is not the config.
    let upstream = json!({"name": "first", "targets": [{"target": "127.0.0.1:9"}]});
    assert_eq!(trio.understudy().post("/upstreams?wait=acked&timeout=1s", upstream).await.0, 202);
    window(&load, 100).await;
    assert_eq!(trio.running().await, running);
    assert_eq!(trio.understudy().get("/status").await.1["withheld"], 3);

    trio.write_again().await;
    trio.settled().await;
    assert_eq!(trio.understudy().get("/status").await.1["withheld"], 0);
    let has_first = |names: &BTreeSet<String>| names.contains("/clusters/first");
    assert!(trio.running().await.iter().all(has_first), "they run the new config");
    window(&load, 100).await;
    // They are known from now on, also those resources that did not change.
    trio.edge.understudy.restart().await;
    trio.settled().await;
    assert_eq!(trio.understudy().delete("/upstreams/first").await.0, 204);
    eventually(PATIENCE, "they follow", async || {
        let running = trio.running().await;
        if running.iter().any(has_first) { Err(format!("{running:?}")) } else { Ok(()) }
    })
    .await;
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_from_an_empty_volume_takes_nothing_away_and_the_right_one_goes_on() {
    let mut trio = Trio::start_from(Origin::Files).await;
    let running = trio.running().await;
    let load = trio.load().await;
    trio.edge.understudy.kill();
    // Neither the data directory nor the files are mounted.
    let data = trio.understudy().data().to_owned();
    let (aside, elsewhere) = (data.with_extension("aside"), data.with_extension("elsewhere"));
    fs::rename(&data, &aside).expect("moves it away");
    let paths = trio.edge.understudy.restart_with(&[]).await;
    withheld(&trio, "nothing_accepted").await;
    window(&load, 100).await;
    assert_eq!(trio.running().await, running);

    trio.edge.understudy.kill();
    fs::rename(&data, &elsewhere).expect("moves it away");
    fs::rename(&aside, &data).expect("puts it back");
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    trio.edge.understudy.restart_with(&paths).await;
    trio.settled().await;
    assert_eq!(trio.running().await, running);
    trio.add_listener(json!({"name": "more", "address": format!("127.0.0.1:{}", free_port())}));
    all_run(&trio, "more").await;
    faultless(load).await;
    fs::remove_dir_all(elsewhere).expect("removes");
}

/// Gives the control plane the data directory of another environment, which serves another port. No Envoy is
/// answered, until `release` allows it.
async fn the_data_of_another_environment(release: impl AsyncFn(&mut Trio, String)) {
    let mut trio = Trio::start_from(Origin::Rest).await;
    let (running, store) = (trio.running().await, store_of(trio.understudy()).await);
    let mut other = Understudy::serve(&[]).await;
    trio.write_another(&other, free_port()).await;
    let others = store_of(&other).await;
    let load = trio.load().await;
    trio.edge.understudy.kill();
    other.kill();
    let place = trio.understudy().data().join("understudy.redb");
    let own = fs::read(&place).expect("reads");
    fs::copy(other.data().join("understudy.redb"), &place).expect("copies");
    trio.edge.understudy.restart().await;
    assert_eq!(withheld(&trio, "foreign_store").await, [store.clone()].into());
    assert_eq!(store_of(trio.understudy()).await, others);
    // A change of it is not for them either, and waits for nobody.
    let upstream = json!({"name": "more", "targets": [{"target": "127.0.0.1:9"}]});
    assert_eq!(trio.understudy().post("/upstreams", upstream).await.0, 201);
    assert_eq!(trio.understudy().get("/status").await.1["rollout"]["rolling_out"], json!([]));
    window(&load, 200).await;
    assert_eq!(trio.running().await, running);
    let foreign = fs::read(&place).expect("reads");

    // With their own data directory they go on as if nothing had been.
    trio.edge.understudy.kill();
    fs::write(&place, own).expect("puts it back");
    trio.edge.understudy.restart().await;
    trio.settled().await;
    assert_eq!(trio.running().await, running);
    faultless(load).await;

    trio.edge.understudy.kill();
    fs::write(&place, foreign).expect("writes");
    release(&mut trio, store).await;
    trio.settled().await;
    let has_more = |names: &BTreeSet<String>| names.contains("/clusters/more");
    assert!(trio.running().await.iter().all(has_more), "they run the other config");
    // It is remembered.
    trio.edge.understudy.restart_with(&[]).await;
    trio.settled().await;
    assert_eq!(trio.understudy().get("/status").await.1["withheld"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_environments_data_directory_takes_nothing_away_until_a_request_allows_it() {
    the_data_of_another_environment(async |trio, store| {
        trio.edge.understudy.restart().await;
        withheld(trio, "foreign_store").await;
        let (status, answer) = trio.understudy().post("/reload?allow=foreign", Value::Null).await;
        assert_eq!((status, &answer["adopted_stores"]), (200, &json!([store])), "{answer}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_environments_data_directory_takes_nothing_away_unless_a_start_allows_it() {
    the_data_of_another_environment(async |trio, _| {
        trio.edge.understudy.restart_with(&["--allow-foreign"]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_changed_are_served_by_a_container_without_a_volume() {
    let mut trio = Trio::start_from(Origin::Files).await;
    let load = trio.load().await;
    for listener in ["first", "second"] {
        trio.edge.understudy.kill();
        fs::remove_dir_all(trio.understudy().data()).expect("removes");
        trio.add_listener(json!({"name": listener, "address": format!("127.0.0.1:{}", free_port())}));
        trio.edge.understudy.restart().await;
        all_run(&trio, listener).await;
        trio.settled().await;
        assert_eq!(trio.understudy().get("/status").await.1["withheld"], 0);
        window(&load, 100).await;
    }
    faultless(load).await;
}

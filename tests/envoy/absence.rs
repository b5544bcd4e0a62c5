//! Tests of lost and empty files: whatever is missing, at a start or while it serves, no client sees an error
//! and no Envoy loses what it runs.
//!
//! Each test has three Envoys of both variants of xDS, and load while it happens.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;
use understudy::cli::demo::load::OpenLoad;

use crate::harness::{Backend, Envoy, PATIENCE, Understudy, eventually, free_port};
use crate::stage::{DELTA, Edge, STATE_OF_THE_WORLD, faultless, window};

/// Source of the config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Files,
    Rest,
}

/// Three Envoys of one fleet, which share a port, and the config that they run.
pub(crate) struct Trio {
    pub(crate) edge: Edge,
    others: [Envoy; 2],
    /// Directory of config files, with `config.yaml`.
    pub(crate) config: PathBuf,
    root: TempDir,
    backend: Backend,
}

/// Returns the entities of a config that serves `/` of any host, by their list.
fn entities(port: u16, backend: &Backend) -> Value {
    json!({
        "listeners": [{"name": "web", "address": format!("127.0.0.1:{port}")}],
        "upstreams": [{"name": "all", "targets": [{"target": backend.address().to_string()}]}],
        "services": [{"name": "all", "upstream": "all"}],
        "routes": [{"name": "all", "service": "all"}],
    })
}

/// Writes all entities over REST, as one change.
async fn write_all(understudy: &Understudy, entities: &Value) {
    let kinds = ["listeners", "upstreams", "services", "routes"];
    let changes: Vec<Value> = kinds
        .iter()
        .flat_map(|kind| entities[kind].as_array().into_iter().flatten().map(move |body| (kind, body)))
        .map(|(kind, body)| json!({"method": "POST", "path": format!("/{kind}"), "body": body}))
        .collect();
    let (status, answer) = understudy.patch("/config", json!({ "changes": changes })).await;
    assert_eq!(status, 200, "{answer}");
}

impl Trio {
    async fn start() -> Self {
        Self::start_from(Origin::Files).await
    }

    /// Starts with a config of this origin. The variants of xDS alternate, and begin with another for REST.
    pub(crate) async fn start_from(origin: Origin) -> Self {
        let (backend, port) = (Backend::start("BACKEND").await, free_port());
        let root = tempfile::tempdir().expect("a temporary directory");
        // Deep enough that no watch reaches the files of other tests.
        let config = root.path().join("of/this/config");
        fs::create_dir_all(&config).expect("makes the directories");
        let entities = entities(port, &backend);
        let understudy = match origin {
            Origin::Files => {
                fs::write(config.join("config.yaml"), entities.to_string()).expect("writes");
                Understudy::serve(&[&config.display().to_string()]).await
            }
            Origin::Rest => {
                let understudy = Understudy::serve(&[]).await;
                write_all(&understudy, &entities).await;
                understudy
            }
        };
        let variants = match origin {
            Origin::Files => [STATE_OF_THE_WORLD, DELTA, STATE_OF_THE_WORLD],
            Origin::Rest => [DELTA, STATE_OF_THE_WORLD, DELTA],
        };
        let edge = Edge::speaking(variants[0], understudy, port).await;
        let second = Envoy::start(&edge.understudy, "edge-2", "edge", variants[1]).await;
        let third = Envoy::start(&edge.understudy, "edge-3", "edge", variants[2]).await;
        let trio = Self { edge, others: [second, third], config, root, backend };
        trio.settled().await;
        trio.edge.serves("BACKEND", PATIENCE).await;
        trio
    }

    /// Writes the whole config of REST again.
    pub(crate) async fn write_again(&self) {
        write_all(self.understudy(), &entities(self.edge.port, &self.backend)).await;
    }

    /// Writes another config over REST to a control plane, which serves another port.
    pub(crate) async fn write_another(&self, understudy: &Understudy, port: u16) {
        write_all(understudy, &entities(port, &self.backend)).await;
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.config.join("config.yaml")
    }

    pub(crate) fn understudy(&self) -> &Understudy {
        &self.edge.understudy
    }

    pub(crate) fn envoys(&self) -> [&Envoy; 3] {
        [&self.edge.envoy, &self.others[0], &self.others[1]]
    }

    /// Waits until all three have acknowledged everything that they should run.
    pub(crate) async fn settled(&self) {
        eventually(PATIENCE, "all Envoys have all", async || {
            let (_, fleet) = self.understudy().get("/fleet").await;
            let nodes = fleet["nodes"].as_array().into_iter().flatten();
            let mut types = nodes.flat_map(|node| node["types"].as_object().into_iter().flatten());
            let is_settled = types.clone().count() >= 12 && types.all(|(_, it)| it["state"] == "acked");
            if is_settled { Ok(()) } else { Err(fleet.to_string()) }
        })
        .await;
    }

    /// Returns the names of the listeners and clusters that each Envoy runs.
    pub(crate) async fn running(&self) -> [BTreeSet<String>; 3] {
        let mut all = [const { BTreeSet::new() }; 3];
        for (envoy, names) in self.envoys().into_iter().zip(&mut all) {
            for (path, list) in [("/listeners", "listener_statuses"), ("/clusters", "cluster_statuses")] {
                let statuses = envoy.admin(&format!("{path}?format=json")).await;
                let statuses = statuses[list].as_array().cloned().unwrap_or_default();
                names.extend(
                    statuses.iter().filter_map(|one| Some(format!("{path}/{}", one["name"].as_str()?))),
                );
            }
        }
        all
    }

    /// Returns how often each Envoy got clusters and listeners, and the outcomes.
    pub(crate) async fn updates(&self) -> Vec<BTreeMap<String, u64>> {
        let mut all = Vec::new();
        for envoy in self.envoys() {
            let mut updates = envoy.stats("cluster_manager.c").await;
            updates.extend(envoy.stats("listener_manager.l").await);
            let ends = ["ds.update_success", "_added", "_modified", "_removed"];
            updates.retain(|name, _| ends.iter().any(|end| name.ends_with(end)));
            all.push(updates);
        }
        all
    }

    pub(crate) async fn load(&self) -> OpenLoad {
        let load = self.edge.load(200);
        window(&load, 50).await;
        load
    }

    /// Waits until the files are refused because the fleet would be empty, and checks that readiness stays.
    async fn refused(&self) {
        let violation = eventually(PATIENCE, "the refusal is reported", async || {
            let (_, violations) = self.understudy().get("/violations").await;
            match violations.as_array().map(Vec::as_slice) {
                Some([one]) if one["code"] == "US191" && one["level"] == "error" => Ok(one.clone()),
                _ => Err(violations.to_string()),
            }
        })
        .await;
        let message = violation["message"].as_str().unwrap_or_default();
        assert!(message.contains("`default`"), "it names the fleet: {violation}");
        assert_eq!(self.understudy().get("/readyz").await.0, 200);
    }

    /// Adds a listener to the file.
    pub(crate) fn add_listener(&self, listener: Value) {
        let text = fs::read_to_string(self.file()).expect("reads");
        let mut file: Value = serde_json::from_str(&text).expect("it was written as JSON");
        file["listeners"].as_array_mut().expect("a list").push(listener);
        self.write_file(&file);
    }

    /// Replaces the file in one step.
    pub(crate) fn write_file(&self, file: &Value) {
        fs::write(self.config.join("draft"), file.to_string()).expect("writes");
        fs::rename(self.config.join("draft"), self.file()).expect("renames");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_directory_at_a_start_is_refused_and_the_files_of_before_serve() {
    let mut trio = Trio::start().await;
    let (running, updates) = (trio.running().await, trio.updates().await);
    let snapshot = trio.edge.snapshot().await;
    let load = trio.load().await;
    trio.edge.understudy.kill();
    fs::rename(trio.file(), trio.root.path().join("aside")).expect("moves it away");
    for _ in 0..2 {
        // A second start compares with the same files as the first.
        trio.edge.understudy.restart().await;
        trio.refused().await;
        trio.settled().await;
        window(&load, 100).await;
        assert_eq!(trio.edge.snapshot().await, snapshot);
        assert_eq!((trio.running().await, trio.updates().await), (running.clone(), updates.clone()));
    }
    fs::rename(trio.root.path().join("aside"), trio.file()).expect("puts it back");
    eventually(PATIENCE, "the refusal is over", async || {
        let (_, violations) = trio.understudy().get("/violations").await;
        if violations == json!([]) { Ok(()) } else { Err(violations.to_string()) }
    })
    .await;
    faultless(load).await;
}

/// Takes the content away while it serves, and then again with permission.
async fn a_loss_while_it_serves(lose: impl Fn(&Trio)) {
    let trio = Trio::start().await;
    let (running, updates) = (trio.running().await, trio.updates().await);
    let snapshot = trio.edge.snapshot().await;
    let load = trio.load().await;
    let text = fs::read(trio.file()).expect("reads");
    lose(&trio);
    trio.refused().await;
    window(&load, 200).await;
    assert_eq!(trio.edge.snapshot().await, snapshot);
    assert_eq!((trio.running().await, trio.updates().await), (running, updates));
    let (_, status) = trio.understudy().get("/status").await;
    assert!(status["files_stale_since"].is_string(), "{status}");

    // It is followed when it returns.
    fs::write(trio.file(), text).expect("writes");
    trio.add_listener(json!({"name": "more", "address": format!("127.0.0.1:{}", free_port())}));
    eventually(PATIENCE, "all have the new listener", async || {
        let running = trio.running().await;
        let all = running.iter().all(|names| names.contains("/listeners/more"));
        if all { Ok(()) } else { Err(format!("{running:?}")) }
    })
    .await;
    faultless(load).await;

    // With permission it is a decision.
    lose(&trio);
    trio.refused().await;
    let (status, answer) = trio.understudy().post("/reload?allow=empty", Value::Null).await;
    assert_eq!(status, 200, "{answer}");
    eventually(PATIENCE, "no Envoy has the listener", async || {
        let running = trio.running().await;
        let none = running.iter().all(|names| !names.contains("/listeners/web"));
        if none { Ok(()) } else { Err(format!("{running:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_only_file_takes_nothing_away_without_permission() {
    a_loss_while_it_serves(|trio| fs::remove_file(trio.file()).expect("removes")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_only_file_takes_nothing_away_without_permission() {
    a_loss_while_it_serves(|trio| fs::write(trio.file(), "").expect("empties")).await;
}

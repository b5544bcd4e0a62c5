//! Tests of a damaged database: no client sees an error, and no Envoy loses what it runs.
//!
//! Each row has three Envoys of both variants of xDS, and load while it happens.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;
use understudy::cli::demo::load::OpenLoad;

use crate::harness::{Backend, Envoy, PATIENCE, Understudy, eventually, free_port};
use crate::stage::{DELTA, Edge, STATE_OF_THE_WORLD, faultless, window};

/// Source of the config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Road {
    Files,
    Rest,
}

/// Three Envoys of one fleet, which share a port, and the config that they run.
struct DamagedTrio {
    edge: Edge,
    others: [Envoy; 2],
    _backend: Backend,
    /// Directory of config files, with `config.yaml` if the config comes from files.
    _config: TempDir,
}

/// Entities of a config that serves `/` of any host, by their list.
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

impl DamagedTrio {
    async fn start(road: Road) -> Self {
        let (backend, port) = (Backend::start("BACKEND").await, free_port());
        let config = tempfile::tempdir().expect("a temporary directory");
        let (entities, path) = (entities(port, &backend), config.path().display().to_string());
        let understudy = match road {
            Road::Files => {
                fs::write(config.path().join("config.yaml"), entities.to_string()).expect("writes");
                Understudy::serve(&[&path]).await
            }
            Road::Rest => {
                let understudy = Understudy::serve(&[]).await;
                write_all(&understudy, &entities).await;
                understudy
            }
        };
        let variants = match road {
            Road::Files => [STATE_OF_THE_WORLD, DELTA, STATE_OF_THE_WORLD],
            Road::Rest => [DELTA, STATE_OF_THE_WORLD, DELTA],
        };
        let edge = Edge::speaking(variants[0], understudy, port).await;
        let second = Envoy::start(&edge.understudy, "edge-2", "edge", variants[1]).await;
        let third = Envoy::start(&edge.understudy, "edge-3", "edge", variants[2]).await;
        let trio = Self { edge, others: [second, third], _backend: backend, _config: config };
        trio.settled().await;
        trio.edge.serves("BACKEND", PATIENCE).await;
        trio
    }

    fn understudy(&self) -> &Understudy {
        &self.edge.understudy
    }

    fn envoys(&self) -> [&Envoy; 3] {
        [&self.edge.envoy, &self.others[0], &self.others[1]]
    }

    /// Waits until all three have taken everything that they should run.
    async fn settled(&self) {
        eventually(PATIENCE, "all Envoys have all", async || {
            let (_, fleet) = self.understudy().get("/fleet").await;
            let nodes = fleet["nodes"].as_array().cloned().unwrap_or_default();
            let mut types = nodes.iter().flat_map(|node| node["types"].as_object().into_iter().flatten());
            let is_settled = types.clone().count() >= 12 && types.all(|(_, it)| it["state"] == "acked");
            if is_settled { Ok(()) } else { Err(fleet.to_string()) }
        })
        .await;
    }

    /// Returns the names of the listeners and clusters that each Envoy runs.
    async fn runs(&self) -> [BTreeSet<String>; 3] {
        let mut all = [const { BTreeSet::new() }; 3];
        for (envoy, names) in self.envoys().into_iter().zip(&mut all) {
            for (path, list) in [("/listeners", "listener_statuses"), ("/clusters", "cluster_statuses")] {
                let listed = envoy.admin(&format!("{path}?format=json")).await;
                let listed = listed[list].as_array().cloned().unwrap_or_default();
                names.extend(
                    listed.iter().filter_map(|one| Some(format!("{path}/{}", one["name"].as_str()?))),
                );
            }
        }
        all
    }

    async fn load(&self) -> OpenLoad {
        let load = self.edge.load(200);
        window(&load, 50).await;
        load
    }
}

/// Cuts the database to nothing, as a full disk or a copy that failed leaves it.
async fn a_database_of_no_bytes(road: Road) {
    let mut trio = DamagedTrio::start(road).await;
    let runs = trio.runs().await;
    let load = trio.load().await;
    trio.edge.understudy.kill();
    let file = trio.understudy().data().join("understudy.redb");
    let whole = fs::read(&file).expect("reads");
    fs::write(&file, "").expect("truncates");
    let printed = trio.edge.understudy.fails_to_start().await;
    assert!(printed.contains("is damaged; restore a backup"), "{printed}");
    assert_eq!(fs::metadata(&file).expect("it is there").len(), 0, "damage is left as it was found");
    window(&load, 200).await;
    assert_eq!(trio.runs().await, runs);

    fs::write(&file, whole).expect("puts it back");
    trio.edge.understudy.restart().await;
    trio.settled().await;
    assert_eq!(trio.runs().await, runs);
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_no_bytes_is_damage_and_takes_nothing_away() {
    a_database_of_no_bytes(Road::Rest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_no_bytes_is_damage_with_files_too() {
    a_database_of_no_bytes(Road::Files).await;
}

//! Tests of canaries: a change goes to one Envoy first, and no other Envoy gets a change that it refuses.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Envoy, PATIENCE, Understudy, eventually, free_port};
use crate::stage::{Backends, DELTA, Edge, STATE_OF_THE_WORLD, Variant, create, faultless, window};

/// Three Envoys of one fleet, which share a port. The first by id is the canary.
struct ThreeEnvoys {
    edge: Edge,
    others: [Envoy; 2],
}

impl ThreeEnvoys {
    async fn start(variant: Variant, backends: &Backends) -> Self {
        let edge = backends.edge_speaking(variant, json!({})).await;
        let second = Envoy::start(&edge.understudy, "edge-2", "edge", variant).await;
        let third = Envoy::start(&edge.understudy, "edge-3", "edge", variant).await;
        let envoys = Self { edge, others: [second, third] };
        envoys.settled().await;
        envoys
    }

    fn envoys(&self) -> [&Envoy; 3] {
        [&self.edge.envoy, &self.others[0], &self.others[1]]
    }

    /// Waits until all three have taken everything that they should run.
    async fn settled(&self) {
        settled(&self.edge.understudy, 3).await;
    }

    /// Returns the number of listener updates that each Envoy took.
    async fn listener_updates(&self) -> [u64; 3] {
        let mut updates = [0; 3];
        for (envoy, count) in self.envoys().into_iter().zip(&mut updates) {
            let stats = envoy.stats("listener_manager.").await;
            *count = stats["listener_manager.lds.update_success"];
        }
        updates
    }

    /// Makes the directory for the log of [`ThreeEnvoys::logging`], for one Envoy alone.
    fn make_logs(&self, index: usize) {
        fs::create_dir(self.envoys()[index].directory().join("logs")).expect("makes a directory");
    }

    /// Returns a listener that only Envoys with a directory for its log accept.
    fn logging() -> Value {
        let log = json!({"path": "logs/access.log", "format": "json"});
        json!({"name": "logging", "address": format!("127.0.0.1:{}", free_port()), "access_log": log})
    }
}

/// Waits until so many Envoys have taken everything that they should run.
async fn settled(understudy: &Understudy, many: usize) {
    eventually(PATIENCE, "all Envoys have all", async || {
        let (_, fleet) = understudy.get("/fleet").await;
        let nodes = fleet["nodes"].as_array().cloned().unwrap_or_default();
        let types = nodes.iter().flat_map(|node| node["types"].as_object().into_iter().flatten());
        let is_settled =
            types.clone().count() >= 4 * many && types.clone().all(|(_, it)| it["state"] == "acked");
        if is_settled { Ok(()) } else { Err(fleet.to_string()) }
    })
    .await;
}

/// Waits until the revision is in this state, and returns it.
async fn revision(understudy: &Understudy, number: u64, state: &str) -> Value {
    eventually(Duration::from_secs(60), &format!("revision {number} is {state}"), async || {
        let (_, revision) = understudy.get(&format!("/revisions/{number}")).await;
        if revision["state"] == state { Ok(revision) } else { Err(revision.to_string()) }
    })
    .await
}

async fn newest(understudy: &Understudy) -> u64 {
    let (_, status) = understudy.get("/status").await;
    status["revision"].as_u64().expect("a number")
}

const WORDS: &str = "logs/access.log";

async fn a_refusal_stops_at_the_canary(variant: Variant) {
    let backends = Backends::start().await;
    let envoys = ThreeEnvoys::start(variant, &backends).await;
    let understudy = &envoys.edge.understudy;
    // The other Envoys would accept the listener.
    envoys.make_logs(1);
    envoys.make_logs(2);
    let (before, snapshot) = (envoys.listener_updates().await, envoys.edge.snapshot().await);
    let load = envoys.edge.load(300);
    window(&load, 100).await;

    let (status, problem) =
        understudy.post("/listeners?wait=acked&timeout=30s", ThreeEnvoys::logging()).await;
    assert_eq!(status, 409, "{problem}");
    assert!(
        problem["detail"].as_str().is_some_and(|it| it.contains("edge-1") && it.contains(WORDS)),
        "{problem}"
    );
    let number = newest(understudy).await;
    let refused = revision(understudy, number, "rejected").await;
    assert!(refused["error"].as_str().is_some_and(|error| error.contains(WORDS)), "{refused}");
    assert_eq!(refused["refused_by"], json!(["edge-1"]));
    assert_eq!(revision(understudy, number - 1, "live").await["number"], number - 1);
    assert_eq!(understudy.get("/listeners/logging").await.0, 404, "it is undone");
    assert!(understudy.log().contains("no other Envoy gets it"), "{}", understudy.log());
    let (_, told) = understudy.get("/status").await;
    assert_eq!(told["rollout"]["rejected"]["refused_by"], json!(["edge-1"]), "{told}");
    let printed = crate::harness::understudy(&["status", "--admin", &understudy.admin.to_string()]).output();
    let printed = String::from_utf8(printed.expect("it runs").stdout).expect("it is text");
    assert!(printed.contains("taken back") && printed.contains(WORDS), "{printed}");
    envoys.settled().await;
    assert_eq!(envoys.edge.snapshot().await, snapshot);
    let after = envoys.listener_updates().await;
    assert_eq!(after[1..], before[1..], "the others were told of nothing");

    // Traffic and further changes go on.
    create(
        understudy,
        "/listeners",
        json!({"name": "more", "address": format!("127.0.0.1:{}", free_port())}),
    )
    .await;
    revision(understudy, number + 1, "live").await;
    envoys.settled().await;
    assert!(envoys.listener_updates().await.iter().zip(after).all(|(now, then)| *now > then));
    window(&load, 300).await;
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_canary_refuses_no_other_envoy_gets() {
    a_refusal_stops_at_the_canary(STATE_OF_THE_WORLD).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_canary_refuses_no_other_envoy_gets_over_delta() {
    a_refusal_stops_at_the_canary(DELTA).await;
}

async fn another_refusal_is_its_own(variant: Variant) {
    let backends = Backends::start().await;
    let envoys = ThreeEnvoys::start(variant, &backends).await;
    let understudy = &envoys.edge.understudy;
    envoys.make_logs(0);
    envoys.make_logs(2);
    let load = envoys.edge.load(300);
    window(&load, 100).await;

    create(understudy, "/listeners", ThreeEnvoys::logging()).await;
    let number = newest(understudy).await;
    let live = eventually(PATIENCE, "the revision names who refuses it", async || {
        let live = revision(understudy, number, "live").await;
        if live["refused_by"] == json!([]) { Err(live.to_string()) } else { Ok(live) }
    })
    .await;
    assert_eq!((&live["refused_by"], &live["error"]), (&json!(["edge-2"]), &Value::Null));
    for index in [0, 2] {
        eventually(PATIENCE, "the others have it", async || {
            let dump = envoys.envoys()[index].admin("/listeners").await.to_string();
            if dump.contains("logging") { Ok(()) } else { Err(dump) }
        })
        .await;
    }
    window(&load, 300).await;
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_another_envoy_is_recorded_and_the_fleet_goes_on() {
    another_refusal_is_its_own(STATE_OF_THE_WORLD).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_another_envoy_is_recorded_and_the_fleet_goes_on_over_delta() {
    another_refusal_is_its_own(DELTA).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_changes_in_a_row_only_the_bad_one_is_taken_back() {
    let backends = Backends::start().await;
    let envoys = ThreeEnvoys::start(STATE_OF_THE_WORLD, &backends).await;
    let understudy = &envoys.edge.understudy;
    let first = newest(understudy).await + 1;
    let good = |name: &str| json!({"name": name, "address": format!("127.0.0.1:{}", free_port())});
    let load = envoys.edge.load(300);
    // Concurrent, so that some are accepted while others are on their way.
    let (one, bad, two, drain) = tokio::join!(
        understudy.post("/listeners", good("one")),
        understudy.post("/listeners", ThreeEnvoys::logging()),
        understudy.post("/listeners", good("two")),
        understudy.post("/upstreams/checkout/targets", json!({"target": "127.0.0.1:1", "weight": 0})),
    );
    assert_eq!([one.0, bad.0, two.0, drain.0], [201; 4]);
    eventually(PATIENCE, "all are decided", async || {
        let (_, status) = understudy.get("/status").await;
        if status["rollout"]["rolling_out"] == json!([]) { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    let (_, revisions) = understudy.get("/revisions?size=4").await;
    let rejected: Vec<&Value> =
        revisions["items"].as_array().into_iter().flatten().filter(|it| it["state"] == "rejected").collect();
    assert_eq!(rejected.len(), 1, "{revisions}");
    assert!(rejected[0]["summary"].as_str().is_some_and(|it| it.contains("logging")), "{revisions}");
    assert_eq!(newest(understudy).await, first + 3, "there is no gap");
    let (_, listeners) = understudy.get("/listeners").await;
    let names: Vec<&str> =
        listeners["items"].as_array().into_iter().flatten().filter_map(|it| it["name"].as_str()).collect();
    assert_eq!(names, ["one", "two", "web"]);
    envoys.settled().await;
    for envoy in envoys.envoys() {
        let told = envoy.admin("/listeners").await.to_string();
        assert!(told.contains("one") && told.contains("two") && !told.contains("logging"), "{told}");
    }
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_the_canary_refused_are_reported_until_they_change_also_after_a_restart() {
    let backends = Backends::start().await;
    let (directory, port) = (tempfile::tempdir().expect("a temporary directory"), free_port());
    let file = directory.path().join("config.yaml");
    let text = format!(
        "listeners: [{{ name: web, address: 127.0.0.1:{port} }}]\n\
         routes: [{{ name: all, service: all }}]\n\
         services: [{{ name: all, upstream: all }}]\n\
         upstreams: [{{ name: all, targets: [{{ target: {} }}, {{ target: {} }}] }}]\n",
        backends.a.address(),
        backends.b.address()
    );
    let bad = format!("{text}---\nlisteners: [{}]\n", ThreeEnvoys::logging());
    fs::write(&file, &text).expect("writes");
    let understudy = Understudy::serve(&[&directory.path().display().to_string()]).await;
    let mut edge = Edge::new(understudy, port).await;
    edge.serves("A", PATIENCE).await;
    let snapshot = edge.snapshot().await;
    let load = edge.load(200);
    fs::write(&file, &bad).expect("writes");
    let told = async |edge: &Edge, words: &str| {
        eventually(PATIENCE, "the refusal is told", async || {
            let (_, told) = edge.understudy.get("/violations").await;
            match told[0]["message"].as_str() {
                Some(message) if told[0]["code"] == "US190" && message.contains(words) => Ok(()),
                _ => Err(told.to_string()),
            }
        })
        .await;
    };
    told(&edge, WORDS).await;
    assert_eq!(edge.snapshot().await, snapshot);
    settled(&edge.understudy, 1).await;
    let (_, revisions) = edge.understudy.get("/revisions").await;
    let states: Vec<&Value> =
        revisions["items"].as_array().into_iter().flatten().map(|it| &it["state"]).collect();
    assert_eq!(states, ["rejected", "live"]);

    edge.understudy.restart().await;
    told(&edge, "refused these files").await;
    assert_eq!(edge.snapshot().await, snapshot);
    settled(&edge.understudy, 1).await;

    fs::write(
        &file,
        format!("{text}---\nlisteners: [{{ name: two, address: 127.0.0.1:{} }}]\n", free_port()),
    )
    .expect("writes");
    eventually(PATIENCE, "the corrected file is live", async || {
        let (_, told) = edge.understudy.get("/violations").await;
        let listeners = edge.snapshot().await["listeners"].as_array().map_or(0, Vec::len);
        if told == json!([]) && listeners == 2 { Ok(()) } else { Err(told.to_string()) }
    })
    .await;
    settled(&edge.understudy, 1).await;
    faultless(load).await;
}
#[tokio::test(flavor = "multi_thread")]
async fn while_it_bakes_the_others_wait_and_errors_take_it_back() {
    let mut backends = Backends::start().await;
    let (directory, port) = (tempfile::tempdir().expect("a temporary directory"), free_port());
    let config = format!(
        "rollout: {{ bake: 20s, abort_if: {{ error_rate: 5 }} }}\n\
         listeners: [{{ name: web, address: 127.0.0.1:{port} }}]\n"
    );
    fs::write(directory.path().join("config.yaml"), config).expect("writes");
    let understudy = Understudy::serve(&[&directory.path().display().to_string()]).await;
    crate::stage::checkout(&understudy, json!({}), &[&backends.a]).await;
    let edge = Edge::new(understudy, port).await;
    edge.serves("A", PATIENCE).await;
    let understudy = &edge.understudy;
    let first = newest(understudy).await + 1;
    // Every request fails, and Envoy reports it.
    backends.a.mode("status 500").await;
    create(understudy, "/services", json!({"name": "other", "upstream": "checkout", "retries": "off"})).await;
    assert_eq!(understudy.patch("/routes/checkout", json!({"service": "other"})).await.0, 200);
    let (_, status) = understudy.get("/status").await;
    assert!(!status["rollout"]["canaries"].as_array().expect("a list").is_empty(), "{status}");
    eventually(Duration::from_secs(60), "it is taken back", async || {
        for _ in 0..20 {
            let _ = edge.serving_backend().await;
        }
        let (_, revisions) = understudy.get(&format!("/revisions/{}", first + 1)).await;
        match revisions["error"].as_str() {
            Some(error) if error.contains("requests failed") => Ok(()),
            _ => Err(revisions.to_string()),
        }
    })
    .await;
    let (_, route) = understudy.get("/routes/checkout").await;
    assert_eq!(route["service"], "checkout");
}

//! Tests of config changes: none costs a request.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Backend, PATIENCE, Understudy, eventually, free_port};
use crate::stage::{Backends, Edge, Variant, all_acked, comes_to_rest, create, faultless, window};

/// Time limit until a change is in force. Envoy waits for a cluster without endpoints for the 2 s of its
/// config, so a change that needs this wait exceeds the limit.
const WARM: Duration = Duration::from_millis(1500);

/// Makes changes, each of which must be accepted. None waits for the Envoy.
async fn change(understudy: &Understudy, changes: &[(&str, &str, Value)]) {
    for (method, path, body) in changes {
        let (status, answer) = match *method {
            "POST" => understudy.post(path, body.clone()).await,
            "PATCH" => understudy.patch(path, body.clone()).await,
            "PUT" => understudy.put(path, body.clone()).await,
            _ => understudy.delete(path).await,
        };
        assert!((200..300).contains(&status), "{method} {path} {body}: {status} {answer}");
    }
}

/// Replaces an upstream and its service by new ones, and deletes the old ones at once.
async fn replace(understudy: &Understudy, old: &str, new: &str, backend: &Backend) {
    let targets = json!([{"target": backend.address().to_string()}]);
    change(
        understudy,
        &[
            ("POST", "/upstreams", json!({"name": new, "targets": targets})),
            ("POST", "/services", json!({"name": new, "upstream": new})),
            ("PATCH", "/routes/checkout", json!({"service": new})),
            ("DELETE", &format!("/services/{old}"), Value::Null),
            ("DELETE", &format!("/upstreams/{old}"), Value::Null),
        ],
    )
    .await;
}

async fn repointing_a_route_and_deleting_what_it_left_costs_no_request(variant: Variant) {
    let backends = Backends::start().await;
    let edge = backends.edge_speaking(variant, json!({})).await;
    let load = edge.load(200);
    window(&load, 50).await;
    replace(&edge.understudy, "checkout", "one", &backends.failover).await;
    edge.serves("FAILOVER", PATIENCE).await;
    replace(&edge.understudy, "one", "two", &backends.a).await;
    edge.serves("A", PATIENCE).await;
    // No pause: changes that have not reached the Envoy yet are overtaken by later ones.
    replace(&edge.understudy, "two", "three", &backends.failover).await;
    replace(&edge.understudy, "three", "four", &backends.b).await;
    edge.serves("B", PATIENCE).await;
    assert_eq!(window(&load, 100).await.served_by.into_keys().collect::<Vec<_>>(), ["B"]);
    faultless(load).await;

    // The last of the changes may still be on its way.
    eventually(PATIENCE, "there are the last upstream and understudy itself", async || {
        match edge.envoy.stats("cluster_manager.active_clusters").await["cluster_manager.active_clusters"] {
            2 => Ok(()),
            clusters => Err(format!("{clusters} clusters")),
        }
    })
    .await;
}

/// Returns a config that differs only in the name of the upstream and the service.
fn config_of(port: u16, name: &str, backend: &Backend) -> String {
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:{port} }}]
upstreams: [{{ name: {name}, targets: [{{ target: {target} }}] }}]
services: [{{ name: {name}, upstream: {name} }}]
routes: [{{ name: {name}, service: {name} }}]
",
        target = backend.address()
    )
}

/// Tests one change of a file that makes a new upstream, moves the route to it and removes the old one: the
/// Envoy must get the resources in this order.
async fn replacing_all_in_one_change_costs_no_request(variant: Variant) {
    let (backends, port) = (Backends::start().await, free_port());
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("config.yaml");
    fs::write(&file, config_of(port, "zero", &backends.failover)).expect("writes");
    let understudy = Understudy::serve(&[&file.display().to_string()]).await;
    let edge = Edge::speaking(variant, understudy, port).await;
    let load = edge.load(400);
    window(&load, 100).await;
    for (name, backend, served_by) in [
        ("one", &backends.a, "A"),
        ("two", &backends.b, "B"),
        ("three", &backends.a, "A"),
        ("four", &backends.b, "B"),
        ("five", &backends.a, "A"),
        ("six", &backends.b, "B"),
    ] {
        fs::write(&file, config_of(port, name, backend)).expect("writes");
        edge.serves(served_by, PATIENCE).await;
    }
    window(&load, 100).await;
    faultless(load).await;
}

/// Does the same while the control plane is down: the Envoy returns under load to a control plane that never
/// knew the old upstream.
async fn replacing_all_while_the_control_plane_is_away_costs_no_request(variant: Variant) {
    let (backends, port) = (Backends::start().await, free_port());
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("config.yaml");
    fs::write(&file, config_of(port, "zero", &backends.failover)).expect("writes");
    let understudy = Understudy::serve(&[&file.display().to_string()]).await;
    let mut edge = Edge::speaking(variant, understudy, port).await;
    let load = edge.load(200);
    window(&load, 100).await;
    for (name, backend, served_by) in
        [("one", &backends.a, "A"), ("two", &backends.b, "B"), ("three", &backends.a, "A")]
    {
        all_acked(&edge.understudy, PATIENCE).await;
        edge.understudy.kill();
        fs::write(&file, config_of(port, name, backend)).expect("writes");
        edge.understudy.restart().await;
        edge.serves(served_by, PATIENCE).await;
    }
    all_acked(&edge.understudy, PATIENCE).await;
    window(&load, 100).await;
    faultless(load).await;
    let stats = edge.envoy.stats("cluster_manager.active_clusters").await;
    assert_eq!(stats["cluster_manager.active_clusters"], 2, "the last upstream and understudy itself");
}

async fn changing_what_is_in_use_costs_no_request(variant: Variant) {
    let mut backends = Backends::start().await;
    let edge = backends.edge_speaking(variant, json!({})).await;
    let load = edge.load(200);
    window(&load, 50).await;
    let outlier_detection = json!({"outlier_detection": {"consecutive_5xx": 3, "base_ejection_time": "5s"}});
    let removed = format!("/upstreams/checkout/targets/{}", backends.a.address());
    let changes = [
        ("PATCH", "/upstreams/checkout", json!({"load_balancer": "least_request"})),
        ("PATCH", "/upstreams/checkout", json!({"connect_timeout": "200ms"})),
        ("PATCH", "/upstreams/checkout", outlier_detection),
        ("PATCH", "/upstreams/checkout", json!({"health_check": {"http": {"path": "/healthz"}}})),
        ("PATCH", "/services/checkout", json!({"timeout": "10s", "try_timeout": "2s"})),
        ("PATCH", "/routes/checkout", json!({"paths": ["/", "/more"]})),
        ("POST", "/routes", json!({"name": "other", "paths": ["/other"], "service": "checkout"})),
        ("PATCH", "/listeners/web", json!({"idle_timeout": "2h"})),
        ("DELETE", removed.as_str(), Value::Null),
        ("DELETE", "/routes/other", Value::Null),
        ("PATCH", "/upstreams/checkout", json!({"health_check": "off"})),
        ("PATCH", "/upstreams/checkout", json!({"load_balancer": "round_robin", "health_check": null})),
    ];
    for one in changes {
        change(&edge.understudy, &[one]).await;
        all_acked(&edge.understudy, WARM).await;
        window(&load, 40).await;
    }
    create(
        &edge.understudy,
        "/upstreams/checkout/targets",
        json!({"target": backends.a.address().to_string()}),
    )
    .await;
    edge.serves("A", PATIENCE).await;
    edge.serves("B", PATIENCE).await;
    faultless(load).await;
    assert_eq!(backends.failover.gets().await, 0, "the primaries were well all the time");
}

/// Tests the removal of a healthy target. Envoy's default is to use it for as long as its health check
/// passes.
async fn a_target_that_was_removed_gets_no_more_requests_though_it_is_healthy(variant: Variant) {
    let backends = Backends::start().await;
    let edge = backends.edge_speaking(variant, json!({})).await;
    let load = edge.load(200);
    let path = format!("/upstreams/checkout/targets/{}", backends.a.address());
    assert_eq!(edge.understudy.delete(&path).await.0, 204);
    comes_to_rest(&load, &["B"]).await;
    faultless(load).await;
}

/// Makes a random change to one of a few services: gives it an upstream of its own, moves the route there,
/// renames it, changes a policy or a target, or removes unused entities. Returns the name that serves.
async fn random_change(
    understudy: &Understudy,
    random: &mut Random,
    serving: &str,
    backends: &Backends,
) -> String {
    let backend = [&backends.a, &backends.b, &backends.failover][random.below(3)].address().to_string();
    let new = format!("{serving}x");
    match random.below(6) {
        0 | 1 => {
            // A new service takes over, and the old one is deleted at once.
            let name = if random.below(2) == 0 || new.len() > 20 {
                format!("s{}", random.below(1_000_000))
            } else {
                new
            };
            let changes = [
                ("POST", "/upstreams".to_owned(), json!({"name": name, "targets": [{"target": backend}]})),
                ("POST", "/services".to_owned(), json!({"name": name, "upstream": name})),
                ("PATCH", "/routes/checkout".to_owned(), json!({"service": name})),
                ("DELETE", format!("/services/{serving}"), Value::Null),
                ("DELETE", format!("/upstreams/{serving}"), Value::Null),
            ];
            for (method, path, body) in &changes {
                change(understudy, &[(method, path, body.clone())]).await;
            }
            name
        }
        2 => {
            let connect_timeout = format!("{}ms", 200 + random.below(50));
            let path = format!("/upstreams/{serving}");
            change(understudy, &[("PATCH", &path, json!({"connect_timeout": connect_timeout}))]).await;
            serving.to_owned()
        }
        3 => {
            let path = format!("/upstreams/{serving}/targets/{backend}");
            let weight = 1 + random.below(100);
            change(understudy, &[("PUT", &path, json!({"target": backend, "weight": weight}))]).await;
            serving.to_owned()
        }
        4 => {
            let name = format!("extra{}", random.below(1_000_000));
            let upstream = json!({"name": name, "targets": [{"target": backend}]});
            change(understudy, &[("POST", "/upstreams", upstream)]).await;
            change(understudy, &[("DELETE", &format!("/upstreams/{name}"), Value::Null)]).await;
            serving.to_owned()
        }
        _ => {
            let timeout = format!("{}s", 10 + random.below(10));
            change(understudy, &[("PATCH", &format!("/services/{serving}"), json!({"timeout": timeout}))])
                .await;
            serving.to_owned()
        }
    }
}

/// Small generator (xorshift): the same changes in every run.
pub(crate) struct Random(u64);

impl Random {
    /// Starts at a seed, which must not be 0.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).expect("it is below the bound")
    }
}

async fn random_changes_cost_no_request(changes: usize, variant: Variant) {
    let backends = Backends::start().await;
    let edge = backends.edge_speaking(variant, json!({})).await;
    let load = edge.load(200);
    window(&load, 50).await;
    let mut random = Random::new(0x5eed);
    let mut serving = "checkout".to_owned();
    let mut warming: BTreeMap<String, Instant> = BTreeMap::new();
    for _ in 0..changes {
        serving = random_change(&edge.understudy, &mut random, &serving, &backends).await;
        window(&load, 4).await;
        let dump = edge.envoy.config_dump().await;
        let configs = dump["configs"].as_array().expect("a list");
        let clusters = configs.iter().flat_map(|config| config["dynamic_warming_clusters"].as_array());
        let names = clusters.flatten().map(|cluster| cluster["cluster"]["name"].to_string());
        let since = names.map(|name| (name.clone(), *warming.get(&name).unwrap_or(&Instant::now())));
        warming = since.collect();
        let late = warming.iter().find(|(_, since)| since.elapsed() > WARM);
        assert_eq!(late, None, "it should be warm by now");
    }
    all_acked(&edge.understudy, PATIENCE).await;
    window(&load, 50).await;
    faultless(load).await;
}

mod state_of_the_world {
    use crate::stage::STATE_OF_THE_WORLD;

    #[tokio::test(flavor = "multi_thread")]
    async fn repointing_a_route_and_deleting_what_it_left_costs_no_request() {
        super::repointing_a_route_and_deleting_what_it_left_costs_no_request(STATE_OF_THE_WORLD).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn replacing_all_in_one_change_costs_no_request() {
        super::replacing_all_in_one_change_costs_no_request(STATE_OF_THE_WORLD).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn replacing_all_while_the_control_plane_is_away_costs_no_request() {
        super::replacing_all_while_the_control_plane_is_away_costs_no_request(STATE_OF_THE_WORLD).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn changing_what_is_in_use_costs_no_request() {
        super::changing_what_is_in_use_costs_no_request(STATE_OF_THE_WORLD).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_target_that_was_removed_gets_no_more_requests_though_it_is_healthy() {
        super::a_target_that_was_removed_gets_no_more_requests_though_it_is_healthy(STATE_OF_THE_WORLD).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn five_hundred_random_changes_cost_no_request() {
        super::random_changes_cost_no_request(500, STATE_OF_THE_WORLD).await;
    }
}

mod delta {
    use crate::stage::DELTA;

    #[tokio::test(flavor = "multi_thread")]
    async fn repointing_a_route_and_deleting_what_it_left_costs_no_request() {
        super::repointing_a_route_and_deleting_what_it_left_costs_no_request(DELTA).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn replacing_all_in_one_change_costs_no_request() {
        super::replacing_all_in_one_change_costs_no_request(DELTA).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn replacing_all_while_the_control_plane_is_away_costs_no_request() {
        super::replacing_all_while_the_control_plane_is_away_costs_no_request(DELTA).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn changing_what_is_in_use_costs_no_request() {
        super::changing_what_is_in_use_costs_no_request(DELTA).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_target_that_was_removed_gets_no_more_requests_though_it_is_healthy() {
        super::a_target_that_was_removed_gets_no_more_requests_though_it_is_healthy(DELTA).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_hundred_random_changes_cost_no_request() {
        super::random_changes_cost_no_request(100, DELTA).await;
    }
}

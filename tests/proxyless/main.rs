//! Tests of a gRPC client that gets its config from understudy directly, without an Envoy in between
//! ("proxyless"), by raw resources.
//!
//! The client is Python's `grpcio`: the C++ core of gRPC, whose xDS client shares no code with Envoy's.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[path = "../harness/mod.rs"]
mod harness;
mod python;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::harness::{PATIENCE, Process, Understudy, eventually};

/// Client, and the two servers that it may call.
struct Client {
    process: Process,
    ports: BTreeMap<&'static str, u16>,
}

/// Results of the calls since the last query.
#[derive(Debug, Deserialize)]
struct CallCounts {
    counts: BTreeMap<String, u64>,
    failure: Option<String>,
}

impl Client {
    async fn start(understudy: &Understudy) -> Self {
        let mut python = python::with_grpc().unwrap_or_else(|line| panic!("{line}"));
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/proxyless/client.py");
        let process = Process::spawn("client.py", python.arg(script).arg(understudy.xds.to_string()));
        let mut ports = BTreeMap::new();
        for name in ["first", "second"] {
            ports.insert(name, process.line(0, &format!("{name} ")).await.parse().unwrap());
        }
        Self { process, ports }
    }

    async fn calls(&mut self) -> CallCounts {
        let from = self.process.printed_lines();
        self.process.write_line("");
        serde_json::from_str(&self.process.line(from, "report ").await).unwrap()
    }

    /// Waits until this server alone answers calls, and returns the number of calls that failed meanwhile.
    async fn moves_to(&mut self, server: &str) -> u64 {
        let mut failed = 0;
        eventually(PATIENCE, &format!("{server} answers"), async || {
            let calls = self.calls().await;
            failed += calls.counts.get("failed").copied().unwrap_or_default();
            match calls.counts.get(server) {
                Some(_) if calls.counts.len() == 1 => Ok(()),
                _ => Err(format!("{calls:?}")),
            }
        })
        .await;
        failed
    }

    /// Returns the endpoints of `shop`: each server with its health, the first with the highest priority.
    fn endpoints(&self, servers: [(&str, &str); 2]) -> Value {
        let locality = |(priority, (name, health)): (usize, (&str, &str))| {
            let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": self.ports[name]}});
            json!({
                "priority": priority,
                "locality": {"zone": name},
                // gRPC ignores a locality without a weight.
                "load_balancing_weight": 1,
                "lb_endpoints": [{"health_status": health, "endpoint": {"address": address}}],
            })
        };
        let localities: Vec<Value> = servers.into_iter().enumerate().map(locality).collect();
        json!([{"cluster_name": "shop", "endpoints": localities}])
    }
}

async fn put(understudy: &Understudy, resources: Value) {
    let (status, answer) = understudy.put("/raw", resources).await;
    assert_eq!(status, 200, "{answer}");
}

/// Returns all resources of `shop` except its endpoints.
fn resources_of_shop() -> Value {
    const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters";
    let router =
        json!({"name": "router", "typed_config": {"@type": format!("{FILTERS}.http.router.v3.Router")}});
    let manager = json!({
        "@type": format!("{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "shop",
        "rds": {"route_config_name": "shop", "config_source": {"ads": {}}},
        "http_filters": [router],
    });
    let all = json!({"match": {"prefix": ""}, "route": {"cluster": "shop"}});
    json!({
        "listeners": [{"name": "shop", "api_listener": {"api_listener": manager}}],
        "routes": [{"name": "shop", "virtual_hosts": [{"name": "shop", "domains": ["*"], "routes": [all]}]}],
        "clusters": [{
            "name": "shop",
            "type": "EDS",
            "eds_cluster_config": {"eds_config": {"ads": {}}},
            "lb_policy": "ROUND_ROBIN",
        }],
    })
}

#[tokio::test]
async fn a_grpc_client_without_a_proxy_resolves_a_name_and_follows_a_failover() {
    let understudy = Understudy::serve(&[]).await;
    let mut client = Client::start(&understudy).await;
    let mut resources = resources_of_shop();
    resources["endpoints"] = client.endpoints([("first", "HEALTHY"), ("second", "HEALTHY")]);
    // The client asks from the start, for a name that does not exist yet.
    put(&understudy, resources).await;
    assert_eq!(client.moves_to("first").await, 0);

    let steps = [
        ("the first is unhealthy", [("first", "UNHEALTHY"), ("second", "HEALTHY")], "second"),
        ("it recovers", [("first", "HEALTHY"), ("second", "HEALTHY")], "first"),
        ("they change their priorities", [("second", "HEALTHY"), ("first", "HEALTHY")], "second"),
        ("and change them back", [("first", "HEALTHY"), ("second", "HEALTHY")], "first"),
    ];
    for (step, servers, expected) in steps {
        put(&understudy, json!({"endpoints": client.endpoints(servers)})).await;
        assert_eq!(client.moves_to(expected).await, 0, "calls failed: {step}");
    }

    let (status, node) = understudy.get("/fleet/proxyless-1").await;
    assert_eq!(status, 200, "{node}");
    let states: Vec<_> = node["types"].as_object().unwrap().values().map(|of| of["state"].clone()).collect();
    assert_eq!(states, vec![json!("acked"); 4], "{node}");
    let calls = client.calls().await;
    assert_eq!(calls.failure, None);
}

//! Tests of every type that Envoy can ask for, over one aggregated stream and over a service for each, in
//! both variants: served, changed and followed.

use serde_json::{Value, json};

use crate::harness::{Backend, Envoy, PATIENCE, Understudy, eventually, free_port, understudy};

const MANAGER: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const FAULT: &str = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";
const ON_DEMAND: &str = "type.googleapis.com/envoy.extensions.filters.http.on_demand.v3.OnDemand";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";

/// Returns a config source for one type.
fn service_of(api_type: &str) -> Value {
    let service = json!({"envoy_grpc": {"cluster_name": "understudy"}});
    let source = json!({
        "api_type": api_type, "transport_api_version": "V3", "grpc_services": [service],
        "set_node_on_first_message_only": true,
    });
    json!({"api_config_source": source, "resource_api_version": "V3"})
}

fn aggregated() -> Value {
    json!({"ads": {}, "resource_api_version": "V3"})
}

/// Returns the output of `understudy bootstrap`, with a layer of runtime values from `source`, and with
/// `source` for all types.
fn bootstrap(served: &Understudy, delta: bool, source: &Value) -> String {
    let xds = served.xds.to_string();
    let arguments = ["bootstrap", "--xds", &xds, "--node-id", "edge-1", "--node-cluster", "edge"];
    let mut command = understudy(&arguments);
    command.args(["--envoy-admin", "127.0.0.1:0"]).args(delta.then_some("--delta"));
    let output = command.output().expect("cargo has built understudy");
    let mut bootstrap: Value = serde_yaml::from_slice(&output.stdout).expect("it is YAML");
    let dynamic = &mut bootstrap["dynamic_resources"];
    dynamic["cds_config"].clone_from(source);
    dynamic["lds_config"].clone_from(source);
    if source.get("ads").is_none() {
        dynamic.as_object_mut().expect("a map").remove("ads_config");
    }
    let layer = json!({"name": "limits", "rtds_layer": {"name": "limits", "rtds_config": source}});
    bootstrap["layered_runtime"] = json!({"layers": [layer]});
    bootstrap.to_string()
}

fn cluster(name: &str, source: &Value) -> Value {
    json!({"name": name, "type": "EDS", "connect_timeout": "1s", "eds_cluster_config": {"eds_config": source}})
}

fn endpoints(name: &str, backend: &Backend) -> Value {
    let address = backend.address();
    let socket = json!({"address": address.ip().to_string(), "port_value": address.port()});
    json!({"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": socket}}}]}]})
}

/// Returns a listener whose routes and first filter are asked for.
fn listener(port: u16, source: &Value) -> Value {
    let rds = json!({"route_config_name": "web", "config_source": source});
    let discovery = json!({"config_source": source, "type_urls": [FAULT]});
    let filters = json!([
        {"name": "fault", "config_discovery": discovery},
        {"name": "on_demand", "typed_config": {"@type": ON_DEMAND}},
        {"name": "router", "typed_config": {"@type": ROUTER}},
    ]);
    let manager = json!({"@type": MANAGER, "stat_prefix": "web", "rds": rds, "http_filters": filters});
    let filter = json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": manager});
    let socket = json!({"address": "127.0.0.1", "port_value": port});
    json!({"name": "web", "address": {"socket_address": socket}, "filter_chains": [{"filters": [filter]}]})
}

/// Returns a filter that answers requests for `/fault` with this status.
fn fault(status: u16) -> Value {
    let percentage = json!({"numerator": 100});
    let headers = json!([{"name": ":path", "string_match": {"exact": "/fault"}}]);
    let abort = json!({"http_status": status, "percentage": percentage});
    json!({"name": "fault", "typed_config": {"@type": FAULT, "abort": abort, "headers": headers}})
}

fn virtual_host(name: &str, domain: &str, cluster: &str) -> Value {
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": cluster}});
    json!({"name": name, "domains": [domain], "routes": [route]})
}

async fn set(understudy: &Understudy, body: Value) {
    let (status, answer) = understudy.put("/raw", body.clone()).await;
    assert_eq!(status, 200, "PUT /raw {body}: {answer}");
}

struct ServicesSetup {
    understudy: Understudy,
    envoy: Envoy,
    port: u16,
    client: reqwest::Client,
}

impl ServicesSetup {
    /// Waits until a request for this host and path is answered with the expected status and backend.
    async fn answers(&self, host: &str, path: &str, expected: &str) {
        eventually(PATIENCE, &format!("{expected} for {host}{path}"), async || {
            let request =
                self.client.get(format!("http://127.0.0.1:{}{path}", self.port)).header("host", host);
            let response = request.send().await.map_err(|error| format!("{error:?}"))?;
            let backend =
                response.headers().get("x-backend").and_then(|name| name.to_str().ok()).unwrap_or("-");
            match format!("{} {backend}", response.status().as_u16()) {
                answer if answer == expected => Ok(()),
                answer => Err(answer),
            }
        })
        .await;
    }

    /// Waits until the Envoy has this runtime value.
    async fn runs_with(&self, key: &str, expected: &str) {
        eventually(PATIENCE, &format!("{key} is {expected}"), async || {
            let runtime = self.envoy.admin("/runtime").await;
            match &runtime["entries"][key]["final_value"] {
                value if value == expected => Ok(()),
                _ => Err(runtime.to_string()),
            }
        })
        .await;
    }
}

/// Tests all types. `source` is the config source of all types; `hosts` is that of virtual hosts, which exist
/// only in delta.
async fn all_types_are_served_changed_and_followed(delta: bool, source: Value, hosts: Value) {
    let (first, second) = (Backend::start("FIRST").await, Backend::start("SECOND").await);
    let (understudy, port) = (Understudy::serve(&[]).await, free_port());
    set(
        &understudy,
        json!({
            "clusters": [cluster("a", &source)], "endpoints": [endpoints("a", &first)],
            "listeners": [listener(port, &source)],
            "routes": [{"name": "web", "vhds": {"config_source": hosts}}],
            "virtual_hosts": [virtual_host("web/shop", "shop.example", "a")],
            "extension_configs": [fault(418)],
            "runtimes": [{"name": "limits", "layer": {"shop.limit": 3}}],
        }),
    )
    .await;
    let envoy = Envoy::launch("edge-1", &bootstrap(&understudy, delta, &source)).await;
    envoy.live().await;
    let client = reqwest::Client::builder().no_proxy().build().expect("plain HTTP needs nothing");
    let setup = ServicesSetup { understudy, envoy, port, client };
    setup.answers("shop.example", "/", "200 FIRST").await;
    setup.answers("shop.example", "/fault", "418 -").await;
    setup.answers("other.example", "/", "404 -").await;
    setup.runs_with("shop.limit", "3").await;

    // Each type on its own.
    let understudy = &setup.understudy;
    set(understudy, json!({"endpoints": [endpoints("a", &second)]})).await;
    setup.answers("shop.example", "/", "200 SECOND").await;
    set(understudy, json!({"extension_configs": [fault(451)]})).await;
    setup.answers("shop.example", "/fault", "451 -").await;
    set(understudy, json!({"runtimes": [{"name": "limits", "layer": {"shop.limit": 4}}]})).await;
    setup.runs_with("shop.limit", "4").await;
    let clusters = json!([cluster("a", &source), cluster("b", &source)]);
    set(
        understudy,
        json!({"clusters": clusters, "endpoints": [endpoints("a", &second), endpoints("b", &first)]}),
    )
    .await;
    let shop = virtual_host("web/shop", "shop.example", "b");
    set(understudy, json!({"virtual_hosts": [shop, virtual_host("web/other", "other.example", "a")]})).await;
    setup.answers("shop.example", "/", "200 FIRST").await;
    setup.answers("other.example", "/", "200 SECOND").await;
    set(understudy, json!({"virtual_hosts": [shop]})).await;
    setup.answers("other.example", "/", "404 -").await;
    setup.answers("shop.example", "/", "200 FIRST").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_54_all_types_over_one_stream_in_state_of_the_world() {
    all_types_are_served_changed_and_followed(false, aggregated(), service_of("DELTA_GRPC")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_54_all_types_over_one_stream_in_delta() {
    all_types_are_served_changed_and_followed(true, aggregated(), aggregated()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_1_all_types_over_services_of_their_own_in_state_of_the_world() {
    all_types_are_served_changed_and_followed(false, service_of("GRPC"), service_of("DELTA_GRPC")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_1_all_types_over_services_of_their_own_in_delta() {
    all_types_are_served_changed_and_followed(true, service_of("DELTA_GRPC"), service_of("DELTA_GRPC")).await;
}

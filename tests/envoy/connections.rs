//! Tests of TCP: failover between targets whatever the protocol of the connections, TLS that is passed
//! through, and gateways by SNI.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Backend, Envoy, PATIENCE, Understudy, eventually, free_port};
use crate::stage::{Edge, all_acked, create};
use crate::tls::{self, CertificateAuthority, CertifiedKey, Connections, TlsClient, TlsFront};

/// Two primaries and a standby behind a listener for connections.
struct Database {
    a: Backend,
    b: Backend,
    _failover: Backend,
    edge: Edge,
}

impl Database {
    async fn start(check: Value) -> Self {
        let (a, b, failover) =
            (Backend::start("A").await, Backend::start("B").await, Backend::start("FAILOVER").await);
        let (understudy, port) = (Understudy::serve(&[]).await, free_port());
        let target = |backend: &Backend, failover: bool| json!({"target": backend.address().to_string(), "failover": failover});
        let targets = json!([target(&a, false), target(&b, false), target(&failover, true)]);
        let upstream = json!({"name": "db", "protocol": "tcp", "health_check": check, "targets": targets});
        create(&understudy, "/upstreams", upstream).await;
        create(&understudy, "/services", json!({"name": "db", "upstream": "db"})).await;
        let address = format!("127.0.0.1:{port}");
        create(
            &understudy,
            "/listeners",
            json!({"name": "db", "address": address, "protocol": "tcp", "service": "db"}),
        )
        .await;
        let edge = Edge::new(understudy, port).await;
        for name in ["A", "B"] {
            eventually(PATIENCE, name, async || match tls::get(port).await? {
                served_by if served_by == name => Ok(()),
                served_by => Err(served_by),
            })
            .await;
        }
        Self { a, b, _failover: failover, edge }
    }

    /// Opens 200 connections a second while `fault` befalls both primaries, and returns the errors of the
    /// failed ones.
    async fn failed(mut self, fault: impl AsyncFn(&mut Backend)) -> Vec<String> {
        let port = self.edge.port;
        let load = Connections::start(200, move || tls::get(port));
        eventually(PATIENCE, "both serve", async || {
            let answered = load.answered();
            let has = |name: &str| answered.iter().any(|it| it.as_deref() == Ok(name));
            if answered.len() > 200 && has("A") && has("B") {
                Ok(())
            } else {
                Err(answered.len().to_string())
            }
        })
        .await;
        for primary in [&mut self.a, &mut self.b] {
            fault(primary).await;
        }
        load.served_by("FAILOVER").await;
        let (_, failed) = load.stop().await;
        failed
    }
}

async fn listener(backend: &mut Backend, state: &str) {
    assert_eq!(backend.run_command(&format!("listener {state}")).await, "ok");
}

/// Tests a kill: it may fail at most the connections that are under way.
#[tokio::test(flavor = "multi_thread")]
async fn killed_primaries_cost_the_connections_that_were_under_way() {
    let failed = Database::start(json!({})).await.failed(async |primary| primary.kill()).await;
    assert!(failed.len() <= 3, "{}: {failed:?}", failed.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn primaries_that_refuse_connections_cost_none() {
    let database = Database::start(json!({})).await;
    let failed = database.failed(async |primary| listener(primary, "closed").await).await;
    assert!(failed.len() <= 2, "{}: {failed:?}", failed.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn primaries_that_swallow_packets_cost_next_to_none() {
    let database = Database::start(json!({})).await;
    let failed = database.failed(async |primary| listener(primary, "mute").await).await;
    assert!(failed.len() <= 2, "{}: {failed:?}", failed.len());
}

/// Tests a freeze. A frozen process accepts connections: only a check that wants an answer detects it. Stuck
/// connections are then cut instead of waiting forever.
#[tokio::test(flavor = "multi_thread")]
async fn frozen_primaries_are_seen_by_a_check_that_wants_an_answer() {
    let database = Database::start(json!({"http": {"path": "/healthz"}})).await;
    let failed = database.failed(async |primary| primary.freeze()).await;
    assert!(failed.len() <= 460, "two checks of 500 ms after at most 1 s, at 200/s: {}", failed.len());
    assert!(failed.iter().all(|told| !told.contains("no answer")), "they are cut: {failed:?}");
}

/// Returns the number of connections of each backend, of so many in a row.
async fn shares(port: u16, connections: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..connections {
        *shares.entry(tls::get(port).await.expect("it is answered")).or_default() += 1;
    }
    shares
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_split_by_weight_and_a_dead_member_costs_those_that_were_under_way() {
    let (mut blue, green) = (Backend::start("BLUE").await, Backend::start("GREEN").await);
    let (understudy, port) = (Understudy::serve(&[]).await, free_port());
    for (name, backend) in [("blue", &blue), ("green", &green)] {
        let targets = json!([{"target": backend.address().to_string()}]);
        create(&understudy, "/upstreams", json!({"name": name, "protocol": "tcp", "targets": targets})).await;
    }
    let members = json!([{"name": "blue", "weight": 80}, {"name": "green", "weight": 20}]);
    create(&understudy, "/services", json!({"name": "db", "upstreams": members})).await;
    let address = format!("127.0.0.1:{port}");
    let listener = json!({"name": "db", "address": address, "protocol": "tcp", "service": "db"});
    create(&understudy, "/listeners", listener).await;
    let _edge = Edge::new(understudy, port).await;
    eventually(PATIENCE, "both serve", async || {
        tls::get(port).await?;
        let shares = shares(port, 20).await;
        if shares.len() == 2 { Ok(()) } else { Err(format!("{shares:?}")) }
    })
    .await;
    let before = shares(port, 400).await;
    assert!(before["BLUE"].abs_diff(320) <= 40, "four of five: {before:?}");

    let load = Connections::start(200, move || tls::get(port));
    eventually(PATIENCE, "connections are made", async || match load.answered().len() {
        made if made >= 200 => Ok(()),
        made => Err(made.to_string()),
    })
    .await;
    blue.kill();
    load.served_by("GREEN").await;
    let (_, failed) = load.stop().await;
    assert!(failed.len() <= 3, "{}: {failed:?}", failed.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_that_is_not_ended_goes_where_its_sni_says() {
    let authority = CertificateAuthority::new("servers");
    let (shop, others) = (Backend::start("SHOP").await, Backend::start("OTHERS").await);
    let shop_front =
        TlsFront::start(shop.address(), &authority.issue(&["shop.example.com", "a.shop.example.com"]), None)
            .await;
    let others_front =
        TlsFront::start(others.address(), &authority.issue(&["other.example.com"]), None).await;
    let (understudy, port) = (Understudy::serve(&[]).await, free_port());
    for (name, front) in [("shop", &shop_front), ("others", &others_front)] {
        let targets = json!([{"target": front.address.to_string()}]);
        create(&understudy, "/upstreams", json!({"name": name, "protocol": "tcp", "targets": targets})).await;
        create(&understudy, "/services", json!({"name": name, "upstream": name})).await;
    }
    let address = format!("127.0.0.1:{port}");
    create(
        &understudy,
        "/listeners",
        json!({"name": "tls", "address": address, "protocol": "tls_passthrough"}),
    )
    .await;
    let hosts = json!(["shop.example.com", "*.shop.example.com"]);
    create(
        &understudy,
        "/routes",
        json!({"name": "shop", "listeners": ["tls"], "hosts": hosts, "service": "shop"}),
    )
    .await;
    let edge = Edge::new(understudy, port).await;
    let client = TlsClient::new(&authority, None, &[]);
    let served_by = async |name: &str| client.get(edge.port, name).await.map(|answer| answer.served_by);
    for name in ["shop.example.com", "a.shop.example.com"] {
        let answer = eventually(PATIENCE, name, async || served_by(name).await).await;
        assert_eq!(answer, "SHOP", "{name}");
    }
    served_by("other.example.com").await.expect_err("no route asks for it");
    create(&edge.understudy, "/routes", json!({"name": "others", "listeners": ["tls"], "service": "others"}))
        .await;
    let answer = eventually(PATIENCE, "the rest", async || served_by("other.example.com").await).await;
    assert_eq!(answer, "OTHERS");
    assert_eq!(served_by("shop.example.com").await.as_deref(), Ok("SHOP"));
}

/// Bootstrap of an Envoy beside a backend. It answers health checks for the backend, until
/// `/healthcheck/fail`.
const SIDECAR: &str = r#"
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: $PORT}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: sidecar
          route_config:
            virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: backend}}]}]
          http_filters:
          - name: health_check
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.health_check.v3.HealthCheck
              pass_through_mode: false
              headers: [{name: ":path", string_match: {exact: /healthz}}]
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: backend
    load_assignment:
      cluster_name: backend
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: $BACKEND}}}}]}]
"#;

fn certificate(name: &str, pair: &CertifiedKey) -> Value {
    json!({"name": name, "certificate": {"inline": pair.chain}, "key": {"inline": pair.key}})
}

/// Tests failover between two sites: at each an upstream, the second behind a gateway that requires mutual
/// TLS. The primary at the first is marked as failing by Envoy's own `/healthcheck/fail`.
#[tokio::test(flavor = "multi_thread")]
async fn failover_to_another_site_in_mutual_tls_costs_no_request() {
    let (servers, clients) = (CertificateAuthority::new("servers"), CertificateAuthority::new("clients"));
    let (here, there) = (Backend::start("HERE").await, Backend::start("THERE").await);
    let (side_port, gateway_port, port) = (free_port(), free_port(), free_port());
    let sidecar = SIDECAR
        .replace("$PORT", &side_port.to_string())
        .replace("$BACKEND", &here.address().port().to_string());

    let understudy = Understudy::serve(&[]).await;
    for name in ["edge", "gateway"] {
        create(&understudy, "/fleets", json!({"name": name, "select": {"cluster": name}})).await;
    }
    create(&understudy, "/certificates", certificate("gateway", &servers.issue(&["checkout-there"]))).await;
    create(&understudy, "/certificates", certificate("edge", &clients.issue(&["edge"]))).await;
    create(
        &understudy,
        "/upstreams",
        json!({"name": "checkout-there",
        "targets": [{"target": there.address().to_string()}]}),
    )
    .await;
    create(
        &understudy,
        "/listeners",
        json!({"name": "gateway", "address": format!("127.0.0.1:{gateway_port}"),
        "protocol": "failover_gateway", "fleets": ["gateway"], "certificates": ["gateway"],
        "client_ca": {"inline": clients.pem}}),
    )
    .await;
    let other_site =
        json!({"sni": "checkout-there", "ca": {"inline": servers.pem}, "client_certificate": "edge"});
    create(
        &understudy,
        "/upstreams",
        json!({"name": "checkout", "health_check": {"http": {"path": "/healthz"}},
        "targets": [
            {"target": format!("127.0.0.1:{side_port}")},
            {"target": format!("127.0.0.1:{gateway_port}"), "failover": true, "tls": other_site},
        ]}),
    )
    .await;
    create(&understudy, "/services", json!({"name": "checkout", "upstream": "checkout"})).await;
    create(
        &understudy,
        "/listeners",
        json!({"name": "web", "address": format!("127.0.0.1:{port}"), "fleets": ["edge"]}),
    )
    .await;
    create(&understudy, "/routes", json!({"name": "checkout", "service": "checkout", "fleets": ["edge"]}))
        .await;

    let edge = Edge::new(understudy, port).await;
    let sidecar = Envoy::launch("sidecar", &sidecar).await;
    sidecar.live().await;
    let _gateway = Envoy::start(&edge.understudy, "gateway-1", "gateway", &[]).await;
    edge.serves("HERE", PATIENCE).await;
    eventually(PATIENCE, "the other site is healthy", async || {
        let stats = edge.envoy.stats("cluster.checkout.membership_healthy").await;
        if stats.values().sum::<u64>() == 2 { Ok(()) } else { Err(format!("{stats:?}")) }
    })
    .await;

    let load = edge.load(300);
    crate::stage::window(&load, 300).await;
    for (command, serves) in [("fail", "THERE"), ("ok", "HERE")] {
        let url = format!("http://{}/healthcheck/{command}", sidecar.admin);
        let told = reqwest::Client::builder().no_proxy().build().expect("plain HTTP").post(url).send().await;
        assert!(told.is_ok_and(|answer| answer.status() == 200));
        crate::stage::comes_to_rest(&load, &[serves]).await;
    }
    crate::stage::faultless(load).await;

    // The gateway serves only clients with a certificate of the sites, and only upstreams: least of all the
    // control plane.
    let get = async |name: &str, pair: Option<&CertifiedKey>| {
        TlsClient::new(&servers, pair, &[]).get(gateway_port, name).await.map(|answer| answer.served_by)
    };
    let known = clients.issue(&["edge"]);
    assert_eq!(get("checkout-there", Some(&known)).await.as_deref(), Ok("THERE"));
    get("checkout-there", None).await.expect_err("a stranger");
    get("xds", Some(&known)).await.expect_err("the control plane is no upstream");
    all_acked(&edge.understudy, Duration::from_secs(10)).await;
}

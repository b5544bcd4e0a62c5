//! Tests of host names under load, with a DNS server of the test's own: its answers change, fail and cease,
//! and no request is lost.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::dns::DnsServer;
use crate::harness::{Backend, PATIENCE, Understudy, eventually, free_port};
use crate::stage::{Edge, comes_to_rest, create, faultless, window};

/// Returns the text of a config with one upstream of these targets.
fn config(dns: &DnsServer, port: u16, targets: &Value) -> String {
    json!({
        "resolver": {"servers": [dns.address.to_string()], "min_ttl": "100ms", "retry": "100ms"},
        "listeners": [{"name": "web", "address": format!("127.0.0.1:{port}")}],
        "routes": [{"name": "shop", "service": "shop"}],
        "services": [{"name": "shop", "upstream": "shop"}],
        "upstreams": [{"name": "shop", "targets": targets}],
    })
    .to_string()
}

async fn edge(dns: &DnsServer, targets: Value) -> (Edge, TempDir) {
    let (directory, port) = (tempfile::tempdir().expect("a temporary directory"), free_port());
    fs::write(directory.path().join("shop.json"), config(dns, port, &targets)).expect("writes");
    let understudy = Understudy::serve(&[&directory.path().to_string_lossy()]).await;
    (Edge::new(understudy, port).await, directory)
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an IP")
}

/// Returns the reported resolution of the first target's name.
async fn resolved(edge: &Edge) -> Value {
    let (status, health) = edge.understudy.get("/upstreams/shop/health").await;
    assert_eq!(status, 200, "{health}");
    health["targets"][0]["resolved"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_while_answers_change_fail_and_fall_silent() {
    let (a, b, dns) = (Backend::start("A").await, Backend::start("B").await, DnsServer::start().await);
    // SRV records, because two backends of one machine differ by port.
    let service = |backend: &Backend| [(0, 10, backend.address().port(), "host.example.com")];
    dns.set_addresses("host.example.com", &[ip("127.0.0.1")]);
    dns.set_services("_http._tcp.example.com", &service(&a));
    let (edge, _config) = edge(&dns, json!([{"target": "srv:_http._tcp.example.com"}])).await;
    edge.serves("A", PATIENCE).await;
    let load = edge.load(200);
    window(&load, 100).await;

    dns.set_services("_http._tcp.example.com", &service(&b));
    comes_to_rest(&load, &["B"]).await;
    assert_eq!(resolved(&edge).await["error"], Value::Null);

    for failing in [true, false] {
        // First the name does not exist, then the DNS server does not answer.
        if failing {
            dns.set_services("_http._tcp.example.com", &[]);
        } else {
            dns.mute(true);
        }
        let said = eventually(PATIENCE, "it is said", async || match resolved(&edge).await {
            said if said["error"].is_string() && said["age"].as_f64() > Some(0.5) => Ok(said),
            said => Err(said.to_string()),
        })
        .await;
        assert!(said["error"].as_str().is_some_and(|error| !error.is_empty()), "{said}");
        let during = window(&load, 100).await;
        assert_eq!(during.served_by.keys().collect::<Vec<_>>(), ["B"], "the last good answer stays");
        dns.mute(false);
        dns.set_services("_http._tcp.example.com", &service(&b));
        eventually(PATIENCE, "it resolves again", async || match resolved(&edge).await {
            said if said["error"].is_null() => Ok(()),
            said => Err(said.to_string()),
        })
        .await;
    }
    assert!(edge.understudy.log().contains("does not resolve any more; the last good answer stays in use"));
    faultless(load).await;
}

/// Tests the addresses of a name: each is an endpoint, in IPv4 and IPv6, and their changes cost no request.
#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_a_name_come_and_go_and_no_request_is_lost() {
    let (port, dns) = (free_port(), DnsServer::start().await);
    let start = async |name, ip: IpAddr| Backend::start_at(name, SocketAddr::new(ip, port), &[]).await;
    let [first, second, third] = ["127.0.0.1", "127.0.0.2", "::1"].map(ip);
    let (mut a, _b, _c) = (start("A", first).await, start("B", second).await, start("C", third).await);
    dns.set_addresses("shop.example.com", &[first]);
    let (edge, _config) = edge(&dns, json!([{"target": format!("shop.example.com:{port}")}])).await;
    edge.serves("A", PATIENCE).await;
    let load = edge.load(200);
    for (ips, backends) in [
        (vec![first, second], ["A", "B"].as_slice()),
        (vec![first, second, third], &["A", "B", "C"]),
        (vec![third], &["C"]),
        (vec![second, first], &["A", "B"]),
    ] {
        dns.set_addresses("shop.example.com", &ips);
        comes_to_rest(&load, backends).await;
    }
    a.kill();
    comes_to_rest(&load, &["B"]).await;
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_service_have_tiers_and_weights() {
    let (mut a, b, c, dns) = (
        Backend::start("A").await,
        Backend::start("B").await,
        Backend::start("C").await,
        DnsServer::start().await,
    );
    dns.set_addresses("host.example.com", &[ip("127.0.0.1")]);
    let [first, second, third] = [&a, &b, &c].map(|backend| backend.address().port());
    let records = [
        (10, 30, first, "host.example.com"),
        (10, 10, second, "host.example.com"),
        (20, 1, third, "host.example.com"),
    ];
    dns.set_services("_http._tcp.example.com", &records);
    let (edge, _config) = edge(&dns, json!([{"target": "srv:_http._tcp.example.com"}])).await;
    edge.serves("A", PATIENCE).await;
    edge.serves("B", PATIENCE).await;
    let load = edge.load(200);
    let shares = window(&load, 400).await.served_by;
    let (by_a, by_b) = (shares["A"], shares["B"]);
    assert!(by_a > 2 * by_b && by_a < 4 * by_b, "three to one: {shares:?}");
    assert!(!shares.contains_key("C"), "{shares:?}");
    a.kill();
    let mut b = b;
    b.kill();
    comes_to_rest(&load, &["C"]).await;
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_do_not_resolve_hold_up_nobody_else_and_no_write_for_long() {
    let (a, dns) = (Backend::start("A").await, DnsServer::start().await);
    let port = a.address().port();
    dns.set_addresses("a.example.com", &[ip("127.0.0.1")]);
    let targets = json!([{"target": format!("a.example.com:{port}")}, {"target": "never.example.com:80"}]);
    let (edge, _config) = edge(&dns, targets).await;
    edge.serves("A", PATIENCE).await;
    let (_, health) = edge.understudy.get("/upstreams/shop/health").await;
    let never = &health["targets"][1];
    assert_eq!((&never["target"], &never["resolved"]["age"]), (&json!("never.example.com:80"), &Value::Null));
    assert_eq!(health["serving_priority"], Value::Null);

    dns.mute(true);
    let before = dns.query_count();
    eventually(PATIENCE, "look-ups hang", async || match dns.query_count() {
        asked if asked > before => Ok(()),
        asked => Err(asked.to_string()),
    })
    .await;
    let started = Instant::now();
    create(&edge.understudy, "/upstreams", json!({"name": "other", "targets": [{"target": "10.0.0.1:80"}]}))
        .await;
    let known = started.elapsed();
    assert!(known < Duration::from_millis(900), "no new name, and it took {known:?}");
    let started = Instant::now();
    create(
        &edge.understudy,
        "/upstreams",
        json!({"name": "new", "targets": [{"target": "new.example.com:80"}]}),
    )
    .await;
    let new = started.elapsed();
    assert!(new < Duration::from_secs(3), "a new name is waited for a second: {new:?}");
    edge.serves("A", PATIENCE).await;
}

//! Tests of TLS and mutual TLS to targets: the requested name, the proof of identity, and failover between
//! them.

use serde_json::{Value, json};

use crate::harness::{Backend, PATIENCE, eventually};
use crate::stage::{Edge, comes_to_rest, create, faultless, window};
use crate::tls::{CertificateAuthority, TlsFront};

/// Starts an Envoy in front of this upstream.
async fn edge(upstream: Value) -> Edge {
    Edge::by_rest(async |understudy| {
        create(understudy, "/upstreams", upstream).await;
        create(understudy, "/services", json!({"name": "checkout", "upstream": "checkout"})).await;
        create(understudy, "/routes", json!({"name": "checkout", "service": "checkout"})).await;
    })
    .await
}

fn certificate(name: &str, authority: &CertificateAuthority, names: &[&str]) -> Value {
    let pair = authority.issue(names);
    json!({"name": name, "certificate": {"inline": pair.chain}, "key": {"inline": pair.key}})
}

#[tokio::test(flavor = "multi_thread")]
async fn each_target_is_asked_for_by_its_name_and_failover_costs_no_request() {
    let (authority, clients) = (CertificateAuthority::new("servers"), CertificateAuthority::new("clients"));
    let (a, failover) = (Backend::start("A").await, Backend::start("FAILOVER").await);
    let pri = TlsFront::start(a.address(), &authority.issue(&["pri.example"]), Some(&clients)).await;
    let sec = TlsFront::start(failover.address(), &authority.issue(&["sec.example"]), Some(&clients)).await;
    let edge = Edge::by_rest(async |understudy| {
        create(understudy, "/certificates", certificate("edge", &clients, &["edge"])).await;
        let targets = json!([
            {"target": pri.address.to_string(), "tls": {"sni": "pri.example"}},
            {"target": sec.address.to_string(), "tls": {"sni": "sec.example"}, "failover": true},
        ]);
        let tls = json!({"ca": {"inline": authority.pem}, "client_certificate": "edge"});
        let check = json!({"http": {"path": "/healthz"}});
        let upstream = json!({"name": "checkout", "tls": tls, "health_check": check, "targets": targets});
        create(understudy, "/upstreams", upstream).await;
        create(understudy, "/services", json!({"name": "checkout", "upstream": "checkout"})).await;
        create(understudy, "/routes", json!({"name": "checkout", "service": "checkout"})).await;
    })
    .await;
    edge.serves("A", PATIENCE).await;
    let load = edge.load(200);
    window(&load, 200).await;
    let seen = pri.seen();
    assert_eq!(seen.names.keys().collect::<Vec<_>>(), ["pri.example"]);
    assert_eq!(seen.strangers, 0);
    drop(pri);
    comes_to_rest(&load, &["FAILOVER"]).await;
    faultless(load).await;
    let seen = sec.seen();
    assert_eq!(seen.names.keys().collect::<Vec<_>>(), ["sec.example"]);
    assert_eq!(seen.strangers, 0);
}

/// Tests the default identity. A name is requested and must be proven; an address is not requested and must
/// be proven all the same. Each stands beside a target in plain text.
#[tokio::test(flavor = "multi_thread")]
async fn by_default_a_target_proves_the_name_or_the_address_by_which_it_was_named() {
    let authority = CertificateAuthority::new("servers");
    let (by_name, by_address, plain) =
        (Backend::start("NAME").await, Backend::start("ADDRESS").await, Backend::start("PLAIN").await);
    let name = TlsFront::start(by_name.address(), &authority.issue(&["localhost"]), None).await;
    let address = TlsFront::start(by_address.address(), &authority.issue(&["127.0.0.1"]), None).await;
    let edge = edge(json!({
        "name": "checkout",
        "tls": {"ca": {"inline": authority.pem}},
        "health_check": {"http": {"path": "/healthz"}},
        "targets": [
            {"target": format!("localhost:{}", name.address.port())},
            {"target": address.address.to_string()},
            {"target": plain.address().to_string(), "tls": false},
        ],
    }))
    .await;
    for backend in ["NAME", "ADDRESS", "PLAIN"] {
        edge.serves(backend, PATIENCE).await;
    }
    assert_eq!(name.seen().names.keys().collect::<Vec<_>>(), ["localhost"]);
    assert_eq!(address.seen().names.keys().collect::<Vec<_>>(), [""]);
}

/// Tests checks of standbys over TLS. Their authorities, certificates and names are sent inline, since Envoy
/// cannot fetch them there.
#[tokio::test(flavor = "multi_thread")]
async fn standbys_without_traffic_are_checked_over_tls_too() {
    let (authority, clients) = (CertificateAuthority::new("servers"), CertificateAuthority::new("clients"));
    let backend = Backend::start("A").await;
    let of = |names: &'static [&str]| authority.issue(names);
    let (address, name) = (of(&["127.0.0.1"]), of(&["localhost"]));
    let (sni, wrong) = (of(&["sec.example"]), CertificateAuthority::new("others").issue(&["127.0.0.1"]));
    let first = TlsFront::start(backend.address(), &address, Some(&clients)).await;
    let by_name = TlsFront::start(backend.address(), &name, Some(&clients)).await;
    let by_sni = TlsFront::start(backend.address(), &sni, Some(&clients)).await;
    let stranger = TlsFront::start(backend.address(), &wrong, Some(&clients)).await;
    let plain = Backend::start("PLAIN").await;
    let edge = Edge::by_rest(async |understudy| {
        create(understudy, "/certificates", certificate("edge", &clients, &["edge"])).await;
        let upstream = json!({
            "name": "checkout",
            "tls": {"ca": {"inline": authority.pem}, "client_certificate": "edge"},
            "health_check": {"http": {"path": "/healthz"}},
            "targets": [
                {"target": first.address.to_string()},
                {"target": format!("localhost:{}", by_name.address.port()), "failover": true},
                {"target": by_sni.address.to_string(), "failover": true, "tls": {"sni": "sec.example"}},
                {"target": stranger.address.to_string(), "failover": true},
                {"target": plain.address().to_string(), "failover": true, "tls": false},
            ],
        });
        create(understudy, "/upstreams", upstream).await;
        create(understudy, "/services", json!({"name": "checkout", "upstream": "checkout"})).await;
        create(understudy, "/routes", json!({"name": "checkout", "service": "checkout"})).await;
    })
    .await;
    edge.serves("A", PATIENCE).await;
    eventually(PATIENCE, "all are known", async || {
        let (_, health) = edge.understudy.get("/upstreams/checkout/health").await;
        let targets = health["targets"].as_array().cloned().unwrap_or_default();
        let healths: Vec<&str> = targets.iter().filter_map(|target| target["health"].as_str()).collect();
        match healths == ["healthy", "healthy", "healthy", "unhealthy", "healthy"] {
            true => Ok(()),
            false => Err(health.to_string()),
        }
    })
    .await;
}

/// Tests `auto`: each target is spoken to in the protocol that it prefers, and one replaces another all the
/// same.
#[tokio::test(flavor = "multi_thread")]
async fn targets_of_different_protocols_stand_in_for_each_other() {
    let authority = CertificateAuthority::new("servers");
    let pair = authority.issue(&["127.0.0.1"]);
    let (a, failover) = (Backend::start("A").await, Backend::start("FAILOVER").await);
    let newer = TlsFront::speaking(&["h2", "http/1.1"], a.address(), &pair, None).await;
    let older = TlsFront::speaking(&["http/1.1"], failover.address(), &pair, None).await;
    let edge = edge(json!({
        "name": "checkout",
        "protocol": "auto",
        "tls": {"ca": {"inline": authority.pem}},
        "targets": [
            {"target": newer.address.to_string()},
            {"target": older.address.to_string(), "failover": true},
        ],
    }))
    .await;
    edge.serves("A", PATIENCE).await;
    let load = edge.load(200);
    window(&load, 200).await;
    assert!(newer.seen().protocols.contains_key("h2"), "{:?}", newer.seen());
    drop(newer);
    comes_to_rest(&load, &["FAILOVER"]).await;
    assert!(older.seen().protocols.contains_key("http/1.1"), "{:?}", older.seen());
    faultless(load).await;
}

/// Tests a target with another identity: not one request gets to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_proves_something_else_gets_no_request() {
    let (authority, another) = (CertificateAuthority::new("servers"), CertificateAuthority::new("others"));
    let check = async |pair, tls: Value, host: &str, is_good: bool| {
        let mut backend = Backend::start("A").await;
        let front = TlsFront::start(backend.address(), &pair, None).await;
        let target = format!("{host}:{}", front.address.port());
        let upstream = json!({"name": "checkout", "tls": tls, "health_check": "off",
            "targets": [{"target": target}]});
        let edge = edge(upstream).await;
        let asked = format!("{tls} {host}");
        if is_good {
            edge.serves("A", PATIENCE).await;
        } else {
            eventually(PATIENCE, &asked, async || match edge.serving_backend().await {
                Err(told) if told.starts_with("503") => Ok(()),
                other => Err(format!("{other:?}")),
            })
            .await;
            let failed = edge.envoy.stats("cluster.checkout.ssl.fail_verify").await;
            assert!(failed.values().sum::<u64>() > 0, "{asked}: {failed:?}");
            assert_eq!(backend.gets().await, 0, "{asked}");
        }
    };
    let ca = json!({"inline": authority.pem});
    check(authority.issue(&["other"]), json!({"ca": ca}), "localhost", false).await;
    check(authority.issue(&["127.0.0.2"]), json!({"ca": ca}), "127.0.0.1", false).await;
    check(authority.issue(&["localhost"]), json!({"ca": ca, "sni": "shop.example"}), "localhost", false)
        .await;
    check(
        authority.issue(&["a.example"]),
        json!({"ca": ca, "verify_names": ["b.example"]}),
        "127.0.0.1",
        false,
    )
    .await;
    check(another.issue(&["localhost"]), json!({"ca": ca}), "localhost", false).await;
    check(another.issue(&["localhost"]), json!({"ca": ca, "verify_names": "any"}), "localhost", false).await;
    check(another.issue(&["localhost"]), json!({}), "localhost", false).await;
    check(authority.issue(&["*.example"]), json!({"ca": ca, "sni": "shop.example"}), "127.0.0.1", true).await;
    check(another.issue(&["other"]), json!({"insecure": true}), "localhost", true).await;
    check(authority.issue(&["other"]), json!({"ca": ca, "verify_names": "any"}), "localhost", true).await;
    check(authority.issue(&["other"]), json!({"ca": ca, "verify_names": "any"}), "127.0.0.1", true).await;
}

//! Tests of `resolve: envoy`: host names that each Envoy looks up itself, here from a DNS server of the test.

use serde_json::json;

use crate::harness::dns::DnsServer;
use crate::harness::{Backend, PATIENCE, Understudy, free_port};
use crate::stage::{Edge, comes_to_rest, create, faultless, window};

/// Returns a patch that makes a cluster query this server. Envoy would ask the system's servers.
fn resolver_patch(dns: &DnsServer, cluster: &str) -> serde_json::Value {
    let server = json!({"socket_address":
        {"address": "127.0.0.1", "port_value": dns.address.port(), "protocol": "UDP"}});
    let resolver = json!({"name": "envoy.network.dns_resolver.cares", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
        "resolvers": [server], "dns_resolver_options": {"no_default_search_domain": true}}});
    json!({"kind": "clusters", "name": cluster,
        "merge": {"cluster_type": {"typed_config": {"typed_dns_resolver_config": resolver}}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_each_tier_are_resolved_by_envoy_and_a_dead_tier_costs_no_request() {
    let dns = DnsServer::start().await;
    let mut primary = Backend::start("PRIMARY").await;
    let standby = Backend::start("STANDBY").await;
    let spare = Backend::start("SPARE").await;
    dns.set_addresses("primary.test", &[primary.address().ip()]);
    dns.set_addresses("standby.test", &[standby.address().ip()]);
    let directory = tempfile::tempdir().expect("the temporary directory can be written");
    let file = directory.path().join("patches.yaml");
    let target = |name: &str, backend: &Backend| format!("{name}.test:{}", backend.address().port());
    let port = free_port();
    let config = json!({
        "listeners": [{"name": "web", "address": format!("127.0.0.1:{port}")}],
        "upstreams": [{"name": "checkout", "resolve": "envoy", "targets": [
            {"target": target("primary", &primary)}, {"target": target("standby", &standby), "failover": true}]}],
        "services": [{"name": "checkout", "upstream": "checkout"}],
        "routes": [{"name": "checkout", "service": "checkout"}],
        "raw": {"patches": [resolver_patch(&dns, "checkout/p0"), resolver_patch(&dns, "checkout/p1")]},
    });
    std::fs::write(&file, config.to_string()).expect("the directory is ours");
    let understudy = Understudy::serve(&[file.to_str().expect("a path of ours is text")]).await;
    let edge = Edge::new(understudy, port).await;
    edge.serves("PRIMARY", PATIENCE).await;

    let load = edge.load(300);
    window(&load, 100).await;
    primary.kill();
    comes_to_rest(&load, &["STANDBY"]).await;
    // A new target in the tier that serves nothing, while the first tier is dead: no other tier changes.
    let target = json!({"target": spare.address().to_string(), "failover": true});
    create(&edge.understudy, "/upstreams/checkout/targets", target).await;
    comes_to_rest(&load, &["SPARE", "STANDBY"]).await;
    primary.restart().await;
    comes_to_rest(&load, &["PRIMARY"]).await;
    // An answer without addresses empties the tier, and the next one serves.
    dns.set_addresses("primary.test", &[]);
    comes_to_rest(&load, &["SPARE", "STANDBY"]).await;
    dns.set_addresses("primary.test", &[primary.address().ip()]);
    comes_to_rest(&load, &["PRIMARY"]).await;
    faultless(load).await;
}

//! Tests of `resolve: envoy`: host names that each Envoy looks up itself, here from a DNS server of the test.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::harness::{Backend, PATIENCE, Understudy, free_port};
use crate::stage::{Edge, comes_to_rest, create, faultless, window};

/// DNS server that answers A queries for its names, and without records for all others. The TTL is 1 s.
struct Dns {
    address: SocketAddr,
    records: Arc<Mutex<HashMap<String, Vec<Ipv4Addr>>>>,
    task: JoinHandle<()>,
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Dns {
    async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = socket.local_addr().expect("it is bound");
        let records: Arc<Mutex<HashMap<String, Vec<Ipv4Addr>>>> = Arc::default();
        let known = records.clone();
        let task = tokio::spawn(async move {
            let mut query = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut query).await {
                let known = known.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let _ = socket.send_to(&reply(&query[..length], &known), client).await; // Envoy asks again.
            }
        });
        Self { address, records, task }
    }

    fn set(&self, name: &str, addresses: &[&Backend]) {
        let ips = addresses.iter().filter_map(|backend| match backend.address().ip() {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        });
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.insert(name.to_owned(), ips.collect());
    }
}

/// Builds a response (RFC 1035, section 4): the question again, and an A record for each address.
fn reply(query: &[u8], records: &HashMap<String, Vec<Ipv4Addr>>) -> Vec<u8> {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] > 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).into_owned());
        at = end;
    }
    let question = &query[12..at + 5];
    let is_a = question.ends_with(&[0, 1, 0, 1]);
    let ips = records.get(&labels.join(".")).filter(|_| is_a).cloned().unwrap_or_default();
    let count = u8::try_from(ips.len()).expect("there are few");
    let mut reply = [&query[..2], &[0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0], question].concat();
    for ip in ips {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        reply.extend(ip.octets());
    }
    reply
}

/// Returns a patch that makes a cluster ask this server. Envoy would ask the system's servers.
fn asks(dns: &Dns, cluster: &str) -> serde_json::Value {
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
    let dns = Dns::start().await;
    let mut primary = Backend::start("PRIMARY").await;
    let standby = Backend::start("STANDBY").await;
    let spare = Backend::start("SPARE").await;
    dns.set("primary.test", &[&primary]);
    dns.set("standby.test", &[&standby]);
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
        "raw": {"patches": [asks(&dns, "checkout/p0"), asks(&dns, "checkout/p1")]},
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
    dns.set("primary.test", &[]);
    comes_to_rest(&load, &["SPARE", "STANDBY"]).await;
    dns.set("primary.test", &[&primary]);
    comes_to_rest(&load, &["PRIMARY"]).await;
    faultless(load).await;
}

//! Clusters of an upstream: one, or several under an aggregate.
//!
//! EDS is used wherever possible: a cluster must not change when a target does, since Envoy swaps a changed
//! cluster as a whole and loses its state of health and ejections. Health checks, ejections, the load
//! balancer, the protocol and TLS belong to the clusters that hold targets; filters belong to the cluster
//! that a route names. The limits are set on both, since Envoy consults the circuit breakers of the one or of
//! the other depending on the limit.

use std::collections::HashMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3 as envoy;
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::{Thresholds, thresholds};
use envoy_types::pb::envoy::config::cluster::v3::cluster;
use envoy_types::pb::envoy::config::cluster::v3::load_balancing_policy::Policy;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::clusters::aggregate::v3::ClusterConfig;
use envoy_types::pb::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily;
use envoy_types::pb::envoy::extensions::clusters::dns::v3::DnsCluster;
use envoy_types::pb::envoy::extensions::clusters::dns::v3::dns_cluster::RefreshRate;
use envoy_types::pb::envoy::extensions::load_balancing_policies as policies;
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as http;
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf as wrappers;

use crate::build::compile::target_cluster::{self, AddressSource, TargetCluster};
use crate::build::compile::{ads, any, duration, endpoint, health, tls, uint32, whole_response};
use crate::build::snapshot::resource::Resource;
use crate::config::document::upstream::{LoadBalancer, UpstreamProtocol, WhenAllDown};
use crate::memo::ArcEq;
use crate::model::overrides::{First, OverridesByUpstream};
use crate::model::upstream::{Limits, Upstream, WholeResponse};

const HTTP_PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// Everything that the clusters of an upstream depend on.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterInput {
    upstream: ArcEq<Upstream>,
    /// Override of the tier that serves first; none if there is no override, or if the upstream has a single
    /// cluster, whose endpoints carry the override.
    first: Option<First>,
}

impl ClusterInput {
    /// Collects what the clusters of `upstream` depend on.
    pub fn new(upstream: ArcEq<Upstream>, overrides: &OverridesByUpstream) -> Self {
        let first = target_cluster::first_override(&upstream.0, overrides);
        Self { upstream, first }
    }
}

/// Compiles the clusters of an upstream: one that holds all its targets, or one for each tier and an
/// aggregate.
pub fn compile(input: &ClusterInput) -> Vec<Resource> {
    let upstream = &*input.upstream.0;
    let target_clusters =
        target_cluster::all(upstream).into_iter().map(|target_cluster| holding(&target_cluster, upstream));
    let over_tiers = upstream.has_cluster_for_each_tier().then(|| {
        aggregate(upstream.name.as_str(), &target_cluster::in_serving_order(upstream, input.first), upstream)
    });
    target_clusters.chain(over_tiers).collect()
}

/// Returns a cluster that holds targets.
fn holding(target_cluster: &TargetCluster<'_>, upstream: &Upstream) -> Resource {
    // Upstream filters are taken from the cluster that a route names: this one, unless there is an aggregate.
    let whole_response = upstream.whole_response.as_ref().filter(|_| !upstream.has_cluster_for_each_tier());
    let (transport_socket, transport_socket_matches) = tls::to_targets(upstream, target_cluster.targets);
    let cluster = envoy::Cluster {
        name: target_cluster.name.clone(),
        connect_timeout: Some(duration(upstream.connect_timeout)),
        // Removed targets would otherwise keep serving for as long as their health checks pass.
        ignore_health_on_host_removal: true,
        common_lb_config: Some(common_lb_config(upstream)),
        load_balancing_policy: Some(load_balancing_policy(upstream)),
        circuit_breakers: Some(circuit_breakers(&upstream.limits)),
        health_checks: upstream
            .health_check
            .iter()
            .map(|check| health::health_check(check, upstream))
            .collect(),
        outlier_detection: upstream.outlier_detection.as_ref().map(health::outlier_detection),
        typed_extension_protocol_options: protocol_options(upstream, whole_response),
        transport_socket,
        transport_socket_matches,
        // Requests are retried on another target; a TCP connection to a frozen target would hang forever.
        close_connections_on_host_health_failure: upstream.protocol == UpstreamProtocol::Tcp,
        ..Default::default()
    };
    match target_cluster.discovery {
        AddressSource::Eds => by_eds(cluster),
        AddressSource::Dns => by_dns(cluster, target_cluster, upstream),
    }
}

fn by_eds(cluster: envoy::Cluster) -> Resource {
    let cluster = envoy::Cluster {
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds.into())),
        eds_cluster_config: Some(cluster::EdsClusterConfig { eds_config: Some(ads()), ..Default::default() }),
        ..cluster
    };
    let mut resource = Resource::new(&cluster.name, &cluster);
    resource.endpoints = Some(resource.name.clone());
    resource
}

/// Completes a cluster whose host names Envoy resolves itself.
///
/// DNS answers are used until their TTL ends. If the DNS server fails or does not respond, Envoy keeps the
/// last answer. An answer without addresses empties the tier, so that the next tier serves.
fn by_dns(cluster: envoy::Cluster, target_cluster: &TargetCluster<'_>, upstream: &Upstream) -> Resource {
    let every = Some(duration(std::time::Duration::from_secs(1)));
    let dns = DnsCluster {
        // Refresh rate of answers whose TTL is 0.
        dns_refresh_rate: every,
        dns_failure_refresh_rate: Some(RefreshRate { base_interval: every, max_interval: every }),
        respect_dns_ttl: true,
        // A and AAAA records both become targets, as they do when the control plane resolves names.
        dns_lookup_family: DnsLookupFamily::All.into(),
        ..Default::default()
    };
    let cluster = envoy::Cluster {
        cluster_discovery_type: Some(cluster_type("envoy.cluster.dns", &dns)),
        load_assignment: Some(endpoint::by_name(target_cluster, upstream)),
        ..cluster
    };
    Resource::new(&cluster.name, &cluster)
}

/// Returns an aggregate cluster over `target_clusters`, in this order. Settings that Envoy takes from the
/// aggregate itself, which are the limits, the panic threshold and the filters, are those of `first`.
pub(super) fn aggregate(name: &str, target_clusters: &[TargetCluster<'_>], first: &Upstream) -> Resource {
    let clusters: Vec<String> =
        target_clusters.iter().map(|target_cluster| target_cluster.name.clone()).collect();
    let cluster = envoy::Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(cluster_type(
            "envoy.clusters.aggregate",
            &ClusterConfig { clusters: clusters.clone() },
        )),
        lb_policy: cluster::LbPolicy::ClusterProvided.into(),
        connect_timeout: Some(duration(first.connect_timeout)),
        common_lb_config: Some(common_lb_config(first)),
        circuit_breakers: Some(circuit_breakers(&first.limits)),
        typed_extension_protocol_options: first
            .whole_response
            .as_ref()
            .map(filters_alone)
            .unwrap_or_default(),
        ..Default::default()
    };
    let mut resource = Resource::new(name, &cluster);
    resource.clusters = clusters.into_iter().map(Arc::from).collect();
    resource
}

fn cluster_type<M: prost::Message + prost::Name>(name: &str, config: &M) -> cluster::ClusterDiscoveryType {
    cluster::ClusterDiscoveryType::ClusterType(cluster::CustomClusterType {
        name: name.to_owned(),
        typed_config: Some(any(config)),
    })
}

/// Returns the percentage of usable targets of a tier below which Envoy ignores their health; 0 for never.
pub fn panic_threshold(upstream: &Upstream) -> u32 {
    if upstream.failover.minimum_healthy > 0 {
        return upstream.failover.minimum_healthy;
    }
    match upstream.failover.when_all_down {
        // Any value above 0 has the same effect: with the factor of standby mode a tier is either fully
        // available or not at all.
        WhenAllDown::TryAll => 1,
        WhenAllDown::Fail => 0,
    }
}

fn common_lb_config(upstream: &Upstream) -> cluster::CommonLbConfig {
    cluster::CommonLbConfig {
        healthy_panic_threshold: Some(Percent { value: f64::from(panic_threshold(upstream)) }),
        // Envoy's default of 1 s delays the update that the last primary has died.
        update_merge_window: Some(duration(std::time::Duration::ZERO)),
        override_host_status: upstream.sticky.is_some().then(sessions_finish_on_draining_targets),
        ..Default::default()
    }
}

/// Returns the health states in which a target keeps its sticky clients. Envoy's default excludes draining
/// targets.
fn sessions_finish_on_draining_targets() -> core::HealthStatusSet {
    use core::HealthStatus::{Degraded, Draining, Healthy, Unknown};
    core::HealthStatusSet { statuses: [Unknown, Healthy, Degraded, Draining].map(i32::from).to_vec() }
}

/// Returns the setting that refuses requests where Envoy would ignore the health of targets. It is a part of routing by
/// zones, which stays off.
fn fails_in_panic(upstream: &Upstream) -> Option<policies::common::v3::LocalityLbConfig> {
    use policies::common::v3::LocalityLbConfig;
    use policies::common::v3::locality_lb_config::{LocalityConfigSpecifier, ZoneAwareLbConfig};

    let zones = ZoneAwareLbConfig {
        routing_enabled: Some(Percent { value: 0.0 }),
        fail_traffic_on_panic: true,
        ..Default::default()
    };
    let specifier = LocalityConfigSpecifier::ZoneAwareLbConfig(zones);
    (upstream.failover.minimum_healthy > 0)
        .then_some(LocalityLbConfig { locality_config_specifier: Some(specifier) })
}

fn load_balancing_policy(upstream: &Upstream) -> envoy::LoadBalancingPolicy {
    let locality_lb_config = fails_in_panic(upstream);
    let slow_start = (!upstream.slow_start.is_zero()).then(|| policies::common::v3::SlowStartConfig {
        slow_start_window: Some(duration(upstream.slow_start)),
        ..Default::default()
    });
    let (name, config) = match upstream.load_balancer {
        LoadBalancer::RoundRobin => {
            let policy =
                policies::round_robin::v3::RoundRobin { slow_start_config: slow_start, locality_lb_config };
            ("round_robin", any(&policy))
        }
        LoadBalancer::LeastRequest => {
            let policy = policies::least_request::v3::LeastRequest {
                slow_start_config: slow_start,
                locality_lb_config,
                ..Default::default()
            };
            ("least_request", any(&policy))
        }
        LoadBalancer::Random => ("random", any(&policies::random::v3::Random { locality_lb_config })),
        // Envoy's random balancer ignores weights. Maglev without a hash policy picks from its table by a
        // random number, and the table respects weights.
        LoadBalancer::WeightedRandom | LoadBalancer::Maglev => {
            ("maglev", any(&policies::maglev::v3::Maglev::default()))
        }
        LoadBalancer::RingHash => ("ring_hash", any(&policies::ring_hash::v3::RingHash::default())),
    };
    let extension = core::TypedExtensionConfig {
        name: format!("envoy.load_balancing_policies.{name}"),
        typed_config: Some(config),
    };
    envoy::LoadBalancingPolicy { policies: vec![Policy { typed_extension_config: Some(extension) }] }
}

fn circuit_breakers(limits: &Limits) -> envoy::CircuitBreakers {
    let retry_budget = limits.retry_budget.as_ref().map(|budget| thresholds::RetryBudget {
        budget_percent: Some(Percent { value: budget.percent }),
        min_retry_concurrency: Some(uint32(budget.at_least)),
        ..Default::default()
    });
    let thresholds = Thresholds {
        max_connections: Some(uint32(limits.connections)),
        max_pending_requests: Some(uint32(limits.pending_requests)),
        max_requests: Some(uint32(limits.requests)),
        // Envoy's default of 3 concurrent retries fails requests at the very moment when retries are needed.
        max_retries: retry_budget.is_none().then(|| uint32(limits.retries)),
        retry_budget,
        ..Default::default()
    };
    envoy::CircuitBreakers { thresholds: vec![thresholds], ..Default::default() }
}

/// Returns the HTTP protocol options of a cluster that holds targets; empty for TCP.
fn protocol_options(
    upstream: &Upstream,
    whole_response: Option<&WholeResponse>,
) -> HashMap<String, wrappers::Any> {
    let Some(protocol) = protocol(upstream.protocol) else { return HashMap::new() };
    let requests = upstream.limits.requests_per_connection;
    let options = http::HttpProtocolOptions {
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            idle_timeout: Some(duration(upstream.idle_timeout)),
            max_requests_per_connection: (requests > 0).then(|| uint32(requests)),
            ..Default::default()
        }),
        upstream_protocol_options: Some(protocol),
        http_filters: whole_response.map(whole_response::filters).unwrap_or_default(),
        ..Default::default()
    };
    [(HTTP_PROTOCOL_OPTIONS.to_owned(), any(&options))].into()
}

/// Returns the options of an aggregate, which has filters of its own. The protocol must be set but is not
/// used: Envoy takes it from the member clusters.
fn filters_alone(whole_response: &WholeResponse) -> HashMap<String, wrappers::Any> {
    let options = http::HttpProtocolOptions {
        upstream_protocol_options: protocol(UpstreamProtocol::Http1),
        http_filters: whole_response::filters(whole_response),
        ..Default::default()
    };
    [(HTTP_PROTOCOL_OPTIONS.to_owned(), any(&options))].into()
}

fn protocol(protocol: UpstreamProtocol) -> Option<http::http_protocol_options::UpstreamProtocolOptions> {
    use http::http_protocol_options::explicit_http_config::ProtocolConfig;
    use http::http_protocol_options::{AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions};

    let explicit = |config| {
        UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config: Some(config) })
    };
    Some(match protocol {
        UpstreamProtocol::Http1 => {
            explicit(ProtocolConfig::HttpProtocolOptions(core::Http1ProtocolOptions::default()))
        }
        UpstreamProtocol::Http2 => {
            explicit(ProtocolConfig::Http2ProtocolOptions(core::Http2ProtocolOptions::default()))
        }
        UpstreamProtocol::Auto => UpstreamProtocolOptions::AutoConfig(AutoHttpConfig::default()),
        UpstreamProtocol::Tcp => return None,
    })
}

//! An upstream as a cluster.
//!
//! Always by EDS: a cluster must not change when a target does, since Envoy swaps a changed cluster as a
//! whole and forgets what it knew of health and ejections.

use envoy_types::pb::envoy::config::cluster::v3 as envoy;
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::{Thresholds, thresholds};
use envoy_types::pb::envoy::config::cluster::v3::cluster;
use envoy_types::pb::envoy::config::cluster::v3::load_balancing_policy::Policy;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::load_balancing_policies as policies;
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as http;
use envoy_types::pb::envoy::r#type::v3::Percent;

use crate::compile::{ads, any, duration, health, uint32};
use crate::config::document::{LoadBalancer, UpstreamProtocol, WhenAllDown};
use crate::model::upstream::{Limits, Upstream};
use crate::snapshot::Resource;

const HTTP_PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// The cluster of an upstream.
pub fn compile(upstream: &Upstream) -> Resource {
    let name = upstream.name.as_str();
    let cluster = envoy::Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds.into())),
        eds_cluster_config: Some(cluster::EdsClusterConfig { eds_config: Some(ads()), ..Default::default() }),
        connect_timeout: Some(duration(upstream.connect_timeout)),
        // Else a removed target keeps serving for as long as its health check passes.
        ignore_health_on_host_removal: true,
        common_lb_config: Some(common_lb_config(upstream)),
        load_balancing_policy: Some(load_balancing_policy(upstream)),
        circuit_breakers: Some(circuit_breakers(&upstream.limits)),
        health_checks: upstream
            .health_check
            .iter()
            .map(|check| health::health_check(check, upstream.protocol))
            .collect(),
        outlier_detection: upstream.outlier_detection.as_ref().map(health::outlier_detection),
        typed_extension_protocol_options: [(HTTP_PROTOCOL_OPTIONS.to_owned(), any(&protocol(upstream)))]
            .into(),
        ..Default::default()
    };
    let mut resource = Resource::new(name, &cluster);
    resource.endpoints = Some(name.to_owned());
    resource
}

fn common_lb_config(upstream: &Upstream) -> cluster::CommonLbConfig {
    let panic = match upstream.failover.when_all_down {
        // Any value above 0 acts alike: with standby's factor a tier is either fully available or not at all.
        WhenAllDown::TryAll => 1.0,
        WhenAllDown::Fail => 0.0,
    };
    cluster::CommonLbConfig {
        healthy_panic_threshold: Some(Percent { value: panic }),
        // Envoy's default of 1 s holds back the news that the last primary has died.
        update_merge_window: Some(duration(std::time::Duration::ZERO)),
        override_host_status: upstream.sticky.is_some().then(sessions_finish_on_draining_targets),
        ..Default::default()
    }
}

/// The states in which a target keeps the clients that are led to it. Envoy's default leaves out draining ones.
fn sessions_finish_on_draining_targets() -> core::HealthStatusSet {
    use core::HealthStatus::{Degraded, Draining, Healthy, Unknown};
    core::HealthStatusSet { statuses: [Unknown, Healthy, Degraded, Draining].map(i32::from).to_vec() }
}

fn load_balancing_policy(upstream: &Upstream) -> envoy::LoadBalancingPolicy {
    let slow_start = (!upstream.slow_start.is_zero()).then(|| policies::common::v3::SlowStartConfig {
        slow_start_window: Some(duration(upstream.slow_start)),
        ..Default::default()
    });
    let (name, config) = match upstream.load_balancer {
        LoadBalancer::RoundRobin => {
            let policy =
                policies::round_robin::v3::RoundRobin { slow_start_config: slow_start, ..Default::default() };
            ("round_robin", any(&policy))
        }
        LoadBalancer::LeastRequest => {
            let policy = policies::least_request::v3::LeastRequest {
                slow_start_config: slow_start,
                ..Default::default()
            };
            ("least_request", any(&policy))
        }
        LoadBalancer::Random => ("random", any(&policies::random::v3::Random::default())),
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
        // Envoy's default of 3 at a time fails requests in the very moment that retries are for.
        max_retries: retry_budget.is_none().then(|| uint32(limits.retries)),
        retry_budget,
        ..Default::default()
    };
    envoy::CircuitBreakers { thresholds: vec![thresholds], ..Default::default() }
}

fn protocol(upstream: &Upstream) -> http::HttpProtocolOptions {
    use http::http_protocol_options::explicit_http_config::ProtocolConfig;
    use http::http_protocol_options::{ExplicitHttpConfig, UpstreamProtocolOptions};

    let protocol_config = match upstream.protocol {
        UpstreamProtocol::Http1 => ProtocolConfig::HttpProtocolOptions(core::Http1ProtocolOptions::default()),
        UpstreamProtocol::Http2 => {
            ProtocolConfig::Http2ProtocolOptions(core::Http2ProtocolOptions::default())
        }
    };
    let requests = upstream.limits.requests_per_connection;
    http::HttpProtocolOptions {
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            idle_timeout: Some(duration(upstream.idle_timeout)),
            max_requests_per_connection: (requests > 0).then(|| uint32(requests)),
            ..Default::default()
        }),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(protocol_config),
        })),
        ..Default::default()
    }
}

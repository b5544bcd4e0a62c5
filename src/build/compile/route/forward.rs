//! Routes that forward requests to a service.

use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3 as envoy;
use envoy_types::pb::envoy::config::route::v3::route_action::{
    ClusterSpecifier, HashPolicy, HostRewriteSpecifier, UpgradeConfig,
};
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::google::protobuf::{BoolValue, UInt64Value};

use crate::build::compile::route::matching::Methods;
use crate::build::compile::route::{hash, header, retry, rewrite, sticky};
use crate::build::compile::service::{self, WeightedOrder};
use crate::build::compile::{duration, uint32};
use crate::model::path_match::PathMatch;
use crate::model::route::action::Forward;
use crate::model::service::{HostHeader, RequestPolicy, Service};

/// Default of Envoy for the idle timeout of a stream.
const ENVOYS_IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// Returns `route` with forwarding to a service as its action.
pub(super) fn compile(
    route: envoy::Route,
    forward: &Forward,
    path: &PathMatch,
    methods: Methods,
) -> envoy::Route {
    let retries = forward.policy.retries.as_ref();
    let action = action(forward, methods);
    let action = match &forward.rewrite {
        Some(rewrite) => rewrite::rewritten(action, rewrite, path),
        None => action,
    };
    envoy::Route {
        // Requests with a larger body are silently not retried; Envoy's default is about 1 MiB.
        request_body_buffer_limit: retries.map(|retries| UInt64Value { value: retries.body }),
        request_headers_to_add: header::added(&forward.request_headers),
        request_headers_to_remove: forward.request_headers.remove.clone(),
        typed_per_filter_config: sticky::filters(forward.service.first().sticky.as_ref()),
        action: Some(envoy::route::Action::Route(action)),
        ..route
    }
}

fn action(forward: &Forward, methods: Methods) -> envoy::RouteAction {
    let Forward { service, policy, .. } = forward;
    let orders = service::orders(service);
    envoy::RouteAction {
        timeout: Some(duration(policy.timeout)),
        idle_timeout: idle_timeout(policy).map(duration),
        retry_policy: retry::retry_policy(policy, &orders, methods),
        cluster_specifier: Some(cluster_specifier(orders)),
        host_rewrite_specifier: host_rewrite(&service.host_header),
        hash_policy: hash_policy(service),
        upgrade_configs: upgrades(service),
        ..Default::default()
    }
}

fn cluster_specifier(mut orders: Vec<WeightedOrder<'_>>) -> ClusterSpecifier {
    if orders.len() == 1 {
        return ClusterSpecifier::Cluster(orders.remove(0).cluster);
    }
    let clusters = orders.into_iter().map(|order| ClusterWeight {
        name: order.cluster,
        weight: Some(uint32(order.weight)),
        ..Default::default()
    });
    ClusterSpecifier::WeightedClusters(envoy::WeightedCluster {
        clusters: clusters.collect(),
        ..Default::default()
    })
}

/// Returns the hash policies; empty unless a load balancer hashes requests. A balancer that picks at random
/// (weighted random, compiled to Maglev) would otherwise use them too.
fn hash_policy(service: &Service) -> Vec<HashPolicy> {
    let goes_by_request = service.upstreams().any(|upstream| upstream.load_balancer.is_by_request());
    let hash_by = service.hash_by.iter().filter(|_| goes_by_request);
    hash_by.map(hash::policy).collect()
}

/// Returns the idle timeout, if it must differ from Envoy's default: Envoy resets streams that are idle for 5
/// min, which must not happen before the request timeout. Zero for no limit.
fn idle_timeout(policy: &RequestPolicy) -> Option<Duration> {
    let unlimited = policy.timeout.is_zero();
    (unlimited || policy.timeout > ENVOYS_IDLE_TIMEOUT).then_some(policy.timeout)
}

fn host_rewrite(host_header: &HostHeader) -> Option<HostRewriteSpecifier> {
    match host_header {
        HostHeader::Keep => None,
        HostHeader::Target | HostHeader::TargetPort => {
            Some(HostRewriteSpecifier::AutoHostRewrite(BoolValue { value: true }))
        }
        HostHeader::Value(host) => Some(HostRewriteSpecifier::HostRewriteLiteral(host.clone())),
    }
}

/// Returns the upgrade settings of a route. Every listener accepts upgrades to WebSocket; a route can disable
/// them.
fn upgrades(service: &Service) -> Vec<UpgradeConfig> {
    let refused = UpgradeConfig {
        upgrade_type: "websocket".to_owned(),
        enabled: Some(BoolValue { value: false }),
        ..Default::default()
    };
    if service.websocket { Vec::new() } else { vec![refused] }
}

//! Routes to a service: where its requests go, and how.

use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3 as envoy;
use envoy_types::pb::envoy::config::route::v3::route_action::{
    ClusterSpecifier, HostRewriteSpecifier, UpgradeConfig,
};
use envoy_types::pb::google::protobuf::{BoolValue, UInt64Value};

use crate::compile::duration;
use crate::compile::route::matching::Methods;
use crate::compile::route::{hash, header, retry, rewrite, sticky};
use crate::model::route::PathMatch;
use crate::model::route::action::Forward;
use crate::model::service::{HostHeader, Policy, Service};

/// What Envoy lets a request be silent when it is told nothing.
const ENVOYS_IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// `route` as one to a service.
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
        // A body over this limit is silently not retried; Envoy's default is about 1 MiB.
        request_body_buffer_limit: retries.map(|retries| UInt64Value { value: retries.body }),
        request_headers_to_add: header::added(&forward.request_headers),
        request_headers_to_remove: forward.request_headers.remove.clone(),
        typed_per_filter_config: sticky::filters(forward.service.upstream.sticky.as_ref()),
        action: Some(envoy::route::Action::Route(action)),
        ..route
    }
}

fn action(forward: &Forward, methods: Methods) -> envoy::RouteAction {
    let Forward { service, policy, .. } = forward;
    envoy::RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(service.upstream.name.to_string())),
        timeout: Some(duration(policy.timeout)),
        idle_timeout: idle_timeout(policy).map(duration),
        retry_policy: retry::retry_policy(policy, &service.upstream, methods),
        host_rewrite_specifier: host_rewrite(&service.host_header),
        hash_policy: service.hash_by.iter().map(hash::policy).collect(),
        upgrade_configs: upgrades(service),
        ..Default::default()
    }
}

/// Envoy ends requests that are silent for long, however long they may take: it must not, before that time is up.
fn idle_timeout(policy: &Policy) -> Option<Duration> {
    let unlimited = policy.timeout.is_zero();
    (unlimited || policy.timeout > ENVOYS_IDLE_TIMEOUT).then_some(policy.timeout)
}

fn host_rewrite(host_header: &HostHeader) -> Option<HostRewriteSpecifier> {
    match host_header {
        HostHeader::Keep => None,
        HostHeader::Target => Some(HostRewriteSpecifier::AutoHostRewrite(BoolValue { value: true })),
        HostHeader::Value(host) => Some(HostRewriteSpecifier::HostRewriteLiteral(host.clone())),
    }
}

/// Every listener takes upgrades to WebSocket; a route may refuse them.
fn upgrades(service: &Service) -> Vec<UpgradeConfig> {
    let refused = UpgradeConfig {
        upgrade_type: "websocket".to_owned(),
        enabled: Some(BoolValue { value: false }),
        ..Default::default()
    };
    if service.websocket { Vec::new() } else { vec![refused] }
}

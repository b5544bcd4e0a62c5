//! Routes and the policies of their services as a route configuration.
//!
//! One route of ours becomes two of Envoy's for each of its paths: idempotent methods get the full recipe of
//! retries; the others are tried again only when the request surely reached no server, and no timer cuts a
//! try of theirs.

mod matching;
mod retry;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3 as envoy;
use envoy_types::pb::envoy::config::route::v3::route_action::{ClusterSpecifier, UpgradeConfig};
use envoy_types::pb::google::protobuf::{BoolValue, UInt64Value};

use crate::compile::duration;
use crate::compile::route::matching::Methods;
use crate::config::document::MethodsOnce;
use crate::memo::Shared;
use crate::model::name::Name;
use crate::model::route::{HostMatch, PathMatch, Route};
use crate::snapshot::Resource;

/// All that a route configuration depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// Whose name it has.
    pub listener: Name,
    /// Those that a fleet serves on it.
    pub routes: Vec<Shared<Route>>,
}

/// The route configuration of a listener, which has the listener's name.
pub fn compile(Input { listener, routes }: &Input) -> Resource {
    let routes: Vec<&Route> = routes.iter().map(|route| &*route.0).collect();
    let hosts: BTreeSet<&HostMatch> = routes.iter().flat_map(|route| &route.hosts).collect();
    let configuration = envoy::RouteConfiguration {
        name: listener.to_string(),
        virtual_hosts: hosts.into_iter().map(|host| virtual_host(host, &routes)).collect(),
        ignore_port_in_host_matching: true,
        ..Default::default()
    };
    let mut resource = Resource::new(listener.as_str(), &configuration);
    let clusters: BTreeSet<&str> = routes.iter().map(|route| route.service.upstream.name.as_str()).collect();
    resource.clusters = clusters.into_iter().map(Arc::from).collect();
    resource
}

/// One path of a route on the host by which it was chosen.
struct Candidate<'a> {
    host: &'a HostMatch,
    path: &'a PathMatch,
    route: &'a Route,
}

impl Candidate<'_> {
    /// Smaller wins: the host, the path, then what more is asked for, then the name.
    fn rank(&self) -> impl Ord + use<> {
        let kind = match self.path {
            PathMatch::Exact(_) => 0,
            PathMatch::Prefix(_) => 1,
            PathMatch::Regex(_) => 2,
        };
        let Route { methods, headers, query, name, .. } = self.route;
        let named = (Reverse(methods.len()), Reverse(headers.len()), Reverse(query.len()));
        (host_rank(self.host), kind, Reverse(self.path.length()), named, name.clone(), self.path.clone())
    }
}

/// Smaller wins: an exact host, then the longest wildcard, then any.
fn host_rank(host: &HostMatch) -> (u8, Reverse<usize>) {
    match host {
        HostMatch::Exact(_) => (0, Reverse(0)),
        HostMatch::Suffix(suffix) => (1, Reverse(suffix.len())),
        HostMatch::Any => (2, Reverse(0)),
    }
}

/// A host with the routes that name it, and after them those of wider hosts.
fn virtual_host(host: &HostMatch, routes: &[&Route]) -> envoy::VirtualHost {
    let mut candidates: Vec<Candidate<'_>> = routes
        .iter()
        .filter_map(|route| {
            let covering =
                route.hosts.iter().filter(|own| own.covers(host)).min_by_key(|own| host_rank(own))?;
            Some((covering, *route))
        })
        .flat_map(|(host, route)| route.paths.iter().map(move |path| Candidate { host, path, route }))
        .collect();
    candidates.sort_by_cached_key(|candidate| candidate.rank());
    envoy::VirtualHost {
        name: host.to_string(),
        domains: vec![host.to_string()],
        routes: candidates
            .iter()
            .flat_map(|candidate| envoy_routes(candidate.path, candidate.route))
            .collect(),
        ..Default::default()
    }
}

fn envoy_routes(path: &PathMatch, route: &Route) -> Vec<envoy::Route> {
    let alike = match &route.policy.retries {
        Some(retries) => retries.methods_once == MethodsOnce::Always,
        None => true,
    };
    let kinds: &[Methods] = if alike { &[Methods::All] } else { &[Methods::Idempotent, Methods::Others] };
    kinds.iter().filter_map(|methods| envoy_route(path, route, *methods)).collect()
}

fn envoy_route(path: &PathMatch, route: &Route, methods: Methods) -> Option<envoy::Route> {
    let body = route.policy.retries.as_ref().map(|retries| UInt64Value { value: retries.body });
    Some(envoy::Route {
        name: route.name.to_string(),
        r#match: Some(matching::route_match(path, route, methods)?),
        // A body over this limit is silently not retried; Envoy's default is about 1 MiB.
        request_body_buffer_limit: body,
        action: Some(envoy::route::Action::Route(route_action(route, methods))),
        ..Default::default()
    })
}

fn route_action(route: &Route, methods: Methods) -> envoy::RouteAction {
    let upstream = &route.service.upstream;
    let no_websocket = || UpgradeConfig {
        upgrade_type: "websocket".to_owned(),
        enabled: Some(BoolValue { value: false }),
        ..Default::default()
    };
    envoy::RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(upstream.name.to_string())),
        timeout: Some(duration(route.policy.timeout)),
        retry_policy: retry::retry_policy(&route.policy, upstream, methods),
        upgrade_configs: (!route.service.websocket).then(no_websocket).into_iter().collect(),
        ..Default::default()
    }
}

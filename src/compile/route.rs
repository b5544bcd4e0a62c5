//! Routes and the policies of their services as a route configuration.
//!
//! One route of ours becomes two of Envoy's for each of its paths: idempotent methods get the full recipe of
//! retries; the others are tried again only when the request surely reached no server, and no timer cuts a
//! try of theirs.

mod answer;
mod forward;
mod hash;
mod header;
mod matching;
pub mod retry;
mod rewrite;
mod sticky;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3 as envoy;

use crate::compile::route::matching::Methods;
use crate::compile::service;
use crate::config::document::MethodsOnce;
use crate::memo::Shared;
use crate::model::name::Name;
use crate::model::route::action::Action;
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
        max_direct_response_body_size_bytes: answer::longest_body(&routes),
        ..Default::default()
    };
    let mut resource = Resource::new(listener.as_str(), &configuration);
    let forwards = routes.iter().filter_map(|route| route.forward());
    let clusters: BTreeSet<Arc<str>> =
        forwards.flat_map(|forward| service::clusters(&forward.service)).collect();
    resource.clusters = clusters.into_iter().collect();
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
    let alike = match route.forward().and_then(|forward| forward.policy.retries.as_ref()) {
        Some(retries) => retries.methods_once == MethodsOnce::Always,
        None => true,
    };
    let kinds: &[Methods] = if alike { &[Methods::All] } else { &[Methods::Idempotent, Methods::Others] };
    kinds.iter().filter_map(|methods| envoy_route(path, route, *methods)).collect()
}

fn envoy_route(path: &PathMatch, route: &Route, methods: Methods) -> Option<envoy::Route> {
    let matched = envoy::Route {
        name: route.name.to_string(),
        r#match: Some(matching::route_match(path, route, methods)?),
        response_headers_to_add: header::added(&route.response_headers),
        response_headers_to_remove: route.response_headers.remove.clone(),
        ..Default::default()
    };
    Some(match &route.action {
        Action::Forward(forward) => forward::compile(matched, forward, path, methods),
        Action::Redirect(redirect) => answer::redirect(matched, redirect),
        Action::Respond(respond) => answer::respond(matched, respond),
    })
}

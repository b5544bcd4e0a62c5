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
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3 as envoy;

use crate::compile::route::matching::Methods;
use crate::compile::service;
use crate::config::document::service::MethodsOnce;
use crate::memo::Shared;
use crate::model::name::{Name, Scope};
use crate::model::route::action::Action;
use crate::model::route::{HostMatch, PathMatch, Route};
use crate::snapshot::Resource;

/// All that a route configuration depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// Whose name it has.
    pub listener: Name,
    /// Of the routes that a fleet serves on it.
    pub parts: Vec<Shared<Part>>,
}

/// What a route adds to a route configuration. It is the same for as long as only such things of its service change
/// that no route shows, as nearly all of its targets are.
#[derive(Debug, PartialEq)]
pub struct Part {
    name: Name,
    listeners: Scope,
    fleets: Scope,
    hosts: Vec<HostMatch>,
    /// Each path with the routes of Envoy's that it becomes.
    paths: Vec<(PathMatch, Vec<envoy::Route>)>,
    /// How many methods, headers and parameters it asks for.
    asks_for: (usize, usize, usize),
    /// In bytes, of the answer that it gives itself.
    body_length: usize,
    /// Those that must be there before requests go there.
    clusters: Vec<Arc<str>>,
}

impl Part {
    /// The part of a route.
    pub fn new(route: &Route) -> Self {
        let Route { name, listeners, fleets, hosts, methods, headers, query, .. } = route;
        let forward = route.forward();
        Self {
            name: name.clone(),
            listeners: listeners.clone(),
            fleets: fleets.clone(),
            hosts: hosts.clone(),
            paths: route.paths.iter().map(|path| (path.clone(), envoy_routes(path, route))).collect(),
            asks_for: (methods.len(), headers.len(), query.len()),
            body_length: answer::body_length(route),
            clusters: forward.map(|forward| service::clusters(&forward.service)).unwrap_or_default(),
        }
    }

    /// True when a fleet serves it on one of its listeners.
    pub fn is_served(&self, fleet: &Name, listener: &Name) -> bool {
        self.fleets.includes(fleet) && self.listeners.includes(listener)
    }
}

/// The route configuration of a listener, which has the listener's name.
pub fn compile(Input { listener, parts }: &Input) -> Resource {
    let hosts: BTreeSet<&HostMatch> = parts.iter().flat_map(|part| &part.0.hosts).collect();
    let mut by_host: HashMap<&HostMatch, Vec<&Part>> = HashMap::new();
    for Shared(part) in parts {
        part.hosts.iter().for_each(|host| by_host.entry(host).or_default().push(part));
    }
    let configuration = envoy::RouteConfiguration {
        name: listener.to_string(),
        virtual_hosts: hosts.into_iter().map(|host| virtual_host(host, &by_host)).collect(),
        ignore_port_in_host_matching: true,
        max_direct_response_body_size_bytes: answer::longest_body(parts.iter().map(|it| it.0.body_length)),
        ..Default::default()
    };
    let mut resource = Resource::new(listener.as_str(), &configuration);
    let clusters: BTreeSet<&Arc<str>> = parts.iter().flat_map(|part| &part.0.clusters).collect();
    resource.clusters = clusters.into_iter().cloned().collect();
    resource
}

/// One path of a route on the host by which it was chosen.
struct Candidate<'a> {
    host: &'a HostMatch,
    path: &'a PathMatch,
    part: &'a Part,
    routes: &'a [envoy::Route],
}

impl Candidate<'_> {
    /// Smaller wins: the host, the path, then what more is asked for, then the name.
    fn rank(&self) -> impl Ord + use<> {
        let kind = match self.path {
            PathMatch::Exact(_) => 0,
            PathMatch::Prefix(_) => 1,
            PathMatch::Regex(_) => 2,
        };
        let longest = Reverse(self.path.length());
        let Part { name, asks_for, .. } = self.part;
        (host_rank(self.host), kind, longest, Reverse(*asks_for), name.clone(), self.path.clone())
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
fn virtual_host(host: &HostMatch, by_host: &HashMap<&HostMatch, Vec<&Part>>) -> envoy::VirtualHost {
    let mut seen = HashSet::new();
    let mut candidates: Vec<Candidate<'_>> = host
        .covering()
        .iter()
        .filter_map(|covering| by_host.get_key_value(covering))
        .flat_map(|(host, parts)| parts.iter().map(move |part| (*host, *part)))
        // A route that names several of them stands where the narrowest does.
        .filter(|(_, part)| seen.insert(&part.name))
        .flat_map(|(host, part)| {
            part.paths.iter().map(move |(path, routes)| Candidate { host, path, part, routes })
        })
        .collect();
    candidates.sort_by_cached_key(|candidate| candidate.rank());
    envoy::VirtualHost {
        name: host.to_string(),
        domains: vec![host.to_string()],
        routes: candidates.iter().flat_map(|candidate| candidate.routes).cloned().collect(),
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

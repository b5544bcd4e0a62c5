//! Route configurations: routes with the policies of their services.
//!
//! A route becomes two Envoy routes for each of its paths, or one if all methods are retried alike. Requests
//! of idempotent methods get the full retry policy. Other requests are by default retried only if they surely
//! reached no server, and have no try timeout.

mod answer;
mod forward;
mod hash;
mod header;
mod matching;
pub mod retry;
mod rewrite;
mod sticky;

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3 as envoy;

use crate::build::compile::route::matching::Methods;
use crate::build::compile::service;
use crate::build::snapshot::resource::Resource;
use crate::config::document::service::MethodsOnce;
use crate::memo::ArcEq;
use crate::model::host_match::HostMatch;
use crate::model::name::{Name, Scope};
use crate::model::path_match::PathMatch;
use crate::model::route::Route;
use crate::model::route::action::RouteAction;

/// Everything that a route configuration depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteConfigInput {
    /// Listener whose name the configuration has.
    pub listener: Name,
    /// Contributions of the routes that the fleet serves on this listener.
    pub fragments: Vec<ArcEq<RouteFragment>>,
}

/// Contribution of one route to a route configuration. It stays equal when properties of the service change
/// that do not show in a route, as do nearly all properties of its targets.
#[derive(Debug, PartialEq)]
pub struct RouteFragment {
    name: Name,
    listeners: Scope,
    fleets: Scope,
    rank: i64,
    hosts: Vec<HostMatch>,
    /// Paths, each with the Envoy routes that it becomes.
    paths: Vec<(PathMatch, Vec<envoy::Route>)>,
    /// Numbers of required methods, headers and query parameters.
    condition_counts: (usize, usize, usize),
    /// Length of the body of a fixed response, in bytes; 0 for other actions.
    body_length: usize,
    /// Clusters that must exist before requests are sent to them.
    clusters: Vec<Arc<str>>,
}

impl RouteFragment {
    /// Compiles the contribution of a route.
    pub fn new(route: &Route) -> Self {
        let Route { name, listeners, fleets, rank, hosts, methods, headers, query, .. } = route;
        let forward = route.forward();
        Self {
            name: name.clone(),
            listeners: listeners.clone(),
            fleets: fleets.clone(),
            rank: *rank,
            hosts: hosts.clone(),
            paths: route.paths.iter().map(|path| (path.clone(), envoy_routes(path, route))).collect(),
            condition_counts: (methods.len(), headers.len(), query.len()),
            body_length: answer::body_length(route),
            clusters: forward.map(|forward| service::clusters(&forward.service)).unwrap_or_default(),
        }
    }

    /// Returns true if `fleet` serves the route on `listener`.
    pub fn is_served(&self, fleet: &Name, listener: &Name) -> bool {
        self.fleets.includes(fleet) && self.listeners.includes(listener)
    }
}

/// Compiles the route configuration of a listener. It has the listener's name.
pub fn compile(RouteConfigInput { listener, fragments }: &RouteConfigInput) -> Resource {
    let mut by_host: BTreeMap<&HostMatch, Vec<&RouteFragment>> = BTreeMap::new();
    for ArcEq(fragment) in fragments {
        fragment.hosts.iter().for_each(|host| by_host.entry(host).or_default().push(fragment));
    }
    let configuration = envoy::RouteConfiguration {
        name: listener.to_string(),
        virtual_hosts: by_host.keys().map(|host| virtual_host(host, &by_host)).collect(),
        ignore_port_in_host_matching: true,
        max_direct_response_body_size_bytes: answer::longest_body(
            fragments.iter().map(|it| it.0.body_length),
        ),
        ..Default::default()
    };
    let mut resource = Resource::new(listener.as_str(), &configuration);
    let clusters: BTreeSet<&Arc<str>> = fragments.iter().flat_map(|fragment| &fragment.0.clusters).collect();
    resource.clusters = clusters.into_iter().cloned().collect();
    resource
}

/// One path of a route, with the host of the route that covers the virtual host.
struct PathCandidate<'a> {
    host: &'a HostMatch,
    path: &'a PathMatch,
    fragment: &'a RouteFragment,
    routes: &'a [envoy::Route],
    /// True if the host covers only some hosts of the virtual host.
    is_partial: bool,
}

impl PathCandidate<'_> {
    /// Returns the sort key; the smallest wins: by rank, then host, then path, then number of conditions, then name.
    fn sort_key(&self) -> impl Ord + use<> {
        let (kind, is_wider) = match self.path {
            PathMatch::Exact(_) => (0, false),
            PathMatch::Prefix(_) => (1, false),
            PathMatch::StartsWith(_) => (1, true),
            PathMatch::Regex(_) => (2, false),
        };
        let RouteFragment { name, rank, condition_counts, .. } = self.fragment;
        let by_path = (kind, Reverse(self.path.length()), is_wider);
        let by_name = (name.clone(), self.path.clone());
        (Reverse(*rank), host_order(self.host), by_path, Reverse(*condition_counts), by_name)
    }
}

/// Returns the routes of a candidate. A host that covers only some of the virtual host's becomes a condition.
fn conditioned<'a>(candidate: &PathCandidate<'a>) -> Cow<'a, [envoy::Route]> {
    match candidate.host {
        HostMatch::Prefix(prefix) if candidate.is_partial => {
            let under = |route: &envoy::Route| matching::under_authority(route.clone(), prefix);
            candidate.routes.iter().map(under).collect()
        }
        _ => Cow::Borrowed(candidate.routes),
    }
}

/// Returns the sort key of a host; the smallest wins: an exact host, then the longest wildcard on the left, then the
/// longest on the right, then any host. Envoy chooses virtual hosts in this order.
fn host_order(host: &HostMatch) -> (u8, Reverse<usize>) {
    match host {
        HostMatch::Exact(_) => (0, Reverse(0)),
        HostMatch::Suffix(suffix) => (1, Reverse(suffix.len())),
        HostMatch::Prefix(prefix) => (2, Reverse(prefix.len())),
        HostMatch::Any => (3, Reverse(0)),
    }
}

/// Returns the virtual host of `host`: the routes that name it, then those of wider hosts that cover it. A wildcard on
/// the left and one on the right have hosts in common, which Envoy takes to the virtual host of the former.
fn virtual_host(host: &HostMatch, by_host: &BTreeMap<&HostMatch, Vec<&RouteFragment>>) -> envoy::VirtualHost {
    let is_suffix = matches!(host, HostMatch::Suffix(_));
    let prefixes = by_host.keys().filter(|other| is_suffix && matches!(other, HostMatch::Prefix(_)));
    let covering = host.covering();
    let covering =
        covering.iter().filter_map(|covering| by_host.get_key_value(covering).map(|(host, _)| host));
    let mut hosts: Vec<(&HostMatch, bool)> =
        covering.map(|host| (*host, false)).chain(prefixes.map(|host| (*host, true))).collect();
    hosts.sort_by_key(|(host, _)| host_order(host));
    let mut seen = HashSet::new();
    let mut candidates: Vec<PathCandidate<'_>> = hosts
        .into_iter()
        .flat_map(|(host, is_partial)| {
            by_host[host].iter().map(move |fragment| (host, is_partial, *fragment))
        })
        // A route that names several covering hosts counts once, with the narrowest of them.
        .filter(|(_, is_partial, fragment)| match is_partial {
            true => !seen.contains(&fragment.name),
            false => seen.insert(&fragment.name),
        })
        .flat_map(|(host, is_partial, fragment)| {
            let candidate = move |(path, routes)| PathCandidate { host, path, fragment, routes, is_partial };
            fragment.paths.iter().map(|(path, routes)| (path, routes.as_slice())).map(candidate)
        })
        .collect();
    candidates.sort_by_cached_key(PathCandidate::sort_key);
    envoy::VirtualHost {
        name: host.to_string(),
        domains: vec![host.to_string()],
        routes: candidates.iter().flat_map(|candidate| conditioned(candidate).into_owned()).collect(),
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
        RouteAction::Forward(forward) => forward::compile(matched, forward, path, methods),
        RouteAction::Redirect(redirect) => answer::redirect(matched, redirect),
        RouteAction::Respond(respond) => answer::respond(matched, respond),
    })
}

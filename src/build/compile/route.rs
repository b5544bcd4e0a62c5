//! Route configurations: routes with the policies of their services.
//!
//! A route becomes two Envoy routes for each of its paths, or one if all methods are retried alike. Requests
//! of idempotent methods get the full retry policy. Other requests are by default retried only if they surely
//! reached no server, and have no try timeout.
//!
//! A virtual host must have all routes of its hosts, those of wider hosts included. Hosts with the same routes share
//! one, named after the first of them, so that a route of many hosts and many paths costs their sum and not their
//! product. An Envoy route that stands in several virtual hosts is encoded once.

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
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ptr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3 as envoy;
use prost::Message as _;

use crate::build::compile::route::matching::Methods;
use crate::build::compile::service;
use crate::build::snapshot::resource::Resource;
use crate::config::document::service::MethodsOnce;
use crate::envoy::{ResourceType, canonical};
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
    /// Paths, each with the encoded Envoy routes that it becomes.
    paths: Vec<(PathMatch, Vec<Vec<u8>>)>,
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

/// Contributions of routes by their scope, so that a listener with few routes costs only these.
pub struct FragmentsByScope<'a> {
    /// Contributions without a scope.
    everywhere: Vec<&'a Arc<RouteFragment>>,
    by_listener: HashMap<&'a Name, Vec<&'a Arc<RouteFragment>>>,
    /// Contributions for certain fleets and any listener.
    by_fleet: HashMap<&'a Name, Vec<&'a Arc<RouteFragment>>>,
}

impl<'a> FragmentsByScope<'a> {
    /// Sorts contributions, which are in the order of their names.
    pub fn new(fragments: impl Iterator<Item = &'a Arc<RouteFragment>>) -> Self {
        let (everywhere, by_listener, by_fleet) = Default::default();
        let mut sorted = Self { everywhere, by_listener, by_fleet };
        for fragment in fragments {
            let (lists, names) = match (&fragment.listeners, &fragment.fleets) {
                (Scope::Only(names), _) => (&mut sorted.by_listener, names),
                (Scope::All, Scope::Only(names)) => (&mut sorted.by_fleet, names),
                (Scope::All, Scope::All) => {
                    sorted.everywhere.push(fragment);
                    continue;
                }
            };
            // A scope may name something twice.
            for name in names.iter().collect::<BTreeSet<_>>() {
                lists.entry(name).or_default().push(fragment);
            }
        }
        sorted
    }

    /// Returns the contributions that `fleet` serves on `listener`, by name.
    pub fn served(&self, fleet: &Name, listener: &Name) -> impl Iterator<Item = &'a Arc<RouteFragment>> {
        let here = self.by_listener.get(listener).into_iter().chain(self.by_fleet.get(fleet));
        let scoped = here.flatten().copied().filter(|fragment| fragment.is_served(fleet, listener));
        let mut served: Vec<&Arc<RouteFragment>> = scoped.chain(self.everywhere.iter().copied()).collect();
        served.sort_by(|one, other| one.name.cmp(&other.name));
        served.into_iter()
    }
}

/// Compiles the route configuration of a listener. It has the listener's name.
pub fn compile(RouteConfigInput { listener, fragments }: &RouteConfigInput) -> Resource {
    let longest_body = answer::longest_body(fragments.iter().map(|it| it.0.body_length));
    // The virtual hosts have number 2, and so stand between the name and all other fields.
    let name = envoy::RouteConfiguration { name: listener.to_string(), ..Default::default() };
    let settings = envoy::RouteConfiguration {
        ignore_port_in_host_matching: true,
        max_direct_response_body_size_bytes: longest_body,
        ..Default::default()
    };
    let mut body = canonical::encode(&name);
    for (hosts, levels) in shared_hosts(fragments) {
        canonical::write_field(2, &virtual_host(&hosts, &levels), &mut body);
    }
    body.extend(canonical::encode(&settings));
    let mut resource = Resource::encoded(ResourceType::Route, listener.as_str(), &body);
    let clusters: BTreeSet<&Arc<str>> = fragments.iter().flat_map(|fragment| &fragment.0.clusters).collect();
    resource.clusters = clusters.into_iter().cloned().collect();
    resource
}

/// Routes of a virtual host that name one of the hosts that cover it.
struct HostLevel<'a> {
    /// Beginning of the covering host, if that covers only some hosts of the virtual host.
    partial: Option<&'a str>,
    fragments: Vec<&'a RouteFragment>,
}

/// Identity of a level: its condition and its routes.
type LevelKey<'a> = (Option<&'a str>, Vec<*const RouteFragment>);

/// Returns the hosts of all routes, each with its levels, the narrowest first. Hosts with the same routes are together,
/// at the place of the first.
fn shared_hosts(fragments: &[ArcEq<RouteFragment>]) -> Vec<(Vec<&HostMatch>, Vec<HostLevel<'_>>)> {
    let mut by_host: BTreeMap<&HostMatch, Vec<&RouteFragment>> = BTreeMap::new();
    for ArcEq(fragment) in fragments {
        fragment.hosts.iter().for_each(|host| by_host.entry(host).or_default().push(fragment));
    }
    let prefixes = by_host.keys().filter_map(|host| match host {
        HostMatch::Prefix(prefix) => Some((*host, prefix.as_str())),
        _ => None,
    });
    let prefixes: Vec<(&HostMatch, &str)> = prefixes.collect();
    let mut shared: Vec<(Vec<&HostMatch>, Vec<HostLevel<'_>>)> = Vec::new();
    let mut known: HashMap<Vec<LevelKey<'_>>, usize> = HashMap::new();
    for host in by_host.keys() {
        let levels = levels(host, &by_host, &prefixes);
        let pointers = |level: &HostLevel<'_>| level.fragments.iter().map(|it| ptr::from_ref(*it)).collect();
        let key = levels.iter().map(|level| (level.partial, pointers(level))).collect();
        match known.entry(key) {
            Entry::Occupied(same) => shared[*same.get()].0.push(host),
            Entry::Vacant(new) => {
                new.insert(shared.len());
                shared.push((vec![host], levels));
            }
        }
    }
    shared
}

/// Returns the routes that name `host`, then those of wider hosts that cover it. A wildcard on the left and one on the
/// right have hosts in common, which Envoy takes to the virtual host of the former.
fn levels<'a>(
    host: &HostMatch,
    by_host: &BTreeMap<&'a HostMatch, Vec<&'a RouteFragment>>,
    prefixes: &[(&'a HostMatch, &'a str)],
) -> Vec<HostLevel<'a>> {
    let prefixes = if matches!(host, HostMatch::Suffix(_)) { prefixes } else { &[] };
    let prefixes = prefixes.iter().map(|(host, prefix)| (*host, Some(*prefix)));
    let covering = host.covering();
    let covering = covering.iter().filter_map(|it| by_host.get_key_value(it).map(|(host, _)| (*host, None)));
    let mut hosts: Vec<(&HostMatch, Option<&str>)> = covering.chain(prefixes).collect();
    hosts.sort_by_key(|(host, _)| host_order(host));
    let mut seen = HashSet::new();
    let levels = hosts.into_iter().map(|(host, partial)| {
        // A route that names several covering hosts counts once, with the narrowest of them.
        let is_new = |fragment: &&'a RouteFragment| match partial {
            Some(_) => !seen.contains(&fragment.name),
            None => seen.insert(&fragment.name),
        };
        HostLevel { partial, fragments: by_host[host].iter().copied().filter(is_new).collect() }
    });
    levels.filter(|level| !level.fragments.is_empty()).collect()
}

/// One path of a route in a virtual host.
struct PathCandidate<'a> {
    /// Position of the route's host among those that cover the virtual host, the narrowest first.
    level: usize,
    path: &'a PathMatch,
    fragment: &'a RouteFragment,
    routes: &'a [Vec<u8>],
    /// Beginning of the route's host, if that covers only some hosts of the virtual host.
    partial: Option<&'a str>,
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
        (Reverse(*rank), self.level, by_path, Reverse(*condition_counts), by_name)
    }
}

/// Returns the encoded routes of a candidate. A host that covers only some of the virtual host's becomes a condition.
fn conditioned<'a>(candidate: &PathCandidate<'a>) -> Cow<'a, [Vec<u8>]> {
    let Some(prefix) = candidate.partial else { return Cow::Borrowed(candidate.routes) };
    let under = |route: &Vec<u8>| {
        let route = envoy::Route::decode(route.as_slice()).expect("it was encoded here");
        canonical::encode(&matching::under_authority(route, prefix))
    };
    candidate.routes.iter().map(under).collect()
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

/// Returns the encoded virtual host of hosts that have these routes.
fn virtual_host(hosts: &[&HostMatch], levels: &[HostLevel<'_>]) -> Vec<u8> {
    let mut candidates: Vec<PathCandidate<'_>> = levels
        .iter()
        .enumerate()
        .flat_map(|(level, covering)| covering.fragments.iter().map(move |it| (level, covering.partial, *it)))
        .flat_map(|(level, partial, fragment)| {
            let candidate = move |(path, routes)| PathCandidate { level, partial, path, fragment, routes };
            fragment.paths.iter().map(|(path, routes)| (path, routes.as_slice())).map(candidate)
        })
        .collect();
    candidates.sort_by_cached_key(PathCandidate::sort_key);
    let domains: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    let name = domains[0].clone();
    let mut body = canonical::encode(&envoy::VirtualHost { name, domains, ..Default::default() });
    for candidate in &candidates {
        for route in conditioned(candidate).iter() {
            canonical::write_field(3, route, &mut body);
        }
    }
    body
}

fn envoy_routes(path: &PathMatch, route: &Route) -> Vec<Vec<u8>> {
    let alike = match route.forward().and_then(|forward| forward.policy.retries.as_ref()) {
        Some(retries) => retries.methods_once == MethodsOnce::Always,
        None => true,
    };
    let kinds: &[Methods] = if alike { &[Methods::All] } else { &[Methods::Idempotent, Methods::Others] };
    let routes = kinds.iter().filter_map(|methods| envoy_route(path, route, *methods));
    routes.map(|route| canonical::encode(&route)).collect()
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
        RouteAction::Redirect(redirect) => answer::redirect(matched, redirect, path),
        RouteAction::Respond(respond) => answer::respond(matched, respond),
    })
}

#[cfg(test)]
mod tests;

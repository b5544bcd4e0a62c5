//! Routes for requests: matchers and an action.

pub mod action;
pub mod rewrite;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::config::code;
use crate::config::document::{self, Declared};
use crate::model::header::{self, HeaderChanges};
use crate::model::host_match::{self, HostMatch};
use crate::model::matching::StringMatch;
use crate::model::name::{Name, Scope};
use crate::model::path_match::{self, PathMatch};
use crate::model::place::{FaultCollector, FaultPlace};
use crate::model::route::action::{Forward, RouteAction};
use crate::model::service::Service;

/// Maximum number of combinations of a host and a path of one route; above it, ten for each host and path.
const MAX_MATCHES: usize = 10_000;

/// Matcher of requests, and the action on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Unique among routes.
    pub name: Name,
    /// Listeners that serve it.
    pub listeners: Scope,
    /// Fleets that serve it.
    pub fleets: Scope,
    /// Precedence: larger first, before everything else.
    pub rank: i64,
    /// Hosts, any of which must match; at least one.
    pub hosts: Vec<HostMatch>,
    /// Paths, any of which must match; at least one.
    pub paths: Vec<PathMatch>,
    /// Methods, any of which must match; empty for any method.
    pub methods: Vec<String>,
    /// Headers, all of which must match, by name in lower case.
    pub headers: BTreeMap<String, StringMatch>,
    /// Query parameters, all of which must match, by name.
    pub query: BTreeMap<String, StringMatch>,
    /// Action on matching requests.
    pub action: RouteAction,
    /// Changes to the headers of responses, both of targets and of Envoy itself.
    pub response_headers: HeaderChanges,
}

impl Route {
    /// True if both routes match the same requests on the same listeners and fleets, with the same rank.
    pub fn matches_the_same(&self, other: &Self) -> bool {
        self.rank == other.rank
            && (&self.hosts, &self.paths) == (&other.hosts, &other.paths)
            && (&self.methods, &self.headers, &self.query) == (&other.methods, &other.headers, &other.query)
            && (&self.listeners, &self.fleets) == (&other.listeners, &other.fleets)
    }

    /// Returns the forwarding, if the route uses a service.
    pub fn forward(&self) -> Option<&Forward> {
        match &self.action {
            RouteAction::Forward(forward) => Some(forward),
            RouteAction::Redirect(_) | RouteAction::Respond(_) => None,
        }
    }
}

/// Resolved references of a route, available before its own fields are resolved.
pub(crate) struct References {
    pub(crate) name: Name,
    pub(crate) listeners: Scope,
    pub(crate) fleets: Scope,
    /// Service; `None` if the route has none or names it wrongly.
    pub(crate) service: Option<Arc<Service>>,
}

/// Resolves a declared route whose references are resolved. Returns `None` for a route without an action or with
/// too many matches, but reports its other faults.
pub(crate) fn resolve(
    references: References,
    place: &FaultPlace<'_>,
    route: &Declared<document::route::Route>,
    faults: &mut FaultCollector,
) -> Option<Route> {
    let References { name, listeners, fleets, service } = references;
    let route = &route.entity;
    let rank = route.rank.unwrap_or(document::route::Route::RANK);
    let hosts = host_match::resolve(&place.key("hosts"), &route.hosts, faults);
    let paths = path_match::resolve(&place.key("paths"), &route.paths, faults);
    let methods = methods(&place.key("methods"), &route.methods, faults);
    let headers = headers(&place.key("headers"), &route.headers, faults);
    let query = matches(&place.key("query"), &route.query, faults);
    let action = action::resolve(place, route, service, &paths, faults);
    let response_headers =
        HeaderChanges::resolve(&place.key("response_headers"), &route.response_headers, faults);
    let matches = hosts.len().saturating_mul(paths.len());
    // Many hosts with a few paths, and the other way round, are no product.
    let limit = MAX_MATCHES.max(10 * (hosts.len() + paths.len()));
    if matches > limit {
        let message = format!("{} hosts with {} paths each are {matches} matches", hosts.len(), paths.len());
        let help = format!("such a route has at most {limit}: name fewer hosts or paths, or split the route");
        faults.error(&place.key("paths"), code::TOO_MANY_MATCHES, message, help);
        return None;
    }
    let action = action?;
    Some(Route {
        name,
        listeners,
        fleets,
        rank,
        hosts,
        paths,
        methods,
        headers,
        query,
        action,
        response_headers,
    })
}

fn methods(place: &FaultPlace<'_>, declared: &[String], faults: &mut FaultCollector) -> Vec<String> {
    let mut methods: BTreeSet<&String> = BTreeSet::new();
    for (index, method) in declared.iter().enumerate() {
        if method.is_empty() || !method.chars().all(|c| c.is_ascii_uppercase() || c == '-') {
            let help = "methods are written in capitals, such as GET".to_owned();
            faults.wrong(&place.index(index), format!("`{method}` is not a method"), help);
        } else {
            methods.insert(method);
        }
    }
    methods.into_iter().cloned().collect()
}

fn headers(
    place: &FaultPlace<'_>,
    declared: &BTreeMap<String, String>,
    faults: &mut FaultCollector,
) -> BTreeMap<String, StringMatch> {
    for name in declared.keys() {
        header::name(&place.key(name), name, faults);
    }
    header::by_lower_case(place, &matches(place, declared, faults), faults)
}

fn matches(
    place: &FaultPlace<'_>,
    declared: &BTreeMap<String, String>,
    faults: &mut FaultCollector,
) -> BTreeMap<String, StringMatch> {
    let mut matches = BTreeMap::new();
    for (name, text) in declared {
        match StringMatch::parse(text) {
            Ok(expected) => {
                matches.insert(name.clone(), expected);
            }
            Err(error) => {
                faults.wrong(&place.key(name), format!("`{text}` is not a valid regex: {error}"), None)
            }
        }
    }
    matches
}

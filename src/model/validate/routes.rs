//! Validation of routes for requests.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use imbl::OrdMap;

use crate::config::code;
use crate::config::document::{self, Declared, Kind};
use crate::memo::ArcEq;
use crate::model::documents::Site;
use crate::model::host_match::HostMatch;
use crate::model::matching::StringMatch;
use crate::model::name::{Name, Scope};
use crate::model::path_match::PathMatch;
use crate::model::place::FaultPlace;
use crate::model::route::{self, Route};
use crate::model::service::Service;
use crate::model::validate::context::{Named, Validation};
use crate::model::validate::outcome::{EntityOutcome, alone};
use crate::model::validate::overlap::DoubleScopeIndex;
use crate::model::validate::protocols;

/// Maximum number of matches that narrower hosts repeat of wider ones, in a whole config.
const MAX_REPEATED: usize = 250_000;

/// Names of all fleets, the default one too, and of all listeners.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Scopes {
    pub(super) fleets: BTreeSet<Name>,
    pub(super) listeners: BTreeSet<Name>,
}

/// All inputs of a route.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RouteInput {
    pub(super) name: Name,
    pub(super) site: Site,
    pub(super) listeners: Scope,
    pub(super) fleets: Scope,
    pub(super) service: Option<ArcEq<Service>>,
}

impl RouteInput {
    /// Collects the input of a declared route for requests. Reports names that do not exist.
    pub(super) fn new(
        validation: &mut Validation<'_>,
        named: &Named<'_, document::route::Route>,
        scopes: &Scopes,
        services: &OrdMap<Name, Arc<Service>>,
    ) -> Self {
        let (place, entity) = (named.place(), &named.declared.entity);
        let listeners =
            validation.scope(&place.key("listeners"), Kind::Listener, &entity.listeners, &scopes.listeners);
        let fleets = validation.fleets(&place, &entity.fleets, &scopes.fleets);
        let service = entity.service.as_deref();
        let service = service.and_then(|it| validation.service_of(&place, Some(it), services));
        let (name, site) = (named.name.clone(), named.site());
        Self { name, site, listeners, fleets, service: service.map(ArcEq) }
    }

    pub(super) fn resolve(&self) -> EntityOutcome<Route> {
        let (declared, place) = self.site.declared(|document| &document.routes);
        let references = route::References {
            name: self.name.clone(),
            listeners: self.listeners.clone(),
            fleets: self.fleets.clone(),
            service: self.service.as_ref().map(|service| service.0.clone()),
        };
        alone(None, |it| route(it, references, &place, declared))
    }
}

fn route(
    validation: &mut Validation<'_>,
    references: route::References,
    place: &FaultPlace<'_>,
    declared: &Declared<document::route::Route>,
) -> Option<Route> {
    if let Some(service) = &references.service {
        protocols::require_requests(validation, &place.key("service"), service);
    }
    route::resolve(references, place, declared, &mut validation.faults)
}

/// Reports two routes that match exactly the same requests: the precedence between them would be
/// undefined.
pub(super) fn report_equal_matches<'a>(validation: &mut Validation<'a>, routes: &OrdMap<Name, Arc<Route>>) {
    let place =
        |name| validation.first_named(Kind::Route, |document| &document.routes, name).map(|it| it.place());
    let routes = routes.iter().filter_map(|(name, route)| Some((place(name)?, route)));
    let routes: Vec<(FaultPlace<'a>, &Arc<Route>)> = routes.collect();
    let mut by_match: HashMap<MatchKey<'_>, RoutesOfMatch> = HashMap::new();
    for (index, (place, route)) in routes.iter().enumerate() {
        let mut twin = None;
        for host in &route.hosts {
            for path in &route.paths {
                let key = (route.rank, host, path, &route.methods, &route.headers, &route.query);
                let others = by_match.entry(key).or_default();
                let other = others.first(|index| routes[index].1, route);
                twin = twin.or(other.map(|other| (other, host, path)));
                others.insert(|index| routes[index].1, index);
            }
        }
        if let Some((other, host, path)) = twin {
            let (first, other) = &routes[other];
            let message =
                format!("route `{}` asks for the same requests: host {host}, path {path}", other.name);
            let help =
                "let them differ in a host, a path, a method, a header, a query or their rank".to_owned();
            let related = vec![first.key("name").related("the other route")];
            validation.faults.error_with(&place.key("name"), code::SAME_REQUESTS, message, help, related);
        }
    }
}

/// Reports wildcard hosts whose paths stand in too many virtual hosts: a request for a narrower host is matched by
/// the routes of that host alone, so that these include the ones of each wider host.
pub(super) fn report_repeated_matches(validation: &mut Validation<'_>, routes: &OrdMap<Name, Arc<Route>>) {
    let mut paths: HashMap<&HostMatch, usize> = HashMap::new();
    for route in routes.values() {
        for host in &route.hosts {
            *paths.entry(host).or_default() += route.paths.len();
        }
    }
    let mut narrower: BTreeMap<&HostMatch, usize> = BTreeMap::new();
    for host in paths.keys() {
        let wider = host.covering().into_iter().filter(|wider| wider != *host);
        for (wider, _) in wider.filter_map(|wider| paths.get_key_value(&wider)) {
            *narrower.entry(wider).or_default() += 1;
        }
    }
    // A wildcard on the left shares hosts with each on the right, and has their paths under a condition.
    let suffixes = paths.keys().filter(|host| matches!(host, HostMatch::Suffix(_))).count();
    for host in paths.keys().filter(|host| suffixes > 0 && matches!(host, HostMatch::Prefix(_))) {
        *narrower.entry(host).or_default() += suffixes;
    }
    let added = narrower.iter().map(|(host, narrower)| (narrower.saturating_mul(paths[host]), *host));
    let total = added.clone().fold(0, |total: usize, (added, _)| total.saturating_add(added));
    let Some((added, host)) = added.max_by_key(|(added, _)| *added).filter(|_| total > MAX_REPEATED) else {
        return;
    };
    let mut naming = routes.iter().filter(|(_, route)| route.hosts.contains(host));
    let route = naming
        .next()
        .and_then(|(name, _)| validation.first_named(Kind::Route, |document| &document.routes, name));
    let Some(route) = route else { return };
    let message = format!(
        "the {} paths of the routes of host {host} stand in {} narrower hosts too, which adds {added} matches",
        paths[host], narrower[host]
    );
    let help =
        format!("all wildcards together may add {MAX_REPEATED}: name fewer hosts, or fewer paths of `*`");
    validation.faults.error(&route.place().key("hosts"), code::TOO_MANY_MATCHES, message, help);
}

/// Routes with one match. Nearly all matches have one route, so that the rest is indexed only if there is
/// another.
#[derive(Debug, Default)]
struct RoutesOfMatch {
    first: Option<usize>,
    /// All of them, once there are two.
    all: Option<Box<DoubleScopeIndex>>,
}

impl RoutesOfMatch {
    /// Returns the first that is on a listener and in a fleet of `route`.
    fn first<'r>(&self, of: impl Fn(usize) -> &'r Arc<Route>, route: &Route) -> Option<usize> {
        if let Some(all) = &self.all {
            return all.first(&route.listeners, &route.fleets);
        }
        self.first.filter(|first| {
            let first = of(*first);
            first.listeners.overlaps(&route.listeners) && first.fleets.overlaps(&route.fleets)
        })
    }

    fn insert<'r>(&mut self, of: impl Fn(usize) -> &'r Arc<Route>, index: usize) {
        let Some(first) = self.first else {
            self.first = Some(index);
            return;
        };
        let all = self.all.get_or_insert_with(|| {
            let mut all = Box::<DoubleScopeIndex>::default();
            all.insert(&of(first).listeners, &of(first).fleets, first);
            all
        });
        all.insert(&of(index).listeners, &of(index).fleets, index);
    }
}

/// Rank of a route, and its conditions for one host and one path.
type MatchKey<'r> = (
    i64,
    &'r HostMatch,
    &'r PathMatch,
    &'r Vec<String>,
    &'r BTreeMap<String, StringMatch>,
    &'r BTreeMap<String, StringMatch>,
);

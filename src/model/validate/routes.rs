//! Validation of routes for requests.

use std::collections::{BTreeMap, HashMap};
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
use crate::model::validate::protocols;

/// Names of fleets and listeners.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Scopes {
    pub(super) fleets: Vec<Name>,
    pub(super) listeners: Vec<Name>,
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
        let known = || scopes.listeners.iter().collect();
        let listeners = validation.scope(&place.key("listeners"), Kind::Listener, &entity.listeners, known);
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
    let mut by_match: HashMap<MatchKey<'_>, Vec<usize>> = HashMap::new();
    for (index, (place, route)) in routes.iter().enumerate() {
        let mut twin = None;
        for host in &route.hosts {
            for path in &route.paths {
                let others = by_match
                    .entry((route.rank, host, path, &route.methods, &route.headers, &route.query))
                    .or_default();
                let other = others.iter().find(|other| {
                    let other = routes[**other].1;
                    other.listeners.overlaps(&route.listeners) && other.fleets.overlaps(&route.fleets)
                });
                twin = twin.or(other.map(|other| (*other, host, path)));
                others.push(index);
            }
        }
        if let Some((other, host, path)) = twin.filter(|(other, ..)| *other != index) {
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

/// Rank of a route, and its conditions for one host and one path.
type MatchKey<'r> = (
    i64,
    &'r HostMatch,
    &'r PathMatch,
    &'r Vec<String>,
    &'r BTreeMap<String, StringMatch>,
    &'r BTreeMap<String, StringMatch>,
);

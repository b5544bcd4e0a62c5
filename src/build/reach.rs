//! Entities that each fleet uses: services through its routes and listeners, and upstreams through these
//! services.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use crate::memo::changes;
use crate::model::Model;
use crate::model::listener::ProtocolSettings;
use crate::model::name::{Name, Scope};
use crate::model::route::Route;
use crate::model::service::Service;

/// Services and upstreams by the fleets of a model that use them.
#[derive(Debug, Default)]
pub(super) struct Reach(BTreeMap<Name, FleetReach>);

#[derive(Debug, Default)]
struct FleetReach {
    services: HashSet<Name>,
    /// Upstreams that other fleets use and this one does not.
    only_elsewhere: HashSet<Name>,
}

impl Reach {
    /// Computes the reach of a model.
    fn new(model: &Model) -> Self {
        Self(
            model
                .fleet_names()
                .into_iter()
                .map(|fleet| (fleet.clone(), FleetReach::new(model, &fleet)))
                .collect(),
        )
    }

    /// Returns the reach of `now`, sharing this value if no reference differs from that in `last`.
    #[must_use]
    pub(super) fn updated(self: &Arc<Self>, last: &Model, now: &Model) -> Arc<Self> {
        let references = |route: &Arc<Route>| {
            let service = route.forward().map(|forward| forward.service.name.clone());
            (route.fleets.clone(), service)
        };
        let names = |service: &Arc<Service>| -> BTreeSet<Name> {
            service.upstreams().map(|upstream| upstream.name.clone()).collect()
        };
        let same_routes = changes(&last.routes, &now.routes)
            .all(|change| change.old.map(references) == change.new.map(references));
        let same_services = changes(&last.services, &now.services)
            .all(|change| change.old.map(names) == change.new.map(names));
        if !self.0.is_empty() && direct_uses(last) == direct_uses(now) && same_routes && same_services {
            self.clone()
        } else {
            Arc::new(Self::new(now))
        }
    }

    /// True if a fleet has the aggregate clusters of a service: its routes or listeners use the service.
    pub(super) fn has_service(&self, fleet: &Name, service: &Name) -> bool {
        self.0.get(fleet).is_some_and(|of| of.services.contains(service))
    }

    /// True if a fleet has an upstream. A fleet has the upstreams that its routes and listeners use, and
    /// those that no fleet uses. The latter are compiled for all fleets, so that they are warm when the first
    /// route is added. A fleet with a failover gateway has all upstreams.
    pub(super) fn has_upstream(&self, fleet: &Name, upstream: &Name) -> bool {
        self.0.get(fleet).is_some_and(|of| !of.only_elsewhere.contains(upstream))
    }
}

/// Fleets and service of a listener or an SNI route, and true for a failover gateway, which uses all
/// upstreams.
type DirectUse<'m> = (&'m Scope, Option<&'m Name>, bool);

/// Returns the fleets, and all references to services except those of routes for requests, which are many.
fn direct_uses(model: &Model) -> (Vec<Name>, Vec<DirectUse<'_>>) {
    let passthroughs = model.passthroughs.iter().map(|it| (&it.fleets, Some(&it.service.name), false));
    let listeners = model.listeners.iter().map(|it| {
        let is_gateway = matches!(it.protocol, ProtocolSettings::FailoverGateway(_));
        (&it.fleets, it.service().map(|service| &service.name), is_gateway)
    });
    (model.fleet_names(), passthroughs.chain(listeners).collect())
}

impl FleetReach {
    fn new(model: &Model, fleet: &Name) -> Self {
        let names = |service: &Arc<Service>| -> Vec<Name> {
            service.upstreams().map(|upstream| upstream.name.clone()).collect()
        };
        let (here, elsewhere): (Vec<_>, Vec<_>) = uses(model).partition(|(fleets, _)| fleets.includes(fleet));
        let mut only_elsewhere: HashSet<Name> = elsewhere.iter().flat_map(|(_, it)| names(it)).collect();
        let is_gateway =
            |protocol: &ProtocolSettings| matches!(protocol, ProtocolSettings::FailoverGateway(_));
        if model.listeners_of(fleet).any(|listener| is_gateway(&listener.protocol)) {
            only_elsewhere.clear();
        }
        if !only_elsewhere.is_empty() {
            for upstream in here.iter().flat_map(|(_, service)| names(service)) {
                only_elsewhere.remove(&upstream);
            }
        }
        Self { services: here.into_iter().map(|(_, service)| service.name.clone()).collect(), only_elsewhere }
    }
}

/// Iterates over all references to services, as the fleets and the service of each.
fn uses(model: &Model) -> impl Iterator<Item = (&Scope, &Arc<Service>)> {
    let routes = model.routes.values().filter_map(|it| Some((&it.fleets, &it.forward()?.service)));
    let passthroughs = model.passthroughs.iter().map(|it| (&it.fleets, &it.service));
    let listeners = model.listeners.iter().filter_map(|it| Some((&it.fleets, it.service()?)));
    routes.chain(passthroughs).chain(listeners)
}

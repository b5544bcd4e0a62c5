//! Subjects of rules: an entity with its declaration, and what must be known around it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::build::compile::route::retry;
use crate::build::compile::service;
use crate::build::lint::levels::Levels;
use crate::build::lint::{Config, Lints, Told, WayKey};
use crate::config::document::lint::LintSetting;
use crate::config::document::{self, Kind};
use crate::memo::{Change, Memo, Shared, changes};
use crate::model::documents::Site;
use crate::model::name::Name;
use crate::model::place::Place;
use crate::model::route::Route;
use crate::model::service::{Policy, Service};
use crate::model::target::{Address, Target};
use crate::model::upstream::Upstream;

/// Upstream, with the ways to it and the upstreams that have a target in common with it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct UpstreamSubject {
    upstream: Shared<Upstream>,
    ways: Vec<Way>,
    neighbours: Vec<Shared<Upstream>>,
    raw_reaches_it: bool,
    site: Site,
    pub(super) levels: Shared<Levels>,
}

/// Way of requests to an upstream: a service, or one of its routes, with the policy that applies.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Way {
    service: Shared<Service>,
    route: Option<Shared<Route>>,
    tries: Tries,
}

/// Effective retry settings for idempotent requests on a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tries {
    /// Maximum number of retries after the first try; 0 if retries are off.
    pub(super) retries: u32,
    /// Timeout of one try; none for no limit or if retries are off.
    pub(super) try_timeout: Option<Duration>,
    /// Number of tries after which a retry moves on to the next tier; 0 if retries are off.
    pub(super) update_frequency: u32,
    /// Maximum number of tiers over the orders of the service.
    pub(super) tiers: u32,
    /// Maximum number of targets over the orders of the service.
    pub(super) targets: u32,
}

/// Service, or route that may override its service.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct WaySubject {
    way: Way,
    is_used: bool,
    site: Site,
    pub(super) levels: Shared<Levels>,
}

/// Route, with the route that takes all of its requests, if one does.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RouteSubject {
    route: Shared<Route>,
    shadow: Option<Name>,
    site: Site,
    pub(super) levels: Shared<Levels>,
}

impl Way {
    fn new(service: Arc<Service>, route: Option<Arc<Route>>) -> Self {
        let tries = Tries::new(policy(&service, route.as_deref()), &service);
        Self { service: Shared(service), route: route.map(Shared), tries }
    }

    pub(super) fn service(&self) -> &Service {
        &self.service.0
    }

    pub(super) fn policy(&self) -> &Policy {
        policy(&self.service.0, self.route.as_ref().map(|route| &*route.0))
    }

    /// Returns true if requests of a method that satisfies `is_method` may take this way. A service, and a
    /// route without methods, takes all of them.
    pub(super) fn takes(&self, is_method: impl Fn(&str) -> bool) -> bool {
        let methods = self.route.as_ref().map(|route| &route.0.methods);
        methods.is_none_or(|methods| methods.is_empty() || methods.iter().any(|method| is_method(method)))
    }

    /// Returns the effective retry settings.
    pub(super) fn tries(&self) -> Tries {
        self.tries
    }
}

fn policy<'p>(service: &'p Service, route: Option<&'p Route>) -> &'p Policy {
    route.and_then(Route::forward).map_or(&service.policy, |forward| &forward.policy)
}

impl Tries {
    fn new(policy: &Policy, service: &Service) -> Self {
        let orders = service::orders(service);
        let most =
            |counts: Vec<usize>| u32::try_from(counts.into_iter().max().unwrap_or(0)).unwrap_or(u32::MAX);
        let tries = retry::tries(policy, service);
        Self {
            retries: tries.map_or(0, |tries| tries.attempts),
            try_timeout: tries.and_then(|tries| tries.try_timeout),
            update_frequency: tries.map_or(0, |tries| tries.update_frequency),
            tiers: most(orders.iter().map(|order| order.most_tiers()).collect()),
            targets: most(orders.iter().map(|order| order.targets()).collect()),
        }
    }
}

impl UpstreamSubject {
    pub(super) fn upstream(&self) -> &Upstream {
        &self.upstream.0
    }

    /// Returns the number of targets of each declared tier, from the first; tiers without targets are left
    /// out.
    pub(super) fn tiers(&self) -> Vec<usize> {
        self.upstream().targets.chunk_by(|one, next| one.tier == next.tier).map(<[Target]>::len).collect()
    }

    /// Returns the ways through routes, or the services alone if none of them has a route.
    pub(super) fn ways(&self) -> &[Way] {
        &self.ways
    }

    pub(super) fn neighbours(&self) -> impl Iterator<Item = &Upstream> {
        self.neighbours.iter().map(|neighbour| &*neighbour.0)
    }

    /// Returns true if no route leads to it. False if there is any raw resource, since that may lead to it.
    pub(super) fn is_unreached(&self) -> bool {
        !self.raw_reaches_it && self.ways.iter().all(|way| way.route.is_none())
    }

    pub(super) fn declared(&self) -> &document::upstream::Upstream {
        &self.site.document.0.upstreams[self.site.index].entity
    }

    pub(super) fn place(&self) -> Place<'_> {
        let document = &self.site.document.0;
        Place::new(document, &document.upstreams[self.site.index].path)
    }

    /// Returns the place of a target in the upstream's own list; that of the upstream if the list does not
    /// have the target.
    pub(super) fn place_of(&self, address: &Address) -> Place<'_> {
        let targets = self.declared().targets.iter().flatten();
        let own = |target: &document::target::Target| {
            target.target.as_ref().is_some_and(|text| Address::parse(text).is_ok_and(|own| own == *address))
        };
        match targets.enumerate().find(|(_, target)| own(target)) {
            Some((index, _)) => self.place().key("targets").index(index),
            None => self.place(),
        }
    }
}

impl WaySubject {
    pub(super) fn way(&self) -> &Way {
        &self.way
    }

    /// Returns true for a service that no route names; always false for a route.
    pub(super) fn is_unused(&self) -> bool {
        self.way.route.is_none() && !self.is_used
    }

    /// Evaluates a predicate on the declaration at hand: `route` on that of a route, `service` on that of a
    /// service. A route declares only what differs from its service.
    pub(super) fn says(
        &self,
        service: fn(&document::service::Service) -> bool,
        route: fn(&document::route::Route) -> bool,
    ) -> bool {
        match self.way.route {
            Some(_) => route(&self.site.document.0.routes[self.site.index].entity),
            None => service(&self.site.document.0.services[self.site.index].entity),
        }
    }

    pub(super) fn lint(&self) -> Option<&BTreeMap<String, LintSetting>> {
        match self.way.route {
            Some(_) => self.site.document.0.routes[self.site.index].entity.lint.as_ref(),
            None => self.site.document.0.services[self.site.index].entity.lint.as_ref(),
        }
    }

    pub(super) fn place(&self) -> Place<'_> {
        let document = &self.site.document.0;
        let path = match self.way.route {
            Some(_) => &document.routes[self.site.index].path,
            None => &document.services[self.site.index].path,
        };
        Place::new(document, path)
    }
}

impl RouteSubject {
    pub(super) fn route(&self) -> &Route {
        &self.route.0
    }

    pub(super) fn shadow(&self) -> Option<&Name> {
        self.shadow.as_ref()
    }

    pub(super) fn declared(&self) -> &document::route::Route {
        &self.site.document.0.routes[self.site.index].entity
    }

    pub(super) fn place(&self) -> Place<'_> {
        let document = &self.site.document.0;
        Place::new(document, &document.routes[self.site.index].path)
    }
}

/// Names of the subjects that must be checked again.
pub(super) struct Changed {
    /// Services, with all ways to them.
    pub(super) services: BTreeSet<Name>,
    pub(super) upstreams: BTreeSet<Name>,
    pub(super) routes: BTreeSet<Name>,
}

/// Returns the subjects that changed from `last` to `now`. Updates the neighbours and shadows of `next` in
/// passing.
pub(super) fn changed(last: Config<'_>, now: Config<'_>, lints: &Lints, next: &mut Lints) -> Changed {
    let redeclared = |kind| now.documents.changed(kind, last.documents).into_iter().cloned();
    let mut services: BTreeSet<Name> = redeclared(Kind::Service).collect();
    let mut upstreams: BTreeSet<Name> = redeclared(Kind::Upstream).collect();
    let mut routes: BTreeSet<Name> = redeclared(Kind::Route).collect();

    upstreams.extend(next.neighbours.update(&last.model.upstreams, &now.model.upstreams));
    routes.extend(next.shadows.update(&last.model.routes, &now.model.routes));
    for Change { key, old, new } in changes(&last.model.routes, &now.model.routes) {
        routes.insert(key.clone());
        let forwards = old.into_iter().chain(new).filter_map(|route| route.forward());
        services.extend(forwards.map(|forward| forward.service.name.clone()));
    }
    for Change { key, .. } in changes(&last.model.services, &now.model.services) {
        services.insert(key.clone());
    }
    let all_are_new =
        !Arc::ptr_eq(&lints.levels, &next.levels) || last.model.raw.is_empty() != now.model.raw.is_empty();
    if all_are_new {
        services.extend(now.model.services.keys().cloned());
        upstreams.extend(now.model.upstreams.keys().cloned());
        routes.extend(now.model.routes.keys().cloned());
    }
    for name in &services {
        let known = [last, now].into_iter().filter_map(|config| config.model.services.get(name));
        upstreams.extend(known.flat_map(|service| service.upstreams()).map(|upstream| upstream.name.clone()));
    }
    Changed { services, upstreams, routes }
}

/// Returns the ways to a service that were checked.
pub(super) fn ways_of<'m>(
    ways: &'m Memo<WayKey, WaySubject, Told>,
    service: &'m Name,
) -> impl Iterator<Item = (&'m WayKey, &'m WaySubject)> {
    ways.inputs().range((service.clone(), None)..).take_while(move |((of, _), _)| of == service)
}

/// Returns the keys of a service alone and of each route to it.
pub(super) fn way_keys(config: Config<'_>, service: &Name) -> Vec<WayKey> {
    let routes = config.resolved.routes_of(service).cloned().map(Some);
    [None].into_iter().chain(routes).map(|route| (service.clone(), route)).collect()
}

/// Returns the subject for a key; none if there is no such way.
pub(super) fn way(config: Config<'_>, (service, route): &WayKey, levels: &Arc<Levels>) -> Option<WaySubject> {
    let Config { model, resolved, documents } = config;
    let leads_there =
        |route: &&Arc<Route>| route.forward().is_some_and(|forward| forward.service.name == *service);
    let (route, site) = match route {
        Some(name) => {
            let route = model.routes.get(name).filter(leads_there)?;
            (Some(route.clone()), documents.site(Kind::Route, name.as_str())?)
        }
        None => (None, documents.site(Kind::Service, service.as_str())?),
    };
    Some(WaySubject {
        way: Way::new(model.services.get(service)?.clone(), route),
        is_used: resolved.routes_of(service).next().is_some(),
        site: site.clone(),
        levels: Shared(levels.clone()),
    })
}

/// Returns the subject for an upstream; none if there is no such upstream. The ways in `lints` must be up to
/// date.
pub(super) fn upstream(config: Config<'_>, name: &Name, lints: &Lints) -> Option<UpstreamSubject> {
    let Config { model, resolved, documents } = config;
    let leads_here = |way: &&Way| way.service().upstreams().any(|upstream| upstream.name == *name);
    let services = resolved.services_of(name);
    let ways = services.flat_map(|service| ways_of(&lints.ways.memo, service));
    let ways: Vec<&Way> = ways.map(|(_, subject)| &subject.way).filter(leads_here).collect();
    let is_routed = ways.iter().any(|way| way.route.is_some());
    let ways = ways.into_iter().filter(|way| way.route.is_some() == is_routed);
    let neighbours = lints.neighbours.of(name).filter_map(|name| model.upstreams.get(name));
    Some(UpstreamSubject {
        upstream: Shared(model.upstreams.get(name)?.clone()),
        ways: ways.cloned().collect(),
        neighbours: neighbours.cloned().map(Shared).collect(),
        raw_reaches_it: !model.raw.is_empty(),
        site: documents.site(Kind::Upstream, name.as_str())?.clone(),
        levels: Shared(lints.levels.clone()),
    })
}

/// Returns the subject for a route; none if there is no such route. The shadows in `lints` must be up to
/// date.
pub(super) fn route(config: Config<'_>, name: &Name, lints: &Lints) -> Option<RouteSubject> {
    Some(RouteSubject {
        route: Shared(config.model.routes.get(name)?.clone()),
        shadow: lints.shadows.of(name).cloned(),
        site: config.documents.site(Kind::Route, name.as_str())?.clone(),
        levels: Shared(lints.levels.clone()),
    })
}

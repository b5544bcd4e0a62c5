//! What rules look at: an entity with its place, and what must be known around it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::compile::route::retry;
use crate::compile::service;
use crate::config::document::lint::LintSetting;
use crate::config::document::{self, Kind};
use crate::lint::levels::Levels;
use crate::lint::{Config, Lints, Told, WayKey};
use crate::memo::{Change, Memo, Shared, changes};
use crate::model::documents::Site;
use crate::model::name::Name;
use crate::model::place::Place;
use crate::model::route::Route;
use crate::model::service::{Policy, Service};
use crate::model::target::{Address, Target};
use crate::model::upstream::Upstream;

/// An upstream, the ways to it, and the upstreams that have a target with it in common.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct UpstreamSubject {
    upstream: Shared<Upstream>,
    ways: Vec<Way>,
    neighbours: Vec<Shared<Upstream>>,
    raw_reaches_it: bool,
    site: Site,
    pub(super) levels: Shared<Levels>,
}

/// By which policy requests come: of a service, or of a route of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Way {
    service: Shared<Service>,
    route: Option<Shared<Route>>,
    tries: Tries,
}

/// The tries of idempotent requests that come a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tries {
    /// After the first; zero when nothing is tried again.
    pub(super) retries: u32,
    /// How long each may take.
    pub(super) try_timeout: Option<Duration>,
    /// After how many of them the next tier is tried.
    pub(super) update_frequency: u32,
    /// How many tiers there are, at most.
    pub(super) tiers: u32,
    /// How many targets there are, at most.
    pub(super) targets: u32,
}

/// A service, or a route that may say otherwise.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct WaySubject {
    way: Way,
    is_used: bool,
    site: Site,
    pub(super) levels: Shared<Levels>,
}

/// A route, and the one because of which it never gets a request.
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

    /// True when requests of this method may come this way.
    pub(super) fn takes(&self, is_method: impl Fn(&str) -> bool) -> bool {
        let methods = self.route.as_ref().map(|route| &route.0.methods);
        methods.is_none_or(|methods| methods.is_empty() || methods.iter().any(|method| is_method(method)))
    }

    /// What is derived of its tries.
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

    /// How many targets each declared tier has, from the first; only those that have any.
    pub(super) fn tiers(&self) -> Vec<usize> {
        self.upstream().targets.chunk_by(|one, next| one.tier == next.tier).map(<[Target]>::len).collect()
    }

    /// By routes; by services where none has a route.
    pub(super) fn ways(&self) -> &[Way] {
        &self.ways
    }

    pub(super) fn neighbours(&self) -> impl Iterator<Item = &Upstream> {
        self.neighbours.iter().map(|neighbour| &*neighbour.0)
    }

    /// True when nothing sends requests to it.
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

    /// Where a target of the upstream's own list stands; else the upstream.
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

    /// True of a service that no route names; always false of a route.
    pub(super) fn is_unused(&self) -> bool {
        self.way.route.is_none() && !self.is_used
    }

    /// True where what is declared here counts: of a route, what differs from its service.
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

/// The subjects that are to be looked at, by name.
pub(super) struct Changed {
    /// With the ways to them.
    pub(super) services: BTreeSet<Name>,
    pub(super) upstreams: BTreeSet<Name>,
    pub(super) routes: BTreeSet<Name>,
}

/// The subjects that are not as they were. Learns on the way who stands beside and before whom.
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

/// The ways to a service that were looked at.
pub(super) fn ways_of<'m>(
    ways: &'m Memo<WayKey, WaySubject, Told>,
    service: &'m Name,
) -> impl Iterator<Item = (&'m WayKey, &'m WaySubject)> {
    ways.inputs().range((service.clone(), None)..).take_while(move |((of, _), _)| of == service)
}

/// A service, and each route to it.
pub(super) fn way_keys(config: Config<'_>, service: &Name) -> Vec<WayKey> {
    let routes = config.resolved.routes_of(service).cloned().map(Some);
    [None].into_iter().chain(routes).map(|route| (service.clone(), route)).collect()
}

/// The way of a key, if there is one.
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

/// The upstream of a name, if there is one. The ways to it are known.
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

/// The route of a name, if there is one.
pub(super) fn route(config: Config<'_>, name: &Name, lints: &Lints) -> Option<RouteSubject> {
    Some(RouteSubject {
        route: Shared(config.model.routes.get(name)?.clone()),
        shadow: lints.shadows.of(name).cloned(),
        site: config.documents.site(Kind::Route, name.as_str())?.clone(),
        levels: Shared(lints.levels.clone()),
    })
}

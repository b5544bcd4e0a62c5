//! What rules look at: an entity with its place, and what must be known around it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::compile::route::retry;
use crate::compile::service;
use crate::config::document::{self, LintSetting};
use crate::lint::levels::Levels;
use crate::lint::routes::Shadows;
use crate::lint::sharing::Neighbours;
use crate::memo::Shared;
use crate::model::Model;
use crate::model::name::Name;
use crate::model::place::Place;
use crate::model::route::Route;
use crate::model::service::{Policy, Service};
use crate::model::target::{Address, Target};
use crate::model::upstream::Upstream;
use crate::model::validate::{Resolved, Source};

/// An upstream, the ways to it, and the upstreams that have a target with it in common.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct UpstreamSubject {
    upstream: Shared<Upstream>,
    ways: Vec<Way>,
    neighbours: Vec<Shared<Upstream>>,
    raw_reaches_it: bool,
    site: Source,
    pub(super) levels: Shared<Levels>,
}

/// By which policy requests come: of a service, or of a route of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Way {
    service: Shared<Service>,
    route: Option<Shared<Route>>,
}

/// The tries of idempotent requests that come a way.
#[derive(Debug, Clone, Copy)]
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
    site: Source,
    pub(super) levels: Shared<Levels>,
}

/// A route, and the one because of which it never gets a request.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RouteSubject {
    route: Shared<Route>,
    shadow: Option<Name>,
    site: Source,
    pub(super) levels: Shared<Levels>,
}

impl Way {
    pub(super) fn service(&self) -> &Service {
        &self.service.0
    }

    pub(super) fn policy(&self) -> &Policy {
        let forward = self.route.as_ref().and_then(|route| route.0.forward());
        forward.map_or(&self.service.0.policy, |forward| &forward.policy)
    }

    /// True when requests of this method may come this way.
    pub(super) fn takes(&self, is_method: impl Fn(&str) -> bool) -> bool {
        let methods = self.route.as_ref().map(|route| &route.0.methods);
        methods.is_none_or(|methods| methods.is_empty() || methods.iter().any(|method| is_method(method)))
    }

    /// What is derived of its tries.
    pub(super) fn tries(&self) -> Tries {
        let orders = service::orders(self.service());
        let most =
            |counts: Vec<usize>| u32::try_from(counts.into_iter().max().unwrap_or(0)).unwrap_or(u32::MAX);
        let tries = retry::tries(self.policy(), self.service());
        Tries {
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

    pub(super) fn declared(&self) -> &document::Upstream {
        &self.site.document.0.upstreams[self.site.index].entity
    }

    pub(super) fn place(&self) -> Place<'_> {
        let document = &self.site.document.0;
        Place::new(document, &document.upstreams[self.site.index].path)
    }

    /// Where a target of the upstream's own list stands; else the upstream.
    pub(super) fn place_of(&self, address: &Address) -> Place<'_> {
        let targets = self.declared().targets.iter().flatten();
        let own = |target: &document::Target| {
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
        service: fn(&document::Service) -> bool,
        route: fn(&document::Route) -> bool,
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

    pub(super) fn declared(&self) -> &document::Route {
        &self.site.document.0.routes[self.site.index].entity
    }

    pub(super) fn place(&self) -> Place<'_> {
        let document = &self.site.document.0;
        Place::new(document, &document.routes[self.site.index].path)
    }
}

/// Everything that there is to look at, each list ascending by key.
pub(super) struct Subjects {
    pub(super) upstreams: Vec<(Name, UpstreamSubject)>,
    pub(super) ways: Vec<((Name, Option<Name>), WaySubject)>,
    pub(super) routes: Vec<(Name, RouteSubject)>,
}

pub(super) fn subjects(
    model: &Model,
    resolved: &Resolved,
    (neighbours, shadows): (&Neighbours, &Shadows),
    levels: &Arc<Levels>,
) -> Subjects {
    let levels = Shared(levels.clone());
    let ways = ways(model, resolved, &levels);
    let routes = model.routes.iter().zip(resolved.routes());
    let route_subject = |(route, (_, site)): (&Arc<Route>, (&Name, &Source))| {
        let subject = RouteSubject {
            route: Shared(route.clone()),
            shadow: shadows.of(&route.name).cloned(),
            site: site.clone(),
            levels: levels.clone(),
        };
        (route.name.clone(), subject)
    };
    Subjects {
        upstreams: upstream_subjects(model, resolved, neighbours, &ways, &levels),
        routes: routes.map(route_subject).collect(),
        ways,
    }
}

/// Each service, and each route to one that says otherwise or for fewer methods.
fn ways(
    model: &Model,
    resolved: &Resolved,
    levels: &Shared<Levels>,
) -> Vec<((Name, Option<Name>), WaySubject)> {
    let routes = model.routes.iter().zip(resolved.routes().map(|(_, site)| site));
    let mut forwards: Vec<(&Arc<Service>, &Arc<Route>, &Source)> =
        routes.filter_map(|(route, site)| Some((&route.forward()?.service, route, site))).collect();
    // Those of one service stay in the order of their names.
    forwards.sort_by(|a, b| a.0.name.cmp(&b.0.name));
    let mut forwards = forwards.into_iter().peekable();
    let mut ways = Vec::with_capacity(model.services.len() + model.routes.len());
    for (service, (_, site)) in model.services.values().zip(resolved.services()) {
        let way = |route: Option<&Arc<Route>>, is_used, site: &Source| {
            let key = (service.name.clone(), route.map(|route| route.name.clone()));
            let route = route.cloned().map(Shared);
            let way = Way { service: Shared(service.clone()), route };
            (key, WaySubject { way, is_used, site: site.clone(), levels: levels.clone() })
        };
        let is_used = forwards.peek().is_some_and(|(of, ..)| of.name == service.name);
        ways.push(way(None, is_used, site));
        while let Some((_, route, site)) = forwards.next_if(|(of, ..)| of.name == service.name) {
            ways.push(way(Some(route), is_used, site));
        }
    }
    ways
}

fn upstream_subjects(
    model: &Model,
    resolved: &Resolved,
    neighbours: &Neighbours,
    ways: &[((Name, Option<Name>), WaySubject)],
    levels: &Shared<Levels>,
) -> Vec<(Name, UpstreamSubject)> {
    let ways = ways.iter().map(|(_, subject)| &subject.way);
    let mut ways: Vec<(&Name, &Way)> =
        ways.flat_map(|way| way.service().upstreams().map(move |it| (&it.name, way))).collect();
    ways.sort_by(|a, b| a.0.cmp(b.0));
    let mut rest = ways.as_slice();
    let subject = |(upstream, (_, site)): (&Arc<Upstream>, (&Name, &Source))| {
        let count = rest.iter().take_while(|(name, _)| **name == upstream.name).count();
        let own;
        (own, rest) = rest.split_at(count);
        let routed = own.iter().any(|(_, way)| way.route.is_some());
        let own = own.iter().map(|(_, way)| *way).filter(|way| way.route.is_some() == routed);
        let others = neighbours.of(&upstream.name);
        let subject = UpstreamSubject {
            upstream: Shared(upstream.clone()),
            ways: own.cloned().collect(),
            neighbours: others.filter_map(|name| model.upstreams.get(name).cloned().map(Shared)).collect(),
            raw_reaches_it: !model.raw.is_empty(),
            site: site.clone(),
            levels: levels.clone(),
        };
        (upstream.name.clone(), subject)
    };
    model.upstreams.values().zip(resolved.upstreams()).map(subject).collect()
}

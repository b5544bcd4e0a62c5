//! What rules look at: an entity with its place, and what must be known around it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::compile::route::retry;
use crate::compile::service;
use crate::config::document::{self, Document, Kind, LintSetting};
use crate::lint::levels::Levels;
use crate::lint::routes;
use crate::memo::{Same, Shared};
use crate::model::Model;
use crate::model::documents::Documents;
use crate::model::name::Name;
use crate::model::place::Place;
use crate::model::route::Route;
use crate::model::service::{Policy, Service};
use crate::model::target::{Address, Target};
use crate::model::upstream::Upstream;

/// Where an entity was declared.
#[derive(Debug, Clone, PartialEq)]
struct Site {
    document: Same<Document>,
    /// In the list of its kind.
    index: usize,
}

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

type Sites<'d> = HashMap<&'d str, Site>;

pub(super) fn subjects(model: &Model, documents: &Documents, levels: &Arc<Levels>) -> Subjects {
    let levels = Shared(levels.clone());
    let upstreams = sites(documents.of(Kind::Upstream), |document| {
        document.upstreams.iter().map(|it| it.entity.name.as_deref()).collect()
    });
    let services = sites(documents.of(Kind::Service), |document| {
        document.services.iter().map(|it| it.entity.name.as_deref()).collect()
    });
    let routes = sites(documents.of(Kind::Route), |document| {
        document.routes.iter().map(|it| it.entity.name.as_deref()).collect()
    });
    let ways = ways(model);
    let used: HashMap<&Name, ()> =
        model.routes.iter().filter_map(|it| Some((&it.forward()?.service.name, ()))).collect();
    Subjects {
        upstreams: upstream_subjects(model, &upstreams, &ways, &levels),
        ways: ways
            .iter()
            .filter_map(|(key, way)| {
                let site = match &key.1 {
                    Some(route) => routes.get(route.as_str())?,
                    None => services.get(key.0.as_str())?,
                };
                let is_used = used.contains_key(&key.0);
                Some((
                    key.clone(),
                    WaySubject { way: way.clone(), is_used, site: site.clone(), levels: levels.clone() },
                ))
            })
            .collect(),
        routes: route_subjects(model, &routes, &levels),
    }
}

fn sites<'d>(
    documents: impl Iterator<Item = &'d Arc<Document>>,
    names: fn(&Document) -> Vec<Option<&str>>,
) -> Sites<'d> {
    let mut sites = Sites::new();
    for document in documents {
        for (index, name) in names(document).into_iter().enumerate() {
            let site = || Site { document: Same(document.clone()), index };
            sites.entry(name.unwrap_or_default()).or_insert_with(site);
        }
    }
    sites
}

/// Each service, and each route to one that says otherwise or for fewer methods.
fn ways(model: &Model) -> BTreeMap<(Name, Option<Name>), Way> {
    let services = model
        .services
        .values()
        .map(|service| ((service.name.clone(), None), Way { service: Shared(service.clone()), route: None }));
    let routes = model.routes.iter().filter_map(|route| {
        let service = &route.forward()?.service;
        let way = Way { service: Shared(service.clone()), route: Some(Shared(route.clone())) };
        Some(((service.name.clone(), Some(route.name.clone())), way))
    });
    services.chain(routes).collect()
}

fn upstream_subjects(
    model: &Model,
    sites: &Sites<'_>,
    ways: &BTreeMap<(Name, Option<Name>), Way>,
    levels: &Shared<Levels>,
) -> Vec<(Name, UpstreamSubject)> {
    let mut ways_to: HashMap<&Name, Vec<&Way>> = HashMap::new();
    for way in ways.values() {
        for upstream in way.service().upstreams() {
            ways_to.entry(&upstream.name).or_default().push(way);
        }
    }
    let mut having: HashMap<&Address, Vec<&Arc<Upstream>>> = HashMap::new();
    for upstream in model.upstreams.values() {
        for target in &upstream.targets {
            having.entry(&target.address).or_default().push(upstream);
        }
    }
    let neighbours = |upstream: &Upstream| {
        let others = upstream.targets.iter().flat_map(|target| &having[&target.address]);
        let others: BTreeMap<&Name, &Arc<Upstream>> =
            others.filter(|other| other.name != upstream.name).map(|other| (&other.name, *other)).collect();
        others.into_values().map(|other| Shared(other.clone())).collect()
    };
    let subject = |upstream: &Arc<Upstream>| {
        let ways = ways_to.get(&upstream.name).map(Vec::as_slice).unwrap_or_default();
        let routed = ways.iter().any(|way| way.route.is_some());
        let subject = UpstreamSubject {
            upstream: Shared(upstream.clone()),
            ways: ways.iter().filter(|way| way.route.is_some() == routed).map(|way| (*way).clone()).collect(),
            neighbours: neighbours(upstream),
            raw_reaches_it: !model.raw.is_empty(),
            site: sites.get(upstream.name.as_str())?.clone(),
            levels: levels.clone(),
        };
        Some((upstream.name.clone(), subject))
    };
    model.upstreams.values().filter_map(subject).collect()
}

fn route_subjects(model: &Model, sites: &Sites<'_>, levels: &Shared<Levels>) -> Vec<(Name, RouteSubject)> {
    let shadows = routes::shadows(&model.routes);
    let subject = |route: &Arc<Route>| {
        let subject = RouteSubject {
            route: Shared(route.clone()),
            shadow: shadows.get(&route.name).map(|name| (*name).clone()),
            site: sites.get(route.name.as_str())?.clone(),
            levels: levels.clone(),
        };
        Some((route.name.clone(), subject))
    };
    model.routes.iter().filter_map(subject).collect()
}

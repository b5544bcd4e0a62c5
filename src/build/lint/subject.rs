//! Subjects of rules: an entity with its declaration, and what must be known around it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::build::compile::route::retry;
use crate::build::compile::service;
use crate::build::lint::input::LintInput;
use crate::build::lint::levels::Levels;
use crate::build::lint::neighbours::{Neighbours, UpstreamNeighbours};
use crate::config::document::lint::LintSetting;
use crate::config::document::{self, Kind};
use crate::memo::ArcEq;
use crate::model::documents::Site;
use crate::model::name::Name;
use crate::model::path_match::PathMatch;
use crate::model::place::FaultPlace;
use crate::model::route::Route;
use crate::model::service::{RequestPolicy, Service};
use crate::model::target::{Address, Target};
use crate::model::upstream::Upstream;

/// Key of a caller: a service, and a route to it that may override its policy; without a route the service
/// itself.
pub(super) type CallerKey = (Name, Option<Name>);

/// Path of a route of which other routes take all requests, with the first that does.
pub(super) type ShadowedPath = (PathMatch, Name);

/// Upstream, with its callers and its neighbours: upstreams that have a target in common with it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct UpstreamSubject {
    upstream: ArcEq<Upstream>,
    callers: Vec<Caller>,
    neighbours: UpstreamNeighbours,
    raw_reaches_it: bool,
    site: Site,
    pub(super) levels: ArcEq<Levels>,
}

/// Way of requests to an upstream: a service, or one of its routes, with the policy that applies.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Caller {
    service: ArcEq<Service>,
    route: Option<ArcEq<Route>>,
    tries: RetryEffect,
}

/// Effective retry settings for idempotent requests of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RetryEffect {
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
pub(super) struct CallerSubject {
    caller: Caller,
    is_used: bool,
    site: Site,
    pub(super) levels: ArcEq<Levels>,
}

/// Route, with those of its paths of which other routes take all requests.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RouteSubject {
    route: ArcEq<Route>,
    shadows: Vec<ShadowedPath>,
    site: Site,
    pub(super) levels: ArcEq<Levels>,
}

impl Caller {
    fn new(service: Arc<Service>, route: Option<Arc<Route>>) -> Self {
        let tries = RetryEffect::new(policy(&service, route.as_deref()), &service);
        Self { service: ArcEq(service), route: route.map(ArcEq), tries }
    }

    pub(super) fn service(&self) -> &Service {
        &self.service.0
    }

    pub(super) fn policy(&self) -> &RequestPolicy {
        policy(&self.service.0, self.route.as_ref().map(|route| &*route.0))
    }

    /// Returns true if requests of a method that satisfies `is_method` may come from this caller. A service, and a
    /// route without methods, sends all of them.
    pub(super) fn accepts_method(&self, is_method: impl Fn(&str) -> bool) -> bool {
        let methods = self.route.as_ref().map(|route| &route.0.methods);
        methods.is_none_or(|methods| methods.is_empty() || methods.iter().any(|method| is_method(method)))
    }

    /// Returns the effective retry settings.
    pub(super) fn tries(&self) -> RetryEffect {
        self.tries
    }
}

fn policy<'p>(service: &'p Service, route: Option<&'p Route>) -> &'p RequestPolicy {
    route.and_then(Route::forward).map_or(&service.policy, |forward| &forward.policy)
}

impl RetryEffect {
    fn new(policy: &RequestPolicy, service: &Service) -> Self {
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
    /// Returns the subject for an upstream; none if there is no such upstream. `callers` are all its callers.
    pub(super) fn new<'c>(
        input: LintInput<'_>,
        name: &Name,
        callers: impl Iterator<Item = &'c CallerSubject>,
        neighbours: &Neighbours,
        levels: &Arc<Levels>,
    ) -> Option<Self> {
        let LintInput { model, documents, .. } = input;
        let callers: Vec<&Caller> = callers.map(|subject| &subject.caller).collect();
        let is_routed = callers.iter().any(|caller| caller.route.is_some());
        let callers = callers.into_iter().filter(|caller| caller.route.is_some() == is_routed);
        let upstream = model.upstreams.get(name)?;
        Some(Self {
            upstream: ArcEq(upstream.clone()),
            callers: callers.cloned().collect(),
            neighbours: neighbours.of(upstream),
            raw_reaches_it: !model.raw.is_empty(),
            site: documents.site(Kind::Upstream, name.as_str())?.clone(),
            levels: ArcEq(levels.clone()),
        })
    }

    pub(super) fn upstream(&self) -> &Upstream {
        &self.upstream.0
    }

    /// Returns the number of targets of each declared tier, from the first; tiers without targets are left
    /// out.
    pub(super) fn tiers(&self) -> Vec<usize> {
        self.upstream().targets.chunk_by(|one, next| one.tier == next.tier).map(<[Target]>::len).collect()
    }

    /// Returns the callers that are routes, or the services alone if none of them has a route.
    pub(super) fn callers(&self) -> &[Caller] {
        &self.callers
    }

    pub(super) fn neighbours(&self) -> &UpstreamNeighbours {
        &self.neighbours
    }

    /// Returns true if no route leads to it. False if there is any raw resource, since that may lead to it.
    pub(super) fn is_unreached(&self) -> bool {
        !self.raw_reaches_it && self.callers.iter().all(|caller| caller.route.is_none())
    }

    pub(super) fn declared(&self) -> &document::upstream::Upstream {
        &self.site.document.0.upstreams[self.site.index].entity
    }

    pub(super) fn place(&self) -> FaultPlace<'_> {
        let document = &self.site.document.0;
        FaultPlace::new(document, &document.upstreams[self.site.index].path)
    }

    /// Returns the place of one target; otherwise like [`Self::places_of`].
    pub(super) fn place_of<'s>(&'s self, address: &'s Address) -> FaultPlace<'s> {
        self.places_of([address].into_iter()).next().unwrap_or_else(|| self.place())
    }

    /// Returns the places of targets in the upstream's own list; that of the upstream for a target that the list
    /// does not have.
    pub(super) fn places_of<'s>(
        &'s self,
        addresses: impl Iterator<Item = &'s Address>,
    ) -> impl Iterator<Item = FaultPlace<'s>> {
        let mut addresses = addresses.peekable();
        let mut own: HashMap<Address, usize> = HashMap::new();
        if addresses.peek().is_some() {
            let declared = self.declared().targets.iter().flatten().enumerate();
            for (index, target) in declared {
                let address = target.target.as_ref().and_then(|text| Address::parse(text).ok());
                if let Some(address) = address {
                    own.entry(address).or_insert(index);
                }
            }
        }
        let place = self.place();
        let targets = place.key("targets");
        addresses.map(move |address| own.get(address).map_or(place.clone(), |index| targets.index(*index)))
    }
}

impl CallerSubject {
    /// Returns the subject for a key; none if there is no such caller.
    pub(super) fn new(
        input: LintInput<'_>,
        (service, route): &CallerKey,
        levels: &Arc<Levels>,
    ) -> Option<Self> {
        let LintInput { model, resolved, documents } = input;
        let uses_service =
            |route: &&Arc<Route>| route.forward().is_some_and(|forward| forward.service.name == *service);
        let (route, site) = match route {
            Some(name) => {
                let route = model.routes.get(name).filter(uses_service)?;
                (Some(route.clone()), documents.site(Kind::Route, name.as_str())?)
            }
            None => (None, documents.site(Kind::Service, service.as_str())?),
        };
        Some(Self {
            caller: Caller::new(model.services.get(service)?.clone(), route),
            is_used: resolved.routes_of(service).next().is_some(),
            site: site.clone(),
            levels: ArcEq(levels.clone()),
        })
    }

    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Returns true for a service that no route names; always false for a route.
    pub(super) fn is_unused(&self) -> bool {
        self.caller.route.is_none() && !self.is_used
    }

    /// Evaluates a predicate on the declaration at hand: `route` on that of a route, `service` on that of a
    /// service. A route declares only what differs from its service.
    pub(super) fn declares(
        &self,
        service: fn(&document::service::Service) -> bool,
        route: fn(&document::route::Route) -> bool,
    ) -> bool {
        match self.caller.route {
            Some(_) => route(&self.site.document.0.routes[self.site.index].entity),
            None => service(&self.site.document.0.services[self.site.index].entity),
        }
    }

    pub(super) fn lint(&self) -> Option<&BTreeMap<String, LintSetting>> {
        match self.caller.route {
            Some(_) => self.site.document.0.routes[self.site.index].entity.lint.as_ref(),
            None => self.site.document.0.services[self.site.index].entity.lint.as_ref(),
        }
    }

    pub(super) fn place(&self) -> FaultPlace<'_> {
        let document = &self.site.document.0;
        let path = match self.caller.route {
            Some(_) => &document.routes[self.site.index].path,
            None => &document.services[self.site.index].path,
        };
        FaultPlace::new(document, path)
    }
}

impl RouteSubject {
    /// Returns the subject for a route; none if there is no such route. `shadows` are its paths of which other
    /// routes take all requests.
    pub(super) fn new(
        input: LintInput<'_>,
        name: &Name,
        shadows: &[ShadowedPath],
        levels: &Arc<Levels>,
    ) -> Option<Self> {
        Some(Self {
            route: ArcEq(input.model.routes.get(name)?.clone()),
            shadows: shadows.to_vec(),
            site: input.documents.site(Kind::Route, name.as_str())?.clone(),
            levels: ArcEq(levels.clone()),
        })
    }

    pub(super) fn route(&self) -> &Route {
        &self.route.0
    }

    pub(super) fn shadows(&self) -> &[ShadowedPath] {
        &self.shadows
    }

    /// Returns the place of a path; that of all paths if the route declares none.
    pub(super) fn place_of(&self, path: &PathMatch) -> FaultPlace<'_> {
        let paths = self.place().key("paths");
        let mut declared = self.declared().paths.iter();
        let index = declared.position(|text| PathMatch::parse(text).is_ok_and(|parsed| parsed == *path));
        index.map_or(paths.clone(), |index| paths.index(index))
    }

    pub(super) fn declared(&self) -> &document::route::Route {
        &self.site.document.0.routes[self.site.index].entity
    }

    pub(super) fn place(&self) -> FaultPlace<'_> {
        let document = &self.site.document.0;
        FaultPlace::new(document, &document.routes[self.site.index].path)
    }
}

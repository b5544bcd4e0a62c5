//! Results of the last validation: an entity is resolved again only if something that it depends on changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use jiff::Timestamp;

use crate::config::Violation;
use crate::memo::{self, ArcEq, Memo};
use crate::model::documents::Documents;
use crate::model::name::Name;
use crate::model::route::Route;
use crate::model::service::Service;
use crate::model::upstream::{self, Upstream};
use crate::model::validate::outcome::{EntityOutcome, TlsMaterial};
use crate::model::validate::routes::{RouteInput, Scopes};
use crate::model::validate::services::ServiceInput;
use crate::model::validate::upstreams::UpstreamInput;

/// Result of each entity, with all inputs that it was computed from.
#[derive(Debug, Clone, Default)]
pub struct ResolvedEntities {
    pub(super) documents: Documents,
    pub(super) uses: Arc<BTreeMap<Name, upstream::Uses>>,
    pub(super) material: Option<ArcEq<TlsMaterial>>,
    /// Names of fleets and listeners that routes may refer to.
    pub(super) scopes: Scopes,
    pub(super) upstreams: ResolvedKind<UpstreamInput, Upstream>,
    pub(super) services: ResolvedKind<ServiceInput, Service>,
    pub(super) routes: ResolvedKind<RouteInput, Route>,
    /// Upstreams that mention TLS in their own settings or in those of a target.
    pub(super) in_tls: OrdSet<Name>,
    /// Routes that name listeners or fleets.
    pub(super) scoped: OrdSet<Name>,
    /// Pairs of an upstream and a service that names it.
    pub(super) users: OrdSet<(Name, Name)>,
    /// Pairs of a service and a route that names it.
    pub(super) service_routes: OrdSet<(Name, Name)>,
}

impl ResolvedEntities {
    /// Iterates over the services that name an upstream, sorted by name.
    pub fn services_of<'r>(&'r self, upstream: &'r Name) -> impl Iterator<Item = &'r Name> {
        related(&self.users, upstream)
    }

    /// Iterates over the routes for requests that name a service, sorted by name.
    pub fn routes_of<'r>(&'r self, service: &'r Name) -> impl Iterator<Item = &'r Name> {
        related(&self.service_routes, service)
    }

    /// Replaces the input of a service; `None` removes the service.
    pub(super) fn put_service(&mut self, name: &Name, input: Option<ServiceInput>) {
        let names = |input: Option<&ServiceInput>| -> BTreeSet<Name> {
            input.into_iter().flat_map(|it| &it.upstreams).map(|it| it.0.name.clone()).collect()
        };
        let (last, now) = (names(self.services.memo.input(name)), names(input.as_ref()));
        relate(&mut self.users, (last, now), name);
        self.services.put(name, input, ServiceInput::resolve);
    }

    /// Replaces the input of a route for requests; `None` removes the route.
    pub(super) fn put_route(&mut self, name: &Name, input: Option<RouteInput>) {
        let names = |input: Option<&RouteInput>| -> BTreeSet<Name> {
            input.and_then(|it| it.service.as_ref()).map(|it| it.0.name.clone()).into_iter().collect()
        };
        let (last, now) = (names(self.routes.memo.input(name)), names(input.as_ref()));
        relate(&mut self.service_routes, (last, now), name);
        self.routes.put(name, input, RouteInput::resolve);
    }
}

/// Iterates over the second members of the pairs that begin with `first`.
fn related<'s>(pairs: &'s OrdSet<(Name, Name)>, first: &'s Name) -> impl Iterator<Item = &'s Name> {
    let from = (first.clone(), Name::unnamed());
    pairs.range(from..).take_while(move |(of, _)| of == first).map(|(_, related)| related)
}

fn relate(pairs: &mut OrdSet<(Name, Name)>, (last, now): (BTreeSet<Name>, BTreeSet<Name>), to: &Name) {
    for removed in last.difference(&now) {
        pairs.remove(&(removed.clone(), to.clone()));
    }
    for added in now.difference(&last) {
        pairs.insert((added.clone(), to.clone()));
    }
}

/// Entities of one kind, with their inputs and faults.
#[derive(Debug, Clone)]
pub(super) struct ResolvedKind<I, T> {
    memo: Memo<Name, I, EntityOutcome<T>>,
    /// Entities that could be resolved.
    pub(super) entities: OrdMap<Name, Arc<T>>,
    /// Faults and warnings by entity; an entity without any has no entry.
    violations: OrdMap<Name, Arc<Vec<Violation>>>,
}

impl<I, T> Default for ResolvedKind<I, T> {
    fn default() -> Self {
        Self { memo: Memo::default(), entities: OrdMap::new(), violations: OrdMap::new() }
    }
}

impl<I: PartialEq + Clone, T: PartialEq> ResolvedKind<I, T> {
    /// Replaces the input of an entity and resolves it if the input changed.
    pub(super) fn put(&mut self, name: &Name, input: Option<I>, resolve: fn(&I) -> EntityOutcome<T>) {
        if !self.memo.put(name.clone(), input, resolve) {
            return;
        }
        let outcome = self.memo.get(name);
        memo::put(&mut self.entities, name.clone(), outcome.and_then(|outcome| outcome.entity.clone()));
        let faults = outcome.map(|outcome| outcome.faults.clone()).filter(|faults| !faults.is_empty());
        memo::put(&mut self.violations, name.clone(), faults.map(Arc::new));
    }

    /// Returns the time at which the faults of an entity change although its input does not.
    pub(super) fn until(&self, name: &Name) -> Option<Timestamp> {
        self.memo.get(name)?.until
    }

    /// Iterates over all faults and warnings.
    pub(super) fn violations(&self) -> impl Iterator<Item = &Violation> {
        self.violations.values().flat_map(|violations| violations.iter())
    }
}

//! Entities that are resolved again only when something that they depend on changed.
//!
//! One is resolved by a validation that knows its input and nothing else: what an input lacks is not there for it
//! at all, on the first build as on every later one. What only the whole config can tell is told around it: names
//! that occur twice, references that lead nowhere, routes that ask for the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use jiff::Timestamp;

use super::Validation;
use crate::config::Violation;
use crate::config::document::{self, Declared, Document};
use crate::config::material::NamedFiles;
use crate::memo::{self, Memo, Output, Same, Shared};
use crate::model::certificate::{Certificates, Sources};
use crate::model::documents::{Added, Documents, Site};
use crate::model::name::{Name, Scope};
use crate::model::place::{Faults, Place};
use crate::model::route::{self, Route};
use crate::model::service::Service;
use crate::model::upstream::{self, Upstream};

/// What was made of each entity, beside all that it was made of.
#[derive(Debug, Clone, Default)]
pub struct Resolved {
    pub(super) documents: Documents,
    pub(super) uses: Arc<BTreeMap<Name, upstream::Uses>>,
    pub(super) material: Option<Shared<Material>>,
    /// The names that routes may refer to.
    pub(super) scopes: Scopes,
    pub(super) upstreams: Stage<UpstreamInput, Upstream>,
    pub(super) services: Stage<ServiceInput, Service>,
    pub(super) routes: Stage<RouteInput, Route>,
    /// The upstreams that say anything of TLS.
    pub(super) in_tls: OrdSet<Name>,
    /// The routes that name listeners or fleets.
    pub(super) scoped: OrdSet<Name>,
    /// Each upstream with each service that names it.
    pub(super) users: OrdSet<(Name, Name)>,
    /// Each service with each route that names it.
    pub(super) ways: OrdSet<(Name, Name)>,
}

impl Resolved {
    /// The services that name an upstream, in their order.
    pub fn services_of<'r>(&'r self, upstream: &'r Name) -> impl Iterator<Item = &'r Name> {
        second(&self.users, upstream)
    }

    /// The routes for requests that name a service, in their order.
    pub fn routes_of<'r>(&'r self, service: &'r Name) -> impl Iterator<Item = &'r Name> {
        second(&self.ways, service)
    }

    /// Takes what there is of a service now.
    pub(super) fn put_service(&mut self, name: &Name, input: Option<ServiceInput>) {
        let names = |input: Option<&ServiceInput>| -> BTreeSet<Name> {
            input.into_iter().flat_map(|it| &it.upstreams).map(|it| it.0.name.clone()).collect()
        };
        let (last, now) = (names(self.services.memo.input(name)), names(input.as_ref()));
        relate(&mut self.users, (last, now), name);
        self.services.put(name, input, ServiceInput::resolve);
    }

    /// Takes what there is of a route for requests now.
    pub(super) fn put_route(&mut self, name: &Name, input: Option<RouteInput>) {
        let names = |input: Option<&RouteInput>| -> BTreeSet<Name> {
            input.and_then(|it| it.service.as_ref()).map(|it| it.0.name.clone()).into_iter().collect()
        };
        let (last, now) = (names(self.routes.memo.input(name)), names(input.as_ref()));
        relate(&mut self.ways, (last, now), name);
        self.routes.put(name, input, RouteInput::resolve);
    }
}

/// What is related to `first`.
fn second<'s>(pairs: &'s OrdSet<(Name, Name)>, first: &'s Name) -> impl Iterator<Item = &'s Name> {
    let from = (first.clone(), Name::unnamed());
    pairs.range(from..).take_while(move |(of, _)| of == first).map(|(_, second)| second)
}

fn relate(pairs: &mut OrdSet<(Name, Name)>, (last, now): (BTreeSet<Name>, BTreeSet<Name>), to: &Name) {
    for gone in last.difference(&now) {
        pairs.remove(&(gone.clone(), to.clone()));
    }
    for come in now.difference(&last) {
        pairs.insert((come.clone(), to.clone()));
    }
}

/// The names of fleets and listeners.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Scopes {
    pub(super) fleets: Vec<Name>,
    pub(super) listeners: Vec<Name>,
}

/// The entities of a kind.
#[derive(Debug, Clone)]
pub(super) struct Stage<I, T> {
    memo: Memo<Name, I, Outcome<T>>,
    /// Those that came of it.
    pub(super) entities: OrdMap<Name, Arc<T>>,
    /// What was found, of those of which anything was.
    told: OrdMap<Name, Arc<Vec<Violation>>>,
}

impl<I, T> Default for Stage<I, T> {
    fn default() -> Self {
        Self { memo: Memo::default(), entities: OrdMap::new(), told: OrdMap::new() }
    }
}

impl<I: PartialEq + Clone, T: PartialEq> Stage<I, T> {
    /// Takes what there is of an entity now.
    pub(super) fn put(&mut self, name: &Name, input: Option<I>, resolve: fn(&I) -> Outcome<T>) {
        if !self.memo.put(name.clone(), input, resolve) {
            return;
        }
        let outcome = self.memo.get(name);
        memo::put(&mut self.entities, name.clone(), outcome.and_then(|outcome| outcome.entity.clone()));
        let faults = outcome.map(|outcome| outcome.faults.clone()).filter(|faults| !faults.is_empty());
        memo::put(&mut self.told, name.clone(), faults.map(Arc::new));
    }

    /// When something else will be found of one, though nothing changed.
    pub(super) fn until(&self, name: &Name) -> Option<Timestamp> {
        self.memo.get(name)?.until
    }

    /// What was found.
    pub(super) fn told(&self) -> impl Iterator<Item = &Violation> {
        self.told.values().flat_map(|told| told.iter())
    }
}

impl Site {
    fn declared<'d, T>(
        &'d self,
        list: fn(&'d Document) -> &'d Vec<Declared<T>>,
    ) -> (&'d Declared<T>, Place<'d>) {
        let declared = &list(&self.document.0)[self.index];
        (declared, Place::new(&self.document.0, &declared.path))
    }
}

/// What came of an entity: nothing where it lacks what it cannot do without, but its faults all the same.
#[derive(Debug, PartialEq)]
pub(super) struct Outcome<T> {
    pub(super) entity: Option<Arc<T>>,
    pub(super) faults: Vec<Violation>,
    /// When these are others.
    pub(super) until: Option<Timestamp>,
}

impl<T> Clone for Outcome<T> {
    fn clone(&self) -> Self {
        Self { entity: self.entity.clone(), faults: self.faults.clone(), until: self.until }
    }
}

impl<T: PartialEq> Output for Outcome<T> {
    fn keeping(self, last: &Self) -> Self {
        let entity = match (self.entity, &last.entity) {
            (Some(entity), Some(last)) => Some(entity.keeping(last)),
            (entity, _) => entity,
        };
        Self { entity, ..self }
    }
}

/// What TLS is made of.
#[derive(Debug, PartialEq)]
pub(super) struct Material {
    pub(super) certificates: Arc<Certificates>,
    pub(super) named_files: NamedFiles,
    pub(super) now: Option<Timestamp>,
    /// There are no other certificates.
    pub(super) whole: bool,
}

impl Material {
    /// True when only time has passed between the two.
    pub(super) fn is_alike(&self, other: &Self) -> bool {
        (&self.certificates, &self.named_files, self.whole)
            == (&other.certificates, &other.named_files, other.whole)
    }
}

/// Calls `resolve` with a validation that knows no documents, and of TLS only `material`.
fn alone<T>(
    material: Option<&Material>,
    resolve: impl FnOnce(&mut Validation<'_>) -> Option<T>,
) -> Outcome<T> {
    let (documents, no_files) = (Documents::default(), NamedFiles::default());
    let mut validation = Validation {
        documents: &documents,
        whole: material.is_some_and(|material| material.whole),
        sources: Sources {
            files: material.map_or(&no_files, |material| &material.named_files),
            now: material.and_then(|material| material.now),
        },
        certificates: material.map(|material| material.certificates.clone()).unwrap_or_default(),
        faults: Faults::default(),
    };
    let entity = resolve(&mut validation).map(Arc::new);
    let Faults { violations: faults, until } = validation.faults;
    Outcome { entity, faults, until }
}

/// All that an upstream depends on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct UpstreamInput {
    pub(super) name: Name,
    pub(super) site: Site,
    /// Over REST.
    pub(super) added: Option<Same<Added>>,
    pub(super) uses: upstream::Uses,
    /// If it or a target of its says anything of TLS.
    pub(super) material: Option<Shared<Material>>,
}

impl UpstreamInput {
    pub(super) fn resolve(&self) -> Outcome<Upstream> {
        let (declared, place) = self.site.declared(|document| &document.upstreams);
        let added = self.added.iter().flat_map(|added| added.0.iter());
        let added = added.filter_map(|document| Some((&**document, &document.target.as_ref()?.1)));
        let material = self.material.as_ref().map(|material| &*material.0);
        alone(material, |it| {
            Some(it.resolve_upstream(&self.name, &place, &declared.entity, added.collect(), self.uses))
        })
    }
}

/// True when the upstream or one of its targets says anything of TLS.
pub(super) fn mentions_tls(upstream: &document::upstream::Upstream, added: &[Arc<Document>]) -> bool {
    let own = upstream.targets.iter().flatten();
    let added = added.iter().filter_map(|document| Some(&document.target.as_ref()?.1.entity));
    upstream.tls.is_some() || own.chain(added).any(|target| target.tls.is_some())
}

/// All that a service depends on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ServiceInput {
    pub(super) name: Name,
    pub(super) site: Site,
    /// Those that it names and that are there.
    pub(super) upstreams: Vec<Shared<Upstream>>,
}

impl ServiceInput {
    pub(super) fn resolve(&self) -> Outcome<Service> {
        let (declared, place) = self.site.declared(|document| &document.services);
        let upstreams = self.upstreams.iter().map(|it| (it.0.name.clone(), it.0.clone()));
        let upstreams: BTreeMap<Name, Arc<Upstream>> = upstreams.collect();
        alone(None, |it| it.resolve_service(&self.name, &place, &declared.entity, &upstreams))
    }
}

/// All that a route depends on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RouteInput {
    pub(super) name: Name,
    pub(super) site: Site,
    pub(super) listeners: Scope,
    pub(super) fleets: Scope,
    pub(super) service: Option<Shared<Service>>,
}

impl RouteInput {
    pub(super) fn resolve(&self) -> Outcome<Route> {
        let (declared, place) = self.site.declared(|document| &document.routes);
        let references = route::References {
            name: self.name.clone(),
            listeners: self.listeners.clone(),
            fleets: self.fleets.clone(),
            service: self.service.as_ref().map(|service| service.0.clone()),
        };
        alone(None, |it| it.resolve_route(references, &place, declared))
    }
}

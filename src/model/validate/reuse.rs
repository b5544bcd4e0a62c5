//! Incremental validation: an entity is resolved again only if something that it depends on changed.
//!
//! Each entity is resolved by a validation that sees only the input of the entity: the rest of the config
//! does not exist for it, neither in the first build nor in later ones. Faults that need the whole config are
//! found outside of it: duplicate names, dangling references and routes that match the same requests.

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

/// Result of each entity, with all inputs that it was computed from.
#[derive(Debug, Clone, Default)]
pub struct Resolved {
    pub(super) documents: Documents,
    pub(super) uses: Arc<BTreeMap<Name, upstream::Uses>>,
    pub(super) material: Option<Shared<Material>>,
    /// Names of fleets and listeners that routes may refer to.
    pub(super) scopes: Scopes,
    pub(super) upstreams: Stage<UpstreamInput, Upstream>,
    pub(super) services: Stage<ServiceInput, Service>,
    pub(super) routes: Stage<RouteInput, Route>,
    /// Upstreams that mention TLS in their own settings or in those of a target.
    pub(super) in_tls: OrdSet<Name>,
    /// Routes that name listeners or fleets.
    pub(super) scoped: OrdSet<Name>,
    /// Pairs of an upstream and a service that names it.
    pub(super) users: OrdSet<(Name, Name)>,
    /// Pairs of a service and a route that names it.
    pub(super) ways: OrdSet<(Name, Name)>,
}

impl Resolved {
    /// Iterates over the services that name an upstream, sorted by name.
    pub fn services_of<'r>(&'r self, upstream: &'r Name) -> impl Iterator<Item = &'r Name> {
        second(&self.users, upstream)
    }

    /// Iterates over the routes for requests that name a service, sorted by name.
    pub fn routes_of<'r>(&'r self, service: &'r Name) -> impl Iterator<Item = &'r Name> {
        second(&self.ways, service)
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
        relate(&mut self.ways, (last, now), name);
        self.routes.put(name, input, RouteInput::resolve);
    }
}

/// Iterates over the second members of the pairs that begin with `first`.
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

/// Names of fleets and listeners.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Scopes {
    pub(super) fleets: Vec<Name>,
    pub(super) listeners: Vec<Name>,
}

/// Entities of one kind, with their inputs and faults.
#[derive(Debug, Clone)]
pub(super) struct Stage<I, T> {
    memo: Memo<Name, I, Outcome<T>>,
    /// Entities that could be resolved.
    pub(super) entities: OrdMap<Name, Arc<T>>,
    /// Faults and warnings by entity; an entity without any has no entry.
    told: OrdMap<Name, Arc<Vec<Violation>>>,
}

impl<I, T> Default for Stage<I, T> {
    fn default() -> Self {
        Self { memo: Memo::default(), entities: OrdMap::new(), told: OrdMap::new() }
    }
}

impl<I: PartialEq + Clone, T: PartialEq> Stage<I, T> {
    /// Replaces the input of an entity and resolves it if the input changed.
    pub(super) fn put(&mut self, name: &Name, input: Option<I>, resolve: fn(&I) -> Outcome<T>) {
        if !self.memo.put(name.clone(), input, resolve) {
            return;
        }
        let outcome = self.memo.get(name);
        memo::put(&mut self.entities, name.clone(), outcome.and_then(|outcome| outcome.entity.clone()));
        let faults = outcome.map(|outcome| outcome.faults.clone()).filter(|faults| !faults.is_empty());
        memo::put(&mut self.told, name.clone(), faults.map(Arc::new));
    }

    /// Returns the time at which the faults of an entity change although its input does not.
    pub(super) fn until(&self, name: &Name) -> Option<Timestamp> {
        self.memo.get(name)?.until
    }

    /// Iterates over all faults and warnings.
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

/// Result of an entity. A missing essential field leaves no entity, but its faults are still kept.
#[derive(Debug, PartialEq)]
pub(super) struct Outcome<T> {
    pub(super) entity: Option<Arc<T>>,
    pub(super) faults: Vec<Violation>,
    /// Time at which the faults change, because certificates expire.
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

/// Inputs of the resolution of TLS.
#[derive(Debug, PartialEq)]
pub(super) struct Material {
    pub(super) certificates: Arc<Certificates>,
    pub(super) named_files: NamedFiles,
    pub(super) now: Option<Timestamp>,
    /// True if all certificates are known.
    pub(super) whole: bool,
}

impl Material {
    /// True if the two differ at most in the time.
    pub(super) fn is_alike(&self, other: &Self) -> bool {
        (&self.certificates, &self.named_files, self.whole)
            == (&other.certificates, &other.named_files, other.whole)
    }
}

/// Calls `resolve` with a validation that has no documents, and no keys and certificates except `material`.
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

/// All inputs of an upstream.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct UpstreamInput {
    pub(super) name: Name,
    pub(super) site: Site,
    /// Targets added over REST.
    pub(super) added: Option<Same<Added>>,
    pub(super) uses: upstream::Uses,
    /// Keys and certificates, if the upstream or one of its targets mentions TLS.
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

/// True if the upstream or one of its targets mentions TLS.
pub(super) fn mentions_tls(upstream: &document::upstream::Upstream, added: &[Arc<Document>]) -> bool {
    let own = upstream.targets.iter().flatten();
    let added = added.iter().filter_map(|document| Some(&document.target.as_ref()?.1.entity));
    upstream.tls.is_some() || own.chain(added).any(|target| target.tls.is_some())
}

/// All inputs of a service.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ServiceInput {
    pub(super) name: Name,
    pub(super) site: Site,
    /// Upstreams that it names and that exist.
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

/// All inputs of a route.
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

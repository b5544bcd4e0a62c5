//! Entities that are resolved again only when something that they depend on changed.
//!
//! One is resolved by a validation that knows its input and nothing else: what an input lacks is not there for it
//! at all, on the first build as on every later one. What only the whole config can tell is told around it: names
//! that occur twice, references that lead nowhere, routes that ask for the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::Validation;
use crate::config::Violation;
use crate::config::document::{self, Declared, Document};
use crate::config::material::NamedFiles;
use crate::memo::{Memo, Output, Same, Shared, changes};
use crate::model::certificate::{Certificates, Sources};
use crate::model::documents::{Added, Documents};
use crate::model::name::{Name, Scope};
use crate::model::place::{Faults, Place};
use crate::model::route::{self, Route};
use crate::model::service::Service;
use crate::model::upstream::{self, Upstream};

/// What was made of each entity, beside all that it was made of.
#[derive(Debug, Default)]
pub struct Resolved {
    pub(super) upstreams: Upstreams,
    pub(super) services: Services,
    pub(super) routes: Routes,
    /// The routes that no two ask for the same.
    pub(super) told_apart: Vec<Arc<Route>>,
}

impl Resolved {
    /// Where each upstream is declared, by name.
    pub fn upstreams(&self) -> impl Iterator<Item = (&Name, &Source)> {
        self.upstreams.inputs().map(|(name, input)| (name, &input.source))
    }

    /// Where each service is declared, by name.
    pub fn services(&self) -> impl Iterator<Item = (&Name, &Source)> {
        self.services.inputs().map(|(name, input)| (name, &input.source))
    }

    /// Where each route for requests is declared, by name.
    pub fn routes(&self) -> impl Iterator<Item = (&Name, &Source)> {
        self.routes.inputs().map(|(name, input)| (name, &input.source))
    }
}

pub(super) type Upstreams = Memo<Name, UpstreamInput, Outcome<Upstream>>;
pub(super) type Services = Memo<Name, ServiceInput, Outcome<Service>>;
pub(super) type Routes = Memo<Name, RouteInput, Outcome<Route>>;

/// Where an entity is declared. Another text is another source, even where it says the same.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// In which document.
    pub document: Same<Document>,
    /// In the list of its kind.
    pub index: usize,
}

impl Source {
    fn declared<'d, T>(
        &'d self,
        list: fn(&'d Document) -> &'d Vec<Declared<T>>,
    ) -> (&'d Declared<T>, Place<'d>) {
        let declared = &list(&self.document.0)[self.index];
        (declared, Place::new(&self.document.0, &declared.path))
    }
}

/// What came of an entity: nothing where it lacks what it cannot do without, but its faults all the same.
#[derive(Debug)]
pub(super) struct Outcome<T> {
    pub(super) entity: Option<Arc<T>>,
    pub(super) faults: Vec<Violation>,
}

impl<T> Clone for Outcome<T> {
    fn clone(&self) -> Self {
        Self { entity: self.entity.clone(), faults: self.faults.clone() }
    }
}

impl<T: PartialEq> Output for Outcome<T> {
    fn keeping(self, last: &Self) -> Self {
        let entity = match (self.entity, &last.entity) {
            (Some(entity), Some(last)) => Some(entity.keeping(last)),
            (entity, _) => entity,
        };
        Self { entity, faults: self.faults }
    }
}

/// The entities that are not the same any more, or are there no more.
pub(super) fn changed<I: PartialEq, T>(
    last: &Memo<Name, I, Outcome<T>>,
    now: &Memo<Name, I, Outcome<T>>,
) -> BTreeSet<Name> {
    fn entities<I, T>(memo: &Memo<Name, I, Outcome<T>>) -> impl Iterator<Item = (&Name, &Arc<T>)> {
        memo.iter().filter_map(|(name, outcome)| Some((name, outcome.entity.as_ref()?)))
    }
    changes(entities(last), entities(now)).into_iter().map(|(name, _)| name.clone()).collect()
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
    Outcome { entity, faults: validation.faults.violations }
}

/// All that an upstream depends on.
#[derive(Debug, PartialEq)]
pub(super) struct UpstreamInput {
    pub(super) name: Name,
    pub(super) source: Source,
    /// Over REST.
    pub(super) added: Option<Same<Added>>,
    pub(super) uses: upstream::Uses,
    /// If it or a target of its says anything of TLS.
    pub(super) material: Option<Shared<Material>>,
}

impl UpstreamInput {
    pub(super) fn resolve(&self) -> Outcome<Upstream> {
        let (declared, place) = self.source.declared(|document| &document.upstreams);
        let added = self.added.iter().flat_map(|added| added.0.iter());
        let added = added.filter_map(|document| Some((&**document, &document.target.as_ref()?.1)));
        let material = self.material.as_ref().map(|material| &*material.0);
        alone(material, |it| {
            Some(it.resolve_upstream(&self.name, &place, &declared.entity, added.collect(), self.uses))
        })
    }
}

/// True when the upstream or one of its targets says anything of TLS.
pub(super) fn mentions_tls(upstream: &document::Upstream, added: &[Arc<Document>]) -> bool {
    let own = upstream.targets.iter().flatten();
    let added = added.iter().filter_map(|document| Some(&document.target.as_ref()?.1.entity));
    upstream.tls.is_some() || own.chain(added).any(|target| target.tls.is_some())
}

/// All that a service depends on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ServiceInput {
    pub(super) name: Name,
    pub(super) source: Source,
    /// Those that it names and that are there.
    pub(super) upstreams: Vec<Shared<Upstream>>,
}

impl ServiceInput {
    pub(super) fn names_any_of(&self, changed: &BTreeSet<Name>) -> bool {
        self.upstreams.iter().any(|upstream| changed.contains(&upstream.0.name))
    }

    pub(super) fn resolve(&self) -> Outcome<Service> {
        let (declared, place) = self.source.declared(|document| &document.services);
        let upstreams = self.upstreams.iter().map(|it| (it.0.name.clone(), it.0.clone()));
        let upstreams: BTreeMap<Name, Arc<Upstream>> = upstreams.collect();
        alone(None, |it| it.resolve_service(&self.name, &place, &declared.entity, &upstreams))
    }
}

/// All that a route depends on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RouteInput {
    pub(super) name: Name,
    pub(super) source: Source,
    pub(super) listeners: Scope,
    pub(super) fleets: Scope,
    pub(super) service: Option<Shared<Service>>,
}

impl RouteInput {
    /// True when all that it refers to is as it was: what it refers to by lists is looked up again.
    pub(super) fn is_as_it_was(&self, changed: &BTreeSet<Name>) -> bool {
        (&self.listeners, &self.fleets) == (&Scope::All, &Scope::All)
            && self.service.as_ref().is_none_or(|service| !changed.contains(&service.0.name))
    }

    pub(super) fn resolve(&self) -> Outcome<Route> {
        let (declared, place) = self.source.declared(|document| &document.routes);
        let references = route::References {
            name: self.name.clone(),
            listeners: self.listeners.clone(),
            fleets: self.fleets.clone(),
            service: self.service.as_ref().map(|service| service.0.clone()),
        };
        alone(None, |it| it.resolve_route(references, &place, declared))
    }
}

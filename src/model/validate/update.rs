//! Incremental validation of upstreams, services and routes: resolves those again that changed, or whose inputs
//! did.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;

use crate::config::document::{self, Declared, Document, Kind};
use crate::memo::{ArcEq, changes};
use crate::model::name::Name;
use crate::model::passthrough::Passthrough;
use crate::model::upstream;
use crate::model::validate::context::{Named, Validation};
use crate::model::validate::outcome::TlsMaterial;
use crate::model::validate::resolved::ResolvedEntities;
use crate::model::validate::routes::RouteInput;
use crate::model::validate::services::ServiceInput;
use crate::model::validate::upstreams::UpstreamInput;
use crate::model::validate::{passthroughs, routes, upstreams};

/// Resolves again the upstreams that changed, whose users require something else of them, or whose keys
/// and certificates may have changed.
pub(super) fn upstreams(
    validation: &mut Validation<'_>,
    last: &ResolvedEntities,
    resolved: &mut ResolvedEntities,
) {
    const KIND: Kind = Kind::Upstream;
    fn list(document: &Document) -> &Vec<Declared<document::upstream::Upstream>> {
        &document.upstreams
    }
    let documents = validation.documents;
    let are_as_used =
        [Kind::Service, Kind::Route].iter().all(|kind| documents.changed(*kind, &last.documents).is_empty());
    if !are_as_used {
        resolved.uses = Arc::new(upstreams::uses(documents));
    }
    let material = ArcEq(Arc::new(TlsMaterial {
        certificates: validation.certificates.clone(),
        named_files: validation.sources.files.clone(),
        now: validation.sources.now,
        is_complete: validation.is_complete,
    }));
    // The passing of time affects only the upstreams of which a certificate has expired since.
    let known = last.material.clone().filter(|known| known.0.is_alike(&material.0));
    for name in pending_upstreams(validation, last, resolved, known.is_some()) {
        let input = validation.first_named(KIND, list, &name).map(|named| {
            let uses = resolved.uses.get(&name).copied().unwrap_or_default();
            UpstreamInput::new(documents, &named, uses, &material)
        });
        if input.as_ref().is_some_and(|input| input.material.is_some()) {
            resolved.in_tls.insert(name.clone());
        } else {
            resolved.in_tls.remove(&name);
        }
        resolved.upstreams.put(&name, input, UpstreamInput::resolve);
    }
    for named in validation.misnamed(KIND, list, |it| it.name.as_deref()) {
        let (name, site, material) = (named.name.clone(), named.site(), Some(material.clone()));
        let input = UpstreamInput { name, site, added: None, uses: upstream::Uses::default(), material };
        validation.faults.violations.extend(input.resolve().faults);
    }
    resolved.material = known.or(Some(material));
    let in_tls = resolved.in_tls.iter();
    validation.faults.hold_until(in_tls.filter_map(|name| resolved.upstreams.until(name)));
}

/// Returns the upstreams to resolve again. `is_material_known` is false if keys or certificates changed.
fn pending_upstreams(
    validation: &Validation<'_>,
    last: &ResolvedEntities,
    resolved: &ResolvedEntities,
    is_material_known: bool,
) -> BTreeSet<Name> {
    let documents = validation.documents;
    let changed = documents.changed(Kind::Upstream, &last.documents);
    let mut pending: BTreeSet<Name> = changed.into_iter().cloned().collect();
    pending.extend(documents.changed_targets(&last.documents).cloned());
    if !Arc::ptr_eq(&last.uses, &resolved.uses) {
        let used = last.uses.keys().chain(resolved.uses.keys());
        pending.extend(used.filter(|name| last.uses.get(*name) != resolved.uses.get(*name)).cloned());
    }
    let has_passed = |until: Timestamp| validation.sources.now.is_some_and(|now| until <= now);
    let is_due = |name: &&Name| !is_material_known || last.upstreams.until(name).is_some_and(has_passed);
    pending.extend(last.in_tls.iter().filter(is_due).cloned());
    pending
}

/// Resolves again the services that changed, or whose upstreams changed.
pub(super) fn services(
    validation: &mut Validation<'_>,
    last: &ResolvedEntities,
    resolved: &mut ResolvedEntities,
) {
    const KIND: Kind = Kind::Service;
    fn list(document: &Document) -> &Vec<Declared<document::service::Service>> {
        &document.services
    }
    let mut pending: BTreeSet<Name> =
        validation.documents.changed(KIND, &last.documents).into_iter().cloned().collect();
    for changed in changes(&last.upstreams.entities, &resolved.upstreams.entities) {
        pending.extend(last.services_of(changed.key).cloned());
    }
    for name in pending {
        let named = validation.first_named(KIND, list, &name);
        let input = named.map(|named| ServiceInput::new(validation, &named, &resolved.upstreams.entities));
        resolved.put_service(&name, input);
    }
    for named in validation.misnamed(KIND, list, |it| it.name.as_deref()) {
        let input = ServiceInput::new(validation, &named, &resolved.upstreams.entities);
        validation.faults.violations.extend(input.resolve().faults);
    }
}

/// Resolves again the routes that changed, or whose services changed. SNI routes are few, and are
/// resolved each time.
pub(super) fn routes<'a>(
    validation: &mut Validation<'a>,
    last: &ResolvedEntities,
    resolved: &mut ResolvedEntities,
) -> Vec<Passthrough> {
    const KIND: Kind = Kind::Route;
    fn list(document: &Document) -> &Vec<Declared<document::route::Route>> {
        &document.routes
    }
    let mut pending: BTreeSet<Name> =
        validation.documents.changed(KIND, &last.documents).into_iter().cloned().collect();
    for name in &pending {
        let is_scoped = |named: Named<'a, document::route::Route>| {
            let entity = &named.declared.entity;
            !entity.listeners.is_empty() || !entity.fleets.is_empty()
        };
        if validation.first_named(KIND, list, name).is_some_and(is_scoped) {
            resolved.scoped.insert(name.clone());
        } else {
            resolved.scoped.remove(name);
        }
    }
    pending.extend(resolved.scoped.iter().cloned());
    for changed in changes(&last.services.entities, &resolved.services.entities) {
        pending.extend(last.routes_of(changed.key).cloned());
    }
    let protocols = passthroughs::listener_protocols(validation);
    let mut passthroughs = Vec::new();
    for name in pending {
        let input = match validation.first_named(KIND, list, &name) {
            Some(named) if passthroughs::is_of_connections(validation, &named, &protocols) => {
                passthroughs.push(named);
                None
            }
            named => named.map(|named| {
                RouteInput::new(validation, &named, &resolved.scopes, &resolved.services.entities)
            }),
        };
        resolved.put_route(&name, input);
    }
    for named in validation.misnamed(KIND, list, |it| it.name.as_deref()) {
        if passthroughs::is_of_connections(validation, &named, &protocols) {
            passthroughs.push(named);
            continue;
        }
        let input = RouteInput::new(validation, &named, &resolved.scopes, &resolved.services.entities);
        validation.faults.violations.extend(input.resolve().faults);
    }
    let mut changed = changes(&last.routes.entities, &resolved.routes.entities);
    if !changed.all(|it| it.old.zip(it.new).is_some_and(|(old, new)| old.matches_the_same(new))) {
        routes::report_equal_matches(validation, &resolved.routes.entities);
        routes::report_repeated_matches(validation, &resolved.routes.entities);
    }
    passthroughs::resolve(validation, passthroughs, &resolved.scopes.fleets, &resolved.services.entities)
}

//! Validation: turns documents into a [`Model`], or returns all faults at once.
//!
//! An entity with a fault can still be referred to by its name, and a fault reported by decoding is not
//! reported again. If a file cannot be parsed, names that it might declare are not reported as dangling.

mod certificates;
mod context;
mod fleets;
mod listeners;
mod outcome;
mod overlap;
mod passthroughs;
mod protocols;
pub mod resolved;
mod routes;
mod services;
mod targets;
mod update;
mod upstreams;

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;

use crate::config::document::Kind;
use crate::config::material::NamedFiles;
use crate::config::{Level, Violation};
use crate::model::Model;
use crate::model::certificate::Sources;
use crate::model::documents::Documents;
use crate::model::name::Name;
use crate::model::place::FaultCollector;
use crate::model::validate::context::Validation;
use crate::model::validate::resolved::ResolvedEntities;
use crate::model::validate::routes::Scopes;
use crate::model::{notify, raw, resolver, rollout};

/// Result of a validation without errors.
#[derive(Debug)]
pub struct Validated {
    /// Resolved configuration.
    pub model: Model,
    /// Warnings: valid settings that are probably not meant.
    pub warnings: Vec<Violation>,
    /// Time at which the warnings change although no input changed, because certificates expire.
    pub until: Option<Timestamp>,
    /// Cache for the next validation.
    pub resolved: ResolvedEntities,
}

/// Validates all documents together. `named_files` hold keys and certificates; without `now`, no certificate
/// counts as expired. An entity whose inputs did not change is reused from `last`.
///
/// # Errors
///
/// Returns every fault of validation. The caller adds those of decoding.
pub fn validate(
    documents: &Documents,
    named_files: &NamedFiles,
    now: Option<Timestamp>,
    last: &ResolvedEntities,
) -> Result<Validated, Vec<Violation>> {
    let mut validation = Validation {
        documents,
        is_complete: documents.of_files().all(|document| document.whole),
        sources: Sources { files: named_files, now },
        certificates: Arc::default(),
        faults: FaultCollector::default(),
    };
    let (model, resolved) = model(&mut validation, last);
    let FaultCollector { violations: warnings, until, .. } = validation.faults;
    if warnings.iter().any(|violation| violation.level == Level::Error) {
        return Err(warnings);
    }
    Ok(Validated { model, warnings, until, resolved })
}

/// Validates all kinds, each after those that it refers to.
fn model(validation: &mut Validation<'_>, last: &ResolvedEntities) -> (Model, ResolvedEntities) {
    let mut resolved = ResolvedEntities { documents: validation.documents.clone(), ..last.clone() };
    let fleets = validation.named(Kind::Fleet, |document| &document.fleets, |fleet| fleet.name.as_deref());
    let listeners = validation.named(Kind::Listener, |document| &document.listeners, |it| it.name.as_deref());
    let certificates =
        validation.named(Kind::Certificate, |document| &document.certificates, |it| it.name.as_deref());

    let fleets = fleets::resolve(validation, fleets);
    validation.certificates = Arc::new(certificates::resolve(validation, certificates));
    update::upstreams(validation, last, &mut resolved);
    update::services(validation, last, &mut resolved);
    let (upstreams, services) = (&resolved.upstreams.entities, &resolved.services.entities);
    let fleet_names = fleets.iter().map(|fleet| fleet.name.clone()).chain([Name::default_fleet()]).collect();
    let named = listeners.iter().filter(|listener| listener.counts);
    let mut listener_names: BTreeSet<Name> = named.map(|listener| listener.name.clone()).collect();
    let listeners = listeners::resolve(validation, listeners, &fleet_names, services, upstreams);
    if listener_names.is_empty() {
        listener_names.extend(listeners.iter().map(|listener| listener.name.clone()));
    }
    resolved.scopes = Scopes { fleets: fleet_names, listeners: listener_names };
    let passthroughs = update::routes(validation, last, &mut resolved);
    let raw = raw::resolve(validation.documents, &listeners, validation.is_complete, &mut validation.faults);
    let certificates = validation.certificates.iter();
    let certificates = certificates.filter_map(|(name, it)| Some((name.clone(), it.clone()?))).collect();
    let resolver = resolver::resolve(validation.documents, &mut validation.faults);
    let rollout = rollout::resolve(validation.documents, &mut validation.faults);
    let notify = notify::resolve(validation.documents, &mut validation.faults);
    let violations = resolved
        .upstreams
        .violations()
        .chain(resolved.services.violations())
        .chain(resolved.routes.violations());
    validation.faults.violations.extend(violations.cloned());
    let model = Model {
        fleets,
        listeners,
        certificates,
        routes: resolved.routes.entities.clone(),
        passthroughs,
        services: resolved.services.entities.clone(),
        upstreams: resolved.upstreams.entities.clone(),
        resolver,
        rollout,
        notify,
        raw,
    };
    (model, resolved)
}

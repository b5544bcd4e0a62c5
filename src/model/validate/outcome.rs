//! Result of the validation of one entity, apart from all others.
//!
//! Each entity is resolved by a validation that sees only the input of the entity: the rest of the config
//! does not exist for it, neither in the first build nor in later ones. Faults that need the whole config are
//! found outside of it: duplicate names, dangling references and routes that match the same requests.

use std::sync::Arc;

use jiff::Timestamp;

use crate::config::Violation;
use crate::config::document::{Declared, Document};
use crate::config::material::NamedFiles;
use crate::memo::MemoOutput;
use crate::model::certificate::{Certificates, Sources};
use crate::model::documents::{Documents, Site};
use crate::model::place::{FaultCollector, FaultPlace};
use crate::model::validate::context::Validation;

/// Result of an entity. A missing essential field leaves no entity, but its faults are still kept.
#[derive(Debug, PartialEq)]
pub(super) struct EntityOutcome<T> {
    pub(super) entity: Option<Arc<T>>,
    pub(super) faults: Vec<Violation>,
    /// Time at which the faults change, because certificates expire.
    pub(super) until: Option<Timestamp>,
}

impl<T> Clone for EntityOutcome<T> {
    fn clone(&self) -> Self {
        Self { entity: self.entity.clone(), faults: self.faults.clone(), until: self.until }
    }
}

impl<T: PartialEq> MemoOutput for EntityOutcome<T> {
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
pub(super) struct TlsMaterial {
    pub(super) certificates: Arc<Certificates>,
    pub(super) named_files: NamedFiles,
    pub(super) now: Option<Timestamp>,
    /// True if all certificates are known.
    pub(super) is_complete: bool,
}

impl TlsMaterial {
    /// True if the two differ at most in the time.
    pub(super) fn is_alike(&self, other: &Self) -> bool {
        (&self.certificates, &self.named_files, self.is_complete)
            == (&other.certificates, &other.named_files, other.is_complete)
    }
}

/// Calls `resolve` with a validation that has no documents, and no keys and certificates except `material`.
pub(super) fn alone<T>(
    material: Option<&TlsMaterial>,
    resolve: impl FnOnce(&mut Validation<'_>) -> Option<T>,
) -> EntityOutcome<T> {
    let (documents, no_files) = (Documents::default(), NamedFiles::default());
    let mut validation = Validation {
        documents: &documents,
        is_complete: material.is_some_and(|material| material.is_complete),
        sources: Sources {
            files: material.map_or(&no_files, |material| &material.named_files),
            now: material.and_then(|material| material.now),
        },
        certificates: material.map(|material| material.certificates.clone()).unwrap_or_default(),
        faults: FaultCollector::default(),
    };
    let entity = resolve(&mut validation).map(Arc::new);
    let FaultCollector { violations: faults, until, .. } = validation.faults;
    EntityOutcome { entity, faults, until }
}

impl Site {
    /// Returns the declaration and its place.
    pub(super) fn declared<'d, T>(
        &'d self,
        list: fn(&'d Document) -> &'d Vec<Declared<T>>,
    ) -> (&'d Declared<T>, FaultPlace<'d>) {
        let declared = &list(&self.document.0)[self.index];
        (declared, FaultPlace::new(&self.document.0, &declared.path))
    }
}

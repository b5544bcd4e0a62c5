//! Validation of certificates.

use std::sync::Arc;

use crate::config::document;
use crate::model::certificate::{self, Certificates};
use crate::model::validate::context::{Named, Validation};

/// Resolves the certificates. A certificate with a fault is known by its name.
pub(super) fn resolve<'a>(
    validation: &mut Validation<'a>,
    declared: Vec<Named<'a, document::certificate::Certificate>>,
) -> Certificates {
    let mut certificates = Certificates::new();
    for named in declared {
        let place = named.place();
        let Named { name, counts, declared, .. } = named;
        let certificate = certificate::resolve(
            name.clone(),
            &place,
            &declared.entity,
            validation.sources,
            &mut validation.faults,
        );
        if counts {
            certificates.insert(name, certificate.map(Arc::new));
        }
    }
    certificates
}

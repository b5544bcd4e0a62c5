//! Validation of fleets.

use crate::config::document;
use crate::model::fleet::{self, Fleet};
use crate::model::validate::context::{Named, Validation};

/// Resolves the fleets in declaration order: a node belongs to the first that selects it.
pub(super) fn resolve<'a>(
    validation: &mut Validation<'a>,
    mut declared: Vec<Named<'a, document::fleet::Fleet>>,
) -> Vec<Fleet> {
    declared
        .sort_by(|a, b| (a.document.file(), &a.declared.path).cmp(&(b.document.file(), &b.declared.path)));
    let mut fleets = Vec::new();
    for named in declared {
        let place = named.place();
        let Named { name, counts, declared, .. } = named;
        let fleet = fleet::resolve(name, &place, declared, &mut validation.faults);
        fleets.extend(counts.then_some(fleet));
    }
    fleets
}

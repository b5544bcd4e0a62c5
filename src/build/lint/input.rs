//! Config to lint, as resolved by the earlier stages of a build.

use crate::model::Model;
use crate::model::documents::Documents;
use crate::model::validate::resolved::ResolvedEntities;

/// Config to lint: its meaning, and the places where it is declared.
#[derive(Debug, Clone, Copy)]
pub struct LintInput<'a> {
    /// Validated entities.
    pub model: &'a Model,
    /// Results of validation, each with everything that it was made of.
    pub resolved: &'a ResolvedEntities,
    /// Documents that declare the entities.
    pub documents: &'a Documents,
}

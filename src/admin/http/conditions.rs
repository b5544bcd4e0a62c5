//! Preconditions of writes, and the tags that they compare.

use axum::http::StatusCode;
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_128;

use crate::admin::http::problem::Problem;

/// Preconditions of a write (RFC 9110, section 13).
#[derive(Debug, Clone, Default)]
pub(crate) struct Conditions {
    /// Value of `If-Match`.
    pub(crate) if_match: Option<String>,
    /// True for `If-None-Match: *`: the entity must not exist.
    pub(crate) only_new: bool,
    /// True if an existing entity is changed only with `If-Match`.
    pub(crate) required: bool,
}

impl Conditions {
    /// Refuses a change of several entities that are not as the client last saw them.
    pub(crate) fn check(&self, what: &str, tag: &str) -> Result<(), Problem> {
        match &self.if_match {
            None if self.required => Err(Problem::precondition_required()),
            Some(expected) if !matches(expected, tag) => {
                let detail = format!("{what} no longer what `If-Match` says");
                Err(Problem::new(StatusCode::PRECONDITION_FAILED, detail))
            }
            _ => Ok(()),
        }
    }
}

/// True if an `If-Match` header matches this tag.
pub(crate) fn matches(expected: &str, tag: &str) -> bool {
    expected.trim() == "*" || expected.split(',').any(|one| one.trim() == tag)
}

/// Returns the strong tag of a body.
pub(crate) fn etag(body: &Value) -> String {
    format!("\"{:032x}\"", xxh3_128(body.to_string().as_bytes()))
}

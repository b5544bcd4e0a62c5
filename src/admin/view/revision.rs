//! Revisions and their edits.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::admin::view::secret::SecretMask;
use crate::config::edit::{Edit, EditAction};
use crate::control::progress::Progress;
use crate::store::RevisionHead;

/// State of a revision.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum RevisionState {
    /// A canary refused it, and it was taken back.
    Rejected,
    /// It is accepted, and not in effect yet.
    RollingOut,
    /// It is the newest in effect.
    Live,
    /// A newer one is in effect.
    Superseded,
}

/// Accepted change.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RevisionView {
    /// Number of the revision, from 1, without gaps.
    number: u64,
    /// Time of acceptance.
    time: String,
    /// Name of the token, `anonymous`, or the files.
    author: String,
    /// Origin of the change: `files`, `api` or `rollback`.
    source: &'static str,
    /// Reason that the author gave.
    reason: Option<String>,
    /// Summary of the change, in words.
    summary: String,
    state: RevisionState,
    /// Error message of the Envoy that refused it.
    error: Option<String>,
    /// Envoys that refused it.
    refused_by: Vec<String>,
}

impl RevisionView {
    /// Returns a revision, with its state in this rollout.
    pub(crate) fn new(revision: RevisionHead, progress: &Progress) -> Self {
        Self {
            number: revision.number,
            time: revision.time.to_string(),
            author: revision.author,
            source: revision.source.word(),
            reason: revision.reason,
            summary: revision.summary,
            state: match revision.number {
                _ if revision.error.is_some() => RevisionState::Rejected,
                number if progress.rolling_out.contains(&number) => RevisionState::RollingOut,
                number if number == progress.live => RevisionState::Live,
                _ => RevisionState::Superseded,
            },
            error: revision.error,
            refused_by: revision.refused_by,
        }
    }
}

/// Accepted change with its edits.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RevisionDetailView {
    #[serde(flatten)]
    pub(crate) revision: RevisionView,
    /// Edits by entity.
    pub(crate) changes: Vec<EditView>,
}

/// Difference between two revisions.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RevisionDiffView {
    /// Revision before.
    pub(crate) from: u64,
    /// Revision after, which may be the older one.
    pub(crate) to: u64,
    /// Edits by entity.
    pub(crate) changes: Vec<EditView>,
}

/// Edit of one entity.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct EditView {
    /// Kind of the entity, in the singular.
    kind: &'static str,
    /// Name of the entity: `upstream/host:port` for a target, `type/name` for a raw resource.
    name: String,
    /// Action on the entity; null if it stays the same.
    action: Option<EditAction>,
    /// File that declares the entity; null for one written over REST.
    file: Option<String>,
    /// Entity before, in the shape of its kind; null if it did not exist.
    before: Option<Value>,
    /// Entity after, in the shape of its kind; null if it is deleted.
    after: Option<Value>,
}

impl EditView {
    /// Returns an edit without its secrets.
    pub(crate) fn new(edit: &Edit, mask: SecretMask) -> Self {
        let shown = |body: &Arc<Value>| mask.shown(edit.kind, Value::clone(body));
        let body = |body: &Option<Arc<Value>>| body.as_ref().map(shown);
        Self {
            kind: edit.kind.singular(),
            name: edit.name.clone(),
            action: edit.action(),
            file: edit.file.as_ref().map(ToString::to_string),
            before: body(&edit.before),
            after: body(&edit.after),
        }
    }
}

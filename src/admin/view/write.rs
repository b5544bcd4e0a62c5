//! Responses to writes. The write path builds most of them by hand: these types are their schemas.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use crate::admin::view::revision::RevisionDetailView;
use crate::config::Violation;
use crate::inspect::plan;

/// Plan of a change: the response to `POST /plan` and to a dry run.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct DryRunView {
    /// Changes by entity.
    pub(crate) changes: Vec<plan::PlannedChange>,
    /// Changed resources over all fleets, by the plural of their type.
    pub(crate) envoy: BTreeMap<String, plan::ResourceChanges>,
    /// Findings of lint that the change causes; absent if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) warnings: Option<Vec<Violation>>,
}

/// Response to a change that not all Envoys have acknowledged in time.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PendingView {
    /// Revision that the change made; null if nothing had to change.
    pub(crate) revision: Option<u64>,
    /// Envoys that have not acknowledged it.
    pub(crate) waiting_for: Vec<PendingNodeView>,
}

/// Envoy that has not acknowledged a change.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PendingNodeView {
    /// Node id; null while a canary is being chosen.
    pub(crate) node: Option<String>,
    /// Fleet of the node.
    pub(crate) fleet: String,
    /// Phase of the canary, if the change waits for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) canary: Option<String>,
    /// Types that are not acknowledged.
    pub(crate) types: Vec<PendingTypeView>,
}

/// Type that an Envoy has not acknowledged.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PendingTypeView {
    /// Plural of the type, such as `clusters`.
    #[serde(rename = "type")]
    pub(crate) resource_type: String,
    /// `pending` or `nacked`.
    pub(crate) state: String,
    /// Error message of the Envoy, if it refused the type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// Response to a deletion of an entity with those that refer to it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct DeletedView {
    /// Paths of the deleted entities.
    pub(crate) deleted: Vec<String>,
    /// Findings of lint that the change caused; absent if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) warnings: Option<Vec<Violation>>,
}

/// Response to `PATCH /config`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ChangedView {
    /// Outcomes of the changes, in order.
    pub(crate) changes: Vec<OutcomeView>,
    /// Newest revision.
    pub(crate) revision: u64,
    /// Findings of lint that the changes caused; absent if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) warnings: Option<Vec<Violation>>,
}

/// Outcome of one of several changes.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct OutcomeView {
    /// Path of the entity.
    pub(crate) path: String,
    /// Status that the change would have had alone.
    pub(crate) status: u16,
    /// `created`, `updated`, `unchanged` or `deleted`.
    pub(crate) action: String,
}

/// Response to `PUT /config`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct SynchronizedView {
    /// Paths of created entities.
    pub(crate) created: Vec<String>,
    /// Paths of changed entities.
    pub(crate) updated: Vec<String>,
    /// Paths of deleted entities.
    pub(crate) deleted: Vec<String>,
    /// Number of entities that stay as they were.
    pub(crate) unchanged: u64,
    /// Newest revision.
    pub(crate) revision: u64,
    /// Findings of lint that the change caused; absent if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) warnings: Option<Vec<Violation>>,
}

/// Response to a rollback: the newest revision, which is the one that the rollback made, unless nothing had to
/// change.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RolledBackView {
    #[serde(flatten)]
    pub(crate) revision: RevisionDetailView,
    /// Revision that was rolled back to.
    pub(crate) rolled_back_to: u64,
    /// Findings of lint that the rollback caused; absent if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) warnings: Option<Vec<Violation>>,
}

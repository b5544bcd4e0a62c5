//! Health of an upstream and of its targets, as traffic and health checks show it.

use schemars::JsonSchema;
use serde::Serialize;

use crate::admin::view::drill::DrillView;
use crate::admin::view::failover::FailoverView;
use crate::admin::view::order::{HoldView, NoteView, StateView, StateWord};

/// Health of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HealthWord {
    /// It serves requests, or passes its checks.
    Healthy,
    /// It fails requests or checks.
    Unhealthy,
}

impl HealthWord {
    /// Returns the word for a health.
    pub(crate) fn new(is_healthy: bool) -> Self {
        if is_healthy { Self::Healthy } else { Self::Unhealthy }
    }
}

/// Health of an upstream.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct HealthView {
    /// Tier that serves at most Envoys; null if no Envoy ever reported one.
    pub(crate) serving_priority: Option<u32>,
    /// Time since which that tier serves.
    pub(crate) since: Option<String>,
    /// True if no Envoy sent requests recently, so that the last known values are shown.
    pub(crate) stale: bool,
    /// Requests to all targets, retries included.
    pub(crate) requests_per_second: f64,
    /// Targets, as declared.
    pub(crate) targets: Vec<TargetHealthView>,
    /// Views of single Envoys.
    pub(crate) nodes: Vec<NodeHealthView>,
    /// Connected Envoys that do not report their load.
    pub(crate) not_reporting: Vec<String>,
    /// Envoys that check the targets for the control plane, so that the health of one without traffic is known.
    pub(crate) checked_by: Vec<String>,
    /// Pin in force.
    pub(crate) pin: Option<PinnedView>,
    /// Hold of a standby in force.
    pub(crate) hold: Option<HoldView>,
    /// Running drill.
    pub(crate) drill: Option<DrillView>,
    /// Failover that lasts, else the last one.
    pub(crate) failover: Option<FailoverView>,
}

/// Pin in force.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PinnedView {
    /// Pinned tier.
    pub(crate) priority: u32,
    /// Author, reason and lifetime.
    pub(crate) note: NoteView,
}

/// Health of an upstream as one Envoy sees it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct NodeHealthView {
    /// Node id.
    pub(crate) id: String,
    /// Tier that serves there.
    pub(crate) serving_priority: Option<u32>,
    /// Time since which that tier serves.
    pub(crate) since: String,
    /// Time of the last report.
    pub(crate) last_seen: String,
    /// True if the last report is too old to count.
    pub(crate) stale: bool,
    /// Requests of this Envoy.
    pub(crate) requests_per_second: f64,
    /// Targets that it reported.
    pub(crate) targets: Vec<NodeTargetView>,
}

/// Target as one Envoy sees it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct NodeTargetView {
    /// Address of the target.
    pub(crate) target: String,
    /// Health; null if unknown.
    pub(crate) health: Option<HealthWord>,
    /// Percentage of the requests of this Envoy.
    pub(crate) share: f64,
    /// Requests of this Envoy to the target.
    pub(crate) requests_per_second: f64,
}

/// Target, as all Envoys together see it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TargetHealthView {
    /// Address of the target.
    pub(crate) target: String,
    /// Declared tier.
    pub(crate) priority: u32,
    /// Health; null if neither traffic nor checks ever showed it.
    pub(crate) health: Option<HealthWord>,
    /// Time since which it has this health.
    pub(crate) since: Option<String>,
    /// True if the health was seen too long ago to count.
    pub(crate) stale: bool,
    /// State in force; a drill counts as `down`.
    pub(crate) state: StateWord,
    /// Order that gave the state.
    pub(crate) order: Option<StateView>,
    /// Percentage of the requests; null if no Envoy ever reported any.
    pub(crate) share: Option<f64>,
    /// Requests to the target; null if no Envoy ever reported any.
    pub(crate) requests_per_second: Option<f64>,
    /// Envoys that reported it.
    pub(crate) reported_by: Vec<String>,
    /// Envoys that see another health.
    pub(crate) disagree: Vec<String>,
    /// Resolution of its host name; absent if it is an address, or resolved by Envoys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resolved: Option<ResolutionView>,
}

/// Resolution of a host name by the control plane.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ResolutionView {
    /// Age of the addresses in use, in seconds; null if there never were any.
    pub(crate) age: Option<f64>,
    /// Reason for which the newest lookup failed; null if it did not.
    pub(crate) error: Option<String>,
}

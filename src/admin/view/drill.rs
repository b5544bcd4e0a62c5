//! Drills and what they showed.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use crate::failover::orders::drill::{DrillRun, DrillState};

/// Drill, running or ended.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct DrillView {
    /// Number of the drill.
    id: String,
    /// Name of the upstream.
    upstream: String,
    state: DrillStateView,
    /// Targets that count as down, such as `priority=0`.
    down: Vec<String>,
    /// Name of the client that began it, or `schedule`.
    author: String,
    /// Reason for the drill, if one was given.
    purpose: Option<String>,
    /// Time at which it began.
    started: String,
    /// Time at which it ends by itself.
    until: String,
    /// Time at which it ended; null while it runs.
    ended: Option<String>,
    abort_if: AbortView,
    /// Seconds until the traffic of an Envoy had moved, by node.
    shift_seconds: BTreeMap<String, f64>,
    /// Envoys whose traffic has not moved.
    not_shifted: Vec<String>,
    /// Requests to targets since it began.
    requests: u64,
    /// Requests that a target failed.
    errors: u64,
    /// Percentage of the requests by target, last seen.
    share: BTreeMap<String, f64>,
    /// Percentage of the requests by target, before it began.
    share_before: BTreeMap<String, f64>,
    latency_ms: LatencyView,
    /// Reason of the end, if it ended before its time.
    reason: Option<String>,
}

/// State of a drill.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum DrillStateView {
    /// The targets count as down.
    Running,
    /// It ran its full time.
    Done,
    /// It ended early.
    Aborted,
    /// The control plane restarted while it ran.
    Reverted,
}

/// Condition on which a drill is aborted.
#[derive(Debug, Serialize, JsonSchema)]
struct AbortView {
    /// Percentage of failed requests.
    error_rate: f64,
}

/// Mean duration of a try, in milliseconds.
#[derive(Debug, Serialize, JsonSchema)]
struct LatencyView {
    /// Duration in the minute or two before the drill began; null if unknown.
    before: Option<f64>,
    /// Duration since it began; null if unknown.
    during: Option<f64>,
}

impl DrillView {
    /// Returns the drill with this number.
    pub(crate) fn new(id: u64, drill: &DrillRun) -> Self {
        let waiting = drill.nodes.iter().filter(|node| !drill.shift_seconds.contains_key(*node));
        Self {
            id: id.to_string(),
            upstream: drill.upstream.to_string(),
            state: match drill.state {
                DrillState::Running => DrillStateView::Running,
                DrillState::Done => DrillStateView::Done,
                DrillState::Aborted => DrillStateView::Aborted,
                DrillState::Reverted => DrillStateView::Reverted,
            },
            down: drill.down.iter().map(ToString::to_string).collect(),
            author: drill.author.clone(),
            purpose: drill.purpose.clone(),
            started: drill.started.to_string(),
            until: drill.until.to_string(),
            ended: drill.ended.map(|at| at.to_string()),
            abort_if: AbortView { error_rate: drill.error_rate },
            shift_seconds: drill.shift_seconds.clone(),
            not_shifted: waiting.cloned().collect(),
            requests: drill.requests,
            errors: drill.errors,
            share: drill.share.clone(),
            share_before: drill.share_before.clone(),
            latency_ms: LatencyView { before: drill.latency_before, during: drill.latency },
            reason: drill.reason.clone(),
        }
    }
}

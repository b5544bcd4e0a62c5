//! Failovers that happened.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Serialize;

use crate::failover::history::FailoverRecord;

/// Period in which a standby served.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct FailoverView {
    /// Number of the failover.
    id: String,
    /// Name of the upstream.
    upstream: String,
    /// Time at which the first Envoy left the primaries.
    start: String,
    /// Time at which the last Envoy was back; null while the failover lasts.
    end: Option<String>,
    /// Cause: `health_check`, `outlier_detection`, `drained`, `drill`, `removed` or `pin`.
    cause: &'static str,
    /// Tier that served before.
    from: u32,
    /// Tier that served last.
    to: u32,
    /// Envoys that were served by a standby.
    nodes: BTreeSet<String>,
    /// Requests to targets while it lasted, retries included.
    requests: u64,
    /// Requests that a target failed.
    errors: u64,
}

impl FailoverView {
    /// Returns the failover with this number.
    pub(crate) fn new(id: u64, failover: &FailoverRecord) -> Self {
        Self {
            id: id.to_string(),
            upstream: failover.upstream.to_string(),
            start: failover.start.to_string(),
            end: failover.end.map(|at| at.to_string()),
            cause: failover.cause.word(),
            from: failover.from,
            to: failover.to,
            nodes: failover.nodes.clone(),
            requests: failover.requests,
            errors: failover.errors,
        }
    }
}

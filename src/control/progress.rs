//! Progress of the newest changes, as the API shows it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;

/// Progress of the newest changes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Progress {
    /// Newest revision that is in effect.
    pub live: u64,
    /// Revisions that were accepted and are not in effect yet.
    pub rolling_out: BTreeSet<u64>,
    /// Canaries of the first of these.
    pub canaries: Vec<CanaryProgress>,
    /// Start of the rollout.
    pub since: Option<Timestamp>,
    /// Change that was taken back last, until something newer is in effect.
    pub rejected: Option<Rejected>,
}

/// Change that was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rejected {
    /// Its revisions.
    pub revisions: Vec<u64>,
    /// Node ids of the Envoys that refused it.
    pub refused_by: Vec<String>,
    /// Their error text.
    pub error: String,
}

/// Progress of a fleet's canary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CanaryProgress {
    /// Fleet.
    pub fleet: String,
    /// Node id of the canary; none while one is being chosen.
    pub node: Option<String>,
    /// Phase: `choosing`, `asked`, `baking` or `passed`.
    pub phase: &'static str,
}

//! Shift of an upstream from one tier to another, as a load report shows it.

use jiff::Timestamp;

use crate::model::name::Name;

/// Change of the tier that serves an upstream at one Envoy.
#[derive(Debug, Clone, PartialEq)]
pub struct TierShift {
    /// Id of the node.
    pub node: String,
    /// Name of the upstream.
    pub upstream: Name,
    /// Tier that served before; none if unknown.
    pub from: Option<u32>,
    /// Tier that serves now; none if the node is gone.
    pub to: Option<u32>,
    /// Time of the report, or of the end of the node's stream if the node is gone.
    pub at: Timestamp,
    /// Number of requests that the first tier failed in this report and the one before it.
    pub errors: u64,
}

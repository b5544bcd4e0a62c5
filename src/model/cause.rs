//! Cause of a failover.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Cause of a failover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailoverCause {
    /// Health checks of the primaries failed.
    HealthCheck,
    /// Requests to the primaries failed, and outlier detection ejected them.
    OutlierDetection,
    /// An operator took the primaries out of rotation.
    Drained,
    /// A drill took a primary down.
    Drill,
    /// The first tier has no target with traffic.
    Removed,
    /// An operator pinned the standby.
    Pin,
}

impl FailoverCause {
    /// Returns the word of the cause in the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::HealthCheck => "health_check",
            Self::OutlierDetection => "outlier_detection",
            Self::Drained => "drained",
            Self::Drill => "drill",
            Self::Removed => "removed",
            Self::Pin => "pin",
        }
    }

    /// True if the primaries failed by themselves. Only then is a standby held.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::HealthCheck | Self::OutlierDetection)
    }
}

//! Reports of nodes about their load and about the targets that they checked.

use std::time::Duration;

use crate::envoy::checks::CheckResults;
use crate::envoy::loads::LoadReport;
use crate::envoy::node::Locality;

/// A message about the load of an Envoy, or about the targets that it checked for the control plane.
#[derive(Debug)]
pub enum NodeReport {
    /// Load that the Envoy sent to each cluster since its last report.
    Load {
        /// Node id.
        node: String,
        /// Content of the report.
        report: LoadReport,
    },
    /// Results of the health checks that the Envoy runs for the control plane.
    HealthChecks {
        /// Node id.
        node: String,
        /// Interval at which it reports them.
        interval: Duration,
        /// Health of the endpoints.
        findings: CheckResults,
    },
    /// Start of load reports.
    Joined {
        /// Node id.
        node: String,
        /// Locality of the Envoy.
        locality: Locality,
    },
    /// End of load reports.
    Left {
        /// Node id.
        node: String,
    },
}

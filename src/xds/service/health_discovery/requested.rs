//! Checks that an Envoy was asked for, and its results that count.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::envoy::checks::Findings;
use crate::xds::service::health_discovery::specifier::{ClusterCheck, checked_cluster};

/// Shortest interval at which an Envoy reports results.
const INTERVAL: Duration = Duration::from_secs(1);

/// Endpoints for which a report each second is affordable. The interval grows in proportion for more.
const ENDPOINTS: usize = 2_000;

/// Checks that an Envoy was asked for, and the time since which it runs each.
#[derive(Debug, Default)]
pub(super) struct RequestedChecks {
    /// Current checks; none before the first specifier, since the Envoy may still run checks of an earlier
    /// stream.
    checks: Option<Vec<Arc<ClusterCheck>>>,
    /// Check and its start time, by cluster.
    since: HashMap<Arc<str>, (Arc<ClusterCheck>, Instant)>,
}

impl RequestedChecks {
    /// Replaces the checks. Returns false if they did not change.
    pub(super) fn replace(&mut self, checks: Vec<Arc<ClusterCheck>>, now: Instant) -> bool {
        if self.checks.as_ref() == Some(&checks) {
            return false;
        }
        let before = std::mem::take(&mut self.since);
        let since = |check: &Arc<ClusterCheck>| {
            let before = before.get(&check.cluster).filter(|(before, _)| before == check);
            (check.cluster.clone(), (check.clone(), before.map_or(now, |(_, since)| *since)))
        };
        self.since = checks.iter().map(since).collect();
        self.checks = Some(checks);
        true
    }

    pub(super) fn checks(&self) -> &[Arc<ClusterCheck>] {
        self.checks.as_deref().unwrap_or_default()
    }

    pub(super) fn interval(&self) -> Duration {
        let endpoints: usize = self.checks().iter().map(|check| check.endpoints).sum();
        INTERVAL * u32::try_from(endpoints.div_ceil(ENDPOINTS).max(1)).unwrap_or(u32::MAX)
    }

    /// Returns the results that count, under the names of the clusters. Envoy reports an endpoint as
    /// unhealthy until its first check is done, so unhealthy results are dropped for as long as a first check
    /// may take.
    pub(super) fn reported(&self, findings: Findings, now: Instant) -> Findings {
        let clusters = findings.clusters.into_iter().filter_map(|mut cluster| {
            let (check, since) = self.since.get(checked_cluster(&cluster.name))?;
            let is_known = now.duration_since(*since) >= check.timeout + INTERVAL;
            cluster.endpoints.retain(|(_, is_healthy)| *is_healthy || is_known);
            check.cluster.as_ref().clone_into(&mut cluster.name);
            Some(cluster)
        });
        Findings { clusters: clusters.collect() }
    }
}

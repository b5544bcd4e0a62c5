//! View of the traffic at one time, by the newest config.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::build::Build;
use crate::failover::history::History;
use crate::failover::round::rounded;
use crate::failover::traffic::Traffic;
use crate::failover::traffic::summary::Summary;
use crate::model::target::Target;
use crate::model::upstream::Upstream;

/// View of the traffic at one time, by the newest config.
#[derive(Clone, Copy)]
pub(super) struct TrafficView<'a> {
    /// Newest config.
    pub(super) build: &'a Build,
    pub(super) traffic: &'a Traffic,
    pub(super) now: Timestamp,
}

impl TrafficView<'_> {
    /// Returns the summary of an upstream.
    pub(super) fn summary(&self, upstream: &Upstream) -> Summary {
        self.traffic.summary(upstream, self.build, self.now)
    }

    /// Returns the summary without node names, which takes a fraction of the time.
    pub(super) fn summary_without_nodes(&self, upstream: &Upstream) -> Summary {
        self.traffic.summary_without_nodes(upstream, self.build, self.now)
    }

    /// Returns the health of a target by recent observations; none if unknown.
    pub(super) fn is_healthy(&self, upstream: &Upstream, target: &Target) -> Option<bool> {
        let summary = self.summary_without_nodes(upstream);
        let target = summary.targets.get(&target.address)?;
        target.is_healthy.filter(|_| !target.is_stale)
    }

    /// Returns the declared tier that serves at most Envoys. With locality failover, where Envoys count tiers
    /// differently, it is the declared tier with the most requests.
    pub(super) fn serving_tier(&self, history: &History, upstream: &Upstream) -> Option<u32> {
        if upstream.failover.locality {
            self.summary_without_nodes(upstream).busiest_tier(upstream)
        } else {
            history.serving(&upstream.name)
        }
    }
}

/// Returns the percentage of the requests by target; empty if no Envoy sent requests recently.
pub(super) fn shares(summary: &Summary) -> BTreeMap<String, f64> {
    if summary.is_stale {
        return BTreeMap::new();
    }
    summary.targets.iter().map(|(address, target)| (address.to_string(), rounded(target.share))).collect()
}

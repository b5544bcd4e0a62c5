//! Loads of one upstream in one report, and the tier that serves by them.

use std::collections::BTreeMap;

use crate::config::document::upstream::FailoverMode;
use crate::envoy::load_totals::LoadTotals;
use crate::model::upstream::Upstream;

/// Percentage of the answered requests from which a standby counts as serving. A smaller share is retries.
const SERVING_PERCENT: u64 = 30;

/// Load of one endpoint in a report.
#[derive(Debug, Clone, Copy)]
pub(super) struct TargetLoad {
    /// Number of the endpoint.
    pub(super) number: u16,
    /// Tier, as the reporting Envoy counts tiers.
    pub(super) tier: u32,
    pub(super) success: u64,
    pub(super) errors: u64,
}

/// Interval of a report.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interval {
    pub(super) seconds: f32,
    /// Requests in progress at its end.
    pub(super) in_progress: u64,
}

/// Returns the sums of the loads of one interval.
pub(super) fn totals(loads: &[TargetLoad], interval: Interval) -> LoadTotals {
    let errors = loads.iter().fold(0, |sum: u64, load| sum.saturating_add(load.errors));
    let requests = loads.iter().fold(errors, |sum, load| sum.saturating_add(load.success));
    LoadTotals::of_report(requests, errors, interval.in_progress, interval.seconds)
}

/// Returns the tier that serves, by answered requests. In standby mode it is the last tier with at least
/// [`SERVING_PERCENT`] percent of them, in spill mode the tier with the most. None if no tier qualifies.
pub(super) fn serving_tier(upstream: &Upstream, loads: &[TargetLoad]) -> Option<u32> {
    let mut tiers: BTreeMap<u32, u64> = BTreeMap::new();
    for load in loads.iter().filter(|load| load.success > 0) {
        *tiers.entry(load.tier).or_default() += load.success;
    }
    let all: u64 = tiers.values().sum();
    match upstream.failover.mode {
        FailoverMode::Standby => tiers
            .iter()
            .rev()
            .find(|(_, count)| **count * 100 >= all * SERVING_PERCENT)
            .map(|(tier, _)| *tier),
        FailoverMode::Spill => {
            tiers.iter().max_by_key(|(tier, count)| (**count, u32::MAX - **tier)).map(|(tier, _)| *tier)
        }
    }
}

/// Splits a cluster name into the upstream and the number of its cluster, if the upstream has several.
pub(super) fn split_cluster_name(cluster: &str) -> (&str, Option<u32>) {
    match cluster.split_once("/p") {
        Some((upstream, number)) => (upstream, number.parse().ok()),
        None => (cluster, None),
    }
}

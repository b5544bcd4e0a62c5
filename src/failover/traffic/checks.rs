//! Results of the health checks that Envoys run for the control plane (HDS); they also cover targets without
//! traffic.

use std::collections::HashMap;
use std::sync::Arc;

/// Check results of all Envoys, by node.
#[derive(Debug, Default)]
pub(super) struct TargetChecks {
    nodes: HashMap<Arc<str>, NodeCheckResults>,
}

/// Newest check results of one Envoy.
#[derive(Debug)]
pub(super) struct NodeCheckResults {
    /// Time of arrival, in seconds since the epoch.
    pub(super) at: u32,
    /// Interval of its results, in seconds.
    pub(super) interval: f32,
    /// Endpoints by the number of the upstream, sorted by endpoint number.
    upstreams: HashMap<u32, Vec<CheckResult>>,
}

/// Check result of one endpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct CheckResult {
    /// Number of the endpoint.
    pub(super) number: u16,
    pub(super) is_healthy: bool,
    /// Time since which the health is the same, in seconds since the epoch.
    pub(super) since: u32,
}

impl TargetChecks {
    /// Replaces the results of a node. `results` has the number and health of each endpoint, by the number of
    /// its upstream. An endpoint whose health did not change keeps its `since`.
    pub(super) fn replace(
        &mut self,
        node: &str,
        at: u32,
        interval: f32,
        results: HashMap<u32, Vec<(u16, bool)>>,
    ) {
        let (node, before) = self
            .nodes
            .remove_entry(node)
            .map_or_else(|| (node.into(), HashMap::new()), |(node, before)| (node, before.upstreams));
        let upstreams = results.into_iter().map(|(upstream, mut endpoints)| {
            endpoints.sort_unstable_by_key(|(number, _)| *number);
            let before = before.get(&upstream).map(Vec::as_slice).unwrap_or_default();
            let checked = |(number, is_healthy)| {
                let known = before.binary_search_by_key(&number, |known| known.number).ok();
                let known =
                    known.map(|position| before[position]).filter(|known| known.is_healthy == is_healthy);
                CheckResult { number, is_healthy, since: known.map_or(at, |known| known.since) }
            };
            (upstream, endpoints.into_iter().map(checked).collect())
        });
        let upstreams = upstreams.collect();
        self.nodes.insert(node, NodeCheckResults { at, interval, upstreams });
    }

    /// Returns the results for an upstream, by node.
    pub(super) fn of_upstream(
        &self,
        upstream: u32,
    ) -> HashMap<&Arc<str>, (&NodeCheckResults, &[CheckResult])> {
        let nodes = self.nodes.iter();
        nodes
            .filter_map(|(node, checks)| Some((node, (checks, checks.upstreams.get(&upstream)?.as_slice()))))
            .collect()
    }

    /// Drops results that arrived before `oldest`, in seconds since the epoch.
    pub(super) fn drop_before(&mut self, oldest: u32) {
        self.nodes.retain(|_, checks| checks.at >= oldest);
    }

    /// Drops the results of these endpoints of an upstream.
    pub(super) fn remove_endpoints(&mut self, upstream: u32, removed: &[u32]) {
        for checks in self.nodes.values_mut() {
            if let Some(endpoints) = checks.upstreams.get_mut(&upstream) {
                endpoints.retain(|checked| !removed.contains(&u32::from(checked.number)));
            }
        }
    }
}

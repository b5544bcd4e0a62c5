//! Ingestion of reports: loads, and results of health checks.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::Timestamp;

use super::inference::infer_health;
use super::load::{Interval, TargetLoad, serving_tier, split_cluster_name, totals};
use super::node::{NodeTraffic, seconds_since_epoch};
use super::observations::Observations;
use super::shift::TierShift;
use super::upstream::{ResolvedUpstream, UpstreamTraffic};
use crate::build::Build;
use crate::envoy::checks::CheckResults;
use crate::envoy::loads::LoadReport;

impl Observations {
    /// Ingests a load report. Clusters that are not in `build` are ignored.
    pub(super) fn ingest_loads(
        &mut self,
        node: &str,
        at: Timestamp,
        report: &LoadReport,
        build: &Build,
    ) -> Vec<TierShift> {
        let (node, mut traffic) = self.take_node(node);
        (traffic.is_connected, traffic.last) = (true, at.as_millisecond());
        traffic.interval =
            report.clusters().map(|it| it.seconds).reduce(f32::max).unwrap_or(traffic.interval);
        let (mut shifts, mut loads) = (Vec::new(), Vec::new());
        // Clusters of an aggregate are ingested as one upstream.
        let mut aggregates: BTreeMap<&str, (Interval, Vec<TargetLoad>)> = BTreeMap::new();
        for cluster in report.clusters() {
            let (name, number) = split_cluster_name(cluster.name);
            let Some(resolved) = ResolvedUpstream::find(name, build) else { continue };
            let ranks = resolved.upstream.ranks(traffic.locality.as_deref());
            let upstream = self.upstream(resolved);
            let interval = Interval { seconds: cluster.seconds, in_progress: cluster.in_progress };
            let located =
                cluster.loads.iter().filter_map(|load| upstream.locate(load, (resolved, &ranks), number));
            if number.is_some() {
                let (total, loads) =
                    aggregates.entry(name).or_insert((Interval { in_progress: 0, ..interval }, Vec::new()));
                total.in_progress = total.in_progress.saturating_add(interval.in_progress);
                loads.extend(located);
            } else {
                loads.clear();
                loads.extend(located);
                shifts.extend(upstream.ingest((&node, &mut traffic), at, resolved, interval, &mut loads));
            }
        }
        for (name, (interval, mut loads)) in aggregates {
            let Some(resolved) = ResolvedUpstream::find(name, build) else { continue };
            let upstream = self.upstream(resolved);
            shifts.extend(upstream.ingest((&node, &mut traffic), at, resolved, interval, &mut loads));
        }
        traffic.compact();
        self.nodes.insert(node, traffic);
        shifts
    }

    /// Ingests the health check results of a node, which it sends every `interval`. Clusters that are not in
    /// `build` are ignored.
    pub(super) fn ingest_checks(
        &mut self,
        node: &str,
        at: Timestamp,
        interval: Duration,
        findings: CheckResults,
        build: &Build,
    ) {
        let mut results: HashMap<u32, Vec<(u16, bool)>> = HashMap::new();
        for cluster in findings.clusters {
            let (name, _) = split_cluster_name(&cluster.name);
            let Some(resolved) = ResolvedUpstream::find(name, build) else { continue };
            let upstream = self.upstream(resolved);
            let number = upstream.number;
            let numbered = cluster.endpoints.into_iter().filter_map(|(socket, is_healthy)| {
                let (number, _) = upstream.find(socket, resolved, false)?;
                Some((u16::try_from(number).ok()?, is_healthy))
            });
            results.entry(number).or_default().extend(numbered);
        }
        self.checks.replace(node, seconds_since_epoch(at), interval.as_secs_f32(), results);
    }
}

impl UpstreamTraffic {
    /// Ingests the loads of the upstream in a report. Returns the shift of the serving tier, if it changed.
    fn ingest(
        &mut self,
        (node, traffic): (&str, &mut NodeTraffic),
        at: Timestamp,
        resolved: ResolvedUpstream<'_>,
        interval: Interval,
        loads: &mut [TargetLoad],
    ) -> Option<TierShift> {
        if loads.is_empty() {
            return None;
        }
        loads.sort_unstable_by_key(|load| load.number);
        self.counters.add(at, totals(loads, interval));
        let ranks = resolved.upstream.ranks(traffic.locality.as_deref());
        let (observation, endpoints) = traffic.entry(self.number, at.as_millisecond());
        let from = observation.serving.map(u32::from);
        let serving = serving_tier(resolved.upstream, loads);
        observation.record(endpoints, at, serving, interval.seconds, loads);
        infer_health((observation, endpoints), self, (resolved, &ranks), loads);
        let failed: u64 = loads.iter().filter(|load| load.tier == 0).map(|load| load.errors).sum();
        let before = std::mem::replace(&mut observation.errors, u32::try_from(failed).unwrap_or(u32::MAX));
        let (to, errors) = (observation.serving.map(u32::from), failed.saturating_add(u64::from(before)));
        let upstream = || resolved.upstream.name.clone();
        (to != from).then(|| TierShift { node: node.to_owned(), upstream: upstream(), from, to, at, errors })
    }
}

//! Supervision of running drills: requests and errors since they began, and the Envoys whose traffic moved.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::view::{TrafficView, shares};
use crate::envoy::load_totals::LoadTotals;
use crate::failover::orders::Orders;
use crate::failover::orders::drill::{DrillObservations, DrillRun};
use crate::failover::round::rounded;
use crate::failover::traffic::shift::TierShift;
use crate::model::target::Address;
use crate::model::upstream::Upstream;

/// Counters of the upstream at the beginning of each drill, by number of the drill.
#[derive(Debug, Default)]
pub(super) struct DrillBaselines {
    totals: BTreeMap<u64, LoadTotals>,
}

impl DrillBaselines {
    /// Records the state before each drill that is not in `before`: the counters, the Envoys that send
    /// traffic, the shares and the latency.
    pub(super) fn record(&mut self, orders: &mut Orders, before: &Orders, view: TrafficView<'_>) {
        let new = orders.drills.iter_mut().filter(|(id, _)| !before.drills.contains_key(id));
        for (id, drill) in new {
            self.totals.insert(*id, view.traffic.totals(&drill.upstream));
            let Some(upstream) = view.build.model.upstreams.get(&drill.upstream) else { continue };
            let summary = view.summary(upstream);
            let fresh = summary.nodes.iter().filter(|(_, node)| !node.is_stale);
            drill.nodes = fresh.map(|(node, _)| node.to_string()).collect();
            drill.share_before = shares(&summary);
            let recent = view.traffic.recent(&drill.upstream, drill.started);
            drill.latency_before = recent.latency().map(rounded);
        }
    }

    /// Updates the running drills, and ends those that failed or whose time is over.
    pub(super) fn update(&self, orders: &mut Orders, view: TrafficView<'_>) {
        for (id, drill) in orders.drills.iter_mut().filter(|(_, drill)| drill.is_running()) {
            let Some(upstream) = view.build.model.upstreams.get(&drill.upstream) else {
                drill.abort(view.now, "the upstream is gone".to_owned());
                continue;
            };
            for node in shifted_nodes(view, upstream, drill) {
                drill.record_shift(&node, view.now);
            }
            let before = self.totals.get(id).copied().unwrap_or_default();
            let totals = view.traffic.totals(&drill.upstream).since(before);
            let observations = DrillObservations {
                requests: totals.requests,
                errors: totals.errors,
                share: shares(&view.summary_without_nodes(upstream)),
                latency: totals.latency().map(rounded),
            };
            drill.observe(view.now, observations);
        }
    }
}

/// Records a shift in the running drill of the upstream, or aborts the drill if the standby failed.
pub(super) fn record_shift(orders: &mut Orders, upstream: &Upstream, shift: &TierShift, now: Timestamp) {
    let Some(id) = orders.drill_of(&upstream.name).map(|(id, _)| id).filter(|_| shift.from.is_some()) else {
        return;
    };
    let Some(drill) = orders.drills.get_mut(&id) else { return };
    match shift.to {
        // Until its traffic had moved, the Envoy was still served by the targets that the drill takes down.
        Some(tier) if drill.has_shifted(&shift.node) && drill.takes_down(upstream, tier) => {
            drill.abort(now, "what stood in for it failed: requests go to what is down".to_owned());
        }
        _ => drill.record_shift(&shift.node, shift.at),
    }
}

/// Returns the Envoys that sent requests since a drill began, and recently none to the targets it takes
/// down.
fn shifted_nodes(view: TrafficView<'_>, upstream: &Upstream, drill: &DrillRun) -> Vec<String> {
    if drill.nodes.iter().all(|node| drill.has_shifted(node)) {
        return Vec::new();
    }
    let summary = view.summary(upstream);
    let is_drilled = |address: &Address| {
        let mut targets = upstream.targets.iter().filter(|target| target.address == *address);
        targets.any(|target| drill.includes(target))
    };
    let nodes = drill.nodes.iter().filter_map(|name| Some((name, summary.nodes.get(name.as_str())?)));
    let shifted = nodes.filter(|(_, node)| {
        let sent = |to_drilled: bool| {
            let targets = node.targets.iter().filter(|(address, _)| is_drilled(address) == to_drilled);
            targets.map(|(_, target)| target.requests_per_second).sum::<f64>()
        };
        node.last > drill.started && sent(true) == 0.0 && sent(false) > 0.0
    });
    shifted.map(|(name, _)| name.clone()).collect()
}

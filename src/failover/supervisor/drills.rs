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

/// Records in each drill that is not in `before` the state before it: the Envoys that send traffic, the shares
/// and the latency. Returns the counters of its upstream, by number of the drill.
pub(super) fn record_baselines(
    orders: &mut Orders,
    before: &Orders,
    view: TrafficView<'_>,
) -> BTreeMap<u64, LoadTotals> {
    let new = orders.drills.iter_mut().filter(|(id, _)| !before.drills.contains_key(id));
    let record = |(id, drill): (&u64, &mut DrillRun)| {
        let totals = view.traffic.totals(&drill.upstream);
        if let Some(upstream) = view.build.model.upstreams.get(&drill.upstream) {
            let summary = view.summary(upstream);
            let fresh = summary.nodes.iter().filter(|(_, node)| !node.is_stale);
            drill.nodes = fresh.map(|(node, _)| node.to_string()).collect();
            drill.share_before = shares(&summary);
            let recent = view.traffic.recent(&drill.upstream, drill.started);
            drill.latency_before = recent.latency().map(rounded);
        }
        (*id, totals)
    };
    new.map(record).collect()
}

impl DrillBaselines {
    /// Keeps the counters of drills that are in force.
    pub(super) fn keep(&mut self, begun: BTreeMap<u64, LoadTotals>) {
        self.totals.extend(begun);
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

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::address::Address as AnyAddress;
    use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
    use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress};
    use envoy_types::pb::envoy::config::endpoint::v3::{
        ClusterStats, UpstreamEndpointStats, UpstreamLocalityStats,
    };
    use envoy_types::pb::envoy::service::load_stats::v3::LoadStatsRequest;
    use prost::Message as _;

    use super::*;
    use crate::build::{Inputs, build};
    use crate::envoy::loads::LoadReport;
    use crate::failover::ledger::order_records;
    use crate::failover::orders::time::WallClock;
    use crate::failover::traffic::Traffic;
    use crate::model::name::Name;
    use crate::model::selector::TargetSelector;

    /// Load report of 100 requests to the target of `shop`.
    fn report() -> LoadReport {
        let socket = SocketAddress {
            address: "10.0.0.1".into(),
            port_specifier: Some(PortSpecifier::PortValue(80)),
            ..SocketAddress::default()
        };
        let endpoint = UpstreamEndpointStats {
            address: Some(Address { address: Some(AnyAddress::SocketAddress(socket)) }),
            total_successful_requests: 100,
            ..UpstreamEndpointStats::default()
        };
        let locality = UpstreamLocalityStats {
            upstream_endpoint_stats: vec![endpoint],
            ..UpstreamLocalityStats::default()
        };
        let cluster = ClusterStats {
            cluster_name: "shop".into(),
            upstream_locality_stats: vec![locality],
            ..ClusterStats::default()
        };
        let request = LoadStatsRequest { cluster_stats: vec![cluster], ..LoadStatsRequest::default() };
        LoadReport::read(&request.encode_to_vec(), |_| true).expect("it is one")
    }

    #[test]
    fn what_was_before_a_drill_is_stored_with_its_beginning() {
        let at = |second| Timestamp::from_second(second).expect("within the calendar");
        let text = "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }] }]";
        let files = imbl::OrdMap::unit("a.yaml".to_owned(), text.into());
        let build = build(&Inputs { files, ..Inputs::default() }, None).expect("it builds");
        let traffic = Traffic::default();
        traffic.ingest("edge-1", at(9), &report(), &build);
        let (before, mut orders) = (Orders::default(), Orders::default());
        let (shop, down) = (Name::parse("shop").expect("a name"), vec![TargetSelector::Priority(0)]);
        orders.drills.insert(1, DrillRun::begin(shop, down, at(10), at(70), 1.0, "ann".to_owned()));
        let view = TrafficView { build: &build, traffic: &traffic, now: at(10) };
        let totals = record_baselines(&mut orders, &before, view);
        assert_eq!(totals[&1].requests, 100);
        let records = order_records(&before, &orders, WallClock::started_at(at(0)));
        let stored = records[0].value.as_ref().expect("it is stored");
        assert_eq!(stored["nodes"], serde_json::json!(["edge-1"]), "{stored}");
        assert_eq!(stored["share_before"]["10.0.0.1:80"], 100.0, "{stored}");
        assert!(record_baselines(&mut orders.clone(), &orders, view).is_empty(), "once");
    }
}
